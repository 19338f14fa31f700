package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// follow runs a command that goes on until the test ends, and gives its lines.
func (in *instance) follow(t *testing.T, args ...string) <-chan string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "keelson"), append(args, "--data", in.data)...)
	cmd.Env = environment()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			lines <- scan.Text()
		}
		_ = cmd.Wait() // it was told to end
	}()
	return lines
}

// expect reads lines until one has all the parts.
func expect(t *testing.T, lines <-chan string, parts ...string) {
	t.Helper()
	var seen []string
	deadline := time.After(limit)
next:
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("it ended after\n%s", strings.Join(seen, "\n"))
			}
			seen = append(seen, line)
			for _, part := range parts {
				if !strings.Contains(line, part) {
					continue next
				}
			}
			return
		case <-deadline:
			t.Fatalf("no line with %q in\n%s", parts, strings.Join(seen, "\n"))
		}
	}
}

func TestGetWatch(t *testing.T) {
	settled(t)
	table, values := shared.follow(t, "get", "apps", "-w"), shared.follow(t, "get", "apps", "--watch", "-o", "json")
	expect(t, table, "NAMESPACE", "STATE", "MESSAGE")
	for _, app := range []string{"cluster", "dev", "infrastructure", "production", "staging"} {
		expect(t, table, app, "Ready")
		expect(t, values, `"name":"`+app+`"`, `"state":"Ready"`)
	}
	shared.must(t, "suspend", "dev")
	expect(t, table, "dev", "Suspended")
	expect(t, values, `"name":"dev"`, `"state":"Suspended"`)
	shared.must(t, "resume", "dev")
	expect(t, table, "dev", "Ready")
	expect(t, values, `"name":"dev"`, `"state":"Ready"`)
}

func TestStatus(t *testing.T) {
	settled(t)
	contains(t, shared.must(t, "status", "--wait"), "Kubernetes v", "1 of 1 nodes ready", "running, ", "1 ready", "5 ready", "All is well.")
	screens := shared.follow(t, "status", "-w")
	expect(t, screens, "All is well.")
	shared.must(t, "suspend", "staging")
	expect(t, screens, "App flux-system/staging")
	expect(t, screens, "-> keelson resume staging -n flux-system")
	contains(t, shared.must(t, "status"), "4 ready, 1 suspended", "All is well.")
	shared.must(t, "resume", "staging")
	fails(t, shared.keelson("status", "--wait", "--watch"), 2, "exclude each other")
}

// sick is an app whose Pods fail, each in its own way.
const sick = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: crashing, namespace: default}
spec:
  selector: {matchLabels: {app: crashing}}
  template:
    metadata: {labels: {app: crashing}, annotations: {keelson.dev/simulate: CrashLoopBackOff}}
    spec: {containers: [{name: web, image: "nginx:1.29"}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: unknown-image, namespace: default}
spec:
  selector: {matchLabels: {app: unknown-image}}
  template:
    metadata: {labels: {app: unknown-image}, annotations: {keelson.dev/simulate: ImagePullBackOff}}
    spec: {containers: [{name: web, image: "nosuch:1"}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: too-big, namespace: default}
spec:
  selector: {matchLabels: {app: too-big}}
  template:
    metadata: {labels: {app: too-big}}
    spec: {containers: [{name: web, image: "nginx:1.29", resources: {requests: {cpu: "9999"}}}]}
`

// TestTreeAndTrace: an app down to what is wrong with its Pods, and a Pod up to the commit.
func TestTreeAndTrace(t *testing.T) {
	url := strings.TrimSpace(shared.must(t, "git", "create", "team/sick"))
	c := cloneOf(t, shared.Git+"/team/sick.git")
	write(t, filepath.Join(c.dir, "app", "objects.yaml"), sick)
	commit := c.push("Fall ill")
	apply(t, shared.Kubeconfig, fmt.Sprintf(`
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: sick, namespace: flux-system}
spec: {url: %q, interval: 10m, ref: {branch: main}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: sick, namespace: flux-system}
spec: {interval: 10m, path: ./app, prune: true, sourceRef: {kind: GitRepository, name: sick}}
`, url))
	t.Cleanup(func() {
		shared.kubectl(t, "-n", "flux-system", "delete", "kustomization/sick", "gitrepository/sick")
	})
	eventually(t, "the ways in which the Pods fail", func() error {
		r := shared.keelson("tree", "sick")
		for _, part := range []string{
			"Kustomization/flux-system/sick  Healthy at main@sha1:" + commit[:7],
			"├── Deployment/default/crashing  ", "│   └── ReplicaSet/default/crashing-", "│       └── Pod/default/crashing-",
			"container web: CrashLoopBackOff: ", "container web: ImagePullBackOff: ", "Unschedulable: 0/1 nodes are available: ", "Insufficient cpu",
		} {
			if !strings.Contains(r.out, part) {
				return fmt.Errorf("no %q in:\n%s%s", part, r.out, r.err)
			}
		}
		return nil
	})
	type node struct {
		Object, Health string
		Children       []node
	}
	var root node
	if err := json.Unmarshal([]byte(shared.must(t, "tree", "sick", "-o", "json")), &root); err != nil {
		t.Fatal(err)
	}
	if len(root.Children) != 3 || len(root.Children[0].Children) != 1 || len(root.Children[0].Children[0].Children) != 1 {
		t.Fatalf("tree -o json: %+v, want three Deployments with a ReplicaSet with a Pod each", root)
	}
	pod := root.Children[0].Children[0].Children[0]
	if pod.Health != "Degraded" {
		t.Errorf("the Pod is %s, want Degraded: %+v", pod.Health, pod)
	}
	contains(t, shared.must(t, "tree", "cluster"), "── Kustomization/flux-system/dev  Healthy", "Deployment/dev/backend", "Pod/dev/database-0  Healthy")

	name := pod.Object[strings.LastIndex(pod.Object, "/")+1:]
	contains(t, shared.must(t, "trace", "pod/"+name), "Pod/default/"+name+"  Degraded", "CrashLoopBackOff",
		"Made from:   ReplicaSet/default/crashing-", "Made from:   Deployment/default/crashing", "Kustomization/flux-system/sick  Ready",
		"main@sha1:"+commit, "Fall ill", "E2E <e2e@example.com>")
	contains(t, shared.must(t, "trace", "deploy/backend", "-n", "dev"), "Declared by: Kustomization/flux-system/cluster", "overlays/dev")
	contains(t, shared.must(t, "trace", "namespace/default"), "no app manages it", "Written by:  kube-apiserver")
	fails(t, shared.keelson("trace", "deploy/nosuch"), 1, "there is no Deployment nosuch in the namespace default", "hint: -n")
	fails(t, shared.keelson("trace", "nosuchkind/x"), 1, "no kind nosuchkind")
	fails(t, shared.keelson("trace", "deploy"), 2, "KIND/NAME")
}

func TestPlan(t *testing.T) {
	settled(t)
	contains(t, shared.must(t, "plan", "dev"), "flux-system/dev at main@sha1:", "0 to change, 8 objects in all")
	shared.must(t, "suspend", "dev")
	defer shared.keelson("resume", "dev")
	shared.kubectl(t, "-n", "dev", "set", "image", "deployment/frontend", "frontend=rogue:2")
	shared.kubectl(t, "-n", "dev", "delete", "service", "backend")
	r := shared.keelson("plan", "dev", "--diff")
	if r.code != 4 {
		t.Errorf("plan ended with %d, want 4: %s", r.code, r.err)
	}
	contains(t, r.out, "repair   Deployment/dev/frontend   edited in the cluster by kubectl-set", "repair   Service/dev/backend       deleted in the cluster",
		"-        image: rogue:2", "note: the app is suspended", "2 to change, 8 objects in all")
	var p struct {
		Changes []struct{ Stage, Object, Verb, Reason string }
	}
	r = shared.keelson("plan", "dev", "-o", "json")
	if err := json.Unmarshal([]byte(r.out), &p); err != nil || len(p.Changes) != 8 {
		t.Errorf("plan -o json: %d changes, want 8: %v", len(p.Changes), err)
	}
}

const (
	webManifest = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: local-web}
spec:
  selector: {matchLabels: {app: local-web}}
  template:
    metadata: {labels: {app: local-web}}
    spec: {containers: [{name: web, image: "nginx:1.29"}]}
`
	configManifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: local-%s}\ndata: {key: %q}\n"
)

// TestApply: a folder is delivered without a controller, changed, pruned, guarded and taken away.
func TestApply(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "shop")
	file := func(name string) string { return filepath.Join(dir, "app", name) }
	write(t, file("web.yaml"), webManifest)
	for _, name := range []string{"a", "b", "c"} {
		write(t, file(name+".yaml"), fmt.Sprintf(configManifest, name, "1"))
	}
	do := func(args ...string) result {
		return shared.keelson(append([]string{"apply", "--path", filepath.Join(dir, "app"), "--name", "shop"}, args...)...)
	}
	inventory := func() string {
		return tryKubectl(shared.Kubeconfig, "get", "configmap", "keelson-shop", "-o", "jsonpath={.data.state} {.data.inventory}").out
	}
	c := clone{t, dir}
	c.git("init", "-q", "-b", "main")
	first := c.commit("Begin")

	if r := do("--dry-run"); r.code != 4 || inventory() != "" {
		t.Errorf("apply --dry-run ended with %d, and the inventory is %q:\n%s%s", r.code, inventory(), r.out, r.err)
	}
	contains(t, ok(t, do("--wait"), []string{"apply"}), "Deployment/default/local-web created", "ConfigMap/default/local-a created",
		"default/shop is at main@sha1:"+first[:7]+": 4 changed, 4 objects, all healthy")
	if got, want := inventory(), `Applied {"entries":[{"id":"default_local-a__ConfigMap","v":"v1"},{"id":"default_local-b__ConfigMap","v":"v1"},`+
		`{"id":"default_local-c__ConfigMap","v":"v1"},{"id":"default_local-web_apps_Deployment","v":"v1"}]}`; got != want {
		t.Errorf("inventory\n%s, want\n%s", got, want)
	}
	contains(t, ok(t, do(), []string{"apply"}), "0 changed, 4 objects")
	contains(t, shared.must(t, "trace", "cm/local-a"), "App/default/shop", "keelson apply has applied it")

	c.replace("app/a.yaml", `"1"`, `"2"`)
	c.git("rm", "-q", "app/c.yaml")
	out := ok(t, do("--prune"), []string{"apply"})
	contains(t, out, "ConfigMap/default/local-a configured", "ConfigMap/default/local-c deleted", "with uncommitted changes: 2 changed, 3 objects")
	contains(t, ok(t, do("--ref", "main"), []string{"apply"}), "ConfigMap/default/local-a configured", "ConfigMap/default/local-c created", "2 changed, 4 objects")

	// What another app owns is refused, before anything is applied.
	fails(t, shared.keelson("apply", "--path", filepath.Join(dir, "app"), "--name", "thief"), 1, "already owned by App/default/shop", "hint: ")
	if r := tryKubectl(shared.Kubeconfig, "get", "configmap", "keelson-thief"); r.code == 0 {
		t.Error("an app that was refused has an inventory")
	}
	sample := cloneOf(t, shared.Git+"/sample.git")
	fails(t, shared.keelson("apply", "--path", filepath.Join(sample.dir, "overlays", "dev"), "--name", "thief"), 1, "already owned by Kustomization/flux-system/dev")

	for _, name := range []string{"a", "b", "web"} {
		c.git("rm", "-q", "-f", "app/"+name+".yaml")
	}
	write(t, file("README.md"), "nothing\n")
	fails(t, do("--prune"), 1, "the commit renders to nothing: every object of the app (4) would be deleted", "hint: if it is meant, say --confirm")
	shared.kubectl(t, "get", "deployment", "local-web")
	contains(t, ok(t, do("--prune", "--confirm"), []string{"apply"}), "Deployment/default/local-web deleted", "4 changed, 0 objects")
	if got := inventory(); got != "" {
		t.Errorf("the inventory of nothing is %q", got)
	}
}

// TestApplyUnhealthy: what does not get healthy is told by the exit code, and stays in the inventory.
func TestApplyUnhealthy(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "objects.yaml"), sick)
	r := shared.keelson("apply", "--path", dir, "--name", "sick", "--wait", "--timeout", "3s")
	fails(t, r, 3, "not healthy", "Deployment/default/crashing")
	write(t, filepath.Join(dir, "objects.yaml"), "")
	ok(t, shared.keelson("apply", "--path", dir, "--name", "sick", "--prune", "--confirm"), []string{"apply"})
}

// TestApplyFile: a Kustomization in a file is delivered as a controller would, from the repository around it.
func TestApplyFile(t *testing.T) {
	dir := t.TempDir()
	c := clone{t, dir}
	c.git("init", "-q", "-b", "main")
	write(t, filepath.Join(dir, "base", "a.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: filed}\ndata: {color: \"${color}\"}\n")
	write(t, filepath.Join(dir, "apps", "app.yaml"), `
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: filed, namespace: flux-system}
spec:
  interval: 10m
  path: ./base
  prune: true
  targetNamespace: default
  postBuild: {substitute: {color: blue}}
  sourceRef: {kind: GitRepository, name: nowhere}
`)
	file := filepath.Join(dir, "apps", "app.yaml")
	contains(t, shared.must(t, "apply", "-f", file), "ConfigMap/default/filed created", "flux-system/filed is at")
	if got := shared.kubectl(t, "get", "configmap", "filed", "-o", "jsonpath={.data.color}"); got != "blue" {
		t.Errorf("color is %q, want blue", got)
	}
	write(t, filepath.Join(dir, "base", "a.yaml"), "")
	contains(t, shared.must(t, "apply", "-f", file, "--confirm"), "ConfigMap/default/filed deleted")
	c.replace("apps/app.yaml", "name: filed", "name: dev")
	fails(t, shared.keelson("apply", "-f", file), 1, "Kustomization/flux-system/dev is declared in the cluster", "hint: keelson reconcile dev")
	fails(t, shared.keelson("apply"), 2, "--path", "hint: usage")
}
