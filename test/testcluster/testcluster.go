// Package testcluster gives a test package the real thing: the embedded Kubernetes, started once and shared.
//
//	func TestMain(m *testing.M) { os.Exit(testcluster.Main(m, &cluster)) }
package testcluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// BinaryVariable names the environment variable that points to a built keelson-cluster; without it the binary is built.
const BinaryVariable = "KEELSON_CLUSTER_BINARY"

// startLimit bounds how long the control plane may take to get ready.
const startLimit = 2 * time.Minute

// Cluster is a running control plane.
type Cluster struct {
	Config     *rest.Config
	Kubeconfig string // path
	AuditLog   string // path of the API server's audit log, one JSON event a line
	Node       string // address of the real node, where its pods reach what is published; "": there is none

	cmd *exec.Cmd
}

// Tests is what Main runs: a *testing.M, or something around it.
type Tests interface{ Run() int }

// Main runs a package's tests with a cluster and gives the exit code for os.Exit.
func Main(m Tests, cluster **Cluster) int {
	dir, err := os.MkdirTemp("", "keelson-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	c, err := Start(context.Background(), filepath.Join(dir, "cluster"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "start the test cluster:", err)
		return 1
	}
	defer c.Stop()
	*cluster = c
	return m.Run()
}

// Root gives the folder of the repository: the one at or above the working directory that holds go.work.
// (The names of source files do not tell it: tests are built with -trimpath.)
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.work")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("%s is not in the repository", dir)
		}
	}
}

// Binary gives the path of keelson-cluster and builds it where it is not given; the build cache makes that quick.
func Binary(ctx context.Context) (string, error) {
	if path := os.Getenv(BinaryVariable); path != "" {
		return path, nil
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, "bin", "keelson-cluster")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	// Other packages' tests may be at the same: each builds aside, and the last one to finish puts its equal result in place.
	aside := fmt.Sprintf("%s.%d", path, os.Getpid())
	defer os.Remove(aside)
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", aside, ".")
	build.Dir = filepath.Join(root, "cluster")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build keelson-cluster: %w: %s", err, out)
	}
	return path, os.Rename(aside, path)
}

// Start brings up a control plane with one node whose data are in dir, with more flags of keelson-cluster.
func Start(ctx context.Context, dir string, flags ...string) (*Cluster, error) {
	binary, err := Binary(ctx)
	if err != nil {
		return nil, err
	}
	audit := dir + "-audit.log"
	cmd := exec.Command(binary, append([]string{"run", "--data", dir, "--unsafe-no-fsync", "--audit-log", audit}, flags...)...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &Cluster{AuditLog: audit, cmd: cmd}
	line := make(chan string, 1)
	go func() {
		scanner := bufio.NewScanner(out)
		if scanner.Scan() {
			line <- scanner.Text()
		}
		close(line)
		for scanner.Scan() { // keep the pipe empty
		}
	}()
	select {
	case text := <-line:
		var ready struct {
			Kubeconfig string
			Node       struct{ Address string }
		}
		if err := json.Unmarshal([]byte(text), &ready); err != nil || ready.Kubeconfig == "" {
			c.Stop()
			return nil, fmt.Errorf("keelson-cluster did not get ready: it said %q", text)
		}
		c.Kubeconfig, c.Node = ready.Kubeconfig, ready.Node.Address
	case <-time.After(startLimit):
		c.Stop()
		return nil, errors.New("keelson-cluster did not get ready in time")
	}
	c.Config, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		c.Stop()
		return nil, err
	}
	c.Config.QPS, c.Config.Burst = -1, -1
	return c, nil
}

// Stop ends the control plane cleanly.
func (c *Cluster) Stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	_ = c.cmd.Wait()
}
