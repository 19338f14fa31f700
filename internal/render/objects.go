package render

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/resource"

	"keelson.dev/keelson/internal/delivery"
)

// convert reads back what kustomize made, up to the first object with a problem.
func convert(resources []*resource.Resource, size *sizer) []product {
	all := make([]product, 0, len(resources))
	for _, res := range resources {
		m := product{Kind: res.GetKind(), Namespace: res.GetNamespace(), Name: res.GetName()}
		object, err := res.Map()
		if err != nil {
			m.Problem = fmt.Sprintf("%s/%s cannot be read back from kustomize", m.Kind, m.Name)
		} else if err := size.normalize(object); err != nil {
			m.Problem = fmt.Sprintf("%s/%s: %v", m.Kind, m.Name, err)
		} else {
			m.Object = object
		}
		if all = append(all, m); m.Problem != "" {
			return all
		}
	}
	return all
}

// objects gives what was made of the folder dir as objects with their origins.
func objects(result []product, dir string, origin func(product) string) ([]delivery.Object, error) {
	all := make([]delivery.Object, 0, len(result))
	for _, m := range result {
		from := origin(m)
		if m.Problem != "" {
			return nil, fault(cmp.Or(from, dir), "", "%s", m.Problem)
		}
		all = append(all, delivery.Object{Unstructured: &unstructured.Unstructured{Object: m.Object}, Origin: from})
	}
	return all, nil
}

// sizer turns decoded YAML into what unstructured objects hold (JSON's types with int64 and float64), and
// bounds the total.
type sizer struct{ bytes int }

func (s *sizer) normalize(m map[string]any) error {
	for k, v := range m {
		n, err := s.value(v, 1)
		if err != nil {
			return err
		}
		s.bytes += len(k) + 4
		m[k] = n
	}
	return s.check()
}

func (s *sizer) check() error {
	if s.bytes > maxRendered {
		return fmt.Errorf("the objects up to here have more than %d MiB", maxRendered>>20)
	}
	return nil
}

func (s *sizer) value(v any, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("it is nested deeper than %d levels", maxDepth)
	}
	s.bytes += 4
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			n, err := s.value(e, depth+1)
			if err != nil {
				return nil, err
			}
			s.bytes += len(k) + 4
			v[k] = n
		}
		return v, s.check()
	case []any:
		for i, e := range v {
			n, err := s.value(e, depth+1)
			if err != nil {
				return nil, err
			}
			v[i] = n
		}
		return v, s.check()
	case string:
		s.bytes += len(v)
		return v, nil
	}
	return scalar(v)
}

func scalar(v any) (any, error) {
	switch v := v.(type) {
	case nil, bool, int64:
		return v, nil
	case int:
		return int64(v), nil
	case uint64:
		if v > math.MaxInt64 {
			return float64(v), nil
		}
		return int64(v), nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("JSON has no number %v", v)
		}
		// A whole number such as 1.0 is written as 1, and read as an integer.
		if text := strconv.FormatFloat(v, 'f', -1, 64); math.Abs(v) < 1e21 && !strings.Contains(text, ".") {
			if n, err := strconv.ParseInt(text, 10, 64); err == nil {
				return n, nil
			}
		}
		return v, nil
	case time.Time:
		return v.Format(time.RFC3339Nano), nil
	default:
		return nil, fmt.Errorf("a value of type %T has no form in JSON; are all keys strings?", v)
	}
}
