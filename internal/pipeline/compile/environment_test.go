package compile

import (
	"testing"

	"keelson.dev/keelson/internal/pipeline"
)

func TestForEnvironment(t *testing.T) {
	vs := pipeline.Variables{
		{Name: "A", Value: "exact", Scope: "review/x", Origin: pipeline.OriginProject},
		{Name: "A", Value: "all", Scope: "*", Origin: pipeline.OriginProject},
		{Name: "A", Value: "some", Scope: "review/*", Origin: pipeline.OriginProject},
		{Name: "B", Value: "group", Scope: "review/x", Origin: pipeline.OriginGroup},
		{Name: "B", Value: "project", Origin: pipeline.OriginProject},
	}
	for environment, want := range map[string]string{"review/x": "exact", "review/y": "some", "production": "all", "": "all"} {
		got := forEnvironment(vs, environment)
		if v, _ := got.Get("A"); v.Value != want {
			t.Errorf("%q: %s, want %s", environment, v.Value, want)
		}
		if v, _ := got.Get("B"); v.Value != "project" {
			t.Errorf("%q: the level counts more than the scope: %s", environment, v.Value)
		}
	}
}
