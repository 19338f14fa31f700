package deliver

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/apply"
	"keelson.dev/keelson/internal/delivery"
)

func TestNext(t *testing.T) {
	change := func(v delivery.Verb) []delivery.Change { return []delivery.Change{{Verb: v}} }
	fault := &delivery.Fault{Reason: "ImmutableField", Err: errors.New("no")}
	tests := map[string]struct {
		reason string
		state  State
		want   ActionKind
		stage  string
	}{
		"not everything known": {"nothing is decided in ignorance", State{Waiting: "a list", Plan: delivery.Plan{Blocks: []delivery.Block{{Fault: fault}}}}, Wait, ""},
		"blocked":              {"a block forbids the whole plan", State{Plan: delivery.Plan{Blocks: []delivery.Block{{Fault: fault}}, Stages: []delivery.Stage{{Name: "Objects", Changes: change(delivery.Create)}}}}, Stall, ""},
		"nothing to do":        {"unchanged objects are no work", State{Plan: delivery.Plan{Stages: []delivery.Stage{{Name: "Objects", Changes: change(delivery.Unchanged)}}}}, None, ""},
		"apply":                {"the first stage with work", State{Plan: delivery.Plan{Stages: []delivery.Stage{{Name: "Namespaces", Changes: change(delivery.Unchanged)}, {Name: "Objects", Changes: change(delivery.Repair)}}}}, Apply, "Objects"},
		"prune":                {"deletes are told apart", State{Plan: delivery.Plan{Stages: []delivery.Stage{{Name: "Prune", Changes: change(delivery.Delete)}}}}, Prune, "Prune"},
		"kind to come": {"a kind must be established before its objects are sent", State{Plan: delivery.Plan{
			Awaits: []delivery.Ref{{Kind: "Widget"}},
			Stages: []delivery.Stage{{Name: "CustomResourceDefinitions", Changes: change(delivery.Unchanged)}, {Name: "Objects", Changes: change(delivery.Create)}},
		}}, Wait, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := Next(tt.state)
			if got.Kind != tt.want || got.Stage.Name != tt.stage {
				t.Errorf("Next = %s %q, want %s %q: %s", got.Kind, got.Stage.Name, tt.want, tt.stage, tt.reason)
			}
		})
	}
}

func TestBlocksFault(t *testing.T) {
	var blocks []delivery.Block
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g"} {
		blocks = append(blocks, delivery.Block{Fault: &delivery.Fault{Reason: "R", Where: name, Err: errors.New("no")}})
	}
	if got, want := blocksFault(blocks[:2]).Error(), "a: no; b: no"; got != want {
		t.Errorf("two blocks: %q, want %q", got, want)
	}
	if got, want := blocksFault(blocks).Error(), "a: no; b: no; c: no; d: no; e: no; and 2 more"; got != want {
		t.Errorf("many blocks: %q, want %q", got, want)
	}
}

func TestRepairsBackOff(t *testing.T) {
	ref := delivery.Ref{Kind: "ConfigMap", Name: "contested"}
	start := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	var mem Memory
	var pauses []time.Duration
	now := start
	for range 8 {
		mem.countRepair(delivery.Change{Ref: ref, Verb: delivery.Repair}, now)
		due := now
		if at, ok := mem.notBefore()[ref]; ok {
			due = at
		}
		pauses = append(pauses, due.Sub(now))
		now = due
	}
	want := []time.Duration{0, 0, 0, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second}
	if diff := cmp.Diff(want, pauses); diff != "" {
		t.Errorf("pauses:\n%s", diff)
	}
	now = now.Add(calm + time.Minute)
	mem.countRepair(delivery.Change{Ref: ref, Verb: delivery.Repair}, now)
	if at := earliest(mem.notBefore(), now); !at.IsZero() {
		t.Errorf("after a calm time the next repair waits until %s, want at once", at)
	}
	mem.countRepair(delivery.Change{Ref: ref, Verb: delivery.Update}, now)
	if got := mem.repairs[ref].count; got != 1 {
		t.Errorf("an update counted as a repair: %d", got)
	}
}

// TestReplacementsBackOff: what is made anew again and again is made anew ever more rarely, and its app does not spin meanwhile.
func TestReplacementsBackOff(t *testing.T) {
	ref := delivery.Ref{Kind: "Job", Name: "rewritten"}
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	replace := delivery.Change{Ref: ref, Verb: delivery.Replace}
	var mem Memory
	for range 6 {
		mem.countRepair(replace, now)
	}
	mem.refuse(apply.Result{Change: replace, Immutable: true}, &delivery.Fault{Err: errors.New("field is immutable")}, delivery.App{RetryInterval: time.Second}, now)
	plan := delivery.Plan{Stages: []delivery.Stage{{Changes: []delivery.Change{{Ref: ref, Verb: delivery.Paused}}}}}
	fault, due := mem.paused(plan)
	if want := now.Add(4 * time.Second); fault == nil || !due.Equal(want) {
		t.Errorf("refused for %v until %s, want until %s", fault, due, want)
	}
}

func TestClaims(t *testing.T) {
	a, b := delivery.ID{Kind: "Kustomization", Name: "a"}, delivery.ID{Kind: "Kustomization", Name: "b"}
	x, y := delivery.Ref{Kind: "ConfigMap", Name: "x"}, delivery.Ref{Kind: "ConfigMap", Name: "y"}
	c := NewClaims()
	if conflicts, _ := c.Set(a, delivery.Inventory{x: "v1"}); len(conflicts) != 0 {
		t.Fatalf("first claim conflicts: %v", conflicts)
	}
	conflicts, _ := c.Set(b, delivery.Inventory{x: "v1", y: "v1"})
	if diff := cmp.Diff([]delivery.Ref{x}, conflicts); diff != "" {
		t.Errorf("second claimant's conflicts:\n%s", diff)
	}
	if owner, other := c.Other(b, x); !other || owner != a {
		t.Errorf("x belongs to %v, %v; want a", owner, other)
	}
	if _, other := c.Other(b, y); other {
		t.Error("y is b's own")
	}
	_, released := c.Set(a, nil)
	if diff := cmp.Diff([]delivery.Ref{x}, released); diff != "" {
		t.Errorf("released:\n%s", diff)
	}
	if conflicts, _ := c.Set(b, delivery.Inventory{x: "v1", y: "v1"}); len(conflicts) != 0 {
		t.Errorf("x is free, but conflicts: %v", conflicts)
	}
	if diff := cmp.Diff(2, len(c.Drop(b))); diff != "" {
		t.Errorf("dropping b releases both:\n%s", diff)
	}
}
