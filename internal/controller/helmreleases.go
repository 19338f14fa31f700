package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/release"
	"keelson.dev/keelson/internal/telemetry"
)

// helmReleases delivers apps that are declared as Flux HelmReleases, each as a real Helm release. A step decides what is done next
// ([release.Decide]); it is done aside, one action at a time, since Helm waits for hooks and health: the end of an action asks for the next step.
type helmReleases struct {
	apps
	charts *releaseCharts
	life   context.Context // of the controller; its end ends the actions

	mu      sync.Mutex
	engines map[*target]*release.Engine // of the clusters that there are releases in
	owners  map[string]delivery.ID      // of releases, by where and what they are: the first who wanted one has it
	acts    map[delivery.ID]*acting     // what is under way, also for a HelmRelease that is gone
}

// helmState is what is known of an app that is a HelmRelease.
type helmState struct {
	engine  *release.Engine        // of the cluster that it is released in; nil: none is known yet
	record  delivery.ReleaseRecord // as the last step left it
	acting  *acting                // under way, or over and not taken in yet; nil: no action is
	values  string                 // the versions of what the values come from, when their digest was taken
	digest  string                 // of the values
	secrets *redact.Redactor       // knows the values that came from Secrets
	failing failing
	asked   string // the last request for a reconciliation that the repository was looked at for
	stale   string // why the chart may be old, as an event has told; empty: it is not
}

// acting is an action under way. Its fields are written before done is closed, or when it is made.
type acting struct {
	want     release.Want
	decision release.Decision
	record   delivery.ReleaseRecord    // with the action begun
	began    atomic.Pointer[time.Time] // when its turn came; nil: it has not come yet
	cancel   context.CancelFunc
	parting  bool          // it is the uninstall of an app that is deleted
	left     bool          // its HelmRelease is gone; guarded by the mutex of helmReleases
	done     chan struct{} // closed at its end
	result   release.Result
	err      error
}

// helmPass is one step for one HelmRelease.
type helmPass struct {
	pass
	obj    *helmv2.HelmRelease
	helm   *helmState
	chart  releaseChart
	want   release.Want
	values map[string]any // nil: not read in this pass
}

func helmReleaseID(name types.NamespacedName) delivery.ID {
	return delivery.ID{Kind: helmv2.HelmReleaseKind, Namespace: name.Namespace, Name: name.Name}
}

func (h *helmReleases) empty() *helmv2.HelmRelease { return &helmv2.HelmRelease{} }

func (h *helmReleases) forget(name types.NamespacedName) {
	id := helmReleaseID(name)
	h.charts.drop(id)
	if !h.callOff(id) {
		h.disown(delivery.App{ID: id}, nil)
	}
	h.leave(id, nil)
	h.drop(id)
}

// about gives a context whose spans name the app.
func (h *helmReleases) about(ctx context.Context, obj *helmv2.HelmRelease) context.Context {
	if !telemetry.Tracing() {
		return ctx
	}
	return telemetry.With(ctx, telemetry.App(helmReleaseID(client.ObjectKeyFromObject(obj)).String()))
}

// step does one step for a HelmRelease.
func (h *helmReleases) step(ctx context.Context, obj *helmv2.HelmRelease, pen pen) next {
	p, err := h.begin(obj, pen)
	if h.former(p) {
		return next{}
	}
	if p.helm.acting != nil && !h.ended(p) {
		return h.underWay(p)
	}
	if p.app.Suspend {
		p.st.since, p.st.began = h.now(), time.Time{}
		was := h.reg.standOf(p.app.ID)
		was.busy = false
		h.stands(p.app.ID, was)
		if len(p.events) > 0 { // of an action that was under way: the status says what it has come to
			out := delivery.Outcome{Phase: delivery.Failing, Release: &p.helm.record}
			if p.helm.record.Released.True() {
				out.Phase = delivery.Ready
			}
			p.obj.Status = dialect.HelmReleaseStatus(p.obj.Status, p.app, out, h.now())
		}
		return next{events: p.events}
	}
	if p.st.began.IsZero() {
		p.st.began = h.now()
	}
	var d release.Decision
	before := p.helm.record
	if err == nil {
		d, err = h.decide(ctx, p)
	}
	if errors.Is(err, errNotYet) || ctx.Err() != nil {
		return h.told(p, nil)
	}
	if err == nil && d.Action.Runs() && d.After <= 0 {
		if err = h.undertake(ctx, p, d); err == nil {
			return h.underWay(p)
		}
		p.helm.record = before // nothing was begun: a person's request to force it still counts
		if errors.Is(err, errNotYet) {
			return h.told(p, nil)
		}
	}
	out := h.outcome(p, d, err)
	if out.Phase == delivery.Ready {
		h.concludeDelivery(&p.pass, delivery.Outcome{Phase: delivery.Ready, Health: delivery.Health{Status: delivery.Healthy}}, delivery.Revision{})
	}
	return h.told(p, &out)
}

// begin reads the declaration and what is known of the app.
func (h *helmReleases) begin(obj *helmv2.HelmRelease, pen pen) (*helmPass, error) {
	app, err := dialect.HelmRelease(obj)
	for _, v := range app.Release.ValuesFrom {
		app.VarsFrom = append(app.VarsFrom, delivery.VarsRef{Kind: v.Kind, Name: v.Name, Optional: v.Optional})
	}
	app = h.policy.Govern(app)
	st := h.stateOf(app, func(st *appState) {
		st.helm = &helmState{record: dialect.HelmReleaseRecord(&obj.Status), asked: obj.Status.LastHandledReconcileAt}
		st.handled = obj.Status.LastHandledReconcileAt
		if apimeta.IsStatusConditionTrue(obj.Status.Conditions, meta.ReadyCondition) && obj.Status.ObservedGeneration == obj.Generation {
			h.reg.with(func() { st.stand = stand{ready: true} })
		}
	})
	p := &helmPass{obj: obj, helm: st.helm, pass: pass{
		app: app, st: st, pen: pen, secrets: cmp.Or(st.helm.secrets, redact.New()), req: deliver.Request{App: app, Now: h.now()},
	}}
	return p, err
}

// ended takes in the action that was under way; false: it still is.
func (h *helmReleases) ended(p *helmPass) bool {
	a := p.helm.acting
	select {
	case <-a.done:
	default:
		return false
	}
	p.helm.acting = nil
	err := a.err
	if err != nil {
		f := *delivery.FaultOf(err, release.ReasonUpgrade)
		text := p.secrets.Text(f.Err.Error())
		f.Err = errors.New(text)
		if errors.Is(err, release.ErrCancelled) { // which counts as no failure
			f.Err = fmt.Errorf("%w: %s", release.ErrCancelled, strings.TrimPrefix(text, release.ErrCancelled.Error()+": "))
		}
		err = &f
	}
	p.helm.failing.note(a.want, a.decision, err, p.req.Now)
	p.helm.record = release.Done(a.want, a.decision, a.record, a.result, err)
	events := actionEvents(a.record, p.helm.record, a.result)
	if v := p.helm.record.Released; len(events) == 0 && v.False() { // as before
		events = []event{{warning: true, reason: v.Reason, message: v.Message, revision: delivery.Revision{Name: p.helm.record.Revision}, again: true}}
	}
	p.events = append(p.events, p.st.reminder.fails(events...)...)
	h.recordResult(p, a, err)
	return true
}

// actionEvents tell what an action has come to, by what its record says anew.
func actionEvents(was, now delivery.ReleaseRecord, res release.Result) []event {
	var out []event
	for _, v := range []struct{ was, now delivery.Verdict }{
		{was.Released, now.Released}, {was.TestSuccess, now.TestSuccess}, {was.Remediated, now.Remediated},
	} {
		if v.now.Status != "" && v.now != v.was {
			out = append(out, event{warning: !v.now.True(), reason: v.now.Reason, message: v.now.Message, revision: delivery.Revision{Name: now.Revision}})
		}
	}
	if len(res.Repaired) > 0 {
		out = append(out, event{reason: repairedReason, message: strings.Join(res.Repaired, "\n"), revision: delivery.Revision{Name: now.Revision}})
	}
	return out
}

// underWay waits for the end of an action. That it is under way is told once it lasts.
func (h *helmReleases) underWay(p *helmPass) next {
	a := p.helm.acting
	h.stands(p.app.ID, stand{busy: true})
	began := a.began.Load()
	if began == nil {
		return next{events: p.events} // it wakes the app when its turn comes
	}
	if rest := began.Add(haste).Sub(p.req.Now); rest > 0 {
		return next{after: rest, events: p.events}
	}
	out := delivery.Outcome{
		Phase: delivery.Working, Reason: meta.ProgressingReason, Release: &a.record,
		Message: fmt.Sprintf("Running '%s' action with timeout of %s", a.decision.Action, p.app.Timeout),
	}
	p.obj.Status = dialect.HelmReleaseStatus(p.obj.Status, p.app, out, h.now())
	return next{events: p.events}
}

// decide finds out what is done next.
func (h *helmReleases) decide(ctx context.Context, p *helmPass) (release.Decision, error) {
	for _, phase := range []func(context.Context, *helmPass) error{
		h.supported,    // nothing is released from a declaration that we would misread
		h.expressions,  // or that has CEL in it that cannot be used
		h.claim,        // nor is another's release changed
		h.aim,          // in which cluster
		h.chart,        // which chart
		h.dependencies, // are the apps that this one builds on ready
		h.digest,       // with which values
	} {
		if err := phase(ctx, p); err != nil {
			return release.Decision{}, err
		}
	}
	p.want = release.Want{
		App: p.app, ChartName: p.chart.Name, ChartVersion: p.chart.Version, OCIDigest: p.chart.OCIDigest, ConfigDigest: p.helm.digest, Handled: p.st.handled,
	}
	done, ok := h.targets.enter(p.st.target, p.app.ID)
	if !ok {
		return release.Decision{}, errNotYet
	}
	defer done()
	seen, err := p.helm.engine.Observe(ctx, p.app, p.helm.record)
	if err != nil {
		return release.Decision{}, p.st.explain(err)
	}
	d := release.Decide(p.want, p.helm.record, seen, p.req.Now)
	if d.Action.Runs() {
		d.After = p.helm.failing.pause(p.want, d, p.req.Now)
	}
	p.helm.record = d.Record
	if d.After > 0 {
		p.after = d.After
	}
	return d, nil
}

// request is what an action needs.
func (p *helmPass) request() release.Request {
	return release.Request{Want: p.want, Chart: p.chart.release(), Values: p.values, Redact: p.secrets.Text}
}

func (h *helmReleases) supported(_ context.Context, p *helmPass) error {
	if p.app.Denied != "" {
		return &delivery.Fault{
			Reason: "AccessDenied", Retry: delivery.OnEvent, Err: errors.New(p.app.Denied), Hint: "declare the source in the namespace of the HelmRelease",
		}
	}
	if len(p.app.Refused) == 0 {
		return nil
	}
	return &delivery.Fault{
		Reason: "FieldsNotSupported", Retry: delivery.OnEvent, Hint: insteadOf(p.app.Refused, "a GitRepository, a HelmRepository or an OCIRepository"),
		Err: fmt.Errorf("%s: not supported yet; nothing is released", strings.Join(p.app.Refused, ", ")),
	}
}

func (h *helmReleases) expressions(_ context.Context, p *helmPass) error { return p.pass.expressions() }

// place tells releases apart: the cluster as the app names it, the namespace of the history, and the name.
func place(app delivery.App, of release.Target) string {
	cluster := ""
	if app.KubeConfig != (delivery.KubeConfig{}) {
		cluster = app.ID.Namespace + "/" + app.KubeConfig.String() + "/" + app.KubeConfig.Key
	}
	return strings.Join([]string{cluster, of.StorageNamespace, of.Name}, " ")
}

// claim sees to it that no two apps have one release: each would upgrade over the other, and take it along when it goes.
func (h *helmReleases) claim(_ context.Context, p *helmPass) error {
	target := release.TargetOf(p.app)
	if owner := h.own(p.app, target); owner != p.app.ID {
		return &delivery.Fault{
			Reason: "OwnershipConflict", Retry: delivery.Backoff, Where: "release " + target.StorageNamespace + "/" + target.Name,
			Hint: "give one of the two another releaseName or storageNamespace", Err: fmt.Errorf("it is already %s's", owner),
		}
	}
	return nil
}

// own gives a release to an app, unless another one has it, and tells whose it is.
func (h *helmReleases) own(app delivery.App, of release.Target) delivery.ID {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := place(app, of)
	if owner, ok := h.owners[at]; ok {
		return owner
	}
	h.owners[at] = app.ID
	return app.ID
}

// disown takes back what an app has but for one release; nil: all. What it had under another name it has until that is uninstalled.
func (h *helmReleases) disown(app delivery.App, but *release.Target) {
	h.mu.Lock()
	defer h.mu.Unlock()
	maps.DeleteFunc(h.owners, func(at string, owner delivery.ID) bool {
		return owner == app.ID && (but == nil || at != place(app, *but))
	})
}

// loadOwners makes known, before the first step, which apps have a release: those whose status tells of one.
func (h *helmReleases) loadOwners(ctx context.Context) error {
	var list helmv2.HelmReleaseList
	if err := h.cache.List(ctx, &list); err != nil {
		return fmt.Errorf("list HelmReleases: %w", err)
	}
	for i := range list.Items {
		rec := dialect.HelmReleaseRecord(&list.Items[i].Status)
		if last := rec.Latest(); last != nil {
			app, _ := dialect.HelmRelease(&list.Items[i]) // its error is the step's
			h.own(app, release.Target{Name: last.Name, Namespace: last.Namespace, StorageNamespace: rec.StorageNamespace})
		}
	}
	return nil
}

// aim finds the cluster that the release is made in, and what makes releases there.
func (h *helmReleases) aim(ctx context.Context, p *helmPass) error {
	if err := h.target(ctx, &p.pass); err != nil {
		return err
	}
	e, err := h.engineOf(p.st.target)
	if err == nil && e != p.helm.engine {
		h.leave(p.app.ID, e)
		p.helm.engine = e
	}
	return err
}

// engineOf gives what makes releases in a cluster, as long as it is connected.
func (h *helmReleases) engineOf(t *target) (*release.Engine, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e := h.engines[t]; e != nil {
		return e, nil
	}
	e, err := release.New(t.life, t.engine.Cluster, release.Options{Changed: h.stored, Touched: h.wake, Witness: h.recordsHistory()})
	if err != nil {
		return nil, fmt.Errorf("watch releases: %w", err)
	}
	h.engines[t] = e
	context.AfterFunc(t.life, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.engines, t)
	})
	return e, nil
}

// leave ends what is watched for an app anywhere but by one of the engines.
func (h *helmReleases) leave(app delivery.ID, but *release.Engine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.engines {
		if e != but {
			e.Forget(app)
		}
	}
}

// chart finds the chart that the release is made of.
func (h *helmReleases) chart(ctx context.Context, p *helmPass) (err error) {
	r := p.app.Release
	if r.Chart != nil {
		p.chart, err = h.charts.find(ctx, p.app.ID, *r.Chart, r.Chart.Wish())
		if p.app.Requested != p.helm.asked { // nothing else asks a registry for new versions before its time
			p.helm.asked = p.app.Requested
			h.charts.refresh(p.app.ID)
		}
		if err == nil && !h.charts.refreshed(p.app.ID) {
			err = errNotYet // news of it wakes this
		}
	} else {
		p.chart, err = h.charts.findRef(ctx, p.app.ID, p.app.Source)
	}
	return err
}

func (h *helmReleases) dependencies(ctx context.Context, p *helmPass) error {
	dep, why, stands := h.reg.unready(p.app, stand{})
	hint := ""
	switch stands {
	case standsReady:
		err := h.readyExprs(ctx, &p.pass, p.obj, func() client.Object { return &helmv2.HelmRelease{} })
		if w := (*waitsFor)(nil); errors.As(err, &w) {
			return &delivery.Fault{Reason: w.reason, Retry: delivery.OnEvent, Err: w}
		}
		return err
	case standsBusy:
		why = "it is being released"
	case standsUnknown:
		found, err := h.exists(ctx, &helmv2.HelmRelease{}, dep)
		if err != nil || found {
			return cmp.Or(err, errNotYet)
		}
		why, hint = "it does not exist", "create it, or correct spec.dependsOn"
	}
	return &delivery.Fault{
		Reason: meta.DependencyNotReadyReason, Retry: delivery.OnEvent, Hint: hint, Err: fmt.Errorf("waiting for dependency '%s/%s': %s", dep.Namespace, dep.Name, why),
	}
}

// digest identifies the values. What they come from is watched by name: it is read only when one of its versions has changed.
func (h *helmReleases) digest(ctx context.Context, p *helmPass) error {
	live, namespace := h.targets.home.engine.Live, p.app.ID.Namespace
	live.References(p.app.ID, references(p.app))
	versions := []string{fmt.Sprint(p.app.UID, p.app.Generation)}
	for _, ref := range p.app.VarsFrom {
		version, known, err := live.Version(p.app.ID, ref.Kind, namespace, ref.Name)
		switch {
		case err != nil:
			return &delivery.Fault{Reason: dialect.ReasonValues, Where: ref.Kind + "/" + namespace + "/" + ref.Name, Err: fmt.Errorf("watch values: %w", err)}
		case !known:
			return errNotYet
		}
		versions = append(versions, version)
	}
	if key := strings.Join(versions, " "); key != p.helm.values {
		if err := h.readValues(ctx, p); err != nil {
			return err
		}
		p.helm.values, p.helm.digest = key, dialect.ValuesDigest(p.values)
	}
	return nil
}

// readValues composes the values; whatever is said from then on passes what knows those that come from Secrets.
func (h *helmReleases) readValues(ctx context.Context, p *helmPass) error {
	data, secrets, err := deliver.ReadValues(ctx, h.reader, p.app)
	if err != nil {
		return err
	}
	p.secrets, p.helm.secrets = secrets, secrets
	if p.values, err = dialect.ReleaseValues(p.app.Release, data); err == nil {
		p.st.masks.learn(dialect.ValuesDigest(p.values), secrets)
	}
	return err
}

// undertake begins an action, aside. What an action before it has left is written first: a controller that is killed has to know of it.
func (h *helmReleases) undertake(ctx context.Context, p *helmPass, d release.Decision) error {
	if p.values == nil && d.Action != release.Uninstall {
		if err := h.readValues(ctx, p); err != nil {
			return err
		}
	}
	if err := p.pen.claim(nil); err != nil {
		if apierrors.IsConflict(err) {
			p.after = again
			return errNotYet
		}
		return fmt.Errorf("record that there is a release: %w", err)
	}
	rec := release.Begun(p.want, d)
	if len(p.events) > 0 {
		p.obj.Status = dialect.HelmReleaseStatus(p.obj.Status, p.app, h.working(&d.Record, d), h.now())
		if err := p.pen.save(); err != nil {
			return fmt.Errorf("record what the last action has come to: %w", err)
		}
	}
	h.recordAction(p, d)
	h.act(p, d, rec)
	return nil
}

// act carries out an action aside; its end wakes the app, as does its turn where that did not come at once.
func (h *helmReleases) act(p *helmPass, d release.Decision, rec delivery.ReleaseRecord) {
	ctx, cancel := context.WithCancel(h.life)
	a := &acting{want: p.want, decision: d, record: rec, cancel: cancel, done: make(chan struct{})}
	p.helm.acting = a
	req, id, engine := p.request(), p.app.ID, p.helm.engine
	h.mu.Lock()
	h.acts[id] = a
	h.mu.Unlock()
	leave, entered := h.places.TryEnter()
	if entered {
		a.began.Store(new(h.now()))
	}
	go func() {
		defer h.wake(id)
		defer h.over(id, a)
		defer cancel()
		if !entered {
			if leave, a.err = h.places.Enter(ctx); a.err != nil {
				return
			}
			a.began.Store(new(h.now()))
			h.wake(id)
		}
		defer leave()
		defer func() { // a chart that Helm cannot cope with is that app's trouble only
			if v := recover(); v != nil {
				h.log.Error("an action panicked", "app", id, "action", d.Action, "stack", string(debug.Stack()))
				a.err = fmt.Errorf("%s: the action panicked: %v", d.Action, v)
			}
		}()
		a.result, a.err = engine.Act(ctx, req, d)
	}()
}

// over takes note that an action has ended.
func (h *helmReleases) over(id delivery.ID, a *acting) {
	h.mu.Lock()
	delete(h.acts, id)
	left := a.left
	h.mu.Unlock()
	if left { // only now may the release be another's
		h.disown(delivery.App{ID: id}, nil)
	}
	close(a.done)
}

// callOff ends what is under way for a HelmRelease that is gone, as it is where somebody has taken our finalizer away; false: nothing is.
func (h *helmReleases) callOff(id delivery.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.acts[id]
	if a == nil {
		return false
	}
	a.left = true
	a.cancel()
	return true
}

// former tells whether an action for a HelmRelease of the same name, which is gone, has not ended yet. Its end wakes this one.
func (h *helmReleases) former(p *helmPass) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.acts[p.app.ID]
	if a == nil || a == p.helm.acting {
		return false
	}
	a.left = true
	a.cancel()
	return true
}

// rest waits until what is under way has ended, which the end of the controller calls off: its releases say so then, and none is left pending.
func (h *helmReleases) rest(patience time.Duration) {
	h.mu.Lock()
	acts := slices.Collect(maps.Values(h.acts))
	h.mu.Unlock()
	late := time.After(patience)
	for _, a := range acts {
		select {
		case <-a.done:
		case <-late:
			h.log.Warn("the controller ends in the middle of an action; the next start takes it up", "release", a.decision.Target, "action", a.decision.Action)
			return
		}
	}
}

// working is the outcome while an action is under way.
func (h *helmReleases) working(rec *delivery.ReleaseRecord, d release.Decision) delivery.Outcome {
	return delivery.Outcome{
		Phase: delivery.Working, Reason: meta.ProgressingReason, Release: rec, Message: fmt.Sprintf("Running '%s' action", d.Action),
	}
}

// outcome says how the app stands where nothing is begun.
func (h *helmReleases) outcome(p *helmPass, d release.Decision, err error) delivery.Outcome {
	rec := &p.helm.record
	out := delivery.Outcome{Release: rec}
	switch {
	case err != nil:
		out = h.failed(p, err)
		out.Release = rec
	case d.Action == release.Hold, d.Action == release.Stall:
		out.Phase, out.Reason, out.Message, out.GivenUp = delivery.Stalled, d.Reason, p.secrets.Text(d.Message), d.Action == release.Stall
		c := apimeta.FindStatusCondition(p.obj.Status.Conditions, meta.StalledCondition)
		news := c == nil || c.Reason != out.Reason || c.Message != out.Message
		if news {
			h.recordHeld(p, d.Held)
		}
		p.events = append(p.events, p.st.reminder.fails(event{warning: true, reason: out.Reason, message: out.Message, again: !news})...)
	case d.Action.Runs(): // later
		out.Phase = delivery.Failing
	case d.After > 0:
		out = h.working(rec, d)
		out.Message = d.Message
	default:
		*rec = release.Settled(p.want, *rec)
		target := release.TargetOf(p.app)
		h.disown(p.app, &target)
		out.Phase = delivery.Ready
		p.st.failures = 0
		p.stale()
	}
	return out
}

// stale says, once, why the chart of a release that is ready may be old: nothing else tells of a registry that is away.
func (p *helmPass) stale() {
	text := ""
	if p.chart.Stale != nil {
		text = p.secrets.Text(p.chart.Stale.Error())
	}
	if text != "" && text != p.helm.stale {
		p.events = append(p.events, event{warning: true, reason: p.chart.Stale.Reason, message: "the chart may be old: " + text})
	}
	p.helm.stale = text
}

// failed is the outcome of an error: its condition, its event (once), its retry.
func (h *helmReleases) failed(p *helmPass, err error) delivery.Outcome {
	f := delivery.FaultOf(err, release.ReasonChart)
	out := delivery.Outcome{Phase: delivery.Failing, Reason: f.Reason, Message: p.secrets.Text(f.Error())}
	switch f.Retry {
	case delivery.Backoff:
		p.st.failures++
		p.after = deliver.Backoff(p.st.failures, p.app.RetryInterval)
	case delivery.OnChange:
		p.after = cmp.Or(p.app.RetryInterval, p.app.Interval, defaultInterval)
	case delivery.OnEvent:
		if stalling[f.Reason] {
			out.Phase = delivery.Stalled
		}
	}
	p.events = append(p.events, p.st.reminder.failed(p.obj.Status.Conditions, out, delivery.Revision{})...)
	return out
}

// told ends a step: the status says how the app stands; with no outcome only what an action has come to.
func (h *helmReleases) told(p *helmPass, out *delivery.Outcome) next {
	if out == nil {
		if len(p.events) > 0 {
			working := h.working(&p.helm.record, release.Decision{Action: release.None})
			working.Message = "waiting for what the release is made of"
			p.obj.Status = dialect.HelmReleaseStatus(p.obj.Status, p.app, working, h.now())
		}
		return next{after: p.after, events: p.events}
	}
	ready := out.Phase == delivery.Ready
	h.stands(p.app.ID, stand{busy: out.Phase == delivery.Working, ready: ready})
	if out.Phase == delivery.Ready || out.Phase == delivery.Stalled || out.Phase == delivery.Failing {
		out.Handled, p.st.handled = p.app.Requested, p.app.Requested
		out.Took, p.st.began = h.now().Sub(p.st.began), time.Time{}
	}
	p.obj.Status = dialect.HelmReleaseStatus(p.obj.Status, p.app, *out, h.now())
	return next{after: p.after, events: p.events}
}

// remove uninstalls the release of an app that is deleted, unless it is suspended. An action under way is ended first. Where the service
// account that would have to do it is gone, or what says how the other cluster is reached, the app is let go of, with a warning (upstream).
func (h *helmReleases) remove(ctx context.Context, obj *helmv2.HelmRelease) (removal, error) {
	p, _ := h.begin(obj, pen{})
	if h.former(p) {
		return removal{after: recheck}, nil
	}
	if a := p.helm.acting; a != nil {
		if !a.parting {
			a.cancel()
		}
		if !h.ended(p) {
			if n := h.underWay(p); a.parting && n.after > 0 {
				return removal{after: n.after}, nil
			}
			return removal{after: recheck}, nil
		}
		if a.parting && a.err != nil {
			return h.remains(ctx, p), nil
		}
	}
	if p.app.Suspend {
		return removal{done: true, events: p.events}, nil
	}
	if why := h.unreachable(ctx, p); why != "" {
		return p.letGo(why), nil
	}
	if err := h.aim(ctx, p); err != nil {
		return removal{after: recheck, events: p.events}, ignoreNotYet(err)
	}
	if accountGone(ctx, p.app, p.st.target) {
		return p.letGo("the service account " + p.app.ServiceAccount + " is gone"), nil
	}
	seen, err := p.helm.engine.Observe(ctx, p.app, p.helm.record)
	if err != nil {
		return removal{after: recheck, events: p.events}, err
	}
	rec := p.helm.record
	rec.AttemptedAction = cmp.Or(rec.AttemptedAction, delivery.InstallRelease) // perhaps: our finalizer is there, whatever the status says
	d, left := release.ForDeletion(p.app, rec, seen)
	if !left || h.own(p.app, d.Target) != p.app.ID {
		return removal{done: true, events: p.events}, nil
	}
	p.want = release.Want{App: p.app}
	h.recordAction(p, d)
	h.act(p, d, d.Record)
	p.helm.acting.parting = true
	return removal{after: recheck, events: p.events}, nil
}

// remains says why the release of an app that is deleted could not be uninstalled. It is tried again.
func (h *helmReleases) remains(ctx context.Context, p *helmPass) removal {
	if accountGone(ctx, p.app, p.st.target) {
		return p.letGo("the service account " + p.app.ServiceAccount + " is gone")
	}
	p.st.failures++
	out := delivery.Outcome{Phase: delivery.Failing, Release: &p.helm.record}
	p.obj.Status = dialect.HelmReleaseStatus(p.obj.Status, p.app, out, h.now())
	return removal{after: deliver.Backoff(p.st.failures, 0), events: p.events}
}

// unreachable tells why nobody can say how the app's other cluster is reached: what its declaration names is gone; empty: somebody can.
func (h *helmReleases) unreachable(ctx context.Context, p *helmPass) string {
	var obj client.Object = &corev1.Secret{}
	switch p.app.KubeConfig.Kind {
	case "":
		return ""
	case "ConfigMap":
		obj = &corev1.ConfigMap{}
	}
	err := h.reader.Get(ctx, types.NamespacedName{Namespace: p.app.ID.Namespace, Name: p.app.KubeConfig.Name}, obj)
	if apierrors.IsNotFound(err) {
		return p.app.KubeConfig.String() + ", which says how its cluster is reached, is gone"
	}
	return ""
}

// letGo ends the removal of an app whose release cannot be uninstalled any more.
func (p *helmPass) letGo(why string) removal {
	of := release.TargetOf(p.app)
	name := of.Name
	if last := p.helm.record.Latest(); last != nil {
		name = last.Name
	}
	what := "the release " + cmp.Or(p.helm.record.StorageNamespace, of.StorageNamespace) + "/" + name
	if n := len(p.helm.record.Inventory); n > 0 {
		what += fmt.Sprintf(", with up to %d objects,", n)
	}
	return removal{done: true, events: append(p.events, event{warning: true, reason: "Orphaned", message: fmt.Sprintf(
		"%s: %s is left as it is (hint: helm uninstall %s -n %s removes it)", why, what, name, cmp.Or(p.helm.record.StorageNamespace, of.StorageNamespace))})}
}

// looked tells whether every HelmRelease that is not suspended has been looked at.
func (h *helmReleases) looked(ctx context.Context) (bool, error) {
	var list helmv2.HelmReleaseList
	if err := h.cache.List(ctx, &list); err != nil {
		return false, fmt.Errorf("list HelmReleases: %w", err)
	}
	return !slices.ContainsFunc(list.Items, func(hr helmv2.HelmRelease) bool {
		return !hr.Spec.Suspend && !h.reg.standOf(helmReleaseID(client.ObjectKeyFromObject(&hr))).evaluated
	}), nil
}

// stored wakes the apps whose release somebody else has written.
func (h *helmReleases) stored(namespace, name string) {
	for _, id := range h.reg.releases(namespace, name) {
		h.wake(id)
	}
}
