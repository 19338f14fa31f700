package git

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// SetRefs lets refs name commits, by their full names; those that are to name nothing are deleted. All of them change, or none does.
func (r *Repository) SetRefs(ctx context.Context, refs map[string]string) error {
	var in strings.Builder
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		if err := CheckRefName(name); err != nil {
			return err
		}
		id := refs[name]
		if id == "" {
			fmt.Fprintf(&in, "delete %s\n", name)
			continue
		}
		if _, err := ParseObjectID(id); err != nil {
			return err
		}
		fmt.Fprintf(&in, "update %s %s\n", name, id)
	}
	if in.Len() == 0 {
		return nil
	}
	w := writer{repo: r}
	if w.git(ctx, strings.NewReader(in.String()), "update-ref", "--stdin"); w.err != nil {
		return fmt.Errorf("set refs: %w", w.err)
	}
	return nil
}
