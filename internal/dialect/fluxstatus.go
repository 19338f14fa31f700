package dialect

import (
	"slices"
	"strings"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/delivery"
)

// IgnoredCondition is True while fields of the spec have no effect; its message names them.
const IgnoredCondition = "FieldsIgnored"

// SkippedCondition is True while objects of the commit are left out on purpose; its message names them.
const SkippedCondition = "ObjectsSkipped"

// maxMessage bounds a condition's message, in bytes (upstream's MaxConditionMessageLength).
const maxMessage = kustomizev1.MaxConditionMessageLength

// KustomizationInventory reads the inventory of a Kustomization's status; entries that nobody could have written are left out.
func KustomizationInventory(status *kustomizev1.KustomizationStatus) delivery.Inventory {
	inv := delivery.Inventory{}
	if status.Inventory == nil {
		return inv
	}
	for _, e := range status.Inventory.Entries {
		if ref, ok := delivery.ParseInventoryID(e.ID); ok {
			inv[ref] = e.Version
		}
	}
	return inv
}

// KustomizationStatus gives the status that follows from an outcome. old is left as it is; times of conditions that
// did not change are kept. The history tells of an attempt if anything else has changed: it is no reason of its own to write.
func KustomizationStatus(old kustomizev1.KustomizationStatus, app delivery.App, out delivery.Outcome, now time.Time) kustomizev1.KustomizationStatus {
	s := *old.DeepCopy()
	c := conditions{list: s.Conditions, generation: app.Generation, now: now}
	c.summary(out)
	c.health(app, out)
	c.ignored(app.Ignored)
	c.skipped(out)
	s.Conditions = c.list
	if out.Phase == delivery.Ready || out.Phase == delivery.Stalled { // as upstream: what fails is tried again
		s.ObservedGeneration = app.Generation
	}
	if r := out.Attempted.String(); r != "" {
		s.LastAttemptedRevision = r
	}
	if r := out.Applied.String(); r != "" {
		s.LastAppliedRevision, s.LastAppliedOriginRevision = r, out.Origin
	}
	if out.Handled != "" {
		s.LastHandledReconcileAt = out.Handled
	}
	s.Inventory = resourceInventory(out.Inventory)
	if attempted := out.Phase == delivery.Ready || out.Phase == delivery.Failing; attempted && out.Digest != "" && !equality.Semantic.DeepEqual(old, s) {
		remember(&s.History, out, now)
	}
	return s
}

// resourceInventory writes an inventory as a Kustomization's status has it; nil: it is empty.
func resourceInventory(inv delivery.Inventory) *kustomizev1.ResourceInventory {
	if len(inv) == 0 {
		return nil
	}
	out := &kustomizev1.ResourceInventory{}
	for _, ref := range inv.Refs() {
		out.Entries = append(out.Entries, kustomizev1.ResourceRef{ID: ref.InventoryID(), Version: inv[ref]})
	}
	return out
}

// HandBack takes out of a Kustomization what only Keelson understands, for Flux to go on with; false: there is nothing. An intent
// becomes part of the inventory. What a person has set stays.
func HandBack(k *kustomizev1.Kustomization) (changed bool) {
	ours := func(c metav1.Condition) bool { return c.Type == IgnoredCondition || c.Type == SkippedCondition }
	if slices.ContainsFunc(k.Status.Conditions, ours) {
		k.Status.Conditions = slices.DeleteFunc(k.Status.Conditions, ours)
		changed = true
	}
	if _, ok := k.Annotations[IntentAnnotation]; ok {
		k.Status.Inventory = resourceInventory(KustomizationOwned(k))
		delete(k.Annotations, IntentAnnotation)
		changed = true
	}
	return changed
}

// remember takes an attempt into the history, which upstream keeps short.
func remember(history *fluxmeta.History, out delivery.Outcome, now time.Time) {
	about := map[string]string{"revision": out.Attempted.String()}
	if out.Origin != "" {
		about["originRevision"] = out.Origin
	}
	history.Upsert(out.Digest, now, out.Took.Round(time.Microsecond), out.Reason, about)
}

// conditions edits a list of conditions.
type conditions struct {
	list       []metav1.Condition
	generation int64
	now        time.Time
}

// summary sets Ready, Reconciling and Stalled as the Flux controllers do.
func (c *conditions) summary(out delivery.Outcome) {
	switch out.Phase {
	case delivery.Ready:
		c.remove(fluxmeta.ReconcilingCondition, fluxmeta.StalledCondition)
		c.set(fluxmeta.ReadyCondition, metav1.ConditionTrue, out.Reason, out.Message)
	case delivery.Working:
		c.remove(fluxmeta.StalledCondition)
		c.set(fluxmeta.ReconcilingCondition, metav1.ConditionTrue, fluxmeta.ProgressingReason, out.Message)
		c.set(fluxmeta.ReadyCondition, metav1.ConditionUnknown, out.Reason, out.Message)
	case delivery.Failing:
		c.remove(fluxmeta.StalledCondition)
		c.set(fluxmeta.ReconcilingCondition, metav1.ConditionTrue, fluxmeta.ProgressingWithRetryReason, out.Message)
		c.set(fluxmeta.ReadyCondition, metav1.ConditionFalse, out.Reason, out.Message)
	case delivery.Stalled:
		c.remove(fluxmeta.ReconcilingCondition)
		c.set(fluxmeta.StalledCondition, metav1.ConditionTrue, out.Reason, out.Message)
		c.set(fluxmeta.ReadyCondition, metav1.ConditionFalse, out.Reason, out.Message)
	}
}

// health sets Healthy for an app that waits for health.
func (c *conditions) health(app delivery.App, out delivery.Outcome) {
	if !app.WaitsForHealth() || out.Health.Status == "" {
		if !app.WaitsForHealth() {
			c.remove(fluxmeta.HealthyCondition)
		}
		return
	}
	switch out.Health.Status {
	case delivery.Healthy:
		c.set(fluxmeta.HealthyCondition, metav1.ConditionTrue, fluxmeta.SucceededReason, healthy(app))
	case delivery.Degraded:
		c.set(fluxmeta.HealthyCondition, metav1.ConditionFalse, fluxmeta.HealthCheckFailedReason, out.Health.Message)
	default:
		c.set(fluxmeta.HealthyCondition, metav1.ConditionUnknown, fluxmeta.ProgressingReason, out.Health.Message)
	}
}

func healthy(app delivery.App) string {
	if app.Wait {
		return "every object is healthy"
	}
	return "the objects of spec.healthChecks are healthy"
}

func (c *conditions) ignored(fields []string) {
	if len(fields) == 0 {
		c.remove(IgnoredCondition)
		return
	}
	c.set(IgnoredCondition, metav1.ConditionTrue, "NotSupported", strings.Join(fields, ", ")+": not supported yet, without effect")
}

// skipped says which objects of the commit are not applied. Before the commit is rendered nothing is known of it.
func (c *conditions) skipped(out delivery.Outcome) {
	switch {
	case len(out.Skipped) > 0:
		c.set(SkippedCondition, metav1.ConditionTrue, "ToolkitReplaced", strings.Join(out.Skipped, ", ")+": not applied; Keelson takes their place")
	case out.Phase == delivery.Ready:
		c.remove(SkippedCondition)
	}
}

func (c *conditions) set(kind string, status metav1.ConditionStatus, reason, message string) {
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage-3], "") + "..."
	}
	meta.SetStatusCondition(&c.list, metav1.Condition{
		Type: kind, Status: status, Reason: reason, Message: message,
		ObservedGeneration: c.generation, LastTransitionTime: metav1.NewTime(c.now),
	})
}

func (c *conditions) remove(kinds ...string) {
	c.list = slices.DeleteFunc(c.list, func(x metav1.Condition) bool { return slices.Contains(kinds, x.Type) })
}
