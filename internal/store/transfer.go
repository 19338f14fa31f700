package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// An SQLite file is the form in which a database is moved: a PostgreSQL one is written into such a file by [File.Backup], and read from one by
// [Import]. The tables of both are made by the same migrations, so rows are copied as they are.

// OpenServed opens a PostgreSQL database that is only read, as [OpenFile] does a file.
func OpenServed(dsn string) (*File, error) {
	s, err := newServed(dsn, nil)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	writer, reader, err := s.open()
	if err != nil {
		return nil, fmt.Errorf("store: open %s: %w", s, err)
	}
	if err := writer.Close(); err != nil { // it has no connection yet
		return nil, errors.Join(err, reader.Close())
	}
	return &File{&DB{engine: s, now: time.Now, log: slog.New(slog.DiscardHandler), reader: &pool{DB: reader, query: s.query}, closed: make(chan struct{})}}, nil
}

// querier is a transaction or a connection.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// texts collects the rows of one column.
func texts(ctx context.Context, from querier, query string) (out []string, err error) {
	rows, err := from.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, rows.Err()
}

const migrationNames = `SELECT name FROM schema_migrations ORDER BY version`

// checkMigrated refuses to copy a database whose tables are not those of this program.
func checkMigrated(ctx context.Context, from querier) error {
	has, err := texts(ctx, from, migrationNames)
	if err != nil {
		return err
	}
	all, err := readMigrations(migrations)
	if err != nil {
		return err
	}
	var want []string
	for _, m := range all {
		want = append(want, m.name)
	}
	if slices.Equal(has, want) {
		return nil
	}
	for _, name := range has {
		if !slices.Contains(want, name) {
			return fmt.Errorf("%w: it has %s; use the program that runs on it", ErrTooNew, name)
		}
	}
	return errors.New("it is of an older version: start Keelson once with this one")
}

// makeTables makes the tables of an empty database, without rows.
func makeTables(ctx context.Context, in querier, words func(string) string) error {
	all, err := readMigrations(migrations)
	if err != nil {
		return err
	}
	for _, statement := range []string{tableOfMigrations, tableOfSealing} {
		if _, err := in.ExecContext(ctx, words(statement)); err != nil {
			return err
		}
	}
	for _, m := range all {
		if _, err := in.ExecContext(ctx, words(m.sql)); err != nil {
			return fmt.Errorf("migration %s: %w", m.name, err)
		}
	}
	return nil
}

// table is one of a database file, with its columns.
type table struct {
	name    string
	columns []string
}

// tablesOf gives the tables of a file in the order in which they were made: what others refer to comes before these.
func tablesOf(ctx context.Context, file querier) (all []table, err error) {
	names, err := texts(ctx, file, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY rowid`)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		columns, err := texts(ctx, file, `SELECT name FROM pragma_table_info('`+name+`') ORDER BY cid`)
		if err != nil {
			return nil, err
		}
		all = append(all, table{name, columns})
	}
	return all, nil
}

// all selects all rows of the table.
func (t table) all() string {
	return `SELECT "` + strings.Join(t.columns, `", "`) + `" FROM "` + t.name + `"`
}

// values gives where to scan a row to.
func (t table) values() (values, to []any) {
	values, to = make([]any, len(t.columns)), make([]any, len(t.columns))
	for i := range values {
		to[i] = &values[i]
	}
	return values, to
}

// copyOut writes a PostgreSQL database into an SQLite file, which is there and empty, as it is at one moment.
func (db *DB) copyOut(ctx context.Context, to string) (err error) {
	source, err := db.reader.BeginTx(ctx, db.engine.snapshot())
	if err != nil {
		return err
	}
	defer func() {
		if rerr := source.Rollback(); rerr != nil && !errors.Is(rerr, sql.ErrTxDone) {
			err = errors.Join(err, rerr)
		}
	}()
	if err := checkMigrated(ctx, source); err != nil {
		return err
	}
	file, err := sql.Open("sqlite", dsn(to, false))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	file.SetMaxOpenConns(1)
	if _, err := file.ExecContext(ctx, `PRAGMA foreign_keys = 0`); err != nil { // they hold in what is copied
		return err
	}
	target, err := file.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := copyTables(ctx, source, target); err != nil {
		return errors.Join(err, target.Rollback())
	}
	return target.Commit()
}

func copyTables(ctx context.Context, source, target *sql.Tx) error {
	if err := makeTables(ctx, target, inFile("").schema); err != nil {
		return err
	}
	all, err := tablesOf(ctx, target)
	if err != nil {
		return err
	}
	for _, t := range all {
		if err := t.copy(ctx, source, target); err != nil {
			return fmt.Errorf("table %s: %w", t.name, err)
		}
	}
	return nil
}

// copy writes the rows of one database into the other, which is a file.
func (t table) copy(ctx context.Context, source, target *sql.Tx) (err error) {
	if _, err := target.ExecContext(ctx, `DELETE FROM "`+t.name+`"`); err != nil { // what migrations have put there
		return err
	}
	put, err := target.PrepareContext(ctx, `INSERT INTO "`+t.name+`" ("`+strings.Join(t.columns, `", "`)+`") VALUES (?`+strings.Repeat(", ?", len(t.columns)-1)+`)`)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, put.Close()) }()
	rows, err := source.QueryContext(ctx, t.all())
	if err != nil {
		return err
	}
	defer rows.Close()
	values, to := t.values()
	for rows.Next() {
		if err := rows.Scan(to...); err != nil {
			return err
		}
		if _, err := put.ExecContext(ctx, values...); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Import puts what is in a database file into a PostgreSQL database, all of it or nothing. What Keelson has there already is moved aside, into a schema
// of the name that is given, and not deleted; moved tells whether there was something. The error is [ErrLocked] while another process has the database.
func Import(ctx context.Context, path, dsn, aside string) (moved bool, err error) {
	s, err := newServed(dsn, nil)
	if err != nil {
		return false, fmt.Errorf("store: %w", err)
	}
	db := &DB{engine: s}
	doing := fmt.Sprintf("put %s into %s", path, s)
	f, err := OpenFile(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	writer, reader, err := s.open()
	if err != nil {
		return false, db.wrap(doing, err)
	}
	defer func() { err = errors.Join(err, writer.Close(), reader.Close()) }()
	if err := s.look(ctx, &pool{DB: reader, query: s.query}, nil); err != nil {
		return false, db.wrap(doing, err)
	}
	conn, err := writer.Conn(ctx) // with the lock, until it is closed
	if err != nil {
		return false, db.wrap(doing, err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := conn.ExecContext(ctx, `BEGIN`); err != nil {
		return false, db.wrap(doing, err)
	}
	moved, err = f.db.copyIn(ctx, conn, s, aside)
	end := `COMMIT`
	if err != nil {
		end = `ROLLBACK`
	}
	_, eerr := conn.ExecContext(context.WithoutCancel(ctx), end)
	return moved, db.wrap(doing, errors.Join(err, eerr))
}

// copyIn writes a database file into a transaction of PostgreSQL.
func (db *DB) copyIn(ctx context.Context, conn *sql.Conn, s *served, aside string) (moved bool, err error) {
	source, err := db.reader.BeginTx(ctx, db.engine.snapshot())
	if err != nil {
		return false, err
	}
	defer func() {
		if rerr := source.Rollback(); rerr != nil && !errors.Is(rerr, sql.ErrTxDone) {
			err = errors.Join(err, rerr)
		}
	}()
	if err := checkMigrated(ctx, source); err != nil {
		return false, err
	}
	old, err := texts(ctx, conn, `SELECT quote_ident(table_name) FROM information_schema.tables WHERE table_schema = current_schema() ORDER BY 1`)
	if err != nil {
		return false, err
	}
	if moved = len(old) > 0; moved {
		name := pgx.Identifier{aside}.Sanitize()
		if _, err := conn.ExecContext(ctx, `CREATE SCHEMA `+name); err != nil {
			return false, fmt.Errorf("what is there is to be moved aside, into the schema %s, which needs CREATE on the database: %w", aside, err)
		}
		for _, t := range old {
			if _, err := conn.ExecContext(ctx, `ALTER TABLE `+t+` SET SCHEMA `+name); err != nil {
				return false, err
			}
		}
	}
	if err := makeTables(ctx, conn, s.schema); err != nil {
		return false, err
	}
	all, err := tablesOf(ctx, source)
	if err != nil {
		return false, err
	}
	for _, t := range slices.Backward(all) { // what migrations have put there
		if _, err := conn.ExecContext(ctx, `DELETE FROM "`+t.name+`"`); err != nil {
			return false, err
		}
	}
	for _, t := range all {
		if err := t.send(ctx, source, conn); err != nil {
			return false, fmt.Errorf("table %s: %w", t.name, err)
		}
	}
	return moved, nil
}

// send writes the rows of a file into PostgreSQL, by its COPY.
func (t table) send(ctx context.Context, source *sql.Tx, conn *sql.Conn) error {
	rows, err := source.QueryContext(ctx, t.all()) //nolint:sqlclosecheck // the defer below closes it
	if err != nil {
		return err
	}
	defer rows.Close()
	values, to := t.values()
	from := pgx.CopyFromFunc(func() ([]any, error) {
		if !rows.Next() {
			return nil, rows.Err()
		}
		if err := rows.Scan(to...); err != nil {
			return nil, err
		}
		return values, nil
	})
	return conn.Raw(func(driver any) error {
		c, ok := driver.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("the driver is %T", driver)
		}
		_, err := c.Conn().CopyFrom(ctx, pgx.Identifier{t.name}, t.columns, from)
		return err
	})
}
