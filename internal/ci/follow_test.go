package ci

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
)

// followed is the server's port to what follows.
func (w *world) followed(ctx context.Context, work Work, trace *executor.Trace) error {
	w.mu.Lock()
	follow := w.follow
	w.mu.Unlock()
	if follow == nil {
		return nil
	}
	return follow(ctx, work, trace)
}

// TestFollow holds which jobs are followed, what is known of them, and what becomes of a job whose deployment is not healthy.
func TestFollow(t *testing.T) {
	w := newWorld(t, "shop", "config")
	shop := w.projects.all[0]
	shop.Following = []Following{{Environment: "quiet/*", Off: true}, {Environment: "prod*", Timeout: 7 * time.Minute}}
	w.projects.set(nil, shop, w.projects.all[1])
	var mu sync.Mutex
	var all []Work
	w.follow = func(_ context.Context, work Work, trace *executor.Trace) error {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, work)
		trace.Printf("following %s", work.Environment)
		if work.Environment == "production" {
			return &executor.Failure{Reason: pipeline.ScriptFailure, Err: errors.New("deployment/shop is not healthy")}
		}
		return nil
	}
	origin := strings.Replace(w.url, "http://", "http://me:"+hostToken+"@", 1)
	dir := w.clone("shop")
	w.commit(dir, "A pipeline", map[string]string{".gitlab-ci.yml": `
.push: &push
  - git init -q . && git config user.name a && git config user.email a@example.com
  - git commit -q --allow-empty -m one && git push -q "$ORIGIN" HEAD:refs/heads/$CI_JOB_NAME
  - git commit -q --allow-empty -m two && git push -q "$ORIGIN" HEAD:refs/heads/$CI_JOB_NAME HEAD:refs/heads/gone-$CI_JOB_NAME
  - git push -q "$ORIGIN" :refs/heads/gone-$CI_JOB_NAME
  - env | grep -c X-Keelson-Job
variables: {GIT_STRATEGY: none, ORIGIN: "` + origin + `/config.git", N: "1"}
one: {environment: {name: staging}, script: [*push], after_script: ['echo "after: $CI_JOB_STATUS"']}
own: {environment: {name: staging}, variables: {GIT_CONFIG_COUNT: $N, GIT_CONFIG_KEY_0: a.b, GIT_CONFIG_VALUE_0: mine}, script: [*push, 'echo "own $(git config a.b)"']}
bad: {environment: {name: production}, script: ['true'], after_script: ['echo "after: $CI_JOB_STATUS"']}
quiet: {environment: {name: quiet/a}, script: ['true']}
forced: {environment: {name: quiet/a}, variables: {KEELSON_FOLLOW: "true"}, script: ['true']}
not: {environment: {name: staging}, variables: {KEELSON_FOLLOW: "false"}, script: ['true']}
stop: {environment: {name: staging, action: stop}, script: ['true']}
verify: {environment: {name: staging, action: verify}, script: ['true']}
none: {script: [*push]}
broken: {environment: {name: staging}, script: ['false']}
`})
	p := w.push(dir, 1, "HEAD:main")[0]
	w.wants(p, "push main failed: one/1=success own/1=success bad/1=failed quiet/1=success forced/1=success not/1=success stop/1=success verify/1=success none/1=failed broken/1=failed")
	for job, want := range map[string][]string{
		"one": {"following staging", "after: success"}, "own": {"following staging", "own mine"}, "bad": {"following production", "deployment/shop is not healthy", "after: failed"},
		"quiet": {"The rollout is not followed"}, "not": {"The rollout is not followed"}, "forced": {"following quiet/a"},
	} {
		log := w.log(p, job)
		for _, text := range want {
			if !strings.Contains(log, text) {
				t.Errorf("%s lacks %q:\n%s", job, text, log)
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	var got []string
	for _, work := range all {
		line := fmt.Sprintf("%s in %s for %s:", work.Job.Job, work.Environment, work.Timeout)
		for _, c := range work.Pushed {
			line += " " + c.Repository + " " + c.Ref
			if have := w.git("", "--git-dir="+w.host.Dir("config"), "rev-parse", c.Ref); have != c.SHA {
				t.Errorf("%s is at %s, not %s", c.Ref, have, c.SHA)
			}
		}
		got = append(got, line)
	}
	slices.Sort(got)
	want := []string{"bad in production for 7m0s:", "forced in quiet/a for 0s:", "one in staging for 0s: config refs/heads/one", "own in staging for 0s: config refs/heads/own"}
	if !slices.Equal(got, want) {
		t.Errorf("have %q\nwant %q", got, want)
	}
	w.current().pushes.mu.Lock()
	defer w.current().pushes.mu.Unlock()
	if n := len(w.current().pushes.jobs); n != 0 {
		t.Errorf("%d jobs are remembered after their end", n)
	}
}

// TestJobHeader holds who is told which job it is.
func TestJobHeader(t *testing.T) {
	count := func(value string) pipeline.Variables {
		return pipeline.Variables{{Name: "N", Value: "3"}, {Name: "GIT_CONFIG_COUNT", Value: value}}
	}
	for _, test := range []struct {
		name, url string
		vars      pipeline.Variables
		want      string
	}{
		{"plain", "http://127.0.0.1:7070/git", nil, "GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=http.http://127.0.0.1:7070/.extraHeader GIT_CONFIG_VALUE_0=X-Keelson-Job: t*"},
		{"with the job's own", "https://git.example.com/git", count("2"), "GIT_CONFIG_COUNT=3 GIT_CONFIG_KEY_2=http.https://git.example.com/.extraHeader GIT_CONFIG_VALUE_2=X-Keelson-Job: t*"},
		{"by reference", "http://h/git", count("$N"), "GIT_CONFIG_COUNT=4 GIT_CONFIG_KEY_3=http.http://h/.extraHeader GIT_CONFIG_VALUE_3=X-Keelson-Job: t*"},
		{"none of the job's own", "http://h/git", count("0"), "GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=http.http://h/.extraHeader GIT_CONFIG_VALUE_0=X-Keelson-Job: t*"},
		{"what is no number", "http://h/git", count("many"), ""},
		{"less than none", "http://h/git", count("-1"), ""},
		{"too many", "http://h/git", count("1000000"), ""},
		{"no host", "/git", nil, ""},
	} {
		vars, ok := jobHeader(test.url, "t", test.vars)
		var got []string
		for _, v := range vars {
			line := v.Name + "=" + v.Value
			if v.Masked {
				line += "*"
			}
			got = append(got, line)
		}
		if have := strings.Join(got, " "); have != test.want || ok != (test.want != "") {
			t.Errorf("%s: %q, want %q", test.name, have, test.want)
		}
	}
}

// TestPushesAreBounded: a job that pushes without end is remembered within bounds.
func TestPushesAreBounded(t *testing.T) {
	p := newPushes()
	p.begin(1)
	for i := range maxPushed + 50 {
		p.add(Push{Repository: "a", Job: 1, Changes: []RefChange{{Ref: fmt.Sprintf("refs/heads/%d", i), After: "x"}}})
		p.add(Push{Repository: "a", Job: 2, Changes: []RefChange{{Ref: "refs/heads/main", After: "x"}}})
	}
	if n := len(p.of(1)); n != maxPushed {
		t.Errorf("%d refs are remembered", n)
	}
	if len(p.of(2)) != 0 {
		t.Error("a job is remembered that nobody asks about")
	}
}
