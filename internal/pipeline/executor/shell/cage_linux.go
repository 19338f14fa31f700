package shell

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cage bounds the number of processes and threads that the jobs of one executor have together, in the kernel: what counts
// processes from outside gets no time to do so once a fork bomb has gone off. It is a cgroup where one can be made, else, for
// everybody but root, RLIMIT_NPROC.
//
// Jobs are born in the cgroup. Moving each of them there would take several milliseconds.
type cage struct {
	dir    string   // of the cgroup; empty: there is none
	fd     *os.File // of dir in the unified hierarchy, into which the kernel starts processes
	starts chan func()
	closed atomic.Bool // fd cannot be used
	limit  uint64
}

var cageCount atomic.Int64

// newCage makes a cage for a number of processes and threads; 0 or less: it bounds nothing.
func newCage(limit int) *cage {
	if limit <= 0 {
		return &cage{}
	}
	c := &cage{limit: uint64(limit)}
	for _, h := range hierarchies() {
		for _, parent := range h.dirs {
			sweep(parent)
		}
	}
	for _, h := range hierarchies() {
		if !h.counts("pids") {
			continue
		}
		for _, parent := range h.dirs {
			dir := filepath.Join(parent, fmt.Sprintf("keelson-%d-%d", os.Getpid(), cageCount.Add(1)))
			if os.Mkdir(dir, 0o755) != nil {
				continue
			}
			// The file is there only where processes are counted.
			if err := write(filepath.Join(dir, "pids.max"), limit); err != nil {
				_ = os.Remove(dir)
				continue
			}
			c.dir = dir
			if h.unified {
				c.fd, _ = os.Open(dir)
			} else {
				c.starts = make(chan func())
				go c.serve()
			}
			return c
		}
	}
	return c
}

func write(file string, n int) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.Itoa(n))
	return errors.Join(err, f.Close())
}

// serve starts processes from a thread that is in the cgroup, which they inherit from it.
func (c *cage) serve() {
	apart(func() { // nothing else runs in the cgroup
		_ = write(filepath.Join(c.dir, "tasks"), unix.Gettid())
		for start := range c.starts {
			start()
		}
	})
}

// start starts a process in the cage.
func (c *cage) start(name string, args []string, attr *os.ProcAttr) (p *os.Process, err error) {
	switch {
	case c.fd != nil && !c.closed.Load():
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(c.fd.Fd())
		if p, err = os.StartProcess(name, args, attr); err == nil || errors.Is(err, syscall.E2BIG) {
			return p, err
		}
		// It may not be entered, or is gone. What is wrong with the process itself shows again.
		attr.Sys.UseCgroupFD = false
		c.closed.Store(true)
		return os.StartProcess(name, args, attr)
	case c.starts != nil:
		done := make(chan struct{})
		c.starts <- func() {
			defer close(done)
			p, err = os.StartProcess(name, args, attr)
		}
		<-done
		return p, err
	}
	return os.StartProcess(name, args, attr)
}

// nproc is the RLIMIT_NPROC that scripts have to set for themselves, at once: what they start before somebody else does it has
// none. 0: none. The kernel counts what the user has, which is no more than what the whole machine has.
func (c *cage) nproc() uint64 {
	now := tasks()
	if c.dir != "" && !c.closed.Load() || c.limit == 0 || now == 0 || os.Getuid() == 0 {
		return 0
	}
	var own unix.Rlimit
	bound := uint64(now) + c.limit
	if unix.Getrlimit(unix.RLIMIT_NPROC, &own) != nil || own.Max <= bound {
		return 0
	}
	return bound
}

// full tells whether a process could not be started for the limit's sake.
func (c *cage) full() bool {
	if c.dir == "" {
		return false
	}
	data, err := os.ReadFile(filepath.Join(c.dir, "pids.current"))
	n, _ := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	return err == nil && n >= c.limit*9/10
}

// close removes the cgroup, in which nothing runs any more.
func (c *cage) close() {
	if c.starts != nil {
		close(c.starts)
	}
	if c.fd != nil {
		c.fd.Close()
	}
	if c.dir == "" {
		return
	}
	// The kernel takes note of the end of a thread a little later.
	for range 200 {
		if err := os.Remove(c.dir); err == nil || errors.Is(err, os.ErrNotExist) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// sweep removes what processes have left that were killed.
func sweep(parent string) {
	old, _ := filepath.Glob(filepath.Join(parent, "keelson-*-*"))
	for _, dir := range old {
		pid, _ := strconv.Atoi(strings.Split(filepath.Base(dir), "-")[1])
		if pid > 0 && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.Remove(dir) // fails as long as something runs in it
		}
	}
}

// hierarchy is where cgroups may be made.
type hierarchy struct {
	unified     bool
	controllers []string // of one that is not unified
	dirs        []string // the most suitable one first
}

// hierarchies are those that this process is in, the unified one first.
var hierarchies = sync.OnceValue(func() []hierarchy {
	own, err := os.ReadFile("/proc/self/cgroup")
	mounts, err2 := os.ReadFile("/proc/self/mountinfo")
	if err != nil || err2 != nil {
		return nil
	}
	at := map[string]string{} // the controllers -> the path in their hierarchy
	for line := range strings.Lines(string(own)) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 {
			at[f[1]] = f[2]
		}
	}
	var unified, others []hierarchy
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		b, a := strings.Fields(before), strings.Fields(after)
		if len(b) < 5 || len(a) < 3 {
			continue
		}
		in := func(path string) string {
			rel, err := filepath.Rel(b[3], path)
			if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
				return b[4]
			}
			return filepath.Join(b[4], rel)
		}
		switch a[0] {
		case "cgroup2":
			dir := in(at[""])
			dirs := []string{dir}
			if dir != b[4] {
				dirs = append(dirs, filepath.Dir(dir)) // beside it: a group with processes has no groups that count below it
			}
			unified = append(unified, hierarchy{unified: true, dirs: dirs})
		case "cgroup":
			options := strings.Split(a[2], ",")
			for controllers, path := range at {
				names := strings.Split(controllers, ",")
				if names[0] != "" && !strings.HasPrefix(names[0], "name=") && slices.Contains(options, names[0]) {
					others = append(others, hierarchy{controllers: names, dirs: []string{in(path)}})
				}
			}
		}
	}
	return append(unified, others...)
})

// counts tells whether a hierarchy may have a controller; of the unified one only its files tell.
func (h hierarchy) counts(controller string) bool {
	return h.unified || slices.Contains(h.controllers, controller)
}

// hurry lets the calling goroutine's thread come before the jobs, where that is allowed. The thread ends with the goroutine.
func hurry() {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		runtime.UnlockOSThread() // the first thread would stay in a hurry
		return
	}
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -20)
}
