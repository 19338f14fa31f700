package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"modernc.org/sqlite" // the driver, and its errors
)

// Everything that is SQLite's own is in this file. The SQL elsewhere is what SQLite and PostgreSQL share: ON CONFLICT, RETURNING,
// WITH RECURSIVE, partial indexes, ? for arguments. In the migrations INTEGER means 64 bits and BLOB bytes, and STRICT says that
// a column takes nothing else.

const (
	// busyTimeout is how long SQLite waits for another process that has the lock, such as the sqlite3 program.
	busyTimeout = 5 * time.Second
	// readers is how many connections read at a time.
	readers = 4
	// journalMax is the size to which the write-ahead log is cut when it is begun anew.
	journalMax = 64 << 20
)

// open gives one pool with one connection that writes and one whose connections can only read. They are not connected yet.
func open(path string) (writer, reader *sql.DB, err error) {
	writer, err = sql.Open("sqlite", dsn(path, false))
	if err != nil {
		return nil, nil, err
	}
	writer.SetMaxOpenConns(1)
	reader, err = sql.Open("sqlite", dsn(path, true))
	if err != nil {
		return nil, nil, errors.Join(err, writer.Close())
	}
	reader.SetMaxOpenConns(readers)
	reader.SetMaxIdleConns(readers)
	return writer, reader, nil
}

// openExisting gives a pool whose connections can only read a file that is there.
func openExisting(path string) (*sql.DB, error) {
	reader, err := sql.Open("sqlite", dsn(path, true)+"&mode=ro")
	if err != nil {
		return nil, err
	}
	reader.SetMaxOpenConns(readers)
	return reader, nil
}

// backup copies the database of a file into another one, which is empty or not there: as of one moment, while others write.
func backup(ctx context.Context, from, to string) (err error) {
	q := url.Values{"mode": {"ro"}, "_pragma": {fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds())}} // with query_only it would not copy either
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: from}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	_, err = db.ExecContext(ctx, "VACUUM INTO ?", to)
	return err
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

// synchronous is how sure a commit has to be. Killing the process loses neither. NORMAL may lose the last transactions when the
// machine loses power, in their order; FULL waits until the disk has them, and everything before them too.
func synchronous(durable bool) string {
	if durable {
		return "FULL"
	}
	return "NORMAL"
}

// forget has what was deleted leave the files, too: a deleted row is overwritten with its page (secure_delete), and the write-ahead log that holds
// it from before is emptied.
func (db *DB) forget(ctx context.Context) (err error) {
	conn, err := db.writer.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	var busy, pages, moved int
	if err := conn.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &pages, &moved); err != nil {
		return err
	}
	if busy != 0 {
		return fmt.Errorf("it is erased, and %s-wal still holds it: %w", db.path, ErrBusy)
	}
	return nil
}

// Queries of SQLite's own.
const (
	setSynchronous = "PRAGMA synchronous = "      // + synchronous(…)
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

// interrupted tells whether a statement was ended from outside.
func interrupted(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == codeInterrupt
}

// classify tells which of this package's errors one of the driver or the file system is, and what to do about it; nil: none.
func classify(err error) (hint string, kind error) {
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
