package deliver

import (
	"fmt"
	"strings"

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
	case len(stage.Changes) == 0 && state.Refused != nil:
		return Action{Kind: Stall, Fault: state.Refused}
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
