package controller_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/test/testcluster"
)

// text is a log that is written and read at once.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *text) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}

func (t *text) take() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.b.Reset()
	return t.b.String()
}

// TestKindsThatTheClusterLacks: a controller starts in a cluster that has but Git repositories and Kustomizations, says what it does not
// serve, and serves these; what has come since is served after the next start, where what still lacks is named by what needs it.
func TestKindsThatTheClusterLacks(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	dir, log := t.TempDir(), &text{}
	bare, err := testcluster.Start(t.Context(), filepath.Join(dir, "cluster"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(bare.Stop)
	c, err := client.New(bare.Config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	install := func(name, list string) {
		t.Helper()
		if err := installCRD(c, name); err != nil {
			t.Fatal(err)
		}
		if err := served(c, list); err != nil {
			t.Fatal(err)
		}
	}
	install("source.toolkit.fluxcd.io_gitrepositories", "source.toolkit.fluxcd.io/v1 GitRepositoryList")
	install("kustomize.toolkit.fluxcd.io_kustomizations", "kustomize.toolkit.fluxcd.io/v1 KustomizationList")
	in, err := newInstanceIn(dir, bare, log)
	if err != nil {
		t.Fatalf("start: %v\n%s", err, log.take())
	}
	said := log.take()
	for _, kind := range []string{"OCIRepository", "HelmRepository", "HelmReleases", "Receiver"} {
		if !strings.Contains(said, kind) {
			t.Errorf("it does not say that %s are not served:\n%s", kind, said)
		}
	}
	apply := func(text string) {
		t.Helper()
		for _, u := range objects(text) {
			if err := in.client.Patch(t.Context(), u, client.Apply, client.FieldOwner("test"), client.ForceOwnership); err != nil { //nolint:staticcheck // as elsewhere
				t.Fatal(err)
			}
		}
	}
	says := func(obj client.Object, conditions func() []metav1.Condition, parts ...string) {
		t.Helper()
		var last string
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
			if err := in.client.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
				t.Fatal(err)
			}
			ready := apimeta.FindStatusCondition(conditions(), "Ready")
			if last = fmt.Sprint(ready); ready != nil && func() bool {
				for _, part := range parts {
					if !strings.Contains(last, part) {
						return false
					}
				}
				return true
			}() {
				return
			}
		}
		t.Errorf("%s says %s, want %q", obj.GetName(), last, parts)
	}
	apply(`
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: app, namespace: default}
spec: {interval: 1h, prune: true, sourceRef: {kind: OCIRepository, name: none}}
`)
	k := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app"}}
	says(k, func() []metav1.Condition { return k.Status.Conditions }, "OCIRepository/default/none cannot be: the cluster lacks the kind", "config/crd")
	install("helm.toolkit.fluxcd.io_helmreleases", "helm.toolkit.fluxcd.io/v2 HelmReleaseList")
	in.close()
	if in, err = newInstanceIn(dir, bare, log); err != nil {
		t.Fatal(err)
	}
	defer in.close()
	if said := log.take(); strings.Contains(said, "HelmReleases") {
		t.Errorf("after the next start:\n%s", said)
	}
	apply(`
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: web, namespace: default}
spec: {interval: 1h, chart: {spec: {chart: web, sourceRef: {kind: HelmRepository, name: charts}}}}
`)
	hr := &helmv2.HelmRelease{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
	says(hr, func() []metav1.Condition { return hr.Status.Conditions }, "HelmRepository/default/charts cannot be: the cluster lacks the kind", "config/crd")
}
