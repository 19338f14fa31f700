package controller

import (
	"sync"
	"time"

	"keelson.dev/keelson/internal/delivery"
)

// trickle wakes apps one after the other at a gentle rate, for what may be late: that their status names a commit that
// changed nothing for them. An app that is asked for again while it waits is woken once. It is safe for concurrent use.
type trickle struct {
	wake func(delivery.ID)

	mu      sync.Mutex
	waiting map[delivery.ID]bool
	order   []delivery.ID
}

// trickleStart lets what a commit does change go first; tricklePace is the pause between two apps.
const trickleStart, tricklePace = 50 * time.Millisecond, 10 * time.Millisecond

func newTrickle(wake func(delivery.ID)) *trickle {
	return &trickle{wake: wake, waiting: map[delivery.ID]bool{}}
}

func (t *trickle) add(ids []delivery.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	idle := len(t.order) == 0
	for _, id := range ids {
		if !t.waiting[id] {
			t.waiting[id] = true
			t.order = append(t.order, id)
		}
	}
	if idle && len(t.order) > 0 {
		time.AfterFunc(trickleStart, t.next)
	}
}

// next wakes the first app and comes back for the others.
func (t *trickle) next() {
	t.mu.Lock()
	id := t.order[0]
	t.order = t.order[1:]
	delete(t.waiting, id)
	if len(t.order) > 0 {
		time.AfterFunc(tricklePace, t.next)
	}
	t.mu.Unlock()
	t.wake(id)
}
