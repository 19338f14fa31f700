// Package ci is the server of pipelines: what happens to a repository makes a pipeline, which is played and kept in the store.
//
//	s, err := ci.New(ctx, ci.Options{Store: db, Projects: projects, Executor: x, …})
//	go s.Serve(ctx)                                // takes up what an earlier process has left, and plays
//	s.Pushed(ci.Push{…})                           // the Git host
//	made, err := s.Create(ctx, ci.Event{…})        // a person, a schedule
//
// One commit, one straight line:
//
//	event -> worktree.Hosted -> config.Load -> compile.Compile -> Graph      read straight from the object store, nothing is checked out
//	Graph -> schedule.New -> State                                           kept with the graph before anything runs
//	run.Server                                                               plays it; every event is in the store before what follows from it
//
// What people want of pipelines (play, retry, cancel) is a command in the store's queue: whoever puts it there has seen to it that they
// may, and reads the answer there. A process that is killed leaves everything to the next one: pipelines go on where they were, and jobs
// that ran have failed with runner_system_failure, which `retry: when` may name, unless they run where they survive the process: as Pods.
package ci

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/run"
	"keelson.dev/keelson/internal/store"
)

// ErrNoProject says that there is no such project.
var ErrNoProject = errors.New("there is no such project")

// Project is a repository whose pipelines are played.
type Project struct {
	Path          string // CI_PROJECT_PATH; names it here
	Repository    string // on the Git host
	Dir           string // the bare repository
	DefaultBranch string // empty: what HEAD names
	ConfigPath    string // empty: .gitlab-ci.yml
	// ProtectedBranches and ProtectedTags name what is protected, * stands for anything; nil branches: the default one.
	ProtectedBranches, ProtectedTags []string
	Variables                        pipeline.Variables // with their values
	ReadableBy                       []string           // paths of projects whose pipelines may include files of this one; "group/*", "*"
	Suspended                        bool
	// Runner names what runs its jobs, and Place says where: as [Options.Runs] knows them. Empty: as the server likes.
	Runner string
	Place  executor.Place
	// Environments say who may deploy where; the first one whose name matches counts.
	Environments  []EnvironmentRule
	Following     []Following // the first one whose environment matches counts
	KeepRedundant bool        // a newer pipeline of a ref cancels no older ones
	Limits        Limits
	Schedules     []Schedule
}

// Projects tells which projects there are, as they are now. It is safe for concurrent use.
type Projects interface {
	// Of gives the projects of a repository on the Git host. The error is about those that are left out.
	Of(ctx context.Context, repository string) ([]Project, error)
	// Named gives the project of a path, or [ErrNoProject]. Where the error is about its variables, the rest of the project is there.
	Named(ctx context.Context, path string) (Project, error)
}

// Options of a server. All up to GitURL must be set.
type Options struct {
	Store     *store.DB
	Artifacts *artifact.Store
	Projects  Projects
	Executor  executor.Executor
	// Runs gives what runs a project's jobs; nil: Executor.
	Runs     func(p Project) executor.Executor
	Builds   string // the directory below which jobs work; nobody but this process writes to it
	URL      string // of this server's pages: CI_SERVER_URL
	GitURL   string // below which repositories are cloned: "http://127.0.0.1:7070/git"
	Registry string // HOST:PORT of the container registry that takes jobs' tokens ([Server.AllowImage]); empty: there is none
	Jobs     int    // at a time; 0: as many as a person's machine takes
	LogLimit int64  // bytes of a job's log; 0: as many as GitLab takes
	// Access gives a job its way to the cluster; nil: there is none.
	Access func(ctx context.Context, p Project, ref run.JobRef, job *executor.Job) (Access, error)
	// Follow waits until what a job with an environment has deployed is healthy, and tells about it in the job's log; an error fails the job.
	// Nil: nobody waits.
	Follow func(ctx context.Context, w Work, trace *executor.Trace) error
	// Hand gives a job's directory to who runs it; nil: it is this process's.
	Hand func(ctx context.Context, dir string) error
	// News is told that there is something new about how a project stands. Nil: nobody asks.
	News func(project string)
	// Ended is told of pipelines that are over; it does not wait. Nil: nobody asks.
	Ended func(Ended)
	// Mirrored is told that a mirror on the Git host has changed. Nil: nobody asks.
	Mirrored func(repository string)
	// Record keeps a record of the audit that could not be kept together with what it is about; it does not wait. Nil: nobody does.
	Record func(audit.Entry)
	// Key makes the tokens of jobs; nil: those of jobs that survive this process (as Pods do) open nothing in the next one.
	Key []byte
	Now func() time.Time
	Log *slog.Logger
}

// Server makes, plays and keeps pipelines.
type Server struct {
	o      Options
	engine *run.Server
	sink   *sink
	tokens *tokens
	pushes *pushes

	calendar *calendar
	mirrors  *mirrors

	taking sync.Mutex // held from when a pipeline is read or made until the engine has it

	mu    sync.Mutex
	lanes map[string]*lane // of projects
	life  context.Context
	busy  sync.WaitGroup

	resumed chan struct{} // closed once all that was left is played again
	timed   chan struct{} // an environment may stop at another time

	committed map[int64]bool // pipelines that rest and that no newer one cancels any more; the commands' goroutine's alone
}

// New makes a server; [Server.Serve] lets it play.
func New(o Options) (*Server, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	now := o.Now
	o.Now = func() time.Time { return now().UTC().Truncate(time.Microsecond) } // as the store keeps it: states are rebuilt with it
	s := &Server{
		o: o, tokens: newTokens(o.Key), pushes: newPushes(), calendar: newCalendar(), mirrors: newMirrors(), lanes: map[string]*lane{}, life: context.Background(),
		resumed: make(chan struct{}), timed: make(chan struct{}, 1), committed: map[int64]bool{},
	}
	s.sink = newSink(o.Store, o.Log, o.Now)
	var err error
	s.engine, err = run.NewServer(run.Options{
		Sink: s.sink, Journal: s.sink.journal, Born: s.sink.born, Settled: s.sink.settled, Store: o.Artifacts, Jobs: o.Jobs, NextID: s.number, Now: o.Now,
	}, func(err error) { o.Log.Error("play pipelines", "error", err) })
	return s, err
}

// number gives the next number of a job or a child pipeline. The store gives blocks of them, so it fails rarely; then a number is worth
// waiting for, as without it nothing could be told from anything else.
func (s *Server) number() int64 {
	for {
		life := s.lifetime()
		id, err := s.o.Store.NextID(life)
		if err == nil {
			return id
		}
		s.o.Log.Error("number a job", "error", err)
		select {
		case <-life.Done():
			return 0
		case <-time.After(time.Second):
		}
	}
}

// Serve takes up what an earlier process has left and plays until ctx ends.
func (s *Server) Serve(ctx context.Context) {
	s.mu.Lock()
	s.life = ctx
	s.mu.Unlock()
	s.sink.life = context.WithoutCancel(ctx)
	played := make(chan struct{})
	go func() {
		defer close(played)
		s.engine.Serve(ctx)
	}()
	s.busy.Add(2)
	go func() {
		defer s.busy.Done()
		if s.resume(ctx) {
			close(s.resumed)
			s.busy.Add(2)
			go func() { defer s.busy.Done(); s.stopDue(ctx) }()
			go func() { defer s.busy.Done(); s.keepTime(ctx) }()
			s.commands(ctx)
		}
	}()
	go func() { defer s.busy.Done(); s.sweep(ctx) }()
	<-played
	s.busy.Wait()
	s.sink.close()
}

// keep is how many pipelines of a project are kept.
const keep = 1000

// sweep lets go of old pipelines, of artifacts and of caches from time to time.
func (s *Server) sweep(ctx context.Context) {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		if _, err := s.o.Store.Retain(ctx, store.Retention{Keep: keep}); err != nil && ctx.Err() == nil {
			s.o.Log.Warn("let go of old pipelines", "error", err)
		}
		if _, err := s.o.Artifacts.Sweep(ctx, artifact.SweepOptions{Every: time.Hour}); err != nil && ctx.Err() == nil {
			s.o.Log.Warn("sweep artifacts", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// lane does one thing after the other for a project.
type lane struct{ todo []func(context.Context) }

// queue lets something be done for a project, after what was queued before.
func (s *Server) queue(project string, do func(context.Context)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lanes[project]; l != nil {
		l.todo = append(l.todo, do)
		return
	}
	l := &lane{todo: []func(context.Context){do}}
	s.lanes[project] = l
	s.busy.Add(1)
	go func() {
		defer s.busy.Done()
		for {
			s.mu.Lock()
			if len(l.todo) == 0 || s.life.Err() != nil {
				delete(s.lanes, project)
				s.mu.Unlock()
				return
			}
			next, life := l.todo[0], s.life
			l.todo = l.todo[1:]
			s.mu.Unlock()
			next(life)
		}
	}()
}
