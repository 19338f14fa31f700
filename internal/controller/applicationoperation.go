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

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/operation"
)

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

// retried reads an Application as the next attempt at its last operation has it.
func (a *applications) retried(p *applicationPass, last delivery.Operation) dialect.ArgoApp {
	if last.Request.Retry.Refresh {
		return a.read(p.obj, p.held, dialect.ArgoNewest(p.obj))
	}
	return a.begun(p, last)
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

// operate carries an operation out as far as it goes now: the one under way, or the one that somebody asks for.
func (a *applications) operate(ctx context.Context, p *applicationPass) error {
	req := p.asked
	if p.op != nil {
		req = &p.op.Request
	}
	if req == nil {
		return nil
	}
	if req.Invalid != "" {
		return a.unstartable(p, &delivery.Fault{Reason: argocdv1.ConditionSyncError, Retry: delivery.OnChange, Err: errors.New(req.Invalid)})
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
		return a.undertake(ctx, p, d, a.standing(p), deliver.State{})
	}
	if err := a.enter(ctx, p); err != nil {
		return err
	}
	return a.carryOut(ctx, p, nil)
}

// undertake starts an operation and carries it out as far as it goes now. seen is what the app was just compared by, if it was.
func (a *applications) undertake(ctx context.Context, p *applicationPass, d operation.Decision, s operation.Standing, seen deliver.State) error {
	if err := a.enter(ctx, p); err != nil {
		return err
	}
	p.req.Now = a.now()
	s.Now = p.req.Now
	state, err := a.start(ctx, p, d, s, seen)
	if err != nil {
		return a.unstartable(p, err)
	}
	return a.carryOut(ctx, p, &state)
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
	op, end := p.op, operation.End
	if p.declared.Invalid() != "" && (op == nil || !op.Request.Automated) { // it must not run once that is mended
		end = operation.GiveUp
	}
	if op == nil {
		p.req.App.Sync = cmp.Or(p.req.App.Sync, &delivery.SyncPolicy{})
		begun := operation.Start(operation.Decision{Begin: p.asked}, a.standing(p))
		op = &begun
		p.obj.Status.OperationState = dialect.ArgoBegun(p.obj, begun)
		p.st.pin = dialect.ArgoPin(p.obj, begun)
		p.obj.Operation, p.asked = nil, nil
	}
	message := p.secrets.Text(f.Error())
	if ending {
		*op = operation.GiveUp(*op, delivery.OperationFailed, operation.Terminated+"; its hooks are left: "+message, p.req.Now)
	} else {
		*op = end(*op, delivery.OperationError, message, p.req.Now)
	}
	a.over(p, *op)
	p.urgent = true
	return nil
}

// giveUp ends for good what waits for another attempt.
func (a *applications) giveUp(p *applicationPass, phase delivery.OperationPhase, message string) {
	a.over(p, operation.GiveUp(*p.st.last, phase, message, p.req.Now))
	p.urgent = true
}

// maxFailures is how often in a row an operation is hindered by what may pass before it ends for it.
const maxFailures = 5

// start writes, in one request, that an operation has begun, that nobody asks for it any more and which objects it may make, before
// any of it is done. It gives how things stood when that was decided.
func (a *applications) start(
	ctx context.Context, p *applicationPass, d operation.Decision, s operation.Standing, seen deliver.State,
) (state deliver.State, err error) {
	op := operation.Start(d, s)
	p.req.Operation = &op
	state, err = p.st.target.engine.Reconsider(ctx, p.req, seen, &p.st.mem)
	if err != nil {
		return state, err
	}
	p.summarize(state.Desired)
	if state.Waiting != "" {
		p.sooner(recheck)
		return state, errNotYet
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
	var intent delivery.Inventory
	if len(state.Plan.Blocks) == 0 && !op.Request.DryRun { // else nothing of it is begun
		if intent, err = a.widen(p, state.Plan); err != nil {
			return state, err
		}
	}
	// A repair is told with its end: it makes nothing that is not known to be the app's, and one that nobody knows of is begun anew.
	if op.Request.Healing && intent == nil && len(state.Plan.Blocks) == 0 {
		p.unsay = func() { p.obj.Status.OperationState = was }
	} else if err := a.write(p, intent); err != nil {
		return state, err
	}
	p.op, p.st.op, p.asked, p.st.told = &op, &op, nil, p.req.Now
	if !op.Request.DryRun && len(state.Plan.Blocks) == 0 {
		a.beginsDelivery(&p.pass, a.occasion(p, op))
	}
	p.st.pin = dialect.ArgoPin(p.obj, op)
	a.reg.begin(p.app.ID)
	p.events = append(p.events, startedEvent(op))
	return state, nil
}

// widen puts what a plan may make into the annotation that says what may be the app's, for the next write. It gives what may be the
// app's from then on; nil: nothing more than is written already.
func (a *applications) widen(p *applicationPass, plan delivery.Plan) (delivery.Inventory, error) {
	mem := &p.st.mem
	// What is in memory may belong to the intent of an operation before this one, which counts no more.
	if mem.Inventory.Covers(plan.Inventory) && dialect.ArgoInventory(p.obj).Covers(plan.Inventory) {
		return nil, nil
	}
	claims := p.st.target.engine.Claims
	intent := deliver.Intent(mem, plan)
	if !dialect.ArgoFits(intent) {
		return nil, &delivery.Fault{
			Reason: argocdv1.ConditionSyncError, Retry: delivery.OnChange, Hint: "split the Application",
			Err: fmt.Errorf("%d objects are more than the status of one Application can list", len(intent)),
		}
	}
	if conflicts, _ := claims.Set(p.app.ID, claimed(p.declared, intent)); len(conflicts) > 0 {
		a.disclaim(p)
		return nil, &delivery.Fault{
			Reason: "OwnershipConflict", Where: conflicts[0].String(), Retry: delivery.OnEvent, Err: errors.New("another app has just claimed it"),
		}
	}
	text, fits := dialect.ArgoIntent(p.obj, intent)
	if !fits {
		a.disclaim(p)
		return nil, &delivery.Fault{
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
	return intent, nil
}

// disclaim takes back the claim on what a plan would make of which nothing is begun.
func (a *applications) disclaim(p *applicationPass) {
	_, released := p.st.target.engine.Claims.Set(p.app.ID, claimed(p.declared, p.st.mem.Inventory))
	a.released(released)
}

// write writes the Application as it is now. intent is what may be the app's once that is written; nil: nothing more than before.
func (a *applications) write(p *applicationPass, intent delivery.Inventory) error {
	err := p.pen.save()
	switch {
	case intent == nil:
	case err == nil:
		p.st.mem.Inventory = intent
	default:
		a.disclaim(p)
	}
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

// carryOut does what the operation under way can do now. seen is how things stand if that has just been looked at.
func (a *applications) carryOut(ctx context.Context, p *applicationPass, seen *deliver.State) error {
	engine, mem := p.st.target.engine, &p.st.mem
	for range maxOperationSteps {
		recorded := seen != nil && len(seen.Plan.Blocks) == 0 // when the operation began
		state, err := a.look(ctx, p, seen)
		if seen = nil; err != nil {
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
		if !recorded {
			if err := a.record(p, state.Plan); err != nil {
				return err
			}
		}
		if err := a.act(ctx, p, state, step.Stage); err != nil {
			return err
		}
	}
	p.busy = true
	p.sooner(time.Millisecond)
	return nil
}

// look observes for the operation under way, unless that has just been done.
func (a *applications) look(ctx context.Context, p *applicationPass, seen *deliver.State) (deliver.State, error) {
	p.req.Now, p.req.Operation = a.now(), p.op
	a.reg.setConflict(p.app.ID, true) // ahead of the look: who lets go of an object from now on wakes this app
	var state deliver.State
	var err error
	if seen != nil && !conflicted(seen.Plan) {
		state = *seen
	} else {
		state, err = p.st.target.engine.Observe(ctx, p.req, &p.st.mem)
	}
	a.reg.setConflict(p.app.ID, err == nil && conflicted(state.Plan))
	return state, err
}

// recheck is when to look again at an operation that waits for something that is watched, in case its event came too early.
func (a *applications) recheck(p *applicationPass) time.Duration {
	return max(recheck, min(p.req.Now.Sub(p.op.Started)/4, maxRecheck))
}

// act carries out one stage of the operation.
func (a *applications) act(ctx context.Context, p *applicationPass, state deliver.State, stage delivery.Stage) error {
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
	a.carriedOut(&p.pass, res.Changes, p.st.mem.Secrets(), a.occasion(p, *p.op))
	*p.op = operation.Record(*p.op, res.Dones(), a.now())
	return nil
}

// record sees to it that it is written what a plan may make, before any of that is made.
func (a *applications) record(p *applicationPass, plan delivery.Plan) error {
	if p.op.Request.DryRun {
		return nil
	}
	intent, err := a.widen(p, plan)
	if err != nil || intent == nil {
		return err
	}
	return a.write(p, intent)
}

// conflicted tells whether a plan must not be carried out since an object is another app's.
func conflicted(plan delivery.Plan) bool {
	return slices.ContainsFunc(plan.Blocks, func(b delivery.Block) bool { return b.Fault.Reason == "OwnershipConflict" })
}

// over has the end of an operation be told.
func (a *applications) over(p *applicationPass, op delivery.Operation) {
	p.news.Operation, p.st.last, p.st.op, p.op, p.st.unsaid = &op, &op, nil, nil, true
	if p.busy = false; op.Next.IsZero() { // else it is tried again
		a.concludesOperation(p, op)
		p.events = append(p.events, completedEvent(op))
	}
}

// automate begins an operation that nobody has asked for, where the policy wants one and nothing stands against it.
func (a *applications) automate(ctx context.Context, p *applicationPass, state deliver.State) error {
	if p.req.App.Sync == nil {
		return nil
	}
	standing := state.Standing(a.standing(p))
	d := operation.Decide(standing)
	if p.sooner(d.After); d.GivesUp {
		a.giveUp(p, p.st.last.Phase, p.st.last.Message)
	}
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
		standing.Revisions, state = p.revs, deliver.State{}
	} else {
		if len(state.Plan.Blocks) > 0 {
			return nil
		}
		if ready, err := a.dependencies(ctx, p); err != nil || !ready {
			return err
		}
		p.target = p.declared
	}
	if err := a.undertake(ctx, p, d, standing, state); err != nil || p.op != nil {
		return err
	}
	return a.compare(ctx, p)
}

// again has the request be about what the last operation was about.
func (a *applications) again(p *applicationPass) error {
	if err := a.sources(p, p.target); err != nil || len(p.st.last.Revisions) == 0 || p.st.last.Request.Retry.Refresh {
		return err
	}
	return a.keeps(p, p.st.last)
}

// dependencies tells whether the apps that this one depends on are ready.
func (a *applications) dependencies(ctx context.Context, p *applicationPass) (ready bool, err error) {
	dep, why, stands := a.reg.unready(p.app, stand{applied: p.req.Snapshot.Revision, mounted: p.mounted})
	since := p.st.awaits
	p.st.awaits = time.Time{}
	switch stands {
	case standsReady:
		return true, nil
	case standsUnknown:
		if why, err = a.unheard(ctx, p, dep, since); err != nil {
			return false, err
		}
	case standsBusy:
		why = "it is being delivered"
	}
	p.warn(argocdv1.ConditionDependencyWarning, fmt.Sprintf("waiting for Application %s/%s: %s", dep.Namespace, dep.Name, why))
	return false, nil
}

// unheard tells why nothing is known of an app that this one has waited for since then (zero: since now); errNotYet: that may change
// in a moment.
func (a *applications) unheard(ctx context.Context, p *applicationPass, dep delivery.ID, since time.Time) (why string, err error) {
	obj := a.empty()
	switch found, err := a.exists(ctx, obj, dep); {
	case err != nil:
		return "", err
	case !found:
		return "it does not exist", nil
	case obj.Annotations[dialect.SkipReconcileAnnotation] == "true":
		return "its annotation " + dialect.SkipReconcileAnnotation + " has it left as it is", nil
	}
	p.st.awaits = cmp.Or(since, p.req.Now)
	if left := p.st.awaits.Add(dependencyPatience).Sub(p.req.Now); left > 0 {
		p.sooner(left)
		return "", errNotYet
	}
	return "nothing is known of it yet at this revision", nil
}

// dependencyPatience is how long an app waits for news of another before it says so: most come in a moment, as with a new commit.
const dependencyPatience = 5 * time.Second
