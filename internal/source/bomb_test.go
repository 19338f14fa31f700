package source_test

import (
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/source"
)

// bomb commits a few trees that stand for 10^levels files.
func (w *world) bomb(name string, levels int) {
	w.t.Helper()
	head := w.commit(name, fstest.MapFS{"f": file("f")})
	tree := w.git(name, "rev-parse", head+"^{tree}")
	for range levels {
		id, err := hex.DecodeString(tree)
		if err != nil {
			w.t.Fatal(err)
		}
		var raw []byte
		for i := range 10 {
			raw = append(append(raw, "40000 d"+string(rune('0'+i))+"\x00"...), id...)
		}
		at := filepath.Join(w.t.TempDir(), "tree")
		if err := os.WriteFile(at, raw, 0o600); err != nil {
			w.t.Fatal(err)
		}
		tree = w.git(name, "hash-object", "-t", "tree", "-w", at)
	}
	w.git(name, "update-ref", "refs/heads/main", w.git(name, "commit-tree", "-m", "bomb", tree))
}

// TestEndlessTrees: a few trees that stand for a billion files are a fault, not an hour of work.
func TestEndlessTrees(t *testing.T) {
	source.LimitVisited(t, 1<<12)
	w := newWorld(t)
	w.bomb("bomb", 9)
	w.commit("main", fstest.MapFS{"a": file("a")})
	bomb, src := w.source("bomb"), w.source("main")
	src.Include = []delivery.Include{{Source: bomb.ID, From: ".", To: "lib"}}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := fetchIncluding(t, w.f, src, bomb)
	if f := (*delivery.Fault)(nil); !errors.As(err, &f) || !errors.Is(err, git.ErrTooMany) {
		t.Errorf("include: %v", err)
	}
	bomb.HasIgnore, bomb.Ignore = true, "/*\n!needle\n"
	snap := snapshotOf(t, w.f, bomb)
	found := make(chan error, 1)
	go func() {
		_, err := snap.FS.Open("d0")
		found <- err
	}()
	select {
	case err = <-found:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if !errors.Is(err, git.ErrTooMany) {
		t.Errorf("ignore: %v", err)
	}
}
