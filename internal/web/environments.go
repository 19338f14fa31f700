package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"keelson.dev/keelson/internal/store"
)

// EnvironmentList is a page of environments.
type EnvironmentList struct {
	Environments []ListedEnvironment `json:"environments"`
	Next         int64               `json:"next,omitempty"` // after=NEXT gives the next page; 0: this is the last one
}

// ListedEnvironment is an environment in a list.
type ListedEnvironment struct {
	store.Environment
	ProjectPath string            `json:"projectPath"`
	Last        *store.Deployment `json:"last,omitempty"` // the last successful one: what is there
}

// EnvironmentDetail is an environment with its deployments, the newest first.
type EnvironmentDetail struct {
	ListedEnvironment
	Deployments []ListedDeployment `json:"deployments"`
	Next        int64              `json:"next,omitempty"` // before=NEXT gives the next page of deployments; 0: this is the last one
}

// ListedDeployment is a deployment with the name of its job; empty: its pipeline is not kept any more.
type ListedDeployment struct {
	store.Deployment
	JobName string `json:"jobName,omitempty"`
}

// AskEnvironment is what a person asks for with POST /api/v1/environments/ID/ACTION.
type AskEnvironment struct {
	Force bool  `json:"force,omitempty"` // of a stop: no job is played for it
	To    int64 `json:"to,omitempty"`    // of a rollback: the number of the deployment in its environment; 0: the last one of another commit
}

func (s *pipelines) environments(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	q := r.URL.Query()
	f := store.EnvironmentFilter{State: q.Get("state"), Limit: 100}
	for name, into := range map[string]func(int64){"after": func(n int64) { f.After = n }, "limit": func(n int64) { f.Limit = int(max(1, min(n, 1000))) }} {
		if text := q.Get(name); text != "" {
			n, ok := number(w, name, text)
			if !ok {
				return
			}
			into(n)
		}
	}
	name := q.Get("name")
	if path := q.Get("project"); path != "" {
		if !s.may.may(w, r, VerbGet, path) {
			return
		}
		p, err := s.Store.Project(ctx, path)
		if err != nil {
			fail(w, err)
			return
		}
		f.Project = p.ID
	} else if name != "" {
		refuse(w, http.StatusBadRequest, errors.New("name: an environment has its name in a project: give project too"))
		return
	} else {
		var err error
		if f.Projects, err = s.may.seen(ctx); err != nil {
			fail(w, err)
			return
		}
	}
	all, err := s.find(ctx, f, name)
	if err != nil {
		fail(w, err)
		return
	}
	paths, err := s.paths(ctx)
	if err != nil {
		fail(w, err)
		return
	}
	out := EnvironmentList{Environments: make([]ListedEnvironment, len(all))}
	for i, e := range all {
		if out.Environments[i], err = s.listed(ctx, e, paths); err != nil {
			fail(w, err)
			return
		}
	}
	if name == "" && len(all) == f.Limit {
		out.Next = all[len(all)-1].ID
	}
	answerJSON(w, out)
}

// find gives a page of environments, or the one of a name.
func (s *pipelines) find(ctx context.Context, f store.EnvironmentFilter, name string) ([]store.Environment, error) {
	if name == "" {
		return s.Store.Environments(ctx, f)
	}
	e, err := s.Store.Environment(ctx, f.Project, name)
	if errors.Is(err, store.ErrNotFound) || err == nil && f.State != "" && f.State != e.State {
		return nil, nil
	}
	return []store.Environment{e}, err
}

func (s *pipelines) listed(ctx context.Context, e store.Environment, paths map[int64]string) (ListedEnvironment, error) {
	out := ListedEnvironment{Environment: e, ProjectPath: paths[e.Project]}
	last, err := s.Store.LastDeployment(ctx, e.ID)
	if errors.Is(err, store.ErrNotFound) {
		return out, nil
	}
	out.Last = &last
	return out, err
}

func (s *pipelines) environment(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	id, ok := number(w, "environment", r.PathValue("id"))
	if !ok {
		return
	}
	var before int64
	if text := r.URL.Query().Get("before"); text != "" {
		if before, ok = number(w, "before", text); !ok {
			return
		}
	}
	s.showEnvironment(ctx, w, id, before)
}

// shownDeployments is how many deployments are shown at once.
const shownDeployments = 20

func (s *pipelines) showEnvironment(ctx context.Context, w http.ResponseWriter, id, before int64) {
	e, err := s.Store.EnvironmentByID(ctx, id)
	if err != nil {
		fail(w, err)
		return
	}
	paths, err := s.paths(ctx)
	if err != nil {
		fail(w, err)
		return
	}
	d := EnvironmentDetail{Deployments: []ListedDeployment{}}
	if d.ListedEnvironment, err = s.listed(ctx, e, paths); err != nil {
		fail(w, err)
		return
	}
	all, err := s.Store.Deployments(ctx, store.DeploymentFilter{Environment: id, Before: before, Limit: shownDeployments})
	if err != nil {
		fail(w, err)
		return
	}
	for _, deployment := range all {
		job, err := s.Store.Job(ctx, deployment.Job)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			fail(w, err)
			return
		}
		d.Deployments = append(d.Deployments, ListedDeployment{Deployment: deployment, JobName: job.Name})
	}
	if len(all) == shownDeployments {
		d.Next = all[len(all)-1].ID
	}
	answerJSON(w, d)
}

func (s *pipelines) askEnvironment(w http.ResponseWriter, r *http.Request) {
	id, ok := number(w, "environment", r.PathValue("id"))
	if !ok {
		return
	}
	action := r.PathValue("action")
	switch action {
	case "stop", "rollback":
	default:
		refuse(w, http.StatusNotFound, fmt.Errorf("%q is nothing that can be done with an environment: stop and rollback are", action))
		return
	}
	var ask AskEnvironment
	if !decode(w, r, &ask) {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	e, err := s.Store.EnvironmentByID(ctx, id)
	if err != nil {
		fail(w, err)
		return
	}
	if !s.mayEnvironment(w, r, action, e) {
		return
	}
	args, err := json.Marshal(struct {
		AskEnvironment
		Environment int64 `json:"environment"`
	}{ask, e.ID})
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	command, err := s.Store.Enqueue(ctx, store.Command{Kind: action, Project: e.Project, User: PersonOf(ctx).Name, Args: args, Audit: environmentEntry(r, action, e, ask)})
	if err != nil {
		fail(w, err)
		return
	}
	refusal, err := s.Store.Await(ctx, command)
	switch {
	case err != nil:
		fail(w, err)
	case refusal != "":
		refuse(w, http.StatusConflict, errors.New(refusal))
	default:
		s.showEnvironment(ctx, w, id, 0)
	}
}

// mayEnvironment asks whether who is in front may do a verb to an environment; where not, the request has been answered.
func (s *pipelines) mayEnvironment(w http.ResponseWriter, r *http.Request, verb string, e store.Environment) bool {
	if s.Authorize == nil {
		return true
	}
	path, err := s.may.path(r.Context(), e.Project)
	var on Target
	if err == nil {
		on, err = s.may.target(r.Context(), path)
	}
	if err != nil {
		fail(w, err)
		return false
	}
	on.Resource, on.Name = EnvironmentResource, e.Name
	return s.Authorize.allowed(w, r, verb, on)
}
