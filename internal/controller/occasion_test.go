package controller

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/release"
)

// lastWords is a history of what was told last of each delivery.
type lastWords struct {
	keys []string
	all  map[string]string
}

func (*lastWords) Commit(history.Commit) {}

func (*lastWords) Parts(string, []history.Part) {}
func (l *lastWords) Repair(history.Repair)      {}

func (l *lastWords) Delivery(d history.Delivery) {
	if !slices.Contains(l.keys, d.Key) {
		l.keys = append(l.keys, d.Key)
	}
	l.all[d.Key] = d.Trigger + " " + d.Actor + ": " + d.Status
}

func (l *lastWords) lines() (out []string) {
	for _, key := range l.keys {
		out = append(out, l.all[key])
	}
	return out
}

// TestSyncAfterAFailure: what fails goes on as one delivery, until somebody asks for it, or it begins for another reason.
func TestSyncAfterAFailure(t *testing.T) {
	for name, test := range map[string]struct {
		next occasion
		want []string
	}{
		"once more": {occasion{}, []string{"commit : succeeded"}},
		"a person":  {occasion{trigger: history.BySync, actor: "jane"}, []string{"commit : superseded", "sync jane: succeeded"}},
		"drift":     {occasion{trigger: history.ByDrift}, []string{"commit : superseded", "drift : succeeded"}},
	} {
		t.Run(name, func(t *testing.T) {
			told := &lastWords{all: map[string]string{}}
			now := time.Unix(0, 0)
			a := &apps{history: told, now: func() time.Time { now = now.Add(time.Second); return now }}
			p := &pass{st: &appState{}, req: deliver.Request{Snapshot: delivery.Snapshot{Revision: delivery.Revision{Commit: "aaa"}}}}
			before := delivery.Revision{Commit: "000"}
			test.next.previous = before
			a.beginsDelivery(p, occasion{previous: before})
			a.concludeDelivery(p, delivery.Outcome{Phase: delivery.Failing, Message: "refused"}, before)
			a.beginsDelivery(p, test.next)
			a.concludeDelivery(p, delivery.Outcome{Phase: delivery.Ready}, before)
			if got := told.lines(); !slices.Equal(got, test.want) {
				t.Errorf("it says %q, want %q", got, test.want)
			}
		})
	}
}

// TestOccasionOfKustomization: a delivery that somebody has asked for is theirs, also of a commit that is new; any other is nobody's.
func TestOccasionOfKustomization(t *testing.T) {
	for name, test := range map[string]struct {
		asked            bool
		by, at, previous string
		want             string
	}{
		"a new commit":                     {false, "jane", "bb", "aa", " by "},
		"a sync":                           {true, "jane", "aa", "aa", "sync by jane"},
		"a sync of a new commit":           {true, "jane", "bb", "aa", " by jane"},
		"a sync that does not say by whom": {true, "", "aa", "aa", "sync by "},
	} {
		t.Run(name, func(t *testing.T) {
			revision := func(commit string) delivery.Revision {
				return delivery.Revision{Name: "main", Commit: strings.Repeat(commit, 20)}
			}
			k := &kustomizations{apps: apps{reg: newRegistry()}}
			p := &kustomizationPass{obj: &kustomizev1.Kustomization{}, pass: pass{
				app: delivery.App{RequestedBy: test.by}, st: &appState{asked: test.asked},
				req: deliver.Request{Snapshot: delivery.Snapshot{Revision: revision(test.at)}},
			}}
			p.obj.Status.LastAppliedRevision = revision(test.previous).String()
			if o := k.occasion(p); o.trigger+" by "+o.actor != test.want {
				t.Errorf("it is %q by %q, want %q", o.trigger, o.actor, test.want)
			}
		})
	}
}

// TestPartingIsOneDelivery: however often a release that is in the way of its app's end has to be uninstalled.
func TestPartingIsOneDelivery(t *testing.T) {
	h, told := helmAlone(t), &lastWords{all: map[string]string{}}
	now := time.Unix(0, 0)
	h.history, h.now = told, func() time.Time { now = now.Add(time.Second); return now }
	hr := withHistory()
	hr.DeletionTimestamp = &metav1.Time{Time: now}
	p, err := h.begin(hr, pen{})
	if err != nil {
		t.Fatal(err)
	}
	uninstall := release.Decision{Action: release.Uninstall}
	for _, failed := range []error{errors.New("held"), errors.New("held"), errors.New("held by another"), nil} {
		h.recordAction(p, uninstall)
		h.recordResult(p, &acting{decision: uninstall}, failed)
		want := "spec : succeeded"
		if failed != nil {
			want = "spec : failed"
		}
		if got := told.lines(); !slices.Equal(got, []string{want}) {
			t.Errorf("after %v it says %q, want %q", failed, got, want)
		}
	}
}

// TestHeldIsToldWithItsTime: of a rollback that is found, whenever that is, the time is told at which it was made.
func TestHeldIsToldWithItsTime(t *testing.T) {
	h, told := helmAlone(t), &deliveries{}
	h.history = told
	p, err := h.begin(withHistory(), pen{})
	if err != nil {
		t.Fatal(err)
	}
	made := &delivery.StoredRelease{ReleaseSnapshot: delivery.ReleaseSnapshot{Version: 2, ChartVersion: "1.0.0", LastDeployed: time.Unix(1000, 0)}, Description: "Rollback to 1"}
	h.recordHeld(p, made)
	if len(told.all) != 1 {
		t.Fatalf("it says %+v", told.all)
	}
	d := told.all[0]
	if at := made.LastDeployed; !d.Began.Equal(at) || !d.Applied.Equal(at) || !d.Finished.Equal(at) || !d.Found || d.Status != history.Succeeded {
		t.Errorf("it says %+v", d)
	}
}

// deliveries is a history of all that is told of deliveries.
type deliveries struct {
	lastWords
	all []history.Delivery
}

func (d *deliveries) Delivery(of history.Delivery) { d.all = append(d.all, of) }
