package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/web"
)

// appOfArgo gives an Application as it is told to people and programs.
func appOfArgo(a *argocdv1.Application) web.App {
	app := web.App{
		Status: web.Status{
			Kind: argocdv1.ApplicationKind, Namespace: a.Namespace, Name: a.Name, Created: a.CreationTimestamp.UTC(), Revision: deployedRevision(a),
		},
		Sync: a.Status.Sync.Status, Health: a.Status.Health.Status,
	}
	v := verdictOf(a)
	app.State, app.Reason, app.Message, app.Since = v.state, v.reason, redact.Text(v.message), v.since
	for _, c := range a.Status.Conditions {
		if strings.HasSuffix(c.Type, "Warning") && c.Message != v.message {
			app.Warnings = append(app.Warnings, redact.Text(c.Message))
		}
	}
	var sources, paths []string
	for _, s := range sourcesOf(&a.Spec) {
		sources = append(sources, redact.URL(s.RepoURL))
		switch {
		case s.Chart != "":
			paths = append(paths, s.Chart)
		case s.Path != "" || s.Ref == "":
			paths = append(paths, cmp.Or(strings.TrimPrefix(s.Path, "./"), "."))
		}
	}
	app.Source, app.Path = strings.Join(sources, ", "), strings.Join(paths, ", ")
	for _, r := range a.Status.Resources {
		if !r.Hook {
			app.Objects++
		}
	}
	app.Wanted = joinRevisions(a.Status.Sync.Revision, a.Status.Sync.Revisions)
	return placed(app, a, a.Spec.Destination.Namespace)
}

// sourcesOf gives the sources of an Application, whichever way they are written.
func sourcesOf(spec *argocdv1.ApplicationSpec) []argocdv1.ApplicationSource {
	if len(spec.Sources) > 0 || spec.Source == nil {
		return spec.Sources
	}
	return []argocdv1.ApplicationSource{*spec.Source}
}

// deployedRevision is what was deployed last: that of the history, or, where none is kept, the one that the cluster is like.
func deployedRevision(a *argocdv1.Application) string {
	sync := a.Status.Sync
	if sync.Status == argocdv1.Synced {
		return joinRevisions(sync.Revision, sync.Revisions)
	}
	if n := len(a.Status.History); n > 0 {
		last := a.Status.History[n-1]
		return joinRevisions(last.Revision, last.Revisions)
	}
	return ""
}

func joinRevisions(one string, several []string) string {
	if len(several) > 0 {
		return strings.Join(several, ", ")
	}
	return one
}

// verdict is what is to be said first about an Application.
type verdict struct {
	state           web.State
	reason, message string
	since           time.Time
}

// verdictOf weighs what the status of an Application says. What is wrong counts before what is under way, and that before a hold.
func verdictOf(a *argocdv1.Application) verdict {
	st := &a.Status
	for _, c := range st.Conditions {
		if strings.HasSuffix(c.Type, "Error") {
			return verdict{web.Failing, strings.TrimSuffix(c.Type, "Error"), c.Message, timeOf(c.LastTransitionTime)}
		}
	}
	op := st.OperationState
	switch {
	case a.Operation != nil && (op == nil || !operationRuns(op)):
		return verdict{state: web.Working, reason: "SyncRequested", message: "a sync was asked for"}
	case op != nil && operationRuns(op):
		return verdict{web.Working, "Sync" + op.Phase, cmp.Or(op.Message, "a sync is under way"), op.StartedAt.UTC()}
	case st.Sync.Status == "" && st.Health.Status == "":
		return verdict{state: web.Unknown}
	case op != nil && op.Phase != argocdv1.OperationSucceeded && st.Sync.Status != argocdv1.Synced:
		return verdict{web.Failing, "Sync" + op.Phase, op.Message, timeOf(op.FinishedAt)}
	case st.Health.Status == string(delivery.Degraded), st.Health.Status == string(delivery.Missing) && st.Sync.Status == argocdv1.Synced:
		return verdict{web.Failing, st.Health.Status, cmp.Or(st.Health.Message, worst(st)), timeOf(st.Health.LastTransitionTime)}
	}
	if text := a.Annotations[argocdv1.HoldAnnotation]; text != "" {
		hold := dialect.ParseArgoHold(text)
		return verdict{web.Suspended, "Held", describeHold(hold), hold.At}
	}
	return settled(a)
}

// settled is the verdict about an Application that nothing is wrong with and nobody works on.
func settled(a *argocdv1.Application) verdict {
	st := &a.Status
	since := timeOf(st.Health.LastTransitionTime)
	switch st.Sync.Status {
	case argocdv1.Synced:
	case argocdv1.OutOfSync:
		v := verdict{web.OutOfSync, argocdv1.OutOfSync, differing(st), since}
		if waitsForPerson(a) {
			return v
		}
		v.state = web.Working
		for _, c := range st.Conditions {
			if c.Type == argocdv1.ConditionHeldWarning { // a hold by a person is told of elsewhere
				v.reason, v.message, v.since = "SyncWindow", c.Message, timeOf(c.LastTransitionTime)
			}
		}
		return v
	default:
		return verdict{web.Working, "Comparing", "it is not known yet whether the cluster is as Git wants it", since}
	}
	switch delivery.HealthStatus(st.Health.Status) {
	case delivery.Healthy:
		return verdict{web.Ready, argocdv1.Synced, "Synced, Healthy", since}
	case delivery.Suspended:
		return verdict{web.Ready, argocdv1.Synced, "Synced, Suspended: " + cmp.Or(st.Health.Message, worst(st)), since}
	default:
		return verdict{web.Working, cmp.Or(st.Health.Status, string(delivery.UnknownHealth)), cmp.Or(st.Health.Message, worst(st)), since}
	}
}

func operationRuns(op *argocdv1.OperationState) bool {
	return op.Phase == argocdv1.OperationRunning || op.Phase == argocdv1.OperationTerminating
}

// operationPauses tells whether an operation has failed and waits for another attempt: it is under way, but a new one may take its place.
func operationPauses(op *argocdv1.OperationState) bool {
	return operationRuns(op) && op.FinishedAt != nil
}

// waitsForPerson tells whether an Application that differs from Git stays so until somebody asks for a sync.
func waitsForPerson(a *argocdv1.Application) bool {
	auto := automatedOf(a)
	if auto == nil {
		return true
	}
	if op := a.Status.OperationState; !isTrue(auto.SelfHeal) && op != nil && op.SyncResult != nil &&
		joinRevisions(op.SyncResult.Revision, op.SyncResult.Revisions) == joinRevisions(a.Status.Sync.Revision, a.Status.Sync.Revisions) {
		return true
	}
	if isTrue(auto.Prune) {
		return false
	}
	for _, r := range a.Status.Resources {
		if r.Status == argocdv1.OutOfSync && !r.RequiresPruning {
			return false
		}
	}
	return true
}

// automatedOf is the policy by which an Application is synced without being asked; nil: it is not.
func automatedOf(a *argocdv1.Application) *argocdv1.SyncPolicyAutomated {
	p := a.Spec.SyncPolicy
	if p == nil || p.Automated == nil || p.Automated.Enabled != nil && !*p.Automated.Enabled {
		return nil
	}
	return p.Automated
}

func isTrue(b *bool) bool { return b != nil && *b }

// maxNamed bounds how many objects a message names.
const maxNamed = 3

// differing names the objects that differ from Git.
func differing(st *argocdv1.ApplicationStatus) string {
	var names []string
	n := 0
	for _, r := range st.Resources {
		if r.Status != argocdv1.OutOfSync {
			continue
		}
		if n++; n <= maxNamed {
			names = append(names, resourceRef(r).String())
		}
	}
	switch {
	case n == 0:
		return "the cluster is not as Git wants it"
	case n > maxNamed:
		return fmt.Sprintf("%s and %d more differ from Git", strings.Join(names, ", "), n-maxNamed)
	case n == 1:
		return names[0] + " differs from Git"
	default:
		return strings.Join(names, ", ") + " differ from Git"
	}
}

// worst names an object that makes the Application's health what it is.
func worst(st *argocdv1.ApplicationStatus) string {
	for _, r := range st.Resources {
		if r.Health != nil && r.Health.Status == st.Health.Status {
			return strings.Trim(resourceRef(r).String()+": "+r.Health.Message, ": ")
		}
	}
	return ""
}

func resourceRef(r argocdv1.ResourceStatus) delivery.Ref {
	return delivery.Ref{Group: r.Group, Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}
}

func describeHold(h dialect.ArgoHold) string {
	text := h.Reason
	if h.By != "" {
		text += ", by " + h.By
	}
	return text + ": nothing is synced by itself before it is resumed"
}

func timeOf(t *metav1.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// argoElsewhere tells whether an Application is delivered to another cluster than the one that it is declared in.
func argoElsewhere(a *argocdv1.Application) bool {
	d := a.Spec.Destination
	return d.Server != dialect.InCluster && d.Name != dialect.InClusterName
}
