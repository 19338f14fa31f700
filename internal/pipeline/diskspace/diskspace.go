// Package diskspace keeps some of a file system free, whatever jobs write to it and leave: a database and a log next to them need room too.
//
//	err := diskspace.Room(dir, size, diskspace.Reserve) // before so many bytes are written below dir: a [*FullError] says that they are too many
package diskspace

import (
	"fmt"
	"syscall"
)

// Reserve are the bytes that stay free where nobody says otherwise.
const Reserve = 512 << 20

// FullError is the error of a file system that has no room for what is to be written.
type FullError struct {
	Dir              string
	Left, Need, Kept int64 // bytes: what is free, what is to be written, what stays free
}

func (e *FullError) Error() string {
	return fmt.Sprintf("%s has %d MiB left; %d MiB are to be written, and %d MiB stay free: make room there", e.Dir, e.Left>>20, (e.Need+1<<20-1)>>20, e.Kept>>20)
}

// Room refuses to write so many bytes below a directory if less than the reserve would be free afterwards. Of a small file system a quarter stays
// free at most; with a negative reserve nothing does. Where a file system does not tell there is room.
func Room(dir string, need, reserve int64) error {
	var st syscall.Statfs_t
	if reserve < 0 || syscall.Statfs(dir, &st) != nil {
		return nil
	}
	left, all := sizes(&st)
	if kept := min(reserve, all/4); left-need < kept {
		return &FullError{Dir: dir, Left: left, Need: need, Kept: kept}
	}
	return nil
}

// Free is what may still be written to the file system of a directory, in bytes.
func Free(dir string) (int64, bool) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, false
	}
	left, _ := sizes(&st)
	return left, true
}

func sizes(st *syscall.Statfs_t) (left, all int64) {
	unit := int64(st.Bsize) //nolint:unconvert // the types differ between systems
	return int64(st.Bavail) * unit, int64(st.Blocks) * unit
}
