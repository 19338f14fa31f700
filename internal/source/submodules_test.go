package source_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/source"
)

// gitlink commits submodules to the branch main: triples of path, URL and commit.
func (w *world) gitlink(name string, triples ...string) string {
	w.t.Helper()
	var modules strings.Builder
	for i := 0; i < len(triples); i += 3 {
		fmt.Fprintf(&modules, "[submodule %q]\n\tpath = %s\n\turl = %s\n", triples[i], triples[i], triples[i+1])
	}
	head := w.commit(name, fstest.MapFS{".gitmodules": file(modules.String())})
	w.git(name, "read-tree", head)
	for i := 0; i < len(triples); i += 3 {
		w.git(name, "update-index", "--add", "--cacheinfo", "160000,"+triples[i+2]+","+triples[i])
	}
	id := w.git(name, "commit-tree", "-p", head, "-m", "submodules", w.git(name, "write-tree"))
	w.git(name, "update-ref", "refs/heads/main", id)
	return id
}

func TestSubmodules(t *testing.T) {
	w := newWorld(t, func(o *githost.Options) { o.GuardReads = true })
	leaf := w.commit("leaf", fstest.MapFS{"leaf.yaml": file("leaf"), "leaf.md": file("m")})
	w.commit("lib", fstest.MapFS{"lib.yaml": file("lib")})
	lib := w.gitlink("lib", "deep/leaf", "../leaf.git", leaf)
	w.commit("app", fstest.MapFS{"top.yaml": file("top")})
	w.gitlink("app", "vendor/lib", w.url("lib"), lib, "leaf", "./../leaf.git", leaf)
	src := w.source("app")
	src.Credentials = delivery.Credentials{Username: "u", Password: token}
	src.Ignore, src.HasIgnore = "*.md\n", true
	if diff := cmp.Diff([]string{"top.yaml"}, files(t, snapshotOf(t, w.remote, src).FS)); diff != "" {
		t.Errorf("without submodules (-want +got):\n%s", diff)
	}
	src.Submodules = true
	for how, f := range w.both() {
		snap := snapshotOf(t, f, src)
		if diff := cmp.Diff([]string{"leaf/leaf.yaml", "top.yaml", "vendor/lib/deep/leaf/leaf.yaml", "vendor/lib/lib.yaml"}, files(t, snap.FS)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", how, diff)
		}
	}
	// What is here is not asked for again, and is kept as long as its source is.
	if err := w.remote.Retain(t.Context(), []delivery.Source{src}); err != nil {
		t.Fatal(err)
	}
	before := w.fetches.Load()
	snapshotOf(t, w.remote, src)
	if n := w.fetches.Load() - before; n != 0 {
		t.Errorf("fetched %d times for nothing", n)
	}
}

// Credentials stay with their host, and a commit cannot lead to other schemes, to itself, or to what nobody gave access to.
func TestSubmoduleLimits(t *testing.T) {
	w := newWorld(t, func(o *githost.Options) { o.GuardReads = true })
	other := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("credentials were sent to another host: %s", r.URL)
		}
		rw.WriteHeader(http.StatusUnauthorized)
	}))
	defer other.Close()
	leaf := w.commit("leaf", fstest.MapFS{"leaf.yaml": file("leaf")})
	tests := map[string]struct{ url, reason string }{
		"another host":   {other.URL + "/x.git", source.ReasonAuth},
		"a file":         {"file:///etc", source.ReasonURL},
		"a program":      {"ext::sh -c id", source.ReasonURL},
		"no such commit": {w.url("leaf"), source.ReasonGit},
		"nothing":        {w.url("gone"), source.ReasonGit},
	}
	for name, tt := range tests {
		repo := strings.ReplaceAll(name, " ", "-")
		w.commit(repo, fstest.MapFS{"a.yaml": file("a")})
		commit := leaf
		if name == "no such commit" {
			commit = strings.Repeat("1", 40)
		}
		w.gitlink(repo, "sub", tt.url, commit)
		src := w.source(repo)
		src.Submodules, src.Credentials = true, delivery.Credentials{Username: "u", Password: token}
		rev, err := w.remote.Resolve(t.Context(), src)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.remote.Fetch(t.Context(), src, rev)
		if f := (*delivery.Fault)(nil); !errors.As(err, &f) || f.Reason != tt.reason || !strings.Contains(err.Error(), "sub") || strings.Contains(err.Error(), token) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSubmodulesReplaced: the mirror of a submodule that is gone from the source is let go of.
func TestSubmodulesReplaced(t *testing.T) {
	w := newWorld(t)
	one, two := w.commit("one", fstest.MapFS{"a": file("1")}), w.commit("two", fstest.MapFS{"a": file("2")})
	w.commit("app", fstest.MapFS{"top.yaml": file("top")})
	src := w.source("app")
	src.Submodules = true
	for url, commit := range map[string]string{w.url("one"): one, w.url("two"): two} {
		w.gitlink("app", "sub", url, commit)
		snapshotOf(t, w.remote, src)
	}
	if err := w.remote.Retain(t.Context(), []delivery.Source{src}); err != nil {
		t.Fatal(err)
	}
	if dirs, err := filepath.Glob(filepath.Join(w.dir, "*.git")); err != nil || len(dirs) != 2 {
		t.Errorf("%d mirrors, want the source's and that of its submodule (%v)", len(dirs), err)
	}
}
