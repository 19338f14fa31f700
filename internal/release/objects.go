package release

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/kube"
)

// objects watches the objects of releases whose drift is to be found: one watch per kind, of what bears the origin labels. Of an object
// it keeps no more than what tells whether it has been changed. It is safe for concurrent use.
type objects struct {
	ctx     context.Context //nolint:containedctx // the watches outlive the calls that start them
	cluster *kube.Cluster
	touched func(app delivery.ID)

	mu      sync.Mutex
	watches map[schema.GroupVersionKind]*objectWatch
	there   map[delivery.Ref]thing
	apps    map[delivery.ID]*checked
}

type objectWatch struct {
	cancel context.CancelFunc
	users  map[delivery.ID]bool
	synced bool
	err    error
}

// thing is an object as it is in the cluster.
type thing struct {
	mark   [sha256.Size]byte // of all of it that is not status or bookkeeping
	owner  delivery.ID
	ours   bool // nobody else has written to it since it was written for the release
	exempt bool // it says itself that no drift of it counts
}

// checked is what is known of the drift of one release.
type checked struct {
	about    string // the version, and the generation of the app, that it is known of
	kinds    map[schema.GroupVersionKind]bool
	verdicts map[delivery.Ref]drifted
}

// drifted is what came of comparing an object that had this mark with the manifest; no text: it does not differ. The mark is zero where
// there was no such object, or it is not watched because it has no origin labels: a release that was taken over.
type drifted struct {
	known bool
	mark  [sha256.Size]byte
	text  string
}

// need makes kinds those that are watched for an app, and tells whether everything about them is known.
func (o *objects) need(app delivery.ID, kinds map[schema.GroupVersionKind]bool) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	known := true
	var first error
	for gvk := range kinds {
		w := o.watches[gvk]
		if w == nil {
			w = &objectWatch{users: map[delivery.ID]bool{}}
			if err := o.start(gvk, w); meta.IsNoMatchError(err) {
				continue // there are no objects of it
			} else if err != nil {
				return false, err
			}
			o.watches[gvk] = w
		}
		w.users[app] = true
		known = known && w.synced
		if w.err != nil && !w.synced && first == nil {
			first = fmt.Errorf("watch %s: %w", gvk.Kind, w.err)
		}
	}
	for gvk, w := range o.watches {
		if !kinds[gvk] && w.users[app] {
			o.leave(app, gvk, w)
		}
	}
	return known, first
}

// forget ends what is watched for an app alone.
func (o *objects) forget(app delivery.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.apps, app)
	for gvk, w := range o.watches {
		if w.users[app] {
			o.leave(app, gvk, w)
		}
	}
}

// leave gives up an app's use of a watch. The caller holds the lock.
func (o *objects) leave(app delivery.ID, gvk schema.GroupVersionKind, w *objectWatch) {
	if delete(w.users, app); len(w.users) > 0 {
		return
	}
	w.cancel()
	delete(o.watches, gvk)
	for ref := range o.there {
		if ref.GroupKind() == gvk.GroupKind() {
			delete(o.there, ref)
		}
	}
}

// start begins a watch. The caller holds the lock.
func (o *objects) start(gvk schema.GroupVersionKind, w *objectWatch) error {
	resource, err := o.cluster.Self().Resource(gvk, "")
	if err != nil {
		return fmt.Errorf("watch %s: %w", gvk.Kind, err)
	}
	ctx, cancel := context.WithCancel(o.ctx)
	w.cancel = cancel
	const selector = dialect.HelmOwnerNameLabel
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			opts.LabelSelector = selector
			list, err := resource.List(ctx, opts)
			o.hear(gvk, w, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			opts.LabelSelector = selector
			events, err := resource.Watch(ctx, opts)
			if opts.SendInitialEvents == nil || !apierrors.IsInvalid(err) {
				o.hear(gvk, w, err)
			}
			return events, err
		},
	}
	expected := &unstructured.Unstructured{}
	expected.SetGroupVersionKind(gvk)
	store := &objectStore{objects: o, watch: w, gk: gvk.GroupKind(), ctx: ctx}
	go cache.NewReflectorWithOptions(lw, expected, store, cache.ReflectorOptions{Name: "releases' " + gvk.Kind}).RunWithContext(ctx)
	return nil
}

// hear takes in what a request of a watch has come to. A kind that the server does not know any more has no objects.
func (o *objects) hear(gvk schema.GroupVersionKind, w *objectWatch, err error) {
	o.mu.Lock()
	lost := false
	if unserved(err) && o.watches[gvk] == w {
		before := len(o.there)
		maps.DeleteFunc(o.there, func(ref delivery.Ref, _ thing) bool { return ref.GroupKind() == gvk.GroupKind() })
		lost = len(o.there) < before
	}
	news := lost || (err == nil) != (w.err == nil)
	w.err = err
	var users []delivery.ID
	for app := range w.users {
		users = append(users, app)
	}
	o.mu.Unlock()
	if news {
		o.wake(users)
	}
}

func (o *objects) wake(apps []delivery.ID) {
	for _, app := range apps {
		o.touched(app)
	}
}

// objectStore is where the reflector of one kind puts what it sees.
type objectStore struct {
	objects *objects
	watch   *objectWatch
	gk      schema.GroupKind
	ctx     context.Context //nolint:containedctx // the life of the reflector: one that was cancelled has no say
}

func (s *objectStore) Add(obj any) error    { return s.put(obj) }
func (s *objectStore) Update(obj any) error { return s.put(obj) }
func (s *objectStore) Resync() error        { return nil }

func (s *objectStore) put(obj any) error {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("watch %s: unexpected %T", s.gk.Kind, obj)
	}
	now, ref := thingOf(u), delivery.RefOf(u)
	o := s.objects
	o.mu.Lock()
	old, had := o.there[ref]
	stopped := s.ctx.Err() != nil
	if !stopped {
		o.there[ref] = now
	}
	o.mu.Unlock()
	if !stopped && (!had || old != now) {
		o.touched(now.owner)
	}
	return nil
}

func (s *objectStore) Delete(obj any) error {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("watch %s: unexpected %T", s.gk.Kind, obj)
	}
	o, ref := s.objects, delivery.RefOf(u)
	o.mu.Lock()
	old, had := o.there[ref]
	if s.ctx.Err() == nil {
		delete(o.there, ref)
	}
	o.mu.Unlock()
	if had {
		o.touched(old.owner)
	}
	return nil
}

// Replace takes in a list.
func (s *objectStore) Replace(list []any, _ string) error {
	next := map[delivery.Ref]thing{}
	for _, obj := range list {
		u, ok := obj.(*unstructured.Unstructured)
		if !ok {
			return fmt.Errorf("list %s: unexpected %T", s.gk.Kind, obj)
		}
		next[delivery.RefOf(u)] = thingOf(u)
	}
	o := s.objects
	o.mu.Lock()
	if s.ctx.Err() != nil {
		o.mu.Unlock()
		return nil
	}
	for ref := range o.there {
		if ref.GroupKind() == s.gk {
			delete(o.there, ref)
		}
	}
	for ref, t := range next {
		o.there[ref] = t
	}
	s.watch.synced = true
	var users []delivery.ID
	for app := range s.watch.users {
		users = append(users, app)
	}
	o.mu.Unlock()
	o.wake(users)
	return nil
}

// thingOf reduces an object to what is kept of it.
func thingOf(u *unstructured.Unstructured) thing {
	t := thing{owner: dialect.HelmOwner(u.GetLabels()), ours: written(u), exempt: exempt(u)}
	plain := u.DeepCopy()
	unstructured.RemoveNestedField(plain.Object, "status")
	for _, field := range []string{"managedFields", "resourceVersion", "generation"} {
		unstructured.RemoveNestedField(plain.Object, "metadata", field)
	}
	if data, err := json.Marshal(plain.Object); err == nil { // keys come in order
		t.mark = sha256.Sum256(data)
	}
	return t
}

// exempt tells whether an object says that no drift of it counts.
func exempt(u *unstructured.Unstructured) bool {
	return u.GetLabels()[dialect.DriftDetectionMark] == "disabled" || u.GetAnnotations()[dialect.DriftDetectionMark] == "disabled"
}

// written tells whether nobody but Helm, or Flux, has written to an object since it was written for the release; status does not count.
// Times are to the second: who wrote in the same one may have done so after.
func written(u *unstructured.Unstructured) bool {
	var own, others time.Time
	for _, f := range u.GetManagedFields() {
		switch {
		case f.Subresource == "scale": // somebody has; it is not told when, and goes when the number is ours again
			return false
		case f.Time == nil || f.Subresource == "status":
		case (f.Manager == fieldManager || f.Manager == helmControllerWriter) && f.Subresource == "":
			if f.Time.After(own) {
				own = f.Time.Time
			}
		case f.Time.After(others):
			others = f.Time.Time
		}
	}
	return !own.IsZero() && own.After(others)
}

// differences names the fields in which two objects differ, "spec.replicas", at most so many.
func differences(a, b any, path string, out []string) []string {
	x, okA := a.(map[string]any)
	y, okB := b.(map[string]any)
	if !okA || !okB {
		if !equalJSON(a, b) && len(out) <= maxNamed {
			out = append(out, strings.TrimPrefix(path, "."))
		}
		return out
	}
	for _, key := range slices.Sorted(keysOf(x, y)) {
		name := path + "." + key
		if strings.ContainsAny(key, "./") {
			name = path + "[" + key + "]"
		}
		out = differences(x[key], y[key], name, out)
	}
	return out
}
