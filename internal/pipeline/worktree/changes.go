package worktree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// maxPaths bounds the files of a folder that is no repository.
const maxPaths = 500_000

// Changes are the paths that the event changes, what is not committed included; nil: no diff is known, as GitLab knows none for
// tags, schedules and the like, and for a branch that is new on the server.
//
// For a push it is what the branch's remote does not have yet. Where that is nothing, or where there is no remote, it is the last
// commit's, for the last push brought at least that.
func (r *Repository) Changes(ctx context.Context, c *pipeline.Context) ([]string, error) {
	if !r.hasGit || r.head.SHA == "" || c.Tag {
		return nil, nil
	}
	switch {
	case c.Source == pipeline.SourceMergeRequest && c.MergeRequest != nil && c.MergeRequest.DiffBase != "":
		return r.changedFrom(ctx, c.MergeRequest.DiffBase)
	case c.Source != pipeline.SourcePush:
		return nil, nil
	}
	base := c.Before
	if base == noCommit {
		if r.remoteName() != "" {
			return nil, nil
		}
		base = r.head.SHA
	}
	paths, err := r.changedFrom(ctx, base)
	if err != nil || len(paths) > 0 || base != r.head.SHA {
		return paths, err
	}
	parent, err := r.git(ctx, "rev-parse", "--verify", "--quiet", "HEAD^")
	if err != nil {
		return nil, nil //nolint:nilerr // the first commit: everything is new
	}
	return r.changedFrom(ctx, strings.TrimSpace(parent))
}

// changedFrom lists what differs between a commit and the working tree; it is never nil.
func (r *Repository) changedFrom(ctx context.Context, commit string) ([]string, error) {
	out, err := r.git(ctx, "diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", commit, "--")
	if err != nil {
		return nil, fmt.Errorf("list what has changed since %s: %w", shortSHA(commit), err)
	}
	others, err := r.git(ctx, "ls-files", "-z", "--others", "--exclude-standard")
	if err != nil {
		return nil, fmt.Errorf("list what is new: %w", err)
	}
	paths := append(split(out), split(others)...)
	slices.Sort(paths)
	return append([]string{}, slices.Compact(paths)...), nil
}

// changedSince is compare_to: what has changed since the branch left another ref.
func (r *Repository) changedSince(ctx context.Context, ref string) ([]string, error) {
	full := r.find(ctx, ref)
	if full == "" {
		sha, err := r.git(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", strings.TrimPrefix(ref, "refs/heads/")+"^{commit}")
		if err != nil {
			return nil, fmt.Errorf("there is no branch, tag or commit %s here", ref)
		}
		full = strings.TrimSpace(sha)
	}
	base, err := r.git(ctx, "merge-base", full, "HEAD")
	if err != nil {
		return nil, fmt.Errorf("%s and HEAD have no commit in common", ref)
	}
	return r.changedFrom(ctx, strings.TrimSpace(base))
}

func split(out string) []string {
	if out == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
}

// Paths lists the files that a commit of the working tree as it is would have: those tracked and those not ignored.
func (r *Repository) Paths() ([]string, error) { return r.paths() }

func (r *Repository) list(ctx context.Context) ([]string, error) {
	if !r.hasGit {
		return walk(r.root)
	}
	out, err := r.git(ctx, "ls-files", "-z", "-t", "--cached", "--deleted", "--others", "--exclude-standard")
	if err != nil {
		return nil, fmt.Errorf("list the files of %s: %w", r.root, err)
	}
	// "H path": tracked, "? path": not, "R path": tracked and deleted, listed besides its H.
	there := map[string]bool{}
	var paths []string
	for _, line := range split(out) {
		tag, name, _ := strings.Cut(line, " ")
		if _, seen := there[name]; !seen {
			paths = append(paths, name)
			there[name] = true
		}
		if tag == "R" {
			there[name] = false
		}
	}
	return slices.DeleteFunc(paths, func(p string) bool { return !there[p] }), nil
}

// walk lists the files of a folder that is no repository.
func walk(root string) ([]string, error) {
	var paths []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if d.IsDir() {
			return nil
		}
		if len(paths) == maxPaths {
			return fmt.Errorf("it holds more than %d files", maxPaths)
		}
		rel, err := filepath.Rel(root, p)
		paths = append(paths, filepath.ToSlash(rel))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the files of %s: %w", root, err)
	}
	return paths, nil
}
