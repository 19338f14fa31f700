package live

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
)

// ownership is what managedFields tell about one object from our point of view.
type ownership struct {
	hash     delivery.Hash // of the fields our manager applied, without spec.replicas; zero: none
	replicas bool          // our manager owns spec.replicas
	rival    string        // the other manager that wrote last, status writes aside
	version  string        // the API version that our manager applied in, "v1"; empty: it did not
}

// ownershipOf reads managedFields: which fields the manager applied, hashed with the values they have now.
// A field that someone else has since changed or removed is no longer in our set (structured merge diff takes it
// away on conflict), so it changes the hash; a field that somebody else added is not in it, so it does not.
func ownershipOf(key delivery.Key, u *unstructured.Unstructured, manager string) (ownership, error) {
	var own ownership
	var rivalTime metav1.Time
	for _, entry := range u.GetManagedFields() {
		if entry.Subresource == "status" || entry.FieldsV1 == nil {
			continue
		}
		if entry.Manager != manager || entry.Operation != metav1.ManagedFieldsOperationApply {
			if entry.Manager != manager && entry.Time != nil && !entry.Time.Before(&rivalTime) {
				own.rival, rivalTime = entry.Manager, *entry.Time
			}
			continue
		}
		var fields map[string]any
		if err := json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields); err != nil {
			return own, fmt.Errorf("read managedFields of %s: %w", manager, err)
		}
		own.version = entry.APIVersion[strings.LastIndexByte(entry.APIVersion, '/')+1:]
		own.replicas = takeReplicas(fields)
		h := hmac.New(sha256.New, key)
		hashOwned(h, fields, u.Object)
		own.hash = delivery.Hash(h.Sum(nil)[:len(own.hash)])
	}
	return own, nil
}

// takeReplicas removes spec.replicas from a field set and tells whether it was there.
func takeReplicas(fields map[string]any) bool {
	spec, ok := fields["f:spec"].(map[string]any)
	if !ok {
		return false
	}
	_, owned := spec["f:replicas"]
	delete(spec, "f:replicas")
	return owned
}

// hashOwned walks a FieldsV1 set beside the value it describes. Keys of a set are "f:<field>", "k:<JSON of key fields>",
// "v:<JSON of a set's member>", "i:<index>" and "." for the value itself (sigs.k8s.io/structured-merge-diff, fieldpath).
// A set without children is a leaf: its whole value is ours.
func hashOwned(h hash.Hash, fields map[string]any, value any) {
	if len(fields) == 0 {
		hashValue(h, value)
		return
	}
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		h.Write([]byte(key))
		h.Write([]byte{0})
		if key == "." {
			continue
		}
		children, _ := fields[key].(map[string]any)
		child, ok := childOf(value, key)
		if !ok {
			h.Write([]byte{1})
			continue
		}
		if strings.HasPrefix(key, "v:") && len(children) == 0 {
			continue // a set's member is its own value
		}
		hashOwned(h, children, child)
		h.Write([]byte{2})
	}
}

func hashValue(h hash.Hash, value any) {
	b, err := json.Marshal(value)
	if err != nil {
		b = []byte(err.Error())
	}
	h.Write(b)
}

// childOf finds the part of value that a path element names.
func childOf(value any, key string) (any, bool) {
	kind, rest, _ := strings.Cut(key, ":")
	switch kind {
	case "f":
		m, _ := value.(map[string]any)
		v, ok := m[rest]
		return v, ok
	case "k":
		var want map[string]any
		if json.Unmarshal([]byte(rest), &want) != nil {
			return nil, false
		}
		list, _ := value.([]any)
		for _, item := range list {
			if m, ok := item.(map[string]any); ok && hasKeys(m, want) {
				return item, true
			}
		}
	case "v":
		list, _ := value.([]any)
		for _, item := range list {
			if b, err := json.Marshal(item); err == nil && bytes.Equal(b, compact(rest)) {
				return item, true
			}
		}
	case "i":
		list, _ := value.([]any)
		if i, err := strconv.Atoi(rest); err == nil && i >= 0 && i < len(list) {
			return list[i], true
		}
	}
	return nil, false
}

func hasKeys(m, want map[string]any) bool {
	for k, v := range want {
		have, ok := m[k]
		if !ok {
			return false
		}
		if fmt.Sprint(have) != fmt.Sprint(v) { // numbers: int64 there, float64 here
			return false
		}
	}
	return true
}

func compact(s string) []byte {
	var b bytes.Buffer
	if json.Compact(&b, []byte(s)) != nil {
		return []byte(s)
	}
	return b.Bytes()
}
