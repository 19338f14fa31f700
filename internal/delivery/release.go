package delivery

import (
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"time"
)

// HelmRelease is what an app's Helm release is to be: what a HelmRelease (helm.toolkit.fluxcd.io/v2) says, with upstream's defaults
// filled in. What it has in common with other apps is in [App]: Source (what gives the chart: a HelmChart or an OCIRepository), Common
// (the common metadata), HealthExprs, DependsOn, ServiceAccount, KubeConfig, Timeout, Interval, Suspend, Requested.
type HelmRelease struct {
	Name             string         // of the release, 53 bytes at most
	Namespace        string         // of the release: of its objects that name none
	StorageNamespace string         // of the Secrets with its history
	Chart            *ChartTemplate // the chart itself; App.Source, the HelmChart of it, need not be there; nil: App.Source is
	Values           []byte         // inline, JSON; over ValuesFrom; nil: none
	ValuesFrom       []ValuesRef    // later entries win over earlier ones

	Install   HelmInstall
	Upgrade   HelmUpgrade
	Rollback  HelmRollback
	Uninstall HelmUninstall
	Test      HelmTest

	Drift         DriftMode
	DriftIgnore   []IgnoreRule // fields in which a difference is no drift; the path "" is the whole object
	PostRenderers []PostRenderer
	HookRendering HookRendering
	// What identifies PostRenderers, and the app's common metadata, in the status: "sha256:…"; empty: there are none.
	PostRenderersDigest, CommonMetadataDigest string

	MaxHistory int  // how many versions the storage keeps; zero: all
	LegacyWait bool // health is told as Helm 3 told it, not by kstatus and App.HealthExprs
	// A person's requests: to install or upgrade once though nothing has changed, and to count failures anew; see [ReleaseRecord.Take].
	Force, Reset string
}

// ChartTemplate says which chart is wanted.
type ChartTemplate struct {
	Name                string // of the chart in a HelmRepository, or its folder in another source
	Version             string // a version or a range of a HelmRepository; "*": the newest
	Source              ID     // a HelmRepository or GitRepository
	Interval            time.Duration
	EachRevision        bool     // each revision of the source makes a new version of the chart, not only a new version in Chart.yaml
	ValuesFiles         []string // folders of the source; later ones win; none: the chart's values.yaml
	IgnoreMissingValues bool
	Verify              ChartVerification
}

// Wish stands for the generation of the HelmChart that Flux would make of a template, and which tells versions of a chart with other values
// files apart: it changes with the template, not with whatever else a HelmRelease says.
func (t ChartTemplate) Wish() int64 {
	t.Interval = 0
	return int64(crc32.ChecksumIEEE(fmt.Appendf(nil, "%+v", t)))
}

// ChartVerification says how a chart is verified: "cosign" or "notation", with keys of a Secret beside the source. The zero one: not.
type ChartVerification struct{ Provider, Secret string }

// ValuesRef names a ConfigMap or Secret, in the app's namespace, with values of a chart.
type ValuesRef struct {
	Kind, Name string
	Key        string // of its data
	Path       string // where the value goes, as in "helm --set"; empty: it is a document, merged at the root
	Literal    bool   // at Path, the value is text as it is, as in "helm --set-literal"
	Optional   bool   // that there is no such object, or no such key in it, is no error
}

// Secret tells whether the values are not to be told.
func (v ValuesRef) Secret() bool { return v.Kind == "Secret" }

// String is "Kind/name".
func (v ValuesRef) String() string { return v.Kind + "/" + v.Name }

// CRDPolicy says what an action does with the definitions in a chart's folder crds.
type CRDPolicy string

// The policies.
const (
	SkipCRDs    CRDPolicy = "Skip"
	CreateCRDs  CRDPolicy = "Create" // those that are not there
	ReplaceCRDs CRDPolicy = "CreateReplace"
)

// ApplyMode says by what an action writes objects.
type ApplyMode string

// The modes.
const (
	ServerSide ApplyMode = "enabled"
	ClientSide ApplyMode = "disabled"
	AsBefore   ApplyMode = "auto" // as the version of the release that is replaced was written
)

// HelmWait says how long an action goes on.
type HelmWait struct {
	Timeout time.Duration // of each of its operations, as waiting for a hook
	NoWait  bool          // for objects to be healthy
	NoJobs  bool          // for Jobs to complete
	NoHooks bool          // hooks are not run
}

// HelmWrite are options of install and upgrade.
type HelmWrite struct {
	NoTakeOwnership bool // objects that are there, of no release or another one, are an error
	NoOpenAPI       bool // manifests are not checked against the cluster's OpenAPI schemas
	NoSchema        bool // values are not checked against the chart's schema
	CRDs            CRDPolicy
	Apply           ApplyMode
	Remediation     Remediation
}

// HelmInstall are the options of installs.
type HelmInstall struct {
	HelmWait
	HelmWrite
	Replace         bool // a name that is used in the history, of an uninstalled release, is used again
	CreateNamespace bool
}

// HelmUpgrade are the options of upgrades.
type HelmUpgrade struct {
	HelmWait
	HelmWrite
	Force          bool // objects are replaced, not merged; of no effect in server-side apply
	PreserveValues bool // the values of the release are kept, under those of the app
	CleanupOnFail  bool // objects that a failed upgrade made are deleted
	ReinstallChart bool // a chart of another name is installed after the release is uninstalled; false: the release is upgraded to it
}

// HelmRollback are the options of rollbacks.
type HelmRollback struct {
	HelmWait
	Force         bool // as in upgrades
	CleanupOnFail bool
	Apply         ApplyMode
}

// HelmUninstall are the options of uninstalls.
type HelmUninstall struct {
	HelmWait
	KeepHistory bool
	Propagation string // background, foreground or orphan
}

// HelmTest says whether and how a release is tested after installs and upgrades.
type HelmTest struct {
	Enable         bool
	Timeout        time.Duration
	IgnoreFailures bool
	Filters        []TestFilter // which of the chart's tests are run; none: all
}

// TestFilter picks a test, or leaves it out.
type TestFilter struct {
	Name    string
	Exclude bool
}

// Remediation says what follows a failed install or upgrade.
type Remediation struct {
	// Retry, where not zero, tries the action again after that time, without remediation and for ever; the fields below do not count then
	// (upstream: strategy RetryOnFailure).
	Retry              time.Duration
	Retries            int           // how often a remedied action is tried again; negative: for ever
	IgnoreTestFailures bool          // a failed test is no failure
	LastFailure        bool          // what failed last is remedied too, once no retries are left
	By                 ReleaseAction // [RollbackRelease] or [UninstallRelease]
}

// Exhausted tells whether the retries are used up after so many failures.
func (r Remediation) Exhausted(failures int64) bool {
	return r.Retries >= 0 && failures > int64(r.Retries)
}

// DriftMode says what is done about drift of a release.
type DriftMode string

// The modes.
const (
	DriftDisabled DriftMode = "disabled" // it is not looked for
	DriftWarn     DriftMode = "warn"     // it is told
	DriftEnabled  DriftMode = "enabled"  // it is told and repaired
)

// PostRenderer changes the objects of a chart after they are rendered, as kustomize does.
type PostRenderer struct {
	Patches []Patch
	Images  []Image
}

// HookRendering says whether post-renderers see hooks.
type HookRendering string

// The ways.
const (
	HooksLeftOut  HookRendering = "nohooks"
	HooksCombined HookRendering = "combined" // with the other objects, in one go
	HooksSeparate HookRendering = "separate" // in a go of their own
)

// ReleaseAction is what is done to a release. Snapshots and statuses tell it by these names (v2.ReleaseAction).
type ReleaseAction string

// The actions.
const (
	InstallRelease   ReleaseAction = "install"
	UpgradeRelease   ReleaseAction = "upgrade"
	RollbackRelease  ReleaseAction = "rollback"
	UninstallRelease ReleaseAction = "uninstall"
	RemediateRelease ReleaseAction = "uninstall-remediation" // uninstall after a failure
)

// ReleaseSnapshot is what the status remembers of one version of a release in the storage (v2.Snapshot).
type ReleaseSnapshot struct {
	APIVersion      string // how Digest is computed: "v2"
	Digest          string // of the release in the storage: "sha256:…"
	Name, Namespace string
	Version         int    // of the release: 1, 2, …
	Status          string // Helm's: "deployed", "superseded", "failed", …
	Action          ReleaseAction
	ChartName       string
	ChartVersion    string
	AppVersion      string
	ConfigDigest    string // of its values: "sha256:…"
	OCIDigest       string // of the OCI artifact that the chart came as; empty: it did not
	FirstDeployed   time.Time
	LastDeployed    time.Time
	Deleted         time.Time
	Tested          bool                // the tests have been looked at; Tests is what came of them
	Tests           map[string]TestHook // by name; empty, with Tested: there are none
}

// TestHook is the last run of a test.
type TestHook struct {
	Started, Completed time.Time
	Phase              string // Helm's: Succeeded, Failed, Running, Unknown
}

// FullName is "namespace/name.v7", as upstream's messages have it.
func (s ReleaseSnapshot) FullName() string {
	return s.Namespace + "/" + s.Name + ".v" + strconv.Itoa(s.Version)
}

// VersionedChart is "name@version".
func (s ReleaseSnapshot) VersionedChart() string { return s.ChartName + "@" + s.ChartVersion }

// TestFailed tells whether a test has failed.
func (s ReleaseSnapshot) TestFailed() bool {
	for _, t := range s.Tests {
		if t.Phase == "Failed" {
			return true
		}
	}
	return false
}

// HasBeenTested tells whether the tests are over: a failed one ends them.
func (s ReleaseSnapshot) HasBeenTested() bool {
	if s.TestFailed() {
		return true
	}
	for _, t := range s.Tests {
		if t.Phase != "Succeeded" {
			return false
		}
	}
	return s.Tested
}

// Targets tells whether the snapshot is of this version of this release.
func (s ReleaseSnapshot) Targets(name, namespace string, version int) bool {
	return s.Name == name && s.Namespace == namespace && s.Version == version
}

// StoredRelease is the newest version of a release, as the storage has it.
type StoredRelease struct {
	ReleaseSnapshot                   // Action is not known
	Description     string            // Helm's: "Upgrade complete", "Rollback to 2", …
	Labels          map[string]string // of the Secret, Helm's own left out
}

// ReleaseObserved is what was found out about a release before it is decided what to do.
type ReleaseObserved struct {
	Latest *StoredRelease // nil: there is none
	// Gone tells of versions in the record's history that are not in the storage any more, or not as they were.
	Gone  []int
	Drift []string // objects that differ from the manifest, with the fields: "Deployment/dev/web: spec.replicas"; none: nothing does, or it was not looked for
}

// Verdict is what a condition of a release says: Released, TestSuccess, Remediated, Drifted. The zero Verdict: nothing.
type Verdict struct {
	Status  string // "True", "False" or "Unknown"; empty: there is no such condition
	Reason  string
	Message string
}

// True tells whether the condition is there and true.
func (v Verdict) True() bool { return v.Status == "True" }

// False tells whether the condition is there and false.
func (v Verdict) False() bool { return v.Status == "False" }

// ReleaseRecord is what the status of an app remembers of its release from one step to the next: what decisions are made of besides
// the storage, and what a step leaves changed.
type ReleaseRecord struct {
	StorageNamespace string            // of the release; empty: there has been none yet
	HelmChart        string            // "namespace/name" of the HelmChart that Flux has made for the app; empty: none
	History          []ReleaseSnapshot // newest first
	Inventory        Inventory         // the objects of the newest one's manifest, hooks left out, and the definitions of its chart's folder crds

	Observed             int64  // the generation that was last dealt with to its end
	PostRenderersDigest  string // [HelmRelease.PostRenderersDigest] when the app was last ready
	CommonMetadataDigest string // [HelmRelease.CommonMetadataDigest] when the app was last ready
	Made                 Made   // what this process has released; it is not kept in the status

	Attempted       int64 // the generation of the last attempt
	AttemptedAction ReleaseAction
	AttemptedTook   time.Duration
	Revision        string // of the last attempt: the version of its chart, "6.5.4" or "6.5.4+3f1a2b"
	RevisionDigest  string // of the OCI artifact of its chart; empty: it was none
	ConfigDigest    string // of the values of the last attempt

	Failures, InstallFailures, UpgradeFailures int64  // since the last success, or change of what is wanted
	HandledForce, HandledReset                 string // the person's last requests that were seen, whether or not they counted

	Released, TestSuccess, Remediated, Drifted Verdict
}

// Made is an install or upgrade that succeeded: the version of the release, and the generation of the app that it was made from.
type Made struct {
	Version    int
	Generation int64
}

// Latest is the newest snapshot, or nil.
func (r *ReleaseRecord) Latest() *ReleaseSnapshot {
	if len(r.History) == 0 {
		return nil
	}
	return &r.History[0]
}

// Previous is the newest snapshot before the latest that a rollback may go to, or nil: one that was deployed and, unless
// ignoreTests, whose tests did not fail.
func (r *ReleaseRecord) Previous(ignoreTests bool) *ReleaseSnapshot {
	if i := r.previous(ignoreTests); i > 0 {
		return &r.History[i]
	}
	return nil
}

func (r *ReleaseRecord) previous(ignoreTests bool) int {
	for i, s := range r.History {
		if i > 0 && (s.Status == "deployed" || s.Status == "superseded") && (ignoreTests || !s.TestFailed()) {
			return i
		}
	}
	return 0
}

// maxSnapshots bounds a history that has nothing to go back to (upstream), and what it has before that.
const maxSnapshots = 5

// Remember takes a snapshot into the history, over the one of the same version if there is one. Snapshots older than the one that
// a rollback goes to are forgotten, as upstream; with keepFailed (of apps that are retried, not remedied) only those beyond the newest five. Of what
// has failed since then, the newest are remembered: a rollback that fails again and again makes a version each time. The one that a rollback
// goes to is never forgotten.
func (r *ReleaseRecord) Remember(s ReleaseSnapshot, ignoreTests, keepFailed bool) {
	r.History = slices.DeleteFunc(slices.Clone(r.History), func(o ReleaseSnapshot) bool { return o.Targets(s.Name, s.Namespace, s.Version) })
	r.History = append(r.History, s)
	slices.SortStableFunc(r.History, func(a, b ReleaseSnapshot) int { return b.Version - a.Version })
	keep := min(len(r.History), maxSnapshots)
	i := r.previous(ignoreTests)
	if i >= maxSnapshots {
		r.History = slices.Delete(r.History, maxSnapshots-1, i)
		i = maxSnapshots - 1
	}
	if i > 0 && !keepFailed {
		keep = i + 1
	}
	r.History = r.History[:keep]
}

// Take tells whether a person's requests are new and count: a force or a reset does together with a request for a reconciliation of the
// same value that has not been handled either. That they were seen is remembered (upstream: meta.HandleAnnotationRequest).
func (r *ReleaseRecord) Take(app App, handled string) (force, reset bool) {
	take := func(request string, seen *string) bool {
		if request == "" || request == *seen {
			return false
		}
		*seen = request
		return request == app.Requested && request != handled
	}
	return take(app.Release.Force, &r.HandledForce), take(app.Release.Reset, &r.HandledReset)
}

// Verdict is what the release comes to, as the Ready condition is to say it: a remediation, else a failed test where it counts, else
// the release itself.
func (r *ReleaseRecord) Verdict(test HelmTest) Verdict {
	switch tested := test.Enable && !test.IgnoreFailures; {
	case r.Remedied(test):
		return Verdict{Status: "False", Reason: r.Remediated.Reason, Message: r.Remediated.Message}
	case tested && r.TestSuccess.Status != "" && !r.Released.False():
		return r.TestSuccess
	default:
		return r.Released
	}
}

// Remedied tells whether what was said of a remediation still holds: a release that succeeded, its tests too where they count, ends it.
func (r *ReleaseRecord) Remedied(test HelmTest) bool {
	passed := !test.Enable || test.IgnoreFailures || r.TestSuccess.True()
	return r.Remediated.Status != "" && (!r.Released.True() || !passed)
}

// Forgive counts failures anew.
func (r *ReleaseRecord) Forgive() { r.Failures, r.InstallFailures, r.UpgradeFailures = 0, 0, 0 }
