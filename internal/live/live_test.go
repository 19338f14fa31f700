package live

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
)

var configMaps = schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}

const confText = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: conf}\ndata: {a: \"1\"}\n"

// watch gives the watch of a kind; nil: there is none.
func (w *world) watch(gvk schema.GroupVersionKind) *kindWatch {
	w.live.mu.RLock()
	defer w.live.mu.RUnlock()
	return w.live.watches[gvk]
}

func TestWatchesFollowNeeds(t *testing.T) {
	w := newWorld(t, Options{Grace: 200 * time.Millisecond})
	a, b := testApp("a"), testApp("b")
	w.ensure(a, configMaps)
	first := w.watch(configMaps)
	w.ensure(b, configMaps)
	if w.watch(configMaps) != first || first.users != 2 {
		t.Fatalf("two apps have the watches %p, %p", first, w.watch(configMaps))
	}
	sent, _ := w.ours(a, confText)
	ref := delivery.RefOf(sent)

	w.ensure(a) // needs nothing any more, b still does
	w.live.Forget(b)
	w.ensure(b, configMaps) // back within the grace
	time.Sleep(2 * w.live.opts.Grace)
	if w.watch(configMaps) != first {
		t.Error("the watch ended although an app needs it")
	}
	if _, ok := w.live.Get(ref); !ok {
		t.Error("the record is gone although the watch goes on")
	}

	w.live.Forget(b)
	w.gone(ref)
	if w.watch(configMaps) != nil {
		t.Error("the watch goes on although no app needs it")
	}
	out, err := w.of(sent).Patch(w.ctx, "conf", types.MergePatchType, []byte(`{"data": {"a": "2"}}`), metav1.PatchOptions{FieldManager: "x"})
	w.must(err)
	w.ensure(b, configMaps)
	if rec, ok := w.live.Get(ref); !ok || rec.ResourceVersion != out.GetResourceVersion() {
		t.Errorf("after a new start: %v, %+v; want resource version %s", ok, rec, out.GetResourceVersion())
	}

	w.live.Forget(a)
	w.live.Forget(b)
	w.eventually("end of all watches", func() error {
		if w.watch(configMaps) != nil || w.watch(scalerWatch) != nil {
			return errors.New("still there")
		}
		return nil
	})
}

func TestEnsureOfTheSameIsCheap(t *testing.T) {
	w := newWorld(t, Options{})
	a := testApp("a")
	set := map[schema.GroupVersionKind]bool{
		configMaps: true, {Version: "v1", Kind: "Service"}: true, {Group: "apps", Version: "v1", Kind: "Deployment"}: true,
	}
	w.eventually("watches", func() error {
		if synced, err := w.live.Ensure(a, set); err != nil || !synced {
			return fmt.Errorf("synced %v, %w", synced, err)
		}
		return nil
	})
	if n := testing.AllocsPerRun(100, func() { _, _ = w.live.Ensure(a, set) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestDeletedStaysDeleted has the answer to an apply come in after the object was seen to go.
func TestDeletedStaysDeleted(t *testing.T) {
	w := newWorld(t, Options{})
	a := testApp("a")
	w.ensure(a, configMaps)
	sent := parse(t, confText)
	sent.SetNamespace(w.ns)
	sent.SetLabels(map[string]string{ownerLabel: "a"})
	ref := delivery.RefOf(sent)
	late, err := w.apply(sent, false)
	w.must(err)
	w.seen(late)
	w.must(w.of(sent).Delete(w.ctx, "conf", metav1.DeleteOptions{}))
	w.gone(ref)
	observed := func(u *unstructured.Unstructured, want bool, when string) {
		t.Helper()
		if _, err := w.live.Observe(u); err != nil {
			t.Fatal(err)
		}
		if _, ok := w.live.Get(ref); ok != want {
			t.Errorf("%s: known = %v", when, ok)
		}
	}
	observed(late, false, "the answer is older than the deletion")

	again, err := w.apply(sent, false)
	w.must(err)
	observed(again, true, "made anew")
	observed(late, true, "the old answer once more")
	if rec, _ := w.live.Get(ref); rec.UID != string(again.GetUID()) {
		t.Errorf("uid %s, want %s", rec.UID, again.GetUID())
	}
	bare := []byte(`{"metadata": {"labels": {"owner": null}}}`)
	_, err = w.of(sent).Patch(w.ctx, "conf", types.MergePatchType, bare, metav1.PatchOptions{FieldManager: "kubectl"})
	w.must(err)
	w.gone(ref)
	observed(again, false, "the label was taken away since")
	repaired, err := w.apply(sent, false)
	w.must(err)
	observed(repaired, true, "labelled again")
}

// TestEventOfTheKnownVersionIsPassedOver has the event of our own write come in after its answer: nothing is hashed again.
func TestEventOfTheKnownVersionIsPassedOver(t *testing.T) {
	u := templates(t)[2]
	told := 0
	l, stores := unwatched(configMaps)
	l.opts.Notify = func(delivery.ID, delivery.Ref) { told++ }
	if _, err := l.Observe(u); err != nil {
		t.Fatal(err)
	}
	kept := func() *record { return l.records[configMaps.GroupKind()][nameOf(delivery.RefOf(u))] }
	before, store := kept(), stores[configMaps]
	older := u.DeepCopy()
	older.SetResourceVersion("1")
	for what, event := range map[string]func() error{
		"added": func() error { return store.Add(u) }, "modified": func() error { return store.Update(u) },
		"older": func() error { return store.Update(older) }, "deleted before": func() error { return store.Delete(older) },
		"listed": func() error { return store.Replace([]any{u}, u.GetResourceVersion()) },
	} {
		if err := event(); err != nil || kept() != before || told > 0 {
			t.Errorf("%s: recorded anew %v, told %d times, %v", what, kept() != before, told, err)
		}
	}
	later := u.DeepCopy()
	later.SetResourceVersion(u.GetResourceVersion() + "0")
	later.SetUID("another")
	if err := store.Update(later); err != nil || kept() == before || told != 1 {
		t.Errorf("a later event: recorded anew %v, told %d times, %v", kept() != before, told, err)
	}
}

// TestRelist has a watch begin anew, as after an outage of the API server or a 410 Gone: what is not in the list is gone, unless
// it was made after the list or is recorded from another version.
func TestRelist(t *testing.T) {
	u := templates(t)[2]
	told := map[string]int{}
	l, stores := unwatched(configMaps, configMaps.GroupKind().WithVersion("v2"))
	l.opts.Notify = func(_ delivery.ID, ref delivery.Ref) { told[ref.Name]++ }
	object := func(name, version, resourceVersion, data string) *unstructured.Unstructured {
		u := u.DeepCopy()
		u.SetName(name)
		u.SetUID(types.UID(name))
		u.SetAPIVersion(version)
		u.SetResourceVersion(resourceVersion)
		if err := unstructured.SetNestedField(u.Object, data, "data", "conf"); err != nil {
			t.Fatal(err)
		}
		fields := u.GetManagedFields()
		fields[0].APIVersion = version
		u.SetManagedFields(fields)
		return u
	}
	for _, u := range []*unstructured.Unstructured{
		object("same", "v1", "10", "a"), object("changed", "v1", "11", "a"), object("gone", "v1", "12", "a"),
		object("made since", "v1", "31", "a"), object("written since", "v1", "32", "b"), object("other", "v2", "13", "a"),
	} {
		if _, err := l.Observe(u); err != nil {
			t.Fatal(err)
		}
	}
	err := stores[configMaps].Replace([]any{
		object("same", "v1", "10", "a"), object("changed", "v1", "20", "b"), object("written since", "v1", "21", "a"), object("new", "v1", "22", "a"),
	}, "30")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]string{}
	for key, rec := range l.records[configMaps.GroupKind()] {
		have[key.name] = rec.resourceVersion
	}
	want := map[string]string{"same": "10", "changed": "20", "made since": "31", "written since": "32", "other": "13", "new": "22"}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{"changed": 1, "gone": 1, "new": 1}, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if synced, err := (&need{watches: []*kindWatch{l.watches[configMaps]}}).state(); err != nil || !synced {
		t.Errorf("synced %v, %v", synced, err)
	}
}

// TestListOfAnEarlierState has the server's store put back, as from a backup: nothing that was known before counts any more.
func TestListOfAnEarlierState(t *testing.T) {
	l, stores := unwatched(configMaps)
	store := stores[configMaps]
	object := func(name, resourceVersion string) any {
		u := templates(t)[2].DeepCopy()
		u.SetName(name)
		u.SetResourceVersion(resourceVersion)
		return u
	}
	if err := store.Replace([]any{object("a", "10"), object("b", "90")}, "100"); err != nil {
		t.Fatal(err)
	}
	if err := store.Replace([]any{object("a", "20")}, "50"); err == nil {
		t.Error("a list of an earlier state is taken for a later one")
	}
	if synced, _ := (&need{watches: []*kindWatch{l.watches[configMaps]}}).state(); synced {
		t.Error("synced without a list")
	}
	if err := store.Replace([]any{object("a", "20")}, "50"); err != nil {
		t.Fatal(err)
	}
	have := map[string]string{}
	for key, rec := range l.records[configMaps.GroupKind()] {
		have[key.name] = rec.resourceVersion
	}
	if diff := cmp.Diff(map[string]string{"a": "20"}, have); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

// spy notes what a reflector hands over as a list.
type spy struct {
	*objectStore
	list chan []any
}

func (s *spy) Replace(list []any, version string) error {
	s.list <- slices.Clone(list)
	return s.objectStore.Replace(list, version)
}

// TestListIsHashedAsItComes has a reflector list from the real server: none of the objects may be left whole.
func TestListIsHashedAsItComes(t *testing.T) {
	w := newWorld(t, Options{})
	for i := range 20 {
		w.ours(testApp("a"), strings.Replace(confText, "name: conf", fmt.Sprintf("name: conf%d", i), 1))
	}
	l, stores := unwatched(configMaps)
	s := &spy{stores[configMaps], make(chan []any, 1)}
	resource := w.resource(configMaps, w.ns)
	expected := &unstructured.Unstructured{}
	expected.SetGroupVersionKind(configMaps)
	r := cache.NewReflectorWithOptions(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (kruntime.Object, error) {
			o.LabelSelector = ownerLabel
			return resource.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = ownerLabel
			return resource.Watch(ctx, o)
		},
	}, expected, s, cache.ReflectorOptions{Name: "spied on"})
	go r.RunWithContext(w.ctx)
	list := <-s.list
	for _, item := range list {
		if _, ok := item.(listed); !ok {
			t.Errorf("%T", item)
		}
	}
	w.eventually("records", func() error {
		l.mu.RLock()
		defer l.mu.RUnlock()
		if n := len(l.records[configMaps.GroupKind()]); n != 20 || len(list) != 20 {
			return fmt.Errorf("%d of %d", n, len(list))
		}
		return nil
	})
}

const gearDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: cogs.live.example.com}
spec:
  group: live.example.com
  names: {kind: Cog, plural: cogs}
  scope: Namespaced
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}}
`

// TestDefinitionComesAndGoes has a kind that is not there yet, comes, goes with all its objects, and comes back.
func TestDefinitionComesAndGoes(t *testing.T) {
	w := newWorld(t, Options{})
	a := testApp("a")
	cogs := schema.GroupVersionKind{Group: "live.example.com", Version: "v1", Kind: "Cog"}
	w.ensure(a, configMaps, cogs) // passed over
	for range 2 {
		w.define(gearDefinition)
		w.eventually("watch of the new kind", func() error {
			if synced, err := w.live.Ensure(a, map[schema.GroupVersionKind]bool{configMaps: true, cogs: true}); err != nil || !synced {
				return fmt.Errorf("synced %v, %w", synced, err)
			}
			if w.watch(cogs) == nil {
				return errors.New("none")
			}
			return nil
		})
		sent, _ := w.ours(a, "apiVersion: live.example.com/v1\nkind: Cog\nmetadata: {name: c}\nspec: {teeth: 12}\n")
		told := w.notifications(a)
		definition := parse(t, gearDefinition)
		w.must(w.of(definition).Delete(w.ctx, definition.GetName(), metav1.DeleteOptions{}))
		w.gone(delivery.RefOf(sent))
		w.eventually("end of the definition", func() error {
			_, err := w.of(definition).Get(w.ctx, definition.GetName(), metav1.GetOptions{})
			if !apierrors.IsNotFound(err) || w.notifications(a) == told {
				return fmt.Errorf("%w, told %d times", err, w.notifications(a)-told)
			}
			return nil
		})
	}
}

const wheelDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: wheels.live.example.com}
spec:
  group: live.example.com
  names: {kind: Wheel, plural: wheels}
  scope: Namespaced
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
  - {name: v1beta1, served: false, storage: false, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
`

// TestWatchOfOneVersionEnds: an object that two watches see is known for as long as one of them lasts.
func TestWatchOfOneVersionEnds(t *testing.T) {
	w := newWorld(t, Options{Grace: 10 * time.Millisecond})
	text := strings.NewReplacer("wheel", "pulley", "Wheel", "Pulley", "served: false", "served: true").Replace(wheelDefinition)
	w.define(text)
	definition := parse(t, text)
	t.Cleanup(func() {
		_ = w.of(definition).Delete(context.WithoutCancel(w.ctx), definition.GetName(), metav1.DeleteOptions{})
	})
	a, b := testApp("a"), testApp("b")
	now := schema.GroupVersionKind{Group: "live.example.com", Version: "v1", Kind: "Pulley"}
	old := now.GroupKind().WithVersion("v1beta1")
	w.ensure(a, old)
	sent, _ := w.ours(a, "apiVersion: live.example.com/v1beta1\nkind: Pulley\nmetadata: {name: p}\nspec: {ropes: 2}\n")
	w.eventually("a watch of the old version", func() error {
		w.ensure(a, old) // a server that did not offer it yet has made the other one do
		if w.watch(old) == nil {
			return errors.New("the new version serves it")
		}
		return nil
	})
	w.ensure(b, now)
	if rec, ok := w.live.Get(delivery.RefOf(sent)); !ok || rec.Version != "v1beta1" {
		t.Fatalf("there %v, in version %q", ok, rec.Version)
	}
	w.ensure(a, now)
	w.eventually("the other watch to tell of it", func() error {
		if rec, ok := w.live.Get(delivery.RefOf(sent)); !ok || rec.Version != "v1" || w.watch(old) != nil {
			return fmt.Errorf("there %v, in version %q, old watch %v", ok, rec.Version, w.watch(old) != nil)
		}
		return nil
	})
	w.ensure(a, now)
}

// TestServerWithoutWatchList: what only such a server refuses is no fault of the kind.
func TestServerWithoutWatchList(t *testing.T) {
	invalid := apierrors.NewInvalid(schema.GroupKind{Group: "meta.k8s.io", Kind: "ListOptions"}, "", nil)
	for name, c := range map[string]struct {
		asked bool
		err   error
		want  bool
	}{
		"it does not know the request": {true, invalid, true},
		"another watch":                {false, invalid, false},
		"no rights":                    {true, apierrors.NewForbidden(schema.GroupResource{}, "", nil), false},
		"all is well":                  {true, nil, false},
	} {
		o := metav1.ListOptions{}
		if c.asked {
			o.SendInitialEvents = &c.asked
		}
		if got := noWatchList(o, c.err); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestOtherVersionServes has an app name a version that the server does not serve, until it does.
func TestOtherVersionServes(t *testing.T) {
	w := newWorld(t, Options{})
	a := testApp("a")
	w.define(wheelDefinition)
	definition := parse(t, wheelDefinition)
	t.Cleanup(func() {
		_ = w.of(definition).Delete(context.WithoutCancel(w.ctx), definition.GetName(), metav1.DeleteOptions{})
	})
	wheels := schema.GroupVersionKind{Group: "live.example.com", Version: "v1", Kind: "Wheel"}
	old := wheels.GroupKind().WithVersion("v1beta1")
	text := "apiVersion: live.example.com/%s\nkind: Wheel\nmetadata: {name: w}\nspec: {spokes: 36}\n"
	sent, _ := w.ours(a, fmt.Sprintf(text, "v1"))
	w.ensure(a, old)
	if rec, ok := w.live.Get(delivery.RefOf(sent)); !ok || rec.Version != "v1" || w.watch(old) != nil {
		t.Fatalf("there %v, in version %q", ok, rec.Version)
	}
	serve := []byte(`[{"op": "replace", "path": "/spec/versions/1/served", "value": true}]`)
	_, err := w.of(definition).Patch(w.ctx, definition.GetName(), types.JSONPatchType, serve, metav1.PatchOptions{})
	w.must(err)
	w.eventually("the version that is served now", func() error {
		_, err := w.cluster.Self().Resource(old, w.ns)
		return err
	})
	w.eventually("an apply in that version", func() error {
		again := parse(t, fmt.Sprintf(text, "v1beta1"))
		again.SetNamespace(w.ns)
		again.SetLabels(map[string]string{ownerLabel: "a"})
		_, err := w.repair(again, false)
		return err
	})
	w.ensure(a, old)
	if rec, ok := w.live.Get(delivery.RefOf(sent)); !ok || rec.Version != "v1beta1" || w.watch(old) == nil {
		t.Errorf("there %v, in version %q", ok, rec.Version)
	}
}

func TestVersion(t *testing.T) {
	for _, kind := range []string{"ConfigMap", "Secret"} {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t, Options{Grace: 100 * time.Millisecond})
			a := delivery.ID{Kind: "App", Namespace: w.ns, Name: "a"}
			b := delivery.ID{Kind: "App", Namespace: w.ns, Name: "b"}
			is := func(what string, want func() string) {
				t.Helper()
				w.eventually(what, func() error {
					for _, app := range []delivery.ID{a, b} {
						version, known, err := w.live.Version(app, kind, w.ns, "vars")
						if err != nil || !known || version != want() {
							return fmt.Errorf("version %q, want %q, known %v, %w", version, want(), known, err)
						}
					}
					return nil
				})
			}
			if _, known, err := w.live.Version(a, kind, w.ns, "vars"); known || err != nil {
				t.Errorf("known %v before the first list, %v", known, err)
			}
			is("absence", func() string { return "" })
			told := w.notifications(a)
			u := w.create("v1", kind, w.ns, `{"metadata": {"name": "vars"}, "data": {"k": "dg=="}}`)
			version := func() string { return string(u.GetUID()) + "/" + u.GetResourceVersion() }
			is("presence", version)
			if w.notifications(a) == told {
				t.Error("the app was not told")
			}
			var err error
			u, err = w.of(u).Patch(w.ctx, "vars", types.MergePatchType, []byte(`{"data": {"k": "dw=="}}`), metav1.PatchOptions{})
			w.must(err)
			is("change", version)
			w.create("v1", kind, w.ns, `{"metadata": {"name": "another"}}`)
			w.must(w.of(u).Delete(w.ctx, "vars", metav1.DeleteOptions{}))
			is("deletion", func() string { return "" })

			ref := reference{kind, w.ns, "vars"}
			w.live.References(a, nil)
			w.live.References(b, []delivery.VarsRef{{Kind: kind, Name: "vars"}})
			time.Sleep(2 * w.live.opts.Grace)
			if w.source(ref) == nil {
				t.Error("the watch ended although an app refers to the object")
			}
			w.live.Forget(b)
			w.eventually("end of the watch", func() error {
				if w.source(ref) != nil {
					return errors.New("still there")
				}
				return nil
			})
			is("a new start", func() string { return "" })
		})
	}
}

func (w *world) source(ref reference) *sourceWatch {
	w.live.mu.RLock()
	defer w.live.mu.RUnlock()
	return w.live.sources[ref]
}

// TestVersionWithoutRights has the server refuse the watches until the rights come.
func TestVersionWithoutRights(t *testing.T) {
	w := newWorld(t, Options{})
	config := rest.CopyConfig(cluster.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "nobody-" + w.ns}
	restricted, err := kube.NewCluster(config)
	w.must(err)
	w.live = New(w.ctx, restricted, w.live.opts)
	a := testApp("a")
	var refused error
	w.eventually("refusal", func() error {
		var known bool
		if _, known, refused = w.live.Version(a, "Secret", w.ns, "vars"); refused == nil {
			return fmt.Errorf("known %v", known)
		}
		return nil
	})
	if !apierrors.IsForbidden(refused) {
		t.Errorf("error %v", refused)
	}
	w.eventually("refusal of a kind", func() error {
		if _, err := w.live.Ensure(a, map[schema.GroupVersionKind]bool{configMaps: true}); !apierrors.IsForbidden(err) {
			return fmt.Errorf("error %w", err)
		}
		return nil
	})
	role := w.create("rbac.authorization.k8s.io/v1", "ClusterRole", "", fmt.Sprintf(`{"metadata": {"name": %q},
		"rules": [{"apiGroups": ["", "autoscaling"], "resources": ["*"], "verbs": ["list", "watch"]}]}`, w.ns))
	binding := w.create("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "", fmt.Sprintf(`{"metadata": {"name": %q},
		"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": %q},
		"subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": %q}]}`, w.ns, w.ns, config.Impersonate.UserName))
	t.Cleanup(func() {
		_ = w.of(role).Delete(context.WithoutCancel(w.ctx), w.ns, metav1.DeleteOptions{})
		_ = w.of(binding).Delete(context.WithoutCancel(w.ctx), w.ns, metav1.DeleteOptions{})
	})
	w.eventually("recovery", func() error {
		if version, known, err := w.live.Version(a, "Secret", w.ns, "vars"); err != nil || !known || version != "" {
			return fmt.Errorf("%q, known %v, %w", version, known, err)
		}
		return nil
	})
	w.ensure(a, configMaps)
}

func TestVersionOfAnotherKind(t *testing.T) {
	w := newWorld(t, Options{})
	if _, _, err := w.live.Version(testApp("a"), "Pod", w.ns, "x"); err == nil || !strings.Contains(err.Error(), "cannot be referred to") {
		t.Errorf("error %v", err)
	}
}

// templates are the objects of a typical app as the server returns them.
func templates(tb testing.TB) []*unstructured.Unstructured {
	tb.Helper()
	c, err := kube.NewCluster(cluster.Config)
	if err != nil {
		tb.Fatal(err)
	}
	var out []*unstructured.Unstructured
	data := strings.Repeat("0123456789abcdef", 64)
	labels := "labels: {app.kubernetes.io/name: web, app.kubernetes.io/managed-by: keelson, owner: a}"
	for _, s := range []string{
		strings.Replace(fmt.Sprintf(deploymentText, "template", "\n  replicas: 0"), "labels: {owner: oracle, app: web}", labels, 1),
		"apiVersion: v1\nkind: Service\nmetadata: {name: template, " + labels + "}\nspec: {selector: {app: web}, ports: [{name: http, port: 80}]}\n",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: template, " + labels + "}\ndata: {conf: " + data + "}\n",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: template2, " + labels + "}\ndata: {conf: " + data + "}\n",
		"apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: template, " + labels + "}\n",
	} {
		u := &unstructured.Unstructured{Object: parseYAML(tb, s)}
		u.SetNamespace("default")
		r, err := c.Self().Resource(u.GroupVersionKind(), "default")
		if err != nil {
			tb.Fatal(err)
		}
		force := true
		got, err := r.Patch(tb.Context(), u.GetName(), types.ApplyPatchType, []byte(text(u.Object)), metav1.PatchOptions{FieldManager: kube.FieldManager, Force: &force})
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, got)
		tb.Cleanup(func() { _ = r.Delete(context.WithoutCancel(tb.Context()), u.GetName(), metav1.DeleteOptions{}) })
	}
	return out
}

// unwatched is a memory whose events come from the test.
func unwatched(kinds ...schema.GroupVersionKind) (*Live, map[schema.GroupVersionKind]*objectStore) {
	l := New(context.Background(), nil, Options{Key: delivery.Key("key"), OwnerOf: ownerOf, Notify: func(delivery.ID, delivery.Ref) {}})
	stores := map[schema.GroupVersionKind]*objectStore{}
	for _, gvk := range kinds {
		w := &kindWatch{use: use{cancel: func() {}}, served: served{key: gvk, gvk: gvk}, kind: gvk.Kind, synced: true}
		l.watches[gvk] = w
		stores[gvk] = &objectStore{live: l, watch: w, ctx: l.ctx}
	}
	return l, stores
}

// bytesPerObject bounds what an object may cost for as long as it is watched.
const bytesPerObject = 512

// TestMemory feeds the objects of 2,000 apps through the stores, as the events of a watch would come, and weighs what stays.
func TestMemory(t *testing.T) {
	const apps = 2000
	objects := templates(t)
	var kinds []schema.GroupVersionKind
	for _, u := range objects {
		kinds = append(kinds, u.GroupVersionKind())
	}
	l, stores := unwatched(kinds...)
	texts := make([]string, len(objects))
	for i, u := range objects {
		texts[i] = text(u.Object)
	}
	before := heap()
	for i := range apps {
		for j, u := range objects {
			fresh := parseJSON(t, texts[j])
			fresh.SetNamespace(fmt.Sprintf("team-%02d", i%50))
			fresh.SetName(fmt.Sprintf("%s-%04d", u.GetName(), i))
			fresh.SetUID(types.UID(fmt.Sprintf("%08d-0000-4000-8000-%012d", j, i)))
			fresh.SetResourceVersion(fmt.Sprintf("%d", 1000000+5*i+j))
			labels := fresh.GetLabels()
			labels[ownerLabel] = fmt.Sprintf("app-%04d", i)
			fresh.SetLabels(labels)
			if err := stores[u.GroupVersionKind()].Add(fresh); err != nil {
				t.Fatal(err)
			}
		}
	}
	n := apps * len(objects)
	per := (heap() - before) / int64(n)
	kept := 0
	for _, records := range l.records {
		kept += len(records)
	}
	t.Logf("%d objects, %d bytes each", kept, per)
	if kept != n || per > bytesPerObject || per < 100 {
		t.Errorf("%d of %d objects kept at %d bytes each; want at most %d (and what is kept cannot be less than 100)", kept, n, per, bytesPerObject)
	}
	runtime.KeepAlive(l)
	rec, ok := l.Get(delivery.Ref{Group: "apps", Kind: "Deployment", Namespace: "team-07", Name: "template-0007"})
	if selector := fmt.Sprint(rec.Fixed["spec.selector"]); !ok || !strings.Contains(selector, "app:web") || rec.Owner != testApp("app-0007") {
		t.Errorf("record %+v", rec)
	}
}

// heap is what is in use after a collection.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // a size
}

// BenchmarkRecord is what an event costs once it is decoded.
func BenchmarkRecord(b *testing.B) {
	for _, u := range templates(b)[:3] {
		b.Run(u.GetKind(), func(b *testing.B) {
			l, _ := unwatched(u.GroupVersionKind())
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.record(u); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkKnownEvent is what the event costs that follows a write of ours.
func BenchmarkKnownEvent(b *testing.B) {
	u := templates(b)[0]
	l, stores := unwatched(u.GroupVersionKind())
	if _, err := l.Observe(u); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := stores[u.GroupVersionKind()].put(u); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecode is what decoding an event costs, for comparison.
func BenchmarkDecode(b *testing.B) {
	body := text(templates(b)[0].Object)
	b.ReportAllocs()
	for b.Loop() {
		parseJSON(b, body)
	}
}

// BenchmarkGet is what a look at a record costs.
func BenchmarkGet(b *testing.B) {
	u := templates(b)[0]
	l, _ := unwatched(u.GroupVersionKind())
	if _, err := l.Observe(u); err != nil {
		b.Fatal(err)
	}
	ref := delivery.RefOf(u)
	b.ReportAllocs()
	for b.Loop() {
		l.Get(ref)
	}
}
