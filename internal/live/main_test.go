package live

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/test/testcluster"
)

// cluster is shared by the package's tests.
var cluster *testcluster.Cluster

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(testcluster.Main(m, &cluster))
}

// ownerLabel marks an object as an app's in these tests; its value is the app's name.
const ownerLabel = "owner"

func ownerOf(labels map[string]string) delivery.ID {
	if labels[ownerLabel] == "" {
		return delivery.ID{}
	}
	return testApp(labels[ownerLabel])
}

func testApp(name string) delivery.ID { return delivery.ID{Kind: "App", Namespace: "test", Name: name} }

// world is one test's corner of the cluster: a namespace, and a memory of its own.
type world struct {
	*testing.T
	ctx     context.Context
	cluster *kube.Cluster
	live    *Live
	ns      string

	mu   sync.Mutex
	told map[delivery.ID]int
}

// limit bounds every wait.
const limit = 60 * time.Second

func newWorld(t *testing.T, opts Options) *world {
	t.Helper()
	c, err := kube.NewCluster(cluster.Config)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, ctx: t.Context(), cluster: c, told: map[delivery.ID]int{}}
	opts.Selector, opts.OwnerOf = ownerLabel, ownerOf
	opts.Notify = func(app delivery.ID, _ delivery.Ref) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.told[app]++
	}
	w.live = New(w.ctx, c, opts)
	w.ns = w.create("v1", "Namespace", "", `{"metadata": {"generateName": "live-"}}`).GetName()
	t.Cleanup(func() {
		r := w.resource(schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}, "")
		_ = r.Delete(context.WithoutCancel(w.ctx), w.ns, metav1.DeleteOptions{})
	})
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// eventually waits until check no longer gives an error.
func (w *world) eventually(what string, check func() error) {
	w.Helper()
	var err error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	w.Fatalf("%s: still after %s: %v", what, limit, err)
}

// notifications counts how often an app was told of something.
func (w *world) notifications(app delivery.ID) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.told[app]
}

func (w *world) resource(gvk schema.GroupVersionKind, ns string) dynamic.ResourceInterface {
	w.Helper()
	r, err := w.cluster.Self().Resource(gvk, ns)
	w.must(err)
	return r
}

func (w *world) of(u *unstructured.Unstructured) dynamic.ResourceInterface {
	w.Helper()
	return w.resource(u.GroupVersionKind(), u.GetNamespace())
}

// create makes an object given as JSON.
func (w *world) create(apiVersion, kind, ns, text string) *unstructured.Unstructured {
	w.Helper()
	u := &unstructured.Unstructured{}
	w.must(json.Unmarshal([]byte(text), &u.Object))
	u.SetAPIVersion(apiVersion)
	u.SetKind(kind)
	u.SetNamespace(ns)
	out, err := w.of(u).Create(w.ctx, u, metav1.CreateOptions{FieldManager: "tester"})
	w.must(err)
	return out
}

// apply sends an object as Keelson does.
func (w *world) apply(u *unstructured.Unstructured, dryRun bool) (*unstructured.Unstructured, error) {
	return w.send(u, kube.FieldManager, true, dryRun)
}

func (w *world) send(u *unstructured.Unstructured, manager string, force, dryRun bool) (*unstructured.Unstructured, error) {
	body, err := json.Marshal(u.Object)
	if err != nil {
		return nil, err
	}
	opts := metav1.PatchOptions{FieldManager: manager, Force: &force}
	if dryRun {
		opts.DryRun = []string{metav1.DryRunAll}
	}
	return w.of(u).Patch(w.ctx, u.GetName(), types.ApplyPatchType, body, opts)
}

// ours applies an object given as YAML as Keelson does, in the test's namespace and labelled as the app's, and gives what it
// left behind.
func (w *world) ours(app delivery.ID, text string) (sent *unstructured.Unstructured, left delivery.Applied) {
	w.Helper()
	sent = parse(w.T, text)
	sent.SetNamespace(w.ns)
	labels := sent.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[ownerLabel] = app.Name
	sent.SetLabels(labels)
	left, err := w.repair(sent, false)
	w.must(err)
	return sent, left
}

// repair applies an object and gives what that left behind.
func (w *world) repair(u *unstructured.Unstructured, autoscaled bool) (delivery.Applied, error) {
	out, err := w.apply(u, false)
	if err != nil {
		return delivery.Applied{}, err
	}
	rec, err := w.live.Observe(out)
	if err != nil {
		return delivery.Applied{}, err
	}
	left := delivery.Applied{Owned: rec.Owned, Replicas: -1, Autoscaled: autoscaled}
	if n, ok, _ := unstructured.NestedInt64(u.Object, "spec", "replicas"); ok && !autoscaled {
		left.Replicas = n
	}
	return left, nil
}

// ensure waits until everything about the kinds is known.
func (w *world) ensure(app delivery.ID, kinds ...schema.GroupVersionKind) {
	w.Helper()
	set := map[schema.GroupVersionKind]bool{}
	for _, k := range kinds {
		set[k] = true
	}
	w.eventually("watches of "+app.Name, func() error {
		synced, err := w.live.Ensure(app, set)
		if err == nil && !synced {
			err = fmt.Errorf("not synced")
		}
		return err
	})
}

// seen waits until the watch has told of a resource version of an object or of a later one.
func (w *world) seen(u *unstructured.Unstructured) {
	w.Helper()
	w.eventually(fmt.Sprintf("event of %s at %s", delivery.RefOf(u), u.GetResourceVersion()), func() error {
		rec, ok := w.live.Get(delivery.RefOf(u))
		if !ok || newer(u.GetResourceVersion(), rec.ResourceVersion) {
			return fmt.Errorf("there %v, at %s", ok, rec.ResourceVersion)
		}
		return nil
	})
}

// gone waits until an object is no longer known.
func (w *world) gone(ref delivery.Ref) {
	w.Helper()
	w.eventually("loss of "+ref.String(), func() error {
		if rec, ok := w.live.Get(ref); ok {
			return fmt.Errorf("still at %s", rec.ResourceVersion)
		}
		return nil
	})
}

// define installs a CustomResourceDefinition and waits until it is served.
func (w *world) define(text string) {
	w.Helper()
	u := parse(w.T, text)
	_, err := w.of(u).Create(w.ctx, u, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		w.Fatal(err)
	}
	w.eventually("definition "+u.GetName(), func() error {
		got, err := w.of(u).Get(w.ctx, u.GetName(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		conditions, _, _ := unstructured.NestedSlice(got.Object, "status", "conditions")
		for _, c := range conditions {
			if m, _ := c.(map[string]any); m["type"] == "Established" && m["status"] == "True" {
				return nil
			}
		}
		return fmt.Errorf("conditions %v", conditions)
	})
	// Discovery offers the versions a moment later, each for itself.
	var definition struct {
		Spec struct {
			Group    string
			Names    struct{ Kind string }
			Versions []struct {
				Name   string
				Served bool
			}
		}
	}
	w.must(runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &definition))
	for _, v := range definition.Spec.Versions {
		gvk := schema.GroupVersionKind{Group: definition.Spec.Group, Version: v.Name, Kind: definition.Spec.Names.Kind}
		if !v.Served {
			continue
		}
		w.eventually("discovery of "+gvk.String(), func() error {
			_, err := w.cluster.Self().Resource(gvk, w.ns)
			return err
		})
	}
}
