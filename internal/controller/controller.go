// Package controller holds the pen: it watches the kinds that declare sources and apps, steps each of them along the
// straight line (source, render, plan, apply, health) and writes their status.
//
// One generic shell does what is the same for every kind (shell.go); a file per kind says what is particular to it.
// What the kinds must know of each other is in memory (registry.go): a new snapshot wakes the apps made from it at once,
// an app that got ready wakes those that depend on it, a watch event wakes the app whose object it is about.
// The clusters that apps are delivered to are in targets.go: this one, and those that spec.kubeConfig names.
// Nobody waits in a worker, but for its turn to deliver.
package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	notificationv1beta3 "github.com/fluxcd/notification-controller/api/v1beta3"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/config"
	ctrlcontroller "sigs.k8s.io/controller-runtime/pkg/controller"
	ctrlevent "sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	ctrlsource "sigs.k8s.io/controller-runtime/pkg/source"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	keelsonv1 "keelson.dev/keelson/api/v1alpha1"
	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/live"
	"keelson.dev/keelson/internal/release"
	"keelson.dev/keelson/internal/source"
)

// Options are what a controller works with.
type Options struct {
	Cluster *kube.Cluster
	Sources *source.Fetcher
	Lock    resourcelock.Interface // the lease that guards against a second controller
	Records *deliver.Records       // nil: a restart looks at everything anew
	Policy  delivery.Policy
	Log     *slog.Logger
	Now     func() time.Time // nil: the system's clock
	Shard   labels.Selector  // of the sources, apps and Receivers to work on; nil: all

	Webhooks       bool // somebody calls Receive; otherwise Receivers say that they are not served
	LeaveReceivers bool // another controller works on Receivers: they are not touched

	ArgoNamespace     string // of Argo CD's projects, credentials and clusters; empty: argocd
	LeaveApplications bool   // another controller works on Argo CD's kinds: they are not touched

	History Recorder // is told of deliveries and repairs; nil: nobody is
	// Asked is told of what people have asked for by changing objects; it must not wait. Nil: nobody is.
	Asked    func(Asked)
	Projects Projects // who plays the pipelines of Projects; nil: nobody does, and they are not touched
}

// Controller runs the reconcilers against one cluster.
type Controller struct {
	mgr     manager.Manager
	sources *fluxSources
	repos   *repositories  // that apps name themselves
	charts  *releaseCharts // of HelmCharts, and of who else names a chart in Flux's words
	targets *targets

	receivers *receivers       // nil: the cluster does not have the kind
	sets      *applicationSets // nil: the same
	argo      *argo            // nil: the cluster does not have the kinds, or another controller works on them

	reg     *registry
	flux    *kustomizations
	helm    *helmReleases // nil: the cluster does not have the kind
	records *deliver.Records
	wakes   wakes
	prepare func(context.Context) error // before any app is looked at
}

const (
	appWorkers = 250 // steps of apps at once: most wait for the API server, which may take long over some
	// Apps being delivered at once: so many that the API server is busy, and so few that one gets ready before the next is
	// begun. One that takes longer than its turn no longer counts.
	appsAtOnce, appTurn = 16, time.Second

	sourceWorkers  = 4  // steps of sources at once; a step waits for nothing at all
	fetches        = 16 // exchanges with repositories at once; with one host, for one namespace, at most fetchesPerHost
	fetchesPerHost = 4
)

// Lease timing: a controller that died is succeeded after leaseDuration at the latest.
const leaseDuration, renewDeadline, retryPeriod = 15 * time.Second, 10 * time.Second, 2 * time.Second

// Scheme knows the kinds that the controller and the CLI read and write.
func Scheme() (*k8sruntime.Scheme, error) {
	scheme := k8sruntime.NewScheme()
	for _, add := range []func(*k8sruntime.Scheme) error{corev1.AddToScheme, sourcev1.AddToScheme, kustomizev1.AddToScheme, helmv2.AddToScheme, notificationv1.AddToScheme, notificationv1beta3.AddToScheme, argocdv1.AddToScheme, keelsonv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("register kinds: %w", err)
		}
	}
	return scheme, nil
}

// New wires a controller; ctx is its life.
func New(ctx context.Context, opts Options) (*Controller, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	opts.ArgoNamespace = cmp.Or(opts.ArgoNamespace, dialect.ArgoNamespace)
	ctrl.SetLogger(logr.FromSlogHandler(opts.Log.Handler()))
	scheme, err := Scheme()
	if err != nil {
		return nil, err
	}
	mgr, err := newManager(opts, scheme)
	if err != nil {
		return nil, err
	}
	rec, err := newRecorder(ctx, opts.Cluster, scheme)
	if err != nil {
		return nil, err
	}
	c := &Controller{mgr: mgr, reg: newRegistry(), records: opts.Records, wakes: wakes{}}
	if err := c.serveAlerts(opts, rec); err != nil {
		return nil, err
	}
	c.reg.additive = opts.Policy.AdditiveReadyExpr
	prepare := sync.OnceValue(func() error { return c.loadClaims(ctx) })
	c.prepare = func(context.Context) error { return prepare() }
	common := &apps{
		reg: c.reg, records: opts.Records, policy: opts.Policy, now: opts.Now, cache: mgr.GetClient(), reader: mgr.GetAPIReader(),
		wake: c.wakes.wake, later: newTrickle(c.wakes.wake), places: kube.NewPlaces(appsAtOnce, appTurn), log: opts.Log,
		history: opts.History, parts: newDissector(ctx),
	}
	fetching := follower{
		reg: c.reg, sources: opts.Sources, now: opts.Now, life: ctx, log: opts.Log, slots: newLanes(fetches, fetchesPerHost),
		wake: c.wakes.wake, changed: common.news,
	}
	if err := c.serveSources(ctx, opts, common, fetching, rec); err != nil {
		return nil, err
	}
	claims := newLedger()
	if err := c.serveFlux(ctx, opts, common, claims, rec); err != nil {
		return nil, err
	}
	if err := c.serveReleases(ctx, opts, common, rec); err != nil {
		return nil, err
	}
	if err := c.serveProjects(opts, rec); err != nil {
		return nil, err
	}
	if err := c.serveApplications(ctx, opts, scheme, common, claims, rec); err != nil {
		return nil, err
	}
	return c, c.listen(ctx, opts)
}

// serveFlux makes what serves Flux's kinds of apps, and Receivers.
func (c *Controller) serveFlux(ctx context.Context, opts Options, common *apps, claims *ledger, rec *recorder) error {
	mgr := c.mgr
	sharded := opts.Shard != nil && !opts.Shard.Empty()
	declared := &shell[*kustomizev1.Kustomization]{
		client: mgr.GetClient(), recorder: rec, finalizer: kustomizev1.KustomizationFinalizer, log: opts.Log,
		written: map[types.NamespacedName]*kustomizev1.Kustomization{},
	}
	hooks := &shell[*notificationv1.Receiver]{
		client: mgr.GetClient(), recorder: rec, finalizer: notificationv1.NotificationFinalizer, log: opts.Log,
		written: map[types.NamespacedName]*notificationv1.Receiver{},
	}
	c.wakes[kustomizev1.KustomizationKind] = declared.enqueue
	watched := live.Options{
		Key: opts.Records.Key(), Selector: dialect.OwnerNameLabel, OwnerOf: dialect.FluxOwner,
		Notify: func(app delivery.ID, _ delivery.Ref) {
			if app.Kind == notificationv1.ReceiverKind {
				hooks.enqueue(app)
				return
			}
			if sharded && app.Kind != ProjectKind && !c.reg.knows(app) {
				return // an app of another shard, whose objects have the same labels
			}
			c.wakes.wake(app)
		},
	}
	engine := &deliver.Engine{
		Key: opts.Records.Key(), Cluster: opts.Cluster, Live: live.New(ctx, opts.Cluster, watched),
		Label: dialect.FluxLabel, OwnerOf: dialect.FluxOwner, Witness: opts.History != nil,
	}
	c.targets = newTargets(ctx, engine, watched, kube.Policy{InsecureTLS: opts.Policy.InsecureKubeConfigTLS}, claims, c.wakes.wake)
	ks := &kustomizations{apps: apps{
		reg: common.reg, targets: c.targets, records: opts.Records, policy: opts.Policy, now: opts.Now, cache: common.cache, reader: common.reader,
		wake: common.wake, later: common.later, places: common.places, log: opts.Log, history: opts.History, parts: common.parts,
	}}
	if sharded {
		c.targets.base.Elsewhere, engine.Elsewhere = ks.ownedElsewhere, ks.ownedElsewhere
	}
	declared.kind, declared.seen, c.flux = ks, ks.seen, ks
	if err := c.serveReceivers(ctx, opts, hooks); err != nil {
		return err
	}
	return setup(mgr, "kustomization", declared, appWorkers, c.prepare)
}

// serveReleases makes what serves HelmReleases, in a cluster that has the kind.
func (c *Controller) serveReleases(ctx context.Context, opts Options, common *apps, rec *recorder) error {
	if ok, err := has(opts.Cluster, c.mgr.GetScheme(), &helmv2.HelmRelease{}); err != nil {
		return err
	} else if !ok {
		opts.Log.Warn("HelmReleases are not served: the cluster lacks the kind (hint: kubectl apply -f config/crd, then start again)")
		return nil
	}
	declared := &shell[*helmv2.HelmRelease]{
		client: c.mgr.GetClient(), recorder: rec, finalizer: helmv2.HelmReleaseFinalizer, log: opts.Log,
		written: map[types.NamespacedName]*helmv2.HelmRelease{},
	}
	c.helm = &helmReleases{charts: c.charts, life: ctx, engines: map[*target]*release.Engine{}, owners: map[string]delivery.ID{}, acts: map[delivery.ID]*acting{}, apps: apps{
		reg: common.reg, targets: c.targets, records: opts.Records, policy: opts.Policy, now: opts.Now, cache: common.cache, reader: common.reader,
		wake: common.wake, later: common.later, places: common.places, log: opts.Log, history: opts.History, parts: common.parts,
	}}
	declared.kind, declared.seen = c.helm, c.helm.seen
	c.wakes[helmv2.HelmReleaseKind] = declared.enqueue
	return setup(c.mgr, "helmrelease", declared, appWorkers, c.prepare)
}

// loadClaims makes known who owns what, and forgets the apps that are gone.
func (c *Controller) loadClaims(ctx context.Context) error {
	all, err := c.flux.loadClaims(ctx)
	if err == nil && c.helm != nil {
		err = c.helm.loadOwners(ctx)
	}
	if err == nil && c.argo != nil {
		var more []delivery.ID
		more, err = c.argo.loadClaims(ctx)
		all = append(all, more...)
	}
	if err != nil {
		return err
	}
	if err := c.records.Retain(all); err != nil {
		c.flux.log.Warn("remove records of apps that are gone", "error", err)
	}
	return nil
}

func newManager(opts Options, scheme *k8sruntime.Scheme) (manager.Manager, error) {
	lease, renew, retry := leaseDuration, renewDeadline, retryPeriod
	sharded := map[client.Object]cache.ByObject{}
	for _, obj := range []client.Object{
		&sourcev1.GitRepository{}, &sourcev1.OCIRepository{}, &sourcev1.HelmRepository{}, &sourcev1.HelmChart{}, &kustomizev1.Kustomization{}, &helmv2.HelmRelease{},
		&notificationv1.Receiver{}, &argocdv1.Application{}, &argocdv1.ApplicationSet{},
	} {
		if ok, err := has(opts.Cluster, scheme, obj); err != nil {
			return nil, err
		} else if ok {
			sharded[obj] = cache.ByObject{Label: opts.Shard}
		}
	}
	mgr, err := ctrl.NewManager(opts.Cluster.Config(), manager.Options{
		Scheme: scheme, Logger: logr.FromSlogHandler(opts.Log.Handler()),
		Metrics:        metricsserver.Options{BindAddress: "0"},
		LeaderElection: opts.Lock != nil, LeaderElectionResourceLockInterface: opts.Lock,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &lease, RenewDeadline: &renew, RetryPeriod: &retry,
		Controller: config.Controller{SkipNameValidation: new(true)},
		Client:     client.Options{FieldValidation: metav1.FieldValidationIgnore}, // what we write comes from Go types
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(), // half of a small object
			ByObject:         sharded,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make manager: %w", err)
	}
	return mgr, nil
}

// has tells whether a cluster has the kind of an object: one that was prepared for an older version lacks some.
func has(cluster *kube.Cluster, scheme *k8sruntime.Scheme, obj client.Object) (bool, error) {
	gvk, err := apiutil.GVKForObject(obj, scheme)
	if err != nil {
		return false, fmt.Errorf("look up %T: %w", obj, err)
	}
	_, err = cluster.Mapper().RESTMapping(gvk.GroupKind(), gvk.Version)
	if apimeta.IsNoMatchError(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look up %s: %w", gvk.Kind, err)
	}
	return true, nil
}

// setup registers a shell: it is asked for a step when the spec or the annotations of an object change, and by enqueue.
// before runs once the caches are filled, ahead of the first step.
func setup[T client.Object](mgr manager.Manager, name string, s *shell[T], workers int, before func(context.Context) error) error {
	c, err := ctrlcontroller.New(name, mgr, ctrlcontroller.Options{
		MaxConcurrentReconciles: workers, Reconciler: s, SkipNameValidation: new(true),
	})
	if err != nil {
		return fmt.Errorf("make %s controller: %w", name, err)
	}
	watch := ctrlsource.Kind(mgr.GetCache(), s.kind.empty(), &handler.TypedEnqueueRequestForObject[T]{}, specChanged(s))
	if err := c.Watch(watch); err != nil {
		return fmt.Errorf("watch %s: %w", name, err)
	}
	queue := ctrlsource.Func(func(ctx context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		s.queue.Store(&q)
		if before != nil {
			return before(ctx)
		}
		return nil
	})
	if err := c.Watch(queue); err != nil {
		return fmt.Errorf("watch for %s wake-ups: %w", name, err)
	}
	return nil
}

// specChanged lets through what a person changes: the spec (generation), annotations, deletion. What we write ourselves does
// not pass. The shell is shown everything.
func specChanged[T client.Object](s *shell[T]) predicate.TypedPredicate[T] {
	var none T
	seen := func(before, now T) bool {
		if s.seen != nil {
			s.seen(before, now)
		}
		return true
	}
	return predicate.TypedFuncs[T]{
		CreateFunc: func(e ctrlevent.TypedCreateEvent[T]) bool { return seen(none, e.Object) },
		DeleteFunc: func(e ctrlevent.TypedDeleteEvent[T]) bool { return seen(none, e.Object) },
		UpdateFunc: func(e ctrlevent.TypedUpdateEvent[T]) bool {
			s.cached(e.ObjectNew)
			seen(e.ObjectOld, e.ObjectNew)
			if k, ok := s.kind.(changing[T]); ok && k.changed(e.ObjectOld, e.ObjectNew) {
				return true
			}
			return e.ObjectOld.GetUID() != e.ObjectNew.GetUID() || // deleted and made anew while the watch was down
				!s.plain && e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration() ||
				!e.ObjectNew.GetDeletionTimestamp().Equal(e.ObjectOld.GetDeletionTimestamp()) ||
				!maps.Equal(foreign(e.ObjectOld.GetAnnotations()), foreign(e.ObjectNew.GetAnnotations()))
		},
	}
}

// changing is a kind whose generation does not tell of what a person changes.
type changing[T client.Object] interface {
	changed(before, now T) bool
}

// foreign gives annotations without those that we write ourselves.
func foreign(annotations map[string]string) map[string]string {
	out := maps.Clone(annotations)
	delete(out, dialect.IntentAnnotation)
	return out
}

// loadClaims makes the inventories in the cluster known before the first plan is made, and lists the apps.
func (k *kustomizations) loadClaims(ctx context.Context) ([]delivery.ID, error) {
	var list kustomizev1.KustomizationList
	if err := k.cache.List(ctx, &list); err != nil {
		return nil, fmt.Errorf("list Kustomizations: %w", err)
	}
	apps := make([]delivery.ID, len(list.Items))
	claims := make([]*deliver.Claims, len(list.Items))
	clusters := map[string]string{}
	for i := range list.Items {
		item := &list.Items[i]
		app, _ := dialect.Kustomization(item) // its error is the step's
		apps[i] = app.ID
		if claims[i] = k.targets.claimsOf(app.ID, k.clusterOf(ctx, app, clusters)); claims[i] != nil {
			claims[i].Set(app.ID, dialect.KustomizationInventory(&item.Status))
		}
		k.loadRules(item)
	}
	for i := range list.Items { // what somebody has goes before what another was about to take
		if claims[i] != nil {
			claims[i].Set(apps[i], dialect.KustomizationOwned(&list.Items[i]))
		}
	}
	return apps, nil
}

// clusterOf tells which cluster an app is delivered to; empty: it cannot be told now. known are those that were told before.
func (k *kustomizations) clusterOf(ctx context.Context, app delivery.App, known map[string]string) string {
	if app.KubeConfig == (delivery.KubeConfig{}) {
		return homeCluster
	}
	ref := app.ID.Namespace + " " + app.KubeConfig.String() + " " + app.KubeConfig.Key
	if cluster, ok := known[ref]; ok {
		return cluster
	}
	known[ref] = ""
	if remote, err := deliver.ReadRemote(ctx, k.reader, app, k.targets.policy); err == nil {
		known[ref] = remote.Cluster()
	}
	return known[ref]
}

// farewell bounds how long the end of the controller waits for what is under way to be called off.
const farewell = 10 * time.Second

// Run reconciles until ctx, which is that of [New], ends. It waits for the lease first.
func (c *Controller) Run(ctx context.Context) error {
	err := c.mgr.Start(ctx)
	if c.helm != nil && ctx.Err() != nil {
		c.helm.rest(farewell)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("run controllers: %w", err)
	}
	return nil
}

// Elected is closed once this controller holds the lease.
func (c *Controller) Elected() <-chan struct{} { return c.mgr.Elected() }

// Looked tells whether every app that is not suspended has been looked at by this controller: whether the statuses in the
// cluster are its own words.
func (c *Controller) Looked(ctx context.Context) (bool, error) {
	var list kustomizev1.KustomizationList
	if err := c.mgr.GetClient().List(ctx, &list); err != nil {
		return false, fmt.Errorf("list Kustomizations: %w", err)
	}
	for i := range list.Items {
		if k := &list.Items[i]; !k.Spec.Suspend && !c.reg.standOf(kustomizationID(client.ObjectKeyFromObject(k))).evaluated {
			return false, nil
		}
	}
	if c.helm != nil {
		if looked, err := c.helm.looked(ctx); err != nil || !looked {
			return false, err
		}
	}
	if c.argo != nil {
		return c.argo.looked(ctx)
	}
	return true, nil
}

// Pushed tells that the repositories whose URLs match have just changed.
func (c *Controller) Pushed(match func(url string) bool) { c.sources.git.pushed(match) }
