package deliver

import (
	"context"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/live"
	"keelson.dev/keelson/internal/plan"
)

// Fields that are left to others (spec.ignore) are part of what is sent for an object that is not there. For one that is there,
// what is sent has to keep what others made of them, which only the object itself tells. So it is read, but only when something
// is to be sent, or when something of ours has changed and it might be nothing else.

// forgive finds out which of the objects that are not as they were left differ in nothing but fields that are left to others,
// and remembers them as they are now. It gives the records that it judged by: the plan is to see the same, whatever was written
// meanwhile; that wakes the app again.
func (e *Engine) forgive(ctx context.Context, ignored map[delivery.Ref]ignoring, mem *Memory) (map[delivery.Ref]delivery.Live, error) {
	seen := map[delivery.Ref]delivery.Live{}
	for ref, ig := range ignored {
		last, sent := mem.applied[ref]
		rec, there := e.Live.Get(ref)
		if there {
			seen[ref] = rec
		}
		if !sent || !there || last.Owned == rec.Owned || last.Kept == (delivery.Hash{}) {
			continue
		}
		current, err := e.Cluster.Self().Read(ctx, ref, rec.Version)
		if err != nil || current == nil {
			return seen, err // what is gone tells so by an event
		}
		fields, err := ig.fields(ctx, current)
		if err != nil {
			return seen, err
		}
		kept, err := e.Live.Kept(current, fields)
		if err != nil || kept != last.Kept {
			continue
		}
		if rec, err = e.Live.Observe(current); err != nil {
			return seen, err
		}
		seen[ref], last.Owned = rec, rec.Owned
		mem.applied[ref], mem.unsaved = last, true
	}
	return seen, nil
}

// reads bounds the objects that are read at once.
const reads = 16

// leaveFields gives a stage with the fields of its objects that are left to others as they are in the cluster.
func (e *Engine) leaveFields(ctx context.Context, stage delivery.Stage, ignored map[delivery.Ref]ignoring) (delivery.Stage, error) {
	stage.Changes = slices.Clone(stage.Changes)
	slots, errs := make(chan struct{}, reads), make([]error, len(stage.Changes))
	var wg sync.WaitGroup
	for i := range stage.Changes {
		c := &stage.Changes[i]
		ig := ignored[c.Ref]
		dynamic := ig.respect && len(ig.jq)+len(ig.managers) > 0
		if c.Object == nil || c.DryRun || c.Moment != "" || !dynamic && !e.mayDiffer(*c) {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			current, err := e.Cluster.Self().Read(ctx, c.Ref, c.Version)
			if err == nil && current != nil && dynamic {
				c.Ignored, err = ig.fields(ctx, current)
			}
			if errs[i] = err; err == nil && current != nil {
				obj := withFieldsOf(*c.Object, current, c.Ignored)
				c.Object = &obj
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return stage, err
		}
	}
	return stage, nil
}

// mayDiffer tells whether there is any field in an object, in Git or in the cluster, that is left to others.
func (e *Engine) mayDiffer(c delivery.Change) bool {
	if len(c.Ignored) == 0 {
		return false
	}
	if _, there := e.Live.Get(c.Ref); there {
		return true
	}
	return slices.ContainsFunc(c.Ignored, func(p delivery.Pointer) bool {
		_, ok := p.Lookup(c.Object.Object)
		return ok
	})
}

// withFieldsOf gives obj with some fields as they are in the cluster. A field that another manager applies is left out, so that
// it is that one's alone; one that we alone apply keeps the value that it has, since to leave it out would remove it (Flux:
// Kustomization API, "Ignore rules").
func withFieldsOf(obj delivery.Object, current *unstructured.Unstructured, fields []delivery.Pointer) delivery.Object {
	obj.Unstructured = obj.DeepCopy()
	for _, field := range fields {
		want, wanted := field.Lookup(obj.Object)
		have, there := field.Lookup(current.Object)
		if wanted && there && plan.States(have, want) {
			continue
		}
		ours, others := live.AppliedBy(current, field)
		if others || !there {
			if wanted {
				field.Remove(obj.Object)
			}
			continue
		}
		if wanted || ours {
			field.Set(obj.Object, have)
		}
	}
	return obj
}

// leavesReplicas tells whether spec.replicas is left to others.
func leavesReplicas(fields []delivery.Pointer) bool {
	return slices.ContainsFunc(fields, func(p delivery.Pointer) bool { return slices.Equal(p, delivery.Pointer{"spec", "replicas"}) })
}
