package store

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"keelson.dev/keelson/internal/audit"
)

// File is a database that is only read, without its key: while a process has it open, from a backup, or damaged.
type File struct{ db *DB }

// OpenFile opens the database in a file, which stays as it is. Nothing is looked at yet. The error is [fs.ErrNotExist] where there is none.
func OpenFile(path string) (*File, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("store: open %s: %w", path, err)
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("store: open %s: it is no file", path)
	}
	at := inFile(path)
	reader, err := at.openExisting()
	if err != nil {
		return nil, fmt.Errorf("store: open %s: %w", path, err)
	}
	return &File{&DB{engine: at, now: time.Now, log: slog.New(slog.DiscardHandler), reader: reader, closed: make(chan struct{})}}, nil
}

// String names the database for people, without credentials.
func (f *File) String() string { return f.db.engine.String() }

// Close closes it.
func (f *File) Close() error { return f.db.reader.Close() }

// Version is that of the schema; 0: it is no database of Keelson.
func (f *File) Version(ctx context.Context) (version int, err error) {
	err = f.db.read(ctx, func(tx *tx) error {
		var ours int
		if err := tx.row(f.db.engine.hasTable(), "schema_migrations").Scan(&ours); err != nil || ours == 0 {
			return err
		}
		return tx.row(`SELECT coalesce(max(version), 0) FROM schema_migrations`).Scan(&version)
	})
	return version, f.db.wrap("read "+f.db.engine.String(), err)
}

// HasAudit tells whether there is a table of audit records: the databases of old versions have none.
func (f *File) HasAudit(ctx context.Context) (has bool, err error) {
	var n int
	err = f.db.read(ctx, func(tx *tx) error {
		return tx.row(f.db.engine.hasTable(), "audit").Scan(&n)
	})
	return n > 0, f.db.wrap("read "+f.db.engine.String(), err)
}

// Audit is [DB.Audit].
func (f *File) Audit(ctx context.Context, filter AuditFilter) ([]AuditRecord, int64, error) {
	return f.db.Audit(ctx, filter)
}

// EachAudit is [DB.EachAudit].
func (f *File) EachAudit(ctx context.Context, first, last int64, each func(AuditRecord) error) error {
	return f.db.EachAudit(ctx, first, last, each)
}

// AuditHead is [DB.AuditHead].
func (f *File) AuditHead(ctx context.Context) (AuditHead, error) { return f.db.AuditHead(ctx) }

// AuditAt is [DB.AuditAt].
func (f *File) AuditAt(ctx context.Context, seq int64) (AuditHead, error) {
	return f.db.AuditAt(ctx, seq)
}

// AuditSpan is [DB.AuditSpan].
func (f *File) AuditSpan(ctx context.Context, from, to time.Time) (first, last int64, err error) {
	return f.db.AuditSpan(ctx, from, to)
}

// Checkpoints is [DB.Checkpoints].
func (f *File) Checkpoints(ctx context.Context) ([]Checkpoint, error) { return f.db.Checkpoints(ctx) }

// ExportAudit is [DB.ExportAudit].
func (f *File) ExportAudit(ctx context.Context, w io.Writer, o AuditExport) error {
	return f.db.ExportAudit(ctx, w, o)
}

// VerifyAudit is [DB.VerifyAudit].
func (f *File) VerifyAudit(ctx context.Context, accept []ed25519.PublicKey, more []audit.Found) (audit.Report, *audit.Problem, error) {
	return f.db.VerifyAudit(ctx, accept, more)
}

// Check is [DB.Check].
func (f *File) Check(ctx context.Context) error { return f.db.Check(ctx) }

// Backup writes a whole and sound copy of the database to a file that is not there yet, as it is at one moment; others may write meanwhile. What
// is not used any more is not in it. The copy is an SQLite database, also where the database is a PostgreSQL one.
func (f *File) Backup(ctx context.Context, to string) error {
	doing := "copy " + f.db.engine.String() + " to " + to
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("store: %s: %w", doing, fs.ErrExist)
	}
	if err := private(to); err != nil { // SQLite takes an empty file
		return f.db.wrap(doing, err)
	}
	write := f.db.copyOut
	if file, ok := f.db.engine.(inFile); ok {
		write = file.backup
	}
	if err := write(ctx, to); err != nil {
		return f.db.wrap(doing, errors.Join(err, os.Remove(to)))
	}
	copied, err := OpenFile(to)
	if err != nil {
		return err
	}
	defer copied.Close()
	return copied.Check(ctx)
}
