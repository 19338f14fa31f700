package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Job is one attempt of a job of a pipeline.
type Job struct {
	ID       int64  `json:"id"` // of [DB.NextID]
	Pipeline int64  `json:"pipeline"`
	Name     string `json:"name"` // in the graph
	Stage    string `json:"stage"`
	Attempt  int    `json:"attempt"` // counts from 1

	Status   string `json:"status"`
	Why      string `json:"why,omitempty"`    // what brought it into this status
	Reason   string `json:"reason,omitempty"` // of a failed job, in GitLab's words
	ExitCode int    `json:"exitCode,omitempty"`
	Message  string `json:"message,omitempty"`       // of the executor
	Allowed  bool   `json:"allowedToFail,omitempty"` // its failure does not count

	Created  time.Time `json:"created,omitzero"`
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`

	Environment string   `json:"environment,omitempty"`
	Coverage    *float64 `json:"coverage,omitempty"` // percent
	Runner      string   `json:"runner,omitempty"`   // what runs it, for people
	Player      string   `json:"player,omitempty"`   // who has played or retried it

	// Tests is the report as JSON, and Variables what a person has played the job with. Both are sealed, and only [DB.Job] gives
	// them. Nil leaves what is there.
	Tests     []byte `json:"tests,omitempty"`
	Variables []byte `json:"-"`
}

const jobColumns = `id, pipeline, name, stage, attempt, status, why, reason, exit_code, message, allowed,
	created, started, finished, environment, coverage, runner, played_by`

func (j *Job) scan(scan func(...any) error, more ...any) error {
	var created, started, finished int64
	err := scan(append([]any{&j.ID, &j.Pipeline, &j.Name, &j.Stage, &j.Attempt, &j.Status, &j.Why, &j.Reason, &j.ExitCode, &j.Message, &j.Allowed,
		&created, &started, &finished, &j.Environment, &j.Coverage, &j.Runner, &j.Player}, more...)...)
	j.Created, j.Started, j.Finished = at(created), at(started), at(finished)
	return err
}

// sealedJob is a job whose sealed columns are ready.
type sealedJob struct {
	Job
	tests, variables []byte
}

func (db *DB) sealJob(j Job) (sealedJob, error) {
	err := errors.Join(
		checkNames("name of the job", j.Name, "stage", j.Stage, "status", j.Status, "reason", j.Reason, "environment", j.Environment),
		checkSize("test report", j.Tests, blobMax), checkSize("variables", j.Variables, entryMax))
	if j.ID <= 0 || j.Name == "" || j.Attempt <= 0 {
		err = errors.Join(err, fmt.Errorf("job %q has number %d and attempt %d", j.Name, j.ID, j.Attempt))
	}
	if err != nil {
		return sealedJob{}, err
	}
	return sealedJob{
		Job:       j,
		tests:     db.sealer.seal(place("jobs.tests", j.ID), j.Tests),
		variables: db.sealer.seal(place("jobs.variables", j.ID), j.Variables),
	}, nil
}

// putJob keeps an attempt under its number. Who comes with another number for it is told by ErrConflict.
func (t *tx) putJob(pipeline, project int64, j *sealedJob) error {
	n, err := t.count(`INSERT INTO jobs (id, pipeline, name, stage, attempt, status, why, reason, exit_code, message, allowed,
		created, started, finished, environment, coverage, runner, played_by, sealed_tests, sealed_variables)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (pipeline, name, attempt) DO UPDATE SET stage = excluded.stage, status = excluded.status, why = excluded.why,
		reason = excluded.reason, exit_code = excluded.exit_code, message = excluded.message, allowed = excluded.allowed,
		created = excluded.created, started = excluded.started, finished = excluded.finished, environment = excluded.environment,
		coverage = excluded.coverage, runner = excluded.runner, played_by = excluded.played_by,
		sealed_tests = coalesce(excluded.sealed_tests, jobs.sealed_tests),
		sealed_variables = coalesce(excluded.sealed_variables, jobs.sealed_variables) WHERE jobs.id = excluded.id`,
		j.ID, pipeline, j.Name, j.Stage, j.Attempt, j.Status, text(j.Why), j.Reason, j.ExitCode, text(j.Message), flag(j.Allowed),
		micros(j.Created), micros(j.Started), micros(j.Finished), j.Environment, j.Coverage, text(j.Runner), text(j.Player), j.tests, j.variables)
	if err == nil && n == 0 {
		err = fmt.Errorf("%w: attempt %d has another number than %d", ErrConflict, j.Attempt, j.ID)
	}
	t.changed(Change{Kind: "job", ID: j.ID, Project: project, Pipeline: pipeline, Status: j.Status})
	if err == nil && j.Environment != "" && !j.Finished.IsZero() {
		err = t.endDeployment(j)
	}
	return err
}

// Jobs gives all attempts of a pipeline's jobs in the order of their numbers, without reports and variables.
func (db *DB) Jobs(ctx context.Context, pipeline int64) ([]Job, error) {
	var all []Job
	err := db.read(ctx, func(tx *tx) error {
		return tx.each(func(scan func(...any) error) error {
			var j Job
			err := j.scan(scan)
			all = append(all, j)
			return err
		}, `SELECT `+jobColumns+` FROM jobs WHERE pipeline = ? ORDER BY id`, pipeline)
	})
	return all, db.wrap(fmt.Sprintf("jobs of pipeline %d", pipeline), err)
}

// Job gives one attempt with all that is known of it, or [ErrNotFound].
func (db *DB) Job(ctx context.Context, id int64) (Job, error) {
	var j Job
	var tests, variables []byte
	err := db.read(ctx, func(tx *tx) error {
		return j.scan(tx.row(`SELECT `+jobColumns+`, sealed_tests, sealed_variables FROM jobs WHERE id = ?`, id).Scan, &tests, &variables)
	})
	if err == nil {
		j.Tests, err = db.sealer.open(place("jobs.tests", id), tests)
	}
	if err == nil {
		j.Variables, err = db.sealer.open(place("jobs.variables", id), variables)
	}
	return j, db.wrap(fmt.Sprintf("job %d", id), err)
}
