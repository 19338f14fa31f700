package source_test

import (
	"crypto/sha1" //nolint:gosec // ids of Git objects are SHA-1
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"keelson.dev/keelson/internal/delivery"
)

func TestTargetRevision(t *testing.T) {
	w := newWorld(t)
	first := w.commit("r", fstest.MapFS{"a.txt": file("1")})
	w.git("r", "tag", "-a", "-m", "x", "v1.0.0", first)
	w.git("r", "tag", "web-1.4.0", first)
	w.git("r", "update-ref", "refs/pull/7/head", first)
	second := w.commit("r", fstest.MapFS{"a.txt": file("2")})
	w.git("r", "tag", "v1.1.0", second)
	w.git("r", "tag", "2.0.0-rc.1", second)
	w.git("r", "tag", "web-1.5.0", second)
	w.git("r", "tag", "nightly", second)
	w.git("r", "branch", "1.0.x", second) // which is a range of versions too
	w.git("r", "branch", "feature/x", first)
	w.git("r", "branch", "both", first)
	w.git("r", "tag", "both", second)
	w.git("r", "branch", "1.2.3", first)
	tests := []struct{ any, prefix, want string }{
		{"HEAD", "", "HEAD@sha1:" + second},
		{"main", "", "main@sha1:" + second},
		{"feature/x", "", "feature/x@sha1:" + first},
		{"refs/heads/feature/x", "", "feature/x@sha1:" + first},
		{"nightly", "", "nightly@sha1:" + second},
		{"v1.0.0", "", "v1.0.0@sha1:" + first},
		{"refs/tags/v1.0.0", "", "v1.0.0@sha1:" + first},
		{"refs/pull/7/head", "", "refs/pull/7/head@sha1:" + first},
		{"pull/7/head", "", "refs/pull/7/head@sha1:" + first},
		{"both", "", "both@sha1:" + first},
		{"1.2.3", "", "1.2.3@sha1:" + first},
		{first, "", "sha1:" + first},
		{strings.ToUpper(first), "", "sha1:" + first},
		{first[:7], "", "sha1:" + first},
		{strings.ToUpper(second[:12]), "", "sha1:" + second},
		{"1.0.x", "", "v1.0.0@sha1:" + first},
		{"*", "", "v1.1.0@sha1:" + second},
		{">=2.0.0-0", "", "2.0.0-rc.1@sha1:" + second},
		{"1.x", "web-", "web-1.5.0@sha1:" + second},
		{"1.4.0", "web-", "web-1.4.0@sha1:" + first},
		{"HEAD", "web-", "HEAD@sha1:" + second},

		{"9.x", "", "unknown ref: 9.x"},
		{"none", "", "a branch there is: 1.0.x, 1.2.3, both, feature/x, main"},
		{"9.x", "web-", "no tag that begins with 'web-' is in the range '9.x'"},
		{"main", "web-", "'main' is neither"},
		{"abcdef01", "", "no branch, no tag and no commit is called 'abcdef01'"},
		{"abcdef", "", "unknown ref: abcdef"},
		{strings.Repeat("0", 40), "", "not"},
		{"a\nb", "", "is no name of a revision"},
		{strings.Repeat("a/", 2000), "", "is no name of a revision"},
		{"-u", "", "unknown ref: -u"},
		{"refs/heads/../tags/v1.0.0", "", "unknown ref"},
	}
	for how, f := range w.both() {
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%s/%.20q %s", how, tt.any, tt.prefix), func(t *testing.T) {
				src := w.source("r")
				src.Ref = delivery.GitRef{Any: tt.any, TagPrefix: tt.prefix}
				rev, err := f.Resolve(t.Context(), src)
				if err == nil {
					_, err = f.Fetch(t.Context(), src, rev)
				}
				if err != nil {
					var fault *delivery.Fault
					if !errors.As(err, &fault) || fault.Retry != delivery.OnChange || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "spec.ref") {
						t.Errorf("error %v, want %s", err, tt.want)
					}
					return
				}
				if rev.String() != tt.want {
					t.Errorf("%s, want %s", rev, tt.want)
				}
			})
		}
	}
}

// An abbreviated commit id is looked for in all of the history, and only once.
func TestAbbreviatedID(t *testing.T) {
	w := newWorld(t)
	var ids []string
	byStart := map[string]int{}
	for i := range 40 {
		id := w.commit("r", fstest.MapFS{"a.txt": file(fmt.Sprint(i))})
		ids = append(ids, id)
		byStart[id[:7]]++
	}
	src := w.source("r")
	src.Ref = delivery.GitRef{Any: ids[3][:9]}
	for range 3 {
		snap := snapshot(t, w.remote, src)
		if snap.Revision.Commit != ids[3] || content(t, snap, "a.txt") != "3" {
			t.Errorf("%s is %s", src.Ref.Any, snap.Revision)
		}
	}
	if n := w.fetches.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

// Two commits that begin alike are a fault that names them.
func TestAmbiguousID(t *testing.T) {
	w := newWorld(t)
	w.commit("r", fstest.MapFS{"a.txt": file("1")})
	tree := w.git("r", "rev-parse", "main^{tree}")
	seen := map[string]string{}
	var begin string
	for i := 0; begin == "" && i < 40000; i++ {
		id := commitID(tree, fmt.Sprint(i))
		if seen[id[:7]] != "" {
			for _, text := range []string{seen[id[:7]], fmt.Sprint(i)} {
				got := w.object("r", "commit", commitText(tree, text))
				w.git("r", "branch", "b"+text, got)
			}
			begin = id[:7]
		}
		seen[id[:7]] = fmt.Sprint(i)
	}
	if begin == "" {
		t.Skip("no two of them begin alike")
	}
	for how, f := range w.both() {
		src := w.source("r")
		src.Ref = delivery.GitRef{Any: begin}
		if rev, err := f.Resolve(t.Context(), src); err == nil || !strings.Contains(err.Error(), "2 commits begin with '"+begin+"'") {
			t.Errorf("%s: %v, %v", how, rev, err)
		}
	}
}

func commitText(tree, message string) string {
	return fmt.Sprintf("tree %s\nauthor a <a@b> 1 +0000\ncommitter a <a@b> 1 +0000\n\n%s\n", tree, message)
}

func commitID(tree, message string) string {
	text := commitText(tree, message)
	return fmt.Sprintf("%x", sha1.Sum([]byte(fmt.Sprintf("commit %d\x00%s", len(text), text)))) //nolint:gosec // ids of Git objects are SHA-1
}
