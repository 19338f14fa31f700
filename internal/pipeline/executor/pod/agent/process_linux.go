package agent

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// family are the processes of the container: those that the agent has started, and the orphans that it inherits.
type family struct {
	mu      sync.Mutex
	waiting map[int]chan int // the exit codes of those that somebody waits for
}

// newFamily makes this process inherit orphans, and buries the dead from now on.
func newFamily() *family {
	f := &family{waiting: map[int]chan int{}}
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) // the first process of a container needs it not
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	go func() {
		for range died {
			f.bury()
		}
	}()
	return f
}

// bury waits for all that have ended.
func (f *family) bury() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if pid <= 0 || err != nil {
			return
		}
		if exited, ok := f.waiting[pid]; ok {
			exited <- exitCode(status)
			delete(f.waiting, pid)
		}
	}
}

// exitCode is the code of a process as a shell has it.
func exitCode(s syscall.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

// start starts a program in a session of its own.
func (f *family) start(program string, args, env []string, dir string, in, out *os.File) (pid int, exited <-chan int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, err := os.StartProcess(program, args, &os.ProcAttr{Dir: dir, Env: env, Files: []*os.File{in, out, out}, Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		return 0, nil, err
	}
	done := make(chan int, 1)
	f.waiting[p.Pid] = done
	pid = p.Pid
	_ = p.Release() // it is buried here
	return pid, done, nil
}

// end kills all processes but this one, and those that are above it. False: some are left.
func (f *family) end() bool {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if os.Getpid() == 1 {
			_ = unix.Kill(-1, unix.SIGKILL) // all of the container; none: nothing is left
		} else {
			for _, pid := range descendants() {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		f.bury()
		if f.none() {
			return true
		}
		time.Sleep(2 * time.Millisecond)
	}
	return false
}

// none tells whether there are no children any more.
func (f *family) none() bool {
	var info unix.Siginfo
	return errors.Is(unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil), unix.ECHILD)
}

// descendants are the processes that have come of this one.
func descendants() []int {
	parents := map[int]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has gone
		}
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:])) // state parent …
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if len(fields) > 1 && fields[0] != "Z" {
			parents[pid], _ = strconv.Atoi(fields[1])
		}
	}
	self := os.Getpid()
	var found []int
	for pid := range parents {
		for at, steps := pid, 0; at > 1 && steps < 1000; at, steps = parents[at], steps+1 {
			if parents[at] == self {
				found = append(found, pid)
				break
			}
		}
	}
	return found
}

// oomKills is how many processes of the container the kernel has killed for their memory.
func oomKills() int {
	for _, path := range []string{"/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"} {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
				count, _ := strconv.Atoi(n)
				return count
			}
		}
	}
	return 0
}

// shell finds the shell of the image.
func shell() (program string, bash bool, err error) {
	if program, err = exec.LookPath("bash"); err == nil {
		return program, true, nil
	}
	program, err = exec.LookPath("sh")
	return program, false, err
}
