package ci

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/store"
)

// Push is what a push has changed in a repository.
type Push struct {
	Repository string
	User       string
	Changes    []RefChange
	Options    []string // of git push -o
	Job        int64    `json:"-"` // that pushed, as long as it runs; 0: none did
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
		_, err = s.o.Store.Enqueue(ctx, store.Command{Kind: commandPush, User: p.User, Args: data})
	}
	if err == nil {
		return
	}
	s.o.Log.Error("keep a push; its pipelines are lost if this process ends now", "repository", p.Repository, "error", err)
	s.queue(p.Repository, func(ctx context.Context) { s.pipelinesOf(ctx, p, s.o.Now()) })
}

// queuePush makes the pipelines of a push that was kept, and answers it.
func (s *Server) queuePush(c store.Command) {
	var p Push
	if err := json.Unmarshal(c.Args, &p); err != nil {
		s.o.Log.Error("read a push", "error", err)
	}
	s.queue(p.Repository, func(ctx context.Context) {
		if s.pipelinesOf(ctx, p, c.Created); ctx.Err() != nil {
			return // the next process does what is left
		}
		if err := s.o.Store.Answer(ctx, c.ID, ""); err != nil {
			s.o.Log.Error("answer a push", "repository", p.Repository, "error", err)
		}
	})
}

// pipelinesOf makes the pipelines of a push that was at a time.
func (s *Server) pipelinesOf(ctx context.Context, p Push, at time.Time) {
	projects, err := s.o.Projects.Of(ctx, p.Repository)
	for err != nil && len(projects) == 0 && ctx.Err() == nil {
		s.o.Log.Error("make the pipelines of a push", "repository", p.Repository, "error", err)
		if s.o.Now().Sub(at) > pushPatience || !sleep(ctx) {
			return
		}
		projects, err = s.o.Projects.Of(ctx, p.Repository)
	}
	if err != nil && ctx.Err() == nil {
		s.o.Log.Error("make the pipelines of a push", "repository", p.Repository, "error", err)
	}
	for _, project := range projects {
		if !project.Suspended {
			s.deleted(ctx, project, p)
			s.pushed(ctx, project, p, at)
		}
	}
}

// pushPatience is how long one tries to find out whose pipelines a push makes.
const pushPatience = 10 * time.Minute

// made tells whether a process that has ended since has made a pipeline of a push already.
func (s *Server) made(ctx context.Context, project Project, c RefChange, at time.Time) bool {
	numbered, err := s.o.Store.Project(ctx, project.Path)
	if err != nil {
		return false
	}
	short := strings.TrimPrefix(strings.TrimPrefix(c.Ref, "refs/heads/"), "refs/tags/")
	all, err := s.o.Store.Pipelines(ctx, store.PipelineFilter{Project: numbered.ID, Ref: short, Source: pipeline.SourcePush, Top: true, Limit: 20})
	return err == nil && slices.ContainsFunc(all, func(p store.Pipeline) bool {
		return p.Before == c.Before && !p.Created.Before(at) && (p.SHA == c.After || p.Tag)
	})
}

// pushed makes the pipelines of one project.
func (s *Server) pushed(ctx context.Context, project Project, p Push, at time.Time) {
	skip, variables := options(p.Options)
	if skip {
		return
	}
	n := 0
	for _, c := range p.Changes {
		if c.After == zeroes || !strings.HasPrefix(c.Ref, "refs/heads/") && !strings.HasPrefix(c.Ref, "refs/tags/") {
			continue
		}
		if n++; n > maxRefs {
			s.o.Log.Warn("a push of many refs makes no more pipelines", "project", project.Path, "refs", len(p.Changes), "pipelines", maxRefs)
			return
		}
		if s.made(ctx, project, c, at) {
			continue
		}
		e := Event{Project: project.Path, Source: pipeline.SourcePush, Ref: c.Ref, SHA: c.After, Before: c.Before, User: p.User, Variables: variables}
		if strings.HasPrefix(c.Ref, "refs/tags/") {
			e.SHA = "" // an annotated tag has an object of its own
		}
		made, err := s.Create(ctx, e)
		switch {
		case errors.Is(err, ErrNoPipeline):
			s.o.Log.Info("a push makes no pipeline", "project", project.Path, "ref", c.Ref, "why", err.Error())
		case err != nil:
			s.o.Log.Error("make the pipeline of a push", "project", project.Path, "ref", c.Ref, "error", err)
		default:
			s.o.Log.Info("pipeline", "id", made.ID, "project", project.Path, "ref", made.Ref, "status", made.Status)
		}
	}
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
