package rollout

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/health"
)

// phase is how far an object has come.
type phase int

const (
	waiting phase = iota // it is under way
	done                 // there is nothing to wait for
	failed               // it will not get healthy by itself
)

// verdict is what there is to say of an object.
type verdict struct {
	phase  phase
	text   string        // "1 of 3 updated replicas available"
	reason string        // of what failed: which failure it is, whatever numbers the text has
	hold   time.Duration // how long a failure has to last to count
	pod    *pod          // that failed
	advice string        // what to do about a failure
	remark bool          // done, but not as one may have hoped
	due    time.Duration // of what is waiting: when it will be decided anew without any news; 0: never
}

// subject is all that the verdict on an object depends on.
type subject struct {
	target
	live     *unstructured.Unstructured // nil: it is not there
	pods     []*pod                     // of its newest revision
	restarts map[container]int32        // of their containers since the job began

	steady  time.Duration // how long they run, where they do not tell when they are ready
	began   time.Time     // the job
	waited  time.Duration // since the job has ended
	refused bool          // its kind must not be read
	swept   bool          // the job deleted a number of objects of its kind

	source, chart *unstructured.Unstructured   // of an app; nil: it has none, or that is not there
	has           func(revision string) bool   // whether a revision has the job's commits
	version       func(revision string) string // of the app's chart
}

const (
	// goneLimit is how long one waits for an object to go.
	goneLimit = 30 * time.Second
	// staleHold is how long a verdict of before the job has to last: what the job wrote may be about to change it.
	staleHold = time.Minute
)

func healthy() verdict { return verdict{phase: done, text: "is healthy"} }

func remarked(format string, args ...any) verdict {
	return verdict{phase: done, remark: true, text: fmt.Sprintf(format, args...)}
}

func underWay(format string, args ...any) verdict {
	return verdict{phase: waiting, text: fmt.Sprintf(format, args...)}
}

// decide gives the verdict on an object.
func decide(s subject) verdict {
	switch {
	case s.refused:
		return verdict{phase: done} // that was said
	case s.gone:
		return s.going()
	case s.live == nil:
		return s.missing()
	case s.app != nil:
		return s.ofApp()
	case s.live.GetDeletionTimestamp() != nil && !s.beside:
		return underWay("is being deleted%s", finalizers(s.live))
	}
	if p, why := s.broken(); p != nil {
		why.pod = p
		return why
	}
	if s.beside {
		return verdict{phase: done}
	}
	if paused, _, _ := unstructured.NestedBool(s.live.Object, "spec", "paused"); paused && s.kindIn().resource.Group != "" {
		return remarked("is paused: it is not waited for")
	}
	h := healthOf(s.live)
	switch {
	case health.Settled(h):
		return s.lasting()
	case h.Status == delivery.Suspended:
		return remarked("%s", strings.TrimSuffix("is suspended: "+h.Message, ": "))
	case h.Status == delivery.Degraded && s.kindIn().resource != podResource.GroupResource(), podFailed(s.live):
		return verdict{phase: failed, text: h.Message, reason: "Degraded", hold: s.staleness(), advice: adviceOf("", h.Message)}
	}
	return underWay("%s%s", progress(s.live, h), aside(s.pods))
}

// lasting decides on what is healthy at this moment: whether it will be at the next.
func (s subject) lasting() verdict {
	if !workloads[s.kindIn().resource] || s.kindIn().resource.Group == "batch" {
		return healthy()
	}
	if p := s.stumbling(); p != nil {
		return underWay("Pod %s: %s", p.Name, p.health.Message)
	}
	if left := steady - s.steady; left > 0 {
		v := underWay("its containers have no readiness probe: they have to run for %s", steady)
		v.due = left
		return v
	}
	return healthy()
}

// healthOf tells how an object is doing: those of Argo's kinds by their own words.
func healthOf(u *unstructured.Unstructured) delivery.Health {
	if u.GroupVersionKind().Group == "argoproj.io" {
		return argoRules.Of(u)
	}
	return health.Of(u)
}

var argoRules = health.NewArgo(nil, nil)

// going decides on what the job deleted.
func (s subject) going() verdict {
	switch {
	case s.live == nil, s.uid != "" && s.live.GetUID() != s.uid: // another one of its name
		return verdict{phase: done, text: "is gone"}
	case s.waited >= goneLimit:
		return remarked("is still there %s after it was deleted%s: it is not waited for", goneLimit, finalizers(s.live))
	}
	return underWay("is being deleted%s", finalizers(s.live))
}

// missing decides on what is not there any more. What ends by itself, or goes with another object, may have gone.
func (s subject) missing() verdict {
	switch r := s.kindIn().resource; {
	case s.beside:
		return verdict{phase: done}
	case s.swept, r == podResource.GroupResource(), r == replicaSetResource.GroupResource(), r == schema.GroupResource{Group: "batch", Resource: "jobs"}:
		return verdict{phase: done, text: "is gone"}
	case s.of != nil, s.app != nil:
		return underWay("it is not there")
	}
	return verdict{
		phase: failed, reason: "Missing", text: "it is not there any more: something has deleted it since this job wrote it",
		advice: "find out what deletes it, for example the audit log of the cluster, or an app that prunes it",
	}
}

func finalizers(u *unstructured.Unstructured) string {
	if list := u.GetFinalizers(); len(list) > 0 {
		return " (it waits for " + strings.Join(list[:min(len(list), 5)], ", ") + ")"
	}
	return ""
}

// podFailed tells whether an object is a Pod that is over, without success.
func podFailed(u *unstructured.Unstructured) bool {
	over, _, _ := unstructured.NestedString(u.Object, "status", "phase")
	return u.GroupVersionKind().GroupKind() == schema.GroupKind{Kind: "Pod"} && over == "Failed"
}

// staleness is how long the object's word that it failed has to last: a Deployment says when it gave that.
func (s subject) staleness() time.Duration {
	list, _, _ := unstructured.NestedSlice(s.live.Object, "status", "conditions")
	for _, item := range list {
		c, _ := item.(map[string]any)
		if c["type"] != "Progressing" || c["status"] != "False" {
			continue
		}
		text, _ := c["lastUpdateTime"].(string)
		if at, err := time.Parse(time.RFC3339, text); err == nil && at.Before(s.began.Truncate(time.Second)) {
			return staleHold
		}
	}
	return 0
}

// progress says how far an object has come: of what has replicas in the words of kubectl rollout status, else as its health says.
func progress(u *unstructured.Unstructured, h delivery.Health) string {
	number := func(path ...string) int64 { n, _, _ := unstructured.NestedInt64(u.Object, path...); return n }
	text := cmp.Or(strings.Join(strings.Fields(h.Message), " "), "is "+strings.ToLower(string(h.Status)))
	if number("status", "observedGeneration") < u.GetGeneration() {
		return text
	}
	want, updated, all, available := int64(1), number("status", "updatedReplicas"), number("status", "replicas"), number("status", "availableReplicas")
	if n, found, _ := unstructured.NestedInt64(u.Object, "spec", "replicas"); found {
		want = n
	}
	switch u.GroupVersionKind().GroupKind() {
	case schema.GroupKind{Group: "apps", Kind: "Deployment"}, schema.GroupKind{Group: "apps", Kind: "StatefulSet"}, schema.GroupKind{Group: "argoproj.io", Kind: "Rollout"}:
	case schema.GroupKind{Group: "apps", Kind: "DaemonSet"}:
		want, updated = number("status", "desiredNumberScheduled"), number("status", "updatedNumberScheduled")
		all, available = updated, number("status", "numberAvailable")
	default:
		return text
	}
	switch {
	case updated < want:
		return fmt.Sprintf("%d of %d replicas updated", updated, want)
	case all > updated:
		return fmt.Sprintf("%d old replica%s still there", all-updated, plural(int(all-updated)))
	case available < updated:
		return fmt.Sprintf("%d of %d updated replicas available", available, updated)
	}
	return text
}
