package controller_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
)

// annotated is a ConfigMap with an annotation.
func (w *argoWorld) annotated(name, annotation string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: %s, annotations: {%s}}\ndata: {v: \"1\"}\n", name, w.ns, annotation)
}

// job is a hook that does nothing.
func (w *argoWorld) job(name, annotations string) string {
	return fmt.Sprintf(`apiVersion: batch/v1
kind: Job
metadata: {name: %s, namespace: %s, annotations: {%s}}
spec:
  backoffLimit: 0
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: busybox, command: ["true"]}]}}
`, name, w.ns, annotations)
}

// jobEnds gives a Job the status that its controller would.
func (w *argoWorld) jobEnds(name string) {
	w.Helper()
	w.eventually("Job "+name, func() error {
		var job batchv1.Job
		if err := w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: name}, &job); err != nil {
			return err
		}
		for _, c := range job.Status.Conditions {
			if c.Type == batchv1.JobComplete && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return errors.New("it has not completed")
	})
}

// TestApplicationWaves: hooks and waves come in their order, each once the one before is healthy.
func TestApplicationWaves(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	head := w.push(map[string]string{
		"web/a.yaml":      w.annotated("late", `argocd.argoproj.io/sync-wave: "2"`),
		"web/b.yaml":      w.annotated("early", `argocd.argoproj.io/sync-wave: "-1"`),
		"web/before.yaml": w.job("before", "argocd.argoproj.io/hook: PreSync"),
		"web/after.yaml":  w.job("after", "argocd.argoproj.io/hook: PostSync, argocd.argoproj.io/hook-delete-policy: HookSucceeded"),
	})
	w.app("web", automated)
	w.jobEnds("before")
	w.synced("web", head)
	a := w.operated("web", argocdv1.OperationSucceeded)
	var order []string
	for _, r := range a.Status.OperationState.SyncResult.Resources {
		order = append(order, r.Name)
	}
	if got := strings.Join(order, " "); got != "before early late after" {
		t.Errorf("in the order %q; %+v", got, a.Status.OperationState.SyncResult.Resources)
	}
	var early, late corev1.ConfigMap
	var before batchv1.Job
	w.must(w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "early"}, &early))
	w.must(w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "late"}, &late))
	w.must(w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "before"}, &before))
	if done := before.Status.CompletionTime; done == nil || early.CreationTimestamp.Before(done) || late.CreationTimestamp.Before(&early.CreationTimestamp) {
		t.Errorf("before ended at %v, early was made at %v, late at %v", done, early.CreationTimestamp, late.CreationTimestamp)
	}
	w.eventually("the PostSync hook to be deleted", func() error {
		var job batchv1.Job
		err := w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "after"}, &job)
		if err == nil && job.DeletionTimestamp == nil {
			return errors.New("it is still there")
		}
		return client.IgnoreNotFound(err)
	})
}

// TestApplicationTerminated: an operation whose hook never ends is ended by a person, and not begun again.
func TestApplicationTerminated(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	hook := strings.Replace(w.job("before", "argocd.argoproj.io/hook: PreSync"), "spec:\n", "spec:\n  suspend: true\n", 1)
	w.push(map[string]string{"web/a.yaml": w.configMap("a", "1"), "web/before.yaml": hook})
	w.app("web", automated)
	w.until("web", func(a *argocdv1.Application) error {
		if o := a.Status.OperationState; o == nil || o.Phase != argocdv1.OperationRunning || !strings.Contains(o.Message, "before") {
			return errors.New("want it to wait for the hook")
		}
		return nil
	})
	a := w.application("web")
	w.must(w.client.Patch(w.ctx, a, client.RawPatch("application/merge-patch+json", []byte(`{"status":{"operationState":{"phase":"Terminating"}}}`))))
	w.operated("web", argocdv1.OperationFailed, "Operation terminated")
	time.Sleep(2 * time.Second)
	if o := w.application("web").Status.OperationState; o.Phase != argocdv1.OperationFailed {
		t.Errorf("it was begun again: %+v", o)
	}
	if w.data("a") != nil {
		t.Error("what comes after the hook was applied")
	}
}

// suspended is a hook that never ends.
func (w *argoWorld) suspended() string {
	return strings.Replace(w.job("before", "argocd.argoproj.io/hook: PreSync"), "spec:\n", "spec:\n  suspend: true\n", 1)
}

// waits waits until an Application's operation waits for that hook.
func (w *argoWorld) waits(app string) *argocdv1.Application {
	w.Helper()
	return w.until(app, func(a *argocdv1.Application) error {
		if o := a.Status.OperationState; o == nil || o.Phase != argocdv1.OperationRunning || !strings.Contains(o.Message, "before") {
			return errors.New("want it to wait for the hook")
		}
		return nil
	})
}

// TestApplicationInvalidMeanwhile: the operation of an Application that gets invalid ends: an automated one is tried again once that is
// mended, one that is asked for does not run later.
func TestApplicationInvalidMeanwhile(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	w.push(map[string]string{"web/a.yaml": w.configMap("a", "1"), "web/before.yaml": w.suspended(), "asked/b.yaml": w.configMap("b", "1")})
	w.app("web", automated)
	w.app("asked", "")
	w.waits("web")
	w.merge("web", `{"spec":{"project":"nonesuch"}}`)
	if o := w.pauses("web", 1).Status.OperationState; !strings.Contains(o.Message, "nonesuch") {
		t.Errorf("the operation says %q", o.Message)
	}
	w.merge("asked", `{"spec":{"project":"nonesuch"}}`)
	w.until("asked", func(a *argocdv1.Application) error {
		if len(a.Status.Conditions) == 0 {
			return errors.New("want it to be invalid")
		}
		return nil
	})
	w.sync("asked", `{"sync":{"prune":true},"initiatedBy":{"username":"anna"}}`)
	w.operated("asked", argocdv1.OperationError, "nonesuch")
	w.merge("asked", `{"spec":{"project":"default"}}`)
	w.until("asked", func(a *argocdv1.Application) error {
		if a.Status.Sync.Status != argocdv1.OutOfSync {
			return errors.New("want it to be compared again")
		}
		return nil
	})
	time.Sleep(time.Second)
	w.value("b", "")
}

// TestApplicationRefusesOperation: an operation that cannot be carried out as it is asked for ends, and nothing of it is done.
func TestApplicationRefusesOperation(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	w.push(map[string]string{"web/a.yaml": w.configMap("a", "1")})
	w.app("web", "")
	for _, c := range []struct{ operation, want string }{
		{`{"sync":{"manifests":["{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"local\"}}"]},"retry":{"limit":5}}`, "operation.sync.manifests"},
		{`{"info":[{"name":"a","value":"b"}]}`, "Invalid operation request: no operation specified"},
		{`{"sync":{},"retry":{"limit":2,"backoff":{"duration":"soon"}}}`, `operation.retry.backoff.duration: "soon" is no duration`},
	} {
		w.sync("web", c.operation)
		w.operated("web", argocdv1.OperationError, c.want)
	}
	w.apply(fmt.Sprintf(`
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: %s, namespace: argocd}
spec:
  project: default
  source: {repoURL: %s, path: web, targetRevision: main}
  destination: {server: https://kubernetes.default.svc, namespace: %s}
status: # as Argo CD leaves it between two attempts
  operationState:
    operation: {sync: {manifests: ["{}"]}, retry: {limit: -1}}
    phase: Running
    message: it failed. Retrying attempt #1 at 2026-01-01T00:00:00Z.
    startedAt: 2026-01-01T00:00:00Z
    finishedAt: 2026-01-01T00:00:00Z
    retryCount: 1
`, w.name("left"), w.url(), w.ns))
	w.operated("left", argocdv1.OperationError, "operation.sync.manifests")
	w.value("a", "")
	w.sync("web", `{"sync":{"syncOptions":["Wonder=true"]}}`)
	a := w.operated("web", argocdv1.OperationSucceeded)
	if c := a.Status.Conditions; len(c) != 1 || !strings.Contains(c[0].Message, "operation.sync.syncOptions Wonder=true") {
		t.Errorf("what has no effect is told as %+v", c)
	}
}

// TestApplicationTerminatedInvalid: an operation can be ended although its Application has got invalid.
func TestApplicationTerminatedInvalid(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	w.push(map[string]string{"web/a.yaml": w.configMap("a", "1"), "web/before.yaml": w.suspended()})
	w.app("web", automated)
	w.waits("web")
	w.merge("web", `{"spec":{"project":"nonesuch"},"status":{"operationState":{"phase":"Terminating"}}}`)
	w.operated("web", argocdv1.OperationFailed, "Operation terminated", "nonesuch")
}

// TestApplicationsOfOneHook: an operation that cannot begin since another app has its hook is not told as under way.
func TestApplicationsOfOneHook(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	head := w.push(map[string]string{
		"one/a.yaml": w.configMap("a", "1"), "one/h.yaml": w.job("migrate", "argocd.argoproj.io/hook: PreSync"),
		"two/b.yaml": w.configMap("b", "1"), "two/h.yaml": w.job("migrate", "argocd.argoproj.io/hook: PreSync"),
	})
	w.app("one", automated)
	w.jobEnds("migrate")
	w.synced("one", head)
	w.app("two", automated)
	w.until("two", func(a *argocdv1.Application) error {
		for _, c := range a.Status.Conditions {
			if strings.Contains(c.Message, "migrate") {
				return nil
			}
		}
		return errors.New("want to be told of the hook")
	})
	time.Sleep(time.Second)
	if o := w.application("two").Status.OperationState; o != nil && !delivery.OperationPhase(o.Phase).Over() {
		t.Errorf("%s, though no operation is under way: %+v", o.Phase, o)
	}
	w.value("b", "")
}

// TestApplicationRolledBack: a rollback holds although the app is automated, until the hold is taken away.
func TestApplicationRolledBack(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	first := w.push(map[string]string{"web/a.yaml": w.configMap("a", "1")})
	w.app("web", automated)
	w.synced("web", first)
	second := w.push(map[string]string{"web/a.yaml": w.configMap("a", "2")})
	w.synced("web", second)
	w.value("a", "2")
	a := w.application("web")
	w.must(w.client.Patch(w.ctx, a, client.RawPatch("application/merge-patch+json", []byte(fmt.Sprintf(
		`{"metadata":{"annotations":{"keelson.dev/hold":"{\"reason\":\"rolled back\",\"at\":\"2026-01-01T00:00:00Z\"}"}},"operation":{"sync":{"revision":%q}}}`, first)))))
	w.value("a", "1")
	w.until("web", func(a *argocdv1.Application) error {
		held := false
		for _, c := range a.Status.Conditions {
			held = held || c.Type == argocdv1.ConditionHeldWarning
		}
		if !held || a.Status.Sync.Status != argocdv1.OutOfSync || a.Status.Sync.Revision != second || a.Status.OperationState.Phase != argocdv1.OperationSucceeded ||
			a.Status.OperationState.SyncResult.Revision != first {
			return errors.New("want it to be held, and told as out of sync")
		}
		return nil
	})
	time.Sleep(time.Second)
	w.value("a", "1")
	w.must(w.client.Patch(w.ctx, w.application("web"), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"keelson.dev/hold":null}}}`))))
	w.value("a", "2")
	w.synced("web", second)
}

// TestApplicationOfSeveralSources: a chart's values may come from another source.
func TestApplicationOfSeveralSources(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	w.push(map[string]string{
		"chart/Chart.yaml":            "apiVersion: v2\nname: web\nversion: 1.0.0\n",
		"chart/templates/config.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {v: {{ .Values.v | quote }}}\n",
		"values/prod.yaml":            "v: prod\n",
		"plain/b.yaml":                w.configMap("b", "1"),
	})
	w.apply(fmt.Sprintf(`
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: %s, namespace: argocd}
spec:
  project: default
  sources:
  - {repoURL: %[2]s, path: chart, targetRevision: main, helm: {valueFiles: [$values/values/prod.yaml]}}
  - {repoURL: %[2]s, targetRevision: HEAD, ref: values}
  - {repoURL: %[2]s, path: plain, targetRevision: main}
  destination: {server: https://kubernetes.default.svc, namespace: %[3]s}
  syncPolicy: {automated: {}}
`, w.name("web"), w.url(), w.ns))
	w.until("web", func(a *argocdv1.Application) error {
		if a.Status.Sync.Status != argocdv1.Synced {
			return errors.New("want it to be synced")
		}
		return nil
	})
	w.value("a", "prod")
	w.value("b", "1")
	w.push(map[string]string{"values/prod.yaml": "v: more\n"})
	w.value("a", "more")
	a := w.until("web", func(a *argocdv1.Application) error {
		if a.Status.Sync.Status != argocdv1.Synced || a.Status.Health.Status != "Healthy" || len(a.Status.Sync.Revisions) != 3 || a.Status.Sync.Revisions[0] != w.head {
			return errors.New("want it to be synced")
		}
		return nil
	})
	if len(a.Status.Sync.Revisions) != 3 {
		t.Errorf("revisions %v", a.Status.Sync.Revisions)
	}
}

// TestApplicationOfAProject: what its project forbids is not delivered, by the rule that forbids it; an Application of a namespace
// that nobody serves is left alone.
func TestApplicationOfAProject(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	head := w.push(map[string]string{"web/a.yaml": w.configMap("a", "1")})
	w.apply(fmt.Sprintf(`
apiVersion: argoproj.io/v1alpha1
kind: AppProject
metadata: {name: %s, namespace: argocd}
spec:
  sourceRepos: ["*"]
  destinations: [{server: https://kubernetes.default.svc, namespace: nowhere}]
`, w.ns))
	w.app("web", automated)
	w.must(w.client.Patch(w.ctx, w.application("web"), client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"project":"`+w.ns+`"}}`))))
	w.until("web", func(a *argocdv1.Application) error {
		for _, c := range a.Status.Conditions {
			if c.Type == argocdv1.ConditionInvalidSpecError && strings.Contains(c.Message, w.ns) && a.Status.Sync.Status == argocdv1.SyncUnknown {
				return nil
			}
		}
		return errors.New("want it to be refused")
	})
	w.apply(fmt.Sprintf(`
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: web, namespace: %s}
spec:
  project: %[1]s
  source: {repoURL: %[2]s, path: web, targetRevision: main}
  destination: {server: https://kubernetes.default.svc, namespace: %[1]s}
  syncPolicy: {automated: {}}
`, w.ns, w.url()))
	time.Sleep(time.Second)
	inner := &argocdv1.Application{}
	w.must(w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "web"}, inner))
	if inner.Status.Sync.Status != "" || inner.Status.Conditions != nil || inner.Status.Health.Status != "" {
		t.Errorf("its status was written: %+v", inner.Status)
	}
	// the project lets it go, and serves the namespace
	project := &argocdv1.AppProject{ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: w.ns}}
	w.must(w.client.Patch(w.ctx, project, client.RawPatch("application/merge-patch+json", []byte(
		`{"spec":{"sourceNamespaces":["`+w.ns+`"],"destinations":[{"server":"*","namespace":"`+w.ns+`"}]}}`))))
	w.eventually("one of them to have the object, the other to be told", func() error {
		inner := &argocdv1.Application{}
		if err := w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "web"}, inner); err != nil {
			return err
		}
		outer := w.application("web")
		synced, conflicted := 0, 0
		for _, a := range []*argocdv1.Application{inner, outer} {
			if a.Status.Sync.Status == argocdv1.Synced && a.Status.Sync.Revision == head {
				synced++
			}
			for _, c := range a.Status.Conditions {
				if c.Type == argocdv1.ConditionSharedResourceWarning {
					conflicted++
				}
			}
		}
		if synced != 1 || conflicted != 1 {
			return fmt.Errorf("%d synced, %d in conflict: %+v, %+v", synced, conflicted, inner.Status, outer.Status)
		}
		return nil
	})
}

// TestApplicationClaimsOnlyWhatItMay: what somebody writes into the status of an Application takes no object from anybody that the
// Application's project does not let it have, be the controller there or about to start.
func TestApplicationClaimsOnlyWhatItMay(t *testing.T) {
	w := newArgoWorld(t)
	w.push(map[string]string{"nothing/a.yaml": w.configMap("nothing", "1")})
	w.apply(fmt.Sprintf(`
apiVersion: argoproj.io/v1alpha1
kind: AppProject
metadata: {name: %s, namespace: argocd}
spec:
  sourceRepos: ["*"]
  destinations: [{server: https://kubernetes.default.svc, namespace: nowhere}]
`, w.ns))
	forged := map[string]string{ // by project
		"gone": w.ns, w.ns: "nowhere",
	}
	for project, namespace := range forged {
		w.apply(fmt.Sprintf(`
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: %s-forged-%s, namespace: argocd}
spec:
  project: %[2]s
  source: {repoURL: %[3]s, path: nothing, targetRevision: main}
  destination: {server: https://kubernetes.default.svc, namespace: %[4]s}
status:
  sync: {status: Synced}
  resources:
  - {version: v1, kind: ConfigMap, namespace: %[5]s, name: of-%[2]s, status: Synced}
  - {version: v1, kind: ConfigMap, namespace: %[5]s, name: later-of-%[2]s, status: Synced}
`, w.ns, project, w.url(), namespace, w.ns))
	}
	looked := func() {
		w.eventually("the Applications to be looked at", func() error {
			if yes, err := running.looked(w.ctx); err != nil || !yes {
				return fmt.Errorf("%v %w", yes, err)
			}
			return nil
		})
	}
	deliver := func(name string) {
		t.Helper()
		files := map[string]string{}
		for project := range forged {
			object := name + "of-" + project
			files["flux/"+object+".yaml"] = w.configMap(object, "1")
		}
		revision := w.world.push(files)
		w.ready("flux", revision)
	}
	looked()
	w.world.app("flux", "")
	deliver("")
	running.stop()
	w.must(running.start())
	looked()
	deliver("later-")
}

// farCluster writes the Secret of Argo CD that describes the second cluster, as "far-" and the test's namespace.
func (w *remoteWorld) farCluster() *corev1.Secret {
	w.Helper()
	config := other.cluster.Config
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: "cluster-" + w.ns, Labels: map[string]string{"argocd.argoproj.io/secret-type": "cluster"}},
		StringData: map[string]string{
			"name": "far-" + w.ns, "server": config.Host,
			"config": fmt.Sprintf(`{"bearerToken":%q,"tlsClientConfig":{"caData":%q}}`, w.user("argo"), b64(config.CAData)),
		},
	}
	w.must(w.client.Create(w.ctx, secret))
	w.Cleanup(func() { _ = w.client.Delete(context.Background(), secret) })
	return secret
}

// deliverFar moves an Application to the second cluster, and has its objects be deleted with it.
func (w *remoteWorld) deliverFar(app string) {
	w.Helper()
	a := &argoWorld{w.world}
	a.merge(app, `{"metadata":{"finalizers":["resources-finalizer.argocd.argoproj.io"]},"spec":{"destination":{"server":null,"name":"far-`+w.ns+`"}}}`)
}

// TestApplicationElsewhere: an Application is delivered to the cluster that a Secret describes.
func TestApplicationElsewhere(t *testing.T) {
	t.Parallel()
	w := newRemoteWorld(t)
	a := &argoWorld{w.world}
	w.farCluster()
	head := a.push(map[string]string{"web/a.yaml": w.configMap("a", "1")})
	a.app("web", automated)
	w.deliverFar("web")
	a.synced("web", head)
	w.remote.value("a", "1")
	w.must(w.client.Delete(w.ctx, a.application("web")))
	w.remote.value("a", "")
}

// TestApplicationOfALostCluster: the Application of a cluster that nothing describes any more leaves its objects behind when it is
// deleted, and touches those of no other cluster.
func TestApplicationOfALostCluster(t *testing.T) {
	w := newRemoteWorld(t)
	a := &argoWorld{w.world}
	secret := w.farCluster()
	head := a.push(map[string]string{"web/a.yaml": w.configMap("a", "1")})
	a.app("web", automated) // at home at first
	a.synced("web", head)
	w.value("a", "1")
	w.deliverFar("web")
	w.remote.value("a", "1")
	w.must(w.client.Delete(w.ctx, secret))
	a.until("web", func(a *argocdv1.Application) error {
		for _, c := range a.Status.Conditions {
			if c.Type == argocdv1.ConditionInvalidSpecError {
				return nil
			}
		}
		return errors.New("want its cluster to be unknown")
	})
	app := a.application("web")
	w.must(w.client.Delete(w.ctx, app))
	w.eventually("the Application to be gone", func() error {
		if err := w.client.Get(w.ctx, client.ObjectKeyFromObject(app), app); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is still there (%w)", err)
		}
		return nil
	})
	time.Sleep(time.Second)
	w.value("a", "1")
	w.remote.value("a", "1")
}

// TestApplicationCosts: a commit that changes one app of several touches that one, by two writes; and when all is done nobody asks anything.
func TestApplicationCosts(t *testing.T) {
	w := newArgoWorld(t)
	head := w.push(map[string]string{"one/a.yaml": w.configMap("a", "1"), "two/b.yaml": w.configMap("b", "1")})
	w.app("one", automated)
	w.app("two", automated)
	w.synced("one", head)
	w.synced("two", head)
	time.Sleep(2 * time.Second)
	_, from := requests(t, 0)
	head = w.push(map[string]string{"one/a.yaml": w.configMap("a", "2")})
	w.synced("one", head)
	w.synced("two", head)
	time.Sleep(2 * time.Second)
	all, from := requests(t, from)
	count := map[string]int{}
	for _, r := range all {
		if r.ObjectRef.Resource == "configmaps" && r.ObjectRef.Namespace == w.ns || r.ObjectRef.Resource == "applications" && strings.HasPrefix(r.ObjectRef.Name, w.ns) {
			count[r.Verb+" "+r.ObjectRef.Resource+"/"+strings.TrimPrefix(r.ObjectRef.Name, w.ns+"-")]++
		}
	}
	want := map[string]int{"patch applications/one": 2, "patch applications/two": 1, "patch configmaps/a": 1}
	if fmt.Sprint(count) != fmt.Sprint(want) {
		t.Errorf("requests %v, want %v", count, want)
	}
	time.Sleep(3 * time.Second)
	all, _ = requests(t, from)
	for _, r := range all {
		if r.ObjectRef.Resource != "leases" && r.ObjectRef.Resource != "events" {
			t.Errorf("a request though nothing has happened: %s %s", r.Verb, r.RequestURI)
		}
	}
}

// TestApplicationRepairsCost: objects that drift one after the other are repaired at once, and told of together by one write of the
// Application and one event, when that keeps no other repair waiting.
func TestApplicationRepairsCost(t *testing.T) {
	w := newArgoWorld(t)
	w.app("web", automated)
	w.synced("web", w.push(map[string]string{"web/a.yaml": w.configMap("a", "1"), "web/b.yaml": w.configMap("b", "1")}))
	time.Sleep(2 * time.Second)
	_, from := requests(t, 0)
	mine := client.RawPatch("application/merge-patch+json", []byte(`{"data":{"v":"mine"}}`))
	w.must(w.client.Patch(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("a")}, mine))
	w.value("a", "1")
	w.must(w.client.Delete(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("b")}))
	w.value("b", "1")
	healed := w.until("web", func(a *argocdv1.Application) error {
		if a.Status.OperationState.Operation.Sync.SelfHealAttemptsCount == 0 {
			return errors.New("want a repair told of")
		}
		return nil
	})
	if o := healed.Status.OperationState; o.Phase != argocdv1.OperationSucceeded || len(o.SyncResult.Resources) != 1 || o.SyncResult.Resources[0].Name != "b" {
		t.Errorf("operation %+v", o)
	}
	w.eventually("one event of both", func() error {
		var list corev1.EventList
		w.must(w.client.List(w.ctx, &list, client.InNamespace("argocd")))
		for _, e := range list.Items {
			if e.InvolvedObject.Name == w.name("web") && e.Reason == "DriftRepaired" {
				if strings.Contains(e.Message, "/a repaired") && strings.Contains(e.Message, "/b repaired") {
					return nil
				}
				t.Errorf("it tells of one: %q", e.Message)
			}
		}
		return errors.New("there is none")
	})
	time.Sleep(time.Second)
	all, _ := requests(t, from)
	count := map[string]int{}
	for _, r := range all {
		if r.ObjectRef.Namespace == w.ns || strings.HasPrefix(r.ObjectRef.Name, w.ns) {
			count[r.Verb+" "+r.ObjectRef.Resource]++
		}
	}
	if want := map[string]int{"create events": 1, "patch applications": 1, "patch configmaps": 2}; fmt.Sprint(count) != fmt.Sprint(want) {
		t.Errorf("requests %v, want %v", count, want)
	}
}

// TestApplicationWaitsQuietly: an operation that waits is not written about as long as nothing happens.
func TestApplicationWaitsQuietly(t *testing.T) {
	w := newArgoWorld(t)
	w.push(map[string]string{"web/a.yaml": w.configMap("a", "1"), "web/before.yaml": w.suspended()})
	w.app("web", automated)
	w.waits("web")
	time.Sleep(3 * time.Second)
	_, from := requests(t, 0)
	time.Sleep(10 * time.Second) // it is looked at every few seconds
	all, _ := requests(t, from)
	for _, r := range all {
		if r.ObjectRef.Resource == "applications" && strings.HasPrefix(r.ObjectRef.Name, w.ns) {
			t.Errorf("a request though nothing has happened: %s %s", r.Verb, r.RequestURI)
		}
	}
}

// TestApplicationResumes: an operation that was under way when the controller ended goes on with the next one.
func TestApplicationResumes(t *testing.T) {
	w := newArgoWorld(t)
	hook := strings.Replace(w.job("before", "argocd.argoproj.io/hook: PreSync"), "spec:\n", "spec:\n  suspend: true\n", 1)
	head := w.push(map[string]string{"web/a.yaml": w.configMap("a", "1"), "web/before.yaml": hook})
	w.app("web", automated)
	a := w.until("web", func(a *argocdv1.Application) error {
		if o := a.Status.OperationState; o == nil || o.Phase != argocdv1.OperationRunning || !strings.Contains(o.Message, "before") {
			return errors.New("want it to wait for the hook")
		}
		return nil
	})
	began := a.Status.OperationState.StartedAt
	running.stop()
	w.must(running.start())
	job := &batchv1.Job{ObjectMeta: w.named("before")}
	w.must(w.client.Patch(w.ctx, job, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"suspend":false}}`))))
	w.synced("web", head)
	a = w.operated("web", argocdv1.OperationSucceeded)
	if !a.Status.OperationState.StartedAt.Equal(&began) {
		t.Errorf("the operation began at %v, and another one at %v", began, a.Status.OperationState.StartedAt)
	}
}

// TestApplicationDependsOn: an app waits for the one that it depends on.
func TestApplicationDependsOn(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	w.push(map[string]string{"base/broken.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: }\n", "web/a.yaml": w.configMap("a", "1")})
	w.app("base", automated)
	w.app("web", "")
	w.must(w.client.Patch(w.ctx, w.application("web"), client.RawPatch("application/merge-patch+json", []byte(
		`{"metadata":{"annotations":{"keelson.dev/depends-on":"`+w.name("base")+`"}},"spec":{"syncPolicy":{"automated":{}}}}`))))
	w.until("web", func(a *argocdv1.Application) error {
		for _, c := range a.Status.Conditions {
			if c.Type == argocdv1.ConditionDependencyWarning && strings.Contains(c.Message, w.name("base")) {
				return nil
			}
		}
		return errors.New("want it to wait for the other")
	})
	head := w.push(map[string]string{"base/broken.yaml": w.configMap("b", "1")})
	w.synced("base", head)
	w.synced("web", head)
}

// TestApplicationRefresh: a refresh has the repository be asked, and its annotation is taken away once that is done.
func TestApplicationRefresh(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	w.push(map[string]string{"web/a.yaml": w.configMap("a", "1")})
	w.app("web", automated)
	w.synced("web", w.head)
	w.commit(map[string]string{"web/a.yaml": w.configMap("a", "2")}) // nobody tells
	w.must(w.client.Patch(w.ctx, w.application("web"), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"argocd.argoproj.io/refresh":"normal"}}}`))))
	a := w.synced("web", w.head)
	w.value("a", "2")
	w.eventually("the annotation to be taken away", func() error {
		if a = w.application("web"); a.Annotations["argocd.argoproj.io/refresh"] != "" {
			return errors.New("it is still there")
		}
		return nil
	})
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// A first sync of more objects than a plain list of them in an annotation can name. It keeps the cluster busy, so that it runs by itself.
func TestApplicationOfManyObjects(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	var files strings.Builder
	for i := range 1100 {
		fmt.Fprintf(&files, "---\n%s", w.configMap(fmt.Sprintf("a-name-as-long-as-many-are-nowadays-%04d", i), "1"))
	}
	w.app("many", automated)
	a := w.synced("many", w.push(map[string]string{"many/all.yaml": files.String()}))
	if len(a.Status.Resources) != 1100 || a.Status.OperationState.Phase != argocdv1.OperationSucceeded {
		t.Errorf("%d objects, operation %s", len(a.Status.Resources), a.Status.OperationState.Phase)
	}
	w.value("a-name-as-long-as-many-are-nowadays-1099", "1")
}

// An operation that cannot be recorded ahead of it is not begun, nor is it said to be.
func TestApplicationWithoutRoomForItsIntent(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	w.push(map[string]string{"full/all.yaml": w.configMap("a", "1")})
	w.app("full", "")
	w.until("full", func(a *argocdv1.Application) error {
		if a.Status.Sync.Status != argocdv1.OutOfSync {
			return errors.New("want it to be compared")
		}
		return nil
	})
	w.must(w.client.Patch(w.ctx, w.application("full"), client.RawPatch("application/merge-patch+json", fmt.Appendf(nil,
		`{"metadata":{"annotations":{"example.com/much":%q}},"spec":{"syncPolicy":{"automated":{}}}}`, strings.Repeat("x", 253<<10)))))
	a := w.until("full", func(a *argocdv1.Application) error {
		for _, c := range a.Status.Conditions {
			if c.Type == argocdv1.ConditionSyncError && strings.Contains(c.Message, "recorded ahead") {
				return nil
			}
		}
		return errors.New("want it to be refused")
	})
	if o := a.Status.OperationState; o != nil {
		t.Errorf("operation %s has begun", o.Phase)
	}
}

// says waits until an Application has a condition of a type, with a message that has all parts.
func (w *argoWorld) says(app, condition string, parts ...string) *argocdv1.Application {
	w.Helper()
	return w.until(app, func(a *argocdv1.Application) error {
	next:
		for _, c := range a.Status.Conditions {
			if c.Type != condition {
				continue
			}
			for _, part := range parts {
				if !strings.Contains(c.Message, part) {
					continue next
				}
			}
			return nil
		}
		return fmt.Errorf("want a condition %s with %q", condition, parts)
	})
}

// TestApplicationDependsOnSeveralSources: an app of several sources is ready for those that depend on it at the revisions of the
// sources that they share, whatever else it is made from.
func TestApplicationDependsOnSeveralSources(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	files := func(value string) map[string]string {
		return map[string]string{
			"base/a.yaml": w.configMap("a", value), "more/b.yaml": w.configMap("b", value), "web/c.yaml": w.configMap("c", value), "one/d.yaml": w.configMap("d", value),
		}
	}
	head := w.push(files("1"))
	for _, app := range []struct{ name, needs, sources string }{
		{"base", "", "sources: [{repoURL: %[1]s, path: base, targetRevision: main}, {repoURL: %[1]s, path: more, targetRevision: " + head + "}]"},
		{"web", w.name("base"), "sources: [{repoURL: %[1]s, path: web, targetRevision: main}]"},
		{"one", w.name("web"), "source: {repoURL: %[1]s, path: one, targetRevision: main}"},
	} {
		w.apply(fmt.Sprintf(`
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: %[2]s, namespace: argocd, annotations: {keelson.dev/depends-on: %[4]q}}
spec:
  project: default
  `+app.sources+`
  destination: {server: https://kubernetes.default.svc, namespace: %[3]s}
  syncPolicy: {automated: {}}
`, w.url(), w.name(app.name), w.ns, app.needs))
	}
	w.synced("one", head)
	w.value("a", "1")
	w.value("c", "1")
	head = w.push(files("2"))
	a := w.synced("one", head)
	w.value("a", "2")
	w.value("b", "1")
	w.value("c", "2")
	for _, c := range a.Status.Conditions {
		if c.Type == argocdv1.ConditionDependencyWarning {
			t.Errorf("it still says %s", c.Message)
		}
	}
}

// TestApplicationDependsOnUnknown: where nothing gets known of what an app depends on, it says so.
func TestApplicationDependsOnUnknown(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	w.push(map[string]string{"web/a.yaml": w.configMap("a", "1")})
	w.must(w.client.Create(w.ctx, &argocdv1.Application{ObjectMeta: w.named("unserved")}))
	w.app("web", automated)
	w.merge("web", `{"metadata":{"annotations":{"keelson.dev/depends-on":"`+w.ns+`/unserved"}}}`)
	w.says("web", argocdv1.ConditionDependencyWarning, w.ns+"/unserved")
}

// TestApplicationSkipped: an Application that says so is left as it is, and those that depend on it say what they wait for.
func TestApplicationSkipped(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	head := w.push(map[string]string{"base/a.yaml": w.configMap("a", "1"), "web/b.yaml": w.configMap("b", "1")})
	w.apply(fmt.Sprintf(`
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: %s, namespace: argocd, annotations: {argocd.argoproj.io/skip-reconcile: "true"}}
spec:
  project: default
  source: {repoURL: %s, path: base, targetRevision: main}
  destination: {server: https://kubernetes.default.svc, namespace: %s}
  syncPolicy: {automated: {}}
  `, w.name("base"), w.url(), w.ns))
	w.app("web", "")
	w.merge("web", `{"metadata":{"annotations":{"keelson.dev/depends-on":"`+w.name("base")+`"}},"spec":{"syncPolicy":{"automated":{}}}}`)
	w.says("web", argocdv1.ConditionDependencyWarning, w.name("base"), "argocd.argoproj.io/skip-reconcile")
	if a := w.application("base"); a.Status.Sync.Status != "" || a.Status.OperationState != nil || w.data("a") != nil {
		t.Errorf("it was looked at: %+v", a.Status)
	}
	w.merge("base", `{"metadata":{"annotations":{"argocd.argoproj.io/skip-reconcile":null}}}`)
	w.synced("base", head)
	w.synced("web", head)
}
