package store

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"keelson.dev/keelson/internal/history"
)

func TestOpenKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "new", "store.key")
	var all sync.WaitGroup
	keys := make([][]byte, 8)
	for i := range keys {
		all.Go(func() { keys[i] = must(OpenKey(file))(t) }) // several processes at once
	}
	all.Wait()
	for _, k := range keys {
		if len(k) != KeySize || !bytes.Equal(k, keys[0]) {
			t.Fatalf("keys %x and %x", k, keys[0])
		}
	}
	if info := must(os.Stat(file))(t); info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v", info.Mode())
	}
	if left := must(os.ReadDir(filepath.Dir(file)))(t); len(left) != 1 {
		t.Errorf("files are left: %v", left)
	}
	for _, c := range []struct {
		name, text string
		mode       fs.FileMode
		says       string
	}{
		{"others can read it", "", 0o644, "chmod 600"},
		{"empty", "", 0o600, "is no key"},
		{"too short", "aGVsbG8=\n", 0o600, "32 bytes in base64"},
		{"too long", strings.Repeat("aGVsbG8h", 1000), 0o600, "is no key"},
	} {
		ok(t, os.WriteFile(file, []byte(c.text), c.mode))
		ok(t, os.Chmod(file, c.mode))
		_, err := OpenKey(file)
		refused(t, err, nil, c.says)
	}
}

// TestSealed looks for secrets in the bytes of all files.
func TestSealed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "store.db")
	db := openAt(t, path)
	ctx := t.Context()
	const secret = "hunter2-hunter2"
	value := []byte(`{"password":"` + secret + `"}`)
	p := newPipeline(t, db, "a/b", nil)
	id, iid, err := db.Reserve(ctx, p.Project)
	ok(t, err)
	p.ID, p.IID = id, iid
	ok(t, db.CreatePipeline(ctx, p, Inputs{Graph: bytes.Repeat(value, 100), Event: value}))
	j := Job{ID: must(db.NextID(ctx))(t), Name: "build", Attempt: 1, Tests: value, Variables: value}
	end := must(db.Advance(ctx, p.ID, 0, Step{Events: [][]byte{value, value}, Jobs: []Job{j}}))(t)
	must(db.Enqueue(ctx, Command{Kind: "play", Args: value}))(t)
	files := dir
	if server := os.Getenv(serverVariable); server != "" {
		files = must(newServed(server, nil))(t).config.Host // its directory
	}
	look := func() {
		t.Helper()
		var read int
		ok(t, filepath.WalkDir(files, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				content := must(os.ReadFile(path))(t)
				read += len(content)
				if bytes.Contains(content, []byte(secret)) || bytes.Contains(content, testKey) {
					t.Errorf("%s has the secret", path)
				}
			}
			return err
		}))
		if read < 10_000 {
			t.Errorf("%d bytes were read", read)
		}
	}
	look() // in the write-ahead log, too

	// What stands in another row or column is refused.
	for _, c := range []struct {
		name, change string
		args         []any
	}{
		{"another column", `UPDATE pipeline_inputs SET sealed_graph = sealed_event WHERE pipeline = ?`, []any{p.ID}},
		{"another row", `UPDATE journal SET number = 9 - number WHERE pipeline = ?`, []any{p.ID}},
		{"a bit", `UPDATE pipeline_inputs SET sealed_event = ? WHERE pipeline = ?`, []any{bytes.Repeat([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 0}, 3), p.ID}},
		{"nothing", `UPDATE pipeline_inputs SET sealed_event = ? WHERE pipeline = ?`, []any{[]byte{}, p.ID}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ok(t, db.write(ctx, true, func(tx *tx) error { return tx.exec(c.change, c.args...) }))
			_, err := db.Saved(ctx, p.ID)
			refused(t, err, nil, "take up pipeline "+strconv.FormatInt(p.ID, 10))
			if !errors.Is(err, ErrWrongKey) && !errors.Is(err, ErrCorrupt) {
				t.Errorf("%v", err)
			}
		})
	}
	must(db.Advance(ctx, p.ID, end, Step{State: value, Rest: true}))(t)
	ok(t, db.Close())
	look()
	_, err = Open(path, Options{Key: bytes.Repeat([]byte{8}, KeySize), PostgreSQL: database(t, path)})
	refused(t, err, ErrWrongKey, "open ", "put back its key file")
	_, err = Open(path, Options{Key: []byte("short")})
	refused(t, err, nil, "5 bytes instead of 32")
	openAt(t, path)
}

// TestMigrations brings a database of the first version up to date, with what was in it.
func TestMigrations(t *testing.T) {
	aboutSQLite(t)
	path := filepath.Join(t.TempDir(), "store.db")
	old := must(sql.Open("sqlite", path))(t)
	must(old.Exec(string(must(os.ReadFile("testdata/version1.sql"))(t))))(t)
	ok(t, old.Close())
	db := openAt(t, path)
	ctx := t.Context()
	p := must(db.Pipeline(ctx, 7))(t)
	diff(t, "pipeline", p, Pipeline{ID: 7, IID: 3, Project: 2, Source: "push", Ref: "main", SHA: "c0ffee", Title: "from version 1", Author: "Ann", User: "ann",
		Status: "running", Why: "job build runs", Created: day, Started: day})
	saved := must(db.Saved(ctx, 7))(t)
	diff(t, "saved", saved, Saved{Inputs: Inputs{Graph: []byte(`{"jobs":["build"]}`), Event: []byte(`{"source":"push"}`)}, Journal: [][]byte{[]byte(`{"kind":"run"}`)}, End: 1})
	if id := must(db.NextID(ctx))(t); id != 257 {
		t.Errorf("the next number is %d", id)
	}
	_, _, err := db.BeginDeployment(ctx, Environment{Project: 2, Name: "prod"}, Deployment{Job: 8, Pipeline: 7})
	ok(t, err)
	ok(t, db.Check(ctx))

	must(db.writer.Exec(`INSERT INTO schema_migrations (version, name, applied) VALUES (99, '0099_future', 0)`))(t)
	ok(t, db.Close())
	_, err = Open(path, Options{Key: testKey})
	refused(t, err, ErrTooNew, "it has version 99", "start the newer program")

	for _, c := range []struct {
		files fstest.MapFS
		says  string
	}{
		{fstest.MapFS{"migrations/0001_a.sql": {}, "migrations/0001_b.sql": {}}, "0001_b should have a number of its own, higher than that of the one before"},
		{fstest.MapFS{"migrations/a.sql": {}}, "a should have a number"},
	} {
		_, err := readMigrations(c.files)
		refused(t, err, nil, c.says)
	}
}

// TestSearchesAfterAMigration takes the tables away that searches use, as they were not there in older versions: what is there is found all the same.
func TestSearchesAfterAMigration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	db := openAt(t, path)
	ctx := t.Context()
	p := newPipeline(t, db, "group/shop", nil)
	ok(t, db.KeepDeliveries(ctx, []history.Delivery{delivered("k", "c0ffee", func(d *history.Delivery) { d.Title = "Sell MORE TÉ" })}))
	for i := range 150 {
		j := newJob(t, db, p, fmt.Sprint("deploy-", i), "running")
		_, d, err := db.BeginDeployment(ctx, Environment{Project: p.Project, Name: "prod", Slug: "prod"}, Deployment{Pipeline: p.ID, Job: j.ID, SHA: "c0ffee", Started: day})
		ok(t, err)
		must(db.ReportDeployment(ctx, d.ID, Report{Wrote: []byte(`{"objects":[{"verb":"patch","kind":"Deployment","namespace":"dev","name":"web"}],"commits":[{"sha":"` + fmt.Sprint("beef", i) + `"}]}`)}))(t)
	}
	must(db.writer.Exec(`DROP TABLE delivery_texts; DROP TABLE deployment_names; DELETE FROM schema_migrations WHERE version IN (10, 11)`))(t)
	ok(t, db.Close())
	fill := fills[11]
	t.Cleanup(func() { fills[11] = fill })
	fills[11] = func(tx *tx) error {
		if deadline, has := tx.ctx.Deadline(); has {
			t.Errorf("a large database could not be opened any more: its migration has to end by %s", deadline)
		}
		err := fill(tx)
		if seen := slices.Compact(slices.Sorted(slices.Values(tx.unknown))); len(seen) != len(tx.unknown) {
			t.Errorf("%d statements are prepared, and %d of them are different", len(tx.unknown), len(seen))
		}
		return err
	}
	db = openAt(t, path)
	found := must(db.Deliveries(ctx, DeliveryFilter{Query: "more té flux-system"}))(t)
	diff(t, "deliveries", len(found), 1)
	diff(t, "jobs that wrote", len(must(db.WrittenBy(ctx, ObjectFilter{Kinds: []string{"deployment"}, Name: "web"}))(t)), 150)
	if j := must(db.PushedBy(ctx, "beef149"))(t); j == nil || j.Environment != "prod" {
		t.Errorf("beef149 was pushed by %v", j)
	}
}

// TestMigrationIsWholeOrNothing has a migration fail in its middle.
func TestMigrationIsWholeOrNothing(t *testing.T) {
	aboutSQLite(t)
	path := filepath.Join(t.TempDir(), "store.db")
	old := must(sql.Open("sqlite", path))(t)
	must(old.Exec(string(must(os.ReadFile("testdata/version1.sql"))(t)) + `; CREATE TABLE deployments (in_the_way INTEGER)`))(t)
	ok(t, old.Close())
	_, err := Open(path, Options{Key: testKey})
	refused(t, err, nil, "migration 0002_environments", "deployments already exists")
	old = must(sql.Open("sqlite", path))(t)
	defer old.Close()
	var n int
	ok(t, old.QueryRow(`SELECT (SELECT count(*) FROM sqlite_schema WHERE name = 'environments') + (SELECT count(*) FROM schema_migrations)`).Scan(&n))
	if n != 1 {
		t.Errorf("half of it is there: %d", n)
	}
}

// TestWhatIsNoDatabase opens files that are damaged, another program's, or in use.
func TestWhatIsNoDatabase(t *testing.T) {
	aboutSQLite(t)
	sound := func(t *testing.T, path string) {
		db := openAt(t, path)
		for range 30 {
			p := newPipeline(t, db, "a/b", nil)
			newJob(t, db, p, "build", "success")
		}
		ok(t, db.Close())
	}
	for _, c := range []struct {
		name string
		make func(t *testing.T, path string)
		kind error
		says []string
	}{
		{"text", func(t *testing.T, path string) {
			ok(t, os.WriteFile(path, bytes.Repeat([]byte("no database\n"), 1000), 0o600))
		}, ErrCorrupt, []string{"is damaged", "store.db-wal", "keelson store restore FILE puts a backup in its place", "Git and the clusters have everything else"}},
		{"overwritten pages", func(t *testing.T, path string) {
			sound(t, path)
			f := must(os.OpenFile(path, os.O_RDWR, 0))(t)
			defer f.Close()
			size := must(f.Stat())(t).Size()
			for at := int64(8192); at < size; at += 4096 {
				must(f.WriteAt(bytes.Repeat([]byte{0xa5}, 2048), at))(t)
			}
		}, ErrCorrupt, []string{"keelson store restore FILE"}},
		{"cut", func(t *testing.T, path string) {
			sound(t, path)
			ok(t, os.Truncate(path, 3*4096))
		}, ErrCorrupt, []string{"keelson store restore FILE"}},
		{"another program's", func(t *testing.T, path string) {
			db := must(sql.Open("sqlite", path))(t)
			must(db.Exec(`CREATE TABLE bookmarks (url TEXT)`))(t)
			ok(t, db.Close())
		}, nil, []string{"another program", "name another file"}},
		{"in use", func(t *testing.T, path string) { openAt(t, path) }, ErrLocked, []string{"end it first"}},
		{"a directory", func(t *testing.T, path string) { ok(t, os.Mkdir(path, 0o700)) }, ErrReadOnly, []string{"store.db"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store.db")
			c.make(t, path)
			before, _ := os.ReadFile(path)
			_, err := Open(path, Options{Key: testKey})
			refused(t, err, c.kind, c.says...)
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) && c.kind != ErrLocked {
				t.Error("the file was changed")
			}
		})
	}
}

// TestNoSpace fills a real file system: nothing is half written, what was acknowledged stays, and with room it goes on.
func TestNoSpace(t *testing.T) {
	aboutSQLite(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { ok(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	path := filepath.Join(dir, "store.db")
	db := openAt(t, path)
	ctx := t.Context()
	p := newPipeline(t, db, "a/b", nil)
	entry := make([]byte, 100<<10)
	rand.NewChaCha8([32]byte{}).Read(entry)
	var end int64
	var err error
	for err == nil {
		end, err = db.Advance(ctx, p.ID, end, Step{Events: [][]byte{entry, entry}, Status: fmt.Sprint("status", end)})
	}
	refused(t, err, ErrFull, "advance pipeline", "no space left", "make room")
	w := must(db.LogWriter(1))(t)
	for err = nil; err == nil; {
		_, err = w.Write(entry)
	}
	refused(t, err, ErrFull, "write the log of job 1")
	if s := must(db.Saved(ctx, p.ID))(t); int64(len(s.Journal)) != end || end == 0 || end%2 != 0 {
		t.Errorf("%d entries are there, %d were acknowledged", len(s.Journal), end)
	}
	ok(t, unix.Mount("", dir, "", unix.MS_REMOUNT, "size=16m"))
	must(db.Advance(ctx, p.ID, end, Step{Events: [][]byte{entry}}))(t)
	_, err = w.Write(entry)
	ok(t, err)
	ok(t, w.Close())
	ok(t, db.Check(ctx))

	ok(t, db.Close())
	ok(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	_, err = Open(path, Options{Key: testKey})
	refused(t, err, ErrReadOnly, "store.db", "let this user write")
}

// TestFullDatabase needs no rights: SQLite itself says that the database may not grow.
func TestFullDatabase(t *testing.T) {
	aboutSQLite(t)
	db := newDB(t)
	ctx := t.Context()
	p := newPipeline(t, db, "a/b", nil)
	must(db.writer.Exec(`PRAGMA max_page_count = 60`))(t)
	entry := make([]byte, 50<<10)
	rand.NewChaCha8([32]byte{}).Read(entry)
	_, err := db.Advance(ctx, p.ID, 0, Step{Status: "running", Events: slices.Repeat([][]byte{entry}, 10)})
	refused(t, err, ErrFull, "make room")
	if got := must(db.Pipeline(ctx, p.ID))(t); got.Status != "created" {
		t.Errorf("half of it was written: %+v", got)
	}
	if c := must(db.Changes(ctx, db.Seq()-1))(t); c[0].Status != "created" {
		t.Errorf("it was told: %+v", c)
	}
	must(db.Advance(ctx, p.ID, 0, Step{Status: "running"}))(t)

	full := db.logs.path(5)
	ok(t, os.MkdirAll(filepath.Dir(full), 0o700))
	ok(t, os.Symlink("/dev/full", full))
	_, err = must(db.LogWriter(5))(t).Write([]byte("text"))
	refused(t, err, ErrFull, "write the log of job 5")
}

// TestLocked has the sqlite3 program, as it were, hold the lock.
func TestLocked(t *testing.T) {
	aboutSQLite(t)
	db := newDB(t)
	ctx := t.Context()
	p := newPipeline(t, db, "a/b", nil)
	must(db.writer.Exec(`PRAGMA busy_timeout = 100`))(t)
	other := must(sql.Open("sqlite", "file:"+string(db.engine.(inFile))+"?_txlock=immediate"))(t)
	defer other.Close()
	tx := must(other.Begin())(t)
	_, err := db.Advance(ctx, p.ID, 0, Step{Status: "running"})
	refused(t, err, ErrLocked, "end the other process")
	must(db.Pipelines(ctx, PipelineFilter{}))(t) // readers wait for nobody
	ok(t, tx.Rollback())
	must(db.Advance(ctx, p.ID, 0, Step{Status: "running"}))(t)

	gone, cancel := context.WithCancelCause(ctx)
	cancel(errors.New("the client has gone"))
	_, err = db.Pipelines(gone, PipelineFilter{})
	refused(t, err, nil, "list pipelines", "the client has gone")
	_, err = db.Advance(gone, p.ID, 0, Step{Status: "failed"})
	refused(t, err, nil, "the client has gone")
	must(db.Advance(ctx, p.ID, 0, Step{Status: "success"}))(t)
}

// TestDurable holds that a transaction waits for the disk exactly if it says so, also on the connection that takes the place of one
// that was given up.
func TestDurable(t *testing.T) {
	aboutSQLite(t)
	db := newDB(t)
	mode := func(durable bool) (mode int) {
		ok(t, db.write(t.Context(), durable, func(tx *tx) error { return tx.QueryRow(`PRAGMA synchronous`).Scan(&mode) }))
		return mode
	}
	giveUp := func() {
		ctx, cancel := context.WithCancel(t.Context())
		err := db.write(ctx, true, func(tx *tx) error {
			cancel()
			time.Sleep(10 * time.Millisecond)
			return tx.exec(`DELETE FROM dead_logs`)
		})
		refused(t, err, context.Canceled)
	}
	const normal, full = 1, 2
	got := []int{mode(false), mode(true), mode(true), mode(false)}
	giveUp()
	got = append(got, mode(true), mode(false))
	mode(true)
	giveUp()
	got = append(got, mode(false), mode(true))
	diff(t, "PRAGMA synchronous", got, []int{normal, full, full, normal, full, normal, normal, full})
}

// TestCloseWaits closes the store while a transaction is under way and another one waits for its turn.
func TestCloseWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	db := openAt(t, path)
	p := newPipeline(t, db, "a/b", nil)
	begun, first, second := make(chan struct{}), make(chan error), make(chan error)
	go func() {
		first <- db.write(t.Context(), false, func(tx *tx) error {
			close(begun)
			time.Sleep(50 * time.Millisecond)
			return tx.exec(`UPDATE pipelines SET status = 'success' WHERE id = ?`, p.ID)
		})
	}()
	<-begun
	go func() { _, err := db.Advance(t.Context(), p.ID, 0, Step{Status: "failed"}); second <- err }()
	time.Sleep(10 * time.Millisecond)
	closed := make(chan error)
	go func() { closed <- db.Close() }()
	ok(t, <-first)
	refused(t, <-second, ErrClosed)
	ok(t, <-closed)
	if _, err := os.Stat(path + "-wal"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the write-ahead log is left: %v", err)
	}
	if got := must(openAt(t, path).Pipeline(t.Context(), p.ID))(t); got.Status != "success" {
		t.Errorf("it is %s", got.Status)
	}
	_, err := db.Pipeline(t.Context(), p.ID)
	refused(t, err, ErrClosed)
	ok(t, db.Close()) // again
}

// openAfterCrash opens a database that a process had which is no more: PostgreSQL may need a while to notice, on a busy machine.
func openAfterCrash(t *testing.T, path string) *DB {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		db, err := Open(path, Options{Key: testKey, PostgreSQL: database(t, path), Now: func() time.Time { return day }})
		if err == nil {
			t.Cleanup(func() { db.Close() })
			return db
		}
		if !errors.Is(err, ErrLocked) || os.Getenv(serverVariable) == "" || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// TestCrashHelper is the process that TestCrash kills: it says what was acknowledged.
func TestCrashHelper(t *testing.T) {
	path := os.Getenv("KEELSON_TEST_STORE")
	if path == "" {
		t.Skip("TestCrash starts it")
	}
	db := openAfterCrash(t, path)
	ctx := t.Context()
	p := newPipeline(t, db, "a/b", nil)
	fmt.Println("pipeline", p.ID)
	var all sync.WaitGroup
	all.Go(func() {
		var end int64
		for i := 0; ; i++ {
			j := Job{ID: must(db.NextID(ctx))(t), Name: fmt.Sprint("job", i), Attempt: 1, Status: "success"}
			s := Step{Events: [][]byte{fmt.Append(nil, "a", i), fmt.Append(nil, "b", i)}, Status: fmt.Sprint("s", i), Jobs: []Job{j}, Durable: i%7 == 0}
			end = must(db.Advance(ctx, p.ID, end, s))(t)
			fmt.Println("step", p.ID, i)
			fmt.Println("id", j.ID, 0)
		}
	})
	all.Go(func() {
		for i := 0; ; i++ {
			fmt.Println("command", must(db.Enqueue(ctx, Command{Kind: "play", Args: fmt.Append(nil, i)}))(t))
		}
	})
	all.Go(func() {
		w := must(db.LogWriter(p.ID))(t)
		for n := 0; ; {
			m, err := fmt.Fprintf(w, "line %d\n", n)
			ok(t, err)
			n += m
			fmt.Println("log", p.ID, n)
		}
	})
	all.Go(func() {
		for {
			gone := newPipeline(t, db, "c/d", nil)
			rest(t, db, gone, "success")
			must(db.DeletePipeline(ctx, gone.ID))(t)
			fmt.Println("deleted", gone.ID)
		}
	})
	all.Wait()
}

// TestCrash kills a process in the middle of its writes, again and again: what it has said is there, and nothing is half there.
func TestCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	said := map[string]map[int64]int64{} // what -> number -> how far
	ids := map[int64]bool{}
	for range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCrashHelper$")
		cmd.Env = append(os.Environ(), "KEELSON_TEST_STORE="+path)
		out := must(cmd.StdoutPipe())(t)
		ok(t, cmd.Start())
		// From when everything goes on: a machine that is busy takes seconds to start a process, and there would be nothing to cut short.
		kill := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
		begun := map[string]int{}
		lines := bufio.NewReader(out)
		for {
			line, err := lines.ReadString('\n')
			if err != nil { // a last line without an end was not said
				break
			}
			var what string
			var id, n int64
			fmt.Sscan(line, &what, &id, &n)
			if what == "id" {
				if ids[id] {
					t.Errorf("number %d was given twice", id)
				}
				ids[id] = true
			}
			if said[what] == nil {
				said[what] = map[int64]int64{}
			}
			said[what][id] = n
			if begun[what]++; begun[what] == crashLeast[what] && len(begun) == len(crashLeast) && enough(begun) {
				kill.Reset(rand.N(300 * time.Millisecond))
			}
		}
		kill.Stop()
		cmd.Process.Kill()
		cmd.Wait()
		look(t, path, said)
	}
	for what, least := range map[string]int{"pipeline": 5, "step": 5, "command": 20, "log": 5, "deleted": 5} {
		if len(said[what]) < least {
			t.Errorf("only %d of %s", len(said[what]), what)
		}
	}
}

// crashLeast is how much a process of TestCrash says before it is killed.
var crashLeast = map[string]int{"id": 1, "pipeline": 1, "step": 10, "command": 10, "log": 10, "deleted": 2}

func enough(said map[string]int) bool {
	for what, least := range crashLeast {
		if said[what] < least {
			return false
		}
	}
	return true
}

// look compares a database with what was said of it.
func look(t *testing.T, path string, said map[string]map[int64]int64) {
	t.Helper()
	db := openAfterCrash(t, path)
	defer db.Close()
	ctx := t.Context()
	ok(t, db.Check(ctx))
	for id, i := range said["step"] {
		s := must(db.Saved(ctx, id))(t)
		p := must(db.Pipeline(ctx, id))(t)
		jobs := must(db.Jobs(ctx, id))(t)
		steps := len(jobs)
		if int64(steps) < i+1 || len(s.Journal) != 2*steps || s.End != int64(2*steps) || p.Status != fmt.Sprint("s", steps-1) {
			t.Errorf("pipeline %d said step %d: %d jobs, %d entries up to %d, %s", id, i, steps, len(s.Journal), s.End, p.Status)
		}
		for n, entry := range s.Journal {
			if want := fmt.Sprintf("%c%d", "ab"[n%2], n/2); string(entry) != want {
				t.Errorf("entry %d is %s", n, entry)
			}
		}
	}
	taken := map[int64]bool{}
	for range said["command"] {
		taken[must(db.Take(ctx))(t).ID] = true
	}
	for id := range said["command"] {
		if !taken[id] && id <= db.taken {
			t.Errorf("command %d is lost", id)
		}
	}
	for id, n := range said["log"] {
		if _, size, err := db.ReadLog(id, 0, 0); size < n || err != nil {
			t.Errorf("the log of %d has %d bytes, %d were said: %v", id, size, n, err)
		}
	}
	for id := range said["deleted"] {
		if _, err := db.Pipeline(ctx, id); !errors.Is(err, ErrNotFound) {
			t.Errorf("pipeline %d is there: %v", id, err)
		}
	}
	var dead int
	ok(t, db.reader.QueryRow(`SELECT count(*) FROM dead_logs`).Scan(&dead))
	if dead != 0 {
		t.Errorf("%d logs are to be deleted", dead)
	}
}

// TestAtOnce has pipelines advance while others read lists, follow logs and delete.
func TestAtOnce(t *testing.T) {
	db := newDB(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	start := db.Seq()
	var drivers, others sync.WaitGroup
	for i := range 20 {
		p := newPipeline(t, db, fmt.Sprint("a/", i%3), nil)
		drivers.Go(func() {
			var end int64
			for n := range 30 {
				j := Job{ID: must(db.NextID(ctx))(t), Name: "job", Attempt: n + 1, Status: "running"}
				end = must(db.Advance(ctx, p.ID, end, Step{Events: [][]byte{[]byte("e")}, Status: fmt.Sprint(n), Jobs: []Job{j}, Rest: n == 29}))(t)
				// One's own write is seen at once.
				if got := must(db.Pipeline(ctx, p.ID))(t); got.Status != fmt.Sprint(n) {
					t.Errorf("pipeline %d is %s after %d", p.ID, got.Status, n)
				}
			}
		})
	}
	for range 4 {
		others.Go(func() {
			for ctx.Err() == nil {
				for _, p := range must(db.Pipelines(t.Context(), PipelineFilter{Project: 1}))(t) {
					s := must(db.Saved(t.Context(), p.ID))(t)
					if int64(len(s.Journal)) != s.End {
						t.Errorf("pipeline %d: %d entries up to %d", p.ID, len(s.Journal), s.End)
					}
				}
			}
		})
	}
	var told atomic.Int64
	others.Go(func() {
		for after := start; ; {
			c, err := db.Changes(ctx, after)
			if err != nil {
				return
			}
			for _, c := range c {
				if c.Seq != after+1 {
					t.Errorf("change %d comes after %d", c.Seq, after)
				}
				after++
				told.Add(1)
			}
		}
	})
	drivers.Wait()
	for told.Load() < db.Seq()-start && t.Context().Err() == nil {
		time.Sleep(time.Millisecond)
	}
	stop()
	others.Wait()
	if n := told.Load(); n < 2*20*30 {
		t.Errorf("%d changes were told", n)
	}
	if n := len(must(db.Unfinished(t.Context()))(t)); n != 0 {
		t.Errorf("%d pipelines are unfinished", n)
	}
	ok(t, db.Check(t.Context()))
}

// TestPaging compares lists with what a loop over all rows gives, for filters and pages by chance.
func TestPaging(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	var all []Pipeline
	for range 400 {
		p := newPipeline(t, db, pick("a/a", "a/b", "a/c"), func(p *Pipeline) {
			p.Ref, p.Status, p.Source, p.SHA = pick("main", "x", "y"), pick("success", "failed"), pick("push", "web"), pick("1", "2", "3")
			if r.IntN(5) == 0 {
				p.Parent = 1 + r.Int64N(3)
			}
		})
		all = append([]Pipeline{p}, all...)
	}
	for range 500 {
		f := PipelineFilter{
			Project: r.Int64N(4), Ref: pick("", "", "main", "x", "none"), Status: pick("", "", "success"), Source: pick("", "", "web"), SHA: pick("", "", "", "2"),
			Top: r.IntN(3) == 0, Limit: 1 + r.IntN(50),
		}
		if r.IntN(4) == 0 {
			f.Parent = 1 + r.Int64N(3)
		}
		var want, got []Pipeline
		for _, p := range all {
			if (f.Project == 0 || p.Project == f.Project) && (f.Ref == "" || p.Ref == f.Ref) && (f.Status == "" || p.Status == f.Status) &&
				(f.Source == "" || p.Source == f.Source) && (f.SHA == "" || p.SHA == f.SHA) && (f.Parent != 0 && p.Parent == f.Parent || f.Parent == 0 && (!f.Top || p.Parent == 0)) {
				want = append(want, p)
			}
		}
		next := f
		for {
			list := must(db.Pipelines(ctx, next))(t)
			got = append(got, list...)
			if len(list) < f.Limit {
				break
			}
			next.Before = list[len(list)-1].ID
		}
		diff(t, fmt.Sprintf("%+v", f), got, want)
	}
}

// TestIndexes holds that no list sorts or reads a table from one end to the other.
func TestIndexes(t *testing.T) {
	aboutSQLite(t)
	db := newDB(t)
	ctx := t.Context()
	id := newPipeline(t, db, "a/b", nil).ID
	for _, f := range []PipelineFilter{
		{}, {Project: 1}, {Project: 1, Ref: "x"}, {Project: 1, Ref: "x", Status: "s"}, {Status: "s"}, {Source: "s"}, {SHA: "x"}, {Parent: 1}, {Project: 1, Source: "x", Before: 9},
	} {
		must(db.Pipelines(ctx, f))(t)
	}
	env, deployed, err := db.BeginDeployment(ctx, Environment{Project: 1, Name: "review"}, Deployment{Pipeline: id, Job: 9})
	ok(t, err)
	must(db.ReportDeployment(ctx, deployed.ID, Report{URL: "https://x.example"}))(t)
	done := Job{ID: 9, Name: "deploy", Attempt: 1, Status: "success", Environment: "review", Finished: day}
	must(db.Advance(ctx, id, 0, Step{Jobs: []Job{done}, Stops: map[string]bool{"review": true, "other": false}}))(t)
	must(db.Unfinished(ctx))(t)
	must(db.Jobs(ctx, id))(t)
	must(db.Saved(ctx, id))(t)
	must(db.DueToStop(ctx, day))(t)
	must(db.EnvironmentByID(ctx, env.ID))(t)
	must(db.LastDeployment(ctx, env.ID))(t)
	must(db.Environments(ctx, EnvironmentFilter{Project: 1, Branch: "x"}))(t)
	for _, f := range []DeploymentFilter{{Environment: 1}, {Environment: 1, Status: "success"}, {Pipeline: 1}, {Project: 1}} {
		must(db.Deployments(ctx, f))(t)
	}
	rest(t, db, Pipeline{ID: id}, "success")
	must(db.Retain(ctx, Retention{Keep: 1, Since: day}))(t)
	must(db.DeletePipeline(ctx, id))(t)
	explain := func(pool *pool) {
		pool.statements.Range(func(query, _ any) bool {
			q := query.(string)
			rows := must(pool.Query("EXPLAIN QUERY PLAN "+q, make([]any, strings.Count(q, "?"))...))(t)
			defer rows.Close()
			for rows.Next() {
				var a, b, c int
				var plan string
				ok(t, rows.Scan(&a, &b, &c, &plan))
				whole := strings.HasPrefix(plan, "SCAN") && !strings.Contains(plan, "INDEX") && !strings.Contains(q, "LIMIT") && !strings.HasPrefix(plan, "SCAN f")
				small := strings.Contains(q, "FROM dead_logs") || strings.Contains(q, "FROM projects ORDER") || strings.Contains(q, "FROM schema_migrations")
				sorts := strings.Contains(plan, "TEMP B-TREE") && !strings.Contains(q, "FROM jobs WHERE pipeline") && !strings.Contains(q, "auto_stop <> 0")
				if (whole || sorts) && !small {
					t.Errorf("%s\n\t%s", plan, q)
				}
			}
			ok(t, rows.Err())
			return true
		})
	}
	explain(db.reader)
	explain(db.writer)
}

var _ io.ReadCloser = (*Tail)(nil)
