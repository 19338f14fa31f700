package release

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/storage/driver"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
)

// told gives objects as "ConfigMap/ns/web hello", in their order.
func told(objects []delivery.Object, ns string) string {
	var out []string
	for _, o := range objects {
		msg, _, _ := unstructured.NestedString(o.Object, "data", "msg")
		out = append(out, strings.TrimSpace(strings.ReplaceAll(o.Ref().String(), ns, "NS")+" "+msg))
	}
	return strings.Join(out, ", ")
}

// TestKept: what a release has, and what it would have after a rollback, is what Helm's storage keeps of both versions. Nothing is written for it.
func TestKept(t *testing.T) {
	w := newWorld(t)
	more := map[string]string{
		"templates/cm.yaml":  configMap,
		"templates/old.yaml": "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {{ .Release.Name }}\nstringData:\n  a: b\n",
		"templates/hook.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}-hook\n  annotations: {helm.sh/hook: pre-upgrade}\n" +
			"data: {msg: hook}\n",
	}
	r := w.release("web", files("1.0.0", more))
	r.settle()
	r.values = map[string]any{"msg": "bye"}
	r.wants(files("1.1.0", map[string]string{"templates/cm.yaml": configMap, "templates/new.yaml": "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: {{ .Release.Name }}\n  namespace: {{ .Release.Namespace }}\n"}))
	r.settle()
	if got := w.history("web"); len(got) != 2 {
		t.Fatalf("the storage has %q", got)
	}
	r.settle() // what is known of the storage is known
	w.asked()

	for _, test := range []struct {
		version   int
		was, will string
	}{
		{1, "ServiceAccount/NS/web, ConfigMap/NS/web bye", "Secret/NS/web, ConfigMap/NS/web hello"},
		{2, "ServiceAccount/NS/web, ConfigMap/NS/web bye", "ServiceAccount/NS/web, ConfigMap/NS/web bye"},
	} {
		kept, err := w.engine.Kept(w.ctx, r.app, test.version)
		if err != nil {
			t.Fatal(err)
		}
		if was, will := told(kept.Was, w.ns), told(kept.Will, w.ns); kept.Version != 2 || was != test.was || will != test.will || len(kept.Hooks) != 0 {
			t.Errorf("version %d: of %d: it has\n%s, and would have\n%s; want\n%s\n%s", test.version, kept.Version, was, will, test.was, test.will)
		}
	}
	for _, request := range w.asked() {
		if !strings.HasPrefix(request, "GET ") {
			t.Errorf("it was asked for %s", request)
		}
	}

	// A version that is not kept, and a release that there is not.
	if _, err := w.engine.Kept(w.ctx, r.app, 7); !errors.Is(err, driver.ErrReleaseNotFound) || !strings.Contains(err.Error(), fmt.Sprintf("read version 7 of release %s/web", w.ns)) {
		t.Errorf("version 7: %v", err)
	}
	if _, err := w.engine.Kept(w.ctx, w.release("nobody", files("1.0.0", more)).app, 1); !errors.Is(err, driver.ErrReleaseNotFound) {
		t.Errorf("a release that there is not: %v", err)
	}

	// After a rollback the newest version is the one that it has made, of the chart that was there before.
	back := r.rollBack(1)
	if back.Version != 3 || back.Description != "Rollback to 1" {
		t.Errorf("the rollback has made %+v", back)
	}
	kept, err := w.engine.Kept(w.ctx, r.app, 2)
	if err != nil {
		t.Fatal(err)
	}
	if was, will := told(kept.Was, w.ns), told(kept.Will, w.ns); kept.Version != 3 || was != "Secret/NS/web, ConfigMap/NS/web hello" || will != "ServiceAccount/NS/web, ConfigMap/NS/web bye" {
		t.Errorf("rolled back it has %d:\n%s, and would have\n%s", kept.Version, was, will)
	}

	// What cannot be read any more is said, not taken for empty.
	secret := w.get("v1", "secrets", "sh.helm.release.v1.web.v1")
	if err := unstructured.SetNestedField(secret.Object, "bm90IGEgcmVsZWFzZQ==", "data", "release"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.resource("v1", "secrets", w.ns).Update(w.ctx, secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if kept, err := w.engine.Kept(w.ctx, r.app, 1); err == nil {
		t.Errorf("a version that cannot be read: %+v", kept)
	}
}

// rollBack is what a person's rollback does, and gives the version that it has made.
func (r *release) rollBack(to int) delivery.StoredRelease {
	r.Helper()
	if _, err := r.engine.Act(r.ctx, Request{Want: Want{App: r.app}}, Decision{Action: Rollback, Target: TargetOf(r.app), Version: to, Record: r.record}); err != nil {
		r.Fatal(err)
	}
	seen, err := r.engine.Observe(r.ctx, r.app, r.record)
	if err != nil {
		r.Fatal(err)
	}
	return *seen.Latest
}

// TestOneNamespace: an engine of one namespace needs no right to see the releases of any other one.
func TestOneNamespace(t *testing.T) {
	w := newWorld(t)
	r := w.release("web", files("1.0.0", map[string]string{"templates/cm.yaml": configMap}))
	r.settle()
	r.wants(files("1.1.0", map[string]string{"templates/cm.yaml": configMap}))
	r.values = map[string]any{"msg": "bye"}
	r.settle()
	name := "nora-" + w.ns
	_, err := w.resource("rbac.authorization.k8s.io/v1", "rolebindings", w.ns).Create(w.ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": map[string]any{"name": "nora"},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
		"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := w.kube.Config()
	config.Impersonate.UserName = name
	theirs, err := kube.NewCluster(config)
	if err != nil {
		t.Fatal(err)
	}
	engine := func(namespace string) *Engine {
		ctx, cancel := context.WithCancel(w.ctx)
		t.Cleanup(cancel)
		e, err := New(ctx, theirs, Options{Namespace: namespace})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	if _, err := engine("").Kept(w.ctx, r.app, 1); err == nil || !strings.Contains(err.Error(), "at the cluster scope") {
		t.Errorf("of all namespaces: %v", err)
	}
	r.engine = engine(w.ns)
	w.eventually("the right counts", func() bool {
		_, err := r.engine.Kept(w.ctx, r.app, 1)
		return err == nil
	})
	if made := r.rollBack(1); made.Version != 3 {
		t.Errorf("the rollback has made %+v", made)
	}
	if got := w.history("web"); !slices.Equal(got, []string{"1 superseded Install complete", "2 superseded Upgrade complete", "3 deployed Rollback to 1"}) {
		t.Errorf("helm history: %q", got)
	}
}
