package web

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// App is one app.
type App struct {
	Status
	ID          string `json:"id"`               // "Kustomization/flux-system/dev"
	Environment string `json:"environment"`      // that it is delivered to: see [delivery.EnvironmentOf]
	Source      string `json:"source"`           // "GitRepository/flux-system/sample", or URLs
	Path        string `json:"path"`             // or the name of a chart
	Objects     int    `json:"objects"`          // in the inventory
	Sync        string `json:"sync,omitempty"`   // of an Application: Synced, OutOfSync or Unknown
	Health      string `json:"health,omitempty"` // of an Application

	SHA    string `json:"sha,omitempty"`    // the commit of the revision, where it is one
	Author string `json:"author,omitempty"` // of the commit, where it is known
	Title  string `json:"title,omitempty"`  // of the commit, where it is known

	App    string `json:"app"`              // what it is in every environment: see [AppName]
	Wanted string `json:"wanted,omitempty"` // the revision that its source has now, where that is known
}

// AppLabels say which app an app is in all environments, the first of them first.
var AppLabels = []string{"keelson.dev/app", "app.kubernetes.io/name"}

// AppName tells what an app is in every environment: a label says so, else it is its name without that of the environment before
// or behind it ("web-staging" and "staging-web" in staging), else, where nothing else is in the name, that of its source.
func AppName(labels map[string]string, name, environment, source string) string {
	if said := labelled(labels, AppLabels); said != "" {
		return said
	}
	for _, sep := range []string{"-", "."} {
		if rest, ok := strings.CutSuffix(name, sep+environment); ok {
			return rest
		}
		if rest, ok := strings.CutPrefix(name, environment+sep); ok {
			return rest
		}
	}
	if name == environment {
		return cmp.Or(source[strings.LastIndex(source, "/")+1:], name)
	}
	return name
}

func labelled(labels map[string]string, names []string) string {
	for _, name := range names {
		if v := labels[name]; v != "" {
			return v
		}
	}
	return ""
}

// AppID is the id of an app.
func AppID(kind, namespace, name string) string { return kind + "/" + namespace + "/" + name }

// cutID takes an id apart.
func cutID(id string) (kind, namespace, name string, ok bool) {
	kind, rest, _ := strings.Cut(id, "/")
	namespace, name, ok = strings.Cut(rest, "/")
	return kind, namespace, name, ok && kind != "" && namespace != "" && name != "" && !strings.Contains(name, "/")
}

// ErrStarting says that it is not known yet what there is.
var ErrStarting = errors.New("the cluster is still being looked at; try again in a moment")

// Index knows all apps and sources, and tells a feed of every change. Who watches the cluster keeps it; who reads it never waits for the
// cluster. It is safe for concurrent use.
type Index struct {
	feed *Feed

	mu      sync.RWMutex
	apps    map[string]*listed
	order   []*listed // by name; what it points to never changes
	sources map[string]Source
	waiting map[string]bool // kinds that have not been listed yet
	commits map[string]CommitText
	wanted  chan struct{}
}

// listed is an app with what it is found by.
type listed struct {
	App
	text string // in lower case
}

// NewIndex makes an index that knows nothing before each of these kinds was [Index.Complete].
func NewIndex(feed *Feed, kinds ...string) *Index {
	i := &Index{feed: feed, apps: map[string]*listed{}, sources: map[string]Source{}, waiting: map[string]bool{}, commits: map[string]CommitText{}, wanted: make(chan struct{}, 1)}
	for _, k := range kinds {
		i.waiting[k] = true
	}
	return i
}

// listedOf makes an app that can be found.
func listedOf(a App) *listed {
	return &listed{App: a, text: strings.ToLower(strings.Join([]string{
		a.Namespace + "/" + a.Name, a.Kind, a.Environment, a.Source, a.Path, a.Revision, a.Reason, a.Message, a.Author, a.Title,
	}, "\n"))}
}

// SetApp takes in how an app is now. What its commit says is added where that is known.
func (i *Index) SetApp(a App) {
	a.ID = AppID(a.Kind, a.Namespace, a.Name)
	i.mu.Lock()
	c, known := i.commits[a.SHA]
	if known {
		a.Author, a.Title = c.Author, c.Title
	}
	l := listedOf(a)
	before := i.apps[a.ID]
	same := before != nil && reflect.DeepEqual(before.App, a)
	if !same {
		i.apps[a.ID] = l
		at, found := slices.BinarySearchFunc(i.order, l, byPlace)
		if found {
			i.order[at] = l
		} else {
			i.order = slices.Insert(i.order, at, l)
		}
	}
	tell := !same && len(i.waiting) == 0
	i.mu.Unlock()
	if a.SHA != "" && !known {
		i.Ask()
	}
	if tell {
		i.feed.App(AppChange{ID: a.ID, State: a.State, Revision: a.Revision})
	}
}

// DropApp takes in that an app is gone.
func (i *Index) DropApp(id string) {
	i.mu.Lock()
	l := i.apps[id]
	if l != nil {
		delete(i.apps, id)
		if at, found := slices.BinarySearchFunc(i.order, l, byPlace); found {
			i.order = slices.Delete(i.order, at, at+1)
		}
	}
	tell := l != nil && len(i.waiting) == 0
	i.mu.Unlock()
	if tell {
		i.feed.App(AppChange{ID: id, Gone: true})
	}
}

// byPlace is the order of names.
func byPlace(a, b *listed) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name), strings.Compare(a.Kind, b.Kind))
}

// SetSource takes in how a source is now.
func (i *Index) SetSource(s Source) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.sources[AppID(s.Kind, s.Namespace, s.Name)] = s
}

// DropSource takes in that a source is gone.
func (i *Index) DropSource(id string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.sources, id)
}

// Complete says that all there is of a kind is known, or that the cluster does not have the kind.
func (i *Index) Complete(kind string) {
	i.mu.Lock()
	last := i.waiting[kind] && len(i.waiting) == 1
	delete(i.waiting, kind)
	i.mu.Unlock()
	if last {
		i.feed.Reset()
	}
}

// all gives the apps in the order of their names. What the elements point to must not be changed.
func (i *Index) all() ([]*listed, error) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	if len(i.waiting) > 0 {
		return nil, ErrStarting
	}
	return slices.Clone(i.order), nil
}

// app gives one app; false: it is not known.
func (i *Index) app(id string) (App, bool) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	l := i.apps[id]
	if l == nil {
		return App{}, false
	}
	return i.completed(l.App), true
}

// completed adds to an app what its source tells. The lock is held.
func (i *Index) completed(a App) App {
	if s, ok := i.sources[a.Source]; ok && a.Wanted == "" && a.Kind == "Kustomization" {
		a.Wanted = s.Revision
	}
	return a
}

// complete adds to apps what their sources tell.
func (i *Index) complete(apps []App) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	for n := range apps {
		apps[n] = i.completed(apps[n])
	}
}

// Apps implements [Lister].
func (i *Index) Apps(context.Context) ([]App, error) {
	all, err := i.all()
	out := make([]App, len(all))
	for n, l := range all {
		out[n] = l.App
	}
	i.complete(out)
	return out, err
}

// Sources implements [Lister].
func (i *Index) Sources(context.Context) ([]Source, error) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	if len(i.waiting) > 0 {
		return nil, ErrStarting
	}
	return slices.SortedFunc(maps.Values(i.sources), func(a, b Source) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name), strings.Compare(a.Kind, b.Kind))
	}), nil
}
