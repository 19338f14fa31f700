package release

import (
	"maps"
	"reflect"
	"slices"

	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
)

// Changed is an object whose manifest an action has changed. Of one that is new there is no Before, and of one that is gone no After.
type Changed struct {
	Ref           delivery.Ref
	Before, After *unstructured.Unstructured
}

// witnessed tells whether an action changes what a release has.
func (a Action) witnessed() bool {
	return a == Install || a == Upgrade || a == TakeOver || a == Rollback || a == Uninstall
}

// deployed is the manifest of the version that is deployed; empty: there is none, or it cannot be read, which the action itself tells.
func (r *run) deployed() string {
	found, err := r.cfg.Releases.Deployed(r.d.Target.Name)
	if err != nil {
		return ""
	}
	if rel, ok := found.(*releasev1.Release); ok {
		return rel.Manifest
	}
	return ""
}

// compared gives the objects whose manifests differ, in the order of their names. What cannot be read has nothing to tell.
func (r *run) compared(before, after string) []Changed {
	was, err := r.objectsOf(before)
	if err != nil {
		return nil
	}
	is, err := r.objectsOf(after)
	if err != nil {
		return nil
	}
	all := map[delivery.Ref]Changed{}
	for _, o := range was {
		all[o.Ref()] = Changed{Ref: o.Ref(), Before: o.Unstructured}
	}
	for _, o := range is {
		c := all[o.Ref()]
		c.Ref, c.After = o.Ref(), o.Unstructured
		all[o.Ref()] = c
	}
	out := slices.DeleteFunc(slices.Collect(maps.Values(all)), func(c Changed) bool {
		return c.Before != nil && c.After != nil && reflect.DeepEqual(c.Before.Object, c.After.Object)
	})
	slices.SortFunc(out, func(a, b Changed) int { return a.Ref.Compare(b.Ref) })
	return out
}
