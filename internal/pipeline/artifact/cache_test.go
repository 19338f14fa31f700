package artifact

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/pipeline"
)

func TestCacheKey(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, map[string]string{"package-lock.json": "{}\n", "a/go.sum": "a", "b/go.sum": "b", "link": "-> package-lock.json"})
	git(t, dir, "init", "-q")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-qm", "one")
	id := func(file string) string { return git(t, dir, "hash-object", file) }
	sum := func(ids ...string) string {
		slices.Sort(ids)
		s := sha1.Sum([]byte(strings.Join(ids, "-")))
		return hex.EncodeToString(s[:])
	}
	head := git(t, dir, "rev-parse", "HEAD")
	linkID := git(t, dir, "rev-parse", "HEAD:link")
	vars := pipeline.Variables{{Name: "CI_COMMIT_REF_SLUG", Value: "feat-x"}, {Name: "UP", Value: "../../etc"}, {Name: "BLANK", Value: " "}}
	plain := Scope{Job: "build: [a/b]", Ref: "feat/x"}
	protected := Scope{Job: "build", Ref: "main", Protected: true}
	for _, c := range []struct {
		name  string
		scope Scope
		cache pipeline.Cache
		index int
		want  string
	}{
		{"text", plain, pipeline.Cache{Key: "default"}, 0, "default-non_protected"},
		{"protected", protected, pipeline.Cache{Key: "default"}, 0, "default-protected"},
		{"unprotect", protected, pipeline.Cache{Key: "default", Unprotect: true}, 0, "default-non_protected"},
		{"clear index", Scope{Index: 3}, pipeline.Cache{Key: "k"}, 0, "k-3-non_protected"},
		{"variables", plain, pipeline.Cache{Key: "$CI_COMMIT_REF_SLUG-${UNSET}x"}, 0, "feat-x-x-non_protected"},
		{"no key", plain, pipeline.Cache{}, 0, "build: [a/b]/feat/x-non_protected"},
		{"no key left", plain, pipeline.Cache{Key: "$UNSET$BLANK"}, 0, "build: [a/b]/feat/x-non_protected"},
		{"files", plain, pipeline.Cache{KeyFiles: []string{"package-lock.json"}}, 0, "0_package-lock-" + sum(id("package-lock.json")) + "-non_protected"},
		{"second cache", plain, pipeline.Cache{KeyFiles: []string{"a/go.sum", "b/go.sum"}}, 1, "1_a/go_b/go-" + sum(id("a/go.sum"), id("b/go.sum")) + "-non_protected"},
		{"prefix", plain, pipeline.Cache{KeyFiles: []string{"b/go.sum"}, KeyPrefix: "$CI_COMMIT_REF_SLUG"}, 0, "feat-x-" + sum(id("b/go.sum")) + "-non_protected"},
		{"the same content twice", plain, pipeline.Cache{KeyFiles: []string{"a/go.sum", "a/go.sum"}, KeyPrefix: "p"}, 0, "p-" + sum(id("a/go.sum")) + "-non_protected"},
		{"glob", plain, pipeline.Cache{KeyFiles: []string{"**/go.sum"}, KeyPrefix: "p"}, 0, "p-" + sum(id("a/go.sum"), id("b/go.sum")) + "-non_protected"},
		{"some are not there", plain, pipeline.Cache{KeyFiles: []string{"none", "a/go.sum"}, KeyPrefix: "p"}, 0, "p-" + sum(id("a/go.sum")) + "-non_protected"},
		{"none is there", plain, pipeline.Cache{KeyFiles: []string{"none"}, KeyPrefix: "p"}, 0, "p-default-non_protected"},
		{"a link", plain, pipeline.Cache{KeyFiles: []string{"link"}, KeyPrefix: "p"}, 0, "p-" + sum(linkID) + "-non_protected"},
		{"outside", plain, pipeline.Cache{KeyFiles: []string{"../../etc/passwd"}, KeyPrefix: "p"}, 0, "p-default-non_protected"},
		{"commits", plain, pipeline.Cache{KeyCommits: []string{"a/go.sum", "none"}}, 2, "2-" + sum(head) + "-non_protected"},
		{"upwards", plain, pipeline.Cache{Key: "$UP"}, 0, "etc-non_protected"},
		{"encoded", plain, pipeline.Cache{Key: `a%2f%2E%2e%2Fb\c`}, 0, "b/c-non_protected"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.scope.key(t.Context(), c.cache, c.index, Work{Dir: dir, Vars: vars}); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestSanitizeKey(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "a": "a", "a/b": "a/b", "/a": "a", "a/": "a", "a//b": "a/b", ".": "", "..": "", "../..": "", "../a": "a", "a/..": "", "a/../../b": "b",
		"a ": "a", "a/ ": "a", "a/b\t /": "a/b", " / ": "", " a": " a", "a/. ": "a", "a/.. ": "a", "%2e%2E%2Fx": "x", `..\..\x`: "x", "a.b": "a.b", "…": "…",
	} {
		if got := sanitizeKey(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestFallbacks(t *testing.T) {
	for _, c := range []struct {
		scope Scope
		cache pipeline.Cache
		value string
		want  []string
	}{
		{Scope{}, pipeline.Cache{FallbackKeys: []string{"a", "$B", "$UNSET"}}, "last", []string{"a-non_protected", "b-non_protected", "last"}},
		{Scope{Protected: true}, pipeline.Cache{FallbackKeys: []string{"a"}}, "x-protected", []string{"a-protected"}},
		{Scope{Protected: true}, pipeline.Cache{FallbackKeys: []string{"a"}, Unprotect: true}, "../..", []string{"a-non_protected"}},
		{Scope{}, pipeline.Cache{FallbackKeys: []string{"1", "2", "3", "4", "5", "6"}}, "", []string{"1-non_protected", "2-non_protected", "3-non_protected", "4-non_protected", "5-non_protected"}},
	} {
		w := Work{Vars: pipeline.Variables{{Name: "B", Value: "b"}, {Name: "CACHE_FALLBACK_KEY", Value: c.value}}}
		if got := c.scope.fallbacks(c.cache, w); !slices.Equal(got, c.want) {
			t.Errorf("%v: %q, want %q", c.cache.FallbackKeys, got, c.want)
		}
	}
}

func TestCaches(t *testing.T) {
	s, _ := open(t, Options{})
	scope := Scope{Project: "g/p", Job: "build", Ref: "main"}
	dir := t.TempDir()
	fill(t, dir, map[string]string{"node_modules/a/index.js": "a", "node_modules/.bin/a": "-> ../a/index.js", "node_modules/b.js": "b"})
	cache := pipeline.Cache{Key: "default", Paths: []string{"node_modules/"}, FallbackKeys: []string{"older"}}
	var log bytes.Buffer
	restore := func(c pipeline.Cache, to string) CacheResult {
		t.Helper()
		results, err := s.RestoreCaches(t.Context(), scope, []pipeline.Cache{c}, Work{Dir: to, Log: &log})
		if err != nil || len(results) != 1 {
			t.Fatal(results, err)
		}
		return results[0]
	}
	save := func(c pipeline.Cache, succeeded bool) CacheResult {
		t.Helper()
		results, err := s.SaveCaches(t.Context(), scope, []pipeline.Cache{c}, Work{Dir: dir, Log: &log}, succeeded)
		if err != nil || len(results) != 1 {
			t.Fatal(results, err)
		}
		return results[0]
	}
	told := func(want string) {
		t.Helper()
		if diff := cmp.Diff(strings.TrimPrefix(want, "\n"), tidy(log.String(), dir)); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
		log.Reset()
	}

	if r := restore(cache, t.TempDir()); r.Status != CacheMiss || r.Key != "default-non_protected" {
		t.Errorf("%+v", r)
	}
	told(`
Checking cache for default-non_protected...
No cache for default-non_protected: miss
Checking cache for older-non_protected...
No cache for older-non_protected: miss
`)
	if r := save(cache, true); r.Status != CacheStored || r.Files != 6 || r.New != 2 {
		t.Errorf("%+v", r)
	}
	told(`
Creating cache default-non_protected...
node_modules/: found 6 matching artifact files and directories
Created cache default-non_protected: 6 files, 2 B, 2 B of it new, in TIME
`)
	if r := save(cache, true); r.Status != CacheUnchanged || r.New != 0 {
		t.Errorf("%+v", r)
	}
	told(`
Creating cache default-non_protected...
node_modules/: found 6 matching artifact files and directories
Archive is up to date!
Created cache default-non_protected: 6 files, 2 B, 0 B of it new, in TIME
`)
	to := t.TempDir()
	if r := restore(cache, to); r.Status != CacheHit || r.Used != r.Key || r.Files != 6 || r.Size != 2 {
		t.Errorf("%+v", r)
	}
	told(`
Checking cache for default-non_protected...
Successfully extracted cache default-non_protected: hit, 6 files, 2 B in TIME
`)
	if diff := cmp.Diff(list(t, dir), list(t, to)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	other := pipeline.Cache{Key: "new", Paths: cache.Paths, FallbackKeys: []string{"none", "default"}}
	if r := restore(other, t.TempDir()); r.Status != CacheHit || r.Used != "default-non_protected" || r.Key != "new-non_protected" {
		t.Errorf("%+v", r)
	}
	log.Reset()

	// Another project and protected refs see nothing of it.
	for _, sc := range []Scope{{Project: "g/q"}, {Project: "g/p", Protected: true}} {
		results, err := s.RestoreCaches(t.Context(), sc, []pipeline.Cache{cache}, Work{Dir: t.TempDir()})
		if err != nil || results[0].Status != CacheMiss {
			t.Errorf("%+v: %+v, %v", sc, results, err)
		}
	}

	// policy and when
	for _, c := range []struct {
		policy      string
		when        pipeline.When
		succeeded   bool
		pull, saved string
	}{
		{"", "", true, CacheHit, CacheUnchanged},
		{"pull-push", pipeline.Always, false, CacheHit, CacheUnchanged},
		{"pull", "", true, CacheHit, CacheSkipped},
		{"push", "", true, CacheSkipped, CacheUnchanged},
		{"$POLICY", "", true, CacheHit, CacheSkipped},
		{"", pipeline.OnFailure, true, CacheHit, CacheSkipped},
		{"", pipeline.OnFailure, false, CacheHit, CacheUnchanged},
		{"", pipeline.OnSuccess, false, CacheHit, CacheSkipped},
	} {
		k := cache
		k.Policy, k.When = c.policy, c.when
		w := Work{Dir: t.TempDir(), Vars: pipeline.Variables{{Name: "POLICY", Value: "pull"}}}
		pulled, err := s.RestoreCaches(t.Context(), scope, []pipeline.Cache{k}, w)
		if err != nil || pulled[0].Status != c.pull {
			t.Errorf("%+v: restored %+v, %v", c, pulled, err)
		}
		w.Dir = dir
		saved, err := s.SaveCaches(t.Context(), scope, []pipeline.Cache{k}, w, c.succeeded)
		if err != nil || saved[0].Status != c.saved {
			t.Errorf("%+v: saved %+v, %v", c, saved, err)
		}
	}
	bad := cache
	bad.Policy = "sometimes"
	if _, err := s.RestoreCaches(t.Context(), scope, []pipeline.Cache{bad}, Work{Dir: dir}); err == nil || !strings.Contains(err.Error(), "unknown cache policy sometimes") || Reason(err) != pipeline.ConfigurationError {
		t.Error(err)
	}
	if _, err := s.SaveCaches(t.Context(), scope, make([]pipeline.Cache, 5), Work{Dir: dir}, true); err == nil {
		t.Error("five caches")
	}

	// Nothing to save leaves what there is.
	log.Reset()
	gone := cache
	gone.Paths = []string{"none"}
	if r := save(gone, true); r.Status != CacheSkipped {
		t.Errorf("%+v", r)
	}
	if r := restore(cache, t.TempDir()); r.Status != CacheHit {
		t.Errorf("%+v", r)
	}

	// Damage is a miss with a reason, and the fallback is tried.
	fill(t, dir, map[string]string{"node_modules/c.js": "c"})
	log.Reset()
	if r := save(pipeline.Cache{Key: "older", Paths: cache.Paths}, true); r.Status != CacheStored {
		t.Errorf("%+v", r)
	}
	var rec cacheRecord
	if ok, err := s.getJSON(t.Context(), cachePath("g/p", "default-non_protected"), &rec); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if err := os.Remove(filepath.Join(s.dir, blobKey(rec.Archive.Tree))); err != nil {
		t.Fatal(err)
	}
	log.Reset()
	if r := restore(cache, t.TempDir()); r.Status != CacheHit || r.Used != "older-non_protected" {
		t.Errorf("%+v", r)
	}
	told(`
Checking cache for default-non_protected...
WARNING: Failed to extract cache default-non_protected: the store has lost it; nothing of it was extracted
Checking cache for older-non_protected...
Successfully extracted cache older-non_protected: hit, 7 files, 3 B in TIME
`)
}

func TestSweepCaches(t *testing.T) {
	s, now := open(t, Options{})
	scope := Scope{Project: "p"}
	dir := t.TempDir()
	w := Work{Dir: dir}
	c := func(key string) []pipeline.Cache { return []pipeline.Cache{{Key: key, Paths: []string{"f"}}} }
	for _, key := range []string{"a", "b", "c", "d"} {
		fill(t, dir, map[string]string{"f": strings.Repeat(key, 1000)})
		if _, err := s.SaveCaches(t.Context(), scope, c(key), w, true); err != nil {
			t.Fatal(err)
		}
		*now = now.Add(time.Minute)
	}
	there := func() string {
		var keys []string
		for _, key := range []string{"a", "b", "c", "d"} {
			if ok, _ := s.bucket.Exists(t.Context(), cachePath("p", key+"-non_protected")); ok {
				keys = append(keys, key)
			}
		}
		return strings.Join(keys, "")
	}
	if _, err := s.RestoreCaches(t.Context(), scope, c("a"), Work{Dir: t.TempDir()}); err != nil { // now b is the one not used for the longest
		t.Fatal(err)
	}
	*now = now.Add(time.Minute)
	for _, step := range []struct {
		bytes int64
		later time.Duration
		want  string
		swept int
	}{{10_000, 0, "abcd", 0}, {3_500, 0, "acd", 1}, {2_000, 0, "ad", 1}, {2_000, 2 * time.Hour, "", 2}} {
		*now = now.Add(step.later)
		swept, err := s.Sweep(t.Context(), SweepOptions{CacheBytes: step.bytes, CacheAge: time.Hour})
		if err != nil || there() != step.want || swept.Caches != step.swept || swept.Blobs != 2*step.swept {
			t.Errorf("%+v: there is %q, swept %+v, %v", step, there(), swept, err)
		}
	}
	var left []string
	for _, sub := range []string{"blobs", "caches", "used"} {
		left = slices.AppendSeq(left, maps.Keys(list(t, filepath.Join(s.dir, sub))))
	}
	for _, name := range left {
		if !strings.HasSuffix(strings.Split(name, " ")[0], "/") {
			t.Errorf("%s was left", name)
		}
	}
}

func TestSweepBusyAndRubbish(t *testing.T) {
	s, now := open(t, Options{})
	unlock, err := s.lock(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if swept, err := s.Sweep(t.Context(), SweepOptions{}); err != nil || !swept.Busy {
		t.Errorf("%+v, %v", swept, err)
	}
	unlock()
	if swept, err := s.Sweep(t.Context(), SweepOptions{}); err != nil || swept.Busy {
		t.Errorf("%+v, %v", swept, err)
	}
	fill(t, s.dir, map[string]string{"blobs/x": "rubbish"})
	*now = now.Add(59 * time.Minute)
	if swept, err := s.Sweep(t.Context(), SweepOptions{Every: time.Hour}); err != nil || swept.Blobs != 0 {
		t.Errorf("it was not time: %+v, %v", swept, err)
	}
	*now = now.Add(time.Minute)
	if swept, err := s.Sweep(t.Context(), SweepOptions{Every: time.Hour}); err != nil || swept.Blobs != 1 {
		t.Errorf("it was time: %+v, %v", swept, err)
	}
	fill(t, s.dir, map[string]string{
		"blobs/ab/abc.17f.tmp": "half", "blobs/ab/" + strings.Repeat("ab", 32): "unnamed", "blobs/x": "rubbish", "artifacts/x.json": "no JSON", "caches/a/b.json": `{"key":"k"}`, "used/a/b": "x",
		"artifacts/p/1/j.json.17f.tmp": "half",
	})
	if _, err := s.Sweep(t.Context(), SweepOptions{}); err != nil {
		t.Fatal(err)
	}
	for name := range list(t, s.dir) {
		if name, _, _ = strings.Cut(name, " "); !strings.HasSuffix(name, "/") && name != "lock" && name != "swept" {
			t.Errorf("%s is still there", name)
		}
	}
}

func TestDotenv(t *testing.T) {
	many := strings.Repeat("x", maxDotenv)
	for _, c := range []struct{ name, in, want, err string }{
		{"plain", "A=1\nB=two words\n", "A=1|B=two words", ""},
		{"space goes", " A =\t1 \r\nB= \r\n", "A=1|B=", ""},
		{"the first = counts", "URL=https://x/?a=b&c=d", "URL=https://x/?a=b&c=d", ""},
		{"quotes stay", `A="x" 'y'`, `A="x" 'y'`, ""},
		{"the last one counts", "A=1\nB=2\nA=3\n", "A=3|B=2", ""},
		{"none", "", "", ""},
		{"byte order mark", "\ufeffA=1", "A=1", ""},
		{"UTF-16", "\xff\xfeA\x00=\x00\xe9\x00\n\x00", "A=é", ""},
		{"invalid UTF-8", "A=\xff", "A=\ufffd", ""},
		{"not a variable", "A=1\nsecret\n", "", "line 2: Invalid Format"},
		{"empty line", "A=1\n\nB=2\n", "", "line 2: Invalid Format: empty lines"},
		{"a comment without =", "# text\n", "", "line 1: Invalid Format"},
		{"a comment with =", "# A=1\n", "", "line 1: Validation failed: Key"},
		{"no name", "=1\n", "", "line 1: Validation failed: Key"},
		{"bad name", "A-B=1\n", "", "line 1: Validation failed: Key"},
		{"export", "export A=1\n", "", "line 1: Validation failed: Key"},
		{"too big", "A=" + many, "", "Dotenv Artifact Too Big"},
	} {
		t.Run(c.name, func(t *testing.T) {
			vars, err := ParseDotenv([]byte(c.in))
			var got []string
			for _, v := range vars {
				got = append(got, v.Key+"="+v.Value)
			}
			text := ""
			var bad *DotenvError
			if errors.As(err, &bad) {
				text = bad.What
				if bad.Line > 0 {
					text = fmt.Sprintf("line %d: %s", bad.Line, bad.What)
				}
			}
			if strings.Join(got, "|") != c.want || !strings.HasPrefix(text, c.err) || (err != nil) != (c.err != "") {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	s, _ := open(t, Options{Limits: Limits{Dotenv: 25}})
	dir := t.TempDir()
	for n, ok := range map[int]bool{25: true, 26: false} {
		text := ""
		for i := range n {
			text += fmt.Sprintf("V%d=%d\n", i, i)
		}
		fill(t, dir, map[string]string{"e": text})
		var log bytes.Buffer
		_, err := s.Save(t.Context(), Key{}, &pipeline.Artifacts{Reports: map[string][]string{"dotenv": {"e"}}}, Work{Dir: dir, Log: &log}, true)
		if (err == nil) != ok || ok && !strings.Contains(log.String(), "25 variables; GitLab takes 20") {
			t.Errorf("%d: %v\n%s", n, err, log.String())
		}
	}
}

func TestCoverage(t *testing.T) {
	for _, c := range []struct {
		pattern, log string
		want         float64
		ok           bool
	}{
		{`/coverage: \d+\.\d+%/`, "coverage: 12.5%\nno\ncoverage: 80.25% of statements\nend\n", 80.25, true},
		{`/TOTAL.*\s+(\d+)%/`, "TOTAL 10 5 50%\nTOTAL 20 1 95%", 95, true},
		{`Lines: (\d+)% Branches: (\d+)%`, "Lines: 70% Branches: 60%\n", 60, true},
		{`/(\d+)%/`, "1% 2% 3%\n", 3, true},
		{`/Cov: (\d+)|none/`, "Cov: 7\nnone\n", 7, true},
		{`/covered/`, "12 covered\n", 0, false},
		{`/\d+%/`, "none", 0, false},
		{`/a\/b (\d+)/`, "a/b 5\n", 5, true},
		{`/x(\d+)/`, "\x1b[32mx42\x1b[0m\n", 42, true},
	} {
		for _, step := range []int{1, 7, 1 << 20} {
			cov, err := NewCoverage(c.pattern)
			if err != nil {
				t.Fatal(err)
			}
			for chunk := range slices.Chunk([]byte(c.log), step) {
				cov.Write(chunk)
			}
			if got, ok := cov.Value(); got != c.want || ok != c.ok {
				t.Errorf("%s in steps of %d: %v, %v", c.pattern, step, got, ok)
			}
		}
	}
	if _, err := NewCoverage("/(/"); err == nil {
		t.Error("no error")
	}
	cov, _ := NewCoverage(`/\d+/`)
	for range 100 {
		cov.Write(bytes.Repeat([]byte("x"), 1<<20)) // one line of 100 MiB
	}
	if cap(cov.line) > 4*maxCoverageLine {
		t.Errorf("%d bytes are kept", cap(cov.line))
	}
}

func TestJUnit(t *testing.T) {
	deep := strings.Repeat("<a>", maxXMLDepth+1)
	for _, c := range []struct {
		name, in string
		want     JUnit
		err      string
	}{
		{
			name: "suites",
			in: `<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="99"><testsuite name="s" tests="99">
<properties><property name="x" value="y"/></properties>
<testcase classname="c" name="ok" time="0.5"/>
<testcase classname="c" name="bad" file="a_test.go" time="1,000.25"><failure message="want 1" type="T">at line 3
more &lt;text&gt;</failure><system-out>noise</system-out></testcase>
<testcase name="broke"><error><![CDATA[ panic: x
stack ]]></error></testcase>
<testcase name="skip"><skipped/></testcase>
</testsuite></testsuites>`,
			want: JUnit{Total: 4, Failed: 1, Errored: 1, Skipped: 1, Seconds: 1000.75, Failing: []Case{
				{Suite: "s", Class: "c", Name: "bad", File: "a_test.go", Seconds: 1000.25, Message: "want 1", Output: "at line 3\nmore <text>"},
				{Suite: "s", Name: "broke", Errored: true, Message: "panic: x", Output: "panic: x\nstack"},
			}},
		},
		{
			name: "nested suites and several failures",
			in: `<testsuite name="a"><testsuite name="b"><testcase name="x"><error message="e"/><failure message="f"/><failure message="g"/></testcase></testsuite>
<testcase name="y"><skipped message="s"/><failure/></testcase></testsuite>`,
			want: JUnit{Total: 2, Failed: 2, Failing: []Case{{Suite: "b", Name: "x", Message: "f"}, {Suite: "a", Name: "y"}}},
		},
		{name: "reruns are no failures", in: `<testsuite><testcase name="x"><flakyFailure message="f"/><rerunFailure/></testcase></testsuite>`, want: JUnit{Total: 1}},
		{name: "empty suite", in: `<testsuites/>`},
		{name: "no suite", in: `<testcase name="x"/>`, err: "there is no <testsuite>"},
		{name: "HTML", in: `<html><body>no</body></html>`, err: "there is no <testsuite>"},
		{name: "empty", in: ``, err: "there is no <testsuite>"},
		{name: "cut off", in: `<testsuite><testcase name="x"/><testcase name="y">`, want: JUnit{Total: 1}, err: "ends within <testcase>"},
		{name: "not XML", in: "<testsuite>\n<<", err: "line 2:"},
		{name: "crossed", in: "<testsuite><testcase></testsuite>", err: "</testsuite> closes what is not open"},
		{name: "deep", in: "<testsuite>" + deep, err: "nested deeper than 100"},
		{name: "entities", in: `<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><testsuite><testcase name="&b;"/></testsuite>`, err: "invalid character entity"},
		{name: "an entity from a file", in: `<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><testsuite><testcase name="x"><failure>&a;</failure></testcase></testsuite>`, err: "invalid character entity"},
		{name: "Latin-1", in: "<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><testsuite name=\"\xe9\"><testcase name=\"\xfc\"><failure/></testcase></testsuite>",
			want: JUnit{Total: 1, Failed: 1, Failing: []Case{{Suite: "é", Name: "ü"}}}},
		{name: "an encoding nobody knows", in: `<?xml version="1.0" encoding="EBCDIC"?><testsuite/>`, err: `encoding "EBCDIC" is not known`},
		{name: "too large", in: "<testsuite>" + strings.Repeat("<testcase name=\"x\"/>", 100_000), want: JUnit{Total: 52_428}, err: "larger than 1.0 MiB"},
		{name: "bad times", in: `<testsuite><testcase time="NaN"/><testcase time="-1"/><testcase time="1e300"/><testcase time="x"/></testsuite>`, want: JUnit{Total: 4}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseJUnit(strings.NewReader(c.in), 1<<20)
			if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error: %v", err)
			}
			if c.name == "too large" {
				got.Total = min(got.Total, c.want.Total)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	var many strings.Builder
	many.WriteString("<testsuite>")
	for range 1000 {
		many.WriteString(`<testcase name="x"><failure>` + strings.Repeat("é", 5000) + `</failure></testcase>`)
	}
	many.WriteString("</testsuite>")
	got, err := ParseJUnit(strings.NewReader(many.String()), 32<<20)
	if err != nil || got.Failed != 1000 || len(got.Failing) != maxFailing || len(got.Failing[0].Output) > maxText {
		t.Error(err, got.Failed, len(got.Failing))
	}
}

// A cache replaces what a cache has left in a working tree, and nothing else.
func TestCacheAndTree(t *testing.T) {
	s, _ := open(t, Options{})
	dir := t.TempDir()
	caches := func(key string) []pipeline.Cache { return []pipeline.Cache{{Key: key, Paths: []string{"c"}}} }
	save := func(key, dir string) {
		t.Helper()
		if _, err := s.SaveCaches(t.Context(), Scope{}, caches(key), Work{Dir: dir, InPlace: true}, true); err != nil {
			t.Fatal(err)
		}
	}
	restore := func(key, content, warning string) {
		t.Helper()
		var log bytes.Buffer
		results, err := s.RestoreCaches(t.Context(), Scope{}, caches(key), Work{Dir: dir, InPlace: true, Log: &log})
		if err != nil || results[0].Status != CacheHit {
			t.Fatalf("%+v, %v", results, err)
		}
		got, _ := os.ReadFile(filepath.Join(dir, "c/a"))
		if string(got) != content || (kept(log.String()) != "") != (warning != "") {
			t.Errorf("c/a has %q, want %q\n%s", got, content, log.String())
		}
	}
	const warned = "kept"
	elsewhere := t.TempDir()
	fill(t, elsewhere, map[string]string{"c/a": "1"})
	save("k", elsewhere)

	fill(t, dir, map[string]string{"c/a": "mine"}) // before there was ever a cache here
	restore("k", "mine", warned)
	restore("k", "mine", warned)
	save("k", dir)
	restore("k", "mine", "")
	fill(t, dir, map[string]string{"c/a": "edited"})
	restore("k", "edited", warned)
	save("k2", dir)

	// Another branch, another key: each finds its own.
	restore("k", "mine", "")
	restore("k2", "edited", "")
	fill(t, dir, map[string]string{"c/a": "mine"}) // as in k; but k2 was here last
	restore("k2", "mine", warned)
	restore("k", "mine", "")

	// The store has it no more.
	fill(t, elsewhere, map[string]string{"c/a": "2"})
	save("k", elsewhere)
	restore("k", "mine", warned)

	if _, err := s.Sweep(t.Context(), SweepOptions{}); err != nil {
		t.Fatal(err)
	}
	if ok, _ := s.bucket.Exists(t.Context(), seenPath("", dir)); !ok {
		t.Error("what is known of the tree has gone")
	}
	os.RemoveAll(dir)
	if _, err := s.Sweep(t.Context(), SweepOptions{}); err != nil {
		t.Fatal(err)
	}
	if ok, _ := s.bucket.Exists(t.Context(), seenPath("", dir)); ok {
		t.Error("what is known of a tree that is gone is still there")
	}
}
