package git

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // ids of Git objects are SHA-1
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Graft is a part of one tree that is to stand in another one.
type Graft struct {
	At   string // where; the folders on the way are made. What is there already must be an empty folder or a submodule
	Tree *Tree
	From string // the folder or file of Tree; "." is all of it
	// Keep says which files of Tree come along; nil: all. Folders without any are left out.
	Keep func(name string, isDir bool) (bool, error)
	Max  int // how many files and folders Keep is asked about at most; more is [ErrTooMany]. Zero: any number

	visited int
}

// ErrOccupied: a graft's place is taken.
var ErrOccupied = errors.New("something is there already")

// ErrTooMany: a tree is made to be endless: the same folder in itself, as it were, over and over.
var ErrTooMany = errors.New("too many files and folders")

// maxComposed bounds how deep grafted folders are looked into, and how deep they may be put.
const maxComposed = 256

// Compose gives base with the grafts in it. Nothing is written: the new folders are in memory, with the ids that they
// would have in a repository, so equal ids still mean equal content. A missing From is fs.ErrNotExist.
func Compose(ctx context.Context, base *Tree, grafts []Graft) (*Tree, error) {
	t := *base
	for _, g := range grafts {
		e, err := g.pick(ctx)
		if err != nil {
			return nil, fmt.Errorf("take '%s': %w", g.From, err)
		}
		if g.At == "." {
			return nil, fmt.Errorf("put it at '%s': %w", g.At, ErrOccupied)
		}
		at := strings.Split(g.At, "/")
		if len(at) > maxComposed {
			return nil, fmt.Errorf("put it at '%s…': it is more than %d folders deep", truncate(g.At, 64), maxComposed)
		}
		if t.root, err = t.insert(t.root, at, e); err != nil {
			return nil, fmt.Errorf("put it at '%s': %w", g.At, err)
		}
	}
	return &t, nil
}

// pick finds what is grafted.
func (g Graft) pick(ctx context.Context) (entry, error) {
	_, e, err := g.Tree.walk("open", g.From, true)
	if err != nil {
		return e, err
	}
	e.repo = g.Tree.of(e)
	if g.Keep == nil {
		return e, nil
	}
	kept, ok, err := g.kept(ctx, e, g.From, 0)
	if err == nil && !ok {
		kept, err = folderOf(e, nil), nil // an empty folder
	}
	return kept, err
}

// kept leaves out what is not kept. A folder of which everything is kept stays as it is.
func (g *Graft) kept(ctx context.Context, e entry, name string, depth int) (entry, bool, error) {
	if g.visited++; g.Max > 0 && g.visited > g.Max {
		return e, false, fmt.Errorf("'%s': %w: more than %d", name, ErrTooMany, g.Max)
	}
	if err := ctx.Err(); err != nil {
		return e, false, err
	}
	if !e.mode.IsDir() || e.sub {
		ok, err := g.Keep(name, e.mode.IsDir())
		return e, ok, err
	}
	if depth > maxComposed {
		return e, false, fmt.Errorf("'%s' is more than %d folders deep", name, maxComposed)
	}
	parsed, err := g.Tree.entries(e)
	if err != nil {
		return e, false, err
	}
	same := true
	var entries []entry
	for _, child := range parsed.entries {
		child = child.below(e)
		was := child.id
		child, ok, err := g.kept(ctx, child, path.Join(name, child.name), depth+1)
		if err != nil {
			return e, false, err
		}
		if ok {
			entries = append(entries, child)
		}
		same = same && ok && child.id == was
	}
	switch {
	case same && len(entries) > 0:
		return e, true, nil
	case len(entries) == 0:
		return e, false, nil
	}
	return folderOf(e, entries), true, nil
}

// folderOf is a folder as e, with other entries.
func folderOf(e entry, entries []entry) entry {
	slices.SortStableFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	e.mode, e.sub, e.made = fs.ModeDir|0o755, false, &tree{entries: entries}
	e.id = treeID(entries)
	e.made.id = e.id
	return e
}

// treeID is the id of a tree with these entries.
func treeID(entries []entry) ObjectID {
	order := slices.Clone(entries)
	// Git sorts folders as if their names ended in a slash.
	key := func(e entry) string {
		if e.mode.IsDir() && !e.sub {
			return e.name + "/"
		}
		return e.name
	}
	slices.SortFunc(order, func(a, b entry) int { return strings.Compare(key(a), key(b)) })
	var body bytes.Buffer
	for _, e := range order {
		mode := "100644"
		switch {
		case e.sub:
			mode = "160000"
		case e.mode.IsDir():
			mode = "40000"
		case e.mode&fs.ModeSymlink != 0:
			mode = "120000"
		case e.mode&0o111 != 0:
			mode = "100755"
		}
		fmt.Fprintf(&body, "%s %s\x00", mode, e.name)
		body.Write(e.id[:])
	}
	h := sha1.New() //nolint:gosec // ids of Git objects are SHA-1
	fmt.Fprintf(h, "tree %d\x00", body.Len())
	h.Write(body.Bytes())
	return ObjectID(h.Sum(nil))
}

// insert puts an entry at a path below a folder, and gives the folder as it is then.
func (t *Tree) insert(dir entry, parts []string, what entry) (entry, error) {
	var entries []entry
	if !dir.sub {
		parsed, err := t.entries(dir)
		if err != nil {
			return dir, err
		}
		entries = slices.Clone(parsed.entries)
	}
	i := slices.IndexFunc(entries, func(e entry) bool { return e.name == parts[0] })
	if i < 0 {
		entries = append(entries, folderOf(entry{name: parts[0]}, nil))
		i = len(entries) - 1
	}
	child := entries[i].below(dir)
	if !child.mode.IsDir() {
		return dir, fmt.Errorf("'%s' is no folder: %w", parts[0], ErrOccupied)
	}
	if len(parts) > 1 {
		next, err := t.insert(child, parts[1:], what)
		if err != nil {
			return dir, err
		}
		entries[i] = next
		return folderOf(dir, entries), nil
	}
	if !child.sub {
		if parsed, err := t.entries(child); err != nil {
			return dir, err
		} else if len(parsed.entries) > 0 {
			return dir, ErrOccupied
		}
	}
	what.name = parts[0]
	entries[i] = what
	return folderOf(dir, entries), nil
}

// Submodule gives the commit that stands for a submodule at a path; false: there is none.
func (t *Tree) Submodule(name string) (string, bool) {
	if name == "." {
		return "", false
	}
	_, e, err := t.walk("open", name, false)
	if err != nil || !e.sub {
		return "", false
	}
	return e.id.String(), true
}
