package controller_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// gateRules make a ConfigMap healthy by its key v.
const gateRules = `
  healthCheckExprs: [{apiVersion: v1, kind: ConfigMap, inProgress: data.v == 'wait', failed: data.v == 'down', current: data.v == 'up'}]`

// An app waits for what spec.healthChecks names, be it there yet or not, and for nothing else; and it follows it.
func TestHealthChecks(t *testing.T) {
	w := newWorld(t)
	w.app("app", "  healthChecks: [{apiVersion: v1, kind: ConfigMap, name: gate}]"+gateRules)
	rev := w.push(map[string]string{"app/other.yaml": w.configMap("other", "down")}) // its own, but not named
	w.condition("app", metav1.ConditionUnknown, "Progressing", rev)
	w.value("other", "down")

	gate := &corev1.ConfigMap{ObjectMeta: w.named("gate"), Data: map[string]string{"v": "wait"}}
	w.must(w.client.Create(w.ctx, gate))
	w.condition("app", metav1.ConditionUnknown, "Progressing", rev)
	w.edit(gate, "a-person", func() { gate.Data["v"] = "up" })
	w.ready("app", rev)
	w.healthy("app", metav1.ConditionTrue, "Succeeded")
	if s := w.kustomization("app").Status; s.ObservedGeneration != 1 {
		t.Errorf("observed generation is %d", s.ObservedGeneration)
	}

	w.edit(gate, "a-person", func() { gate.Data["v"] = "down" })
	w.condition("app", metav1.ConditionFalse, "HealthCheckFailed", "ConfigMap/"+w.ns+"/gate", "failed is true")
	w.healthy("app", metav1.ConditionFalse, "HealthCheckFailed")
	w.edit(gate, "a-person", func() { gate.Data["v"] = "up" })
	w.ready("app", rev)
}

func (w *world) healthy(app string, status metav1.ConditionStatus, reason string) {
	w.Helper()
	c := meta.FindStatusCondition(w.kustomization(app).Status.Conditions, "Healthy")
	if c == nil || c.Status != status || c.Reason != reason {
		w.Errorf("Healthy is %+v, want %s %s", c, status, reason)
	}
}

// The kind of what is waited for may come later, with whoever brings it.
func TestHealthCheckOfAKindThatComes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	group := w.ns + ".example.com"
	w.app("app", fmt.Sprintf("  healthChecks: [{apiVersion: %s/v1, kind: Gate, name: one}]", group))
	rev := w.push(map[string]string{"app/cm.yaml": w.configMap("cm", "1")})
	w.condition("app", metav1.ConditionUnknown, "Progressing", rev)
	w.apply(strings.ReplaceAll(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gates.$group}
spec:
  group: $group
  scope: Namespaced
  names: {plural: gates, singular: gate, kind: Gate, listKind: GateList}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`, "$group", group))
	w.eventually("the kind", func() error {
		u := objects("apiVersion: " + group + "/v1\nkind: Gate\nmetadata: {name: one}\n")[0]
		u.SetNamespace(w.ns)
		return w.client.Create(w.ctx, u)
	})
	w.ready("app", rev)
}

// Other rules about objects that have not changed give another health.
func TestHealthRulesChange(t *testing.T) {
	w := newWorld(t)
	w.app("app", "  wait: true"+gateRules)
	rev := w.push(map[string]string{"app/cm.yaml": w.configMap("cm", "down")})
	w.condition("app", metav1.ConditionFalse, "HealthCheckFailed", "failed is true")
	w.app("app", "  wait: true"+strings.ReplaceAll(gateRules, "'up'", "'down'"))
	w.condition("app", metav1.ConditionFalse, "HealthCheckFailed", "failed is true") // failed is asked first
	w.app("app", "  wait: true\n  healthCheckExprs: [{apiVersion: v1, kind: ConfigMap, current: data.v == 'down'}]")
	w.ready("app", rev)
	w.app("app", "  wait: true\n  healthCheckExprs: [{apiVersion: v1, kind: ConfigMap, current: data.v == 'up', failed: 'true'}]")
	w.condition("app", metav1.ConditionFalse, "HealthCheckFailed", "failed is true")
	w.app("app", "  wait: true")
	w.ready("app", rev)
}

func TestInvalidExpressionStalls(t *testing.T) {
	w := newWorld(t)
	w.app("app", "  wait: true\n  healthCheckExprs: [{apiVersion: v1, kind: ConfigMap, current: 'data.v =='}]")
	rev := w.push(map[string]string{"app/cm.yaml": w.configMap("cm", "1")})
	w.condition("app", metav1.ConditionFalse, "InvalidCELExpression", "spec.healthCheckExprs[0].current: line 1", "Syntax error")
	k := w.kustomization("app")
	if !meta.IsStatusConditionTrue(k.Status.Conditions, "Stalled") || k.Status.ObservedGeneration != k.Generation || w.data("cm") != nil {
		t.Errorf("status is %+v", k.Status)
	}
	w.app("app", "  dependsOn: [{name: app2, readyExpr: 'dep.metadata'}]")
	w.condition("app", metav1.ConditionFalse, "InvalidCELExpression", "readyExpr of "+w.ns+"/app2", "not bool")
	w.app("app", "")
	w.ready("app", rev)
	if k := w.kustomization("app"); meta.FindStatusCondition(k.Status.Conditions, "Stalled") != nil {
		t.Error("it is still stalled")
	}
}

// A readyExpr decides alone, and follows whatever it looks at: of the dependency, and of the app itself.
func TestReadyExpr(t *testing.T) {
	w := newWorld(t)
	const expr = `  dependsOn:
  - name: base
    readyExpr: dep.metadata.labels['version'] == self.metadata.labels['version'] && has(dep.status.conditions)`
	w.app("app", expr)
	w.app("base", "")
	rev := w.push(map[string]string{"app/cm.yaml": w.configMap("cm", "1"), "base/broken.yaml": "kind: ["})
	w.condition("base", metav1.ConditionFalse, "BuildFailed")
	w.condition("app", metav1.ConditionFalse, "DependencyNotReady", "dependency '"+w.ns+"/base'", "no such key: labels")
	label := func(app, value string) {
		t.Helper()
		k := w.kustomization(app)
		w.must(w.client.Patch(w.ctx, k, client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{"version":%q}}}`, value))))
	}
	label("base", "2")
	label("app", "1")
	w.condition("app", metav1.ConditionFalse, "DependencyNotReady", "its readyExpr is not true")
	if w.data("cm") != nil {
		t.Error("applied all the same")
	}
	label("app", "2")
	w.ready("app", rev) // base has failed, which the expression does not ask about
	label("base", "3")
	label("app", "3")
	w.ready("app", w.push(map[string]string{"app/cm.yaml": w.configMap("cm", "2")}))
	w.value("cm", "2")
}

// An app with a service account is told nothing about what that account may not see.
func TestHealthCheckOfWhatTheAccountMayNotSee(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	w.apply(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: deployer}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: deployer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: deployer, namespace: $ns}]
`)
	w.must(w.client.Create(w.ctx, &corev1.ConfigMap{ObjectMeta: other.named("gate"), Data: map[string]string{"v": "up"}}))
	w.app("app", "  serviceAccountName: deployer\n  healthChecks: [{apiVersion: v1, kind: ConfigMap, name: gate, namespace: "+other.ns+"}]"+gateRules)
	rev := w.push(map[string]string{"app/cm.yaml": w.configMap("cm", "1")})
	w.condition("app", metav1.ConditionFalse, "Forbidden", "ConfigMap/"+other.ns+"/gate", "may not get")
	w.value("cm", "1")
	w.apply(`
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: viewer, namespace: ` + other.ns + `}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: deployer, namespace: $ns}]
`)
	w.ready("app", rev)
}

const ttlJob = `
apiVersion: batch/v1
kind: Job
metadata: {name: migrate, namespace: $ns}
spec:
  ttlSecondsAfterFinished: 0
  suspend: %s
  template:
    metadata: {labels: {app: migrate}}
    spec: {restartPolicy: Never, containers: [{name: migrate, image: "migrate:%d"}]}
`

// A Job that has done its work and went by itself is neither drift nor a failure; one that went before is made anew.
func TestJobThatGoesByItself(t *testing.T) {
	w := newWorld(t)
	job := func(suspend string, n int) string {
		return strings.ReplaceAll(fmt.Sprintf(ttlJob, suspend, n), "$ns", w.ns)
	}
	w.app("app", "  wait: true")
	rev := w.push(map[string]string{"app/job.yaml": job("true", 1), "app/cm.yaml": w.configMap("cm", "1")})
	w.ready("app", rev) // a suspended Job is as it should be
	var first batchv1.Job
	key := client.ObjectKey{Namespace: w.ns, Name: "migrate"}
	w.must(w.client.Get(w.ctx, key, &first))
	w.must(w.client.Delete(w.ctx, &first, client.PropagationPolicy(metav1.DeletePropagationBackground)))
	w.event("app", "DriftRepaired", "Job/"+w.ns+"/migrate repaired")

	rev = w.push(map[string]string{"app/job.yaml": job("false", 1)})
	w.eventually("the Job to be gone", func() error {
		err := w.client.Get(w.ctx, key, &batchv1.Job{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.New("it is still there")
	})
	w.ready("app", rev)
	rev = w.push(map[string]string{"app/cm.yaml": w.configMap("cm", "2")})
	w.ready("app", rev)
	w.value("cm", "2")
	time.Sleep(2 * time.Second) // as long as a repair would have taken
	if err := w.client.Get(w.ctx, key, &batchv1.Job{}); !apierrors.IsNotFound(err) {
		t.Errorf("the Job is there again: %v", err)
	}
	w.ready("app", rev)
}

func TestHistory(t *testing.T) {
	w := newWorld(t)
	w.app("app", "")
	one := w.push(map[string]string{"app/cm.yaml": w.configMap("cm", "1")})
	w.ready("app", one)
	first := w.kustomization("app").Status.History
	if len(first) != 1 || first[0].LastReconciledStatus != "ReconciliationSucceeded" || first[0].Metadata["revision"] != one || !strings.HasPrefix(first[0].Digest, "sha256:") {
		t.Fatalf("history is %+v", first)
	}
	two := w.push(map[string]string{"app/cm.yaml": w.configMap("cm", "2")})
	w.ready("app", two)
	three := w.push(map[string]string{"app/cm.yaml": w.configMap("cm", "1")}) // as before
	w.ready("app", three)
	h := w.kustomization("app").Status.History
	if len(h) != 2 || h[0].Digest != first[0].Digest || h[0].TotalReconciliations != 2 || h[0].Metadata["revision"] != three || h[1].Metadata["revision"] != two {
		t.Errorf("history is %+v", h)
	}
}

// What is left alone is not waited for.
func TestHealthOfWhatIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.app("app", "  wait: true"+gateRules)
	w.ready("app", w.push(map[string]string{"app/cm.yaml": w.configMap("cm", "up")}))
	w.ready("app", w.push(map[string]string{"app/cm.yaml": strings.ReplaceAll(w.configMap("cm", "up"),
		"metadata: {", "metadata: {annotations: {kustomize.toolkit.fluxcd.io/reconcile: disabled}, ")}))
	cm := &corev1.ConfigMap{ObjectMeta: w.named("cm")}
	w.edit(cm, "a-person", func() { cm.Data["v"] = "down" })
	w.ready("app", w.push(map[string]string{"app/other.yaml": w.configMap("other", "up")}))
	w.value("cm", "down")
}
