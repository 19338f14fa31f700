package live

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/delivery"
)

// scalerStore remembers which objects an autoscaler targets.
type scalerStore struct {
	live  *Live
	watch *kindWatch
}

func (s *scalerStore) Add(obj any) error    { return s.put(obj) }
func (s *scalerStore) Update(obj any) error { return s.put(obj) }
func (s *scalerStore) Resync() error        { return nil }

// put takes in an event. An autoscaler's status changes all the time, its target hardly ever.
func (s *scalerStore) put(obj any) error {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("watch autoscalers: unexpected %T", obj)
	}
	key := u.GetNamespace() + "/" + u.GetName()
	target, _ := ScaleTarget(u)
	s.live.mu.RLock()
	same := s.live.scalers[key] == target
	s.live.mu.RUnlock()
	if !same {
		s.change(func() { s.set(u) })
	}
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
	s.live.caughtUp(s.watch)
	return nil
}

func (s *scalerStore) set(u *unstructured.Unstructured) {
	key := u.GetNamespace() + "/" + u.GetName()
	delete(s.live.scalers, key)
	if target, ok := ScaleTarget(u); ok {
		s.live.scalers[key] = target
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
	if s.live.watches[s.watch.key] != s.watch {
		s.live.mu.Unlock()
		return // stopped
	}
	before := s.live.scaled
	f()
	after := make(map[delivery.Ref]string, len(s.live.scalers))
	for key, target := range s.live.scalers {
		after[target] = max(after[target], "HorizontalPodAutoscaler/"+key)
	}
	s.live.scaled = after
	wake := map[delivery.Ref]delivery.ID{}
	for _, pair := range [][2]map[delivery.Ref]string{{before, after}, {after, before}} {
		for ref := range pair[0] {
			if rec, ok := s.live.records[ref.GroupKind()][nameOf(ref)]; ok && pair[1][ref] == "" {
				wake[ref] = rec.owner.Value()
			}
		}
	}
	s.live.mu.Unlock()
	for ref, owner := range wake {
		s.live.tell(ref, owner)
	}
}
