package shell

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// keeperSocket is the file by which the child speaks to its parent.
const keeperSocket = 3

// maxRequest bounds what a keeper is told, in bytes: Linux takes 6 MiB of arguments and environment.
const maxRequest = 16 << 20

// maxFiles is how many files may come with a request.
const maxFiles = 8

// request is what the server asks its keeper for: a sandbox (View), or a shell in one.
type request struct {
	View  *view
	Shell *shellRequest
}

// shellRequest is a shell to be started in a sandbox. With it come the files that are its standard input and its output, the
// sandbox as a pidfd, and the files by which it puts itself into cgroups.
type shellRequest struct {
	Program   string
	Args, Env []string
	Dir       string
	User      int // 0: the own one
	Processes uint64
}

// reply is the process that was started, a child of the server, or what went wrong.
type reply struct {
	PID   int
	What  string
	Errno syscall.Errno
}

func (r reply) err() error {
	switch {
	case r.What == "":
		return nil
	case r.Errno != 0:
		return fmt.Errorf("%s: %w", r.What, r.Errno)
	default:
		return errors.New(r.What)
	}
}

// keeper is the server's side of the child process that makes sandboxes.
type keeper struct {
	conn *net.UnixConn
	p    *os.Process
}

// startKeeper starts the child in a cage, which is then that of all jobs. Who is not root is put into a user namespace in which it
// may do what else only root may; its own id is the only one there.
func startKeeper(c *cage) (*keeper, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "keeper"), os.NewFile(uintptr(pair[1]), "server")
	defer ours.Close()
	defer theirs.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	sys := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if uid := os.Geteuid(); uid != 0 {
		sys.Cloneflags = unix.CLONE_NEWUSER
		sys.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		sys.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
		sys.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SYS_CHROOT, unix.CAP_SYS_PTRACE, unix.CAP_SETPCAP}
	}
	p, err := c.start("/proc/self/exe", []string{"keelson", ChildCommand}, &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: []*os.File{null, null, os.Stderr, theirs}, Sys: sys,
	})
	switch {
	case err != nil && sys.Cloneflags != 0:
		var errno syscall.Errno
		if errors.As(err, &errno) {
			err = errno
		}
		return nil, fmt.Errorf("this system lets users make no user namespaces (%w); allow it (user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns), or run the server as root", err)
	case err != nil:
		return nil, fmt.Errorf("start the sandbox's process: %w", err)
	}
	conn, err := net.FileConn(ours)
	if err != nil {
		_ = p.Kill()
		_, _ = p.Wait()
		return nil, err
	}
	return &keeper{conn.(*net.UnixConn), p}, nil
}

// close ends the child. What it has started goes on.
func (k *keeper) close() {
	k.conn.Close()
	_ = k.p.Kill()
	_, _ = k.p.Wait()
}

// errKeeper is the error of a child that does not answer.
var errKeeper = errors.New("the sandbox's process is gone")

// ask has the child start a process.
func (k *keeper) ask(r request, files ...*os.File) (int, error) {
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	_ = k.conn.SetDeadline(time.Now().Add(time.Minute))
	if err := send(k.conn, r, fds...); err != nil {
		return 0, fmt.Errorf("%w: %w", errKeeper, err)
	}
	runtime.KeepAlive(files)
	var a reply
	if _, err := receive(k.conn, &a); err != nil {
		return 0, fmt.Errorf("%w: %w", errKeeper, err)
	}
	return a.PID, a.err()
}

func send(conn *net.UnixConn, v any, fds ...int) error {
	b := bytes.NewBuffer(make([]byte, 8))
	if err := gob.NewEncoder(b).Encode(v); err != nil {
		return err
	}
	message := b.Bytes()
	binary.BigEndian.PutUint64(message, uint64(len(message)-8))
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := conn.WriteMsgUnix(message[:8], rights, nil); err != nil {
		return err
	}
	_, err := conn.Write(message[8:])
	return err
}

func receive(conn *net.UnixConn, v any) (fds []int, err error) {
	head, rights := make([]byte, 8), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, nr, _, _, err := conn.ReadMsgUnix(head, rights)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:nr])
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		more, err := unix.ParseUnixRights(&m)
		if err != nil {
			return nil, err
		}
		fds = append(fds, more...)
	}
	if _, err := io.ReadFull(conn, head[n:]); err != nil {
		return fds, err
	}
	size := binary.BigEndian.Uint64(head)
	if size > maxRequest {
		return fds, errors.New("the message is too long")
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(conn, body); err != nil {
		return fds, err
	}
	return fds, gob.NewDecoder(bytes.NewReader(body)).Decode(v)
}

// ServeChild makes sandboxes and starts shells in them for the parent until that ends, and gives the exit code to end with.
//
// It is a process of its own since only one with a single thread may enter a user namespace, and since a process that is copied
// for a sandbox shall not have the server's memory. It stays, since starting this program takes longer than a job may wait.
func ServeChild() int {
	unix.CloseOnExec(keeperSocket)
	file := os.NewFile(keeperSocket, "server")
	c, err := net.FileConn(file)
	file.Close()
	conn, ok := c.(*net.UnixConn)
	if err != nil || !ok {
		fmt.Fprintln(os.Stderr, "This is started by keelson itself.")
		return 2
	}
	for {
		var r request
		fds, err := receive(conn, &r)
		if err != nil {
			return 0
		}
		answer := make(chan reply)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread has namespaces of its own, and ends with this function
			answer <- r.serve(fds)
		}()
		a := <-answer
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		if send(conn, a) != nil {
			return 0
		}
	}
}

// serve does what is asked for, on a thread that is used for nothing else.
func (r request) serve(fds []int) reply {
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	// What the session of the server's user has in its keyring is not a job's.
	_, _ = unix.KeyctlJoinSessionKeyring("")
	switch {
	case r.View != nil:
		if err := r.View.enter(); err != nil {
			return failed(err)
		}
		return initProgram().start(unix.CLONE_NEWPID)
	case r.Shell != nil && len(fds) >= 3:
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return failed(fmt.Errorf("enter the sandbox: %w", err))
		}
		if err := unix.Setns(fds[2], unix.CLONE_NEWNS|unix.CLONE_NEWIPC|unix.CLONE_NEWPID); err != nil {
			return failed(fmt.Errorf("enter the sandbox: %w", err))
		}
		if err := scoped(); err != nil {
			return failed(fmt.Errorf("enter the sandbox: %w", err))
		}
		p, err := r.Shell.program(fds)
		if err != nil {
			return failed(err)
		}
		return p.start(0)
	}
	return reply{What: "nothing is asked for"}
}

// landlockScopes is the version of Landlock that knows scopes, that of Linux 6.12.
const landlockScopes = 6

func landlockVersion() int {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(version)
}

// scoped keeps the calling thread from sockets without a file that are outside of the sandbox: those belong to the network, which
// jobs share with the machine. An older kernel cannot do that.
func scoped() error {
	if landlockVersion() < landlockScopes {
		return nil
	}
	rules := unix.LandlockRulesetAttr{Scoped: unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&rules)), unsafe.Sizeof(rules), 0)
	if errno != 0 {
		return fmt.Errorf("landlock: %w", errno)
	}
	defer unix.Close(int(fd)) //nolint:errcheck // the rules hold all the same
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fmt.Errorf("landlock: %w", errno)
	}
	return nil
}

func failed(err error) reply { return reply{What: err.Error()} }
