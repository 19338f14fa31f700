package health_test

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/health"
)

// verdict is "Status message"; "none": the object has no health.
func verdict(h delivery.Health) string {
	if h == (delivery.Health{}) {
		return "none"
	}
	return strings.TrimSpace(string(h.Status) + " " + h.Message)
}

// What Argo CD says about the kinds of Kubernetes, branch by branch. Want is all of it.
func TestArgoKinds(t *testing.T) {
	rules := health.NewArgo(nil, nil)
	for _, c := range []struct{ name, object, want string }{
		{"deployment, paused", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, generation: 2}, spec: {paused: true}}`,
			"Suspended Deployment is paused"},
		{"deployment, not observed", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, generation: 2}, status: {observedGeneration: 1}}`,
			"Progressing Waiting for rollout to finish: observed deployment generation less than desired generation"},
		{"deployment, deadline exceeded", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, generation: 1}, spec: {replicas: 1},
			status: {observedGeneration: 1, conditions: [{type: Progressing, status: "False", reason: ProgressDeadlineExceeded}]}}`,
			`Degraded Deployment "a" exceeded its progress deadline`},
		{"deployment, few are updated", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, generation: 1}, spec: {replicas: 3},
			status: {observedGeneration: 1, replicas: 3, updatedReplicas: 1, availableReplicas: 3}}`,
			"Progressing Waiting for rollout to finish: 1 out of 3 new replicas have been updated..."},
		{"deployment, old ones are left", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, generation: 1}, spec: {replicas: 3},
			status: {observedGeneration: 1, replicas: 4, updatedReplicas: 3, availableReplicas: 4}}`,
			"Progressing Waiting for rollout to finish: 1 old replicas are pending termination..."},
		{"deployment, not available", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, generation: 1}, spec: {replicas: 3},
			status: {observedGeneration: 1, replicas: 3, updatedReplicas: 3, availableReplicas: 2}}`,
			"Progressing Waiting for rollout to finish: 2 of 3 updated replicas are available..."},
		{"deployment, as wanted", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, generation: 1}, spec: {replicas: 3},
			status: {observedGeneration: 1, replicas: 3, updatedReplicas: 3, availableReplicas: 3}}`, "Healthy"},
		{"deployment, of none", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, generation: 1}, spec: {replicas: 0},
			status: {observedGeneration: 1}}`, "Healthy"},
		{"deployment, malformed", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, generation: 1}, spec: {replicas: "3"},
			status: {observedGeneration: 1}}`, "Unknown spec.replicas is not a whole number but string"},

		{"stateful set, never observed", `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a}}`,
			"Progressing Waiting for statefulset spec update to be observed..."},
		{"stateful set, not observed", `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a, generation: 2}, status: {observedGeneration: 1}}`,
			"Progressing Waiting for statefulset spec update to be observed..."},
		{"stateful set, not ready", `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a, generation: 1}, spec: {replicas: 3, updateStrategy: {type: OnDelete}},
			status: {observedGeneration: 1, readyReplicas: 1}}`, "Progressing Waiting for 2 pods to be ready..."},
		{"stateful set, partly updated", `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a, generation: 1},
			spec: {replicas: 3, updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 1}}},
			status: {observedGeneration: 1, readyReplicas: 3, updatedReplicas: 1}}`,
			"Progressing Waiting for partitioned roll out to finish: 1 out of 2 new pods have been updated..."},
		{"stateful set, updated as far as wanted", `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a, generation: 1},
			spec: {replicas: 3, updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 1}}},
			status: {observedGeneration: 1, readyReplicas: 3, updatedReplicas: 2, currentRevision: a-1, updateRevision: a-2}}`,
			"Healthy partitioned roll out complete: 2 new pods have been updated..."},
		{"stateful set, OnDelete", `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a, generation: 1},
			spec: {replicas: 2, updateStrategy: {type: OnDelete}},
			status: {observedGeneration: 1, readyReplicas: 2, currentRevision: a-1, updateRevision: a-2}}`,
			"Healthy statefulset has 2 ready pods"},
		{"stateful set, updating", `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a, generation: 1},
			spec: {replicas: 2, updateStrategy: {type: RollingUpdate}},
			status: {observedGeneration: 1, readyReplicas: 2, updatedReplicas: 1, currentRevision: a-1, updateRevision: a-2}}`,
			"Progressing waiting for statefulset rolling update to complete 1 pods at revision a-2..."},
		{"stateful set, updated", `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a, generation: 1}, spec: {replicas: 2},
			status: {observedGeneration: 1, readyReplicas: 2, currentReplicas: 2, currentRevision: a-2, updateRevision: a-2}}`,
			"Healthy statefulset rolling update complete 2 pods at revision a-2..."},

		{"daemon set, not observed", `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: a, generation: 2}, status: {observedGeneration: 1}}`,
			"Progressing Waiting for rollout to finish: observed daemon set generation less than desired generation"},
		{"daemon set, OnDelete", `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: a, generation: 1}, spec: {updateStrategy: {type: OnDelete}},
			status: {observedGeneration: 1, updatedNumberScheduled: 1, desiredNumberScheduled: 2}}`,
			"Healthy daemon set 1 out of 2 new pods have been updated"},
		{"daemon set, updating", `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: a, generation: 1},
			status: {observedGeneration: 1, updatedNumberScheduled: 1, desiredNumberScheduled: 2}}`,
			`Progressing Waiting for daemon set "a" rollout to finish: 1 out of 2 new pods have been updated...`},
		{"daemon set, not available", `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: a, generation: 1},
			status: {observedGeneration: 1, updatedNumberScheduled: 2, desiredNumberScheduled: 2, numberAvailable: 1}}`,
			`Progressing Waiting for daemon set "a" rollout to finish: 1 of 2 updated pods are available...`},
		{"daemon set, as wanted", `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: a, generation: 1},
			status: {observedGeneration: 1, updatedNumberScheduled: 2, desiredNumberScheduled: 2, numberAvailable: 2}}`, "Healthy"},

		{"replica set, not observed", `{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: a, generation: 2}, status: {observedGeneration: 1}}`,
			"Progressing Waiting for rollout to finish: observed replica set generation less than desired generation"},
		{"replica set, refused", `{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: a, generation: 1}, spec: {replicas: 1},
			status: {observedGeneration: 1, conditions: [{type: ReplicaFailure, status: "True", message: exceeded quota}]}}`, "Degraded exceeded quota"},
		{"replica set, not available", `{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: a, generation: 1}, spec: {replicas: 2},
			status: {observedGeneration: 1, availableReplicas: 1}}`,
			"Progressing Waiting for rollout to finish: 1 out of 2 new replicas are available..."},
		{"replica set, as wanted", `{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: a, generation: 1}, spec: {replicas: 2},
			status: {observedGeneration: 1, availableReplicas: 2}}`, "Healthy"},

		{"service", `{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: ClusterIP}}`, "Healthy"},
		{"service, no address", `{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer}, status: {loadBalancer: {}}}`,
			"Progressing Waiting for the load balancer to have an address"},
		{"service, with an address", `{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer},
			status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}}`, "Healthy"},
		{"ingress, no address", `{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: a}, status: {loadBalancer: {ingress: []}}}`,
			"Progressing Waiting for the load balancer to have an address"},
		{"ingress", `{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: a}, status: {loadBalancer: {ingress: [{hostname: a.example.com}]}}}`, "Healthy"},
		{"ingress, of old", `{apiVersion: extensions/v1beta1, kind: Ingress, metadata: {name: a}}`, "Progressing Waiting for the load balancer to have an address"},
		{"claim, bound", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}, status: {phase: Bound}}`, "Healthy"},
		{"claim, pending", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}, status: {phase: Pending}}`, "Progressing Waiting for a volume"},
		{"claim, lost", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}, status: {phase: Lost}}`, "Degraded Its volume is lost"},
		{"claim, new", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}}`, "Unknown phase"},

		{"job, new", `{apiVersion: batch/v1, kind: Job, metadata: {name: a}}`, "Progressing"},
		{"job, almost", `{apiVersion: batch/v1, kind: Job, metadata: {name: a}, status: {conditions: [{type: SuccessCriteriaMet, status: "True"}]}}`, "Progressing"},
		{"job, complete", `{apiVersion: batch/v1, kind: Job, metadata: {name: a},
			status: {conditions: [{type: SuccessCriteriaMet, status: "True"}, {type: Complete, status: "True", message: Reached expected number of succeeded pods}]}}`,
			"Healthy Reached expected number of succeeded pods"},
		{"job, failing", `{apiVersion: batch/v1, kind: Job, metadata: {name: a}, status: {conditions: [{type: FailureTarget, status: "True"}]}}`, "Progressing"},
		{"job, failed", `{apiVersion: batch/v1, kind: Job, metadata: {name: a},
			status: {conditions: [{type: Failed, status: "True", message: Job has reached the specified backoff limit}]}}`,
			"Degraded Job has reached the specified backoff limit"},
		{"job, suspended", `{apiVersion: batch/v1, kind: Job, metadata: {name: a}, spec: {suspend: true},
			status: {conditions: [{type: Suspended, status: "True", message: Job suspended}]}}`, "Suspended Job suspended"},
		{"job, going on", `{apiVersion: batch/v1, kind: Job, metadata: {name: a},
			status: {conditions: [{type: Suspended, status: "False", message: Job resumed}]}}`, "Progressing"},
		{"job, done after it was suspended", `{apiVersion: batch/v1, kind: Job, metadata: {name: a},
			status: {conditions: [{type: Suspended, status: "False"}, {type: Complete, status: "True"}]}}`, "Healthy"},

		{"cron job, new", `{apiVersion: batch/v1, kind: CronJob, metadata: {name: a}}`, "Progressing Waiting for CronJob"},
		{"cron job, suspended", `{apiVersion: batch/v1, kind: CronJob, metadata: {name: a}, spec: {suspend: true}}`, "Healthy CronJob is Suspended"},
		{"cron job, not yet", `{apiVersion: batch/v1, kind: CronJob, metadata: {name: a}, status: {}}`, "Healthy CronJob has not been scheduled yet"},
		{"cron job, never done", `{apiVersion: batch/v1, kind: CronJob, metadata: {name: a}, status: {lastScheduleTime: "2026-01-01T00:00:00Z"}}`,
			"Healthy The CronJob never completed successfully. It may not be healthy"},
		{"cron job, running", `{apiVersion: batch/v1, kind: CronJob, metadata: {name: a},
			status: {lastScheduleTime: "2026-01-02T00:00:00Z", lastSuccessfulTime: "2026-01-01T00:00:00Z", active: [{name: x}]}}`,
			"Healthy The job is running. Its last execution may not have been successful"},
		{"cron job, failed", `{apiVersion: batch/v1, kind: CronJob, metadata: {name: a},
			status: {lastScheduleTime: "2026-01-02T00:00:00Z", lastSuccessfulTime: "2026-01-01T00:00:09Z"}}`,
			"Degraded CronJob has not completed its last execution successfully"},
		{"cron job, done", `{apiVersion: batch/v1, kind: CronJob, metadata: {name: a},
			status: {lastScheduleTime: "2026-01-02T00:00:00Z", lastSuccessfulTime: "2026-01-02T00:00:09Z"}}`,
			"Healthy CronJob has completed its last execution successfully"},

		{"autoscaler, new", `{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: a}}`, "Progressing Waiting to Autoscale"},
		{"autoscaler, able", `{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: a},
			status: {conditions: [{type: AbleToScale, status: "True", reason: ReadyForNewScale, message: recommended size matches current size}]}}`,
			"Healthy recommended size matches current size"},
		{"autoscaler, limited", `{apiVersion: autoscaling/v2beta2, kind: HorizontalPodAutoscaler, metadata: {name: a},
			status: {conditions: [{type: ScalingLimited, status: "True", reason: TooFewReplicas, message: more than wanted}]}}`, "Healthy more than wanted"},
		{"autoscaler, no target", `{apiVersion: autoscaling/v2beta1, kind: HorizontalPodAutoscaler, metadata: {name: a},
			status: {conditions: [{type: AbleToScale, status: "False", reason: FailedGetScale, message: not found}]}}`, "Degraded not found"},
		{"autoscaler, cannot write", `{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: a},
			status: {conditions: [{type: AbleToScale, status: "False", reason: FailedUpdateScale, message: forbidden}]}}`, "Degraded forbidden"},
		{"autoscaler, no metrics", `{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: a},
			status: {conditions: [{type: ScalingActive, status: "False", reason: FailedGetResourceMetric, message: no metrics}]}}`, "Degraded no metrics"},
		{"autoscaler, ambiguous", `{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: a},
			status: {conditions: [{type: ScalingActive, status: "False", reason: InvalidSelector, message: no selector}]}}`, "Degraded no selector"},
		{"autoscaler, inactive", `{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: a},
			status: {conditions: [{type: ScalingActive, status: "False", reason: ScalingDisabled}]}}`, "Progressing Waiting to Autoscale"},
		{"autoscaler v1, new", `{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: a}}`, "Progressing Waiting to Autoscale"},
		{"autoscaler v1, able", `{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: a, annotations: {
			autoscaling.alpha.kubernetes.io/conditions: '[{"type": "AbleToScale", "status": "True", "message": "fine"}]'}}}`, "Healthy fine"},
		{"autoscaler v1, no target", `{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: a, annotations: {
			autoscaling.alpha.kubernetes.io/conditions: '[{"type": "AbleToScale", "status": "False", "reason": "FailedGetScale", "message": "not found"}]'}}}`,
			"Degraded not found"},
		{"autoscaler v1, malformed", `{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: a, annotations: {
			autoscaling.alpha.kubernetes.io/conditions: '['}}}`,
			"Unknown failed to convert conditions annotation to typed: unexpected end of JSON input"},

		{"API service, new", `{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.example.com}}`, "Progressing Waiting to be processed"},
		{"API service, away", `{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.example.com},
			status: {conditions: [{type: Available, status: "False", reason: MissingEndpoints, message: no endpoints}]}}`, "Progressing MissingEndpoints: no endpoints"},
		{"API service", `{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.example.com},
			status: {conditions: [{type: Available, status: "True", reason: Local, message: local}]}}`, "Healthy Local: local"},

		{"definition, new", `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a}}`, "Progressing Status conditions not found"},
		{"definition, going", `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a},
			status: {conditions: [{type: Terminating, status: "True", message: objects are deleted}]}}`, "Progressing CRD is terminating: objects are deleted"},
		{"definition, names taken", `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a},
			status: {conditions: [{type: NamesAccepted, status: "False", message: in use}]}}`, "Degraded CRD names have not been accepted: in use"},
		{"definition, loose schema", `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a},
			status: {conditions: [{type: NonStructuralSchema, status: "True", message: no type}]}}`, "Degraded Schema violations found: no type"},
		{"definition, installing", `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a},
			status: {conditions: [{type: NamesAccepted, status: "True"}, {type: Established, status: "False", reason: Installing}]}}`,
			"Progressing CRD is not established"},
		{"definition, bad certificate", `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a},
			status: {conditions: [{type: Established, status: "False", reason: InvalidCABundle, message: no PEM}]}}`, "Degraded CRD is not established: no PEM"},
		{"definition", `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a},
			status: {conditions: [{type: NamesAccepted, status: "True"}, {type: Established, status: "True"}]}}`, "Healthy CRD is healthy"},
		{"budget, new", `{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: a}}`, "Progressing Waiting for status"},
		{"budget, used up", `{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: a},
			status: {conditions: [{type: DisruptionAllowed, status: "False", reason: InsufficientPods}]}}`, "Healthy PodDisruptionBudget has InsufficientPods"},
		{"budget, failed", `{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: a},
			status: {conditions: [{type: DisruptionAllowed, status: "False", reason: SyncFailed}]}}`, "Degraded PodDisruptionBudget has SyncFailed"},

		{"config map", `{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}`, "none"},
		{"role", `{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: a}}`, "none"},
		{"config map, going", `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, deletionTimestamp: "2026-01-01T00:00:00Z"}}`, "Progressing Pending deletion"},
		{"anything, held on to", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, deletionTimestamp: "2026-01-01T00:00:00Z", finalizers: [x/y, foregroundDeletion]}}`,
			"Progressing Pending deletion, waiting for finalizers: x/y, foregroundDeletion"},
		{"not to be counted", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, generation: 2, annotations: {argocd.argoproj.io/ignore-healthcheck: "true"}}}`, "none"},
		{"not to be counted, they say", `{apiVersion: v1, kind: Service, metadata: {name: a, annotations: {argocd.argoproj.io/ignore-healthcheck: "yes"}}}`, "Healthy"},
		{"a hook that is not to be counted", `{apiVersion: batch/v1, kind: Job, metadata: {name: a, annotations: {
			argocd.argoproj.io/ignore-healthcheck: "true", argocd.argoproj.io/hook: PreSync}}}`, "Progressing"},
		{"a hook, done and going", `{apiVersion: batch/v1, kind: Job, metadata: {name: a, deletionTimestamp: "2026-01-01T00:00:00Z", finalizers: [argocd.argoproj.io/hook-finalizer]},
			status: {conditions: [{type: Complete, status: "True"}]}}`, "Healthy"},

		// Kinds that Argo CD has no rule for.
		{"custom, no status", `{apiVersion: example.com/v1, kind: Widget, metadata: {name: a, generation: 1}}`, "Healthy"},
		{"custom, a status of its own", `{apiVersion: example.com/v1, kind: Widget, metadata: {name: a}, status: {phase: Fine}}`, "Healthy"},
		{"custom, not ready", `{apiVersion: example.com/v1, kind: Widget, metadata: {name: a, generation: 1},
			status: {observedGeneration: 1, conditions: [{type: Ready, status: "False", message: no licence}]}}`, "Progressing no licence"},
		{"custom, stalled", `{apiVersion: cert-manager.io/v1, kind: Certificate, metadata: {name: a},
			status: {conditions: [{type: Stalled, status: "True", message: gave up}]}}`, "Degraded gave up"},
		{"custom, not observed", `{apiVersion: example.com/v1, kind: Widget, metadata: {name: a, generation: 2}, status: {observedGeneration: 1}}`,
			"Progressing Widget generation is 2, but latest observed generation is 1"},
		{"custom, malformed conditions", `{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: a}, status: {conditions: [yes]}}`,
			"Unknown status.conditions[0] is not an object but bool"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := verdict(rules.Of(object(t, strings.ReplaceAll(c.object, "\t", "")))); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestArgoPods(t *testing.T) {
	rules := health.NewArgo(nil, nil)
	const ready = `{phase: Running, conditions: [{type: Ready, status: "True"}]}`
	for _, c := range []struct{ name, policy, annotations, status, want string }{
		{"ready", "Always", "", ready, "Healthy"},
		{"not ready", "Always", "", `{phase: Running, conditions: [{type: Ready, status: "False"}]}`, "Progressing"},
		{"restarted", "Always", "", `{phase: Running, containerStatuses: [{name: web, lastState: {terminated: {exitCode: 1}}}]}`,
			`Degraded container "web" failed with exit code 1`},
		{"crash looping", "Always", "", `{phase: Running, containerStatuses: [{name: web, state: {waiting: {reason: CrashLoopBackOff, message: back-off 5m0s}}},
			{name: log, state: {waiting: {reason: ErrImagePull}}}, {name: fine, state: {waiting: {reason: ContainerCreating}}}]}`,
			`Degraded back-off 5m0s, container "log" is waiting: ErrImagePull`},
		{"no such setting", "Always", "", `{phase: Pending, containerStatuses: [{name: web, state: {waiting: {reason: CreateContainerConfigError, message: no Secret x}}}]}`,
			"Degraded no Secret x"},
		{"new", "Always", "", `{phase: Pending, message: not scheduled}`, "Progressing not scheduled"},
		{"evicted", "Always", "", `{phase: Failed, message: "The node was low on resource: memory."}`, "Degraded The node was low on resource: memory."},
		{"lost", "Always", "", `{phase: Unknown, message: no word from the node}`, "Unknown no word from the node"},
		{"no status", "Always", "", `{}`, "Unknown"},

		{"running on", "Never", "", ready, "Progressing"},
		{"done", "Never", "", `{phase: Succeeded}`, "Healthy"},
		{"killed", "Never", "", `{phase: Failed, containerStatuses: [{name: web, state: {terminated: {exitCode: 137, reason: OOMKilled}}}]}`, "Degraded OOMKilled"},
		{"failed", "OnFailure", "", `{phase: Failed, initContainerStatuses: [{name: first, state: {terminated: {exitCode: 0}}}],
			containerStatuses: [{name: web, state: {terminated: {exitCode: 2}}}]}`, `Degraded container "web" failed with exit code 2`},
		{"failed with words", "Never", "", `{phase: Failed, containerStatuses: [{name: web, state: {terminated: {exitCode: 2, message: no database}}}]}`, "Degraded no database"},
		{"failed without any", "Never", "", `{phase: Failed}`, "Degraded"},
		{"an image that may come", "OnFailure", "", `{phase: Pending, containerStatuses: [{name: web, state: {waiting: {reason: ImagePullBackOff}}}]}`, "Progressing"},
		{"meant to run on", "Never", `{argocd.argoproj.io/ignore-restart-policy: "true"}`, ready, "Healthy"},
		{"meant to run on, failed", "Never", `{argocd.argoproj.io/ignore-restart-policy: "true"}`, `{phase: Failed}`, "Degraded"},
		{"a hook that wants to run on", "Never", `{argocd.argoproj.io/ignore-restart-policy: "true", helm.sh/hook: pre-install}`, ready, "Progressing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.annotations == "" {
				c.annotations = "{}"
			}
			u := object(t, strings.ReplaceAll(fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: a, annotations: %s}, spec: {restartPolicy: %s}, status: %s}",
				c.annotations, c.policy, c.status), "\t", ""))
			if got := verdict(rules.Of(u)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// An Application in an Application is as healthy as its status says, once that is about what its spec says.
func TestArgoApplications(t *testing.T) {
	const source = `repoURL: https://example.com/a.git, path: web, targetRevision: v2`
	const spec = `source: {` + source + `, helm: {values: "a: 1"}}, destination: {name: in-cluster, namespace: web}, project: default`
	const compared = `comparedTo: {source: {` + source + `, helm: {values: "a: 1"}}, destination: {name: in-cluster, namespace: web}}`
	const old = `comparedTo: {source: {repoURL: https://example.com/a.git, path: web, targetRevision: v1}, destination: {name: in-cluster, namespace: web}}`
	rules := health.NewArgo(nil, nil)
	for _, c := range []struct{ name, object, want string }{
		{"just made", `spec: {` + spec + `}`, "Progressing Waiting to be processed"},
		{"half processed", `spec: {` + spec + `}, status: {sync: {status: Unknown}}`, "Progressing Waiting to be processed"},
		{"healthy", `spec: {` + spec + `}, status: {sync: {status: Synced, ` + compared + `}, health: {status: Healthy}}`, "Healthy"},
		{"degraded", `spec: {` + spec + `}, status: {sync: {status: Synced, ` + compared + `}, health: {status: Degraded, message: Deployment web}}`, "Degraded Deployment web"},
		{"not there", `spec: {` + spec + `}, status: {sync: {status: OutOfSync, ` + compared + `}, health: {status: Missing}}`, "Missing"},
		{"odd", `spec: {` + spec + `}, status: {sync: {status: Synced, ` + compared + `}, health: {status: Splendid}}`, "Unknown its status.health.status is Splendid"},
		{"spec just changed", `spec: {` + spec + `}, status: {sync: {status: Synced, ` + old + `}, health: {status: Healthy}}`,
			"Progressing Waiting for the change of its spec to be processed"},
		{"destination just changed", `spec: {source: {` + source + `, helm: {values: "a: 1"}}, destination: {name: other, namespace: web}},
			status: {sync: {status: Synced, ` + compared + `}, health: {status: Healthy}}`, "Progressing Waiting for the change of its spec to be processed"},
		{"several sources", `spec: {sources: [{` + source + `}, {repoURL: https://example.com/b.git, ref: values}], destination: {name: x}},
			status: {sync: {status: Synced, comparedTo: {source: {repoURL: ""}, sources: [{` + source + `}, {repoURL: https://example.com/b.git, ref: values}],
			destination: {name: x}}}, health: {status: Healthy}}`, "Healthy"},
		{"one source more", `spec: {sources: [{` + source + `}, {repoURL: https://example.com/b.git, ref: values}], destination: {name: x}},
			status: {sync: {status: Synced, comparedTo: {source: {repoURL: ""}, sources: [{` + source + `}],
			destination: {name: x}}}, health: {status: Healthy}}`, "Progressing Waiting for the change of its spec to be processed"},
		{"fields that nobody knows", `spec: {source: {` + source + `, magic: true}, destination: {name: x}},
			status: {sync: {status: Synced, comparedTo: {source: {` + source + `}, destination: {name: x}}}, health: {status: Healthy}}`, "Healthy"},
		{"sync asked for", `spec: {` + spec + `}, operation: {sync: {}}, status: {sync: {status: OutOfSync, ` + compared + `}, health: {status: Healthy}}`,
			"Progressing Waiting for a sync to begin"},
		{"sync under way", `spec: {` + spec + `}, status: {operationState: {phase: Running, message: waiting for a hook}, sync: {status: OutOfSync, ` + compared + `}, health: {status: Degraded}}`,
			"Progressing Waiting for its sync to end: waiting for a hook"},
		{"sync being ended", `spec: {` + spec + `}, status: {operationState: {phase: Terminating}, sync: {status: OutOfSync, ` + compared + `}, health: {status: Healthy}}`,
			"Progressing Waiting for its sync to end"},
		{"sync failed", `spec: {` + spec + `}, status: {operationState: {phase: Failed}, sync: {status: OutOfSync, ` + compared + `}, health: {status: Degraded}}`, "Degraded"},
		{"never synced, by hand", `spec: {` + spec + `}, status: {sync: {status: OutOfSync, ` + compared + `}, health: {status: Healthy}}`, "Healthy"},
		{"never synced, by itself", `spec: {` + spec + `, syncPolicy: {automated: {}}}, status: {sync: {status: OutOfSync, ` + compared + `}, health: {status: Healthy}}`,
			"Progressing Waiting for the sync of its changed spec to begin"},
		{"never synced, automation is off", `spec: {` + spec + `, syncPolicy: {automated: {enabled: false}}},
			status: {sync: {status: OutOfSync, ` + compared + `}, health: {status: Healthy}}`, "Healthy"},
		{"synced before the change", `spec: {` + spec + `, syncPolicy: {automated: {}}}, status: {operationState: {phase: Succeeded, syncResult: {source: {` + source + `}}},
			sync: {status: OutOfSync, ` + compared + `}, health: {status: Healthy}}`, "Progressing Waiting for the sync of its changed spec to begin"},
		{"drifted since", `spec: {` + spec + `, syncPolicy: {automated: {}}}, status: {operationState: {phase: Succeeded, syncResult: {source: {` + source + `, helm: {values: "a: 1"}}}},
			sync: {status: OutOfSync, ` + compared + `}, health: {status: Healthy}}`, "Healthy"},
		{"held", `metadata: {annotations: {keelson.dev/hold: "{}"}}, spec: {` + spec + `, syncPolicy: {automated: {}}},
			status: {sync: {status: OutOfSync, ` + compared + `}, health: {status: Healthy}}`, "Healthy"},
		{"in error", `spec: {` + spec + `, syncPolicy: {automated: {}}}, status: {conditions: [{type: SyncError, message: refused}],
			sync: {status: OutOfSync, ` + compared + `}, health: {status: Healthy}}`, "Healthy"},
		{"going", `metadata: {deletionTimestamp: "2026-01-01T00:00:00Z", finalizers: [resources-finalizer.argocd.argoproj.io]}, status: {health: {status: Healthy}}`,
			"Progressing Pending deletion, waiting for finalizers: resources-finalizer.argocd.argoproj.io"},
		{"malformed", `spec: {source: []}, status: {sync: {status: Synced, ` + compared + `}, health: {status: Healthy}}`,
			"Unknown spec: json: cannot unmarshal array into Go struct field declared.source of type v1alpha1.ApplicationSource"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := object(t, strings.ReplaceAll("{apiVersion: argoproj.io/v1alpha1, kind: Application, "+c.object+"}", "\t", ""))
			if got := verdict(rules.Of(u)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestArgoOwnKinds(t *testing.T) {
	rules := health.NewArgo(nil, nil)
	for _, c := range []struct{ kind, rest, want string }{
		{"ApplicationSet", "", "Progressing Waiting for the status to be reported"},
		{"ApplicationSet", `status: {conditions: [{type: ResourcesUpToDate, status: "True"}, {type: ErrorOccurred, status: "True", message: no such branch}]}`, "Degraded no such branch"},
		{"ApplicationSet", `status: {conditions: [{type: ResourcesUpToDate, status: "False", message: refused}]}`, "Degraded refused"},
		{"ApplicationSet", `status: {conditions: [{type: RolloutProgressing, status: "True", message: step 1}, {type: ResourcesUpToDate, status: "True"}]}`, "Progressing step 1"},
		{"ApplicationSet", `status: {conditions: [{type: ErrorOccurred, status: "False"}, {type: ResourcesUpToDate, status: "True", message: all there}]}`, "Healthy all there"},
		{"Workflow", "", "Progressing"},
		{"Workflow", "status: {phase: Pending}", "Progressing"},
		{"Workflow", "status: {phase: Running, message: step 2}", "Progressing step 2"},
		{"Workflow", "status: {phase: Succeeded}", "Healthy"},
		{"Workflow", "status: {phase: Failed, message: step 3 failed}", "Degraded step 3 failed"},
		{"Workflow", "status: {phase: Error, message: no such template}", "Degraded no such template"},
		{"Workflow", "status: {phase: Odd}", "Unknown"},
		{"CronWorkflow", "", "Healthy CronWorkflow is healthy."},
		{"CronWorkflow", `status: {conditions: [{type: SpecError, status: "True", message: bad schedule}]}`, "Degraded bad schedule"},
		{"CronWorkflow", `status: {conditions: [{type: SubmissionError, status: "True", message: refused}]}`, "Degraded refused"},
		{"CronWorkflow", `status: {conditions: [{type: Completed, status: "True", message: done}]}`, "Healthy done"},
		{"Rollout", "metadata: {generation: 2}", "Progressing Waiting for rollout spec update to be observed"},
		{"Rollout", `metadata: {generation: 2}, status: {observedGeneration: "1", phase: Healthy}`, "Progressing Waiting for rollout spec update to be observed"},
		{"Rollout", `metadata: {generation: 2}, status: {observedGeneration: "2", phase: Healthy}`, "Healthy"},
		{"Rollout", `metadata: {generation: 2}, status: {observedGeneration: "2", phase: Paused, message: CanaryPauseStep}`, "Suspended CanaryPauseStep"},
		{"Rollout", `metadata: {generation: 2}, status: {observedGeneration: "2", phase: Degraded, message: aborted}`, "Degraded aborted"},
		{"Rollout", `metadata: {generation: 2}, status: {observedGeneration: "2", phase: Progressing}`, "Progressing"},
		{"Rollout", `metadata: {generation: 2}, status: {observedGeneration: "2"}`, "Progressing Waiting for rollout to finish: status has not been reconciled."},
		{"Rollout", `metadata: {generation: 2}, status: {observedGeneration: "2", phase: Odd}`, "Unknown its status.phase is Odd"},
		{"Rollout", `metadata: {generation: 2, annotations: {rollout.argoproj.io/workload-generation: "7"}}, spec: {workloadRef: {name: web}},
			status: {observedGeneration: "2", workloadObservedGeneration: "6", phase: Healthy}`, "Progressing Waiting for rollout spec update to be observed"},
		{"Rollout", `metadata: {generation: 2, annotations: {rollout.argoproj.io/workload-generation: "7"}}, spec: {workloadRef: {name: web}},
			status: {observedGeneration: "2", workloadObservedGeneration: "7", phase: Healthy}`, "Healthy"},
	} {
		u := object(t, strings.ReplaceAll("{apiVersion: argoproj.io/v1alpha1, kind: "+c.kind+", "+c.rest+"}", "\t", ""))
		if got := verdict(rules.Of(u)); got != c.want {
			t.Errorf("%s %s\ngot  %s\nwant %s", c.kind, c.rest, got, c.want)
		}
	}
}

// said is an Eval that answers at once.
func said(v delivery.HealthVerdict) health.Eval {
	return func(delivery.HealthScript, *unstructured.Unstructured) delivery.HealthVerdict { return v }
}

func TestArgoScripts(t *testing.T) {
	const going = `{apiVersion: v1, kind: Service, metadata: {name: a, deletionTimestamp: "2026-01-01T00:00:00Z"}}`
	degraded := delivery.Health{Status: delivery.Degraded, Message: "no"}
	all := []delivery.HealthScript{{Kinds: "*", Lua: "x"}}
	for _, c := range []struct {
		name, object string
		scripts      []delivery.HealthScript
		eval         health.Eval
		want         string
	}{
		{"it is asked first", `{apiVersion: v1, kind: Service, metadata: {name: a}}`, all, said(delivery.HealthVerdict{Health: degraded}), "Degraded no"},
		{"it says nothing", `{apiVersion: v1, kind: Service, metadata: {name: a}}`, all, said(delivery.HealthVerdict{}), "Healthy"},
		{"of a kind without any rule it says nothing", `{apiVersion: v1, kind: Secret, metadata: {name: a}}`, all, said(delivery.HealthVerdict{}), "none"},
		{"going", going, all, said(delivery.HealthVerdict{Health: degraded}), "Progressing Pending deletion"},
		{"going, and it knows why", going, all, said(delivery.HealthVerdict{Health: degraded, Deletion: "releasing"}), "Degraded releasing"},
		{"going, and it knows only why", going, all, said(delivery.HealthVerdict{Deletion: "releasing"}), "Progressing releasing"},
		{"stopped", going, all, said(delivery.HealthVerdict{Health: delivery.Health{Status: delivery.UnknownHealth, Message: "stopped"}, Again: 1}), "Unknown stopped"},
		{"nobody to ask", `{apiVersion: v1, kind: Service, metadata: {name: a}}`, all, nil, "Unknown scripts are not run here"},
		{"not asked", `{apiVersion: v1, kind: Service, metadata: {name: a, annotations: {argocd.argoproj.io/ignore-healthcheck: "true"}}}`, all, nil, "none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := verdict(health.NewArgo(c.scripts, c.eval).Of(object(t, c.object))); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestArgoScriptOf asks which script is about a kind.
func TestArgoScriptOf(t *testing.T) {
	var scripts []delivery.HealthScript
	for _, kinds := range []string{"*", "*.example.com/*", "a.example.com/Widget", "Pod", "apps/*", "ec[2-3].aws/?*", "ec2.aws/V[", "*/*"} {
		scripts = append(scripts, delivery.HealthScript{Kinds: kinds, Lua: kinds})
	}
	rules := health.NewArgo(scripts, func(s delivery.HealthScript, _ *unstructured.Unstructured) delivery.HealthVerdict {
		return delivery.HealthVerdict{Health: delivery.Health{Status: delivery.Healthy, Message: s.Kinds}}
	})
	for _, c := range []struct {
		gk   schema.GroupKind
		want string
	}{
		{schema.GroupKind{Group: "a.example.com", Kind: "Widget"}, "a.example.com/Widget"},
		{schema.GroupKind{Group: "a.example.com", Kind: "Gadget"}, "*.example.com/*"},
		{schema.GroupKind{Group: "b.c.example.com", Kind: "Gadget"}, "*.example.com/*"},
		{schema.GroupKind{Group: "example.com", Kind: "Gadget"}, "*/*"},
		{schema.GroupKind{Kind: "Pod"}, "Pod"},
		{schema.GroupKind{Kind: "Secret"}, "*"},
		{schema.GroupKind{Group: "metrics", Kind: "Pod"}, "*/*"},
		{schema.GroupKind{Group: "apps", Kind: "Deployment"}, "apps/*"},
		{schema.GroupKind{Group: "ec2.aws", Kind: "VPC"}, "ec[2-3].aws/?*"},
	} {
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(c.gk.WithVersion("v1"))
		if got := rules.Of(u).Message; got != c.want {
			t.Errorf("%s is judged by %q, want %q", c.gk, got, c.want)
		}
	}
}

func TestArgoRulesCompared(t *testing.T) {
	script := func(kinds, lua string) delivery.HealthScript { return delivery.HealthScript{Kinds: kinds, Lua: lua} }
	one := health.NewArgo([]delivery.HealthScript{script("a/B", "x"), script("c/D", "x")}, nil)
	again := health.NewArgo([]delivery.HealthScript{script("c/D", "x"), script("a/B", "x")}, nil)
	other := health.NewArgo([]delivery.HealthScript{script("a/B", "y"), script("c/D", "x")}, nil)
	cel, err := health.Compile([]delivery.HealthExpr{{Kind: "ConfigMap", Current: "true"}})
	if err != nil {
		t.Fatal(err)
	}
	b, d, configMap := schema.GroupKind{Group: "a", Kind: "B"}, schema.GroupKind{Group: "c", Kind: "D"}, schema.GroupKind{Kind: "ConfigMap"}
	if !one.Same(again) || one.Same(other) || one.Same(nil) || one.Same(cel) || cel.Same(one) {
		t.Error("Same")
	}
	if one.Alike(other, b) || !one.Alike(other, d) || !one.Alike(again, b) || one.Alike(nil, d) || one.Alike(cel, configMap) || (*health.Rules)(nil).Alike(cel, configMap) {
		t.Error("Alike")
	}
	if !one.Kind(configMap) || !(*health.Rules)(nil).Alike(cel, d) {
		t.Error("Kind")
	}
}

func TestHookPhase(t *testing.T) {
	for status, want := range map[delivery.HealthStatus]delivery.OperationPhase{
		"": delivery.OperationSucceeded, delivery.Healthy: delivery.OperationSucceeded,
		delivery.Degraded: delivery.OperationFailed, delivery.UnknownHealth: delivery.OperationFailed,
		delivery.Progressing: delivery.OperationRunning, delivery.Suspended: delivery.OperationRunning, delivery.Missing: delivery.OperationRunning,
	} {
		if got := health.HookPhase(delivery.Health{Status: status}); got != want {
			t.Errorf("a hook that is %q is %s, want %s", status, got, want)
		}
	}
}

func TestAggregateArgo(t *testing.T) {
	part := func(name string, status delivery.HealthStatus) health.Part {
		return health.Part{Ref: delivery.Ref{Kind: "Widget", Name: name}, Health: delivery.Health{Status: status, Message: "so"}}
	}
	for _, c := range []struct {
		parts []health.Part
		want  string
	}{
		{nil, "Healthy"},
		{[]health.Part{part("a", delivery.Healthy), part("b", "")}, "Healthy"},
		{[]health.Part{part("a", delivery.Suspended), part("b", delivery.Healthy)}, "Suspended Widget/a: so"},
		{[]health.Part{part("a", delivery.Suspended), part("b", delivery.Progressing), part("c", delivery.Progressing)}, "Progressing Widget/b: so; Widget/c: so"},
		{[]health.Part{part("a", delivery.Missing), part("b", delivery.Progressing)}, "Missing Widget/a: so"},
		{[]health.Part{part("a", delivery.Missing), part("b", delivery.Degraded)}, "Degraded Widget/b: so"},
		{[]health.Part{part("a", delivery.UnknownHealth), part("b", delivery.Degraded)}, "Unknown Widget/a: so"},
	} {
		if got := verdict(health.AggregateArgo(c.parts)); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestBrief(t *testing.T) {
	said := delivery.Health{Status: delivery.Healthy, Message: "fine"}
	if got := health.Brief(object(t, `{apiVersion: batch/v1, kind: Job}`), said); got != said {
		t.Errorf("of a Job %+v is kept", got)
	}
	if got := health.Brief(object(t, `{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler}`), said); got.Message != "" {
		t.Errorf("of an autoscaler %+v is kept", got)
	}
}

// FuzzArgo has any object judged: no field of whatever type makes a rule panic.
func FuzzArgo(f *testing.F) {
	f.Add(`{"apiVersion": "apps/v1", "kind": "Deployment", "spec": [], "status": {"conditions": {}, "replicas": 1.5}}`)
	f.Add(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"annotations": 1, "finalizers": [1]}, "status": {"phase": "Failed", "containerStatuses": [{"state": {"terminated": 1}}]}}`)
	f.Add(`{"apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "spec": {"source": 1}, "status": {"health": {"status": "Healthy"}, "sync": {"status": "OutOfSync"}}}`)
	f.Add(`{"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"deletionTimestamp": "x"}, "status": {"active": 1, "lastScheduleTime": "a", "lastSuccessfulTime": "b"}}`)
	rules := health.NewArgo(nil, nil)
	f.Fuzz(func(t *testing.T, text string) {
		u := &unstructured.Unstructured{}
		if u.UnmarshalJSON([]byte(text)) == nil {
			rules.Of(u)
		}
	})
}

// BenchmarkArgo judges 1,000 objects.
func BenchmarkArgo(b *testing.B) {
	rules := health.NewArgo(nil, nil)
	deployment := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "a", "generation": int64(1)}, "spec": map[string]any{"replicas": int64(3)},
		"status": map[string]any{
			"observedGeneration": int64(1), "replicas": int64(3), "updatedReplicas": int64(3), "availableReplicas": int64(3),
			"conditions": []any{map[string]any{"type": "Available", "status": "True"}, map[string]any{"type": "Progressing", "status": "True"}},
		},
	}}
	for b.Loop() {
		for range 1000 {
			rules.Of(deployment)
		}
	}
}
