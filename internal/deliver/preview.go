package deliver

import (
	"context"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/apply"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/plan"
)

// PreviewRequest is what a preview is made of.
type PreviewRequest struct {
	App       delivery.App
	Objects   []delivery.Object // as rendered
	Revision  delivery.Revision // that they come from
	Applied   delivery.Revision // that is applied now, as the app's status says; zero: none, or not known
	Inventory delivery.Inventory
	Now       time.Time
}

// Preview is what delivering an app would do.
type Preview struct {
	// Plan is the one that the controller would make, with the verdict of the API server itself about every object that is there.
	Plan delivery.Plan
	// Differences are those of all objects that the plan would send or delete, Unchanged where the server would keep them as they are.
	Differences []Difference
}

// Preview tells what delivering an app would do now, object by object, without any memory of deliveries: it makes the plan
// and asks the server what it would make of every apply (a dry run, as the app's service account). It changes nothing and
// starts no watch. Where the applied revision is the one that is previewed, what differs is drift.
func (e *Engine) Preview(ctx context.Context, req PreviewRequest) (Preview, error) {
	user, err := e.Cluster.As(req.App.Account())
	if err != nil {
		return Preview{}, err
	}
	unknown, err := e.prepare(req.App, req.Objects)
	if err != nil {
		return Preview{}, err
	}
	req.Objects, _ = withoutHooks(req.Objects)
	holds, _ := marks(req.Objects)
	toolkit, _, err := e.toolkit(ctx, req.App, req.Objects)
	if err != nil {
		return Preview{}, err
	}
	scaled, err := e.scaleTargets(ctx, req.Objects)
	if err != nil {
		return Preview{}, err
	}
	ignored, err := plan.Ignored(req.App.Ignore, req.Objects)
	if err != nil {
		return Preview{}, err
	}
	e.addUnknown(unknown, req.Inventory)
	there, err := e.look(ctx, req.Objects, req.Inventory)
	if err != nil {
		return Preview{}, err
	}
	in := plan.Input{
		Key: e.Key, App: req.App, Revision: req.Revision, Desired: req.Objects, Inventory: req.Inventory,
		Live: map[delivery.Ref]delivery.Live{}, Claims: map[delivery.Ref]delivery.ID{}, Scaled: scaled,
		Unknown: unknown, Holds: append(holds, toolkit...), Ignored: ignored, Present: map[delivery.Ref]bool{}, Now: req.Now,
	}
	for _, obj := range req.Objects {
		if owner, ok := e.Claims.Other(req.App.ID, obj.Ref()); ok {
			in.Claims[obj.Ref()] = owner
		}
	}
	for ref, u := range there {
		if e.OwnerOf(u.GetLabels()) == (delivery.ID{}) {
			in.Present[ref] = u.GetDeletionTimestamp() == nil
			continue // as for a controller, whose watches select by label: it is adopted by the first apply
		}
		if in.Live[ref], err = e.Live.Observe(u); err != nil {
			return Preview{}, err
		}
	}
	p := Preview{Plan: plan.Compute(in)}
	for i, stage := range p.Plan.Stages {
		changes := slices.Clone(stage.Changes)
		for j := range changes {
			if err := p.refine(ctx, e, user, req, there[changes[j].Ref], in.Live[changes[j].Ref].Rival, &changes[j]); err != nil {
				return p, err
			}
		}
		p.Plan.Stages[i].Changes = changes
	}
	if len(p.Plan.Blocks) > 0 {
		return p, nil
	}
	return p, e.authorize(ctx, req.App, p.Plan)
}

// refine puts the server's verdict about one change in the place of the plan's, which knows nothing of earlier deliveries.
func (p *Preview) refine(
	ctx context.Context, e *Engine, user *kube.User, req PreviewRequest, current *unstructured.Unstructured, rival string, c *delivery.Change,
) error {
	switch {
	case c.Verb == delivery.Delete:
		before, _ := shown(current, nil)
		p.Differences = append(p.Differences, Difference{Ref: c.Ref, Verb: c.Verb, Before: before})
		return nil
	case c.Object == nil:
		return nil
	}
	if current != nil && len(c.Ignored) > 0 {
		obj := withFieldsOf(*c.Object, current, c.Ignored)
		c.Object = &obj
	}
	d, err := e.difference(ctx, user, *c.Object, current, c.LeftToOthers()...)
	if err != nil && current != nil && c.Forced && apply.FitsAnew(ctx, user, *c.Object, err) {
		p.Differences = append(p.Differences, replacing(current, *c.Object))
		c.Verb, c.Reason = delivery.Replace, "the API server does not let it be changed like this"
		return nil
	}
	if err != nil {
		return err
	}
	_, owned := req.Inventory[c.Ref]
	again := req.Applied.Commit != "" && req.Applied == req.Revision // what differs is not Git's doing
	switch {
	case d.Verb == delivery.Unchanged:
		c.Verb, c.Reason, c.Object = delivery.Unchanged, "", nil
	case d.Verb == delivery.Create && owned && again:
		c.Verb, c.Reason = delivery.Repair, "deleted in the cluster"
	case d.Verb == delivery.Create:
		c.Verb = delivery.Create
	case !owned:
		c.Verb, c.Reason = delivery.Update, "new in Git, and there already: the app takes it over"
	case again && rival != "":
		c.Verb, c.Reason = delivery.Repair, "edited in the cluster by "+rival
	case again:
		c.Verb, c.Reason = delivery.Repair, "edited in the cluster"
	default:
		c.Verb, c.Reason = delivery.Update, "changed in Git, or edited in the cluster"
	}
	d.Verb = c.Verb
	p.Differences = append(p.Differences, d)
	return nil
}

// replacing is the difference of an object that is deleted and made anew.
func replacing(current *unstructured.Unstructured, obj delivery.Object) Difference {
	d := Difference{Ref: obj.Ref(), Verb: delivery.Replace}
	d.Before, d.After = shown(current, obj.Unstructured)
	return d
}

// atOnce bounds the requests of one look that are under way at once.
const atOnce = 16

// look reads what is there of objects and of an inventory, as the caller itself: reading is no business of the app's.
func (e *Engine) look(ctx context.Context, objects []delivery.Object, inv delivery.Inventory) (map[delivery.Ref]*unstructured.Unstructured, error) {
	all := make(delivery.Inventory, len(objects)+len(inv))
	for _, obj := range objects {
		all[obj.Ref()] = obj.GroupVersionKind().Version
	}
	var (
		mu     sync.Mutex
		failed error
		wg     sync.WaitGroup
		slots  = make(chan struct{}, atOnce)
		there  = map[delivery.Ref]*unstructured.Unstructured{}
	)
	for ref, version := range inv.Union(all) {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			u, err := e.Cluster.Self().Read(ctx, ref, version)
			mu.Lock()
			defer mu.Unlock()
			if u != nil {
				there[ref] = u
			}
			if err != nil && failed == nil {
				failed = err
			}
		})
	}
	wg.Wait()
	return there, failed
}
