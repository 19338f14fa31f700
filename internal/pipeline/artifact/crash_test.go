package artifact

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// version writes a set of files that all say which version they are, and tells which version a directory has.
func version(t testing.TB, dir string, v int) {
	t.Helper()
	files := map[string]string{"c/big": strings.Repeat(fmt.Sprintf("%08d", v), 1<<17)}
	for i := range 30 {
		files[fmt.Sprintf("c/d%d/f%d", i%3, i)] = fmt.Sprintf("%08d", v)
	}
	if err := os.RemoveAll(filepath.Join(dir, "c")); err != nil {
		t.Fatal(err)
	}
	fill(t, dir, files)
}

func versionOf(t testing.TB, dir string) string {
	t.Helper()
	files := list(t, dir)
	v := files["c/big"]
	if len(v) != 1<<20 {
		t.Errorf("c/big has %d bytes", len(v))
		return ""
	}
	v = v[:8]
	n := 0
	for name, content := range files {
		if strings.Contains(name, "/f") {
			n++
			if content != v {
				t.Errorf("%s has %q, c/big has %q", name, content, v)
			}
		}
	}
	if n != 30 {
		t.Errorf("there are %d files", n)
	}
	return v
}

// TestCrashHelper is the process that TestCrash kills: it saves one version after the other.
func TestCrashHelper(t *testing.T) {
	at := os.Getenv("KEELSON_TEST_STORE")
	if at == "" {
		t.Skip("it runs for TestCrash")
	}
	s, err := Open(at, Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	w := Work{Dir: dir}
	for v := os.Getpid() % 1000 * 1000; ; v++ {
		version(t, dir, v)
		if _, err := s.Save(context.Background(), Key{Job: "j"}, &pipeline.Artifacts{Paths: []string{"c"}}, w, true); err != nil {
			t.Fatal(err)
		}
		if _, err := s.SaveCaches(context.Background(), Scope{}, []pipeline.Cache{{Key: "k", Paths: []string{"c"}}}, w, true); err != nil {
			t.Fatal(err)
		}
		if err := s.Restore(context.Background(), []Key{{Job: "j"}}, Work{Dir: os.Getenv("KEELSON_TEST_DIR")}); err != nil {
			t.Fatal(err)
		}
		if v%4 == 3 {
			if _, err := s.Sweep(context.Background(), SweepOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		fmt.Println("saved", v)
	}
}

// A process that is killed while it saves, restores or sweeps leaves what was saved before, and no rubbish that stays.
func TestCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some seconds")
	}
	s, _ := open(t, Options{})
	s.now = time.Now
	work := t.TempDir()
	for round := range 12 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCrashHelper$", "-test.v")
		cmd.Env = append(os.Environ(), "KEELSON_TEST_STORE="+s.dir, "KEELSON_TEST_DIR="+work)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for lines.Scan() && !strings.HasPrefix(lines.Text(), "saved") {
		}
		go io.Copy(io.Discard, out)
		time.Sleep(time.Duration(rand.IntN(60_000)) * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()

		for _, what := range []string{"artifacts", "cache"} {
			to := t.TempDir()
			if what == "artifacts" {
				err = s.Restore(t.Context(), []Key{{Job: "j"}}, Work{Dir: to})
			} else {
				var results []CacheResult
				results, err = s.RestoreCaches(t.Context(), Scope{}, []pipeline.Cache{{Key: "k", Paths: []string{"c"}}}, Work{Dir: to})
				if err == nil && results[0].Status != CacheHit {
					err = fmt.Errorf("%+v", results[0])
				}
			}
			if err != nil {
				t.Fatalf("round %d, %s: %v", round, what, err)
			}
			versionOf(t, to)
		}
		swept, err := s.Sweep(t.Context(), SweepOptions{})
		if err != nil || swept.Busy {
			t.Fatalf("round %d: %+v, %v", round, swept, err)
		}
		for name := range list(t, s.dir) {
			if strings.Contains(name, ".tmp") {
				t.Errorf("%s is still there", name)
			}
		}
	}
	left, _ := filepath.Glob(filepath.Join(work, stageHere, "*"))
	for _, stage := range left {
		if err := os.Chtimes(stage, time.Time{}, time.Now().Add(-time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Restore(t.Context(), []Key{{Job: "j"}}, Work{Dir: work}); err != nil {
		t.Fatal(err)
	}
	versionOf(t, work)
	if _, err := os.Stat(filepath.Join(work, stageHere)); err == nil {
		t.Errorf("stages of killed processes are still there, there were %d", len(left))
	}
}

// Who reads a cache while others write and sweep sees one version, whole.
func TestConcurrent(t *testing.T) {
	s, _ := open(t, Options{})
	other, err := Open(s.dir, Options{}) // as another process would
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	cache := []pipeline.Cache{{Key: "k", Paths: []string{"c"}}}
	dir := t.TempDir()
	version(t, dir, 0)
	if _, err := s.SaveCaches(t.Context(), Scope{}, cache, Work{Dir: dir}, true); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for g := range 4 {
		group.Go(func() {
			store := []*Store{s, other}[g%2]
			dir := t.TempDir()
			for i := range 8 {
				version(t, dir, g*1000+i)
				if _, err := store.SaveCaches(t.Context(), Scope{}, cache, Work{Dir: dir}, true); err != nil {
					t.Error(err)
				}
			}
		})
		group.Go(func() {
			for range 8 {
				to := t.TempDir()
				results, err := s.RestoreCaches(t.Context(), Scope{}, cache, Work{Dir: to})
				if err != nil || results[0].Status != CacheHit {
					t.Errorf("%+v, %v", results, err)
					return
				}
				versionOf(t, to)
			}
		})
	}
	group.Go(func() {
		for range 20 {
			if _, err := other.Sweep(t.Context(), SweepOptions{}); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Millisecond)
		}
	})
	group.Wait()
}

// Jobs that restore into one directory at the same time do not disturb each other.
func TestConcurrentRestore(t *testing.T) {
	s, _ := open(t, Options{})
	dir, to := t.TempDir(), t.TempDir()
	version(t, dir, 7)
	if _, err := s.Save(t.Context(), Key{Job: "j"}, &pipeline.Artifacts{Paths: []string{"c"}}, Work{Dir: dir}, true); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for i := range 12 {
		group.Go(func() {
			if i%4 == 3 { // a job that makes the same directories
				for n := range 200 {
					os.MkdirAll(filepath.Join(to, fmt.Sprintf("c/d%d", n%3)), 0o755)
					os.WriteFile(filepath.Join(to, fmt.Sprintf("c/d%d/other", n%3)), nil, 0o644)
				}
				return
			}
			if err := s.Restore(t.Context(), []Key{{Job: "j"}}, Work{Dir: to, InPlace: true}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	versionOf(t, to)
	if _, err := os.Stat(filepath.Join(to, stageHere)); err == nil {
		t.Error("a stage was left")
	}
}
