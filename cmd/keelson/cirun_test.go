package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/web"
)

// ciProcess is "keelson ci run" in a process of its own, in a fresh repository with its own place for temporary files.
type ciProcess struct {
	*testing.T
	cmd    *exec.Cmd
	out    io.ReadCloser
	stderr strings.Builder
	tmp    string
}

// startCI starts a pipeline and waits until its job has said "started".
func startCI(t *testing.T, pipeline string, command ...string) *ciProcess {
	t.Helper()
	chdir(t, "main")
	p := &ciProcess{T: t, tmp: t.TempDir()}
	t.Setenv("TMPDIR", p.tmp)
	p.write(".gitlab-ci.yml", pipeline)
	p.write(".keelson/variables.yml", "KUBECFG: {type: file, value: s3cret-kubeconfig, masked: true}\n")
	p.cmd = exec.Command(command[0], command[1:]...)
	if command[0] == "keelson" {
		p.cmd = exec.Command(testProgram(t), command[1:]...)
	}
	p.cmd.Stderr = &p.stderr
	var err error
	if p.out, err = p.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_, _ = p.cmd.Process.Wait()
		if pid, err := os.ReadFile("pid"); err == nil {
			n, _ := strconv.Atoi(strings.TrimSpace(string(pid)))
			if n > 1 {
				_ = syscall.Kill(-n, syscall.SIGKILL)
			}
		}
	})
	lines := bufio.NewScanner(p.out)
	for lines.Scan() {
		if strings.HasSuffix(lines.Text(), "| started") || strings.Contains(lines.Text(), `"text":"started"`) {
			return p
		}
	}
	t.Fatalf("the job has not started: %s", p.stderr.String())
	return nil
}

func (p *ciProcess) write(name, text string) {
	p.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		p.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		p.Fatal(err)
	}
}

// wait gives the exit code; -1: a signal has ended the process.
func (p *ciProcess) wait() int {
	p.Helper()
	timer := time.AfterFunc(20*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	var exit *exec.ExitError
	if err := p.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		p.Fatal(err)
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *ciProcess) left() []string {
	left, err := filepath.Glob(filepath.Join(p.tmp, "keelson-*"))
	if err != nil {
		p.Fatal(err)
	}
	return left
}

// ended holds that a run came to its end by itself: after_script has run, nothing is left of it.
func (p *ciProcess) ended(want int) {
	p.Helper()
	if code := p.wait(); code != want {
		p.Errorf("it ended with %d, want %d: %s", code, want, p.stderr.String())
	}
	if _, err := os.Stat("after"); err != nil {
		p.Error("after_script has not run")
	}
	if left := p.left(); len(left) > 0 {
		p.Errorf("it has left %v", left)
	}
}

const holdingJob = `hold:
  script:
    - echo $$ > $CI_PROJECT_DIR/pid
    - echo started
    - for i in $(seq 1000); do echo still here; sleep 0.05; done
  after_script:
    - echo > ` // and the path of the file

// A closed terminal cancels, as an interrupt does.
func TestRunHangup(t *testing.T) {
	p := startCI(t, holdingJob+"after\n", "keelson", "ci", "run")
	go func() { _, _ = io.Copy(io.Discard, p.out) }()
	for range 2 { // from the kernel and from the shell
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	p.ended(1)
	if want := "cancelling: jobs are told to end; interrupt again to end everything at once\n"; strings.Count(p.stderr.String(), want) != 1 {
		t.Errorf("stderr: %s", p.stderr.String())
	}
}

// Who has SIGHUP ignored, as nohup does, is left alone.
func TestRunNohup(t *testing.T) {
	job := "hold: {script: [echo started, sleep 0.5], after_script: [echo > after]}\n"
	p := startCI(t, job, "sh", "-c", "trap '' HUP; exec "+testProgram(t)+" ci run")
	go func() { _, _ = io.Copy(io.Discard, p.out) }()
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	p.ended(0)
}

// What reads the output is gone: keelson ci run | head -3.
func TestRunClosedPipe(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			p := startCI(t, holdingJob+"after\n", "keelson", "ci", "run", "-o", format)
			p.out.Close()
			p.ended(1)
			if !strings.Contains(p.stderr.String(), "broken pipe") {
				t.Errorf("stderr: %s", p.stderr.String())
			}
		})
	}
}

// What reads the output of a replay is gone, too.
func TestReplayClosedPipe(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sha, err := exec.CommandContext(r.Context(), "git", "rev-parse", "HEAD").Output() // of the repository that the test is in
		if err == nil && r.URL.Path == web.PipelinesPath+"pipelines/1/recipe" {
			err = json.NewEncoder(w).Encode(show.Recipe{
				Pipeline: 1, IID: 1, Created: time.Now(), Project: "acme/app", ProjectID: 1, Source: "push", Ref: "refs/heads/main", SHA: strings.TrimSpace(string(sha)), User: "ada",
				DefaultBranch: "main", ConfigPath: ".gitlab-ci.yml", Server: "http://127.0.0.1", CloneURL: "http://127.0.0.1/git/app.git",
			})
		}
		if err != nil {
			t.Error(err)
		}
	}))
	defer s.Close()
	t.Setenv(serverVariable, s.URL)
	t.Setenv(tokenVariable, "any")
	job := strings.ReplaceAll(holdingJob, "$CI_PROJECT_DIR", "$REPO") + "$REPO/after\n"
	p := startCI(t, job, "sh", "-c", "export REPO=$PWD; git add .gitlab-ci.yml && git commit -qm Job && exec "+testProgram(t)+" ci replay 1 --env REPO")
	p.out.Close()
	p.ended(1)
	if !strings.Contains(p.stderr.String(), "broken pipe") {
		t.Errorf("stderr: %s", p.stderr.String())
	}
}

// What a killed run has left the next one removes; what another one works with stays.
func TestRunKilled(t *testing.T) {
	p := startCI(t, holdingJob+"after\n", "keelson", "ci", "run", "--isolate")
	pid, err := os.ReadFile("pid")
	if err == nil {
		t.Fatalf("the job has not its own copy: %s", pid)
	}
	if left := p.left(); len(left) != 3 { // the copy, the links of the tools, what is the job's alone
		t.Fatalf("there are %v", left)
	}
	next := func() {
		t.Helper()
		p.write("other.yml", "quick: {script: 'true'}\n")
		cmd := exec.Command(testProgram(t), "ci", "run", "-f", "other.yml")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	next()
	if left := p.left(); len(left) != 3 {
		t.Errorf("of a run that is under way there are %v", left)
	}
	files, err := filepath.Glob(filepath.Join(p.tmp, "keelson-ci-*", "*", "app", "pid"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	if pid, err = os.ReadFile(files[0]); err != nil {
		t.Fatal(err)
	}
	p.write("pid", string(pid))
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.wait()
	if err := os.Mkdir(filepath.Join(p.tmp, "keelson-job-mine"), 0o700); err != nil {
		t.Fatal(err)
	}
	next()
	if left := p.left(); len(left) != 1 || filepath.Base(left[0]) != "keelson-job-mine" {
		t.Errorf("there are %v", left)
	}
}

// Output that is lost is a failure.
func TestRunLostOutput(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	chdir(t, "main")
	if err := os.WriteFile(".gitlab-ci.yml", []byte("a: {script: 'true'}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"text", "json"} {
		cmd := exec.Command(testProgram(t), "ci", "run", "-o", format)
		var stderr strings.Builder
		cmd.Stdout, cmd.Stderr = full, &stderr
		if err := cmd.Run(); cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), "no space left on device") {
			t.Errorf("%s: %v, %s", format, err, stderr.String())
		}
	}
}
