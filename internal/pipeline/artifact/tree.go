package artifact

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// entry is a file, a directory or a symbolic link of a tree.
type entry struct {
	Path     string      `json:"p"` // slash-separated, relative to the project directory
	Mode     fs.FileMode `json:"m"` // type and permissions
	Size     int64       `json:"s,omitempty"`
	Link     string      `json:"l,omitempty"` // the target of a link, as it is written
	Modified int64       `json:"t,omitempty"` // nanoseconds since 1970
	Blob     string      `json:"b,omitempty"` // the hash of what holds the content; empty: the file is empty
	Offset   int64       `json:"o,omitempty"` // where in it the content begins
}

func (e entry) modified() time.Time { return time.Unix(0, e.Modified) }

// tree is all files of an artifact, of a report or of a cache.
type tree struct {
	Entries []entry          `json:"entries"`
	Blobs   map[string]int64 `json:"blobs"` // the size of each
}

// Sizes of bundles in bytes. A file up to bundleFile goes into a bundle; a bundle ends at a name that says so once it has
// bundleMin, and at bundleMax in any case.
const (
	bundleFile = 128 << 10
	bundleMin  = 256 << 10
	bundleMax  = 4 << 20
)

// unit is what is written and read in one go: a large file, or the small files of a bundle. It has indexes of entries.
type unit []int

// units cuts the files of a sorted list into units.
func units(entries []entry) []unit {
	var all []unit
	var open unit
	var size int64
	end := func() {
		if len(open) > 0 {
			all = append(all, open)
		}
		open, size = nil, 0
	}
	for i, e := range entries {
		switch {
		case !e.Mode.IsRegular() || e.Size == 0:
		case e.Size > bundleFile:
			all = append(all, unit{i})
		default:
			if size+e.Size > bundleMax {
				end()
			}
			open, size = append(open, i), size+e.Size
			h := fnv.New32a()
			h.Write([]byte(e.Path))
			if size >= bundleMin && h.Sum32()%128 == 0 {
				end()
			}
		}
	}
	end()
	return all
}

// unsafeError says what is wrong with a name or a link of an archive.
type unsafeError struct {
	name string
	what string
}

func (e *unsafeError) Error() string {
	name := e.name
	if len(name) > 200 {
		name = name[:200] + "…"
	}
	return fmt.Sprintf("%q %s", name, e.what)
}

// check refuses a list of entries that must not be written to a directory: see the package's comment. Links of strangers
// (foreign) have to stay in the directory.
func check(entries []entry, l Limits, foreign bool) error {
	if len(entries) > l.Files {
		return fmt.Errorf("it has %d files, the limit is %d", len(entries), l.Files)
	}
	kinds := make(map[string]fs.FileMode, len(entries))
	links := map[string]string{}
	var total int64
	for _, e := range entries {
		if err := checkName(e.Path); err != nil {
			return err
		}
		if _, twice := kinds[e.Path]; twice {
			return &unsafeError{e.Path, "is there twice"}
		}
		kinds[e.Path] = e.Mode.Type()
		switch e.Mode.Type() {
		case fs.ModeDir:
		case fs.ModeSymlink:
			if e.Link == "" || len(e.Link) > 4095 || strings.ContainsRune(e.Link, 0) {
				return &unsafeError{e.Path, "is a link without a usable target"}
			}
			links[e.Path] = e.Link
		case 0:
			if e.Size < 0 || e.Size > l.Bytes || total+e.Size > l.Bytes {
				return fmt.Errorf("its files have more than %s", sizeText(l.Bytes))
			}
			total += e.Size
		default:
			return &unsafeError{e.Path, "is neither a file, a directory nor a link"}
		}
	}
	for _, e := range entries {
		for dir := path.Dir(e.Path); dir != "."; dir = path.Dir(dir) {
			kind, there := kinds[dir]
			switch {
			case !there || kind == fs.ModeDir:
			case kind == fs.ModeSymlink:
				return &unsafeError{e.Path, "goes through a link, " + quote(dir)}
			default:
				return &unsafeError{e.Path, "is below a file, " + quote(dir)}
			}
		}
	}
	if foreign {
		budget := maxSteps
		for at := range links {
			if !staysInside(links, at, &budget) {
				return &unsafeError{at, "is a link that points outside of the directory: " + quote(links[at])}
			}
		}
	}
	return nil
}

func quote(name string) string { return fmt.Sprintf("%q", name) }

// checkName refuses names that are no plain paths below a directory.
func checkName(name string) error {
	switch {
	case name == "":
		return &unsafeError{name, "is an empty name"}
	case !utf8.ValidString(name):
		return &unsafeError{name, "is not valid UTF-8"}
	case strings.ContainsRune(name, 0):
		return &unsafeError{name, "has a NUL byte"}
	case strings.HasPrefix(name, "/"):
		return &unsafeError{name, "is an absolute path"}
	case len(name) > 4095:
		return &unsafeError{name, "is longer than 4095 bytes"}
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "..":
			return &unsafeError{name, "points outside of the directory"}
		case part == "" || part == ".":
			return &unsafeError{name, "is not a clean path"}
		case len(part) > 255:
			return &unsafeError{name, "has a part that is longer than 255 bytes"}
		}
	}
	return nil
}

// Bounds of following links: so many on one way, as Linux has it, and so many steps for all links of an archive.
const (
	maxFollowed = 40
	maxSteps    = 10_000_000
)

// staysInside follows a link through the links of its archive and tells whether it ever leaves the directory. It takes its steps
// from a budget.
func staysInside(links map[string]string, at string, budget *int) bool {
	done := path.Dir(at)            // the path so far, "." at the top
	todo := []string{path.Base(at)} // what is still to be gone, the next part last
	for followed := 0; len(todo) > 0; {
		if *budget--; *budget < 0 {
			return false
		}
		part := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if part == ".." {
			if done == "." {
				return false
			}
			done = path.Dir(done)
			continue
		}
		next := path.Join(done, part)
		target, isLink := links[next]
		if !isLink {
			done = next
			continue
		}
		if followed++; followed > maxFollowed || strings.HasPrefix(target, "/") {
			return false
		}
		parts := strings.Split(target, "/")
		slices.Reverse(parts)
		todo = append(todo, parts...)
	}
	return true
}

// checkTree refuses a tree that was not written by this package: one that was changed in the store.
func checkTree(t *tree, l Limits) error {
	if err := check(t.Entries, l, false); err != nil {
		return err
	}
	for _, e := range t.Entries {
		if !e.Mode.IsRegular() || e.Size == 0 {
			continue
		}
		size, ok := t.Blobs[e.Blob]
		if !ok || len(e.Blob) != 64 || e.Offset < 0 || e.Offset > size || e.Size > size-e.Offset ||
			(size > bundleMax && (e.Offset != 0 || e.Size != size)) {
			return &unsafeError{e.Path, "has no content"}
		}
	}
	for hash, size := range t.Blobs {
		if len(hash) != 64 || strings.Trim(hash, "0123456789abcdef") != "" || size < 0 {
			return errors.New("its list of contents is malformed")
		}
	}
	return nil
}

// sortEntries puts entries into the order of paths, a directory before what is in it.
func sortEntries(entries []entry) {
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.Path, b.Path) })
}
