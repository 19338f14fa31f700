// Package git is the one door to Git: the git program does transport, hosting and writing; reading objects
// happens inside this process, straight from a bare repository's object store.
//
//	repo, err := git.Init(ctx, dir, "main")                  // or Open(dir)
//	refs, err := git.LsRemote(ctx, remote, "refs/heads/main") // what does the remote's ref name now
//	err = repo.Fetch(ctx, remote, git.FetchOptions{…})       // bring its objects here, incrementally
//	id, err := repo.Resolve("refs/heads/main")               // an annotated tag gives its commit
//	tree, err := repo.Tree(id)                               // an fs.FS over the object store, no checkout
//	id, err = repo.Commit(ctx, git.Change{…})                // a new commit on a branch, if it has not moved
//
// What is read is bounded (see [Options]) and checked against its object id. Nothing here depends on the user's
// or the system's Git configuration, runs hooks, asks on a terminal or consults credential helpers. Credentials
// reach the git program through its environment or, as far as it wants files, through files in memory that only it
// inherits: never through its arguments, a URL or the disk. Over ssh they do not reach it at all: this process speaks ssh.
package git

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/go-git/go-git/v5/plumbing/cache"
)

// What can be wrong with a remote or a repository, told from the git program's behaviour.
// Errors of this package wrap at most one of them.
var (
	// ErrAuth: the remote wants credentials, or refuses the given ones.
	ErrAuth = errors.New("authentication failed")
	// ErrRepoNotFound: the remote answers but has no such repository.
	ErrRepoNotFound = errors.New("repository not found")
	// ErrRefused: the remote answers, but does not want to answer this: another client error than those above, as "400 Bad Request".
	ErrRefused = errors.New("remote refuses the request")
	// ErrUnreachable: the remote does not answer, answers with a server error, or not in time.
	ErrUnreachable = errors.New("remote is unreachable")
	// ErrUnknownRef: the repository has no such ref or commit, or does not hand it out.
	ErrUnknownRef = errors.New("unknown ref")
	// ErrCorrupt: an object that the repository must have is missing or damaged.
	ErrCorrupt = errors.New("repository is damaged")
	// ErrTooLarge: a file is larger than Options.MaxFileSize.
	ErrTooLarge = errors.New("file is too large")
	// ErrMoved: the branch is not where the writer expected it; somebody else was first.
	ErrMoved = errors.New("branch has moved")
)

// DefaultMaxFileSize is the size up to which a file is read: 50 MiB.
const DefaultMaxFileSize = 50 << 20

const (
	// packCacheSize bounds the memory for delta bases of one repository.
	packCacheSize = 4 << 20
	// maxTrees and maxEntries bound the parsed trees kept in memory per repository; an entry takes about 100 bytes and its name.
	maxTrees, maxEntries = 2048, 1_000_000
	// maxTree bounds a tree in bytes: about 200,000 files in one folder.
	maxTree = 8 << 20
	// maxObject bounds commits and tags.
	maxObject = 64 << 20
)

// Options of a repository that is read.
type Options struct {
	MaxFileSize int64 // bytes; zero: [DefaultMaxFileSize]
}

// Repository is a bare repository. Its methods are safe for concurrent use, also while the git program writes to
// the same directory.
type Repository struct {
	dir     string
	maxFile int64
	damaged atomic.Bool

	treeMu  sync.RWMutex
	trees   map[ObjectID]*tree
	entries int // in all of trees

	packMu sync.Mutex // go-git's pack reader seeks in one file: one reader at a time
	packs  map[string]*pack
	listed bool
	cache  cache.Object

	verifyMu sync.Mutex
	verified map[ObjectID]struct{}
}

// Init creates an empty bare repository at dir, which must not exist or be empty; HEAD names the given branch.
func Init(ctx context.Context, dir, branch string, opts Options) (*Repository, error) {
	if err := CheckRefName("refs/heads/" + branch); err != nil {
		return nil, fmt.Errorf("init repository: %w", err)
	}
	_, err := run(ctx, command{args: []string{"init", "--quiet", "--bare", "--object-format=sha1", "--template=", "--initial-branch=" + branch, "--", dir}})
	if err != nil {
		return nil, fmt.Errorf("init repository: %w", err)
	}
	return Open(dir, opts)
}

// Open opens the bare repository at dir. It only looks whether there is one.
func Open(dir string, opts Options) (*Repository, error) {
	for _, name := range []string{"objects", "refs", "HEAD"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return nil, fmt.Errorf("open repository: %w: %w", ErrCorrupt, err)
		}
	}
	maxFile := opts.MaxFileSize
	if maxFile <= 0 {
		maxFile = DefaultMaxFileSize
	}
	return &Repository{
		dir: dir, maxFile: maxFile,
		trees: map[ObjectID]*tree{}, packs: map[string]*pack{}, verified: map[ObjectID]struct{}{},
		cache: cache.NewObjectLRU(packCacheSize),
	}, nil
}

// Dir is the repository's directory.
func (r *Repository) Dir() string { return r.dir }

// Close closes the open pack files. Trees that are still in use open them again.
func (r *Repository) Close() error {
	r.packMu.Lock()
	defer r.packMu.Unlock()
	return r.closePacks()
}

// Damaged says whether a read has met a missing or damaged object since the repository was opened.
func (r *Repository) Damaged() bool { return r.damaged.Load() }

// CheckRefName accepts full ref names ("refs/heads/main") and HEAD. The rules are those of git-check-ref-format;
// a name that keeps them cannot leave the refs directory.
func CheckRefName(name string) error {
	if name == "HEAD" {
		return nil
	}
	bad := !strings.HasPrefix(name, "refs/") || len(name) > 1024 || strings.Contains(name, "..") || strings.Contains(name, "@{") ||
		strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || strings.ContainsRune(" ~^:?*[\\", r) }) ||
		slices.ContainsFunc(strings.Split(name, "/"), func(part string) bool {
			return part == "" || part[0] == '.' || strings.HasSuffix(part, ".lock") || strings.HasSuffix(part, ".")
		})
	if bad {
		return fmt.Errorf("%w: %q is not a valid ref name", ErrUnknownRef, name)
	}
	return nil
}
