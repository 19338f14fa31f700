package shell_test

import (
	"context"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/executor/shell"
)

func TestDiskIsNotFilled(t *testing.T) { inAndOutside(t, diskIsNotFilled) }

func TestForkBombs(t *testing.T) { inAndOutside(t, forkBombs) }

// inAndOutside runs a test without and with a sandbox.
func inAndOutside(t *testing.T, test func(*testing.T, *shell.Sandbox)) {
	t.Run("outside", func(t *testing.T) { test(t, nil) })
	t.Run("in a sandbox", func(t *testing.T) {
		needsSandbox(t)
		test(t, &shell.Sandbox{})
	})
}

func diskIsNotFilled(t *testing.T, sandbox *shell.Sandbox) {
	dir := t.TempDir()
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	free := int64(st.Bavail) * st.Bsize
	if free > 1<<50 || free < 1<<30 {
		t.Skip("the file system is not of a usual size")
	}
	// Others write here too: the bound is far enough below what is free, and what the job writes beyond it.
	x := newExecutor(t, shell.Options{Reserve: free/2 - 1, Sandbox: sandbox})
	t.Run("reserve", func(t *testing.T) {
		if r, _ := run(t, x, job("head -c 10000000 /dev/zero > file")); r.Status != pipeline.StatusSuccess {
			t.Errorf("%+v", r)
		}
	})
	mount := t.TempDir()
	if err := syscall.Mount("keelson-test", mount, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("no file system to fill: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(mount, syscall.MNT_DETACH) })
	x = newExecutor(t, shell.Options{Reserve: 16 << 20, Sandbox: sandbox})
	other := make(chan executor.Result)
	go func() {
		j := job("sleep 2", "echo fine")
		j.Dir = mount
		other <- x.Run(context.Background(), j, io.Discard)
	}()
	j := job("while head -c 4000000 /dev/zero >> file; do sleep 0.05; done")
	j.Dir = mount
	r, _ := run(t, x, j)
	if r.Status != pipeline.StatusFailed || r.Reason != pipeline.ScriptFailure || !strings.Contains(r.Message, mount+" has only ") {
		t.Errorf("%+v", r)
	}
	if r := <-other; r.Status != pipeline.StatusSuccess {
		t.Errorf("the other job: %+v", r)
	}
}

func forkBombs(t *testing.T, sandbox *shell.Sandbox) {
	for name, script := range map[string]string{
		"in a group":   "b() { sleep 0.05; b & b & wait; }; b; sleep 60",
		"that escapes": "printf 'while :; do setsid bash \"$0\" >/dev/null 2>&1 & sleep 0.2; done' > b.sh; bash b.sh; sleep 60",
		"slow":         "for i in $(seq 1000); do sleep 60 & done; sleep 60",
	} {
		t.Run(name, func(t *testing.T) {
			x := newExecutor(t, shell.Options{MaxProcesses: 150, Sandbox: sandbox})
			if !x.Caged() {
				t.Skip("nothing would hold it here if this failed")
			}
			other := make(chan executor.Result)
			go func() {
				j := job("sleep 1", "echo fine")
				j.Dir = t.TempDir()
				other <- x.Run(context.Background(), j, io.Discard)
			}()
			j := job(script)
			j.AfterScript = []string{"echo after"}
			r, log := run(t, x, j)
			if r.Status != pipeline.StatusFailed || r.Reason != pipeline.ScriptFailure || !strings.Contains(r.Message, "more than the 150 that it may") {
				t.Errorf("%+v", r)
			}
			if r.Duration > 30*time.Second {
				t.Errorf("it took %s", r.Duration)
			}
			if !strings.Contains(log, "\nafter\n") {
				t.Error("after_script did not run")
			}
			if r := <-other; r.Status != pipeline.StatusSuccess {
				t.Errorf("the other job: %+v", r)
			}
		})
	}
}

func TestBounded(t *testing.T) { inAndOutside(t, bounded) }

// bounded holds that the kernel bounds what a job takes of memory and processors, or that its log says that nobody does.
func bounded(t *testing.T, sandbox *shell.Sandbox) {
	x := newExecutor(t, shell.Options{Sandbox: sandbox})
	const much = "x=$(head -c 300000000 /dev/zero | tr '\\0' a); echo ${#x}"
	cgroup := `p() { sed -n "s/^[0-9]*:$1:\\(.*\\)/\\1/p" /proc/self/cgroup; }; cat "/sys/fs/cgroup/cpu$(p cpu)/cpu.cfs_quota_us" "/sys/fs/cgroup$(p '')/cpu.max" 2>/dev/null || true`
	for _, c := range []struct {
		name        string
		cpu, memory int64
		early       string // in the file of BASH_ENV, which bash reads before its script
		script      string
		want        pipeline.Status
		log         string // that it has
		message     string
	}{
		{"nothing is bounded", 0, 0, "", much, pipeline.StatusSuccess, "\n300000000\n", ""},
		{"little is taken", 2000, 512 << 20, "", "echo fine", pipeline.StatusSuccess, "\nfine\n", ""},
		{"too much memory", 0, 128 << 20, "", much, pipeline.StatusFailed, "", "wanted more memory than the 128 MiB"},
		{"in the background", 0, 128 << 20, "", "(" + much + ") & wait $!", pipeline.StatusFailed, "", "wanted more memory than the 128 MiB"},
		{"before the script", 0, 128 << 20, "unset BASH_ENV; (" + much + ") & early=$!", "wait $early", pipeline.StatusFailed, "", "wanted more memory than the 128 MiB"},
		{"processors before the script", 500, 0, cgroup, "true", pipeline.StatusSuccess, "\n50000", ""},
		{"and goes on", 0, 128 << 20, "", "(" + much + ") || echo on", pipeline.StatusSuccess, "wanted more memory than the 128 MiB", ""},
		{"processors", 500, 0, "", cgroup, pipeline.StatusSuccess, "\n50000", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := job(c.script)
			j.CPU, j.Memory = c.cpu, c.memory
			if c.early != "" {
				j.Variables = append(j.Variables, pipeline.Variable{Name: "BASH_ENV", Value: c.early, File: true, Raw: true})
			}
			r, log := run(t, x, j)
			if strings.Contains(log, "no cgroup can be made") {
				t.Skipf("nobody may make cgroups here:\n%s", log)
			}
			if r.Status != c.want || !strings.Contains(log, c.log) || !strings.Contains(r.Message, c.message) {
				t.Errorf("%+v\n%s", r, log)
			}
		})
	}
}
