package dialect

import (
	"cmp"
	"slices"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/delivery"
)

// HelmReleaseRecord reads what a HelmRelease's status remembers of its release, newest snapshot first.
func HelmReleaseRecord(s *helmv2.HelmReleaseStatus) delivery.ReleaseRecord {
	r := delivery.ReleaseRecord{
		StorageNamespace: s.StorageNamespace, HelmChart: s.HelmChart,
		Observed:            s.ObservedGeneration,
		PostRenderersDigest: s.ObservedPostRenderersDigest, CommonMetadataDigest: s.ObservedCommonMetadataDigest,
		Attempted: s.LastAttemptedGeneration, AttemptedAction: delivery.ReleaseAction(s.LastAttemptedReleaseAction),
		Revision: s.LastAttemptedRevision, RevisionDigest: s.LastAttemptedRevisionDigest, ConfigDigest: s.LastAttemptedConfigDigest,
		Failures: s.Failures, InstallFailures: s.InstallFailures, UpgradeFailures: s.UpgradeFailures,
		HandledForce: s.LastHandledForceAt, HandledReset: s.LastHandledResetAt,
		Released: verdict(s, helmv2.ReleasedCondition), TestSuccess: verdict(s, helmv2.TestSuccessCondition),
		Remediated: verdict(s, helmv2.RemediatedCondition), Drifted: verdict(s, helmv2.DriftedCondition),
	}
	if d := s.LastAttemptedReleaseActionDuration; d != nil {
		r.AttemptedTook = d.Duration
	}
	for _, snapshot := range s.History {
		if snapshot != nil {
			r.History = append(r.History, releaseSnapshot(snapshot))
		}
	}
	slices.SortStableFunc(r.History, func(a, b delivery.ReleaseSnapshot) int { return b.Version - a.Version })
	r.Inventory = releaseInventory(s)
	return r
}

func releaseInventory(s *helmv2.HelmReleaseStatus) delivery.Inventory {
	if s.Inventory == nil {
		return nil
	}
	inv := delivery.Inventory{}
	for _, e := range s.Inventory.Entries {
		if ref, ok := delivery.ParseInventoryID(e.ID); ok {
			inv[ref] = e.Version
		}
	}
	return inv
}

func verdict(s *helmv2.HelmReleaseStatus, condition string) delivery.Verdict {
	c := meta.FindStatusCondition(s.Conditions, condition)
	if c == nil {
		return delivery.Verdict{}
	}
	return delivery.Verdict{Status: string(c.Status), Reason: c.Reason, Message: c.Message}
}

func releaseSnapshot(s *helmv2.Snapshot) delivery.ReleaseSnapshot {
	out := delivery.ReleaseSnapshot{
		APIVersion: s.APIVersion, Digest: s.Digest, Name: s.Name, Namespace: s.Namespace, Version: s.Version,
		Status: s.Status, Action: delivery.ReleaseAction(s.Action),
		ChartName: s.ChartName, ChartVersion: s.ChartVersion, AppVersion: s.AppVersion, ConfigDigest: s.ConfigDigest, OCIDigest: s.OCIDigest,
		FirstDeployed: s.FirstDeployed.Time, LastDeployed: s.LastDeployed.Time, Deleted: s.Deleted.Time,
		Tested: s.TestHooks != nil,
	}
	for name, h := range s.GetTestHooks() {
		if out.Tests == nil {
			out.Tests = map[string]delivery.TestHook{}
		}
		if h == nil { // not run yet
			h = &helmv2.TestHookStatus{}
		}
		out.Tests[name] = delivery.TestHook{Started: h.LastStarted.Time, Completed: h.LastCompleted.Time, Phase: h.Phase}
	}
	return out
}

// HelmReleaseStatus gives the status that follows from an outcome. Where the outcome has no reason of its own, Ready says what the
// release comes to. old is left as it is; times of conditions that did not change are kept.
func HelmReleaseStatus(old helmv2.HelmReleaseStatus, app delivery.App, out delivery.Outcome, now time.Time) helmv2.HelmReleaseStatus {
	s := *old.DeepCopy()
	test := app.Release.Test
	if out.Release != nil {
		record(&s, *out.Release)
	}
	r := HelmReleaseRecord(&s)
	if out.Release != nil {
		r = *out.Release
	}
	c := conditions{list: s.Conditions, generation: app.Generation, now: now}
	said := out.Reason != ""
	verdict := r.Verdict(test)
	if !said {
		usual := fluxmeta.ProgressingReason
		if out.Phase == delivery.Ready {
			usual = fluxmeta.SucceededReason
		}
		out.Reason, out.Message = cmp.Or(verdict.Reason, usual), cmp.Or(out.Message, verdict.Message)
	}
	c.summary(out)
	if out.Phase == delivery.Ready && !said && verdict.False() { // a failed test that nothing follows from, as upstream
		c.set(fluxmeta.ReadyCondition, metav1.ConditionFalse, out.Reason, out.Message)
	}
	if out.Phase == delivery.Stalled && out.GivenUp && verdict.False() { // Stalled tells that it is given up, Ready why it failed, as upstream
		c.set(fluxmeta.ReadyCondition, metav1.ConditionFalse, verdict.Reason, verdict.Message)
	}
	c.ignored(app.Ignored)
	if !r.Remedied(test) {
		r.Remediated = delivery.Verdict{}
	}
	if !test.Enable {
		r.TestSuccess = delivery.Verdict{}
	}
	if app.Release.Drift == delivery.DriftDisabled {
		r.Drifted = delivery.Verdict{}
	}
	c.verdict(helmv2.ReleasedCondition, r.Released)
	c.verdict(helmv2.TestSuccessCondition, r.TestSuccess)
	c.verdict(helmv2.RemediatedCondition, r.Remediated)
	c.verdict(helmv2.DriftedCondition, r.Drifted)
	s.Conditions = c.list
	if out.Phase == delivery.Ready || out.Phase == delivery.Stalled { // as upstream: what fails is tried again
		s.ObservedGeneration = app.Generation
	}
	if out.Phase == delivery.Ready {
		s.ObservedPostRenderersDigest, s.ObservedCommonMetadataDigest = app.Release.PostRenderersDigest, app.Release.CommonMetadataDigest
	}
	if out.Handled != "" {
		s.LastHandledReconcileAt = out.Handled
	}
	return s
}

// verdict sets a condition, or takes it away. What was said for another generation stays as it is: it is not looked at anew.
func (c *conditions) verdict(kind string, v delivery.Verdict) {
	if v.Status == "" {
		c.remove(kind)
		return
	}
	if is := meta.FindStatusCondition(c.list, kind); is != nil && string(is.Status) == v.Status && is.Reason == v.Reason && is.Message == v.Message {
		return
	}
	c.set(kind, metav1.ConditionStatus(v.Status), v.Reason, v.Message)
}

// record writes a record into a status, but for its conditions and for what only a success changes.
func record(s *helmv2.HelmReleaseStatus, r delivery.ReleaseRecord) {
	s.StorageNamespace, s.HelmChart = r.StorageNamespace, r.HelmChart
	s.LastAttemptedGeneration, s.LastAttemptedReleaseAction = r.Attempted, helmv2.ReleaseAction(r.AttemptedAction)
	s.LastAttemptedReleaseActionDuration = nil
	if r.AttemptedTook > 0 {
		s.LastAttemptedReleaseActionDuration = &metav1.Duration{Duration: r.AttemptedTook}
	}
	s.LastAttemptedRevision, s.LastAttemptedRevisionDigest, s.LastAttemptedConfigDigest = r.Revision, r.RevisionDigest, r.ConfigDigest
	if r.Attempted != 0 { // what older versions of Flux wrote instead
		s.LastAttemptedValuesChecksum, s.LastReleaseRevision = "", 0 //nolint:staticcheck // deprecated: that is why
	}
	s.Failures, s.InstallFailures, s.UpgradeFailures = r.Failures, r.InstallFailures, r.UpgradeFailures
	s.LastHandledForceAt, s.LastHandledResetAt = r.HandledForce, r.HandledReset
	s.History = nil
	for _, snapshot := range r.History {
		s.History = append(s.History, fluxSnapshot(snapshot))
	}
	if releaseInventory(s).Equal(r.Inventory) { // in whatever order: Flux's is that of the manifest
		return
	}
	s.Inventory = nil
	if len(r.Inventory) > 0 {
		s.Inventory = &helmv2.ResourceInventory{}
		for _, ref := range r.Inventory.Refs() {
			s.Inventory.Entries = append(s.Inventory.Entries, helmv2.ResourceRef{ID: ref.InventoryID(), Version: r.Inventory[ref]})
		}
	}
}

func fluxSnapshot(s delivery.ReleaseSnapshot) *helmv2.Snapshot {
	out := &helmv2.Snapshot{
		APIVersion: s.APIVersion, Digest: s.Digest, Name: s.Name, Namespace: s.Namespace, Version: s.Version,
		Status: s.Status, Action: helmv2.ReleaseAction(s.Action),
		ChartName: s.ChartName, ChartVersion: s.ChartVersion, AppVersion: s.AppVersion, ConfigDigest: s.ConfigDigest, OCIDigest: s.OCIDigest,
		FirstDeployed: seconds(s.FirstDeployed), LastDeployed: seconds(s.LastDeployed), Deleted: seconds(s.Deleted),
	}
	if !s.Tested {
		return out
	}
	hooks := map[string]*helmv2.TestHookStatus{}
	for name, h := range s.Tests {
		hooks[name] = &helmv2.TestHookStatus{LastStarted: seconds(h.Started), LastCompleted: seconds(h.Completed), Phase: h.Phase}
	}
	out.SetTestHooks(hooks)
	return out
}

// seconds is a time as a status keeps it: to the second.
func seconds(t time.Time) metav1.Time {
	if t.IsZero() {
		return metav1.Time{}
	}
	return metav1.NewTime(t.UTC().Truncate(time.Second))
}

// HelmHandBack takes out of a HelmRelease's status what only Keelson understands, for Flux to go on with; false: there is nothing.
func HelmHandBack(hr *helmv2.HelmRelease) (changed bool) {
	return meta.RemoveStatusCondition(&hr.Status.Conditions, IgnoredCondition)
}
