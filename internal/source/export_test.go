package source

import (
	"context"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/delivery"
)

// LimitVisited sets how many files and folders are looked at, for one test.
func LimitVisited(t *testing.T, n int) {
	was := maxVisited
	maxVisited = n
	t.Cleanup(func() { maxVisited = was })
}

// LimitHistory sets how many commits of a source a mirror has, for one test.
func LimitHistory(t *testing.T, long, short int) {
	was := [2]int{longHistory, shortHistory}
	longHistory, shortHistory = long, short
	t.Cleanup(func() { longHistory, shortHistory = was[0], was[1] })
}

// HoldMirror takes the lock of a source's mirror, as one who fetches into it.
func HoldMirror(t *testing.T, f *Fetcher, src delivery.Source) (release func()) {
	t.Helper()
	target, err := f.target(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	r := f.entry(f.mirrorDir(target))
	if err := r.acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r.release
}

// PanicOnce has a panic in an exchange that several share.
func PanicOnce(t *testing.T, f *Fetcher) {
	t.Helper()
	_, err := f.once(t.Context(), "key", time.Minute, func(context.Context) ([]byte, error) { panic("in an exchange") })
	if err == nil || !strings.Contains(err.Error(), "internal error: in an exchange") {
		t.Error(err)
	}
}
