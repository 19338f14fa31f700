package controller

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
)

// The reasons of Argo CD's events (util/argo: EventReason…).
const (
	operationStarted   = "OperationStarted"
	operationCompleted = "OperationCompleted"
	resourceUpdated    = "ResourceUpdated"
)

func startedEvent(op delivery.Operation) event {
	who := "sync"
	if op.Request.Automated {
		who = "automated sync"
	}
	message := fmt.Sprintf("Initiated %s to '%s'", who, strings.Join(op.Revisions, ", "))
	if op.Request.By != "" {
		message = op.Request.By + " initiated sync to '" + strings.Join(op.Revisions, ", ") + "'"
	}
	return event{reason: operationStarted, message: message}
}

func completedEvent(op delivery.Operation) event {
	to := strings.Join(op.Revisions, ", ")
	if op.Phase == delivery.OperationSucceeded {
		return event{reason: operationCompleted, message: fmt.Sprintf("Sync operation to %s succeeded", to)}
	}
	return event{warning: true, reason: operationCompleted, message: fmt.Sprintf("Sync operation to %s failed: %s", to, op.Message)}
}

// changedEvents tell of what a status says anew.
func changedEvents(was, now argocdv1.ApplicationStatus) []event {
	var out []event
	changed := func(what, from, to string, warning bool) {
		if from == to || to == "" {
			return
		}
		if from == "" {
			out = append(out, event{warning: warning, reason: resourceUpdated, message: fmt.Sprintf("Updated %s status: %s", what, to)})
			return
		}
		out = append(out, event{warning: warning, reason: resourceUpdated, message: fmt.Sprintf("Updated %s status: %s -> %s", what, from, to)})
	}
	changed("sync", was.Sync.Status, now.Sync.Status, false)
	changed("health", was.Health.Status, now.Health.Status, now.Health.Status == string(delivery.Degraded))
	told := map[string]bool{}
	for _, c := range was.Conditions {
		told[c.Type+cause(c.Message)] = true
	}
	for _, c := range now.Conditions {
		if !told[c.Type+cause(c.Message)] {
			out = append(out, event{warning: true, reason: c.Type, message: c.Message})
		}
	}
	return out
}

var attempts = regexp.MustCompile(`(\. Retrying attempt #.*| \(retried \d+ times\)\.)$`)

// cause is a message without how often it was tried, and when it is tried again, which is no news each time.
func cause(message string) string { return attempts.ReplaceAllString(message, "") }

// unheard leaves out that a sync has failed as before: the condition is away while it is tried again.
func (st *appState) unheard(events []event, now argocdv1.ApplicationStatus) []event {
	if op := now.OperationState; op != nil && op.Phase == argocdv1.OperationSucceeded {
		st.failedSync = ""
	}
	return slices.DeleteFunc(events, func(e event) bool {
		if e.reason != argocdv1.ConditionSyncError {
			return false
		}
		before := st.failedSync
		st.failedSync = cause(e.message)
		return st.failedSync == before
	})
}

// stillFailing tells what a status says of failures that it has said before.
func stillFailing(was, now argocdv1.ApplicationStatus) (out []event) {
	if now.Health.Status == string(delivery.Degraded) && was.Health.Status == now.Health.Status {
		out = append(out, event{warning: true, again: true, reason: resourceUpdated, message: "Health status: " + now.Health.Status})
	}
	for _, c := range now.Conditions {
		same := func(o argocdv1.ApplicationCondition) bool {
			return o.Type == c.Type && cause(o.Message) == cause(c.Message)
		}
		if strings.HasSuffix(c.Type, "Error") && slices.ContainsFunc(was.Conditions, same) {
			out = append(out, event{warning: true, again: true, reason: c.Type, message: c.Message})
		}
	}
	if before, op := was.OperationState, now.OperationState; op != nil && before != nil && before.StartedAt.Equal(&op.StartedAt) && before.Phase == op.Phase &&
		(op.Phase == argocdv1.OperationFailed || op.Phase == argocdv1.OperationError) {
		to := ""
		if op.SyncResult != nil {
			to = cmp.Or(strings.Join(op.SyncResult.Revisions, ", "), op.SyncResult.Revision)
		}
		out = append(out, event{warning: true, again: true, reason: operationCompleted, message: fmt.Sprintf("Sync operation to %s failed: %s", to, op.Message)})
	}
	return out
}

// kept gives the events that were kept back, and some that come after them.
func (st *appState) kept(more []event) []event {
	out := gathered(append(st.untold, more...))
	st.untold = nil
	return out
}

// parting gives what was kept back of an Application that is gone, or none of ours any more, and its uid.
func (a *applications) parting(name types.NamespacedName) (types.UID, []event) {
	a.reg.mu.Lock()
	defer a.reg.mu.Unlock()
	st, ok := a.reg.apps[applicationID(name)]
	if !ok {
		return "", nil
	}
	return types.UID(st.app.UID), st.kept(nil)
}

// gathered makes one event of what went well between two tellings of a status, under the reason that says most: each event is
// a request. Warnings stay as they are.
func gathered(events []event) []event {
	order := []string{repairedReason, operationCompleted, operationStarted, resourceUpdated, appliedReason}
	weight := func(e event) int {
		if e.warning {
			return -1
		}
		return slices.Index(order, e.reason)
	}
	var apart, together []event
	for _, e := range events {
		if weight(e) < 0 {
			apart = append(apart, e)
		} else {
			together = append(together, e)
		}
	}
	if len(together) == 0 {
		return apart
	}
	slices.SortStableFunc(together, func(a, b event) int { return weight(a) - weight(b) })
	one := event{reason: together[0].reason}
	var lines []string
	for _, e := range together {
		lines = append(lines, e.message)
		if e.revision != (delivery.Revision{}) {
			one.revision = e.revision
		}
	}
	one.message = strings.Join(lines, "\n")
	return append(apart, one)
}
