package render

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestScanHeaders compares the quick scan with the parser wherever it is sure of itself.
func TestScanHeaders(t *testing.T) {
	cases := map[string]struct {
		data string
		sure bool
	}{
		"block":              {"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  namespace: b\n", true},
		"name is not first":  {"kind: ConfigMap\nmetadata:\n  labels:\n    name: x\n  name: a\nspec:\n  name: y\n", true},
		"many":               {"# c\n---\nkind: A\nmetadata:\n    name: a\n---\nkind: B\nmetadata:\n  name: b\n", true},
		"metadata at bottom": {"kind: A\nspec:\n- metadata:\n    name: x\nmetadata:\n  name: a\n", true},
		"block scalar":       {"kind: A\nmetadata:\n  name: a\ndata:\n  x: |\n    kind: B\n    metadata:\n      name: c\n", true},
		"quoted":             {"kind: A\nmetadata:\n  name: 'a'\n", false},
		"flow":               {"kind: A\nmetadata: {name: a}\n", false},
		"json":               {`{"kind": "A", "metadata": {"name": "a"}}`, false},
		"list":               {"kind: List\nitems:\n- kind: A\n  metadata: {name: a}\n", false},
		"anchor":             {"kind: A\nmetadata:\n  name: &n a\n", false},
		"merge":              {"kind: A\nmetadata:\n  <<: *x\n", false},
		"commented marker":   {"--- # first\nkind: A\nmetadata:\n  name: a\n", false},
		"windows":            {"kind: A\r\nmetadata:\r\n  name: a\r\n", true},
		"tabs":               {"kind:\tA\nmetadata:\n  name:\ta\n", true},
		"empty":              {"", true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, sure := scanHeaders([]byte(c.data))
			if sure != c.sure {
				t.Errorf("sure = %v, want %v", sure, c.sure)
			}
			want := headers([]byte(c.data))
			for i := range want {
				want[i].line = 0
			}
			if sure && !cmp.Equal(want, got, cmp.AllowUnexported(header{})) {
				t.Errorf("-parsed +scanned:\n%s", cmp.Diff(want, got, cmp.AllowUnexported(header{})))
			}
		})
	}
}

func TestOrigins(t *testing.T) {
	o := origins{prefixes: []string{"prod-", "eu-"}, suffixes: []string{"-v2"}}
	for _, s := range []struct {
		kind string
		source
	}{
		{"Service", source{name: "web", file: "web.yaml"}},
		{"Service", source{name: "prod", file: "prod.yaml"}},
		{"Service", source{name: "web-db", file: "db.yaml"}},
		{"Service", source{name: "twice", namespace: "a", file: "a.yaml"}},
		{"Service", source{name: "twice", namespace: "b", file: "b.yaml"}},
		{"ConfigMap", source{name: "web", file: "kustomization.yaml", generated: true}},
	} {
		o.add(s.kind, s.source)
	}
	cases := map[string]string{
		"Service//web":                      "web.yaml",
		"Service//prod-web":                 "web.yaml",
		"Service//eu-prod-web-v2":           "web.yaml",
		"Service//prod-prod":                "prod.yaml",
		"Service//web-db":                   "db.yaml",
		"Service//my-web":                   "",
		"Service//web-v3":                   "",
		"Service/a/twice":                   "a.yaml",
		"Service/b/twice":                   "b.yaml",
		"Service/c/twice":                   "",
		"ConfigMap//web":                    "kustomization.yaml",
		"ConfigMap//prod-web-v2-tkkdd9fftc": "kustomization.yaml",
		"ConfigMap//web-other":              "",
		"Deployment//web":                   "",
	}
	for object, want := range cases {
		var part [3]string
		for i, p := range strings.SplitN(object, "/", 3) {
			part[i] = p
		}
		if got := o.of(part[0], part[1], part[2]); got != want {
			t.Errorf("%s: got %q, want %q", object, got, want)
		}
	}
}
