package git

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestTreesInMemory: what is kept of parsed trees is bounded by the entries, not by the trees.
func TestTreesInMemory(t *testing.T) {
	r := &Repository{trees: map[ObjectID]*tree{}}
	big := make([]entry, maxEntries/3)
	for i := range 100 {
		r.keep(&tree{id: ObjectID{byte(i)}, entries: big})
		kept := 0
		for _, t := range r.trees {
			kept += len(t.entries)
		}
		if kept > maxEntries || kept == 0 {
			t.Fatalf("%d entries are kept after %d trees", kept, i+1)
		}
	}
}

func TestTreeTooLarge(t *testing.T) {
	dir := t.TempDir() + "/r.git"
	r, err := Init(t.Context(), dir, "main", Options{})
	if err != nil {
		t.Fatal(err)
	}
	var raw bytes.Buffer
	for i := 0; raw.Len() <= maxTree; i++ {
		fmt.Fprintf(&raw, "100644 %0200d\x00%s", i, strings.Repeat("i", 20))
	}
	out, err := run(t.Context(), command{dir: dir, args: []string{"hash-object", "-t", "tree", "-w", "--stdin"}, stdin: &raw})
	if err != nil {
		t.Fatal(err)
	}
	id, err := ParseObjectID(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.readTree(id); !errors.Is(err, ErrTooLarge) {
		t.Errorf("error %v", err)
	}
}
