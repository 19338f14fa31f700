package history

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// The bounds of what is kept of one change.
const (
	MaxFields = 50  // of an object
	MaxValue  = 300 // bytes of a value before or after
	maxDepth  = 60  // of an object's parts: deeper ones are compared as a whole
)

// hidden stands where a whole value was that may be a secret: redact's mask.
const hidden = "**REDACTED**"

// serverFields are what only the API server writes, or a tool about itself: they are nobody's change.
var serverFields = map[string]bool{
	"metadata.creationTimestamp": true, "metadata.generation": true, "metadata.managedFields": true, "metadata.resourceVersion": true,
	"metadata.selfLink": true, "metadata.uid": true, "metadata.deletionTimestamp": true, "metadata.deletionGracePeriodSeconds": true, "status": true,
	"apiVersion": true, "kind": true,
	"metadata.annotations[kubectl.kubernetes.io/last-applied-configuration]": true,
	"metadata.annotations[deployment.kubernetes.io/revision]":                true,
}

// Diff gives the fields that differ between an object before and after, in the order of their paths, and how many more there are than
// [MaxFields]. What only the API server writes does not count. Items of lists are told apart by their name where all have one, else by
// their place; a list without names that has become longer or shorter is one field. Values go through mask (nil: as they are), and are then
// cut to [MaxValue]. Where mask changes one value of a field, the other one is left out as a whole: a secret that is another one since then is
// not known to mask any more. The values of Secrets have to be masked before: secret says that they were.
func Diff(before, after map[string]any, secret bool, mask func(string) string) (fields []Field, more int) {
	if mask == nil {
		mask = func(s string) string { return s }
	}
	d := differ{secret: secret, mask: mask}
	d.maps("", before, after, 0)
	return d.fields, d.more
}

type differ struct {
	fields []Field
	more   int
	secret bool
	mask   func(string) string
}

func (d *differ) maps(at string, before, after map[string]any, depth int) {
	keys := maps.Clone(before)
	if keys == nil {
		keys = map[string]any{}
	}
	maps.Copy(keys, after)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		was, had := before[key]
		is, has := after[key]
		path := join(at, key)
		if serverFields[path] || had && has && reflect.DeepEqual(was, is) {
			continue
		}
		d.value(path, was, is, depth)
	}
}

// join adds a key to a path. One with a dot or a slash, as annotations have, stands in brackets.
func join(at, key string) string {
	if strings.ContainsAny(key, "./[]") {
		return at + "[" + key + "]"
	}
	if at == "" {
		return key
	}
	return at + "." + key
}

func (d *differ) value(path string, was, is any, depth int) {
	if depth < maxDepth {
		wasMap, a := was.(map[string]any)
		isMap, b := is.(map[string]any)
		if a && b || a && is == nil && len(wasMap) > 0 || b && was == nil && len(isMap) > 0 {
			d.maps(path, wasMap, isMap, depth+1)
			return
		}
		wasList, a := was.([]any)
		isList, b := is.([]any)
		if a && b && d.lists(path, wasList, isList, depth+1) {
			return
		}
	}
	d.add(path, was, is)
}

// lists compares two lists item by item; false: they are to be compared as a whole.
func (d *differ) lists(at string, before, after []any, depth int) bool {
	key := nameKey(before, after)
	if key == "" && len(before) != len(after) {
		return false
	}
	if key == "" {
		for i := range before {
			if !reflect.DeepEqual(before[i], after[i]) {
				d.value(at+"["+strconv.Itoa(i)+"]", before[i], after[i], depth)
			}
		}
		return true
	}
	was, is := named(before, key), named(after, key)
	all := maps.Clone(was)
	maps.Copy(all, is)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !reflect.DeepEqual(was[name], is[name]) {
			d.value(at+"["+key+"="+name+"]", was[name], is[name], depth)
		}
	}
	return true
}

// nameKey is the field that tells the items of two lists apart: all have it, and each another; empty: there is none. One that is no name, but a
// value like others, does so where the lists have the same.
func nameKey(before, after []any) string {
	for _, key := range []string{"name", "host", "containerPort", "mountPath", "topologyKey", "ip"} {
		was, is := named(before, key), named(after, key)
		if len(was) != len(before) || len(is) != len(after) {
			continue
		}
		if key == "name" || maps.EqualFunc(was, is, func(any, any) bool { return true }) {
			return key
		}
	}
	return ""
}

// named gives items by a field; those that lack it are left out, so that there are fewer than in the list.
func named(list []any, key string) map[string]any {
	out := make(map[string]any, len(list))
	for _, item := range list {
		m, _ := item.(map[string]any)
		switch name := m[key].(type) {
		case string:
			if name != "" && !strings.ContainsAny(name, "[]") {
				out[name] = item
			}
		case int64, float64:
			out[fmt.Sprint(name)] = item
		}
	}
	return out
}

func (d *differ) add(path string, was, is any) {
	if len(d.fields) == MaxFields {
		d.more++
		return
	}
	before, a := d.text(was)
	after, b := d.text(is)
	if b && before != "" {
		before = hidden
	}
	if a && !b && after != "" {
		after = hidden
	}
	d.fields = append(d.fields, Field{Path: cut(path, MaxValue), Before: cut(before, MaxValue), After: cut(after, MaxValue), Secret: d.secret})
}

// text is a value as people read it: a text as it is (an empty one as ""), what has parts as JSON; none is empty. hides tells that the mask has
// changed it.
func (d *differ) text(v any) (text string, hides bool) {
	switch v := v.(type) {
	case nil:
		return "", false
	case string:
		if v == "" {
			return `""`, false
		}
		masked := d.mask(v)
		return strings.ToValidUTF8(masked, "\uFFFD"), masked != v
	}
	whole, masked := asJSON(v), asJSON(d.masked(v))
	masked = d.mask(masked) // keys and numbers too
	return masked, masked != whole
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil { // it came as JSON
		return fmt.Sprint(v)
	}
	return string(b)
}

// masked gives a value with its texts masked, before JSON writes them in another way.
func (d *differ) masked(v any) any {
	switch v := v.(type) {
	case string:
		return d.mask(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = d.masked(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for key := range v {
			out[key] = d.masked(v[key])
		}
		return out
	}
	return v
}
