package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain turns the test binary into a component when it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "component" {
		os.Exit(component(os.Args[2], os.Args[3:]))
	}
	os.Exit(m.Run())
}

func component(name string, args []string) int {
	switch name {
	case "fails": // says why on its standard error
		fmt.Fprintln(os.Stderr, "no such flag")
		return 3
	case "dies-once": // and runs the second time
		if _, err := os.Stat(args[0]); err == nil {
			return serve(args[0] + ".again")
		}
		if err := os.WriteFile(args[0], nil, 0o600); err != nil {
			return 1
		}
		return 1
	case "environment":
		fmt.Println(strings.Join(os.Environ(), "\n"))
		return serve(args[0])
	}
	return 2
}

// serve makes the file, to say that it runs, and waits to be told to end.
func serve(file string) int {
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return 1
	}
	<-terminated
	return 0
}

func newSupervisor(t *testing.T) *Supervisor {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	return &Supervisor{Executable: executable, LogDir: dir, HomeDir: dir, Log: slog.New(slog.DiscardHandler)}
}

func exists(file string) func(context.Context) error {
	return func(context.Context) error {
		_, err := os.Stat(file)
		return err
	}
}

func TestAwaitTellsWhyAComponentFails(t *testing.T) {
	s := newSupervisor(t)
	defer s.Stop()
	s.Start(Component{Name: "fails", Args: []string{"component", "fails"}})
	err := s.Await(t.Context(), "the impossible", func(context.Context) error { return errors.New("not yet") })
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"wait for the impossible", "fails died 3 times", "exit status 3", "no such flag"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("out of patience"))
	defer cancel()
	err := newSupervisor(t).Await(ctx, "nothing", func(context.Context) error { return errors.New("not yet") })
	if err == nil || !strings.Contains(err.Error(), "out of patience (last: not yet") {
		t.Errorf("error %v, want the cause and the last answer", err)
	}
}

func TestComponentIsStartedAgain(t *testing.T) {
	s := newSupervisor(t)
	file := filepath.Join(t.TempDir(), "ran")
	s.Start(Component{Name: "dies-once", Args: []string{"component", "dies-once", file}})
	if err := s.Await(t.Context(), "the second run", exists(file+".again")); err != nil {
		t.Fatal(err)
	}
	s.Stop()
}

func TestComponentsSeeNothingOfOurEnvironment(t *testing.T) {
	t.Setenv("ETCD_NAME", "intruder")
	s := newSupervisor(t)
	file := filepath.Join(t.TempDir(), "runs")
	s.Start(Component{Name: "environment", Args: []string{"component", "environment", file}})
	if err := s.Await(t.Context(), "the component", exists(file)); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	log, err := os.ReadFile(filepath.Join(s.LogDir, "environment.log"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), "HOME="+s.HomeDir) || strings.Contains(string(log), "intruder") {
		t.Errorf("environment of the component:\n%s", log)
	}
}
