package store

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/audit"
)

var auditKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{3}, ed25519.SeedSize))

// auditOf gives all records as lines.
func auditOf(t testing.TB, db *DB) (out []string) {
	t.Helper()
	ok(t, db.EachAudit(t.Context(), 1, 0, func(r AuditRecord) error {
		out = append(out, fmt.Sprintf("%d %s %s %s %s %s %q from %q", r.Seq, r.Who, r.Action, r.Object, r.Project, r.Outcome, r.Detail, r.Address))
		return nil
	}))
	return out
}

// verified verifies the chain of a database with all its checkpoints.
func verified(t testing.TB, db *DB) string {
	t.Helper()
	r, p, err := db.VerifyAudit(t.Context(), []ed25519.PublicKey{auditKey.Public().(ed25519.PublicKey)}, nil)
	ok(t, err)
	if p != nil {
		return p.Error()
	}
	return fmt.Sprintf("ok %d-%d signed %d", r.First, r.Last, r.Signed)
}

func signedAt(t testing.TB, h AuditHead, kind string) audit.Signed {
	t.Helper()
	return must(audit.Sign(auditKey, audit.Checkpoint{Seq: h.Seq, Hash: h.Hash, Time: day.Add(time.Hour), Kind: kind}))(t)
}

func TestAudit(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	p := newPipeline(t, db, "acme/shop", nil)
	must(db.AppendAudit(ctx, audit.Entry{Actor: "ann", Action: "login", Object: "person", Address: "192.0.2.7"}, audit.Entry{Action: "audit.begin"}))(t)
	play := must(db.Enqueue(ctx, Command{
		Kind: "play", Project: p.Project, Pipeline: p.ID, Jobs: []string{"deploy"}, User: "bob",
		Audit: []audit.Entry{{Action: "pipeline.play", Object: "pipeline/1/deploy", Address: "192.0.2.8", Detail: "token in https://x:hunter2@example.com"}},
	}))(t)
	must(db.Enqueue(ctx, Command{Kind: "push", User: "ann"}))(t) // nothing is recorded of it
	ok(t, db.Answer(ctx, play, "the job is over"))
	ok(t, db.Answer(ctx, play, "again"))
	_, err := db.Enqueue(ctx, Command{Kind: "play", Args: make([]byte, entryMax+1), Audit: []audit.Entry{{Action: "pipeline.play"}}})
	refused(t, err, ErrTooLarge)
	diff(t, "audit", auditOf(t, db), []string{
		`1 ann login person  done "" from "192.0.2.7"`,
		`2 system:keelson audit.begin   done "" from ""`,
		`3 bob pipeline.play pipeline/1/deploy acme/shop asked "token in https://example.com" from "192.0.2.8"`,
		`4 bob pipeline.play pipeline/1/deploy acme/shop refused "the job is over" from "192.0.2.8"`,
	})
	_, err = db.LastCheckpoint(ctx)
	refused(t, err, ErrNotFound)
	head := must(db.AuditHead(ctx))(t)
	ok(t, db.KeepCheckpoint(ctx, signedAt(t, head, audit.Plain)))
	diff(t, "verified", verified(t, db), "ok 1-4 signed 4")
	head.Hash[0] ^= 1
	refused(t, db.KeepCheckpoint(ctx, signedAt(t, head, audit.Plain)), ErrConflict, "checkpoint of audit record 4", "another hash")
	refused(t, db.KeepCheckpoint(ctx, signedAt(t, AuditHead{Seq: 5}, audit.Plain)), ErrNotFound)
	diff(t, "witnessed", must(db.Checkpoints(ctx))(t)[0].Witnessed, false)
	diff(t, "not witnessed", must(db.Unwitnessed(ctx))(t), must(db.Checkpoints(ctx))(t))
	ok(t, db.Witnessed(ctx, must(db.Checkpoints(ctx))(t)[0].Signed))
	diff(t, "witnessed", must(db.Checkpoints(ctx))(t)[0].Witnessed, true)
	diff(t, "not witnessed", len(must(db.Unwitnessed(ctx))(t)), 0)
	diff(t, "the last", must(db.LastCheckpoint(ctx))(t), must(db.Checkpoints(ctx))(t)[0])
}

// TestAuditNeverHoldsUp: the command is there although its record cannot be kept.
func TestAuditNeverHoldsUp(t *testing.T) {
	var told []error
	path := filepath.Join(t.TempDir(), "store.db")
	db := must(Open(path, Options{Key: testKey, PostgreSQL: database(t, path), Now: func() time.Time { return day }, AuditFailed: func(err error) { told = append(told, err) }}))(t)
	defer db.Close()
	ctx := t.Context()
	must(db.AppendAudit(ctx, audit.Entry{Actor: "ann", Action: "login"}))(t)
	change(t, db, `UPDATE audit SET hash = ?`, []byte{0})
	entry := []audit.Entry{{Action: "pipeline.play", Address: "192.0.2.8"}}
	id := must(db.Enqueue(ctx, Command{Kind: "play", User: "bob", Audit: entry}))(t)
	if len(told) != 1 || !errors.Is(told[0], ErrCorrupt) || !strings.Contains(told[0].Error(), "append to the audit: the database is damaged: the hash of audit record 1 has 1 bytes") {
		t.Errorf("told %v", told)
	}
	change(t, db, `DROP TABLE audit_names`)
	next := must(db.Enqueue(ctx, Command{Kind: "play", User: "bob", Audit: entry}))(t)
	if c := must(db.Take(ctx))(t); c.ID != id || c.User != "bob" {
		t.Errorf("%+v", c)
	}
	if c := must(db.Take(ctx))(t); c.ID != next || len(told) != 2 {
		t.Errorf("%+v, told %v", c, told)
	}
	ok(t, db.Answer(ctx, next, "no"))
	_, err := db.AppendAudit(ctx, audit.Entry{Action: "login"})
	refused(t, err, ErrCorrupt, "keelson audit verify")
}

// TestAuditClock: times along the chain do not go back, whatever the clock does.
func TestAuditClock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	now := day
	db := must(Open(path, Options{Key: testKey, PostgreSQL: database(t, path), Now: func() time.Time { return now }}))(t)
	defer db.Close()
	for _, step := range []time.Duration{0, time.Second + 123, -time.Hour, time.Minute} {
		now = day.Add(step)
		must(db.AppendAudit(t.Context(), audit.Entry{Action: "login"}))(t)
	}
	var got []string
	ok(t, db.EachAudit(t.Context(), 1, 0, func(r AuditRecord) error { got = append(got, r.Time.Sub(day).String()); return nil }))
	diff(t, "times", got, []string{"0s", "1s", "1s", "1m0s"})
}

// manyAudit fills a database with records: every hundredth is one of ann's.
func manyAudit(t testing.TB, n int) *DB {
	path := filepath.Join(t.TempDir(), "store.db")
	t.Helper()
	now := day
	db := must(Open(path, Options{Key: testKey, PostgreSQL: database(t, path), Now: func() time.Time { now = now.Add(time.Second); return now }}))(t)
	t.Cleanup(func() { db.Close() })
	const batch = 1000
	for done := 0; done < n; done += batch {
		entries := make([]audit.Entry, min(batch, n-done))
		for i := range entries {
			k := done + i
			e := audit.Entry{
				Actor: fmt.Sprintf("user-%02d", k%40), Action: "git.push", Object: fmt.Sprintf("repository/team/r%d", k%50), Project: fmt.Sprintf("acme/p%d", k%10),
				Detail: fmt.Sprintf("refs/heads/main %040x..%040x", k, k+1), Address: fmt.Sprintf("192.0.2.%d", k%200),
			}
			if k%100 == 50 {
				e.Actor, e.Action, e.Object, e.Environment, e.Outcome = "ann", "environment.rollback", "environment/"+fmt.Sprint(k), "Production", audit.Asked
			}
			entries[i] = e
		}
		must(db.AppendAudit(t.Context(), entries...))(t)
	}
	return db
}

// TestAuditFilters compares pages with what a loop finds.
func TestAuditFilters(t *testing.T) {
	db := manyAudit(t, 2000)
	ctx := t.Context()
	var all []AuditRecord
	ok(t, db.EachAudit(ctx, 1, 0, func(r AuditRecord) error { all = append([]AuditRecord{r}, all...); return nil }))
	ann := ""
	for _, r := range all {
		if r.Who == "ann" {
			ann = r.Actor
		}
	}
	at := func(seconds int) time.Time { return day.Add(time.Duration(seconds) * time.Second) }
	times := func(from, to time.Time) func(AuditRecord) bool {
		return func(r AuditRecord) bool {
			return (from.IsZero() || !r.Time.Before(from)) && (to.IsZero() || r.Time.Before(to))
		}
	}
	mid, late := all[1000].Time, all[100].Time
	for _, c := range []struct {
		name   string
		filter AuditFilter
		meets  func(AuditRecord) bool
		count  int // -1: whatever it is
	}{
		{"all", AuditFilter{}, func(AuditRecord) bool { return true }, 2000},
		{"an actor", AuditFilter{Actor: "ann"}, func(r AuditRecord) bool { return r.Who == "ann" }, 20},
		{"an actor by id", AuditFilter{Actor: ann}, func(r AuditRecord) bool { return r.Who == "ann" }, 20},
		{"nobody", AuditFilter{Actor: "eve"}, func(AuditRecord) bool { return false }, 0},
		{"an action", AuditFilter{Action: "environment.rollback"}, func(r AuditRecord) bool { return r.Who == "ann" }, 20},
		{"actions", AuditFilter{Action: "env*"}, func(r AuditRecord) bool { return r.Who == "ann" }, 20},
		{"any action", AuditFilter{Action: "*"}, func(AuditRecord) bool { return true }, 2000},
		{"an object", AuditFilter{Object: "repository/team/r7"}, func(r AuditRecord) bool { return r.Object == "repository/team/r7" }, 40},
		{"objects", AuditFilter{Object: "repository/team/r1*"}, func(r AuditRecord) bool { return strings.HasPrefix(r.Object, "repository/team/r1") }, -1},
		{"no pattern of LIKE", AuditFilter{Query: "%"}, func(AuditRecord) bool { return false }, 0},
		{"a project", AuditFilter{Project: "acme/p3"}, func(r AuditRecord) bool { return r.Project == "acme/p3" }, 200},
		{"an environment", AuditFilter{Environment: "Production"}, func(r AuditRecord) bool { return r.Who == "ann" }, 20},
		{"an outcome", AuditFilter{Outcome: audit.Asked}, func(r AuditRecord) bool { return r.Who == "ann" }, 20},
		{"a word, of an environment", AuditFilter{Query: "pRODuc"}, func(r AuditRecord) bool { return r.Who == "ann" }, 20},
		{"a word, of a name", AuditFilter{Query: "user-07"}, func(r AuditRecord) bool { return r.Who == "user-07" }, 50},
		{"a word, of a detail", AuditFilter{Query: "heads/main"}, func(AuditRecord) bool { return true }, 2000},
		{"from", AuditFilter{From: mid}, times(mid, time.Time{}), 1001},
		{"to", AuditFilter{To: mid}, times(time.Time{}, mid), 999},
		{"from, to", AuditFilter{From: mid, To: late}, times(mid, late), 900},
		{"later", AuditFilter{From: at(100_000)}, func(AuditRecord) bool { return false }, 0},
		{"earlier", AuditFilter{To: at(0)}, func(AuditRecord) bool { return false }, 0},
		{"SQL", AuditFilter{Actor: "'; DROP TABLE audit; --", Query: `\' OR 1=1`}, func(AuditRecord) bool { return false }, 0},
		{"several", AuditFilter{Actor: "ann", Project: "acme/p0", From: mid}, func(r AuditRecord) bool { return r.Who == "ann" && r.Project == "acme/p0" && !r.Time.Before(mid) }, -1},
	} {
		var want, got []int64
		for _, r := range all {
			if c.meets(r) {
				want = append(want, r.Seq)
			}
		}
		f := c.filter
		for f.Limit = 37; ; {
			list, next, err := db.Audit(ctx, f)
			ok(t, err)
			for _, r := range list {
				got = append(got, r.Seq)
			}
			if f.Before = next; next == 0 {
				break
			}
		}
		diff(t, c.name, got, want)
		if c.count >= 0 && len(got) != c.count {
			t.Errorf("%s: %d records, want %d", c.name, len(got), c.count)
		}
	}
}

// TestCutAudit removes the old part; what is left is proven by the checkpoint that closes what was cut.
func TestCutAudit(t *testing.T) {
	db := manyAudit(t, 300)
	ctx := t.Context()
	var middle time.Time
	ok(t, db.EachAudit(ctx, 201, 201, func(r AuditRecord) error { middle = r.Time; return nil }))
	h := must(db.AuditBefore(ctx, middle, 1000))(t)
	if h.Seq != 200 {
		t.Fatalf("cut at %d", h.Seq)
	}
	if some := must(db.AuditBefore(ctx, middle, 50))(t); some.Seq != 50 {
		t.Errorf("cut at %d", some.Seq)
	}
	if newest := must(db.AuditBefore(ctx, middle.Add(time.Hour), 1000))(t); newest.Seq != 299 {
		t.Errorf("cut at %d", newest.Seq)
	}
	_, err := db.AuditBefore(ctx, day, 1000)
	refused(t, err, ErrNotFound)
	fifty := must(db.AuditAt(ctx, 50))(t)
	before := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{4}, ed25519.SeedSize))
	retiring, taking, err := audit.Rotate(before, auditKey, audit.Checkpoint{Seq: 50, Hash: fifty.Hash, Time: day})
	ok(t, err)
	ok(t, db.KeepCheckpoint(ctx, retiring, taking))
	refused(t, db.KeepCheckpoint(ctx, signedAt(t, AuditHead{Seq: 51, Hash: must(db.AuditAt(ctx, 51))(t).Hash}, audit.Plain), retiring), ErrExists)
	ok(t, db.KeepCheckpoint(ctx, signedAt(t, must(db.AuditAt(ctx, 100))(t), audit.Plain)))
	refused(t, db.CutAudit(ctx, signedAt(t, h, audit.Plain)), nil, "of the kind")
	forged := signedAt(t, h, audit.Plain)
	forged.Kind = audit.Cut
	refused(t, db.CutAudit(ctx, forged), nil, "its signature is wrong")
	refused(t, db.CutAudit(ctx, signedAt(t, must(db.AuditHead(ctx))(t), audit.Cut)), ErrConflict, "it is the newest")
	ok(t, db.CutAudit(ctx, signedAt(t, h, audit.Cut)))
	diff(t, "verified", verified(t, db), "ok 201-300 signed 0")
	var names, checkpoints int
	ok(t, db.reader.QueryRow(`SELECT (SELECT count(*) FROM audit_names WHERE kind = 'person'), (SELECT count(*) FROM audit_checkpoints)`).Scan(&names, &checkpoints))
	if names != 41 || checkpoints != 3 { // what follows which key stays
		t.Errorf("%d names, %d checkpoints", names, checkpoints)
	}
	must(db.AppendAudit(ctx, audit.Entry{Action: "login"}))(t)
	ok(t, db.KeepCheckpoint(ctx, signedAt(t, must(db.AuditHead(ctx))(t), audit.Plain)))
	diff(t, "verified", verified(t, db), "ok 201-301 signed 301")
	change(t, db, `DELETE FROM audit WHERE seq = 201`)
	diff(t, "verified", verified(t, db), "record 1: it is missing; the first one that is there is 202, and no signed checkpoint says that what is before it was removed in good order")
}

// TestCutExport: a chain that was cut is exported and verified, by the key in use and by one that it has followed, and one that was cut by anybody else is not.
func TestCutExport(t *testing.T) {
	db := manyAudit(t, 30)
	ctx := t.Context()
	before := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{4}, ed25519.SeedSize))
	retiring, taking, err := audit.Rotate(before, auditKey, audit.Checkpoint{Seq: 5, Hash: must(db.AuditAt(ctx, 5))(t).Hash, Time: day})
	ok(t, err)
	ok(t, db.KeepCheckpoint(ctx, retiring, taking))
	ok(t, db.CutAudit(ctx, signedAt(t, must(db.AuditAt(ctx, 20))(t), audit.Cut)))
	ok(t, db.KeepCheckpoint(ctx, signedAt(t, must(db.AuditAt(ctx, 25))(t), audit.Plain)))
	var file bytes.Buffer
	ok(t, db.ExportAudit(ctx, &file, AuditExport{}))
	look := func(text []byte, key ed25519.PrivateKey) string {
		report, p, err := audit.VerifyExport(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }, []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}, nil)
		ok(t, err)
		if p != nil {
			return p.Error()
		}
		return fmt.Sprintf("ok %d-%d signed %d, %d unsigned; %s", report.First, report.Last, report.Signed, report.Unsigned, report.Notes[len(report.Notes)-1])
	}
	want := "ok 21-30 signed 25, 5 unsigned; the records up to 20 were removed in good order"
	diff(t, "by the key in use", look(file.Bytes(), auditKey), want)
	diff(t, "by the key before", look(file.Bytes(), before), want)
	first := bytes.Index(file.Bytes(), []byte(`"seq":21,`))
	at := bytes.LastIndexByte(file.Bytes()[:first], '\n') + 1
	end := at + bytes.IndexByte(file.Bytes()[at:], '\n') + 1
	gone := append(bytes.Clone(file.Bytes()[:at]), file.Bytes()[end:]...)
	diff(t, "one more is gone", look(gone, auditKey), "the first record cannot be read: line 9: the first record is 22, and the header says 21")
	diff(t, "in the database", verified(t, db), "ok 21-30 signed 25")
	change(t, db, `DELETE FROM audit_checkpoints WHERE kind = 'cut'`)
	diff(t, "without what closes it", verified(t, db), "record 1: it is missing; the first one that is there is 21, and no signed checkpoint says that what is before it was removed in good order")
}

// TestCutOff: an end that is cut off down to the last checkpoint is found by what else knows of it in the database, and by a witness that has seen more.
func TestCutOff(t *testing.T) {
	db := manyAudit(t, 10)
	ctx := t.Context()
	last := signedAt(t, must(db.AuditHead(ctx))(t), audit.Plain)
	ok(t, db.KeepCheckpoint(ctx, signedAt(t, must(db.AuditAt(ctx, 6))(t), audit.Plain)))
	diff(t, "whole", verified(t, db), "ok 1-10 signed 6")
	change(t, db, `DELETE FROM audit WHERE seq > 6`)
	diff(t, "cut off", verified(t, db), "record 7: it is missing, and so are all up to 10: the chain ends at 6, and the database knows of record 10")
	change(t, db, `UPDATE audit_names SET last = 6 WHERE last > 6`)
	diff(t, "with care", verified(t, db), "ok 1-6 signed 6") // nobody has seen more
	_, p, err := db.VerifyAudit(ctx, nil, []audit.Found{{Signed: last, Where: "the witness"}})
	ok(t, err)
	if p == nil || !strings.HasPrefix(p.Error(), "record 7: it is missing, and so are all up to 10: the chain ends at 6, and the checkpoint in the witness, of ") {
		t.Errorf("%v", p)
	}
}

// TestUrgent: who signs is woken by what should be signed at once, and by nothing else.
func TestUrgent(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	woken := db.Urgent()
	must(db.AppendAudit(ctx, audit.Entry{Action: "login"}))(t)
	select {
	case <-woken:
		t.Error("by a login")
	default:
	}
	must(db.AppendAudit(ctx, audit.Entry{Action: "login", Outcome: audit.Refused}))(t)
	select {
	case <-woken:
	default:
		t.Error("not by one that was refused")
	}
	woken = db.Urgent()
	must(db.Enqueue(ctx, Command{Kind: "play", Audit: []audit.Entry{{Actor: "ann", Action: "pipeline.play"}}}))(t)
	select {
	case <-woken:
	default:
		t.Error("not by a gate that was passed")
	}
}

// TestEraseAudit looks for a name in the bytes of all files.
func TestEraseAudit(t *testing.T) {
	dir := t.TempDir()
	db := openAt(t, filepath.Join(dir, "store.db"))
	ctx := t.Context()
	aboutSQLite(t)
	const name, address = "ann.of.cleves@example.com", "203.0.113.77"
	for i := range 300 {
		must(db.AppendAudit(ctx, audit.Entry{Actor: name, Action: "login", Address: address}, audit.Entry{Actor: fmt.Sprint("user", i), Action: "login", Address: address}))(t)
	}
	has := func() (out []string) {
		ok(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && bytes.Contains(must(os.ReadFile(path))(t), []byte(name)) {
				out = append(out, filepath.Base(path))
			}
			return err
		}))
		return out
	}
	if len(has()) == 0 {
		t.Fatal("the name is nowhere")
	}
	before := verified(t, db)
	_, err := db.ErasePerson(ctx, "nobody")
	refused(t, err, ErrNotFound, "erase nobody")
	id := must(db.ErasePerson(ctx, name))(t).ID
	if left := has(); len(left) > 0 {
		t.Errorf("the name is still in %v", left)
	}
	records, _, err := db.Audit(ctx, AuditFilter{Actor: id, Limit: 1000})
	ok(t, err)
	if len(records) != 300 || records[0].Who != id || records[0].Address != "" || !strings.HasPrefix(records[0].Record.Address, "a_") {
		t.Errorf("%d records, %+v", len(records), records[0])
	}
	diff(t, "verified", verified(t, db), before)
	must(db.AppendAudit(ctx, audit.Entry{Actor: name, Action: "login"}))(t)
	if again, _, _ := db.Audit(ctx, AuditFilter{Actor: name}); len(again) != 1 || again[0].Actor == id {
		t.Errorf("who comes back has the old id: %+v", again)
	}
}

// change changes a database past the store's methods.
func change(t testing.TB, db *DB, query string, args ...any) {
	t.Helper()
	ok(t, db.write(t.Context(), true, func(tx *tx) error { return tx.exec(query, args...) }))
}

// TestAuditTampered: the first record that was changed in the file is named.
func TestAuditTampered(t *testing.T) {
	for _, c := range []struct {
		change, want string
		args         []any
	}{
		{`UPDATE audit SET detail = 'nothing' WHERE seq = 7`, "record 7: it, or what is before it, was changed", nil},
		{`UPDATE audit SET at = at + 1 WHERE seq = 7`, "record 7: it, or", nil},
		{`UPDATE audit SET hash = ? WHERE seq = 7`, "record 7: it, or", []any{make([]byte, 32)}},
		{`UPDATE audit SET hash = ? WHERE seq = 7`, "record 7: it cannot be read: store: read the audit: the database is damaged: column 10 of the audit is no hash", []any{[]byte{0}}},
		{`UPDATE audit SET detail = ? WHERE seq = 7`, "record 7: it was changed", []any{"\xff"}},
		{`DELETE FROM audit WHERE seq = 7`, "record 7: it is missing", nil},
		{`DELETE FROM audit WHERE seq > 7`, "record 8: it is missing", nil},
		{`DELETE FROM audit`, "record 1: it is missing", nil},
		{`UPDATE audit_checkpoints SET signed = replace(signed, '"seq":9', '"seq":8')`, "record 8: the checkpoint of this record in the database was changed", nil},
		{`UPDATE audit_checkpoints SET signed = '{}'`, "record 9: its checkpoint in the database was changed", nil},
	} {
		if text := fmt.Sprint(c.args...); os.Getenv(serverVariable) != "" && !utf8.ValidString(text) {
			continue // PostgreSQL keeps no such thing
		}
		db := manyAudit(t, 10)
		ok(t, db.KeepCheckpoint(t.Context(), signedAt(t, must(db.AuditAt(t.Context(), 9))(t), audit.Plain)))
		change(t, db, c.change, c.args...)
		if got := verified(t, db); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: have %s\nwant %s", c.change, got, c.want)
		}
	}
}

func TestAuditedWakes(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	got := make(chan int64)
	go func() {
		h, _ := db.Audited(ctx, 1)
		got <- h.Seq
	}()
	must(db.AppendAudit(ctx, audit.Entry{Action: "a"}))(t)
	must(db.Enqueue(ctx, Command{Kind: "play", User: "ann", Audit: []audit.Entry{{Action: "b"}}}))(t)
	if seq := <-got; seq != 2 {
		t.Errorf("%d", seq)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err := db.Audited(ended, 2)
	refused(t, err, context.Canceled)
}

// TestFile reads a database while another one writes it, and after it was closed; a backup is a whole one.
func TestFile(t *testing.T) {
	aboutSQLite(t)
	dir := t.TempDir()
	path, copied := filepath.Join(dir, "store.db"), filepath.Join(dir, "copy.db")
	_, err := OpenFile(path)
	refused(t, err, fs.ErrNotExist, path)
	db := openAt(t, path)
	ctx := t.Context()
	p := newPipeline(t, db, "a/b", nil)
	must(db.AppendAudit(ctx, audit.Entry{Actor: "ann", Action: "login"}))(t)
	read := func(path string) string {
		f := must(OpenFile(path))(t)
		defer f.Close()
		ok(t, f.Check(ctx))
		records, _, err := f.Audit(ctx, AuditFilter{})
		ok(t, err)
		return fmt.Sprintln(must(f.Version(ctx))(t), must(f.HasAudit(ctx))(t), len(records), records[0].Who)
	}
	all := must(readMigrations(migrations))(t)
	newest := all[len(all)-1].version
	diff(t, "running", read(path), fmt.Sprintf("%d true 1 ann\n", newest))
	f := must(OpenFile(path))(t)
	var appended sync.WaitGroup
	appended.Go(func() {
		for range 50 {
			must(db.AppendAudit(ctx, audit.Entry{Actor: "ann", Action: "login"}))(t)
		}
	})
	ok(t, f.Backup(ctx, copied))
	appended.Wait()
	refused(t, f.Backup(ctx, copied), fs.ErrExist)
	ok(t, f.Close())
	if info := must(os.Stat(copied))(t); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	ok(t, db.Close())
	diff(t, "stopped", read(path), fmt.Sprintf("%d true 51 ann\n", newest))
	ok(t, os.Chmod(path, 0o400))
	diff(t, "cannot be written", read(path), fmt.Sprintf("%d true 51 ann\n", newest))
	again := openAt(t, copied)
	diff(t, "pipeline of the copy", must(again.Pipeline(ctx, p.ID))(t).SHA, p.SHA)
	if got := verified(t, again); !strings.HasPrefix(got, "ok 1-") {
		t.Error(got)
	}
	other := filepath.Join(dir, "other.db")
	must(must(sql.Open("sqlite", other))(t).Exec(`CREATE TABLE a (b)`))(t)
	o := must(OpenFile(other))(t)
	defer o.Close()
	diff(t, "version of another program's", must(o.Version(ctx))(t), 0)
}

// TestExportAudit verifies exports, also of a part and of what retention has left.
func TestExportAudit(t *testing.T) {
	db := manyAudit(t, 2500)
	ctx := t.Context()
	accept := []ed25519.PublicKey{auditKey.Public().(ed25519.PublicKey)}
	for _, seq := range []int64{1000, 2000} {
		ok(t, db.KeepCheckpoint(ctx, signedAt(t, must(db.AuditAt(ctx, seq))(t), audit.Plain)))
	}
	when := func(seq int64) (at time.Time) {
		ok(t, db.EachAudit(ctx, seq, seq, func(r AuditRecord) error { at = r.Time; return nil }))
		return at
	}
	from, to := when(500), when(1500)
	verify := func(o AuditExport) string {
		var b bytes.Buffer
		ok(t, db.ExportAudit(ctx, &b, o))
		r, p, err := audit.VerifyExport(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }, accept, nil)
		ok(t, err)
		if p != nil {
			return p.Error()
		}
		return fmt.Sprintf("%d-%d signed %d names %d", r.First, r.Last, r.Signed, strings.Count(b.String(), `{"name":`))
	}
	diff(t, "all", verify(AuditExport{}), "1-2500 signed 2000 names 241")
	diff(t, "no names", verify(AuditExport{NoNames: true}), "1-2500 signed 2000 names 0")
	diff(t, "a part", verify(AuditExport{From: from, To: to, NoNames: true}), "500-1499 signed 1000 names 0")
	diff(t, "its begin", verify(AuditExport{To: to, NoNames: true}), "1-1499 signed 1000 names 0")
	diff(t, "its end", verify(AuditExport{From: to, NoNames: true}), "1500-2500 signed 2000 names 0")
	diff(t, "nothing", verify(AuditExport{From: day.Add(100 * time.Hour)}), "0-0 signed 0 names 0")
	ok(t, db.CutAudit(ctx, signedAt(t, must(db.AuditAt(ctx, 1999))(t), audit.Cut)))
	diff(t, "what is left", verify(AuditExport{NoNames: true}), "2000-2500 signed 2000 names 0")
	refused(t, db.ExportAudit(ctx, failing{}, AuditExport{}), errFailing, "export the audit")
	empty := newDB(t)
	var b bytes.Buffer
	ok(t, empty.ExportAudit(ctx, &b, AuditExport{}))
	if lines := strings.Count(b.String(), "\n"); lines != 2 {
		t.Errorf("%s", b.String())
	}
}

var errFailing = errors.New("the disk is full")

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errFailing }

// BenchmarkAudit lists of 100,000 records.
func BenchmarkAudit(b *testing.B) {
	db := manyAudit(b, 100_000)
	for _, c := range []struct {
		name string
		f    AuditFilter
	}{
		{"newest", AuditFilter{}}, {"actor", AuditFilter{Actor: "ann"}}, {"action prefix", AuditFilter{Action: "environment.*"}}, {"common action prefix", AuditFilter{Action: "git.*"}},
		{"object", AuditFilter{Object: "repository/team/r7"}}, {"word, common", AuditFilter{Query: "heads"}}, {"word, nowhere", AuditFilter{Query: "nowhere"}},
		{"time", AuditFilter{From: day.Add(10 * time.Hour), To: day.Add(11 * time.Hour)}}, {"deep page", AuditFilter{Before: 1000}}, {"project and actor", AuditFilter{Project: "acme/p0", Actor: "ann"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				if _, _, err := db.Audit(b.Context(), c.f); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestAuditFlipped flips bits all over the file: either verify finds something, or the records are as they were. What is in the text of a record is
// found in that record.
func TestAuditFlipped(t *testing.T) {
	aboutSQLite(t)
	path := filepath.Join(t.TempDir(), "store.db")
	db := openAt(t, path)
	ctx := t.Context()
	for i := range 50 {
		must(db.AppendAudit(ctx, audit.Entry{Actor: "ann", Action: "git.push", Object: fmt.Sprintf("repository/r%d", i), Detail: fmt.Sprintf("refs/heads/number-%03d", i+1)}))(t)
	}
	ok(t, db.KeepCheckpoint(ctx, signedAt(t, must(db.AuditHead(ctx))(t), audit.Plain)))
	ok(t, db.Close())
	whole := must(os.ReadFile(path))(t)
	accept := []ed25519.PublicKey{auditKey.Public().(ed25519.PublicKey)}
	read := func() (records []AuditRecord, verdict string) {
		f := must(OpenFile(path))(t)
		defer f.Close()
		_, p, err := f.VerifyAudit(ctx, accept, nil)
		switch {
		case err != nil:
			return nil, err.Error()
		case p != nil:
			return nil, p.Error()
		}
		if err := f.db.eachAudit(ctx, 1, 0, false, func(r AuditRecord) error { records = append(records, r); return nil }); err != nil {
			return nil, err.Error()
		}
		return records, ""
	}
	sound, verdict := read()
	if verdict != "" || len(sound) != 50 {
		t.Fatalf("%d records, %s", len(sound), verdict)
	}
	flip := func(at int, bit byte) (records []AuditRecord, verdict string) {
		flipped := bytes.Clone(whole)
		flipped[at] ^= 1 << bit
		ok(t, os.WriteFile(path, flipped, 0o600))
		return read()
	}
	for _, seq := range []int{1, 7, 50} {
		at := bytes.Index(whole, fmt.Appendf(nil, "number-%03d", seq))
		if _, verdict := flip(at, 0); !strings.HasPrefix(verdict, fmt.Sprintf("record %d: it, or what is before it, was changed", seq)) {
			t.Errorf("record %d: %s", seq, verdict)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	found := 0
	for range 600 {
		at, bit := r.IntN(len(whole)), byte(r.IntN(8))
		records, verdict := flip(at, bit)
		if verdict != "" {
			found++
		} else if d := cmp.Diff(sound, records); d != "" {
			t.Errorf("bit %d of byte %d: verify finds nothing, and the records are others:\n%s", bit, at, d)
		}
	}
	if found < 5 {
		t.Errorf("of 600 bits only %d were found", found)
	}
}
