package main

import (
	"cmp"
	"context"
	"fmt"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/web"
)

// sourceKinds are the kinds of Flux's sources. A cluster may do without all but the first.
var sourceKinds = []listedKind{
	{names: []string{"gitrepositories"}, list: func() client.ObjectList { return &sourcev1.GitRepositoryList{} }},
	{names: []string{"ocirepositories"}, list: func() client.ObjectList { return &sourcev1.OCIRepositoryList{} }, other: true},
	{names: []string{"helmrepositories"}, list: func() client.ObjectList { return &sourcev1.HelmRepositoryList{} }, other: true},
	{names: []string{"helmcharts"}, list: func() client.ObjectList { return &sourcev1.HelmChartList{} }, other: true},
}

// sourceListOf gives an empty list of an object's kind.
func sourceListOf(obj client.Object) client.ObjectList {
	switch obj.(type) {
	case *sourcev1.OCIRepository:
		return &sourcev1.OCIRepositoryList{}
	case *sourcev1.HelmRepository:
		return &sourcev1.HelmRepositoryList{}
	case *sourcev1.HelmChart:
		return &sourcev1.HelmChartList{}
	}
	return &sourcev1.GitRepositoryList{}
}

// sourceParts are what a source of any kind says of itself.
type sourceParts struct {
	kind, url, ref string
	suspended      bool
	observed       int64
	handled        string // the last request
	conditions     []metav1.Condition
	artifact       *fluxmeta.Artifact
}

// partsOf takes a source apart; its kind is empty for what is none.
func partsOf(obj client.Object) sourceParts {
	switch s := obj.(type) {
	case *sourcev1.GitRepository:
		p := sourceParts{sourcev1.GitRepositoryKind, s.Spec.URL, "", s.Spec.Suspend, s.Status.ObservedGeneration, s.Status.LastHandledReconcileAt, s.Status.Conditions, s.Status.Artifact}
		if r := s.Spec.Reference; r != nil {
			p.ref = cmp.Or(r.Commit, r.Name, r.SemVer, r.Tag, r.Branch)
		}
		return p
	case *sourcev1.OCIRepository:
		p := sourceParts{sourcev1.OCIRepositoryKind, s.Spec.URL, "", s.Spec.Suspend, s.Status.ObservedGeneration, s.Status.LastHandledReconcileAt, s.Status.Conditions, s.Status.Artifact}
		if r := s.Spec.Reference; r != nil {
			p.ref = cmp.Or(r.Digest, r.SemVer, r.Tag)
		}
		return p
	case *sourcev1.HelmRepository:
		return sourceParts{sourcev1.HelmRepositoryKind, s.Spec.URL, "", s.Spec.Suspend, s.Status.ObservedGeneration, s.Status.LastHandledReconcileAt, s.Status.Conditions, s.Status.Artifact}
	case *sourcev1.HelmChart:
		return sourceParts{
			sourcev1.HelmChartKind, s.Status.URL, s.Spec.Chart + " " + cmp.Or(s.Spec.Version, "*"), s.Spec.Suspend, s.Status.ObservedGeneration,
			s.Status.LastHandledReconcileAt, s.Status.Conditions, s.Status.Artifact,
		}
	}
	return sourceParts{}
}

func sourceOf(obj client.Object) web.Source {
	p := partsOf(obj)
	src := web.Source{Status: statusOf(p.kind, obj, p.suspended, p.observed, p.conditions), URL: redact.URL(p.url), Ref: p.ref}
	if p.artifact != nil {
		src.Revision = p.artifact.Revision
	}
	if h, ok := obj.(*sourcev1.HelmRepository); ok && dialect.IsStatic(h) && len(p.conditions) == 0 && !p.suspended {
		src.State, src.Message = web.Ready, "it says where charts are; nothing of it is fetched"
	}
	return src
}

// allSources lists the sources of all kinds.
func allSources(ctx context.Context, c client.Reader, opts ...client.ListOption) ([]client.Object, error) {
	return sourceListing.all(ctx, c, opts...)
}

// declaredSource reads the declaration of a source that apps are made from; what its Secrets hold is not in it yet.
func declaredSource(obj client.Object) delivery.Source {
	switch s := obj.(type) {
	case *sourcev1.GitRepository:
		return dialect.GitRepository(s)
	case *sourcev1.OCIRepository:
		return dialect.OCIRepository(s)
	}
	return delivery.Source{}
}

// sourceOfApp reads the source that an app follows.
func sourceOfApp(ctx context.Context, c client.Client, k *kustomizev1.Kustomization) (client.Object, error) {
	ref := k.Spec.SourceRef
	var src client.Object
	switch ref.Kind {
	case sourcev1.GitRepositoryKind:
		src = &sourcev1.GitRepository{}
	case sourcev1.OCIRepositoryKind:
		src = &sourcev1.OCIRepository{}
	default:
		return nil, fmt.Errorf("app %s/%s follows a %s: only a GitRepository or an OCIRepository can be asked", k.Namespace, k.Name, ref.Kind)
	}
	key := client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}
	if key.Namespace == "" {
		key.Namespace = k.Namespace
	}
	if err := c.Get(ctx, key, src); err != nil {
		return nil, explainAPI(fmt.Errorf("read source %s: %w", key, err))
	}
	return src, nil
}
