package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ed25519"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/audit/witness"
	"keelson.dev/keelson/internal/controller"
	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/identity"
	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/telemetry"
	"keelson.dev/keelson/internal/web"
)

// audited is a data directory with an auditor.
type audited struct {
	*auditor
	data string
	db   *store.DB
	log  *logText
}

// logText is a log that is read while it is written.
type logText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logText) Len() int { return len(l.String()) }

func openAudited(t *testing.T, data string) audited {
	t.Helper()
	return openKept(t, data, retention{})
}

// openKept is openAudited with records that stay for so long.
func openKept(t *testing.T, data string, keep retention) audited {
	t.Helper()
	host, err := githost.New(githost.Options{Root: filepath.Join(data, gitDir), Token: "t", Private: isWitness})
	if err != nil {
		t.Fatal(err)
	}
	db, err := openDatabaseOf(data)
	if err != nil {
		t.Fatal(err)
	}
	log := &logText{}
	return audited{startAuditor(filepath.Join(data, ciDir), db, host, keep, slog.New(slog.NewTextHandler(log, nil))), data, db, log}
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
	verify("record 21: it is missing, and so are all up to 22: the chain ends at 20, and the checkpoint in the witness", 1)
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

// TestAuditorWaits: what is recorded while the disk is full is kept once there is room.
func TestAuditorWaits(t *testing.T) {
	data := t.TempDir()
	dir := filepath.Join(data, ciDir)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m,mode=700"); err != nil {
		t.Skipf("NOT TESTED: a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	a := openAudited(t, data)
	fill, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	for n := 1 << 16; n > 0; { // until not a byte fits
		if _, err := fill.Write(make([]byte, n)); err != nil {
			n /= 16
		}
	}
	full := func() error {
		_, err := a.db.AppendAudit(t.Context(), audit.Entry{Actor: "eve", Action: "login", Detail: strings.Repeat("x", 900)})
		return err
	}
	for err = full(); err == nil; err = full() { // what is there of the write-ahead log is used up
	}
	if !errors.Is(err, store.ErrFull) {
		t.Fatal(err)
	}
	begun := time.Now()
	for i := range 500 {
		a.Record(audit.Entry{Actor: "ann", Action: "logout", Detail: fmt.Sprint(i, strings.Repeat("y", 900))})
	}
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("recording took %s", took)
	}
	waits := func() bool { return strings.Contains(a.log.String(), "records of the audit wait for the database") } // others would be given up now
	for deadline := time.Now().Add(time.Minute); !waits() && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
	}
	if err := errors.Join(fill.Close(), os.Remove(fill.Name())); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if all, _, err := a.db.Audit(t.Context(), store.AuditFilter{Action: "logout", Limit: 1000}); err == nil && len(all) == 500 {
			break
		}
	}
	a.close(t)
	out, _ := auditCLI(data, "audit", "list", "--action", "logout", "--limit", "1000")
	if n := strings.Count(out, "logout"); n != 500 {
		t.Errorf("%d records are there", n)
	}
	expect(t, data, 0, "are as they were written", "audit", "verify")
	if out, _ := auditCLI(data, "audit", "list", "--action", "audit.gap"); strings.Contains(out, "were lost") || !waits() {
		t.Errorf("%s\n%s", out, a.log)
	}
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
	if code != 0 || !strings.Contains(out, "ann is forgotten; in the place of the name is p_") {
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

// TestAuditOfServer: where a server is named, by the flag or the environment, it is asked, and nothing happens to what is on this machine; what is
// done on this machine alone refuses the flag.
func TestAuditOfServer(t *testing.T) {
	data := t.TempDir()
	a := openAudited(t, data)
	a.Record(audit.Entry{Actor: "ann", Action: "login"})
	a.close(t)
	key := auditKeyOfData(t, data)
	asked := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.URL.Path
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, `{"error":"no, says the server"}`)
	}))
	defer server.Close()
	t.Setenv(tokenVariable, "t")
	for _, flag := range []bool{true, false} {
		with := []string{"--server", server.URL}
		if !flag {
			with = nil
			t.Setenv(serverVariable, server.URL)
		}
		for _, c := range []struct{ command, want string }{
			{"audit erase ann", "DELETE /api/v1/audit/people"}, {"audit rotate-key", "POST /api/v1/audit/key"},
			{"audit list", "GET /api/v1/audit"}, {"audit search login", "GET /api/v1/audit"}, {"audit export", "GET /api/v1/audit/export"},
		} {
			expect(t, data, 1, "no, says the server", append(strings.Fields(c.command), with...)...)
			select {
			case got := <-asked:
				if got != c.want {
					t.Errorf("%s %v: %s, want %s", c.command, with, got, c.want)
				}
			default:
				t.Errorf("%s %v: the server was not asked", c.command, with)
			}
		}
	}
	t.Setenv(serverVariable, "")
	for _, command := range []string{"audit verify", "audit key", "store backup " + filepath.Join(data, "b"), "store restore " + filepath.Join(data, "b"), "store check"} {
		expect(t, data, 2, "--server is not for it", append(strings.Fields(command), "--server", server.URL)...)
	}
	expect(t, data, 0, "ann", "audit", "list")
	if now := auditKeyOfData(t, data); now != key {
		t.Errorf("the key was %s, and is %s", key, now)
	}
}

// TestStore backs a database up while it is used and not, restores it, and refuses what is no backup, damaged, or in use. The audit verifies after
// it, and tells what was lost.
func TestStore(t *testing.T) {
	data, other := t.TempDir(), t.TempDir()
	backup := filepath.Join(other, "backup.tar")
	run := func(code int, want string, args ...string) {
		t.Helper()
		if out, got := auditCLI(data, args...); got != code || !strings.Contains(out, want) {
			t.Errorf("%s: it ended with %d, and not %d: %s\nwant %s", args, got, code, out, want)
		}
	}
	run(1, "there is no database", "store", "backup", backup)
	run(1, "there is no database", "store", "check")
	a := openAudited(t, data)
	a.Record(audit.Entry{Actor: "ann", Action: "login"})
	a.close(t)
	a = openAudited(t, data)
	log := filepath.Join(data, ciDir, "logs", "7")
	if err := errors.Join(os.MkdirAll(filepath.Dir(log), 0o700), os.WriteFile(log, []byte("as it was\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	run(0, "has the database as of", "store", "backup", backup, "--logs") // while it is open
	run(1, "file already exists", "store", "backup", backup)
	run(1, "another process uses the database", "store", "restore", backup)
	if info, err := os.Stat(backup); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	for range 10 {
		a.Record(audit.Entry{Actor: "bob", Action: "login"})
	}
	a.close(t)
	run(0, "Records 1 to 12 are as they were written", "audit", "verify")
	run(0, "is sound: a database of version", "store", "check")
	run(0, "is sound: a database of version", "store", "check", backup)

	// A damaged database is refused with the way to restore it.
	database := databaseFile(data)
	whole, err := os.ReadFile(database)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(whole)
	for at := 8192; at+4096 <= len(damaged); at += 4096 {
		copy(damaged[at:], bytes.Repeat([]byte{0xa5}, 2048))
	}
	if err := errors.Join(os.WriteFile(database, damaged, 0o600), os.WriteFile(log, []byte("later\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	run(1, "keelson store restore FILE", "store", "check")
	if _, err := openDatabaseOf(data); err == nil || !strings.Contains(err.Error(), "keelson store restore FILE puts a backup in its place") {
		t.Errorf("%v", err)
	}
	run(0, "The database is as it was at", "store", "restore", backup)
	run(0, "is sound", "store", "check")
	run(0, "the records 3 to 12 of before are lost", "audit", "verify")
	run(0, "put back to the backup of", "audit", "list", "--action", "store.restore")
	if text, err := os.ReadFile(log); err != nil || string(text) != "as it was\n" {
		t.Errorf("%q %v", text, err)
	}
	aside, err := filepath.Glob(filepath.Join(data, ciDir, "before-restore-*", "store.db"))
	if err != nil || len(aside) != 1 {
		t.Errorf("%v %v", aside, err)
	} else if old, err := os.ReadFile(aside[0]); err != nil || !bytes.Equal(old, damaged) {
		t.Errorf("what was there is not there: %v", err)
	}
	a = openAudited(t, data)
	a.Record(audit.Entry{Actor: "bob", Action: "login"})
	a.close(t)
	if a.log.Len() != 0 {
		t.Errorf("%s", a.log)
	}
	run(0, "Records 1 to 4 are as they were written", "audit", "verify")

	// What is no backup leaves the database alone.
	before, err := os.ReadFile(database)
	if err != nil {
		t.Fatal(err)
	}
	sound, err := os.ReadFile(backup)
	if err != nil {
		t.Fatal(err)
	}
	cut, flipped := sound[:len(sound)/2], bytes.Clone(sound)
	at := bytes.Index(flipped, []byte("SQLite format 3")) // pages of the database in it
	for page := at + 8192; page < at+5*4096; page += 4096 {
		copy(flipped[page:], bytes.Repeat([]byte{0xa5}, 2048))
	}
	for name, c := range map[string]struct {
		text []byte
		want string
	}{
		"empty": {nil, "no whole backup"}, "text": {bytes.Repeat([]byte("x"), 5000), "no whole backup"}, "cut": {cut, "bad"}, "flipped": {flipped, "is damaged"},
		"another form": {bytes.Replace(sound, []byte(`"form": 1`), []byte(`"form": 2`), 1), "of the form 2"},
		"a path":       {evilBackup(t, sound, "../../evil"), `there should be no "../../evil" in it`},
		"a log's path": {evilBackup(t, sound, "logs/../../evil"), "there should be no"},
		"no key":       {evilBackup(t, sound, ""), "no whole backup"},
	} {
		file := filepath.Join(other, "bad.tar")
		if err := os.WriteFile(file, c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		if name == "cut" {
			c.want = "bad.tar"
		}
		run(1, c.want, "store", "restore", file)
		if now, err := os.ReadFile(database); err != nil || !bytes.Equal(now, before) {
			t.Errorf("%s: the database has changed, %v", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(data), "evil")); err == nil {
		t.Error("a file was written outside")
	}
	if left, _ := filepath.Glob(filepath.Join(data, ciDir, ".restore-*")); len(left) > 0 {
		t.Errorf("%v is left", left)
	}

	// Nor while an instance runs.
	held, err := lock(data)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	daemon := exec.Command(os.Args[0], "-test.run=^TestStoreInUse$")
	daemon.Env = append(os.Environ(), "KEELSON_TEST_STORE="+data, "KEELSON_TEST_BACKUP="+backup)
	if out, err := daemon.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestStoreInUse is the other process of TestStore: locks of one process do not keep it out itself.
func TestStoreInUse(t *testing.T) {
	data := os.Getenv("KEELSON_TEST_STORE")
	if data == "" {
		return // it is for TestStore alone
	}
	out, code := auditCLI(data, "store", "restore", os.Getenv("KEELSON_TEST_BACKUP"))
	if code != 1 || !strings.Contains(out, "an instance is running") || !strings.Contains(out, "keelson down") {
		t.Errorf("%d %s", code, out)
	}
}

// evilBackup is a backup with another name in the place of the key's; empty: without the key.
func evilBackup(t *testing.T, sound []byte, name string) []byte {
	t.Helper()
	var out bytes.Buffer
	r, w := tar.NewReader(bytes.NewReader(sound)), tar.NewWriter(&out)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == backupKey {
			if name == "" {
				continue
			}
			h.Name, h.PAXRecords = name, nil
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestRecordWithoutAuditor: what people do where the audit is another server's is left for that one, and where there is none it is counted and told.
func TestRecordWithoutAuditor(t *testing.T) {
	log := &logText{}
	p := &people{log: slog.New(slog.NewTextHandler(log, nil))}
	e := pushBy(githost.Push{Repository: "shop", User: "ann", Address: "192.0.2.7"}, audit.Refused)
	keepers := map[string]keeper{"server": &ledger{people: p, log: p.log}, "server without a dashboard": &ledger{log: p.log}, "server --ci": &lazyPipelines{people: p}}
	for name, k := range keepers {
		before, said := testutil.ToFloat64(telemetry.AuditFailures.WithLabelValues("record")), strings.Count(log.String(), "action=app.sync")
		recordAsked(k, controller.Asked{Action: "app.sync", By: "ann"})
		if now := testutil.ToFloat64(telemetry.AuditFailures.WithLabelValues("record")); now != before+1 || strings.Count(log.String(), "action=app.sync") != said+1 {
			t.Errorf("%s: %g records were lost, and then %g: %s", name, before, now, log)
		}
	}
	b := &besideStore{queue: make(chan audit.Entry, 1)}
	p.beside.Store(b)
	delete(keepers, "server without a dashboard")
	for name, k := range keepers {
		(&appsServer{kept: k}).record(e)
		select {
		case got := <-b.queue:
			if got != e {
				t.Errorf("%s: %+v", name, got)
			}
		default:
			t.Errorf("%s: nothing is left for the server that has the audit", name)
		}
	}
	p.refusedPush(githost.Push{Repository: "shop", User: "ann", Address: "192.0.2.7"})
	if got := <-b.queue; got != e {
		t.Errorf("a push that was refused: %+v", got)
	}
}

// TestLoggedIn: names of people are not in the chain itself, and who was refused is named only if they are known.
func TestLoggedIn(t *testing.T) {
	data := t.TempDir()
	a := openAudited(t, data)
	p := &people{log: slog.New(slog.DiscardHandler)}
	p.loggedIn(identity.Event{Action: "login", Actor: "nobody"}) // there is no auditor yet
	p.auditor.Store(a.auditor)
	for _, e := range []identity.Event{
		{Action: "login", Actor: "ann", Way: "password", Address: "192.0.2.7"},
		{Action: "login", Actor: "ann", Way: "password", Failure: "the password is wrong"},
		{Action: "login", Actor: "hunter2", Way: "password", Failure: "there is no such user"},
		{Action: "user.add", Actor: "ann", Object: "bob"},
		{Action: "token.add", Actor: "ann", Object: "bob/ci"},
		{Action: "logout", Actor: "ann"},
	} {
		p.loggedIn(e)
	}
	a.close(t)
	out, _ := auditCLI(data, "audit", "list", "-o", "json")
	var list web.AuditList
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range list.Records {
		if r.Action != "audit.key" {
			got = append(got, fmt.Sprintf("%s %s %s %s %q", r.Actor, r.Action, r.Object, r.Outcome, r.Detail))
		}
	}
	want := []string{
		`ann logout session done ""`, `ann token.add person/bob done "token ci"`, `ann user.add person/bob done ""`,
		`somebody login session refused "password there is no such user"`, `ann login session refused "password the password is wrong"`, `ann login session done "password"`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("have %s\nwant %s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if out, _ = auditCLI(data, "audit", "export", "--no-names"); strings.Contains(out, "bob") || strings.Contains(out, "hunter2") {
		t.Errorf("%s", out)
	}
}
