package source_test

import (
	"errors"
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/render"
	"keelson.dev/keelson/internal/source"
)

// included fetches a source with what it includes.
func fetchIncluding(t *testing.T, f *source.Fetcher, src delivery.Source, included ...delivery.Source) (delivery.Snapshot, error) {
	t.Helper()
	var snaps []delivery.Snapshot
	for _, inc := range included {
		snaps = append(snaps, snapshotOf(t, f, inc))
	}
	rev, err := f.Resolve(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	return f.Fetch(t.Context(), src, rev, snaps...)
}

func TestInclude(t *testing.T) {
	w := newWorld(t)
	w.commit("main", fstest.MapFS{"apps/web/kustomization.yaml": file("resources: [../../vendor/lib]\n"), "docs/a.md": file("x"), "pic.jpg": file("x")})
	w.commit("lib", fstest.MapFS{
		".sourceignore": file("*.md\n"), "base/a.yaml": file("a"), "base/b.tmp": file("b"), "base/readme.md": file("m"), "other/c.yaml": file("c"), "deploy/.sourceignore": file("secret*\n"),
		"deploy/d.yaml": file("d"), "deploy/secret.yaml": file("s"),
	})
	lib := w.source("lib")
	tests := map[string]struct {
		change func(*delivery.Source)
		want   []string
		reason string
	}{
		"a folder": {func(s *delivery.Source) {
			s.Include = []delivery.Include{{Source: lib.ID, From: "base", To: "vendor/lib"}}
		}, []string{"apps/web/kustomization.yaml", "docs/a.md", "vendor/lib/a.yaml", "vendor/lib/b.tmp"}, ""},
		"all, and its rules hold here as well": {func(s *delivery.Source) { s.Include = []delivery.Include{{Source: lib.ID, From: ".", To: "lib"}} },
			[]string{"apps/web/kustomization.yaml", "docs/a.md", "lib/.sourceignore", "lib/base/a.yaml", "lib/base/b.tmp", "lib/deploy/.sourceignore", "lib/deploy/d.yaml", "lib/other/c.yaml", "pic.jpg"}, ""},
		"the own rules hold there": {func(s *delivery.Source) {
			s.Include = []delivery.Include{{Source: lib.ID, From: "base", To: "vendor/lib"}}
			s.Ignore, s.HasIgnore = "*.tmp\n/docs/\n*.jpg\n", true
		}, []string{"apps/web/kustomization.yaml", "vendor/lib/a.yaml"}, ""},
		"beside a sparse checkout": {func(s *delivery.Source) {
			s.Include, s.Sparse = []delivery.Include{{Source: lib.ID, From: "base", To: "vendor/lib"}}, []string{"docs"}
		}, []string{"docs/a.md", "vendor/lib/a.yaml", "vendor/lib/b.tmp"}, ""},
		"no such folder": {func(s *delivery.Source) { s.Include = []delivery.Include{{Source: lib.ID, From: "none", To: "lib"}} }, nil, source.ReasonCopy},
		"what it hides":  {func(s *delivery.Source) { s.Include = []delivery.Include{{Source: lib.ID, From: "base", To: "docs"}} }, nil, source.ReasonCopy},
	}
	for how, f := range w.both() {
		for name, tt := range tests {
			src := w.source("main")
			tt.change(&src)
			snap, err := fetchIncluding(t, f, src, lib)
			if tt.reason != "" {
				if fault := (*delivery.Fault)(nil); !errors.As(err, &fault) || fault.Reason != tt.reason {
					t.Errorf("%s, %s: %v", how, name, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s, %s: %v", how, name, err)
				continue
			}
			if diff := cmp.Diff(tt.want, files(t, snap.FS)); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", how, name, diff)
			}
		}
	}
}

// A commit of an included repository renders those apps anew that read it, and only those.
func TestIncludeInputs(t *testing.T) {
	w := newWorld(t)
	const cm = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"
	w.commit("main", fstest.MapFS{"apps/web/kustomization.yaml": file("resources: [../../vendor/lib/web]\n"), "apps/plain/cm.yaml": file(cm)})
	w.commit("lib", fstest.MapFS{"web/cm.yaml": file(cm), "web/kustomization.yaml": file("resources: [cm.yaml]\n"), "unread/x.yaml": file("1")})
	lib, src := w.source("lib"), w.source("main")
	src.Include = []delivery.Include{{Source: lib.ID, From: ".", To: "vendor/lib"}}
	fetch := func() delivery.Snapshot {
		snap, err := fetchIncluding(t, w.remote, src, lib)
		if err != nil {
			t.Fatal(err)
		}
		return snap
	}
	first := fetch()
	inputs := map[string]render.Inputs{}
	for _, app := range []string{"web", "plain"} {
		_, in, err := render.Track(t.Context(), first, delivery.Build{Path: "apps/" + app}, nil)
		if err != nil || !in.Known() {
			t.Fatal(app, err)
		}
		inputs[app] = in
	}
	check := func(step string, snap delivery.Snapshot, web, plain bool) {
		t.Helper()
		if snap.Revision != first.Revision || snap.Digest == first.Digest {
			t.Errorf("%s: revision %s, digest %s: the revision stays, the digest does not", step, snap.Revision, snap.Digest)
		}
		for app, want := range map[string]bool{"web": web, "plain": plain} {
			if same, err := inputs[app].Same(snap); err != nil || same != want {
				t.Errorf("%s: %s is the same: %v, %v; want %v", step, app, same, err, want)
			}
		}
	}
	w.commit("lib", fstest.MapFS{"unread/x.yaml": file("2")})
	check("unread", fetch(), true, true)
	w.commit("lib", fstest.MapFS{"web/cm.yaml": file(cm + "data: {a: b}\n")})
	moved := fetch()
	check("read", moved, false, true)
	if b, err := fs.ReadFile(moved.FS, "vendor/lib/web/cm.yaml"); err != nil || string(b) != cm+"data: {a: b}\n" {
		t.Errorf("the file is %q, %v", b, err)
	}
}
