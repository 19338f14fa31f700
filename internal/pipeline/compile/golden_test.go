package compile

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/config"
)

var update = flag.Bool("update", false, "write what comes out into testdata")

// TestGolden runs the files of testdata. Each holds the files of a repository and sections that are commands with what they
// print:
//
//	lint                     what Lint finds
//	compile EVENT            the graph, or why there is none
//	explain EVENT            the verdicts
//
// An event is words: ref=NAME, tag=NAME, source=NAME, mr=SOURCE:TARGET, changes=A,B (none: changes=), var.NAME=VALUE,
// project.NAME=VALUE, since.REF=A,B, message=TEXT_WITH_UNDERSCORES, depth=N, protected, kubernetes, vars (print all variables but predefined ones).
func TestGolden(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal("no testdata", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files := tree{}
			for _, f := range archive.Files {
				if verb, _, _ := strings.Cut(f.Name, " "); verb != "lint" && verb != "compile" && verb != "explain" {
					files[f.Name] = f.Data
				}
			}
			for i, f := range archive.Files {
				if files[f.Name] != nil {
					continue
				}
				got := run(t, files, f.Name)
				if *update {
					archive.Files[i].Data = got
				} else if !bytes.Equal(got, f.Data) {
					t.Errorf("%s\n--- got\n%s--- want\n%s", f.Name, got, f.Data)
				}
			}
			if *update {
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// tree is the files of a repository.
type tree map[string][]byte

func (t tree) Paths() []string {
	var paths []string
	for name := range t {
		paths = append(paths, name)
	}
	return paths
}

func (t tree) Of(project, ref string) (pipeline.Tree, error) {
	return nil, fmt.Errorf("%s@%s: %w", project, ref, fs.ErrNotExist)
}

func (t tree) Read(i pipeline.Include, _ config.Source) ([]config.Source, error) {
	name := strings.TrimPrefix(i.Local, "/")
	if text, ok := t[name]; ok {
		return []config.Source{{Name: name, Text: text}}, nil
	}
	return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
}

// load reads the configuration of a repository.
func load(files tree, c *pipeline.Context) (*pipeline.Config, pipeline.Problems) {
	return config.Load(config.Options{Path: ".gitlab-ci.yml", Text: files[".gitlab-ci.yml"], Files: files, Variables: ConfigVariables(c), Context: c})
}

// run gives what a command prints.
func run(t *testing.T, files tree, command string) []byte {
	t.Helper()
	words := strings.Fields(command)
	c, all := event(t, files, words[1:])
	cfg, problems := load(files, c)
	var out bytes.Buffer
	if problems.Failed() {
		problemsText(&out, problems)
		return out.Bytes()
	}
	switch words[0] {
	case "lint":
		problemsText(&out, append(problems, Lint(cfg)...))
	case "compile":
		r := Compile(cfg, c)
		sameOutline(t, r, Outline(cfg, c))
		problemsText(&out, r.Problems)
		if r.Graph == nil {
			if !r.Workflow.Runs {
				fmt.Fprintln(&out, "no pipeline:", r.Workflow.Reason)
			}
			break
		}
		graphText(&out, r.Graph, all)
	case "explain":
		r := Compile(cfg, c)
		problemsText(&out, r.Problems)
		explainText(&out, r)
	}
	return out.Bytes()
}

// sameOutline holds that an outline lacks nothing but the variables of jobs.
func sameOutline(t *testing.T, whole, outline Result) {
	t.Helper()
	if whole.Graph != nil {
		g := *whole.Graph
		g.Jobs = slices.Clone(g.Jobs)
		for i := range g.Jobs {
			g.Jobs[i].Variables = nil
		}
		whole.Graph = &g
	}
	if !reflect.DeepEqual(whole, outline) {
		t.Errorf("the outline differs: %+v, want %+v", outline, whole)
	}
}

func event(t *testing.T, files tree, words []string) (c *pipeline.Context, all bool) {
	t.Helper()
	c = &pipeline.Context{
		Source: pipeline.SourcePush, Ref: "main", Tree: files, PipelineID: 7, PipelineIID: 3, Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Commit:  pipeline.Commit{SHA: "0123456789abcdef0123456789abcdef01234567", Message: "title\n\ntext"},
		Project: pipeline.Project{ID: 1, Path: "group/app", DefaultBranch: "main"},
	}
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "ref":
			c.Ref = value
		case "tag":
			c.Ref, c.Tag = value, true
		case "source":
			c.Source = value
		case "mr":
			source, target, _ := strings.Cut(value, ":")
			c.Source, c.Ref = pipeline.SourceMergeRequest, source
			c.MergeRequest = &pipeline.MergeRequest{ID: 11, IID: 5, SourceBranch: source, TargetBranch: target, SourceProject: c.Project.Path}
		case "changes":
			c.Changes = strings.FieldsFunc(value, func(r rune) bool { return r == ',' })
			if c.Changes == nil {
				c.Changes = []string{}
			}
		case "message":
			c.Commit.Message = strings.ReplaceAll(value, "_", " ")
		case "depth":
			n, _ := strconv.Atoi(value)
			c.Source, c.Upstream = pipeline.SourceParent, &pipeline.Upstream{PipelineID: 6, Depth: n}
		case "protected":
			c.Protected = true
		case "kubernetes":
			c.Kubernetes = true
		case "vars":
			all = true
		default:
			name, ok := strings.CutPrefix(key, "var.")
			project, ok2 := strings.CutPrefix(key, "project.")
			since, ok3 := strings.CutPrefix(key, "since.")
			switch {
			case ok3:
				c.ChangesSince = func(ref string) ([]string, error) {
					if ref != since {
						return nil, fs.ErrNotExist
					}
					return strings.Split(value, ","), nil
				}
			case ok:
				c.Pipeline = append(c.Pipeline, pipeline.Variable{Name: name, Value: value, Origin: pipeline.OriginPipeline})
			case ok2:
				c.ProjectVars = append(c.ProjectVars, pipeline.Variable{Name: project, Value: value, Origin: pipeline.OriginProject, Masked: strings.HasSuffix(project, "TOKEN"), Protected: strings.HasPrefix(project, "PROTECTED")})
			default:
				t.Fatalf("unknown word of an event: %s", word)
			}
		}
	}
	return c, all
}

func problemsText(out *bytes.Buffer, ps pipeline.Problems) {
	for _, p := range ps {
		fmt.Fprintf(out, "%s %s %s: %s\n", p.At, p.Severity, p.Code, p.Message)
		if p.Hint != "" {
			fmt.Fprintf(out, "  hint: %s\n", p.Hint)
		}
		for _, v := range p.Via {
			fmt.Fprintf(out, "  via %s %s %s\n", v.How, v.Name, v.At)
		}
	}
}

func graphText(out *bytes.Buffer, g *pipeline.Graph, all bool) {
	if g.Name != "" {
		fmt.Fprintf(out, "name: %s\n", g.Name)
	}
	if g.AutoCancel != (pipeline.AutoCancel{}) {
		fmt.Fprintf(out, "auto_cancel: %s/%s\n", g.AutoCancel.OnNewCommit, g.AutoCancel.OnJobFailure)
	}
	for _, stage := range g.Stages {
		fmt.Fprintf(out, "%s\n", stage)
		for i := range g.Jobs {
			if g.Jobs[i].Stage == stage {
				jobText(out, &g.Jobs[i], all)
			}
		}
	}
}

func jobText(out *bytes.Buffer, j *pipeline.Job, all bool) {
	fmt.Fprintf(out, "  %s: %s", j.Name, j.When)
	if j.StartIn > 0 {
		fmt.Fprintf(out, " in %s", time.Duration(j.StartIn))
	}
	if j.AllowFailure.Allowed {
		fmt.Fprintf(out, ", allow_failure %v", j.AllowFailure.ExitCodes)
	}
	if j.Interruptible {
		fmt.Fprint(out, ", interruptible")
	}
	if j.DAG {
		fmt.Fprint(out, ", needs [")
		for i, n := range j.Needs {
			if i > 0 {
				fmt.Fprint(out, " | ")
			}
			fmt.Fprint(out, n.Job)
			if !n.Artifacts {
				fmt.Fprint(out, " -artifacts")
			}
			if n.Project != "" {
				fmt.Fprintf(out, " of %s@%s", n.Project, n.Ref)
			}
		}
		fmt.Fprint(out, "]")
	}
	if j.Dependencies != nil {
		fmt.Fprintf(out, ", dependencies [%s]", strings.Join(j.Dependencies, " | "))
	}
	if t := j.Trigger; t != nil {
		fmt.Fprintf(out, ", trigger %s@%s", t.Project, t.Branch)
		for _, i := range t.Include {
			fmt.Fprintf(out, " include %s", i.Local)
		}
	}
	if j.Node.Total > 0 {
		fmt.Fprintf(out, ", node %d of %d", j.Node.Index, j.Node.Total)
	}
	if j.ResourceGroup != "" {
		fmt.Fprintf(out, ", resource_group %s", j.ResourceGroup)
	}
	if j.Tags != nil {
		fmt.Fprintf(out, ", tags %v", j.Tags)
	}
	fmt.Fprintln(out)
	if e := j.Environment; e != nil {
		fmt.Fprintf(out, "    environment %s (%s, %s) %s %s\n", e.Name, e.Slug, e.Tier, e.Action, e.URL)
	}
	if !all {
		return
	}
	for _, v := range j.Variables {
		if v.Origin != pipeline.OriginPredefined {
			last, _ := j.Variables.Get(v.Name)
			shadowed := ""
			if last != v {
				shadowed = " (hidden)"
			}
			fmt.Fprintf(out, "    %s=%s %s %s%s\n", v.Name, v.Value, v.Origin, v.At, shadowed)
		}
	}
}

func explainText(out *bytes.Buffer, r Result) {
	verdictText(out, "workflow", r.Workflow)
	for i := range r.Verdicts {
		verdictText(out, r.Verdicts[i].Job, &r.Verdicts[i])
	}
}

func verdictText(out *bytes.Buffer, name string, v *pipeline.Verdict) {
	mark := "-"
	if v.Runs {
		mark = "+"
	}
	fmt.Fprintf(out, "%s %s", mark, name)
	if len(v.Instances) > 0 {
		fmt.Fprintf(out, " %s", slices.Clip(v.Instances))
	}
	if v.When != "" {
		fmt.Fprintf(out, " %s", v.When)
	}
	fmt.Fprintf(out, ": %s\n", v.Reason)
	for _, rule := range v.Rules {
		fmt.Fprintf(out, "    %s %s %v\n", rule.At, rule.Keyword, rule.Matches)
		for _, c := range rule.Clauses {
			fmt.Fprintf(out, "      %s %v %s: %s\n", c.Kind, c.Holds, c.Text, c.Detail)
			for _, u := range c.Values {
				switch {
				case !u.Set:
					fmt.Fprintf(out, "        %s is not set\n", u.Name)
				default:
					fmt.Fprintf(out, "        %s=%s %s %s\n", u.Name, u.Value, u.Origin, u.At)
				}
			}
		}
	}
}
