package artifact

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keelson.dev/keelson/internal/pipeline"
)

// sources makes a clone whose repository says nothing, and what else is in it.
func sources(t *testing.T, items ...string) string {
	t.Helper()
	dir := t.TempDir()
	makeTree(t, dir, append([]string{".git/config=mine", ".git/hooks/", ".git/empty/"}, items...)...)
	return dir
}

// intact checks that a directory's repository is as sources has made it; an empty name says that there was none.
func intact(t *testing.T, dir, config string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(dir, ".git/config"))
	if string(got) != config || (err != nil) != (config == "") {
		t.Errorf(".git/config is %q now, %v", got, err)
	}
	for _, name := range []string{".git/evil", ".git/hooks/evil", ".git/empty/evil"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s was written", name)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, ".git")); err == nil && info.Mode().Perm() != 0o755 {
		t.Errorf(".git has the mode %v now", info.Mode())
	}
}

// throughLinks are files that go into the repository of a directory that has such links.
var throughLinks = map[string]struct {
	there []string // in the directory
	files []string // in the archive
}{
	"a link":                        {[]string{"x -> .git"}, []string{"x/config=evil"}},
	"a link to a link":              {[]string{"y -> .git", "x -> y"}, []string{"x/config=evil"}},
	"a link that climbs":            {[]string{"d/", "d/x -> ../.git"}, []string{"d/x/config=evil"}},
	"a link below it":               {[]string{"x -> .git/hooks"}, []string{"x/evil=evil"}},
	"a link to the top":             {[]string{"x -> ."}, []string{"x/.git/config=evil"}},
	"a directory below it":          {[]string{"x -> .git"}, []string{"x/hooks/evil=evil"}},
	"a new directory below it":      {[]string{"x -> .git"}, []string{"x/evil/f=evil"}},
	"an empty directory":            {[]string{"x -> .git"}, []string{"x/"}},
	"a link in the place of a link": {[]string{"b/l/", "a -> b"}, []string{"a/", "a/l -> ../.git", "b/l/config=evil"}},
	"the other way round":           {[]string{"b/l/", "a -> b"}, []string{"b/", "b/l -> ../.git", "a/l/config=evil"}},
}

// What an agent sends is never written into the repository, whatever links are in the directory: the server's git would do what is said there.
func TestUnpackThroughLinks(t *testing.T) {
	for name, tt := range throughLinks {
		t.Run(name, func(t *testing.T) {
			dir := sources(t, tt.there...)
			from := t.TempDir()
			makeTree(t, from, tt.files...)
			var b bytes.Buffer
			if err := Pack(t.Context(), &b, from, Limits{}); err != nil {
				t.Fatal(err)
			}
			selected := []Selection{{Paths: []string{"x/config", "x/index", "nothing"}}}
			if err := UnpackSelected(t.Context(), &b, dir, selected, nil, Limits{}); err == nil {
				t.Errorf("no error, and %q", treeOf(t, dir))
			}
			intact(t, dir, "mine")
		})
	}
}

// Of two uploads the first one brings the link and the second one the file.
func TestUnpackLinkFirst(t *testing.T) {
	dir := sources(t)
	selected := []Selection{{Paths: []string{"x", "x/config"}}}
	put := func(content string, e ...entry) error {
		return UnpackSelected(t.Context(), bytes.NewReader(bundle(t, content, e...)), dir, selected, nil, Limits{})
	}
	if err := put("", entry{Path: "x", Mode: link, Link: ".git"}); err != nil {
		t.Fatal(err)
	}
	selected = []Selection{{Paths: []string{"x/config"}}}
	err := put("evil", entry{Path: "x/config", Mode: 0o644, Size: 4})
	if err == nil || !strings.Contains(err.Error(), "leads into the repository") {
		t.Errorf("error: %v", err)
	}
	intact(t, dir, "mine")
	selected = []Selection{{Paths: []string{"x/config", "x/*"}}, {Paths: []string{".git"}}, {Paths: []string{"x/../.git"}}}
	if err := Clear(t.Context(), dir, selected, nil, Limits{}); err != nil {
		t.Fatal(err)
	}
	intact(t, dir, "mine")
}

// An agent takes nothing out of the repository by way of a link either: the server would refuse it.
func TestPackThroughLinks(t *testing.T) {
	dir := sources(t, "x -> .git", "top -> .", "f=1")
	var b bytes.Buffer
	if err := PackSelected(t.Context(), &b, dir, []Selection{{Paths: []string{"x/config", "x/*", "top/.git/config", "top/f", "f"}}}, nil, Limits{}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "mine") || strings.Contains(b.String(), "config") || !strings.Contains(b.String(), "top/f") {
		t.Errorf("packed: %s", b.String())
	}
}

// The artifacts and caches of earlier jobs are not written into the repository of a later one.
func TestRestoreThroughLinks(t *testing.T) {
	archives := map[string]struct{ there, files []string }{
		"by its name":        {nil, []string{".git/config=evil", ".git/hooks/evil=evil", "f=1"}},
		"in capital letters": {nil, []string{".GIT/config=evil", "f=1"}},
	}
	for name, tt := range throughLinks {
		archives[name] = tt
	}
	for name, tt := range archives {
		t.Run(name, func(t *testing.T) {
			s, _ := open(t, Options{})
			from, dir, cached := t.TempDir(), sources(t, tt.there...), sources(t, tt.there...)
			makeTree(t, from, tt.files...)
			os.Chmod(filepath.Join(from, "x"), 0o777) // where there is one
			key, scope := Key{Project: "p", Pipeline: "1", Job: "j"}, Scope{Project: "p", Job: "j", Ref: "main"}
			if _, err := s.Save(t.Context(), key, &pipeline.Artifacts{Paths: []string{"."}}, Work{Dir: from}, true); err != nil {
				t.Fatal(err)
			}
			caches := []pipeline.Cache{{Key: "k", Paths: []string{"."}}}
			if _, err := s.SaveCaches(t.Context(), scope, caches, Work{Dir: from}, true); err != nil {
				t.Fatal(err)
			}
			err := s.Restore(t.Context(), []Key{key}, Work{Dir: dir})
			if len(tt.there) == 0 {
				if content, rerr := os.ReadFile(filepath.Join(dir, "f")); err != nil || rerr != nil || string(content) != "1" {
					t.Errorf("what is not in the repository: %q, %v, %v", content, err, rerr)
				}
			}
			intact(t, dir, "mine")
			if _, err := s.RestoreCaches(t.Context(), scope, caches, Work{Dir: cached}); err != nil {
				t.Fatal(err)
			}
			intact(t, cached, "mine")
		})
	}
}

// Where a job has no sources it gets no repository either.
func TestRestoreWithoutSources(t *testing.T) {
	for name, files := range map[string][]string{
		"by its name": {".git/config=evil"},
		"by a link":   {"x/.git/config=evil"},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := open(t, Options{})
			from, dir := t.TempDir(), t.TempDir()
			makeTree(t, from, files...)
			makeTree(t, dir, "x -> .")
			key := Key{Job: "j"}
			if _, err := s.Save(t.Context(), key, &pipeline.Artifacts{Paths: []string{"."}}, Work{Dir: from}, true); err != nil {
				t.Fatal(err)
			}
			err := s.Restore(t.Context(), []Key{key}, Work{Dir: dir})
			if name == "by a link" && (err == nil || !strings.Contains(err.Error(), "nothing was extracted")) {
				t.Errorf("error: %v", err)
			}
			intact(t, dir, "")
		})
	}
}
