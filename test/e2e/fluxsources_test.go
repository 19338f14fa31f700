package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
)

// TestFluxHelmAndOCISources: flux declares a Helm repository and an OCI artifact that it has pushed itself, and sees what Keelson
// makes of them.
func TestFluxHelmAndOCISources(t *testing.T) {
	chart := &bytes.Buffer{}
	z := gzip.NewWriter(chart)
	archive := tar.NewWriter(z)
	about := "apiVersion: v2\nname: web\nversion: 1.2.3\n"
	_ = archive.WriteHeader(&tar.Header{Name: "web/Chart.yaml", Mode: 0o644, Size: int64(len(about))})
	_, _ = io.WriteString(archive, about)
	archive.Close()
	z.Close()
	index := fmt.Sprintf("apiVersion: v1\nentries:\n  web:\n  - name: web\n    version: 1.2.3\n    digest: %x\n    urls: [web-1.2.3.tgz]\n", sha256.Sum256(chart.Bytes()))
	charts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/index.yaml":
			_, _ = io.WriteString(w, index)
		case "/web-1.2.3.tgz":
			_, _ = w.Write(chart.Bytes())
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(charts.Close)
	artifacts := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(artifacts.Close)
	t.Cleanup(func() {
		for _, kind := range []string{"kustomization", "helmchart", "helmrepository", "ocirepository"} {
			tryKubectl(shared.Kubeconfig, "-n", "flux-system", "delete", kind, "packed", "--ignore-not-found")
		}
	})

	revision := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(index)))
	contains(t, flux(t, "create", "source", "helm", "packed", "--url", charts.URL, "--interval", "10m"), "HelmRepository source reconciliation completed", "fetched revision: "+revision)
	contains(t, flux(t, "reconcile", "source", "helm", "packed"), "HelmRepository annotated", "fetched revision "+revision)
	contains(t, flux(t, "get", "sources", "helm"), "packed", "stored artifact: revision 'sha256:"+revision[7:15])
	apply(t, shared.Kubeconfig, `
apiVersion: source.toolkit.fluxcd.io/v1
kind: HelmChart
metadata: {name: packed, namespace: flux-system}
spec: {interval: 10m, chart: web, version: 1.x, sourceRef: {kind: HelmRepository, name: packed}}
`)
	shared.kubectl(t, "-n", "flux-system", "wait", "helmchart/packed", "--for=condition=Ready", "--timeout", limit.String())
	contains(t, flux(t, "reconcile", "source", "chart", "packed", "--with-source"), "HelmChart annotated", "fetched revision "+revision, "fetched revision 1.2.3")
	contains(t, flux(t, "get", "sources", "chart"), "packed", "1.2.3", "True", "pulled 'web' chart with version '1.2.3'")

	dir := t.TempDir()
	write(t, filepath.Join(dir, "objects.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: packed, namespace: default}\ndata: {from: an artifact}\n")
	repo := "oci://" + strings.TrimPrefix(artifacts.URL, "http://") + "/app"
	pushed := tryFlux(t, dir, "push", "artifact", repo+":1.0.0", "--path", ".", "--source", "https://example.com/app", "--revision", "main@sha1:1234567", "--insecure-registry")
	ok(t, pushed, []string{"flux", "push"})
	contains(t, flux(t, "create", "source", "oci", "packed", "--url", repo, "--tag-semver", "1.x", "--interval", "10m"), "OCIRepository reconciliation completed", "fetched revision: 1.0.0@sha256:")
	contains(t, flux(t, "reconcile", "source", "oci", "packed"), "OCIRepository annotated", "fetched revision 1.0.0@sha256:")
	contains(t, flux(t, "create", "kustomization", "packed", "--source", "OCIRepository/packed", "--path", "./", "--prune", "--interval", "10m"), "applied revision 1.0.0@sha256:")
	contains(t, flux(t, "get", "sources", "oci"), "packed", "1.0.0@sha256:", "stored artifact for digest '1.0.0@sha256:")
	contains(t, flux(t, "trace", "configmap", "packed", "-n", "default"), "OCIRepository:   packed", "Origin Revision: main@sha1:1234567")
	contains(t, flux(t, "get", "all", "-A"), "helmrepository/packed", "helmchart/packed", "ocirepository/packed")
	contains(t, shared.must(t, "get", "sources", "-n", "flux-system"), "packed", "sample")
	contains(t, shared.must(t, "reconcile", "packed", "--with-source"), "flux-system/packed is Ready at 1.0.0@sha256:")
	contains(t, shared.must(t, "diff", "packed"), "0 of 1 objects differ")
	contains(t, flux(t, "suspend", "source", "oci", "packed"), "source oci suspended")
	contains(t, flux(t, "resume", "source", "oci", "packed"), "fetched revision 1.0.0@sha256:")
}
