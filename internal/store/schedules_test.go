package store

import (
	"testing"
	"time"
)

func TestSchedules(t *testing.T) {
	db, ctx := newDB(t), t.Context()
	p := must(db.EnsureProject(ctx, "group/app"))(t)
	s := must(db.KeepSchedule(ctx, p.ID, "nightly", "UTC 0 1 * * *"))(t)
	diff(t, "a new one", s, Schedule{Project: p.ID, Name: "nightly", Spec: "UTC 0 1 * * *", Seen: day})
	command := Command{Kind: "schedule", User: "nobody", Args: []byte("{}")}
	for _, c := range []struct {
		name  string
		spec  string
		due   time.Time
		taken bool
	}{
		{"before it was known", s.Spec, day.Add(-time.Hour), false},
		{"due", s.Spec, day.Add(time.Hour), true},
		{"due again", s.Spec, day.Add(time.Hour), false},
		{"by what it was before", "UTC 0 2 * * *", day.Add(2 * time.Hour), false},
		{"due later", s.Spec, day.Add(2 * time.Hour), true},
	} {
		s.Spec = c.spec
		if taken := must(db.Due(ctx, s, c.due, command))(t); taken != c.taken {
			t.Errorf("%s: %t", c.name, taken)
		}
	}
	for range 2 {
		c := must(db.Take(ctx))(t)
		diff(t, "command", []any{c.Kind, string(c.Args)}, []any{"schedule", "{}"})
	}
	ok(t, db.Scheduled(ctx, p.ID, "nightly", 7))
	s = must(db.KeepSchedule(ctx, p.ID, "nightly", "UTC 0 1 * * *"))(t)
	diff(t, "as it is", s, Schedule{Project: p.ID, Name: "nightly", Spec: "UTC 0 1 * * *", Seen: day.Add(2 * time.Hour), Pipeline: 7})
	s = must(db.KeepSchedule(ctx, p.ID, "nightly", "UTC 0 3 * * *"))(t)
	diff(t, "another time", s, Schedule{Project: p.ID, Name: "nightly", Spec: "UTC 0 3 * * *", Seen: day, Pipeline: 7})
	must(db.KeepSchedule(ctx, p.ID, "weekly", "x"))(t)
	ok(t, db.ForgetSchedules(ctx, p.ID, "weekly"))
	s = must(db.KeepSchedule(ctx, p.ID, "nightly", "UTC 0 3 * * *"))(t)
	diff(t, "forgotten", s.Pipeline, int64(0))
	_, err := db.KeepSchedule(ctx, 99, "x", "y")
	refused(t, err, ErrNotFound)
	_, err = db.KeepSchedule(ctx, p.ID, "a\x00b", "y")
	refused(t, err, nil, "name")
}

func TestMirrors(t *testing.T) {
	db, ctx := newDB(t), t.Context()
	refs, known, err := db.Mirror(ctx, "shop", "https://a")
	ok(t, err)
	diff(t, "unknown", []any{refs, known}, []any{map[string]string(nil), false})
	ok(t, db.SetMirror(ctx, "shop", "https://a", map[string]string{"refs/heads/main": "a"}))
	ok(t, db.SetMirror(ctx, "shop", "https://a", map[string]string{"refs/heads/main": "b"}, Command{Kind: "push", Args: []byte("1")}, Command{Kind: "push"}))
	refs, known, err = db.Mirror(ctx, "shop", "https://a")
	ok(t, err)
	diff(t, "known", []any{refs, known}, []any{map[string]string{"refs/heads/main": "b"}, true})
	_, known, err = db.Mirror(ctx, "shop", "https://b")
	ok(t, err)
	diff(t, "known of another URL", known, false)
	must(db.writer.Exec(`UPDATE mirrors SET source = ''`))(t)
	_, known, err = db.Mirror(ctx, "shop", "https://b")
	ok(t, err)
	diff(t, "known of before the URL was noted", known, true)
	diff(t, "first", string(must(db.Take(ctx))(t).Args), "1")
	must(db.Take(ctx))(t)
	refused(t, db.SetMirror(ctx, "shop", "https://a", nil, Command{Kind: ""}, Command{Kind: "a\x00"}), nil, "kind")
}

// TestUpstream holds that a pipeline knows the job of another project that has started it.
func TestUpstream(t *testing.T) {
	db, ctx := newDB(t), t.Context()
	p := newPipeline(t, db, "group/app", func(p *Pipeline) { p.Upstream = 77 })
	newPipeline(t, db, "group/app", nil)
	all := must(db.Pipelines(ctx, PipelineFilter{Upstream: 77}))(t)
	if len(all) != 1 || all[0].ID != p.ID || all[0].Upstream != 77 {
		t.Errorf("%+v", all)
	}
}
