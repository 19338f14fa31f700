package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/source"
)

// gitRepositories follows repositories. A step never talks to one: it starts a fetch aside and takes in its result when
// the fetch asks for the next step, so an unreachable repository delays nobody.
type gitRepositories struct {
	reg     *registry
	sources *source.Fetcher
	cache   client.Reader
	reader  client.Reader // uncached: Secrets are not kept in memory
	now     func() time.Time
	slots   *lanes          // bounds the fetches under way
	life    context.Context //nolint:containedctx // fetches outlive the step that starts them; this is the controller's life
	log     *slog.Logger
	wake    func(delivery.ID)
	changed func(source delivery.ID) // a new snapshot is there
}

func gitRepositoryID(name types.NamespacedName) delivery.ID {
	return delivery.ID{Kind: sourcev1.GitRepositoryKind, Namespace: name.Namespace, Name: name.Name}
}

func (g *gitRepositories) empty() *sourcev1.GitRepository { return &sourcev1.GitRepository{} }

func (g *gitRepositories) forget(name types.NamespacedName) {
	id := gitRepositoryID(name)
	g.reg.dropSource(id)
	g.news(id)
	go func() {
		if err := g.dropMirrors(); err != nil && g.life.Err() == nil {
			g.log.Warn("remove unused mirrors", "error", err)
		}
	}()
}

// dropMirrors removes the mirrors of repositories that no source names.
func (g *gitRepositories) dropMirrors() error {
	var list sourcev1.GitRepositoryList
	if err := g.cache.List(g.life, &list); err != nil {
		return err
	}
	urls := make(map[delivery.ID]string, len(list.Items))
	for i := range list.Items {
		urls[gitRepositoryID(client.ObjectKeyFromObject(&list.Items[i]))] = list.Items[i].Spec.URL
	}
	return g.sources.Retain(g.life, urls)
}

func (g *gitRepositories) remove(context.Context, *sourcev1.GitRepository) (removal, error) {
	return removal{done: true}, nil // its mirror is dropped with the last source of its namespace that has the same URL
}

func (g *gitRepositories) step(ctx context.Context, obj *sourcev1.GitRepository, _ pen) next {
	src := dialect.GitRepository(obj)
	st := g.reg.source(src.ID)
	g.reg.with(func() {
		if st.uid != obj.UID { // another one of the same name: what is known is not about it
			*st = sourceState{uid: obj.UID, fetching: st.fetching, epoch: st.epoch}
		}
	})
	g.reg.with(func() { st.include = includes(src) })
	g.distrust(st, src)
	if src.Suspend {
		g.suspended(ctx, st, src, obj)
		return next{}
	}
	if len(src.Refused) > 0 {
		g.unusable(st, src.ID, fmt.Errorf("%s: not supported yet", strings.Join(src.Refused, ", ")))
		return g.finish(obj, st, src, delivery.Outcome{
			Phase: delivery.Stalled, Reason: "FieldsNotSupported", Handled: src.Requested,
			Message: strings.Join(src.Refused, ", ") + ": not supported yet; nothing is fetched (hint: remove the fields)",
		}, next{})
	}
	var result *fetchResult
	var running bool
	g.reg.with(func() {
		st.url = src.URL
		result, st.result = st.result, nil
		running = st.fetching
	})
	if running {
		return next{}
	}
	n := next{}
	if result != nil && sameSource(result.source, src) {
		n = g.takeIn(obj, st, src, result)
	}
	if wait := g.due(st, src, obj.Generation); wait > 0 {
		if n.after == 0 || wait < n.after {
			n.after = wait
		}
		return n
	}
	if err := deliver.ReadSecrets(ctx, g.reader, &src); err != nil {
		st.failures++
		g.asked(st, src, obj.Generation)
		return g.fail(obj, st, src, err)
	}
	inc, err := g.included(ctx, src)
	if err != nil {
		return g.without(obj, st, src, err, n)
	}
	last := delivery.Revision{}
	if obj.Status.Artifact != nil {
		last = delivery.ParseRevision(obj.Status.Artifact.Revision)
	}
	g.fetch(st, src, obj.Generation, last, inc)
	return n
}

// suspended leaves the source as it is. After a start the apps made from it still get its last known commit, if its mirror
// holds it; otherwise they are told why there is none.
func (g *gitRepositories) suspended(ctx context.Context, st *sourceState, src delivery.Source, obj *sourcev1.GitRepository) {
	var result *fetchResult
	var idle bool
	g.reg.with(func() {
		st.url = src.URL
		result, st.result = st.result, nil
		idle = !st.fetching && st.err == nil && st.snapshot.Revision.Commit == ""
	})
	if result != nil && !sameSource(result.source, src) {
		result = nil
	}
	switch {
	case result != nil && result.snapshot.Revision.Commit != "":
		g.reg.with(func() { st.snapshot = result.snapshot })
		g.news(src.ID)
	case result != nil:
		g.unusable(st, src.ID, result.err)
	case idle && obj.Status.Artifact == nil:
		g.unusable(st, src.ID, errors.New("it is suspended"))
	case idle && src.Verify.Wanted():
		if err := deliver.ReadSecrets(ctx, g.reader, &src); err != nil {
			g.unusable(st, src.ID, err)
			return
		}
		fallthrough
	case idle:
		inc, err := g.included(ctx, src)
		if err == nil {
			g.fetch(st, src, obj.Generation, delivery.ParseRevision(obj.Status.Artifact.Revision), inc)
		} else if !errors.Is(err, errNotYet) {
			g.unusable(st, src.ID, err)
		}
	}
}

// distrust takes a snapshot back whose signatures nobody has looked at, where the source wants them by now; and with it the
// snapshots of the sources that include it.
func (g *gitRepositories) distrust(st *sourceState, src delivery.Source) {
	news := false
	g.reg.with(func() {
		if src.Verify.Wanted() && st.snapshot.Revision.Commit != "" && st.snapshot.Verified == "" {
			st.snapshot, news = delivery.Snapshot{}, true
		}
	})
	if !news {
		return
	}
	holders := g.reg.withdraw(src.ID)
	g.news(src.ID)
	for _, id := range holders {
		g.news(id)
	}
}

// unusable notes why a source gives nothing, and lets the apps made from it say so.
func (g *gitRepositories) unusable(st *sourceState, id delivery.ID, why error) {
	news := false
	g.reg.with(func() {
		news = st.err == nil
		st.err = why
	})
	if news {
		g.news(id)
	}
}

// sameSource tells whether a result still answers what is declared.
func sameSource(a, b delivery.Source) bool {
	return a.URL == b.URL && a.Ref == b.Ref && a.Ignore == b.Ignore && a.HasIgnore == b.HasIgnore &&
		a.Verify.Head == b.Verify.Head && a.Verify.Tag == b.Verify.Tag && a.Secrets == b.Secrets &&
		slices.Equal(a.Sparse, b.Sparse) && a.Submodules == b.Submodules && slices.Equal(a.Include, b.Include)
}

// due gives how long to wait until the repository is to be asked again; zero: now.
func (g *gitRepositories) due(st *sourceState, src delivery.Source, generation int64) time.Duration {
	var again bool
	g.reg.with(func() { again, st.again = st.again, false })
	if again || st.asked.IsZero() || st.gen != generation || (src.Requested != "" && src.Requested != st.handled) {
		return 0
	}
	wait := g.sources.PollAfter(src, max(src.Interval, poll))
	if st.failures > 0 {
		wait = deliver.Backoff(st.failures, src.Interval)
	}
	return max(st.asked.Add(wait).Sub(g.now()), 0)
}

// asked notes what is being answered, and since when.
func (g *gitRepositories) asked(st *sourceState, src delivery.Source, generation int64) {
	st.asked, st.gen, st.handled = g.now(), generation, src.Requested
}

// fallback bounds the look for the last known commit; poll is the shortest pause between two looks at a repository.
const fallback, poll = 10 * time.Second, time.Second

// fetch asks the repository aside. Its result is taken in by the next step. After a start, a repository that cannot be
// reached still gives the last known commit if its mirror holds it: drift is repaired without the remote. A suspended one
// is not asked for anything newer.
func (g *gitRepositories) fetch(st *sourceState, src delivery.Source, generation int64, last delivery.Revision, inc included) {
	first := st.snapshot.Revision.Commit == ""
	g.reg.with(func() { st.fetching = true })
	if !src.Suspend {
		g.asked(st, src, generation)
	}
	go func() {
		defer g.slots.enter(lane{source.Host(src.URL), src.ID.Namespace})()
		res := &fetchResult{source: src, included: inc.artifacts}
		g.bring(res, last, inc, first)
		if g.life.Err() != nil {
			return // the controller is ending: that is no fault of the repository
		}
		res.source.Credentials = delivery.Credentials{}
		g.reg.ended(st, inc.epoch, res)
		g.wake(src.ID)
	}()
}

// bring asks the repository, and fetches what is new. A panic over what it holds is a fault of this source alone.
func (g *gitRepositories) bring(res *fetchResult, last delivery.Revision, inc included, first bool) {
	src := res.source
	defer func() {
		if p := recover(); p != nil {
			g.log.Error("panic in a fetch", "source", src.ID.String(), "stack", redact.Text(string(debug.Stack())))
			res.snapshot = delivery.Snapshot{}
			res.err = &delivery.Fault{Reason: sourcev1.GitOperationFailedReason, Where: src.ID.String(), Err: fmt.Errorf("internal error: %v", p), Hint: "please report it"}
		}
	}()
	ctx, cancel := context.WithTimeout(g.life, src.Timeout)
	defer cancel()
	rev := last
	if !src.Suspend {
		began := g.now()
		rev, res.err = g.sources.Resolve(ctx, src)
		g.spanned(ctx, "source.resolve", src.ID, rev, began, res.err)
	}
	res.since = g.now()
	if res.err == nil {
		res.snapshot, res.err = g.sources.Fetch(ctx, src, rev, inc.snapshots...)
		g.spanned(ctx, "source.fetch", src.ID, rev, res.since, res.err)
	}
	if first && givesLast(last, res.err) {
		again, cancel := context.WithTimeout(g.life, fallback) // the first one's time may be over
		defer cancel()
		if snap, err := g.sources.Fetch(again, src, last, inc.snapshots...); err == nil {
			res.snapshot = snap
		}
	}
}

// givesLast tells whether a source gives its last known commit although it could not be asked. Not where the remote answered:
// one that refuses us no longer wants us to have it.
func givesLast(last delivery.Revision, err error) bool {
	return last.Commit != "" && errors.Is(err, git.ErrUnreachable)
}

// takeIn makes the result of a fetch known: to the apps first, then in the status.
func (g *gitRepositories) takeIn(obj *sourcev1.GitRepository, st *sourceState, src delivery.Source, res *fetchResult) next {
	if res.err != nil {
		st.failures++
		if res.snapshot.Revision.Commit != "" {
			g.reg.with(func() { st.snapshot = res.snapshot })
			g.news(src.ID)
		}
		return g.fail(obj, st, src, res.err)
	}
	st.failures = 0
	news := false
	g.reg.with(func() {
		st.err = nil
		news = st.snapshot.Revision != res.snapshot.Revision || st.snapshot.Digest != res.snapshot.Digest
		st.snapshot = res.snapshot
		if news {
			st.since = res.since
		}
	})
	if news {
		g.news(src.ID)
	}
	rev := res.snapshot.Revision
	out := delivery.Outcome{
		Phase: delivery.Ready, Reason: "Succeeded", Handled: st.handled, Applied: rev,
		Message: fmt.Sprintf("stored artifact for revision '%s'", rev),
	}
	n := next{}
	if news && (obj.Status.Artifact == nil || obj.Status.Artifact.Revision != rev.String()) {
		n.events = []event{{reason: "NewArtifact", message: out.Message, revision: rev}}
	}
	st.included = res.included
	return g.finish(obj, st, src, out, n)
}

func (g *gitRepositories) fail(obj *sourcev1.GitRepository, st *sourceState, src delivery.Source, err error) next {
	f := delivery.FaultOf(err, sourcev1.GitOperationFailedReason)
	g.reg.with(func() { st.err = f })
	if st.snapshot.Revision.Commit == "" {
		g.news(src.ID) // the apps made from it wait in vain: let them say so
	}
	out := delivery.Outcome{Phase: delivery.Failing, Reason: f.Reason, Message: redact.Text(f.Error()), Handled: st.handled}
	n := next{after: deliver.Backoff(st.failures, src.Interval)}
	if f.Retry == delivery.OnChange {
		n.after = src.Interval
	}
	if !told(obj.Status.Conditions, out) {
		n.events = []event{{warning: true, reason: out.Reason, message: out.Message}}
	}
	return g.finish(obj, st, src, out, n)
}

// finish sets the status.
func (g *gitRepositories) finish(obj *sourcev1.GitRepository, st *sourceState, src delivery.Source, out delivery.Outcome, n next) next {
	art := dialect.Artifact{Digest: st.snapshot.Digest, URL: redact.URL(src.URL), Verified: st.snapshot.Verified, Included: st.included}
	obj.Status = dialect.GitRepositoryStatus(obj.Status, obj, out, art, g.now())
	return n
}

// pushed asks for a fetch of every source whose URL matches: the repository behind it has just changed.
func (g *gitRepositories) pushed(match func(url string) bool) {
	for _, id := range g.reg.sourcesWhere(match) {
		st := g.reg.source(id)
		g.reg.with(func() { st.again = true })
		g.wake(id)
	}
}
