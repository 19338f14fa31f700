//go:build !linux

package lua

import "time"

// boundMemory does nothing: watch bounds memory.
func boundMemory(uint64) {}

// processorTime is not known: the clock bounds how long a script may take.
func processorTime() time.Duration { return 0 }
