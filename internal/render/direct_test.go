package render

import (
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// unusualManifests are what reading directly could get wrong.
var unusualManifests = []string{
	"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, annotations: {}}\n",
	"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, annotations: {config.kubernetes.io/origin: x}}\n",
	"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, annotations: {config.kubernetes.io/local-config: 'true'}}\n",
	"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: {a: 1}}\n",
	"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: null, b: ~, c: 2001-01-01, d: 0x10, e: 0o7, f: 1_000, g: yes, h: .5, i: 1e3, j: !!str 5}\n",
	"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: &x {a: b}\nmore: *x\n",
	"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {<<: {a: b}, c: d}\n",
	"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: b, a: c}\n",
	"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: [1, null]\n",
	"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: 1}\n",
	"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\n# nothing\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: b}\n",
	"---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n--- # more\napiVersion: v1\nkind: Secret\nmetadata: {name: b}\n",
	"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---",
	"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  a: |\n    x\n\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: b}\n...\nx: y\n",
	"apiVersion: v1\r\nkind: ConfigMap\r\nmetadata:\r\n  name: a\r\ndata:\r\n  a: |\r\n    x\r\n    y\r\n",
	"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: default}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n",
	"apiVersion: v1\nkind: Namespace\nmetadata: {name: a, namespace: x}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n",
	"apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a, namespace: n}\n---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: b}\nroleRef: {kind: Role, name: r, apiGroup: rbac.authorization.k8s.io}\nsubjects: [{kind: ServiceAccount, name: a}]\n",
	"apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: n}\n---\napiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingWebhookConfiguration\nmetadata: {name: w}\nwebhooks: [{name: x, clientConfig: {service: {name: s}}}]\n",
	"apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}]\n",
	"apiVersion: v1\nkind: ConfigMapList\nitems: [{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}]\n",
	"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, annotations: {z: '1', a: \"true\"}, labels: {x: 'null'}, namespace: ''}\n",
	"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, annotations: {z: null}}\n",
	"{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {\"name\": \"a\"}, \"n\": 12345678901234567890, \"s\": \"\\u00e9\\/\"}\n",
	"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n? [x, y]\n: z\n",
	"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n1: x\ntrue: y\n",
	"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {template: {spec: {containers: [{envFrom: [{configMapRef: {name: a}}]}], volumes: [{configMap: {name: a}}]}}}\n",
	"[]\n", "{}\n", "x\n", "", "\n---\n", "%YAML 1.1\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n",
}

// FuzzDirect reads manifests directly where that is taken to be the same as what kustomize makes of them, and holds it to that.
func FuzzDirect(f *testing.F) {
	for _, m := range unusualManifests {
		f.Add(m, "")
		f.Add(m, unusualManifests[0])
	}
	cases, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(cases) == 0 {
		f.Fatalf("no cases: %v", err)
	}
	for _, name := range cases {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			f.Add(string(file.Data), "")
			f.Add(string(file.Data), string(archive.Files[0].Data))
		}
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		repo := fstest.MapFS{"kustomization.yaml": {Data: []byte("resources: [a.yaml, b.yaml]\n")}, "a.yaml": {Data: []byte(one)}, "b.yaml": {Data: []byte(two)}}
		if checkYAML("", []byte(one), false) != nil || checkYAML("", []byte(two), false) != nil {
			return
		}
		tree := newTree(t.Context(), repo)
		got, ok := inspect(tree).direct(".", []string{"a.yaml", "b.yaml"})
		if !ok {
			return
		}
		result, err := kustomize(newKustomizeFS(tree), mount)
		if err != nil {
			t.Fatalf("read directly, kustomize says: %v", err)
		}
		want, err := objects(convert(result.Resources(), new(sizer)), "", func(product) string { return "" })
		if err != nil {
			t.Fatalf("read directly, but: %v", err)
		}
		if len(got) != len(want) {
			t.Fatalf("%d objects, kustomize has %d", len(got), len(want))
		}
		for i := range got {
			if diff := cmp.Diff(want[i].Object, got[i].Object); diff != "" {
				t.Errorf("object %d (-kustomize +direct):\n%s", i, diff)
			}
		}
	})
}
