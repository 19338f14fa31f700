package ci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/store"
)

// alarm lets [Server.stopDue] look again at what time it is to stop something.
func (s *Server) alarm() {
	select {
	case s.timed <- struct{}{}:
	default:
	}
}

const (
	// lookAgain is how often the clock is looked at, which may be set, or stand still while the machine sleeps.
	lookAgain = time.Minute
	// stopAgain is when an environment is stopped again that could not be.
	stopAgain = time.Hour
)

// timetable says when environments are stopped. One whose time is over is stopped once, and again in a while where that has failed: its time
// stays the same then.
type timetable map[timed]time.Time // when it was stopped

type timed struct {
	environment int64
	stop        time.Time
}

// look gives the environments whose time is over, of all whose time comes soon, and for how long nothing is due.
func (t timetable) look(all []store.Environment, now time.Time) (due []store.Environment, wait time.Duration) {
	wait = lookAgain
	listed := map[timed]bool{}
	for _, e := range all {
		key := timed{e.ID, e.AutoStop}
		listed[key] = true
		at := e.AutoStop
		if was, ok := t[key]; ok {
			at = was.Add(stopAgain)
		}
		if at.After(now) {
			wait = min(wait, at.Sub(now))
			continue
		}
		due = append(due, e)
	}
	maps.DeleteFunc(t, func(key timed, at time.Time) bool { return !listed[key] && now.Sub(at) > stopAgain }) // one that is being stopped is not listed
	return due, wait
}

// stopDue stops environments whose time is over, until ctx ends.
func (s *Server) stopDue(ctx context.Context) {
	table := timetable{}
	for {
		all, err := s.o.Store.DueToStop(ctx, s.o.Now().Add(lookAgain))
		if err != nil && ctx.Err() == nil {
			s.o.Log.Error("look for environments to stop", "error", err)
		}
		due, wait := table.look(all, s.o.Now())
		for _, e := range due {
			if s.beingDeployed(ctx, e) {
				continue // its end is told
			}
			table[timed{e.ID, e.AutoStop}] = s.o.Now()
			if err := s.stopNow(ctx, e); err != nil && ctx.Err() == nil {
				s.o.Log.Error("stop an environment whose time is over; it is tried again in an hour", "environment", e.Name, "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.timed:
		case <-time.After(wait):
		}
	}
}

// beingDeployed tells whether something is being deployed to an environment.
func (s *Server) beingDeployed(ctx context.Context, e store.Environment) bool {
	all, err := s.o.Store.Deployments(ctx, store.DeploymentFilter{Environment: e.ID, Status: store.DeploymentRunning, Limit: 1})
	return err == nil && len(all) > 0
}

// stopper is in whose name an environment is stopped whose time is over: whoever has deployed to it last, of those who still may, or else the
// first one who may.
func (s *Server) stopper(ctx context.Context, e store.Environment) (string, error) {
	last, err := s.o.Store.Deployments(ctx, store.DeploymentFilter{Environment: e.ID, Limit: 1000})
	if err != nil || len(last) == 0 {
		return "", err
	}
	p, err := s.projectOf(ctx, e.Project)
	if err != nil {
		return "", err
	}
	for _, d := range last {
		if p.mayDeploy(e.Name, d.User) == nil {
			return d.User, nil
		}
	}
	return p.deployers(e.Name)[0], nil // somebody may, or all might
}

// stopNow stops an environment whose time is over.
func (s *Server) stopNow(ctx context.Context, e store.Environment) error {
	user, err := s.stopper(ctx, e)
	if err != nil {
		return err
	}
	id, err := s.wantStop(ctx, e, user, Args{Due: true})
	if err != nil {
		return err
	}
	refusal, err := s.o.Store.Await(ctx, id)
	if err == nil && refusal != "" {
		err = errors.New(refusal)
	}
	return err
}

// wantStop asks for an environment to be stopped.
func (s *Server) wantStop(ctx context.Context, e store.Environment, user string, args Args) (int64, error) {
	args.Environment = e.ID
	data, err := json.Marshal(args)
	if err != nil {
		return 0, err
	}
	return s.o.Store.Enqueue(ctx, store.Command{Kind: CommandStop, Project: e.Project, User: user, Args: data})
}

// deleted asks for the environments to be stopped that were deployed to last from branches that a push has deleted. Nobody waits for them.
func (s *Server) deleted(ctx context.Context, project Project, p Push) error {
	var failed []error
	for _, c := range p.Changes {
		branch, ok := strings.CutPrefix(c.Ref, "refs/heads/")
		if !ok || c.After != zeroes {
			continue
		}
		if err := s.branchDeleted(ctx, project, branch, p.User); err != nil && !errors.Is(err, store.ErrNotFound) {
			failed = append(failed, fmt.Errorf("stop the environments of the deleted branch %s: %w", branch, err))
		}
	}
	return errors.Join(failed...)
}

func (s *Server) branchDeleted(ctx context.Context, project Project, branch, user string) error {
	row, err := s.o.Store.Project(ctx, project.Path)
	if err != nil {
		return err
	}
	f := store.EnvironmentFilter{Project: row.ID, Branch: branch, State: store.EnvironmentAvailable, Limit: 1000}
	for {
		all, err := s.o.Store.Environments(ctx, f)
		if err != nil {
			return err
		}
		for _, e := range all {
			last, err := s.o.Store.LastDeployment(ctx, e.ID)
			if err == nil && (last.Ref != branch || last.Tag) {
				continue // what is there has come from elsewhere
			}
			if _, err := s.wantStop(ctx, e, user, Args{Branch: branch}); err != nil {
				return err
			}
		}
		if len(all) < f.Limit {
			return nil
		}
		f.After = all[len(all)-1].ID
	}
}

// stop does the command of that name: it plays the environment's stop jobs, by which the environment is stopped once they have succeeded.
// Where there is none it is stopped at once, unless it is for a branch that is deleted: then it stays, as somebody else may need it. A command
// that is done again after a restart goes on where it was.
func (s *Server) stop(ctx context.Context, c store.Command, args Args) error {
	e, err := s.o.Store.EnvironmentByID(ctx, args.Environment)
	if err != nil {
		return err
	}
	nobody := args.Due || args.Branch != "" // waits for it
	switch {
	case nobody && e.State == store.EnvironmentStopped,
		args.Due && (e.AutoStop.IsZero() || e.AutoStop.After(s.o.Now())),
		args.Branch != "" && (e.Ref != args.Branch || e.Tag):
		return nil // it is not to be stopped any more
	case e.State == store.EnvironmentStopped:
		return fmt.Errorf("stop: the environment %s is stopped already", e.Name)
	}
	p, err := s.projectOf(ctx, e.Project)
	if err != nil {
		return err
	}
	if err := p.mayDeploy(e.Name, c.User); err != nil && !args.Due {
		if nobody {
			s.o.Log.Warn("an environment is not stopped although its branch is deleted", "project", p.Path, "error", err)
			return nil
		}
		return fmt.Errorf("stop: %w", err)
	}
	id, jobs, err := s.stopJobs(ctx, e)
	switch {
	case err != nil:
		return err
	case len(jobs) == 0 && args.Branch != "":
		return nil
	case len(jobs) == 0 || args.Force:
		if _, err := s.o.Store.SetEnvironment(ctx, e.ID, store.EnvironmentStopped); err != nil {
			return err
		}
		s.letGo(ctx, p, e)
		return nil
	}
	if _, err := s.o.Store.SetEnvironment(ctx, e.ID, store.EnvironmentStopping); err != nil {
		return err
	}
	var failed []error
	for _, j := range jobs {
		if active(j) {
			continue
		}
		if err := s.do(ctx, store.Command{Kind: CommandPlay, Pipeline: id, Jobs: []string{j.Name}, User: c.User}); err != nil {
			failed = append(failed, fmt.Errorf("job %s of pipeline %d: %w", j.Name, id, err))
		}
	}
	if len(failed) == len(jobs) {
		_, err := s.o.Store.SetEnvironment(ctx, e.ID, store.EnvironmentAvailable)
		return fmt.Errorf("stop: %w", errors.Join(append(failed, err)...))
	}
	return errors.Join(failed...)
}

// active tells whether a job is on its way.
func active(j store.Job) bool {
	switch pipeline.Status(j.Status) {
	case pipeline.StatusPending, pipeline.StatusRunning, pipeline.StatusWaitingForResource, pipeline.StatusPreparing, pipeline.StatusCanceling:
		return true
	}
	return false
}

// stopJobs gives the jobs that stop an environment, each at its last attempt, and their pipeline: as with GitLab those that the deployments of
// the last pipeline name that has deployed to it, well or not. Where none of them can be played, those of the last successful one count.
func (s *Server) stopJobs(ctx context.Context, e store.Environment) (int64, []store.Job, error) {
	all, err := s.o.Store.Deployments(ctx, store.DeploymentFilter{Environment: e.ID})
	if err != nil {
		return 0, nil, err
	}
	var pipelines []int64
	if i := slices.IndexFunc(all, func(d store.Deployment) bool { return !d.Finished.IsZero() }); i >= 0 {
		pipelines = append(pipelines, all[i].Pipeline)
	}
	last, err := s.o.Store.LastDeployment(ctx, e.ID)
	if err == nil && !slices.Contains(pipelines, last.Pipeline) {
		pipelines = append(pipelines, last.Pipeline)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return 0, nil, err
	}
	for _, id := range pipelines {
		jobs, err := s.stopJobsIn(ctx, e, id)
		if err != nil && !errors.Is(err, store.ErrNotFound) || len(jobs) > 0 {
			return id, jobs, err
		}
	}
	return 0, nil, nil
}

func (s *Server) stopJobsIn(ctx context.Context, e store.Environment, id int64) ([]store.Job, error) {
	g, err := s.graphOf(ctx, id)
	if err != nil {
		return nil, err
	}
	rows, err := s.o.Store.Jobs(ctx, id)
	if err != nil {
		return nil, err
	}
	deployments, err := s.o.Store.Deployments(ctx, store.DeploymentFilter{Environment: e.ID, Pipeline: id})
	if err != nil {
		return nil, err
	}
	last := map[string]store.Job{}
	named := map[string]bool{}
	for _, j := range rows {
		last[j.Name] = j
		i := indexOf(g, j.Name)
		deploys := slices.ContainsFunc(deployments, func(d store.Deployment) bool { return d.Job == j.ID && !d.Finished.IsZero() })
		if deploys && i >= 0 && g.Jobs[i].Environment != nil && g.Jobs[i].Environment.OnStop != "" {
			named[g.Jobs[i].Environment.OnStop] = true
		}
	}
	var out []store.Job
	for i := range g.Jobs {
		j, ok := last[g.Jobs[i].Name]
		if !ok || !named[j.Name] || g.Jobs[i].When != pipeline.Manual {
			continue
		}
		switch pipeline.Status(j.Status) {
		case pipeline.StatusManual, pipeline.StatusSuccess, pipeline.StatusFailed, pipeline.StatusCanceled:
			out = append(out, j)
		default:
			if active(j) {
				out = append(out, j)
			}
		}
	}
	return out, nil
}

// rollback does the command of that name: it retries the job of an earlier deployment.
func (s *Server) rollback(ctx context.Context, c store.Command, args Args) error {
	e, err := s.o.Store.EnvironmentByID(ctx, args.Environment)
	if err != nil {
		return err
	}
	to, err := s.rollbackTo(ctx, e, args.To, c.Created)
	if err != nil {
		return fmt.Errorf("rollback of %s: %w", e.Name, err)
	}
	job, err := s.o.Store.Job(ctx, to.Job)
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("rollback of %s: the pipeline %d of deployment %d is not kept any more", e.Name, to.Pipeline, to.IID)
	}
	if err != nil {
		return err
	}
	if s.retriedSince(ctx, job, c) {
		return nil // before a restart
	}
	return s.do(ctx, store.Command{Kind: CommandRetry, Pipeline: job.Pipeline, Jobs: []string{job.Name}, User: c.User})
}

// retriedSince tells whether a rollback was done already, by a process that has ended before it could say so.
func (s *Server) retriedSince(ctx context.Context, job store.Job, c store.Command) bool {
	jobs, err := s.o.Store.Jobs(ctx, job.Pipeline)
	return err == nil && slices.ContainsFunc(jobs, func(j store.Job) bool {
		return j.Name == job.Name && j.ID > job.ID && j.Player == c.User && !j.Created.Before(c.Created)
	})
}

// maxLookedAt is how many deployments one looks back at.
const maxLookedAt = 10_000

// rollbackTo finds the deployment to go back to: that of a number, or the last successful one of another commit than what was there at a time.
func (s *Server) rollbackTo(ctx context.Context, e store.Environment, iid int64, at time.Time) (store.Deployment, error) {
	var all []store.Deployment
	f := store.DeploymentFilter{Environment: e.ID, Limit: 1000}
	for {
		page, err := s.o.Store.Deployments(ctx, f)
		if err != nil {
			return store.Deployment{}, err
		}
		all = append(all, page...)
		if len(page) < f.Limit || len(all) >= maxLookedAt {
			break
		}
		f.Before = page[len(page)-1].ID
	}
	if iid != 0 {
		i := slices.IndexFunc(all, func(d store.Deployment) bool { return d.IID == iid })
		switch {
		case i < 0:
			return store.Deployment{}, fmt.Errorf("it has no deployment %d", iid)
		case all[i].Status != store.DeploymentSuccess:
			return store.Deployment{}, fmt.Errorf("deployment %d is no successful one: it is %s", iid, all[i].Status)
		}
		return all[i], nil
	}
	all = slices.DeleteFunc(all, func(d store.Deployment) bool { return d.Status != store.DeploymentSuccess || d.Finished.After(at) })
	slices.SortStableFunc(all, func(a, b store.Deployment) int { return b.Finished.Compare(a.Finished) })
	i := slices.IndexFunc(all, func(d store.Deployment) bool { return d.SHA != all[0].SHA })
	if i < 0 {
		return store.Deployment{}, errors.New("there is no successful deployment of another commit before the one that is there")
	}
	return all[i], nil
}
