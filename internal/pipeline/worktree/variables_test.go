package worktree

import (
	"fmt"
	"strings"
	"testing"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/config"
)

func readVariables(t testing.TB, text string) (Levels, pipeline.Problems) {
	t.Helper()
	doc, problems := config.Read(config.Options{Path: VariablesFile, Text: []byte(text)})
	if doc == nil || problems.Failed() {
		return Levels{}, problems
	}
	levels, more := Variables(doc.Root)
	return levels, append(problems, more...)
}

func TestVariables(t *testing.T) {
	levels, problems := readVariables(t, `
PLAIN: text
AGREED: yes
OCTAL: 012
QUOTED: "a\tb"
EMPTY:
TOKEN:
  value: s3cret-value
  masked: true
  protected: true
  expand: false
CONFIG:
  type: file
  value: |
    line
URL:
  - {value: one, environment: staging}
  - {value: two, environment: "review/*", level: group}
WIDE: {value: x, level: instance}
`)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	var got []string
	for name, vs := range map[string]pipeline.Variables{"project": levels.Project, "group": levels.Group, "instance": levels.Instance} {
		for _, v := range vs {
			if v.Origin != name || v.At.Line == 0 {
				t.Errorf("%s: origin %s, at %v", v.Name, v.Origin, v.At)
			}
			got = append(got, fmt.Sprintf("%s %s=%q", name, v.Name, v.Value)+flags(v))
		}
	}
	for _, want := range []string{
		`project PLAIN="text"`, `project AGREED="yes"`, `project OCTAL="012"`, `project QUOTED="a\tb"`, `project EMPTY=""`,
		`project TOKEN="s3cret-value" masked protected raw`, `project CONFIG="line\n" file`, `project URL="one" for staging`,
		`group URL="two" for review/*`, `instance WIDE="x"`,
	} {
		found := false
		for _, g := range got {
			found = found || g == want
		}
		if !found {
			t.Errorf("%s is missing in %q", want, got)
		}
	}
	if len(got) != 10 {
		t.Errorf("%d variables: %q", len(got), got)
	}
}

func flags(v pipeline.Variable) string {
	out := ""
	for _, f := range []struct {
		name string
		set  bool
	}{{"masked", v.Masked}, {"protected", v.Protected}, {"raw", v.Raw}, {"file", v.File}, {"for " + v.Scope, v.Scope != ""}} {
		if f.set {
			out += " " + f.name
		}
	}
	return out
}

func TestVariablesRefused(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"- a", "map"},
		{"just text", "map"},
		{"A B: x", "no name"},
		{"YES: x", "quotes"},
		{"A: {masked: true}", "no value"},
		{"A: {value: x, maskd: true}", "unknown key `maskd`"},
		{"A: {value: x, masked: perhaps}", "true or false"},
		{"A: {value: x, type: env}", "variable or file"},
		{"A: {value: x, level: team}", "project or group or instance"},
		{"A: {value: [x]}", "is a text"},
		{"A: [x]", "a list has a map"},
		{"A: {value: short, masked: true}", "8 characters"},
		{"A: {", "YAML"},
	} {
		_, problems := readVariables(t, c.text)
		if len(problems) == 0 || !strings.Contains(problems[0].Message, c.want) {
			t.Errorf("%s: %v", c.text, problems)
			continue
		}
		if problems[0].At.File != VariablesFile || problems[0].At.Line == 0 {
			t.Errorf("%s: at %v", c.text, problems[0].At)
		}
	}
}

func FuzzVariables(f *testing.F) {
	f.Add("A: x\nB: {value: y, masked: true}\nC: [{value: z, environment: '*'}]")
	f.Add("A: &a {value: x}\nB: *a\nC: [*a, *a]")
	f.Add("A: {<<: {value: x}}")
	f.Fuzz(func(t *testing.T, text string) {
		levels, _ := readVariables(t, text)
		for _, v := range levels.Project {
			if v.Name == "" || v.Origin == "" {
				t.Errorf("%+v", v)
			}
		}
	})
}

func FuzzParsePlace(f *testing.F) {
	for _, s := range []string{"git@host:a/b.git", "https://u:p@host/a", "../x", "C:\\x", "ssh://[::1]:22/a", ":", "a:b:c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p := parsePlace(s)
		if p.web() == "" {
			t.Errorf("%q has no page", s)
		}
		_ = p.url("x/y")
	})
}
