package pipeline

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// list makes variables of lines "NAME=value"; a mark before the name makes it raw (!), a file (@) or masked (*).
func list(lines ...string) Variables {
	var out Variables
	for _, line := range lines {
		name, value, _ := strings.Cut(line, "=")
		v := Variable{Name: strings.TrimLeft(name, "!@*"), Value: value}
		marks := name[:len(name)-len(v.Name)]
		v.Raw, v.File, v.Masked = strings.Contains(marks, "!"), strings.Contains(marks, "@"), strings.Contains(marks, "*")
		out = append(out, v)
	}
	return out
}

// lines is the opposite, without marks.
func lines(vs Variables) (out []string) {
	for _, v := range vs {
		out = append(out, v.Name+"="+v.Value)
	}
	return out
}

func TestExpand(t *testing.T) {
	vs := list("A=weak", "A=a", "B=$A", "!RAW=$A%A%", "@KUBECONFIG=content", "EMPTY=", "a-b=odd")
	for _, c := range []struct{ text, runner, server, blank string }{
		{"plain", "plain", "plain", "plain"},
		{"$A-${A}-x", "a-a-x", "a-a-x", "a-a-x"},
		{"$Ax ${Ax}", " ", "$Ax ${Ax}", " "},
		{"$B", "$A", "$A", "$A"}, // once
		{"$RAW", "$A%A%", "$A%A%", "$A%A%"},
		{"%A% %NONE% 100%", "%A% %NONE% 100%", "a %NONE% 100%", "a  100%"},
		{"$$A", "$A", "$a", "$a"}, // only the runner knows an escape
		{"$$$A", "$a", "$$a", "$$a"},
		{"%%A%%", "%%A%%", "%a%", "%a%"},
		{"<$EMPTY>", "<>", "<>", "<>"},
		{"$1$@$?${*}${9}", "", "$1$@$?${*}${9}", "$1$@$?${*}${9}"},
		{"$-", "", "$-", "$-"},
		{"cost: 5$", "cost: 5$", "cost: 5$", "cost: 5$"},
		{"$ A $.", "$ A $.", "$ A $.", "$ A $."},
		{"${}x${", "x", "${}x${", "${}x${"},
		{"${A", "A", "${A", "${A"},
		{"${a-b} ${A:-x}", "odd ", "${a-b} ${A:-x}", "${a-b} ${A:-x}"},
		{"${$}", "$", "${$}", "${$}"},
		{"$KUBECONFIG ${KUBECONFIG}", "$KUBECONFIG ${KUBECONFIG}", "content content", "content content"},
		{"é$A€", "éa€", "éa€", "éa€"},
	} {
		if got := vs.Expand(c.text); got != c.runner {
			t.Errorf("the runner makes %q of %q, not %q", got, c.text, c.runner)
		}
		if got := vs.ExpandServer(c.text); got != c.server {
			t.Errorf("the server makes %q of %q, not %q", got, c.text, c.server)
		}
		if got := vs.ExpandServerBlank(c.text); got != c.blank {
			t.Errorf("the server makes %q of %q, not %q, where unknown variables are nothing", got, c.text, c.blank)
		}
	}
	if got := vs.ExpandFiles("$KUBECONFIG", func(name string) string { return "/tmp/" + name }); got != "/tmp/KUBECONFIG" {
		t.Errorf("a file is %q", got)
	}
}

func TestExpandIsBounded(t *testing.T) {
	vs := list("A=" + strings.Repeat("a", 1000))
	text := strings.Repeat("$A", 10_000)
	for name, got := range map[string]string{"runner": vs.Expand(text), "server": vs.ExpandServer(text)} {
		if len(got) > maxExpanded+2*len(text) || !strings.HasSuffix(got, "$A") {
			t.Errorf("%s: %d bytes", name, len(got))
		}
	}
}

func TestSorted(t *testing.T) {
	for _, c := range []struct {
		name     string
		in       Variables
		sorted   []string
		resolved []string
		err      string
	}{
		{name: "nothing refers", in: list("A=1", "B=2"), sorted: []string{"A=1", "B=2"}},
		{name: "in the order of references", in: list("A=$B/a", "B=%C%/b", "C=c", "D=${A}"),
			sorted: []string{"C=c", "B=c/b", "A=c/b/a", "D=c/b/a"}},
		{name: "unknown ones stay for the runner", in: list("A=$NONE-$B", "B=${1}$"),
			sorted: []string{"B=${1}$", "A=$NONE-${1}$"}, resolved: []string{"B=${1}$", "A=-${1}$"}},
		{name: "escapes stay", in: list("A=$$B %%B%% $B", "B=b"), sorted: []string{"B=b", "A=$$B %%B%% b"}},
		{name: "a raw one is not expanded and its reference stays", in: list("!A=$B", "B=b", "C=$A"),
			sorted: []string{"A=$B", "B=b", "C=$A"}, resolved: []string{"A=$B", "B=b", "C=$B"}},
		{name: "so does that to a file", in: list("@F=content $B", "B=b", "C=$F"),
			sorted: []string{"B=b", "F=content b", "C=$F"}, resolved: []string{"B=b", "F=content b", "C=content b"}},
		{name: "the last of a name counts", in: list("A=1", "A=2", "B=$A"), sorted: []string{"A=1", "A=2", "B=2"}},
		{name: "its own name is those before it", in: list("A=1", "A=$A:2"), sorted: []string{"A=1", "A=1:2"}},
		{name: "its own name is those after it, and then it counts", in: list("A=$A:2", "A=1"), sorted: []string{"A=1", "A=1:2"}},
		{name: "itself alone", in: list("A=x$A"), sorted: []string{"A=x$A"}, resolved: []string{"A=x"}},
		{name: "a circle", in: list("X=x", "A=$B", "B=${C}", "C=%A%", "D=$A"), err: `circular variable reference detected: ["A", "B", "C"]`},
		{name: "two circles", in: list("A=$B", "B=$A", "C=$D", "D=$C"), err: `circular variable reference detected: ["A", "B"], ["C", "D"]`},
		{name: "a circle of one name", in: list("A=1$A", "A=2$A"), err: `circular variable reference detected: ["A", "A"]`},
		{name: "a raw one breaks it", in: list("A=$B", "!B=$A"), sorted: []string{"B=$A", "A=$B"}, resolved: []string{"B=$A", "A=$A"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.resolved == nil {
				c.resolved = c.sorted
			}
			if c.err != "" {
				c.sorted, c.resolved = lines(c.in), lines(c.in)
			}
			for _, f := range []struct {
				name string
				f    func() (Variables, error)
				want []string
			}{{"Sorted", c.in.Sorted, c.sorted}, {"Resolved", c.in.Resolved, c.resolved}} {
				got, err := f.f()
				if diff := cmp.Diff(f.want, lines(got)); diff != "" {
					t.Errorf("%s: %s", f.name, diff)
				}
				if c.err == "" && err != nil || c.err != "" && (err == nil || err.Error() != c.err) {
					t.Errorf("%s: %v, want %q", f.name, err, c.err)
				}
			}
		})
	}
}

func TestSortedKeepsTheRest(t *testing.T) {
	in := list("A=$B", "*B=secret")
	in[0].Origin, in[0].At, in[0].Public = OriginJob, Position{File: "f", Line: 1}, true
	got, err := in.Sorted()
	if err != nil {
		t.Fatal(err)
	}
	want := Variables{{Name: "B", Value: "secret", Masked: true}, {Name: "A", Value: "secret", Origin: OriginJob, At: Position{File: "f", Line: 1}, Public: true}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if in[0].Value != "$B" {
		t.Error("the list that was given has changed")
	}
}

func TestSortedIsBounded(t *testing.T) {
	bomb := list("A0=xxxxxxxxxx")
	for i := range 60 {
		bomb = append(bomb, Variable{Name: "A" + string(rune('a'+i)), Value: "$" + bomb[i].Name + "$" + bomb[i].Name})
	}
	if _, err := bomb.Sorted(); err == nil || !strings.Contains(err.Error(), "larger than 1048576 bytes") {
		t.Errorf("a value that doubles sixty times: %v", err)
	}
	wide := list("A=" + strings.Repeat("x", 1<<19))
	for range 40 {
		wide = append(wide, Variable{Name: "B", Value: "$A"})
	}
	if _, err := wide.Sorted(); err == nil || !strings.Contains(err.Error(), "larger than 16777216 bytes") {
		t.Errorf("many large values: %v", err)
	}
	long := make(Variables, 50_000)
	for i := range long {
		long[i] = Variable{Name: "V" + strings.Repeat("v", i%7) + string(rune('A'+i%26)), Value: "$V" + string(rune('A'+(i+1)%26))}
	}
	if _, err := long[:5000].Sorted(); err == nil {
		t.Error("no circle is found")
	}
}

func TestExpanded(t *testing.T) {
	got := list("A=$B", "B=$C", "!C=$A", "@F=$C", "D=$F $$").Expanded()
	want := []string{"A=$C", "B=$A", "C=$A", "F=$A", "D=$F $"}
	if diff := cmp.Diff(want, lines(got)); diff != "" {
		t.Error(diff)
	}
}

func TestRedact(t *testing.T) {
	vs := list("*A=secret", "*B=secret-longer", "C=plain", "*D=")
	if got := vs.Redact("x secret-longer secret plain"); got != "x [MASKED] [MASKED] plain" {
		t.Error(got)
	}
}

func TestSlugs(t *testing.T) {
	for _, c := range []struct{ name, ref, environment string }{
		{"main", "main", "main"},
		{"feat/A__b", "feat-a--b", "feat-a-b-om5d7z"},
		{"review/Feature_X", "review-feature-x", "review-feature-x-payx78"},
		{"-x-", "x", "env-x-"},
		{"production-", "production", "production"},
		{"1", "1", "env-1-"},
		{"ÄÖ", "", "env-"},
		{strings.Repeat("a", 24), strings.Repeat("a", 24), strings.Repeat("a", 24)},
		{strings.Repeat("a", 25), strings.Repeat("a", 25), strings.Repeat("a", 17) + "-"},
		{strings.Repeat("a", 62) + "/b", strings.Repeat("a", 62), strings.Repeat("a", 17) + "-"},
		{"", "", "env-"},
	} {
		if got := RefSlug(c.name); got != c.ref {
			t.Errorf("the slug of the ref %q is %q, not %q", c.name, got, c.ref)
		}
		got := EnvironmentSlug(c.name)
		if strings.HasSuffix(c.environment, "-") && len(got) == len(c.environment)+6 {
			got = got[:len(c.environment)] // the suffix is checked elsewhere
		}
		if got != c.environment {
			t.Errorf("the slug of the environment %q is %q, not %q", c.name, got, c.environment)
		}
	}
}

func TestTier(t *testing.T) {
	for name, want := range map[string]string{
		"production": "production", "prd-eu": "production", "Live": "production", "gprod": "production",
		"staging": "staging", "stg": "staging", "pre-production": "staging", "demo": "staging", "model": "staging", "non-prod": "staging",
		"test": "testing", "QA-2": "testing", "acceptance": "testing", "acpt": "testing", "accpt": "other", "integration": "testing", "quality": "testing",
		"review/x": "development", "dev": "development", "trunk": "development", "dev-production": "development",
		"customer": "other", "": "other",
	} {
		if got := Tier(name); got != want {
			t.Errorf("%s is %s, not %s", name, got, want)
		}
	}
}

func TestGroupName(t *testing.T) {
	for name, want := range map[string]string{
		"test": "test", "test 1/3": "test", "test: [a, b]": "test", "rspec:unit 2 4": "rspec:unit", "a [b] c": "a [b] c", "job 1/2 [x]": "job", "build 12": "build 12",
		"x:1/2": "x", " [only] ": "",
	} {
		if got := GroupName(name); got != want {
			t.Errorf("%q is of %q, not %q", name, got, want)
		}
	}
}

func TestMaskable(t *testing.T) {
	for _, c := range []struct {
		value string
		raw   bool
		want  string // of the error
	}{
		{"abcDEF12", false, ""}, {"_+=/@:.~-", false, ""}, {"short", false, "at least 8 characters"}, {"short", true, "at least 8 characters"},
		{"has space", false, "no white space"}, {"two\nlines", true, "no white space"}, {"dollar$ign", false, "only letters"}, {"dollar$ign", true, ""}, {"ünïcödé!", true, ""}, {"ünïcödé-", false, "only letters"},
	} {
		err := Maskable(c.value, c.raw)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.value, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), c.value) {
			t.Errorf("the error shows the value: %v", err)
		}
	}
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{"A": true, "_a1": true, "1A": true, "": false, "A-B": false, "A B": false, strings.Repeat("x", 255): true, strings.Repeat("x", 256): false} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// FuzzExpand holds the runner's engine against Go's own, which the runner uses.
func FuzzExpand(f *testing.F) {
	for _, s := range []string{"$A", "${A}", "$$", "${", "${}", "$1", "${*}", "$-", "x$", "${A", "$é", "${a b}"} {
		f.Add(s, "value")
	}
	f.Fuzz(func(t *testing.T, text, value string) {
		vs := Variables{{Name: "A", Value: value}, {Name: "a b", Value: "odd"}}
		want := os.Expand(text, func(name string) string {
			if name == "$" {
				return "$"
			}
			if isSpecial(name) {
				return ""
			}
			v, _ := vs.Get(name)
			return v.Value
		})
		if len(want) > maxExpanded {
			return
		}
		if got := vs.Expand(text); got != want {
			t.Errorf("%q is %q, not %q", text, got, want)
		}
	})
}

// FuzzSorted checks that sorting ends, keeps every variable, and leaves nothing that it should have put in.
func FuzzSorted(f *testing.F) {
	f.Add("$B", "%C%$$", "${A}")
	f.Add("$B$B", "x", "%%$A%B%")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		vs := Variables{{Name: "A", Value: a}, {Name: "B", Value: b}, {Name: "C", Value: c}}
		sorted, err := vs.Sorted()
		if len(sorted) != len(vs) {
			t.Fatalf("%d variables", len(sorted))
		}
		if err != nil {
			if !strings.Contains(err.Error(), "circular") && !strings.Contains(err.Error(), "larger") {
				t.Error(err)
			}
			return
		}
		for _, v := range vs {
			if references(v) == nil {
				if got, _ := sorted.Get(v.Name); got.Value != v.Value {
					t.Errorf("%q has become %q", v.Value, got.Value)
				}
			}
		}
		if resolved, err := vs.Resolved(); err != nil || len(resolved) != len(vs) {
			t.Errorf("%v, %v", resolved, err)
		}
	})
}

func TestStarted(t *testing.T) {
	vs := Variables{
		{Name: "CI_PROJECT_URL", Value: "https://git.example/a/b", Public: true, Origin: OriginPredefined},
		{Name: "IMAGE", Value: "app:$TAG", Public: true, Origin: OriginJob},
		{Name: "TAG", Value: "from the file", Public: true, Origin: OriginTop},
		{Name: "GITLAB_USER_LOGIN", Value: "ada", Public: true, Origin: OriginPredefined},
		{Name: "KEY", Value: "from the project", Origin: OriginProject},
		{Name: "CI_ENVIRONMENT_SLUG", Value: "x", Public: true, Origin: OriginPredefined},
	}
	reports := Variables{{Name: "TAG", Value: "from a report", Public: true}, {Name: "KEY", Value: "from a report"}}
	got, err := vs.WithDotenv(reports).Started(7, time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))).Sorted()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"CI_JOB_ID": "7", "CI_JOB_URL": "https://git.example/a/b/-/jobs/7", "CI_JOB_STARTED_AT": "2026-01-02T02:04:05Z",
		"IMAGE": "app:from a report", "TAG": "from a report", "KEY": "from the project",
	} {
		if v, _ := got.Get(name); v.Value != want {
			t.Errorf("%s is %q, not %q", name, v.Value, want)
		}
	}
	if tag, _ := got.Get("TAG"); tag.Public || tag.Origin != OriginDotenv {
		t.Errorf("a report's variable is %+v", tag)
	}
	if _, ok := vs[1:].Started(7, time.Time{}).Get("CI_JOB_URL"); ok {
		t.Error("there is a URL of a job without one of the project")
	}
	// Without variables from outside, reports stand before those of the environment.
	few := Variables{vs[0], vs[1], vs[5]}.WithDotenv(Variables{{Name: "A"}})
	if few[2].Name != "A" || few[3].Name != "CI_ENVIRONMENT_SLUG" {
		t.Errorf("%+v", few)
	}
}

func TestInScope(t *testing.T) {
	for _, c := range []struct {
		scope, environment string
		want               bool
	}{
		{"", "", true}, {"", "production", true}, {"*", "", true}, {"*", "production", true}, {"production", "", false}, {"review/*", "", false}, {"**", "", false},
		{"review/*", "review/a/b", true}, {"review/*", "review", false}, {"*/eu", "prod/eu", true}, {"*/eu", "prod/us", false},
		{"a*b*c", "a1b2c", true}, {"a*b*c", "acb", false}, {"a*a", "a", false}, {"prod", "production", false},
	} {
		if got := InScope(c.scope, c.environment); got != c.want {
			t.Errorf("%q for %q: %t", c.scope, c.environment, got)
		}
	}
}
