package schedule

import (
	"fmt"
	"slices"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// Apply takes in an event and gives what has changed by it, jobs in the order of events and then stages and the pipeline.
// An error is about an event that makes no sense now; the state is as it was.
func (s *State) Apply(e Event) ([]Change, error) {
	jobs, err := s.check(e)
	if err != nil {
		return nil, err
	}
	s.at = e.At
	switch e.Kind {
	case Play:
		s.play(jobs, e)
	case Enqueue:
		for _, i := range jobs {
			s.enqueue(i, because(e, "enqueued"))
		}
	case Grant:
		for _, i := range jobs {
			s.move(i, pipeline.StatusPending, because(e, "its resource group is free"))
		}
	case Run:
		for _, i := range jobs {
			s.move(i, pipeline.StatusRunning, because(e, "started"))
		}
	case Success:
		for _, i := range jobs {
			if !s.finishCancel(i) {
				s.move(i, pipeline.StatusSuccess, because(e, "succeeded"))
			}
		}
	case Drop:
		for _, i := range jobs {
			s.drop(i, e)
		}
	case Cancel:
		for _, i := range jobs {
			s.cancel(i, e.Force, because(e, "canceled"))
		}
	case Retry:
		s.retry(jobs, e)
	case Due:
		for _, i := range jobs {
			s.enqueue(i, because(e, "its time has come"))
		}
	case Unschedule:
		for _, i := range jobs {
			s.move(i, pipeline.StatusManual, because(e, "taken off its timer"))
		}
	}
	s.settle()
	s.publish()
	changes := s.changes
	s.changes = nil
	return changes, nil
}

func because(e Event, otherwise string) string {
	if e.Why != "" {
		return e.Why
	}
	return otherwise
}

// takes are the statuses in which a job takes an event (app/models/commit_status.rb, app/models/ci/processable.rb).
var takes = map[Kind]set{
	Play:       setOf(manual, scheduled, success, failed, canceled),
	Enqueue:    setOf(created, skipped, manual, scheduled),
	Grant:      setOf(waitingForResource),
	Run:        setOf(pending),
	Success:    setOf(created, waitingForResource, preparing, waitingForCallback, pending, running, canceling),
	Drop:       setOf(created, waitingForResource, preparing, waitingForCallback, pending, running, canceling, manual, scheduled),
	Cancel:     setOf(created, waitingForResource, preparing, waitingForCallback, pending, running, manual, scheduled),
	Retry:      setOf(success, failed, canceled),
	Due:        setOf(scheduled),
	Unschedule: setOf(scheduled),
}

// check finds the jobs of an event and whether each of them can take it.
func (s *State) check(e Event) ([]int, error) {
	allowed, ok := takes[e.Kind]
	if !ok {
		return nil, fmt.Errorf("unknown event %q: it is one of play, enqueue, run, success, drop, cancel, retry, due, unschedule", e.Kind)
	}
	if e.Kind == Cancel && e.Force {
		allowed |= setOf(canceling)
	}
	if len(e.Jobs) == 0 {
		return s.checkPipeline(e, allowed)
	}
	jobs, seen := make([]int, 0, len(e.Jobs)), make(map[int]bool, len(e.Jobs))
	for _, name := range e.Jobs {
		i, ok := s.plan.index[name]
		if !ok {
			return nil, fmt.Errorf("%s: there is no job %q in the pipeline", e.Kind, name)
		}
		if seen[i] {
			return nil, fmt.Errorf("%s: job %q is named twice", e.Kind, name)
		}
		seen[i] = true
		if err := s.checkJob(i, e, allowed); err != nil {
			return nil, err
		}
		jobs = append(jobs, i)
	}
	if e.Kind == Retry && e.Dependants {
		if err := s.checkDependants(jobs); err != nil {
			return nil, err
		}
	}
	return jobs, nil
}

func (s *State) checkJob(i int, e Event, allowed set) error {
	j, p := &s.Jobs[i], &s.plan.jobs[i]
	if !allowed.any(1 << plain[j.Status]) {
		hint := ""
		switch {
		case e.Kind == Retry && j.Status == pipeline.StatusSkipped:
			hint = "; retry the job for which it was skipped"
		case e.Kind == Retry && j.Status == pipeline.StatusManual:
			hint = "; play it"
		case e.Kind == Retry && j.Status == pipeline.StatusCanceling:
			hint = "; wait until it is canceled"
		}
		return fmt.Errorf("%s: job %q is %s%s", e.Kind, j.Name, j.Status, hint)
	}
	switch {
	case e.Kind == Play && p.when != pipeline.Manual && p.when != pipeline.Delayed:
		return fmt.Errorf("play: job %q is neither manual nor delayed, but %s; retry runs it again", j.Name, p.when)
	case len(e.Variables) > 0 && e.Kind != Play:
		return fmt.Errorf("%s: only who plays a job gives it variables", e.Kind)
	case len(e.Variables) > 0 && p.trigger:
		return fmt.Errorf("play: job %q starts another pipeline, and takes no variables by hand", j.Name)
	case e.Kind == Due && e.At.Before(j.ScheduledAt):
		return fmt.Errorf("due: job %q is due at %s", j.Name, j.ScheduledAt.UTC().Format("2006-01-02T15:04:05Z"))
	}
	return nil
}

// checkPipeline finds the jobs of an event for the whole pipeline.
func (s *State) checkPipeline(e Event, allowed set) ([]int, error) {
	var jobs []int
	switch e.Kind {
	case Cancel:
		for i := range s.Jobs {
			if allowed.any(1<<plain[s.Jobs[i].Status]) && (!e.Interruptible || s.plan.jobs[i].interruptible) {
				jobs = append(jobs, i)
			}
		}
		if len(jobs) == 0 {
			return nil, fmt.Errorf("cancel: nothing can be canceled, the pipeline is %s", s.Status)
		}
	case Retry:
		for i := range s.Jobs {
			if st := s.Jobs[i].Status; st == pipeline.StatusFailed || st == pipeline.StatusCanceled {
				jobs = append(jobs, i)
			}
		}
		if len(jobs) == 0 {
			return nil, fmt.Errorf("retry: no job has failed or was canceled")
		}
	case Due:
		if s.total[scheduled] > 0 {
			for i := range s.Jobs {
				if s.Jobs[i].Status == pipeline.StatusScheduled && !e.At.Before(s.Jobs[i].ScheduledAt) {
					jobs = append(jobs, i)
				}
			}
		}
	default:
		return nil, fmt.Errorf("%s: no job is named", e.Kind)
	}
	return jobs, nil
}

// play starts manual and scheduled jobs, and completed ones anew as GitLab does when the button is pressed again.
func (s *State) play(jobs []int, e Event) {
	for _, i := range jobs {
		if len(e.Variables) > 0 {
			s.Jobs[i].Variables = slices.Clone(e.Variables)
		}
		if s.Jobs[i].Status.Completed() {
			s.again(i, because(e, "played again"), true)
			s.Jobs[i].By = e.By
			continue
		}
		s.Jobs[i].By = e.By
		s.enqueue(i, because(e, "played"))
	}
	s.reopen(jobs, e)
}

// finishCancel ends a job that was told to stop, however it ended; false: it was not.
func (s *State) finishCancel(i int) bool {
	if s.Jobs[i].Status != pipeline.StatusCanceling {
		return false
	}
	s.move(i, pipeline.StatusCanceled, s.Jobs[i].Why)
	return true
}

// drop takes in a failure: the job runs again by itself, or it has failed, which may end the pipeline.
func (s *State) drop(i int, e Event) {
	j, p := &s.Jobs[i], &s.plan.jobs[i]
	if j.Status.Completed() || s.finishCancel(i) { // canceled by another job of the same event
		return
	}
	reason := e.Reason
	if reason == "" {
		reason = pipeline.UnknownFailure
	}
	e.ExitCode = max(e.ExitCode, 0)
	why := because(e, describe(reason, e.ExitCode))
	s.update(i, func(j *Job) {
		j.Reason, j.ExitCode = reason, e.ExitCode
		if e.ExitCode > 0 && p.allow.Allows(e.ExitCode) {
			j.Allowed = true
		}
	})
	s.move(i, pipeline.StatusFailed, why)
	if most := p.retries(reason, e.ExitCode); !p.trigger && j.Attempt <= most {
		s.again(i, fmt.Sprintf("retry %d of %d: %s", j.Attempt, most, why), true)
		s.reopen([]int{i}, e)
		return
	}
	if s.plan.autoCancel.OnJobFailure == "all" && !j.Allowed {
		for k := range s.Jobs {
			if takes[Cancel].any(1 << plain[s.Jobs[k].Status]) {
				s.cancel(k, false, fmt.Sprintf("job %q failed, and workflow:auto_cancel:on_job_failure is all", j.Name))
			}
		}
	}
}

func describe(reason pipeline.FailureReason, code int) string {
	text := strings.ReplaceAll(string(reason), "_", " ")
	if code != 0 {
		return fmt.Sprintf("%s, exit code %d", text, code)
	}
	return text
}

// cancel stops a job.
func (s *State) cancel(i int, force bool, why string) {
	if s.Jobs[i].Status == pipeline.StatusRunning && !force {
		s.move(i, pipeline.StatusCanceling, why)
		return
	}
	s.move(i, pipeline.StatusCanceled, why)
}
