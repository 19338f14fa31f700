package dialect

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
)

// ArgoNews is what a step leaves to say about an Application.
type ArgoNews struct {
	Known       bool     // the app was compared; else sync is Unknown and what was known of the rest stays
	Revisions   []string // one for each source, as [ArgoRevision] writes them
	InSync      bool
	Compared    []delivery.Comparison
	Health      delivery.Health
	Operation   *delivery.Operation     // nil: as before
	Source      *argocdv1.SyncOperation // what the operation overrode, if it did
	Conditions  []argocdv1.ApplicationCondition
	SourceTypes []string // Helm, Kustomize or Directory, one for each source
	Remembered  bool     // SourceTypes, Images and URLs are as they were
	Images      []string
	URLs        []string
}

// ArgoRevision writes a revision as delivery.Operation.Revisions and [ArgoNews] have it: a commit as its bare id, a chart as its
// version with its digest ("1.2.3@sha256:…"), another archive as its digest.
//
// In a status the digest of a chart is left out, as Argo CD does. Of an operation it is kept, in an entry of the operation's info, so
// that a restart finds it; of the history it is not: a rollback takes what the repository has of a version.
func ArgoRevision(r delivery.Revision) string {
	if r.Archive() {
		return r.String()
	}
	return r.Commit
}

// statusRevision writes such a revision as a status has it.
func statusRevision(revision string, source argocdv1.ApplicationSource) string {
	r := delivery.ParseRevision(revision)
	switch {
	case r.Commit == "":
		return revision
	case source.Chart != "":
		return orElse(r.Name, "sha256:"+r.Commit)
	}
	return "sha256:" + r.Commit
}

// ArgoStatus gives the status that says news. It changes nothing in old that stays the same: times move only with what they are about.
func ArgoStatus(old argocdv1.ApplicationStatus, a *argocdv1.Application, news ArgoNews, now time.Time) argocdv1.ApplicationStatus {
	s := *old.DeepCopy()
	at := metav1.NewTime(now.UTC().Truncate(time.Second))
	spec := overridden(a, nil)
	s.Sync = syncStatus(old.Sync, spec, news)
	conditions := news.Conditions
	if news.Known {
		var left int
		if s.Resources, left = boundResources(resourceStatuses(news.Compared)); left > 0 {
			conditions = append(slices.Clone(conditions), argocdv1.ApplicationCondition{
				Type:    argocdv1.ConditionExcludedResourceWarning,
				Message: fmt.Sprintf("status.resources leaves out %d objects that are not there yet: it would be too large to store; split the Application", left),
			})
		}
		s.Summary.IsAppOfApps = slices.ContainsFunc(news.Compared, isApplication)
	}
	if news.Known && !news.Remembered {
		s.Summary.Images, s.Summary.ExternalURLs = boundTexts(sorted(news.Images)), boundTexts(sorted(news.URLs))
		s.SourceType, s.SourceTypes = "", nil
		if len(spec.Sources) > 0 {
			s.SourceTypes = slices.Clone(news.SourceTypes)
		} else if len(news.SourceTypes) > 0 {
			s.SourceType = news.SourceTypes[0]
		}
	}
	s.Health = argoHealth(old.Health, news, at)
	s.Conditions = argoConditions(old.Conditions, conditions, at)
	if news.Operation != nil {
		s.OperationState = operationState(old.OperationState, a, *news.Operation, news.Source)
		s.History = history(old, s.OperationState, a, *news.Operation)
	}
	boundResults(s.OperationState, s.Resources)
	if !equality.Semantic.DeepEqual(old, s) {
		s.ReconciledAt = &at
	}
	return s
}

// syncStatus says whether the cluster is as Git wants it, and what was compared.
func syncStatus(old argocdv1.SyncStatus, spec argocdv1.ApplicationSpec, news ArgoNews) argocdv1.SyncStatus {
	out := argocdv1.SyncStatus{Status: argocdv1.SyncUnknown, ComparedTo: argocdv1.ComparedTo{
		Source: spec.Source, Sources: spec.Sources, Destination: spec.Destination, IgnoreDifferences: spec.IgnoreDifferences,
	}}
	if len(spec.Sources) > 0 {
		out.ComparedTo.Source = nil
	}
	if !news.Known {
		out.Revision, out.Revisions = old.Revision, old.Revisions
		return out
	}
	out.Status = argocdv1.OutOfSync
	if news.InSync {
		out.Status = argocdv1.Synced
	}
	out.Revision, out.Revisions = statusRevisions(spec, news.Revisions)
	return out
}

// statusRevisions gives the revisions of a single source, or of several.
func statusRevisions(spec argocdv1.ApplicationSpec, revisions []string) (one string, several []string) {
	if len(spec.Sources) == 0 {
		if len(revisions) == 0 || spec.Source == nil {
			return "", nil
		}
		return statusRevision(revisions[0], *spec.Source), nil
	}
	for i, r := range revisions {
		if i < len(spec.Sources) {
			several = append(several, statusRevision(r, spec.Sources[i]))
		}
	}
	return "", several
}

func isApplication(c delivery.Comparison) bool {
	return c.Ref.Group == argocdv1.GroupVersion.Group && c.Ref.Kind == argocdv1.ApplicationKind
}

func sorted(texts []string) []string {
	texts = slices.Sorted(slices.Values(texts))
	return slices.Compact(texts)
}

// resourceStatuses says how each object stands, in Argo CD's order.
func resourceStatuses(compared []delivery.Comparison) (out []argocdv1.ResourceStatus) {
	for _, c := range compared {
		r := argocdv1.ResourceStatus{
			Group: c.Ref.Group, Version: c.Version, Kind: c.Ref.Kind, Namespace: c.Ref.Namespace, Name: c.Ref.Name,
			Hook: c.Hook, RequiresPruning: c.RequiresPruning, RequiresDeletionConfirmation: c.RequiresConfirmation, SyncWave: int64(c.Wave),
		}
		if !c.Hook { // hooks have no state of their own, as upstream
			r.Status = argocdv1.Synced
			if c.Differs {
				r.Status = argocdv1.OutOfSync
			}
		}
		if c.Health.Status != "" {
			r.Health = &argocdv1.HealthStatus{Status: string(c.Health.Status), Message: c.Health.Message}
		}
		out = append(out, r)
	}
	slices.SortStableFunc(out, func(x, y argocdv1.ResourceStatus) int { return strings.Compare(resourceKey(x), resourceKey(y)) })
	return out
}

func resourceKey(r argocdv1.ResourceStatus) string {
	return strings.Join([]string{r.Group, r.Kind, r.Namespace, r.Name}, "/")
}

// argoHealth is the health of the whole; its time is that of its last change.
func argoHealth(old argocdv1.HealthStatus, news ArgoNews, at metav1.Time) argocdv1.HealthStatus {
	status := string(news.Health.Status)
	if status == "" {
		status = orElse(old.Status, string(delivery.UnknownHealth))
	}
	if status == old.Status {
		return old
	}
	return argocdv1.HealthStatus{Status: status, LastTransitionTime: &at}
}

// maxCondition bounds the message of a condition, in bytes.
const maxCondition = 16 << 10

// argoConditions are sorted, each once and of each type so many ([boundConditions]); what was said before keeps its time.
func argoConditions(old, news []argocdv1.ApplicationCondition, at metav1.Time) (out []argocdv1.ApplicationCondition) {
	for _, c := range news {
		c.Message, c.LastTransitionTime = cut(c.Message, maxCondition), nil
		out = append(out, c)
	}
	slices.SortFunc(out, func(x, y argocdv1.ApplicationCondition) int {
		return cmp.Or(strings.Compare(x.Type, y.Type), strings.Compare(x.Message, y.Message))
	})
	out = boundConditions(slices.Compact(out))
	for i, c := range out {
		same := func(o argocdv1.ApplicationCondition) bool { return o.Type == c.Type && o.Message == c.Message }
		out[i].LastTransitionTime = &at
		if n := slices.IndexFunc(old, same); n >= 0 && old[n].LastTransitionTime != nil {
			out[i].LastTransitionTime = old[n].LastTransitionTime
		}
	}
	return out
}

// owns tells whether an entry of status.resources is an object that is there and the app's.
func owns(r argocdv1.ResourceStatus) bool {
	missing := r.Health != nil && r.Health.Status == string(delivery.Missing)
	return !r.Hook && !missing && r.Name != "" && r.Kind != ""
}

// ArgoInventory is what an Application owns, by its status, and what it was about to ([IntentAnnotation]).
func ArgoInventory(a *argocdv1.Application) delivery.Inventory {
	inv := delivery.Inventory{}
	for _, r := range a.Status.Resources {
		if !owns(r) {
			continue
		}
		inv[delivery.Ref{Group: r.Group, Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}] = r.Version
	}
	var in intent
	text := a.Annotations[IntentAnnotation]
	if text == "" || json.Unmarshal(unpacked(text), &in) != nil || in.Base != argoIntentBase(a) {
		return inv
	}
	for id, version := range in.Entries {
		if ref, ok := delivery.ParseInventoryID(id); ok {
			inv[ref] = version
		}
	}
	return inv
}

// ArgoIntent gives the value of [IntentAnnotation] for an inventory that is to be widened; false: it would be too large. a is the
// Application as it is written together with it: the intent belongs to the operation of its status, and counts until that is over
// and the app was compared since. A long one is packed, since nothing else can be widened ahead: status.resources tells what is there.
func ArgoIntent(a *argocdv1.Application, widened delivery.Inventory) (string, bool) {
	written := a.DeepCopy()
	delete(written.Annotations, IntentAnnotation)
	in := intent{Base: argoIntentBase(a), Entries: map[string]string{}}
	for ref, version := range widened.Minus(ArgoInventory(written)) {
		in.Entries[ref.InventoryID()] = version
	}
	b, err := json.Marshal(in)
	if err != nil {
		return "", false
	}
	text := string(b)
	if len(b) > maxPlainIntent {
		text = packed(b)
	}
	return text, len(text) <= roomForIntent(written.Annotations)
}

// argoIntentBase identifies the operation that an intent belongs to. Once that is over, status.resources tells everything, unless
// the app could not be compared.
func argoIntentBase(a *argocdv1.Application) string {
	o := a.Status.OperationState
	if o == nil {
		return ""
	}
	base := o.StartedAt.UTC().Format(time.RFC3339)
	if (delivery.OperationPhase(o.Phase).Over() || pauses(o)) && a.Status.Sync.Status != argocdv1.SyncUnknown {
		base += " over"
	}
	return base
}
