package controller

import (
	"maps"
	"slices"
	"sync"
	"time"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/types"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/render"
)

// registry is what the controllers know of each other's sources and apps, in memory. It is safe for concurrent use;
// an appState or sourceState is changed only by the one worker that has its key, but for what its fields say.
type registry struct {
	mu        sync.Mutex
	sources   map[delivery.ID]*sourceState
	apps      map[delivery.ID]*appState
	bySource  map[delivery.ID]map[delivery.ID]bool // source -> apps made from it
	byDep     map[delivery.ID]map[delivery.ID]bool // app -> apps that depend on it
	conflicts map[delivery.ID]bool                 // apps that want an object of another's
	additive  bool                                 // a readyExpr comes on top of what is asked of every dependency
}

// sourceState is what is known of one source.
type sourceState struct {
	url      string
	include  []delivery.ID     // the sources it includes
	snapshot delivery.Snapshot // the last good one; the zero Revision: none yet
	since    time.Time         // when its commit became known
	fetching bool
	epoch    int          // see [registry.epoch]
	again    bool         // a push asks for a look
	fresh    bool         // the next fetch is because somebody has asked for it
	result   *fetchResult // to be taken in by the next step
	err      error        // of the last fetch; nil: it succeeded, or there was none
	failures int
	handled  string // the request that the running or last fetch answers
	asked    time.Time
	uid      types.UID // of the object that declares it
	gen      int64     // of the spec last fetched
	declared int64     // the generation of the spec last looked at
	included []*fluxmeta.Artifact
	reminder reminder
}

// fetchResult is what one exchange with a repository gave.
type fetchResult struct {
	source   delivery.Source
	snapshot delivery.Snapshot
	since    time.Time // when its commit became known
	included []*fluxmeta.Artifact
	err      error
}

// appState is what is known of one app.
type appState struct {
	app       delivery.App
	mem       deliver.Memory
	target    *target // the cluster that it is delivered to; nil: not known yet, or there is none
	aimed     string  // what the target was made of
	doubts    int     // steps in a row that ended because it was not clear whether the target can be reached
	loaded    bool    // mem.Inventory was read from the cluster
	keeps     bool    // what was rendered is kept for the next step
	failures  int
	stand     stand     // others look at it, and a new commit changes it: read and written with the registry locked
	since     time.Time // since when it could be delivered: it was declared then, or resumed
	handled   string    // the last request answered
	exprs     expressions
	looked    string    // what the app's right to see what it waits for was asked about last
	began     time.Time // when the attempt began that has not come to an outcome yet; zero: there is none
	unhealthy time.Time // since when the app waits for health; zero: it does not
	leaving   time.Time // since when its objects have been deleted and it waits for them to be gone; zero: it does not
	working   time.Time // since when it is under way without the status saying so; zero: it is not
	progress  string    // what was said last, by an event, about what it waits for
	awaits    time.Time // since when it waits for news of an app that it depends on; zero: it does not
	way       string    // what says how the other cluster is reached, for people: "Secret/far"

	asked     bool           // a person has asked for what is under way
	parted    bool           // that it was deleted was told
	deleted   []delivery.Ref // of its objects, since it is deleted itself
	recorded  bool           // a delivery was recorded since this process began
	masks     masks          // what must not be told of it
	reminder  reminder
	recording *recording // the delivery under way, or one that is not known to be healthy yet; nil: there is none
	parting   *recording // the delivery that its end is, of a HelmRelease; nil: it was not told yet

	helm *helmState // of a HelmRelease

	// Of an Application.
	op         *delivery.Operation     // under way; nil: none is
	last       *delivery.Operation     // that is over, or under way
	pin        *argocdv1.SyncOperation // what that is made from; nil: there was none
	told       time.Time               // when the status was written last for an operation under way
	untold     []event                 // that wait for the next writing of the status
	unsaid     bool                    // the status does not tell yet how the last operation ended
	mended     time.Time               // since when the status does not tell of a repair; zero: it tells of all
	failedSync string                  // why a sync has failed, as it was told; empty: none has since one succeeded
	seeded     bool                    // the revisions of a controller before this one were said
	refreshing bool                    // a person's refresh is under way
	summary    *summary                // of an Application; nil: not rendered in this process
	orphansAt  time.Time               // when it was looked for objects that nobody owns; zero: not yet
	orphaned   string                  // the warning about them
	charts     charts
}

// stand is how an app stands from the point of view of the others.
type stand struct {
	evaluated bool // a step has said so
	busy      bool // something else than what it was ready with is under way, or may be in the cluster in part
	ready     bool
	applied   delivery.Revision // the last revision that got ready, or that is known to change nothing for the app
	mounted   mounted           // what that is composed of, of an app of several sources
	inputs    render.Inputs     // of the last delivery that got ready
}

// mounted gives the revision of each of several sources.
type mounted map[delivery.ID]delivery.Revision

// at gives the revision of a source that an app stands at; false: it is not made from that.
func (s stand) at(app delivery.App, source delivery.ID) (delivery.Revision, bool) {
	if len(app.Mounts) == 0 {
		return s.applied, source == app.Source
	}
	rev, ok := s.mounted[source]
	return rev, ok
}

func newRegistry() *registry {
	return &registry{
		sources: map[delivery.ID]*sourceState{}, apps: map[delivery.ID]*appState{},
		bySource: map[delivery.ID]map[delivery.ID]bool{}, byDep: map[delivery.ID]map[delivery.ID]bool{},
		conflicts: map[delivery.ID]bool{},
	}
}

func (r *registry) source(id delivery.ID) *sourceState {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.sources[id]
	if !ok {
		s = &sourceState{}
		r.sources[id] = s
	}
	return s
}

// snapshot gives a source's last good snapshot, its zero value before there is one, and the error of the last fetch.
func (r *registry) snapshot(id delivery.ID) (delivery.Snapshot, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.sources[id]
	if !ok {
		return delivery.Snapshot{}, nil
	}
	return s.snapshot, s.err
}

// with runs f with the registry locked: for fields of a sourceState that a fetch running aside changes too.
func (r *registry) with(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *registry) dropSource(id delivery.ID) {
	r.with(func() { delete(r.sources, id) })
}

// sourcesWhere lists the sources whose URL matches.
func (r *registry) sourcesWhere(match func(url string) bool) []delivery.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []delivery.ID
	for id, s := range r.sources {
		if match(s.url) {
			ids = append(ids, id)
		}
	}
	return ids
}

// app gives an app's state and takes in its present declaration.
func (r *registry) app(app delivery.App) *appState {
	r.mu.Lock()
	defer r.mu.Unlock()
	st, ok := r.apps[app.ID]
	if !ok {
		st = &appState{}
		r.apps[app.ID] = st
	}
	r.unlink(app.ID, st.app)
	st.app = app
	for _, source := range madeOf(app) {
		link(r.bySource, source, app.ID)
	}
	for _, dep := range app.DependsOn {
		link(r.byDep, dep, app.ID)
	}
	return st
}

// releases gives the apps whose Helm release has a name, and its history in a namespace.
func (r *registry) releases(namespace, name string) (ids []delivery.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, st := range r.apps {
		if rel := st.app.Release; rel != nil && rel.StorageNamespace == namespace && rel.Name == name {
			ids = append(ids, id)
		}
	}
	return ids
}

// knows tells whether an app has been looked at.
func (r *registry) knows(id delivery.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.apps[id]
	return ok
}

// uid is that of an app's declaration; empty: the app is not known.
func (r *registry) uid(id delivery.ID) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if st, ok := r.apps[id]; ok {
		return st.app.UID
	}
	return ""
}

// dropApp forgets an app and gives what was known of it; nil: nothing was.
func (r *registry) dropApp(id delivery.ID) *appState {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.apps[id]
	if st != nil {
		r.unlink(id, st.app)
	}
	delete(r.apps, id)
	delete(r.conflicts, id)
	return st
}

func (r *registry) unlink(id delivery.ID, app delivery.App) {
	for _, source := range madeOf(app) {
		unlink(r.bySource, source, id)
	}
	for _, dep := range app.DependsOn {
		unlink(r.byDep, dep, id)
	}
}

// madeOf lists the sources that an app is made from.
func madeOf(app delivery.App) []delivery.ID {
	if len(app.Mounts) == 0 {
		return []delivery.ID{app.Source}
	}
	ids := make([]delivery.ID, len(app.Mounts))
	for i, m := range app.Mounts {
		ids[i] = m.Source
	}
	return ids
}

func unlink(index map[delivery.ID]map[delivery.ID]bool, from, to delivery.ID) {
	delete(index[from], to)
	if len(index[from]) == 0 {
		delete(index, from)
	}
}

func link(index map[delivery.ID]map[delivery.ID]bool, from, to delivery.ID) {
	if index[from] == nil {
		index[from] = map[delivery.ID]bool{}
	}
	index[from][to] = true
}

// madeFrom lists the apps made from a source, dependents those that depend on an app.
func (r *registry) madeFrom(source delivery.ID) []delivery.ID { return r.listed(r.bySource, source) }
func (r *registry) dependents(app delivery.ID) []delivery.ID  { return r.listed(r.byDep, app) }

func (r *registry) listed(index map[delivery.ID]map[delivery.ID]bool, key delivery.ID) []delivery.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(index[key]))
}

// begin notes that an app is about to be made of something else than what it stands for, until it settles.
func (r *registry) begin(id delivery.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if st, ok := r.apps[id]; ok {
		st.stand.busy = true
	}
}

// settle notes how an app stands after a step, and tells whether that is news.
func (r *registry) settle(id delivery.ID, s stand) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	st, ok := r.apps[id]
	if !ok {
		return false
	}
	old := st.stand
	s.evaluated = true
	st.stand = s
	return !old.evaluated || old.busy != s.busy || old.ready != s.ready || old.applied != s.applied || !maps.Equal(old.mounted, s.mounted)
}

// standOf tells how an app stands.
func (r *registry) standOf(id delivery.ID) stand {
	r.mu.Lock()
	defer r.mu.Unlock()
	if st, ok := r.apps[id]; ok {
		return st.stand
	}
	return stand{}
}

// advance takes in a new snapshot of a source for the apps that are ready and that it changes nothing for: they stand at
// its revision at once, and only their status remains to be written. It returns them, and those that have to look at it:
// these are busy until they have.
func (r *registry) advance(source delivery.ID, snap delivery.Snapshot) (untouched, touched []delivery.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	done := map[delivery.ID]bool{} // visited; true: it stands at the new revision
	var visit func(id delivery.ID) bool
	visit = func(id delivery.ID) bool {
		if at, ok := done[id]; ok {
			return at
		}
		done[id] = false // while it is being visited: apps that depend on each other do not advance
		st, ok := r.apps[id]
		if !ok || !st.stand.ready || st.stand.busy {
			return false
		}
		if st.app.Source != source && !slices.Contains(madeOf(st.app), source) {
			done[id] = true
			return true
		}
		if len(st.app.Mounts) > 0 { // what it is made of has to be composed first
			return false
		}
		for _, dep := range st.app.DependsOn {
			if st.app.ReadyExprs[dep] != "" || !visit(dep) { // an expression may see the revision
				return false
			}
		}
		same, err := st.stand.inputs.Same(snap)
		done[id] = err == nil && same && !st.app.Suspend
		return done[id]
	}
	for id := range r.bySource[source] {
		if !visit(id) {
			touched = append(touched, id)
			r.apps[id].stand.busy = true
			continue
		}
		r.apps[id].stand.applied = snap.Revision
		untouched = append(untouched, id)
	}
	return untouched, touched
}

// setConflict notes whether an app waits for another to let go of an object.
func (r *registry) setConflict(id delivery.ID, waits bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if waits {
		r.conflicts[id] = true
		return
	}
	delete(r.conflicts, id)
}

func (r *registry) conflicted() []delivery.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.conflicts))
}

// standing is how an app stands from the point of view of one that depends on it.
type standing int

const (
	standsReady standing = iota
	standsUnready
	standsBusy    // a delivery is under way; it wakes its dependents at the end
	standsUnknown // no step has looked at it yet in this process, or at the new revision; it wakes its dependents then
)

// unready gives the first dependency of an app that is not ready, and why. Of the sources that they share, a dependency has to be at the
// same revisions as the app is to be.
func (r *registry) unready(app delivery.App, to stand) (dep delivery.ID, why string, s standing) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range app.DependsOn {
		if r.saysItself(app, id) {
			continue
		}
		st, ok := r.apps[id]
		elsewhere := ok && slices.ContainsFunc(madeOf(app), func(source delivery.ID) bool {
			want, _ := to.at(app, source)
			is, shared := st.stand.at(st.app, source)
			return shared && is != want
		})
		switch {
		case r.reaches(id, app.ID, map[delivery.ID]bool{}):
			return id, "it depends on this app in turn", standsUnready
		case !ok || !st.stand.evaluated:
			return id, "", standsUnknown
		case st.stand.busy:
			return id, "", standsBusy
		case !st.stand.ready:
			return id, "it is not ready", standsUnready
		case elsewhere && st.app.Suspend:
			return id, "it is suspended at " + st.stand.applied.Short(), standsUnready
		case elsewhere:
			return id, "", standsUnknown
		}
	}
	return delivery.ID{}, "", standsReady
}

// reaches tells whether one app depends on another, directly or not.
func (r *registry) reaches(from, to delivery.ID, seen map[delivery.ID]bool) bool {
	if from == to {
		return true
	}
	if seen[from] {
		return false
	}
	seen[from] = true
	st, ok := r.apps[from]
	return ok && slices.ContainsFunc(st.app.DependsOn, func(dep delivery.ID) bool {
		return !r.saysItself(st.app, dep) && r.reaches(dep, to, seen)
	})
}

// saysItself tells whether nothing but its readyExpr decides about a dependency (Flux: AdditiveCELDependencyCheck).
func (r *registry) saysItself(app delivery.App, dep delivery.ID) bool {
	return app.ReadyExprs[dep] != "" && !r.additive
}

// asks tells whether an app has a readyExpr, askers lists the apps that have one about it.
func (r *registry) asks(id delivery.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	st, ok := r.apps[id]
	return ok && len(st.app.ReadyExprs) > 0
}

func (r *registry) askers(id delivery.ID) []delivery.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []delivery.ID
	for by := range r.byDep[id] {
		if st, ok := r.apps[by]; ok && st.app.ReadyExprs[id] != "" {
			out = append(out, by)
		}
	}
	return out
}
