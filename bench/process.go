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
	Dashboard  string `json:"dashboard"`
	Kubeconfig string `json:"kubeconfig"`
	Registry   string `json:"registry"` // of images, HOST:PORT; empty: there is none
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
func (b *bench) up(ctx context.Context, name string, flags ...string) (*instance, func() error, error) {
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
	cmd := exec.CommandContext(ctx, b.keelson, append([]string{"up", "--data", data, "--port", "0", "--json"}, flags...)...)
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

// stopped makes an instance as up does, and stops it again: its files can be filled.
func (b *bench) stopped(ctx context.Context, name string) (*instance, error) {
	in, _, err := b.up(ctx, name)
	if err != nil {
		return nil, err
	}
	stop := exec.CommandContext(ctx, b.keelson, "down", "--data", in.data)
	stop.Env = environment()
	_, err = output(ctx, stop)
	return in, err
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

// program is one that runs until it is told to end.
type program struct {
	name  string
	log   string // the file with its standard error
	cmd   *exec.Cmd
	out   *os.File      // its standard output
	ended chan struct{} // closed once it has
	line  chan []byte   // its first line, or less if it ended before
}

func (p *program) pid() int { return p.cmd.Process.Pid }

// start starts a program in a group of its own, so that an interrupt reaches it through us only. Its standard error goes
// to a log in the directory. It is ended with everything else, unless that has happened before.
func (b *bench) start(name, path string, args ...string) (*program, error) {
	p := &program{name: name, log: filepath.Join(b.dir, name+".log"), ended: make(chan struct{}), line: make(chan []byte, 1)}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.Command(path, args...)
	p.cmd.Env, p.cmd.Stderr = environment(), log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.out, p.cmd.Stdout = read, write
	err = p.cmd.Start()
	write.Close()
	if err != nil {
		read.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() { // keep the pipe empty
		r := bufio.NewReader(read)
		first, _ := r.ReadBytes('\n')
		p.line <- first
		_, _ = io.Copy(io.Discard, r)
	}()
	go func() {
		_ = p.cmd.Wait() // how it ended stands in its log
		close(p.ended)
	}()
	b.stops = append(b.stops, func() error { return p.end(syscall.SIGTERM) })
	return p, nil
}

// firstLine waits for it.
func (p *program) firstLine(ctx context.Context, limit time.Duration) ([]byte, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(limit):
		return nil, fmt.Errorf("%s was not ready within %s", p.name, limit)
	case first := <-p.line:
		if !bytes.HasSuffix(first, []byte("\n")) {
			text, _ := os.ReadFile(p.log)
			return nil, fmt.Errorf("%s ended before it was ready: %s", p.name, redact.Text(lastBytes(text, 2000)))
		}
		return first, nil
	}
}

// end ends it by a signal and waits until it has; it may have ended already.
func (p *program) end(signal syscall.Signal) error {
	defer p.out.Close()
	_ = p.cmd.Process.Signal(signal)
	select {
	case <-p.ended:
		return nil
	case <-time.After(stopLimit):
		_ = p.cmd.Process.Kill()
		<-p.ended
		return fmt.Errorf("%s did not stop within %s and was killed", p.name, stopLimit)
	}
}

// startCluster starts a bare cluster with an audit log and gives the path of its kubeconfig.
func (b *bench) startCluster(ctx context.Context, dir, auditLog string) (*program, string, error) {
	name := filepath.Base(filepath.Dir(dir)) + "-cluster"
	p, err := b.start(name, b.cluster, "run", "--data", dir, "--audit-log", auditLog)
	if err != nil {
		return nil, "", err
	}
	first, err := p.firstLine(ctx, startLimit)
	if err != nil {
		return p, "", err
	}
	var ready struct {
		Kubeconfig string `json:"kubeconfig"`
	}
	if err := json.Unmarshal(first, &ready); err != nil || ready.Kubeconfig == "" {
		return p, "", fmt.Errorf("%s did not get ready: its first line is %.200q", name, first)
	}
	return p, ready.Kubeconfig, nil
}
