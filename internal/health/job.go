package health

import (
	"fmt"
	"slices"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/delivery"
)

// jobKind is the kind of Kubernetes' own Jobs.
var jobKind = schema.GroupKind{Group: "batch", Kind: "Job"}

// job tells how a Job is doing: healthy once it has completed, whereas kstatus is content once it has started. One that is
// suspended is as it should be (github.com/fluxcd/pkg/runtime/statusreaders).
func job(u *unstructured.Unstructured) delivery.Health {
	if suspended, _, _ := unstructured.NestedBool(u.Object, "spec", "suspend"); suspended {
		return delivery.Health{Status: delivery.Healthy}
	}
	with, err := status.GetObjectWithConditions(u.Object)
	if err != nil {
		return delivery.Health{Status: delivery.UnknownHealth, Message: err.Error()}
	}
	count := func(path string, otherwise int) int { return status.GetIntField(u.Object, path, otherwise) }
	for _, c := range with.Status.Conditions {
		switch {
		case c.Status != "True":
		case c.Type == "Complete":
			return delivery.Health{Status: delivery.Healthy}
		case c.Type == "Failed":
			text := fmt.Sprintf("the Job failed, Pods failed: %d", count(".status.failed", 0))
			if c.Reason != "" {
				text += ": " + c.Reason
			}
			if c.Message != "" {
				text += ": " + c.Message
			}
			return delivery.Health{Status: delivery.Degraded, Message: text}
		}
	}
	if status.GetStringField(u.Object, ".status.startTime", "") == "" {
		return delivery.Health{Status: delivery.Progressing, Message: "the Job has not started"}
	}
	return delivery.Health{Status: delivery.Progressing, Message: fmt.Sprintf("the Job is running, Pods: %d active, %d succeeded, %d failed",
		count(".status.active", 0), count(".status.succeeded", 0), count(".status.failed", 0))}
}

// Fleeting tells whether an object goes by itself once it has done its work: a Job with spec.ttlSecondsAfterFinished. Its
// absence is no drift then.
func Fleeting(u *unstructured.Unstructured) bool {
	if u.GroupVersionKind().GroupKind() != jobKind {
		return false
	}
	_, found, err := unstructured.NestedInt64(u.Object, "spec", "ttlSecondsAfterFinished")
	return found && err == nil
}

// Done tells whether an object is a Job that has completed.
func Done(u *unstructured.Unstructured) bool {
	if u.GroupVersionKind().GroupKind() != jobKind {
		return false
	}
	with, err := status.GetObjectWithConditions(u.Object)
	return err == nil && slices.ContainsFunc(with.Status.Conditions, func(c status.BasicCondition) bool {
		return c.Type == "Complete" && c.Status == "True"
	})
}
