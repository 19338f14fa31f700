package controller_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
)

// argoWorld is a world whose apps are Applications in the namespace argocd, which all tests share: their names begin with the
// test's namespace.
type argoWorld struct{ *world }

func newArgoWorld(t *testing.T) *argoWorld {
	t.Helper()
	w := &argoWorld{newWorld(t)}
	t.Cleanup(func() {
		ctx := context.Background()
		var list argocdv1.ApplicationList
		w.must(w.client.List(ctx, &list, client.InNamespace("argocd")))
		for i := range list.Items {
			if a := &list.Items[i]; strings.HasPrefix(a.Name, w.ns) {
				w.must(client.IgnoreNotFound(w.client.Patch(ctx, a, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`)))))
				w.must(client.IgnoreNotFound(w.client.Delete(ctx, a)))
			}
		}
	})
	return w
}

// push commits files and asks for a look, as a push to the built-in host does. It returns the commit.
func (w *argoWorld) push(files map[string]string) string {
	w.Helper()
	w.commit(files)
	running.pushed(func(url string) bool { return url == w.url() })
	return w.head
}

func (w *argoWorld) name(app string) string { return w.ns + "-" + app }

// app declares an Application of the repository's folder of its name; extra are further lines of its spec.
func (w *argoWorld) app(app, extra string) {
	w.Helper()
	w.apply(fmt.Sprintf(`
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: %s, namespace: argocd}
spec:
  project: default
  source: {repoURL: %s, path: %s, targetRevision: main}
  destination: {server: https://kubernetes.default.svc, namespace: %s}
%s`, w.name(app), w.url(), app, w.ns, extra))
}

// automated has everything be done without being asked.
const automated = "  syncPolicy: {automated: {prune: true, selfHeal: true}}\n"

func (w *argoWorld) application(app string) *argocdv1.Application {
	w.Helper()
	a := &argocdv1.Application{}
	w.must(w.client.Get(w.ctx, client.ObjectKey{Namespace: "argocd", Name: w.name(app)}, a))
	return a
}

// until waits until an Application is as check wants it.
func (w *argoWorld) until(app string, check func(*argocdv1.Application) error) *argocdv1.Application {
	w.Helper()
	var a *argocdv1.Application
	w.eventually("Application "+app, func() error {
		a = w.application(app)
		if err := check(a); err != nil {
			return fmt.Errorf("%w: sync %s %s, health %s %s, operation %+v, conditions %+v", err, a.Status.Sync.Status, a.Status.Sync.Revision,
				a.Status.Health.Status, a.Status.Health.Message, a.Status.OperationState, a.Status.Conditions)
		}
		return nil
	})
	return a
}

// synced waits until an Application is synced to a commit, and healthy.
func (w *argoWorld) synced(app, commit string) *argocdv1.Application {
	w.Helper()
	return w.until(app, func(a *argocdv1.Application) error {
		s := a.Status
		if s.Sync.Status != argocdv1.Synced || s.Sync.Revision != commit || s.Health.Status != "Healthy" {
			return fmt.Errorf("want Synced and Healthy at %s", commit)
		}
		return nil
	})
}

// operated waits until an Application's last operation has ended in a phase, with a message that has all parts.
func (w *argoWorld) operated(app, phase string, parts ...string) *argocdv1.Application {
	w.Helper()
	return w.until(app, func(a *argocdv1.Application) error {
		o := a.Status.OperationState
		if o == nil || o.Phase != phase || a.Operation != nil {
			return fmt.Errorf("want its operation to be %s", phase)
		}
		for _, part := range parts {
			if !strings.Contains(o.Message, part) {
				return fmt.Errorf("want %q in the operation's message", part)
			}
		}
		return nil
	})
}

// TestApplication: an Application reaches Synced and Healthy by being applied, follows Git, prunes, and repairs drift.
func TestApplication(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	first := w.push(map[string]string{"web/a.yaml": w.configMap("a", "1"), "web/b.yaml": w.configMap("b", "1"), "web/job.yaml": `
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec: {schedule: "0 3 * * *", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: "backup:1"}]}}}}}
`})
	w.app("web", automated)
	a := w.synced("web", first)
	w.value("a", "1")
	if len(a.Status.Summary.Images) != 1 || a.Status.Summary.Images[0] != "backup:1" || a.Status.SourceType != "Directory" {
		t.Errorf("summary %+v, source type %q", a.Status.Summary, a.Status.SourceType)
	}
	if o := a.Status.OperationState; o == nil || o.Phase != argocdv1.OperationSucceeded || o.SyncResult.Revision != first || !o.Operation.InitiatedBy.Automated {
		t.Errorf("operation %+v", o)
	}
	if len(a.Status.History) != 1 || a.Status.History[0].Revision != first || len(a.Status.Resources) != 3 {
		t.Errorf("history %+v, resources %+v", a.Status.History, a.Status.Resources)
	}

	second := w.push(map[string]string{"web/a.yaml": w.configMap("a", "2"), "web/b.yaml": ""})
	w.synced("web", second)
	w.value("a", "2")
	w.value("b", "")

	w.must(w.client.Delete(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("a")}))
	w.value("a", "2")
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"data":{"v":"mine"}}`))
	w.must(w.client.Patch(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("a")}, patch))
	w.value("a", "2")
	w.synced("web", second)
}

// TestApplicationByHand: without automation, Git is compared to and followed only when somebody asks.
func TestApplicationByHand(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	first := w.push(map[string]string{"web/a.yaml": w.configMap("a", "1")})
	w.app("web", "")
	w.until("web", func(a *argocdv1.Application) error {
		if a.Status.Sync.Status != argocdv1.OutOfSync || a.Status.Sync.Revision != first || a.Status.Health.Status != "Missing" {
			return errors.New("want OutOfSync and Missing")
		}
		return nil
	})
	if w.data("a") != nil {
		t.Fatal("it was applied though nobody has asked")
	}
	w.sync("web", `{"sync":{"prune":true},"initiatedBy":{"username":"anna"}}`)
	a := w.synced("web", first)
	if o := a.Status.OperationState; o.Operation.InitiatedBy.Username != "anna" || a.Operation != nil {
		t.Errorf("operation %+v, asked %+v", o, a.Operation)
	}
	w.value("a", "1")
}

// sync asks for an operation.
func (w *argoWorld) sync(app, operation string) {
	w.Helper()
	a := &argocdv1.Application{ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: w.name(app)}}
	w.must(w.client.Patch(w.ctx, a, client.RawPatch("application/merge-patch+json", []byte(`{"operation":`+operation+`}`))))
}

// merge changes an Application.
func (w *argoWorld) merge(app, patch string) {
	w.Helper()
	w.must(w.client.Patch(w.ctx, w.application(app), client.RawPatch("application/merge-patch+json", []byte(patch))))
}

// TestApplicationDeleted: with Argo CD's finalizer the objects go, and then the Application.
func TestApplicationDeleted(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	first := w.push(map[string]string{"web/a.yaml": w.configMap("a", "1"), "kept/b.yaml": w.configMap("b", "1")})
	w.app("web", automated)
	w.app("kept", automated)
	w.synced("web", first)
	w.synced("kept", first)
	a := w.application("web")
	w.must(w.client.Patch(w.ctx, a, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":["resources-finalizer.argocd.argoproj.io"]}}`))))
	w.must(w.client.Delete(w.ctx, a))
	w.must(w.client.Delete(w.ctx, w.application("kept")))
	w.value("a", "")
	w.gone("web")
	w.value("b", "1")
}

// TestApplicationDeletedWithHooks: an Application whose hooks of a deletion cannot be rendered, or whose project is not known, keeps its
// objects until that is mended.
func TestApplicationDeletedWithHooks(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	head := w.push(map[string]string{"web/a.yaml": w.configMap("a", "1"), "web/backup.yaml": w.job("backup", "argocd.argoproj.io/hook: PreDelete")})
	w.app("web", automated)
	w.merge("web", `{"metadata":{"finalizers":["resources-finalizer.argocd.argoproj.io"]}}`)
	w.synced("web", head)
	w.until("web", func(a *argocdv1.Application) error {
		if !slices.Contains(a.Finalizers, argocdv1.PreDeleteFinalizer) {
			return fmt.Errorf("want a finalizer for its hook, not %v", a.Finalizers)
		}
		return nil
	})
	w.merge("web", `{"spec":{"source":{"repoURL":"http://127.0.0.1:1/gone.git"}}}`)
	w.must(w.client.Delete(w.ctx, w.application("web")))
	waits := func(part string) {
		t.Helper()
		w.until("web", func(a *argocdv1.Application) error {
			for _, c := range a.Status.Conditions {
				if c.Type == argocdv1.ConditionDeletionError && strings.Count(c.Message, part) == 1 {
					return nil
				}
			}
			return fmt.Errorf("want its deletion to wait for %q, which is said once", part)
		})
		w.value("a", "1")
	}
	waits("http://127.0.0.1:1/gone.git")
	w.merge("web", `{"spec":{"project":"nonesuch"}}`)
	waits("nonesuch")
	w.merge("web", `{"spec":{"project":"default","source":{"repoURL":"`+w.url()+`"}}}`)
	w.jobEnds("backup")
	w.value("a", "")
	w.gone("web")
}

// gone waits until an Application is not there any more.
func (w *argoWorld) gone(app string) {
	w.Helper()
	w.eventually("the Application to be gone", func() error {
		err := w.client.Get(w.ctx, client.ObjectKey{Namespace: "argocd", Name: w.name(app)}, &argocdv1.Application{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is still there (%w)", err)
		}
		return nil
	})
}

// TestApplicationDeletedWithLastHook: what runs after a deletion does once the objects are gone, also where there are none.
func TestApplicationDeletedWithLastHook(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	head := w.push(map[string]string{
		"web/a.yaml":     w.annotated("a", "x: y"),
		"web/last.yaml":  w.job("last", "argocd.argoproj.io/hook: PostDelete"),
		"bare/only.yaml": w.job("only", "argocd.argoproj.io/hook: PostDelete"),
	})
	for _, app := range []string{"web", "bare"} {
		w.app(app, automated)
		w.merge(app, `{"metadata":{"finalizers":["resources-finalizer.argocd.argoproj.io"]}}`)
	}
	for _, app := range []string{"web", "bare"} {
		w.synced(app, head)
		w.until(app, func(a *argocdv1.Application) error {
			if !slices.Contains(a.Finalizers, argocdv1.PostDeleteFinalizer) {
				return fmt.Errorf("want a finalizer for its hook, not %v", a.Finalizers)
			}
			return nil
		})
	}
	busy := func(finalizers string) {
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":`+finalizers+`}}`))
		w.must(w.client.Patch(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("a")}, patch))
	}
	busy(`["example.com/busy"]`)
	w.must(w.client.Delete(w.ctx, w.application("web")))
	w.must(w.client.Delete(w.ctx, w.application("bare")))
	w.event("only", "Completed: Job completed") // it is deleted then
	w.gone("bare")
	if told := w.events("last"); len(told) > 0 {
		t.Errorf("the hook ran while an object was still there: %q", told)
	}
	busy("null")
	w.event("last", "Completed: Job completed")
	w.gone("web")
	w.value("a", "")
	for _, hook := range []string{"only", "last"} {
		runs := 0
		for _, e := range w.events(hook) {
			if strings.HasPrefix(e, "SuccessfulCreate: ") {
				runs++
			}
		}
		if runs != 1 {
			t.Errorf("the hook %s ran %d times", hook, runs)
		}
	}
}

// TestApplicationDeletedAtOnce: what was done is told though the Application goes before its status says it.
func TestApplicationDeletedAtOnce(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	never := func(name string) string { // never gets ready: no node is as it wants one
		return "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: " + name + "}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: c}], nodeSelector: {no: where}}}}\n"
	}
	w.push(map[string]string{"web/a.yaml": never("web"), "kept/a.yaml": never("kept")})
	for app, finalizers := range map[string]string{"web": `["resources-finalizer.argocd.argoproj.io"]`, "kept": "null"} {
		w.app(app, "")
		w.merge(app, `{"metadata":{"finalizers":`+finalizers+`},"spec":{"syncPolicy":{"automated":{}}}}`)
		w.eventually("its Deployment", func() error {
			return w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: app}, &appsv1.Deployment{})
		})
		time.Sleep(300 * time.Millisecond)
		w.must(w.client.Delete(w.ctx, w.application(app)))
		w.eventually("events of "+app, func() error {
			var list corev1.EventList
			w.must(w.client.List(w.ctx, &list, client.InNamespace("argocd")))
			var told []string
			for _, e := range list.Items {
				if e.InvolvedObject.Name != w.name(app) {
					continue
				}
				if told = append(told, e.Reason+": "+e.Message); e.Reason == "OperationCompleted" && e.InvolvedObject.UID != "" {
					return nil
				}
			}
			return fmt.Errorf("none of its operation among %q", told)
		})
	}
}
