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
	"slices"
	"strings"
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

// TestStartOnlyFlags holds which flags one is told of that change nothing where an instance runs.
func TestStartOnlyFlags(t *testing.T) {
	runs := instance{Port: 7070, Kubeconfig: "/data/kubeconfig", Runner: runnerPod, JobImage: "alpine", Node: nodeReal, Outbound: true}
	for line, want := range map[string]string{
		"": "",
		"--port 7070 --kubeconfig /data/kubeconfig --node real --outbound --ci-executor pod --ci-image alpine": "",
		"--port 0 --json --timeout 1m --data /data --output json":                                              "",
		"--port 7071 --kubeconfig /mine":                                                                       "--port, --kubeconfig",
		"--ci-executor shell --ci-image debian":                                                                "--ci-executor, --ci-image",
		"--ci-jobs 3":                                                                                          "--ci-jobs",
		"--ci-log-limit 4":                                                                                     "--ci-log-limit",
		"--node simulated --nodes 3 --pprof --sample":                                                          "--node, --nodes, --pprof, --sample",
		"--strict-substitution=false --argocd-namespace a --take-over":                                         "--argocd-namespace, --strict-substitution, --take-over",
	} {
		g := &global{}
		root := newRoot(g)
		up, args, err := root.Find(append([]string{"up"}, strings.Fields(line)...))
		if err != nil {
			t.Fatal(err)
		}
		if err := up.ParseFlags(args); err != nil {
			t.Fatal(err)
		}
		have, given := startOnly(up.Flags(), runs), strings.Split(want, ", ")
		if want == "" {
			given = nil
		}
		slices.Sort(have)
		slices.Sort(given)
		if !slices.Equal(have, given) {
			t.Errorf("%s: have %v, want %v", line, have, given)
		}
	}
}
