package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"keelson.dev/keelson/internal/health"
	"keelson.dev/keelson/internal/kube"
)

// world is what the watches of one round have told. One goroutine has it; the watches send it what they see.
type world struct {
	cluster *kube.Cluster
	feeds   map[place]*feed
	wanted  map[place]map[string]bool // the names of what is followed, by where it is: other objects are not kept
}

// feed is what one watch has told: of one object, or where its name is empty of a kind in a namespace.
type feed struct {
	synced  bool
	err     error // why it cannot be read now
	refused bool  // and will not be
	objects map[string]*unstructured.Unstructured
	pods    map[string]*pod
	sets    map[string]*replicaSet
}

// update is news of a feed.
type update struct {
	of      place
	listed  bool // objects are all there are
	objects []item
	gone    string // the name of an object that is no more
	err     error
	refused bool
}

// item is an object as it is kept: whole, or what matters of it.
type item struct {
	name   string
	object *unstructured.Unstructured
	pod    *pod
	set    *replicaSet
}

// newWorld is that of some targets: one watch for each kind and namespace, of one object only where that will do.
func newWorld(cluster *kube.Cluster, targets []target) *world {
	w := &world{cluster: cluster, feeds: map[place]*feed{}, wanted: map[place]map[string]bool{}}
	add := func(p place) {
		if p == (place{}) {
			return
		}
		all := p.all()
		if w.wanted[all] == nil {
			w.wanted[all] = map[string]bool{}
		}
		w.wanted[all][p.name] = true
	}
	for _, t := range targets {
		add(t.place())
		if t.app != nil {
			add(t.app.source)
			add(t.app.chart)
			continue
		}
		r := t.resource.GroupResource()
		if workloads[r] && !t.gone {
			add(place{podResource, t.namespace, ""})
		}
		if viaReplicaSets[r] && !t.gone {
			add(place{replicaSetResource, t.namespace, ""})
		}
	}
	for p, names := range w.wanted {
		if len(names) == 1 {
			for p.name = range names {
			}
		}
		w.feeds[p] = &feed{objects: map[string]*unstructured.Unstructured{}, pods: map[string]*pod{}, sets: map[string]*replicaSet{}}
	}
	return w
}

// feed gives what tells of an object; nil: nothing does.
func (w *world) feed(p place) *feed {
	if f := w.feeds[p]; f != nil {
		return f
	}
	return w.feeds[p.all()]
}

// object gives an object; nil: it is not there.
func (w *world) object(p place) *unstructured.Unstructured {
	if f := w.feed(p); f != nil && p != (place{}) {
		return f.objects[p.name]
	}
	return nil
}

func (w *world) pods(namespace string) []*pod {
	var out []*pod
	for p, f := range w.feeds {
		if p.resource == podResource && p.namespace == namespace {
			for _, one := range f.pods {
				out = append(out, one)
			}
		}
	}
	return out
}

func (w *world) replicaSets(namespace string) []*replicaSet {
	var out []*replicaSet
	for p, f := range w.feeds {
		if p.resource == replicaSetResource && p.namespace == namespace {
			for _, one := range f.sets {
				out = append(out, one)
			}
		}
	}
	return out
}

// synced tells whether everything is known that can be.
func (w *world) synced() bool {
	for _, f := range w.feeds {
		if !f.synced && !f.refused {
			return false
		}
	}
	return true
}

// trouble is why something is not known; nil: no reason is known, or everything is.
func (w *world) trouble() error {
	var all []error
	for p, f := range w.feeds {
		if f.err != nil && !f.refused {
			all = append(all, fmt.Errorf("read %s in %s: %w", p.resource.Resource, cmp.Or(p.namespace, "the cluster"), f.err))
		}
	}
	slices.SortFunc(all, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return errors.Join(all[:min(len(all), 3)]...)
}

// refused says which kinds must not be read.
func (w *world) refused() []string {
	var out []string
	for p, f := range w.feeds {
		if f.refused {
			out = append(out, fmt.Sprintf("%s in %s are not followed: Keelson must not read them (%s)", p.resource.Resource, cmp.Or(p.namespace, "the cluster"), f.err))
		}
	}
	slices.Sort(out)
	return out
}

func (w *world) isRefused(k kindIn) bool {
	for p, f := range w.feeds {
		if f.refused && p.resource.GroupResource() == k.resource && p.namespace == k.namespace {
			return true
		}
	}
	return false
}

// take takes news in.
func (w *world) take(u update) {
	f := w.feeds[u.of]
	f.err, f.refused = u.err, u.refused
	if u.err != nil {
		return
	}
	if u.listed {
		f.synced = true
		clear(f.objects)
		clear(f.pods)
		clear(f.sets)
	}
	for _, i := range u.objects {
		if i.object != nil {
			f.objects[i.name] = i.object
		}
		if i.pod != nil {
			f.pods[i.name] = i.pod
		}
		if i.set != nil {
			f.sets[i.name] = i.set
		}
	}
	if u.gone != "" {
		delete(f.objects, u.gone)
		delete(f.pods, u.gone)
		delete(f.sets, u.gone)
	}
}

// watch begins all watches; they end with ctx.
func (w *world) watch(ctx context.Context) <-chan update {
	out := make(chan update)
	for p := range w.feeds {
		go w.follow(ctx, p, func(u update) bool {
			u.of = p
			select {
			case out <- u:
				return true
			case <-ctx.Done():
				return false
			}
		})
	}
	return out
}

const (
	// page bounds what is listed at a time, listLimit how long that may take.
	page, listLimit = 500, time.Minute
	// patience is the longest pause before something is tried again.
	patience = 10 * time.Second
)

// follow lists and watches one place until ctx ends or nobody takes its news.
func (w *world) follow(ctx context.Context, p place, tell func(update) bool) {
	resource := w.resource(p)
	wait := time.Second / 4
	for ctx.Err() == nil {
		version, err := w.list(ctx, p, resource, tell)
		if err == nil {
			wait = time.Second / 4
			err = w.changes(ctx, p, resource, version, tell)
		}
		if err != nil && ctx.Err() == nil {
			refused := apierrors.IsForbidden(err) || apierrors.IsMethodNotSupported(err)
			if !tell(update{err: err, refused: refused}) || refused {
				return
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, patience)
	}
}

func (w *world) resource(p place) dynamic.ResourceInterface {
	all := w.cluster.Self().Dynamic.Resource(p.resource)
	if p.namespace == "" {
		return all
	}
	return all.Namespace(p.namespace)
}

// options say what of a place's kind is asked for.
func (p place) options() metav1.ListOptions {
	var o metav1.ListOptions
	if p.name != "" {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", p.name).String()
	}
	return o
}

// list tells all there is now, as the server's own storage has it and not a cache, and gives its resource version. A kind that is not
// there has no objects.
func (w *world) list(ctx context.Context, p place, resource dynamic.ResourceInterface, tell func(update) bool) (version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, listLimit)
	defer cancel()
	o := p.options()
	o.Limit = page
	var all []item
	for {
		list, err := resource.List(ctx, o)
		if apierrors.IsNotFound(err) {
			tell(update{listed: true})
			return "", nil
		}
		if err != nil {
			return "", err
		}
		for i := range list.Items {
			all = append(all, w.item(p, &list.Items[i]))
		}
		version = list.GetResourceVersion()
		if o.Continue = list.GetContinue(); o.Continue == "" {
			break
		}
	}
	tell(update{listed: true, objects: all})
	return version, nil
}

// changes tells what changes after a version, until that is no longer known.
func (w *world) changes(ctx context.Context, p place, resource dynamic.ResourceInterface, version string, tell func(update) bool) error {
	for version != "" && ctx.Err() == nil {
		o := p.options()
		o.ResourceVersion, o.AllowWatchBookmarks = version, true
		began := time.Now()
		events, err := resource.Watch(ctx, o)
		if err != nil {
			return expired(err)
		}
		version, err = w.events(p, version, events, tell)
		events.Stop()
		if err != nil {
			return expired(err)
		}
		if time.Since(began) < time.Second { // a server that ends watches at once is not asked all the time
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
	return nil
}

// expired gives the error of a watch, unless it is that what happened since is no longer known: then it is listed anew.
func expired(err error) error {
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return nil
	}
	return err
}

// events tells the events of one watch, and gives the version that they lead to. No version: nobody takes them any more.
func (w *world) events(p place, version string, events watch.Interface, tell func(update) bool) (string, error) {
	for event := range events.ResultChan() {
		if event.Type == watch.Error {
			return "", apierrors.FromObject(event.Object)
		}
		u, ok := event.Object.(*unstructured.Unstructured)
		if !ok {
			continue
		}
		version = u.GetResourceVersion()
		news := update{objects: []item{w.item(p, u)}}
		switch event.Type {
		case watch.Added, watch.Modified:
		case watch.Deleted:
			news = update{gone: u.GetName()}
		default: // a bookmark
			continue
		}
		if !tell(news) {
			return "", nil
		}
	}
	return version, nil
}

// item keeps of an object what matters.
func (w *world) item(p place, u *unstructured.Unstructured) item {
	i := item{name: u.GetName()}
	switch p.resource {
	case podResource:
		i.pod = podOf(u)
	case replicaSetResource:
		i.set = &replicaSet{uid: u.GetUID(), owner: owner(u), name: u.GetName(), annotations: u.GetAnnotations()}
	}
	if w.wanted[p.all()][u.GetName()] {
		u.SetManagedFields(nil)
		i.object = u
	}
	return i
}

// podOf reads a Pod; nil: it cannot be read.
func podOf(u *unstructured.Unstructured) *pod {
	var p corev1.Pod
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &p); err != nil {
		return nil
	}
	out := &pod{ObjectMeta: p.ObjectMeta, Status: p.Status, health: health.OfPod(u), probed: map[string]bool{}}
	for _, c := range p.Spec.Containers {
		out.probed[c.Name] = c.ReadinessProbe != nil
	}
	out.ManagedFields, out.Annotations = nil, nil
	return out
}

// resourceOf gives what serves a kind, in the version that is named or in another one; ok is false where the cluster does not have it.
func resourceOf(cluster *kube.Cluster, gk schema.GroupKind, version string) (r schema.GroupVersionResource, namespaced, ok bool, err error) {
	m, err := cluster.Mapper().RESTMapping(gk, version)
	if err != nil {
		m, err = cluster.Mapper().RESTMapping(gk)
	}
	if err != nil {
		if meta.IsNoMatchError(err) {
			return r, false, false, nil
		}
		return r, false, false, err
	}
	return m.Resource, m.Scope.Name() == meta.RESTScopeNameNamespace, true, nil
}
