package store

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/internal/audit"
)

// AuditRecord is a record of the audit, with whose its ids are.
type AuditRecord struct {
	audit.Record

	Hash    audit.Hash
	Who     string // the actor's name; their id where it was erased
	Address string // of the request; empty: there was none, or it was erased
	About   string // the name of the person whom it is about; empty: there is none, or they were erased
}

// AuditFilter says which records are meant. Empty fields do not matter.
type AuditFilter struct {
	Query       string // words, each of which is in the action, object, project, environment, detail or the actor's name, in any case of its ASCII letters
	Actor       string // name, or id
	Action      string // whole, or with a * at its end: what it begins with
	Object      string // likewise
	Project     string // path
	Environment string
	Outcome     string
	From, To    time.Time // From <= time < To
	Before      int64     // only records with smaller numbers
	Limit       int       // 0: 100; at most 1000
}

// Kinds of names.
const (
	auditPerson  = "person"
	auditAddress = "address"
)

// AppendAudit keeps records, in their order, and gives the number of the last one. It waits for the disk.
func (db *DB) AppendAudit(ctx context.Context, entries ...audit.Entry) (last int64, err error) {
	err = db.write(ctx, true, func(tx *tx) error {
		for _, e := range entries {
			if last, err = tx.appendEntry(db.now(), e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, db.wrap("append to the audit", err)
	}
	return last, nil
}

// audited keeps records together with what they are about. What goes wrong with them is told, and does not hold up the rest: number is 0 then,
// else that of the first record.
func (db *DB) audited(t *tx, keep func() (first int64, err error)) (number int64) {
	const name = "audited"
	if _, err := t.ExecContext(t.ctx, "SAVEPOINT "+name); err != nil {
		db.auditFailed(err)
		return 0
	}
	first, err := keep()
	if err != nil {
		_, rerr := t.ExecContext(t.ctx, "ROLLBACK TO "+name)
		err, first, t.audited = errors.Join(err, rerr), 0, false
	}
	_, rerr := t.ExecContext(t.ctx, "RELEASE "+name)
	if err = errors.Join(err, rerr); err != nil {
		db.auditFailed(db.wrap("append to the audit", err))
	}
	return first
}

// appendEntry gives a record of what is to be recorded its number.
func (t *tx) appendEntry(now time.Time, e audit.Entry) (int64, error) {
	e = e.Clean()
	r := audit.Record{
		Actor: audit.Self, Action: e.Action, Object: e.Object, Project: e.Project, Environment: e.Environment, Outcome: e.Outcome, Detail: e.Detail,
	}
	head, err := t.auditHead()
	if err == nil && e.Unproven {
		var known bool
		if known, err = t.knows(e.Actor); !known {
			e.Actor = "somebody"
		}
	}
	if err == nil && e.Actor != audit.Self {
		r.Actor, err = t.auditName(auditPerson, "", e.Actor, head.Seq+1)
	}
	if err == nil && e.About != "" {
		var about string
		about, err = t.auditName(auditPerson, "", e.About, head.Seq+1)
		r.Object += about
	}
	if err == nil && e.Address != "" {
		r.Address, err = t.auditName(auditAddress, r.Actor, e.Address, head.Seq+1)
	}
	if err != nil {
		return 0, err
	}
	return t.appendRecord(now, head, r)
}

// knows tells whether a name is that of a person in the audit.
func (t *tx) knows(name string) (bool, error) {
	var id string
	err := t.row(`SELECT id FROM audit_names WHERE kind = ? AND owner = '' AND name = ?`, auditPerson, name).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// appendRecord appends a record whose ids are settled.
func (t *tx) appendRecord(now time.Time, head AuditHead, r audit.Record) (int64, error) {
	r.Seq, r.Time = head.Seq+1, now.UTC().Truncate(time.Microsecond)
	if r.Time.Before(head.Time) { // the clock was put back
		r.Time = head.Time
	}
	hash, err := audit.Next(head.Hash, r)
	if err != nil {
		return 0, err
	}
	t.audited, t.urgent = true, t.urgent || r.Urgent()
	return r.Seq, t.exec(`INSERT INTO audit (seq, at, actor, action, object, project, environment, outcome, detail, address, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		r.Seq, micros(r.Time), r.Actor, r.Action, r.Object, r.Project, r.Environment, r.Outcome, r.Detail, r.Address, hash[:])
}

// auditName gives the id of a name that a record has, and makes one at the first.
func (t *tx) auditName(kind, owner, name string, seq int64) (id string, err error) {
	err = t.row(`UPDATE audit_names SET last = ? WHERE kind = ? AND owner = ? AND name = ? RETURNING id`, seq, kind, owner, name).Scan(&id)
	if !errors.Is(err, sql.ErrNoRows) {
		return id, err
	}
	random := make([]byte, 16)
	rand.Read(random) // never fails
	id = audit.PersonID(random)
	if kind == auditAddress {
		id = audit.AddressID(random)
	}
	return id, t.exec(`INSERT INTO audit_names (id, kind, owner, name, last) VALUES (?, ?, ?, ?, ?)`, id, kind, owner, name, seq)
}

// AuditHead is the end of the chain.
type AuditHead struct {
	Seq  int64 // of the last record; 0: there is none
	Hash audit.Hash
	Time time.Time
}

func (t *tx) auditHead() (AuditHead, error) {
	h, err := t.auditLink(`SELECT seq, at, hash FROM audit ORDER BY seq DESC LIMIT 1`)
	if errors.Is(err, sql.ErrNoRows) {
		return h, nil
	}
	return h, err
}

func (t *tx) auditLink(query string, args ...any) (h AuditHead, err error) {
	var when int64
	var hash []byte
	if err = t.row(query, args...).Scan(&h.Seq, &when, &hash); err != nil {
		return h, err
	}
	if len(hash) != len(h.Hash) {
		return h, fmt.Errorf("%w: the hash of audit record %d has %d bytes; keelson audit verify tells more", ErrCorrupt, h.Seq, len(hash))
	}
	h.Time = at(when)
	copy(h.Hash[:], hash)
	return h, nil
}

// AuditHead gives the end of the chain.
func (db *DB) AuditHead(ctx context.Context) (h AuditHead, err error) {
	err = db.read(ctx, func(tx *tx) error { h, err = tx.auditHead(); return err })
	return h, db.wrap("read the end of the audit", err)
}

// AuditAt gives the link of the chain with a number; [ErrNotFound]: there is none.
func (db *DB) AuditAt(ctx context.Context, seq int64) (h AuditHead, err error) {
	err = db.read(ctx, func(tx *tx) error {
		h, err = tx.auditLink(`SELECT seq, at, hash FROM audit WHERE seq = ?`, seq)
		return err
	})
	return h, db.wrap(fmt.Sprintf("read audit record %d", seq), err)
}

// Audited waits until the chain is longer than to a record, and gives its end.
func (db *DB) Audited(ctx context.Context, after int64) (AuditHead, error) {
	for {
		woken := db.recorded.waits()
		h, err := db.AuditHead(ctx)
		if err != nil || h.Seq > after {
			return h, err
		}
		if err := db.wait(ctx, woken); err != nil {
			return h, db.wrap("wait for the audit", err)
		}
	}
}

// Urgent gives a channel that is closed with the next record that should be signed at once ([audit.Record.Urgent]).
func (db *DB) Urgent() <-chan struct{} { return db.urgent.waits() }

const auditColumns = `seq, at, actor, action, object, project, environment, outcome, detail, address, hash`

// Audit lists records, the newest first, and gives the number to go on Before; 0: there are no more.
func (db *DB) Audit(ctx context.Context, f AuditFilter) (records []AuditRecord, next int64, err error) {
	limit := page(f.Limit)
	err = db.read(ctx, func(tx *tx) error {
		w, err := tx.auditWhere(f)
		if err != nil || w == nil {
			return err
		}
		err = tx.auditRows(&records, `SELECT `+auditColumns+` FROM audit`+w.String()+` ORDER BY seq DESC LIMIT ?`, append(w.args, limit+1)...)
		if err != nil {
			return err
		}
		if len(records) > limit {
			records = records[:limit]
			next = records[limit-1].Seq
		}
		return tx.auditNames(records)
	})
	return records, next, db.wrap("list the audit", err)
}

// auditWhere makes a filter a condition; nil: nothing can meet it.
func (t *tx) auditWhere(f AuditFilter) (*where, error) {
	var w where
	if f.Before > 0 {
		w.and("seq < ?", f.Before)
	}
	for _, bound := range []struct {
		at        time.Time
		condition string
		never     bool // where there is no record of that time or later
	}{{f.From, "seq >= ?", true}, {f.To, "seq < ?", false}} { // times do not go back along the chain
		if bound.at.IsZero() {
			continue
		}
		var seq int64
		err := t.row(`SELECT seq FROM audit WHERE at >= ? ORDER BY at, seq LIMIT 1`, micros(bound.at)).Scan(&seq)
		switch {
		case errors.Is(err, sql.ErrNoRows) && bound.never:
			return nil, nil //nolint:nilnil // nothing meets it
		case err == nil:
			w.and(bound.condition, seq)
		case !errors.Is(err, sql.ErrNoRows):
			return nil, err
		}
	}
	if f.Actor != "" {
		id := f.Actor
		err := t.row(`SELECT id FROM audit_names WHERE kind = ? AND owner = '' AND name = ?`, auditPerson, f.Actor).Scan(&id)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return nil, err
		}
		w.and("actor = ?", id)
	}
	for _, c := range [][2]string{{"action", f.Action}, {"object", f.Object}} {
		column, value := c[0], c[1]
		begin, prefix := strings.CutSuffix(value, "*")
		switch {
		case prefix && begin != "":
			// Not by the index: what is common would be sorted whole. From the newest on a page is soon full, and what is rare takes tens of milliseconds.
			w.and("("+column+" || '') >= ? AND ("+column+" || '') < ?", begin, begin+"\U0010FFFF")
		case value != "" && !prefix:
			w.and(column+" = ?", value)
		}
	}
	if f.Project != "" {
		w.and("project = ? AND project <> ''", f.Project)
	}
	if f.Environment != "" {
		w.and("environment = ?", f.Environment)
	}
	if f.Outcome != "" {
		w.and("outcome = ?", f.Outcome)
	}
	words := strings.Fields(f.Query)
	if len(words) > maxWords {
		return nil, fmt.Errorf("the query has more than %d words: %w", maxWords, ErrTooLarge)
	}
	for _, word := range words {
		like := "%" + strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(strings.ToLower(word)) + "%"
		// One text in place of five: half the work.
		const searched = "lower(detail || '\n' || object || '\n' || action || '\n' || project || '\n' || environment)"
		w.and(`(`+searched+` LIKE ? ESCAPE '\' OR actor IN (SELECT id FROM audit_names WHERE kind = 'person' AND lower(name) LIKE ? ESCAPE '\'))`, like, like)
	}
	return &w, nil
}

// auditRows reads records. What cannot be read is an error; the records before it are there.
func (t *tx) auditRows(into *[]AuditRecord, query string, args ...any) error {
	return t.each(func(scan func(...any) error) error {
		raw := make([]any, 11)
		to := make([]any, len(raw))
		for i := range raw {
			to[i] = &raw[i]
		}
		if err := scan(to...); err != nil {
			return err
		}
		r, err := auditRecord(raw)
		if err == nil {
			*into = append(*into, r)
		}
		return err
	}, query, args...)
}

// auditRecord makes a record of what the driver gives: a damaged file may hold anything.
func auditRecord(raw []any) (r AuditRecord, err error) {
	number := func(i int) int64 {
		n, ok := raw[i].(int64)
		if !ok {
			err = fmt.Errorf("%w: column %d of the audit is no number", ErrCorrupt, i)
		}
		return n
	}
	text := func(i int) string {
		s, ok := raw[i].(string)
		if !ok {
			err = fmt.Errorf("%w: column %d of the audit is no text", ErrCorrupt, i)
		}
		return s
	}
	r.Record = audit.Record{
		Seq: number(0), Time: at(number(1)), Actor: text(2), Action: text(3), Object: text(4), Project: text(5), Environment: text(6), Outcome: text(7), Detail: text(8), Address: text(9),
	}
	hash, ok := raw[10].([]byte)
	if !ok || len(hash) != len(r.Hash) {
		err = errors.Join(err, fmt.Errorf("%w: column 10 of the audit is no hash", ErrCorrupt))
	}
	copy(r.Hash[:], hash)
	r.Who = r.Actor
	return r, err
}

// auditNames fills in whose the ids are.
func (t *tx) auditNames(records []AuditRecord) error {
	known := map[string]string{}
	name := func(id string) (string, error) {
		if name, ok := known[id]; ok || id == "" || id == audit.Self {
			return name, nil
		}
		var name string
		err := t.row(`SELECT name FROM audit_names WHERE id = ?`, id).Scan(&name)
		if errors.Is(err, sql.ErrNoRows) {
			err = nil
		}
		known[id] = name
		return name, err
	}
	for i := range records {
		who, err := name(records[i].Actor)
		if err != nil {
			return err
		}
		if who != "" {
			records[i].Who = who
		}
		if id, ok := strings.CutPrefix(records[i].Object, "person/"); ok {
			if records[i].About, err = name(id); err != nil {
				return err
			}
		}
		if records[i].Address, err = name(records[i].Record.Address); err != nil {
			return err
		}
	}
	return nil
}

// auditBatch is how many records are read at a time.
const auditBatch = 1000

// EachAudit calls f for each record with a number from first to last, in their order; last 0: to the end. Others may write meanwhile. After an
// error of the database f has had all records before what cannot be read.
func (db *DB) EachAudit(ctx context.Context, first, last int64, f func(AuditRecord) error) error {
	return db.eachAudit(ctx, first, last, true, f)
}

func (db *DB) eachAudit(ctx context.Context, first, last int64, names bool, f func(AuditRecord) error) error {
	const doing = "read the audit"
	condition := `seq >= ?`
	for {
		var records []AuditRecord
		failed := db.read(ctx, func(tx *tx) error {
			args := []any{first}
			if last > 0 {
				condition, args = `seq >= ? AND seq <= ?`, append(args, last)
			}
			err := tx.auditRows(&records, `SELECT `+auditColumns+` FROM audit WHERE `+condition+` ORDER BY seq LIMIT ?`, append(args, auditBatch)...)
			if err == nil && names {
				err = tx.auditNames(records)
			}
			return err
		})
		for _, r := range records {
			if err := f(r); err != nil {
				return err
			}
		}
		if failed != nil || len(records) < auditBatch {
			return db.wrap(doing, failed)
		}
		first = records[len(records)-1].Seq + 1
	}
}

// AuditSpan gives the numbers of the first and the last record of a time: from <= time < to; a zero time is no bound. Both 0: there are none.
func (db *DB) AuditSpan(ctx context.Context, from, to time.Time) (first, last int64, err error) {
	err = db.read(ctx, func(tx *tx) error {
		w, err := tx.auditWhere(AuditFilter{From: from, To: to})
		if err != nil || w == nil {
			return err
		}
		return tx.row(`SELECT coalesce(min(seq), 0), coalesce(max(seq), 0) FROM audit`+w.String(), w.args...).Scan(&first, &last)
	})
	return first, last, db.wrap("find a time in the audit", err)
}

// KeepCheckpoint keeps a checkpoint of the chain, or several, all or none; the error is [ErrConflict] where one says something else than the chain.
func (db *DB) KeepCheckpoint(ctx context.Context, s audit.Signed, more ...audit.Signed) error {
	return db.wrap(fmt.Sprintf("keep the checkpoint of audit record %d", s.Checkpoint.Seq), db.write(ctx, true, func(tx *tx) error {
		err := tx.keepCheckpoint(s)
		for _, s := range more {
			if err == nil {
				err = tx.keepCheckpoint(s)
			}
		}
		return err
	}))
}

func (t *tx) keepCheckpoint(s audit.Signed) error {
	h, err := t.auditLink(`SELECT seq, at, hash FROM audit WHERE seq = ?`, s.Checkpoint.Seq)
	if err != nil {
		return err
	}
	if h.Hash != s.Hash {
		return fmt.Errorf("the chain has another hash than it: %w", ErrConflict)
	}
	text, err := s.MarshalJSON()
	if err != nil {
		return err
	}
	return t.exec(`INSERT INTO audit_checkpoints (seq, at, kind, signed) VALUES (?, ?, ?, ?)`, s.Checkpoint.Seq, micros(s.Time), s.Kind, string(text))
}

// Checkpoint is one that is kept.
type Checkpoint struct {
	audit.Signed

	Witnessed bool
}

// KeepRotations keeps checkpoints by which one key follows another that the database does not have, also of records that it does not have, as after it was
// put back: keys are followed by them.
func (db *DB) KeepRotations(ctx context.Context, all []audit.Signed) error {
	const doing = "keep the keys of the audit"
	for _, s := range all {
		if err := s.Check(); err != nil || !audit.IsRotation(s.Kind) {
			return db.wrap(doing, errors.Join(err, fmt.Errorf("a checkpoint of the kind %q: %w", s.Kind, ErrInvalid)))
		}
	}
	return db.wrap(doing, db.write(ctx, true, func(tx *tx) error {
		for _, s := range all {
			text, err := s.MarshalJSON()
			if err != nil {
				return err
			}
			err = tx.exec(`INSERT INTO audit_checkpoints (seq, at, kind, signed, witnessed) VALUES (?, ?, ?, ?, 1) ON CONFLICT (seq, at) DO NOTHING`,
				s.Checkpoint.Seq, micros(s.Time), s.Kind, string(text))
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

// KeyFollows tells whether a key has followed another one. It asks where is written: what was being written, also where its answer was lost, is there by then
// or never.
func (db *DB) KeyFollows(ctx context.Context, key ed25519.PublicKey) (follows bool, err error) {
	err = db.write(ctx, false, func(tx *tx) error {
		return tx.each(func(scan func(...any) error) error {
			var text string
			if err := scan(&text); err != nil {
				return err
			}
			s, err := audit.ParseSigned([]byte(text))
			follows = follows || err == nil && s.Key.Equal(key)
			return nil //nolint:nilerr // one that was changed is for keelson audit verify to tell of
		}, `SELECT signed FROM audit_checkpoints WHERE kind = ?`, audit.Taking)
	})
	return follows, db.wrap("look whether a key of the audit has followed", err)
}

// AuditKnown gives the highest number of a record that something beside the chain names: 0 where nothing does. A chain that ends before it was cut off.
func (db *DB) AuditKnown(ctx context.Context) (seq int64, err error) {
	err = db.read(ctx, func(tx *tx) error {
		return tx.row(`SELECT max(n) FROM (SELECT coalesce(max(last), 0) AS n FROM audit_names UNION ALL SELECT coalesce(max(audit), 0) FROM commands) AS known`).Scan(&seq)
	})
	return seq, db.wrap("look for records of the audit", err)
}

// Checkpoints gives the checkpoints that are kept, in the order of their records.
func (db *DB) Checkpoints(ctx context.Context) ([]Checkpoint, error) {
	return db.checkpoints(ctx, `SELECT seq, signed, witnessed FROM audit_checkpoints ORDER BY seq, at`)
}

// Unwitnessed gives the checkpoints that the witness has not got yet, in the order of their records.
func (db *DB) Unwitnessed(ctx context.Context) ([]Checkpoint, error) {
	return db.checkpoints(ctx, `SELECT seq, signed, witnessed FROM audit_checkpoints WHERE witnessed = 0 ORDER BY seq, at`)
}

// LastCheckpoint gives the checkpoint of the newest record that has one; the error is [ErrNotFound] where there is none.
func (db *DB) LastCheckpoint(ctx context.Context) (Checkpoint, error) {
	all, err := db.checkpoints(ctx, `SELECT seq, signed, witnessed FROM audit_checkpoints ORDER BY seq DESC, at DESC LIMIT 1`)
	if err == nil && len(all) == 0 {
		err = db.wrap("read the last checkpoint of the audit", ErrNotFound)
	}
	if err != nil {
		return Checkpoint{}, err
	}
	return all[0], nil
}

// AuditSigned gives the number of the newest record that has a checkpoint; 0: none has. A checkpoint of [DB.KeepRotations] may be of one that is not there.
func (db *DB) AuditSigned(ctx context.Context) (seq int64, err error) {
	err = db.read(ctx, func(tx *tx) error {
		return tx.row(`SELECT coalesce(max(seq), 0) FROM audit_checkpoints WHERE seq <= (SELECT max(seq) FROM audit)`).Scan(&seq)
	})
	return seq, db.wrap("read the last checkpoint of the audit", err)
}

func (db *DB) checkpoints(ctx context.Context, query string) (all []Checkpoint, err error) {
	err = db.read(ctx, func(tx *tx) error {
		return tx.each(func(scan func(...any) error) error {
			var seq int64
			var text string
			var c Checkpoint
			err := scan(&seq, &text, &c.Witnessed)
			if err == nil {
				if c.Signed, err = audit.ParseSigned([]byte(text)); err != nil {
					err = &audit.Problem{Seq: seq, Why: "its checkpoint in the database was changed: " + err.Error()}
				}
			}
			all = append(all, c)
			return err
		}, query)
	})
	return all, db.wrap("read the checkpoints of the audit", err)
}

// Witnessed notes that the witness has a checkpoint.
func (db *DB) Witnessed(ctx context.Context, s audit.Signed) error {
	return db.wrap("note a checkpoint as witnessed", db.write(ctx, false, func(tx *tx) error {
		return tx.exec(`UPDATE audit_checkpoints SET witnessed = 1 WHERE seq = ? AND at = ?`, s.Checkpoint.Seq, micros(s.Time))
	}))
}

// AuditBefore gives the last link of the chain from before a time that may be cut, at most so many records after the first one;
// [ErrNotFound]: there is none. The newest record is never one.
func (db *DB) AuditBefore(ctx context.Context, when time.Time, most int64) (h AuditHead, err error) {
	err = db.read(ctx, func(tx *tx) error {
		h, err = tx.auditLink(`SELECT seq, at, hash FROM audit WHERE at < ? AND seq < (SELECT max(seq) FROM audit) AND seq < (SELECT min(seq) FROM audit) + CAST(? AS BIGINT)
			ORDER BY at DESC, seq DESC LIMIT 1`, micros(when), most)
		return err
	})
	return h, db.wrap("find the old part of the audit", err)
}

// CutAudit removes the records up to that of a checkpoint of the kind [audit.Cut], which it keeps: the rest of the chain begins with it. Names that
// no other record has go, too, and so do the checkpoints of what is removed, but those by which one key follows another: whoever knows an old key
// needs them.
func (db *DB) CutAudit(ctx context.Context, s audit.Signed) error {
	doing := fmt.Sprintf("cut the audit at record %d", s.Checkpoint.Seq)
	if s.Kind != audit.Cut {
		return db.wrap(doing, fmt.Errorf("the checkpoint is of the kind %q", s.Kind))
	}
	if err := s.Check(); err != nil {
		return db.wrap(doing, err)
	}
	return db.wrap(doing, db.write(ctx, true, func(tx *tx) error {
		var newest int64
		err := tx.row(`SELECT max(seq) FROM audit`).Scan(&newest)
		if err == nil && newest == s.Checkpoint.Seq {
			err = fmt.Errorf("it is the newest: %w", ErrConflict)
		}
		if err == nil {
			err = tx.keepCheckpoint(s)
		}
		if err == nil {
			err = tx.exec(`DELETE FROM audit WHERE seq <= ?`, s.Checkpoint.Seq)
		}
		if err == nil {
			err = tx.exec(`DELETE FROM audit_checkpoints WHERE seq < ? AND kind NOT IN (?, ?, ?)`, s.Checkpoint.Seq, audit.Retiring, audit.Taking, audit.Lost)
		}
		if err == nil {
			err = tx.exec(`DELETE FROM audit_names WHERE last <= ?`, s.Checkpoint.Seq)
		}
		return err
	}))
}

// refused records that what was asked for with a record was refused.
func (t *tx) refused(now time.Time, asked int64, why string) (int64, error) {
	var records []AuditRecord
	if err := t.auditRows(&records, `SELECT `+auditColumns+` FROM audit WHERE seq = ?`, asked); err != nil || len(records) == 0 {
		return 0, err // none: retention has removed it
	}
	r := records[0].Record
	r.Outcome, r.Detail = audit.Refused, audit.Entry{Detail: why}.Clean().Detail
	head, err := t.auditHead()
	if err != nil {
		return 0, err
	}
	ids := slices.DeleteFunc([]string{r.Actor, r.Address}, func(id string) bool { return id == "" || id == audit.Self })
	for _, id := range ids {
		if err := t.exec(`UPDATE audit_names SET last = ? WHERE id = ?`, head.Seq+1, id); err != nil {
			return 0, err
		}
	}
	return t.appendRecord(now, head, r)
}
