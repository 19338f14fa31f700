package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

//go:embed migrations/*.sql
var migrations embed.FS

const (
	// timeLimit is what a call may take, waiting for others included.
	timeLimit = 30 * time.Second
	// checkLimit is what looking for damage may take at a start; [DB.Check] looks everywhere.
	checkLimit = 200 * time.Millisecond
)

// Options of a store.
type Options struct {
	Key []byte // KeySize bytes, see [OpenKey]
	// PostgreSQL is where the database is, unless it is an SQLite one in the file: a URL, or NAME=VALUE pairs, as libpq knows them
	// (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING).
	PostgreSQL string
	// Lost is called, at most once, when another process has taken a PostgreSQL database while this one was not connected: nothing can be
	// written any more, and what is remembered here may be out of date. Nil: nobody is told.
	Lost   func()
	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // what happens to the database itself; nil: nobody is told
	// AuditFailed is told that a record of the audit could not be kept together with what it is about, which was done nevertheless. It must not wait,
	// nor use the store; nil: the log alone is told.
	AuditFailed func(error)
}

// DB is a store. Its methods may be called at the same time.
type DB struct {
	engine engine
	beside bool   // another process has it: see [OpenBeside]
	dir    string // of the logs
	now    func() time.Time
	log    *slog.Logger
	sealer sealer
	lock   io.Closer
	writer *pool
	reader *pool
	closed chan struct{}
	close  func() error

	durable bool // what the writer's connection was set to; who has the connection may touch it

	ids      ids
	logs     *logs
	feed     feed
	asked    signal // there is a command
	answered signal // a command has its answer
	taking   sync.Mutex
	taken    int64 // the last command that was taken

	recorded    signal // there is a record of the audit
	urgent      signal // … one that should be signed at once
	auditFailed func(error)
}

// Open opens the database in a file, or makes a new one, and brings its schema up to date. Its logs are in the directory logs beside
// it, also where the database is a PostgreSQL one. The error is [ErrLocked] where another process has it open, [ErrTooNew], [ErrWrongKey] or [ErrCorrupt].
func Open(path string, o Options) (*DB, error) {
	db := &DB{engine: inFile(path), dir: filepath.Join(filepath.Dir(path), "logs"), now: o.Now, log: o.Logger, closed: make(chan struct{})}
	if o.PostgreSQL != "" {
		served, err := newServed(o.PostgreSQL, o.Lost)
		if err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
		db.engine = served
	}
	if db.now == nil {
		db.now = time.Now
	}
	if db.log == nil {
		db.log = slog.New(slog.DiscardHandler)
	}
	db.auditFailed = func(err error) {
		db.log.Error("a record of the audit was not kept", "err", err)
		if o.AuditFailed != nil {
			o.AuditFailed(err)
		}
	}
	if err := db.open(context.Background(), o.Key); err != nil {
		if db.writer != nil {
			err = errors.Join(err, db.writer.Close(), db.reader.Close())
		}
		if db.lock != nil {
			db.lock.Close()
		}
		return nil, err
	}
	db.close = sync.OnceValue(db.shut)
	return db, nil
}

func (db *DB) open(ctx context.Context, key []byte) error {
	doing := "open " + db.engine.String()
	var err error
	if db.sealer, err = newSealer(key); err != nil {
		return fmt.Errorf("store: %s: %w", doing, err)
	}
	if db.lock, err = db.engine.hold(); err != nil {
		return db.wrap(doing, err)
	}
	writer, reader, err := db.engine.open()
	if err != nil {
		return db.wrap(doing, err)
	}
	db.writer, db.reader = &pool{DB: writer, query: db.engine.query}, &pool{DB: reader, query: db.engine.query}
	looking, looked := context.WithTimeoutCause(ctx, timeLimit, errTime)
	defer looked()
	if err := db.engine.look(looking, db.reader, db.log); err != nil {
		return db.wrap(doing, db.ended(looking, err))
	}
	if err := db.migrate(ctx); err != nil {
		return db.wrap(doing, err)
	}
	if err := db.checkKey(ctx); err != nil {
		return db.wrap(doing, err)
	}
	err = db.write(ctx, true, func(tx *tx) error {
		start, err := tx.take("start", 1)
		db.feed.begin(start)
		db.engine.begun(start)
		return err
	})
	if err != nil {
		return db.wrap(doing, err)
	}
	db.logs = newLogs(db.dir)
	if err := db.buryLogs(ctx); err != nil {
		db.log.Warn("the logs of deleted pipelines are still there", "err", err)
	}
	return nil
}

// Check reads the whole database and tells what is damaged. It takes seconds per gigabyte, and as long as ctx lets it.
func (db *DB) Check(ctx context.Context) error {
	return db.wrap("check "+db.engine.String(), db.engine.check(ctx, db.reader))
}

// migration is a numbered file of SQL.
type migration struct {
	version int
	name    string
	sql     string
}

func readMigrations(from fs.FS) ([]migration, error) {
	files, err := fs.Glob(from, "migrations/*.sql") // in the order of their names
	if err != nil {
		return nil, err
	}
	all := make([]migration, len(files))
	for i, file := range files {
		text, err := fs.ReadFile(from, file)
		if err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(filepath.Base(file), ".sql")
		number, _, _ := strings.Cut(name, "_")
		version, err := strconv.Atoi(number)
		if err != nil || version < 1 || i > 0 && version <= all[i-1].version {
			return nil, fmt.Errorf("migration %s should have a number of its own, higher than that of the one before", name)
		}
		all[i] = migration{version, name, string(text)}
	}
	return all, nil
}

// Tables that are there before the first migration.
const (
	tableOfMigrations = `CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied INTEGER NOT NULL) STRICT`
	tableOfSealing    = `CREATE TABLE IF NOT EXISTS sealing (id INTEGER PRIMARY KEY, sealed_check BLOB NOT NULL) STRICT`
)

// fills are what migrations do that SQL cannot.
var fills = map[int]func(*tx) error{10: searchDeliveries, 11: nameDeployments}

// migrate applies what the database does not have yet, each migration in a transaction of its own. A large database takes its time: a migration that was
// ended halfway would be begun anew at each start.
func (db *DB) migrate(ctx context.Context) error {
	all, err := readMigrations(migrations)
	if err != nil {
		return err
	}
	var has []int64
	err = db.write(ctx, true, func(tx *tx) error {
		if _, err := tx.ExecContext(ctx, db.engine.schema(tableOfMigrations)); err != nil {
			return err
		}
		return tx.numbers(&has, `SELECT version FROM schema_migrations ORDER BY version`)
	})
	if err != nil {
		return err
	}
	if newest := all[len(all)-1].version; len(has) > 0 && has[len(has)-1] > int64(newest) {
		return fmt.Errorf("%w: it has version %d, and this program knows %d; start the newer program, or put back the backup from before it", ErrTooNew, has[len(has)-1], newest)
	}
	for _, m := range all {
		if slices.Contains(has, int64(m.version)) {
			continue
		}
		err := db.run(ctx, true, func(tx *tx) error {
			if _, err := tx.ExecContext(ctx, db.engine.schema(m.sql)); err != nil {
				return err
			}
			if fill := fills[m.version]; fill != nil {
				if err := fill(tx); err != nil {
					return err
				}
			}
			return tx.exec(`INSERT INTO schema_migrations (version, name, applied) VALUES (?, ?, ?)`, m.version, m.name, micros(db.now()))
		})
		if err != nil {
			return fmt.Errorf("migration %s: %w", m.name, err)
		}
		db.log.Info("the database has a new schema", "database", db.engine.String(), "migration", m.name)
	}
	return nil
}

// checkKey seals a value in a new database, and finds out with it later whether a key is the database's.
func (db *DB) checkKey(ctx context.Context) error {
	at := place("sealing.sealed_check")
	var sealed []byte
	err := db.write(ctx, true, func(tx *tx) error {
		if _, err := tx.ExecContext(ctx, db.engine.schema(tableOfSealing)); err != nil {
			return err
		}
		err := tx.row(`SELECT sealed_check FROM sealing WHERE id = 1`).Scan(&sealed)
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		sealed = db.sealer.seal(at, []byte(rand.Text()))
		return tx.exec(`INSERT INTO sealing (id, sealed_check) VALUES (1, ?)`, sealed)
	})
	if err != nil {
		return err
	}
	if _, err := db.sealer.open(at, sealed); err != nil {
		return fmt.Errorf("%w: it was made with another one; put back its key file", ErrWrongKey)
	}
	return nil
}

// Close ends what waits, waits for what is being written and closes the database. Logs that are open can no longer be written.
func (db *DB) Close() error { return db.close() }

func (db *DB) shut() error {
	close(db.closed)
	if conn, err := db.writer.Conn(context.Background()); err == nil { // nobody writes now, and whoever comes later is refused
		_ = conn.Close()
	}
	db.logs.close()
	err := errors.Join(db.reader.Close(), db.writer.Close()) // the last one moves the write-ahead log into the database
	db.lock.Close()
	return err
}

// pool is connections, and the statements that are prepared on them.
type pool struct {
	*sql.DB
	query      func(string) string // in the words of the database
	statements sync.Map            // query -> *sql.Stmt; the queries are those of this package, so there are few
}

// prepare keeps statements for queries that were seen for the first time.
func (p *pool) prepare(ctx context.Context, queries []string) {
	for _, query := range queries {
		s, err := p.PrepareContext(ctx, p.query(query))
		if err != nil {
			continue // it goes without
		}
		if _, twice := p.statements.LoadOrStore(query, s); twice {
			_ = s.Close() //nolint:sqlclosecheck // the other one is kept, until the pool is closed
		}
	}
}

// tx is a transaction.
type tx struct {
	*sql.Tx
	pool    *pool
	ctx     context.Context
	changes []Change // told when it is committed
	audited bool     // there are records of the audit
	urgent  bool     // … such as should be signed at once
	unknown []string // queries that are not prepared yet
}

func (db *DB) isClosed() bool {
	select {
	case <-db.closed:
		return true
	default:
		return false
	}
}

// errTime is why a call has ended that took too long.
var errTime = fmt.Errorf("%w: it took longer than %s", ErrSlow, timeLimit)

func (db *DB) begin(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if db.isClosed() {
		return nil, nil, ErrClosed
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeLimit, errTime)
	return ctx, cancel, nil
}

// write runs f in a transaction that is the only one, and tells what it has changed. A durable one is on the disk when write returns.
func (db *DB) write(ctx context.Context, durable bool, f func(*tx) error) error {
	if db.beside {
		return fmt.Errorf("%w: the Keelson that has it writes", ErrLocked)
	}
	return db.writeAny(ctx, durable, f)
}

func (db *DB) writeAny(ctx context.Context, durable bool, f func(*tx) error) error {
	ctx, cancel, err := db.begin(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return db.run(ctx, durable, f)
}

// run is writeAny for as long as ctx lets it.
func (db *DB) run(ctx context.Context, durable bool, f func(*tx) error) error {
	t := &tx{pool: db.writer, ctx: ctx}
	if err := db.transact(t, durable, f); err != nil {
		return db.ended(ctx, err)
	}
	db.writer.prepare(ctx, t.unknown) // now that the connection is free
	return nil
}

// ended gives the reason of an error that comes from the end of ctx, or of the store.
func (db *DB) ended(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && (errors.Is(err, ctx.Err()) || db.engine.interrupted(err)) {
		return cause
	}
	if db.isClosed() && !isOurs(err) {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return err
}

func (db *DB) transact(t *tx, durable bool, f func(*tx) error) (err error) {
	conn, err := db.writing(t, durable)
	if err != nil && t.ctx.Err() == nil && db.isAway(err) { // nothing has happened: the connection was an old one
		conn, err = db.writing(t, durable)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := f(t); err != nil {
		if rerr := t.Rollback(); rerr != nil && !errors.Is(rerr, sql.ErrTxDone) { // done: ctx has ended it
			err = errors.Join(err, rerr)
		}
		return err
	}
	if err := t.Commit(); err != nil {
		return err
	}
	db.feed.add(t.changes) // while nobody else writes: in the order of the transactions
	if t.audited {
		db.recorded.wake()
	}
	if t.urgent {
		db.urgent.wake()
	}
	return nil
}

// writing begins a transaction on the connection that writes.
func (db *DB) writing(t *tx, durable bool) (conn *sql.Conn, err error) {
	if conn, err = db.writer.Conn(t.ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, conn.Close())
		}
	}()
	if db.isClosed() {
		return conn, ErrClosed
	}
	if durable || db.durable { // always for a durable one: a new connection is not
		if _, err := conn.ExecContext(t.ctx, db.engine.durable(durable)); err != nil {
			return conn, err
		}
		db.durable = durable
	}
	t.Tx, err = conn.BeginTx(t.ctx, nil)
	return conn, err
}

// isAway tells whether an error is that the database does not answer.
func (db *DB) isAway(err error) bool {
	_, kind := db.engine.classify(err)
	return errors.Is(kind, ErrAway)
}

// stmt gives a prepared statement for a query; nil: it is not prepared yet.
func (t *tx) stmt(query string) *sql.Stmt {
	if s, ok := t.pool.statements.Load(query); ok {
		return t.StmtContext(t.ctx, s.(*sql.Stmt)) // the transaction closes it
	}
	if !slices.Contains(t.unknown, query) {
		t.unknown = append(t.unknown, query)
	}
	return nil
}

// putMany inserts rows, many with each statement. The statement is what comes before and after the values of the rows; there are few different ones, as
// each stays prepared.
func (t *tx) putMany(before, after string, rows [][]any) error {
	for _, size := range []int{256, 16, 1} {
		for ; len(rows) >= size; rows = rows[size:] {
			row := "(" + strings.TrimSuffix(strings.Repeat("?, ", len(rows[0])), ", ") + "), "
			if err := t.exec(before+" VALUES "+strings.TrimSuffix(strings.Repeat(row, size), ", ")+after, slices.Concat(rows[:size]...)...); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *tx) exec(query string, args ...any) error {
	_, err := t.count(query, args...)
	return err
}

// count tells how many rows a statement has changed.
func (t *tx) count(query string, args ...any) (int64, error) {
	var result sql.Result
	var err error
	if s := t.stmt(query); s != nil { //nolint:sqlclosecheck // the transaction closes it
		result, err = s.ExecContext(t.ctx, args...)
	} else {
		result, err = t.ExecContext(t.ctx, t.pool.query(query), args...)
	}
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func (t *tx) row(query string, args ...any) *sql.Row {
	if s := t.stmt(query); s != nil { //nolint:sqlclosecheck // the transaction closes it
		return s.QueryRowContext(t.ctx, args...)
	}
	return t.QueryRowContext(t.ctx, t.pool.query(query), args...)
}

// each calls f for each row.
func (t *tx) each(f func(scan func(...any) error) error, query string, args ...any) error {
	var rows *sql.Rows
	var err error
	if s := t.stmt(query); s != nil { //nolint:sqlclosecheck // the transaction closes it
		rows, err = s.QueryContext(t.ctx, args...)
	} else {
		rows, err = t.QueryContext(t.ctx, t.pool.query(query), args...)
	}
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// numbers collects the rows of one column.
func (t *tx) numbers(into *[]int64, query string, args ...any) error {
	return t.each(func(scan func(...any) error) error {
		var n int64
		err := scan(&n)
		*into = append(*into, n)
		return err
	}, query, args...)
}

// changed has a change told when the transaction is committed.
func (t *tx) changed(c Change) { t.changes = append(t.changes, c) }

// read runs f in a transaction that sees the database as it is at its begin. It waits for nobody who writes.
func (db *DB) read(ctx context.Context, f func(*tx) error) error {
	ctx, cancel, err := db.begin(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	t := &tx{pool: db.reader, ctx: ctx}
	t.Tx, err = db.reader.BeginTx(ctx, db.engine.snapshot())
	if err != nil && ctx.Err() == nil && db.isAway(err) {
		t.Tx, err = db.reader.BeginTx(ctx, db.engine.snapshot())
	}
	if err != nil {
		return db.ended(ctx, err)
	}
	err = f(t)
	if rerr := t.Rollback(); rerr != nil && !errors.Is(rerr, sql.ErrTxDone) {
		err = errors.Join(err, rerr)
	}
	if err != nil {
		return db.ended(ctx, err)
	}
	db.reader.prepare(ctx, t.unknown)
	return nil
}

// micros is a time as it is stored; at is the other way.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func at(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

// flag is a truth as it is stored.
func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
