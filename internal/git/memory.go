package git

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // ids of Git objects are SHA-1
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"
)

// File is a file of a tree that is in no repository.
type File struct {
	Data       []byte // not to be changed any more
	Executable bool
}

// TreeOf gives the tree of some files, by their paths. It is in memory, with the ids that it would have in a repository.
func TreeOf(files map[string]File, when time.Time) (*Tree, error) {
	for name := range files {
		if !fs.ValidPath(name) || name == "." {
			return nil, &fs.PathError{Op: "add", Path: name, Err: fs.ErrInvalid}
		}
		if strings.Count(name, "/") > maxComposed {
			return nil, fmt.Errorf("add '%s…': it is more than %d folders deep", truncate(name, 64), maxComposed)
		}
	}
	names := slices.SortedFunc(maps.Keys(files), func(a, b string) int { return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/")) })
	root, err := folderOfFiles(entry{name: "."}, names, "", files)
	if err != nil {
		return nil, err
	}
	return &Tree{root: root, when: when}, nil
}

// folderOfFiles makes a folder of the files whose paths, in order, all begin with prefix.
func folderOfFiles(e entry, names []string, prefix string, files map[string]File) (entry, error) {
	var entries []entry
	for len(names) > 0 {
		first, _, deeper := strings.Cut(names[0][len(prefix):], "/")
		if !deeper {
			if len(entries) > 0 && entries[len(entries)-1].name == first {
				return e, fmt.Errorf("add '%s': %w", names[0], ErrOccupied)
			}
			entries = append(entries, fileOf(first, files[names[0]]))
			names = names[1:]
			continue
		}
		in := 1
		below := prefix + first + "/"
		for in < len(names) && strings.HasPrefix(names[in], below) {
			in++
		}
		if len(entries) > 0 && entries[len(entries)-1].name == first {
			return e, fmt.Errorf("add '%s': %w", names[0], ErrOccupied)
		}
		sub, err := folderOfFiles(entry{name: first}, names[:in], below, files)
		if err != nil {
			return e, err
		}
		entries = append(entries, sub)
		names = names[in:]
	}
	return folderOf(e, entries), nil
}

func fileOf(name string, f File) entry {
	h := sha1.New() //nolint:gosec // ids of Git objects are SHA-1
	fmt.Fprintf(h, "blob %d\x00", len(f.Data))
	h.Write(f.Data)
	e := entry{name: name, mode: 0o644, id: ObjectID(h.Sum(nil)), made: &tree{data: f.Data}}
	if f.Executable {
		e.mode = 0o755
	}
	return e
}

// content gives what is in a file that is in no repository.
func (e entry) content(limit int64) ([]byte, error) {
	if size := int64(len(e.made.data)); size > limit {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, size, limit)
	}
	return bytes.Clone(e.made.data), nil
}
