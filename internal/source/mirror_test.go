package source_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"testing"
	"testing/fstest"
	"time"

	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/source"
)

// TestFetchWhileAnotherIsStuck: what is here is handed out while somebody fetches into the same mirror for ever.
func TestFetchWhileAnotherIsStuck(t *testing.T) {
	w := newWorld(t)
	w.commit("r", fstest.MapFS{"a": file("a")})
	src := w.source("r")
	rev := snapshot(t, w.remote, src).Revision
	release := source.HoldMirror(t, w.remote, src)
	defer release()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := w.remote.Fetch(ctx, src, rev); err != nil {
		t.Error(err)
	}
}

// What comes between two looks at a remote comes with all its commits; where a new commit has nothing in common with the last one, it comes alone.
func TestPast(t *testing.T) {
	w := newWorld(t)
	w.commit("r", fstest.MapFS{"a": file("1")})
	src := w.source("r")
	first := snapshot(t, w.remote, src)
	for i := range 3 {
		w.commit("r", fstest.MapFS{"a": file(fmt.Sprint("more", i))})
	}
	last := snapshot(t, w.remote, src)
	past, err := source.Past(t.Context(), last, first.Revision.Commit, 10)
	if err != nil || len(past) != 3 || past[2].ID != last.Revision.Commit || source.Follows(last, first.Revision.Commit) || !source.Follows(last, past[1].ID) {
		t.Fatalf("the past is %+v, %v", past, err)
	}
	between, err := source.At(last, past[0].ID)
	if err != nil || content(t, between, "a") != "more0" {
		t.Errorf("in between: %v", err)
	}
	if _, err := source.Past(t.Context(), last, first.Revision.Commit, 2); !errors.Is(err, git.ErrNotHere) {
		t.Errorf("more than may be: %v", err)
	}
	if _, err := source.Past(t.Context(), first, last.Revision.Commit, 10); err == nil {
		t.Error("backwards there is a past")
	}
}

// However long a source is followed, its mirror has only the last commits, and those between the last two looks among them.
func TestHistoryOfAMirrorIsBounded(t *testing.T) {
	w := newWorld(t)
	source.LimitHistory(t, 8, 4)
	w.commit("r", fstest.MapFS{"a": file("0")})
	src := w.source("r")
	last, most := snapshot(t, w.remote, src), 0
	for i := range 20 {
		w.commit("r", fstest.MapFS{"a": file(fmt.Sprint("a", i))})
		w.commit("r", fstest.MapFS{"a": file(fmt.Sprint("b", i))})
		next := snapshot(t, w.remote, src)
		if past, err := source.Past(t.Context(), next, last.Revision.Commit, 10); err != nil || len(past) != 2 {
			t.Fatalf("look %d: the past is %+v, %v", i, past, err)
		}
		here := 0
		_, err := fmt.Sscan(gitIn(t, w.mirrorDir(t), "rev-list", "--all", "--count"), &here)
		if most = max(most, here); err != nil || here > 10 {
			t.Fatalf("look %d: %d commits are here, %v", i, here, err)
		}
		last = next
	}
	if most < 8 {
		t.Errorf("at most %d commits were here: it is cut too soon", most)
	}
	dir := w.mirrorDir(t)
	gitIn(t, dir, "gc", "-q", "--prune=now")
	gitIn(t, dir, "fsck", "--connectivity-only")
	w.commit("r", fstest.MapFS{"a": file("after")})
	if got := content(t, snapshot(t, w.remote, src), "a"); got != "after" {
		t.Errorf("a is %q", got)
	}
}

// gitIn runs git in a folder.
func gitIn(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := exec.Command("git", append([]string{"--git-dir=" + dir}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return string(out)
}
