package ci

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/store"
)

// clock is one that a test sets.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) set(text string) {
	at, err := time.Parse("2006-01-02 15:04", text)
	if err != nil {
		panic(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = at
}

// scheduledWorld is a world with a clock and a repository that tells what its pipelines are made for.
func scheduledWorld(t *testing.T, at string, schedules ...Schedule) (*world, *clock) {
	w := newWorld(t, "app")
	w.end()
	c := &clock{}
	c.set(at)
	w.clock = c.now
	w.start()
	dir := w.clone("app")
	w.commit(dir, "First [skip ci]", map[string]string{".gitlab-ci.yml": "a: {script: ['echo \"$CI_PIPELINE_SOURCE [$CI_PIPELINE_SCHEDULE_DESCRIPTION] $CI_COMMIT_BRANCH $WHO\"']}\n"})
	w.git(dir, "push", "-q", "origin", "HEAD", "HEAD:other")
	w.queueIsEmpty()
	w.schedule(schedules...)
	return w, c
}

// schedule declares the schedules of the only project.
func (w *world) schedule(schedules ...Schedule) []Upcoming {
	w.Helper()
	app := w.projects.all[0]
	app.Schedules = schedules
	w.projects.set(nil, app)
	out, err := w.server.KeepSchedules(w.Context(), app)
	if err != nil {
		w.Fatal(err)
	}
	return out
}

// due lets the server look at the clock, and gives what has come of it since a pipeline.
func (w *world) due(after int64) (all []store.Pipeline) {
	w.Helper()
	w.server.lookAtTime(w.Context())
	w.queueIsEmpty()
	all, err := w.db.Pipelines(w.Context(), store.PipelineFilter{})
	if err != nil {
		w.Fatal(err)
	}
	for i, p := range all {
		if p.ID <= after {
			return all[:i]
		}
	}
	return all
}

func TestSchedules(t *testing.T) {
	w, c := scheduledWorld(t, "2026-03-28 12:00")
	up := w.schedule(Schedule{
		Name: "every morning", Cron: "0 4 * * *", Zone: "Europe/Berlin", Ref: "other", Variables: pipeline.Variables{{Name: "WHO", Value: "me", Origin: pipeline.OriginPipeline}},
	})
	if got := fmt.Sprint(up[0].Next); got != "2026-03-29 02:00:00 +0000 UTC" { // summer time begins that night
		t.Errorf("next: %s", got)
	}
	c.set("2026-03-29 01:59")
	if got := w.due(0); len(got) > 0 {
		t.Fatalf("too early: %+v", got)
	}
	c.set("2026-03-29 02:00")
	w.due(0)
	p := w.await(0, 1)[0]
	w.wants(p, "schedule other success: a/1=success")
	if log := w.log(p, "a"); !strings.Contains(log, "\nschedule [every morning] other me\n") {
		t.Errorf("%s", log)
	}
	if up := w.server.Schedules(""); len(up) != 1 || up[0].Pipeline != p.ID || fmt.Sprint(up[0].Next) != "2026-03-30 02:00:00 +0000 UTC" || up[0].Problem != "" {
		t.Errorf("%+v", up)
	}
	if got := w.due(p.ID); len(got) > 0 {
		t.Errorf("twice: %+v", got)
	}
	played, err := w.server.PlaySchedule(t.Context(), "group/app", "every morning", "bob")
	if err != nil {
		t.Fatal(err)
	}
	w.await(p.ID, 1)
	w.wants(played, "schedule other success: a/1=success")
	if played.User != "bob" {
		t.Errorf("played by %q", played.User)
	}
	if _, err := w.server.PlaySchedule(t.Context(), "group/app", "nosuch", "bob"); err == nil || !strings.Contains(err.Error(), "no schedule nosuch") {
		t.Errorf("no such schedule: %v", err)
	}
}

// TestMissedSchedules holds what happens with what was due while nothing was played.
func TestMissedSchedules(t *testing.T) {
	for _, c := range []struct {
		name, cron, from, to string
		want                 int
		next                 string
	}{
		{"one", "0 4 * * *", "2026-03-10 12:00", "2026-03-11 05:00", 1, "2026-03-12 04:00"},
		{"many", "0 * * * *", "2026-03-10 12:30", "2026-03-20 12:10", 1, "2026-03-20 13:00"},
		{"every minute", "* * * * *", "2026-03-10 12:30", "2026-03-20 12:10", 1, "2026-03-20 12:11"},
		{"too long ago", "0 4 1 * *", "2026-03-31 12:00", "2026-04-03 12:00", 0, "2026-05-01 04:00"},
		{"nothing", "0 4 1 * *", "2026-03-10 12:00", "2026-03-12 12:00", 0, "2026-04-01 04:00"},
		{"never", "0 4 30 2 *", "2026-03-10 12:00", "2026-03-12 12:00", 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, clock := scheduledWorld(t, c.from, Schedule{Name: "it", Cron: c.cron})
			w.end()
			clock.set(c.to)
			for range 2 {
				w.start()
				w.schedule(Schedule{Name: "it", Cron: c.cron})
				got := w.due(0)
				if len(got) != c.want {
					t.Fatalf("%d pipelines, want %d", len(got), c.want)
				}
				if c.want > 0 {
					w.await(0, 1)
				}
				next := ""
				if up := w.server.Schedules("group/app"); !up[0].Next.IsZero() {
					next = up[0].Next.Format("2006-01-02 15:04")
				}
				if next != c.next {
					t.Errorf("next %s, want %s", next, c.next)
				}
				w.end()
			}
		})
	}
}

// TestScheduleOnce ends the server before the pipeline of a schedule is there, and before anybody knows that it is.
func TestScheduleOnce(t *testing.T) {
	w, c := scheduledWorld(t, "2026-03-10 12:00", Schedule{Name: "it", Cron: "0 4 * * *"})
	app := w.projects.all[0]
	c.set("2026-03-11 04:00")
	known := w.server.calendar.all["group/app"]["it"].known
	args, err := json.Marshal(due{Project: "group/app", Name: "it", At: c.now()})
	if err != nil {
		t.Fatal(err)
	}
	w.end()
	w.stored(func(db *store.DB) {
		if taken, err := db.Due(t.Context(), known, c.now(), store.Command{Kind: commandSchedule, Args: args}); err != nil || !taken {
			t.Fatal(taken, err)
		}
	})
	w.start()
	w.schedule(app.Schedules...)
	p := w.await(0, 1)[0]
	w.wants(p, "schedule main success: a/1=success")
	if _, err := w.db.Enqueue(t.Context(), store.Command{Kind: commandSchedule, Args: args, Created: c.now()}); err != nil {
		t.Fatal(err)
	}
	if got := w.due(p.ID); len(got) > 0 {
		t.Errorf("a second pipeline: %+v", got)
	}
}

// TestScheduleIsTriedAgain holds that what fails for a moment costs no schedule its pipeline.
func TestScheduleIsTriedAgain(t *testing.T) {
	w, c := scheduledWorld(t, "2026-03-10 12:00", Schedule{Name: "it", Cron: "0 4 * * *"})
	w.refuses(func() {
		c.set("2026-03-11 04:00")
		w.server.calendar.poke()
	})
	w.wants(w.await(0, 1)[0], "schedule main success: a/1=success")
	w.queueIsEmpty()
	if got := w.due(0); len(got) != 1 {
		t.Errorf("%d pipelines", len(got))
	}
	if up := w.server.Schedules("group/app"); up[0].Problem != "" {
		t.Errorf("%+v", up)
	}
}

// stored opens the store of a server that has ended.
func (w *world) stored(do func(*store.DB)) {
	w.Helper()
	key, err := store.OpenKey(filepath.Join(w.dir, "key"))
	if err != nil {
		w.Fatal(err)
	}
	db, err := store.Open(filepath.Join(w.dir, "store.db"), store.Options{Key: key, Now: w.clock})
	if err != nil {
		w.Fatal(err)
	}
	do(db)
	if err := db.Close(); err != nil {
		w.Fatal(err)
	}
}

func TestSchedulesThatAreWrong(t *testing.T) {
	for _, c := range []struct {
		schedule Schedule
		want     string
	}{
		{Schedule{Name: "a", Cron: "61 * * * *"}, `schedule a: "61 * * * *" is not written as`},
		{Schedule{Name: "a", Cron: "* * * *"}, "is not written as"},
		{Schedule{Name: "a", Cron: "@every 1s"}, "is not written as"},
		{Schedule{Name: "a", Cron: "TZ=UTC * * * * *"}, "is not written as"},
		{Schedule{Name: "a", Cron: "0 0 * * *", Zone: "Mars/Olympus"}, `"Mars/Olympus" is no time zone`},
		{Schedule{Name: "a", Cron: "0 0 * * *", Zone: "Local"}, `"Local" is no time zone`},
		{Schedule{Name: "a", Cron: "0 0 * * *", Zone: "../../etc/passwd"}, "is no time zone"},
		{Schedule{Name: "a", Cron: "@daily"}, ""},
		{Schedule{Name: "a", Cron: "0 0 L * *"}, ""},
		{Schedule{Name: "a", Cron: "*/5 8-18 * * MON-FRI", Zone: "America/New_York"}, ""},
	} {
		_, _, err := c.schedule.parse()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v", c.schedule, err)
		}
	}
}

// TestSchedulesChange holds what becomes of schedules that are suspended, changed and removed.
func TestSchedulesChange(t *testing.T) {
	w, c := scheduledWorld(t, "2026-03-10 12:00", Schedule{Name: "it", Cron: "0 4 * * *", Suspended: true})
	if up := w.server.Schedules(""); !up[0].Next.IsZero() || !up[0].Suspended {
		t.Errorf("suspended: %+v", up)
	}
	c.set("2026-03-11 05:00")
	w.schedule(Schedule{Name: "it", Cron: "0 4 * * *"})
	if got := w.due(0); len(got) > 0 {
		t.Errorf("what was due while it was suspended is caught up with: %+v", got)
	}
	w.schedule(Schedule{Name: "it", Cron: "0 3 * * *"})
	if got := w.due(0); len(got) > 0 {
		t.Errorf("what was due before it was changed is caught up with: %+v", got)
	}
	c.set("2026-03-12 03:00")
	w.schedule()
	if got := w.due(0); len(got) > 0 || len(w.server.Schedules("")) > 0 {
		t.Errorf("it was removed: %+v", got)
	}
	w.schedule(Schedule{Name: "it", Cron: "0 3 * * *", Ref: "nosuch"})
	c.set("2026-03-13 03:00")
	w.due(0)
	if up := w.server.Schedules(""); !strings.Contains(up[0].Problem, "no branch or tag nosuch") {
		t.Errorf("%+v", up)
	}
}
