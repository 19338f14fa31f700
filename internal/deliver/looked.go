package deliver

import (
	"slices"
	"time"

	"keelson.dev/keelson/internal/delivery"
)

// looked is what an app with operations was told by when it was compared last. As long as nothing of it has changed but health, the app
// is not rendered to be compared again.
type looked struct {
	compared []delivery.Comparison
	seen     map[delivery.Ref]sight
	drifted  []delivery.Ref
	owned    delivery.Inventory
	insync   bool
	blocked  bool      // it may compare otherwise without any sight of that
	retry    time.Time // from then on it does; zero: never
}

// sight is what of an object decides how it compares.
type sight struct {
	uid, shared            string
	owned                  delivery.Hash
	replicas               int64
	owns, deleting, scaled bool
	marks                  delivery.Marks
	owner                  delivery.ID
}

func (e *Engine) sightOf(ref delivery.Ref) sight {
	rec, ok := e.Live.Get(ref)
	if !ok {
		return sight{}
	}
	_, scaled := e.Live.Scaler(ref)
	return sight{
		uid: rec.UID, shared: rec.Shared, owned: rec.Owned, replicas: rec.Replicas, owns: rec.OwnsReplicas, deleting: rec.Deleting,
		scaled: scaled, marks: rec.Marks, owner: rec.Owner,
	}
}

// lookedAt remembers a comparison.
func (e *Engine) lookedAt(state *State, want delivery.Inventory, mem *Memory, now time.Time) looked {
	l := looked{
		compared: state.Compared, drifted: state.Drifted, owned: state.Owned, insync: state.InSync,
		seen: make(map[delivery.Ref]sight, len(want)),
	}
	for _, inv := range []delivery.Inventory{want, mem.Inventory, state.Owned} {
		for ref := range inv {
			l.seen[ref] = e.sightOf(ref)
		}
	}
	if again := now.Add(lookElsewhere); slices.ContainsFunc(state.Plan.Blocks, lifts) && (state.Retry.IsZero() || again.Before(state.Retry)) {
		state.Retry = again
	}
	l.blocked = slices.ContainsFunc(state.Plan.Blocks, lifts) || len(state.Plan.Awaits) > 0 || state.Refused != nil || state.Going != "" || state.unasked
	l.retry = state.Retry
	mem.unsaved = mem.unsaved || mem.pass.digest != ""
	mem.made, mem.desired = state.origin, want
	mem.leave(state.Plan)
	for ref := range mem.applied {
		if _, ok := want[ref]; !ok {
			delete(mem.applied, ref)
			delete(mem.repairs, ref)
		}
	}
	return l
}

// recall makes a comparison of what a controller before this one has left on disk, where all is as it was left; else the zero one.
func (e *Engine) recall(app delivery.ID, mem *Memory) looked {
	if len(mem.desired) == 0 || !e.unchanged(app, mem) {
		return looked{}
	}
	for ref := range mem.Inventory.Minus(mem.desired).Minus(mem.hooks) {
		if _, there := e.Live.Get(ref); there {
			return looked{}
		}
	}
	l := looked{insync: true, seen: make(map[delivery.Ref]sight, len(mem.desired)), owned: e.owned(app, mem.desired, nil, mem)}
	for ref, version := range mem.hooks {
		if rec, there := e.Live.Get(ref); there && rec.Owner == app {
			l.compared = append(l.compared, delivery.Comparison{Ref: ref, Version: rec.Version, Hook: true, Wave: mem.waves[ref]})
			l.owned[ref] = version
		}
	}
	for ref, version := range mem.desired {
		l.compared = append(l.compared, delivery.Comparison{Ref: ref, Version: version, Counts: true, Wave: mem.waves[ref]})
	}
	slices.SortFunc(l.compared, func(a, b delivery.Comparison) int { return a.Ref.Compare(b.Ref) })
	for _, inv := range []delivery.Inventory{mem.desired, mem.Inventory, l.owned} {
		for ref := range inv {
			l.seen[ref] = e.sightOf(ref)
		}
	}
	return l
}

// lifts tells whether a block may go without anything that wakes the app.
func lifts(b delivery.Block) bool {
	return b.Fault.Reason == "KindNotFound" || b.Fault.Reason == "OwnershipConflict"
}

// differs tells whether an object has changed since a comparison in what decides it.
func (e *Engine) differs(l looked) bool {
	for ref, was := range l.seen {
		if e.sightOf(ref) != was {
			return true
		}
	}
	return false
}

// glanced is [Engine.Glance] for an app with operations.
func (e *Engine) glanced(req Request, mem *Memory, state State) (State, bool, error) {
	if l := mem.looked; l.seen == nil || !l.blocked && e.differs(l) {
		// Not looked at yet, or not since what was sent came back: then all that was sent is there, and that is known too.
		mem.looked = e.recall(req.App.ID, mem)
	}
	l := mem.looked
	if l.seen == nil || l.blocked || !l.retry.IsZero() && !req.Now.Before(l.retry) || e.differs(l) {
		return state, false, nil
	}
	mem.remember(req.Snapshot)
	state.Compared = make([]delivery.Comparison, len(l.compared))
	for i, c := range l.compared {
		_, verdict := mem.verdicts[c.Ref]
		if _, stranger := mem.strangers[c.Ref]; !stranger && !verdict {
			c.Health = e.comparedHealth(c.Ref, mem)
		}
		state.Compared[i] = c
	}
	state.Drifted, state.Owned, state.InSync = l.drifted, l.owned, l.insync
	state.Plan.Inventory, state.Retry = mem.desired, l.retry
	state.Health = healthOfAll(req.App, state.Compared)
	return state, true, nil
}
