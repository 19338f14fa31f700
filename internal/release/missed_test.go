package release

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v4/pkg/release/common"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/delivery"
)

// versions is the history of the record: "2 failed upgrade".
func (r *release) versions() string {
	var out []string
	for _, s := range r.record.History {
		out = append(out, strings.TrimSpace(strings.Join([]string{"v" + string(rune('0'+s.Version)), s.Status, string(s.Action)}, " ")))
	}
	return strings.Join(out, ", ")
}

// lost does a step whose end the status does not learn of: begun tells whether it knew of its beginning.
func (r *release) lost(begun bool) {
	r.Helper()
	before, want := r.record, r.want()
	seen, err := r.engine.Observe(r.ctx, r.app, r.record)
	if err != nil {
		r.Fatal(err)
	}
	d := Decide(want, r.record, seen, time.Now())
	rec := Begun(want, d)
	_, _ = r.engine.Act(r.ctx, Request{Want: want, Chart: r.chart, Values: r.values}, d)
	if r.record = before; begun {
		r.record = rec
	}
	r.record.Made = delivery.Made{}
	r.steps = nil
}

// What an action came to and the status was not told of is not lost: the history goes on, failures count where it is sure that they are of
// what is wanted, and what follows from a failure follows.
func TestMissed(t *testing.T) {
	broken := files("1.1.0", with(simple(), "templates/broken.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: NOT-A-NAME}\n"))
	for _, c := range []struct {
		name    string
		missed  func(r *release)
		steps   string
		history string
	}{
		{
			"an install that succeeded", func(r *release) { r.lost(true) },
			"Unnoted: note, InSync: none", "v1 deployed install",
		}, {
			"an install that succeeded, and nobody knew of", func(r *release) { r.lost(false) },
			"Unnoted: takeover, InSync: none", "v1 deployed install",
		}, {
			"an upgrade that succeeded", func(r *release) { r.settle(); r.wants(files("1.1.0", simple())); r.lost(true) },
			"Unnoted: note, InSync: none", "v2 deployed upgrade, v1 superseded install",
		}, {
			"an upgrade that failed", func(r *release) { r.settle(); r.wants(broken); r.lost(true) },
			"Unnoted: note, Failed: rollback, OutOfSync: stall", "v3 deployed rollback, v2 failed upgrade, v1 superseded install",
		}, {
			"an upgrade that failed, and nobody knew of", func(r *release) { r.settle(); r.wants(broken); r.lost(false) },
			"Failed: upgrade, Failed: rollback, OutOfSync: stall", "v4 deployed rollback, v3 failed upgrade, v2 failed upgrade, v1 superseded install",
		}, {
			"a rollback that succeeded", func(r *release) { r.settle(); r.wants(broken); r.step(); r.lost(true) },
			"Unnoted: note, OutOfSync: stall", "v3 deployed rollback, v2 failed upgrade, v1 superseded install",
		}, {
			"a failure whose remediation Git has overtaken", func(r *release) {
				r.settle()
				r.wants(broken)
				r.lost(true)
				r.wants(files("1.2.0", with(simple(), "templates/broken.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: NEITHER}\n")))
			},
			"Failed: upgrade, Failed: rollback, OutOfSync: stall", "v4 deployed rollback, v3 failed upgrade, v2 failed upgrade, v1 superseded install",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			r := w.release("web", files("1.0.0", simple()))
			r.app.Release.Upgrade.Remediation.LastFailure = true
			c.missed(r)
			r.steps = nil
			r.settle()
			r.went(strings.Split(c.steps, ", ")...)
			if got := r.versions(); got != c.history {
				t.Errorf("history\n%s\nwant\n%s", got, c.history)
			}
		})
	}
}

// An upgrade that a shutdown calls off is tried again, is no failure that counts, and the version before it can still be rolled back to.
func TestCalledOff(t *testing.T) {
	for _, begun := range []bool{true, false} {
		w := newWorld(t)
		r := w.release("web", files("1.0.0", simple()))
		r.app.Release.Upgrade.Remediation.LastFailure = true
		r.settle()
		r.wants(files("1.1.0", with(simple(), "templates/deployment.yaml", never)))
		before, want := r.record, r.want()
		seen, err := r.engine.Observe(r.ctx, r.app, r.record)
		if err != nil {
			t.Fatal(err)
		}
		d := Decide(want, r.record, seen, time.Now())
		rec := Begun(want, d)
		ctx, cancel := context.WithCancel(w.ctx)
		time.AfterFunc(300*time.Millisecond, cancel)
		if _, err := r.engine.Act(ctx, Request{Want: want, Chart: r.chart}, d); !errors.Is(err, ErrCancelled) {
			t.Fatal(err)
		}
		// The next process.
		if r.record = before; begun {
			r.record = rec
		}
		r.steps = nil
		r.app.Release.Upgrade.Timeout = time.Second
		r.settle()
		if begun {
			r.went("Unnoted: note", "Failed: upgrade", "Failed: rollback", "OutOfSync: stall")
		} else {
			r.went("Failed: upgrade", "Failed: rollback", "OutOfSync: stall")
		}
		if got, want := r.versions(), "v4 deployed rollback, v3 failed upgrade, v2 failed upgrade, v1 superseded install"; got != want {
			t.Errorf("begun %t: history\n%s\nwant\n%s", begun, got, want)
		}
		if r.record.UpgradeFailures != 1 {
			t.Errorf("begun %t: %d failures", begun, r.record.UpgradeFailures)
		}
	}
}

// A rollback whose hook hangs is tried again and again: maxHistory bounds what that leaves, and what it goes back to stays.
func TestRollbackFailsAgain(t *testing.T) {
	w := newWorld(t)
	hook := strings.Replace(job, "pre-install", "pre-rollback", 1)
	r := w.release("web", files("1.0.0", with(simple(), "templates/hook.yaml", hook)))
	r.app.Release.Upgrade.Remediation.LastFailure = true
	r.app.Release.MaxHistory = 3
	r.app.Release.Rollback.Timeout = 200 * time.Millisecond
	r.settle()
	r.wants(files("1.1.0", with(simple(), "templates/broken.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: NOT-A-NAME}\n")))
	r.steps = nil
	for range 6 {
		r.step()
	}
	r.went("OutOfSync: upgrade", "Failed: rollback", "Failed: rollback", "Failed: rollback", "Failed: rollback", "Failed: rollback")
	got := w.history("web")
	if len(got) > 4 || !strings.HasPrefix(got[0], "1 deployed") {
		t.Errorf("helm history: %q", got)
	}
	if len(r.record.History) > 5 || r.record.Previous(false).Version != 1 {
		t.Errorf("history: %s", r.versions())
	}

	r.lost(true) // the process is killed
	r.step()
	d, _, _ := r.step()
	r.went("Unnoted: note", "Failed: rollback")
	if d.Version != 1 || len(r.record.History) > 5 {
		t.Errorf("after a restart it is rolled back to version %d: %s", d.Version, r.versions())
	}
}

// A rollback that the server does not take leaves what failed before as failed: the next one does not go to that.
func TestRollbackIsRefused(t *testing.T) {
	w := newWorld(t)
	r := w.release("web", files("1.0.0", simple()))
	r.app.Release.Upgrade.Remediation.LastFailure = true
	r.settle()
	u := w.get("v1", "configmaps", "web")
	u.Object["immutable"], u.Object["data"] = true, map[string]any{"msg": "other"}
	if _, err := w.resource("v1", "configmaps", w.ns).Update(w.ctx, u, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.wants(files("1.1.0", simple()))
	r.steps = nil
	for range 3 {
		if _, err, _ := r.step(); err == nil || !strings.Contains(err.Error(), "immutable") {
			t.Errorf("the error: %v", err)
		}
	}
	r.lost(true)
	r.steps = []string{"lost"}
	r.step()
	d, _, _ := r.step()
	r.went("lost", "Unnoted: note", "Failed: rollback")
	if d.Version != 1 {
		t.Errorf("it is rolled back to version %d", d.Version)
	}
	if got, want := r.versions(), "v6 failed rollback, v5 failed rollback, v4 failed rollback, v3 failed rollback, v1 deployed install"; got != want {
		t.Errorf("history\n%s\nwant\n%s", got, want)
	}
	for _, line := range w.history("web")[1:] {
		if !strings.Contains(line, " failed ") {
			t.Errorf("helm history: %q", line)
		}
	}
}

// The last version may be removed while it is looked for.
func TestMissedAndGone(t *testing.T) {
	w := newWorld(t)
	r := w.release("web", files("1.0.0", simple()))
	r.settle()
	if out, whole, err := w.engine.missed(w.ctx, r.app, r.record, place{w.ns, "gone"}); len(out) > 0 || whole || err != nil {
		t.Errorf("%v %t %v", out, whole, err)
	}
}

// Only the version that an action has made is told to be called off, not one before it that Helm writes again.
func TestCalledOffVersion(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := &secrets{ctx: ctx, created: 3}
	for version, want := range map[int]string{2: "no Pods", 3: "Called off: no Pods"} {
		rel := &releasev1.Release{Version: version, Info: &releasev1.Info{Status: common.StatusFailed, Description: "no Pods"}}
		if s.markCalledOff(rel); rel.Info.Description != want {
			t.Errorf("version %d says %q, want %q", version, rel.Info.Description, want)
		}
	}
}
