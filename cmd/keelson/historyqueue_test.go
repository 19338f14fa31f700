package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/telemetry"
)

// brokenStore is a history store that hangs or fails as it is told to.
type brokenStore struct {
	mu         sync.Mutex
	hang       chan struct{} // not nil: calls wait until it is closed
	err        error
	refuse     string // an app that is never taken
	calls      int
	deliveries map[string]history.Delivery
	repairs    []history.Repair
	parts      map[string]int // how many, by the delivery
}

func (s *brokenStore) enter(ctx context.Context) error {
	s.mu.Lock()
	s.calls++
	hang := s.hang
	s.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *brokenStore) KeepDeliveries(ctx context.Context, all []history.Delivery) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(all, func(d history.Delivery) bool { return d.App.Name == s.refuse && s.refuse != "" }) {
		return store.ErrTooLarge
	}
	if s.deliveries == nil {
		s.deliveries = map[string]history.Delivery{}
	}
	for _, d := range all {
		d.Changes = append(slices.Clone(s.deliveries[d.Key].Changes), d.Changes...)
		s.deliveries[d.Key] = d
	}
	return nil
}

func (s *brokenStore) KeepRepairs(ctx context.Context, all []history.Repair) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.repairs = append(s.repairs, all...)
	return nil
}

func (s *brokenStore) KeepParts(ctx context.Context, key string, parts []history.Part) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.deliveries[key]; known { // what is not known is no error
		s.parts[key] = len(parts)
	}
	return nil
}

func (s *brokenStore) RetainHistory(context.Context, store.HistoryRetention) (int64, error) {
	return 0, nil
}

func (s *brokenStore) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// told is a delivery with one change, whose field has so many bytes.
func told(key, status string, size int) history.Delivery {
	return history.Delivery{
		Key: key, App: history.App{Kind: "Kustomization", Namespace: "x", Name: key}, Status: status,
		Changes: []history.Change{{Object: history.Object{Kind: "ConfigMap", Name: key + status}, Verb: "update", Fields: []history.Field{{Path: "data.x", After: strings.Repeat("x", size)}}}},
	}
}

// Whoever tells the queue never waits, however long the database hangs; what waits is bounded, and the end of each delivery is known once
// the database is back.
func TestHistoryNeverWaitsForADatabaseThatHangs(t *testing.T) {
	s := &brokenStore{hang: make(chan struct{})}
	q := newHistoryQueue(slog.New(slog.DiscardHandler))
	q.open(s)
	before := testutil.ToFloat64(telemetry.HistoryDropped.WithLabelValues("delivery"))
	fields := testutil.ToFloat64(telemetry.HistoryDropped.WithLabelValues("fields"))
	repairs := testutil.ToFloat64(telemetry.HistoryDropped.WithLabelValues("repair"))
	const more = 1000
	start := time.Now()
	for i := range historyWaiting + historyBatch + more {
		for _, status := range []string{history.Running, history.Succeeded} {
			q.Delivery(told(fmt.Sprint(i), status, 4000))
		}
		q.Repair(history.Repair{Object: history.Object{Kind: "Service", Name: fmt.Sprint(i)}})
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("telling took %s", took)
	}
	q.mu.Lock()
	waiting, bytes := len(q.order), q.bytes
	q.mu.Unlock()
	if waiting > historyWaiting || bytes > historyMost {
		t.Errorf("%d deliveries wait, with %d bytes", waiting, bytes)
	}
	if n := testutil.ToFloat64(telemetry.HistoryDropped.WithLabelValues("delivery")) - before; n < more {
		t.Errorf("%v deliveries were counted as dropped", n)
	}
	if n := testutil.ToFloat64(telemetry.HistoryDropped.WithLabelValues("fields")) - fields; n == 0 {
		t.Error("no fields were dropped: the test proves nothing")
	}
	if n := testutil.ToFloat64(telemetry.HistoryDropped.WithLabelValues("repair")) - repairs; n < more {
		t.Errorf("%v repairs were counted as dropped", n)
	}
	close(s.hang)
	s.set(func() { s.hang = nil })
	q.Close()
	if len(s.deliveries) < historyWaiting || len(s.repairs) < historyWaiting {
		t.Fatalf("%d deliveries and %d repairs were kept", len(s.deliveries), len(s.repairs))
	}
	for key, d := range s.deliveries {
		if d.Status != history.Succeeded || len(d.Changes) == 0 {
			t.Fatalf("%s is kept as %s with %d changes", key, d.Status, len(d.Changes))
		}
	}
}

// However many objects a delivery changes, what waits of it is bounded.
func TestHistoryOfManyObjectsIsBounded(t *testing.T) {
	q := newHistoryQueue(slog.New(slog.DiscardHandler)) // without a store
	var many []history.Change
	for i := range 3 * historyChanges {
		many = append(many, history.Change{Object: history.Object{Kind: "ConfigMap", Name: fmt.Sprint("an-object-with-a-name-", i)}, Verb: "create"})
	}
	for i := range 1000 {
		q.Delivery(history.Delivery{Key: fmt.Sprint(i % 500), Status: history.Running, Changes: slices.Clone(many), Objects: len(many)})
	}
	q.mu.Lock()
	size := 0
	for _, d := range q.deliveries {
		if size += sizeOf(d.Changes); len(d.Changes) > historyChanges || d.Objects != len(many) {
			t.Fatalf("%d of %d changes wait", len(d.Changes), d.Objects)
		}
	}
	if size != q.bytes || size > historyMost || size < historyMost/2 || len(q.order) != 500 {
		t.Errorf("%d bytes of %d deliveries wait, counted as %d", size, len(q.order), q.bytes)
	}
	q.mu.Unlock()
	q.take()
	q.take()
	if _, _ = q.take(); q.bytes != 0 {
		t.Errorf("%d bytes wait of nothing", q.bytes)
	}
	q.stop()
	if err := q.Close(); err != nil {
		t.Error(err)
	}
}

// What could not be written is tried again, in order and as a whole; what the store never takes is left out alone.
func TestHistorySurvivesADatabaseThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &brokenStore{err: store.ErrFull, refuse: "bad"}
		var log strings.Builder
		q := newHistoryQueue(slog.New(slog.NewTextHandler(&log, nil)))
		q.Delivery(told("early", history.Running, 1)) // before there is a store
		q.open(s)
		for _, key := range []string{"a", "bad", "b"} {
			q.Delivery(told(key, history.Running, 1))
		}
		q.Repair(history.Repair{Object: history.Object{Name: "r"}})
		synctest.Wait()
		time.Sleep(3 * historyPause)
		q.Delivery(told("a", history.Succeeded, 1))
		q.Delivery(told("c", history.Running, 1))
		s.set(func() {
			if s.calls < 3 || s.calls > 10 || len(s.deliveries) > 0 {
				t.Errorf("a full database was asked %d times, and has %d deliveries", s.calls, len(s.deliveries))
			}
			s.err = nil
		})
		time.Sleep(2 * historyPause)
		synctest.Wait()
		s.set(func() {
			if len(s.deliveries) != 4 || len(s.repairs) != 1 {
				t.Errorf("kept: %v, %v", s.deliveries, s.repairs)
			}
			if a := s.deliveries["a"]; a.Status != history.Succeeded || len(a.Changes) != 2 || a.Changes[0].Name != "arunning" {
				t.Errorf("a is %+v", a)
			}
		})
		q.Close()
		synctest.Wait()
		if text := log.String(); strings.Count(text, "cannot be written") != 1 || strings.Count(text, "written again") != 1 || !strings.Contains(text, store.ErrFull.Error()) {
			t.Errorf("the log says:\n%s", text)
		}
	})
}

// Which commits came with a delivery is written after it, and tried again; what is told of it last counts.
func TestHistoryKeepsWhichCommitsCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &brokenStore{parts: map[string]int{}}
		q := newHistoryQueue(slog.New(slog.DiscardHandler))
		q.open(s)
		q.Delivery(told("a", history.Running, 1))
		synctest.Wait()
		s.set(func() { s.err = store.ErrFull })
		q.Parts("a", make([]history.Part, 1))
		q.Parts("a", make([]history.Part, 3))
		q.Parts("b", make([]history.Part, 1)) // whose delivery comes late
		q.Delivery(told("b", history.Running, 1))
		synctest.Wait()
		time.Sleep(3 * historyPause)
		q.Parts("b", make([]history.Part, 2))
		synctest.Wait()
		s.set(func() { s.err = nil })
		time.Sleep(2 * historyPause)
		synctest.Wait()
		if got := fmt.Sprint(s.parts); got != "map[a:3 b:2]" || q.partsCount != 0 || len(q.partsOrder) != 0 {
			t.Errorf("kept: %s; %d wait", got, q.partsCount)
		}
		q.mu.Lock()
		q.deliveries["d"] = &history.Delivery{Key: "d"}
		q.addParts("d", make([]history.Part, 1))
		q.mu.Unlock()
		if key, _, some := q.takeParts(); some {
			t.Errorf("the commits of %s would be written before it", key)
		}
		q.Close()
		synctest.Wait()
	})
}

// A process that ends does not wait for a database that hangs.
func TestHistoryEndsWhileTheDatabaseHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &brokenStore{hang: make(chan struct{}), err: errors.New("broken")}
		q := newHistoryQueue(slog.New(slog.DiscardHandler))
		q.open(s)
		q.Delivery(told("a", history.Running, 1))
		synctest.Wait()
		start := time.Now()
		q.Close()
		if took := time.Since(start); took > historyClosing {
			t.Errorf("the end took %s", took)
		}
		synctest.Wait()
	})
}

func TestTimeSaid(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.FixedZone("CET", 3600))
	for said, want := range map[string]string{
		"2026-02-01T10:00:00Z": "2026-02-01T10:00:00Z", "2026-02-01 10:00": "2026-02-01T10:00:00+01:00", "2026-02-01": "2026-02-01T00:00:00+01:00",
		"09:30": "2026-03-01T09:30:00+01:00", "2h": "2026-03-01T10:00:00+01:00", "1d": "2026-02-28T12:00:00+01:00",
		"yesterday": "", "-2h": "", "": "", "2dd": "",
	} {
		at, err := timeSaid(said, now)
		if got := at.Format(time.RFC3339); err == nil && got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %s, %v, want %q", said, got, err, want)
		}
	}
}

func TestLogPages(t *testing.T) {
	var asked []string
	l := &logReader{opts: logOptions{limit: 230}}
	err := l.pages(url.Values{"app": {"x"}}, func(q url.Values) (int64, error) {
		asked = append(asked, q.Encode())
		return int64(1000 - len(asked)), nil
	})
	if want := []string{"app=x&limit=100", "app=x&before=999&limit=100", "app=x&before=998&limit=30"}; err != nil || !slices.Equal(asked, want) {
		t.Errorf("it asks %q, want %q: %v", asked, want, err)
	}
}

// TestFoundWaitsBehindWhatIsTold: what is only found to be over takes the place of nothing that waits and was told when it was.
func TestFoundWaitsBehindWhatIsTold(t *testing.T) {
	said := func(message, status string, found bool) history.Delivery {
		d := told("k", status, 0)
		d.Message, d.Found = message, found
		return d
	}
	for name, test := range map[string]struct {
		first, second history.Delivery
		want          string
	}{
		"after the end": {said("told", history.Succeeded, false), said("found", history.Succeeded, true), "told"},
		"before it":     {said("found", history.Succeeded, true), said("told", history.Succeeded, false), "told"},
		"under way":     {said("told", history.Running, false), said("found", history.Succeeded, true), "found"},
	} {
		q := &historyQueue{deliveries: map[string]*history.Delivery{}}
		q.add(test.first)
		q.add(test.second)
		if got := q.deliveries["k"].Message; got != test.want || len(q.order) != 1 {
			t.Errorf("%s: %q waits, want %q", name, got, test.want)
		}
	}
}
