package controller

import (
	"context"
	"fmt"
	"log/slog"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/live"
	"keelson.dev/keelson/internal/lua"
)

// argo is what serves Argo CD's kinds.
type argo struct {
	apps   *applications
	repos  *repositories
	estate *estate
	shell  *shell[*argocdv1.Application]
}

// servesArgo tells whether the cluster has Argo CD's kinds and they are to be served: one that was prepared for an older version goes
// on without.
func servesArgo(opts Options) (bool, error) {
	if opts.LeaveApplications {
		return false, nil
	}
	for _, kind := range []string{argocdv1.ApplicationKind, "AppProject"} {
		gvk := argocdv1.GroupVersion.WithKind(kind)
		if _, err := opts.Cluster.Mapper().RESTMapping(gvk.GroupKind(), gvk.Version); apimeta.IsNoMatchError(err) {
			opts.Log.Info("Applications are not served: the cluster lacks the kind (hint: kubectl apply -f config/crd, then start again)", "kind", kind)
			return false, nil
		} else if err != nil {
			return false, fmt.Errorf("look up %s: %w", kind, err)
		}
	}
	return true, nil
}

// serveApplications makes what serves Argo CD's kinds. common is what all kinds of apps share.
func (c *Controller) serveApplications(ctx context.Context, opts Options, scheme *runtime.Scheme, common *apps, claims *ledger, rec *recorder) error {
	yes, err := servesArgo(opts)
	if err != nil || !yes {
		return err
	}
	scripts := lua.NewPool()
	context.AfterFunc(ctx, scripts.Close)
	estate, err := newEstate(opts.ArgoNamespace, opts.Cluster, scheme, c.mgr.GetAPIReader(), scripts.Judge, opts.Log)
	if err != nil {
		return err
	}
	s := &shell[*argocdv1.Application]{
		client: c.mgr.GetClient(), recorder: rec, ours: argoFinalizer, plain: true, log: opts.Log,
		written: map[types.NamespacedName]*argocdv1.Application{},
	}
	watched := live.Options{
		Key: opts.Records.Key(), Selector: dialect.ArgoNameLabel, OwnerOf: dialect.ArgoOwner, MarksOf: dialect.ArgoMarks,
		Notify: func(app delivery.ID, _ delivery.Ref) { s.enqueue(app) },
	}
	engine := &deliver.Engine{
		Key: opts.Records.Key(), Cluster: opts.Cluster, Live: live.New(ctx, opts.Cluster, watched),
		Label: dialect.ArgoLabeler(opts.ArgoNamespace), OwnerOf: dialect.ArgoOwner, Read: dialect.ArgoRead,
		Tracks: dialect.ArgoTracker(opts.ArgoNamespace), Witness: opts.History != nil,
	}
	apps := &applications{
		apps: apps{
			reg: common.reg, targets: newTargets(ctx, engine, watched, kube.Policy{}, claims, s.enqueue), records: opts.Records, policy: opts.Policy,
			cache: common.cache, reader: common.reader, now: common.now, wake: common.wake, later: common.later, places: common.places, log: opts.Log, history: opts.History, parts: common.parts,
		},
		repos: c.repos, estate: estate,
	}
	if opts.Shard != nil && !opts.Shard.Empty() {
		engine.Elsewhere, apps.targets.base.Elsewhere = apps.ownedElsewhere, apps.ownedElsewhere
	}
	s.kind = apps
	c.argo = &argo{apps: apps, repos: c.repos, estate: estate, shell: s}
	c.wakes[argocdv1.ApplicationKind] = s.enqueue
	estate.onChange(func() { c.argo.wakeAll(ctx, opts.Log) })
	if err := setup(c.mgr, "application", s, appWorkers, c.prepare); err != nil {
		return err
	}
	return c.serveApplicationSets(ctx, opts, rec, estate, c.repos)
}

// wakeAll has every Application be looked at: something that concerns all has changed.
func (g *argo) wakeAll(ctx context.Context, log *slog.Logger) {
	var list argocdv1.ApplicationList
	if err := g.apps.cache.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		if ctx.Err() == nil {
			log.Warn("list Applications", "error", err)
		}
		return
	}
	for i := range list.Items {
		g.shell.enqueue(applicationID(client.ObjectKeyFromObject(&list.Items[i])))
	}
}

// looked tells whether every Application that is served has been looked at.
func (g *argo) looked(ctx context.Context) (bool, error) {
	var list argocdv1.ApplicationList
	if err := g.apps.cache.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return false, fmt.Errorf("list Applications: %w", err)
	}
	for i := range list.Items {
		item := &list.Items[i]
		if g.estate.serves(item.Namespace) && item.Annotations[dialect.SkipReconcileAnnotation] != "true" &&
			!g.apps.reg.standOf(applicationID(client.ObjectKeyFromObject(item))).evaluated {
			return false, nil
		}
	}
	return true, nil
}

// loadClaims makes known what Applications own, before the first plan is made.
func (g *argo) loadClaims(ctx context.Context) ([]delivery.ID, error) {
	if err := g.estate.start(ctx); err != nil {
		return nil, err
	}
	var list argocdv1.ApplicationList
	if err := g.apps.cache.List(ctx, &list); err != nil {
		return nil, fmt.Errorf("list Applications: %w", err)
	}
	g.apps.targets.home.engine.Live.JudgeKind(argocdv1.ApplicationKind, g.estate.holds().rules)
	held, ids := g.estate.holds(), make([]delivery.ID, len(list.Items))
	for i := range list.Items {
		item := &list.Items[i]
		ids[i] = applicationID(client.ObjectKeyFromObject(item))
		if !held.complete || !g.estate.serves(item.Namespace) { // before it is complete there is no step, and the first makes claims too
			continue
		}
		declared := g.apps.read(item, held, nil)
		to := declared.Destination
		cluster := homeCluster
		if to.Server != "" && to.Server != dialect.InCluster {
			remote, err := kube.RemoteFromArgo(to.Server, to.Config)
			if err != nil {
				continue // its step says so
			}
			cluster = remote.Cluster()
		}
		g.apps.targets.claimsOf(ids[i], cluster).Set(ids[i], claimed(declared, dialect.ArgoInventory(item)))
	}
	return ids, nil
}
