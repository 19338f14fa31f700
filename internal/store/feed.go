package store

import (
	"context"
	"sync"
)

// Change tells that something is not as it was; who shows it reads it again.
type Change struct {
	Seq      int64  `json:"seq"`
	Kind     string `json:"kind"`               // pipeline, job, environment, deployment, delivery, repair or command
	ID       int64  `json:"id"`                 // of what has changed
	Project  int64  `json:"project"`            //
	Pipeline int64  `json:"pipeline,omitempty"` // of a job, a deployment or a command
	Status   string `json:"status,omitempty"`   // what it is now
	Gone     bool   `json:"gone,omitempty"`     // it was deleted
}

// feedSize is how many changes are remembered: a quarter of a minute at 1000 a second, for pages that lose their connection.
const feedSize = 1 << 14

// feed remembers the last changes. Each process has numbers of its own, so that one that another process gave is known as too old.
type feed struct {
	mu    sync.RWMutex
	ring  []Change
	first int64 // the number of the oldest that is remembered, if there is one
	next  int64
	more  signal
}

// begin takes the number of a start: 2³² changes for each, and JavaScript counts two million starts exactly.
func (f *feed) begin(start int64) {
	f.ring = make([]Change, feedSize)
	f.next = start << 32
	f.first = f.next // none yet
}

func (f *feed) add(changes []Change) {
	if len(changes) == 0 {
		return
	}
	f.mu.Lock()
	for _, c := range changes {
		c.Seq = f.next
		if f.next++; f.next-f.first > feedSize {
			f.first++
		}
		f.ring[c.Seq%feedSize] = c
	}
	f.mu.Unlock()
	f.more.wake()
}

// after gives at most limit changes after a number.
func (f *feed) after(seq int64, limit int) ([]Change, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if seq < f.first-1 || seq >= f.next {
		return nil, ErrTooOld
	}
	n := min(int(f.next-seq-1), limit)
	out := make([]Change, n)
	for i := range out {
		out[i] = f.ring[(seq+1+int64(i))%feedSize]
	}
	return out, nil
}

// signal wakes everybody who waits. Who waits takes the channel first, then looks, and waits when there was nothing.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

func (s *signal) waits() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

// wait waits until woken, until ctx ends, or until the store is closed.
func (db *DB) wait(ctx context.Context, woken <-chan struct{}) error {
	select {
	case <-woken:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-db.closed:
		return ErrClosed
	}
}

// Seq is the number of the last change. Who reads something and then asks for the [DB.Changes] after the number from before it
// misses nothing.
func (db *DB) Seq() int64 {
	db.feed.mu.RLock()
	defer db.feed.mu.RUnlock()
	return db.feed.next - 1
}

// changesMax is how many changes are told at once.
const changesMax = 1000

// Changes waits until there are changes after a number and gives them, at most 1000. The error is [ErrTooOld] where some of them
// are not remembered any more, as after a restart: take [DB.Seq] and read everything again.
func (db *DB) Changes(ctx context.Context, after int64) ([]Change, error) {
	for {
		woken := db.feed.more.waits()
		changes, err := db.feed.after(after, changesMax)
		if err != nil || len(changes) > 0 {
			return changes, err
		}
		if err := db.wait(ctx, woken); err != nil {
			return nil, err
		}
	}
}
