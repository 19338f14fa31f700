package dialect_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

func TestReleaseValues(t *testing.T) {
	objects := map[string]map[string]string{
		"ConfigMap/base":  {"values.yaml": "replicaCount: 1\nimage: {repository: shop, tag: v1}\nresources: {limits: {cpu: 100m}}\n"},
		"ConfigMap/prod":  {"values-prod.yaml": "replicaCount: 3\nimage: {tag: v2}\nresources: null\n"},
		"Secret/keys":     {"password": "s3cr,et=1", "quoted": `"8080"`, "port": "8080", "list": "{a,b}", "empty": "", "values.yaml": "credentials: {mariadbPassword: hush}\n"},
		"ConfigMap/empty": {"values.yaml": ""},
	}
	tests := map[string]struct {
		inline string
		from   []delivery.ValuesRef
		want   string
	}{
		"nothing": {want: "{}"},
		"inline":  {inline: `{"a": 1}`, want: "a: 1"},
		"a document, by the usual key": {
			from: refs(ref("ConfigMap/base", "", "")),
			want: "{replicaCount: 1, image: {repository: shop, tag: v1}, resources: {limits: {cpu: 100m}}}",
		},
		"later ones win, maps are merged, null wins too": {
			from: refs(ref("ConfigMap/base", "", ""), ref("ConfigMap/prod", "values-prod.yaml", "")),
			want: "{replicaCount: 3, image: {repository: shop, tag: v2}, resources: null}",
		},
		"inline values win over documents": {
			inline: `{"image": {"tag": "v9"}, "replicaCount": {"now": "a map"}}`,
			from:   refs(ref("ConfigMap/base", "", ""), ref("ConfigMap/prod", "values-prod.yaml", "")),
			want:   "{replicaCount: {now: a map}, image: {repository: shop, tag: v9}, resources: null}",
		},
		"credentials beside the values of a client": {
			inline: `{"litespeed": {"storage": {"size": "20Gi"}}, "credentials": {"wordpressAdminUser": "admin"}}`,
			from:   refs(ref("Secret/keys", "", ""), literal(ref("Secret/keys", "password", "credentials.wordpressAdminPassword"))),
			want:   "{litespeed: {storage: {size: 20Gi}}, credentials: {mariadbPassword: hush, wordpressAdminUser: admin, wordpressAdminPassword: 's3cr,et=1'}}",
		},
		"a single value is read as by --set":      {from: refs(ref("Secret/keys", "port", "service.port")), want: "service: {port: 8080}"},
		"in quotes it is text":                    {from: refs(ref("Secret/keys", "quoted", "service.port")), want: "service: {port: '8080'}"},
		"a list":                                  {from: refs(ref("Secret/keys", "list", "hosts")), want: "hosts: [a, b]"},
		"literally it is text":                    {from: refs(literal(ref("Secret/keys", "list", "hosts"))), want: "hosts: '{a,b}'"},
		"into a list":                             {from: refs(ref("Secret/keys", "port", `ingress.hosts[0].a\.b`)), want: "ingress: {hosts: [{a.b: 8080}]}"},
		"an empty value":                          {from: refs(ref("Secret/keys", "empty", "a")), want: "a: ''"},
		"an empty document":                       {from: refs(ref("ConfigMap/empty", "", "")), want: "{}"},
		"a path wins over inline values":          {inline: `{"service": {"port": 1}}`, from: refs(ref("Secret/keys", "port", "service.port")), want: "service: {port: 8080}"},
		"an inline value at the root wins (sic)":  {inline: `{"port": 1}`, from: refs(ref("Secret/keys", "port", "port")), want: "port: 1"},
		"optional, and there is no object":        {from: refs(optional(ref("Secret/none", "", "")), optional(ref("Secret/none", "x", "y"))), want: "{}"},
		"optional, and there is no key":           {inline: `{"a": 1}`, from: refs(optional(ref("Secret/keys", "none", ""))), want: "a: 1"},
		"literal is of no effect for a document":  {from: refs(literal(ref("Secret/keys", "", ""))), want: "credentials: {mariadbPassword: hush}"},
		"two values, and what was there stays":    {inline: `{"a": {"b": 1}}`, from: refs(ref("Secret/keys", "port", "a.c"), ref("Secret/keys", "quoted", "a.d")), want: "a: {b: 1, c: 8080, d: '8080'}"},
		"the values of a team's chart (seed 001)": {inline: seedValues(t), from: refs(ref("Secret/keys", "quoted", "image.tag")), want: strings.Replace(seedValues(t), "stable", "8080", 1)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			release := &delivery.HelmRelease{Values: []byte(tt.inline), ValuesFrom: tt.from}
			got, err := dialect.ReleaseValues(release, lookUp(objects))
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]any{}
			if err := yaml.Unmarshal([]byte(tt.want), &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(toYAML(t, want)), string(toYAML(t, got))); diff != "" {
				t.Errorf("values (-want +got):\n%s", diff)
			}
		})
	}
}

// What an error says leads to what is to be mended, and holds nothing of what is in a Secret.
func TestReleaseValuesErrors(t *testing.T) {
	objects := map[string]map[string]string{
		"Secret/keys": {"text": "hunter2", "broken": "a: 1\nb: hunter2: x\n", "list": "[hunter2]", "open": "{hunter2", "tag": "!!binary hunter2"},
	}
	for name, tt := range map[string]struct {
		inline string
		ref    delivery.ValuesRef
		want   string
	}{
		"no object":           {"", ref("Secret/none", "", ""), `spec.valuesFrom[0] (Secret/none, key "values.yaml"): there is no Secret/none (hint: make it, or set optional)`},
		"no key":              {"", ref("Secret/keys", "", ""), `spec.valuesFrom[0] (Secret/keys, key "values.yaml"): Secret/keys has no such key (hint: add the key, correct valuesKey, or set optional)`},
		"text for a map":      {"", ref("Secret/keys", "text", ""), `spec.valuesFrom[0] (Secret/keys, key "text"): not a YAML map of values (hint: set targetPath for a single value)`},
		"a list for a map":    {"", ref("Secret/keys", "list", ""), `spec.valuesFrom[0] (Secret/keys, key "list"): not a YAML map of values (hint: set targetPath for a single value)`},
		"malformed":           {"", ref("Secret/keys", "broken", ""), `spec.valuesFrom[0] (Secret/keys, key "broken"): not a YAML map of values, at line 2 (hint: set targetPath for a single value)`},
		"an unreadable value": {"", ref("Secret/keys", "open", "a"), `spec.valuesFrom[0] (Secret/keys, key "open"): the value cannot be set at "a" (hint: values are read as by helm --set; literal takes them as they are)`},
		"an unreadable path":  {"", ref("Secret/keys", "text", "a[99999]"), `spec.valuesFrom[0] (Secret/keys, key "text"): the value cannot be set at "a[99999]" (hint: values are read as by helm --set; literal takes them as they are)`},
		"a path into text":    {`{"a": "text"}`, ref("Secret/keys", "text", "a.b"), `spec.valuesFrom[0] (Secret/keys, key "text"): the value cannot be set at "a.b" (hint: values are read as by helm --set; literal takes them as they are)`},
		"inline text":         {`"hunter2"`, optional(ref("Secret/none", "", "")), `spec.values: not a map of values`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := dialect.ReleaseValues(&delivery.HelmRelease{Values: []byte(tt.inline), ValuesFrom: refs(tt.ref)}, lookUp(objects))
			if err == nil || err.Error() != tt.want {
				t.Fatalf("error\n%v, want\n%s", err, tt.want)
			}
			var f *delivery.Fault
			if !errors.As(err, &f) || f.Reason != "ValuesError" || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("fault %+v", f)
			}
		})
	}
}

// Known digests are those of helm-controller's own tests.
func TestValuesDigest(t *testing.T) {
	for text, want := range map[string]string{
		"{}": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"{replicas: 3, test: {632bd82398e71231a98004b6: value4, 632bd817c559818a52307da2: value3, 632bd80ddf416cf32fd50679: value2, 632bd80235a05f4192aefade: value1}}": "sha256:8a980fcbeadd6f05818f07e8aec14070c22250ca3d96af1fcd5f93b3e85b4d70",
	} {
		values := map[string]any{}
		if err := yaml.Unmarshal([]byte(text), &values); err != nil {
			t.Fatal(err)
		}
		if got := dialect.ValuesDigest(values); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// Composing values neither changes what it is given nor depends on what was composed before.
func TestReleaseValuesAreTheirOwn(t *testing.T) {
	release := &delivery.HelmRelease{Values: []byte(`{"a": {"b": 1}}`), ValuesFrom: refs(ref("Secret/keys", "port", "a.b"))}
	data := lookUp(map[string]map[string]string{"Secret/keys": {"port": "2"}})
	first, err := dialect.ReleaseValues(release, data)
	if err != nil {
		t.Fatal(err)
	}
	first["a"].(map[string]any)["b"] = "changed"
	if second, err := dialect.ReleaseValues(release, data); err != nil || string(toYAML(t, second)) != "a:\n  b: 2\n" || string(release.Values) != `{"a": {"b": 1}}` {
		t.Errorf("%v, error %v, of %s", second, err, release.Values)
	}
}

// Whatever paths and values people write, nothing panics.
func FuzzReleaseValues(f *testing.F) {
	f.Add(`{"a": [1]}`, "a[0].b", "1,2", "values: 1")
	f.Add(`{"a": {"b": null}}`, `a\.b[1]`, "{a,{b}}", "- x")
	f.Fuzz(func(_ *testing.T, inline, path, value, document string) {
		data := lookUp(map[string]map[string]string{"Secret/x": {"v": value, "d": document}})
		from := refs(ref("Secret/x", "d", ""), ref("Secret/x", "v", path), literal(ref("Secret/x", "v", path)))
		if values, err := dialect.ReleaseValues(&delivery.HelmRelease{Values: []byte(inline), ValuesFrom: from}, data); err == nil {
			dialect.ValuesDigest(values)
		}
	})
}

func refs(refs ...delivery.ValuesRef) []delivery.ValuesRef { return refs }

func ref(object, key, path string) delivery.ValuesRef {
	kind, name, _ := strings.Cut(object, "/")
	if key == "" {
		key = "values.yaml"
	}
	return delivery.ValuesRef{Kind: kind, Name: name, Key: key, Path: path}
}

func optional(r delivery.ValuesRef) delivery.ValuesRef {
	r.Optional = true
	return r
}

func literal(r delivery.ValuesRef) delivery.ValuesRef {
	r.Literal = true
	return r
}

func lookUp(objects map[string]map[string]string) func(delivery.ValuesRef) (map[string][]byte, bool) {
	return func(r delivery.ValuesRef) (map[string][]byte, bool) {
		object, ok := objects[r.String()]
		data := map[string][]byte{}
		for k, v := range object {
			data[k] = []byte(v)
		}
		return data, ok
	}
}

// seedValues are the values that a team overrides per environment, as the JSON of a HelmRelease has them.
func seedValues(t *testing.T) string {
	t.Helper()
	b, err := yaml.YAMLToJSON([]byte(`
replicaCount: 2
image:
  repository: registry.gitlab.com/my-org/my-app
  tag: stable
  pullPolicy: IfNotPresent
service:
  type: ClusterIP
  port: 80
ingress:
  enabled: true
  annotations:
    kubernetes.io/ingress.class: nginx
    certmanager.k8s.io/cluster-issuer: "letsencrypt-prod"
  hosts:
  - host: api.example.org
    paths: ['/']
resources:
  limits:
    cpu: 100m
    memory: 128Mi
  requests:
    cpu: 100m
    memory: 128Mi
`))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
