package plan

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/delivery"
)

// holders are kinds whose deletion takes with it what no commit brings back: data, or everything inside.
var holders = map[schema.GroupKind]bool{
	{Kind: "Namespace"}:             true,
	{Kind: "PersistentVolumeClaim"}: true,
	{Kind: "PersistentVolume"}:      true,
	{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: true,
}

// Forced tells whether an object may be deleted and made anew for a change that the server never allows: where the app says so
// or the object itself, in Git or in the cluster. For what holds data, or is marked to survive pruning, only the object's own word
// counts.
func Forced(app delivery.App, obj delivery.Object, live delivery.Marks) bool {
	if obj.Asks.Has(delivery.MarkForce) || live.Has(delivery.MarkForce) {
		return true
	}
	return app.Force && !holders[obj.Ref().GroupKind()] && !live.Has(delivery.MarkKeep) && !obj.Asks.Has(delivery.MarkKeep)
}

// replaceHint tells how a change that the server never allows is made all the same.
func replaceHint(app delivery.App) string {
	if app.Sync != nil {
		return "restore the field in Git, or give the object a new name, or annotate it with argocd.argoproj.io/sync-options: Force=true so that it is deleted and made anew"
	}
	hint := "restore the field in Git, or give the object a new name, or annotate it with kustomize.toolkit.fluxcd.io/force: enabled " +
		"so that it is deleted and made anew"
	if app.Force {
		hint += "; spec.force does not do that to what holds data"
	}
	return hint
}

// replacement decides whether an object that is there has to be deleted and made anew: where the server has refused it for that
// reason, and only there. What is known of fixed fields (fixedFields) forbids and never deletes, since the server or a webhook may
// have made of a field something else than Git states. An object that was made anew again and again waits: verb is Paused then.
// Empty: it need not be, or may not.
func replacement(in Input, obj delivery.Object, live delivery.Live, desired delivery.Hash) (verb delivery.Verb, reason string) {
	ref := obj.Ref()
	refused := in.Refused[ref]
	if live.Deleting || !refused.Immutable || refused.Desired != desired || !Forced(in.App, obj, live.Marks) {
		return "", ""
	}
	reason = "the API server does not let it be changed"
	if path, was, wants, changed := changedFixed(obj.Unstructured, live.Fixed); changed {
		reason = fmt.Sprintf("%s cannot be changed from %s to %s", path, was, wants)
	}
	if at := in.NotBefore[ref]; in.Now.Before(at) {
		return delivery.Paused, fmt.Sprintf("%s; it has been made anew too often of late, next try at %s", reason, at.UTC().Format(time.RFC3339))
	}
	return delivery.Replace, reason + "; deleted and made anew, as force is set"
}
