package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	gitcmd "keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/scratch"
)

// Isolated gives every job a copy of a working tree below base, which must be there, and removes it with the job. The copy has what
// Git knows and what it does not ignore, as it is now, and a repository of its own that borrows the objects of the first one. Of
// submodules it has what GIT_SUBMODULE_STRATEGY says: by default an empty directory. A directory that is no repository is copied as a
// whole.
func Isolated(dir, base string) Sources { return isolated{dir, base} }

type isolated struct{ dir, base string }

// Open names the copy; the working tree's own name is its last element, since tools show it.
func (s isolated) Open(j JobRef) (Workspace, error) {
	top := filepath.Join(s.base, strconv.FormatInt(j.Pipeline, 10)+"-"+strconv.FormatInt(j.ID, 10))
	c := &isolatedCopy{from: s.dir, top: top, dir: filepath.Join(top, filepath.Base(s.dir))}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, fmt.Errorf("copy the working tree: %w", err)
	}
	return c, nil
}

type isolatedCopy struct {
	from, top, dir string
	strategy       string   // GIT_SUBMODULE_STRATEGY
	left           []string // repositories in the tree that are left out, each with the reason
}

func (c *isolatedCopy) Dir() string   { return c.dir }
func (c *isolatedCopy) InPlace() bool { return false }

// Close removes the copy, also what the job has made unwritable.
func (c *isolatedCopy) Close() error {
	if err := scratch.RemoveAll(c.top); err != nil {
		return fmt.Errorf("remove the copy of the working tree: %w", err)
	}
	return nil
}

// Prepare makes the copy, unless GIT_STRATEGY is none or empty.
func (c *isolatedCopy) Prepare(ctx context.Context, job executor.Job, trace *executor.Trace) error {
	if v, _ := job.Variables.Get("GIT_STRATEGY"); v.Value == "none" || v.Value == "empty" {
		trace.Printf("No sources are copied (GIT_STRATEGY: %s)", v.Value)
		return nil
	}
	begin := time.Now()
	c.strategy = "none"
	if v, _ := job.Variables.Get("GIT_SUBMODULE_STRATEGY"); v.Value == "normal" || v.Value == "recursive" {
		c.strategy = v.Value
	}
	files, err := c.files(ctx)
	if err != nil {
		return err
	}
	n, linked := 0, map[string]bool{".": false}
	for _, name := range files {
		if c.belowLink(filepath.Dir(name), linked) {
			continue // of a directory that has become a link: it is copied as one
		}
		copied, err := copyFile(filepath.Join(c.from, name), filepath.Join(c.dir, name))
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return fmt.Errorf("copy the working tree: %w", err)
		case copied:
			n++
		}
	}
	trace.Printf("Copied %d files of the working tree %s in %s", n, c.from, time.Since(begin).Round(time.Millisecond))
	if len(c.left) > 0 {
		slices.Sort(c.left)
		trace.Printf("Not copied: %s; GIT_SUBMODULE_STRATEGY is %s", strings.Join(c.left, ", "), c.strategy)
	}
	return nil
}

// belowLink tells whether a directory of the working tree is a link or below one.
func (c *isolatedCopy) belowLink(dir string, known map[string]bool) bool {
	is, ok := known[dir]
	if !ok {
		info, err := os.Lstat(filepath.Join(c.from, dir))
		is = err == nil && info.Mode()&fs.ModeSymlink != 0 || c.belowLink(filepath.Dir(dir), known)
		known[dir] = is
	}
	return is
}

// files lists what is copied, and makes the repository where there is one.
func (c *isolatedCopy) files(ctx context.Context) ([]string, error) {
	if _, err := os.Lstat(filepath.Join(c.from, ".git")); err != nil {
		return c.all()
	}
	return c.repository(ctx, "", 0)
}

// repository lists the files of the tree's repository, or of a submodule of it, and makes it in the copy.
func (c *isolatedCopy) repository(ctx context.Context, within string, depth int) ([]string, error) {
	from, to := filepath.Join(c.from, within), filepath.Join(c.dir, within)
	list, err := runGit(ctx, from, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
	if err != nil {
		return nil, err
	}
	// Without a template there are no hooks of this machine in it.
	if _, err := runGit(ctx, c.top, "clone", "--quiet", "--shared", "--origin=origin", "--no-checkout", "--template=", "--", from, to); err != nil {
		return nil, err
	}
	if _, err := runGit(ctx, to, "rev-parse", "--quiet", "--verify", "HEAD"); err == nil { // else there is no commit yet
		if _, err := runGit(ctx, to, "read-tree", "HEAD"); err != nil {
			return nil, err
		}
	}
	if err := origin(ctx, from, to); err != nil {
		return nil, err
	}
	var files []string
	for _, name := range strings.FieldsFunc(list, func(r rune) bool { return r == 0 }) {
		full := filepath.Join(within, name)
		if info, err := os.Lstat(filepath.Join(c.from, full)); err != nil || !info.IsDir() {
			files = append(files, full)
			continue
		}
		if err := os.MkdirAll(filepath.Join(c.dir, full), 0o700); err != nil {
			return nil, fmt.Errorf("copy the working tree: %w", err)
		}
		_, err := os.Lstat(filepath.Join(c.from, full, ".git"))
		switch {
		case strings.HasSuffix(name, "/"): // no commit has it
			c.left = append(c.left, full+" (a repository of its own)")
		case c.strategy == "none" || c.strategy == "normal" && depth > 0:
			c.left = append(c.left, full+" (a submodule)")
		case err != nil:
			c.left = append(c.left, full+" (not checked out)")
		default:
			inner, err := c.repository(ctx, full, depth+1)
			if err != nil {
				return nil, err
			}
			files = append(files, inner...)
		}
	}
	return files, nil
}

// origin gives a copy the remote that its repository has, as it is written there: none where there is none, and never the
// repository itself.
func origin(ctx context.Context, from, to string) error {
	url := remote(ctx, from, "remote.origin.url")
	if url == "" || url == from {
		_, err := runGit(ctx, to, "remote", "remove", "origin")
		return err
	}
	if _, err := runGit(ctx, to, "config", "remote.origin.url", url); err != nil {
		return err
	}
	push := remote(ctx, from, "remote.origin.pushurl")
	if push == "" {
		return nil
	}
	_, err := runGit(ctx, to, "config", "remote.origin.pushurl", push)
	return err
}

// remote reads an address of the working tree's configuration; one that is relative is so to the working tree.
func remote(ctx context.Context, from, key string) string {
	url, err := runGit(ctx, from, "config", "--get", key)
	if err != nil {
		return ""
	}
	url = strings.TrimSuffix(url, "\n")
	if url == "." || strings.HasPrefix(url, "./") || strings.HasPrefix(url, "../") {
		url = filepath.Join(from, url)
	}
	return url
}

func (c *isolatedCopy) all() ([]string, error) {
	var files []string
	err := filepath.WalkDir(c.from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(c.from, path)
		files = append(files, name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("copy the working tree: %w", err)
	}
	return files, nil
}

func runGit(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = gitcmd.UserEnviron()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("copy the working tree: git %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// copyFile copies a file or a link with its mode and time; false: it is gone, or neither.
func copyFile(from, to string) (bool, error) {
	info, err := os.Lstat(from)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR): // deleted, and not yet committed
		return false, nil
	case err != nil:
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return false, err
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return false, err
		}
		return true, os.Symlink(target, to)
	case !info.Mode().IsRegular():
		return false, nil
	}
	in, err := os.Open(from)
	if err != nil {
		return false, err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm()|0o200)
	if err != nil {
		return false, err
	}
	if _, err := io.Copy(out, in); err != nil { // the kernel shares the blocks where it can
		out.Close()
		return false, err
	}
	if err := out.Close(); err != nil {
		return false, err
	}
	return true, os.Chtimes(to, time.Time{}, info.ModTime())
}
