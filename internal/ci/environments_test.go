package ci

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keelson.dev/keelson/internal/kube/proxy"
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/run"
	"keelson.dev/keelson/internal/store"
)

// environment gives an environment of the first project.
func (w *world) environment(name string) store.Environment {
	w.Helper()
	e, err := w.db.Environment(w.Context(), 1, name)
	if err != nil {
		w.Fatal(err)
	}
	return e
}

// deployments gives those to an environment in a line, the oldest first.
func (w *world) deployments(name string) string {
	w.Helper()
	all, err := w.db.Deployments(w.Context(), store.DeploymentFilter{Environment: w.environment(name).ID})
	if err != nil {
		w.Fatal(err)
	}
	var out []string
	for _, d := range all {
		job, err := w.db.Job(w.Context(), d.Job)
		if err != nil {
			w.Fatal(err)
		}
		out = append([]string{fmt.Sprintf("%d:%s/%d by %s=%s", d.IID, job.Name, job.Attempt, d.User, d.Status)}, out...)
	}
	return strings.Join(out, " ")
}

func (w *world) deployed(name, want string) {
	w.Helper()
	if have := w.deployments(name); have != want {
		w.Errorf("deployments to %s: have %s\nwant %s", name, have, want)
	}
}

// reaches waits until an environment is in a state, and its pipelines rest.
func (w *world) reaches(name, state string) {
	w.Helper()
	w.until(name+" is "+state, func() bool { return w.environment(name).State == state })
	w.until("all rest", func() bool {
		all, err := w.db.Unfinished(w.Context())
		return err == nil && len(all) == 0
	})
}

// wish asks for something to be done with an environment, and gives what it is refused with.
func (w *world) wish(kind, user, name string, args Args) string {
	w.Helper()
	args.Environment = w.environment(name).ID
	data, err := json.Marshal(args)
	if err != nil {
		w.Fatal(err)
	}
	id, err := w.db.Enqueue(w.Context(), store.Command{Kind: kind, Project: 1, User: user, Args: data})
	if err != nil {
		w.Fatal(err)
	}
	refusal, err := w.db.Await(w.Context(), id)
	if err != nil {
		w.Fatal(err)
	}
	return refusal
}

const reviewConfig = `
stages: [deploy]
deploy:
  stage: deploy
  script: ['echo "$CI_ENVIRONMENT_NAME $CI_ENVIRONMENT_SLUG $CI_ENVIRONMENT_URL $CI_ENVIRONMENT_ACTION $CI_ENVIRONMENT_TIER $CI_ENVIRONMENT_ID"']
  environment:
    name: review/$CI_COMMIT_REF_NAME
    url: https://$CI_ENVIRONMENT_SLUG.example.com
    on_stop: stop
stop:
  stage: deploy
  when: manual
  script: [cat text, 'echo "stopping $CI_ENVIRONMENT_NAME $CI_ENVIRONMENT_URL $CI_ENVIRONMENT_ACTION"']
  environment: {name: review/$CI_COMMIT_REF_NAME, action: stop}
`

// TestReviewApp starts a review app by a push, and stops it by the end of its branch, whose commits nothing else has any more.
func TestReviewApp(t *testing.T) {
	w := newWorld(t, "app")
	dir := w.clone("app")
	w.commit(dir, "First", map[string]string{"README": "nothing\n"})
	w.push(dir, 0, "HEAD:main")
	w.git(dir, "checkout", "-qb", "Feature_X")
	w.commit(dir, "Review", map[string]string{".gitlab-ci.yml": reviewConfig, "text": "of the feature\n"})
	p := w.push(dir, 1, "HEAD")[0]
	w.wants(p, "push Feature_X success: deploy/1=success stop/1=manual")
	e := w.environment("review/Feature_X")
	sha := w.git(dir, "rev-parse", "HEAD")
	want := store.Environment{
		ID: e.ID, Project: 1, Name: "review/Feature_X", Slug: "review-feature-x-payx78", Tier: "development", URL: "https://review-feature-x-payx78.example.com",
		State: "available", Ref: "Feature_X", OnStop: "stop", OnStopPipeline: p.ID, Created: e.Created,
	}
	if e != want {
		t.Errorf("have %+v\nwant %+v", e, want)
	}
	if log := w.log(p, "deploy"); !strings.Contains(log, fmt.Sprintf("\nreview/Feature_X review-feature-x-payx78 https://review-feature-x-payx78.example.com start development %d\n", e.ID)) {
		t.Errorf("%s", log)
	}
	last, err := w.db.LastDeployment(t.Context(), e.ID)
	if err != nil || last.SHA != sha || last.Ref != "Feature_X" || last.User != "ada" || last.Pipeline != p.ID || last.Started.IsZero() || last.Finished.IsZero() {
		t.Errorf("%+v %v", last, err)
	}

	w.git(dir, "push", "-q", "origin", "--delete", "Feature_X")
	w.git(w.host.Dir("app"), "reflog", "expire", "--all", "--expire=now")
	w.git(w.host.Dir("app"), "gc", "-q", "--prune=now")
	if refs := w.git(dir, "ls-remote", "origin"); strings.Contains(refs, sha) || strings.Contains(refs, "keelson") {
		t.Errorf("clients see what keeps the commit:\n%s", refs)
	}
	if out, err := exec.Command("git", "-C", dir, "push", "-q", "origin", "HEAD:refs/keelson/mine").CombinedOutput(); err == nil {
		t.Errorf("a client writes among the server's refs: %s", out)
	}
	w.reaches("review/Feature_X", "stopped")
	w.wants(p, "push Feature_X success: deploy/1=success stop/1=success")
	if log := w.log(p, "stop"); !strings.Contains(log, "\nof the feature\n") ||
		!strings.Contains(log, "\nstopping review/Feature_X https://review-feature-x-payx78.example.com stop\n") {
		t.Errorf("%s", log)
	}
	if refs := w.git(w.host.Dir("app"), "for-each-ref", "refs/keelson"); refs != "" {
		t.Errorf("the commit of a stopped environment is kept: %s", refs)
	}
	if got := w.wish(CommandStop, "bob", "review/Feature_X", Args{}); !strings.Contains(got, "is stopped already") {
		t.Errorf("stop again: %q", got)
	}
	w.deployed("review/Feature_X", "1:deploy/1 by ada=success")

	// A new push of the branch starts it again.
	w.commit(dir, "Again", map[string]string{"text": "of another one\n"})
	q := w.push(dir, 1, "HEAD")[0]
	w.wants(q, "push Feature_X success: deploy/1=success stop/1=manual")
	if e := w.environment("review/Feature_X"); e.State != "available" || e.OnStopPipeline != q.ID {
		t.Errorf("%+v", e)
	}

	// A process that ends before it has played the job leaves the command, and the environment stopping.
	w.git(dir, "push", "-q", "origin", "--delete", "Feature_X")
	w.reaches("review/Feature_X", "stopped")
	for _, state := range []string{store.EnvironmentAvailable, store.EnvironmentStopping} {
		if _, err := w.db.SetEnvironment(t.Context(), e.ID, state); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.wish(CommandStop, "bob", "review/Feature_X", Args{}); got != "" {
		t.Fatal(got)
	}
	w.reaches("review/Feature_X", "stopped")
	w.wants(q, "push Feature_X success: deploy/1=success stop/1=success stop/2=success")
}

// TestStop stops environments in all the ways that people have.
func TestStop(t *testing.T) {
	w := newWorld(t, "app")
	dir := w.clone("app")
	flag := filepath.Join(w.dir, "flag")
	w.commit(dir, "First", map[string]string{
		".gitlab-ci.yml": `
stages: [deploy, later]
plain: {stage: deploy, script: ['true'], environment: {name: plain}}
one: {stage: deploy, script: ['true'], environment: {name: both, on_stop: stop one}}
two: {stage: deploy, script: ['true'], environment: {name: both, on_stop: stop two}}
stop one: {stage: deploy, script: [echo one >> ` + flag + `], when: manual, environment: {name: both, action: stop}}
stop two: {stage: deploy, script: [echo two >> ` + flag + `], when: manual, environment: {name: both, action: stop}}
broken: {stage: deploy, script: ['true'], environment: {name: broken, on_stop: stop broken}}
stop broken: {stage: deploy, script: [test -e ` + flag + `.fixed], when: manual, environment: {name: broken, action: stop}}
half: {stage: deploy, script: [exit 1], allow_failure: true, environment: {name: half, on_stop: stop half}}
stop half: {stage: deploy, script: ['true'], when: manual, environment: {name: half, action: stop}}
child: {stage: later, trigger: {include: child.yml, strategy: depend}}
`,
		"child.yml": `
inner: {script: ['true'], environment: {name: inner, on_stop: stop inner}}
stop inner: {script: ['true'], when: manual, environment: {name: inner, action: stop}}
`,
	})
	p := w.push(dir, 1, "HEAD:gone")[0]
	stop := func(name string, args Args, want, state string) {
		t.Helper()
		if got := w.wish(CommandStop, "bob", name, args); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("stop of %s: %q, want %q", name, got, want)
		}
		w.reaches(name, state)
	}
	if e := w.environment("inner"); e.OnStopPipeline != p.ID {
		t.Errorf("the pipeline that is kept is %d, not the first one %d", e.OnStopPipeline, p.ID)
	}
	w.deployed("half", "1:half/1 by ada=failed")
	// Those that have a job which stops them end with their branch, also where the deployment has failed.
	w.git(dir, "push", "-q", "origin", "HEAD:main")
	w.await(p.ID, 1)
	w.git(dir, "push", "-q", "origin", "--delete", "gone")
	w.queueIsEmpty()
	w.ask("nothing", store.Pipeline{}) // what has come of it is done by now
	for _, name := range []string{"plain", "both", "half"} {
		if e := w.environment(name); e.State != "available" {
			t.Errorf("it was deployed from another branch since: %+v", e)
		}
	}
	w.git(dir, "push", "-q", "origin", "--delete", "main")
	w.queueIsEmpty()
	w.ask("nothing", store.Pipeline{}) // what has come of it is done by now
	w.reaches("half", "stopped")
	w.reaches("inner", "stopped")
	w.reaches("both", "stopped")
	w.reaches("broken", "available") // its job has failed
	text, err := os.ReadFile(flag)
	if err != nil || len(strings.Fields(string(text))) != 2 {
		t.Errorf("%q %v", text, err)
	}
	stop("plain", Args{}, "", "stopped") // it has no job for that, and stays until somebody stops it
	stop("broken", Args{}, "", "available")
	stop("broken", Args{Force: true}, "", "stopped")
	stop("broken", Args{}, "is stopped already", "stopped")
	if refusal := w.ask(CommandStop, store.Pipeline{}); !strings.Contains(refusal, "environment 0") {
		t.Errorf("%q", refusal)
	}
}

// TestStopOfTag stops what was deployed from a tag that is gone.
func TestStopOfTag(t *testing.T) {
	w := newWorld(t, "app")
	dir := w.clone("app")
	w.commit(dir, "First", map[string]string{"text": "of the tag\n", ".gitlab-ci.yml": `
deploy: {script: ['true'], environment: {name: "$CI_COMMIT_TAG", on_stop: stop}, rules: [{if: $CI_COMMIT_TAG}]}
stop: {script: [cat text], environment: {name: "$CI_COMMIT_TAG", action: stop}, rules: [{if: $CI_COMMIT_TAG, when: manual}]}
`})
	w.git(dir, "tag", "-am", "one", "v1")
	p := w.push(dir, 1, "v1")[0]
	w.git(dir, "push", "-q", "origin", "--delete", "v1")
	w.queueIsEmpty()
	w.ask("nothing", store.Pipeline{})
	w.git(w.host.Dir("app"), "gc", "-q", "--prune=now")
	if e := w.environment("v1"); e.State != "available" || !e.Tag {
		t.Errorf("only branches stop environments: %+v", e)
	}
	if refusal := w.wish(CommandStop, "bob", "v1", Args{}); refusal != "" {
		t.Fatal(refusal)
	}
	w.until("it is over", func() bool {
		return strings.Contains(w.sum(p), "stop/1=success") || strings.Contains(w.sum(p), "stop/1=failed")
	})
	w.reaches("v1", "stopped")
	if log := w.log(p, "stop"); !strings.Contains(log, "\nof the tag\n") {
		t.Errorf("%s", log)
	}
}

// TestAutoStop lets the time of environments run out while nobody serves, and while somebody does.
func TestAutoStop(t *testing.T) {
	var ahead atomic.Int64
	w := newWorldAt(t, func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }, "app")
	dir := w.clone("app")
	w.commit(dir, "First", map[string]string{".gitlab-ci.yml": `
stages: [deploy, after]
variables: {DAYS: "3"}
deploy: {stage: deploy, script: ['true'], environment: {name: review, auto_stop_in: $DAYS days, on_stop: stop}}
stop: {stage: deploy, script: ['true'], when: manual, environment: {name: review, action: stop}}
plain: {stage: deploy, script: ['true'], environment: {name: plain, auto_stop_in: 1 week}}
ever: {stage: deploy, script: ['true'], environment: {name: ever, auto_stop_in: never}}
prepare: {stage: after, script: ['true'], when: manual, environment: {name: review, action: prepare}}
access: {stage: after, script: ['true'], when: manual, environment: {name: review, action: access, auto_stop_in: 5 days}}
verify: {stage: after, script: ['true'], when: manual, environment: {name: review, action: verify}}
`})
	p := w.push(dir, 1, "HEAD")[0]
	left := func(name string) time.Duration {
		t.Helper()
		e := w.environment(name)
		if e.AutoStop.IsZero() {
			return 0
		}
		return e.AutoStop.Sub(w.clock()).Round(time.Hour)
	}
	const day = 24 * time.Hour
	if left("review") != 3*day || left("plain") != 7*day || left("ever") != 0 {
		t.Errorf("%s %s %s", left("review"), left("plain"), left("ever"))
	}
	play := func(job string) {
		t.Helper()
		if refusal := w.ask(CommandPlay, p, job); refusal != "" {
			t.Fatal(refusal)
		}
		w.until(job+" is over", func() bool { return strings.Contains(w.sum(p), job+"/1=success") })
		w.await(p.ID-1, 1)
	}
	ahead.Add(int64(day))
	play("verify")
	if left("review") != 2*day {
		t.Errorf("verify has begun the time anew: %s", left("review"))
	}
	play("prepare")
	if left("review") != 3*day {
		t.Errorf("prepare has not begun the time anew: %s", left("review"))
	}
	play("access")
	if left("review") != 5*day {
		t.Errorf("access says 5 days: %s", left("review"))
	}
	w.deployed("review", "1:deploy/1 by ada=success") // none of them is a deployment
	w.end()
	ahead.Add(int64(5*day + time.Hour))
	w.start()
	w.reaches("review", "stopped")
	w.until("the job that stops it is over", func() bool { return strings.Contains(w.sum(p), "stop/1=success") })
	if left("review") != 0 || w.environment("plain").State != "available" {
		t.Errorf("%+v %+v", w.environment("review"), w.environment("plain"))
	}
	// A deployment begins the time anew.
	if refusal := w.ask(CommandRetry, p, "plain"); refusal != "" {
		t.Fatal(refusal)
	}
	w.until("it is deployed again", func() bool { return strings.Contains(w.sum(p), "plain/2=success") })
	if left("plain") != 7*day {
		t.Errorf("%s", left("plain"))
	}
	ahead.Add(int64(7 * day))
	w.commit(dir, "Soon", map[string]string{".gitlab-ci.yml": "soon: {script: ['true'], environment: {name: soon, auto_stop_in: 1 second}}\n"})
	w.push(dir, 1, "HEAD")
	w.reaches("soon", "stopped")
	w.reaches("plain", "stopped")
}

// TestAutoStopOfProtected stops an environment whose time is over and to which whoever has deployed last may not deploy any more.
func TestAutoStopOfProtected(t *testing.T) {
	for _, c := range []struct {
		name      string
		deployers []string
		by        string // in whose name it is stopped
	}{
		{"one who has deployed before", []string{"eve", "bob"}, "bob"},
		{"one who never has", []string{"eve"}, "eve"},
		{"all may", nil, "ada"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var ahead atomic.Int64
			w := newWorldAt(t, func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }, "app")
			dir := w.clone("app")
			w.commit(dir, "First", map[string]string{".gitlab-ci.yml": `
deploy: {script: ['true'], environment: {name: review, auto_stop_in: 3 days, on_stop: stop}}
stop: {script: ['echo "by $GITLAB_USER_LOGIN"'], when: manual, environment: {name: review, action: stop}}
`})
			p := w.push(dir, 1, "HEAD")[0]                                  // by ada
			if refusal := w.ask(CommandRetry, p, "deploy"); refusal != "" { // by bob
				t.Fatal(refusal)
			}
			w.until("bob has deployed", func() bool { return strings.Contains(w.sum(p), "deploy/2=success") })
			last := w.push(dir, 1, "HEAD:other")[0] // by ada again
			app := w.projects.all[0]
			app.Environments = []EnvironmentRule{{Name: "review", Deployers: c.deployers}}
			w.projects.set(nil, app)
			w.end()
			ahead.Add(int64(4 * 24 * time.Hour))
			w.start()
			w.reaches("review", "stopped")
			w.wants(last, "push other success: deploy/1=success stop/1=success")
			if log := w.log(last, "stop"); !strings.Contains(log, "\nby "+c.by+"\n") {
				t.Errorf("%s", log)
			}
		})
	}
}

// TestDeploymentRestart ends the server in the middle of a deployment.
func TestDeploymentRestart(t *testing.T) {
	w := newWorld(t, "app")
	dir := w.clone("app")
	flag := filepath.Join(w.dir, "flag")
	w.commit(dir, "First", map[string]string{".gitlab-ci.yml": `
deploy: {script: [echo begun, 'test -e ` + flag + ` || sleep 60'], retry: {max: 1, when: runner_system_failure}, environment: {name: production, on_stop: stop}}
stop: {script: ['echo stopping; test -e ` + flag + `.stop || sleep 60'], when: manual, environment: {name: production, action: stop}}
`})
	w.git(dir, "push", "-q", "origin", "HEAD")
	w.until("it deploys", func() bool {
		return w.newest() > 0 && strings.Contains(w.sum(store.Pipeline{ID: 1}), "deploy/1=running")
	})
	w.until("it is kept", func() bool { _, err := w.db.Environment(t.Context(), 1, "production"); return err == nil })
	w.deployed("production", "1:deploy/1 by ada=running")
	w.end()
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.start()
	p := w.await(0, 1)[0]
	w.wants(p, "push main success: deploy/1=failed stop/1=manual deploy/2=success")
	w.deployed("production", "1:deploy/1 by ada=failed 2:deploy/2 by ada=success")

	if refusal := w.wish(CommandStop, "bob", "production", Args{}); refusal != "" {
		t.Fatal(refusal)
	}
	w.until("it stops", func() bool { return strings.Contains(w.sum(p), "stop/1=running") })
	w.end()
	w.start()
	w.reaches("production", "available") // the job that stops it is lost
	if err := os.WriteFile(flag+".stop", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if refusal := w.wish(CommandStop, "bob", "production", Args{}); refusal != "" {
		t.Fatal(refusal)
	}
	w.reaches("production", "stopped")
	w.wants(p, "push main success: deploy/1=failed stop/1=failed deploy/2=success stop/2=success")
}

// TestOutdated holds back what is older than what is deployed, and goes back where somebody wants that.
func TestOutdated(t *testing.T) {
	w := newWorld(t, "app")
	dir := w.clone("app")
	flag := filepath.Join(w.dir, "flag")
	w.commit(dir, "First", map[string]string{"number": "1", ".gitlab-ci.yml": `
stages: [build, deploy]
build: {stage: build, script: ['test $(cat number) != 1 || while ! test -e ` + flag + `; do sleep 0.05; done']}
deploy: {stage: deploy, script: ['echo deploys $(cat number)'], retry: 2, environment: production}
byhand: {stage: deploy, script: ['true'], when: manual, environment: byhand}
`})
	w.git(dir, "push", "-q", "origin", "HEAD")
	w.until("the first one waits", func() bool {
		return w.newest() > 0 && strings.Contains(w.sum(store.Pipeline{ID: 1}), "build/1=running")
	})
	first := store.Pipeline{ID: w.newest()}
	w.commit(dir, "Second", map[string]string{"number": "2"})
	second := w.push(dir, 1, "HEAD")[0]
	w.wants(second, "push main success: build/1=success deploy/1=success byhand/1=manual")
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.until("the first one rests", func() bool { p, err := w.db.Pipeline(t.Context(), first.ID); return err == nil && p.Resting })
	w.wants(first, "push main failed: build/1=success deploy/1=failed byhand/1=manual")
	jobs, err := w.db.Jobs(t.Context(), first.ID)
	if err != nil || jobs[1].Reason != "failed_outdated_deployment_job" || !strings.Contains(jobs[1].Message, "production has a newer deployment") {
		t.Errorf("%+v %v", jobs, err)
	}
	w.deployed("production", "1:deploy/1 by ada=success")

	if refusal := w.ask(CommandPlay, second, "byhand"); refusal != "" {
		t.Fatal(refusal)
	}
	w.until("it is deployed by hand", func() bool { return strings.Contains(w.sum(second), "byhand/1=success") })
	if refusal := w.ask(CommandPlay, first, "byhand"); !strings.Contains(refusal, "play: job byhand: byhand has a newer deployment") {
		t.Errorf("an older deployment is played: %q", refusal)
	}
	if refusal := w.wish(CommandRollback, "bob", "production", Args{}); !strings.Contains(refusal, "no successful deployment of another commit before") {
		t.Errorf("rollback to nothing: %q", refusal)
	}

	// Who retries the job that has failed wants the older commit.
	if refusal := w.ask(CommandRetry, first, "deploy"); refusal != "" {
		t.Fatal(refusal)
	}
	w.until("it is deployed", func() bool { return strings.Contains(w.sum(first), "deploy/2=success") })
	w.deployed("production", "1:deploy/1 by ada=success 2:deploy/2 by bob=success")
	if refusal := w.wish(CommandRollback, "eve", "production", Args{}); refusal != "" {
		t.Fatal(refusal)
	}
	w.until("it is back", func() bool { return strings.Contains(w.sum(second), "deploy/2=success") })
	if refusal := w.wish(CommandRollback, "eve", "production", Args{To: 2}); refusal != "" {
		t.Fatal(refusal)
	}
	w.until("it is back again", func() bool { return strings.Contains(w.sum(first), "deploy/3=success") })
	w.deployed("production", "1:deploy/1 by ada=success 2:deploy/2 by bob=success 3:deploy/2 by eve=success 4:deploy/3 by eve=success")
	if refusal := w.wish(CommandRollback, "eve", "production", Args{To: 9}); !strings.Contains(refusal, "it has no deployment 9") {
		t.Errorf("%q", refusal)
	}

	// A job that goes on after a restart has passed all that already.
	jobs, err = w.db.Jobs(t.Context(), second.ID)
	if err != nil || jobs[3].Name != "deploy" || jobs[3].Attempt != 2 {
		t.Fatalf("%+v %v", jobs, err)
	}
	again := executor.Job{Job: pipeline.Job{Name: "deploy", Environment: &pipeline.Environment{Name: "production"}}, ID: jobs[3].ID}
	ref := run.JobRef{Pipeline: second.ID, Job: "deploy", ID: jobs[3].ID, Attempt: 2}
	if _, err := w.server.deploy(t.Context(), w.projects.all[0], ref, &again, nil); err != nil {
		t.Error(err)
	}
}

// TestProtectedEnvironment holds who may deploy where.
func TestProtectedEnvironment(t *testing.T) {
	w := newWorld(t, "app")
	w.projects.all[0].Variables = pipeline.Variables{{Name: "SECRET", Value: "s3cr3t-of-prod", Masked: true, Origin: pipeline.OriginProject}}
	w.projects.all[0].Environments = []EnvironmentRule{{Name: "prod-open"}, {Name: "prod*", Deployers: []string{"bob", "eve"}}, {Name: "*", Deployers: []string{"*"}}}
	dir := w.clone("app")
	w.commit(dir, "First", map[string]string{".gitlab-ci.yml": `
staging: {script: ['true'], environment: staging}
open: {script: ['true'], environment: prod-open}
auto: {script: [echo never], retry: 2, environment: prod}
look: {script: [echo never], environment: {name: prod, action: access}}
deploy: {script: ['echo "by $GITLAB_USER_LOGIN $GITLAB_USER_NAME"'], when: manual, environment: {name: production, on_stop: stop}}
stop: {script: ['true'], when: manual, environment: {name: production, action: stop}}
bad: {script: ['true'], environment: {name: "$NOTHING"}}
leak: {script: ['true'], environment: {name: "x-$SECRET"}}
`})
	p := w.push(dir, 1, "HEAD")[0] // by ada
	w.wants(p, "push main failed: staging/1=success open/1=success auto/1=failed look/1=failed deploy/1=manual stop/1=manual bad/1=failed leak/1=failed")
	jobs, err := w.db.Jobs(t.Context(), p.ID)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range map[int]string{2: "protected_environment_failure", 3: "protected_environment_failure", 6: "environment_creation_failure", 7: "environment_creation_failure"} {
		if jobs[i].Reason != want {
			t.Errorf("%s: %s %s, want %s", jobs[i].Name, jobs[i].Reason, jobs[i].Message, want)
		}
	}
	const says = "the environment prod is protected: only jobs of bob, eve may deploy to it, and not those of ada"
	if log := w.log(p, "auto"); !strings.Contains(log, says) || strings.Contains(log, "never") {
		t.Errorf("%s", log)
	}
	if strings.Contains(fmt.Sprintf("%+v", jobs), "s3cr3t") {
		t.Errorf("%+v", jobs)
	}
	as := func(user, kind string, jobs ...string) string {
		t.Helper()
		id, err := w.db.Enqueue(t.Context(), store.Command{Kind: kind, Pipeline: p.ID, Jobs: jobs, User: user})
		if err != nil {
			t.Fatal(err)
		}
		refusal, err := w.db.Await(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return refusal
	}
	if got := as("ada", CommandPlay, "deploy"); !strings.Contains(got, "play: job deploy: the environment production is protected: only jobs of bob, eve may") {
		t.Errorf("%q", got)
	}
	if got := as("ada", CommandRetry, "auto"); !strings.Contains(got, "retry: job auto: the environment prod is protected") {
		t.Errorf("%q", got)
	}
	if got := as("bob", CommandPlay, "deploy"); got != "" {
		t.Fatal(got)
	}
	w.until("bob has deployed", func() bool { return strings.Contains(w.sum(p), "deploy/1=success") })
	w.deployed("production", "1:deploy/1 by bob=success")
	if log := w.log(p, "deploy"); !strings.Contains(log, "\nby bob bob\n") {
		t.Errorf("%s", log)
	}
	if got := w.wish(CommandStop, "ada", "production", Args{}); !strings.Contains(got, "stop: the environment production is protected") {
		t.Errorf("%q", got)
	}
	w.git(dir, "push", "-q", "origin", "HEAD:other")
	w.git(dir, "push", "-q", "origin", "--delete", "main") // by ada
	w.queueIsEmpty()
	w.ask("nothing", store.Pipeline{}) // what has come of it is done by now
	if e := w.environment("production"); e.State != "available" {
		t.Errorf("ada has stopped it: %+v", e)
	}
	if got := w.wish(CommandStop, "eve", "production", Args{}); got != "" {
		t.Fatal(got)
	}
	w.reaches("production", "stopped")
}

// TestRulesOfNow holds that who may deploy where, and what is followed, is as the Project says when a job starts.
func TestRulesOfNow(t *testing.T) {
	w := newWorld(t, "app")
	var followed atomic.Int64
	w.follow = func(context.Context, Work, *executor.Trace) error { followed.Add(1); return nil }
	app := w.projects.all[0]
	app.Environments = []EnvironmentRule{{Name: "prod", Deployers: []string{"ada"}}, {Name: "stage", Deployers: []string{"bob"}}}
	w.projects.set(nil, app)
	dir, flag := w.clone("app"), filepath.Join(w.dir, "flag")
	w.commit(dir, "First", map[string]string{".gitlab-ci.yml": `
stages: [test, deploy]
test: {stage: test, script: ['until test -e ` + flag + `; do sleep 0.05; done']}
prod: {stage: deploy, script: [echo never], environment: prod}
stage: {stage: deploy, script: [echo deployed], environment: stage}
child: {stage: deploy, trigger: {include: child.yml, strategy: depend}, environment: prod}
`, "child.yml": "a: {script: [echo never]}\n"})
	w.git(dir, "push", "-q", "origin", "HEAD") // by ada
	w.until("it runs", func() bool { return w.newest() > 0 && strings.Contains(w.sum(w.first()), "test/1=running") })
	app.Environments = []EnvironmentRule{{Name: "prod", Deployers: []string{"bob"}}, {Name: "stage", Deployers: []string{"ada"}}}
	app.Following = []Following{{Environment: "*", Off: true}}
	w.projects.set(nil, app)
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := w.await(0, 1)[0]
	w.wants(p, "push main failed: test/1=success prod/1=failed stage/1=success child/1=failed")
	if followed.Load() != 0 {
		t.Error("it was followed by the rules of when the pipeline was made")
	}
}

// TestSkippedDeployment holds that a deployer's push deploys nothing for who lets what was skipped be decided anew.
func TestSkippedDeployment(t *testing.T) {
	w := newWorld(t, "app")
	w.projects.all[0].Environments = []EnvironmentRule{{Name: "prod", Deployers: []string{"ada"}}}
	dir, flag := w.clone("app"), filepath.Join(w.dir, "flag")
	w.commit(dir, "First", map[string]string{".gitlab-ci.yml": `
stages: [test, deploy]
test: {stage: test, script: ['test -e ` + flag + `']}
deploy: {stage: deploy, script: ['echo "by $GITLAB_USER_LOGIN"'], environment: prod}
tell: {stage: deploy, script: ['echo "by $GITLAB_USER_LOGIN"']}
`})
	p := w.push(dir, 1, "HEAD")[0] // by ada
	w.wants(p, "push main failed: test/1=failed deploy/1=skipped tell/1=skipped")
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if refusal := w.ask(CommandRetry, p, "test"); refusal != "" { // by bob
		t.Fatal(refusal)
	}
	w.until("all is decided", func() bool {
		sum := w.sum(p)
		return strings.Contains(sum, "tell/1=success") && (strings.Contains(sum, "deploy/1=success") || strings.Contains(sum, "deploy/1=failed"))
	})
	w.wants(p, "push main failed: test/1=failed deploy/1=failed tell/1=success test/2=success")
	if log := w.log(p, "deploy"); !strings.Contains(log, "only jobs of ada may deploy to it, and not those of bob") {
		t.Errorf("%s", log)
	}
	if log := w.log(p, "tell"); !strings.Contains(log, "\nby bob\n") {
		t.Errorf("%s", log)
	}
}

// TestEnvironmentURL holds that the URL may be found out by the job.
func TestEnvironmentURL(t *testing.T) {
	for _, c := range []struct{ name, url, writes, want string }{
		{"of the job's report", "$FOUND/path", "FOUND=https://x.example", "https://x.example/path"},
		{"of the report rather than of its own", "https://$OWN.example", "OWN=reported", "https://reported.example"},
		{"of its own variables", "https://$OWN.example", "OTHER=1", "https://own.example"},
		{"a masked value", "https://x.example/$SECRET", "OTHER=1", "https://x.example/**REDACTED**"},
		{"another scheme", "$FOUND", "FOUND=javascript:alert(1)", ""},
		{"nothing", "$FOUND", "OTHER=1", ""},
		{"too long", "https://x.example/$FOUND", "FOUND=" + strings.Repeat("a", 300), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "app")
			w.projects.all[0].Variables = append(w.projects.all[0].Variables, pipeline.Variable{Name: "SECRET", Value: "s3cr3t-of-prod", Masked: true, Origin: pipeline.OriginProject})
			dir := w.clone("app")
			w.commit(dir, "First", map[string]string{".gitlab-ci.yml": `
deploy:
  variables: {OWN: own}
  script: ['echo "` + c.writes + `" > deploy.env']
  artifacts: {reports: {dotenv: deploy.env}}
  environment: {name: production, url: "` + c.url + `"}
`})
			w.wants(w.push(dir, 1, "HEAD")[0], "push main success: deploy/1=success")
			if e := w.environment("production"); e.URL != c.want {
				t.Errorf("%q, want %q", e.URL, c.want)
			}
		})
	}
}

// TestTimetable holds when environments are stopped whose time is over.
func TestTimetable(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	env := func(id int64, in time.Duration) store.Environment {
		return store.Environment{ID: id, AutoStop: now.Add(in)}
	}
	table := timetable{}
	stopped := func(e store.Environment, ago time.Duration) { table[timed{e.ID, e.AutoStop}] = now.Add(-ago) }
	stopped(env(3, -2*time.Hour), 59*time.Minute)
	stopped(env(4, -2*time.Hour), time.Hour)
	stopped(env(5, -3*time.Hour), time.Minute) // and deployed to since
	stopped(env(6, -3*time.Hour), 2*time.Hour) // and gone
	due, wait := table.look([]store.Environment{env(1, 0), env(2, 20*time.Second), env(3, -2*time.Hour), env(4, -2*time.Hour), env(5, -time.Second)}, now)
	var have []int64
	for _, e := range due {
		have = append(have, e.ID)
	}
	if fmt.Sprint(have) != "[1 4 5]" || wait != 20*time.Second || len(table) != 3 {
		t.Errorf("due are %v, the next in %s, %d are remembered", have, wait, len(table))
	}
	if due, wait := table.look(nil, now); len(due) != 0 || wait != lookAgain {
		t.Errorf("%v %s", due, wait)
	}
}

// TestDeploymentWrote keeps what a deployment has written to the cluster.
func TestDeploymentWrote(t *testing.T) {
	w := newWorld(t, "app")
	w.end()
	w.access = func(_ context.Context, _ Project, ref run.JobRef, _ *executor.Job) (Access, error) {
		open := true
		pushes := w.current().pushes // as where the rollout is followed
		pushes.begin(ref.ID)
		pushes.add(Push{Repository: "fleet", Job: ref.ID, Changes: []RefChange{{Ref: "refs/heads/main", Before: zeroes, After: "c0ffee"}}})
		return Access{
			Written: func() []proxy.Written {
				if !open {
					t.Error("the way is closed already")
				}
				return []proxy.Written{{Verb: "create", Version: "v1", Resource: "configmaps", Namespace: "shop", Name: "a"}}
			},
			Close: func() { open = false },
		}, nil
	}
	w.start()
	dir := w.clone("app")
	w.commit(dir, "First", map[string]string{".gitlab-ci.yml": "deploy: {script: [exit 1], environment: production}\n"})
	w.wants(w.push(dir, 1, "HEAD")[0], "push main failed: deploy/1=failed")
	all, err := w.db.Deployments(t.Context(), store.DeploymentFilter{Environment: w.environment("production").ID})
	if err != nil || len(all) != 1 || string(all[0].Wrote) != `{"objects":[{"verb":"create","version":"v1","resource":"configmaps","namespace":"shop","name":"a"}],`+
		`"commits":[{"repository":"fleet","ref":"refs/heads/main","sha":"c0ffee"}]}` {
		t.Errorf("%+v %v", all, err)
	}
}

// TestObjects holds what is kept of what a deployment has written.
func TestObjects(t *testing.T) {
	wrote := []proxy.Written{
		{Verb: "create", Group: "apps", Version: "v1", Resource: "deployments", Namespace: "shop", Name: "web", Kind: "Deployment"},
		{Verb: "patch", Version: "v1", Resource: "services", Namespace: "shop", Name: "web"},
		{Verb: "patch", Group: "apps", Version: "v1", Resource: "deployments", Subresource: "scale", Namespace: "shop", Name: "web"},
	}
	for i := range maxObjects {
		wrote = append(wrote, proxy.Written{Verb: "delete", Version: "v1", Resource: "pods", Name: fmt.Sprint(i)})
	}
	all := objects(wrote)
	have, err := json.Marshal(all[:2])
	const want = `[{"verb":"patch","group":"apps","version":"v1","kind":"Deployment","resource":"deployments","namespace":"shop","name":"web"},` +
		`{"verb":"patch","version":"v1","resource":"services","namespace":"shop","name":"web"}]`
	if err != nil || string(have) != want || len(all) != maxObjects {
		t.Errorf("%d objects\n%s\n%s", len(all), have, want)
	}
}
