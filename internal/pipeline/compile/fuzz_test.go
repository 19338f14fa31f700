package compile

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/txtar"

	"keelson.dev/keelson/internal/pipeline"
)

// FuzzCompile asks of every text that it is compiled without a panic, and of every graph that it holds together.
func FuzzCompile(f *testing.F) {
	paths, _ := filepath.Glob("testdata/*.txtar")
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range txtar.Parse(text).Files {
			if file.Name == ".gitlab-ci.yml" {
				f.Add(file.Data, "main", false, false)
				f.Add(file.Data, "v1", true, false)
				f.Add(file.Data, "feature/x", false, true)
			}
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, ref string, tag, request bool) {
		if !utf8.ValidString(ref) { // JSON has no other texts
			return
		}
		files := tree{".gitlab-ci.yml": text}
		c := benchmarkContext()
		c.Ref, c.Tag, c.Tree = ref, tag, files
		if request {
			c.Source, c.Tag = pipeline.SourceMergeRequest, false
			c.MergeRequest = &pipeline.MergeRequest{IID: 1, SourceBranch: ref, TargetBranch: "main"}
		}
		cfg, problems := load(files, c)
		if cfg == nil {
			return
		}
		Lint(cfg)
		r := Compile(cfg, c)
		if problems.Failed() {
			return
		}
		coherent(t, cfg, r)
	})
}

// coherent holds what is true of every result.
func coherent(t *testing.T, cfg *pipeline.Config, r Result) {
	t.Helper()
	if r.Graph == nil {
		if r.Workflow.Runs && !r.Problems.Failed() {
			t.Fatal("there is no graph and no reason")
		}
		return
	}
	if r.Problems.Failed() || !r.Workflow.Runs || len(r.Graph.Jobs) == 0 {
		t.Fatal("there is a graph although there are errors, no pipeline or no jobs")
	}
	place := map[string]int{}
	var names, told []string
	last := -1
	for i, j := range r.Graph.Jobs {
		if _, twice := place[j.Name]; twice {
			t.Fatalf("job %q is there twice", j.Name)
		}
		place[j.Name] = i
		names = append(names, j.Name)
		at := slices.Index(r.Graph.Stages, j.Stage)
		if at < last {
			t.Fatalf("job %q comes after jobs of later stages", j.Name)
		}
		last = at
		if !j.DAG && slices.ContainsFunc(j.Needs, pipeline.Need.Local) {
			t.Fatalf("job %q has needs and waits for stages", j.Name)
		}
	}
	open, done := map[string]bool{}, map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		if open[name] {
			t.Fatalf("needs go in a circle through %q", name)
		}
		if done[name] {
			return
		}
		open[name] = true
		i, ok := place[name]
		if !ok {
			t.Fatalf("need %q is not there", name)
		}
		for _, n := range r.Graph.Jobs[i].Needs {
			if n.Local() {
				visit(n.Job)
			}
		}
		open[name], done[name] = false, true
	}
	for _, name := range names {
		visit(name)
	}
	for _, v := range r.Verdicts {
		told = append(told, v.Names...)
	}
	slices.Sort(names)
	slices.Sort(told)
	if !slices.Equal(names, told) {
		t.Fatalf("the verdicts tell of %q, the graph has %q", told, names)
	}
	if len(r.Graph.Jobs) > 500 {
		return
	}
	data, err := json.Marshal(r.Graph)
	if err != nil {
		t.Fatal(err)
	}
	var back pipeline.Graph
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(back)
	if err != nil || !reflect.DeepEqual(data, again) {
		t.Fatalf("a graph does not survive JSON: %v\n%s\n%s", err, data, again)
	}
}
