package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Schedule is what is kept of a project's schedule.
type Schedule struct {
	Project  int64     `json:"project"`
	Name     string    `json:"name"`
	Spec     string    `json:"spec"`               // when it is due, in the words of whoever keeps it
	Seen     time.Time `json:"seen"`               // what was due until then is done
	Pipeline int64     `json:"pipeline,omitempty"` // the last one; 0: there was none
}

// KeepSchedule makes a schedule known, and gives what is known of it. One that is new or has another spec has nothing to catch up with:
// Seen is now.
func (db *DB) KeepSchedule(ctx context.Context, project int64, name, spec string) (Schedule, error) {
	s := Schedule{Project: project, Name: name}
	doing := fmt.Sprintf("keep schedule %s of project %d", name, project)
	if err := checkNames("name", name, "spec", spec); err != nil {
		return s, db.wrap(doing, err)
	}
	scan := func(row *sql.Row) error {
		var seen int64
		err := row.Scan(&s.Spec, &seen, &s.Pipeline)
		s.Seen = at(seen)
		return err
	}
	const query = `SELECT spec, seen, pipeline FROM schedules WHERE project = ? AND name = ?`
	err := db.read(ctx, func(tx *tx) error { return scan(tx.row(query, project, name)) })
	if err == nil && s.Spec == spec || err != nil && !errors.Is(err, sql.ErrNoRows) && !errors.Is(err, ErrNotFound) {
		return s, db.wrap(doing, err)
	}
	err = db.write(ctx, true, func(tx *tx) error {
		return scan(tx.row(`INSERT INTO schedules (project, name, spec, seen) VALUES (?, ?, ?, ?)
			ON CONFLICT (project, name) DO UPDATE SET spec = excluded.spec, seen = excluded.seen
			RETURNING spec, seen, pipeline`, project, name, spec, micros(db.now())))
	})
	return s, db.wrap(doing, err)
}

// ForgetSchedules forgets the schedules of a project but those that are named.
func (db *DB) ForgetSchedules(ctx context.Context, project int64, but ...string) error {
	doing := fmt.Sprintf("forget schedules of project %d", project)
	var gone []string
	err := db.read(ctx, func(tx *tx) error {
		return tx.each(func(scan func(...any) error) error {
			var name string
			err := scan(&name)
			if !slices.Contains(but, name) {
				gone = append(gone, name)
			}
			return err
		}, `SELECT name FROM schedules WHERE project = ?`, project)
	})
	if err != nil || len(gone) == 0 {
		return db.wrap(doing, err)
	}
	return db.wrap(doing, db.write(ctx, false, func(tx *tx) error {
		for _, name := range gone {
			if err := tx.exec(`DELETE FROM schedules WHERE project = ? AND name = ?`, project, name); err != nil {
				return err
			}
		}
		return nil
	}))
}

// Due has a command done for what was due at a time, and keeps that it is done: both or neither. false: it was done before, or the schedule
// has another spec by now.
func (db *DB) Due(ctx context.Context, s Schedule, due time.Time, c Command) (bool, error) {
	doing := fmt.Sprintf("have schedule %s of project %d done", s.Name, s.Project)
	jobs, err := db.checkCommand(&c)
	if err != nil {
		return false, db.wrap(doing, err)
	}
	taken := false
	err = db.write(ctx, true, func(tx *tx) error {
		n, err := tx.count(`UPDATE schedules SET seen = ? WHERE project = ? AND name = ? AND spec = ? AND seen < ?`,
			micros(due), s.Project, s.Name, s.Spec, micros(due))
		if err != nil || n == 0 {
			return err
		}
		taken = true
		return tx.enqueue(db, &c, jobs)
	})
	if err != nil {
		return false, db.wrap(doing, err)
	}
	if taken {
		db.asked.wake()
	}
	return taken, nil
}

// Scheduled keeps the pipeline that a schedule has made.
func (db *DB) Scheduled(ctx context.Context, project int64, name string, pipeline int64) error {
	return db.wrap(fmt.Sprintf("keep the pipeline of schedule %s of project %d", name, project), db.write(ctx, false, func(tx *tx) error {
		return tx.exec(`UPDATE schedules SET pipeline = ? WHERE project = ? AND name = ?`, pipeline, project, name)
	}))
}

// sourceMax bounds a URL that a repository comes from.
const sourceMax = 4 << 10

// Mirror gives what is known of the refs of a repository that comes from a URL; false: nothing yet of that one.
func (db *DB) Mirror(ctx context.Context, repository, source string) (refs map[string]string, known bool, err error) {
	var text string
	err = db.read(ctx, func(tx *tx) error {
		return tx.row(`SELECT refs FROM mirrors WHERE repository = ? AND source IN (?, '')`, repository, source).Scan(&text)
	})
	err = db.wrap("refs of "+repository, err)
	if errors.Is(err, ErrNotFound) {
		return nil, false, nil
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), &refs)
	}
	return refs, err == nil, err
}

// SetMirror keeps what the refs of a repository are that comes from a URL, and has commands done for what has changed: all or nothing.
func (db *DB) SetMirror(ctx context.Context, repository, source string, refs map[string]string, commands ...Command) error {
	doing := "keep the refs of " + repository
	text, err := json.Marshal(refs)
	err = errors.Join(err, checkNames("repository", repository), checkSize("source", []byte(source), sourceMax), checkSize("refs", text, blobMax))
	jobs := make([]string, len(commands))
	for i := range commands {
		if err == nil {
			jobs[i], err = db.checkCommand(&commands[i])
		}
	}
	if err != nil {
		return db.wrap(doing, err)
	}
	err = db.write(ctx, true, func(tx *tx) error {
		for i := range commands {
			if err := tx.enqueue(db, &commands[i], jobs[i]); err != nil {
				return err
			}
		}
		return tx.exec(`INSERT INTO mirrors (repository, source, refs) VALUES (?, ?, ?)
			ON CONFLICT (repository) DO UPDATE SET source = excluded.source, refs = excluded.refs`, repository, source, string(text))
	})
	if err == nil && len(commands) > 0 {
		db.asked.wake()
	}
	return db.wrap(doing, err)
}
