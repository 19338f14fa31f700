package plan_test

import (
	"strings"
	"testing"

	"github.com/itchyny/gojq"

	"keelson.dev/keelson/internal/plan"
)

// TestParseJQ: expressions that find fields are taken, those that could make something large of something small are refused by name.
func TestParseJQ(t *testing.T) {
	tests := []struct{ expression, refused string }{
		{`.spec.template.spec.initContainers[] | select(.name == "injected-init-container")`, ""},
		{`.webhooks[]?.clientConfig.caBundle`, ""},
		{`.data["config.yaml"]`, ""},
		{`.metadata.annotations."autoscaling.alpha.kubernetes.io/behavior"`, ""},
		{`.spec.sources[] | select(.repoURL == "https://git.example.com/org/repo1").targetRevision`, ""},
		{`.. | .image?`, ""},
		{`.spec.containers[0:2][].env[-1]`, ""},
		{`.a // .b, .c`, ""},
		{`.metadata.annotations | to_entries[] | select(.key | startswith("a.b/")) | .value`, ""},
		{`.rules[] | select(.host | test("^x-[0-9]+"; "i") and (endswith(".org") | not))`, ""},
		{`.list[] | select(any(.env[]; .name == "A") or all(.x[]; . > 1) or has("b"))`, ""},
		{`.list[] | select(.name | IN("a", "b"))`, ""},
		{`.list[] | select(.name | inside("abc"))`, ""},
		{`.list[] | select(.x | contains(["a", {b: 1}]))`, ""},
		{`.list[] | select([1, "a"] | index(1))`, ""},
		{`.spec as $s | .list[] | select(.name == $s.name + "-x")`, ""},
		{`.list[.list | length - 1]`, ""},
		{`paths(type == "number")`, ""},
		{`getpath(["a", "b"])`, ""},
		{`first(.a[]), limit(2; .b[]), last`, ""},
		{`if .a then .b elif .c then .d else .e end`, ""},
		{`try .a catch .b`, ""},

		{`.a[("x"*33554432)|split("")|length]`, "operator *"},
		{`.a[.b | split("") | length]`, "function split"},
		{`.a[(. + .) | (. + .) | length]`, "operator +"},
		{`.a["\(.)\(.)" | length]`, `\( )`},
		{`.a[[., .] | [., .] | length]`, "an array or object"},
		{`.a[[{a: (1, 2), b: (1, 2)}] | length]`, "an array or object"},
		{`.a[{a: ., b: .} | length]`, "an array or object"},
		{`.a[{a: 1, $__loc__} | length]`, "an array or object"},
		{`last(range(1; infinite)) | .a`, "function range"},
		{`recurse(. + 1)`, "function recurse with 1 arguments"},
		{`def f: f; f`, "def"},
		{`.a | def f: f; f`, "def"},
		{`.a[reduce .b[] as $x (0; . + 1)]`, "reduce"},
		{`.a[foreach .b[] as $x (0; . + 1)]`, "foreach"},
		{`.a | @json`, "@json"},
		{`.a | select(@base64 "x\(.)")`, "@base64"},
		{`.a |= 1`, "operator |="},
		{`del(.a)`, "function del"},
		{`map(.a)`, "function map"},
		{`input`, "function input"},
		{`env.HOME`, "function env"},
		{`. as [$a] | $a`, "destructuring"},
		{`.a | contains(.)`, "contains"},
		{`.a | test(.b)`, "test"},
		{`.a | test("((x{100}){10}){10}")`, "invalid repeat count"},
		{`.a | test("(x?){1000}")`, "too large"},
		{`.a[(("x" * 9) | length):]`, "operator *"},
		{`try ("x" * 9)`, "operator *"},
		{`if . then ("x" * 9) else . end`, "operator *"},
		{`if . then . elif ("x" * 9) then . end`, "operator *"},
		{`select("x" * 9)`, "operator *"},
		{`-("x" * 9)`, "operator *"},
		{`."a"?[("x" * 9)]?`, "operator *"},
		{`.a) | ("x" * 9`, "unexpected"},
		{`.` + strings.Repeat("a", 5000), "longer"},
	}
	for _, tt := range tests {
		t.Run(tt.expression[:min(len(tt.expression), 80)], func(t *testing.T) {
			query, err := plan.ParseJQ(tt.expression)
			switch {
			case tt.refused == "" && err != nil:
				t.Fatalf("it is refused: %v", err)
			case tt.refused != "" && (err == nil || !strings.Contains(err.Error(), tt.refused)):
				t.Fatalf("the error is %v, want one with %q", err, tt.refused)
			case tt.refused == "":
				if _, err := gojq.Compile(query); err != nil {
					t.Errorf("it is taken, but does not compile: %v", err)
				}
			}
		})
	}
}

// TestCheckDeletion: a program that deletes is as good as what it names.
func TestCheckDeletion(t *testing.T) {
	for program, want := range map[string]string{
		`del(.a)`:                    "",
		`del(.a[] | select(.b), .c)`: "",
		`del(.a) | ("x" * 9)`:        "other than del",
		`del(.a)[("x" * 9)]`:         "other than del",
		`.a`:                         "other than del",
		`del(del(.a))`:               "function del",
		`del(.a["x" * 9])`:           "operator *",
	} {
		query, err := gojq.Parse(program)
		if err != nil {
			t.Fatal(err)
		}
		if err := plan.CheckDeletion(query); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: the error is %v, want one with %q", program, err, want)
		}
	}
}
