package appset

import (
	"fmt"
	"maps"
	"reflect"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// params are one set of parameters: values as JSON has them, map[string]string for labels, annotations and values, and []string
// for segments of paths. The types are Argo CD's, as templates can tell them apart: index gives "" for a key that a
// map[string]string has not.
type params = map[string]any

// cloned gives a set that shares no map or list with p.
func cloned(p params) params {
	out := make(params, len(p))
	for k, v := range p {
		out[k] = clonedValue(v)
	}
	return out
}

func clonedValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		return cloned(v)
	case map[string]string:
		return maps.Clone(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = clonedValue(v[i])
		}
		return out
	case []map[string]any:
		out := make([]map[string]any, len(v))
		for i := range v {
			out[i] = cloned(v[i])
		}
		return out
	}
	return v // the rest is not written to
}

// overlay lays over onto base, map into map. A value that is empty (zero, "", false, nothing in it) does not override another.
func overlay(base, over params) {
	for k, v := range over {
		was, there := base[k]
		if there {
			if a, ok := asMap(was); ok {
				if b, ok := asMap(v); ok {
					merged := cloned(a)
					overlay(merged, b)
					base[k] = sameType(was, v, merged)
					continue
				}
			}
		}
		if !there || !empty(v) {
			base[k] = clonedValue(v)
		}
	}
}

// asMap gives the entries of a value that is a map of either type.
func asMap(v any) (map[string]any, bool) {
	switch v := v.(type) {
	case map[string]any:
		return v, true
	case map[string]string:
		out := make(map[string]any, len(v))
		for k, s := range v {
			out[k] = s
		}
		return out, true
	}
	return nil, false
}

// sameType gives merged as a map[string]string where both it was made of are.
func sameType(a, b any, merged map[string]any) any {
	_, one := a.(map[string]string)
	if _, two := b.(map[string]string); !one || !two {
		return merged
	}
	out := make(map[string]string, len(merged))
	for k, v := range merged {
		out[k], _ = v.(string)
	}
	return out
}

func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case bool:
		return !v
	case float64:
		return v == 0
	case int64:
		return v == 0
	}
	rv := reflect.ValueOf(v)
	return (rv.Kind() == reflect.Map || rv.Kind() == reflect.Slice) && rv.Len() == 0
}

// underlay fills in what tree lacks, or has empty, from base: how a generator's template and the set's come together. What
// is raw to Argo CD is taken as a whole.
func underlay(tree, base map[string]any) {
	for k, v := range base {
		was, there := tree[k]
		a, isMap := was.(map[string]any)
		b, both := v.(map[string]any)
		switch {
		case !there || empty(was):
			tree[k] = clonedValue(v)
		case isMap && both && k != "valuesObject":
			underlay(a, b)
		}
	}
}

// combine gives the parameters of two sets as text; a key that both have with another value is an error (without goTemplate).
func combine(a, b params) (params, error) {
	out := make(params, len(a)+len(b))
	for k, v := range a {
		out[k] = fmt.Sprint(v)
	}
	for k, v := range b {
		text := fmt.Sprint(v)
		if was, ok := out[k]; ok && was != text {
			return nil, fmt.Errorf("found duplicate key %s with different value, a: %s, b: %s", k, was, text)
		}
		out[k] = text
	}
	return out, nil
}

// flatten gives every leaf by its path: "a.b.0.c".
func flatten(p params) map[string]string {
	out := map[string]string{}
	var walk func(prefix string, v any)
	walk = func(prefix string, v any) {
		at := func(key string) string {
			if prefix == "" {
				return key
			}
			return prefix + "." + key
		}
		if m, ok := asMap(v); ok {
			for k, v := range m {
				walk(at(k), v)
			}
			return
		}
		if list, ok := v.([]any); ok {
			for i, v := range list {
				walk(at(strconv.Itoa(i)), v)
			}
			return
		}
		out[prefix] = fmt.Sprint(v)
	}
	for k, v := range p {
		walk(k, v)
	}
	return out
}

// selects compiles the selector of a generator. Unlike with labels a value may be anything, as a cluster's address.
func selects(s *metav1.LabelSelector) (func(params) bool, error) {
	if s == nil {
		return func(params) bool { return true }, nil
	}
	var all []metav1.LabelSelectorRequirement
	for k, v := range s.MatchLabels {
		all = append(all, metav1.LabelSelectorRequirement{Key: k, Operator: metav1.LabelSelectorOpIn, Values: []string{v}})
	}
	all = append(all, s.MatchExpressions...)
	for _, r := range all {
		if problems := validation.IsQualifiedName(r.Key); len(problems) > 0 {
			return nil, fmt.Errorf("selector: key %q: %s", r.Key, problems[0])
		}
		switch r.Operator {
		case metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn:
			if len(r.Values) == 0 {
				return nil, fmt.Errorf("selector: key %q: %s needs values", r.Key, r.Operator)
			}
		case metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist:
			if len(r.Values) > 0 {
				return nil, fmt.Errorf("selector: key %q: %s takes no values", r.Key, r.Operator)
			}
		default:
			return nil, fmt.Errorf("selector: key %q: %q is no operator (hint: In, NotIn, Exists, DoesNotExist)", r.Key, r.Operator)
		}
	}
	return func(p params) bool {
		flat := flatten(p)
		for _, r := range all {
			if !meets(flat, r) {
				return false
			}
		}
		return true
	}, nil
}

func meets(flat map[string]string, r metav1.LabelSelectorRequirement) bool {
	value, has := flat[r.Key]
	among := false
	for _, v := range r.Values {
		among = among || has && v == value
	}
	switch r.Operator {
	case metav1.LabelSelectorOpIn:
		return among
	case metav1.LabelSelectorOpNotIn:
		return !among
	case metav1.LabelSelectorOpExists:
		return has
	}
	return !has
}
