package rollout

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/health"
	"keelson.dev/keelson/internal/kube/proxy"
)

var began = time.Date(2026, 11, 22, 7, 0, 0, 0, time.UTC)

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	if text == "" {
		return nil
	}
	u := &unstructured.Unstructured{}
	js, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = u.UnmarshalJSON(js)
	}
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return u
}

// shape is a Pod in few words.
type shape struct {
	name      string
	created   time.Time
	waiting   string // reason and message of its container
	restarts  int32
	unplaced  string
	parent    types.UID
	labels    map[string]string
	deleting  bool
	exitCode  int32
	container string
}

func (s shape) pod(t *testing.T) *pod {
	t.Helper()
	yes := true
	p := corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: s.name, UID: types.UID(s.name), Labels: s.labels, CreationTimestamp: metav1.NewTime(s.created)},
	}
	if s.parent != "" {
		p.OwnerReferences = []metav1.OwnerReference{{UID: s.parent, Controller: &yes}}
	}
	if s.deleting {
		p.DeletionTimestamp = &metav1.Time{Time: s.created}
	}
	if s.container == "" {
		s.container = "web"
	}
	p.Status.Phase = corev1.PodPending
	if s.unplaced != "" {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: s.unplaced}}
	} else {
		c := corev1.ContainerStatus{Name: s.container, RestartCount: s.restarts}
		reason, message, _ := strings.Cut(s.waiting, ": ")
		c.State.Waiting = &corev1.ContainerStateWaiting{Reason: reason, Message: message}
		if s.exitCode != 0 {
			c.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: s.exitCode, Reason: "Error"}
		}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{c}
	}
	u := &unstructured.Unstructured{}
	var err error
	if u.Object, err = runtime.DefaultUnstructuredConverter.ToUnstructured(&p); err != nil {
		t.Fatal(err)
	}
	return &pod{ObjectMeta: p.ObjectMeta, Status: p.Status, health: health.OfPod(u)}
}

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, namespace: web, uid: d, generation: 2}
spec: {replicas: 3}
`

func deployments(resource string) target {
	group := "apps"
	if resource == "jobs" {
		group = "batch"
	}
	return target{resource: schema.GroupVersionResource{Group: group, Version: "v1", Resource: resource}, namespace: "web", name: "shop"}
}

const ready = `status: {observedGeneration: 2, replicas: 3, updatedReplicas: 3, readyReplicas: 3, availableReplicas: 3, conditions: [{type: Available, status: "True"}, {type: Progressing, status: "True", reason: NewReplicaSetAvailable}]}`

// TestDecide holds the verdicts on objects that a job wrote.
func TestDecide(t *testing.T) {
	young, old := began.Add(time.Minute), began.Add(-time.Hour)
	for _, test := range []struct {
		name   string
		target target
		live   string
		pods   []shape
		counts int32 // restarts since the job began
		change func(*subject)
		want   string // phase, text, and for how long a failure has to last
	}{
		{name: "all there", live: deployment + ready, want: "done: is healthy"},
		{name: "not observed yet: the old state is not taken for the new one", live: deployment + strings.Replace(ready, "observedGeneration: 2", "observedGeneration: 1", 1),
			pods: []shape{{name: "shop-1", created: young, waiting: "ErrImagePull"}},
			want: "waiting: Deployment generation is 2, but latest observed generation is 1 (Pod shop-1: container web: ErrImagePull)"},
		{name: "some available", live: deployment + `status: {observedGeneration: 2, replicas: 3, updatedReplicas: 3, readyReplicas: 1, availableReplicas: 1}`,
			want: "waiting: 1 of 3 updated replicas available"},
		{name: "some updated", live: deployment + `status: {observedGeneration: 2, replicas: 3, updatedReplicas: 1, readyReplicas: 3, availableReplicas: 3}`,
			pods: []shape{{name: "shop-1", created: young, unplaced: "0/1 nodes are available"}},
			want: "waiting: 1 of 3 replicas updated (Pod shop-1: Unschedulable)"},
		{name: "old ones left", live: deployment + `status: {observedGeneration: 2, replicas: 4, updatedReplicas: 3, readyReplicas: 4, availableReplicas: 4}`,
			want: "waiting: 1 old replica still there"},
		{name: "deadline", live: deployment + `status: {observedGeneration: 2, replicas: 3, updatedReplicas: 1, conditions: [{type: Progressing, status: "False", reason: ProgressDeadlineExceeded, lastUpdateTime: "2026-11-22T07:05:00Z"}]}`,
			want: "failed: Progress deadline exceeded"},
		{name: "a deadline of before", live: deployment + `status: {observedGeneration: 2, replicas: 3, updatedReplicas: 1, conditions: [{type: Progressing, status: "False", reason: ProgressDeadlineExceeded, lastUpdateTime: "2026-11-22T06:59:00Z"}]}`,
			want: "failed: Progress deadline exceeded, for 1m0s"},
		{name: "paused", live: strings.Replace(deployment, "replicas: 3", "replicas: 3, paused: true", 1) + ready, want: "done!: is paused: it is not waited for"},
		{name: "an image that is not there", live: deployment + ready, pods: []shape{{name: "shop-1", created: young, waiting: "ImagePullBackOff: Back-off pulling image \"shop:2\""}},
			want: `failed: Pod shop-1: container web: ImagePullBackOff: Back-off pulling image "shop:2"`},
		{name: "an image that was not there before", live: deployment + ready, pods: []shape{{name: "shop-1", created: old, waiting: "ImagePullBackOff: no"}},
			want: `failed: Pod shop-1: container web: ImagePullBackOff: no, for 1m0s`},
		{name: "a first try", live: deployment + ready, pods: []shape{{name: "shop-1", created: young, waiting: "ErrImagePull: no"}}, want: "waiting: Pod shop-1: container web: ErrImagePull: no"},
		{name: "a Pod that goes", live: deployment + ready, pods: []shape{{name: "shop-1", created: young, deleting: true, waiting: "ImagePullBackOff: no"}}, want: "done: is healthy"},
		{name: "configuration that may come", live: deployment + ready, pods: []shape{{name: "shop-1", created: young, waiting: `CreateContainerConfigError: secret "x" not found`}},
			want: `failed: Pod shop-1: container web: CreateContainerConfigError: secret "x" not found, for 20s`},
		{name: "a first crash", live: deployment + `status: {observedGeneration: 2, replicas: 3, updatedReplicas: 3}`, counts: 1,
			pods: []shape{{name: "shop-1", created: young, waiting: "CrashLoopBackOff: back-off", exitCode: 3, restarts: 1}},
			want: "waiting: 0 of 3 updated replicas available (Pod shop-1: container web: CrashLoopBackOff)"},
		{name: "crashes", live: deployment + ready, counts: 2,
			pods: []shape{{name: "shop-1", created: young, waiting: "CrashLoopBackOff: back-off", exitCode: 3, restarts: 2}},
			want: "failed: Pod shop-1: container web: CrashLoopBackOff: back-off; it ended last with Error (exit code 3)"},
		{name: "crashes of before", live: deployment + `status: {observedGeneration: 2, replicas: 3, updatedReplicas: 3}`, counts: 0,
			pods: []shape{{name: "shop-1", created: old, waiting: "CrashLoopBackOff: back-off", exitCode: 3, restarts: 20}},
			want: "waiting: 0 of 3 updated replicas available (Pod shop-1: container web: CrashLoopBackOff)"},
		{name: "just started", live: deployment + ready, change: func(s *subject) { s.steady = 2 * time.Second }, want: "waiting: its containers have no readiness probe: they have to run for 5s"},
		{name: "ready for a moment", live: deployment + ready, counts: 1, pods: []shape{{name: "shop-1", created: young, waiting: "CrashLoopBackOff: back-off", exitCode: 3, restarts: 1}},
			want: "waiting: Pod shop-1: container web: CrashLoopBackOff: back-off; it ended last with Error (exit code 3)"},
		{name: "gone", want: "failed: it is not there any more: something has deleted it since this job wrote it"},
		{name: "gone with others", change: func(s *subject) { s.swept = true }, want: "done: is gone"},
		{name: "deleted", change: func(s *subject) { s.gone = true }, want: "done: is gone"},
		{name: "deleted, and made anew by somebody", live: deployment, change: func(s *subject) { s.gone, s.uid = true, "before" }, want: "done: is gone"},
		{name: "going", live: strings.Replace(deployment, "uid: d", "uid: d, finalizers: [a/b]", 1), change: func(s *subject) { s.gone, s.uid, s.waited = true, "d", 29*time.Second },
			want: "waiting: is being deleted (it waits for a/b)"},
		{name: "staying", live: strings.Replace(deployment, "uid: d", "uid: d, finalizers: [a/b]", 1), change: func(s *subject) { s.gone, s.uid, s.waited = true, "d", 30*time.Second },
			want: "done!: is still there 30s after it was deleted (it waits for a/b): it is not waited for"},
		{name: "a Job that is over", target: deployments("jobs"), live: `{apiVersion: batch/v1, kind: Job, metadata: {name: shop}, status: {conditions: [{type: Complete, status: "True"}]}}`, want: "done: is healthy"},
		{name: "a Job that failed", target: deployments("jobs"), live: `{apiVersion: batch/v1, kind: Job, metadata: {name: shop}, status: {failed: 1, conditions: [{type: Failed, status: "True", reason: BackoffLimitExceeded}]}}`,
			want: "failed: the Job failed, Pods failed: 1: BackoffLimitExceeded"},
		{name: "a Job says itself when it gives up", target: deployments("jobs"), counts: 5, live: `{apiVersion: batch/v1, kind: Job, metadata: {name: shop}, status: {startTime: "2026-11-22T07:00:01Z", active: 1}}`,
			pods: []shape{{name: "shop-1", created: young, waiting: "CrashLoopBackOff: back-off", restarts: 5}},
			want: "waiting: the Job is running, Pods: 1 active, 0 succeeded, 0 failed (Pod shop-1: container web: CrashLoopBackOff)"},
		{name: "a Job that is gone by itself", target: deployments("jobs"), want: "done: is gone"},
		{name: "of an app that waits itself", live: deployment + "status: {}", change: func(s *subject) { s.beside = true }, want: "done: "},
		{name: "a Pod of such an app from before the commit", live: deployment + "status: {}", counts: 9, change: func(s *subject) { s.beside = true },
			pods: []shape{{name: "shop-1", created: old, waiting: "CrashLoopBackOff: back-off", restarts: 9}}, want: "done: "},
		{name: "what must not be read", change: func(s *subject) { s.refused = true }, want: "done: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := subject{target: test.target, live: object(t, test.live), began: began, restarts: map[container]int32{}, steady: steady}
			if s.name == "" {
				s.target = deployments("deployments")
			}
			for _, p := range test.pods {
				one := p.pod(t)
				s.pods = append(s.pods, one)
				s.restarts[container{one.UID, "web"}] = test.counts
			}
			if test.change != nil {
				test.change(&s)
			}
			if got := written(decide(s)); got != test.want {
				t.Errorf("have %s\nwant %s", got, test.want)
			}
		})
	}
}

// written is a verdict as a text.
func written(v verdict) string {
	out := map[phase]string{waiting: "waiting", done: "done", failed: "failed"}[v.phase]
	if v.remark {
		out += "!"
	}
	out += ": " + v.text
	if v.hold > 0 {
		out += ", for " + v.hold.String()
	}
	if v.phase == failed && (v.reason == "" || v.advice == "") {
		out += " (says neither what failed nor what to do)"
	}
	return out
}

// TestNewestPods holds whose Pods count.
func TestNewestPods(t *testing.T) {
	pods := []*pod{
		shape{name: "new", parent: "rs2", labels: map[string]string{"controller-revision-hash": "h2", "pod-template-generation": "2"}}.pod(t),
		shape{name: "old", parent: "rs1"}.pod(t),
		shape{name: "set-0", parent: "d", labels: map[string]string{"controller-revision-hash": "h2", "pod-template-generation": "2"}}.pod(t),
		shape{name: "set-1", parent: "d", labels: map[string]string{"controller-revision-hash": "h1", "pod-template-generation": "1"}}.pod(t),
		shape{name: "d"}.pod(t),
	}
	sets := []*replicaSet{
		{uid: "rs1", owner: "d", annotations: map[string]string{"deployment.kubernetes.io/revision": "1"}},
		{uid: "rs2", owner: "d", annotations: map[string]string{"deployment.kubernetes.io/revision": "2"}},
		{uid: "rs3", owner: "other", annotations: map[string]string{"deployment.kubernetes.io/revision": "2"}},
	}
	for _, test := range []struct{ name, live, want string }{
		{"a Deployment", `{apiVersion: apps/v1, kind: Deployment, metadata: {uid: d, generation: 2, annotations: {deployment.kubernetes.io/revision: "2"}}, status: {observedGeneration: 2}}`, "new"},
		{"one that was not observed", `{apiVersion: apps/v1, kind: Deployment, metadata: {uid: d, generation: 3, annotations: {deployment.kubernetes.io/revision: "2"}}, status: {observedGeneration: 2}}`, ""},
		{"one without a ReplicaSet", `{apiVersion: apps/v1, kind: Deployment, metadata: {uid: d, generation: 2, annotations: {deployment.kubernetes.io/revision: "3"}}, status: {observedGeneration: 2}}`, ""},
		{"a StatefulSet", `{apiVersion: apps/v1, kind: StatefulSet, metadata: {uid: d}, status: {updateRevision: h2}}`, "set-0"},
		{"a DaemonSet", `{apiVersion: apps/v1, kind: DaemonSet, metadata: {uid: d, annotations: {deprecated.daemonset.template.generation: "1"}}}`, "set-1"},
		{"a Job", `{apiVersion: batch/v1, kind: Job, metadata: {uid: d}}`, "set-0 set-1"},
		{"a ReplicaSet", `{apiVersion: apps/v1, kind: ReplicaSet, metadata: {uid: rs1}}`, "old"},
		{"a Pod", `{apiVersion: v1, kind: Pod, metadata: {uid: d}}`, "d"},
	} {
		var names []string
		for _, p := range newestPods(object(t, test.live), sets, pods) {
			names = append(names, p.Name)
		}
		if got := strings.Join(names, " "); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

// TestTargetsOf holds what is followed of what a job wrote.
func TestTargetsOf(t *testing.T) {
	w := func(verb, group, resource, namespace, name, subresource string) proxy.Written {
		return proxy.Written{Verb: verb, Group: group, Version: "v1", Resource: resource, Namespace: namespace, Name: name, Subresource: subresource}
	}
	got, swept := targetsOf([]proxy.Written{
		w("create", "", "secrets", "web", "sh.helm.release.v1.shop.v1", ""),
		w("patch", "apps", "deployments", "web", "shop", ""),
		w("create", "", "services", "web", "shop", ""),
		w("create", "rbac.authorization.k8s.io", "roles", "web", "shop", ""),
		w("patch", "apps", "deployments", "web", "canary", "scale"),
		w("patch", "apps", "deployments", "web", "shop", "status"),
		w("delete", "apps", "deployments", "web", "blue", ""),
		w("delete", "", "pods", "web", "x", ""),
		w("create", "", "pods", "web", "y", "eviction"),
		w("patch", "apps", "deployments", "web", "shop", ""),
		w("deletecollection", "batch", "jobs", "web", "", ""),
		w("create", "apps", "deployments", "review", "a", ""),
		w("delete", "", "namespaces", "", "review", ""),
		w("create", "", "events", "web", "e", ""),
		w("delete", "apps", "statefulsets", "web", "db", ""),
		w("create", "apps", "statefulsets", "web", "db", ""),
	})
	var names []string
	for _, g := range got {
		name := g.long()
		if g.gone {
			name += " gone"
		}
		names = append(names, name)
	}
	want := []string{
		"service/shop in namespace web", "deployment/canary in namespace web", "deployment/blue in namespace web gone", "pod/x in namespace web gone",
		"deployment/shop in namespace web", "deployment/a in namespace review gone", "statefulset/db in namespace web",
	}
	if !slices.Equal(names, want) {
		t.Errorf("have %q\nwant %q", names, want)
	}
	if len(swept) != 1 || !swept[kindIn{schema.GroupResource{Group: "batch", Resource: "jobs"}, "web"}] {
		t.Errorf("swept %v", swept)
	}
}
