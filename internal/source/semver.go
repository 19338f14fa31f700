package source

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
)

const tagPrefix = "refs/tags/"

// refOf is the ref to fetch where a commit cannot be asked for by its id; empty: there is none.
func refOf(ref delivery.GitRef, rev delivery.Revision) string {
	if ref.Any != "" {
		return "" // it is one of several, or none
	}
	if name := refName(ref); name != "" || ref.Commit != "" {
		return name
	}
	return tagPrefix + rev.Name
}

// tagRef is the full name of the tag that a revision was resolved by; empty: it was no tag.
func tagRef(ref delivery.GitRef, rev delivery.Revision) string {
	if name := refOf(ref, rev); ref.Commit == "" && strings.HasPrefix(name, tagPrefix) {
		return name
	}
	return ""
}

// resolveRange gives the highest tag in a range of versions. Versions and ranges are those of Masterminds/semver, as in
// Flux: three parts, a leading "v" or not, no pre-releases unless the range names one. Other tags are passed over.
func (f *Fetcher) resolveRange(ctx context.Context, t target, timeout time.Duration, want string) (delivery.Revision, error) {
	constraint, err := semver.NewConstraint(want)
	if err != nil {
		return delivery.Revision{}, fault(t, "resolve ref", "write spec.ref.semver as in \">=1.0.0 <2.0.0\"",
			fmt.Errorf("%w: '%s' is no range of versions: %w", git.ErrUnknownRef, want, err))
	}
	refs, err := f.tags(ctx, t, timeout)
	if err != nil {
		return delivery.Revision{}, fault(t, "ask for tags", "", err)
	}
	var best *semver.Version
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		tag := strings.TrimPrefix(name, tagPrefix)
		if len(strings.SplitN(tag, ".", 3)) != 3 || strings.HasSuffix(tag, peeledSuffix) {
			continue
		}
		v, err := semver.NewVersion(tag)
		if err != nil || !constraint.Check(v) {
			continue
		}
		// Of tags that say the same version, as "1.0.0" and "v1.0.0+b", the last one by name is taken.
		if best == nil || !v.LessThan(best) {
			best = v
		}
	}
	if best == nil {
		return delivery.Revision{}, fault(t, "resolve ref", "check spec.ref.semver, or push such a tag",
			fmt.Errorf("%w: no tag is in the range '%s'", git.ErrUnknownRef, want))
	}
	ref := tagPrefix + best.Original()
	rev := delivery.Revision{Name: best.Original(), Commit: refs[ref]}
	if peeled := refs[ref+peeledSuffix]; peeled != "" {
		rev.Commit = peeled
	}
	if t.local != "" {
		return f.resolveLocal(t, ref, delivery.Revision{Name: rev.Name})
	}
	if _, err := git.ParseObjectID(rev.Commit); err != nil {
		return delivery.Revision{}, fault(t, "ask for tags", "", fmt.Errorf("%s: %w", ref, err))
	}
	return rev, nil
}

// tags gives all tags of a repository.
func (f *Fetcher) tags(ctx context.Context, t target, timeout time.Duration) (map[string]string, error) {
	if t.local == "" {
		return f.lsRemote(ctx, t, timeout, tagPrefix+"*")
	}
	r, err := f.local(t)
	if err != nil {
		return nil, err
	}
	refs, err := r.repo.Refs()
	maps.DeleteFunc(refs, func(name, _ string) bool { return !strings.HasPrefix(name, tagPrefix) })
	return refs, err
}
