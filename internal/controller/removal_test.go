package controller

import (
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

// TestAwaitGone: an app waits for its objects to be gone for its timeout, counted from when they were deleted.
func TestAwaitGone(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	k := &kustomizations{apps: apps{now: func() time.Time { return now }}}
	app := delivery.App{AwaitGone: true, Timeout: time.Minute}
	going := make([]delivery.Ref, 7)
	for i := range going {
		going[i] = delivery.Ref{Kind: "ConfigMap", Namespace: "dev", Name: string(rune('a' + i))}
	}
	st := &appState{}
	for _, want := range []time.Duration{time.Minute, 40 * time.Second, 20 * time.Second} {
		if r := k.awaitGone(app, st, going); r.done || r.after != want || len(r.events) > 0 {
			t.Errorf("%s after the deletion: %+v; want to look again after %s", now.Sub(st.leaving), r, want)
		}
		now = now.Add(20 * time.Second)
	}
	r := k.awaitGone(app, st, going)
	if !r.done || len(r.events) != 1 || !r.events[0].warning || r.events[0].reason != "TerminationTimeout" {
		t.Fatalf("after the timeout: %+v; want it done, with a warning", r)
	}
	for _, part := range []string{"7 objects", "1m0s", "ConfigMap/dev/a", "ConfigMap/dev/e"} {
		if !strings.Contains(r.events[0].message, part) {
			t.Errorf("message %q, want %q in it", r.events[0].message, part)
		}
	}
	if strings.Contains(r.events[0].message, "ConfigMap/dev/f") {
		t.Errorf("message %q names more than a few", r.events[0].message)
	}
}

// TestRemoveAfterAMove: of an app that is deleted before it was delivered to the cluster it was aimed at last, the objects in the
// one before stay, and that is said once.
func TestRemoveAfterAMove(t *testing.T) {
	k := &kustomizations{apps: apps{reg: newRegistry(), targets: unreachableTargets(t, func(delivery.ID) {}), now: time.Now}}
	obj := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "app", UID: "1"}}
	obj.Spec.Prune, obj.Spec.DeletionPolicy = true, "Delete"
	app, _ := dialect.Kustomization(obj)
	st := k.stateOf(app, func(st *appState) { k.load(st, obj) })
	st.mem.Move("https://far.example 1")
	st.mem.Inventory = delivery.Inventory{{Kind: "ConfigMap", Namespace: "team", Name: "a"}: "v1"}
	r, _ := k.remove(t.Context(), obj) // nobody is at home
	if len(r.events) != 1 || r.events[0].reason != "Orphaned" || !strings.Contains(r.events[0].message, "1 objects in https://far.example are left") {
		t.Errorf("it says %+v, want what is left behind", r.events)
	}
	if r, _ := k.remove(t.Context(), obj); len(r.events) != 0 {
		t.Errorf("later it says %+v, want nothing more", r.events)
	}
}
