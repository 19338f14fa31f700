package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// What may lie around beside what is kept before the collector runs. What a render leaves behind is much, so a small
// server trades memory for time; with a large fleet that trade would double its size.
const (
	smallGarbage             = 64 << 20 // bytes: as much is always allowed, within most of what is kept
	mostGarbage, fairGarbage = 200, 100 // percent of what is kept
)

// garbagePercent is the target of the collector (GOGC, see runtime/debug.SetGCPercent) for so many bytes that are kept.
func garbagePercent(kept uint64) int {
	if kept == 0 {
		return mostGarbage
	}
	return int(min(mostGarbage, max(fairGarbage, smallGarbage*100/kept)))
}

// boundGarbage sets the collector's target now and after each of its cycles, for the rest of the process.
func boundGarbage() {
	debug.SetGCPercent(mostGarbage)
	afterCycle(mostGarbage)
}

// cycle is an object that nobody keeps: the collector finds it in its next cycle. It has a pointer, since the smallest
// objects without one share their memory and may be kept by others.
type cycle struct{ _ *cycle }

// afterCycle has the target, which is percent now, follow what the next cycle finds to be kept.
func afterCycle(percent int) {
	runtime.AddCleanup(&cycle{}, func(percent int) {
		kept := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(kept)
		if next := garbagePercent(kept[0].Value.Uint64()); next != percent {
			debug.SetGCPercent(next)
			percent = next
		}
		afterCycle(percent)
	}, percent)
}
