package live

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
)

// deployment is an object as the server returns it: our manager's fields, an autoscaler's, a person's.
const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: dev
  labels: {app: web}
  annotations: {note: theirs}
  finalizers: [a, b]
  managedFields:
  - manager: keelson
    operation: Apply
    time: "2026-11-21T10:00:00Z"
    fieldsV1: {"f:metadata": {"f:labels": {"f:app": {}}, "f:finalizers": {'v:"a"': {}}}, "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {'k:{"name":"web"}': {".": {}, "f:name": {}, "f:image": {}, "f:args": {}, "f:ports": {'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}}}}}}}}}
  - manager: kubectl-edit
    operation: Update
    time: "2026-11-21T11:00:00Z"
    fieldsV1: {"f:metadata": {"f:annotations": {"f:note": {}}}}
  - manager: kube-controller-manager
    operation: Update
    subresource: status
    time: "2026-11-21T12:00:00Z"
    fieldsV1: {"f:status": {"f:replicas": {}}}
spec:
  replicas: 2
  template:
    spec:
      containers:
      - {name: sidecar, image: injected:1}
      - {name: web, image: "web:1", args: [a, b], imagePullPolicy: Always, ports: [{containerPort: 80, protocol: TCP}]}
status: {replicas: 2}
`

func TestOwnershipOf(t *testing.T) {
	containers := func(u *unstructured.Unstructured) []any {
		c, _, _ := unstructured.NestedSlice(u.Object, "spec", "template", "spec", "containers")
		return c
	}
	setContainers := func(u *unstructured.Unstructured, c []any) {
		_ = unstructured.SetNestedSlice(u.Object, c, "spec", "template", "spec", "containers")
	}
	tests := map[string]struct {
		reason string
		change func(u *unstructured.Unstructured)
		drift  bool
	}{
		"nothing": {"the same object hashes the same", func(*unstructured.Unstructured) {}, false},
		"our field has another value": {"the value is part of the hash", func(u *unstructured.Unstructured) {
			c := containers(u)
			c[1].(map[string]any)["image"] = "web:2"
			setContainers(u, c)
		}, true},
		"our atomic list changed": {"a leaf is hashed whole", func(u *unstructured.Unstructured) {
			c := containers(u)
			c[1].(map[string]any)["args"] = []any{"b", "a"}
			setContainers(u, c)
		}, true},
		"our container is gone": {"an item named by its keys is missing", func(u *unstructured.Unstructured) { setContainers(u, containers(u)[:1]) }, true},
		"our finalizer is gone": {"a member of a set is missing", func(u *unstructured.Unstructured) { u.SetFinalizers([]string{"b"}) }, true},
		"our label is gone":     {"a field of ours is missing", func(u *unstructured.Unstructured) { u.SetLabels(nil) }, true},
		"order of containers":   {"items are found by their keys", func(u *unstructured.Unstructured) { c := containers(u); setContainers(u, []any{c[1], c[0]}) }, false},
		"another sidecar": {"somebody else's item", func(u *unstructured.Unstructured) {
			setContainers(u, append(containers(u), map[string]any{"name": "more"}))
		}, false},
		"a default changed": {"a field that we did not send", func(u *unstructured.Unstructured) {
			c := containers(u)
			c[1].(map[string]any)["imagePullPolicy"] = "Never"
			setContainers(u, c)
		}, false},
		"an annotation of theirs": {"somebody else's field", func(u *unstructured.Unstructured) { u.SetAnnotations(map[string]string{"note": "new"}) }, false},
		"status":                  {"status is not ours", func(u *unstructured.Unstructured) { u.Object["status"] = map[string]any{} }, false},
		"replicas": {"kept apart from the hash: an autoscaler may own it", func(u *unstructured.Unstructured) {
			_ = unstructured.SetNestedField(u.Object, int64(9), "spec", "replicas")
		}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before, err := ownershipOf(nil, parse(t, deployment), "keelson")
			if err != nil {
				t.Fatal(err)
			}
			u := parse(t, deployment)
			tt.change(u)
			after, err := ownershipOf(nil, u, "keelson")
			if err != nil {
				t.Fatal(err)
			}
			if got := before.hash != after.hash; got != tt.drift {
				t.Errorf("drift = %v, want %v: %s", got, tt.drift, tt.reason)
			}
			if !after.replicas || after.rival != "kubectl-edit" {
				t.Errorf("replicas owned = %v, rival = %q; want true, kubectl-edit (status writers are no rivals)", after.replicas, after.rival)
			}
		})
	}
}

func TestOwnershipOfForeignObject(t *testing.T) {
	own, err := ownershipOf(nil, parse(t, deployment), "somebody-else")
	if err != nil || own.hash != (delivery.Hash{}) || own.replicas {
		t.Errorf("ownership = %+v, %v; want none", own, err)
	}
}

func parse(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	return &unstructured.Unstructured{Object: parseYAML(t, text)}
}

func parseYAML(tb testing.TB, text string) map[string]any {
	tb.Helper()
	b, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	return parseJSON(tb, string(b)).Object
}

// parseJSON decodes an object as the client does.
func parseJSON(tb testing.TB, text string) *unstructured.Unstructured {
	tb.Helper()
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON([]byte(text)); err != nil {
		tb.Fatal(err)
	}
	return u
}
