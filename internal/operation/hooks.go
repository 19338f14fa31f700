package operation

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/internal/delivery"
)

// hookSteps gives the hooks of a moment by waves, named.
func (r *run) hookSteps(moment delivery.Moment) []step {
	waves := map[int]*step{}
	for _, h := range r.v.Hooks {
		if h.Hook == nil || !slices.Contains(h.Hook.Moments, moment) || slices.Contains(h.Hook.Moments, delivery.SkipHook) {
			continue
		}
		if waves[h.Wave] == nil {
			waves[h.Wave] = &step{moment: moment, wave: h.Wave, gated: true}
		}
		waves[h.Wave].hooks = append(waves[h.Wave].hooks, Named(h, moment, r.op))
	}
	var steps []step
	for _, n := range slices.Sorted(maps.Keys(waves)) {
		steps = append(steps, *waves[n])
	}
	return steps
}

// Named gives a hook with the name that it has at a moment of an operation: its own, or, where it only says how its name begins
// (generateName), one made of the revision, the moment and when the operation began (as Argo CD does).
func Named(h delivery.Object, moment delivery.Moment, op delivery.Operation) delivery.Object {
	prefix := h.GetGenerateName()
	if h.GetName() != "" || prefix == "" {
		return h
	}
	revision := ""
	if len(op.Revisions) > 0 {
		revision = op.Revisions[0]
		if parsed := delivery.ParseRevision(revision); parsed.Commit != "" {
			revision = parsed.Commit
		}
	}
	if len(revision) > shortRevision {
		revision = revision[:shortRevision]
	}
	h.Unstructured = h.DeepCopy()
	h.SetGenerateName("")
	h.SetName(prefix + strings.ToLower(fmt.Sprintf("%s-%s-%d", revision, moment, op.Started.UTC().Unix())))
	return h
}

// shortRevision is how much of a revision is in a hook's name.
const shortRevision = 7

// Names tells whether a name is one that [Named] has made for a hook, in whichever operation and at whichever moment. A plain object
// whose name begins alike is none of it.
func Names(h delivery.Object, name string) bool {
	prefix := h.GetGenerateName()
	if h.GetName() != "" || prefix == "" {
		return false
	}
	rest, generated := strings.CutPrefix(name, prefix)
	end := strings.LastIndexByte(rest, '-')
	if !generated || end < 0 || end == len(rest)-1 || strings.Trim(rest[end+1:], "0123456789") != "" {
		return false
	}
	for moment := range order {
		revision, ok := strings.CutSuffix(rest[:end], "-"+strings.ToLower(string(moment)))
		if ok && len(revision) <= shortRevision {
			return true
		}
	}
	return false
}

// foreign tells whose an object is that is there and another app's: no hook of that name is made, and it is not deleted as one.
func (r *run) foreign(ref delivery.Ref) (delivery.ID, bool) {
	live, there := r.v.Live(ref)
	return live.Owner, there && live.Owner != (delivery.ID{}) && live.Owner != r.v.App
}

// foreignHooks tells of the hooks that are to be made where another app has an object, and notes that they have failed.
func (r *run) foreignHooks() (why []string) {
	if r.noHooks() {
		return nil
	}
	for _, h := range r.v.Hooks {
		if h.Hook == nil {
			continue
		}
		for _, moment := range h.Hook.Moments {
			ref := Named(h, moment, r.op).Ref()
			owner, foreign := r.foreign(ref)
			if _, done := r.result(ref, moment); done || !foreign || slices.ContainsFunc(r.v.Plan.Blocks, func(b delivery.Block) bool { return b.Ref == ref }) {
				continue // it is over, ours, or told of already
			}
			message := fmt.Sprintf("%s: the object that is there is owned by %s: give the hook another name, or delete the object", ref, owner)
			why = append(why, message)
			r.note(delivery.OperationResult{
				Ref: ref, Version: h.GroupVersionKind().Version, Status: SyncFailed, Message: message, Moment: moment, Hook: delivery.OperationFailed,
			})
		}
	}
	return why
}

// makeHook is the change that makes a hook, or that deletes the one before it.
func (r *run) makeHook(h delivery.Object, s step) delivery.Change {
	c := delivery.Change{
		Ref: h.Ref(), Version: h.GroupVersionKind().Version, Verb: delivery.Create, Object: &h, Moment: s.moment, Wave: s.wave, Asks: h.Asks,
		Reason: string(s.moment) + " hook",
	}
	h.Unstructured = h.DeepCopy()
	annotations := h.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[delivery.OperationAnnotation] = r.maker(s.moment)
	h.SetAnnotations(annotations)
	live, there := r.v.Live(c.Ref)
	switch {
	case there && deletes(h, delivery.BeforeHookCreation):
		c.Verb, c.UID, c.Object, c.Reason = delivery.Replace, live.UID, nil, "the hook of an earlier time, deleted before it is made anew"
	case there:
		c.Verb = delivery.Update
	}
	return c
}

// followHooks brings the results of hooks up to how they are doing, and takes in those that were made by this operation before a
// restart of the controller.
func (r *run) followHooks() {
	if r.noHooks() {
		return
	}
	for _, h := range r.v.Hooks {
		if h.Hook == nil {
			continue
		}
		for _, moment := range h.Hook.Moments {
			r.followHook(Named(h, moment, r.op), moment)
		}
	}
}

func (r *run) followHook(h delivery.Object, moment delivery.Moment) {
	ref := h.Ref()
	r.adopt(h, moment)
	res, done := r.result(ref, moment)
	if !done {
		return
	}
	if res.Hook != delivery.OperationRunning {
		return
	}
	live, there := r.v.Live(ref)
	health := r.v.Health(ref)
	switch {
	case there && live.Deleting && !live.Done:
		return // how it ended is not known yet
	case health.Status == delivery.Missing:
		res.Hook, res.Message = delivery.OperationFailed, "it was deleted before it had ended"
	case health.Status == delivery.Healthy, health.Status == "":
		res.Hook = delivery.OperationSucceeded
	case health.Status == delivery.Degraded, health.Status == delivery.UnknownHealth:
		res.Hook = delivery.OperationFailed
	default:
		if r.expired(ref) {
			res.Hook, res.Message = delivery.OperationFailed, "it has not ended within its deadline"
			return
		}
	}
	if health.Message != "" && health.Status != delivery.Missing {
		res.Message = health.Message
	}
}

// maker names the operation and a moment of it, as [delivery.OperationAnnotation] does. Operations of an app with hooks begin in different seconds.
func (r *run) maker(moment delivery.Moment) string {
	return r.op.Started.UTC().Format(time.RFC3339) + "/" + string(moment)
}

// adopt takes in a hook that this operation has made before the controller was started anew, when nothing of it was known.
func (r *run) adopt(h delivery.Object, moment delivery.Moment) {
	ref := h.Ref()
	live, there := r.v.Live(ref)
	if _, foreign := r.foreign(ref); foreign || !there || live.Deleting || !r.made(live, h, moment) || r.op.Request.DryRun {
		return
	}
	r.note(delivery.OperationResult{
		Ref: ref, Version: h.GroupVersionKind().Version, Status: Synced, Moment: moment, Hook: delivery.OperationRunning,
		Message: strings.ToLower(ref.Kind) + "/" + ref.Name + " created",
	})
}

// made tells whether this operation has made a hook for a moment, and has not written it down.
func (r *run) made(live delivery.Live, h delivery.Object, moment delivery.Moment) bool {
	if _, told := r.result(live.Ref, moment); told {
		return false
	}
	if live.Operation != "" {
		return live.Operation == r.maker(moment)
	}
	// A controller that annotated nothing may have made it: it is younger than the operation then.
	if !live.Created.After(r.op.Started) || slices.ContainsFunc(r.op.Results, func(res delivery.OperationResult) bool { return res.Ref == live.Ref }) {
		return false
	}
	before := h.Hook.Moments
	return len(before) <= 1 || moment == slices.MinFunc(before, func(a, b delivery.Moment) int { return order[a] - order[b] })
}

// order of the moments.
var order = map[delivery.Moment]int{delivery.PreSync: 1, delivery.DuringSync: 2, delivery.PostSync: 3, delivery.SyncFail: 4, delivery.PreDelete: 5, delivery.PostDelete: 6}

// left is the time until a hook's deadline; zero: it has none.
func (r *run) left(ref delivery.Ref) time.Duration {
	if r.v.Deadline == nil {
		return 0
	}
	due, ok := r.v.Deadline(ref)
	if !ok {
		return 0
	}
	return max(due.Sub(r.v.Now), time.Millisecond)
}

func (r *run) expired(ref delivery.Ref) bool {
	if r.v.Deadline == nil {
		return false
	}
	due, ok := r.v.Deadline(ref)
	return ok && !r.v.Now.Before(due)
}

// runningHook names a hook that has not ended.
func (r *run) runningHook() (waiting string, after time.Duration) {
	for _, res := range r.op.Results {
		if res.Hook != delivery.OperationRunning || res.Moment == delivery.SyncFail {
			continue
		}
		if waiting == "" {
			waiting = "completion of hook " + res.Ref.String()
		}
		after = shorter(after, r.left(res.Ref))
	}
	return waiting, after
}

// failedAt tells whether a hook of a moment has failed.
func (r *run) failedAt(moment delivery.Moment) bool {
	return slices.ContainsFunc(r.op.Results, func(res delivery.OperationResult) bool {
		return res.Moment == moment && (res.Hook == delivery.OperationFailed || res.Hook == delivery.OperationError)
	})
}

// cleanUp gives the deletion of the hooks that are to go once they have ended.
func (r *run) cleanUp() (delivery.Stage, bool) {
	if r.noHooks() {
		return delivery.Stage{}, false
	}
	return r.deleteHooks(nil)
}

// deleteHooks gives the deletion of the hooks of which which says so; nil: as they want it themselves. Each is tried once.
func (r *run) deleteHooks(which func(h delivery.Object, phase delivery.OperationPhase) bool) (delivery.Stage, bool) {
	stage := delivery.Stage{Name: "Delete hooks"}
	seen := map[delivery.Ref]bool{}
	for _, h := range r.v.Hooks {
		if h.Hook == nil {
			continue
		}
		for _, moment := range h.Hook.Moments {
			named := Named(h, moment, r.op)
			ref := named.Ref()
			res, done := r.result(ref, moment)
			live, there := r.v.Live(ref)
			if _, foreign := r.foreign(ref); foreign || !done || res.Passed || !there || live.Deleting || seen[ref] {
				continue
			}
			if which != nil && !which(named, res.Hook) || which == nil && !r.over(named, moment, res.Hook) {
				continue
			}
			seen[ref] = true
			stage.Changes = append(stage.Changes, delivery.Change{
				Ref: ref, Version: live.Version, Verb: delivery.Delete, UID: live.UID, Moment: moment, Reason: "the hook has ended",
			})
		}
	}
	return stage, len(stage.Changes) > 0
}

// over tells whether a hook that has ended is to be deleted.
func (r *run) over(h delivery.Object, moment delivery.Moment, phase delivery.OperationPhase) bool {
	switch {
	case !phase.Over():
		return false
	case r.failed && moment != delivery.SyncFail:
		return deletes(h, delivery.HookFailed)
	case phase == delivery.OperationSucceeded:
		return deletes(h, delivery.HookSucceeded)
	}
	return deletes(h, delivery.HookFailed)
}

// deletes tells whether a hook is deleted at a time.
func deletes(h delivery.Object, when delivery.HookDeletion) bool {
	if len(h.Hook.Delete) == 0 {
		return when == delivery.BeforeHookCreation
	}
	return slices.Contains(h.Hook.Delete, when)
}
