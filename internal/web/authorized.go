package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"keelson.dev/keelson/internal/store"
)

// Verbs that are no verbs of Kubernetes: what a person does to a Project, an Environment or an app. RBAC grants them like any other.
const (
	VerbGet      = "get"      // see it, and all that belongs to it
	VerbPush     = "push"     // push to its repository
	VerbPlay     = "play"     // make a pipeline, play its manual jobs
	VerbRetry    = "retry"    // run jobs again
	VerbCancel   = "cancel"   // cancel jobs and pipelines
	VerbErase    = "erase"    // erase what jobs have left
	VerbStop     = "stop"     // stop an environment
	VerbRollback = "rollback" // go back to an earlier deployment
	VerbSync     = "sync"
	VerbSuspend  = "suspend" // and resume
)

// Resources of the group keelson.dev that these verbs are granted on.
const (
	KeelsonGroup        = "keelson.dev"
	ProjectResource     = "projects"
	EnvironmentResource = "environments"
)

// access tells what people may do to projects and what belongs to them.
type access struct {
	ask Authorize
	// where gives the namespace and the name of a project's object by its path.
	where func(ctx context.Context, path string) (namespace, name string, err error)
	store *store.DB
}

// target is what RBAC calls a project. One that has no object is in no namespace: only rights for all of them count.
func (a access) target(ctx context.Context, path string) (Target, error) {
	on := Target{Group: KeelsonGroup, Resource: ProjectResource}
	if a.where == nil {
		return on, nil
	}
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	var err error
	if on.Namespace, on.Name, err = a.where(ctx, path); err != nil {
		return on, fmt.Errorf("find the project %s: %w", path, err)
	}
	return on, nil
}

// may asks whether who is in front may do a verb to a project; where not, the request has been answered.
func (a access) may(w http.ResponseWriter, r *http.Request, verb, path string) bool {
	if a.ask == nil {
		return true
	}
	on, err := a.target(r.Context(), path)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
		return false
	}
	return a.ask.allowed(w, r, verb, on)
}

// mayProject is may for a project that is known by its number.
func (a access) mayProject(w http.ResponseWriter, r *http.Request, verb string, project int64) bool {
	if a.ask == nil {
		return true
	}
	path, err := a.path(r.Context(), project)
	if err != nil {
		fail(w, err)
		return false
	}
	return a.may(w, r, verb, path)
}

func (a access) path(ctx context.Context, project int64) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	all, err := a.store.Projects(ctx)
	for _, p := range all {
		if p.ID == project {
			return p.Name, nil
		}
	}
	return "", err
}

// sees tells whether who is in front may see a project.
func (a access) sees(ctx context.Context, path string) (bool, error) {
	if a.ask == nil {
		return true, nil
	}
	on, err := a.target(ctx, path)
	if err == nil {
		err = a.ask(ctx, PersonOf(ctx), VerbGet, on)
	}
	if errors.Is(err, ErrForbidden) {
		return false, nil
	}
	return err == nil, err
}

// seen gives the numbers of the projects that who is in front may see; nil: all of them.
func (a access) seen(ctx context.Context) ([]int64, error) {
	if a.ask == nil {
		return nil, nil
	}
	err := a.ask(ctx, PersonOf(ctx), VerbGet, Target{Group: KeelsonGroup, Resource: ProjectResource})
	if !errors.Is(err, ErrForbidden) {
		return nil, err
	}
	all, err := a.store.Projects(ctx)
	if err != nil {
		return nil, err
	}
	ids := []int64{}
	for _, p := range all {
		ok, err := a.sees(ctx, p.Name)
		if err != nil {
			return nil, err
		}
		if ok {
			ids = append(ids, p.ID)
		}
	}
	return ids, nil
}

// pipelines tells which pipelines who is in front may see, for one request. One that is gone is for those who may see all projects.
func (a access) pipelines(ctx context.Context) func(id int64) (bool, error) {
	if a.ask == nil {
		return func(int64) (bool, error) { return true, nil }
	}
	projects := map[int64]bool{}
	return func(id int64) (bool, error) {
		p, err := a.store.Pipeline(ctx, id)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return false, err
		}
		ok, known := projects[p.Project]
		if known {
			return ok, nil
		}
		if ok, err = a.seesProject(ctx, p.Project); err == nil {
			projects[p.Project] = ok
		}
		return ok, err
	}
}

// seesProject is sees for a project that is known by its number.
func (a access) seesProject(ctx context.Context, project int64) (bool, error) {
	path, err := a.path(ctx, project)
	if err != nil {
		return false, err
	}
	if path != "" {
		return a.sees(ctx, path)
	}
	err = a.ask(ctx, PersonOf(ctx), VerbGet, Target{Group: KeelsonGroup, Resource: ProjectResource})
	if errors.Is(err, ErrForbidden) {
		return false, nil
	}
	return err == nil, err
}

// watches tells for a stream which projects may be seen; an answer is good for a while.
func (a access) watches(ctx context.Context) func(project int64) bool {
	if a.ask == nil {
		return nil
	}
	type verdict struct {
		ok    bool
		until time.Time
	}
	known := map[int64]verdict{}
	return func(project int64) bool {
		now := time.Now()
		if v, ok := known[project]; ok && now.Before(v.until) {
			return v.ok
		}
		path, err := a.path(ctx, project)
		ok := false
		if err == nil {
			ok, err = a.sees(ctx, path)
		}
		if err == nil {
			known[project] = verdict{ok, now.Add(sightLasts)}
		}
		return ok
	}
}

// The kinds of things that have a number in a path, and belong to a project.
type owned func(ctx context.Context, db *store.DB, id int64) (project int64, err error)

func ofPipeline(ctx context.Context, db *store.DB, id int64) (int64, error) {
	p, err := db.Pipeline(ctx, id)
	return p.Project, err
}

func ofJob(ctx context.Context, db *store.DB, id int64) (int64, error) {
	j, err := db.Job(ctx, id)
	if err != nil {
		return 0, err
	}
	return ofPipeline(ctx, db, j.Pipeline)
}

func ofEnvironment(ctx context.Context, db *store.DB, id int64) (int64, error) {
	e, err := db.EnvironmentByID(ctx, id)
	return e.Project, err
}

// guarded is in front of what belongs to the project of a thing with a number.
func (a access) guarded(verb, what string, of owned, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if a.ask == nil {
			next(w, r)
			return
		}
		id, ok := number(w, what, r.PathValue("id"))
		if !ok {
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), readLimit)
		project, err := of(ctx, a.store, id)
		cancel()
		if err != nil {
			fail(w, err)
			return
		}
		if a.mayProject(w, r, verb, project) {
			next(w, r)
		}
	}
}

// visible keeps what who is in front may see, by the targets of things: first all of a kind are asked for, then each namespace.
func visible[T any](ctx context.Context, ask Authorize, all []T, target func(T) Target) ([]T, error) {
	if ask == nil {
		return all, nil
	}
	verdicts := map[Target]bool{}
	sees := func(on Target) (bool, error) {
		if ok, known := verdicts[on]; known {
			return ok, nil
		}
		err := ask(ctx, PersonOf(ctx), VerbGet, on)
		if err != nil && !errors.Is(err, ErrForbidden) {
			return false, err
		}
		verdicts[on] = err == nil
		return err == nil, nil
	}
	out := make([]T, 0, len(all))
	for _, v := range all {
		on := target(v)
		on.Name = ""
		ok, err := sees(Target{Group: on.Group, Resource: on.Resource})
		if err == nil && !ok {
			ok, err = sees(on)
		}
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, v)
		}
	}
	return out, nil
}

// resources are what RBAC calls the kinds of apps and sources.
var resources = map[string]Target{
	"Kustomization":  {Group: "kustomize.toolkit.fluxcd.io", Resource: "kustomizations"},
	"HelmRelease":    {Group: "helm.toolkit.fluxcd.io", Resource: "helmreleases"},
	"Application":    {Group: "argoproj.io", Resource: "applications"},
	"ApplicationSet": {Group: "argoproj.io", Resource: "applicationsets"},
	"GitRepository":  {Group: "source.toolkit.fluxcd.io", Resource: "gitrepositories"},
	"OCIRepository":  {Group: "source.toolkit.fluxcd.io", Resource: "ocirepositories"},
	"HelmRepository": {Group: "source.toolkit.fluxcd.io", Resource: "helmrepositories"},
	"HelmChart":      {Group: "source.toolkit.fluxcd.io", Resource: "helmcharts"},
	"Bucket":         {Group: "source.toolkit.fluxcd.io", Resource: "buckets"},
	"Project":        {Group: KeelsonGroup, Resource: ProjectResource},
}

// TargetOf gives what RBAC calls an app, a source or a Project. Of another kind nobody but an administrator may do anything.
func TargetOf(kind, namespace, name string) Target {
	on, ok := resources[kind]
	if !ok {
		on = Target{Group: "*", Resource: "*"}
	}
	on.Namespace, on.Name = namespace, name
	return on
}
