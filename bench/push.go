package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// settle is the pause between two samples.
const settle = 300 * time.Millisecond

// change is a one-object change that is pushed again and again, each time with another value.
type change struct {
	name         string // of the results
	what         string
	repo         *repo
	appNamespace string
	apps         []string // that get a new revision by the push
	edit         func(value string) error
	announce     func(context.Context) error // tells Keelson of a push, where the Git host does not; nil: it does
	target, tail *float64                    // milliseconds: median and p95 of end of push to live

	resource  schema.GroupVersionResource
	namespace string
	object    string // its name
	valueOf   func(*unstructured.Unstructured) string
	values    func(round int) string
	bare      func(value string) *unstructured.Unstructured // an object of the same kind that nobody delivers
}

// measurePush pushes to a repository of one app with one object.
func (b *bench) measurePush(ctx context.Context) error {
	in, err := b.instance(ctx)
	if err != nil {
		return err
	}
	const name = "bench-push"
	first, err := page(name, "first")
	if err != nil {
		return err
	}
	r, err := b.declare(ctx, in, name, first)
	if err != nil {
		return err
	}
	c := pageChange(name, r)
	c.name, c.what = "push", "one ConfigMap in a repository of one app"
	c.target, c.tail = target(60), target(150)
	return b.pushRounds(ctx, in, c)
}

// page is the content of a repository of one ConfigMap.
func page(namespace, value string) (map[string]string, error) {
	y, err := yaml.Marshal(configMap(namespace, "page", value).Object)
	return map[string]string{"page.yaml": string(y)}, err
}

// pageChange changes the ConfigMap in a repository that has nothing else, whose app and namespace have one name.
func pageChange(name string, r *repo) change {
	return change{
		repo: r, appNamespace: name, apps: []string{name},
		edit: func(value string) error {
			f, err := page(name, value)
			return errors.Join(err, r.write(f))
		},
		resource: configMaps, namespace: name, object: "page", valueOf: valueOf,
		values: func(round int) string { return fmt.Sprintf("round %d", round) },
		bare:   func(value string) *unstructured.Unstructured { return configMap(name, "floor", value) },
	}
}

var backendTag = regexp.MustCompile(`newTag: 6\.9\.\d+`)

// measurePushSample changes a version in the sample's dev overlay; the push gives all five apps a new revision.
func (b *bench) measurePushSample(ctx context.Context) error {
	in, err := b.instance(ctx)
	if err != nil {
		return err
	}
	r, err := b.clone(ctx, in, "sample")
	if err != nil {
		return err
	}
	const image = "ghcr.io/stefanprodan/podinfo"
	const file = "overlays/dev/kustomization.yaml"
	return b.pushRounds(ctx, in, change{
		name: "push-sample", what: "the backend's tag in the dev overlay of the sample, of whose five apps one changes",
		target: target(60), tail: target(150),
		repo: r, appNamespace: "flux-system", apps: []string{"cluster", "infrastructure", "dev", "staging", "production"},
		edit: func(value string) error {
			text, err := os.ReadFile(filepath.Join(r.dir, file))
			if err != nil {
				return err
			}
			if len(backendTag.FindAll(text, -1)) != 1 {
				return fmt.Errorf("%s: it does not have %s exactly once", file, backendTag)
			}
			return r.write(map[string]string{file: string(backendTag.ReplaceAll(text, []byte("newTag: "+value)))})
		},
		resource: deployments, namespace: "dev", object: "backend",
		valueOf: func(u *unstructured.Unstructured) string {
			return regexp.MustCompile(`^`+regexp.QuoteMeta(image)+`:`).ReplaceAllString(imageOf(u), "")
		},
		values: func(round int) string { return fmt.Sprintf("6.9.%d", 100+round) },
		bare:   func(value string) *unstructured.Unstructured { return deployment("dev", "floor", image+":"+value) },
	})
}

// pushTimes are the samples of a change, in milliseconds.
type pushTimes struct{ end, start, client, ready, floor []float64 }

// pushRounds pushes a change runs times, after one push to warm up, and measures the bare apply of the same change in
// between, so that both see the same machine.
func (b *bench) pushRounds(ctx context.Context, in *instance, c change) error {
	objects, err := in.observe(ctx, c.resource, c.namespace)
	if err != nil {
		return err
	}
	defer objects.stop()
	apps, err := in.observe(ctx, kustomizations, c.appNamespace)
	if err != nil {
		return err
	}
	defer apps.stop()
	var t, warm pushTimes
	for round := range b.runs + 1 {
		to := &t
		if round == 0 {
			to = &warm
		}
		if err := c.round(ctx, in, c.values(round), objects, apps, to); err != nil {
			return fmt.Errorf("push %d: %w", round, err)
		}
	}
	return errors.Join(
		b.add(Result{Name: c.name, Unit: "ms", Target: c.target, Tail: c.tail, Floor: c.name + "-floor",
			What: "end of git push to the change seen by a watch: " + c.what}, t.end),
		b.add(Result{Name: c.name + "-start", Unit: "ms", Floor: c.name + "-floor",
			What: "start of git push to the change seen by a watch"}, t.start),
		b.add(Result{Name: c.name + "-client", Unit: "ms", What: "start to end of git push"}, t.client),
		b.add(Result{Name: c.name + "-ready", Unit: "ms", What: "end of git push to all apps of the repository ready at the commit"}, t.ready),
		b.add(Result{Name: c.name + "-floor", Unit: "ms",
			What: "start of one bare server-side apply of the same change to the change seen by the same watch"}, t.floor),
	)
}

func (c change) round(ctx context.Context, in *instance, value string, objects, apps *observer, t *pushTimes) error {
	if err := c.edit(value); err != nil {
		return err
	}
	commit, err := c.repo.commit(ctx, "Set "+value)
	if err != nil {
		return err
	}
	seen := func(name string) func(event) bool {
		return func(e event) bool { return e.object.GetName() == name && c.valueOf(e.object) == value }
	}
	mark, appMark := objects.mark(), apps.mark()
	start, end, err := c.repo.push(ctx)
	if err != nil {
		return err
	}
	if c.announce != nil {
		if err := c.announce(ctx); err != nil {
			return err
		}
	}
	live, _, err := objects.await(ctx, mark, c.object+" = "+value, seen(c.object))
	if err != nil {
		return err
	}
	ready := live.at
	for _, app := range c.apps {
		e, _, err := apps.await(ctx, appMark, app+" ready at "+commit, func(e event) bool {
			return e.object.GetName() == app && readyAt(e.object, commit)
		})
		if err != nil {
			return err
		}
		if e.at.After(ready) {
			ready = e.at
		}
	}
	if err := pause(ctx, settle); err != nil {
		return err
	}
	bare := c.bare(value)
	mark = objects.mark()
	applied := time.Now()
	if err := in.apply(ctx, c.resource, bare); err != nil {
		return err
	}
	floor, _, err := objects.await(ctx, mark, bare.GetName()+" = "+value, seen(bare.GetName()))
	if err != nil {
		return err
	}
	t.end = append(t.end, milliseconds(live.at.Sub(end)))
	t.start = append(t.start, milliseconds(live.at.Sub(start)))
	t.client = append(t.client, milliseconds(end.Sub(start)))
	t.ready = append(t.ready, milliseconds(ready.Sub(end)))
	t.floor = append(t.floor, milliseconds(floor.at.Sub(applied)))
	return pause(ctx, settle)
}
