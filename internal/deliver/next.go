package deliver

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/internal/delivery"
)

// ActionKind is what to do next about an app.
type ActionKind string

// The actions.
const (
	None  ActionKind = "None"  // everything is as Git wants it
	Apply ActionKind = "Apply" // carry out Stage
	Prune ActionKind = "Prune" // carry out Stage, which only deletes
	Wait  ActionKind = "Wait"  // something that is watched has to happen first
	Stall ActionKind = "Stall" // Fault forbids every change
)

// Action is the next step, decided.
type Action struct {
	Kind    ActionKind
	Stage   delivery.Stage
	Waiting string
	Fault   *delivery.Fault
}

// Next decides the next step from what was observed. It is pure.
func Next(state State) Action {
	if state.Waiting != "" {
		return Action{Kind: Wait, Waiting: state.Waiting}
	}
	if len(state.Plan.Blocks) > 0 {
		return Action{Kind: Stall, Fault: blocksFault(state.Plan.Blocks)}
	}
	stage, ok := state.Plan.Next()
	switch {
	case !ok && state.Going != "":
		return Action{Kind: Wait, Waiting: state.Going + " to be gone: it is being deleted and will be made anew"}
	case !ok:
		return Action{Kind: None}
	case len(stage.Changes) == 0:
		return Action{Kind: Wait, Waiting: fmt.Sprintf("the CustomResourceDefinition of %s to be established", state.Plan.Awaits[0])}
	case strings.HasPrefix(stage.Name, "Prune"):
		return Action{Kind: Prune, Stage: stage}
	}
	return Action{Kind: Apply, Stage: stage}
}

// maxBlocks bounds how many blocks a message tells.
const maxBlocks = 5

// blocksFault gives several blocks as one fault: the first one's reason, all their texts.
func blocksFault(blocks []delivery.Block) *delivery.Fault {
	first := *blocks[0].Fault
	if len(blocks) == 1 {
		return &first
	}
	text := ""
	for i, b := range blocks {
		if i == maxBlocks {
			text += fmt.Sprintf("; and %d more", len(blocks)-maxBlocks)
			break
		}
		if i > 0 {
			text += "; " + b.Fault.Where + ": "
		}
		text += b.Fault.Err.Error()
	}
	first.Err = fmt.Errorf("%s", text)
	return &first
}

const (
	freeRepairs  = 3           // repairs of one object in a row without a pause
	calm         = time.Minute // an object that stayed repaired this long starts anew
	maxRepairGap = 5 * time.Minute
)

// countRepair notes a repair, so that one that keeps being undone is made less and less often.
func (mem *Memory) countRepair(c delivery.Change, now time.Time) {
	if c.Verb != delivery.Repair {
		return
	}
	if mem.repairs == nil {
		mem.repairs = map[delivery.Ref]repairs{}
	}
	r := mem.repairs[c.Ref]
	if now.Sub(r.last) > calm+gap(r.count) {
		r.count = 0
	}
	mem.repairs[c.Ref] = repairs{count: r.count + 1, last: now}
}

// gap is the pause before the repair that follows count repairs in a row.
func gap(count int) time.Duration {
	if count <= freeRepairs {
		return 0
	}
	return min(time.Second<<min(count-freeRepairs-1, 20), maxRepairGap)
}

// notBefore says when each object may be repaired again.
func (mem *Memory) notBefore() map[delivery.Ref]time.Time {
	out := map[delivery.Ref]time.Time{}
	for ref, r := range mem.repairs {
		if g := gap(r.count); g > 0 {
			out[ref] = r.last.Add(g)
		}
	}
	return out
}

// earliest gives the first time after now; zero: none.
func earliest(times map[delivery.Ref]time.Time, now time.Time) time.Time {
	var first time.Time
	for _, t := range slices.SortedFunc(maps.Values(times), time.Time.Compare) {
		if t.After(now) {
			first = t
			break
		}
	}
	return first
}
