package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Pipeline is a row of a list: what a pipeline is and how it stands.
type Pipeline struct {
	ID      int64 `json:"id"`
	IID     int64 `json:"iid"` // among those of its project
	Project int64 `json:"project"`
	Parent  int64 `json:"parent,omitempty"` // the job that has started this child pipeline; 0: it is none
	// Upstream is the job that has started this pipeline of another project; 0: none has.
	Upstream int64 `json:"upstream,omitempty"`

	Source string `json:"source"` // push, web, schedule, …
	Ref    string `json:"ref"`
	Tag    bool   `json:"tag,omitempty"`
	SHA    string `json:"sha"`
	Before string `json:"before,omitempty"` // what the ref named before
	Title  string `json:"title,omitempty"`  // of the commit
	Author string `json:"author,omitempty"` // of the commit
	User   string `json:"user,omitempty"`   // who has started it

	Status   string    `json:"status"`
	Why      string    `json:"why,omitempty"`
	Created  time.Time `json:"created"`
	Started  time.Time `json:"started,omitzero"`  // of the first job
	Finished time.Time `json:"finished,omitzero"` // zero while something may still happen by itself
	// Resting tells that nothing happens any more unless a person asks.
	Resting bool `json:"resting,omitempty"`
}

// Inputs are what a pipeline was made from. They are sealed.
type Inputs struct {
	Graph []byte // the compiled graph, with its variables
	Event []byte // what has started it
}

const pipelineColumns = `id, iid, project, parent, source, ref, tag, sha, before, title, author, started_by,
	status, why, created, started, finished, resting, upstream`

func (p *Pipeline) scan(scan func(...any) error) error {
	var created, started, finished int64
	err := scan(&p.ID, &p.IID, &p.Project, &p.Parent, &p.Source, &p.Ref, &p.Tag, &p.SHA, &p.Before, &p.Title, &p.Author, &p.User,
		&p.Status, &p.Why, &created, &started, &finished, &p.Resting, &p.Upstream)
	p.Created, p.Started, p.Finished = at(created), at(started), at(finished)
	return err
}

// CreatePipeline keeps a new pipeline under the numbers of [DB.Reserve], with the journal empty. It waits for the disk: who has
// pushed is told that there is a pipeline. The error is [ErrExists] where the number is taken.
func (db *DB) CreatePipeline(ctx context.Context, p Pipeline, in Inputs) error {
	doing := fmt.Sprintf("create pipeline %d", p.ID)
	if p.ID <= 0 || p.IID <= 0 {
		return db.wrap(doing, errors.New("its numbers are not reserved"))
	}
	err := errors.Join(
		checkNames("source", p.Source, "ref", p.Ref, "SHA", p.SHA, "SHA before", p.Before, "status", p.Status),
		checkSize("graph", in.Graph, blobMax), checkSize("event", in.Event, blobMax))
	if err != nil {
		return db.wrap(doing, err)
	}
	if p.Created.IsZero() {
		p.Created = db.now()
	}
	graph := db.sealer.seal(place("pipelines.graph", p.ID), in.Graph)
	event := db.sealer.seal(place("pipelines.event", p.ID), in.Event)
	return db.wrap(doing, db.write(ctx, true, func(tx *tx) error {
		err := tx.exec(`INSERT INTO pipelines (id, iid, project, parent, source, ref, tag, sha, before, title, author, started_by,
			status, why, created, started, finished, resting, upstream)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			p.ID, p.IID, p.Project, p.Parent, p.Source, p.Ref, flag(p.Tag), p.SHA, p.Before, text(p.Title), text(p.Author), text(p.User),
			p.Status, text(p.Why), micros(p.Created), micros(p.Started), micros(p.Finished), flag(p.Resting), p.Upstream)
		if err != nil {
			return err
		}
		tx.changed(Change{Kind: "pipeline", ID: p.ID, Project: p.Project, Pipeline: p.ID, Status: p.Status})
		return tx.exec(`INSERT INTO pipeline_inputs (pipeline, sealed_graph, sealed_event) VALUES (?, ?, ?)`, p.ID, graph, event)
	}))
}

// Step is what happens to a pipeline at once.
type Step struct {
	// Events are added to the journal, in their order.
	Events [][]byte
	// State, where it is not nil, is the state after the events: the journal is dropped, and Events need not be given.
	State []byte
	// Rest says that nothing happens any more unless a person asks; a restart leaves the pipeline alone.
	Rest bool

	// Status, where it is not empty, is the pipeline's status from now on, with the three that follow.
	Status   string
	Why      string
	Started  time.Time
	Finished time.Time

	Jobs []Job // that are new or have changed
	// Stops are the environments whose stop jobs are over, by their names: true: it is stopped. Others are available again.
	Stops map[string]bool
	// Durable waits for the disk: before something is done outside that a restart could not find again.
	Durable bool
}

// Advance keeps a step of a pipeline: all of it or nothing. The deployment of a job that is over ends with it, and those of a pipeline that
// rests have failed where they have not ended. Its caller says up to which number it knows the journal, and is given
// the number of the last entry now; [ErrConflict] means that another one has moved the pipeline on.
func (db *DB) Advance(ctx context.Context, pipeline, end int64, s Step) (int64, error) {
	doing := fmt.Sprintf("advance pipeline %d", pipeline)
	err := errors.Join(checkNames("status", s.Status), checkSize("state", s.State, blobMax))
	for _, entry := range s.Events {
		err = errors.Join(err, checkSize("event", entry, entryMax))
	}
	rows := make([]sealedJob, len(s.Jobs))
	for i, j := range s.Jobs {
		var jerr error
		rows[i], jerr = db.sealJob(j)
		err = errors.Join(err, jerr)
	}
	if err != nil {
		return end, db.wrap(doing, err)
	}
	entries := make([][]byte, len(s.Events))
	for i, entry := range s.Events {
		entries[i] = db.sealer.seal(place("journal.entry", pipeline, end+int64(i)+1), entry)
	}
	state := db.sealer.seal(place("pipelines.state", pipeline), s.State)
	next := end + int64(len(entries))
	err = db.write(ctx, s.Durable, func(tx *tx) error {
		project, err := tx.step(pipeline, end, next, s, state, entries)
		if err != nil {
			return err
		}
		for i := range rows {
			if err := tx.putJob(pipeline, project, &rows[i]); err != nil {
				return fmt.Errorf("job %s: %w", rows[i].Name, err)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(s.Stops)) {
			if err := tx.endStop(project, name, s.Stops[name]); err != nil {
				return fmt.Errorf("environment %s: %w", name, err)
			}
		}
		if s.Rest {
			return tx.endDeployments(`pipeline = ?`, pipeline, DeploymentFailed, db.now())
		}
		return nil
	})
	if err != nil {
		return end, db.wrap(doing, err)
	}
	for i := range rows {
		if !rows[i].Finished.IsZero() {
			db.logs.wake(rows[i].ID)
		}
	}
	return next, nil
}

// step changes the pipeline's own row and its journal.
func (t *tx) step(pipeline, end, next int64, s Step, state []byte, entries [][]byte) (project int64, err error) {
	if s.Status == "" {
		err = t.row(`UPDATE pipelines SET journal_end = ?, resting = ? WHERE id = ? AND journal_end = ? RETURNING project`,
			next, flag(s.Rest), pipeline, end).Scan(&project)
	} else {
		err = t.row(`UPDATE pipelines SET journal_end = ?, resting = ?, status = ?, why = ?, started = ?, finished = ?
			WHERE id = ? AND journal_end = ? RETURNING project`,
			next, flag(s.Rest), s.Status, text(s.Why), micros(s.Started), micros(s.Finished), pipeline, end).Scan(&project)
	}
	if errors.Is(err, sql.ErrNoRows) {
		var is int64
		if err := t.row(`SELECT journal_end FROM pipelines WHERE id = ?`, pipeline).Scan(&is); err != nil {
			return 0, err
		}
		return 0, fmt.Errorf("%w: its journal is at %d, not at %d", ErrConflict, is, end)
	}
	if err != nil {
		return 0, err
	}
	if s.Status != "" {
		t.changed(Change{Kind: "pipeline", ID: pipeline, Project: project, Pipeline: pipeline, Status: s.Status})
	}
	if state != nil {
		err := t.exec(`INSERT INTO pipeline_states (pipeline, sealed_state) VALUES (?, ?)
			ON CONFLICT (pipeline) DO UPDATE SET sealed_state = excluded.sealed_state`, pipeline, state)
		if err != nil {
			return 0, err
		}
		return project, t.exec(`DELETE FROM journal WHERE pipeline = ?`, pipeline)
	}
	for i, entry := range entries {
		err := t.exec(`INSERT INTO journal (pipeline, number, sealed_entry) VALUES (?, ?, ?)`, pipeline, end+int64(i)+1, entry)
		if err != nil {
			return 0, err
		}
	}
	return project, nil
}

// Saved is what a pipeline is taken up with after a restart.
type Saved struct {
	Inputs
	State   []byte   // nil: it has begun with the journal
	Journal [][]byte // what has happened since State
	End     int64    // the number of the last entry that there ever was, for [DB.Advance]
}

// Saved gives what a pipeline is taken up with.
func (db *DB) Saved(ctx context.Context, pipeline int64) (Saved, error) {
	var s Saved
	var graph, event, state []byte
	var numbers []int64
	err := db.read(ctx, func(tx *tx) error {
		err := tx.row(`SELECT i.sealed_graph, i.sealed_event, s.sealed_state, p.journal_end FROM pipelines p
			JOIN pipeline_inputs i ON i.pipeline = p.id LEFT JOIN pipeline_states s ON s.pipeline = p.id WHERE p.id = ?`, pipeline).
			Scan(&graph, &event, &state, &s.End)
		if err != nil {
			return err
		}
		return tx.each(func(scan func(...any) error) error {
			var n int64
			var entry []byte
			err := scan(&n, &entry)
			numbers, s.Journal = append(numbers, n), append(s.Journal, entry)
			return err
		}, `SELECT number, sealed_entry FROM journal WHERE pipeline = ? ORDER BY number`, pipeline)
	})
	for i, n := range numbers {
		if err == nil {
			s.Journal[i], err = db.sealer.open(place("journal.entry", pipeline, n), s.Journal[i])
		}
	}
	open := func(into *[]byte, column string, sealed []byte) {
		if err == nil {
			*into, err = db.sealer.open(place(column, pipeline), sealed)
		}
	}
	open(&s.Graph, "pipelines.graph", graph)
	open(&s.Event, "pipelines.event", event)
	open(&s.State, "pipelines.state", state)
	if err != nil {
		return Saved{}, db.wrap(fmt.Sprintf("take up pipeline %d", pipeline), err)
	}
	return s, nil
}

// Pipeline gives one pipeline, or [ErrNotFound].
func (db *DB) Pipeline(ctx context.Context, id int64) (Pipeline, error) {
	var p Pipeline
	err := db.read(ctx, func(tx *tx) error {
		return p.scan(tx.row(`SELECT `+pipelineColumns+` FROM pipelines WHERE id = ?`, id).Scan)
	})
	return p, db.wrap(fmt.Sprintf("pipeline %d", id), err)
}

// Unfinished gives the pipelines that are to be driven on after a restart, the oldest first.
func (db *DB) Unfinished(ctx context.Context) ([]Pipeline, error) {
	var all []Pipeline
	err := db.read(ctx, func(tx *tx) error {
		return tx.pipelines(&all, `SELECT `+pipelineColumns+` FROM pipelines WHERE resting = 0 ORDER BY id`)
	})
	return all, db.wrap("list unfinished pipelines", err)
}

// PipelineFilter says which pipelines a list has: those that meet all that is set.
type PipelineFilter struct {
	Project  int64
	Projects []int64 // only of these; nil: of all
	Ref      string
	Status   string
	Source   string
	SHA      string
	Parent   int64 // the child pipelines of this job
	// Upstream are the pipelines that this job has started in other projects.
	Upstream int64
	Top      bool // no child pipelines
	Open     bool // those in which something may still happen, also only by a person

	Before int64 // only pipelines with a smaller number: the last one of the page before; 0: from the newest on
	Limit  int   // 0: 100; at most 1000
}

// Pipelines lists pipelines, the newest first. A page shorter than the limit is the last one.
func (db *DB) Pipelines(ctx context.Context, f PipelineFilter) ([]Pipeline, error) {
	var w where
	if f.Project != 0 {
		w.and("project = ?", f.Project)
	}
	w.projects(f.Projects)
	if f.Ref != "" {
		w.and("ref = ?", f.Ref)
	}
	if f.Status != "" {
		w.and("status = ?", f.Status)
	}
	if f.Source != "" {
		w.and("source = ?", f.Source)
	}
	if f.SHA != "" {
		w.and("sha = ?", f.SHA)
	}
	if f.Upstream != 0 {
		w.and("upstream <> 0 AND upstream = ?", f.Upstream) // as with parent
	}
	if f.Open {
		w.and("status NOT IN ('success', 'failed', 'canceled', 'skipped')")
	}
	switch {
	case f.Parent != 0:
		w.and("parent <> 0 AND parent = ?", f.Parent) // the first half names the index
	case f.Top:
		w.and("parent = 0")
	}
	if f.Before != 0 {
		w.and("id < ?", f.Before)
	}
	var all []Pipeline
	err := db.read(ctx, func(tx *tx) error {
		return tx.pipelines(&all, `SELECT `+pipelineColumns+` FROM pipelines`+w.String()+` ORDER BY id DESC LIMIT ?`, append(w.args, page(f.Limit))...)
	})
	return all, db.wrap("list pipelines", err)
}

func (t *tx) pipelines(into *[]Pipeline, query string, args ...any) error {
	return t.each(func(scan func(...any) error) error {
		var p Pipeline
		err := p.scan(scan)
		*into = append(*into, p)
		return err
	}, query, args...)
}
