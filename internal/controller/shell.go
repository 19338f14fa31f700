package controller

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/telemetry"
)

// kind is what is particular to one kind of object; everything else about reconciling is the shell's.
type kind[T client.Object] interface {
	// empty gives a new object of the kind.
	empty() T
	// about gives a context whose spans tell what a step for the object is about.
	about(ctx context.Context, obj T) context.Context
	// step does one step for the object and sets its status. It neither waits nor writes to the object, except with
	// the pen what must be in the cluster before something else is done.
	step(ctx context.Context, obj T, pen pen) next
	// remove makes the cluster as if the object had never been.
	remove(ctx context.Context, obj T) (removal, error)
	// forget drops what is known of an object that is gone.
	forget(id types.NamespacedName)
}

// pen writes to the object of a step.
type pen struct {
	// save writes the status as it is now.
	save func() error
	// claim writes annotations and, in the same request, the finalizer where it is missing.
	claim func(annotations map[string]string) error
}

// removal is how far a removal has come.
type removal struct {
	done   bool
	after  time.Duration // not done: look again after this long
	events []event
}

// next is what a step leaves to do.
type next struct {
	after  time.Duration // look again after this long; zero: only when something happens
	events []event
}

// event is something that happened, for people.
type event struct {
	warning         bool
	reason, message string
	revision        delivery.Revision
	aside           bool // no event of Kubernetes: it is for those who mark commits only
	again           bool // … a process before has written it, and may have been ended before it was sent
}

// shell reconciles one kind: get, deletion, step, one status write, events, requeue.
type shell[T client.Object] struct {
	kind      kind[T]
	client    client.Client
	recorder  *recorder
	finalizer string                 // that claims add
	ours      func(name string) bool // finalizers that a removal ends; nil: finalizer
	plain     bool                   // the kind has no status subresource: one patch writes whatever has changed
	log       *slog.Logger
	seen      func(before, now T) // every object that the cache takes in or drops, and what it was, if it was; nil: nobody cares

	queue atomic.Pointer[workqueue.TypedRateLimitingInterface[reconcile.Request]] // set at start

	mu      sync.Mutex
	written map[types.NamespacedName]T         // as the server returned our last write, until the cache has it too
	ended   map[types.NamespacedName]types.UID // whose removal is over, until the cache has it that they are gone
	ill     map[types.NamespacedName]bool      // that were said to be not well, until they are ready
}

// enqueue asks for a step. It never blocks.
func (s *shell[T]) enqueue(id delivery.ID) {
	if q := s.queue.Load(); q != nil {
		(*q).Add(reconcile.Request{NamespacedName: types.NamespacedName{Namespace: id.Namespace, Name: id.Name}})
	}
}

// Reconcile does one step for one object.
func (s *shell[T]) Reconcile(ctx context.Context, req ctrl.Request) (_ ctrl.Result, err error) {
	obj := s.kind.empty()
	defer s.timed(time.Now(), &obj, &err)
	err = s.client.Get(ctx, req.NamespacedName, obj)
	if apierrors.IsNotFound(err) {
		s.forget(req.NamespacedName)
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, err
	}
	obj = s.newest(obj)
	if !obj.GetDeletionTimestamp().IsZero() {
		return s.finalize(ctx, obj)
	}
	ctx, end := telemetry.Span(s.kind.about(ctx, obj), "reconcile")
	defer end(&err)
	before, was := s.copy(obj), wellnessOf(obj)
	save := func() error { return s.save(ctx, &before, obj) }
	n := s.kind.step(ctx, obj, pen{
		save:  save,
		claim: func(annotations map[string]string) error { return s.claim(ctx, &before, obj, annotations) },
	})
	n.events = s.wellAgain(obj, was, n.events)
	for _, e := range n.events { // of what happened, whether or not the status can be written
		s.recorder.record(obj, e)
	}
	if err := save(); client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: n.after}, nil
}

// wellAgain adds to the events of a step that the object has got ready, where that is news.
func (s *shell[T]) wellAgain(obj T, was wellness, events []event) []event {
	now, key := wellnessOf(obj), client.ObjectKeyFromObject(obj)
	if now.status == "" {
		return events
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ill := s.ill[key] || was.status == metav1.ConditionFalse && now.status == metav1.ConditionTrue
	if now.status == metav1.ConditionTrue {
		delete(s.ill, key)
	} else if slices.ContainsFunc(events, func(e event) bool { return e.warning }) || was.status == metav1.ConditionFalse {
		if s.ill == nil {
			s.ill = map[types.NamespacedName]bool{}
		}
		s.ill[key] = true
	}
	if e := readyEvent(was, now, ill, events); e != nil {
		events = append(events, *e)
	}
	return events
}

// parting is a kind that may have kept back something to tell of an object that is gone.
type parting interface {
	parting(id types.NamespacedName) (types.UID, []event)
}

func (s *shell[T]) forget(key types.NamespacedName) {
	if k, ok := s.kind.(parting); ok {
		gone := s.kind.empty()
		gone.SetNamespace(key.Namespace)
		gone.SetName(key.Name)
		uid, events := k.parting(key)
		gone.SetUID(uid)
		for _, e := range events {
			s.recorder.record(gone, e)
		}
	}
	s.kind.forget(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.written, key)
	delete(s.ended, key)
	delete(s.ill, key)
}

// end notes that the removal of an object is over. What the cache still has of it is not removed once more: its hooks would run again.
func (s *shell[T]) end(obj T) {
	key := client.ObjectKeyFromObject(obj)
	s.forget(key) // now: another of the same name may come at once
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.ended = map[types.NamespacedName]types.UID{}
	}
	s.ended[key] = obj.GetUID()
}

// hasEnded tells whether the removal of an object is over.
func (s *shell[T]) hasEnded(obj T) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended[client.ObjectKeyFromObject(obj)] == obj.GetUID()
}

func (s *shell[T]) copy(obj T) T {
	c, ok := obj.DeepCopyObject().(T)
	if !ok { // a deep copy has the type of its original
		panic(fmt.Sprintf("deep copy of %T has another type", obj))
	}
	return c
}

// newest gives the object as our last write left it, if the cache lags behind.
func (s *shell[T]) newest(obj T) T {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, ok := s.written[client.ObjectKeyFromObject(obj)]
	if ok && last.GetUID() == obj.GetUID() && version(last) > version(obj) {
		return s.copy(last)
	}
	return obj
}

// wrote keeps what the server made of a write until the cache has it.
func (s *shell[T]) wrote(ctx context.Context, out T) {
	out.SetManagedFields(nil)
	key := client.ObjectKeyFromObject(out)
	s.mu.Lock()
	s.written[key] = out
	s.mu.Unlock()
	if has := s.kind.empty(); s.client.Get(ctx, key, has) == nil {
		s.cached(has) // the watch may have been faster than the answer
	}
}

// cached takes note of what the cache has.
func (s *shell[T]) cached(obj T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := client.ObjectKeyFromObject(obj)
	if last, ok := s.written[key]; ok && version(obj) >= version(last) {
		delete(s.written, key)
	}
}

// version is an object's resource version as the number that it is; 0 if it is not one.
func version(obj client.Object) uint64 {
	v, err := strconv.ParseUint(obj.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return v
}

// save writes the status where it differs from the one last written.
func (s *shell[T]) save(ctx context.Context, before *T, obj T) error {
	if equality.Semantic.DeepEqual(*before, obj) {
		return nil
	}
	patch := client.MergeFrom(*before)
	data, err := patch.Data(obj)
	if err != nil {
		return fmt.Errorf("compare status: %w", err)
	}
	if string(data) == "{}" {
		return nil
	}
	ctx, end := telemetry.Span(ctx, "status")
	out, err := s.patch(ctx, *before, obj, patch, data)
	end(&err)
	telemetry.StatusWrites.WithLabelValues(s.kindOf(obj), telemetry.Result(err)).Inc()
	if err != nil {
		return err
	}
	if s.plain {
		obj.SetResourceVersion(out.GetResourceVersion())
	}
	s.wrote(ctx, out)
	*before = s.copy(obj)
	return nil
}

// guarded is a kind of which some writes must not be made over what somebody else has written meanwhile.
type guarded[T client.Object] interface {
	guard(before, now T) bool
}

// patch sends what differs and gives what the server made of it.
func (s *shell[T]) patch(ctx context.Context, before, obj T, patch client.Patch, data []byte) (out T, err error) {
	if !s.plain {
		out = s.copy(obj)
		return out, s.client.Status().Patch(ctx, out, client.RawPatch(patch.Type(), data))
	}
	if k, ok := s.kind.(guarded[T]); ok && k.guard(before, obj) {
		if data, err = client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}).Data(obj); err != nil {
			return out, fmt.Errorf("compare: %w", err)
		}
	}
	out = s.kind.empty() // what is decoded over something else may keep parts of that
	out.SetNamespace(obj.GetNamespace())
	out.SetName(obj.GetName())
	return out, s.client.Patch(ctx, out, client.RawPatch(patch.Type(), data))
}

// claim writes annotations and the finalizer where something of it is missing. A list is replaced as a whole, so the
// finalizer goes with a check that nobody has written meanwhile.
func (s *shell[T]) claim(ctx context.Context, before *T, obj T, annotations map[string]string) error {
	if len(annotations) == 0 && controllerutil.ContainsFinalizer(obj, s.finalizer) {
		return nil
	}
	next := s.copy(obj)
	patch := client.MergeFrom(obj)
	if controllerutil.AddFinalizer(next, s.finalizer) {
		patch = client.MergeFromWithOptions(obj, client.MergeFromWithOptimisticLock{})
	}
	all := maps.Clone(next.GetAnnotations())
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, annotations)
	next.SetAnnotations(all)
	if err := s.client.Patch(ctx, next, patch); err != nil {
		return err
	}
	for _, o := range []T{*before, obj} {
		o.SetFinalizers(next.GetFinalizers())
		o.SetAnnotations(next.GetAnnotations())
		o.SetResourceVersion(next.GetResourceVersion())
	}
	s.wrote(ctx, next)
	return nil
}

func (s *shell[T]) isOurs(finalizer string) bool {
	if s.ours != nil {
		return s.ours(finalizer)
	}
	return finalizer == s.finalizer
}

func (s *shell[T]) finalize(ctx context.Context, obj T) (ctrl.Result, error) {
	if s.hasEnded(obj) || !slices.ContainsFunc(obj.GetFinalizers(), s.isOurs) {
		return ctrl.Result{}, nil
	}
	was := s.copy(obj)
	r, err := s.kind.remove(ctx, obj)
	for _, e := range r.events {
		s.recorder.record(obj, e)
	}
	if err != nil {
		s.recorder.record(obj, event{warning: true, reason: "DeletionFailed", message: err.Error()})
		return ctrl.Result{}, err
	}
	if !r.done {
		if err := s.save(ctx, &was, obj); client.IgnoreNotFound(err) != nil { // why it waits
			return ctrl.Result{}, err
		}
		return ctrl.Result{RequeueAfter: r.after}, nil
	}
	before := s.copy(obj)
	obj.SetFinalizers(slices.DeleteFunc(slices.Clone(obj.GetFinalizers()), s.isOurs))
	err = s.client.Patch(ctx, obj, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	if client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, err
	}
	s.end(before)
	return ctrl.Result{}, nil
}
