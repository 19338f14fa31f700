package source

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
)

var (
	fullID  = regexp.MustCompile(`^[0-9a-fA-F]{40}$`)
	shortID = regexp.MustCompile(`^[0-9a-fA-F]{7,39}$`)
)

// resolveAny finds what a name stands for as Argo CD does (user-guide/tracking_strategies): a full commit id is itself; a range
// of versions is the highest tag in it, if there is one; else it is a ref by its full or its short name, a branch before a tag;
// else seven digits or more are the beginning of a commit id.
func (f *Fetcher) resolveAny(ctx context.Context, t target, src delivery.Source) (delivery.Revision, error) {
	want := src.Ref.Any
	if fullID.MatchString(want) {
		rev := delivery.Revision{Commit: strings.ToLower(want)}
		if t.local != "" {
			return f.resolveLocal(t, "", rev)
		}
		return f.resolveRemote(ctx, t, timeoutOf(src), "", rev)
	}
	if strings.ContainsFunc(want, func(r rune) bool { return r < ' ' || r == 0x7f }) || len(want) > maxTargetRevision {
		return delivery.Revision{}, fault(t, "resolve targetRevision", "correct targetRevision", fmt.Errorf("%w: %.40q… is no name of a revision", git.ErrUnknownRef, want))
	}
	refs, err := f.refs(ctx, t, src, patternsOf(want, src.Ref.TagPrefix)...)
	if err != nil {
		return delivery.Revision{}, fault(t, "ask for refs", "", err)
	}
	name, err := chooseRef(want, src.Ref.TagPrefix, refs)
	if err != nil {
		return delivery.Revision{}, fault(t, "resolve targetRevision", "correct targetRevision or tagPrefix", err)
	}
	switch {
	case name != "" && t.local != "":
		return f.resolveLocal(t, name, delivery.Revision{Name: shortName(name)})
	case name != "":
		rev := delivery.Revision{Name: shortName(name), Commit: refs[name]}
		if peeled := refs[name+peeledSuffix]; peeled != "" {
			rev.Commit = peeled
		}
		if _, err := git.ParseObjectID(rev.Commit); err != nil {
			return delivery.Revision{}, fault(t, "ask for refs", "", fmt.Errorf("%s: %w", name, err))
		}
		return rev, nil
	case shortID.MatchString(want):
		id, err := f.completeID(ctx, t, src, strings.ToLower(want))
		return delivery.Revision{Commit: id}, err
	}
	if refs, err = f.refs(ctx, t, src, "refs/heads/*", "refs/tags/*"); err != nil {
		return delivery.Revision{}, fault(t, "ask for refs", "", err)
	}
	delete(refs, "HEAD")
	return delivery.Revision{}, unknownRef(t, want, refs)
}

// patternsOf ask a remote for all refs that a name may stand for.
func patternsOf(want, tagPrefix string) []string {
	switch {
	case want == "HEAD":
		return []string{want}
	case isRange(want):
		return []string{want, want + peeledSuffix, "refs/tags/*"}
	}
	want = tagPrefix + want
	return []string{want, want + peeledSuffix}
}

// isRange tells whether a name is a range of versions, and no version.
func isRange(want string) bool {
	if _, err := semver.NewVersion(want); err == nil {
		return false
	}
	_, err := semver.NewConstraint(want)
	return err == nil
}

// maxTargetRevision bounds a name that is resolved.
const maxTargetRevision = 1024

// refs are the refs of a repository that match patterns, and maybe others.
func (f *Fetcher) refs(ctx context.Context, t target, src delivery.Source, patterns ...string) (map[string]string, error) {
	if t.local == "" {
		return f.lsRemote(ctx, t, timeoutOf(src), patterns...)
	}
	r, err := f.local(t)
	if err != nil {
		return nil, err
	}
	refs, err := r.repo.Refs()
	if err != nil {
		return nil, err
	}
	if head, err := r.repo.Resolve("HEAD"); err == nil {
		refs["HEAD"] = head
	}
	return refs, nil
}

// chooseRef gives the full name of the ref that is meant; empty: there is none.
func chooseRef(want, tagPrefix string, refs map[string]string) (string, error) {
	if want != "HEAD" {
		var tags []string
		for name := range refs {
			if tag, ok := strings.CutPrefix(name, "refs/tags/"+tagPrefix); ok && !strings.HasSuffix(tag, peeledSuffix) {
				tags = append(tags, tag)
			}
		}
		slices.Sort(tags)
		_, exact := semver.NewVersion(want)
		switch {
		case isRange(want):
			if tag := highest(want, tags); tag != "" {
				return "refs/tags/" + tagPrefix + tag, nil
			}
			if tagPrefix != "" {
				return "", fmt.Errorf("%w: no tag that begins with '%s' is in the range '%s'", git.ErrUnknownRef, tagPrefix, want)
			}
		case exact == nil:
			want = tagPrefix + want
		case tagPrefix != "":
			return "", fmt.Errorf("%w: with the tagPrefix '%s' it must be a version or a range of versions, and '%s' is neither", git.ErrUnknownRef, tagPrefix, want)
		}
	}
	for _, prefix := range []string{"", "refs/heads/", "refs/tags/", "refs/remotes/", "refs/"} {
		name := prefix + want
		if _, ok := refs[name]; ok && (name == "HEAD" || strings.HasPrefix(name, "refs/")) && !strings.HasSuffix(name, peeledSuffix) {
			return name, nil
		}
	}
	return "", nil
}

// highest is the highest version in a range, as Masterminds/semver reads both: what is no version is passed over, and of those
// that differ in nothing that counts the first one is taken. Empty: there is none, or the range is malformed.
func highest(want string, versions []string) string {
	constraint, err := semver.NewConstraint(want)
	if err != nil {
		return ""
	}
	var best *semver.Version
	for _, text := range versions {
		v, err := semver.NewVersion(text)
		if err == nil && constraint.Check(v) && (best == nil || v.GreaterThan(best)) {
			best = v
		}
	}
	if best == nil {
		return ""
	}
	return best.Original()
}

// completeID finds the one commit whose id begins so. The mirror is asked first, and filled with all branches and tags where
// it does not know any.
func (f *Fetcher) completeID(ctx context.Context, t target, src delivery.Source, begin string) (string, error) {
	ctx, cancel := withTimeout(ctx, src)
	defer cancel()
	var repo *git.Repository
	if t.local != "" {
		r, err := f.local(t)
		if err != nil {
			return "", fault(t, "open repository", "", err)
		}
		repo = r.repo
	} else {
		r := f.entry(f.mirrorDir(t))
		if err := r.acquire(ctx); err != nil {
			return "", fault(t, "look for commit "+begin, "", err)
		}
		defer r.release()
		if err := f.open(ctx, r); err != nil {
			if !errors.Is(err, git.ErrCorrupt) {
				return "", fault(t, "look for commit "+begin, "", err)
			}
			if err := f.discard(r); err != nil {
				return "", fault(t, "look for commit "+begin, "", err)
			}
			if err := f.open(ctx, r); err != nil {
				return "", fault(t, "look for commit "+begin, "", err)
			}
		}
		repo = r.repo
	}
	ids, err := repo.Commits(ctx, begin)
	if err == nil && len(ids) == 0 && t.local == "" {
		if err = repo.Fetch(ctx, t.remote(), everything()); err == nil {
			ids, err = repo.Commits(ctx, begin)
		}
	}
	switch {
	case err != nil:
		return "", fault(t, "look for commit "+begin, "", err)
	case len(ids) == 0:
		return "", fault(t, "resolve targetRevision", "correct targetRevision, or push such a ref or commit",
			fmt.Errorf("%w: no branch, no tag and no commit is called '%s'", git.ErrUnknownRef, begin))
	case len(ids) > 1:
		return "", fault(t, "resolve targetRevision", "give more digits of the commit id",
			fmt.Errorf("%w: %d commits begin with '%s': %s", git.ErrUnknownRef, len(ids), begin, strings.Join(ids[:min(len(ids), 4)], ", ")))
	}
	return ids[0], nil
}

// everything brings all branches and tags, with all of their history.
func everything() git.FetchOptions {
	return git.FetchOptions{Refspecs: []string{"+refs/heads/*:refs/mirror/heads/*", "+refs/tags/*:refs/mirror/tags/*"}, Prune: true}
}
