package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/fluxcd/pkg/apis/meta"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/live"
	"keelson.dev/keelson/internal/telemetry"
)

// homeCluster names the cluster that apps are declared in.
const homeCluster = "home"

// target is a cluster that apps are delivered to, as one user of it.
type target struct {
	cluster    string // identifies the cluster, whoever uses it
	connection string // identifies the cluster and its user
	engine     *deliver.Engine
	life       context.Context    //nolint:containedctx // of the connection
	close      context.CancelFunc // nil: home is never left
	users      map[delivery.ID]bool
	steps      int           // going on
	waiting    []delivery.ID // for one of them to end
}

// home tells whether the target is the cluster that apps are declared in.
func (t *target) home() bool { return t.close == nil }

// host is the cluster's address, for people.
func host(cluster string) string {
	name, _, _ := strings.Cut(cluster, " ")
	if name == homeCluster {
		return "the cluster that it is declared in"
	}
	return name
}

// Steps of apps that deliver to other clusters: so few that clusters that hang leave workers to the others.
const stepsPerTarget, stepsElsewhere = 16, 128

// targets are the clusters that apps are delivered to. Apps with the same cluster and the same credentials share a
// connection, its watches and what is known from them; it ends when the last one leaves. It is safe for concurrent use.
type targets struct {
	home   *target
	base   deliver.Engine // what all engines have in common
	live   live.Options   // of all of them, but for whom they tell
	policy kube.Policy
	wake   func(delivery.ID)
	life   context.Context //nolint:containedctx // the connections outlive the steps that make them

	claims *ledger // of all apps, whoever delivers them

	mu    sync.Mutex
	open  map[string]*target // other clusters, by connection
	of    map[delivery.ID]*target
	steps int // going on elsewhere
}

// ledger has the claims on objects of every cluster, so that no two apps own one of them, in whatever way they are declared. It is
// safe for concurrent use.
type ledger struct {
	mu sync.Mutex
	in map[string]*deliver.Claims // by cluster
	of map[delivery.ID]string     // in which cluster an app has its claims
}

func newLedger() *ledger {
	return &ledger{in: map[string]*deliver.Claims{}, of: map[delivery.ID]string{}}
}

// claims gives those on objects of a cluster.
func (l *ledger) claims(cluster string) *deliver.Claims {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.in[cluster] == nil {
		l.in[cluster] = deliver.NewClaims()
	}
	return l.in[cluster]
}

// move has an app's claims be in one cluster. released are objects of another one that it no longer claims.
func (l *ledger) move(app delivery.ID, cluster string) (released []delivery.Ref) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if was := l.of[app]; was != "" && was != cluster {
		released = l.in[was].Drop(app)
	}
	l.of[app] = cluster
	if l.in[cluster] == nil {
		l.in[cluster] = deliver.NewClaims()
	}
	return released
}

// drop forgets an app.
func (l *ledger) drop(app delivery.ID) (released []delivery.Ref) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if claims := l.in[l.of[app]]; claims != nil {
		released = claims.Drop(app)
	}
	delete(l.of, app)
	return released
}

// newTargets begins with home alone, whose engine gets its claims from the ledger.
func newTargets(ctx context.Context, home *deliver.Engine, opts live.Options, policy kube.Policy, claims *ledger, wake func(delivery.ID)) *targets {
	home.Claims = claims.claims(homeCluster)
	return &targets{
		home: &target{cluster: homeCluster, connection: homeCluster, engine: home, life: ctx, users: map[delivery.ID]bool{}}, base: *home,
		live: opts, policy: policy, wake: wake, life: ctx,
		open: map[string]*target{}, of: map[delivery.ID]*target{}, claims: claims,
	}
}

// aim makes an app one that is delivered to a cluster; the one that it was delivered to before is left. released are
// objects there that it no longer claims.
func (ts *targets) aim(app delivery.ID, r kube.Remote) (t *target, released []delivery.Ref, err error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t, ok := ts.open[r.Connection()]
	if !ok {
		if t, err = ts.connect(r); err != nil {
			return nil, nil, err
		}
		ts.open[t.connection] = t
	}
	t.users[app] = true
	if old := ts.of[app]; old != nil && old != t {
		ts.left(app, old)
	}
	ts.of[app] = t
	return t, ts.claims.move(app, t.cluster), nil
}

// aimHome makes an app one that is delivered to the cluster that it is declared in.
func (ts *targets) aimHome(app delivery.ID) (*target, []delivery.Ref) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if old := ts.of[app]; old != nil {
		ts.left(app, old)
	}
	return ts.home, ts.claims.move(app, homeCluster)
}

// leave ends an app's use of another cluster, but not its claims there: why it cannot be used may pass.
func (ts *targets) leave(app delivery.ID) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t := ts.of[app]; t != nil {
		ts.left(app, t)
	}
}

// forget ends whatever there is of an app.
func (ts *targets) forget(app delivery.ID) (released []delivery.Ref) {
	ts.leave(app)
	ts.home.engine.Live.Forget(app)
	return ts.claims.drop(app)
}

// left takes an app off another cluster, which is closed if it was the last one. The caller holds the lock.
func (ts *targets) left(app delivery.ID, t *target) {
	delete(ts.of, app)
	delete(t.users, app)
	if len(t.users) > 0 {
		t.engine.Live.Forget(app)
		return
	}
	t.close()
	delete(ts.open, t.connection)
}

// claimsOf gives the claims in the cluster that an app is delivered to, before its first step; nil: that is not known.
func (ts *targets) claimsOf(app delivery.ID, cluster string) *deliver.Claims {
	if cluster == "" {
		return nil
	}
	ts.claims.move(app, cluster)
	return ts.claims.claims(cluster)
}

// connect opens a connection. The caller holds the lock.
func (ts *targets) connect(r kube.Remote) (*target, error) {
	ctx, cancel := context.WithCancel(ts.life)
	t := &target{cluster: r.Cluster(), connection: r.Connection(), life: ctx, close: cancel, users: map[delivery.ID]bool{}}
	cluster, err := r.Connect(ctx, ts.home.engine.Cluster, func() { ts.wakeUsers(t) })
	if err != nil {
		cancel()
		return nil, err
	}
	opts := ts.live
	opts.Notify = func(app delivery.ID, _ delivery.Ref) { // an object there may name an app that has no business there
		if ts.uses(app, t) {
			ts.wake(app)
		}
	}
	engine := ts.base
	engine.Cluster, engine.Claims = cluster, ts.claims.claims(t.cluster)
	engine.Live = live.New(kube.Patient(ctx), cluster, opts)
	t.engine = &engine
	return t, nil
}

func (ts *targets) uses(app delivery.ID, t *target) bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return ts.of[app] == t
}

func (ts *targets) wakeUsers(t *target) {
	ts.mu.Lock()
	users := slices.Collect(maps.Keys(t.users))
	ts.mu.Unlock()
	for _, app := range users {
		ts.wake(app)
	}
}

// enter begins a step of an app in its target, unless too many are going on there: then the app is woken when one has ended.
func (ts *targets) enter(t *target, app delivery.ID) (leave func(), ok bool) {
	if t.home() {
		return func() {}, true
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t.steps >= stepsPerTarget || ts.steps >= stepsElsewhere {
		if !slices.Contains(t.waiting, app) {
			t.waiting = append(t.waiting, app)
		}
		return nil, false
	}
	t.steps++
	ts.steps++
	return func() { ts.ended(t) }, true
}

// ended takes note of the end of a step and wakes those that waited for it, of another target where this one has none.
func (ts *targets) ended(t *target) {
	ts.mu.Lock()
	t.steps--
	ts.steps--
	var next []delivery.ID
	next, t.waiting = t.waiting, nil
	for _, other := range ts.open {
		if other.steps == 0 { // else the end of one of its own will wake them
			next = append(next, other.waiting...)
			other.waiting = nil
		}
	}
	ts.mu.Unlock()
	for _, app := range next {
		ts.wake(app)
	}
}

// watchedBy is [live.Live.Watched] of all clusters together.
func watchedBy(all ...*targets) []telemetry.Watch {
	var lives []*live.Live
	for _, ts := range all {
		ts.mu.Lock()
		lives = append(lives, ts.home.engine.Live)
		for _, t := range ts.open {
			lives = append(lives, t.engine.Live)
		}
		ts.mu.Unlock()
	}
	sum := map[[2]string]telemetry.Watch{}
	for _, l := range lives {
		for _, w := range l.Watched() {
			key := [2]string{w.Group, w.Kind}
			w.Open, w.Objects = w.Open+sum[key].Open, w.Objects+sum[key].Objects
			sum[key] = w
		}
	}
	return slices.Collect(maps.Values(sum))
}

// references are the ConfigMaps and Secrets of its namespace whose changes an app has to notice.
func references(app delivery.App) []delivery.VarsRef {
	if app.KubeConfig == (delivery.KubeConfig{}) {
		return app.VarsFrom
	}
	return append(slices.Clip(app.VarsFrom), delivery.VarsRef{Kind: app.KubeConfig.Kind, Name: app.KubeConfig.Name})
}

// target finds the cluster that the app is delivered to, and sees to it that it can be reached.
func (a *apps) target(ctx context.Context, p *pass) error {
	st, id, was := p.st, p.app.ID, p.st.target
	if p.app.KubeConfig == (delivery.KubeConfig{}) {
		if was == nil || !was.home() {
			t, released := a.targets.aimHome(id)
			a.released(released)
			a.aimed(p, t, "", st.mem.Inventory)
		}
		return nil
	}
	version, err := a.follow(p.app)
	if err != nil {
		if !errors.Is(err, errNotYet) {
			a.lost(st, p.app)
		}
		return err
	}
	if named := p.app.KubeConfig.String() + "/" + p.app.KubeConfig.Key + " " + version; was == nil || st.aimed != named {
		remote, err := deliver.ReadRemote(ctx, a.reader, p.app, a.targets.policy)
		if err != nil {
			a.lost(st, p.app)
			return err
		}
		t, released, err := a.targets.aim(id, remote)
		if err != nil {
			return err
		}
		a.released(released)
		if was != nil && was.home() {
			was.engine.Live.Forget(id)
			if _, err := a.follow(p.app); err != nil { // what it refers to was forgotten as well
				return err
			}
		}
		a.aimed(p, t, named, st.mem.Inventory)
	}
	st.way = p.app.KubeConfig.String()
	switch up, err := st.target.engine.Cluster.Reached(); {
	case err != nil:
		return unreachable(st, err)
	case !up:
		return errNotYet
	}
	return nil
}

// follow gives the version of what says how the app's other cluster is reached.
func (a *apps) follow(app delivery.App) (string, error) {
	home := a.targets.home.engine.Live
	home.References(app.ID, references(app))
	version, known, err := home.Version(app.ID, app.KubeConfig.Kind, app.ID.Namespace, app.KubeConfig.Name)
	switch {
	case err != nil:
		return "", deliver.KubeConfigFault(app, fmt.Errorf("watch it: %w", err))
	case !known:
		return "", errNotYet
	case version == "":
		return "", deliver.KubeConfigFault(app, errors.New("it does not exist"))
	}
	return version, nil
}

// aimed takes in which cluster the app is delivered to, and what it claims there.
func (a *apps) aimed(p *pass, t *target, named string, claims delivery.Inventory) {
	p.st.target, p.st.aimed = t, named
	if len(claims) > 0 { // whose objects they are is settled where it is another's already
		_, released := t.engine.Claims.Set(p.app.ID, claims)
		a.released(released)
	}
}

// arrive takes note that what happens to the app from now on happens in the cluster that it is aimed at; what stays behind in
// another one is said.
func (a *apps) arrive(p *pass) {
	mem := &p.st.mem
	if from, gone := mem.Move(p.st.target.cluster); gone && len(mem.Inventory) > 0 {
		p.events = append(p.events, moved(from, p.st.target, len(mem.Inventory), p.req.Snapshot.Revision))
	}
}

// unreachable is the fault of a cluster that cannot be reached. Its connection tells when it can.
func unreachable(st *appState, err error) error {
	return &delivery.Fault{
		Reason: meta.ReconciliationFailedReason, Where: host(st.target.cluster), Retry: delivery.OnEvent,
		Hint: "it is tried again until it answers; correct " + st.way + " if the address is another one",
		Err:  fmt.Errorf("the cluster cannot be reached: %w", err),
	}
}

// maxDoubts is how often in a row a cluster may answer when it is probed and fail otherwise before that is said.
const maxDoubts = 2

// explain says of an error that came from another cluster which one it was.
func (st *appState) explain(err error) error {
	var waits *waitsFor
	t := st.target
	if err == nil {
		st.doubts = 0
	}
	if err == nil || t == nil || t.home() || errors.Is(err, errNotYet) || errors.As(err, &waits) {
		return err
	}
	up, why := t.engine.Cluster.Reached()
	switch {
	case why != nil:
		return unreachable(st, why)
	case errors.Is(err, kube.ErrInDoubt) || !up && st.doubts < maxDoubts:
		st.doubts++
		return errNotYet // it wakes the app when that is known
	}
	if f := (*delivery.Fault)(nil); errors.As(err, &f) {
		return err
	}
	f := &delivery.Fault{Reason: meta.ReconciliationFailedReason, Where: host(t.cluster), Retry: delivery.Backoff, Err: err}
	if apierrors.IsUnauthorized(err) {
		f.Hint = "renew the credentials in " + st.way
	}
	return f
}

// moved gives the event of an app whose objects stay behind in another cluster.
func moved(from string, to *target, left int, revision delivery.Revision) event {
	return event{warning: true, reason: "Orphaned", revision: revision, message: fmt.Sprintf(
		"delivered to %s from now on: up to %d objects in %s are left as they are", host(to.cluster), left, host(from))}
}

// abandon lets go of a cluster that the app may no longer use.
func (a *apps) abandon(st *appState, app delivery.App) {
	a.targets.leave(app.ID)
	if st.target != nil && st.target.home() {
		st.target.engine.Live.Forget(app.ID)
	}
	st.target, st.aimed = nil, ""
}

// lost lets go of a cluster that the app may no longer use.
func (a *apps) lost(st *appState, app delivery.App) {
	home := st.target != nil && st.target.home()
	a.abandon(st, app)
	if home {
		_, _ = a.follow(app) // what it refers to was forgotten as well, and wakes it; what is wrong with that is known
	}
}

// blocked says what keeps an app of another cluster from being deleted: it waits for that cluster, as Flux's does, and the status
// tells so.
func (k *kustomizations) blocked(p *kustomizationPass, err error) removal {
	f := *delivery.FaultOf(err, meta.ReconciliationFailedReason)
	f.Hint = fmt.Sprintf("or set spec.deletionPolicy to Orphan to give up the app's objects there, %d at most", len(p.st.mem.Inventory))
	p.st.failures++
	out := delivery.Outcome{
		Phase: delivery.Failing, Reason: f.Reason, Message: "deletion waits: " + f.Error(), Inventory: p.st.mem.Inventory,
	}
	r := removal{after: max(deliver.Backoff(p.st.failures, p.app.RetryInterval), recheck)}
	if !told(p.obj.Status.Conditions, out) {
		r.events = []event{{warning: true, reason: "DeletionFailed", message: out.Message}}
		p.obj.Status = dialect.KustomizationStatus(p.obj.Status, p.app, out, k.now())
	}
	return r
}
