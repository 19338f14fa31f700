package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// clusterProcess is a running keelson-cluster.
type clusterProcess struct {
	kubeconfig string
	address    string // of the real node; empty: there is none
	process    *os.Process
	done       chan struct{} // closed once the process has ended
	err        error         // how; to be read after done
}

const (
	clusterStartTimeout = 2 * time.Minute
	clusterStopTimeout  = 30 * time.Second
)

// findClusterProgram looks for keelson-cluster beside this program, then in PATH.
func findClusterProgram() (string, error) {
	const name = "keelson-cluster"
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", hintf(fmt.Errorf("find the embedded cluster's program: %w", err),
			"make build makes bin/%s; or use a cluster that you have: keelson up --kubeconfig FILE", name)
	}
	return path, nil
}

// startCluster starts the embedded cluster on dir and returns once it is ready. What it says goes to log.
func startCluster(ctx context.Context, dir string, args []string, log io.Writer) (*clusterProcess, error) {
	program, err := findClusterProgram()
	if err != nil {
		return nil, err
	}
	if err := awaitUnlocked(ctx, dir); err != nil {
		return nil, err
	}
	cmd := exec.Command(program, append([]string{"run", "--data", dir}, args...)...)
	cmd.Stderr = log
	cmd.SysProcAttr = childAttr()
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the cluster: %w", err)
	}
	p := &clusterProcess{done: make(chan struct{})}
	started, ready := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the kernel ties a parent-death signal to the thread that started the child
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		ready <- p.readReady(out)
		_, _ = io.Copy(io.Discard, out)
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start the cluster: %w", err)
	}
	p.process = cmd.Process
	select {
	case err = <-ready:
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(clusterStartTimeout):
		err = fmt.Errorf("it was not ready within %s", clusterStartTimeout)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the cluster: %w", err), p.stop())
	}
	return p, nil
}

// awaitUnlocked waits until no cluster runs on dir: one whose daemon was killed ends with it, but not in the same moment.
func awaitUnlocked(ctx context.Context, dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("start the cluster: look for one that runs: %w", err)
	}
	defer f.Close() // lets go of the lock
	wait, cancel := context.WithTimeout(ctx, clusterStopTimeout)
	defer cancel()
	err = poll(wait, 50*time.Millisecond, func(context.Context) (bool, error) {
		return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil, nil
	})
	if err != nil {
		return hintf(fmt.Errorf("another keelson-cluster runs on %s", dir), "it is not this instance's; stop it first")
	}
	return nil
}

// readReady reads the line that the cluster prints once it is ready.
func (p *clusterProcess) readReady(out io.Reader) error {
	line, err := bufio.NewReader(io.LimitReader(out, 64<<10)).ReadBytes('\n')
	if errors.Is(err, io.EOF) {
		return errors.New("it ended before it was ready")
	}
	if err != nil {
		return err
	}
	var v struct {
		Ready      bool   `json:"ready"`
		Kubeconfig string `json:"kubeconfig"`
		Node       struct {
			Address string `json:"address"`
		} `json:"node"`
	}
	if err := json.Unmarshal(line, &v); err != nil {
		return fmt.Errorf("read its first line: %w", err)
	}
	if !v.Ready || v.Kubeconfig == "" {
		return fmt.Errorf("its first line is %.200q, not that it is ready", line)
	}
	p.kubeconfig, p.address = v.Kubeconfig, v.Node.Address
	return nil
}

// stop ends the cluster in good order, or, if it does not end in time, at once.
func (p *clusterProcess) stop() error {
	_ = p.process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-p.done:
		return nil
	case <-time.After(clusterStopTimeout):
	}
	_ = p.process.Kill()
	<-p.done
	return fmt.Errorf("the cluster did not stop within %s and was killed", clusterStopTimeout)
}
