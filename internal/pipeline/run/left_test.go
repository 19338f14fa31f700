package run

import (
	"context"
	"sync/atomic"
	"testing"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
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
