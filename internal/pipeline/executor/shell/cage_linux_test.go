package shell

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// start runs a command in a cage and gives what it says.
func start(t *testing.T, c *cage, command string) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := c.start("/bin/sh", []string{"sh", "-c", command}, &os.ProcAttr{Files: []*os.File{nil, w, w}, Sys: &syscall.SysProcAttr{Setsid: true}})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if _, waited := p.Wait(); err != nil || waited != nil {
		t.Fatal(err, waited)
	}
	return string(out)
}

// Processes are born in the cage, and it goes away with its executor.
func TestCage(t *testing.T) {
	c := newCage(100)
	if c.dir == "" {
		t.Skip("no cgroup can be made")
	}
	if out := start(t, c, "cat /proc/self/cgroup"); !strings.Contains(out, "/"+filepath.Base(c.dir)+"\n") {
		t.Errorf("not in %s:\n%s", c.dir, out)
	}
	if out := start(t, c, "for i in $(seq 200); do sleep 1 & done; wait"); !strings.Contains(strings.ToLower(out), "fork") {
		t.Errorf("200 processes where 100 may be: %q", out)
	}
	// Nobody ends what is left here; only the thread that starts processes stays.
	for range 200 {
		if n, _ := os.ReadFile(filepath.Join(c.dir, "pids.current")); len(n) > 0 && n[0] <= '1' && len(strings.TrimSpace(string(n))) == 1 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.close()
	if _, err := os.Stat(c.dir); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
}

// In the unified hierarchy the kernel starts processes where it is told to.
func TestUnifiedCage(t *testing.T) {
	for _, h := range hierarchies() {
		if !h.unified {
			continue
		}
		dir := filepath.Join(h.dirs[0], "keelson-cage-test")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Skip(err)
		}
		fd, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		c := &cage{dir: dir, fd: fd, limit: 100}
		if out := start(t, c, "cat /proc/self/cgroup"); !strings.Contains(out, "0::/keelson-cage-test\n") {
			t.Error(out)
		}
		c.close()
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("it is still there: %v", err)
		}
		if out := start(t, c, "echo ran"); out != "ran\n" || !c.closed.Load() {
			t.Errorf("without its group: %q", out)
		}
		return
	}
	t.Skip("there is no unified hierarchy")
}
