package artifact

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"keelson.dev/keelson/internal/pipeline/diskspace"
	"keelson.dev/keelson/internal/pipeline/flock"
)

// Where files are staged: in .git, where neither globs nor git see them, or else in the project directory. That is not .keelson:
// what is in there is a person's.
const (
	stageInGit = ".git/keelson"
	stageHere  = ".keelson-stage"
)

// stageName begins the names of stages; rand.Text follows. Nothing with another name is ever removed.
const stageName = "stage-"

// ours tells whether a name is that of a stage.
func ours(name string) bool {
	text, ok := strings.CutPrefix(name, stageName)
	return ok && len(text) == 26 && strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// isStage tells whether a path belongs to what is being extracted just now.
func isStage(at string) bool {
	return at == stageInGit || at == stageHere || strings.HasPrefix(at, stageInGit+"/") || strings.HasPrefix(at, stageHere+"/")
}

// stage is a directory in which an archive is unpacked before its files are moved to their places in the project directory.
type stage struct {
	root  *os.Root // the project directory
	at    string   // the stage, relative to it
	box   *os.Root // the stage
	lock  *os.File // held as long as its process lives
	umask fs.FileMode
	guard *guard // says what may be replaced; nil: everything
	whole bool   // the repository in .git is written too

	reserve int64 // bytes that stay free
	written int64 // bytes of files since somebody looked
	mu      sync.Mutex

	repo   *gitDir // as it is when files are put into place
	linked bool    // a link in the project directory leads to where something is put
}

func newStage(root *os.Root) (*stage, error) {
	home := stageHere
	if info, err := root.Lstat(".git"); err == nil && info.IsDir() {
		home = stageInGit
	}
	if err := root.Mkdir(home, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("stage the files: %w", err)
	}
	if info, err := root.Lstat(home); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("stage the files: %s is not a directory", home)
	}
	st := &stage{root: root, at: path.Join(home, stageName+rand.Text())}
	if err := root.Mkdir(st.at, 0o777); err != nil {
		return nil, fmt.Errorf("stage the files: %w", err)
	}
	var err error
	if st.box, err = root.OpenRoot(st.at); err != nil {
		return nil, fmt.Errorf("stage the files: %w", err)
	}
	info, err := root.Lstat(st.at)
	if err == nil {
		st.lock, err = st.box.Open(".")
	}
	if err == nil {
		err = unix.Flock(int(st.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		st.close()
		return nil, fmt.Errorf("stage the files: %w", err)
	}
	st.umask = 0o777 &^ info.Mode().Perm()
	return st, nil
}

// close removes the stage, and those that killed processes have left.
func (st *stage) close() {
	home := path.Dir(st.at)
	if err := st.root.RemoveAll(st.at); err != nil {
		st.root.Chtimes(st.at, time.Time{}, time.Now().Add(-time.Hour)) //nolint:errcheck // then it is found later
	}
	st.box.Close()
	if st.lock != nil {
		st.lock.Close()
	}
	dir, err := st.root.Open(home)
	if err != nil {
		return
	}
	names, _ := dir.Readdirnames(-1) // what cannot be read is not removed
	dir.Close()
	for _, name := range names {
		if ours(name) {
			removeDead(st.root, path.Join(home, name))
		}
	}
	if home == stageHere {
		st.root.Remove(home) //nolint:errcheck // others may be using it
	}
}

// removeDead removes a stage whose process is no more: nobody holds its lock, and it is too old to be about to.
func removeDead(root *os.Root, at string) {
	info, err := root.Lstat(at)
	if err != nil || !info.IsDir() || time.Since(info.ModTime()) < 10*time.Second {
		return
	}
	lock, err := root.Open(at)
	if err != nil {
		return
	}
	defer lock.Close()
	if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		root.RemoveAll(at) //nolint:errcheck // the next one tries again
	}
}

// roomEvery is how many bytes are written until somebody looks whether others have filled the file system meanwhile.
const roomEvery = 64 << 20

// room refuses entries that there is no room for, before anything of them is written.
func (st *stage) room(entries []entry, reserve int64) error {
	st.reserve = reserve
	var need int64
	for _, e := range entries {
		need += e.Size
	}
	return diskspace.Room(st.root.Name(), need, reserve)
}

// rationed writes the content of files as long as there is room.
type rationed struct {
	st *stage
	w  io.Writer
}

func (r rationed) Write(p []byte) (int, error) {
	r.st.mu.Lock()
	r.st.written += int64(len(p))
	look := r.st.written >= roomEvery
	if look {
		r.st.written = 0
	}
	r.st.mu.Unlock()
	if look {
		if err := diskspace.Room(r.st.root.Name(), int64(len(p)), r.st.reserve); err != nil {
			return 0, err
		}
	}
	return r.w.Write(p)
}

// skeleton makes the directories and links of entries, and the empty files.
func (st *stage) skeleton(entries []entry) error {
	made := map[string]bool{".": true}
	mkdir := func(at string, mode fs.FileMode) error {
		if made[at] {
			return nil
		}
		made[at] = true
		if err := st.box.MkdirAll(at, 0o777); err != nil {
			return err
		}
		if want := mode | 0o700; mode != 0 && want != 0o777&^st.umask {
			return st.box.Chmod(at, want)
		}
		return nil
	}
	for _, e := range entries {
		if e.Mode.IsDir() {
			if err := mkdir(e.Path, e.Mode.Perm()); err != nil {
				return fmt.Errorf("%s: %w", e.Path, unwrapDisk(err))
			}
		}
	}
	to := files{root: st.box}
	defer to.close()
	for _, e := range entries {
		if err := mkdir(path.Dir(e.Path), 0); err != nil {
			return fmt.Errorf("%s: %w", e.Path, unwrapDisk(err))
		}
		switch {
		case e.Mode.Type() == fs.ModeSymlink:
			dir, err := to.in(path.Dir(e.Path))
			if err == nil {
				err = dir.Symlink(e.Link, path.Base(e.Path))
			}
			if err != nil {
				return fmt.Errorf("%s: %w", e.Path, err)
			}
		case e.Mode.IsRegular() && e.Size == 0:
			if err := st.file(&to, e, func(io.Writer) error { return nil }); err != nil {
				return err
			}
		}
	}
	return nil
}

// file makes a file with its content, permissions and time.
func (st *stage) file(to *files, e entry, content func(io.Writer) error) error {
	fail := func(err error) error { return fmt.Errorf("%s: %w", e.Path, unwrapDisk(err)) }
	dir, err := to.in(path.Dir(e.Path))
	if err != nil {
		return fail(err)
	}
	name, perm := path.Base(e.Path), e.Mode.Perm()
	f, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return fail(err)
	}
	err = content(rationed{st, f})
	if err == nil && perm&st.umask != 0 {
		err = f.Chmod(perm)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil && e.Modified != 0 {
		err = dir.Chtimes(name, e.modified(), e.modified())
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// move is a step of putting a stage into place.
type move struct {
	at    string
	clear bool        // an empty directory, or a file that a directory replaces, is in the way
	there fs.FileInfo // what is replaced; nil: nothing is there
}

// settle moves what is staged into the project directory. What is there is replaced, directories are merged; what cannot be
// replaced is found before anything is moved. Of several who settle in one directory each waits for the one before.
func (st *stage) settle(ctx context.Context, entries []entry) error {
	home, err := st.root.Open(path.Dir(st.at))
	if err != nil {
		return err
	}
	defer home.Close()
	if err := flock.Lock(ctx, home, true); err != nil {
		return fmt.Errorf("lock %s: %w", path.Dir(st.at), err)
	}
	for attempt := 0; ; attempt++ {
		var moves []move
		var err error
		if st.repo, err = gitDirOf(st.root); err != nil {
			return err
		}
		if err := st.plan(".", &moves); err != nil {
			return err
		}
		err = st.apply(moves)
		if err == nil {
			break
		}
		// A job that runs in the same directory may have made it meanwhile.
		made := errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EISDIR)
		if attempt == 3 || !made {
			return err
		}
	}
	for _, e := range slices.Backward(entries) {
		if !e.Mode.IsDir() {
			continue
		}
		if info, err := st.root.Stat(e.Path); err == nil && info.IsDir() && info.Mode().Perm() != e.Mode.Perm() {
			err := st.writable(path.Join(e.Path, "x")) // it may be a link itself
			if err == nil {
				err = st.root.Chmod(e.Path, e.Mode.Perm())
			}
			if err != nil {
				return fmt.Errorf("%s: %w", e.Path, unwrapDisk(err))
			}
		}
	}
	return nil
}

// writable refuses what links would have written into the repository. Without links on the way the names have told.
func (st *stage) writable(at string) error {
	if st.whole || !st.linked {
		return nil
	}
	return st.repo.writable(at)
}

func (st *stage) apply(moves []move) error {
	for _, m := range moves {
		if err := st.writable(m.at); err != nil {
			return err // one of the moves before has put a link where a directory was
		}
		if st.guard != nil && !unchanged(st.root, m.at, m.there) {
			return fmt.Errorf("move %s into place: %w", m.at, fs.ErrExist) // somebody has just written it
		}
		if m.clear {
			st.root.Remove(m.at) //nolint:errcheck // the rename tells
		}
		if err := st.root.Rename(path.Join(st.at, m.at), m.at); err != nil {
			return fmt.Errorf("move %s into place: %w", m.at, unwrapLink(err))
		}
	}
	return nil
}

func unwrapLink(err error) error {
	var lerr *os.LinkError
	if errors.As(err, &lerr) {
		return lerr.Err
	}
	return err
}

func (st *stage) plan(at string, moves *[]move) error {
	dir, err := st.box.Open(at)
	if err != nil {
		return err
	}
	staged, err := dir.ReadDir(-1)
	dir.Close()
	if err != nil {
		return err
	}
	for _, s := range staged {
		below := path.Join(at, s.Name())
		if err := st.writable(below); err != nil {
			return err
		}
		there, err := st.root.Lstat(below)
		if errors.Is(err, fs.ErrNotExist) {
			*moves = append(*moves, move{at: below})
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", below, unwrapDisk(err))
		}
		if there.Mode().Type() == fs.ModeSymlink && s.IsDir() {
			target, err := st.root.Stat(below)
			if err != nil {
				return fmt.Errorf("%s is a link in the project directory that leads nowhere or outside of it: nothing is written through it", below)
			}
			if target.IsDir() {
				there, st.linked = target, true
				if err := st.writable(path.Join(below, "x")); err != nil {
					return err
				}
			}
		}
		switch {
		case s.IsDir() && there.IsDir():
			if err := st.plan(below, moves); err != nil {
				return err
			}
		case there.IsDir() && st.isEmpty(below):
			*moves = append(*moves, move{at: below, clear: true, there: there})
		case st.guard != nil:
			ok, err := st.guard.replaces(below, there)
			if err != nil {
				return err
			}
			if ok {
				*moves = append(*moves, move{at: below, clear: s.IsDir(), there: there})
			}
		case s.IsDir():
			return fmt.Errorf("%s is a directory in the archive and a file in the project directory", below)
		case there.IsDir():
			return fmt.Errorf("%s is a file in the archive and a directory with files in the project directory", below)
		default:
			*moves = append(*moves, move{at: below})
		}
	}
	return nil
}

func (st *stage) isEmpty(at string) bool {
	dir, err := st.root.Open(at)
	if err != nil {
		return false
	}
	defer dir.Close()
	_, err = dir.Readdirnames(1)
	return errors.Is(err, io.EOF)
}

// times is for so many archives together.
func (l Limits) times(n int) Limits {
	l.Bytes *= int64(n)
	l.Files *= n
	return l
}

// overlay lays trees over each other: of two files with one name that of the later tree counts.
func overlay(trees []*tree, l Limits) (*tree, error) {
	if len(trees) == 1 {
		return trees[0], nil
	}
	all := tree{Blobs: map[string]int64{}}
	at := map[string]int{}
	for _, t := range trees {
		for _, e := range t.Entries {
			if i, there := at[e.Path]; there {
				all.Entries[i] = e
				continue
			}
			at[e.Path] = len(all.Entries)
			all.Entries = append(all.Entries, e)
		}
		for hash, size := range t.Blobs {
			all.Blobs[hash] = size
		}
	}
	sortEntries(all.Entries)
	return &all, check(all.Entries, l.times(len(trees)), false)
}

// extract writes a tree to the project directory, whole or not at all. With a guard what it keeps of the working tree stays.
func (s *Store) extract(ctx context.Context, w Work, t *tree, l Limits, g *guard) error {
	if err := checkTree(t, l); err != nil {
		return err
	}
	entries := w.keep(t.Entries)
	if len(entries) == 0 {
		return nil
	}
	root, err := os.OpenRoot(w.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if g != nil {
		g.begin(ctx, root, t)
		defer g.end()
		if entries, err = g.missing(entries); len(entries) == 0 || err != nil {
			return err
		}
	}
	st, err := newStage(root)
	if err != nil {
		return err
	}
	defer st.close()
	st.guard = g
	if err := st.room(entries, l.Reserve); err != nil {
		return err
	}
	if err := st.skeleton(entries); err != nil {
		return err
	}
	if err := s.contents(ctx, st, entries, t.Blobs); err != nil {
		return err
	}
	return st.settle(ctx, entries)
}

// keep leaves out what a job must not overwrite. Nor does the repository come from an archive where the directory is the job's own: what is said
// in it, programs to run for one, is done by all git that looks at the directory.
func (w Work) keep(entries []entry) []entry {
	left := false
	kept := make([]entry, 0, len(entries))
	for _, e := range entries {
		switch {
		case isStage(e.Path):
		case ofRepository(e.Path):
			left = true
		default:
			kept = append(kept, e)
		}
	}
	switch {
	case left && w.InPlace:
		w.warnf(".git is left out: it belongs to the working tree that the job runs in")
	case left:
		w.warnf(".git is left out: a job has the repository of its own sources, or none")
	}
	return kept
}

// contents fills the files of a stage, bundle by bundle.
func (s *Store) contents(ctx context.Context, st *stage, entries []entry, sizes map[string]int64) error {
	holders := map[string]unit{}
	var order []string
	for i, e := range entries {
		if !e.Mode.IsRegular() || e.Size == 0 {
			continue
		}
		if holders[e.Blob] == nil {
			order = append(order, e.Blob)
		}
		holders[e.Blob] = append(holders[e.Blob], i)
	}
	group, gctx := errgroup.WithContext(ctx)
	for _, hash := range order {
		if err := s.acquire(gctx); err != nil {
			break
		}
		group.Go(func() error {
			defer s.release()
			if size := sizes[hash]; size <= bundleMax {
				return s.unbundle(gctx, st, entries, holders[hash], hash, size)
			}
			for _, i := range holders[hash] {
				if err := s.copyOut(gctx, st, entries[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

func (s *Store) unbundle(ctx context.Context, st *stage, entries []entry, u unit, hash string, size int64) error {
	buf := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(buf)
	if err := s.get(ctx, hash, size, buf); err != nil {
		return fmt.Errorf("%s: %w", entries[u[0]].Path, err)
	}
	to := files{root: st.box}
	defer to.close()
	for _, i := range u {
		e := entries[i]
		piece := buf.Bytes()[e.Offset : e.Offset+e.Size]
		err := st.file(&to, e, func(w io.Writer) error {
			_, err := w.Write(piece)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) copyOut(ctx context.Context, st *stage, e entry) error {
	r, err := s.bucket.NewReader(ctx, blobKey(e.Blob), nil)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, s.readError(err))
	}
	defer r.Close()
	to := files{root: st.box}
	defer to.close()
	return st.file(&to, e, func(w io.Writer) error {
		hash := blake3.New()
		n, err := io.Copy(io.MultiWriter(w, hash), &bounded{ctx: ctx, r: r, left: e.Size + 1})
		if err == nil && (n != e.Size || hex.EncodeToString(hash.Sum(nil)) != e.Blob) {
			err = errCorrupt
		}
		return err
	})
}

// bounded reads so many bytes as long as nobody has lost patience.
type bounded struct {
	ctx  context.Context
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if b.left <= 0 {
		return 0, io.EOF
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
