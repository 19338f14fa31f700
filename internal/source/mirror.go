package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
)

// Prefixes of folders that are coming or going; New clears them away.
const (
	newPrefix = ".new-"
	oldPrefix = ".old-"
)

// entry returns the one record of a folder.
func (f *Fetcher) entry(dir string) *repository {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.repos[dir]
	if r == nil {
		r = &repository{dir: dir, lock: make(chan struct{}, 1), known: &ignoreIndex{}}
		f.repos[dir] = r
	}
	return r
}

// acquire takes the lock of a mirror; who waits for it gives up when ctx ends.
func (r *repository) acquire(ctx context.Context) error {
	select {
	case r.lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: wait for another fetch of this URL: %w", git.ErrUnreachable, ctx.Err())
	}
}

func (r *repository) release() { <-r.lock }

// local opens a repository of the built-in host, once.
func (f *Fetcher) local(t target) (*repository, error) {
	if _, err := os.Stat(filepath.Join(t.local, "HEAD")); err != nil {
		return nil, fmt.Errorf("%w on the built-in Git host", git.ErrRepoNotFound)
	}
	r := f.entry(t.local)
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.repo == nil {
		repo, err := git.Open(t.local, git.Options{MaxFileSize: f.opts.MaxFileSize})
		if err != nil {
			return nil, err
		}
		r.repo = repo
	}
	return &repository{dir: r.dir, repo: r.repo, known: r.known}, nil
}

// mirrorDir is the folder of a target's mirror.
func (f *Fetcher) mirrorDir(t target) string { return mirrorPath(f.opts.Dir, t.salt, t.tenant, t.url) }

// mirror gives the URL's mirror with the revision's whole tree in it. A damaged mirror is replaced, once.
func (f *Fetcher) mirror(ctx context.Context, t target, src delivery.Source, rev delivery.Revision) (*repository, error) {
	r := f.entry(f.mirrorDir(t))
	if repo := f.has(r, rev); repo != nil {
		return &repository{dir: r.dir, repo: repo, known: r.known}, nil
	}
	if err := r.acquire(ctx); err != nil {
		return nil, err
	}
	defer r.release()
	err := f.update(ctx, r, t, src, rev)
	if errors.Is(err, git.ErrCorrupt) && ctx.Err() == nil {
		if err := f.discard(r); err != nil {
			return nil, err
		}
		err = f.update(ctx, r, t, src, rev)
	}
	if err != nil {
		return nil, err
	}
	return &repository{dir: r.dir, repo: r.repo, known: r.known}, nil
}

// has gives the mirror if it is known to hold all of the revision: nobody waits then for whoever fetches into it. Nil: that
// takes a look with the lock held, for objects may be arriving just now.
func (f *Fetcher) has(r *repository, rev delivery.Revision) *git.Repository {
	f.mu.Lock()
	repo := r.repo
	f.mu.Unlock()
	if repo == nil || repo.Damaged() || !repo.Verified(rev.Commit) {
		return nil
	}
	if _, err := os.Stat(filepath.Join(r.dir, "HEAD")); err != nil {
		return nil
	}
	return repo
}

// use notes the open repository of a mirror. The caller holds the mirror's lock.
func (f *Fetcher) use(r *repository, repo *git.Repository) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r.repo = repo
}

// update brings the revision into the mirror, if it is not there already. The caller holds the lock.
func (f *Fetcher) update(ctx context.Context, r *repository, t target, src delivery.Source, rev delivery.Revision) error {
	if err := f.open(ctx, r); err != nil {
		return err
	}
	if r.repo.Damaged() {
		return git.ErrCorrupt
	}
	_, err := r.repo.Info(rev.Commit)
	if errors.Is(err, git.ErrUnknownRef) {
		err = fetch(ctx, r.repo, t, src, rev)
	}
	if err != nil {
		return err
	}
	return r.repo.Verify(ctx, rev.Commit)
}

// ownRef is the ref in a mirror that keeps a source's commit.
func ownRef(src delivery.Source) string {
	sum := sha256.Sum256([]byte(src.ID.String()))
	return "refs/keelson/" + hex.EncodeToString(sum[:16])
}

// maxBetween is how many bytes of commits between the last one and a new one may come: beyond, only the new one does.
const maxBetween = 8 << 20

// A mirror has the last commits of a source: once there are more than longHistory of them, the older ones are cut off. The history looks at fewer
// than stay.
var longHistory, shortHistory = 256, 64

// fetch asks for the commit itself, which most servers allow; then for the ref's tip; then for all of the history.
func fetch(ctx context.Context, repo *git.Repository, t target, src delivery.Source, rev delivery.Revision) error {
	// One ref per source keeps its objects, with those of the last commits before it.
	to := ":" + ownRef(src)
	attempts := []git.FetchOptions{{Refspecs: []string{"+" + rev.Commit + to}, Depth: 1}}
	if last, err := repo.Resolve(ownRef(src)); err == nil && last != rev.Commit {
		// What follows the last commit comes with the commits between them: the history tells what each of them has changed. Where they have little
		// in common that would be too much. What has become long is cut off: git removes later what nothing leads to any more.
		next := git.FetchOptions{Refspecs: []string{"+" + rev.Commit + to}, Onward: true, MaxPack: maxBetween}
		if long, err := repo.Longer(ctx, last, longHistory); err == nil && long {
			next.Onward, next.Depth = false, shortHistory
		}
		attempts = slices.Insert(attempts, 0, next)
	}
	if ref := refOf(src.Ref, rev); ref != "" {
		attempts = append(attempts,
			git.FetchOptions{Refspecs: []string{"+" + ref + to}, Depth: 1},
			git.FetchOptions{Refspecs: []string{"+" + ref + to}})
	} else {
		attempts = append(attempts, everything())
	}
	var err error
	for _, a := range attempts {
		err = repo.Fetch(ctx, t.remote(), a)
		for _, final := range []error{git.ErrAuth, git.ErrRepoNotFound, git.ErrRefused, git.ErrUnreachable, git.ErrCorrupt, context.Canceled, context.DeadlineExceeded} {
			if errors.Is(err, final) {
				return err
			}
		}
		if err == nil && repo.HasCommit(rev.Commit) {
			return nil
		}
	}
	if err == nil {
		err = fmt.Errorf("%w: commit %s is not there, or not any more", git.ErrUnknownRef, rev.Commit)
	}
	return err
}

// open opens the mirror; where there is none, an empty one is made, whole or not at all. The caller holds the lock.
func (f *Fetcher) open(ctx context.Context, r *repository) error {
	if r.repo != nil {
		_, err := os.Stat(filepath.Join(r.dir, "HEAD"))
		if err == nil {
			return nil
		}
		return fmt.Errorf("%w: %w", git.ErrCorrupt, err)
	}
	opts := git.Options{MaxFileSize: f.opts.MaxFileSize}
	if _, err := os.Stat(r.dir); !errors.Is(err, fs.ErrNotExist) {
		repo, err := git.Open(r.dir, opts)
		if err != nil {
			return err
		}
		f.use(r, repo)
		return nil
	}
	tmp, err := os.MkdirTemp(f.opts.Dir, newPrefix)
	if err != nil {
		return fmt.Errorf("make mirror: %w", err)
	}
	defer os.RemoveAll(tmp)
	if _, err := git.Init(ctx, tmp, DefaultBranch, opts); err != nil {
		return fmt.Errorf("make mirror: %w", err)
	}
	if err := os.Rename(tmp, r.dir); err != nil {
		return fmt.Errorf("make mirror: %w", err)
	}
	repo, err := git.Open(r.dir, opts)
	if err != nil {
		return err
	}
	f.use(r, repo)
	return nil
}

// discard removes a mirror. Snapshots that still read from it fail, and are made again. The caller holds the lock.
func (f *Fetcher) discard(r *repository) error {
	if r.repo != nil {
		// What cannot be closed is removed all the same.
		_ = r.repo.Close()
		f.use(r, nil)
	}
	tmp, err := os.MkdirTemp(f.opts.Dir, oldPrefix)
	if err != nil {
		return fmt.Errorf("remove mirror: %w", err)
	}
	if err := os.Rename(r.dir, filepath.Join(tmp, "mirror")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove mirror: %w", err)
	}
	if err := os.RemoveAll(tmp); err != nil {
		return fmt.Errorf("remove mirror: %w", err)
	}
	return nil
}

// Retain removes all mirrors and archives but those of the given sources, of which id, tenant and URL count. Mirrors that are being fetched into are
// waited for.
func (f *Fetcher) Retain(ctx context.Context, sources []delivery.Source) error {
	keep, asked := map[string]bool{}, map[asker]bool{}
	for _, src := range sources {
		if u, err := addressOf(src.URL); err == nil {
			keep[f.mirrorDir(target{url: u, salt: src.ID.Namespace, tenant: src.Tenant})], asked[asker{src.ID, u}] = true, true
		}
	}
	f.forget(asked)
	f.mu.Lock()
	for _, dirs := range f.subs {
		maps.Copy(keep, dirs)
	}
	f.mu.Unlock()
	if err := f.retainArchives(keep); err != nil {
		return err
	}
	dirs, err := filepath.Glob(filepath.Join(f.opts.Dir, "*.git"))
	if err != nil {
		return fmt.Errorf("list mirrors: %w", err)
	}
	for _, dir := range dirs {
		if keep[dir] {
			continue
		}
		r := f.entry(dir)
		if err := r.acquire(ctx); err != nil {
			return err
		}
		err := f.discard(r)
		r.release()
		if err != nil {
			return err
		}
	}
	return nil
}

// Close closes the open repositories. Snapshots in use stay readable.
func (f *Fetcher) Close() error {
	f.mu.Lock()
	repos := slices.Collect(maps.Values(f.repos))
	f.mu.Unlock()
	var errs []error
	for _, r := range repos {
		r.lock <- struct{}{}
		if r.repo != nil {
			errs = append(errs, r.repo.Close())
		}
		<-r.lock
	}
	return errors.Join(errs...)
}
