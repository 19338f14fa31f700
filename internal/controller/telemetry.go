package controller

import (
	"context"
	"strings"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/telemetry"
)

// State tells how things stand, from memory alone.
func (c *Controller) State() telemetry.State {
	state := telemetry.State{Watches: watchedBy(c.clusters()...)}
	select {
	case <-c.mgr.Elected():
	default:
		return state // the caches may not have been started yet
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var apps kustomizev1.KustomizationList
	_ = c.mgr.GetCache().List(ctx, &apps, client.UnsafeDisableDeepCopy) // what cannot be read yet has nothing
	for i := range apps.Items {
		state.Resources = append(state.Resources, resourceOf(&apps.Items[i], kustomizev1.KustomizationKind, apps.Items[i].Spec.Suspend))
	}
	state.Resources = append(state.Resources, c.sources.resources(ctx, c.mgr.GetCache())...)
	state.Resources = append(state.Resources, c.receiversOf(ctx)...)
	if c.argo != nil {
		state.Resources = append(state.Resources, c.argo.resources(ctx)...)
	}
	return state
}

// clusters are those that apps of all kinds are delivered to.
func (c *Controller) clusters() []*targets {
	if c.argo == nil {
		return []*targets{c.targets}
	}
	return []*targets{c.targets, c.argo.apps.targets}
}

// resources gives the Applications for the numbers.
func (g *argo) resources(ctx context.Context) []telemetry.Resource {
	var list argocdv1.ApplicationList
	if g.apps.cache.List(ctx, &list, client.UnsafeDisableDeepCopy) != nil {
		return nil // one that cannot be read yet has nothing
	}
	var out []telemetry.Resource
	for i := range list.Items {
		if a := &list.Items[i]; g.estate.serves(a.Namespace) {
			out = append(out, telemetry.Resource{
				Kind: argocdv1.ApplicationKind, Namespace: a.Namespace, Name: a.Name,
				Suspended: a.Annotations[dialect.SkipReconcileAnnotation] == "true", Ready: string(readiness(a)),
			})
		}
	}
	return out
}

// conditioned is an object whose status has conditions.
type conditioned interface {
	client.Object
	GetConditions() []metav1.Condition
}

func resourceOf(obj conditioned, kind string, suspended bool) telemetry.Resource {
	return telemetry.Resource{
		Kind: kind, Namespace: obj.GetNamespace(), Name: obj.GetName(), Suspended: suspended, Ready: string(readiness(obj)),
	}
}

// readiness is the status of an object's Ready condition; "Unknown" where it has none.
func readiness(obj client.Object) metav1.ConditionStatus {
	if a, ok := obj.(*argocdv1.Application); ok {
		return applicationReady(a)
	}
	if c, ok := obj.(conditioned); ok {
		if ready := apimeta.FindStatusCondition(c.GetConditions(), meta.ReadyCondition); ready != nil {
			return ready.Status
		}
	}
	return metav1.ConditionUnknown
}

// applicationReady tells of an Application, which has no such condition, whether it is as Git wants it and healthy.
func applicationReady(a *argocdv1.Application) metav1.ConditionStatus {
	sync, doing := a.Status.Sync.Status, delivery.HealthStatus(a.Status.Health.Status)
	switch {
	case sync == argocdv1.Synced && doing == delivery.Healthy:
		return metav1.ConditionTrue
	case sync == argocdv1.OutOfSync || doing == delivery.Degraded || doing == delivery.Missing:
		return metav1.ConditionFalse
	}
	return metav1.ConditionUnknown
}

// kindOf is the kind of a shell's objects, as a label.
func (s *shell[T]) kindOf(obj T) string {
	gvk, err := s.client.GroupVersionKindFor(obj)
	if err != nil { // the scheme lacks it: nothing could have been read either
		return ""
	}
	return gvk.Kind
}

// timed notes how long a step took that began at start, and how the object stands after it.
func (s *shell[T]) timed(start time.Time, obj *T, err *error) {
	outcome := strings.ToLower(string(readiness(*obj)))
	if *err != nil {
		outcome = telemetry.Failed
	}
	telemetry.Took(telemetry.Reconciles, start, s.kindOf(*obj), outcome)
}

// about gives a context whose spans name the app, its source and the commit that it is to stand at.
func (k *kustomizations) about(ctx context.Context, obj *kustomizev1.Kustomization) context.Context {
	if !telemetry.Tracing() {
		return ctx
	}
	app, _ := dialect.Kustomization(obj) // its error is the step's
	snap, _ := k.reg.snapshot(app.Source)
	ctx = telemetry.With(ctx, telemetry.App(app.ID.String()), telemetry.Source(app.Source.String()))
	return telemetry.Commit(ctx, snap.Revision.Commit, snap.Revision.Name, k.reg.standOf(app.ID).applied != snap.Revision)
}

// arriving gives the revision that a fetch has brought and that is still to be taken in (news), else the last one.
func (r *registry) arriving(id delivery.ID) (rev delivery.Revision, news bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	st, ok := r.sources[id]
	if !ok {
		return delivery.Revision{}, false
	}
	if res := st.result; res != nil && res.err == nil {
		return res.snapshot.Revision, res.snapshot.Revision != st.snapshot.Revision
	}
	return st.snapshot.Revision, false
}

// delivered notes how long a commit took to get live in an app, when the app has just got ready at it.
func (k *kustomizations) delivered(p *kustomizationPass, out delivery.Outcome) {
	if out.Phase != delivery.Ready || k.reg.standOf(p.app.ID).applied == out.Applied {
		return
	}
	known := k.reg.known(p.app.Source)
	if known.IsZero() {
		return // it comes from the mirror, after a start without the remote
	}
	if known.Before(p.st.since) {
		known = p.st.since
	}
	telemetry.Deliveries.WithLabelValues(p.app.ID.Kind).Observe(k.now().Sub(known).Seconds())
}

// known tells when the commit of a source's snapshot became known.
func (r *registry) known(source delivery.ID) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if st, ok := r.sources[source]; ok {
		return st.since
	}
	return time.Time{}
}
