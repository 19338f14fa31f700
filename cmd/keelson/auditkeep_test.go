package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/audit/witness"
	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/test/testpostgres"
)

// expect runs a command on a data directory and holds what it says and its code against what they should be.
func expect(t *testing.T, data string, code int, want string, args ...string) string {
	t.Helper()
	out, got := auditCLI(data, args...)
	if got != code || !strings.Contains(out, want) {
		t.Errorf("%s: it ended with %d, and not %d: %s\nwant %s", args, got, code, out, want)
	}
	return out
}

// auditKeyOfData is the public key of a data directory, as the command prints it.
func auditKeyOfData(t *testing.T, data string) string {
	t.Helper()
	return strings.TrimSpace(expect(t, data, 0, "", "audit", "key"))
}

// TestAuditRotate has keys follow each other, while an instance runs and while it does not; who knows any of them follows it to the others, in the
// database and in an export.
func TestAuditRotate(t *testing.T) {
	data, other := t.TempDir(), t.TempDir()
	expect(t, data, 1, "names the data directory of an instance", "audit", "rotate-key")
	a := openAudited(t, data)
	a.Record(audit.Entry{Actor: "ann", Action: "login"})
	a.close(t)
	first := auditKeyOfData(t, data)
	rotated := time.Now().UTC()
	out := expect(t, data, 0, " follows ", "audit", "rotate-key")
	second := auditKeyOfData(t, data)
	if second == first || !strings.Contains(out, second) {
		t.Errorf("%s: %s", second, out)
	}
	found, err := witness.ReadFrom(t.Context(), witnessDir(data))
	if err != nil || len(found) != 3 || found[1].Kind != audit.Retiring || found[2].Kind != audit.Taking {
		t.Errorf("the witness has %+v, %v", found, err)
	}
	a = openAudited(t, data)
	a.Record(audit.Entry{Actor: "bob", Action: "login"})
	told, err := a.rotate(t.Context(), false, "ann", "192.0.2.7")
	if err != nil || told.Before != second {
		t.Errorf("%+v %v", told, err)
	}
	a.Record(audit.Entry{Actor: "carol", Action: "login"})
	a.close(t)
	third := auditKeyOfData(t, data)
	if third != told.Key || a.log.Len() != 0 {
		t.Errorf("%s, and not %s; %s", third, told.Key, a.log)
	}
	if left, _ := filepath.Glob(filepath.Join(data, ciDir, "audit.key?*")); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
	export := filepath.Join(other, "audit.jsonl")
	text := expect(t, data, 0, "", "audit", "export")
	if err := os.WriteFile(export, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"", first, second, third} {
		var with []string
		if key != "" {
			with = []string{"--key", key}
		}
		for _, in := range [][]string{{"audit", "verify"}, {"audit", "verify", "--file", export}} {
			out := expect(t, data, 0, "Records 1 to 6 are as they were written", append(in, with...)...)
			if strings.Count(out, "with the signatures of both") != 2 {
				t.Errorf("%s", out)
			}
		}
	}
	text = expect(t, data, 0, "", "audit", "export", "--to", rotated.Format(time.RFC3339Nano)) // from before the second key: who knows a later one is led to the first
	if err := os.WriteFile(export, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{first, second, third} {
		expect(t, data, 0, "Records 1 to 2 are as they were written", "audit", "verify", "--file", export, "--key", key)
	}
	expect(t, data, 0, "audit.rotate-key", "audit", "list", "--actor", "ann", "--action", "audit.*")
	expect(t, data, 1, "no key is lost", "audit", "rotate-key", "--lost")

	// Somebody's own key is none of these, also where it says so.
	theirs, err := witness.OpenKey(filepath.Join(other, "key"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := openDatabaseOf(data)
	if err != nil {
		t.Fatal(err)
	}
	c, err := checkpointNow(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	c.Kind, c.Other = audit.Taking, third
	forged, err := audit.Sign(theirs, c)
	if err := errors.Join(err, db.KeepCheckpoint(t.Context(), forged), db.Close()); err != nil {
		t.Fatal(err)
	}
	expect(t, data, 1, "is signed with another key: "+audit.KeyID(publicOf(theirs)), "audit", "verify")
}

// TestRestoreBeforeRotation puts a backup back that was made before the key changed: the database alone tells of the key, and so does an export.
func TestRestoreBeforeRotation(t *testing.T) {
	data, other := t.TempDir(), t.TempDir()
	a := openAudited(t, data)
	a.Record(audit.Entry{Actor: "ann", Action: "login"})
	a.close(t)
	first := auditKeyOfData(t, data)
	backup, export := filepath.Join(other, "backup.tar"), filepath.Join(other, "audit.jsonl")
	expect(t, data, 0, "has the database", "store", "backup", backup)
	a = openAudited(t, data)
	for range 20 {
		a.Record(audit.Entry{Actor: "bob", Action: "login"})
	}
	a.close(t)
	expect(t, data, 0, " follows ", "audit", "rotate-key")
	a = openAudited(t, data)
	a.Record(audit.Entry{Actor: "bob", Action: "login"})
	a.close(t)
	expect(t, data, 0, "The database is as it was", "store", "restore", backup)
	a = openAudited(t, data)
	a.Record(audit.Entry{Actor: "carol", Action: "login"})
	a.close(t)
	expect(t, data, 0, `"unsigned": 0`, "audit", "verify", "-o", "json") // the key has signed record 23, and there are 4
	if a.log.Len() != 0 {
		t.Errorf("%s", a.log)
	}
	if err := os.WriteFile(export, []byte(expect(t, data, 0, "", "audit", "export")), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, data, 0, "the records 3 to 24 of before are lost", "audit", "verify")
	expect(t, data, 0, "Records 1 to 4 are as they were written", "audit", "verify", "--file", export, "--key", first)
	expect(t, data, 0, "Records 1 to 4 are as they were written", "audit", "verify", "--file", export, "--key", auditKeyOfData(t, data))
}

// TestAuditRotateKilled: a process ends between the signatures of a rotation and the change of the file, or before them.
func TestAuditRotateKilled(t *testing.T) {
	data := t.TempDir()
	dir := filepath.Join(data, ciDir)
	a := openAudited(t, data)
	a.Record(audit.Entry{Actor: "ann", Action: "login"})
	a.close(t)
	if _, err := witness.OpenKey(filepath.Join(dir, nextAuditKey)); err != nil { // before: it waits, and changes nothing
		t.Fatal(err)
	}
	first := auditKeyOfData(t, data)
	openAudited(t, data).close(t)
	if auditKeyOfData(t, data) != first {
		t.Error("a key that nobody has signed was taken")
	}
	old, err := os.ReadFile(filepath.Join(dir, auditKey))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, data, 0, " follows ", "audit", "rotate-key")
	second := auditKeyOfData(t, data)
	if err := errors.Join(os.Rename(filepath.Join(dir, auditKey), filepath.Join(dir, nextAuditKey)), os.WriteFile(filepath.Join(dir, auditKey), old, 0o600)); err != nil {
		t.Fatal(err)
	}
	a = openAudited(t, data)
	a.Record(audit.Entry{Actor: "bob", Action: "login"})
	a.close(t)
	if auditKeyOfData(t, data) != second || a.log.Len() != 0 {
		t.Errorf("the rotation was not finished: %s", a.log)
	}
	expect(t, data, 0, "Records 1 to 4 are as they were written", "audit", "verify", "--key", first)

	a = openAudited(t, data) // its database says that it has failed, and has kept the signatures: their answer was lost
	if old, err = os.ReadFile(filepath.Join(dir, auditKey)); err != nil {
		t.Fatal(err)
	}
	before := a.key
	told, err := a.rotate(t.Context(), false, "ann", "")
	if err := errors.Join(err, os.Rename(filepath.Join(dir, auditKey), filepath.Join(dir, nextAuditKey)), os.WriteFile(filepath.Join(dir, auditKey), old, 0o600)); err != nil {
		t.Fatal(err)
	}
	a.key, a.next = before, a.key
	a.Record(audit.Entry{Actor: "carol", Action: "login"})
	a.close(t)
	if auditKeyOfData(t, data) != told.Key {
		t.Error("the key that has followed is not in its place")
	}
	expect(t, data, 0, `"unsigned": 0`, "audit", "verify", "--key", first, "-o", "json")
}

// TestAuditLostKey: an instance without its key makes a new one. Verify takes it for somebody else's until it has said that the old one was lost, and
// from then on for those who know the new one.
func TestAuditLostKey(t *testing.T) {
	data := t.TempDir()
	a := openAudited(t, data)
	a.Record(audit.Entry{Actor: "ann", Action: "login"})
	a.close(t)
	first := auditKeyOfData(t, data)
	if err := os.Remove(filepath.Join(data, ciDir, auditKey)); err != nil {
		t.Fatal(err)
	}
	expect(t, data, 1, "where it is lost, --lost makes a new one", "audit", "rotate-key")
	a = openAudited(t, data)
	a.Record(audit.Entry{Actor: "bob", Action: "login"})
	a.close(t)
	second := auditKeyOfData(t, data)
	expect(t, data, 1, "is signed with another key", "audit", "verify")
	expect(t, data, 0, "are as they were written", "audit", "verify", "--key", first, "--key", second)
	expect(t, data, 0, " says that ", "audit", "rotate-key", "--lost")
	out := expect(t, data, 0, "Records 1 to 5 are as they were written", "audit", "verify")
	if !strings.Contains(out, "is said by nobody but") {
		t.Errorf("%s", out)
	}
	expect(t, data, 0, "audit.lost-key", "audit", "list")
	expect(t, data, 1, "if you know that this is so, name it with --key "+second, "audit", "verify", "--key", first)
}

// TestAuditKept: what is older than is asked for is removed at the start, the chain tells so, and what is left verifies: here, exported, and with the
// witness of before.
func TestAuditKept(t *testing.T) {
	data := t.TempDir()
	key, err := store.OpenKey(filepath.Join(data, ciDir, "store.key"))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Add(-100 * 24 * time.Hour)
	old, err := store.Open(databaseFile(data), store.Options{Key: key, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		now = now.Add(24 * time.Hour)
		if _, err := old.AppendAudit(t.Context(), audit.Entry{Actor: fmt.Sprint("user", i), Action: "login"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	openAudited(t, data).close(t) // two years, as usual
	expect(t, data, 0, "Records 1 to 51 are as they were written", "audit", "verify")
	openKept(t, data, retention{Audit: forever}).close(t)
	expect(t, data, 0, "Records 1 to 51 are as they were written", "audit", "verify")
	a := openKept(t, data, retention{Audit: "90d"})
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if cut, _, err := a.db.Audit(t.Context(), store.AuditFilter{Action: "audit.cut"}); err != nil || len(cut) > 0 {
			break
		}
	}
	a.close(t)
	out := expect(t, data, 0, "were removed in good order", "audit", "verify")
	if !strings.Contains(out, "are as they were written") || strings.Contains(out, "Records 1 to") {
		t.Errorf("%s", out)
	}
	expect(t, data, 0, "were removed: they stay for 90 days", "audit", "list", "--action", "audit.cut")
	export := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := os.WriteFile(export, []byte(expect(t, data, 0, "", "audit", "export")), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, data, 0, "were removed in good order", "audit", "verify", "--file", export)
	expect(t, data, 0, "were removed in good order", "audit", "verify", "--file", export, "--repository", witnessDir(data), "--key", auditKeyOfData(t, data))
	if strings.Contains(a.log.String(), "level=ERROR") {
		t.Errorf("%s", a.log)
	}
}

// TestAuditUrgent: who was refused has a checkpoint soon, and who came in does not; verify says what the chain alone covers, and since when.
func TestAuditUrgent(t *testing.T) {
	data := t.TempDir()
	a := openAudited(t, data)
	defer a.close(t)
	has := func() int64 {
		c, err := a.db.LastCheckpoint(t.Context())
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			t.Fatal(err)
		}
		return c.Checkpoint.Seq
	}
	begun := time.Now()
	a.Record(audit.Entry{Actor: "ann", Action: "login", Outcome: audit.Refused})
	for has() < 2 && time.Since(begun) < checkpointAfter/2 {
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("the checkpoint came after %s", time.Since(begun))
	if has() != 2 {
		t.Fatal("there is no checkpoint")
	}
	a.Record(audit.Entry{Actor: "ann", Action: "login"})
	a.Record(audit.Entry{Actor: "bob", Action: "login"})
	if _, err := a.db.Audited(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	out := expect(t, data, 0, "2 records, 3 to 4, come after the last checkpoint, since 20", "audit", "verify")
	if !strings.Contains(out, "the chain alone covers what is there") {
		t.Errorf("%s", out)
	}
	expect(t, data, 0, `"unsigned": 2`, "audit", "verify", "-o", "json")
}

func TestRetentionFlags(t *testing.T) {
	day := 24 * time.Hour
	for text, want := range map[string]time.Duration{"90d": 90 * day, "12w": 84 * day, "2y": 732 * day, "36h": 36 * time.Hour, "": usualAuditAge, forever: 0} {
		r := retention{Audit: text, History: text}
		if err := r.check(); err != nil || r.auditAge() != want {
			t.Errorf("%q: %s %v", text, r.auditAge(), err)
		}
	}
	for _, text := range []string{"1h", "0d", "-3d", "d", "x", "90", "9999999999y", "300y", "1.5d"} {
		if err := (&retention{History: text}).check(); err == nil || !strings.Contains(err.Error(), "--keep-history") {
			t.Errorf("%q: %v", text, err)
		}
	}
	now := time.Now()
	usual, _ := (&retention{}).historyOf(now)
	short, _ := (&retention{History: "30d"}).historyOf(now)
	if _, some := (&retention{History: forever}).historyOf(now); some || usual.Keep != usualHistoryCount || short != (store.HistoryRetention{Since: now.Add(-30 * day)}) {
		t.Errorf("%+v %+v %v", usual, short, some)
	}
	if got := (&retention{Audit: "90d"}).or(retention{Audit: "1y", History: "30d"}); got != (retention{"90d", "30d"}) {
		t.Errorf("%+v", got)
	}
	o := serverCI{namespace: jobsNamespace, log: usualLog, keep: retention{Audit: "90d"}}
	if err := o.check(); err != nil { // a server that plays no pipelines keeps these, too
		t.Error(err)
	}
	if o.keep.Audit = "1h"; o.check() == nil {
		t.Error("an hour is long enough")
	}
	if o.keep.Audit, o.shell = "90d", true; o.check() == nil || !strings.Contains(o.check().Error(), "need --ci") {
		t.Error(o.check())
	}
}

// TestHistorySweep removes what is older than is asked for, but the last delivery of an app.
func TestHistorySweep(t *testing.T) {
	data := t.TempDir()
	db, err := openDatabaseOf(data)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for i, days := range []int{100, 50, 1} {
		for _, app := range []string{"a", fmt.Sprint("b", i)} {
			err := db.KeepDeliveries(t.Context(), []history.Delivery{{
				Key: fmt.Sprint(app, i), App: history.App{Kind: "Kustomization", Namespace: "x", Name: app}, Revision: fmt.Sprint("main@", i), Status: history.Succeeded, Began: time.Now().AddDate(0, 0, -days),
			}})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	left := func(keep retention) (out []string) {
		q := &historyQueue{store: db, kept: keep}
		q.sweep(context.Background())
		all, err := db.Deliveries(t.Context(), store.DeliveryFilter{})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range all {
			out = append(out, d.App.Name+d.Revision)
		}
		return out
	}
	for _, c := range []struct {
		keep retention
		want string
	}{
		{retention{}, "[b2main@2 amain@2 b1main@1 amain@1 b0main@0 amain@0]"}, {retention{History: forever}, "[b2main@2 amain@2 b1main@1 amain@1 b0main@0 amain@0]"},
		{retention{History: "60d"}, "[b2main@2 amain@2 b1main@1 amain@1 b0main@0]"}, {retention{History: "30d"}, "[b2main@2 amain@2 b1main@1 b0main@0]"},
	} {
		if got := fmt.Sprint(left(c.keep)); got != c.want {
			t.Errorf("%+v: %s, want %s", c.keep, got, c.want)
		}
	}
}

// TestStorePostgreSQL moves an instance from SQLite to PostgreSQL by a backup and a restore, uses the commands there, and moves it back.
func TestStorePostgreSQL(t *testing.T) {
	server := testpostgres.Start(t)
	data, other := t.TempDir(), t.TempDir()
	a := openAudited(t, data)
	a.Record(audit.Entry{Actor: "ann", Action: "login"})
	a.close(t)
	first, second := filepath.Join(other, "first.tar"), filepath.Join(other, "second.tar")
	expect(t, data, 0, "has the database as of", "store", "backup", first)

	t.Setenv(databaseVariable, server.URL("postgres"))
	expect(t, data, 1, "the database has no audit", "audit", "list") // nothing is there yet
	expect(t, data, 0, "The database is as it was at", "store", "restore", first)
	if _, err := os.Stat(databaseFile(data)); err == nil {
		t.Error("the file is still in its place")
	}
	expect(t, data, 0, "Records 1 to 3 are as they were written", "audit", "verify")
	expect(t, data, 0, "is sound", "store", "check")
	expect(t, data, 0, "ann", "audit", "list", "--actor", "ann")
	a = openAudited(t, data)
	a.Record(audit.Entry{Actor: "bob", Action: "login"})
	if out, code := auditCLI(data, "store", "restore", first); code != 1 || !strings.Contains(out, "another Keelson has it") {
		t.Errorf("%d %s", code, out)
	}
	expect(t, data, 0, "has the database as of", "store", "backup", second) // while it is used
	a.close(t)
	expect(t, data, 0, " follows ", "audit", "rotate-key")
	expect(t, data, 0, "ann is forgotten", "audit", "erase", "ann")
	expect(t, data, 0, "Records 1 to 6 are as they were written", "audit", "verify")
	out := expect(t, data, 0, "The database is as it was at", "store", "restore", first) // once more, over what is there
	if !strings.Contains(out, "in the schema before_restore_") {
		t.Errorf("%s", out)
	}
	expect(t, data, 0, "the records 3 to ", "audit", "verify")

	t.Setenv(databaseVariable, "")
	expect(t, data, 0, "is sound", "store", "check", second)
	expect(t, data, 0, "The database is as it was at", "store", "restore", second)
	expect(t, data, 0, "are as they were written", "audit", "verify")
	var m manifest
	if err := json.Unmarshal([]byte(expect(t, data, 0, "", "store", "backup", filepath.Join(other, "third.tar"), "-o", "json")), &m); err != nil || m.Records != 5 {
		t.Errorf("%+v %v", m, err)
	}
	a = openAudited(t, data)
	a.close(t)
	if strings.Contains(a.log.String(), "level=ERROR") {
		t.Errorf("%s", a.log)
	}
}
