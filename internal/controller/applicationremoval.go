package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

// argoFinalizer tells whether a finalizer is one that Argo CD's controller, which we stand for, takes away.
func argoFinalizer(name string) bool {
	return name == argocdv1.ResourcesFinalizer || strings.HasPrefix(name, argocdv1.ResourcesFinalizer+"/") ||
		name == argocdv1.PostDeleteFinalizer || strings.HasPrefix(name, argocdv1.PostDeleteFinalizer+"/")
}

// remove deletes what an Application owns, if its finalizers say so.
func (a *applications) remove(ctx context.Context, obj *argocdv1.Application) (r removal, err error) {
	if !a.estate.serves(obj.Namespace) {
		return removal{}, nil
	}
	p := &applicationPass{obj: obj, held: a.estate.holds()}
	p.declared = a.read(obj, p.held, nil)
	app := a.govern(p.declared.App)
	p.pass = pass{app: app, st: a.stateOf(app, func(st *appState) { a.load(st, obj) })}
	if app.KeepOnDelete || len(p.st.mem.Inventory) == 0 {
		return removal{done: true}, nil
	}
	defer func() { r.events = append(p.events, r.events...) }()
	if err = a.aim(ctx, p); err == nil {
		p.st.target.engine.Live.JudgeKind(argocdv1.ApplicationKind, p.held.rules)
		var going []delivery.Ref
		var waiting bool
		if going, waiting, err = a.uninstall(ctx, &p.pass); err == nil {
			switch {
			case waiting:
				return removal{after: recheck}, nil
			case app.AwaitGone && len(going) > 0:
				return a.awaitGone(app, p.st, going), nil
			}
			return removal{done: true}, nil
		}
	}
	if errors.Is(err, errNotYet) {
		return removal{after: recheck}, nil
	}
	return a.blocked(p, err), nil
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
