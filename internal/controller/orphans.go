package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

// orphansEvery is how often it is looked for objects that no app owns, where a project wants to be warned of them: no watch tells of
// what is nobody's.
const orphansEvery = 3 * time.Minute

// orphans warns of objects in the app's namespace that no app owns, where its project asks for that. What cannot be looked at is no
// fault of the app's.
func (a *applications) orphans(ctx context.Context, p *applicationPass) {
	monitor, namespace := p.declared.Orphans, p.app.Namespace
	if monitor == nil || !monitor.Warn || namespace == "" {
		p.st.orphansAt = time.Time{}
		return
	}
	if now := a.now(); now.Sub(p.st.orphansAt) >= orphansEvery {
		objects, more, err := p.st.target.engine.Cluster.InNamespace(ctx, namespace)
		if err != nil {
			a.log.Warn("look for orphaned resources", "app", p.app.ID, "error", err)
		}
		p.st.orphansAt, p.st.orphaned = now, orphaned(objects, *monitor)
		if more {
			p.st.orphaned += " (there are too many objects to look at all)"
		}
	}
	p.sooner(p.st.orphansAt.Add(orphansEvery).Sub(a.now()))
	if p.st.orphaned != "" {
		p.warn(argocdv1.ConditionOrphanedResourceWarning, p.st.orphaned)
	}
}

// orphaned gives the warning about those of some objects that no app owns and no other object has made; empty: all are somebody's.
func orphaned(objects []metav1.PartialObjectMetadata, monitor dialect.ArgoOrphans) string {
	var names []string
	for i := range objects {
		o := &objects[i]
		gvk := o.GroupVersionKind()
		ref := delivery.Ref{Group: gvk.Group, Kind: gvk.Kind, Namespace: o.Namespace, Name: o.Name}
		owned := slices.ContainsFunc([]delivery.ID{
			dialect.ArgoOwner(o.Labels), dialect.FluxOwner(o.Labels), dialect.HelmOwner(o.Labels), dialect.LocalOwner(o.Labels),
		}, func(id delivery.ID) bool { return id != delivery.ID{} })
		if !owned && len(o.OwnerReferences) == 0 && !monitor.Ignores(ref) {
			names = append(names, ref.String())
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	text := fmt.Sprintf("Application has %d orphaned resources", len(names))
	for i, name := range names[:min(len(names), maxNamed)] {
		if i == 0 {
			text += ": " + name
			continue
		}
		text += ", " + name
	}
	return text
}
