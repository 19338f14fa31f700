package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/source"
	"keelson.dev/keelson/internal/telemetry"
)

// follower fetches what sources lead to, aside: who declares them asks for a fetch, is woken when it has ended, and takes in its
// result.
type follower struct {
	reg     *registry
	sources *source.Fetcher
	now     func() time.Time
	slots   *lanes          // bounds the fetches under way
	life    context.Context //nolint:containedctx // fetches outlive the step that starts them; this is the controller's life
	log     *slog.Logger
	wake    func(delivery.ID) // a source of any kind
	// secrets reads the Secrets that a source names, aside, before it is asked; nil: they have been read.
	secrets func(context.Context, *delivery.Source) error
	changed func(source delivery.ID) // a new snapshot is there
}

// unusable notes why a source gives nothing, and lets the apps made from it say so.
func (f *follower) unusable(st *sourceState, id delivery.ID, why error) {
	news := false
	f.reg.with(func() {
		news = st.err == nil
		st.err = why
	})
	if news {
		f.news(id)
	}
}

// distrusts takes back a snapshot whose signatures nobody has looked at, where the source wants them by now.
func (f *follower) distrusts(st *sourceState, src delivery.Source) (news bool) {
	f.reg.with(func() {
		if src.Verify.Wanted() && st.snapshot.Revision.Commit != "" && st.snapshot.Verified == "" {
			st.snapshot, news = delivery.Snapshot{}, true
		}
	})
	return news
}

// sameSource tells whether a result still answers what is declared.
func sameSource(a, b delivery.Source) bool {
	return a.URL == b.URL && a.Chart == b.Chart && a.OCI == b.OCI && a.Layer == b.Layer && a.Index == b.Index && a.IndexAt == b.IndexAt && a.IndexFixed == b.IndexFixed &&
		a.Whole == b.Whole && a.Ref == b.Ref && a.Ignore == b.Ignore && a.HasIgnore == b.HasIgnore &&
		a.Verify.Head == b.Verify.Head && a.Verify.Tag == b.Verify.Tag && a.Secrets == b.Secrets &&
		slices.Equal(a.Sparse, b.Sparse) && a.Submodules == b.Submodules && slices.Equal(a.Include, b.Include)
}

// due gives how long to wait until the repository is to be asked again; zero: now.
func (f *follower) due(st *sourceState, src delivery.Source, generation int64) time.Duration {
	var again bool
	f.reg.with(func() { again, st.again = st.again, false })
	requested := src.Requested != "" && src.Requested != st.handled
	st.fresh = again || requested
	if st.fresh || st.asked.IsZero() || st.gen != generation {
		return 0
	}
	wait := f.sources.PollAfter(src, max(src.Interval, poll))
	if st.failures > 0 {
		wait = deliver.Backoff(st.failures, src.Interval)
	}
	return max(st.asked.Add(wait).Sub(f.now()), 0)
}

// asked notes what is being answered, and since when.
func (f *follower) asked(st *sourceState, src delivery.Source, generation int64) {
	st.asked, st.gen, st.handled = f.now(), generation, src.Requested
}

// fallback bounds the look for the last known commit; poll is the shortest pause between two looks at a repository.
const fallback, poll = 10 * time.Second, time.Second

// fetch asks the repository aside. Its result is taken in by the next step. After a start, a repository that cannot be
// reached still gives the last known commit if its mirror holds it: drift is repaired without the remote. A suspended one
// is not asked for anything newer.
func (f *follower) fetch(st *sourceState, src delivery.Source, generation int64, last delivery.Revision, inc included) {
	first := st.snapshot.Revision.Commit == ""
	src.Fresh = st.fresh
	f.reg.with(func() { st.fetching = true })
	if !src.Suspend {
		f.asked(st, src, generation)
	}
	go func() {
		defer f.slots.enter(lane{source.Host(src.URL), src.ID.Namespace})()
		res := &fetchResult{source: src, included: inc.artifacts}
		f.bring(res, last, inc, first)
		if f.life.Err() != nil {
			return // the controller is ending: that is no fault of the repository
		}
		res.source.Credentials = delivery.Credentials{}
		f.reg.ended(st, inc.epoch, res)
		f.wake(src.ID)
	}()
}

// bring asks the repository, and fetches what is new. A panic over what it holds is a fault of this source alone.
func (f *follower) bring(res *fetchResult, last delivery.Revision, inc included, first bool) {
	src := res.source
	defer func() {
		if p := recover(); p != nil {
			f.log.Error("panic in a fetch", "source", src.ID.String(), "stack", redact.Text(string(debug.Stack())))
			res.snapshot = delivery.Snapshot{}
			res.err = &delivery.Fault{Reason: sourcev1.GitOperationFailedReason, Where: src.ID.String(), Err: fmt.Errorf("internal error: %v", p), Hint: "please report it"}
		}
	}()
	ctx, cancel := context.WithTimeout(f.life, src.Timeout)
	defer cancel()
	if f.secrets != nil && src.Secrets != (delivery.SecretRefs{}) {
		if res.err = f.secrets(ctx, &src); res.err != nil {
			return
		}
	}
	rev := last
	if !src.Suspend {
		began := f.now()
		rev, res.err = f.sources.Resolve(ctx, src)
		f.spanned(ctx, "source.resolve", src.ID, rev, began, res.err)
	}
	res.since = f.now()
	if res.err == nil {
		res.snapshot, res.err = f.sources.Fetch(ctx, src, rev, inc.snapshots...)
		f.spanned(ctx, "source.fetch", src.ID, rev, res.since, res.err)
	}
	if first && givesLast(last, res.err) {
		again, cancel := context.WithTimeout(f.life, fallback) // the first one's time may be over
		defer cancel()
		if snap, err := f.sources.Fetch(again, src, last, inc.snapshots...); err == nil {
			res.snapshot = snap
		}
	}
}

// givesLast tells whether a source gives its last known commit although it could not be asked. Not where the remote answered:
// one that refuses us no longer wants us to have it.
func givesLast(last delivery.Revision, err error) bool {
	return last.Commit != "" && errors.Is(err, git.ErrUnreachable)
}

// took makes the result of a fetch known to the apps made from its source, and tells whether it is news. One that failed may
// have brought the last known commit.
func (f *follower) took(st *sourceState, id delivery.ID, res *fetchResult) (news bool) {
	if res.err != nil {
		st.failures++
		if res.snapshot.Revision.Commit != "" {
			f.reg.with(func() { st.snapshot = res.snapshot })
			f.news(id)
		}
		return false
	}
	st.failures = 0
	f.reg.with(func() {
		st.err = nil
		news = st.snapshot.Revision != res.snapshot.Revision || st.snapshot.Digest != res.snapshot.Digest
		st.snapshot = res.snapshot
		if news {
			st.since = res.since
		}
	})
	if news {
		f.news(id)
	}
	return news
}

// pushed asks for a fetch of every source whose URL matches: the repository behind it has just changed.
func (f *follower) pushed(match func(url string) bool) {
	for _, id := range f.reg.sourcesWhere(match) {
		st := f.reg.source(id)
		f.reg.with(func() { st.again = true })
		f.wake(id)
	}
}

// spanned makes a span of a part of a fetch that began at a time, if its commit is news or it has failed: a repository that is
// asked in vain is nothing to tell of.
func (f *follower) spanned(ctx context.Context, name string, id delivery.ID, rev delivery.Revision, began time.Time, err error) {
	if !telemetry.Tracing() {
		return
	}
	if snap, _ := f.reg.snapshot(id); err == nil && snap.Revision == rev {
		return
	}
	ctx = telemetry.Commit(telemetry.With(ctx, telemetry.Source(id.String())), rev.Commit, rev.Name, true)
	telemetry.Past(ctx, name, began, err)
}

// news tells the apps made from a source, and the sources that include it, that it has changed.
func (f *follower) news(id delivery.ID) {
	f.changed(id)
	for _, other := range f.reg.including(id) {
		f.wake(other)
	}
}
