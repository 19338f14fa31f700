package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var testKey = bytes.Repeat([]byte{7}, KeySize)

// day is when tests happen; a clock that stands makes what is stored predictable.
var day = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func openAt(t testing.TB, path string) *DB {
	t.Helper()
	db, err := Open(path, Options{Key: testKey, PostgreSQL: database(t, path), Now: func() time.Time { return day }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func newDB(t testing.TB) *DB {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "store.db"))
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func diff(t testing.TB, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// refused checks that an error is of a kind and says what a person needs.
func refused(t testing.TB, err, kind error, says ...string) {
	t.Helper()
	if kind != nil && !errors.Is(err, kind) || err == nil {
		t.Fatalf("the error is %v, not %v", err, kind)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%q does not say %q", err, s)
		}
	}
}

// newPipeline makes a pipeline of a project that it makes too.
func newPipeline(t testing.TB, db *DB, project string, change func(*Pipeline)) Pipeline {
	t.Helper()
	ctx := t.Context()
	pr := must(db.EnsureProject(ctx, project))(t)
	id, iid, err := db.Reserve(ctx, pr.ID)
	ok(t, err)
	p := Pipeline{ID: id, IID: iid, Project: pr.ID, Source: "push", Ref: "main", SHA: "c0ffee", Title: "a commit", Author: "Ann", User: "ann", Status: "created", Created: day}
	if change != nil {
		change(&p)
	}
	ok(t, db.CreatePipeline(ctx, p, Inputs{Graph: []byte(`{"jobs":[]}`), Event: []byte(`{}`)}))
	return p
}

func newJob(t testing.TB, db *DB, p Pipeline, name, status string) Job {
	t.Helper()
	j := Job{ID: must(db.NextID(t.Context()))(t), Pipeline: p.ID, Name: name, Stage: "test", Attempt: 1, Status: status, Created: day}
	s := must(db.Saved(t.Context(), p.ID))(t)
	must(db.Advance(t.Context(), p.ID, s.End, Step{Jobs: []Job{j}}))(t)
	return j
}

func rest(t testing.TB, db *DB, p Pipeline, status string) {
	t.Helper()
	s := must(db.Saved(t.Context(), p.ID))(t)
	must(db.Advance(t.Context(), p.ID, s.End, Step{Status: status, Rest: true, State: []byte("{}"), Finished: day}))(t)
}

func TestProjectsKeepTheirNumbers(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	a := must(db.EnsureProject(ctx, "group/a"))(t)
	b := must(db.EnsureProject(ctx, "group/b"))(t)
	ok(t, db.RenameProject(ctx, "group/a", "group/c"))
	refused(t, db.RenameProject(ctx, "group/b", "group/c"), ErrExists, "rename project group/b to group/c")
	refused(t, db.RenameProject(ctx, "group/a", "group/d"), ErrNotFound)
	anew := must(db.EnsureProject(ctx, "group/a"))(t)
	var got []string
	for _, p := range must(db.Projects(ctx))(t) {
		got = append(got, fmt.Sprintf("%s %d", p.Name, p.ID))
	}
	diff(t, "projects", got, []string{fmt.Sprintf("group/a %d", anew.ID), fmt.Sprintf("group/b %d", b.ID), fmt.Sprintf("group/c %d", a.ID)})
	if anew.ID == a.ID || must(db.EnsureProject(ctx, "group/b"))(t).ID != b.ID {
		t.Error("a number was given twice, or changed")
	}
	_, err := db.EnsureProject(ctx, strings.Repeat("x", 2000))
	refused(t, err, ErrTooLarge, "2000 bytes")
	_, _, err = db.Reserve(ctx, 99)
	refused(t, err, ErrNotFound, "project 99")
}

func TestPathsOfAllKinds(t *testing.T) {
	aboutSQLite(t)
	for _, name := range []string{"a b", "a?mode=ro", "a%20b", "a#b", "a:b", "ä", "a&_pragma=query_only(1)"} {
		dir := filepath.Join(t.TempDir(), name)
		db := openAt(t, filepath.Join(dir, name))
		newPipeline(t, db, "a/b", nil)
		var files []string
		for _, f := range must(os.ReadDir(dir))(t) {
			files = append(files, f.Name())
			if info := must(f.Info())(t); info.Mode().Perm() != 0o600 {
				t.Errorf("the mode of %s is %v", f.Name(), info.Mode())
			}
		}
		diff(t, name, files, []string{name, name + "-shm", name + "-wal", name + ".lock"})
	}
}

func TestNumbersAreGivenOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	seen := map[int64]bool{}
	var last int64
	for range 3 { // starts
		db := openAt(t, path)
		var mu sync.Mutex
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range idBlock/4 + 3 {
					id := must(db.NextID(t.Context()))(t)
					mu.Lock()
					if seen[id] || id <= last {
						t.Errorf("%d comes again, or is not after %d", id, last)
					}
					seen[id] = true
					mu.Unlock()
				}
			})
		}
		all.Wait()
		for id := range seen {
			last = max(last, id)
		}
		ok(t, db.Close())
	}
}

// TestPipelineLife follows one pipeline over restarts: what is saved, what lists say, and what is told.
func TestPipelineLife(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	db := openAt(t, path)
	ctx := t.Context()
	seq := db.Seq()
	project := must(db.EnsureProject(ctx, "group/app"))(t)
	id, iid, err := db.Reserve(ctx, project.ID)
	ok(t, err)
	p := Pipeline{ID: id, IID: iid, Project: project.ID, Source: "push", Ref: "main", SHA: "abc", Before: "000", Title: "<script>", Author: "Ann <a@b>", User: "ann",
		Status: "created", Why: "pushed", Created: day}
	in := Inputs{Graph: bytes.Repeat([]byte(`{"name":"build"}`), 1000), Event: []byte(`{"source":"push"}`)}
	ok(t, db.CreatePipeline(ctx, p, in))
	refused(t, db.CreatePipeline(ctx, p, in), ErrExists)
	diff(t, "created", must(db.Pipeline(ctx, id))(t), p)

	reopen := func() {
		ok(t, db.Close())
		db = openAt(t, path)
	}
	build := Job{ID: must(db.NextID(ctx))(t), Pipeline: id, Name: "build", Stage: "build", Attempt: 1, Status: "running", Created: day, Started: day, Variables: []byte(`{"A":"b"}`)}
	p.Status, p.Why, p.Started = "running", "build runs", day.Add(time.Second)
	end := must(db.Advance(ctx, id, 0, Step{Events: [][]byte{[]byte("one"), []byte("two")}, Status: p.Status, Why: p.Why, Started: p.Started, Jobs: []Job{build}}))(t)
	reopen()
	end = must(db.Advance(ctx, id, end, Step{Events: [][]byte{[]byte("three")}}))(t)
	_, err = db.Advance(ctx, id, 1, Step{Events: [][]byte{[]byte("lost")}})
	refused(t, err, ErrConflict, "its journal is at 3, not at 1")
	_, err = db.Advance(ctx, 99, 0, Step{})
	refused(t, err, ErrNotFound, "advance pipeline 99")
	diff(t, "saved", must(db.Saved(ctx, id))(t), Saved{Inputs: in, Journal: [][]byte{[]byte("one"), []byte("two"), []byte("three")}, End: end})
	diff(t, "unfinished", must(db.Unfinished(ctx))(t), []Pipeline{p})

	coverage := 81.5
	build.Status, build.Finished, build.Coverage, build.Tests = "success", day.Add(time.Minute), &coverage, []byte(`{"total":3}`)
	wanted := build
	build.Variables = nil // what is not given stays
	p.Status, p.Why, p.Finished, p.Resting = "success", "all jobs succeeded", day.Add(time.Minute), true
	end = must(db.Advance(ctx, id, end, Step{State: []byte("state"), Rest: true, Status: p.Status, Why: p.Why, Started: p.Started, Finished: p.Finished, Jobs: []Job{build}}))(t)
	reopen()
	diff(t, "at rest", must(db.Saved(ctx, id))(t), Saved{Inputs: in, State: []byte("state"), End: end})
	diff(t, "unfinished at rest", must(db.Unfinished(ctx))(t), []Pipeline(nil))
	diff(t, "finished", must(db.Pipeline(ctx, id))(t), p)
	diff(t, "job", must(db.Job(ctx, build.ID))(t), wanted)

	end = must(db.Advance(ctx, id, end, Step{Events: [][]byte{[]byte("retry")}, Status: "running", Started: day}))(t)
	if s := must(db.Saved(ctx, id))(t); string(s.State) != "state" || len(s.Journal) != 1 || s.End != end {
		t.Errorf("played again: %+v", s)
	}
	if all := must(db.Unfinished(ctx))(t); len(all) != 1 || !all[0].Finished.IsZero() {
		t.Errorf("played again, unfinished: %+v", all)
	}
	_, err = db.Changes(ctx, seq)
	refused(t, err, ErrTooOld) // another process
}

func TestPipelinesThatAreNotKept(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	for _, c := range []struct {
		name string
		p    Pipeline
		in   Inputs
		want error
		says string
	}{
		{"no numbers", Pipeline{Project: 1}, Inputs{}, nil, "not reserved"},
		{"no project", Pipeline{ID: 5, IID: 1, Project: 77}, Inputs{}, ErrNotFound, "create pipeline 5"},
		{"a ref beyond all bounds", Pipeline{ID: 5, IID: 1, Project: 1, Ref: strings.Repeat("x", 5000)}, Inputs{}, ErrTooLarge, "the ref has 5000 bytes"},
		{"a ref that is no text", Pipeline{ID: 5, IID: 1, Project: 1, Ref: "a\xff"}, Inputs{}, nil, "is not UTF-8"},
		{"a graph beyond all bounds", Pipeline{ID: 5, IID: 1, Project: 1}, Inputs{Graph: make([]byte, blobMax+1)}, ErrTooLarge, "the graph has"},
	} {
		t.Run(c.name, func(t *testing.T) { refused(t, db.CreatePipeline(ctx, c.p, c.in), c.want, c.says) })
	}
	if all := must(db.Pipelines(ctx, PipelineFilter{}))(t); len(all) != 0 || db.Seq() != 1<<32-1 {
		t.Errorf("%+v at %d", all, db.Seq())
	}
}

func TestJobsKeepTheirNumbers(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	p := newPipeline(t, db, "a/b", nil)
	j := newJob(t, db, p, "build", "running")
	other := j
	other.ID = must(db.NextID(ctx))(t)
	second := other
	second.Attempt = 2
	named := j
	named.Name = "test"
	for _, c := range []struct {
		name string
		jobs []Job
		want error
		says string
	}{
		{"another number for an attempt", []Job{other}, ErrConflict, "attempt 1 has another number"},
		{"another name for a number", []Job{named}, ErrExists, "job test"},
		{"all or nothing", []Job{second, named}, ErrExists, ""},
		{"no number", []Job{{Name: "x", Attempt: 1}}, nil, "number 0"},
		{"a report that is too large", []Job{{ID: 1, Name: "x", Attempt: 1, Tests: make([]byte, blobMax+1)}}, ErrTooLarge, "67108865 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			end, err := db.Advance(ctx, p.ID, 0, Step{Events: [][]byte{[]byte("lost")}, Jobs: c.jobs})
			refused(t, err, c.want, c.says)
			if end != 0 {
				t.Errorf("the journal is at %d", end)
			}
			diff(t, "jobs", must(db.Jobs(ctx, p.ID))(t), []Job{j})
		})
	}
	must(db.Advance(ctx, p.ID, 0, Step{Jobs: []Job{second}}))(t)
	diff(t, "jobs", must(db.Jobs(ctx, p.ID))(t), []Job{j, second})
	_, err := db.Job(ctx, 12345)
	refused(t, err, ErrNotFound, "job 12345")
}

func TestTextIsMadeFit(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"as it is", "häuser", "häuser"},
		{"bytes that are no text", "a\xffb\x00c", "a\uFFFDb\uFFFDc"},
		{"too long", strings.Repeat("ä", 3000), strings.Repeat("ä", (textMax-3)/2) + "…"},
	} {
		if got := text(c.in); got != c.want {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("abc\x00\xff", 3000)
	f.Fuzz(func(t *testing.T, s string, n int) {
		s = strings.Repeat(s, min(max(n, 0), 5000)/(len(s)+1))
		if got := text(s); len(got) > textMax || strings.ToValidUTF8(got, "") != got || strings.Contains(got, "\x00") || text(got) != got {
			t.Errorf("%q", got)
		}
	})
}

func TestCommands(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	db := openAt(t, path)
	ctx := t.Context()
	ask := func(kind string) int64 {
		return must(db.Enqueue(ctx, Command{Kind: kind, Project: 1, Pipeline: 2, Jobs: []string{"deploy prod", "b"}, User: "ann", Args: []byte(`{"variables":{"TOKEN":"s3cret"}}`)}))(t)
	}
	play, retry := ask("play"), ask("retry")
	got := must(db.Take(ctx))(t)
	diff(t, "taken", got, Command{ID: play, Kind: "play", Project: 1, Pipeline: 2, Jobs: []string{"deploy prod", "b"}, User: "ann", Created: day, Args: []byte(`{"variables":{"TOKEN":"s3cret"}}`)})
	diff(t, "taken next", must(db.Take(ctx))(t).ID, retry)
	ok(t, db.Answer(ctx, retry, "job b is running"))
	ok(t, db.Answer(ctx, retry, "too late")) // the first answer counts
	refused(t, db.Answer(ctx, 99, ""), ErrNotFound, "answer command 99")
	diff(t, "refusal", must(db.Await(ctx, retry))(t), "job b is running")

	ok(t, db.Close())
	db = openAt(t, path)
	diff(t, "taken again after a restart", must(db.Take(ctx))(t).ID, play)
	done := make(chan string)
	go func() { done <- must(db.Await(ctx, play))(t) }()
	next := make(chan Command)
	go func() { next <- must(db.Take(ctx))(t) }()
	select {
	case c := <-next:
		t.Fatalf("there is nothing to take, and %+v was", c)
	case <-done:
		t.Fatal("nobody has answered")
	case <-time.After(50 * time.Millisecond):
	}
	cancel := ask("cancel")
	diff(t, "taken when it comes", (<-next).ID, cancel)
	ok(t, db.Answer(ctx, play, ""))
	diff(t, "answer", <-done, "")

	short, stop := context.WithTimeout(ctx, 10*time.Millisecond)
	defer stop()
	_, err := db.Take(short)
	refused(t, err, context.DeadlineExceeded)
	waits := make(chan error)
	go func() { _, err := db.Take(ctx); waits <- err }()
	go func() { _, err := db.Await(ctx, cancel); waits <- err }()
	time.Sleep(10 * time.Millisecond)
	ok(t, db.Close())
	refused(t, <-waits, ErrClosed)
	refused(t, <-waits, ErrClosed)
	_, err = db.Enqueue(ctx, Command{Kind: "play"})
	refused(t, err, ErrClosed)
}

func TestCommandsAreBounded(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	ok(t, db.write(ctx, false, func(tx *tx) error {
		for i := range commandsMax {
			if err := tx.exec(`INSERT INTO commands (id, kind, project, pipeline, jobs, asked_by, created) VALUES (?, 'play', 0, 0, '[]', '', 0)`, -i-1); err != nil {
				return err
			}
		}
		return nil
	}))
	_, err := db.Enqueue(ctx, Command{Kind: "play"})
	refused(t, err, ErrTooLarge, "10000 commands wait")
	_, err = db.Enqueue(ctx, Command{Kind: "play", Args: make([]byte, entryMax+1)})
	refused(t, err, ErrTooLarge, "arguments")
}

func TestFeed(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	seq := db.Seq()
	woken := make(chan []Change)
	go func() { woken <- must(db.Changes(ctx, seq))(t) }()
	p := newPipeline(t, db, "a/b", nil)
	first := <-woken
	j := newJob(t, db, p, "build", "pending")
	got := append(first, must(db.Changes(ctx, first[len(first)-1].Seq))(t)...)
	diff(t, "changes", got, []Change{
		{Seq: seq + 1, Kind: "pipeline", ID: p.ID, Project: p.Project, Pipeline: p.ID, Status: "created"},
		{Seq: seq + 2, Kind: "job", ID: j.ID, Project: p.Project, Pipeline: p.ID, Status: "pending"},
	})
	diff(t, "resumed", must(db.Changes(ctx, seq+1))(t), got[1:])

	// What is rolled back is not told.
	_, err := db.Advance(ctx, p.ID, 0, Step{Status: "running", Jobs: []Job{{ID: j.ID, Name: "other", Attempt: 1}}})
	refused(t, err, ErrExists)
	if s := db.Seq(); s != seq+2 {
		t.Errorf("the feed is at %d", s-seq)
	}

	db.feed.add(make([]Change, feedSize-1))
	if c := must(db.Changes(ctx, seq+1))(t); len(c) != changesMax || c[0].Seq != seq+2 || c[0].Kind != "job" {
		t.Errorf("the oldest that is remembered: %d changes from %+v", len(c), c[0])
	}
	for _, after := range []int64{seq, 0, -1, db.Seq() + 1} {
		_, err := db.Changes(ctx, after)
		refused(t, err, ErrTooOld)
	}
}

// TestWaitingIsWoken holds that nothing here polls: in a bubble of synctest every goroutine is blocked for good, not asleep.
func TestWaitingIsWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := &DB{closed: make(chan struct{})}
		db.feed.begin(1)
		var told atomic.Int64
		for range 100 {
			go func() {
				for after := db.Seq(); ; {
					c, err := db.Changes(t.Context(), after)
					if err != nil {
						return
					}
					told.Add(int64(len(c)))
					after = c[len(c)-1].Seq
				}
			}()
		}
		synctest.Wait()
		before := time.Now()
		db.feed.add([]Change{{Kind: "job"}, {Kind: "job"}})
		synctest.Wait()
		if told.Load() != 200 || !time.Now().Equal(before) {
			t.Errorf("%d changes were told after %s", told.Load(), time.Since(before))
		}
		close(db.closed)
	})
}

func TestEnvironments(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	p := newPipeline(t, db, "a/b", nil)
	stop := day.Add(time.Hour)
	begin := func(job int64, name, ref string, tag bool, autoStop time.Time) (Environment, Deployment) {
		t.Helper()
		e, d, err := db.BeginDeployment(ctx,
			Environment{Project: p.Project, Name: name, Slug: "slug-" + ref, Tier: "development", OnStop: "stop", OnStopPipeline: p.ID, AutoStop: autoStop},
			Deployment{Pipeline: p.ID, Job: job, Ref: ref, Tag: tag, SHA: "sha", User: "ann"})
		ok(t, err)
		return e, d
	}
	review, first := begin(10, "review/x", "x", false, stop)
	diff(t, "environment", review, Environment{ID: review.ID, Project: p.Project, Name: "review/x", Slug: "slug-x", Tier: "development", State: "available",
		Ref: "x", OnStop: "stop", OnStopPipeline: p.ID, AutoStop: stop, Created: day})
	diff(t, "deployment", first, Deployment{ID: first.ID, IID: 1, Project: p.Project, Environment: review.ID, Pipeline: p.ID, Job: 10, Ref: "x", SHA: "sha",
		Status: "running", User: "ann", Created: day, Started: day})
	_, again := begin(10, "review/x", "x", false, stop) // the job begins again after a restart
	diff(t, "the same deployment", again, first)
	_, err := db.LastDeployment(ctx, review.ID)
	refused(t, err, ErrNotFound, "last deployment")

	later := stop.Add(time.Minute)
	first.Wrote = []byte(`[{"kind":"Deployment"}]`)
	diff(t, "reported", must(db.ReportDeployment(ctx, first.ID, Report{URL: "https://x.example", AutoStop: later, Wrote: first.Wrote}))(t), first)
	diff(t, "nothing more is reported", must(db.ReportDeployment(ctx, first.ID, Report{}))(t), first)
	_, failed := begin(11, "review/x", "x", false, later)
	_, second := begin(14, "review/x", "x", false, later)
	over := func(job int64, status string, at time.Time) {
		t.Helper()
		end := must(db.Saved(ctx, p.ID))(t).End
		must(db.Advance(ctx, p.ID, end, Step{Jobs: []Job{{ID: job, Name: fmt.Sprint("deploy ", job), Attempt: 1, Status: status, Environment: "review/x", Finished: at}}}))(t)
	}
	over(14, "success", day.Add(time.Second))
	over(10, "success", day.Add(time.Minute))
	over(11, "failed", day.Add(time.Minute))
	first.Status, first.Finished = "success", day.Add(time.Minute)
	diff(t, "the successful one that ended last", must(db.LastDeployment(ctx, review.ID))(t), first)
	if e := must(db.EnvironmentByID(ctx, review.ID))(t); e.URL != "https://x.example" || !e.AutoStop.Equal(later) {
		t.Errorf("%+v", e)
	}
	_, err = db.EnvironmentByID(ctx, 99)
	refused(t, err, ErrNotFound)
	prod, _ := begin(12, "production", "v1", true, time.Time{})
	begin(13, "staging", "x", true, time.Time{}) // a tag that is called like the branch

	names := func(all []Environment, err error) (out []string) {
		ok(t, err)
		for _, e := range all {
			out = append(out, e.Name)
		}
		return out
	}
	diff(t, "of the branch", names(db.Environments(ctx, EnvironmentFilter{Project: p.Project, Branch: "x", State: "available"})), []string{"review/x"})
	diff(t, "a page", names(db.Environments(ctx, EnvironmentFilter{After: review.ID, Limit: 1})), []string{"production"})
	stop = later
	diff(t, "not due", names(db.DueToStop(ctx, stop.Add(-time.Second))), []string(nil))
	diff(t, "due", names(db.DueToStop(ctx, stop)), []string{"review/x"})
	must(db.SetAutoStop(ctx, prod.ID, stop.Add(-time.Minute)))(t)
	diff(t, "both due", names(db.DueToStop(ctx, stop)), []string{"production", "review/x"})
	must(db.SetEnvironment(ctx, review.ID, "stopping"))(t)
	diff(t, "one is stopping", names(db.DueToStop(ctx, stop)), []string{"production"})
	if e := must(db.SetEnvironment(ctx, prod.ID, "stopped"))(t); !e.AutoStop.IsZero() {
		t.Errorf("it is stopped and stops at %s", e.AutoStop)
	}
	_, err = db.SetEnvironment(ctx, prod.ID, "gone")
	refused(t, err, nil, "there is no such state")
	_, err = db.SetEnvironment(ctx, 99, "stopped")
	refused(t, err, ErrNotFound)

	iids := func(all []Deployment, err error) (out []string) {
		ok(t, err)
		for _, d := range all {
			out = append(out, fmt.Sprintf("%d/%d %s", d.Environment-review.ID, d.IID, d.Status))
		}
		return out
	}
	all := iids(db.Deployments(ctx, DeploymentFilter{Environment: review.ID}))
	diff(t, "of an environment", all, []string{"0/4 success", "0/3 failed", "0/1 success"})
	if n := len(iids(db.Deployments(ctx, DeploymentFilter{Project: p.Project, Pipeline: p.ID, Status: "running"}))); n != 2 {
		t.Errorf("%d deployments run", n)
	}
	diff(t, "a page", iids(db.Deployments(ctx, DeploymentFilter{Environment: review.ID, Before: second.ID})), []string{"0/3 failed", "0/1 success"})
	diff(t, "a page", iids(db.Deployments(ctx, DeploymentFilter{Environment: review.ID, Before: failed.ID})), []string{"0/1 success"})
	rest(t, db, p, "success")
	if n := len(iids(db.Deployments(ctx, DeploymentFilter{Pipeline: p.ID, Status: "running"}))); n != 0 {
		t.Errorf("%d deployments of a pipeline that rests run", n)
	}
}

// TestStops holds what the end of a job that stops an environment makes of it.
func TestStops(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	for _, c := range []struct {
		state    string
		deployed bool // nothing is being deployed there
		stopped  bool // the job has succeeded
		want     string
	}{
		{"stopping", true, true, "stopped"},
		{"available", true, true, "stopped"}, // somebody has played it by hand
		{"stopping", true, false, "available"},
		{"stopped", true, false, "stopped"},
		{"available", false, true, "available"},
		{"stopping", false, true, "stopping"},
	} {
		p := newPipeline(t, db, "a/b", nil)
		name := fmt.Sprintf("%+v", c)
		e, d, err := db.BeginDeployment(ctx, Environment{Project: p.Project, Name: name, AutoStop: day}, Deployment{Pipeline: p.ID, Job: p.ID})
		ok(t, err)
		if c.deployed {
			must(db.Advance(ctx, p.ID, 0, Step{Jobs: []Job{{ID: d.Job, Name: "deploy", Attempt: 1, Status: "canceled", Environment: name, Finished: day}}}))(t)
			if d := must(db.Deployments(ctx, DeploymentFilter{Environment: e.ID}))(t)[0]; d.Status != "canceled" || !d.Finished.Equal(day) {
				t.Errorf("%+v", d)
			}
		}
		must(db.SetEnvironment(ctx, e.ID, c.state))(t)
		must(db.Advance(ctx, p.ID, 0, Step{Stops: map[string]bool{name: c.stopped, "nosuch": true}}))(t)
		if have := must(db.EnvironmentByID(ctx, e.ID))(t); have.State != c.want || have.AutoStop.IsZero() != (c.want == "stopped") {
			t.Errorf("%s: it is %s, and stops at %s", name, have.State, have.AutoStop)
		}
	}
}

func TestRetention(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	var ps []Pipeline
	for i := range 8 {
		p := newPipeline(t, db, "a/b", func(p *Pipeline) { p.Created = day.Add(time.Duration(i) * time.Hour) })
		ps = append(ps, p)
	}
	trigger := newJob(t, db, ps[0], "trigger", "success")
	child := newPipeline(t, db, "a/b", func(p *Pipeline) { p.Parent = trigger.ID })
	job := newJob(t, db, child, "build", "success")
	log := must(db.LogWriter(job.ID))(t)
	_, err := log.Write([]byte("text"))
	ok(t, err)
	ok(t, log.Close())
	for i, p := range ps {
		if i != 1 { // which is under way
			rest(t, db, p, "success")
		}
	}
	_, err = db.DeletePipeline(ctx, ps[0].ID)
	refused(t, err, ErrBusy, fmt.Sprintf("pipeline %d", child.ID), "cancel it first")
	if n := len(must(db.Jobs(ctx, ps[0].ID))(t)); n != 1 {
		t.Fatal("half of it was deleted")
	}
	rest(t, db, child, "success")
	// The job that stops an environment is still needed.
	e, _, err := db.BeginDeployment(ctx, Environment{Project: child.Project, Name: "review", OnStop: "stop", OnStopPipeline: ps[2].ID}, Deployment{Pipeline: ps[2].ID, Job: 999})
	ok(t, err)
	newPipeline(t, db, "other/project", nil)

	_, err = db.Retain(ctx, Retention{})
	refused(t, err, nil, "say what is kept")
	ids := func(which ...int) (out []int64) {
		for _, i := range which {
			out = append(out, ps[i].ID)
		}
		return out
	}
	for _, c := range []struct {
		name string
		Retention
		want Removed
	}{
		{"all are among the newest", Retention{Keep: 8}, Removed{}},
		{"all are too young", Retention{Keep: 1, Since: day}, Removed{}},
		{"another project", Retention{Keep: 1, Project: child.Project + 1}, Removed{}},
		{"two, of which one is under way; a child goes with its parent", Retention{Keep: 6}, Removed{append(ids(0), child.ID), []int64{trigger.ID, job.ID}}},
		{"by age; one is kept for its environment", Retention{Since: day.Add(4 * time.Hour)}, Removed{Pipelines: ids(3)}},
		{"by both", Retention{Keep: 3, Since: day.Add(7 * time.Hour)}, Removed{Pipelines: ids(4)}},
	} {
		got := must(db.Retain(ctx, c.Retention))(t)
		diff(t, c.name, got, c.want)
	}
	if _, err := os.Stat(db.logs.path(job.ID)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the log is still there: %v", err)
	}
	must(db.SetEnvironment(ctx, e.ID, "stopped"))(t)
	diff(t, "its environment is stopped", must(db.Retain(ctx, Retention{Keep: 3}))(t), Removed{Pipelines: ids(2)})
	diff(t, "deleted", must(db.DeletePipeline(ctx, ps[7].ID))(t), Removed{Pipelines: ids(7)})
	_, err = db.DeletePipeline(ctx, ps[7].ID)
	refused(t, err, ErrNotFound)
	if n := len(must(db.Deployments(ctx, DeploymentFilter{Pipeline: ps[2].ID}))(t)); n != 1 {
		t.Error("the history of deployments went with its pipeline")
	}
}
