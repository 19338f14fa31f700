package source_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"github.com/google/go-containerregistry/pkg/registry"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/source"
)

const (
	helmConfig = "application/vnd.cncf.helm.config.v1+json"
	helmLayer  = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	ociLayer   = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// ociRegistry is an OCI registry in this process.
type ociRegistry struct {
	*httptest.Server
	t        testing.TB
	user     string // with the password "pw"; empty: everybody may read
	requests atomic.Int64
	mu       sync.Mutex
	answer   func(w http.ResponseWriter, r *http.Request) bool // before the registry; may be nil
}

func newRegistry(t testing.TB) *ociRegistry {
	o := &ociRegistry{t: t}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		user, answer := o.user, o.answer
		o.mu.Unlock()
		if r.Method != http.MethodGet && r.Method != http.MethodHead { // the test publishes
			inner.ServeHTTP(w, r)
			return
		}
		o.requests.Add(1)
		if name, password, _ := r.BasicAuth(); user != "" && (name != user || password != "pw") {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if answer == nil || !answer(w, r) {
			inner.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(o.Close)
	return o
}

func (o *ociRegistry) host() string { return strings.TrimPrefix(o.URL, "http://") }

func (o *ociRegistry) put(method, path, kind string, body []byte) {
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
		text, _ := io.ReadAll(resp.Body)
		o.t.Fatalf("%s %s: %s %s", method, path, resp.Status, text)
	}
}

func (o *ociRegistry) blob(repo string, data []byte) {
	o.put(http.MethodPost, "/v2/"+repo+"/blobs/uploads/?digest=sha256:"+hexDigest(data), "application/octet-stream", data)
}

// push publishes an artifact under a tag, and gives the digest of its manifest.
func (o *ociRegistry) push(repo, tag, config string, annotations map[string]string, layers ...any) string {
	o.t.Helper()
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Size      int    `json:"size"`
		Digest    string `json:"digest"`
	}
	o.blob(repo, []byte("{}"))
	m := struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Config        descriptor        `json:"config"`
		Layers        []descriptor      `json:"layers"`
		Annotations   map[string]string `json:"annotations,omitempty"`
	}{2, "application/vnd.oci.image.manifest.v1+json", descriptor{config, 2, "sha256:" + hexDigest([]byte("{}"))}, nil, annotations}
	for i := 0; i < len(layers); i += 2 {
		data := layers[i+1].([]byte)
		o.blob(repo, data)
		m.Layers = append(m.Layers, descriptor{layers[i].(string), len(data), "sha256:" + hexDigest(data)})
	}
	text, err := json.Marshal(m)
	if err != nil {
		o.t.Fatal(err)
	}
	o.put(http.MethodPut, "/v2/"+repo+"/manifests/"+tag, m.MediaType, text)
	return hexDigest(text)
}

func (o *ociRegistry) chart(name, version string) string {
	return o.push("charts/"+name, strings.ReplaceAll(version, "+", "_"), helmConfig, nil, helmLayer, chart(name, version), "application/vnd.cncf.helm.chart.provenance.v1.prov", []byte("signed"))
}

func repository(url string, ref string) delivery.Source {
	return delivery.Source{ID: delivery.ID{Kind: "Repository", Namespace: "argocd", Name: "r"}, URL: url, Ref: delivery.GitRef{Any: ref}, Whole: true}
}

func TestOCICharts(t *testing.T) {
	o := newRegistry(t)
	digests := map[string]string{}
	for _, v := range []string{"1.2.3", "1.10.0", "1.2.4+build.7", "2.0.0-rc.1", "0.1.0"} {
		digests[v] = o.chart("web", v)
	}
	f, _ := newFetcher(t)
	for _, url := range []string{"oci://" + o.host() + "/charts", o.host() + "/charts", "oci://" + o.host() + "/charts/", "oci://https://" + o.host() + "/charts"} {
		for want, version := range map[string]string{
			"1.2.3": "1.2.3", "1.2.4+build.7": "1.2.4+build.7", "*": "1.10.0", "": "1.10.0", "~1.2": "1.2.4+build.7", ">1.10.0-0": "2.0.0-rc.1", "0.1": "0.1.0",
		} {
			src := repository(url, want)
			src.Chart = "web"
			snap := snapshot(t, f, src)
			if got := snap.Revision.String(); got != version+"@sha256:"+digests[version] {
				t.Errorf("%s %q: %s", url, want, got)
			}
			if got := content(t, snap, "Chart.yaml"); !strings.Contains(got, "version: "+version+"\n") {
				t.Errorf("%s %q: Chart.yaml is %q", url, want, got)
			}
		}
	}
	for want, text := range map[string]string{"3.x": "chart web has no version '3.x'; there is: 2.0.0-rc.1, 1.10.0", "9.9.9": "has no version '9.9.9'", "what is this": "has no version"} {
		src := repository("oci://"+o.host()+"/charts", want)
		src.Chart = "web"
		_, err := f.Resolve(t.Context(), src)
		var fault *delivery.Fault
		if !errors.As(err, &fault) || fault.Retry != delivery.OnChange || fault.Reason != source.ReasonOCI || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", want, err)
		}
	}
	src := repository("oci://"+o.host()+"/charts", "*")
	src.Chart = "none"
	if _, err := f.Resolve(t.Context(), src); err == nil || !strings.Contains(err.Error(), "the registry has no such repository") ||
		!strings.Contains(err.Error(), "and the chart's name") {
		t.Errorf("an unknown chart: %v", err)
	}
}

func TestOCIArtifacts(t *testing.T) {
	o := newRegistry(t)
	files := pack(map[string]string{"app/cm.yaml": "a: 1\n", "./kustomization.yaml": "resources: []\n"})
	one := o.push("team/app", "1.0.0", "application/vnd.oci.empty.v1+json", map[string]string{"org.opencontainers.image.revision": "main@sha1:abc"}, ociLayer, files)
	two := o.push("team/app", "latest", "application/vnd.oci.empty.v1+json", nil, ociLayer, pack(map[string]string{"app/cm.yaml": "a: 2\n"}), "application/json", []byte("[]"))
	o.push("team/app", "two-layers", "x/y", nil, ociLayer, files, ociLayer, pack(map[string]string{"x": ""}))
	o.push("team/app", "no-layer", "x/y", nil, "application/json", []byte("{}"))
	asChart := o.chart("web", "1.0.0")
	f, dir := newFetcher(t)
	artifact := func(url, ref string) delivery.Source {
		src := repository(url, ref)
		src.OCI = true
		return src
	}
	url := "oci://" + o.host() + "/team/app"
	for ref, want := range map[string]string{
		"1.0.0": "1.0.0@sha256:" + one, "latest": "latest@sha256:" + two, "": "latest@sha256:" + two, "HEAD": "latest@sha256:" + two,
		"1.x": "1.0.0@sha256:" + one, "*": "1.0.0@sha256:" + one, "sha256:" + one: "sha256:" + one,
	} {
		snap := snapshot(t, f, artifact(url, ref))
		if got := snap.Revision.String(); got != want {
			t.Errorf("%q: %s, want %s", ref, got, want)
		}
		if got, want := content(t, snap, "app/cm.yaml"), map[bool]string{true: "a: 1\n", false: "a: 2\n"}[snap.Revision.Commit == one]; got != want {
			t.Errorf("%q: app/cm.yaml is %q", ref, got)
		}
		if snap.Revision.Commit == one {
			if snap.Origin != "main@sha1:abc" {
				t.Errorf("%q: made from %q", ref, snap.Origin)
			}
			if err := fstest.TestFS(snap.FS, "app/cm.yaml", "kustomization.yaml"); err != nil {
				t.Error(err)
			}
		}
	}
	if snap := snapshot(t, f, artifact("oci://"+o.host()+"/charts/web", "1.0.0")); snap.Revision.Commit != asChart || !strings.Contains(content(t, snap, "Chart.yaml"), "name: web") {
		t.Errorf("a chart as an artifact: %s", snap.Revision)
	}
	for ref, text := range map[string]string{
		"two-layers": "must have one layer that is a tar archive, and has 2", "no-layer": "has 0 among: application/json",
		"none": "no such version", "2.x": "has no version '2.x'", "sha256:" + strings.Repeat("0", 64): "no such version",
	} {
		src := artifact(url, ref)
		rev, err := f.Resolve(t.Context(), src)
		if err == nil {
			_, err = f.Fetch(t.Context(), src, rev)
		}
		var fault *delivery.Fault
		if !errors.As(err, &fault) || fault.Reason != source.ReasonOCI || fault.Hint == "" || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", ref, err)
		}
	}

	// After a restart without the registry, what is known is still there.
	first := snapshot(t, f, artifact(url, "1.0.0"))
	o.Close()
	f2, err := source.New(source.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f2.Resolve(t.Context(), artifact(url, "1.0.0")); !errors.Is(err, git.ErrUnreachable) {
		t.Errorf("Resolve without the registry: %v", err)
	}
	if snap, err := f2.Fetch(t.Context(), artifact(url, "1.0.0"), first.Revision); err != nil || snap.Digest != first.Digest || snap.Origin != first.Origin {
		t.Errorf("Fetch without the registry: %v, %v", snap, err)
	}
}

func TestOCICredentials(t *testing.T) {
	o := newRegistry(t)
	o.chart("web", "1.0.0")
	o.mu.Lock()
	o.user = "bob"
	o.mu.Unlock()
	f, _ := newFetcher(t)
	src := repository("oci://"+o.host()+"/charts", "1.0.0")
	src.Chart = "web"
	for name, tt := range map[string]struct {
		c    delivery.Credentials
		want error
	}{
		"right": {delivery.Credentials{Username: "bob", Password: "pw"}, nil},
		"wrong": {delivery.Credentials{Username: "bob", Password: "wrong-password"}, git.ErrAuth},
		"none":  {delivery.Credentials{}, git.ErrAuth},
	} {
		src.Credentials = tt.c
		_, err := f.Resolve(t.Context(), src)
		if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%s: %v", name, err)
		}
		var fault *delivery.Fault
		if err != nil && (!errors.As(err, &fault) || fault.Reason != source.ReasonAuth || strings.Contains(err.Error(), "wrong-password") || !strings.Contains(fault.Hint, "argocd.argoproj.io/secret-type")) {
			t.Errorf("%s: %v", name, err)
		}
	}

	// Blobs are often on another host: it sees no credentials.
	var seen atomic.Value
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.Header.Get("Authorization"))
		w.Write(chart("web", "1.0.0"))
	}))
	t.Cleanup(other.Close)
	o.mu.Lock()
	o.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		http.Redirect(w, r, strings.Replace(other.URL, "127.0.0.1", "localhost", 1)+"/elsewhere?token=s3cret-token", http.StatusTemporaryRedirect)
		return true
	}
	o.mu.Unlock()
	src.Credentials = delivery.Credentials{Username: "bob", Password: "pw"}
	snapshot(t, f, src)
	if got := seen.Load(); got != "" {
		t.Errorf("the other host has seen %q", got)
	}
}

// Plain HTTP is spoken only where the user says so, or to this machine.
func TestOCIWithoutTLS(t *testing.T) {
	f, _ := newFetcher(t)
	src := repository("oci://10.1.2.3:5000/charts", "1.0.0")
	src.Chart, src.Credentials = "web", delivery.Credentials{Proxy: "http://127.0.0.1:1", Username: "u", Password: "pw"}
	_, err := f.Resolve(t.Context(), src)
	if err == nil || !strings.Contains(err.Error(), "insecureOCIForceHttp is not set") {
		t.Error(err)
	}
}

func TestHostileRegistry(t *testing.T) {
	endless := func(w http.ResponseWriter) {
		chunk := bytes.Repeat([]byte(`"0.0.1",`), 1<<12)
		io.WriteString(w, `{"name":"x","tags":[`)
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	for name, tt := range map[string]struct {
		ref    string
		answer func(o *ociRegistry, w http.ResponseWriter, r *http.Request) bool
		want   string
	}{
		"endless tags": {"*", func(_ *ociRegistry, w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/tags/list") {
				endless(w)
				return true
			}
			return false
		}, "is larger than 4 MiB"},
		"endless pages": {"*", func(_ *ociRegistry, w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/tags/list") {
				w.Header().Set("Link", `</v2/charts/web/tags/list?n=`+fmt.Sprint(len(r.URL.RawQuery)+1)+`>; rel="next"`)
				io.WriteString(w, `{"tags":[`+strings.Repeat(`"a",`, 20_000)+`"b"]}`)
				return true
			}
			return false
		}, "more than 100000 tags"},
		"a page elsewhere": {"*", func(_ *ociRegistry, w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/tags/list") {
				w.Header().Set("Link", `<http://localhost:1/v2/x>; rel="next"`)
				io.WriteString(w, `{"tags":["1.0.0"]}`)
				return true
			}
			return false
		}, "does not match registry host"},
		"another manifest": {"1.0.0", func(_ *ociRegistry, w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/manifests/") && r.Method == http.MethodGet {
				io.WriteString(w, `{"schemaVersion":2}`)
				return true
			}
			return false
		}, "does not match requested digest"},
		"another layer": {"1.0.0", func(o *ociRegistry, w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/blobs/") {
				w.Write(chart("web", "6.6.6"))
				return true
			}
			return false
		}, "error verifying sha256 checksum"},
		"a redirect loop": {"1.0.0", func(_ *ociRegistry, w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/blobs/") || strings.Contains(r.URL.Path, "/manifests/") {
				http.Redirect(w, r, r.URL.Path+"?n", http.StatusFound)
				return true
			}
			return false
		}, "redirects"},
		"no registry": {"1.0.0", func(_ *ociRegistry, w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusTeapot)
			return true
		}, "418"},
	} {
		t.Run(name, func(t *testing.T) {
			o := newRegistry(t)
			o.chart("web", "1.0.0")
			o.mu.Lock()
			o.answer = func(w http.ResponseWriter, r *http.Request) bool { return tt.answer(o, w, r) }
			o.mu.Unlock()
			f, _ := newFetcher(t)
			src := repository("oci://"+o.host()+"/charts", tt.ref)
			src.Chart = "web"
			rev, err := f.Resolve(t.Context(), src)
			if err == nil {
				_, err = f.Fetch(t.Context(), src, rev)
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

// Bitnami's way: the index of an HTTP repository says that the archives are in a registry.
func TestIndexOfARegistry(t *testing.T) {
	o := newRegistry(t)
	o.chart("web", "1.0.0")
	h := newHelmRepo(t)
	h.user, h.password = "bob", "only-for-the-index"
	h.index = "entries:\n  web:\n  - version: 1.0.0\n    digest: " + hexDigest(chart("web", "1.0.0")) + "\n    urls:\n    - oci://" + o.host() + "/charts/web:1.0.0\n" +
		"  bad:\n  - version: 1.0.0\n    digest: " + hexDigest([]byte("other")) + "\n    urls:\n    - oci://" + o.host() + "/charts/web:1.0.0\n"
	var leaked atomic.Bool
	o.answer = func(w http.ResponseWriter, r *http.Request) bool {
		leaked.Store(leaked.Load() || r.Header.Get("Authorization") != "")
		return false
	}
	f, _ := newFetcher(t)
	src := h.source("web", "*")
	src.Credentials = delivery.Credentials{Username: "bob", Password: "only-for-the-index"}
	snap := snapshot(t, f, src)
	if want := "1.0.0@sha256:" + hexDigest(chart("web", "1.0.0")); snap.Revision.String() != want || leaked.Load() {
		t.Errorf("%s, want %s; leaked: %v", snap.Revision, want, leaked.Load())
	}
	src.Chart = "bad"
	rev, err := f.Resolve(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Fetch(t.Context(), src, rev); err == nil || !strings.Contains(err.Error(), "the index says sha256:") {
		t.Errorf("a wrong digest: %v", err)
	}
}
