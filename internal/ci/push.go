package ci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/store"
)

// Push is what a push has changed in a repository.
type Push struct {
	Repository string
	User       string
	Changes    []RefChange
	Options    []string // of git push -o
	// Audit is what is recorded of it, with the command that it is until its pipelines are made.
	Audit []audit.Entry `json:"-"`
	Job   int64         `json:"-"` // that pushed, as long as it runs; 0: none did
}

// RefChange is a ref that has changed: full name, and commits; a commit of zeroes: the ref was not there, or is not there any more.
type RefChange struct{ Ref, Before, After string }

const zeroes = "0000000000000000000000000000000000000000"

// maxRefs is how many pipelines one push makes at most (GitLab: git_push_create_all_pipelines is off, and the limit is 3 there; more is meant
// here for who moves a few branches at once).
const maxRefs = 10

// commandPush is the kind of the command that a push is until its pipelines are made.
const commandPush = "push"

// Pushed makes the pipelines of a push, in the order of pushes of each repository. It does not wait for them: once it returns the store has
// the push, and the next process makes them where this one ends before.
func (s *Server) Pushed(p Push) {
	s.pushes.add(p)
	ctx := context.WithoutCancel(s.lifetime())
	data, err := json.Marshal(p)
	if err == nil {
		_, err = s.o.Store.Enqueue(ctx, store.Command{Kind: commandPush, User: p.User, Args: data, Audit: p.Audit})
	}
	if err == nil {
		return
	}
	if s.o.Record != nil {
		for _, e := range p.Audit {
			s.o.Record(e)
		}
	}
	s.o.Log.Error("keep a push; its pipelines are lost if this process ends now", "repository", p.Repository, "error", err)
	s.queue(p.Repository, func(ctx context.Context) { s.pipelinesOf(ctx, p, s.o.Now(), func() {}) })
}

// queuePush makes the pipelines of a push that was kept, and answers it. Where this process ends before, the next one does what is left.
func (s *Server) queuePush(c store.Command) {
	var p Push
	if err := json.Unmarshal(c.Args, &p); err != nil {
		s.o.Log.Error("read a push", "error", err)
	}
	s.queue(p.Repository, func(ctx context.Context) {
		s.pipelinesOf(ctx, p, c.Created, func() {
			if err := s.o.Store.Answer(context.WithoutCancel(ctx), c.ID, ""); err != nil {
				s.o.Log.Error("answer a push", "repository", p.Repository, "error", err)
			}
		})
	})
}

// pipelinesOf makes the pipelines of a push that was at a time. Projects do not wait for each other; done is called when all have theirs.
func (s *Server) pipelinesOf(ctx context.Context, p Push, at time.Time, done func()) {
	var projects []Project
	var left error
	if !s.again(ctx, at, "find the projects of a push", p.Repository, func() (err error) {
		if projects, err = s.o.Projects.Of(ctx, p.Repository); len(projects) > 0 {
			left, err = err, nil
		}
		return err
	}) {
		return
	}
	open := int64(1)
	over := func() {
		if atomic.AddInt64(&open, -1) == 0 {
			done()
		}
	}
	queued := map[string]bool{}
	each := func(late bool) {
		for _, project := range projects {
			if queued[project.Path] || project.Suspended {
				continue
			}
			queued[project.Path] = true
			atomic.AddInt64(&open, 1)
			s.queue("pushes to "+project.Path, func(ctx context.Context) {
				if late && s.movedOn(project, p) {
					s.o.Log.Warn("a push makes no pipeline: there is a newer one", "project", project.Path)
				} else if !s.again(ctx, at, "stop the environments of deleted branches", project.Path, func() error { return s.deleted(ctx, project, p) }) ||
					!s.again(ctx, at, "make the pipelines of a push", project.Path, func() error { return s.pushed(ctx, project, p, at) }) {
					return
				}
				over()
			})
		}
	}
	each(false)
	if left == nil {
		over()
		return
	}
	s.queue("left out of "+p.Repository, func(ctx context.Context) { // the others' next pushes do not wait for these
		if s.again(ctx, at, "find the projects of a push", p.Repository, func() (err error) {
			projects, err = s.o.Projects.Of(ctx, p.Repository)
			each(true)
			return err
		}) {
			over()
		}
	})
}

// again does something that belongs to a push or a schedule until it succeeds or is too late; false: ctx has ended before.
func (s *Server) again(ctx context.Context, at time.Time, what, name string, do func() error) bool {
	for pause := time.Second; ; pause = min(2*pause, mostPause) {
		err := do()
		if ctx.Err() != nil {
			return false
		}
		if err == nil {
			return true
		}
		late := s.o.Now().Sub(at) > pushPatience
		s.o.Log.Error(what, "name", name, "again", !late, "error", err)
		if late {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

// isFinal tells whether it makes no sense to try once more to make a pipeline.
func isFinal(err error) bool {
	var f finalError
	return errors.As(err, &f) || errors.Is(err, ErrNoPipeline) || errors.Is(err, ErrNoProject) || errors.Is(err, git.ErrUnknownRef)
}

// finalError is one that stays the same however often it is tried.
type finalError struct{ error }

func (e finalError) Unwrap() error { return e.error }

// movedOn tells whether a branch of a push has another commit by now: whose push makes a pipeline of its own.
func (s *Server) movedOn(project Project, p Push) bool {
	return slices.ContainsFunc(p.Changes, func(c RefChange) bool {
		sha, err := resolve(project.Dir, c.Ref)
		return strings.HasPrefix(c.Ref, "refs/heads/") && c.After != zeroes && (err != nil || sha != c.After)
	})
}

// mostPause is the longest pause before something is tried again.
const mostPause = 30 * time.Second

// pushPatience is how long one tries to make the pipelines of a push or a schedule.
const pushPatience = 10 * time.Minute

// made gives the pipeline of a push that is there already: a process that has ended since has made it, or it was not made to the end.
func (s *Server) made(ctx context.Context, project Project, c RefChange, at time.Time) (p store.Pipeline, ok bool, err error) {
	numbered, err := s.o.Store.Project(ctx, project.Path)
	if errors.Is(err, store.ErrNotFound) {
		return p, false, nil
	}
	if err != nil {
		return p, false, err
	}
	short := strings.TrimPrefix(strings.TrimPrefix(c.Ref, "refs/heads/"), "refs/tags/")
	all, err := s.o.Store.Pipelines(ctx, store.PipelineFilter{Project: numbered.ID, Ref: short, Source: pipeline.SourcePush, Top: true, Limit: 20})
	i := slices.IndexFunc(all, func(p store.Pipeline) bool {
		return p.Before == c.Before && !p.Created.Before(at) && (p.SHA == c.After || p.Tag)
	})
	if err != nil || i < 0 {
		return p, false, err
	}
	return all[i], true, nil
}

// playOn lets a pipeline be played that is there and may not be played yet, and cancels what it makes redundant: the process that has made it
// may have ended before both.
func (s *Server) playOn(ctx context.Context, project Project, p store.Pipeline) error {
	if p.Status == string(pipeline.StatusFailed) && p.Started.IsZero() && p.Resting {
		return nil // its configuration has errors
	}
	if !p.Resting {
		if err := s.takeUp(ctx, p.ID); err != nil {
			return err
		}
	}
	s.supersede(ctx, project, p)
	return nil
}

// pushed makes the pipelines of one project. The error is about those that can be tried again.
func (s *Server) pushed(ctx context.Context, project Project, p Push, at time.Time) error {
	skip, variables := options(p.Options)
	if skip {
		return nil
	}
	var failed []error
	n := 0
	for _, c := range p.Changes {
		if c.After == zeroes || !strings.HasPrefix(c.Ref, "refs/heads/") && !strings.HasPrefix(c.Ref, "refs/tags/") {
			continue
		}
		if n++; n > maxRefs {
			s.o.Log.Warn("a push of many refs makes no more pipelines", "project", project.Path, "refs", len(p.Changes), "pipelines", maxRefs)
			break
		}
		there, ok, err := s.made(ctx, project, c, at)
		if ok {
			err = s.playOn(ctx, project, there)
		}
		if ok || err != nil {
			failed = append(failed, err)
			continue
		}
		e := Event{Project: project.Path, Source: pipeline.SourcePush, Ref: c.Ref, SHA: c.After, Before: c.Before, User: p.User, Variables: variables}
		if strings.HasPrefix(c.Ref, "refs/tags/") {
			e.SHA = "" // an annotated tag has an object of its own
		}
		made, err := s.Create(ctx, e)
		switch {
		case isFinal(err):
			s.o.Log.Info("a push makes no pipeline", "project", project.Path, "ref", c.Ref, "why", err.Error())
		case err != nil:
			failed = append(failed, fmt.Errorf("%s: %w", c.Ref, err))
		default:
			s.o.Log.Info("pipeline", "id", made.ID, "project", project.Path, "ref", made.Ref, "status", made.Status)
		}
	}
	return errors.Join(failed...)
}

// options reads those of a push that are about pipelines: ci.skip, and ci.variable="NAME=VALUE".
func options(options []string) (skip bool, variables pipeline.Variables) {
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		switch name {
		case "ci.skip":
			skip = true
		case "ci.variable":
			if key, value, ok := strings.Cut(value, "="); ok && key != "" {
				variables = append(variables, pipeline.Variable{Name: key, Value: value, Origin: pipeline.OriginPipeline})
			}
		}
	}
	return skip, variables
}

// lifetime is the context of what is done on nobody's behalf.
func (s *Server) lifetime() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.life
}

// sleep pauses after a failure; false: ctx has ended.
func sleep(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Second):
		return true
	}
}
