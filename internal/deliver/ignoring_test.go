package deliver

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
)

func TestIgnoring(t *testing.T) {
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte("apiVersion: v1\nkind: Thing\nmetadata: {name: a}\nlist: [{name: x}, {name: y}, {name: x}]\nnumber: 3\n"), &u.Object); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		expression string
		want       []delivery.Pointer
		fault      string // of reading or running it
	}{
		{expression: ".number", want: []delivery.Pointer{{"number"}}},
		{expression: `.list[] | select(.name == "x")`, want: []delivery.Pointer{{"list", "2"}, {"list", "0"}}},
		{expression: `.list[]?.more?`, want: []delivery.Pointer{{"list", "2", "more"}, {"list", "1", "more"}, {"list", "0", "more"}}},
		{expression: `.number[]`},  // fails on this object
		{expression: `.list[0:1]`}, // a slice is no field
		{expression: `.`},          // nor is all of it
		{expression: ".number # a comment", want: []delivery.Pointer{{"number"}}},
		{expression: `.number | select(env.HOME)`, fault: "function env"},        // no environment
		{expression: `.list[`, fault: "unexpected"},                              // not to be read
		{expression: `last(range(1; infinite)) | .a`, fault: "function range"},   // never ends
		{expression: `.a[("x"*33554432)|split("")|length]`, fault: "operator *"}, // takes half a minute and gigabytes
		{expression: strings.Repeat(`..|`, 60) + `empty`, fault: "takes longer"},
	}
	for _, tt := range tests {
		t.Run(tt.expression, func(t *testing.T) {
			rules := []delivery.IgnoreRule{{JQ: []string{tt.expression}}}
			obj := delivery.Object{Unstructured: u}
			of, err := ignoringOf(Request{App: delivery.App{Ignore: rules, Sync: &delivery.SyncPolicy{}}}, []delivery.Object{obj})
			var got []delivery.Pointer
			if err == nil {
				start := time.Now()
				got, err = of[obj.Ref()].fields(t.Context(), u)
				if took := time.Since(start); took > 20*jqLimit {
					t.Errorf("it took %s", took)
				}
			}
			switch {
			case tt.fault == "" && err != nil, tt.fault != "" && (err == nil || !strings.Contains(err.Error(), tt.fault)):
				t.Fatalf("the error is %v, want one with %q", err, tt.fault)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWithout(t *testing.T) {
	u := &unstructured.Unstructured{Object: map[string]any{"list": []any{"a", "b", "c"}, "x": map[string]any{"y": "z"}}}
	got := without(u, []delivery.Pointer{{"x", "y"}, {"list", "2"}, {"list", "0"}})
	if diff := cmp.Diff(map[string]any{"list": []any{"b"}, "x": map[string]any{}}, got.Object); diff != "" {
		t.Errorf("what is left (-want +got):\n%s", diff)
	}
	if len(u.Object["list"].([]any)) != 3 {
		t.Error("the object itself was changed")
	}
}
