package controller_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
)

// chartOf packs a chart that makes a ConfigMap with the value "from <version>", and what further templates make.
func chartOf(name, version string, further ...string) []byte {
	files := map[string]string{
		name + "/Chart.yaml":        fmt.Sprintf("apiVersion: v2\nname: %s\nversion: %s\n", name, version),
		name + "/templates/cm.yaml": fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {v: from {{ .Chart.Version }}}\n", name),
	}
	for i, text := range further {
		files[fmt.Sprintf("%s/templates/further-%d.yaml", name, i)] = text
	}
	return packed(files)
}

// packed makes a tar archive, compressed by gzip, of files in their order by name.
func packed(files map[string]string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name]))})
		w.Write([]byte(files[name]))
	}
	w.Close()
	z.Close()
	return b.Bytes()
}

// TestCharts: an Application of a chart in a repository follows its versions, and one in Git gets the dependencies that it lacks.
func TestCharts(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	archive := chartOf("dep", "1.2.0")
	repo := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/index.yaml":
			fmt.Fprintf(rw, "apiVersion: v1\nentries:\n  dep:\n  - version: 1.2.0\n    digest: %x\n    urls: [dep-1.2.0.tgz]\n", sha256.Sum256(archive))
		case "/dep-1.2.0.tgz":
			rw.Write(archive)
		default:
			http.NotFound(rw, r)
		}
	}))
	t.Cleanup(repo.Close)
	umbrella := func(version string) string {
		return "apiVersion: v2\nname: umbrella\nversion: 0.1.0\ndependencies:\n- {name: dep, version: " + version + ", repository: \"" + repo.URL + "\"}\n"
	}
	first := w.push(map[string]string{"umbrella/Chart.yaml": umbrella("1.x")})
	w.app("umbrella", automated)
	w.synced("umbrella", first)
	w.value("dep", "from 1.2.0")

	second := w.push(map[string]string{"umbrella/Chart.yaml": umbrella("2.x")})
	a := w.until("umbrella", func(a *argocdv1.Application) error {
		for _, c := range a.Status.Conditions {
			if strings.Contains(c.Message, "umbrella/Chart.yaml: dependency dep 2.x: ") && strings.Contains(c.Message, "chart dep has no version '2.x'; there is: 1.2.0") {
				return nil
			}
		}
		return errors.New("want a condition that names the dependency")
	})
	if a.Status.Sync.Status == argocdv1.Synced && a.Status.Sync.Revision == second {
		t.Errorf("it is synced to what cannot be rendered: %+v", a.Status.Sync)
	}
	w.value("dep", "from 1.2.0")

	w.apply(fmt.Sprintf(`
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: %s, namespace: argocd}
spec:
  project: default
  source: {repoURL: %s, chart: dep, targetRevision: 1.x}
  destination: {server: https://kubernetes.default.svc, namespace: %s}
%s`, w.name("chart"), repo.URL, w.ns, automated))
	w.until("chart", func(a *argocdv1.Application) error {
		if a.Status.Sync.Revision != "1.2.0" {
			return errors.New("want the chart's version as its revision")
		}
		return nil
	})
}

// TestApplicationOfAChartWithHooks: an operation that waits goes on with the version that it began with.
func TestApplicationOfAChartWithHooks(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	hook := strings.Replace(w.job("before", "argocd.argoproj.io/hook: PreSync"), "spec:\n", "spec:\n  suspend: true\n", 1)
	archive := chartOf("dep", "1.2.0", hook)
	repo := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/index.yaml":
			fmt.Fprintf(rw, "apiVersion: v1\nentries:\n  dep:\n  - version: 1.2.0\n    digest: %x\n    urls: [dep-1.2.0.tgz]\n", sha256.Sum256(archive))
		case "/dep-1.2.0.tgz":
			rw.Write(archive)
		default:
			http.NotFound(rw, r)
		}
	}))
	t.Cleanup(repo.Close)
	w.apply(fmt.Sprintf(`
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: %s, namespace: argocd}
spec:
  project: default
  source: {repoURL: %s, chart: dep, targetRevision: 1.x}
  destination: {server: https://kubernetes.default.svc, namespace: %s}
%s`, w.name("chart"), repo.URL, w.ns, automated))
	w.waits("chart")
	w.merge("chart", `{"spec":{"source":{"targetRevision":"1.2.x"}}}`) // has it be fetched anew, at the version of before
	w.resume("before")
	a := w.operated("chart", argocdv1.OperationSucceeded)
	w.value("dep", "from 1.2.0")
	if o := a.Status.OperationState; o.Operation.Sync.Revision != "1.2.0" || o.SyncResult.Revision != "1.2.0" {
		t.Errorf("asked %q, result %q", o.Operation.Sync.Revision, o.SyncResult.Revision)
	}
}
