package release

import (
	"slices"
	"testing"
	"time"

	"keelson.dev/keelson/internal/delivery"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// scene is a release in sync: version 2 of chart web@1.1.0, deployed by us, after version 1 of web@1.0.0.
type scene struct {
	want Want
	rec  delivery.ReleaseRecord
	seen Seen
}

func snapshot(version int, status, chart string) delivery.ReleaseSnapshot {
	return delivery.ReleaseSnapshot{
		APIVersion: "v2", Name: "web", Namespace: "dev", Version: version, Status: status, ChartName: "web", ChartVersion: chart, ConfigDigest: "sha256:c",
		LastDeployed: noon.Add(-time.Hour),
	}
}

func newScene() *scene {
	s := &scene{
		want: Want{
			App: delivery.App{
				ID: delivery.ID{Kind: "HelmRelease", Namespace: "dev", Name: "web"}, Generation: 3, Timeout: 5 * time.Minute,
				Release: &delivery.HelmRelease{
					Name: "web", Namespace: "dev", StorageNamespace: "dev", Drift: delivery.DriftDisabled,
					Install: delivery.HelmInstall{HelmWrite: delivery.HelmWrite{Remediation: delivery.Remediation{By: delivery.UninstallRelease}}},
					Upgrade: delivery.HelmUpgrade{HelmWrite: delivery.HelmWrite{Remediation: delivery.Remediation{By: delivery.RollbackRelease}}, ReinstallChart: true},
				},
			},
			ChartName: "web", ChartVersion: "1.1.0", ConfigDigest: "sha256:c",
		},
		rec: delivery.ReleaseRecord{
			StorageNamespace: "dev", History: []delivery.ReleaseSnapshot{snapshot(2, "deployed", "1.1.0"), snapshot(1, "superseded", "1.0.0")},
			Observed: 3, Attempted: 3, AttemptedAction: delivery.UpgradeRelease, Revision: "1.1.0", ConfigDigest: "sha256:c",
		},
	}
	s.stored(s.rec.History[0], true, "keelson", "Upgrade complete")
	return s
}

// stored makes a version the newest one in the storage.
func (s *scene) stored(snap delivery.ReleaseSnapshot, known bool, writer, description string) {
	s.seen.Latest = &delivery.StoredRelease{ReleaseSnapshot: snap, Description: description}
	s.seen.Known, s.seen.Writer = known, writer
}

// missed makes a version of ours the newest one in the storage, which the record does not know.
func (s *scene) missed(whole bool, action delivery.ReleaseAction, snap delivery.ReleaseSnapshot) {
	snap.Action = action
	s.stored(snap, false, "keelson", "")
	s.seen.Missed, s.seen.Whole = []delivery.StoredRelease{*s.seen.Latest}, whole
}

// failed makes the newest version one that failed, after so many failures.
func (s *scene) failed(failures int64) {
	snap := snapshot(2, "failed", "1.1.0")
	s.rec.History[0] = snap
	s.rec.UpgradeFailures, s.rec.Failures = failures, failures
	s.stored(snap, true, "keelson", "Upgrade failed")
}

func (s *scene) force() {
	s.want.App.Release.Force, s.want.App.Requested = "now", "now"
}

func TestDecide(t *testing.T) {
	upgrades := func(s *scene) *delivery.Remediation { return &s.want.App.Release.Upgrade.Remediation }
	installs := func(s *scene) *delivery.Remediation { return &s.want.App.Release.Install.Remediation }
	for _, c := range []struct {
		name   string
		change func(s *scene)
		state  State
		action Action
		check  func(d Decision) bool
	}{
		{"nothing has changed", func(*scene) {}, InSync, None, nil},
		{"there is none", func(s *scene) { s.seen = Seen{}; s.rec = delivery.ReleaseRecord{} }, Absent, Install, nil},
		{"a person has uninstalled it", func(s *scene) { s.seen = Seen{} }, Absent, Install, func(d Decision) bool {
			return d.Record.History[0].Status == "uninstalled"
		}},
		{"uninstalled after a failed install, of which the status does not know", func(s *scene) {
			s.seen = Seen{}
			s.rec.History = []delivery.ReleaseSnapshot{snapshot(1, "failed", "1.1.0")}
			s.rec.AttemptedAction, s.rec.InstallFailures = delivery.InstallRelease, 1
		}, Absent, Stall, func(d Decision) bool { return d.Record.History[0].Status == "uninstalled" }},
		{"uninstalled, the history kept", func(s *scene) {
			s.rec.History[0].Status = "uninstalled"
			s.stored(s.rec.History[0], true, "keelson", "")
		}, Absent, Install, nil},
		{"no install is left", func(s *scene) { s.seen = Seen{}; s.rec.History = nil; s.rec.InstallFailures = 1 }, Absent, Stall, func(d Decision) bool {
			return d.Reason == "RetriesExceeded" && d.Message == "Failed to install after 1 attempt(s)"
		}},
		{"one install is left", func(s *scene) {
			s.seen = Seen{}
			s.rec.History = nil
			s.rec.InstallFailures = 1
			installs(s).Retries = 1
		}, Absent, Install, nil},
		{"installs for ever", func(s *scene) {
			s.seen = Seen{}
			s.rec.History = nil
			s.rec.InstallFailures = 99
			installs(s).Retries = -1
		}, Absent, Install, nil},
		{"no install is left, and it is forced", func(s *scene) { s.seen = Seen{}; s.rec.History = nil; s.rec.InstallFailures = 1; s.force() }, Absent, Install, func(d Decision) bool { return d.Force }},
		{"no install is left, and a reset is asked for", func(s *scene) {
			s.seen = Seen{}
			s.rec.History = nil
			s.rec.InstallFailures = 1
			s.want.App.Release.Reset, s.want.App.Requested = "now", "now"
		}, Absent, Install, func(d Decision) bool { return d.Record.InstallFailures == 0 && d.Record.HandledReset == "now" }},
		{"no install is left, and the spec has changed", func(s *scene) {
			s.seen = Seen{}
			s.rec.History = nil
			s.rec.InstallFailures = 1
			s.want.App.Generation = 4
		}, Absent, Install, nil},
		{"installs are retried", func(s *scene) {
			s.seen = Seen{}
			s.rec.History = nil
			s.rec.InstallFailures = 7
			installs(s).Retry = time.Minute
		}, Absent, Install, func(d Decision) bool { return d.After == time.Minute }},

		{"another chart", func(s *scene) { s.want.ChartVersion = "1.2.0" }, OutOfSync, Upgrade, nil},
		{"other values", func(s *scene) { s.want.ConfigDigest = "sha256:d" }, OutOfSync, Upgrade, nil},
		{"other post-renderers", func(s *scene) { s.want.App.Generation = 4; s.want.App.Release.PostRenderersDigest = "sha256:p" }, OutOfSync, Upgrade, nil},
		{"other post-renderers, of which nothing is left to try", func(s *scene) {
			s.want.App.Generation, s.rec.Attempted = 4, 4
			s.want.App.Release.PostRenderersDigest = "sha256:p"
			s.rec.UpgradeFailures = 1
		}, OutOfSync, Stall, nil},
		{"other post-renderers, made", func(s *scene) {
			s.want.App.Generation, s.rec.Attempted = 4, 4
			s.want.App.Release.PostRenderersDigest = "sha256:p"
			s.rec.Made = delivery.Made{Version: 2, Generation: 4}
		}, InSync, None, nil},
		{"other post-renderers, made and rolled back", func(s *scene) {
			s.want.App.Generation, s.rec.Attempted = 4, 4
			s.want.App.Release.PostRenderersDigest = "sha256:p"
			s.rec.Made = delivery.Made{Version: 1, Generation: 4}
			s.rec.UpgradeFailures = 1
		}, OutOfSync, Stall, nil},
		{"other post-renderers, perhaps made", func(s *scene) {
			s.want.App.Generation, s.rec.Attempted = 4, 4
			s.want.App.Release.PostRenderersDigest = "sha256:p"
		}, OutOfSync, TakeOver, nil},
		{"other common metadata", func(s *scene) { s.want.App.Generation = 4; s.want.App.Release.CommonMetadataDigest = "sha256:p" }, OutOfSync, Upgrade, nil},
		{"another generation, and nothing else", func(s *scene) { s.want.App.Generation = 4 }, InSync, None, nil},
		{"in sync, and forced", func(s *scene) { s.force() }, InSync, Upgrade, func(d Decision) bool { return d.Force && d.Record.HandledForce == "now" }},
		{"forced, and done with", func(s *scene) { s.force(); s.rec.HandledForce = "now" }, InSync, None, nil},
		{"forced, but not by a request for a reconciliation", func(s *scene) { s.force(); s.want.App.Requested = "then" }, InSync, None, func(d Decision) bool { return d.Record.HandledForce == "now" }},

		{"another name", func(s *scene) { s.want.App.Release.Name = "shop" }, Moved, Uninstall, func(d Decision) bool {
			return d.Target == Target{"web", "dev", "dev"}
		}},
		{"another namespace", func(s *scene) { s.want.App.Release.Namespace = "prod" }, Moved, Uninstall, nil},
		{"another storage namespace", func(s *scene) { s.want.App.Release.StorageNamespace = "helm"; s.seen = Seen{} }, Moved, Uninstall, func(d Decision) bool {
			return d.Target == Target{"web", "dev", "dev"}
		}},
		{"a chart of another name", func(s *scene) { s.want.ChartName = "shop" }, Moved, Uninstall, nil},
		{"a chart of another name, in place", func(s *scene) { s.want.ChartName = "shop"; s.want.App.Release.Upgrade.ReinstallChart = false }, OutOfSync, Upgrade, nil},

		{"it failed, and was not tried again", func(s *scene) { s.failed(0) }, Failed, Upgrade, nil},
		{"it failed, and no retry is left", func(s *scene) { s.failed(1) }, Failed, Stall, func(d Decision) bool { return d.Message == "Failed to upgrade after 1 attempt(s)" }},
		{"it failed, and the last failure is remedied", func(s *scene) { s.failed(1); upgrades(s).LastFailure = true }, Failed, Rollback, func(d Decision) bool { return d.Version == 1 && d.Remedy }},
		{"it failed, and a retry is left", func(s *scene) { s.failed(1); upgrades(s).Retries = 1 }, Failed, Rollback, nil},
		{"it failed, and is retried for ever", func(s *scene) { s.failed(99); upgrades(s).Retries = -1 }, Failed, Rollback, nil},
		{"it failed, and is uninstalled", func(s *scene) { s.failed(1); upgrades(s).Retries = 1; upgrades(s).By = delivery.UninstallRelease }, Failed, Uninstall, func(d Decision) bool { return d.Remedy }},
		{"it failed, and is retried without remediation", func(s *scene) { s.failed(1); upgrades(s).Retry = time.Minute }, Failed, Upgrade, func(d Decision) bool { return d.After == time.Minute }},
		{"it failed, and is forced", func(s *scene) { s.failed(1); s.force() }, Failed, Upgrade, nil},
		{"it failed, and Git wants something else", func(s *scene) { s.failed(1); s.want.ChartVersion = "1.2.0" }, Failed, Upgrade, func(d Decision) bool { return d.Record.UpgradeFailures == 0 }},
		{"it failed, and there is nothing to go back to", func(s *scene) {
			s.failed(1)
			upgrades(s).Retries = 1
			s.rec.History = s.rec.History[:1]
		}, Failed, Stall, func(d Decision) bool { return d.Reason == "MissingRollbackTarget" }},
		{"it failed, and what it goes back to has changed", func(s *scene) { s.failed(1); upgrades(s).Retries = 1; s.seen.Gone = []int{1} }, Failed, Upgrade, nil},
		{"an install failed", func(s *scene) {
			s.failed(0)
			s.rec.AttemptedAction, s.rec.InstallFailures = delivery.InstallRelease, 1
			installs(s).Retries = 3
		}, Failed, Uninstall, nil},
		{"rolled back, and no upgrade is left", func(s *scene) {
			snap := snapshot(3, "deployed", "1.0.0")
			s.rec.History = slices.Insert(s.rec.History, 0, snap)
			s.stored(snap, true, "keelson", "Rollback to 1")
			s.rec.UpgradeFailures = 1
		}, OutOfSync, Stall, nil},

		{"not tested", func(s *scene) { s.want.App.Release.Test.Enable = true }, Untested, Test, nil},
		{"tested", func(s *scene) { s.want.App.Release.Test.Enable = true; s.rec.History[0].Tested = true }, InSync, None, nil},
		{"a test failed", func(s *scene) {
			s.want.App.Release.Test.Enable = true
			s.rec.History[0].Tests = map[string]delivery.TestHook{"a": {Phase: "Failed"}}
			s.rec.UpgradeFailures = 1
			upgrades(s).LastFailure = true
		}, Failed, Rollback, nil},
		{"a test failed, which does not count", func(s *scene) {
			s.want.App.Release.Test.Enable = true
			s.rec.History[0].Tests = map[string]delivery.TestHook{"a": {Phase: "Failed"}}
			upgrades(s).IgnoreTestFailures = true
		}, InSync, None, nil},

		{"it has drifted", func(s *scene) {
			s.want.App.Release.Drift = delivery.DriftEnabled
			s.seen.Drift = []string{"ConfigMap/dev/web: data.a"}
		}, Drifted, Repair, nil},
		{"it has drifted, which is told only", func(s *scene) {
			s.want.App.Release.Drift = delivery.DriftWarn
			s.seen.Drift = []string{"ConfigMap/dev/web: data.a"}
		}, Drifted, None, func(d Decision) bool { return d.Record.Drifted.True() }},

		{"killed in the middle", func(s *scene) { s.stored(snapshot(3, "pending-upgrade", "1.2.0"), false, "keelson", "") }, Locked, Unlock, nil},
		{"Flux was killed in the middle", func(s *scene) { s.stored(snapshot(3, "pending-upgrade", "1.2.0"), false, "helm-controller", "") }, Locked, Unlock, nil},
		{"a person is at work", func(s *scene) {
			snap := snapshot(3, "pending-upgrade", "1.2.0")
			snap.LastDeployed = noon.Add(-time.Minute)
			s.stored(snap, false, "helm", "")
		}, Locked, None, func(d Decision) bool { return d.After == 4*time.Minute }},
		{"a person was at work, and is no more", func(s *scene) { s.stored(snapshot(3, "pending-upgrade", "1.2.0"), false, "helm", "") }, Locked, Unlock, nil},
		{"killed in the middle of an uninstall", func(s *scene) { s.stored(snapshot(2, "uninstalling", "1.1.0"), false, "keelson", "") }, Uninstalling, Uninstall, nil},

		{"a person's rollback", func(s *scene) { s.stored(snapshot(3, "deployed", "1.0.0"), false, "helm", "Rollback to 1") }, HeldByPerson, Hold, func(d Decision) bool {
			return d.Reason == ReasonHeld && len(d.Record.History) == 2
		}},
		{"a person's rollback, and Git wants another chart", func(s *scene) {
			s.stored(snapshot(3, "deployed", "1.0.0"), false, "helm", "Rollback to 1")
			s.want.ChartVersion = "1.2.0"
		}, Unmanaged, Upgrade, nil},
		{"a person's rollback, and Git wants other values", func(s *scene) {
			s.stored(snapshot(3, "deployed", "1.0.0"), false, "helm", "Rollback to 1")
			s.want.ConfigDigest = "sha256:d"
		}, Unmanaged, Upgrade, nil},
		{"a person's rollback, and the hold is lifted", func(s *scene) {
			s.stored(snapshot(3, "deployed", "1.0.0"), false, "helm", "Rollback to 1")
			s.want.Resumed = true
		}, Unmanaged, Upgrade, nil},
		{"a person's rollback, and an upgrade is forced", func(s *scene) {
			s.stored(snapshot(3, "deployed", "1.0.0"), false, "helm", "Rollback to 1")
			s.force()
		}, Unmanaged, Upgrade, nil},
		{"our own rollback, of which the status does not know", func(s *scene) {
			s.failed(1)
			s.missed(true, delivery.RollbackRelease, snapshot(3, "deployed", "1.0.0"))
		}, Unnoted, Note, func(d Decision) bool { return len(d.Record.History) == 3 && d.Record.UpgradeFailures == 1 }},
		{"our own rollback, and Git wants another chart", func(s *scene) {
			s.missed(true, delivery.RollbackRelease, snapshot(3, "deployed", "1.0.0"))
			s.want.ChartVersion = "1.2.0"
		}, OutOfSync, Upgrade, func(d Decision) bool { return len(d.Record.History) == 3 }},
		{"our own upgrade, of which the status does not know", func(s *scene) {
			s.missed(true, delivery.UpgradeRelease, snapshot(3, "deployed", "1.1.0"))
		}, Unnoted, Note, nil},
		{"our own upgrade, of which the status does not know the beginning either", func(s *scene) {
			s.rec.Revision = "1.0.0"
			s.missed(true, delivery.UpgradeRelease, snapshot(3, "deployed", "1.1.0"))
		}, Unnoted, TakeOver, func(d Decision) bool { return len(d.Record.History) == 3 }},
		{"our own upgrade, after one of a person", func(s *scene) {
			s.missed(false, delivery.UpgradeRelease, snapshot(4, "failed", "1.1.0"))
		}, Unnoted, Note, func(d Decision) bool { return len(d.Record.History) == 1 }},
		{"our own upgrade that failed, of which the status does not know", func(s *scene) {
			s.missed(true, delivery.UpgradeRelease, snapshot(3, "failed", "1.1.0"))
		}, Unnoted, Note, nil},
		{"our own upgrade that failed, and Git wants another chart", func(s *scene) {
			s.missed(true, delivery.UpgradeRelease, snapshot(3, "failed", "1.1.0"))
			s.want.ChartVersion = "1.2.0"
		}, Failed, Upgrade, func(d Decision) bool { return len(d.Record.History) == 3 }},
		{"our own upgrade that failed, and a force", func(s *scene) {
			s.missed(true, delivery.UpgradeRelease, snapshot(3, "failed", "1.1.0"))
			s.force()
		}, Failed, Upgrade, func(d Decision) bool { return d.Force }},
		{"our own upgrade, cut off", func(s *scene) {
			s.missed(true, delivery.UpgradeRelease, snapshot(3, "pending-upgrade", "1.1.0"))
			s.force()
		}, Locked, Unlock, func(d Decision) bool { return len(d.Record.History) == 3 && d.Record.HandledForce == "" }},
		{"our own upgrade that was forced, cut off", func(s *scene) {
			s.missed(true, delivery.UpgradeRelease, snapshot(3, "pending-upgrade", "1.1.0"))
			s.force()
			s.rec.HandledForce = "now"
		}, Locked, Unlock, func(d Decision) bool { return d.Record.HandledForce == "" }},
		{"our own upgrade that was forced, called off", func(s *scene) {
			s.missed(true, delivery.UpgradeRelease, snapshot(3, "failed", "1.1.0"))
			s.seen.Latest.Description = "Called off: no Pods"
			s.force()
			s.rec.HandledForce = "now"
		}, Unnoted, Note, func(d Decision) bool { return d.Record.HandledForce == "" }},
		{"our own upgrade that was forced, and failed", func(s *scene) {
			s.missed(true, delivery.UpgradeRelease, snapshot(3, "failed", "1.1.0"))
			s.force()
			s.rec.HandledForce = "now"
		}, Unnoted, Note, func(d Decision) bool { return d.Record.HandledForce == "now" }},
		{"our own rollback after a forced upgrade, cut off", func(s *scene) {
			s.missed(true, delivery.RollbackRelease, snapshot(3, "pending-rollback", "1.0.0"))
			s.force()
			s.rec.HandledForce = "now"
		}, Locked, Unlock, func(d Decision) bool { return d.Record.HandledForce == "now" }},
		{"our own upgrade, unlocked", func(s *scene) {
			s.missed(true, delivery.UpgradeRelease, snapshot(3, "failed", "1.1.0"))
			s.seen.Latest.Description = "Release unlocked from stale 'pending-upgrade' state"
		}, Failed, Upgrade, func(d Decision) bool { return len(d.Record.History) == 3 }},
		{"a person's upgrade", func(s *scene) { s.stored(snapshot(3, "deployed", "1.4.0"), false, "helm", "Upgrade complete") }, Unmanaged, Upgrade, nil},
		{"a person's install of the same", func(s *scene) {
			s.rec = delivery.ReleaseRecord{}
			s.stored(snapshot(1, "deployed", "1.1.0"), false, "helm", "Install complete")
		}, Unmanaged, TakeOver, nil},
		{"a person's install of another chart", func(s *scene) {
			s.rec = delivery.ReleaseRecord{}
			s.stored(snapshot(1, "deployed", "1.0.0"), false, "helm", "Install complete")
		}, Unmanaged, Upgrade, nil},
		{"a person's install that failed", func(s *scene) {
			s.rec = delivery.ReleaseRecord{}
			s.stored(snapshot(1, "failed", "1.1.0"), false, "helm", "")
		}, Unmanaged, Upgrade, nil},
		{"a person's uninstall with history", func(s *scene) {
			s.rec = delivery.ReleaseRecord{}
			s.stored(snapshot(1, "uninstalled", "1.1.0"), false, "helm", "")
		}, Absent, Install, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene()
			c.change(s)
			was := slices.Clone(s.rec.History)
			d := Decide(s.want, s.rec, s.seen, noon)
			if d.State != c.state || d.Action != c.action {
				t.Fatalf("%s: %s, want %s: %s (%s)", d.State, d.Action, c.state, c.action, d.Message)
			}
			if c.check != nil && !c.check(d) {
				t.Errorf("%+v", d)
			}
			if d.Action != None && d.Message == "" {
				t.Error("it does not say why")
			}
			if len(was) != len(s.rec.History) {
				t.Error("the record that was given has changed")
			}
		})
	}
}

// A failed install with retries goes through its whole budget and no further.
func TestBudget(t *testing.T) {
	s := newScene()
	s.seen, s.rec = Seen{}, delivery.ReleaseRecord{}
	s.want.App.Release.Install.Remediation.Retries = 2
	s.want.App.Release.Install.Remediation.LastFailure = true
	var actions []Action
	for range 10 {
		d := Decide(s.want, s.rec, s.seen, noon)
		actions = append(actions, d.Action)
		if !d.Action.Runs() {
			break
		}
		rec := Begun(s.want, d)
		snap := snapshot(1, "failed", "1.1.0")
		res, err := Result{Snapshots: []delivery.ReleaseSnapshot{snap}}, error(&failedError{"Deployment/dev/web", "no"})
		if d.Action == Uninstall {
			snap.Status = "uninstalled"
			res, err = Result{Snapshots: []delivery.ReleaseSnapshot{snap}}, nil
			s.seen = Seen{}
		} else {
			s.stored(snap, true, "keelson", "")
		}
		s.rec = Done(s.want, d, rec, res, err)
	}
	if want := []Action{Install, Uninstall, Install, Uninstall, Install, Uninstall, Stall}; !slices.Equal(actions, want) {
		t.Errorf("%v, want %v", actions, want)
	}
}

func TestForDeletion(t *testing.T) {
	gone := snapshot(1, "uninstalled", "1.0.0")
	for _, c := range []struct {
		name   string
		change func(s *scene)
		want   bool
	}{
		{"a release", func(*scene) {}, true},
		{"none", func(s *scene) { s.rec.History, s.seen = nil, Seen{} }, false},
		{"one that was uninstalled", func(s *scene) { s.rec.History, s.seen = []delivery.ReleaseSnapshot{gone}, Seen{} }, false},
		{"one that was uninstalled, and we have begun to make it again", func(s *scene) {
			s.rec.History = []delivery.ReleaseSnapshot{gone}
			s.stored(snapshot(1, "pending-install", "1.1.0"), false, "keelson", "")
		}, true},
		{"one that was uninstalled, and a person has made it again", func(s *scene) {
			s.rec.History = []delivery.ReleaseSnapshot{gone}
			s.stored(snapshot(1, "deployed", "1.1.0"), false, "helm", "")
		}, false},
	} {
		s := newScene()
		c.change(s)
		if d, got := ForDeletion(s.want.App, s.rec, s.seen); got != c.want || d.Action != Uninstall {
			t.Errorf("%s: %t, %+v", c.name, got, d)
		}
	}
}
