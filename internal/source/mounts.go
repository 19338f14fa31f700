package source

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
)

// Mounted is a snapshot that stands in a folder of a composed one.
type Mounted struct {
	At       string // one path element, as "0"
	Snapshot delivery.Snapshot
}

// shown is what a snapshot's file system can do besides reading: enough to tell what of it a render depends on.
type shown interface {
	fs.ReadDirFS
	fs.ReadFileFS
	fs.StatFS
	fs.ReadLinkFS
	Identify(name string) (git.ObjectID, fs.FileMode, error)
	Find(name string) (git.ObjectID, fs.FileMode, error)
	ReadAtMost(name string, limit int64) ([]byte, error)
}

// Compose makes one snapshot of several, each in a folder of its own. No link leads from one into another: what leaves its
// own source is an error that wraps [delivery.ErrEscapes].
//
// Its revision is that of the only source; of several it stands for all of theirs: it is without a name, and the same
// as long as each of them is.
func Compose(mounts []Mounted) (delivery.Snapshot, error) {
	m := &mounted{at: map[string]shown{}, of: map[string]delivery.Snapshot{}}
	content, rules, revisions := sha256.New(), sha256.New(), sha256.New()
	files := map[string]git.File{}
	for _, mount := range slices.SortedFunc(slices.Values(mounts), func(a, b Mounted) int { return cmp.Compare(a.At, b.At) }) {
		tree, ok := mount.Snapshot.FS.(shown)
		switch {
		case !fs.ValidPath(mount.At) || mount.At == "." || strings.Contains(mount.At, "/"):
			return delivery.Snapshot{}, fmt.Errorf("compose sources: '%s' is not the name of a folder", mount.At)
		case m.at[mount.At] != nil:
			return delivery.Snapshot{}, fmt.Errorf("compose sources: '%s' is there twice", mount.At)
		case !ok:
			return delivery.Snapshot{}, fmt.Errorf("compose sources: the snapshot for '%s' is of another kind", mount.At)
		}
		id, _, err := tree.Identify(".")
		if err != nil {
			return delivery.Snapshot{}, fmt.Errorf("compose sources: %w", err)
		}
		m.at[mount.At], m.of[mount.At] = tree, mount.Snapshot
		files[mount.At] = git.File{Data: id[:]}
		fmt.Fprintf(content, "%q %s\n", mount.At, mount.Snapshot.Digest)
		fmt.Fprintf(rules, "%q %s\n", mount.At, mount.Snapshot.Rules)
		fmt.Fprintf(revisions, "%q %s\n", mount.At, mount.Snapshot.Revision)
	}
	root, err := git.TreeOf(files, time.Time{})
	if err != nil {
		return delivery.Snapshot{}, fmt.Errorf("compose sources: %w", err)
	}
	m.root = root
	snap := delivery.Snapshot{
		Revision: delivery.Revision{Commit: hex.EncodeToString(revisions.Sum(nil))},
		Digest:   "sha256:" + hex.EncodeToString(content.Sum(nil)), Rules: hex.EncodeToString(rules.Sum(nil)[:16]), FS: m,
	}
	if len(mounts) == 1 {
		snap.Revision, snap.Origin, snap.Verified = mounts[0].Snapshot.Revision, mounts[0].Snapshot.Origin, mounts[0].Snapshot.Verified
		snap.Commit = mounts[0].Snapshot.Commit
	}
	return snap, nil
}

// mounted is the file system of a composed snapshot. It is safe for concurrent use.
type mounted struct {
	at   map[string]shown
	of   map[string]delivery.Snapshot
	root *git.Tree // the root folder: for each mount a file of that name; its id stands for the content of all
}

var _ shown = (*mounted)(nil)

// in gives the mount that a path leads into, and the path there; nil for the root.
func (m *mounted) in(op, name string) (shown, string, error) {
	if !fs.ValidPath(name) {
		return nil, "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	if name == "." {
		return nil, ".", nil
	}
	first, rest, _ := strings.Cut(name, "/")
	tree := m.at[first]
	if tree == nil {
		return nil, "", &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return tree, cmp.Or(rest, "."), nil
}

// named gives an error of a mount the path as it was asked for.
func named(name string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return &fs.PathError{Op: pe.Op, Path: name, Err: pe.Err}
	}
	return err
}

// Identify gives the id and the type of what stands at a path, whether or not it is left out. No link is followed.
func (m *mounted) Identify(name string) (git.ObjectID, fs.FileMode, error) {
	tree, rest, err := m.in("open", name)
	switch {
	case err != nil:
		return git.ObjectID{}, 0, fs.ErrNotExist
	case tree == nil:
		return m.root.Identify(".")
	}
	return tree.Identify(rest)
}

// Find is [mounted.Identify] for what is part of the snapshot.
func (m *mounted) Find(name string) (git.ObjectID, fs.FileMode, error) {
	tree, rest, err := m.in("open", name)
	switch {
	case err != nil:
		return git.ObjectID{}, 0, fs.ErrNotExist
	case tree == nil:
		return m.root.Identify(".")
	}
	return tree.Find(rest)
}

// Open opens a file or a folder.
func (m *mounted) Open(name string) (fs.File, error) {
	tree, rest, err := m.in("open", name)
	if err != nil {
		return nil, err
	}
	if tree == nil {
		f, err := m.root.Open(name)
		if err != nil {
			return nil, err
		}
		return &folder{File: f, list: m.ReadDir, name: name}, nil
	}
	f, err := tree.Open(rest)
	if err != nil {
		return nil, named(name, err)
	}
	if rest == "." {
		return &folder{File: f, list: m.ReadDir, name: name, base: name}, nil
	}
	return f, nil
}

// ReadFile returns the content of a file.
func (m *mounted) ReadFile(name string) ([]byte, error) {
	tree, rest, err := m.in("read", name)
	switch {
	case err != nil:
		return nil, err
	case tree == nil:
		return m.root.ReadFile(name)
	}
	data, err := tree.ReadFile(rest)
	return data, named(name, err)
}

// ReadAtMost is [mounted.ReadFile] with a limit of its own in bytes.
func (m *mounted) ReadAtMost(name string, limit int64) ([]byte, error) {
	tree, rest, err := m.in("read", name)
	switch {
	case err != nil:
		return nil, err
	case tree == nil:
		return m.root.ReadAtMost(name, limit)
	}
	data, err := tree.ReadAtMost(rest, limit)
	return data, named(name, err)
}

// Stat describes a path, following symbolic links.
func (m *mounted) Stat(name string) (fs.FileInfo, error) {
	return m.stat("stat", name, shown.Stat)
}

// Lstat describes a path; a symbolic link itself, not what it points to.
func (m *mounted) Lstat(name string) (fs.FileInfo, error) {
	return m.stat("lstat", name, shown.Lstat)
}

func (m *mounted) stat(op, name string, ask func(shown, string) (fs.FileInfo, error)) (fs.FileInfo, error) {
	tree, rest, err := m.in(op, name)
	switch {
	case err != nil:
		return nil, err
	case tree == nil:
		return m.root.Stat(name)
	}
	info, err := ask(tree, rest)
	if err != nil {
		return nil, named(name, err)
	}
	if rest == "." {
		return renamed{info, name}, nil
	}
	return info, nil
}

// ReadLink returns the target of a symbolic link. One that leads out of its source has none: the way would go on in another.
func (m *mounted) ReadLink(name string) (string, error) {
	tree, rest, err := m.in("readlink", name)
	switch {
	case err != nil:
		return "", err
	case tree == nil:
		return m.root.ReadLink(name)
	}
	target, err := tree.ReadLink(rest)
	if err != nil {
		return "", named(name, err)
	}
	if _, err := tree.Stat(rest); errors.Is(err, delivery.ErrEscapes) {
		return "", named(name, err)
	}
	return target, nil
}

// ReadDir lists the visible entries of a folder, sorted by name.
func (m *mounted) ReadDir(name string) ([]fs.DirEntry, error) {
	tree, rest, err := m.in("readdir", name)
	switch {
	case err != nil:
		return nil, err
	case tree != nil:
		entries, err := tree.ReadDir(rest)
		return entries, named(name, err)
	}
	var entries []fs.DirEntry
	for at, tree := range m.at {
		info, err := tree.Stat(".")
		if err != nil {
			return nil, named(at, err)
		}
		entries = append(entries, fs.FileInfoToDirEntry(renamed{info, at}))
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return entries, nil
}

// renamed is a source's root as a folder of the composed one.
type renamed struct {
	fs.FileInfo
	name string
}

func (r renamed) Name() string { return path.Base(r.name) }

// folder is an open folder that lists what is visible.
type folder struct {
	fs.File
	list    func(string) ([]fs.DirEntry, error)
	name    string
	base    string // its own name where the file has another; empty: it has not
	entries []fs.DirEntry
	read    bool
}

func (f *folder) Stat() (fs.FileInfo, error) {
	info, err := f.File.Stat()
	if err != nil || f.base == "" {
		return info, err
	}
	return renamed{info, f.base}, nil
}

func (f *folder) Read(p []byte) (int, error) { return f.File.Read(p) }

func (f *folder) ReadDir(n int) ([]fs.DirEntry, error) {
	if !f.read {
		entries, err := f.list(f.name)
		if err != nil {
			return nil, err
		}
		f.entries, f.read = entries, true
	}
	if n <= 0 {
		n = len(f.entries)
	} else if len(f.entries) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(f.entries))
	entries := f.entries[:n]
	f.entries = f.entries[n:]
	return entries, nil
}
