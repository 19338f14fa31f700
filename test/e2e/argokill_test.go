package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
)

// TestServerKilledInAnOperation kills the server again and again in the middle of one operation, each time as soon as something of it is
// seen: the next server carries it on where it was, to its end, and no hook runs twice.
func TestServerKilledInAnOperation(t *testing.T) {
	kubeconfig, data := bareCluster(t), t.TempDir()
	kubectl(t, kubeconfig, "apply", "-f", filepath.Join(root(), "config", "crd"))
	kubectl(t, kubeconfig, "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
	apply(t, kubeconfig, namespaceYAML("argocd")+"---\n"+namespaceYAML("killed"))
	git := newRemote(t)
	const wave, hook = "argocd.argoproj.io/sync-wave: ", "argocd.argoproj.io/hook: "
	files := t.TempDir()
	for name, text := range map[string]string{
		"migrate": jobYAML("migrate", hook+"PreSync", ""),
		"first":   configYAML("first", "1", wave+`"-1"`),
		"web":     deploymentYAML("web", "registry.example/web:1", ""),
		"seed":    jobYAML("seed", hook+"Sync, "+wave+`"1"`, ""),
		"last":    configYAML("last", "1", wave+`"2"`),
		"notify":  jobYAML("notify", hook+"PostSync", ""),
	} {
		write(t, filepath.Join(files, "app", name+".yaml"), text)
	}
	commit := strings.TrimSpace(git.create(t, "killed", files).git("rev-parse", "HEAD"))
	apply(t, kubeconfig, fmt.Sprintf(`
apiVersion: v1
kind: Secret
metadata: {name: killed, namespace: argocd, labels: {argocd.argoproj.io/secret-type: repository}}
stringData: {url: %q, username: %s, password: %s}
`, git.url+"/killed.git", remoteUser, remotePassword))
	log := watchNamespace(t, kubeconfig, "killed")
	s := startServer(t, kubeconfig, data)
	s.waitFor(t, works)
	apply(t, kubeconfig, fmt.Sprintf(`
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: killed, namespace: argocd, finalizers: [resources-finalizer.argocd.argoproj.io]}
spec:
  project: default
  source: {repoURL: %q, path: app}
  destination: {server: %s, namespace: killed}
  syncPolicy: {automated: {prune: true, selfHeal: true}}
`, git.url+"/killed.git", inCluster))
	read := func() *argocdv1.Application {
		t.Helper()
		a := &argocdv1.Application{}
		if err := json.Unmarshal([]byte(kubectl(t, kubeconfig, "-n", "argocd", "get", "application", "killed", "-o", "json")), a); err != nil {
			t.Fatal(err)
		}
		return a
	}
	var began time.Time
	middle := 0 // kills before the operation had ended
	for _, seen := range []string{"Job/migrate made", "Job/migrate Complete", "ConfigMap/first made", "Deployment/web made", "Job/seed made", "Job/notify made"} {
		for deadline := time.Now().Add(limit); !slices.Contains(log.log(), seen); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("still not %s after %s:\n%s\n%+v", seen, limit, strings.Join(log.log(), "\n"), read().Status)
			}
		}
		s.kill(t)
		op := read().Status.OperationState
		if op != nil {
			t.Logf("killed at %s: %s since %s: %s", seen, op.Phase, op.StartedAt.Format(time.TimeOnly), op.Message)
		}
		switch {
		case op == nil:
			t.Fatalf("%s, and the operation was not told of before", seen)
		case began.IsZero():
			began = op.StartedAt.Time
		}
		if op.Phase == argocdv1.OperationRunning {
			middle++
		}
		s = startServer(t, kubeconfig, data)
		s.waitFor(t, works)
	}
	if middle < 3 {
		t.Errorf("only %d of the kills were in the middle of the operation", middle)
	}
	var a *argocdv1.Application
	eventually(t, "the operation to end", func() error {
		if a = read(); a.Status.OperationState.Phase != argocdv1.OperationSucceeded || a.Status.Sync.Status != argocdv1.Synced || a.Status.Health.Status != "Healthy" {
			return fmt.Errorf("%+v", a.Status)
		}
		return nil
	})
	if op := a.Status.OperationState; !op.StartedAt.Time.Equal(began) || op.RetryCount != 0 || op.SyncResult.Revision != commit {
		t.Errorf("it began at %s; the last one: %+v", began, op)
	}
	if n := len(a.Status.History); n != 1 {
		t.Errorf("%d deployments are told of", n)
	}
	want := []string{
		"Job/migrate made", "Job/migrate Complete", "ConfigMap/first made", "Deployment/web made", "Deployment/web Available",
		"Job/seed made", "Job/seed Complete", "ConfigMap/last made", "Job/notify made", "Job/notify Complete",
	}
	if diff := cmp.Diff(want, log.log()); diff != "" {
		t.Errorf("what happened (-want +got):\n%s", diff)
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	for name, all := range log.made {
		if len(all) != 1 {
			t.Errorf("%s was made %d times", name, len(all))
		}
	}
	kubectl(t, kubeconfig, "-n", "argocd", "delete", "application", "killed", "--timeout=60s")
	s.stop(t)
	kubectl(t, kubeconfig, "-n", "argocd", "delete", "secret", "killed")
	kubectl(t, kubeconfig, "delete", "namespace", "killed", "--wait=false")
}
