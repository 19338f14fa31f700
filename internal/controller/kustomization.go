package controller

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
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
type kustomizations struct {
	reg    *registry
	engine *deliver.Engine
	cache  client.Reader
	reader client.Reader // uncached: ConfigMaps and Secrets are not kept in memory
	now    func() time.Time
	wake   func(delivery.ID)
}

func kustomizationID(name types.NamespacedName) delivery.ID {
	return delivery.ID{Kind: kustomizev1.KustomizationKind, Namespace: name.Namespace, Name: name.Name}
}

func (k *kustomizations) empty() *kustomizev1.Kustomization { return &kustomizev1.Kustomization{} }

func (k *kustomizations) copyStatus(from, to *kustomizev1.Kustomization) {
	to.Status = *from.Status.DeepCopy()
}

func (k *kustomizations) forget(name types.NamespacedName) {
	id := kustomizationID(name)
	dependents := k.reg.dependents(id)
	k.reg.dropApp(id)
	k.wakeAll(dependents)
	k.released(k.engine.Claims.Drop(id))
}

func (k *kustomizations) wakeAll(ids []delivery.ID) {
	for _, id := range ids {
		k.wake(id)
	}
}

// released wakes the apps that wait for an object of another's, after some app let go of objects.
func (k *kustomizations) released(refs []delivery.Ref) {
	if len(refs) > 0 {
		k.wakeAll(k.reg.conflicted())
	}
}

// pass is one step for one app: everything that its phases have read.
type pass struct {
	obj     *kustomizev1.Kustomization
	app     delivery.App
	st      *appState
	save    func() error
	req     deliver.Request  // set by source and variables
	secrets *redact.Redactor // set by variables: masks the values that were substituted from Secrets
	events  []event
	after   time.Duration
}

func (k *kustomizations) step(ctx context.Context, obj *kustomizev1.Kustomization, save func() error) next {
	app, err := dialect.Kustomization(obj)
	st := k.reg.app(app)
	st.load(obj)
	if app.Suspend {
		if !st.evaluated && k.reg.setReady(app.ID, st.ready, st.applied) { // as it was when it was suspended
			k.wakeAll(k.reg.dependents(app.ID))
		}
		return next{}
	}
	p := &pass{obj: obj, app: app, st: st, save: save, secrets: redact.New(), req: deliver.Request{App: app, Now: k.now()}}
	var out delivery.Outcome
	if err == nil {
		out, err = k.run(ctx, p)
	}
	st.mem.Release()
	if errors.Is(err, errNotYet) || ctx.Err() != nil { // too early, or the controller is ending
		return next{after: p.after, events: p.events}
	}
	if err != nil {
		out = k.failed(p, err)
	}
	app.Ignored = slices.Concat(app.Ignored, st.mem.Ignored)
	out.Handled, out.Attempted, out.Inventory = app.Requested, p.req.Snapshot.Revision, st.mem.Inventory
	if out.Phase != delivery.Working {
		st.handled = app.Requested
	} else {
		out.Handled = ""
	}
	obj.Status = dialect.KustomizationStatus(obj.Status, app, out, k.now())
	if k.reg.setReady(app.ID, out.Phase == delivery.Ready, out.Applied) {
		k.wakeAll(k.reg.dependents(app.ID))
	}
	if len(app.VarsFrom) > 0 && (p.after == 0 || app.Interval < p.after) {
		p.after = app.Interval // what they are made of is not watched
	}
	return next{after: p.after, events: p.events}
}

// load takes in what a controller before this one left in the status.
func (st *appState) load(obj *kustomizev1.Kustomization) {
	if st.loaded {
		return
	}
	st.loaded = true
	st.mem.Inventory = dialect.KustomizationInventory(&obj.Status)
	st.handled = obj.Status.LastHandledReconcileAt
	if apimeta.IsStatusConditionTrue(obj.Status.Conditions, meta.ReadyCondition) {
		st.ready, st.applied = true, delivery.ParseRevision(obj.Status.LastAppliedRevision)
	}
}

// run is the straight line of one app; an error ends it.
func (k *kustomizations) run(ctx context.Context, p *pass) (delivery.Outcome, error) {
	for _, phase := range []func(context.Context, *pass) error{
		k.supported,    // nothing is applied from a declaration that we would misread
		k.source,       // which commit
		k.dependencies, // are the apps that this one builds on ready
		k.variables,    // what is substituted
	} {
		if err := phase(ctx, p); err != nil {
			return delivery.Outcome{}, err
		}
	}
	return k.deliver(ctx, p)
}

func (k *kustomizations) supported(_ context.Context, p *pass) error {
	if len(p.app.Refused) == 0 {
		return nil
	}
	return &delivery.Fault{
		Reason: "FieldsNotSupported", Retry: delivery.OnEvent, Hint: "remove the fields",
		Err: fmt.Errorf("%s: not supported yet; nothing is applied", strings.Join(p.app.Refused, ", ")),
	}
}

// errNotYet ends a pass that came too early after a start: what it needs is about to be known and wakes it then.
// The status stays as it is.
var errNotYet = errors.New("not known yet")

func (k *kustomizations) source(ctx context.Context, p *pass) error {
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
	found, err := k.exists(ctx, &sourcev1.GitRepository{}, id)
	if err != nil || found {
		return cmp.Or(err, errNotYet)
	}
	return &delivery.Fault{
		Reason: meta.ArtifactFailedReason, Retry: delivery.OnEvent, Hint: "create it, or correct spec.sourceRef",
		Err: fmt.Errorf("source %s does not exist", id),
	}
}

func (k *kustomizations) dependencies(ctx context.Context, p *pass) error {
	dep, why, stands := k.reg.unready(p.app, p.req.Snapshot.Revision)
	if stands == standsReady {
		return nil
	}
	if stands == standsUnknown {
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

// exists looks an object up in the cache.
func (k *kustomizations) exists(ctx context.Context, obj client.Object, id delivery.ID) (bool, error) {
	err := k.cache.Get(ctx, types.NamespacedName{Namespace: id.Namespace, Name: id.Name}, obj)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// variables reads the ConfigMaps and Secrets of substituteFrom; inline variables win.
func (k *kustomizations) variables(ctx context.Context, p *pass) error {
	vars, secrets, err := deliver.Variables(ctx, k.reader, p.app)
	if err != nil {
		return err
	}
	b, err := json.Marshal(vars)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	p.secrets = secrets
	p.req.Vars, p.req.VarsKey = vars, hex.EncodeToString(sum[:])
	p.req.App.Build.Substitute = p.app.VarsAlways || len(vars) > 0
	return nil
}

// recheck is when to look again at what should come with an event, in case the event came too early to be of use.
const recheck = 2 * time.Second

// maxSteps bounds the stages carried out in one pass; a plan has five.
const maxSteps = 10

// deliver steps through the plan until nothing is left to do or something has to happen first.
func (k *kustomizations) deliver(ctx context.Context, p *pass) (delivery.Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, p.app.Timeout)
	defer cancel()
	mem := &p.st.mem
	if p.app.Requested != "" && p.app.Requested != p.st.handled {
		mem.Resend() // a person asked: believe nothing that is only remembered
		p.st.handled = p.app.Requested
	}
	for range maxSteps {
		state, err := k.engine.Observe(ctx, p.req, mem)
		if err != nil {
			return delivery.Outcome{}, err
		}
		action := deliver.Next(state)
		k.reg.setConflict(p.app.ID, action.Fault != nil && action.Fault.Reason == "OwnershipConflict")
		switch action.Kind {
		case deliver.Stall:
			return delivery.Outcome{}, action.Fault
		case deliver.Wait:
			if state.Waiting != "" {
				return delivery.Outcome{}, errNotYet
			}
			p.after = recheck
			return k.waiting(p, action.Waiting), nil
		case deliver.None:
			return k.settle(p, state)
		}
		if err := k.intend(p, state.Plan); err != nil {
			return delivery.Outcome{}, err
		}
		res, err := k.engine.Act(ctx, p.req, state, action.Stage, mem)
		if err != nil {
			return delivery.Outcome{}, err
		}
		p.events = append(p.events, changeEvents(res.Changes, p.req.Snapshot.Revision)...)
		p.st.unhealthy = time.Time{} // something changed: health gets its time anew
		if res.Err != nil {
			return delivery.Outcome{}, stageError(res)
		}
	}
	return delivery.Outcome{}, fmt.Errorf("the plan did not come to an end after %d stages", maxSteps)
}

// stageError gives the failures of a stage as one.
func stageError(res deliver.Result) error {
	var errs []error
	for _, r := range res.Changes {
		if r.Err != nil {
			errs = append(errs, r.Err)
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	first := *delivery.FaultOf(errs[0], meta.ReconciliationFailedReason)
	first.Err = fmt.Errorf("%w (and %d more of this stage failed, the next: %w)", first.Err, len(errs)-1, errs[1])
	return &first
}

// intend widens the inventory in the cluster before anything new is applied: whatever happens next, we know what may be ours.
func (k *kustomizations) intend(p *pass, plan delivery.Plan) error {
	mem := &p.st.mem
	if mem.Inventory.Covers(plan.Inventory) {
		return nil
	}
	intent := deliver.Intent(mem, plan)
	if conflicts, _ := k.engine.Claims.Set(p.app.ID, intent); len(conflicts) > 0 {
		k.engine.Claims.Set(p.app.ID, mem.Inventory) // nothing of this plan is begun
		return &delivery.Fault{Reason: "OwnershipConflict", Where: conflicts[0].String(), Err: errors.New("another app has just claimed it")}
	}
	out := k.waiting(p, "")
	out.Attempted, out.Inventory = p.req.Snapshot.Revision, intent
	p.obj.Status = dialect.KustomizationStatus(p.obj.Status, p.app, out, k.now())
	if err := p.save(); err != nil {
		return fmt.Errorf("record what is about to be applied: %w", err)
	}
	mem.Inventory = intent
	return nil
}

// waiting is the outcome while something has to happen that is watched. Its message does not follow every change of
// health: a status is written for news, not for progress.
func (k *kustomizations) waiting(p *pass, what string) delivery.Outcome {
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
func (k *kustomizations) settle(p *pass, state deliver.State) (delivery.Outcome, error) {
	mem := &p.st.mem
	mem.Done(state)
	if !mem.Inventory.Equal(state.Plan.Inventory) {
		mem.Inventory = state.Plan.Inventory
	}
	_, released := k.engine.Claims.Set(p.app.ID, mem.Inventory)
	k.released(released)
	p.st.failures = 0
	if !state.Retry.IsZero() {
		p.after = state.Retry.Sub(p.req.Now)
	}
	ready := k.ready(p, state.Health)
	if !p.app.Wait || state.Health.Status == delivery.Healthy {
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
	p.after = left
	if p.st.ready && p.st.applied == p.req.Snapshot.Revision {
		ready.Health = delivery.Health{}
		return ready, nil // it was healthy at this commit: a moment's unrest is not news
	}
	out := k.waiting(p, "")
	out.Health = delivery.Health{}
	return out, nil
}

// ready is the outcome of an app that is as Git wants it.
func (k *kustomizations) ready(p *pass, health delivery.Health) delivery.Outcome {
	rev := p.req.Snapshot.Revision
	return delivery.Outcome{
		Phase: delivery.Ready, Reason: meta.ReconciliationSucceededReason,
		Message: "Applied revision: " + rev.String(), Applied: rev, Health: health,
	}
}

// failed is the outcome of an error: its condition, its event (once), its retry.
func (k *kustomizations) failed(p *pass, err error) delivery.Outcome {
	f := delivery.FaultOf(err, meta.ReconciliationFailedReason)
	out := delivery.Outcome{Phase: delivery.Failing, Reason: f.Reason, Message: p.secrets.Text(f.Error())}
	if rev := p.req.Snapshot.Revision; rev.Commit != "" {
		out.Message = rev.Short() + ": " + out.Message
	}
	switch f.Retry {
	case delivery.Backoff:
		p.st.failures++
		p.after = backoff(p.st.failures, p.app.RetryInterval)
	case delivery.OnChange:
		p.after = p.app.RetryInterval
	case delivery.OnEvent:
		if f.Reason == "ConfirmationRequired" || f.Reason == "FieldsNotSupported" {
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
	if !told(p.obj.Status.Conditions, out) {
		p.events = append(p.events, event{warning: true, reason: out.Reason, message: out.Message, revision: p.req.Snapshot.Revision})
	}
	return out
}

// told tells whether the Ready condition says the same already.
func told(list []metav1.Condition, out delivery.Outcome) bool {
	c := apimeta.FindStatusCondition(list, meta.ReadyCondition)
	return c != nil && c.Status == metav1.ConditionFalse && c.Reason == out.Reason && c.Message == out.Message
}

// firstBackoff and maxBackoff bound the pause after a failure; the pause doubles from one to the next.
const firstBackoff, maxBackoff = time.Second, 5 * time.Minute

// backoff gives the pause after a number of failures in a row, no longer than the user's own interval.
func backoff(failures int, interval time.Duration) time.Duration {
	pause := firstBackoff << min(max(failures-1, 0), 10)
	if interval <= 0 {
		interval = maxBackoff
	}
	return min(pause, max(interval, firstBackoff), maxBackoff)
}

// remove deletes what the app owns, unless it is suspended or keeps its objects. Where the service account that would
// have to do it is gone for good, the app is let go of, with a warning that names what is left.
func (k *kustomizations) remove(ctx context.Context, obj *kustomizev1.Kustomization) (removal, error) {
	app, _ := dialect.Kustomization(obj) // its error is about the guard, which does not matter any more
	st := k.reg.app(app)
	st.load(obj)
	if app.Suspend || app.KeepOnDelete || len(st.mem.Inventory) == 0 {
		return removal{done: true}, nil
	}
	_, waiting, err := k.engine.Uninstall(ctx, app, &st.mem, k.now())
	if f := delivery.FaultOf(err, ""); err != nil && f.Reason == "PruneFailed" && apierrors.IsForbidden(f.Err) && k.accountGone(ctx, app) {
		return removal{done: true, events: []event{{warning: true, reason: "Orphaned", message: fmt.Sprintf(
			"the service account %s is gone: up to %d objects of the app are left as they are", app.ServiceAccount, len(st.mem.Inventory))}}}, nil
	}
	if err != nil || waiting {
		return removal{after: time.Second}, err
	}
	return removal{done: true}, nil
}

// accountGone tells whether an app's service account does not exist (any more).
func (k *kustomizations) accountGone(ctx context.Context, app delivery.App) bool {
	if app.ServiceAccount == "" {
		return false
	}
	key := types.NamespacedName{Namespace: app.ID.Namespace, Name: app.ServiceAccount}
	return apierrors.IsNotFound(k.reader.Get(ctx, key, &corev1.ServiceAccount{}))
}
