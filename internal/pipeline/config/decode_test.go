package config

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"keelson.dev/keelson/internal/pipeline"
)

var update = flag.Bool("update", false, "write what decoding comes to into testdata/decode")

// decodeText decodes a file without includes.
func decodeText(text string) (*pipeline.Config, pipeline.Problems) {
	nodes, problems := parse("ci.yml", []byte(text))
	if len(nodes) == 0 {
		return &pipeline.Config{}, problems
	}
	c, more := Decode(&Document{Root: nodes[len(nodes)-1], Files: []pipeline.File{{Name: "ci.yml"}}})
	return c, append(problems, more...)
}

// TestDecode holds testdata/decode/*.txtar: each has pairs of a configuration NAME and what it comes to, NAME.out: its problems, and
// if the name ends in .job what its jobs are.
func TestDecode(t *testing.T) {
	files, err := filepath.Glob("testdata/decode/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no tests", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{}
			for _, f := range archive.Files {
				if in, ok := strings.CutSuffix(f.Name, ".out"); ok {
					want[in] = string(f.Data)
				}
			}
			written := &txtar.Archive{Comment: archive.Comment}
			for _, f := range archive.Files {
				if strings.HasSuffix(f.Name, ".out") {
					continue
				}
				c, problems := decodeText(string(f.Data))
				got := problemLines(problems)
				if strings.HasSuffix(f.Name, ".job") {
					got += jobLines(t, c)
				}
				if diff := cmp.Diff(want[f.Name], got); diff != "" && !*update {
					t.Errorf("%s: (-want +got)\n%s", f.Name, diff)
				}
				written.Files = append(written.Files, f, txtar.File{Name: f.Name + ".out", Data: []byte(got)})
			}
			if *update {
				if err := os.WriteFile(name, txtar.Format(written), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func problemLines(ps pipeline.Problems) string {
	var b strings.Builder
	for _, p := range ps {
		fmt.Fprintf(&b, "%d:%d %s %s: %s", p.At.Line, p.At.Column, p.Severity, p.Code, p.Message)
		if p.Hint != "" {
			fmt.Fprintf(&b, " (%s)", p.Hint)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// jobLines writes the jobs as JSON, without what is empty and without positions.
func jobLines(t *testing.T, c *pipeline.Config) string {
	t.Helper()
	var b strings.Builder
	for _, j := range c.Jobs {
		raw, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		var all map[string]any
		if err := json.Unmarshal(raw, &all); err != nil {
			t.Fatal(err)
		}
		delete(all, "Where")
		delete(all, "base")
		lines, err := json.MarshalIndent(trimmed(all), "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		b.Write(lines)
		b.WriteString("\n")
	}
	return b.String()
}

// trimmed drops what is empty, and positions.
func trimmed(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, e := range v {
			e = trimmed(e)
			if key == "at" || key == "At" || key == "Plain" || e == nil {
				delete(v, key)
				continue
			}
			if m, ok := e.(map[string]any); ok && len(m) == 0 {
				delete(v, key)
				continue
			}
			v[key] = e
		}
		return v
	case []any:
		for i := range v {
			v[i] = trimmed(v[i])
		}
		return v
	case string:
		if v == "" {
			return nil
		}
	case bool:
		if !v {
			return nil
		}
	}
	return v
}

// TestDecodeWhere: the places of keywords, and how they came there.
func TestDecodeWhere(t *testing.T) {
	c, problems := decodeText(`
default:
  image:
    name: ruby
  tags: &tags [docker]
.base: &base
  stage: build
job:
  <<: *base
  script:
    - one
  environment:
    name: prod
    on_stop: stop
  artifacts: {reports: {junit: r.xml}}
  needs:
    - job: other
    - third
`)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	j := c.Jobs[0]
	for key, want := range map[string]string{
		"script":                  " 10:3",
		"stage":                   "build 7:10 <alias base 9:7>",
		"environment":             " 12:3",
		"environment.name":        "prod 13:11",
		"environment.on_stop":     "stop 14:14",
		"artifacts":               " 15:3",
		"artifacts.reports.junit": "r.xml 15:32",
		"needs":                   " 16:3",
		"image":                   " 3:3 <default image 8:1>",
		"image.name":              "ruby 4:11 <default image 8:1>",
		"tags":                    " 5:3 <default tags 8:1>",
	} {
		text, ok := j.Where[key]
		got := fmt.Sprintf("%s %d:%d", text.Value, text.At.Line, text.At.Column)
		if len(text.Via) > 0 {
			got += " <" + strings.ReplaceAll(showVia(text.Via), "ci.yml:", "") + ">"
		}
		if !ok || got != want {
			t.Errorf("%s is at %q, want %q", key, got, want)
		}
	}
	if j.At.Line != 8 || j.NeedSpecs[0].At.Line != 17 || j.NeedSpecs[0].At.Column != 12 || j.NeedSpecs[1].At.Column != 7 {
		t.Errorf("job at %v, needs at %v and %v", j.At, j.NeedSpecs[0].At, j.NeedSpecs[1].At)
	}
}

// TestDecodeTogether: the fault of a template is one problem however many jobs have it.
func TestDecodeTogether(t *testing.T) {
	_, problems := decodeText(`
.base: &base
  script: x
  image: 5
a: *base
b: *base
c: *base
d: *base
e: {script: x, image: [1]}
`)
	want := "4:10 error wrong-type: jobs:a:image config should be a hash or a string, found the number 5 (quote it: \"5\"; also in the jobs b, c, d)\n" +
		"9:16 error wrong-type: jobs:e:image config should be a hash or a string, found a list\n"
	if diff := cmp.Diff(want, problemLines(problems)); diff != "" {
		t.Error(diff)
	}
}

// TestDecodeBroken: what is wrong in one place is no reason to say that something is missing in another.
func TestDecodeBroken(t *testing.T) {
	c, problems := decodeText(`
stages: [build, 5]
a: {stage: build, scripts: x}
b: {stage: "5", script: x, needs: [a]}
c: {stage: {x: y}, script: x}
varables: {A: b}
`)
	var jobs []string
	for _, j := range c.Jobs {
		jobs = append(jobs, j.Name+" "+j.Stage)
	}
	got := fmt.Sprint(len(problems), jobs, c.Stages)
	if want := "5 [a build b 5 c build] [.pre build 5 .post]"; got != want {
		t.Errorf("got %s, want %s\n%s", got, want, problemLines(problems))
	}
}

// TestDecodeBounds: what is too much is one clear message.
func TestDecodeBounds(t *testing.T) {
	var jobs, problems, variables strings.Builder
	for i := range maxJobs + 1 {
		fmt.Fprintf(&jobs, "j%d: {script: x}\n", i)
	}
	for i := range maxProblems + 5 {
		fmt.Fprintf(&problems, "j%d: {script: 5}\n", i)
	}
	variables.WriteString("j: {script: x}\nvariables:\n")
	for i := range maxVariables + 1 {
		fmt.Fprintf(&variables, "  V%d: x\n", i)
	}
	for name, c := range map[string]struct {
		text, last string
		count      int
	}{
		"jobs":      {jobs.String(), "jobs:j10000 is one of more than 10000 jobs", 1},
		"problems":  {problems.String(), "there are 5 more problems; the first 1000 are shown", maxProblems + 1},
		"variables": {variables.String(), "variables config has more than 1000 variables", 1},
	} {
		_, ps := decodeText(c.text)
		if len(ps) != c.count || ps[len(ps)-1].Message != c.last {
			t.Errorf("%s: %d problems, the last is %v", name, len(ps), ps[len(ps)-1])
		}
	}
	for _, d := range []*Document{nil, {}, {Root: &Node{}}, {Root: &Node{Kind: List}}} {
		if c, ps := Decode(d); c == nil || len(ps) != 1 {
			t.Errorf("Decode(%v) = %v, %v", d, c, ps)
		}
	}
}

func FuzzDecode(f *testing.F) {
	files, _ := filepath.Glob("testdata/decode/*.txtar")
	for _, name := range files {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			f.Add(string(file.Data))
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, problems := decodeText(text)
		if c == nil {
			t.Fatal("no config")
		}
		for _, p := range problems {
			if p.Message == "" || p.Code == "" || p.Severity == "" {
				t.Errorf("%+v", p)
			}
		}
		if problems.Failed() {
			return
		}
		for i, j := range c.Jobs {
			if j.Stage == "" || j.Script == nil && j.Run == nil && j.Trigger == nil && len(j.NeedSpecs) == 0 || j.When == "" {
				t.Errorf("job %d of a file without problems: %+v", i, j)
			}
		}
	})
}

// FuzzDecodeTree decodes trees that are made of keywords, of values that they often have, and of what no parser makes.
func FuzzDecodeTree(f *testing.F) {
	words := []string{
		"a", ".b", "true", "5", "", "never", "manual", "delayed", "1 week", "$A == 'b'", "/a/", "/(/", "name", "key", "files", "prefix", "job", "pipeline",
		"project", "ref", "matrix", "if", "changes", "exists", "paths", "regexp", "compare_to", "value", "options", "expand", "git", "step",
		"url", "action", "on_stop", "kubernetes", "agent", "dashboard", "reports", "junit", "coverage_report", "max", "exit_codes", "aud", "vault",
		"refs", "kubernetes", "include", "local", "artifact", "file", "forward", "strategy", "links", "assets", "tag_name", "default", "type", "workflow",
		"stages", "auto_cancel", "on_new_commit", "pre_get_sources_script", "pull_policy", "docker", "env", "inputs", "token", "gcp_secret_manager",
		"expose_as", "expire_in", "public", "access", "untracked", "policy", "fallback_keys",
	}
	for _, k := range Keywords() {
		name, _, _ := strings.Cut(k.Name, ":")
		words = append(words, strings.Split(name, ", ")...)
	}
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9})
	f.Add([]byte("\x03\x04\x50\x03\x02\x51\x01\x00\x52\x02\x03"))
	f.Fuzz(func(t *testing.T, data []byte) {
		at := 0
		next := func() int {
			if at >= len(data) {
				return 0
			}
			at++
			return int(data[at-1])
		}
		var node func(depth int) *Node
		node = func(depth int) *Node {
			n := &Node{At: pipeline.Position{Line: at + 1, Column: 1}, Plain: next()%2 == 0}
			kind := next() % 16
			if depth > 12 && kind > 7 {
				kind = 1
			}
			switch {
			case kind == 0:
				return nil
			case kind < 3:
				n.Kind, n.Text = String, words[next()%len(words)]
				n.Raw = n.Text
			case kind == 3:
				n.Kind, n.Bool, n.Raw, n.Text = Bool, true, "yes", "true"
			case kind == 4:
				n.Kind, n.Int, n.Text = Int, int64(next())-20, "5"
			case kind == 5:
				n.Kind, n.Float, n.Text = Float, 1.5, "1.5"
			case kind == 6:
				n.Kind = Null
			case kind < 11:
				n.Kind = List
				if kind == 8 {
					n.Kind = Reference
				}
				for range next() % 5 {
					n.Items = append(n.Items, node(depth+1))
				}
			default:
				n.Kind = Map
				for range next() % 9 {
					key := words[next()%len(words)]
					if n.Get(key) == nil {
						n.Pairs = append(n.Pairs, Pair{Key: key, KeyAt: n.At, Value: node(depth + 1)})
					}
				}
			}
			return n
		}
		root := &Node{Kind: Map}
		for range next() % 20 {
			root.Pairs = append(root.Pairs, Pair{Key: words[next()%len(words)], Value: node(0)})
		}
		if c, _ := Decode(&Document{Root: root}); c == nil {
			t.Fatal("no config")
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	var text strings.Builder
	text.WriteString("stages: [build, test]\ndefault: {image: ruby, tags: [docker], retry: 1}\nvariables: {A: b}\n")
	for i := range 2000 {
		fmt.Fprintf(&text, `job-%d:
  stage: test
  script:
    - echo %d
    - make test
  variables: {N: "%d", M: x}
  rules:
    - if: $CI_PIPELINE_SOURCE == "merge_request_event" && $N != "%d"
    - changes: [src/**/*, go.mod]
      when: manual
  needs: [job-%d]
  artifacts: {paths: [out], expire_in: 1 week, reports: {junit: r.xml}}
  cache: {key: {files: [go.sum]}, paths: [.cache]}
  environment: {name: review/$CI_COMMIT_REF_SLUG, on_stop: stop}
`, i, i, i, i%7, max(i-1, 0))
	}
	nodes, problems := parse("ci.yml", []byte(text.String()))
	if len(problems) > 0 {
		b.Fatal(problems)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, problems := Decode(&Document{Root: nodes[0]}); len(problems) > 0 {
			b.Fatal(problems)
		}
	}
}
