package release

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
)

// State is how a release stands to what is wanted of it.
type State string

// The states. All but HeldByPerson, Uninstalling and Unnoted are upstream's (helm-controller, ReleaseStatus).
const (
	Absent       State = "Absent"       // there is none
	Moved        State = "Moved"        // the one there is has another name, namespace or storage namespace, or another chart
	Unmanaged    State = "Unmanaged"    // there is one that the record does not know
	Unnoted      State = "Unnoted"      // there is one that the record does not know, and it was us who made it
	Locked       State = "Locked"       // an action on it was begun and has not ended
	Uninstalling State = "Uninstalling" // an uninstall of it was begun and has not ended
	OutOfSync    State = "OutOfSync"    // it is of another chart, values or metadata
	Untested     State = "Untested"     // its tests have not run
	Failed       State = "Failed"       // its last action, or a test, failed
	Drifted      State = "Drifted"      // its objects are not as its manifest says
	HeldByPerson State = "HeldByPerson" // a person has rolled it back
	InSync       State = "InSync"
)

// Action is what is done next.
type Action string

// The actions.
const (
	None      Action = "none"
	Unlock    Action = "unlock" // what was begun and has not ended is marked as failed
	Install   Action = "install"
	Upgrade   Action = "upgrade"
	TakeOver  Action = "takeover" // an upgrade, unless it would change nothing: then the release is only taken note of
	Rollback  Action = "rollback"
	Uninstall Action = "uninstall"
	Test      Action = "test"
	Note      Action = "note"   // what was done is taken note of: a process that ended could not
	Repair    Action = "repair" // objects that drifted are written as the manifest says
	Hold      Action = "hold"   // nothing, until Git wants something else or a person resumes
	Stall     Action = "stall"  // nothing, until something changes: the retries are exhausted
)

// Runs tells whether the action does anything: whether it is one for [Engine.Act].
func (a Action) Runs() bool { return a != None && a != Hold && a != Stall }

// The reasons of conditions and faults, upstream's where there is one.
const (
	ReasonInstall        = "InstallFailed"
	ReasonUpgrade        = "UpgradeFailed"
	ReasonRollback       = "RollbackFailed"
	ReasonUninstall      = "UninstallFailed"
	ReasonTest           = "TestFailed"
	ReasonPending        = "PendingRelease"
	ReasonRetries        = "RetriesExceeded"
	ReasonNoTarget       = "MissingRollbackTarget"
	ReasonHeld           = "HeldByRollback"
	ReasonDrift          = "DriftDetected"
	ReasonNoDrift        = "NoDriftDetected"
	ReasonChart          = "ArtifactFailed"
	ReasonBuild          = "BuildFailed"
	ReasonTooLarge       = "ReleaseTooLarge"
	ReasonConflict       = "ObjectConflict"
	reasonInstalled      = "InstallSucceeded"
	reasonUpgraded       = "UpgradeSucceeded"
	reasonRolledBack     = "RollbackSucceeded"
	reasonUninstalled    = "UninstallSucceeded"
	reasonTested         = "TestSucceeded"
	deployed             = "deployed"
	statusFailed         = "failed"
	statusSuperseded     = "superseded"
	statusUninstalled    = "uninstalled"
	statusUninstalling   = "uninstalling"
	pendingPrefix        = "pending-"
	pendingInstall       = "pending-install"
	pendingUpgrade       = "pending-upgrade"
	minPending           = time.Minute
	helmControllerWriter = "helm-controller"
	personWriter         = kube.FieldManager + "-rollback" // of "keelson rollback"
)

// Want is what is wanted of a release: what Git says, and what a person asks for.
type Want struct {
	App          delivery.App // with a Release
	ChartName    string
	ChartVersion string // as it is recorded: "6.5.4", or "6.5.4+3f1a2b" of an OCI artifact
	OCIDigest    string // of the OCI artifact that the chart came as; empty: it did not
	ConfigDigest string // of the values: "sha256:…"
	Handled      string // the last request for a reconciliation that was dealt with to its end, see [delivery.ReleaseRecord.Take]
	Resumed      bool   // a person has lifted the hold on the release
}

// Seen is what there is.
type Seen struct {
	delivery.ReleaseObserved
	// Writer is the field manager of the newest version's Secret: who wrote it last.
	Writer string
	// Known tells whether the record's newest snapshot is of the newest version in the storage as it is there.
	Known bool
	// Missed are, where it is not known and was written by us, the newest versions that were, newest first, each as it is there.
	Missed []delivery.StoredRelease
	// Whole: what the record knows is of the same release as what was missed, with nothing of others in between.
	Whole bool
}

// Decision is what is done next, and why.
type Decision struct {
	State   State
	Action  Action
	Reason  string // a condition's, where the action is Hold, Stall or None because of a failure; else empty
	Message string // for people: why
	// Record is the app's record as the decision leaves it: it is kept before the action runs.
	Record delivery.ReleaseRecord
	// Target is what the action is about: the wanted release, or the one that there was before.
	Target Target
	// Version is the version that a rollback goes to.
	Version int
	// Held is what a person has made, where the action is Hold.
	Held *delivery.StoredRelease
	// Remedy: the action follows a failure, and says so in Remediated; else in Released. A rollback that does not is a person's, and is held
	// as one with the helm program is.
	Remedy bool
	// Force: an install or upgrade that a person has asked for though nothing has changed.
	Force bool
	// After is how long it is waited before the action, from the last attempt; or, with None, until it makes sense to decide again.
	After time.Duration
}

// Target names a release.
type Target struct{ Name, Namespace, StorageNamespace string }

func (t Target) String() string { return t.Namespace + "/" + t.Name }

// TargetOf names the release that an app wants.
func TargetOf(app delivery.App) Target {
	return Target{Name: app.Release.Name, Namespace: app.Release.Namespace, StorageNamespace: app.Release.StorageNamespace}
}

// Decide says what is done next about a release that no action is under way for. It is pure: what is wanted, what is remembered and what
// was seen go in.
//
// The rules are upstream's (helm-controller: DetermineReleaseState and the atomic reconciler), with these differences: a person's
// "helm rollback" is held, not undone; a release that somebody else has begun to write is left to him for the time that the action
// may take; a release of the same chart, values and manifest is taken over without a new version; an uninstall that was cut off
// is resumed.
func Decide(want Want, record delivery.ReleaseRecord, seen Seen, now time.Time) Decision {
	d := decider{want: want, rel: want.App.Release, rec: record, seen: seen, now: now}
	d.rec.History = slices.Clone(record.History)
	var reset bool
	d.force, reset = d.rec.Take(want.App, want.Handled)
	d.again = d.renewed(reset) == ""
	if !d.again {
		d.rec.Forgive()
	}
	out := d.decide()
	if out.Action == Unlock || out.Action == Note { // a person's request is about what follows
		d.rec.HandledForce = record.HandledForce
		if cutOff(seen) { // and once more about what did not come to its end
			d.rec.HandledForce = ""
		}
	}
	if out.Target == (Target{}) {
		out.Target = TargetOf(want.App)
	}
	out.Record = d.rec
	return out
}

// cutOff tells of an install or upgrade of ours that did not come to its end.
func cutOff(seen Seen) bool {
	if seen.Latest == nil || seen.Writer != kube.FieldManager {
		return false
	}
	status := seen.Latest.Status
	return status == pendingInstall || status == pendingUpgrade ||
		status == statusFailed && strings.HasPrefix(seen.Latest.Description, calledOffPrefix) &&
			len(seen.Missed) > 0 && seen.Missed[0].Action != delivery.RollbackRelease
}

type decider struct {
	want   Want
	rel    *delivery.HelmRelease
	rec    delivery.ReleaseRecord
	seen   Seen
	now    time.Time
	force  bool
	again  bool // nothing else is wanted than at the last attempt
	missed bool // the history was brought up to what we have written
}

// renewed tells why failures are counted anew; empty: they are not (upstream: MustResetFailures).
func (d *decider) renewed(reset bool) string {
	switch {
	case d.rec.Attempted != d.want.App.Generation:
		return "the spec has changed"
	case d.rec.Revision != d.want.ChartVersion:
		return "the chart has changed"
	case d.rec.ConfigDigest != "" && d.rec.ConfigDigest != d.want.ConfigDigest:
		return "the values have changed"
	case reset:
		return "a person has asked for it"
	}
	return ""
}

func (d *decider) decide() Decision {
	if out, moved := d.moved(); moved {
		return out
	}
	latest := d.seen.Latest
	if latest == nil {
		if d.rec.Latest() != nil { // whoever uninstalled it: a person, or a process of ours that ended before it could say so
			d.rec.History[0].Status, d.rec.Inventory = statusUninstalled, nil
		}
		return d.absent("there is no such release")
	}
	d.catchUp()
	switch {
	case strings.HasPrefix(latest.Status, pendingPrefix):
		return d.locked(latest)
	case latest.Status == statusUninstalling:
		if after := d.othersTime(latest); after > 0 {
			return Decision{State: Uninstalling, Action: None, After: after, Message: fmt.Sprintf("%s uninstalls the release", d.seen.Writer)}
		}
		return Decision{State: Uninstalling, Action: Uninstall, Remedy: true, Message: "an uninstall was begun and has not ended"}
	case latest.Status == statusUninstalled: // by whomever
		return d.absent("the release was uninstalled")
	}
	if out, held := d.held(latest); held {
		return out
	}
	if out, ok := d.unnoted(latest, d.again); ok {
		return out
	}
	if !d.seen.Known && !d.missed {
		return d.unmanaged(latest)
	}
	switch latest.Status {
	case statusFailed:
		return d.failed("its last action failed")
	case deployed:
		return d.deployed(latest)
	}
	return d.unmanaged(latest)
}

// moved tells of a release that is to be another one: the old one is uninstalled first (upstream: ReleaseTargetChanged).
func (d *decider) moved() (Decision, bool) {
	last := d.rec.Latest()
	if d.rec.StorageNamespace == "" || last == nil || last.Status == statusUninstalled {
		return Decision{}, false
	}
	var what string
	switch {
	case d.rec.StorageNamespace != d.rel.StorageNamespace:
		what = "storage namespace"
	case last.Namespace != d.rel.Namespace:
		what = "release namespace"
	case last.Name != d.rel.Name:
		what = "release name"
	case d.want.ChartName != "" && last.ChartName != d.want.ChartName && d.rel.Upgrade.ReinstallChart:
		what = "chart name"
	default:
		return Decision{}, false
	}
	return Decision{
		State: Moved, Action: Uninstall, Message: fmt.Sprintf("the %s has changed: %s is uninstalled", what, last.FullName()),
		Target: Target{Name: last.Name, Namespace: last.Namespace, StorageNamespace: d.rec.StorageNamespace},
	}, true
}

func (d *decider) absent(why string) Decision {
	if d.rel.Install.Remediation.Retry == 0 && d.rel.Install.Remediation.Exhausted(d.rec.InstallFailures) && !d.force {
		return d.stalled(Absent, delivery.InstallRelease, d.rec.InstallFailures)
	}
	out := d.attempt(Absent, Install, why)
	if r := d.rel.Install.Remediation; r.Retry > 0 && d.rec.InstallFailures > 0 && !d.force {
		out.After = r.Retry
	}
	return out
}

// attempt is an install or an upgrade.
func (d *decider) attempt(state State, action Action, why string) Decision {
	if d.force {
		why += "; it is forced"
	}
	return Decision{State: state, Action: action, Message: why, Force: d.force}
}

func (d *decider) stalled(state State, action delivery.ReleaseAction, failures int64) Decision {
	return Decision{
		State: state, Action: Stall, Reason: ReasonRetries, Message: fmt.Sprintf("Failed to %s after %d attempt(s)", action, failures),
	}
}

// locked is about a release that an action was begun on, and none of ours is under way.
func (d *decider) locked(latest *delivery.StoredRelease) Decision {
	if after := d.othersTime(latest); after > 0 {
		return Decision{
			State: Locked, Action: None, After: after,
			Message: fmt.Sprintf("%s is at work on the release, which is %s: it is left to it until %s has passed", d.seen.Writer, latest.Status, d.patience()),
		}
	}
	return Decision{State: Locked, Action: Unlock, Message: fmt.Sprintf("the release is %s, and nobody is at work on it", latest.Status)}
}

// othersTime is how long a release is still left to who has begun to write it; zero: it was us, or Flux, which does not run beside us.
func (d *decider) othersTime(latest *delivery.StoredRelease) time.Duration {
	if d.seen.Writer == kube.FieldManager || d.seen.Writer == helmControllerWriter || d.seen.Writer == "" || d.force {
		return 0
	}
	return max(0, d.patience()-d.now.Sub(latest.LastDeployed))
}

func (d *decider) patience() time.Duration { return max(d.want.App.Timeout, minPending) }

var rolledBack = regexp.MustCompile(`^Rollback to \d+$`)

// held tells of a release that a person has rolled back and of which nothing else is wanted since.
func (d *decider) held(latest *delivery.StoredRelease) (Decision, bool) {
	byPerson := !d.seen.Known && latest.Status == deployed && rolledBack.MatchString(latest.Description) &&
		d.seen.Writer != kube.FieldManager && d.seen.Writer != helmControllerWriter
	if !byPerson || d.force || d.want.Resumed || len(d.rec.History) == 0 || d.renewed(false) != "" {
		return Decision{}, false
	}
	return Decision{
		State: HeldByPerson, Action: Hold, Reason: ReasonHeld, Held: latest,
		Message: heldMessage(latest),
	}, true
}

// heldText is what is said of a version that a person has made: its name, its chart and Helm's description.
const heldText = "%s with chart %s was made by a person, %q, and is left as it is until Git wants something else or the hold is lifted"

var heldChart = regexp.MustCompile(`^\S+ with chart [^\s@]+@(\S+) was made by a person, `)

func heldMessage(latest *delivery.StoredRelease) string {
	return fmt.Sprintf(heldText, latest.FullName(), latest.VersionedChart(), latest.Description)
}

// HeldVersion reads from the message of a condition with [ReasonHeld] which version of its chart the release is held at: the rest of a status tells of what
// Keelson has made. Empty: it does not say.
func HeldVersion(message string) string {
	if m := heldChart.FindStringSubmatch(message); m != nil {
		return m[1]
	}
	return ""
}

// unmanaged is about a release that the record does not know.
func (d *decider) unmanaged(latest *delivery.StoredRelease) Decision {
	d.rec.History = nil
	if latest.Status == deployed && latest.ChartName == d.want.ChartName && latest.ChartVersion == d.want.ChartVersion &&
		latest.ConfigDigest == d.want.ConfigDigest && !d.force {
		return Decision{State: Unmanaged, Action: TakeOver, Message: latest.FullName() + " was made by others, of the same chart and values"}
	}
	return d.attempt(Unmanaged, Upgrade, latest.FullName()+" was made or changed by others")
}

// active is the remediation, and the failures, of the action that was tried last; false: none was.
func (d *decider) active() (delivery.Remediation, int64, bool) {
	switch d.rec.AttemptedAction {
	case delivery.InstallRelease:
		return d.rel.Install.Remediation, d.rec.InstallFailures, true
	case delivery.UpgradeRelease:
		return d.rel.Upgrade.Remediation, d.rec.UpgradeFailures, true
	default:
		return delivery.Remediation{}, 0, false
	}
}

// ignoresTests tells whether a failed test is no failure of the release.
func (d *decider) ignoresTests() bool {
	if r, _, ok := d.active(); ok {
		return r.IgnoreTestFailures
	}
	return d.rel.Test.IgnoreFailures
}

// deployed is about a release that is as we left it.
func (d *decider) deployed(latest *delivery.StoredRelease) Decision {
	if why := cmp.Or(d.differs(latest), d.dressed()); why != "" {
		if d.rel.Upgrade.Remediation.Retry == 0 && d.rel.Upgrade.Remediation.Exhausted(d.rec.UpgradeFailures) && !d.force {
			return d.stalled(OutOfSync, delivery.UpgradeRelease, d.rec.UpgradeFailures)
		}
		if d.differs(latest) == "" && d.rec.Attempted == d.want.App.Generation && !d.force { // perhaps it was made, by a process that was killed before it could say so
			return Decision{State: OutOfSync, Action: TakeOver, Message: why}
		}
		return d.attempt(OutOfSync, Upgrade, why)
	}
	cur := d.rec.Latest()
	if d.rel.Test.Enable {
		if !cur.HasBeenTested() {
			return Decision{State: Untested, Action: Test, Message: "the release has not been tested"}
		}
		if _, _, ok := d.active(); ok && !d.ignoresTests() && cur.TestFailed() {
			return d.failed("a test failed")
		}
	}
	if d.rel.Drift != delivery.DriftDisabled && d.rel.Drift != "" && len(d.seen.Drift) > 0 {
		d.rec.Drifted = delivery.Verdict{Status: "True", Reason: ReasonDrift, Message: strings.Join(d.seen.Drift, "; ")}
		out := Decision{State: Drifted, Action: None, Message: d.rec.Drifted.Message}
		if d.rel.Drift == delivery.DriftEnabled {
			out.Action = Repair
		}
		return out
	}
	if d.rec.Drifted.True() {
		d.rec.Drifted = delivery.Verdict{Status: "False", Reason: ReasonNoDrift, Message: "No drift detected"}
	}
	if d.force {
		return d.attempt(InSync, Upgrade, "the release is in sync")
	}
	return Decision{State: InSync, Action: None}
}

// differs tells in what a release differs from what is wanted; empty: in nothing.
func (d *decider) differs(latest *delivery.StoredRelease) string {
	cur := d.rec.Latest()
	switch {
	case latest.ChartName != d.want.ChartName || latest.ChartVersion != d.want.ChartVersion:
		return fmt.Sprintf("the chart has changed from %s to %s@%s", latest.VersionedChart(), d.want.ChartName, d.want.ChartVersion)
	case cur.ConfigDigest != d.want.ConfigDigest:
		return "the values have changed"
	}
	return ""
}

// dressed tells whether what chart and values give is to be changed otherwise than it was; empty: it is not.
func (d *decider) dressed() string {
	switch gen := d.want.App.Generation; {
	// What follows is remembered at the end, and cannot change without another generation.
	case d.rec.Observed == gen, d.rec.Made == (delivery.Made{Version: d.rec.Latest().Version, Generation: gen}):
		return ""
	case d.rec.PostRenderersDigest != d.rel.PostRenderersDigest:
		return "the post-renderers have changed"
	case d.rec.CommonMetadataDigest != d.rel.CommonMetadataDigest:
		return "the common metadata have changed"
	}
	return ""
}

// failed is about a release whose last action, or a test, failed.
func (d *decider) failed(why string) Decision {
	remediation, failures, ok := d.active()
	switch {
	case !ok:
		return d.attempt(Failed, Upgrade, why)
	case failures <= 0:
		return d.attempt(Failed, Upgrade, why+", and is tried again")
	case d.force:
		return d.attempt(Failed, Upgrade, why)
	case remediation.Retry > 0:
		out := d.attempt(Failed, Upgrade, why+", and is retried")
		out.After = remediation.Retry
		return out
	case remediation.Exhausted(failures) && !remediation.LastFailure:
		return d.stalled(Failed, d.rec.AttemptedAction, failures)
	case remediation.By == delivery.UninstallRelease || d.rec.AttemptedAction == delivery.InstallRelease:
		return Decision{State: Failed, Action: Uninstall, Remedy: true, Message: why + ": it is uninstalled"}
	}
	to := d.rec.Previous(remediation.IgnoreTestFailures)
	switch {
	case to == nil:
		return Decision{
			State: Failed, Action: Stall, Reason: ReasonNoTarget,
			Message: "Failed to perform remediation: there is no version of the release that it could be rolled back to",
		}
	case slices.Contains(d.seen.Gone, to.Version):
		return d.attempt(Failed, Upgrade, fmt.Sprintf("%s, and %s, which it could be rolled back to, is not as it was", why, to.FullName()))
	}
	return Decision{State: Failed, Action: Rollback, Remedy: true, Version: to.Version, Message: fmt.Sprintf("%s: it is rolled back to version %d", why, to.Version)}
}

// ForDeletion decides about the release of an app that is being deleted; false: there is nothing left to do. A release that the record does
// not know is left alone, unless it was us who began to make it.
func ForDeletion(app delivery.App, record delivery.ReleaseRecord, seen Seen) (Decision, bool) {
	out := Decision{Action: Uninstall, Message: "the app is deleted", Record: record, Target: TargetOf(app)}
	last := record.Latest()
	if last == nil || last.Status == statusUninstalled {
		begun := record.AttemptedAction != "" && seen.Latest != nil && seen.Latest.Status != statusUninstalled && seen.Writer == kube.FieldManager
		return out, begun
	}
	out.Target = Target{Name: last.Name, Namespace: last.Namespace, StorageNamespace: cmp.Or(record.StorageNamespace, app.Release.StorageNamespace)}
	return out, true
}
