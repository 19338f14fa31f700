package rules

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/pipeline"
)

// files is a list of paths; others are those of other projects, by "project@ref".
type files struct {
	paths  []string
	others map[string][]string
}

func (t files) Paths() []string { return t.paths }

func (t files) Of(project, ref string) (pipeline.Tree, error) {
	if paths, ok := t.others[project+"@"+ref]; ok {
		return files{paths: paths}, nil
	}
	return nil, fmt.Errorf("no project %s", project)
}

func text(value string) *pipeline.Text { return &pipeline.Text{Value: value} }

func list(values ...string) (out []pipeline.Text) {
	for _, v := range values {
		out = append(out, pipeline.Text{Value: v})
	}
	return out
}

// many is a list of n paths.
func many(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("dir/%d.txt", i)
	}
	return out
}

func facts() Facts {
	raw := pipeline.Variables{
		{Name: "DIR", Value: "src", Origin: pipeline.OriginTop}, {Name: "DEEP", Value: "$DIR/sub"}, {Name: "SECRET", Value: "hunter22", Masked: true}, {Name: "MIX", Value: "x-$SECRET"}, {Name: "EMPTY", Value: ""},
	}
	return Facts{Raw: raw, Context: &pipeline.Context{
		Source: pipeline.SourcePush, Ref: "main", Before: "1", Changes: []string{"README.md", "src/sub/main.go"},
		ChangesSince: func(ref string) ([]string, error) {
			switch ref {
			case "main", "src":
				return []string{"since/" + ref}, nil
			case "same":
				return nil, nil
			}
			return nil, errors.New("no such ref, hunter22")
		},
		Tree: files{paths: []string{"README.md", "Dockerfile", "src/sub/main.go", "src/a.rb", "docs/x/y.md", "hunter22/x"}, others: map[string][]string{"fleet/keel@": {"hull"}, "fleet/keel@v1": {"mast/x"}}},
	}}
}

func TestCheckChanges(t *testing.T) {
	for _, c := range []struct {
		name    string
		changes pipeline.Changes
		change  func(*Facts)
		holds   bool
		detail  string
		err     string
	}{
		{name: "a path", changes: pipeline.Changes{Paths: list("go.mod", "src/**/*.go")}, holds: true, detail: "`src/**/*.go` matches src/sub/main.go"},
		{name: "no path", changes: pipeline.Changes{Paths: list("*.go", "docs/")}, detail: "nothing matches among 2 changed paths"},
		{name: "no directory without a wildcard", changes: pipeline.Changes{Paths: list("src", "src/", "src/*")}, detail: "nothing matches among 2 changed paths"},
		{name: "no paths at all", changes: pipeline.Changes{}, detail: "nothing matches among 2 changed paths"},
		{name: "variables", changes: pipeline.Changes{Paths: list("$DEEP/*")}, holds: true, detail: "`src/sub/*` matches src/sub/main.go"},
		{name: "unknown variables stay", changes: pipeline.Changes{Paths: list("$NONE/*")}, change: func(f *Facts) { f.Context.Changes = []string{"$NONE/x"} }, holds: true, detail: "`$NONE/*` matches $NONE/x"},
		{name: "a secret", changes: pipeline.Changes{Paths: list("$MIX")}, change: func(f *Facts) { f.Context.Changes = []string{"x-hunter22"} }, holds: true, detail: "`x-[MASKED]` matches x-[MASKED]"},
		{name: "nothing has changed", changes: pipeline.Changes{Paths: list("**/*")}, change: func(f *Facts) { f.Context.Changes = []string{} }, detail: "nothing has changed"},
		{name: "a tag", changes: pipeline.Changes{Paths: list("x")}, change: func(f *Facts) { f.Context.Changes, f.Context.Tag = nil, true }, holds: true, detail: "no diff is known for a tag, which counts as changed"},
		{name: "a schedule", changes: pipeline.Changes{Paths: list("x")}, change: func(f *Facts) { f.Context.Changes, f.Context.Source = nil, "schedule" }, holds: true, detail: "no diff is known for a schedule, which counts as changed"},
		{name: "a new branch", changes: pipeline.Changes{Paths: list("x")}, change: func(f *Facts) { f.Context.Changes, f.Context.Before = nil, "000" }, holds: true, detail: "no diff is known for a new branch, which counts as changed"},
		{name: "by hand", changes: pipeline.Changes{Paths: list("x")}, change: func(f *Facts) { f.Context.Changes, f.Context.Source = nil, "web" }, holds: true, detail: "no diff is known for an event of source web, which counts as changed"},
		{name: "no context", changes: pipeline.Changes{Paths: list("x")}, change: func(f *Facts) { f.Context = nil }, holds: true, detail: "no diff is known for this event, which counts as changed"},
		{name: "as many comparisons as GitLab makes", changes: pipeline.Changes{Paths: list("a", "b", "b")}, change: func(f *Facts) { f.Context.Changes = many(25_000) }, detail: "nothing matches among 25000 changed paths"},
		{name: "more comparisons", changes: pipeline.Changes{Paths: list("a", "b", "c")}, change: func(f *Facts) { f.Context.Changes = many(16_667) }, holds: true, detail: "there are more than 50000 comparisons of paths with patterns, which counts as a match"},
		{name: "more alternatives", changes: pipeline.Changes{Paths: list(strings.Repeat("{a,b}", 8))}, change: func(f *Facts) { f.Context.Changes = many(20_000) }, holds: true,
			detail: "there are more than 5000000 comparisons of paths with the alternatives of patterns, which counts as a match"},
		{name: "too many braces", changes: pipeline.Changes{Paths: list(strings.Repeat("{a,b}", 20))}, err: "rules:changes: the braces of a pattern of paths stand for at most 4096 alternatives (4194304 bytes while they are expanded)"},
		{name: "since another ref", changes: pipeline.Changes{Paths: list("since/*"), CompareTo: text("main")}, holds: true, detail: "`since/*` matches since/main"},
		{name: "since a ref of a variable", changes: pipeline.Changes{Paths: list("since/$DIR"), CompareTo: text("${DIR}")}, change: func(f *Facts) { f.Context.Changes, f.Context.Tag = nil, true }, holds: true, detail: "`since/src` matches since/src"},
		{name: "nothing since another ref", changes: pipeline.Changes{Paths: list("x"), CompareTo: text("same")}, detail: "nothing has changed since same"},
		{name: "no match since another ref", changes: pipeline.Changes{Paths: list("x"), CompareTo: text("main")}, detail: "nothing matches among 1 changed path since main"},
		{name: "since an unknown ref", changes: pipeline.Changes{Paths: list("x"), CompareTo: text("nope")}, err: "rules:changes:compare_to is not a valid ref: `nope`: no such ref, [MASKED]"},
		{name: "since an empty ref", changes: pipeline.Changes{Paths: list("x"), CompareTo: text("$EMPTY")}, err: "rules:changes:compare_to is not a valid ref: ``: no such ref, [MASKED]"},
		{name: "since a ref where there is no repository", changes: pipeline.Changes{Paths: list("x"), CompareTo: text("main")}, change: func(f *Facts) { f.Context.ChangesSince = nil }, holds: true,
			detail: "there is no repository to compare with, which counts as changed"},
		{name: "a regular expression", changes: pipeline.Changes{Regexp: text(`^$DIR/.*\.go$`)}, holds: true, detail: "`^src/.*\\.go$` matches src/sub/main.go"},
		{name: "no regular expression", changes: pipeline.Changes{Regexp: text(`^x`)}, detail: "nothing matches among 2 changed paths"},
		{name: "Ruby's escapes", changes: pipeline.Changes{Regexp: text(`\A\h+\Z`)}, change: func(f *Facts) { f.Context.Changes = []string{"c0ffee"} }, holds: true, detail: "`\\A\\h+\\Z` matches c0ffee"},
		{name: "a regular expression that is none", changes: pipeline.Changes{Regexp: text(`(`)}, err: "rules:changes:regexp is not valid: missing closing ): ("},
		{name: "looks ahead", changes: pipeline.Changes{Regexp: text(`^(?!docs/)`)}, err: "rules:changes:regexp is not valid: (?! is not in RE2's syntax"},
		{name: "a long one", changes: pipeline.Changes{Regexp: text(strings.Repeat("é", 256))}, err: "rules:changes:regexp is too long (maximum is 255 characters after variable expansion)"},
		{name: "a regular expression on many", changes: pipeline.Changes{Regexp: text(`x`)}, change: func(f *Facts) { f.Context.Changes = many(50_001) }, holds: true, detail: "there are more than 50000 paths, which counts as a match"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := facts()
			if c.change != nil {
				c.change(&f)
			}
			checked(t, pipeline.Clauses{Changes: &c.changes}, f, c.holds, c.detail, c.err)
		})
	}
}

// checked checks one condition, twice where things are remembered.
func checked(t *testing.T, c pipeline.Clauses, f Facts, holds bool, detail, problem string) {
	t.Helper()
	for _, cache := range []*Cache{nil, {}} {
		f.Cache = cache
		for range 2 {
			got, verdicts, err := Check(c, f)
			if (err == nil) != (problem == "") || err != nil && err.Error() != problem {
				t.Errorf("got  %v\nwant %s", err, problem)
			}
			if problem != "" {
				detail = problem
			}
			if got != holds || len(verdicts) != 1 || verdicts[0].Holds != holds || verdicts[0].Detail != detail {
				t.Errorf("%v: %+v\nwant %v: %s", got, verdicts, holds, detail)
			}
		}
	}
}

func TestCheckExists(t *testing.T) {
	for _, c := range []struct {
		name   string
		exists pipeline.Exists
		change func(*Facts)
		holds  bool
		detail string
		err    string
	}{
		{name: "a file", exists: pipeline.Exists{Paths: list("Makefile", "Dockerfile")}, holds: true, detail: "`Dockerfile` matches Dockerfile"},
		{name: "no file", exists: pipeline.Exists{Paths: list("Makefile")}, detail: "nothing matches among 6 paths"},
		{name: "not below the top", exists: pipeline.Exists{Paths: list("*.rb", "main.go")}, detail: "nothing matches among 6 paths"},
		{name: "a file below", exists: pipeline.Exists{Paths: list("src/sub/main.go")}, holds: true, detail: "`src/sub/main.go` matches src/sub/main.go"},
		{name: "a directory", exists: pipeline.Exists{Paths: list("docs/")}, holds: true, detail: "`docs/` matches docs/x/y.md"},
		{name: "no directory without its slash", exists: pipeline.Exists{Paths: list("docs")}, detail: "nothing matches among 6 paths"},
		{name: "by its ending", exists: pipeline.Exists{Paths: list("**/*.rb")}, holds: true, detail: "`**/*.rb` matches src/a.rb"},
		{name: "a pattern", exists: pipeline.Exists{Paths: list("docs/**/*.{txt,md}")}, holds: true, detail: "`docs/**/*.{txt,md}` matches docs/x/y.md"},
		{name: "variables", exists: pipeline.Exists{Paths: list("$DIR/*.rb")}, holds: true, detail: "`src/*.rb` matches src/a.rb"},
		{name: "a secret", exists: pipeline.Exists{Paths: list("$SECRET/")}, holds: true, detail: "`[MASKED]/` matches [MASKED]/x"},
		{name: "nothing to look for", exists: pipeline.Exists{Project: text("nope")}, detail: "there is no path to look for"},
		{name: "no tree", exists: pipeline.Exists{Paths: list("x")}, change: func(f *Facts) { f.Context.Tree = nil }, detail: "the files of the commit are not known"},
		{name: "no context", exists: pipeline.Exists{Paths: list("x")}, change: func(f *Facts) { f.Context = nil }, detail: "the files of the commit are not known"},
		{name: "many files and plain paths", exists: pipeline.Exists{Paths: list("a/b", "a/", "**/*.go")}, change: func(f *Facts) { f.Context.Tree = files{paths: many(60_000)} }, detail: "nothing matches among 60000 paths"},
		{name: "many files and a pattern", exists: pipeline.Exists{Paths: list("a/b", "c/*")}, change: func(f *Facts) { f.Context.Tree = files{paths: many(50_001)} }, holds: true,
			detail: "there are more than 50000 comparisons of paths with patterns, which counts as a match"},
		{name: "many files and a pattern of the top", exists: pipeline.Exists{Paths: list("c*")}, change: func(f *Facts) { f.Context.Tree = files{paths: many(50_001)} }, detail: "nothing matches among 50001 paths"},
		{name: "another project", exists: pipeline.Exists{Paths: list("hull"), Project: text("fleet/keel")}, holds: true, detail: "`hull` matches hull"},
		{name: "another project at a ref", exists: pipeline.Exists{Paths: list("hull"), Project: text("fleet/keel"), Ref: text("v1")}, detail: "nothing matches among 1 path in fleet/keel@v1"},
		{name: "a project that is not there", exists: pipeline.Exists{Paths: list("x"), Project: text("$SECRET/p")}, err: "rules:exists:project `[MASKED]/p` not found or access denied: no project [MASKED]/p"},
		{name: "a ref that is not there", exists: pipeline.Exists{Paths: list("x"), Project: text("fleet/keel"), Ref: text("v2")},
			err: "rules:exists:project `fleet/keel` not found or access denied, or rules:exists:ref `v2` is not a valid ref: no project fleet/keel"},
		{name: "another project and no tree", exists: pipeline.Exists{Paths: list("x"), Project: text("fleet/keel")}, change: func(f *Facts) { f.Context.Tree = nil },
			err: "rules:exists:project `fleet/keel` not found or access denied: no other project is known here"},
		{name: "a regular expression", exists: pipeline.Exists{Regexp: text(`\.md$`)}, holds: true, detail: "`\\.md$` matches README.md"},
		{name: "a regular expression that is none", exists: pipeline.Exists{Regexp: text(`[`)}, err: "rules:exists:regexp is not valid: missing closing ]: ["},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := facts()
			if c.change != nil {
				c.change(&f)
			}
			checked(t, pipeline.Clauses{Exists: &c.exists}, f, c.holds, c.detail, c.err)
		})
	}
}

func TestCheckIf(t *testing.T) {
	for _, c := range []struct {
		text   string
		holds  bool
		detail string
	}{
		{`$DIR == "src"`, true, `it is true`},
		{`$DIR == "x"`, false, `it is false`},
		{`$DIR`, true, `it is "src", which counts as true`},
		{`$DEEP`, true, `it is "$DIR/sub", which counts as true`},
		{`$NONE`, false, `it is null, which counts as false`},
		{`$EMPTY`, false, `it is an empty text, which counts as false`},
		{`$EMPTY && "x"`, true, `it is "x", which counts as true`},
		{`"  "`, false, `it is a text of nothing but white space, which counts as false`},
		{`$SECRET`, true, `it is "[MASKED]", which counts as true`},
		{`$DIR = "src"`, false, `invalid expression syntax: Unknown lexeme found at column 6: to compare write ==`},
	} {
		checked(t, pipeline.Clauses{If: text(c.text)}, facts(), c.holds, c.detail, "")
	}
}

func TestCheckTogether(t *testing.T) {
	f := facts()
	if holds, verdicts, err := Check(pipeline.Clauses{}, f); !holds || verdicts != nil || err != nil {
		t.Errorf("a rule without conditions: %v %v %v", holds, verdicts, err)
	}
	at := pipeline.Position{File: ".gitlab-ci.yml", Line: 7}
	clauses := pipeline.Clauses{
		If:      &pipeline.Text{Value: `$DIR == "x"`, At: at},
		Changes: &pipeline.Changes{Paths: list("$DEEP/*", "$SECRET", "$MIX"), CompareTo: text("nope"), At: at},
		Exists:  &pipeline.Exists{Paths: list("README.md"), At: at},
	}
	holds, verdicts, err := Check(clauses, f)
	want := []pipeline.ClauseVerdict{
		{Kind: "if", Text: `$DIR == "x"`, At: at, Detail: "it is false", Values: []pipeline.UsedValue{{Name: "DIR", Set: true, Value: "src", Origin: pipeline.OriginTop}}},
		{Kind: "changes", Text: "$DEEP/*, $SECRET, $MIX (compare_to: nope)", At: at, Detail: "rules:changes:compare_to is not a valid ref: `nope`: no such ref, [MASKED]"},
		{Kind: "exists", Text: "README.md", At: at, Holds: true, Detail: "`README.md` matches README.md"},
	}
	if holds || err != nil {
		t.Errorf("an error behind a condition that does not hold counts: %v %v", holds, err)
	}
	if diff := cmp.Diff(want, verdicts); diff != "" {
		t.Error(diff)
	}
	clauses.If.Value = `$DIR`
	if holds, _, err = Check(clauses, f); holds || err == nil {
		t.Errorf("an error behind a condition that holds does not count: %v %v", holds, err)
	}
	clauses.Changes.CompareTo = text("main")
	_, verdicts, _ = Check(clauses, f)
	values := []pipeline.UsedValue{{Name: "DEEP", Set: true, Value: "src/sub"}, {Name: "SECRET", Set: true, Value: "[MASKED]"}, {Name: "MIX", Set: true, Value: "x-[MASKED]"}}
	if diff := cmp.Diff(values, verdicts[1].Values); diff != "" {
		t.Error(diff)
	}
}

// FuzzCheck holds that no condition makes it fail, and that a secret is never shown.
func FuzzCheck(f *testing.F) {
	f.Add(`$SECRET == "x"`, "$DIR/*", "(", "main")
	f.Add(`$MIX`, "$MIX", "$SECRET", "$SECRET")
	f.Add(`"a" || $SECRET`, "%SECRET%", "{", "")
	f.Fuzz(func(t *testing.T, expression, glob, re, ref string) {
		if strings.Contains(expression+glob+re+ref, "hunter") {
			return
		}
		for _, c := range []pipeline.Clauses{
			{If: text(expression), Changes: &pipeline.Changes{Paths: list(glob), CompareTo: text(ref)}, Exists: &pipeline.Exists{Regexp: text(re)}},
			{Changes: &pipeline.Changes{Regexp: text(re)}, Exists: &pipeline.Exists{Paths: list(glob), Project: text(ref), Ref: text(ref)}},
		} {
			holds, verdicts, err := Check(c, facts())
			if shown := fmt.Sprint(verdicts, err); strings.Contains(shown, "hunter22") {
				t.Errorf("the secret is shown: %s", shown)
			}
			if holds && err != nil {
				t.Errorf("it holds in spite of %v", err)
			}
		}
	})
}
