package controller_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const group = "kustomize.toolkit.fluxcd.io/"

// marked is a manifest of a ConfigMap with an annotation.
func (w *world) marked(name, value, key, mark string) string {
	return strings.Replace(w.configMap(name, value), "namespace:", fmt.Sprintf("annotations: {%s: %q}, namespace:", key, mark), 1)
}

// mark sets or removes (null) an annotation of a ConfigMap as a person would.
func (w *world) mark(name, key, value string) {
	w.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, key, value)
	w.must(w.client.Patch(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named(name)}, client.RawPatch(types.MergePatchType, []byte(patch)), client.FieldOwner("a-person")))
}

func TestMarksOnObjects(t *testing.T) {
	w := newWorld(t)
	w.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: theirs}\ndata: {v: theirs}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: seeded}\ndata: {v: theirs}\n")
	w.app("app", "  wait: true")
	w.ready("app", w.push(map[string]string{
		"app/theirs.yaml": w.marked("theirs", "git", group+"reconcile", "disabled"),
		"app/seeded.yaml": w.marked("seeded", "git", group+"ssa", "IfNotPresent"),
		"app/once.yaml":   w.marked("once", "git", group+"ssa", "IfNotPresent"),
		"app/odd.yaml":    w.marked("odd", "git", group+"ssa", "Sometimes"),
	}))
	w.value("theirs", "theirs")
	w.value("seeded", "theirs")
	w.value("once", "git")
	w.value("odd", "git")
	k := w.kustomization("app")
	if n := len(k.Status.Inventory.Entries); n != 2 {
		t.Errorf("%d objects in the inventory, want once and odd", n)
	}
	named := false
	for _, c := range k.Status.Conditions {
		named = named || c.Type == "FieldsIgnored" && strings.Contains(c.Message, group+"ssa Sometimes on ConfigMap/"+w.ns+"/odd")
	}
	if !named {
		t.Error("no condition names the policy that there is not")
	}
	// What is made once is not changed, neither by Git nor back; deleted, it is made anew.
	w.ready("app", w.push(map[string]string{
		"app/once.yaml": w.marked("once", "git2", group+"ssa", "IfNotPresent"), "app/odd.yaml": w.configMap("odd", "git2"),
	}))
	w.value("odd", "git2")
	w.value("once", "git")
	w.must(w.client.Delete(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("once")}))
	w.value("once", "git2")
	// Without the mark it is an object like others.
	w.ready("app", w.push(map[string]string{"app/once.yaml": w.configMap("once", "git3")}))
	w.value("once", "git3")
}

// TestLeftAloneByMarkInTheCluster: a person marks an object in the cluster; until the mark is gone, it is the person's.
func TestLeftAloneByMarkInTheCluster(t *testing.T) {
	w := newWorld(t)
	w.app("app", "")
	w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "1"), "app/b.yaml": w.configMap("b", "1")}))
	w.mark("a", group+"reconcile", `"disabled"`)
	a := &corev1.ConfigMap{ObjectMeta: w.named("a")}
	w.edit(a, "a-person", func() { a.Data["v"] = "mine" })
	w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "2"), "app/b.yaml": w.configMap("b", "2")}))
	w.value("b", "2")
	if got := w.data("a")["v"]; got != "mine" {
		t.Errorf("a is %q, want what the person wrote", got)
	}
	w.mark("a", group+"reconcile", "null")
	w.value("a", "2")
	// And what is marked so is not pruned.
	w.mark("a", group+"ssa", `"Ignore"`)
	w.ready("app", w.push(map[string]string{"app/a.yaml": ""}))
	if w.data("a") == nil {
		t.Error("a was pruned")
	}
}

func TestForce(t *testing.T) {
	w := newWorld(t)
	w.app("app", "  force: true")
	web := strings.ReplaceAll(deployment, "$ns", w.ns)
	w.ready("app", w.push(map[string]string{"app/web.yaml": web}))
	var before, after appsv1.Deployment
	key := client.ObjectKey{Namespace: w.ns, Name: "web"}
	w.must(w.client.Get(w.ctx, key, &before))
	w.ready("app", w.push(map[string]string{"app/web.yaml": strings.ReplaceAll(web, "{app: web}", "{app: web, tier: front}")}))
	w.must(w.client.Get(w.ctx, key, &after))
	if before.UID == after.UID || after.Spec.Selector.MatchLabels["tier"] != "front" {
		t.Errorf("it was not made anew: UID %s, then %s, selector %v", before.UID, after.UID, after.Spec.Selector)
	}
	w.event("app", "Deployment/"+w.ns+"/web deleted, to be made anew")
}

// TestForceWhereTheServerRefuses: of kinds whose fixed fields are not known ahead, the server's word counts, and its refusal of
// what it would never take costs nobody an object.
func TestForceWhereTheServerRefuses(t *testing.T) {
	w := newWorld(t)
	pod := func(image, env string) string {
		return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: %s, annotations: {%sforce: enabled}}
spec: {containers: [{name: c, image: %q, env: [{name: A, value: %q}]}]}
`, w.ns, group, image, env)
	}
	uid := func() string {
		var p corev1.Pod
		w.must(client.IgnoreNotFound(w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "p"}, &p)))
		return string(p.UID)
	}
	w.app("app", "")
	w.ready("app", w.push(map[string]string{"app/p.yaml": pod("c:1", "1")}))
	first := uid()
	w.push(map[string]string{"app/p.yaml": pod("", "2")})
	w.condition("app", metav1.ConditionFalse, "ReconciliationFailed", "app/p.yaml", "image")
	if got := uid(); got != first {
		t.Fatalf("a Pod that would not be taken either was deleted: UID %s, then %q", first, got)
	}
	w.ready("app", w.push(map[string]string{"app/p.yaml": pod("c:1", "2")}))
	if got := uid(); got == first || got == "" {
		t.Errorf("UID %q, want another one than %s", got, first)
	}
}

// TestForceIsResumed: a controller that ends between the deletion of an object and its being made anew leaves that to the next.
func TestForceIsResumed(t *testing.T) {
	w := newWorld(t)
	w.app("app", "  force: true")
	fixed := func(value string) string {
		return strings.Replace(w.configMap("a", value), "namespace:", "finalizers: [example.com/wait], namespace:", 1) + "immutable: true\n"
	}
	w.ready("app", w.push(map[string]string{"app/a.yaml": fixed("1")}))
	w.push(map[string]string{"app/a.yaml": fixed("2")})
	a := &corev1.ConfigMap{}
	w.eventually("deletion", func() error {
		w.must(w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "a"}, a))
		if a.DeletionTimestamp == nil {
			return errors.New("not yet")
		}
		return nil
	})
	w.condition("app", metav1.ConditionUnknown, "Progressing", "ConfigMap/"+w.ns+"/a to be gone")
	running.stop()
	w.edit(a, "a-person", func() { a.Finalizers = nil })
	w.must(running.start())
	w.value("a", "2")
	w.ready("app", "main@sha1:"+w.head)
}
