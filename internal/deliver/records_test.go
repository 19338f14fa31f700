package deliver

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/render"
)

// delivered is a memory after a delivery of two objects.
func delivered(t *testing.T, key delivery.Key) *Memory {
	t.Helper()
	var inputs render.Inputs
	if _, in, err := render.Track(t.Context(), delivery.Snapshot{FS: os.DirFS(t.TempDir()), Digest: "sha256:1"}, delivery.Build{Path: "."}, nil); err != nil {
		t.Fatal(err)
	} else {
		inputs = in
	}
	a := delivery.Ref{Kind: "ConfigMap", Namespace: "dev", Name: "a"}
	b := delivery.Ref{Group: "apps", Kind: "Deployment", Namespace: "dev", Name: "b"}
	inv := delivery.Inventory{a: "v1", b: "v1"}
	return &Memory{
		Inventory: inv, desired: inv, unsaved: true, left: map[delivery.Ref]bool{a: true}, made: origin{spec: "uid/1", vars: "v", inputs: inputs},
		applied: map[delivery.Ref]delivery.Applied{
			a: {Desired: key.Hash([]byte("a")), Owned: key.Hash([]byte("a live")), Replicas: -1},
			b: {Desired: key.Hash([]byte("b")), Owned: key.Hash([]byte("b live")), Replicas: 3, Autoscaled: true, Kept: key.Hash([]byte("b kept"))},
		},
	}
}

func TestRecords(t *testing.T) {
	app := delivery.ID{Kind: "Kustomization", Namespace: "flux-system", Name: "../../app"}
	spoil := func(change func(t *testing.T, file string)) func(*testing.T, string, *Records) {
		return func(t *testing.T, _ string, r *Records) { t.Helper(); change(t, r.file(app)) }
	}
	write := func(file, text string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			t.Helper()
			if file != "" {
				path = file
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := map[string]struct {
		reason   string
		renderer string
		between  func(t *testing.T, dir string, r *Records)
		want     bool
	}{
		"as it was":          {"a restart remembers", "v1", nil, true},
		"another renderer":   {"another version may render otherwise", "v2", nil, false},
		"empty file":         {"the machine lost power", "v1", spoil(write("", "")), false},
		"cut off":            {"the machine lost power", "v1", spoil(write("", `{"format":2,"renderer":"v1"`)), false},
		"of another app":     {"somebody moved files about", "v1", spoil(write("", `{"format":2,"renderer":"v1","app":"other"}`)), false},
		"forgotten":          {"the app was deleted", "v1", func(t *testing.T, _ string, r *Records) { must(t, r.Drop(app)) }, false},
		"not retained":       {"the app was deleted while nobody looked", "v1", func(t *testing.T, _ string, r *Records) { must(t, r.Retain(nil)) }, false},
		"retained":           {"the app is still there", "v1", func(t *testing.T, _ string, r *Records) { must(t, r.Retain([]delivery.ID{app})) }, true},
		"the key is damaged": {"hashes of another key are worth nothing", "v1", func(t *testing.T, dir string, _ *Records) { write(filepath.Join(dir, "key"), "xyz")(t, "") }, false},
		"the key is gone":    {"hashes of another key are worth nothing", "v1", func(t *testing.T, dir string, _ *Records) { must(t, os.Remove(filepath.Join(dir, "key"))) }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "records")
			r, err := OpenRecords(dir, "v1")
			must(t, err)
			mem := delivered(t, r.Key())
			must(t, r.Save(app, mem))
			if mem.unsaved {
				t.Error("saved, and still to be saved")
			}
			if tt.between != nil {
				tt.between(t, dir, r)
			}
			r, err = OpenRecords(dir, tt.renderer)
			must(t, err)
			got := Memory{Inventory: mem.Inventory}
			r.Load(delivery.App{ID: app, UID: "uid"}, &got)
			if known := got.made.spec != ""; known != tt.want {
				t.Fatalf("known after the restart: %v, want %v: %s", known, tt.want, tt.reason)
			}
			if !tt.want {
				return
			}
			if diff := cmp.Diff(mem.applied, got.applied); diff != "" {
				t.Errorf("applied (-saved +loaded):\n%s", diff)
			}
			if diff := cmp.Diff(mem.left, got.left); diff != "" {
				t.Errorf("left alone (-saved +loaded):\n%s", diff)
			}
			if !got.desired.Equal(mem.desired) || got.made.spec != mem.made.spec || got.made.vars != mem.made.vars {
				t.Errorf("loaded %+v, saved %+v", got, mem)
			}
			if same, err := got.made.inputs.Same(delivery.Snapshot{Digest: "sha256:1"}); err != nil || !same {
				t.Errorf("inputs after the restart: same %v, %v", same, err)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestRecordsTellNothing looks for a secret, and for its plain hash, in all files.
func TestRecordsTellNothing(t *testing.T) {
	dir := t.TempDir()
	r, err := OpenRecords(dir, "v1")
	must(t, err)
	other, err := OpenRecords(t.TempDir(), "v1")
	must(t, err)
	if r.Key().Hash([]byte("hunter2")) == other.Key().Hash([]byte("hunter2")) {
		t.Error("two controllers hash with the same key")
	}
	must(t, r.Save(delivery.ID{Kind: "Kustomization", Namespace: "a", Name: "b"}, delivered(t, r.Key())))
	for _, name := range []string{"key", "apps"} {
		info, err := os.Stat(filepath.Join(dir, name))
		must(t, err)
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s can be read by others: %s", name, info.Mode())
		}
	}
}
