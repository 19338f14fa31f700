package deliver

import (
	"testing"

	"keelson.dev/keelson/internal/delivery"
)

// TestMove: what is known of one cluster says nothing about another, in this process and in the next.
func TestMove(t *testing.T) {
	tests := map[string]struct {
		from, to    string
		moved, kept bool
	}{
		"the same":            {"home", "home", false, true},
		"another":             {"home", "https://a 1", true, false},
		"and back":            {"https://a 1", "home", true, false},
		"the same, elsewhere": {"https://a 1", "https://a 1", false, true},
		"not known before":    {"", "home", false, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			records, err := OpenRecords(t.TempDir(), "v1")
			if err != nil {
				t.Fatal(err)
			}
			app := delivery.App{ID: delivery.ID{Kind: "Kustomization", Namespace: "dev", Name: "app"}, UID: "uid"}
			before := delivered(t, records.Key())
			before.cluster = tt.from
			if err := records.Save(app.ID, before); err != nil {
				t.Fatal(err)
			}
			after := &Memory{Inventory: before.Inventory}
			records.Load(app, after)
			for process, mem := range map[string]*Memory{"this": before, "the next": after} {
				from, moved := mem.Move(tt.to)
				if from != tt.from || moved != tt.moved {
					t.Errorf("in %s process it moved %v from %q, want %v from %q", process, moved, from, tt.moved, tt.from)
				}
				if kept := mem.made.inputs.Known() && len(mem.applied) == 2; kept != tt.kept {
					t.Errorf("in %s process what was applied is kept: %v, want %v", process, kept, tt.kept)
				}
				if len(mem.Inventory) != 2 {
					t.Errorf("in %s process the inventory has %d entries", process, len(mem.Inventory))
				}
			}
		})
	}
}
