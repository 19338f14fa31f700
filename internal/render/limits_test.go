package render_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/render"
)

const configMap = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"

// files is a repository in memory.
func files(pairs ...string) fstest.MapFS {
	m := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return m
}

// laughs is YAML of a few hundred bytes whose aliases expand to 10^levels values.
func laughs(levels int) string {
	var b strings.Builder
	b.WriteString(configMap + "data:\n  l0: &l0 x\n")
	for i := 1; i <= levels; i++ {
		alias := fmt.Sprintf("*l%d", i-1)
		fmt.Fprintf(&b, "  l%d: &l%d [%s]\n", i, i, strings.Join([]string{alias, alias, alias, alias, alias, alias, alias, alias, alias, alias}, ","))
	}
	return b.String()
}

// deep is an object that is nested by indentation.
func deep(levels int) string {
	var b strings.Builder
	b.WriteString(configMap + "data:\n")
	for i := 1; i < levels; i++ {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

// growing is a tree in which every level uses the one below it twice.
func growing(levels int) fstest.MapFS {
	m := files("0/kustomization.yaml", "resources: [a.yaml]\n", "0/a.yaml", configMap)
	for i := 1; i <= levels; i++ {
		for _, side := range []string{"l", "r"} {
			m[fmt.Sprintf("%d%s/kustomization.yaml", i, side)] = &fstest.MapFile{
				Data: fmt.Appendf(nil, "namePrefix: %s\nresources: [../%d]\n", side, i-1)}
		}
		m[fmt.Sprintf("%d/kustomization.yaml", i)] = &fstest.MapFile{Data: fmt.Appendf(nil, "resources: [../%dl, ../%dr]\n", i, i)}
	}
	return m
}

// TestBounds feeds what is made to exhaust memory: each is refused by a fault that names it, and cheaply.
func TestBounds(t *testing.T) {
	kustomization := func(s string) string { return "resources: [a.yaml]\n" + s }
	var many strings.Builder
	for i := range 5_001 {
		fmt.Fprintf(&many, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a%d}\n", i)
	}
	cases := map[string]struct {
		repo  fs.FS
		path  string
		vars  map[string]string
		where string
		says  string
	}{
		"huge file":                  {repo: files("a.yaml", configMap, "b.yaml", strings.Repeat("#", 100<<20)), where: "b.yaml", says: "10 MiB"},
		"huge kustomization":         {repo: files("kustomization.yaml", strings.Repeat("#", 11<<20)), where: "kustomization.yaml", says: "10 MiB"},
		"too many plain objects":     {repo: files("a.yaml", many.String(), "b.yaml", many.String(), "c.yaml", many.String(), "d.yaml", many.String()), where: ".", says: "20000 objects"},
		"too many objects in a list": {repo: files("kustomization.yaml", kustomization(""), "a.yaml", "kind: List\napiVersion: v1\nitems:\n"+strings.Repeat("- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n", 5_001)), where: "kustomization.yaml", says: "5000 objects"},
		"many large files":           {repo: files("a.yaml", strings.Repeat("#", 9<<20), "b.yaml", strings.Repeat("#", 9<<20), "c.yaml", strings.Repeat("#", 9<<20), "d.yaml", strings.Repeat("#", 9<<20)), where: "d.yaml", says: "32 MiB"},
		"too many objects":           {repo: files("kustomization.yaml", kustomization(""), "a.yaml", many.String()), where: "kustomization.yaml", says: "5000 objects"},
		"alias bomb":                 {repo: files("a.yaml", laughs(12)), where: "a.yaml", says: "aliases"},
		"alias bomb in a base":       {repo: files("kustomization.yaml", "resources: [b]\n", "b/kustomization.yaml", kustomization(""), "b/a.yaml", laughs(9)), where: "b/a.yaml", says: "aliases"},
		"alias bomb in JSON":         {repo: files("kustomization.yaml", "resources: [a.json]\n", "a.json", laughs(9)), where: "a.json", says: "aliases"},
		"alias bomb as a patch":      {repo: files("kustomization.yaml", kustomization("patches: [{path: p.yaml}]\n"), "a.yaml", configMap, "p.yaml", laughs(9)), where: "p.yaml", says: "aliases"},
		"alias bomb in a patch":      {repo: files("kustomization.yaml", kustomization("patches:\n- patch: |\n    "+strings.ReplaceAll(laughs(9), "\n", "\n    ")), "a.yaml", configMap), where: "kustomization.yaml", says: "aliases"},
		"alias bomb in a transformer": {repo: files("kustomization.yaml", kustomization("transformers: [t.yaml]\n"), "a.yaml", configMap,
			"t.yaml", "apiVersion: builtin\nkind: PatchTransformer\nmetadata: {name: p}\npatch: |\n  "+strings.ReplaceAll(laughs(9), "\n", "\n  ")), where: "t.yaml", says: "aliases"},
		"alias of itself":    {repo: files("a.yaml", configMap+"data: &a {a: *a}\n"), where: "a.yaml", says: ""},
		"bases that double":  {repo: growing(30), path: "30", where: "", says: "split the app"},
		"large patch":        {repo: files("kustomization.yaml", kustomization("patches: [{path: p.yaml, target: {kind: ConfigMap}}]\n"), "a.yaml", strings.Repeat("---\n"+configMap, 600), "p.yaml", configMap+"data: {a: "+strings.Repeat("x", 1<<20)+"}\n"), where: "kustomization.yaml", says: "patches"},
		"deep nesting":       {repo: files("a.yaml", configMap+"data: "+strings.Repeat("{a: ", 2000)+"x"+strings.Repeat("}", 2000)+"\n"), where: "a.yaml", says: "nested"},
		"deep indentation":   {repo: files("a.yaml", deep(3000)), where: "a.yaml", says: "nested"},
		"deep lists":         {repo: files("a.yaml", configMap+"data:\n  "+strings.Repeat("- ", 5000)+"x\n"), where: "a.yaml", says: "nested"},
		"deeper nesting":     {repo: files("a.yaml", configMap+"data: "+strings.Repeat("[", 1<<20)), where: "a.yaml", says: "depth"},
		"variable replaced":  {repo: files("a.yaml", configMap+"data: {a: '${v//x/${v}}'}\n"), vars: map[string]string{"v": strings.Repeat("x", 1<<20)}, where: "a.yaml", says: "64 MiB"},
		"variable repeated":  {repo: files("a.yaml", configMap+"data: {a: '"+strings.Repeat("${v}", 10_000)+"'}\n"), vars: map[string]string{"v": strings.Repeat("x", 1<<20)}, where: "a.yaml", says: "64 MiB"},
		"variables nested":   {repo: files("a.yaml", configMap+"data: {a: '"+strings.Repeat("${v:-", 1<<18)+strings.Repeat("}", 1<<18)+"'}\n"), vars: map[string]string{"v": "x"}, where: "a.yaml", says: "nested"},
		"variable is a bomb": {repo: files("a.yaml", configMap+"data: ${v}\n"), vars: map[string]string{"v": "{a: &a [x,x,x,x,x,x,x,x,x,x], b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a], c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b], d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c], e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d], f: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e], g: [*f,*f,*f,*f,*f,*f,*f,*f,*f,*f]}"}, where: "a.yaml", says: "aliases"},
	}
	render.Warm()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if c.path == "" {
				c.path = "."
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := render.Build(t.Context(), delivery.Snapshot{FS: c.repo}, delivery.Build{Path: c.path, Substitute: true}, c.vars)
			runtime.ReadMemStats(&after)
			var f *delivery.Fault
			if !errors.As(err, &f) {
				t.Fatalf("not a fault: %v", err)
			}
			if !strings.HasPrefix(f.Where, c.where) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want it at %q saying %q", err, c.where, c.says)
			}
			if len(err.Error()) > 2000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			if used := (after.TotalAlloc - before.TotalAlloc) >> 20; used > 800 {
				t.Errorf("allocated %d MiB", used)
			}
		})
	}
}

// TestCanceled stops before the next file is read.
func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	repo := files("kustomization.yaml", "resources: [a.yaml, b.yaml]\n", "a.yaml", configMap, "b.yaml", configMap)
	_, err := build(ctx, hookFS{repo, func(name string) {
		if name == "a.yaml" {
			cancel()
		}
	}}, ".")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	ctx, cancel = context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	if _, err := build(ctx, repo, "."); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
}

// hookFS calls a function before a file is opened.
type hookFS struct {
	fs.FS
	opening func(name string)
}

func (h hookFS) Open(name string) (fs.File, error) {
	h.opening(name)
	return h.FS.Open(name)
}

// TestBrokenStore passes on an error of the file system, which may pass by itself, as no fault of the repository's.
func TestBrokenStore(t *testing.T) {
	broken := errors.New("object store is gone")
	_, err := build(t.Context(), brokenFS{files("kustomization.yaml", "resources: [a.yaml]\n", "a.yaml", configMap), broken}, ".")
	var f *delivery.Fault
	if !errors.Is(err, broken) || errors.As(err, &f) {
		t.Errorf("got %v, want %v and no fault", err, broken)
	}
}

type brokenFS struct {
	fs.FS
	err error
}

func (b brokenFS) Open(name string) (fs.File, error) {
	if name == "a.yaml" {
		return nil, b.err
	}
	return b.FS.Open(name)
}

// TestSpecialFiles are no manifests, and opening them would block.
func TestSpecialFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte("resources: [pipe.yaml]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	makePipe(t, filepath.Join(dir, "pipe.yaml"))
	if _, err := build(t.Context(), os.DirFS(dir), "."); err == nil || !strings.Contains(err.Error(), "not a file") {
		t.Errorf("got %v", err)
	}
}
