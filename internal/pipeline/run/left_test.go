package run

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/schedule"
)

// elsewhere is an executor whose jobs never end and survive the process: those that run in Pods.
type elsewhere struct{ started chan struct{} }

// Survives implements [executor.Survivor].
func (elsewhere) Survives() bool { return true }

// Run implements [executor.Executor].
func (e elsewhere) Run(_ context.Context, job executor.Job, _ executor.Log) executor.Result {
	close(e.started)
	<-job.Leave
	return executor.Failed(pipeline.RunnerSystemFailure, "what is told of a job that goes on means nothing")
}

// TestLeftJobsHaveNotEnded holds that nobody is told of the end of a job that only this process has ended for: its deployment goes on.
func TestLeftJobsHaveNotEnded(t *testing.T) {
	b := newBench(t)
	x := elsewhere{make(chan struct{})}
	var ended atomic.Bool
	b.p.Executor = x
	b.p.Begin = func(context.Context, JobRef, *executor.Job) (Attendance, error) {
		return Attendance{End: func(executor.Result) { ended.Store(true) }}, nil
	}
	var ids atomic.Int64
	v := b.serve(nil, &ids)
	if err := v.add(1, graph(job("deploy", "deploy", "true"))); err != nil {
		t.Fatal(err)
	}
	<-x.started
	v.stop()
	if ended.Load() {
		t.Error("the job has ended")
	}
}

// taken is an executor of jobs that survive the process, and may be asked for one of them.
type taken func(ctx context.Context, job executor.Job) executor.Result

func (taken) Survives() bool { return true }

func (f taken) Run(ctx context.Context, job executor.Job, _ executor.Log) executor.Result {
	return f(ctx, job)
}

// TestCanceledJobIsTakenUp holds that a job which is being canceled when its process ends is taken up with all that it needs to end in order, and that
// the executor is told when its result is in the journal.
func TestCanceledJobIsTakenUp(t *testing.T) {
	k := &keeper{began: map[int64]time.Time{1: time.Now()}, events: map[int64][]schedule.Event{}}
	g := graph(job("deploy", "deploy", "true"))
	b := newBench(t)
	x := elsewhere{make(chan struct{})}
	b.p.Executor = x
	var ids atomic.Int64
	v := b.serve(k, &ids)
	if err := v.add(1, g); err != nil {
		t.Fatal(err)
	}
	<-x.started
	if err := v.Do(t.Context(), Command{Pipeline: 1, Event: schedule.Event{Kind: schedule.Cancel}}); err != nil {
		t.Fatal(err)
	}
	v.stop()

	b = newBench(t)
	journaled := make(chan int, 1)
	b.p.Executor = taken(func(ctx context.Context, job executor.Job) executor.Result {
		if ctx.Err() == nil || !job.Resume {
			t.Errorf("canceled: %v, taken up: %v", ctx.Err(), job.Resume)
		}
		before := len(k.events[1]) // nobody writes to it now
		go func() {
			<-job.Kept
			k.mu.Lock()
			defer k.mu.Unlock()
			journaled <- len(k.events[1]) - before
		}()
		return executor.Canceled()
	})
	begun := errors.New("never")
	b.p.Begin = func(ctx context.Context, _ JobRef, _ *executor.Job) (Attendance, error) {
		begun = ctx.Err()
		return Attendance{}, nil
	}
	v = b.serve(k, &ids)
	p := v.p
	p.ID, p.Graph, p.State = 1, g, k.state(t, 1, g)
	if err := v.Add(t.Context(), p, func(all []Outcome) { v.ends <- all[0] }); err != nil {
		t.Fatal(err)
	}
	if o := v.rested(); o.Status != pipeline.StatusCanceled || begun != nil {
		t.Errorf("%s; it begins with %v", o.Status, begun)
	}
	if n := <-journaled; n == 0 {
		t.Error("the executor is told that the result is kept before it is")
	}
}
