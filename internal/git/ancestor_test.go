package git_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"keelson.dev/keelson/internal/git"
)

func TestContains(t *testing.T) {
	r := initRepo(t, git.Options{})
	first := commit(t, r, "", fstest.MapFS{"a": file("1")})
	second := commit(t, r, first, fstest.MapFS{"a": file("2")})
	tree := strings.TrimSpace(tool(t, r.Dir(), nil, "rev-parse", first+"^{tree}"))
	aside := strings.TrimSpace(tool(t, r.Dir(), nil, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit-tree", tree, "-p", first, "-m", "aside"))
	tool(t, r.Dir(), nil, "-c", "user.name=a", "-c", "user.email=a@example.com", "tag", "-a", "-m", "a release", "v1", first)
	tag := strings.TrimSpace(tool(t, r.Dir(), nil, "rev-parse", "v1"))
	for _, test := range []struct {
		name, commit, ancestor string
		want                   bool
	}{
		{"itself", second, second, true},
		{"a parent", second, first, true},
		{"a tag of a parent", second, tag, true},
		{"a tag of another branch's parent", aside, tag, true},
		{"a child of a tag", tag, second, false},
		{"a child", first, second, false},
		{"another branch", aside, second, false},
		{"one that is not here", second, strings.Repeat("1", 40), false},
		{"in one that is not here", strings.Repeat("1", 40), first, false},
	} {
		if got, err := r.Contains(t.Context(), test.commit, test.ancestor); err != nil || got != test.want {
			t.Errorf("%s: %v, %v", test.name, got, err)
		}
	}
	for _, bad := range []string{"", "main", "--all", tree} {
		if got, err := r.Contains(t.Context(), second, bad); got || err == nil {
			t.Errorf("%q: %v, %v", bad, got, err)
		}
	}
}
