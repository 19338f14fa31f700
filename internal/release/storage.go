package release

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
)

// ownedByHelm selects the Secrets with releases, as Helm itself does.
const ownedByHelm = "owner=helm"

// patience bounds how long it is waited for the first list of releases.
const patience = 15 * time.Second

// place names a release: the namespace of its Secrets, and its name.
type place struct{ namespace, name string }

// record is what is known of one version of a release without reading it: the metadata of its Secret.
type record struct {
	secret          string
	version         int
	status          string
	resourceVersion string
	writer          string // the field manager that wrote last: "keelson", "helm", "helm-controller"
}

// kept is what the newest version of a release was when it was last read or written.
type kept struct {
	resourceVersion, ociDigest string
	stored                     delivery.StoredRelease
}

// records knows from one watch of metadata which versions of which releases there are in a cluster, and who wrote them. It is safe
// for concurrent use.
type records struct {
	changed func(namespace, name string)

	mu     sync.RWMutex
	places map[place]map[string]record // by the Secret's name
	kept   map[place]kept
	err    error         // why the watch does not get on
	heard  chan struct{} // closed, and made anew, when err changes
	synced chan struct{} // closed after the first list
}

func newRecords(ctx context.Context, cluster *kube.Cluster, namespace string, changed func(namespace, name string)) (*records, error) {
	client, err := metadata.NewForConfigAndClient(cluster.Config(), cluster.HTTPClient())
	if err != nil {
		return nil, fmt.Errorf("make metadata client: %w", err)
	}
	r := &records{
		changed: changed, places: map[place]map[string]record{}, kept: map[place]kept{},
		heard: make(chan struct{}), synced: make(chan struct{}),
	}
	secrets := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "secrets"}).Namespace(namespace)
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = ownedByHelm
			list, err := secrets.List(ctx, o)
			r.hear(ctx, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = ownedByHelm
			events, err := secrets.Watch(ctx, o)
			if o.SendInitialEvents == nil || !apierrors.IsInvalid(err) { // else the server sends no lists as events: it will be asked for one
				r.hear(ctx, err)
			}
			return events, err
		},
	}
	reflector := cache.NewReflectorWithOptions(lw, &metav1.PartialObjectMetadata{}, r, cache.ReflectorOptions{Name: "helm releases"})
	go reflector.RunWithContext(ctx)
	return r, nil
}

// hear takes in how a request of the watch ended.
func (r *records) hear(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if (err == nil) != (r.err == nil) {
		close(r.heard)
		r.heard = make(chan struct{})
	}
	r.err = err
}

// ready waits until it is known which releases there are.
func (r *records) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		r.mu.RLock()
		err, heard := r.err, r.heard
		r.mu.RUnlock()
		select {
		case <-r.synced:
			return nil
		default:
		}
		if err != nil {
			return fmt.Errorf("watch the releases: %w", err)
		}
		select {
		case <-r.synced:
			return nil
		case <-heard:
		case <-ctx.Done():
			return fmt.Errorf("watch the releases: %w", ctx.Err())
		}
	}
}

// of gives the versions of a release, oldest first.
func (r *records) of(at place) []record {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.SortedFunc(maps.Values(r.places[at]), func(a, b record) int { return a.version - b.version })
}

// newest gives the newest version of a release; false: there is none.
func (r *records) newest(at place) (record, bool) {
	all := r.of(at)
	if len(all) == 0 {
		return record{}, false
	}
	return all[len(all)-1], true
}

// remembered gives what a version was when it was read, if it has not been written since.
func (r *records) remembered(at place, rec record, ociDigest string) (delivery.StoredRelease, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	k, ok := r.kept[at]
	return k.stored, ok && k.resourceVersion == rec.resourceVersion && k.stored.Version == rec.version && k.ociDigest == ociDigest
}

// remember keeps what a version is, unless a newer one is kept.
func (r *records) remember(at place, k kept) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.kept[at]; !ok || old.stored.Version <= k.stored.Version || r.places[at][secretName(at.name, old.stored.Version)].secret == "" {
		r.kept[at] = k
	}
}

// note takes in a Secret as the server returned it to us: the event that follows tells nothing new.
func (r *records) note(m *metav1.ObjectMeta) {
	at, rec, ok := recordOf(m)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, had := r.places[at][rec.secret]; !had || !newer(old.resourceVersion, rec.resourceVersion) {
		r.set(at, rec)
	}
}

// forget takes in that a Secret is not there.
func (r *records) forget(at place, secret string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unset(at, secret)
}

func (r *records) set(at place, rec record) {
	if r.places[at] == nil {
		r.places[at] = map[string]record{}
	}
	r.places[at][rec.secret] = rec
}

func (r *records) unset(at place, secret string) {
	if delete(r.places[at], secret); len(r.places[at]) == 0 {
		delete(r.places, at)
		delete(r.kept, at)
	}
}

// recordOf reads the metadata of a Secret; false: it is no release's.
func recordOf(m metav1.Object) (place, record, bool) {
	labels := m.GetLabels()
	version, err := strconv.Atoi(labels["version"])
	if err != nil || labels["name"] == "" || m.GetName() != secretName(labels["name"], version) {
		return place{}, record{}, false
	}
	rec := record{secret: m.GetName(), version: version, status: labels["status"], resourceVersion: m.GetResourceVersion()}
	rec.writer = ownerOf(m, "f:data", "f:release") // its times have whole seconds, in which two may have written
	return place{m.GetNamespace(), labels["name"]}, rec, true
}

func secretName(release string, version int) string {
	return "sh.helm.release.v1." + release + ".v" + strconv.Itoa(version)
}

// newer compares two resource versions of Secrets, which are decimal numbers.
func newer(a, b string) bool {
	x, errA := strconv.ParseUint(a, 10, 64)
	y, errB := strconv.ParseUint(b, 10, 64)
	return errA == nil && errB == nil && x > y
}

// The methods of a [cache.ReflectorStore].

func (r *records) Add(obj any) error    { return r.put(obj) }
func (r *records) Update(obj any) error { return r.put(obj) }
func (r *records) Resync() error        { return nil }

func (r *records) put(obj any) error {
	m, ok := obj.(*metav1.PartialObjectMetadata)
	if !ok {
		return fmt.Errorf("watch releases: unexpected %T", obj)
	}
	at, rec, ok := recordOf(m)
	if !ok {
		return nil
	}
	r.mu.Lock()
	old, had := r.places[at][rec.secret]
	news := !had || (old.resourceVersion != rec.resourceVersion && !newer(old.resourceVersion, rec.resourceVersion))
	if news {
		r.set(at, rec)
	}
	r.mu.Unlock()
	if news && rec.writer != kube.FieldManager { // the event may come before the answer to our own write
		r.changed(at.namespace, at.name)
	}
	return nil
}

func (r *records) Delete(obj any) error {
	m, ok := obj.(*metav1.PartialObjectMetadata)
	if !ok {
		return fmt.Errorf("watch releases: unexpected %T", obj)
	}
	at, rec, ok := recordOf(m)
	if !ok {
		return nil
	}
	r.mu.Lock()
	old, had := r.places[at][rec.secret]
	gone := had && !newer(old.resourceVersion, rec.resourceVersion)
	if gone {
		r.unset(at, rec.secret)
	}
	r.mu.Unlock()
	if gone {
		r.changed(at.namespace, at.name)
	}
	return nil
}

// Replace takes in a list.
func (r *records) Replace(list []any, _ string) error {
	places := map[place]map[string]record{}
	for _, obj := range list {
		m, ok := obj.(*metav1.PartialObjectMetadata)
		if !ok {
			return fmt.Errorf("list releases: unexpected %T", obj)
		}
		if at, rec, ok := recordOf(m); ok {
			if places[at] == nil {
				places[at] = map[string]record{}
			}
			places[at][rec.secret] = rec
		}
	}
	r.mu.Lock()
	var changed []place
	for at := range places {
		if !maps.Equal(places[at], r.places[at]) {
			changed = append(changed, at)
		}
	}
	for at := range r.places {
		if places[at] == nil {
			changed = append(changed, at)
			delete(r.kept, at)
		}
	}
	r.places = places
	select {
	case <-r.synced:
	default:
		close(r.synced)
	}
	r.mu.Unlock()
	for _, at := range changed {
		r.changed(at.namespace, at.name)
	}
	return nil
}
