package health_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/health"
)

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	b, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := u.UnmarshalJSON(b); err != nil {
		t.Fatal(err)
	}
	return u
}

// What Keelson says about the kinds that people have, in the states that these are seen in. Want is the status and a part of
// the message.
func TestKinds(t *testing.T) {
	for _, c := range []struct{ name, object, want string }{
		{"deployment, rolling out", `
			{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, generation: 2}, spec: {replicas: 3},
			status: {observedGeneration: 2, replicas: 3, updatedReplicas: 3, readyReplicas: 1, availableReplicas: 1,
			conditions: [{type: Progressing, status: "True", reason: ReplicaSetUpdated}]}}`, "Progressing Available: 1/3"},
		{"deployment, available", `
			{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, generation: 2}, spec: {replicas: 1},
			status: {observedGeneration: 2, replicas: 1, updatedReplicas: 1, readyReplicas: 1, availableReplicas: 1,
			conditions: [{type: Progressing, status: "True", reason: NewReplicaSetAvailable}, {type: Available, status: "True"}]}}`, "Healthy "},
		{"deployment, deadline exceeded", `
			{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, generation: 1}, spec: {replicas: 1},
			status: {observedGeneration: 1, replicas: 1, updatedReplicas: 1,
			conditions: [{type: Progressing, status: "False", reason: ProgressDeadlineExceeded}]}}`, "Degraded Progress deadline exceeded"},
		{"deployment, not observed", `
			{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, generation: 2}, spec: {replicas: 1},
			status: {observedGeneration: 1, replicas: 1, updatedReplicas: 1, readyReplicas: 1, availableReplicas: 1}}`,
			"Progressing Deployment generation is 2, but latest observed generation is 1"},
		{"stateful set, rolling out", `
			{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a, generation: 1}, spec: {replicas: 2},
			status: {observedGeneration: 1, replicas: 2, readyReplicas: 1}}`, "Progressing Ready: 1/2"},
		{"stateful set, OnDelete", `
			{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a, generation: 1}, spec: {replicas: 2, updateStrategy: {type: OnDelete}},
			status: {observedGeneration: 1, replicas: 2, readyReplicas: 0}}`, "Healthy "},
		{"daemon set", `
			{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: a, generation: 1},
			status: {observedGeneration: 1, desiredNumberScheduled: 2, currentNumberScheduled: 2, updatedNumberScheduled: 2, numberAvailable: 1}}`,
			"Progressing Available: 1/2"},
		{"job, not started", `{apiVersion: batch/v1, kind: Job, metadata: {name: a}}`, "Progressing the Job has not started"},
		{"job, running", `
			{apiVersion: batch/v1, kind: Job, metadata: {name: a}, status: {startTime: "2026-01-01T00:00:00Z", active: 1}}`,
			"Progressing the Job is running, Pods: 1 active, 0 succeeded, 0 failed"},
		{"job, complete", `
			{apiVersion: batch/v1, kind: Job, metadata: {name: a}, status: {startTime: "2026-01-01T00:00:00Z", succeeded: 1,
			conditions: [{type: SuccessCriteriaMet, status: "True"}, {type: Complete, status: "True"}]}}`, "Healthy "},
		{"job, failed", `
			{apiVersion: batch/v1, kind: Job, metadata: {name: a}, status: {startTime: "2026-01-01T00:00:00Z", failed: 7,
			conditions: [{type: Failed, status: "True", reason: BackoffLimitExceeded, message: Job has reached the specified backoff limit}]}}`,
			"Degraded the Job failed, Pods failed: 7: BackoffLimitExceeded: Job has reached the specified backoff limit"},
		{"job, suspended", `{apiVersion: batch/v1, kind: Job, metadata: {name: a}, spec: {suspend: true}}`, "Healthy "},
		{"cron job", `{apiVersion: batch/v1, kind: CronJob, metadata: {name: a}, status: {active: [{name: x}]}}`, "Healthy "},
		{"pod, pulling in vain", `
			{apiVersion: v1, kind: Pod, metadata: {name: a}, status: {phase: Pending,
			conditions: [{type: PodScheduled, status: "True"}]}}`, "Progressing Pod is in the Pending phase"},
		{"pod, crash looping", `
			{apiVersion: v1, kind: Pod, metadata: {name: a}, status: {phase: Running, conditions: [{type: Ready, status: "False"}],
			containerStatuses: [{name: web, state: {waiting: {reason: CrashLoopBackOff}}}]}}`, "Degraded Containers in CrashLoop state: web"},
		{"pod, done", `{apiVersion: v1, kind: Pod, metadata: {name: a}, status: {phase: Succeeded}}`, "Healthy "},
		{"claim, pending", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}, status: {phase: Pending}}`, "Progressing PVC is not Bound. phase: Pending"},
		{"claim, bound", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}, status: {phase: Bound}}`, "Healthy "},
		{"service, no address", `{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer}}`, "Progressing ClusterIP not set"},
		{"service", `{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: ClusterIP, clusterIP: 10.0.0.1}}`, "Healthy "},
		{"resource definition, new", `
			{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a}, status: {conditions: []}}`, "Progressing Install in progress"},
		{"resource definition, established", `
			{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a},
			status: {conditions: [{type: NamesAccepted, status: "True"}, {type: Established, status: "True"}]}}`, "Healthy "},
		{"resource definition, names taken", `
			{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a},
			status: {conditions: [{type: NamesAccepted, status: "False", reason: Conflict, message: it is in use}]}}`, "Degraded it is in use"},
		{"autoscaler", `
			{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: a},
			status: {conditions: [{type: AbleToScale, status: "True"}, {type: ScalingActive, status: "False", reason: FailedGetResourceMetric}]}}`, "Healthy "},
		{"ingress", `{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: a}, status: {loadBalancer: {}}}`, "Healthy "},
		{"config map", `{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}`, "Healthy "},
		{"custom, no status", `{apiVersion: example.com/v1, kind: Widget, metadata: {name: a, generation: 1}}`, "Healthy "},
		{"custom, ready", `
			{apiVersion: example.com/v1, kind: Widget, metadata: {name: a, generation: 1},
			status: {observedGeneration: 1, conditions: [{type: Ready, status: "True"}]}}`, "Healthy "},
		{"custom, not ready", `
			{apiVersion: example.com/v1, kind: Widget, metadata: {name: a, generation: 1},
			status: {observedGeneration: 1, conditions: [{type: Ready, status: "False", reason: Waiting, message: no licence}]}}`, "Progressing no licence"},
		{"custom, stalled", `
			{apiVersion: example.com/v1, kind: Widget, metadata: {name: a, generation: 1},
			status: {conditions: [{type: Stalled, status: "True", message: gave up}, {type: Ready, status: "False"}]}}`, "Degraded gave up"},
		{"custom, going", `
			{apiVersion: example.com/v1, kind: Widget, metadata: {name: a, deletionTimestamp: "2026-01-01T00:00:00Z", finalizers: [x/y]}}`, "Progressing Resource scheduled for deletion"},
		// What helm-controller leaves of a release that fails: the generation is observed only once it is ready or stalled.
		{"Flux's, failing and tried again", `
			{apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, metadata: {name: a, generation: 1},
			status: {observedGeneration: -1, conditions: [
			{type: Reconciling, status: "True", reason: ProgressingWithRetry, message: retrying installation in 5s, observedGeneration: 1},
			{type: Ready, status: "False", reason: InstallFailed, message: "templates/a.yaml:3: no such function", observedGeneration: 1}]}}`,
			"Progressing InstallFailed: templates/a.yaml:3: no such function"},
		{"Flux's, failing, of Keelson", `
			{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {name: a, generation: 2},
			status: {observedGeneration: 1, conditions: [
			{type: Ready, status: "False", reason: BuildFailed, message: no such file, observedGeneration: 2}]}}`, "Progressing BuildFailed: no such file"},
		{"Flux's, failing at what it was before", `
			{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {name: a, generation: 3},
			status: {observedGeneration: 1, conditions: [
			{type: Ready, status: "False", reason: BuildFailed, message: no such file, observedGeneration: 2}]}}`,
			"Progressing Kustomization generation is 3, but latest observed generation is 1"},
		{"Flux's, failing at what it was before, without numbers", `
			{apiVersion: notification.toolkit.fluxcd.io/v1beta3, kind: Alert, metadata: {name: a, generation: 3},
			status: {observedGeneration: 1, conditions: [{type: Ready, status: "False", reason: Failed, message: old}]}}`,
			"Progressing Alert generation is 3, but latest observed generation is 1"},
		{"Flux's, under way", `
			{apiVersion: source.toolkit.fluxcd.io/v1, kind: GitRepository, metadata: {name: a, generation: 1},
			status: {observedGeneration: -1, conditions: [
			{type: Reconciling, status: "True", reason: Progressing, message: building artifact},
			{type: Ready, status: Unknown, reason: Progressing, message: "building artifact: new upstream revision", observedGeneration: 1}]}}`,
			"Progressing building artifact: new upstream revision"},
		{"Flux's, not looked at yet", `
			{apiVersion: source.toolkit.fluxcd.io/v1, kind: GitRepository, metadata: {name: a, generation: 1}, status: {observedGeneration: -1}}`,
			"Progressing GitRepository generation is 1, but latest observed generation is -1"},
		{"Flux's, not looked at since it was ready", `
			{apiVersion: source.toolkit.fluxcd.io/v1, kind: GitRepository, metadata: {name: a, generation: 2},
			status: {observedGeneration: 1, conditions: [{type: Ready, status: "True", reason: Succeeded, message: stored, observedGeneration: 1}]}}`,
			"Progressing GitRepository generation is 2, but latest observed generation is 1"},
		{"Flux's, stalled", `
			{apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, metadata: {name: a, generation: 1},
			status: {observedGeneration: 1, conditions: [
			{type: Stalled, status: "True", reason: RetriesExceeded, message: "Failed to upgrade after 3 attempt(s)", observedGeneration: 1},
			{type: Ready, status: "False", reason: UpgradeFailed, message: "Deployment/x/a: no such image", observedGeneration: 1}]}}`,
			"Degraded UpgradeFailed: Deployment/x/a: no such image (RetriesExceeded: Failed to upgrade after 3 attempt(s))"},
		{"Flux's, stalled for the reason that it is not ready", `
			{apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, metadata: {name: a, generation: 1},
			status: {observedGeneration: 1, conditions: [
			{type: Stalled, status: "True", reason: HeldByRollback, message: a person has rolled it back, observedGeneration: 1},
			{type: Ready, status: "False", reason: HeldByRollback, message: a person has rolled it back, observedGeneration: 1}]}}`,
			"Degraded HeldByRollback: a person has rolled it back"},
		{"Flux's, ready", `
			{apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, metadata: {name: a, generation: 1},
			status: {observedGeneration: 1, conditions: [{type: Ready, status: "True", reason: InstallSucceeded, observedGeneration: 1}]}}`, "Healthy "},
		{"Flux's, going", `
			{apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, metadata: {name: a, deletionTimestamp: "2026-01-01T00:00:00Z", finalizers: [x/y]},
			status: {conditions: [{type: Ready, status: "False", reason: UninstallFailed, message: the hook failed}]}}`,
			"Progressing Resource scheduled for deletion: UninstallFailed: the hook failed"},
		{"custom, malformed conditions", `
			{apiVersion: example.com/v1, kind: Widget, metadata: {name: a}, status: {conditions: yes please}}`, "Unknown "},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := object(t, strings.ReplaceAll(c.object, "\t", ""))
			h := health.Of(u)
			got := string(h.Status) + " " + h.Message
			if !strings.HasPrefix(got, c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestRules(t *testing.T) {
	const synced = "status.conditions.filter(e, e.type == 'Synced').all(e, e.status == 'True')"
	sealed := delivery.HealthExpr{
		Group: "bitnami.com", Kind: "SealedSecret", Current: synced,
		Failed: "status.conditions.filter(e, e.type == 'Synced').all(e, e.status == 'False')",
	}
	group := delivery.HealthExpr{Group: "example.com", Current: "has(status.phase) && status.phase == 'Up'", InProgress: "int(spec.size) > 3"}
	for _, c := range []struct{ name, object, want string }{
		{"current", `{apiVersion: bitnami.com/v1alpha1, kind: SealedSecret, metadata: {name: a}, status: {conditions: [{type: Synced, status: "True"}]}}`, "Healthy "},
		{"failed", `{apiVersion: bitnami.com/v1, kind: SealedSecret, metadata: {name: a}, status: {conditions: [{type: Synced, status: "False"}]}}`, "Degraded healthCheckExprs: failed is true"},
		{"no status yet", `{apiVersion: bitnami.com/v1, kind: SealedSecret, metadata: {name: a}}`, "Progressing healthCheckExprs: failed: no such"},
		{"none is true", `{apiVersion: bitnami.com/v1, kind: SealedSecret, metadata: {name: a}, status: {conditions: [{type: Synced, status: Unknown}]}}`, "Progressing healthCheckExprs: current is not true yet"},
		{"not observed", `{apiVersion: bitnami.com/v1, kind: SealedSecret, metadata: {name: a, generation: 2}, status: {observedGeneration: 1, conditions: [{type: Synced, status: "True"}]}}`, "Progressing generation is 2"},
		{"observed as text", `{apiVersion: bitnami.com/v1, kind: SealedSecret, metadata: {name: a, generation: 2}, status: {observedGeneration: "1", conditions: [{type: Synced, status: "True"}]}}`, "Healthy "},
		{"another kind", `{apiVersion: bitnami.com/v1, kind: Other, metadata: {name: a}}`, "Healthy "},
		{"a kind of the group", `{apiVersion: example.com/v1, kind: Any, metadata: {name: a}, spec: {size: 1}, status: {phase: Up}}`, "Healthy "},
		{"in progress first", `{apiVersion: example.com/v1, kind: Any, metadata: {name: a}, spec: {size: 4}, status: {phase: Up}}`, "Progressing healthCheckExprs: inProgress is true"},
		{"cannot be evaluated", `{apiVersion: example.com/v1, kind: Any, metadata: {name: a}, spec: {size: many}}`, "Progressing healthCheckExprs: inProgress: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			rules, err := health.Compile([]delivery.HealthExpr{sealed, group})
			if err != nil {
				t.Fatal(err)
			}
			h := rules.Of(object(t, c.object))
			if got := string(h.Status) + " " + h.Message; !strings.HasPrefix(got, c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	rules, err := health.Compile([]delivery.HealthExpr{sealed, group})
	if err != nil {
		t.Fatal(err)
	}
	for gk, want := range map[schema.GroupKind]bool{{Group: "bitnami.com", Kind: "SealedSecret"}: true, {Group: "bitnami.com", Kind: "X"}: false, {Group: "example.com", Kind: "X"}: true} {
		if rules.Kind(gk) != want {
			t.Errorf("rules about %s: %t", gk, !want)
		}
	}
}

// A value of a Secret is in no message, whatever the expression makes of it.
func TestRulesKeepSecrets(t *testing.T) {
	rules, err := health.Compile([]delivery.HealthExpr{{Kind: "Secret", Current: "int(data.password) > 0"}})
	if err != nil {
		t.Fatal(err)
	}
	h := rules.Of(object(t, `{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {password: aHVudGVyMg}}`))
	if h.Status != delivery.Progressing || strings.Contains(h.Message, "aHVudGVyMg") {
		t.Errorf("health is %+v", h)
	}
}

// An expression that would take long is stopped, and says so.
func TestCostIsBounded(t *testing.T) {
	rules, err := health.Compile([]delivery.HealthExpr{{Group: "g", Kind: "K", Current: "spec.a.all(x, spec.a.all(y, spec.a.all(z, x + y + z >= 0)))"}})
	if err != nil {
		t.Fatal(err)
	}
	list := make([]any, 1000)
	for i := range list {
		list[i] = int64(i)
	}
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "g/v1", "kind": "K", "spec": map[string]any{"a": list}}}
	h := rules.Of(u)
	if h.Status != delivery.Progressing || !strings.Contains(h.Message, "cost") {
		t.Errorf("health is %+v", h)
	}
}

func TestExpressionsThatCannotBeUsed(t *testing.T) {
	for _, c := range []struct {
		name, want string
		exprs      []delivery.HealthExpr
	}{
		{"syntax", "spec.healthCheckExprs[0].current: line 1, column 8: Syntax error", []delivery.HealthExpr{{Group: "g", Current: "status."}}},
		{"unterminated", "spec.healthCheckExprs[1].failed: ", []delivery.HealthExpr{{Group: "g", Current: "true"}, {Group: "h", Current: "true", Failed: "'"}}},
		{"empty", "spec.healthCheckExprs[0].current: it is empty", []delivery.HealthExpr{{Group: "g"}}},
		{"twice", "spec.healthCheckExprs[1]: another entry is about K.g too", []delivery.HealthExpr{{Group: "g", Kind: "K", Current: "true"}, {Group: "g", Kind: "K", Current: "false"}}},
		{"long", "spec.healthCheckExprs[0].current: ", []delivery.HealthExpr{{Group: "g", Current: strings.Repeat("true && ", 4000) + "true"}}},
		{"many", "spec.healthCheckExprs: it has 300 entries", make([]delivery.HealthExpr, 300)},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := health.Compile(c.exprs)
			if err == nil || !strings.HasPrefix(err.Error(), c.want) || delivery.FaultOf(err, "").Reason != "InvalidCELExpression" {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestReadiness(t *testing.T) {
	dep := delivery.ID{Kind: "Kustomization", Namespace: "apps", Name: "backend"}
	self := map[string]any{"metadata": map[string]any{"labels": map[string]any{"app/version": "v1"}}}
	there := map[string]any{
		"metadata": map[string]any{"generation": int64(2), "labels": map[string]any{"app/version": "v1"}},
		"status": map[string]any{
			"observedGeneration": int64(2),
			"conditions":         []any{map[string]any{"type": "Ready", "status": "True"}},
		},
	}
	for _, c := range []struct{ name, expr, want string }{
		{"as in Flux's documentation", `dep.metadata.labels['app/version'] == self.metadata.labels['app/version'] &&
			dep.status.conditions.filter(e, e.type == 'Ready').all(e, e.status == 'True') &&
			dep.metadata.generation == dep.status.observedGeneration`, "true"},
		{"false", "dep.metadata.generation > 2", "false"},
		{"a field that is not there", "dep.spec.suspend == true", "no such key: spec"},
		{"no boolean", "dep.metadata", "spec.dependsOn, readyExpr of apps/backend: it gives a value of the type dyn, not bool"},
		{"no such variable", "other.metadata == 1", "spec.dependsOn, readyExpr of apps/backend: line 1, column 1: undeclared reference to 'other'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			r, err := health.CompileReady(dep, c.expr)
			if err == nil {
				var yes bool
				yes, err = r.Of(self, there)
				got = map[bool]string{true: "true", false: "false"}[yes]
			}
			if err != nil {
				got = err.Error()
			}
			if !strings.HasPrefix(got, c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestAggregate(t *testing.T) {
	part := func(name string, status delivery.HealthStatus, message string) health.Part {
		return health.Part{Ref: delivery.Ref{Group: "apps", Kind: "Deployment", Namespace: "n", Name: name}, Health: delivery.Health{Status: status, Message: message}}
	}
	for _, c := range []struct {
		name  string
		parts []health.Part
		want  delivery.Health
	}{
		{"nothing", nil, delivery.Health{Status: delivery.Healthy}},
		{"one failed is all failed", []health.Part{part("a", delivery.Healthy, ""), part("b", delivery.Progressing, "1/2"), part("c", delivery.Degraded, "no quota")},
			delivery.Health{Status: delivery.Degraded, Message: "Deployment/n/c: no quota"}},
		{"one that cannot be known is waited for", []health.Part{part("a", delivery.Healthy, ""), part("b", delivery.UnknownHealth, "malformed")},
			delivery.Health{Status: delivery.UnknownHealth, Message: "Deployment/n/b: malformed"}},
	} {
		if got := health.Aggregate(c.parts); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}
