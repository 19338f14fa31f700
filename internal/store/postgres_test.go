package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/test/testpostgres"
)

// serverVariable is set where the tests of this package run on PostgreSQL: the URL of its server.
const serverVariable = "KEELSON_TEST_POSTGRESQL"

// TestOnPostgreSQL runs the tests of this package once more, on a real PostgreSQL.
func TestOnPostgreSQL(t *testing.T) {
	server := testpostgres.Start(t)
	again := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.timeout=5m", "-test.skip=^(TestOnPostgreSQL|TestPostgreSQL)")
	again.Env = append(os.Environ(), serverVariable+"="+server.URL("postgres"))
	out, err := again.CombinedOutput()
	passed := regexp.MustCompile(`(?m)^--- PASS: `).FindAll(out, -1)
	skipped := regexp.MustCompile(`(?m)^--- SKIP: .*\n\s+.*$`).FindAllString(string(out), -1)
	t.Logf("%d tests, and not on PostgreSQL:\n%s", len(passed), strings.Join(skipped, "\n"))
	if err != nil || len(passed) < 25 {
		t.Errorf("%v\n%s", err, out)
	}
}

// aboutSQLite skips a test that is about SQLite's own file where the others run on PostgreSQL.
func aboutSQLite(t testing.TB) {
	if os.Getenv(serverVariable) != "" {
		t.Skip("it is about SQLite")
	}
}

// database gives where the database of a path is: on PostgreSQL one of its own; empty: in the file.
func database(t testing.TB, path string) string {
	server := os.Getenv(serverVariable)
	if server == "" {
		return ""
	}
	name := fmt.Sprintf("k%x", sha256.Sum256([]byte(path)))[:20]
	conn := must(pgx.Connect(t.Context(), server))(t)
	defer conn.Close(context.Background())
	var known bool
	ok(t, conn.QueryRow(t.Context(), `SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)`, name).Scan(&known))
	if !known { // one that another process was making when it was killed comes all the same
		_, err := conn.Exec(t.Context(), "CREATE DATABASE "+name)
		var made *pgconn.PgError
		if known = err == nil || errors.As(err, &made) && (made.Code == "23505" || made.Code == "42P04"); !known {
			t.Fatal(err)
		}
	}
	return strings.Replace(server, "/postgres?", "/"+name+"?", 1)
}

// TestPostgreSQL is what only a server can do: it may be away, be started anew, and have other clients.
func TestPostgreSQL(t *testing.T) {
	s := testpostgres.Start(t)
	ctx := t.Context()
	lost := 0
	open := func(database string) (*DB, error) {
		return Open(filepath.Join(t.TempDir(), "store.db"), Options{
			Key: testKey, PostgreSQL: s.URL(database), Now: func() time.Time { return day }, Lost: func() { lost++ },
		})
	}
	db := must(open("postgres"))(t)
	t.Cleanup(func() { db.Close() })
	p := newPipeline(t, db, "a/b", nil)

	t.Run("two at once", func(t *testing.T) {
		_, err := open("postgres")
		refused(t, err, ErrLocked, "open the PostgreSQL database postgres at "+s.Dir, "another Keelson has it")
		if lost != 0 {
			t.Error("the one that has it is told that it has not")
		}
	})
	t.Run("beside it", func(t *testing.T) {
		_, err := OpenBeside("", Options{PostgreSQL: s.URL("template1")})
		refused(t, err, ErrLocked, "has not made its schema yet")
		beside := must(OpenBeside(filepath.Join(t.TempDir(), "store.db"), Options{PostgreSQL: s.URL("postgres"), Now: func() time.Time { return day }}))(t)
		ok(t, beside.OpensWith(ctx, testKey))
		refused(t, beside.OpensWith(ctx, make([]byte, KeySize)), ErrWrongKey, "put its key file in the place of this server's")
		if got := must(beside.Pipeline(ctx, p.ID))(t); got.ID != p.ID {
			t.Errorf("it reads %+v", got)
		}
		_, err = beside.Advance(ctx, p.ID, 0, Step{Status: "running"})
		refused(t, err, ErrLocked, "the Keelson that has it writes")
		_, err = beside.AppendAudit(ctx, audit.Entry{Action: "login"})
		refused(t, err, ErrLocked)
		_, err = beside.TakeInbox(ctx)
		ok(t, err)

		// People are the same in both.
		ok(t, beside.AddUser(ctx, User{Name: "ann"}))
		ok(t, beside.AddSession(ctx, Session{Holder: Holder{Person: "ann", Origin: "local"}, Hash: []byte("hash"), Expires: day.Add(time.Hour)}))
		if got := must(db.Session(ctx, []byte("hash")))(t); got.Person != "ann" {
			t.Errorf("the session is %+v", got)
		}
		ok(t, db.EndSession(ctx, []byte("hash")))
		_, err = beside.Session(ctx, []byte("hash"))
		refused(t, err, ErrNotFound)

		// Their logins come into the audit.
		ok(t, beside.InboxAudit(ctx, audit.Entry{Actor: "ann", Action: "login", Object: "session", Detail: "password", Address: "192.0.2.1"}, audit.Entry{Actor: "ann", Action: "logout"}))
		_, err = beside.TakeInbox(ctx)
		refused(t, err, ErrLocked)
		if n := must(db.TakeInbox(ctx))(t); n != 2 {
			t.Errorf("%d are taken in", n)
		}
		if n := must(db.TakeInbox(ctx))(t); n != 0 {
			t.Errorf("%d are taken in twice", n)
		}
		records, _, err := db.Audit(ctx, AuditFilter{Actor: "ann"})
		ok(t, err)
		var told []string
		for _, r := range records {
			told = append(told, fmt.Sprint(r.Who, " ", r.Action, " ", r.Address, " ", r.Detail))
		}
		slices.Sort(told)
		diff(t, "the audit", told, []string{
			"ann login 192.0.2.1 password, on a server that waits, " + day.Format(time.RFC3339),
			"ann logout  on a server that waits, " + day.Format(time.RFC3339),
		})
		ok(t, beside.Close())
	})
	t.Run("another schema is another database", func(t *testing.T) {
		conn := must(pgx.Connect(ctx, s.URL("postgres")))(t)
		defer conn.Close(ctx)
		must(conn.Exec(ctx, "CREATE SCHEMA other"))(t)
		other := must(open("postgres&search_path=other"))(t)
		ok(t, other.Close())
	})
	t.Run("another program's", func(t *testing.T) {
		conn := must(pgx.Connect(ctx, s.URL("postgres")))(t)
		defer conn.Close(ctx)
		must(conn.Exec(ctx, "CREATE DATABASE bookmarks"))(t)
		theirs := must(sql.Open("pgx", s.URL("bookmarks")))(t)
		must(theirs.Exec("CREATE TABLE bookmarks (url TEXT)"))(t)
		ok(t, theirs.Close())
		_, err := open("bookmarks")
		refused(t, err, nil, "tables of another program")
	})
	t.Run("no such database", func(t *testing.T) {
		_, err := open("nowhere")
		refused(t, err, ErrAway, `database "nowhere" does not exist`)
	})
	t.Run("no address", func(t *testing.T) {
		_, err := Open(filepath.Join(t.TempDir(), "store.db"), Options{Key: testKey, PostgreSQL: "postgres://me:hunter2@host:port/x"})
		refused(t, err, nil, "the address of the PostgreSQL database cannot be read")
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v has the password", err)
		}
	})
	t.Run("its server is away", func(t *testing.T) {
		s.Stop(t)
		_, err := db.Advance(ctx, p.ID, 0, Step{Status: "running"})
		refused(t, err, ErrAway, "see that PostgreSQL runs there")
		_, err = db.Pipeline(ctx, p.ID)
		refused(t, err, ErrAway)
		s.Start(t)
		must(db.Advance(ctx, p.ID, 0, Step{Status: "running"}))(t)
		if got := must(db.Pipeline(ctx, p.ID))(t); got.Status != "running" || lost != 0 {
			t.Errorf("it is %s, and was lost %d times", got.Status, lost)
		}
	})
	t.Run("another one has had it", func(t *testing.T) {
		s.Stop(t)
		s.Start(t)
		second := must(open("postgres"))(t)
		ok(t, second.Close())
		_, err := db.Advance(ctx, p.ID, 0, Step{Status: "success"})
		refused(t, err, ErrLocked, "another Keelson has had it meanwhile", "start again")
		if got := must(db.Pipeline(ctx, p.ID))(t); got.Status != "running" || lost != 1 {
			t.Errorf("it is %s, and was lost %d times", got.Status, lost)
		}
	})
	t.Run("another one has it", func(t *testing.T) {
		second := must(open("postgres"))(t)
		defer second.Close()
		_, err := db.Advance(ctx, p.ID, 0, Step{Status: "success"})
		refused(t, err, ErrLocked, "another Keelson has it")
		if lost != 1 {
			t.Errorf("it was lost %d times", lost)
		}
	})
}

func TestQueryOfPostgreSQL(t *testing.T) {
	s := must(newServed("postgres://u@h/d", nil))(t)
	for query, want := range map[string]string{
		`SELECT 1`: `SELECT 1`,
		`UPDATE a SET b = ?, c = 'why?' WHERE d IN (?, '') AND e = 'it''s ?' AND f < ?`: `UPDATE a SET b = $1, c = 'why?' WHERE d IN ($2, '') AND e = 'it''s ?' AND f < $3`,
	} {
		diff(t, query, s.query(query), want)
	}
	diff(t, "a schema", s.schema("CREATE TABLE t (\n    id INTEGER PRIMARY KEY, b BLOB NOT NULL, r REAL, s TEXT\n) STRICT;"),
		"CREATE TABLE t (\n    id BIGINT PRIMARY KEY, b BYTEA NOT NULL, r DOUBLE PRECISION, s TEXT\n);")
	diff(t, "its name", s.String(), "the PostgreSQL database d at h:5432")
}
