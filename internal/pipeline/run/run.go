// Package run plays a graph: it starts what the scheduler has made pending, and tells it what came of it.
//
//	outcome, err := run.Run(ctx, graph, run.Options{Executor: x, Sink: sink, Sources: run.InPlace(dir), Store: store})
//
// One goroutine owns the states of a pipeline and of the child pipelines that it starts; each job has a goroutine of its own, which
// only knows its job. So a job starts as soon as what it needs is over, whatever else is under way. What happens is told to the
// sink, step by step. The same driver serves a laptop and a server: executor, sink, sources and what compiles child pipelines are
// ports.
package run

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/schedule"
)

// MaxDepth is how many levels of child pipelines there may be (GitLab's MAX_NESTED_CHILDREN).
const MaxDepth = 2

// Options of a run. Executor, Sink and Sources must be set.
type Options struct {
	Executor executor.Executor
	Sink     Sink
	Sources  Sources
	// Store keeps artifacts, caches and reports; nil: there are none.
	Store *artifact.Store
	// Downstream compiles child pipelines; nil: trigger jobs fail.
	Downstream Downstream

	// Jobs is how many jobs run at a time; 0: DefaultJobs.
	Jobs int
	// Play are the manual jobs that are played as soon as they could be, and the delayed ones that do not wait: names in the
	// graph or in the file.
	Play []string

	Project string // whose artifacts and caches they are: its path, or what else tells it from others
	// ID numbers the pipeline (CI_PIPELINE_ID); jobs and child pipelines get the numbers of NextID. Nil: those after ID.
	ID     int64
	NextID func() int64

	// State is where an earlier run has got to; nil: from the beginning. Jobs that ran then have failed by their runner's end.
	State *schedule.State
	// Commands are what people do while the pipeline plays; Run does not wait for them. Nil or closed: nothing.
	Commands <-chan Command
	// Abort ends everything at once when it is closed: no after_script, no artifacts. Nil: never.
	Abort <-chan struct{}
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Command is an event that a person wants: play, cancel, retry. An error says why it makes no sense now.
type Command struct {
	Pipeline int64 // 0: the one that is run
	Event    schedule.Event
	Reply    chan<- error // nil: nobody waits; else it takes one error without blocking
}

// DefaultJobs is how many jobs run at a time where nobody says: jobs wait for the network and for disks as much as they compute.
func DefaultJobs() int { return max(4, 2*runtime.GOMAXPROCS(0)) }

// Outcome is how a pipeline ended, or where it rests: a pipeline that waits for a person is over for this run.
type Outcome struct {
	ID       int64           `json:"id"`
	Name     string          `json:"name,omitempty"`
	Status   pipeline.Status `json:"status"`
	Started  time.Time       `json:"started"`
	Finished time.Time       `json:"finished"`
	Jobs     []JobResult     `json:"jobs"`
	// Waiting are the jobs for which the pipeline is not over: manual ones, and trigger jobs whose pipelines wait.
	Waiting []string `json:"waiting,omitempty"`

	State *schedule.State `json:"-"`
}

// JobResult is what came of a job.
type JobResult struct {
	Name     string                 `json:"name"`
	Stage    string                 `json:"stage"`
	ID       int64                  `json:"id,omitempty"` // of the last attempt; 0: it has not run
	Attempt  int                    `json:"attempt"`
	Status   pipeline.Status        `json:"status"`
	Allowed  bool                   `json:"allowedToFail,omitempty"` // its failure does not count
	Why      string                 `json:"why,omitempty"`           // what brought it into this status
	Reason   pipeline.FailureReason `json:"reason,omitempty"`
	ExitCode int                    `json:"exitCode,omitempty"`
	Message  string                 `json:"message,omitempty"` // of the executor: "exit code 1"
	Started  time.Time              `json:"started,omitzero"`
	Duration time.Duration          `json:"durationNs,omitempty"`
	Coverage *float64               `json:"coverage,omitempty"`
	Tests    *artifact.JUnit        `json:"tests,omitempty"`
	Child    *Outcome               `json:"child,omitempty"` // of a trigger job: its pipeline
}

// Failed tells whether the job's failure counts.
func (r JobResult) Failed() bool { return r.Status == pipeline.StatusFailed && !r.Allowed }

// Run plays a graph until nothing more happens by itself. When ctx ends the pipeline is canceled: what runs is told to end, and its
// after_script still runs. The error is about options that make no sense; how the pipeline ended is in the outcome.
func Run(ctx context.Context, g *pipeline.Graph, o Options) (Outcome, error) {
	switch {
	case o.Executor == nil || o.Sink == nil || o.Sources == nil:
		return Outcome{}, errors.New("run: an executor, a sink and sources are needed")
	case o.Jobs < 0:
		return Outcome{}, fmt.Errorf("run: %d jobs at a time are too few", o.Jobs)
	}
	if o.Jobs == 0 {
		o.Jobs = DefaultJobs()
	}
	if o.ID == 0 {
		o.ID = 1
	}
	if o.NextID == nil {
		last := o.ID
		o.NextID = func() int64 { last++; return last }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Store != nil {
		release, err := o.Store.Hold(ctx)
		if err != nil {
			return Outcome{}, err
		}
		defer release()
	}
	e := newEngine(ctx, o)
	root := e.add(g, o.ID, o.State, nil)
	e.loop(ctx)
	return root.outcome(), errors.Join(e.errs...)
}

// outcome sums up where a pipeline is.
func (p *play) outcome() Outcome {
	out := Outcome{
		ID: p.id, Name: p.shown(p.graph.Name), Status: p.state.Status, Started: p.state.CreatedAt, Finished: p.engine.o.Now(), State: p.state,
		Jobs: make([]JobResult, len(p.state.Jobs)),
	}
	for i := range p.state.Jobs {
		out.Jobs[i] = p.result(i)
		if child := p.children[i]; child != nil {
			c := child.outcome()
			out.Jobs[i].Child = &c
		}
		switch j := p.state.Jobs[i]; j.Status {
		case pipeline.StatusManual:
			if !j.Allowed {
				out.Waiting = append(out.Waiting, j.Name)
			}
		case pipeline.StatusRunning:
			out.Waiting = append(out.Waiting, j.Name)
		}
	}
	return out
}

// result is what is known of a job now.
func (p *play) result(i int) JobResult {
	j, r := p.state.Jobs[i], p.results[i]
	r.Name, r.Stage, r.Attempt, r.Status, r.Why = j.Name, p.graph.Jobs[i].Stage, j.Attempt, j.Status, p.shown(j.Why)
	r.Allowed = j.Allowed && (j.Status == pipeline.StatusFailed || j.Status == pipeline.StatusCanceled)
	r.Reason, r.ExitCode = j.Reason, j.ExitCode
	return r
}
