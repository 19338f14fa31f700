package health

import (
	"cmp"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"keelson.dev/keelson/internal/delivery"
)

// startingUp is why a container that waits is no cause for concern: these are the kubelet's words for a Pod on its way.
var startingUp = map[string]bool{"ContainerCreating": true, "PodInitializing": true}

// OfPod tells how a Pod is doing, and where it is not healthy which container is at fault and why, in the kubelet's words:
// CrashLoopBackOff, ImagePullBackOff, OOMKilled, Unschedulable, … [Of] tells less, as one container in trouble is no verdict on
// what the Pod belongs to.
func OfPod(u *unstructured.Unstructured) delivery.Health {
	var pod corev1.Pod
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &pod); err != nil {
		return Of(u)
	}
	if pod.DeletionTimestamp != nil {
		return delivery.Health{Status: delivery.Progressing, Message: "it is being deleted"}
	}
	switch pod.Status.Phase {
	case corev1.PodSucceeded:
		return delivery.Health{Status: delivery.Healthy}
	case corev1.PodFailed:
		if text := containers(pod.Status); text != "" {
			return delivery.Health{Status: delivery.Degraded, Message: text}
		}
		return delivery.Health{Status: delivery.Degraded, Message: sentence(cmp.Or(pod.Status.Reason, "Failed"), pod.Status.Message)}
	}
	if text := containers(pod.Status); text != "" {
		return delivery.Health{Status: delivery.Degraded, Message: text}
	}
	for _, c := range pod.Status.Conditions {
		switch {
		case c.Status != corev1.ConditionFalse:
		case c.Type == corev1.PodScheduled:
			return delivery.Health{Status: delivery.Degraded, Message: sentence(c.Reason, c.Message)}
		case c.Type == corev1.PodReady:
			return delivery.Health{Status: delivery.Progressing, Message: sentence(c.Reason, c.Message)}
		}
	}
	return Of(u)
}

// containers names the first container in trouble and says why; empty: none is.
func containers(status corev1.PodStatus) string {
	for _, list := range [][]corev1.ContainerStatus{status.InitContainerStatuses, status.ContainerStatuses} {
		for _, c := range list {
			if text := container(c); text != "" {
				return text
			}
		}
	}
	return ""
}

func container(c corev1.ContainerStatus) string {
	switch {
	case c.State.Waiting != nil && c.State.Waiting.Reason != "" && !startingUp[c.State.Waiting.Reason]:
		text := sentence(c.State.Waiting.Reason, c.State.Waiting.Message)
		if last := c.LastTerminationState.Terminated; last != nil {
			text += "; it ended last with " + ending(last)
		}
		return "container " + c.Name + ": " + text
	case c.State.Terminated != nil && c.State.Terminated.ExitCode != 0:
		return "container " + c.Name + ": " + ending(c.State.Terminated)
	}
	return ""
}

// ending is "OOMKilled (exit code 137)".
func ending(t *corev1.ContainerStateTerminated) string {
	text := fmt.Sprintf("%s (exit code %d)", cmp.Or(t.Reason, "Error"), t.ExitCode)
	if t.Message != "" {
		text += ": " + strings.Join(strings.Fields(t.Message), " ")
	}
	return text
}

func sentence(reason, message string) string {
	return strings.Trim(reason+": "+strings.Join(strings.Fields(message), " "), ": ")
}
