package controller

import (
	"errors"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

// Nothing new is made before it is written that it may be, however often that write has failed before.
func TestApplicationIntentBeforeEffect(t *testing.T) {
	a := &applications{apps: apps{reg: newRegistry(), now: time.Now}}
	claims := deliver.NewClaims()
	st := &appState{target: &target{engine: &deliver.Engine{Claims: claims}}}
	old := delivery.Ref{Kind: "ConfigMap", Namespace: "shop", Name: "old"}
	made := delivery.Ref{Kind: "ConfigMap", Namespace: "shop", Name: "new"}
	st.mem.Inventory = delivery.Inventory{old: "v1"}
	plan := delivery.Plan{Inventory: delivery.Inventory{old: "v1", made: "v1"}}
	app := delivery.App{ID: delivery.ID{Kind: "Application", Namespace: "argocd", Name: "web"}, Limits: &delivery.Limits{Namespaces: []string{"*"}, AllowAll: true}}
	pass := func(save func() error) *applicationPass { // as it is read anew in each
		obj := &argocdv1.Application{ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: "web"}}
		obj.Status.Resources = []argocdv1.ResourceStatus{{Version: "v1", Kind: "ConfigMap", Namespace: "shop", Name: "old"}}
		return &applicationPass{
			pass: pass{app: app, st: st, pen: pen{save: save}}, obj: obj, declared: dialect.ArgoApp{App: app}, op: &delivery.Operation{},
		}
	}
	for n := range 3 {
		asked := false
		p := pass(func() error { asked = true; return errors.New("the API server is away") })
		if err := a.record(p, plan); err == nil || !asked {
			t.Fatalf("try %d: it goes on (%v), asked to write: %t", n+1, err, asked)
		}
		if _, claimed := claims.Other(delivery.ID{}, made); claimed || len(st.mem.Inventory) != 1 {
			t.Errorf("try %d: claimed %t, remembered %v", n+1, claimed, st.mem.Inventory)
		}
	}
	p := pass(func() error { return nil })
	if err := a.record(p, plan); err != nil {
		t.Fatal(err)
	}
	if !dialect.ArgoInventory(p.obj).Covers(plan.Inventory) || !st.mem.Inventory.Covers(plan.Inventory) {
		t.Errorf("written %v, remembered %v", dialect.ArgoInventory(p.obj), st.mem.Inventory)
	}
	p.pen.save = func() error { t.Error("it is written once more"); return nil }
	if err := a.record(p, plan); err != nil {
		t.Fatal(err)
	}
}
