package ci

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/store"
)

// foreign finds the artifacts of a job that another pipeline has: the last one of another project's branch that has succeeded, or one that
// belongs to the same first pipeline.
func (s *Server) foreign(ctx context.Context, p Project, root store.Pipeline, n pipeline.Need) (artifact.Key, error) {
	if n.Project == "" {
		return s.relative(ctx, p, root, n)
	}
	other, err := s.o.Projects.Named(ctx, n.Project)
	if errors.Is(err, ErrNoProject) || other.Path != "" && !p.Reads(other) {
		return artifact.Key{}, fmt.Errorf("the artifacts of job %q are needed: there is no project %s, or its Project does not name %s in readableBy", n.Job, n.Project, p.Path)
	}
	if err != nil && other.Path == "" {
		return artifact.Key{}, err
	}
	numbered, err := s.o.Store.Project(ctx, other.Path)
	var rows []store.Pipeline
	if err == nil {
		rows, err = s.o.Store.Pipelines(ctx, store.PipelineFilter{Project: numbered.ID, Ref: n.Ref, Status: string(pipeline.StatusSuccess), Top: true, Limit: 1})
	}
	switch {
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return artifact.Key{}, err
	case len(rows) == 0:
		return artifact.Key{}, fmt.Errorf("the artifacts of job %q are needed: no pipeline of %s in project %s has succeeded", n.Job, n.Ref, other.Path)
	}
	return s.artifactsOf(ctx, other, rows[0].ID, n)
}

// relative finds those of a pipeline that is named by its number.
func (s *Server) relative(ctx context.Context, p Project, root store.Pipeline, n pipeline.Need) (artifact.Key, error) {
	id, err := strconv.ParseInt(n.Pipeline, 10, 64)
	var first int64
	if err == nil {
		first, err = s.rootOf(ctx, id)
	}
	if err != nil || first != root.ID {
		return artifact.Key{}, fmt.Errorf("the artifacts of job %q are needed: pipeline %q is neither a parent nor a child of this one", n.Job, n.Pipeline)
	}
	return s.artifactsOf(ctx, p, id, n)
}

// artifactsOf gives those of a job that has succeeded.
func (s *Server) artifactsOf(ctx context.Context, p Project, id int64, n pipeline.Need) (artifact.Key, error) {
	jobs, err := s.o.Store.Jobs(ctx, id)
	if err != nil {
		return artifact.Key{}, err
	}
	at := slices.IndexFunc(jobs, func(j store.Job) bool { return j.Name == n.Job && j.Status == string(pipeline.StatusSuccess) })
	if at < 0 {
		return artifact.Key{}, fmt.Errorf("the artifacts of job %q are needed: pipeline %d of project %s has no such job that has succeeded", n.Job, id, p.Path)
	}
	return artifact.Key{Project: p.Path, Pipeline: strconv.FormatInt(id, 10), Job: n.Job}, nil
}
