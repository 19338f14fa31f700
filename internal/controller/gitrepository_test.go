package controller

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
)

// TestGivesLast: after a start the last known commit stands in for a remote that does not answer, not for one that refuses.
func TestGivesLast(t *testing.T) {
	last := delivery.Revision{Name: "main", Commit: "1234"}
	for cause, want := range map[error]bool{
		nil: false, git.ErrUnreachable: true, git.ErrAuth: false, git.ErrRepoNotFound: false, git.ErrRefused: false, git.ErrUnknownRef: false, git.ErrCorrupt: false,
	} {
		err := cause
		if cause != nil {
			err = &delivery.Fault{Err: fmt.Errorf("ask for refs: %w", cause)}
		}
		if got := givesLast(last, err); got != want {
			t.Errorf("%v: %t, want %t", cause, got, want)
		}
		if givesLast(delivery.Revision{}, err) {
			t.Errorf("%v: there is no last known commit", cause)
		}
	}
}

func repoID(name string) delivery.ID {
	return delivery.ID{Kind: sourcev1.GitRepositoryKind, Namespace: "n", Name: name}
}

// TestDistrustReachesIncluding: what nobody has verified is taken back from all sources that hold it, also from fetches under way.
func TestDistrustReachesIncluding(t *testing.T) {
	told := map[string]bool{}
	g := &gitRepositories{follower: follower{reg: newRegistry(), changed: func(id delivery.ID) { told[id.Name] = true }, wake: func(delivery.ID) {}}}
	for name, include := range map[string]string{"lib": "", "app": "lib", "top": "app", "other": ""} {
		st := g.reg.source(repoID(name))
		st.snapshot = delivery.Snapshot{Revision: delivery.Revision{Commit: "1"}}
		st.result = &fetchResult{snapshot: st.snapshot}
		if include != "" {
			st.include = []delivery.ID{repoID(include)}
		}
	}
	epoch := g.reg.epoch(repoID("top"))
	src := delivery.Source{ID: repoID("lib")}
	src.Verify.Head = true
	g.distrust(g.reg.source(src.ID), src)
	for name, empty := range map[string]bool{"lib": true, "app": true, "top": true, "other": false} {
		st := g.reg.source(repoID(name))
		if got := st.snapshot.Revision.Commit == ""; got != empty || told[name] != empty {
			t.Errorf("%s: empty %t, told %t; want %t", name, got, told[name], empty)
		}
		if name != "lib" && (st.result == nil) != empty {
			t.Errorf("%s: result %v", name, st.result)
		}
	}
	g.reg.ended(g.reg.source(repoID("top")), epoch, &fetchResult{})
	if st := g.reg.source(repoID("top")); st.result != nil || !st.again {
		t.Error("a fetch that began before gave a result")
	}
}

// TestSuspendedTakesNoOtherResult: a result of what was declared before is none, whether or not the source is suspended by now.
func TestSuspendedTakesNoOtherResult(t *testing.T) {
	g := &gitRepositories{follower: follower{reg: newRegistry(), changed: func(delivery.ID) {}, wake: func(delivery.ID) {}}}
	src := delivery.Source{ID: repoID("r"), Suspend: true}
	st := g.reg.source(src.ID)
	st.result = &fetchResult{source: src, snapshot: delivery.Snapshot{Revision: delivery.Revision{Commit: "1"}}}
	src.Verify.Head = true
	g.suspended(t.Context(), st, src, &sourcev1.GitRepository{})
	if st.snapshot.Revision.Commit != "" {
		t.Error("an unverified commit is handed out")
	}
}

// TestFetchPanics: a panic in a fetch is a fault of its source, not the end of the process.
func TestFetchPanics(t *testing.T) {
	g := &gitRepositories{follower: follower{life: t.Context(), now: time.Now, log: slog.New(slog.DiscardHandler)}} // no Fetcher at all
	res := &fetchResult{source: delivery.Source{ID: repoID("r"), URL: "https://example.com/r.git", Timeout: time.Second}}
	g.bring(res, delivery.Revision{}, included{}, true)
	if f := (*delivery.Fault)(nil); !errors.As(res.err, &f) || f.Reason != sourcev1.GitOperationFailedReason {
		t.Errorf("%v", res.err)
	}
}
