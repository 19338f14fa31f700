package main

import (
	"context"
	"errors"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/render"
)

func TestFleetIsWhatItIsSaidToBe(t *testing.T) {
	f := fleet{name: "fleet", apps: 120, repositories: 1}
	files, err := f.files(0)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(f.namespaces()); got != fleetNamespaces {
		t.Errorf("%d namespaces", got)
	}
	refs := map[delivery.Ref]bool{}
	for i := range f.apps {
		kinds := map[string]int{}
		for _, o := range renderFolder(t, files, f.folder(i)) {
			kinds[o.GetKind()]++
			refs[o.Ref()] = true
			if o.GetNamespace() != f.namespace(i) {
				t.Errorf("%s is not in %s", o.Ref(), f.namespace(i))
			}
			switch o.GetKind() {
			case "Deployment":
				if got := replicasOf(o.Unstructured); got != 0 {
					t.Errorf("%s has %d replicas", o.Ref(), got)
				}
			case "ConfigMap":
				data, _, _ := unstructured.NestedStringMap(o.Object, "data")
				size := 0
				for k, v := range data {
					size += len(k) + len(v)
				}
				if size != configBytes {
					t.Errorf("%s has %d bytes of data", o.Ref(), size)
				}
			}
		}
		if diff := cmp.Diff(map[string]int{"Deployment": 1, "Service": 1, "ConfigMap": 2, "ServiceAccount": 1}, kinds); diff != "" {
			t.Fatalf("%s: %s", f.app(i), diff)
		}
	}
	if len(refs) != f.apps*objectsPerApp {
		t.Errorf("%d different objects, want %d", len(refs), f.apps*objectsPerApp)
	}
}

// renderFolder builds a folder as the engine does.
func renderFolder(t *testing.T, files map[string]string, folder string) []delivery.Object {
	t.Helper()
	m := fstest.MapFS{}
	for name, text := range files {
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	objects, err := render.Build(t.Context(), delivery.Snapshot{FS: m}, delivery.Build{Path: folder}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func TestFleetOverRepositories(t *testing.T) {
	f := fleet{name: "fleet", apps: 7, repositories: 3}
	whole := map[string]int{}
	for r := range f.repositories {
		files, err := f.files(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.inRepository(r) {
			if f.repository(i) != f.repositoryName(r) || files[path.Join(f.folder(i), "kustomization.yaml")] == "" {
				t.Errorf("%s is to be in %s and is not", f.app(i), f.repository(i))
			}
			whole[f.app(i)]++
			source, _, _ := unstructured.NestedString(f.kustomization(i).Object, "spec", "sourceRef", "name")
			if source != f.repositoryName(r) {
				t.Errorf("%s follows %s", f.app(i), source)
			}
		}
	}
	for i := range f.apps {
		if whole[f.app(i)] != 1 {
			t.Errorf("%s is in %d repositories", f.app(i), whole[f.app(i)])
		}
	}
}

func TestCommitIsOneLine(t *testing.T) {
	f := fleet{name: "fleet", apps: 3, repositories: 1}
	before, err := f.files(0)
	if err != nil {
		t.Fatal(err)
	}
	after, err := f.change(1, "another")
	if err != nil || len(after) != 1 {
		t.Fatalf("%d files, %v", len(after), err)
	}
	for name, text := range after {
		x, y := strings.Split(before[name], "\n"), strings.Split(text, "\n")
		changed := 0
		for i := range min(len(x), len(y)) {
			if x[i] != y[i] {
				changed++
			}
		}
		if len(x) != len(y) || changed != 1 {
			t.Errorf("%d of %d lines changed to %d:\n%s", changed, len(x), len(y), cmp.Diff(x, y))
		}
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil || valueOf(u) != "another" || u.GetName() != f.config(1, 1) {
			t.Errorf("%s is %s with %q (%v)", name, u.GetName(), valueOf(u), err)
		}
	}
}

func TestOverlayUsesWhatPeopleUse(t *testing.T) {
	var seen []string
	for _, o := range renderFolder(t, overlayFiles(8), overlayFolder(7)) {
		seen = append(seen, o.GetKind()+" "+o.GetNamespace()+"/"+strings.TrimSuffix(o.GetName(), lastPart(o.GetName(), "settings")))
		switch o.GetKind() {
		case "Deployment":
			if got := imageOf(o.Unstructured); got != "registry.example/web:1.4.7" {
				t.Errorf("image %s", got)
			}
			if got := replicasOf(o.Unstructured); got != 3 {
				t.Errorf("%d replicas", got)
			}
		case "Ingress":
			rules, _, _ := unstructured.NestedSlice(o.Object, "spec", "rules")
			if host := rules[0].(map[string]any)["host"]; host != "team-07.example" {
				t.Errorf("host %v", host)
			}
		}
	}
	slices.Sort(seen)
	want := []string{"ConfigMap team-07/t7-settings", "ConfigMap team-07/t7-web", "Deployment team-07/t7-web", "Ingress team-07/t7-web", "Service team-07/t7-web"}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Error(diff)
	}
}

// lastPart is what follows a word in a name: the hash of a generated one.
func lastPart(name, word string) string {
	_, rest, _ := strings.Cut(name, word)
	return rest
}

// TestFloorMakesTheSameWrites: what the floor sends for an app is what is delivered for it, and nothing less.
func TestFloorMakesTheSameWrites(t *testing.T) {
	f := fleet{name: "floor", apps: 60, repositories: 1}
	all, err := f.writes(55)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range all {
		got = append(got, strings.TrimSpace(string(w.verb)+" "+w.path))
		if len(w.body) < 100 {
			t.Errorf("%s has a body of %d bytes", w.path, len(w.body))
		}
	}
	const apply = "application/apply-patch+yaml /"
	want := []string{
		"/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/floor-apps/kustomizations",
		apply + "api/v1/namespaces/floor-05/serviceaccounts/app-0055",
		apply + "api/v1/namespaces/floor-05/configmaps/app-0055-config-1",
		apply + "api/v1/namespaces/floor-05/configmaps/app-0055-config-2",
		apply + "api/v1/namespaces/floor-05/services/app-0055",
		apply + "apis/apps/v1/namespaces/floor-05/deployments/app-0055",
		"application/merge-patch+json /apis/kustomize.toolkit.fluxcd.io/v1/namespaces/floor-apps/kustomizations/app-0055/status",
		"/api/v1/namespaces/floor-apps/events",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEach(t *testing.T) {
	var mu sync.Mutex
	done := map[int]int{}
	err := each(t.Context(), 4, 100, func(_ context.Context, i int) error {
		mu.Lock()
		defer mu.Unlock()
		done[i]++
		return nil
	})
	if err != nil || len(done) != 100 || slices.Max(slices.Collect(maps.Values(done))) != 1 {
		t.Errorf("%d of 100 were done, or some twice (%v)", len(done), err)
	}
	broken := errors.New("broken")
	calls := 0
	err = each(t.Context(), 1, 100, func(_ context.Context, i int) error {
		if calls++; i == 3 {
			return broken
		}
		return nil
	})
	if !errors.Is(err, broken) || calls != 4 {
		t.Errorf("%d calls, %v; want 4 until it is broken", calls, err)
	}
}
