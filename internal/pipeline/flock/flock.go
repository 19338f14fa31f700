// Package flock locks files against other processes without being stuck where one of them does not let go.
package flock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// pause is how often one looks whether a lock is free.
const pause = 10 * time.Millisecond

// Lock locks an open file, exclusively or shared with others who share it, and waits for that until ctx ends. Closing the file
// lets go of it, and so does the end of the process.
func Lock(ctx context.Context, f *os.File, exclusive bool) error {
	how := unix.LOCK_SH | unix.LOCK_NB
	if exclusive {
		how = unix.LOCK_EX | unix.LOCK_NB
	}
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for another process: %w", context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}
