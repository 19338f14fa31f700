package store

import (
	"context"
	"database/sql"
	"io"
	"log/slog"
)

// engine is what a kind of database does in its own way: sqlite.go and postgres.go. The SQL of this package is what both share: ON CONFLICT,
// RETURNING, WITH RECURSIVE, partial indexes, ? for arguments. In the migrations INTEGER means 64 bits, REAL 64 bits and BLOB bytes, and STRICT
// says that a column takes nothing else. An argument whose type no column tells is cast to BIGINT or TEXT.
type engine interface {
	// String names the database for people, without credentials.
	String() string
	// hold keeps the database for this process until what it gives is closed; the error is ErrLocked where another one has it.
	hold() (io.Closer, error)
	// open gives one pool with one connection that writes and one whose connections can only read. They are not connected yet.
	open() (writer, reader *sql.DB, err error)
	// look refuses a database that is damaged or somebody else's before anything is written to it.
	look(ctx context.Context, reader *pool, log *slog.Logger) error
	// begun is told the number of this start: the database is this process's until another one has taken the next number.
	begun(start int64)
	// query gives a query, and schema statements of a migration, in the words of the database.
	query(string) string
	schema(string) string
	// durable is the statement after which commits wait for the disk, or do not.
	durable(bool) string
	// snapshot are the options of a transaction that sees the database as it is at its begin.
	snapshot() *sql.TxOptions
	// check reads everything and tells what is damaged.
	check(ctx context.Context, reader *pool) error
	// classify tells which of this package's errors one of the driver or the file system is, and what to do about it; nil: none.
	classify(err error) (hint string, kind error)
	// interrupted tells whether a statement was ended from outside.
	interrupted(err error) bool
	// forget has what was deleted from tables leave the files as far as that can be done.
	forget(ctx context.Context, writer *pool, tables []string) error
	// hasTable is a query that counts the tables of a name.
	hasTable() string
	// restore says how to go on with a damaged database.
	restore() string
}

// readers is how many connections read at a time.
const readers = 4

// apart gives the two pools their sizes.
func apart(writer, reader *sql.DB) (*sql.DB, *sql.DB) {
	writer.SetMaxOpenConns(1)
	reader.SetMaxOpenConns(readers)
	reader.SetMaxIdleConns(readers)
	return writer, reader
}

// countIs gives the number that a query gives.
func countIs(ctx context.Context, from *pool, query string) (n int, err error) {
	err = from.QueryRowContext(ctx, query).Scan(&n)
	return n, err
}
