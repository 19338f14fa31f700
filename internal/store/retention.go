package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// Removed are the numbers of what was deleted; whoever keeps artifacts of these jobs deletes them too.
type Removed struct {
	Pipelines []int64
	Jobs      []int64
}

// DeletePipeline deletes a pipeline and its child pipelines with their jobs and logs. The error is [ErrBusy] while one of them is
// under way.
func (db *DB) DeletePipeline(ctx context.Context, id int64) (Removed, error) {
	doing := fmt.Sprintf("delete pipeline %d", id)
	var gone Removed
	err := db.write(ctx, false, func(tx *tx) error {
		busy, err := tx.deleteFamily(id, &gone)
		if err == nil && busy != 0 {
			err = fmt.Errorf("pipeline %d: %w; cancel it first", busy, ErrBusy)
		}
		return err
	})
	if err != nil {
		return Removed{}, db.wrap(doing, err)
	}
	return gone, db.wrap(doing, db.buryLogs(ctx))
}

// deleteFamily deletes a pipeline and its child pipelines, or nothing where one of them is under way: busy names it.
func (t *tx) deleteFamily(id int64, gone *Removed) (busy int64, err error) {
	var family []int64
	var project int64
	err = t.each(func(scan func(...any) error) error {
		var id int64
		var resting bool
		err := scan(&id, &project, &resting)
		if !resting {
			busy = id
		}
		family = append(family, id)
		return err
	}, `WITH RECURSIVE family (id) AS (
			SELECT id FROM pipelines WHERE id = ?
			UNION
			SELECT p.id FROM family f JOIN jobs j ON j.pipeline = f.id JOIN pipelines p ON p.parent = j.id AND p.parent <> 0)
		SELECT id, project, resting FROM pipelines WHERE id IN (SELECT id FROM family) ORDER BY id`, id)
	switch {
	case err != nil || busy != 0:
		return busy, err
	case len(family) == 0:
		return 0, ErrNotFound
	}
	for _, id := range family {
		if err := t.numbers(&gone.Jobs, `SELECT id FROM jobs WHERE pipeline = ? ORDER BY id`, id); err != nil {
			return 0, err
		}
		if err := t.exec(`INSERT INTO dead_logs (job) SELECT id FROM jobs WHERE pipeline = ?`, id); err != nil {
			return 0, err
		}
		if err := t.exec(`DELETE FROM pipelines WHERE id = ?`, id); err != nil { // its journal and jobs go with it
			return 0, err
		}
		t.changed(Change{Kind: "pipeline", ID: id, Project: project, Pipeline: id, Gone: true})
	}
	gone.Pipelines = append(gone.Pipelines, family...)
	return 0, nil
}

// Retention says which pipelines go: those that neither of the two keeps. A pipeline that is under way stays, and one whose job
// stops an environment that is not stopped.
type Retention struct {
	Project int64     // 0: every project
	Keep    int       // as many of a project's newest pipelines stay; child pipelines stay with their parents and do not count
	Since   time.Time // what was created at this time or later stays; zero: Keep decides alone
}

// retainBatch is how many pipelines are deleted in one transaction, so that others can write in between.
const retainBatch = 20

// Retain deletes what a retention does not keep, and answers of commands from more than a day ago. What was deleted until an error
// or the end of ctx stays deleted and is named.
func (db *DB) Retain(ctx context.Context, r Retention) (Removed, error) {
	const doing = "delete old pipelines"
	var gone Removed
	if r.Keep <= 0 && r.Since.IsZero() {
		return gone, db.wrap(doing, errors.New("say what is kept: a number, a time, or both"))
	}
	projects := []int64{r.Project}
	if r.Project == 0 {
		all, err := db.Projects(ctx)
		if err != nil {
			return gone, err
		}
		projects = projects[:0]
		for _, p := range all {
			projects = append(projects, p.ID)
		}
	}
	for _, project := range projects {
		if err := db.retain(ctx, project, r, &gone); err != nil {
			return gone, db.wrap(doing, err)
		}
	}
	err := db.write(ctx, false, func(tx *tx) error {
		return tx.exec(`DELETE FROM commands WHERE answered <> 0 AND answered < ?`, micros(db.now().Add(-answersKept)))
	})
	return gone, db.wrap(doing, errors.Join(err, db.buryLogs(ctx)))
}

func (db *DB) retain(ctx context.Context, project int64, r Retention, gone *Removed) error {
	below, since := int64(math.MaxInt64), int64(math.MaxInt64)
	if r.Keep > 0 {
		var kept []int64
		err := db.read(ctx, func(tx *tx) error {
			return tx.numbers(&kept, `SELECT id FROM pipelines WHERE project = ? AND parent = 0 ORDER BY id DESC LIMIT 1 OFFSET ?`, project, r.Keep-1)
		})
		if err != nil || len(kept) == 0 {
			return err
		}
		below = kept[0]
	}
	if !r.Since.IsZero() {
		since = micros(r.Since)
	}
	var after int64
	for {
		var old []int64
		var done Removed
		err := db.write(ctx, false, func(tx *tx) error {
			err := tx.numbers(&old, `SELECT id FROM pipelines WHERE project = ? AND id > ? AND id < ? AND parent = 0 AND resting = 1 AND created < ?
				AND NOT EXISTS (SELECT 1 FROM environments e WHERE e.on_stop_pipeline <> 0 AND e.on_stop_pipeline = pipelines.id AND e.state <> ?)
				ORDER BY id LIMIT ?`, project, after, below, since, EnvironmentStopped, retainBatch)
			for _, id := range old {
				if err == nil {
					_, err = tx.deleteFamily(id, &done)
				}
			}
			return err
		})
		if err != nil || len(old) == 0 {
			return err
		}
		gone.Pipelines, gone.Jobs = append(gone.Pipelines, done.Pipelines...), append(gone.Jobs, done.Jobs...)
		if err := db.buryLogs(ctx); err != nil {
			return err
		}
		after = old[len(old)-1]
	}
}
