package schedule

import (
	"fmt"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// Step is an event of a simulation, as a file has it. It stands for all of Jobs at once; without Jobs retry and cancel are for the
// whole pipeline.
type Step struct {
	Event      string   `json:"event" yaml:"event"` // play, enqueue, run, success, drop, cancel, retry, due, unschedule
	Jobs       []string `json:"jobs,omitempty" yaml:"jobs"`
	ExitCode   int      `json:"exit_code,omitempty" yaml:"exit_code"`   // of drop
	Reason     string   `json:"reason,omitempty" yaml:"reason"`         // of drop
	Dependants bool     `json:"dependants,omitempty" yaml:"dependants"` // of retry: and what comes after
}

// Snapshot is what a simulated pipeline looks like after an event; after its creation the event is "init".
type Snapshot struct {
	Event    string                     `json:"event"`
	Pipeline pipeline.Status            `json:"pipeline"`
	Stages   map[string]pipeline.Status `json:"stages"`
	Jobs     map[string]pipeline.Status `json:"jobs"`
}

// Simulate applies events to a graph and gives what it looks like after its creation and after each of them. Nothing runs: success
// and drop end a job that is pending as well, cancel ends a running one at once, due lets all time pass that is needed, and
// resources are granted as soon as they are free. An error names the event, by its number from 1; what came before it is given too.
func Simulate(g *pipeline.Graph, steps []Step) ([]Snapshot, error) {
	now := time.Unix(0, 0).UTC()
	s := New(g, now)
	resources := &Resources{}
	if err := s.share(resources, s.All()); err != nil {
		return nil, err
	}
	out := []Snapshot{s.snapshot("init")}
	for n, step := range steps {
		now = now.Add(time.Second)
		e := Event{
			Kind: Kind(step.Event), Jobs: step.Jobs, At: now, ExitCode: step.ExitCode, Reason: pipeline.FailureReason(step.Reason),
			Dependants: step.Dependants, Force: true,
		}
		if e.Kind == Due {
			for i := range s.Jobs {
				if due := s.Jobs[i].ScheduledAt; due.After(now) {
					now = due
				}
			}
			e.At = now
		}
		changes, err := s.Apply(e)
		if err == nil {
			err = s.share(resources, changes)
		}
		if err != nil {
			return out, fmt.Errorf("event %d: %w", n+1, err)
		}
		out = append(out, s.snapshot(step.Event))
	}
	return out, nil
}

// Uses gives what changes of this state mean to the resource groups.
func (s *State) Uses(id int64, changes []Change) []Use {
	var uses []Use
	for _, c := range changes {
		if c.Job == "" {
			continue
		}
		if group := s.plan.jobs[s.plan.index[c.Job]].resourceGroup; group != "" {
			uses = append(uses, Use{Group: group, Claim: Claim{Pipeline: id, Job: c.Job}, Status: c.To})
		}
	}
	return uses
}

// share tells changes to the resource groups, and grants what is free.
func (s *State) share(r *Resources, changes []Change) error {
	for {
		claims := r.Update(s.Uses(1, changes)...)
		if len(claims) == 0 {
			return nil
		}
		e := Event{Kind: Grant, At: s.at}
		for _, c := range claims {
			e.Jobs = append(e.Jobs, c.Job)
		}
		var err error
		if changes, err = s.Apply(e); err != nil {
			return err
		}
	}
}

func (s *State) snapshot(event string) Snapshot {
	out := Snapshot{Event: event, Pipeline: s.Status, Stages: make(map[string]pipeline.Status, len(s.Stages)), Jobs: make(map[string]pipeline.Status, len(s.Jobs))}
	for _, st := range s.Stages {
		out.Stages[st.Name] = st.Status
	}
	for i := range s.Jobs {
		out.Jobs[s.Jobs[i].Name] = s.Jobs[i].Status
	}
	return out
}
