package shell

import (
	"os"
	"syscall"
	"testing"
	"time"
)

// What an ending job's bomb has left dead may be ended with any job, but no job is ended for it.
func TestTheDeadAreGuessed(t *testing.T) {
	open := func(ending bool) *scope {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close(); w.Close() })
		s := newScope(t.TempDir(), w)
		s.ending = ending
		t.Cleanup(s.close)
		return s
	}
	spawn := func(start func(name string, args []string, attr *os.ProcAttr) (*os.Process, error), name string, args ...string) *os.Process {
		p, err := start(name, append([]string{name}, args...), &os.ProcAttr{Env: []string{}, Sys: &syscall.SysProcAttr{Setsid: true}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Kill(); _, _ = p.Wait() })
		return p
	}
	s := open(false)
	open(true)
	shell := spawn(func(name string, args []string, attr *os.ProcAttr) (*os.Process, error) {
		return s.start(newCage(0), nil, name, args, attr)
	}, "/bin/sleep", "60")
	dead := spawn(os.StartProcess, "/bin/true")
	for range 500 {
		if p, ok := look(dead.Pid); ok && p.dead() {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	got := map[int]bool{}
	for _, m := range s.members() {
		got[m.pid] = m.guessed
	}
	if guess, ok := got[shell.Pid]; !ok || guess {
		t.Errorf("the shell is not surely the job's: %v", got)
	}
	if guess, ok := got[dead.Pid]; !ok || !guess {
		t.Errorf("the dead process is not guessed to be the job's: %v", got)
	}
}
