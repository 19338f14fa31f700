package artifact

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"gocloud.dev/blob"
	"golang.org/x/sys/unix"
)

// SweepOptions say what goes.
type SweepOptions struct {
	CacheBytes int64         // what all caches may have together; those that were not used for the longest go first; default 10 GiB
	CacheAge   time.Duration // a cache goes that was not used for so long; default 30 days
	Every      time.Duration // do nothing when the last sweep was not so long ago
	// Keep holds back the artifacts that have expired; those of the last successful pipeline of a ref, for example.
	Keep func(*Record) bool
}

// tombstones is for how long it is remembered that artifacts are gone.
const tombstones = 90 * 24 * time.Hour

// Swept is what a sweep has done.
type Swept struct {
	Expired int   `json:"expired"` // jobs whose artifacts have expired
	Caches  int   `json:"caches"`  // caches that went
	Blobs   int   `json:"blobs"`   // contents that nobody names any more
	Bytes   int64 `json:"bytes"`   // of them
	Busy    bool  `json:"busy"`    // others use the store just now: nothing was done, try again later
}

// Sweep lets go of artifacts that have expired, of caches that are too many or too old, and of content that neither names. Who
// wants to save or restore meanwhile waits; while somebody does, it does nothing.
func (s *Store) Sweep(ctx context.Context, o SweepOptions) (Swept, error) {
	if o.CacheBytes == 0 {
		o.CacheBytes = 10 << 30
	}
	if o.CacheAge == 0 {
		o.CacheAge = 30 * 24 * time.Hour
	}
	unlock, err := s.lock(ctx, true)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return Swept{Busy: true}, nil
	}
	if err != nil {
		return Swept{}, err
	}
	defer unlock()
	var swept Swept
	if text, err := s.bucket.ReadAll(ctx, "swept"); err == nil {
		if last, err := time.Parse(time.RFC3339, string(text)); err == nil && s.now().Sub(last) < o.Every {
			return swept, nil
		}
	}
	marked := map[string]bool{}
	if err := s.sweepArtifacts(ctx, o, marked, &swept); err != nil {
		return swept, err
	}
	if err := s.sweepCaches(ctx, o, marked, &swept); err != nil {
		return swept, err
	}
	if err := s.sweepBlobs(ctx, marked, &swept); err != nil {
		return swept, err
	}
	return swept, s.write(ctx, "swept", []byte(s.now().UTC().Format(time.RFC3339)))
}

// list goes through the objects below a prefix.
func (s *Store) list(ctx context.Context, prefix string, do func(*blob.ListObject) error) error {
	list := s.bucket.List(&blob.ListOptions{Prefix: prefix})
	for {
		o, err := list.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return s.readError(err)
		}
		if err := do(o); err != nil {
			return err
		}
	}
}

// each is list for who has the store alone: what a killed process has left half-written is removed.
func (s *Store) each(ctx context.Context, prefix string, do func(*blob.ListObject) error) error {
	return s.list(ctx, prefix, func(o *blob.ListObject) error {
		if strings.HasSuffix(o.Key, ".tmp") {
			return s.delete(ctx, o.Key)
		}
		return do(o)
	})
}

func (s *Store) sweepArtifacts(ctx context.Context, o SweepOptions, marked map[string]bool, swept *Swept) error {
	now := s.now()
	return s.each(ctx, "artifacts/", func(object *blob.ListObject) error {
		var rec Record
		if ok, err := s.getJSON(ctx, object.Key, &rec); err != nil {
			return err
		} else if !ok || rec.path() != object.Key {
			return s.delete(ctx, object.Key)
		}
		switch {
		case rec.Gone != "" && now.Sub(rec.GoneAt) > tombstones:
			return s.delete(ctx, object.Key)
		case rec.Gone != "":
			return nil
		case !rec.Expires.IsZero() && now.After(rec.Expires) && (o.Keep == nil || !o.Keep(&rec)):
			swept.Expired++
			return s.markGone(ctx, &rec, "expired")
		}
		for _, r := range rec.Reports {
			if err := s.mark(ctx, r.Archive, marked); err != nil {
				return err
			}
		}
		if rec.Archive == nil {
			return nil
		}
		return s.mark(ctx, *rec.Archive, marked)
	})
}

// mark notes what a tree names. A tree that is lost names nothing that anybody could get.
func (s *Store) mark(ctx context.Context, at Archive, marked map[string]bool) error {
	if marked[at.Tree] {
		return nil
	}
	t, err := s.tree(ctx, at)
	if errors.Is(err, errCorrupt) {
		return nil
	}
	if err != nil {
		return err
	}
	marked[at.Tree] = true
	for hash := range t.Blobs {
		marked[hash] = true
	}
	return nil
}

func (s *Store) sweepCaches(ctx context.Context, o SweepOptions, marked map[string]bool, swept *Swept) error {
	type cache struct {
		cacheRecord
		used time.Time
	}
	var all []cache
	err := s.each(ctx, "caches/", func(object *blob.ListObject) error {
		c := cache{}
		if ok, err := s.getJSON(ctx, object.Key, &c.cacheRecord); err != nil {
			return err
		} else if !ok || cachePath(c.Project, c.Key) != object.Key {
			return s.delete(ctx, object.Key)
		}
		c.used = c.Saved
		if text, err := s.bucket.ReadAll(ctx, usedPath(c.Project, c.Key)); err == nil {
			if t, err := time.Parse(time.RFC3339, string(text)); err == nil && t.After(c.used) {
				c.used = t
			}
		}
		all = append(all, c)
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b cache) int { return b.used.Compare(a.used) }) // the one used last first
	var total int64
	for _, c := range all {
		total += c.Archive.Size
		if total <= o.CacheBytes && s.now().Sub(c.used) <= o.CacheAge {
			if err := s.mark(ctx, c.Archive, marked); err != nil {
				return err
			}
			continue
		}
		total -= c.Archive.Size
		swept.Caches++
		if err := errors.Join(s.delete(ctx, cachePath(c.Project, c.Key)), s.delete(ctx, usedPath(c.Project, c.Key))); err != nil {
			return err
		}
	}
	err = s.each(ctx, "seen/", func(object *blob.ListObject) error {
		var rec seenRecord
		ok, err := s.getJSON(ctx, object.Key, &rec)
		if err != nil {
			return err
		}
		if _, err := os.Lstat(rec.Dir); ok && !errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return s.delete(ctx, object.Key)
	})
	if err != nil {
		return err
	}
	return s.each(ctx, "used/", func(object *blob.ListObject) error {
		there, err := s.bucket.Exists(ctx, "caches/"+strings.TrimPrefix(object.Key, "used/")+".json")
		if err != nil || there {
			return err
		}
		return s.delete(ctx, object.Key)
	})
}

func (s *Store) sweepBlobs(ctx context.Context, marked map[string]bool, swept *Swept) error {
	return s.each(ctx, "blobs/", func(object *blob.ListObject) error {
		hash := object.Key[strings.LastIndexByte(object.Key, '/')+1:]
		if len(hash) == 64 && marked[hash] && object.Key == blobKey(hash) {
			return nil
		}
		swept.Blobs++
		swept.Bytes += object.Size
		return s.delete(ctx, object.Key)
	})
}
