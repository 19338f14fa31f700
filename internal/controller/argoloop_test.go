package controller_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
)

// TestApplicationKeepsUnpruned: what left Git and is not to be pruned is told of, and no operation is tried for it again and again.
func TestApplicationKeepsUnpruned(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	first := w.push(map[string]string{"web/a.yaml": w.configMap("a", "1"), "web/b.yaml": w.configMap("b", "1"), "web/c.yaml": w.configMap("c", "1")})
	w.app("web", "  syncPolicy: {automated: {prune: true, selfHeal: true}, syncOptions: [Prune=false]}\n")
	w.synced("web", first)
	second := w.push(map[string]string{"web/a.yaml": w.configMap("a", "2"), "web/b.yaml": ""})
	w.value("a", "2")
	w.operated("web", "Succeeded")
	w.until("web", func(a *argocdv1.Application) error {
		if a.Status.Sync.Status != argocdv1.OutOfSync || a.Status.Sync.Revision != second {
			return fmt.Errorf("want OutOfSync at %s", second)
		}
		return nil
	})
	time.Sleep(2 * time.Second)
	_, from := requests(t, 0)
	time.Sleep(4 * time.Second)
	all, _ := requests(t, from)
	for _, r := range all {
		if r.ObjectRef.Resource == "applications" && r.ObjectRef.Name == w.name("web") && r.Verb == "patch" {
			t.Errorf("a write though nothing has happened: %s %s", r.Verb, r.RequestURI)
		}
	}
	w.value("b", "1")
}

// TestApplicationPrunesBesideHooks: an object whose name begins as those of a hook do (generateName) is no hook: it is told of once,
// and pruned once it leaves Git.
func TestApplicationPrunesBesideHooks(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	hook := strings.Replace(w.configMap("x", "1"), "name: x", "generateName: app-, annotations: {argocd.argoproj.io/hook: PostSync}", 1)
	first := w.push(map[string]string{
		"web/hook.yaml": hook, "web/a.yaml": w.configMap("app-config", "1"), "web/b.yaml": w.configMap("b", "1"), "web/c.yaml": w.configMap("c", "1"),
	})
	w.app("web", automated)
	w.synced("web", first)
	hooks, plain := 0, 0
	for _, r := range w.application("web").Status.Resources {
		if r.Hook {
			hooks++
		}
		if r.Name == "app-config" {
			plain++
		}
	}
	if hooks != 1 || plain != 1 {
		t.Errorf("%d hooks, and app-config is told of %d times: want one each", hooks, plain)
	}
	second := w.push(map[string]string{"web/a.yaml": ""})
	w.synced("web", second)
	w.value("app-config", "")
	for _, r := range w.application("web").Status.Resources {
		if r.Name == "app-config" {
			t.Errorf("it is told of after it was pruned: %+v", r)
		}
	}
}
