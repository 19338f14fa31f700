package ci

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/kube/proxy"
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/run"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/store"
)

// What a job does with its environment (environment:action). Only one that starts it makes a deployment; those that prepare or access it are
// neither of these.
const (
	actionStart  = "start" // also empty
	actionStop   = "stop"
	actionVerify = "verify"
)

// EnvironmentRule says how jobs deploy to the environments of a name.
type EnvironmentRule struct {
	Name      string   // * stands for anything: "review/*"
	Deployers []string // users whose jobs may have the environment; "*" for all; none: it is not protected
}

// deployers are those whose jobs may have an environment; none: all may.
func (p Project) deployers(environment string) []string {
	i := slices.IndexFunc(p.Environments, func(r EnvironmentRule) bool { return match(r.Name, environment) })
	if i < 0 {
		return nil
	}
	return p.Environments[i].Deployers
}

// mayDeploy says why a user's jobs may not have an environment, or nothing. As with GitLab all jobs of a protected environment are its
// deployers', whatever their action: they see its variables.
func (p Project) mayDeploy(environment, user string) error {
	who := p.deployers(environment)
	if len(who) == 0 || slices.Contains(who, "*") || slices.Contains(who, user) {
		return nil
	}
	return fmt.Errorf("the environment %s is protected: only jobs of %s may deploy to it, and not those of %s",
		environment, strings.Join(who, ", "), cmp.Or(user, "nobody in particular"))
}

// Deployers gives the users whose jobs may have an environment of a project; none: it is not protected.
func (s *Server) Deployers(ctx context.Context, project, environment string) ([]string, error) {
	p, err := s.o.Projects.Named(ctx, project)
	if errors.Is(err, ErrNoProject) {
		return nil, nil
	}
	i := slices.IndexFunc(p.Environments, func(r EnvironmentRule) bool { return match(r.Name, environment) })
	if p.Path == "" || i < 0 || slices.Contains(p.Environments[i].Deployers, "*") {
		return nil, err
	}
	return p.Environments[i].Deployers, nil // an error is about its variables then
}

// ruled is a project with the rules for its environments as they are now. Where they cannot be read those that are known count.
func (s *Server) ruled(ctx context.Context, p Project) Project {
	if now, err := s.o.Projects.Named(ctx, p.Path); err == nil || now.Dir != "" {
		p.Environments, p.Following = now.Environments, now.Following
	}
	return p
}

// mayTrigger says why a trigger job may not start its pipeline: that one gets variables of the job's environment.
func (s *Server) mayTrigger(ctx context.Context, p Project, t run.Trigger) error {
	if t.Job.Environment == nil {
		return nil
	}
	by, err := s.asked(ctx, run.JobRef{Pipeline: t.ParentID, Job: t.Job.Name, ID: t.JobID})
	if err != nil {
		return err
	}
	name := by.at.Environment // without masked values
	if err := pipeline.CheckEnvironmentName(name); err != nil {
		return &executor.Failure{Reason: pipeline.EnvironmentFailure, Err: err}
	}
	if err := s.ruled(ctx, p).mayDeploy(name, by.user); err != nil {
		return &executor.Failure{Reason: pipeline.ProtectedEnvironment, Err: err}
	}
	return nil
}

// asked is whose an attempt of a job is: who has pushed, or played or retried it. What is retried by itself is still theirs.
type asked struct {
	user  string
	at    store.Job // the attempt
	first store.Job // the one that the user has asked for
	of    store.Pipeline
}

func (s *Server) asked(ctx context.Context, ref run.JobRef) (a asked, err error) {
	if a.of, err = s.o.Store.Pipeline(ctx, ref.Pipeline); err != nil {
		return a, err
	}
	jobs, err := s.o.Store.Jobs(ctx, ref.Pipeline)
	if err != nil {
		return a, err
	}
	a.user = cmp.Or(player(jobs, ref.Job, ref.ID), a.of.User)
	for _, j := range slices.Backward(jobs) {
		switch {
		case j.Name != ref.Job || j.ID > ref.ID:
			continue
		case j.ID == ref.ID:
			a.at = j
		}
		if a.first = j; j.Player != "" {
			break
		}
	}
	if a.at.ID == 0 {
		return a, fmt.Errorf("job %d is not kept yet", ref.ID)
	}
	return a, nil
}

// player is who has played or retried an attempt of a job, or the one before that was retried by itself; empty: nobody has.
func player(jobs []store.Job, name string, id int64) string {
	for _, j := range slices.Backward(jobs) {
		if j.Name == name && j.ID <= id && j.Player != "" {
			return j.Player
		}
	}
	return ""
}

// asPlayed lets a job that somebody has played or retried find them as its user, rather than who has made its pipeline. A store that
// does not answer holds up no job for that.
func (s *Server) asPlayed(ctx context.Context, ref run.JobRef, job *executor.Job) {
	if ref.Attempt == 1 && job.By == "" {
		return
	}
	a, err := s.asked(ctx, ref)
	if err != nil {
		s.o.Log.Warn("find out who has played a job", "job", ref.ID, "error", err)
		return
	}
	if a.user == a.of.User {
		return
	}
	for i := range job.Variables {
		if v := &job.Variables[i]; v.Origin == pipeline.OriginPredefined && (v.Name == "GITLAB_USER_LOGIN" || v.Name == "GITLAB_USER_NAME") {
			v.Value = a.user
		}
	}
}

// deploy sees to the environment of a job that starts: whether its user may have it, and what is deployed to it. Once it returns the
// intent to deploy is on the disk. end is called when the job's work is done; wrote gives what the job has written then.
func (s *Server) deploy(ctx context.Context, p Project, ref run.JobRef, job *executor.Job, wrote func() []proxy.Written) (end func(executor.Result), err error) {
	env := job.Job.Environment
	if env == nil {
		return func(executor.Result) {}, nil
	}
	a, err := s.asked(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("deploy: %w", err)
	}
	name := a.at.Environment // without masked values
	if err := pipeline.CheckEnvironmentName(name); err != nil {
		return nil, &executor.Failure{Reason: pipeline.EnvironmentFailure, Err: err}
	}
	begun, err := s.begun(ctx, ref)
	if err != nil {
		return nil, err
	}
	if err := p.mayDeploy(name, a.user); err != nil && !begun {
		return nil, &executor.Failure{Reason: pipeline.ProtectedEnvironment, Err: err}
	}
	known, err := s.o.Store.Environment(ctx, a.of.Project, name)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	stops, err := lifetime(env)
	if err != nil {
		return nil, &executor.Failure{Reason: pipeline.EnvironmentFailure, Err: err}
	}
	if action := cmp.Or(env.Action, actionStart); action != actionStart {
		withEnvironment(job, known, true)
		return func(r executor.Result) { s.visited(p, action, known, stops, r) }, nil
	}
	if err := s.outdated(ctx, known, a.first.ID, a.of.SHA); err != nil && !begun {
		return nil, &executor.Failure{Reason: pipeline.OutdatedDeployment, Err: err}
	}
	kept, err := s.rootOf(ctx, ref.Pipeline)
	if err != nil {
		return nil, err
	}
	e := store.Environment{Project: a.of.Project, Name: name, Slug: env.Slug, Tier: env.Tier, OnStop: env.OnStop, AutoStop: s.after(stops)}
	if e.OnStop != "" {
		e.OnStopPipeline = kept
	}
	e, d, err := s.o.Store.BeginDeployment(ctx, e, store.Deployment{Pipeline: a.of.ID, Job: ref.ID, Ref: a.of.Ref, Tag: a.of.Tag, SHA: a.of.SHA, User: a.user})
	if err != nil {
		return nil, err
	}
	s.alarm()
	if err := keepCommit(ctx, p, d); err != nil {
		s.o.Log.Warn("keep the commit of a deployment", "project", p.Path, "environment", name, "error", err)
	}
	withEnvironment(job, e, false)
	return func(r executor.Result) { s.deployed(p, d, *job, stops, wrote(), r) }, nil
}

// begun tells whether a job has begun to deploy already: it goes on after a restart.
func (s *Server) begun(ctx context.Context, ref run.JobRef) (bool, error) {
	all, err := s.o.Store.Deployments(ctx, store.DeploymentFilter{Pipeline: ref.Pipeline, Limit: 1000})
	return slices.ContainsFunc(all, func(d store.Deployment) bool { return d.Job == ref.ID }), err
}

// lifetime is how long an environment lasts from now on; 0: for ever.
func lifetime(env *pipeline.Environment) (time.Duration, error) {
	if env.AutoStopIn == "" || strings.EqualFold(env.AutoStopIn, "never") {
		return 0, nil
	}
	d, err := pipeline.ParseDuration(env.AutoStopIn)
	if err != nil {
		return 0, fmt.Errorf("environment:auto_stop_in: %w", err)
	}
	return d, nil
}

func (s *Server) after(d time.Duration) time.Time {
	if d == 0 {
		return time.Time{}
	}
	return s.o.Now().Add(d)
}

// withEnvironment tells a job what is known of its environment. What the job says itself about its URL counts more, and about the tier
// where it says something else than the name.
func withEnvironment(job *executor.Job, e store.Environment, tier bool) {
	if e.ID == 0 {
		return
	}
	set := func(name, value string) {
		if value != "" {
			job.Variables = append(job.Variables, pipeline.Variable{Name: name, Value: value, Raw: true, Public: true, Origin: pipeline.OriginPredefined})
		}
	}
	set("CI_ENVIRONMENT_ID", strconv.FormatInt(e.ID, 10))
	if job.Job.Environment.URL == "" {
		set("CI_ENVIRONMENT_URL", e.URL)
	}
	if tier && job.Job.Environment.Tier == pipeline.Tier(job.Job.Environment.Name) {
		set("CI_ENVIRONMENT_TIER", e.Tier)
	}
}

// outdated says that something newer than a job has been deployed to its environment since: its pipeline was made before that one, and
// of another commit. asked is the number of the attempt that somebody has asked for: a retry is as new as its wish, which is how one goes
// back. GitLab calls it "prevent outdated deployment jobs".
func (s *Server) outdated(ctx context.Context, e store.Environment, number int64, sha string) error {
	if e.ID == 0 {
		return nil
	}
	last, err := s.o.Store.LastDeployment(ctx, e.ID)
	if errors.Is(err, store.ErrNotFound) || err == nil && last.SHA == sha {
		return nil
	}
	if err != nil {
		return err
	}
	newer := last.Job
	if j, err := s.o.Store.Job(ctx, last.Job); err == nil {
		if a, err := s.asked(ctx, run.JobRef{Pipeline: j.Pipeline, Job: j.Name, ID: j.ID}); err == nil {
			newer = a.first.ID // what was retried by itself is as old as its first attempt
		}
	}
	if number >= newer {
		return nil
	}
	return fmt.Errorf("%s has a newer deployment: %.8s of %s, by pipeline %d; this job's pipeline is older. To go back to what a job has deployed before, "+
		"retry that job, or ask for a rollback of the environment", e.Name, last.SHA, last.Ref, last.Pipeline)
}

// deployed keeps what a deployment has come to. Whether it has succeeded is kept with the job.
func (s *Server) deployed(p Project, d store.Deployment, job executor.Job, stops time.Duration, wrote []proxy.Written, r executor.Result) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.lifetime()), time.Minute)
	defer cancel()
	var report store.Report
	if all := (work{objects(wrote), commits(s.pushes.of(d.Job))}); len(all.Objects)+len(all.Commits) > 0 {
		var err error
		if report.Wrote, err = json.Marshal(all); err != nil {
			s.o.Log.Error("keep what a job has written", "job", d.Job, "error", err)
		}
	}
	if r.Status == pipeline.StatusSuccess {
		report.AutoStop = s.after(stops)
		var err error
		if report.URL, err = s.urlOf(ctx, p, d, job); err != nil {
			s.o.Log.Warn("find the URL of an environment", "job", d.Job, "error", err)
		}
	}
	if _, err := s.o.Store.ReportDeployment(ctx, d.ID, report); err != nil {
		s.o.Log.Error("keep a deployment", "job", d.Job, "error", err)
	}
	s.alarm()
}

// work is what a deployment has done, as it is kept.
type work struct {
	Objects []object `json:"objects,omitempty"`
	Commits []commit `json:"commits,omitempty"`
}

// commit is one that was pushed to a repository of the Git host.
type commit struct {
	Repository string `json:"repository"`
	Ref        string `json:"ref"`
	SHA        string `json:"sha"`
}

func commits(pushed []Commit) []commit {
	var out []commit
	for _, c := range pushed {
		out = append(out, commit(c))
	}
	return out
}

// object is one that a deployment has written.
type object struct {
	Verb      string `json:"verb"` // the last one
	Group     string `json:"group,omitempty"`
	Version   string `json:"version"`
	Kind      string `json:"kind,omitempty"`
	Resource  string `json:"resource"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"` // empty: all that the job has selected
}

// maxObjects is how many objects are kept of a deployment.
const maxObjects = 1000

// objects gives what was written, each object once.
func objects(wrote []proxy.Written) []object {
	var out []object
	at := map[object]int{}
	for _, w := range wrote {
		o := object{Group: w.Group, Version: w.Version, Kind: w.Kind, Resource: w.Resource, Namespace: w.Namespace, Name: w.Name}
		key := o
		key.Kind, key.Version = "", ""
		i, ok := at[key]
		if !ok && len(out) == maxObjects {
			continue
		}
		if o.Verb = w.Verb; ok {
			o.Kind = cmp.Or(o.Kind, out[i].Kind)
			out[i] = o
			continue
		}
		at[key] = len(out)
		out = append(out, o)
	}
	return out
}

// maxEnvironmentURL is GitLab's, in characters.
const maxEnvironmentURL = 255

// urlOf is the URL of a job's environment, with the variables that there are at the job's end: its dotenv report has some of them. Empty:
// the job says none.
func (s *Server) urlOf(ctx context.Context, p Project, d store.Deployment, job executor.Job) (string, error) {
	text := cmp.Or(job.Job.Environment.RawURL, job.Job.Environment.URL)
	if text == "" {
		return "", nil
	}
	if strings.ContainsAny(text, "$%") {
		record, err := s.o.Artifacts.Get(ctx, artifact.Key{Project: p.Path, Pipeline: strconv.FormatInt(d.Pipeline, 10), Job: job.Name})
		if err != nil {
			return "", err
		}
		vars := job.Variables
		if record != nil {
			var reported pipeline.Variables
			for _, kv := range record.Dotenv {
				reported = append(reported, pipeline.Variable{Name: kv.Key, Value: kv.Value})
			}
			vars = vars.WithDotenv(reported)
		}
		resolved, err := vars.Resolved()
		if err != nil {
			return "", err
		}
		text = resolved.ExpandServerBlank(text)
	}
	text = redact.New(job.MaskedValues()...).Text(text)
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || len([]rune(text)) > maxEnvironmentURL {
		return "", fmt.Errorf("%.300q is no URL with http or https, of at most %d characters", text, maxEnvironmentURL)
	}
	return redact.URL(text), nil
}

// visited takes in that a job that deploys nothing has been at an environment: prepare and access let the environment's time begin anew, and
// any of them may say how long it lasts. How a job that stops it has ended is kept with the job.
func (s *Server) visited(p Project, action string, e store.Environment, stops time.Duration, r executor.Result) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.lifetime()), time.Minute)
	defer cancel()
	switch {
	case e.ID == 0 || r.Status != pipeline.StatusSuccess:
		return
	case action == actionStop:
		s.letGo(ctx, p, e)
		return
	}
	if stops == 0 && action != actionVerify {
		stops = s.lastLifetime(ctx, e)
	}
	if stops == 0 {
		return
	}
	if _, err := s.o.Store.SetAutoStop(ctx, e.ID, s.after(stops)); err != nil {
		s.o.Log.Error("set when an environment stops", "environment", e.Name, "error", err)
	}
	s.alarm()
}

// lastLifetime is how long the last successful deployment lets an environment last; 0: for ever.
func (s *Server) lastLifetime(ctx context.Context, e store.Environment) time.Duration {
	last, err := s.o.Store.LastDeployment(ctx, e.ID)
	if err != nil {
		return 0
	}
	_, job, err := s.graphJob(ctx, last)
	if err != nil || job.Environment == nil {
		return 0
	}
	d, err := lifetime(job.Environment)
	if err != nil {
		return 0
	}
	return d
}

// graphOf reads the graph of a pipeline.
func (s *Server) graphOf(ctx context.Context, id int64) (*pipeline.Graph, error) {
	from, err := s.o.Store.Saved(ctx, id)
	if err != nil {
		return nil, err
	}
	g := &pipeline.Graph{}
	if from.Graph == nil {
		return g, nil
	}
	if err := json.Unmarshal(from.Graph, g); err != nil {
		return nil, fmt.Errorf("pipeline %d: %w: its graph: %w", id, errUnreadable, err)
	}
	return g, nil
}

// graphJob gives the job of a deployment, and the graph that it is in.
func (s *Server) graphJob(ctx context.Context, d store.Deployment) (*pipeline.Graph, *pipeline.Job, error) {
	row, err := s.o.Store.Job(ctx, d.Job)
	if err != nil {
		return nil, nil, err
	}
	g, err := s.graphOf(ctx, row.Pipeline)
	if err != nil {
		return nil, nil, err
	}
	i := indexOf(g, row.Name)
	if i < 0 {
		return nil, nil, fmt.Errorf("pipeline %d has no job %s: %w", row.Pipeline, row.Name, errUnreadable)
	}
	return g, &g.Jobs[i], nil
}

// deployable says why a person may not play or retry jobs because of their environments, or nothing.
func (s *Server) deployable(ctx context.Context, c store.Command) error {
	if c.Kind != CommandPlay && c.Kind != CommandRetry || len(c.Jobs) == 0 {
		return nil
	}
	jobs, err := s.o.Store.Jobs(ctx, c.Pipeline)
	if err != nil {
		return err
	}
	last := map[string]store.Job{}
	for _, j := range jobs {
		if j.Environment != "" && slices.Contains(c.Jobs, j.Name) {
			last[j.Name] = j
		}
	}
	if len(last) == 0 {
		return nil
	}
	of, err := s.o.Store.Pipeline(ctx, c.Pipeline)
	if err != nil {
		return err
	}
	p, err := s.projectOf(ctx, of.Project)
	if err != nil {
		return err
	}
	g, err := s.graphOf(ctx, c.Pipeline)
	if err != nil {
		return err
	}
	for _, name := range c.Jobs {
		j, ok := last[name]
		i := indexOf(g, name)
		if !ok || i < 0 || g.Jobs[i].Environment == nil {
			continue
		}
		if err := p.mayDeploy(j.Environment, c.User); err != nil {
			return fmt.Errorf("%s: job %s: %w", c.Kind, name, err)
		}
		if pipeline.Status(j.Status).Completed() || cmp.Or(g.Jobs[i].Environment.Action, actionStart) != actionStart {
			continue // it runs anew, as the newest
		}
		e, err := s.o.Store.Environment(ctx, of.Project, j.Environment)
		if err == nil {
			err = s.outdated(ctx, e, j.ID, of.SHA)
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("%s: job %s: %w", c.Kind, name, err)
		}
	}
	return nil
}

// projectOf gives the project of a number. Where its variables cannot be read it is there all the same.
func (s *Server) projectOf(ctx context.Context, id int64) (Project, error) {
	all, err := s.o.Store.Projects(ctx)
	if err != nil {
		return Project{}, err
	}
	for _, row := range all {
		if row.ID != id {
			continue
		}
		p, err := s.o.Projects.Named(ctx, row.Name)
		if err != nil && p.Dir == "" {
			return p, fmt.Errorf("project %s: %w", row.Name, err)
		}
		return p, nil
	}
	return Project{}, fmt.Errorf("project %d: %w", id, ErrNoProject)
}

// keptDeployments is how many deployments of an environment can be gone back to, or stopped, when no branch or tag has their commits any more.
const keptDeployments = 20

// keptRefs is below what the refs are that keep the commits of an environment's deployments. The Git host shows them to nobody.
func keptRefs(environment int64) string {
	return fmt.Sprintf("refs/keelson/environments/%d/", environment)
}

// keepCommit lets a deployment's commit stay in the repository, whatever becomes of its branch.
func keepCommit(ctx context.Context, p Project, d store.Deployment) error {
	return changeKept(ctx, p, d.Environment, func(iid int64) bool { return iid > d.IID-keptDeployments }, map[string]string{
		keptRefs(d.Environment) + strconv.FormatInt(d.IID, 10): d.SHA,
	})
}

// letGo lets the commits go that were kept for an environment, but for those that are being deployed.
func (s *Server) letGo(ctx context.Context, p Project, e store.Environment) {
	running, err := s.o.Store.Deployments(ctx, store.DeploymentFilter{Environment: e.ID, Status: store.DeploymentRunning})
	if err == nil {
		err = changeKept(ctx, p, e.ID, func(iid int64) bool {
			return slices.ContainsFunc(running, func(d store.Deployment) bool { return d.IID == iid })
		}, map[string]string{})
	}
	if err != nil {
		s.o.Log.Warn("let go of the commits of an environment", "project", p.Path, "environment", e.Name, "error", err)
	}
}

// changeKept deletes the refs of an environment's deployments that do not stay, and sets others.
func changeKept(ctx context.Context, p Project, environment int64, stays func(iid int64) bool, set map[string]string) error {
	repo, err := git.Open(p.Dir, git.Options{})
	if err != nil {
		return err
	}
	defer repo.Close()
	refs, err := repo.Refs()
	if err != nil {
		return err
	}
	for name := range refs {
		number, ok := strings.CutPrefix(name, keptRefs(environment))
		if !ok || set[name] != "" {
			continue
		}
		if iid, err := strconv.ParseInt(number, 10, 64); err != nil || !stays(iid) {
			set[name] = ""
		}
	}
	return repo.SetRefs(ctx, set)
}
