package source

import (
	"context"
	"errors"
	"fmt"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
)

// ReasonCopy is upstream's reason for an include that cannot be laid into the source.
const ReasonCopy = "CopyFailure"

// include lays what the included snapshots show into a tree. The source's own rules hold for all of it afterwards.
func include(ctx context.Context, tree *git.Tree, t target, src delivery.Source, included []delivery.Snapshot) (*git.Tree, error) {
	if len(src.Include) == 0 {
		return tree, nil
	}
	if len(included) != len(src.Include) {
		return nil, fault(t, "include", "", fmt.Errorf("%d of %d included sources are there", len(included), len(src.Include)))
	}
	for i, inc := range src.Include {
		v, ok := included[i].FS.(*view)
		if !ok {
			return nil, fault(t, "include", "", errors.New("the included source's snapshot is of another kind"))
		}
		composed, err := git.Compose(ctx, tree, []git.Graft{{At: inc.To, Tree: v.tree, From: inc.From, Keep: v.visible, Max: maxVisited}})
		if err != nil {
			return nil, &delivery.Fault{
				Reason: ReasonCopy, Where: t.url, Hint: "check fromPath and toPath in spec.include",
				Err: fmt.Errorf("failed to copy '%s' include from '%s' to '%s': %w", inc.Source.Name, inc.From, inc.To, err),
			}
		}
		tree = composed
	}
	return tree, nil
}

// shownPaths are the only paths that a source shows: those of its sparse checkout, and what it includes. None: everything.
func shownPaths(src delivery.Source) []string {
	if len(src.Sparse) == 0 {
		return nil
	}
	paths := append([]string(nil), src.Sparse...)
	for _, inc := range src.Include {
		paths = append(paths, inc.To)
	}
	return paths
}
