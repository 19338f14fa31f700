package controller_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
)

// TestWaitForTermination: with that policy an app goes when its objects are gone, at once when the last one is, also where the
// controller is another one by then; and after its timeout at the latest.
func TestWaitForTermination(t *testing.T) {
	w := newWorld(t)
	held := strings.Replace(w.configMap("a", "1"), "namespace:", "finalizers: [example.com/wait], namespace:", 1)
	w.push(map[string]string{"app/a.yaml": held, "app/b.yaml": w.configMap("b", "1"), "free/d.yaml": w.configMap("d", "1")})
	w.app("app", "  deletionPolicy: WaitForTermination")
	w.app("free", "  deletionPolicy: WaitForTermination")
	for _, app := range []string{"app", "free"} {
		w.ready(app, "")
		w.must(w.client.Delete(w.ctx, &kustomizev1.Kustomization{ObjectMeta: w.named(app)}))
	}
	w.gone("free")
	w.value("b", "")
	running.stop()
	w.must(running.start())
	time.Sleep(500 * time.Millisecond)
	if k := w.kustomization("app"); k.DeletionTimestamp == nil || len(k.Finalizers) != 1 {
		t.Fatalf("the app does not wait: deleted at %s, finalizers %q", k.DeletionTimestamp, k.Finalizers)
	}
	a := &corev1.ConfigMap{ObjectMeta: w.named("a")}
	start := time.Now()
	w.edit(a, "a-person", func() { a.Finalizers = nil })
	w.gone("app")
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("the app went %s after its last object: it waits for its timeout, not for the object", took)
	}
}
