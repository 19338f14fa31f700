package deliver

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/itchyny/gojq"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/plan"
)

// Apps with operations may name fields that do not count also by what is in the object (jq expressions) and by who owns them (field
// managers). Which fields these are only an object itself tells; [delivery.IgnoreRule].

// ignoring is what does not count of one object.
type ignoring struct {
	pointers []delivery.Pointer
	jq       []*gojq.Code
	managers []string
	respect  bool // they are left alone when the object is sent, too
}

// jqLimit bounds the time of one expression over one object (Argo CD: ignoreResourceUpdates' jq timeout), maxPaths what it may find.
const (
	jqLimit  = time.Second
	maxPaths = 1000
)

// fields gives the fields of an object that do not count, list items of higher indices first.
func (ig ignoring) fields(ctx context.Context, u *unstructured.Unstructured) ([]delivery.Pointer, error) {
	fields := slices.Clone(ig.pointers)
	if len(ig.managers) > 0 {
		owned, err := plan.FieldsOf(u, ig.managers)
		if err != nil {
			return nil, err
		}
		fields = append(fields, owned...)
	}
	for _, code := range ig.jq {
		found, err := paths(ctx, code, u)
		if err != nil {
			return nil, err
		}
		fields = append(fields, found...)
	}
	slices.SortFunc(fields, func(a, b delivery.Pointer) int { return -comparePointers(a, b) })
	return slices.CompactFunc(fields, slices.Equal[delivery.Pointer]), nil
}

// comparePointers orders pointers, indices as numbers.
func comparePointers(a, b delivery.Pointer) int {
	return slices.CompareFunc(a, b, func(x, y string) int {
		n, errX := strconv.Atoi(x)
		m, errY := strconv.Atoi(y)
		if errX == nil && errY == nil {
			return cmp.Compare(n, m)
		}
		return cmp.Compare(x, y)
	})
}

// paths runs an expression that gives paths over an object. An expression that fails, on this object, finds nothing there (as in Argo CD,
// where a field that is not there is no error); one that takes too long is one.
func paths(ctx context.Context, code *gojq.Code, u *unstructured.Unstructured) ([]delivery.Pointer, error) {
	ctx, cancel := context.WithTimeout(ctx, jqLimit)
	defer cancel()
	var out []delivery.Pointer
	iter := code.RunWithContext(ctx, plainJSON(u.Object))
	for len(out) < maxPaths {
		v, more := iter.Next()
		if !more {
			break
		}
		if _, failed := v.(error); failed {
			if ctx.Err() != nil {
				return nil, &delivery.Fault{
					Reason: "ComparisonError", Where: delivery.RefOf(u).String(), Retry: delivery.OnChange,
					Err: fmt.Errorf("a jq expression of ignoreDifferences takes longer than %s", jqLimit), Hint: "write a simpler one",
				}
			}
			break
		}
		elements, _ := v.([]any)
		if p, ok := pointer(elements); ok {
			out = append(out, p)
		}
	}
	return out, nil
}

// pointer reads a path of jq's: names and indices. Slices, and the whole object, are no fields.
func pointer(elements []any) (delivery.Pointer, bool) {
	p := make(delivery.Pointer, 0, len(elements))
	for _, e := range elements {
		switch e := e.(type) {
		case string:
			p = append(p, e)
		case int:
			if e < 0 {
				return nil, false
			}
			p = append(p, strconv.Itoa(e))
		default:
			return nil, false
		}
	}
	return p, len(p) > 0
}

// plainJSON copies a value with the numbers that jq knows.
func plainJSON(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, item := range v {
			out[k] = plainJSON(item)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = plainJSON(item)
		}
		return out
	case int64:
		return int(v)
	}
	return v
}

// compile reads a jq expression. The error is one for who wrote it.
func compile(expression string) (*gojq.Code, error) {
	if _, err := plan.ParseJQ(expression); err != nil {
		return nil, err
	}
	query, err := gojq.Parse("path(" + expression + "\n)") // a comment ends with its line
	if err != nil {
		return nil, err
	}
	return gojq.Compile(query, gojq.WithEnvironLoader(func() []string { return nil }))
}

// ignoringOf finds what does not count of each object of an app with operations. The error is a *delivery.Fault about a rule.
func ignoringOf(req Request, objects []delivery.Object) (map[delivery.Ref]ignoring, error) {
	out := map[delivery.Ref]ignoring{}
	for i, rule := range req.App.Ignore {
		bad := func(err error) error {
			return &delivery.Fault{
				Reason: "InvalidSpecError", Where: fmt.Sprintf("spec.ignoreDifferences[%d]", i), Retry: delivery.OnChange, Err: err,
				Hint: "jqPathExpressions are expressions of jq that give paths, as .spec.template.spec.containers[].image",
			}
		}
		var code []*gojq.Code
		for _, expression := range rule.JQ {
			c, err := compile(expression)
			if err != nil {
				return nil, bad(fmt.Errorf("jq expression %q: %w", expression, err))
			}
			code = append(code, c)
		}
		selected, err := plan.Selected(rule, objects)
		if err != nil {
			return nil, bad(err)
		}
		respect := rule.Respect || req.Operation != nil && req.Operation.Request.Options.RespectIgnoreDifferences
		for ref, pointers := range selected {
			ig := out[ref]
			ig.pointers, ig.jq, ig.managers = append(ig.pointers, pointers...), append(ig.jq, code...), append(ig.managers, rule.Managers...)
			ig.respect = ig.respect || respect
			out[ref] = ig
		}
	}
	return out, nil
}

// without gives an object without some fields of it.
func without(u *unstructured.Unstructured, fields []delivery.Pointer) *unstructured.Unstructured {
	if len(fields) == 0 {
		return u
	}
	u = u.DeepCopy()
	for _, f := range fields {
		f.Remove(u.Object)
	}
	return u
}
