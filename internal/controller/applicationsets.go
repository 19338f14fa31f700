package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/appset"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/telemetry"
)

// applicationSets make Applications from ApplicationSets, and keep them as they were made. Package appset decides everything;
// here is what it wants to know, and what carries its decisions out. A set is looked at when it changes, when a repository or
// Argo CD's namespace has news, and when an Application of its own was touched or has got somewhere.
type applicationSets struct {
	estate *estate
	repos  *repositories
	client client.Client
	synced func() bool // the Applications are all known
	now    func() time.Time
	wake   func(delivery.ID)
	later  func(delivery.ID, time.Duration)
	log    *slog.Logger

	mu     sync.Mutex
	states map[types.NamespacedName]*setState
}

// setState is what is known of a set besides what the cluster says. All but what its lock is named for is the one worker's.
type setState struct {
	wants    map[delivery.ID]delivery.Source // that the set follows
	asked    time.Time                       // when its repositories were asked last because it wants that
	key      setKey                          // that generated is for
	made     appset.Generated
	failures int // writes that failed in a row
	busy     int // Applications that it has, so that news of many come together

	// With the lock of applicationSets.
	rolls   bool                             // its Applications are synced one after the other: each news counts at once
	delayed bool                             // a step was asked for that takes in several news
	written map[string]*argocdv1.Application // as the server returned our writes, until the cache has them
	deleted map[types.UID]bool               // until the cache knows
}

// setKey names everything that a set's Applications are made of.
type setKey struct {
	uid        types.UID
	generation int64
	holdings   *holdings
	snapshots  string
}

const (
	setWorkers    = 4
	setWrites     = 8                      // requests of one set at once
	setCoalesce   = 250 * time.Millisecond // in which news of a set's Applications come together; longer for many
	maxCoalesce   = 5 * time.Second
	setRetry      = 5 * time.Second
	setEvents     = 20 // of one step
	jqTime        = time.Second
	minRepeat     = 10 * time.Second // between two looks at a repository that a set asks for by requeueAfterSeconds
	setRefreshing = argocdv1.ApplicationSetRefresh
)

func setID(name types.NamespacedName) delivery.ID {
	return delivery.ID{Kind: argocdv1.ApplicationSetKind, Namespace: name.Namespace, Name: name.Name}
}

func (a *applicationSets) empty() *argocdv1.ApplicationSet { return &argocdv1.ApplicationSet{} }

func (a *applicationSets) about(ctx context.Context, obj *argocdv1.ApplicationSet) context.Context {
	return telemetry.With(ctx, telemetry.App(setID(client.ObjectKeyFromObject(obj)).String()))
}

func (a *applicationSets) state(name types.NamespacedName) *setState {
	a.mu.Lock()
	defer a.mu.Unlock()
	st, ok := a.states[name]
	if !ok {
		st = &setState{wants: map[delivery.ID]delivery.Source{}, written: map[string]*argocdv1.Application{}, deleted: map[types.UID]bool{}}
		a.states[name] = st
	}
	return st
}

func (a *applicationSets) forget(name types.NamespacedName) {
	a.repos.want(setID(name), nil)
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.states, name)
}

// step generates what the set stands for and makes the cluster so.
func (a *applicationSets) step(ctx context.Context, set *argocdv1.ApplicationSet, pen pen) next {
	if set.Namespace != a.estate.namespace {
		return next{} // what may be delivered is said in Argo CD's namespace alone
	}
	if !a.synced() {
		return next{after: again}
	}
	if !a.estate.holds().complete {
		return next{after: estateRetry} // it could not be read yet: nothing may be concluded from what is not there
	}
	name := client.ObjectKeyFromObject(set)
	st := a.state(name)
	a.mu.Lock()
	st.delayed, st.rolls = false, appset.Rolls(set)
	a.mu.Unlock()
	if appset.Reversed(set) || !appset.Deletes(set) { // its deletion leaves something to do
		if err := pen.claim(nil); err != nil {
			return a.failed(st, name, "write the finalizer", err)
		}
	}
	n := next{after: a.repeat(st, set)}
	if _, ok := set.Annotations[setRefreshing]; ok {
		a.repos.refresh(setID(name))
		if err := a.patchSet(ctx, set, map[string]any{"metadata": map[string]any{"annotations": map[string]any{setRefreshing: nil}}}); err != nil {
			return a.failed(st, name, "take away the refresh annotation", err)
		}
	}
	news := appset.News{Unknown: set.Unknown}
	made, err := a.generate(set, st)
	if errors.Is(err, appset.ErrPending) {
		return next{} // whoever has it says so
	}
	if news.Err = err; err == nil {
		news.Generated = true
		var events []event
		events, news.Err = a.settle(ctx, set, st, made, &news, pen)
		n.events = append(n.events, events...)
	}
	live, err := a.owned(ctx, set, st)
	if err != nil {
		return a.failed(st, name, "list Applications", err)
	}
	news.Live, st.busy = live, len(live)
	set.Status = appset.Status(set.Status, news, a.now().Truncate(time.Second))
	var fault *delivery.Fault
	if news.Err != nil && (!errors.As(news.Err, &fault) || fault.Retry == delivery.Backoff) {
		n.after = a.failed(st, name, "write Applications", news.Err).after
		return n
	}
	st.failures = 0
	return n
}

func (a *applicationSets) failed(st *setState, name types.NamespacedName, what string, err error) next {
	st.failures++
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) { // the cache lags behind
		return next{after: again << min(st.failures-1, 9)}
	}
	a.log.Warn(what, "applicationset", name, "error", err)
	return next{after: min(setRetry<<min(st.failures-1, 6), maxRecheck)}
}

// repeat asks the set's repositories as often as its generators want (requeueAfterSeconds), and tells when to look again; zero: only
// when something happens.
func (a *applicationSets) repeat(st *setState, set *argocdv1.ApplicationSet) time.Duration {
	every := requeueAfter(set.Spec.Generators)
	if every <= 0 {
		return 0
	}
	every = max(every, minRepeat)
	now := a.now()
	if st.asked.IsZero() {
		st.asked = now
	}
	if now.Sub(st.asked) >= every {
		st.asked = now
		a.repos.refresh(setID(client.ObjectKeyFromObject(set)))
	}
	return st.asked.Add(every).Sub(now)
}

// requeueAfter is the shortest of the generators; zero: none says.
func requeueAfter(generators []argocdv1.ApplicationSetGenerator) time.Duration {
	var shortest time.Duration
	take := func(d time.Duration) {
		if d > 0 && (shortest == 0 || d < shortest) {
			shortest = d
		}
	}
	for _, g := range generators {
		if g.Git != nil && g.Git.RequeueAfterSeconds != nil && *g.Git.RequeueAfterSeconds < 1<<31 {
			take(time.Duration(*g.Git.RequeueAfterSeconds) * time.Second)
		}
		if g.Matrix != nil {
			take(requeueAfter(g.Matrix.Generators))
		}
		if g.Merge != nil {
			take(requeueAfter(g.Merge.Generators))
		}
	}
	return shortest
}

// generate gives what the set stands for. What it is made of is followed from then on.
func (a *applicationSets) generate(set *argocdv1.ApplicationSet, st *setState) (appset.Generated, error) {
	held := a.estate.holds()
	key := setKey{uid: set.UID, generation: set.Generation, holdings: held}
	now := map[delivery.ID]string{}
	for id := range st.wants {
		now[id] = standingOf(a.repos.snapshot(id))
	}
	if key.snapshots = stands(now); st.key == key {
		return st.made, nil
	}
	wants, read := map[delivery.ID]delivery.Source{}, map[delivery.ID]string{}
	world := appset.World{Now: a.now(), Projects: map[string]bool{dialect.DefaultProject: true}} // which needs not be declared
	for name := range held.projects {
		world.Projects[name] = true
	}
	for _, c := range held.argo.Clusters {
		world.Clusters = append(world.Clusters, appset.Cluster{Name: c.Name, Server: c.Server, Project: c.Project, Labels: c.Labels, Annotations: c.Annotations})
	}
	world.Repository = func(r appset.Repository) (fs.FS, error) { return a.repository(set, held, r, wants, read) }
	made, err := appset.Generate(set, world)
	if err != nil { // perhaps it did not get as far as before
		for id, src := range st.wants {
			if _, ok := wants[id]; !ok {
				wants[id] = src
			}
		}
	}
	if !sameKeys(st.wants, wants) {
		a.repos.want(setID(client.ObjectKeyFromObject(set)), slices.Collect(maps.Values(wants)))
		st.wants = wants
	}
	st.key = setKey{}
	if err != nil {
		return appset.Generated{}, err
	}
	key.snapshots = stands(read) // which may not be how they are by now
	st.key, st.made = key, made
	return made, nil
}

func sameKeys(a, b map[delivery.ID]delivery.Source) bool {
	return maps.EqualFunc(a, b, func(x, y delivery.Source) bool { return reflect.DeepEqual(x, y) })
}

// standingOf names a snapshot of a source, and whether it could be fetched since.
func standingOf(snap delivery.Snapshot, err error) string {
	return fmt.Sprintf("%s %s %t", snap.Revision, snap.Digest, err != nil)
}

// stands names how sources stand.
func stands(of map[delivery.ID]string) string {
	out := ""
	for _, id := range slices.SortedFunc(maps.Keys(of), func(x, y delivery.ID) int { return strings.Compare(x.Name, y.Name) }) {
		out += id.Name + " " + of[id] + "\n"
	}
	return out
}

// repository gives the files of a repository that a generator names, with the credentials that Argo CD's namespace has for it,
// and notes in wants that it is to be followed, and in read as what it was read: at first, since another commit may arrive any time.
func (a *applicationSets) repository(set *argocdv1.ApplicationSet, held *holdings, r appset.Repository, wants map[delivery.ID]delivery.Source, read map[delivery.ID]string) (fs.FS, error) {
	src, err := dialect.ArgoFiles(set.Namespace, r.Project, r.URL, r.Revision, held.about(r.Project, a.now()))
	if err != nil {
		return nil, err
	}
	wants[src.ID] = src
	snap, err := a.repos.snapshot(src.ID)
	if _, before := read[src.ID]; !before {
		read[src.ID] = standingOf(snap, err)
	}
	switch {
	case snap.Revision.Commit != "":
		return snap.FS, nil
	case err != nil:
		return nil, errors.New(redact.Text(err.Error())) // where it is wanted is said with it, and a reason of its own
	}
	return nil, appset.ErrPending
}

// settle makes the Applications of a set as they were generated.
func (a *applicationSets) settle(ctx context.Context, set *argocdv1.ApplicationSet, st *setState, made appset.Generated, news *appset.News, pen pen) ([]event, error) {
	live, err := a.all(ctx, set, st)
	if err != nil {
		return nil, err
	}
	if appset.Rolls(set) {
		if len(set.Spec.Strategy.RollingSync.Steps) == 0 {
			return nil, &delivery.Fault{
				Reason: "ApplicationSetRolloutError", Where: "spec.strategy.rollingSync", Retry: delivery.OnChange, Err: errors.New("No steps defined for rollout"), //nolint:staticcheck // Argo CD's words
			}
		}
		roll, err := appset.Roll(set, made, ownedOf(set, live), runJQ, a.now().Truncate(time.Second))
		if err != nil {
			return nil, err
		}
		news.Rollout = &roll
		made = roll.WithoutAutomation(made)
		if len(roll.Sync) > 0 { // whose turn it is stands there before it is asked
			set.Status.ApplicationStatus = roll.Statuses
			if err := pen.save(); err != nil {
				return nil, err
			}
		}
	}
	plan, err := appset.Decide(set, made, live, runJQ)
	if err != nil {
		return nil, err
	}
	news.Refused = plan.Refused
	events, err := a.carryOut(ctx, set, st, plan.Changes, live)
	if err != nil {
		return events, err
	}
	return events, plan.Blocked
}

// carryOut makes changes, several at a time, deletions last.
func (a *applicationSets) carryOut(ctx context.Context, set *argocdv1.ApplicationSet, st *setState, changes []appset.Change, live []argocdv1.Application) ([]event, error) {
	there := make(map[string]*argocdv1.Application, len(live))
	for i := range live {
		there[live[i].Name] = &live[i]
	}
	var mu sync.Mutex
	var events []event
	var firstErr error
	failed := ""
	do := func(verb appset.Verb) {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(setWrites)
		for _, change := range changes {
			if (change.Verb == appset.Delete) != (verb == appset.Delete) {
				continue
			}
			g.Go(func() error {
				err := a.change(ctx, set, st, change, there[change.Name])
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					if firstErr == nil || change.Name < failed { // of several always the same
						firstErr, failed = fmt.Errorf("%s application %s: %w", change.Verb, change.Name, err), change.Name
					}
					return nil
				}
				events = append(events, event{reason: past[change.Verb], message: fmt.Sprintf("%s Application %q", past[change.Verb], change.Name)})
				return nil
			})
		}
		_ = g.Wait() // every error is in firstErr
	}
	if do(appset.Create); firstErr == nil {
		do(appset.Delete)
	}
	slices.SortFunc(events, func(x, y event) int { return strings.Compare(x.message, y.message) })
	if more := len(events) - setEvents; more > 0 {
		events = append(events[:setEvents], event{reason: "changed", message: fmt.Sprintf("changed %d more Applications", more)})
	}
	if firstErr != nil {
		return events, &delivery.Fault{Reason: reasonOf(changes, failed), Retry: delivery.Backoff, Err: firstErr}
	}
	return events, nil
}

var past = map[appset.Verb]string{appset.Create: "created", appset.Update: "updated", appset.Delete: "deleted"}

// reasonOf is Argo CD's reason for a change that failed.
func reasonOf(changes []appset.Change, name string) string {
	for _, c := range changes {
		if c.Name == name {
			return map[appset.Verb]string{
				appset.Create: "CreateApplicationError", appset.Update: "UpdateApplicationError", appset.Delete: "DeleteApplicationError",
			}[c.Verb]
		}
	}
	return "UpdateApplicationError"
}

func (a *applicationSets) change(ctx context.Context, set *argocdv1.ApplicationSet, st *setState, c appset.Change, is *argocdv1.Application) error {
	switch c.Verb {
	case appset.Create:
		u := &unstructured.Unstructured{Object: c.Patch}
		if err := a.client.Create(ctx, u, client.FieldOwner(kube.FieldManager)); err != nil {
			return err
		}
		return a.wrote(st, u)
	case appset.Update:
		data, err := json.Marshal(c.Patch)
		if err != nil {
			return err
		}
		out := is.DeepCopy()
		if err := a.client.Patch(ctx, out, client.RawPatch(types.MergePatchType, data), client.FieldOwner(kube.FieldManager)); err != nil {
			return err
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		st.written[out.Name] = out
		return nil
	}
	if err := a.orphanLost(ctx, is); err != nil {
		return err
	}
	uid := c.UID
	err := a.client.Delete(ctx, &argocdv1.Application{ObjectMeta: metav1.ObjectMeta{Namespace: set.Namespace, Name: c.Name}}, client.Preconditions{UID: &uid})
	if client.IgnoreNotFound(err) != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	st.deleted[uid] = true
	return nil
}

// orphanLost takes the finalizer from an Application that is to be deleted and whose cluster is no longer known: its objects cannot
// be deleted any more, and waiting for them would keep it forever (Argo CD: the same).
func (a *applicationSets) orphanLost(ctx context.Context, app *argocdv1.Application) error {
	held := a.estate.holds()
	world := appset.World{}
	for _, c := range held.argo.Clusters {
		world.Clusters = append(world.Clusters, appset.Cluster{Name: c.Name, Server: c.Server})
	}
	if !slices.Contains(app.Finalizers, argocdv1.ResourcesFinalizer) || world.Reaches(app.Spec.Destination) == nil {
		return nil
	}
	left := slices.DeleteFunc(slices.Clone(app.Finalizers), func(f string) bool { return f == argocdv1.ResourcesFinalizer })
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"finalizers": left, "resourceVersion": app.ResourceVersion}})
	if err != nil {
		return err
	}
	return a.client.Patch(ctx, app.DeepCopy(), client.RawPatch(types.MergePatchType, data))
}

func (a *applicationSets) wrote(st *setState, u *unstructured.Unstructured) error {
	data, err := u.MarshalJSON()
	if err != nil {
		return err
	}
	app := &argocdv1.Application{}
	if err := json.Unmarshal(data, app); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	st.written[app.Name] = app
	return nil
}

func (a *applicationSets) patchSet(ctx context.Context, set *argocdv1.ApplicationSet, patch map[string]any) error {
	data, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	return client.IgnoreNotFound(a.client.Patch(ctx, set.DeepCopy(), client.RawPatch(types.MergePatchType, data)))
}

// all gives the Applications of a set's namespace: as the cache has them, or newer, as our own writes left them.
func (a *applicationSets) all(ctx context.Context, set *argocdv1.ApplicationSet, st *setState) ([]argocdv1.Application, error) {
	var list argocdv1.ApplicationList
	if err := a.client.List(ctx, &list, client.InNamespace(set.Namespace)); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	gone := map[types.UID]bool{}
	seen := map[string]bool{}
	live := list.Items
	for i := range live {
		app := &live[i]
		seen[app.Name] = true
		if w, ok := st.written[app.Name]; ok {
			if version(app) >= version(w) {
				delete(st.written, app.Name)
			} else {
				w.DeepCopyInto(app)
			}
		}
		if st.deleted[app.UID] {
			gone[app.UID] = true
			if app.DeletionTimestamp.IsZero() {
				app.DeletionTimestamp = &metav1.Time{Time: a.now()}
			}
		}
	}
	st.deleted = gone
	for name, w := range st.written {
		if !seen[name] {
			live = append(live, *w.DeepCopy())
		}
	}
	return live, nil
}

func (a *applicationSets) owned(ctx context.Context, set *argocdv1.ApplicationSet, st *setState) ([]argocdv1.Application, error) {
	live, err := a.all(ctx, set, st)
	return ownedOf(set, live), err
}

func ownedOf(set *argocdv1.ApplicationSet, live []argocdv1.Application) []argocdv1.Application {
	out := []argocdv1.Application{}
	for i := range live {
		if appset.Owns(set, &live[i]) {
			out = append(out, live[i])
		}
	}
	return out
}

// remove lets a set's Applications go as it wants: they stay, or they go step by step; else the cluster collects them with it.
func (a *applicationSets) remove(ctx context.Context, set *argocdv1.ApplicationSet) (removal, error) {
	if set.Namespace != a.estate.namespace {
		return removal{}, nil
	}
	if !a.synced() {
		return removal{after: again}, nil
	}
	st := a.state(client.ObjectKeyFromObject(set))
	live, err := a.owned(ctx, set, st)
	if err != nil {
		return removal{}, err
	}
	if !appset.Deletes(set) {
		return removal{done: true}, a.disown(ctx, set, live)
	}
	if !appset.Reversed(set) {
		return removal{done: true}, nil
	}
	names, left := appset.NextDeletions(set, live)
	r := removal{done: left == 0}
	for i := range live {
		app := &live[i]
		if !slices.Contains(names, app.Name) || !app.DeletionTimestamp.IsZero() {
			continue
		}
		if err := a.change(ctx, set, st, appset.Change{Verb: appset.Delete, Name: app.Name, UID: app.UID}, app); err != nil {
			return removal{}, err
		}
		r.events = append(r.events, event{reason: "deleted", message: fmt.Sprintf("deleted Application %q", app.Name)})
	}
	return r, nil
}

// disown leaves Applications to themselves.
func (a *applicationSets) disown(ctx context.Context, set *argocdv1.ApplicationSet, live []argocdv1.Application) error {
	for i := range live {
		app := &live[i]
		left := slices.DeleteFunc(slices.Clone(app.OwnerReferences), func(ref metav1.OwnerReference) bool {
			return ref.Kind == argocdv1.ApplicationSetKind && ref.Name == set.Name
		})
		data, err := json.Marshal(map[string]any{"metadata": map[string]any{"ownerReferences": left, "resourceVersion": app.ResourceVersion}})
		if err != nil {
			return err
		}
		if err := a.client.Patch(ctx, app.DeepCopy(), client.RawPatch(types.MergePatchType, data)); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("leave application %s: %w", app.Name, err)
		}
	}
	return nil
}

// watch wakes a set when one of its Applications is touched, and, where that may concern it, when one has got somewhere.
func (a *applicationSets) watch() toolscache.ResourceEventHandler {
	owner := func(app *argocdv1.Application) (types.NamespacedName, bool) {
		ref := metav1.GetControllerOf(app)
		if ref == nil || ref.Kind != argocdv1.ApplicationSetKind {
			return types.NamespacedName{}, false
		}
		return types.NamespacedName{Namespace: app.Namespace, Name: ref.Name}, true
	}
	return toolscache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(obj any, initial bool) {
			if app, ok := obj.(*argocdv1.Application); ok && !initial {
				if set, ok := owner(app); ok {
					a.soon(set)
				}
			}
		},
		UpdateFunc: func(before, now any) {
			was, ok1 := before.(*argocdv1.Application)
			is, ok2 := now.(*argocdv1.Application)
			if !ok1 || !ok2 {
				return
			}
			if set, ok := owner(was); ok {
				a.touched(set, was, is)
			}
			if set, ok := owner(is); ok && !metav1.IsControlledBy(was, &metav1.ObjectMeta{UID: metav1.GetControllerOf(is).UID}) {
				a.wake(setID(set))
			}
		},
		DeleteFunc: func(obj any) {
			if last, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
				obj = last.Obj
			}
			app, ok := obj.(*argocdv1.Application)
			if !ok {
				return
			}
			if set, ok := owner(app); ok {
				a.mu.Lock()
				if st := a.states[set]; st != nil {
					if w := st.written[app.Name]; w != nil && w.UID == app.UID {
						delete(st.written, app.Name)
					}
				}
				a.mu.Unlock()
				a.wake(setID(set))
			}
		},
	}
}

// touched wakes a set for what somebody did to one of its Applications at once, and for how it stands now and then.
func (a *applicationSets) touched(set types.NamespacedName, was, is *argocdv1.Application) {
	if !reflect.DeepEqual(was.Spec, is.Spec) || !maps.Equal(was.Labels, is.Labels) || !maps.Equal(foreign(was.Annotations), foreign(is.Annotations)) ||
		!slices.Equal(was.Finalizers, is.Finalizers) || !reflect.DeepEqual(was.OwnerReferences, is.OwnerReferences) ||
		!was.DeletionTimestamp.Equal(is.DeletionTimestamp) {
		a.mu.Lock()
		st := a.states[set]
		ours := st != nil && st.written[is.Name] != nil && version(st.written[is.Name]) == version(is)
		a.mu.Unlock()
		if !ours {
			a.wake(setID(set))
			return
		}
	}
	if was.Status.Health.Status != is.Status.Health.Status || !reflect.DeepEqual(was.Status.Sync, is.Status.Sync) ||
		!reflect.DeepEqual(phase(was), phase(is)) || !reflect.DeepEqual(was.Operation, is.Operation) {
		a.soon(set)
	}
}

// phase is what a rollout wants to know of an operation.
func phase(app *argocdv1.Application) [2]string {
	if s := app.Status.OperationState; s != nil {
		return [2]string{s.Phase, s.StartedAt.String()}
	}
	return [2]string{}
}

// soon asks for a step that takes in the news of several Applications; of a rollout each counts at once.
func (a *applicationSets) soon(set types.NamespacedName) {
	a.mu.Lock()
	st := a.states[set]
	if st == nil || st.delayed {
		a.mu.Unlock()
		return // it has not been looked at yet, or it will be
	}
	if st.rolls {
		a.mu.Unlock()
		a.wake(setID(set))
		return
	}
	st.delayed = true
	wait := min(setCoalesce*time.Duration(1+st.busy/50), maxCoalesce)
	a.mu.Unlock()
	a.later(setID(set), wait)
}

// wakeAll asks for a step of every set: clusters, projects or credentials have changed.
func (a *applicationSets) wakeAll() {
	a.mu.Lock()
	names := slices.Collect(maps.Keys(a.states))
	a.mu.Unlock()
	for _, name := range names {
		a.wake(setID(name))
	}
}

// serveApplicationSets has ApplicationSets worked on. It is called before the manager starts.
func (c *Controller) serveApplicationSets(ctx context.Context, opts Options, rec *recorder, e *estate, repos *repositories) error {
	gvk := argocdv1.GroupVersion.WithKind(argocdv1.ApplicationSetKind)
	if _, err := opts.Cluster.Mapper().RESTMapping(gvk.GroupKind(), gvk.Version); apimeta.IsNoMatchError(err) {
		opts.Log.Warn("ApplicationSets are not served: the cluster lacks the kind (hint: kubectl apply -f config/crd, then start again)")
		return nil
	} else if err != nil {
		return fmt.Errorf("look up %s: %w", gvk.Kind, err)
	}
	informer, err := c.mgr.GetCache().GetInformer(ctx, &argocdv1.Application{}, ctrlcache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watch Applications: %w", err)
	}
	s := &shell[*argocdv1.ApplicationSet]{
		client: c.mgr.GetClient(), recorder: rec, finalizer: argocdv1.ResourcesFinalizer, log: opts.Log,
		written: map[types.NamespacedName]*argocdv1.ApplicationSet{},
	}
	c.sets = &applicationSets{
		estate: e, repos: repos, client: c.mgr.GetClient(), synced: informer.HasSynced, now: opts.Now, log: opts.Log,
		wake: s.enqueue, states: map[types.NamespacedName]*setState{},
		later: func(id delivery.ID, after time.Duration) {
			if q := s.queue.Load(); q != nil {
				(*q).AddAfter(reconcile.Request{NamespacedName: types.NamespacedName{Namespace: id.Namespace, Name: id.Name}}, after)
			}
		},
	}
	if _, err := informer.AddEventHandler(c.sets.watch()); err != nil {
		return fmt.Errorf("watch Applications: %w", err)
	}
	e.onChange(c.sets.wakeAll)
	s.kind = c.sets
	c.wakes[argocdv1.ApplicationSetKind] = s.enqueue
	return setup(c.mgr, "applicationset", s, setWorkers, c.prepare)
}
