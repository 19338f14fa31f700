// Package e2e tests the whole product from outside: the built programs, plain git and kubectl, real clusters.
//
// One instance is shared by most tests; each leaves it healthy. Those that run beside each other, which is after all others, leave it running. KEELSON_BINARY and KEELSON_CLUSTER_BINARY name built
// programs; what is not named is built.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"keelson.dev/keelson/test/testcluster"
)

// binaryVariable names the environment variable that points to a built keelson.
const binaryVariable = "KEELSON_BINARY"

// limit bounds every wait for something that is to happen, startLimit every start of an instance.
const limit, startLimit = 60 * time.Second, 3 * time.Minute

var (
	bin    string    // folder with keelson, kubectl, helm, kustomize and keelson-cluster
	shared *instance // running before the first test
)

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue { // these tests wait more than they work
		_ = f.Value.Set("4")
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "keelson-e2e-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	bin = filepath.Join(dir, "bin")
	if err := programs(bin); err != nil {
		return 1, err
	}
	if err := os.Setenv(testcluster.BinaryVariable, filepath.Join(bin, "keelson-cluster")); err != nil {
		return 1, err
	}
	defer stopBare()
	shared = &instance{data: filepath.Join(dir, "shared")}
	defer func() {
		if r := shared.keelson("down", "--purge"); r.code != 0 {
			err = errors.Join(err, errors.New("stop the shared instance: "+r.err))
		}
	}()
	if r := shared.up("--port", "0"); r.code != 0 {
		return 1, fmt.Errorf("start the shared instance: %s", r.err)
	}
	return m.Run(), nil
}

// programs puts keelson, kubectl, helm, kustomize and keelson-cluster beside each other, as a build does.
func programs(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	keelson := filepath.Join(dir, "keelson")
	if given := os.Getenv(binaryVariable); given != "" {
		if err := place(given, keelson); err != nil {
			return err
		}
	} else {
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", keelson, "./cmd/keelson")
		build.Dir = root()
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build keelson: %w: %s", err, out)
		}
	}
	for _, name := range []string{"kubectl", "helm", "kustomize"} {
		if err := os.Symlink("keelson", filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	cluster, err := testcluster.Binary(context.Background())
	if err != nil {
		return err
	}
	return place(cluster, filepath.Join(dir, "keelson-cluster"))
}

// root is the folder of the repository under test; the tests' working directory lies in it.
func root() string {
	dir, err := testcluster.Root()
	if err != nil {
		panic(err)
	}
	return dir
}

// place links a program to another name, or copies it where a link is not possible.
func place(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// result is how a program ended.
type result struct {
	out, err string
	code     int
}

// program runs a program to its end, with nothing of the caller's configuration for git, kubectl and keelson.
func program(dir, name string, args ...string) result { return programWith(nil, dir, name, args...) }

// programWith runs a program with more variables in its environment.
func programWith(env []string, dir, name string, args ...string) result {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(slices.Clip(environment()), env...)
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	err := cmd.Run()
	r := result{out: out.String(), err: diag.String(), code: cmd.ProcessState.ExitCode()}
	if err != nil && r.code <= 0 {
		r.code, r.err = -1, r.err+err.Error()
	}
	return r
}

var environment = sync.OnceValue(func() []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return name == "KUBECONFIG" || name == "KEELSON_DATA" || name == "HOME" || strings.HasPrefix(name, "GIT_") ||
			strings.HasSuffix(strings.ToLower(name), "_proxy")
	})
	return append(env, "HOME="+filepath.Dir(bin), "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=E2E", "GIT_AUTHOR_EMAIL=e2e@example.com", "GIT_COMMITTER_NAME=E2E", "GIT_COMMITTER_EMAIL=e2e@example.com")
})

// instance is one data directory, as people see it.
type instance struct {
	data                                        string
	env                                         string // what its commands find besides in their environment, a line each
	Dashboard, Git, Kubeconfig, Token, Registry string // of the last up
}

// keelson runs a command on the instance.
func (in *instance) keelson(args ...string) result {
	return programWith(strings.Fields(in.env), "", filepath.Join(bin, "keelson"), append(args, "--data", in.data)...)
}

// up starts the instance and takes in where it is.
func (in *instance) up(args ...string) result {
	r := in.keelson(append([]string{"up", "--json"}, args...)...)
	if r.code != 0 {
		return r
	}
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), in); err != nil {
		return result{out: r.out, err: "the last line is not JSON: " + err.Error(), code: -1}
	}
	return r
}

// must runs a command that has to work, and returns what it printed.
func (in *instance) must(t *testing.T, args ...string) string {
	t.Helper()
	return ok(t, in.keelson(args...), args)
}

// kubectl runs kubectl on the instance's cluster; it has to work.
func (in *instance) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return kubectl(t, in.Kubeconfig, args...)
}

func kubectl(t *testing.T, kubeconfig string, args ...string) string {
	t.Helper()
	return ok(t, tryKubectl(kubeconfig, args...), args)
}

func tryKubectl(kubeconfig string, args ...string) result {
	return program("", filepath.Join(bin, "kubectl"), append([]string{"--kubeconfig", kubeconfig}, args...)...)
}

// apply creates objects from a manifest.
func apply(t *testing.T, kubeconfig, manifest string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifest.yaml")
	write(t, file, manifest)
	kubectl(t, kubeconfig, "apply", "-f", file)
}

func ok(t *testing.T, r result, args []string) string {
	t.Helper()
	if r.code != 0 {
		t.Fatalf("%q ended with %d:\n%s%s", args, r.code, r.out, r.err)
	}
	return r.out
}

// fails checks that a command ends with a code and says every part on standard error.
func fails(t *testing.T, r result, code int, parts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("it ended with %d, want %d:\n%s%s", r.code, code, r.out, r.err)
	}
	for _, part := range parts {
		if !strings.Contains(r.err, part) {
			t.Errorf("standard error lacks %q:\n%s", part, r.err)
		}
	}
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is missing in:\n%s", part, text)
		}
	}
}

// eventually waits until check no longer gives an error.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	var err error
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); <-tick.C {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("%s: still after %s: %v", what, limit, err)
}

// image waits until a Deployment runs an image.
func image(t *testing.T, kubeconfig, namespace, name, want string) {
	t.Helper()
	eventually(t, "image of Deployment "+namespace+"/"+name, func() error {
		r := tryKubectl(kubeconfig, "-n", namespace, "get", "deployment", name, "-o", "jsonpath={.spec.template.spec.containers[0].image}")
		if r.code != 0 || r.out != want {
			return fmt.Errorf("it is %q, want %q %s", r.out, want, r.err)
		}
		return nil
	})
}

// clone is a working copy.
type clone struct {
	*testing.T
	dir string
}

// cloneOf clones a repository with plain git.
func cloneOf(t *testing.T, url string) clone {
	t.Helper()
	c := clone{t, filepath.Join(t.TempDir(), "clone")}
	ok(t, program("", "git", "clone", "-q", url, c.dir), []string{"git", "clone"})
	return c
}

func (c clone) git(args ...string) string {
	c.Helper()
	return strings.TrimSpace(ok(c.T, program(c.dir, "git", args...), append([]string{"git"}, args...)))
}

// replace puts one text in the place of another in a file, which has to contain it.
func (c clone) replace(file, old, new string) {
	c.Helper()
	path := filepath.Join(c.dir, file)
	b, err := os.ReadFile(path)
	if err != nil {
		c.Fatal(err)
	}
	if !bytes.Contains(b, []byte(old)) {
		c.Fatalf("%s does not contain %q", file, old)
	}
	write(c.T, path, strings.ReplaceAll(string(b), old, new))
}

// commit commits everything and returns the commit.
func (c clone) commit(message string) string {
	c.Helper()
	c.git("add", "-A")
	c.git("commit", "-q", "-m", message)
	return c.git("rev-parse", "HEAD")
}

// push commits everything and pushes it to main.
func (c clone) push(message string) string {
	c.Helper()
	commit := c.commit(message)
	c.git("push", "-q", "origin", "HEAD:main")
	return commit
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// daemon is the process that holds the instance's data directory; 0: none does.
func (in *instance) daemon(t *testing.T) int {
	t.Helper()
	f, err := os.Open(filepath.Join(in.data, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l := syscall.Flock_t{Type: syscall.F_WRLCK}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_GETLK, &l); err != nil {
		t.Fatal(err)
	}
	if l.Type == syscall.F_UNLCK {
		return 0
	}
	return int(l.Pid)
}

// kill ends the daemon, and with all everything that it has started, as a power failure does, and waits until they
// are gone.
func (in *instance) kill(t *testing.T, all bool) {
	t.Helper()
	pid := in.daemon(t)
	if pid == 0 {
		t.Fatal("no daemon runs")
	}
	doomed := []int{pid}
	if all {
		doomed = append(doomed, descendants(t, pid)...)
	}
	for _, p := range doomed {
		if err := syscall.Kill(p, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
	eventually(t, "end of the killed processes", func() error {
		for _, p := range doomed {
			if _, state, err := processOf(p); err == nil && state != "Z" {
				return fmt.Errorf("process %d still runs", p)
			}
		}
		return nil
	})
}

// descendants lists the children of a process and theirs.
func descendants(t *testing.T, pid int) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	children := map[int][]int{}
	for _, e := range entries {
		p, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if parent, _, err := processOf(p); err == nil {
			children[parent] = append(children[parent], p)
		}
	}
	var all []int
	for next := children[pid]; len(next) > 0; next = next[1:] {
		all = append(all, next[0])
		next = append(next, children[next[0]]...)
	}
	return all
}

// processOf reads a process's parent and state.
func processOf(pid int) (parent int, state string, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, "", err
	}
	_, rest, _ := strings.Cut(string(b), ") ") // the name, in parentheses, may hold anything
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0, "", fmt.Errorf("process %d: %q", pid, b)
	}
	parent, err = strconv.Atoi(fields[1])
	return parent, fields[0], err
}
