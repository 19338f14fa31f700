package artifact

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// sets are what is saved and restored: a few large files, and many small ones as node_modules has them.
var sets = []struct {
	name        string
	files, size int
}{{"1x1KB", 1, 1 << 10}, {"1x64MB", 1, 64 << 20}, {"2000x4KB", 2000, 4 << 10}}

func randomFiles(b *testing.B, dir string, files, size int) int64 {
	b.Helper()
	r := rand.NewChaCha8([32]byte{1})
	content := make([]byte, size)
	for i := range files {
		r.Read(content)
		at := filepath.Join(dir, fmt.Sprintf("build/d%d/e%d/f%d", i%10, i%100, i))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(at, content, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return int64(files) * int64(size)
}

func BenchmarkSave(b *testing.B) {
	for _, set := range sets {
		for _, how := range []string{"new", "unchanged", "tar"} {
			b.Run(set.name+"/"+how, func(b *testing.B) {
				dir := b.TempDir()
				b.SetBytes(randomFiles(b, dir, set.files, set.size))
				s, _ := open(b, Options{})
				defer cpu(b)()
				for b.Loop() {
					if how == "tar" {
						run(b, "tar", "-cf", filepath.Join(s.dir, "x.tar"), "-C", dir, "build")
						continue
					}
					if _, err := s.Save(b.Context(), Key{Job: "j"}, &pipeline.Artifacts{Paths: []string{"build"}}, Work{Dir: dir}, true); err != nil {
						b.Fatal(err)
					}
					if how == "new" {
						b.StopTimer()
						os.RemoveAll(filepath.Join(s.dir, "blobs"))
						b.StartTimer()
					}
				}
			})
		}
	}
}

func BenchmarkRestore(b *testing.B) {
	for _, set := range sets {
		for _, how := range []string{"new", "over", "tar"} {
			b.Run(set.name+"/"+how, func(b *testing.B) {
				dir, to := b.TempDir(), b.TempDir()
				b.SetBytes(randomFiles(b, dir, set.files, set.size))
				s, _ := open(b, Options{})
				if _, err := s.Save(b.Context(), Key{Job: "j"}, &pipeline.Artifacts{Paths: []string{"build"}}, Work{Dir: dir}, true); err != nil {
					b.Fatal(err)
				}
				run(b, "tar", "-cf", filepath.Join(s.dir, "x.tar"), "-C", dir, "build")
				defer cpu(b)()
				for b.Loop() {
					if how == "tar" {
						run(b, "tar", "-xf", filepath.Join(s.dir, "x.tar"), "-C", to)
					} else if err := s.Restore(b.Context(), []Key{{Job: "j"}}, Work{Dir: to}); err != nil {
						b.Fatal(err)
					}
					if how != "over" {
						b.StopTimer()
						os.RemoveAll(filepath.Join(to, "build"))
						b.StartTimer()
					}
				}
			})
		}
	}
}

// BenchmarkFan has twenty jobs that leave a file each and twenty that take one each, as in the bench of artifacts.
func BenchmarkFan(b *testing.B) {
	dirs := make([]string, 20)
	for i := range dirs {
		dirs[i] = b.TempDir()
		if err := os.WriteFile(filepath.Join(dirs[i], "out"), fmt.Appendf(nil, "%d", i), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	to := b.TempDir()
	s, _ := open(b, Options{})
	defer cpu(b)()
	for b.Loop() {
		var group sync.WaitGroup
		for i := range 20 {
			group.Go(func() {
				key := Key{Pipeline: "1", Job: fmt.Sprint(i)}
				if _, err := s.Save(b.Context(), key, &pipeline.Artifacts{Paths: []string{"out"}}, Work{Dir: dirs[i], Log: io.Discard}, true); err != nil {
					b.Error(err)
				}
				into := filepath.Join(to, key.Job)
				os.MkdirAll(into, 0o755)
				if err := s.Restore(b.Context(), []Key{key}, Work{Dir: into}); err != nil {
					b.Error(err)
				}
			})
		}
		group.Wait()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/40, "µs/step")
}

func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		s, err := Open(dir, Options{})
		if err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}

// cpu reports the processor time that a step takes, here and in children: it says more than the clock on a busy machine.
func cpu(b *testing.B) func() {
	used := func() (t time.Duration) {
		for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
			var u syscall.Rusage
			if err := syscall.Getrusage(who, &u); err != nil {
				b.Fatal(err)
			}
			t += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
		return t
	}
	before := used()
	return func() {
		b.ReportMetric(float64((used()-before).Microseconds())/float64(b.N), "cpu-µs/op")
	}
}

func run(b *testing.B, name string, args ...string) {
	b.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
}
