// Package release makes real Helm releases: with Helm's own actions, in Helm's own storage, so that the helm program sees them as its
// own, and the other way round. It stands beside apply: rendering a chart is not releasing it.
//
// One [Engine] serves a cluster. For each release whoever holds the pen goes round, one step a time, woken by what [Options.Changed] tells
// and by the end of actions:
//
//	chart, err := engine.Meta(chart)                      // what Chart.yaml says; parsed once per digest
//	want := release.Want{App: app, ChartName: …}          // what Git wants
//	seen, err := engine.Observe(ctx, app, record)         // what the storage tells: from memory, unless somebody else wrote
//	d := release.Decide(want, record, seen, now)          // PURE: what is done next, and why
//	if !d.Action.Runs() { … release.Settled(want, d.Record) where d.State is InSync …; return }
//	record = release.Begun(want, d)                       // kept in the status before anything is done
//	result, err := engine.Act(ctx, request, d)            // exactly one action, in a goroutine of its own; ends with ctx
//	record = release.Done(want, d, record, result, err)   // kept in the status; then round again
//
// After an error the pen's holder lets some time pass before the next round, longer each time, unless the fault's Retry says that only a
// change helps: Decide counts attempts, not time. Where the app is deleted, [ForDeletion] takes the place of Decide. [Engine.Render] tells what an upgrade would make.
//
// A process that is killed in the middle of an action leaves a release that is "pending-…" or "uninstalling"; Decide takes it up from
// there. One that ends between the last write of a release and that of the status leaves a version that the record does not know; Decide tells
// it by who wrote it, and takes note of it. Errors of Act are [delivery.Fault]s that name the template, the values' path, the hook and its Pod, or the object.
//
// Drift is looked for where the app says so: Observe tells of it, from watches of the objects with the origin labels; [Options.Touched]
// tells when it is time to observe.
package release

import (
	"context"
	"errors"
	"fmt"

	"helm.sh/helm/v4/pkg/storage/driver"
	"k8s.io/apimachinery/pkg/runtime/schema"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
)

// ErrCancelled is wrapped by the error of an action that was called off.
var ErrCancelled = errors.New("the action was called off")

// Options say whom to tell.
type Options struct {
	// Changed is called after somebody else has written or deleted a version of a release: the namespace of its storage, and its name. It
	// must not block.
	Changed func(namespace, name string)
	// Touched is called after an object of the release of an app that drift is looked for of was changed, and when it is known how such
	// objects are. It must not block.
	Touched func(app delivery.ID)
	// Witness has actions tell which objects of a release they have changed.
	Witness bool
	// Namespace is the only one whose storage is watched, for somebody who may read no other one; empty: all.
	Namespace string
}

// Engine makes releases in one cluster. It is safe for concurrent use, but for two actions on one release at a time.
type Engine struct {
	cluster *kube.Cluster
	witness bool
	records *records
	charts  *charts
	objects *objects
}

// New starts the watch of the cluster's releases, or of those of one namespace; ctx ends it.
func New(ctx context.Context, cluster *kube.Cluster, opts Options) (*Engine, error) {
	if opts.Changed == nil {
		opts.Changed = func(string, string) {}
	}
	if opts.Touched == nil {
		opts.Touched = func(delivery.ID) {}
	}
	records, err := newRecords(ctx, cluster, opts.Namespace, opts.Changed)
	if err != nil {
		return nil, err
	}
	return &Engine{
		cluster: cluster, witness: opts.Witness, records: records, charts: &charts{all: map[string]*parsed{}},
		objects: &objects{
			ctx: ctx, cluster: cluster, touched: opts.Touched, watches: map[schema.GroupVersionKind]*objectWatch{},
			there: map[delivery.Ref]thing{}, apps: map[delivery.ID]*checked{},
		},
	}, nil
}

// Forget ends what is watched for an app: it is gone.
func (e *Engine) Forget(app delivery.ID) { e.objects.forget(app) }

// Meta is what a chart's Chart.yaml says of it.
type Meta struct{ Name, Version, AppVersion string }

// Meta reads a chart. Errors are faults of the chart.
func (e *Engine) Meta(chart Chart) (Meta, error) {
	m, err := e.charts.meta(chart)
	if err != nil {
		return Meta{}, err
	}
	return Meta{Name: m.Name, Version: m.Version, AppVersion: m.AppVersion}, nil
}

// Observe tells how the release of an app stands in the storage. It makes a request only for a version that has been written by others
// since it was last read, and waits only for the first list of releases after the start.
func (e *Engine) Observe(ctx context.Context, app delivery.App, record delivery.ReleaseRecord) (Seen, error) {
	if err := e.records.ready(ctx); err != nil {
		return Seen{}, err
	}
	target := TargetOf(app)
	at := place{target.StorageNamespace, target.Name}
	rec, ok := e.records.newest(at)
	if !ok {
		e.objects.forget(app.ID)
		return Seen{}, nil
	}
	var oci string
	last := record.Latest()
	if last != nil && last.Version == rec.version {
		oci = last.OCIDigest
	}
	stored, ok := e.records.remembered(at, rec, oci)
	if !ok {
		store, err := e.storage(ctx, app, target.StorageNamespace)
		if err != nil {
			return Seen{}, err
		}
		secret, err := store.get(rec.secret)
		if errors.Is(err, driver.ErrReleaseNotFound) { // the watch will say so in a moment
			e.records.forget(at, rec.secret)
			return e.Observe(ctx, app, record)
		}
		if err != nil {
			return Seen{}, fmt.Errorf("read release %s: %w", target, err)
		}
		rel, err := decodeSecret(secret)
		if err != nil {
			return Seen{}, err
		}
		stored = storedOf(rel, oci)
		e.records.note(&secret.ObjectMeta)
		e.records.remember(at, kept{resourceVersion: secret.ResourceVersion, ociDigest: oci, stored: stored})
	}
	seen := Seen{Writer: rec.writer, Known: knows(last, &stored)}
	seen.Latest = &stored
	if !seen.Known && rec.writer == kube.FieldManager {
		var err error
		if seen.Missed, seen.Whole, err = e.missed(ctx, app, record, at); err != nil {
			return Seen{}, err
		}
	}
	if stored.Status == statusFailed || last != nil && last.TestFailed() {
		var err error
		if seen.Gone, err = e.gone(ctx, app, record, at); err != nil {
			return Seen{}, err
		}
	}
	if d := app.Release.Drift; d == delivery.DriftEnabled || d == delivery.DriftWarn {
		if seen.Known && stored.Status == deployed {
			texts, _, err := e.drift(ctx, app, &stored)
			if err != nil {
				return Seen{}, fmt.Errorf("look for drift: %w", err)
			}
			seen.Drift = texts
		}
	} else {
		e.objects.forget(app.ID)
	}
	return seen, nil
}

// gone tells which older versions of the record are not in the storage any more, or not as they were. Only the one that a rollback goes to is
// read.
func (e *Engine) gone(ctx context.Context, app delivery.App, rec delivery.ReleaseRecord, at place) ([]int, error) {
	there := map[int]record{}
	for _, r := range e.records.of(at) {
		there[r.version] = r
	}
	var out []int
	read := false
	for i, s := range rec.History {
		if i == 0 {
			continue
		}
		r, ok := there[s.Version]
		if !ok {
			out = append(out, s.Version)
			continue
		}
		if read || (s.Status != deployed && s.Status != "superseded") {
			continue
		}
		read = true
		store, err := e.storage(ctx, app, at.namespace)
		if err != nil {
			return nil, err
		}
		secret, err := store.get(r.secret)
		if err != nil {
			return nil, fmt.Errorf("read release %s/%s: %w", at.namespace, at.name, err)
		}
		rel, err := decodeSecret(secret)
		if err != nil {
			out = append(out, s.Version)
			continue
		}
		if stored := storedOf(rel, s.OCIDigest); !knows(&s, &stored) {
			out = append(out, s.Version)
		}
	}
	return out, nil
}

// storage is Helm's storage in a namespace, as the app's user.
func (e *Engine) storage(ctx context.Context, app delivery.App, namespace string) (*secrets, error) {
	user, err := e.cluster.As(app.Account())
	if err != nil {
		return nil, err
	}
	config, http := user.REST()
	client, err := corev1client.NewForConfigAndClient(config, http)
	if err != nil {
		return nil, fmt.Errorf("make client for Secrets: %w", err)
	}
	return &secrets{ctx: ctx, namespace: namespace, client: client.Secrets(namespace), records: e.records}, nil
}
