package live

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
)

// coOwned is an object of which we apply something and others something; "OURS" and "THEIRS" are replaced by sets of fields.
const coOwned = `
kind: Thing
metadata:
  managedFields:
  - {manager: keelson, operation: Apply, fieldsV1: {OURS}}
  - {manager: vpa, operation: Apply, fieldsV1: {THEIRS}}
  - {manager: kubectl, operation: Apply, fieldsV1: {"f:spec": {"f:note": {}}}}
  - {manager: kubectl-edit, operation: Update, fieldsV1: {"f:spec": {"f:paused": {}}}}
  - {manager: vpa, operation: Apply, subresource: status, fieldsV1: {"f:spec": {"f:replicas": {}}}}
spec:
  replicas: 3
  paused: true
  note: x
  args: [a, b]
  containers:
  - {name: sidecar}
  - {name: web, image: "web:1", resources: {limits: {cpu: 1, memory: 2}}}
`

const oursOfShared = `"f:spec": {"f:note": {}, "f:args": {}, "f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:name": {}, "f:image": {}, ` +
	`"f:resources": {"f:limits": {"f:cpu": {}, "f:memory": {}}}}}}`

const theirsOfShared = `"f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {"f:resources": {"f:limits": {"f:cpu": {}}}}}}`

func coOwnedObject(t *testing.T, ours, theirs string) map[string]any {
	t.Helper()
	return parseYAML(t, strings.ReplaceAll(strings.ReplaceAll(coOwned, "{OURS}", "{"+ours+"}"), "{THEIRS}", "{"+theirs+"}"))
}

func TestAppliedBy(t *testing.T) {
	tests := map[string]struct{ ours, others bool }{
		"/spec/note":                              {true, false},
		"/spec/args":                              {true, false},
		"/spec/args/0":                            {false, false}, // an atomic list is owned as a whole
		"/spec/replicas":                          {false, false}, // status writers do not count
		"/spec/paused":                            {false, false}, // nor do updates
		"/spec/containers/1/image":                {true, false},
		"/spec/containers/1/resources":            {true, true},
		"/spec/containers/1/resources/limits/cpu": {true, true},
		"/spec/containers/0/image":                {false, false},
		"/spec/containers/7/image":                {false, false},
		"/spec/nowhere/at/all":                    {false, false},
	}
	u := &unstructured.Unstructured{Object: coOwnedObject(t, oursOfShared, theirsOfShared)}
	for path, want := range tests {
		p, _ := delivery.ParsePointer(path)
		if ours, others := AppliedBy(u, p); ours != want.ours || others != want.others {
			t.Errorf("%s: applied by us %v, by others %v; want %v, %v", path, ours, others, want.ours, want.others)
		}
	}
}

// TestKept: what others make of fields that are left to them does not change the hash of the rest; anything else does.
func TestKept(t *testing.T) {
	const left = "/spec/containers/1/resources"
	tests := map[string]struct {
		ours, theirs string // as they are after the change
		value        string // replaces cpu: 1
		image        string
		same         bool
	}{
		"nothing happened":           {oursOfShared, theirsOfShared, "cpu: 1", "web:1", true},
		"another value":              {oursOfShared, theirsOfShared, "cpu: 2", "web:1", true},
		"one limit was taken":        {strings.ReplaceAll(oursOfShared, `"f:cpu": {}, `, ""), theirsOfShared, "cpu: 2", "web:1", true},
		"all was taken":              {strings.ReplaceAll(oursOfShared, `, "f:resources": {"f:limits": {"f:cpu": {}, "f:memory": {}}}`, ""), theirsOfShared, "cpu: 2", "web:1", true},
		"the image was taken too":    {strings.ReplaceAll(oursOfShared, `"f:image": {}, `, ""), theirsOfShared, "cpu: 2", "web:2", false},
		"the image has another name": {oursOfShared, theirsOfShared, "cpu: 1", "web:2", false},
	}
	p, _ := delivery.ParsePointer(left)
	hash := func(object map[string]any, fields ...delivery.Pointer) delivery.Hash {
		own, err := ownershipOf(nil, &unstructured.Unstructured{Object: object}, "keelson", fields...)
		if err != nil {
			t.Fatal(err)
		}
		return own.hash
	}
	before := coOwnedObject(t, oursOfShared, theirsOfShared)
	for name, tt := range tests {
		after := parseYAML(t, strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(coOwned, "{OURS}", "{"+tt.ours+"}"), "{THEIRS}", "{"+tt.theirs+"}"), "cpu: 1", tt.value), "web:1", tt.image))
		if got := hash(before, p) == hash(after, p); got != tt.same {
			t.Errorf("%s: the same %v, want %v", name, got, tt.same)
		}
	}
	if hash(before) == hash(before, p) {
		t.Error("what is left out is part of the hash")
	}
}
