// Package appset turns an ApplicationSet of Argo CD into the Applications that it stands for, and decides what to do about
// those in the cluster. It is pure: the clusters, the repositories and the time are arguments.
//
// The rules are those of Argo CD 3.6 (its documentation: operator-manual/applicationset, and how its controller behaves where
// that is silent):
//
//  1. Each generator gives sets of parameters. list: its elements. clusters: the clusters that are declared, and the one the
//     set is in unless a selector asks for labels, which it has not. git: folders of a repository by path.Match, hidden ones
//     left out; or files, whose content is the parameters. matrix: every pair of what two generators give, the second of which
//     may use the parameters of the first. merge: the sets of the first generator, overridden by those of the others with the
//     same values of mergeKeys. A selector leaves out sets by their flattened parameters.
//  2. Globs of files are Git's own patterns, where * spans folders, as with Argo CD's default; [World.StrictGlobs] stands for its
//     option --enable-new-git-file-globbing.
//  3. Each set of parameters fills in the template: with {{name}} in any string, or with goTemplate by text/template and sprig.
//     Then templatePatch is laid over it. The namespace is always the set's own, and a patch never changes the project.
//  4. An error anywhere in generators or templates means that nothing is known: no Application is made, changed or deleted.
//     An Application that is invalid by itself (no project, no such cluster, a name twice) is left as it is in the cluster.
//
// What differs, on purpose: functions that give something else each time (random text, keys, certificates) are refused by name,
// as an Application made with them would never settle; merge keeps the order of its first generator; params of matrix and merge
// generators are never shared. Everything is bounded: see [Limits].
package appset

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
)

// World is what an ApplicationSet's meaning depends on besides itself.
type World struct {
	Clusters []Cluster // that Secrets declare
	// Repository gives the files of a repository. Its error may wrap [ErrPending].
	Repository func(Repository) (fs.FS, error)
	// Projects names the AppProjects that exist; nil: they are not checked, nor are the clusters of destinations.
	Projects    map[string]bool
	StrictGlobs bool // * in globs of files does not span folders
	Now         time.Time
}

// Cluster is one that is declared by a Secret.
type Cluster struct {
	Name, Server, Project string
	Labels, Annotations   map[string]string // of the Secret
}

// Repository is what a git generator wants to read.
type Repository struct {
	URL, Revision string
	Project       string // whose credentials may be used besides those for all; empty where the template's project is templated
}

// ErrPending is wrapped by the error about something that is not known yet; whoever gets it will hear of it.
var ErrPending = errors.New("not known yet")

// Reasons of Argo CD for conditions.
const (
	ReasonParams     = "ApplicationGenerationFromParamsError"
	ReasonRender     = "RenderTemplateParamsError"
	ReasonValidation = "ApplicationValidationError"
)

// Generated is what an ApplicationSet stands for.
type Generated struct {
	Applications []Application // valid ones, by name
	Invalid      []Invalid     // are neither written nor deleted
}

// Application is one that was generated.
type Application struct {
	App *argocdv1.Application
	// Object is the same as a tree, with fields that App has no name for: metadata and spec only.
	Object map[string]any
}

// Invalid is an Application that may not be written.
type Invalid struct {
	Name string // may be empty
	Err  error
}

// Limits of one ApplicationSet.
const (
	maxParams      = 10_000  // sets of parameters that a generator gives
	maxNesting     = 2       // of matrix and merge in one another (Argo CD: the same)
	maxFile        = 1 << 20 // bytes of a file that a git generator reads
	maxFiles       = 32 << 20
	maxFolders     = 100_000
	maxText        = 1 << 20 // bytes that one template may come to
	maxApplication = 1 << 20 // bytes of one Application as JSON
)

// Generate gives the Applications of a set. The error is a *delivery.Fault with one of Argo CD's reasons: nothing may be concluded
// then about what the set stands for. It may wrap [ErrPending].
func Generate(set *argocdv1.ApplicationSet, world World) (Generated, error) {
	r, err := newRenderer(set.Spec.GoTemplate, set.Spec.GoTemplateOptions, world.Now)
	if err != nil {
		return Generated{}, fault(ReasonRender, "spec.goTemplateOptions", err)
	}
	g := &generation{set: set, world: world, render: r}
	if g.template, err = readTemplate(set.Spec.Template.Raw); err != nil {
		return Generated{}, fault(ReasonRender, "spec.template", err)
	}
	var all []Application
	for i, gen := range set.Spec.Generators {
		where := fmt.Sprintf("spec.generators[%d]", i)
		found, err := g.transform(where, gen, nil, 0)
		if err != nil {
			return Generated{}, fault(ReasonParams, where, err)
		}
		for _, f := range found {
			apps, err := g.applications(f)
			if err != nil {
				return Generated{}, fault(ReasonRender, f.where, err)
			}
			if all = append(all, apps...); len(all) > maxParams {
				return Generated{}, fault(ReasonParams, where, fmt.Errorf("more than %d Applications", maxParams))
			}
		}
	}
	return g.validate(all), nil
}

// fault gives err as one for people; a nested one keeps where it is about.
func fault(reason, where string, err error) error {
	var f *delivery.Fault
	if errors.As(err, &f) {
		return f
	}
	retry := delivery.OnChange
	if errors.Is(err, ErrPending) {
		retry = delivery.OnEvent
	}
	return &delivery.Fault{Reason: reason, Where: where, Retry: retry, Err: err}
}

// validate sorts out what may be written.
func (g *generation) validate(apps []Application) Generated {
	var out Generated
	names := map[string]bool{}
	for _, app := range apps {
		name := app.App.Name
		err := g.check(app.App)
		if err == nil && names[name] {
			err = fmt.Errorf("ApplicationSet %s contains applications with duplicate name: %s", g.set.Name, name)
		}
		if err != nil {
			out.Invalid = append(out.Invalid, Invalid{Name: name, Err: err})
			continue
		}
		names[name] = true
		out.Applications = append(out.Applications, app)
	}
	slices.SortStableFunc(out.Applications, func(a, b Application) int { return strings.Compare(a.App.Name, b.App.Name) })
	slices.SortStableFunc(out.Invalid, func(a, b Invalid) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (g *generation) check(app *argocdv1.Application) error {
	if app.Name == "" {
		return fmt.Errorf("ApplicationSet %s contains an application with no name (hint: set metadata.name in the template; generateName is not supported)", g.set.Name)
	}
	if problems := validation.IsDNS1123Subdomain(app.Name); len(problems) > 0 {
		return fmt.Errorf("%q is no name for an Application: %s", app.Name, problems[0])
	}
	for key, value := range app.Labels {
		if problems := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...); len(problems) > 0 {
			return fmt.Errorf("application %s: label %q=%q: %s", app.Name, key, value, problems[0])
		}
	}
	if g.world.Projects == nil {
		return nil
	}
	if project := projectOf(app); !g.world.Projects[project] {
		return fmt.Errorf("application %s references project %s which does not exist", app.Name, project)
	}
	if err := g.world.Reaches(app.Spec.Destination); err != nil {
		return fmt.Errorf("application %s: destination spec is invalid: %w", app.Name, err)
	}
	return nil
}

func projectOf(app *argocdv1.Application) string {
	if app.Spec.Project == "" {
		return defaultProject
	}
	return app.Spec.Project
}

// defaultProject is the project of an Application that names none.
const defaultProject = "default"

// The cluster that an ApplicationSet is in, where no Secret says otherwise.
const inClusterServer, inClusterName = "https://kubernetes.default.svc", "in-cluster"

// Reaches tells why a destination names no cluster that is known, or more than one.
func (w World) Reaches(d argocdv1.ApplicationDestination) error {
	clusters := w.clusters()
	switch {
	case d.Name != "" && d.Server != "":
		return fmt.Errorf("it can't have both name and server defined: %s %s", d.Name, d.Server)
	case d.Name == "" && d.Server == "":
		return errors.New("destination server missing from app spec")
	case d.Server != "":
		want := strings.TrimRight(d.Server, "/")
		if !slices.ContainsFunc(clusters, func(c Cluster) bool { return strings.TrimRight(c.Server, "/") == want }) {
			return fmt.Errorf("there are no clusters with this server: %s", d.Server)
		}
		return nil
	}
	servers := map[string]bool{}
	for _, c := range clusters {
		if c.Name == d.Name {
			servers[c.Server] = true
		}
	}
	switch len(servers) {
	case 0:
		return fmt.Errorf("there are no clusters with this name: %s", d.Name)
	case 1:
		return nil
	}
	return fmt.Errorf("there are %d clusters with the name %s: %s", len(servers), d.Name, strings.Join(slices.Sorted(maps.Keys(servers)), ", "))
}

// clusters are those that Secrets declare, and the one that the set is in.
func (w World) clusters() []Cluster {
	if slices.ContainsFunc(w.Clusters, func(c Cluster) bool { return c.Server == inClusterServer }) {
		return w.Clusters
	}
	return append(slices.Clip(w.Clusters), Cluster{Name: inClusterName, Server: inClusterServer})
}
