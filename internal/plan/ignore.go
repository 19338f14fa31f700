package plan

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"keelson.dev/keelson/internal/delivery"
)

// Ignored finds the fields of each object that are left to others. The error is a *delivery.Fault about a selector.
func Ignored(rules []delivery.IgnoreRule, objects []delivery.Object) (map[delivery.Ref][]delivery.Pointer, error) {
	if len(rules) == 0 {
		return nil, nil
	}
	out := map[delivery.Ref][]delivery.Pointer{}
	for i, r := range rules {
		selected, err := Selected(r, objects)
		if err != nil {
			return nil, &delivery.Fault{
				Reason: "ReconciliationFailed", Where: fmt.Sprintf("spec.ignore[%d].target", i), Retry: delivery.OnChange, Err: err,
				Hint: "names and kinds are regular expressions, label and annotation selectors are written as for kubectl -l",
			}
		}
		for ref, paths := range selected {
			out[ref] = append(out[ref], paths...)
		}
	}
	return out, nil
}

// Selected gives the objects that a rule is about, with the fields that it names by pointers.
func Selected(r delivery.IgnoreRule, objects []delivery.Object) (map[delivery.Ref][]delivery.Pointer, error) {
	var paths []delivery.Pointer
	for _, text := range r.Paths {
		if p, ok := delivery.ParsePointer(text); ok {
			paths = append(paths, p)
		}
	}
	selects, err := matcher(r.Target)
	if err != nil {
		return nil, err
	}
	out := map[delivery.Ref][]delivery.Pointer{}
	for _, obj := range objects {
		if selects(obj) {
			out[obj.Ref()] = append(out[obj.Ref()], paths...)
		}
	}
	return out, nil
}

// matcher tells which objects a selector selects: its texts are regular expressions for the whole value, as in kustomize; an
// empty one matches everything.
func matcher(s *delivery.Selector) (func(delivery.Object) bool, error) {
	if s == nil {
		return func(delivery.Object) bool { return true }, nil
	}
	expressions := make([]*regexp.Regexp, 5)
	for i, f := range []struct{ name, text string }{
		{"group", s.Group}, {"version", s.Version}, {"kind", s.Kind}, {"namespace", s.Namespace}, {"name", s.Name},
	} {
		if f.text == "" {
			continue
		}
		var err error
		if expressions[i], err = regexp.Compile("^(?:" + f.text + ")$"); err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	byLabel, err := labels.Parse(s.LabelSelector)
	if err != nil {
		return nil, fmt.Errorf("labelSelector: %w", err)
	}
	byAnnotation, err := labels.Parse(s.AnnotationSelector)
	if err != nil {
		return nil, fmt.Errorf("annotationSelector: %w", err)
	}
	return func(obj delivery.Object) bool {
		gvk := obj.GroupVersionKind()
		for i, value := range []string{gvk.Group, gvk.Version, gvk.Kind, obj.GetNamespace(), obj.GetName()} {
			if e := expressions[i]; e != nil && !e.MatchString(value) {
				return false
			}
		}
		return byLabel.Matches(labels.Set(obj.GetLabels())) && byAnnotation.Matches(labels.Set(obj.GetAnnotations()))
	}, nil
}

// States tells whether an object has everything that a value from Git states; the server may have added more.
func States(have, want any) bool { return contains(have, want, false) }

// FieldsOf gives the fields of an object that some field managers own, the outermost that they own whole.
func FieldsOf(u *unstructured.Unstructured, managers []string) ([]delivery.Pointer, error) {
	var out []delivery.Pointer
	for _, e := range u.GetManagedFields() {
		if !slices.Contains(managers, e.Manager) || e.FieldsV1 == nil {
			continue
		}
		set, err := setOf(e)
		if err != nil {
			return nil, err
		}
		set.Leaves().Iterate(func(p fieldpath.Path) {
			if pointer, ok := locate(u.Object, p); ok {
				out = append(out, pointer)
			}
		})
	}
	return out, nil
}

// locate gives the pointer to what a path of managedFields leads to; false: it is not there.
func locate(object any, p fieldpath.Path) (delivery.Pointer, bool) {
	out := make(delivery.Pointer, 0, len(p))
	for _, e := range p {
		switch {
		case e.FieldName != nil:
			m, _ := object.(map[string]any)
			below, ok := m[*e.FieldName]
			if !ok {
				return nil, false
			}
			out, object = append(out, *e.FieldName), below
		default:
			list, _ := object.([]any)
			at := slices.IndexFunc(list, func(item any) bool {
				return e.Key != nil && fits(item, *e.Key) || e.Value != nil && sameValue(item, *e.Value)
			})
			if at < 0 {
				return nil, false
			}
			out, object = append(out, strconv.Itoa(at)), list[at]
		}
	}
	return out, len(out) > 0
}

func sameValue(item any, v value.Value) bool { return value.Equals(value.NewValueInterface(item), v) }
