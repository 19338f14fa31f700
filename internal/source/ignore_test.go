package source_test

import (
	"errors"
	"io/fs"
	"path"
	"sort"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/delivery"
)

func ptr(s string) *string { return &s }

// list returns the visible files, and fails where ReadDir, Stat, Lstat, Open and ReadFile do not agree about them.
func list(t *testing.T, fsys fs.FS, all fstest.MapFS) []string {
	t.Helper()
	seen := map[string]bool{}
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			seen[p] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for name := range all {
		_, statErr := fs.Stat(fsys, name)
		_, lstatErr := fs.Lstat(fsys, name)
		_, readErr := fs.ReadFile(fsys, name)
		f, openErr := fsys.Open(name)
		if openErr == nil {
			f.Close()
		}
		for op, err := range map[string]error{"stat": statErr, "lstat": lstatErr, "read": readErr, "open": openErr} {
			if seen[name] != (err == nil) || err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is listed: %v, but %s gives %v", name, seen[name], op, err)
			}
		}
		if seen[name] {
			names = append(names, name)
		}
	}
	if len(names) != len(seen) {
		t.Errorf("files out of nowhere: %v, only %v are known", seen, names)
	}
	sort.Strings(names)
	return names
}

// The expectations are those of Flux's source-controller.
func TestIgnore(t *testing.T) {
	const usual = ".github/w.yaml .gitignore .sops.yaml README.md a.yaml apps/dev/k.yaml apps/pic.png apps/prod/k.yaml apps/.gitlab-ci.yml base/d.yaml charts/x.tgz docs/a/b.yaml x.tar.gz"
	tests := map[string]struct {
		files  string            // besides, the ignore files
		rules  map[string]string // ignore files by folder
		ignore *string
		want   string
	}{
		"defaults":      {files: usual, want: "README.md a.yaml apps/dev/k.yaml apps/prod/k.yaml base/d.yaml charts/x.tgz docs/a/b.yaml"},
		"nested config": {files: "a/.goreleaser.yml a/b/.sops.yaml a/.flux.yaml a/x.yaml", want: "a/x.yaml"},
		"an empty spec.ignore has no rule, so the defaults hold":         {files: usual, ignore: ptr(""), want: "README.md a.yaml apps/dev/k.yaml apps/prod/k.yaml base/d.yaml charts/x.tgz docs/a/b.yaml"},
		"any rule turns the defaults off, but those for version control": {files: usual, ignore: ptr("# c\n\nREADME.md\n"), want: ".github/w.yaml .sops.yaml a.yaml apps/.gitlab-ci.yml apps/dev/k.yaml apps/pic.png apps/prod/k.yaml base/d.yaml charts/x.tgz docs/a/b.yaml x.tar.gz"},
		"all but one folder":                 {files: usual, ignore: ptr("/*\n!/apps\n"), want: "apps/.gitlab-ci.yml apps/dev/k.yaml apps/pic.png apps/prod/k.yaml"},
		"all but a deep folder":              {files: usual, ignore: ptr("/*\n!/apps/dev\n"), want: "apps/dev/k.yaml"},
		"all but files of a name":            {files: usual, ignore: ptr("*\n!k.yaml\n"), want: "apps/dev/k.yaml apps/prod/k.yaml"},
		"all but some, with stars":           {files: usual, ignore: ptr("/*\n!/docs/**/b.yaml\n"), want: "docs/a/b.yaml"},
		"version control included":           {files: ".gitignore .gitattributes a", ignore: ptr("!.gitignore\n"), want: ".gitignore a"},
		"folders only":                       {files: "x/x.yaml y/x y/z", ignore: ptr("x/\n"), want: "y/x y/z"},
		"anchored":                           {files: "a.yaml d/a.yaml", ignore: ptr("/a.yaml\n"), want: "d/a.yaml"},
		"not anchored":                       {files: "a.yaml d/a.yaml d/b.yaml", ignore: ptr("a.yaml\n"), want: "d/b.yaml"},
		"a file":                             {files: "a.yaml b.yaml c.png", rules: map[string]string{".": "b.yaml"}, want: ".sourceignore a.yaml c.png"},
		"a comment only":                     {files: "a.yaml c.png", rules: map[string]string{".": "# nothing\n \n"}, want: ".sourceignore a.yaml"},
		"a file in a folder":                 {files: "a.yaml d/a.yaml d/e/a.yaml f/a.yaml", rules: map[string]string{"d": "a.yaml"}, want: "a.yaml d/.sourceignore f/a.yaml"},
		"a deep file turns the defaults off": {files: "a.png d/e/x", rules: map[string]string{"d/e": "x"}, want: "a.png d/e/.sourceignore"},
		"a deeper file wins":                 {files: "d/a.yaml d/b.yaml", rules: map[string]string{".": "*.yaml", "d": "!b.yaml"}, want: ".sourceignore d/.sourceignore d/b.yaml"},
		"a file below an excluded folder":    {files: "d/e/a.yaml d/e/b.yaml d/c", rules: map[string]string{".": "/d", "d/e": "!a.yaml"}, want: ".sourceignore d/e/a.yaml"},
		"spec.ignore wins":                   {files: "a.yaml b.yaml", rules: map[string]string{".": "a.yaml"}, ignore: ptr("!a.yaml\nb.yaml"), want: ".sourceignore a.yaml"},
		"anchored in its folder":             {files: "a.yaml d/a.yaml d/e/a.yaml", rules: map[string]string{"d": "/a.yaml"}, want: "a.yaml d/.sourceignore d/e/a.yaml"},
		"the file itself":                    {files: "a", rules: map[string]string{".": ".sourceignore"}, want: "a"},
		"trailing spaces":                    {files: "a b", ignore: ptr("a   \n"), want: "b"},
		"carriage returns end a line":        {files: "a b", ignore: ptr("a\r\n"), want: "b"},
		"a bad pattern matches nothing":      {files: "a [ b", ignore: ptr("[\na"), want: "[ b"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			files := fstest.MapFS{}
			for f := range strings.FieldsSeq(tt.files) {
				files[f] = file(f)
			}
			for dir, rules := range tt.rules {
				files[path.Join(dir, ".sourceignore")] = file(rules)
			}
			w := newWorld(t)
			w.commit("r", files)
			src := w.source("r")
			if tt.ignore != nil {
				src.Ignore, src.HasIgnore = *tt.ignore, true
			}
			got := list(t, w.snapshot(src).FS, files)
			want := strings.Fields(tt.want)
			sort.Strings(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("visible files (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSnapshotIsAGoodFS(t *testing.T) {
	w := newWorld(t)
	w.commit("r", fstest.MapFS{"a/b.yaml": file("b"), "a/c.yaml": file("c"), "d/x": file("x"), ".github/w": file("w"), "run": {Data: []byte("#!"), Mode: 0o755}})
	src := w.source("r")
	for _, ignore := range []string{"", "/*\n!/a/b.yaml\n!/run", "d/x"} {
		src.Ignore, src.HasIgnore = ignore, ignore != ""
		if err := fstest.TestFS(w.snapshot(src).FS, "a/b.yaml", "run"); err != nil {
			t.Errorf("ignore %q: %v", ignore, err)
		}
	}
}

func TestSymlinksAndIgnore(t *testing.T) {
	w := newWorld(t)
	w.commit("r", fstest.MapFS{"real/a.yaml": file("a"), "hidden/b.yaml": file("b")})
	w.link("r", "in", "real", "to-hidden", "hidden", "out", "../x", "file", "real/a.yaml")
	src := w.source("r")
	src.Ignore, src.HasIgnore = "/hidden\n", true
	fsys := w.snapshot(src).FS
	for name, want := range map[string]error{"in/a.yaml": nil, "file": nil, "to-hidden/b.yaml": fs.ErrNotExist, "hidden/b.yaml": fs.ErrNotExist, "out": delivery.ErrEscapes} {
		if _, err := fs.ReadFile(fsys, name); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	src.Ignore = "/in\n"
	if _, err := fs.Stat(w.snapshot(src).FS, "in/a.yaml"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("behind an excluded link: %v", err)
	}
}

func TestDigest(t *testing.T) {
	w := newWorld(t)
	w.commit("r", fstest.MapFS{"a": file("a")})
	src := w.source("r")
	first := w.snapshot(src)
	if again := w.snapshot(src); again.Digest != first.Digest {
		t.Error("the same tree and rules gave another digest")
	}
	ignoring := src
	ignoring.Ignore, ignoring.HasIgnore = "a", true
	if other := w.snapshot(ignoring); other.Digest == first.Digest {
		t.Error("other rules gave the same digest")
	}
	w.commit("r", fstest.MapFS{"a": file("b")})
	if changed := w.snapshot(src); changed.Digest == first.Digest {
		t.Error("another tree gave the same digest")
	}
	w.commit("r", fstest.MapFS{"a": file("a")})
	if back := w.snapshot(src); back.Digest != first.Digest || back.Revision == first.Revision {
		t.Error("the same tree in another commit gave another digest")
	}
}

func FuzzIgnore(f *testing.F) {
	f.Add("/*\n!/deploy\n", "a/b")
	f.Add("**/x\n[\n\\ \n!", "x/.sourceignore")
	f.Add("a/**/b/\n!a/**\n", "..")
	w := newWorld(f)
	files := fstest.MapFS{"a/b/c.yaml": file("x"), "deploy/d.yaml": file("x"), ".github/x": file("x"), "x/y/z": file("x"), "x/.sourceignore": file("z")}
	w.commit("r", files)
	src := w.source("r")
	rev, err := w.f.Resolve(f.Context(), src)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, ignore, name string) {
		src := src
		src.Ignore, src.HasIgnore = ignore, true
		snap, err := w.f.Fetch(t.Context(), src, rev)
		if err != nil {
			t.Fatal(err)
		}
		list(t, snap.FS, files)
		if _, err := fs.Stat(snap.FS, name); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid) && !strings.Contains(err.Error(), "not a directory") {
			t.Errorf("Stat(%q): %v", name, err)
		}
	})
}
