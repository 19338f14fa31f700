package source_test

import (
	"context"
	"testing"
	"testing/fstest"
	"time"

	"keelson.dev/keelson/internal/source"
)

// TestFetchWhileAnotherIsStuck: what is here is handed out while somebody fetches into the same mirror for ever.
func TestFetchWhileAnotherIsStuck(t *testing.T) {
	w := newWorld(t)
	w.commit("r", fstest.MapFS{"a": file("a")})
	src := w.source("r")
	rev := snapshot(t, w.remote, src).Revision
	release := source.HoldMirror(t, w.remote, src)
	defer release()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := w.remote.Fetch(ctx, src, rev); err != nil {
		t.Error(err)
	}
}
