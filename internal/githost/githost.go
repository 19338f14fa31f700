// Package githost hosts bare Git repositories over smart HTTP: the git program does the work, this package guards
// the door.
//
//	host, err := githost.New(githost.Options{Root: dir, Token: token, OnPush: func(p githost.Push) { … }})
//	mux.Handle("/git/", host)                   // git clone http://host/git/sample.git
//	mux.Handle("/api/git/", host.API())         // GET and POST /api/git/repositories
//	err = host.Create(ctx, "sample")            // an empty repository, its default branch is "main"
//
// Names are lower-case letters, digits, "-", "_" and ".", with at most one group: "sample", "team/shop".
// Writes need the token, by HTTP basic authentication (any user name, the token is the password) or as a bearer
// token; people have tokens of their own, by Options.Person, and push as themselves whatever name they give. Reads are open to clients on this machine and need the token from elsewhere, or from everybody with
// Options.GuardReads or through [Host.Guarded]. Pushes may rewrite history; their objects are checked (receive.fsckObjects) and their size is
// bounded. Hooks never run: OnPush is called before the pushing client gets its answer.
package githost

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"keelson.dev/keelson/internal/git"
)

const (
	// DefaultBranch is what HEAD of a new repository names.
	DefaultBranch = "main"
	// DefaultMaxPack is the largest pack that a push may send: 500 MiB.
	DefaultMaxPack = 500 << 20
	// maxNameLength is the longest repository name in bytes.
	maxNameLength = 100
	// maxProcesses is how many git processes serve requests at once; more requests wait.
	maxProcesses = 32
	// suffix ends every repository's directory and URL.
	suffix = ".git"
	// unfinished begins the name of a repository that is being created.
	unfinished = ".new-"
)

var (
	// ErrName: the name breaks the rules for repository names.
	ErrName = errors.New("bad repository name")
	// ErrExists: there is a repository of this name.
	ErrExists = errors.New("repository exists already")
	// ErrNotFound: there is no repository of this name.
	ErrNotFound = errors.New("repository not found")
	// ErrUnknown is of Options.Person: the token is nobody's.
	ErrUnknown = errors.New("the token is wrong or over")
	// ErrForbidden is of Options.Person: whose the token is may not.
	ErrForbidden = errors.New("forbidden")
)

// Options of a host.
type Options struct {
	Root       string     // the folder of the repositories; it is made if need be
	Token      string     // guards writes; it must not be empty
	GuardReads bool       // reads need the token too, from this machine as well
	MaxPack    int64      // bytes of a pushed pack; zero: [DefaultMaxPack]
	OnPush     func(Push) // called after a push has changed a ref; nil: nobody cares
	// OnRefused is called when a person who is known may not push, with what is known of the push. Nil: nobody cares.
	OnRefused func(Push)
	// Allow lets other tokens than Token in, for a repository; an error says why not. Nil: there are none.
	Allow func(token, repository string, write bool) error
	// Personal tells which tokens are those of people, and Person whose one is, if they may: read or write a repository, or where that is empty ask
	// the host at all. The error wraps [ErrUnknown] or, with the name, [ErrForbidden]; any other means that nobody can tell. Nil: there are none.
	Personal func(token string) bool
	Person   func(ctx context.Context, token, repository string, write bool) (name string, err error)
	// Private tells which repositories only Token opens, for reading; nobody pushes to them, and all their refs are shown. Nil: there are none.
	Private func(repository string) bool
	// Release lets go of a mirror that somebody wants to push to, if nobody keeps it any more; true: it is none now. Nil: all are kept.
	Release func(repository string) bool
	// Job gives the number of the job that a token of [JobHeader] is of; 0: of none. Nil: nobody asks.
	Job func(token string) int64
}

// Host serves the repositories under one folder.
type Host struct {
	opts  Options
	slots chan struct{}
	cross *http.CrossOriginProtection

	mu    sync.Mutex
	repos map[string]*git.Repository // the open ones, by name
}

// New makes a host and clears away what a killed process has left half-created.
func New(opts Options) (*Host, error) {
	if opts.Token == "" {
		return nil, errors.New("git host: the token is empty")
	}
	if opts.MaxPack <= 0 {
		opts.MaxPack = DefaultMaxPack
	}
	root, err := filepath.Abs(opts.Root)
	if err != nil {
		return nil, fmt.Errorf("git host: %w", err)
	}
	opts.Root = root
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("git host: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(root, unfinished+"*"))
	if err != nil {
		return nil, fmt.Errorf("git host: %w", err)
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return nil, fmt.Errorf("git host: %w", err)
		}
	}
	return &Host{opts: opts, slots: make(chan struct{}, maxProcesses), cross: http.NewCrossOriginProtection(), repos: map[string]*git.Repository{}}, nil
}

// CheckName says what is wrong with a repository name; the error wraps [ErrName].
func CheckName(name string) error {
	bad := func(why string) error { return fmt.Errorf("%w %q: %s", ErrName, name, why) }
	if name == "" || len(name) > maxNameLength {
		return fmt.Errorf("%w: it must have 1 to %d characters", ErrName, maxNameLength)
	}
	parts := strings.Split(name, "/")
	if len(parts) > 2 {
		return bad("at most one group is allowed, as in team/shop")
	}
	for _, part := range parts {
		switch {
		case part == "":
			return bad("a part is empty")
		case part[0] == '.' || part[0] == '-':
			return bad("a part begins with " + part[:1])
		case strings.Contains(part, ".."):
			return bad(`".." is not allowed`)
		case strings.Contains(part, suffix):
			return bad(`".git" is added by itself`)
		case strings.HasSuffix(part, ".lock") || strings.HasSuffix(part, "."):
			return bad(`a part must not end in "." or ".lock"`)
		}
		if strings.ContainsFunc(part, func(c rune) bool { return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-_.", c) }) {
			return bad(`only lower-case letters, digits, "-", "_" and "." are allowed`)
		}
	}
	return nil
}

// Dir is the folder of a repository, whether it exists or not. A bad name gives the empty string.
func (h *Host) Dir(name string) string {
	if CheckName(name) != nil {
		return ""
	}
	return filepath.Join(h.opts.Root, filepath.FromSlash(name)+suffix)
}

// Exists says whether there is a repository of this name.
func (h *Host) Exists(name string) bool {
	dir := h.Dir(name)
	if dir == "" {
		return false
	}
	info, err := os.Stat(filepath.Join(dir, "HEAD"))
	return err == nil && info.Mode().IsRegular()
}

// Create makes an empty repository. It appears whole or not at all, also if the process is killed.
func (h *Host) Create(ctx context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if h.Exists(name) {
		return fmt.Errorf("create %s: %w", name, ErrExists)
	}
	dir := h.Dir(name)
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	tmp, err := os.MkdirTemp(h.opts.Root, unfinished)
	if err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	defer os.RemoveAll(tmp)
	repo, err := git.Init(ctx, tmp, DefaultBranch, git.Options{})
	if err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	if err := repo.Close(); err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	// The rename fails if somebody else was first: a folder never replaces one that is not empty.
	if err := os.Rename(tmp, dir); err != nil {
		if h.Exists(name) {
			err = ErrExists
		}
		return fmt.Errorf("create %s: %w", name, err)
	}
	return nil
}

// List returns the names of all repositories, sorted.
func (h *Host) List() ([]string, error) {
	var names []string
	err := filepath.WalkDir(h.opts.Root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || p == h.opts.Root {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		rel, err := filepath.Rel(h.opts.Root, p)
		if err != nil {
			return err
		}
		name, isRepo := strings.CutSuffix(filepath.ToSlash(rel), suffix)
		if isRepo && h.Exists(name) {
			names = append(names, name)
			return fs.SkipDir
		}
		if CheckName(name) != nil || strings.Contains(name, "/") {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list repositories: %w", err)
	}
	slices.Sort(names)
	return names, nil
}

// repository opens a repository once, for reading its refs.
func (h *Host) repository(name string) (*git.Repository, error) {
	if !h.Exists(name) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if r := h.repos[name]; r != nil {
		return r, nil
	}
	r, err := git.Open(h.Dir(name), git.Options{})
	if err != nil {
		return nil, err
	}
	h.repos[name] = r
	return r, nil
}

var _ http.Handler = (*Host)(nil)
