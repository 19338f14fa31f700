package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/health"
	"keelson.dev/keelson/internal/kube"
)

// secretTypeLabel tells what a Secret in Argo CD's namespace says.
const secretTypeLabel = argocdv1.SecretTypeLabel

// holdings are what Argo CD's namespace says to all Applications: immutable.
type holdings struct {
	complete bool // everything was read at least once; before, nothing may be concluded from what is not there
	projects map[string]*argocdv1.AppProject
	argo     dialect.Argo                 // what the Secrets and the settings come to, for all projects
	settings map[string]map[string]string // data of the ConfigMaps with settings, by name
	rules    *health.Rules                // of Argo CD, with the scripts of the settings
}

// estate knows what Argo CD's namespace says: projects, credentials, clusters, settings. Projects are cached; of Secrets and the
// settings only metadata are, and their contents read when one of them has changed.
type estate struct {
	namespace string
	cache     cache.Cache
	reader    client.Reader // uncached
	judge     health.Eval
	log       *slog.Logger

	now    atomic.Pointer[holdings]
	dirty  chan struct{} // something has changed
	stale  atomic.Bool   // Secrets or settings have
	mu     sync.Mutex
	follow []func() // called after a change of what it says
}

// estatePause lets changes that come together be one; estateRetry is when to read again what could not be read.
const estatePause, estateRetry = 20 * time.Millisecond, 5 * time.Second

func newEstate(namespace string, cluster *kube.Cluster, scheme *runtime.Scheme, reader client.Reader, judge health.Eval, log *slog.Logger) (*estate, error) {
	labelled, err := labels.NewRequirement(secretTypeLabel, selection.In, []string{dialect.ArgoRepositorySecret, dialect.ArgoRepositoryTemplateSecret, dialect.ArgoClusterSecret})
	if err != nil {
		return nil, fmt.Errorf("make selector: %w", err)
	}
	c, err := cache.New(cluster.Config(), cache.Options{
		HTTPClient: cluster.HTTPClient(), Scheme: scheme, Mapper: cluster.Mapper(), DefaultTransform: cache.TransformStripManagedFields(),
		DefaultNamespaces: map[string]cache.Config{namespace: {}},
		ByObject: map[client.Object]cache.ByObject{
			metadataOf("Secret"): {Label: labels.NewSelector().Add(*labelled)},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make cache of the namespace %s: %w", namespace, err)
	}
	e := &estate{namespace: namespace, cache: c, reader: reader, judge: judge, log: log, dirty: make(chan struct{}, 1)}
	e.now.Store(&holdings{})
	return e, nil
}

func metadataOf(kind string) *metav1.PartialObjectMetadata {
	m := &metav1.PartialObjectMetadata{}
	m.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind))
	return m
}

// holds gives what Argo CD's namespace says now; see whether it is complete.
func (e *estate) holds() *holdings { return e.now.Load() }

// project gives a project by name; nil: there is none.
func (h *holdings) project(name string) *argocdv1.AppProject { return h.projects[name] }

// about gives what an Application of a project, or what makes such, depends on besides itself.
func (h *holdings) about(project string, now time.Time) dialect.Argo {
	in := h.argo
	in.Project, in.Now = h.project(project), now
	return in
}

// serves tells whether Applications of a namespace may be worked on: those of Argo CD's own, and where some project wants it.
func (e *estate) serves(namespace string) bool {
	if namespace == e.namespace {
		return true
	}
	for _, p := range e.holds().projects {
		if dialect.ArgoServes(p, namespace) {
			return true
		}
	}
	return false
}

// onChange has f called after a change of what the namespace says. It must not block.
func (e *estate) onChange(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.follow = append(e.follow, f)
}

// start begins to watch and returns once everything was read; what cannot be read is tried again later. ctx is its life.
func (e *estate) start(ctx context.Context) error {
	mark := func(stale bool) toolscache.ResourceEventHandlerFuncs {
		changed := func() {
			if stale {
				e.stale.Store(true)
			}
			select {
			case e.dirty <- struct{}{}:
			default:
			}
		}
		seen := func(obj any) {
			if gone, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			o, ok := obj.(*metav1.PartialObjectMetadata)
			if !ok || o.Kind != "ConfigMap" || slices.Contains(dialect.ArgoConfigMaps(), o.Name) {
				changed()
			}
		}
		return toolscache.ResourceEventHandlerFuncs{
			AddFunc: seen, DeleteFunc: seen,
			UpdateFunc: func(before, now any) {
				was, ok1 := before.(client.Object)
				is, ok2 := now.(client.Object)
				if !ok1 || !ok2 || was.GetResourceVersion() != is.GetResourceVersion() {
					seen(now)
				}
			},
		}
	}
	go func() {
		if err := e.cache.Start(ctx); err != nil && ctx.Err() == nil {
			e.log.Error("watch the namespace of Argo CD", "namespace", e.namespace, "error", err)
		}
	}()
	for obj, stale := range map[client.Object]bool{&argocdv1.AppProject{}: false, metadataOf("Secret"): true, metadataOf("ConfigMap"): true} {
		informer, err := e.cache.GetInformer(ctx, obj)
		if err == nil {
			_, err = informer.AddEventHandler(mark(stale))
		}
		if err != nil {
			return fmt.Errorf("watch the namespace %s: %w", e.namespace, err)
		}
	}
	if !e.cache.WaitForCacheSync(ctx) {
		return errors.New("the caches ended before they were filled")
	}
	e.stale.Store(true)
	if err := e.take(ctx); err != nil {
		e.log.Warn("read Argo CD's credentials and settings", "namespace", e.namespace, "error", err)
		time.AfterFunc(estateRetry, func() { mark(true).AddFunc(nil) })
	}
	go e.run(ctx)
	return nil
}

// run takes in every change.
func (e *estate) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.dirty:
		}
		pause := estatePause
		for again := true; again; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			err := e.take(ctx)
			if again = err != nil; again {
				e.log.Warn("read Argo CD's credentials and settings", "namespace", e.namespace, "error", err)
				pause = estateRetry
			}
		}
	}
}

// take reads what has changed and tells of it.
func (e *estate) take(ctx context.Context) error {
	old := e.holds()
	next := *old
	var projects argocdv1.AppProjectList
	if err := e.cache.List(ctx, &projects); err != nil {
		return fmt.Errorf("list AppProjects: %w", err)
	}
	next.projects = make(map[string]*argocdv1.AppProject, len(projects.Items))
	for i := range projects.Items {
		next.projects[projects.Items[i].Name] = &projects.Items[i]
	}
	var failed error
	if e.stale.Swap(false) {
		whole := next
		if failed = e.read(ctx, &whole); failed != nil {
			e.stale.Store(true) // the projects count already
		} else {
			next, next.complete = whole, true
		}
	}
	if sameHoldings(old, &next) {
		return failed
	}
	e.now.Store(&next)
	e.mu.Lock()
	follow := slices.Clone(e.follow)
	e.mu.Unlock()
	for _, f := range follow {
		f()
	}
	return failed
}

// sameHoldings tells whether nothing has changed that Applications depend on: a project's status is nothing to them.
func sameHoldings(a, b *holdings) bool {
	same := func(x, y *argocdv1.AppProject) bool {
		return x.UID == y.UID && reflect.DeepEqual(x.Spec, y.Spec) && slices.Equal(x.Unknown, y.Unknown)
	}
	return a.complete == b.complete && maps.EqualFunc(a.projects, b.projects, same) && reflect.DeepEqual(a.argo, b.argo) &&
		reflect.DeepEqual(a.settings, b.settings)
}

// read reads the labelled Secrets and the settings.
func (e *estate) read(ctx context.Context, into *holdings) error {
	var secrets corev1.SecretList
	if err := e.reader.List(ctx, &secrets, client.InNamespace(e.namespace), client.HasLabels{secretTypeLabel}); err != nil {
		return fmt.Errorf("list Secrets: %w", err)
	}
	into.settings = map[string]map[string]string{}
	for _, name := range dialect.ArgoConfigMaps() {
		there := metadataOf("ConfigMap")
		if err := e.cache.Get(ctx, client.ObjectKey{Namespace: e.namespace, Name: name}, there); apierrors.IsNotFound(err) {
			continue // nobody has to be asked
		}
		var settings corev1.ConfigMap
		err := e.reader.Get(ctx, client.ObjectKey{Namespace: e.namespace, Name: name}, &settings)
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("read ConfigMap %s: %w", name, err)
		}
		into.settings[name] = settings.Data
	}
	into.argo = dialect.ReadArgo(e.namespace, into.settings, secrets.Items)
	scripts, problems := dialect.ArgoHealthOverrides(into.settings[dialect.ArgoConfigMap])
	for _, p := range problems {
		e.log.Warn("a setting of Argo CD cannot be used", "namespace", e.namespace, "configmap", dialect.ArgoConfigMap, "problem", p)
	}
	into.rules = health.NewArgo(scripts, e.judge)
	return nil
}
