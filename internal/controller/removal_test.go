package controller

import (
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/delivery"
)

// TestAwaitGone: an app waits for its objects to be gone for its timeout, counted from when they were deleted.
func TestAwaitGone(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	k := &kustomizations{now: func() time.Time { return now }}
	app := delivery.App{AwaitGone: true, Timeout: time.Minute}
	going := make([]delivery.Ref, 7)
	for i := range going {
		going[i] = delivery.Ref{Kind: "ConfigMap", Namespace: "dev", Name: string(rune('a' + i))}
	}
	st := &appState{}
	for _, want := range []time.Duration{time.Minute, 40 * time.Second, 20 * time.Second} {
		if r := k.awaitGone(app, st, going); r.done || r.after != want || len(r.events) > 0 {
			t.Errorf("%s after the deletion: %+v; want to look again after %s", now.Sub(st.leaving), r, want)
		}
		now = now.Add(20 * time.Second)
	}
	r := k.awaitGone(app, st, going)
	if !r.done || len(r.events) != 1 || !r.events[0].warning || r.events[0].reason != "TerminationTimeout" {
		t.Fatalf("after the timeout: %+v; want it done, with a warning", r)
	}
	for _, part := range []string{"7 objects", "1m0s", "ConfigMap/dev/a", "ConfigMap/dev/e"} {
		if !strings.Contains(r.events[0].message, part) {
			t.Errorf("message %q, want %q in it", r.events[0].message, part)
		}
	}
	if strings.Contains(r.events[0].message, "ConfigMap/dev/f") {
		t.Errorf("message %q names more than a few", r.events[0].message)
	}
}
