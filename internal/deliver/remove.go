package deliver

import (
	"context"
	"errors"
	"slices"
	"time"

	"keelson.dev/keelson/internal/apply"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/operation"
	"keelson.dev/keelson/internal/plan"
)

// Removal is how far the deletion of an app with operations has come.
type Removal struct {
	Done    bool            // nothing is left to be done
	Going   []delivery.Ref  // what is on its way out and still there
	Waiting string          // for something that is watched; the app is woken then
	After   time.Duration   // … but look again after this long; zero: as long as it takes
	Fault   *delivery.Fault // not nil: a hook, or a deletion, failed; the next call begins anew
	Changes []apply.Result
}

// maxRemovals bounds the stages that one call carries out.
const maxRemovals = 20

// Remove takes an app with operations away together with its objects, as far as it can without waiting; it is called again when
// something has happened. asked is when the deletion was asked for. The hooks of the deletion are those of the request's snapshot; without
// one none are run. What [delivery.SyncOptions] NoDelete or the object itself says is left.
func (e *Engine) Remove(ctx context.Context, req Request, asked time.Time, mem *Memory) (Removal, error) {
	var out Removal
	if was := mem.removal; was != nil && was.Started.Equal(asked) && was.Phase == delivery.OperationSucceeded {
		out.Done = true // its hooks have run, though it could not be said yet that it is over
		return out, nil
	}
	hooks, err := e.deletionHooks(ctx, req, mem)
	if err != nil {
		return out, err
	}
	synced, err := e.watch(req.App.ID, mem.Inventory, hookKinds(hooks))
	if err != nil || !synced {
		out.Waiting = firstList
		return out, err
	}
	if mem.removal == nil || !mem.removal.Started.Equal(asked) || mem.removal.Phase.Over() {
		mem.removal = &delivery.Operation{Phase: delivery.OperationRunning, Started: asked, Revisions: []string{req.Snapshot.Revision.String()}}
	}
	app := req.App
	app.Prune, app.Guard = true, delivery.Guard{AllowEmpty: true, MaxPrunePercent: 100}
	for range maxRemovals {
		p, err := e.removalPlan(ctx, Request{App: app, Now: req.Now}, hooks, mem)
		if err != nil {
			return out, err
		}
		deadlines := deadlinesOf(hooks, *mem.removal)
		step := operation.Remove(operation.View{
			App: app.ID, Operation: *mem.removal, Policy: *app.Sync, Plan: p, Hooks: hooks, Now: req.Now, Live: e.Live.Get,
			Health:   func(ref delivery.Ref) delivery.Health { return e.hookHealth(ref, hooks, mem) },
			Deadline: e.deadline(deadlines),
		})
		mem.removal = &step.Operation
		switch {
		case step.Over && step.Operation.Phase == delivery.OperationSucceeded:
			out.Done = true
			return out, nil
		case step.Over:
			out.Fault = &delivery.Fault{Reason: "DeletionError", Retry: delivery.Backoff, Err: errorText(step.Operation.Message)}
			return out, nil
		case step.Waiting != "":
			out.Waiting, out.After, out.Going = step.Waiting, step.After, e.goingOf(app.ID, mem)
			return out, nil
		}
		res, err := e.Act(ctx, Request{App: app, Now: req.Now, Operation: &step.Operation}, State{}, step.Stage, mem)
		if err != nil {
			return out, err
		}
		out.Changes = append(out.Changes, res.Changes...)
		next := operation.Record(step.Operation, res.Dones(), req.Now)
		mem.removal = &next
	}
	out.Waiting, out.After = "its turn", time.Second
	return out, nil
}

// errorText is an error that says a text.
type errorText string

func (e errorText) Error() string { return string(e) }

// deletionHooks renders the hooks that a deletion runs. What cannot be rendered until another commit comes has none: an app may be
// deleted because its folder has left Git, and must not wait for it.
func (e *Engine) deletionHooks(ctx context.Context, req Request, mem *Memory) ([]delivery.Object, error) {
	if req.Snapshot.FS == nil {
		return nil, nil
	}
	objects, _, err := mem.render(ctx, req)
	if f := (*delivery.Fault)(nil); errors.As(err, &f) && f.Retry == delivery.OnChange {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if _, err := e.prepare(req.App, objects); err != nil {
		return nil, err
	}
	_, hooks := withoutHooks(objects)
	return slices.DeleteFunc(hooks, func(h delivery.Object) bool {
		return !slices.Contains(h.Hook.Moments, delivery.PreDelete) && !slices.Contains(h.Hook.Moments, delivery.PostDelete)
	}), nil
}

// removalPlan is the plan that deletes what an app owns.
func (e *Engine) removalPlan(ctx context.Context, req Request, hooks []delivery.Object, mem *Memory) (delivery.Plan, error) {
	if req.App.Sync.Options.NoDelete {
		return delivery.Plan{}, nil
	}
	in := plan.Input{Removing: true, Hooks: hooks, Live: map[delivery.Ref]delivery.Live{}}
	if err := e.strangers(ctx, req.App.ID, nil, &in, mem); err != nil {
		return delivery.Plan{}, err
	}
	return e.plan(ctx, req, in, mem), nil
}

// goingOf gives what of an app's is on its way out.
func (e *Engine) goingOf(app delivery.ID, mem *Memory) (going []delivery.Ref) {
	for _, ref := range mem.Inventory.Refs() {
		if rec, there := e.Live.Get(ref); there && rec.Owner == app && rec.Deleting {
			going = append(going, ref)
		}
	}
	return going
}
