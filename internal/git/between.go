package git

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrNotHere says that not all of a history is in a repository, or that more of it was asked about than is looked at.
var ErrNotHere = errors.New("the history is not all here")

// Between gives the commits that the history of a commit has and that of another one has not, the oldest first and none before its parents: at most
// so many, else it fails with [ErrNotHere], as where the other one is no ancestor or some of them are missing.
func (r *Repository) Between(ctx context.Context, since, commit string, most int) ([]CommitInfo, error) {
	for _, id := range []string{since, commit} {
		if _, err := ParseObjectID(id); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNotHere, err)
		}
		if _, err := r.Info(id); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNotHere, err)
		}
	}
	left, err := run(ctx, command{dir: r.dir, args: []string{"rev-list", "--topo-order", "--reverse", "--max-count=" + strconv.Itoa(most+1), commit, "^" + since}})
	if err != nil {
		return nil, fmt.Errorf("%w: list the commits from %.7s to %.7s: %w", ErrNotHere, since, commit, err)
	}
	ids := strings.Fields(string(left))
	if len(ids) > most {
		return nil, fmt.Errorf("%w: there are more than %d commits from %.7s to %.7s", ErrNotHere, most, since, commit)
	}
	in, reached := map[string]bool{}, false
	var all []CommitInfo
	for _, id := range ids {
		c, err := r.Info(id)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNotHere, err)
		}
		for _, parent := range c.Parents {
			if reached = reached || parent == since; !in[parent] && !r.HasCommit(parent) { // a shallow history ends here
				return nil, fmt.Errorf("%w: %.7s is missing", ErrNotHere, parent)
			}
		}
		in[id] = true
		all = append(all, c)
	}
	if !reached {
		return nil, fmt.Errorf("%w: %.7s is no ancestor of %.7s", ErrNotHere, since, commit)
	}
	return all, nil
}

// Longer tells whether more than so many commits of the history of a commit are here.
func (r *Repository) Longer(ctx context.Context, commit string, most int) (bool, error) {
	if _, err := ParseObjectID(commit); err != nil {
		return false, err
	}
	out, err := run(ctx, command{dir: r.dir, args: []string{"rev-list", "--count", "--max-count=" + strconv.Itoa(most+1), commit}})
	if err != nil {
		return false, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(out)))
	return n > most, err
}
