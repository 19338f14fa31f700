package dialect_test

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/dialect"
)

func TestFluxControllerOf(t *testing.T) {
	tests := map[string]struct {
		manifest string
		want     string // program, replicas, selector; empty: none of Flux
	}{
		"as installed": {`{metadata: {namespace: flux-system, name: kustomize-controller}, spec: {template: {spec: {containers: [
 {image: "ghcr.io/fluxcd/kustomize-controller:v1.9.4", args: [--events-addr=x, --watch-all-namespaces=true]}]}}}}`, "kustomize-controller 1 "},
		"a shard, by digest": {`{spec: {replicas: 2, template: {spec: {containers: [
 {image: "registry.example:5000/source-controller@sha256:00", args: [--watch-label-selector=sharding.fluxcd.io/key in (shard1)]}]}}}}`,
			"source-controller 2 sharding.fluxcd.io/key in (shard1)"},
		"scaled down":           {`{spec: {replicas: 0, template: {spec: {containers: [{image: source-controller}]}}}}`, "source-controller 0 "},
		"renamed image":         {`{metadata: {name: kustomize-controller, labels: {app.kubernetes.io/part-of: flux}}, spec: {template: {spec: {containers: [{image: "mirror/kc:1", args: [--watch-label-selector, "!a"]}]}}}}`, "kustomize-controller 1 !a"},
		"an unreadable shard":   {`{spec: {template: {spec: {containers: [{image: source-controller, args: ["--watch-label-selector=%%"]}]}}}}`, "source-controller 1 "},
		"another one of Flux":   {`{metadata: {name: image-automation-controller, labels: {app.kubernetes.io/part-of: flux}}, spec: {template: {spec: {containers: [{image: "ghcr.io/fluxcd/image-automation-controller:v1"}]}}}}`, ""},
		"that of releases":      {`{spec: {template: {spec: {containers: [{image: "ghcr.io/fluxcd/helm-controller:v1"}]}}}}`, "helm-controller 1 "},
		"something like it":     {`{metadata: {name: kustomize-controller}, spec: {template: {spec: {containers: [{image: nginx}]}}}}`, ""},
		"without any container": {`{}`, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var d appsv1.Deployment
			if err := yaml.UnmarshalStrict([]byte(tt.manifest), &d); err != nil {
				t.Fatal(err)
			}
			c, ok := dialect.FluxControllerOf(&d)
			got := ""
			if ok {
				got = c.Program + " " + fmt.Sprint(c.Replicas) + " " + c.Selector.String()
			}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func TestOverlap(t *testing.T) {
	tests := []struct {
		a, b string
		want bool
	}{
		{"", "", true},
		{"k=keelson", "", true},
		{"k=keelson", "!k", false},
		{"k", "!k", false},
		{"k=keelson", "k in (shard1,shard2)", false},
		{"k in (keelson,shard1)", "k in (shard1,shard2)", true},
		{"k=keelson", "k notin (keelson)", false},
		{"k in (keelson,x)", "k!=keelson", true},
		{"k=keelson", "other=1", true},
		{"k=keelson,other=1", "other=2", false},
		{"k!=a", "k!=b", true},
		{"!k", "k notin (a)", true},
	}
	for _, tt := range tests {
		a, errA := labels.Parse(tt.a)
		b, errB := labels.Parse(tt.b)
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if x, y := dialect.Overlap(a, b), dialect.Overlap(b, a); x != tt.want || y != tt.want {
			t.Errorf("Overlap(%q, %q) = %v, the other way round %v; want %v", tt.a, tt.b, x, y, tt.want)
		}
	}
}
