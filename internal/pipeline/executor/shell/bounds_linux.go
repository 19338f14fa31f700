package shell

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"keelson.dev/keelson/internal/pipeline/executor"
)

// bounds are cgroups that bound what a job takes of the processors and of the memory: one where the hierarchy is unified, else one for each.
// A nil *bounds bounds nothing.
//
// The process of a shell is in them before it becomes the shell: what the job's variables have the shell do first (BASH_ENV, LD_PRELOAD) is
// bounded too.
type bounds struct {
	dirs   []string
	memory int64  // bytes; 0: they are not bounded
	events string // the file that counts what was killed for want of memory
	killed int    // what of that was told
}

const (
	cpuPeriod = 100_000 // microseconds, the kernel's own
	minQuota  = 1_000   // microseconds, the least that the kernel takes
)

// newBounds makes the bounds of a job, and tells its log what cannot be bounded. The cgroup of the processes that all jobs have together does
// not count these where the hierarchy is unified, so it has a number of its own.
func newBounds(cpu, memory int64, processes int, trace *executor.Trace) *bounds {
	b := &bounds{}
	for _, want := range []struct {
		what, controller string
		files, old       []setting // of the unified hierarchy, and of the others
		asked            bool
	}{
		{
			what: fmt.Sprintf("memory to %d MiB", memory>>20), controller: "memory", asked: memory > 0,
			files: []setting{{"memory.max", memory, "", false}, {"memory.swap.max", 0, "", true}},
			old:   []setting{{"memory.limit_in_bytes", memory, "", false}, {"memory.memsw.limit_in_bytes", memory, "", true}},
		},
		{
			what: fmt.Sprintf("processors to %.3g", float64(cpu)/1000), controller: "cpu", asked: cpu > 0,
			files: []setting{{"cpu.max", quota(cpu), " " + strconv.Itoa(cpuPeriod), false}},
			old:   []setting{{"cpu.cfs_period_us", cpuPeriod, "", false}, {"cpu.cfs_quota_us", quota(cpu), "", false}},
		},
	} {
		if want.asked && !b.bound(want.controller, want.files, want.old, processes) {
			trace.Warningf("What the job takes is not bounded, as its project says (%s): no cgroup can be made for it here", want.what)
		} else if want.asked && want.controller == "memory" {
			b.memory = memory
		}
	}
	if len(b.dirs) == 0 {
		return nil
	}
	return b
}

func quota(cpu int64) int64 { return max(cpu*cpuPeriod/1000, minQuota) }

// bound has a controller bound the job; false: that cannot be done here.
func (b *bounds) bound(controller string, files, old []setting, processes int) bool {
	for _, h := range hierarchies() {
		if !h.counts(controller) {
			continue
		}
		settings := old
		if h.unified {
			settings = files
		}
		for _, parent := range h.dirs {
			dir := filepath.Join(parent, fmt.Sprintf("keelson-%d-%d", os.Getpid(), cageCount.Add(1)))
			made := true
			if at := b.within(parent); h.unified && at != "" { // one for all
				dir, made = at, false
			} else if os.Mkdir(dir, 0o755) != nil {
				continue
			}
			if setAll(dir, settings) != nil {
				if made {
					_ = os.Remove(dir)
				}
				continue
			}
			if made {
				b.dirs = append(b.dirs, dir)
				if h.unified && processes > 0 {
					_ = write(filepath.Join(dir, "pids.max"), processes)
				}
			}
			if controller == "memory" {
				b.events = filepath.Join(dir, "memory.oom_control")
				if h.unified {
					b.events = filepath.Join(dir, "memory.events")
				}
			}
			return true
		}
	}
	return false
}

// within gives the cgroup of the job that is below a directory; empty: there is none.
func (b *bounds) within(parent string) string {
	for _, dir := range b.dirs {
		if filepath.Dir(dir) == parent {
			return dir
		}
	}
	return ""
}

// setting is what a file of a cgroup is to say.
type setting struct {
	name     string
	value    int64
	rest     string
	optional bool // the kernel need not have the file
}

// setAll writes what a cgroup is to bound.
func setAll(dir string, settings []setting) error {
	for _, s := range settings {
		f, err := os.OpenFile(filepath.Join(dir, s.name), os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString(strconv.FormatInt(s.value, 10) + s.rest)
			err = errors.Join(err, f.Close())
		}
		if err != nil && !s.optional {
			return err
		}
	}
	return nil
}

// joins are the files by which a process puts itself into the cgroups.
func (b *bounds) joins() (files []*os.File, err error) {
	if b == nil {
		return nil, nil
	}
	for _, dir := range b.dirs {
		f, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("bound what the job takes: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}

// start starts a shell that is in no sandbox, in the cgroups and in a cage: from a thread that is in those which are not unified, as shells inherit
// them, and by the kernel into the unified one.
func (b *bounds) start(c *cage, name string, args []string, attr *os.ProcAttr) (p *os.Process, err error) {
	if b == nil {
		return c.start(name, args, attr)
	}
	apart(func() {
		dirs := b.dirs
		if c.dir != "" && c.starts != nil {
			dirs = append(slices.Clip(dirs), c.dir)
		}
		var unified string
		for _, dir := range dirs {
			if err = write(filepath.Join(dir, "tasks"), unix.Gettid()); errors.Is(err, fs.ErrNotExist) { // only the unified one has no such file
				unified, err = dir, nil
			}
			if err != nil {
				err = fmt.Errorf("bound what the job takes: %w", err)
				return
			}
		}
		switch {
		case unified != "":
			p, err = startIn(unified, name, args, attr)
		case c.starts != nil: // the thread is in it
			p, err = os.StartProcess(name, args, attr)
		default:
			p, err = c.start(name, args, attr)
		}
	})
	return p, err
}

// startIn starts a process in a cgroup of the unified hierarchy.
func startIn(dir, name string, args []string, attr *os.ProcAttr) (*os.Process, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("bound what the job takes: %w", err)
	}
	defer f.Close()
	attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(f.Fd())
	p, err := os.StartProcess(name, args, attr)
	if err == nil || errors.Is(err, syscall.E2BIG) {
		return p, err
	}
	attr.Sys.UseCgroupFD = false // an older kernel cannot do that: then a moment later
	if p, err = os.StartProcess(name, args, attr); err != nil {
		return nil, err
	}
	if err := write(filepath.Join(dir, "cgroup.procs"), p.Pid); err != nil {
		_ = p.Kill()
		_, _ = p.Wait()
		return nil, fmt.Errorf("bound what the job takes: %w", err)
	}
	return p, nil
}

// apart does something on a thread that ends with it.
func apart(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		if unix.Gettid() == os.Getpid() {
			apart(do) // the first thread of a process does not end; as long as it is held here another one is taken
			runtime.UnlockOSThread()
			return
		}
		do()
	}()
	<-done
}

// exceeded tells that the kernel has killed something since one has asked last, as the job wanted more memory than it may have; empty: it has
// not.
func (b *bounds) exceeded() string {
	if b == nil || b.events == "" {
		return ""
	}
	data, err := os.ReadFile(b.events)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if text, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(text))
			if n > b.killed {
				b.killed = n
				return fmt.Sprintf("the job wanted more memory than the %d MiB that its project lets it have, and the kernel has killed a process of it", b.memory>>20)
			}
		}
	}
	return ""
}

// close removes the cgroups, in which nothing runs any more.
func (b *bounds) close() {
	if b == nil {
		return
	}
	for _, dir := range b.dirs {
		for range 200 { // the kernel takes note of the end of a process a little later
			if err := os.Remove(dir); err == nil || errors.Is(err, os.ErrNotExist) {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
}
