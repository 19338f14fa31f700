package controller_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-containerregistry/pkg/registry"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// chartRepo is a Helm repository over HTTP, with charts of chartOf.
type chartRepo struct {
	*httptest.Server
	mu       sync.Mutex
	versions []string          // of the chart "web"
	archives map[string][]byte // by version; nil: that of chartOf
	index    string            // in place of the real one
	password string            // of the user "bob"; empty: everybody may read
	slow     time.Duration     // how long the index takes
	asked    map[string]int
}

func newChartRepo(t *testing.T, versions ...string) *chartRepo {
	r := &chartRepo{versions: versions, archives: map[string][]byte{}, asked: map[string]int{}}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *chartRepo) archive(version string) []byte {
	if data := r.archives[version]; data != nil {
		return data
	}
	return chartOf("web", version)
}

// indexText is the index as it is now.
func (r *chartRepo) indexText() string {
	if r.index != "" {
		return r.index
	}
	text := "apiVersion: v1\nentries:\n  web:\n"
	for _, v := range r.versions {
		text += fmt.Sprintf("  - name: web\n    version: %s\n    digest: %x\n    urls: [web-%s.tgz]\n", v, sha256.Sum256(r.archive(v)), v)
	}
	return text
}

// revision is that of the index as it is now.
func (r *chartRepo) revision() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(r.indexText())))
}

func (r *chartRepo) change(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *chartRepo) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if user, password, _ := req.BasicAuth(); r.password != "" && (user != "bob" || password != r.password) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	r.asked[req.URL.Path]++
	version := strings.TrimSuffix(strings.TrimPrefix(req.URL.Path, "/web-"), ".tgz")
	switch {
	case req.URL.Path == "/index.yaml":
		time.Sleep(r.slow)
		io.WriteString(w, r.indexText())
	case strings.HasSuffix(req.URL.Path, ".tgz"):
		w.Write(r.archive(version))
	default:
		http.NotFound(w, req)
	}
}

// request asks for a reconciliation with the field's own annotation, and gives what was asked.
func (w *world) request(obj client.Object, name string) string {
	w.Helper()
	at := time.Now().Format(time.RFC3339Nano)
	obj.SetName(name)
	obj.SetNamespace(w.ns)
	patch := fmt.Sprintf(`{"metadata":{"annotations":{"reconcile.fluxcd.io/requestedAt":%q}}}`, at)
	w.must(w.client.Patch(w.ctx, obj, client.RawPatch("application/merge-patch+json", []byte(patch))))
	return at
}

func (w *world) helmRepository(name, url, extra string) {
	w.Helper()
	w.apply(fmt.Sprintf("apiVersion: source.toolkit.fluxcd.io/v1\nkind: HelmRepository\nmetadata: {name: %s}\nspec:\n  interval: 1h\n  url: %s\n%s", name, url, extra))
}

// helmChart declares a HelmChart of the chart "web"; extra are further lines of its spec.
func (w *world) helmChart(name, repo, version, extra string) {
	w.Helper()
	w.apply(fmt.Sprintf(`
apiVersion: source.toolkit.fluxcd.io/v1
kind: HelmChart
metadata: {name: %s}
spec:
  interval: 1h
  chart: web
  version: %q
  sourceRef: {kind: HelmRepository, name: %s}
%s`, name, version, repo, extra))
}

func (w *world) chart(name string) *sourcev1.HelmChart {
	return &sourcev1.HelmChart{ObjectMeta: w.named(name)}
}

// TestHelmRepository: the index of a Helm repository is followed, and the charts that are declared of it follow its versions.
func TestHelmRepository(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	repo := newChartRepo(t, "1.2.0", "1.1.0", "2.0.0-rc.1")
	w.helmChart("web", "charts", "1.x", "")
	w.conditionOf(w.chart("web"), metav1.ConditionFalse, "SourceUnavailable", "HelmRepository/"+w.ns+"/charts does not exist")
	w.helmRepository("charts", repo.URL, "")
	h := &sourcev1.HelmRepository{ObjectMeta: w.named("charts")}
	w.conditionOf(h, metav1.ConditionTrue, "Succeeded", "stored artifact: revision '"+repo.revision()+"'")
	if a := h.Status.Artifact; a == nil || a.Revision != repo.revision() || a.Digest != repo.revision() || h.Status.ObservedGeneration != h.Generation || h.Status.URL != repo.URL {
		t.Errorf("status %+v", h.Status)
	}
	w.event("charts", "NewArtifact")
	c := w.chart("web")
	w.conditionOf(c, metav1.ConditionTrue, "ChartPullSucceeded", "pulled 'web' chart with version '1.2.0'")
	if s := c.Status; s.Artifact.Revision != "1.2.0" || s.ObservedChartName != "web" || s.ObservedSourceArtifactRevision != repo.revision() || s.Artifact.URL != repo.URL {
		t.Errorf("status %+v", s)
	}

	// A chart of another one is found in the index that is here already.
	w.helmChart("old", "charts", "1.1.0", "")
	w.conditionOf(w.chart("old"), metav1.ConditionTrue, "ChartPullSucceeded", "version '1.1.0'")
	repo.change(func() {
		if n := repo.asked["/index.yaml"]; n != 1 {
			t.Errorf("the index was asked for %d times", n)
		}
		repo.versions = append(repo.versions, "1.3.0")
		repo.slow = 500 * time.Millisecond // what took long is asked again later; not where somebody wants to know
	})
	at := w.request(&sourcev1.HelmRepository{}, "charts")
	w.eventually("the new version", func() error {
		w.must(w.client.Get(w.ctx, client.ObjectKeyFromObject(c), c))
		w.must(w.client.Get(w.ctx, client.ObjectKeyFromObject(h), h))
		if c.Status.Artifact.Revision != "1.3.0" || c.Status.ObservedSourceArtifactRevision != repo.revision() || h.Status.LastHandledReconcileAt != at {
			return fmt.Errorf("chart %+v, repository %+v", c.Status, h.Status)
		}
		return nil
	})
	at = w.request(&sourcev1.HelmChart{}, "web")
	w.eventually("the request", func() error {
		w.must(w.client.Get(w.ctx, client.ObjectKeyFromObject(c), c))
		if c.Status.LastHandledReconcileAt != at {
			return errors.New("not handled")
		}
		return nil
	})

	w.helmChart("web", "charts", "9.x", "")
	w.conditionOf(w.chart("web"), metav1.ConditionFalse, "InvalidChartReference", "chart web has no version '9.x'; there is: 2.0.0-rc.1, 1.3.0", "correct chart or version")
	w.apply("apiVersion: source.toolkit.fluxcd.io/v1\nkind: HelmChart\nmetadata: {name: none}\nspec: {interval: 1h, chart: none, sourceRef: {kind: HelmRepository, name: charts}}\n")
	w.conditionOf(w.chart("none"), metav1.ConditionFalse, "InvalidChartReference", "the repository has no chart none")
	w.apply("apiVersion: source.toolkit.fluxcd.io/v1\nkind: HelmChart\nmetadata: {name: bucket}\nspec: {interval: 1h, chart: none, sourceRef: {kind: Bucket, name: charts}}\n")
	w.conditionOf(w.chart("bucket"), metav1.ConditionFalse, "FieldsNotSupported", "spec.sourceRef.kind Bucket: not supported yet")
	w.helmChart("signed", "charts", "*", "  verify: {provider: cosign}\n")
	w.conditionOf(w.chart("signed"), metav1.ConditionFalse, "FieldsNotSupported", "spec.verify: not supported yet; nothing is fetched")

	// A suspended one tells of nothing new, and its charts go by what it had.
	w.helmRepository("charts", repo.URL, "  suspend: true\n")
	repo.change(func() {
		repo.versions = append(repo.versions, "1.4.0")
		repo.slow = 0
	})
	w.helmChart("late", "charts", "1.x", "")
	w.conditionOf(w.chart("late"), metav1.ConditionTrue, "ChartPullSucceeded", "version '1.3.0'")
	w.helmRepository("charts", repo.URL, "")
	w.conditionOf(w.chart("late"), metav1.ConditionTrue, "ChartPullSucceeded", "version '1.4.0'")

	// The repository goes: its charts say so, and keep what they had.
	w.must(w.client.Delete(w.ctx, h))
	w.conditionOf(w.chart("old"), metav1.ConditionFalse, "SourceUnavailable", "does not exist")
}

// TestBadHelmRepositories: what is wrong with a repository is told, and mends itself when it is right.
func TestBadHelmRepositories(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	repo := newChartRepo(t, "1.0.0")
	repo.password = "pw"
	ready := func(name string, status metav1.ConditionStatus, reason string, parts ...string) {
		t.Helper()
		w.conditionOf(&sourcev1.HelmRepository{ObjectMeta: w.named(name)}, status, reason, parts...)
	}
	w.helmRepository("open", repo.URL, "")
	ready("open", metav1.ConditionFalse, "AuthenticationFailed", "401", "spec.secretRef")
	w.helmRepository("closed", repo.URL, "  secretRef: {name: key}\n")
	ready("closed", metav1.ConditionFalse, "AuthenticationFailed", "Secret/"+w.ns+"/key: the Secret does not exist")
	w.helmChart("web", "closed", "*", "")
	w.conditionOf(w.chart("web"), metav1.ConditionFalse, "NoSourceArtifact", "no artifact available for HelmRepository/"+w.ns+"/closed")
	secret := "apiVersion: v1\nkind: Secret\nmetadata: {name: key}\nstringData: {username: bob, password: %s}\n"
	w.apply(fmt.Sprintf(secret, "wrong"))
	w.request(&sourcev1.HelmRepository{}, "closed")
	ready("closed", metav1.ConditionFalse, "AuthenticationFailed", "401")
	w.apply(fmt.Sprintf(secret, "pw"))
	w.request(&sourcev1.HelmRepository{}, "closed")
	ready("closed", metav1.ConditionTrue, "Succeeded")
	w.conditionOf(w.chart("web"), metav1.ConditionTrue, "ChartPullSucceeded", "1.0.0")

	page := newChartRepo(t)
	page.index = "<html>Welcome</html>"
	w.helmRepository("page", page.URL, "")
	ready("page", metav1.ConditionFalse, "IndexationFailed", "is it a Helm repository?")
	large := newChartRepo(t)
	large.index = "apiVersion: v1\nentries:\n" + strings.Repeat("# 123456789 123456789 123456789 123456789 123456789 123456789 \n", 900_000)
	w.helmRepository("large", large.URL, "")
	ready("large", metav1.ConditionFalse, "IndexationFailed", "it is larger than 50 MiB")
	w.helmRepository("cloud", "oci://example.com/charts", "  type: oci\n  provider: aws\n")
	ready("cloud", metav1.ConditionFalse, "FieldsNotSupported", "spec.provider aws")
	w.helmRepository("wrong", "oci://example.com/charts", "")
	ready("wrong", metav1.ConditionFalse, "URLInvalid", "spec.type: oci")

	// An archive that is not what the index says.
	broken := newChartRepo(t, "1.0.0")
	w.helmRepository("broken", broken.URL, "")
	ready("broken", metav1.ConditionTrue, "Succeeded")
	broken.change(func() { broken.archives["1.0.0"] = []byte("else") })
	broken.change(func() {
		broken.index = strings.Replace(broken.indexText(), fmt.Sprintf("%x", sha256.Sum256([]byte("else"))), strings.Repeat("0", 64), 1)
	})
	w.request(&sourcev1.HelmRepository{}, "broken")
	w.helmChart("broken", "broken", "*", "")
	w.conditionOf(w.chart("broken"), metav1.ConditionFalse, "ChartPullError", "the index says sha256:0000")
}

// ociServer is an OCI registry in this process.
type ociServer struct {
	*httptest.Server
	t *testing.T
}

func newOCI(t *testing.T) *ociServer {
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	o := &ociServer{Server: httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		private := strings.HasPrefix(r.URL.Path, "/v2/private/") && (r.Method == http.MethodGet || r.Method == http.MethodHead)
		if user, password, _ := r.BasicAuth(); private && (user != "bob" || password != "pw") {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if user, _, _ := r.BasicAuth(); r.URL.Path == "/v2/" && user == "" { // as a registry that wants credentials for some
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
		}
		inner.ServeHTTP(w, r)
	})), t: t}
	t.Cleanup(o.Close)
	return o
}

func (o *ociServer) url(repo string) string {
	return "oci://" + strings.TrimPrefix(o.URL, "http://") + "/" + repo
}

func (o *ociServer) put(method, path, kind string, body []byte) {
	o.t.Helper()
	req, err := http.NewRequest(method, o.URL+path, bytes.NewReader(body))
	if err != nil {
		o.t.Fatal(err)
	}
	req.Header.Set("Content-Type", kind)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		o.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		o.t.Fatalf("%s %s: %s", method, path, resp.Status)
	}
}

// push publishes an artifact of layers (type, content, type, content, …) under a tag, and gives its digest.
func (o *ociServer) push(repo, tag, config string, layers ...any) string {
	o.t.Helper()
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Size      int    `json:"size"`
		Digest    string `json:"digest"`
	}
	add := func(kind string, data []byte) descriptor {
		digest := fmt.Sprintf("sha256:%x", sha256.Sum256(data))
		o.put(http.MethodPost, "/v2/"+repo+"/blobs/uploads/?digest="+digest, "application/octet-stream", data)
		return descriptor{kind, len(data), digest}
	}
	m := map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": add(config, []byte("{}")),
		"annotations": map[string]string{"org.opencontainers.image.revision": "main@sha1:abc"},
	}
	var all []descriptor
	for i := 0; i < len(layers); i += 2 {
		all = append(all, add(layers[i].(string), layers[i+1].([]byte)))
	}
	m["layers"] = all
	text, err := json.Marshal(m)
	if err != nil {
		o.t.Fatal(err)
	}
	o.put(http.MethodPut, "/v2/"+repo+"/manifests/"+tag, "application/vnd.oci.image.manifest.v1+json", text)
	return fmt.Sprintf("sha256:%x", sha256.Sum256(text))
}

const (
	fluxConfig = "application/vnd.cncf.flux.config.v1+json"
	fluxLayer  = "application/vnd.cncf.flux.content.v1.tar+gzip"
	helmConfig = "application/vnd.cncf.helm.config.v1+json"
	helmLayer  = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
)

func (w *world) ociRepository(name, url, extra string) {
	w.Helper()
	w.apply(fmt.Sprintf("apiVersion: source.toolkit.fluxcd.io/v1\nkind: OCIRepository\nmetadata: {name: %s}\nspec:\n  interval: 1h\n  url: %s\n%s", name, url, extra))
}

// TestOCIRepository: a Kustomization delivers from an OCI artifact, and follows its tags.
func TestOCIRepository(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := newOCI(t)
	files := func(value string) []byte {
		return packed(map[string]string{"app/a.yaml": w.configMap("a", value), "app/b.txt": "no manifest"})
	}
	w.apply(`
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: app}
spec: {interval: 1h, retryInterval: 2s, path: ./app, prune: true, sourceRef: {kind: OCIRepository, name: oci}}
`)
	w.condition("app", metav1.ConditionFalse, "ArtifactFailed", "source OCIRepository/"+w.ns+"/oci does not exist")
	first := o.push("team/app", "1.0.0", fluxConfig, fluxLayer, files("one"))
	w.ociRepository("oci", o.url("team/app"), "  ref: {semver: \">=1.0.0\", semverFilter: \"^[0-9.]+$\"}\n")
	r := &sourcev1.OCIRepository{ObjectMeta: w.named("oci")}
	w.conditionOf(r, metav1.ConditionTrue, "Succeeded", "stored artifact for digest '1.0.0@"+first+"'")
	if a := r.Status.Artifact; a == nil || a.Revision != "1.0.0@"+first || a.Metadata["org.opencontainers.image.revision"] != "main@sha1:abc" {
		t.Errorf("artifact %+v", a)
	}
	w.ready("app", "1.0.0@"+first)
	w.value("a", "one")
	if s := w.kustomization("app").Status; s.LastAppliedRevision != "1.0.0@"+first || s.LastAppliedOriginRevision != "main@sha1:abc" {
		t.Errorf("status %+v", s)
	}

	o.push("team/app", "1.1.0-rc.1", fluxConfig, fluxLayer, files("not yet"))
	second := o.push("team/app", "1.1.0", fluxConfig, fluxLayer, files("two"))
	at := w.request(&sourcev1.OCIRepository{}, "oci")
	w.ready("app", "1.1.0@"+second)
	w.value("a", "two")
	w.eventually("the request", func() error {
		w.must(w.client.Get(w.ctx, client.ObjectKeyFromObject(r), r))
		if r.Status.LastHandledReconcileAt != at {
			return errors.New("not handled")
		}
		return nil
	})
	w.ociRepository("oci", o.url("team/app"), "  ref: {digest: \""+first+"\"}\n")
	w.ready("app", first)
	w.value("a", "one")
	w.ociRepository("oci", o.url("team/app"), "  ref: {digest: \""+first+"\"}\n  ignore: /app/a.yaml\n")
	w.condition("app", metav1.ConditionFalse, "ConfirmationRequired")
	w.value("a", "one")
}

// TestOCIRepositories: credentials, layers and what is wrong with an artifact.
func TestOCIRepositories(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := newOCI(t)
	tree := packed(map[string]string{"a.yaml": w.configMap("a", "1")})
	digest := o.push("private/app", "latest", fluxConfig, "application/json", []byte("{}"), fluxLayer, tree)
	host := strings.TrimPrefix(o.URL, "http://")
	w.apply(fmt.Sprintf(`
apiVersion: v1
kind: Secret
metadata: {name: right}
type: kubernetes.io/dockerconfigjson
stringData: {.dockerconfigjson: '{"auths":{"https://%s/private":{"username":"bob","password":"pw"},"%s":{"username":"al","password":"x"}}}'}
---
apiVersion: v1
kind: Secret
metadata: {name: wrong}
stringData: {username: bob, password: guess}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: puller}
imagePullSecrets: [{name: right}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: poor}
imagePullSecrets: [{name: none}]
`, host, host))
	for _, tt := range []struct {
		name, extra     string
		status          metav1.ConditionStatus
		reason, message string
	}{
		{"right", "  secretRef: {name: right}\n  layerSelector: {mediaType: " + fluxLayer + "}\n", metav1.ConditionTrue, "Succeeded", "'latest@" + digest + "'"},
		{"copied", "  secretRef: {name: right}\n  ref: {tag: latest}\n  layerSelector: {mediaType: " + fluxLayer + ", operation: copy}\n", metav1.ConditionTrue, "Succeeded", "'latest@" + digest + "'"},
		{"wrong", "  secretRef: {name: wrong}\n", metav1.ConditionFalse, "AuthenticationFailed", "spec.secretRef"},
		{"nobody", "", metav1.ConditionFalse, "AuthenticationFailed", "name a Secret with username and password, or .dockerconfigjson in spec.secretRef"},
		{"first", "  secretRef: {name: right}\n", metav1.ConditionFalse, "OCIArtifactPullFailed", "the archive cannot be used"},
		{"lacking", "  secretRef: {name: right}\n  layerSelector: {mediaType: x/y}\n", metav1.ConditionFalse, "OCIArtifactPullFailed", "it has no layer of the type x/y; there is: application/json, " + fluxLayer},
		{"untagged", "  secretRef: {name: right}\n  ref: {tag: none}\n", metav1.ConditionFalse, "OCIArtifactPullFailed", "no such version"},
		{"unranged", "  secretRef: {name: right}\n  ref: {semver: 1.x}\n", metav1.ConditionFalse, "ReadOperationFailed", "of 1 tags none is in the range '1.x'"},
		{"malformed", "  secretRef: {name: right}\n  ref: {semver: 1.x, semverFilter: \"(\"}\n", metav1.ConditionFalse, "ReadOperationFailed", "spec.ref.semverFilter"},
		{"signed", "  verify: {provider: notation, secretRef: {name: x}}\n", metav1.ConditionFalse, "FieldsNotSupported", "spec.verify: not supported yet; nothing is fetched"},
		{"cloud", "  provider: gcp\n", metav1.ConditionFalse, "FieldsNotSupported", "spec.provider gcp"},
		{"account", "  serviceAccountName: puller\n  layerSelector: {mediaType: " + fluxLayer + "}\n", metav1.ConditionTrue, "Succeeded", "'latest@" + digest + "'"},
		{"poor", "  serviceAccountName: poor\n", metav1.ConditionFalse, "AuthenticationFailed", "/none: the Secret does not exist (hint: spec.serviceAccountName needs"},
		{"unknown", "  serviceAccountName: nobody\n", metav1.ConditionFalse, "AuthenticationFailed", "/nobody: the ServiceAccount does not exist"},
	} {
		w.ociRepository(tt.name, o.url("private/app"), tt.extra)
		w.conditionOf(&sourcev1.OCIRepository{ObjectMeta: w.named(tt.name)}, tt.status, tt.reason, tt.message)
	}
	var r sourcev1.OCIRepository
	w.must(w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "copied"}, &r))
	if l := r.Status.ObservedLayerSelector; l == nil || l.Operation != "copy" || r.Status.ObservedGeneration != r.Generation {
		t.Errorf("status %+v", r.Status)
	}
}

// TestHelmChartsOfARegistry: a HelmRepository of the type oci has no status of its own, and its charts are found.
func TestHelmChartsOfARegistry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := newOCI(t)
	o.push("charts/web", "1.0.0_build.1", helmConfig, helmLayer, chartOf("web", "1.0.0+build.1"))
	w.helmChart("web", "registry", "1.x", "")
	w.conditionOf(w.chart("web"), metav1.ConditionFalse, "SourceUnavailable")
	w.helmRepository("registry", o.url("charts"), "  type: oci\n")
	w.conditionOf(w.chart("web"), metav1.ConditionTrue, "ChartPullSucceeded", "pulled 'web' chart with version '1.0.0+build.1'")
	w.eventually("an empty status", func() error {
		var h sourcev1.HelmRepository
		w.must(w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "registry"}, &h))
		if len(h.Status.Conditions) > 0 || h.Status.Artifact != nil || h.Status.ObservedGeneration != 0 {
			return fmt.Errorf("status %+v", h.Status)
		}
		return nil
	})
	o.push("charts/web", "1.4.0", helmConfig, helmLayer, chartOf("web", "1.4.0"))
	w.eventually("the new version", func() error {
		w.request(&sourcev1.HelmChart{}, "web")
		c := w.chart("web")
		w.must(w.client.Get(w.ctx, client.ObjectKeyFromObject(c), c))
		if c.Status.Artifact.Revision != "1.4.0" {
			return fmt.Errorf("status %+v", c.Status)
		}
		return nil
	})
	w.helmChart("none", "registry", "3.x", "")
	w.conditionOf(w.chart("none"), metav1.ConditionFalse, "InvalidChartReference", "has no version '3.x'")
}

// TestHelmChartsOfGit: a chart's folder in Git, its values files, its revision, and what it depends on.
func TestHelmChartsOfGit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dep := newChartRepo(t, "1.2.0")
	chart := func(name, extra string) {
		w.apply(fmt.Sprintf("apiVersion: source.toolkit.fluxcd.io/v1\nkind: HelmChart\nmetadata: {name: %s}\nspec:\n  interval: 1h\n  sourceRef: {kind: GitRepository, name: repo}\n%s", name, extra))
	}
	w.push(map[string]string{
		"charts/shop/Chart.yaml":      "apiVersion: v2\nname: shop\nversion: 0.3.0\ndependencies:\n- {name: web, version: 1.x, repository: \"" + dep.URL + "\"}\n",
		"charts/shop/values.yaml":     "a: 1\n",
		"charts/shop/production.yaml": "a: 2\n",
		"charts/bare/Chart.yaml":      "apiVersion: v2\nname: bare\n",
	})
	commit := w.head
	chart("shop", "  chart: ./charts/shop\n")
	c := w.chart("shop")
	w.conditionOf(c, metav1.ConditionTrue, "ChartPackageSucceeded", "packaged 'shop' chart with version '0.3.0'")
	if c.Status.ObservedSourceArtifactRevision != "main@sha1:"+commit {
		t.Errorf("status %+v", c.Status)
	}
	chart("values", "  chart: charts/shop\n  reconcileStrategy: Revision\n  ignoreMissingValuesFiles: true\n  valuesFiles: [charts/shop/values.yaml, none.yaml, charts/shop/production.yaml]\n")
	v := w.chart("values")
	w.conditionOf(v, metav1.ConditionTrue, "ChartPackageSucceeded", "'0.3.0+"+commit[:12]+".1' and merged values files [charts/shop/values.yaml charts/shop/production.yaml]")
	if len(v.Status.ObservedValuesFiles) != 2 || v.Status.Artifact.Revision != "0.3.0+"+commit[:12]+".1" {
		t.Errorf("status %+v", v.Status)
	}
	chart("missing", "  chart: charts/shop\n  valuesFiles: [none.yaml]\n")
	w.conditionOf(w.chart("missing"), metav1.ConditionFalse, "ValuesFilesError", "none.yaml: read values: it does not exist", "spec.ignoreMissingValuesFiles")
	chart("nowhere", "  chart: ../../etc\n")
	w.conditionOf(w.chart("nowhere"), metav1.ConditionFalse, "InvalidChartReference", "etc: read the chart: there is no such folder")
	chart("bare", "  chart: charts/bare\n")
	w.conditionOf(w.chart("bare"), metav1.ConditionFalse, "InvalidChartReference", "charts/bare/Chart.yaml", "no name or no version")

	w.push(map[string]string{"charts/shop/Chart.yaml": "apiVersion: v2\nname: shop\nversion: 0.4.0\ndependencies:\n- {name: web, version: 7.x, repository: \"" + dep.URL + "\"}\n"})
	c = w.chart("shop")
	w.conditionOf(c, metav1.ConditionFalse, "DependencyBuildError", "dependency web 7.x", "has no version '7.x'")
	if c.Status.Artifact.Revision != "0.3.0" {
		t.Errorf("what it had is gone: %+v", c.Status)
	}
	for _, cond := range c.Status.Conditions {
		if cond.Type == "FetchFailed" {
			t.Errorf("condition %+v", cond)
		}
	}
}
