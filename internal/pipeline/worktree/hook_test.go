package worktree

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestHook reads what a pipeline needs while a hook of the repository runs, with the variables that git gives it.
func TestHook(t *testing.T) {
	dir := t.TempDir()
	sh(t, dir, `
		git init -q -b main lib; cd lib; echo v1 > ci.yml; git add .; git commit -qm 1; echo v2 > ci.yml; git commit -qam 2; cd ..
		git init -q -b main app; cd app; echo 1 > a; git add .; git commit -qm 1; echo 2 > a; git commit -qam 2; git worktree add -q ../linked HEAD
		git init -q -b main ../elsewhere; echo 1 > ../elsewhere/other`)
	app, linked, lib := filepath.Join(dir, "app"), filepath.Join(dir, "linked"), filepath.Join(dir, "lib")
	files := func() string { return sh(t, app, "cd .git; find . -type f | sort | xargs sha256sum") }
	before := files()
	t.Setenv("GIT_DIR", filepath.Join(app, ".git"))
	t.Setenv("GIT_PREFIX", "")
	t.Setenv("GIT_INDEX_FILE", filepath.Join(app, ".git", "next-index-1.lock"))
	for at, want := range map[string]string{app: "a", linked: "a", filepath.Join(dir, "elsewhere"): "other"} {
		r := open(t, at)
		paths, err := r.Paths()
		if err != nil || strings.Join(paths, " ") != want {
			t.Errorf("%s: files %q, %v", at, paths, err)
		}
		if changes, err := r.changedFrom(t.Context(), "HEAD"); at != filepath.Join(dir, "elsewhere") && (err != nil || len(changes) != 0) {
			t.Errorf("%s: changes %q, %v", at, changes, err)
		}
	}
	f := open(t, app).Files(t.Context(), FilesOptions{Cache: filepath.Join(dir, "cache")})
	defer f.Close()
	p, err := f.fetchProject("group/lib", "main", "file://"+lib)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if text, err := p.read("ci.yml"); err != nil || strings.TrimSpace(string(text)) != "v2" {
		t.Errorf("%q, %v", text, err)
	}
	t.Setenv("GIT_DIR", "")
	if after := files(); after != before {
		b, a := strings.Split(before, "\n"), strings.Split(after, "\n")
		t.Errorf("the repository was written to: %q", slices.DeleteFunc(a, func(s string) bool { return slices.Contains(b, s) }))
	}
}

// TestBrokenCopy: git does not look for a repository above a copy that it cannot take for one.
func TestBrokenCopy(t *testing.T) {
	dir := t.TempDir()
	sh(t, dir, `git init -q -b main lib; cd lib; echo v1 > ci.yml; git add .; git commit -qm 1; cd ..; git init -q -b main home`)
	lib, cache := filepath.Join(dir, "lib"), filepath.Join(dir, "home", "cache")
	at := filepath.Join(cache, "projects", cacheName("file://"+lib))
	sh(t, dir, "mkdir -p '"+at+"'; : > '"+at+"/HEAD'")
	f := open(t, t.TempDir()).Files(t.Context(), FilesOptions{Cache: cache})
	defer f.Close()
	_, err := f.fetchProject("group/lib", "main", "file://"+lib)
	if err == nil {
		t.Error("it is fetched")
	}
	if objects := sh(t, dir, "cd home/.git; find . -name shallow -o -path '*/keelson/*'"); objects != "" {
		t.Errorf("the repository above was written to: %s, %v", objects, err)
	}
}
