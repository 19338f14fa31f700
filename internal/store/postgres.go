package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	// holdPatience is how long one waits for another process that is about to let go of the database.
	holdPatience = 5 * time.Second
	// advisory is the first half of the number of the advisory lock; the other half is of the schema.
	advisory = 0x6b656c73 // "kels"
	// connectLimit is how long a connection may take.
	connectLimit = 10 * time.Second
)

// served is a PostgreSQL database. The connection that writes holds an advisory lock, without which it writes nothing: where it is lost and
// another process has the lock before it is made again, that process has the database.
type served struct {
	config *pgx.ConnConfig
	name   string
	start  atomic.Int64 // the number of this start; 0: not yet
	lost   func()
	beside bool // another process has it
}

func newServed(dsn string, lost func()) (*served, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, errors.New("the address of the PostgreSQL database cannot be read: it is postgres://USER@HOST:PORT/DATABASE, or pairs NAME=VALUE") // the error has it whole
	}
	config.ConnectTimeout = connectLimit
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "keelson"
	}
	if lost == nil {
		lost = func() {}
	}
	where := config.Host
	if !strings.HasPrefix(where, "/") {
		where = net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))
	}
	return &served{config: config, name: fmt.Sprintf("the PostgreSQL database %s at %s", config.Database, where), lost: sync.OnceFunc(lost)}, nil
}

func (s *served) String() string { return s.name }

type nothing struct{}

func (nothing) Close() error { return nil }

func (s *served) hold() (io.Closer, error) { return nothing{}, nil } // the connection that writes does

func (s *served) open() (writer, reader *sql.DB, err error) {
	reading := s.config.Copy()
	reading.RuntimeParams["default_transaction_read_only"] = "on"
	writer, reader = apart(stdlib.OpenDB(*s.config, stdlib.OptionAfterConnect(s.take)), stdlib.OpenDB(*reading))
	return writer, reader, nil
}

// take lets a new connection write, if this process has the database.
func (s *served) take(ctx context.Context, conn *pgx.Conn) (err error) {
	if s.beside {
		return nil
	}
	defer func() {
		if err != nil { // else it stays open, with the lock
			err = errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
		}
	}()
	deadline := time.Now().Add(holdPatience)
	for held := false; ; {
		if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1, hashtext(current_schema()))`, advisory).Scan(&held); err != nil {
			return err
		}
		if held {
			break
		}
		if time.Now().After(deadline) {
			if s.start.Load() != 0 {
				s.lost()
			}
			return fmt.Errorf("%w: another Keelson has it; end that first", ErrLocked)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	start := s.start.Load()
	if start == 0 {
		return nil
	}
	var next int64
	if err := conn.QueryRow(ctx, `SELECT next FROM counters WHERE name = 'start'`).Scan(&next); err != nil {
		return err
	}
	if next != start+1 {
		s.lost()
		return fmt.Errorf("%w: another Keelson has had it meanwhile; this one has to start again", ErrLocked)
	}
	return nil
}

func (s *served) begun(start int64) { s.start.Store(start) }

const isServedMigrated = `SELECT count(*) FROM information_schema.tables WHERE table_schema = current_schema() AND table_name = 'schema_migrations'`

func (s *served) look(ctx context.Context, reader *pool, _ *slog.Logger) error {
	tables, err := countIs(ctx, reader, `SELECT count(*) FROM information_schema.tables WHERE table_schema = current_schema()`)
	if err != nil || tables == 0 {
		return err
	}
	ours, err := countIs(ctx, reader, isServedMigrated)
	if err == nil && ours == 0 {
		err = errors.New("it has tables of another program; name another database, or another schema with search_path")
	}
	return err
}

// query numbers the arguments: ? is $1, $2, … here. What is between quotes stays.
func (s *served) query(query string) string {
	var b strings.Builder
	n, quoted := 0, false
	for _, r := range query {
		switch {
		case r == '\'':
			quoted = !quoted
		case r == '?' && !quoted:
			n++
			fmt.Fprintf(&b, "$%d", n)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// types are what the columns of migrations have as types.
var types = strings.NewReplacer(") STRICT", ")", " INTEGER", " BIGINT", " BLOB", " BYTEA", " REAL", " DOUBLE PRECISION")

func (s *served) schema(schema string) string { return types.Replace(schema) }

// durable says whether a commit waits for the disk. One that does not may be lost when the server dies, in the order of the commits.
func (s *served) durable(durable bool) string {
	if durable {
		return "SET synchronous_commit = on"
	}
	return "SET synchronous_commit = off"
}

func (s *served) snapshot() *sql.TxOptions {
	return &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead}
}

// check reads every row of every table: PostgreSQL has no more to say without its amcheck extension.
func (s *served) check(ctx context.Context, reader *pool) error {
	rows, err := reader.QueryContext(ctx, `SELECT quote_ident(table_name) FROM information_schema.tables WHERE table_schema = current_schema() ORDER BY 1`)
	if err != nil {
		return err
	}
	defer rows.Close()
	var tables []string
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			return err
		}
		tables = append(tables, table)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, table := range tables {
		if _, err := countIs(ctx, reader, `SELECT count(t::text) FROM `+table+` t`); err != nil {
			return fmt.Errorf("table %s: %w", table, err)
		}
	}
	return nil
}

// forget has the server take the old rows away; its write-ahead log has them until it is recycled.
func (s *served) forget(ctx context.Context, writer *pool, tables []string) error {
	_, err := writer.ExecContext(ctx, "VACUUM "+strings.Join(tables, ", "))
	return err
}

func (s *served) hasTable() string {
	return `SELECT count(*) FROM information_schema.tables WHERE table_schema = current_schema() AND table_name = CAST(? AS TEXT)`
}

func (s *served) restore() string {
	return "stop Keelson; with KEELSON_DATABASE_URL set keelson store restore FILE puts a backup in its place, or pg_restore one of pg_dump. Without a backup start with an empty " +
		"database: the history begins anew, Git and the clusters have everything else"
}

// interrupted tells whether the server has ended a statement because it was asked to: https://www.postgresql.org/docs/current/errcodes-appendix.html
func (s *served) interrupted(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == "57014" || pgconn.Timeout(err)
}

func (s *served) classify(err error) (hint string, kind error) {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		var connect *pgconn.ConnectError
		var network *net.OpError
		if errors.As(err, &connect) || errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, driver.ErrBadConn) {
			return "see that PostgreSQL runs there and takes connections; what was not acknowledged is not written", ErrAway
		}
		return inFile("").classify(err) // the files of logs
	}
	switch e.Code {
	case "23505":
		return "", ErrExists
	case "23503":
		return "", ErrNotFound
	case "53100":
		return "make room for PostgreSQL; nothing was half written", ErrFull
	case "25006", "42501":
		return "let its user write the database: it needs CREATE on the schema, and all on its tables", ErrReadOnly
	case "55P03":
		return "end the other process", ErrLocked
	case "XX001", "XX002":
		return "", ErrCorrupt
	}
	switch e.Code[:min(2, len(e.Code))] {
	case "54": // a program limit
		return "", ErrTooLarge
	case "57", "08", "28", "3D": // the server ends; the connection; the credentials; there is no such database
		return "see that PostgreSQL runs there, and that its user may connect to the database", ErrAway
	}
	return "", nil
}
