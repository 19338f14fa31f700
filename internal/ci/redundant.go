package ci

import (
	"context"
	"errors"
	"slices"

	"keelson.dev/keelson/internal/pipeline/run"
	"keelson.dev/keelson/internal/pipeline/schedule"
	"keelson.dev/keelson/internal/store"
)

// commandSupersede is the kind of the command that cancels what a new pipeline makes redundant. As a command it is done after a restart, too,
// and not while somebody waits for the new pipeline.
const commandSupersede = "supersede"

// mostRedundant is how many pipelines a new one cancels at most; GitLab stops at three times as many.
const mostRedundant = 1000

// supersede lets older pipelines of its ref be canceled that a new pipeline makes redundant.
func (s *Server) supersede(ctx context.Context, p Project, newer store.Pipeline) {
	if p.KeepRedundant {
		return
	}
	others, err := s.older(ctx, newer)
	if err == nil && len(others) > 0 {
		_, err = s.o.Store.Enqueue(ctx, store.Command{Kind: commandSupersede, Project: newer.Project, Pipeline: newer.ID, User: newer.User})
	}
	if err != nil {
		s.o.Log.Error("cancel what a new pipeline makes redundant", "pipeline", newer.ID, "error", err)
	}
}

// older gives the pipelines of a pipeline's ref that are not over and are about another commit, child pipelines too.
func (s *Server) older(ctx context.Context, newer store.Pipeline) ([]store.Pipeline, error) {
	rows, err := s.o.Store.Pipelines(ctx, store.PipelineFilter{Project: newer.Project, Ref: newer.Ref, Open: true, Limit: mostRedundant})
	return slices.DeleteFunc(rows, func(o store.Pipeline) bool { return o.SHA == newer.SHA || o.Tag != newer.Tag }), err
}

// cancelRedundant cancels what a new pipeline makes redundant.
func (s *Server) cancelRedundant(ctx context.Context, id int64) error {
	newer, err := s.o.Store.Pipeline(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	named, err := s.o.Store.Projects(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(named, func(p store.Project) bool { return p.ID == newer.Project })
	if at < 0 {
		return nil
	}
	p, err := s.o.Projects.Named(ctx, named[at].Name)
	if err != nil && p.Dir == "" {
		return err
	}
	ref := "refs/heads/" + newer.Ref
	if newer.Tag {
		ref = "refs/tags/" + newer.Ref
	}
	head, err := resolve(p.Dir, ref)
	if err != nil {
		head = "" // the branch is gone: it protects no commit
	}
	others, err := s.older(ctx, newer)
	if err != nil {
		return err
	}
	for _, o := range others {
		if s.committed[o.ID] {
			continue
		}
		err := s.cancelIfRedundant(ctx, newer, o, head)
		if errors.Is(err, run.ErrEnded) || ctx.Err() != nil {
			return err
		}
		if err != nil {
			s.o.Log.Error("cancel what a new pipeline makes redundant", "pipeline", o.ID, "by", newer.ID, "error", err)
		}
	}
	return nil
}

// cancelIfRedundant cancels one pipeline if a newer one makes it redundant.
func (s *Server) cancelIfRedundant(ctx context.Context, newer, o store.Pipeline, head string) error {
	root, err := s.rootOf(ctx, o.ID)
	if err != nil {
		return err
	}
	created := o.Created
	if root != o.ID {
		first, err := s.o.Store.Pipeline(ctx, root)
		if err != nil {
			return err
		}
		created = first.Created
	}
	by := schedule.Candidate{ID: newer.ID, SHA: newer.SHA, Source: newer.Source, Created: newer.Created}
	decide := func(state *schedule.State) (schedule.Event, bool) {
		out := schedule.Redundant(by, []schedule.Candidate{{ID: o.ID, SHA: o.SHA, Source: o.Source, Created: created, State: state}}, head)
		if len(out) == 0 {
			return schedule.Event{}, false
		}
		out[0].Event.At = s.o.Now()
		return out[0].Event, true
	}
	command := run.Command{Pipeline: o.ID, Decide: decide}
	if err := s.engine.Do(ctx, command); !errors.Is(err, run.ErrNotHere) {
		return err
	}
	v, _, err := s.read(ctx, o)
	if err != nil {
		return err
	}
	if _, wanted := decide(v.state); !wanted {
		if o.SHA != head && created.Before(newer.Created) {
			s.committed[o.ID] = true // it rests, so this stays as it is
		}
		return nil
	}
	return s.takeUp(ctx, root, command)
}
