package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const (
	manyHarmed   = 100 // objects, each in an app of its own
	manyRounds   = 5   // at most: every round takes fresh objects
	driftedValue = "edited by hand"
)

// harm is a number of ConfigMaps that somebody edits, and who puts them back.
type harm struct {
	world  *world
	wanted map[string]*unstructured.Unstructured                         // by name
	repair func(ctx context.Context, u *unstructured.Unstructured) error // nil: Keelson does
	watch  *observer
	marked int
}

// someHarm picks n objects of the fleet, each in another app. Keelson puts off a repair that is asked for again and again, so
// each object is taken once, as long as there are any.
func (w *world) someHarm(n int) *harm {
	h := &harm{world: w, wanted: map[string]*unstructured.Unstructured{}}
	for range n {
		i := w.harmed % w.fleet.apps
		w.harmed++
		for _, it := range w.fleet.items(i, "") {
			if it.object.GetName() == w.fleet.config(i, 2) {
				h.wanted[it.object.GetName()] = it.object
			}
		}
	}
	return h
}

// bareHarm makes n objects that nobody delivers and that this program puts back.
func (w *world) bareHarm(ctx context.Context, n int) (*harm, error) {
	h := &harm{world: w, wanted: map[string]*unstructured.Unstructured{}}
	h.repair = func(ctx context.Context, u *unstructured.Unstructured) error { return w.apply(ctx, configMaps, u) }
	for i := range n {
		o := w.fleet.items(i, "")[2].object
		o.SetName(fmt.Sprintf("floor-%04d", i))
		o.SetLabels(nil)
		h.wanted[o.GetName()] = o
		if err := h.repair(ctx, o); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// open starts the watch that sees what becomes of the objects.
func (h *harm) open(ctx context.Context) (err error) {
	if h.watch, err = h.world.observe(ctx, configMaps, ""); err == nil {
		h.marked = h.watch.mark()
	}
	return err
}

// inflict edits all objects at once.
func (h *harm) inflict(ctx context.Context) error {
	objects := slices.Collect(maps.Values(h.wanted))
	return each(ctx, len(objects), len(objects), func(ctx context.Context, i int) error {
		return h.world.patch(ctx, configMaps, objects[i].GetNamespace(), objects[i].GetName(), `{"data":{"value":"`+driftedValue+`"}}`)
	})
}

// mended waits until every object has been seen edited and then whole again, and gives the time of the last one.
func (h *harm) mended(ctx context.Context) (last time.Time, err error) {
	edited, whole := map[string]bool{}, map[string]bool{}
	failed := make(chan error, len(h.wanted))
	for mark := h.marked; len(whole) < len(h.wanted); {
		var e event
		e, mark, err = h.watch.awaitFor(ctx, fleetLimit, mark, fmt.Sprintf("repair of %d objects", len(h.wanted)-len(whole)), func(e event) bool {
			return h.wanted[e.object.GetName()] != nil
		})
		if err != nil {
			return last, err
		}
		name := e.object.GetName()
		switch {
		case valueOf(e.object) == driftedValue && !edited[name]:
			edited[name] = true
			if h.repair != nil {
				go func() { failed <- h.repair(ctx, h.wanted[name]) }()
			}
		case valueOf(e.object) == valueOf(h.wanted[name]) && edited[name]:
			whole[name], last = true, e.at
		}
	}
	if h.repair != nil {
		for range h.wanted {
			err = errors.Join(err, <-failed)
		}
	}
	return last, err
}

// round harms and waits, and gives the time from the first edit's start to the last repair.
func (h *harm) round(ctx context.Context) (time.Duration, error) {
	if err := h.open(ctx); err != nil {
		return 0, err
	}
	defer h.watch.stop()
	if err := h.world.rest(ctx); err != nil {
		return 0, err
	}
	edits := make(chan error, 1)
	start := time.Now()
	go func() { edits <- h.inflict(ctx) }()
	last, err := h.mended(ctx)
	return last.Sub(start), errors.Join(err, <-edits)
}

// driftRound is how many objects are edited at once, and how often.
type driftRound struct {
	name    string
	objects int
	rounds  int
	limit   float64 // ms
}

func driftRounds(b *bench, w *world) []driftRound {
	return []driftRound{
		{"fleet-drift-1", 1, b.runs, 60},
		{"fleet-drift-100", min(manyHarmed, w.fleet.apps), min(b.runs, manyRounds), 1000},
	}
}

// measureFleetDrift edits one object, and a hundred at once in as many apps. Beside each round this program puts back as many
// objects that nobody delivers, as soon as its watch sees that they were edited.
func (b *bench) measureFleetDrift(ctx context.Context) error {
	w, err := b.theFleet(ctx)
	if err != nil {
		return err
	}
	for _, c := range driftRounds(b, w) {
		var took, floor []float64
		for round := range c.rounds + 1 {
			t, err := w.someHarm(c.objects).round(ctx)
			if err != nil {
				return fmt.Errorf("%s, round %d: %w", c.name, round, err)
			}
			bare, err := w.bareHarm(ctx, c.objects)
			if err != nil {
				return err
			}
			f, err := bare.round(ctx)
			if err != nil {
				return fmt.Errorf("%s, floor, round %d: %w", c.name, round, err)
			}
			if round > 0 { // the first warms up
				took, floor = append(took, milliseconds(t)), append(floor, milliseconds(f))
			}
		}
		err := errors.Join(
			b.add(Result{Name: c.name, Unit: "ms", Target: target(c.limit), Floor: c.name + "-floor",
				What: fmt.Sprintf("edits of %d ConfigMaps in as many of %d apps: start of the first to the last repair seen by a watch", c.objects, w.fleet.apps)}, took),
			b.add(Result{Name: c.name + "-floor", Unit: "ms",
				What: "the same with objects that this program puts back by one server-side apply each as soon as its watch sees the edit"}, floor),
		)
		if err != nil {
			return err
		}
	}
	return nil
}
