package render_test

import (
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/render"
)

// patched is an app that merges a list by the schema's key: by the built-in schema, containers merge by name.
func patched(kustomization string, more ...string) delivery.Snapshot {
	return delivery.Snapshot{FS: files(append([]string{
		"kustomization.yaml", "resources: [a.yaml]\npatches: [{path: p.yaml}]\n" + kustomization,
		"a.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {template: {spec: {containers: [{name: one, image: x}, {name: two, image: y}]}}}\n",
		"p.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {template: {spec: {containers: [{name: two, image: new}]}}}\n",
	}, more...)...)}
}

// TestSchemaIsolation renders apps with schemas of their own next to apps without: none sees another's.
func TestSchemaIsolation(t *testing.T) {
	const replaceLists = `{"definitions": {"io.k8s.api.apps.v1.Deployment": {"type": "object",
"x-kubernetes-group-version-kind": [{"group": "apps", "kind": "Deployment", "version": "v1"}]}}}`
	apps := map[string]struct {
		snap delivery.Snapshot
		want int // containers in the result
	}{
		"built-in schema":      {patched(""), 2},
		"schema of its own":    {patched("openapi: {path: s.json}\n", "s.json", replaceLists), 1},
		"schema in a base":     {delivery.Snapshot{FS: nested(patched("openapi: {path: s.json}\n", "s.json", replaceLists))}, 1},
		"schema is malformed":  {patched("openapi: {path: s.json}\n", "s.json", "{\"definitions\": 1}"), -1},
		"schema of a version":  {patched("openapi: {version: v1.21.2}\n"), 2},
		"schema is not there":  {patched("openapi: {version: v0.0.0}\n"), -1},
		"built-in once more":   {patched("commonLabels: {a: b}\n"), 2},
		"cluster-scoped kinds": {delivery.Snapshot{FS: files("kustomization.yaml", "namespace: x\nresources: [a.yaml]\n", "a.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n")}, 0},
	}
	var wg sync.WaitGroup
	for range 4 {
		for name, app := range apps {
			wg.Go(func() {
				for range 3 {
					objects, err := render.Build(t.Context(), app.snap, delivery.Build{Path: "."}, nil)
					if got := containers(objects, err); got != app.want {
						t.Errorf("%s: %d containers (error %v), want %d", name, got, err, app.want)
					}
				}
			})
		}
	}
	wg.Wait()
}

func nested(snap delivery.Snapshot) fstest.MapFS {
	m := files("kustomization.yaml", "resources: [base]\n")
	for name, f := range snap.FS.(fstest.MapFS) {
		m["base/"+name] = f
	}
	return m
}

func containers(objects []delivery.Object, err error) int {
	if err != nil {
		return -1
	}
	list, _, _ := unstructured.NestedSlice(objects[0].Object, "spec", "template", "spec", "containers")
	return len(list)
}

// TestRepeatable renders every overlay many times at once: a render is a pure function of its input.
func TestRepeatable(t *testing.T) {
	overlays := map[string]testCase{}
	for _, name := range []string{"overlay-development", "overlay-staging", "overlay-production", "plain-folder", "substitute"} {
		overlays[name] = readCase(t, "testdata/"+name+".txtar")
	}
	var wg sync.WaitGroup
	for name, c := range overlays {
		want, _ := c.want("want.yaml")
		for range 4 {
			wg.Go(func() {
				for range 5 {
					if diff := cmp.Diff(want, outcome(t, c, c.mapFS()).text); diff != "" {
						t.Errorf("%s (-want +got):\n%s", name, diff)
					}
				}
			})
		}
	}
	wg.Wait()
}

// BenchmarkBuild is what a commit to one app costs: a base and an overlay, and the same as plain manifests.
func BenchmarkBuild(b *testing.B) {
	render.Warm()
	for _, name := range []string{"overlay-development", "overlay-production", "plain-folder"} {
		b.Run(name, func(b *testing.B) {
			c := readCase(b, "testdata/"+name+".txtar")
			snap := delivery.Snapshot{FS: c.mapFS()}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := render.Build(b.Context(), snap, c.spec.Build, c.spec.Vars); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
