package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/telemetry"
)

// declaredSource is an object that declares a source, of one of Flux's kinds.
type declaredSource interface {
	client.Object
	GetArtifact() *fluxmeta.Artifact
	GetConditions() []metav1.Condition
}

// sourceForm is what is particular to one kind of declared sources.
type sourceForm[T declaredSource] struct {
	kind  string
	empty func() T
	read  func(obj T) delivery.Source
	// status sets the status that follows from an outcome.
	status func(obj T, out delivery.Outcome, art dialect.Artifact)
	stored string // what there is to say of a revision that was fetched
	failed string // the reason of what no better one is known of
	// static tells whether there is nothing to follow; it sets the status then. Nil: never.
	static func(obj T, src delivery.Source) bool
}

// declaredSources follow what objects of one kind declare. A step never talks to a remote: it starts a fetch aside and takes in its
// result when the fetch asks for the next step, so an unreachable repository delays nobody.
type declaredSources[T declaredSource] struct {
	follower
	form   sourceForm[T]
	cache  client.Reader
	reader client.Reader // uncached: Secrets are not kept in memory
	// tidy removes the mirrors and archives that no source needs.
	tidy func()
	// respecified is told of a source that is declared anew, or otherwise; may be nil.
	respecified func(source delivery.ID)
}

func (g *declaredSources[T]) id(name types.NamespacedName) delivery.ID {
	return delivery.ID{Kind: g.form.kind, Namespace: name.Namespace, Name: name.Name}
}

func (g *declaredSources[T]) empty() T { return g.form.empty() }

func (g *declaredSources[T]) forget(name types.NamespacedName) {
	id := g.id(name)
	g.reg.dropSource(id)
	g.news(id)
	go g.tidy()
}

// about gives a context whose spans name the source and the commit that it stands at, or is about to.
func (g *declaredSources[T]) about(ctx context.Context, obj T) context.Context {
	if !telemetry.Tracing() {
		return ctx
	}
	id := g.id(client.ObjectKeyFromObject(obj))
	ctx = telemetry.With(ctx, telemetry.Source(id.String()))
	rev, news := g.reg.arriving(id)
	return telemetry.Commit(ctx, rev.Commit, rev.Name, news)
}

func (g *declaredSources[T]) remove(context.Context, T) (removal, error) {
	return removal{done: true}, nil // its mirror is dropped with the last source of its namespace that has the same URL
}

func (g *declaredSources[T]) step(ctx context.Context, obj T, _ pen) next {
	src := g.form.read(obj)
	st := g.reg.source(src.ID)
	g.reg.with(func() {
		if st.uid != obj.GetUID() { // another one of the same name: what is known is not about it
			*st = sourceState{uid: obj.GetUID(), fetching: st.fetching, epoch: st.epoch}
		}
	})
	g.reg.with(func() { st.include = includes(src) })
	g.distrust(st, src)
	if st.declared != obj.GetGeneration() && g.respecified != nil {
		g.respecified(src.ID)
	}
	if st.declared != 0 && st.declared != obj.GetGeneration() { // somebody wants to know now: what was answered before is not good enough
		g.reg.with(func() { st.again = true })
	}
	st.declared = obj.GetGeneration()
	if g.form.static != nil && len(src.Refused) == 0 && g.form.static(obj, src) {
		return next{}
	}
	if src.Suspend {
		g.suspended(ctx, st, src, obj)
		return next{}
	}
	if len(src.Refused) > 0 {
		g.unusable(st, src.ID, fmt.Errorf("%s: not supported yet", strings.Join(src.Refused, ", ")))
		return g.finish(obj, st, src, delivery.Outcome{
			Phase: delivery.Stalled, Reason: "FieldsNotSupported", Handled: src.Requested,
			Message: strings.Join(src.Refused, ", ") + ": not supported yet; nothing is fetched (hint: " + insteadOf(src.Refused, "") + ")",
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
	if wait := g.due(st, src, obj.GetGeneration()); wait > 0 {
		if n.after == 0 || wait < n.after {
			n.after = wait
		}
		return n
	}
	if err := deliver.ReadSecrets(ctx, g.reader, &src); err != nil {
		st.failures++
		g.asked(st, src, obj.GetGeneration())
		return g.fail(obj, st, src, err)
	}
	inc, err := g.included(ctx, src)
	if err != nil {
		return g.without(obj, st, src, err, n)
	}
	last := delivery.Revision{}
	if obj.GetArtifact() != nil {
		last = delivery.ParseRevision(obj.GetArtifact().Revision)
	}
	g.fetch(st, src, obj.GetGeneration(), last, inc)
	return n
}

// suspended leaves the source as it is. After a start the apps made from it still get its last known commit, if its mirror
// holds it; otherwise they are told why there is none.
func (g *declaredSources[T]) suspended(ctx context.Context, st *sourceState, src delivery.Source, obj T) {
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
	case idle && obj.GetArtifact() == nil:
		g.unusable(st, src.ID, errors.New("it is suspended"))
	case idle && (src.Verify.Wanted() || src.OCI):
		if err := deliver.ReadSecrets(ctx, g.reader, &src); err != nil {
			g.unusable(st, src.ID, err)
			return
		}
		fallthrough
	case idle:
		inc, err := g.included(ctx, src)
		if err == nil {
			g.fetch(st, src, obj.GetGeneration(), delivery.ParseRevision(obj.GetArtifact().Revision), inc)
		} else if !errors.Is(err, errNotYet) {
			g.unusable(st, src.ID, err)
		}
	}
}

// distrust takes a snapshot back whose signatures nobody has looked at, where the source wants them by now; and with it the
// snapshots of the sources that include it.
func (g *declaredSources[T]) distrust(st *sourceState, src delivery.Source) {
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
func (g *declaredSources[T]) takeIn(obj T, st *sourceState, src delivery.Source, res *fetchResult) next {
	news := g.took(st, src.ID, res)
	if res.err != nil {
		return g.fail(obj, st, src, res.err)
	}
	rev := res.snapshot.Revision
	out := delivery.Outcome{
		Phase: delivery.Ready, Reason: "Succeeded", Handled: st.handled, Applied: rev,
		Message: fmt.Sprintf(g.form.stored, rev),
	}
	n := next{}
	if news && (obj.GetArtifact() == nil || obj.GetArtifact().Revision != rev.String()) {
		n.events = []event{{reason: newArtifact, message: out.Message, revision: rev}}
	}
	st.included = res.included
	return g.finish(obj, st, src, out, n)
}

func (g *declaredSources[T]) fail(obj T, st *sourceState, src delivery.Source, err error) next {
	f := delivery.FaultOf(err, g.form.failed)
	g.reg.with(func() { st.err = f })
	if st.snapshot.Revision.Commit == "" {
		g.news(src.ID) // the apps made from it wait in vain: let them say so
	}
	out := delivery.Outcome{Phase: delivery.Failing, Reason: f.Reason, Message: redact.Text(f.Error()), Handled: st.handled}
	n := next{after: deliver.Backoff(st.failures, src.Interval)}
	if f.Retry == delivery.OnChange {
		n.after = src.Interval
	}
	n.events = st.reminder.failed(obj.GetConditions(), out, delivery.Revision{})
	return g.finish(obj, st, src, out, n)
}

// finish sets the status.
func (g *declaredSources[T]) finish(obj T, st *sourceState, src delivery.Source, out delivery.Outcome, n next) next {
	g.form.status(obj, out, dialect.Artifact{
		Digest: st.snapshot.Digest, URL: redact.URL(src.URL), Origin: st.snapshot.Origin, Verified: st.snapshot.Verified, Included: st.included,
	})
	return n
}
