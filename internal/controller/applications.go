package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
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
	"keelson.dev/keelson/internal/render"
	"keelson.dev/keelson/internal/source"
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
	obj      *argocdv1.Application
	declared dialect.ArgoApp // as it is declared
	target   dialect.ArgoApp // as the operation under way or asked for wants it
	held     *holdings
	op       *delivery.Operation // under way, or just over; nil: none
	asked    *delivery.OperationRequest
	news     dialect.ArgoNews
	owned    delivery.Inventory // if it was compared
	revs     []string           // of the sources that the request is about
	pinned   bool               // the target is not what is declared, but what the operation began with
	seen     []seen
	busy     bool // an operation is under way
	urgent   bool // what there is to say is said now
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

// guard has the write that takes an operation away fail where another one was put in its place, or the end of one that somebody
// wants to end be known before anything else is said of it; and the write of finalizers, which are replaced as a whole.
func (a *applications) guard(before, now *argocdv1.Application) bool {
	return before.Operation != nil && now.Operation == nil || !slices.Equal(before.Finalizers, now.Finalizers)
}

// step does one step for an Application.
func (a *applications) step(ctx context.Context, obj *argocdv1.Application, pen pen) next {
	if !a.estate.holds().complete {
		return next{after: estateRetry} // a project that is not known yet would forbid nothing
	}
	if !a.estate.serves(obj.Namespace) {
		a.forget(client.ObjectKeyFromObject(obj)) // it may have been served before
		return next{}
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
		return next{after: p.after, events: p.events}
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
	if p.op = st.op; p.op == nil {
		p.asked = dialect.ArgoRequest(obj)
	}
	switch {
	case p.op != nil:
		p.target = a.begun(p, *p.op)
	case p.asked != nil:
		p.target = a.read(obj, p.held, obj.Operation.Sync)
	case operation.Retriable(st.last) && !st.last.Request.Automated:
		p.target = a.begun(p, *st.last)
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

// begun reads an Application as an operation has it that has begun: made from what it began with, whatever is declared or pushed
// since. As long as that is what is declared, nothing else is fetched for it.
func (a *applications) begun(p *applicationPass, op delivery.Operation) dialect.ArgoApp {
	pin, spec := p.st.pin, p.obj.Spec
	if pin == nil {
		return p.declared
	}
	same := equality.Semantic.DeepEqual(spec.Sources, pin.Sources)
	if len(spec.Sources) == 0 {
		same = len(pin.Sources) == 0 && equality.Semantic.DeepEqual(spec.Source, pin.Source)
	}
	revs := make([]string, len(p.declared.Sources))
	for i, src := range p.declared.Sources {
		snap, _ := a.repos.snapshot(src.ID)
		revs[i] = dialect.ArgoRevision(snap.Revision)
	}
	if same && dialect.ArgoSameRevisions(op.Revisions, revs) {
		return p.declared
	}
	p.pinned = true
	return a.read(p.obj, p.held, pin)
}

// keeps tells why what the request is made from is not what an operation began with; nil: it is.
func (a *applications) keeps(p *applicationPass, op *delivery.Operation) error {
	switch {
	case len(op.Revisions) == 0: // it was begun by somebody who had not found out yet
		op.Revisions = p.revs
		p.st.pin = dialect.ArgoPin(p.obj, *op)
	case dialect.ArgoSameRevisions(op.Revisions, p.revs):
	case !p.pinned: // a source has just moved on: the next pass asks for the one of before
		a.wake(p.app.ID)
		return errNotYet
	default:
		return &delivery.Fault{
			Reason: argocdv1.ConditionSyncError, Retry: delivery.OnChange, Hint: "sync again",
			Err: fmt.Errorf("the operation began with %s, which is %s now", strings.Join(op.Revisions, ", "), strings.Join(p.revs, ", ")),
		}
	}
	return nil
}

// read translates an Application.
func (a *applications) read(obj *argocdv1.Application, held *holdings, sync *argocdv1.SyncOperation) dialect.ArgoApp {
	return dialect.Application(obj, a.context(held, obj, sync))
}

// context is what an Application's meaning depends on besides itself.
func (a *applications) context(held *holdings, obj *argocdv1.Application, sync *argocdv1.SyncOperation) dialect.Argo {
	return dialect.Argo{
		Namespace: a.estate.namespace, Project: held.project(projectOf(obj)), Repositories: held.repositories, Clusters: held.clusters,
		KnownHosts: held.settings[argoKnownHosts]["ssh_known_hosts"], Certificates: held.settings[argoTLSCerts], Keys: held.settings[argoKeys],
		Impersonate: held.settings[argoSettings]["application.sync.impersonation.enabled"] == "true",
		Sync:        sync, Now: a.now(),
	}
}

// projectOf names an Application's project.
func projectOf(obj *argocdv1.Application) string {
	return cmp.Or(obj.Spec.Project, dialect.DefaultProject)
}

// follow has the repositories fetched that the app is made from, and that its operation is about. A refresh asks for a look at them.
func (a *applications) follow(p *applicationPass) {
	sources := slices.Clone(p.declared.Sources)
	for _, src := range p.target.Sources {
		if !slices.ContainsFunc(sources, func(s delivery.Source) bool { return s.ID == src.ID }) {
			sources = append(sources, src)
		}
	}
	a.repos.want(p.app.ID, sources)
	if !p.st.seeded {
		p.st.seeded = true
		for i, rev := range revisionsOf(p.obj) {
			if i < len(p.declared.Sources) && isCommit(rev) {
				a.repos.remember(p.declared.Sources[i].ID, delivery.Revision{Commit: rev})
			}
		}
	}
	switch kind := p.obj.Annotations[argocdv1.RefreshAnnotation]; {
	case kind == "":
		p.st.refreshing = false
	case !p.st.refreshing:
		p.st.refreshing = true
		if kind == "hard" {
			p.st.mem.Resend()
		}
		a.repos.refresh(p.app.ID)
	}
}

// revisionsOf are those that an Application was compared to last, one for each source.
func revisionsOf(obj *argocdv1.Application) []string {
	if s := obj.Status.Sync; len(s.Revisions) > 0 {
		return s.Revisions
	}
	return []string{obj.Status.Sync.Revision}
}

// isCommit tells whether a text is a commit's full id.
func isCommit(s string) bool {
	return len(s) == 40 && strings.Trim(s, "0123456789abcdef") == ""
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
	a.arrive(&p.pass)
	p.st.target.engine.Live.JudgeKind(argocdv1.ApplicationKind, p.held.rules)
	err := a.operate(ctx, p)
	if err == nil {
		err = a.compare(ctx, p)
	}
	return p.st.explain(err)
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
	if ending || p.declared.Invalid() != "" && p.held.read() { // what is not known yet is not wrong
		if failed := a.unstartable(p, err); failed != nil {
			return failed
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

// seen is a snapshot that a pass has used.
type seen struct {
	id       delivery.ID
	snapshot delivery.Snapshot
}

// sources gives the snapshot that an app as it was read is made from: that of its source, or one that is composed of several. The
// request is about that app from now on.
func (a *applications) sources(p *applicationPass, of dialect.ArgoApp) error {
	if why := of.Invalid(); why != "" { // an operation may want sources that the project forbids
		return &delivery.Fault{Reason: argocdv1.ConditionInvalidSpecError, Retry: delivery.OnEvent, Err: errors.New(why)}
	}
	snaps := make(map[delivery.ID]delivery.Snapshot, len(of.Sources))
	revisions := make([]delivery.Revision, len(of.Sources))
	for i, src := range of.Sources {
		snap, err := a.repos.snapshot(src.ID)
		if snap.Revision.Commit == "" {
			if err == nil {
				return errNotYet
			}
			return &delivery.Fault{
				Reason: argocdv1.ConditionComparisonError, Retry: delivery.FaultOf(err, "").Retry, Where: redact.URL(src.URL), Err: err,
			}
		}
		if err != nil { // what there is may be old
			p.warn(argocdv1.ConditionComparisonError, redact.URL(src.URL)+": "+err.Error())
		}
		snaps[src.ID], revisions[i] = snap, snap.Revision
		p.seen = append(p.seen, seen{src.ID, snap})
	}
	app := a.govern(of.App)
	dialect.ArgoRevisionEnv(&app, revisions)
	p.req.App, p.revs = app, make([]string, len(revisions))
	for i, rev := range revisions {
		p.revs[i] = dialect.ArgoRevision(rev)
	}
	if len(app.Mounts) == 0 {
		var err error
		p.req.Snapshot, err = a.complete(p, snaps[app.Source])
		return err
	}
	mounted := make([]source.Mounted, len(app.Mounts))
	for i, m := range app.Mounts {
		mounted[i] = source.Mounted{At: m.At, Snapshot: snaps[m.Source]}
	}
	whole, err := source.Compose(mounted)
	if err != nil {
		return err
	}
	p.req.Snapshot, err = a.complete(p, whole)
	return err
}

// warn adds a condition to what is said of the app, which tells it once however often it is added.
func (p *applicationPass) warn(kind, message string) {
	p.news.Conditions = append(p.news.Conditions, argocdv1.ApplicationCondition{Type: kind, Message: p.secrets.Text(message)})
}

// sooner has the app be looked at again after d at the latest; zero: only when something happens.
func (p *pass) sooner(d time.Duration) {
	if d > 0 && (p.after == 0 || d < p.after) {
		p.after = d
	}
}

// operate carries an operation out as far as it goes now: the one under way, or the one that somebody asks for.
func (a *applications) operate(ctx context.Context, p *applicationPass) error {
	if p.op == nil && p.asked == nil {
		return nil
	}
	if err := a.sources(p, p.target); err != nil {
		return a.unstartable(p, err)
	}
	if p.op != nil {
		if err := a.keeps(p, p.op); err != nil {
			return a.unstartable(p, err)
		}
	}
	if p.op == nil {
		d := operation.Decide(a.standing(p))
		if p.sooner(d.After); d.Begin == nil {
			return nil
		}
		if err := a.start(ctx, p, d, a.standing(p)); err != nil {
			return a.unstartable(p, err)
		}
	}
	return a.carryOut(ctx, p)
}

// standing is what is decided by whether an operation begins.
func (a *applications) standing(p *applicationPass) operation.Standing {
	return operation.Standing{
		Policy: *p.req.App.Sync, Asked: p.asked, Last: p.st.last, Revisions: p.revs, Changed: redeclared(p.obj), Now: p.req.Now,
	}
}

// redeclared tells whether the sources are declared otherwise than when the last operation began.
func redeclared(obj *argocdv1.Application) bool {
	s := obj.Status.OperationState
	if s == nil || s.SyncResult == nil {
		return false
	}
	if len(obj.Spec.Sources) > 0 {
		return !equality.Semantic.DeepEqual(obj.Spec.Sources, s.SyncResult.Sources)
	}
	return !equality.Semantic.DeepEqual(obj.Spec.Source, s.SyncResult.Source)
}

// unstartable ends an operation that cannot be carried out, unless the cause may pass by itself.
func (a *applications) unstartable(p *applicationPass, err error) error {
	if errors.Is(err, errNotYet) || p.op == nil && p.asked == nil {
		return err
	}
	f := delivery.FaultOf(err, argocdv1.ConditionSyncError)
	ending := p.op != nil && p.op.Phase == delivery.OperationTerminating
	if f.Retry == delivery.Backoff && p.st.failures < maxFailures && !ending {
		return err
	}
	op := p.op
	if op == nil {
		p.req.App.Sync = cmp.Or(p.req.App.Sync, &delivery.SyncPolicy{})
		begun := operation.Start(operation.Decision{Begin: p.asked}, a.standing(p))
		op, begun.Terminated = &begun, p.declared.Invalid() != ""
		p.obj.Status.OperationState = dialect.ArgoBegun(p.obj, begun)
		p.st.pin = dialect.ArgoPin(p.obj, begun)
		p.obj.Operation, p.asked = nil, nil
	}
	op.Phase, op.Finished, op.Message = delivery.OperationError, p.req.Now, p.secrets.Text(f.Error())
	if ending {
		op.Phase, op.Terminated, op.Message = delivery.OperationFailed, true, "Operation terminated; its hooks are left: "+op.Message
	}
	a.over(p, *op)
	p.urgent = true
	return nil
}

// maxFailures is how often in a row an operation is hindered by what may pass before it ends for it.
const maxFailures = 5

// start writes, in one request, that an operation has begun, that nobody asks for it any more and which objects it may make, before
// any of it is done.
func (a *applications) start(ctx context.Context, p *applicationPass, d operation.Decision, s operation.Standing) (err error) {
	op := operation.Start(d, s)
	p.req.Operation = &op
	state, err := p.st.target.engine.Observe(ctx, p.req, &p.st.mem)
	if err != nil {
		return err
	}
	p.summarize(state.Desired)
	if state.Waiting != "" {
		p.sooner(recheck)
		return errNotYet
	}
	was, asked, annotations := p.obj.Status.OperationState, p.obj.Operation, p.obj.Annotations
	p.obj.Status.OperationState = dialect.ArgoBegun(p.obj, op)
	if p.asked != nil {
		p.obj.Operation = nil
	}
	defer func() {
		if err != nil { // it has not begun, and who asks for it still does
			p.obj.Status.OperationState, p.obj.Operation, p.obj.Annotations = was, asked, annotations
		}
	}()
	if len(state.Plan.Blocks) == 0 && !op.Request.DryRun { // else nothing of it is begun
		if err := a.widen(p, state.Plan); err != nil {
			return err
		}
	}
	if err := a.write(p); err != nil {
		return err
	}
	p.op, p.st.op, p.asked, p.st.told = &op, &op, nil, p.req.Now
	p.st.pin = dialect.ArgoPin(p.obj, op)
	a.reg.begin(p.app.ID)
	p.events = append(p.events, startedEvent(op))
	return nil
}

// widen puts what a plan may make into the annotation that says what may be the app's, for the next write.
func (a *applications) widen(p *applicationPass, plan delivery.Plan) error {
	mem := &p.st.mem
	// What is in memory may belong to the intent of an operation before this one, which counts no more.
	if mem.Inventory.Covers(plan.Inventory) && dialect.ArgoInventory(p.obj).Covers(plan.Inventory) {
		return nil
	}
	claims := p.st.target.engine.Claims
	intent := deliver.Intent(mem, plan)
	if !dialect.ArgoFits(intent) {
		return &delivery.Fault{
			Reason: argocdv1.ConditionSyncError, Retry: delivery.OnChange, Hint: "split the Application",
			Err: fmt.Errorf("%d objects are more than the status of one Application can list", len(intent)),
		}
	}
	if conflicts, _ := claims.Set(p.app.ID, claimed(p.declared, intent)); len(conflicts) > 0 {
		_, released := claims.Set(p.app.ID, claimed(p.declared, mem.Inventory)) // nothing of this plan is begun
		a.released(released)
		return &delivery.Fault{
			Reason: "OwnershipConflict", Where: conflicts[0].String(), Retry: delivery.OnEvent, Err: errors.New("another app has just claimed it"),
		}
	}
	text, fits := dialect.ArgoIntent(p.obj, intent)
	if !fits {
		return &delivery.Fault{
			Reason: argocdv1.ConditionSyncError, Retry: delivery.OnChange, Hint: "split the Application",
			Err: fmt.Errorf("%d new objects are more than can be recorded ahead of making them", len(intent)-len(mem.Inventory)),
		}
	}
	annotations := maps.Clone(p.obj.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[dialect.IntentAnnotation] = text
	p.obj.Annotations = annotations
	mem.Inventory = intent
	return nil
}

// write writes the Application as it is now.
func (a *applications) write(p *applicationPass) error {
	err := p.pen.save()
	switch {
	case apierrors.IsConflict(err):
		p.sooner(again)
		return errNotYet
	case err != nil:
		return delivery.FaultOf(fmt.Errorf("record what is about to be done: %w", err), argocdv1.ConditionSyncError)
	}
	return nil
}

// maxOperationSteps bounds the stages of an operation that are carried out in one pass: the next pass goes on.
const maxOperationSteps = 100

// carryOut does what the operation under way can do now.
func (a *applications) carryOut(ctx context.Context, p *applicationPass) error {
	leave, err := a.places.Enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	engine, mem := p.st.target.engine, &p.st.mem
	for range maxOperationSteps {
		p.req.Now, p.req.Operation = a.now(), p.op
		a.reg.setConflict(p.app.ID, true) // ahead of the look: who lets go of an object from now on wakes this app
		state, err := engine.Observe(ctx, p.req, mem)
		a.reg.setConflict(p.app.ID, err == nil && conflicted(state.Plan))
		if err != nil {
			return a.unstartable(p, err)
		}
		p.summarize(state.Desired)
		if state.Waiting != "" {
			p.busy = true
			p.sooner(recheck)
			return errNotYet
		}
		step := engine.Operate(p.req, state, mem)
		*p.op = step.Operation
		switch {
		case step.Over:
			a.over(p, *p.op)
			return nil
		case len(step.Stage.Changes) == 0:
			p.busy = true
			p.sooner(step.After)
			p.sooner(a.recheck(p))
			return nil
		}
		if err := a.act(ctx, p, state, step.Stage); err != nil {
			return err
		}
	}
	p.busy = true
	p.sooner(time.Millisecond)
	return nil
}

// recheck is when to look again at an operation that waits for something that is watched, in case its event came too early.
func (a *applications) recheck(p *applicationPass) time.Duration {
	return max(recheck, min(p.req.Now.Sub(p.op.Started)/4, maxRecheck))
}

// act carries out one stage of the operation.
func (a *applications) act(ctx context.Context, p *applicationPass, state deliver.State, stage delivery.Stage) error {
	if before := p.st.mem.Inventory; !p.op.Request.DryRun {
		if err := a.widen(p, state.Plan); err != nil {
			return err
		}
		if len(before) != len(p.st.mem.Inventory) {
			if err := a.write(p); err != nil {
				return err
			}
		}
	}
	if deliver.Begins(stage) {
		if err := a.records.Drop(p.app.ID); err != nil {
			return err
		}
	}
	res, err := p.st.target.engine.Act(ctx, p.req, state, stage, &p.st.mem)
	if err != nil {
		return err
	}
	p.events = append(p.events, changeEvents(res.Changes, p.req.Snapshot.Revision)...)
	*p.op = operation.Record(*p.op, res.Dones(), a.now())
	return nil
}

// conflicted tells whether a plan must not be carried out since an object is another app's.
func conflicted(plan delivery.Plan) bool {
	return slices.ContainsFunc(plan.Blocks, func(b delivery.Block) bool { return b.Fault.Reason == "OwnershipConflict" })
}

// over has the end of an operation be told.
func (a *applications) over(p *applicationPass, op delivery.Operation) {
	p.news.Operation, p.st.last, p.st.op, p.op = &op, &op, nil, nil
	p.busy = false
	p.events = append(p.events, completedEvent(op))
}

// compare looks how the app compares to what it is declared to be, and begins an automated operation where one is due.
func (a *applications) compare(ctx context.Context, p *applicationPass) error {
	p.req.Operation = p.op
	if p.op != nil { // one is under way: nothing is decided before it is over
		return nil
	}
	if err := a.sources(p, p.declared); err != nil {
		return err
	}
	mem, engine := &p.st.mem, p.st.target.engine
	p.req.Now = a.now()
	a.reg.setConflict(p.app.ID, true)
	state, err := engine.Observe(ctx, p.req, mem)
	a.reg.setConflict(p.app.ID, err == nil && conflicted(state.Plan))
	if err != nil {
		return err
	}
	if state.Waiting != "" {
		p.sooner(recheck)
		return errNotYet
	}
	p.take(state)
	a.orphans(ctx, p)
	if p.news.Operation != nil { // an operation has just ended: the next pass decides about another
		a.wake(p.app.ID)
		return nil
	}
	return a.automate(ctx, p, state)
}

// take notes how the app compares.
func (p *applicationPass) take(state deliver.State) {
	p.news.Known, p.news.Revisions, p.news.InSync = true, p.revs, state.InSync
	p.news.Compared, p.news.Health, p.owned = state.Compared, state.Health, state.Owned
	p.summarize(state.Desired)
	if state.Desired != nil {
		p.expectHooks(state.Desired)
	}
	p.remembered()
	if !state.Retry.IsZero() {
		p.sooner(max(state.Retry.Sub(p.req.Now), time.Millisecond))
	}
	for _, b := range state.Plan.Blocks {
		p.warn(conditionOf(b.Fault), b.Fault.Error())
	}
	if w := p.req.App.Sync; w != nil && !w.Windows.Next.IsZero() {
		p.sooner(max(w.Windows.Next.Sub(p.req.Now), time.Millisecond))
	}
}

// summary is what there is to tell of the objects that Git wants, from when they were rendered last.
type summary struct {
	formats, images, urls []string
	repeated              []string // warnings
}

// summarize notes what there is to tell of the objects that Git wants, where they were rendered.
func (p *applicationPass) summarize(desired []delivery.Object) {
	if desired == nil {
		return
	}
	s := &summary{formats: render.Formats(p.req.Snapshot, p.req.App.Build)}
	s.images, s.urls = dialect.ArgoSummary(desired)
	for _, obj := range desired {
		if ref := obj.Ref(); obj.Repeated > 1 {
			s.repeated = append(s.repeated, fmt.Sprintf("Resource %s/%s/%s/%s appeared %d times among application resources.",
				ref.Group, ref.Kind, ref.Namespace, ref.Name, obj.Repeated))
		}
	}
	p.st.summary = s
}

// remembered has the summary told, perhaps of a pass before this one; what a controller before this one told of it stays.
func (p *applicationPass) remembered() {
	s := p.st.summary
	if p.news.Remembered = s == nil; p.news.Remembered {
		s = &summary{}
		for _, c := range p.obj.Status.Conditions {
			if c.Type == argocdv1.ConditionRepeatedResourceWarning {
				s.repeated = append(s.repeated, c.Message)
			}
		}
	}
	p.news.SourceTypes, p.news.Images, p.news.URLs = s.formats, s.images, s.urls
	for _, text := range s.repeated {
		p.warn(argocdv1.ConditionRepeatedResourceWarning, text)
	}
}

// conditionOf is the type of the condition that tells of a block.
func conditionOf(f *delivery.Fault) string {
	switch f.Reason {
	case "OwnershipConflict":
		return argocdv1.ConditionSharedResourceWarning
	case "ConfirmationRequired":
		return argocdv1.ConditionConfirmationRequiredError
	}
	return argocdv1.ConditionSyncError
}

// automate begins an operation that nobody has asked for, where the policy wants one and nothing stands against it.
func (a *applications) automate(ctx context.Context, p *applicationPass, state deliver.State) error {
	if p.req.App.Sync == nil {
		return nil
	}
	standing := state.Standing(a.standing(p))
	d := operation.Decide(standing)
	p.sooner(d.After)
	if d.Fault {
		p.warn(argocdv1.ConditionSyncError, d.Why)
	}
	if d.Window {
		p.warn(argocdv1.ConditionHeldWarning, d.Why)
	}
	if d.Begin == nil {
		return nil
	}
	if d.Retry && !d.Begin.Automated { // what somebody has asked for, once more: not what Git has now
		if err := a.again(p); err != nil {
			return err
		}
		standing.Revisions = p.revs
	} else {
		if len(state.Plan.Blocks) > 0 {
			return nil
		}
		if ready, err := a.dependencies(ctx, p); err != nil || !ready {
			return err
		}
		p.target = p.declared
	}
	if err := a.start(ctx, p, d, standing); err != nil {
		return err
	}
	if err := a.carryOut(ctx, p); err != nil || p.op != nil {
		return err
	}
	return a.compare(ctx, p)
}

// again has the request be about what the last operation was about.
func (a *applications) again(p *applicationPass) error {
	if err := a.sources(p, p.target); err != nil || len(p.st.last.Revisions) == 0 {
		return err
	}
	return a.keeps(p, p.st.last)
}

// dependencies tells whether the apps that this one depends on are ready.
func (a *applications) dependencies(ctx context.Context, p *applicationPass) (ready bool, err error) {
	dep, why, stands := a.reg.unready(p.app, p.req.Snapshot.Revision)
	what := dep.Namespace + "/" + dep.Name
	switch stands {
	case standsReady:
		return true, nil
	case standsUnknown:
		found, err := a.exists(ctx, a.empty(), dep)
		if err != nil || found {
			return false, cmp.Or(err, errNotYet)
		}
		why = "it does not exist"
	case standsBusy:
		why = "it is being delivered"
	}
	p.warn(argocdv1.ConditionDependencyWarning, fmt.Sprintf("waiting for Application %s: %s", what, why))
	return false, nil
}

// fails says what has kept the app from being compared or delivered, and when it is tried again.
func (a *applications) fails(p *applicationPass, err error) {
	f := delivery.FaultOf(err, argocdv1.ConditionComparisonError)
	if p.declared.Invalid() == "" { // else its own conditions say so
		kind := f.Reason
		if !argoConditions[kind] {
			kind = argocdv1.ConditionComparisonError
		}
		p.warn(kind, f.Error())
	}
	switch f.Retry {
	case delivery.Backoff:
		p.st.failures++
		p.sooner(deliver.Backoff(p.st.failures, p.app.RetryInterval))
	case delivery.OnChange:
		p.sooner(cmp.Or(p.app.RetryInterval, defaultInterval))
	case delivery.OnEvent:
	}
	p.busy = p.op != nil
}

// argoConditions are the types of conditions that a fault may have as its reason.
var argoConditions = map[string]bool{
	argocdv1.ConditionComparisonError: true, argocdv1.ConditionInvalidSpecError: true, argocdv1.ConditionSyncError: true,
	argocdv1.ConditionDeletionError: true,
}

// tell settles how the app stands and writes its status, where there is news worth a request.
func (a *applications) tell(p *applicationPass, failed error) next {
	if failed == nil {
		p.st.failures = 0
	}
	if p.op != nil {
		p.news.Operation = p.op
	}
	p.news.Conditions = slices.Concat(p.declared.Conditions, p.news.Conditions)
	if p.op == nil && p.st.last != nil && running(p.obj) {
		p.news.Operation = p.st.last // its end could not be written, or was kept back
	}
	if failed == nil && !p.busy && p.news.Known {
		a.own(p)
	}
	healthy := p.news.Health.Status == delivery.Healthy
	a.stands(p.app.ID, stand{
		busy: p.busy, ready: failed == nil && !p.busy && p.news.InSync && healthy, applied: p.req.Snapshot.Revision, inputs: p.st.mem.Inputs(),
	})
	if rest := a.hold(p); rest > 0 {
		p.sooner(rest)
		return next{after: p.after, events: p.events}
	}
	was := p.obj.Status
	if p.st.refreshing && a.repos.refreshed(p.app.ID) {
		p.st.refreshing = false
		p.obj.Annotations = maps.Clone(p.obj.Annotations)
		delete(p.obj.Annotations, argocdv1.RefreshAnnotation)
	}
	status := dialect.ArgoStatus(was, p.obj, p.news, a.now())
	if p.busy && failed == nil && !p.news.Known { // how it compares is not known while it changes
		at := status.ReconciledAt
		status.Sync, status.Health, status.Conditions, status.ReconciledAt = was.Sync, was.Health, was.Conditions, was.ReconciledAt
		if !equality.Semantic.DeepEqual(was, status) {
			status.ReconciledAt = at
		}
	}
	p.obj.Status = status
	p.st.told = p.req.Now
	return next{after: p.after, events: append(p.events, changedEvents(was, p.obj.Status)...)}
}

// running tells whether the status says that an operation is under way.
func running(obj *argocdv1.Application) bool {
	s := obj.Status.OperationState
	return s != nil && !delivery.OperationPhase(s.Phase).Over()
}

// own takes in what the app owns when no operation is under way, and remembers how it was compared.
func (a *applications) own(p *applicationPass) {
	mem := &p.st.mem
	if !mem.Inventory.Equal(p.owned) {
		mem.Inventory = p.owned
		_, released := p.st.target.engine.Claims.Set(p.app.ID, claimed(p.declared, p.owned))
		a.released(released)
	}
	if err := a.records.Save(p.app.ID, mem); err != nil {
		a.log.Warn("remember a delivery", "error", err) // a restart will look closer
	}
}

// calmDown is how long the end of an operation is kept back for its objects to get healthy: most do in a moment, and one write
// tells both.
const calmDown = 3 * time.Second

// hold tells how long news is kept back; zero: it is told now. An operation under way is told of once in a while; what is
// merely restless is told of once it lasts.
func (a *applications) hold(p *applicationPass) time.Duration {
	if p.urgent {
		return 0
	}
	if p.busy {
		p.st.working = time.Time{}
		return max(p.st.told.Add(haste).Sub(p.req.Now), 0)
	}
	if p.news.Health.Status != delivery.Progressing || !p.news.InSync {
		p.st.working = time.Time{}
		return 0
	}
	if p.st.working.IsZero() {
		p.st.working = p.req.Now
	}
	return max(p.st.working.Add(calmDown).Sub(p.req.Now), 0)
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
