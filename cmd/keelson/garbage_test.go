package main

import (
	"runtime"
	"runtime/metrics"
	"testing"
	"time"
)

func TestGarbagePercent(t *testing.T) {
	for _, tc := range []struct {
		kept uint64 // MiB
		want int    // percent
	}{
		{0, 200}, {1, 200}, {32, 200}, {33, 193}, {40, 160}, {64, 100}, {65, 100}, {5000, 100},
	} {
		if got := garbagePercent(tc.kept << 20); got != tc.want {
			t.Errorf("%d MiB are kept: garbage of %d %% of it is allowed, want %d %%", tc.kept, got, tc.want)
		}
	}
}

// TestGarbageIsBounded: the collector's target follows what is kept, down and up again.
func TestGarbageIsBounded(t *testing.T) {
	boundGarbage()
	target := func() uint64 {
		s := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	for _, tc := range []struct {
		kept int // MiB
		want uint64
	}{{0, mostGarbage}, {100, fairGarbage}, {0, mostGarbage}} {
		held := make([]byte, tc.kept<<20)
		deadline := time.Now().Add(time.Minute)
		for runtime.GC(); target() != tc.want; runtime.GC() { // what follows a cycle runs a moment after it
			if time.Now().After(deadline) {
				t.Fatalf("while %d MiB are kept the target is %d %%, want %d %%", tc.kept, target(), tc.want)
			}
			time.Sleep(time.Millisecond)
		}
		runtime.KeepAlive(held)
	}
}
