package operation

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/internal/delivery"
)

// Statuses of a result (Argo CD: ResultCode).
const (
	Synced       = "Synced"
	SyncFailed   = "SyncFailed"
	Pruned       = "Pruned"
	PruneSkipped = "PruneSkipped"
)

// Next tells what an operation under way does now.
func Next(v View) Step {
	r := newRun(v)
	switch {
	case r.op.Phase.Over():
		return Step{Over: true, Operation: r.op}
	case r.op.Phase == delivery.OperationTerminating:
		return r.terminate()
	}
	if w := v.Policy.Windows; !r.allowed(w) {
		return r.wait("a sync window: "+w.Why, until(w.Next, v.Now))
	}
	r.followHooks()
	if failure := r.failure(); failure != "" {
		return r.fail(failure)
	}
	begun := r.began()
	if failure := r.blocked(); failure != "" && begun {
		return r.fail(failure)
	} else if failure != "" {
		return r.end(delivery.OperationFailed, failure)
	}
	if r.op.Request.DryRun {
		return r.dryRun()
	}
	if waiting := r.unconfirmed(); waiting != "" {
		return r.wait(waiting, 0)
	}
	return r.forward()
}

// allowed tells whether the sync windows let the operation go on.
func (r *run) allowed(w delivery.Window) bool {
	if w.Overrun && r.began() {
		return true
	}
	if r.op.Request.Automated {
		return w.Automated
	}
	return w.Manual
}

// began tells whether the operation has done something.
func (r *run) began() bool { return len(r.op.Results) > 0 }

// unconfirmed names what is to be pruned once a person has confirmed that: nothing is done before (Argo CD: Prune=confirm).
func (r *run) unconfirmed() string {
	if !r.prunes() || r.v.Policy.Approved {
		return ""
	}
	var refs []string
	for _, s := range r.steps() {
		for _, c := range s.changes {
			if s.prune && c.Verb == delivery.Delete && (r.op.Request.Options.ConfirmPrune || c.Asks.Has(delivery.MarkConfirm)) {
				refs = append(refs, c.Ref.String())
			}
		}
	}
	if len(refs) == 0 {
		return ""
	}
	if more := len(refs) - maxReasons; more > 0 {
		refs = append(refs[:maxReasons], fmt.Sprintf("%d more", more))
	}
	return "pruning confirmation of " + strings.Join(refs, ", ")
}

// forward takes the first step that is not done.
func (r *run) forward() Step {
	steps := r.steps()
	for i, s := range steps {
		if stage, ok := r.pending(s); ok {
			return r.stage(stage)
		}
		if waiting := r.going(s); waiting != "" {
			return r.wait(waiting, 0)
		}
		last := !slices.ContainsFunc(steps[i+1:], func(next step) bool { return next.gated })
		if last && len(s.hooks) == 0 {
			continue // nothing comes that has to wait for it
		}
		failure, waiting, after := r.gate(s)
		if failure {
			return r.fail(unsuccessful)
		}
		if waiting != "" {
			return r.wait(waiting, after)
		}
	}
	if stage, ok := r.cleanUp(); ok {
		return r.stage(stage)
	}
	message := "successfully synced (all tasks run)"
	if len(r.op.Results) == 0 {
		message = "successfully synced (no more tasks)"
	}
	return r.end(delivery.OperationSucceeded, message)
}

const unsuccessful = "one or more synchronization tasks completed unsuccessfully"

// blocked tells what forbids the plan, and notes it with the objects that are at fault.
func (r *run) blocked() string {
	var why []string
	for _, b := range r.v.Plan.Blocks {
		if !r.chosen(b.Ref) {
			continue
		}
		if b.Ref == (delivery.Ref{}) {
			if r.prunes() {
				why = append(why, b.Fault.Error())
			}
			continue
		}
		why = append(why, b.Fault.Error())
		r.note(delivery.OperationResult{Ref: b.Ref, Status: SyncFailed, Message: b.Fault.Error(), Moment: delivery.DuringSync})
	}
	why = append(why, r.foreignHooks()...)
	if len(why) == 0 {
		return ""
	}
	return "one or more synchronization tasks are not valid, reason: " + strings.Join(why[:min(len(why), maxReasons)], ",")
}

// maxReasons bounds how many objects a message tells of.
const maxReasons = 5

// failure tells why the operation fails, if something of it has.
func (r *run) failure() string {
	var refused []string
	unwell := false
	for _, res := range r.op.Results {
		switch {
		case res.Moment == delivery.SyncFail:
		case res.Status == SyncFailed:
			refused = append(refused, res.Message)
		case res.Failed, res.Hook == delivery.OperationFailed, res.Hook == delivery.OperationError:
			unwell = true
		}
	}
	switch {
	case len(refused) > 0:
		return "one or more objects failed to apply, reason: " + strings.Join(refused[:min(len(refused), maxReasons)], ",")
	case unwell:
		return unsuccessful
	}
	return ""
}

// fail runs what is to be run where an operation fails, and then ends it.
func (r *run) fail(message string) Step {
	if waiting, after := r.runningHook(); waiting != "" {
		return r.wait(waiting, after) // it comes to its own end
	}
	if !r.op.Request.DryRun && !r.noHooks() {
		for _, s := range r.hookSteps(delivery.SyncFail) {
			if r.failedAt(delivery.SyncFail) {
				break
			}
			if stage, ok := r.pending(s); ok {
				return r.stage(stage)
			}
			if waiting := r.going(s); waiting != "" {
				return r.wait(waiting, 0)
			}
			if _, waiting, after := r.gate(s); waiting != "" {
				return r.wait(waiting, after)
			}
		}
	}
	r.failed = true
	if stage, ok := r.cleanUp(); ok {
		return r.stage(stage)
	}
	return r.end(delivery.OperationFailed, message)
}

// Terminated is the message of an operation that somebody has ended: here as upstream.
const Terminated = "Operation terminated"

// terminate deletes the hooks that are under way and ends the operation.
func (r *run) terminate() Step {
	var stage delivery.Stage
	for i, res := range r.op.Results {
		if res.Hook != delivery.OperationRunning {
			continue
		}
		live, there := r.v.Live(res.Ref)
		if _, foreign := r.foreign(res.Ref); there && !foreign && !live.Deleting {
			stage.Changes = append(stage.Changes, delivery.Change{
				Ref: res.Ref, Version: live.Version, Verb: delivery.Delete, UID: live.UID, Moment: res.Moment, Reason: "the operation is terminated",
			})
			continue
		}
		r.op.Results[i].Hook, r.op.Results[i].Message = delivery.OperationFailed, "Deleted"
	}
	if len(stage.Changes) > 0 {
		stage.Name = "Terminate hooks"
		return r.stage(stage)
	}
	return Step{Over: true, Operation: GiveUp(r.op, delivery.OperationFailed, Terminated, r.v.Now)}
}

// dryRun asks the server about everything at once.
func (r *run) dryRun() Step {
	stage := delivery.Stage{Name: "Dry run"}
	for _, s := range r.steps() {
		for _, c := range s.changes {
			if _, done := r.result(c.Ref, momentOf(c)); done || !c.Verb.Touches() {
				continue
			}
			if s.prune && !r.mayPrune(c) {
				r.skipPrune(c)
				continue
			}
			c.DryRun = true
			stage.Changes = append(stage.Changes, c)
		}
		for _, h := range s.hooks {
			if _, done := r.result(h.Ref(), s.moment); !done {
				c := r.makeHook(h, s)
				c.DryRun = true
				stage.Changes = append(stage.Changes, c)
			}
		}
	}
	if len(stage.Changes) > 0 {
		return r.stage(stage)
	}
	return r.end(delivery.OperationSucceeded, "successfully synced (dry run)")
}

func (r *run) stage(s delivery.Stage) Step {
	r.op.Message = "one or more tasks are running"
	return Step{Stage: s, Operation: r.op}
}

func (r *run) wait(what string, after time.Duration) Step {
	r.op.Message = "waiting for " + what
	return Step{Waiting: what, After: after, Operation: r.op}
}

func (r *run) end(phase delivery.OperationPhase, message string) Step {
	return Step{Over: true, Operation: End(r.op, phase, message, r.v.Now)}
}

// Record takes in what became of a stage.
func Record(op delivery.Operation, done []Done, now time.Time) delivery.Operation {
	op.Results = slices.Clone(op.Results)
	for _, d := range done {
		record(&op, d)
	}
	return op
}

// record takes in what became of one change.
func record(op *delivery.Operation, d Done) {
	c := d.Change
	res := delivery.OperationResult{Ref: c.Ref, Version: c.Version, Moment: momentOf(c)}
	if old, ok := find(op.Results, res.Ref, res.Moment); ok {
		res = op.Results[old]
	}
	name := strings.ToLower(c.Ref.Kind) + "/" + c.Ref.Name
	switch {
	case c.Verb == delivery.Delete && c.Moment != "" && !c.DryRun: // tried once
		res.Passed = true
		if d.Fault != nil {
			res.Message = "failed to delete resource: " + d.Fault.Error()
		}
		if res.Hook == delivery.OperationRunning { // terminated
			res.Hook = delivery.OperationFailed
			if d.Fault == nil {
				res.Message = "Deleted"
			}
		}
	case d.Fault != nil:
		res.Status, res.Message = SyncFailed, d.Fault.Error()
		if c.Moment != "" {
			res.Hook = delivery.OperationFailed
		}
	case c.DryRun && c.Verb == delivery.Delete:
		res.Status, res.Message = Pruned, "pruned (dry run)"
	case c.DryRun:
		res.Status, res.Message = Synced, name+" "+past[c.Verb]+" (dry run)"
		if c.Moment != "" {
			res.Hook = delivery.OperationSucceeded
		}
	case c.Verb == delivery.Replace: // it is made once it is gone
		return
	case c.Verb == delivery.Delete:
		res.Status, res.Message = Pruned, "pruned"
	default:
		res.Status, res.Message = Synced, name+" "+past[c.Verb]
		if c.Moment != "" {
			res.Hook = delivery.OperationRunning
		}
	}
	note(op, res)
}

// past says what a change has done.
var past = map[delivery.Verb]string{
	delivery.Create: "created", delivery.Update: "configured", delivery.Repair: "repaired", delivery.Replace: "replaced", delivery.Delete: "deleted",
	delivery.Unchanged: "unchanged",
}

// momentOf is the moment that a change belongs to.
func momentOf(c delivery.Change) delivery.Moment {
	if c.Moment != "" {
		return c.Moment
	}
	return delivery.DuringSync
}

// find gives the place of a result.
func find(results []delivery.OperationResult, ref delivery.Ref, moment delivery.Moment) (int, bool) {
	i := slices.IndexFunc(results, func(r delivery.OperationResult) bool { return r.Ref == ref && r.Moment == moment })
	return i, i >= 0
}

// note keeps a result, in the place of the one that there was.
func note(op *delivery.Operation, res delivery.OperationResult) {
	if i, ok := find(op.Results, res.Ref, res.Moment); ok {
		op.Results[i] = res
		return
	}
	op.Results = append(op.Results, res)
}
