package controller

import (
	"context"
	"log/slog"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
)

// lagging is a client whose cache has an object that is gone already.
type lagging struct {
	client.Client
	has *argocdv1.Application
}

func (l lagging) Get(_ context.Context, _ client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	l.has.DeepCopyInto(into.(*argocdv1.Application))
	return nil
}

func (l lagging) Patch(context.Context, client.Object, client.Patch, ...client.PatchOption) error {
	return nil
}

func (l lagging) GroupVersionKindFor(runtime.Object) (schema.GroupVersionKind, error) {
	return argocdv1.GroupVersion.WithKind(argocdv1.ApplicationKind), nil
}

// removals counts them by object.
type removals map[types.UID]int

func (r removals) empty() *argocdv1.Application { return &argocdv1.Application{} }

func (r removals) about(ctx context.Context, _ *argocdv1.Application) context.Context { return ctx }

func (r removals) step(context.Context, *argocdv1.Application, pen) next { return next{} }

func (r removals) forget(types.NamespacedName) {}

func (r removals) remove(_ context.Context, obj *argocdv1.Application) (removal, error) {
	r[obj.UID]++
	return removal{done: true}, nil
}

// TestRemovedOnce: an object that the cache still has is not removed again, and another one of its name is.
func TestRemovedOnce(t *testing.T) {
	app := &argocdv1.Application{ObjectMeta: metav1.ObjectMeta{
		Namespace: "argocd", Name: "web", Finalizers: []string{argocdv1.ResourcesFinalizer}, DeletionTimestamp: &metav1.Time{Time: time.Unix(1, 0)},
	}}
	runs := removals{}
	s := &shell[*argocdv1.Application]{
		kind: runs, client: lagging{has: app}, finalizer: argocdv1.ResourcesFinalizer, log: slog.New(slog.DiscardHandler),
		written: map[types.NamespacedName]*argocdv1.Application{},
	}
	for _, uid := range []types.UID{"first", "first", "second", "second"} {
		app.UID = uid
		if _, err := s.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(app)}); err != nil {
			t.Fatal(err)
		}
	}
	if runs["first"] != 1 || runs["second"] != 1 {
		t.Errorf("removed so often: %v, want each once", runs)
	}
}
