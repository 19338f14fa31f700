package plan

import (
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// PartOfLabel says which product an object belongs to; with the value [Toolkit] it is Flux (flux install, gotk-components.yaml).
const PartOfLabel, Toolkit = "app.kubernetes.io/part-of", "flux"

// IsToolkitController tells whether an object is the Deployment of one of Flux's own controllers.
func IsToolkitController(u *unstructured.Unstructured) bool {
	return u.GetKind() == "Deployment" && strings.HasPrefix(u.GetAPIVersion(), "apps/") && u.GetLabels()[PartOfLabel] == Toolkit
}

// IsToolkitDefinition tells whether an object is the CustomResourceDefinition of one of Flux's kinds.
func IsToolkitDefinition(u *unstructured.Unstructured) bool {
	return u.GetKind() == "CustomResourceDefinition" && strings.HasSuffix(u.GetName(), ".toolkit.fluxcd.io")
}

// Downgrades names the first thing that a CustomResourceDefinition would lose if next took the place of have: a served version, or
// a field of one ("v1: spec.ignore"); empty: nothing would be lost. What fields mean is not compared.
func Downgrades(have, next *unstructured.Unstructured) string {
	offered := versions(next)
	served := versions(have)
	for _, name := range slices.Sorted(maps.Keys(served)) {
		other, ok := offered[name]
		if !ok {
			return name
		}
		if lost := lostField(served[name], other, ""); lost != "" {
			return name + ": " + lost
		}
	}
	return ""
}

// versions gives the schemas of the served versions of a definition, by name.
func versions(crd *unstructured.Unstructured) map[string]map[string]any {
	out := map[string]map[string]any{}
	list, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	for _, item := range list {
		v, _ := item.(map[string]any)
		name, _ := v["name"].(string)
		if served, _ := v["served"].(bool); !served {
			continue
		}
		out[name], _, _ = unstructured.NestedMap(v, "schema", "openAPIV3Schema")
	}
	return out
}

// lostField gives the path of the first field that have describes and next does not.
func lostField(have, next map[string]any, path string) string {
	if open, _ := next["x-kubernetes-preserve-unknown-fields"].(bool); open {
		return ""
	}
	if items, ok := have["items"].(map[string]any); ok {
		other, _ := next["items"].(map[string]any)
		return lostField(items, other, path+"[]")
	}
	fields, _ := have["properties"].(map[string]any)
	others, _ := next["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		below := strings.TrimPrefix(path+"."+name, ".")
		other, ok := others[name].(map[string]any)
		if !ok {
			return below
		}
		schema, _ := fields[name].(map[string]any)
		if lost := lostField(schema, other, below); lost != "" {
			return lost
		}
	}
	return ""
}
