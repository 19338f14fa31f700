package controller

import (
	"context"
	"fmt"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/telemetry"
)

// fluxSources are what serves Flux's kinds of sources. All but GitRepositories may be nil: the cluster does not have the kind.
type fluxSources struct {
	git    *gitRepositories
	oci    *ociRepositories
	helm   *helmRepositories
	charts *helmCharts
}

// serveSources makes what serves Flux's sources, and follows the repositories that apps name themselves.
func (c *Controller) serveSources(ctx context.Context, opts Options, common *apps, fetching follower, rec *recorder) error {
	c.repos = newRepositories(fetching, common.news, common.later, func() { c.tidy(ctx, opts) })
	c.repos.secrets = func(ctx context.Context, src *delivery.Source) error {
		return deliver.ReadSecrets(ctx, c.mgr.GetAPIReader(), src)
	}
	c.charts = newReleaseCharts(c.repos, c.mgr.GetClient(), c.mgr.GetAPIReader(), c.wakes.wake)
	c.wakes[dialect.RepositoryKind], c.wakes[dialect.RepositoryChartKind] = c.repos.queue.Add, c.repos.queue.Add
	if err := c.mgr.Add(c.repos); err != nil {
		return fmt.Errorf("add the follower of repositories: %w", err)
	}
	fetching.changed = func(source delivery.ID) {
		common.news(source)
		c.charts.inform(source)
	}
	c.sources = &fluxSources{}
	var err error
	if c.sources.git, err = serveSource(ctx, c, opts, fetching, rec, gitRepositoryForm(opts.Now)); err != nil {
		return err
	}
	if c.sources.oci, err = serveSource(ctx, c, opts, fetching, rec, ociRepositoryForm(opts.Now)); err != nil {
		return err
	}
	if c.sources.helm, err = serveSource(ctx, c, opts, fetching, rec, helmRepositoryForm(opts.Now)); err != nil {
		return err
	}
	if ok, err := has(opts.Cluster, c.mgr.GetScheme(), &sourcev1.HelmChart{}); err != nil || c.sources.helm == nil {
		return err
	} else if !ok {
		opts.Log.Warn("a kind of sources is not served: the cluster lacks it (hint: kubectl apply -f config/crd, then start again)", "kind", sourcev1.HelmChartKind)
		return nil
	}
	c.sources.charts = &helmCharts{charts: c.charts, now: opts.Now, states: map[types.NamespacedName]*helmChartState{}}
	s := &shell[*sourcev1.HelmChart]{
		kind: c.sources.charts, client: c.mgr.GetClient(), recorder: rec, finalizer: sourcev1.SourceFinalizer, log: opts.Log,
		written: map[types.NamespacedName]*sourcev1.HelmChart{},
	}
	c.wakes[sourcev1.HelmChartKind] = s.enqueue
	return setup(c.mgr, "helmchart", s, sourceWorkers, nil)
}

// serveSource sets a kind of sources up, in a cluster that has it: one that was prepared for an older version goes on without.
func serveSource[T declaredSource](ctx context.Context, c *Controller, opts Options, fetching follower, rec *recorder, form sourceForm[T]) (*declaredSources[T], error) {
	if ok, err := has(opts.Cluster, c.mgr.GetScheme(), form.empty()); err != nil {
		return nil, err
	} else if !ok && form.kind != sourcev1.GitRepositoryKind {
		opts.Log.Warn("a kind of sources is not served: the cluster lacks it (hint: kubectl apply -f config/crd, then start again)", "kind", form.kind)
		return nil, nil //nolint:nilnil // there is none
	}
	g := &declaredSources[T]{
		follower: fetching, form: form, cache: c.mgr.GetClient(), reader: c.mgr.GetAPIReader(), tidy: func() { c.tidy(ctx, opts) }, respecified: c.charts.inform,
	}
	s := &shell[T]{
		kind: g, client: c.mgr.GetClient(), recorder: rec, finalizer: sourcev1.SourceFinalizer, log: opts.Log, written: map[types.NamespacedName]T{},
	}
	c.wakes[form.kind] = s.enqueue
	return g, setup(c.mgr, form.kind, s, sourceWorkers, nil)
}

// tidy removes the mirrors and archives that no source needs.
func (c *Controller) tidy(ctx context.Context, opts Options) {
	needed, all, err := c.needed(ctx)
	if err == nil && all {
		err = opts.Sources.Retain(ctx, needed)
	}
	if err != nil && ctx.Err() == nil {
		opts.Log.Warn("remove unused mirrors", "error", err)
	}
}

// needed gives id, tenant and URL of all sources, and whether these are all: until then nothing is removed.
func (c *Controller) needed(ctx context.Context) (sources []delivery.Source, all bool, err error) {
	if c.argo != nil {
		if looked, err := c.argo.looked(ctx); err != nil || !looked {
			return nil, false, err
		}
	}
	for _, list := range c.sources.lists() {
		if err := c.mgr.GetClient().List(ctx, list); err != nil {
			return nil, false, err
		}
		switch list := list.(type) {
		case *sourcev1.GitRepositoryList:
			for i := range list.Items {
				sources = append(sources, dialect.GitRepository(&list.Items[i]))
			}
		case *sourcev1.OCIRepositoryList:
			for i := range list.Items {
				sources = append(sources, dialect.OCIRepository(&list.Items[i]))
			}
		case *sourcev1.HelmRepositoryList: // the archives of their charts are kept for their address
			for i := range list.Items {
				sources = append(sources, dialect.HelmRepository(&list.Items[i]))
			}
		}
	}
	return append(sources, c.repos.all()...), true, nil
}

// lists gives an empty list for each kind that is served.
func (s *fluxSources) lists() []client.ObjectList {
	lists := []client.ObjectList{&sourcev1.GitRepositoryList{}}
	if s.oci != nil {
		lists = append(lists, &sourcev1.OCIRepositoryList{})
	}
	if s.helm != nil {
		lists = append(lists, &sourcev1.HelmRepositoryList{})
	}
	if s.charts != nil {
		lists = append(lists, &sourcev1.HelmChartList{})
	}
	return lists
}

// resources gives the sources for the numbers.
func (s *fluxSources) resources(ctx context.Context, from cache.Cache) (out []telemetry.Resource) {
	for _, list := range s.lists() {
		if from.List(ctx, list, client.UnsafeDisableDeepCopy) != nil {
			continue // what cannot be read yet has nothing
		}
		switch list := list.(type) {
		case *sourcev1.GitRepositoryList:
			for i := range list.Items {
				out = append(out, resourceOf(&list.Items[i], sourcev1.GitRepositoryKind, list.Items[i].Spec.Suspend))
			}
		case *sourcev1.OCIRepositoryList:
			for i := range list.Items {
				out = append(out, resourceOf(&list.Items[i], sourcev1.OCIRepositoryKind, list.Items[i].Spec.Suspend))
			}
		case *sourcev1.HelmRepositoryList:
			for i := range list.Items {
				out = append(out, resourceOf(&list.Items[i], sourcev1.HelmRepositoryKind, list.Items[i].Spec.Suspend))
			}
		case *sourcev1.HelmChartList:
			for i := range list.Items {
				out = append(out, resourceOf(&list.Items[i], sourcev1.HelmChartKind, list.Items[i].Spec.Suspend))
			}
		}
	}
	return out
}
