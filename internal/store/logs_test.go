package store

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestLogsAreAppendedToOverRestarts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	db := openAt(t, path)
	j := newJob(t, db, newPipeline(t, db, "a/b", nil), "build", "running")
	write := func(text string) {
		t.Helper()
		w := must(db.LogWriter(j.ID))(t)
		_, err := io.WriteString(w, text)
		ok(t, err)
		ok(t, w.Close())
	}
	if chunk, size, err := db.ReadLog(j.ID, 0, 10); len(chunk) != 0 || size != 0 || err != nil {
		t.Errorf("nothing was written: %q %d %v", chunk, size, err)
	}
	write("one\n")
	ok(t, db.Close())
	// A write that a crash has torn.
	f := must(os.OpenFile(db.logs.path(j.ID), os.O_APPEND|os.O_WRONLY, 0))(t)
	f.WriteString("tw")
	f.Close()
	db = openAt(t, path)
	write("three\n")
	for _, c := range []struct {
		offset int64
		limit  int
		want   string
	}{
		{0, 100, "one\ntwthree\n"}, {4, 2, "tw"}, {-6, 100, "three\n"}, {-100, 3, "one"}, {12, 10, ""}, {1 << 40, 10, ""}, {0, 0, ""}, {0, -1, ""},
	} {
		chunk, size, err := db.ReadLog(j.ID, c.offset, c.limit)
		if string(chunk) != c.want || size != 12 || err != nil {
			t.Errorf("from %d at most %d: %q of %d, %v", c.offset, c.limit, chunk, size, err)
		}
	}
	if want := filepath.Join(filepath.Dir(path), "logs", fmt.Sprintf("%02x", j.ID), fmt.Sprintf("%d.log", j.ID)); db.logs.path(j.ID) != want {
		t.Errorf("it is in %s", db.logs.path(j.ID))
	}
	if info := must(os.Stat(db.logs.path(j.ID)))(t); info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v", info.Mode())
	}
	_, err := db.LogWriter(0)
	refused(t, err, nil, "0 is not the number of a job")
}

// TestFollow holds where following waits and where it ends.
func TestFollow(t *testing.T) {
	db := newDB(t)
	p := newPipeline(t, db, "a/b", nil)
	over := func(j Job) {
		j.Status, j.Finished = "success", day
		must(db.Advance(t.Context(), p.ID, 0, Step{Jobs: []Job{j}}))(t)
	}
	say := func(w *Log, text string) {
		_, err := io.WriteString(w, text)
		ok(t, err)
	}
	for i, c := range []struct {
		name   string
		offset int64
		do     func(j Job)
		want   string
	}{
		{"written while it is followed", 0, func(j Job) {
			w := must(db.LogWriter(j.ID))(t)
			for range 3 {
				time.Sleep(5 * time.Millisecond)
				say(w, "line\n")
			}
			ok(t, w.Close())
		}, "line\nline\nline\n"},
		{"from an offset on, also one that is not there yet", 7, func(j Job) {
			w := must(db.LogWriter(j.ID))(t)
			say(w, "line\n")
			time.Sleep(5 * time.Millisecond)
			say(w, "line\n")
			ok(t, w.Close())
		}, "ne\n"},
		{"closed by the last of two writers", 0, func(j Job) {
			a, b := must(db.LogWriter(j.ID))(t), must(db.LogWriter(j.ID))(t)
			say(a, "a")
			ok(t, a.Close())
			time.Sleep(5 * time.Millisecond)
			say(b, "b")
			ok(t, b.Close())
		}, "ab"},
		{"a job that is over without a log", 0, over, ""},
		{"a job whose writer a restart has taken away", 0, func(j Job) {
			ok(t, os.MkdirAll(filepath.Dir(db.logs.path(j.ID)), 0o700))
			ok(t, os.WriteFile(db.logs.path(j.ID), []byte("before"), 0o600))
			time.Sleep(5 * time.Millisecond)
			over(j)
		}, "before"},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := newJob(t, db, p, fmt.Sprint("job", i), "running")
			tail := db.Follow(t.Context(), j.ID, c.offset)
			defer tail.Close()
			got := make(chan string)
			go func() { got <- string(must(io.ReadAll(tail))(t)) }()
			time.Sleep(5 * time.Millisecond) // it waits now
			c.do(j)
			select {
			case text := <-got:
				diff(t, "followed", text, c.want)
			case <-time.After(10 * time.Second):
				t.Fatal("it does not end")
			}
			late := db.Follow(t.Context(), j.ID, 0)
			defer late.Close()
			over(j)
			must(io.ReadAll(late))(t) // ends, too
		})
	}
	j := newJob(t, db, p, "waits", "running")
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	tail := db.Follow(ctx, j.ID, 0)
	_, err := io.ReadAll(tail)
	refused(t, err, context.DeadlineExceeded)
	ok(t, tail.Close())
	if n := len(db.logs.tails); n != 0 {
		t.Errorf("%d tails are kept for nobody", n)
	}
	if text := must(io.ReadAll(db.Follow(t.Context(), 12345, 0)))(t); len(text) != 0 {
		t.Error("there is no such job")
	}
}

// TestManyLogs writes and follows more logs at once than files may be open.
func TestManyLogs(t *testing.T) {
	db := newDB(t)
	const jobs, lines = 3 * openLogs, 20
	var all sync.WaitGroup
	for i := range int64(jobs) {
		w := must(db.LogWriter(i + 1))(t)
		all.Go(func() {
			for n := range lines {
				fmt.Fprintf(w, "%d %d\n", i, n)
			}
			ok(t, w.Close())
		})
		all.Go(func() {
			tail := db.Follow(t.Context(), i+1, 0)
			defer tail.Close()
			var want strings.Builder
			for n := range lines {
				fmt.Fprintf(&want, "%d %d\n", i, n)
			}
			diff(t, "log", string(must(io.ReadAll(tail))(t)), want.String())
		})
	}
	all.Wait()
	if n := len(db.logs.files); n > openLogs || n != db.logs.idle.Len() {
		t.Errorf("%d files are open, %d of them for nobody", n, db.logs.idle.Len())
	}
	ok(t, db.Close())
	if n := len(db.logs.files); n != 0 {
		t.Errorf("%d files are open after the end", n)
	}
}

// TestLogsInBoundedMemory writes and follows 100 MB at once.
func TestLogsInBoundedMemory(t *testing.T) {
	db := newDB(t)
	const size, chunk = 100 << 20, 32 << 10
	w := must(db.LogWriter(1))(t)
	tail := db.Follow(t.Context(), 1, 0)
	defer tail.Close()
	block := make([]byte, chunk)
	rand.NewChaCha8([32]byte{}).Read(block)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	go func() {
		for range size / chunk {
			if _, err := w.Write(block); err != nil {
				t.Error(err)
			}
		}
		ok(t, w.Close())
	}()
	buf, n := make([]byte, chunk), 0
	for {
		m, err := tail.Read(buf)
		for i := 0; i < m; { // a read may end anywhere in a block
			at := (n + i) % chunk
			same := min(m-i, chunk-at)
			if !bytes.Equal(buf[i:i+same], block[at:at+same]) {
				t.Fatalf("not what was written at %d", n+i)
			}
			i += same
		}
		n += m
		if err == io.EOF {
			break
		}
		ok(t, err)
	}
	runtime.ReadMemStats(&after)
	if n != size {
		t.Errorf("%d bytes were followed", n)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 8<<20 {
		t.Errorf("it took %d bytes of memory", used)
	}
}

// TestDeadLogsGoAfterACrash: the process has ended after the rows of a pipeline were deleted and before its logs were.
func TestDeadLogsGoAfterACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	db := openAt(t, path)
	for job := range int64(3) {
		w := must(db.LogWriter(job + 1))(t)
		_, err := io.WriteString(w, "text")
		ok(t, err)
		ok(t, w.Close())
	}
	must(db.writer.Exec(`INSERT INTO dead_logs (job) VALUES (1), (3), (4)`))(t) // the log of 4 is gone already
	ok(t, db.Close())
	db = openAt(t, path)
	var sizes []int64
	for job := range int64(4) {
		_, size, err := db.ReadLog(job+1, 0, 10)
		ok(t, err)
		sizes = append(sizes, size)
	}
	diff(t, "sizes", sizes, []int64{0, 4, 0, 0})
}
