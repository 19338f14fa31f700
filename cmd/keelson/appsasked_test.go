package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/controller"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/release"
	"keelson.dev/keelson/internal/store"
)

// TestOwnAsks: what was asked for here is known again once, by its action and object, and for a minute.
func TestOwnAsks(t *testing.T) {
	var o ownAsks
	now := time.Unix(0, 0)
	const app, other = "Kustomization/a/b", "Kustomization/a/c"
	seen := func(what, action, object string, at time.Time, want bool) {
		t.Helper()
		if got := o.seen(action, object, at); got != want {
			t.Errorf("%s: %t, want %t", what, got, want)
		}
	}
	seen("nothing was asked for", "app.sync", app, now, false)
	o.about(app, now, "app.sync", "app.resume")
	seen("another app", "app.sync", other, now, false)
	seen("another action", "app.suspend", app, now, false)
	seen("what was asked for", "app.sync", app, now.Add(time.Second), true)
	seen("once more", "app.sync", app, now.Add(time.Second), false)
	seen("too late", "app.resume", app, now.Add(2*time.Minute), false)
	withdraw := o.about(app, now, "app.sync")
	withdraw()
	seen("what failed", "app.sync", app, now, false)
	if withdraw := o.about(app, now, syncAt("1")); o.seen(syncAt("2"), app, now) {
		t.Error("somebody else's request is taken for what was never seen")
	} else {
		withdraw()
	}
	o.about(app, now, "app.sync")
	o.about(other, now.Add(time.Hour), "app.sync")
	if len(o.asks) != 1 {
		t.Errorf("what was never seen is kept: %v", o.asks)
	}
}

// TestAsksOfOthersAreRecorded: what was asked for here and never seen hides nothing that somebody else asks for.
func TestAsksOfOthersAreRecorded(t *testing.T) {
	b := &besideStore{queue: make(chan audit.Entry, 9)}
	k := &lazyPipelines{people: &people{}}
	k.people.beside.Store(b)
	const app = "Kustomization/a/b"
	k.asks().about(app, time.Now(), syncAt("1"))
	k.asks().about(app, time.Now(), syncAt("2")) // overwrites it
	for _, request := range []string{"2", "3"} {
		recordAsked(k, controller.Asked{Kind: "Kustomization", Namespace: "a", Name: "b", Action: "app.sync", Request: request, Detail: request})
	}
	if all := b.waiting(); len(all) != 1 || all[0].Detail != "3" {
		t.Errorf("recorded was %+v", all)
	}
}

// TestRollbacksAreToldApart: of rollbacks that begin at the same version of a release each has its own person and outcome, whichever of them has made
// the next version, and whoever tells of that first.
func TestRollbacksAreToldApart(t *testing.T) {
	data := t.TempDir()
	db, err := openDatabaseOf(data)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	app := delivery.App{ID: delivery.ID{Kind: "HelmRelease", Namespace: "shop", Name: "web"}, UID: "u"}
	began := time.Now()
	by := func(actor string, made int, status string) history.Delivery {
		d := rollbackDelivery(app, "1.0.0", 2, made, began)
		d.Actor, d.Status = actor, status
		return d
	}
	held := controller.RolledBack(app, "1.0.0", 3) // as the controller tells it
	held.Began, held.Status = began, history.Succeeded
	for _, d := range []history.Delivery{by("ann", 0, history.Failed), by("eve", 0, history.Failed), held, by("bob", 3, history.Succeeded), by("cat", 4, history.Failed), held} {
		if err := db.KeepDeliveries(t.Context(), []history.Delivery{d}); err != nil {
			t.Fatal(err)
		}
	}
	all, err := db.Deliveries(t.Context(), store.DeliveryFilter{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range all {
		got = append(got, d.Actor+" "+d.Status)
	}
	slices.Sort(got)
	if want := "[ann failed bob succeeded cat failed eve failed]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}

// TestHeldDetail: what a rollback holds says so, and at which version.
func TestHeldDetail(t *testing.T) {
	hr := &helmv2.HelmRelease{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
	hr.Status.LastAttemptedRevision = "2.0.0"
	hr.Status.Conditions = []metav1.Condition{{
		Type: fluxmeta.ReadyCondition, Status: metav1.ConditionFalse, Reason: release.ReasonHeld,
		Message: `shop/web.v3 with chart web@1.0.0+build.7 was made by a person, "Rollback to 1", and is left as it is until Git wants something else or the hold is lifted`,
	}}
	d := detailOf(foundApp{helm: hr})
	if d.Revision != "1.0.0+build.7" || len(d.Holds) != 1 || !strings.Contains(d.Holds[0].Reason, "Rollback to 1") || d.Spec.Suspended {
		t.Errorf("the HelmRelease: %+v", d)
	}
	hr.Status.Conditions[0].Message = "as an older keelson has said it"
	if d := detailOf(foundApp{helm: hr}); d.Revision != "2.0.0" {
		t.Errorf("of an older keelson: %+v", d)
	}

	a := &argocdv1.Application{ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: "web"}}
	if d := detailOf(foundApp{argo: a}); d.Spec.Suspended || len(d.Holds) != 0 {
		t.Errorf("an Application that is synced by hand is not suspended: %+v", d)
	}
	a.Annotations = map[string]string{argocdv1.HoldAnnotation: `{"by":"ann","reason":"rolled back to 93837fb"}`}
	if d := detailOf(foundApp{argo: a}); !d.Spec.Suspended || len(d.Holds) != 1 || d.Holds[0].Owner != "ann" || d.Holds[0].Until != "it is resumed" {
		t.Errorf("one that is held is: %+v", d)
	}
}
