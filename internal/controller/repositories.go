package controller

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/client-go/util/workqueue"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/redact"
)

// repositories follows the sources that apps name themselves. Each is fetched once, however many want it, and for as long as
// somebody does. News of it wakes those that want it.
type repositories struct {
	follower
	queue workqueue.TypedDelayingInterface[delivery.ID]
	tell  func(source delivery.ID) // tells the apps that the registry knows to be made from a source
	later *trickle
	tidy  func() // removes the mirrors that no source needs

	mu     sync.Mutex
	wanted map[delivery.ID]*wanted       // by source
	wants  map[delivery.ID][]delivery.ID // user -> sources
}

// wanted is a source that somebody wants.
type wanted struct {
	src    delivery.Source
	gen    int64             // of src: another one is fetched at once
	last   delivery.Revision // that was used before this process began; zero: not known
	users  map[delivery.ID]bool
	failed bool                 // those that use it have been told that it cannot be fetched, though there is a snapshot
	asked  map[delivery.ID]bool // who waits for it to be looked at
}

const (
	// defaultInterval and defaultTimeout are those of a source that says nothing about it (Argo CD: timeout.reconciliation is
	// two minutes and up to one more).
	defaultInterval, defaultTimeout = 3 * time.Minute, 90 * time.Second
	// patientFailures is how often in a row a source is asked in vain before those who have a snapshot of it are told.
	patientFailures = 3
)

func newRepositories(f follower, tell func(delivery.ID), later *trickle, tidy func()) *repositories {
	r := &repositories{
		follower: f, tell: tell, later: later, tidy: tidy, queue: workqueue.NewTypedDelayingQueue[delivery.ID](),
		wanted: map[delivery.ID]*wanted{}, wants: map[delivery.ID][]delivery.ID{},
	}
	r.changed = r.inform
	return r
}

// want replaces what a user (an app, or what makes apps) follows; none: it follows nothing any more. Sources with the same id are the same one.
func (r *repositories) want(user delivery.ID, sources []delivery.Source) {
	r.mu.Lock()
	ids := make([]delivery.ID, 0, len(sources))
	var ask []delivery.ID
	for _, src := range sources {
		if src.Interval <= 0 {
			src.Interval = defaultInterval
		}
		if src.Timeout <= 0 {
			src.Timeout = defaultTimeout
		}
		w := r.wanted[src.ID]
		switch {
		case w == nil:
			w = &wanted{src: src, gen: 1, users: map[delivery.ID]bool{}}
			r.wanted[src.ID] = w
			ask = append(ask, src.ID)
		case !reflect.DeepEqual(w.src, src):
			w.src = src
			w.gen++
			ask = append(ask, src.ID)
		}
		w.users[user] = true
		if !slices.Contains(ids, src.ID) { // several sources of one app may be of one repository
			ids = append(ids, src.ID)
		}
	}
	dropped := false
	for _, id := range r.wants[user] {
		if slices.Contains(ids, id) {
			continue
		}
		w := r.wanted[id]
		if delete(w.users, user); len(w.users) == 0 {
			delete(r.wanted, id)
			r.reg.dropSource(id)
			dropped = true
		}
	}
	if r.wants[user] = ids; len(ids) == 0 {
		delete(r.wants, user)
	}
	r.mu.Unlock()
	for _, id := range ask {
		r.queue.Add(id)
	}
	if dropped {
		go r.tidy()
	}
}

// remember says which revision of a source was used before this process began: where its repository cannot be reached, it is
// still given if its mirror holds it.
func (r *repositories) remember(source delivery.ID, last delivery.Revision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.wanted[source]; w != nil && w.last.Commit == "" {
		w.last = last
	}
}

// refresh asks for a look at everything that a user wants, and wakes it when that has been had.
func (r *repositories) refresh(user delivery.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range r.wants[user] {
		w := r.wanted[id]
		if w.asked == nil {
			w.asked = map[delivery.ID]bool{}
		}
		w.asked[user] = true
		st := r.reg.source(id)
		r.reg.with(func() { st.again = true })
		r.queue.Add(id)
	}
}

// refreshed tells whether everything that a user wants was looked at since it asked for that.
func (r *repositories) refreshed(user delivery.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !slices.ContainsFunc(r.wants[user], func(id delivery.ID) bool { return r.wanted[id].asked[user] })
}

// looked wakes those who have asked for a look at a source, unless they did so while it was under way.
func (r *repositories) looked(id delivery.ID, st *sourceState) {
	again := false
	r.reg.with(func() { again = st.again })
	if again {
		return
	}
	r.mu.Lock()
	var users []delivery.ID
	if w := r.wanted[id]; w != nil {
		users = slices.Collect(maps.Keys(w.asked))
		w.asked = nil
	}
	r.mu.Unlock()
	for _, user := range users {
		r.wake(user)
	}
}

// snapshot gives a source's last good snapshot, its zero value before there is one; the error says why there is none, or why it
// may be old.
func (r *repositories) snapshot(id delivery.ID) (delivery.Snapshot, error) {
	snap, err := r.reg.snapshot(id)
	if snap.Revision.Commit == "" || err == nil {
		return snap, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.wanted[id]; w == nil || !w.failed {
		err = nil
	}
	return snap, err
}

// all gives id, tenant and URL of all sources: their mirrors are needed.
func (r *repositories) all() []delivery.Source {
	r.mu.Lock()
	defer r.mu.Unlock()
	sources := make([]delivery.Source, 0, len(r.wanted))
	for id, w := range r.wanted {
		sources = append(sources, delivery.Source{ID: id, Tenant: w.src.Tenant, URL: w.src.URL})
	}
	return sources
}

// Start implements [manager.Runnable]: steps wait for nothing, so one worker does.
func (r *repositories) Start(ctx context.Context) error {
	go func() {
		<-ctx.Done()
		r.queue.ShutDown()
	}()
	for {
		id, shutdown := r.queue.Get()
		if shutdown {
			return nil
		}
		r.step(id)
		r.queue.Done(id)
	}
}

// step takes in what a fetch has brought and begins another where one is due.
func (r *repositories) step(id delivery.ID) {
	r.mu.Lock()
	w := r.wanted[id]
	if w == nil {
		r.mu.Unlock()
		return
	}
	src, gen, last := w.src, w.gen, w.last
	st := r.reg.source(id)
	r.mu.Unlock()
	var result *fetchResult
	var running bool
	r.reg.with(func() {
		st.url = src.URL
		result, st.result = st.result, nil
		running = st.fetching
	})
	if running {
		return // its end asks for a step
	}
	if result != nil && sameSource(result.source, src) {
		r.takeIn(st, src, result)
		r.looked(id, st)
	}
	if wait := r.due(st, src, gen); wait > 0 {
		r.queue.AddAfter(id, wait)
		return
	}
	if r.distrusts(st, src) {
		r.news(id)
	}
	if last.Commit == "" {
		last = r.sources.Last(src)
	}
	r.fetch(st, src, gen, last, included{epoch: r.reg.epoch(id)})
}

// takeIn makes the result of a fetch known to those that want the source.
func (r *repositories) takeIn(st *sourceState, src delivery.Source, res *fetchResult) {
	r.took(st, src.ID, res)
	if res.err == nil {
		if r.fails(src.ID, false) {
			r.later.add(r.usersOf(src.ID))
		}
		return
	}
	f := delivery.FaultOf(res.err, sourcev1.GitOperationFailedReason)
	r.reg.with(func() { st.err = f })
	if st.failures == 1 {
		r.log.Warn("ask a repository", "url", redact.URL(src.URL), "error", redact.Text(f.Error()))
	}
	switch {
	case st.snapshot.Revision.Commit == "":
		r.news(src.ID) // those that want it wait in vain: let them say so
	case st.failures >= patientFailures && r.fails(src.ID, true):
		r.later.add(r.usersOf(src.ID))
	}
}

// fails notes whether those that have a snapshot of a source are to know that it cannot be fetched; news: they do not know yet.
func (r *repositories) fails(id delivery.ID, failed bool) (news bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.wanted[id]; w != nil && w.failed != failed {
		w.failed = failed
		return true
	}
	return false
}

func (r *repositories) usersOf(id delivery.ID) []delivery.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.wanted[id]; w != nil {
		return slices.Collect(maps.Keys(w.users))
	}
	return nil
}

// inform tells those that want a source that it has news: the apps made from it by way of the registry, which knows whom it
// concerns, and everybody else.
func (r *repositories) inform(id delivery.ID) {
	made := map[delivery.ID]bool{}
	for _, app := range r.reg.madeFrom(id) {
		made[app] = true
	}
	r.tell(id)
	for _, user := range r.usersOf(id) {
		if !made[user] {
			r.wake(user)
		}
	}
}
