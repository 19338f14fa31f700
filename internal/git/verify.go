package git

import (
	"context"
	"fmt"
)

// maxVerified bounds the memory of what has been verified: about 40 bytes each.
const maxVerified = 1 << 18

// Verify checks that every object of a commit's tree is there; history is not looked at. What has been verified once
// is not looked at again, so the cost follows the change. It fails with [ErrCorrupt] or, if the commit itself is not
// there, [ErrUnknownRef].
func (r *Repository) Verify(ctx context.Context, commit string) error {
	c, err := r.Info(commit)
	if err != nil {
		return err
	}
	r.verifyMu.Lock()
	defer r.verifyMu.Unlock()
	if len(r.verified) > maxVerified {
		clear(r.verified)
	}
	return r.verifyTree(ctx, c.Tree)
}

// Verified says whether [Repository.Verify] has found all of a commit's tree, without looking again.
func (r *Repository) Verified(commit string) bool {
	c, err := r.Info(commit)
	if err != nil {
		return false
	}
	r.verifyMu.Lock()
	defer r.verifyMu.Unlock()
	_, ok := r.verified[c.Tree]
	return ok
}

// verifyTree notes a tree as verified only after all that it holds. The caller holds verifyMu.
func (r *Repository) verifyTree(ctx context.Context, id ObjectID) error {
	if _, ok := r.verified[id]; ok {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	t, err := r.readTree(id)
	if err != nil {
		return err
	}
	for _, e := range t.entries {
		switch {
		case e.sub:
		case e.mode.IsDir():
			if err := r.verifyTree(ctx, e.id); err != nil {
				return err
			}
		case !r.has(e.id):
			return r.note(fmt.Errorf("%w: blob %s (%s) is missing", ErrCorrupt, e.id, e.name))
		}
	}
	r.verified[id] = struct{}{}
	return nil
}
