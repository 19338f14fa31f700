package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"keelson.dev/keelson/internal/audit"
)

// Command is what a person has asked for and is allowed to.
type Command struct {
	ID       int64     `json:"id"`
	Kind     string    `json:"kind"`              // play, retry, cancel, …
	Project  int64     `json:"project,omitempty"` //
	Pipeline int64     `json:"pipeline,omitempty"`
	Jobs     []string  `json:"jobs,omitempty"` // names in the graph; none: the whole pipeline
	User     string    `json:"user"`           // who has asked
	Created  time.Time `json:"created"`
	// Args are what else belongs to the kind, as variables to play with, in JSON. They are sealed, and gone with the answer.
	Args []byte `json:"-"`
	// Audit is what is recorded together with it, with [audit.Asked] for an outcome. A refusal is recorded too: as of the first of these.
	Audit []audit.Entry `json:"-"`
}

const (
	// commandsMax is how many commands may wait for their answer.
	commandsMax = 10_000
	// commandJobsMax is how many jobs one command may name.
	commandJobsMax = 10_000
	// answersKept is how long an answer is there for who asks late.
	answersKept = 24 * time.Hour
)

// Enqueue keeps a command and gives its number. It waits for the disk: whoever has asked is told that it will be done. The error is
// [ErrTooLarge] where 10,000 commands wait already.
func (db *DB) Enqueue(ctx context.Context, c Command) (int64, error) {
	doing := fmt.Sprintf("enqueue %s", c.Kind)
	jobs, err := db.checkCommand(&c)
	if err != nil {
		return 0, db.wrap(doing, err)
	}
	if err := db.write(ctx, true, func(tx *tx) error { return tx.enqueue(db, &c, jobs) }); err != nil {
		return 0, db.wrap(doing, err)
	}
	db.asked.wake()
	return c.ID, nil
}

// checkCommand tells what is wrong with a command, and gives the names of its jobs as they are kept.
func (db *DB) checkCommand(c *Command) (jobs string, err error) {
	err = errors.Join(checkNames("kind", c.Kind), checkSize("arguments", c.Args, entryMax))
	if len(c.Jobs) > commandJobsMax {
		err = errors.Join(err, fmt.Errorf("%d jobs are named, and there may be %d: %w", len(c.Jobs), commandJobsMax, ErrTooLarge))
	}
	for _, job := range c.Jobs {
		err = errors.Join(err, checkNames("name of the job", job))
	}
	if c.Created.IsZero() {
		c.Created = db.now()
	}
	names, merr := json.Marshal(c.Jobs)
	return string(names), errors.Join(err, merr)
}

// enqueue numbers a command and keeps it. That is done in the transaction, so that commands are seen in the order of their numbers.
func (t *tx) enqueue(db *DB, c *Command, jobs string) error {
	var waiting int
	err := t.row(`SELECT count(*) FROM commands WHERE answered = 0`).Scan(&waiting)
	if err == nil && waiting >= commandsMax {
		err = fmt.Errorf("%w: %d commands wait for their answer", ErrTooLarge, waiting)
	}
	if err == nil {
		c.ID, err = t.take("command", 1)
	}
	if err != nil {
		return err
	}
	t.changed(Change{Kind: "command", ID: c.ID, Project: c.Project, Pipeline: c.Pipeline, Status: "asked"})
	var recorded int64
	if len(c.Audit) > 0 {
		recorded = db.audited(t, func() (int64, error) { return t.auditCommand(db.now(), c) })
	}
	return t.exec(`INSERT INTO commands (id, kind, project, pipeline, jobs, asked_by, created, sealed_args, audit) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		c.ID, c.Kind, c.Project, c.Pipeline, jobs, text(c.User), micros(c.Created), db.sealer.seal(place("commands.args", c.ID), c.Args), recorded)
}

// auditCommand keeps the records of a command, and gives the number of the first.
func (t *tx) auditCommand(now time.Time, c *Command) (first int64, err error) {
	var project string
	if c.Project != 0 {
		if err := t.row(`SELECT name FROM projects WHERE id = ?`, c.Project).Scan(&project); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return 0, err
		}
	}
	for _, e := range c.Audit {
		e.Actor, e.Outcome, e.Project = cmp.Or(e.Actor, c.User), cmp.Or(e.Outcome, audit.Asked), cmp.Or(e.Project, project)
		seq, err := t.appendEntry(now, e)
		if err != nil {
			return 0, err
		}
		first = cmp.Or(first, seq)
	}
	return first, nil
}

// Take gives the oldest command that this process has not taken yet, and waits for one. What was taken and not answered is taken
// again after a restart: whoever does it finds out whether it is done already.
func (db *DB) Take(ctx context.Context) (Command, error) {
	for {
		woken := db.asked.waits()
		c, err := db.take(ctx)
		if err == nil || !errors.Is(err, ErrNotFound) {
			return c, err
		}
		if err := db.wait(ctx, woken); err != nil {
			return Command{}, db.wrap("take a command", err)
		}
	}
}

func (db *DB) take(ctx context.Context) (Command, error) {
	db.taking.Lock()
	defer db.taking.Unlock()
	var c Command
	var jobs string
	var created int64
	var args []byte
	err := db.read(ctx, func(tx *tx) error {
		return tx.row(`SELECT id, kind, project, pipeline, jobs, asked_by, created, sealed_args FROM commands
			WHERE answered = 0 AND id > ? ORDER BY id LIMIT 1`, db.taken).
			Scan(&c.ID, &c.Kind, &c.Project, &c.Pipeline, &jobs, &c.User, &created, &args)
	})
	if err != nil {
		return Command{}, db.wrap("take a command", err)
	}
	db.taken = c.ID
	c.Created = at(created)
	if err := json.Unmarshal([]byte(jobs), &c.Jobs); err != nil {
		return c, db.wrap(fmt.Sprintf("take command %d", c.ID), err)
	}
	c.Args, err = db.sealer.open(place("commands.args", c.ID), args)
	return c, db.wrap(fmt.Sprintf("take command %d", c.ID), err)
}

// Answer tells that a command is done; a refusal says why it was not, to the person who asked. The first answer counts.
func (db *DB) Answer(ctx context.Context, id int64, refusal string) error {
	doing := fmt.Sprintf("answer command %d", id)
	err := db.write(ctx, refusal != "", func(tx *tx) error {
		c := Change{Kind: "command", ID: id, Status: "answered"}
		var recorded int64
		err := tx.row(`UPDATE commands SET answered = ?, answer = ?, sealed_args = NULL WHERE id = ? AND answered = 0 RETURNING project, pipeline, audit`,
			micros(db.now()), text(refusal), id).Scan(&c.Project, &c.Pipeline, &recorded)
		if errors.Is(err, sql.ErrNoRows) {
			return tx.row(`SELECT id FROM commands WHERE id = ?`, id).Scan(&id)
		}
		if err == nil && refusal != "" && recorded != 0 {
			db.audited(tx, func() (int64, error) { return tx.refused(db.now(), recorded, refusal) })
		}
		tx.changed(c)
		return err
	})
	if err != nil {
		return db.wrap(doing, err)
	}
	db.answered.wake()
	return nil
}

// Await waits until a command is answered and gives its refusal; empty: it is done.
func (db *DB) Await(ctx context.Context, id int64) (refusal string, err error) {
	doing := fmt.Sprintf("wait for command %d", id)
	for {
		woken := db.answered.waits()
		var when int64
		err := db.read(ctx, func(tx *tx) error {
			return tx.row(`SELECT answered, answer FROM commands WHERE id = ?`, id).Scan(&when, &refusal)
		})
		if err != nil || when != 0 {
			return refusal, db.wrap(doing, err)
		}
		if err := db.wait(ctx, woken); err != nil {
			return "", db.wrap(doing, err)
		}
	}
}
