package plan_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/plan"
)

func TestIgnored(t *testing.T) {
	object := func(version, kind, name string, labels map[string]string) delivery.Object {
		u := &unstructured.Unstructured{}
		u.SetAPIVersion(version)
		u.SetKind(kind)
		u.SetNamespace("dev")
		u.SetName(name)
		u.SetLabels(labels)
		u.SetAnnotations(labels)
		return delivery.Object{Unstructured: u}
	}
	objects := []delivery.Object{
		object("apps/v1", "Deployment", "web", map[string]string{"tier": "front"}), object("apps/v1", "Deployment", "web-2", nil),
		object("v1", "Service", "web", nil),
	}
	tests := map[string]struct {
		target *delivery.Selector
		want   string // names of kinds and objects
		err    string
	}{
		"everything":             {nil, "Deployment/web Deployment/web-2 Service/web", ""},
		"nothing said":           {&delivery.Selector{}, "Deployment/web Deployment/web-2 Service/web", ""},
		"a kind":                 {&delivery.Selector{Kind: "Deployment"}, "Deployment/web Deployment/web-2", ""},
		"a kind as a whole":      {&delivery.Selector{Kind: "Deploy"}, "", ""},
		"a name":                 {&delivery.Selector{Name: "web"}, "Deployment/web Service/web", ""},
		"an expression":          {&delivery.Selector{Name: "web|db", Kind: ".*ment"}, "Deployment/web", ""},
		"group and version":      {&delivery.Selector{Group: "apps", Version: "v1"}, "Deployment/web Deployment/web-2", ""},
		"another namespace":      {&delivery.Selector{Namespace: "prod"}, "", ""},
		"a label":                {&delivery.Selector{LabelSelector: "tier in (front, back)"}, "Deployment/web", ""},
		"an annotation":          {&delivery.Selector{AnnotationSelector: "tier!=front"}, "Deployment/web-2 Service/web", ""},
		"a malformed expression": {&delivery.Selector{Name: "(web"}, "", "spec.ignore[0].target: name: "},
		"a malformed selector":   {&delivery.Selector{LabelSelector: "a b"}, "", "spec.ignore[0].target: labelSelector: "},
	}
	for name, tt := range tests {
		got, err := plan.Ignored([]delivery.IgnoreRule{{Paths: []string{"/spec/replicas", "nowhere"}, Target: tt.target}}, objects)
		var f *delivery.Fault
		if tt.err != "" {
			if !errors.As(err, &f) || !strings.Contains(err.Error(), tt.err) || f.Retry != delivery.OnChange {
				t.Errorf("%s: %v, want %s", name, err, tt.err)
			}
			continue
		}
		var names []string
		for ref, fields := range got {
			names = append(names, ref.Kind+"/"+ref.Name)
			if len(fields) != 1 || !slices.Equal(fields[0], delivery.Pointer{"spec", "replicas"}) {
				t.Errorf("%s: fields of %s: %q", name, ref, fields)
			}
		}
		slices.Sort(names)
		if strings.Join(names, " ") != tt.want || err != nil {
			t.Errorf("%s: %q, %v; want %s", name, names, err, tt.want)
		}
	}
}
