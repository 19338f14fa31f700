package controller_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"

	"keelson.dev/keelson/internal/kube"
)

func TestImmutableFieldIsExplainedBeforeAnythingIsApplied(t *testing.T) {
	w := newWorld(t)
	w.app("app", "")
	web := strings.ReplaceAll(deployment, "$ns", w.ns)
	w.ready("app", w.push(map[string]string{"app/web.yaml": web, "app/a.yaml": w.configMap("a", "1")}))
	w.push(map[string]string{
		"app/a.yaml":   w.configMap("a", "2"),
		"app/web.yaml": strings.ReplaceAll(web, "{app: web}", "{app: web, tier: front}"),
	})
	w.condition("app", metav1.ConditionFalse, "ImmutableField", "app/web.yaml", `spec.selector cannot be changed from "app=web" to "app=web,tier=front"`)
	if got := w.data("a")["v"]; got != "1" {
		t.Errorf("half of the commit was applied: a is %q", got)
	}
}

func TestServiceAccountMayNotTouch(t *testing.T) {
	w := newWorld(t)
	w.apply(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: deployer}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: deployer}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [create, patch, delete]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: deployer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: deployer}
subjects: [{kind: ServiceAccount, name: deployer}]
`)
	w.app("app", "  serviceAccountName: deployer")
	w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "1")}))
	secret := fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: %s}\nstringData: {k: hush}\n", w.ns)
	w.push(map[string]string{"app/a.yaml": w.configMap("a", "2"), "app/s.yaml": secret})
	w.condition("app", metav1.ConditionFalse, "Forbidden", "Secret/"+w.ns+"/s", "system:serviceaccount:"+w.ns+":deployer", "create")
	if got := w.data("a")["v"]; got != "1" {
		t.Errorf("half of the commit was applied: a is %q", got)
	}
	// Once it may, the same commit goes through by itself.
	w.apply(`
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: deployer}
rules: [{apiGroups: [""], resources: [configmaps, secrets], verbs: [create, patch, delete]}]
`)
	w.ready("app", "main@sha1:"+w.head)
	w.value("a", "2")
	for _, e := range w.events("app") {
		if strings.Contains(e, "hush") || strings.Contains(e, "aHVzaA") {
			t.Errorf("an event tells a secret: %s", e)
		}
	}
}

const crd = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.$ns.example.com}
spec:
  group: $ns.example.com
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget, listKind: WidgetList}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

const widget = `
apiVersion: $ns.example.com/v1
kind: Widget
metadata: {name: w, namespace: $ns}
spec: {size: 1}
`

func (w *world) widget() (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	u.SetAPIVersion(w.ns + ".example.com/v1")
	u.SetKind("Widget")
	return u, w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "w"}, u)
}

// has fails the test unless an object was found.
func (w *world) has(_ *unstructured.Unstructured, err error) {
	w.Helper()
	w.must(err)
}

func TestCRDAndItsObjectsInOneApp(t *testing.T) {
	w := newWorld(t)
	w.app("app", "")
	w.ready("app", w.push(map[string]string{
		"app/a-widget.yaml": strings.ReplaceAll(widget, "$ns", w.ns), "app/crd.yaml": strings.ReplaceAll(crd, "$ns", w.ns),
	}))
	w.has(w.widget())
}

func TestCRDAfterItsObjects(t *testing.T) {
	w := newWorld(t)
	w.app("app", "")
	w.push(map[string]string{
		"app/w.yaml": strings.ReplaceAll(widget, "$ns", w.ns), "app/a.yaml": w.configMap("a", "1"), "crds/crd.yaml": strings.ReplaceAll(crd, "$ns", w.ns),
	})
	w.condition("app", metav1.ConditionFalse, "KindNotFound", "app/w.yaml", "no kind Widget")
	if w.data("a") != nil {
		t.Error("half of the commit was applied")
	}
	w.app("crds", "")
	w.ready("app", "main@sha1:"+w.head)
	w.has(w.widget())
}

func TestSecondClaimantWaits(t *testing.T) {
	w := newWorld(t)
	w.push(map[string]string{"one/a.yaml": w.configMap("a", "one"), "two/a.yaml": w.configMap("a", "two"), "two/b.yaml": w.configMap("b", "two")})
	w.app("one", "")
	w.ready("one", "")
	w.app("two", "")
	w.condition("two", metav1.ConditionFalse, "OwnershipConflict", "ConfigMap/"+w.ns+"/a", "Kustomization/"+w.ns+"/one")
	w.value("a", "one")
	if w.data("b") != nil {
		t.Error("the second claimant applied half of its objects")
	}
	// The first lets go: the second takes over.
	w.annotate("one", "keelson.dev/allow-empty", "true")
	w.annotate("one", "keelson.dev/max-prune-percent", "100")
	w.push(map[string]string{"one/a.yaml": "", "one/kustomization.yaml": "resources: []\n"})
	w.ready("two", "main@sha1:"+w.head)
	w.value("a", "two")
	// Deleting the first does not touch what is no longer its.
	w.must(w.client.Delete(w.ctx, &kustomizev1.Kustomization{ObjectMeta: w.named("one")}))
	w.gone("one")
	w.value("a", "two")
}

// gone waits until an app has been finalized.
func (w *world) gone(app string) {
	w.Helper()
	w.eventually("deletion of "+app, func() error {
		err := w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: app}, &kustomizev1.Kustomization{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("still there: %w", err)
	})
}

func TestDependenciesAndHealth(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	broken := strings.ReplaceAll(strings.ReplaceAll(deployment, "$ns", w.ns),
		"metadata: {labels: {app: web}}", "metadata: {labels: {app: web}, annotations: {keelson.dev/simulate: CrashLoopBackOff}}")
	w.app("base", "  wait: true")
	w.app("top", "  dependsOn: [{name: base}]")
	w.push(map[string]string{"base/web.yaml": broken, "top/a.yaml": w.configMap("a", "1")})
	w.condition("top", metav1.ConditionUnknown, "DependencyNotReady", "waiting for dependency '"+w.ns+"/base'")
	w.condition("base", metav1.ConditionFalse, "HealthCheckFailed", "not healthy after 30s", "Deployment/"+w.ns+"/web")
	w.condition("top", metav1.ConditionFalse, "DependencyNotReady", "'"+w.ns+"/base'", "not ready")
	if w.data("a") != nil {
		t.Error("applied before its dependency was ready")
	}
	rev := w.push(map[string]string{"base/web.yaml": strings.ReplaceAll(deployment, "$ns", w.ns)})
	w.ready("base", rev)
	w.ready("top", rev)
	w.value("a", "1")
}

func TestDependencyCycleAndUnknown(t *testing.T) {
	w := newWorld(t)
	w.push(map[string]string{"a/a.yaml": w.configMap("a", "1"), "b/b.yaml": w.configMap("b", "1"), "c/c.yaml": w.configMap("c", "1")})
	w.app("a", "  dependsOn: [{name: b}]")
	w.app("b", "  dependsOn: [{name: a}]")
	w.app("c", "  dependsOn: [{name: nobody}]")
	w.condition("a", metav1.ConditionFalse, "DependencyNotReady", "in turn")
	w.condition("c", metav1.ConditionFalse, "DependencyNotReady", "nobody", "does not exist")
}

func TestSuspendAndDelete(t *testing.T) {
	w := newWorld(t)
	w.app("app", "")
	w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "1")}))
	suspend := func(v bool) {
		patch := fmt.Sprintf(`{"spec":{"suspend":%v}}`, v)
		w.must(w.client.Patch(w.ctx, &kustomizev1.Kustomization{ObjectMeta: w.named("app")}, client.RawPatch("application/merge-patch+json", []byte(patch))))
	}
	suspend(true)
	rev := w.push(map[string]string{"app/a.yaml": w.configMap("a", "2")})
	w.eventually("source", func() error {
		if c, err := w.sourceReady("repo"); err != nil || !strings.Contains(c.Message, w.head) {
			return fmt.Errorf("%q: %w", c.Message, errors.Join(err, errors.New("not there yet")))
		}
		return nil
	})
	if got := w.data("a")["v"]; got != "1" {
		t.Errorf("a suspended app was delivered: %q", got)
	}
	suspend(false)
	w.ready("app", rev)
	w.value("a", "2")
	w.must(w.client.Delete(w.ctx, &kustomizev1.Kustomization{ObjectMeta: w.named("app")}))
	w.gone("app")
	w.value("a", "")
}

func TestVariables(t *testing.T) {
	w := newWorld(t)
	w.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: vars}\ndata: {region: eu, tier: low}\n")
	w.app("app", `
  postBuild:
    substitute: {tier: high}
    substituteFrom: [{kind: ConfigMap, name: vars}, {kind: Secret, name: none, optional: true}]
`)
	w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "${region}-${tier}-${other:=x}")}))
	w.value("a", "eu-high-x")
	w.app("missing", "\n  postBuild: {substituteFrom: [{kind: ConfigMap, name: nowhere}]}\n")
	w.push(map[string]string{"missing/a.yaml": w.configMap("b", "1")})
	w.condition("missing", metav1.ConditionFalse, "BuildFailed", "nowhere")
}

func TestUnsupportedFieldsAreNamed(t *testing.T) {
	w := newWorld(t)
	w.push(map[string]string{"app/a.yaml": w.configMap("a", "1"), "other/b.yaml": w.configMap("b", "1")})
	w.apply(programKubeconfig)
	w.app("app", "  kubeConfig: {secretRef: {name: other-cluster}}")
	w.condition("app", metav1.ConditionFalse, "FieldsNotSupported", "user.exec")
	w.app("other", "  ignore: [{paths: [data.v]}]")
	w.ready("other", "")
	found := false
	for _, c := range w.kustomization("other").Status.Conditions {
		found = found || c.Type == "FieldsIgnored" && strings.Contains(c.Message, "spec.ignore[0].paths")
	}
	if !found {
		t.Error("no condition names spec.ignore")
	}
	if w.data("a") != nil {
		t.Error("an app for another cluster was applied to this one")
	}
}

// TestRestart stops the controller, lets the cluster drift, and starts another: it takes up where the first left off.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	w.app("app", "  wait: true")
	rev := w.push(map[string]string{"app/a.yaml": w.configMap("a", "1"), "app/b.yaml": w.configMap("b", "1"), "app/web.yaml": strings.ReplaceAll(deployment, "$ns", w.ns)})
	w.ready("app", rev)
	before := w.versions()
	status := w.kustomization("app")
	running.stop()
	w.must(w.client.Delete(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("b")}))
	w.must(running.start())
	w.value("b", "1")
	w.ready("app", rev)
	after := w.versions()
	delete(before, "b")
	delete(after, "b")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("a restart rewrote what was in order (resource versions):\n%s", diff)
	}
	if now := w.kustomization("app"); now.ResourceVersion != status.ResourceVersion {
		t.Errorf("a restart rewrote the status of an app that was in order:\n%s", cmp.Diff(status, now))
	}
	// Removed from Git while nobody looked: pruned by the next.
	running.stop()
	w.commit(map[string]string{"app/b.yaml": ""})
	w.must(running.start())
	w.value("b", "")
	w.ready("app", "main@sha1:"+w.head)
}

// versions gives the resource versions of what the test's app owns.
func (w *world) versions() map[string]string {
	w.Helper()
	out := map[string]string{}
	var cms corev1.ConfigMapList
	w.must(w.client.List(w.ctx, &cms, client.InNamespace(w.ns), client.HasLabels{"kustomize.toolkit.fluxcd.io/name"}))
	for _, cm := range cms.Items {
		out[cm.Name] = cm.ResourceVersion
	}
	var d appsv1.Deployment
	w.must(w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "web"}, &d))
	out["web"] = fmt.Sprint(d.Generation)
	return out
}

// TestKilledBetweenIntentAndEffect leaves behind what a controller killed in the middle leaves: an inventory that lists more
// than was applied. The next one finishes, and what left Git meanwhile is pruned.
func TestKilledBetweenIntentAndEffect(t *testing.T) {
	w := newWorld(t)
	running.stop()
	w.app("app", "")
	w.commit(map[string]string{"app/a.yaml": w.configMap("a", "1"), "app/b.yaml": w.configMap("b", "1"), "app/c.yaml": w.configMap("c", "1")})
	// "applied and labelled, then killed": x was applied from a commit that is gone by now.
	x := objects(fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: %[1]s, labels: "+
		"{kustomize.toolkit.fluxcd.io/name: app, kustomize.toolkit.fluxcd.io/namespace: %[1]s}}\ndata: {v: old}\n", w.ns))[0]
	w.must(w.client.Patch(w.ctx, x, client.Apply, client.FieldOwner(kube.FieldManager))) //nolint:staticcheck // objects are untyped here
	k := w.kustomization("app")
	k.Status.Inventory = &kustomizev1.ResourceInventory{}
	for _, name := range []string{"a", "b", "c", "x"} {
		k.Status.Inventory.Entries = append(k.Status.Inventory.Entries, kustomizev1.ResourceRef{ID: w.ns + "_" + name + "__ConfigMap", Version: "v1"})
	}
	w.must(w.client.Status().Update(w.ctx, k))
	w.must(running.start())
	w.ready("app", "main@sha1:"+w.head)
	w.value("a", "1")
	w.value("x", "")
}

// quiet waits until no more requests arrive (events are written aside) and gives the position in the audit log.
func (w *world) quiet() int64 {
	w.Helper()
	var from int64
	w.eventually("quiet", func() error {
		got, next := requests(w.T, from)
		from = next
		if len(got) > 0 {
			time.Sleep(500 * time.Millisecond)
			return fmt.Errorf("%d requests", len(got))
		}
		return nil
	})
	return from
}

// TestSteadyStateSendsNothing watches the API server's audit log: apps that are in order cost no request.
func TestSteadyStateSendsNothing(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		w.app(fmt.Sprintf("app%d", i), "  wait: true")
	}
	files := map[string]string{}
	for i := range 5 {
		files[fmt.Sprintf("app%d/a.yaml", i)] = w.configMap(fmt.Sprintf("c%d", i), "1")
	}
	rev := w.push(files)
	for i := range 5 {
		w.ready(fmt.Sprintf("app%d", i), rev)
	}
	from := w.quiet()
	time.Sleep(5 * time.Second)
	if got, _ := requests(t, from); len(got) > 0 {
		t.Errorf("%d requests in the steady state: %+v", len(got), got)
	}
}

// TestStatusWrites counts: at most two status writes per revision and app, one where it gets ready at once.
func TestStatusWrites(t *testing.T) {
	w := newWorld(t)
	w.app("app", "")
	w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "1")}))
	from := w.quiet()
	w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "2")}))
	count := map[string]int{}
	w.eventually("audit log", func() error {
		clear(count)
		got, _ := requests(t, from)
		for _, r := range got {
			if r.ObjectRef.Namespace == w.ns {
				count[r.Verb+" "+r.ObjectRef.Resource+"/"+r.ObjectRef.Subresource]++
			}
		}
		if count["create events/"] < 2 || count["patch gitrepositories/status"] < 1 {
			return fmt.Errorf("requests: %v", count)
		}
		return nil
	})
	want := map[string]int{
		"patch configmaps/": 1, "patch kustomizations/status": 1, "patch gitrepositories/status": 1, "create events/": 2,
	}
	if diff := cmp.Diff(want, count); diff != "" {
		t.Errorf("requests for one changed object (-want +got):\n%s", diff)
	}
}

// TestDependentsFollowQuietly delivers a second commit through two apps of which one depends on the other: that the first
// is not there yet is no failure to report.
func TestDependentsFollowQuietly(t *testing.T) {
	w := newWorld(t)
	w.app("base", "  wait: true")
	w.app("top", "  wait: true\n  dependsOn: [{name: base}]")
	rev := w.push(map[string]string{"base/a.yaml": w.configMap("a", "1"), "top/b.yaml": w.configMap("b", "1")})
	w.ready("top", rev)
	before := len(w.events("top"))
	from := w.quiet()
	rev = w.push(map[string]string{"base/a.yaml": w.configMap("a", "2"), "top/b.yaml": w.configMap("b", "2")})
	w.ready("top", rev)
	w.value("b", "2")
	w.event("top", "ConfigMap/"+w.ns+"/b configured")
	for _, e := range w.events("top")[before:] {
		if strings.Contains(e, "DependencyNotReady") {
			t.Errorf("event %q", e)
		}
	}
	w.quiet()
	writes := 0
	all, _ := requests(t, from)
	for _, r := range all {
		if r.ObjectRef.Resource == "kustomizations" && r.ObjectRef.Subresource == "status" && r.ObjectRef.Name == "top" {
			writes++
		}
	}
	if writes != 1 {
		t.Errorf("%d status writes of an app that got ready at once, want 1", writes)
	}
}

// TestSecretsAreNotTold substitutes a value of a Secret into objects that the API server refuses with a quotation of it.
func TestSecretsAreNotTold(t *testing.T) {
	w := newWorld(t)
	w.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {PASSWORD: hush-hush}\n")
	w.app("app", "  postBuild: {substituteFrom: [{kind: Secret, name: keys}]}")
	w.push(map[string]string{"app/a.yaml": fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: %s}\ndata: {'a ${PASSWORD}': x}\n", w.ns)})
	c := w.condition("app", metav1.ConditionFalse, "ReconciliationFailed", "rejects it")
	w.event("app", "ReconciliationFailed")
	if all := c.Message + strings.Join(w.events("app"), " "); strings.Contains(all, "hush-hush") {
		t.Errorf("a value of a Secret is told: %s", all)
	}
	secret := fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: %s}\nstringData: {pin: 5417}\n", w.ns)
	w.push(map[string]string{"app/a.yaml": secret})
	c = w.condition("app", metav1.ConditionFalse, "BuildFailed", "no text")
	if strings.Contains(c.Message, "5417") {
		t.Errorf("a value of a Secret is told: %s", c.Message)
	}
}

// TestRestartWithSuspendedSource: what is made from a suspended source is still held in place after a restart.
func TestRestartWithSuspendedSource(t *testing.T) {
	w := newWorld(t)
	w.app("app", "")
	rev := w.push(map[string]string{"app/a.yaml": w.configMap("a", "1")})
	w.ready("app", rev)
	w.apply(fmt.Sprintf("apiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {name: repo}\nspec: {interval: 1h, url: %s, ref: {branch: main}, suspend: true}\n", w.url()))
	w.commit(map[string]string{"app/a.yaml": w.configMap("a", "2")})
	running.stop()
	w.must(w.client.Delete(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("a")}))
	w.must(running.start())
	w.value("a", "1")
	w.ready("app", rev)
}

// TestSourceThatGivesNothing: an app whose source is suspended from the start, or refused, says so.
func TestSourceThatGivesNothing(t *testing.T) {
	w := newWorld(t)
	for name, spec := range map[string]string{"suspended": "suspend: true", "refused": "verify: {mode: HEAD, secretRef: {name: k}}"} {
		w.apply(fmt.Sprintf("apiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {name: %s}\nspec: {interval: 1h, url: %s, %s}\n", name, w.url(), spec))
		w.apply(fmt.Sprintf(`
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: %s}
spec: {interval: 1h, path: ./app, prune: true, sourceRef: {kind: GitRepository, name: %s}}
`, name, name))
	}
	w.condition("suspended", metav1.ConditionFalse, "ArtifactFailed", "suspended")
	w.condition("refused", metav1.ConditionFalse, "ArtifactFailed", "spec.verify")
}

// TestDeletedAndMadeAnew: an app that comes back under its name owns and delivers its objects again.
func TestDeletedAndMadeAnew(t *testing.T) {
	w := newWorld(t)
	w.app("app", "")
	w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "1"), "app/b.yaml": w.configMap("b", "1")}))
	w.must(w.client.Delete(w.ctx, &kustomizev1.Kustomization{ObjectMeta: w.named("app")}))
	w.gone("app")
	w.app("app", "")
	w.value("a", "1")
	w.value("b", "1")
	w.ready("app", "main@sha1:"+w.head)
}

// TestDefinitionComesBack: an app whose kind vanishes says so, and delivers again once the kind is back.
func TestDefinitionComesBack(t *testing.T) {
	w := newWorld(t)
	w.app("app", "")
	definition := strings.ReplaceAll(crd, "$ns", w.ns)
	w.apply(definition)
	w.push(map[string]string{"app/w.yaml": strings.ReplaceAll(widget, "$ns", w.ns)})
	w.ready("app", "main@sha1:"+w.head)
	w.must(w.client.Delete(w.ctx, objects(definition)[0]))
	w.condition("app", metav1.ConditionFalse, "KindNotFound")
	w.apply(definition)
	w.ready("app", "main@sha1:"+w.head)
	w.has(w.widget())
}

// TestPruneInAVersionThatIsServedNoMore: objects that were applied in a version that the server has given up since are still
// deleted, with a commit and with the app.
func TestPruneInAVersionThatIsServedNoMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app("app", "")
	definition := strings.ReplaceAll(crd, "$ns", w.ns) +
		"  - {name: v1beta1, served: true, storage: false, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}\n"
	w.apply(definition)
	named := func(name, version string) string {
		return strings.NewReplacer("$ns", w.ns, "name: w,", "name: "+name+",", "/v1", "/"+version).Replace(widget)
	}
	w.ready("app", w.push(map[string]string{
		"app/w.yaml": named("w", "v1beta1"), "app/x.yaml": named("x", "v1beta1"), "app/a.yaml": w.configMap("a", "1"), "app/b.yaml": w.configMap("b", "1"),
	}))
	u := objects(definition)[0]
	w.must(w.client.Patch(w.ctx, u, client.RawPatch(types.JSONPatchType, []byte(`[{"op": "replace", "path": "/spec/versions/1/served", "value": false}]`))))
	w.ready("app", w.push(map[string]string{"app/w.yaml": "", "app/x.yaml": named("x", "v1")}))
	w.eventually("prune of the widget", func() error {
		if _, err := w.widget(); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %w", err)
		}
		return nil
	})
	w.push(map[string]string{"app/w.yaml": named("w", "v1")})
	w.ready("app", "main@sha1:"+w.head)
	w.must(w.client.Delete(w.ctx, w.kustomization("app")))
	w.gone("app")
	if _, err := w.widget(); !apierrors.IsNotFound(err) {
		t.Errorf("the widget outlives its app: %v", err)
	}
}

// TestServiceWithEmptyClusterIP: an empty immutable field states nothing.
func TestServiceWithEmptyClusterIP(t *testing.T) {
	w := newWorld(t)
	w.app("app", "")
	svc := fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: %s}\nspec: {clusterIP: \"\", ports: [{port: 80}]}\n", w.ns)
	w.ready("app", w.push(map[string]string{"app/s.yaml": svc}))
	w.ready("app", w.push(map[string]string{"app/s.yaml": strings.ReplaceAll(svc, "port: 80", "port: 81")}))
}

// TestTerminatingObjectIsMadeAnew: an object that its old owner's deletion left terminating is made anew by its new owner.
func TestTerminatingObjectIsMadeAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cm := strings.Replace(w.configMap("a", "1"), "namespace:", "finalizers: [example.com/wait], namespace:", 1)
	w.push(map[string]string{"old/a.yaml": cm, "new/a.yaml": cm})
	w.app("old", "")
	w.ready("old", "")
	w.must(w.client.Delete(w.ctx, &kustomizev1.Kustomization{ObjectMeta: w.named("old")}))
	w.gone("old")
	w.app("new", "")
	w.eventually("condition", func() error {
		for _, c := range w.kustomization("new").Status.Conditions {
			if c.Type == "Ready" && c.Status == metav1.ConditionUnknown && strings.Contains(c.Message, "to be gone") {
				return nil
			}
		}
		return errors.New("it does not say that it waits")
	})
	a := &corev1.ConfigMap{ObjectMeta: w.named("a")}
	w.edit(a, "a-person", func() { a.Finalizers = nil })
	w.ready("new", "main@sha1:"+w.head)
	w.value("a", "1")
}

// TestAppOfVanishedAccount: an app whose service account is gone does not hold up its deletion for ever.
func TestAppOfVanishedAccount(t *testing.T) {
	w := newWorld(t)
	w.apply(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: deployer}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: deployer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: deployer}]
`)
	w.app("app", "  serviceAccountName: deployer")
	w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "1")}))
	for _, u := range objects("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: deployer}\n---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: deployer}\n") {
		u.SetNamespace(w.ns)
		w.must(w.client.Delete(w.ctx, u))
	}
	w.must(w.client.Delete(w.ctx, &kustomizev1.Kustomization{ObjectMeta: w.named("app")}))
	w.gone("app")
	w.event("app", "Orphaned", "deployer")
	w.value("a", "1")
}
