package render_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/render"
)

// TestSubstitution holds expressions to what kustomize-controller 1.9 makes of them (fluxcd/pkg/kustomize, SubstituteVariables),
// with strict substitution, which is its default, and without.
func TestSubstitution(t *testing.T) {
	vars := map[string]string{"x": "banana", "empty": "", "n": "3", "lines": "a\nb\n", "yes": "true"}
	const unset = "!"
	tests := []struct{ text, lenient, strict string }{
		{"${x}", "banana", "banana"},
		{"$x", "$x", "$x"},
		{"$${x}", "${x}", "${x}"},
		{"$$x", "$x", "$x"},
		{"${absent}", "", unset},
		{"$${absent}", "${absent}", "${absent}"},
		{"${empty}", "", ""},
		{"${absent:-d}", "d", "d"},
		{"${absent:=d}", "d", "d"},
		{"${absent=d}", "d", "d"},
		{"${absent:-}", "", ""},
		{"${absent:=}", "", ""},
		{"${empty:-d}", "d", "d"},
		{"${empty:=d}", "d", "d"},
		{"${x:-d}", "banana", "banana"},
		{"${x:=d}", "banana", "banana"},
		{"${absent:-${x}}", "banana", "banana"},
		{"${absent:-${gone}}", "", unset},
		{"${absent:-${gone:-d}}", "d", "d"},
		{"${#x}", "6", "6"},
		{"${#absent}", "0", unset},
		{"${x^^}", "BANANA", "BANANA"},
		{"${x^}", "Banana", "Banana"},
		{"${absent^^}", "", unset},
		{"${x:1:2}", "an", "an"},
		{"${x:2:-1}", "nan", "nan"},
		{"${x/a/o}", "bonana", "bonana"},
		{"${x//a/o}", "bonono", "bonono"},
		{"${x#ba}", "nana", "nana"},
		{"${x%na}", "bana", "bana"},
		{"${lines}", "ab", "ab"},
		{"v${n}", "v3", "v3"},
	}
	for _, tt := range tests {
		for _, strict := range []bool{false, true} {
			want := tt.lenient
			if strict {
				want = tt.strict
			}
			got, err := substituted(t, tt.text, vars, strict)
			switch {
			case want == unset && (err == nil || !strings.Contains(err.Error(), "variable not set")):
				t.Errorf("%s, strict %v: %q, %v; want an error", tt.text, strict, got, err)
			case want != unset && (err != nil || got != want):
				t.Errorf("%s, strict %v: %q, %v; want %q", tt.text, strict, got, err, want)
			}
		}
	}
}

// substituted renders a ConfigMap with a text in it; the text is kept a text.
func substituted(t *testing.T, text string, vars map[string]string, strict bool) (string, error) {
	t.Helper()
	manifest, err := yaml.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "a"}, "data": map[string]any{"a": "<" + text + ">"},
	})
	if err != nil {
		t.Fatal(err)
	}
	objects, err := render.Build(t.Context(), delivery.Snapshot{FS: fstest.MapFS{"a.yaml": {Data: manifest}}},
		delivery.Build{Path: ".", Substitute: true, Strict: strict}, vars)
	if err != nil {
		return "", err
	}
	got, _ := objects[0].Object["data"].(map[string]any)["a"].(string)
	return strings.TrimSuffix(strings.TrimPrefix(got, "<"), ">"), nil
}
