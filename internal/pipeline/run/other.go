package run

import (
	"context"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
)

// other is a pipeline of another project that a trigger job waits for.
type other struct {
	by    attempt
	made  bool            // it is there
	ended pipeline.Status // it was over before anybody knew that it is there; empty: it was not
}

// startOther makes the pipeline of another project for a trigger job.
func (e *engine) startOther(ctx context.Context, a attempt, w *work, trace *executor.Trace, over func(executor.Result)) {
	p, j := a.play, &a.play.graph.Jobs[a.job]
	if p.Start == nil {
		over(executor.Failed(pipeline.DownstreamFailure, "the pipeline of project %s cannot be started: only child pipelines of this project are played here", j.Trigger.Project))
		return
	}
	t := Trigger{Parent: p.graph, ParentID: p.id, Job: j, JobID: w.ref.ID, ID: e.o.NextID()}
	o := &other{by: a}
	e.others[t.ID] = o // before there is one: it may be over before it is known here
	e.launch = append(e.launch, func() {
		err := p.may(ctx, t)
		if err == nil {
			err = w.takeVariables(ctx)
		}
		if err == nil {
			t.Variables = forwarded(&w.job.Job)
			t.Project, t.Branch = w.job.Variables.ExpandServer(j.Trigger.Project), w.job.Variables.ExpandServer(j.Trigger.Branch)
			trace.Printf("Making pipeline %d of project %s", t.ID, t.Project)
			err = p.Start(ctx, t)
		}
		e.inbox <- func() {
			o.made = true
			waits := j.Trigger.Strategy != "" && err == nil && !e.leaving && a.current(pipeline.StatusRunning) && o.ended == ""
			if !waits {
				delete(e.others, t.ID)
			}
			switch {
			case e.leaving || !a.current(pipeline.StatusRunning): // canceled in the meantime
				over(executor.Canceled())
			case err != nil:
				over(unmade("the pipeline of project "+t.Project, err))
			case j.Trigger.Strategy == "":
				over(executor.Succeeded())
			case o.ended != "":
				over(came(t.ID, o.ended))
			default:
				_ = trace.Close()
				e.active-- // the other pipeline's jobs count by themselves
			}
		}
	})
}

// arrived tells the trigger job that waits for a pipeline of another project how that ended.
func (e *engine) arrived(id int64, o *other, status pipeline.Status) {
	if o.ended = status; !o.made {
		return
	}
	delete(e.others, id)
	e.conclude(o.by, id, status)
}

// abandon ends a trigger job that was canceled while it waited for a pipeline of another project, which goes on.
func (e *engine) abandon(a attempt) {
	for id, o := range e.others {
		if o.by == a && o.made {
			delete(e.others, id)
			e.active++ // over counts it out again
			e.over(a, executor.Canceled(), extras{})
			return
		}
	}
}

// await goes on waiting for pipelines of other projects, and gives the attempts that wait or know by now what they have waited for.
func (e *engine) await(all []Followed) map[attempt]bool {
	waiting := map[attempt]bool{}
	for _, f := range all {
		p := e.byID[f.Parent]
		if p == nil {
			continue
		}
		i, ok := p.index[f.Job]
		a := attempt{p, i, f.Attempt}
		running := ok && a.current(pipeline.StatusRunning)
		if !ok || !running && !a.current(pipeline.StatusCanceling) {
			continue
		}
		waiting[a] = true
		result := came(f.ID, f.Status)
		switch {
		case !running:
			result = executor.Canceled()
		case p.graph.Jobs[i].Trigger == nil || p.graph.Jobs[i].Trigger.Strategy == "":
			result = executor.Succeeded()
		case !f.Status.Completed():
			e.others[f.ID] = &other{by: a, made: true}
			continue
		}
		e.active++ // over counts it out again
		e.over(a, result, extras{})
	}
	return waiting
}
