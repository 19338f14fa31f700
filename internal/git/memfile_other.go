//go:build !linux

package git

import "os"

// descriptors is where a process finds what it has inherited.
const descriptors = "/dev/fd"

// memoryFile is a file that only this process could open (0600), and that has no name any more.
func memoryFile(content []byte) (*os.File, error) {
	f, err := os.CreateTemp("", "keelson-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(content); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := f.Seek(0, 0); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
