package main

import (
	"strings"
	"testing"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/release"
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
	o.about(app, now, "app.sync")
	o.about(other, now.Add(time.Hour), "app.sync")
	if len(o.asks) != 1 {
		t.Errorf("what was never seen is kept: %v", o.asks)
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
