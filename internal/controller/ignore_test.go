package controller_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestIgnoredFields: fields that are left to others are made with the object and then kept as others make them, whoever they
// are; everything else is Git's.
func TestIgnoredFields(t *testing.T) {
	w := newWorld(t)
	w.app("app", `
  ignore:
  - {paths: [/spec/replicas, /spec/template/spec/containers/0/resources, /metadata/annotations/example.com~1note], target: {kind: Deployment}}
  - {paths: [/data/theirs]}
`)
	web := strings.Replace(strings.ReplaceAll(deployment, "$ns", w.ns), `image: "web:1"`, `image: "web:1", resources: {limits: {cpu: "1"}}`, 1)
	cm := func(value string) string { return w.configMap("a", value) + "  theirs: git\n" }
	files := map[string]string{"app/web.yaml": web, "app/a.yaml": strings.Replace(cm("1"), "data: {v: \"1\"}\n", "data:\n  v: \"1\"\n", 1)}
	w.ready("app", w.push(files))
	if got := w.data("a")["theirs"]; got != "git" {
		t.Fatalf("an ignored field is not made with the object: %q", got)
	}
	var d appsv1.Deployment
	d.ObjectMeta = w.named("web")
	state := func() string {
		w.must(w.client.Get(w.ctx, client.ObjectKeyFromObject(&d), &d))
		c := d.Spec.Template.Spec.Containers[0]
		return fmt.Sprintf("%d %s cpu=%s note=%s a=%s/%s", *d.Spec.Replicas, c.Image, c.Resources.Limits.Cpu(), d.Annotations["example.com/note"],
			w.data("a")["v"], w.data("a")["theirs"])
	}
	settled := func(want string) {
		t.Helper()
		w.eventually("state", func() error {
			if got := state(); got != want {
				return fmt.Errorf("%s, want %s", got, want)
			}
			return nil
		})
	}
	settled("2 web:1 cpu=1 note= a=1/git")

	// Others write to them: one by update, as kubectl edit, one by applying. Nothing is sent for that.
	_, from := requests(t, 0)
	w.edit(&d, "a-person", func() { d.Spec.Replicas = new(int32(7)); d.Annotations["example.com/note"] = "n" })
	a := &corev1.ConfigMap{ObjectMeta: w.named("a")}
	w.edit(a, "a-person", func() { a.Data["theirs"] = "mine" })
	vpa := objects(strings.ReplaceAll(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: $ns}
spec:
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, resources: {limits: {cpu: "3"}}}]}}
`, "$ns", w.ns))[0]
	w.must(w.client.Patch(w.ctx, vpa, client.Apply, client.FieldOwner("vpa"), client.ForceOwnership)) //nolint:staticcheck // objects are untyped here
	settled("7 web:1 cpu=3 note=n a=1/mine")
	// Beside them a field of Git's is changed: that one is repaired.
	w.edit(a, "a-person", func() { a.Data["v"] = "2" })
	settled("7 web:1 cpu=3 note=n a=1/mine")
	w.eventually("rest", func() error {
		sent, _ := requests(t, from)
		var patches []string
		for _, r := range sent {
			if r.Verb == "patch" && r.ObjectRef.Namespace == w.ns && r.ObjectRef.Resource != "events" && r.ObjectRef.Subresource == "" &&
				(r.ObjectRef.Resource == "deployments" || r.ObjectRef.Resource == "configmaps") {
				patches = append(patches, r.ObjectRef.Name)
			}
		}
		if !slices.Equal(patches, []string{"a"}) {
			return fmt.Errorf("patches of %q, want the one of the repair of a", patches)
		}
		return nil
	})

	// The next commits send everything else; what another manager applies is that one's alone from then on.
	files["app/web.yaml"] = strings.ReplaceAll(web, "web:1", "web:2")
	files["app/a.yaml"] = strings.Replace(files["app/a.yaml"], `v: "1"`, `v: "3"`, 1)
	w.ready("app", w.push(files))
	settled("7 web:2 cpu=3 note=n a=3/mine")
	for _, f := range d.ManagedFields {
		fields := f.FieldsV1.GetRawString()
		if f.Manager == "keelson" && strings.Contains(fields, "f:cpu") {
			t.Error("a field that another manager applies is still applied by us")
		}
		if f.Manager == "keelson" && !strings.Contains(fields, "f:replicas") {
			t.Error("a field that nobody else applies is not applied by us: whoever stops writing it would leave it to its default")
		}
	}
	// The next controller knows as much.
	running.stop()
	w.must(running.start())
	w.edit(a, "a-person", func() { a.Data["v"] = "4" })
	settled("7 web:2 cpu=3 note=n a=3/mine")
}

func TestIgnoreRuleThatCannotBeRead(t *testing.T) {
	w := newWorld(t)
	w.app("app", "\n  ignore: [{paths: [/data/v], target: {name: '('}}]\n")
	w.push(map[string]string{"app/a.yaml": w.configMap("a", "1")})
	w.condition("app", metav1.ConditionFalse, "ReconciliationFailed", "spec.ignore[0].target: name:")
	if w.data("a") != nil {
		t.Error("something was applied")
	}
}
