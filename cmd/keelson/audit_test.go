package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/audit/witness"
	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/store"
)

// audited is a data directory with an auditor.
type audited struct {
	*auditor
	data string
	db   *store.DB
	log  *bytes.Buffer
}

func openAudited(t *testing.T, data string) audited {
	t.Helper()
	host, err := githost.New(githost.Options{Root: filepath.Join(data, gitDir), Token: "t", Private: isWitness})
	if err != nil {
		t.Fatal(err)
	}
	db, err := openDatabaseOf(data)
	if err != nil {
		t.Fatal(err)
	}
	log := &bytes.Buffer{}
	return audited{startAuditor(filepath.Join(data, ciDir), db, host, slog.New(slog.NewTextHandler(log, nil))), data, db, log}
}

func (a audited) close(t *testing.T) {
	t.Helper()
	if err := errors.Join(a.Close(), a.db.Close()); err != nil {
		t.Fatal(err)
	}
}

// auditCLI runs a command on a data directory.
func auditCLI(data string, args ...string) (out string, code int) {
	var std, diag bytes.Buffer
	code = execute(context.Background(), append(args, "--data", data), streams{in: strings.NewReader(""), out: &std, err: &diag})
	return std.String() + diag.String(), code
}

// TestAuditor keeps records and their checkpoints over two lives of an instance; the witness has both checkpoints, and finds an end that is cut off
// in the database with all that tells of it there.
func TestAuditor(t *testing.T) {
	data := t.TempDir()
	a := openAudited(t, data)
	for i := range 20 {
		a.Record(audit.Entry{Actor: "ann", Action: "login", Detail: fmt.Sprint(i)})
	}
	a.close(t)
	a = openAudited(t, data)
	a.Record(audit.Entry{Actor: "bob", Action: "login"})
	a.close(t)
	if a.log.Len() != 0 {
		t.Errorf("%s", a.log)
	}
	found, err := witness.ReadFrom(t.Context(), witnessDir(data))
	if err != nil || len(found) != 2 || found[0].Checkpoint.Seq != 21 || found[1].Checkpoint.Seq != 22 {
		t.Fatalf("%+v %v", found, err)
	}
	verify := func(want string, code int, args ...string) {
		t.Helper()
		if out, got := auditCLI(data, append([]string{"audit", "verify"}, args...)...); got != code || !strings.Contains(out, want) {
			t.Errorf("it ended with %d, and not %d: %s\nwant %s", got, code, out, want)
		}
	}
	verify("Records 1 to 22 are as they were written. 2 checkpoints agree; the last is of record 22", 0)
	if out, code := auditCLI(data, "audit", "list", "--actor", "ann", "--limit", "3"); code != 0 || strings.Count(out, "ann") != 3 || !strings.Contains(out, "There are more: --before 19") {
		t.Errorf("%d %s", code, out)
	}

	db, err := sql.Open("sqlite", databaseFile(data))
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range []string{`DELETE FROM audit WHERE seq > 20`, `DELETE FROM audit_checkpoints`} {
		if _, err := db.Exec(change); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	verify("record 21: it is missing: the chain ends at 20, and the checkpoint in the witness", 1)
	verify(`"ok": false`, 1, "-o", "json")
	a = openAudited(t, data)
	a.close(t)
	if !strings.Contains(a.log.String(), "the audit is not what the witness has seen") || !strings.Contains(a.log.String(), "record 22 is missing or was changed") {
		t.Errorf("%s", a.log)
	}
	verify("record 1: it, or one up to 21, was changed and everything after it hashed again", 1) // what comes later does not hide it

	other := filepath.Join(t.TempDir(), "key")
	key, err := witness.OpenKey(other)
	if err != nil {
		t.Fatal(err)
	}
	verify("is signed with another key", 1, "--key", audit.FormatKey(key.Public().(ed25519.PublicKey)))
	verify("--key: \"x\" is no public key", 2, "--key", "x")
	if out, code := auditCLI(t.TempDir(), "audit", "verify"); code != 1 || !strings.Contains(out, "there is no database") {
		t.Errorf("%d %s", code, out)
	}
}

// TestAuditorWithoutDatabase: who records does not wait, and what is lost is told in the chain when it can be.
func TestAuditorWithoutDatabase(t *testing.T) {
	data := t.TempDir()
	a := openAudited(t, data)
	a.lose(3, errors.New("a full disk"))
	a.Record(audit.Entry{Actor: "ann", Action: "login"})
	a.close(t)
	if out, code := auditCLI(data, "audit", "list", "--action", "audit.gap"); code != 0 || !strings.Contains(out, "3 records before this one were lost") {
		t.Errorf("%d %s", code, out)
	}
	begun := time.Now()
	for range auditQueue + 10 { // nobody takes them any more
		a.Record(audit.Entry{Actor: "ann", Action: "login"})
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("recording took %s", took)
	}
	if !strings.Contains(a.log.String(), "too many wait") {
		t.Error("the log does not tell")
	}
	var none *auditor
	none.Record(audit.Entry{})
}

func TestAuditPush(t *testing.T) {
	zero, a, b := githost.Zero, strings.Repeat("a", 40), strings.Repeat("b", 40)
	many := githost.Push{Repository: "team/shop", User: "System:Keelson"}
	for i := range 60 {
		many.Changes = append(many.Changes, githost.RefChange{Ref: fmt.Sprint("refs/heads/", i), Before: zero, After: a})
	}
	for _, c := range []struct {
		push githost.Push
		want []string
	}{
		{
			githost.Push{Repository: "team/shop", User: "ann", Job: 7, Changes: []githost.RefChange{{Ref: "refs/heads/main", Before: a, After: b}, {Ref: "refs/heads/x", Before: a, After: zero}}},
			[]string{"ann repository/team/shop refs/heads/main " + a + ".." + b + ", by job 7", "ann repository/team/shop refs/heads/x deleted, was " + a + ", by job 7"},
		},
		{githost.Push{Repository: "x", Changes: []githost.RefChange{{Ref: "refs/tags/v1", Before: zero, After: b}}}, []string{"somebody repository/x refs/tags/v1 created, " + b}},
		{many, append(make([]string, 51), "somebody repository/team/shop and 10 more refs")},
	} {
		got := auditPush(c.push)
		if len(c.want) == 52 { // only the last one matters
			got, c.want = got[50:], c.want[51:]
		}
		if len(got) != len(c.want) {
			t.Fatalf("%d records, want %d", len(got), len(c.want))
		}
		for i, e := range got {
			if line := fmt.Sprint(e.Actor, " ", e.Object, " ", e.Detail); line != c.want[i] || e.Action != "git.push" {
				t.Errorf("have %s\nwant %s", line, c.want[i])
			}
		}
	}
}

// TestAuditErase forgets a person while no instance runs; with one that holds the database the API is asked.
func TestAuditErase(t *testing.T) {
	data := t.TempDir()
	a := openAudited(t, data)
	a.Record(audit.Entry{Actor: "ann", Action: "login", Address: "192.0.2.7"})
	a.close(t)
	out, code := auditCLI(data, "audit", "erase", "ann")
	if code != 0 || !strings.Contains(out, "ann is forgotten; their records have the id p_") {
		t.Fatalf("%d %s", code, out)
	}
	if out, code := auditCLI(data, "audit", "erase", "ann"); code != 1 || !strings.Contains(out, "there is no such row") {
		t.Errorf("%d %s", code, out)
	}
	list, _ := auditCLI(data, "audit", "list")
	if strings.Contains(list, "ann") || strings.Contains(list, "192.0.2.7") || !strings.Contains(list, "audit.erase") {
		t.Errorf("%s", list)
	}
	if out, code := auditCLI(data, "audit", "verify"); code != 0 {
		t.Errorf("%s", out)
	}
}
