package ci

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/store"
)

// play plays a job with variables, and gives what that is refused with.
func (w *world) play(p store.Pipeline, job string, variables ...pipeline.KV) string {
	w.Helper()
	args, err := json.Marshal(Args{Variables: variables})
	if err != nil {
		w.Fatal(err)
	}
	id, err := w.db.Enqueue(w.Context(), store.Command{Kind: CommandPlay, Pipeline: p.ID, Jobs: []string{job}, User: "bob", Args: args})
	if err != nil {
		w.Fatal(err)
	}
	refusal, err := w.db.Await(w.Context(), id)
	if err != nil {
		w.Fatal(err)
	}
	return refusal
}

const manual = `
stages: [build, deploy]
variables: {COLOUR: red, SIZE: {value: small}}
build: {stage: build, script: ['true'], environment: {name: live}}
live:
  stage: deploy
  script: ['echo "COLOUR=$COLOUR SIZE=$SIZE TOKEN=$TOKEN"', 'test -n "$PASS"']
  when: manual
child: {stage: deploy, when: manual, trigger: {include: child.yml}}
`

// TestPlayWithVariables: what a person plays a job with counts most, is kept by a restart and a retry, and is no less secret than what it
// takes the place of.
func TestPlayWithVariables(t *testing.T) {
	w := newWorld(t, "app")
	w.projects.all[0].Variables = pipeline.Variables{{Name: "TOKEN", Value: "token-of-the-project", Masked: true, Origin: pipeline.OriginProject}}
	dir := w.clone("app")
	w.commit(dir, "First", map[string]string{".gitlab-ci.yml": manual, "child.yml": "job: {script: ['true']}\n"})
	p := w.push(dir, 1, "HEAD")[0]
	for _, c := range []struct {
		job  string
		vars []pipeline.KV
		want string
	}{
		{"live", []pipeline.KV{{Key: "a-b", Value: "1"}}, `"a-b" is no name of a variable`},
		{"live", []pipeline.KV{{Key: "A", Value: "1"}, {Key: "A", Value: "2"}}, "A is given twice"},
		{"live", []pipeline.KV{{Key: "A", Value: strings.Repeat("x", maxPlayedValue+1)}}, "may have 262144"},
		{"live", make([]pipeline.KV, maxPlayed+1), "takes 100"},
		{"child", []pipeline.KV{{Key: "A", Value: "1"}}, "takes no variables by hand"},
	} {
		if got := w.play(p, c.job, c.vars...); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.job, got, c.want)
		}
	}
	if got := w.play(p, "live", pipeline.KV{Key: "COLOUR", Value: "blue of $SIZE"}, pipeline.KV{Key: "TOKEN", Value: "token-of-bob"}); got != "" {
		t.Fatal(got)
	}
	said := "COLOUR=blue of small SIZE=small TOKEN=[MASKED]"
	for attempt, again := range []func(){
		func() {},
		func() { w.ask(CommandRetry, p, "live") },
		func() { w.end(); w.start(); w.ask(CommandRetry, p, "live") }, // the journal has them, or the state
		func() {
			w.play(p, "live", pipeline.KV{Key: "COLOUR", Value: "green"})
			said = "COLOUR=green SIZE=small TOKEN=[MASKED]"
		},
	} {
		again()
		w.until("it has failed", func() bool { return strings.Contains(w.sum(p), fmt.Sprintf("live/%d=failed", attempt+1)) })
		w.until("it rests", func() bool { q, err := w.db.Pipeline(t.Context(), p.ID); return err == nil && q.Resting })
		if log := w.log(p, "live"); !strings.Contains(log, said) || strings.Contains(log, "token-of") {
			t.Errorf("attempt %d, without %q:\n%s", attempt+1, said, log)
		}
	}
}

// TestVariables: everybody sees which variables a pipeline has, and nobody what is hidden.
func TestVariables(t *testing.T) {
	w := newWorld(t, "app")
	w.projects.all[0].Variables = pipeline.Variables{
		{Name: "TOKEN", Value: "token-of-the-project", Masked: true, Origin: pipeline.OriginProject},
		{Name: "HOST", Value: "host-of-the-project", Protected: true, Origin: pipeline.OriginProject},
		{Name: "PLACE", Value: "everywhere", Origin: pipeline.OriginProject},
		{Name: "PLACE", Value: "here", Scope: "live", Origin: pipeline.OriginProject},
		{Name: "URL", Value: "https://x:$TOKEN@host", Origin: pipeline.OriginProject},
	}
	dir := w.clone("app")
	w.commit(dir, "First", map[string]string{".gitlab-ci.yml": manual, "child.yml": "job: {script: ['true']}\n"})
	p := w.push(dir, 1, "-o", "ci.variable=WHO=ada", "-o", "ci.variable=LEAK=a token-of-the-project b", "HEAD")[0]
	w.play(p, "live", pipeline.KV{Key: "COLOUR", Value: "blue"})
	told := func(all []show.Setting, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, s := range all {
			if !strings.HasPrefix(s.Name, "CI") && !strings.HasPrefix(s.Name, "GITLAB") {
				out = append(out, fmt.Sprintf("%s=%s%s", s.Name, s.Value, s.Hidden))
			}
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct{ job, want string }{
		{"", "COLOUR=red HOST=protected LEAK=a [MASKED] b SIZE=small TOKEN=masked URL=https://x:$TOKEN@host WHO=ada"},
		{"build", "COLOUR=red HOST=protected LEAK=a [MASKED] b PLACE=here SIZE=small TOKEN=masked URL=https://x:$TOKEN@host WHO=ada"},
		{"live", "COLOUR=blue HOST=protected LEAK=a [MASKED] b PLACE=everywhere SIZE=small TOKEN=masked URL=https://x:$TOKEN@host WHO=ada"},
	} {
		if got := told(w.server.Variables(t.Context(), p.ID, c.job)); got != c.want {
			t.Errorf("%s\nhave %s\nwant %s", c.job, got, c.want)
		}
	}
	r, err := w.server.Recipe(t.Context(), p.ID)
	if err != nil {
		t.Fatal(err)
	}
	if r.SHA != p.SHA || r.Ref != "refs/heads/main" || !r.Protected || r.DefaultBranch != "main" || r.ConfigPath != ".gitlab-ci.yml" || r.Source != "push" ||
		r.User != "ada" || !strings.HasSuffix(r.CloneURL, "/git/app.git") {
		t.Errorf("%+v", r)
	}
	if got, want := told(r.Variables, nil), "WHO=ada LEAK=a [MASKED] b"; got != want {
		t.Errorf("have %s\nwant %s", got, want)
	}
	// Those of all scopes, so that they are picked again.
	if got := told(r.Settings, nil); !strings.Contains(got, "PLACE=here") || !strings.Contains(got, "PLACE=everywhere") || !strings.Contains(got, "TOKEN=masked") {
		t.Error(got)
	}
	whole, err := json.Marshal(r)
	if err != nil || strings.Contains(string(whole), "-of-the-project") {
		t.Errorf("%s %v", whole, err)
	}
}

// settling is projects that are known once it is known where jobs reach the server.
type settling struct {
	*declared
	settle func()
}

func (s settling) Named(ctx context.Context, path string) (Project, error) {
	s.settle()
	return s.declared.Named(ctx, path)
}

// TestRecipeWhileStarting holds that a recipe waits until the server's addresses are known.
func TestRecipeWhileStarting(t *testing.T) {
	w := newWorld(t, "app")
	dir := w.clone("app")
	w.commit(dir, "First", map[string]string{".gitlab-ci.yml": "a: {script: ['true']}\n"})
	p := w.push(dir, 1, "HEAD")[0]
	w.server.o.Projects = settling{w.projects, func() { w.server.At(Place{URL: "https://late.example.com", GitURL: "https://late.example.com/git"}) }}
	r, err := w.server.Recipe(t.Context(), p.ID)
	if err != nil || r.Server != "https://late.example.com" || r.CloneURL != "https://late.example.com/git/app.git" {
		t.Errorf("%s %s %v", r.Server, r.CloneURL, err)
	}
}
