package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/schedule"
)

// keeper keeps what a server would keep on disk: the states as they began, with the events since.
type keeper struct {
	mu     sync.Mutex
	began  map[int64]time.Time
	events map[int64][]schedule.Event
	born   []Child
}

func (k *keeper) journal(id int64, e schedule.Event) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.events[id] = append(k.events[id], e)
}

func (k *keeper) child(c Child) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.began[c.ID] = c.State.CreatedAt
	k.born = append(k.born, c)
}

// state is that of a pipeline, made of what was kept.
func (k *keeper) state(t *testing.T, id int64, g *pipeline.Graph) *schedule.State {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	s := schedule.New(g, k.began[id])
	for _, e := range k.events[id] {
		if _, err := s.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// served is a server for a test, with what it tells.
type served struct {
	*bench
	*Server
	stop func() // ends it, as the end of the process would
	ends chan Outcome
}

func (b *bench) serve(k *keeper, ids *atomic.Int64) *served {
	b.t.Helper()
	b.o.NextID = func() int64 { return ids.Add(1) }
	if k != nil {
		b.o.Journal, b.o.Born = k.journal, k.child
	}
	s, err := NewServer(b.o, func(err error) { b.t.Error(err) })
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.Serve(ctx); close(done) }()
	v := &served{bench: b, Server: s, ends: make(chan Outcome, 10), stop: func() { cancel(); <-done }}
	b.t.Cleanup(v.stop)
	return v
}

func (v *served) add(id int64, g *pipeline.Graph, commands ...Command) error {
	p := v.p
	p.ID, p.Graph = id, g
	return v.Add(v.t.Context(), p, func(all []Outcome) { v.ends <- all[0] }, commands...)
}

func (v *served) rested() Outcome {
	v.t.Helper()
	select {
	case o := <-v.ends:
		return o
	case <-time.After(30 * time.Second):
		v.t.Fatal("no pipeline has come to rest")
		return Outcome{}
	}
}

// TestServerShares holds that pipelines share slots and the resource groups of their project.
func TestServerShares(t *testing.T) {
	b := newBench(t)
	b.o.Jobs = 2
	var ids atomic.Int64
	v := b.serve(nil, &ids)
	alone := func() *pipeline.Graph {
		return graph(with(job("alone", "deploy", "mkdir lock", "sleep 0.2", "rmdir lock"), func(j *pipeline.Job) { j.ResourceGroup = "production" }))
	}
	for id := range int64(4) {
		if err := v.add(100+id, alone()); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.add(100, alone()); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("added twice: %v", err)
	}
	for range 4 {
		if o := v.rested(); o.Status != pipeline.StatusSuccess {
			t.Errorf("pipeline %d: %s\n%s", o.ID, o.Status, b.sink.log("alone"))
		}
	}
	if err := v.Do(t.Context(), Command{Pipeline: 100}); !errors.Is(err, ErrNotHere) {
		t.Errorf("a pipeline that is over: %v", err)
	}
}

// TestServerRests holds that a pipeline that waits for a person is let go of, and taken up again for what the person wants.
func TestServerRests(t *testing.T) {
	b := newBench(t)
	var ids atomic.Int64
	v := b.serve(nil, &ids)
	g := graph(job("build", "build", "true"), with(job("live", "deploy", "echo live"), func(j *pipeline.Job) { j.When = pipeline.Manual }))
	if err := v.add(1, g); err != nil {
		t.Fatal(err)
	}
	o := v.rested()
	b.want(o, "manual: build=success live=manual")
	v.p.State = o.State
	wrong := Command{Pipeline: 1, Event: schedule.Event{Kind: schedule.Play, Jobs: []string{"build"}}}
	if err := v.add(1, g, wrong); err == nil || !strings.Contains(err.Error(), "neither manual nor delayed") {
		t.Errorf("a job that cannot be played: %v", err)
	}
	b.want(v.rested(), "manual: build=success live=manual")
	b.sink.events = nil
	if err := v.add(1, g, Command{Pipeline: 1, Event: schedule.Event{Kind: schedule.Play, Jobs: []string{"live"}}}); err != nil {
		t.Fatal(err)
	}
	b.want(v.rested(), "success: build=success live=success")
	if got := b.sink.statuses("live"); got != "pending running success" {
		t.Errorf("live: %s", got)
	}
	if got := b.sink.statuses("build"); got != "" {
		t.Errorf("what was over is told again: %s", got)
	}
}

// TestServerRestarts ends a server in the middle of jobs, one of them in a child pipeline, and goes on with what was kept.
func TestServerRestarts(t *testing.T) {
	b := newBench(t)
	long := graph(with(job("long", "test", "echo begun; test -e again || sleep 60"), func(j *pipeline.Job) {
		j.Retry = pipeline.Retry{Max: 1, When: []string{"runner_system_failure"}}
	}), job("last", ".post", "true"))
	b.p.Downstream = children{"long.yml": long}
	k, ids := &keeper{began: map[int64]time.Time{}, events: map[int64][]schedule.Event{}}, atomic.Int64{}
	ids.Store(1)
	begun := make(chan struct{})
	var once sync.Once
	b.sink.onLog = func(j JobRef, log string) {
		if j.Job == "long" && strings.Contains(log, "\nbegun") {
			once.Do(func() { close(begun) })
		}
	}
	v := b.serve(k, &ids)
	g := graph(job("build", "build", "true"), with(trigger("outer", "test", "long.yml", "depend"), needs("build")), job("other", "test", "sleep 60"), job("after", "ship", "true"))
	k.began[1] = time.Now()
	v.p.State = schedule.New(g, k.began[1])
	if err := v.add(1, g); err != nil {
		t.Fatal(err)
	}
	<-begun
	v.stop()
	if len(v.ends) != 0 {
		t.Fatal("the end of the server is the end of the pipeline")
	}
	if err := v.add(9, g); !errors.Is(err, ErrEnded) {
		t.Errorf("added after the end: %v", err)
	}

	b.p.State = k.state(t, 1, g)
	child := k.born[0]
	b.p.Children = []Child{{ID: child.ID, Parent: child.Parent, Job: child.Job, Attempt: child.Attempt, Graph: long, State: k.state(t, child.ID, long)}}
	if err := os.WriteFile(filepath.Join(b.dir, "again"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	v = b.serve(k, &ids)
	if err := v.add(1, g); err != nil {
		t.Fatal(err)
	}
	o := v.rested()
	b.want(o, "failed: build=success outer=success other=failed after=skipped")
	b.want(*o.Jobs[1].Child, "success: long=success last=success")
	if j := o.Jobs[2]; j.Reason != pipeline.RunnerSystemFailure || !strings.Contains(fmt.Sprint(j.Why), "is gone") {
		t.Errorf("other: %+v", j)
	}
}
