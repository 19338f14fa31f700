// Package supervise runs the components of the cluster as child processes:
// it starts them in order, restarts what dies, and stops them in reverse.
//
// No child outlives this process, however it ends: the kernel kills every child
// when the thread that started it is gone (PR_SET_PDEATHSIG). For that each
// child has a thread of its own that starts it and then waits for it; a child
// started from an ordinary goroutine would be killed whenever the Go runtime
// retires the thread it happened to run on.
//
// Children are in process groups of their own, so that Ctrl-C in a terminal
// reaches only this process, which then stops them in order. They see nothing
// of this process's environment: ETCD_*, KUBECONFIG or proxy settings of the
// person who starts the cluster must not configure it.
package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"
)

const (
	firstBackoff = 200 * time.Millisecond
	maxBackoff   = 30 * time.Second
	stableAfter  = time.Minute           // a run this long makes the next restart immediate again
	stopTimeout  = 15 * time.Second      // from SIGTERM to SIGKILL
	probeEvery   = 25 * time.Millisecond // while something is awaited
	startLimit   = 3                     // exits after which a start is given up
	logMegabytes = 16                    // per component; one older file of that size is kept
	logTail      = 2000                  // bytes of a log that go into an error
)

// Component is one child process: a name, which is also that of its log file,
// and the arguments this binary is started with to become it.
type Component struct {
	Name    string
	Args    []string
	Program string        // another program than this one; "": this one
	Env     []string      // what it sees besides what all children see
	Unshare uintptr       // CLONE_NEW* flags: namespaces of its own
	Grace   time.Duration // from SIGTERM to SIGKILL; 0: 15 s
}

// Supervisor owns the child processes. Its fields are set before the first
// Start and not changed afterwards.
type Supervisor struct {
	Executable string
	LogDir     string
	HomeDir    string // HOME of the children
	Log        *slog.Logger

	mu       sync.Mutex
	children []*child // in starting order
}

// child is one component through all of its restarts.
type child struct {
	Component
	stop chan struct{} // closed: do not start again
	done chan struct{} // closed: no process any more, and none to come

	mu      sync.Mutex
	process *os.Process // nil between two runs
	exits   int
	lastErr error
}

// Start starts a component and keeps it running until Stop. It does not wait:
// see Await.
func (s *Supervisor) Start(c Component) {
	ch := &child{Component: c, stop: make(chan struct{}), done: make(chan struct{})}
	s.mu.Lock()
	s.children = append(s.children, ch)
	s.mu.Unlock()
	go s.keep(ch)
}

// keep runs a child again and again. It owns its thread, see the package
// comment; the thread ends with the goroutine, when the child is gone.
func (s *Supervisor) keep(ch *child) {
	runtime.LockOSThread()
	defer close(ch.done)
	out := &lumberjack.Logger{Filename: s.logFile(ch.Name), MaxSize: logMegabytes, MaxBackups: 1}
	defer out.Close()

	backoff := firstBackoff
	for {
		started := time.Now()
		err := s.runOnce(ch, out)
		if ch.stopping() {
			return
		}
		if time.Since(started) > stableAfter {
			backoff = firstBackoff
		}
		s.Log.Warn("component died, restarting it", "component", ch.Name, "err", err, "after", time.Since(started).Round(time.Millisecond), "in", backoff)
		select {
		case <-ch.stop:
			return
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// runOnce runs the process to its end. Called on the child's own thread.
func (s *Supervisor) runOnce(ch *child, out io.Writer) error {
	program := ch.Program
	if program == "" {
		program = s.Executable
	}
	cmd := exec.Command(program, ch.Args...)
	cmd.Env = append([]string{"HOME=" + s.HomeDir, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir()}, ch.Env...)
	cmd.Dir = s.HomeDir
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Cloneflags: ch.Unshare}

	ch.mu.Lock()
	var err error
	if ch.stopping() {
		err = context.Canceled // Stop came first and found no process to signal
	} else if err = cmd.Start(); err == nil {
		ch.process = cmd.Process
	}
	ch.mu.Unlock()
	if err == nil {
		s.Log.Debug("component started", "component", ch.Name, "pid", cmd.Process.Pid)
		err = cmd.Wait()
	}

	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.process = nil
	ch.exits++
	if err == nil {
		err = errors.New("exited with status 0")
	}
	ch.lastErr = err
	return err
}

func (ch *child) stopping() bool {
	select {
	case <-ch.stop:
		return true
	default:
		return false
	}
}

// Await calls probe until it succeeds. It gives up when ctx ends, and as soon as
// a component has died several times; the error then carries the end of its log.
func (s *Supervisor) Await(ctx context.Context, what string, probe func(context.Context) error) error {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		probeErr := probe(ctx)
		if probeErr == nil {
			return nil
		}
		if ctx.Err() == nil {
			if err := s.crashing(); err != nil {
				return fmt.Errorf("wait for %s: %w", what, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w (last: %v; logs are in %s)", what, context.Cause(ctx), probeErr, s.LogDir) //nolint:errorlint // the probe's error may be nil and is no cause
		case <-tick.C:
		}
	}
}

func (s *Supervisor) crashing() error {
	for _, ch := range s.present() {
		ch.mu.Lock()
		exits, err := ch.exits, ch.lastErr
		ch.mu.Unlock()
		if exits >= startLimit {
			return fmt.Errorf("%s died %d times (%w); the end of %s:\n%s", ch.Name, exits, err, s.logFile(ch.Name), tail(s.logFile(ch.Name)))
		}
	}
	return nil
}

// Stop stops the components in reverse order of their start, each before the
// next: SIGTERM, and SIGKILL for one that takes too long.
func (s *Supervisor) Stop() {
	for len(s.present()) > 0 {
		s.StopLast()
	}
}

func (s *Supervisor) present() []*child {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.children[:len(s.children):len(s.children)]
}

// Running returns the number of components that were started and not stopped.
func (s *Supervisor) Running() int { return len(s.present()) }

// StopLast stops the component that was started last.
func (s *Supervisor) StopLast() {
	s.mu.Lock()
	last := len(s.children) - 1
	ch := s.children[last]
	s.children = s.children[:last]
	s.mu.Unlock()
	grace := ch.Grace
	if grace == 0 {
		grace = stopTimeout
	}
	close(ch.stop)
	ch.signal(syscall.SIGTERM)
	select {
	case <-ch.done:
	case <-time.After(grace):
		s.Log.Warn("component does not stop, killing it", "component", ch.Name, "after", grace)
		ch.signal(syscall.SIGKILL)
		<-ch.done
	}
	s.Log.Debug("component stopped", "component", ch.Name)
}

// Owns reports whether pid is a component's process, which [Supervisor.keep] waits for.
func (s *Supervisor) Owns(pid int) bool {
	for _, ch := range s.present() {
		ch.mu.Lock()
		owned := ch.process != nil && ch.process.Pid == pid
		ch.mu.Unlock()
		if owned {
			return true
		}
	}
	return false
}

func (ch *child) signal(sig syscall.Signal) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.process != nil {
		_ = ch.process.Signal(sig) // it may just have ended: that is what we want
	}
}

func (s *Supervisor) logFile(name string) string { return filepath.Join(s.LogDir, name+".log") }

// tail returns the last bytes of a file, from the start of a line.
func tail(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	cut := false
	if info, err := file.Stat(); err == nil && info.Size() > logTail {
		_, err = file.Seek(-logTail, io.SeekEnd)
		cut = err == nil
	}
	text, err := io.ReadAll(io.LimitReader(file, logTail))
	if err != nil {
		return err.Error()
	}
	if _, rest, found := bytes.Cut(text, []byte("\n")); cut && found {
		text = rest
	}
	return string(bytes.TrimSpace(text))
}
