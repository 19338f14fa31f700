package git

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/objfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
)

// ObjectID is the id of a Git object. Equal ids mean equal content.
type ObjectID [20]byte

// String is the id in lower-case hex.
func (id ObjectID) String() string { return hex.EncodeToString(id[:]) }

// ParseObjectID reads 40 lower-case hex digits.
func ParseObjectID(s string) (ObjectID, error) {
	var id ObjectID
	if len(s) != 2*len(id) || strings.ToLower(s) != s {
		return id, fmt.Errorf("%q is not a full commit id (40 hex digits)", s)
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ObjectID{}, fmt.Errorf("%q is not a full commit id (40 hex digits)", s)
	}
	return id, nil
}

type kind = plumbing.ObjectType

const (
	anyObject  = plumbing.AnyObject
	commitKind = plumbing.CommitObject
	treeKind   = plumbing.TreeObject
	blobKind   = plumbing.BlobObject
	tagKind    = plumbing.TagObject
)

// errMissing: the object is neither loose nor in a pack.
var errMissing = errors.New("no such object")

// pack is one open pack file with its index in memory.
type pack struct {
	file   *os.File
	index  *idxfile.MemoryIndex
	reader *packfile.Packfile
}

// billyFile makes an os.File what go-git's reader wants; the locks are for writers.
type billyFile struct{ *os.File }

func (billyFile) Lock() error   { return nil }
func (billyFile) Unlock() error { return nil }

// read returns an object's content. It fails with errMissing, with [ErrTooLarge] above limit bytes, and with
// [ErrCorrupt] if the object is of another kind than wanted or does not match its id.
func (r *Repository) read(want kind, id ObjectID, limit int64) (kind, []byte, error) {
	got, size, data, err := r.lookup(id, limit, true)
	switch {
	case err != nil:
		return got, nil, err
	case size > limit:
		return got, nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, size, limit)
	case want != anyObject && got != want:
		return got, nil, fmt.Errorf("%w: object %s is a %s, not a %s", ErrCorrupt, id, got, want)
	}
	return got, data, nil
}

// size returns the size of an object without reading it.
func (r *Repository) size(id ObjectID) (int64, error) {
	_, size, _, err := r.lookup(id, -1, false)
	return size, err
}

// lookup finds an object; its content is read if it is wanted and not longer than limit.
func (r *Repository) lookup(id ObjectID, limit int64, content bool) (kind, int64, []byte, error) {
	k, size, data, err := r.loose(id, limit, content)
	if !errors.Is(err, errMissing) {
		return k, size, data, r.note(err)
	}
	k, size, data, err = r.packed(id, limit, content)
	if !errors.Is(err, errMissing) {
		return k, size, data, r.note(err)
	}
	// Neither: a fetch or a repack may have moved it just now.
	if !r.relist() {
		return k, size, data, err
	}
	if k, size, data, err = r.packed(id, limit, content); errors.Is(err, errMissing) {
		k, size, data, err = r.loose(id, limit, content)
	}
	return k, size, data, r.note(err)
}

// note remembers that the repository is damaged.
func (r *Repository) note(err error) error {
	if errors.Is(err, ErrCorrupt) {
		r.damaged.Store(true)
	}
	return err
}

func (r *Repository) loose(id ObjectID, limit int64, content bool) (kind, int64, []byte, error) {
	name := id.String()
	f, err := os.Open(filepath.Join(r.dir, "objects", name[:2], name[2:]))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return 0, 0, nil, errMissing
		}
		return 0, 0, nil, fmt.Errorf("read object: %w", err)
	}
	defer f.Close()
	corrupt := func(err error) error { return fmt.Errorf("%w: object %s: %w", ErrCorrupt, id, err) }
	z, err := objfile.NewReader(f)
	if err != nil {
		return 0, 0, nil, corrupt(err)
	}
	defer z.Close()
	k, size, err := z.Header()
	if err != nil {
		return 0, 0, nil, corrupt(err)
	}
	if !content || size > limit {
		return k, size, nil, nil
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(z, data); err != nil {
		return 0, 0, nil, corrupt(err)
	}
	if ObjectID(z.Hash()) != id {
		return 0, 0, nil, corrupt(errors.New("content does not match its id"))
	}
	return k, size, data, nil
}

func (r *Repository) packed(id ObjectID, limit int64, content bool) (k kind, size int64, data []byte, err error) {
	r.packMu.Lock()
	defer r.packMu.Unlock()
	if err := r.listPacks(); err != nil {
		return 0, 0, nil, err
	}
	// A damaged pack must not take the process down, whatever go-git's reader makes of it.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: object %s: %v", ErrCorrupt, id, p)
		}
	}()
	for _, p := range r.packs {
		offset, err := p.index.FindOffset(plumbing.Hash(id))
		if err != nil {
			continue
		}
		if size, err = p.reader.GetSizeByOffset(offset); err != nil {
			return 0, 0, nil, fmt.Errorf("%w: object %s: %w", ErrCorrupt, id, err)
		}
		if !content || size > limit {
			return 0, size, nil, nil
		}
		o, err := p.reader.Get(plumbing.Hash(id))
		if err != nil {
			return 0, 0, nil, fmt.Errorf("%w: object %s: %w", ErrCorrupt, id, err)
		}
		rd, err := o.Reader()
		if err != nil {
			return 0, 0, nil, fmt.Errorf("%w: object %s: %w", ErrCorrupt, id, err)
		}
		defer rd.Close()
		data := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead))
		if _, err := data.ReadFrom(rd); err != nil {
			return 0, 0, nil, fmt.Errorf("%w: object %s: %w", ErrCorrupt, id, err)
		}
		if ObjectID(plumbing.ComputeHash(o.Type(), data.Bytes())) != id {
			return 0, 0, nil, fmt.Errorf("%w: object %s: content does not match its id", ErrCorrupt, id)
		}
		return o.Type(), int64(data.Len()), data.Bytes(), nil
	}
	return 0, 0, nil, errMissing
}

// has says whether the object is there, without reading it.
func (r *Repository) has(id ObjectID) bool {
	name := id.String()
	if _, err := os.Stat(filepath.Join(r.dir, "objects", name[:2], name[2:])); err == nil {
		return true
	}
	inPacks := func() bool {
		r.packMu.Lock()
		defer r.packMu.Unlock()
		if r.listPacks() != nil {
			return false
		}
		for _, p := range r.packs {
			if ok, err := p.index.Contains(plumbing.Hash(id)); err == nil && ok {
				return true
			}
		}
		return false
	}
	return inPacks() || r.relist() && inPacks()
}

// relist reads the list of packs again and says whether one has come.
func (r *Repository) relist() bool {
	r.packMu.Lock()
	defer r.packMu.Unlock()
	before := len(r.packs)
	known := make(map[string]bool, before)
	for name := range r.packs {
		known[name] = true
	}
	r.listed = false
	if r.listPacks() != nil {
		return false
	}
	for name := range r.packs {
		if !known[name] {
			return true
		}
	}
	return false
}

// listPacks opens the packs that are there and closes those that are gone. The caller holds packMu.
func (r *Repository) listPacks() error {
	if r.listed {
		return nil
	}
	dir := filepath.Join(r.dir, "objects", "pack")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read object store: %w", err)
	}
	there := map[string]bool{}
	for _, e := range entries {
		// The index comes last: a pack without one is still being written.
		name, ok := strings.CutSuffix(e.Name(), ".idx")
		if !ok || !strings.HasPrefix(name, "pack-") {
			continue
		}
		there[name] = true
		if r.packs[name] != nil {
			continue
		}
		p, err := r.openPack(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a repack has taken it away
		}
		if err != nil {
			return r.note(err)
		}
		r.packs[name] = p
	}
	for name, p := range r.packs {
		if !there[name] {
			p.file.Close()
			delete(r.packs, name)
		}
	}
	r.listed = true
	return nil
}

func (r *Repository) openPack(base string) (*pack, error) {
	idx, err := os.Open(base + ".idx")
	if err != nil {
		return nil, err
	}
	defer idx.Close()
	index := idxfile.NewMemoryIndex()
	if err := idxfile.NewDecoder(idx).Decode(index); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, filepath.Base(base)+".idx", err)
	}
	f, err := os.Open(base + ".pack")
	if err != nil {
		return nil, err
	}
	return &pack{file: f, index: index, reader: packfile.NewPackfileWithCache(index, nil, billyFile{f}, r.cache, 0)}, nil
}

func (r *Repository) closePacks() error {
	var errs []error
	for name, p := range r.packs {
		errs = append(errs, p.file.Close())
		delete(r.packs, name)
	}
	r.listed = false
	return errors.Join(errs...)
}
