package schedule

import (
	"fmt"
	"slices"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// derived is what makes an event cost no more than it changes. It can be had from the data of a state at any time (derive).
type derived struct {
	total  [categories]int32   // jobs of the pipeline by category
	counts [][categories]int32 // jobs of each stage by category
	open   []int32             // jobs of each stage that others wait for
	// frontier is the first stage with open jobs: stages before it are over, those after it wait for it.
	frontier int
	prefix   []set // of the jobs of all stages before this one, right up to index prefixed
	prefixed int

	needsOpen []int32 // of each job: needs that it waits for
	needsGone []int32 // of each job: needs that do not run

	queue   []int32 // created jobs that may be ready
	touched []int   // stages with changes since the last publish
	dirty   []bool  // by stage: it is in touched
	changes []Change
	at      time.Time
	blames  map[int]string // by stage: the job before it for which its jobs are skipped; within one settle
}

func (d *derived) clone() derived {
	c := *d
	c.counts, c.open, c.prefix = slices.Clone(d.counts), slices.Clone(d.open), slices.Clone(d.prefix)
	c.needsOpen, c.needsGone = slices.Clone(d.needsOpen), slices.Clone(d.needsGone)
	c.queue, c.touched, c.dirty = nil, nil, make([]bool, len(d.dirty))
	c.changes, c.blames = nil, nil
	return c
}

// derive counts everything anew.
func (s *State) derive() {
	stages := len(s.plan.stages)
	s.derived = derived{
		counts: make([][categories]int32, stages), open: make([]int32, stages), dirty: make([]bool, stages),
		prefix: make([]set, stages+1), needsOpen: make([]int32, len(s.Jobs)), needsGone: make([]int32, len(s.Jobs)),
	}
	for i := range s.Jobs {
		p, c := &s.plan.jobs[i], s.category(i)
		s.total[c]++
		s.counts[p.stage][c]++
		if !c.closed() {
			s.open[p.stage]++
		}
		for _, d := range p.dependants {
			s.need(int(d), c, 1)
		}
	}
	for s.frontier < stages && s.open[s.frontier] == 0 {
		s.frontier++
	}
}

func (s *State) category(i int) category { return categoryOf(s.Jobs[i].Status, s.Jobs[i].Allowed) }

// need counts a need of this category in (by 1) or out (by -1) of a job.
func (s *State) need(job int, c category, by int32) {
	if c.gone() {
		s.needsGone[job] += by
	}
	if !c.closed() {
		s.needsOpen[job] += by
	}
}

// push asks for a look at a job.
func (s *State) push(job int) { s.queue = append(s.queue, int32(job)) }

// update changes a job, counts that, and asks for a look at those who may go on by it.
func (s *State) update(i int, change func(j *Job)) {
	j, p, before := &s.Jobs[i], &s.plan.jobs[i], s.category(i)
	change(j)
	after := s.category(i)
	if j.Status == pipeline.StatusCreated {
		s.push(i)
	}
	if before == after {
		return
	}
	if !s.dirty[p.stage] {
		s.dirty[p.stage] = true
		s.touched = append(s.touched, p.stage)
	}
	s.total[before]--
	s.total[after]++
	s.counts[p.stage][before]--
	s.counts[p.stage][after]++
	s.prefixed = min(s.prefixed, p.stage)
	if before.closed() != after.closed() {
		if after.closed() {
			s.open[p.stage]--
		} else {
			s.open[p.stage]++
			s.frontier = min(s.frontier, p.stage)
		}
	}
	for _, d := range p.dependants {
		s.need(int(d), before, -1)
		s.need(int(d), after, 1)
		if s.Jobs[d].Status == pipeline.StatusCreated && (s.needsGone[d] > 0 || s.needsOpen[d] == 0) {
			s.push(int(d))
		}
	}
}

// move gives a job another status.
func (s *State) move(i int, to pipeline.Status, why string) {
	from := s.Jobs[i].Status
	s.update(i, func(j *Job) {
		j.Status, j.Why = to, why
		switch to {
		case pipeline.StatusPending:
			j.QueuedAt = s.at
		case pipeline.StatusRunning:
			j.StartedAt = s.at
			if s.StartedAt.IsZero() {
				s.StartedAt = s.at
			}
		case pipeline.StatusSuccess, pipeline.StatusFailed, pipeline.StatusCanceled:
			j.FinishedAt = s.at
		}
		if to != pipeline.StatusScheduled {
			j.ScheduledAt = time.Time{}
		}
	})
	s.changes = append(s.changes, Change{Job: s.Jobs[i].Name, From: from, To: to, Why: why})
}

// settle goes on until no created job can leave that status.
func (s *State) settle() {
	s.blames = nil
	for {
		for at := 0; at < len(s.queue); at++ { // decide may push
			s.decide(int(s.queue[at]))
		}
		s.queue = s.queue[:0]
		if s.frontier == len(s.plan.stages) || s.open[s.frontier] > 0 {
			return
		}
		s.frontier++
		if s.frontier < len(s.plan.stages) {
			for _, i := range s.plan.byStage[s.frontier] {
				s.push(int(i))
			}
		}
	}
}

// decide lets a created job go on if what it waits for is over.
func (s *State) decide(i int) {
	p := &s.plan.jobs[i]
	if s.Jobs[i].Status != pipeline.StatusCreated {
		return
	}
	var before set
	if p.dag {
		if s.needsGone[i] == 0 && s.needsOpen[i] > 0 {
			return
		}
		for _, n := range p.needs {
			before |= 1 << s.category(int(n))
		}
	} else {
		if p.stage > s.frontier {
			return
		}
		before = s.before(p.stage)
	}
	if !p.starts(composite(before, p.dag)) {
		s.move(i, pipeline.StatusSkipped, s.blame(i, before))
		return
	}
	switch {
	case s.Jobs[i].Immediate:
		s.enqueue(i, s.Jobs[i].Why)
	case p.when == pipeline.Delayed && p.startIn > 0:
		due := s.at.Add(p.startIn)
		s.move(i, pipeline.StatusScheduled, "waits for "+p.startIn.String())
		s.Jobs[i].ScheduledAt = due
	case p.when == pipeline.Manual || p.when == pipeline.Delayed:
		s.move(i, pipeline.StatusManual, "waits for a person to play it")
	default:
		s.enqueue(i, p.reasonToStart(len(p.needs)))
	}
}

// starts tells whether a job starts after others that came to this completed status (app/services/ci/process_build_service.rb).
func (p *planned) starts(before pipeline.Status) bool {
	switch p.when {
	case pipeline.OnFailure:
		return before == pipeline.StatusFailed
	case pipeline.Always:
		return before == pipeline.StatusSuccess || before == pipeline.StatusFailed || before == pipeline.StatusSkipped
	default: // on_success, manual, delayed
		return before == pipeline.StatusSuccess || (!p.dag && before == pipeline.StatusSkipped)
	}
}

func (p *planned) reasonToStart(needs int) string {
	switch {
	case p.when == pipeline.OnFailure:
		return "something before it failed"
	case p.when == pipeline.Always:
		return "everything before it is over"
	case p.dag && needs == 0:
		return "it needs no other job"
	case p.dag:
		return "its needs have passed"
	case p.stage == 0:
		return "it is in the first stage"
	default:
		return "the earlier stages have passed"
	}
}

// enqueue makes a job pending, or lets it wait for its resource.
func (s *State) enqueue(i int, why string) {
	if group := s.plan.jobs[i].resourceGroup; group != "" {
		s.move(i, pipeline.StatusWaitingForResource, fmt.Sprintf("waits for the resource group %s", group))
		return
	}
	s.move(i, pipeline.StatusPending, why)
}

// before gives the set of all jobs of earlier stages.
func (s *State) before(stage int) set {
	for ; s.prefixed < stage; s.prefixed++ {
		all := s.prefix[s.prefixed]
		for c, n := range s.counts[s.prefixed] {
			if n > 0 {
				all |= 1 << c
			}
		}
		s.prefix[s.prefixed+1] = all
	}
	return s.prefix[stage]
}

// blame says why a job is skipped, by naming a job for which it is.
func (s *State) blame(i int, before set) string {
	p := &s.plan.jobs[i]
	if p.dag {
		for _, n := range p.needs {
			c := s.category(int(n))
			if c.gone() || (p.when != pipeline.OnFailure && !p.starts(composite(1<<c, true))) {
				return s.accuse(int(n), "need")
			}
		}
		return "nothing that it needs failed"
	}
	if p.when == pipeline.OnFailure && !before.any(setOf(failed)) {
		return "nothing before it failed"
	}
	why, ok := s.blames[p.stage]
	if !ok {
		why = "the earlier stages did not pass"
		for k := range s.Jobs {
			if c := s.category(k); s.plan.jobs[k].stage < p.stage && (c == failed || c == canceled) {
				why = s.accuse(k, "job")
				break
			}
		}
		if s.blames == nil {
			s.blames = map[int]string{}
		}
		s.blames[p.stage] = why
	}
	return why
}

// accuse says what a job did that its dependants are skipped for.
func (s *State) accuse(i int, role string) string {
	did := "was " + string(s.Jobs[i].Status)
	switch s.Jobs[i].Status {
	case pipeline.StatusFailed:
		did = "failed"
	case pipeline.StatusSuccess:
		did = "succeeded"
	case pipeline.StatusManual:
		did = "has not been played"
	}
	return fmt.Sprintf("%s %q %s", role, s.Jobs[i].Name, did)
}

// publish gives the stages that have changed and the pipeline their statuses.
func (s *State) publish() {
	slices.Sort(s.touched)
	for _, i := range s.touched {
		s.dirty[i] = false
		var all set
		for c, n := range s.counts[i] {
			if n > 0 {
				all |= 1 << c
			}
		}
		st := &s.Stages[i]
		if to := stageStatus(st.Status, composite(all, false)); to != st.Status {
			s.changes = append(s.changes, Change{Stage: st.Name, From: st.Status, To: to})
			st.Status = to
		}
	}
	s.touched = s.touched[:0]
	var all set
	for c, n := range s.total {
		if n > 0 {
			all |= 1 << c
		}
	}
	if to := pipelineStatus(s.Status, composite(all, false)); to != s.Status {
		s.changes = append(s.changes, Change{From: s.Status, To: to})
		s.Status = to
	}
	switch {
	case !s.Status.Completed():
		s.FinishedAt = time.Time{}
	case s.FinishedAt.IsZero():
		s.FinishedAt = s.at
	}
}
