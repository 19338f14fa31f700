package release

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"keelson.dev/keelson/internal/delivery"
)

// Result is what an action has come to.
type Result struct {
	// Snapshots are the versions that were written to the storage, newest first, each as it was written last; one of an uninstalled release
	// is there though its Secret may be gone.
	Snapshots []delivery.ReleaseSnapshot
	Inventory delivery.Inventory // of the newest version; nil: the action did not make one
	// Unchanged: a takeover found that an upgrade would change nothing.
	Unchanged bool
	Repaired  []string  // objects that were repaired
	Changed   []Changed // where [Options.Witness] wants it
	Mended    []Changed // the objects that were repaired, as they were found and as they are again, where it wants it
	Began     time.Time
	Took      time.Duration
}

// Begun is the record of a decision with its action under way: what is attempted is remembered before anything is done.
func Begun(want Want, d Decision) delivery.ReleaseRecord {
	rec := d.Record
	switch d.Action {
	case Install, Upgrade, TakeOver:
		rec.StorageNamespace = want.App.Release.StorageNamespace
		rec.Attempted = want.App.Generation
		rec.Revision, rec.RevisionDigest, rec.ConfigDigest = want.ChartVersion, want.OCIDigest, want.ConfigDigest
		rec.AttemptedAction = delivery.UpgradeRelease
		if d.Action == Install { // what there was is gone
			rec.AttemptedAction, rec.History = delivery.InstallRelease, nil
		}
	}
	return rec
}

// Done is the record once a decision's action has ended: its history, counters and verdicts. rec is what [Begun] gave; err is why the
// action failed, in words that may be shown; nil: it did not.
func Done(want Want, d Decision, rec delivery.ReleaseRecord, res Result, err error) delivery.ReleaseRecord {
	n := noter{want: want, d: d, rec: rec, res: res, err: err}
	n.rec.History = slices.Clone(rec.History)
	switch d.Action {
	case Install, Upgrade, TakeOver:
		n.released()
	case Rollback:
		n.remember(delivery.RollbackRelease)
		n.remedied(reasonRolledBack, ReasonRollback, "rollback to previous release")
	case Uninstall:
		n.uninstalled()
	case Test:
		n.tested()
	case Unlock:
		n.unlocked()
	case Note:
		if last := n.rec.Latest(); last != nil && last.Action == delivery.RollbackRelease {
			n.remember(delivery.RollbackRelease)
			n.remedied(reasonRolledBack, ReasonRollback, "rollback to previous release")
		} else {
			n.released()
		}
	case Repair:
		n.repaired()
	}
	return n.rec
}

type noter struct {
	want Want
	d    Decision
	rec  delivery.ReleaseRecord
	res  Result
	err  error
}

// remediationOf is the remediation of the action that was tried last.
func remediationOf(rel *delivery.HelmRelease, rec delivery.ReleaseRecord) delivery.Remediation {
	if rec.AttemptedAction == delivery.InstallRelease {
		return rel.Install.Remediation
	}
	return rel.Upgrade.Remediation
}

// remember takes the written versions into the history.
func (n *noter) remember(action delivery.ReleaseAction) {
	remediation := remediationOf(n.want.App.Release, n.rec)
	for i, s := range slices.Backward(n.res.Snapshots) {
		s.APIVersion = snapshotVersion
		s.Action = action
		if i > 0 || action == "" { // an older version: what was done to it is remembered
			for _, old := range n.rec.History {
				if old.Targets(s.Name, s.Namespace, s.Version) {
					s.Action = old.Action
					if !s.Tested {
						s.Tested, s.Tests = old.Tested, old.Tests
					}
				}
			}
			if i > 0 && !slices.ContainsFunc(n.rec.History, func(o delivery.ReleaseSnapshot) bool { return o.Targets(s.Name, s.Namespace, s.Version) }) {
				continue // of others
			}
		}
		n.rec.Remember(s, remediation.IgnoreTestFailures, remediation.Retry > 0)
	}
	if n.res.Inventory != nil {
		n.rec.Inventory = n.res.Inventory
	}
}

// named is "namespace/name.v2 with chart name@version", of the newest snapshot, or of what is wanted.
func (n *noter) named() string {
	if len(n.res.Snapshots) > 0 {
		return n.res.Snapshots[0].FullName() + " with chart " + n.res.Snapshots[0].VersionedChart()
	}
	if last := n.rec.Latest(); last != nil && n.d.Action != Install && n.d.Action != Upgrade && n.d.Action != TakeOver {
		return last.FullName() + " with chart " + last.VersionedChart()
	}
	return n.d.Target.String() + " with chart " + n.want.ChartName + "@" + n.want.ChartVersion
}

// releases is whether it is an install or an upgrade that has ended.
func (n *noter) releases() delivery.ReleaseAction {
	noted := n.d.Action == Note || n.d.Action == TakeOver && n.res.Unchanged && n.d.State == Unnoted // what made it is known
	if last := n.rec.Latest(); n.d.Action == Install || noted && last != nil && last.Action == delivery.InstallRelease {
		return delivery.InstallRelease
	}
	return delivery.UpgradeRelease
}

// released is the end of an install or an upgrade (the messages are upstream's).
func (n *noter) released() {
	word, reason, failed := "upgrade", reasonUpgraded, ReasonUpgrade
	action := n.releases()
	if action == delivery.InstallRelease {
		word, reason, failed = "install", reasonInstalled, ReasonInstall
	}
	n.remember(action)
	n.rec.AttemptedAction = action
	if n.d.Action != Note { // how long that took is not known
		n.rec.AttemptedTook = n.res.Took.Round(time.Millisecond)
	}
	n.rec.Remediated, n.rec.TestSuccess = delivery.Verdict{}, delivery.Verdict{}
	if n.err == nil {
		n.rec.Released = delivery.Verdict{Status: "True", Reason: reason, Message: fmt.Sprintf("Helm %s succeeded for release %s", word, n.named())}
		n.rec.Drifted = delivery.Verdict{}
		if last := n.rec.Latest(); last != nil {
			n.rec.Made = delivery.Made{Version: last.Version, Generation: n.want.App.Generation}
		}
		if !n.want.App.Release.Test.Enable {
			n.rec.Forgive()
		}
		return
	}
	n.rec.Released = delivery.Verdict{
		Status: "False", Reason: failed,
		Message: fmt.Sprintf("Helm %s failed for release %s: %s", word, n.named(), delivery.FaultOf(n.err, failed)),
	}
	n.rec.Failures++
	if len(n.res.Snapshots) == 0 || errors.Is(n.err, ErrCancelled) {
		return // nothing to remedy: it is tried again (upstream counts only what was written)
	}
	if action == delivery.InstallRelease {
		n.rec.InstallFailures++
	} else {
		n.rec.UpgradeFailures++
	}
}

// remedied is the end of what followed a failure.
func (n *noter) remedied(reason, failed, word string) {
	if n.err == nil {
		n.rec.Remediated = delivery.Verdict{Status: "True", Reason: reason, Message: fmt.Sprintf("Helm %s %s succeeded", word, n.named())}
		return
	}
	n.rec.Failures++
	n.rec.Remediated = delivery.Verdict{Status: "False", Reason: failed, Message: fmt.Sprintf("Helm %s %s failed: %s", word, n.named(), delivery.FaultOf(n.err, failed))}
}

func (n *noter) uninstalled() {
	name := n.named()
	if n.d.Remedy {
		n.remember(delivery.RemediateRelease)
		n.remedied(reasonUninstalled, ReasonUninstall, "uninstall remediation for release")
	} else {
		n.remember(delivery.UninstallRelease)
		n.rec.Released = delivery.Verdict{Status: "False", Reason: reasonUninstalled, Message: "Helm uninstall succeeded for release " + name}
		if n.err != nil {
			n.rec.Failures++
			n.rec.Released = delivery.Verdict{Status: "False", Reason: ReasonUninstall, Message: fmt.Sprintf("Helm uninstall failed for release %s: %s", name, delivery.FaultOf(n.err, ReasonUninstall))}
		}
	}
	if n.err != nil {
		return
	}
	n.rec.Inventory = nil
	if len(n.rec.History) > 0 { // whatever version of it was there, or none: it is gone
		n.rec.History[0].Status = statusUninstalled
	}
	if n.d.State == Moved { // what is installed next is another release
		n.rec.History, n.rec.StorageNamespace = nil, ""
		n.rec.Forgive()
	}
}

func (n *noter) tested() {
	n.remember("")
	rel := n.want.App.Release
	if n.err == nil {
		n.rec.Forgive()
		n.rec.TestSuccess = delivery.Verdict{Status: "True", Reason: reasonTested, Message: fmt.Sprintf("Helm test succeeded for release %s: %s", n.named(), hooks(n.rec.Latest()))}
		return
	}
	n.rec.Failures++
	n.rec.TestSuccess = delivery.Verdict{Status: "False", Reason: ReasonTest, Message: fmt.Sprintf("Helm test failed for release %s: %s", n.named(), delivery.FaultOf(n.err, ReasonTest))}
	if len(n.res.Snapshots) == 0 || errors.Is(n.err, ErrCancelled) {
		return // they did not run
	}
	switch {
	case n.rec.AttemptedAction == delivery.InstallRelease && !rel.Install.Remediation.IgnoreTestFailures:
		n.rec.InstallFailures++
	case n.rec.AttemptedAction == delivery.UpgradeRelease && !rel.Upgrade.Remediation.IgnoreTestFailures:
		n.rec.UpgradeFailures++
	}
}

// hooks is "no test hooks", "1 test hook completed successfully".
func hooks(s *delivery.ReleaseSnapshot) string {
	switch {
	case s == nil || len(s.Tests) == 0:
		return "no test hooks"
	case len(s.Tests) == 1:
		return "1 test hook completed successfully"
	}
	return fmt.Sprintf("%d test hooks completed successfully", len(s.Tests))
}

func (n *noter) unlocked() {
	name := n.named()
	n.remember("")
	n.rec.Released = delivery.Verdict{Status: "False", Reason: ReasonPending, Message: "Unlocked Helm release " + name + " in a pending state"}
	if n.err != nil {
		n.rec.Failures++
		n.rec.Released.Message = fmt.Sprintf("Unlock of Helm release %s failed: %s", name, delivery.FaultOf(n.err, ReasonPending))
	}
}

func (n *noter) repaired() {
	if n.err != nil {
		n.rec.Drifted = delivery.Verdict{Status: "True", Reason: ReasonDrift, Message: delivery.FaultOf(n.err, ReasonDrift).Error()}
		return
	}
	n.rec.Drifted = delivery.Verdict{Status: "False", Reason: ReasonNoDrift, Message: "No drift detected"}
}

// Settled is the record of an app that nothing is left to do for: its release is in sync, tested, and what identifies its declaration is
// remembered.
func Settled(want Want, rec delivery.ReleaseRecord) delivery.ReleaseRecord {
	rec.Observed = want.App.Generation
	rec.Attempted = want.App.Generation
	rec.Revision, rec.RevisionDigest, rec.ConfigDigest = want.ChartVersion, want.OCIDigest, want.ConfigDigest
	rec.PostRenderersDigest, rec.CommonMetadataDigest = want.App.Release.PostRenderersDigest, want.App.Release.CommonMetadataDigest
	rec.Forgive()
	if last := rec.Latest(); last != nil && !rec.Released.True() {
		// A rollback has led to what is wanted now (upstream's message).
		rec.Released = delivery.Verdict{Status: "True", Reason: reasonUpgraded, Message: "Helm upgrade succeeded for release " + last.FullName() + " with chart " + last.VersionedChart()}
		rec.Remediated = delivery.Verdict{}
	}
	return rec
}
