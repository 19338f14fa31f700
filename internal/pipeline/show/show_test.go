package show

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares an output with testdata/name.
func golden(t *testing.T, name string, write func(io.Writer) error) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("%s differs (-update writes it):\n%s", file, b.String())
	}
	return b.Bytes()
}

func at(file string, line, column int) pipeline.Position {
	return pipeline.Position{File: file, Line: line, Column: column}
}

const mainText = "stages: [build, test]\n\nunit:\n  extends: .base\n  stage: tset\n  script: \"make \x1b[31mtest\"\n  tags: [a, b]\n"

var problems = pipeline.Problems{
	{Severity: pipeline.Error, Code: "unknown-stage", Job: "unit", Message: "stage `tset` does not exist", Hint: "did you mean `test`?",
		At: at(".gitlab-ci.yml", 5, 10), Via: []pipeline.Via{{How: "extends", Name: ".base", At: at(".gitlab-ci.yml", 4, 12)}}},
	{Severity: pipeline.Warning, Code: "odd-script", Job: "unit", Message: "unit: an odd script", At: at(".gitlab-ci.yml", 6, 11)},
	{Severity: pipeline.Warning, Code: "odd-tag", Message: "a tag", At: at(".gitlab-ci.yml", 7, 13)},
	{Severity: pipeline.Error, Code: "include-fetch", Message: "no such file", At: at("group/lib@01234567:ci.yml", 3, 0)},
	{Severity: pipeline.Error, Code: "no-jobs", Message: "there are no jobs"},
	{Severity: pipeline.Error, Code: "include-fetch", Message: "beyond the end", At: at(".gitlab-ci.yml", 99, 1)},
}

func texts(name string) ([]byte, bool) { return []byte(mainText), name == ".gitlab-ci.yml" }

func TestProblems(t *testing.T) {
	out := golden(t, "problems.txt", func(w io.Writer) error { return Problems(w, problems, texts, false) })
	if bytes.ContainsRune(out, '\x1b') {
		t.Error("an escape sequence of a file reaches the terminal")
	}
	golden(t, "problems.colour.txt", func(w io.Writer) error { return Problems(w, problems[:1], texts, true) })
	if got := Summary(problems); got != "4 errors, 2 warnings" {
		t.Errorf("summary %q", got)
	}
	if got := Summary(nil); got != "" {
		t.Errorf("summary of nothing %q", got)
	}
}

func TestClip(t *testing.T) {
	long := strings.Repeat("x ", 100) + "here " + strings.Repeat("y ", 100)
	for _, c := range []struct {
		line   string
		column int
		want   string // what is marked
	}{
		{"  stage: tset", 10, "tset"},
		{"  stage: tset", 3, "stage"},
		{"  stage: \"a b\" # x", 10, `"a b"`},
		{"  stage: 'a", 10, "'a"},
		{"  tags: [a, b]", 13, "b"},
		{"\tstage: tset", 9, "tset"},
		{"größe: wörter da", 8, "wörter"},
		{long, 201, "here"},
		{"a:", 1, "a"},
		{"", 1, ""},
	} {
		shown, from, length := clip(c.line, c.column)
		runes := []rune(shown)
		got := ""
		if from >= 0 && from < len(runes) {
			got = string(runes[from:min(len(runes), from+length)])
		}
		if got != c.want || len(runes) > maxLine {
			t.Errorf("%q at %d: marks %q in %q", c.line, c.column, got, shown)
		}
	}
	if _, from, _ := clip("short", 99); from >= 0 {
		t.Errorf("a column beyond the line is marked at %d", from)
	}
}

func TestSARIF(t *testing.T) {
	out := golden(t, "problems.sarif", func(w io.Writer) error { return SARIF(w, problems, ".gitlab-ci.yml", "v1") })
	var log struct {
		Version string
		Runs    []struct {
			Tool struct {
				Driver struct{ Rules []struct{ ID string } }
			}
			Results []struct {
				RuleID    string
				RuleIndex int
				Locations []any
			}
		}
	}
	if err := json.Unmarshal(out, &log); err != nil {
		t.Fatal(err)
	}
	run := log.Runs[0]
	if log.Version != "2.1.0" || len(run.Results) != len(problems) {
		t.Errorf("version %s, %d results", log.Version, len(run.Results))
	}
	for _, r := range run.Results {
		if run.Tool.Driver.Rules[r.RuleIndex].ID != r.RuleID || len(r.Locations) != 1 {
			t.Errorf("result %+v", r)
		}
	}
}

func TestVerdict(t *testing.T) {
	v := pipeline.Verdict{Job: "deploy", Runs: true, When: pipeline.Manual, Reason: "rule 2 of 3 matches", Names: []string{"deploy: [eu]", "deploy: [us]"}, At: at("ci/deploy.yml", 1, 1),
		Rules: []pipeline.RuleVerdict{
			{At: at("ci/deploy.yml", 4, 7), Clauses: []pipeline.ClauseVerdict{{Kind: "if", Text: "$CI_COMMIT_TAG", Detail: "it is not set", Values: []pipeline.UsedValue{{Name: "CI_COMMIT_TAG"}}}}},
			{At: at("ci/deploy.yml", 5, 7), Matches: true, Via: []pipeline.Via{{How: "reference", Name: ".rules, main", At: at("ci/deploy.yml", 9, 3)}}, Clauses: []pipeline.ClauseVerdict{
				{Kind: "if", Text: `$CI_COMMIT_BRANCH == $TARGET`, Holds: true, Values: []pipeline.UsedValue{
					{Name: "CI_COMMIT_BRANCH", Set: true, Value: "main", Origin: pipeline.OriginPredefined},
					{Name: "TARGET", Set: true, Value: "main", Origin: pipeline.OriginTop, At: at(".gitlab-ci.yml", 3, 11)}}},
				{Kind: "changes", Text: "src/**", Holds: true, Detail: "matches src/main.go"}}},
		}}
	golden(t, "verdict.txt", func(w io.Writer) error { return Verdict(w, v, false) })
	golden(t, "verdict.none.txt", func(w io.Writer) error {
		return Verdict(w, pipeline.Verdict{Job: "x", Reason: "no rule matches", Rules: []pipeline.RuleVerdict{{}}}, false)
	})
}

func TestMatrix(t *testing.T) {
	jobs := []pipeline.JobSpec{{Job: pipeline.Job{Name: "compile", Stage: "build"}}, {Job: pipeline.Job{Name: "deploy", Stage: "deploy"}}}
	events := []Event{
		{Name: "push", Jobs: map[string]Cell{"compile": {When: pipeline.OnSuccess, IfChanged: true}, "deploy": {When: pipeline.Manual}}},
		{Name: "tag", Jobs: map[string]Cell{"deploy": {When: pipeline.OnFailure}}},
		{Name: "schedule", None: "no rule of workflow:rules matches"},
	}
	golden(t, "matrix.txt", func(w io.Writer) error { return Matrix(w, jobs, events, false) })
}

func TestVariables(t *testing.T) {
	vs := pipeline.Variables{
		{Name: "A", Value: "weak", Origin: pipeline.OriginPredefined},
		{Name: "TOKEN", Value: "secret-value", Masked: true, Origin: pipeline.OriginProject, At: at(".keelson/variables.yml", 2, 10)},
		{Name: "A", Value: "strong\n", Origin: pipeline.OriginJob, At: at(".gitlab-ci.yml", 5, 8)},
		{Name: "KUBECONFIG", Value: "x", File: true, Origin: pipeline.OriginGroup},
	}
	out := golden(t, "variables.txt", func(w io.Writer) error { return Variables(w, vs) })
	if bytes.Contains(out, []byte("secret-value")) {
		t.Error("a masked value is shown")
	}
}

var graph = &pipeline.Graph{
	Name: "Release <1>", Source: "push", Ref: "main", SHA: "0123456789abcdef", Stages: []string{"build", "test", "deploy"},
	Jobs: []pipeline.Job{
		{Name: "compile", Stage: "build", When: pipeline.OnSuccess},
		{Name: "assets", Stage: "build", When: pipeline.OnSuccess},
		{Name: "pack", Stage: "build", When: pipeline.OnSuccess, DAG: true, Needs: []pipeline.Need{{Job: "compile"}, {Job: "assets"}}},
		{Name: "unit: [linux, \"arm64\"]", Stage: "test", When: pipeline.OnSuccess, DAG: true, Needs: []pipeline.Need{{Job: "compile"}}, AllowFailure: pipeline.AllowFailure{Allowed: true}},
		{Name: "lint", Stage: "test", When: pipeline.OnSuccess, DAG: true},
		{Name: "all", Stage: "test", When: pipeline.OnSuccess},
		{Name: "production", Stage: "deploy", When: pipeline.Manual, Environment: &pipeline.Environment{Name: "prod"}},
		{Name: "later", Stage: "deploy", When: pipeline.Delayed, StartIn: pipeline.Duration(30 * time.Minute)},
		{Name: "undo", Stage: "deploy", When: pipeline.OnFailure, DAG: true, Needs: []pipeline.Need{{Job: "production"}}},
		{Name: "downstream", Stage: "deploy", When: pipeline.OnSuccess, Trigger: &pipeline.Trigger{Project: "group/other"}},
	},
}

func TestGraph(t *testing.T) {
	golden(t, "graph.txt", func(w io.Writer) error { return Graph(w, graph, false) })
	golden(t, "graph.dot", func(w io.Writer) error { return DOT(w, graph) })
	svg := golden(t, "graph.svg", func(w io.Writer) error { return SVG(w, graph) })
	checkXML(t, svg)
	if got, want := Headline(graph), "Release <1>: push of main at 01234567, 10 jobs in 3 stages"; got != want {
		t.Errorf("headline %q, want %q", got, want)
	}
}

func checkXML(t *testing.T, text []byte) {
	t.Helper()
	for d := xml.NewDecoder(bytes.NewReader(text)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// Boxes do not overlap, and what a job needs is to its left.
func TestLayout(t *testing.T) {
	g := &pipeline.Graph{}
	for s := range 5 {
		g.Stages = append(g.Stages, fmt.Sprint("s", s))
		for k := range 7 {
			j := pipeline.Job{Name: fmt.Sprintf("j%d-%d", s, k), Stage: g.Stages[s], DAG: k%2 == 0}
			if s > 0 {
				j.Needs = append(j.Needs, pipeline.Need{Job: fmt.Sprintf("j%d-%d", s-1, (k*3)%7)})
			}
			if k > 3 {
				j.Needs = append(j.Needs, pipeline.Need{Job: fmt.Sprintf("j%d-%d", s, k-1)})
			}
			g.Jobs = append(g.Jobs, j)
		}
	}
	for _, g := range []*pipeline.Graph{g, graph, {}} {
		d := layout(g)
		for i, a := range d.boxes {
			if a.x < 0 || a.y < 0 || a.x+a.width > d.width || a.y+boxHeight > d.height {
				t.Errorf("%s is outside of the drawing", a.job.Name)
			}
			for _, b := range d.boxes[:i] {
				if a.x < b.x+b.width && b.x < a.x+a.width && a.y < b.y+boxHeight && b.y < a.y+boxHeight {
					t.Errorf("%s and %s overlap", a.job.Name, b.job.Name)
				}
			}
			for _, n := range a.job.Needs {
				if b := d.byName[n.Job]; b == nil || b.x+b.width > a.x {
					t.Errorf("%s is not to the right of %s", a.job.Name, n.Job)
				}
			}
		}
	}
}

// No line is drawn through a box, also where a need skips a stage and where jobs of a stage need each other.
func TestLines(t *testing.T) {
	g := &pipeline.Graph{Stages: []string{"s0", "s1", "s2", "s3"}}
	for s, stage := range g.Stages {
		for k := range 3 + s%2*2 {
			j := pipeline.Job{Name: fmt.Sprintf("j%d-%d", s, k), Stage: stage, DAG: k%3 > 0}
			for far := 1; far <= s && j.DAG; far++ {
				j.Needs = append(j.Needs, pipeline.Need{Job: fmt.Sprintf("j%d-%d", s-far, (k*far)%3)})
			}
			if j.DAG && k > 1 {
				j.Needs = append(j.Needs, pipeline.Need{Job: fmt.Sprintf("j%d-%d", s, k-1)})
			}
			g.Jobs = append(g.Jobs, j)
		}
	}
	var svg bytes.Buffer
	if err := SVG(&svg, g); err != nil {
		t.Fatal(err)
	}
	checkXML(t, svg.Bytes())
	paths := regexp.MustCompile(`class="(?:need|gate)" d="([^"]*)"`).FindAllStringSubmatch(svg.String(), -1)
	if len(paths) < len(g.Jobs) {
		t.Fatalf("%d lines", len(paths))
	}
	boxes := layout(g).boxes
	for _, p := range paths {
		for _, at := range points(t, p[1]) {
			for _, b := range boxes {
				if at[0] > b.x && at[0] < b.x+b.width && at[1] > b.y && at[1] < b.y+boxHeight {
					t.Fatalf("%s goes through %s at %v", p[1], b.job.Name, at)
				}
			}
		}
	}
}

// points are some of a path.
func points(t *testing.T, path string) [][2]float64 {
	t.Helper()
	var x, y float64
	var out [][2]float64
	for _, step := range regexp.MustCompile(`[MHVC][^MHVC]*`).FindAllString(path, -1) {
		var n []float64
		for _, f := range strings.Fields(step[1:]) {
			v, err := strconv.ParseFloat(f, 64)
			if err != nil {
				t.Fatal(err)
			}
			n = append(n, v)
		}
		switch step[0] {
		case 'M':
			x, y = n[0], n[1]
			continue
		case 'H':
			n = []float64{x, y, n[0], y, n[0], y}
		case 'V':
			n = []float64{x, y, x, n[0], x, n[0]}
		}
		for i := range 101 {
			b := float64(i) / 100
			a := 1 - b
			bezier := func(p0, p1, p2, p3 float64) float64 { return a*a*a*p0 + 3*a*a*b*p1 + 3*a*b*b*p2 + b*b*b*p3 }
			out = append(out, [2]float64{bezier(x, n[0], n[2], n[4]), bezier(y, n[1], n[3], n[5])})
		}
		x, y = n[4], n[5]
	}
	return out
}
