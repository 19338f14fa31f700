package source

import (
	"context"
	"errors"
	"fmt"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
)

// ErrNoPast says that the history of a snapshot's repository is not here, or not in a form that could be looked at.
var ErrNoPast = errors.New("the history is not here")

// Past gives the commits that the history of a snapshot has and that of another commit has not, the oldest first and none before its parents. Where
// there are more than most, or not all of them are here, it fails with [ErrNoPast]. Nothing is fetched.
func Past(ctx context.Context, snap delivery.Snapshot, since string, most int) ([]git.CommitInfo, error) {
	v, ok := snap.FS.(*view)
	if !ok || v.repo == nil {
		return nil, ErrNoPast
	}
	return v.repo.Between(ctx, since, snap.Revision.Commit, most)
}

// Follows tells whether the commit of a snapshot follows another one at once: nothing else came with it. It is enough for that commit to be here. What
// comes of no Git repository has no commits, and follows.
func Follows(snap delivery.Snapshot, since string) bool {
	v, ok := snap.FS.(*view)
	if !ok || v.repo == nil {
		return true
	}
	head, err := v.repo.Info(snap.Revision.Commit)
	return err == nil && len(head.Parents) == 1 && head.Parents[0] == since
}

// At gives the snapshot of a source as it was at another commit of its repository. Nothing is fetched: of a source with submodules or included
// ones there is none.
func At(snap delivery.Snapshot, commit string) (delivery.Snapshot, error) {
	v, ok := snap.FS.(*view)
	if !ok || v.repo == nil || v.src.Submodules || len(v.src.Include) > 0 {
		return delivery.Snapshot{}, ErrNoPast
	}
	tree, err := v.repo.Tree(commit)
	if err != nil {
		return delivery.Snapshot{}, fmt.Errorf("%w: %w", ErrNoPast, err)
	}
	out := delivery.Snapshot{Revision: delivery.Revision{Name: snap.Revision.Name, Commit: commit}, Commit: said(v.repo, commit)}
	was := newView(tree, v.known, v.src)
	was.repo = v.repo
	return out, was.show(&out)
}
