package shell

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	"keelson.dev/keelson/internal/pipeline/diskspace"
)

// How often one looks at what jobs take of the machine.
const (
	watchPause = 100 * time.Millisecond
	tidyEvery  = 10 // looks
)

// watch ends jobs that take more of the machine than they may. It looks as long as a job runs; what it looks at costs little
// until something grows.
type watch struct {
	maxProcesses int
	reserve      int64
	cage         *cage

	mu      sync.Mutex
	jobs    map[*job]*watched
	running bool
	tasks   int // of the machine when the first of the jobs began
	full    int // looks at which the cage was full, one after the other
}

// watched is how a job is ended.
type watched struct {
	stop    context.CancelCauseFunc
	stopped bool // that is under way; it is not to blame for what comes now
}

func newWatch(o Options) *watch {
	return &watch{maxProcesses: o.MaxProcesses, reserve: o.Reserve, jobs: map[*job]*watched{}}
}

func (w *watch) add(j *job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.jobs[j] = &watched{stop: j.stop}
	if !w.running {
		w.running = true
		w.tasks = 0
		go w.run()
	}
}

// redirect has another function end a job from now on.
func (w *watch) redirect(j *job, stop context.CancelCauseFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.jobs[j]; ok {
		w.jobs[j] = &watched{stop: stop}
	}
}

func (w *watch) remove(j *job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.jobs, j)
}

// run looks until no job runs.
func (w *watch) run() {
	hurry()
	t := time.NewTicker(watchPause)
	defer t.Stop()
	for n := 0; ; n++ {
		w.mu.Lock()
		jobs := make([]*job, 0, len(w.jobs))
		for j, how := range w.jobs {
			if !how.stopped {
				jobs = append(jobs, j)
			}
		}
		if len(w.jobs) == 0 {
			w.running = false
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		<-t.C
		w.countProcesses(jobs)
		w.measureDisks(jobs)
		if n%tidyEvery == tidyEvery-1 {
			tidy(jobs)
		}
	}
}

// stop ends a job that breaks a bound.
func (w *watch) stop(j *job, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if how, ok := w.jobs[j]; ok && !how.stopped {
		how.stopped = true
		how.stop(boundError(fmt.Sprintf(format, args...)))
	}
}

// tidy reaps orphans that have ended while their job goes on.
func tidy(jobs []*job) {
	for _, j := range jobs {
		if !j.scope.anyLeft() {
			continue
		}
		for _, m := range j.scope.members() {
			if m.zombie {
				j.scope.reap(m)
			}
		}
	}
}

// countProcesses stops jobs that have too many processes. They are only counted once the machine has many more than before.
func (w *watch) countProcesses(jobs []*job) {
	if w.maxProcesses < 0 {
		return
	}
	now := tasks()
	if w.tasks == 0 || now < w.tasks {
		w.tasks = now
	}
	full := w.cage.full()
	if w.full++; !full {
		w.full = 0
	}
	if now != 0 && now-w.tasks < w.maxProcesses/2 && !full {
		return
	}
	var most *job
	count := 0
	for _, j := range jobs {
		n := 0
		for _, m := range j.scope.members() {
			if !m.guessed {
				n++
			}
		}
		if n > w.maxProcesses {
			w.stop(j, "the job had %d processes at a time, more than the %d that it may; it was killed", n, w.maxProcesses)
			full = false
		} else if n > count {
			most, count = j, n
		}
	}
	if full && most != nil && w.blame(count, len(jobs)) {
		w.stop(most, "the jobs that run had more than %d processes and threads together; this one, which had the most processes (%d), was killed", cageFactor*w.maxProcesses*9/10, count)
	}
}

// patience is how many looks at a full cage it takes until the job with the most processes is to blame, however few these are.
const patience = 10

// blame tells whether the job with the most processes, of so many jobs, may be ended for a full cage. While another one is being
// ended the processes may be its, and those of one that has ended count for a moment longer.
func (w *watch) blame(count, jobs int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, how := range w.jobs {
		if how.stopped {
			return false
		}
	}
	share := int(w.cage.limit) / jobs / 2
	return count >= share || w.full > patience
}

// measureDisks stops the job that has written most when a file system that jobs work on gets full.
func (w *watch) measureDisks(jobs []*job) {
	if w.reserve < 0 {
		return
	}
	for _, j := range jobs {
		for _, d := range j.disks {
			left, ok := diskspace.Free(d.path)
			if !ok || left >= d.reserve {
				continue
			}
			most, bytes := busiest(jobs)
			w.stop(most, "%s has only %d MiB left, and jobs leave %d MiB free; this one, which had written most of those that run (%d MiB), was killed",
				d.path, left>>20, d.reserve>>20, bytes>>20)
			w.makeDo(d.device, left/2)
			return
		}
	}
}

// makeDo has the jobs that run leave no more than this free: what one of them wrote stays, and the others shall not have to answer
// for it. It is called by the watch alone, which alone reads what jobs leave free.
func (w *watch) makeDo(device uint64, reserve int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for j := range w.jobs {
		for i := range j.disks {
			if d := &j.disks[i]; d.device == device {
				d.reserve = min(d.reserve, reserve)
			}
		}
	}
}

// minWritten are the bytes from which on what a job has written to disks tells who fills them; else the file system is in memory.
const minWritten = 1 << 20

// busiest is the job that has written most.
func busiest(jobs []*job) (most *job, bytes int64) {
	var busy *job
	var busyBytes int64 = -1
	bytes = -1
	for _, j := range jobs {
		disk, all := written(j.scope.members())
		if disk > bytes {
			most, bytes = j, disk
		}
		if all > busyBytes {
			busy, busyBytes = j, all
		}
	}
	if bytes < minWritten {
		return busy, busyBytes
	}
	return most, bytes
}

// disk is a file system that a job works on.
type disk struct {
	path    string
	device  uint64
	reserve int64 // bytes that have to stay free
}

// disks are those of these directories. Where little is free to begin with, half of it may be used.
func disks(reserve int64, dirs ...string) []disk {
	var ds []disk
	if reserve < 0 {
		return nil
	}
next:
	for _, dir := range dirs {
		var st syscall.Stat_t
		left, ok := diskspace.Free(dir)
		if !ok || syscall.Stat(dir, &st) != nil {
			continue
		}
		for _, d := range ds {
			if d.device == uint64(st.Dev) { //nolint:unconvert // its type differs between systems
				continue next
			}
		}
		ds = append(ds, disk{path: dir, device: uint64(st.Dev), reserve: min(reserve, left/2)}) //nolint:unconvert // as above
	}
	return ds
}
