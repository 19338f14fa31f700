package artifact

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"sync"

	"github.com/zeebo/blake3"
	"gocloud.dev/blob"
	"golang.org/x/sync/errgroup"
)

// Archive says what an artifact, a report or a cache is made of.
type Archive struct {
	Tree  string `json:"tree"`  // hash of the tree
	Bytes int64  `json:"bytes"` // size of the tree's own JSON
	Files int    `json:"files"` // files, directories and links
	Size  int64  `json:"size"`  // of all files
	fresh int64  // bytes that the store did not have
}

// files opens files below a directory; those of one directory that are asked for one after the other share its descriptor.
type files struct {
	root *os.Root
	at   string
	dir  *os.Root
}

func (f *files) in(dir string) (*os.Root, error) {
	if dir == "." {
		return f.root, nil
	}
	if f.dir != nil && f.at == dir {
		return f.dir, nil
	}
	f.close()
	opened, err := f.root.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	f.at, f.dir = dir, opened
	return opened, nil
}

func (f *files) open(at string) (*os.File, error) {
	dir, err := f.in(path.Dir(at))
	if err != nil {
		return nil, err
	}
	return dir.Open(path.Base(at))
}

func (f *files) close() {
	if f.dir != nil {
		f.dir.Close()
		f.dir = nil
	}
}

// save keeps entries of a project directory as a tree. It fills in where their contents are.
func (s *Store) save(ctx context.Context, root *os.Root, entries []entry) (Archive, error) {
	t := tree{Entries: entries, Blobs: map[string]int64{}}
	var mu sync.Mutex
	var result Archive
	keep := func(hash string, size int64, fresh bool) {
		mu.Lock()
		defer mu.Unlock()
		t.Blobs[hash] = size
		if fresh {
			result.fresh += size
		}
	}
	group, gctx := errgroup.WithContext(ctx)
	for _, u := range units(entries) {
		if err := s.acquire(gctx); err != nil {
			break
		}
		group.Go(func() error {
			defer s.release()
			if len(u) == 1 && entries[u[0]].Size > bundleFile {
				return s.saveLarge(gctx, root, &entries[u[0]], keep)
			}
			return s.saveBundle(gctx, root, entries, u, keep)
		})
	}
	if err := group.Wait(); err != nil {
		return Archive{}, err
	}
	if err := ctx.Err(); err != nil {
		return Archive{}, err
	}
	t.Entries = slices.DeleteFunc(entries, func(e entry) bool { return e.Mode.Type() == fs.ModeIrregular })
	for _, e := range t.Entries {
		result.Size += e.Size
	}
	data, err := json.Marshal(t)
	if err != nil {
		return Archive{}, err
	}
	if len(data) > maxTree {
		return Archive{}, fmt.Errorf("the names of %d files have more than %s", len(t.Entries), sizeText(maxTree))
	}
	hash, _, err := s.put(ctx, data)
	result.Tree, result.Bytes, result.Files = hash, int64(len(data)), len(t.Entries)
	return result, err
}

// saveBundle keeps the small files of a unit together.
func (s *Store) saveBundle(ctx context.Context, root *os.Root, entries []entry, u unit, keep func(string, int64, bool)) error {
	buf := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(buf)
	buf.Reset()
	from := files{root: root}
	defer from.close()
	for _, i := range u {
		e := &entries[i]
		f, err := from.open(e.Path)
		if errors.Is(err, fs.ErrNotExist) {
			e.Mode, e.Size = fs.ModeIrregular, 0 // it has gone since it was found
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.Path, unwrapDisk(err))
		}
		e.Offset = int64(buf.Len())
		// A file that grows meanwhile is kept as long as it was when it was found, one that shrinks as long as it is.
		e.Size, err = io.Copy(buf, io.LimitReader(f, e.Size))
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", e.Path, unwrapDisk(err))
		}
	}
	hash, fresh, err := s.put(ctx, buf.Bytes())
	if err != nil {
		return err
	}
	for _, i := range u {
		if entries[i].Size > 0 {
			entries[i].Blob = hash
		} else {
			entries[i].Offset = 0
		}
	}
	keep(hash, int64(buf.Len()), fresh)
	return nil
}

// errChanged is the error of a file that is written to while it is saved.
var errChanged = errors.New("changes while it is saved")

// saveLarge keeps a large file alone. It is read to learn its hash and, if the store does not have it, again to copy it.
func (s *Store) saveLarge(ctx context.Context, root *os.Root, e *entry, keep func(string, int64, bool)) error {
	for attempt := 0; ; attempt++ {
		fresh, err := s.copyIn(ctx, root, e)
		if errors.Is(err, errChanged) && attempt < 3 {
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			e.Mode, e.Size = fs.ModeIrregular, 0
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.Path, unwrapDisk(err))
		}
		keep(e.Blob, e.Size, fresh)
		return nil
	}
}

func (s *Store) copyIn(ctx context.Context, root *os.Root, e *entry) (fresh bool, err error) {
	f, err := root.Open(e.Path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	hash := blake3.New()
	size, err := io.Copy(hash, &bounded{ctx: ctx, r: f, left: e.Size})
	if err != nil {
		return false, err
	}
	e.Size, e.Blob = size, hex.EncodeToString(hash.Sum(nil))
	if size == 0 {
		e.Blob = ""
		return false, nil
	}
	return s.once(ctx, e.Blob, size, func() error { return s.stream(ctx, f, *e) })
}

// stream copies a file that has been read before.
func (s *Store) stream(ctx context.Context, f *os.File, e entry) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := s.bucket.NewWriter(ctx, blobKey(e.Blob), &blob.WriterOptions{ContentType: "application/octet-stream"})
	if err != nil {
		return err
	}
	hash := blake3.New()
	n, err := io.Copy(io.MultiWriter(w, hash), &bounded{ctx: ctx, r: f, left: e.Size})
	if err == nil && (n != e.Size || hex.EncodeToString(hash.Sum(nil)) != e.Blob) {
		err = errChanged
	}
	if err != nil {
		cancel()  // Close then throws away what was written
		w.Close() //nolint:errcheck // there is an error already
		return err
	}
	return w.Close()
}
