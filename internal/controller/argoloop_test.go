package controller_test

import (
	"fmt"
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
