package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite" // the driver, and its errors
)

const (
	// busyTimeout is how long SQLite waits for another process that has the lock, such as the sqlite3 program.
	busyTimeout = 5 * time.Second
	// journalMax is the size to which the write-ahead log is cut when it is begun anew.
	journalMax = 64 << 20
)

// inFile is an SQLite database, in the file of that name.
type inFile string

func (f inFile) String() string { return string(f) }

func (f inFile) open() (writer, reader *sql.DB, err error) {
	writer, err = sql.Open("sqlite", dsn(string(f), false))
	if err != nil {
		return nil, nil, err
	}
	reader, err = sql.Open("sqlite", dsn(string(f), true))
	if err != nil {
		return nil, nil, errors.Join(err, writer.Close())
	}
	writer, reader = apart(writer, reader)
	return writer, reader, nil
}

// openExisting gives a pool whose connections can only read a file that is there.
func (f inFile) openExisting() (*pool, error) {
	reader, err := sql.Open("sqlite", dsn(string(f), true)+"&mode=ro")
	if err != nil {
		return nil, err
	}
	reader.SetMaxOpenConns(readers)
	return &pool{DB: reader, query: f.query}, nil
}

// backup copies the database into another file, which is empty or not there: as of one moment, while others write.
func (f inFile) backup(ctx context.Context, to string) (err error) {
	q := url.Values{"mode": {"ro"}, "_pragma": {fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds())}} // with query_only it would not copy either
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: string(f)}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	_, err = db.ExecContext(ctx, "VACUUM INTO ?", to)
	return err
}

// forget writes the file anew where there are pages in it that are not used any more, and empties the write-ahead log, which holds what was deleted
// from before; in pages that are used it was overwritten (secure_delete).
func (f inFile) forget(ctx context.Context, writer *pool, _ []string) (err error) {
	var unused, busy, pages, moved int
	if err := writer.QueryRowContext(ctx, "PRAGMA freelist_count").Scan(&unused); err != nil {
		return err
	}
	if unused > 0 {
		if _, err := writer.ExecContext(ctx, "VACUUM"); err != nil {
			return fmt.Errorf("it is erased, and pages of %s that are not used any more still hold it: %w", f, err)
		}
	}
	if err := writer.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &pages, &moved); err != nil {
		return err
	}
	if busy != 0 {
		return fmt.Errorf("it is erased, and %s-wal still holds it: %w", f, ErrBusy)
	}
	return nil
}

// hold locks a file beside the database; the end of the process lets go.
func (f inFile) hold() (io.Closer, error) {
	path := string(f) + ".lock"
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s is locked; end it first", ErrLocked, path)
		}
		return nil, err
	}
	return lock, nil
}

func (f inFile) look(ctx context.Context, reader *pool, log *slog.Logger) error {
	if err := private(string(f)); err != nil {
		return err
	}
	if tables, err := countIs(ctx, reader, countTables); err != nil || tables == 0 {
		return err
	}
	ours, err := countIs(ctx, reader, isMigrated)
	if err != nil {
		return err
	}
	if ours == 0 {
		return errors.New("it is the database of another program; name another file")
	}
	short, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	found, err := findings(short, reader, quickCheck)
	if short.Err() != nil && ctx.Err() == nil {
		log.Debug("the database is too large to be checked at a start", "path", string(f))
		return nil
	}
	if err == nil && found != "" {
		err = fmt.Errorf("%w: %s; %s", ErrCorrupt, found, f.restore())
	}
	return err
}

// private makes the file of a new database readable for its owner only; SQLite gives its other files the same mode.
func private(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// findings runs a check; empty: the database is sound.
func findings(ctx context.Context, from *pool, check string) (string, error) {
	rows, err := from.QueryContext(ctx, check)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	var found []string
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return "", err
		}
		if text != "ok" {
			found = append(found, text)
		}
	}
	return strings.Join(found, "; "), rows.Err()
}

func dsn(path string, readOnly bool) string {
	q := url.Values{}
	pragma := func(name, value string) { q.Add("_pragma", name+"("+value+")") }
	pragma("busy_timeout", strconv.FormatInt(busyTimeout.Milliseconds(), 10))
	pragma("foreign_keys", "1")
	pragma("trusted_schema", "0")
	pragma("cell_size_check", "1") // a damaged page is refused before it is used
	if readOnly {
		pragma("query_only", "1")
	} else {
		pragma("journal_mode", "WAL")
		pragma("synchronous", synchronous(false))
		pragma("journal_size_limit", strconv.Itoa(journalMax))
		q.Set("_txlock", "immediate") // a transaction that writes never finds out late that it may not
		q.Set("_defensive", "1")
		pragma("secure_delete", "FAST") // what is deleted from a page is overwritten with it
	}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
}

// durable sets how sure a commit has to be. Killing the process loses neither. NORMAL may lose the last transactions when the
// machine loses power, in their order; FULL waits until the disk has them, and everything before them too.
func (inFile) durable(durable bool) string { return "PRAGMA synchronous = " + synchronous(durable) }

func synchronous(durable bool) string {
	if durable {
		return "FULL"
	}
	return "NORMAL"
}

// Queries of SQLite's own.
const (
	quickCheck     = "PRAGMA quick_check(1)"      // a row that says ok, or what is wrong
	integrityCheck = "PRAGMA integrity_check(10)" // also compares the indexes
	countTables    = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
	isMigrated     = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'schema_migrations'"
)

// SQLite's result codes (https://www.sqlite.org/rescode.html); the lowest byte is the primary one.
const (
	codeBusy       = 5
	codeLocked     = 6
	codeReadOnly   = 8
	codeInterrupt  = 9
	codeCorrupt    = 11
	codeFull       = 13
	codeCantOpen   = 14
	codeTooBig     = 18
	codeConstraint = 19
	codeNotADB     = 26

	codeUnique     = codeConstraint | 8<<8
	codePrimaryKey = codeConstraint | 6<<8
	codeForeignKey = codeConstraint | 3<<8
)

func (inFile) interrupted(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == codeInterrupt
}

func (inFile) classify(err error) (hint string, kind error) {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "make room; nothing was half written", ErrFull
	case errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return "let this user write the file and its directory", ErrReadOnly
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return "", nil
	}
	switch e.Code() {
	case codeUnique, codePrimaryKey:
		return "", ErrExists
	case codeForeignKey:
		return "", ErrNotFound
	}
	switch e.Code() & 0xff {
	case codeFull:
		return "make room; nothing was half written", ErrFull
	case codeReadOnly, codeCantOpen:
		return "let this user write the file and its directory", ErrReadOnly
	case codeBusy, codeLocked:
		return "end the other process", ErrLocked
	case codeCorrupt, codeNotADB:
		return "", ErrCorrupt
	case codeTooBig:
		return "", ErrTooLarge
	}
	return "", nil
}

func (f inFile) check(ctx context.Context, reader *pool) error {
	found, err := findings(ctx, reader, integrityCheck)
	if err == nil && found != "" {
		err = fmt.Errorf("%w: %s; %s", ErrCorrupt, found, f.restore())
	}
	return err
}

func (f inFile) restore() string {
	return fmt.Sprintf("stop Keelson; keelson store restore FILE puts a backup in its place. Without a backup move %[1]s, %[1]s-wal and %[1]s-shm away "+
		"and start again: the history of pipelines begins anew, Git and the clusters have everything else", string(f))
}

func (inFile) begun(int64) {} // the lock stays until the process ends

func (inFile) query(query string) string   { return query }
func (inFile) schema(schema string) string { return schema }

func (inFile) hasTable() string {
	return `SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?`
}

func (inFile) snapshot() *sql.TxOptions { return &sql.TxOptions{ReadOnly: true} }
