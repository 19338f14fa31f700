// Package live answers "what is there, and did it drift" from memory.
//
// It keeps one watch per kind and cluster, restricted to objects that carry the ownership label, and of every object
// only a record: a hash of the fields that we own, its health, its owner. The object itself is decoded, hashed and
// dropped. A watch starts with the first app that needs its kind ([Live.Ensure]) and stops, with its records, some time
// after the last one. An object whose label is taken away leaves the watch like a deleted one and is repaired like one.
//
// What an apply returned is fed in with [Live.Observe], so that a stage sees the writes of the one before; the event that
// follows names the same resource version and costs a look-up. An answer that comes in after the object was seen to be
// deleted does not bring it back.
//
// Of the ConfigMaps and Secrets that an app's variables come from, only the version is known ([Live.Version]): each is
// watched by its name, metadata only.
//
// Of objects that an app waits for and does not own, only the health is known ([Live.Probe]): each is watched by its name. By
// which rules of its own the health of an app's objects is judged, [Live.Judge] and [Live.JudgeKind] say. Where a script is to be asked
// how an object is doing, that is done beside the watch: until it has answered, what was known before counts, or, of an object that is
// new or changed, nothing is known yet ([Live.Ensure]).
package live

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/health"
	"keelson.dev/keelson/internal/kube"
)

// Options say what is ours and whom to tell.
type Options struct {
	Key      delivery.Key                               // of the hashes in the records
	Selector string                                     // label selector of the objects to watch
	OwnerOf  func(labels map[string]string) delivery.ID // the app that an object's labels name
	// MarksOf reads what an object in the cluster asks for, in the dialect of the apps; nil: as Flux.
	MarksOf func(u *unstructured.Unstructured) delivery.Marks
	// Notify is called after the record of an object changed in a way that matters (there or not, drifted, health,
	// autoscaled), and with a zero Ref when a watch that the app waits for has caught up, a kind that it needs may be
	// back, or an object of its [Live.Version] has changed. It must not block.
	Notify func(app delivery.ID, ref delivery.Ref)
	// Grace is how long a watch goes on after its last user has left: an app that is suspended and resumed, or renamed, costs
	// no new list. Zero means a minute.
	Grace time.Duration
}

// Live is the memory of one cluster. It is safe for concurrent use.
type Live struct {
	cluster *kube.Cluster
	opts    Options
	ctx     context.Context //nolint:containedctx // the watches outlive the calls that start them; this is their life, given to New

	mu       sync.RWMutex
	needs    map[delivery.ID]*need
	watches  map[schema.GroupVersionKind]*kindWatch
	absent   map[schema.GroupVersionKind]time.Time // kinds that the server did not know, and until when that is believed
	records  map[schema.GroupKind]map[name]*record
	scalers  map[string]delivery.Ref // "namespace/name" of a HorizontalPodAutoscaler -> its target
	scaled   map[delivery.Ref]string // target -> "HorizontalPodAutoscaler/namespace/name"
	metadata metadata.Interface      // made with the first reference
	sources  map[reference]*sourceWatch
	refers   map[delivery.ID]map[reference]*sourceWatch

	rules     map[delivery.ID]*health.Rules
	kindRules map[string]*health.Rules // of the apps of a kind that have none of their own
	rejudging map[delivery.ID]int      // apps whose objects are being read once more
	scripts   scripts
	undone    map[schema.GroupKind][]name // what went by itself before it had done its work
	probes    map[probeKey]*probe
	probing   map[delivery.ID]*probing
}

// AutoscalerKind is the kind of Kubernetes' own autoscalers; others make objects of it.
var AutoscalerKind = schema.GroupVersionKind{Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler"}

// New starts without any watch; ctx ends those that come.
func New(ctx context.Context, cluster *kube.Cluster, opts Options) *Live {
	if opts.MarksOf == nil {
		opts.MarksOf = delivery.MarksOf
	}
	if opts.Grace == 0 {
		opts.Grace = time.Minute
	}
	return &Live{
		cluster: cluster, opts: opts, ctx: ctx,
		needs:   map[delivery.ID]*need{},
		watches: map[schema.GroupVersionKind]*kindWatch{},
		absent:  map[schema.GroupVersionKind]time.Time{},
		records: map[schema.GroupKind]map[name]*record{},
		scalers: map[string]delivery.Ref{},
		scaled:  map[delivery.Ref]string{},
		sources: map[reference]*sourceWatch{},
		refers:  map[delivery.ID]map[reference]*sourceWatch{},

		rules:     map[delivery.ID]*health.Rules{},
		kindRules: map[string]*health.Rules{},
		scripts:   scripts{asked: map[delivery.Ref]*asked{}, asking: map[delivery.Ref]bool{}, unknown: map[delivery.ID]int{}, paused: map[delivery.Ref]*asked{}, held: maxHeld},
		rejudging: map[delivery.ID]int{},
		undone:    map[schema.GroupKind][]name{},
		probes:    map[probeKey]*probe{},
		probing:   map[delivery.ID]*probing{},
	}
}

// Get gives the record of an object; false: it is not there, or not labelled as ours.
func (l *Live) Get(ref delivery.Ref) (delivery.Live, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	rec, ok := l.records[ref.GroupKind()][nameOf(ref)]
	if !ok {
		return delivery.Live{}, false
	}
	return rec.live(ref), true
}

// Scaler names the autoscaler that targets an object; false: none does.
func (l *Live) Scaler(ref delivery.Ref) (string, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	name, ok := l.scaled[ref]
	return name, ok
}

// Observe takes in an object as the server returned it and gives its record, without waiting for the watch. An error means
// that its managedFields cannot be read.
func (l *Live) Observe(u *unstructured.Unstructured) (delivery.Live, error) {
	rec, err := l.record(u)
	if err != nil {
		return delivery.Live{}, err
	}
	ref := delivery.RefOf(u)
	l.mu.Lock()
	defer l.mu.Unlock()
	w, watched := l.watches[ref.GroupKind().WithVersion(rec.version.Value())]
	if !watched {
		l.unsettle(ref.GroupKind(), rec.version.Value())
	}
	old, had := l.records[ref.GroupKind()][nameOf(ref)]
	switch {
	case had && newer(old.resourceVersion, rec.resourceVersion):
	case !had && watched && newer(w.seen, rec.resourceVersion):
		// It has left the watch since: deleted, or no longer labelled as ours.
	default:
		l.keep(ref, rec)
	}
	return rec.live(ref), nil
}

// Look gives the record of an object as the server returned it, without keeping it.
func (l *Live) Look(u *unstructured.Unstructured) (delivery.Live, error) {
	rec, err := l.record(u)
	if err != nil {
		return delivery.Live{}, err
	}
	return rec.live(delivery.RefOf(u)), nil
}

// Judged is how an object is doing by the rules of an app, whether it is labelled as the app's or not.
func (l *Live) Judged(app delivery.ID, u *unstructured.Unstructured) delivery.Health {
	doing, _ := l.health(app, u)
	return doing
}

// Deleted notes that we have just deleted an object: it is on its way out, whatever the watch still says.
func (l *Live) Deleted(ref delivery.Ref, uid string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rec, ok := l.records[ref.GroupKind()][nameOf(ref)]; ok && rec.uid == uid {
		changed := *rec // records are never changed: who compares two may hold one
		changed.deleting = true
		l.keep(ref, &changed)
	}
}

// keep makes rec the record of an object, and has the script asked that is about it. The caller holds the lock.
func (l *Live) keep(ref delivery.Ref, rec *record) {
	if rec.asks != nil {
		l.ask(ref, l.records[ref.GroupKind()][nameOf(ref)], rec)
	}
	records := l.records[ref.GroupKind()]
	if records == nil {
		records = map[name]*record{}
		l.records[ref.GroupKind()] = records
	}
	records[nameOf(ref)] = rec
	if left := l.undone[ref.GroupKind()]; len(left) > 0 {
		l.undone[ref.GroupKind()] = slices.DeleteFunc(left, func(n name) bool { return n == nameOf(ref) })
	}
}

// newer compares two resource versions of one kind, which are decimal numbers (Kubernetes API concepts, "Resource versions").
func newer(a, b string) bool {
	x, errA := strconv.ParseUint(a, 10, 64)
	y, errB := strconv.ParseUint(b, 10, 64)
	return errA == nil && errB == nil && x > y
}
