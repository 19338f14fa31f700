package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Project is a repository with pipelines. Its number is its own for good: also when it is renamed, or removed and made again.
type Project struct {
	ID      int64     `json:"id"`
	Name    string    `json:"name"` // namespace/name
	Created time.Time `json:"created"`
}

const projectColumns = `id, name, created`

func (p *Project) scan(scan func(...any) error) error {
	var created int64
	err := scan(&p.ID, &p.Name, &created)
	p.Created = at(created)
	return err
}

// EnsureProject gives the project of a name, and makes it where there is none.
func (db *DB) EnsureProject(ctx context.Context, name string) (Project, error) {
	p, err := db.Project(ctx, name)
	if !errors.Is(err, ErrNotFound) {
		return p, err
	}
	doing := "make project " + name
	if err := checkNames("name", name); err != nil {
		return Project{}, db.wrap(doing, err)
	}
	err = db.write(ctx, true, func(tx *tx) error {
		err := p.scan(tx.row(`SELECT `+projectColumns+` FROM projects WHERE name = ?`, name).Scan)
		if !errors.Is(err, sql.ErrNoRows) { // another one has been faster
			return err
		}
		id, err := tx.take("project", 1)
		if err != nil {
			return err
		}
		p = Project{ID: id, Name: name, Created: at(micros(db.now()))}
		return tx.exec(`INSERT INTO projects (id, name, created) VALUES (?, ?, ?)`, id, name, micros(p.Created))
	})
	return p, db.wrap(doing, err)
}

// Project gives the project of a name, or [ErrNotFound].
func (db *DB) Project(ctx context.Context, name string) (Project, error) {
	var p Project
	err := db.read(ctx, func(tx *tx) error {
		return p.scan(tx.row(`SELECT `+projectColumns+` FROM projects WHERE name = ?`, name).Scan)
	})
	return p, db.wrap("project "+name, err)
}

// Projects gives all projects in the order of their names.
func (db *DB) Projects(ctx context.Context) ([]Project, error) {
	var all []Project
	err := db.read(ctx, func(tx *tx) error {
		return tx.each(func(scan func(...any) error) error {
			var p Project
			err := p.scan(scan)
			all = append(all, p)
			return err
		}, `SELECT `+projectColumns+` FROM projects ORDER BY name`)
	})
	return all, db.wrap("list projects", err)
}

// RenameProject gives a project another name. The error is [ErrExists] where another project has or had that name.
func (db *DB) RenameProject(ctx context.Context, from, to string) error {
	doing := fmt.Sprintf("rename project %s to %s", from, to)
	if err := checkNames("name", to); err != nil {
		return db.wrap(doing, err)
	}
	return db.wrap(doing, db.write(ctx, true, func(tx *tx) error {
		return tx.one(`UPDATE projects SET name = ? WHERE name = ?`, to, from)
	}))
}

// idBlock is how many numbers are taken at a time: one wait for the disk for all of them.
const idBlock = 256

// ids are the numbers that are taken and not given out yet.
type ids struct {
	mu        sync.Mutex
	next, end int64
}

// NextID gives the number of a new pipeline or job. No number is given twice, also after a crash.
func (db *DB) NextID(ctx context.Context) (int64, error) {
	db.ids.mu.Lock()
	defer db.ids.mu.Unlock()
	if db.ids.next == db.ids.end {
		err := db.write(ctx, true, func(tx *tx) error {
			first, err := tx.take("id", idBlock)
			if err == nil {
				db.ids.next = first
			}
			return err
		})
		if err != nil {
			db.ids.next = db.ids.end
			return 0, db.wrap("take numbers", err)
		}
		db.ids.end = db.ids.next + idBlock
	}
	db.ids.next++
	return db.ids.next - 1, nil
}

// Reserve gives the numbers of a new pipeline, of all pipelines and of those of its project: it is compiled with them before it is
// created. Numbers of a pipeline that is not created are left out.
func (db *DB) Reserve(ctx context.Context, project int64) (id, iid int64, err error) {
	if id, err = db.NextID(ctx); err != nil {
		return 0, 0, err
	}
	// The disk has it when the pipeline is created; nobody has seen the number before that.
	err = db.write(ctx, false, func(tx *tx) error {
		return tx.row(`UPDATE projects SET next_iid = next_iid + 1 WHERE id = ? RETURNING next_iid - 1`, project).Scan(&iid)
	})
	if err != nil {
		return 0, 0, db.wrap(fmt.Sprintf("number a pipeline of project %d", project), err)
	}
	return id, iid, nil
}

// take takes n numbers of a counter and gives the first one.
func (t *tx) take(counter string, n int64) (int64, error) {
	var next int64
	err := t.row(`UPDATE counters SET next = next + ? WHERE name = ? RETURNING next`, n, counter).Scan(&next)
	return next - n, err
}

// one changes one row; [ErrNotFound]: there is none.
func (t *tx) one(query string, args ...any) error {
	n, err := t.count(query, args...)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}
