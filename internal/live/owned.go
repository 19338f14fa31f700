package live

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/plan"
)

// ownership is what managedFields tell about one object from our point of view.
type ownership struct {
	hash     delivery.Hash // of the fields our manager applied, without spec.replicas; zero: none
	replicas bool          // our manager owns spec.replicas
	rival    string        // the other manager that wrote last, status writes aside
	version  string        // the API version that our manager applied in, "v1"; empty: it did not
	shared   string        // another delivery tool's manager that owns fields of ours as well, or everything there is
}

// ownershipOf reads managedFields: which fields the manager applied, hashed with the values they have now.
// A field that someone else has since changed or removed is no longer in our set (structured merge diff takes it
// away on conflict), so it changes the hash; a field that somebody else added is not in it, so it does not.
//
// The verdict is that of a server-side dry-run of the same apply, with one exception that no set of fields shows: an empty list
// of a custom resource that we sent and somebody removed. (stringData of a Secret would be another: it has to be sent as data.)
func ownershipOf(key delivery.Key, u *unstructured.Unstructured, manager string) (ownership, error) {
	var own ownership
	var ours map[string]any
	var others []map[string]any
	var tools []map[string]any // entries of other delivery tools
	latest := ""
	found, _, _ := unstructured.NestedFieldNoCopy(u.Object, "metadata", "managedFields")
	entries, ok := found.([]any)
	if !ok && found != nil {
		return own, fmt.Errorf("metadata.managedFields is not a list but %T", found)
	}
	for _, e := range entries {
		entry, _ := e.(map[string]any)
		fields, ok := entry["fieldsV1"].(map[string]any)
		if !ok || entry["subresource"] == "status" {
			continue
		}
		if entry["manager"] == manager && entry["operation"] == "Apply" && entry["subresource"] == nil {
			ours = fields
			version, _ := entry["apiVersion"].(string)
			own.version = version[strings.LastIndexByte(version, '/')+1:]
			continue
		}
		others = append(others, fields)
		if name, _ := entry["manager"].(string); entry["subresource"] == nil && plan.IsTool(name) {
			tools = append(tools, entry)
		}
		// Times are in UTC and to the second: in the order of their text.
		if at, _ := entry["time"].(string); entry["manager"] != manager && at != "" && at >= latest {
			own.rival, _ = entry["manager"].(string)
			latest = at
		}
	}
	if len(tools) > 0 && !delivery.MarksOf(u).Has(delivery.MarkMerge) {
		own.shared = shared(ours, tools)
	}
	if ours == nil {
		return own, nil
	}
	ours, own.replicas = withoutReplicas(ours, u)
	e := encoders.Get().(*encoder) //nolint:forcetypeassert // the pool's New
	defer encoders.Put(e)
	e.out = e.out[:0]
	e.owned(ours, others, u.Object)
	own.hash = key.Hash(e.out)
	return own, nil
}

// shared names the first tool that owns fields which are ours too, or that have to become ours.
func shared(ours map[string]any, tools []map[string]any) string {
	for _, entry := range tools {
		theirs, _ := entry["fieldsV1"].(map[string]any)
		operation, _ := entry["operation"].(string)
		if plan.Shares(ours, theirs, operation) {
			name, _ := entry["manager"].(string)
			return name
		}
	}
	return ""
}

// withoutReplicas gives a field set without spec.replicas and tells whether it was there. A spec.replicas that is not a number,
// as some kinds have it, is a field like any other.
func withoutReplicas(fields map[string]any, u *unstructured.Unstructured) (map[string]any, bool) {
	spec, ok := fields["f:spec"].(map[string]any)
	if !ok {
		return fields, false
	}
	of, ok := spec["f:replicas"].(map[string]any)
	if !ok || len(of) > 0 {
		return fields, false
	}
	value, there, _ := unstructured.NestedFieldNoCopy(u.Object, "spec", "replicas")
	if _, number := value.(int64); there && !number {
		return fields, false
	}
	fields, spec = maps.Clone(fields), maps.Clone(spec)
	delete(spec, "f:replicas")
	fields["f:spec"] = spec
	return fields, true
}

// encoder writes the owned part of an object as bytes to be hashed.
type encoder struct {
	out   []byte
	keys  []string         // stack of the keys of the maps under way
	under []map[string]any // stack of what others own below the maps under way
	path  []byte           // scratch of element
}

var encoders = sync.Pool{New: func() any { return new(encoder) }}

// Marks that keep the parts of the encoding apart.
const (
	markKey  = iota
	markOpen // a leaf that says nothing about its content
	markItems
	markItem
	markEnd
	markText
	markNumber
	markTrue
	markFalse
	markNull
	markMap
	markList
)

// owned writes a FieldsV1 set with the values that it describes. Keys of a set are "f:<field>", "k:<JSON of key fields>",
// "v:<JSON of a set's member>" and "." for the value itself (sigs.k8s.io/structured-merge-diff, fieldpath). others are the sets
// of other managers at the same place.
func (e *encoder) owned(fields map[string]any, others []map[string]any, value any) {
	if len(fields) == 0 {
		e.leaf(others, value)
		return
	}
	start, items := len(e.keys), 0
	for key := range fields {
		if strings.HasPrefix(key, "k:") || strings.HasPrefix(key, "v:") {
			items++
			continue
		}
		e.keys = append(e.keys, key)
	}
	end := len(e.keys)
	slices.Sort(e.keys[start:])
	object, _ := value.(map[string]any)
	for i := start; i < end; i++ {
		key := e.keys[i]
		e.out = append(e.out, markKey)
		e.text(key)
		field, named := strings.CutPrefix(key, "f:")
		if !named {
			continue
		}
		e.child(fields, others, key, object[field])
	}
	e.keys = e.keys[:start]
	if items > 0 {
		list, _ := value.([]any)
		e.items(fields, others, list, items)
	}
	e.out = append(e.out, markEnd)
}

// child writes what is owned below a key of a set.
func (e *encoder) child(fields map[string]any, others []map[string]any, key string, value any) {
	start := len(e.under)
	for _, other := range others {
		if below, _ := other[key].(map[string]any); len(below) > 0 {
			e.under = append(e.under, below)
		}
	}
	children, _ := fields[key].(map[string]any)
	e.owned(children, e.under[start:], value)
	e.under = e.under[:start]
}

// leaf writes what is owned as a whole: a scalar, an atomic list or map, or a list or map that others may add to and that we
// sent empty. Nobody can change an atomic map without taking it from us, and the empty ones are filled by the server's
// defaults and by others: of a map, its content says nothing. Nor does a list's that others own items of, or that is empty.
func (e *encoder) leaf(others []map[string]any, value any) {
	switch v := value.(type) {
	case nil, map[string]any:
		e.out = append(e.out, markOpen)
	case []any:
		if len(v) == 0 || len(others) > 0 {
			e.out = append(e.out, markOpen)
			return
		}
		e.value(v)
	default:
		e.value(v)
	}
}

// items writes the items of a list that are ours, in the order in which they are there: an apply restores the order of what it
// names, wherever others put theirs in between. An item that is there twice counts twice.
func (e *encoder) items(fields map[string]any, others []map[string]any, list []any, owned int) {
	e.out = append(e.out, markItems)
	e.out = binary.AppendUvarint(e.out, uint64(owned)) //nolint:gosec // a count
	names := keyNames(nil, fields)
	for _, other := range others {
		names = keyNames(names, other)
	}
	slices.Sort(names)
	for _, item := range list {
		e.element(names, item)
		if _, ours := fields[string(e.path)]; !ours {
			continue
		}
		key := string(e.path)
		e.out = append(e.out, markItem)
		e.text(key)
		if key[0] == 'k' { // the member of a set is its own value
			e.child(fields, others, key, item)
		}
	}
}

// element writes the path element of an item to e.path as the server does: by the key fields, or by its value.
func (e *encoder) element(names []string, item any) {
	object, ok := item.(map[string]any)
	if !ok || len(names) == 0 {
		e.path = appendJSON(append(e.path[:0], "v:"...), item)
		return
	}
	e.path = append(e.path[:0], "k:{"...)
	for _, name := range names {
		v, ok := object[name]
		if !ok {
			continue
		}
		if e.path[len(e.path)-1] != '{' {
			e.path = append(e.path, ',')
		}
		e.path = appendJSON(e.path, name)
		e.path = append(e.path, ':')
		e.path = appendJSON(e.path, v)
	}
	e.path = append(e.path, '}')
}

// keyNames adds to names the key fields that the items of a set are named by: "k:{"containerPort":80,"protocol":"TCP"}".
func keyNames(names []string, fields map[string]any) []string {
	for key := range fields {
		rest, ok := strings.CutPrefix(key, "k:{")
		for ok && strings.HasPrefix(rest, `"`) {
			var name string
			if name, rest, ok = cutText(rest); !ok {
				break
			}
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
			rest = strings.TrimPrefix(rest, ":")
			if strings.HasPrefix(rest, `"`) {
				if _, rest, ok = cutText(rest); !ok {
					break
				}
			}
			_, rest, ok = strings.Cut(rest, ",")
		}
	}
	return names
}

// cutText cuts a JSON string off the front of s.
func cutText(s string) (text, rest string, ok bool) {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			if strings.IndexByte(s[:i], '\\') < 0 {
				return s[1:i], s[i+1:], true
			}
			err := json.Unmarshal([]byte(s[:i+1]), &text)
			return text, s[i+1:], err == nil
		}
	}
	return "", "", false
}

// appendJSON is [json.Marshal] with a short way for the usual scalars.
func appendJSON(out []byte, value any) []byte {
	switch v := value.(type) {
	case string:
		if plain(v) {
			out = append(out, '"')
			out = append(out, v...)
			return append(out, '"')
		}
	case int64:
		return strconv.AppendInt(out, v, 10)
	}
	b, err := json.Marshal(value)
	if err != nil { // what came in as JSON goes out as JSON
		return append(out, err.Error()...)
	}
	return append(out, b...)
}

// plain tells whether a JSON string needs no escapes.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

// value writes a value whole.
func (e *encoder) value(value any) {
	switch v := value.(type) {
	case nil:
		e.out = append(e.out, markNull)
	case string:
		e.out = append(e.out, markText)
		e.text(v)
	case bool:
		if v {
			e.out = append(e.out, markTrue)
		} else {
			e.out = append(e.out, markFalse)
		}
	case int64:
		e.out = append(e.out, markNumber)
		e.text(strconv.FormatInt(v, 10))
	case float64:
		e.out = append(e.out, markNumber)
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 { // the same number as an integer
			e.text(strconv.FormatInt(int64(v), 10))
			return
		}
		e.text(strconv.FormatFloat(v, 'g', -1, 64))
	case []any:
		e.out = append(e.out, markList)
		for _, item := range v {
			e.value(item)
		}
		e.out = append(e.out, markEnd)
	case map[string]any:
		e.out = append(e.out, markMap)
		start := len(e.keys)
		for key := range v {
			e.keys = append(e.keys, key)
		}
		end := len(e.keys)
		slices.Sort(e.keys[start:])
		for i := start; i < end; i++ {
			key := e.keys[i]
			e.text(key)
			e.value(v[key])
		}
		e.keys = e.keys[:start]
		e.out = append(e.out, markEnd)
	}
}

func (e *encoder) text(s string) {
	e.out = binary.AppendUvarint(e.out, uint64(len(s)))
	e.out = append(e.out, s...)
}
