package store

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"keelson.dev/keelson/internal/audit"
)

// maxInbox is how many records of other processes are taken into the audit at a time, and may wait for that.
const maxInbox, maxInboxed = 500, 10_000

// OpenBeside opens a PostgreSQL database that another process has, or will have. Everything can be read. Of what is written only what belongs to
// people is, as sessions and tokens, and [DB.InboxAudit]; the rest is refused with [ErrLocked]. The schema is as the other process has made it: the
// error is [ErrTooNew] where that is a newer program, and [ErrLocked] where it has not made what this program needs.
func OpenBeside(path string, o Options) (*DB, error) {
	served, err := newServed(o.PostgreSQL, nil)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	served.beside = true
	db := &DB{
		engine: served, beside: true, dir: filepath.Join(filepath.Dir(path), "logs"), now: o.Now, log: o.Logger, closed: make(chan struct{}),
		lock: io.NopCloser(nil), auditFailed: func(error) {},
	}
	if db.now == nil {
		db.now = time.Now
	}
	if db.log == nil {
		db.log = slog.New(slog.DiscardHandler)
	}
	db.logs = newLogs(db.dir)
	writer, reader, err := served.open()
	if err != nil {
		return nil, db.wrap("open "+served.String(), err)
	}
	db.writer, db.reader = &pool{DB: writer, query: served.query}, &pool{DB: reader, query: served.query}
	ctx, cancel := context.WithTimeout(context.Background(), timeLimit)
	defer cancel()
	if err := db.sameSchema(ctx); err != nil {
		return nil, errors.Join(db.wrap("open "+served.String(), err), writer.Close(), reader.Close())
	}
	db.close = sync.OnceValue(db.shut)
	return db, nil
}

// OpensWith says why a key does not open what is sealed in the database, if it does not: a server with that key cannot take over.
func (db *DB) OpensWith(ctx context.Context, key []byte) error {
	doing := "open " + db.engine.String()
	sealer, err := newSealer(key)
	if err != nil {
		return fmt.Errorf("store: %s: %w", doing, err)
	}
	var sealed []byte
	if err := db.read(ctx, func(tx *tx) error { return tx.row(`SELECT sealed_check FROM sealing WHERE id = 1`).Scan(&sealed) }); err != nil {
		return db.wrap(doing, err)
	}
	if _, err := sealer.open(place("sealing.sealed_check"), sealed); err != nil {
		return db.wrap(doing, fmt.Errorf("%w: it was made with another one; put its key file in the place of this server's", ErrWrongKey))
	}
	return nil
}

// Shared tells whether other processes may be connected to the database, too.
func (db *DB) Shared() bool {
	_, ok := db.engine.(*served)
	return ok
}

// sameSchema refuses a database whose schema is not this program's.
func (db *DB) sameSchema(ctx context.Context) error {
	all, err := readMigrations(migrations)
	if err != nil {
		return err
	}
	if err := db.engine.look(ctx, db.reader, db.log); err != nil {
		return err
	}
	tables, err := countIs(ctx, db.reader, `SELECT count(*) FROM information_schema.tables WHERE table_schema = current_schema() AND table_name = 'schema_migrations'`)
	if err != nil {
		return err
	}
	has := map[int64]bool{}
	newest := int64(0)
	if tables > 0 {
		var versions []int64
		if err := db.read(ctx, func(tx *tx) error { return tx.numbers(&versions, `SELECT version FROM schema_migrations`) }); err != nil {
			return err
		}
		for _, v := range versions {
			has[v], newest = true, max(newest, v)
		}
	}
	if known := int64(all[len(all)-1].version); newest > known {
		return fmt.Errorf("%w: it has version %d, and this program knows %d", ErrTooNew, newest, known)
	}
	for _, m := range all {
		if !has[int64(m.version)] {
			return fmt.Errorf("%w: the Keelson that has it has not made its schema yet, or is an older one", ErrLocked)
		}
	}
	return nil
}

// writePeople is write for what belongs to people, which is written beside the process that has the database, too.
func (db *DB) writePeople(ctx context.Context, durable bool, f func(*tx) error) error {
	return db.writeAny(ctx, durable, f)
}

// InboxAudit leaves records for the audit, which the process that has the database takes in with [DB.TakeInbox].
func (db *DB) InboxAudit(ctx context.Context, entries ...audit.Entry) error {
	return db.wrap("leave records for the audit", db.writeAny(ctx, true, func(tx *tx) error {
		var waiting int64
		if err := tx.row(`SELECT count(*) FROM audit_inbox`).Scan(&waiting); err != nil {
			return err
		}
		if waiting+int64(len(entries)) > maxInboxed {
			return fmt.Errorf("%w: %d wait already", ErrTooLarge, waiting)
		}
		for _, e := range entries {
			text, err := json.Marshal(e.Clean())
			if err != nil {
				return err
			}
			if err := tx.exec(`INSERT INTO audit_inbox (id, at, entry) VALUES (?, ?, ?)`, rand.Text(), micros(db.now()), string(text)); err != nil {
				return err
			}
		}
		return nil
	}))
}

// TakeInbox puts what others have left for the audit into it, in the order of time, and tells how many records that were.
func (db *DB) TakeInbox(ctx context.Context) (taken int, err error) {
	doing := "take in what others have left for the audit"
	var waiting int64 // most often there is nothing, and then nothing is written
	if err := db.read(ctx, func(tx *tx) error { return tx.row(`SELECT count(*) FROM audit_inbox`).Scan(&waiting) }); err != nil || waiting == 0 {
		return 0, db.wrap(doing, err)
	}
	err = db.write(ctx, true, func(tx *tx) (err error) {
		taken, err = tx.takeInbox(db.now())
		return err
	})
	return taken, db.wrap(doing, err)
}

func (t *tx) takeInbox(now time.Time) (taken int, err error) {
	type left struct {
		id    string
		at    int64
		entry string
	}
	var all []left
	err = t.each(func(scan func(...any) error) error {
		var l left
		err := scan(&l.id, &l.at, &l.entry)
		all = append(all, l)
		return err
	}, `SELECT id, at, entry FROM audit_inbox ORDER BY at, id LIMIT ?`, maxInbox)
	if err != nil {
		return 0, err
	}
	for _, l := range all {
		var e audit.Entry
		if err := json.Unmarshal([]byte(l.entry), &e); err != nil {
			e = audit.Entry{Action: "audit.gap", Object: "audit", Outcome: audit.Failed, Detail: "a record of another server cannot be read"}
		}
		if e.Detail != "" {
			e.Detail += ", "
		}
		e.Detail += "on a server that waits, " + at(l.at).UTC().Format(time.RFC3339)
		if _, err := t.appendEntry(now, e); err != nil {
			return 0, err
		}
		if err := t.exec(`DELETE FROM audit_inbox WHERE id = ?`, l.id); err != nil {
			return 0, err
		}
	}
	return len(all), nil
}
