package operation

import (
	"slices"
	"strings"

	"keelson.dev/keelson/internal/delivery"
)

// Remove tells what comes next where an app is deleted together with its objects: PreDelete hooks, then the objects, those of higher waves
// first, then PostDelete hooks, and then the hooks themselves. View.Plan is one that deletes all. The operation is of this deletion
// alone: it began when the deletion was asked for.
func Remove(v View) Step {
	v.Operation.Request = delivery.OperationRequest{Prune: true}
	r := newRun(v)
	if r.op.Phase.Over() {
		return Step{Over: true, Operation: r.op}
	}
	r.followHooks()
	if failure := r.failure(); failure != "" {
		return r.abandon(failure)
	}
	if failure := r.blocked(); failure != "" {
		return r.end(delivery.OperationFailed, failure)
	}
	steps := slices.Concat(r.hookSteps(delivery.PreDelete), r.removal(), r.hookSteps(delivery.PostDelete))
	for _, s := range steps {
		if stage, ok := r.pending(s); ok {
			if waiting := r.unapproved(s); waiting != "" {
				return r.wait(waiting, 0)
			}
			return r.stage(stage)
		}
		if waiting := r.going(s); waiting != "" {
			return r.wait(waiting, 0)
		}
		if _, waiting, after := r.gate(s); waiting != "" {
			return r.wait(waiting, after)
		}
	}
	if stage, ok := r.deleteHooks(func(h delivery.Object, phase delivery.OperationPhase) bool {
		only := deletes(h, delivery.HookFailed) && !deletes(h, delivery.HookSucceeded) && !deletes(h, delivery.BeforeHookCreation)
		return phase.Over() && !only
	}); ok {
		return r.stage(stage)
	}
	return r.end(delivery.OperationSucceeded, "deleted")
}

// abandon ends a removal of which a hook has failed: it is deleted, so that the next try runs it anew.
func (r *run) abandon(failure string) Step {
	if waiting, after := r.runningHook(); waiting != "" {
		return r.wait(waiting, after)
	}
	if stage, ok := r.deleteHooks(func(_ delivery.Object, phase delivery.OperationPhase) bool {
		return phase == delivery.OperationFailed || phase == delivery.OperationError
	}); ok {
		return r.stage(stage)
	}
	var failed []string
	for _, res := range r.op.Results {
		if res.Hook == delivery.OperationFailed || res.Hook == delivery.OperationError {
			failed = append(failed, res.Ref.String()+": "+res.Message)
		}
	}
	if len(failed) > 0 {
		failure = "hooks failed: " + strings.Join(failed[:min(len(failed), maxReasons)], ", ")
	}
	return r.end(delivery.OperationFailed, failure)
}

// removal gives the deletion of the app's objects in order.
func (r *run) removal() []step {
	var objects, rights []delivery.Change
	hooks := map[delivery.Ref]bool{}
	for _, h := range r.v.Hooks {
		if h.Hook == nil {
			continue
		}
		for _, moment := range h.Hook.Moments {
			if moment == delivery.PreDelete || moment == delivery.PostDelete {
				hooks[Named(h, moment, r.op).Ref()] = true
			}
		}
	}
	for _, s := range r.v.Plan.Stages {
		for _, c := range s.Changes {
			switch {
			case hooks[c.Ref] || !c.Verb.Deletes() && !r.deleting(c.Ref):
			case s.Name == pruneName:
				objects = append(objects, c)
			default:
				rights = append(rights, c)
			}
		}
	}
	return append(pruneSteps(objects, false), pruneSteps(rights, false)...)
}

// unapproved names what is deleted only once a person has said so (Argo CD: Delete=confirm).
func (r *run) unapproved(s step) string {
	if !s.prune || r.v.Policy.Approved {
		return ""
	}
	for _, c := range s.changes {
		if c.Verb.Deletes() && (r.v.Policy.Options.ConfirmDelete || c.Asks.Has(delivery.MarkConfirmDelete)) {
			return "confirmation of the deletion of " + c.Ref.String()
		}
	}
	return ""
}
