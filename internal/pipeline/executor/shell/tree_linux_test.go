package shell_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/executor/shell"
)

// daemon starts what nothing but its directory tells of whom it is, and writes its process id to a file.
const daemon = `env -i setsid -f sh -c 'echo $$ > pid; exec sleep 60' > /dev/null 2>&1; until [ -s pid ]; do sleep 0.02; done`

// await waits for a file.
func await(t *testing.T, file string) string {
	t.Helper()
	for range 1000 {
		if text, err := os.ReadFile(file); err == nil && len(text) > 0 {
			return strings.TrimSpace(string(text))
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("%s is not there", file)
	return ""
}

// alive tells whether a process runs.
func alive(pid string) bool {
	n, err := strconv.Atoi(pid)
	return err == nil && syscall.Kill(n, 0) == nil
}

// What may be of several jobs that work in one directory is ended with the last of them.
func TestLeftOfAnotherJob(t *testing.T) {
	for name, below := range map[string]string{"the same directory": ".", "a directory in it": "sub"} {
		t.Run(name, func(t *testing.T) {
			x, dir := newExecutor(t, shell.Options{}), t.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, below), 0o755); err != nil {
				t.Fatal(err)
			}
			first := job("cd "+below, daemon, "until [ -e go ]; do sleep 0.02; done", `kill -0 "$(cat pid)"`)
			first.Dir = dir
			over := make(chan executor.Result)
			go func() { over <- x.Run(t.Context(), first, io.Discard) }()
			pid := await(t, filepath.Join(dir, below, "pid"))
			second := job("true")
			second.Dir = filepath.Join(dir, below)
			if r, log := run(t, x, second); r.Status != pipeline.StatusSuccess || strings.Contains(log, "Ended what") {
				t.Errorf("%+v\n%s", r, log)
			}
			if err := os.WriteFile(filepath.Join(dir, below, "go"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if r := <-over; r.Status != pipeline.StatusSuccess {
				t.Errorf("the job that needs it: %+v", r)
			}
			if alive(pid) {
				t.Error("it is left when all jobs have ended")
			}
		})
	}
}

// What this process had as children before the job is not the job's.
func TestThereBefore(t *testing.T) {
	x := newExecutor(t, shell.Options{})
	cmd := exec.Command("sleep", "60")
	cmd.Env, cmd.SysProcAttr = []string{}, &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { over <- cmd.Wait() }()
	time.Sleep(50 * time.Millisecond) // the kernel tells times by hundredths of a second
	_, log := run(t, x, job("true"))
	select {
	case err := <-over:
		t.Errorf("it was ended (%v)\n%s", err, log)
	default:
		_ = cmd.Process.Kill()
		<-over
	}
}

// A job of a process that itself runs in a job is of both.
func TestNestedMark(t *testing.T) {
	t.Setenv("KEELSON_JOB_MARK", "outer")
	x := newExecutor(t, shell.Options{})
	if _, log := run(t, x, job(`echo "${KEELSON_JOB_MARK%%:*}."`)); !strings.Contains(log, "\nouter.\n") {
		t.Error(log)
	}
	// As if the inner one had been killed: its job is an orphan of the outer one.
	dir := t.TempDir()
	other := job("until [ -e go ]; do sleep 0.02; done")
	other.Dir = dir
	over := make(chan executor.Result)
	go func() { over <- x.Run(t.Context(), other, io.Discard) }()
	inner := job(`KEELSON_JOB_MARK=$KEELSON_JOB_MARK:inner setsid -f sh -c 'echo $$ > pid; cd /; exec sleep 60' > /dev/null 2>&1; until [ -s pid ]; do sleep 0.02; done`)
	inner.Dir = t.TempDir()
	_, log := run(t, x, inner)
	if alive(await(t, filepath.Join(inner.Dir, "pid"))) {
		t.Errorf("it is left\n%s", log)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	<-over
}

// Orphans that have ended by themselves are not worth a line.
func TestOnlyZombies(t *testing.T) {
	if _, log := run(t, newExecutor(t, shell.Options{}), job("setsid -f true", "sleep 0.3")); strings.Contains(log, "Ended what") {
		t.Error(log)
	}
}
