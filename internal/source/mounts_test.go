package source_test

import (
	"errors"
	"io/fs"
	"testing"
	"testing/fstest"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/render"
	"keelson.dev/keelson/internal/source"
)

func TestCompose(t *testing.T) {
	w := newWorld(t)
	const cm = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"
	w.commit("apps", fstest.MapFS{"web/cm.yaml": file(cm), "unread/a.yaml": file("1"), "logo.png": file("png")})
	w.commit("values", fstest.MapFS{"prod.yaml": file("a: 1\n"), "deep/er/x": file("x")})
	w.link("values", "out", "../0/web/cm.yaml", "link", "deep/er/x", "climb", "deep/er/../../../0/web/cm.yaml", "away/to", "../link")
	compose := func() delivery.Snapshot {
		t.Helper()
		apps, values := w.source("apps"), w.source("values")
		apps.Whole, values.Whole = true, true
		snap, err := source.Compose([]source.Mounted{{At: "1", Snapshot: w.snapshot(values)}, {At: "0", Snapshot: w.snapshot(apps)}})
		if err != nil {
			t.Fatal(err)
		}
		return snap
	}
	first := compose()
	for name, want := range map[string]string{"0/web/cm.yaml": cm, "0/logo.png": "png", "1/prod.yaml": "a: 1\n", "1/link": "x", "1/away/to": "x"} {
		if got := content(t, first, name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"1/out", "1/climb"} {
		if _, err := fs.ReadFile(first.FS, name); !errors.Is(err, delivery.ErrEscapes) {
			t.Errorf("%s leads into another source: %v", name, err)
		}
		if target, err := fs.ReadLink(first.FS, name); !errors.Is(err, delivery.ErrEscapes) {
			t.Errorf("%s leads into another source: to %q, %v", name, target, err)
		}
	}
	for _, name := range []string{"2", "2/a", "web/cm.yaml", "0/../1/prod.yaml", "0/prod.yaml", "0//web"} {
		if _, err := fs.ReadFile(first.FS, name); err == nil {
			t.Errorf("%s is there", name)
		}
	}

	_, inputs, err := render.Track(t.Context(), first, delivery.Build{Path: "0/web"}, nil)
	if err != nil || !inputs.Known() {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name, repo string
		files      fstest.MapFS
		same       bool
	}{
		{"nothing", "", nil, true},
		{"the other source", "values", fstest.MapFS{"prod.yaml": file("a: 2\n")}, true},
		{"an unread file of this one", "apps", fstest.MapFS{"unread/a.yaml": file("2")}, true},
		{"a file that was read", "apps", fstest.MapFS{"web/cm.yaml": file(cm + "data: {}\n")}, false},
	} {
		if step.repo != "" {
			w.commit(step.repo, step.files)
		}
		now := compose()
		if same, err := inputs.Same(now); err != nil || same != step.same {
			t.Errorf("%s: same = %v, %v", step.name, same, err)
		}
		if changed := step.repo != ""; (now.Digest != first.Digest) != changed || (now.Revision != first.Revision) != changed {
			t.Errorf("%s: the digest is %s and the revision %s, they were %s and %s", step.name, now.Digest, now.Revision, first.Digest, first.Revision)
		}
	}
}

func TestComposeIsAGoodFS(t *testing.T) {
	w := newWorld(t)
	w.commit("a", fstest.MapFS{"x/y": file("y"), "z": file("")})
	w.commit("b", fstest.MapFS{"x/.sourceignore": file("no\n"), "x/no": file("n"), "x/yes": file("y")})
	snap, err := source.Compose([]source.Mounted{{At: "0", Snapshot: w.snapshot(w.source("a"))}, {At: "10", Snapshot: w.snapshot(w.source("b"))}, {At: "2", Snapshot: w.snapshot(w.source("a"))}})
	if err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(snap.FS, "0/x/y", "0/z", "10/x/yes", "2/z"); err != nil {
		t.Error(err)
	}
	if _, err := fs.Stat(snap.FS, "10/x/no"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a source leaves out: %v", err)
	}
}

func TestComposeOne(t *testing.T) {
	w := newWorld(t)
	w.commit("a", fstest.MapFS{"x": file("y")})
	only := w.snapshot(w.source("a"))
	snap, err := source.Compose([]source.Mounted{{At: "0", Snapshot: only}})
	if err != nil || snap.Revision != only.Revision {
		t.Errorf("the revision of the only source is %s, not %s: %v", only.Revision, snap.Revision, err)
	}
	for name, bad := range map[string][]source.Mounted{
		"twice": {{"0", only}, {"0", only}}, "deeper": {{"0/1", only}}, "the root": {{".", only}}, "outside": {{"..", only}},
		"foreign": {{"0", delivery.Snapshot{FS: fstest.MapFS{}}}},
	} {
		if _, err := source.Compose(bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
