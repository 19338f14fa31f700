package schedule

import (
	"fmt"
	"slices"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// The values of workflow:auto_cancel:on_new_commit.
const (
	Conservative  = "conservative" // also empty: a pipeline is canceled unless a job that is not interruptible has started
	Interruptible = "interruptible"
	None          = "none"
)

// MaxRedundantAge is how old a pipeline may be to be canceled by a new one.
const MaxRedundantAge = 7 * 24 * time.Hour

// Candidate is a pipeline of a ref.
type Candidate struct {
	ID     int64
	SHA    string
	Source string // CI_PIPELINE_SOURCE
	// Created is when it was made, or for a child pipeline when the one at the root of its family was.
	Created time.Time
	State   *State
}

// Cancellation says what a new pipeline makes superfluous.
type Cancellation struct {
	Pipeline int64
	Event    Event // to be applied to its state
}

// Redundant decides which older pipelines of the same ref a new one cancels, and how; head is the commit that the ref names now.
// The rules are those of app/services/ci/pipeline_creation/cancel_redundant_pipelines_service.rb.
func Redundant(newer Candidate, others []Candidate, head string) []Cancellation {
	if newer.Source == pipeline.SourceParent {
		return nil // its parent has decided
	}
	var out []Cancellation
	for _, c := range others {
		age := newer.Created.Sub(c.Created)
		if c.ID == newer.ID || c.SHA == newer.SHA || c.SHA == head || age <= 0 || age > MaxRedundantAge {
			continue
		}
		e := Event{Kind: Cancel, At: newer.Created, Why: fmt.Sprintf("canceled by pipeline %d for a newer commit", newer.ID)}
		switch c.State.plan.autoCancel.OnNewCommit {
		case None:
			continue
		case Interruptible:
			e.Interruptible = true
		default:
			if c.State.committed() {
				continue
			}
		}
		if _, err := c.State.check(e); err != nil {
			continue // nothing to cancel
		}
		out = append(out, Cancellation{Pipeline: c.ID, Event: e})
	}
	slices.SortFunc(out, func(a, b Cancellation) int { return int(a.Pipeline - b.Pipeline) })
	return out
}

// committed tells that a job has started which must not be interrupted. Trigger jobs do not count.
func (s *State) committed() bool {
	for i := range s.Jobs {
		p := &s.plan.jobs[i]
		if !p.interruptible && !p.trigger && setOf(running, success, failed).any(1<<plain[s.Jobs[i].Status]) {
			return true
		}
	}
	return false
}
