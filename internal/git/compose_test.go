package git_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"keelson.dev/keelson/internal/git"
)

// A composed tree has the id that git itself would give it, and reads from both repositories.
func TestCompose(t *testing.T) {
	a, b := initRepo(t, git.Options{}), initRepo(t, git.Options{})
	open := func(r *git.Repository, files fs.FS) *git.Tree {
		tree, err := r.Tree(commit(t, r, "", files))
		if err != nil {
			t.Fatal(err)
		}
		return tree
	}
	run := &fstest.MapFile{Data: []byte("#!"), Mode: 0o755}
	base := open(a, fstest.MapFS{"a.txt": file("a"), "apps/x.yaml": file("x"), "apps-x": file("y")})
	other := open(b, fstest.MapFS{"lib/one.yaml": file("1"), "lib/deep/two.yaml": file("2"), "lib/run.sh": run, "lib/only/skip.md": file("m"), "top": file("t")})
	noDocs := func(name string, isDir bool) (bool, error) { return !strings.HasSuffix(name, ".md"), nil }
	tests := map[string]struct {
		grafts []git.Graft
		want   fstest.MapFS
		bad    error
	}{
		"a folder": {[]git.Graft{{At: "vendor/lib", Tree: other, From: "lib", Keep: noDocs}},
			fstest.MapFS{"a.txt": file("a"), "apps/x.yaml": file("x"), "apps-x": file("y"), "vendor/lib/one.yaml": file("1"), "vendor/lib/deep/two.yaml": file("2"), "vendor/lib/run.sh": run}, nil},
		"all, beside": {[]git.Graft{{At: "apps/other", Tree: other, From: "."}},
			fstest.MapFS{"a.txt": file("a"), "apps/x.yaml": file("x"), "apps-x": file("y"), "apps/other/lib/one.yaml": file("1"), "apps/other/lib/deep/two.yaml": file("2"),
				"apps/other/lib/run.sh": run, "apps/other/lib/only/skip.md": file("m"), "apps/other/top": file("t")}, nil},
		"two, and a file": {[]git.Graft{{At: "v/1", Tree: other, From: "top"}, {At: "v/2", Tree: other, From: "lib/deep"}},
			fstest.MapFS{"a.txt": file("a"), "apps/x.yaml": file("x"), "apps-x": file("y"), "v/1": file("t"), "v/2/two.yaml": file("2")}, nil},
		"occupied":   {[]git.Graft{{At: "apps", Tree: other, From: "lib"}}, nil, git.ErrOccupied},
		"at a file":  {[]git.Graft{{At: "a.txt/lib", Tree: other, From: "lib"}}, nil, git.ErrOccupied},
		"everywhere": {[]git.Graft{{At: ".", Tree: other, From: "lib"}}, nil, git.ErrOccupied},
		"missing":    {[]git.Graft{{At: "lib", Tree: other, From: "none"}}, nil, fs.ErrNotExist},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tree, err := git.Compose(t.Context(), base, tt.grafts)
			if !errors.Is(err, tt.bad) {
				t.Fatalf("error %v, want %v", err, tt.bad)
			}
			if err != nil {
				return
			}
			want := open(initRepo(t, git.Options{}), tt.want)
			if tree.ID() != want.ID() {
				t.Errorf("id %s, git's own is %s", tree.ID(), want.ID())
			}
			var names []string
			for name := range tt.want {
				names = append(names, name)
				if b, err := fs.ReadFile(tree, name); err != nil || string(b) != string(tt.want[name].Data) {
					t.Errorf("%s: %q, %v", name, b, err)
				}
			}
			if err := fstest.TestFS(tree, names...); err != nil {
				t.Error(err)
			}
		})
	}
}
