package ci

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// Place is where jobs reach this server.
type Place struct{ URL, GitURL, Registry string }

// At says where jobs reach this server, where that is not known when it is made. It has to be called before Projects gives the first project.
func (s *Server) At(p Place) { s.o.URL, s.o.GitURL, s.o.Registry = p.URL, p.GitURL, p.Registry }

// registryUser is the user name that goes with a job's token.
const registryUser = "gitlab-ci-token"

// login gives the variables with which a job logs in to the registry.
func (s *Server) login(token string) pipeline.Variables {
	if s.o.Registry == "" {
		return nil
	}
	return pipeline.Variables{{Name: "CI_REGISTRY_USER", Value: registryUser}, {Name: "CI_REGISTRY_PASSWORD", Value: token, Masked: true}}
}

// AllowImage is a registry's port for the tokens of jobs: they push and pull below their own project's path, in lower case as image names are,
// and pull images of projects that theirs may read. Known is false where nobody has this token.
func (s *Server) AllowImage(ctx context.Context, token, repository string, push bool) (known bool, err error) {
	g, known := s.tokens.of(token)
	if !known {
		return false, errors.New("the token is wrong, or its job is over")
	}
	if repository == "" {
		return true, nil
	}
	if !push {
		return true, s.ReadsImage(ctx, g.project, repository)
	}
	owner, err := s.imageOwner(ctx, g.project, repository)
	if err == nil && owner.Path != g.project {
		err = fmt.Errorf("a job of %s pushes to its own images only: CI_REGISTRY_IMAGE is %s/%s", g.project, s.o.Registry, strings.ToLower(g.project))
	}
	return true, err
}

// ReadsImage tells whether jobs of a project may have an image of the registry: its own ones, and those of projects that theirs may read.
func (s *Server) ReadsImage(ctx context.Context, project, repository string) error {
	owner, err := s.imageOwner(ctx, project, repository)
	switch {
	case err != nil:
		return err
	case project != "" && owner.Path == project, owner.Path != "" && anyMatch(owner.ReadableBy, project):
		return nil
	}
	return fmt.Errorf("jobs of %s may not read the image %s: no Project of it names that project in readableBy", project, repository)
}

// imageOwner gives the project that an image belongs to: of those whose paths it begins with the one with the longest. The one who asks may
// have capitals in its path, unless another one has it without; others are found where they have none. The zero value: it belongs to none.
func (s *Server) imageOwner(ctx context.Context, asks, repository string) (Project, error) {
	for name := repository; ; {
		p, err := s.o.Projects.Named(ctx, name)
		switch {
		case p.Path != "": // an error is about its variables
			return p, nil
		case err != nil && !errors.Is(err, ErrNoProject):
			return Project{}, err
		case name == strings.ToLower(asks):
			return Project{Path: asks}, nil
		}
		at := strings.LastIndexByte(name, '/')
		if at < 0 {
			return Project{}, nil
		}
		name = name[:at]
	}
}
