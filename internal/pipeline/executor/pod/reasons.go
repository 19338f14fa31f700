package pod

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
)

// sight is what the status of a Pod says about its job.
type sight struct {
	end   *executor.Result // the job cannot go on; nil: it can
	state string           // what it waits for; empty: nothing
	notes []string         // warnings for the log; each is told once
	// runs tells whether the job's container has started, and services whether all services have, or have failed.
	runs, services bool
}

// pulls are what has been heard of an image that cannot be pulled.
type pulls struct {
	message  string // of the pull, which the kubelet replaces by a shorter one while it waits
	failures int
	waiting  bool
}

// maxPulls is how often the kubelet may try to pull an image, if trying again may help.
const maxPulls = 3

// hopeless are the messages of pulls that fail the next time as well.
var hopeless = regexp.MustCompile(`(?i)not found|manifest unknown|name unknown|unauthorized|denied|forbidden|insufficient_scope|no basic auth|authentication required|no match for platform|invalid reference|does not exist`)

// look reads the status of a Pod. History is what was heard of its images before; it is written.
func look(pod *corev1.Pod, limits corev1.ResourceList, history map[string]*pulls) sight {
	s := sight{services: true}
	failed := func(reason pipeline.FailureReason, format string, args ...any) {
		if s.end == nil {
			r := executor.Failed(reason, format, args...)
			s.end = &r
		}
	}
	for _, c := range pod.Status.ContainerStatuses {
		s.container(c, limits, history, failed)
	}
	for _, c := range pod.Status.Conditions {
		switch {
		case c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue:
			s.state = join("the Pod is about to be removed", c.Reason, c.Message)
		case c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse:
			s.state = join(noNode+"FailedScheduling", "", c.Message)
		}
	}
	switch {
	case pod.Status.Phase == corev1.PodFailed && pod.Status.Reason != "": // evicted, its time is over, the node was shut down: the containers tell less
		r := executor.Failed(failureOf(pod.Status.Reason), "%s", join("the Pod has failed", pod.Status.Reason, pod.Status.Message))
		s.end = &r
	case s.end == nil && pod.DeletionTimestamp != nil:
		failed(pipeline.RunnerSystemFailure, "the Pod was deleted%s", disruption(pod))
	case pod.Status.Phase == corev1.PodFailed:
		failed(pipeline.RunnerSystemFailure, "%s", join("the Pod has failed", "", pod.Status.Message))
	case pod.Status.Phase == corev1.PodUnknown:
		failed(pipeline.RunnerSystemFailure, "%s", join("the node of the Pod is lost", pod.Status.Reason, pod.Status.Message))
	}
	return s
}

func failureOf(reason string) pipeline.FailureReason {
	if reason == "DeadlineExceeded" {
		return pipeline.ExecutionTimeout
	}
	return pipeline.RunnerSystemFailure
}

// disruption is why somebody deletes a Pod.
func disruption(pod *corev1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			return " (" + join("", c.Reason, c.Message) + ")"
		}
	}
	return ""
}

// container reads the status of one container.
func (s *sight) container(c corev1.ContainerStatus, limits corev1.ResourceList, history map[string]*pulls, failed func(pipeline.FailureReason, string, ...any)) {
	isService := strings.HasPrefix(c.Name, servicePrefix)
	what := map[bool]string{true: "service " + c.Image, false: "image " + c.Image}[isService]
	if c.Name == containerHelper {
		what = "the helper's image " + c.Image
	}
	switch {
	case c.State.Waiting != nil:
		s.waiting(c, what, history, failed)
		s.services = s.services && !isService
	case c.State.Running != nil:
		s.runs = s.runs || c.Name == containerBuild
	case c.State.Terminated != nil:
		t := c.State.Terminated
		switch {
		case isService:
			if t.ExitCode != 0 || t.Reason == "OOMKilled" {
				s.notes = append(s.notes, fmt.Sprintf("Service %s has ended: %s", c.Image, ended(t)))
			}
		case c.Name == containerHelper && t.ExitCode != 0:
			failed(pipeline.RunnerSystemFailure, "the helper could not be installed: %s", ended(t))
		case c.Name == containerHelper:
		case t.Reason == "OOMKilled":
			failed(pipeline.ScriptFailure, "%s", oom(limits))
		case t.Reason == "StartError" || t.Reason == "ContainerCannotRun":
			failed(pipeline.RunnerSystemFailure, "%s", startError(c.Image, t.Message))
		default:
			failed(pipeline.RunnerSystemFailure, "the job's container has ended: %s", ended(t))
		}
	}
}

// waiting reads the status of a container that has not started.
func (s *sight) waiting(c corev1.ContainerStatus, what string, history map[string]*pulls, failed func(pipeline.FailureReason, string, ...any)) {
	w := c.State.Waiting
	switch w.Reason {
	case "ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError":
		h := history[c.Name]
		if h == nil {
			h = &pulls{}
			history[c.Name] = h
		}
		back := w.Reason == "ImagePullBackOff"
		if !back && (!h.waiting || h.message != w.Message) {
			h.failures++
		} else if back && h.failures == 0 {
			h.failures = 1
		}
		h.waiting = !back
		if !back || h.message == "" {
			h.message = w.Message
		}
		if hopeless.MatchString(h.message) || h.failures >= maxPulls {
			failed(pipeline.RunnerSystemFailure, "%s cannot be pulled: %s: %s", what, w.Reason, short(h.message))
			return
		}
		s.state = fmt.Sprintf("%s cannot be pulled, and is tried again: %s", what, short(h.message))
	case "InvalidImageName":
		failed(pipeline.ConfigurationError, "%s: InvalidImageName: %s", what, short(w.Message))
	case "ErrImageNeverPull":
		failed(pipeline.RunnerSystemFailure, "%s is not on the node, and pull_policy is never: %s", what, short(w.Message))
	case "CreateContainerError", "CreateContainerConfigError", "RunContainerError":
		if strings.Contains(w.Message, "failed to sync secret cache") || strings.Contains(w.Message, "context deadline exceeded") {
			s.state = join(what, w.Reason, w.Message) // the kubelet tries again
			return
		}
		failed(pipeline.RunnerSystemFailure, "%s: %s: %s", what, w.Reason, short(w.Message))
	}
}

// oom says that memory has run out.
func oom(limits corev1.ResourceList) string {
	if q, ok := limits[corev1.ResourceMemory]; ok {
		return "OOMKilled: the job took more memory than its limit of " + q.String() + " (spec.limits.memory of the Project)"
	}
	return "OOMKilled: the job took more memory than its node has"
}

// noShell is what runtimes say where there is no program.
var noShell = regexp.MustCompile(`exec: \\?"([^"\\]+)\\?": (executable file not found|stat [^:]+: no such file)`)

func startError(image, message string) string {
	if m := noShell.FindStringSubmatch(message); m != nil && m[1] == "sh" {
		return "image " + image + " has no shell (sh), which a job's script needs: " + short(message)
	}
	return "image " + image + " cannot be started: " + short(message)
}

// ended says how a container has ended.
func ended(t *corev1.ContainerStateTerminated) string {
	text := fmt.Sprintf("exit code %d", t.ExitCode)
	if t.Signal != 0 {
		text = fmt.Sprintf("signal %d", t.Signal)
	}
	if t.Reason != "" && t.Reason != "Error" {
		text = t.Reason + ", " + text
	}
	if t.Message != "" {
		text += ": " + short(t.Message)
	}
	return text
}

func join(what, reason, message string) string {
	for _, part := range []string{reason, short(message)} {
		switch {
		case part == "":
		case what == "":
			what = part
		default:
			what += ": " + part
		}
	}
	return what
}

// short makes a message of the cluster one line of bounded length.
func short(message string) string {
	message = strings.Join(strings.Fields(message), " ")
	if len(message) > 1000 {
		message = strings.ToValidUTF8(message[:1000], "") + "…"
	}
	return message
}

// noNode begins what is said of a Pod that no node takes.
const noNode = "no node takes the Pod: "
