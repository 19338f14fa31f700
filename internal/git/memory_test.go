package git_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"keelson.dev/keelson/internal/git"
)

func TestTreeOfFiles(t *testing.T) {
	when := time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)
	files := map[string]git.File{
		"Chart.yaml": {Data: []byte("name: a\n")}, "templates/a.yaml": {Data: []byte("a")}, "templates/b.sh": {Data: []byte("b"), Executable: true},
		"templates.txt": {}, "a/b/c/d": {Data: []byte("deep")},
	}
	tree, err := git.TreeOf(files, when)
	if err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(tree, "Chart.yaml", "templates/a.yaml", "templates/b.sh", "templates.txt", "a/b/c/d"); err != nil {
		t.Error(err)
	}
	info, err := tree.Lstat("templates/b.sh")
	if err != nil || info.Mode() != 0o755 || info.Size() != 1 || !info.ModTime().Equal(when) {
		t.Errorf("Lstat: %v, %v", info, err)
	}
	if _, err := tree.ReadAtMost("a/b/c/d", 3); !errors.Is(err, git.ErrTooLarge) {
		t.Errorf("a file above the limit: %v", err)
	}

	// Its ids are those that a repository gives to the same files.
	dir := t.TempDir()
	repo, err := git.Init(t.Context(), filepath.Join(dir, "r.git"), "main", git.Options{})
	if err != nil {
		t.Fatal(err)
	}
	work := filepath.Join(dir, "work")
	for name, f := range files {
		at := filepath.Join(work, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := fs.FileMode(0o644)
		if f.Executable {
			mode = 0o755
		}
		if err := os.WriteFile(at, f.Data, mode); err != nil {
			t.Fatal(err)
		}
	}
	commit, err := repo.Commit(t.Context(), git.Change{Branch: "main", Message: "m", Author: git.Signature{Name: "a", Email: "a@example.com", When: when}, Files: os.DirFS(work)})
	if err != nil {
		t.Fatal(err)
	}
	stored, err := repo.Tree(commit)
	if err != nil {
		t.Fatal(err)
	}
	if stored.ID() != tree.ID() {
		t.Errorf("the tree is %s in a repository, %s in memory", stored.ID(), tree.ID())
	}

	// Each can be laid into the other.
	for _, c := range []struct {
		name       string
		base, part *git.Tree
	}{{"memory into a repository", stored, tree}, {"a repository into memory", tree, stored}} {
		both, err := git.Compose(context.Background(), c.base, []git.Graft{{At: "charts/x", Tree: c.part, From: "."}})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		for _, name := range []string{"charts/x/a/b/c/d", "a/b/c/d"} {
			if data, err := fs.ReadFile(both, name); err != nil || string(data) != "deep" {
				t.Errorf("%s: %s: %q, %v", c.name, name, data, err)
			}
		}
	}
}

func TestTreeOfBadFiles(t *testing.T) {
	for name, files := range map[string]map[string]git.File{
		"leads out":         {"../a": {}},
		"absolute":          {"/a": {}},
		"the root":          {".": {}},
		"a file and folder": {"a": {}, "a/b": {}, "a.b": {}},
		"too deep":          {strings.Repeat("a/", 300) + "b": {}},
	} {
		if _, err := git.TreeOf(files, time.Time{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
