package source

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"weak"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
)

// Archives that were fetched for a source are kept in a folder beside its mirror, each under its SHA-256 digest: an app can be
// rendered after a restart although the remote is away.
const (
	archivesSuffix = ".archives"
	// maxStored bounds such a folder in bytes: what was not used for longest goes first.
	maxStored = 512 << 20
	// maxUnused is how long an archive is kept that nobody has asked for.
	maxUnused = 30 * 24 * time.Hour
	// touchAfter is how exactly it is known when an archive was last used.
	touchAfter = time.Hour
)

// archivesDir is the folder of a target's archives.
func (f *Fetcher) archivesDir(t target) string {
	return strings.TrimSuffix(f.mirrorDir(t), ".git") + archivesSuffix
}

// digestOf is the SHA-256 digest in hex.
func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// isDigest tells whether s is a SHA-256 digest in lower-case hex.
func isDigest(s string) bool {
	return len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}

// stored gives what is kept under a digest; nil: nothing is, or not that any more.
func (f *Fetcher) stored(dir, digest string) []byte {
	if !isDigest(digest) {
		return nil
	}
	name := filepath.Join(dir, digest)
	info, err := os.Stat(name)
	if err != nil || info.Size() > maxArchive {
		return nil
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	if digestOf(data) != digest {
		os.Remove(name)
		return nil
	}
	if now := time.Now(); now.Sub(info.ModTime()) > touchAfter {
		_ = os.Chtimes(name, now, now) // it is used later than it seems
	}
	return data
}

// keep stores data under its digest, or under the name of something that leads to one.
func (f *Fetcher) keep(dir, name string, data []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("store archive: %w", err)
	}
	tmp, err := os.CreateTemp(f.opts.Dir, newPrefix)
	if err != nil {
		return fmt.Errorf("store archive: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err = cmp.Or(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return fmt.Errorf("store archive: %w", err)
	}
	return thin(dir, name, maxStored, 0, time.Now())
}

// thin removes from a folder what was not used for a time (zero: any), and then what was not used for longest, until all that
// is left takes at most max bytes. What is spared stays.
func thin(dir, spared string, most int64, unused time.Duration, now time.Time) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("clear archives: %w", err)
	}
	var files []fs.FileInfo
	var size int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue // gone meanwhile
		}
		if unused > 0 && now.Sub(info.ModTime()) > unused && e.Name() != spared {
			os.Remove(filepath.Join(dir, e.Name()))
			continue
		}
		files, size = append(files, info), size+info.Size()
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, info := range files {
		if size <= most {
			break
		}
		if info.Name() != spared {
			os.Remove(filepath.Join(dir, info.Name()))
			size -= info.Size()
		}
	}
	return nil
}

// retainArchives removes all folders of archives but those of the given mirrors, and what is old in those.
func (f *Fetcher) retainArchives(keep map[string]bool) error {
	dirs, err := filepath.Glob(filepath.Join(f.opts.Dir, "*"+archivesSuffix))
	if err != nil {
		return fmt.Errorf("list archives: %w", err)
	}
	for _, dir := range dirs {
		if keep[strings.TrimSuffix(dir, archivesSuffix)+".git"] {
			err = thin(dir, "", maxStored, maxUnused, time.Now())
		} else {
			err = os.RemoveAll(dir)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("clear archives: %w", err)
		}
	}
	return nil
}

// link is the name under which it is kept what something else than a digest leads to, as a version.
func link(parts ...string) string {
	return "to-" + digestOf([]byte(strings.Join(parts, "\n")))[:40]
}

// linked gives what is kept under such a name; empty: nothing is.
func linked(dir, name string) string {
	name = filepath.Join(dir, name)
	if info, err := os.Stat(name); err != nil || info.Size() > 1<<10 {
		return ""
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return string(data)
}

// treeKey names an unpacked archive.
type treeKey struct {
	digest string
	chart  bool
}

// unpacked gives the tree of an archive. Whoever shows the same one shares its memory.
func (f *Fetcher) unpacked(key treeKey, archive []byte) (*git.Tree, error) {
	if tree := f.known(key); tree != nil {
		return tree, nil
	}
	tree, err := unpack(archive, key.chart)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, p := range f.trees {
		if p.Value() == nil {
			delete(f.trees, k)
		}
	}
	f.trees[key] = weak.Make(tree)
	return tree, nil
}

// known gives the tree of an archive that somebody shows; nil: nobody does.
func (f *Fetcher) known(key treeKey) *git.Tree {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.trees[key].Value()
}

// caught makes a panic over what somebody else has written an error: it is a fault of that source alone.
func caught(err *error) {
	if p := recover(); p != nil {
		*err = &delivery.Fault{Reason: ReasonChart, Err: fmt.Errorf("internal error: %v", p), Hint: "please report it"}
	}
}

// once runs do for a key, once for all who ask at the same time. It is not given up with the one who came first.
func (f *Fetcher) once(ctx context.Context, key string, timeout time.Duration, do func(context.Context) ([]byte, error)) ([]byte, error) {
	ch := f.flights.DoChan(key, func() (_ any, err error) {
		defer caught(&err)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		return do(ctx)
	})
	select {
	case r := <-ch:
		data, _ := r.Val.([]byte)
		return data, r.Err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", git.ErrUnreachable, ctx.Err())
	}
}

// identity tells apart who asks a remote and how, without keeping the credentials.
func (f *Fetcher) identity(t target) string {
	m := hmac.New(sha256.New, f.secret)
	fmt.Fprintf(m, "%s %#v %t", t.url, t.auth, t.plain)
	fmt.Fprintf(m, " %s %t", t.query, t.passAll)
	return hex.EncodeToString(m.Sum(nil))
}
