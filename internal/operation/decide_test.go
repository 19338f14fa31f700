package operation_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/operation"
)

func TestDecide(t *testing.T) {
	web := delivery.Ref{Kind: "ConfigMap", Namespace: "shop", Name: "web"}
	differs := delivery.Comparison{Ref: web, Differs: true, Counts: true}
	extra := delivery.Comparison{Ref: delivery.Ref{Kind: "ConfigMap", Name: "old"}, Differs: true, Counts: true, RequiresPruning: true}
	open := delivery.Window{Automated: true, Manual: true}
	auto := delivery.SyncPolicy{Automated: true, Windows: open}
	heal := delivery.SyncPolicy{Automated: true, SelfHeal: true, Windows: open}
	at := func(phase delivery.OperationPhase, revision string, change ...func(*delivery.Operation)) *delivery.Operation {
		op := &delivery.Operation{
			Phase: phase, Revisions: []string{revision}, Message: "why", Finished: start,
			Request: delivery.OperationRequest{Automated: true},
		}
		for _, c := range change {
			c(op)
		}
		return op
	}
	retries := func(limit, tried int) func(*delivery.Operation) {
		return func(op *delivery.Operation) {
			op.Request.Retry.Limit, op.Retries = limit, tried
			*op = operation.End(*op, op.Phase, op.Message, op.Finished)
		}
	}
	healed := func(times int) func(*delivery.Operation) {
		return func(op *delivery.Operation) { op.Request.Healing, op.Request.Attempts = true, times }
	}
	unpruned := heal
	unpruned.Prune, unpruned.Options.NoPrune = true, true
	byPerson := func(op *delivery.Operation) { op.Request.Automated, op.Request.By = false, "kim" }
	byRollout := func(op *delivery.Operation) { op.Request.By = "applicationset-controller" }
	const ok, failed, running = delivery.OperationSucceeded, delivery.OperationFailed, delivery.OperationRunning
	asked := &delivery.OperationRequest{By: "kim"}
	tests := []struct {
		name   string
		s      operation.Standing
		begins string // "", "asked", "automated", "healing", "retry"
		after  time.Duration
		why    string
	}{
		{"in sync", operation.Standing{Policy: auto, InSync: true}, "", 0, ""},
		{"manual", operation.Standing{Policy: delivery.SyncPolicy{Windows: open}}, "", 0, ""},
		{"asked", operation.Standing{Asked: asked, InSync: true}, "asked", 0, ""},
		{"asked while one is under way", operation.Standing{Asked: asked, Last: at(running, "a")}, "", 0, ""},
		{"the first commit", operation.Standing{Policy: auto}, "automated", 0, ""},
		{"a new commit", operation.Standing{Policy: auto, Last: at(ok, "z")}, "automated", 0, ""},
		{"a new commit after a failure", operation.Standing{Policy: auto, Last: at(failed, "z", retries(5, 2))}, "automated", 0, ""},
		{"other parameters after a failure", operation.Standing{Policy: auto, Changed: true, Last: at(failed, "a")}, "automated", 0, ""},
		{"after a failure", operation.Standing{Policy: heal, Last: at(failed, "a")}, "", 0, "Failed last sync attempt to a: why"},
		{"after a success", operation.Standing{Policy: auto, Last: at(ok, "a")}, "", 0, "it differs from Git although it was synced to a, and selfHeal is off"},
		{"drift", operation.Standing{Policy: heal, Last: at(ok, "a"), Drifted: []delivery.Ref{web}}, "healing", 0, ""},
		{"drift that is to be repaired later", operation.Standing{Policy: heal, Last: at(ok, "a")}, "", 0, "what differs cannot be repaired now"},
		{"drift after somebody synced", operation.Standing{Policy: heal, Last: at(ok, "a", byPerson), Drifted: []delivery.Ref{web}}, "healing", 0, ""},
		{
			"drift of what was repaired twice in a row",
			operation.Standing{Policy: heal, Now: start.Add(500 * time.Millisecond), Last: at(ok, "a", healed(2)), Drifted: []delivery.Ref{web}}, "healing 3", 0, "",
		},
		{
			"drift of what was repaired five times in a row",
			operation.Standing{Policy: heal, Now: start.Add(500 * time.Millisecond), Last: at(ok, "a", healed(5)), Drifted: []delivery.Ref{web}},
			"", 1500 * time.Millisecond, "it differs from Git again although it was repaired 5 times in a row",
		},
		{
			"drift of what was repaired five times, after the pause",
			operation.Standing{Policy: heal, Now: start.Add(2 * time.Second), Last: at(ok, "a", healed(5)), Drifted: []delivery.Ref{web}}, "healing 6", 0, "",
		},
		{
			"drift of what was repaired, and was in sync for long",
			operation.Standing{Policy: heal, Now: start.Add(time.Hour), Last: at(ok, "a", healed(20)), Drifted: []delivery.Ref{web}}, "healing", 0, "",
		},
		{
			"what left Git after a success, and is not pruned",
			operation.Standing{Policy: unpruned, Last: at(ok, "a"), Compared: []delivery.Comparison{extra, {Ref: web}}, Drifted: []delivery.Ref{extra.Ref}},
			"", 0, "what differs cannot be repaired now",
		},
		{
			"nothing but what is not pruned",
			operation.Standing{Policy: unpruned, Compared: []delivery.Comparison{extra, {Ref: web}}}, "", 0,
			"what differs would have to be pruned, and automated pruning is off",
		},
		{
			"on hold",
			operation.Standing{Policy: delivery.SyncPolicy{Automated: true, Windows: open, Held: &delivery.Hold{Owner: "kim", Reason: "rolled back"}}},
			"", 0, "auto-sync is on hold: it is left to kim: rolled back",
		},
		{
			"a window", operation.Standing{Policy: delivery.SyncPolicy{Automated: true, Windows: delivery.Window{Manual: true, Why: "deny", Next: start.Add(2 * time.Hour)}}},
			"", time.Hour, "Sync operation blocked by sync window: deny",
		},
		{"nothing but pruning", operation.Standing{Policy: auto, Compared: []delivery.Comparison{extra, {Ref: web}}}, "", 0, "what differs would have to be pruned, and automated pruning is off"},
		{
			"all to be pruned",
			operation.Standing{Policy: delivery.SyncPolicy{Automated: true, Prune: true, Windows: open}, Compared: []delivery.Comparison{extra}},
			"", 0, "Skipping sync attempt to a: auto-sync will wipe out all resources",
		},
		{
			"all to be pruned, and that is meant",
			operation.Standing{Policy: delivery.SyncPolicy{Automated: true, Prune: true, AllowEmpty: true, Windows: open}, Compared: []delivery.Comparison{extra}},
			"automated", 0, "",
		},
		{"a retry is due", operation.Standing{Policy: auto, Last: at(failed, "a", retries(1, 0))}, "retry", 0, ""},
		{"no more retries", operation.Standing{Policy: auto, Last: at(failed, "a", retries(2, 2))}, "", 0, "Failed last sync attempt to a: why (retried 2 times)."},
		{"retries without end", operation.Standing{Policy: auto, Last: at(failed, "a", retries(-1, 20), func(op *delivery.Operation) { op.Next = start.Add(time.Minute) })}, "retry", 0, ""},
		{"asked while another one waits for its retry", operation.Standing{Asked: asked, Policy: auto, Now: start.Add(time.Second), Last: at(failed, "a", retries(5, 1))}, "asked", 0, ""},
		{"a retry to come", operation.Standing{Policy: auto, Now: start.Add(time.Second), Last: at(failed, "a", retries(5, 1))}, "", 9 * time.Second, "Failed last sync attempt to a: why. Retrying attempt #2 at 2026-11-21T12:00:10Z"},
		{"a person's retry", operation.Standing{Policy: delivery.SyncPolicy{}, Last: at(failed, "z", byPerson, retries(5, 0))}, "retry", 0, ""},
		{"a rollout's retry", operation.Standing{Policy: delivery.SyncPolicy{Windows: open}, Last: at(failed, "a", byRollout, retries(5, 0))}, "retry", 0, ""},
		{"a rollout's retry of what is in sync but for its hooks", operation.Standing{InSync: true, Policy: delivery.SyncPolicy{Windows: open}, Last: at(failed, "a", byRollout, retries(5, 0))}, "retry", 0, ""},
		{"a retry of what is in sync", operation.Standing{InSync: true, Policy: auto, Last: at(failed, "a", retries(5, 0))}, "", 0, ""},
		{"a rollout's retry once there is a new commit", operation.Standing{Policy: delivery.SyncPolicy{Windows: open}, Last: at(failed, "z", byRollout, retries(5, 0))}, "", 0, ""},
		{"a retry once automation is off", operation.Standing{Policy: delivery.SyncPolicy{Windows: open}, Last: at(failed, "a", retries(5, 0))}, "", 0, ""},
		{"given up", operation.Standing{Last: at(failed, "a", byPerson, retries(5, 0), func(op *delivery.Operation) {
			*op = operation.GiveUp(*op, failed, "why", start)
		})}, "", 0, ""},
		{"after a dry run", operation.Standing{Policy: auto, Last: at(ok, "a", byPerson, func(op *delivery.Operation) { op.Request.DryRun = true })}, "automated", 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.s
			if s.Revisions == nil {
				s.Revisions = []string{"a"}
			}
			if s.Compared == nil {
				s.Compared = []delivery.Comparison{differs, {Ref: delivery.Ref{Kind: "ConfigMap", Name: "same"}}}
			}
			if s.Now.IsZero() {
				s.Now = start.Add(time.Hour)
			}
			d := operation.Decide(s)
			begins := ""
			switch {
			case d.Begin == nil:
			case d.Retry:
				begins = "retry"
			case d.Begin == asked:
				begins = "asked"
			case d.Begin.Healing:
				if begins = "healing"; d.Begin.Attempts != 1 {
					begins = fmt.Sprintf("healing %d", d.Begin.Attempts)
				}
				if diff := cmp.Diff([]delivery.Ref{web}, d.Begin.Only); diff != "" {
					t.Errorf("what is healed (-want +got):\n%s", diff)
				}
			default:
				begins = "automated"
			}
			if ended := operation.Retriable(s.Last) && begins != "retry" && begins != "asked" && d.After == 0; d.GivesUp != ended {
				t.Errorf("it is given up: %t, want %t", d.GivesUp, ended)
			}
			if begins != tt.begins || d.After != tt.after || d.Why != tt.why {
				t.Errorf("begins %q after %s: %q\nwant %q after %s: %q", begins, d.After, d.Why, tt.begins, tt.after, tt.why)
			}
			if d.Begin == nil {
				return
			}
			op := operation.Start(d, s)
			if op.Phase != running || !op.Started.Equal(s.Now) || !op.Finished.IsZero() || len(op.Results) != 0 || d.Retry && op.Retries != s.Last.Retries {
				t.Errorf("it starts as %+v", op)
			}
		})
	}
}

// TestStartTimes: operations with hooks that follow each other at once are told apart by the second in which they begin.
func TestStartTimes(t *testing.T) {
	for _, tt := range []struct{ last, now, want time.Duration }{
		{-time.Hour, 0, 0}, {-time.Second, 0, 0}, {0, 0, time.Second}, {0, 900 * time.Millisecond, time.Second}, {time.Second, 300 * time.Millisecond, 2 * time.Second},
		{0, 1100 * time.Millisecond, 1100 * time.Millisecond},
	} {
		op := operation.Start(operation.Decision{Begin: &delivery.OperationRequest{}}, operation.Standing{
			Last: &delivery.Operation{Started: start.Add(tt.last), Results: []delivery.OperationResult{{Hook: delivery.OperationSucceeded}}}, Now: start.Add(tt.now),
		})
		if got := op.Started.Sub(start); got != tt.want {
			t.Errorf("after one at %s, at %s: it began at %s, want %s", tt.last, tt.now, got, tt.want)
		}
	}
}

func TestPause(t *testing.T) {
	var got []time.Duration
	for n := range 8 {
		got = append(got, operation.Pause(delivery.RetryPolicy{}, n))
	}
	const s = time.Second
	if diff := cmp.Diff([]time.Duration{5 * s, 10 * s, 20 * s, 40 * s, 80 * s, 160 * s, 180 * s, 180 * s}, got); diff != "" {
		t.Errorf("pauses (-want +got):\n%s", diff)
	}
	if p := operation.Pause(delivery.RetryPolicy{Duration: s, Factor: 3, Max: time.Hour}, 1000); p != time.Hour {
		t.Errorf("the pause after 1000 attempts is %s", p)
	}
}

func TestHealPause(t *testing.T) {
	var got []time.Duration
	for n := range 14 {
		got = append(got, operation.HealPause(n))
	}
	const s = time.Second
	if diff := cmp.Diff([]time.Duration{0, 0, 0, 0, s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 64 * s, 128 * s, 256 * s, 300 * s}, got); diff != "" {
		t.Errorf("pauses (-want +got):\n%s", diff)
	}
	if p := operation.HealPause(1_000_000); p != 5*time.Minute {
		t.Errorf("the pause after a million is %s", p)
	}
}

// TestEnd: what has failed is tried again, as often as it may.
func TestEnd(t *testing.T) {
	const ok, failed, broken = delivery.OperationSucceeded, delivery.OperationFailed, delivery.OperationError
	for name, c := range map[string]struct {
		phase          delivery.OperationPhase
		limit, retries int
		invalid        string
		next           time.Duration // zero: none
		message        string
	}{
		"a success":            {ok, 5, 1, "", 0, "why"},
		"no retries":           {failed, 0, 0, "", 0, "why"},
		"the first failure":    {failed, 2, 0, "", 5 * time.Second, "why"},
		"the second failure":   {broken, 2, 1, "", 10 * time.Second, "why"},
		"the last failure":     {failed, 2, 2, "", 0, "why (retried 2 times)."},
		"without end":          {failed, -1, 90, "", 3 * time.Minute, "why"},
		"what cannot be asked": {broken, 5, 0, "no", 0, "why"},
	} {
		op := delivery.Operation{Retries: c.retries, Request: delivery.OperationRequest{Invalid: c.invalid, Retry: delivery.RetryPolicy{Limit: c.limit}}}
		got := operation.End(op, c.phase, "why", start)
		want := op
		if want.Phase, want.Message, want.Finished = c.phase, c.message, start; c.next > 0 {
			want.Next, want.Retries = start.Add(c.next), c.retries+1
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestStartRetry: another attempt is about the same revisions, or about the newest ones.
func TestStartRetry(t *testing.T) {
	for refresh, want := range map[bool]string{
		false: "Retrying operation. Attempt #1 [v1]", true: "Retrying operation with latest revisions. Attempt #1 []",
	} {
		last := operation.End(delivery.Operation{Request: delivery.OperationRequest{
			By: "kim", Revisions: []string{"v1"}, Retry: delivery.RetryPolicy{Limit: 1, Refresh: refresh},
		}}, delivery.OperationFailed, "why", start)
		s := operation.Standing{Last: &last, Now: start.Add(time.Minute)}
		op := operation.Start(operation.Decide(s), s)
		if got := fmt.Sprint(op.Message, " ", op.Request.Revisions); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
