package live

import (
	"maps"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/plan"
)

// Kept hashes what we own of an object but for some fields that are left to others: as long as it is the same, nothing else of
// ours was changed. An error means that its managedFields cannot be read.
func (l *Live) Kept(u *unstructured.Unstructured, left []delivery.Pointer) (delivery.Hash, error) {
	own, err := ownershipOf(l.opts.Key, u, kube.FieldManager, left...)
	return own.hash, err
}

// AppliedBy tells whether our field manager applies a field of an object, and whether another one does that keeps it: what a tool
// applies ([plan.IsTool]) is taken over with the next apply, and with it the field.
func AppliedBy(u *unstructured.Unstructured, field delivery.Pointer) (ours, others bool) {
	found, _, _ := unstructured.NestedFieldNoCopy(u.Object, "metadata", "managedFields")
	entries, _ := found.([]any)
	for _, e := range entries {
		entry, _ := e.(map[string]any)
		fields, _ := entry["fieldsV1"].(map[string]any)
		if entry["operation"] != "Apply" || entry["subresource"] != nil || !has(fields, u.Object, field) {
			continue
		}
		manager, _ := entry["manager"].(string)
		if manager == kube.FieldManager {
			ours = true
		} else if !plan.IsTool(manager) || delivery.MarksOf(u).Has(delivery.MarkMerge) {
			others = true
		}
	}
	return ours, others
}

// has tells whether a FieldsV1 set has a field, or something below it.
func has(fields map[string]any, value any, field delivery.Pointer) bool {
	for _, name := range field {
		key, below := step(fields, value, name)
		child, ok := fields[key].(map[string]any)
		if !ok {
			return false
		}
		fields, value = child, below
	}
	return true
}

// without gives a FieldsV1 set without a field and what is below it, and without what has nothing left in it then.
func without(fields map[string]any, value any, field delivery.Pointer) map[string]any {
	key, below := step(fields, value, field[0])
	child, ok := fields[key].(map[string]any)
	if !ok {
		return fields
	}
	out := maps.Clone(fields)
	if len(field) > 1 {
		if left := without(child, below, field[1:]); len(left) > 0 || len(child) == 0 {
			out[key] = left
			return out
		}
	}
	delete(out, key)
	return out
}

// step gives the key of a set's element for a field's name or a list's index, and the value there.
func step(fields map[string]any, value any, name string) (string, any) {
	list, ok := value.([]any)
	if !ok {
		object, _ := value.(map[string]any)
		return "f:" + name, object[name]
	}
	i, err := strconv.Atoi(name)
	if err != nil || i < 0 || i >= len(list) {
		return "", nil
	}
	e := encoders.Get().(*encoder) //nolint:forcetypeassert // the pool's New
	defer encoders.Put(e)
	e.element(keyNames(nil, fields), list[i])
	return string(e.path), list[i]
}
