package live

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/delivery"
)

// objectStore is where the reflector of one kind puts what it sees: a record each, never the object. Where a kind is watched
// in several versions, an object is recorded from the version that we applied it in: hashes of two versions differ.
type objectStore struct {
	live *Live
	kind schema.GroupVersionKind
}

func (s *objectStore) Add(obj any) error    { return s.put(obj) }
func (s *objectStore) Update(obj any) error { return s.put(obj) }
func (s *objectStore) Resync() error        { return nil }

func (s *objectStore) put(obj any) error {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("watch %s: unexpected %T", s.kind, obj)
	}
	rec, applied, err := s.live.record(u)
	if err != nil {
		return err
	}
	if applied != "" && applied != s.kind.Version {
		return nil
	}
	s.live.mu.Lock()
	old, had := s.live.objects[rec.Ref]
	if had && newer(old.ResourceVersion, rec.ResourceVersion) {
		s.live.mu.Unlock()
		return nil // an answer to one of our own writes was here first
	}
	s.live.objects[rec.Ref] = rec
	s.live.mu.Unlock()
	if !had || matters(old, rec) {
		s.tell(rec.Ref, old.Owner, rec.Owner)
	}
	return nil
}

func (s *objectStore) Delete(obj any) error {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return nil // a tombstone without the object: the relist that follows says the same
	}
	ref := delivery.RefOf(u)
	s.live.mu.Lock()
	old, had := s.live.objects[ref]
	if !had || newer(old.ResourceVersion, u.GetResourceVersion()) {
		s.live.mu.Unlock()
		return nil
	}
	delete(s.live.objects, ref)
	s.live.mu.Unlock()
	s.tell(ref, old.Owner)
	return nil
}

// Replace takes in a whole list: at the start of a watch and whenever it had to begin anew.
func (s *objectStore) Replace(list []any, version string) error {
	records := make([]delivery.Live, 0, len(list))
	for _, obj := range list {
		u, ok := obj.(*unstructured.Unstructured)
		if !ok {
			return fmt.Errorf("list %s: unexpected %T", s.kind, obj)
		}
		rec, applied, err := s.live.record(u)
		if err != nil {
			return err
		}
		if applied != "" && applied != s.kind.Version {
			continue
		}
		records = append(records, rec)
	}
	s.replace(records, version)
	s.live.caughtUp(s.kind)
	return nil
}

// replace makes the records of the kind those of a list taken at a resource version. A record that is newer than the
// list, of an object that we made meanwhile, stays.
func (s *objectStore) replace(records []delivery.Live, version string) {
	type change struct {
		ref    delivery.Ref
		owners [2]delivery.ID
	}
	var changes []change
	s.live.mu.Lock()
	seen := make(map[delivery.Ref]bool, len(records))
	for _, rec := range records {
		seen[rec.Ref] = true
		old, had := s.live.objects[rec.Ref]
		if had && newer(old.ResourceVersion, rec.ResourceVersion) {
			continue
		}
		s.live.objects[rec.Ref] = rec
		if !had || matters(old, rec) {
			changes = append(changes, change{rec.Ref, [2]delivery.ID{old.Owner, rec.Owner}})
		}
	}
	for ref, old := range s.live.objects {
		if ref.GroupKind() == s.kind.GroupKind() && old.Version == s.kind.Version && !seen[ref] && !newer(old.ResourceVersion, version) {
			delete(s.live.objects, ref)
			changes = append(changes, change{ref, [2]delivery.ID{old.Owner}})
		}
	}
	s.live.mu.Unlock()
	for _, c := range changes {
		s.tell(c.ref, c.owners[:]...)
	}
}

// tell wakes the apps that an object belongs or belonged to.
func (s *objectStore) tell(ref delivery.Ref, owners ...delivery.ID) {
	var last delivery.ID
	for _, owner := range owners {
		if owner != (delivery.ID{}) && owner != last {
			s.live.opts.Notify(owner, ref)
			last = owner
		}
	}
}

// caughtUp marks a watch as complete and wakes the apps that wait for it.
func (l *Live) caughtUp(key schema.GroupVersionKind) {
	l.mu.Lock()
	var waiting map[delivery.ID]bool
	if w, ok := l.kinds[key]; ok && !w.synced {
		w.synced, w.err = true, nil
		waiting, w.waiting = w.waiting, map[delivery.ID]bool{}
	}
	l.mu.Unlock()
	for app := range waiting {
		l.opts.Notify(app, delivery.Ref{})
	}
}

// scalerStore remembers which objects an autoscaler targets.
type scalerStore struct{ live *Live }

func (s *scalerStore) Add(obj any) error    { return s.put(obj) }
func (s *scalerStore) Update(obj any) error { return s.put(obj) }
func (s *scalerStore) Resync() error        { return nil }

func (s *scalerStore) put(obj any) error {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("watch autoscalers: unexpected %T", obj)
	}
	s.change(func() { s.set(u) })
	return nil
}

func (s *scalerStore) Delete(obj any) error {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		s.change(func() { delete(s.live.scalers, u.GetNamespace()+"/"+u.GetName()) })
	}
	return nil
}

func (s *scalerStore) Replace(list []any, _ string) error {
	s.change(func() {
		clear(s.live.scalers)
		for _, obj := range list {
			if u, ok := obj.(*unstructured.Unstructured); ok {
				s.set(u)
			}
		}
	})
	s.live.caughtUp(scalerWatch)
	return nil
}

func (s *scalerStore) set(u *unstructured.Unstructured) {
	if target, ok := ScaleTarget(u); ok {
		s.live.scalers[u.GetNamespace()+"/"+u.GetName()] = target
	}
}

// ScaleTarget gives the object that a HorizontalPodAutoscaler scales.
func ScaleTarget(hpa *unstructured.Unstructured) (delivery.Ref, bool) {
	get := func(field string) string {
		v, _, _ := unstructured.NestedString(hpa.Object, "spec", "scaleTargetRef", field)
		return v
	}
	gv, err := schema.ParseGroupVersion(get("apiVersion"))
	if err != nil || get("kind") == "" {
		return delivery.Ref{}, false
	}
	return delivery.Ref{Group: gv.Group, Kind: get("kind"), Namespace: hpa.GetNamespace(), Name: get("name")}, true
}

// change applies f to the autoscalers and wakes the owners of the objects that it made a difference to.
func (s *scalerStore) change(f func()) {
	s.live.mu.Lock()
	before := s.live.scaled
	f()
	after := make(map[delivery.Ref]string, len(s.live.scalers))
	for key, target := range s.live.scalers {
		after[target] = "HorizontalPodAutoscaler/" + key
	}
	s.live.scaled = after
	var wake []delivery.Live
	for _, pair := range [][2]map[delivery.Ref]string{{before, after}, {after, before}} {
		for ref := range pair[0] {
			if rec, ok := s.live.objects[ref]; ok && pair[1][ref] == "" {
				wake = append(wake, rec)
			}
		}
	}
	s.live.mu.Unlock()
	for _, rec := range wake {
		if rec.Owner != (delivery.ID{}) {
			s.live.opts.Notify(rec.Owner, rec.Ref)
		}
	}
}
