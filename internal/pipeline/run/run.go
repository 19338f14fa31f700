// Package run plays a graph: it starts what the scheduler has made pending, and tells it what came of it.
//
//	outcome, err := run.Run(ctx, run.Pipeline{Graph: graph, Executor: x, Sources: run.InPlace(dir)}, run.Options{Sink: sink, Store: store})
//
//	s, err := run.NewServer(run.Options{Sink: sink, Store: store})    // many pipelines, as they come
//	go s.Serve(ctx)
//	err = s.Add(ctx, run.Pipeline{…})
//	err = s.Do(ctx, run.Command{…})
//
// One goroutine owns the states of all pipelines; each job has a goroutine of its own, which only knows its job. So a job starts as
// soon as what it needs is over, whatever else is under way. What happens is told to the sink, step by step. The same driver serves a
// laptop and a server: executor, sink, sources and what compiles child pipelines are ports.
package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/schedule"
)

// MaxDepth is how many levels of child pipelines there may be (GitLab's MAX_NESTED_CHILDREN).
const MaxDepth = 2

// Pipeline is one that is to be played. Graph, Executor and Sources must be set.
type Pipeline struct {
	Graph    *pipeline.Graph
	Executor executor.Executor
	Sources  Sources
	// Downstream compiles child pipelines; nil: trigger jobs fail.
	Downstream Downstream
	// May says why a trigger job may not start its pipeline. It is asked before anything of the job's variables is used. Nil: all may.
	May func(ctx context.Context, t Trigger) error
	// Start makes the pipeline of another project (trigger:project), under the number that the trigger has for it: a pipeline that is added to
	// this server is followed by that. An error says why there is none. Nil: such jobs fail.
	Start func(ctx context.Context, t Trigger) error
	// Foreign finds the artifacts of a job of another pipeline (needs:project, needs:pipeline); an error says why there are none. Nil: there are
	// none.
	Foreign func(ctx context.Context, n pipeline.Need) (artifact.Key, error)
	// Begin is called when a job is about to start, and may give it what it has only while it runs: variables with tokens, what its log must
	// not show. Nil: there is no such thing.
	Begin func(ctx context.Context, ref JobRef, job *executor.Job) (Attendance, error)
	// Play are the manual jobs that are played as soon as they could be, and the delayed ones that do not wait: names in the
	// graph or in the file.
	Play []string

	Project string // whose artifacts, caches and resource groups they are: its path, or what else tells it from others
	ID      int64  // CI_PIPELINE_ID; 0: 1
	Most    int    // how many jobs of the project run at a time; 0: as many as there are slots

	// State is where an earlier run has got to; nil: from the beginning. Jobs that ran then have failed by their runner's end, unless the
	// executor is a [executor.Survivor], which takes them up.
	State *schedule.State
	// IDs are the numbers of the jobs' attempts that State is at, by name; those that are missing get new ones.
	IDs map[string]int64
	// Children are the child pipelines that an earlier run has started, also those that are over.
	Children []Child
	// Followed are the pipelines of other projects that jobs of an earlier run wait for.
	Followed []Followed
}

// Followed is a pipeline of another project.
type Followed struct {
	ID      int64
	Parent  int64  // the pipeline that waits, the first one or a child
	Job     string // its trigger job
	Attempt int
	Status  pipeline.Status // of the pipeline that is waited for
}

// Attendance is what goes with a job that runs. Each part may be nil.
type Attendance struct {
	// Verify is the job's; see [executor.Job].
	Verify func(ctx context.Context, trace *executor.Trace) error
	// Notes are what the job's log says before its script, as warnings.
	Notes []string
	// Earlier writes what an earlier process has put into the log of a job that is taken up.
	Earlier func(io.Writer) error
	// End is called once nothing of the job runs any more, with how it ended.
	End func(executor.Result)
}

// Child is a child pipeline of an earlier run.
type Child struct {
	ID      int64
	Parent  int64  // the pipeline that started it, the first one or another child before this one
	Job     string // the trigger job
	Attempt int    // of that job
	Graph   *pipeline.Graph
	State   *schedule.State
	IDs     map[string]int64 // as of a [Pipeline]
}

// Options are those of whoever plays pipelines. Sink must be set.
type Options struct {
	Sink Sink
	// Journal is told of every event that a pipeline's state has taken in, before anything follows from it: a state is rebuilt from the
	// graph and these events, with [schedule.New] at the time of creation and [schedule.State.Apply]. Nil: nobody asks.
	Journal func(pipeline int64, event schedule.Event)
	// Born is told of a child pipeline before anything of it happens. Nil: nobody asks.
	Born func(Child)
	// Settled is called when all that follows from something has been told, and before jobs start that follow from it. Nil: nobody asks.
	Settled func()
	// Store keeps artifacts, caches and reports; nil: there are none.
	Store *artifact.Store

	// Jobs is how many jobs run at a time; 0: DefaultJobs.
	Jobs int
	// NextID numbers jobs and child pipelines; nil: with the numbers after the pipeline's.
	NextID func() int64

	// Commands are what people do while pipelines play; Run does not wait for them. Nil or closed: nothing.
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
	// Decide makes the event of the state as it is when its turn comes, for this pipeline alone; false: nothing is done. Nil: it is Event.
	Decide func(*schedule.State) (schedule.Event, bool)
	Reply  chan<- error // nil: nobody waits; else it takes one error without blocking
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
	ID       int64                  `json:"id,omitempty"` // of the attempt
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

// check tells what a pipeline lacks, and fills in what may be left out.
func (p *Pipeline) check() error {
	if p.Graph == nil || p.Executor == nil || p.Sources == nil {
		return errors.New("run: a graph, an executor and sources are needed")
	}
	if p.ID == 0 {
		p.ID = 1
	}
	return nil
}

func (o *Options) check() error {
	switch {
	case o.Sink == nil:
		return errors.New("run: a sink is needed")
	case o.Jobs < 0:
		return fmt.Errorf("run: %d jobs at a time are too few", o.Jobs)
	}
	if o.Jobs == 0 {
		o.Jobs = DefaultJobs()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return nil
}

// Run plays a pipeline until nothing more happens by itself. When ctx ends the pipeline is canceled: what runs is told to end, and its
// after_script still runs. The error is about options that make no sense; how the pipeline ended is in the outcome.
func Run(ctx context.Context, p Pipeline, o Options) (Outcome, error) {
	if err := errors.Join(p.check(), o.check()); err != nil {
		return Outcome{}, err
	}
	if o.NextID == nil {
		last := p.ID
		o.NextID = func() int64 { last++; return last }
	}
	if o.Store != nil {
		release, err := o.Store.Hold(ctx)
		if err != nil {
			return Outcome{}, err
		}
		defer release()
	}
	e := newEngine(ctx, o)
	root := e.take(p)
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
