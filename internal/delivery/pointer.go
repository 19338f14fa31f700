package delivery

import (
	"slices"
	"strconv"
	"strings"
)

// IgnoreRule leaves fields of objects to whoever else writes them. Which fields is said in up to three ways that add up.
type IgnoreRule struct {
	Paths    []string  // JSON pointers (RFC 6901), "/spec/replicas"
	JQ       []string  // jq expressions that give paths, ".spec.template.spec.initContainers[] | select(.name == \"x\")"
	Managers []string  // field managers: what they own in the cluster
	Target   *Selector // nil: every object
	// Respect leaves the fields alone in an operation too. Without it an app with operations (App.Sync) only does not count
	// them when it is compared, and sends them as Git has them. Apps without operations always respect them.
	Respect bool
}

// Pointer is a JSON pointer (RFC 6901): field names and list indices from the outside in.
type Pointer []string

var unescapePointer = strings.NewReplacer("~1", "/", "~0", "~")

// ParsePointer reads a JSON pointer to a field; false: it is none.
func ParsePointer(text string) (Pointer, bool) {
	rest, ok := strings.CutPrefix(text, "/")
	if !ok || rest == "" {
		return nil, false
	}
	p := Pointer(strings.Split(rest, "/"))
	for i, s := range p {
		p[i] = unescapePointer.Replace(s)
	}
	return p, true
}

// Lookup gives the value that the pointer leads to.
func (p Pointer) Lookup(value any) (any, bool) {
	for _, s := range p {
		switch v := value.(type) {
		case map[string]any:
			below, ok := v[s]
			if !ok {
				return nil, false
			}
			value = below
		case []any:
			i, ok := index(s, v)
			if !ok {
				return nil, false
			}
			value = v[i]
		default:
			return nil, false
		}
	}
	return value, true
}

// Set puts a value where the pointer leads to, in place. Objects on the way are made where there are none; list items are not.
func (p Pointer) Set(object map[string]any, to any) { _ = p.set(object, to) }

func (p Pointer) set(value, to any) any {
	if len(p) == 0 {
		return to
	}
	switch v := value.(type) {
	case nil:
		return map[string]any{p[0]: p[1:].set(nil, to)}
	case map[string]any:
		v[p[0]] = p[1:].set(v[p[0]], to)
	case []any:
		if i, ok := index(p[0], v); ok {
			v[i] = p[1:].set(v[i], to)
		}
	}
	return value
}

// Remove takes away what the pointer leads to, in place.
func (p Pointer) Remove(object map[string]any) {
	parent := p[:len(p)-1]
	last := p[len(p)-1]
	value, _ := parent.Lookup(object)
	switch v := value.(type) {
	case map[string]any:
		delete(v, last)
	case []any:
		if i, ok := index(last, v); ok {
			parent.Set(object, slices.Delete(v, i, i+1))
		}
	}
}

// index reads the index of an item that is there.
func index(text string, list []any) (int, bool) {
	i, err := strconv.Atoi(text)
	return i, err == nil && i >= 0 && i < len(list)
}
