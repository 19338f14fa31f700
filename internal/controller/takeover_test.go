package controller_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/plan"
)

// left reads what another tool left in a cluster (testdata/takeover, exports with managedFields), with its namespaces replaced by
// the test's own.
func (w *world) left(file string, namespaces ...string) []*unstructured.Unstructured {
	w.Helper()
	b, err := os.ReadFile("testdata/takeover/" + file)
	w.must(err)
	var list unstructured.UnstructuredList
	w.must(yaml.Unmarshal(b, &list.Object))
	text, err := json.Marshal(list.Object)
	w.must(err)
	for _, ns := range namespaces {
		for _, form := range []string{`"namespace":%q`, `"kustomize.toolkit.fluxcd.io/namespace":%q`} {
			text = []byte(strings.ReplaceAll(string(text), fmt.Sprintf(form, ns), fmt.Sprintf(form, w.ns)))
		}
		text = []byte(strings.ReplaceAll(string(text), `"id":"`+ns+"_", `"id":"`+w.ns+"_"))
	}
	var out []*unstructured.Unstructured
	w.must(json.Unmarshal(text, &list.Object))
	items, _, err := unstructured.NestedSlice(list.Object, "items")
	w.must(err)
	for _, item := range items {
		u := &unstructured.Unstructured{Object: item.(map[string]any)} //nolint:forcetypeassert // of a list of objects
		data, _, _ := unstructured.NestedString(u.Object, "data", "release")
		if u.GetName() != "kube-root-ca.crt" && !strings.Contains(data, "cut)") {
			out = append(out, u)
		}
	}
	return out
}

// restore puts an object into the cluster as it was exported: its fields, and who owns them.
func (w *world) restore(u *unstructured.Unstructured) *unstructured.Unstructured {
	w.Helper()
	owners := u.GetManagedFields()
	u = u.DeepCopy()
	for _, f := range []string{"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"} {
		unstructured.RemoveNestedField(u.Object, "metadata", f)
	}
	status := u.Object["status"]
	delete(u.Object, "status")
	if svc := u.GetKind() == "Service"; svc { // another cluster, other addresses
		unstructured.RemoveNestedField(u.Object, "spec", "clusterIP")
		unstructured.RemoveNestedField(u.Object, "spec", "clusterIPs")
	}
	w.must(w.client.Create(w.ctx, u, client.FieldOwner("import")))
	if status != nil && u.GetKind() != "Deployment" {
		patch, err := json.Marshal(map[string]any{"status": status})
		w.must(err)
		w.must(w.client.Status().Patch(w.ctx, u, client.RawPatch(types.MergePatchType, patch), client.FieldOwner("import")))
	}
	patch, err := json.Marshal([]map[string]any{{"op": "replace", "path": "/metadata/managedFields", "value": owners}})
	w.must(err)
	w.must(w.client.Patch(w.ctx, u, client.RawPatch(types.JSONPatchType, patch)))
	return u
}

// read gives an object as it is now.
func (w *world) read(u *unstructured.Unstructured) *unstructured.Unstructured {
	w.Helper()
	now := &unstructured.Unstructured{}
	now.SetGroupVersionKind(u.GroupVersionKind())
	w.must(w.client.Get(w.ctx, client.ObjectKeyFromObject(u), now))
	return now
}

// base is the repository that the tools of testdata/takeover delivered.
func base(w *world, folder string) map[string]string {
	return map[string]string{
		folder + "/deployment.yaml": strings.ReplaceAll(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: $ns, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  strategy: {}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: web
          image: registry.example/busybox:1
          env: [{name: MODE, value: prod}]
          ports: [{containerPort: 8080}]
          resources: {}
`, "$ns", w.ns),
		folder + "/service.yaml": strings.ReplaceAll(`
apiVersion: v1
kind: Service
metadata: {name: web, namespace: $ns}
spec: {ports: [{port: 80, targetPort: 8080}], selector: {app: web}}
`, "$ns", w.ns),
		folder + "/ingress.yaml": strings.ReplaceAll(`
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: $ns}
spec:
  rules:
    - host: web.example.com
      http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
`, "$ns", w.ns),
	}
}

func settings(w *world, data string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web, namespace: %s}\ndata: %s\n", w.ns, data)
}

// TestTakeover starts with objects as the field's tools really leave them: nothing is deleted, made anew or changed, and from
// then on what leaves Git leaves the cluster.
func TestTakeover(t *testing.T) {
	tests := map[string]struct {
		file, namespace string
		data            string // of the ConfigMap, as the tool left it
	}{
		"Argo CD":                     {"argo-objects.yaml", "argo", "{a: one, b: two}"},
		"Argo CD, server-side apply":  {"argo-ssa-objects.yaml", "argo-ssa", "{a: one, b: two}"},
		"kubectl apply":               {"kubectl-apply-objects.yaml", "hand", "{a: uno, b: two}"},
		"kubectl apply --server-side": {"kubectl-ssa-objects.yaml", "hand-ssa", "{a: one, b: two}"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			var before []*unstructured.Unstructured
			for _, u := range w.left(tt.file, tt.namespace) {
				before = append(before, w.restore(u))
			}
			files := base(w, "apps/prod")
			files["apps/prod/configmap.yaml"] = settings(w, tt.data)
			rev := w.push(files)
			w.adopt(before, func() {
				w.app("apps", "")
				w.patch("apps", `{"spec":{"path":"./apps/prod","wait":true}}`)
			}, rev)
		})
	}
}

// TestTakeoverFromFlux is the same with what Flux writes into its own kinds: inventory, finalizers, revisions.
func TestTakeoverFromFlux(t *testing.T) {
	w := newWorld(t)
	var before []*unstructured.Unstructured
	for _, u := range w.left("flux-objects.yaml", "prod", "flux-system") {
		before = append(before, w.restore(u))
	}
	files := base(w, "apps/prod")
	files["apps/prod/configmap.yaml"] = settings(w, "{a: one, b: two}")
	rev := w.push(files)
	for _, u := range w.left("flux-crs.yaml", "prod", "flux-system") {
		if u.GetKind() != "Kustomization" {
			continue
		}
		w.must(unstructured.SetNestedField(u.Object, true, "spec", "suspend")) // until its status is there as well
		w.must(unstructured.SetNestedField(u.Object, "repo", "spec", "sourceRef", "name"))
		w.restore(u)
	}
	w.adopt(before, func() { w.patch("apps", `{"spec":{"suspend":false}}`) }, rev)
}

func (w *world) patch(app, patch string) {
	w.Helper()
	w.must(w.client.Patch(w.ctx, &kustomizev1.Kustomization{ObjectMeta: w.named(app)}, client.RawPatch(types.MergePatchType, []byte(patch))))
}

// adopt has the controller deliver objects that are there, and holds that it changes none of them; then that what leaves Git goes.
func (w *world) adopt(before []*unstructured.Unstructured, start func(), rev string) {
	w.Helper()
	if len(before) != 4 {
		w.Fatalf("%d objects to take over", len(before))
	}
	_, from := requests(w.T, 0)
	start()
	w.ready("apps", rev)
	for _, was := range before {
		now := w.read(was)
		if was.GetUID() != now.GetUID() || was.GetGeneration() != now.GetGeneration() {
			w.Errorf("%s %s was made anew or changed: generation %d -> %d", was.GetKind(), was.GetName(), was.GetGeneration(), now.GetGeneration())
		}
		for _, part := range []string{"spec", "data"} {
			if diff := cmp.Diff(was.Object[part], now.Object[part]); diff != "" {
				w.Errorf("%s of %s was changed:\n%s", part, was.GetKind(), diff)
			}
		}
		for key, value := range was.GetAnnotations() {
			if now.GetAnnotations()[key] != value {
				w.Errorf("annotation %s of %s was changed", key, was.GetKind())
			}
		}
		w.ours(now)
	}
	sent, from := requests(w.T, from)
	for _, r := range sent {
		if r.ObjectRef.Namespace == w.ns && r.Verb == "delete" {
			w.Errorf("the takeover sent %s %s", r.Verb, r.RequestURI)
		}
	}
	if n := w.pods(); n > 2 {
		w.Errorf("%d Pods for 2 replicas: they were restarted", n)
	}

	// one field and one object leave Git: exactly these go
	keep := w.data("web")["a"]
	rev = w.push(map[string]string{"apps/prod/configmap.yaml": settings(w, fmt.Sprintf("{a: %s}", keep)), "apps/prod/ingress.yaml": ""})
	w.ready("apps", rev)
	if diff := cmp.Diff(map[string]string{"a": keep}, w.data("web")); diff != "" {
		w.Errorf("data after b left Git:\n%s", diff)
	}
	sent, _ = requests(w.T, from)
	var deleted []string
	for _, r := range sent {
		if r.ObjectRef.Namespace == w.ns && r.Verb == "delete" {
			deleted = append(deleted, r.ObjectRef.Resource+"/"+r.ObjectRef.Name)
		}
	}
	if diff := cmp.Diff([]string{"ingresses/web"}, deleted); diff != "" {
		w.Errorf("deleted:\n%s", diff)
	}
	for _, was := range before[:2] {
		if now := w.read(was); now.GetGeneration() != was.GetGeneration() {
			w.Errorf("%s was changed by a commit that leaves it as it is", was.GetKind())
		}
	}
}

// ours checks that no other tool owns a field that we own.
func (w *world) ours(u *unstructured.Unstructured) {
	w.Helper()
	if t, more, err := plan.TakeOver(u, "keelson"); err != nil || more {
		w.Errorf("%s: fields are still those of %v (%v)", u.GetKind(), t.From, err)
	}
}

// pods counts the Pods in the test's namespace.
func (w *world) pods() int {
	w.Helper()
	var pods metav1.PartialObjectMetadataList
	pods.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
	w.must(w.client.List(w.ctx, &pods, client.InNamespace(w.ns)))
	return len(pods.Items)
}

// TestTakeoverFromHelm takes over what a Helm release left, which says nothing of what a person had asked for.
func TestTakeoverFromHelm(t *testing.T) {
	w := newWorld(t)
	var was *unstructured.Unstructured
	for _, u := range w.left("helm3.yaml", "helm3") {
		was = w.restore(u)
	}
	manifest := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web-cm, namespace: " + w.ns + "}\ndata: "
	rev := w.push(map[string]string{"app/cm.yaml": manifest + "{msg: two}\n"})
	w.app("app", "")
	w.ready("app", rev)
	now := w.read(was)
	if now.GetUID() != was.GetUID() || now.GetLabels()["app.kubernetes.io/managed-by"] != "Helm" || now.GetAnnotations()["meta.helm.sh/release-name"] != "web" {
		t.Errorf("the takeover changed the release's marks: %v %v", now.GetLabels(), now.GetAnnotations())
	}
	w.ours(now)
	w.ready("app", w.push(map[string]string{"app/cm.yaml": manifest + "{other: three}\n"}))
	if diff := cmp.Diff(map[string]string{"other": "three"}, w.data("web-cm")); diff != "" {
		t.Errorf("data after msg left Git:\n%s", diff)
	}
}

// TestToolAppliesToo has a person apply with kubectl what the app has applied: the field is ours alone again, and goes with Git.
func TestToolAppliesToo(t *testing.T) {
	w := newWorld(t)
	w.app("app", "")
	manifest := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: " + w.ns + "}\ndata: "
	w.ready("app", w.push(map[string]string{"app/cm.yaml": manifest + "{a: one, b: two}\n"}))
	w.apply(manifest + "{a: one, b: two}\n") // as the manager "kubectl"
	w.event("app", "DriftRepaired", "applied by kubectl as well")
	w.ready("app", w.push(map[string]string{"app/cm.yaml": manifest + "{a: one}\n"}))
	if diff := cmp.Diff(map[string]string{"a": "one"}, w.data("settings")); diff != "" {
		t.Errorf("data after b left Git:\n%s", diff)
	}
}

// TestTakeoverPrunesNothingUnasked has an inventory with an object that the commit does not hold, though Flux says to have
// delivered that very commit.
func TestTakeoverPrunesNothingUnasked(t *testing.T) {
	w := newWorld(t)
	running.stop()
	rev := w.push(map[string]string{"apps/prod/configmap.yaml": settings(w, "{a: one, b: two}"), "apps/prod/more.yaml": w.configMap("more", "1")})
	for _, u := range w.left("flux-objects.yaml", "prod", "flux-system") {
		if u.GetKind() == "ConfigMap" || u.GetKind() == "Service" {
			w.restore(u)
		}
	}
	for _, u := range w.left("flux-crs.yaml", "prod", "flux-system") {
		if u.GetKind() != "Kustomization" {
			continue
		}
		w.must(unstructured.SetNestedField(u.Object, "repo", "spec", "sourceRef", "name"))
		w.restore(u)
		k := w.kustomization("apps")
		patch := fmt.Sprintf(`{"status":{"lastAppliedRevision":%q,"observedGeneration":%d}}`, rev, k.Generation)
		w.must(w.client.Status().Patch(w.ctx, k, client.RawPatch(types.MergePatchType, []byte(patch))))
	}
	w.must(running.start())
	w.condition("apps", metav1.ConditionFalse, "ConfirmationRequired", "Service/"+w.ns+"/web", "another controller left in the inventory")
	w.annotate("apps", dialect.ConfirmAnnotation, w.head)
	w.ready("apps", rev)
}

// TestBootstrappedRepository delivers the layout that "flux bootstrap" leaves, with Flux's own manifests in it.
func TestBootstrappedRepository(t *testing.T) {
	w := newWorld(t)
	definition, err := os.ReadFile("../../config/crd/kustomize.toolkit.fluxcd.io_kustomizations.yaml")
	w.must(err)
	older := strings.Replace(string(definition), "              healthCheckExprs:\n", "              healthCheckExprsOfYore:\n", 1)
	if older == string(definition) {
		t.Fatal("the definition has no field healthCheckExprs")
	}
	sync := func(name, path, extra string) string {
		return fmt.Sprintf(`---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: %s, namespace: %s}
spec: {interval: 1h, retryInterval: 2s, path: %s, prune: true, sourceRef: {kind: GitRepository, name: repo}%s}
`, name, w.ns, path, extra)
	}
	labels := fmt.Sprintf("namespace: %s, labels: {app.kubernetes.io/part-of: flux, app.kubernetes.io/component: source-controller}", w.ns)
	rev := w.push(map[string]string{
		"clusters/prod/flux-system/gotk-components.yaml": older + fmt.Sprintf(`---
apiVersion: v1
kind: ServiceAccount
metadata: {name: source-controller, %s}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: source-controller, %s}
spec:
  selector: {matchLabels: {app: source-controller}}
  template:
    metadata: {labels: {app: source-controller}}
    spec: {containers: [{name: manager, image: ghcr.io/fluxcd/source-controller:v1.9.1}]}
`, labels, labels),
		"clusters/prod/flux-system/gotk-sync.yaml":     sync("flux-system", "./clusters/prod", ""),
		"clusters/prod/flux-system/kustomization.yaml": "resources: [gotk-components.yaml, gotk-sync.yaml]\n",
		"clusters/prod/infrastructure.yaml":            sync("infrastructure", "./infrastructure", ", wait: true"),
		"clusters/prod/apps.yaml":                      sync("apps", "./apps/prod", ", dependsOn: [{name: infrastructure}]"),
		"infrastructure/cm.yaml":                       w.configMap("issuer", "1"),
		"apps/base/cm.yaml":                            w.configMap("web", "base"),
		"apps/base/kustomization.yaml":                 "resources: [cm.yaml]\n",
		"apps/prod/kustomization.yaml":                 "resources: [../base]\npatches:\n  - target: {kind: ConfigMap}\n    patch: |-\n      - {op: replace, path: /data/v, value: prod}\n",
	})
	w.apply(sync("flux-system", "./clusters/prod", ""))
	for _, app := range []string{"flux-system", "infrastructure", "apps"} {
		w.ready(app, rev)
	}
	w.value("issuer", "1")
	w.value("web", "prod")
	w.must(w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "source-controller"}, &corev1.ServiceAccount{}))
	if err := w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "source-controller"}, &appsv1.Deployment{}); !apierrors.IsNotFound(err) {
		t.Errorf("Flux's own controller was installed: %v", err)
	}
	skipped := meta.FindStatusCondition(w.kustomization("flux-system").Status.Conditions, dialect.SkippedCondition)
	for _, part := range []string{"Deployment/" + w.ns + "/source-controller", "CustomResourceDefinition/kustomizations.kustomize.toolkit.fluxcd.io"} {
		if skipped == nil || !strings.Contains(skipped.Message, part) {
			t.Errorf("condition %+v does not tell that %s is left out", skipped, part)
		}
	}
	for _, e := range w.kustomization("flux-system").Status.Inventory.Entries {
		if strings.HasSuffix(e.ID, "_Deployment") || strings.HasSuffix(e.ID, "_CustomResourceDefinition") {
			t.Errorf("the inventory has %s, which was never applied", e.ID)
		}
	}
}

// TestTakeoverOfAutoscaled takes over what an autoscaler has left at the number of Git: nobody but the tool owns it.
func TestTakeoverOfAutoscaled(t *testing.T) {
	for _, file := range []string{"kubectl-apply-objects.yaml", "kubectl-ssa-objects.yaml"} {
		t.Run(file, func(t *testing.T) {
			w := newWorld(t)
			var web *unstructured.Unstructured
			for _, u := range w.left(file, "hand", "hand-ssa") {
				if u.GetKind() == "Deployment" {
					web = w.restore(u)
				}
			}
			scaler := strings.ReplaceAll(`
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: $ns}
spec: {minReplicas: 2, maxReplicas: 9, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}
`, "$ns", w.ns)
			w.apply(scaler)
			w.app("app", "")
			w.ready("app", w.push(map[string]string{"app/web.yaml": base(w, "app")["app/deployment.yaml"], "app/hpa.yaml": scaler}))
			now := w.read(web)
			if n, _, _ := unstructured.NestedInt64(now.Object, "spec", "replicas"); n != 2 || now.GetGeneration() != web.GetGeneration() {
				t.Errorf("%d replicas, generation %d -> %d", n, web.GetGeneration(), now.GetGeneration())
			}
			w.ours(now)
		})
	}
}

// TestShard works on the apps with a label only, and does not take what an app of another shard owns.
func TestShard(t *testing.T) {
	w := newWorld(t)
	w.push(map[string]string{"mine/a.yaml": w.configMap("a", "mine"), "both/b.yaml": w.configMap("b", "mine")})
	running.stop()
	w.apply(strings.Replace(w.configMap("b", "theirs"), "namespace: "+w.ns, fmt.Sprintf(
		"namespace: %[1]s, labels: {kustomize.toolkit.fluxcd.io/name: theirs, kustomize.toolkit.fluxcd.io/namespace: %[1]s}", w.ns), 1))
	running.shard = labels.SelectorFromSet(labels.Set{"sharding.fluxcd.io/key": "mine"})
	w.must(running.start())
	t.Cleanup(func() {
		running.stop()
		running.shard = nil
		if err := running.start(); err != nil {
			t.Error(err)
		}
	})
	label := func(obj client.Object) {
		w.must(w.client.Patch(w.ctx, obj, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"sharding.fluxcd.io/key":"mine"}}}`))))
	}
	w.app("theirs", "")
	w.must(w.client.Status().Patch(w.ctx, &kustomizev1.Kustomization{ObjectMeta: w.named("theirs")}, client.RawPatch(types.MergePatchType,
		[]byte(`{"status":{"inventory":{"entries":[{"id":"`+w.ns+`_b__ConfigMap","v":"v1"}]}}}`))))
	label(&sourcev1.GitRepository{ObjectMeta: w.named("repo")})
	for _, app := range []string{"mine", "both"} {
		w.app(app, "")
		label(&kustomizev1.Kustomization{ObjectMeta: w.named(app)})
	}
	w.ready("mine", "")
	w.value("a", "mine")
	w.condition("both", metav1.ConditionFalse, "OwnershipConflict", "Kustomization/"+w.ns+"/theirs")
	b := &corev1.ConfigMap{ObjectMeta: w.named("b")}
	w.edit(b, "a-person", func() { b.Data["more"] = "1" }) // an event about it changes nothing
	w.annotate("both", "reconcile.fluxcd.io/requestedAt", "now")
	w.condition("both", metav1.ConditionFalse, "OwnershipConflict")
	w.value("b", "theirs")
	if k := w.kustomization("theirs"); len(k.Status.Conditions) > 0 || len(k.Finalizers) > 0 {
		t.Errorf("an app of another shard was touched: %+v", k.Status)
	}
}
