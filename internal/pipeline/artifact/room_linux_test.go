package artifact

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/diskspace"
)

// small mounts a file system of 64 MiB, of which 16 stay free.
func small(t *testing.T) string {
	t.Helper()
	mount := t.TempDir()
	if err := syscall.Mount("keelson-test", mount, "tmpfs", 0, "size=64m,mode=755"); err != nil {
		t.Skipf("no file system to fill: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(mount, syscall.MNT_DETACH) })
	return mount
}

// zeros makes files with so many MiB.
func zeros(t *testing.T, dir string, sizes map[string]int) {
	t.Helper()
	for name, size := range sizes {
		content := bytes.Repeat([]byte(name), size<<20/len(name))
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func full(t *testing.T, what string, err error) {
	t.Helper()
	var no *diskspace.FullError
	if !errors.As(err, &no) || !strings.Contains(err.Error(), "16 MiB stay free: make room there") {
		t.Errorf("%s: %v", what, err)
	}
}

// Some of a project directory's file system stays free, whatever is to be written there.
func TestExtractLeavesRoom(t *testing.T) {
	s, _ := open(t, Options{})
	fits, large := t.TempDir(), t.TempDir()
	zeros(t, fits, map[string]int{"a": 20})
	zeros(t, large, map[string]int{"b": 20, "c": 20})
	for job, dir := range map[string]string{"fits": fits, "large": large} {
		if _, err := s.Save(t.Context(), Key{Job: job}, &pipeline.Artifacts{Paths: []string{"*"}}, Work{Dir: dir}, true); err != nil {
			t.Fatal(err)
		}
	}
	dir := small(t)
	if err := s.Restore(t.Context(), []Key{{Job: "fits"}}, Work{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	full(t, "artifacts", s.Restore(t.Context(), []Key{{Job: "large"}}, Work{Dir: dir}))
	var b bytes.Buffer
	if err := PackSelected(t.Context(), &b, large, []Selection{{Paths: []string{"*"}}}, nil, Limits{}); err != nil {
		t.Fatal(err)
	}
	full(t, "a bundle", UnpackSelected(t.Context(), bytes.NewReader(b.Bytes()), dir, nil, nil, Limits{}))
	zip := zipOf(t, item{name: "z", content: strings.Repeat("z", 40<<20)})
	full(t, "a zip", Unzip(t.Context(), bytes.NewReader(zip), int64(len(zip)), Work{Dir: dir}, Limits{Ratio: 1 << 30}))
	if got := list(t, dir); len(got) != 1 {
		t.Errorf("%d files are there", len(got))
	}
	if err := UnpackSelected(t.Context(), &b, dir, nil, nil, Limits{Reserve: -1}); err != nil {
		t.Errorf("without a reserve: %v", err)
	}
}

// What others write meanwhile counts too.
func TestRoomWhileExtracting(t *testing.T) {
	dir := small(t)
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	st, err := newStage(root)
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	if err := st.room([]entry{{Path: "f", Size: 40 << 20}}, diskspace.Reserve); err != nil {
		t.Fatal(err)
	}
	st.written = roomEvery - 1
	w := rationed{st, new(bytes.Buffer)}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	zeros(t, dir, map[string]int{"other": 50})
	st.written = roomEvery - 1
	_, err = w.Write([]byte("x"))
	full(t, "a file", err)
}

// The store leaves room too; what it has already needs none, and records may always be written: some free room.
func TestSaveLeavesRoom(t *testing.T) {
	at := small(t)
	s, err := Open(filepath.Join(at, "store"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	dir, key := t.TempDir(), Key{Job: "j"}
	save := func() error {
		_, err := s.Save(t.Context(), key, &pipeline.Artifacts{Paths: []string{"*"}}, Work{Dir: dir}, true)
		return err
	}
	zeros(t, dir, map[string]int{"a": 30})
	if err := save(); err != nil {
		t.Fatal(err)
	}
	zeros(t, dir, map[string]int{"b": 20})
	full(t, "a large file", save())
	os.Remove(filepath.Join(dir, "b"))
	zeros(t, at, map[string]int{"other": 20})
	if err := save(); err != nil {
		t.Errorf("what is there already: %v", err)
	}
	makeTree(t, dir, "small=file")
	full(t, "a small file", save())
	if err := s.Erase(t.Context(), key); err != nil {
		t.Errorf("erase: %v", err)
	}
}

// Directories that nobody may write to, as those of Go's module cache, make way for what is selected, also where the server is not root.
func TestReadOnlyDirectoriesMakeWay(t *testing.T) {
	server, pod := t.TempDir(), t.TempDir()
	makeTree(t, pod, "cache/mod/pkg/file=new", "cache/mod/other=new")
	for _, dir := range []string{"cache/mod/pkg", "cache/mod"} {
		if err := os.Chmod(filepath.Join(pod, dir), 0o555); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, dir := range []string{pod, server} {
			_ = os.Chmod(filepath.Join(dir, "cache/mod"), 0o755)
			_ = os.Chmod(filepath.Join(dir, "cache/mod/pkg"), 0o755)
		}
	})
	selected := []Selection{{Paths: []string{"cache"}}}
	var bundle bytes.Buffer
	if err := PackSelected(t.Context(), &bundle, pod, selected, nil, Limits{}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if os.Geteuid() == 0 { // the thread becomes another user for files, and ends with this
			runtime.LockOSThread()
			if err := errors.Join(os.Chmod(filepath.Dir(server), 0o755), os.Chown(server, 65534, 65534), unix.Setfsuid(65534)); err != nil {
				t.Error(err)
				return
			}
		}
		for range 2 {
			if err := UnpackSelected(t.Context(), bytes.NewReader(bundle.Bytes()), server, selected, nil, Limits{}); err != nil {
				t.Error(err)
			}
		}
		if info, err := os.Stat(filepath.Join(server, "cache/mod/pkg")); err != nil || info.Mode().Perm() != 0o555 {
			t.Errorf("%v, %v", info, err)
		}
		if err := Clear(t.Context(), server, selected, nil, Limits{}); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(server, "cache/mod")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("something is left: %v", err)
		}
	}()
	<-done
}
