package appset

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
)

// Types of conditions: Argo CD's, and ours.
const (
	ConditionError         = "ErrorOccurred"
	ConditionParameters    = "ParametersGenerated"
	ConditionUpToDate      = "ResourcesUpToDate"
	ConditionRollout       = "RolloutProgressing"
	ConditionRolloutConfig = "InvalidRolloutConfig"
	ConditionUnsupported   = "UnsupportedFieldsWarning" // ours: fields that have no effect
)

// News is what a step leaves to say about a set.
type News struct {
	Err       error // what went wrong; a *delivery.Fault gives the reason
	Generated bool  // the Applications are known
	Rollout   *Rollout
	Live      []argocdv1.Application // of the set; nil with Err: what was said of them stays
	Unknown   []string               // fields of the set that have no effect
	Refused   []Invalid
}

// maxResources bounds the Applications that a status names (Argo CD: the same).
const maxResources = 5000

// Status gives the status that says news. Times move only with what they are about.
func Status(old argocdv1.ApplicationSetStatus, news News, now time.Time) argocdv1.ApplicationSetStatus {
	out := *old.DeepCopy()
	out.Conditions = conditions(old.Conditions, news, now)
	if news.Live != nil {
		out.Resources = resources(news.Live)
		out.ResourcesCount = int64(len(news.Live))
		out.Resources = out.Resources[:min(len(out.Resources), maxResources)]
	}
	if news.Generated {
		out.ApplicationStatus = nil
		if news.Rollout != nil {
			out.ApplicationStatus = news.Rollout.Statuses
		}
	}
	return out
}

func resources(live []argocdv1.Application) []argocdv1.ResourceStatus {
	out := make([]argocdv1.ResourceStatus, 0, len(live))
	for i := range live {
		app := &live[i]
		out = append(out, argocdv1.ResourceStatus{
			Group: argocdv1.GroupVersion.Group, Version: argocdv1.GroupVersion.Version, Kind: argocdv1.ApplicationKind,
			Namespace: app.Namespace, Name: app.Name, Status: app.Status.Sync.Status,
			Health: &argocdv1.HealthStatus{Status: app.Status.Health.Status},
		})
	}
	slices.SortFunc(out, func(a, b argocdv1.ResourceStatus) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func conditions(old []argocdv1.ApplicationSetCondition, news News, now time.Time) []argocdv1.ApplicationSetCondition {
	at := metav1.NewTime(now)
	var out []argocdv1.ApplicationSetCondition
	add := func(typ, status, reason, message string) {
		out = append(out, argocdv1.ApplicationSetCondition{Type: typ, Status: status, Reason: reason, Message: message, LastTransitionTime: &at})
	}
	err := news.Err
	if err == nil && len(news.Refused) > 0 {
		first := news.Refused[0].Err
		if more := len(news.Refused) - 1; more > 0 {
			first = fmt.Errorf("%w (and %d more)", first, more)
		}
		err = &delivery.Fault{Reason: ReasonValidation, Retry: delivery.OnChange, Err: first}
	}
	const fine = "All applications have been generated successfully"
	if err != nil {
		add(ConditionError, "True", delivery.FaultOf(err, ReasonParams).Reason, err.Error())
		add(ConditionUpToDate, "False", ConditionError, err.Error())
	} else {
		add(ConditionError, "False", "ApplicationSetUpToDate", fine)
		add(ConditionUpToDate, "True", "ApplicationSetUpToDate", fine)
	}
	if news.Generated {
		add(ConditionParameters, "True", ConditionParameters, "All parameters have been generated successfully")
	} else if err != nil {
		add(ConditionParameters, "False", ConditionError, err.Error())
	}
	if len(news.Unknown) > 0 {
		add(ConditionUnsupported, "True", "UnsupportedFields", "these fields are not supported and have no effect: "+strings.Join(news.Unknown, ", "))
	}
	if news.Rollout != nil {
		for _, c := range news.Rollout.Conditions {
			add(c.Type, c.Status, c.Reason, c.Message)
		}
	} else if !news.Generated { // what was said of a rollout stays
		for _, c := range old {
			if c.Type == ConditionRollout || c.Type == ConditionRolloutConfig {
				out = append(out, c)
			}
		}
	}
	slices.SortFunc(out, func(a, b argocdv1.ApplicationSetCondition) int { return strings.Compare(a.Type, b.Type) })
	for i := range out {
		for _, c := range old {
			if c.Type == out[i].Type && c.Status == out[i].Status && c.Reason == out[i].Reason && c.Message == out[i].Message {
				out[i].LastTransitionTime = c.LastTransitionTime
			}
		}
	}
	return out
}
