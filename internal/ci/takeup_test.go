package ci

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/run"
	"keelson.dev/keelson/internal/pipeline/schedule"
)

// TestTakeUpPlayed holds that a pipeline which is being played already is left as it is when it is taken up, and does what is wanted of it.
func TestTakeUpPlayed(t *testing.T) {
	w := newWorld(t, "app")
	flag := filepath.Join(w.dir, "flag")
	dir := w.clone("app")
	w.commit(dir, "First", map[string]string{".gitlab-ci.yml": "a: {script: ['until test -e " + flag + "; do sleep 0.05; done']}\nb: {script: ['touch " + flag + "'], when: manual}\n"})
	w.git(dir, "push", "-q", "origin", "HEAD")
	w.until("it runs", func() bool { return w.newest() > 0 && strings.Contains(w.sum(w.first()), "a/1=running") })
	p := w.first()
	before := w.server.sink.of(p.ID)
	if err := w.server.takeUp(t.Context(), p.ID); err != nil {
		t.Errorf("again: %v", err)
	}
	if w.server.sink.of(p.ID) != before {
		t.Error("what is kept of it was replaced")
	}
	wrong := run.Command{Pipeline: p.ID, Event: schedule.Event{Kind: schedule.Play, Jobs: []string{"nosuch"}, By: "bob"}}
	if err := w.server.takeUp(t.Context(), p.ID, wrong); err == nil || errors.Is(err, run.ErrNotHere) {
		t.Errorf("no such job: %v", err)
	}
	if err := w.server.takeUp(t.Context(), p.ID, run.Command{Pipeline: p.ID, Event: schedule.Event{Kind: schedule.Play, Jobs: []string{"b"}, By: "bob"}}); err != nil {
		t.Errorf("play: %v", err)
	}
	w.await(0, 1)
	w.wants(p, "push main success: a/1=success b/1=success")
}

// TestFollowBegan holds that a job that goes on after a restart began when it began, and not when it was taken up.
func TestFollowBegan(t *testing.T) {
	w := newWorld(t, "app")
	var got Work
	s := w.server
	for _, c := range []struct {
		name    string
		started time.Time
		want    time.Time // zero: now
	}{
		{"it goes on", time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)},
		{"it starts", time.Time{}, time.Time{}},
	} {
		job := &executor.Job{Job: pipeline.Job{Environment: &pipeline.Environment{Name: "prod"}}, Started: c.started}
		w.follow = func(_ context.Context, work Work, _ *executor.Trace) error { got = work; return nil }
		now := time.Now().Add(-time.Minute)
		verify, forget := s.follow(w.projects.all[0], run.JobRef{ID: 7}, job, "token", Access{})
		if err := verify(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		forget()
		if !c.want.IsZero() && !got.Began.Equal(c.want) || c.want.IsZero() && got.Began.Before(now) {
			t.Errorf("%s: began %v", c.name, got.Began)
		}
	}
}
