package controller

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/client-go/tools/cache"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/dialect"
)

// Asked is what somebody has asked for by changing an object in the cluster.
type Asked struct {
	Kind, Namespace, Name string
	Action                string // app.suspend, app.resume, app.sync or app.confirm
	By                    string // who it is by what the object says; empty: it says nobody, the audit log of Kubernetes knows
	Detail                string
}

// listen tells of what people ask for by changing objects, while this controller is the one that acts. It is called before the manager starts.
func (c *Controller) listen(ctx context.Context, opts Options) error {
	if opts.Asked == nil {
		return nil
	}
	kinds := map[string]client.Object{
		kustomizev1.KustomizationKind: &kustomizev1.Kustomization{}, helmv2.HelmReleaseKind: &helmv2.HelmRelease{},
		sourcev1.GitRepositoryKind: &sourcev1.GitRepository{}, sourcev1.OCIRepositoryKind: &sourcev1.OCIRepository{}, sourcev1.HelmRepositoryKind: &sourcev1.HelmRepository{},
	}
	if c.argo != nil {
		kinds[argocdv1.ApplicationKind] = &argocdv1.Application{}
	}
	for kind, obj := range kinds {
		if ok, err := has(opts.Cluster, c.mgr.GetScheme(), obj); err != nil {
			return err
		} else if !ok {
			continue
		}
		informer, err := c.mgr.GetCache().GetInformer(ctx, obj, ctrlcache.BlockUntilSynced(false))
		if err == nil {
			_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(before, after any) {
				was, ok := before.(client.Object)
				is, also := after.(client.Object)
				if !ok || !also || !c.acts() {
					return
				}
				for _, a := range askedFor(was, is) {
					a.Kind, a.Namespace, a.Name = kind, is.GetNamespace(), is.GetName()
					opts.Asked(a)
				}
			}})
		}
		if err != nil {
			return fmt.Errorf("watch what is asked of %s: %w", kind, err)
		}
	}
	return nil
}

// acts tells whether this controller has the lease.
func (c *Controller) acts() bool {
	select {
	case <-c.mgr.Elected():
		return true
	default:
		return false
	}
}

// askedFor tells what a change of an object asks for.
func askedFor(was, is client.Object) (out []Asked) {
	before, after := suspended(was), suspended(is)
	switch {
	case !before && after:
		out = append(out, Asked{Action: "app.suspend"})
	case before && !after:
		out = append(out, Asked{Action: "app.resume"})
	}
	if now := is.GetAnnotations()[fluxmeta.ReconcileRequestAnnotation]; now != "" && now != was.GetAnnotations()[fluxmeta.ReconcileRequestAnnotation] {
		out = append(out, Asked{Action: "app.sync", By: dialect.RequestedBy(is.GetAnnotations()), Detail: "reconcile"})
	}
	if now := is.GetAnnotations()[dialect.ConfirmAnnotation]; now != "" && now != was.GetAnnotations()[dialect.ConfirmAnnotation] {
		out = append(out, Asked{Action: "app.confirm", Detail: "revision " + now})
	}
	old, isApp := was.(*argocdv1.Application)
	app, also := is.(*argocdv1.Application)
	if isApp && also && old.Operation == nil && app.Operation != nil && app.Operation.Sync != nil && !app.Operation.InitiatedBy.Automated {
		a := Asked{Action: "app.sync", By: app.Operation.InitiatedBy.Username}
		if r := cmp.Or(app.Operation.Sync.Revision, strings.Join(app.Operation.Sync.Revisions, " ")); r != "" {
			a.Detail = "revision " + r
		}
		out = append(out, a)
	}
	return out
}

// suspended tells whether an object is to be left as it is.
func suspended(obj client.Object) bool {
	switch o := obj.(type) {
	case *kustomizev1.Kustomization:
		return o.Spec.Suspend
	case *helmv2.HelmRelease:
		return o.Spec.Suspend
	case *sourcev1.GitRepository:
		return o.Spec.Suspend
	case *sourcev1.OCIRepository:
		return o.Spec.Suspend
	case *sourcev1.HelmRepository:
		return o.Spec.Suspend
	case *argocdv1.Application:
		return o.Annotations[dialect.SkipReconcileAnnotation] == "true"
	}
	return false
}
