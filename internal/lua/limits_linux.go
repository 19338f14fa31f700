package lua

import (
	"syscall"
	"time"
)

// boundMemory has the process get no more memory than that, in bytes: where it asks for more it ends.
func boundMemory(most uint64) {
	// An error leaves what watch bounds.
	_ = syscall.Setrlimit(syscall.RLIMIT_DATA, &syscall.Rlimit{Cur: most, Max: most})
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
}

// processorTime is how long the process has had a processor.
func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
