package render_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/render"
)

// chartOf is a snapshot of a chart named web, with templates and other files.
func chartOf(pairs ...string) fstest.MapFS {
	return files(append([]string{"Chart.yaml", "{apiVersion: v2, name: web, version: 1.2.3}"}, pairs...)...)
}

func asChart(h delivery.Helm) delivery.Build {
	if h.ReleaseName == "" {
		h.ReleaseName = "web"
	}
	return delivery.Build{Parts: []delivery.Part{{Root: ".", Path: ".", Helm: &h}}}
}

func parts(all ...delivery.Part) delivery.Build { return delivery.Build{Parts: all} }

// TestFormats tells what each part is rendered as.
func TestFormats(t *testing.T) {
	snap := delivery.Snapshot{FS: files(
		"0/chart/Chart.yaml", "", "0/both/Chart.yaml", "", "0/both/Kustomization", "", "0/k/kustomization.yml", "",
		"0/plain/a.yaml", "", "1/Chart.yaml", "", "0/folder/Chart.yaml/x", "")}
	got := render.Formats(snap, parts(
		delivery.Part{Root: "0", Path: "chart"}, delivery.Part{Root: "0", Path: "both"}, delivery.Part{Root: "0", Path: "k"},
		delivery.Part{Root: "0", Path: "plain"}, delivery.Part{Root: "1", Path: "."}, delivery.Part{Root: "0", Path: "folder"},
		delivery.Part{Root: "0", Path: "chart", Directory: &delivery.Directory{}}, delivery.Part{Root: "0", Path: "plain", Kustomize: &delivery.Kustomize{}},
		delivery.Part{Root: "0", Path: "absent"}, delivery.Part{Root: "9", Path: "../x"},
	))
	want := strings.Fields("Helm Kustomize Kustomize Directory Helm Directory Directory Kustomize Directory Directory")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestRepeated: an object that says how often it came is the last one.
func TestRepeated(t *testing.T) {
	c := readCase(t, filepath.Join("testdata", "argo-repeated.txtar"))
	objects, err := render.Build(t.Context(), delivery.Snapshot{FS: c.mapFS()}, c.spec.Build, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, o := range objects {
		got[o.Ref().String()] += o.Repeated
	}
	want := map[string]int{"ConfigMap/z": 0, "ConfigMap/shop/x": 2, "Job/": 0}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestHostileCharts: what loops or explodes is ended, and says so; what comes next is rendered.
func TestHostileCharts(t *testing.T) {
	if testing.Short() {
		t.Skip("takes time and memory")
	}
	for name, c := range map[string]struct {
		template string
		want     string
	}{
		"memory":    {`{{ $x := "0123456789abcdef" }}{{ range until 60 }}{{ $x = print $x $x }}{{ end }}{{ $x }}`, "MiB of memory"},
		"repeat":    {`{{ repeat 100000000 "0123456789abcdef0123456789abcdef" }}`, "MiB of memory"},
		"recursion": {`{{ define "a" }}{{ include "a" . }}{{ end }}{{ include "a" . }}`, "nested reference"},
		"template":  {`{{ define "a" }}{{ template "a" . }}{{ end }}{{ template "a" . }}`, "exceeded maximum template depth"},
		"dns":       {`a: {{ getHostByName "example.org" | quote }}`, "no apiVersion"},
		"laughs":    {laughs(9), "not YAML"},
		"deep":      {deep(1000), "nested deeper"},
		"objects":   {"{{ range until 30000 }}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c{{ . }}}\n{{ end }}", "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := render.Build(t.Context(), delivery.Snapshot{FS: chartOf("templates/a.yaml", c.template)}, asChart(delivery.Helm{}), nil)
			if f := (*delivery.Fault)(nil); !errors.As(err, &f) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error = %v, want %q", err, c.want)
			} else if len(err.Error()) > 2000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			objects, err := render.Build(t.Context(), delivery.Snapshot{FS: chartOf("templates/a.yaml", configMap)}, asChart(delivery.Helm{}), nil)
			if err != nil || len(objects) != 1 {
				t.Errorf("afterwards: %d objects, %v", len(objects), err)
			}
		})
	}
}

// archiveOf is a chart's .tgz.
func archiveOf(t *testing.T, pairs ...string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for i := 0; i < len(pairs); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: pairs[i], Size: int64(len(pairs[i+1])), Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(pairs[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestChartArchives: dependencies may be archives; those that explode are refused.
func TestChartArchives(t *testing.T) {
	const parent = "apiVersion: v2\nname: web\nversion: 1.2.3\ndependencies:\n- {name: db, version: 0.1.0, repository: https://charts.example.org}\n"
	chart := func(more ...string) string {
		return archiveOf(t, append([]string{"db/Chart.yaml", "{apiVersion: v2, name: db, version: 0.1.0}", "db/templates/a.yaml", configMap}, more...)...)
	}
	for name, c := range map[string]struct{ archive, want string }{
		"good":      {chart(), ""},
		"climbs":    {chart("db/../../x", "x"), "illegally"},
		"absolute":  {chart("db//etc/passwd", "x"), "illegally"},
		"explodes":  {chart("db/zeros", strings.Repeat("\x00", 110<<20)), "larger than the maximum"},
		"truncated": {chart()[:100], "error unpacking"},
		"no gzip":   {"hello", "error unpacking"},
		"another":   {archiveOf(t, "x/Chart.yaml", "{apiVersion: v2, name: x, version: 0.1.0}"), "depends on db 0.1.0"},
	} {
		t.Run(name, func(t *testing.T) {
			snap := delivery.Snapshot{FS: files("Chart.yaml", parent, "charts/db-0.1.0.tgz", c.archive)}
			objects, err := render.Build(t.Context(), snap, asChart(delivery.Helm{}), nil)
			switch {
			case c.want == "" && (err != nil || len(objects) != 1 || objects[0].Origin != "charts/db/templates/a.yaml"):
				t.Errorf("%v, %v", objects, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error = %v, want %q", err, c.want)
			}
		})
	}
}

// TestChartInputs: a render of a part depends on the files that it looks at.
func TestChartInputs(t *testing.T) {
	first := content{
		"0/web/Chart.yaml": "{apiVersion: v2, name: web, version: 1.2.3}", "0/web/templates/a.yaml": named("ConfigMap", "a"),
		"0/web/.helmignore": "docs\n", "0/web/docs/a.md": "docs", "0/web/values.yaml": "a: 1", "0/other/a.yaml": named("ConfigMap", "b"),
		"1/env/prod.yaml": "a: 2", "1/env/dev.yaml": "a: 3", "1/plain/a.yaml": named("ConfigMap", "c"), "1/plain/sub/b.yaml": named("ConfigMap", "d"),
		"1/plain/skip.txt": "x", "1/jsonnet/a.jsonnet": "import '../lib/x.libsonnet'", "1/lib/x.libsonnet": "{apiVersion: 'v1', kind: 'ConfigMap', metadata: {name: 'j'}}",
		"1/lib/y.libsonnet": "{}",
	}
	b := parts(
		delivery.Part{Root: "0", Path: "web", Release: "web", Refs: map[string]string{"$v": "1"}, Helm: &delivery.Helm{
			ReleaseName: "web", ValueFiles: []string{"$v/env/prod.yaml", "$v/env/absent.yaml"}, IgnoreMissingValueFiles: true}},
		delivery.Part{Root: "1", Path: "plain"}, delivery.Part{Root: "1", Path: "jsonnet"},
	)
	changes := []struct {
		name string
		to   content
		same bool
	}{
		{"nothing", first, true},
		{"another folder", first.with("0/other/a.yaml", "x"), true},
		{"an ignored file", first.with("0/web/docs/a.md", "more"), true},
		{"values that are not named", first.with("1/env/dev.yaml", "a: 4"), true},
		{"a folder below without recurse", first.with("1/plain/sub/b.yaml", named("ConfigMap", "e")), true},
		{"a file that is no manifest", first.with("1/plain/skip.txt", "y"), true},
		{"a library that is not imported", first.with("1/lib/y.libsonnet", "{a: 1}"), true},
		{"a template", first.with("0/web/templates/a.yaml", named("ConfigMap", "z")), false},
		{"a new template", first.with("0/web/templates/b.yaml", named("ConfigMap", "z")), false},
		{"a file for .Files", first.with("0/web/x.txt", "x"), false},
		{"values of the other source", first.with("1/env/prod.yaml", "a: 5"), false},
		{"values that were missing", first.with("1/env/absent.yaml", "a: 5"), false},
		{"a manifest", first.with("1/plain/a.yaml", named("ConfigMap", "z")), false},
		{"a new manifest", first.with("1/plain/z.yaml", named("ConfigMap", "z")), false},
		{"a kustomization", first.with("1/plain/kustomization.yaml", "resources: [a.yaml]"), false},
		{"an override", first.with("1/plain/.argocd-source.yaml", "directory: {recurse: true}"), false},
		{"an import", first.with("1/lib/x.libsonnet", "{apiVersion: 'v1', kind: 'ConfigMap', metadata: {name: 'k'}}"), false},
		{"what is imported first", first.with("1/jsonnet/lib.libsonnet", "{}"), false},
	}
	all := []content{first}
	for _, c := range changes {
		all = append(all, c.to)
	}
	at := commits(t, all)
	objects, inputs, err := render.Track(t.Context(), at(0), b, nil)
	if err != nil || len(objects) != 3 || !inputs.Known() {
		t.Fatalf("%d objects, known %v, %v", len(objects), inputs.Known(), err)
	}
	for i, c := range changes {
		if same, err := inputs.Same(at(i + 1)); err != nil || same != c.same {
			t.Errorf("%s: same = %v (%v), want %v", c.name, same, err, c.same)
		}
	}
}

// TestChartsTogether renders charts of all kinds at once: each gets its own result.
func TestChartsTogether(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			snap := delivery.Snapshot{FS: chartOf("templates/a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Values.name }}'}\n{{ if .Values.bad }}{{ fail .Values.name }}{{ end }}")}
			objects, err := render.Build(t.Context(), snap, asChart(delivery.Helm{Values: fmt.Sprintf("name: n%d\nbad: %v", i, i%3 == 0)}), nil)
			want := fmt.Sprintf("n%d", i)
			switch {
			case i%3 == 0 && (err == nil || !strings.HasSuffix(err.Error(), ": "+want)):
				t.Errorf("%d: error = %v", i, err)
			case i%3 != 0 && (err != nil || objects[0].GetName() != want):
				t.Errorf("%d: %v, %v", i, objects, err)
			}
		})
	}
	wg.Wait()
}

// TestGlobBombs: a pattern of a user takes no time.
func TestGlobBombs(t *testing.T) {
	names := []string{}
	for i := range 50 {
		names = append(names, strings.Repeat("a", 100)+fmt.Sprint(i)+".yaml", configMap)
	}
	for name, pattern := range map[string]string{
		"stars":        strings.Repeat("*a", 300) + "b",
		"alternatives": strings.Repeat("{a,aa,aaa}", 30) + "b",
		"nested":       strings.Repeat("{a,", 200) + "a" + strings.Repeat("}", 200),
		"of stars":     strings.Repeat("{*a,*}", 30) + "b",
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := render.Build(t.Context(), delivery.Snapshot{FS: files(names...)}, parts(delivery.Part{
				Root: ".", Path: ".", Directory: &delivery.Directory{Include: pattern}}), nil)
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %v (%v)", took, err)
			}
		})
	}
}
