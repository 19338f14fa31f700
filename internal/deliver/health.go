package deliver

import (
	"context"

	"k8s.io/apimachinery/pkg/api/meta"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/health"
)

// health is how the objects are doing that the app is about, or waits for: all of inv but those that are left alone, which
// others wait for (as in Flux), or those that it names.
func (e *Engine) health(app delivery.App, inv delivery.Inventory, left map[delivery.Ref]bool, mem *Memory) delivery.Health {
	foreign := make([]delivery.HealthCheck, 0, len(app.HealthChecks))
	if app.Wait || len(app.HealthChecks) == 0 {
		e.Live.Probe(app.ID, nil)
		parts := make([]health.Part, 0, len(inv))
		for _, ref := range inv.Refs() {
			if !isSelf(app, ref) && !e.isLeft(ref, left) {
				parts = append(parts, health.Part{Ref: ref, Health: e.healthOf(ref, mem)})
			}
		}
		return health.Aggregate(parts)
	}
	parts := make([]health.Part, 0, len(app.HealthChecks))
	for _, c := range app.HealthChecks {
		c = e.resolve(app, c)
		switch _, owned := inv[c.Ref]; {
		case isSelf(app, c.Ref):
		case owned && !e.isLeft(c.Ref, left):
			parts = append(parts, health.Part{Ref: c.Ref, Health: e.healthOf(c.Ref, mem)})
		default:
			foreign = append(foreign, c)
		}
	}
	for i, h := range e.Live.Probe(app.ID, foreign) {
		parts = append(parts, health.Part{Ref: foreign[i].Ref, Health: h})
	}
	return health.Aggregate(parts)
}

// isSelf tells whether an object is the app itself: who waits for himself waits for ever.
func isSelf(app delivery.App, ref delivery.Ref) bool {
	return app.KubeConfig == (delivery.KubeConfig{}) && ref.Kind == app.ID.Kind && ref.Namespace == app.ID.Namespace && ref.Name == app.ID.Name
}

// healthOf is how an object of the app is doing.
func (e *Engine) healthOf(ref delivery.Ref, mem *Memory) delivery.Health {
	rec, ok := e.Live.Get(ref)
	switch {
	case mem.applied[ref].Fleeting && e.finished(ref, rec, ok):
		return delivery.Health{Status: delivery.Healthy}
	case !ok:
		return delivery.Health{Status: delivery.Missing, Message: "it does not exist"}
	}
	return rec.Health
}

// finished tells of an object that goes by itself once it has done its work that it is gone, or about to go, for that reason.
func (e *Engine) finished(ref delivery.Ref, rec delivery.Live, there bool) bool {
	if there {
		return rec.Done && rec.Deleting
	}
	return !e.Live.Undone(ref)
}

// resolve completes a reference by what the cluster knows of its kind.
func (e *Engine) resolve(app delivery.App, c delivery.HealthCheck) delivery.HealthCheck {
	m, err := e.Cluster.Mapper().RESTMapping(c.GroupKind(), c.Version)
	if meta.IsNoMatchError(err) {
		m, err = e.Cluster.Mapper().RESTMapping(c.GroupKind())
	}
	switch {
	case err != nil: // Probe says so
	case m.Scope.Name() != meta.RESTScopeNameNamespace:
		c.Namespace = ""
	case c.Namespace == "":
		c.Namespace = app.ID.Namespace
	}
	return c
}

// MayLook asks, for an app with a service account, whether that account may see the objects, not its own, whose health
// the app waits for: their state is not to be told to who could not ask for it.
func (e *Engine) MayLook(ctx context.Context, app delivery.App, mem *Memory) error {
	if app.ServiceAccount == "" || app.Wait {
		return nil
	}
	user, err := e.Cluster.As(app.Account())
	if err != nil {
		return err
	}
	for _, c := range app.HealthChecks {
		c = e.resolve(app, c)
		if _, owned := mem.Inventory[c.Ref]; owned || isSelf(app, c.Ref) {
			continue
		}
		if err := user.May(ctx, c.Ref, c.Version, "get"); err != nil && !meta.IsNoMatchError(err) {
			return err
		}
	}
	return nil
}

// isLeft tells whether an object is left alone: as Git wants it, or as it is marked in the cluster.
func (e *Engine) isLeft(ref delivery.Ref, left map[delivery.Ref]bool) bool {
	if _, ok := left[ref]; ok {
		return true
	}
	rec, ok := e.Live.Get(ref)
	return ok && rec.Marks.Has(delivery.MarkLeave)
}
