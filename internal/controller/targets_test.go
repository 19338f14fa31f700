package controller

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/live"
)

// unreachableTargets are targets where nobody is at home, and elsewhere neither.
func unreachableTargets(t *testing.T, wake func(delivery.ID)) *targets {
	t.Helper()
	cluster, err := kube.NewCluster(&rest.Config{Host: "https://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	home := &deliver.Engine{Cluster: cluster, Live: live.New(t.Context(), cluster, live.Options{OwnerOf: dialect.FluxOwner}), Claims: deliver.NewClaims()}
	return newTargets(t.Context(), home, live.Options{}, kube.Policy{}, newLedger(), wake)
}

func appNamed(name string) delivery.ID {
	return delivery.ID{Kind: "Kustomization", Namespace: "team", Name: name}
}

// TestTargetsAreShared: one connection for a cluster and a user of it, for as long as some app uses it; one set of claims for a
// cluster, whoever uses it.
func TestTargetsAreShared(t *testing.T) {
	ts := unreachableTargets(t, func(delivery.ID) {})
	aim := func(app, token string) *target {
		t.Helper()
		got, _, err := ts.aim(appNamed(app), kube.Remote{Host: "https://127.0.0.1:1", Token: token})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	a, b, c := aim("a", "one"), aim("b", "one"), aim("c", "two")
	if a != b || a == c {
		t.Errorf("connections of a, b, c: %p, %p, %p; want the first two the same", a, b, c)
	}
	if a.engine.Claims != c.engine.Claims || a.engine.Claims == ts.home.engine.Claims {
		t.Error("claims do not go by cluster")
	}
	ref := delivery.Ref{Kind: "ConfigMap", Namespace: "team", Name: "x"}
	a.engine.Claims.Set(appNamed("a"), delivery.Inventory{ref: "v1"})
	if owner, _ := c.engine.Claims.Other(appNamed("c"), ref); owner != appNamed("a") {
		t.Errorf("another user of the cluster takes the owner of an object for %v", owner)
	}
	if _, taken := ts.home.engine.Claims.Other(appNamed("c"), ref); taken {
		t.Error("an object of another cluster is taken for one of this")
	}

	if aim("b", "three") == b || len(ts.open) != 3 {
		t.Errorf("with new credentials of one of two apps there are %d connections, want 3", len(ts.open))
	}
	moved := aim("a", "three") // the last one leaves
	if len(ts.open) != 2 || ts.open[a.connection] != nil {
		t.Errorf("after the last app has left its connection there are %d, want 2", len(ts.open))
	}
	if owner, _ := moved.engine.Claims.Other(appNamed("c"), ref); owner != appNamed("a") {
		t.Error("new credentials have cost the app its claims")
	}
	if _, released := ts.aimHome(appNamed("a")); len(released) != 1 {
		t.Errorf("an app that moves to another cluster releases %v, want its object", released)
	}
	ts.forget(appNamed("b"))
	ts.forget(appNamed("c"))
	if len(ts.open) != 0 || len(ts.of) != 0 {
		t.Errorf("%d connections and %d users are left of no apps", len(ts.open), len(ts.of))
	}
}

// TestStepsElsewhereAreBounded: of the steps that other clusters may hold up there are few, and who has to wait is woken.
func TestStepsElsewhereAreBounded(t *testing.T) {
	var woken []delivery.ID
	ts := unreachableTargets(t, func(app delivery.ID) { woken = append(woken, app) })
	tg := &target{close: func() {}, users: map[delivery.ID]bool{}}
	var leave []func()
	for {
		done, ok := ts.enter(tg, appNamed("busy"))
		if !ok {
			break
		}
		leave = append(leave, done)
	}
	if len(leave) != stepsPerTarget {
		t.Errorf("%d steps at once, want %d", len(leave), stepsPerTarget)
	}
	if _, ok := ts.enter(ts.home, appNamed("near")); !ok {
		t.Error("a step in this cluster has to wait for another one")
	}
	if _, ok := ts.enter(&target{close: func() {}}, appNamed("other")); !ok {
		t.Error("a step in a third cluster has to wait for another one")
	}
	ts.enter(tg, appNamed("waits"))
	leave[0]()
	if len(woken) != 2 || woken[1] != appNamed("waits") {
		t.Errorf("woken: %v, want the two that had to wait", woken)
	}
	if done, ok := ts.enter(tg, appNamed("waits")); !ok {
		t.Error("there is room and it is not given")
	} else {
		done()
	}
}

// TestLostForgetsHome: an app whose other cluster is not known yet needs no more of what it had at home.
func TestLostForgetsHome(t *testing.T) {
	k := &kustomizations{apps: apps{targets: unreachableTargets(t, func(delivery.ID) {})}}
	home := k.targets.home
	app := delivery.App{ID: appNamed("a"), KubeConfig: delivery.KubeConfig{Kind: "Secret", Name: "far"}}
	u := &unstructured.Unstructured{}
	u.SetAPIVersion("v1")
	u.SetKind("ConfigMap")
	u.SetNamespace("team")
	u.SetName("x")
	u.SetLabels(map[string]string{dialect.OwnerNameLabel: "a", dialect.OwnerNamespaceLabel: "team"})
	rec, err := home.engine.Live.Observe(u)
	if err != nil || rec.Owner != app.ID {
		t.Fatalf("observed: %+v, %v", rec, err)
	}
	st := &appState{target: home}
	k.lost(st, app)
	if _, there := home.engine.Live.Get(delivery.RefOf(u)); there || st.target != nil {
		t.Error("what the app had at home is still known")
	}
}
