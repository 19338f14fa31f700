package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/operation"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/telemetry"
)

// applications delivers apps that are declared as Argo CD's Applications: each is compared all the time, and changed by operations
// only, one at a time.
type applications struct {
	apps
	repos  *repositories
	estate *estate
}

// applicationPass is one step for one Application.
type applicationPass struct {
	pass
	obj        *argocdv1.Application
	declared   dialect.ArgoApp // as it is declared
	target     dialect.ArgoApp // as the operation under way or asked for wants it
	held       *holdings
	op         *delivery.Operation // under way, or just over; nil: none
	asked      *delivery.OperationRequest
	news       dialect.ArgoNews
	owned      delivery.Inventory // if it was compared
	revs       []string           // of the sources that the request is about
	mounted    mounted            // the same of several sources
	pinned     bool               // the target is not what is declared, but what the operation began with
	seen       []seen
	busy       bool   // an operation is under way
	urgent     bool   // what there is to say is said now
	summarized bool   // what there is to tell of the objects of the request was noted
	unsay      func() // takes back from the object that an operation has begun, where that is not written yet
	leave      func() // gives the place among the apps that are being delivered back; nil: it has none
}

func applicationID(name types.NamespacedName) delivery.ID {
	return delivery.ID{Kind: argocdv1.ApplicationKind, Namespace: name.Namespace, Name: name.Name}
}

func (a *applications) empty() *argocdv1.Application { return &argocdv1.Application{} }

func (a *applications) forget(name types.NamespacedName) {
	id := applicationID(name)
	a.repos.want(id, nil)
	a.drop(id)
}

// changed tells whether a person has changed something: the generation of Applications tells nothing, since it grows with every
// status too.
func (a *applications) changed(before, now *argocdv1.Application) bool {
	return !equality.Semantic.DeepEqual(before.Spec, now.Spec) || !slices.Equal(before.Unknown, now.Unknown) ||
		now.Operation != nil && !equality.Semantic.DeepEqual(before.Operation, now.Operation) ||
		!slices.Equal(before.Finalizers, now.Finalizers) || terminating(now) && !terminating(before)
}

// terminating tells whether somebody wants the operation under way to end.
func terminating(obj *argocdv1.Application) bool {
	s := obj.Status.OperationState
	return s != nil && s.Phase == argocdv1.OperationTerminating
}

// guard tells whether a write must fail where somebody else has written since the Application was read: one that takes the operation
// away, since another one may be asked for in its place by now, which would go unseen; and one of the finalizers, since a list is
// replaced as a whole, with what somebody else has just added to it. Any other write changes its own fields and leaves the rest.
func (a *applications) guard(before, now *argocdv1.Application) bool {
	return before.Operation != nil && now.Operation == nil || !slices.Equal(before.Finalizers, now.Finalizers)
}

// step does one step for an Application.
func (a *applications) step(ctx context.Context, obj *argocdv1.Application, pen pen) next {
	if !a.estate.holds().complete {
		return next{after: estateRetry} // a project that is not known yet would forbid nothing
	}
	if !a.estate.serves(obj.Namespace) {
		name := client.ObjectKeyFromObject(obj)
		_, events := a.parting(name)
		a.forget(name) // it may have been served before
		return next{events: events}
	}
	if obj.Annotations[dialect.SkipReconcileAnnotation] == "true" { // it is left as it is
		return next{}
	}
	p := a.begin(obj, pen)
	err := a.run(ctx, p)
	if s := p.st.mem.Secrets(); s != nil {
		p.secrets, p.loaded = s, true
	}
	a.release(p.st, errors.Is(err, errNotYet))
	a.overtaken(p)
	if errors.Is(err, errNotYet) || ctx.Err() != nil { // too early, or the controller is ending
		return next{after: p.after, events: p.st.kept(p.events)}
	}
	if err != nil {
		a.fails(p, err)
	}
	return a.tell(p, err)
}

// begin reads the declaration and what is known of the app.
func (a *applications) begin(obj *argocdv1.Application, pen pen) *applicationPass {
	p := &applicationPass{obj: obj, held: a.estate.holds()}
	p.declared = a.read(obj, p.held, nil)
	p.target = p.declared
	app := a.govern(p.declared.App)
	st := a.stateOf(app, func(st *appState) { a.load(st, obj) })
	p.pass = pass{app: app, st: st, pen: pen, secrets: redact.New(), req: deliver.Request{App: app, Vars: noVariables, Now: a.now()}}
	if st.op != nil && terminating(obj) {
		st.op.Phase = delivery.OperationTerminating
	}
	if st.op == nil && operation.Retriable(st.last) && terminating(obj) {
		a.giveUp(p, delivery.OperationFailed, operation.Terminated)
	}
	if p.op = st.op; p.op == nil {
		p.asked = dialect.ArgoRequest(obj)
	}
	switch {
	case p.op != nil:
		p.target = a.begun(p, *p.op)
	case p.asked != nil:
		p.target = a.read(obj, p.held, obj.Operation.Sync)
	case operation.Retriable(st.last) && st.last.Request.Invalid != "":
		a.giveUp(p, delivery.OperationError, st.last.Request.Invalid)
	case operation.Retriable(st.last) && !st.last.Request.Automated:
		p.target = a.retried(p, *st.last)
	}
	a.follow(p)
	return p
}

// noVariables are those of an app whose objects have none.
var noVariables = deliver.Variables{Load: func(context.Context) (map[string]string, *redact.Redactor, error) {
	return nil, redact.New(), nil
}}

// govern gives an app as it is under the policy; what Flux's policy says of references to sources is not about Applications.
func (a *applications) govern(app delivery.App) delivery.App {
	app.Build.Strict = !a.policy.LenientSubstitution
	return app
}

// read translates an Application.
func (a *applications) read(obj *argocdv1.Application, held *holdings, sync *argocdv1.SyncOperation) dialect.ArgoApp {
	return dialect.Application(obj, a.context(held, obj, sync))
}

// context is what an Application's meaning depends on besides itself.
func (a *applications) context(held *holdings, obj *argocdv1.Application, sync *argocdv1.SyncOperation) dialect.Argo {
	in := held.about(projectOf(obj), a.now())
	in.Sync = sync
	return in
}

// projectOf names an Application's project.
func projectOf(obj *argocdv1.Application) string {
	return cmp.Or(obj.Spec.Project, dialect.DefaultProject)
}

// load takes in what a controller before this one left in the status and on disk: an operation that was under way goes on.
func (a *applications) load(st *appState, obj *argocdv1.Application) {
	st.mem.Inventory = dialect.ArgoInventory(obj)
	a.records.Load(st.app, &st.mem)
	st.last = dialect.ArgoOperation(obj)
	if st.last != nil {
		st.pin = dialect.ArgoPin(obj, *st.last)
	}
	if st.last != nil && !st.last.Phase.Over() {
		st.op = st.last
	}
	if obj.Status.Sync.Status == argocdv1.Synced && obj.Status.Health.Status == string(delivery.Healthy) && st.op == nil {
		a.reg.with(func() { st.stand = stand{ready: true, applied: delivery.Revision{Commit: revisionsOf(obj)[0]}} })
	}
}

// overtaken wakes the app where a source has brought something new while the step was under way.
func (a *applications) overtaken(p *applicationPass) {
	for _, seen := range p.seen {
		if snap, _ := a.reg.snapshot(seen.id); snap.Revision != seen.snapshot.Revision || snap.Digest != seen.snapshot.Digest {
			a.wake(p.app.ID)
			return
		}
	}
}

// run is the straight line of one app; an error ends it.
func (a *applications) run(ctx context.Context, p *applicationPass) error {
	for _, phase := range []func(context.Context, *applicationPass) error{
		a.valid, // nothing is delivered from a declaration that we would misread, or that its project forbids
		a.aim,   // at which cluster
	} {
		if err := phase(ctx, p); err != nil {
			return a.undeliverable(p, err)
		}
	}
	done, ok := a.targets.enter(p.st.target, p.app.ID)
	if !ok {
		return errNotYet
	}
	defer done()
	defer func() {
		if p.leave != nil {
			p.leave()
		}
	}()
	a.arrive(&p.pass)
	p.st.target.engine.Live.JudgeKind(argocdv1.ApplicationKind, p.held.rules)
	err := a.operate(ctx, p)
	if err == nil {
		err = a.compare(ctx, p)
	}
	return p.st.explain(err)
}

// enter waits for a place among the apps that are being delivered, once in a pass: what is rendered is not kept while others have
// their turn.
func (a *applications) enter(ctx context.Context, p *applicationPass) (err error) {
	if p.leave == nil {
		p.leave, err = a.places.Enter(ctx)
	}
	return err
}

// valid ends the pass of an Application whose declaration is wrong: its conditions say so.
func (a *applications) valid(_ context.Context, p *applicationPass) error {
	if why := p.declared.Invalid(); why != "" {
		return &delivery.Fault{Reason: argocdv1.ConditionInvalidSpecError, Retry: delivery.OnEvent, Err: errors.New(why)}
	}
	return nil
}

// undeliverable ends the operation that is under way or asked for where the declaration is wrong: it must not run once that is mended
// and nobody thinks of it any more. One that somebody wants to end does whatever hinders it.
func (a *applications) undeliverable(p *applicationPass, err error) error {
	if errors.Is(err, errNotYet) {
		return err
	}
	ending := p.op != nil && p.op.Phase == delivery.OperationTerminating
	if ending || p.declared.Invalid() != "" {
		if failed := a.unstartable(p, err); failed != nil {
			return failed
		}
		if operation.Retriable(p.st.last) && !p.st.last.Request.Automated {
			a.giveUp(p, delivery.OperationError, p.secrets.Text(delivery.FaultOf(err, argocdv1.ConditionSyncError).Error()))
		}
	}
	return err
}

// claimed gives what an Application has a claim on of what it is said to own. Whoever may write Applications may write their status too,
// so that counts only as far as the project goes, and not at all where the declaration is wrong.
func claimed(of dialect.ArgoApp, owned delivery.Inventory) delivery.Inventory {
	if of.Invalid() != "" || of.App.Limits == nil {
		return nil
	}
	out := maps.Clone(owned)
	maps.DeleteFunc(out, func(ref delivery.Ref, _ string) bool { return of.App.Limits.Deny(ref, ref.Namespace != "") != "" })
	return out
}

// aim finds the cluster that the app is delivered to, and sees to it that it can be reached.
func (a *applications) aim(_ context.Context, p *applicationPass) error {
	st, id, was, to := p.st, p.app.ID, p.st.target, p.declared.Destination
	if why := p.declared.Nowhere; why != "" {
		return &delivery.Fault{Reason: argocdv1.ConditionInvalidSpecError, Retry: delivery.OnEvent, Err: errors.New(why)}
	}
	if to.Server == "" || to.Server == dialect.InCluster {
		if was == nil || !was.home() {
			t, released := a.targets.aimHome(id)
			a.released(released)
			a.aimed(&p.pass, t, "", claimed(p.declared, st.mem.Inventory))
		}
		return nil
	}
	remote, err := kube.RemoteFromArgo(to.Server, to.Config)
	if err != nil {
		a.abandon(st, p.app)
		f := *delivery.FaultOf(err, argocdv1.ConditionInvalidSpecError)
		f.Where, f.Retry = "Secret/"+a.estate.namespace+"/"+to.Secret, delivery.OnEvent
		return &f
	}
	if named := remote.Connection(); was == nil || st.aimed != named {
		t, released, err := a.targets.aim(id, remote)
		if err != nil {
			return err
		}
		a.released(released)
		if was != nil && was.home() {
			was.engine.Live.Forget(id)
		}
		a.aimed(&p.pass, t, named, claimed(p.declared, st.mem.Inventory))
	}
	st.way = "Secret/" + a.estate.namespace + "/" + to.Secret
	switch up, err := st.target.engine.Cluster.Reached(); {
	case err != nil:
		return unreachable(st, err)
	case !up:
		return errNotYet
	}
	return nil
}

// sooner has the app be looked at again after d at the latest; zero: only when something happens.
func (p *pass) sooner(d time.Duration) {
	if d > 0 && (p.after == 0 || d < p.after) {
		p.after = d
	}
}

// ownedElsewhere tells whether an Application of another shard has an object.
func (a *applications) ownedElsewhere(ctx context.Context, app delivery.ID, ref delivery.Ref) (bool, error) {
	if a.reg.knows(app) {
		return false, nil // the claims know
	}
	var other argocdv1.Application
	err := a.reader.Get(ctx, types.NamespacedName{Namespace: app.Namespace, Name: app.Name}, &other)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask who owns %s: %w", ref, err)
	}
	_, owned := dialect.ArgoInventory(&other)[ref]
	return owned, nil
}

// about gives a context whose spans name the app.
func (a *applications) about(ctx context.Context, obj *argocdv1.Application) context.Context {
	if !telemetry.Tracing() {
		return ctx
	}
	return telemetry.With(ctx, telemetry.App(applicationID(client.ObjectKeyFromObject(obj)).String()))
}
