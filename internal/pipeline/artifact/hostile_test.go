package artifact

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/pipeline"
)

// item is a file of a crafted archive.
type item struct {
	name, content string
	mode          fs.FileMode
}

func zipOf(t testing.TB, items ...item) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for _, it := range items {
		h := &zip.FileHeader{Name: it.name, Method: zip.Deflate}
		if it.mode != 0 {
			h.SetMode(it.mode)
		}
		w, err := z.CreateHeader(h)
		if err == nil && !strings.HasSuffix(it.name, "/") {
			_, err = io.WriteString(w, it.content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

const link = fs.ModeSymlink | 0o777

func TestHostileZips(t *testing.T) {
	zeros := strings.Repeat("\x00", 70<<20)
	lying := zipOf(t, item{name: "a", content: strings.Repeat("x", 1000)})
	for i := range len(lying) - 4 { // both headers claim 10 bytes
		if lying[i] == 0xe8 && lying[i+1] == 3 && lying[i+2] == 0 && lying[i+3] == 0 {
			lying[i], lying[i+1] = 10, 0
		}
	}
	var many []item
	for i := range 101 {
		many = append(many, item{name: fmt.Sprint(i)})
	}
	for _, c := range []struct {
		name  string
		items []item
		raw   []byte
		err   string
	}{
		{name: "..", items: []item{{name: "ok"}, {name: "../evil"}}, err: `"../evil" points outside of the directory`},
		{name: ".. in the middle", items: []item{{name: "a/../../evil"}}, err: "points outside of the directory"},
		{name: "absolute", items: []item{{name: "/etc/evil"}}, err: "is an absolute path"},
		{name: "backslash", items: []item{{name: `..\evil`}}, err: "has a backslash"},
		{name: "unclean", items: []item{{name: "a//b"}}, err: "is not a clean path"},
		{name: "dot", items: []item{{name: "a/./b"}}, err: "is not a clean path"},
		{name: "NUL", items: []item{{name: "a\x00b"}}, err: "has a NUL byte"},
		{name: "invalid UTF-8", items: []item{{name: "a\xffb"}}, err: "is not valid UTF-8"},
		{name: "long name", items: []item{{name: strings.Repeat("x", 256)}}, err: "longer than 255 bytes"},
		{name: "long path", items: []item{{name: strings.Repeat("x/", 2100) + "x"}}, err: "longer than 4095 bytes"},
		{name: "duplicate", items: []item{{name: "a", content: "1"}, {name: "a", content: "2"}}, err: `"a" is there twice`},
		{name: "duplicate by ./", items: []item{{name: "a", content: "1"}, {name: "./a", content: "2"}}, err: `"a" is there twice`},
		{name: "below a file", items: []item{{name: "a"}, {name: "a/b"}}, err: `"a/b" is below a file, "a"`},
		{name: "below a file, other order", items: []item{{name: "a/b/c"}, {name: "a"}}, err: `"a/b/c" is below a file, "a"`},
		{name: "through a link", items: []item{{name: "a", mode: link, content: "b"}, {name: "b/", mode: fs.ModeDir | 0o755}, {name: "a/evil"}}, err: `"a/evil" goes through a link, "a"`},
		{name: "absolute link", items: []item{{name: "a", mode: link, content: "/etc"}}, err: "points outside of the directory"},
		{name: "link outside", items: []item{{name: "a/b", mode: link, content: "../../x"}}, err: "points outside of the directory"},
		{name: "link outside through a link", items: []item{{name: "d/l", mode: link, content: ".."}, {name: "m", mode: link, content: "d/l/.."}}, err: "points outside of the directory"},
		{name: "link outside through a link to nothing", items: []item{{name: "a", mode: link, content: "b/.."}, {name: "b", mode: link, content: "."}}, err: "points outside of the directory"},
		{name: "link loop", items: []item{{name: "a", mode: link, content: "b"}, {name: "b", mode: link, content: "a"}}, err: "points outside of the directory"},
		{name: "links that grow", items: []item{{name: "a", mode: link, content: "a/a/a/a"}, {name: "b", mode: link, content: "a/b/a"}}, err: "points outside of the directory"},
		{name: "empty link", items: []item{{name: "a", mode: link}}, err: "without a usable target"},
		{name: "long link", items: []item{{name: "a", mode: link, content: strings.Repeat("x", 5000)}}, err: "without a usable target"},
		{name: "device", items: []item{{name: "a", mode: fs.ModeDevice | fs.ModeCharDevice | 0o666}}, err: "is neither a file, a directory nor a link"},
		{name: "pipe", items: []item{{name: "a", mode: fs.ModeNamedPipe | 0o666}}, err: "is neither a file, a directory nor a link"},
		{name: "socket", items: []item{{name: "a", mode: fs.ModeSocket | 0o666}}, err: "is neither a file, a directory nor a link"},
		{name: "bomb by ratio", items: []item{{name: "a", content: zeros}}, err: "looks like a zip bomb"},
		{name: "bomb by size", items: []item{{name: "a", content: zeros[:60<<20]}, {name: "b", content: zeros[:50<<20]}}, err: "its files have more than 100.0 MiB"},
		{name: "bomb by number", items: many, err: "it has 101 files, the limit is 100"},
		{name: "lying about sizes", raw: lying, err: "a: zip: not a valid zip file"},
		{name: "not a zip", raw: []byte("hello"), err: "not a valid zip file"},
		{name: "empty", raw: []byte{}, err: "not a valid zip file"},
		{name: "cut off", raw: zipOf(t, item{name: "a", content: "x"})[:40], err: "not a valid zip file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, "project")
			fill(t, dir, map[string]string{"ok": "old", "there/f": "1"})
			before := list(t, parent)
			data := c.raw
			if data == nil {
				data = zipOf(t, c.items...)
			}
			err := Unzip(t.Context(), bytes.NewReader(data), int64(len(data)), Work{Dir: dir}, Limits{Bytes: 100 << 20, Files: 100})
			if err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), "nothing was extracted") {
				t.Errorf("error: %v", err)
			}
			if diff := cmp.Diff(before, list(t, parent)); diff != "" {
				t.Errorf("something was extracted:\n%s", diff)
			}
		})
	}
}

func TestZip(t *testing.T) {
	s, _ := open(t, Options{})
	from, to := t.TempDir(), t.TempDir()
	files := map[string]string{
		"a/": "", "a/tool 755": "#!/bin/sh\n", "a/l": "-> tool", "a/empty": "", "b/": "", "b/none/": "", "big": strings.Repeat("0123456789", 50_000), "é": "ü",
	}
	fill(t, from, files)
	key := Key{Job: "j"}
	if err := s.Zip(t.Context(), key, io.Discard); err == nil {
		t.Error("no artifacts, no error")
	}
	if _, err := s.Save(t.Context(), key, &pipeline.Artifacts{Paths: []string{"*"}}, Work{Dir: from}, true); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := s.Zip(t.Context(), key, &buf); err != nil {
		t.Fatal(err)
	}
	if err := Unzip(t.Context(), bytes.NewReader(buf.Bytes()), int64(buf.Len()), Work{Dir: to}, Limits{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(files, list(t, to)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A tree that somebody wrote into the store is looked at like any other archive.
func TestHostileTrees(t *testing.T) {
	content := strings.Repeat("x", 100)
	hash := digest([]byte(content))
	file := func(name string) entry { return entry{Path: name, Mode: 0o644, Size: 100, Blob: hash} }
	for _, c := range []struct {
		name string
		tree tree
		err  string
	}{
		{"..", tree{Entries: []entry{file("../evil")}}, "points outside"},
		{"absolute", tree{Entries: []entry{file("/tmp/evil")}}, "absolute"},
		{"through a link", tree{Entries: []entry{{Path: "a", Mode: link, Link: "/tmp"}, file("a/evil")}}, "goes through a link"},
		{"device", tree{Entries: []entry{{Path: "a", Mode: fs.ModeDevice | 0o666}}}, "neither a file"},
		{"twice", tree{Entries: []entry{file("a"), file("a")}}, "twice"},
		{"negative size", tree{Entries: []entry{{Path: "a", Mode: 0o644, Size: -5, Blob: hash}}}, "more than"},
		{"beyond the content", tree{Entries: []entry{{Path: "a", Mode: 0o644, Size: 60, Offset: 50, Blob: hash}}}, "has no content"},
		{"overflow", tree{Entries: []entry{{Path: "a", Mode: 0o644, Size: 60, Offset: 1<<63 - 10, Blob: hash}}}, "has no content"},
		{"negative offset", tree{Entries: []entry{{Path: "a", Mode: 0o644, Size: 60, Offset: -1, Blob: hash}}}, "has no content"},
		{"another file of the machine", tree{Entries: []entry{{Path: "a", Mode: 0o644, Size: 100, Blob: "../../../../../../../../../../../../../../../../../../../etc/passwd"}}}, "has no content"},
		{"content that is not there", tree{Entries: []entry{{Path: "a", Mode: 0o644, Size: 100, Blob: strings.Repeat("0", 64)}}}, "has no content"},
		{"a malformed list", tree{Entries: []entry{file("a")}, Blobs: map[string]int64{"..": 1}}, "malformed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _ := open(t, Options{})
			if _, _, err := s.put(t.Context(), []byte(content)); err != nil {
				t.Fatal(err)
			}
			if c.tree.Blobs == nil {
				c.tree.Blobs = map[string]int64{}
			}
			c.tree.Blobs[hash] = 100
			data, _ := json.Marshal(c.tree)
			at, _, err := s.put(t.Context(), data)
			if err != nil {
				t.Fatal(err)
			}
			rec := Record{Key: Key{Job: "j"}, Archive: &Archive{Tree: at, Bytes: int64(len(data))}}
			if err := s.putJSON(t.Context(), rec.path(), rec); err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			if err := s.Restore(t.Context(), []Key{rec.Key}, Work{Dir: dir}); err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("error: %v", err)
			}
			if got := list(t, dir); len(got) != 0 {
				t.Errorf("extracted: %v", got)
			}
			if err := s.Zip(t.Context(), rec.Key, io.Discard); err == nil {
				t.Error("it was zipped")
			}
		})
	}
}

// Whatever set of names and links passes the check leaves what is around the directory alone, when a real file system follows
// the links.
func TestLinksStayInside(t *testing.T) {
	names := []string{"a", "b", "a/b", "a/c", "b/a", "c"}
	parts := []string{"..", ".", "a", "b", "c", "../..", "a/..", "b/../.."}
	passed := 0
	base := t.TempDir()
	for seed := range 2000 {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		var entries []entry
		for _, name := range names {
			if r.IntN(2) == 0 {
				target := parts[r.IntN(len(parts))]
				if r.IntN(2) == 0 {
					target += "/" + parts[r.IntN(len(parts))]
				}
				entries = append(entries, entry{Path: name, Mode: link, Link: target})
			}
		}
		if check(entries, Limits{}.withDefaults(), true) != nil {
			continue
		}
		if passed++; passed > 300 {
			break
		}
		outer := filepath.Join(base, fmt.Sprint(seed))
		inner := filepath.Join(outer, "x/y")
		if err := os.MkdirAll(inner, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			os.MkdirAll(filepath.Join(inner, path.Dir(e.Path)), 0o755)
			if err := os.Symlink(e.Link, filepath.Join(inner, e.Path)); err != nil {
				t.Fatal(err)
			}
		}
		for _, e := range entries {
			real, err := filepath.EvalSymlinks(filepath.Join(inner, e.Path))
			if err == nil && real != inner && !strings.HasPrefix(real, inner+"/") {
				t.Fatalf("seed %d: %s leads to %s: %+v", seed, e.Path, real, entries)
			}
		}
		os.RemoveAll(outer)
	}
	if passed < 50 {
		t.Errorf("only %d of the sets passed the check", passed)
	}
}

// around checks that an extraction has left the neighbourhood of its directory alone.
func around(t *testing.T, parent string) {
	t.Helper()
	err := filepath.WalkDir(parent, func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // a directory without permissions
		}
		if filepath.Dir(at) == parent && d.Name() != "project" {
			t.Errorf("%s was written", at)
		}
		if d.Type()&^(fs.ModeDir|fs.ModeSymlink) != 0 {
			t.Errorf("%s is a %v", at, d.Type())
		}
		if strings.Contains(at, stageHere) {
			t.Errorf("%s was left", at)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func FuzzExtract(f *testing.F) {
	f.Add(zipOf(f, item{name: "a/b", content: "hello"}, item{name: "l", mode: link, content: "a/b"}, item{name: "d/", mode: fs.ModeDir | 0o755}))
	f.Add(zipOf(f, item{name: "../x"}, item{name: "a", mode: link, content: "/etc"}, item{name: "a/x"}))
	hello := digest([]byte("hello"))
	f.Add([]byte(`{"entries":[{"p":"a","m":420,"s":5,"b":"` + hello + `"},{"p":"l","m":134218239,"l":"a"}],"blobs":{"` + hello + `":5}}`))
	f.Add([]byte(`{"entries":[{"p":"d","m":2147484141},{"p":"d/../e","m":420}],"blobs":{}}`))
	s, err := Open(f.TempDir(), Options{Limits: Limits{Bytes: 1 << 20, Files: 100}})
	if err != nil {
		f.Fatal(err)
	}
	if _, _, err := s.put(f.Context(), []byte("hello")); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "project")
		fill(t, dir, map[string]string{"there": "1"})
		w := Work{Dir: dir}
		if bytes.HasPrefix(data, []byte("{")) {
			var tr tree
			if json.Unmarshal(data, &tr) != nil {
				return
			}
			err = s.extract(t.Context(), w, &tr, s.limits, nil)
		} else {
			err = Unzip(t.Context(), bytes.NewReader(data), int64(len(data)), w, s.limits)
		}
		if err != nil {
			if got := list(t, dir); len(got) != 1 {
				t.Errorf("%v, but %v", err, got)
			}
		}
		around(t, parent)
	})
}

func FuzzDotenv(f *testing.F) {
	for _, seed := range []string{"A=1\nB = 2\r\n", "", "=", "A\n", "\xff\xfeA\x00=\x00", "\ufeffA=\xff", "A=1\nA=2"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		vars, err := ParseDotenv(data)
		if err != nil && vars != nil {
			t.Error("an error with variables")
		}
		seen := map[string]bool{}
		for _, v := range vars {
			if seen[v.Key] || !validName(v.Key) || strings.ContainsAny(v.Value, "\n") || strings.TrimSpace(v.Value) != v.Value && strip(v.Value) != v.Value {
				t.Errorf("%q", v)
			}
			seen[v.Key] = true
		}
	})
}

func FuzzJUnit(f *testing.F) {
	for _, seed := range []string{
		`<?xml version="1.0"?><testsuites><testsuite name="a"><testcase name="x" time="1"><failure message="m">t</failure></testcase></testsuite></testsuites>`,
		`<testsuite><testcase><testcase/><error/></testcase><testsuite></testsuite></testsuite>`,
		`<!DOCTYPE x [<!ENTITY a "b">]><testsuite>&a;</testsuite>`, "<?xml version='1.0' encoding='latin1'?><testsuite name='\xff'/>",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := ParseJUnit(bytes.NewReader(data), 1<<16)
		bad := got.Failed + got.Errored
		if got.Total < bad+got.Skipped || len(got.Failing) > bad || !(got.Seconds >= 0) || err == nil && len(data) > 1<<16 {
			t.Errorf("%+v, %v", got, err)
		}
		for _, c := range got.Failing {
			if len(c.Output) > maxText || len(c.Message) > maxText {
				t.Errorf("%d %d", len(c.Output), len(c.Message))
			}
		}
	})
}

func FuzzCacheKey(f *testing.F) {
	for _, seed := range []string{"default", "../..", "%2e%2E%2f", `a\..\..\b`, "a/ ", " ", "a/.. /x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, key string) {
		got := sanitizeKey(key)
		if got == "" {
			return
		}
		if !fs.ValidPath(got) && strings.ToValidUTF8(got, "") == got {
			t.Errorf("%q: %q", key, got)
		}
		if again := sanitizeKey(got); again != got {
			t.Errorf("%q: %q, then %q", key, got, again)
		}
	})
}
