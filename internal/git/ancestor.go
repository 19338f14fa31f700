package git

import (
	"context"
	"errors"
	"fmt"
)

// Contains tells whether the history of a commit has another commit, or is that commit itself; a tag stands for what it tags. What is not
// here is in no history.
func (r *Repository) Contains(ctx context.Context, commit, ancestor string) (bool, error) {
	var peeled [2]string
	for i, id := range []string{commit, ancestor} {
		oid, err := ParseObjectID(id)
		if err != nil {
			return false, err
		}
		of, err := r.peel(oid)
		if errors.Is(err, errMissing) {
			return false, nil
		}
		if peeled[i] = of.String(); err == nil {
			_, err = r.Info(peeled[i])
		}
		if err != nil {
			return false, err
		}
	}
	left, err := run(ctx, command{dir: r.dir, args: []string{"rev-list", "--max-count=1", peeled[1], "^" + peeled[0]}})
	if err != nil {
		return false, fmt.Errorf("look for %.7s in the history of %.7s: %w", ancestor, commit, err)
	}
	return len(left) == 0, nil
}
