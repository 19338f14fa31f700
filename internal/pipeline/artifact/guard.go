package artifact

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/zeebo/blake3"
	"gocloud.dev/blob"
)

// guard keeps what a person has in a working tree. A file of it is replaced only if the store has what is in it: in the artifacts
// of the pipeline, or in the cache that was saved or restored here last of those with that file. Whatever else differs stays.
type guard struct {
	s        *Store
	work     Work
	project  string
	pipeline string

	ctx    context.Context // of the extraction
	root   *os.Root
	at     files
	want   source
	known  []source               // nil: not read yet
	may    map[string]fs.FileInfo // files that have been found to be known, as they were then
	kept   map[string]bool
	recent map[string][]byte // the bundles that were read last
}

// maxRecent is how many bundles are at hand while files are compared.
const maxRecent = 8

// source is where known files come from.
type source struct {
	entries map[string]entry
	blobs   map[string]int64
	last    bool            // what an older source has of the same files does not count
	never   map[string]bool // files that were kept when it was restored
	gone    bool            // the cache is another one now
}

func sourceOf(t *tree) source {
	src := source{entries: make(map[string]entry, len(t.Entries)), blobs: t.Blobs}
	for _, e := range t.Entries {
		src.entries[e.Path] = e
	}
	return src
}

// guard gives the guard of a working tree; nil where the directory is not a person's.
func (s *Store) guard(w Work, project, pipeline string) *guard {
	if !w.InPlace {
		return nil
	}
	return &guard{s: s, work: w, project: project, pipeline: pipeline}
}

func (g *guard) begin(ctx context.Context, root *os.Root, t *tree) {
	g.ctx, g.root, g.at, g.want = ctx, root, files{root: root}, sourceOf(t)
	g.may, g.kept, g.recent = map[string]fs.FileInfo{}, map[string]bool{}, map[string][]byte{}
}

func (g *guard) end() {
	g.at.close()
	if len(g.kept) == 0 {
		return
	}
	names := slices.Sorted(maps.Keys(g.kept))
	more := ""
	if len(names) > 5 {
		names, more = names[:5], ", …"
	}
	g.work.warnf("kept %d files of the working tree that are not as in the cache or the artifacts: %s%s", len(g.kept), strings.Join(names, ", "), more)
}

// missing gives the entries that are to be written: those that are not there, and those whose files may be replaced.
func (g *guard) missing(entries []entry) ([]entry, error) {
	left := make([]entry, 0, len(entries))
	for _, e := range entries {
		if e.Mode.IsDir() {
			if info, err := g.root.Stat(e.Path); err == nil && info.IsDir() {
				continue
			}
		}
		there, err := g.lstat(e.Path)
		if err != nil || there.IsDir() {
			left = append(left, e) // [stage.plan] decides on directories
			continue
		}
		if g.alike(e, there) {
			continue
		}
		if ok, err := g.replaces(e.Path, there); err != nil {
			return nil, err
		} else if ok {
			left = append(left, e)
		}
	}
	return left, nil
}

func (g *guard) lstat(at string) (fs.FileInfo, error) {
	dir, err := g.at.in(path.Dir(at))
	if err != nil {
		return nil, err
	}
	return dir.Lstat(path.Base(at))
}

// unchanged tells whether a file is as it was, or still not there.
func unchanged(root *os.Root, at string, was fs.FileInfo) bool {
	info, err := root.Lstat(at)
	if was == nil || err != nil {
		return was == nil && errors.Is(err, fs.ErrNotExist)
	}
	return sameState(info, was)
}

func sameState(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Mode() == b.Mode() && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// alike tells whether a file is an entry, by what can be seen without reading it.
func (g *guard) alike(e entry, there fs.FileInfo) bool {
	if there.Mode().Type() != e.Mode.Type() {
		return false
	}
	switch e.Mode.Type() {
	case fs.ModeSymlink:
		target, err := g.root.Readlink(e.Path)
		return err == nil && target == e.Link
	case fs.ModeDir:
		return false
	default:
		return there.Mode().Perm() == e.Mode.Perm() && there.Size() == e.Size && there.ModTime().Equal(e.modified())
	}
}

// replaces tells whether what is in the way of an entry may go. If not, it is noted, unless it is the entry itself.
func (g *guard) replaces(at string, there fs.FileInfo) (bool, error) {
	if was := g.may[at]; was != nil && sameState(was, there) {
		return true, nil
	}
	want, wanted := g.want.entries[at]
	if wanted && g.alike(want, there) {
		return false, nil
	}
	if there.Mode().IsRegular() || there.Mode().Type() == fs.ModeSymlink {
		if g.known == nil {
			if err := g.learn(); err != nil {
				return false, err
			}
		}
		from := g.candidates(at)
		ok := slices.ContainsFunc(from, func(src source) bool { return g.alike(src.entries[at], there) })
		if wanted {
			from = append(from, g.want)
		}
		ok = ok || slices.ContainsFunc(from, func(src source) bool { return g.equal(src, src.entries[at], there) })
		if ok {
			g.may[at] = there
			delete(g.kept, at)
			return true, nil
		}
	}
	g.kept[at] = true
	return false, g.ctx.Err()
}

// candidates gives the sources of what a file may be.
func (g *guard) candidates(at string) []source {
	var from []source
	for _, src := range g.known {
		if _, has := src.entries[at]; !has {
			continue
		}
		if !src.gone && !src.never[at] {
			from = append(from, src)
		}
		if src.last {
			break
		}
	}
	return from
}

// equal tells whether a file has the content of an entry. What cannot be read is not equal.
func (g *guard) equal(src source, e entry, there fs.FileInfo) bool {
	if there.Mode().Type() != e.Mode.Type() || !there.Mode().IsRegular() || there.Size() != e.Size {
		return false
	}
	if e.Size == 0 {
		return true
	}
	f, err := g.at.open(e.Path)
	if err != nil {
		return false
	}
	defer f.Close()
	r := &bounded{ctx: g.ctx, r: f, left: e.Size + 1}
	if size := src.blobs[e.Blob]; size > bundleMax || e.Offset == 0 && size == e.Size {
		hash := blake3.New()
		n, err := io.Copy(hash, r)
		return err == nil && n == e.Size && hex.EncodeToString(hash.Sum(nil)) == e.Blob
	}
	bundle, err := g.read(e.Blob, src.blobs[e.Blob])
	if err != nil || e.Offset+e.Size > int64(len(bundle)) {
		return false
	}
	content, err := io.ReadAll(r)
	return err == nil && bytes.Equal(content, bundle[e.Offset:e.Offset+e.Size])
}

func (g *guard) read(hash string, size int64) ([]byte, error) {
	if bundle, ok := g.recent[hash]; ok {
		return bundle, nil
	}
	var buf bytes.Buffer
	if err := g.s.get(g.ctx, hash, size, &buf); err != nil {
		return nil, err
	}
	if len(g.recent) >= maxRecent {
		clear(g.recent)
	}
	g.recent[hash] = buf.Bytes()
	return buf.Bytes(), nil
}

// learn reads what the store knows: the artifacts of the pipeline, then the caches of the working tree, the latest first.
func (g *guard) learn() error {
	g.known = []source{}
	add := func(at Archive) *source {
		t, err := g.s.tree(g.ctx, at)
		if err != nil || checkTree(t, g.s.limits) != nil {
			return nil // nothing is known of it
		}
		g.known = append(g.known, sourceOf(t))
		return &g.known[len(g.known)-1]
	}
	err := g.s.list(g.ctx, Key{Project: g.project, Pipeline: g.pipeline}.prefix(), func(o *blob.ListObject) error {
		var rec Record
		if ok, err := g.s.getJSON(g.ctx, o.Key, &rec); err != nil || !ok || rec.Gone != "" {
			return err
		}
		if rec.Archive != nil {
			add(*rec.Archive)
		}
		for _, r := range rec.Reports {
			add(r.Archive)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var seen seenRecord
	if _, err := g.s.getJSON(g.ctx, seenPath(g.project, g.work.Dir), &seen); err != nil {
		return err
	}
	for _, c := range seen.Caches {
		src := add(c.Archive)
		if src == nil {
			break // it is not known which files it had
		}
		src.last, src.never = true, map[string]bool{}
		for _, at := range c.Kept {
			src.never[at] = true
		}
		var rec cacheRecord
		ok, err := g.s.getJSON(g.ctx, cachePath(g.project, c.Key), &rec)
		if err != nil {
			return err
		}
		src.gone = !ok || rec.Archive.Tree != c.Archive.Tree
	}
	return nil
}

// seenRecord says which caches were saved from a working tree or restored to it, the latest first.
type seenRecord struct {
	Dir    string      `json:"dir"`
	Caches []seenCache `json:"caches"`
}

type seenCache struct {
	Key     string   `json:"key"`
	Archive Archive  `json:"archive"`
	Kept    []string `json:"kept,omitempty"` // files that the tree has otherwise
}

// maxSeen is how many caches of a working tree are remembered. The files of others stay where they differ.
const maxSeen = 16

func seenPath(project, dir string) string {
	return "seen/" + element(project) + "/" + element(filepath.Clean(dir)) + ".json"
}

// saw notes that a cache is now in a working tree, but for some files.
func (s *Store) saw(ctx context.Context, w Work, project, key string, at Archive, kept map[string]bool) error {
	if !w.InPlace {
		return nil
	}
	s.seen.Lock()
	defer s.seen.Unlock()
	rec := seenRecord{Dir: w.Dir}
	if _, err := s.getJSON(ctx, seenPath(project, w.Dir), &rec); err != nil {
		return err
	}
	rec.Caches = slices.DeleteFunc(rec.Caches, func(c seenCache) bool { return c.Key == key })
	rec.Caches = slices.Insert(rec.Caches, 0, seenCache{Key: key, Archive: at, Kept: slices.Sorted(maps.Keys(kept))})
	rec.Caches = rec.Caches[:min(len(rec.Caches), maxSeen)]
	if err := s.putJSON(ctx, seenPath(project, w.Dir), rec); err != nil {
		return fmt.Errorf("note the cache: %w", err)
	}
	return nil
}
