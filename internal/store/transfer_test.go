package store

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/test/testpostgres"
)

// fillAll puts something into most tables, odd texts too.
func fillAll(t *testing.T, db *DB) {
	t.Helper()
	ctx := t.Context()
	p := newPipeline(t, db, "acme/shop", func(p *Pipeline) { p.Title = "odd \U0001F680 \t\\N \"x\" 'y'" })
	j := newJob(t, db, p, "deploy", "success")
	half := 12.5
	j.Coverage, j.Tests = &half, []byte("tests")
	must(db.Advance(ctx, p.ID, must(db.Saved(ctx, p.ID))(t).End, Step{Jobs: []Job{j}, Events: [][]byte{{0, 1, 0xff}}}))(t)
	_, _, err := db.BeginDeployment(ctx, Environment{Project: p.Project, Name: "production"}, Deployment{Job: j.ID, Pipeline: p.ID, User: "ann"})
	ok(t, err)
	must(db.Enqueue(ctx, Command{Kind: "play", Pipeline: p.ID, User: "ann", Args: []byte("secret"), Audit: []audit.Entry{{Actor: "ann", Action: "pipeline.play"}}}))(t)
	ok(t, db.AddUser(ctx, User{Name: "ann", Password: "hash"}))
	ok(t, db.KeepDeliveries(ctx, []history.Delivery{{Key: "k", App: history.App{Kind: "Kustomization", Namespace: "a", Name: "b"}, Revision: "main@1", Status: history.Succeeded, Began: day}}))
	for range 5 {
		var batch []audit.Entry
		for i := range 500 {
			batch = append(batch, audit.Entry{Actor: fmt.Sprint("user", i%7), Action: "login", Detail: "dépl<oy>"})
		}
		must(db.AppendAudit(ctx, batch...))(t)
		ok(t, db.KeepCheckpoint(ctx, signedAt(t, must(db.AuditHead(ctx))(t), audit.Plain)))
	}
}

// contents gives all rows of all tables as text, sorted.
func contents(t *testing.T, db *DB) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for name := range textColumnsAndOthers(t, db) {
		columns := textColumnsAndOthers(t, db)[name]
		rows := must(db.reader.QueryContext(t.Context(), table{name, columns}.all()))(t)
		defer rows.Close()
		values, to := table{name, columns}.values()
		all[name] = []string{}
		for rows.Next() {
			ok(t, rows.Scan(to...))
			all[name] = append(all[name], fmt.Sprintf("%v", values))
		}
		ok(t, rows.Err())
		slices.Sort(all[name])
	}
	return all
}

func textColumnsAndOthers(t *testing.T, db *DB) map[string][]string {
	t.Helper()
	query := `SELECT m.name || ' ' || c.name FROM sqlite_schema m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' ORDER BY 1`
	if _, is := db.engine.(*served); is {
		query = `SELECT table_name || ' ' || column_name FROM information_schema.columns WHERE table_schema = current_schema() ORDER BY 1`
	}
	all := map[string][]string{}
	for _, both := range must(texts(t.Context(), db.reader, query))(t) {
		name, column, _ := strings.Cut(both, " ")
		all[name] = append(all[name], column)
	}
	for _, columns := range all {
		slices.Sort(columns)
	}
	return all
}

// TestPostgreSQLTransfer moves an installation from SQLite to PostgreSQL and back: every row is the same, the audit verifies, secrets open, and both go on.
func TestPostgreSQLTransfer(t *testing.T) {
	s := testpostgres.Start(t)
	ctx := t.Context()
	dir := t.TempDir()
	path := filepath.Join(dir, "store.db")
	db := openAt(t, path)
	fillAll(t, db)
	want := contents(t, db)
	if len(want) < 20 || len(want["audit"]) != 2501 {
		t.Fatalf("%d tables, %d records", len(want), len(want["audit"]))
	}
	ok(t, db.Close())
	onServer := Options{Key: testKey, PostgreSQL: s.URL("postgres"), Now: db.now}
	whole := func(what string, db *DB) {
		t.Helper()
		r, p, err := db.VerifyAudit(ctx, []ed25519.PublicKey{auditKey.Public().(ed25519.PublicKey)}, nil)
		if err != nil || p != nil || r.Last != 2501 || r.Checkpoints != 5 {
			t.Errorf("%s: %+v %v %v", what, r, p, err)
		}
		if saved := must(db.Saved(ctx, 1))(t); !bytes.Equal(saved.Journal[len(saved.Journal)-1], []byte{0, 1, 0xff}) {
			t.Errorf("%s: %x", what, saved.Journal)
		}
	}

	moved := must(Import(ctx, path, s.URL("postgres"), "aside"))(t)
	if moved {
		t.Error("there was nothing")
	}
	f := must(OpenServed(s.URL("postgres")))(t)
	t.Cleanup(func() { f.Close() })
	diff(t, "in PostgreSQL", contents(t, f.db), want)
	if v, has := must(f.Version(ctx))(t), must(f.HasAudit(ctx))(t); v < 9 || !has {
		t.Errorf("version %d, %v", v, has)
	}
	ok(t, f.Check(ctx))
	served := must(Open(path, onServer))(t)
	whole("in PostgreSQL", served)

	// A copy is made while it is used, and is the same as well.
	back := filepath.Join(dir, "back.db")
	ok(t, f.Backup(ctx, back))
	refused(t, f.Backup(ctx, back), nil, "file already exists")
	_, err := Import(ctx, path, s.URL("postgres"), "aside")
	refused(t, err, ErrLocked, "another Keelson has it")
	have := contents(t, f.db)
	ok(t, served.Close())
	copied := must(OpenFile(back))(t)
	t.Cleanup(func() { copied.Close() })
	diff(t, "back in a file", contents(t, copied.db), have)
	again := must(Open(back, Options{Key: testKey, Now: db.now}))(t)
	whole("back in a file", again)
	must(again.AppendAudit(ctx, audit.Entry{Action: "login"}))(t)
	newPipeline(t, again, "acme/shop", nil)
	ok(t, again.Close())

	// What is there already is moved aside, and another program's tables are left alone.
	if moved := must(Import(ctx, back, s.URL("postgres"), "aside"))(t); !moved {
		t.Error("there was something")
	}
	conn := must(pgx.Connect(ctx, s.URL("postgres")))(t)
	defer conn.Close(context.Background())
	var old, now int
	ok(t, conn.QueryRow(ctx, `SELECT (SELECT count(*) FROM aside.audit), (SELECT count(*) FROM audit)`).Scan(&old, &now))
	if old != 2501 || now != 2502 {
		t.Errorf("%d records aside, %d now", old, now)
	}
	_, err = Import(ctx, back, s.URL("postgres"), "aside")
	refused(t, err, nil, `schema "aside" already exists`)
	must(conn.Exec(ctx, `CREATE DATABASE bookmarks`))(t)
	theirs := must(pgx.Connect(ctx, s.URL("bookmarks")))(t)
	defer theirs.Close(context.Background())
	must(theirs.Exec(ctx, `CREATE TABLE bookmarks (url TEXT)`))(t)
	_, err = Import(ctx, back, s.URL("bookmarks"), "aside")
	refused(t, err, nil, "tables of another program")

	// What cannot be copied whole is not copied at all.
	must(conn.Exec(ctx, `CREATE DATABASE empty`))(t)
	broken := must(Open(back, Options{Key: testKey, Now: db.now}))(t)
	change(t, broken, `UPDATE pipelines SET title = ?`, "a\x00b")
	ok(t, broken.Close())
	_, err = Import(ctx, back, s.URL("empty"), "aside")
	refused(t, err, nil, "table pipelines")
	none := must(OpenServed(s.URL("empty")))(t)
	defer none.Close()
	if v := must(none.Version(ctx))(t); v != 0 {
		t.Errorf("half of it is there: version %d", v)
	}
	change(t, must(Open(back, Options{Key: testKey, Now: db.now}))(t), `DELETE FROM schema_migrations WHERE version = 9`)
	_, err = Import(ctx, back, s.URL("empty"), "aside")
	refused(t, err, nil, "it is of an older version")
	if _, err := OpenServed("postgres://me:hunter2@host:port/x"); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
	_ = os.Remove(back)
}
