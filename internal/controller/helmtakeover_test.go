package controller_test

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	gocmp "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// testdata/takeover/flux-helm*: what helm-controller 1.6.4 left of two releases, installed and upgraded once each: "shop", of a HelmRepository
// over HTTP with a value from a Secret and a test, and "stall", of an OCI artifact. Digests are of the namespace as well, which is therefore
// the same in the test. What source-controller says of the sources was written by hand, as its source code does. The folder has the charts
// as they were served.
const (
	fluxHelmNamespace = "flux-left"
	fluxHelmServer    = "127.0.0.1:7788"
)

// chartServer serves the folder as a Helm repository and as the OCI repository charts/shop.
func chartServer(t *testing.T) *httptest.Server {
	t.Helper()
	const dir = "testdata/takeover/flux-helm/"
	files, err := filepath.Glob(dir + "*")
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files, %v", dir, len(files), err)
	}
	content := map[string][]byte{}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		base := filepath.Base(name)
		digest := fmt.Sprintf("sha256:%x", sha256.Sum256(data))
		content["/"+base], content["/v2/charts/shop/blobs/"+digest] = data, data
		if version, ok := strings.CutPrefix(strings.TrimSuffix(base, ".json"), "manifest-"); ok {
			content["/v2/charts/shop/manifests/"+version], content["/v2/charts/shop/manifests/"+digest] = data, data
		}
	}
	content["/v2/"] = []byte("{}")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, ok := content[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(data)))
	}))
	t.Cleanup(s.Close)
	return s
}

// fluxHelmWorld is a cluster as Flux has left it: its releases, their objects, its own kinds. No controller runs in it yet.
func fluxHelmWorld(t *testing.T) (w *world, objects []*unstructured.Unstructured, start func()) {
	t.Helper()
	w = newWorld(t)
	server := chartServer(t)
	running.stop()
	stopped := true
	start = func() {
		if stopped {
			stopped = false
			w.must(running.start())
		}
	}
	left := *w
	w = &left
	w.ns = fluxHelmNamespace
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.ns}}
	w.must(w.client.Create(w.ctx, ns))
	t.Cleanup(func() {
		ctx := context.Background()
		start()
		w.cleanup()
		w.eventually("the HelmReleases to be gone", func() error {
			var list helmv2.HelmReleaseList
			if err := w.client.List(ctx, &list, client.InNamespace(w.ns)); err != nil || len(list.Items) > 0 {
				return cmp.Or(err, fmt.Errorf("%d are there", len(list.Items)))
			}
			return nil
		})
		w.must(w.client.Delete(ctx, ns))
		w.eventually("the namespace to be gone", func() error {
			if err := w.client.Get(ctx, client.ObjectKeyFromObject(ns), ns); !apierrors.IsNotFound(err) {
				return fmt.Errorf("it is there: %w", err)
			}
			return nil
		})
	})
	for _, u := range w.left("flux-helm-objects.yaml") {
		objects = append(objects, w.restore(u))
	}
	for _, u := range w.left("flux-helm-crs.yaml") {
		if url, ok, _ := unstructured.NestedString(u.Object, "spec", "url"); ok {
			w.must(unstructured.SetNestedField(u.Object, strings.ReplaceAll(url, fluxHelmServer, strings.TrimPrefix(server.URL, "http://")), "spec", "url"))
		}
		hr := u.GetKind() == helmv2.HelmReleaseKind
		if hr { // its generation is 2
			w.must(unstructured.SetNestedField(u.Object, true, "spec", "suspend"))
		}
		now := w.restore(u)
		if hr {
			w.must(w.client.Patch(w.ctx, now, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"suspend":null}}`))))
		}
		if hr && now.GetGeneration() != 2 {
			t.Fatalf("%s has generation %d", u.GetName(), now.GetGeneration())
		}
	}
	return w, objects, start
}

// TestHelmTakeoverFromFlux: releases that helm-controller has made go on under Keelson as they are: nothing at all is written but what sources
// say of their artifacts; the next upgrade makes the next version, and what leaves the chart then leaves the cluster.
func TestHelmTakeoverFromFlux(t *testing.T) {
	w, objects, start := fluxHelmWorld(t)
	was := map[string]*helmv2.HelmRelease{"shop": w.getHelmRelease("shop"), "stall": w.getHelmRelease("stall")}
	_, from := requests(t, 0)
	start()
	w.eventually("every HelmRelease to be looked at", func() error {
		if ok, err := running.looked(w.ctx); !ok {
			return cmp.Or(err, errors.New("not yet"))
		}
		return nil
	})
	time.Sleep(2 * time.Second) // what must not happen would
	for name, before := range was {
		now := w.getHelmRelease(name)
		if diff := gocmp.Diff(before.Status, now.Status); diff != "" || before.ResourceVersion != now.ResourceVersion {
			t.Errorf("HelmRelease %s was written, from %s to %s:\n%s", name, before.ResourceVersion, now.ResourceVersion, diff)
		}
	}
	for _, before := range objects {
		now := w.read(before)
		if before.GetGeneration() != now.GetGeneration() || before.GetResourceVersion() != now.GetResourceVersion() && now.GetKind() != "Deployment" { // whose status goes on
			t.Errorf("%s %s was written by %v", now.GetKind(), now.GetName(), managersOf(now))
		}
	}
	sent, _ := requests(t, from)
	for _, r := range sent {
		source := strings.Contains(r.RequestURI, "/source.toolkit.fluxcd.io/")
		if r.ObjectRef.Namespace == w.ns && !source && r.ObjectRef.Resource != "events" && !slices.Contains([]string{"get", "list"}, r.Verb) {
			t.Errorf("the takeover sent %s %s", r.Verb, r.RequestURI)
		}
	}
	w.goesOn()
}

// goesOn has both releases upgraded: a new chart, other values, and a value that is there no more.
func (w *world) goesOn() {
	w.Helper()
	w.must(w.client.Patch(w.ctx, &sourcev1.OCIRepository{ObjectMeta: w.named("stall")}, client.RawPatch("application/merge-patch+json",
		[]byte(`{"spec":{"ref":{"tag":"1.1.0"}}}`))))
	w.must(w.client.Patch(w.ctx, &helmv2.HelmRelease{ObjectMeta: w.named("shop")}, client.RawPatch("application/merge-patch+json",
		[]byte(`{"spec":{"chart":{"spec":{"version":"1.1.0"}},"values":{"level":"high","extra":null}}}`))))
	for name, chart := range map[string]string{"shop": "1.1.0", "stall": "1.1.0+3ab2932fae5e"} {
		hr := w.released(name, 3)
		if got, want := fmt.Sprint(w.helmVersions(name)), "[1 superseded 2 superseded 3 deployed]"; got != want {
			w.Errorf("helm history %s is %s, want %s", name, got, want)
		}
		var history []string
		for _, s := range hr.Status.History {
			history = append(history, fmt.Sprintf("%d %s %s", s.Version, s.ChartVersion, s.Status))
		}
		if want := "3 " + chart + " deployed"; len(history) < 2 || history[0] != want || !strings.HasSuffix(history[1], " superseded") {
			w.Errorf("the history of %s is %q, want %q and what was before", name, history, want)
		}
		for _, kind := range []string{"v1 ConfigMap " + name, "v1 Secret " + name + "-login", "v1 Service " + name, "apps/v1 Deployment " + name} {
			f := strings.Fields(kind)
			u := &unstructured.Unstructured{}
			u.SetAPIVersion(f[0])
			u.SetKind(f[1])
			u.SetName(f[2])
			u.SetNamespace(w.ns)
			if got := managersOf(w.read(u)); !slices.Contains(got, "helm/Apply") || slices.ContainsFunc(got, func(m string) bool { return strings.HasPrefix(m, "helm-controller/") }) {
				w.Errorf("%s %s has the managers %v", f[1], f[2], got)
			}
		}
	}
	if diff := gocmp.Diff(map[string]string{"level": "high"}, w.data("shop")); diff != "" {
		w.Errorf("data after the upgrade:\n%s", diff)
	}
	if !meta.IsStatusConditionTrue(w.getHelmRelease("shop").Status.Conditions, "TestSuccess") {
		w.Error("the tests of shop did not run")
	}
}

// managersOf are the field managers of an object's fields, "helm/Apply", without those of its status.
func managersOf(u *unstructured.Unstructured) (out []string) {
	for _, f := range u.GetManagedFields() {
		if f.Subresource == "" {
			out = append(out, f.Manager+"/"+string(f.Operation))
		}
	}
	return out
}
