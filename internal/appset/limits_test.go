package appset_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/appset"
)

// templated is a set of one Application whose annotation is a template over {text: "x", list: [1, 2, 3]}.
func templated(goTemplate bool, text string) *argocdv1.ApplicationSet {
	set := &argocdv1.ApplicationSet{}
	set.Name, set.Namespace = "s", "argocd"
	set.Spec.GoTemplate = goTemplate
	element := `{"text": "x", "list": [1, 2, 3]}`
	if !goTemplate {
		element = `{"text": "x"}`
	}
	set.Spec.Generators = []argocdv1.ApplicationSetGenerator{{List: &argocdv1.ListGenerator{Elements: []runtime.RawExtension{{Raw: []byte(element)}}}}}
	template, err := json.Marshal(map[string]any{"metadata": map[string]any{"name": "a", "annotations": map[string]any{"a": text}}})
	if err != nil {
		panic(err) // of text
	}
	set.Spec.Template.Raw = template
	return set
}

// TestTemplatesAreBounded: templates that would take forever, or all memory, are stopped, and say why.
func TestTemplatesAreBounded(t *testing.T) {
	doubled := `{{ $x := "xxxxxxxxxxxxxxxx" }}` + strings.Repeat(`{{ $x = print $x $x }}`, 40)
	nested := `{{ $x := list 1 }}` + strings.Repeat(`{{ $x = list $x $x }}`, 40) + `{{ $x }}`
	for name, c := range map[string]struct{ text, want string }{
		"a loop":                     {`{{ range 1000000000 }}{{ end }}`, "it does too much"},
		"loops in loops":             {`{{ range until 9999 }}{{ range until 9999 }}{{ end }}{{ end }}`, "it does too much"},
		"a loop that prints":         {`{{ range until 99999 }}xxxxxxxxxxxxxxxx{{ end }}`, "more than 1024 KiB"},
		"a template in itself":       {`{{ define "a" }}{{ template "a" . }}{{ template "a" . }}{{ end }}{{ template "a" . }}`, "exceeded maximum template depth"},
		"a template twice in itself": {`{{ define "a" }}{{ if . }}{{ template "a" (rest .) }}{{ template "a" (rest .) }}{{ end }}{{ end }}{{ template "a" (until 40) }}`, "it does too much"},
		"tpl in itself":              {`{{ $d := dict "t" "{{ tpl .t . }}" }}{{ tpl $d.t $d }}`, "maximum recursion depth 3"},
		"repeat":                     {`{{ repeat 1000000000 "x" }}`, "it does too much"},
		"indent":                     {`{{ indent 1000000000 "x" }}`, "it does too much"},
		"until":                      {`{{ until 1000000000 | len }}`, "it does too much"},
		"untilStep":                  {`{{ untilStep 0 1000000000 1 | len }}`, "it does too much"},
		"seq":                        {`{{ seq 1 1000000000 }}`, "it does too much"},
		"printf":                     {`{{ printf "%01000000d%01000000d%01000000d%01000000d%01000000d" 1 2 3 4 5 | len }}`, "a value has more than 4 MiB"},
		"printf many times":          {`{{ printf (repeat 1000 "%01000000d") 1 }}`, "it does too much"},
		"replace":                    {`{{ $x := repeat 1000000 "x" }}{{ replace "x" $x $x }}`, "it does too much"},
		"join":                       {`{{ join (repeat 1000000 "x") (until 10000) }}`, "it does too much"},
		"wrapWith":                   {`{{ wrapWith 1 (repeat 1000000 "x") (repeat 1000000 "y") }}`, "it does too much"},
		"regexReplaceAll":            {`{{ regexReplaceAll "x" (repeat 1000000 "x") (repeat 1000000 "y") }}`, "it does too much"},
		"mustRegexReplaceAll":        {`{{ mustRegexReplaceAll "x" (repeat 1000000 "x") (repeat 1000000 "y") }}`, "it does too much"},
		"uniq":                       {`{{ uniq (until 100000) }}`, "it does too much"},
		"doubling":                   {doubled, "a value has more than 4 MiB"},
		"lists in lists":             {nested, "a value has more than 4 MiB"},
		"a map in itself":            {`{{ $d := dict }}{{ $_ := set $d "d" $d }}{{ $d }}`, "a value has more than 4 MiB"},
		"a map in itself as JSON":    {`{{ $d := dict }}{{ $_ := set $d "d" $d }}{{ toJson $d }}`, "a value has more than 4 MiB"},
		"what changes each time":     {`{{ randAlphaNum 5 }}`, "randAlphaNum gives something else each time"},
		"a key":                      {`{{ genPrivateKey "rsa" }}`, "genPrivateKey gives something else each time"},
		"the environment":            {`{{ env "HOME" }}`, `function "env" not defined`},
		"the network":                {`{{ getHostByName "example.com" }}`, `function "getHostByName" not defined`},
		"what fails":                 {`{{ fail "on purpose" }}`, "on purpose"},
		"a division by zero":         {`{{ div 1 0 }}`, "divide by zero"},
		"arguments of a wrong type":  {`{{ slugify "a" true "b" }}`, "slugify: argument 1"},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			_, err := appset.Generate(templated(true, c.text), appset.World{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
	if _, err := appset.Generate(templated(false, strings.Repeat("{{text}}", 1)+strings.Repeat("x", 2<<20)), appset.World{}); err == nil {
		t.Error("an Application of 2 MiB is none")
	}
}

// TestParametersAreBounded: combinations of combinations end.
func TestParametersAreBounded(t *testing.T) {
	set := templated(true, "x")
	list := argocdv1.ApplicationSetGenerator{List: &argocdv1.ListGenerator{ElementsYaml: strings.Repeat("- {}\n", 101)}}
	set.Spec.Generators = []argocdv1.ApplicationSetGenerator{{Matrix: &argocdv1.MatrixGenerator{Generators: []argocdv1.ApplicationSetGenerator{list, list}}}}
	if _, err := appset.Generate(set, appset.World{}); err == nil || !strings.Contains(err.Error(), "more than 10000 sets of parameters") {
		t.Errorf("got %v", err)
	}
}

// FuzzTemplate: no template panics, or goes on forever.
func FuzzTemplate(f *testing.F) {
	for _, text := range []string{
		"{{text}}", "{{ .text }}", "{{ range .list }}{{ . }}{{ else }}x{{ end }}", "{{ with $x := .text }}{{ $x }}{{ else with .list }}{{ end }}",
		`{{ define "a" }}{{ . }}{{ end }}{{ template "a" .text }}`, `{{ tpl "{{ .text }}" . }}`, "{{ .list | toYaml | indent 3 }}", "{{- /* x */ -}}",
		`{{ block "b" . }}{{ break }}{{ end }}`, "{{ range $i, $x := .list }}{{ continue }}{{ end }}", "{{ printf \"%[3]*.[2]*[1]f\" 1.0 2 3 }}",
	} {
		f.Add(true, text)
		f.Add(false, text)
	}
	f.Fuzz(func(t *testing.T, goTemplate bool, text string) {
		began := time.Now()
		_, _ = appset.Generate(templated(goTemplate, text), appset.World{Now: now})
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

// FuzzGlob: no glob panics.
func FuzzGlob(f *testing.F) {
	for _, glob := range []string{"apps/*/config.json", "**/x[!a-c]?.yaml", "[]a]", "[[:alpha:]]*", `a\*b`, ":(glob)**/x", "[", "[^", "é*", "..", "/x", `\`} {
		f.Add(glob)
	}
	f.Fuzz(func(_ *testing.T, glob string) {
		set := templated(true, "x")
		git := &argocdv1.GitGenerator{Files: []argocdv1.GitGeneratorItem{{Path: glob}}}
		set.Spec.Generators = []argocdv1.ApplicationSetGenerator{{Git: git}}
		_, _ = appset.Generate(set, appset.World{Repository: tiny})
		git.Files, git.Directories = nil, []argocdv1.GitGeneratorItem{{Path: glob}}
		_, _ = appset.Generate(set, appset.World{Repository: tiny})
	})
}
