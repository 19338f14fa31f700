package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/yaml"
)

const driftName = "bench-drift" // repository, app and namespace

// drift is one way in which somebody changes what Git says.
type drift struct {
	name, what string
	resource   schema.GroupVersionResource
	object     func(name string) *unstructured.Unstructured
	harm       func(ctx context.Context, c client, name string) error
	harmed     func(event) bool
	whole      func(event) bool // it is again as it was
}

func drifts() []drift {
	const wanted = "as Git has it"
	value := func(name string) *unstructured.Unstructured { return configMap(driftName, name, wanted) }
	return []drift{{
		name: "drift-delete", what: "delete of a ConfigMap", resource: configMaps, object: value,
		harm: func(ctx context.Context, c client, name string) error {
			return c.remove(ctx, configMaps, driftName, name)
		},
		harmed: func(e event) bool { return e.verb == watch.Deleted },
		whole:  func(e event) bool { return e.verb == watch.Added && valueOf(e.object) == wanted },
	}, {
		name: "drift-edit", what: "edit of a field of a ConfigMap", resource: configMaps, object: value,
		harm: func(ctx context.Context, c client, name string) error {
			return c.patch(ctx, configMaps, driftName, name, `{"data":{"value":"edited"}}`)
		},
		harmed: func(e event) bool { return valueOf(e.object) == "edited" },
		whole:  func(e event) bool { return valueOf(e.object) == wanted },
	}, {
		name: "drift-scale", what: "scale of a Deployment", resource: deployments,
		object: func(name string) *unstructured.Unstructured {
			return deployment(driftName, name, "registry.example/app:1")
		},
		harm: func(ctx context.Context, c client, name string) error {
			return c.patch(ctx, deployments, driftName, name, `{"spec":{"replicas":2}}`)
		},
		harmed: func(e event) bool { return replicasOf(e.object) == 2 },
		whole:  func(e event) bool { return replicasOf(e.object) == 1 },
	}}
}

// object names of one drift: a fresh one for each sample, since repairs of one object that follow each other closely
// are made less and less often.
func (d drift) objectName(i int) string { return fmt.Sprintf("%s-%02d", d.name, i) }

// measureDrift changes objects behind Keelson's back. Beside each one, an object that nobody delivers is changed in the
// same way and put back by this program's own watch: the floor for anything that repairs by watching.
func (b *bench) measureDrift(ctx context.Context) error {
	in, err := b.instance(ctx)
	if err != nil {
		return err
	}
	files := map[string]string{}
	for _, d := range drifts() {
		for i := range b.runs + 1 {
			y, err := yaml.Marshal(d.object(d.objectName(i)).Object)
			if err != nil {
				return err
			}
			files[d.objectName(i)+".yaml"] = string(y)
		}
	}
	if _, err := b.declare(ctx, in, driftName, files); err != nil {
		return err
	}
	for _, d := range drifts() {
		if err := b.driftRounds(ctx, in, d); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	return nil
}

func (b *bench) driftRounds(ctx context.Context, in *instance, d drift) error {
	o, err := in.observe(ctx, d.resource, driftName)
	if err != nil {
		return err
	}
	defer o.stop()
	bare := d.object(d.name + "-floor")
	repair := func() error { return in.apply(ctx, d.resource, bare) }
	mark := o.mark()
	if err := repair(); err != nil {
		return err
	}
	if _, _, err := o.await(ctx, mark, bare.GetName(), d.of(bare.GetName(), d.whole)); err != nil {
		return err
	}
	var whole, reaction, floor []float64
	for i := range b.runs + 1 {
		if err := pause(ctx, settle); err != nil {
			return err
		}
		started, seen, repaired, err := d.round(ctx, in, o, d.objectName(i), nil)
		if err != nil {
			return err
		}
		if err := pause(ctx, settle); err != nil {
			return err
		}
		bareStarted, _, bareRepaired, err := d.round(ctx, in, o, bare.GetName(), repair)
		if err != nil {
			return err
		}
		if i == 0 {
			continue // to warm up
		}
		whole = append(whole, milliseconds(repaired.Sub(started)))
		reaction = append(reaction, milliseconds(repaired.Sub(seen)))
		floor = append(floor, milliseconds(bareRepaired.Sub(bareStarted)))
	}
	return errors.Join(
		b.add(Result{Name: d.name, Unit: "ms", Target: target(60), Floor: d.name + "-floor",
			What: d.what + ", from the start of that request to the repair seen by a watch"}, whole),
		b.add(Result{Name: d.name + "-seen", Unit: "ms", What: "the drift seen by a watch to the repair seen by the same watch"}, reaction),
		b.add(Result{Name: d.name + "-floor", Unit: "ms",
			What: "the same with an object that this program puts back by one server-side apply as soon as its watch sees the drift"}, floor),
	)
}

// round does harm to an object and waits until it is whole again. repair, if given, is called as soon as the harm is seen.
func (d drift) round(ctx context.Context, in *instance, o *observer, name string, repair func() error) (started, seen, repaired time.Time, err error) {
	mark := o.mark()
	started = time.Now()
	if err = d.harm(ctx, in.client, name); err != nil {
		return
	}
	harmed, mark, err := o.await(ctx, mark, "drift of "+name, d.of(name, d.harmed))
	if err != nil {
		return
	}
	if repair != nil {
		if err = repair(); err != nil {
			return
		}
	}
	whole, _, err := o.await(ctx, mark, "repair of "+name, d.of(name, d.whole))
	return started, harmed.at, whole.at, err
}

func (d drift) of(name string, match func(event) bool) func(event) bool {
	return func(e event) bool { return e.object.GetName() == name && match(e) }
}
