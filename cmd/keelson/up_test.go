package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// holdVariable makes TestHoldDirectory a daemon that has started: it names the data directory.
const holdVariable = "KEELSON_TEST_HOLDS"

// TestHoldDirectory is the other process of TestRunning: it holds the directory until its input ends.
func TestHoldDirectory(t *testing.T) {
	dir := os.Getenv(holdVariable)
	if dir == "" {
		return // it is for TestRunning alone
	}
	held, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	line, err := json.Marshal(progress{PID: os.Getpid(), Ready: true})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, progressFile)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, append(line, '\n'), 0o600)); err != nil {
		t.Fatal(err)
	}
	fmt.Println("held")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// TestRunning: a daemon that has started and answers runs; one that holds the directory and does not answer, as it was killed a moment ago, is
// waited for.
func TestRunning(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address, _ := listener.Addr().(*net.TCPAddr)
	dir := t.TempDir()
	if err := writeInstance(dir, instance{Version: 1, Token: "t", Port: address.Port}); err != nil {
		t.Fatal(err)
	}
	if pid, started, err := running(t.Context(), dir); pid != 0 || started || err != nil {
		t.Errorf("nobody there: %d, %v, %v", pid, started, err)
	}

	daemon := exec.Command(os.Args[0], "-test.run=^TestHoldDirectory$")
	daemon.Env = append(os.Environ(), holdVariable+"="+dir)
	input, err := daemon.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { input.Close(); _ = daemon.Wait() })
	var word string
	if _, err := fmt.Fscan(output, &word); word != "held" {
		t.Fatalf("the daemon says %q, %v", word, err)
	}
	server := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(listener) }()
	if pid, started, err := running(t.Context(), dir); pid != daemon.Process.Pid || !started || err != nil {
		t.Errorf("one that answers: %d, %v, %v; want %d", pid, started, err, daemon.Process.Pid)
	}

	server.Close() // it was killed, and lets go of the directory after it was asked once
	if listener, err = net.Listen("tcp", address.String()); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		asked, err := listener.Accept()
		if err == nil {
			asked.Close()
		}
		input.Close()
	}()
	if pid, started, err := running(t.Context(), dir); pid != 0 || started || err != nil {
		t.Errorf("one that dies: %d, %v, %v", pid, started, err)
	}
}
