// Package schedule decides what each job of a graph does next: (state, event) -> state, with GitLab's statuses. It is pure.
//
//	s := schedule.New(graph, now)                  every job is created, and the first ones are pending
//	changes, err := s.Apply(schedule.Event{...})   something happened; what has changed by it
//
// Whoever drives a state starts the jobs that become pending, tells it when they run and how they end (Run, Success, Drop), wakes
// it when a delayed job is due (Due), and grants resources (Grant, see [Resources]). A state is data: it is stored as JSON and
// taken up again with [Resume].
//
// The rules are those of GitLab's pipeline processing (app/services/ci/pipeline_processing, app/services/ci/process_build_service.rb,
// lib/gitlab/ci/status/composite.rb). A job looks at the composite status of its needs, or of all earlier stages when it has no
// needs keyword; once that is a completed one the job starts, waits for a person or for its time, or is skipped. An event costs as
// much as it changes: counters per job and per stage say who is next, nothing is scanned again, and a whole run costs O(jobs + needs).
package schedule

import (
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// State is what the jobs of one pipeline do. Its exported fields are its data; only [State.Apply] changes them.
type State struct {
	Status     pipeline.Status `json:"status"`
	Stages     []Stage         `json:"stages"` // in the order of the graph
	Jobs       []Job           `json:"jobs"`   // in the order of the graph
	CreatedAt  time.Time       `json:"createdAt"`
	StartedAt  time.Time       `json:"startedAt,omitzero"`  // of the first job
	FinishedAt time.Time       `json:"finishedAt,omitzero"` // zero while something may still happen by itself

	plan    *plan // shared by all clones
	derived       // follows from the fields above
}

// Stage is what the jobs of a stage come to.
type Stage struct {
	Name   string          `json:"name"`
	Status pipeline.Status `json:"status"`
}

// Job is what one job does.
type Job struct {
	Name    string          `json:"name"`
	Status  pipeline.Status `json:"status"`
	Why     string          `json:"why,omitempty"` // what brought it into this status: "need build failed"
	Attempt int             `json:"attempt"`       // counts from 1; retries by a person and by itself both count

	Reason   pipeline.FailureReason `json:"reason,omitempty"`   // of a failed job
	ExitCode int                    `json:"exitCode,omitempty"` // of a failed job; 0: its script did not get so far
	// Allowed tells that its failure or cancellation does not count, as allow_failure says; with exit_codes it is known after
	// the failure only. An allowed manual job holds up nobody.
	Allowed bool `json:"allowed,omitempty"`
	// Immediate tells that the job was retried by itself or by name, so it neither waits for a person again nor for its time.
	Immediate bool `json:"immediate,omitempty"`
	// By is who has played or retried this attempt, or what it comes after where it was skipped before; empty: nobody has.
	By string `json:"by,omitempty"`

	// Variables are those that a person has played the job with. Later attempts keep them.
	Variables []pipeline.KV `json:"variables,omitempty"`

	ScheduledAt time.Time `json:"scheduledAt,omitzero"` // of a scheduled job: when it is due
	QueuedAt    time.Time `json:"queuedAt,omitzero"`
	StartedAt   time.Time `json:"startedAt,omitzero"`
	FinishedAt  time.Time `json:"finishedAt,omitzero"`
}

// Kind is what an event is.
type Kind string

// The events, with the statuses in which a job takes them.
const (
	// Play starts a manual job, a scheduled one at once, and a completed manual or delayed one again. The skipped jobs that
	// depend on it are decided anew.
	Play Kind = "play"
	// Enqueue makes a created, skipped, manual or scheduled job pending without a look at anything else.
	Enqueue Kind = "enqueue"
	// Grant gives a job that is waiting_for_resource its resource: it is pending.
	Grant Kind = "grant"
	// Run says that a pending job has been started.
	Run Kind = "run"
	// Success says that a job has succeeded, also one that was never seen running. A canceling job is canceled by it.
	Success Kind = "success"
	// Drop says that a job has failed, with ExitCode and Reason; it may be retried by itself. A canceling job is canceled by it.
	Drop Kind = "drop"
	// Cancel stops jobs, or without Jobs all that can be stopped: a running one is canceling until Success or Drop tells its
	// end, every other one that is not completed is canceled at once. With Force nobody is asked.
	Cancel Kind = "cancel"
	// Retry runs completed jobs again, with Dependants also everything that comes after them; without Jobs all jobs that have
	// failed or were canceled.
	Retry Kind = "retry"
	// Due says what time it is: scheduled jobs whose time has come are pending.
	Due Kind = "due"
	// Unschedule makes a scheduled job manual.
	Unschedule Kind = "unschedule"
)

// Event is something that happened to a pipeline.
type Event struct {
	Kind Kind      `json:"kind"`
	Jobs []string  `json:"jobs,omitempty"` // names in the graph; empty: the whole pipeline, for Cancel, Retry and Due
	At   time.Time `json:"at"`

	ExitCode int                    `json:"exitCode,omitempty"` // Drop: of the script; 0 or less: it did not get so far
	Reason   pipeline.FailureReason `json:"reason,omitempty"`   // Drop; empty: unknown_failure

	// Variables are for the jobs of Play, instead of those that they were played with before; none: they keep those.
	Variables []pipeline.KV `json:"variables,omitempty"`

	Dependants    bool   `json:"dependants,omitempty"`    // Retry
	Interruptible bool   `json:"interruptible,omitempty"` // Cancel without Jobs: only jobs that may be interrupted
	Force         bool   `json:"force,omitempty"`         // Cancel: nobody will tell the end of what runs
	By            string `json:"by,omitempty"`            // Play, Retry: who wants it
	// Why goes with what changes: "canceled by pipeline 17". Empty: a sentence is made.
	Why string `json:"why,omitempty"`
}

// Change is a status that has changed: of Job, of Stage where that is set alone, or of the pipeline where both are empty.
type Change struct {
	Job   string          `json:"job,omitempty"`
	Stage string          `json:"stage,omitempty"`
	From  pipeline.Status `json:"from"`
	To    pipeline.Status `json:"to"`
	Why   string          `json:"why,omitempty"`
}

// New makes the state of a new pipeline; the jobs that wait for nothing have got their status already.
func New(g *pipeline.Graph, now time.Time) *State {
	p := newPlan(g)
	s := &State{Status: pipeline.StatusCreated, CreatedAt: now, plan: p}
	s.Stages = make([]Stage, len(p.stages))
	for i, name := range p.stages {
		s.Stages[i] = Stage{Name: name, Status: pipeline.StatusCreated}
	}
	s.Jobs = make([]Job, len(p.jobs))
	for i := range p.jobs {
		s.Jobs[i] = Job{Name: p.jobs[i].name, Status: pipeline.StatusCreated, Attempt: 1, Allowed: p.jobs[i].allowed()}
	}
	s.derive()
	s.at = now
	for i := range s.Jobs {
		s.push(i)
	}
	s.settle()
	s.publish()
	s.changes = nil
	return s
}

// Clone gives a state that goes its own way.
func (s *State) Clone() *State {
	c := *s
	c.Stages = append([]Stage(nil), s.Stages...)
	c.Jobs = append([]Job(nil), s.Jobs...)
	c.derived = s.clone()
	return &c
}

// Pipeline is the status of the whole pipeline.
func (s *State) Pipeline() pipeline.Status { return s.Status }

// Stage gives the status of a stage; empty: there is none of that name.
func (s *State) Stage(name string) pipeline.Status {
	for i := range s.Stages {
		if s.Stages[i].Name == name {
			return s.Stages[i].Status
		}
	}
	return ""
}

// Job gives what a job does.
func (s *State) Job(name string) (Job, bool) {
	i, ok := s.plan.index[name]
	if !ok {
		return Job{}, false
	}
	return s.Jobs[i], true
}

// All gives every job with its status as a change from created, for whoever takes up a state.
func (s *State) All() []Change {
	changes := make([]Change, 0, len(s.Jobs))
	for i := range s.Jobs {
		changes = append(changes, Change{Job: s.Jobs[i].Name, From: pipeline.StatusCreated, To: s.Jobs[i].Status, Why: s.Jobs[i].Why})
	}
	return changes
}

// Idle tells that nothing happens any more unless a person plays, retries or cancels: no job is on its way, none waits for its time.
func (s *State) Idle() bool {
	var moving int32
	for c := range categories {
		switch category(c) {
		case created, success, failed, canceled, skipped, manual, warned, ignored:
		default:
			moving += s.total[c]
		}
	}
	return moving == 0
}

// NextDue gives the time of the first scheduled job; false: none is scheduled.
func (s *State) NextDue() (time.Time, bool) {
	var first time.Time
	if s.total[scheduled] == 0 {
		return first, false
	}
	for i := range s.Jobs {
		if at := s.Jobs[i].ScheduledAt; s.Jobs[i].Status == pipeline.StatusScheduled && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first, true
}
