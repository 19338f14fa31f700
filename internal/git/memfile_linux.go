package git

import (
	"os"

	"golang.org/x/sys/unix"
)

// descriptors is where a process finds what it has inherited.
const descriptors = "/proc/self/fd"

// memoryFile is a file that has no name and is on no disk: a child that inherits it opens it below [descriptors].
func memoryFile(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("keelson", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "keelson")
	if _, err := f.Write(content); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
