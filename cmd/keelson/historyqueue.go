package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/telemetry"
)

// historyStore is where the history is kept.
type historyStore interface {
	KeepDeliveries(ctx context.Context, all []history.Delivery) error
	KeepRepairs(ctx context.Context, all []history.Repair) error
	KeepParts(ctx context.Context, key string, parts []history.Part) error
	RetainHistory(ctx context.Context, r store.HistoryRetention) (int64, error)
}

// What waits to be kept is bounded: beyond it is dropped, and counted.
const (
	historyWaiting = 10_000   // deliveries, and as many repairs
	historyBytes   = 32 << 20 // of both: beyond, what has changed is told without its fields
	historyMost    = 48 << 20 // … and beyond that not at all
	historyChanges = 1000     // of a delivery
	historyBatch   = 200      // are written at once
	historyCommits = 10_000   // that sources have given
	historyParts   = 10_000   // commits that came with deliveries
	historyPause   = time.Second
	historyClosing = 5 * time.Second // to write what waits at the end
)

// historyQueue is between the controllers and the store: nobody who delivers ever waits for the database. What is told of one delivery before
// the store has come to it is written together.
type historyQueue struct {
	log   *slog.Logger
	pause time.Duration // after the store has failed

	mu         sync.Mutex
	store      historyStore                 // once it is open
	kept       retention                    // how long
	deliveries map[string]*history.Delivery // by their keys
	order      []string                     // of the keys
	repairs    []history.Repair
	parts      map[string][]history.Part // the commits that came with deliveries, by the keys of these
	partsOrder []string                  // of the keys
	partsCount int                       // of the commits
	commits    map[string]history.Commit // that sources have given last, by SHA
	bytes      int
	failing    bool
	more       chan struct{} // has an element when there is something to write
	learned    chan struct{} // … when something new is known of commits
	opened     chan struct{}
	ending     chan struct{}
	done       chan struct{}
	stop       context.CancelFunc
	close      func()
}

// newHistoryQueue takes in what it is told of, and writes it once it is given a store.
func newHistoryQueue(log *slog.Logger) *historyQueue {
	ctx, stop := context.WithCancel(context.Background())
	q := &historyQueue{
		log: log, pause: historyPause, deliveries: map[string]*history.Delivery{}, parts: map[string][]history.Part{}, commits: map[string]history.Commit{},
		more: make(chan struct{}, 1), learned: make(chan struct{}, 1), opened: make(chan struct{}), ending: make(chan struct{}), done: make(chan struct{}), stop: stop,
	}
	q.close = sync.OnceFunc(func() { close(q.ending) })
	go q.run(ctx)
	return q
}

// open gives the store, or another one after it has failed. The queue is to be closed before the last one.
func (q *historyQueue) open(to historyStore) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.store == nil {
		close(q.opened)
	}
	q.store = to
}

// keep says how long what is written stays.
func (q *historyQueue) keep(r retention) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.kept = r
}

// sweep removes what is older.
func (q *historyQueue) sweep(ctx context.Context) {
	q.mu.Lock()
	r, some := q.kept.historyOf(time.Now())
	q.mu.Unlock()
	if !some {
		return
	}
	if _, err := q.to().RetainHistory(ctx, r); err != nil && ctx.Err() == nil {
		q.log.Warn("let go of old deliveries", "error", err)
	}
}

// to gives the store.
func (q *historyQueue) to() historyStore {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.store
}

// Close writes what waits, as far as that goes fast, and ends.
func (q *historyQueue) Close() error {
	q.close()
	select {
	case <-q.done:
	case <-time.After(historyClosing):
	}
	q.stop()
	return nil
}

// Commit implements [controller.Recorder]. What a source gives is known while this process lives; what was delivered of it the store knows.
func (q *historyQueue) Commit(c history.Commit) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, known := q.commits[c.SHA]; !known && len(q.commits) >= historyCommits {
		clear(q.commits) // what an app is at is known by then, or comes with its next commit
	}
	q.commits[c.SHA] = history.Commit{SHA: c.SHA, Title: c.Title, Author: c.Author}
	ring(q.learned)
}

// Parts implements [controller.Recorder]. What is told of a delivery later takes the place of what was told before.
func (q *historyQueue) Parts(key string, parts []history.Part) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.addParts(key, parts)
	q.wake()
}

// addParts takes in the commits that came with a delivery. The caller holds the lock.
func (q *historyQueue) addParts(key string, parts []history.Part) {
	was, waits := q.parts[key]
	if q.partsCount+len(parts)-len(was) > historyParts || !waits && len(q.partsOrder) >= historyParts {
		telemetry.HistoryDropped.WithLabelValues("commits").Inc()
		return
	}
	if !waits {
		q.partsOrder = append(q.partsOrder, key)
	}
	q.parts[key] = parts
	q.partsCount += len(parts) - len(was)
}

// takeParts gives the commits of a delivery that is written already.
func (q *historyQueue) takeParts() (key string, parts []history.Part, some bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, key := range q.partsOrder {
		if q.deliveries[key] != nil {
			continue
		}
		parts := q.parts[key]
		q.partsOrder = slices.Delete(q.partsOrder, i, i+1)
		q.partsCount -= len(parts)
		delete(q.parts, key)
		return key, parts, true
	}
	return "", nil, false
}

// writeParts writes them, each after the delivery that it is of. What could not be written, and may be later, waits again.
func (q *historyQueue) writeParts(ctx context.Context) error {
	for {
		key, parts, some := q.takeParts()
		if !some {
			return nil
		}
		err := q.to().KeepParts(ctx, key, parts)
		switch {
		case err == nil:
		case refusedForGood(err):
			telemetry.HistoryDropped.WithLabelValues("commits").Inc()
			q.log.Warn("which commits came with a delivery is not in the history", "error", err)
		default:
			q.mu.Lock()
			if _, newer := q.parts[key]; !newer {
				q.addParts(key, parts)
			}
			q.mu.Unlock()
			return err
		}
	}
}

// ring puts an element into a channel that has room for one.
func ring(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// commitsOf gives what is known of commits by their SHAs: what sources have given, else what the store has, asked once for all.
func (q *historyQueue) commitsOf(ctx context.Context, db *store.DB, shas []string) (map[string]history.Commit, error) {
	found := map[string]history.Commit{}
	var missing []string
	q.mu.Lock()
	for _, sha := range shas {
		if c, ok := q.commits[sha]; ok {
			found[sha] = c
		} else {
			missing = append(missing, sha)
		}
	}
	q.mu.Unlock()
	kept, err := db.Commits(ctx, missing)
	maps.Copy(found, kept)
	return found, err
}

// Delivery implements [controller.Recorder].
func (q *historyQueue) Delivery(d history.Delivery) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.add(d)
	q.wake()
}

// add takes in a delivery. The caller holds the lock.
func (q *historyQueue) add(d history.Delivery) {
	var before []history.Change
	was, waits := q.deliveries[d.Key]
	if waits && d.Found && was.Status == history.Succeeded {
		return
	}
	if waits {
		before = was.Changes
	}
	if room := max(historyChanges-len(before), 0); len(d.Changes) > room { // the store keeps no more either
		d.Changes = slices.Clone(d.Changes[:room])
	}
	size := sizeOf(d.Changes)
	if q.bytes+size > historyBytes { // that it was delivered matters more than what has changed
		dropped := false
		for i, c := range d.Changes {
			dropped = dropped || len(c.Fields) > 0
			d.Changes[i].More += len(c.Fields)
			d.Changes[i].Fields = nil
		}
		if size = sizeOf(d.Changes); q.bytes+size > historyMost {
			d.Changes, size, dropped = nil, 0, true
		}
		if dropped {
			telemetry.HistoryDropped.WithLabelValues("fields").Inc()
		}
	}
	if waits {
		d.Changes, d.Actor = append(before, d.Changes...), cmp.Or(d.Actor, was.Actor)
		*was = d
		q.bytes += size
		return
	}
	if len(q.order) >= historyWaiting {
		telemetry.HistoryDropped.WithLabelValues("delivery").Inc()
		return
	}
	q.deliveries[d.Key] = &d
	q.order = append(q.order, d.Key)
	q.bytes += size
}

// What a change and a field have besides their texts, in bytes.
const changeSize, fieldSize = 200, 60

func sizeOf(changes []history.Change) (size int) {
	for _, c := range changes {
		size += sizeOfObject(c.Object) + sizeOfFields(c.Fields)
	}
	return size
}

func sizeOfRepair(r history.Repair) int { return sizeOfObject(r.Object) + sizeOfFields(r.Fields) }

func sizeOfObject(o history.Object) int {
	return changeSize + len(o.Group) + len(o.Kind) + len(o.Namespace) + len(o.Name)
}

func sizeOfFields(fields []history.Field) (size int) {
	for _, f := range fields {
		size += fieldSize + len(f.Path) + len(f.Before) + len(f.After)
	}
	return size
}

// Repair implements [controller.Recorder].
func (q *historyQueue) Repair(r history.Repair) {
	q.mu.Lock()
	defer q.mu.Unlock()
	size := sizeOfRepair(r)
	if len(q.repairs) >= historyWaiting || q.bytes+size > historyMost {
		telemetry.HistoryDropped.WithLabelValues("repair").Inc()
		return
	}
	q.repairs = append(q.repairs, r)
	q.bytes += size
	q.wake()
}

func (q *historyQueue) wake() { ring(q.more) }

// take gives what is to be written next.
func (q *historyQueue) take() (deliveries []history.Delivery, repairs []history.Repair) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.order), historyBatch)
	for _, key := range q.order[:n] {
		d := *q.deliveries[key]
		q.bytes -= sizeOf(d.Changes)
		delete(q.deliveries, key)
		deliveries = append(deliveries, d)
	}
	q.order = append([]string(nil), q.order[n:]...)
	n = min(len(q.repairs), historyBatch)
	repairs = append(repairs, q.repairs[:n]...)
	for _, r := range repairs {
		q.bytes -= sizeOfRepair(r)
	}
	q.repairs = append([]history.Repair(nil), q.repairs[n:]...)
	return deliveries, repairs
}

// back puts what could not be written before what has come since.
func (q *historyQueue) back(deliveries []history.Delivery, repairs []history.Repair) {
	q.mu.Lock()
	defer q.mu.Unlock()
	newer, order := q.deliveries, q.order
	q.deliveries, q.order, q.bytes = make(map[string]*history.Delivery, len(newer)), nil, 0
	for _, d := range deliveries {
		q.add(d)
	}
	for _, key := range order {
		q.add(*newer[key])
	}
	repairs = append(repairs, q.repairs...)
	if over := len(repairs) - historyWaiting; over > 0 {
		telemetry.HistoryDropped.WithLabelValues("repair").Add(float64(over))
		repairs = repairs[:historyWaiting]
	}
	q.repairs = repairs
	for _, r := range repairs {
		q.bytes += sizeOfRepair(r)
	}
}

func (q *historyQueue) run(ctx context.Context) {
	defer close(q.done)
	select {
	case <-q.opened:
	case <-q.ending:
		return
	}
	sweep := time.NewTicker(time.Hour)
	defer sweep.Stop()
	for {
		ending := false
		select {
		case <-q.more:
		case <-q.ending:
			ending = true
		case <-ctx.Done():
			return
		case <-sweep.C:
			q.sweep(ctx)
			continue
		}
		for {
			var err error
			deliveries, repairs := q.take()
			some := len(deliveries)+len(repairs) > 0
			if some {
				deliveries, repairs, err = q.write(ctx, deliveries, repairs)
			} else {
				err = q.writeParts(ctx)
			}
			q.told(err)
			if err == nil && !some {
				break
			}
			if err == nil {
				ring(q.learned)
				continue
			}
			if ending || ctx.Err() != nil {
				q.log.Warn("what was delivered last is not in the history", "deliveries", len(deliveries), "repairs", len(repairs))
				return
			}
			q.back(deliveries, repairs)
			select {
			case <-q.ending:
			case <-time.After(q.pause):
			}
			q.wake()
			break
		}
		if ending {
			return
		}
	}
}

// told logs when the store begins to fail, and when it does not any more.
func (q *historyQueue) told(err error) {
	switch {
	case err != nil && !q.failing:
		q.log.Warn("the history cannot be written; deliveries go on without it", "error", err)
	case err == nil && q.failing:
		q.log.Info("the history is written again")
	}
	q.failing = err != nil
}

// write gives what could not be written, and may be later. What the store does not take as it is, it never will: that is dropped.
func (q *historyQueue) write(ctx context.Context, deliveries []history.Delivery, repairs []history.Repair) ([]history.Delivery, []history.Repair, error) {
	deliveries, err := writeAll(ctx, deliveries, q.to().KeepDeliveries, "delivery", q.log)
	if err != nil {
		return deliveries, repairs, err
	}
	repairs, err = writeAll(ctx, repairs, q.to().KeepRepairs, "repair", q.log)
	return nil, repairs, err
}

func writeAll[T any](ctx context.Context, all []T, keep func(context.Context, []T) error, what string, log *slog.Logger) ([]T, error) {
	if len(all) == 0 {
		return nil, nil
	}
	err := keep(ctx, all)
	if err == nil {
		return nil, nil
	}
	if !refusedForGood(err) {
		return all, err
	}
	for i := range all { // one of them is at fault
		err := keep(ctx, all[i:i+1])
		if err != nil && !refusedForGood(err) {
			return all[i:], err
		}
		if err != nil {
			telemetry.HistoryDropped.WithLabelValues(what).Inc()
			log.Warn("the history does not take it", "what", what, "error", err)
		}
	}
	return nil, nil
}

// refusedForGood tells whether an error is about what is written rather than about the database.
func refusedForGood(err error) bool {
	for _, kind := range []error{store.ErrTooLarge, store.ErrExists, store.ErrNotFound, store.ErrInvalid} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}
