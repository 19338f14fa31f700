// Package live answers "what is there, and did it drift" from memory.
//
// It keeps one watch per kind and cluster, restricted to objects that carry the ownership label, and of every object
// only a record: hashes of the fields that we own, its health, its owner. The object itself is decoded, hashed and
// dropped. An object whose label is taken away leaves the watch like a deleted one and is repaired like one.
// What an apply returned is fed in with [Live.Observe], so that a stage sees the writes of the one before.
package live

import (
	"context"
	"fmt"
	"strconv"
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
	"keelson.dev/keelson/internal/health"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/plan"
)

// Options say what is ours and whom to tell.
type Options struct {
	Key      delivery.Key                               // of the hashes in the records
	Selector string                                     // label selector of the objects to watch
	OwnerOf  func(labels map[string]string) delivery.ID // the app that an object's labels name
	// Notify is called after the record of an object changed in a way that matters (there or not, drifted, health,
	// autoscaled), and with a zero Ref when a watch that the app waits for has caught up. It must not block.
	Notify func(app delivery.ID, ref delivery.Ref)
}

// Live is the memory of one cluster. It is safe for concurrent use.
type Live struct {
	cluster *kube.Cluster
	opts    Options
	ctx     context.Context //nolint:containedctx // the watches outlive the calls that start them; this is their life, given to New

	mu      sync.RWMutex
	kinds   map[schema.GroupVersionKind]*kindWatch
	absent  map[schema.GroupVersionKind]time.Time // kinds that the server did not know, and until when that is believed
	objects map[delivery.Ref]delivery.Live
	scalers map[string]delivery.Ref // "namespace/name" of a HorizontalPodAutoscaler -> its target
	scaled  map[delivery.Ref]string // target -> "HorizontalPodAutoscaler/name"
}

// kindWatch is the watch of one kind.
type kindWatch struct {
	cancel  context.CancelFunc
	synced  bool
	err     error                // why it has not caught up yet
	waiting map[delivery.ID]bool // apps to tell once synced
}

// AutoscalerKind is the kind of Kubernetes' own autoscalers; others make objects of it.
var AutoscalerKind = schema.GroupVersionKind{Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler"}

// New starts without any watch; ctx ends those that come.
func New(ctx context.Context, cluster *kube.Cluster, opts Options) *Live {
	return &Live{
		cluster: cluster, opts: opts, ctx: ctx,
		kinds:   map[schema.GroupVersionKind]*kindWatch{},
		absent:  map[schema.GroupVersionKind]time.Time{},
		objects: map[delivery.Ref]delivery.Live{},
		scalers: map[string]delivery.Ref{},
		scaled:  map[delivery.Ref]string{},
	}
}

// scalerWatch keys the unlabelled watch of all autoscalers beside the labelled ones.
var scalerWatch = schema.GroupVersionKind{Kind: "all HorizontalPodAutoscalers"}

// Ensure sees to it that the kinds are watched and tells whether everything about them is known.
// If not, the app is notified when it is, or when it turns out that it cannot be: then the error says why.
// A kind that the cluster does not have is an error (meta.IsNoMatchError).
func (l *Live) Ensure(app delivery.ID, kinds []schema.GroupVersionKind) (bool, error) {
	all := true
	for _, gvk := range kinds {
		synced, err := l.ensure(app, gvk, gvk)
		if err != nil {
			return false, err
		}
		all = all && synced
	}
	synced, err := l.ensure(app, scalerWatch, AutoscalerKind)
	if err != nil {
		return false, err
	}
	return all && synced, nil
}

func (l *Live) ensure(app delivery.ID, key, gvk schema.GroupVersionKind) (bool, error) {
	l.mu.Lock()
	if w, ok := l.kinds[key]; ok {
		if !w.synced {
			w.waiting[app] = true
		}
		synced, err := w.synced, w.err
		l.mu.Unlock()
		if err != nil {
			return false, fmt.Errorf("watch %s: %w", gvk.Kind, err)
		}
		return synced, nil
	}
	until, absent := l.absent[key]
	l.mu.Unlock()
	if absent && time.Now().Before(until) {
		return false, &meta.NoKindMatchError{GroupKind: gvk.GroupKind(), SearchedVersions: []string{gvk.Version}}
	}

	resource, err := l.cluster.Self().Resource(gvk, "") // may ask the server: not under the lock
	if err != nil {
		return false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if w, ok := l.kinds[key]; ok {
		w.waiting[app] = true
		return w.synced, nil
	}
	ctx, cancel := context.WithCancel(l.ctx)
	l.kinds[key] = &kindWatch{cancel: cancel, waiting: map[delivery.ID]bool{app: true}}
	selector := l.opts.Selector
	var store cache.ReflectorStore = &objectStore{live: l, kind: key}
	if key == scalerWatch {
		selector, store = "", &scalerStore{live: l}
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = selector
			list, err := resource.List(ctx, o)
			return list, l.noted(key, err)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = selector
			w, err := resource.Watch(ctx, o)
			return w, l.noted(key, err)
		},
	}
	expected := &unstructured.Unstructured{}
	expected.SetGroupVersionKind(gvk)
	r := cache.NewReflectorWithOptions(lw, expected, store, cache.ReflectorOptions{Name: "live " + gvk.Kind})
	go r.RunWithContext(ctx)
	return false, nil
}

// noted takes in how a list or watch request ended and returns the same error. The apps that wait for the watch are woken
// to tell of it; a kind that the server does not know loses its watch.
func (l *Live) noted(key schema.GroupVersionKind, err error) error {
	if err == nil || l.ctx.Err() != nil {
		return err
	}
	if apierrors.IsNotFound(err) {
		l.drop(key)
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if w, ok := l.kinds[key]; ok && !w.synced && w.err == nil {
		w.err = err
		for app := range w.waiting {
			l.opts.Notify(app, delivery.Ref{})
		}
	}
	return err
}

// absence is how long the server's word that it does not know a kind is believed.
const absence = 2 * time.Second

// drop ends the watch of a kind that the cluster no longer has: all its objects are gone with it. Who waited for the watch
// is woken once it makes sense to try again.
func (l *Live) drop(key schema.GroupVersionKind) {
	l.mu.Lock()
	w, ok := l.kinds[key]
	if ok {
		w.cancel()
		delete(l.kinds, key)
		l.absent[key] = time.Now().Add(absence)
	}
	l.mu.Unlock()
	if !ok {
		return
	}
	(&objectStore{live: l, kind: key}).replace(nil, "")
	time.AfterFunc(absence, func() {
		for app := range w.waiting {
			l.opts.Notify(app, delivery.Ref{})
		}
	})
}

// Deleted notes that we have just deleted an object: it is on its way out, whatever the watch still says.
func (l *Live) Deleted(ref delivery.Ref, uid string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rec, ok := l.objects[ref]; ok && rec.UID == uid {
		rec.Deleting = true
		l.objects[ref] = rec
	}
}

// Get gives the record of an object; false: it is not there, or not labelled as ours.
func (l *Live) Get(ref delivery.Ref) (delivery.Live, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	rec, ok := l.objects[ref]
	return rec, ok
}

// Scaler names the autoscaler that targets an object; false: none does.
func (l *Live) Scaler(ref delivery.Ref) (string, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	name, ok := l.scaled[ref]
	return name, ok
}

// Observe takes in an object as the server just returned it and gives its record, without waiting for the watch.
func (l *Live) Observe(u *unstructured.Unstructured) (delivery.Live, error) {
	rec, _, err := l.record(u)
	if err != nil {
		return rec, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if old, ok := l.objects[rec.Ref]; !ok || !newer(old.ResourceVersion, rec.ResourceVersion) {
		l.objects[rec.Ref] = rec
	}
	return rec, nil
}

// record reduces an object to what is kept of it. applied is the API version in which we applied it; empty: we did not.
func (l *Live) record(u *unstructured.Unstructured) (rec delivery.Live, applied string, err error) {
	own, err := ownershipOf(l.opts.Key, u, kube.FieldManager)
	if err != nil {
		return delivery.Live{}, "", err
	}
	replicas, ok, _ := unstructured.NestedInt64(u.Object, "spec", "replicas")
	if !ok {
		replicas = -1
	}
	return delivery.Live{
		Ref: delivery.RefOf(u), Version: u.GroupVersionKind().Version, UID: string(u.GetUID()),
		ResourceVersion: u.GetResourceVersion(), Owner: l.opts.OwnerOf(u.GetLabels()),
		Owned: own.hash, OwnsReplicas: own.replicas, Replicas: replicas, Rival: own.rival,
		Health: health.Of(u), Deleting: u.GetDeletionTimestamp() != nil,
		PruneDisabled: PruneDisabled(u), Fixed: plan.Fixed(u),
	}, own.version, nil
}

// PruneMark on an object, as a label or an annotation with the value "disabled", keeps it from being pruned (Flux).
const PruneMark = "kustomize.toolkit.fluxcd.io/prune"

// PruneDisabled tells whether an object carries the mark.
func PruneDisabled(u *unstructured.Unstructured) bool {
	return u.GetLabels()[PruneMark] == "disabled" || u.GetAnnotations()[PruneMark] == "disabled"
}

// matters tells whether a new record of an object is worth waking its app.
func matters(old, rec delivery.Live) bool {
	return old.UID != rec.UID || old.Owned != rec.Owned || old.Replicas != rec.Replicas || old.OwnsReplicas != rec.OwnsReplicas ||
		old.Health != rec.Health || old.Deleting != rec.Deleting || old.Owner != rec.Owner
}

// newer compares two resource versions of one kind, which are decimal numbers (Kubernetes API concepts, "Resource versions").
func newer(a, b string) bool {
	x, errA := strconv.ParseUint(a, 10, 64)
	y, errB := strconv.ParseUint(b, 10, 64)
	return errA == nil && errB == nil && x > y
}
