package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/redact"
)

// gitRepositories follows repositories. A step never talks to one: it starts a fetch aside and takes in its result when
// the fetch asks for the next step, so an unreachable repository delays nobody.
type gitRepositories struct {
	follower
	cache  client.Reader
	reader client.Reader // uncached: Secrets are not kept in memory
	// others gives id, tenant and URL of the sources that are no GitRepositories, and whether these are all; nil: there are none.
	others func() (sources []delivery.Source, all bool)
}

func gitRepositoryID(name types.NamespacedName) delivery.ID {
	return delivery.ID{Kind: sourcev1.GitRepositoryKind, Namespace: name.Namespace, Name: name.Name}
}

func (g *gitRepositories) empty() *sourcev1.GitRepository { return &sourcev1.GitRepository{} }

func (g *gitRepositories) forget(name types.NamespacedName) {
	id := gitRepositoryID(name)
	g.reg.dropSource(id)
	g.news(id)
	go g.tidy()
}

// tidy removes the mirrors of repositories that no source names.
func (g *gitRepositories) tidy() {
	if err := g.dropMirrors(); err != nil && g.life.Err() == nil {
		g.log.Warn("remove unused mirrors", "error", err)
	}
}

func (g *gitRepositories) dropMirrors() error {
	var list sourcev1.GitRepositoryList
	if err := g.cache.List(g.life, &list); err != nil {
		return err
	}
	sources := make([]delivery.Source, 0, len(list.Items))
	for i := range list.Items {
		sources = append(sources, delivery.Source{ID: gitRepositoryID(client.ObjectKeyFromObject(&list.Items[i])), URL: list.Items[i].Spec.URL})
	}
	if g.others != nil {
		others, all := g.others()
		if !all {
			return nil // they go with the next one
		}
		sources = append(sources, others...)
	}
	return g.sources.Retain(g.life, sources)
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
	if !g.distrusts(st, src) {
		return
	}
	holders := g.reg.withdraw(src.ID)
	g.news(src.ID)
	for _, id := range holders {
		g.news(id)
	}
}

// takeIn makes the result of a fetch known: to the apps first, then in the status.
func (g *gitRepositories) takeIn(obj *sourcev1.GitRepository, st *sourceState, src delivery.Source, res *fetchResult) next {
	news := g.took(st, src.ID, res)
	if res.err != nil {
		return g.fail(obj, st, src, res.err)
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
