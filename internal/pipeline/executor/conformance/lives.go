package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
)

// patience is how long something that ends at once may take on a busy machine.
const patience = 20 * time.Second

func hooks(t *testing.T, setup Setup) {
	x, dir := setup(t)
	job := after(script("echo script"), "echo after")
	job.Dir, job.PreGet = dir, []string{`echo "pre get: $(basename "$CI_PROJECT_DIR")"`, "X=lost"}
	job.Prepare = func(_ context.Context, trace *executor.Trace) error {
		trace.Printf("prepare")
		return nil
	}
	job.Finish = func(ctx context.Context, trace *executor.Trace, r executor.Result) error {
		trace.Printf("finish: %s", r.Status)
		return ctx.Err()
	}
	o := play(t, x, t.Context(), job)
	o.is(t, pipeline.StatusSuccess, "", 0)
	o.hasLines(t, "pre get: "+path.Base(dir), "prepare", "script", "after", "finish: success", "Job succeeded")

	job.PreGet = []string{"exit 4"}
	o = play(t, x, t.Context(), job)
	o.is(t, pipeline.StatusFailed, pipeline.ScriptFailure, 4)
	if strings.Contains(o.plain, "\nprepare") || strings.Contains(o.plain, "\nscript") {
		t.Error("the job goes on after hooks:pre_get_sources_script failed")
	}
}

func prepareFails(t *testing.T, setup Setup) {
	x, dir := setup(t)
	job := after(script("echo never"), "echo never")
	job.Dir = dir
	job.Prepare = func(context.Context, *executor.Trace) error {
		return fmt.Errorf("artifacts: %w", &executor.Failure{Reason: pipeline.MissingDependency, Err: errors.New("expired")})
	}
	o := play(t, x, t.Context(), job)
	o.is(t, pipeline.StatusFailed, pipeline.MissingDependency, executor.NoExitCode)
	if o.Message != "artifacts: expired" || strings.Contains(o.plain, "never") {
		t.Errorf("message %q", o.Message)
	}
	job.Prepare = func(context.Context, *executor.Trace) error { return errors.New("no disk") }
	play(t, x, t.Context(), job).is(t, pipeline.StatusFailed, pipeline.RunnerSystemFailure, executor.NoExitCode)
}

func verify(t *testing.T, setup Setup) {
	x, dir := setup(t)
	job := after(script("echo script"), "echo after: $CI_JOB_STATUS")
	job.Dir = dir
	job.Verify = func(_ context.Context, trace *executor.Trace) error {
		trace.Printf("verify")
		return nil
	}
	o := play(t, x, t.Context(), job)
	o.is(t, pipeline.StatusSuccess, "", 0)
	o.hasLines(t, "script", "verify", "after: success", "Job succeeded")

	job.Verify = func(context.Context, *executor.Trace) error {
		return &executor.Failure{Reason: pipeline.ScriptFailure, Err: errors.New("deployment/shop is not healthy")}
	}
	o = play(t, x, t.Context(), job)
	o.is(t, pipeline.StatusFailed, pipeline.ScriptFailure, executor.NoExitCode)
	o.hasLines(t, "script", "after: failed", "ERROR: Job failed: deployment/shop is not healthy")

	job.Verify = func(ctx context.Context, _ *executor.Trace) error { <-ctx.Done(); return ctx.Err() }
	o = play(t, x, t.Context(), limit(x, job, 2*time.Second))
	o.is(t, pipeline.StatusFailed, pipeline.ExecutionTimeout, executor.NoExitCode)
	o.hasLines(t, "script", "after: timedout")

	job.Script, job.Verify = []string{"exit 3"}, func(context.Context, *executor.Trace) error { t.Error("a failed script is verified"); return nil }
	play(t, x, t.Context(), job).is(t, pipeline.StatusFailed, pipeline.ScriptFailure, 3)
}

func finishFails(t *testing.T, setup Setup) {
	x, dir := setup(t)
	job := script("true")
	job.Dir = dir
	job.Finish = func(context.Context, *executor.Trace, executor.Result) error { return errors.New("no disk") }
	play(t, x, t.Context(), job).is(t, pipeline.StatusFailed, pipeline.RunnerSystemFailure, executor.NoExitCode)
	job.Script = []string{"exit 3"}
	play(t, x, t.Context(), job).is(t, pipeline.StatusFailed, pipeline.ScriptFailure, 3)
}

func timeLimit(t *testing.T, setup Setup) {
	x, dir := setup(t)
	job := limit(x, after(script("echo begun", "sleep 60", "echo never"), "echo after: $CI_JOB_STATUS"), time.Second)
	job.Dir = dir
	job.Finish = func(ctx context.Context, trace *executor.Trace, _ executor.Result) error {
		trace.Printf("finish: %v", ctx.Err())
		return nil
	}
	o := play(t, x, t.Context(), job)
	o.is(t, pipeline.StatusFailed, pipeline.ExecutionTimeout, executor.NoExitCode)
	o.hasLines(t, "begun", "after: timedout", "finish: <nil>", "ERROR: Job failed: execution took longer than "+job.Limit().String())
	if o.Duration < job.Limit() || o.Duration > patience {
		t.Errorf("it took %s", o.Duration)
	}
}

func scriptTimeLimit(t *testing.T, setup Setup) {
	x, dir := setup(t)
	job := with(after(script("sleep 60"), "echo after: $CI_JOB_STATUS"), pipeline.Variable{Name: "RUNNER_SCRIPT_TIMEOUT", Value: "500ms"})
	job.Dir = dir
	o := play(t, x, t.Context(), job)
	o.is(t, pipeline.StatusFailed, pipeline.ExecutionTimeout, executor.NoExitCode)
	o.hasLines(t, "after: timedout")
}

func ignoresTerm(t *testing.T, setup Setup) {
	x, dir := setup(t)
	job := limit(x, script(`trap "" TERM; while :; do sleep 1; done`), time.Second)
	job.Dir = dir
	o := play(t, x, t.Context(), job)
	o.is(t, pipeline.StatusFailed, pipeline.ExecutionTimeout, executor.NoExitCode)
	if o.Duration > patience {
		t.Errorf("it took %s", o.Duration)
	}
}

// waiting calls a function once when a text has been written.
type waiting struct {
	safeBuffer
	text string
	once sync.Once
	then func()
}

func (w *waiting) Write(p []byte) (int, error) {
	n, err := w.safeBuffer.Write(p)
	if strings.Contains(w.String(), w.text) {
		w.once.Do(w.then)
	}
	return n, err
}

func cancel(t *testing.T, setup Setup) {
	x, dir := setup(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	job := after(script("trap 'echo told to end; exit 0' TERM", "echo re''ady", "sleep 60 & wait", "echo ne''ver"), "echo after: $CI_JOB_STATUS")
	job.Dir = dir
	log := &waiting{text: "\nready", then: stop}
	start := time.Now()
	r := x.Run(ctx, job, log)
	o := outcome{Result: r, plain: markup.ReplaceAllString(log.String(), "")}
	o.is(t, pipeline.StatusCanceled, "", executor.NoExitCode)
	o.hasLines(t, "ready", "told to end", "after: canceled")
	if strings.Contains(o.plain, "never") || time.Since(start) > patience {
		t.Errorf("after %s:\n%s", time.Since(start), o.plain)
	}
}

func cancelBefore(t *testing.T, setup Setup) {
	x, dir := setup(t)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	job := script("echo never")
	job.Dir = dir
	o := play(t, x, ctx, job)
	o.is(t, pipeline.StatusCanceled, "", executor.NoExitCode)
	if strings.Contains(o.plain, "never") {
		t.Error("the script ran")
	}
}

func abort(t *testing.T, setup Setup) {
	x, dir := setup(t)
	gone := make(chan struct{})
	job := after(script("trap 'sleep 60' TERM EXIT", "echo re''ady", "sleep 60"), "echo never")
	job.Dir, job.Abort = dir, gone
	job.Finish = func(context.Context, *executor.Trace, executor.Result) error {
		panic("an aborted job has nothing to keep")
	}
	log := &waiting{text: "\nready", then: func() { close(gone) }}
	r := x.Run(t.Context(), job, log)
	outcome{Result: r}.is(t, pipeline.StatusCanceled, "", executor.NoExitCode)
	if strings.Contains(log.String(), "never") || r.Duration > patience {
		t.Errorf("after %s:\n%s", r.Duration, log.String())
	}
}

// abortFinish aborts a job that has done its work and is keeping what it leaves.
func abortFinish(t *testing.T, setup Setup) {
	x, dir := setup(t)
	gone := make(chan struct{})
	job := script("true")
	job.Dir, job.Abort = dir, gone
	job.Finish = func(ctx context.Context, _ *executor.Trace, _ executor.Result) error {
		close(gone)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(patience):
			return errors.New("an abort does not end it")
		}
	}
	play(t, x, t.Context(), job).is(t, pipeline.StatusCanceled, "", executor.NoExitCode)
}

// nothingLeft starts what does not want to end with its job, and looks from another job whether it is still at work.
func nothingLeft(t *testing.T, setup Setup) {
	for name, start := range map[string]string{
		"in the background":          `work &`,
		"with the output elsewhere":  `work > /dev/null 2>&1 < /dev/null &`,
		"in a session of its own":    `export -f work; setsid bash -c work > /dev/null 2>&1 &`,
		"orphaned twice":             `export -f work; (setsid bash -c '(work &) ; exit 0' > /dev/null 2>&1 &)`,
		"without the environment":    `declare -f work > work.sh; echo work >> work.sh; (cd / && env -i PATH="$PATH" setsid bash "$OLDPWD/work.sh" > /dev/null 2>&1 &)`,
		"ignoring signals":           `trap "" TERM HUP INT; work & disown`,
		"stopped":                    `work & sleep 0.2; kill -STOP $!`,
		"in a group of its own":      "set -m\nwork &\nset +m",
		"started by after_script":    ``,
		"of a job that is timed out": `work & sleep 60`,
	} {
		t.Run(name, func(t *testing.T) {
			x, dir := setup(t)
			work := `eval "work() { while :; do echo x >> '$PWD/ticks'; sleep 0.05; done; }"`
			job := script(work, start, "sleep 0.3", "[ -s ticks ]")
			if start == "" {
				job = after(script("true"), work, "work > /dev/null 2>&1 &", "sleep 0.3")
			}
			if strings.Contains(name, "timed out") {
				job = limit(x, job, 500*time.Millisecond)
			}
			job.Dir = dir
			o := play(t, x, t.Context(), job)
			if o.Status != pipeline.StatusSuccess && o.Reason != pipeline.ExecutionTimeout {
				t.Errorf("%s: %s", o.Status, o.Message)
			}
			if o.Duration > patience {
				t.Errorf("it took %s", o.Duration)
			}
			look := script("a=$(cat ticks 2>/dev/null | wc -c) || :", "sleep 0.3", "b=$(cat ticks 2>/dev/null | wc -c) || :", `echo "$a $b"; [ "$a" = "$b" ]`)
			look.Dir = dir
			play(t, x, t.Context(), look).is(t, pipeline.StatusSuccess, "", 0)
		})
	}
}

func filesGone(t *testing.T, setup Setup) {
	x, dir := setup(t)
	job := with(script(`echo "path=$F"`, "exit 1"), pipeline.Variable{Name: "F", Value: "content", File: true})
	job.Dir = dir
	o := play(t, x, t.Context(), job)
	_, rest, ok := strings.Cut(o.plain, "\npath=")
	path, _, _ := strings.Cut(rest, "\n")
	if !ok || path == "" || strings.HasPrefix(path, dir+"/") {
		t.Fatalf("file %q", path)
	}
	look := script(`[ ! -e "` + path + `" ]`)
	look.Dir = dir
	play(t, x, t.Context(), look).is(t, pipeline.StatusSuccess, "", 0)
}

func environmentStays(t *testing.T, setup Setup) {
	t.Setenv("CONFORMANCE_SECRET_TOKEN", "do-not-show")
	t.Setenv("BASH_ENV", "/nonexistent/evil")
	x, dir := setup(t)
	job := script("env", `[ -z "$BASH_ENV" ]`)
	job.Dir = dir
	o := play(t, x, t.Context(), job)
	o.is(t, pipeline.StatusSuccess, "", 0)
	if strings.Contains(o.plain, "do-not-show") {
		t.Error("the environment of who runs the job is in it")
	}
}

func sameTime(t *testing.T, setup Setup) {
	x, dir := setup(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			job := with(script("for n in 1 2 3 4 5; do echo $ME $n; sleep 0.02; done", "sleep 60 > /dev/null 2>&1 &", "exit $ME"), pipeline.Variable{Name: "ME", Value: fmt.Sprint(i)})
			job.Dir, job.Slot = dir, i
			var log safeBuffer
			r := x.Run(t.Context(), job, &log)
			if r.ExitCode != i {
				t.Errorf("job %d: %+v\n%s", i, r, log.String())
			}
			for n := range 8 {
				if has := strings.Contains(log.String(), fmt.Sprintf("\n%d 5\n", n)); has != (n == i) {
					t.Errorf("job %d's log has job %d's output: %v", i, n, has)
				}
			}
		})
	}
	wg.Wait()
}

// counter counts what it is given.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

func longLine(t *testing.T, setup Setup) {
	size := 100_000_000
	if testing.Short() {
		size = 10_000_000
	}
	x, dir := setup(t)
	job := with(script(fmt.Sprintf("head -c %d /dev/zero | tr '\\0' y", size)), pipeline.Variable{Name: "S", Value: "yyyyyyyz", Masked: true})
	job.Dir, job.LogLimit = dir, -1
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var log counter
	r := x.Run(t.Context(), job, &log)
	runtime.ReadMemStats(&after)
	if r.Status != pipeline.StatusSuccess || log.n < int64(size) {
		t.Errorf("%+v, %d bytes", r, log.n)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 16<<20 {
		t.Errorf("%d MiB were allocated for a line of %d MB", got>>20, size/1_000_000)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func brokenLog(t *testing.T, setup Setup) {
	x, dir := setup(t)
	job := script("for i in $(seq 1000); do echo line $i; done", "exit 3")
	job.Dir = dir
	if r := x.Run(t.Context(), job, broken{}); r.ExitCode != 3 {
		t.Errorf("%+v", r)
	}
	trace := executor.NewTrace(broken{}, job)
	x.Run(t.Context(), job, trace)
	if err := trace.Close(); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Close: %v", err)
	}
}

func openTrace(t *testing.T, setup Setup) {
	x, dir := setup(t)
	job := with(script("echo s3cret-value"), pipeline.Variable{Name: "S", Value: "s3cret-value", Masked: true})
	job.Dir = dir
	var log safeBuffer
	trace := executor.NewTrace(&log, job)
	trace.Printf("before s3cret-value")
	x.Run(t.Context(), job, trace)
	trace.Printf("after s3cret-value")
	if err := trace.Close(); err != nil {
		t.Fatal(err)
	}
	o := outcome{plain: markup.ReplaceAllString(log.String(), "")}
	o.hasLines(t, "before [MASKED]", "$ echo [MASKED]", "[MASKED]", "Job succeeded", "after [MASKED]")
}
