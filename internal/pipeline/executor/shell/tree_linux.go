package shell

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// adoptOrphans makes this process the parent of what its descendants leave behind, which would else be hidden among the
// children of init.
var adoptOrphans = sync.OnceFunc(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })

// pipeName is how /proc names a pipe.
func pipeName(f *os.File) string {
	c, err := f.SyscallConn()
	if err != nil {
		return ""
	}
	var name string
	_ = c.Control(func(fd uintptr) {
		var st syscall.Stat_t
		if syscall.Fstat(int(fd), &st) == nil {
			name = fmt.Sprintf("pipe:[%d]", st.Ino)
		}
	})
	return name
}

// process is what /proc tells of one.
type process struct {
	pid, parent, session int
	state                byte
	name                 string
	started              uint64 // ticks since the machine's start
}

// look reads a process; false: it is gone.
func look(pid int) (process, bool) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if err != nil || open < 0 || end < open || end+2 > len(data) {
		return process{}, false
	}
	f := strings.Fields(string(data[end+2:]))
	if len(f) < 20 {
		return process{}, false
	}
	p := process{pid: pid, name: string(data[open+1 : end]), state: f[0][0]}
	p.parent, _ = strconv.Atoi(f[1])
	p.session, _ = strconv.Atoi(f[3])
	p.started, _ = strconv.ParseUint(f[19], 10, 64)
	return p, true
}

// processes are all of the machine's.
func processes() []process {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	ps := make([]process, 0, len(names))
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			if p, ok := look(pid); ok {
				ps = append(ps, p)
			}
		}
	}
	return ps
}

// anyLeft tells whether a job whose shells have ended may have left something running, at little cost: what remains of it hangs
// below an orphan, which is a child of this process's first thread.
func (s *scope) anyLeft() bool {
	if top := s.sandbox(); top != 0 {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", top))
		return err != nil || len(children) > 0
	}
	scopes.starting.Lock()
	children, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	scopes.starting.Unlock()
	if err != nil {
		return true // this kernel does not tell
	}
	others := openScopes(s)
	for _, field := range bytes.Fields(children) {
		pid, err := strconv.Atoi(string(field))
		if err != nil || s.isShell(pid) || slices.ContainsFunc(others, func(o *scope) bool { return o.isShell(pid) }) {
			continue
		}
		return true
	}
	return false
}

// openScopes are those of the other jobs that run.
func openScopes(s *scope) []*scope {
	scopes.Lock()
	defer scopes.Unlock()
	return slices.DeleteFunc(slices.Clone(scopes.open), func(o *scope) bool { return o == s })
}

// claim is how sure it is that a process is a job's.
type claim int

const (
	foreign claim = iota
	guessed       // nobody else's, as far as one knows: enough to end it with the job, not to end the job for it
	certain
)

// members finds all processes of the job: those of the sessions of its shells, the orphans that are the job's, and what descends
// from either.
func (s *scope) members() []member {
	scopes.starting.Lock()
	all := processes()
	scopes.starting.Unlock()
	sessions := s.sessions()
	others := openScopes(s)
	self, top := os.Getpid(), s.sandbox()
	in := map[int]claim{}
	for _, p := range all {
		switch {
		case p.pid == self:
		case p.pid == top:
			in[p.pid] = certain // and all below it
		case slices.Contains(sessions, p.session):
			in[p.pid] = certain
		case p.parent == self:
			in[p.pid] = s.owns(p, others)
		}
	}
	// Parents may come after their children.
	for grown := true; grown; {
		grown = false
		for _, p := range all {
			if in[p.pid] == foreign && in[p.parent] != foreign {
				in[p.pid], grown = in[p.parent], true
			}
		}
	}
	var ms []member
	for _, p := range all {
		if in[p.pid] != foreign && p.pid != top {
			ms = append(ms, member{
				pid: p.pid, name: p.name, adopted: p.parent == self, guessed: in[p.pid] == guessed,
				zombie: p.dead(), halted: p.state == 'T' || p.state == 't',
			})
		}
	}
	return ms
}

// dead tells whether a process has ended: of one that has, /proc tells neither environment nor output nor directory.
func (p process) dead() bool { return p.state == 'Z' || p.state == 'X' }

// owns tells whether a child of this process is an orphan of the job. It may be a child that other code has started, or an
// orphan of another job.
func (s *scope) owns(p process, others []*scope) claim {
	if s.isShell(p.pid) {
		return certain
	}
	if !s.since(p) {
		return foreign
	}
	for _, o := range others {
		if o.isShell(p.pid) || slices.Contains(o.sessions(), p.session) {
			return foreign
		}
	}
	base := "/proc/" + strconv.Itoa(p.pid)
	environ, _ := os.ReadFile(base + "/environ")
	if marked, ok := marks(environ); ok {
		if slices.Contains(strings.Split(marked, ":"), s.mark) {
			return certain
		}
		return foreign
	}
	for _, fd := range []string{"/fd/1", "/fd/2"} {
		if at, err := os.Readlink(base + fd); err == nil && at == s.pipe {
			return certain
		}
	}
	// It ends, or it has thrown away its environment and its output. That it left a session tells that it is a job's, and where it works
	// maybe whose. The last job that ends ends what nobody knows, and so does the last one of those in one directory.
	if p.session == ownSession() {
		return foreign
	}
	if len(others) == 0 && !p.dead() {
		return certain
	}
	others = slices.DeleteFunc(slices.Clone(others), (*scope).ends)
	if len(others) == 0 {
		return guessed
	}
	at, err := os.Readlink(base + "/cwd")
	if err == nil && within(at, s.dir) && !slices.ContainsFunc(others, func(o *scope) bool { return within(o.dir, s.dir) || within(s.dir, o.dir) }) {
		return guessed
	}
	return foreign
}

// since tells whether a process has started since the first shell of the job: what was there before is not the job's.
func (s *scope) since(p process) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.shells) > 0 && p.started >= s.started
}

// startTime is when a process was started, in ticks since the machine's start.
func startTime(pid int) uint64 {
	p, _ := look(pid)
	return p.started
}

// within tells whether a path is a directory or in it.
func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// marks gives the mark in the environment of a process, with those of the jobs in which the one that made it runs: outer:inner.
func marks(environ []byte) (mark string, ok bool) {
	for kv := range bytes.SplitSeq(environ, []byte{0}) {
		if v, ok := bytes.CutPrefix(kv, []byte(markName+"=")); ok {
			return string(v), true
		}
	}
	return "", false
}

var ownSession = sync.OnceValue(func() int {
	sid, _ := unix.Getsid(0)
	return sid
})

// tasks is the number of processes and threads of the machine; 0: not known.
func tasks() int {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	if f := strings.Fields(string(data)); len(f) > 3 {
		_, total, _ := strings.Cut(f[3], "/")
		n, _ := strconv.Atoi(total)
		return n
	}
	return 0
}

// written is what processes have written, in bytes, with those of their children that have ended: to disks, and to anything,
// pipes and file systems in memory as well.
func written(ms []member) (disk, all int64) {
	for _, m := range ms {
		data, _ := os.ReadFile("/proc/" + strconv.Itoa(m.pid) + "/io")
		for line := range strings.Lines(string(data)) {
			name, v, _ := strings.Cut(line, ": ")
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			switch name {
			case "write_bytes":
				disk += n
			case "wchar":
				all += n
			}
		}
	}
	return disk, all
}
