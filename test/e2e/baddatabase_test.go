package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBadDatabase has the disk of the database full, and then the database damaged: apps are delivered and repaired as before. What was delivered while the
// disk was full is in the history once there is room, and the damaged database is refused with the way to restore it, which works.
func TestBadDatabase(t *testing.T) {
	t.Parallel()
	in := &instance{data: filepath.Join(t.TempDir(), "bad")}
	dir := filepath.Join(in.data, "ci")
	ok(t, in.up("--port", "0"), nil)
	t.Cleanup(func() { in.keelson("down", "--purge") })
	in.must(t, "down")
	room := onDiskOf(t, dir)
	ok(t, in.up(), nil)
	c := cloneOf(t, in.Git+"/sample.git")
	delivered := func(tag string) {
		t.Helper()
		c.replace("overlays/dev/kustomization.yaml", "newTag: "+backendTag(t, c, "dev"), "newTag: "+tag)
		c.push("Deliver " + tag)
		eventually(t, "the delivery of "+tag, func() error {
			r := tryKubectl(in.Kubeconfig, "-n", "dev", "get", "deployment", "backend", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
			if !strings.HasSuffix(r.out, ":"+tag) {
				return fmt.Errorf("it is %s %s", r.out, r.err)
			}
			return nil
		})
	}
	repaired := func() {
		t.Helper()
		in.kubectl(t, "-n", "dev", "patch", "deployment", "backend", "-p", `{"spec":{"template":{"metadata":{"labels":{"app":"backend"}},"spec":{"containers":[{"name":"backend","image":"evil:1"}]}}}}`)
		eventually(t, "the repair", func() error {
			r := tryKubectl(in.Kubeconfig, "-n", "dev", "get", "deployment", "backend", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
			if r.code != 0 || strings.HasPrefix(r.out, "evil") {
				return fmt.Errorf("it is %s %s", r.out, r.err)
			}
			return nil
		})
	}
	delivered("8.0.0-before")
	backup := filepath.Join(t.TempDir(), "backup.tar")
	in.must(t, "store", "backup", backup)

	room(false)
	delivered("8.0.1-full")
	repaired()
	delivered("8.0.2-full")
	eventually(t, "the log of a full disk", func() error {
		text, err := os.ReadFile(filepath.Join(in.data, "logs", "keelson.log"))
		if err == nil && !strings.Contains(string(text), "there is no space left for the database") {
			err = fmt.Errorf("it does not tell")
		}
		return err
	})
	room(true)
	eventually(t, "the history of what was delivered meanwhile", func() error {
		r := in.keelson("log", "--only", "deliveries", "--limit", "50")
		for _, tag := range []string{"8.0.1-full", "8.0.2-full"} {
			if !strings.Contains(r.out, "Deliver "+tag) {
				return fmt.Errorf("%s is not in %s %s", tag, r.out, r.err)
			}
		}
		return nil
	})
	in.must(t, "store", "check")
	in.must(t, "down")

	database := filepath.Join(dir, "store.db")
	damaged, err := os.ReadFile(database)
	if err != nil {
		t.Fatal(err)
	}
	for at := 8192; at+4096 <= len(damaged); at += 4096 {
		copy(damaged[at:], strings.Repeat("\xa5", 2048))
	}
	if err := os.WriteFile(database, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	fails(t, in.keelson("store", "check"), 1, "keelson store restore FILE")
	ok(t, in.up(), nil) // everything else
	delivered("8.0.3-damaged")
	repaired()
	fails(t, in.keelson("ci", "pipelines"), 1, "no pipelines are played here", "the database is damaged", "keelson store restore FILE puts a backup in its place")
	in.must(t, "down")
	in.must(t, "store", "restore", backup)
	ok(t, in.up(), nil)
	contains(t, in.must(t, "log", "--only", "deliveries", "--limit", "50"), "Deliver 8.0.0-before")
	contains(t, in.must(t, "audit", "verify"), "are as they were written", "of before are lost")
	repaired()
}

// onDiskOf puts a directory on a file system of its own, and gives what takes its free space away and gives it back.
func onDiskOf(t *testing.T, dir string) (room func(bool)) {
	t.Helper()
	aside := dir + ".aside"
	if err := os.Rename(dir, aside); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2g,mode=700"); err != nil {
		t.Skipf("NOT TESTED: a file system of its own cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	ok(t, program("", "cp", "-a", aside+"/.", dir), []string{"cp"})
	if err := os.RemoveAll(aside); err != nil {
		t.Fatal(err)
	}
	return func(room bool) {
		t.Helper()
		size := "2g"
		if !room {
			var s unix.Statfs_t
			if err := unix.Statfs(dir, &s); err != nil {
				t.Fatal(err)
			}
			size = fmt.Sprint((int64(s.Blocks) - int64(s.Bfree)) * s.Bsize)
		}
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size="+size); err != nil {
			t.Fatal(err)
		}
	}
}
