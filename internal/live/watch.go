package live

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/internal/delivery"
)

// use counts who needs a watch.
type use struct {
	cancel context.CancelFunc
	users  int
	idle   *time.Timer // stops the watch; nil while it has users
}

func (u *use) acquire() {
	u.users++
	if u.idle != nil {
		u.idle.Stop()
		u.idle = nil
	}
}

func (u *use) release(grace time.Duration, stop func()) {
	if u.users--; u.users == 0 {
		u.idle = time.AfterFunc(grace, stop)
	}
}

// kindWatch is the watch of one kind in one version.
type kindWatch struct {
	use
	served
	kind   string // for people
	synced bool
	err    error  // why it cannot be watched
	seen   string // the resource version up to which whatever left the watch is known to have left
}

// need is what one app has asked for.
type need struct {
	kinds   []schema.GroupVersionKind // as the app named them
	watches []*kindWatch              // that serve them
	settled bool                      // every kind has its watch, and none of these was dropped since
	absent  bool                      // it will be known in a moment whether there is such a kind
}

// asked tells whether kinds are those that the app named before.
func (n *need) asked(kinds map[schema.GroupVersionKind]bool) bool {
	if len(n.kinds) != len(kinds) {
		return false
	}
	for _, gvk := range n.kinds {
		if !kinds[gvk] {
			return false
		}
	}
	return true
}

// state tells whether everything that was asked for is known, or why it cannot be.
func (n *need) state() (bool, error) {
	all := !n.absent
	for _, w := range n.watches {
		if w.err != nil {
			return false, fmt.Errorf("watch %s: %w", w.kind, w.err)
		}
		all = all && w.synced
	}
	return all, nil
}

// scalerWatch keys the unlabelled watch of all autoscalers beside the labelled ones.
var scalerWatch = schema.GroupVersionKind{Kind: "all HorizontalPodAutoscalers"}

// Ensure makes kinds, all of them with the value true, those that the app needs, in place of what it needed before, and
// tells whether everything about them is known. If not, the app is notified when it is, or when it turns out that it
// cannot be: then the error says why. Where the version of a kind is no longer served, one that is takes its place; a kind
// that the cluster does not know at all is passed over. A call that changes nothing is cheap.
func (l *Live) Ensure(app delivery.ID, kinds map[schema.GroupVersionKind]bool) (bool, error) {
	l.mu.RLock()
	if n := l.needs[app]; n != nil && n.settled && n.asked(kinds) {
		defer l.mu.RUnlock()
		return l.stateOf(app, n)
	}
	l.mu.RUnlock()

	next := &need{kinds: make([]schema.GroupVersionKind, 0, len(kinds)), settled: true}
	found := make([]served, 0, len(kinds)+1)
	for gvk := range kinds {
		next.kinds = append(next.kinds, gvk)
	}
	for _, gvk := range append([]schema.GroupVersionKind{scalerWatch}, next.kinds...) {
		s, err := l.serve(gvk)
		if meta.IsNoMatchError(err) {
			next.settled = false // it may come
			continue
		}
		if errors.Is(err, errAbsent) {
			next.settled, next.absent = false, true
			continue
		}
		if err != nil {
			return false, err
		}
		found = append(found, s)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if next.absent {
		time.AfterFunc(absence, func() { l.wake([]delivery.ID{app}) })
	}
	for _, s := range found {
		w, ok := l.watches[s.key]
		if !ok {
			w = l.start(s)
		}
		if !slices.Contains(next.watches, w) {
			w.acquire()
			next.watches = append(next.watches, w)
		}
	}
	l.leave(l.needs[app])
	l.needs[app] = next
	return l.stateOf(app, next)
}

// stateOf is [need.state], unless objects of the app are being read once more. The caller holds the lock.
func (l *Live) stateOf(app delivery.ID, n *need) (bool, error) {
	known, err := n.state()
	return known && l.rejudging[app] == 0 && l.scripts.unknown[app] == 0, err
}

// Forget ends whatever the app needs: it is gone.
func (l *Live) Forget(app delivery.ID) {
	l.References(app, nil)
	l.Probe(app, nil)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leave(l.needs[app])
	delete(l.needs, app)
	delete(l.rules, app)
	for gk, records := range l.records { // what was observed of a kind without a watch has nobody else to remove it
		if l.watched(gk) {
			continue
		}
		for key, rec := range records {
			if rec.owner.Value() == app {
				delete(records, key)
			}
		}
	}
}

func (l *Live) watched(gk schema.GroupKind) bool {
	for key := range l.watches {
		if key.GroupKind() == gk {
			return true
		}
	}
	return false
}

// leave gives back the watches of a need that no longer holds. The caller holds the lock.
func (l *Live) leave(n *need) {
	if n == nil {
		return
	}
	for _, w := range n.watches {
		w.release(l.opts.Grace, func() { l.stop(w) })
	}
}

// stop ends a watch that nobody has needed for a while and forgets what it told.
func (l *Live) stop(w *kindWatch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.users == 0 && l.watches[w.key] == w {
		l.end(w)
	}
}

// end ends a watch and gives the records that went with it. The caller holds the lock.
func (l *Live) end(w *kindWatch) map[delivery.Ref]*record {
	w.cancel()
	delete(l.watches, w.key)
	if w.key == scalerWatch {
		clear(l.scalers)
		clear(l.scaled)
		return nil
	}
	gone := map[delivery.Ref]*record{}
	records := l.records[w.key.GroupKind()]
	for key, rec := range records {
		if rec.version.Value() == w.key.Version {
			gone[refOf(w.key.GroupKind(), key)] = rec
			delete(records, key)
		}
	}
	if len(records) == 0 {
		delete(l.records, w.key.GroupKind())
		delete(l.undone, w.key.GroupKind())
	}
	for key, other := range l.watches {
		if len(gone) > 0 && key.GroupKind() == w.key.GroupKind() { // it may have left these objects to the watch that ends
			other.cancel()
			other.synced = false
			l.run(other)
		}
	}
	return gone
}

// unsettle has the apps that need a kind in a version look again which watch serves it: that version is served after all.
func (l *Live) unsettle(gk schema.GroupKind, version string) {
	gvk := gk.WithVersion(version)
	for _, n := range l.needs {
		if slices.Contains(n.kinds, gvk) {
			n.settled = false
		}
	}
}

// served is a kind as the server offers it.
type served struct {
	key, gvk schema.GroupVersionKind
	resource dynamic.ResourceInterface
}

// errAbsent: a kind is offered that the server has just said not to know. One of the two is out of date.
var errAbsent = errors.New("not known for now")

// serve finds what serves a kind: itself, or another version where that one is not served. It may ask the server.
func (l *Live) serve(key schema.GroupVersionKind) (served, error) {
	s := served{key: key, gvk: key}
	if key == scalerWatch {
		s.gvk = AutoscalerKind
	}
	var err error
	if s.resource, err = l.resource(s.key, s.gvk); !meta.IsNoMatchError(err) || key == scalerWatch {
		return s, err
	}
	m, other := l.cluster.Mapper().RESTMapping(key.GroupKind())
	switch {
	case other != nil && !meta.IsNoMatchError(other):
		return s, other
	case other != nil:
		return s, err
	case m.GroupVersionKind == key:
		return s, errAbsent
	}
	s.key, s.gvk = m.GroupVersionKind, m.GroupVersionKind
	s.resource, err = l.resource(s.key, s.gvk)
	return s, err
}

func (l *Live) resource(key, gvk schema.GroupVersionKind) (dynamic.ResourceInterface, error) {
	l.mu.RLock()
	_, watched := l.watches[key]
	until, absent := l.absent[key]
	l.mu.RUnlock()
	if !watched && absent && time.Now().Before(until) {
		return nil, &meta.NoKindMatchError{GroupKind: gvk.GroupKind(), SearchedVersions: []string{gvk.Version}}
	}
	return l.cluster.Self().Resource(gvk, "")
}

// start begins a watch. The caller holds the lock.
func (l *Live) start(s served) *kindWatch {
	w := &kindWatch{served: s, kind: s.gvk.Kind}
	l.watches[s.key] = w
	delete(l.absent, s.key)
	l.run(w)
	return w
}

// run lists and watches for a watch until that is cancelled. The caller holds the lock.
func (l *Live) run(w *kindWatch) {
	ctx, cancel := context.WithCancel(l.ctx)
	w.cancel = cancel
	selector := l.opts.Selector
	var store cache.ReflectorStore = &objectStore{live: l, watch: w, ctx: ctx}
	if w.key == scalerWatch {
		selector, store = "", &scalerStore{live: l, watch: w}
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = selector
			list, err := w.resource.List(ctx, o)
			return list, l.noted(ctx, w, err)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = selector
			events, err := w.resource.Watch(ctx, o)
			if noWatchList(o, err) {
				return events, err
			}
			return events, l.noted(ctx, w, err)
		},
	}
	expected := &unstructured.Unstructured{}
	expected.SetGroupVersionKind(w.gvk)
	r := cache.NewReflectorWithOptions(lw, expected, store, cache.ReflectorOptions{Name: "live " + w.kind})
	go r.RunWithContext(ctx)
}

// noWatchList tells whether a request failed only because the server does not send lists as events: the reflector asks for a
// list then.
func noWatchList(o metav1.ListOptions, err error) bool {
	return o.SendInitialEvents != nil && apierrors.IsInvalid(err)
}

// noted takes in how a list or watch request ended and returns the same error. The apps that need the watch are woken where
// that changes what [Live.Ensure] says; a kind that the server does not know loses its watch.
func (l *Live) noted(ctx context.Context, w *kindWatch, err error) error {
	if ctx.Err() != nil {
		return err
	}
	if apierrors.IsNotFound(err) {
		l.drop(w)
		return err
	}
	l.mu.Lock()
	tell := l.watches[w.key] == w && differs(w.err, err, w.synced)
	var users []delivery.ID
	if tell {
		w.err = err
		users = l.users(w)
	}
	l.mu.Unlock()
	l.wake(users)
	return err
}

// differs tells whether the outcome of a request changes what is said about its watch. Before the first list any error counts,
// and only the list itself takes it back; later what is known stays so while the server cannot be reached, and only a
// refusal is told.
func differs(was, is error, synced bool) bool {
	switch {
	case is == nil:
		return synced && was != nil
	case synced:
		return was == nil && (apierrors.IsForbidden(is) || apierrors.IsUnauthorized(is))
	default:
		return was == nil
	}
}

// users are the apps that need a watch. The caller holds the lock.
func (l *Live) users(w *kindWatch) []delivery.ID {
	var out []delivery.ID
	for app, n := range l.needs {
		if slices.Contains(n.watches, w) {
			out = append(out, app)
		}
	}
	return out
}

func (l *Live) wake(apps []delivery.ID) {
	for _, app := range apps {
		l.opts.Notify(app, delivery.Ref{})
	}
}

// absence is how long the server's word that it does not know a kind is believed.
const absence = 2 * time.Second

// drop ends the watch of a kind that the cluster no longer has: all its objects are gone with it. Who needs the kind
// is woken once it makes sense to try again.
func (l *Live) drop(w *kindWatch) {
	l.mu.Lock()
	if l.watches[w.key] != w {
		l.mu.Unlock()
		return
	}
	gone := l.end(w)
	l.absent[w.key] = time.Now().Add(absence)
	users := l.users(w)
	for _, app := range users {
		l.needs[app].settled = false
	}
	l.mu.Unlock()
	if err := l.cluster.ForgetKinds(); err != nil {
		utilruntime.HandleError(err)
	}
	for ref, rec := range gone {
		l.tell(ref, rec.owner.Value())
	}
	time.AfterFunc(absence, func() { l.wake(users) })
}

// caughtUp marks a watch as complete and wakes the apps that wait for it.
func (l *Live) caughtUp(w *kindWatch) {
	l.mu.Lock()
	var users []delivery.ID
	if l.watches[w.key] == w && (!w.synced || w.err != nil) {
		w.synced, w.err = true, nil
		users = l.users(w)
	}
	l.mu.Unlock()
	l.wake(users)
}
