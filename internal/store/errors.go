package store

import (
	"database/sql"
	"errors"
	"fmt"
)

// What an error of this package may be, for errors.Is. The error itself says what was tried and where, and what to do.
var (
	ErrNotFound = errors.New("there is no such row")
	// ErrConflict: the row is not as the caller takes it to be, as another one has changed it.
	ErrConflict = errors.New("it has changed meanwhile")
	ErrExists   = errors.New("it exists already")
	// ErrBusy: it is under way, so it cannot be done now.
	ErrBusy = errors.New("it is under way")
	// ErrTooLarge: a value or a queue is beyond its bound; nothing was written.
	ErrTooLarge = errors.New("it is too large")
	// ErrTooOld: the feed of changes does not go back so far; read everything again.
	ErrTooOld = errors.New("older than what is remembered")
	// ErrInvalid: what is to be written is not complete, or no text; nothing was written.
	ErrInvalid = errors.New("it cannot be kept like this")
	ErrClosed  = errors.New("the store is closed")

	ErrFull     = errors.New("there is no space left for the database")
	ErrReadOnly = errors.New("the database cannot be written")
	ErrLocked   = errors.New("another process uses the database")
	ErrAway     = errors.New("the database does not answer")
	// ErrSlow: a call has ended as it took too long; the same one may do later.
	ErrSlow     = errors.New("the database is too slow")
	ErrCorrupt  = errors.New("the database is damaged")
	ErrWrongKey = errors.New("the key does not open the database")
	// ErrTooNew: a newer program has changed the schema.
	ErrTooNew = errors.New("the database is of a newer version")
)

// wrap says what was tried, and makes an error of the driver or the file system one of this package's.
func (db *DB) wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	hint, kind := db.engine.classify(err)
	switch {
	case kind == nil || errors.Is(err, kind):
		return fmt.Errorf("store: %s: %w", doing, err)
	case errors.Is(kind, ErrCorrupt):
		return fmt.Errorf("store: %s: %w: %w; %s", doing, kind, err, db.engine.restore())
	case hint == "":
		return fmt.Errorf("store: %s: %w: %w", doing, kind, err)
	default:
		return fmt.Errorf("store: %s: %w (%w): %s", doing, kind, err, hint)
	}
}

// isOurs tells whether an error says already what it is.
func isOurs(err error) bool {
	for _, ours := range []error{ErrNotFound, ErrConflict, ErrBusy, ErrTooLarge, ErrClosed, sql.ErrNoRows} {
		if errors.Is(err, ours) {
			return true
		}
	}
	return false
}
