package controller

import (
	"slices"
	"testing"
	"time"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/history"
)

// lastWords is a history of what was told last of each delivery.
type lastWords struct {
	keys []string
	all  map[string]string
}

func (*lastWords) Commit(history.Commit) {}

func (*lastWords) Parts(string, []history.Part) {}
func (l *lastWords) Repair(history.Repair)      {}

func (l *lastWords) Delivery(d history.Delivery) {
	if !slices.Contains(l.keys, d.Key) {
		l.keys = append(l.keys, d.Key)
	}
	l.all[d.Key] = d.Trigger + " " + d.Actor + ": " + d.Status
}

func (l *lastWords) lines() (out []string) {
	for _, key := range l.keys {
		out = append(out, l.all[key])
	}
	return out
}

// TestSyncAfterAFailure: what fails goes on as one delivery, until somebody asks for it, or it begins for another reason.
func TestSyncAfterAFailure(t *testing.T) {
	for name, test := range map[string]struct {
		next occasion
		want []string
	}{
		"once more": {occasion{}, []string{"commit : succeeded"}},
		"a person":  {occasion{trigger: history.BySync, actor: "jane"}, []string{"commit : superseded", "sync jane: succeeded"}},
		"drift":     {occasion{trigger: history.ByDrift}, []string{"commit : superseded", "drift : succeeded"}},
	} {
		t.Run(name, func(t *testing.T) {
			told := &lastWords{all: map[string]string{}}
			now := time.Unix(0, 0)
			a := &apps{history: told, now: func() time.Time { now = now.Add(time.Second); return now }}
			p := &pass{st: &appState{}, req: deliver.Request{Snapshot: delivery.Snapshot{Revision: delivery.Revision{Commit: "aaa"}}}}
			before := delivery.Revision{Commit: "000"}
			test.next.previous = before
			a.beginsDelivery(p, occasion{previous: before})
			a.concludeDelivery(p, delivery.Outcome{Phase: delivery.Failing, Message: "refused"}, before)
			a.beginsDelivery(p, test.next)
			a.concludeDelivery(p, delivery.Outcome{Phase: delivery.Ready}, before)
			if got := told.lines(); !slices.Equal(got, test.want) {
				t.Errorf("it says %q, want %q", got, test.want)
			}
		})
	}
}
