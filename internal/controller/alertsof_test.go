package controller_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	eventv1 "github.com/fluxcd/pkg/apis/event/v1beta1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
)

// alertsOf makes a generic Provider that sends to an address, and an Alert about what is said of some objects.
func (w *world) alertsOf(name, address, sources, severity string) {
	w.Helper()
	w.apply(fmt.Sprintf(`
apiVersion: notification.toolkit.fluxcd.io/v1beta3
kind: Provider
metadata: {name: %[1]s}
spec: {type: generic, address: "%[2]s"}
---
apiVersion: notification.toolkit.fluxcd.io/v1beta3
kind: Alert
metadata: {name: %[1]s}
spec: {providerRef: {name: %[1]s}, eventSources: [%[3]s], eventSeverity: %[4]s}
`, name, address, sources, severity))
}

// once checks that just one event has all parts.
func (h *inbox) once(t *testing.T, parts ...string) {
	t.Helper()
	if n := len(h.with(parts...)); n != 1 {
		t.Errorf("%q came %d times:\n%s", parts, n, strings.Join(h.lines(), "\n"))
	}
}

// TestAlertsOfHelmReleases: what Helm has done, a failure, the rollback after it, drift that was repaired and a person's rollback reach a webhook, each once,
// with the version of the chart; one for errors only hears of the failures.
func TestAlertsOfHelmReleases(t *testing.T) {
	w := newWorld(t)
	all, errs := newInbox(t, nil), newInbox(t, nil)
	w.alertsOf("all", all.URL, "{kind: HelmRelease, name: web}", "info")
	w.alertsOf("errors", errs.URL, "{kind: HelmRelease, name: '*'}", "error")
	w.push(chart("1.0.0", map[string]string{"templates/broken.yaml": "{{ if .Values.broken }}\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: NOT-A-NAME}\n{{ end }}\n"}))
	const spec = "  driftDetection: {mode: enabled}\n  upgrade: {remediation: {retries: 0, remediateLastFailure: true}}\n"
	w.helmRelease("web", spec+"  values: {v: one}\n")
	w.released("web", 1)
	e := w.comes(all, "info HelmRelease/web InstallSucceeded", "web.v1 with chart small@1.0.0")
	if e.Metadata["revision"] != "1.0.0" || e.InvolvedObject.UID != w.getHelmRelease("web").UID || e.ReportingController != "keelson" {
		t.Errorf("event %+v", e)
	}

	w.must(w.client.Patch(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("web")}, client.RawPatch("application/merge-patch+json", []byte(`{"data":{"v":"mine"}}`))))
	w.comes(all, "info HelmRelease/web DriftRepaired", "ConfigMap/"+w.ns+"/web")
	w.value("web", "one")

	w.helmRelease("web", spec+"  values: {v: two, broken: true}\n")
	w.helmSays("web", "Remediated", "True", "RollbackSucceeded", "web.v3")
	w.comes(all, "error HelmRelease/web UpgradeFailed", "NOT-A-NAME")
	w.comes(all, "info HelmRelease/web RollbackSucceeded", "web.v3")
	w.comes(errs, "error HelmRelease/web UpgradeFailed", "NOT-A-NAME")

	w.helmRelease("web", spec+"  values: {v: three}\n")
	w.released("web", 4)
	w.comes(all, "info HelmRelease/web UpgradeSucceeded", "web.v4")
	for _, parts := range [][]string{{"InstallSucceeded"}, {"DriftRepaired"}, {"UpgradeFailed"}, {"RollbackSucceeded"}, {"UpgradeSucceeded"}} {
		all.once(t, parts...)
	}
	errs.once(t, "UpgradeFailed")
	for _, e := range errs.with("") {
		if e.Severity != eventv1.EventSeverityError {
			t.Errorf("what is for errors was told %s: %s", e.Reason, e.Message)
		}
	}
}

// retried has everything be done without being asked, and what fails be tried once more.
const retried = "  syncPolicy: {automated: {prune: true, selfHeal: true}, retry: {limit: 1, backoff: {duration: 1s}}}\n"

// TestAlertsOfApplications: a sync, drift that was repaired, health that has got worse and a sync that failed reach a webhook, each once, with the commit.
func TestAlertsOfApplications(t *testing.T) {
	w := newArgoWorld(t)
	all, errs := newInbox(t, nil), newInbox(t, nil)
	sources := "{kind: Application, name: " + w.name("web") + ", namespace: argocd}"
	w.alertsOf("all", all.URL, sources, "info")
	w.alertsOf("errors", errs.URL, sources, "error")
	of := "Application/" + w.name("web") + " "
	claim := `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim, annotations: {pv.kubernetes.io/bind-completed: "yes"}}
spec: {accessModes: [ReadWriteOnce], volumeName: nothing, storageClassName: "", resources: {requests: {storage: 1Gi}}}
`
	first := w.push(map[string]string{"web/a.yaml": w.configMap("a", "1")})
	w.app("web", retried)
	w.synced("web", first)
	e := w.comes(all, "info "+of+"OperationCompleted", "Sync operation to "+first+" succeeded")
	if e.Metadata["revision"] != "main@sha1:"+first {
		t.Errorf("the revision is %q, want that of %s", e.Metadata["revision"], first)
	}

	w.must(w.client.Delete(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("a")}))
	w.value("a", "1")
	w.comes(all, "info "+of+"DriftRepaired", "ConfigMap/"+w.ns+"/a repaired", "deleted in the cluster")

	second := w.push(map[string]string{"web/claim.yaml": claim})
	w.until("web", func(a *argocdv1.Application) error {
		if a.Status.Sync.Revision != second || a.Status.Health.Status != "Degraded" {
			return errors.New("want it degraded")
		}
		return nil
	})
	w.comes(all, "error "+of+"ResourceUpdated", "Updated health status: ", "-> Degraded")
	w.comes(errs, "error "+of+"ResourceUpdated", "-> Degraded")

	third := w.push(map[string]string{"web/claim.yaml": "", "web/bad.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: 99999}]}\n"})
	w.operated("web", argocdv1.OperationFailed)
	e = w.comes(all, "error "+of+"OperationCompleted", "Sync operation to "+third+" failed")
	if e.InvolvedObject.UID != w.application("web").UID {
		t.Errorf("event %+v", e)
	}
	w.comes(errs, "error "+of+"OperationCompleted", "failed")
	w.comes(errs, "error "+of+"SyncError", third)
	errs.once(t, "SyncError", third) // though it was tried twice

	fourth := w.push(map[string]string{"web/bad.yaml": ""})
	w.synced("web", fourth)
	w.comes(all, "info "+of+"OperationCompleted", "Sync operation to "+fourth+" succeeded")
	for _, parts := range [][]string{{"OperationCompleted: Sync operation to " + first}, {"DriftRepaired"}, {"-> Degraded"}, {third + " failed"}, {"OperationCompleted: Sync operation to " + fourth}} {
		all.once(t, parts...)
	}
	if len(errs.with("succeeded")) != 0 || len(errs.with("DriftRepaired")) != 0 {
		t.Errorf("what is for errors was told %q", errs.lines())
	}
}

// sourceAt waits until the repository is read at a revision, so that nothing fails for want of it.
func (w *world) sourceAt(revision string) {
	w.Helper()
	w.eventually("source", func() error {
		c, err := w.sourceReady("repo")
		if err == nil && !strings.Contains(c.Message, revision) {
			err = errors.New(c.Message)
		}
		return err
	})
}

// TestAlertsAfterARestart: what could not be sent when the process ended is sent by the next one, where it fails still; of what is well again
// nothing is, nor of what fails once more than once.
func TestAlertsAfterARestart(t *testing.T) {
	w := newArgoWorld(t)
	down := true
	h := newInbox(t, func(_ int, rw http.ResponseWriter, _ *http.Request) {
		if down {
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	forge := newInbox(t, nil)
	w.alertsOf("hook", h.URL, "{kind: Kustomization, name: '*'}, {kind: HelmRelease, name: '*'}, {kind: GitRepository, name: '*'}, {kind: Application, name: "+w.name("web")+", namespace: argocd}", "error")
	w.secretOf("forge", map[string]string{"token": "s3cr3t-key"})
	w.alerts("forge", "gitea", forge.URL+"/shop/web", "")
	w.apply(`
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: lost}
spec: {interval: 1h, url: "` + running.server.URL + `/git/nothing-of-this-name.git", ref: {branch: main}}
`)
	files := chart("1.0.0", map[string]string{"templates/broken.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: NOT-A-NAME}\n"})
	files["bad/a.yaml"], files["good/a.yaml"] = "a: [\n", "a: [\n"
	files["web/bad.yaml"] = "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: 99999}]}\n"
	w.sourceAt(w.world.push(files))
	w.world.app("bad", "")
	w.world.app("good", "")
	w.helmRelease("never", "  install: {remediation: {retries: 0}}\n")
	w.app("web", retried)
	lines := [][]string{
		{"error Kustomization/bad BuildFailed"}, {"error Kustomization/good BuildFailed"}, {"error HelmRelease/never InstallFailed", "NOT-A-NAME"},
		{"error GitRepository/lost"}, {"error Application/" + w.name("web") + " SyncError"},
	}
	for _, parts := range lines {
		w.comes(h, parts...) // and is not taken
	}
	w.eventually("status of the broken commit", func() error { return forge.said("/statuses/"+w.head, `"state":"failure"`) })
	w.helmSays("never", "Stalled", "True", "RetriesExceeded")
	w.operated("web", argocdv1.OperationFailed)
	w.world.push(map[string]string{"good/a.yaml": w.configMap("good", "1")})
	w.world.ready("good", "main@sha1:"+w.head)
	running.stop()
	h.mu.Lock()
	down, h.got, h.raw = false, nil, nil
	h.mu.Unlock()
	w.must(running.start())
	w.comes(h, "error Kustomization/bad BuildFailed")
	w.comes(h, "error HelmRelease/never", "RetriesExceeded")
	w.comes(h, "error GitRepository/lost")
	w.comes(h, "error Application/"+w.name("web")+" OperationCompleted", "failed")
	w.annotate("bad", "reconcile.fluxcd.io/requestedAt", "again")
	w.eventually("the request was handled", func() error {
		if got := w.kustomization("bad").Status.LastHandledReconcileAt; got != "again" {
			return fmt.Errorf("handled: %q", got)
		}
		return nil
	})
	h.once(t, "Kustomization/bad BuildFailed")
	if got := h.with("Kustomization/good"); len(got) > 0 {
		t.Errorf("of what is well it was told %q", h.lines())
	}
	events := w.events("bad")
	if len(events) > 2 { // once per commit: one was pushed for good
		t.Errorf("the restart has written events: %q", events)
	}
}
