package live

import (
	"encoding/json"
	"fmt"
	"time"
	"unique"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/health"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/plan"
)

// name is an object's name within its kind.
type name struct {
	namespace unique.Handle[string] // shared by all that are in it
	name      string
}

func nameOf(ref delivery.Ref) name { return name{unique.Make(ref.Namespace), ref.Name} }

// record is a [delivery.Live] made small: there is one for each object that we own. It is never changed once it is kept.
type record struct {
	version         unique.Handle[string] // the API version it is watched in ("v1")
	applied         unique.Handle[string] // the API version in which we applied it; empty: we did not
	rival           unique.Handle[string]
	shared          unique.Handle[string]
	operation       unique.Handle[string]
	owner           unique.Handle[delivery.ID]
	uid             string
	resourceVersion string
	fixed           string // JSON; empty: none
	health          delivery.Health
	replicas        int64
	owned           delivery.Hash
	ownsReplicas    bool
	deleting        bool
	marks           delivery.Marks
	fleeting        bool  // it goes by itself once it is done
	done            bool  // a Job that has completed
	created         int64 // Unix time
	generation      int64
	unjudged        bool   // a script has not told yet how it is doing
	asks            *asked // until it is kept: what a script is to be asked
}

// record reduces an object to what is kept of it.
func (l *Live) record(u *unstructured.Unstructured) (*record, error) {
	own, err := ownershipOf(l.opts.Key, u, kube.FieldManager)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", delivery.RefOf(u), err)
	}
	replicas, ok, _ := unstructured.NestedInt64(u.Object, "spec", "replicas")
	if !ok {
		replicas = -1
	}
	owner := l.opts.OwnerOf(u.GetLabels())
	doing, asks := l.health(owner, u)
	rec := &record{
		version: unique.Make(u.GroupVersionKind().Version), applied: unique.Make(own.version), rival: unique.Make(own.rival),
		shared: unique.Make(own.shared), operation: unique.Make(u.GetAnnotations()[delivery.OperationAnnotation]),
		owner: unique.Make(owner), uid: string(u.GetUID()), resourceVersion: u.GetResourceVersion(),
		health: doing, fleeting: health.Fleeting(u), done: health.Done(u), replicas: replicas, owned: own.hash, ownsReplicas: own.replicas,
		deleting: u.GetDeletionTimestamp() != nil, marks: l.opts.MarksOf(u), created: created(u),
		generation: u.GetGeneration(), asks: asks,
	}
	if fixed := plan.Fixed(u); len(fixed) > 0 {
		b, err := json.Marshal(fixed)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", delivery.RefOf(u), err)
		}
		rec.fixed = string(b)
	}
	return rec, nil
}

// created is when an object was made, as Unix time.
func created(u *unstructured.Unstructured) int64 { return u.GetCreationTimestamp().Unix() }

// live is the record in full.
func (r *record) live(ref delivery.Ref) delivery.Live {
	return delivery.Live{
		Ref: ref, Version: r.version.Value(), UID: r.uid, Created: time.Unix(r.created, 0), ResourceVersion: r.resourceVersion, Owner: r.owner.Value(),
		Owned: r.owned, OwnsReplicas: r.ownsReplicas, Replicas: r.replicas, Health: r.health, Deleting: r.deleting, Done: r.done,
		Marks: r.marks, Fixed: r.fixedFields(), Rival: r.rival.Value(), Shared: r.shared.Value(), Operation: r.operation.Value(),
	}
}

func (r *record) fixedFields() map[string]any {
	if r.fixed == "" {
		return nil
	}
	var fixed map[string]any
	if utiljson.Unmarshal([]byte(r.fixed), &fixed) != nil { // it was marshalled by record
		return nil
	}
	return fixed
}

// matters tells whether a new record of an object is worth waking its app.
func matters(old, rec *record) bool {
	return old.uid != rec.uid || old.owned != rec.owned || old.replicas != rec.replicas || old.ownsReplicas != rec.ownsReplicas ||
		old.shared != rec.shared || old.health != rec.health || old.deleting != rec.deleting || old.owner != rec.owner ||
		(old.marks ^ rec.marks).Has(delivery.MarkLeave)
}
