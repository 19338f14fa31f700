// Package conformance holds what every executor has to do. An executor's own tests call [Test]; what it prints is told by its jobs'
// logs and results alone, so that it may run them wherever it likes.
package conformance

import (
	"bytes"
	"context"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
)

// Setup makes an executor and names a directory for its jobs, which it may make: they may find themselves in another one, whose name ends
// as that one's does. Jobs run under bash; what does not end when it
// is told to is killed within two seconds.
type Setup func(t *testing.T) (x executor.Executor, dir string)

// Slow is an executor whose jobs take a while until they begin, and how long that is at most.
type Slow interface {
	Begins() time.Duration
}

// Test holds an executor to the contract of [executor.Executor].
func Test(t *testing.T, setup Setup) {
	for _, c := range slices.Concat(scripts, variables, afterScripts, logs) {
		t.Run(c.name, func(t *testing.T) { c.run(t, setup) })
	}
	for name, test := range map[string]func(*testing.T, Setup){
		"hooks":                         hooks,
		"prepare fails":                 prepareFails,
		"verify":                        verify,
		"finish fails":                  finishFails,
		"time limit":                    timeLimit,
		"time limit of the script":      scriptTimeLimit,
		"a script that ignores SIGTERM": ignoresTerm,
		"cancel":                        cancel,
		"cancel before the start":       cancelBefore,
		"abort":                         abort,
		"abort while it finishes":       abortFinish,
		"nothing is left running":       nothingLeft,
		"files are gone afterwards":     filesGone,
		"environment of the executor":   environmentStays,
		"jobs at the same time":         sameTime,
		"a line of 100 MB":              longLine,
		"a log that cannot be written":  brokenLog,
		"a log that is a trace":         openTrace,
	} {
		t.Run(name, func(t *testing.T) { test(t, setup) })
	}
}

// outcome is a result with its log.
type outcome struct {
	executor.Result
	raw   string // the log as it was written
	plain string // without colours and sections
}

// markup are the colours and section marks in a log.
var markup = regexp.MustCompile(`section_(start|end):\d+:[\w.-]+(\[[^\]]*\])?\r|\x1b\[[0-9;]*[mK]`)

func play(t *testing.T, x executor.Executor, ctx context.Context, job executor.Job) outcome { //nolint:revive // the test comes first
	t.Helper()
	var b safeBuffer
	r := x.Run(ctx, job, &b)
	o := outcome{Result: r, raw: b.String(), plain: markup.ReplaceAllString(b.String(), "")}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("result: %+v\nlog:\n%s", r, head(o.raw))
		}
	})
	return o
}

func head(s string) string {
	if len(s) > 5000 {
		return s[:5000] + "…"
	}
	return s
}

// safeBuffer is a buffer that may be read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// testCase is a job with what comes of it.
type testCase struct {
	name   string
	job    executor.Job
	code   int                    // the exit code
	reason pipeline.FailureReason // "": script_failure if code is not 0
	has    []string               // lines of the plain log, in their order; others may stand between them
	hasNot []string               // parts of the raw log
	raw    []string               // parts of the raw log
}

func (c testCase) run(t *testing.T, setup Setup) {
	x, dir := setup(t)
	c.job.Dir = dir
	c.job.Name = c.name
	o := play(t, x, t.Context(), c.job)
	want := executor.Result{Status: pipeline.StatusSuccess, ExitCode: c.code, Reason: c.reason}
	if c.code != 0 {
		want.Status = pipeline.StatusFailed
		if c.reason == "" {
			want.Reason = pipeline.ScriptFailure
		}
	}
	if o.Status != want.Status || o.ExitCode != want.ExitCode || o.Reason != want.Reason {
		t.Errorf("%s, code %d, reason %q; want %s, code %d, reason %q", o.Status, o.ExitCode, o.Reason, want.Status, want.ExitCode, want.Reason)
	}
	if (o.Message == "") != (want.Status == pipeline.StatusSuccess) {
		t.Errorf("message %q", o.Message)
	}
	o.hasLines(t, c.has...)
	for _, part := range c.hasNot {
		if strings.Contains(o.raw, part) {
			t.Errorf("the log has %q", part)
		}
	}
	for _, part := range c.raw {
		if !strings.Contains(o.raw, part) {
			t.Errorf("the log has not %q", part)
		}
	}
}

// hasLines tells whether lines are in the plain log in this order.
func (o outcome) hasLines(t *testing.T, want ...string) {
	t.Helper()
	lines := strings.Split(o.plain, "\n")
	for _, w := range want {
		i := slices.Index(lines, w)
		if i < 0 {
			t.Errorf("the log has no line %q after those before it", w)
			return
		}
		lines = lines[i+1:]
	}
}

// failed tells whether a job ended so.
func (o outcome) is(t *testing.T, status pipeline.Status, reason pipeline.FailureReason, code int) {
	t.Helper()
	if o.Status != status || o.Reason != reason || o.ExitCode != code {
		t.Errorf("%s, reason %q, code %d; want %s, reason %q, code %d", o.Status, o.Reason, o.ExitCode, status, reason, code)
	}
}

// script is a job with commands.
func script(commands ...string) executor.Job {
	return executor.Job{Job: pipeline.Job{Script: commands}}
}

func with(j executor.Job, vs ...pipeline.Variable) executor.Job {
	j.Variables = append(j.Variables, vs...)
	return j
}

func after(j executor.Job, commands ...string) executor.Job {
	j.AfterScript = commands
	return j
}

// limit gives a job so much time once it has begun.
func limit(x executor.Executor, j executor.Job, d time.Duration) executor.Job {
	if s, ok := x.(Slow); ok {
		d += s.Begins()
	}
	j.Timeout = pipeline.Duration(d)
	return j
}
