package artifact

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"
)

// Bounds of the index of a repository that a job may have changed.
const (
	maxIndex     = 256 << 20 // bytes of the file, and of all names that are in it
	maxIndexName = 4096      // bytes of a name
)

// errNoRepository is the error of a project directory without a repository.
var errNoRepository = errors.New("there is no git repository in the project directory")

// tracked gives the files that git tracks in a project directory, by its index. The job could write to the repository, and git does what a
// repository's configuration says (core.fsmonitor names a program): so git is not asked.
func tracked(root *os.Root, l Limits) ([]string, error) {
	switch info, err := root.Lstat(".git"); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errNoRepository
	case err != nil:
		return nil, err
	case !info.IsDir():
		return nil, errors.New(".git is not a directory")
	}
	f, err := root.OpenFile(".git/index", os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would keep us waiting
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // nothing was ever added
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New(".git/index is not a file")
	case info.Size() > maxIndex:
		return nil, fmt.Errorf(".git/index is larger than %d MiB", maxIndex>>20)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxIndex))
	if err != nil {
		return nil, err
	}
	names, err := parseIndex(content, 20, l.Files)
	if err != nil {
		if other, err := parseIndex(content, 32, l.Files); err == nil { // hashes of SHA-256
			return other, nil
		}
		return nil, fmt.Errorf(".git/index: %w", err)
	}
	return names, nil
}

// errIndex is the error of an index that breaks off or is none.
var errIndex = errors.New("it is no index of git, or damaged")

// parseIndex gives the names in an index (gitformat-index(5)), whose hashes have so many bytes.
func parseIndex(b []byte, hash, most int) ([]string, error) {
	if len(b) < 12+hash || string(b[:4]) != "DIRC" {
		return nil, errIndex
	}
	version, count := binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	if version < 2 || version > 4 {
		return nil, fmt.Errorf("version %d of the format is not known", version)
	}
	if int64(count) > int64(most) {
		return nil, fmt.Errorf("it has more than %d files", most)
	}
	b = b[12 : len(b)-hash] // the checksum is not looked at: git may leave it out
	var names []string
	var last []byte
	total := 0
	for range count {
		var err error
		if last, b, err = indexEntry(b, hash, version, last); err != nil {
			return nil, err
		}
		if total += len(last); total > maxIndex {
			return nil, fmt.Errorf("its names have more than %d MiB", maxIndex>>20)
		}
		names = append(names, string(last))
	}
	for len(b) > 0 { // extensions; those in small letters change what the entries mean
		if len(b) < 8 {
			return nil, errIndex
		}
		size := int64(binary.BigEndian.Uint32(b[4:]))
		switch {
		case size > int64(len(b)-8):
			return nil, errIndex
		case b[0] < 'A' || b[0] > 'Z':
			return nil, fmt.Errorf("it is split or sparse (extension %q), which is not read here", b[:4])
		}
		b = b[8+size:]
	}
	if slices.Contains(names, "") { // a split one has such
		return nil, errIndex
	}
	return names, nil
}

// indexEntry takes the first entry of what is left of an index. The name of the entry before is needed where names are compressed.
func indexEntry(b []byte, hash int, version uint32, last []byte) (name, rest []byte, err error) {
	head := 40 + hash + 2
	if len(b) < head {
		return nil, nil, errIndex
	}
	if version >= 3 && b[head-2]&0x40 != 0 {
		head += 2
	}
	at, keep := head, 0
	if version == 4 {
		drop, n := indexVarint(b[min(at, len(b)):])
		if n == 0 || drop > len(last) {
			return nil, nil, errIndex
		}
		at, keep = at+n, len(last)-drop
	}
	if at > len(b) {
		return nil, nil, errIndex
	}
	end := bytes.IndexByte(b[at:], 0)
	if end < 0 || keep+end > maxIndexName {
		return nil, nil, errIndex
	}
	name = append(append(make([]byte, 0, keep+end), last[:keep]...), b[at:at+end]...)
	next := at + end + 1
	if version < 4 {
		next = (head + end + 8) &^ 7 // NULs up to a multiple of eight
	}
	if next > len(b) {
		return nil, nil, errIndex
	}
	return name, b[next:], nil
}

// indexVarint reads git's number of variable length and how many bytes it has; 0: there is none.
func indexVarint(b []byte) (value, n int) {
	for n < len(b) && n < 4 {
		c := int(b[n])
		n++
		value = value<<7 + c&0x7f
		if c&0x80 == 0 {
			return value, n
		}
		value++
	}
	return 0, 0
}
