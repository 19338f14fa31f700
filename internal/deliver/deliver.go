// Package deliver is the straight line for one app in one cluster, shared by the controller and the CLI:
//
//	Observe   render (desired), live (what is there), plan and health, into one State
//	Next      PURE: State -> Action
//	Act       the only effect on the cluster: one stage of the plan
//
// Each call does one step and returns. Nothing here waits, retries, writes status or remembers by itself: what has to
// be known the next time is in [Memory], which the caller keeps.
package deliver

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/apply"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/health"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/live"
	"keelson.dev/keelson/internal/plan"
	"keelson.dev/keelson/internal/telemetry"
)

// Engine delivers apps to one cluster.
type Engine struct {
	Key     delivery.Key // of hashes; the same as that of Live
	Cluster *kube.Cluster
	Live    *live.Live
	Claims  *Claims
	// Label marks an object as the app's; it must match the selector of Live.
	Label func(app delivery.ID, obj delivery.Object)
	// OwnerOf reads what Label wrote; the zero ID: nobody's.
	OwnerOf func(labels map[string]string) delivery.ID
	// Read fills in what an object says about its delivery, in the dialect of the engine's apps: Asks, Wave and Hook; nil: as Flux.
	Read func(obj *delivery.Object)
	// Elsewhere tells whether an app that Claims knows nothing of, since another process delivers it, owns an object; nil: there are
	// no such apps.
	Elsewhere func(ctx context.Context, app delivery.ID, ref delivery.Ref) (bool, error)
	// Tracks tells of an object that Label has not marked whether it is the app's by another mark (Argo CD's tracking id); nil: there is
	// none such. Such an object is deleted where it left Git, if it is in the app's inventory.
	Tracks func(app delivery.ID, u *unstructured.Unstructured) bool
	// Witness has [Engine.Act] read, of what it is about to change, how it was: one request for each such object.
	Witness bool
}

// Request is everything one step needs.
type Request struct {
	App      delivery.App
	Snapshot delivery.Snapshot
	Vars     Variables
	Now      time.Time

	Operation *delivery.Operation // under way; nil: there is none, and an app that has operations is only compared
}

// State is what Observe saw.
type State struct {
	Plan    delivery.Plan
	Health  delivery.Health
	Going   string          // not empty: a desired object that is being deleted and has to be gone before it is made anew
	Waiting string          // not empty: what has to be known before anything can be decided; the app is woken then
	Retry   time.Time       // when a delayed repair, or an object that was refused, is due; zero: none
	Refused *delivery.Fault // not nil: why the server refused what the plan pauses

	// Of an app with operations (delivery.App.Sync).
	Desired  []delivery.Object     // what Git wants, hooks too; nil: as when it was looked at last, and not rendered
	Compared []delivery.Comparison // every object of the app, in the order of the inventory; hooks too
	Hooks    []delivery.Object     // with their labels of ownership; their names may still have to be made ([operation.Named])
	InSync   bool                  // nothing of Compared that counts differs
	Drifted  []delivery.Ref        // what differs, and may be repaired or deleted now
	// Owned is what the app owns as long as no operation makes it more: what it owned and still wants or has, and what is labelled
	// as its own. Plan.Inventory is what it owns once an operation has carried out the plan.
	Owned delivery.Inventory

	origin   origin
	surveyed *plan.Input // what was found out for the plan that does not depend on the operation; nil: nothing
	unasked  bool        // only the server could tell of some objects whether they differ, and it was not asked
}

// Glance is the part of Observe that neither renders nor asks: it tells from memory whether the app is made of what it was
// made of before and is as it was left, or what has to be known first; false: Observe has to look closer.
func (e *Engine) Glance(req Request, mem *Memory) (State, bool, error) {
	state := State{origin: mem.made}
	same, err := mem.made.same(req)
	if err != nil || !same || req.Operation != nil {
		return state, false, err
	}
	synced, err := e.watch(req.App.ID, mem.desired, mem.Inventory, mem.hooks)
	switch {
	case err != nil:
		return state, false, err
	case !synced:
		state.Waiting = firstList
		return state, true, nil
	case req.App.Sync != nil:
		return e.glanced(req, mem, state)
	case !e.inSync(req.App.ID, mem):
		return state, false, nil
	}
	mem.remember(req.Snapshot)
	state.Health = e.health(req.App, mem.desired, mem.left, mem)
	state.Plan.Inventory = mem.desired
	return state, true, nil
}

// Observe renders the app where needed, looks at what is there and makes the plan. In the steady state it renders nothing
// and sends nothing. The error is a *delivery.Fault where the cause is in the repository.
func (e *Engine) Observe(ctx context.Context, req Request, mem *Memory) (State, error) {
	state, ok, err := e.Glance(req, mem)
	if ok || err != nil {
		return state, err
	}
	return e.Inspect(ctx, req, state, mem)
}

// Inspect is the part of Observe that renders and asks, for a caller who has had the [Engine.Glance] that did not suffice.
func (e *Engine) Inspect(ctx context.Context, req Request, state State, mem *Memory) (State, error) {
	surveyed, err := e.survey(ctx, req, &state, mem)
	if err != nil || state.Waiting != "" {
		return state, err
	}
	state.surveyed = &surveyed
	return e.decide(ctx, req, state, mem)
}

// Reconsider is Observe for a request that differs from the one before in its operation and in the time only, by what was found out
// for that a moment ago.
func (e *Engine) Reconsider(ctx context.Context, req Request, state State, mem *Memory) (State, error) {
	if state.surveyed == nil {
		return e.Observe(ctx, req, mem)
	}
	again := State{origin: state.origin, surveyed: state.surveyed, Desired: state.Desired, Hooks: state.Hooks, Going: state.Going}
	return e.decide(ctx, req, again, mem)
}

// survey finds out what Git wants and what the cluster has to be asked for.
func (e *Engine) survey(ctx context.Context, req Request, state *State, mem *Memory) (plan.Input, error) {
	var none plan.Input
	req, err := e.capable(ctx, req)
	if err != nil {
		return none, err
	}
	desired, made, err := mem.render(ctx, req)
	if err != nil {
		return none, err
	}
	state.origin, state.Desired = made, desired
	unknown, err := e.prepare(req.App, desired)
	if err != nil {
		return none, err
	}
	desired, state.Hooks = withoutHooks(desired)
	var holds []delivery.Hold
	holds, mem.Ignored = marks(desired)
	toolkit, skipped, err := e.toolkit(ctx, req.App, desired)
	if err != nil {
		return none, err
	}
	holds, mem.Skipped = append(holds, toolkit...), skipped
	want := wanted(desired)
	for _, obj := range desired {
		if rec, ok := e.Live.Get(obj.Ref()); ok && rec.Deleting && (!rec.Done || !health.Fleeting(obj.Unstructured)) {
			state.Going = obj.Ref().String()
		}
	}
	synced, err := e.watch(req.App.ID, want, mem.Inventory, hookKinds(state.Hooks))
	if err != nil {
		return none, err
	}
	e.addUnknown(unknown, mem.Inventory)
	if !synced {
		state.Waiting = firstList
		return none, nil
	}
	there, err := e.present(ctx, desired)
	if err != nil {
		return none, err
	}
	return plan.Input{Desired: desired, Hooks: state.Hooks, Unknown: unknown, Holds: holds, Present: there}, nil
}

// wanted gives objects as an inventory.
func wanted(objects []delivery.Object) delivery.Inventory {
	want := make(delivery.Inventory, len(objects))
	for _, obj := range objects {
		want[obj.Ref()] = obj.GroupVersionKind().Version
	}
	return want
}

// decide makes the plan of what was found out, and tells how the app is doing and how it compares.
func (e *Engine) decide(ctx context.Context, req Request, state State, mem *Memory) (State, error) {
	in := *state.surveyed
	desired, want := in.Desired, wanted(in.Desired)
	var err error
	if in.Ignored, err = e.ignored(req, desired, mem); err != nil {
		return state, err
	}
	if in.Live, err = e.forgive(ctx, mem.ignoring, mem); err != nil {
		return state, err
	}
	elsewhere, err := e.elsewhere(ctx, req.App.ID, slices.Concat(desired, namedHooks(state.Hooks, req.Operation)))
	if err != nil {
		return state, err
	}
	in.Claims = elsewhere
	if req.App.Sync != nil {
		if err := e.strangers(ctx, req.App.ID, want, &in, mem); err != nil {
			return state, err
		}
	}
	state.Plan = e.plan(ctx, req, in, mem)
	if req.Operation != nil && !req.Operation.Request.DryRun {
		state.Plan.Inventory = state.Plan.Inventory.Union(keptHooks(mem.Inventory, state.Hooks)).Union(hookInventory(state.Hooks, *req.Operation))
	}
	if err := e.addNamespace(ctx, req, &state.Plan, want); err != nil {
		return state, err
	}
	if len(state.Plan.Blocks) == 0 && (req.App.Sync == nil || req.Operation != nil) {
		if err := e.authorize(ctx, req.App, state.Plan); err != nil {
			return state, err
		}
	}
	state.Refused, state.Retry = mem.paused(state.Plan)
	if due := earliest(mem.notBefore(), req.Now); state.Retry.IsZero() || !due.IsZero() && due.Before(state.Retry) {
		state.Retry = due
	}
	if again := req.Now.Add(lookElsewhere); len(elsewhere) > 0 && (state.Retry.IsZero() || again.Before(state.Retry)) {
		state.Retry = again // nobody tells when they let go
	}
	state.Health = e.health(req.App, state.Plan.Inventory.Common(want), leftBy(state.Plan), mem)
	if req.App.Sync != nil {
		if err := e.verify(ctx, req, &state, mem); err != nil {
			return state, err
		}
		e.compare(req, &state, desired, mem)
	}
	return state, nil
}

// ignored finds what does not count of the objects, and gives the fields of them that are left alone.
func (e *Engine) ignored(req Request, desired []delivery.Object, mem *Memory) (map[delivery.Ref][]delivery.Pointer, error) {
	mem.ignoring = nil
	if req.App.Sync == nil {
		ignored, err := plan.Ignored(req.App.Ignore, desired)
		mem.ignoring = make(map[delivery.Ref]ignoring, len(ignored))
		for ref, pointers := range ignored {
			mem.ignoring[ref] = ignoring{pointers: pointers, respect: true}
		}
		return ignored, err
	}
	var err error
	if mem.ignoring, err = ignoringOf(req, desired); err != nil {
		return nil, err
	}
	ignored := map[delivery.Ref][]delivery.Pointer{}
	for ref, ig := range mem.ignoring {
		if ig.respect && len(ig.pointers) > 0 {
			ignored[ref] = ig.pointers
		}
	}
	return ignored, nil
}

// lookElsewhere is how often it is looked whether an app of another process has let go of an object.
const lookElsewhere = 30 * time.Second

// elsewhere finds the desired objects that apps of other processes own: by the labels of the objects, and by the apps' own word.
func (e *Engine) elsewhere(ctx context.Context, app delivery.ID, desired []delivery.Object) (map[delivery.Ref]delivery.ID, error) {
	owned := map[delivery.Ref]delivery.ID{}
	if e.Elsewhere == nil {
		return owned, nil
	}
	for _, obj := range desired {
		rec, ok := e.Live.Get(obj.Ref())
		if !ok || rec.Owner == app || rec.Owner == (delivery.ID{}) {
			continue
		}
		yes, err := e.Elsewhere(ctx, rec.Owner, obj.Ref())
		if err != nil {
			return nil, err
		}
		if yes {
			owned[obj.Ref()] = rec.Owner
		}
	}
	return owned, nil
}

// firstList is what is waited for until a kind has been listed once.
const firstList = "the first list of what is in the cluster"

// plan completes the plan's input from memory and makes the plan.
func (e *Engine) plan(ctx context.Context, req Request, in plan.Input, mem *Memory) delivery.Plan {
	_, end := telemetry.Span(ctx, "plan", telemetry.Count("objects", len(in.Desired)))
	defer end(nil)
	in.Key, in.App, in.Revision, in.Now = e.Key, req.App, req.Snapshot.Revision, req.Now
	in.Applied, in.Inventory, in.NotBefore, in.Refused = mem.applied, mem.Inventory, mem.notBefore(), mem.refusals()
	if req.App.Sync != nil {
		operating(&in, req, mem)
		in.Hooks = namedHooks(in.Hooks, cmp.Or(req.Operation, mem.removal))
	}
	if in.Live == nil {
		in.Live = map[delivery.Ref]delivery.Live{}
	}
	if in.Claims == nil {
		in.Claims = map[delivery.Ref]delivery.ID{}
	}
	in.Scaled = map[delivery.Ref]string{}
	in.Undone = map[delivery.Ref]bool{}
	for _, obj := range in.Desired {
		ref := obj.Ref()
		if target, ok := live.ScaleTarget(obj.Unstructured); ok && ref.Kind == live.AutoscalerKind.Kind {
			in.Scaled[target] = "HorizontalPodAutoscaler/" + ref.Namespace + "/" + ref.Name
		}
		if name, ok := e.Live.Scaler(ref); ok {
			in.Scaled[ref] = name
		}
		if owner, ok := e.Claims.Other(req.App.ID, ref); ok {
			in.Claims[ref] = owner
		}
		if _, seen := in.Live[ref]; seen {
			continue
		}
		if rec, ok := e.Live.Get(ref); ok {
			in.Live[ref] = rec
		} else if e.Live.Undone(ref) {
			in.Undone[ref] = true
		}
	}
	for _, hook := range in.Hooks {
		if owner, ok := e.Claims.Other(req.App.ID, hook.Ref()); ok {
			in.Claims[hook.Ref()] = owner
		}
	}
	for ref := range mem.Inventory {
		if _, seen := in.Live[ref]; seen {
			continue
		}
		if rec, ok := e.Live.Get(ref); ok {
			in.Live[ref] = rec
		}
	}
	return plan.Compute(in)
}

// addUnknown adds to unknown the kinds of an inventory that the cluster does not know in any version.
func (e *Engine) addUnknown(unknown map[schema.GroupKind]bool, inv delivery.Inventory) {
	for ref := range inv {
		if _, err := e.Cluster.Mapper().RESTMapping(ref.GroupKind()); meta.IsNoMatchError(err) {
			unknown[ref.GroupKind()] = true
		}
	}
}

// inSync tells from memory alone that nothing has to be done.
func (e *Engine) inSync(app delivery.ID, mem *Memory) bool {
	return mem.Inventory.Equal(mem.desired) && e.unchanged(app, mem)
}

// unchanged tells from memory alone that all that Git wants is there as it was sent.
func (e *Engine) unchanged(app delivery.ID, mem *Memory) bool {
	for ref := range mem.desired {
		rec, ok := e.Live.Get(ref)
		if ok && rec.Owner == app && !rec.Deleting && (mem.left[ref] || rec.Marks.Has(delivery.MarkLeave)) {
			continue
		}
		last, sent := mem.applied[ref]
		if sent && last.Fleeting && e.finished(ref, rec, ok) {
			continue
		}
		_, scaled := e.Live.Scaler(ref)
		if !ok || !sent || rec.Deleting || rec.Owner != app || scaled != last.Autoscaled || rec.Shared != "" || plan.Drifted(last, rec, last.Autoscaled) {
			return false
		}
	}
	return true
}

// watch sees to it that every kind of the inventories is watched; false: not everything is known yet. Kinds that the cluster
// does not know are passed over: the plan says so where it matters; of the old inventory, the objects went with the kind.
func (e *Engine) watch(app delivery.ID, inventories ...delivery.Inventory) (bool, error) {
	kinds := map[schema.GroupVersionKind]bool{}
	for _, inv := range inventories {
		for ref, version := range inv {
			kinds[ref.GroupKind().WithVersion(version)] = true
		}
	}
	return e.Live.Ensure(app, kinds)
}

// authorize asks, for an app with a service account, whether that account may make every change of the plan:
// a plan that would be refused half-way is not begun.
func (e *Engine) authorize(ctx context.Context, app delivery.App, p delivery.Plan) error {
	user, err := e.Cluster.As(app.Account())
	if err != nil || app.ServiceAccount == "" {
		return err
	}
	verbs := map[delivery.Verb][]string{
		delivery.Create: {"create", "patch"}, delivery.Update: {"patch"}, delivery.Repair: {"create", "patch"}, delivery.Delete: {"delete"},
		delivery.Replace: {"delete", "create", "patch"},
	}
	for _, stage := range p.Stages {
		for _, c := range stage.Changes {
			if !c.Verb.Touches() {
				continue
			}
			err := user.May(ctx, c.Ref, c.Version, verbs[c.Verb]...)
			if meta.IsNoMatchError(err) {
				continue // its kind comes with an earlier stage; asked again then
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// reconciliationFailed is the reason of a failure that has none of its own (Flux's).
const reconciliationFailed = "ReconciliationFailed"

// Result is what a step did.
type Result struct {
	Stage   string
	Changes []apply.Result
	Fault   *delivery.Fault // the failures as one; nil: there is none
}

// Act carries out one stage of the plan as the app's service account and remembers what was sent.
// The caller must have written the widened inventory (see [Intent]) before.
func (e *Engine) Act(ctx context.Context, req Request, state State, stage delivery.Stage, mem *Memory) (Result, error) {
	user, err := e.Cluster.As(req.App.Account())
	if err != nil {
		return Result{}, err
	}
	if stage, err = e.leaveFields(ctx, stage, mem.ignoring); err != nil {
		return Result{}, err
	}
	if mem.applied == nil {
		mem.applied = map[delivery.Ref]delivery.Applied{}
	}
	if Begins(stage) && req.App.Sync == nil {
		mem.made = origin{} // from here to the end of the plan the cluster is made of neither the one nor the other
	}
	before := map[delivery.Ref]string{} // resource versions
	for i, c := range stage.Changes {
		rec, _ := e.Live.Get(c.Ref)
		before[c.Ref] = rec.ResourceVersion
		if c.Moment != "" && c.Object != nil { // it has its name only now
			obj := *c.Object
			obj.Unstructured = obj.DeepCopy()
			e.Label(req.App.ID, obj)
			stage.Changes[i].Object = &obj
		}
	}
	ctx, end := telemetry.Span(ctx, "apply", telemetry.Stage(stage.Name), telemetry.Count("changes", stage.Pending()))
	var failed error
	defer end(&failed)
	var faults []*delivery.Fault
	seen := e.witness(ctx, stage)
	res := Result{Stage: stage.Name, Changes: apply.Stage(ctx, user, stage)}
	for i, r := range res.Changes {
		ref := r.Change.Ref
		res.Changes[i].Before = seen[ref]
		switch {
		case r.Err == nil && r.Change.Verb.Deletes() && r.Change.DryRun:
		case r.Err == nil && r.Change.Verb.Deletes():
			delete(mem.applied, ref)
			delete(mem.strangers, ref)
			e.Live.Deleted(ref, r.Change.UID)
			mem.countRepair(r.Change, req.Now)
		case r.Err == nil && (r.Change.DryRun || r.Change.First):
		case r.Err == nil && r.Change.Moment != "":
			_, r.Err = e.Live.Observe(r.Object)
		case r.Err == nil:
			res.Changes[i].NoOp = before[ref] == r.Object.GetResourceVersion()
			r.Err = e.sent(ctx, r, mem)
			if r.Err == nil && !res.Changes[i].NoOp {
				mem.countRepair(r.Change, req.Now)
			}
		}
		telemetry.ApplyRequests.WithLabelValues(string(r.Change.Verb), answer(r.Err, res.Changes[i].NoOp)).Inc()
		if r.Err == nil {
			delete(mem.refused, ref)
			continue
		}
		fault := untold(delivery.FaultOf(r.Err, reconciliationFailed), mem.pass.secrets)
		res.Changes[i].Err = fault
		faults = append(faults, fault)
		if !definite(r.Err) {
			delete(mem.applied, ref) // it may have been taken all the same
		}
		if r.Change.Verb != delivery.Delete && r.Change.Moment == "" && !r.Change.DryRun && ctx.Err() == nil { // else the answer is not the server's
			mem.refuse(r, fault, req.App, req.Now)
		}
	}
	if res.Fault = together(faults); res.Fault != nil {
		failed = res.Fault
	}
	return res, nil
}

// Begins tells whether a stage makes the cluster other than what the last completed delivery left; repairs do not.
func Begins(stage delivery.Stage) bool {
	return slices.ContainsFunc(stage.Changes, func(c delivery.Change) bool { return c.Verb.Touches() && c.Verb != delivery.Repair })
}

// definite tells whether an error is the server's word that it has not taken a change.
func definite(err error) bool {
	status := apierrors.APIStatus(nil)
	if !errors.As(err, &status) {
		return false
	}
	code := status.Status().Code
	return code >= 400 && code < 500 && code != http.StatusRequestTimeout && code != http.StatusTooManyRequests
}

// answer is what the server said to a change, as a label.
func answer(err error, noOp bool) string {
	if err == nil && noOp {
		return telemetry.NoOp
	}
	return telemetry.Result(err)
}

// sent remembers what one apply has left behind.
func (e *Engine) sent(ctx context.Context, r apply.Result, mem *Memory) error {
	rec, err := e.Live.Observe(r.Object)
	if err != nil {
		return err
	}
	if ig, ok := mem.ignoring[r.Change.Ref]; ok {
		if r.Change.Ignored, err = ig.fields(ctx, r.Object); err != nil {
			return err
		}
	}
	left := e.left(r, rec)
	if len(r.Change.Ignored) > 0 {
		if left.Kept, err = e.Live.Kept(r.Object, r.Change.Ignored); err != nil {
			return err
		}
	}
	mem.unsaved = mem.unsaved || mem.applied[r.Change.Ref] != left
	mem.applied[r.Change.Ref] = left
	return nil
}

// left is what an apply leaves behind, but for the fields that are left to others.
func (e *Engine) left(r apply.Result, rec delivery.Live) delivery.Applied {
	return delivery.Applied{
		Desired: r.Change.Desired, Owned: rec.Owned, Replicas: sentReplicas(r), Autoscaled: r.Change.Autoscaled,
		Fleeting: health.Fleeting(r.Change.Object.Unstructured),
	}
}

// sentReplicas is the spec.replicas of what was sent and is to be kept; -1: none was, or it is left to others.
func sentReplicas(r apply.Result) int64 {
	n, ok, _ := unstructured.NestedInt64(r.Change.Object.Object, "spec", "replicas")
	if !ok || r.Change.Autoscaled || leavesReplicas(r.Change.Ignored) {
		return -1
	}
	return n
}

// Intent is the inventory that must be in the cluster before the plan is begun: what is owned and what is about to be.
func Intent(mem *Memory, p delivery.Plan) delivery.Inventory { return mem.Inventory.Union(p.Inventory) }

// Uninstall deletes what an app owns, and tells what it has deleted now, and what is on its way out and still there. waiting: what is there is
// not known yet. The app is told through Live when it is, and when something is gone.
func (e *Engine) Uninstall(ctx context.Context, app delivery.App, mem *Memory, now time.Time) (deleted, going []delivery.Ref, waiting bool, err error) {
	synced, err := e.watch(app.ID, mem.Inventory)
	if err != nil || !synced {
		return nil, nil, true, err
	}
	app.Prune, app.Guard = true, delivery.Guard{AllowEmpty: true, MaxPrunePercent: 100}
	if app.Sync != nil && app.Propagation != "" {
		sync := *app.Sync
		sync.Options.Propagation = app.Propagation
		app.Sync = &sync
	}
	p := e.plan(ctx, Request{App: app, Now: now}, plan.Input{}, mem)
	user, err := e.Cluster.As(app.Account())
	if err != nil {
		return nil, nil, false, err
	}
	for _, stage := range p.Stages {
		for _, r := range apply.Stage(ctx, user, stage) {
			telemetry.ApplyRequests.WithLabelValues(string(r.Change.Verb), answer(r.Err, false)).Inc()
			if r.Err != nil {
				err = cmp.Or(err, r.Err)
				continue
			}
			e.Live.Deleted(r.Change.Ref, r.Change.UID)
			if r.Change.Verb.Deletes() {
				deleted = append(deleted, r.Change.Ref)
			}
		}
		if err != nil { // the rights go last, and only once nothing is left that needs them
			break
		}
	}
	for _, ref := range mem.Inventory.Refs() {
		if rec, there := e.Live.Get(ref); there && rec.Owner == app.ID && rec.Deleting {
			going = append(going, ref)
		}
	}
	return deleted, going, false, err
}
