package render_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/render"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata")

// spec is the build.yaml of a case.
type spec struct {
	delivery.Build `json:",inline"`
	Vars           map[string]string
}

// testCase is one file in testdata: build.yaml, the files below repo/, "links" with one "name -> target" per
// line, and what is wanted: want.yaml or want.err.
type testCase struct {
	archive *txtar.Archive
	spec    spec
	repo    map[string]string
	links   map[string]string
}

func readCase(t testing.TB, file string) testCase {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c := testCase{archive: archive, repo: map[string]string{}, links: map[string]string{}}
	for _, f := range archive.Files {
		switch name, isRepo := strings.CutPrefix(f.Name, "repo/"); {
		case isRepo:
			c.repo[name] = string(f.Data)
		case f.Name == "build.yaml":
			if err := yaml.UnmarshalStrict(f.Data, &c.spec); err != nil {
				t.Fatalf("build.yaml: %v", err)
			}
		case f.Name == "links":
			for l := range strings.Lines(string(f.Data)) {
				name, target, _ := strings.Cut(strings.TrimSpace(l), " -> ")
				c.links[name] = target
			}
		}
	}
	return c
}

// want gives a section's content.
func (c testCase) want(name string) (string, bool) {
	for _, f := range c.archive.Files {
		if f.Name == name {
			return string(f.Data), true
		}
	}
	return "", false
}

func (c testCase) mapFS() fs.FS {
	m := fstest.MapFS{}
	for name, data := range c.repo {
		m[name] = &fstest.MapFile{Data: []byte(data)}
	}
	for name, target := range c.links {
		m[name] = &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink}
	}
	return m
}

// dir writes the case to a folder that lies deeper than the test's own, next to a file that no render may see.
func (c testCase) dir(t *testing.T) string {
	t.Helper()
	top := t.TempDir()
	write := func(name, data string) {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(top, "outside.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: outside}\n")
	root := filepath.Join(top, "repo")
	for name, data := range c.repo {
		write(filepath.Join(root, name), data)
	}
	for name, target := range c.links {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestConformance holds every renderer to the same cases on every kind of file system.
func TestConformance(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			c := readCase(t, file)
			got := outcome(t, c, c.mapFS())
			dir := c.dir(t)
			root, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			for name, fsys := range map[string]fs.FS{"os.DirFS": os.DirFS(dir), "os.Root": root.FS(), "fs.FS without links": plainFS{root.FS()}} {
				if name == "fs.FS without links" && len(c.links) > 0 {
					continue // it words the error of a link that leaves it in its own way
				}
				if diff := cmp.Diff(resultText(got), resultText(outcome(t, c, fsys))); diff != "" {
					t.Errorf("%s differs from MapFS (-MapFS +%s):\n%s", name, name, diff)
				}
			}
			if *update {
				c.rewrite(t, file, got)
				return
			}
			want, ok := c.want(got.section)
			if !ok {
				t.Fatalf("the case does not want this:\n%s", got.text)
			}
			if diff := cmp.Diff(want, got.text); diff != "" {
				t.Errorf("%s (-want +got):\n%s", got.section, diff)
			}
		})
	}
}

// plainFS is a file system that only opens files.
type plainFS struct{ fsys fs.FS }

func (p plainFS) Open(name string) (fs.File, error) { return p.fsys.Open(name) }

// result is what a case gave, as the section that wants it.
type result struct{ section, text string }

func outcome(t *testing.T, c testCase, fsys fs.FS) result {
	t.Helper()
	snap := delivery.Snapshot{Revision: delivery.ParseRevision("main@sha1:0123456789abcdef0123456789abcdef01234567"), FS: fsys}
	objects, err := render.Build(t.Context(), snap, c.spec.Build, c.spec.Vars)
	if err != nil {
		return result{"want.err", describe(t, err)}
	}
	var b strings.Builder
	for _, o := range objects {
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "--- # %s\n%s", o.Origin, text)
	}
	return result{"want.yaml", b.String()}
}

func describe(t *testing.T, err error) string {
	t.Helper()
	var f *delivery.Fault
	if !errors.As(err, &f) {
		t.Fatalf("not a fault: %v", err)
	}
	if f.Retry != delivery.OnChange {
		t.Errorf("Retry = %v, want OnChange", f.Retry)
	}
	text := fmt.Sprintf("%s: %v\n", f.Reason, err)
	if errors.Is(err, delivery.ErrEscapes) {
		text += "(escapes)\n"
	}
	return text
}

func (c testCase) rewrite(t *testing.T, file string, got result) {
	t.Helper()
	var files []txtar.File
	for _, f := range c.archive.Files {
		if f.Name != "want.yaml" && f.Name != "want.err" {
			files = append(files, f)
		}
	}
	c.archive.Files = append(files, txtar.File{Name: got.section, Data: []byte(got.text)})
	if err := os.WriteFile(file, txtar.Format(c.archive), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestOracle compares with kustomize itself: whatever is not added by a build comes out byte for byte the same.
func TestOracle(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, file := range files {
		c := readCase(t, file)
		onlyPath := delivery.Build{Path: c.spec.Path}
		if _, wantsObjects := c.want("want.yaml"); !wantsObjects || len(c.links) > 0 || !cmp.Equal(c.spec.Build, onlyPath) {
			continue
		}
		if c.repo[path.Join(c.spec.Path, "kustomization.yaml")] == "" {
			continue // kustomize refuses what is empty; a render leaves that to its caller
		}
		compared++
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			mem := filesys.MakeFsInMemory()
			for name, data := range c.repo {
				if err := mem.WriteFile("/repo/"+name, []byte(data)); err != nil {
					t.Fatal(err)
				}
			}
			m, err := krusty.MakeKustomizer(&krusty.Options{PluginConfig: types.DisabledPluginConfig()}).Run(mem, path.Join("/repo", c.spec.Path))
			if err != nil {
				t.Fatal(err)
			}
			objects, err := render.Build(t.Context(), delivery.Snapshot{FS: c.mapFS()}, c.spec.Build, nil)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for i, o := range objects {
				text, err := yaml.Marshal(o.Object)
				if err != nil {
					t.Fatal(err)
				}
				if i > 0 {
					got.WriteString("---\n")
				}
				got.Write(text)
			}
			want, err := m.AsYaml()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(normalized(t, string(want)), normalized(t, got.String())); diff != "" {
				t.Errorf("-kustomize +render:\n%s", diff)
			}
		})
	}
	if compared < 8 {
		t.Errorf("only %d cases were compared", compared)
	}
}

// normalized reads documents and writes them again, so that the order of keys does not matter.
func normalized(t *testing.T, docs string) []string {
	t.Helper()
	var all []string
	for doc := range strings.SplitSeq(docs, "\n---\n") {
		var v any
		if err := yaml.Unmarshal([]byte(doc), &v); err != nil {
			t.Fatal(err)
		}
		text, err := yaml.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(text))
	}
	return all
}

func build(ctx context.Context, fsys fs.FS, dir string) ([]delivery.Object, error) {
	return render.Build(ctx, delivery.Snapshot{FS: fsys}, delivery.Build{Path: dir}, nil)
}

func resultText(r result) string { return r.section + "\n" + r.text }
