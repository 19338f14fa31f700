package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/config"
)

// readyLimit bounds every wait for something to happen in a cluster.
const readyLimit = 2 * time.Minute

// fieldManager owns what this program writes; it is also its user agent, which tells its requests from Keelson's.
const fieldManager = "bench"

// client talks to one API server as a bystander: nothing of Keelson's own code is in it.
type client struct{ dynamic dynamic.Interface }

var (
	crds            = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	namespaces      = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	configMaps      = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	deployments     = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	gitRepositories = schema.GroupVersionResource{Group: "source.toolkit.fluxcd.io", Version: "v1", Resource: "gitrepositories"}
	kustomizations  = schema.GroupVersionResource{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Resource: "kustomizations"}
)

func newClient(kubeconfig string) (client, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return client{}, fmt.Errorf("read kubeconfig: %w", err)
	}
	cfg.QPS, cfg.Burst, cfg.UserAgent = -1, -1, fieldManager
	cfg.WarningHandler = rest.NoWarnings{} // of finalizers as Argo CD names them
	d, err := dynamic.NewForConfig(cfg)
	return client{d}, err
}

// create creates objects from YAML documents; those that exist stay.
func (c client) create(ctx context.Context, resource schema.GroupVersionResource, document string) error {
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(document), &u.Object); err != nil {
		return fmt.Errorf("read document: %w", err)
	}
	return c.createObject(ctx, resource, u)
}

func (c client) createObject(ctx context.Context, resource schema.GroupVersionResource, u *unstructured.Unstructured) error {
	_, err := c.dynamic.Resource(resource).Namespace(u.GetNamespace()).Create(ctx, u, metav1.CreateOptions{FieldManager: fieldManager})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create %s %s: %w", u.GetKind(), u.GetName(), err)
	}
	return nil
}

// apply is the bare request that cannot be avoided: one forced server-side apply.
func (c client) apply(ctx context.Context, resource schema.GroupVersionResource, u *unstructured.Unstructured) error {
	_, err := c.dynamic.Resource(resource).Namespace(u.GetNamespace()).Apply(ctx, u.GetName(), u,
		metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	return err
}

func (c client) patch(ctx context.Context, resource schema.GroupVersionResource, namespace, name, patch string) error {
	_, err := c.dynamic.Resource(resource).Namespace(namespace).Patch(ctx, name, types.MergePatchType, []byte(patch),
		metav1.PatchOptions{FieldManager: "somebody"})
	return err
}

func (c client) remove(ctx context.Context, resource schema.GroupVersionResource, namespace, name string) error {
	return c.dynamic.Resource(resource).Namespace(namespace).Delete(ctx, name, metav1.DeleteOptions{})
}

// installCRDs creates Keelson's resource definitions and waits until they are served.
func (c client) installCRDs(ctx context.Context) error {
	files, err := fs.Glob(config.CRDs, "crd/*.yaml")
	if err != nil {
		return err
	}
	for _, name := range files {
		b, err := config.CRDs.ReadFile(name)
		if err != nil {
			return err
		}
		if err := c.create(ctx, crds, string(b)); err != nil {
			return err
		}
	}
	return c.poll(ctx, "resource definitions", func() (bool, error) {
		list, err := c.dynamic.Resource(crds).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		return !slices.ContainsFunc(list.Items, func(u unstructured.Unstructured) bool { return condition(&u, "Established") != "True" }), nil
	})
}

// poll asks until it is so; what names the thing in the error.
func (c client) poll(ctx context.Context, what string, done func() (bool, error)) error {
	return c.pollFor(ctx, readyLimit, what, done)
}

func (c client) pollFor(ctx context.Context, limit time.Duration, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s: not ready within %s", what, limit))
	defer cancel()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return context.Cause(ctx)
		}
	}
}

// awaitApps waits until there are at least n apps, and all are ready.
func (c client) awaitApps(ctx context.Context, n int) error {
	return c.poll(ctx, fmt.Sprintf("%d apps", n), func() (bool, error) {
		list, err := c.dynamic.Resource(kustomizations).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		waiting := slices.ContainsFunc(list.Items, func(u unstructured.Unstructured) bool { return !readyAt(&u, "") })
		return len(list.Items) >= n && !waiting, nil
	})
}

// condition gives the status of a condition, "" where there is none.
func condition(u *unstructured.Unstructured, name string) string {
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range conditions {
		if m, ok := c.(map[string]any); ok && m["type"] == name {
			s, _ := m["status"].(string)
			return s
		}
	}
	return ""
}

// readyAt tells whether an app is ready as it is declared now, at a commit; an empty one means any.
func readyAt(u *unstructured.Unstructured, commit string) bool {
	observed, _, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration")
	revision, _, _ := unstructured.NestedString(u.Object, "status", "lastAppliedRevision")
	return observed == u.GetGeneration() && condition(u, "Ready") == "True" && strings.HasSuffix(revision, commit)
}

// observer watches one resource and keeps every event with the time at which this process got it. So an event that
// came before anybody asked for it is found too.
type observer struct {
	mu     sync.Mutex
	events []event
	err    error
	more   chan struct{} // closed and replaced at each event
	stop   func()
}

type event struct {
	at     time.Time
	verb   watch.EventType
	object *unstructured.Unstructured
}

// observe starts a watch; what is there already counts as added now. Stop ends it.
func (c client) observe(ctx context.Context, resource schema.GroupVersionResource, namespace string) (*observer, error) {
	r := c.dynamic.Resource(resource).Namespace(namespace)
	list, err := r.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", resource.Resource, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	o := &observer{more: make(chan struct{}), stop: cancel}
	for i := range list.Items {
		o.events = append(o.events, event{time.Now(), watch.Added, shrink(&list.Items[i])})
	}
	w, err := watchFrom(ctx, r, list.GetResourceVersion())
	if err != nil {
		cancel()
		return nil, err
	}
	go func() { o.note(nil, o.follow(ctx, r, w, list.GetResourceVersion())) }()
	return o, nil
}

func watchFrom(ctx context.Context, r dynamic.ResourceInterface, version string) (watch.Interface, error) {
	hour := int64(3600)
	w, err := r.Watch(ctx, metav1.ListOptions{ResourceVersion: version, TimeoutSeconds: &hour})
	if err != nil {
		return nil, fmt.Errorf("watch from %s: %w", version, err)
	}
	return w, nil
}

// follow notes what a watch tells until ctx ends. A busy API server may end a watch; it goes on where it has ended.
func (o *observer) follow(ctx context.Context, r dynamic.ResourceInterface, w watch.Interface, version string) (err error) {
	for {
		for e := range w.ResultChan() {
			at := time.Now()
			u, ok := e.Object.(*unstructured.Unstructured)
			if !ok || e.Type == watch.Error {
				w.Stop()
				return apierrors.FromObject(e.Object)
			}
			version = u.GetResourceVersion()
			o.note(&event{at, e.Type, shrink(u)}, nil)
		}
		if ctx.Err() != nil {
			return errors.New("the watch was stopped")
		}
		if w, err = watchFrom(ctx, r, version); err != nil {
			return err
		}
	}
}

// shrink drops what nobody here asks for and most of an event consists of.
func shrink(u *unstructured.Unstructured) *unstructured.Unstructured {
	unstructured.RemoveNestedField(u.Object, "metadata", "managedFields")
	unstructured.RemoveNestedField(u.Object, "status", "inventory")
	unstructured.RemoveNestedField(u.Object, "status", "resources")
	return u
}

func (o *observer) note(e *event, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if e != nil {
		o.events = append(o.events, *e)
	}
	o.err = err
	close(o.more)
	o.more = make(chan struct{})
}

// mark is the place in the log from which a later await looks.
func (o *observer) mark() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.events)
}

// await gives the first event since a mark that matches, and the mark behind it.
func (o *observer) await(ctx context.Context, mark int, what string, match func(event) bool) (event, int, error) {
	return o.awaitFor(ctx, readyLimit, mark, what, match)
}

func (o *observer) awaitFor(ctx context.Context, limit time.Duration, mark int, what string, match func(event) bool) (event, int, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s: not seen within %s", what, limit))
	defer cancel()
	for {
		o.mu.Lock()
		events, err, more := o.events, o.err, o.more
		o.mu.Unlock()
		for ; mark < len(events); mark++ {
			if match(events[mark]) {
				return events[mark], mark + 1, nil
			}
		}
		if err != nil {
			return event{}, mark, fmt.Errorf("%s: %w", what, err)
		}
		select {
		case <-more:
		case <-ctx.Done():
			return event{}, mark, context.Cause(ctx)
		}
	}
}

// awaitEach waits until n different things have been seen since a mark, and gives the time of the last one. match tells
// what an event shows, by any name.
func (o *observer) awaitEach(ctx context.Context, mark int, what string, n int, match func(event) (name string, ok bool)) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, fleetLimit)
	defer cancel()
	seen := map[string]bool{}
	var last time.Time
	for len(seen) < n {
		e, next, err := o.awaitFor(ctx, fleetLimit, mark, what, func(e event) bool {
			name, ok := match(e)
			return ok && !seen[name]
		})
		if err != nil {
			return last, fmt.Errorf("%d of %d: %w", len(seen), n, err)
		}
		name, _ := match(e)
		seen[name], mark, last = true, next, e.at
	}
	return last, nil
}
