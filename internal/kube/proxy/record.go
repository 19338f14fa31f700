package proxy

import (
	"container/list"
	"sync"
)

// maxRecorded is how many objects a [Record] knows. A job that writes more is no deployment that anybody could follow.
const maxRecorded = 4096

// Record keeps what a job has written: of each object the last write, the newest objects last, and at most 4096 of them. The zero value is
// empty; its Add is made for [Grant.OnWrite].
type Record struct {
	mu   sync.Mutex
	by   map[object]*list.Element
	list list.List // of Written
}

// object tells objects apart. An API version does not: one object is served in several.
type object struct{ group, resource, namespace, name string }

// Add takes in a write. What an answer does not say of an object, an earlier one of the same object has said.
func (r *Record) Add(w Written) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := object{w.Group, w.Resource, w.Namespace, w.Name}
	at := r.by[key]
	if at == nil {
		if r.by == nil {
			r.by = map[object]*list.Element{}
		}
		r.by[key] = r.list.PushBack(w)
		if r.list.Len() > maxRecorded {
			oldest, _ := r.list.Remove(r.list.Front()).(Written)
			delete(r.by, object{oldest.Group, oldest.Resource, oldest.Namespace, oldest.Name})
		}
		return
	}
	before, _ := at.Value.(Written)
	if before.Verb != "delete" {
		w.Created = w.Created || before.Created && w.Verb != "delete"
		if w.Kind == "" {
			w.Kind = before.Kind
		}
		if w.UID == "" {
			w.UID = before.UID
		}
	}
	at.Value = w
	r.list.MoveToBack(at)
}

// Written gives what was written so far.
func (r *Record) Written() []Written {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Written, 0, r.list.Len())
	for at := r.list.Front(); at != nil; at = at.Next() {
		if w, ok := at.Value.(Written); ok {
			out = append(out, w)
		}
	}
	return out
}
