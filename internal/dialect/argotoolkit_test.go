package dialect_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/dialect"
)

func TestArgoControllerOf(t *testing.T) {
	tests := map[string]struct {
		manifest string
		want     string // program and replicas; empty: none of Argo CD
	}{
		"as installed": {`{metadata: {name: argocd-application-controller}, spec: {replicas: 2, template: {spec: {containers: [
 {image: "quay.io/argoproj/argocd:v3.1.0", args: [/usr/local/bin/argocd-application-controller, --loglevel=info]}]}}}}`, "argocd-application-controller 2"},
		"the one of ApplicationSets": {`{spec: {template: {spec: {containers: [{image: argocd, args: [/usr/local/bin/argocd-applicationset-controller]}]}}}}`, "argocd-applicationset-controller 1"},
		"by an operator":             {`{spec: {template: {spec: {containers: [{image: "x@sha256:00", command: [argocd-application-controller, --operation-processors, "10"]}]}}}}`, "argocd-application-controller 1"},
		"scaled down":                {`{spec: {replicas: 0, template: {spec: {containers: [{args: [argocd-application-controller]}]}}}}`, "argocd-application-controller 0"},
		"in a shell":                 {`{metadata: {labels: {app.kubernetes.io/part-of: argocd, app.kubernetes.io/component: application-controller}}, spec: {template: {spec: {containers: [{image: argocd, args: [run.sh]}]}}}}`, "argocd-application-controller 1"},
		"the operator":               {`{spec: {template: {spec: {containers: [{image: "quay.io/argoprojlabs/argocd-operator:v0.12"}]}}}}`, "argocd-operator 1"},
		"another one of Argo CD":     {`{metadata: {labels: {app.kubernetes.io/part-of: argocd, app.kubernetes.io/component: repo-server}}, spec: {template: {spec: {containers: [{image: argocd, args: [/usr/local/bin/argocd-repo-server]}]}}}}`, ""},
		"something else":             {`{metadata: {name: argocd-application-controller}, spec: {template: {spec: {containers: [{image: nginx}]}}}}`, ""},
		"without any container":      {`{}`, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var s appsv1.StatefulSet
			if err := yaml.UnmarshalStrict([]byte(tt.manifest), &s); err != nil {
				t.Fatal(err)
			}
			c, ok := dialect.ArgoControllerOf("StatefulSet", s.ObjectMeta, s.Spec.Replicas, s.Spec.Template.Spec)
			got := ""
			if ok {
				got = c.Program + " " + fmt.Sprint(c.Replicas)
			}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func TestArgoHandBack(t *testing.T) {
	a := &argocdv1.Application{}
	if err := yaml.Unmarshal([]byte(`
metadata: {annotations: {keelson.dev/intent: "{}", keelson.dev/hold: "{}", mine: "1"}}
status: {conditions: [{type: HeldWarning}, {type: SyncError}, {type: UnsupportedFieldsWarning}]}
`), a); err != nil {
		t.Fatal(err)
	}
	if !dialect.ArgoHandBack(a) || dialect.ArgoHandBack(a) {
		t.Error("it is handed back once, and then there is nothing more")
	}
	if diff := cmp.Diff(map[string]string{"keelson.dev/hold": "{}", "mine": "1"}, a.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]argocdv1.ApplicationCondition{{Type: "SyncError"}}, a.Status.Conditions); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}
}
