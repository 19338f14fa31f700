package delivery_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
)

func TestPointer(t *testing.T) {
	const object = "{a: {b: [{c: 1}, {c: 2}], x/y: 3, m~n: 4}}"
	tests := map[string]struct{ value, set, removed string }{ // value found, object after the value was set to "new", and after it was removed
		"/a/b/1/c":  {"2", "{a: {b: [{c: 1}, {c: new}], x/y: 3, m~n: 4}}", "{a: {b: [{c: 1}, {}], x/y: 3, m~n: 4}}"},
		"/a/b/0":    {"{c: 1}", "{a: {b: [new, {c: 2}], x/y: 3, m~n: 4}}", "{a: {b: [{c: 2}], x/y: 3, m~n: 4}}"},
		"/a/b/2":    {"", object, object},
		"/a/b/-1":   {"", object, object},
		"/a/b/c":    {"", object, object},
		"/a/x~1y":   {"3", "{a: {b: [{c: 1}, {c: 2}], x/y: new, m~n: 4}}", "{a: {b: [{c: 1}, {c: 2}], m~n: 4}}"},
		"/a/m~0n":   {"4", "{a: {b: [{c: 1}, {c: 2}], x/y: 3, m~n: new}}", "{a: {b: [{c: 1}, {c: 2}], x/y: 3}}"},
		"/a/m~0n/z": {"", object, object},
		"/d/e":      {"", "{a: {b: [{c: 1}, {c: 2}], x/y: 3, m~n: 4}, d: {e: new}}", object},
	}
	decode := func(text string) (v any) {
		if err := yaml.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	for text, tt := range tests {
		p, ok := delivery.ParsePointer(text)
		if !ok {
			t.Fatalf("%s is no pointer", text)
		}
		got, found := p.Lookup(decode(object))
		if found != (tt.value != "") || found && !cmp.Equal(decode(tt.value), got) {
			t.Errorf("%s: found %v, %v; want %s", text, got, found, tt.value)
		}
		set, removed := decode(object).(map[string]any), decode(object).(map[string]any)
		p.Set(set, "new")
		p.Remove(removed)
		if diff := cmp.Diff([]any{decode(tt.set), decode(tt.removed)}, []any{set, removed}); diff != "" {
			t.Errorf("%s, set and removed (-want +got):\n%s", text, diff)
		}
	}
	for _, text := range []string{"", "/", "spec/replicas"} {
		if p, ok := delivery.ParsePointer(text); ok {
			t.Errorf("%q is read as %q", text, p)
		}
	}
}
