package artifact

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/zeebo/blake3"
	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/gcerrors"
	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/diskspace"
	"keelson.dev/keelson/internal/pipeline/flock"
)

// Limits bound what is saved and what is restored. Zero fields take the defaults.
type Limits struct {
	Bytes  int64 // of all files of one artifact or cache; default 8 GiB
	Files  int   // files, directories and links of one artifact or cache; default 500,000
	Ratio  int64 // of the size of a zip's files to the zip's own, from 64 MiB on; default 200
	Report int64 // bytes of one report that is parsed (junit); default 32 MiB
	Dotenv int   // variables of a job's dotenv reports; default 150, the most that GitLab.com has
	// Reserve are the bytes that stay free on the file systems of the store and of project directories; default diskspace.Reserve, negative: none.
	Reserve int64
}

func (l Limits) withDefaults() Limits {
	set := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	set(&l.Bytes, 8<<30)
	set(&l.Ratio, 200)
	set(&l.Report, 32<<20)
	set(&l.Reserve, diskspace.Reserve)
	if l.Files == 0 {
		l.Files = 500_000
	}
	if l.Dotenv == 0 {
		l.Dotenv = 150
	}
	return l
}

// Options of a [Store].
type Options struct {
	Limits Limits
	// Expire is how long artifacts are kept whose job does not say; default 30 days, as an instance of GitLab has it.
	Expire time.Duration
	Now    func() time.Time // default time.Now
}

// Store keeps artifacts, caches and reports. It is safe for concurrent use, also by several processes.
type Store struct {
	dir    string
	bucket *blob.Bucket
	limits Limits
	expire time.Duration
	now    func() time.Time
	slots  chan struct{} // how many bundles and large files are under way at once
	flight singleflight.Group
	seen   sync.Mutex // held while a record of the caches in a working tree is changed

	holding sync.Mutex
	holds   int       // how many have called Hold and are not done
	held    time.Time // since when there are any
}

// Open opens the store in a directory, which is made where it is not there, readable for its owner only.
func Open(dir string, o Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("artifact store: %w", err)
	}
	bucket, err := fileblob.OpenBucket(dir, &fileblob.Options{
		NoTempDir:   true, // a rename within the file system
		DirFileMode: 0o700,
		Metadata:    fileblob.MetadataDontWrite,
	})
	if err != nil {
		return nil, fmt.Errorf("artifact store: %w", err)
	}
	s := &Store{dir: dir, bucket: bucket, limits: o.Limits.withDefaults(), expire: o.Expire, now: o.Now}
	if s.expire == 0 {
		s.expire = 30 * 24 * time.Hour
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.slots = make(chan struct{}, min(max(runtime.GOMAXPROCS(0), 2), 8))
	return s, nil
}

// Close lets go of the store.
func (s *Store) Close() error { return s.bucket.Close() }

// Work is where a job works.
type Work struct {
	Dir  string             // the project directory
	Vars pipeline.Variables // of the job, as they are before the runner expands them
	Log  io.Writer          // the job's log, whole lines; nil: none
	// InPlace says that Dir is a person's own working tree, and perhaps that of several jobs at once: what is in its .git is
	// neither saved nor overwritten, a file that is there with the same size, time and mode is not written again, and one that
	// the store does not know stays.
	InPlace bool
}

func (w Work) printf(format string, args ...any) {
	if w.Log != nil {
		fmt.Fprintf(w.Log, format+"\n", args...)
	}
}

// ready expands the values of the variables, as the runner does before it expands what refers to them: GOPATH is often
// $CI_PROJECT_DIR/.go.
func (w Work) ready() Work {
	w.Vars = w.Vars.Expanded()
	return w
}

func (w Work) warnf(format string, args ...any) { w.printf("WARNING: "+format, args...) }

// lock keeps Sweep from deleting content (shared, for which it waits until ctx ends) or everybody from adding some (exclusive, which
// does not wait). A process that dies lets go of it.
func (s *Store) lock(ctx context.Context, exclusive bool) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("artifact store: %w", err)
	}
	if exclusive {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	} else {
		err = flock.Lock(ctx, f, false)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("artifact store: lock: %w", err)
	}
	return func() { f.Close() }, nil
}

// Hold keeps what is saved from now on until release is called, whenever it expires: a pipeline finds its artifacts as long as it
// runs. Nobody sweeps meanwhile; while somebody sweeps it waits until ctx ends.
func (s *Store) Hold(ctx context.Context) (release func(), err error) {
	unlock, err := s.lock(ctx, false)
	if err != nil {
		return nil, err
	}
	s.holding.Lock()
	defer s.holding.Unlock()
	if s.holds++; s.holds == 1 {
		s.held = s.now()
	}
	return func() {
		s.holding.Lock()
		defer s.holding.Unlock()
		s.holds--
		unlock()
	}, nil
}

// holdsBack tells whether a record is held.
func (s *Store) holdsBack(rec *Record) bool {
	s.holding.Lock()
	defer s.holding.Unlock()
	return s.holds > 0 && rec.Gone == "" && !rec.Saved.Before(s.held.Round(0))
}

// errCorrupt is the error of content that is not what its name says, or is not there.
var errCorrupt = errors.New("the store has lost it")

// buffers are for bundles; each has at most bundleMax bytes.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// digest is the BLAKE3 hash of content: SHA-256 takes eight times as long where the processor has no instructions for it, and
// hashing is most of what saving costs.
func digest(content []byte) string {
	sum := blake3.Sum256(content)
	return hex.EncodeToString(sum[:])
}

func blobKey(hash string) string { return "blobs/" + hash[:2] + "/" + hash }

// has tells whether content is there in its full length. What was cut off by a crash of the machine counts as absent.
func (s *Store) has(ctx context.Context, hash string, size int64) bool {
	attrs, err := s.bucket.Attributes(ctx, blobKey(hash))
	return err == nil && attrs.Size == size
}

// put keeps content, unless it is there, and gives its hash and whether it is new.
func (s *Store) put(ctx context.Context, content []byte) (hash string, fresh bool, err error) {
	hash = digest(content)
	fresh, err = s.once(ctx, hash, int64(len(content)), func() error { return s.write(ctx, blobKey(hash), content) })
	return hash, fresh, err
}

// once writes content that is not there, if there is room for it. Of several who have the same at the same time one writes it; that one is told that it
// is new.
func (s *Store) once(ctx context.Context, hash string, size int64, into func() error) (fresh bool, err error) {
	led := false
	write := func() error {
		if err := diskspace.Room(s.dir, size, s.limits.Reserve); err != nil {
			return fmt.Errorf("artifact store: %w", err)
		}
		return into()
	}
	_, err, _ = s.flight.Do(hash, func() (any, error) {
		led = true
		if s.has(ctx, hash, size) {
			return nil, nil
		}
		fresh = true
		return nil, write()
	})
	if err != nil && !led && ctx.Err() == nil {
		return true, write() // the other one may have been cancelled
	}
	return fresh, err
}

func (s *Store) write(ctx context.Context, key string, content []byte) error {
	if err := s.bucket.WriteAll(ctx, key, content, &blob.WriterOptions{ContentType: "application/octet-stream"}); err != nil {
		return fmt.Errorf("artifact store: write %s: %w", key, unwrapDisk(err))
	}
	return nil
}

// get reads content of a known size into buf and checks it.
func (s *Store) get(ctx context.Context, hash string, size int64, buf *bytes.Buffer) error {
	r, err := s.bucket.NewReader(ctx, blobKey(hash), nil)
	if err != nil {
		return s.readError(err)
	}
	defer r.Close()
	if r.Size() != size {
		return errCorrupt
	}
	buf.Reset()
	buf.Grow(int(size) + bytes.MinRead)
	if _, err := buf.ReadFrom(io.LimitReader(r, size+1)); err != nil {
		return s.readError(err)
	}
	if digest(buf.Bytes()) != hash {
		return errCorrupt
	}
	return nil
}

func (s *Store) readError(err error) error {
	if gcerrors.Code(err) == gcerrors.NotFound {
		return errCorrupt
	}
	return fmt.Errorf("artifact store: %w", unwrapDisk(err))
}

// unwrapDisk gives the error of the file system that the bucket has wrapped: "no space left on device" says it all.
func unwrapDisk(err error) error {
	var perr *os.PathError
	if errors.As(err, &perr) {
		return perr.Err
	}
	return err
}

// putJSON and getJSON keep records; getJSON tells whether there is one. A record that cannot be read is none.
func (s *Store) putJSON(ctx context.Context, key string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.write(ctx, key, data)
}

func (s *Store) getJSON(ctx context.Context, key string, v any) (bool, error) {
	data, err := s.bucket.ReadAll(ctx, key)
	switch {
	case gcerrors.Code(err) == gcerrors.NotFound:
		return false, nil
	case err != nil:
		return false, s.readError(err)
	}
	return json.Unmarshal(data, v) == nil, nil
}

func (s *Store) delete(ctx context.Context, key string) error {
	if err := s.bucket.Delete(ctx, key); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return fmt.Errorf("artifact store: delete %s: %w", key, unwrapDisk(err))
	}
	return nil
}

// element makes one element of a key of any text: what of it is readable, and a hash that tells it from others.
func element(text string) string {
	readable := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, text[:min(len(text), 60)])
	return readable + "-" + digest([]byte(text))[:16]
}

// acquire waits for a slot.
func (s *Store) acquire(ctx context.Context) error {
	select {
	case s.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Store) release() { <-s.slots }

// sizeText writes bytes for people.
func sizeText(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	default:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
}

// tookText writes a duration for people.
func tookText(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	default:
		return d.Round(time.Microsecond).String()
	}
}
