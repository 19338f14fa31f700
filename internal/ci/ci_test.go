package ci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/executor/shell"
	"keelson.dev/keelson/internal/pipeline/run"
	"keelson.dev/keelson/internal/store"
)

// declared are the projects of a test.
type declared struct {
	mu    sync.Mutex
	all   []Project
	fail  error
	deny  error // of Named
	asked int   // how often that was said
}

func (d *declared) set(fail error, all ...Project) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail, d.all = fail, all
}

func (d *declared) Of(_ context.Context, repository string) ([]Project, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return nil, d.fail
	}
	return slices.DeleteFunc(slices.Clone(d.all), func(p Project) bool { return p.Repository != repository }), nil
}

func (d *declared) Named(_ context.Context, path string) (Project, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.deny != nil {
		d.asked++
		return Project{}, d.deny
	}
	for _, p := range d.all {
		if p.Path == path {
			return p, nil
		}
	}
	return Project{}, ErrNoProject
}

// world is a Git host with a server of pipelines, both real, on a directory that outlives servers.
type world struct {
	*testing.T
	dir      string
	host     *githost.Host
	url      string // of the host, with the token
	projects *declared
	clock    func() time.Time // nil: the real one
	access   func(context.Context, Project, run.JobRef, *executor.Job) (Access, error)

	mu     sync.Mutex
	ended  []Ended
	server *Server
	db     *store.DB
	stop   func()
	follow func(context.Context, Work, *executor.Trace) error // nil: everything is healthy
}

const hostToken = "token-of-the-host"

func newWorld(t *testing.T, repositories ...string) *world {
	t.Helper()
	return newWorldAt(t, nil, repositories...)
}

// newWorldAt makes a world with a clock of its own.
func newWorldAt(t *testing.T, clock func() time.Time, repositories ...string) *world {
	t.Helper()
	w := &world{T: t, dir: t.TempDir(), projects: &declared{}, clock: clock}
	var err error
	w.host, err = githost.New(githost.Options{
		Root: filepath.Join(w.dir, "git"), Token: hostToken, GuardReads: true,
		OnPush: func(p githost.Push) {
			push := Push{Repository: p.Repository, User: p.User, Options: p.Options, Job: p.Job}
			for _, c := range p.Changes {
				push.Changes = append(push.Changes, RefChange(c))
			}
			w.current().Pushed(push)
		},
		Allow: func(token, repository string, write bool) error { return w.current().Allow(token, repository, write) },
		Job:   func(token string) int64 { return w.current().Job(token) },
	})
	if err != nil {
		t.Fatal(err)
	}
	hs := httptest.NewServer(w.host)
	t.Cleanup(hs.Close)
	w.url = hs.URL
	for _, name := range repositories {
		if err := w.host.Create(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		w.projects.all = append(w.projects.all, Project{Path: "group/" + name, Repository: name, Dir: w.host.Dir(name)})
	}
	w.start()
	t.Cleanup(func() { w.end() })
	return w
}

func (w *world) current() *Server {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.server
}

// start begins a server, as a process does.
func (w *world) start() {
	w.Helper()
	key, err := store.OpenKey(filepath.Join(w.dir, "key"))
	if err != nil {
		w.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(testWriter{w.T}, nil))
	db, err := store.Open(filepath.Join(w.dir, "store.db"), store.Options{Key: key, Logger: log, Now: w.clock})
	if err != nil {
		w.Fatal(err)
	}
	artifacts, err := artifact.Open(filepath.Join(w.dir, "artifacts"), artifact.Options{})
	if err != nil {
		w.Fatal(err)
	}
	x, err := shell.New(shell.Options{Grace: time.Second})
	if err != nil {
		w.Fatal(err)
	}
	builds := filepath.Join(w.dir, "builds")
	if err := os.MkdirAll(builds, 0o755); err != nil {
		w.Fatal(err)
	}
	s, err := New(Options{
		Store: db, Artifacts: artifacts, Projects: w.projects, Executor: x, Builds: builds, URL: w.url, GitURL: w.url + "/git", Jobs: 4, Log: log, Now: w.clock, Access: w.access,
		Follow: w.followed, Ended: w.over,
	})
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.Serve(ctx); close(done) }()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.server, w.db = s, db
	w.stop = func() {
		cancel()
		<-done
		for _, c := range []io.Closer{db, artifacts, x} {
			if err := c.Close(); err != nil {
				w.Error(err)
			}
		}
	}
}

// end stops the server, as the end of its process does.
func (w *world) over(e Ended) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = append(w.ended, e)
}

func (w *world) end() {
	w.mu.Lock()
	stop := w.stop
	w.stop = nil
	w.mu.Unlock()
	if stop != nil {
		stop()
	}
}

type testWriter struct{ *testing.T }

func (t testWriter) Write(p []byte) (int, error) {
	if t.Context().Err() == nil {
		t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

// git runs git in a directory as a person would.
func (w *world) git(dir string, args ...string) string {
	w.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=Ada", "-c", "user.email=ada@example.com"}, args...)...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// clone clones a repository.
func (w *world) clone(name string) string {
	w.Helper()
	dir := filepath.Join(w.TempDir(), name)
	w.git(filepath.Dir(dir), "clone", "-q", strings.Replace(w.url, "http://", "http://ada:"+hostToken+"@", 1)+"/git/"+name+".git", dir)
	return dir
}

// commit writes files ("name: text") and commits them.
func (w *world) commit(dir, message string, files map[string]string) {
	w.Helper()
	for name, text := range files {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			w.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
			w.Fatal(err)
		}
	}
	w.git(dir, "add", "-A")
	w.git(dir, "commit", "-qm", message)
}

// push pushes, and gives the pipelines that it makes once there are as many as wanted and they rest.
func (w *world) push(dir string, want int, args ...string) []store.Pipeline {
	w.Helper()
	after := w.newest()
	w.git(dir, append([]string{"push", "-q", "origin"}, args...)...)
	return w.await(after, want)
}

func (w *world) newest() int64 {
	all, err := w.db.Pipelines(w.Context(), store.PipelineFilter{Limit: 1})
	if err != nil {
		w.Fatal(err)
	}
	if len(all) == 0 {
		return 0
	}
	return all[0].ID
}

// await waits until a number of pipelines after one rest, children not counted.
func (w *world) await(after int64, want int) []store.Pipeline {
	w.Helper()
	var all []store.Pipeline
	w.until(fmt.Sprintf("%d pipelines rest", want), func() bool {
		var err error
		all, err = w.db.Pipelines(w.Context(), store.PipelineFilter{Top: true})
		if err != nil {
			w.Fatal(err)
		}
		all = slices.DeleteFunc(all, func(p store.Pipeline) bool { return p.ID <= after || !p.Resting })
		return len(all) >= want
	})
	slices.Reverse(all)
	return all
}

func (w *world) until(what string, done func() bool) {
	w.Helper()
	for end := time.Now().Add(60 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			w.Fatalf("not within a minute: %s", what)
		}
	}
}

// sum is a pipeline with its jobs in a line.
func (w *world) sum(p store.Pipeline) string {
	w.Helper()
	p, err := w.db.Pipeline(w.Context(), p.ID)
	if err != nil {
		w.Fatal(err)
	}
	out := fmt.Sprintf("%s %s %s:", p.Source, p.Ref, p.Status)
	jobs, err := w.db.Jobs(w.Context(), p.ID)
	if err != nil {
		w.Fatal(err)
	}
	for _, j := range jobs {
		out += fmt.Sprintf(" %s/%d=%s", j.Name, j.Attempt, j.Status)
	}
	return out
}

func (w *world) wants(p store.Pipeline, want string) {
	w.Helper()
	if have := w.sum(p); have != want {
		w.Errorf("have %s\nwant %s", have, want)
		jobs, _ := w.db.Jobs(w.Context(), p.ID)
		for _, j := range jobs {
			w.Logf("%s: %s %s %s\n%s", j.Name, j.Why, j.Reason, j.Message, w.log(p, j.Name))
		}
	}
}

// log gives the log of the last attempt of a job.
func (w *world) log(p store.Pipeline, job string) string {
	w.Helper()
	jobs, err := w.db.Jobs(w.Context(), p.ID)
	if err != nil {
		w.Fatal(err)
	}
	var id int64
	for _, j := range jobs {
		if j.Name == job {
			id = j.ID
		}
	}
	text, _, err := w.db.ReadLog(id, 0, 1<<20)
	if err != nil {
		w.Fatalf("log of %s: %v", job, err)
	}
	return string(text)
}

// ask puts a command into the queue and gives what it is refused with.
func (w *world) ask(kind string, p store.Pipeline, jobs ...string) string {
	w.Helper()
	id, err := w.db.Enqueue(w.Context(), store.Command{Kind: kind, Pipeline: p.ID, Jobs: jobs, User: "bob"})
	if err != nil {
		w.Fatal(err)
	}
	refusal, err := w.db.Await(w.Context(), id)
	if err != nil {
		w.Fatal(err)
	}
	return refusal
}

func TestPush(t *testing.T) {
	w := newWorld(t, "app", "lib", "closed")
	w.projects.all[0].Variables = pipeline.Variables{
		{Name: "TOKEN", Value: "s3cr3t-of-prod", Masked: true, Protected: true, Origin: pipeline.OriginProject},
		{Name: "COLOUR", Value: "blue", Origin: pipeline.OriginProject},
	}
	w.projects.all[1].ReadableBy = []string{"group/*"}
	lib := w.clone("lib")
	w.commit(lib, "templates", map[string]string{"job.yml": "lint: {stage: test, script: [echo linted]}\n"})
	if got := w.push(lib, 0, "HEAD"); len(got) != 0 {
		t.Errorf("a repository without a configuration has pipelines: %+v", got)
	}
	dir := w.clone("app")
	w.commit(dir, "First\n\nAll of it.", map[string]string{".gitlab-ci.yml": `
include: {project: group/lib, file: job.yml}
stages: [build, test, deploy]
build: {stage: build, script: ['echo "$COLOUR [$TOKEN] $CI_COMMIT_REF_NAME $CI_PIPELINE_IID $CI_PROJECT_PATH $CI_COMMIT_AUTHOR"', 'echo made > out'], artifacts: {paths: [out]}}
check: {stage: test, script: [cat out, 'git log --format=%s']}
tagged: {stage: deploy, script: [echo released], rules: [{if: $CI_COMMIT_TAG}]}
`})
	made := w.push(dir, 1, "HEAD")
	w.wants(made[0], "push main success: build/1=success lint/1=success check/1=success")
	if p := made[0]; p.IID != 1 || p.Title != "First" || p.Author != "Ada" || p.User != "ada" || p.SHA != w.git(dir, "rev-parse", "HEAD") || p.Started.IsZero() || p.Finished.IsZero() {
		t.Errorf("%+v", p)
	}
	if log := w.log(made[0], "build"); !strings.Contains(log, "blue [[MASKED]] main 1 group/app Ada <ada@example.com>") {
		t.Errorf("build:\n%s", log)
	}
	if log := w.log(made[0], "check"); !strings.Contains(log, "\nmade\n") || !strings.Contains(log, "\nFirst\n") {
		t.Errorf("check:\n%s", log)
	}
	w.git(dir, "checkout", "-qb", "feature")
	w.commit(dir, "second", map[string]string{"a": "1"})
	w.git(dir, "tag", "-am", "one", "v1")
	made = w.push(dir, 2, "feature", "v1")
	w.wants(made[0], "push feature success: build/1=success lint/1=success check/1=success")
	w.wants(made[1], "push v1 success: build/1=success lint/1=success check/1=success tagged/1=success")
	if log := w.log(made[0], "build"); !strings.Contains(log, "blue [] feature 2") {
		t.Errorf("a protected variable on a branch that is not:\n%s", log)
	}

	for _, c := range []struct {
		name, config string
		args         []string
		want, why    string // what comes of it; empty: no pipeline
	}{
		{"skipped by an option", "a: {script: ['true']}\n", []string{"-o", "ci.skip", "HEAD"}, "", ""},
		{"a variable by an option", "a: {script: ['test \"$A\" = \"b c\"']}\n", []string{"-o", "ci.variable=A=b c", "HEAD"}, "push feature success: a/1=success", ""},
		{"no job runs", "a: {script: ['true'], rules: [{if: $NEVER}]}\n", []string{"HEAD"}, "", ""},
		{"workflow", "workflow: {rules: [{if: $CI_COMMIT_TAG}]}\na: {script: ['true']}\n", []string{"HEAD"}, "", ""},
		{"an error", "a: {script: ['true'], needs: [nosuch]}\n", []string{"HEAD"}, "push feature failed:", ".gitlab-ci.yml:1:"},
		{"no YAML", "a: [\n", []string{"HEAD"}, "push feature failed:", ".gitlab-ci.yml:"},
		{"what may not be read", "include: {project: group/closed, file: x.yml}\na: {script: ['true']}\n", []string{"HEAD"}, "push feature failed:", "group/closed: pipelines of group/app may not read it"},
		{"no such project", "include: {project: group/nosuch, file: x.yml}\na: {script: ['true']}\n", []string{"HEAD"}, "push feature failed:", "group/nosuch: there is no such project"},
		{"a failure", "a: {script: [exit 3]}\n", []string{"HEAD"}, "push feature failed: a/1=failed", ""},
		{"a branch goes", "a: {script: ['true']}\n", []string{"--delete", "feature"}, "", ""},
	} {
		w.commit(dir, c.name, map[string]string{".gitlab-ci.yml": c.config})
		after := w.newest()
		if c.want == "" {
			w.git(dir, append([]string{"push", "-q", "origin"}, c.args...)...)
			w.queueIsEmpty()
			if got := w.await(after, 0); len(got) > 0 {
				t.Errorf("%s: %s", c.name, w.sum(got[0]))
			}
			continue
		}
		made := w.push(dir, 1, c.args...)
		if have := w.sum(made[0]); have != c.want || !strings.Contains(made[0].Why, c.why) {
			t.Errorf("%s: have %s %q\nwant %s %q", c.name, have, made[0].Why, c.want, c.why)
		}
	}
}

// queueIsEmpty waits until nothing is left to do of the pushes so far.
func (w *world) queueIsEmpty() {
	w.Helper()
	w.ask("nothing", store.Pipeline{}) // pushes before it are taken by now
	w.until("pushes are done", func() bool {
		s := w.current()
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.lanes) == 0
	})
}

func TestCommands(t *testing.T) {
	w := newWorld(t, "app")
	dir := w.clone("app")
	w.commit(dir, "First", map[string]string{".gitlab-ci.yml": `
stages: [build, deploy, after]
build: {stage: build, script: [echo built > out], artifacts: {paths: [out]}}
live: {stage: deploy, script: [cat out, test -e .git/again || exit 3], when: manual, allow_failure: false, variables: {GIT_DEPTH: 1}}
last: {stage: after, script: ['true']}
`})
	p := w.push(dir, 1, "HEAD")[0]
	w.wants(p, "push main manual: build/1=success live/1=manual last/1=created")
	for _, c := range []struct {
		kind string
		jobs []string
		want string
	}{
		{CommandPlay, []string{"build"}, "neither manual nor delayed"},
		{CommandPlay, []string{"nosuch"}, `there is no job "nosuch"`},
		{CommandRetry, nil, "nothing to retry"},
		{"dance", nil, `unknown command "dance"`},
	} {
		if got := w.ask(c.kind, p, c.jobs...); got == "" || c.kind != CommandRetry && !strings.Contains(got, c.want) {
			t.Errorf("%s %v: %q, want %q", c.kind, c.jobs, got, c.want)
		}
	}
	w.until("it rests", func() bool { q, err := w.db.Pipeline(t.Context(), p.ID); return err == nil && q.Resting })
	after := p.ID - 1
	if got := w.ask(CommandPlay, p, "live"); got != "" {
		t.Fatal(got)
	}
	w.until("it has failed", func() bool { return strings.Contains(w.sum(p), "failed:") })
	w.await(after, 1)
	w.wants(p, "push main failed: build/1=success live/1=failed last/1=skipped")
	if got := w.ask(CommandRetry, p, "live"); got != "" {
		t.Fatal(got)
	}
	w.until("it has failed again", func() bool { return strings.Contains(w.sum(p), "live/2=failed") })
	jobs, err := w.db.Jobs(t.Context(), p.ID)
	if err != nil || len(jobs) < 4 || jobs[3].Name != "live" || jobs[3].ExitCode != 3 || jobs[3].Reason != "script_failure" {
		t.Errorf("%+v %v", jobs, err)
	}
	if got := w.ask(CommandCancel, store.Pipeline{ID: 999}); !strings.Contains(got, "999") {
		t.Errorf("cancel of no pipeline: %q", got)
	}
}

// TestRestart ends the server in the middle of jobs, and lets another one go on.
func TestRestart(t *testing.T) {
	w := newWorld(t, "app")
	dir := w.clone("app")
	flag := filepath.Join(w.dir, "flag")
	w.commit(dir, "First", map[string]string{
		".gitlab-ci.yml": `
stages: [build, test, after]
build: {stage: build, script: [echo built > out], artifacts: {paths: [out]}}
long: {stage: test, script: [cat out, echo begun, 'test -e ` + flag + ` || sleep 60'], retry: {max: 1, when: runner_system_failure}}
child: {stage: test, trigger: {include: child.yml, strategy: depend}}
last: {stage: after, script: [echo over]}
`,
		"child.yml": "inner: {script: [echo inside, 'test -e " + flag + " || sleep 60'], retry: {max: 1, when: runner_system_failure}}\n",
	})
	w.git(dir, "push", "-q", "origin", "HEAD")
	find := func(job string) (id int64) {
		all, err := w.db.Pipelines(t.Context(), store.PipelineFilter{})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			jobs, err := w.db.Jobs(t.Context(), p.ID)
			if err != nil {
				t.Fatal(err)
			}
			for _, j := range jobs {
				if j.Name == job {
					id = j.ID
				}
			}
		}
		return id
	}
	begun := func(job, text string) func() bool {
		return func() bool {
			id := find(job)
			if id == 0 {
				return false
			}
			log, _, err := w.db.ReadLog(id, 0, 1<<20)
			return err == nil && strings.Contains(string(log), "\n"+text+"\n")
		}
	}
	w.until("long runs", begun("long", "begun"))
	w.until("inner runs", begun("inner", "inside"))
	w.end()
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.start()
	p := w.await(0, 1)[0]
	w.wants(p, "push main success: build/1=success long/1=failed child/1=success last/1=success long/2=success")
	jobs, err := w.db.Jobs(t.Context(), p.ID)
	if err != nil || jobs[1].Reason != "runner_system_failure" || !strings.Contains(jobs[1].Why, "is gone") {
		t.Errorf("%+v %v", jobs, err)
	}
	children, err := w.db.Pipelines(t.Context(), store.PipelineFilter{Parent: jobs[2].ID})
	if err != nil || len(children) != 1 || children[0].IID == p.IID {
		t.Fatalf("%+v %v", children, err)
	}
	w.wants(children[0], "parent_pipeline main success: inner/1=failed inner/2=success")
	if log := w.log(p, "long"); !strings.Contains(log, "\nbuilt\n") {
		t.Errorf("artifacts of before are gone:\n%s", log)
	}
	left, err := filepath.Glob(filepath.Join(w.dir, "builds", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q %v", left, err)
	}
}

// TestPushIsKept ends the server before a push has its pipeline: the next one makes it, once.
func TestPushIsKept(t *testing.T) {
	w := newWorld(t, "app")
	app := w.projects.all[0]
	dir := w.clone("app")
	w.commit(dir, "First", map[string]string{".gitlab-ci.yml": "a: {script: ['true']}\n"})
	w.projects.set(errors.New("the cluster does not answer"), app)
	w.git(dir, "push", "-q", "origin", "HEAD")
	w.end()
	w.projects.set(nil, app)
	w.start()
	w.wants(w.await(0, 1)[0], "push main success: a/1=success")
	w.end()
	w.start()
	w.queueIsEmpty()
	if all, err := w.db.Pipelines(t.Context(), store.PipelineFilter{}); err != nil || len(all) != 1 {
		t.Errorf("%d pipelines of one push, %v", len(all), err)
	}
}

// refuses lets no project be found by its path until it was tried.
func (w *world) refuses(do func()) {
	w.Helper()
	w.projects.mu.Lock()
	w.projects.deny, w.projects.asked = errors.New("the cluster does not answer"), 0
	w.projects.mu.Unlock()
	do()
	w.until("it was tried", func() bool { w.projects.mu.Lock(); defer w.projects.mu.Unlock(); return w.projects.asked > 0 })
	w.projects.mu.Lock()
	w.projects.deny = nil
	w.projects.mu.Unlock()
}

// TestPushIsTriedAgain holds that what fails for a moment costs no push its pipeline.
func TestPushIsTriedAgain(t *testing.T) {
	w := newWorld(t, "app")
	dir := w.clone("app")
	w.commit(dir, "First", map[string]string{".gitlab-ci.yml": "a: {script: ['true']}\n"})
	w.refuses(func() { w.git(dir, "push", "-q", "origin", "HEAD") })
	w.wants(w.await(0, 1)[0], "push main success: a/1=success")
	w.queueIsEmpty()
	if all, err := w.db.Pipelines(t.Context(), store.PipelineFilter{}); err != nil || len(all) != 1 {
		t.Errorf("%d pipelines of one push, %v", len(all), err)
	}
}

// TestProjectGone holds that a pipeline whose project is gone after a restart does not stay for ever.
func TestProjectGone(t *testing.T) {
	w := newWorld(t, "app")
	dir := w.clone("app")
	w.commit(dir, "First", map[string]string{".gitlab-ci.yml": "a: {script: [sleep 60]}\n"})
	w.git(dir, "push", "-q", "origin", "HEAD")
	w.until("it runs", func() bool { return w.newest() > 0 && strings.Contains(w.sum(store.Pipeline{ID: 1}), "a/1=running") })
	w.end()
	w.projects.set(nil)
	w.start()
	if p := w.await(0, 1)[0]; p.Status != "failed" || !strings.Contains(p.Why, "cannot be played on") || !strings.Contains(p.Why, "no such project") {
		t.Errorf("%+v", p)
	}
}

// TestJobTokens holds what a job's token opens, and for how long.
func TestJobTokens(t *testing.T) {
	w := newWorld(t, "app", "lib", "closed")
	w.projects.all[1].ReadableBy = []string{"group/app"}
	for _, name := range []string{"lib", "closed"} {
		dir := w.clone(name)
		w.commit(dir, "First", map[string]string{"text": "of " + name + "\n"})
		w.push(dir, 0, "HEAD")
	}
	dir := w.clone("app")
	kept := filepath.Join(w.dir, "kept")
	w.commit(dir, "First", map[string]string{".gitlab-ci.yml": `
job:
  variables: {GIT_TERMINAL_PROMPT: 0}
  script:
    - base=${CI_REPOSITORY_URL%/app.git}
    - git clone -q $base/lib.git && cat lib/text
    - git fetch -q --unshallow origin 2>&1 || git fetch -q origin
    - if git clone -q $base/closed.git; then exit 4; fi
    - if git push -q $CI_REPOSITORY_URL HEAD:refs/heads/new; then exit 5; fi
    - echo "$CI_JOB_TOKEN"
    - echo $CI_REPOSITORY_URL > ` + kept + "\n"})
	p := w.push(dir, 1, "HEAD")[0]
	w.wants(p, "push main success: job/1=success")
	log := w.log(p, "job")
	if !strings.Contains(log, "of lib") || !strings.Contains(log, "\n[MASKED]\n") || strings.Contains(log, "keelson-job-") {
		t.Errorf("%s", log)
	}
	text, err := os.ReadFile(kept)
	if err != nil || !strings.Contains(string(text), "keelson-job-") {
		t.Fatalf("%s %v", text, err)
	}
	out, err := exec.Command("git", "-c", "credential.helper=", "ls-remote", strings.TrimSpace(string(text))).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "Authentication failed") {
		t.Errorf("the token of a job that is over opens the repository: %s", out)
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"main", "main", true}, {"main", "maine", false}, {"*", "a/b", true}, {"release/*", "release/1/2", true}, {"release/*", "release", false},
		{"*-stable", "x-stable", true}, {"*-stable", "x-stable-y", false}, {"a*b*c", "a1b2c", true}, {"a*b*c", "acb", false}, {"a*a", "a", false}, {"", "", true},
	} {
		if got := match(c.pattern, c.name); got != c.want {
			t.Errorf("%q matches %q: %t", c.pattern, c.name, got)
		}
	}
}

func TestCreate(t *testing.T) {
	w := newWorld(t, "app")
	if _, err := w.server.Create(t.Context(), Event{Project: "group/nosuch", Source: "web", Ref: "refs/heads/main"}); !errors.Is(err, ErrNoProject) {
		t.Errorf("no project: %v", err)
	}
	if _, err := w.server.Create(t.Context(), Event{Project: "group/app", Source: "web", Ref: "refs/heads/main"}); err == nil {
		t.Error("an empty repository makes a pipeline")
	}
	dir := w.clone("app")
	w.commit(dir, "First [skip ci]", map[string]string{".gitlab-ci.yml": "a: {script: ['echo $CI_PIPELINE_SOURCE $WHO']}\n"})
	w.push(dir, 0, "HEAD")
	w.queueIsEmpty()
	if w.newest() != 0 {
		t.Error("a commit that says to be skipped has a pipeline")
	}
	made, err := w.server.Create(t.Context(), Event{
		Project: "group/app", Source: "web", Ref: "refs/heads/main", User: "bob", IgnoreSkip: true,
		Variables: pipeline.Variables{{Name: "WHO", Value: "bob", Origin: pipeline.OriginPipeline}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.await(0, 1)
	w.wants(made, "web main success: a/1=success")
	if log := w.log(made, "a"); !strings.Contains(log, "\nweb bob\n") {
		t.Errorf("%s", log)
	}
}
