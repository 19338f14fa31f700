package ci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/run"
	"keelson.dev/keelson/internal/store"
)

// maxChain is how many pipelines of projects may start each other, one after the other.
const maxChain = 10

// startOther makes the pipeline of another project for a trigger job of a pipeline. The other project has to let this one's pipelines read it.
func (s *Server) startOther(ctx context.Context, p Project, sha string, from Event, t run.Trigger) error {
	other, err := s.o.Projects.Named(ctx, t.Project)
	if errors.Is(err, ErrNoProject) || err == nil && !p.Reads(other) {
		return fmt.Errorf("there is no project %s, or its Project does not name %s in readableBy", t.Project, p.Path)
	}
	if err != nil {
		return err
	}
	by, err := s.asked(ctx, run.JobRef{Pipeline: t.ParentID, Job: t.Job.Name, ID: t.JobID})
	if err != nil {
		return err
	}
	e := Event{
		Project: other.Path, Source: pipeline.SourcePipeline, User: by.user, Variables: t.Variables, Inputs: t.Job.Trigger.Inputs, IgnoreSkip: true,
		Upstream: t.JobID, Chain: append(slices.Clone(from.Chain), p.Path+"@"+sha), PipelineID: t.ID,
	}
	if e.Ref, err = FullRef(other, t.Branch); err != nil {
		return err
	}
	if e.SHA, err = resolve(other.Dir, e.Ref); err != nil {
		return fmt.Errorf("project %s has no branch or tag %s", other.Path, t.Branch)
	}
	if err := e.looped(); err != nil {
		return err
	}
	made, err := s.Create(ctx, e)
	if err == nil && made.Status == string(pipeline.StatusFailed) && made.Resting {
		err = fmt.Errorf("pipeline %d has failed: %s", made.ID, made.Why)
	}
	return err
}

// looped says why the pipelines before an event's may not start one more. As with GitLab's trigger jobs once around is none of our business: a
// project may start itself, with other variables say.
func (e Event) looped() error {
	times := 0
	for _, before := range e.Chain {
		if before == e.Project+"@"+e.SHA {
			times++
		}
	}
	switch {
	case times > 1:
		return fmt.Errorf("pipelines of project %s for this commit have started each other twice already: they would go on for ever", e.Project)
	case len(e.Chain) > maxChain:
		return fmt.Errorf("%d pipelines have started each other already, which is the most", maxChain)
	}
	return nil
}

// ByJob makes an event that of a job which runs: whose it is, and which pipelines have started each other before. An error says why that job
// may start no more. The event's Ref is known.
func (s *Server) ByJob(ctx context.Context, e Event, id int64) (Event, error) {
	job, err := s.o.Store.Job(ctx, id)
	if err != nil {
		return e, err
	}
	by, err := s.asked(ctx, run.JobRef{Pipeline: job.Pipeline, Job: job.Name, ID: id})
	if err != nil {
		return e, err
	}
	root, err := s.rootOf(ctx, job.Pipeline)
	if err != nil {
		return e, err
	}
	from, err := s.o.Store.Saved(ctx, root) // children have no event of their own
	if err != nil {
		return e, err
	}
	var before Event
	if err := json.Unmarshal(from.Event, &before); err != nil {
		return e, fmt.Errorf("pipeline %d: %w: its event: %w", root, errUnreadable, err)
	}
	p, err := s.o.Projects.Named(ctx, e.Project)
	if err != nil {
		return e, err
	}
	if e.SHA, err = resolve(p.Dir, e.Ref); err != nil {
		return e, fmt.Errorf("project %s: %w", e.Project, err)
	}
	e.Source, e.User, e.Upstream = pipeline.SourcePipeline, by.user, id
	e.Chain = append(slices.Clone(before.Chain), before.Project+"@"+by.of.SHA)
	return e, e.looped()
}

// followed adds the pipelines of other projects that jobs of a pipeline wait for.
func (s *Server) followed(ctx context.Context, of *saved, into *run.Pipeline) error {
	for _, j := range of.jobs {
		at := indexOf(of.graph, j.Name)
		if at < 0 || of.graph.Jobs[at].Trigger == nil || of.graph.Jobs[at].Trigger.Project == "" {
			continue
		}
		rows, err := s.o.Store.Pipelines(ctx, store.PipelineFilter{Upstream: j.ID, Top: true})
		if err != nil {
			return err
		}
		for _, row := range rows {
			into.Followed = append(into.Followed, run.Followed{
				ID: row.ID, Parent: of.row.ID, Job: j.Name, Attempt: j.Attempt, Status: pipeline.Status(row.Status),
			})
		}
	}
	return nil
}
