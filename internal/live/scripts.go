package live

import (
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/health"
)

// scripts are the questions to health scripts: what waits for its turn, at most once for each object, in the order in which it came.
type scripts struct {
	queue   []delivery.Ref
	asked   map[delivery.Ref]*asked
	asking  map[delivery.Ref]bool // a script is being asked about: not twice at a time, else an old answer might come last
	askers  int
	unknown map[delivery.ID]int // apps with objects of which a script has not told yet how they are doing
	paused  map[delivery.Ref]*asked
	wakes   *time.Timer // when one of those that are paused is asked again
	held    int         // objects that wait in memory; others are read when it is their turn
}

const (
	maxAskers = 2
	maxHeld   = 1000
	// rereadPause is after how long an object is read again that could not be read.
	rereadPause = 10 * time.Second
)

// asked is an object that a script is asked about.
type asked struct {
	object     *unstructured.Unstructured // nil: it is read first
	version    string
	rules      *health.Rules
	owner      delivery.ID
	uid        string
	generation int64
	first      bool // the app waits for it
	retry      bool // the script was stopped before
}

// notAsked is the health of what no script has been asked about yet.
var notAsked = delivery.Health{Status: delivery.Progressing, Message: "its health script has not been asked yet"}

// health is how an object is doing by the rules of the app that owns it, or what a script has to be asked.
func (l *Live) health(owner delivery.ID, u *unstructured.Unstructured) (delivery.Health, *asked) {
	l.mu.RLock()
	rules := l.rulesOf(owner)
	l.mu.RUnlock()
	h, known := rules.Quick(u)
	if known {
		return health.Brief(u, h), nil
	}
	return notAsked, &asked{
		object: u, version: u.GroupVersionKind().Version, rules: rules, owner: owner, uid: string(u.GetUID()), generation: u.GetGeneration(),
	}
}

// ask has a script asked about an object that is about to be kept. What was known of it counts until then, if it is still the same
// declaration. The caller holds the lock.
func (l *Live) ask(ref delivery.Ref, old, rec *record) {
	a := rec.asks
	rec.asks = nil
	if old != nil && !rec.unjudged && old.uid == rec.uid && old.version == rec.version && old.resourceVersion == rec.resourceVersion {
		rec.health, rec.unjudged = old.health, old.unjudged // it has been asked about: the answer to a write came after its event
		return
	}
	if old != nil && !old.unjudged && !rec.unjudged && old.uid == rec.uid && old.generation == rec.generation && old.owned == rec.owned {
		rec.health = old.health
	} else {
		rec.unjudged, a.first = true, true
	}
	l.enqueue(ref, a)
}

// enqueue has an object wait for its turn, in place of what waits of it already. The caller holds the lock.
func (l *Live) enqueue(ref delivery.Ref, a *asked) {
	s := &l.scripts
	delete(s.paused, ref)
	if before := s.asked[ref]; before != nil {
		l.told(before)
	} else {
		s.queue = append(s.queue, ref)
		if len(s.queue) > s.held {
			a.object = nil
		}
	}
	s.asked[ref] = a
	if a.first {
		s.unknown[a.owner]++
	}
	if s.askers < maxAskers {
		s.askers++
		go l.askAll()
	}
}

// told notes that an app no longer waits for an answer, and tells whether it waits for none. The caller holds the lock.
func (l *Live) told(a *asked) bool {
	if !a.first {
		return false
	}
	if l.scripts.unknown[a.owner]--; l.scripts.unknown[a.owner] > 0 {
		return false
	}
	delete(l.scripts.unknown, a.owner)
	return true
}

// askAll asks about one object after the other until none waits.
func (l *Live) askAll() {
	for {
		l.mu.Lock()
		s := &l.scripts
		i := slices.IndexFunc(s.queue, func(ref delivery.Ref) bool { return !s.asking[ref] })
		if i < 0 || l.ctx.Err() != nil { // who asks about what waits goes on with it
			s.askers--
			l.mu.Unlock()
			return
		}
		ref := s.queue[i]
		s.queue = slices.Delete(s.queue, i, i+1)
		a := s.asked[ref]
		delete(s.asked, ref)
		s.asking[ref] = true
		l.mu.Unlock()
		l.answered(ref, a, l.answer(ref, a))
		l.mu.Lock()
		delete(s.asking, ref)
		l.mu.Unlock()
	}
}

// answer asks about an object, which may have to be read.
func (l *Live) answer(ref delivery.Ref, a *asked) delivery.HealthVerdict {
	if a.object == nil {
		u, err := l.read(ref, a.version)
		if err != nil {
			if !apierrors.IsNotFound(err) && l.ctx.Err() == nil { // its watch tells
				utilruntime.HandleError(err)
			}
			return delivery.HealthVerdict{Health: delivery.Health{Status: delivery.UnknownHealth, Message: "it cannot be read"}, Again: rereadPause}
		}
		a.object, a.uid, a.generation = u, string(u.GetUID()), u.GetGeneration()
	}
	v := a.rules.Ask(a.object)
	v.Health = health.Brief(a.object, v.Health)
	return v
}

func (l *Live) read(ref delivery.Ref, version string) (*unstructured.Unstructured, error) {
	resource, err := l.cluster.Self().ResourceOf(ref, version)
	if err != nil {
		return nil, err
	}
	return resource.Get(l.ctx, ref.Name, metav1.GetOptions{})
}

// answered keeps what a script says of an object, if that is still the one it was asked about, and tells the app.
func (l *Live) answered(ref delivery.Ref, a *asked, v delivery.HealthVerdict) {
	l.mu.Lock()
	rec, had := l.records[ref.GroupKind()][nameOf(ref)]
	changed := false
	if had && rec.uid == a.uid && rec.generation == a.generation {
		next := *rec // records are never changed: who compares two may hold one
		next.health, next.unjudged = v.Health, false
		changed = rec.health != next.health
		l.records[ref.GroupKind()][nameOf(ref)] = &next
		if v.Again > 0 {
			l.pause(ref, a, v.Again)
		} else if a.retry {
			l.resume()
		}
	}
	known := l.told(a)
	l.mu.Unlock()
	if changed || known {
		l.tell(ref, a.owner)
	}
}

// pause has a script that was stopped asked about an object once more, after a while. The caller holds the lock.
func (l *Live) pause(ref delivery.Ref, a *asked, after time.Duration) {
	s := &l.scripts
	if s.asked[ref] != nil {
		return // it is about to be asked
	}
	s.paused[ref] = &asked{version: a.version, rules: a.rules, owner: a.owner, retry: true}
	if s.wakes == nil {
		s.wakes = time.AfterFunc(after, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			s.wakes = nil
			for ref, a := range s.paused { // any: the others follow once a script is not stopped any more
				l.enqueue(ref, a)
				return
			}
		})
	}
}

// resume has scripts asked about all objects that they were stopped for. The caller holds the lock.
func (l *Live) resume() {
	for _, ref := range slices.Collect(maps.Keys(l.scripts.paused)) {
		l.enqueue(ref, l.scripts.paused[ref])
	}
}
