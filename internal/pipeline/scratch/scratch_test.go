package scratch_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"keelson.dev/keelson/internal/pipeline/scratch"
)

func names(t *testing.T, base string) string {
	t.Helper()
	entries, err := os.ReadDir(base)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

func TestSweep(t *testing.T) {
	base := filepath.Join(t.TempDir(), "a[b]*") // no pattern
	outside := t.TempDir()
	for _, dir := range []string{"keelson-job-1/deep", "keelson-ci-23", "keelson-job-x", "keelson-job-1x", "keelson-other-1", "my-keelson-job-1"} {
		if err := os.MkdirAll(filepath.Join(base, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(base, "keelson-job-1", "deep"), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(base, "keelson-job-2"), nil, 0o600); err != nil { // no directory
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(base, "keelson-ci-3")); err != nil {
		t.Fatal(err)
	}
	mine, err := scratch.Make(base, scratch.Job)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(mine.Path()); err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("%v %v", info, err)
	}
	// What this process starts does not hold the lock, nor does it keep the directory alive.
	child := exec.Command("sleep", "60")
	child.Dir = mine.Path()
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	scratch.Sweep(base)
	want := "keelson-ci-3 " + filepath.Base(mine.Path()) + " keelson-job-1x keelson-job-2 keelson-job-x keelson-other-1 my-keelson-job-1"
	if have := strings.Fields(names(t, base)); len(have) != len(strings.Fields(want)) {
		t.Errorf("there are %s, want %s", have, want)
	}
	if _, err := os.Stat(mine.Path()); err != nil {
		t.Error(err)
	}
	if err := mine.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(mine.Path()); err == nil {
		t.Error("it is still there")
	}
}

// TestSweepBeside holds that nobody loses a directory to somebody who sweeps at the same time.
func TestSweepBeside(t *testing.T) {
	base := t.TempDir()
	stop := make(chan struct{})
	var sweepers, makers sync.WaitGroup
	for range 2 {
		sweepers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					scratch.Sweep(base)
				}
			}
		})
	}
	for range 4 {
		makers.Go(func() {
			for range 50 {
				d, err := scratch.Make(base, scratch.Run)
				if err != nil {
					t.Error(err)
					return
				}
				if err := os.WriteFile(filepath.Join(d.Path(), "x"), nil, 0o600); err != nil {
					t.Error(err)
				}
				if err := d.Remove(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	makers.Wait()
	close(stop)
	sweepers.Wait()
	if left := names(t, base); left != "" {
		t.Errorf("there are %s", left)
	}
}
