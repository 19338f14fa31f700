package source

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// errNoVersion: a repository has no such version of a chart, or nothing of the name at all.
var errNoVersion = errors.New("no such version")

// errNoChart and errNoRepository are errNoVersion where it is not the version that lacks.
const (
	errNoChart      = lacking("no such chart")
	errNoRepository = lacking("the registry has no such repository")
)

type lacking string

// Error implements error.
func (l lacking) Error() string { return string(l) }

// Is has what lacks as a whole be lacking in that version, too.
func (l lacking) Is(target error) bool { return target == errNoVersion }

// maxNear bounds how many names an error offers instead of the one that is not there.
const maxNear = 6

// nearVersions are versions to name in place of one that is not there: those that begin as it does first, of these the highest.
func nearVersions(want string, versions []string) string {
	parsed := map[string]*semver.Version{}
	for _, v := range versions {
		if p, err := semver.NewVersion(v); err == nil {
			parsed[v] = p
		}
	}
	names := slices.Clone(versions)
	slices.SortStableFunc(names, func(a, b string) int {
		x, y := parsed[a], parsed[b]
		if (x == nil) != (y == nil) {
			return cmp.Compare(b2i(x == nil), b2i(y == nil))
		}
		if c := cmp.Compare(begins(b, want), begins(a, want)); c != 0 || x == nil {
			return c
		}
		return y.Compare(x)
	})
	return some(names)
}

// nearNames are names to offer in place of one that is not there: those like it, else the first ones.
func nearNames[V any](want string, all map[string]V) string {
	names := slices.Sorted(maps.Keys(all))
	like := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		a, b := plainName(name), plainName(want)
		return !strings.Contains(a, b) && !strings.Contains(b, a) && begins(a, b) < 3 //nolint:mnd // letters that are alike by chance
	})
	if len(like) > 0 {
		names = like
	}
	return some(names)
}

func some(names []string) string {
	if len(names) > maxNear {
		names = append(slices.Clone(names[:maxNear]), "…")
	}
	return strings.Join(names, ", ")
}

func plainName(name string) string {
	return strings.NewReplacer("-", "", "_", "", ".", "").Replace(strings.ToLower(name))
}

// begins tells with how many bytes two texts begin alike.
func begins(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
