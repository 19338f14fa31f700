package git

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"keelson.dev/keelson/internal/delivery"
)

// maxLinks is how many symbolic links one path may lead through, as in the kernel.
const maxLinks = 40

// maxLinkTarget bounds the length of a symbolic link's target in bytes.
const maxLinkTarget = 4096

// entry is one line of a tree.
type entry struct {
	name string
	mode fs.FileMode // type bits and permissions
	id   ObjectID
	sub  bool // a submodule: shown as an empty directory
	// Where to read it, in a tree that is made of several repositories' ([Compose]); nil: where the folder is read that
	// holds it.
	repo *Repository
	made *tree // its entries or data, of what is in no repository
}

// tree is a parsed tree, its entries sorted by name.
type tree struct {
	id      ObjectID
	entries []entry
	data    []byte // of a file that is in no repository ([TreeOf])
}

func (t *tree) find(name string) (entry, bool) {
	i, ok := slices.BinarySearchFunc(t.entries, name, func(e entry, name string) int { return strings.Compare(e.name, name) })
	if !ok {
		return entry{}, false
	}
	return t.entries[i], true
}

// readTree returns a parsed tree, from memory where possible.
func (r *Repository) readTree(id ObjectID) (*tree, error) {
	r.treeMu.RLock()
	t := r.trees[id]
	r.treeMu.RUnlock()
	if t != nil {
		return t, nil
	}
	_, data, err := r.read(treeKind, id, maxTree)
	if errors.Is(err, errMissing) {
		err = r.note(fmt.Errorf("%w: tree %s is missing", ErrCorrupt, id))
	}
	if err != nil {
		return nil, err
	}
	entries, err := parseTree(data)
	if err != nil {
		return nil, fmt.Errorf("tree %s: %w", id, err)
	}
	t = &tree{id: id, entries: entries}
	r.keep(t)
	return t, nil
}

// keep remembers a parsed tree, and forgets all others where they are too many.
func (r *Repository) keep(t *tree) {
	r.treeMu.Lock()
	defer r.treeMu.Unlock()
	if old := r.trees[t.id]; old != nil {
		r.entries -= len(old.entries)
	}
	if len(r.trees) >= maxTrees || r.entries+len(t.entries) > maxEntries {
		clear(r.trees)
		r.entries = 0
	}
	r.trees[t.id] = t
	r.entries += len(t.entries)
}

// parseTree reads "<octal mode> <name>\0<20 bytes of id>" lines. Names that no directory can have are refused.
func parseTree(data []byte) ([]entry, error) {
	var entries []entry
	for len(data) > 0 {
		head, rest, ok := bytes.Cut(data, []byte{0})
		mode, name, ok2 := bytes.Cut(head, []byte{' '})
		if !ok || !ok2 || len(rest) < len(ObjectID{}) {
			return nil, errors.New("malformed tree")
		}
		e := entry{name: string(name), id: ObjectID(rest[:len(ObjectID{})])}
		switch strings.TrimLeft(string(mode), "0") {
		case "40000":
			e.mode = fs.ModeDir | 0o755
		case "100755":
			e.mode = 0o755
		case "120000":
			e.mode = fs.ModeSymlink | 0o777
		case "160000":
			e.mode, e.sub = fs.ModeDir|0o755, true
		default:
			if !bytes.HasPrefix(mode, []byte("100")) {
				return nil, fmt.Errorf("malformed tree: %q has the mode %q", e.name, mode)
			}
			e.mode = 0o644
		}
		if e.name == "" || e.name == "." || e.name == ".." || strings.Contains(e.name, "/") {
			return nil, fmt.Errorf("malformed tree: bad name %q", e.name)
		}
		entries = append(entries, e)
		data = rest[len(ObjectID{}):]
	}
	// Git sorts directories as if their names ended in a slash; an fs.FS sorts by name alone.
	slices.SortStableFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return entries, nil
}

// Tree is a read-only view of one commit's files: an fs.FS with ReadDir, ReadFile, Stat, Lstat and ReadLink.
//
// Symbolic links are followed inside the tree, at most 40 per path; one that leaves the repository is an error that
// wraps [delivery.ErrEscapes] and names the link and its target. Submodules are empty directories. A file above the
// size limit has a Stat but fails with [ErrTooLarge] when it is opened. FileInfo.Sys holds the [ObjectID] (of a
// directory its tree's), FileInfo.ModTime the commit's time. A Tree is safe for concurrent use.
type Tree struct {
	repo *Repository
	root entry
	when time.Time
}

var (
	_ fs.ReadDirFS  = (*Tree)(nil)
	_ fs.ReadFileFS = (*Tree)(nil)
	_ fs.StatFS     = (*Tree)(nil)
	_ fs.ReadLinkFS = (*Tree)(nil)
)

// Tree opens the tree of a commit, given by its full id.
func (r *Repository) Tree(commit string) (*Tree, error) {
	c, err := r.Info(commit)
	if err != nil {
		return nil, err
	}
	if _, err := r.readTree(c.Tree); err != nil {
		return nil, fmt.Errorf("read commit %s: %w", commit, err)
	}
	return &Tree{repo: r, root: entry{name: ".", mode: fs.ModeDir | 0o755, id: c.Tree}, when: c.Committer.When}, nil
}

// ID is the id of the root tree.
func (t *Tree) ID() ObjectID { return t.root.id }

// Real resolves every symbolic link in name and returns the path that is really meant, and whether it is a folder.
// It is cheaper than Stat, which has to ask for the size.
func (t *Tree) Real(name string) (real string, isDir bool, err error) {
	real, e, err := t.walk("open", name, true)
	return real, e.mode.IsDir(), err
}

// Identify gives the id and the type of what stands at a path: no link is followed, no size is looked up and nothing is
// allocated. The error is fs.ErrNotExist itself where there is nothing, as for what lies behind a link or a file.
func (t *Tree) Identify(name string) (ObjectID, fs.FileMode, error) {
	if name == "." {
		return t.root.id, t.root.mode, nil
	}
	if !fs.ValidPath(name) {
		return ObjectID{}, 0, fs.ErrNotExist
	}
	here := t.root
	for rest, more := name, true; more; {
		var part string
		part, rest, more = strings.Cut(rest, "/")
		if !here.mode.IsDir() {
			return ObjectID{}, 0, fs.ErrNotExist
		}
		next, err := t.child(here, part)
		if err != nil {
			return ObjectID{}, 0, err
		}
		here = next
	}
	return here.id, here.mode, nil
}

// step is one folder on the way to a path.
type step struct {
	entry
	path string
}

// walk finds the entry of a path; the last element is followed if it is a link and follow is set.
func (t *Tree) walk(op, name string, follow bool) (string, entry, error) {
	fail := func(err error) (string, entry, error) {
		return "", entry{}, &fs.PathError{Op: op, Path: name, Err: err}
	}
	if !fs.ValidPath(name) {
		return fail(fs.ErrInvalid)
	}
	stack := []step{{t.root, "."}}
	rest := name
	links := 0
	var link, target string // the last link that was followed
	for rest != "" {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		here := stack[len(stack)-1]
		if !here.mode.IsDir() {
			return fail(syscall.ENOTDIR)
		}
		switch part {
		case "", ".":
			continue
		case "..": // only from a link's target
			if len(stack) == 1 {
				return fail(escapes(link, target))
			}
			stack = stack[:len(stack)-1]
			continue
		}
		e, err := t.child(here.entry, part)
		if err != nil {
			return fail(err)
		}
		at := path.Join(here.path, part)
		if e.mode&fs.ModeSymlink == 0 || rest == "" && !follow {
			stack = append(stack, step{e, at})
			continue
		}
		if links++; links > maxLinks {
			return fail(fmt.Errorf("%w: %s", syscall.ELOOP, at))
		}
		link = at
		if target, err = t.target(e); err != nil {
			return fail(err)
		}
		if path.IsAbs(target) {
			return fail(escapes(link, target))
		}
		rest = strings.TrimSuffix(target+"/"+rest, "/")
	}
	last := stack[len(stack)-1]
	return last.path, last.entry, nil
}

func escapes(link, target string) error {
	return fmt.Errorf("symbolic link %s -> %s: %w", link, target, delivery.ErrEscapes)
}

func (t *Tree) child(dir entry, name string) (entry, error) {
	if dir.sub {
		return entry{}, fs.ErrNotExist
	}
	parsed, err := t.entries(dir)
	if err != nil {
		return entry{}, err
	}
	e, ok := parsed.find(name)
	if !ok {
		return entry{}, fs.ErrNotExist
	}
	return e.below(dir), nil
}

// below gives an entry of a folder with the repository that it is read from.
func (e entry) below(dir entry) entry {
	if e.repo == nil {
		e.repo = dir.repo
	}
	return e
}

// entries reads a folder.
func (t *Tree) entries(dir entry) (*tree, error) {
	if dir.made != nil {
		return dir.made, nil
	}
	return t.of(dir).readTree(dir.id)
}

// of is the repository that an entry is read from.
func (t *Tree) of(e entry) *Repository {
	if e.repo != nil {
		return e.repo
	}
	return t.repo
}

// maxFile is the size in bytes up to which a file is read.
func (t *Tree) maxFile(e entry) int64 {
	if e.made != nil {
		return math.MaxInt64
	}
	return t.of(e).maxFile
}

func (t *Tree) target(e entry) (string, error) {
	b, err := t.blob(e, maxLinkTarget)
	return string(b), err
}

// blob reads a file's content; a missing one means that the repository is damaged.
func (t *Tree) blob(e entry, limit int64) ([]byte, error) {
	if e.made != nil {
		return e.content(limit)
	}
	repo := t.of(e)
	_, data, err := repo.read(blobKind, e.id, limit)
	if errors.Is(err, errMissing) {
		err = repo.note(fmt.Errorf("%w: blob %s is missing", ErrCorrupt, e.id))
	}
	return data, err
}

// Open opens a file or a folder.
func (t *Tree) Open(name string) (fs.File, error) {
	_, e, err := t.walk("open", name, true)
	if err != nil {
		return nil, err
	}
	if e.mode.IsDir() {
		return &openDir{tree: t, name: name, e: e}, nil
	}
	data, err := t.blob(e, t.maxFile(e))
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &openFile{Reader: bytes.NewReader(data), info: info{entry: e, base: path.Base(name), size: int64(len(data)), when: t.when}}, nil
}

// ReadFile returns the content of a file.
func (t *Tree) ReadFile(name string) ([]byte, error) { return t.ReadAtMost(name, math.MaxInt64) }

// ReadAtMost is [Tree.ReadFile] with a limit of its own in bytes.
func (t *Tree) ReadAtMost(name string, limit int64) ([]byte, error) {
	_, e, err := t.walk("open", name, true)
	if err != nil {
		return nil, err
	}
	if e.mode.IsDir() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: syscall.EISDIR}
	}
	data, err := t.blob(e, min(limit, t.maxFile(e)))
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return data, nil
}

// ReadDir lists a folder, sorted by name.
func (t *Tree) ReadDir(name string) ([]fs.DirEntry, error) {
	_, e, err := t.walk("readdir", name, true)
	if err != nil {
		return nil, err
	}
	if !e.mode.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: syscall.ENOTDIR}
	}
	entries, err := t.list(e)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	return entries, nil
}

func (t *Tree) list(dir entry) ([]fs.DirEntry, error) {
	if dir.sub {
		return nil, nil
	}
	parsed, err := t.entries(dir)
	if err != nil {
		return nil, err
	}
	list := make([]fs.DirEntry, len(parsed.entries))
	for i, e := range parsed.entries {
		list[i] = dirEntry{tree: t, entry: e.below(dir)}
	}
	return list, nil
}

// Stat describes a path, following symbolic links.
func (t *Tree) Stat(name string) (fs.FileInfo, error) { return t.stat("stat", name, true) }

// Lstat describes a path; a symbolic link itself, not what it points to.
func (t *Tree) Lstat(name string) (fs.FileInfo, error) { return t.stat("lstat", name, false) }

func (t *Tree) stat(op, name string, follow bool) (fs.FileInfo, error) {
	_, e, err := t.walk(op, name, follow)
	if err != nil {
		return nil, err
	}
	i, err := t.info(e, path.Base(name))
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return i, nil
}

// ReadLink returns the target of a symbolic link as it stands in the tree.
func (t *Tree) ReadLink(name string) (string, error) {
	_, e, err := t.walk("readlink", name, false)
	if err != nil {
		return "", err
	}
	if e.mode&fs.ModeSymlink == 0 {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	target, err := t.target(e)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return target, nil
}

// info asks for a file's size, which the tree does not hold.
func (t *Tree) info(e entry, base string) (fs.FileInfo, error) {
	i := info{entry: e, base: base, when: t.when}
	if e.mode.IsDir() {
		return i, nil
	}
	if e.made != nil {
		i.size = int64(len(e.made.data))
		return i, nil
	}
	repo := t.of(e)
	size, err := repo.size(e.id)
	if errors.Is(err, errMissing) {
		err = repo.note(fmt.Errorf("%w: blob %s is missing", ErrCorrupt, e.id))
	}
	if err != nil {
		return nil, err
	}
	i.size = size
	return i, nil
}

// info is an fs.FileInfo.
type info struct {
	entry
	base string
	size int64
	when time.Time
}

func (i info) Name() string       { return i.base }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return i.when }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return i.id }

// dirEntry is an fs.DirEntry; its size is looked up only when it is asked for.
type dirEntry struct {
	tree *Tree
	entry
}

func (d dirEntry) Name() string               { return d.name }
func (d dirEntry) IsDir() bool                { return d.mode.IsDir() }
func (d dirEntry) Type() fs.FileMode          { return d.mode.Type() }
func (d dirEntry) Info() (fs.FileInfo, error) { return d.tree.info(d.entry, d.name) }
func (d dirEntry) String() string             { return fs.FormatDirEntry(d) }

// ID is the object's id, without the cost of Info.
func (d dirEntry) ID() ObjectID { return d.id }

type openFile struct {
	*bytes.Reader
	info info
}

func (f *openFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *openFile) Close() error               { return nil }

type openDir struct {
	tree *Tree
	name string
	e    entry
	list []fs.DirEntry
	read bool
}

func (d *openDir) Stat() (fs.FileInfo, error) { return d.tree.info(d.e, path.Base(d.name)) }
func (d *openDir) Close() error               { return nil }

func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: syscall.EISDIR}
}

func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.read {
		list, err := d.tree.list(d.e)
		if err != nil {
			return nil, &fs.PathError{Op: "readdir", Path: d.name, Err: err}
		}
		d.list, d.read = list, true
	}
	if n <= 0 {
		n = len(d.list)
	} else if len(d.list) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.list))
	list := d.list[:n]
	d.list = d.list[n:]
	return list, nil
}
