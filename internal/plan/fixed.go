package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// fixedField is a field that Kubernetes never lets change once the object exists.
type fixedField struct {
	path  string
	exact bool // a missing key counts as a change (label selectors); otherwise only what Git states is compared
}

// fixedFields by kind, from the update validation of each API (pkg/apis/*/validation in Kubernetes).
var fixedFields = map[schema.GroupKind][]fixedField{
	{Group: "apps", Kind: "Deployment"}: {{"spec.selector", true}},
	{Group: "apps", Kind: "DaemonSet"}:  {{"spec.selector", true}},
	{Group: "apps", Kind: "ReplicaSet"}: {{"spec.selector", true}},
	{Group: "apps", Kind: "StatefulSet"}: {
		{"spec.selector", true}, {"spec.serviceName", false}, {"spec.podManagementPolicy", false}, {"spec.volumeClaimTemplates", false},
	},
	{Group: "batch", Kind: "Job"}:                                     {{"spec.selector", false}, {"spec.template", false}, {"spec.completionMode", false}},
	{Group: "", Kind: "PersistentVolumeClaim"}:                        {{"spec.accessModes", false}, {"spec.storageClassName", false}, {"spec.volumeName", false}, {"spec.volumeMode", false}, {"spec.selector", false}},
	{Group: "", Kind: "Service"}:                                      {{"spec.clusterIP", false}},
	{Group: "rbac.authorization.k8s.io", Kind: "RoleBinding"}:         {{"roleRef", false}},
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRoleBinding"}:  {{"roleRef", false}},
	{Group: "storage.k8s.io", Kind: "StorageClass"}:                   {{"provisioner", false}, {"parameters", true}, {"reclaimPolicy", false}, {"volumeBindingMode", false}},
	{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: {{"spec.scope", false}, {"spec.names.kind", false}, {"spec.names.plural", false}, {"spec.group", false}},
	{Group: "scheduling.k8s.io", Kind: "PriorityClass"}:               {{"value", false}},
	{Group: "", Kind: "Secret"}:                                       {{"type", false}},
}

// Fixed reads the immutable values of a live object, to be kept in [delivery.Live.Fixed].
// The data of an immutable ConfigMap or Secret are kept as a hash.
func Fixed(u *unstructured.Unstructured) map[string]any {
	out := map[string]any{}
	gk := u.GroupVersionKind().GroupKind()
	for _, f := range fixedFields[gk] {
		if v, ok, _ := unstructured.NestedFieldCopy(u.Object, strings.Split(f.path, ".")...); ok {
			out[f.path] = v
		}
	}
	if immutable, _, _ := unstructured.NestedBool(u.Object, "immutable"); immutable && holdsData(gk) {
		out["data"] = dataHash(u)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// changedFixed finds the first immutable field that u wants to change.
func changedFixed(u *unstructured.Unstructured, live map[string]any) (path, was, wants string, changed bool) {
	if len(live) == 0 {
		return "", "", "", false
	}
	gk := u.GroupVersionKind().GroupKind()
	for _, f := range fixedFields[gk] {
		have, known := live[f.path]
		want, ok, _ := unstructured.NestedFieldNoCopy(u.Object, strings.Split(f.path, ".")...)
		if !ok || !known || want == nil || !f.exact && statesNothing(want, true, false) {
			continue
		}
		if !contains(have, stated(have, want, f.exact), f.exact) {
			return f.path, brief(have), brief(want), true
		}
	}
	if was, ok := live["data"]; ok && holdsData(gk) && was != dataHash(u) {
		return "data", "its present value", "another one (immutable: true)", true
	}
	return "", "", "", false
}

func holdsData(gk schema.GroupKind) bool {
	return gk.Group == "" && (gk.Kind == "ConfigMap" || gk.Kind == "Secret")
}

func dataHash(u *unstructured.Unstructured) string {
	b, err := json.Marshal([]any{u.Object["data"], u.Object["binaryData"]})
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// stated gives want without what states nothing: the server drops it, or puts its default there, and neither is a change.
func stated(have, want any, exact bool) any {
	switch w := want.(type) {
	case map[string]any:
		h, _ := have.(map[string]any)
		out := make(map[string]any, len(w))
		for k, v := range w {
			hv, there := h[k]
			if v = stated(hv, v, exact); !statesNothing(v, there, exact) {
				out[k] = v
			}
		}
		return out
	case []any:
		h, _ := have.([]any)
		out := make([]any, len(w))
		for i, v := range w {
			var hv any
			if i < len(h) {
				hv = h[i]
			}
			out[i] = stated(hv, v, exact)
		}
		return out
	}
	return want
}

// statesNothing tells whether a value from Git is empty; false and 0 only where there is no such field. With exact (labels) an
// empty text says something.
func statesNothing(v any, there, exact bool) bool {
	switch v := v.(type) {
	case nil:
		return true
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	case string:
		return v == "" && !exact
	}
	return !there && !exact && (v == false || v == int64(0))
}

// contains tells whether everything that want states is so in have, which may state more (server defaults).
// With exact a map may not have more keys.
func contains(have, want any, exact bool) bool {
	switch w := want.(type) {
	case map[string]any:
		h, ok := have.(map[string]any)
		if !ok || (exact && len(h) != len(w)) {
			return len(w) == 0 && have == nil
		}
		for k, v := range w {
			if v == nil {
				continue
			}
			if hv, ok := h[k]; !ok || !contains(hv, v, exact) {
				return false
			}
		}
		return true
	case []any:
		h, ok := have.([]any)
		if !ok || len(h) != len(w) {
			return false
		}
		for i := range w {
			if !contains(h[i], w[i], exact) {
				return false
			}
		}
		return true
	}
	return equality.Semantic.DeepEqual(have, want) || sameNumber(have, want)
}

// sameNumber compares what may be written in several ways: quantities ("1Gi", "1024Mi") and integers.
func sameNumber(a, b any) bool {
	as, bs := fmt.Sprint(a), fmt.Sprint(b)
	if as == bs {
		return true
	}
	qa, errA := resource.ParseQuantity(as)
	qb, errB := resource.ParseQuantity(bs)
	return errA == nil && errB == nil && qa.Cmp(qb) == 0
}

// brief shows a value in an error message.
func brief(v any) string {
	if m, ok := v.(map[string]any); ok {
		if labels, ok := m["matchLabels"].(map[string]any); ok {
			v = labels
		}
	}
	if m, ok := v.(map[string]any); ok {
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(m)) {
			parts = append(parts, fmt.Sprintf("%s=%v", k, m[k]))
		}
		v = strings.Join(parts, ",")
	}
	b, err := json.Marshal(v)
	if err != nil || len(b) > 120 {
		return "its present value"
	}
	return string(b)
}
