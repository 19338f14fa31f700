package appset_test

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/yaml"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/appset"
)

var update = flag.Bool("update", false, "write what came out into the test data")

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// archive is a case: set.yaml, clusters.yaml, projects (names), strict (globs are), repo/… and pending (the repository is not
// known yet); OUT is what comes of it.
type archive struct {
	set   *argocdv1.ApplicationSet
	world appset.World
	file  map[string]string
}

func read(t *testing.T, a *txtar.Archive) archive {
	t.Helper()
	c := archive{set: &argocdv1.ApplicationSet{}, file: map[string]string{}}
	repo := fstest.MapFS{}
	for _, f := range a.Files {
		if name, ok := strings.CutPrefix(f.Name, "repo/"); ok {
			repo[name] = &fstest.MapFile{Data: f.Data}
			continue
		}
		c.file[f.Name] = string(f.Data)
	}
	parse(t, c.file["set.yaml"], c.set)
	if c.set.Namespace == "" {
		c.set.Namespace = "argocd"
	}
	c.world.Now = now
	parse(t, c.file["clusters.yaml"], &c.world.Clusters)
	if names := strings.Fields(c.file["projects"]); len(names) > 0 {
		c.world.Projects = map[string]bool{}
		for _, name := range names {
			c.world.Projects[name] = true
		}
	}
	_, c.world.StrictGlobs = c.file["strict"]
	c.world.Repository = func(r appset.Repository) (fs.FS, error) {
		if r.URL != "https://git.example.com/fleet.git" {
			return nil, fmt.Errorf("there is no %s at %s for project %q", r.URL, r.Revision, r.Project)
		}
		if _, ok := c.file["pending"]; ok {
			return nil, appset.ErrPending
		}
		return repo, nil
	}
	return c
}

func parse(t *testing.T, text string, into any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text), into); err != nil {
		t.Fatal(err)
	}
}

// TestGenerate holds testdata/generate/*.txtar.
func TestGenerate(t *testing.T) {
	files, err := filepath.Glob("testdata/generate/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no test data", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			c := read(t, a)
			got := printed(t, c)
			if again := printed(t, c); again != got {
				t.Errorf("a second time:\n%s\nthe first time:\n%s", again, got)
			}
			if *update {
				write(t, name, a, "OUT", got)
				return
			}
			if want := c.file["OUT"]; got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func write(t *testing.T, name string, a *txtar.Archive, file, content string) {
	t.Helper()
	out := &txtar.Archive{Comment: a.Comment}
	for _, f := range a.Files {
		if f.Name != file {
			out.Files = append(out.Files, f)
		}
	}
	out.Files = append(out.Files, txtar.File{Name: file, Data: []byte(content)})
	if err := os.WriteFile(name, txtar.Format(out), 0o644); err != nil {
		t.Fatal(err)
	}
}

// printed gives what comes of a case as text: the Applications without what is the same for all.
func printed(t *testing.T, c archive) string {
	t.Helper()
	got, err := appset.Generate(c.set, c.world)
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	var b strings.Builder
	for _, app := range got.Applications {
		if app.Object["kind"] != "Application" || app.App.Namespace != c.set.Namespace {
			t.Errorf("it is %v in %v", app.Object["kind"], app.App.Namespace)
		}
		short := map[string]any{"spec": app.Object["spec"]}
		meta := map[string]any{}
		for k, v := range app.Object["metadata"].(map[string]any) {
			if k != "namespace" && fmt.Sprint(k, v) != "finalizers[resources-finalizer.argocd.argoproj.io]" {
				meta[k] = v
			}
		}
		short["metadata"] = meta
		text, err := yaml.Marshal(short)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "---\n%s", text)
	}
	for _, i := range got.Invalid {
		fmt.Fprintf(&b, "invalid: %s: %v\n", i.Name, i.Err)
	}
	if b.Len() == 0 {
		return "nothing\n"
	}
	return b.String()
}

// tiny is a repository of a few files.
func tiny(appset.Repository) (fs.FS, error) {
	return fstest.MapFS{"apps/a/config.json": {Data: []byte("{}")}, "x[1].yaml": {Data: []byte("a: b")}, "é/b*c": {Data: []byte("- {}")}}, nil
}
