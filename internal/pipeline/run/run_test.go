package run

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/pipeline/executor/shell"
	"keelson.dev/keelson/internal/pipeline/schedule"
)

// recorder is a sink that remembers.
type recorder struct {
	mu     sync.Mutex
	events []Event
	logs   map[string]*bytes.Buffer // by job
	on     func(e Event)
	onLog  func(j JobRef, log string)
}

func (r *recorder) Event(e Event) {
	r.mu.Lock()
	r.events = append(r.events, e)
	r.mu.Unlock()
	if r.on != nil {
		r.on(e)
	}
}

func (r *recorder) Log(j JobRef, p []byte) {
	r.mu.Lock()
	if r.logs == nil {
		r.logs = map[string]*bytes.Buffer{}
	}
	if r.logs[j.Job] == nil {
		r.logs[j.Job] = &bytes.Buffer{}
	}
	r.logs[j.Job].Write(p)
	text := r.logs[j.Job].String()
	r.mu.Unlock()
	if r.onLog != nil {
		r.onLog(j, text)
	}
}

func (r *recorder) log(job string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.logs[job] == nil {
		return ""
	}
	return r.logs[job].String()
}

// statuses gives those that a job came to, in their order.
func (r *recorder) statuses(job string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, e := range r.events {
		if e.Kind == KindJob && e.Job == job {
			out = append(out, string(e.To))
		}
	}
	return strings.Join(out, " ")
}

// bench is what a test plays with.
type bench struct {
	t    testing.TB
	dir  string
	sink *recorder
	p    Pipeline
	o    Options
}

func newBench(t testing.TB) *bench {
	t.Helper()
	x, err := shell.New(shell.Options{Grace: time.Second, IgnoreServices: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	store, err := artifact.Open(t.TempDir(), artifact.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	b := &bench{t: t, dir: t.TempDir(), sink: &recorder{}}
	b.p = Pipeline{Executor: x, Sources: InPlace(b.dir), Project: "group/project"}
	b.o = Options{Sink: b.sink, Store: store}
	return b
}

func (b *bench) run(g *pipeline.Graph) Outcome {
	b.t.Helper()
	return b.runIn(context.Background(), g)
}

func (b *bench) runIn(ctx context.Context, g *pipeline.Graph) Outcome {
	b.t.Helper()
	b.p.Graph = g
	out, err := Run(ctx, b.p, b.o)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

// want holds the statuses of the pipeline and of its jobs.
func (b *bench) want(out Outcome, want string) {
	b.t.Helper()
	have := string(out.Status) + ":"
	for _, j := range out.Jobs {
		have += fmt.Sprintf(" %s=%s", j.Name, j.Status)
	}
	if have != want {
		b.t.Errorf("have %s\nwant %s", have, want)
		for _, j := range out.Jobs {
			b.t.Logf("%s: %s %s %s\n%s", j.Name, j.Why, j.Reason, j.Message, b.sink.log(j.Name))
		}
	}
}

// graph makes a pipeline of stages in the order of their coming.
func graph(jobs ...pipeline.Job) *pipeline.Graph {
	g := &pipeline.Graph{Source: "push", Ref: "main", SHA: "1234", Jobs: jobs}
	for i := range g.Jobs {
		j := &g.Jobs[i]
		j.Base = j.Name
		if j.When == "" {
			j.When = pipeline.OnSuccess
		}
		if !slices.Contains(g.Stages, j.Stage) {
			g.Stages = append(g.Stages, j.Stage)
		}
	}
	return g
}

func job(name, stage string, script ...string) pipeline.Job {
	return pipeline.Job{Name: name, Stage: stage, Script: script}
}

func with(j pipeline.Job, change func(j *pipeline.Job)) pipeline.Job {
	change(&j)
	return j
}

func needs(names ...string) func(j *pipeline.Job) {
	return func(j *pipeline.Job) {
		j.DAG = true
		for _, n := range names {
			j.Needs = append(j.Needs, pipeline.Need{Job: n, Artifacts: true})
		}
	}
}

func TestStages(t *testing.T) {
	b := newBench(t)
	out := b.run(graph(
		job("compile", "build", "echo compiled > out.txt"),
		job("check", "test", "grep compiled out.txt"),
		with(job("flaky", "test", "exit 7"), func(j *pipeline.Job) { j.AllowFailure.Allowed = true }),
		with(job("rescue", "deploy", "echo rescued"), func(j *pipeline.Job) { j.When = pipeline.OnFailure }),
		job("ship", "deploy", "exit 3"),
		with(job("sweep", ".post", "echo swept"), func(j *pipeline.Job) { j.When = pipeline.Always }),
	))
	b.want(out, "failed: compile=success check=success flaky=failed rescue=skipped ship=failed sweep=success")
	if r := out.Jobs[2]; !r.Allowed || r.ExitCode != 7 || r.Reason != pipeline.ScriptFailure || r.Failed() || r.Message == "" {
		t.Errorf("flaky: %+v", r)
	}
	if r := out.Jobs[4]; r.Allowed || r.ExitCode != 3 || !r.Failed() || r.ID == 0 || r.Duration <= 0 {
		t.Errorf("ship: %+v", r)
	}
	if have := b.sink.statuses("ship"); have != "pending running failed" {
		t.Errorf("ship was %s", have)
	}
}

// TestIndependentNeed starts a job as soon as its own need is over, whatever else is under way.
func TestIndependentNeed(t *testing.T) {
	b := newBench(t)
	var over, started time.Time
	b.sink.on = func(e Event) {
		switch {
		case e.Job == "fast" && e.To == pipeline.StatusSuccess:
			over = time.Now()
		case e.Job == "after-fast" && e.To == pipeline.StatusRunning:
			started = time.Now()
		}
	}
	out := b.run(graph(
		with(job("slow", "build", "sleep 1"), needs()),
		with(job("fast", "build", "true"), needs()),
		with(job("after-fast", "test", "true"), needs("fast")),
	))
	b.want(out, "success: slow=success fast=success after-fast=success")
	if took := started.Sub(over); took > 50*time.Millisecond || started.IsZero() {
		t.Errorf("after-fast was started %v after its need", took)
	}
	if out.Finished.Sub(out.Started) > 3*time.Second {
		t.Errorf("the whole took %v", out.Finished.Sub(out.Started))
	}
}

// TestBound holds how many jobs run at a time.
func TestBound(t *testing.T) {
	b := newBench(t)
	b.o.Jobs = 2
	running, most := 0, 0
	b.sink.on = func(e Event) {
		if e.Kind != KindJob {
			return
		}
		if e.To == pipeline.StatusRunning {
			running++
			most = max(most, running)
		}
		if e.From == pipeline.StatusRunning {
			running--
		}
	}
	var jobs []pipeline.Job
	for i := range 6 {
		jobs = append(jobs, job(fmt.Sprint("job", i), "test", "sleep 0.05; echo slot=$CI_CONCURRENT_ID"))
	}
	if out := b.run(graph(jobs...)); out.Status != pipeline.StatusSuccess || most != 2 {
		t.Errorf("%s, %d at a time", out.Status, most)
	}
	for i := range 6 {
		if log := b.sink.log(fmt.Sprint("job", i)); !strings.Contains(log, "slot=0") && !strings.Contains(log, "slot=1") {
			t.Errorf("job%d: %s", i, log)
		}
	}
}

func TestRetries(t *testing.T) {
	b := newBench(t)
	out := b.run(graph(
		with(job("flaky", "build", `echo x >> tries; test $(wc -l < tries) = 3`), func(j *pipeline.Job) { j.Retry.Max = 2 }),
		with(job("by-code", "build", "exit 137"), func(j *pipeline.Job) {
			j.Retry = pipeline.Retry{Max: 1, ExitCodes: []int{137}}
			j.AllowFailure = pipeline.AllowFailure{Allowed: true, ExitCodes: []int{137}}
		}),
		job("ship", "deploy", "true"),
	))
	b.want(out, "success: flaky=success by-code=failed ship=success")
	if have := b.sink.statuses("flaky"); have != "pending running failed created pending running failed created pending running success" {
		t.Errorf("flaky was %s", have)
	}
	if out.Jobs[0].Attempt != 3 || out.Jobs[1].Attempt != 2 || !out.Jobs[1].Allowed {
		t.Errorf("%+v\n%+v", out.Jobs[0], out.Jobs[1])
	}
	attempts, ids := []int{}, map[int64]bool{}
	for _, e := range b.sink.events {
		if e.Job == "flaky" && e.Result != nil {
			attempts = append(attempts, e.Attempt)
			ids[e.ID] = true
			if e.To == pipeline.StatusFailed && (e.Result.ExitCode != 1 || e.Result.Reason != pipeline.ScriptFailure || e.Result.Attempt != e.Attempt) {
				t.Errorf("attempt %d: %+v", e.Attempt, e.Result)
			}
		}
	}
	if !slices.Equal(attempts, []int{1, 2, 3}) || len(ids) != 3 {
		t.Errorf("attempts %v with ids %v", attempts, ids)
	}
}

// TestGates plays the gates that are named and leaves the others.
func TestGates(t *testing.T) {
	gate := func(j *pipeline.Job) { j.When = pipeline.Manual }
	g := graph(
		job("compile", "build", "true"),
		with(job("staging", "deploy", "true"), gate),
		with(job("later", "verify", "true"), func(j *pipeline.Job) { j.When, j.StartIn = pipeline.Delayed, pipeline.Duration(time.Hour) }),
		with(job("live", "live", "true"), gate),
		job("tell", "tell", "true"),
	)
	b := newBench(t)
	out := b.run(g)
	b.want(out, "manual: compile=success staging=manual later=created live=created tell=created")
	if !slices.Equal(out.Waiting, []string{"staging"}) {
		t.Errorf("waits for %v", out.Waiting)
	}
	b = newBench(t)
	b.p.Play = []string{"staging", "later"}
	out = b.run(g)
	b.want(out, "manual: compile=success staging=success later=success live=manual tell=created")
	b.p.Play = []string{"staging", "later", "live"}
	b.want(b.run(g), "success: compile=success staging=success later=success live=success tell=success")
}

func TestDelayed(t *testing.T) {
	b := newBench(t)
	out := b.run(graph(with(job("later", "deploy", "true"), func(j *pipeline.Job) { j.When, j.StartIn = pipeline.Delayed, pipeline.Duration(300*time.Millisecond) })))
	b.want(out, "success: later=success")
	if took := out.Finished.Sub(out.Started); took < 300*time.Millisecond {
		t.Errorf("it did not wait: %v", took)
	}
}

// TestArtifacts passes files, caches and dotenv variables on.
func TestArtifacts(t *testing.T) {
	b := newBench(t)
	b.p.Sources = Isolated(b.dir, t.TempDir())
	if err := os.WriteFile(filepath.Join(b.dir, "source.txt"), []byte("source\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := graph(
		with(job("compile", "build", "cat source.txt > bin", "echo VERSION=1.2 > build.env", "mkdir deps && echo dep > deps/a"), func(j *pipeline.Job) {
			j.Artifacts = &pipeline.Artifacts{Paths: []string{"bin"}, Reports: map[string][]string{"dotenv": {"build.env"}}}
			j.Caches = []pipeline.Cache{{Key: "deps", Paths: []string{"deps/"}}}
		}),
		with(job("check", "test", "cat bin deps/a", `echo "version $VERSION of $WHO"`, "test ! -e junk"), func(j *pipeline.Job) {
			j.Caches = []pipeline.Cache{{Key: "deps", Paths: []string{"deps/"}, Policy: "pull"}}
			j.Variables = pipeline.Variables{{Name: "VERSION", Value: "file", Origin: pipeline.OriginJob}, {Name: "WHO", Value: "project", Origin: pipeline.OriginProject}}
		}),
		with(job("lint", "test", "test ! -e bin"), needs()),
		with(job("strong", "test", "test $VERSION = pipeline"), func(j *pipeline.Job) {
			j.Variables = pipeline.Variables{{Name: "VERSION", Value: "pipeline", Origin: pipeline.OriginPipeline}}
		}),
	)
	b.want(b.run(g), "success: compile=success check=success lint=success strong=success")
	if log := b.sink.log("check"); !strings.Contains(log, "source\n") || !strings.Contains(log, "dep\n") || !strings.Contains(log, "version 1.2 of project") {
		t.Errorf("check: %s", log)
	}
	if entries, _ := os.ReadDir(b.dir); len(entries) != 1 {
		t.Errorf("the working tree was written to: %v", entries)
	}
}

// TestReports hands test results and coverage on.
func TestReports(t *testing.T) {
	b := newBench(t)
	out := b.run(graph(with(job("check", "test",
		`echo '<testsuite><testcase name="a"/><testcase name="b"><failure message="no"/></testcase></testsuite>' > j.xml`, "echo total: 81.5%"),
		func(j *pipeline.Job) {
			j.Coverage = `/total: (\d+\.\d+)%/`
			j.Artifacts = &pipeline.Artifacts{Reports: map[string][]string{"junit": {"j.xml"}}}
		})))
	b.want(out, "success: check=success")
	r := out.Jobs[0]
	if r.Coverage == nil || *r.Coverage != 81.5 || r.Tests == nil || r.Tests.Total != 2 || r.Tests.Failed != 1 {
		t.Errorf("%+v", r)
	}
}

// TestMissingArtifacts fails a job whose dependency is gone.
func TestMissingArtifacts(t *testing.T) {
	b := newBench(t)
	b.sink.on = func(e Event) {
		if e.Job == "compile" && e.To == pipeline.StatusSuccess {
			if err := b.o.Store.Erase(context.Background(), artifact.Key{Project: b.p.Project, Pipeline: "1", Job: "compile"}); err != nil {
				t.Error(err)
			}
		}
	}
	out := b.run(graph(
		with(job("compile", "build", "echo > bin"), func(j *pipeline.Job) { j.Artifacts = &pipeline.Artifacts{Paths: []string{"bin"}} }),
		with(job("check", "test", "true"), func(j *pipeline.Job) { j.Retry.Max = 2 }),
	))
	b.want(out, "failed: compile=success check=failed")
	if r := out.Jobs[1]; r.Reason != pipeline.MissingDependency || r.Attempt != 1 {
		t.Errorf("%+v", r)
	}
}

// TestCancel ends what runs, lets after_script run, and starts nothing more.
func TestCancel(t *testing.T) {
	b := newBench(t)
	b.o.Jobs = 1
	ctx, cancel := context.WithCancel(context.Background())
	b.sink.onLog = func(j JobRef, log string) {
		if j.Job == "long" && strings.Contains(log, "\nbegun") {
			cancel()
		}
	}
	start := time.Now()
	out := b.runIn(ctx, graph(
		with(job("long", "build", "echo begun", "sleep 60"), func(j *pipeline.Job) { j.AfterScript = []string{"echo after: $CI_JOB_STATUS"} }),
		job("queued", "build", "echo never"),
		with(job("sweep", "test", "true"), func(j *pipeline.Job) { j.When = pipeline.Always }),
	))
	b.want(out, "canceled: long=canceled queued=canceled sweep=canceled")
	if have := b.sink.statuses("long"); have != "pending running canceling canceled" {
		t.Errorf("long was %s", have)
	}
	if log := b.sink.log("long"); !strings.Contains(log, "after: canceled") {
		t.Errorf("long: %s", log)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestCanceledBefore starts nothing.
func TestCanceledBefore(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b.want(b.runIn(ctx, graph(job("a", "build", "touch ran"), job("b", "test", "true"))), "canceled: a=canceled b=canceled")
	if _, err := os.Stat(filepath.Join(b.dir, "ran")); err == nil {
		t.Error("it ran")
	}
}

// TestAbort ends everything at once.
func TestAbort(t *testing.T) {
	b := newBench(t)
	abort := make(chan struct{})
	b.o.Abort = abort
	var once sync.Once
	ctx, cancel := context.WithCancel(context.Background())
	b.sink.onLog = func(_ JobRef, log string) {
		if strings.Contains(log, "\nbegun") {
			once.Do(func() { cancel(); close(abort) })
		}
	}
	out := b.runIn(ctx, graph(with(job("long", "build", "trap '' TERM; echo begun", "sleep 60"), func(j *pipeline.Job) { j.AfterScript = []string{"echo after"} })))
	b.want(out, "canceled: long=canceled")
	if log := b.sink.log("long"); strings.Contains(log, "after\n") {
		t.Errorf("long: %s", log)
	}
}

func TestTimeout(t *testing.T) {
	b := newBench(t)
	out := b.run(graph(with(job("long", "build", "sleep 60"), func(j *pipeline.Job) { j.Timeout = pipeline.Duration(200 * time.Millisecond) })))
	b.want(out, "failed: long=failed")
	if out.Jobs[0].Reason != pipeline.ExecutionTimeout {
		t.Errorf("%+v", out.Jobs[0])
	}
}

// TestAutoCancel ends the others when a job fails.
func TestAutoCancel(t *testing.T) {
	b := newBench(t)
	g := graph(job("long", "build", "sleep 60"), job("bad", "build", "sleep 0.2; exit 1"), job("ship", "deploy", "true"))
	g.AutoCancel.OnJobFailure = "all"
	b.want(b.run(g), "failed: long=canceled bad=failed ship=canceled")
}

// TestResourceGroup runs the jobs of a group one after the other.
func TestResourceGroup(t *testing.T) {
	b := newBench(t)
	var jobs []pipeline.Job
	for i := range 3 {
		jobs = append(jobs, with(job(fmt.Sprint("deploy", i), "deploy", "mkdir lock; sleep 0.1; rmdir lock"), func(j *pipeline.Job) { j.ResourceGroup = "live" }))
	}
	b.want(b.run(graph(jobs...)), "success: deploy0=success deploy1=success deploy2=success")
	if have := b.sink.statuses("deploy2"); have != "waiting_for_resource pending running success" {
		t.Errorf("deploy2 was %s", have)
	}
}

// children compiles child pipelines from a list.
type children map[string]*pipeline.Graph

func (c children) Compile(ctx context.Context, t Trigger) (*pipeline.Graph, error) {
	inc := t.Job.Trigger.Include[0]
	if inc.Artifact != "" {
		text, err := t.File(ctx, inc.Job, inc.Artifact)
		if err != nil {
			return nil, err
		}
		return graph(job("generated", "test", string(text))), nil
	}
	g, ok := c[inc.Local]
	if !ok {
		return nil, fmt.Errorf("%s is not there", inc.Local)
	}
	own := *g
	own.Jobs = slices.Clone(g.Jobs)
	for i := range own.Jobs {
		own.Jobs[i].Variables = t.Variables
	}
	return &own, nil
}

func trigger(name, stage, file, strategy string) pipeline.Job {
	return pipeline.Job{Name: name, Stage: stage, Trigger: &pipeline.Trigger{Include: []pipeline.Include{{Local: file}}, Strategy: strategy, ForwardYAML: true}}
}

func TestChildren(t *testing.T) {
	b := newBench(t)
	b.o.Jobs = 1
	b.p.Downstream = children{
		"good.yml":  graph(job("c1", "test", "echo got $WHO"), job("c2", "later", "true")),
		"bad.yml":   graph(job("c3", "test", "exit 1")),
		"gate.yml":  graph(with(job("c4", "test", "true"), func(j *pipeline.Job) { j.When = pipeline.Manual })),
		"outer.yml": graph(trigger("t1", "test", "inner.yml", "depend")),
		"inner.yml": graph(trigger("t2", "test", "good.yml", "depend")),
	}
	out := b.run(graph(
		with(trigger("good", "build", "good.yml", "depend"), func(j *pipeline.Job) {
			j.Variables = pipeline.Variables{{Name: "NAME", Value: "ann", Origin: pipeline.OriginTop}, {Name: "WHO", Value: "$NAME", Origin: pipeline.OriginJob}}
		}),
		with(trigger("bad", "build", "bad.yml", "depend"), func(j *pipeline.Job) { j.AllowFailure.Allowed = true }),
		with(trigger("alone", "build", "bad.yml", ""), func(j *pipeline.Job) {}),
		job("after", "test", "true"),
	))
	b.want(out, "success: good=success bad=failed alone=success after=success")
	if log := b.sink.log("c1"); !strings.Contains(log, "got ann") {
		t.Errorf("c1: %s", log)
	}
	if c := out.Jobs[2].Child; c == nil || c.Status != pipeline.StatusFailed || c.Jobs[0].ExitCode != 1 {
		t.Errorf("alone: %+v", c)
	}
	if r := out.Jobs[1]; r.Reason != pipeline.DownstreamFailure || r.Message == "" {
		t.Errorf("bad: %+v", r)
	}
	b.want(b.run(graph(trigger("waits", "build", "gate.yml", "depend"), job("after", "test", "true"))), "running: waits=running after=created")
	out = b.run(graph(trigger("t0", "build", "outer.yml", "depend")))
	b.want(out, "failed: t0=failed")
	if r := out.Jobs[0].Child.Jobs[0].Child.Jobs[0]; r.Reason != "reached_max_descendant_pipelines_depth" {
		t.Errorf("too deep: %+v", r)
	}
}

// TestChildOfArtifact plays what a job has written.
func TestChildOfArtifact(t *testing.T) {
	b := newBench(t)
	b.p.Downstream = children{}
	made := pipeline.Job{Name: "made", Stage: "test", Trigger: &pipeline.Trigger{Include: []pipeline.Include{{Artifact: "gen.yml", Job: "generate"}}, Strategy: "depend"}}
	none := pipeline.Job{Name: "none", Stage: "test", Trigger: &pipeline.Trigger{Include: []pipeline.Include{{Artifact: "no.yml", Job: "generate"}}}}
	other := pipeline.Job{Name: "other", Stage: "test", Trigger: &pipeline.Trigger{Project: "a/b"}}
	out := b.run(graph(
		with(job("generate", "build", "echo 'echo made it' > gen.yml"), func(j *pipeline.Job) { j.Artifacts = &pipeline.Artifacts{Paths: []string{"gen.yml"}} }),
		made, none, other,
	))
	b.want(out, "failed: generate=success made=success none=failed other=failed")
	if log := b.sink.log("generated"); !strings.Contains(log, "made it") {
		t.Errorf("generated: %s", log)
	}
	for i, want := range map[int]string{2: `the artifacts of job "generate" have no file no.yml`, 3: "project a/b cannot be started"} {
		if r := out.Jobs[i]; !strings.Contains(r.Message, want) || !strings.Contains(b.sink.log(r.Name), want) {
			t.Errorf("%s: %+v", r.Name, r)
		}
	}
}

// TestForeign refuses what other pipelines have to give, unless it is optional.
func TestForeign(t *testing.T) {
	need := func(n pipeline.Need) func(j *pipeline.Job) {
		return func(j *pipeline.Job) { j.DAG, j.Needs = true, []pipeline.Need{n} }
	}
	b := newBench(t)
	out := b.run(graph(
		with(job("project", "test", "true"), need(pipeline.Need{Project: "a/b", Ref: "main", Job: "lib", Artifacts: true})),
		with(job("parent", "test", "true"), need(pipeline.Need{Pipeline: "$PARENT", Job: "lib", Artifacts: true})),
		with(job("mirror", "test"), need(pipeline.Need{Pipeline: "a/b"})),
		with(job("optional", "test", "true"), need(pipeline.Need{Project: "a/b", Ref: "main", Job: "lib", Artifacts: true, Optional: true})),
	))
	b.want(out, "failed: project=failed parent=failed mirror=failed optional=success")
	for i, want := range []string{`the artifacts of job "lib" of project a/b are needed`, `the artifacts of job "lib" of pipeline $PARENT are needed`, "the status of pipeline a/b is needed"} {
		if r := out.Jobs[i]; r.Reason != pipeline.MissingDependency || !strings.Contains(r.Message, want) {
			t.Errorf("%+v", r)
		}
	}
	if log := b.sink.log("optional"); !strings.Contains(log, "WARNING: the artifacts") {
		t.Errorf("optional: %s", log)
	}
}

// TestDotenvToChild hands on what a job has found out.
func TestDotenvToChild(t *testing.T) {
	b := newBench(t)
	b.p.Downstream = children{"child.yml": graph(job("child", "test", "echo got $TAG"))}
	b.run(graph(
		with(job("find", "build", "echo VERSION=1.2 > e"), func(j *pipeline.Job) {
			j.Artifacts = &pipeline.Artifacts{Reports: map[string][]string{"dotenv": {"e"}}}
		}),
		with(trigger("start", "test", "child.yml", "depend"), func(j *pipeline.Job) {
			j.Variables = pipeline.Variables{{Name: "TAG", Value: "v$VERSION", Origin: pipeline.OriginJob}}
		}),
	))
	if log := b.sink.log("child"); !strings.Contains(log, "got v1.2") {
		t.Errorf("child: %s", log)
	}
}

// TestCancelChildren ends a child pipeline with the job that waits for it.
func TestCancelChildren(t *testing.T) {
	b := newBench(t)
	b.p.Downstream = children{"long.yml": graph(job("long", "test", "echo begun", "sleep 60"))}
	commands := make(chan Command, 1)
	b.o.Commands = commands
	var once sync.Once
	b.sink.onLog = func(_ JobRef, log string) {
		if strings.Contains(log, "\nbegun") {
			once.Do(func() { commands <- Command{Event: schedule.Event{Kind: schedule.Cancel, Jobs: []string{"outer"}}} })
		}
	}
	out := b.run(graph(trigger("outer", "build", "long.yml", "depend"), job("after", "test", "true")))
	b.want(out, "canceled: outer=canceled after=skipped")
	b.want(*out.Jobs[0].Child, "canceled: long=canceled")
}

// TestCommands retries and plays while the pipeline runs, and refuses what makes no sense.
func TestCommands(t *testing.T) {
	b := newBench(t)
	commands, replies := make(chan Command, 10), make(chan error, 10)
	b.o.Commands = commands
	b.sink.on = func(e Event) {
		if e.Job == "bad" && e.To == pipeline.StatusFailed && e.Attempt == 1 {
			commands <- Command{Event: schedule.Event{Kind: schedule.Retry, Jobs: []string{"bad"}}, Reply: replies}
			commands <- Command{Event: schedule.Event{Kind: schedule.Play, Jobs: []string{"long"}}, Reply: replies}
			commands <- Command{Pipeline: 99, Event: schedule.Event{Kind: schedule.Retry}, Reply: replies}
			close(commands)
		}
	}
	out := b.run(graph(job("long", "build", "sleep 0.5"), job("bad", "build", "echo x >> tries; test $(wc -l < tries) = 2"), job("after", "test", "true")))
	b.want(out, "success: long=success bad=success after=success")
	for _, want := range []string{"<nil>", `play: job "long" is neither manual nor delayed, but on_success; retry runs it again`, "there is no pipeline 99 here"} {
		if err := <-replies; fmt.Sprint(err) != want && !strings.HasPrefix(fmt.Sprint(err), `play: job "long" is running`) {
			t.Errorf("have %v, want %s", err, want)
		}
	}
}

// TestResume goes on where another process was.
func TestResume(t *testing.T) {
	b := newBench(t)
	g := graph(job("a", "build", "true"), with(job("b", "build", "true"), func(j *pipeline.Job) { j.Retry = pipeline.Retry{Max: 1, When: []string{"runner_system_failure"}} }), job("c", "test", "true"))
	s := schedule.New(g, time.Now())
	for _, e := range []schedule.Event{{Kind: schedule.Run, Jobs: []string{"a", "b"}}, {Kind: schedule.Success, Jobs: []string{"a"}}} {
		if _, err := s.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if b.p.State, err = schedule.Resume(g, data); err != nil {
		t.Fatal(err)
	}
	b.want(b.run(g), "success: a=success b=success c=success")
	if log := b.sink.log("a"); log != "" {
		t.Errorf("a ran again: %s", log)
	}
}

// TestMasked holds that no masked value reaches the sink.
func TestMasked(t *testing.T) {
	b := newBench(t)
	var buf bytes.Buffer
	b.o.Sink = Tee(b.sink, JSON(&buf))
	out := b.run(graph(with(job("leak", "build", "echo $TOKEN", "exit 1"), func(j *pipeline.Job) {
		j.Variables = pipeline.Variables{{Name: "TOKEN", Value: "s3cr3t-value", Masked: true, Origin: pipeline.OriginProject}}
	})))
	all, _ := json.Marshal(out)
	if strings.Contains(b.sink.log("leak")+buf.String()+string(all), "s3cr3t") || !strings.Contains(b.sink.log("leak"), "[MASKED]") {
		t.Errorf("%s\n%s", b.sink.log("leak"), buf.String())
	}
}

// TestMaskedEverywhere holds that no masked value reaches the sink beside logs: by the name of a resource group, a pipeline or a test.
func TestMaskedEverywhere(t *testing.T) {
	b := newBench(t)
	var buf bytes.Buffer
	b.o.Sink = Tee(b.sink, JSON(&buf))
	masked := func(j *pipeline.Job) {
		j.Variables = pipeline.Variables{{Name: "TOKEN", Value: "s3cr3t+value", Masked: true, Origin: pipeline.OriginProject}}
		j.ResourceGroup = "rg-s3cr3t+value"
	}
	report := `<testsuites><testsuite name="s3cr3t%2Bvalue"><testcase name="of s3cr3t+value" classname="s3cr3t+value" file="s3cr3t+value">` +
		`<failure message="not s3cr3t%2Bvalue">czNjcjN0K3ZhbHVl</failure></testcase></testsuite></testsuites>`
	g := graph(
		with(job("first", "build", "sleep 0.2", "echo '"+report+"' > r.xml"), func(j *pipeline.Job) {
			masked(j)
			j.Artifacts = &pipeline.Artifacts{Reports: map[string][]string{"junit": {"r.xml"}}}
		}),
		with(job("second", "build", "true"), masked),
	)
	g.Name = "deploy s3cr3t+value"
	out := b.run(g)
	b.want(out, "success: first=success second=success")
	all, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	text := buf.String() + string(all)
	for _, secret := range []string{"s3cr3t", "czNjcjN0"} {
		if i := strings.Index(text, secret); i >= 0 {
			t.Errorf("%s", text[max(0, i-200):i+50])
		}
	}
	for _, want := range []string{"waits for the resource group rg-[MASKED]", `"name":"of [MASKED]"`, `"name":"deploy [MASKED]"`} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not in\n%s", want, text)
		}
	}
}

// TestJSON shows the stream of events.
func TestJSON(t *testing.T) {
	b := newBench(t)
	var buf bytes.Buffer
	b.o.Sink = JSON(&buf)
	b.run(graph(job("hello", "build", "echo hello"), job("bye", "test", "printf bye; exit 2")))
	var have []string
	for line := range strings.Lines(buf.String()) {
		var e Event
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.At.IsZero() {
			t.Fatalf("%v: %s", err, line)
		}
		switch e.Kind {
		case KindLog:
			if e.Text == "hello" || e.Text == "bye" {
				have = append(have, "log "+e.Job+" "+e.Text)
			}
		case KindStart, KindEnd:
			if e.Section == "get_sources" && e.Job == "hello" {
				have = append(have, fmt.Sprint(e.Kind, " ", e.Text))
			}
		default:
			have = append(have, strings.TrimSpace(fmt.Sprint(e.Kind, " ", e.Stage, " ", e.Job, " ", e.To)))
		}
	}
	want := `pipeline   pending
job build hello pending
job build hello running
stage build  running
pipeline   running
section_start Getting the sources
section_end 
log hello hello
job build hello success
job test bye pending
stage build  success
stage test  pending
job test bye running
stage test  running
log bye bye
job test bye failed
stage test  failed
pipeline   failed`
	if got := strings.Join(have, "\n"); got != want {
		t.Errorf("have:\n%s", got)
	}
}

func TestSelect(t *testing.T) {
	g := graph(
		job("a", "one", "true"), job("b", "one", "true"),
		with(job("c", "two", "true"), needs("a")),
		with(job("gate", "two", "true"), func(j *pipeline.Job) { j.When = pipeline.Manual }),
		with(job("d", "three", "true"), needs("c", "gate")),
		job("e", "three", "true"),
	)
	for _, c := range []struct {
		names string
		needs bool
		want  string
	}{
		{"c", false, "two: c"},
		{"c", true, "one two: a c"},
		{"d", true, "one two three: a b c gate d"},
		{"e", true, "one two three: a b c gate e"},
		{"a e", false, "one three: a e"},
		{"d gate", false, "two three: gate! d"},
	} {
		out, err := Select(g, strings.Fields(c.names), c.needs)
		if err != nil {
			t.Fatal(err)
		}
		have := strings.Join(out.Stages, " ") + ":"
		for i, j := range out.Jobs {
			have += " " + j.Name
			if j.Name == "gate" && out.Jobs[i].When == pipeline.OnSuccess {
				have += "!"
			}
		}
		if have != c.want {
			t.Errorf("%s %v: have %s, want %s", c.names, c.needs, have, c.want)
		}
	}
	if _, err := Select(g, []string{"zzz"}, false); err == nil {
		t.Error("an unknown job was picked")
	}
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=a", "-c", "user.email=a@b"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return string(out)
}

// TestIsolated copies what Git knows and does not ignore, as it is now.
func TestIsolated(t *testing.T) {
	b := newBench(t)
	base := t.TempDir()
	b.p.Sources = Isolated(b.dir, base)
	git(t, b.dir, "init", "-q", "-b", "main")
	write := func(name, text string, mode os.FileMode) {
		if err := os.MkdirAll(filepath.Join(b.dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("a.txt", "committed", 0o644)
	write("gone.txt", "committed", 0o644)
	write(".gitignore", "ignored*", 0o644)
	git(t, b.dir, "add", "-A")
	git(t, b.dir, "commit", "-q", "-m", "first")
	write("a.txt", "changed", 0o644)
	write("sub/run.sh", "#!/bin/sh\necho ran", 0o755)
	write("ignored.txt", "x", 0o644)
	if err := os.Remove(filepath.Join(b.dir, "gone.txt")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a.txt", filepath.Join(b.dir, "link")); err != nil {
		t.Fatal(err)
	}
	script := []string{"cat a.txt link", "./sub/run.sh", "git status --porcelain", "git log --format=%s", "git rev-parse --abbrev-ref HEAD", "ls -A", "echo > made", "mkdir d && echo > d/f && chmod 0 d"}
	b.want(b.run(graph(job("one", "build", script...), job("two", "build", "test ! -e made"), with(job("none", "build", "test ! -e a.txt"), func(j *pipeline.Job) {
		j.Variables = pipeline.Variables{{Name: "GIT_STRATEGY", Value: "none"}}
	}))), "success: one=success two=success none=success")
	log := b.sink.log("one")
	for _, want := range []string{"changedchanged", "ran\n", " M a.txt", " D gone.txt", "?? sub/", "?? link", "first\n", "main\n"} {
		if !strings.Contains(log, want) {
			t.Errorf("%q is not in the log:\n%s", want, log)
		}
	}
	if strings.Contains(log, "ignored.txt") {
		t.Errorf("ignored files were copied:\n%s", log)
	}
	if rest, _ := os.ReadDir(base); len(rest) != 0 {
		t.Errorf("copies are left: %v", rest)
	}
	if status := git(t, b.dir, "status", "--porcelain"); strings.Contains(status, "made") {
		t.Errorf("the working tree was written to: %s", status)
	}
}

// TestIsolatedSubmodules copies submodules as GIT_SUBMODULE_STRATEGY says, and tells what it leaves out.
func TestIsolatedSubmodules(t *testing.T) {
	b := newBench(t)
	b.p.Sources = Isolated(b.dir, t.TempDir())
	source := filepath.Join(t.TempDir(), "source")
	write := func(dir, name, text string) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	repository := func(dir string) {
		write(dir, "file", "committed\n")
		write(dir, ".gitignore", "ignored\n")
		git(t, dir, "init", "-q", "-b", "main")
		git(t, dir, "add", "-A")
		git(t, dir, "commit", "-q", "-m", "of "+filepath.Base(dir))
	}
	repository(source)
	repository(source + "2")
	repository(b.dir)
	git(t, source, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", source+"2", "deep")
	git(t, source, "commit", "-q", "-m", "of source")
	for _, name := range []string{"lib/sub", "empty"} {
		git(t, b.dir, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", source, name)
	}
	git(t, b.dir, "-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init", "--recursive", "lib/sub")
	git(t, b.dir, "commit", "-q", "-m", "submodules")
	git(t, b.dir, "submodule", "--quiet", "deinit", "-f", "empty")
	sub := filepath.Join(b.dir, "lib", "sub")
	write(sub, "file", "changed\n")
	write(sub, "new", "")
	write(sub, "ignored", "")
	repository(filepath.Join(b.dir, "nested"))
	strategy := func(name, value string, script ...string) pipeline.Job {
		return with(job(name, "test", script...), func(j *pipeline.Job) {
			j.Variables = pipeline.Variables{{Name: "GIT_SUBMODULE_STRATEGY", Value: value}}
		})
	}
	b.want(b.run(graph(
		job("plain", "test", "test -d lib/sub && test ! -e lib/sub/file && test -d empty && test -d nested && test ! -e nested/file", "cat file"),
		strategy("normal", "normal", "cd lib/sub", "cat file", "test -e new && test ! -e ignored && test -d deep && test ! -e deep/file", "git status --porcelain", "git log --format=%s"),
		strategy("recursive", "recursive", "cat lib/sub/file lib/sub/deep/file"),
	)), "success: plain=success normal=success recursive=success")
	for name, want := range map[string]string{
		"plain":     "Not copied: empty (a submodule), lib/sub (a submodule), nested (a repository of its own); GIT_SUBMODULE_STRATEGY is none\n",
		"normal":    "Not copied: empty (not checked out), lib/sub/deep (a submodule), nested (a repository of its own); GIT_SUBMODULE_STRATEGY is normal\n",
		"recursive": "Not copied: empty (not checked out), nested (a repository of its own); GIT_SUBMODULE_STRATEGY is recursive\n",
	} {
		if log := b.sink.log(name); !strings.Contains(log, want) {
			t.Errorf("%s: %q is not in the log:\n%s", name, want, log)
		}
	}
	if log := b.sink.log("normal"); !strings.Contains(log, " M file\n?? new\n") {
		t.Errorf("the submodule is no repository:\n%s", log)
	}
}

// TestManyAtOnce ends no job with another one that works in the same directory.
func TestManyAtOnce(t *testing.T) {
	b := newBench(t)
	b.o.Jobs = 16
	var jobs []pipeline.Job
	for i := range 200 {
		jobs = append(jobs, job(fmt.Sprint("job", i), "test", "echo hi"))
	}
	for _, j := range b.run(graph(jobs...)).Jobs {
		if j.Status != pipeline.StatusSuccess {
			t.Errorf("%s: %s %s\n%s", j.Name, j.Why, j.Message, b.sink.log(j.Name))
		}
	}
}

// TestIsolatedInHook copies a working tree while a hook of its repository runs: neither the copies nor the jobs work on that one.
func TestIsolatedInHook(t *testing.T) {
	b := newBench(t)
	b.p.Sources = Isolated(b.dir, t.TempDir())
	git(t, b.dir, "init", "-q", "-b", "main")
	for _, name := range []string{"a.txt", "b.txt"} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		git(t, b.dir, "add", name)
		if name == "a.txt" {
			git(t, b.dir, "commit", "-q", "-m", "first")
		}
	}
	index := filepath.Join(b.dir, ".git", "index")
	before, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_DIR", filepath.Join(b.dir, ".git"))
	t.Setenv("GIT_INDEX_FILE", index)
	t.Setenv("GIT_PREFIX", "")
	out := b.run(graph(job("one", "build", "if env | grep '^GIT_'; then exit 1; fi", "git status --porcelain", "git add b.txt", "git rm -q a.txt")))
	b.want(out, "success: one=success")
	if log := b.sink.log("one"); !strings.Contains(log, "?? b.txt") {
		t.Errorf("the copy's index is not its commit's:\n%s", log)
	}
	if after, err := os.ReadFile(index); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the index was written to: %v", err)
	}
}

// TestIsolatedOrigin gives copies the remote of the working tree, which is never the working tree itself.
func TestIsolatedOrigin(t *testing.T) {
	b := newBench(t)
	b.p.Sources = Isolated(b.dir, t.TempDir())
	git(t, b.dir, "init", "-q", "-b", "main")
	git(t, b.dir, "commit", "-q", "--allow-empty", "-m", "first")
	push := []string{"git commit -q --allow-empty -m job", "if git push -q origin HEAD:pushed; then exit 1; fi", "echo origin: $(git remote get-url origin || echo none)"}
	author := func(j *pipeline.Job) {
		j.Variables = pipeline.Variables{{Name: "GIT_AUTHOR_NAME", Value: "a"}, {Name: "GIT_AUTHOR_EMAIL", Value: "a@b"}, {Name: "GIT_COMMITTER_NAME", Value: "a"}, {Name: "GIT_COMMITTER_EMAIL", Value: "a@b"}}
	}
	for _, c := range []struct{ origin, want string }{
		{"", "none"},
		{"https://user@127.0.0.1:1/group/app.git", "https://user@127.0.0.1:1/group/app.git"},
		{"../app.git", filepath.Join(filepath.Dir(b.dir), "app.git")},
	} {
		if c.origin != "" {
			git(t, b.dir, "config", "remote.origin.url", c.origin)
		}
		b.want(b.run(graph(with(job("one", "build", push...), author))), "success: one=success")
		if log := b.sink.log("one"); !strings.Contains(log, "origin: "+c.want+"\n") {
			t.Errorf("%q:\n%s", c.origin, log)
		}
		if branches := git(t, b.dir, "branch", "--list", "pushed"); branches != "" {
			t.Errorf("%q: a job has pushed to the working tree", c.origin)
		}
	}
}

// TestIsolatedBecameLink copies a tree in which tracked directories have become a link and a file.
func TestIsolatedBecameLink(t *testing.T) {
	b := newBench(t)
	b.p.Sources = Isolated(b.dir, t.TempDir())
	outside := t.TempDir()
	git(t, b.dir, "init", "-q", "-b", "main")
	for _, name := range []string{"linked/deep/a.txt", "filed/a.txt", "kept/a.txt"} {
		if err := os.MkdirAll(filepath.Join(b.dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte("tracked"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	git(t, b.dir, "add", "-A")
	git(t, b.dir, "commit", "-q", "-m", "first")
	for _, name := range []string{"linked", "filed"} {
		if err := os.RemoveAll(filepath.Join(b.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(outside, "deep"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{filepath.Join(outside, "deep/a.txt"): "outside", filepath.Join(b.dir, "filed"): "file"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(b.dir, "linked")); err != nil {
		t.Fatal(err)
	}
	out := b.run(graph(job("one", "build", "test -L linked", "test -f filed", "cat kept/a.txt", "git status --porcelain")))
	b.want(out, "success: one=success")
	if log := b.sink.log("one"); !strings.Contains(log, " D linked/deep/a.txt") {
		t.Errorf("%s", log)
	}
}

// What nobody does here is said in the job's log.
func TestNobodyDoesIt(t *testing.T) {
	b := newBench(t)
	b.run(&pipeline.Graph{Stages: []string{"test"}, Jobs: []pipeline.Job{{
		Name: "job", Stage: "test", Script: []string{"true"}, Identity: "google_cloud",
		Environment: &pipeline.Environment{Name: "production", Kubernetes: map[string]any{"agent": "group/project:agent"}},
	}}})
	for _, want := range []string{"(identity: google_cloud)", "(environment:kubernetes)"} {
		if log := b.sink.log("job"); !strings.Contains(log, want) {
			t.Errorf("no %s in\n%s", want, log)
		}
	}
}
