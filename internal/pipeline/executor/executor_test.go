package executor_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
)

func masked(value string) executor.Job {
	return executor.Job{Job: pipeline.Job{Variables: pipeline.Variables{{Name: "S", Value: value, Masked: true}}}}
}

func TestTrace(t *testing.T) {
	const green, yellow, red, off = "\x1b[32;1m", "\x1b[33;1m", "\x1b[31;1m", "\x1b[0;m"
	const cut = "\n" + yellow + "Job's log exceeded limit of 10 bytes.\nJob execution will continue but no more output will be collected." + off + "\n"
	limited := masked("s3cret-value")
	limited.LogLimit = 10
	tests := map[string]struct {
		job  executor.Job
		play func(t *executor.Trace)
		want string
	}{
		"output":              {executor.Job{}, func(t *executor.Trace) { put(t, "one\n", "two") }, "one\ntwo"},
		"own lines":           {executor.Job{}, func(t *executor.Trace) { t.Printf("a %d", 1); t.Noticef("b"); t.Warningf("c"); t.Errorf("d") }, "a 1\n" + green + "b" + off + "\n" + yellow + "WARNING: c" + off + "\n" + red + "ERROR: d" + off + "\n"},
		"a line of their own": {executor.Job{}, func(t *executor.Trace) { put(t, "out"); t.Printf("own"); put(t, "out\n"); t.Printf("own") }, "out\nown\nout\nown\n"},
		"masked":              {masked("s3cret-value"), func(t *executor.Trace) { put(t, "a s3cret", "-value b\n"); t.Printf("own s3cret-value") }, "a [MASKED] b\nown [MASKED]\n"},
		"held back":           {masked("s3cret-value"), func(t *executor.Trace) { put(t, "s3cret") }, "s3cret"},
		"at the limit":        {limited, func(t *executor.Trace) { put(t, "0123456789") }, "0123456789"},
		"past the limit":      {limited, func(t *executor.Trace) { put(t, "01234", "56789ab", "cdef") }, "0123456789" + cut},
		"own past the limit":  {limited, func(t *executor.Trace) { put(t, "0123456789ab\n"); t.Errorf("s3cret-value"); put(t, "x") }, "0123456789" + cut + red + "ERROR: [MASKED]" + off + "\n"},
		"the mask counts":     {limited, func(t *executor.Trace) { put(t, "s3cret-values3cret-value") }, "[MASKED][M" + cut},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			trace := executor.NewTrace(&b, tt.job)
			tt.play(trace)
			if err := trace.Close(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, b.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func put(w io.Writer, parts ...string) {
	for _, p := range parts {
		_, _ = io.WriteString(w, p)
	}
}

// What the runner itself says past the limit is bounded too.
func TestTraceOwnLines(t *testing.T) {
	var b strings.Builder
	job := executor.Job{LogLimit: 100}
	trace := executor.NewTrace(&b, job)
	for range 10_000 {
		trace.Warningf("%s", strings.Repeat("x", 1000))
	}
	if b.Len() > 100_000 {
		t.Errorf("%d bytes", b.Len())
	}
}

func TestSections(t *testing.T) {
	var b strings.Builder
	trace := executor.NewTrace(&b, executor.Job{})
	end := trace.Section("a b/c", "Title", true)
	put(trace, "inside")
	end()
	end()
	var start, stop int64
	if n, err := fmt.Sscanf(b.String(), "section_start:%d:a_b_c[collapsed=true]\r\x1b[0K\x1b[36;1mTitle\x1b[0;m\ninside\nsection_end:%d:a_b_c\r\x1b[0K\n", &start, &stop); n != 2 {
		t.Errorf("%q: %v", b.String(), err)
	}
	if now := time.Now().Unix(); start > stop || stop > now || start < now-60 {
		t.Errorf("from %d to %d", start, stop)
	}
}

func TestRedacted(t *testing.T) {
	trace := executor.NewTrace(io.Discard, masked("s3cret-value"))
	if got := trace.Redacted("open s3cret-value: no"); got != "open [MASKED]: no" {
		t.Error(got)
	}
}

func TestEnvironment(t *testing.T) {
	job := executor.Job{ID: 7, Dir: "/builds/group/name", Started: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), Job: pipeline.Job{
		Timeout: pipeline.Duration(time.Minute),
		Variables: pipeline.Variables{
			{Name: "CI_PROJECT_DIR", Value: "/guessed", Origin: pipeline.OriginPredefined},
			{Name: "REF", Value: "main", Origin: pipeline.OriginPredefined},
			{Name: "A", Value: "$REF-$F-$CI_PROJECT_DIR", Origin: pipeline.OriginJob},
			{Name: "F", Value: "content of $REF", File: true, Origin: pipeline.OriginProject},
			{Name: "R", Value: "$REF", Raw: true, File: true, Origin: pipeline.OriginProject},
			{Name: "CI_SERVER", Value: "mine", Origin: pipeline.OriginTop},
			{Name: "REF", Value: "other", Origin: pipeline.OriginPipeline},
		}}}
	env, files, err := job.Environment(executor.Runner{ID: 3, Version: "1.0", Tags: []string{"a", "b"}, Disposable: true}, time.Now(), func() (string, error) { return "/private", nil })
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for i, v := range env {
		if i > 0 && env[i-1].Name >= v.Name {
			t.Errorf("%s after %s", v.Name, env[i-1].Name)
		}
		got[v.Name] = v.Value
	}
	delete(got, "CI_RUNNER_EXECUTABLE_ARCH")
	want := map[string]string{"A": "other-/private/F-/builds/group/name", "F": "/private/F", "R": "/private/R", "REF": "other",
		"CI": "true", "CI_BUILDS_DIR": "/builds/group", "CI_CONCURRENT_ID": "0", "CI_CONCURRENT_PROJECT_ID": "0", "CI_DISPOSABLE_ENVIRONMENT": "true",
		"CI_JOB_ID": "7", "CI_JOB_STARTED_AT": "2026-11-21T12:00:00Z", "CI_JOB_STATUS": "running", "CI_JOB_TIMEOUT": "60", "CI_PROJECT_DIR": "/builds/group/name",
		"CI_RUNNER_ID": "3", "CI_RUNNER_TAGS": `["a", "b"]`, "CI_RUNNER_VERSION": "1.0", "CI_SERVER": "mine", "GITLAB_CI": "true"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]executor.FileVariable{{Path: "/private/F", Content: "content of other"}, {Path: "/private/R", Content: "$REF"}}, files); diff != "" {
		t.Error(diff)
	}
}

func TestEnvironmentErrors(t *testing.T) {
	disk := errors.New("disk")
	for name, tt := range map[string]struct {
		v    pipeline.Variable
		want string
	}{
		"no name":           {pipeline.Variable{Value: "x"}, `"" cannot be the name of a variable`},
		"an equals sign":    {pipeline.Variable{Name: "A=B"}, `"A=B" cannot be the name of a variable`},
		"NUL":               {pipeline.Variable{Name: "A", Value: "x\x00y"}, "variable A has a NUL character, which no environment can hold"},
		"a file's path":     {pipeline.Variable{Name: "../A", File: true}, `"../A" cannot be the name of a file variable`},
		"no room for files": {pipeline.Variable{Name: "A", File: true}, "file variable A: disk"},
	} {
		t.Run(name, func(t *testing.T) {
			job := executor.Job{Dir: "/d", Job: pipeline.Job{Variables: pipeline.Variables{tt.v}}}
			if _, _, err := job.Environment(executor.Runner{}, time.Now(), func() (string, error) { return "", disk }); err == nil || err.Error() != tt.want {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
}

func TestResults(t *testing.T) {
	tests := []struct {
		r       executor.Result
		status  string
		message string
	}{
		{executor.Exited(0), "success", ""},
		{executor.Exited(2), "failed", "exit code 2"},
		{executor.Exited(127), "failed", "exit code 127 (command not found)"},
		{executor.Exited(137), "failed", "exit code 137 (killed; the kernel does that when memory runs out)"},
		{executor.Exited(139), "failed", "exit code 139 (SIGSEGV)"},
		{executor.Exited(200), "failed", "exit code 200"},
		{executor.TimedOut(time.Minute), "timedout", "execution took longer than 1m0s"},
		{executor.Canceled(), "canceled", "canceled"},
		{executor.FailedWith(errors.New("disk")), "failed", "disk"},
	}
	for _, tt := range tests {
		if got := tt.r.JobStatus(); got != tt.status || tt.r.Message != tt.message {
			t.Errorf("%+v: status %s, want %s; message want %q", tt.r, got, tt.status, tt.message)
		}
	}
}

func TestLimits(t *testing.T) {
	for _, tt := range []struct {
		value string
		want  time.Duration
		ok    bool
	}{{"", 5 * time.Minute, true}, {"90s", 90 * time.Second, true}, {"1h30m", 90 * time.Minute, true}, {"0s", time.Hour, true}, {"90", 5 * time.Minute, false}, {"-1s", 5 * time.Minute, false}} {
		job := executor.Job{Job: pipeline.Job{Variables: pipeline.Variables{{Name: "RUNNER_AFTER_SCRIPT_TIMEOUT", Value: tt.value}}}}
		if got, err := job.AfterScriptLimit(); got != tt.want || (err == nil) != tt.ok {
			t.Errorf("%q: %s, %v", tt.value, got, err)
		}
	}
}
