package ci

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/run"
	"keelson.dev/keelson/internal/pipeline/schedule"
	"keelson.dev/keelson/internal/store"
)

// played is a pipeline as the engine takes it.
func (s *Server) played(p Project, row store.Pipeline, event Event, g *pipeline.Graph, state *schedule.State, ids map[string]int64) run.Pipeline {
	ref := "refs/heads/" + row.Ref
	if row.Tag {
		ref = "refs/tags/" + row.Ref
	}
	return run.Pipeline{
		Graph: g, ID: row.ID, Project: p.Path, Most: p.Limits.Jobs, State: state, IDs: ids, Executor: s.runs(p),
		Sources: run.Checkout(run.CheckoutOptions{
			Repository: p.Dir, SHA: row.SHA, Ref: ref, Project: p.Path, URL: s.o.GitURL + "/" + p.Repository + ".git", Base: s.o.Builds, Hand: s.o.Hand, Host: s.o.GitURL,
		}),
		Downstream: downstream{s: s, p: p, id: row.Project, event: event},
		Foreign:    func(ctx context.Context, n pipeline.Need) (artifact.Key, error) { return s.foreign(ctx, p, row, n) },
		May:        func(ctx context.Context, t run.Trigger) error { return s.mayTrigger(ctx, p, t) },
		Start: func(ctx context.Context, t run.Trigger) error {
			return s.startOther(ctx, p, row.SHA, event, t)
		},
		Begin: func(ctx context.Context, ref run.JobRef, job *executor.Job) (run.Attendance, error) {
			return s.begin(ctx, p, ref, job)
		},
	}
}

// runs gives what runs a project's jobs.
func (s *Server) runs(p Project) executor.Executor {
	if s.o.Runs == nil {
		return s.o.Executor
	}
	return s.o.Runs(p)
}

// rested keeps where pipelines rest.
func (s *Server) rested(all []run.Outcome) {
	for _, o := range all {
		s.sink.rest(o)
		s.tellEnd(o)
	}
}

// resume takes up what an earlier process has left, and tries again what it cannot; false: ctx has ended before. Who holds a resource comes
// before who waits for it.
func (s *Server) resume(ctx context.Context) bool {
	var rows []store.Pipeline
	for {
		var err error
		if rows, err = s.o.Store.Unfinished(ctx); err == nil {
			break
		}
		s.o.Log.Error("take up pipelines", "error", err)
		if !sleep(ctx) {
			return false
		}
	}
	rows = slices.DeleteFunc(rows, func(p store.Pipeline) bool { return p.Parent != 0 }) // with its parent
	slices.SortStableFunc(rows, func(a, b store.Pipeline) int { return cmp.Compare(rank(a), rank(b)) })
	var left []int64
	for _, row := range rows {
		err := s.takeUp(ctx, row.ID)
		switch {
		case ctx.Err() != nil:
			return false
		case err != nil && !s.abandoned(ctx, row, err):
			left = append(left, row.ID)
		}
	}
	if len(left) > 0 {
		s.busy.Add(1)
		go func() { defer s.busy.Done(); s.retry(ctx, left) }()
	}
	return true
}

// rank orders pipelines that are taken up: those that wait for a resource are behind others, and those that a job of another project has
// started behind that job.
func rank(p store.Pipeline) (r int) {
	if p.Status == string(pipeline.StatusWaitingForResource) {
		r++
	}
	if p.Upstream != 0 {
		r += 2
	}
	return r
}

// retry takes up again and again what could not be taken up.
func (s *Server) retry(ctx context.Context, left []int64) {
	for len(left) > 0 && sleep(ctx) {
		left = slices.DeleteFunc(left, func(id int64) bool {
			row, err := s.o.Store.Pipeline(ctx, id)
			if errors.Is(err, store.ErrNotFound) || err == nil && row.Resting {
				return true
			}
			if err == nil {
				err = s.takeUp(ctx, id)
			}
			return err == nil || s.abandoned(ctx, row, err)
		})
	}
}

// abandoned ends a pipeline that nobody can play any more; false: it is tried again.
func (s *Server) abandoned(ctx context.Context, row store.Pipeline, why error) bool {
	if errors.Is(why, run.ErrEnded) || ctx.Err() != nil {
		return false
	}
	s.o.Log.Error("take up a pipeline", "pipeline", row.ID, "error", why)
	if !errors.Is(why, ErrNoProject) && !errors.Is(why, errUnreadable) {
		return false
	}
	from, err := s.o.Store.Saved(ctx, row.ID)
	if err == nil {
		_, err = s.o.Store.Advance(ctx, row.ID, from.End, store.Step{
			Rest: true, Status: string(pipeline.StatusFailed), Why: "it cannot be played on: " + why.Error(), Started: row.Started, Finished: s.o.Now(),
		})
	}
	if err != nil {
		s.o.Log.Error("end a pipeline that cannot be played on", "pipeline", row.ID, "error", err)
	}
	return err == nil
}

// errUnreadable says that what is kept of a pipeline makes no sense.
var errUnreadable = errors.New("what is kept of the pipeline cannot be read")

// saved is a pipeline as it was left.
type saved struct {
	row   store.Pipeline
	graph *pipeline.Graph
	state *schedule.State
	ids   map[string]int64
	event Event
	jobs  []store.Job
}

// load reads a pipeline with its state, for the engine.
func (s *Server) load(ctx context.Context, row store.Pipeline) (*saved, error) {
	v, end, err := s.read(ctx, row)
	if err != nil {
		return nil, err
	}
	if end, err = s.missing(ctx, v, end); err != nil {
		return nil, err
	}
	k := s.sink.add(row.ID, row.Project, end, v.jobs, v.graph)
	k.status = statuses{status: row.Status, why: row.Why, started: row.Started, finished: row.Finished}
	return v, nil
}

// read reads a pipeline with its state, and where its journal ends.
func (s *Server) read(ctx context.Context, row store.Pipeline) (v *saved, end int64, err error) {
	from, err := s.o.Store.Saved(ctx, row.ID)
	if err != nil {
		return nil, 0, err
	}
	if from.Graph == nil {
		return nil, 0, fmt.Errorf("pipeline %d has never run: its configuration has errors: %w", row.ID, errUnreadable)
	}
	v = &saved{row: row, graph: &pipeline.Graph{}, ids: map[string]int64{}}
	if err := json.Unmarshal(from.Graph, v.graph); err != nil {
		return nil, 0, fmt.Errorf("%w: its graph: %w", errUnreadable, err)
	}
	if from.Event != nil {
		if err := json.Unmarshal(from.Event, &v.event); err != nil {
			return nil, 0, fmt.Errorf("%w: its event: %w", errUnreadable, err)
		}
	}
	if from.State == nil {
		v.state = schedule.New(v.graph, row.Created)
	} else if v.state, err = schedule.Resume(v.graph, from.State); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	for _, entry := range from.Journal {
		var e schedule.Event
		if err := json.Unmarshal(entry, &e); err != nil {
			return nil, 0, fmt.Errorf("%w: its journal: %w", errUnreadable, err)
		}
		if _, err := v.state.Apply(e); err != nil {
			return nil, 0, fmt.Errorf("%w: its journal: %w", errUnreadable, err)
		}
	}
	if v.jobs, err = s.o.Store.Jobs(ctx, row.ID); err != nil {
		return nil, 0, err
	}
	for _, j := range v.jobs {
		if is, ok := v.state.Job(j.Name); ok && is.Attempt == j.Attempt {
			v.ids[j.Name] = j.ID
		}
	}
	return v, from.End, nil
}

// missing numbers and keeps the jobs that an earlier process had not kept when it ended.
func (s *Server) missing(ctx context.Context, v *saved, end int64) (int64, error) {
	var step store.Step
	for i := range v.state.Jobs {
		is := &v.state.Jobs[i]
		if v.ids[is.Name] == 0 {
			v.ids[is.Name] = s.number()
			step.Jobs = append(step.Jobs, jobRow(v.ids[is.Name], v.row.ID, &v.graph.Jobs[i], is, v.row.Created, maskedIn(v.graph)))
		}
	}
	if len(step.Jobs) == 0 {
		return end, nil
	}
	v.jobs = append(v.jobs, step.Jobs...)
	return s.o.Store.Advance(ctx, v.row.ID, end, step)
}

// tell does what somebody wants of a pipeline that is being played, or of a child of it; false: it rests, and nothing is done.
func (s *Server) tell(ctx context.Context, id int64, commands []run.Command) (here bool, err error) {
	if _, err := s.engine.State(ctx, id); err != nil {
		if errors.Is(err, run.ErrNotHere) {
			err = nil
		}
		return false, err
	}
	for _, c := range commands {
		err := s.engine.Do(ctx, c)
		if _, gone := s.engine.State(ctx, id); errors.Is(err, run.ErrNotHere) && errors.Is(gone, run.ErrNotHere) {
			return false, nil // it has come to rest meanwhile
		}
		if err != nil {
			return true, err
		}
	}
	return true, nil
}

// takeUp lets a pipeline be played on with all that have come of it, for what people want of it. One that is being played is not read again.
func (s *Server) takeUp(ctx context.Context, id int64, commands ...run.Command) error {
	s.taking.Lock()
	defer s.taking.Unlock()
	if here, err := s.tell(ctx, id, commands); here || err != nil {
		return err
	}
	row, err := s.o.Store.Pipeline(ctx, id)
	if err != nil {
		return err
	}
	root, err := s.load(ctx, row)
	if err != nil {
		return err
	}
	p, err := s.o.Projects.Named(ctx, root.event.Project)
	if err != nil && p.Dir == "" { // variables are in the graph already
		s.sink.forget(id)
		return fmt.Errorf("project %s: %w", root.event.Project, err)
	}
	played := s.played(p, row, root.event, root.graph, root.state, root.ids)
	if err = s.children(ctx, root, &played); err != nil {
		s.sink.forget(id)
		return err
	}
	return s.engine.Add(ctx, played, s.rested, commands...)
}

// children adds the pipelines that have come of one, parents before their children, and those of other projects that they wait for.
func (s *Server) children(ctx context.Context, of *saved, into *run.Pipeline) error {
	if err := s.followed(ctx, of, into); err != nil {
		return err
	}
	for _, j := range of.jobs {
		at := indexOf(of.graph, j.Name)
		if at < 0 || of.graph.Jobs[at].Trigger == nil {
			continue
		}
		rows, err := s.o.Store.Pipelines(ctx, store.PipelineFilter{Parent: j.ID})
		if err != nil {
			return err
		}
		for _, row := range rows {
			child, err := s.load(ctx, row)
			if err != nil {
				return err
			}
			into.Children = append(into.Children, run.Child{
				ID: row.ID, Parent: of.row.ID, Job: j.Name, Attempt: j.Attempt, Graph: child.graph, State: child.state, IDs: child.ids,
			})
			if err := s.children(ctx, child, into); err != nil {
				return err
			}
		}
	}
	return nil
}

func indexOf(g *pipeline.Graph, job string) int {
	for i := range g.Jobs {
		if g.Jobs[i].Name == job {
			return i
		}
	}
	return -1
}

// The kinds of commands in the store's queue.
const (
	CommandPlay   = "play"
	CommandRetry  = "retry"
	CommandCancel = "cancel"
	// CommandStop stops an environment, and CommandRollback lets an earlier deployment to it be made again.
	CommandStop     = "stop"
	CommandRollback = "rollback"
)

// Args are the arguments of a command.
type Args struct {
	Dependants bool          `json:"dependants,omitempty"` // of a retry: also what comes after the jobs
	Variables  []pipeline.KV `json:"variables,omitempty"`  // of a play: for the jobs that are played
	// What follows is of stops and rollbacks.
	Environment int64  `json:"environment,omitempty"`
	Force       bool   `json:"force,omitempty"`  // no job is played for it
	Branch      string `json:"branch,omitempty"` // it was deleted, for which the environment is stopped
	Due         bool   `json:"due,omitempty"`    // the environment is stopped where its time is over
	To          int64  `json:"to,omitempty"`     // the number of the deployment in its environment; 0: the last one before
}

// commands does what people want, one after the other.
func (s *Server) commands(ctx context.Context) {
	for {
		c, err := s.o.Store.Take(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.o.Log.Error("take a command", "error", err)
			if !sleep(ctx) {
				return
			}
			continue
		}
		refusal := ""
		switch c.Kind {
		case commandPush:
			s.queuePush(c)
			continue
		case commandSchedule:
			s.queueSchedule(c)
			continue
		}
		if err := s.do(ctx, c); err != nil {
			if errors.Is(err, run.ErrEnded) || ctx.Err() != nil {
				return // the next process does it
			}
			refusal = err.Error()
		}
		if err := s.o.Store.Answer(ctx, c.ID, refusal); err != nil {
			s.o.Log.Error("answer a command", "command", c.ID, "error", err)
		}
	}
}

// do does one command.
func (s *Server) do(ctx context.Context, c store.Command) error {
	if c.Kind == commandSupersede {
		return s.cancelRedundant(ctx, c.Pipeline)
	}
	var args Args
	if len(c.Args) > 0 {
		if err := json.Unmarshal(c.Args, &args); err != nil {
			return fmt.Errorf("read the arguments of a command: %w", err)
		}
	}
	event := schedule.Event{Jobs: c.Jobs, By: c.User, Why: fmt.Sprintf("%s by %s", past[c.Kind], c.User)}
	switch c.Kind {
	case CommandStop:
		return s.stop(ctx, c, args)
	case CommandRollback:
		return s.rollback(ctx, c, args)
	case CommandPlay:
		if err := checkPlayed(args.Variables); err != nil {
			return err
		}
		event.Kind, event.Variables = schedule.Play, args.Variables
	case CommandRetry:
		event.Kind, event.Dependants = schedule.Retry, args.Dependants
	case CommandCancel:
		event.Kind = schedule.Cancel
	default:
		return fmt.Errorf("unknown command %q", c.Kind)
	}
	if err := s.deployable(ctx, c); err != nil {
		return err
	}
	command := run.Command{Pipeline: c.Pipeline, Event: event}
	err := s.engine.Do(ctx, command)
	if !errors.Is(err, run.ErrNotHere) {
		return err
	}
	root, err := s.rootOf(ctx, c.Pipeline)
	if err != nil {
		return err
	}
	return s.takeUp(ctx, root, command)
}

var past = map[string]string{CommandPlay: "played", CommandRetry: "retried", CommandCancel: "canceled"}

// rootOf gives the pipeline that a child has come of; of others it is themselves.
func (s *Server) rootOf(ctx context.Context, id int64) (int64, error) {
	for range run.MaxDepth + 1 {
		row, err := s.o.Store.Pipeline(ctx, id)
		if err != nil {
			return 0, err
		}
		if row.Parent == 0 {
			return id, nil
		}
		job, err := s.o.Store.Job(ctx, row.Parent)
		if err != nil {
			return 0, err
		}
		id = job.Pipeline
	}
	return 0, fmt.Errorf("pipeline %d has too many parents", id)
}
