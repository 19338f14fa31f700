package redact

import (
	"encoding/base64"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Changed stands for a value that differs from the one on the other side of a pair.
const Changed = Mask + " (changed)"

// copies are annotations in which tools keep a copy of the whole object, secret values included.
var copies = []string{"kubectl.kubernetes.io/last-applied-configuration", "kapp.k14s.io/original"}

// IsSecret says whether u is a core Secret.
func IsSecret(u *unstructured.Unstructured) bool {
	gvk := u.GroupVersionKind()
	return gvk.Group == "" && gvk.Kind == "Secret"
}

// Secret returns a copy of u that is safe to show: of a Secret the values under data and stringData and the
// annotations that hold a copy of it are replaced by [Mask], the keys stay. Any other object is returned as it is.
func Secret(u *unstructured.Unstructured) *unstructured.Unstructured {
	if u == nil || !IsSecret(u) {
		return u
	}
	u = u.DeepCopy()
	for _, field := range []string{"data", "stringData"} {
		if v, ok := u.Object[field]; ok && v != nil {
			u.Object[field] = maskMap(v, nil)
		}
	}
	maskAnnotations(u, nil)
	return u
}

// SecretPair masks both sides of a diff of one Secret so that it still shows which keys were added, removed or
// changed: equal values become [Mask] on both sides, a differing one [Mask] in live and [Changed] in desired.
// stringData is folded into data first, as the API server does. Either side may be nil (created, deleted).
// Objects that are no Secrets are returned as they are.
func SecretPair(live, desired *unstructured.Unstructured) (maskedLive, maskedDesired *unstructured.Unstructured) {
	if live == nil || desired == nil || !IsSecret(live) || !IsSecret(desired) {
		return Secret(live), Secret(desired)
	}
	live, desired = fold(live), fold(desired)
	if v, ok := desired.Object["data"]; ok {
		desired.Object["data"] = maskMap(v, asMap(live.Object["data"]))
	}
	maskAnnotations(desired, live.GetAnnotations())
	return Secret(live), desired
}

// Rotated gives the values of a Secret that are others after a change than before it, both of them, or that have gone with it. after may be nil:
// it was deleted. Of what is no Secret it gives none.
func Rotated(before, after *unstructured.Unstructured) []string {
	if before == nil || !IsSecret(before) {
		return nil
	}
	was, is := asMap(fold(before).Object["data"]), map[string]any(nil)
	if after != nil {
		is = asMap(fold(after).Object["data"])
	}
	var out []string
	for key, v := range was {
		if equalValue(v, is[key]) {
			continue
		}
		for _, side := range []any{v, is[key]} {
			text, _ := side.(string)
			if value, err := base64.StdEncoding.DecodeString(text); err == nil && text != "" {
				out = append(out, string(value))
			}
		}
	}
	return out
}

// fold returns a copy with stringData merged into data.
func fold(u *unstructured.Unstructured) *unstructured.Unstructured {
	u = u.DeepCopy()
	plain, ok := u.Object["stringData"].(map[string]any)
	if !ok {
		if v, there := u.Object["stringData"]; there && v != nil {
			u.Object["stringData"] = Mask // malformed: not a map; it is not shown either
		}
		return u
	}
	data := map[string]any{}
	if v, there := u.Object["data"]; there && v != nil {
		if data, ok = v.(map[string]any); !ok {
			data = map[string]any{}
		}
	}
	for k, v := range plain {
		if s, ok := v.(string); ok {
			data[k] = base64.StdEncoding.EncodeToString([]byte(s))
		} else {
			data[k] = v
		}
	}
	u.Object["data"] = data
	delete(u.Object, "stringData")
	return u
}

// maskMap masks every value of v; where other is given, a value that other holds differently is marked as changed.
// A v that is no map (malformed input) is masked whole.
func maskMap(v any, other map[string]any) any {
	m, ok := v.(map[string]any)
	if !ok {
		if v == nil {
			return nil
		}
		return Mask
	}
	out := make(map[string]any, len(m))
	for k, val := range m {
		out[k] = Mask
		if o, there := other[k]; there && !equalValue(o, val) {
			out[k] = Changed
		}
	}
	return out
}

// equalValue compares two values of a Secret: strings by content, anything else (malformed) counts as different.
func equalValue(a, b any) bool {
	as, aok := a.(string)
	bs, bok := b.(string)
	return aok && bok && as == bs
}

func asMap(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// maskAnnotations masks the annotations of u that hold a copy of it; one that differs from other's is marked as changed.
func maskAnnotations(u *unstructured.Unstructured, other map[string]string) {
	annotations, found, err := unstructured.NestedMap(u.Object, "metadata", "annotations")
	if err != nil || !found {
		return
	}
	for _, name := range copies {
		v, ok := annotations[name]
		if !ok {
			continue
		}
		annotations[name] = Mask
		if o, there := other[name]; there && v != o {
			annotations[name] = Changed
		}
	}
	u.Object["metadata"].(map[string]any)["annotations"] = annotations
}
