package main

import (
	"context"
	"log/slog"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/web"
)

// indexedKind is a kind that an index is kept of.
type indexedKind struct {
	kind string
	obj  client.Object
	list func() client.ObjectList
}

var indexedKinds = []indexedKind{
	{kustomizev1.KustomizationKind, &kustomizev1.Kustomization{}, func() client.ObjectList { return &kustomizev1.KustomizationList{} }},
	{helmv2.HelmReleaseKind, &helmv2.HelmRelease{}, func() client.ObjectList { return &helmv2.HelmReleaseList{} }},
	{argocdv1.ApplicationKind, &argocdv1.Application{}, func() client.ObjectList { return &argocdv1.ApplicationList{} }},
	{sourcev1.GitRepositoryKind, &sourcev1.GitRepository{}, func() client.ObjectList { return &sourcev1.GitRepositoryList{} }},
	{sourcev1.OCIRepositoryKind, &sourcev1.OCIRepository{}, func() client.ObjectList { return &sourcev1.OCIRepositoryList{} }},
	{sourcev1.HelmRepositoryKind, &sourcev1.HelmRepository{}, func() client.ObjectList { return &sourcev1.HelmRepositoryList{} }},
	{sourcev1.HelmChartKind, &sourcev1.HelmChart{}, func() client.ObjectList { return &sourcev1.HelmChartList{} }},
}

// newAppIndex makes an index that [watchApps] keeps.
func newAppIndex(feed *web.Feed) *web.Index {
	var kinds []string
	for _, k := range indexedKinds {
		kinds = append(kinds, k.kind)
	}
	return web.NewIndex(feed, kinds...)
}

// shownRow is what a watch keeps of an object: what is shown of it, and nothing else.
type shownRow struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	app    *web.App
	source *web.Source
}

// DeepCopyObject implements [runtime.Object].
func (r *shownRow) DeepCopyObject() runtime.Object {
	c := *r
	return &c
}

// rowOf gives what is kept of an object.
func rowOf(o any) (any, error) {
	obj, ok := o.(client.Object)
	if !ok {
		return o, nil // an object that has gone while nobody looked: it was seen to already
	}
	row := &shownRow{ObjectMeta: metav1.ObjectMeta{
		Namespace: obj.GetNamespace(), Name: obj.GetName(), UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion(),
	}}
	switch obj := obj.(type) {
	case *shownRow:
		return obj, nil
	case *kustomizev1.Kustomization:
		row.app = new(appOf(obj))
	case *helmv2.HelmRelease:
		row.app = new(appOfHelm(obj))
	case *argocdv1.Application:
		row.app = new(appOfArgo(obj))
	default:
		row.source = new(sourceOf(obj))
	}
	return row, nil
}

// watchApps keeps an index by one watch for each kind, until ctx ends. It does not wait. A kind that the cluster does not have, or that may not be
// read, counts as known: there is nothing of it, until it can be read.
func watchApps(ctx context.Context, c client.WithWatch, index *web.Index, log *slog.Logger) error {
	for _, k := range indexedKinds {
		lw := &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
				list := k.list()
				return list, c.List(ctx, list, &client.ListOptions{Raw: &opts})
			},
			WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
				return c.Watch(ctx, k.list(), &client.ListOptions{Raw: &opts})
			},
		}
		informer := cache.NewSharedIndexInformer(lw, k.obj, 0, cache.Indexers{})
		if err := informer.SetTransform(rowOf); err != nil {
			return err
		}
		err := informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
			if isMissingKind(err) {
				index.Complete(k.kind)
				return // it is tried again, more and more rarely
			}
			cache.DefaultWatchErrorHandler(ctx, r, err)
			log.Debug("watch for the dashboard", "kind", k.kind, "error", err)
		})
		if err != nil {
			return err
		}
		handle, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { showRow(index, o) },
			UpdateFunc: func(_, o any) { showRow(index, o) },
			DeleteFunc: func(o any) { forgetRow(index, k.kind, o) },
		})
		if err != nil {
			return err
		}
		go informer.RunWithContext(ctx)
		go func() {
			if cache.WaitForCacheSync(ctx.Done(), handle.HasSynced) {
				index.Complete(k.kind)
			}
		}()
	}
	return nil
}

func showRow(index *web.Index, o any) {
	row, ok := o.(*shownRow)
	switch {
	case !ok:
	case row.app != nil:
		index.SetApp(*row.app)
	case row.source != nil:
		index.SetSource(*row.source)
	}
}

func forgetRow(index *web.Index, kind string, o any) {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o)
	if err != nil {
		return
	}
	index.DropApp(kind + "/" + key)
	index.DropSource(kind + "/" + key)
}
