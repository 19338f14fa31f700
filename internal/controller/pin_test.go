package controller_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
)

// resume lets a suspended hook end.
func (w *argoWorld) resume(job string) {
	w.Helper()
	w.must(w.client.Patch(w.ctx, &batchv1.Job{ObjectMeta: w.named(job)}, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"suspend":false}}`))))
}

// TestApplicationPinned: an operation under way applies what it began with, whatever is pushed and declared meanwhile.
func TestApplicationPinned(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ sources, change string }{
		"a push":                       {"source: {repoURL: %s, path: web, targetRevision: main}", ""},
		"a push, of a list of sources": {"sources: [{repoURL: %s, path: web, targetRevision: main}]", ""},
		"another path":                 {"source: {repoURL: %s, path: web, targetRevision: main}", `{"spec":{"source":{"path":"other"}}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newArgoWorld(t)
			first := w.push(map[string]string{
				"web/a.yaml": w.configMap("a", "1"), "web/before.yaml": w.suspended(), "other/c.yaml": w.configMap("c", "1"),
			})
			w.apply(fmt.Sprintf(`
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: %s, namespace: argocd}
spec:
  project: default
  %s
  destination: {server: https://kubernetes.default.svc, namespace: %s}
`, w.name("web"), fmt.Sprintf(c.sources, w.url()), w.ns))
			w.sync("web", `{"sync":{},"initiatedBy":{"username":"anna"}}`)
			w.waits("web")
			w.push(map[string]string{"web/a.yaml": w.configMap("a", "2"), "web/c.yaml": w.configMap("c", "2")})
			if c.change != "" {
				w.merge("web", c.change)
			}
			time.Sleep(2 * time.Second)
			w.resume("before")
			a := w.operated("web", argocdv1.OperationSucceeded)
			r := a.Status.OperationState.SyncResult
			if got := strings.Join(append(r.Revisions, r.Revision), ""); got != first || w.data("a")["v"] != "1" || w.data("c") != nil {
				t.Errorf("began with %s; the result is %s, a %v, c %v", first, got, w.data("a"), w.data("c"))
			}
			if r.Source != nil && r.Source.Path != "web" {
				t.Errorf("the result is of %+v", r.Source)
			}
			if a.Status.Sync.Status != argocdv1.OutOfSync {
				t.Errorf("%s, though Git has moved on", a.Status.Sync.Status)
			}
		})
	}
}

// TestApplicationRetriedAsAsked: what a person has asked for is tried again as it was asked for, not with what Git has now.
func TestApplicationRetriedAsAsked(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	bad := "apiVersion: v1\nkind: Service\nmetadata: {name: bad, namespace: " + w.ns + "}\nspec: {ports: [{port: 999999}]}\n"
	first := w.push(map[string]string{"web/a.yaml": w.configMap("a", "1"), "web/bad.yaml": bad})
	second := w.push(map[string]string{"web/a.yaml": w.configMap("a", "2"), "web/bad.yaml": ""})
	w.app("web", automated)
	w.synced("web", second)
	w.merge("web", `{"metadata":{"annotations":{"keelson.dev/hold":"{\"reason\":\"rolled back\",\"at\":\"2026-01-01T00:00:00Z\"}"}}}`)
	third := w.push(map[string]string{"web/a.yaml": w.configMap("a", "3")})
	w.until("web", func(a *argocdv1.Application) error {
		if a.Status.Sync.Status != argocdv1.OutOfSync || a.Status.Sync.Revision != third {
			return errors.New("want it to be held, out of sync")
		}
		return nil
	})
	w.merge("web", fmt.Sprintf(`{"operation":{"initiatedBy":{"username":"anna"},"info":[{"name":"why","value":"3 is bad"}],
		"retry":{"limit":2,"backoff":{"duration":"1s"}},"sync":{"revision":%q,"source":{"repoURL":%q,"path":"web","targetRevision":"HEAD"}}}}`, first, w.url()))
	a := w.until("web", func(a *argocdv1.Application) error {
		if o := a.Status.OperationState; o.RetryCount != 2 || o.Phase != argocdv1.OperationFailed {
			return errors.New("want it to have failed for good")
		}
		return nil
	})
	o := a.Status.OperationState
	if o.SyncResult.Revision != first || o.Operation.Sync.Revision != first || o.Operation.Sync.Source == nil || o.SyncResult.Source.TargetRevision != "HEAD" ||
		len(o.Operation.Info) != 1 || o.Operation.Info[0].Name != "why" {
		t.Errorf("asked for %s; tried again with %s of %+v: %+v", first, o.SyncResult.Revision, o.SyncResult.Source, o.Operation)
	}
	if v := w.data("a")["v"]; v == "3" {
		t.Errorf("a is %s, as Git has it now", v)
	}
}

// TestApplicationStaysTerminated: an operation that a person has ended is not begun again by the next controller.
func TestApplicationStaysTerminated(t *testing.T) {
	w := newArgoWorld(t)
	w.push(map[string]string{"web/a.yaml": w.configMap("a", "1"), "web/before.yaml": w.suspended()})
	w.app("web", automated)
	w.waits("web")
	w.merge("web", `{"status":{"operationState":{"phase":"Terminating"}}}`)
	w.operated("web", argocdv1.OperationFailed, "Operation terminated")
	time.Sleep(6 * time.Second) // the pause before an attempt
	running.stop()
	w.must(running.start())
	time.Sleep(6 * time.Second)
	if o := w.application("web").Status.OperationState; o.Phase != argocdv1.OperationFailed || o.RetryCount > 0 {
		t.Errorf("it was begun again: %s %s, attempt %d", o.Phase, o.Message, o.RetryCount)
	}
}

// unmakeable is an object that the API server refuses.
const unmakeable = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad}\ndata: {v: {w: x}}\n"

// pauses waits until an Application's operation has failed and waits for another attempt at it.
func (w *argoWorld) pauses(app string, attempt int64) *argocdv1.Application {
	w.Helper()
	return w.until(app, func(a *argocdv1.Application) error {
		o := a.Status.OperationState
		if o == nil || o.Phase != argocdv1.OperationRunning || o.FinishedAt == nil || o.RetryCount != attempt ||
			!strings.Contains(o.Message, fmt.Sprintf(". Retrying attempt #%d at ", attempt)) {
			return fmt.Errorf("want it to wait for attempt %d", attempt)
		}
		return nil
	})
}

// TestApplicationTerminatedBetweenAttempts: an operation that waits for its next attempt is under way, and can be ended.
func TestApplicationTerminatedBetweenAttempts(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	w.push(map[string]string{"web/bad.yaml": unmakeable})
	w.app("web", "")
	w.sync("web", `{"sync":{},"retry":{"limit":-1,"backoff":{"duration":"2s","factor":1}}}`)
	w.pauses("web", 1)
	w.pauses("web", 2)
	w.merge("web", `{"status":{"operationState":{"phase":"Terminating"}}}`)
	w.operated("web", argocdv1.OperationFailed, "Operation terminated")
	time.Sleep(3 * time.Second)
	if o := w.application("web").Status.OperationState; o.Phase != argocdv1.OperationFailed || o.RetryCount != 2 {
		t.Errorf("it was begun again: %s %s, attempt %d", o.Phase, o.Message, o.RetryCount)
	}
}

// TestApplicationResumesBetweenAttempts: the next controller goes on with the attempts that are left, or ends what a person ends.
func TestApplicationResumesBetweenAttempts(t *testing.T) {
	w := newArgoWorld(t)
	w.push(map[string]string{"web/bad.yaml": unmakeable, "ended/bad.yaml": unmakeable})
	for _, app := range []string{"web", "ended"} {
		w.app(app, "")
		w.sync(app, `{"sync":{},"retry":{"limit":2,"backoff":{"duration":"2s","factor":1}}}`)
		w.pauses(app, 1)
	}
	running.stop()
	w.merge("ended", `{"status":{"operationState":{"phase":"Terminating"}}}`)
	w.must(running.start())
	if o := w.operated("ended", argocdv1.OperationFailed, "Operation terminated").Status.OperationState; o.RetryCount != 1 {
		t.Errorf("what was ended has come to attempt %d", o.RetryCount)
	}
	if o := w.operated("web", argocdv1.OperationFailed, "(retried 2 times).").Status.OperationState; o.RetryCount != 2 {
		t.Errorf("attempt %d", o.RetryCount)
	}
}

// TestApplicationRetriedWithTheNewest: where that is asked for, an attempt takes what Git has by then.
func TestApplicationRetriedWithTheNewest(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	first := w.push(map[string]string{"web/bad.yaml": unmakeable})
	w.app("web", "")
	w.sync("web", fmt.Sprintf(`{"sync":{"revision":%q},"retry":{"limit":5,"refresh":true,"backoff":{"duration":"2s","factor":1}}}`, first))
	w.pauses("web", 1)
	second := w.push(map[string]string{"web/a.yaml": w.configMap("a", "2"), "web/bad.yaml": ""})
	o := w.operated("web", argocdv1.OperationSucceeded).Status.OperationState
	if o.SyncResult.Revision != second || w.data("a")["v"] != "2" || o.Operation.Sync.Revision != "" || !o.Operation.Retry.Refresh {
		t.Errorf("synced to %s, asked for %+v, a %v; want %s", o.SyncResult.Revision, o.Operation, w.data("a"), second)
	}
}

// TestApplicationWithoutMoreAttempts: what waits for an attempt that does not come any more is over.
func TestApplicationWithoutMoreAttempts(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	w.push(map[string]string{"web/bad.yaml": unmakeable})
	w.app("web", automated)
	w.pauses("web", 1)
	w.merge("web", `{"spec":{"syncPolicy":{"automated":null}}}`)
	w.operated("web", argocdv1.OperationFailed, "bad")
}
