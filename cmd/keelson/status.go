package main

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/web"
)

// clusterLister reads apps and sources from the cluster, for the dashboard and for keelson get.
type clusterLister struct {
	client    client.Reader
	namespace string // empty: all
}

// Apps implements web.Lister.
func (l clusterLister) Apps(ctx context.Context) ([]web.App, error) {
	all, err := allApps(ctx, l.client, client.InNamespace(l.namespace))
	if err != nil {
		return nil, err
	}
	apps := make([]web.App, len(all))
	for i, app := range all {
		apps[i] = app.shown()
	}
	slices.SortStableFunc(apps, func(a, b web.App) int { return byName(a.Status, b.Status) })
	return apps, nil
}

// Sources implements web.Lister.
func (l clusterLister) Sources(ctx context.Context) ([]web.Source, error) {
	list, err := allSources(ctx, l.client, client.InNamespace(l.namespace))
	if err != nil {
		return nil, err
	}
	sources := make([]web.Source, len(list))
	for i, obj := range list {
		sources[i] = sourceOf(obj)
	}
	slices.SortFunc(sources, func(a, b web.Source) int { return byName(a.Status, b.Status) })
	return sources, nil
}

func byName(a, b web.Status) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func appOf(k *kustomizev1.Kustomization) web.App {
	app := web.App{
		Status: statusOf(kustomizev1.KustomizationKind, k, k.Spec.Suspend, k.Status.ObservedGeneration, k.Status.Conditions),
		Source: k.Spec.SourceRef.Kind + "/" + cmp.Or(k.Spec.SourceRef.Namespace, k.Namespace) + "/" + k.Spec.SourceRef.Name,
		Path:   cmp.Or(strings.TrimPrefix(k.Spec.Path, "./"), "."),
	}
	app.Revision = k.Status.LastAppliedRevision
	if k.Status.Inventory != nil {
		app.Objects = len(k.Status.Inventory.Entries)
	}
	return placed(app, k, k.Spec.TargetNamespace)
}

// placed completes an app by where it belongs: target is the namespace that it is delivered to, empty if it does not say.
func placed(app web.App, obj client.Object, target string) web.App {
	app.ID = web.AppID(app.Kind, app.Namespace, app.Name)
	app.Environment = delivery.EnvironmentOf(obj.GetLabels(), target, app.Namespace)
	app.App = web.AppName(obj.GetLabels(), app.Name, app.Environment, app.Source)
	if r := delivery.ParseRevision(app.Revision); !r.Archive() && isCommit(r.Commit) {
		app.SHA = r.Commit
	}
	return app
}

func statusOf(kind string, obj client.Object, suspended bool, observed int64, conditions []metav1.Condition) web.Status {
	s := web.Status{
		Kind: kind, Namespace: obj.GetNamespace(), Name: obj.GetName(), State: web.Unknown,
		Created: obj.GetCreationTimestamp().UTC(),
	}
	if ready := meta.FindStatusCondition(conditions, fluxmeta.ReadyCondition); ready != nil {
		s.Reason, s.Message, s.Since = ready.Reason, redact.Text(ready.Message), ready.LastTransitionTime.UTC()
		switch {
		case ready.Status == metav1.ConditionFalse:
			s.State = web.Failing
		case ready.Status == metav1.ConditionTrue && observed == obj.GetGeneration():
			s.State = web.Ready
		default:
			s.State = web.Working
		}
	}
	if suspended {
		s.State = web.Suspended
	}
	if c := meta.FindStatusCondition(conditions, dialect.IgnoredCondition); c != nil && c.Status == metav1.ConditionTrue {
		s.Warnings = append(s.Warnings, redact.Text(c.Message))
	}
	return s
}

// ageOf is how long ago t was, as kubectl writes it.
func ageOf(t time.Time) string { return ageAt(t, time.Now()) }

func ageAt(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return duration.HumanDuration(now.Sub(t))
}
