package ci

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/store"
)

// Variables gives the variables of a pipeline as anybody may see them: those that all its jobs have alike, or those that one job has, with what
// a person has played it with. The error is [store.ErrNotFound] where there is no such pipeline or job.
func (s *Server) Variables(ctx context.Context, id int64, job string) ([]show.Setting, error) {
	row, err := s.o.Store.Pipeline(ctx, id)
	if err != nil {
		return nil, err
	}
	v, _, err := s.read(ctx, row)
	if err != nil {
		return nil, err
	}
	if job == "" {
		return show.Settings(alike(v.graph), secretsOf(v.graph)...), nil
	}
	at := indexOf(v.graph, job)
	if at < 0 {
		return nil, fmt.Errorf("pipeline %d has no job %s: %w", id, job, store.ErrNotFound)
	}
	variables := slices.Clone(v.graph.Jobs[at].Variables)
	for _, kv := range v.state.Jobs[at].Variables {
		old, _ := variables.Get(kv.Key)
		variables = append(variables, pipeline.Variable{Name: kv.Key, Value: kv.Value, Masked: old.Masked, Origin: pipeline.OriginPlay})
	}
	return show.Settings(final(variables), secretsOf(v.graph)...), nil
}

// secretsOf are the values that nobody sees of a graph.
func secretsOf(g *pipeline.Graph) []string {
	var out []string
	for i := range g.Jobs {
		out = append(out, show.Secrets(g.Jobs[i].Variables)...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// final picks of each name the variable that counts, in the order of names.
func final(variables pipeline.Variables) pipeline.Variables {
	variables = slices.Clone(variables)
	slices.Reverse(variables)
	slices.SortStableFunc(variables, func(a, b pipeline.Variable) int { return strings.Compare(a.Name, b.Name) })
	return slices.CompactFunc(variables, func(a, b pipeline.Variable) bool { return a.Name == b.Name })
}

// alike are the variables that all jobs of a graph have with one value.
func alike(g *pipeline.Graph) pipeline.Variables {
	if len(g.Jobs) == 0 {
		return nil
	}
	out := final(g.Jobs[0].Variables)
	for i := range g.Jobs[1:] {
		has := map[string]pipeline.Variable{}
		for _, v := range g.Jobs[i+1].Variables {
			has[v.Name] = v
		}
		out = slices.DeleteFunc(out, func(v pipeline.Variable) bool {
			other, ok := has[v.Name]
			return !ok || other.Value != v.Value || other.Masked != v.Masked
		})
	}
	return out
}

// Recipe gives what a pipeline was made from, as anybody may see it, so that it can be played elsewhere.
func (s *Server) Recipe(ctx context.Context, id int64) (show.Recipe, error) {
	row, err := s.o.Store.Pipeline(ctx, id)
	if err != nil {
		return show.Recipe{}, err
	}
	if row.Parent != 0 {
		root, err := s.rootOf(ctx, id)
		if err == nil {
			err = fmt.Errorf("pipeline %d is a child pipeline, which a job of pipeline %d starts: take that one", id, root)
		}
		return show.Recipe{}, err
	}
	v, _, err := s.read(ctx, row)
	if err != nil {
		return show.Recipe{}, err
	}
	if len(v.graph.Jobs) == 0 {
		return show.Recipe{}, errors.New("the pipeline has no jobs")
	}
	one := v.graph.Jobs[0].Variables
	e, secrets := v.event, secretsOf(v.graph)
	p, err := s.o.Projects.Named(ctx, e.Project) // the server's addresses are known then
	r := show.Recipe{
		Pipeline: row.ID, IID: row.IID, Created: row.Created, Project: e.Project, ProjectID: row.Project, Source: e.Source, Ref: e.Ref, SHA: row.SHA, Before: e.Before, User: e.User, Schedule: e.Schedule,
		Protected: one.Predefined("CI_COMMIT_REF_PROTECTED") == "true", DefaultBranch: one.Predefined("CI_DEFAULT_BRANCH"), ConfigPath: one.Predefined("CI_CONFIG_PATH"),
		Server: s.o.URL, Settings: show.Settings(outside(v.graph), secrets...), Variables: show.Settings(e.Variables, secrets...), Inputs: e.Inputs,
	}
	if err == nil || p.Repository != "" {
		r.CloneURL = s.o.GitURL + "/" + p.Repository + ".git"
	}
	return show.Redacted(r, secrets), nil
}

// outside are the variables of the instance, the group and the project that the jobs of a graph have, each once for each scope.
func outside(g *pipeline.Graph) pipeline.Variables {
	type key struct{ origin, name, scope string }
	seen := map[key]bool{}
	var out pipeline.Variables
	for i := range g.Jobs {
		for _, v := range g.Jobs[i].Variables {
			switch k := (key{v.Origin, v.Name, v.Scope}); {
			case v.Origin != pipeline.OriginInstance && v.Origin != pipeline.OriginGroup && v.Origin != pipeline.OriginProject, seen[k]:
			default:
				seen[k] = true
				out = append(out, v)
			}
		}
	}
	return out
}
