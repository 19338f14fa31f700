package artifact

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/pipeline"
)

// treeOf lists what is in a directory: files with their content, links with their target, directories with a slash.
func treeOf(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path)
		switch {
		case err != nil || rel == ".":
			return err
		case rel == ".git":
			return fs.SkipDir
		case d.IsDir():
			all = append(all, rel+"/")
		case d.Type() == fs.ModeSymlink:
			target, _ := os.Readlink(path)
			all = append(all, rel+" -> "+target)
		default:
			content, _ := os.ReadFile(path)
			all = append(all, rel+"="+string(content))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// makeTree is the other way round.
func makeTree(t *testing.T, dir string, items ...string) {
	t.Helper()
	for _, item := range items {
		name, content, isFile := strings.Cut(item, "=")
		at, target, isLink := strings.Cut(item, " -> ")
		var err error
		switch {
		case isLink:
			err = os.Symlink(target, filepath.Join(dir, at))
		case isFile:
			if err = os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err == nil {
				err = os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644)
			}
		default:
			err = os.MkdirAll(filepath.Join(dir, item), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestPackWhole(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	all := []string{"a=1", "empty=", "deep/", "deep/er/", "deep/er/b=2", "link -> deep/er/b", "none/", "out -> /etc/passwd", "run.sh=x"}
	makeTree(t, from, all...)
	makeTree(t, from, ".git/config=c")
	os.Chmod(filepath.Join(from, "run.sh"), 0o755)
	when := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	os.Chtimes(filepath.Join(from, "a"), when, when)
	makeTree(t, to, "a=old", "left=there")
	var b bytes.Buffer
	if err := Pack(t.Context(), &b, from, Limits{}); err != nil {
		t.Fatal(err)
	}
	if err := Unpack(t.Context(), &b, to, Limits{}); err != nil {
		t.Fatal(err)
	}
	want := append(slices.Clone(all), "left=there")
	slices.Sort(want)
	got := treeOf(t, to)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if config, err := os.ReadFile(filepath.Join(to, ".git/config")); err != nil || string(config) != "c" {
		t.Errorf("the repository: %q, %v", config, err)
	}
	info, err := os.Stat(filepath.Join(to, "run.sh"))
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Join(to, "a")); err != nil || !info.ModTime().Equal(when) {
		t.Errorf("time %v, %v", info.ModTime(), err)
	}
}

// What a job leaves in its copy is afterwards in the server's directory, as if it had worked there.
func TestPackSelected(t *testing.T) {
	server, pod := t.TempDir(), t.TempDir()
	makeTree(t, server, "tracked=1", "out/old=gone afterwards", "out/both=before", "cache/x=restored", "other=stays")
	for _, args := range [][]string{{"init", "-q"}, {"add", "tracked"}} {
		if out, err := exec.Command("git", append([]string{"-C", server}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("git: %s", out)
		}
	}
	makeTree(t, pod, "tracked=changed", "out/both=after", "out/new=made", "out/skip.log=excluded", "untracked/file=u", "nested/.git/HEAD=x", "nested/inside=x", "escape -> /etc", ".git/config=evil", "other=not wanted")
	vars := pipeline.Variables{{Name: "CI_PROJECT_DIR", Value: server}, {Name: "OUT", Value: "$CI_PROJECT_DIR/out"}}
	j := pipeline.Job{
		Caches:    []pipeline.Cache{{Paths: []string{"cache"}}, {Paths: []string{"other"}, Policy: "pull"}, {Paths: []string{"other"}, When: pipeline.OnFailure}},
		Artifacts: &pipeline.Artifacts{Paths: []string{"$OUT", "/outside", "../outside", ".git"}, Exclude: []string{"out/*.log"}, Reports: map[string][]string{"junit": {"tracked"}}, Untracked: true},
	}
	selected := Wanted(j, Work{Dir: server, Vars: vars}, true)
	tracked, err := Tracked(server, Limits{})
	if err != nil || !slices.Equal(tracked, []string{"tracked"}) {
		t.Fatalf("%q, %v", tracked, err)
	}
	var b bytes.Buffer
	if err := PackSelected(t.Context(), &b, pod, selected, tracked, Limits{}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "evil") {
		t.Error("the job's repository is on its way")
	}
	if err := UnpackSelected(t.Context(), &b, server, selected, tracked, Limits{}); err != nil {
		t.Fatal(err)
	}
	want := []string{"escape -> /etc", "nested/", "other=not wanted", "out/", "out/both=after", "out/new=made", "tracked=changed", "untracked/", "untracked/file=u"}
	got := slices.DeleteFunc(treeOf(t, server), func(s string) bool { return s == "cache/" })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := Clear(t.Context(), server, selected, tracked, Limits{}); err != nil {
		t.Fatal(err)
	}
	if got := treeOf(t, server); slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "out/both") || strings.HasPrefix(s, "tracked") }) {
		t.Errorf("left: %q", got)
	}
}

// bundle writes what a stranger may send.
func bundle(t *testing.T, content string, entries ...entry) []byte {
	t.Helper()
	list, err := json.Marshal(entries)
	if err != nil {
		t.Fatal(err)
	}
	b := binary.BigEndian.AppendUint64([]byte(bundleMagic), uint64(len(list)))
	return append(append(b, list...), content...)
}

func TestHostileBundles(t *testing.T) {
	file := func(path string, size int64) entry { return entry{Path: path, Mode: 0o644, Size: size} }
	huge := binary.BigEndian.AppendUint64([]byte(bundleMagic), 1<<62)
	raw := func(list string) []byte {
		return append(binary.BigEndian.AppendUint64([]byte(bundleMagic), uint64(len(list))), list...)
	}
	tests := map[string]struct {
		in   []byte
		want string
	}{
		"nothing":              {nil, "EOF"},
		"something else":       {bytes.Repeat([]byte("x"), 100), "this is no bundle of files"},
		"a list without end":   {huge, "its list of files has more than 64.8 KiB"},
		"no list":              {raw("{}"), "its list of files: it is no array"},
		"a list of something":  {raw("[1]"), "its list of files: json: cannot unmarshal number"},
		"a list that is open":  {raw(`[{"p":"a"}`), "its list of files: unexpected EOF"},
		"two lists":            {raw("[] []"), "its list of files: something follows its end"},
		"too many to read":     {raw("[{},{},{},{},what comes now is not looked at"), "it has more than 3 files"},
		"a list that is short": {binary.BigEndian.AppendUint64([]byte(bundleMagic), 1000), "unexpected EOF"},
		"up":                   {bundle(t, "x", file("../up", 1)), `"../up" points outside of the directory`},
		"absolute":             {bundle(t, "x", file("/etc/passwd", 1)), `"/etc/passwd" is an absolute path`},
		"through a link":       {bundle(t, "x", entry{Path: "l", Mode: fs.ModeSymlink, Link: "/tmp"}, file("l/x", 1)), `"l/x" goes through a link, "l"`},
		"twice":                {bundle(t, "xx", file("a", 1), file("a", 1)), `"a" is there twice`},
		"a device":             {bundle(t, "", entry{Path: "d", Mode: fs.ModeDevice}), `"d" is neither a file, a directory nor a link`},
		"a negative size":      {bundle(t, "", file("a", -1)), "its files have more than 1000 B"},
		"too large":            {bundle(t, "", file("a", 1001)), "its files have more than 1000 B"},
		"too many":             {bundle(t, "", file("a", 0), file("b", 0), file("c", 0), file("d", 0)), "it has more than 3 files"},
		"cut off":              {bundle(t, "xx", file("a", 1), file("b", 5)), "b: unexpected EOF"},
		"the repository":       {bundle(t, "x", file(".git/config", 1)), `".git/config" is in the repository`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			makeTree(t, dir, "there=before")
			err := UnpackSelected(t.Context(), bytes.NewReader(tt.in), dir, []Selection{{Paths: []string{"there"}}}, nil, Limits{Bytes: 1000, Files: 3})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if got := treeOf(t, dir); !slices.Equal(got, []string{"there=before"}) {
				t.Errorf("left: %q", got)
			}
		})
	}
}

// One entry does not take the memory of all of them.
func TestLongEntries(t *testing.T) {
	for name, list := range map[string]string{
		"a name": `[{"p":"` + strings.Repeat("x", 1<<20) + `"}]`,
		"spaces": "[" + strings.Repeat(" ", 1<<20) + "]",
		"fields": `[{"p":"a",` + strings.Repeat(`"x":[],`, 1<<18) + `"m":420}]`,
	} {
		t.Run(name, func(t *testing.T) {
			in := strings.NewReader(list)
			_, err := decodeEntries(in, 1000)
			if err == nil || !strings.Contains(err.Error(), "an entry has more than 64.0 KiB") {
				t.Errorf("error: %v", err)
			}
			if read := len(list) - in.Len(); read > 4*maxEntry {
				t.Errorf("%d bytes were read", read)
			}
		})
	}
	name := strings.Repeat(strings.Repeat("\x01", 254)+"/", 16)
	long, err := json.Marshal([]entry{{Path: name, Link: name, Mode: link}, {Path: name}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decodeEntries(bytes.NewReader(long), 2); err != nil || len(got) != 2 || got[0].Link != name {
		t.Errorf("the longest names: %d entries, %v", len(got), err)
	}
}

// Each of several selections may be as large as an archive.
func TestLimitsOfSelections(t *testing.T) {
	from := t.TempDir()
	makeTree(t, from, "cache/a="+strings.Repeat("a", 900), "out/b="+strings.Repeat("b", 900))
	for _, c := range []struct {
		paths []string
		ok    bool
	}{{[]string{"cache"}, true}, {[]string{"cache", "out"}, true}, {[]string{"."}, false}} {
		var selected []Selection
		for _, p := range c.paths {
			selected = append(selected, Selection{Paths: []string{p}})
		}
		var bundle bytes.Buffer
		if err := PackSelected(t.Context(), &bundle, from, selected, nil, Limits{}); err != nil {
			t.Fatal(err)
		}
		err := UnpackSelected(t.Context(), &bundle, t.TempDir(), selected, nil, Limits{Bytes: 1000})
		if (err == nil) != c.ok {
			t.Errorf("%q: %v", c.paths, err)
		}
	}
}
