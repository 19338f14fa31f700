package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"keelson.dev/keelson/internal/redact"
)

const (
	startLimit = 3 * time.Minute
	stopLimit  = time.Minute
)

// environment is this process's, without what would lead a program to another instance or through a proxy.
func environment(extra ...string) []string {
	env := []string{"NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1"}
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case "KUBECONFIG", "KEELSON_DATA", "NO_PROXY", "no_proxy":
		default:
			env = append(env, v)
		}
	}
	return append(env, extra...)
}

// output runs a program to its end; what it wrote to standard error is in the error.
func output(ctx context.Context, cmd *exec.Cmd) ([]byte, error) {
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args[:min(2, len(cmd.Args))], " "), err, redact.Text(lastBytes(complaint.Bytes(), 2000)))
	}
	return out, nil
}

func lastBytes(b []byte, n int) string { return string(bytes.TrimSpace(b[max(0, len(b)-n):])) }

// instance is what "keelson up" started.
type instance struct {
	Git        string `json:"git"` // base URL, with the token
	Kubeconfig string `json:"kubeconfig"`
	data       string
	took       time.Duration // to healthy
	client
}

// readURL is the Git host's base URL as the controllers use it: reading needs no token.
func (i *instance) readURL() (string, error) {
	u, err := url.Parse(i.Git)
	if err != nil {
		return "", errors.New("read the Git host's URL: it is malformed")
	}
	u.User = nil
	return u.String(), nil
}

// up starts an instance and sees to it that it is stopped in the end, however far its start gets.
func (b *bench) up(ctx context.Context, name string) (*instance, func() error, error) {
	data := filepath.Join(b.dir, name)
	down := func() error {
		if _, err := os.Stat(data); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
		defer cancel()
		cmd := exec.CommandContext(ctx, b.keelson, "down", "--purge", "--data", data)
		cmd.Env = environment()
		_, err := output(ctx, cmd)
		return err
	}
	b.stops = append(b.stops, down)
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.keelson, "up", "--data", data, "--port", "0", "--json")
	cmd.Env = environment()
	cmd.WaitDelay = time.Second
	start := time.Now()
	out, err := output(ctx, cmd)
	took := time.Since(start)
	if err != nil {
		return nil, down, err
	}
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	in := &instance{data: data, took: took}
	if err := json.Unmarshal(lines[len(lines)-1], in); err != nil {
		return nil, down, fmt.Errorf("read the last line of keelson up: %w", err)
	}
	in.client, err = newClient(in.Kubeconfig)
	return in, down, err
}

// instance is the one that the latencies are measured on.
func (b *bench) instance(ctx context.Context) (*instance, error) {
	if b.shared != nil {
		return b.shared, nil
	}
	in, _, err := b.up(ctx, "instance")
	if err == nil {
		b.shared = in
	}
	return in, err
}

// start starts a program that runs until it is stopped, in a group of its own so that an interrupt reaches it through
// us only. Its standard error goes to a log in the directory.
func (b *bench) start(name, program string, args ...string) (*os.Process, io.Reader, error) {
	log, err := os.Create(filepath.Join(b.dir, name+".log"))
	if err != nil {
		return nil, nil, err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Env, cmd.Stderr = environment(), log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	cmd.Stdout = write
	err = cmd.Start()
	write.Close()
	if err != nil {
		read.Close()
		return nil, nil, fmt.Errorf("start %s: %w", name, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	b.stops = append(b.stops, func() error {
		defer read.Close()
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
		select {
		case <-ended:
			return nil
		case <-time.After(stopLimit):
			_ = cmd.Process.Kill()
			<-ended
			return fmt.Errorf("%s did not stop within %s and was killed", name, stopLimit)
		}
	})
	return cmd.Process, read, nil
}

// startCluster starts a bare cluster with an audit log and gives the path of its kubeconfig.
func (b *bench) startCluster(ctx context.Context, auditLog string) (string, error) {
	_, out, err := b.start("keelson-cluster", b.cluster, "run", "--data", filepath.Join(b.dir, "cluster"), "--audit-log", auditLog)
	if err != nil {
		return "", err
	}
	line := make(chan []byte, 1)
	go func() {
		r := bufio.NewReader(out)
		first, _ := r.ReadBytes('\n')
		line <- first
		_, _ = io.Copy(io.Discard, r) // keep the pipe empty
	}()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(startLimit):
		return "", fmt.Errorf("keelson-cluster was not ready within %s", startLimit)
	case first := <-line:
		var ready struct {
			Kubeconfig string `json:"kubeconfig"`
		}
		if err := json.Unmarshal(first, &ready); err != nil || ready.Kubeconfig == "" {
			return "", fmt.Errorf("keelson-cluster did not get ready: its first line is %.200q", first)
		}
		return ready.Kubeconfig, nil
	}
}
