package rollout

import (
	"cmp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/keelson/internal/delivery"
)

// pod is a Pod without what does not matter here.
type pod struct {
	metav1.ObjectMeta
	Status corev1.PodStatus
	health delivery.Health // by health.OfPod
	probed map[string]bool // the containers that tell themselves when they are ready
}

// containers are all of a Pod, in the order in which they start.
func (p *pod) containers() []corev1.ContainerStatus {
	return slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses)
}

// owner is what controls an object; empty: nothing does.
func owner(m metav1.Object) types.UID {
	if ref := metav1.GetControllerOf(m); ref != nil {
		return ref.UID
	}
	return ""
}

// replicaSet is what matters of a ReplicaSet.
type replicaSet struct {
	uid, owner  types.UID
	name        string
	annotations map[string]string
}

// revisions are the annotations by which a ReplicaSet is of the same revision as what controls it.
var revisions = []string{"deployment.kubernetes.io/revision", "rollout.argoproj.io/revision"}

// newest gives the ReplicaSet of an object's newest revision; nil: it is not there yet.
func newest(u *unstructured.Unstructured, sets []*replicaSet) *replicaSet {
	var out *replicaSet
	for _, rs := range sets {
		if rs.owner != u.GetUID() {
			continue
		}
		for _, name := range revisions {
			if have := u.GetAnnotations()[name]; have != "" && rs.annotations[name] == have {
				out = rs
			}
		}
	}
	return out
}

// newestPods gives the Pods that belong to the newest revision of an object; none where it is not known yet which they are.
func newestPods(u *unstructured.Unstructured, sets []*replicaSet, pods []*pod) []*pod {
	gk := u.GroupVersionKind().GroupKind()
	if gk == (schema.GroupKind{Kind: "Pod"}) {
		return slices.DeleteFunc(slices.Clone(pods), func(p *pod) bool { return p.UID != u.GetUID() })
	}
	observed, told, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration")
	if told && observed < u.GetGeneration() {
		return nil
	}
	parent, label, want := u.GetUID(), "", ""
	switch gk {
	case schema.GroupKind{Group: "apps", Kind: "Deployment"}, schema.GroupKind{Group: "argoproj.io", Kind: "Rollout"}:
		rs := newest(u, sets)
		if rs == nil {
			return nil
		}
		parent = rs.uid
	case schema.GroupKind{Group: "apps", Kind: "StatefulSet"}:
		label = "controller-revision-hash"
		want, _, _ = unstructured.NestedString(u.Object, "status", "updateRevision")
	case schema.GroupKind{Group: "apps", Kind: "DaemonSet"}:
		label, want = "pod-template-generation", u.GetAnnotations()["deprecated.daemonset.template.generation"]
	}
	var out []*pod
	for _, p := range pods {
		if owner(p) == parent && (want == "" || p.Labels[label] == want) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *pod) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// crashes is how often a container has to have been restarted to be given up: what it needs may have come a moment after it.
const crashes = 2

// hopeless are why a container that waits will go on waiting until somebody changes something, with how long that has to last: what was
// written a moment later, as a ConfigMap, is found at the kubelet's next try.
var hopeless = map[string]time.Duration{
	"ImagePullBackOff": 0, "InvalidImageName": 0, "ErrImageNeverPull": 0, "CreateContainerConfigError": 20 * time.Second, "CreateContainerError": 20 * time.Second,
}

// broken gives a Pod of the newest revision that cannot get healthy by itself; nil: there is none. A Pod that was there before the job may
// be about to find what it lacked: its troubles have to last, and those of an app's objects do not count, as they may be what the commit mends.
func (s subject) broken() (*pod, verdict) {
	for _, p := range s.pods {
		old := p.CreationTimestamp.Time.Before(s.began.Truncate(time.Second))
		if p.DeletionTimestamp != nil || old && s.beside {
			continue
		}
		for _, c := range p.containers() {
			if c.State.Waiting == nil {
				continue
			}
			reason := c.State.Waiting.Reason
			hold, counts := hopeless[reason]
			if reason == "CrashLoopBackOff" && s.kindIn().resource.Group != "batch" { // a Job says itself when it gives up
				counts = s.restarts[container{p.UID, c.Name}] >= crashes
			}
			if !counts {
				continue
			}
			if old && reason != "CrashLoopBackOff" {
				hold = staleHold
			}
			return p, verdict{
				phase: failed, text: "Pod " + p.Name + ": " + p.health.Message, reason: reason + " " + c.Name, hold: hold, advice: adviceOf(reason, p.health.Message),
			}
		}
	}
	return nil, verdict{}
}

// steady is how long a container without a readiness probe has to run to count: it is ready to Kubernetes from its first moment on, also
// if its program ends the next.
const steady = 5 * time.Second

// steadiness is how long the containers of Pods run already, as far as they do not tell themselves when they are ready; the youngest
// counts. Those that began before the job are not looked at. since tells since when a container is known to run.
func steadiness(pods []*pod, began, now time.Time, since func(c container, at time.Time) time.Time) time.Duration {
	least := steady
	for _, p := range pods {
		for _, c := range p.Status.ContainerStatuses {
			if c.State.Running == nil || p.DeletionTimestamp != nil || p.probed[c.Name] || c.State.Running.StartedAt.Time.Before(began.Truncate(time.Second)) {
				continue
			}
			at := c.State.Running.StartedAt.Time
			// The clock of a node may be another one.
			least = min(least, max(now.Sub(at), now.Sub(since(container{p.UID, c.Name}, at))))
		}
	}
	return least
}

// stumbling gives a Pod whose container has ended in error, and is started again perhaps; nil: none has.
func (s subject) stumbling() *pod {
	for _, p := range s.pods {
		old := p.CreationTimestamp.Time.Before(s.began.Truncate(time.Second))
		if !old && p.DeletionTimestamp == nil && p.health.Status == delivery.Degraded && p.Status.Phase != corev1.PodFailed {
			return p
		}
	}
	return nil
}

// aside says what hinders Pods while one waits for them: " (Pod shop-5d9c7b-x2x: container web: ErrImagePull)".
func aside(pods []*pod) string {
	for _, p := range pods {
		for _, c := range p.containers() {
			if w := c.State.Waiting; w != nil && w.Reason != "" && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
				return " (Pod " + p.Name + ": container " + c.Name + ": " + w.Reason + ")"
			}
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason != "" {
				return " (Pod " + p.Name + ": " + c.Reason + ")"
			}
		}
	}
	return ""
}

// adviceOf says what to do about a failure.
func adviceOf(reason, message string) string {
	switch {
	case strings.Contains(reason, "Image"):
		return "see to it that the image is there under this name, and that the cluster may pull it (imagePullSecrets)"
	case strings.HasPrefix(reason, "CreateContainer"):
		return "the Pod names a ConfigMap, a Secret, a key or a command that is not there: add it, or correct the name"
	case reason == "CrashLoopBackOff":
		return "what the container said last is above: mend the program, its arguments or its configuration"
	case strings.Contains(message, "ProgressDeadlineExceeded") || strings.Contains(message, "Progress deadline"):
		return "the Pods and events above tell what hinders them; spec.progressDeadlineSeconds is how long they may take"
	}
	return "what is wrong is told above; correct it and run the job again"
}
