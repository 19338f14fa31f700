package shell

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"keelson.dev/keelson/internal/pipeline/executor"
)

// How long leftovers of a job are given, and how often one looks whether they are gone.
const (
	leftoverGrace = 500 * time.Millisecond
	killBound     = 10 * time.Second
	killPause     = 5 * time.Millisecond
)

// scope is everything that one job has started.
type scope struct {
	mark string // in the environment of its processes
	dir  string // where they work
	pipe string // what their output is, as the kernel names it; empty: not known

	mu      sync.Mutex
	shells  []int        // their process ids, which are those of their groups and sessions too
	alive   map[int]bool // of shells
	started uint64       // when the first of them was started, as the kernel counts
	ending  bool         // all of them have ended
	top     int          // the first process of the sandbox that all of them are in; 0: none
	killed  int          // that of the one that was killed last
}

// scopes are those of the jobs that run, of all executors of this process: orphans are found by whose they are not.
var scopes struct {
	sync.Mutex
	open []*scope
	// starting is held for reading while a shell is started and not known yet: who looks at the processes of the machine holds
	// it for writing, else a shell would be taken for an orphan of another job in the same directory.
	starting sync.RWMutex
}

func newScope(dir string, out *os.File) *scope {
	s := &scope{mark: mark(), dir: dir, pipe: pipeName(out), alive: map[int]bool{}}
	scopes.Lock()
	defer scopes.Unlock()
	scopes.open = append(scopes.open, s)
	return s
}

// start starts a shell of the job in a cage, with its bounds.
func (s *scope) start(c *cage, b *bounds, name string, args []string, attr *os.ProcAttr) (*os.Process, error) {
	scopes.starting.RLock()
	defer scopes.starting.RUnlock()
	p, err := b.start(c, name, args, attr)
	if err != nil {
		return nil, err
	}
	s.add(p)
	return p, nil
}

// add notes a shell of the job.
func (s *scope) add(p *os.Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.shells) == 0 {
		s.started = startTime(p.Pid) // it is there until it is waited for
	}
	s.shells = append(s.shells, p.Pid)
	s.alive[p.Pid] = true
}

// within notes the sandbox by its first process, which is no part of the job.
func (s *scope) within(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.top, s.killed = pid, 0
}

// without notes that a sandbox is over.
func (s *scope) without(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.top == pid {
		s.top = 0
	}
}

// doomed tells whether a sandbox was killed, by its first process.
func (s *scope) doomed(pid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.killed == pid
}

// sandbox is its first process; 0: there is none.
func (s *scope) sandbox() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.top
}

func (s *scope) exited(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.alive, pid)
}

// isShell tells whether a process is a shell of the job, or the first process of its sandbox, that its waiter has not reaped yet.
func (s *scope) isShell(pid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.alive[pid] || pid == s.top
}

func (s *scope) sessions() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.shells)
}

// kill ends everything at once.
func (s *scope) kill() {
	if top := s.sandbox(); top != 0 {
		s.mu.Lock()
		s.killed = top
		s.mu.Unlock()
		_ = syscall.Kill(top, syscall.SIGKILL) // with all that is in it
	}
	for _, pid := range s.sessions() {
		if s.isShell(pid) {
			_ = syscall.Kill(-pid, syscall.SIGKILL)
		}
	}
	s.clear(syscall.SIGKILL, killBound)
}

// freeze stops everything until nothing new appears. What is stopped starts nothing and keeps its place among the processes
// that there may be, so that one can catch up with a job that starts more than one can kill.
func (s *scope) freeze() {
	for start := time.Now(); time.Since(start) < killBound; {
		moving := false
		for _, m := range s.members() {
			if !m.zombie && !m.halted {
				moving = true
				_ = syscall.Kill(m.pid, syscall.SIGSTOP)
			}
		}
		if !moving {
			return
		}
	}
}

// end ends what the job has left running, and tells its log. The job is over: its processes are told to end, and killed a
// little later.
func (s *scope) end(trace *executor.Trace, grace time.Duration) {
	defer s.close()
	s.mu.Lock()
	s.ending = true // before one looks: of several that end at once the last one takes what nobody knows
	s.mu.Unlock()
	if !s.anyLeft() {
		return
	}
	found := s.members()
	if len(found) == 0 {
		return
	}
	for _, pid := range s.sessions() {
		_ = syscall.Kill(-pid, syscall.SIGCONT) // a stopped process does not hear that it is to end
	}
	left := s.clear(syscall.SIGTERM, min(grace, leftoverGrace))
	if left > 0 {
		left = s.clear(syscall.SIGKILL, killBound)
	}
	if list := names(found); list != "" {
		trace.Printf("Ended what the job had left running: %s", list)
	}
	if left > 0 {
		trace.Warningf("%d processes of the job cannot be ended", left)
	}
}

// ends tells whether the job is over but for what it has left running.
func (s *scope) ends() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ending
}

func (s *scope) close() {
	scopes.Lock()
	defer scopes.Unlock()
	scopes.open = slices.DeleteFunc(scopes.open, func(o *scope) bool { return o == s })
}

// clear sends a signal to all members of the scope until none is left or the time is over. It tells how many are left.
func (s *scope) clear(sig syscall.Signal, bound time.Duration) int {
	told := map[int]bool{} // whether it is adopted
	for start := time.Now(); ; time.Sleep(killPause) {
		members := s.members()
		for pid := range told { // the dead do not tell whose they were
			s.reap(member{pid: pid, adopted: told[pid]})
		}
		running := 0
		for _, m := range members {
			if m.zombie {
				s.reap(m)
				continue
			}
			running++
			// New ones appear while their parents die. What was told to end is not told again.
			if _, before := told[m.pid]; sig == syscall.SIGKILL || !before {
				_ = syscall.Kill(m.pid, sig)
				told[m.pid] = m.adopted
			}
		}
		if running == 0 || time.Since(start) > bound {
			return running
		}
	}
}

// member is a process of a scope.
type member struct {
	pid     int
	name    string
	zombie  bool
	halted  bool
	adopted bool // our child
	guessed bool // as far as one knows
}

// reap takes note of the end of an orphan. The shells have their own waiters.
func (s *scope) reap(m member) {
	if m.adopted && !s.isShell(m.pid) {
		var status syscall.WaitStatus
		_, _ = syscall.Wait4(m.pid, &status, syscall.WNOHANG, nil)
	}
}

// names lists processes for a person.
func names(ms []member) string {
	const most = 10
	var b strings.Builder
	n := 0
	for _, m := range ms {
		if m.zombie {
			continue
		}
		if n++; n > most {
			continue
		}
		if n > 1 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s (%d)", m.name, m.pid)
	}
	if n > most {
		fmt.Fprintf(&b, " and %d more", n-most)
	}
	return b.String()
}
