package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"
)

// screenshotsVariable names the environment variable with the directory that pictures of the dashboard are written to.
const screenshotsVariable = "KEELSON_SCREENSHOTS"

// needsBrowser skips a test where there is no browser to follow.
func needsBrowser(t *testing.T) {
	t.Helper()
	for what, there := range map[string]func() bool{
		"node":     func() bool { _, err := exec.LookPath("node"); return err == nil },
		"chromium": func() bool { _, err := exec.LookPath("chromium"); return err == nil },
		"web/node_modules (make build)": func() bool {
			_, err := os.Stat(filepath.Join(root(), "web/node_modules/playwright-core"))
			return err == nil
		},
	} {
		if !there() {
			t.Skipf("%s is missing", what)
		}
	}
}

// TestDashboard follows a person through the dashboard in a real browser: web/tests/tour.mjs. What happens outside of the browser is done here
// when the tour asks for it.
func TestDashboard(t *testing.T) {
	needsBrowser(t)
	sample := cloneOf(t, shared.Git+"/sample.git")
	shared.must(t, "git", "create", "shop")
	shop := cloneOf(t, shared.Git+"/shop.git")
	deployer(t, "carol", "shop", "correct horse")
	does := map[string]func(){
		"push the sample": func() {
			sample.replace("overlays/dev/patch.yaml", "Hello from dev", "Welcome to dev")
			sample.push("Say welcome in dev")
		},
		"change the backend of dev": func() {
			shared.kubectl(t, "-n", "dev", "patch", "configmap", "backend", "--type", "merge", "-p", `{"data":{"PODINFO_UI_MESSAGE":"Somebody was here"}}`)
		},
		"push the shop": func() {
			if err := os.CopyFS(shop.dir, os.DirFS("testdata/shop")); err != nil {
				t.Fatal(err)
			}
			shop.push("Sell tea")
		},
		"deliver the tea twice": func() { deliverTwice(t) },
		"change the image of the backend of staging": func() {
			shared.kubectl(t, "-n", "staging", "patch", "deployment", "backend", "--field-manager", "late-shift",
				"-p", `{"spec":{"template":{"spec":{"containers":[{"name":"backend","image":"evil:1"}]}}}}`)
		},
	}
	tour(t, "tour.mjs", does, strings.TrimSuffix(shared.Dashboard, "/"), shared.Token, os.Getenv(screenshotsVariable))
}

// deployer makes a user of the shared instance and a project in whose production nobody else may deploy, and gives them the right to play its jobs.
func deployer(t *testing.T, user, project, password string) {
	t.Helper()
	add := exec.CommandContext(t.Context(), filepath.Join(bin, "keelson"), "user", "add", user, "--password-stdin", "--data", shared.data)
	add.Stdin, add.Env = strings.NewReader(password+"\n"), environment()
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("user add: %v: %s", err, out)
	}
	t.Cleanup(func() { shared.must(t, "user", "remove", user) })
	apply(t, shared.Kubeconfig, fmt.Sprintf(`
{apiVersion: v1, kind: Namespace, metadata: {name: %[1]s}}
---
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: %[1]s, namespace: %[1]s}
spec:
  repository: %[1]s
  environments: [{name: production, deployers: [%[2]s]}]
`, project, user))
	roles := filepath.Join(root(), "config/rbac/roles.yaml")
	shared.kubectl(t, "apply", "-f", roles)
	shared.kubectl(t, "-n", project, "create", "rolebinding", user, "--clusterrole=keelson-developer", "--user="+user)
	t.Cleanup(func() { shared.kubectl(t, "delete", "-f", roles) })
}

// deliverTwice has an Application deliver one commit, and then another one.
func deliverTwice(t *testing.T) {
	t.Helper()
	pot := func(minutes string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: pot}\ndata: {minutes: '" + minutes + "'}\n"
	}
	c, url := hosted(t, "tea", "tea/namespace.yaml", namespaceYAML("tea"), "tea/pot.yaml", pot("3"), "tea/web.yaml", deploymentYAML("web", "registry.example/tea:1", ""))
	declareApp(t, "tea", fmt.Sprintf(`
project: default
source: {repoURL: %q, targetRevision: main, path: tea}
destination: {server: %s, namespace: tea}
syncPolicy: {automated: {}}
`, url, inCluster))
	awaitSynced(t, "tea", c.git("rev-parse", "HEAD"))
	write(t, filepath.Join(c.dir, "tea/pot.yaml"), pot("5"))
	awaitSynced(t, "tea", c.push("Brew it longer"))
}

// tour runs a script of web/tests and does what it asks for.
func tour(t *testing.T, script string, does map[string]func(), args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "node", append([]string{filepath.Join(root(), "web/tests", script)}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.WaitDelay = 10 * time.Second
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		t.Log(lines.Text())
		what, asked := strings.CutPrefix(lines.Text(), "do: ")
		if !asked {
			continue
		}
		do, known := does[what]
		if !known {
			t.Errorf("the tour asks for %q", what)
			break
		}
		do()
		if _, err := io.WriteString(in, "done\n"); err != nil {
			t.Error(err)
			break
		}
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the tour: %v\n%s", err, said.String())
	}
}

// relay stands between a browser and an instance, as a proxy does, and cuts the connections when it is told to.
type relay struct {
	net.Listener
	to string

	mu   sync.Mutex
	open map[net.Conn]bool
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{Listener: l, to: to, open: map[net.Conn]bool{}}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return // it was closed
			}
			go r.pass(in)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		r.cut()
	})
	return r
}

func (r *relay) pass(in net.Conn) {
	out, err := net.Dial("tcp", r.to)
	if err != nil {
		_ = in.Close()
		return
	}
	r.mu.Lock()
	r.open[in], r.open[out] = true, true
	r.mu.Unlock()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1]) // either may be cut
			_ = way[0].Close()
		})
	}
	both.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, in)
	delete(r.open, out)
}

// cut ends all connections that are open.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.open {
		_ = c.Close()
	}
}

// kettle writes a line now and then, and one more when it is told to end.
const kettle = `apiVersion: apps/v1
kind: Deployment
metadata: {name: kettle, namespace: kettle}
spec:
  selector: {matchLabels: {app: kettle}}
  template:
    metadata: {labels: {app: kettle}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: kettle
        image: "IMAGE"
        command:
        - sh
        - -c
        - |
          trap 'echo the kettle is cold; exit 0' TERM
          echo the kettle is on
          i=0
          while true; do i=$((i+1)); echo "boiling $i"; sleep 0.3; done
`

// TestPodLogInBrowser follows a person to the log of a Pod that really runs, in a real browser: web/tests/podlog.mjs. An app brings it there from
// Git; the log is read on when the connection is lost and when the container is started anew.
func TestPodLogInBrowser(t *testing.T) {
	needsBrowser(t)
	t.Parallel()
	in := realInstance(t)
	shell := in.Registry + "/tools/shell:1"
	if err := crane.Push(busyboxImage(t), shell, crane.WithAuth(&authn.Basic{Username: "me", Password: in.Token})); err != nil {
		t.Fatal(err)
	}
	url := strings.TrimSpace(in.must(t, "git", "create", "kettle"))
	c := cloneOf(t, in.Git+"/kettle.git")
	write(t, filepath.Join(c.dir, "kettle.yaml"), strings.Replace(kettle, "IMAGE", shell, 1))
	c.push("Boil")
	apply(t, in.Kubeconfig, fmt.Sprintf(`
{apiVersion: v1, kind: Namespace, metadata: {name: kettle}}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: kettle, namespace: kettle}
spec: {url: %q, interval: 10m, ref: {branch: main}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: kettle, namespace: kettle}
spec: {interval: 10m, path: ./, prune: true, wait: true, sourceRef: {kind: GitRepository, name: kettle}}
`, url))
	between := newRelay(t, strings.TrimSuffix(strings.TrimPrefix(in.Dashboard, "http://"), "/"))
	does := map[string]func(){
		"cut the connections": between.cut,
		"end the container": func() {
			pod := in.kubectl(t, "-n", "kettle", "get", "pod", "-l", "app=kettle", "-o", "jsonpath={.items[0].metadata.name}")
			in.kubectl(t, "-n", "kettle", "exec", pod, "--", "kill", "1")
		},
	}
	tour(t, "podlog.mjs", does, "http://"+between.Addr().String(), in.Token, os.Getenv(screenshotsVariable))
}
