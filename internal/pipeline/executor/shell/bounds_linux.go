package shell

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"keelson.dev/keelson/internal/pipeline/executor"
)

// bounds are cgroups that bound what a job takes of the processors and of the memory: one where the hierarchy is unified, else one for each.
// A nil *bounds bounds nothing.
//
// The shells of a job are not born in them, as those of other jobs share their keeper. Each of them stops itself before it does anything else,
// is moved, and goes on.
type bounds struct {
	dirs   []string
	memory int64  // bytes; 0: they are not bounded
	events string // the file that counts what was killed for want of memory
	killed int    // what of that was told
}

const (
	cpuPeriod = 100_000 // microseconds, the kernel's own
	minQuota  = 1_000   // microseconds, the least that the kernel takes
	// holdPatience is how long a shell may take to stop itself.
	holdPatience = 10 * time.Second
	// holdPause is how often one looks whether it has.
	holdPause = 500 * time.Microsecond
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

// holding has the shell of a script stop itself first.
func (b *bounds) holding(script string) string {
	if b == nil {
		return script
	}
	return "kill -STOP $$\n" + script
}

// take moves a shell that stops itself into the cgroups, and lets it go on.
func (b *bounds) take(ctx context.Context, pid int) error {
	if b == nil {
		return nil
	}
	for start := time.Now(); ; time.Sleep(holdPause) {
		switch state := processState(pid); {
		case state == 'T':
		case state == 0 || state == 'Z':
			return nil // it is over, so it takes nothing
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case time.Since(start) > holdPatience:
			return errors.New("the shell of the job did not wait to be bounded")
		default:
			continue
		}
		break
	}
	for _, dir := range b.dirs {
		if err := write(filepath.Join(dir, "cgroup.procs"), pid); err != nil {
			return fmt.Errorf("bound what the job takes: %w", err)
		}
	}
	return syscall.Kill(pid, syscall.SIGCONT)
}

// processState is the state of a process as the kernel writes it; 0: there is none.
func processState(pid int) byte {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, after, ok := strings.Cut(string(data[strings.LastIndexByte(string(data), ')')+1:]), " ")
	if !ok || after == "" {
		return 0
	}
	return after[0]
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
