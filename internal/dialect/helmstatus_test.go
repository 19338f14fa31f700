package dialect_test

import (
	"reflect"
	"slices"
	"testing"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

// A status as helm-controller writes it.
const fluxStatus = `
observedGeneration: 4
observedPostRenderersDigest: sha256:0f
observedCommonMetadataDigest: sha256:0e
lastAttemptedGeneration: 4
helmChart: flux-system/apps-web
storageNamespace: apps
lastAttemptedReleaseAction: upgrade
lastAttemptedReleaseActionDuration: 12.5s
failures: 3
installFailures: 1
upgradeFailures: 2
lastAttemptedRevision: 6.5.4+0cc9a8446c95
lastAttemptedRevisionDigest: sha256:0d
lastAttemptedConfigDigest: sha256:0c
lastHandledForceAt: then
lastHandledResetAt: earlier
lastHandledReconcileAt: then
inventory:
  entries:
  - {id: _a.example_apiextensions.k8s.io_CustomResourceDefinition, v: v1}
  - {id: apps_web_apps_Deployment, v: v1}
history:
- apiVersion: v2
  digest: sha256:0b
  name: web
  namespace: apps
  version: 7
  status: failed
  action: upgrade
  chartName: podinfo
  chartVersion: 6.5.4
  appVersion: 6.5.4
  configDigest: sha256:0c
  ociDigest: sha256:0d
  firstDeployed: "2026-11-20T10:00:00Z"
  lastDeployed: "2026-11-21T10:00:00Z"
  deleted: null
  testHooks:
    smoke: {lastStarted: "2026-11-21T10:00:01Z", lastCompleted: "2026-11-21T10:00:02Z", phase: Failed}
    load: {lastStarted: null, lastCompleted: null}
- digest: sha256:0a
  name: web
  namespace: apps
  version: 6
  status: superseded
  chartName: podinfo
  chartVersion: 6.5.3
  configDigest: sha256:0c
  firstDeployed: "2026-11-20T10:00:00Z"
  lastDeployed: "2026-11-20T10:00:00Z"
  deleted: "2026-11-21T10:00:00Z"
  testHooks: {}
conditions:
- {type: Reconciling, status: "True", reason: ProgressingWithRetry, message: again, observedGeneration: 4, lastTransitionTime: "2026-11-21T10:00:00Z"}
- {type: Ready, status: "False", reason: UpgradeFailed, message: boom, observedGeneration: 4, lastTransitionTime: "2026-11-21T10:00:00Z"}
- {type: Released, status: "False", reason: UpgradeFailed, message: boom, observedGeneration: 4, lastTransitionTime: "2026-11-21T10:00:00Z"}
`

// What Flux has written is read and written back as it was, so that Flux finds it again, too. Every field of the status is in it.
func TestHelmReleaseRecord(t *testing.T) {
	var old helmv2.HelmReleaseStatus
	decode(t, fluxStatus, &old)
	without := []string{"LastAttemptedValuesChecksum", "LastReleaseRevision", "APIVersion", "AppVersion", "Action", "OCIDigest", "Deleted", "TestHooks"}
	notEmpty(t, reflect.ValueOf(old), "status", without)

	r := dialect.HelmReleaseRecord(&old)
	notEmpty(t, reflect.ValueOf(r), "record", []string{"Made", "TestSuccess", "Remediated", "Drifted", "APIVersion", "AppVersion", "Action", "OCIDigest", "Deleted", "Tests", "Group", "Namespace"})
	app := delivery.App{Generation: 4, Release: &delivery.HelmRelease{}}
	out := delivery.Outcome{Phase: delivery.Failing, Reason: "UpgradeFailed", Message: "boom", Release: &r}
	got := dialect.HelmReleaseStatus(old, app, out, noon)
	got.Conditions[0].Message = "again"
	if diff := cmp.Diff(old, got); diff != "" {
		t.Errorf("-was +is:\n%s", diff)
	}
	if latest, previous := r.Latest(), r.Previous(false); latest.Version != 7 || !latest.TestFailed() || previous == nil || previous.Version != 6 || !previous.HasBeenTested() {
		t.Errorf("latest %+v, previous %+v", latest, previous)
	}
}

// notEmpty complains of every field, but for some, that is not set.
func notEmpty(t *testing.T, v reflect.Value, path string, without []string) {
	t.Helper()
	switch v.Kind() {
	case reflect.Pointer:
		notEmpty(t, v.Elem(), path, without)
	case reflect.Slice:
		for i := range v.Len() {
			notEmpty(t, v.Index(i), path+"[]", without)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[metav1.Time]() || v.Type() == reflect.TypeFor[time.Time]() || v.Type() == reflect.TypeFor[metav1.Condition]() {
			return
		}
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			if slices.Contains(without, name) {
				continue
			}
			if v.Field(i).IsZero() {
				t.Errorf("%s.%s is not set", path, name)
			}
			notEmpty(t, v.Field(i), path+"."+name, without)
		}
	}
}

func TestHelmReleaseStatus(t *testing.T) {
	yes := func(reason, message string) delivery.Verdict {
		return delivery.Verdict{Status: "True", Reason: reason, Message: message}
	}
	no := func(reason, message string) delivery.Verdict {
		return delivery.Verdict{Status: "False", Reason: reason, Message: message}
	}
	tested := delivery.HelmTest{Enable: true}
	tests := map[string]struct {
		test delivery.HelmTest
		out  delivery.Outcome
		want []string
	}{
		"installed": {
			out:  delivery.Outcome{Phase: delivery.Ready, Release: &delivery.ReleaseRecord{Released: yes("InstallSucceeded", "installed")}},
			want: []string{"Ready True InstallSucceeded installed", "Released True InstallSucceeded installed"},
		},
		"installed and tested": {
			test: tested,
			out: delivery.Outcome{Phase: delivery.Ready, Release: &delivery.ReleaseRecord{
				Released: yes("InstallSucceeded", "installed"), TestSuccess: yes("TestSucceeded", "1 test"),
			}},
			want: []string{"Ready True TestSucceeded 1 test", "Released True InstallSucceeded installed", "TestSuccess True TestSucceeded 1 test"},
		},
		"tests are not asked for any more": {
			out: delivery.Outcome{Phase: delivery.Ready, Release: &delivery.ReleaseRecord{
				Released: yes("InstallSucceeded", "installed"), TestSuccess: no("TestFailed", "1 test"),
			}},
			want: []string{"Ready True InstallSucceeded installed", "Released True InstallSucceeded installed"},
		},
		"upgrading": {
			out:  delivery.Outcome{Phase: delivery.Working, Reason: "Progressing", Message: "running upgrade", Release: &delivery.ReleaseRecord{Released: yes("InstallSucceeded", "installed")}},
			want: []string{"Reconciling True Progressing running upgrade", "Ready Unknown Progressing running upgrade", "Released True InstallSucceeded installed"},
		},
		"an upgrade failed": {
			test: tested,
			out: delivery.Outcome{Phase: delivery.Failing, Release: &delivery.ReleaseRecord{
				Released: no("UpgradeFailed", "boom"), TestSuccess: yes("TestSucceeded", "of the version before"),
			}},
			want: []string{
				"Reconciling True ProgressingWithRetry boom", "Ready False UpgradeFailed boom", "Released False UpgradeFailed boom",
				"TestSuccess True TestSucceeded of the version before",
			},
		},
		"rolled back, for good": {
			out: delivery.Outcome{Phase: delivery.Stalled, Release: &delivery.ReleaseRecord{
				Released: no("UpgradeFailed", "boom"), Remediated: yes("RollbackSucceeded", "back at 6"),
			}},
			want: []string{
				"Stalled True RollbackSucceeded back at 6", "Ready False RollbackSucceeded back at 6", "Released False UpgradeFailed boom",
				"Remediated True RollbackSucceeded back at 6",
			},
		},
		"rolled back because of a test": {
			test: tested,
			out: delivery.Outcome{Phase: delivery.Failing, Release: &delivery.ReleaseRecord{
				Released: yes("UpgradeSucceeded", "upgraded"), TestSuccess: no("TestFailed", "1 test"), Remediated: yes("RollbackSucceeded", "back at 6"),
			}},
			want: []string{
				"Reconciling True ProgressingWithRetry back at 6", "Ready False RollbackSucceeded back at 6", "Released True UpgradeSucceeded upgraded",
				"TestSuccess False TestFailed 1 test", "Remediated True RollbackSucceeded back at 6",
			},
		},
		"upgraded after a rollback": {
			out: delivery.Outcome{Phase: delivery.Ready, Release: &delivery.ReleaseRecord{
				Released: yes("UpgradeSucceeded", "upgraded"), Remediated: yes("RollbackSucceeded", "back at 6"),
			}},
			want: []string{"Ready True UpgradeSucceeded upgraded", "Released True UpgradeSucceeded upgraded"},
		},
		"a test failed, and nothing follows from it": {
			test: tested,
			out: delivery.Outcome{Phase: delivery.Ready, Release: &delivery.ReleaseRecord{
				Released: yes("UpgradeSucceeded", "upgraded"), TestSuccess: no("TestFailed", "1 test"),
			}},
			want: []string{"Ready False TestFailed 1 test", "Released True UpgradeSucceeded upgraded", "TestSuccess False TestFailed 1 test"},
		},
		"no chart, and what is known of the release stays": {
			out:  delivery.Outcome{Phase: delivery.Failing, Reason: "SourceNotReady", Message: "no chart yet"},
			want: []string{"Reconciling True ProgressingWithRetry no chart yet", "Ready False SourceNotReady no chart yet", "Released True InstallSucceeded before"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			old := helmv2.HelmReleaseStatus{Conditions: []metav1.Condition{
				{Type: "Released", Status: "True", Reason: "InstallSucceeded", Message: "before", ObservedGeneration: 1},
			}}
			app := delivery.App{Generation: 2, Release: &delivery.HelmRelease{Test: tt.test, Drift: delivery.DriftDisabled, PostRenderersDigest: "sha256:1"}}
			s := dialect.HelmReleaseStatus(old, app, tt.out, noon)
			var got []string
			for _, c := range s.Conditions {
				got = append(got, c.Type+" "+string(c.Status)+" "+c.Reason+" "+c.Message)
			}
			slices.Sort(got)
			slices.Sort(tt.want)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
			if settled := tt.out.Phase == delivery.Ready || tt.out.Phase == delivery.Stalled; settled != (s.ObservedGeneration == 2) {
				t.Errorf("%s observes generation %d", tt.out.Phase, s.ObservedGeneration)
			}
			if ready := tt.out.Phase == delivery.Ready; ready != (s.ObservedPostRenderersDigest == "sha256:1") {
				t.Errorf("%s remembers post-renderers %q", tt.out.Phase, s.ObservedPostRenderersDigest)
			}
		})
	}
}

// flux reconcile hr --force and --reset write one token into two annotations; each is taken once.
func TestHelmReleaseRequests(t *testing.T) {
	for name, tt := range map[string]struct {
		annotations, status string
		force, reset        bool
	}{
		"none":                       {"{}", "{}", false, false},
		"a reconciliation":           {"{reconcile.fluxcd.io/requestedAt: b}", "{}", false, false},
		"forced":                     {"{reconcile.fluxcd.io/requestedAt: b, reconcile.fluxcd.io/forceAt: b}", "{lastHandledReconcileAt: a, lastHandledForceAt: a}", true, false},
		"forced and reset":           {"{reconcile.fluxcd.io/requestedAt: b, reconcile.fluxcd.io/forceAt: b, reconcile.fluxcd.io/resetAt: b}", "{}", true, true},
		"handled":                    {"{reconcile.fluxcd.io/requestedAt: b, reconcile.fluxcd.io/forceAt: b}", "{lastHandledReconcileAt: b, lastHandledForceAt: b}", false, false},
		"another one is forced":      {"{reconcile.fluxcd.io/requestedAt: b, reconcile.fluxcd.io/forceAt: a}", "{}", false, false},
		"without a reconciliation":   {"{reconcile.fluxcd.io/forceAt: b}", "{}", false, false},
		"forced before, asked again": {"{reconcile.fluxcd.io/requestedAt: c, reconcile.fluxcd.io/forceAt: b}", "{lastHandledReconcileAt: b, lastHandledForceAt: b}", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			hr := &helmv2.HelmRelease{}
			decode(t, tt.annotations, &hr.Annotations)
			decode(t, tt.status, &hr.Status)
			app, err := dialect.HelmRelease(hr)
			if err != nil {
				t.Fatal(err)
			}
			// As upstream's own functions have it.
			wantForce, wantReset := helmv2.ShouldHandleForceRequest(hr.DeepCopy()), helmv2.ShouldHandleResetRequest(hr.DeepCopy())
			r := dialect.HelmReleaseRecord(&hr.Status)
			force, reset := r.Take(app, hr.Status.LastHandledReconcileAt)
			if force != tt.force || reset != tt.reset || force != wantForce || reset != wantReset {
				t.Errorf("force %t, reset %t; upstream %t, %t", force, reset, wantForce, wantReset)
			}
			if again, _ := r.Take(app, hr.Status.LastHandledReconcileAt); again {
				t.Error("forced twice")
			}
		})
	}
}

// What a history forgets is what upstream's does.
func TestReleaseRecordRemembers(t *testing.T) {
	for name, statuses := range map[string][]string{
		"the first":                {"deployed"},
		"an upgrade":               {"deployed", "superseded"},
		"failures after a release": {"failed", "failed", "superseded", "superseded"},
		"failures only":            {"failed", "failed", "failed", "failed", "failed", "failed", "failed"},
		"a test failed":            {"deployed", "superseded test", "superseded", "superseded"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, ignoreTests := range []bool{false, true} {
				var up helmv2.Snapshots
				var r delivery.ReleaseRecord
				for i := len(statuses) - 1; i >= 0; i-- {
					status, failed := statuses[i], false
					if status == "superseded test" {
						status, failed = "superseded", true
					}
					s := delivery.ReleaseSnapshot{Name: "web", Version: len(statuses) - i, Status: status}
					u := &helmv2.Snapshot{Name: "web", Version: len(statuses) - i, Status: status}
					if failed {
						s.Tested, s.Tests = true, map[string]delivery.TestHook{"smoke": {Phase: "Failed"}}
						u.SetTestHooks(map[string]*helmv2.TestHookStatus{"smoke": {Phase: "Failed"}})
					}
					r.Remember(s, ignoreTests, false)
					r.Remember(s, ignoreTests, false)
					up = append(up, u)
					up.Truncate(ignoreTests)
				}
				var want, got []int
				for _, u := range up {
					want = append(want, u.Version)
				}
				for _, s := range r.History {
					got = append(got, s.Version)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("versions (-upstream +ours):\n%s", diff)
				}
				if u, p := up.Previous(ignoreTests), r.Previous(ignoreTests); (u == nil) != (p == nil) || (u != nil && u.Version != p.Version) {
					t.Errorf("previous: upstream %v, ours %v", u, p)
				}
			}
		})
	}
}
