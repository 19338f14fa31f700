package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"keelson.dev/keelson/internal/store"
)

// EventApp is the event of a stream that tells of an app: its data is an [AppChange].
const EventApp = "app"

// AppChange tells that an app is not as it was; who shows it reads it again.
type AppChange struct {
	Kind     string `json:"kind"` // EventApp
	ID       string `json:"id"`   // "Kustomization/flux-system/dev"
	State    State  `json:"state,omitempty"`
	Revision string `json:"revision,omitempty"`
	Gone     bool   `json:"gone,omitempty"` // it was deleted
}

// feedSize is how many changes are remembered: a quarter of a minute at 1000 a second, for pages that lose their connection.
const feedSize = 1 << 14

// Feed remembers the last changes of all that pages show, each as the text that is sent: however many follow it, a change is encoded
// once, and of several changes of one thing only the last is told. Nothing is queued for anybody. It is safe for concurrent use.
type Feed struct {
	mu     sync.RWMutex
	ring   []news
	first  int64 // the number of the oldest that is remembered, if there is one
	next   int64
	last   map[topic]int64 // the number of the last change of each thing that is remembered
	woken  chan struct{}   // closed by the next change; nil: nobody waits
	db     *store.DB       // whose changes are taken in; nil: there is none
	taken  int64           // the number in the store up to which its changes are here
	caught chan struct{}   // closed when taken grows; nil: nobody waits
}

// topic is the thing that a change is about.
type topic struct{ kind, id string }

// news is a change as it is sent, and what it is chosen by.
type news struct {
	topic             topic
	project, pipeline int64
	kind, namespace   string // of an app
	data              any    // as it is encoded, before it is told
	frame             []byte // the event
	stale             bool   // a later change of the same thing is remembered
}

// NewFeed makes a feed. Its numbers go on from those of an earlier one, by the clock, so that one that another process gave is known as
// too old: 2²⁰ changes for each second, and JavaScript counts the seconds of a century exactly.
func NewFeed(now time.Time) *Feed {
	start := max(now.Unix()-feedEpoch, 1) << 20
	return &Feed{ring: make([]news, feedSize), first: start, next: start, last: map[topic]int64{}}
}

// feedEpoch is the beginning of 2025, in seconds.
const feedEpoch = 1735689600

// Seq is the number of the last change. Who reads something and then follows the feed from the number before it misses nothing.
func (f *Feed) Seq() int64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.next - 1
}

// App tells of changes of apps.
func (f *Feed) App(changes ...AppChange) {
	all := make([]news, 0, len(changes))
	for _, c := range changes {
		c.Kind = EventApp
		kind, namespace, _, _ := cutID(c.ID)
		all = append(all, news{topic: topic{EventApp, c.ID}, kind: kind, namespace: namespace, data: c})
	}
	f.add(all)
}

// Reset has everybody read everything again.
func (f *Feed) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	f.first = f.next
	clear(f.last)
	f.wake()
}

// frameOf gives a change as it is sent.
func frameOf(seq int64, t news) []byte {
	if c, ok := t.data.(store.Change); ok {
		c.Seq = seq
		t.data = c
	}
	text, err := json.Marshal(t.data)
	if err != nil {
		text = []byte("{}") // numbers and strings can always be encoded
	}
	return fmt.Appendf(nil, "id: %d\nevent: %s\ndata: %s\n\n", seq, t.topic.kind, text)
}

func (f *Feed) add(all []news) {
	if len(all) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range all {
		seq := f.next
		slot := &f.ring[seq%feedSize]
		if f.next++; f.next-f.first > feedSize {
			if f.first++; f.last[slot.topic] == seq-feedSize {
				delete(f.last, slot.topic)
			}
		}
		if before, ok := f.last[t.topic]; ok {
			f.ring[before%feedSize].stale = true
		}
		f.last[t.topic] = seq
		t.frame, t.data = frameOf(seq, t), nil
		*slot = t
	}
	f.wake()
}

func (f *Feed) wake() {
	if f.woken != nil {
		close(f.woken)
		f.woken = nil
	}
}

// errTooOld says that changes after a number are not remembered any more.
var errTooOld = errors.New("changes are not remembered any more")

// piece bounds how many changes are read at once.
const piece = 1000

// after appends to into what is told after a number to who wants it, and gives the number behind it. Where there is nothing new,
// more is closed as soon as there is.
func (f *Feed) after(seq int64, want func(*news) bool, into []news) (found []news, behind int64, more <-chan struct{}, err error) {
	f.mu.RLock()
	if seq < f.first-1 || seq >= f.next {
		f.mu.RUnlock()
		return into, seq, nil, errTooOld
	}
	if seq == f.next-1 {
		f.mu.RUnlock()
		return into, seq, f.waits(seq), nil
	}
	end := min(f.next-1, seq+piece)
	for at := seq + 1; at <= end; at++ {
		if t := &f.ring[at%feedSize]; !t.stale && want(t) {
			into = append(into, *t)
		}
	}
	f.mu.RUnlock()
	return into, end, nil, nil
}

// waits gives what is closed by the first change after a number.
func (f *Feed) waits(seq int64) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next-1 != seq {
		return closed
	}
	if f.woken == nil {
		f.woken = make(chan struct{})
	}
	return f.woken
}

// closed is always closed.
var closed = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// follow takes in the changes of a store until it is closed.
func (f *Feed) follow(db *store.DB) {
	at := db.Seq()
	f.took(at, nil)
	f.mu.Lock()
	f.db = db
	f.mu.Unlock()
	go func() {
		for {
			changes, err := db.Changes(context.Background(), at)
			switch {
			case errors.Is(err, store.ErrTooOld):
				at = db.Seq()
				f.Reset()
				f.took(at, nil)
				continue
			case err != nil:
				return
			}
			at = changes[len(changes)-1].Seq
			f.took(at, changes)
		}
	}()
}

// took takes in changes of the store, up to a number of its own.
func (f *Feed) took(upTo int64, changes []store.Change) {
	all := make([]news, 0, len(changes))
	for _, c := range changes {
		if c.Kind != "command" {
			all = append(all, news{topic: topic{c.Kind, strconv.FormatInt(c.ID, 10)}, project: c.Project, pipeline: c.Pipeline, data: c})
		}
	}
	f.add(all)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken = upTo
	if f.caught != nil {
		close(f.caught)
		f.caught = nil
	}
}

// catchUpLimit bounds how long who begins to follow waits for a store.
const catchUpLimit = 2 * time.Second

// catchUp waits until what the store has told so far is here.
func (f *Feed) catchUp(ctx context.Context) {
	f.mu.RLock()
	db := f.db
	f.mu.RUnlock()
	if db == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, catchUpLimit)
	defer cancel()
	want := db.Seq()
	for {
		f.mu.Lock()
		if f.taken >= want {
			f.mu.Unlock()
			return
		}
		if f.caught == nil {
			f.caught = make(chan struct{})
		}
		caught := f.caught
		f.mu.Unlock()
		select {
		case <-caught:
		case <-ctx.Done():
			return
		}
	}
}
