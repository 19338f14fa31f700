package config

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"keelson.dev/keelson/internal/pipeline"
)

// repository is the files that a test has: those of the pipeline's repository by their path, those of another as
// "group/name@ref:path", remote files by their address, components as "component:" and their address.
type repository map[string]string

func (fsys repository) Read(include pipeline.Include, from Source) ([]Source, error) {
	prefix, source := "", Source{Project: from.Project, SHA: from.SHA}
	name := strings.TrimPrefix(include.Local, "/")
	switch {
	case include.Remote != "":
		name, source = include.Remote, Source{}
	case include.Component != "":
		name = "component:" + include.Component
		address, version, _ := strings.Cut(include.Component, "@")
		source = Source{Project: path.Dir(address), SHA: version,
			Component: map[string]string{"name": path.Base(address), "version": version, "sha": "c0ffee", "reference": version}}
	case include.Project != "":
		source = Source{Project: include.Project, SHA: include.Ref}
		name = strings.TrimPrefix(include.File, "/")
	case include.Template != "":
		return nil, fs.ErrNotExist
	}
	if source.Project != "" && include.Component == "" {
		prefix = source.Project + "@" + source.SHA + ":"
	}
	var sources []Source
	for key, text := range fsys {
		matched, _ := path.Match(prefix+name, key)
		if key == prefix+name || strings.Contains(name, "*") && matched {
			s := source
			s.Name, s.Text = key, []byte(text)
			sources = append(sources, s)
		}
	}
	if len(sources) == 0 {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	slices.SortFunc(sources, func(a, b Source) int { return strings.Compare(a.Name, b.Name) })
	return sources, nil
}

// Paths and Of make a repository a [pipeline.Tree].
func (fsys repository) Paths() []string { return slices.Collect(maps.Keys(fsys)) }

func (fsys repository) Of(project, ref string) (pipeline.Tree, error) { return nil, fs.ErrNotExist }

// lines writes each scalar of a tree with its path, and with where it is written if it came from elsewhere.
func lines(b *strings.Builder, at string, n *Node, way []pipeline.Via) {
	way = n.Within(way)
	switch {
	case n.Kind == Map && len(n.Pairs) > 0:
		for _, p := range n.Pairs {
			lines(b, strings.TrimPrefix(at+":"+p.Key, ":"), p.Value, way)
		}
		return
	case n.Kind == List && len(n.Items) > 0:
		for i, item := range n.Items {
			lines(b, fmt.Sprintf("%s[%d]", at, i), item, way)
		}
		return
	}
	fmt.Fprintf(b, "%s = %s", at, show(n, false))
	if len(way) > 0 {
		fmt.Fprintf(b, "  (%v < %s)", n.At, strings.ReplaceAll(showVia(way), ", ", " < "))
	}
	b.WriteString("\n")
}

// options are those of a case: a file "inputs" with YAML, and a file "variables" with lines NAME=value and NAME!=a masked value,
// and a file "changes" with the paths that the event changes.
func options(files map[string]string) Options {
	o := Options{Path: ".gitlab-ci.yml", Text: []byte(files[".gitlab-ci.yml"]), Files: repository(files)}
	for line := range strings.Lines(files["variables"]) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		name, masked := strings.CutSuffix(name, "!")
		o.Variables = append(o.Variables, pipeline.Variable{Name: name, Value: value, Masked: masked})
	}
	o.Context = &pipeline.Context{Tree: repository(files)}
	if changes, ok := files["changes"]; ok {
		o.Context.Changes = strings.Fields(changes)
	}
	docs, _ := parse("inputs", []byte(files["inputs"]))
	for _, d := range docs {
		o.Inputs = map[string]pipeline.Input{}
		for _, p := range d.Pairs {
			o.Inputs[p.Key] = pipeline.Input{Value: goValue(p.Value), At: pipeline.Position{File: "--input"}}
		}
	}
	return o
}

// TestRead holds testdata/read/*.txtar. Each case is a folder with the files of a repository and want: the tree, then the problems.
func TestRead(t *testing.T) {
	archives, err := filepath.Glob("testdata/read/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatal("no tests", err)
	}
	for _, name := range archives {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var order []string
		cases, want := map[string]map[string]string{}, map[string]string{}
		written := &txtar.Archive{Comment: archive.Comment}
		for _, f := range archive.Files {
			folder, file, _ := strings.Cut(f.Name, "/")
			if cases[folder] == nil {
				order = append(order, folder)
				cases[folder] = map[string]string{}
			}
			if file == "want" {
				want[folder] = string(f.Data)
				continue
			}
			cases[folder][file] = string(f.Data)
		}
		for _, folder := range order {
			var got strings.Builder
			t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar")+"/"+folder, func(t *testing.T) {
				d, problems := Read(options(cases[folder]))
				if d != nil {
					check(t, d.Root, 0)
					lines(&got, "", d.Root, nil)
				}
				if len(problems) > 0 {
					got.WriteString(showProblems(problems) + "\n")
				}
				if diff := cmp.Diff(want[folder], got.String()); diff != "" && !*update {
					t.Errorf("(-want +got)\n%s", diff)
				}
			})
			for _, f := range archive.Files {
				if strings.HasPrefix(f.Name, folder+"/") && f.Name != folder+"/want" {
					written.Files = append(written.Files, f)
				}
			}
			written.Files = append(written.Files, txtar.File{Name: folder + "/want", Data: []byte(got.String())})
		}
		if *update {
			if err := os.WriteFile(name, txtar.Format(written), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestReadBounds(t *testing.T) {
	first := func(problems pipeline.Problems) string {
		if len(problems) == 0 {
			return ""
		}
		return problems[0].Code + ": " + problems[0].Message
	}
	files := repository{}
	for i := range 200 {
		files[fmt.Sprintf("%d.yml", i)] = fmt.Sprintf("include: %d.yml\nj%d: {script: x}", i+1, i)
	}
	d, problems := Read(Options{Text: []byte("include: 0.yml"), Files: files})
	if got, want := first(problems), "too-many-includes: Maximum of 150 nested includes are allowed!"; got != want || len(problems) != 1 || len(d.Files) != 151 {
		t.Errorf("%s, %d problems, %d files; want %s", got, len(problems), len(d.Files), want)
	}

	many := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(strings.NewReplacer("%i", fmt.Sprint(i), "%j", fmt.Sprint(i+1)).Replace(format))
		}
		return b.String()
	}
	for name, c := range map[string]struct{ text, want string }{
		"extends": {
			text: ".a: {script: [" + many(50_000, "x,") + "]}\n" + many(100, "j%i: {extends: .a}\n"),
			want: "yaml-too-large: j78: with what is extended there are more than 4000000 values",
		},
		"references": {
			text: "r: [" + many(20_000, "x,") + "]\n" + many(100, "r%i: {k: [!reference [r], !reference [r], !reference [r]]}\n"),
			want: "yaml-too-large: The parsed YAML is too big: with its references it has more than 4000000 values, or more than 100 within each other",
		},
		"a chain of references": {
			text: many(300, "r%i: !reference [r%j]\n") + "r300: x\n",
			want: "reference-too-deep: !reference [\"r101\"]: more than 100 references lead to each other",
		},
		"references within each other": {
			text: many(100, "r%i: [!reference [r%j]]\n") + "r100: x\n",
			want: "",
		},
		"references too deep within each other": {
			text: many(100, "r%i: [[!reference [r%j]]]\n") + "r100: x\n",
			want: "yaml-too-large: The parsed YAML is too big: with its references it has more than 4000000 values, or more than 100 within each other",
		},
		"blocks": {
			text: "spec: {inputs: {x: {default: y}}}\n---\na: {script: [" + many(10_001, "'$[[ inputs.x | truncate(0, %i) ]]',") + "]}",
			want: "interpolation: too many interpolation blocks",
		},
		"a text that grows": {
			text: "spec: {inputs: {x: {default: " + many(100_000, "y") + "}}}\n---\na: {script: '" + many(1000, "$[[ inputs.x ]]") + "'}",
			want: "interpolation: config node too large",
		},
		"a list that grows": {
			text: "spec: {inputs: {x: {type: array, default: [" + many(50_000, "y,") + "]}}}\n---\na: {script: [" + many(1000, "'$[[ inputs.x ]]',") + "]}",
			want: "yaml-too-large: config too large: with its inputs it has more than 500000 values, or more than 100 within each other",
		},
	} {
		_, problems := Read(Options{Text: []byte(c.text)})
		if got := first(problems); got != c.want {
			t.Errorf("%s: %.300s", name, got)
		}
	}

	big := "#" + strings.Repeat("x", 2<<20-10) + "\na: {}"
	includes := "include: [" + strings.Repeat("{local: a.yml}, ", 100) + "]"
	_, problems = Read(Options{Text: []byte(includes), Files: repository{"a.yml": big}})
	if got, want := first(problems), "yaml-too-large: Total size of combined CI/CD configuration is too big: the limits are 67108864 bytes and 500000 values"; got != want || len(problems) != 1 {
		t.Errorf("%s", got)
	}
}

// Each of the templates comes to jobs without a problem, with the inputs that it has to be given.
func TestTemplates(t *testing.T) {
	inputs := map[string]string{"Keelson/Helm-Deploy": "chart: deploy/chart", "Keelson/Kustomize-Deploy": "path: deploy/prod"}
	for _, name := range Templates() {
		text := "include:\n  - template: " + name + "\n    inputs: {" + inputs[strings.TrimSuffix(name, templateSuffix)] + "}\n"
		if !strings.HasPrefix(name, "Keelson/") {
			text = "include: {template: " + name + "}\n"
		}
		d, problems := Read(Options{Text: []byte(text + "other: {script: x}\n")})
		if len(problems) > 0 {
			t.Errorf("%s: %s", name, showProblems(problems))
			continue
		}
		for _, p := range d.Root.Pairs {
			if strings.HasPrefix(p.Key, ".") && p.Value.Get("script") != nil {
				text += "job" + p.Key + ": {extends: " + p.Key + "}\n"
			}
		}
		c, problems := Load(Options{Text: []byte(text + "other: {script: x}\n")})
		if len(problems) > 0 {
			t.Errorf("%s: %s", name, showProblems(problems))
		}
		if strings.HasPrefix(name, "Keelson/") && len(c.Jobs) < 2 {
			t.Errorf("%s has %d jobs", name, len(c.Jobs))
		}
	}
}

// A job without a script may have it from an include that could not be read: it is no error then.
func TestIncomplete(t *testing.T) {
	_, problems := Load(Options{Text: []byte("include: none.yml\nsast: {variables: {A: b}}\n"), Files: repository{}})
	if got, want := showProblems(problems), ".gitlab-ci.yml:1:10: error include-not-found: Local file `none.yml` does not exist!"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
