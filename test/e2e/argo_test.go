package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
)

// inCluster is the destination of apps that are delivered to the cluster that declares them.
const inCluster = "https://kubernetes.default.svc"

// hosted makes a repository on the built-in host with files, given as "path", "text", and gives a clone and its URL for reading.
func hosted(t *testing.T, name string, files ...string) (clone, string) {
	t.Helper()
	shared.must(t, "git", "create", name)
	c := cloneOf(t, shared.Git+"/"+name+".git")
	for i := 0; i+1 < len(files); i += 2 {
		write(t, filepath.Join(c.dir, files[i]), files[i+1])
	}
	c.push("Begin")
	return c, shared.Dashboard + "git/" + name + ".git"
}

// declareApp applies an Application that is taken away with its objects when the test ends.
func declareApp(t *testing.T, name, spec string) {
	t.Helper()
	apply(t, shared.Kubeconfig, fmt.Sprintf(`
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: %s, namespace: argocd, finalizers: [resources-finalizer.argocd.argoproj.io]}
spec:
%s`, name, indent(spec)))
	t.Cleanup(func() { removeApp(t, name) })
}

func removeApp(t *testing.T, name string) {
	t.Helper()
	if r := tryKubectl(shared.Kubeconfig, "-n", "argocd", "delete", "application", name, "--ignore-not-found", "--timeout=60s"); r.code != 0 {
		t.Errorf("delete Application %s: %s\n%s", name, r.err, shared.kubectl(t, "-n", "argocd", "get", "application", name, "-o", "yaml"))
	}
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ") + "\n"
}

// readApp reads an Application of the shared instance; one that is not there is empty.
func readApp(t *testing.T, name string) *argocdv1.Application {
	t.Helper()
	r := tryKubectl(shared.Kubeconfig, "-n", "argocd", "get", "application", name, "--ignore-not-found", "-o", "json")
	a := &argocdv1.Application{}
	if r.code == 0 && r.out == "" {
		return a
	}
	if r.code != 0 {
		t.Fatalf("read Application %s: %s", name, r.err)
	}
	if err := json.Unmarshal([]byte(r.out), a); err != nil {
		t.Fatal(err)
	}
	return a
}

// awaitApp waits until an Application is as want says, and gives it.
func awaitApp(t *testing.T, name, what string, want func(*argocdv1.Application) bool) (a *argocdv1.Application) {
	t.Helper()
	eventually(t, "Application "+name+": "+what, func() error {
		a = readApp(t, name)
		if want(a) {
			return nil
		}
		phase, message := "", ""
		if op := a.Status.OperationState; op != nil {
			phase, message = op.Phase, op.Message
		}
		return fmt.Errorf("sync %q at %q, health %q, operation %q: %s, conditions %+v",
			a.Status.Sync.Status, a.Status.Sync.Revision, a.Status.Health.Status, phase, message, a.Status.Conditions)
	})
	return a
}

// awaitSynced waits until an Application is Synced and Healthy, at a commit if one is given.
func awaitSynced(t *testing.T, name, commit string) *argocdv1.Application {
	t.Helper()
	return awaitApp(t, name, "Synced and Healthy", func(a *argocdv1.Application) bool {
		return a.Status.Sync.Status == "Synced" && a.Status.Health.Status == "Healthy" &&
			(commit == "" || a.Status.Sync.Revision == commit || slices.Contains(a.Status.Sync.Revisions, commit))
	})
}

func namespaceYAML(name string) string {
	return "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + name + "}\n"
}

func configYAML(name, value, annotations string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, annotations: {%s}}\ndata: {v: %q}\n", name, annotations, value)
}

func deploymentYAML(name, image, annotations string) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, annotations: {%[3]s}}
spec:
  replicas: 1
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec: {containers: [{name: main, image: %[2]q, ports: [{containerPort: 80}]}]}
`, name, image, annotations)
}

// jobYAML is a Job whose pod does what the simulated cluster is told; nothing told, it completes.
func jobYAML(name, annotations, simulate string) string {
	if simulate != "" {
		simulate = "keelson.dev/simulate: " + simulate
	}
	return fmt.Sprintf(`apiVersion: batch/v1
kind: Job
metadata: {name: %s, annotations: {%s}}
spec:
  backoffLimit: 0
  template:
    metadata: {annotations: {%s}}
    spec: {restartPolicy: Never, containers: [{name: main, image: "registry.example/job:1"}]}
`, name, annotations, simulate)
}

// TestGuestbook brings the Application of the article (seeds/002) to Synced and Healthy by kubectl apply alone: only the
// repository's URL is another one. Its destination's namespace comes from the repository.
func TestGuestbook(t *testing.T) {
	service := "apiVersion: v1\nkind: Service\nmetadata: {name: guestbook-ui}\nspec: {ports: [{port: 80}], selector: {app: guestbook-ui}}\n"
	c, url := hosted(t, "argocd-example-apps", "guestbook/namespace.yaml", namespaceYAML("guestbook"),
		"guestbook/guestbook-ui-svc.yaml", service, "guestbook/guestbook-ui-deployment.yaml", deploymentYAML("guestbook-ui", "registry.example/guestbook:v1", ""))
	apply(t, shared.Kubeconfig, `
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata:
  name: guestbook
  namespace: argocd
spec:
  project: default
  source:
    repoURL: `+url+`
    targetRevision: HEAD
    path: guestbook
  destination:
    server: https://kubernetes.default.svc
    namespace: guestbook
  syncPolicy:
    automated:
      prune: true
      selfHeal: true
`)
	t.Cleanup(func() { removeApp(t, "guestbook") })
	commit := c.git("rev-parse", "HEAD")
	a := awaitSynced(t, "guestbook", commit)
	op := a.Status.OperationState
	if op == nil || op.Phase != "Succeeded" || op.FinishedAt == nil || op.SyncResult == nil || op.SyncResult.Revision != commit || len(op.SyncResult.Resources) != 3 {
		t.Errorf("operationState is %+v", op)
	}
	if len(a.Status.History) != 1 || a.Status.History[0].Revision != commit || a.Status.History[0].Source == nil || !a.Status.History[0].InitiatedBy.Automated {
		t.Errorf("history is %+v", a.Status.History)
	}
	if diff := cmp.Diff([]string{"registry.example/guestbook:v1"}, a.Status.Summary.Images); diff != "" || a.Status.SourceType != "Directory" {
		t.Errorf("images (-want +got):\n%ssource type %q", diff, a.Status.SourceType)
	}
	var kinds []string
	for _, r := range a.Status.Resources {
		kinds = append(kinds, r.Kind+" "+r.Namespace+" "+r.Status)
	}
	slices.Sort(kinds)
	if diff := cmp.Diff([]string{"Deployment guestbook Synced", "Namespace  Synced", "Service guestbook Synced"}, kinds); diff != "" {
		t.Errorf("resources (-want +got):\n%s", diff)
	}
	columns := func(want []string, args ...string) {
		t.Helper()
		lines := strings.Split(shared.kubectl(t, append([]string{"-n", "argocd", "get", "applications.argoproj.io", "guestbook"}, args...)...), "\n")
		for i, line := range lines[:2] {
			if got := strings.Join(strings.Fields(line), " "); got != want[i] {
				t.Errorf("line %d of kubectl get is %q, want %q", i, got, want[i])
			}
		}
	}
	columns([]string{"NAME SYNC STATUS HEALTH STATUS", "guestbook Synced Healthy"})
	columns([]string{"NAME SYNC STATUS HEALTH STATUS REVISION PROJECT", "guestbook Synced Healthy " + commit + " default"}, "-o", "wide")

	contains(t, shared.must(t, "get", "apps", "-o", "wide"), "guestbook", "Ready", commit[:7], "Application", url, "Synced", "Healthy")
	contains(t, shared.must(t, "tree", "guestbook"), "Application/argocd/guestbook  Healthy", "Deployment/guestbook/guestbook-ui  Healthy", "Pod/guestbook/guestbook-ui-")
	contains(t, shared.must(t, "trace", "deployment/guestbook-ui", "-n", "guestbook"), "Application/argocd/guestbook", commit, "Author:", "Begin")
	contains(t, shared.must(t, "diff", "guestbook"), "0 of 3 objects differ")
	contains(t, shared.must(t, "events", "guestbook"), "Application/guestbook")
	contains(t, shared.must(t, "history", "guestbook"), "automated", commit[:7])
	contains(t, shared.must(t, "reconcile", "guestbook"), "argocd/guestbook is Ready")

	uid := func() string {
		return tryKubectl(shared.Kubeconfig, "-n", "guestbook", "get", "deployment", "guestbook-ui", "-o", "jsonpath={.metadata.uid}").out
	}
	before := uid()
	shared.kubectl(t, "-n", "guestbook", "delete", "deployment", "guestbook-ui")
	eventually(t, "a new Deployment", func() error {
		if now := uid(); now == "" || now == before {
			return fmt.Errorf("its uid is %q", now)
		}
		return nil
	})
	awaitSynced(t, "guestbook", commit)

	c.git("rm", "-q", "guestbook/guestbook-ui-svc.yaml")
	commit = c.push("Take the Service away")
	eventually(t, "the Service to be pruned", func() error {
		if r := tryKubectl(shared.Kubeconfig, "-n", "guestbook", "get", "service", "guestbook-ui"); r.code == 0 {
			return fmt.Errorf("it is there: %s", r.out)
		}
		return nil
	})
	a = awaitSynced(t, "guestbook", commit)
	if n := len(a.Status.Resources); n != 2 {
		t.Errorf("%d resources are told of, want 2", n)
	}
	// without the finalizer the objects stay
	removeApp(t, "guestbook")
	if r := tryKubectl(shared.Kubeconfig, "-n", "guestbook", "get", "deployment", "guestbook-ui"); r.code != 0 {
		t.Errorf("an Application without the finalizer has taken its objects along: %s", r.err)
	}
	shared.kubectl(t, "delete", "namespace", "guestbook", "--wait=false")
}

// happened is a log of what was made in a namespace and got done there, in the order of the API server's own clock.
type happened struct {
	mu    sync.Mutex
	lines map[string]uint64
	made  map[string]map[types.UID]bool // of each name: more than one object was there one after the other
}

// watchNamespace logs when Jobs, ConfigMaps and Deployments are made, and when Jobs complete and Deployments get available.
func watchNamespace(t *testing.T, kubeconfig, namespace string) *happened {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	c, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	h := &happened{lines: map[string]uint64{}, made: map[string]map[types.UID]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	t.Cleanup(func() { cancel(); all.Wait() })
	for _, r := range []schema.GroupVersionResource{
		{Version: "v1", Resource: "configmaps"}, {Group: "apps", Version: "v1", Resource: "deployments"}, {Group: "batch", Version: "v1", Resource: "jobs"},
	} {
		list, err := c.Resource(r).Namespace(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		w, err := c.Resource(r).Namespace(namespace).Watch(ctx, metav1.ListOptions{ResourceVersion: list.GetResourceVersion()})
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			for e := range w.ResultChan() {
				if u, ok := e.Object.(*unstructured.Unstructured); ok && u.GetName() != "kube-root-ca.crt" {
					h.see(u)
				}
			}
		})
	}
	return h
}

func (h *happened) see(u *unstructured.Unstructured) {
	h.mu.Lock()
	defer h.mu.Unlock()
	version, _ := strconv.ParseUint(u.GetResourceVersion(), 10, 64)
	note := func(what string) {
		if line := u.GetKind() + "/" + u.GetName() + " " + what; h.lines[line] == 0 {
			h.lines[line] = version
		}
	}
	note("made")
	name := u.GetKind() + "/" + u.GetName()
	if h.made[name] == nil {
		h.made[name] = map[types.UID]bool{}
	}
	h.made[name][u.GetUID()] = true
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range conditions {
		m, _ := c.(map[string]any)
		if kind := m["type"]; m["status"] == "True" && (kind == "Complete" || kind == "Available" || kind == "Failed") {
			note(fmt.Sprint(kind))
		}
	}
}

func (h *happened) log() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var lines []string
	for line := range h.lines {
		lines = append(lines, line)
	}
	slices.SortFunc(lines, func(a, b string) int { return int(h.lines[a]) - int(h.lines[b]) })
	return lines
}

// TestWavesAndHooks: hooks run before and after, lower waves come first, and a wave waits for the health of the one before.
func TestWavesAndHooks(t *testing.T) {
	shared.kubectl(t, "create", "namespace", "waves")
	t.Cleanup(func() { shared.kubectl(t, "delete", "namespace", "waves", "--wait=false") })
	const wave, hook = "argocd.argoproj.io/sync-wave: ", "argocd.argoproj.io/hook: "
	c, url := hosted(t, "waves",
		"app/migrate.yaml", jobYAML("migrate", hook+"PreSync", ""),
		"app/first.yaml", configYAML("first", "1", wave+`"-1"`),
		"app/web.yaml", deploymentYAML("web", "registry.example/web:1", ""),
		"app/last.yaml", configYAML("last", "1", wave+`"2"`),
		"app/notify.yaml", jobYAML("notify", hook+"PostSync", ""),
		"app/mourn.yaml", jobYAML("mourn", hook+"SyncFail", ""),
	)
	log := watchNamespace(t, shared.Kubeconfig, "waves")
	declareApp(t, "waves", `
project: default
source: {repoURL: `+url+`, path: app}
destination: {server: `+inCluster+`, namespace: waves}
syncPolicy: {automated: {prune: true, selfHeal: true}, retry: {limit: 0}}
`)
	a := awaitSynced(t, "waves", "")
	want := []string{
		"Job/migrate made", "Job/migrate Complete", "ConfigMap/first made", "Deployment/web made", "Deployment/web Available",
		"ConfigMap/last made", "Job/notify made", "Job/notify Complete",
	}
	eventually(t, "the last hook", func() error {
		if diff := cmp.Diff(want, log.log()); diff != "" {
			return fmt.Errorf("what happened (-want +got):\n%s", diff)
		}
		return nil
	})
	hooks := map[string]string{}
	for _, r := range a.Status.OperationState.SyncResult.Resources {
		if r.HookType != "" {
			hooks[r.Name] = r.HookType + " " + r.HookPhase
		}
	}
	if diff := cmp.Diff(map[string]string{"migrate": "PreSync Succeeded", "notify": "PostSync Succeeded"}, hooks); diff != "" {
		t.Errorf("hooks in the result (-want +got):\n%s", diff)
	}

	// a hook that fails keeps the rest away, and what is for failures runs
	write(t, filepath.Join(c.dir, "app/migrate.yaml"), jobYAML("migrate", hook+"PreSync", "CrashLoopBackOff"))
	write(t, filepath.Join(c.dir, "app/first.yaml"), configYAML("first", "2", wave+`"-1"`))
	c.push("Break the migration")
	awaitApp(t, "waves", "failed", func(a *argocdv1.Application) bool {
		return a.Status.OperationState != nil && a.Status.OperationState.Phase == "Failed"
	})
	if lines := log.log(); lines[len(lines)-1] != "Job/mourn Complete" && lines[len(lines)-1] != "Job/mourn made" {
		t.Errorf("the hook for failures did not run last:\n%s", strings.Join(lines, "\n"))
	}
	if got := shared.kubectl(t, "-n", "waves", "get", "configmap", "first", "-o", "jsonpath={.data.v}"); got != "1" {
		t.Errorf("although the migration failed, the object says %q", got)
	}
	r := shared.keelson("sync", "waves")
	fails(t, r, 3, "ended with Failed", "hint: ")
	contains(t, r.out, "Job/waves/migrate (PreSync hook)", "Failed")
	contains(t, shared.keelson("status").out, "argocd/waves", "Failed last sync attempt")
}

// TestRollbackWhileSyncedByItself goes back to an earlier deployment of an app that is synced by itself, and on again.
func TestRollbackWhileSyncedByItself(t *testing.T) {
	files := func(version string) string { return deploymentYAML("web", "registry.example/web:"+version, "") }
	c, url := hosted(t, "rollback", "web.yaml", files("1"))
	declareApp(t, "rollback", `
project: default
source: {repoURL: `+url+`, path: .}
destination: {server: `+inCluster+`, namespace: rollback}
syncPolicy: {automated: {prune: true, selfHeal: true}, syncOptions: [CreateNamespace=true]}
`)
	first := c.git("rev-parse", "HEAD")
	awaitSynced(t, "rollback", first)
	write(t, filepath.Join(c.dir, "web.yaml"), files("2"))
	second := c.push("Two")
	awaitSynced(t, "rollback", second)

	fails(t, shared.keelson("sync", "rollback", "--revision", first), 1, "by itself", "hint: keelson rollback rollback "+first)
	contains(t, shared.must(t, "rollback", "rollback"), "Deployment/rollback/web", "synced to "+first[:7], "held there", "keelson resume rollback")
	image(t, shared.Kubeconfig, "rollback", "web", "registry.example/web:1")
	write(t, filepath.Join(c.dir, "web.yaml"), files("3"))
	third := c.push("Three")
	a := awaitApp(t, "rollback", "to know of the commit and to stay", func(a *argocdv1.Application) bool {
		return a.Status.Sync.Revision == third && a.Status.Sync.Status == "OutOfSync"
	})
	if !slices.ContainsFunc(a.Status.Conditions, func(c argocdv1.ApplicationCondition) bool {
		return c.Type == "HeldWarning" && strings.Contains(c.Message, first[:7])
	}) {
		t.Errorf("no condition tells of the hold: %+v", a.Status.Conditions)
	}
	contains(t, shared.must(t, "get", "apps"), "rollback", "Suspended", "rolled back to "+first[:7])
	contains(t, shared.must(t, "history", "rollback"), first[:7], second[:7])
	image(t, shared.Kubeconfig, "rollback", "web", "registry.example/web:1")
	contains(t, shared.must(t, "resume", "rollback"), "resumed")
	awaitSynced(t, "rollback", third)
	image(t, shared.Kubeconfig, "rollback", "web", "registry.example/web:3")

	// to an id of the history, and suspended without going back
	contains(t, shared.must(t, "rollback", "rollback", "1"), "synced to "+second[:7])
	image(t, shared.Kubeconfig, "rollback", "web", "registry.example/web:2")
	shared.must(t, "resume", "rollback")
	awaitSynced(t, "rollback", third)
	contains(t, shared.must(t, "suspend", "rollback"), "suspended")
	shared.kubectl(t, "-n", "rollback", "set", "image", "deployment/web", "main=rogue:1")
	awaitApp(t, "rollback", "to see the drift", func(a *argocdv1.Application) bool { return a.Status.Sync.Status == "OutOfSync" })
	image(t, shared.Kubeconfig, "rollback", "web", "rogue:1")
	shared.must(t, "resume", "rollback")
	awaitSynced(t, "rollback", third)
}

// TestSyncByHand: nothing happens by itself; a person syncs all or a part, and ends what never ends.
func TestSyncByHand(t *testing.T) {
	shared.kubectl(t, "create", "namespace", "byhand")
	t.Cleanup(func() { shared.kubectl(t, "delete", "namespace", "byhand", "--wait=false") })
	c, url := hosted(t, "byhand", "a.yaml", configYAML("a", "1", ""), "b.yaml", configYAML("b", "1", ""), "c.yaml", configYAML("c", "1", ""))
	declareApp(t, "byhand", `
project: default
source: {repoURL: `+url+`, path: ., targetRevision: main}
destination: {server: `+inCluster+`, namespace: byhand}
`)
	there := func() string {
		return shared.kubectl(t, "-n", "byhand", "get", "configmap", "a", "b", "c", "--ignore-not-found", "-o", "jsonpath={range .items[*]}{.metadata.name}{.data.v} {end}{.metadata.name}{.data.v}")
	}
	awaitApp(t, "byhand", "OutOfSync", func(a *argocdv1.Application) bool { return a.Status.Sync.Status == "OutOfSync" })
	contains(t, shared.must(t, "get", "apps"), "byhand", "OutOfSync")
	contains(t, shared.keelson("status").out, "keelson sync byhand -n argocd")
	contains(t, shared.must(t, "sync", "byhand", "--dry-run"), "ConfigMap/byhand/a", "Succeeded")
	if got := there(); strings.TrimSpace(got) != "" {
		t.Errorf("a dry run has made %s", got)
	}
	contains(t, shared.must(t, "sync", "byhand", "--resource", ":ConfigMap:a"), "ConfigMap/byhand/a")
	if got := strings.TrimSpace(there()); got != "a1" {
		t.Errorf("a sync of one object leaves %q", got)
	}
	fails(t, shared.keelson("sync", "byhand", "--resource", "ConfigMap/a"), 2, "GROUP:KIND")
	var told struct {
		Phase, Revision string
		Objects         []struct{ Object, Result string }
	}
	if err := json.Unmarshal([]byte(shared.must(t, "sync", "byhand", "-o", "json")), &told); err != nil || told.Phase != "Succeeded" || len(told.Objects) != 3 {
		t.Errorf("sync -o json tells %+v (%v)", told, err)
	}
	first := c.git("rev-parse", "HEAD")
	a := awaitSynced(t, "byhand", first)
	if by := a.Status.OperationState.Operation.InitiatedBy; by.Username == "" || by.Automated {
		t.Errorf("it was initiated by %+v", by)
	}

	c.git("rm", "-q", "b.yaml")
	write(t, filepath.Join(c.dir, "c.yaml"), configYAML("c", "2", ""))
	second := c.push("Two")
	shared.must(t, "sync", "byhand")
	if got := strings.TrimSpace(there()); got != "a1 b1 c2" {
		t.Errorf("a sync that does not prune leaves %q", got)
	}
	contains(t, shared.must(t, "sync", "byhand", "--prune"), "Pruned", "ConfigMap/byhand/b")
	awaitSynced(t, "byhand", second)
	shared.must(t, "sync", "byhand", "--revision", first)
	if got := strings.TrimSpace(there()); got != "a1 b1 c1" {
		t.Errorf("a sync to the commit before leaves %q", got)
	}
	// as scripts do it
	shared.kubectl(t, "-n", "argocd", "patch", "application", "byhand", "--type=merge", "-p",
		`{"operation":{"initiatedBy":{"username":"script"},"sync":{"prune":true,"syncStrategy":{"hook":{}}}}}`)
	a = awaitSynced(t, "byhand", second)
	if a.Status.OperationState.Operation.InitiatedBy.Username != "script" || a.Operation != nil {
		t.Errorf("the script's operation: %+v, %+v", a.Status.OperationState.Operation, a.Operation)
	}

	write(t, filepath.Join(c.dir, "forever.yaml"), jobYAML("forever", "argocd.argoproj.io/hook: PreSync", "Pending"))
	c.push("Wait for ever")
	contains(t, shared.must(t, "sync", "byhand", "--no-wait"), "asked for")
	awaitApp(t, "byhand", "waiting for the hook", func(a *argocdv1.Application) bool {
		return a.Status.OperationState.Phase == "Running" && tryKubectl(shared.Kubeconfig, "-n", "byhand", "get", "job", "forever").code == 0
	})
	fails(t, shared.keelson("sync", "byhand"), 1, "is under way", "hint: wait for it, or end it: keelson sync byhand --terminate")
	contains(t, shared.must(t, "sync", "byhand", "--terminate"), "was ended")
	awaitApp(t, "byhand", "ended", func(a *argocdv1.Application) bool { return a.Status.OperationState.Phase == "Failed" })
	fails(t, shared.keelson("sync", "byhand", "--terminate"), 1, "no sync of argocd/byhand is under way")
	eventually(t, "the hook to be gone", func() error {
		if r := tryKubectl(shared.Kubeconfig, "-n", "byhand", "get", "job", "forever"); r.code == 0 {
			return fmt.Errorf("it is there")
		}
		return nil
	})
}

// charts serves Helm charts as a repository over HTTP: each is given as files by path.
func charts(t *testing.T, version string, all map[string]map[string]string) string {
	t.Helper()
	archives := map[string][]byte{}
	index := "apiVersion: v1\nentries:\n"
	for name, files := range all {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		w := tar.NewWriter(z)
		for path, text := range files {
			if err := w.WriteHeader(&tar.Header{Name: name + "/" + path, Mode: 0o644, Size: int64(len(text))}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		file := name + "-" + version + ".tgz"
		archives["/"+file] = b.Bytes()
		index += fmt.Sprintf("  %s:\n  - apiVersion: v2\n    name: %s\n    version: %s\n    digest: %x\n    urls:\n    - %s\n", name, name, version, sha256.Sum256(b.Bytes()), file)
	}
	archives["/index.yaml"] = []byte(index)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, ok := archives[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(b)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

const chartConfig = `apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-{{ .Chart.Name }}}
data: {level: {{ .Values.level | quote }}, version: {{ .Chart.Version | quote }}}
`

// TestHelmChart delivers a chart of a Git repository whose dependency is in a chart repository, with Helm's own hooks.
func TestHelmChart(t *testing.T) {
	repository := charts(t, "0.3.1", map[string]map[string]string{"sub": {
		"Chart.yaml": "apiVersion: v2\nname: sub\nversion: 0.3.1\n", "values.yaml": "level: quiet\n", "templates/config.yaml": chartConfig,
	}})
	_, url := hosted(t, "chart",
		"chart/Chart.yaml", "apiVersion: v2\nname: parent\nversion: 1.0.0\ndependencies:\n- {name: sub, version: 0.3.x, repository: "+repository+"}\n",
		"chart/values.yaml", "level: normal\nsub: {level: loud}\n", "chart/prod.yaml", "level: prod\n",
		"chart/templates/config.yaml", chartConfig,
		"chart/templates/hook.yaml", jobYAML("{{ .Release.Name }}-install", "helm.sh/hook: pre-install", ""),
		"chart/templates/test.yaml", jobYAML("{{ .Release.Name }}-test", "helm.sh/hook: test", ""),
	)
	shared.kubectl(t, "create", "namespace", "helm")
	t.Cleanup(func() { shared.kubectl(t, "delete", "namespace", "helm", "--wait=false") })
	log := watchNamespace(t, shared.Kubeconfig, "helm")
	declareApp(t, "charted", `
project: default
source:
  repoURL: `+url+`
  path: chart
  helm: {releaseName: shop, valueFiles: [prod.yaml], parameters: [{name: sub.level, value: "7", forceString: true}]}
destination: {server: `+inCluster+`, namespace: helm}
syncPolicy: {automated: {}}
`)
	a := awaitSynced(t, "charted", "")
	if a.Status.SourceType != "Helm" {
		t.Errorf("source type %q", a.Status.SourceType)
	}
	lines := log.log()
	if len(lines) != 4 || lines[0] != "Job/shop-install made" || lines[1] != "Job/shop-install Complete" {
		t.Errorf("what happened:\n%s", strings.Join(lines, "\n"))
	}
	for name, want := range map[string]string{"shop-parent": "prod 1.0.0", "shop-sub": "7 0.3.1"} {
		if got := shared.kubectl(t, "-n", "helm", "get", "configmap", name, "-o", "jsonpath={.data.level} {.data.version}"); got != want {
			t.Errorf("%s says %q, want %q", name, got, want)
		}
	}
}

// TestSeveralSources: a chart of a chart repository, with values of a Git repository, and plain manifests of the same.
func TestSeveralSources(t *testing.T) {
	repository := charts(t, "2.1.0", map[string]map[string]string{"web": {
		"Chart.yaml": "apiVersion: v2\nname: web\nversion: 2.1.0\n", "values.yaml": "level: quiet\n", "templates/config.yaml": chartConfig,
	}})
	c, url := hosted(t, "several", "values/prod.yaml", "level: one\n", "extra/extra.yaml", configYAML("extra", "1", ""))
	declareApp(t, "several", `
project: default
sources:
  - {repoURL: `+repository+`, chart: web, targetRevision: 2.*, helm: {valueFiles: [$values/values/prod.yaml]}}
  - {repoURL: `+url+`, ref: values}
  - {repoURL: `+url+`, path: extra}
destination: {server: `+inCluster+`, namespace: several}
syncPolicy: {automated: {selfHeal: true}, syncOptions: [CreateNamespace=true]}
`)
	level := func() string {
		return tryKubectl(shared.Kubeconfig, "-n", "several", "get", "configmap", "several-web", "-o", "jsonpath={.data.level} {.data.version}").out
	}
	a := awaitSynced(t, "several", c.git("rev-parse", "HEAD"))
	if got := level(); got != "one 2.1.0" {
		t.Errorf("the chart says %q", got)
	}
	if diff := cmp.Diff([]string{"2.1.0", c.git("rev-parse", "HEAD"), c.git("rev-parse", "HEAD")}, a.Status.Sync.Revisions); diff != "" {
		t.Errorf("revisions (-want +got):\n%s", diff)
	}
	if got := shared.kubectl(t, "-n", "several", "get", "configmap", "extra", "-o", "jsonpath={.data.v}"); got != "1" {
		t.Errorf("the third source's object says %q", got)
	}
	write(t, filepath.Join(c.dir, "values/prod.yaml"), "level: two\n")
	commit := c.push("Other values")
	awaitSynced(t, "several", commit)
	if got := level(); got != "two 2.1.0" {
		t.Errorf("after other values were pushed the chart says %q", got)
	}
}

// TestApplicationSetOverFolders makes an Application for every folder of a repository, and takes those away whose folder goes.
func TestApplicationSetOverFolders(t *testing.T) {
	c, url := hosted(t, "folders", "apps/one/a.yaml", configYAML("a", "1", ""), "apps/two/a.yaml", configYAML("a", "1", ""), "apps/not/a.yaml", configYAML("a", "1", ""))
	apply(t, shared.Kubeconfig, `
apiVersion: argoproj.io/v1alpha1
kind: ApplicationSet
metadata: {name: folders, namespace: argocd}
spec:
  goTemplate: true
  goTemplateOptions: [missingkey=error]
  generators:
    - git:
        repoURL: `+url+`
        revision: HEAD
        directories: [{path: apps/*}, {path: apps/not, exclude: true}]
  template:
    metadata: {name: 'folders-{{.path.basename}}', finalizers: [resources-finalizer.argocd.argoproj.io]}
    spec:
      project: default
      source: {repoURL: `+url+`, path: '{{.path.path}}', targetRevision: HEAD}
      destination: {server: `+inCluster+`, namespace: 'folders-{{.path.basename}}'}
      syncPolicy: {automated: {}, syncOptions: [CreateNamespace=true]}
`)
	t.Cleanup(func() {
		if r := tryKubectl(shared.Kubeconfig, "-n", "argocd", "delete", "applicationset", "folders", "--timeout=60s"); r.code != 0 {
			t.Error(r.err)
		}
		none(t, "folders-")
	})
	awaitSynced(t, "folders-one", "")
	awaitSynced(t, "folders-two", "")
	contains(t, shared.must(t, "get", "appsets"), "folders", "Ready", "2")

	write(t, filepath.Join(c.dir, "apps/three/a.yaml"), configYAML("a", "1", ""))
	write(t, filepath.Join(c.dir, "apps/two/a.yaml"), configYAML("a", "2", ""))
	c.git("rm", "-rq", "apps/one")
	commit := c.push("One goes, three comes, two changes")
	awaitSynced(t, "folders-three", commit)
	awaitSynced(t, "folders-two", commit)
	none(t, "folders-one")
	if r := tryKubectl(shared.Kubeconfig, "-n", "folders-one", "get", "configmap", "a"); r.code == 0 {
		t.Error("the Application of the folder that went has left its objects")
	}
	shared.kubectl(t, "-n", "argocd", "patch", "applicationset", "folders", "--type=json", "-p",
		`[{"op":"replace","path":"/spec/template/spec/syncPolicy/syncOptions","value":["CreateNamespace=true","PruneLast=true"]}]`)
	awaitApp(t, "folders-two", "to follow the template", func(a *argocdv1.Application) bool {
		return slices.Contains(a.Spec.SyncPolicy.SyncOptions, "PruneLast=true")
	})
}

// none waits until there is no Application whose name begins so.
func none(t *testing.T, prefix string) {
	t.Helper()
	eventually(t, "no Application "+prefix, func() error {
		out := shared.kubectl(t, "-n", "argocd", "get", "applications", "-o", "name")
		if strings.Contains(out, "application.argoproj.io/"+prefix) {
			return fmt.Errorf("there are %s", out)
		}
		return nil
	})
}

// TestTwoClusters delivers to a second cluster that a labelled Secret names, and says only of its apps that it is away.
func TestTwoClusters(t *testing.T) {
	there := bareCluster(t)
	config, err := clientcmd.BuildConfigFromFlags("", there)
	if err != nil {
		t.Fatal(err)
	}
	_, url := hosted(t, "twoclusters", "a.yaml", configYAML("a", "1", ""))
	secret := func(name, server string) {
		t.Helper()
		access, err := json.Marshal(map[string]any{"tlsClientConfig": map[string]any{"caData": config.CAData, "certData": config.CertData, "keyData": config.KeyData}})
		if err != nil {
			t.Fatal(err)
		}
		apply(t, shared.Kubeconfig, fmt.Sprintf(`
apiVersion: v1
kind: Secret
metadata: {name: %[1]s, namespace: argocd, labels: {argocd.argoproj.io/secret-type: cluster}}
stringData: {name: %[1]s, server: %[2]q, config: %[3]q}
`, name, server, access))
		t.Cleanup(func() { shared.kubectl(t, "-n", "argocd", "delete", "secret", name) })
	}
	secret("there", config.Host)
	app := func(name, destination string) {
		declareApp(t, name, `
project: default
source: {repoURL: `+url+`, path: .}
destination: {`+destination+`, namespace: twoclusters}
syncPolicy: {automated: {selfHeal: true}, syncOptions: [CreateNamespace=true]}
`)
	}
	app("two-here", "server: "+inCluster)
	app("two-there", "name: there")
	awaitSynced(t, "two-here", "")
	awaitSynced(t, "two-there", "")
	if got := kubectl(t, there, "-n", "twoclusters", "get", "configmap", "a", "-o", "jsonpath={.data.v}"); got != "1" {
		t.Errorf("in the other cluster the object says %q", got)
	}
	kubectl(t, there, "-n", "twoclusters", "patch", "configmap", "a", "--type=merge", "-p", `{"data":{"v":"drift"}}`)
	eventually(t, "repair in the other cluster", func() error {
		if got := tryKubectl(there, "-n", "twoclusters", "get", "configmap", "a", "-o", "jsonpath={.data.v}").out; got != "1" {
			return fmt.Errorf("it says %q", got)
		}
		return nil
	})
	contains(t, shared.must(t, "tree", "two-there"), "ConfigMap/twoclusters/a", "in another cluster")

	away := httptest.NewServer(http.NotFoundHandler())
	address := strings.Replace(away.URL, "http://", "https://", 1)
	away.Close()
	secret("away", address)
	app("two-away", "name: away")
	awaitApp(t, "two-away", "to say that its cluster is away", func(a *argocdv1.Application) bool {
		return a.Status.Sync.Status != "Synced" && slices.ContainsFunc(a.Status.Conditions, func(c argocdv1.ApplicationCondition) bool {
			return strings.HasSuffix(c.Type, "Error") && strings.Contains(c.Message, strings.TrimPrefix(address, "https://"))
		})
	})
	awaitSynced(t, "two-here", "")
	awaitSynced(t, "two-there", "")
	removeApp(t, "two-there")
	if r := tryKubectl(there, "-n", "twoclusters", "get", "configmap", "a"); r.code == 0 {
		t.Error("the other cluster still has the object of the app that is gone")
	}
	// nothing was ever delivered there, so it need not come back for the app to go
	shared.kubectl(t, "-n", "argocd", "patch", "application", "two-away", "--type=merge", "-p", `{"metadata":{"finalizers":[]}}`)
	kubectl(t, there, "delete", "namespace", "twoclusters", "--wait=false")
}

// TestProjectsForbid: what a project does not allow is refused, and the refusal names the rule.
func TestProjectsForbid(t *testing.T) {
	_, url := hosted(t, "forbidden", "role/role.yaml",
		"apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: forbidden}\nrules: []\n",
		"map/a.yaml", configYAML("a", "1", ""), "elsewhere/a.yaml", strings.Replace(configYAML("a", "1", ""), "name: a,", "name: a, namespace: default,", 1))
	apply(t, shared.Kubeconfig, `
apiVersion: argoproj.io/v1alpha1
kind: AppProject
metadata: {name: narrow, namespace: argocd}
spec:
  sourceRepos: [`+url+`]
  destinations: [{server: `+inCluster+`, namespace: forbidden}]
  namespaceResourceBlacklist: [{group: "", kind: Secret}]
`)
	shared.kubectl(t, "create", "namespace", "forbidden")
	t.Cleanup(func() {
		shared.kubectl(t, "-n", "argocd", "delete", "appproject", "narrow")
		shared.kubectl(t, "delete", "namespace", "forbidden", "--wait=false")
	})
	for name, tc := range map[string]struct {
		repo, path, namespace, project string
		says                           []string
	}{
		"forbidden-source":      {"https://git.example/other.git", "map", "forbidden", "narrow", []string{"https://git.example/other.git", "narrow"}},
		"forbidden-destination": {url, "map", "default", "narrow", []string{"default", "narrow"}},
		"forbidden-kind":        {url, "role", "forbidden", "narrow", []string{"ClusterRole", "narrow"}},
		"forbidden-namespace":   {url, "elsewhere", "forbidden", "narrow", []string{"default", "narrow"}},
		"forbidden-project":     {url, "map", "forbidden", "nosuch", []string{"nosuch"}},
	} {
		declareApp(t, name, fmt.Sprintf(`
project: %s
source: {repoURL: %s, path: %s}
destination: {server: %s, namespace: %s}
syncPolicy: {automated: {}}
`, tc.project, tc.repo, tc.path, inCluster, tc.namespace))
		awaitApp(t, name, "to say by which rule it is refused", func(a *argocdv1.Application) bool {
			text := ""
			for _, c := range a.Status.Conditions {
				text += c.Type + ": " + c.Message + "\n"
			}
			if op := a.Status.OperationState; op != nil {
				text += op.Message
				if op.SyncResult != nil {
					for _, r := range op.SyncResult.Resources {
						text += "\n" + r.Message
					}
				}
			}
			return a.Status.Sync.Status != "Synced" && !slices.ContainsFunc(tc.says, func(s string) bool { return !strings.Contains(text, s) })
		})
		contains(t, shared.must(t, "get", "apps"), name, "Failing")
	}
	for _, object := range [][]string{{"clusterrole", "forbidden"}, {"-n", "forbidden", "configmap", "a"}, {"-n", "default", "configmap", "a"}} {
		if r := tryKubectl(shared.Kubeconfig, append([]string{"get"}, object...)...); r.code == 0 {
			t.Errorf("%v is there although it is forbidden", object)
		}
	}
}
