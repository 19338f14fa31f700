package dialect_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

func TestArgoSummary(t *testing.T) {
	for text, want := range map[string][2][]string{
		"{kind: Deployment, apiVersion: apps/v1, spec: {template: {spec: {initContainers: [{image: i:1}], containers: [{image: c:2}, {image: d:3}]}}}}": {{"i:1", "c:2", "d:3"}, nil},
		"{kind: Pod, apiVersion: v1, spec: {containers: [{image: p:1}]}}":                                                                               {{"p:1"}, nil},
		"{kind: CronJob, apiVersion: batch/v1, spec: {jobTemplate: {spec: {template: {spec: {containers: [{image: j:1}]}}}}}}":                          {{"j:1"}, nil},
		"{kind: Ingress, apiVersion: networking.k8s.io/v1, spec: {tls: [{hosts: [a.io]}], rules: [{host: a.io, http: {paths: [{path: /}, {path: /x}]}}, {host: b.io}, {http: {}}]}}": {
			nil, {"https://a.io", "https://a.io/x", "http://b.io"},
		},
		"{kind: Service, apiVersion: v1, metadata: {annotations: {link.argocd.argoproj.io/external-link: 'Grafana|https://g.io'}}}": {nil, {"https://g.io"}},
		"{kind: Pod, apiVersion: v1, spec: {containers: 3}}":                                                                        {nil, nil},
	} {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		images, urls := dialect.ArgoSummary([]delivery.Object{{Unstructured: u}})
		if diff := cmp.Diff(want, [2][]string{images, urls}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}
