package live

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/internal/delivery"
)

// reference names a ConfigMap or Secret that an app takes something from.
type reference struct{ Kind, Namespace, Name string }

// referable are the kinds that can be referred to.
var referable = map[string]schema.GroupVersionResource{
	"ConfigMap": {Version: "v1", Resource: "configmaps"},
	"Secret":    {Version: "v1", Resource: "secrets"},
}

// sourceWatch is the watch of one object's metadata.
type sourceWatch struct {
	use
	ref     reference
	version string // uid/resourceVersion; empty: it is not there
	known   bool
	err     error
}

// Version identifies the content of a ConfigMap or Secret by uid and resource version; it is empty where there is none of that
// name. known is false until the server has said so; an error says why it does not (the watch is tried on). The app
// is notified of every change until [Live.References] or [Live.Forget] says that it no longer needs the object.
func (l *Live) Version(app delivery.ID, kind, namespace, name string) (version string, known bool, err error) {
	ref := reference{Kind: kind, Namespace: namespace, Name: name}
	l.mu.RLock()
	w, ok := l.refers[app][ref]
	if ok {
		defer l.mu.RUnlock()
		return w.state()
	}
	l.mu.RUnlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if w, ok = l.refers[app][ref]; !ok {
		if w, ok = l.sources[ref]; !ok {
			if w, err = l.follow(ref); err != nil {
				return "", false, err
			}
		}
		if l.refers[app] == nil {
			l.refers[app] = map[reference]*sourceWatch{}
		}
		l.refers[app][ref] = w
		w.acquire()
	}
	return w.state()
}

// References says which objects of its namespace the app's variables come from now: the watches of others that it has asked
// the [Live.Version] of are given up.
func (l *Live) References(app delivery.ID, refs []delivery.VarsRef) {
	named := func(ref reference) bool {
		return ref.Namespace == app.Namespace && slices.ContainsFunc(refs, func(r delivery.VarsRef) bool {
			return r.Kind == ref.Kind && r.Name == ref.Name
		})
	}
	l.mu.RLock()
	same := true
	for ref := range l.refers[app] {
		same = same && named(ref)
	}
	l.mu.RUnlock()
	if same {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for ref, w := range l.refers[app] {
		if !named(ref) {
			delete(l.refers[app], ref)
			w.release(l.opts.Grace, func() { l.unfollow(w) })
		}
	}
	if len(l.refers[app]) == 0 {
		delete(l.refers, app)
	}
}

func (w *sourceWatch) state() (string, bool, error) {
	if w.err != nil {
		return "", false, w.err
	}
	return w.version, w.known, nil
}

// follow begins the watch of an object. The caller holds the lock.
func (l *Live) follow(ref reference) (*sourceWatch, error) {
	gvr, ok := referable[ref.Kind]
	if !ok {
		return nil, fmt.Errorf("%s %s/%s cannot be referred to: only a ConfigMap or a Secret can", ref.Kind, ref.Namespace, ref.Name)
	}
	if l.metadata == nil {
		client, err := metadata.NewForConfigAndClient(l.cluster.Config(), l.cluster.HTTPClient())
		if err != nil {
			return nil, fmt.Errorf("make metadata client: %w", err)
		}
		l.metadata = client
	}
	ctx, cancel := context.WithCancel(l.ctx)
	w := &sourceWatch{use: use{cancel: cancel}, ref: ref}
	l.sources[ref] = w
	resource := l.metadata.Resource(gvr).Namespace(ref.Namespace)
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, ref.Name).String()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			list, err := resource.List(ctx, o)
			return list, l.heard(w, err)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			events, err := resource.Watch(ctx, o)
			if noWatchList(o, err) {
				return events, err
			}
			return events, l.heard(w, err)
		},
	}
	r := cache.NewReflectorWithOptions(lw, &metav1.PartialObjectMetadata{}, &sourceStore{live: l, watch: w},
		cache.ReflectorOptions{Name: "live " + ref.Kind})
	go r.RunWithContext(ctx)
	return w, nil
}

// unfollow ends the watch of an object that nobody has needed for a while.
func (l *Live) unfollow(w *sourceWatch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.users == 0 && l.sources[w.ref] == w {
		w.cancel()
		delete(l.sources, w.ref)
	}
}

// heard takes in how a request of a watch ended and returns the same error.
func (l *Live) heard(w *sourceWatch, err error) error {
	if l.ctx.Err() != nil || apierrors.IsNotFound(err) {
		return err
	}
	l.mu.Lock()
	tell := differs(w.err, err, w.known)
	if tell {
		w.err = err
	}
	l.mu.Unlock()
	if tell {
		l.changed(w)
	}
	return err
}

// changed wakes the apps that refer to an object.
func (l *Live) changed(w *sourceWatch) {
	var users []delivery.ID
	l.mu.RLock()
	for app, refs := range l.refers {
		if refs[w.ref] == w {
			users = append(users, app)
		}
	}
	l.mu.RUnlock()
	l.wake(users)
}

// sourceStore is where the reflector of a reference puts what it sees.
type sourceStore struct {
	live  *Live
	watch *sourceWatch
}

func (s *sourceStore) Add(obj any) error    { return s.put(obj) }
func (s *sourceStore) Update(obj any) error { return s.put(obj) }
func (s *sourceStore) Resync() error        { return nil }

func (s *sourceStore) Delete(any) error {
	s.set("", true)
	return nil
}

func (s *sourceStore) put(obj any) error {
	m, ok := obj.(*metav1.PartialObjectMetadata)
	if !ok {
		return fmt.Errorf("watch %s: unexpected %T", s.watch.ref.Kind, obj)
	}
	s.set(string(m.UID)+"/"+m.ResourceVersion, true)
	return nil
}

// Replace takes in a list: of the object, or of nothing.
func (s *sourceStore) Replace(list []any, _ string) error {
	if len(list) == 0 {
		s.set("", true)
		return nil
	}
	return s.put(list[0])
}

func (s *sourceStore) set(version string, known bool) {
	s.live.mu.Lock()
	w := s.watch
	changed := w.version != version || w.known != known || w.err != nil
	w.version, w.known, w.err = version, known, nil
	s.live.mu.Unlock()
	if changed {
		s.live.changed(w)
	}
}
