package live

import (
	"context"
	"fmt"
	"maps"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/health"
)

// objectStore is where the reflector of one kind puts what it sees: a record each, never the object. Where a kind is watched
// in several versions, an object is recorded from the version that we applied it in: hashes of two versions differ.
type objectStore struct {
	live  *Live
	watch *kindWatch
	ctx   context.Context //nolint:containedctx // the life of the reflector: one that was cancelled has no say
}

// stopped tells whether another reflector, or none, has taken the place of this one. The caller holds the lock.
func (s *objectStore) stopped() bool {
	return s.ctx.Err() != nil || s.live.watches[s.watch.key] != s.watch
}

func (s *objectStore) Add(obj any) error    { return s.put(obj) }
func (s *objectStore) Update(obj any) error { return s.put(obj) }
func (s *objectStore) Resync() error        { return nil }

// put takes in an event. One that tells of a resource version that is known already, because it is the answer to a write
// of ours, or of an older one, is passed over before anything is hashed.
func (s *objectStore) put(obj any) error {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("watch %s: unexpected %T", s.watch.kind, obj)
	}
	ref := delivery.RefOf(u)
	if s.knows(ref, u.GetResourceVersion()) {
		return nil
	}
	rec, err := s.live.record(u)
	if err != nil {
		return err
	}
	s.live.mu.Lock()
	old, changed := s.take(ref, rec)
	s.live.mu.Unlock()
	if changed {
		s.live.tell(ref, owners(old, rec)...)
	}
	return nil
}

// knows tells whether the record of an object is of this watch, and of this resource version or a later one.
func (s *objectStore) knows(ref delivery.Ref, resourceVersion string) bool {
	s.live.mu.RLock()
	defer s.live.mu.RUnlock()
	old, had := s.live.records[ref.GroupKind()][nameOf(ref)]
	return had && old.version.Value() == s.watch.key.Version && (old.resourceVersion == resourceVersion || newer(old.resourceVersion, resourceVersion))
}

// take keeps a record, unless there is a later one or another watch has the say over the object, and tells whether the change
// matters to the owners of the two. The caller holds the lock.
func (s *objectStore) take(ref delivery.Ref, rec *record) (old *record, matter bool) {
	if s.stopped() {
		return nil, false
	}
	key := s.watch.key
	if v := rec.applied.Value(); v != "" && v != key.Version {
		if other := s.live.watches[key.GroupKind().WithVersion(v)]; other != nil && other.synced {
			return nil, false
		}
	}
	old, had := s.live.records[ref.GroupKind()][nameOf(ref)]
	if had && newer(old.resourceVersion, rec.resourceVersion) {
		return nil, false
	}
	s.live.keep(ref, rec)
	return old, !had || matters(old, rec)
}

func (s *objectStore) Delete(obj any) error {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("watch %s: unexpected %T", s.watch.kind, obj)
	}
	ref := delivery.RefOf(u)
	s.live.mu.Lock()
	s.watch.left(u.GetResourceVersion())
	records := s.live.records[ref.GroupKind()]
	old, had := records[nameOf(ref)]
	gone := had && !s.stopped() && !newer(old.resourceVersion, u.GetResourceVersion())
	if gone {
		delete(records, nameOf(ref))
		s.live.went(ref, old.fleeting, old.done || health.Done(u))
	}
	s.live.mu.Unlock()
	if gone {
		s.live.tell(ref, old.owner.Value())
	}
	return nil
}

// left notes that all that left the watch up to a resource version is known to have left. The caller holds the lock.
func (w *kindWatch) left(resourceVersion string) {
	if w.seen == "" || newer(resourceVersion, w.seen) {
		w.seen = resourceVersion
	}
}

// listed is what is left of an object of a list.
type listed struct {
	ref delivery.Ref
	rec *record // nil: the record that is kept says the same
}

// Transformer has the objects of a list hashed and dropped one by one as they come in, rather than when all are there.
func (s *objectStore) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		if item, err := s.listed(obj); err == nil {
			return item, nil
		}
		return obj, nil // Replace tells of it: what is refused here would only be missing from the list
	}
}

func (s *objectStore) listed(obj any) (listed, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return listed{}, fmt.Errorf("list %s: unexpected %T", s.watch.kind, obj)
	}
	item := listed{ref: delivery.RefOf(u)}
	if s.knows(item.ref, u.GetResourceVersion()) {
		return item, nil
	}
	var err error
	item.rec, err = s.live.record(u)
	return item, err
}

// Replace takes in a whole list: at the start of a watch and whenever it had to begin anew. A record that is newer than
// the list, of an object that we made meanwhile, stays.
func (s *objectStore) Replace(list []any, version string) error {
	fresh := make(map[delivery.Ref]*record, len(list))
	for _, obj := range list {
		item, done := obj.(listed)
		if !done {
			var err error
			if item, err = s.listed(obj); err != nil {
				return err
			}
		}
		fresh[item.ref] = item.rec
	}
	if s.wentBack(version) {
		return fmt.Errorf("list %s: it is of resource version %s, and later ones were seen; listing again", s.watch.kind, version)
	}
	for ref, owners := range s.replace(fresh, version) {
		s.live.tell(ref, owners...)
	}
	s.live.caughtUp(s.watch)
	return nil
}

// wentBack tells whether the server's store was put back to an earlier state since the last list. What is known is of no use
// then: resource versions no longer tell what is newer.
func (s *objectStore) wentBack(version string) bool {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	if s.stopped() || s.watch.seen == "" || !newer(s.watch.seen, version) {
		return false
	}
	s.watch.seen, s.watch.synced = "", false
	records := s.live.records[s.watch.key.GroupKind()]
	maps.DeleteFunc(records, func(_ name, rec *record) bool { return rec.version.Value() == s.watch.key.Version })
	return true
}

// replace makes the records of the watch those of a list taken at a resource version, and gives the objects to tell of, and
// whom.
func (s *objectStore) replace(fresh map[delivery.Ref]*record, version string) map[delivery.Ref][]delivery.ID {
	changes := map[delivery.Ref][]delivery.ID{}
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	if s.stopped() {
		return nil
	}
	s.watch.left(version)
	for ref, rec := range fresh {
		if rec == nil {
			continue
		}
		if old, changed := s.take(ref, rec); changed {
			changes[ref] = owners(old, rec)
		}
	}
	kind := s.watch.key.GroupKind()
	for key, old := range s.live.records[kind] {
		ref := refOf(kind, key)
		_, listed := fresh[ref]
		if !listed && old.version.Value() == s.watch.key.Version && !newer(old.resourceVersion, version) {
			delete(s.live.records[kind], key)
			s.live.went(ref, old.fleeting, old.done)
			changes[ref] = owners(old)
		}
	}
	return changes
}

func refOf(gk schema.GroupKind, key name) delivery.Ref {
	return delivery.Ref{Group: gk.Group, Kind: gk.Kind, Namespace: key.namespace.Value(), Name: key.name}
}

// owners are the apps that records name; one may be nil.
func owners(records ...*record) []delivery.ID {
	var out []delivery.ID
	for _, rec := range records {
		if rec != nil {
			out = append(out, rec.owner.Value())
		}
	}
	return out
}

// tell wakes the apps that an object belongs or belonged to.
func (l *Live) tell(ref delivery.Ref, owners ...delivery.ID) {
	var last delivery.ID
	for _, owner := range owners {
		if owner != (delivery.ID{}) && owner != last {
			l.opts.Notify(owner, ref)
			last = owner
		}
	}
}
