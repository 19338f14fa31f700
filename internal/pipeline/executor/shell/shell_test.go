package shell_test

import (
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/executor/conformance"
	"keelson.dev/keelson/internal/pipeline/executor/shell"
)

// TestMain serves the sandboxes, whose child process is this program again.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == shell.ChildCommand {
		os.Exit(shell.ServeChild())
	}
	os.Exit(m.Run())
}

func TestConformance(t *testing.T) {
	conformance.Test(t, func(t *testing.T) (executor.Executor, string) {
		return newExecutor(t, shell.Options{}), t.TempDir()
	})
}

func TestConformanceInSandbox(t *testing.T) {
	needsSandbox(t)
	conformance.Test(t, func(t *testing.T) (executor.Executor, string) {
		return newExecutor(t, shell.Options{Sandbox: &shell.Sandbox{}}), t.TempDir()
	})
}

// needsSandbox skips a test where the system forbids sandboxes.
func needsSandbox(t testing.TB) shell.Isolation {
	t.Helper()
	kind, why := shell.Check()
	if kind == shell.NoIsolation {
		t.Skipf("NOT TESTED: no sandbox for jobs: %s", why)
	}
	return kind
}

func newExecutor(t testing.TB, o shell.Options) *shell.Executor {
	t.Helper()
	o.TempDir = t.TempDir()
	if o.Grace == 0 {
		o.Grace = time.Second
	}
	x, err := shell.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	return x
}

// run runs a job in an empty directory and gives its log without colours and sections.
func run(t *testing.T, x *shell.Executor, job executor.Job) (executor.Result, string) {
	t.Helper()
	if job.Dir == "" {
		job.Dir = t.TempDir()
	}
	var log strings.Builder
	r := x.Run(t.Context(), job, &log)
	text := markup.ReplaceAllString(log.String(), "")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%+v\n%.4000s", r, text)
		}
	})
	return r, text
}

var markup = regexp.MustCompile(`section_(start|end):\d+:[\w.-]+(\[[^\]]*\])?\r|\x1b\[[0-9;]*[mK]`)

func job(commands ...string) executor.Job {
	return executor.Job{Job: pipeline.Job{Name: "job", Script: commands}}
}

func TestRefusals(t *testing.T) {
	services := job("echo ran")
	services.Services = []pipeline.Service{{Image: pipeline.Image{Name: "postgres:16"}}, {Image: pipeline.Image{Name: "redis"}}}
	step := executor.Job{Job: pipeline.Job{Run: []pipeline.Step{{Name: "lint", Step: "./steps/lint"}}}}
	expression := executor.Job{Job: pipeline.Job{Run: []pipeline.Step{{Script: "echo ${{ job.id }}"}}}}
	env := executor.Job{Job: pipeline.Job{Run: []pipeline.Step{{Script: "true", Env: map[string]string{"A; rm": "x"}}}}}
	trigger := executor.Job{Job: pipeline.Job{Trigger: &pipeline.Trigger{Project: "a/b"}}}
	nowhere := job("true")
	nowhere.Dir = "/nonexistent"
	large := job("true")
	large.Variables = pipeline.Variables{{Name: "LARGE", Value: strings.Repeat("x", 200<<10)}}
	var all pipeline.Variables
	for i := range 100 {
		all = append(all, pipeline.Variable{Name: "LARGE_" + strconv.Itoa(i), Value: strings.Repeat("x", 100<<10)})
	}
	together := job("true")
	together.Variables = all
	tests := map[string]struct {
		job     executor.Job
		reason  pipeline.FailureReason
		message string
	}{
		"services":          {services, pipeline.RunnerUnsupported, "services (postgres:16, redis) need containers, which the shell executor has not; start them yourself and have them ignored, or remove them"},
		"a step elsewhere":  {step, pipeline.RunnerUnsupported, "step lint of run refers to `./steps/lint`, which needs GitLab's step runner; only steps with a plain script are run"},
		"a step's language": {expression, pipeline.RunnerUnsupported, "step 1 of run has an expression ${{ … }}, which needs GitLab's step runner; only steps with a plain script are run"},
		"a step's variable": {env, pipeline.ConfigurationError, `step 1 of run: env has "A; rm", which cannot be the name of a variable`},
		"trigger":           {trigger, pipeline.RunnerUnsupported, "a job with trigger starts another pipeline and has no script to run"},
		"no directory":      {nowhere, pipeline.RunnerSystemFailure, `the job's directory "/nonexistent" is not there`},
		"a large variable":  {large, pipeline.ConfigurationError, "variable LARGE has 204800 bytes, and a process takes no more than 131065 in one; make it a file variable"},
		"large variables":   {together, pipeline.ConfigurationError, "the variables of the job are too large for the environment of a process; make the large ones file variables"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r, log := run(t, newExecutor(t, shell.Options{}), tt.job)
			if r.Status != pipeline.StatusFailed || r.Reason != tt.reason || r.ExitCode != executor.NoExitCode || r.Message != tt.message {
				t.Errorf("got %+v\nwant reason %s: %s", r, tt.reason, tt.message)
			}
			if !strings.Contains(log, tt.message) || strings.Contains(log, "ran") {
				t.Errorf("log:\n%s", log)
			}
		})
	}
	t.Run("services that are ignored", func(t *testing.T) {
		r, log := run(t, newExecutor(t, shell.Options{IgnoreServices: true}), services)
		if r.Status != pipeline.StatusSuccess || !strings.Contains(log, "WARNING: Services are ignored, nobody starts them: postgres:16, redis\n") {
			t.Errorf("%+v\n%s", r, log)
		}
	})
}

func TestImageIsNamed(t *testing.T) {
	j := job("true")
	j.Image = &pipeline.Image{Name: "golang:$GO"}
	j.Variables = pipeline.Variables{{Name: "GO", Value: "1.26"}}
	if _, log := run(t, newExecutor(t, shell.Options{}), j); !strings.Contains(log, "Image golang:1.26 is not used: the shell executor runs scripts on this machine\n") {
		t.Error(log)
	}
}

// A large value of a file variable is no burden for the environment.
func TestLargeFile(t *testing.T) {
	j := job(`wc -c < "$F"`)
	j.Variables = pipeline.Variables{{Name: "F", Value: strings.Repeat("x", 300<<10), File: true}}
	if r, log := run(t, newExecutor(t, shell.Options{}), j); r.Status != pipeline.StatusSuccess || !strings.Contains(log, "\n307200\n") {
		t.Errorf("%+v\n%s", r, log)
	}
}

// Without bash a job runs under what is there.
func TestPlainShell(t *testing.T) {
	sh, err := exec.LookPath("dash")
	if err != nil {
		t.Skip("there is no dash")
	}
	j := job("echo 'it'\"'\"'s' \\\\ %s", "cat <<EOF\ntwo\nEOF", "exit 3")
	j.BeforeScript = []string{"X=1", `echo "A=B" >> "$GITLAB_ENV"`}
	j.AfterScript = []string{`echo "[$X$A$CI_JOB_STATUS]"`}
	j.Variables = pipeline.Variables{{Name: "FF_SCRIPT_SECTIONS", Value: "true"}}
	r, log := run(t, newExecutor(t, shell.Options{Shell: sh}), j)
	for _, line := range []string{"Using Shell (dash) executor...", "$ X=1", "it's \\ %s", "two", "[Bfailed]"} {
		if !strings.Contains(log, "\n"+line+"\n") && !strings.HasPrefix(log, line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
	if r.ExitCode != 3 {
		t.Errorf("%+v", r)
	}
	if _, err := shell.New(shell.Options{Shell: "no-such-shell"}); err == nil {
		t.Error("a shell that is not there is taken")
	}
}

func TestPassedEnvironment(t *testing.T) {
	for _, name := range []string{"LC_ALL", "TERM", "HTTPS_PROXY", "SOME_VARIABLE", "ASKED_FOR", "KUBECONFIG", "AWS_SECRET_ACCESS_KEY"} {
		t.Setenv(name, "C")
	}
	j := job("env | grep '=C$' | sort")
	j.Variables = pipeline.Variables{{Name: "TERM", Value: "dumb"}}
	_, log := run(t, newExecutor(t, shell.Options{Env: []string{"ASKED_FOR"}}), j)
	if want := "\nASKED_FOR=C\nHTTPS_PROXY=C\nLC_ALL=C\n"; !strings.Contains(log, want) || strings.Contains(log, "TERM=C") || strings.Count(log, "=C\n") != 3 {
		t.Error(log)
	}
}

// What a job leaves running is told.
func TestLeftoversAreNamed(t *testing.T) {
	_, log := run(t, newExecutor(t, shell.Options{}), job("sleep 77 &", "sleep 0.1"))
	if !regexp.MustCompile(`(?m)^Ended what the job had left running: sleep \(\d+\)$`).MatchString(log) {
		t.Error(log)
	}
	_, log = run(t, newExecutor(t, shell.Options{}), job("true"))
	if strings.Contains(log, "left running") {
		t.Error(log)
	}
}

// Nothing stays in the directory for private files, whatever becomes of a job.
func TestPrivateFilesAreRemoved(t *testing.T) {
	dir := t.TempDir()
	x, err := shell.New(shell.Options{TempDir: dir, Grace: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	for _, command := range []string{"true", "exit 1", "kill -9 $$", "sleep 60", ": " + strings.Repeat("x", 200<<10)} {
		j := job(command, `ls -ld "$(dirname "$F")"`)
		j.Timeout = pipeline.Duration(2 * time.Second)
		j.Variables = pipeline.Variables{{Name: "F", Value: "x", File: true}}
		run(t, x, j)
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%.20s: %v, %v", command, left, err)
		}
	}
}

// BenchmarkJob compares jobs with the shells that they need.
func BenchmarkJob(b *testing.B) {
	x := newExecutor(b, shell.Options{})
	var vars pipeline.Variables
	for i := range 120 {
		vars = append(vars, pipeline.Variable{Name: "CI_SOME_VARIABLE_" + strconv.Itoa(i), Value: "some value", Origin: pipeline.OriginPredefined})
	}
	j := job("echo job")
	j.Dir, j.Variables = b.TempDir(), vars
	b.Run("job", func(b *testing.B) {
		for b.Loop() {
			if r := x.Run(b.Context(), j, io.Discard); r.Status != pipeline.StatusSuccess {
				b.Fatal(r)
			}
		}
	})
	b.Run("job in a sandbox", func(b *testing.B) {
		needsSandbox(b)
		x := newExecutor(b, shell.Options{Sandbox: &shell.Sandbox{}})
		for b.Loop() {
			if r := x.Run(b.Context(), j, io.Discard); r.Status != pipeline.StatusSuccess {
				b.Fatal(r)
			}
		}
	})
	after := j
	after.AfterScript = []string{"echo after"}
	b.Run("with after_script", func(b *testing.B) {
		for b.Loop() {
			x.Run(b.Context(), after, io.Discard)
		}
	})
	b.Run("bash", func(b *testing.B) {
		for b.Loop() {
			if err := exec.Command("bash", "-c", "echo job").Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A masked value is hidden as the job sees it, with what only the executor knows in it.
func TestMaskedWithRunnersVariables(t *testing.T) {
	j := job(`echo "$S"`, `cat "$F"`, `echo "$R"`)
	j.Variables = pipeline.Variables{
		{Name: "S", Value: "zz$CI_PROJECT_DIR-tail", Masked: true},
		{Name: "F", Value: "file in $CI_RUNNER_DESCRIPTION", Masked: true, File: true},
		{Name: "R", Value: "raw $CI_PROJECT_DIR", Masked: true, Raw: true},
	}
	x := newExecutor(t, shell.Options{Runner: executor.Runner{Description: "here"}})
	if _, log := run(t, x, j); strings.Contains(log, "-tail") || strings.Contains(log, "file in") || strings.Contains(log, "raw ") || strings.Count(log, "[MASKED]") != 3 {
		t.Error(log)
	}
}
