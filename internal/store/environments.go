package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// The states of an environment, as GitLab calls them.
const (
	EnvironmentAvailable = "available"
	EnvironmentStopping  = "stopping"
	EnvironmentStopped   = "stopped"
)

// The statuses of a deployment, as GitLab calls them.
const (
	DeploymentCreated  = "created"
	DeploymentRunning  = "running"
	DeploymentSuccess  = "success"
	DeploymentFailed   = "failed"
	DeploymentCanceled = "canceled"
)

// Environment is a place that a project's jobs deploy to.
type Environment struct {
	ID      int64  `json:"id"`
	Project int64  `json:"project"`
	Name    string `json:"name"`
	Slug    string `json:"slug"`
	Tier    string `json:"tier,omitempty"`
	URL     string `json:"url,omitempty"`
	State   string `json:"state"`
	Ref     string `json:"ref,omitempty"` // of the last deployment
	Tag     bool   `json:"tag,omitempty"`

	OnStop         string    `json:"onStop,omitempty"` // the job that stops it …
	OnStopPipeline int64     `json:"onStopPipeline,omitempty"`
	AutoStop       time.Time `json:"autoStop,omitzero"` // when it is stopped by itself; zero: never
	Created        time.Time `json:"created"`
}

// Deployment is one job's work on an environment.
type Deployment struct {
	ID          int64  `json:"id"`
	IID         int64  `json:"iid"` // among those of its environment
	Project     int64  `json:"project"`
	Environment int64  `json:"environment"`
	Pipeline    int64  `json:"pipeline"`
	Job         int64  `json:"job"`
	Ref         string `json:"ref"`
	Tag         bool   `json:"tag,omitempty"`
	SHA         string `json:"sha"`

	Status   string          `json:"status"`
	User     string          `json:"user,omitempty"` // who has started or played the job
	Created  time.Time       `json:"created"`
	Started  time.Time       `json:"started,omitzero"`
	Finished time.Time       `json:"finished,omitzero"`
	Wrote    json.RawMessage `json:"wrote,omitempty"` // which objects and commits, in JSON
}

const environmentColumns = `id, project, name, slug, tier, url, state, ref, tag, on_stop, on_stop_pipeline, auto_stop, created`

func (e *Environment) scan(scan func(...any) error) error {
	var autoStop, created int64
	err := scan(&e.ID, &e.Project, &e.Name, &e.Slug, &e.Tier, &e.URL, &e.State, &e.Ref, &e.Tag, &e.OnStop, &e.OnStopPipeline, &autoStop, &created)
	e.AutoStop, e.Created = at(autoStop), at(created)
	return err
}

const deploymentColumns = `id, iid, project, environment, pipeline, job, ref, tag, sha, status, deployed_by, created, started, finished, wrote`

func (d *Deployment) scan(scan func(...any) error) error {
	var created, started, finished int64
	var wrote string
	err := scan(&d.ID, &d.IID, &d.Project, &d.Environment, &d.Pipeline, &d.Job, &d.Ref, &d.Tag, &d.SHA, &d.Status, &d.User, &created, &started, &finished, &wrote)
	d.Created, d.Started, d.Finished = at(created), at(started), at(finished)
	if wrote != "" {
		d.Wrote = json.RawMessage(wrote)
	}
	return err
}

// BeginDeployment keeps the intent of a job to deploy, and makes the environment or brings it up to date: it is available from now
// on, with what the job says about its tier, URL, stop job and time. It waits for the disk, so that it is known before the first
// object is written. A job that begins again, as after a restart, goes on with the deployment that it has. Of d the store gives
// numbers, environment and project; an empty status is running.
func (db *DB) BeginDeployment(ctx context.Context, e Environment, d Deployment) (Environment, Deployment, error) {
	doing := fmt.Sprintf("begin the deployment of job %d to %s", d.Job, e.Name)
	err := errors.Join(
		checkNames("name of the environment", e.Name, "slug", e.Slug, "tier", e.Tier, "URL", e.URL, "stop job", e.OnStop),
		checkNames("ref", d.Ref, "SHA", d.SHA, "status", d.Status), checkSize("objects", d.Wrote, entryMax))
	if e.Name == "" || d.Job <= 0 {
		err = errors.Join(err, errors.New("an environment and a job are needed"))
	}
	if err != nil {
		return e, d, db.wrap(doing, err)
	}
	d.Project, d.Status = e.Project, cmp.Or(d.Status, DeploymentRunning)
	now := db.now()
	if d.Created.IsZero() {
		d.Created = now
	}
	if d.Started.IsZero() && d.Status == DeploymentRunning {
		d.Started = now
	}
	err = db.write(ctx, true, func(tx *tx) error {
		err := tx.putEnvironment(&e, d, now)
		if err != nil {
			return err
		}
		d.Environment = e.ID
		return tx.putDeployment(&d)
	})
	return e, d, db.wrap(doing, err)
}

func (t *tx) putEnvironment(e *Environment, d Deployment, now time.Time) error {
	id, err := t.take("environment", 1)
	if err != nil {
		return err
	}
	// A URL is kept until there is another one: often it is known at the end only.
	err = e.scan(t.row(`INSERT INTO environments (id, project, name, slug, tier, url, state, ref, tag, on_stop, on_stop_pipeline, auto_stop, created)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (project, name) DO UPDATE SET tier = excluded.tier, state = excluded.state, ref = excluded.ref, tag = excluded.tag,
		url = CASE excluded.url WHEN '' THEN environments.url ELSE excluded.url END,
		on_stop = excluded.on_stop, on_stop_pipeline = excluded.on_stop_pipeline, auto_stop = excluded.auto_stop
		RETURNING `+environmentColumns,
		id, e.Project, e.Name, e.Slug, e.Tier, e.URL, EnvironmentAvailable, d.Ref, flag(d.Tag), e.OnStop, e.OnStopPipeline, micros(e.AutoStop), micros(now)).Scan)
	t.changed(Change{Kind: "environment", ID: e.ID, Project: e.Project, Status: e.State})
	return err
}

func (t *tx) putDeployment(d *Deployment) error {
	id, err := t.take("deployment", 1)
	if err != nil {
		return err
	}
	var iid int64
	if err := t.row(`UPDATE environments SET next_iid = next_iid + 1 WHERE id = ? RETURNING next_iid - 1`, d.Environment).Scan(&iid); err != nil {
		return err
	}
	err = d.scan(t.row(`INSERT INTO deployments (id, iid, project, environment, pipeline, job, ref, tag, sha, status, deployed_by, created, started, finished, wrote)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)
		ON CONFLICT (job) DO UPDATE SET status = excluded.status, finished = 0
		RETURNING `+deploymentColumns,
		id, iid, d.Project, d.Environment, d.Pipeline, d.Job, d.Ref, flag(d.Tag), d.SHA, d.Status, text(d.User), micros(d.Created), micros(d.Started), string(d.Wrote)).Scan)
	t.changed(Change{Kind: "deployment", ID: d.ID, Project: d.Project, Pipeline: d.Pipeline, Status: d.Status})
	return err
}

// Report is what a job tells of its deployment while it is under way. What is empty stays as it was.
type Report struct {
	URL      string    // of the environment, where the job has found it out
	AutoStop time.Time // when the environment stops by itself
	Wrote    []byte    // which objects and commits, in JSON
}

// ReportDeployment keeps what a job tells of its deployment. How that ends is known with the job: see [DB.Advance].
func (db *DB) ReportDeployment(ctx context.Context, id int64, r Report) (Deployment, error) {
	doing := fmt.Sprintf("keep what deployment %d has done", id)
	var d Deployment
	err := errors.Join(checkNames("URL", r.URL), checkSize("objects", r.Wrote, entryMax))
	if err != nil {
		return d, db.wrap(doing, err)
	}
	err = db.write(ctx, false, func(tx *tx) error {
		err := d.scan(tx.row(`UPDATE deployments SET wrote = CASE CAST(? AS TEXT) WHEN '' THEN wrote ELSE ? END WHERE id = ? RETURNING `+deploymentColumns,
			string(r.Wrote), string(r.Wrote), id).Scan)
		if err == nil && len(r.Wrote) > 0 {
			err = tx.putNames(id, r.Wrote)
		}
		if err != nil || r.URL == "" && r.AutoStop.IsZero() {
			return err
		}
		tx.changed(Change{Kind: "environment", ID: d.Environment, Project: d.Project})
		return tx.exec(`UPDATE environments SET url = CASE CAST(? AS TEXT) WHEN '' THEN url ELSE ? END, auto_stop = CASE CAST(? AS BIGINT) WHEN 0 THEN auto_stop ELSE ? END WHERE id = ?`,
			r.URL, r.URL, micros(r.AutoStop), micros(r.AutoStop), d.Environment)
	})
	return d, db.wrap(doing, err)
}

// deploymentStatus is what a deployment has come to when its job has.
func deploymentStatus(job string) string {
	switch job {
	case DeploymentSuccess, DeploymentCanceled:
		return job
	default:
		return DeploymentFailed
	}
}

// endDeployment ends the deployment of a job that is over.
func (t *tx) endDeployment(j *sealedJob) error {
	return t.endDeployments(`job = ?`, j.ID, deploymentStatus(j.Status), j.Finished)
}

// endDeployments ends those that are under way, of a job or a pipeline.
func (t *tx) endDeployments(of string, id int64, status string, at time.Time) error {
	return t.each(func(scan func(...any) error) error {
		c := Change{Kind: "deployment", Status: status}
		err := scan(&c.ID, &c.Project, &c.Pipeline)
		t.changed(c)
		return err
	}, `UPDATE deployments SET status = ?, finished = ? WHERE `+of+` AND status IN ('created', 'running') RETURNING id, project, pipeline`,
		status, micros(at), id)
}

// endStop keeps how a job that stops an environment has ended. What is being deployed there again stays available.
func (t *tx) endStop(project int64, name string, stopped bool) error {
	query := `UPDATE environments SET state = 'available' WHERE project = ? AND name = ? AND state = 'stopping' RETURNING id, state`
	if stopped {
		query = `UPDATE environments SET state = 'stopped', auto_stop = 0 WHERE project = ? AND name = ? AND state <> 'stopped' AND NOT EXISTS
			(SELECT 1 FROM deployments d WHERE d.environment = environments.id AND d.status = 'running') RETURNING id, state`
	}
	return t.each(func(scan func(...any) error) error {
		c := Change{Kind: "environment", Project: project}
		err := scan(&c.ID, &c.Status)
		t.changed(c)
		return err
	}, query, project, name)
}

// SetEnvironment gives an environment another state. One that is stopped does not stop by itself any more.
func (db *DB) SetEnvironment(ctx context.Context, id int64, state string) (Environment, error) {
	doing := fmt.Sprintf("set environment %d to %s", id, state)
	switch state {
	case EnvironmentAvailable, EnvironmentStopping, EnvironmentStopped:
	default:
		return Environment{}, db.wrap(doing, errors.New("there is no such state"))
	}
	return db.changeEnvironment(ctx, doing, `UPDATE environments SET state = ?, auto_stop = CASE CAST(? AS TEXT) WHEN 'stopped' THEN 0 ELSE auto_stop END
		WHERE id = ? RETURNING `+environmentColumns, state, state, id)
}

// SetAutoStop says when an environment stops by itself; zero: never.
func (db *DB) SetAutoStop(ctx context.Context, id int64, when time.Time) (Environment, error) {
	return db.changeEnvironment(ctx, fmt.Sprintf("set when environment %d stops", id),
		`UPDATE environments SET auto_stop = ? WHERE id = ? RETURNING `+environmentColumns, micros(when), id)
}

func (db *DB) changeEnvironment(ctx context.Context, doing, query string, args ...any) (Environment, error) {
	var e Environment
	err := db.write(ctx, false, func(tx *tx) error {
		err := e.scan(tx.row(query, args...).Scan)
		tx.changed(Change{Kind: "environment", ID: e.ID, Project: e.Project, Status: e.State})
		return err
	})
	return e, db.wrap(doing, err)
}

// Environment gives a project's environment of a name, or [ErrNotFound].
func (db *DB) Environment(ctx context.Context, project int64, name string) (Environment, error) {
	var e Environment
	err := db.read(ctx, func(tx *tx) error {
		return e.scan(tx.row(`SELECT `+environmentColumns+` FROM environments WHERE project = ? AND name = ?`, project, name).Scan)
	})
	return e, db.wrap("environment "+name, err)
}

// EnvironmentByID gives the environment of a number, or [ErrNotFound].
func (db *DB) EnvironmentByID(ctx context.Context, id int64) (Environment, error) {
	var e Environment
	err := db.read(ctx, func(tx *tx) error {
		return e.scan(tx.row(`SELECT `+environmentColumns+` FROM environments WHERE id = ?`, id).Scan)
	})
	return e, db.wrap(fmt.Sprintf("environment %d", id), err)
}

// EnvironmentFilter says which environments a list has: those that meet all that is set.
type EnvironmentFilter struct {
	Project  int64
	Projects []int64 // only of these; nil: of all
	State    string
	Branch   string // was deployed last from this branch; set Project with it
	After    int64  // only environments with a larger number: the last one of the page before
	Limit    int    // 0: 100; at most 1000
}

// Environments lists environments in the order of their numbers. A page shorter than the limit is the last one.
func (db *DB) Environments(ctx context.Context, f EnvironmentFilter) ([]Environment, error) {
	var w where
	if f.Project != 0 {
		w.and("project = ?", f.Project)
	}
	w.projects(f.Projects)
	if f.State != "" {
		w.and("state = ?", f.State)
	}
	if f.Branch != "" {
		w.and("ref = ? AND tag = 0", f.Branch)
	}
	if f.After != 0 {
		w.and("id > ?", f.After)
	}
	return db.environments(ctx, "list environments", w.String()+` ORDER BY id LIMIT ?`, append(w.args, page(f.Limit))...)
}

// DueToStop gives the available environments whose time is over, the longest overdue first, at most 1000.
func (db *DB) DueToStop(ctx context.Context, now time.Time) ([]Environment, error) {
	return db.environments(ctx, "list environments to stop", ` WHERE auto_stop <> 0 AND auto_stop <= ? AND state = ? ORDER BY auto_stop, id LIMIT ?`,
		micros(now), EnvironmentAvailable, pageMax)
}

func (db *DB) environments(ctx context.Context, doing, rest string, args ...any) ([]Environment, error) {
	var all []Environment
	err := db.read(ctx, func(tx *tx) error {
		return tx.each(func(scan func(...any) error) error {
			var e Environment
			err := e.scan(scan)
			all = append(all, e)
			return err
		}, `SELECT `+environmentColumns+` FROM environments`+rest, args...)
	})
	return all, db.wrap(doing, err)
}

// DeploymentFilter says which deployments a list has: those that meet all that is set.
type DeploymentFilter struct {
	Project     int64
	Environment int64
	Pipeline    int64
	Status      string
	Before      int64 // only deployments with a smaller number: the last one of the page before; 0: from the newest on
	Limit       int   // 0: 100; at most 1000
}

// Deployments lists deployments, the newest first. A page shorter than the limit is the last one.
func (db *DB) Deployments(ctx context.Context, f DeploymentFilter) ([]Deployment, error) {
	var w where
	if f.Project != 0 {
		w.and("project = ?", f.Project)
	}
	if f.Environment != 0 {
		w.and("environment = ?", f.Environment)
	}
	if f.Pipeline != 0 {
		w.and("pipeline = ?", f.Pipeline)
	}
	if f.Status != "" {
		w.and("status = ?", f.Status)
	}
	if f.Before != 0 {
		w.and("id < ?", f.Before)
	}
	var all []Deployment
	err := db.read(ctx, func(tx *tx) error {
		return tx.each(func(scan func(...any) error) error {
			var d Deployment
			err := d.scan(scan)
			all = append(all, d)
			return err
		}, `SELECT `+deploymentColumns+` FROM deployments`+w.String()+` ORDER BY id DESC LIMIT ?`, append(w.args, page(f.Limit))...)
	})
	return all, db.wrap("list deployments", err)
}

// lastMost is how many deployments there may be at a time to one environment, so that the one that began last is not the last that ended.
const lastMost = 100

// LastDeployment gives the last successful deployment to an environment, the one that ended last: what is there. [ErrNotFound]: there was none.
func (db *DB) LastDeployment(ctx context.Context, environment int64) (Deployment, error) {
	all, err := db.Deployments(ctx, DeploymentFilter{Environment: environment, Status: DeploymentSuccess, Limit: lastMost})
	if err == nil && len(all) == 0 {
		err = db.wrap(fmt.Sprintf("last deployment to environment %d", environment), ErrNotFound)
	}
	if err != nil {
		return Deployment{}, err
	}
	return slices.MaxFunc(all, func(a, b Deployment) int { return cmp.Or(a.Finished.Compare(b.Finished), cmp.Compare(a.ID, b.ID)) }), nil
}
