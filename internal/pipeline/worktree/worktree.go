// Package worktree is a pipeline's outside on a person's machine: the event out of the working tree and its repository
// ([Repository.Event]), the files that includes name ([Files]), and the variables that a project has in its settings
// ([ReadVariables]).
//
//	repo, err := worktree.Open(ctx, ".")                       // the working tree as it is; no repository will do too
//	c, err := repo.Event(ctx, worktree.Event{Source: "push"})   // a pipeline.Context
//	files := repo.Files(ctx, worktree.FilesOptions{…})          // a config.Files
//
// It asks the git program, with the user's own configuration: credentials, safe directories and ignored files are theirs.
// Opening costs two git processes at the same time; what changes and exists need is asked for when they do.
package worktree

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/redact"
)

const (
	maxOutput = 64 << 20 // bytes of a git command's output
	killDelay = 2 * time.Second
)

// Repository is a working tree, mostly of a Git repository.
type Repository struct {
	root   string
	hasGit bool
	common string // the directory of refs; only with hasGit

	head   pipeline.Commit
	branch string   // that HEAD is on; empty: it is detached
	tags   []string // that name HEAD
	remote []string // branches of remotes at HEAD, without the remote's name
	config map[string]string

	paths func() ([]string, error) // of the working tree, read once
}

// Open finds the working tree around dir: the nearest folder above that holds ".git", or else dir itself.
func Open(ctx context.Context, dir string) (*Repository, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open the working tree: %w", err)
	}
	r := &Repository{root: dir, config: map[string]string{}}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Lstat(filepath.Join(at, ".git")); err == nil {
			r.root, r.hasGit = at, true
			break
		}
		if at == filepath.Dir(at) {
			break
		}
	}
	r.paths = sync.OnceValues(func() ([]string, error) { return r.list(ctx) })
	if !r.hasGit {
		return r, nil
	}
	if r.common, err = commonDir(r.root); err != nil {
		return nil, err
	}
	return r, r.load(ctx)
}

// Root is the folder that paths are relative to.
func (r *Repository) Root() string { return r.root }

// GitDir is the directory of the repository's refs and objects; empty: there is no repository.
func (r *Repository) GitDir() string { return r.common }

// Has tells whether a commit is here and, where it is not empty, a ref of that full name.
func (r *Repository) Has(ctx context.Context, sha, ref string) bool {
	if !r.hasGit || ref != "" && !r.hasRef(ctx, ref) {
		return false
	}
	_, err := r.git(ctx, "cat-file", "-e", sha+"^{commit}")
	return err == nil
}

// commonDir is where a working tree's refs are: also of one that "git worktree add" made.
func commonDir(root string) (string, error) {
	dir := filepath.Join(root, ".git")
	if b, err := os.ReadFile(dir); err == nil { // "gitdir: PATH"
		dir = strings.TrimSpace(strings.TrimPrefix(string(b), "gitdir:"))
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(root, dir)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "commondir"))
	if errors.Is(err, fs.ErrNotExist) {
		return dir, nil
	}
	if err != nil {
		return "", fmt.Errorf("open the repository of %s: %w", root, err)
	}
	common := strings.TrimSpace(string(b))
	if !filepath.IsAbs(common) {
		common = filepath.Join(dir, common)
	}
	return common, nil
}

// load asks for the commit and for the configuration at the same time.
func (r *Repository) load(ctx context.Context) error {
	var settings string
	var settingsErr error
	done := make(chan struct{})
	go func() {
		defer close(done)
		settings, settingsErr = r.git(ctx, "config", "--list", "-z")
	}()
	head, err := r.git(ctx, "log", "-1", "--no-show-signature", "--no-color", "--decorate=full",
		"--format=format:%H%x00%an%x00%ae%x00%cI%x00%D%x00%B", "HEAD")
	<-done
	if settingsErr != nil {
		return fmt.Errorf("read the repository of %s: %w", r.root, settingsErr)
	}
	for entry := range strings.SplitSeq(settings, "\x00") {
		key, value, _ := strings.Cut(entry, "\n")
		r.config[key] = value
	}
	if err != nil { // no commit yet?
		name, symErr := r.git(ctx, "symbolic-ref", "--quiet", "--short", "HEAD")
		if symErr != nil {
			return fmt.Errorf("read the repository of %s: %w", r.root, err)
		}
		r.branch = strings.TrimSpace(name)
		return nil
	}
	fields := strings.SplitN(head, "\x00", 6)
	if len(fields) != 6 {
		return fmt.Errorf("read the repository of %s: git log: unexpected output", r.root)
	}
	when, _ := time.Parse(time.RFC3339, fields[3]) // the zero time says that it is not known
	r.head = pipeline.Commit{SHA: fields[0], AuthorName: fields[1], AuthorEmail: fields[2], Timestamp: when, Message: fields[5]}
	for name := range strings.SplitSeq(fields[4], ", ") {
		r.decorate(name)
	}
	return nil
}

// decorate takes in one of the names that git log says HEAD has.
func (r *Repository) decorate(name string) {
	if branch, ok := strings.CutPrefix(name, "HEAD -> refs/heads/"); ok {
		r.branch = branch
	}
	if tag, ok := strings.CutPrefix(name, "tag: refs/tags/"); ok {
		r.tags = append(r.tags, tag)
	}
	if rest, ok := strings.CutPrefix(name, "refs/remotes/"); ok {
		if _, branch, ok := strings.Cut(rest, "/"); ok && branch != "HEAD" {
			r.remote = append(r.remote, branch)
		}
	}
}

// hasRef tells whether there is a ref of this full name.
func (r *Repository) hasRef(ctx context.Context, name string) bool {
	if !r.hasGit || strings.Contains(name, "..") {
		return false
	}
	if info, err := os.Stat(filepath.Join(r.common, filepath.FromSlash(name))); err == nil && info.Mode().IsRegular() {
		return true
	}
	if _, err := os.Stat(filepath.Join(r.common, "reftable")); err == nil {
		_, err := r.git(ctx, "show-ref", "--verify", "--quiet", name)
		return err == nil
	}
	packed, err := os.ReadFile(filepath.Join(r.common, "packed-refs"))
	return err == nil && bytes.Contains(packed, []byte(" "+name+"\n"))
}

// git runs git in the working tree as its user would, but for prompts, and gives what it prints.
func (r *Repository) git(ctx context.Context, args ...string) (string, error) {
	return runGit(ctx, r.root, args...)
}

// runGit runs git on the repository of a directory: none that the environment of a hook names.
func runGit(ctx context.Context, dir string, args ...string) (string, error) {
	return runGitWith(ctx, dir, nil, args...)
}

// runBare runs git on the bare repository that a directory is, and on none above it where it is none.
func runBare(ctx context.Context, dir string, args ...string) (string, error) {
	return runGitWith(ctx, dir, []string{"--git-dir=."}, args...)
}

func runGitWith(ctx context.Context, dir string, options []string, args ...string) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// What a repository's configuration names as its file system monitor would be run by a mere look at it.
	cmd := exec.CommandContext(ctx, "git", slices.Concat([]string{"-c", "core.fsmonitor=false"}, options, args)...)
	cmd.Dir = dir
	cmd.Env = append(git.UserEnviron(), "LC_ALL=C", "GIT_TERMINAL_PROMPT=0", "GIT_OPTIONAL_LOCKS=0", "GIT_PAGER=cat")
	if os.Getenv("GIT_SSH_COMMAND") == "" {
		cmd.Env = append(cmd.Env, "GIT_SSH_COMMAND=ssh -o BatchMode=yes")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // git leaves its work to children
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killDelay
	out, diag := &bounded{max: maxOutput, full: cancel}, &bounded{max: 64 << 10}
	cmd.Stdout, cmd.Stderr = out, diag
	err := cmd.Run()
	switch {
	case out.over:
		return "", fmt.Errorf("git %s: output is larger than %d MiB", args[0], maxOutput>>20)
	case err == nil:
		return out.String(), nil
	case errors.Is(err, exec.ErrNotFound):
		return "", errors.New("the git program is not installed, or not in PATH")
	case ctx.Err() != nil:
		return "", fmt.Errorf("git %s: %w", args[0], context.Cause(ctx))
	}
	said, _, _ := strings.Cut(strings.TrimSpace(diag.String()), "\n")
	return "", fmt.Errorf("git %s: %s", args[0], redact.Text(cmp.Or(said, err.Error())))
}

// bounded keeps the first max bytes; full is called when more come.
type bounded struct {
	bytes.Buffer
	max  int
	over bool
	full func()
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.max - b.Len(); len(p) > room {
		b.over = true
		b.Buffer.Write(p[:room])
		if b.full != nil {
			b.full()
		}
		return len(p), nil
	}
	return b.Buffer.Write(p)
}
