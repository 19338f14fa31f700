package controller_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
)

// project declares an AppProject of the test's name that allows everything, and moves an Application to it; extra are further lines
// of its spec.
func (w *argoWorld) project(app, extra string) {
	w.Helper()
	w.apply(fmt.Sprintf(`
apiVersion: argoproj.io/v1alpha1
kind: AppProject
metadata: {name: %s, namespace: argocd}
spec:
  sourceRepos: ["*"]
  destinations: [{server: "*", namespace: "*"}]
%s`, w.ns, extra))
	w.Cleanup(func() {
		_ = w.client.Delete(context.Background(), &argocdv1.AppProject{ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: w.ns}})
	})
	w.merge(app, `{"spec":{"project":"`+w.ns+`"}}`)
}

// windows sets the sync windows of that project.
func (w *argoWorld) windows(windows string) {
	w.Helper()
	project := &argocdv1.AppProject{ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: w.ns}}
	w.must(w.client.Patch(w.ctx, project, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"syncWindows":`+windows+`}}`))))
}

// closed waits until an Application says that a sync window keeps it from being synced to a commit.
func (w *argoWorld) closed(app, commit string) *argocdv1.Application {
	w.Helper()
	return w.until(app, func(a *argocdv1.Application) error {
		if a.Status.Sync.Status != argocdv1.OutOfSync || a.Status.Sync.Revision != commit {
			return fmt.Errorf("want it OutOfSync at %s", commit)
		}
		for _, c := range a.Status.Conditions {
			if c.Type == argocdv1.ConditionHeldWarning && strings.Contains(c.Message, `deny window "* * * * *" for 1h`) {
				return nil
			}
		}
		return errors.New("want a condition that names the window")
	})
}

// TestApplicationInASyncWindow: while a window denies, nothing is synced by itself, and by a person where it has manualSync only. Without
// the window it is synced.
func TestApplicationInASyncWindow(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	const always = `"kind":"deny","schedule":"* * * * *","duration":"1h","applications":["*"]`
	first := w.push(map[string]string{"web/a.yaml": w.configMap("a", "1")})
	w.app("web", "")
	w.project("web", "  syncWindows: [{"+strings.ReplaceAll(always, ":", ": ")+"}]\n")
	w.merge("web", `{"spec":{"syncPolicy":{"automated":{}}}}`)
	if a := w.closed("web", first); a.Status.OperationState != nil || w.data("a") != nil {
		t.Fatalf("it was synced: %+v", a.Status.OperationState)
	}

	w.sync("web", `{"sync":{}}`)
	w.until("web", func(a *argocdv1.Application) error {
		if o := a.Status.OperationState; o == nil || o.Phase != argocdv1.OperationRunning || o.Message != `waiting for a sync window: deny window "* * * * *" for 1h` {
			return errors.New("want the operation to wait for the window")
		}
		return nil
	})
	time.Sleep(time.Second)
	if w.data("a") != nil {
		t.Fatal("a window without manualSync has let a person sync")
	}
	w.windows(`[{` + always + `,"manualSync":true}]`)
	w.operated("web", argocdv1.OperationSucceeded)
	w.synced("web", first)

	second := w.push(map[string]string{"web/a.yaml": w.configMap("a", "2")})
	w.closed("web", second)
	w.sync("web", `{"sync":{}}`)
	w.synced("web", second)
	third := w.push(map[string]string{"web/a.yaml": w.configMap("a", "3")})
	w.closed("web", third)
	w.value("a", "2")
	w.windows("null")
	a := w.synced("web", third)
	for _, c := range a.Status.Conditions {
		if c.Type == argocdv1.ConditionHeldWarning {
			t.Errorf("it still says %s", c.Message)
		}
	}
	if o := a.Status.OperationState; !o.Operation.InitiatedBy.Automated {
		t.Errorf("somebody has asked for it: %+v", o.Operation)
	}
}
