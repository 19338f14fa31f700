package deliver

import (
	"cmp"
	"context"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/health"
	"keelson.dev/keelson/internal/operation"
	"keelson.dev/keelson/internal/plan"
	"keelson.dev/keelson/internal/render"
)

// Apps with operations (delivery.App.Sync) are compared all the time and changed only by operations:
//
//	Observe with Request.Operation nil   State.Compared and what follows from it; the plan is only for showing
//	operation.Decide                     PURE: does one begin
//	Observe with Request.Operation set   the plan as that operation sees it
//	Operate                              PURE: what it does next
//	Act                                  the step's stage; operation.Record takes in the results

// Operate tells what the operation of a request does next, after state was observed. Its stage is carried out by [Engine.Act];
// [operation.Record] takes in the results ([Dones]).
func (e *Engine) Operate(req Request, state State, mem *Memory) operation.Step {
	if state.Waiting != "" {
		op := *req.Operation
		op.Message = "waiting for " + state.Waiting
		return operation.Step{Waiting: state.Waiting, Operation: op}
	}
	deadlines := deadlinesOf(state.Hooks, *req.Operation)
	return operation.Next(operation.View{
		Operation: *req.Operation, Policy: *req.App.Sync, Plan: state.Plan, Hooks: state.Hooks, Now: req.Now,
		Live:     e.Live.Get,
		Health:   func(ref delivery.Ref) delivery.Health { return e.hookHealth(ref, state.Hooks, mem) },
		Deadline: e.deadline(deadlines),
	})
}

// deadline tells by when hooks that are there have to have ended.
func (e *Engine) deadline(of map[delivery.Ref]time.Duration) func(delivery.Ref) (time.Time, bool) {
	return func(ref delivery.Ref) (time.Time, bool) {
		rec, there := e.Live.Get(ref)
		d, ok := of[ref]
		return rec.Created.Add(d), there && ok && !rec.Created.IsZero()
	}
}

// Standing completes what [operation.Decide] looks at by what was observed. Policy, Asked, Last, Revisions and Changed are the caller's.
func (s State) Standing(standing operation.Standing) operation.Standing {
	standing.InSync, standing.Compared, standing.Drifted = s.InSync, s.Compared, s.Drifted
	return standing
}

// Dones gives the results of a stage as [operation.Record] takes them.
func (r Result) Dones() []operation.Done {
	out := make([]operation.Done, 0, len(r.Changes))
	for _, c := range r.Changes {
		d := operation.Done{Change: c.Change}
		if c.Err != nil {
			d.Fault = delivery.FaultOf(c.Err, reconciliationFailed)
		}
		out = append(out, d)
	}
	return out
}

// withoutHooks parts the hooks from the other objects.
func withoutHooks(objects []delivery.Object) (rest, hooks []delivery.Object) {
	if !slices.ContainsFunc(objects, func(o delivery.Object) bool { return o.Hook != nil }) {
		return objects, nil
	}
	for _, obj := range objects {
		if obj.Hook == nil {
			rest = append(rest, obj)
		} else if !slices.Contains(obj.Hook.Moments, delivery.SkipHook) {
			hooks = append(hooks, obj)
		}
	}
	return rest, hooks
}

// hookKinds gives the kinds of hooks as an inventory, to be watched.
func hookKinds(hooks []delivery.Object) delivery.Inventory {
	out := delivery.Inventory{}
	for _, h := range hooks {
		out[h.Ref()] = h.GroupVersionKind().Version
	}
	return out
}

// operating makes the plan's input that of an app with operations. Nothing in it paces an operation: what begins when was decided, and
// in one operation an object is sent once.
func operating(in *plan.Input, req Request, mem *Memory) {
	in.App.Prune = true // what needs pruning is told of; the operation decides whether it is deleted
	in.Waves = mem.waves
	in.Inventory = in.Inventory.Minus(keptHooks(in.Inventory, in.Hooks))
	sync, op := in.App.Sync, req.Operation
	guarded := sync.Automated && sync.Prune
	if op != nil {
		guarded = op.Request.Prune && op.Request.Automated
	}
	if !guarded {
		in.App.Guard = delivery.Guard{AllowEmpty: true, MaxPrunePercent: 100} // nothing is pruned, or a person has said so
	}
	if op != nil {
		in.NotBefore = nil
		for ref, r := range in.Refused {
			r.Until = time.Time{}
			in.Refused[ref] = r
		}
		sync := *sync
		sync.Options.Replace = sync.Options.Replace || op.Request.Options.Replace
		sync.Options.SkipDryRunOnMissingResource = sync.Options.SkipDryRunOnMissingResource || op.Request.Options.SkipDryRunOnMissingResource
		sync.Options.Propagation = cmp.Or(op.Request.Options.Propagation, sync.Options.Propagation)
		in.App.Sync = &sync
		in.App.Force = op.Request.Force || op.Request.Options.Force || in.App.Sync.Options.Force
	}
}

// keptHooks gives what of an inventory was made of hooks that are in Git: what they have left is deleted when they say so.
func keptHooks(inv delivery.Inventory, hooks []delivery.Object) delivery.Inventory {
	kept := delivery.Inventory{}
	for ref, version := range inv {
		for _, h := range hooks {
			named := h.Ref()
			if ref == named || ref.GroupKind() == named.GroupKind() && ref.Namespace == named.Namespace && operation.Names(h, ref.Name) {
				kept[ref] = version
			}
		}
	}
	return kept
}

// hookInventory gives the hooks of an operation, with the names that they have in it.
func hookInventory(hooks []delivery.Object, op delivery.Operation) delivery.Inventory {
	out := delivery.Inventory{}
	for _, h := range hooks {
		for _, moment := range h.Hook.Moments {
			named := operation.Named(h, moment, op)
			out[named.Ref()] = named.GroupVersionKind().Version
		}
	}
	return out
}

// compare fills in what an app with operations is told by: how every object compares to Git. It makes what was rendered what is
// remembered, as nothing more has to be done for that.
func (e *Engine) compare(req Request, state *State, desired []delivery.Object, mem *Memory) {
	waves := make(map[delivery.Ref]int, len(desired))
	want := make(delivery.Inventory, len(desired))
	for _, obj := range desired {
		waves[obj.Ref()], want[obj.Ref()] = obj.Wave, obj.GroupVersionKind().Version
	}
	for _, h := range state.Hooks {
		waves[h.Ref()] = h.Wave
	}
	for ref, wave := range mem.waves { // what left Git keeps its own
		if _, owned := mem.Inventory[ref]; owned {
			if _, there := waves[ref]; !there {
				waves[ref] = wave
			}
		}
	}
	mem.waves, mem.hooks = waves, hookKinds(state.Hooks)
	blocked := map[delivery.Ref]string{}
	for _, b := range state.Plan.Blocks {
		blocked[b.Ref] = b.Fault.Error()
	}
	for _, stage := range state.Plan.Stages {
		for _, c := range stage.Changes {
			_, wanted := want[c.Ref]
			if comparison, ok := e.comparison(c, wanted, mem); ok {
				state.add(comparison, c.Verb.Touches() || c.Verb == delivery.Delegated && e.deleting(c.Ref))
			}
		}
	}
	for _, obj := range desired {
		if why, ok := blocked[obj.Ref()]; ok {
			state.add(delivery.Comparison{
				Ref: obj.Ref(), Version: obj.GroupVersionKind().Version, Differs: true, Counts: true, Wave: obj.Wave,
				Health: e.comparedHealth(obj.Ref(), mem), Reason: why,
			}, false)
		}
	}
	for ref, version := range keptHooks(mem.Inventory.Union(hookKinds(state.Hooks)), state.Hooks) {
		if rec, there := e.Live.Get(ref); there && rec.Owner == req.App.ID {
			state.Compared = append(state.Compared, delivery.Comparison{Ref: ref, Version: version, Hook: true, Wave: waves[ref], Health: rec.Health})
		}
	}
	slices.SortFunc(state.Compared, func(a, b delivery.Comparison) int { return a.Ref.Compare(b.Ref) })
	state.Health = healthOfAll(req.App, state.Compared)
	state.InSync = !slices.ContainsFunc(state.Compared, func(c delivery.Comparison) bool { return c.Differs && c.Counts })
	state.Owned = e.owned(req.App.ID, want, state.Hooks, mem)
	mem.looked = e.lookedAt(state, want, mem, req.Now)
}

// healthOfAll is how an app is doing, by its objects as they were compared: hooks do not count, nor does the app itself, nor an app of
// which nothing is known yet, nor what is missing, since it differs from Git anyhow; unless nothing is there at all (Argo CD 3:
// controller/health.go).
func healthOfAll(app delivery.App, compared []delivery.Comparison) delivery.Health {
	parts := make([]health.Part, 0, len(compared))
	wanted, there := false, false
	for _, c := range compared {
		if c.Hook {
			continue
		}
		wanted = true
		if c.Health.Status == delivery.Missing {
			continue
		}
		there = true
		inner := c.Ref.Kind == app.ID.Kind && c.Health.Status == delivery.UnknownHealth
		if c.Health.Status == "" || inner || isSelf(app, c.Ref) {
			continue
		}
		parts = append(parts, health.Part{Ref: c.Ref, Health: c.Health})
	}
	if wanted && !there {
		return delivery.Health{Status: delivery.Missing, Message: "nothing of it is there"}
	}
	return health.AggregateArgo(parts)
}

func (s *State) add(c delivery.Comparison, due bool) {
	s.Compared = append(s.Compared, c)
	if c.Differs && c.Counts && due {
		s.Drifted = append(s.Drifted, c.Ref)
	}
}

func (e *Engine) deleting(ref delivery.Ref) bool {
	rec, there := e.Live.Get(ref)
	return there && rec.Deleting
}

// comparison tells how the object of a change compares to Git; false: it is not the app's.
func (e *Engine) comparison(c delivery.Change, wanted bool, mem *Memory) (delivery.Comparison, bool) {
	rec, there := e.Live.Get(c.Ref)
	if stranger, ok := mem.strangers[c.Ref]; ok && !there {
		rec, there = stranger, true
	}
	out := delivery.Comparison{
		Ref: c.Ref, Version: c.Version, Wave: c.Wave, Counts: true, Reason: c.Reason, Health: e.comparedHealth(c.Ref, mem),
		Differs: c.Verb.Touches() || c.Verb == delivery.Paused || c.Verb == delivery.Delegated && c.Left == "",
	}
	marks := c.Asks | rec.Marks
	if v, ok := mem.verdicts[c.Ref]; ok && v.resourceVersion != "" {
		if !there {
			out.Health, out.Reason = v.health, "not as Git wants it, as the API server says"
		}
		out.Differs = out.Differs && !v.equal
	}
	if !wanted && marks.Has(delivery.MarkHook) && there {
		out.Hook, out.Differs, out.Counts, out.Reason = true, false, false, ""
		return out, true
	}
	if !wanted {
		if !there || c.Verb == delivery.Release {
			return out, false
		}
		out.Differs, out.RequiresPruning = true, true
		out.RequiresConfirmation = marks.Has(delivery.MarkConfirm)
	}
	if _, stranger := mem.strangers[c.Ref]; stranger {
		out.Health = rec.Health
	}
	if marks.Has(delivery.MarkExtraneous) && !wanted {
		out.Counts = false
	}
	if !out.Differs {
		out.Reason = ""
	}
	return out, true
}

// comparedHealth is how an object is doing, unless it says that this does not count.
func (e *Engine) comparedHealth(ref delivery.Ref, mem *Memory) delivery.Health {
	if rec, there := e.Live.Get(ref); there && rec.Marks.Has(delivery.MarkNoHealth) {
		return delivery.Health{}
	}
	return e.healthOf(ref, mem)
}

// owned is what an app owns now.
func (e *Engine) owned(app delivery.ID, want delivery.Inventory, hooks []delivery.Object, mem *Memory) delivery.Inventory {
	own := delivery.Inventory{}
	mine := func(ref delivery.Ref) bool {
		rec, there := e.Live.Get(ref)
		return there && rec.Owner == app
	}
	for ref, version := range mem.Inventory {
		_, wanted := want[ref]
		if _, stranger := mem.strangers[ref]; wanted || stranger || mine(ref) {
			own[ref] = version
		}
	}
	for ref, version := range want {
		if mine(ref) {
			own[ref] = version
		}
	}
	for _, h := range hooks {
		if ref := h.Ref(); mine(ref) {
			own[ref] = h.GroupVersionKind().Version
		}
	}
	return own
}

// hookHealth is [Engine.healthOf], also of hooks that go by themselves once they have ended.
func (e *Engine) hookHealth(ref delivery.Ref, hooks []delivery.Object, mem *Memory) delivery.Health {
	rec, there := e.Live.Get(ref)
	if !there && !e.Live.Undone(ref) && slices.ContainsFunc(hooks, func(h delivery.Object) bool {
		return (h.Ref() == ref || h.GetName() == "" && h.GroupVersionKind().GroupKind() == ref.GroupKind()) && health.Fleeting(h.Unstructured)
	}) {
		return delivery.Health{Status: delivery.Healthy}
	}
	if there && rec.Done {
		return delivery.Health{Status: delivery.Healthy}
	}
	return e.healthOf(ref, mem)
}

// slack is how much later than Kubernetes itself we end a hook at its deadline.
const slack = 10 * time.Second

// deadlinesOf gives how long hooks may take, where they say it themselves.
func deadlinesOf(hooks []delivery.Object, op delivery.Operation) map[delivery.Ref]time.Duration {
	out := map[delivery.Ref]time.Duration{}
	for _, h := range hooks {
		n, ok, _ := unstructured.NestedInt64(h.Object, "spec", "activeDeadlineSeconds")
		if !ok || n <= 0 {
			continue
		}
		for _, moment := range h.Hook.Moments {
			out[operation.Named(h, moment, op).Ref()] = time.Duration(n)*time.Second + slack
		}
	}
	return out
}

// capable tells the charts of a request what the cluster has that they are rendered for.
func (e *Engine) capable(ctx context.Context, req Request) (Request, error) {
	if len(req.App.Build.Parts) == 0 || !slices.Contains(render.Formats(req.Snapshot, req.App.Build), render.FormatHelm) {
		return req, nil
	}
	offer, err := e.Cluster.Offer(ctx)
	if err != nil {
		return req, err
	}
	parts := slices.Clone(req.App.Build.Parts)
	for i := range parts {
		parts[i].KubeVersion, parts[i].APIVersions = cmp.Or(parts[i].KubeVersion, offer.Version), append(slices.Clip(parts[i].APIVersions), offer.APIs...)
	}
	req.App.Build.Parts = parts
	return req, nil
}
