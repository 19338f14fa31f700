package controller

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"keelson.dev/keelson/internal/delivery"
)

// kind is what is particular to one kind of object; everything else about reconciling is the shell's.
type kind[T client.Object] interface {
	// empty gives a new object of the kind.
	empty() T
	// copyStatus makes the status of to that of from.
	copyStatus(from, to T)
	// step does one step for the object and sets its status. It neither waits nor writes to the object itself.
	// save writes the status as it is now, for what must be in the cluster before something else is done.
	step(ctx context.Context, obj T, save func() error) next
	// remove makes the cluster as if the object had never been.
	remove(ctx context.Context, obj T) (removal, error)
	// forget drops what is known of an object that is gone.
	forget(id types.NamespacedName)
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
}

// shell reconciles one kind: get, deletion, finalizer, step, one status write, events, requeue.
type shell[T client.Object] struct {
	kind      kind[T]
	client    client.Client
	recorder  *recorder
	finalizer string
	log       *slog.Logger

	queue atomic.Pointer[workqueue.TypedRateLimitingInterface[reconcile.Request]] // set at start

	mu      sync.Mutex
	written map[types.NamespacedName]T // as the server returned our last status write
}

// enqueue asks for a step. It never blocks.
func (s *shell[T]) enqueue(id delivery.ID) {
	if q := s.queue.Load(); q != nil {
		(*q).Add(reconcile.Request{NamespacedName: types.NamespacedName{Namespace: id.Namespace, Name: id.Name}})
	}
}

// Reconcile does one step for one object.
func (s *shell[T]) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	obj := s.kind.empty()
	err := s.client.Get(ctx, req.NamespacedName, obj)
	if apierrors.IsNotFound(err) {
		s.forget(req.NamespacedName)
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, err
	}
	s.takeWritten(req.NamespacedName, obj)
	if !obj.GetDeletionTimestamp().IsZero() {
		return s.finalize(ctx, obj)
	}
	if err := s.ensureFinalizer(ctx, obj); err != nil {
		return ctrl.Result{}, err
	}
	before := s.copy(obj)
	save := func() error { return s.save(ctx, &before, obj) }
	n := s.kind.step(ctx, obj, save)
	for _, e := range n.events { // of what happened, whether or not the status can be written
		s.recorder.record(obj, e)
	}
	if err := save(); client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: n.after}, nil
}

func (s *shell[T]) forget(key types.NamespacedName) {
	s.kind.forget(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.written, key)
}

func (s *shell[T]) copy(obj T) T {
	c, ok := obj.DeepCopyObject().(T)
	if !ok { // a deep copy has the type of its original
		panic(fmt.Sprintf("deep copy of %T has another type", obj))
	}
	return c
}

// takeWritten replaces the status of an object from the cache by the one that we wrote last, if the cache lags behind.
func (s *shell[T]) takeWritten(key types.NamespacedName, obj T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, ok := s.written[key]
	if !ok || last.GetUID() != obj.GetUID() {
		return
	}
	if version(last) > version(obj) {
		s.kind.copyStatus(last, obj)
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
	patch := client.MergeFrom(*before)
	data, err := patch.Data(obj)
	if err != nil {
		return fmt.Errorf("compare status: %w", err)
	}
	if string(data) == "{}" {
		return nil
	}
	out := s.copy(obj)
	if err := s.client.Status().Patch(ctx, out, patch); err != nil {
		return err
	}
	s.mu.Lock()
	s.written[client.ObjectKeyFromObject(out)] = s.copy(out)
	s.mu.Unlock()
	*before = s.copy(obj)
	return nil
}

func (s *shell[T]) ensureFinalizer(ctx context.Context, obj T) error {
	if controllerutil.ContainsFinalizer(obj, s.finalizer) {
		return nil
	}
	before := s.copy(obj)
	controllerutil.AddFinalizer(obj, s.finalizer)
	out := s.copy(obj)
	if err := s.client.Patch(ctx, out, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("add finalizer: %w", err)
	}
	obj.SetResourceVersion(out.GetResourceVersion())
	return nil
}

func (s *shell[T]) finalize(ctx context.Context, obj T) (ctrl.Result, error) {
	if !controllerutil.ContainsFinalizer(obj, s.finalizer) {
		return ctrl.Result{}, nil
	}
	r, err := s.kind.remove(ctx, obj)
	if err != nil {
		s.recorder.record(obj, event{warning: true, reason: "DeletionFailed", message: err.Error()})
		return ctrl.Result{}, err
	}
	for _, e := range r.events {
		s.recorder.record(obj, e)
	}
	if !r.done {
		return ctrl.Result{RequeueAfter: r.after}, nil
	}
	before := s.copy(obj)
	controllerutil.RemoveFinalizer(obj, s.finalizer)
	err = s.client.Patch(ctx, obj, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	if client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, err
	}
	s.forget(client.ObjectKeyFromObject(obj)) // now: another of the same name may come at once
	return ctrl.Result{}, nil
}
