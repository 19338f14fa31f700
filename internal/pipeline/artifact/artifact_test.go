package artifact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/pipeline"
)

// open opens a store whose clock stands still until it is moved.
func open(t testing.TB, o Options) (*Store, *time.Time) {
	t.Helper()
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	o.Now = func() time.Time { return now }
	s, err := Open(filepath.Join(t.TempDir(), "store"), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, &now
}

// fill writes files: "path" or "path mode" to content. A path with a slash at its end is a directory, content with "-> " before
// it a link's target.
func fill(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	for name, content := range files {
		mode := fs.FileMode(0)
		if at, text, ok := strings.Cut(name, " "); ok {
			fmt.Sscanf(text, "%o", &mode)
			name = at
		}
		at := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			check(os.MkdirAll(at, 0o755))
			if mode != 0 {
				check(os.Chmod(at, mode))
			}
			continue
		}
		check(os.MkdirAll(filepath.Dir(at), 0o755))
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			check(os.Symlink(target, at))
			continue
		}
		check(os.WriteFile(at, []byte(content), 0o644))
		if mode != 0 {
			check(os.Chmod(at, mode))
		}
	}
}

// list gives what is in a directory, as fill takes it; modes only where they are not 644 and 755.
func list(t testing.TB, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		if err != nil || at == dir {
			return err
		}
		name, _ := filepath.Rel(dir, at)
		if name == ".git" || name == ".git/keelson" {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			name += "/"
			if info.Mode().Perm() != 0o755 {
				name += fmt.Sprintf(" %o", info.Mode().Perm())
			}
			found[name] = ""
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(at)
			found[name] = "-> " + target
			return err
		default:
			content, err := os.ReadFile(at)
			if err != nil {
				return err
			}
			if info.Mode().Perm() != 0o644 {
				name += fmt.Sprintf(" %o", info.Mode().Perm())
			}
			found[name] = string(content)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

var times = regexp.MustCompile(`in [0-9.]+(µs|ms|s)`)

// tidy takes out of a log what differs each time.
func tidy(log, dir string) string {
	return times.ReplaceAllString(strings.ReplaceAll(log, dir, "DIR"), "in TIME")
}

func TestSaveAndRestore(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 20_000)
	for _, c := range []struct {
		name  string
		files map[string]string
		vars  pipeline.Variables
		take  pipeline.Artifacts
		want  map[string]string
		log   string
	}{
		{
			name: "modes, links, empty files and directories are kept",
			files: map[string]string{
				"build/bin/tool 755": "ELF", "build/secret 600": "s", "build/empty": "", "build/lib.so": "-> lib.so.1", "build/lib.so.1": "so",
				"build/python": "-> /usr/bin/python3", "build/up": "-> ../src", "build/none/": "", "build/group/ 775": "", "src/main.c": "int main;",
			},
			take: pipeline.Artifacts{Paths: []string{"build/"}},
			want: map[string]string{
				"build/": "", "build/bin/": "", "build/bin/tool 755": "ELF", "build/secret 600": "s", "build/empty": "", "build/lib.so": "-> lib.so.1",
				"build/lib.so.1": "so", "build/python": "-> /usr/bin/python3", "build/up": "-> ../src", "build/none/": "", "build/group/ 775": "",
			},
			log: `
Uploading artifacts...
build/: found 11 matching artifact files and directories
Uploading artifacts as "archive" to the store... 11 files, 6 B, 6 B of it new, in TIME
`,
		},
		{
			name:  "globs, excludes and what matches nothing",
			files: map[string]string{"a/x.o": "1", "a/b/y.o": "2", "a/b/z.c": "3", "top.o": "4", ".hidden/h.o": "5"},
			take:  pipeline.Artifacts{Paths: []string{"**/*.o", "nope/*.txt"}, Exclude: []string{"a/**/y.*"}},
			want:  map[string]string{"a/": "", "a/x.o": "1", "top.o": "4", ".hidden/": "", ".hidden/h.o": "5"},
			log: `
Uploading artifacts...
**/*.o: found 3 matching artifact files and directories
WARNING: nope/*.txt: no matching files. Ensure that the artifact path is relative to the working directory (DIR)
a/**/y.*: excluded 1 files
Uploading artifacts as "archive" to the store... 3 files, 3 B, 3 B of it new, in TIME
`,
		},
		{
			name:  "variables are expanded, in the project directory absolute paths are fine",
			files: map[string]string{"out/linux/tool": "t", "DIRfile": "no"},
			vars:  pipeline.Variables{{Name: "OS", Value: "linux"}, {Name: "OUT", Value: "$CI_PROJECT_DIR/out"}, {Name: "CI_PROJECT_DIR", Value: "DIR", Raw: true}},
			take:  pipeline.Artifacts{Paths: []string{"$OUT/${OS}/*", "$UNSET"}},
			want:  map[string]string{"out/": "", "out/linux/": "", "out/linux/tool": "t"},
			log: `
WARNING: $UNSET: nothing is left of this path when its variables are expanded
Uploading artifacts...
out/linux/*: found 1 matching artifact files and directories
Uploading artifacts as "archive" to the store... 1 files, 1 B, 1 B of it new, in TIME
`,
		},
		{
			name:  "what is outside of the project directory is refused by name",
			files: map[string]string{"ok": "1", "out": "-> /etc", "dir/up": "-> ../.."},
			take:  pipeline.Artifacts{Paths: []string{"ok", "out", "../other", "/etc/passwd", "out/passwd", "dir/up/*", "a/../../b"}},
			want:  map[string]string{"ok": "1", "out": "-> /etc"},
			log: `
Uploading artifacts...
ok: found 1 matching artifact files and directories
out: found 1 matching artifact files and directories
WARNING: ../other is outside of the project directory and is left out: artifact path is not a subpath of project directory
WARNING: /etc/passwd is outside of the project directory and is left out: artifact path is not a subpath of project directory
WARNING: out/passwd: out is a link that points outside of the project directory and is not followed
WARNING: dir/up/*: dir/up is a link that points outside of the project directory and is not followed
WARNING: a/../../b is outside of the project directory and is left out: artifact path is not a subpath of project directory
Uploading artifacts as "archive" to the store... 2 files, 1 B, 1 B of it new, in TIME
`,
		},
		{
			name:  "large files and bundles",
			files: map[string]string{"big": big, "copy": big, "small": "x"},
			take:  pipeline.Artifacts{Paths: []string{"*"}},
			want:  map[string]string{"big": big, "copy": big, "small": "x"},
			log: `
Uploading artifacts...
*: found 3 matching artifact files and directories
Uploading artifacts as "archive" to the store... 3 files, 625.0 KiB, 312.5 KiB of it new, in TIME
`,
		},
		{
			name:  "nothing matches",
			files: map[string]string{"x": "1"},
			take:  pipeline.Artifacts{Paths: []string{"dist"}},
			want:  map[string]string{},
			log: `
Uploading artifacts...
WARNING: dist: no matching files. Ensure that the artifact path is relative to the working directory (DIR)
ERROR: No files to upload
`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _ := open(t, Options{})
			from, to := t.TempDir(), t.TempDir()
			fill(t, from, c.files)
			for i := range c.vars {
				c.vars[i].Value = strings.ReplaceAll(c.vars[i].Value, "DIR", from)
			}
			var log bytes.Buffer
			key := Key{Project: "g/p", Pipeline: "1", Job: "build: [linux, arm64]"}
			if _, err := s.Save(t.Context(), key, &c.take, Work{Dir: from, Vars: c.vars, Log: &log}, true); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimPrefix(c.log, "\n"), tidy(log.String(), from)); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
			if err := s.Restore(t.Context(), []Key{key}, Work{Dir: to}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, list(t, to)); diff != "" {
				t.Errorf("restored (-want +got):\n%s", diff)
			}
			for name := range c.want {
				name, _, _ = strings.Cut(name, " ")
				if strings.HasSuffix(name, "/") {
					continue
				}
				a, errA := os.Lstat(filepath.Join(from, name))
				b, errB := os.Lstat(filepath.Join(to, name))
				if errA != nil || errB != nil {
					t.Fatal(errA, errB)
				}
				if a.Mode().IsRegular() && !a.ModTime().Equal(b.ModTime()) {
					t.Errorf("%s: times differ: %v %v", name, a.ModTime(), b.ModTime())
				}
			}
		})
	}
}

// A job that changes what it was given changes its copy only.
func TestStoreIsNeverShared(t *testing.T) {
	s, _ := open(t, Options{})
	from := t.TempDir()
	fill(t, from, map[string]string{"a/small": "s", "a/big": strings.Repeat("b", 1<<20)})
	key := Key{Job: "build"}
	if _, err := s.Save(t.Context(), key, &pipeline.Artifacts{Paths: []string{"a"}}, Work{Dir: from}, true); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		to := t.TempDir()
		if err := s.Restore(t.Context(), []Key{key}, Work{Dir: to}); err != nil {
			t.Fatal(err)
		}
		if got := list(t, to); got["a/small"] != "s" || got["a/big"] != strings.Repeat("b", 1<<20) {
			t.Fatal("content differs")
		}
		for _, name := range []string{"a/small", "a/big"} {
			f, err := os.OpenFile(filepath.Join(to, name), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			f.WriteString("changed")
			f.Close()
		}
	}
}

func TestWhenAndRetry(t *testing.T) {
	s, _ := open(t, Options{})
	dir := t.TempDir()
	fill(t, dir, map[string]string{"f": "1"})
	key := Key{Job: "j"}
	for _, c := range []struct {
		when      pipeline.When
		succeeded bool
		kept      bool
	}{
		{"", true, true}, {"", false, false}, {pipeline.OnSuccess, true, true}, {pipeline.OnFailure, true, false},
		{pipeline.OnFailure, false, true}, {pipeline.Always, true, true}, {pipeline.Always, false, true}, {pipeline.OnSuccess, false, false},
	} {
		_, err := s.Save(t.Context(), key, &pipeline.Artifacts{Paths: []string{"f"}, When: c.when}, Work{Dir: dir}, c.succeeded)
		if err != nil {
			t.Fatal(err)
		}
		rec, err := s.Get(t.Context(), key)
		if err != nil || (rec != nil) != c.kept {
			t.Errorf("when %q, succeeded %v: kept %v, %v", c.when, c.succeeded, rec, err)
		}
	}
}

func TestMissing(t *testing.T) {
	s, now := open(t, Options{})
	dir := t.TempDir()
	fill(t, dir, map[string]string{"f": "1"})
	save := func(job string, a pipeline.Artifacts) Key {
		a.Paths = []string{"f"}
		key := Key{Job: job}
		if _, err := s.Save(t.Context(), key, &a, Work{Dir: dir}, true); err != nil {
			t.Fatal(err)
		}
		return key
	}
	short := save("short", pipeline.Artifacts{ExpireIn: pipeline.Duration(time.Hour)})
	forever := save("forever", pipeline.Artifacts{Forever: true})
	erased := save("erased", pipeline.Artifacts{})
	none := Key{Job: "none"}
	if err := s.Restore(t.Context(), []Key{short, forever, erased, none}, Work{Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	if err := s.Erase(t.Context(), erased); err != nil {
		t.Fatal(err)
	}
	*now = now.Add(3 * time.Hour)
	for _, swept := range []bool{false, true} {
		if swept {
			if got, err := s.Sweep(t.Context(), SweepOptions{}); err != nil || got.Expired != 1 {
				t.Fatalf("sweep: %+v, %v", got, err)
			}
		}
		to := t.TempDir()
		err := s.Restore(t.Context(), []Key{short, forever, erased, none}, Work{Dir: to})
		var missing *MissingError
		if !errors.As(err, &missing) || !slices.Equal(missing.Jobs, []string{"short", "erased"}) || Reason(err) != pipeline.MissingDependency {
			t.Fatalf("swept %v: %v", swept, err)
		}
		if len(list(t, to)) != 0 {
			t.Error("something was extracted")
		}
		t.Log(err)
	}
	*now = now.Add(10_000 * time.Hour)
	if err := s.Restore(t.Context(), []Key{forever}, Work{Dir: t.TempDir()}); err != nil {
		t.Errorf("never expires: %v", err)
	}
	if _, err := s.Sweep(t.Context(), SweepOptions{}); err != nil {
		t.Fatal(err)
	}
	if rec, err := s.Get(t.Context(), short); rec != nil || err != nil {
		t.Errorf("the tombstone is still there: %v, %v", rec, err)
	}
	if err := s.Restore(t.Context(), []Key{forever}, Work{Dir: t.TempDir()}); err != nil {
		t.Errorf("what others name was swept: %v", err)
	}
}

// What somebody did to the store's files is found out, and nothing of it gets into a directory.
func TestDamage(t *testing.T) {
	for _, size := range []int{10, 1 << 20, 6 << 20} {
		for _, how := range []string{"changed", "cut", "removed"} {
			t.Run(fmt.Sprint(size, how), func(t *testing.T) {
				s, _ := open(t, Options{})
				dir := t.TempDir()
				content := strings.Repeat("x", size)
				fill(t, dir, map[string]string{"f": content, "g": "fine"})
				key := Key{Job: "build"}
				take := &pipeline.Artifacts{Paths: []string{"*"}}
				rec, err := s.Save(t.Context(), key, take, Work{Dir: dir}, true)
				if err != nil {
					t.Fatal(err)
				}
				tr, err := s.tree(t.Context(), *rec.Archive)
				if err != nil {
					t.Fatal(err)
				}
				at := filepath.Join(s.dir, blobKey(tr.Entries[0].Blob))
				data, _ := os.ReadFile(at)
				switch how {
				case "changed":
					data[len(data)/2]++
					os.WriteFile(at, data, 0o644)
				case "cut":
					os.WriteFile(at, data[:len(data)/2], 0o644)
				case "removed":
					os.Remove(at)
				}
				to := t.TempDir()
				err = s.Restore(t.Context(), []Key{key}, Work{Dir: to})
				var missing *MissingError
				if !errors.As(err, &missing) || len(list(t, to)) != 0 {
					t.Fatalf("restored %v, %v", list(t, to), err)
				}
				if how == "changed" {
					return // it has its length: saving again cannot see it
				}
				if _, err := s.Save(t.Context(), key, take, Work{Dir: dir}, true); err != nil {
					t.Fatal(err)
				}
				if err := s.Restore(t.Context(), []Key{key}, Work{Dir: to}); err != nil || list(t, to)["f"] != content {
					t.Errorf("saved again: %v", err)
				}
			})
		}
	}
}

func TestOverlayAndExisting(t *testing.T) {
	save := func(t *testing.T, s *Store, job string, files map[string]string) Key {
		dir, paths := t.TempDir(), []string{"*"}
		for name, content := range files {
			if only, ok := strings.CutPrefix(name, "only "); ok {
				delete(files, name)
				files[only], paths = content, []string{only}
			}
		}
		fill(t, dir, files)
		key := Key{Job: job}
		if _, err := s.Save(t.Context(), key, &pipeline.Artifacts{Paths: paths}, Work{Dir: dir}, true); err != nil {
			t.Fatal(err)
		}
		return key
	}
	outside := t.TempDir()
	for _, c := range []struct {
		name     string
		there    map[string]string
		archives []map[string]string
		want     map[string]string // nil: an error, and all is as it was
		err      string
	}{
		{
			name: "later jobs count", archives: []map[string]string{{"d/a": "1", "d/b": "1"}, {"d/b": "2", "d/c": "2"}},
			want: map[string]string{"d/": "", "d/a": "1", "d/b": "2", "d/c": "2"},
		},
		{
			name: "files are replaced, others stay", there: map[string]string{"d/a 600": "old", "d/z": "z", "l": "-> d/z"},
			archives: []map[string]string{{"d/a": "new", "l": "file"}},
			want:     map[string]string{"d/": "", "d/a": "new", "d/z": "z", "l": "file"},
		},
		{
			name: "a link replaces a file, and a file an empty directory", there: map[string]string{"a": "old", "e/": ""},
			archives: []map[string]string{{"a": "-> b", "b": "1", "e": "file"}},
			want:     map[string]string{"a": "-> b", "b": "1", "e": "file"},
		},
		{
			name: "a link within the project directory is followed", there: map[string]string{"real/": "", "d": "-> real"},
			archives: []map[string]string{{"d/a": "1"}},
			want:     map[string]string{"real/": "", "real/a": "1", "d": "-> real"},
		},
		{
			name: "nothing is written through a link that leads out", there: map[string]string{"d": "-> " + outside, "x": "old"},
			archives: []map[string]string{{"d/a": "1", "x": "new"}}, err: "d is a link in the project directory that leads nowhere or outside of it",
		},
		{
			name: "a file where a directory is", there: map[string]string{"d/f": "1", "a": "old"},
			archives: []map[string]string{{"a": "new", "d": "file"}}, err: "d is a file in the archive and a directory with files in the project directory",
		},
		{
			name: "a directory where a file is", there: map[string]string{"d": "1"},
			archives: []map[string]string{{"a": "new", "d/f": "file"}}, err: "d is a directory in the archive and a file in the project directory",
		},
		{
			name: "a directory of a later job replaces a link of an earlier one", archives: []map[string]string{{"d": "-> /etc"}, {"d/f": "file"}},
			want: map[string]string{"d/": "", "d/f": "file"},
		},
		{
			name: "two archives that do not go together", archives: []map[string]string{{"d": "-> /etc"}, {"only d/f": "file"}},
			err: `"d/f" goes through a link, "d"`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _ := open(t, Options{})
			to := t.TempDir()
			fill(t, to, c.there)
			var keys []Key
			for i, files := range c.archives {
				keys = append(keys, save(t, s, fmt.Sprint("job", i), files))
			}
			before := list(t, to)
			err := s.Restore(t.Context(), keys, Work{Dir: to})
			want := c.want
			if c.err != "" {
				want = before
				if err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), "nothing was extracted") {
					t.Errorf("error: %v", err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, list(t, to)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(list(t, outside)) != 0 {
				t.Error("something was written outside")
			}
		})
	}
}

// In a person's working tree what is already there is not written again: other jobs may be reading it.
func TestInPlaceIsLeftAlone(t *testing.T) {
	s, _ := open(t, Options{})
	dir := t.TempDir()
	fill(t, dir, map[string]string{"out/same": "1", "out/run 755": "2", "out/changed": "3", "out/gone": "4", "out/l": "-> same"})
	key := Key{Job: "j"}
	if _, err := s.Save(t.Context(), key, &pipeline.Artifacts{Paths: []string{"out"}}, Work{Dir: dir}, true); err != nil {
		t.Fatal(err)
	}
	want := list(t, dir)
	want["out/changed"] = "x"
	inode := func(name string) os.FileInfo {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	same, run, l := inode("out/same"), inode("out/run"), inode("out/l")
	fill(t, dir, map[string]string{"out/changed": "x"})
	os.Chmod(filepath.Join(dir, "out/run"), 0o700)
	os.Remove(filepath.Join(dir, "out/gone"))
	for range 2 {
		if err := s.Restore(t.Context(), []Key{key}, Work{Dir: dir, InPlace: true}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, list(t, dir)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if !os.SameFile(same, inode("out/same")) || !os.SameFile(l, inode("out/l")) || os.SameFile(run, inode("out/run")) {
		t.Error("what was the same was written, or what was not was not")
	}
}

// The tree wins: of what a person has, only what the store knows is replaced.
func TestTreeWins(t *testing.T) {
	s, _ := open(t, Options{})
	dir := t.TempDir()
	restore := func(key Key, warning string) {
		t.Helper()
		var log bytes.Buffer
		if err := s.Restore(t.Context(), []Key{key}, Work{Dir: dir, InPlace: true, Log: &log}); err != nil {
			t.Fatal(err)
		}
		if got := kept(log.String()); got != warning {
			t.Errorf("it says %q, want %q", got, warning)
		}
	}
	first, second := Key{Pipeline: "1", Job: "first"}, Key{Pipeline: "1", Job: "second"}
	large := strings.Repeat("large", bundleFile)
	save := func(key Key) {
		t.Helper()
		if _, err := s.Save(t.Context(), key, &pipeline.Artifacts{Paths: []string{"."}}, Work{Dir: dir, InPlace: true}, true); err != nil {
			t.Fatal(err)
		}
	}
	begin := map[string]string{"a": "11", "b": "1", "large": large, "l": "-> a", "dir/x": "1", "file": "1", "empty": ""}
	fill(t, dir, begin)
	os.Chmod(filepath.Join(dir, "dir"), 0o750)
	save(first)
	os.Chmod(filepath.Join(dir, "dir"), 0o700)
	os.Remove(filepath.Join(dir, "l"))
	fill(t, dir, map[string]string{"a": "22", "b": "22", "large": large[1:] + "2", "l": "-> b", "empty": "2"})
	save(second)

	// What another job has left is replaced, what nobody has is not.
	fill(t, dir, map[string]string{"b": "mine"})
	restore(first, "kept 1 files of the working tree that are not as in the cache or the artifacts: b")
	want := map[string]string{"a": "11", "b": "mine", "large": large, "l": "-> a", "dir/ 700": "", "dir/x": "1", "file": "1", "empty": ""}
	if diff := cmp.Diff(want, list(t, dir)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// A directory where a file was, a file where a directory was, other links: they stay.
	os.Remove(filepath.Join(dir, "file"))
	os.Remove(filepath.Join(dir, "l"))
	os.RemoveAll(filepath.Join(dir, "dir"))
	fill(t, dir, map[string]string{"file/y": "mine", "dir": "mine", "l": "-> mine", "large": large[2:] + "ab"})
	restore(first, "kept 5 files of the working tree that are not as in the cache or the artifacts: b, dir, file, l, large")
	want = map[string]string{"a": "11", "b": "mine", "large": large[2:] + "ab", "l": "-> mine", "dir": "mine", "file/": "", "file/y": "mine", "empty": ""}
	if diff := cmp.Diff(want, list(t, dir)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// A known file makes way for a directory; the other pipeline's artifacts do not count.
	os.Remove(filepath.Join(dir, "dir"))
	fill(t, dir, map[string]string{"dir": "made"})
	if _, err := s.Save(t.Context(), Key{Pipeline: "1", Job: "third"}, &pipeline.Artifacts{Paths: []string{"dir"}}, Work{Dir: dir}, true); err != nil {
		t.Fatal(err)
	}
	fill(t, dir, map[string]string{"b": "22"})
	other := Key{Pipeline: "2", Job: "first"}
	if _, err := s.Save(t.Context(), other, &pipeline.Artifacts{Paths: []string{"a"}}, Work{Dir: dir}, true); err != nil {
		t.Fatal(err)
	}
	fill(t, dir, map[string]string{"a": "22"})
	restore(other, "kept 1 files of the working tree that are not as in the cache or the artifacts: a")
	restore(first, "kept 3 files of the working tree that are not as in the cache or the artifacts: file, l, large")
	want = map[string]string{"a": "11", "b": "1", "large": large[2:] + "ab", "l": "-> mine", "dir/ 750": "", "dir/x": "1", "file/": "", "file/y": "mine", "empty": ""}
	if diff := cmp.Diff(want, list(t, dir)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What is written between the look at a file and its replacement stays as well.
func TestEditWhileRestoring(t *testing.T) {
	s, _ := open(t, Options{})
	dir := t.TempDir()
	var recs []*Record
	for _, content := range []string{"first", "second"} {
		fill(t, dir, map[string]string{"a": content, "new": content})
		rec, err := s.Save(t.Context(), Key{Job: content}, &pipeline.Artifacts{Paths: []string{"a", "new"}}, Work{Dir: dir}, true)
		if err != nil {
			t.Fatal(err)
		}
		recs = append(recs, rec)
	}
	os.Remove(filepath.Join(dir, "new"))
	tr, err := s.tree(t.Context(), *recs[0].Archive)
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	g := s.guard(Work{Dir: dir, InPlace: true}, "", "")
	g.begin(t.Context(), root, tr)
	defer g.end()
	entries, err := g.missing(tr.Entries)
	if err != nil || len(entries) != 2 {
		t.Fatalf("%v, %v", entries, err)
	}
	st, err := newStage(root)
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	st.guard = g
	if err := errors.Join(st.skeleton(entries), s.contents(t.Context(), st, entries, tr.Blobs)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "new"} {
		var moves []move
		if err := st.plan(".", &moves); err != nil {
			t.Fatal(err)
		}
		moves = slices.DeleteFunc(moves, func(m move) bool { return m.at != name })
		fill(t, dir, map[string]string{name: "mine"})
		if err := st.apply(moves); len(moves) != 1 || !errors.Is(err, fs.ErrExist) {
			t.Errorf("%v: %v", moves, err)
		}
	}
	if err := st.settle(t.Context(), entries); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "new"} {
		if got, _ := os.ReadFile(filepath.Join(dir, name)); string(got) != "mine" || !g.kept[name] {
			t.Errorf("%s has %q, kept: %v", name, got, g.kept)
		}
	}
}

// kept gives what a log says of files that were kept.
func kept(log string) string {
	_, text, _ := strings.Cut(log, "WARNING: ")
	text, _, _ = strings.Cut(text, "\n")
	return text
}

// What a pipeline has saved does not expire while it runs, whoever sweeps meanwhile.
func TestHold(t *testing.T) {
	s, now := open(t, Options{})
	other, err := Open(s.dir, Options{Now: s.now}) // as another process would
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	dir := t.TempDir()
	fill(t, dir, map[string]string{"a": "1"})
	save := func(job string) Key {
		t.Helper()
		key := Key{Pipeline: "1", Job: job}
		a := pipeline.Artifacts{Paths: []string{"a"}, ExpireIn: pipeline.Duration(time.Second)}
		if _, err := s.Save(t.Context(), key, &a, Work{Dir: dir}, true); err != nil {
			t.Fatal(err)
		}
		return key
	}
	restore := func(key Key) error { return s.Restore(t.Context(), []Key{key}, Work{Dir: t.TempDir()}) }
	before := save("before")
	*now = now.Add(time.Minute)
	release, err := s.Hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	release2, err := s.Hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key := save("j")
	*now = now.Add(time.Minute)
	release2()
	if swept, err := other.Sweep(t.Context(), SweepOptions{}); err != nil || !swept.Busy {
		t.Errorf("%+v, %v", swept, err)
	}
	if err := restore(key); err != nil {
		t.Error(err)
	}
	var missing *MissingError
	if err := restore(before); !errors.As(err, &missing) {
		t.Errorf("of an earlier pipeline: %v", err)
	}
	release()
	if err := restore(key); !errors.As(err, &missing) {
		t.Errorf("afterwards: %v", err)
	}
	if swept, err := other.Sweep(t.Context(), SweepOptions{}); err != nil || swept.Expired != 2 {
		t.Errorf("%+v, %v", swept, err)
	}
}

func git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=n", "-c", "user.email=e@x", "-c", "init.defaultBranch=main"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestUntrackedAndGit(t *testing.T) {
	s, _ := open(t, Options{})
	dir := t.TempDir()
	fill(t, dir, map[string]string{"tracked": "1", ".gitignore": "*.log\n"})
	git(t, dir, "init", "-q")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-qm", "one")
	fill(t, dir, map[string]string{"new": "2", "sub/x.log": "ignored", "sub/éü": "3"})
	var log bytes.Buffer
	key := Key{Job: "j"}
	if _, err := s.Save(t.Context(), key, &pipeline.Artifacts{Untracked: true, Exclude: []string{"new"}}, Work{Dir: dir, Log: &log}, true); err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	if err := s.Restore(t.Context(), []Key{key}, Work{Dir: to}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"sub/": "", "sub/x.log": "ignored", "sub/éü": "3"}, list(t, to)); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, log.String())
	}
	if !strings.Contains(log.String(), "untracked: found 2 files\nnew: excluded 1 files\n") {
		t.Error(log.String())
	}

	// A person's own repository is neither saved nor overwritten; where a runner has made the directory it is saved.
	for _, inPlace := range []bool{true, false} {
		log.Reset()
		rec, err := s.Save(t.Context(), key, &pipeline.Artifacts{Paths: []string{"."}}, Work{Dir: dir, Log: &log, InPlace: inPlace}, true)
		if err != nil {
			t.Fatal(err)
		}
		tr, _ := s.tree(t.Context(), *rec.Archive)
		has := slices.ContainsFunc(tr.Entries, func(e entry) bool { return strings.HasPrefix(e.Path, ".git/") })
		if has == inPlace || !strings.Contains(log.String(), "WARNING: ") {
			t.Errorf("in place %v: has .git: %v\n%s", inPlace, has, log.String())
		}
	}
	before := git(t, dir, "status", "--porcelain")
	if err := s.Restore(t.Context(), []Key{key}, Work{Dir: dir, InPlace: true, Log: &log}); err != nil {
		t.Fatal(err)
	}
	if after := git(t, dir, "status", "--porcelain"); after != before || !strings.Contains(log.String(), ".git is left out") {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if _, err := os.Stat(filepath.Join(dir, stageHere)); err == nil {
		t.Error("a stage was left")
	}
}

// Only stages are removed, and none of a person's folders, however old. The values of variables are kept out of the store.
func TestStagesOnly(t *testing.T) {
	for _, home := range []string{".keelson", stageHere, stageInGit} {
		s, _ := open(t, Options{})
		dir := t.TempDir()
		if home == stageInGit {
			git(t, dir, "init", "-q")
		} else {
			fill(t, dir, map[string]string{".git": "gitdir: /elsewhere\n"})
		}
		mine := []string{"envs", "stage-", "stage-prod", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "stage-abcdefghijklmnopqrstuvwxyz"}
		for _, name := range append(mine, "stage-ABCDEFGHIJKLMNOPQRSTUVWXYZ") {
			fill(t, dir, map[string]string{home + "/" + name + "/prod.yml": "1"})
			if err := os.Chtimes(filepath.Join(dir, home, name), time.Time{}, time.Now().Add(-time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		fill(t, dir, map[string]string{"a": "1", secrets: "TOKEN: secret"})
		key := Key{Job: "j"}
		rec, err := s.Save(t.Context(), key, &pipeline.Artifacts{Paths: []string{"a", ".keelson"}}, Work{Dir: dir, InPlace: true}, true)
		if err != nil {
			t.Fatal(err)
		}
		if tr, _ := s.tree(t.Context(), *rec.Archive); slices.ContainsFunc(tr.Entries, func(e entry) bool { return e.Path == secrets }) {
			t.Error("the variables are in the store")
		}
		os.Remove(filepath.Join(dir, "a"))
		if err := s.Restore(t.Context(), []Key{key}, Work{Dir: dir, InPlace: true}); err != nil {
			t.Fatal(err)
		}
		for _, name := range mine {
			if _, err := os.Stat(filepath.Join(dir, home, name, "prod.yml")); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, home, "stage-ABCDEFGHIJKLMNOPQRSTUVWXYZ")); err == nil && home != ".keelson" {
			t.Errorf("%s: the stage of a killed process is still there", home)
		}
	}
}

func TestSpecialFiles(t *testing.T) {
	s, _ := open(t, Options{Limits: Limits{Files: 10}})
	dir := t.TempDir()
	fill(t, dir, map[string]string{"d/ok": "1"})
	if err := exec.Command("mkfifo", filepath.Join(dir, "d/pipe")).Run(); err != nil {
		t.Skip(err)
	}
	os.WriteFile(filepath.Join(dir, "d/bad\xff"), []byte("x"), 0o644)
	var log bytes.Buffer
	rec, err := s.Save(t.Context(), Key{Job: "j"}, &pipeline.Artifacts{Paths: []string{"d"}}, Work{Dir: dir, Log: &log}, true)
	if err != nil || rec.Archive.Files != 2 {
		t.Fatal(rec, err)
	}
	for _, want := range []string{`File ignored: "d/bad\xff": the name is not valid UTF-8`, "File ignored: d/pipe is neither a file, a directory nor a link"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in the log:\n%s", want, log.String())
		}
	}
	for i := range 20 {
		fill(t, dir, map[string]string{fmt.Sprint("d/", i): "1"})
	}
	_, err = s.Save(t.Context(), Key{Job: "j"}, &pipeline.Artifacts{Paths: []string{"d"}}, Work{Dir: dir}, true)
	if err == nil || !strings.Contains(err.Error(), "10") {
		t.Error(err)
	}
}

// Links between the packages of a workspace lead in circles; a glob over them ends all the same, and follows each link once.
func TestCircles(t *testing.T) {
	s, _ := open(t, Options{})
	dir, to := t.TempDir(), t.TempDir()
	files := map[string]string{"packages/p0/out/junit.xml": "x", "packages/p1/loop": "-> ..", "link": "-> packages/p0/out"}
	for i := range 12 {
		for j := range 12 {
			if i != j {
				files[fmt.Sprintf("packages/p%d/node_modules/p%d", i, j)] = fmt.Sprintf("-> ../../p%d", j)
			}
		}
	}
	fill(t, dir, files)
	rec, err := s.Save(t.Context(), Key{Job: "j"}, &pipeline.Artifacts{Paths: []string{"**/*.xml"}}, Work{Dir: dir}, true)
	if err != nil || rec.Archive.Files != 1+1+11+1 { // itself, link/, eleven neighbours and p1/loop/p0
		t.Errorf("%+v, %v", rec.Archive, err)
	}
	if err := s.Restore(t.Context(), []Key{{Job: "j"}}, Work{Dir: to}); err != nil || list(t, to)["packages/p5/node_modules/p0/out/junit.xml"] != "x" {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Save(ctx, Key{Job: "j"}, &pipeline.Artifacts{Paths: []string{"**/none.xml"}}, Work{Dir: dir}, true); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestCancelled(t *testing.T) {
	s, _ := open(t, Options{})
	dir := t.TempDir()
	fill(t, dir, map[string]string{"f": "1"})
	key := Key{Job: "j"}
	if _, err := s.Save(t.Context(), key, &pipeline.Artifacts{Paths: []string{"f"}}, Work{Dir: dir}, true); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	to := t.TempDir()
	if err := s.Restore(ctx, []Key{key}, Work{Dir: to}); err == nil || len(list(t, to)) != 0 {
		t.Error(err, list(t, to))
	}
	if _, err := s.Save(ctx, key, &pipeline.Artifacts{Paths: []string{"f"}}, Work{Dir: dir}, true); err == nil {
		t.Error("saved after cancel")
	}
}

func TestReports(t *testing.T) {
	s, _ := open(t, Options{})
	dir := t.TempDir()
	fill(t, dir, map[string]string{
		"build.env": "VERSION=seven\nURL = https://x?a=b \n", "more.env": "VERSION=1.3\n", "report/a.xml": `<testsuite name="s"><testcase name="ok"/><testcase name="bad"><failure message="no"/></testcase></testsuite>`,
		"report/b.xml": "<broken", "gl-code-quality-report.json": "[]",
	})
	key := Key{Job: "test"}
	a := &pipeline.Artifacts{Paths: []string{"report/"}, Reports: map[string][]string{
		"dotenv": {"build.env", "more.env"}, "junit": {"report/*.xml"}, "codequality": {"gl-code-quality-report.json"}, "terraform": {"none.json"},
	}}
	var log bytes.Buffer
	rec, err := s.Save(t.Context(), key, a, Work{Dir: dir, Log: &log}, false) // reports are kept whatever the outcome
	if err != nil {
		t.Fatal(err)
	}
	if rec.Archive != nil || len(rec.Reports) != 3 || rec.JUnit.Total != 2 || rec.JUnit.Failed != 1 || len(rec.JUnit.Errors) != 1 {
		t.Errorf("%+v %+v", rec, rec.JUnit)
	}
	vars, err := s.Dotenv(t.Context(), []Key{key, {Job: "none"}})
	if err != nil || len(vars) != 2 || vars.Expand("$VERSION $URL") != "1.3 https://x?a=b" || vars[0].Origin != pipeline.OriginDotenv {
		t.Errorf("%+v, %v", vars, err)
	}
	to := t.TempDir()
	if err := s.Restore(t.Context(), []Key{key}, Work{Dir: to}); err != nil || len(list(t, to)) != 0 {
		t.Errorf("reports were restored: %v %v", list(t, to), err)
	}
	if strings.Contains(log.String(), "seven") || strings.Contains(log.String(), "https://") {
		t.Errorf("values are in the log:\n%s", log.String())
	}

	fill(t, dir, map[string]string{"build.env": "SECRET hunter2\n"})
	_, err = s.Save(t.Context(), key, a, Work{Dir: dir}, true)
	var bad *DotenvError
	if !errors.As(err, &bad) || bad.File != "build.env" || bad.Line != 1 || !strings.Contains(err.Error(), "Invalid Format") || strings.Contains(err.Error(), "hunter2") || Reason(err) != pipeline.ScriptFailure {
		t.Errorf("%v", err)
	}
	if rec, err := s.Get(t.Context(), key); err != nil || rec.Archive == nil {
		t.Errorf("the archive of the job was not kept: %v, %v", rec, err)
	}
}

func TestSources(t *testing.T) {
	g := &pipeline.Graph{Stages: []string{"build", "test", "deploy"}, Jobs: []pipeline.Job{
		{Name: "b1", Base: "b1", Stage: "build"},
		{Name: "b2 1/2", Base: "b2", Stage: "build"},
		{Name: "b2 2/2", Base: "b2", Stage: "build"},
		{Name: "child", Base: "child", Stage: "build", Trigger: &pipeline.Trigger{}},
		{Name: "t1", Base: "t1", Stage: "test"},
		{Name: "t2", Base: "t2", Stage: "test"},
	}}
	need := func(job string) pipeline.Need { return pipeline.Need{Job: job, Artifacts: true} }
	other := pipeline.Need{Project: "g/other", Job: "x", Ref: "main", Artifacts: true}
	for _, c := range []struct {
		name    string
		job     pipeline.Job
		want    []string
		foreign int
	}{
		{"all earlier stages", pipeline.Job{Stage: "deploy"}, []string{"b1", "b2 1/2", "b2 2/2", "t1", "t2"}, 0},
		{"not its own stage", pipeline.Job{Stage: "test"}, []string{"b1", "b2 1/2", "b2 2/2"}, 0},
		{"first stage", pipeline.Job{Stage: "build"}, nil, 0},
		{"dependencies narrow", pipeline.Job{Stage: "deploy", Dependencies: []string{"t1", "b2"}}, []string{"b2 1/2", "b2 2/2", "t1"}, 0},
		{"one instance", pipeline.Job{Stage: "deploy", Dependencies: []string{"b2 2/2"}}, []string{"b2 2/2"}, 0},
		{"dependencies: []", pipeline.Job{Stage: "deploy", Dependencies: []string{}}, nil, 0},
		{"needs only", pipeline.Job{Stage: "deploy", DAG: true, Needs: []pipeline.Need{need("t1"), need("b1")}}, []string{"b1", "t1"}, 0},
		{"needs: []", pipeline.Job{Stage: "deploy", DAG: true}, nil, 0},
		{"artifacts: false", pipeline.Job{Stage: "deploy", DAG: true, Needs: []pipeline.Need{{Job: "t1"}, need("b1")}}, []string{"b1"}, 0},
		{"optional and absent", pipeline.Job{Stage: "deploy", DAG: true, Needs: []pipeline.Need{{Job: "gone", Artifacts: true, Optional: true}, need("b1")}}, []string{"b1"}, 0},
		{"needs in the same stage", pipeline.Job{Stage: "test", DAG: true, Needs: []pipeline.Need{need("t1")}}, []string{"t1"}, 0},
		{"needs and dependencies", pipeline.Job{Stage: "deploy", DAG: true, Needs: []pipeline.Need{need("t1"), need("b1")}, Dependencies: []string{"t1"}}, []string{"t1"}, 0},
		{"a trigger has none", pipeline.Job{Stage: "deploy", DAG: true, Needs: []pipeline.Need{need("child")}}, nil, 0},
		{"another project", pipeline.Job{Stage: "deploy", DAG: true, Needs: []pipeline.Need{need("b1"), other}}, []string{"b1"}, 1},
		{"another project, dependencies: []", pipeline.Job{Stage: "deploy", DAG: true, Needs: []pipeline.Need{other}, Dependencies: []string{}}, nil, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.job.Name, c.job.Base = "job", "job"
			with := *g
			with.Jobs = append(slices.Clone(g.Jobs), c.job)
			local, foreign := Sources(&with, "job")
			if !slices.Equal(local, c.want) || len(foreign) != c.foreign {
				t.Errorf("%q, %v, want %q", local, foreign, c.want)
			}
		})
	}
}
