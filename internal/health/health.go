// Package health tells how an object is doing. It is pure: the object goes in, a [delivery.Health] comes out.
//
// The rules are kstatus's (the field's own: every built-in kind, and any kind with the standard
// Ready, Reconciling and Stalled conditions), mapped onto Keelson's words in one place. Two things differ, as in
// Flux: a Job is healthy once it has completed, and an app may have [Rules] of its own in CEL. Their cost is bounded.
// Flux's own kinds tell why they are not ready in the words of their Ready condition.
package health

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
)

// Of tells how an object is doing.
func Of(u *unstructured.Unstructured) delivery.Health {
	if u.GroupVersionKind().GroupKind() == jobKind && u.GetDeletionTimestamp() == nil {
		return job(u)
	}
	res, err := status.Compute(u)
	if err != nil {
		return delivery.Health{Status: delivery.UnknownHealth, Message: err.Error()}
	}
	return flux(u, healthOf(res))
}

// healthOf says in Keelson's words what kstatus says.
func healthOf(res *status.Result) delivery.Health {
	switch res.Status {
	case status.CurrentStatus:
		return delivery.Health{Status: delivery.Healthy}
	case status.InProgressStatus, status.TerminatingStatus:
		return delivery.Health{Status: delivery.Progressing, Message: res.Message}
	case status.FailedStatus:
		return delivery.Health{Status: delivery.Degraded, Message: res.Message}
	case status.NotFoundStatus:
		return delivery.Health{Status: delivery.Missing, Message: res.Message}
	default:
		return delivery.Health{Status: delivery.UnknownHealth, Message: res.Message}
	}
}

// Part is one object's health, as an input of [Aggregate].
type Part struct {
	Ref    delivery.Ref
	Health delivery.Health
}

// order of the states from good to bad: an app is as healthy as its worst object.
var order = []delivery.HealthStatus{
	delivery.Healthy, delivery.Suspended, delivery.Progressing, delivery.UnknownHealth, delivery.Missing, delivery.Degraded,
}

// maxNamed bounds how many objects a message names.
const maxNamed = 5

// Aggregate gives an app's health: its worst object's, with a message that names the objects in that state.
// An object whose health cannot be known is waited for like one in progress, as in Flux.
func Aggregate(parts []Part) delivery.Health { return aggregate(parts, order) }

// argoOrder is the order of the states in Argo CD (operator-manual/health).
var argoOrder = []delivery.HealthStatus{
	delivery.Healthy, delivery.Suspended, delivery.Progressing, delivery.Missing, delivery.Degraded, delivery.UnknownHealth,
}

// AggregateArgo is [Aggregate] as in Argo CD, where nothing is worse than not to know.
func AggregateArgo(parts []Part) delivery.Health { return aggregate(parts, argoOrder) }

func aggregate(parts []Part, order []delivery.HealthStatus) delivery.Health {
	worst := 0
	for _, p := range parts {
		worst = max(worst, slices.Index(order, p.Health.Status))
	}
	state := order[worst]
	if state == delivery.Healthy {
		return delivery.Health{Status: delivery.Healthy}
	}
	var named []string
	more := 0
	for _, p := range parts {
		if p.Health.Status != state {
			continue
		}
		if len(named) == maxNamed {
			more++
			continue
		}
		text := p.Ref.String()
		if p.Health.Message != "" {
			text += ": " + p.Health.Message
		}
		named = append(named, text)
	}
	slices.Sort(named)
	if more > 0 {
		named = append(named, fmt.Sprintf("and %d more", more))
	}
	return delivery.Health{Status: state, Message: strings.Join(named, "; ")}
}
