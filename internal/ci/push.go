package ci

import (
	"context"
	"errors"
	"strings"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// Push is what a push has changed in a repository.
type Push struct {
	Repository string
	User       string
	Changes    []RefChange
	Options    []string // of git push -o
}

// RefChange is a ref that has changed: full name, and commits; a commit of zeroes: the ref was not there, or is not there any more.
type RefChange struct{ Ref, Before, After string }

const zeroes = "0000000000000000000000000000000000000000"

// maxRefs is how many pipelines one push makes at most (GitLab: git_push_create_all_pipelines is off, and the limit is 3 there; more is meant
// here for who moves a few branches at once).
const maxRefs = 10

// Pushed makes the pipelines of a push, in the order of pushes of each repository. It does not wait for them.
func (s *Server) Pushed(p Push) {
	s.queue(p.Repository, func(ctx context.Context) {
		projects, err := s.o.Projects.Of(ctx, p.Repository)
		if err != nil {
			s.o.Log.Error("make the pipelines of a push", "repository", p.Repository, "error", err)
			return
		}
		for _, project := range projects {
			if !project.Suspended {
				s.pushed(ctx, project, p)
			}
		}
	})
}

// pushed makes the pipelines of one project.
func (s *Server) pushed(ctx context.Context, project Project, p Push) {
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
	if s.life == nil {
		return context.Background()
	}
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
