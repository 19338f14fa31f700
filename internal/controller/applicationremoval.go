package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/redact"
)

// argoFinalizer tells whether a finalizer is one that Argo CD's controller, which we stand for, takes away.
func argoFinalizer(name string) bool {
	for _, ours := range []string{argocdv1.ResourcesFinalizer, argocdv1.PreDeleteFinalizer, argocdv1.PostDeleteFinalizer} {
		if name == ours || strings.HasPrefix(name, ours+"/") {
			return true
		}
	}
	return false
}

// deletionHooks are the finalizers that say that a deletion runs hooks, by their moments.
var deletionHooks = map[delivery.Moment]string{
	delivery.PreDelete: argocdv1.PreDeleteFinalizer, delivery.PostDelete: argocdv1.PostDeleteFinalizer,
}

// expectHooks has the Application say which hooks its deletion runs, so that it is not deleted without them where they cannot be
// rendered any more.
func (p *applicationPass) expectHooks(desired []delivery.Object) {
	if p.app.KeepOnDelete {
		return
	}
	for moment, name := range deletionHooks {
		wanted := slices.ContainsFunc(desired, func(obj delivery.Object) bool {
			return obj.Hook != nil && slices.Contains(obj.Hook.Moments, moment)
		})
		switch has := slices.Contains(p.obj.Finalizers, name); {
		case wanted && !has:
			p.obj.Finalizers = append(slices.Clone(p.obj.Finalizers), name)
		case !wanted && has:
			p.obj.Finalizers = slices.DeleteFunc(slices.Clone(p.obj.Finalizers), func(f string) bool { return f == name })
		}
	}
}

// expectsHooks tells whether the Application's deletion runs hooks.
func expectsHooks(obj *argocdv1.Application) bool {
	return slices.ContainsFunc(obj.Finalizers, func(f string) bool {
		return strings.HasPrefix(f, argocdv1.PreDeleteFinalizer) || strings.HasPrefix(f, argocdv1.PostDeleteFinalizer)
	})
}

// remove deletes what an Application owns, if its finalizers say so.
func (a *applications) remove(ctx context.Context, obj *argocdv1.Application) (r removal, err error) {
	if !a.estate.holds().complete {
		return removal{after: estateRetry}, nil // what is not known yet is not missing
	}
	if !a.estate.serves(obj.Namespace) {
		return removal{}, nil
	}
	p := &applicationPass{obj: obj, held: a.estate.holds()}
	p.declared = a.read(obj, p.held, nil)
	app := a.govern(p.declared.App)
	p.pass = pass{app: app, secrets: redact.New(), st: a.stateOf(app, func(st *appState) { a.load(st, obj) })}
	defer func() { r.events = append(p.st.kept(p.events), r.events...) }()
	if app.KeepOnDelete || len(p.st.mem.Inventory) == 0 && !expectsHooks(obj) {
		return removal{done: true}, nil
	}
	if why := p.declared.Nowhere; why != "" { // as Argo CD does; no other cluster is touched
		return removal{done: true, events: []event{{warning: true, reason: "Orphaned",
			message: fmt.Sprintf("%d objects are left where they are: %s", len(p.st.mem.Inventory), why)}}}, nil
	}
	gone, err := a.takeAway(ctx, p)
	switch {
	case errors.Is(err, errNotYet):
		return removal{after: recheck}, nil
	case err != nil:
		return a.blocked(p, err), nil
	case gone.Fault != nil:
		return a.blocked(p, gone.Fault), nil
	case gone.Done:
		return removal{done: true}, nil
	}
	return removal{after: cmp.Or(gone.After, maxRecheck)}, nil
}

// hooksPatience is how long a deletion waits for the repository of an Application that is not known to have hooks of it; then it goes
// on without.
const hooksPatience = time.Minute

// takeAway deletes what the Application owns, as far as it goes now.
func (a *applications) takeAway(ctx context.Context, p *applicationPass) (deliver.Removal, error) {
	if why := p.declared.Ungoverned; why != "" { // what it may do is what its objects may be deleted with
		return deliver.Removal{}, &delivery.Fault{Reason: argocdv1.ConditionDeletionError, Retry: delivery.OnEvent, Err: errors.New(why)}
	}
	if err := a.aim(ctx, p); err != nil {
		return deliver.Removal{}, err
	}
	done, ok := a.targets.enter(p.st.target, p.app.ID)
	if !ok {
		return deliver.Removal{}, errNotYet
	}
	defer done()
	a.arrive(&p.pass)
	engine, asked := p.st.target.engine, p.obj.DeletionTimestamp.Time
	engine.Live.JudgeKind(argocdv1.ApplicationKind, p.held.rules)
	p.req = deliver.Request{App: p.app, Vars: noVariables, Now: a.now()}
	a.repos.want(p.app.ID, p.declared.Sources)
	if err := a.sources(p, p.declared); err != nil {
		switch {
		case expectsHooks(p.obj):
			return deliver.Removal{}, err
		case p.req.Now.Before(asked.Add(hooksPatience)):
			return deliver.Removal{}, errNotYet
		}
		p.req.App, p.req.Snapshot = p.app, delivery.Snapshot{} // without hooks
	}
	out, err := engine.Remove(ctx, p.req, asked, &p.st.mem)
	p.events = append(p.events, changeEvents(out.Changes, p.req.Snapshot.Revision)...)
	for _, res := range out.Changes {
		if c := res.Change; c.Verb.Deletes() && res.Err == nil && !res.NoOp && c.Moment == "" {
			p.st.deleted = append(p.st.deleted, c.Ref)
		}
	}
	if err == nil && out.Done {
		a.recordParting(&p.pass)
	}
	return out, p.st.explain(err)
}

// blocked says what keeps an Application from being deleted.
func (a *applications) blocked(p *applicationPass, err error) removal {
	f := delivery.FaultOf(err, argocdv1.ConditionDeletionError)
	p.st.failures++
	p.obj.Status = dialect.ArgoStatus(p.obj.Status, p.obj, dialect.ArgoNews{Conditions: []argocdv1.ApplicationCondition{{
		Type: argocdv1.ConditionDeletionError, Message: fmt.Sprintf("deletion waits: %s; take away the finalizer to leave %d objects at most as they are",
			f.Error(), len(p.st.mem.Inventory)),
	}}}, a.now())
	return removal{after: max(deliver.Backoff(p.st.failures, p.app.RetryInterval), recheck)}
}
