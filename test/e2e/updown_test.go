package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestUpRefuses(t *testing.T) {
	port := strings.TrimSuffix(shared.Dashboard[strings.LastIndex(shared.Dashboard, ":")+1:], "/")
	foreign := func(t *testing.T) string {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "precious"), "irreplaceable")
		return dir
	}
	cases := map[string]struct {
		dir  func(t *testing.T) string
		args []string
		code int
		says []string
	}{
		"a taken port":      {(*testing.T).TempDir, []string{"--port", port}, 1, []string{"address already in use", "hint: --port 0 takes any free port"}},
		"a port too high":   {(*testing.T).TempDir, []string{"--port", "70000"}, 2, []string{"0 to 65535"}},
		"no nodes":          {(*testing.T).TempDir, []string{"--nodes", "0"}, 2, []string{"1 to 5000"}},
		"a foreign folder":  {foreign, nil, 1, []string{"holds files that are not keelson's: precious", "hint: "}},
		"a lost kubeconfig": {(*testing.T).TempDir, []string{"--kubeconfig", "/nonexistent/kubeconfig"}, 1, []string{"/nonexistent/kubeconfig"}},
		"a broken instance": {func(t *testing.T) string {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "instance.json"), "{broken")
			return dir
		}, nil, 1, []string{"instance.json: invalid character", "hint: "}},
		"a broken cluster": {func(t *testing.T) string {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "instance.json"), `{"version":1,"token":"t"}`)
			write(t, filepath.Join(dir, "cluster"), "a file")
			return dir
		}, nil, 1, []string{"start the cluster", "not a directory", "keelson.log"}},
		"an unreachable cluster": {(*testing.T).TempDir, []string{"--kubeconfig", deadKubeconfig(t)}, 1, []string{"connection refused"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			in := &instance{data: c.dir(t)}
			args := c.args
			if len(args) == 0 || args[0] != "--port" {
				args = append([]string{"--port", "0"}, args...)
			}
			fails(t, in.keelson(append([]string{"up"}, args...)...), c.code, c.says...)
			if pid := in.lockHolder(t); pid != 0 {
				t.Errorf("process %d is left", pid)
			}
		})
	}
}

// lockHolder is daemon for a data directory that may have no lock file.
func (in *instance) lockHolder(t *testing.T) int {
	t.Helper()
	if _, err := os.Stat(filepath.Join(in.data, "lock")); err != nil {
		return 0
	}
	return in.daemon(t)
}

// deadKubeconfig names an API server that nobody runs.
func deadKubeconfig(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	write(t, path, fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: dead, cluster: {server: "https://%s"}}]
users: [{name: nobody, user: {}}]
contexts: [{name: dead, context: {cluster: dead, user: nobody}}]
current-context: dead
`, l.Addr()))
	return path
}

func TestPurgeRefusesForeignFolders(t *testing.T) {
	for name, marker := range map[string]string{"no marker": "", "another program's instance.json": `{"name":"of another program"}`} {
		t.Run(name, func(t *testing.T) {
			in := &instance{data: t.TempDir()}
			if marker != "" {
				write(t, filepath.Join(in.data, "instance.json"), marker)
			}
			write(t, filepath.Join(in.data, "git", "precious"), "irreplaceable")
			fails(t, in.keelson("down", "--purge"), 1, in.data, "hint: ")
			if _, err := os.Stat(filepath.Join(in.data, "git", "precious")); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestOwnCluster: an instance on a cluster that exists already is killed at random moments of deliveries, and leaves
// the cluster as it is when it goes.
func TestOwnCluster(t *testing.T) {
	in := &instance{data: filepath.Join(t.TempDir(), "own")}
	kubeconfig := bareCluster(t)
	if r := in.up("--kubeconfig", kubeconfig, "--port", "0"); r.code != 0 {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { in.keelson("down", "--purge") })
	if in.Kubeconfig != kubeconfig {
		t.Errorf("up names kubeconfig %s, want %s", in.Kubeconfig, kubeconfig)
	}
	contains(t, in.must(t, "get", "apps"), "no apps")
	m := newMany(t, in)
	for round := range 5 {
		commit := m.write(round)
		pause := time.Duration(rand.IntN(500)) * time.Millisecond
		pushed := make(chan result, 1)
		go func() { pushed <- program(m.dir, "git", "push", "-q", "origin", "HEAD:main") }()
		<-time.After(pause) // the moment of the kill is what varies
		in.kill(t, true)
		push := <-pushed
		t.Logf("round %d: killed after %s, the push ended with %d", round, pause, push.code)
		if r := in.up(); r.code != 0 {
			t.Fatal(r.err)
		}
		head := strings.Fields(m.git("ls-remote", "origin", "refs/heads/main"))[0]
		if push.code == 0 && head != commit {
			t.Errorf("a push that succeeded is lost: main is %s, want %s", head, commit)
		}
		m.delivered(head)
		m.git("fsck", "--no-dangling")
	}
	m.delivered(m.change(99))
	in.must(t, "down")
	in.must(t, "down", "--purge")
	if _, err := os.Stat(in.data); !os.IsNotExist(err) {
		t.Errorf("the data directory after down --purge: %v", err)
	}
	out := kubectl(t, kubeconfig, "-n", "many", "get", "configmaps", "-l", "kustomize.toolkit.fluxcd.io/name=many", "-o", "name")
	if n := strings.Count(out, "configmap/"); n != manyObjects {
		t.Errorf("the cluster has %d objects of the app after the purge, want all %d:\n%s", n, manyObjects, out)
	}
	s := startServer(t, kubeconfig, t.TempDir()) // somebody has to carry out the finalizers
	s.waitFor(t, works)
	m.remove()
	s.stop(t)
}

// TestTwoInstancesOnOneCluster: the second one says in time that it waits for the first.
func TestTwoInstancesOnOneCluster(t *testing.T) {
	in := &instance{data: filepath.Join(t.TempDir(), "second")}
	t.Cleanup(func() { in.keelson("down", "--purge") })
	r := in.up("--kubeconfig", shared.Kubeconfig, "--port", "0", "--timeout", "3s")
	if r.code == 0 {
		t.Errorf("two instances work on one cluster: %s", r.out)
	}
	contains(t, r.err, "lease", "hint: ")
}

// TestUpWaitsForWhatItSays: what was deleted while nothing ran is back when up says that everything is healthy.
func TestUpWaitsForWhatItSays(t *testing.T) {
	in := &instance{data: filepath.Join(t.TempDir(), "own")}
	kubeconfig := bareCluster(t)
	if r := in.up("--kubeconfig", kubeconfig, "--port", "0"); r.code != 0 {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { in.keelson("down", "--purge") })
	m := newMany(t, in)
	in.must(t, "down")
	kubectl(t, kubeconfig, "-n", "many", "delete", "configmap", "object-1", "object-2")
	if r := in.up(); r.code != 0 {
		t.Fatal(r.err)
	}
	kubectl(t, kubeconfig, "-n", "many", "get", "configmap", "object-1", "object-2")
	m.remove()
}
