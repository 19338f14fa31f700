package release

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/action"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage/driver"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

// Rendered is what an install or upgrade would make, beside what there is.
type Rendered struct {
	Version int // of the newest version in the storage; zero: there is none
	// Was and Will are the objects of the newest version's manifest, and those that an upgrade, or install, would make, in Helm's order.
	Was, Will []delivery.Object
	Hooks     []delivery.Object
	Notes     string
}

// Render tells what an install or upgrade would make of a release, without making it. The server is asked as little as for the action, and
// nothing is written.
func (e *Engine) Render(ctx context.Context, req Request) (Rendered, error) {
	r, err := e.newRun(ctx, req, Decision{Action: Upgrade})
	if err != nil {
		return Rendered{}, err
	}
	out, err := r.render()
	if err != nil {
		return Rendered{}, r.fault(err)
	}
	return out, nil
}

// Kept tells what a release has, and what it would have after a rollback to a version that its storage keeps. Nothing is rendered or written.
func (e *Engine) Kept(ctx context.Context, app delivery.App, version int) (Rendered, error) {
	r, err := e.newRun(ctx, Request{Want: Want{App: app}}, Decision{Action: Upgrade})
	if err != nil {
		return Rendered{}, err
	}
	last, err := r.newest()
	if err != nil {
		return Rendered{}, err
	}
	out := Rendered{Version: last.Version}
	found, err := r.cfg.Releases.Get(r.d.Target.Name, version)
	if err != nil {
		return out, fmt.Errorf("read version %d of release %s: %w", version, r.d.Target, err)
	}
	then, err := asRelease(found)
	if err != nil {
		return out, err
	}
	if out.Was, err = r.objectsOf(last.Manifest); err != nil {
		return out, err
	}
	out.Will, err = r.objectsOf(then.Manifest)
	return out, err
}

func (r *run) render() (Rendered, error) {
	var out Rendered
	last, err := r.newest()
	var would *releasev1.Release
	switch {
	case errors.Is(err, driver.ErrReleaseNotFound) || err == nil && last.Info.Status.String() == statusUninstalled:
		would, err = r.wouldInstall()
	case err == nil:
		out.Version = last.Version
		if out.Was, err = r.objectsOf(last.Manifest); err == nil {
			would, err = r.upgraded(true)
		}
	}
	if err != nil {
		return out, err
	}
	out.Notes = would.Info.Notes
	if out.Will, err = r.objectsOf(would.Manifest); err != nil {
		return out, err
	}
	for _, h := range would.Hooks {
		objects, err := r.objectsOf(h.Manifest)
		if err != nil {
			return out, err
		}
		for i := range objects {
			objects[i].Origin = inChart(h.Path)
		}
		out.Hooks = append(out.Hooks, objects...)
	}
	return out, nil
}

// wouldInstall renders an install.
func (r *run) wouldInstall() (*releasev1.Release, error) {
	if err := r.prepare(delivery.SkipCRDs); err != nil {
		return nil, err
	}
	i := action.NewInstall(r.cfg)
	i.ReleaseName, i.Namespace = r.d.Target.Name, r.d.Target.Namespace
	i.SkipCRDs, i.TakeOwnership, i.SkipSchemaValidation = true, true, r.rel.Install.NoSchema
	i.DryRunStrategy = action.DryRunServer
	i.PostRenderer, i.PostRenderStrategy = postRender{r.app}, renderStrategy(r.rel.HookRendering)
	var out *releasev1.Release
	err := r.rendering(func(ctx context.Context) error {
		made, err := i.RunWithContext(ctx, r.chart, r.values())
		out = releaseOf(made)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// objectsOf reads a manifest; objects that name no namespace get the release's where their kind has namespaces.
func (r *run) objectsOf(manifest string) ([]delivery.Object, error) {
	objects, err := readManifest(strings.NewReader(manifest))
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		if _, err := r.client.info(o); err != nil {
			continue // a kind that is not known, or not any more, has the namespace that it names
		}
	}
	return objects, nil
}

// sameRelease tells whether two versions have the same objects and hooks. The origin labels do not count: who else made the release did
// not set them.
func sameRelease(a, b *releasev1.Release) (bool, error) {
	x, err := comparable(a.Manifest)
	if err != nil {
		return false, err
	}
	y, err := comparable(b.Manifest)
	if err != nil {
		return false, err
	}
	hooks := func(rel *releasev1.Release) (string, error) {
		var all []string
		for _, h := range rel.Hooks {
			all = append(all, h.Manifest)
		}
		slices.Sort(all)
		return strings.Join(all, "\n---\n"), nil
	}
	ha, _ := hooks(a)
	hb, _ := hooks(b)
	hx, err := comparable(ha)
	if err != nil {
		return false, err
	}
	hy, err := comparable(hb)
	if err != nil {
		return false, err
	}
	return reflect.DeepEqual(x, y) && reflect.DeepEqual(hx, hy), nil
}

// comparable is a manifest's objects by their refs, without origin labels.
func comparable(manifest string) (map[delivery.Ref]any, error) {
	objects, err := readManifest(strings.NewReader(manifest))
	if err != nil {
		return nil, err
	}
	out := map[delivery.Ref]any{}
	for _, o := range objects {
		labels := o.GetLabels()
		for label := range dialect.HelmLabels(delivery.ID{}) {
			delete(labels, label)
		}
		o.SetLabels(labels)
		if len(o.GetLabels()) == 0 {
			if m, ok := o.Object["metadata"].(map[string]any); ok {
				delete(m, "labels")
			}
		}
		out[o.Ref()] = o.Object
	}
	return out, nil
}
