package release

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"helm.sh/helm/v4/pkg/action"
	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	helmkube "helm.sh/helm/v4/pkg/kube"
	releasei "helm.sh/helm/v4/pkg/release"
	releasecommon "helm.sh/helm/v4/pkg/release/common"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage"
	"helm.sh/helm/v4/pkg/storage/driver"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/health"
	"keelson.dev/keelson/internal/kube"
)

// Request is what an action needs besides its decision.
type Request struct {
	Want
	Chart  Chart                    // of installs, upgrades and takeovers
	Values map[string]any           // composed; they are not changed
	Redact func(text string) string // masks what must not be told in errors; nil: nothing is known to be secret
}

// run is one action on one release.
type run struct {
	engine *Engine
	ctx    context.Context //nolint:containedctx // of the action
	req    Request
	app    delivery.App
	rel    *delivery.HelmRelease
	d      Decision
	user   *kube.User
	client *client
	store  *secrets
	cfg    *action.Configuration

	written map[int]delivery.ReleaseSnapshot
	last    *releasev1.Release // the newest version, as it was written last
	chart   *chartv2.Chart
	aside   *aside
	// rendered ends when nobody waits for the rendering any more.
	rendered context.Context //nolint:containedctx // Helm hands none to functions
	crds     delivery.Inventory
}

// Act carries out the action of a decision, and nothing else. It takes as long as that takes; ctx calls it off. What was written to the
// storage is in the result even where there is an error.
func (e *Engine) Act(ctx context.Context, req Request, d Decision) (Result, error) {
	began := time.Now()
	res := Result{Began: began}
	r, err := e.newRun(ctx, req, d)
	if err == nil {
		before, witness := "", e.witness && d.Action.witnessed()
		if witness {
			before = r.deployed()
		}
		err = r.act(&res)
		switch {
		case !witness || err != nil && r.last == nil:
		case d.Action == Uninstall:
			res.Changed = r.compared(before, "")
		case r.last != nil:
			res.Changed = r.compared(before, r.last.Manifest)
		}
		for _, version := range slices.Backward(slices.Sorted(maps.Keys(r.written))) {
			res.Snapshots = append(res.Snapshots, r.written[version])
		}
		if err != nil {
			err = r.fault(err)
		}
	}
	res.Took = time.Since(began)
	return res, err
}

func (e *Engine) newRun(ctx context.Context, req Request, d Decision) (*run, error) {
	if err := e.records.ready(ctx); err != nil {
		return nil, err
	}
	app := req.App
	if d.Target == (Target{}) {
		d.Target = TargetOf(app)
	}
	user, err := e.cluster.As(app.Account())
	if err != nil {
		return nil, err
	}
	rules, err := health.Compile(app.HealthExprs)
	if err != nil {
		return nil, err
	}
	store, err := e.storage(ctx, app, d.Target.StorageNamespace)
	if err != nil {
		return nil, err
	}
	r := &run{
		engine: e, ctx: ctx, req: req, app: app, rel: app.Release, d: d, user: user, store: store,
		client: newClient(ctx, user, d.Target.Namespace), written: map[int]delivery.ReleaseSnapshot{},
	}
	r.client.rules, r.client.legacy = rules, app.Release.LegacyWait
	if d.Action == Rollback && !d.Remedy {
		store.writer = personWriter
	}
	store.wrote, store.deleted = r.noteWrite, func(int) {}
	r.cfg = action.NewConfiguration(action.ConfigurationSetLogger(slog.DiscardHandler))
	r.cfg.KubeClient = r.client
	r.cfg.Releases = storage.Init(store)
	r.cfg.Releases.SetLogger(slog.DiscardHandler)
	return r, nil
}

// noteWrite takes note of a version that Helm has written.
func (r *run) noteWrite(rel *releasev1.Release, rec record) {
	oci := r.ociDigest(rel.Version)
	stored := storedOf(rel, oci)
	if old, ok := r.written[rel.Version]; ok { // what came of tests
		stored.Tested, stored.Tests = old.Tested, old.Tests
	}
	r.written[rel.Version] = stored.ReleaseSnapshot
	if r.last == nil || rel.Version >= r.last.Version {
		r.last = rel
		stored.Tested, stored.Tests = false, nil
		at := place{r.store.namespace, rel.Name}
		r.engine.records.remember(at, kept{resourceVersion: rec.resourceVersion, ociDigest: oci, stored: stored})
	}
}

// ociDigest is that of the artifact that a version's chart came as.
func (r *run) ociDigest(version int) string {
	rolledBackTo := ""
	for _, s := range r.d.Record.History {
		if s.Version == version {
			return s.OCIDigest
		}
		if s.Version == r.d.Version {
			rolledBackTo = s.OCIDigest
		}
	}
	switch r.d.Action {
	case Install, Upgrade, TakeOver:
		return r.req.OCIDigest
	case Rollback:
		return rolledBackTo
	}
	return ""
}

func (r *run) act(res *Result) error {
	var err error
	switch r.d.Action {
	case Install:
		err = r.install()
	case Upgrade:
		err = r.upgrade(false)
	case TakeOver:
		if res.Unchanged, err = r.takeOver(); err == nil && !res.Unchanged {
			err = r.upgrade(false)
		}
	case Rollback:
		err = r.rollback()
	case Uninstall:
		return r.uninstall()
	case Test:
		return r.test()
	case Unlock:
		return r.unlock()
	case Note:
		err = r.note()
	case Repair:
		return r.repair(res)
	default:
		return fmt.Errorf("'%s' is nothing that can be done to a release", r.d.Action)
	}
	if r.last != nil && err == nil {
		res.Inventory, err = r.inventory(r.last)
	}
	return err
}

// waitStrategy tells Helm what to wait for.
func waitStrategy(w delivery.HelmWait) helmkube.WaitStrategy {
	if w.NoWait {
		return helmkube.HookOnlyStrategy
	}
	return helmkube.StatusWatcherStrategy
}

// prepare makes everything ready for rendering: the chart, what templates may know, and the definitions in its folder crds.
func (r *run) prepare(policy delivery.CRDPolicy) error {
	var err error
	if r.chart, err = r.engine.charts.get(r.req.Chart); err != nil {
		return err
	}
	offer, err := r.engine.cluster.Offer(r.ctx)
	if err != nil {
		return err
	}
	apis := slices.Clone(offer.APIs)
	more, err := r.applyCRDs(policy)
	if err != nil {
		return err
	}
	if r.cfg.Capabilities, err = capabilities(offer.Version, append(apis, more...)); err != nil {
		return err
	}
	r.setAside()
	return nil
}

// renderLimit is how long it is waited for the templates of a chart, which may wait for a child process and are given half a minute in it.
const renderLimit = 5 * time.Minute

var errSlow = fmt.Errorf("rendering the chart has not come to an end within %s", renderLimit)

// What becomes of a rendering.
const (
	underWay int32 = iota
	ready          // it has ended, and the action goes on
	givenUp        // nobody waits for it any more
)

// rendering runs an action that renders a chart. Until the chart is rendered it can be given up at any time: nothing has been written then, and
// what may still go on stops before it writes. After that it ends, where it is called off, because its requests do, so that what has happened
// is written. (Helm itself would go on in the background.)
func (r *run) rendering(do func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(r.ctx, renderLimit, errSlow)
	defer cancel()
	r.rendered = ctx
	var state atomic.Int32
	rendered := make(chan struct{})
	r.client.built = func() error {
		if r.aside != nil {
			r.aside.restored(r.chart)
		}
		if state.CompareAndSwap(underWay, ready) {
			close(rendered)
		}
		if state.Load() == givenUp {
			return context.Cause(ctx)
		}
		return nil
	}
	ended := make(chan error, 1)
	go func() {
		var err error
		defer func() { // a chart that Helm cannot cope with is that release's trouble only
			if v := recover(); v != nil {
				err = &delivery.Fault{
					Reason: r.reason(), Where: r.req.ChartName, Retry: delivery.OnChange, Err: fmt.Errorf("the %s panicked: %v", r.d.Action, v),
					Hint: "it is a fault of Keelson or of Helm: please report it",
				}
			}
			ended <- err
		}()
		if err = do(context.WithoutCancel(r.ctx)); err != nil {
			if f := r.asideFault(); f != nil {
				err = f
			}
		}
	}()
	select {
	case err := <-ended:
		return err
	case <-rendered:
	case <-ctx.Done():
		if state.CompareAndSwap(underWay, givenUp) {
			return &delivery.Fault{
				Reason: r.reason(), Where: r.req.ChartName, Retry: delivery.OnChange, Err: context.Cause(ctx),
				Hint: "look for a template that loops",
			}
		}
	}
	return <-ended
}

func (r *run) values() map[string]any {
	values, _ := copyValue(r.req.Values).(map[string]any)
	if values == nil {
		values = map[string]any{}
	}
	return values
}

func (r *run) install() error {
	opts := r.rel.Install
	if err := r.prepare(opts.CRDs); err != nil {
		return err
	}
	i := action.NewInstall(r.cfg)
	i.ReleaseName, i.Namespace = r.d.Target.Name, r.d.Target.Namespace
	i.Timeout, i.WaitStrategy, i.WaitForJobs, i.DisableHooks = opts.Timeout, waitStrategy(opts.HelmWait), !opts.NoJobs, opts.NoHooks
	i.DisableOpenAPIValidation, i.SkipSchemaValidation = opts.NoOpenAPI, opts.NoSchema
	i.SkipCRDs = true
	i.TakeOwnership = !opts.NoTakeOwnership
	i.ServerSideApply = opts.Apply != delivery.ClientSide
	i.ForceConflicts = i.ServerSideApply
	i.PostRenderer, i.PostRenderStrategy = postRender{r.app}, renderStrategy(r.rel.HookRendering)
	newest, any := r.engine.records.newest(place{r.store.namespace, r.d.Target.Name})
	// The name of a release that was ours is free once it is uninstalled, by whomever; one that others have left, only where that is said.
	ours := newest.writer == kube.FieldManager || len(r.d.Record.History) > 0
	i.Replace = opts.Replace || any && newest.status == statusUninstalled && ours
	if opts.CreateNamespace {
		if err := r.createNamespace(r.d.Target.Namespace); err != nil {
			return err
		}
	}
	return r.rendering(func(ctx context.Context) error {
		_, err := i.RunWithContext(ctx, r.chart, r.values())
		return err
	})
}

// newUpgrade is an upgrade as the app wants it.
func (r *run) newUpgrade(last *releasev1.Release) *action.Upgrade {
	opts := r.rel.Upgrade
	u := action.NewUpgrade(r.cfg)
	u.Namespace = r.d.Target.Namespace
	u.Timeout, u.WaitStrategy, u.WaitForJobs, u.DisableHooks = opts.Timeout, waitStrategy(opts.HelmWait), !opts.NoJobs, opts.NoHooks
	u.SkipSchemaValidation = opts.NoSchema // schemas are never downloaded, whatever NoOpenAPI says
	u.SkipCRDs = true
	u.TakeOwnership = !opts.NoTakeOwnership
	u.ResetValues, u.ReuseValues = !opts.PreserveValues, opts.PreserveValues
	u.MaxHistory, u.CleanupOnFail = r.rel.MaxHistory, opts.CleanupOnFail
	u.ServerSideApply, u.ForceConflicts, u.ForceReplace = applying(opts.Apply, last, opts.Force)
	u.PostRenderer, u.PostRenderStrategy = postRender{r.app}, renderStrategy(r.rel.HookRendering)
	return u
}

// applying tells Helm how objects are written: server-side always with force, replacing only else.
func applying(mode delivery.ApplyMode, before *releasev1.Release, replace bool) (serverSide string, conflicts, forceReplace bool) {
	serverSide = "false"
	if mode == delivery.ServerSide || mode != delivery.ClientSide && before.ApplyMethod == string(releasev1.ApplyMethodServerSideApply) {
		serverSide = "true"
	}
	return serverSide, serverSide == "true", serverSide == "false" && replace
}

// newest reads the newest version of the release.
func (r *run) newest() (*releasev1.Release, error) {
	found, err := r.cfg.Releases.Last(r.d.Target.Name)
	if err != nil {
		return nil, fmt.Errorf("read release %s: %w", r.d.Target, err)
	}
	return asRelease(found)
}

func (r *run) upgrade(dry bool) error {
	_, err := r.upgraded(dry)
	return err
}

func (r *run) upgraded(dry bool) (*releasev1.Release, error) {
	policy := r.rel.Upgrade.CRDs
	if dry {
		policy = delivery.SkipCRDs
	}
	if err := r.prepare(policy); err != nil {
		return nil, err
	}
	last, err := r.newest()
	if err != nil {
		return nil, err
	}
	// Helm validates what is to be, and not what was.
	r.client.gone = func(_ []byte, validate bool) bool { return !validate }
	u := r.newUpgrade(last)
	if dry {
		u.DryRunStrategy = action.DryRunServer
	}
	var out *releasev1.Release
	err = r.rendering(func(ctx context.Context) error {
		made, err := u.RunWithContext(ctx, r.d.Target.Name, r.chart, r.values())
		out = releaseOf(made)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// releaseOf is the release that an action returned; nil: none.
func releaseOf(r releasei.Releaser) *releasev1.Release {
	rel, err := asRelease(r)
	if err != nil {
		return nil
	}
	return rel
}

// takeOver tells whether an upgrade would change nothing; then the release as it is is taken note of.
func (r *run) takeOver() (bool, error) {
	would, err := r.upgraded(true)
	if err != nil {
		return false, err
	}
	is, err := r.newest()
	if err != nil {
		return false, err
	}
	same, err := sameRelease(is, would)
	if err != nil || !same {
		return false, err
	}
	r.last = is
	r.written[is.Version] = Snapshot(is, r.req.OCIDigest)
	return true, nil
}

func (r *run) rollback() error {
	opts := r.rel.Rollback
	found, err := r.cfg.Releases.Get(r.d.Target.Name, r.d.Version)
	if err != nil {
		return fmt.Errorf("read version %d of release %s: %w", r.d.Version, r.d.Target, err)
	}
	to, err := asRelease(found)
	if err != nil {
		return err
	}
	if last, err := r.newest(); err == nil {
		if last.Manifest != to.Manifest {
			r.client.gone = func(manifest []byte, _ bool) bool { return string(manifest) == last.Manifest }
		}
		if last.Info.Status == releasecommon.StatusFailed { // Helm has it superseded where the rollback fails, too: the next one would go to it
			r.store.failed = last.Version
		}
	}
	b := action.NewRollback(r.cfg)
	b.Version = r.d.Version
	b.Timeout, b.WaitStrategy, b.WaitForJobs, b.DisableHooks = opts.Timeout, waitStrategy(opts.HelmWait), !opts.NoJobs, opts.NoHooks
	b.CleanupOnFail, b.MaxHistory = opts.CleanupOnFail, r.rel.MaxHistory
	b.ServerSideApply, b.ForceConflicts, b.ForceReplace = applying(opts.Apply, to, opts.Force)
	err = b.Run(r.d.Target.Name)
	if err == nil || r.last == nil || !r.last.Info.Status.IsPending() {
		return err
	}
	// Helm leaves it pending where a hook fails.
	r.last.SetStatus(releasecommon.StatusFailed, fmt.Sprintf("Rollback %q failed: %s", r.last.Name, err))
	return errors.Join(err, r.cfg.Releases.Update(r.last))
}

func (r *run) uninstall() error {
	opts := r.rel.Uninstall
	r.client.gone, r.client.parting = func([]byte, bool) bool { return true }, true
	u := action.NewUninstall(r.cfg)
	u.Timeout, u.WaitStrategy, u.DisableHooks = opts.Timeout, waitStrategy(opts.HelmWait), opts.NoHooks
	u.KeepHistory, u.DeletionPropagation = opts.KeepHistory, opts.Propagation // IgnoreNotFound would ignore a history that may not be read
	newest, any := r.engine.records.newest(place{r.store.namespace, r.d.Target.Name})
	if !any || newest.status == statusUninstalled {
		r.gone(newest.version)
		return nil
	}
	res, err := u.Run(r.d.Target.Name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		r.gone(newest.version)
		return nil
	}
	if len(r.client.failures) > 0 {
		err = errors.Join(r.client.failures...)
	}
	if err != nil {
		return err
	}
	if res != nil { // its last version is gone from the storage, unless history is kept; what it came to is remembered
		if rel := releaseOf(res.Release); rel != nil {
			r.written[rel.Version] = Snapshot(rel, r.ociDigest(rel.Version))
		}
	}
	return nil
}

// gone takes note that a release that was to be uninstalled is not there.
func (r *run) gone(version int) {
	last := r.d.Record.Latest()
	if last == nil || (version != 0 && last.Version != version) {
		return
	}
	s := *last
	s.Status = statusUninstalled
	r.written[s.Version] = s
}

func (r *run) test() error {
	opts := r.rel.Test
	t := action.NewReleaseTesting(r.cfg)
	t.Namespace, t.Timeout = r.d.Target.Namespace, opts.Timeout
	for _, f := range opts.Filters {
		key := action.IncludeNameFilter
		if f.Exclude {
			key = action.ExcludeNameFilter
		}
		t.Filters[key] = append(t.Filters[key], f.Name)
	}
	found, shutdown, err := t.Run(r.d.Target.Name)
	if clean := shutdown(); err == nil && clean != nil {
		err = fmt.Errorf("clean up after the tests: %w", clean)
	}
	if rel := releaseOf(found); rel != nil {
		s, ok := r.written[rel.Version]
		if !ok {
			return err
		}
		s.Tested, s.Tests = true, testsOf(rel, opts.Filters)
		r.written[rel.Version] = s
	}
	return err
}

// unlock marks what was begun, and nobody is at, as failed.
func (r *run) unlock() error {
	rel, err := r.newest()
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if status := rel.Info.Status; status.IsPending() {
		rel.SetStatus(releasecommon.StatusFailed, fmt.Sprintf("%s stale '%s' state", unlockedPrefix, status))
		return r.cfg.Releases.Update(rel)
	}
	return nil
}

// inventory lists the objects of a release and the definitions of its chart.
func (r *run) inventory(rel *releasev1.Release) (delivery.Inventory, error) {
	infos, err := r.client.Build(strings.NewReader(rel.Manifest), false)
	if err != nil {
		return nil, err
	}
	inv := maps.Clone(r.crds)
	if inv == nil {
		inv = delivery.Inventory{}
	}
	for _, info := range infos {
		if info.Name != "" {
			inv[refOf(info)] = info.Mapping.GroupVersionKind.Version
		}
	}
	return inv, nil
}
