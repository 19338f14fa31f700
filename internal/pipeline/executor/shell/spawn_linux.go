package shell

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// program is what a process does between its start and its end, or until it is another program: system calls, one after the other.
//
// It is run by a copy of this process that has one thread and no runtime any more, in which Go code that takes a lock, allocates
// or grows its stack would stand still for ever. So all that it needs is made before.
type program struct {
	calls []call
	names []string
	pins  []any // what the calls point to
}

// call is a system call.
type call struct {
	number uintptr
	args   [5]uintptr
	may    bool // fail
}

func (p *program) add(name string, number uintptr, args ...uintptr) {
	c := call{number: number}
	copy(c.args[:], args)
	p.calls, p.names = append(p.calls, c), append(p.names, name)
}

// try adds a call whose failure makes no difference.
func (p *program) try(number uintptr, args ...uintptr) {
	p.add("", number, args...)
	p.calls[len(p.calls)-1].may = true
}

// pin keeps what a pointer points to as long as the program, and gives its address.
func pin[T any](p *program, v *T) uintptr {
	p.pins = append(p.pins, v)
	return uintptr(unsafe.Pointer(v))
}

// text gives the address of a string.
func (p *program) text(s string) uintptr {
	b := append([]byte(s), 0)
	p.pins = append(p.pins, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

// texts gives the address of a list of strings as execve wants it.
func (p *program) texts(list []string) uintptr {
	all := make([]uintptr, len(list)+1)
	for i, s := range list {
		all[i] = p.text(s)
	}
	p.pins = append(p.pins, all)
	return uintptr(unsafe.Pointer(&all[0]))
}

// The size of a set of signals, in bytes, and the handler that ignores one.
const (
	sigsetSize = 8
	sigIgnore  = 1
)

// sigaction is the kernel's.
type sigaction struct {
	handler uintptr
	_       uintptr // flags
	_       uintptr // restorer
	_       uint64  // mask
}

// capabilities is what capset takes for none at all.
type capabilities struct {
	header unix.CapUserHeader
	data   [2]unix.CapUserData
}

// unprivileged takes away for good what else only root may do.
func (p *program) unprivileged() {
	p.add("give up privileges for good", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)
	for c := range uintptr(unix.CAP_LAST_CAP + 20) { // also those of newer kernels
		p.try(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c)
	}
	p.try(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL)
}

// powerless drops the capabilities that are left.
func (p *program) powerless() {
	none := &capabilities{header: unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}}
	at := pin(p, none)
	p.add("drop capabilities", unix.SYS_CAPSET, at, at+unsafe.Offsetof(none.data))
}

// initProgram is the first process of a sandbox. It has the namespaces, takes what jobs leave behind, and ends with the server;
// what runs in the sandbox ends with it. The job cannot look into it or tell it anything.
func initProgram() *program {
	p := &program{}
	p.add("begin a session", unix.SYS_SETSID)
	p.add("mount /proc", unix.SYS_MOUNT, p.text("proc"), p.text("/proc"), p.text("proc"), unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC)
	p.unprivileged()
	p.powerless()
	p.add("keep its memory to itself", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0)
	p.add("end with the server", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL))
	p.add("have orphans reaped", unix.SYS_RT_SIGACTION, uintptr(unix.SIGCHLD), pin(p, &sigaction{handler: sigIgnore}), 0, sigsetSize)
	p.add("close files", unix.SYS_CLOSE_RANGE, 0, 1<<32-1) // with the report's: the parent knows that all is done
	return p
}

// program is that of a shell; fds are its standard input, its output, the sandbox, and cgroups.
func (s *shellRequest) program(fds []int) (*program, error) {
	p := &program{}
	p.add("begin a session", unix.SYS_SETSID)
	for _, fd := range fds[3:] {
		p.add("bound what the job takes", unix.SYS_WRITE, uintptr(fd), p.text("0"), 1) // 0 is the process itself
	}
	p.unprivileged()
	if s.User != 0 {
		id := uintptr(s.User)
		p.add("leave the groups", unix.SYS_SETGROUPS, 0)
		p.add("change the group", unix.SYS_SETRESGID, id, id, id)
		if s.Processes > 0 {
			limit := &unix.Rlimit{Cur: s.Processes, Max: s.Processes}
			p.add("bound the processes", unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NPROC, pin(p, limit))
		}
		p.add("change the user", unix.SYS_SETRESUID, id, id, id)
	}
	p.powerless()
	p.add("bound dumps of memory", unix.SYS_PRLIMIT64, 0, unix.RLIMIT_CORE, pin(p, &unix.Rlimit{}))
	p.add("enter the job's directory", unix.SYS_CHDIR, p.text(s.Dir))
	for to, from := range []int{fds[0], fds[1], fds[1]} {
		p.add("pass files", unix.SYS_DUP3, uintptr(from), uintptr(to), 0)
	}
	p.add("keep files", unix.SYS_CLOSE_RANGE, 3, 1<<32-1, unix.CLOSE_RANGE_CLOEXEC)
	p.add("listen to signals", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, pin(p, new(uint64)), 0, sigsetSize)
	p.add("start the shell", unix.SYS_EXECVE, p.text(s.Program), p.texts(s.Args), p.texts(s.Env))
	return p, nil
}

// start starts a process that runs the program, as a child of this process's parent.
func (p *program) start(flags uintptr) reply {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return failed(err)
	}
	defer unix.Close(pipe[0]) //nolint:errcheck // it was only read
	all, before := ^uint64(0), uint64(0)
	mask(&all, &before)
	pid, errno := spawn(flags|unix.CLONE_PARENT|uintptr(unix.SIGCHLD), &p.calls[0], uintptr(len(p.calls)), uintptr(pipe[1]))
	mask(&before, nil)
	runtime.KeepAlive(p)
	_ = unix.Close(pipe[1])
	if errno != 0 {
		return reply{What: "start a process", Errno: errno}
	}
	var report [2]uintptr
	b := unsafe.Slice((*byte)(unsafe.Pointer(&report)), unsafe.Sizeof(report))
	for {
		switch n, err := unix.Read(pipe[0], b); {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return reply{PID: int(pid), What: fmt.Sprintf("read what became of a process: %s", err)}
		case n == len(b) && report[0] < uintptr(len(p.names)):
			return reply{PID: int(pid), What: p.names[report[0]], Errno: syscall.Errno(report[1])}
		}
		return reply{PID: int(pid)}
	}
}

func mask(set, old *uint64) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), sigsetSize, 0, 0)
}

// spawn makes a copy of this process, with all signals blocked, that runs calls to their end and then sleeps; where one of them
// fails it writes its index and the error to the pipe and ends.
//
// From the copy on there is no runtime: this function calls nothing that may grow the stack, and writes no pointers.
//
//go:norace
//go:noinline
//go:nosplit
func spawn(flags uintptr, calls *call, n, pipe uintptr) (pid uintptr, errno syscall.Errno) {
	pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE, flags, 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	for i := uintptr(0); i < n; i++ {
		c := (*call)(unsafe.Add(unsafe.Pointer(calls), i*unsafe.Sizeof(call{})))
		_, _, errno = syscall.RawSyscall6(c.number, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], 0)
		if errno != 0 && !c.may {
			report := [2]uintptr{i, uintptr(errno)}
			_, _, _ = syscall.RawSyscall6(unix.SYS_WRITE, pipe, uintptr(unsafe.Pointer(&report)), unsafe.Sizeof(report), 0, 0, 0)
			_, _, _ = syscall.RawSyscall6(unix.SYS_EXIT_GROUP, 127, 0, 0, 0, 0, 0)
		}
	}
	for {
		_, _, _ = syscall.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
}
