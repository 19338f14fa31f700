package ci

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/run"
	"keelson.dev/keelson/internal/pipeline/schedule"
	"keelson.dev/keelson/internal/store"
)

// sink keeps what happens in the store. What follows from one thing is one step of each pipeline: it is written when the engine has told
// all of it, before a job starts that follows from it. A step that cannot be written is kept, and written with the next one: a store that
// does not answer holds up nothing, and nothing of it is lost as long as the process lives.
type sink struct {
	db   *store.DB
	log  *slog.Logger
	now  func() time.Time
	life context.Context // of the engine

	dirty map[int64]*kept // what is to be written; the engine's goroutine's alone, as all that is in a pipeline once it is played

	mu        sync.Mutex
	pipelines map[int64]*kept
	iids      map[int64]int64 // of child pipelines that are about to be born
	logs      map[int64]*store.Log
	broken    map[int64]bool // logs that could not be written: what follows is dropped
	closing   sync.WaitGroup
}

// kept is a pipeline as the store knows it, with what it is to know next.
type kept struct {
	project int64
	end     int64 // of its journal, as it was read or written last
	graph   *pipeline.Graph
	index   map[string]int       // of the graph's jobs
	jobs    map[string]store.Job // as they are to be, by name: the attempt that each is at
	status  statuses
	step    store.Step
	next    map[int64]store.Job // attempts that are in the next step
	since   time.Time           // when a step could not be written first; zero: it could
}

// statuses is what the pipeline's row says.
type statuses struct {
	status, why       string
	started, finished time.Time
}

func newSink(db *store.DB, log *slog.Logger, now func() time.Time) *sink {
	return &sink{db: db, log: log, now: now, life: context.Background(), dirty: map[int64]*kept{}, pipelines: map[int64]*kept{}, iids: map[int64]int64{}, logs: map[int64]*store.Log{}, broken: map[int64]bool{}}
}

// add makes a pipeline known that is in the store, before it is played.
func (s *sink) add(id, project, end int64, jobs []store.Job, g *pipeline.Graph) *kept {
	k := &kept{project: project, end: end, graph: g, index: map[string]int{}, jobs: make(map[string]store.Job, len(jobs)), next: map[int64]store.Job{}}
	for i := range g.Jobs {
		k.index[g.Jobs[i].Name] = i
	}
	for _, j := range jobs {
		if old, ok := k.jobs[j.Name]; !ok || old.Attempt < j.Attempt {
			k.jobs[j.Name] = j
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pipelines[id] = k
	return k
}

func (s *sink) of(id int64) *kept {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pipelines[id]
}

// journal implements [run.Options] Journal.
func (s *sink) journal(id int64, event schedule.Event) {
	k := s.of(id)
	if k == nil {
		return
	}
	data, err := json.Marshal(event)
	if err != nil {
		s.log.Error("keep an event", "pipeline", id, "error", err)
		return
	}
	k.step.Events, s.dirty[id] = append(k.step.Events, data), k
}

// born keeps a child pipeline with its jobs.
func (s *sink) born(c run.Child) {
	parent := s.of(c.Parent)
	if parent == nil {
		return
	}
	by, err := s.db.Pipeline(s.life, c.Parent)
	if err != nil {
		s.log.Error("keep a child pipeline", "pipeline", c.ID, "error", err)
		return
	}
	s.mu.Lock()
	iid := s.iids[c.ID]
	delete(s.iids, c.ID)
	s.mu.Unlock()
	jobs, err := s.db.Jobs(s.life, c.Parent)
	if err != nil {
		s.log.Error("keep a child pipeline", "pipeline", c.ID, "error", err)
		return
	}
	row, of := by, parent.jobs[c.Job]
	row.User = cmp.Or(of.Player, player(jobs, c.Job, of.ID), by.User)
	row.Upstream = 0 // the job of another project waits for the parent
	row.ID, row.IID, row.Parent, row.Source, row.Status, row.Why = c.ID, iid, of.ID, pipeline.SourceParent, string(c.State.Status), ""
	row.Created, row.Started, row.Finished, row.Resting = c.State.CreatedAt, time.Time{}, time.Time{}, false
	graph, err := json.Marshal(c.Graph)
	if err == nil {
		err = s.db.CreatePipeline(s.life, row, store.Inputs{Graph: graph})
	}
	if err != nil {
		s.log.Error("keep a child pipeline", "pipeline", c.ID, "error", err)
		return
	}
	jobs = nil
	masked := maskedIn(c.Graph)
	for i := range c.Graph.Jobs {
		jobs = append(jobs, jobRow(c.IDs[c.Graph.Jobs[i].Name], c.ID, &c.Graph.Jobs[i], &c.State.Jobs[i], row.Created, masked))
	}
	k := s.add(c.ID, row.Project, 0, jobs, c.Graph)
	for _, j := range jobs {
		k.next[j.ID] = j
	}
	s.dirty[c.ID] = k
}

// Event implements [run.Sink].
func (s *sink) Event(e run.Event) {
	k := s.of(e.Pipeline)
	if k == nil {
		return
	}
	switch e.Kind {
	case run.KindPipeline:
		k.status.status, k.status.why, k.status.finished = string(e.To), e.Why, time.Time{}
		if e.To.Completed() {
			k.status.finished = e.At
		}
		s.dirty[e.Pipeline] = k
	case run.KindJob:
		s.job(k, e)
	}
}

// job takes in that a job has another status.
func (s *sink) job(k *kept, e run.Event) {
	row := k.jobs[e.Job]
	if row.Attempt != e.Attempt {
		row = store.Job{ID: e.ID, Pipeline: e.Pipeline, Name: e.Job, Stage: row.Stage, Attempt: e.Attempt, Environment: row.Environment, Created: e.At}
	}
	row.ID, row.Status, row.Why, row.Player = e.ID, string(e.To), e.Why, cmp.Or(e.By, row.Player)
	switch {
	case e.To == pipeline.StatusRunning:
		row.Started = e.At
		if k.status.started.IsZero() {
			k.status.started = e.At
		}
		s.open(e.ID)
	case e.To.Completed():
		row.Finished = e.At
		if r := e.Result; r != nil {
			row.Reason, row.ExitCode, row.Message, row.Allowed, row.Coverage = string(r.Reason), r.ExitCode, r.Message, r.Allowed, r.Coverage
			if r.Tests != nil {
				row.Tests, _ = json.Marshal(r.Tests) // plain data
			}
		}
		if g := &k.graph.Jobs[k.index[e.Job]]; g.Environment != nil && g.Environment.Action == actionStop && (row.Player != "" || !row.Started.IsZero()) {
			k.stops(row.Environment, e.To == pipeline.StatusSuccess)
		}
		s.shut(e.ID)
	}
	k.jobs[e.Job], k.next[row.ID], s.dirty[e.Pipeline] = row, row, k
}

// stops takes in that a job that stops an environment is over.
func (k *kept) stops(environment string, stopped bool) {
	if k.step.Stops == nil {
		k.step.Stops = map[string]bool{}
	}
	k.step.Stops[environment] = stopped
}

// settled implements [run.Options] Settled.
func (s *sink) settled() {
	for _, id := range slices.Sorted(maps.Keys(s.dirty)) { // parents first
		s.write(id, s.dirty[id])
	}
}

// write writes the next step of a pipeline.
func (s *sink) write(id int64, k *kept) {
	step := k.step
	step.Status, step.Why, step.Started, step.Finished = k.status.status, k.status.why, k.status.started, k.status.finished
	step.Jobs = slices.SortedFunc(maps.Values(k.next), func(a, b store.Job) int { return int(a.ID - b.ID) })
	end, err := s.db.Advance(s.life, id, k.end, step)
	if err != nil {
		if k.since.IsZero() {
			k.since = s.now()
			s.log.Error("keep what a pipeline does; it goes on, and is kept once the store takes it", "pipeline", id, "error", err)
		}
		return
	}
	if !k.since.IsZero() {
		s.log.Info("what a pipeline does is kept again", "pipeline", id)
	}
	k.end, k.step, k.since = end, store.Step{}, time.Time{}
	clear(k.next)
	delete(s.dirty, id)
}

// rest keeps where a pipeline rests, and forgets it.
func (s *sink) rest(o run.Outcome) {
	k := s.of(o.ID)
	if k == nil {
		return
	}
	state, err := json.Marshal(o.State)
	if err != nil {
		s.log.Error("keep a pipeline", "pipeline", o.ID, "error", err)
		return
	}
	k.step.State, k.step.Rest, k.step.Events, s.dirty[o.ID] = state, true, nil, k
	s.write(o.ID, k)
	s.forget(o.ID)
}

// forget lets go of a pipeline that is not played.
func (s *sink) forget(id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pipelines, id)
}

// expect says which number in its project a child pipeline has that is about to be born.
func (s *sink) expect(id, iid int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.iids[id] = iid
}

// open makes the log of a job that starts.
func (s *sink) open(job int64) {
	l, err := s.db.LogWriter(job)
	if err != nil {
		s.log.Error("open a job's log", "job", job, "error", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs[job] = l
}

// shut ends the log of a job that is over. It waits for the disk, so not here.
func (s *sink) shut(job int64) {
	s.mu.Lock()
	l := s.logs[job]
	delete(s.logs, job)
	delete(s.broken, job)
	s.mu.Unlock()
	if l == nil {
		return
	}
	s.closing.Add(1)
	go func() {
		defer s.closing.Done()
		if err := l.Close(); err != nil {
			s.log.Error("close a job's log", "job", job, "error", err)
		}
	}()
}

// Log implements [run.Sink]. What cannot be written is dropped: a full disk ends no job by its log.
func (s *sink) Log(j run.JobRef, p []byte) {
	s.mu.Lock()
	l, broken := s.logs[j.ID], s.broken[j.ID]
	s.mu.Unlock()
	if l == nil || broken {
		return
	}
	if _, err := l.Write(p); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.broken[j.ID] {
			s.broken[j.ID] = true
			s.log.Error("write a job's log", "job", j.ID, "error", err)
		}
	}
}

// close waits until all logs are on the disk.
func (s *sink) close() {
	s.mu.Lock()
	var open []int64
	for id := range s.logs {
		open = append(open, id)
	}
	s.mu.Unlock()
	for _, id := range open {
		s.shut(id)
	}
	s.closing.Wait()
}
