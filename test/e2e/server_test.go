package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"keelson.dev/keelson/test/testcluster"
)

// bare is a cluster without anything of Keelson's, started when a test first needs it.
var bare = sync.OnceValues(func() (*testcluster.Cluster, error) {
	return testcluster.Start(context.Background(), filepath.Join(filepath.Dir(bin), "bare"))
})

var bareUsed bool

// bareCluster gives the kubeconfig of the bare cluster.
func bareCluster(t *testing.T) string {
	t.Helper()
	bareUsed = true
	c, err := bare()
	if err != nil {
		t.Fatal(err)
	}
	return c.Kubeconfig
}

func stopBare() {
	if !bareUsed {
		return
	}
	if c, err := bare(); err == nil {
		c.Stop()
	}
}

// server is a running "keelson server".
type server struct {
	cmd  *exec.Cmd
	done chan struct{}
	mu   sync.Mutex
	log  bytes.Buffer
}

func (s *server) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(b)
}

func (s *server) says() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

const works = "the controllers work"

func startServer(t *testing.T, kubeconfig, data string, args ...string) *server {
	t.Helper()
	return startServerWith(t, nil, kubeconfig, data, args...)
}

// startServerWith is startServer with more in its environment.
func startServerWith(t *testing.T, env []string, kubeconfig, data string, args ...string) *server {
	t.Helper()
	s := &server{done: make(chan struct{})}
	s.cmd = exec.Command(filepath.Join(bin, "keelson"), append([]string{"server", "--kubeconfig", kubeconfig, "--data", data}, args...)...)
	s.cmd.Env, s.cmd.Stderr = append(slices.Clip(environment()), env...), s
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = s.cmd.Wait() // stop looks at how it ended
		close(s.done)
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.done
		if t.Failed() {
			t.Logf("server on %s:\n%s", data, s.says())
		}
	})
	return s
}

// waitFor waits until the server's log contains a text.
func (s *server) waitFor(t *testing.T, text string) {
	t.Helper()
	eventually(t, "server to say "+text, func() error {
		select {
		case <-s.done:
			t.Fatalf("the server ended:\n%s", s.says())
		default:
		}
		if !strings.Contains(s.says(), text) {
			return fmt.Errorf("it says:\n%s", s.says())
		}
		return nil
	})
}

// stop ends the server in good order.
func (s *server) stop(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.done:
	case <-time.After(limit):
		t.Fatalf("the server did not stop:\n%s", s.says())
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the server ended with %d:\n%s", code, s.says())
	}
}

// remote is a Git server that knows nothing of Keelson: git http-backend, with basic authentication.
type remote struct{ url, root string }

const remoteUser, remotePassword = "reader", "correct-horse-battery"

func newRemote(t *testing.T) remote {
	t.Helper()
	folder := ok(t, program("", "git", "--exec-path"), []string{"git", "--exec-path"})
	r := remote{root: t.TempDir()}
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(folder), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + r.root, "GIT_HTTP_EXPORT_ALL=1"},
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if user, password, _ := q.BasicAuth(); user != remoteUser || password != remotePassword {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, q)
	}))
	t.Cleanup(s.Close)
	r.url = s.URL
	return r
}

// create makes a repository with the files of a folder and gives a clone of it that pushes past the server.
func (r remote) create(t *testing.T, name, files string) clone {
	t.Helper()
	dir := filepath.Join(r.root, name+".git")
	ok(t, program("", "git", "init", "-q", "--bare", "-b", "main", dir), []string{"git", "init"})
	c := cloneOf(t, dir)
	if err := os.CopyFS(c.dir, os.DirFS(files)); err != nil {
		t.Fatal(err)
	}
	c.push("Begin")
	return c
}

// onBare runs a keelson command on the bare cluster.
func onBare(t *testing.T, args ...string) string {
	t.Helper()
	return ok(t, program("", filepath.Join(bin, "keelson"), append(args, "--kubeconfig", bareCluster(t))...), args)
}

// bootstrap declares what "flux bootstrap" leaves in a cluster: its GitRepository with credentials, and the Kustomization
// of the cluster's folder.
func bootstrap(t *testing.T, kubeconfig, url, path string) {
	t.Helper()
	kubectl(t, kubeconfig, "apply", "-f", filepath.Join(root(), "config", "crd"))
	kubectl(t, kubeconfig, "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
	apply(t, kubeconfig, fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata:
  name: flux-system
---
apiVersion: v1
kind: Secret
metadata:
  name: flux-system
  namespace: flux-system
stringData:
  username: %s
  password: %s
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata:
  name: flux-system
  namespace: flux-system
spec:
  interval: 1m0s
  ref:
    branch: main
  secretRef:
    name: flux-system
  url: %s
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata:
  name: flux-system
  namespace: flux-system
spec:
  interval: 10m0s
  path: %s
  prune: true
  sourceRef:
    kind: GitRepository
    name: flux-system
`, remoteUser, remotePassword, url, path))
}

// forget removes what bootstrap has made, and with it everything that was delivered.
func forget(t *testing.T, kubeconfig string) {
	t.Helper()
	kubectl(t, kubeconfig, "-n", "flux-system", "delete", "kustomization", "flux-system", "--timeout=60s")
	kubectl(t, kubeconfig, "-n", "flux-system", "delete", "gitrepository", "flux-system", "--ignore-not-found", "--timeout=60s")
	left := kubectl(t, kubeconfig, "get", "kustomizations,deployments,services", "-A", "-l", "kustomize.toolkit.fluxcd.io/name", "-o", "name")
	if left != "" {
		t.Errorf("left of a deleted app:\n%s", left)
	}
}

func TestServerWithoutDefinitions(t *testing.T) {
	kubeconfig := bareCluster(t)
	kubectl(t, kubeconfig, "delete", "crd", "--all", "--timeout=60s")
	s := startServer(t, kubeconfig, t.TempDir())
	select {
	case <-s.done:
	case <-time.After(20 * time.Second):
		t.Fatal("it still runs")
	}
	fails(t, result{err: s.says(), code: s.cmd.ProcessState.ExitCode()}, 1,
		"hint: the cluster lacks Keelson's resource definitions: kubectl apply -f config/crd")
}

// TestServerWithoutDatabase: where the database of pipelines does not answer, the controllers work nevertheless.
func TestServerWithoutDatabase(t *testing.T) {
	kubeconfig := bareCluster(t)
	kubectl(t, kubeconfig, "apply", "--server-side", "-f", filepath.Join(root(), "config/crd"))
	none := "postgres://keelson@127.0.0.1:" + freePort(t) + "/keelson?sslmode=disable"
	s := startServerWith(t, []string{"KEELSON_DATABASE_URL=" + none}, kubeconfig, t.TempDir(), "--ci", "127.0.0.1:0", "--ci-url", "http://127.0.0.1:7070",
		"--ci-access", "127.0.0.1:0", "--ci-helper-image", "registry.example/keelson:1")
	s.waitFor(t, works)
	s.waitFor(t, "no pipelines are played")
	contains(t, s.says(), "the database does not answer")
	select {
	case <-s.done:
		t.Errorf("the server ended:\n%s", s.says())
	case <-time.After(2 * time.Second):
	}
	s.stop(t)
}

// TestServer delivers the repositories of a well-known introduction to GitOps from a foreign Git server, by "keelson
// server" alone; then a second server takes over.
func TestServer(t *testing.T) {
	kubeconfig, data := bareCluster(t), t.TempDir()
	git := newRemote(t)
	c := git.create(t, "first", "testdata/first")
	bootstrap(t, kubeconfig, git.url+"/first.git", "./clusters/my-cluster")
	first := startServer(t, kubeconfig, filepath.Join(data, "first"), "--listen", "127.0.0.1:0")
	first.waitFor(t, works)
	image(t, kubeconfig, "default", "my-application", "my-application:v1.0.0")
	contains(t, onBare(t, "get", "apps"), "flux-system", "apps", "Ready")
	page := regexp.MustCompile(`http://127\.0\.0\.1:\d+/`).FindString(first.says())
	text, err := os.ReadFile(filepath.Join(data, "first", "ci", "token"))
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(string(text))
	if res, err := http.Get(page); err != nil || res.StatusCode != http.StatusUnauthorized {
		t.Errorf("the dashboard is open: %v, %v", res, err)
	}
	for path, want := range map[string]string{"": "Keelson", "api/apps": `"name":"apps"`, "healthz": "ok"} {
		contains(t, fetch(t, page+path, token), want)
	}

	second := startServer(t, kubeconfig, filepath.Join(data, "second"))
	second.waitFor(t, "acquire leader lease")
	c.replace("apps/my-application/deployment.yaml", "v1.0.0", "v1.1.0")
	commit := c.push("Update my application to v1.1.0")
	contains(t, onBare(t, "reconcile", "flux-system", "--with-source"), commit[:7])
	image(t, kubeconfig, "default", "my-application", "my-application:v1.1.0")
	if strings.Contains(second.says(), works) {
		t.Errorf("two servers work on one cluster:\n%s", second.says())
	}
	first.stop(t)
	second.waitFor(t, works)
	kubectl(t, kubeconfig, "-n", "default", "delete", "deployment", "my-application")
	image(t, kubeconfig, "default", "my-application", "my-application:v1.1.0")

	second.kill(t) // its lease stays; the same data directory takes it over at once
	third := startServer(t, kubeconfig, filepath.Join(data, "second"))
	third.waitFor(t, works)
	c.replace("apps/my-application/deployment.yaml", "replicas: 3", "replicas: 2")
	c.push("Need less")
	onBare(t, "reconcile", "apps", "--with-source")
	if got := kubectl(t, kubeconfig, "-n", "default", "get", "deployment", "my-application", "-o", "jsonpath={.spec.replicas}"); got != "2" {
		t.Errorf("replicas are %s, want 2", got)
	}
	forget(t, kubeconfig)
	third.stop(t)
}

func (s *server) kill(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-s.done
}

// TestMicroservices delivers the introduction's layout of many services in two clusters, whose flux-system folder holds
// the app itself, and its layout of base and overlays.
func TestMicroservices(t *testing.T) {
	kubeconfig := bareCluster(t)
	git := newRemote(t)
	c := git.create(t, "microservices", "testdata/microservices")
	c.replace("clusters/production/flux-system/gotk-sync.yaml", "https://git.example.com", git.url)
	c.push("Say where we are")
	bootstrap(t, kubeconfig, git.url+"/microservices.git", "./clusters/production")
	s := startServer(t, kubeconfig, t.TempDir())
	s.waitFor(t, works)
	image(t, kubeconfig, "default", "frontend", "my-company/frontend:v1.0.0")
	for _, app := range []string{"flux-system", "infrastructure", "apps", "overlay"} {
		eventually(t, app+" to be ready", func() error {
			r := tryKubectl(kubeconfig, "-n", "flux-system", "get", "kustomization", app, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")]}`)
			if !strings.Contains(r.out, `"status":"True"`) {
				return fmt.Errorf("%s%s", r.out, r.err)
			}
			return nil
		})
	}
	image(t, kubeconfig, "monitoring", "prometheus", "prom/prometheus:v3.5.0")
	image(t, kubeconfig, "production", "web", "my-company/web:v2.0.0")
	kubectl(t, kubeconfig, "get", "persistentvolume", "database")
	c.replace("apps/frontend/deployment.yaml", "v1.0.0", "v1.1.0")
	c.push("Update frontend to v1.1.0")
	onBare(t, "reconcile", "apps", "--with-source")
	image(t, kubeconfig, "default", "frontend", "my-company/frontend:v1.1.0")
	if events := onBare(t, "events"); strings.Contains(events, "DriftRepaired") {
		t.Errorf("nobody has touched the cluster, and yet:\n%s", events)
	}
	forget(t, kubeconfig)
	s.stop(t)
}

func fetch(t *testing.T, url, token string) string {
	t.Helper()
	client := http.Client{Timeout: limit}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(res.Body); err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %s", url, res.Status, b.String())
	}
	return b.String()
}
