package schedule

import (
	"cmp"
	"fmt"
	"slices"

	"keelson.dev/keelson/internal/pipeline"
)

// Failures that are retried although the job does not say so, and those that never are whatever it says
// (lib/gitlab/ci/build/auto_retry.rb).
var (
	retriedAnyway = map[pipeline.FailureReason]int{pipeline.SchedulerFailure: 2}
	neverRetried  = map[pipeline.FailureReason]bool{
		"ci_quota_exceeded":          true,
		"no_matching_runner":         true,
		pipeline.MissingDependency:   true,
		"forward_deployment_failure": true,
		pipeline.EnvironmentFailure:  true,
		// A new attempt would not be older than what it must not replace, and nobody else's.
		pipeline.OutdatedDeployment:   true,
		pipeline.ProtectedEnvironment: true,
	}
)

// retries tells how often a job is run again by itself after this failure.
func (p *planned) retries(reason pipeline.FailureReason, code int) int {
	if neverRetried[reason] {
		return 0
	}
	r := p.retry
	always := len(r.When) == 0 && len(r.ExitCodes) == 0
	for _, w := range r.When {
		always = always || w == "always" || w == string(reason)
	}
	if r.Max > 0 && (always || (code != 0 && slices.Contains(r.ExitCodes, code))) {
		return r.Max
	}
	return retriedAnyway[reason]
}

// again makes a new attempt of a job. immediate: it waits neither for a person nor for its time.
func (s *State) again(i int, why string, immediate bool) {
	from := s.Jobs[i].Status
	s.update(i, func(j *Job) {
		*j = Job{
			Name: j.Name, Status: pipeline.StatusCreated, Why: why, Attempt: j.Attempt + 1, Allowed: s.plan.jobs[i].allowed(), Immediate: immediate,
			Variables: j.Variables,
		}
	})
	s.changes = append(s.changes, Change{Job: s.Jobs[i].Name, From: from, To: pipeline.StatusCreated, Why: why})
}

// retry runs jobs again: those that are named at once, those of a retry of all failed ones by the rules, as GitLab does, so that a
// manual job waits again for a person.
func (s *State) retry(jobs []int, e Event) {
	named := len(e.Jobs) > 0
	for _, i := range jobs {
		s.again(i, because(e, "retried"), named)
		s.Jobs[i].By = e.By
	}
	switch {
	case !named:
		for i := range s.Jobs {
			s.reset(i, e)
		}
	case e.Dependants:
		why := because(e, "retried with "+quoted(e.Jobs))
		for i, after := range s.after(jobs) {
			if !after || slices.Contains(jobs, i) || s.Jobs[i].Status == pipeline.StatusCreated {
				continue
			}
			if setOf(success, failed, canceled).any(1 << plain[s.Jobs[i].Status]) {
				s.again(i, why, false)
				s.Jobs[i].By = e.By
				continue
			}
			s.Jobs[i].By = cmp.Or(e.By, s.Jobs[i].By)
			s.move(i, pipeline.StatusCreated, why)
		}
	default:
		s.reopen(jobs, e)
	}
}

func quoted(names []string) string {
	if len(names) > 1 {
		return fmt.Sprintf("%q and %d more", names[0], len(names)-1)
	}
	return fmt.Sprintf("%q", names[0])
}

// after marks the jobs that wait for one of these or for one of those that do; the jobs themselves only where one waits for another.
func (s *State) after(jobs []int) []bool {
	marked, seen := make([]bool, len(s.Jobs)), make([]bool, len(s.Jobs))
	todo, from := slices.Clone(jobs), len(s.plan.stages)
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[i] {
			continue
		}
		seen[i] = true
		p := &s.plan.jobs[i]
		for _, d := range p.dependants {
			marked[d] = true
			todo = append(todo, int(d))
		}
		for stage := p.stage + 1; stage < from; stage++ {
			for _, d := range s.plan.byStage[stage] {
				marked[d] = true
				todo = append(todo, int(d))
			}
		}
		from = min(from, p.stage+1)
	}
	return marked
}

// checkDependants refuses to run jobs again whose dependants are being worked on.
func (s *State) checkDependants(jobs []int) error {
	for i, after := range s.after(jobs) {
		if after && !slices.Contains(jobs, i) && setOf(preparing, waitingForCallback, running, canceling).any(1<<plain[s.Jobs[i].Status]) {
			return fmt.Errorf("retry: job %q, which comes after %q, is %s; cancel it or wait for it", s.Jobs[i].Name, s.Jobs[jobs[0]].Name, s.Jobs[i].Status)
		}
	}
	return nil
}

// reopen lets skipped jobs that come after these be decided anew: those that need them, directly or not, and all of later stages
// (app/services/ci/reset_skipped_jobs_service.rb).
func (s *State) reopen(jobs []int, e Event) {
	first := len(s.plan.stages)
	seen := make(map[int]bool, len(jobs))
	todo := slices.Clone(jobs)
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[i] {
			continue
		}
		seen[i] = true
		s.reset(i, e)
		for _, d := range s.plan.jobs[i].dependants {
			todo = append(todo, int(d))
		}
	}
	for _, i := range jobs {
		first = min(first, s.plan.jobs[i].stage)
	}
	for i := range s.Jobs {
		if s.plan.jobs[i].stage > first {
			s.reset(i, e)
		}
	}
}

// reset makes a skipped job created, which is whose wish that was.
func (s *State) reset(i int, e Event) {
	if s.Jobs[i].Status == pipeline.StatusSkipped {
		s.Jobs[i].By = cmp.Or(e.By, s.Jobs[i].By)
		s.move(i, pipeline.StatusCreated, "decided anew")
	}
}
