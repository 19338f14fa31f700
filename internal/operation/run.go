package operation

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/internal/delivery"
)

// run is one look at an operation under way.
type run struct {
	v      View
	op     delivery.Operation
	at     map[key]int // of its results
	only   map[delivery.Ref]bool
	failed bool // it ends because something has failed
}

// key names a result: an object may be a hook of several moments.
type key struct {
	ref    delivery.Ref
	moment delivery.Moment
}

func newRun(v View) *run {
	r := &run{v: v, op: v.Operation, at: map[key]int{}, only: map[delivery.Ref]bool{}}
	r.op.Results = slices.Clone(v.Operation.Results)
	for i, res := range r.op.Results {
		r.at[key{res.Ref, res.Moment}] = i
	}
	for _, ref := range v.Operation.Request.Only {
		r.only[ref] = true
	}
	return r
}

func (r *run) result(ref delivery.Ref, moment delivery.Moment) (*delivery.OperationResult, bool) {
	i, ok := r.at[key{ref, moment}]
	if !ok {
		return nil, false
	}
	return &r.op.Results[i], true
}

func (r *run) note(res delivery.OperationResult) {
	k := key{res.Ref, res.Moment}
	if i, ok := r.at[k]; ok {
		r.op.Results[i] = res
		return
	}
	r.at[k] = len(r.op.Results)
	r.op.Results = append(r.op.Results, res)
}

// chosen tells whether the operation is about an object: about all, or about this one. One that was named without a namespace may
// be in any (Argo CD: user-guide/selective_sync).
func (r *run) chosen(ref delivery.Ref) bool {
	anywhere := ref
	anywhere.Namespace = ""
	return len(r.only) == 0 || r.only[ref] || r.only[anywhere]
}

// noHooks tells whether the operation runs none: one about some objects does not (Argo CD: user-guide/selective_sync).
func (r *run) noHooks() bool { return r.op.Request.NoHooks || len(r.only) > 0 }

// prunes tells whether the operation deletes what left Git.
func (r *run) prunes() bool { return r.op.Request.Prune && !r.op.Request.Options.NoPrune }

// step is one wave of a moment: what may be done at once, but for the order of kinds.
type step struct {
	moment  delivery.Moment
	wave    int
	changes []delivery.Change // in the order of their kinds' stages, which stages gives
	stages  []int             // of each change
	names   []string          // of the stages
	hooks   []delivery.Object
	prune   bool
	gated   bool // it begins only once all before it is healthy
}

// steps gives the operation's way in order, but for the hooks of a failure.
func (r *run) steps() []step {
	var first, prune, last, rights []delivery.Change
	waves := map[int]*step{}
	wave := func(n int) *step {
		if waves[n] == nil {
			waves[n] = &step{moment: delivery.DuringSync, wave: n, gated: true}
		}
		return waves[n]
	}
	moved := r.earlier()
	for i, s := range r.v.Plan.Stages {
		for _, c := range s.Changes {
			if !r.chosen(c.Ref) && !c.First {
				continue
			}
			switch {
			case c.First:
				first = append(first, c)
			case strings.HasPrefix(s.Name, pruneName) && (r.op.Request.Options.PruneLast || c.Asks.Has(delivery.MarkPruneLast)):
				last = append(last, c)
			case s.Name == pruneName:
				prune = append(prune, c)
			case strings.HasPrefix(s.Name, pruneName):
				rights = append(rights, c)
			default:
				n := c.Wave
				if w, ok := moved[c.Ref]; ok {
					n = w
				}
				w := wave(n)
				w.changes, w.stages, w.names = append(w.changes, c), append(w.stages, i), append(w.names, s.Name)
			}
		}
	}
	var steps []step
	if len(first) > 0 {
		steps = append(steps, plain("Namespaces", first))
	}
	if !r.noHooks() {
		steps = append(steps, r.hookSteps(delivery.PreSync)...)
		for _, s := range r.hookSteps(delivery.DuringSync) {
			wave(s.wave).hooks = s.hooks
		}
	}
	for _, n := range slices.Sorted(maps.Keys(waves)) {
		steps = append(steps, *waves[n])
	}
	steps = append(steps, pruneSteps(prune, false)...)
	steps = append(steps, pruneSteps(rights, false)...)
	steps = append(steps, pruneSteps(last, true)...)
	if !r.noHooks() {
		steps = append(steps, r.hookSteps(delivery.PostSync)...)
	}
	return steps
}

// pruneName begins the names of the plan's stages that delete.
const pruneName = "Prune"

// plain is a step whose changes are all of one stage.
func plain(name string, changes []delivery.Change) step {
	s := step{moment: delivery.DuringSync, changes: changes}
	for range changes {
		s.stages, s.names = append(s.stages, 0), append(s.names, name)
	}
	return s
}

// pruneSteps orders what is to be deleted: what came last goes first. gated has the first of them wait until all that is to stay is healthy.
func pruneSteps(changes []delivery.Change, gated bool) []step {
	slices.SortStableFunc(changes, func(a, b delivery.Change) int { return cmp.Compare(b.Wave, a.Wave) })
	var steps []step
	for len(changes) > 0 {
		n := slices.IndexFunc(changes, func(c delivery.Change) bool { return c.Wave != changes[0].Wave })
		if n < 0 {
			n = len(changes)
		}
		s := plain(pruneName, changes[:n])
		s.wave, s.prune, s.gated = changes[0].Wave, true, gated
		steps, changes = append(steps, s), changes[n:]
	}
	return steps
}

// earlier moves what other objects need to the wave of the first of them: definitions of their kinds, and namespaces that they are in
// (as Argo CD does).
func (r *run) earlier() map[delivery.Ref]int {
	kinds, namespaces := map[string]delivery.Change{}, map[string]delivery.Change{}
	for _, s := range r.v.Plan.Stages {
		for _, c := range s.Changes {
			switch {
			case strings.HasPrefix(s.Name, pruneName):
			case c.Ref.Kind == "Namespace" && c.Ref.Group == "":
				namespaces[c.Ref.Name] = c
			case c.Ref.Kind == "CustomResourceDefinition":
				_, group, _ := strings.Cut(c.Ref.Name, ".")
				kinds[group] = c
			}
		}
	}
	moved := map[delivery.Ref]int{}
	move := func(needed delivery.Change, there bool, wave int) {
		if !there {
			return
		}
		if w, ok := moved[needed.Ref]; !ok || wave < w {
			moved[needed.Ref] = min(wave, needed.Wave)
		}
	}
	if len(kinds)+len(namespaces) == 0 {
		return nil
	}
	for _, s := range r.v.Plan.Stages {
		for _, c := range s.Changes {
			if strings.HasPrefix(s.Name, pruneName) {
				continue
			}
			crd, ok := kinds[c.Ref.Group]
			move(crd, ok && c.Ref.Group != "", c.Wave)
			ns, ok := namespaces[c.Ref.Namespace]
			move(ns, ok && c.Ref.Namespace != "", c.Wave)
		}
	}
	return moved
}

// pending gives the first changes of a step that are not made yet: all of one stage of the plan, hooks after the objects.
func (r *run) pending(s step) (delivery.Stage, bool) {
	var out delivery.Stage
	at := -1
	for i, c := range s.changes {
		_, done := r.result(c.Ref, delivery.DuringSync)
		switch {
		case done:
		case s.prune && c.Verb == delivery.Delegated && !r.deleting(c.Ref), s.prune && c.Verb.Deletes() && !r.mayPrune(c):
			r.skipPrune(c)
		case s.prune && !c.Verb.Touches():
		case c.Verb == delivery.Unchanged && !r.op.Request.Options.ApplyOutOfSyncOnly:
			r.note(delivery.OperationResult{
				Ref: c.Ref, Version: c.Version, Status: Synced, Moment: delivery.DuringSync, Message: strings.ToLower(c.Ref.Kind) + "/" + c.Ref.Name + " unchanged",
			})
		case !c.Verb.Touches(), at >= 0 && s.stages[i] != at:
		default:
			at, out.Name = s.stages[i], s.names[i]
			out.Changes = append(out.Changes, c)
		}
	}
	if at >= 0 || r.going(step{changes: s.changes}) != "" {
		return out, at >= 0
	}
	for _, h := range s.hooks {
		if _, done := r.result(h.Ref(), s.moment); !done && !r.deleting(h.Ref()) {
			out.Changes = append(out.Changes, r.makeHook(h, s))
		}
	}
	out.Name = string(s.moment) + " hooks"
	return out, len(out.Changes) > 0
}

func (r *run) deleting(ref delivery.Ref) bool {
	live, there := r.v.Live(ref)
	return there && live.Deleting
}

// mayPrune tells whether the operation deletes what left Git.
func (r *run) mayPrune(c delivery.Change) bool {
	return r.prunes() && !c.Asks.Has(delivery.MarkKeep)
}

// skipPrune notes that something that left Git stays, and why (in Argo CD's words).
func (r *run) skipPrune(c delivery.Change) {
	message := "ignored (requires pruning)"
	switch {
	case !r.op.Request.Prune:
	case r.op.Request.Options.NoPrune || c.Asks.Has(delivery.MarkKeep):
		message = "ignored (no prune)"
	case c.Reason != "":
		message = "ignored (" + c.Reason + ")"
	}
	r.note(delivery.OperationResult{Ref: c.Ref, Version: c.Version, Status: PruneSkipped, Moment: delivery.DuringSync, Message: message})
}

// going tells what a step waits for besides health: what is being deleted, a kind that is to come, what the server refused.
func (r *run) going(s step) string {
	for _, c := range s.changes {
		res, done := r.result(c.Ref, delivery.DuringSync)
		switch {
		case s.prune && r.deleting(c.Ref) && (!done || res.Status == Pruned):
			return "deletion of " + c.Ref.String()
		case done:
		case c.Verb == delivery.Delegated && r.deleting(c.Ref):
			return "deletion of " + c.Ref.String()
		case slices.Contains(r.v.Plan.Awaits, c.Ref):
			return fmt.Sprintf("the CustomResourceDefinition of %s to be established", c.Ref)
		}
	}
	for _, h := range s.hooks {
		if _, done := r.result(h.Ref(), s.moment); !done && r.deleting(h.Ref()) {
			return "deletion of hook " + h.Ref().String()
		}
	}
	return ""
}

// gate tells whether all of a step is healthy, or what is not, and notes what is.
func (r *run) gate(s step) (failure bool, waiting string, after time.Duration) {
	more := 0
	await := func(what string) {
		if waiting == "" {
			waiting = what
		} else {
			more++
		}
	}
	for _, c := range s.changes {
		res, done := r.result(c.Ref, delivery.DuringSync)
		if s.prune || !done || res.Passed {
			continue
		}
		switch h := r.v.Health(c.Ref); h.Status {
		case delivery.Healthy, "":
			res.Passed = true
		case delivery.Degraded:
			res.Message, res.Failed, failure = h.Message, true, true
		default:
			await("healthy state of " + c.Ref.String())
		}
	}
	for _, h := range s.hooks {
		if res, done := r.result(h.Ref(), s.moment); done && res.Hook == delivery.OperationRunning {
			await("completion of hook " + h.Ref().String())
			after = shorter(after, r.left(h.Ref()))
		}
	}
	if more > 0 {
		waiting += fmt.Sprintf(" and %d more", more)
	}
	return failure, waiting, after
}

// shorter gives the shorter of two times, of which zero is none.
func shorter(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
