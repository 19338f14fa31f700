package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/acl"
	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/redact"
)

// kustomizations delivers apps that are declared as Flux Kustomizations.
type kustomizations struct{ apps }

func kustomizationID(name types.NamespacedName) delivery.ID {
	return delivery.ID{Kind: kustomizev1.KustomizationKind, Namespace: name.Namespace, Name: name.Name}
}

func (k *kustomizations) empty() *kustomizev1.Kustomization { return &kustomizev1.Kustomization{} }

func (k *kustomizations) forget(name types.NamespacedName) { k.drop(kustomizationID(name)) }

// kustomizationPass is one step for one Kustomization.
type kustomizationPass struct {
	pass
	obj *kustomizev1.Kustomization
}

func (k *kustomizations) step(ctx context.Context, obj *kustomizev1.Kustomization, pen pen) next {
	app, err := dialect.Kustomization(obj)
	app = k.policy.Govern(app)
	st := k.stateOf(app, func(st *appState) { k.load(st, obj) })
	if app.Suspend {
		k.release(st, false)
		st.since, st.began = k.now(), time.Time{}
		was := k.reg.standOf(app.ID) // when it was suspended
		was.busy = false
		k.stands(app.ID, was)
		return next{}
	}
	if st.began.IsZero() {
		st.began = k.now()
	}
	p := &kustomizationPass{obj: obj, pass: pass{
		app: app, st: st, pen: pen, secrets: redact.New(), req: deliver.Request{App: app, Now: k.now()},
	}}
	var out delivery.Outcome
	if err == nil {
		out, err = k.run(ctx, p)
	}
	if s := st.mem.Secrets(); s != nil {
		p.secrets, p.loaded = s, true
	}
	k.release(st, errors.Is(err, errNotYet))
	seen := p.req.Snapshot.Revision
	if snap, _ := k.reg.snapshot(app.Source); seen.Commit != "" && (snap.Revision != seen || snap.Digest != p.req.Snapshot.Digest) {
		k.wake(app.ID) // it came while this step was under way
	}
	if errors.Is(err, errNotYet) || ctx.Err() != nil { // too early, or the controller is ending
		return next{after: p.after, events: p.events}
	}
	var waits *waitsFor
	switch {
	case errors.As(err, &waits):
		out = k.waiting(p, waits.what)
		out.Reason = waits.reason
	case err != nil:
		out = k.failed(p, k.untold(ctx, p, err))
	}
	if rest := st.patience(out.Phase, p.req.Now); rest > 0 { // it may be ready before anybody has read that it is not
		return next{after: min(rest, cmp.Or(p.after, rest)), events: p.events}
	}
	k.delivered(p, out)
	k.concludeDelivery(&p.pass, out, k.previous(p))
	k.stands(app.ID, stand{
		busy: out.Phase == delivery.Working, ready: out.Phase == delivery.Ready, applied: out.Applied, inputs: st.mem.Inputs(),
	})
	if out.Phase == delivery.Working && st.toldWorking(obj, seen) {
		return next{after: p.after, events: p.progress(out.Message)}
	}
	app.Ignored = slices.Concat(app.Ignored, st.mem.Ignored)
	out.Handled, out.Attempted, out.Inventory, out.Skipped = app.Requested, seen, st.mem.Inventory, st.mem.Skipped
	out.Digest, out.Origin = p.digest, p.req.Snapshot.Origin
	if out.Phase != delivery.Working {
		st.handled, st.asked = app.Requested, false
		out.Took, st.began = k.now().Sub(st.began), time.Time{}
	} else {
		out.Handled = ""
	}
	obj.Status = dialect.KustomizationStatus(obj.Status, app, out, k.now())
	if out.Phase == delivery.Ready && !dialect.KustomizationOwned(obj).Equal(out.Inventory) { // an intent settled long ago fits again
		if err := pen.claim(map[string]string{dialect.IntentAnnotation: ""}); err != nil {
			k.log.Warn("take back an intent", "app", app.ID, "error", err)
		}
	}
	return next{after: p.after, events: p.events}
}

// toldWorking tells whether the status says already that the app is under way to a revision: it is written once for that.
func (st *appState) toldWorking(obj *kustomizev1.Kustomization, to delivery.Revision) bool {
	c := apimeta.FindStatusCondition(obj.Status.Conditions, meta.ReadyCondition)
	return c != nil && c.Status == metav1.ConditionUnknown && c.ObservedGeneration == obj.Generation &&
		obj.Status.LastAttemptedRevision == to.String()
}

// progress gives the events of a pass whose status stays as it is: one more where something else is waited for now.
func (p *kustomizationPass) progress(message string) []event {
	c := apimeta.FindStatusCondition(p.obj.Status.Conditions, meta.ReadyCondition)
	if message == p.st.progress || p.st.progress == "" && message == c.Message {
		return p.events
	}
	p.st.progress = message
	return append(p.events, event{reason: meta.ProgressingReason, message: message, revision: p.req.Snapshot.Revision})
}

// load takes in what a controller before this one left in the status and on disk.
func (k *kustomizations) load(st *appState, obj *kustomizev1.Kustomization) {
	st.mem.Inventory = dialect.KustomizationOwned(obj)
	k.records.Load(st.app, &st.mem)
	st.masks.past, st.masks.made = st.mem.Made()
	st.handled = obj.Status.LastHandledReconcileAt
	if apimeta.IsStatusConditionTrue(obj.Status.Conditions, meta.ReadyCondition) {
		k.reg.with(func() { st.stand = stand{ready: true, applied: delivery.ParseRevision(obj.Status.LastAppliedRevision)} })
	}
}

// run is the straight line of one app; an error ends it.
func (k *kustomizations) run(ctx context.Context, p *kustomizationPass) (delivery.Outcome, error) {
	for _, phase := range []func(context.Context, *kustomizationPass) error{
		k.supported,    // nothing is applied from a declaration that we would misread
		k.expressions,  // or that has CEL in it that cannot be used
		k.aim,          // at which cluster
		k.rules,        // by which rules the objects there are judged
		k.source,       // which commit
		k.dependencies, // are the apps that this one builds on ready
		k.variables,    // what is substituted
	} {
		if err := phase(ctx, p); err != nil {
			return delivery.Outcome{}, err
		}
	}
	out, err := k.deliver(ctx, p)
	return out, p.st.explain(err)
}

func (k *kustomizations) supported(_ context.Context, p *kustomizationPass) error {
	if p.app.Denied != "" {
		return &delivery.Fault{
			Reason: acl.AccessDeniedReason, Retry: delivery.OnEvent, Err: errors.New(p.app.Denied),
			Hint: "declare the source in the namespace of the Kustomization",
		}
	}
	if len(p.app.Refused) == 0 {
		return nil
	}
	hint := insteadOf(p.app.Refused, "a GitRepository or an OCIRepository")
	if slices.Contains(p.app.Refused, "spec.decryption") {
		hint = "keep Secrets out of this Kustomization or unencrypted, or leave it to Flux for now: give it spec.suspend here"
	}
	return &delivery.Fault{
		Reason: "FieldsNotSupported", Retry: delivery.OnEvent, Hint: hint,
		Err: fmt.Errorf("%s: not supported yet; nothing is applied", strings.Join(p.app.Refused, ", ")),
	}
}

func (k *kustomizations) aim(ctx context.Context, p *kustomizationPass) error {
	return k.target(ctx, &p.pass)
}

func (k *kustomizations) source(ctx context.Context, p *kustomizationPass) error {
	id := p.app.Source
	snap, err := k.reg.snapshot(id)
	switch {
	case snap.Revision.Commit != "":
		p.req.Snapshot = snap
		return nil
	case err != nil:
		return &delivery.Fault{
			Reason: meta.ArtifactFailedReason, Retry: delivery.OnEvent,
			Err: fmt.Errorf("source %s is not ready: %w", id, err),
		}
	}
	var obj client.Object = &sourcev1.GitRepository{}
	if id.Kind == sourcev1.OCIRepositoryKind {
		obj = &sourcev1.OCIRepository{}
	}
	found, err := k.exists(ctx, obj, id)
	if apimeta.IsNoMatchError(err) {
		return &delivery.Fault{
			Reason: meta.ArtifactFailedReason, Hint: "kubectl apply -f config/crd, then start Keelson again",
			Err: fmt.Errorf("source %s cannot be: the cluster lacks the kind", id),
		}
	}
	if err != nil || found {
		return cmp.Or(err, errNotYet)
	}
	return &delivery.Fault{
		Reason: meta.ArtifactFailedReason, Retry: delivery.OnEvent, Hint: "create it, or correct spec.sourceRef",
		Err: fmt.Errorf("source %s does not exist", id),
	}
}

func (k *kustomizations) dependencies(ctx context.Context, p *kustomizationPass) error {
	dep, why, stands := k.reg.unready(p.app, stand{applied: p.req.Snapshot.Revision})
	switch stands {
	case standsReady:
		return k.readyExprs(ctx, &p.pass, p.obj, func() client.Object { return &kustomizev1.Kustomization{} })
	case standsBusy:
		return &waitsFor{reason: meta.DependencyNotReadyReason, what: fmt.Sprintf("dependency '%s/%s'", dep.Namespace, dep.Name)}
	case standsUnknown:
		found, err := k.exists(ctx, &kustomizev1.Kustomization{}, dep)
		if err != nil || found {
			return cmp.Or(err, errNotYet)
		}
		why = "it does not exist"
	}
	return &delivery.Fault{
		Reason: meta.DependencyNotReadyReason, Retry: delivery.OnEvent,
		Err: fmt.Errorf("waiting for dependency '%s/%s': %s", dep.Namespace, dep.Name, why),
	}
}

// variables looks at the ConfigMaps and Secrets of substituteFrom: in which version they are, from their watches. They are
// read only when something has to be rendered. Inline variables are part of the declaration.
func (k *kustomizations) variables(_ context.Context, p *kustomizationPass) error {
	namespace, live := p.app.ID.Namespace, k.targets.home.engine.Live
	live.References(p.app.ID, references(p.app))
	versions := make([]string, len(p.app.VarsFrom))
	for i, ref := range p.app.VarsFrom {
		version, known, err := live.Version(p.app.ID, ref.Kind, namespace, ref.Name)
		where := ref.Kind + "/" + namespace + "/" + ref.Name
		switch {
		case err != nil:
			return &delivery.Fault{Reason: meta.BuildFailedReason, Where: where, Err: fmt.Errorf("watch substitution variables: %w", err)}
		case !known:
			return errNotYet
		case version == "" && !ref.Optional:
			return &delivery.Fault{
				Reason: meta.BuildFailedReason, Where: where, Retry: delivery.OnEvent,
				Hint: "create it, or mark it optional in spec.postBuild.substituteFrom",
				Err:  errors.New("read substitution variables: it does not exist"),
			}
		}
		versions[i] = version
	}
	key := strings.Join(versions, " ")
	p.req.Vars = deliver.Variables{
		Key: key,
		Load: func(ctx context.Context) (map[string]string, *redact.Redactor, error) {
			vars, secrets, err := deliver.ReadVariables(ctx, k.reader, p.app)
			if err == nil {
				p.secrets, p.loaded = secrets, true
				p.st.masks.learn(key, secrets)
			}
			return vars, secrets, err
		},
	}
	return nil
}

// deliver steps through the plan until nothing is left to do or something has to happen first.
func (k *kustomizations) deliver(ctx context.Context, p *kustomizationPass) (delivery.Outcome, error) {
	mem, engine := &p.st.mem, p.st.target.engine
	done, ok := k.targets.enter(p.st.target, p.app.ID)
	if !ok {
		return delivery.Outcome{}, errNotYet
	}
	defer done()
	k.arrive(&p.pass)
	if p.app.Requested != "" && p.app.Requested != p.st.handled {
		mem.Resend() // a person asked: believe nothing that is only remembered
		p.st.handled, p.st.asked = p.app.Requested, true
	}
	if len(mem.Inventory) > 0 { // of a controller before this one
		if err := k.claim(p, nil); err != nil {
			return delivery.Outcome{}, err
		}
	}
	if state, known, err := engine.Glance(p.req, mem); err != nil {
		return delivery.Outcome{}, err
	} else if known {
		p.digest = state.Digest(p.req)
		return k.conclude(ctx, p, state, deliver.Next(state))
	}
	if same, err := mem.Same(p.req); err != nil || !same {
		k.reg.begin(p.app.ID)
	}
	leave, err := k.places.Enter(ctx)
	if err != nil {
		return delivery.Outcome{}, err
	}
	defer leave()
	p.req.Now = k.now()
	ctx, cancel := context.WithTimeout(ctx, p.app.Timeout)
	defer cancel()
	for range maxSteps {
		k.reg.setConflict(p.app.ID, true) // ahead of the look: who lets go of an object from now on wakes this app
		state, err := engine.Observe(ctx, p.req, mem)
		action := deliver.Next(state)
		k.reg.setConflict(p.app.ID, err == nil && action.Fault != nil && action.Fault.Reason == "OwnershipConflict")
		if err != nil {
			return delivery.Outcome{}, err
		}
		p.digest = state.Digest(p.req)
		if action.Kind != deliver.Apply && action.Kind != deliver.Prune {
			return k.conclude(ctx, p, state, action)
		}
		if err := k.intend(p, state.Plan); err != nil {
			return delivery.Outcome{}, err
		}
		if deliver.Begins(action.Stage) {
			k.beginsDelivery(&p.pass, k.occasion(p))
			if err := k.records.Drop(p.app.ID); err != nil {
				return delivery.Outcome{}, err
			}
		}
		res, err := engine.Act(ctx, p.req, state, action.Stage, mem)
		if err != nil {
			return delivery.Outcome{}, err
		}
		p.events = append(p.events, changeEvents(res.Changes, p.req.Snapshot.Revision)...)
		k.carriedOut(&p.pass, res.Changes, mem.Secrets(), k.occasion(p))
		p.st.unhealthy = time.Time{} // something changed: health gets its time anew
		if res.Fault != nil && (action.Kind == deliver.Prune || ctx.Err() != nil) {
			return delivery.Outcome{}, res.Fault
		} // what the server refused is paused from now on: the next look says so
	}
	return delivery.Outcome{}, fmt.Errorf("the plan did not come to an end after %d stages", maxSteps)
}

// conclude ends a pass whose next action is none that changes the cluster.
func (k *kustomizations) conclude(ctx context.Context, p *kustomizationPass, state deliver.State, action deliver.Action) (delivery.Outcome, error) {
	switch {
	case action.Kind == deliver.None:
		return k.settle(ctx, p, state)
	case action.Kind == deliver.Stall:
		if action.Fault == state.Refused {
			p.after, p.paced = max(state.Retry.Sub(p.req.Now), time.Millisecond), true
		} else if action.Fault.Reason == "OwnershipConflict" && !state.Retry.IsZero() {
			p.after = max(state.Retry.Sub(p.req.Now), time.Second)
		}
		return delivery.Outcome{}, action.Fault
	case state.Waiting != "":
		return delivery.Outcome{}, errNotYet
	}
	p.after = recheck
	if since := p.st.working; !since.IsZero() { // the event will come: what takes long is looked at less often
		p.after = max(recheck, min(p.req.Now.Sub(since)/4, maxRecheck))
	}
	return k.waiting(p, action.Waiting), nil
}

// intend widens the inventory in the cluster before anything new is applied: whatever happens next, we know what may be ours.
func (k *kustomizations) intend(p *kustomizationPass, plan delivery.Plan) error {
	mem := &p.st.mem
	if mem.Inventory.Covers(plan.Inventory) {
		return nil
	}
	intent := deliver.Intent(mem, plan)
	if conflicts, _ := p.st.target.engine.Claims.Set(p.app.ID, intent); len(conflicts) > 0 {
		_, released := p.st.target.engine.Claims.Set(p.app.ID, mem.Inventory) // nothing of this plan is begun
		k.released(released)
		return &delivery.Fault{Reason: "OwnershipConflict", Where: conflicts[0].String(), Err: errors.New("another app has just claimed it")}
	}
	text, fits := dialect.Intent(&p.obj.Status, intent)
	annotations := map[string]string{dialect.IntentAnnotation: text}
	if !fits {
		annotations = nil
	}
	if err := k.claim(p, annotations); err != nil {
		return err
	}
	if !fits {
		out := k.waiting(p, "")
		out.Attempted, out.Inventory = p.req.Snapshot.Revision, intent
		p.obj.Status = dialect.KustomizationStatus(p.obj.Status, p.app, out, k.now())
		if err := p.pen.save(); err != nil {
			return delivery.FaultOf(fmt.Errorf("record what is about to be applied: %w", err), meta.ReconciliationFailedReason)
		}
	}
	mem.Inventory = intent
	return nil
}

// claim writes what must be in the cluster before anything else is.
func (k *kustomizations) claim(p *kustomizationPass, annotations map[string]string) error {
	err := p.pen.claim(annotations)
	switch {
	case apierrors.IsConflict(err):
		p.after = again
		return errNotYet
	case err != nil:
		return delivery.FaultOf(fmt.Errorf("record what is about to be applied: %w", err), meta.ReconciliationFailedReason)
	}
	return nil
}

// waiting is the outcome while something has to happen that is watched. Its message does not follow every change of
// health: a status is written for news, not for progress.
func (k *kustomizations) waiting(p *kustomizationPass, what string) delivery.Outcome {
	out := delivery.Outcome{
		Phase: delivery.Working, Reason: meta.ProgressingReason,
		Message: "delivering " + p.req.Snapshot.Revision.String(),
	}
	if what != "" {
		out.Message += ": waiting for " + what
	}
	return out
}

// settle closes a plan that is carried out: the inventory shrinks to what is wanted, and health decides the rest.
func (k *kustomizations) settle(ctx context.Context, p *kustomizationPass, state deliver.State) (delivery.Outcome, error) {
	mem := &p.st.mem
	if len(state.Plan.Inventory) > 0 {
		if err := k.claim(p, nil); err != nil {
			return delivery.Outcome{}, err
		}
	}
	mem.Done(state)
	p.st.masks.past, p.st.masks.made = mem.Made()
	k.appliedDelivery(&p.pass, state.Health)
	if err := k.records.Save(p.app.ID, mem); err != nil {
		k.log.Warn("remember a delivery", "error", err) // a restart will look closer
	}
	if !mem.Inventory.Equal(state.Plan.Inventory) {
		mem.Inventory = state.Plan.Inventory
	}
	_, released := p.st.target.engine.Claims.Set(p.app.ID, mem.Inventory)
	k.released(released)
	p.st.failures = 0
	if !state.Retry.IsZero() {
		p.after = max(state.Retry.Sub(p.req.Now), time.Millisecond)
	}
	if err := k.mayLook(ctx, p); err != nil {
		return delivery.Outcome{}, err
	}
	ready := k.ready(p, state.Health)
	if !p.app.WaitsForHealth() || state.Health.Status == delivery.Healthy {
		p.st.unhealthy = time.Time{}
		return ready, nil
	}
	if p.st.unhealthy.IsZero() {
		p.st.unhealthy = p.req.Now
	}
	left := p.app.Timeout - p.req.Now.Sub(p.st.unhealthy)
	switch {
	case state.Health.Status == delivery.Degraded:
		return delivery.Outcome{}, &delivery.Fault{
			Reason: meta.HealthCheckFailedReason, Retry: delivery.OnEvent, Err: errors.New(state.Health.Message),
		}
	case left <= 0:
		return delivery.Outcome{}, &delivery.Fault{
			Reason: meta.HealthCheckFailedReason, Retry: delivery.OnEvent,
			Err:  fmt.Errorf("not healthy after %s: %s", p.app.Timeout, state.Health.Message),
			Hint: "look at the events of the object and its Pods; a larger spec.timeout waits longer",
		}
	}
	p.after = min(cmp.Or(p.after, left), left)
	if was := k.reg.standOf(p.app.ID); was.ready && !was.busy && was.applied == p.req.Snapshot.Revision {
		ready.Health = delivery.Health{}
		return ready, nil // it was healthy at this commit: a moment's unrest is not news
	}
	out := k.waiting(p, "")
	out.Health = delivery.Health{}
	return out, nil
}

// ready is the outcome of an app that is as Git wants it.
func (k *kustomizations) ready(p *kustomizationPass, health delivery.Health) delivery.Outcome {
	rev := p.req.Snapshot.Revision
	return delivery.Outcome{
		Phase: delivery.Ready, Reason: meta.ReconciliationSucceededReason,
		Message: "Applied revision: " + rev.String(), Applied: rev, Health: health,
	}
}

// untold gives an error that may be told. A health message may repeat a value that came from a Secret: where this pass has not
// read the Secrets it does now, and what cannot be checked is left out.
func (k *kustomizations) untold(ctx context.Context, p *kustomizationPass, err error) error {
	f := delivery.FaultOf(err, meta.ReconciliationFailedReason)
	if f.Reason != meta.HealthCheckFailedReason || p.loaded || !slices.ContainsFunc(p.app.VarsFrom, delivery.VarsRef.Secret) {
		return err
	}
	if _, _, unread := p.req.Vars.Load(ctx); unread != nil {
		out := *f
		out.Err = fmt.Errorf("not healthy; what the object says is left out, as it might hold a value of a Secret: %w", unread)
		return &out
	}
	return err
}

// failed is the outcome of an error: its condition, its event (once), its retry.
func (k *kustomizations) failed(p *kustomizationPass, err error) delivery.Outcome {
	f := delivery.FaultOf(err, meta.ReconciliationFailedReason)
	out := delivery.Outcome{Phase: delivery.Failing, Reason: f.Reason, Message: p.secrets.Text(f.Error())}
	if rev := p.req.Snapshot.Revision; rev.Commit != "" {
		out.Message = rev.Short() + ": " + out.Message
	}
	switch f.Retry {
	case delivery.Backoff:
		if p.paced {
			break
		}
		p.st.failures++
		p.after = deliver.Backoff(p.st.failures, p.app.RetryInterval)
	case delivery.OnChange:
		if !p.paced {
			p.after = p.app.RetryInterval
		}
	case delivery.OnEvent:
		if stalling[f.Reason] {
			out.Phase = delivery.Stalled
		}
	}
	if f.Reason == meta.HealthCheckFailedReason {
		out.Health = delivery.Health{Status: delivery.Degraded, Message: p.secrets.Text(f.Err.Error())}
	}
	if before := apimeta.FindStatusCondition(p.obj.Status.Conditions, meta.ReadyCondition); f.Reason == meta.HealthCheckFailedReason &&
		before != nil && before.Reason == f.Reason && p.obj.Status.LastAttemptedRevision == p.req.Snapshot.Revision.String() {
		out.Message = before.Message // said once per commit: the numbers in it change all the time
	}
	p.events = append(p.events, p.st.reminder.failed(p.obj.Status.Conditions, out, p.req.Snapshot.Revision)...)
	return out
}

// reminder knows whether this process has told of a failure of an object. One that a process before has told of is told to Alerts once more: what waited
// to be sent is lost with a process.
type reminder bool

// failed gives the event of a failure; none: the status says the same, and it was told.
func (r *reminder) failed(list []metav1.Condition, out delivery.Outcome, revision delivery.Revision) []event {
	return r.fails(event{warning: true, reason: out.Reason, message: out.Message, revision: revision, again: told(list, out)})
}

// fails gives those of some events that are to be told: of failures that were told before, again, only the first ones of a process.
func (r *reminder) fails(events ...event) []event {
	known := bool(*r)
	for _, e := range events {
		*r = *r || reminder(e.warning)
	}
	return slices.DeleteFunc(events, func(e event) bool { return e.again && known })
}

// told tells whether the Ready condition says the same already.
func told(list []metav1.Condition, out delivery.Outcome) bool {
	c := apimeta.FindStatusCondition(list, meta.ReadyCondition)
	return c != nil && c.Status == metav1.ConditionFalse && c.Reason == out.Reason && c.Message == out.Message
}

// remove deletes what the app owns, unless it is suspended or keeps its objects. Where the service account that would
// have to do it is gone for good, the app is let go of, with a warning that names what is left.
func (k *kustomizations) remove(ctx context.Context, obj *kustomizev1.Kustomization) (r removal, err error) {
	app, _ := dialect.Kustomization(obj) // its error is about the guard, which does not matter any more
	app = k.policy.Govern(app)
	st := k.stateOf(app, func(st *appState) { k.load(st, obj) })
	if app.Suspend || app.KeepOnDelete || len(st.mem.Inventory) == 0 {
		return removal{done: true}, nil
	}
	p := &kustomizationPass{obj: obj, pass: pass{app: app, st: st}}
	defer func() { r.events = append(p.events, r.events...) }()
	going, waiting, err := k.uninstall(ctx, p)
	if f := delivery.FaultOf(err, ""); err != nil && f.Reason == "PruneFailed" && apierrors.IsForbidden(f.Err) && accountGone(ctx, app, st.target) {
		return removal{done: true, events: []event{{warning: true, reason: "Orphaned", message: fmt.Sprintf(
			"the service account %s is gone: up to %d objects of the app are left as they are", app.ServiceAccount, len(st.mem.Inventory))}}}, nil
	}
	if err != nil && app.KubeConfig != (delivery.KubeConfig{}) {
		return k.blocked(p, err), nil
	}
	if err != nil || waiting {
		return removal{after: time.Second}, err
	}
	if app.AwaitGone && len(going) > 0 {
		return k.awaitGone(app, st, going), nil
	}
	return removal{done: true}, nil
}

// uninstall deletes what the app owns in the cluster that it is delivered to. going are the objects that are not yet gone.
func (k *kustomizations) uninstall(ctx context.Context, p *kustomizationPass) (going []delivery.Ref, waiting bool, err error) {
	if err := k.target(ctx, &p.pass); err != nil {
		return nil, errors.Is(err, errNotYet), ignoreNotYet(err)
	}
	return k.apps.uninstall(ctx, &p.pass)
}

// ownedElsewhere tells whether an app of another shard has an object in its inventory.
func (k *kustomizations) ownedElsewhere(ctx context.Context, app delivery.ID, ref delivery.Ref) (bool, error) {
	if k.reg.knows(app) {
		return false, nil // the claims know
	}
	var other kustomizev1.Kustomization
	err := k.reader.Get(ctx, types.NamespacedName{Namespace: app.Namespace, Name: app.Name}, &other)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask who owns %s: %w", ref, err)
	}
	_, owned := dialect.KustomizationOwned(&other)[ref]
	return owned, nil
}
