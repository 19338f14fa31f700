package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/redact"
)

// apps is what the kinds that declare apps have in common: what is known of each app, the clusters they are delivered to,
// and whom to wake when one has news for others.
type apps struct {
	reg     *registry
	targets *targets
	records *deliver.Records // nil: nothing is remembered beyond this process
	history Recorder         // nil: nobody keeps one
	parts   *dissector       // what several commits of one delivery have changed
	policy  delivery.Policy
	cache   client.Reader
	reader  client.Reader // uncached: ConfigMaps and Secrets are not kept in memory
	now     func() time.Time
	wake    func(delivery.ID) // an app of any kind
	later   *trickle
	places  *kube.Places // of the apps that are being delivered
	kept    atomic.Int32 // apps that keep what they have rendered
	log     *slog.Logger
}

// pass is one step for one app: everything that its phases have read.
type pass struct {
	app     delivery.App
	st      *appState
	pen     pen
	req     deliver.Request  // set by source and variables
	secrets *redact.Redactor // masks the values that were substituted from Secrets
	loaded  bool             // they were read in this pass
	events  []event
	after   time.Duration
	paced   bool // after says when it makes sense to try again
	digest  string
}

// errNotYet ends a pass that came too early: what it needs is about to be known and wakes it then.
// The status stays as it is.
var errNotYet = errors.New("not known yet")

// waitsFor ends a pass that came too early and is worth being told of if it lasts: what it waits for is under way.
type waitsFor struct{ reason, what string }

func (w *waitsFor) Error() string { return "waiting for " + w.what }

func ignoreNotYet(err error) error {
	if errors.Is(err, errNotYet) {
		return nil
	}
	return err
}

const (
	// recheck is when to look again at what should come with an event, in case the event came too early to be of use.
	recheck, maxRecheck = 2 * time.Second, 5 * time.Minute
	// maxSteps bounds the stages carried out in one pass; a plan has five.
	maxSteps = 10
	// again is when to look again after somebody else wrote to an object at the same moment.
	again = 100 * time.Millisecond
)

// stateOf gives what is known of an app; load takes in, once, what a controller before this one left of it.
func (a *apps) stateOf(app delivery.App, load func(*appState)) *appState {
	if was := a.reg.uid(app.ID); was != "" && was != app.UID {
		a.drop(app.ID) // another one of the same name: what is known is not about it
	}
	st := a.reg.app(app)
	if !st.loaded {
		st.loaded, st.since = true, a.now()
		load(st)
	}
	return st
}

// drop forgets an app that is gone.
func (a *apps) drop(id delivery.ID) {
	dependents := a.reg.dependents(id)
	if st := a.reg.dropApp(id); st != nil {
		a.release(st, false)
	}
	if err := a.records.Drop(id); err != nil {
		a.log.Warn("forget an app", "app", id, "error", err)
	}
	a.wakeAll(dependents)
	a.released(a.targets.forget(id))
}

// news takes in that a source has something new to say: the apps that it changes something for look at it now, the others
// are at its revision from now on and say so when there is time.
func (a *apps) news(source delivery.ID) {
	snap, _ := a.reg.snapshot(source)
	if snap.Revision.Commit == "" {
		a.wakeAll(a.reg.madeFrom(source))
		return
	}
	if a.recordsHistory() && snap.Commit != (delivery.Commit{}) {
		a.history.Commit(commitOf(snap))
	}
	untouched, touched := a.reg.advance(source, snap)
	a.wakeAll(touched)
	a.later.add(untouched)
}

func (a *apps) wakeAll(ids []delivery.ID) {
	for _, id := range ids {
		a.wake(id)
	}
}

// released wakes the apps that wait for an object of another's, after some app let go of objects.
func (a *apps) released(refs []delivery.Ref) {
	if len(refs) > 0 {
		a.wakeAll(a.reg.conflicted())
	}
}

// stands notes how an app stands, and wakes those that depend on it where that is news.
func (a *apps) stands(id delivery.ID, s stand) {
	if a.reg.settle(id, s) {
		a.wakeAll(a.reg.dependents(id))
	}
}

// maxKept bounds the apps that keep what they have rendered while they wait for the first look at what is there.
const maxKept = 64

// release frees what a pass has rendered. An app that comes back in a moment may keep it, so as not to render it twice.
func (a *apps) release(st *appState, early bool) {
	switch {
	case early && st.keeps:
		return
	case early && !st.mem.Rendered():
		return
	case early && a.kept.Add(1) <= maxKept:
		st.keeps = true
		return
	case early || st.keeps:
		a.kept.Add(-1)
	}
	st.keeps = false
	st.mem.Release()
}

// haste is how long an app may be under way before its status says so.
const haste = time.Second

// patience says how long a status that only tells of work under way is still kept back; zero: it is written.
func (st *appState) patience(phase delivery.Phase, now time.Time) time.Duration {
	if phase != delivery.Working {
		st.working, st.progress = time.Time{}, ""
		return 0
	}
	if st.working.IsZero() {
		st.working = now
	}
	return max(st.working.Add(haste).Sub(now), 0)
}

// exists looks an object up in the cache.
func (a *apps) exists(ctx context.Context, obj client.Object, id delivery.ID) (bool, error) {
	err := a.cache.Get(ctx, types.NamespacedName{Namespace: id.Namespace, Name: id.Name}, obj)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// maxNamed bounds how many objects an event names.
const maxNamed = 5

// awaitGone keeps an app until its objects are gone, of which its watches tell, or until its timeout is over.
func (a *apps) awaitGone(app delivery.App, st *appState, going []delivery.Ref) removal {
	if st.leaving.IsZero() {
		st.leaving = a.now()
	}
	if left := app.Timeout - a.now().Sub(st.leaving); left > 0 {
		return removal{after: left}
	}
	names := make([]string, 0, maxNamed)
	for _, ref := range going[:min(len(going), maxNamed)] {
		names = append(names, ref.String())
	}
	return removal{done: true, events: []event{{warning: true, reason: "TerminationTimeout", message: fmt.Sprintf(
		"%d objects of the app are still there %s after they were deleted: %s; look at their finalizers", len(going), app.Timeout, strings.Join(names, ", "))}}}
}

// uninstall deletes what the app owns in the cluster that it is aimed at. going are the objects that are not yet gone.
func (a *apps) uninstall(ctx context.Context, p *pass) (going []delivery.Ref, waiting bool, err error) {
	done, ok := a.targets.enter(p.st.target, p.app.ID)
	if !ok {
		return nil, true, nil
	}
	defer done()
	a.arrive(p)
	deleted, going, waiting, err := p.st.target.engine.Uninstall(ctx, p.app, &p.st.mem, a.now())
	err = p.st.explain(err)
	p.st.deleted = append(p.st.deleted, deleted...)
	if err == nil && !waiting {
		a.recordParting(p)
	}
	return going, waiting || errors.Is(err, errNotYet), ignoreNotYet(err)
}

// accountGone tells whether an app's service account does not exist (any more).
func accountGone(ctx context.Context, app delivery.App, t *target) bool {
	if app.ServiceAccount == "" {
		return false
	}
	accounts, err := t.engine.Cluster.Self().Resource(corev1.SchemeGroupVersion.WithKind("ServiceAccount"), app.ID.Namespace)
	if err != nil {
		return false
	}
	_, err = accounts.Get(ctx, app.ServiceAccount, metav1.GetOptions{})
	return apierrors.IsNotFound(err)
}
