package source_test

import (
	"errors"
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/source"
)

// both are the fetchers that read in place and over HTTP.
func (w *world) both() map[string]*source.Fetcher {
	return map[string]*source.Fetcher{"in place": w.f, "over HTTP": w.remote}
}

func files(t *testing.T, fsys fs.FS) []string {
	t.Helper()
	var names []string
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func snapshotOf(t *testing.T, f *source.Fetcher, src delivery.Source) delivery.Snapshot {
	t.Helper()
	rev, err := f.Resolve(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := f.Fetch(t.Context(), src, rev)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func TestSemVer(t *testing.T) {
	w := newWorld(t)
	ids := map[string]string{}
	for _, tag := range []string{"v1.2.3", "1.10.0", "2.0.0-rc.1", "v2.0.0", "2.1", "nightly", "v3.0.0-alpha"} {
		ids[tag] = w.commit("r", fstest.MapFS{"a.txt": file(tag)})
		if tag == "v2.0.0" {
			w.git("r", "tag", "-a", "-m", "release", tag, ids[tag])
		} else {
			w.git("r", "tag", tag, ids[tag])
		}
	}
	tests := []struct{ want, tag string }{ // as Masterminds/semver reads them
		{">=1.0.0", "v2.0.0"}, {"1.x", "1.10.0"}, {"~1.2", "v1.2.3"}, {"<2.0.0", "1.10.0"},
		{">=2.0.0-0 <2.0.0", "2.0.0-rc.1"}, {">=1.0.0-0", "v3.0.0-alpha"}, {">=3.0.0", ""}, {"one or so", ""},
	}
	for how, f := range w.both() {
		for _, tt := range tests {
			src := w.source("r")
			src.Ref = delivery.GitRef{SemVer: tt.want, Branch: "main"}
			rev, err := f.Resolve(t.Context(), src)
			if tt.tag == "" {
				var fault *delivery.Fault
				if !errors.As(err, &fault) || fault.Retry != delivery.OnChange {
					t.Errorf("%s, %s: %v, %v", how, tt.want, rev, err)
				}
				continue
			}
			if want := tt.tag + "@sha1:" + ids[tt.tag]; err != nil || rev.String() != want {
				t.Errorf("%s, %s: %v, %v, want %s", how, tt.want, rev, err, want)
				continue
			}
			if b, err := fs.ReadFile(snapshotOf(t, f, src).FS, "a.txt"); err != nil || string(b) != tt.tag {
				t.Errorf("%s, %s: a.txt = %q, %v", how, tt.want, b, err)
			}
		}
	}
}

// What a ref is called, and which one wins, is as in Flux.
func TestRefPrecedence(t *testing.T) {
	w := newWorld(t)
	first := w.commit("r", fstest.MapFS{"a.txt": file("1")})
	w.git("r", "tag", "-a", "-m", "x", "v1.0.0", first)
	w.git("r", "update-ref", "refs/pull/7/head", first)
	second := w.commit("r", fstest.MapFS{"a.txt": file("2")})
	w.git("r", "tag", "v1.1.0", second)
	tests := []struct {
		ref  delivery.GitRef
		want string
	}{
		{delivery.GitRef{Branch: "main"}, "main@sha1:" + second},
		{delivery.GitRef{Branch: "main", SemVer: "1.0.x"}, "v1.0.0@sha1:" + first},
		{delivery.GitRef{SemVer: "1.x", Tag: "v1.0.0"}, "v1.0.0@sha1:" + first},
		{delivery.GitRef{Tag: "v1.0.0", Name: "refs/heads/main"}, "refs/heads/main@sha1:" + second},
		{delivery.GitRef{Name: "refs/pull/7/head"}, "refs/pull/7/head@sha1:" + first},
		{delivery.GitRef{Name: "refs/tags/v1.0.0"}, "refs/tags/v1.0.0@sha1:" + first},
		{delivery.GitRef{Name: "refs/tags/v1.0.0^{}"}, "refs/tags/v1.0.0^{}@sha1:" + first},
		{delivery.GitRef{Commit: first, Name: "refs/heads/main"}, "sha1:" + first},
		{delivery.GitRef{Commit: first, Branch: "main", SemVer: "1.x"}, "main@sha1:" + first},
	}
	for how, f := range w.both() {
		for _, tt := range tests {
			src := w.source("r")
			src.Ref = tt.ref
			if got := snapshotOf(t, f, src).Revision.String(); got != tt.want {
				t.Errorf("%s: %+v gives %s, want %s", how, tt.ref, got, tt.want)
			}
		}
	}
}

func TestSparse(t *testing.T) {
	w := newWorld(t)
	w.commit("r", fstest.MapFS{
		".sourceignore": file("*.txt\n"), "top.yaml": file("x"), "apps/a/a.yaml": file("x"), "apps/a/a.txt": file("x"), "apps/a/pic.jpg": file("x"),
		"apps-2/b.yaml": file("x"), "infra/base/c.yaml": file("x"), "infra/other/d.yaml": file("x"), "docs/e.md": file("x"),
	})
	w.link("r", "apps/out", "../docs/e.md", "apps/in", "a/a.yaml")
	tests := map[string]struct {
		sparse []string
		ignore string
		want   []string
	}{
		"a folder":         {[]string{"infra/base"}, "", []string{"infra/base/c.yaml"}},
		"not its namesake": {[]string{"apps"}, "", []string{"apps/a/a.txt", "apps/a/a.yaml", "apps/in", "apps/out"}}, // nor the root's ignore file, but the defaults
		"several":          {[]string{"docs", "infra/other", "top.yaml"}, "", []string{"docs/e.md", "infra/other/d.yaml", "top.yaml"}},
		"with rules":       {[]string{"apps/a"}, "*.txt\n", []string{"apps/a/a.yaml", "apps/a/pic.jpg"}},
		"the root's file":  {[]string{".sourceignore", "apps/a"}, "", []string{".sourceignore", "apps/a/a.yaml", "apps/a/pic.jpg"}},
		"everything":       {[]string{"."}, "*\n!top.yaml\n", []string{"top.yaml"}},
	}
	digests := map[string]string{}
	for name, tt := range tests {
		src := w.source("r")
		src.Sparse, src.Ignore, src.HasIgnore = tt.sparse, tt.ignore, tt.ignore != ""
		snap := snapshotOf(t, w.remote, src)
		if diff := cmp.Diff(tt.want, files(t, snap.FS)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if other := digests[snap.Digest+snap.Rules]; other != "" {
			t.Errorf("%s is told apart from %s by nothing", name, other)
		}
		digests[snap.Digest+snap.Rules] = name
	}
	src := w.source("r")
	src.Sparse = []string{"apps"}
	fsys := snapshotOf(t, w.remote, src).FS
	if _, err := fs.ReadFile(fsys, "apps/out"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link to what is not checked out: %v", err)
	}
	if b, err := fs.ReadFile(fsys, "apps/in"); err != nil || string(b) != "x" {
		t.Errorf("a link inside: %q, %v", b, err)
	}
	src.Sparse = []string{"apps", "gone"}
	rev, err := w.remote.Resolve(t.Context(), src)
	if err == nil {
		_, err = w.remote.Fetch(t.Context(), src, rev)
	}
	if f := (*delivery.Fault)(nil); !errors.As(err, &f) || f.Reason != source.ReasonGit || f.Retry != delivery.OnChange {
		t.Errorf("a folder that is not there: %v", err)
	}
}
