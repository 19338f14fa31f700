package schedule

import "keelson.dev/keelson/internal/pipeline"

// category is what a job counts as where several are taken together: its status, but an allowed failure or cancellation is warned,
// and an allowed manual job that nobody has played is ignored.
type category uint8

const (
	created category = iota
	waitingForResource
	preparing
	waitingForCallback
	pending
	running
	success
	failed
	canceling
	canceled
	skipped
	manual
	scheduled
	warned
	ignored
	categories = iota
)

// plain is the category of each status where allow_failure does not matter.
var plain = map[pipeline.Status]category{
	pipeline.StatusCreated:            created,
	pipeline.StatusWaitingForResource: waitingForResource,
	pipeline.StatusPreparing:          preparing,
	pipeline.StatusWaitingForCallback: waitingForCallback,
	pipeline.StatusPending:            pending,
	pipeline.StatusRunning:            running,
	pipeline.StatusSuccess:            success,
	pipeline.StatusFailed:             failed,
	pipeline.StatusCanceling:          canceling,
	pipeline.StatusCanceled:           canceled,
	pipeline.StatusSkipped:            skipped,
	pipeline.StatusManual:             manual,
	pipeline.StatusScheduled:          scheduled,
}

func categoryOf(status pipeline.Status, allowed bool) category {
	c := plain[status]
	switch {
	case allowed && (c == failed || c == canceled):
		return warned
	case allowed && c == manual:
		return ignored
	default:
		return c
	}
}

// set is a set of categories.
type set uint16

func setOf(cs ...category) set {
	var s set
	for _, c := range cs {
		s |= 1 << c
	}
	return s
}

// closed are the categories of jobs that hold up nobody.
var closed = setOf(success, failed, canceled, skipped, warned, ignored)

func (s set) any(of set) bool  { return s&of != 0 }
func (s set) only(of set) bool { return s&^of == 0 }
func (c category) closed() bool {
	return closed&(1<<c) != 0
}

// gone tells of a need that it does not run, for which its dependants are skipped.
func (c category) gone() bool { return c == skipped || c == ignored }

// composite is the one status that several jobs come to; none: success. dag: the jobs are the needs of another one.
// The order of the cases is GitLab's (lib/gitlab/ci/status/composite.rb).
func composite(s set, dag bool) pipeline.Status {
	passed := setOf(success, skipped, warned, ignored)
	switch {
	case s == 0:
		return pipeline.StatusSuccess
	case dag && s.any(setOf(skipped, ignored)):
		return pipeline.StatusSkipped
	case s.only(setOf(skipped, ignored)):
		return pipeline.StatusSkipped
	case s.only(passed):
		return pipeline.StatusSuccess
	case s.only(setOf(created, warned, ignored)):
		return pipeline.StatusCreated
	case s.only(setOf(preparing, warned, ignored)):
		return pipeline.StatusPreparing
	case s.only(passed | setOf(canceled)):
		return pipeline.StatusCanceled
	case s.only(setOf(pending, created, skipped, warned, ignored)):
		return pipeline.StatusPending
	case s.any(setOf(running, pending)):
		return pipeline.StatusRunning
	case s.any(setOf(waitingForResource)):
		return pipeline.StatusWaitingForResource
	case s.any(setOf(waitingForCallback)):
		return pipeline.StatusWaitingForCallback
	case s.any(setOf(manual)):
		return pipeline.StatusManual
	case s.any(setOf(scheduled)):
		return pipeline.StatusScheduled
	case s.any(setOf(preparing)):
		return pipeline.StatusPreparing
	case s.any(setOf(created)):
		return pipeline.StatusRunning
	case s.any(setOf(canceling)):
		return pipeline.StatusCanceling
	default:
		return pipeline.StatusFailed
	}
}

// stageStatus is the status that a stage shows after its jobs have come to another one: "created" is never taken on, so that a stage
// that is opened again shows what it was (app/models/ci/stage.rb).
func stageStatus(from, to pipeline.Status) pipeline.Status {
	if to == pipeline.StatusCreated {
		return from
	}
	return to
}

// pipelineStatus is the same of a pipeline, which never goes back from running to pending, and which runs when it is taken up again
// after its end (app/models/ci/pipeline.rb).
func pipelineStatus(from, to pipeline.Status) pipeline.Status {
	switch to {
	case pipeline.StatusCreated:
		return from
	case pipeline.StatusPending:
		switch from {
		case pipeline.StatusSuccess, pipeline.StatusFailed, pipeline.StatusCanceling, pipeline.StatusCanceled, pipeline.StatusRunning:
			return pipeline.StatusRunning
		case pipeline.StatusWaitingForCallback:
			return from
		}
	case pipeline.StatusCanceling:
		if from == pipeline.StatusCanceled {
			return from
		}
	}
	return to
}
