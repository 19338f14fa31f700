package source_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/source"
)

// pack makes a tar archive, compressed by gzip, of files in their order by name.
func pack(files map[string]string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name]))})
		w.Write([]byte(files[name]))
	}
	w.Close()
	z.Close()
	return b.Bytes()
}

// chart packs a chart with one template, as "helm package" does.
func chart(name, version string) []byte {
	return pack(map[string]string{
		name + "/Chart.yaml":        fmt.Sprintf("apiVersion: v2\nname: %s\nversion: %s\n", name, version),
		name + "/values.yaml":       "a: 1\n",
		name + "/templates/cm.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n",
	})
}

func hexDigest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// helmRepo is a Helm repository over HTTP.
type helmRepo struct {
	*httptest.Server
	mu             sync.Mutex
	files          map[string][]byte // by path
	index          string
	etag           bool
	user, password string
	asked          map[string]int // how often a path was answered in full
	seen           []string       // Authorization headers
	notModified    atomic.Int64
}

func newHelmRepo(t testing.TB) *helmRepo {
	h := &helmRepo{files: map[string][]byte{}, asked: map[string]int{}, index: "apiVersion: v1\nentries:\n", etag: true}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

func (h *helmRepo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := r.Header.Get("Authorization"); a != "" {
		h.seen = append(h.seen, a)
	}
	if user, password, _ := r.BasicAuth(); user != h.user || password != h.password {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	data, ok := h.files[r.URL.Path]
	if r.URL.Path == "/charts/index.yaml" {
		data, ok = []byte(h.index), true
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	if h.etag {
		etag := `"` + hexDigest(data) + `"`
		w.Header().Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			h.notModified.Add(1)
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	h.asked[r.URL.Path]++
	w.Write(data)
}

func (h *helmRepo) count(path string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked[path]
}

// add publishes charts; each gets an entry with a relative address and a digest.
func (h *helmRepo) add(name string, versions ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.index += "  " + name + ":\n"
	for _, v := range versions {
		data := chart(name, v)
		h.files["/charts/"+name+"-"+v+".tgz"] = data
		h.index += fmt.Sprintf("  - apiVersion: v2\n    description: |\n      some: text\n      - with dashes\n    digest: %s\n    name: %s\n    urls:\n    - %s-%s.tgz\n    version: %s\n", hexDigest(data), name, name, v, v)
	}
}

func (h *helmRepo) source(chart, version string) delivery.Source {
	return delivery.Source{ID: delivery.ID{Kind: "Repository", Namespace: "argocd", Name: chart}, URL: h.URL + "/charts", Chart: chart, Ref: delivery.GitRef{Any: version}}
}

func newFetcher(t testing.TB) (*source.Fetcher, string) {
	t.Helper()
	dir := t.TempDir()
	f, err := source.New(source.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, dir
}

func TestChartVersions(t *testing.T) {
	h := newHelmRepo(t)
	h.add("other", "9.9.9")
	h.add("web", "2.0.0-rc.1", "1.10.0", "1.2.3", "1.2.3+build.7", "0.9.0", "not-a-version")
	h.add("v", "v3.0.0", "2.5.0")
	f, _ := newFetcher(t)
	for _, tt := range []struct{ chart, want, version string }{
		{"web", "", "1.10.0"}, {"web", "*", "1.10.0"}, {"web", "HEAD", "1.10.0"}, {"web", "1.2.3", "1.2.3"}, {"web", "v1.2.3", "1.2.3"},
		{"web", "1.2.3+build.7", "1.2.3+build.7"}, {"web", "~1.2", "1.2.3"}, {"web", ">=2.0.0-0", "2.0.0-rc.1"}, {"web", "<1", "0.9.0"},
		{"web", "not-a-version", "not-a-version"}, {"web", "1.10", "1.10.0"}, {"v", "3.0.0", "v3.0.0"}, {"v", "*", "v3.0.0"},
		{"web", "3.x", ""}, {"web", "latest please", ""}, {"none", "*", ""},
	} {
		src := h.source(tt.chart, tt.want)
		rev, err := f.Resolve(t.Context(), src)
		if tt.version == "" {
			var fault *delivery.Fault
			if !errors.As(err, &fault) || fault.Retry != delivery.OnChange || fault.Reason != source.ReasonChart || fault.Hint == "" {
				t.Errorf("%s %q: %v, %v", tt.chart, tt.want, rev, err)
			}
			continue
		}
		if want := tt.version + "@sha256:" + hexDigest(chart(tt.chart, tt.version)); err != nil || rev.String() != want {
			t.Errorf("%s %q: %s, want %s (%v)", tt.chart, tt.want, rev, want, err)
			continue
		}
		snap, err := f.Fetch(t.Context(), src, rev)
		if err != nil {
			t.Errorf("%s %q: %v", tt.chart, tt.want, err)
			continue
		}
		if got := content(t, snap, "Chart.yaml"); !strings.Contains(got, "version: "+tt.version+"\n") {
			t.Errorf("%s %q: Chart.yaml is %q", tt.chart, tt.want, got)
		}
		if err := fstest.TestFS(snap.FS, "Chart.yaml", "values.yaml", "templates/cm.yaml"); err != nil {
			t.Error(err)
		}
	}
}

// Many apps of one repository share what is asked and what is kept.
func TestChartsAreShared(t *testing.T) {
	h := newHelmRepo(t)
	h.add("web", "1.0.0")
	h.add("db", "2.0.0")
	f, dir := newFetcher(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			src := h.source("web", "1.x")
			src.ID.Name = fmt.Sprint(i)
			if i%2 == 0 {
				src.Chart, src.Ref.Any = "db", "*"
			}
			snapshot(t, f, src)
		})
	}
	wg.Wait()
	first := snapshot(t, f, h.source("web", "1.x"))
	if n := h.count("/charts/index.yaml"); n != 1 {
		t.Errorf("the index came %d times", n)
	}
	if n := h.count("/charts/web-1.0.0.tgz"); n != 1 {
		t.Errorf("the archive came %d times", n)
	}
	h.add("web2", "1.0.0")
	time.Sleep(50 * time.Millisecond)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) { // it is asked for again when that is cheap enough
		if _, err := f.Resolve(t.Context(), h.source("web2", "*")); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if again := snapshot(t, f, h.source("web", "*")); again.Digest != first.Digest || again.Revision != first.Revision || again.Rules != first.Rules {
		t.Errorf("the snapshot is another one: %+v, %+v", first, again)
	}

	// After a restart without the remote, what is known is still there.
	h.Close()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f2, err := source.New(source.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f2.Resolve(t.Context(), h.source("web", "1.x")); !errors.Is(err, git.ErrUnreachable) {
		t.Errorf("Resolve without the remote: %v", err)
	}
	if last := f2.Last(h.source("web", "1.x")); last != first.Revision {
		t.Errorf("the last revision is %s, want %s", last, first.Revision)
	}
	if last := f2.Last(h.source("web", "2.x")); last != (delivery.Revision{}) {
		t.Errorf("the last revision of what was never asked for is %s", last)
	}
	snap, err := f2.Fetch(t.Context(), h.source("web", "1.x"), first.Revision)
	if err != nil || snap.Digest != first.Digest {
		t.Fatalf("Fetch without the remote: %v, %v", snap, err)
	}
	elsewhere := h.source("web", "1.x")
	elsewhere.ID.Namespace = "others"
	if _, err := f2.Fetch(t.Context(), elsewhere, first.Revision); err == nil {
		t.Error("another namespace reads what it has never been allowed to")
	}

	// A damaged archive is not used, and one that nobody names is removed.
	archives, err := filepath.Glob(filepath.Join(dir, "*.archives", first.Revision.Commit))
	if err != nil || len(archives) != 1 {
		t.Fatal(archives, err)
	}
	if err := f2.Retain(t.Context(), []delivery.Source{h.source("web", "")}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(archives[0]); err != nil {
		t.Error("Retain removed what is named", err)
	}
	if err := os.WriteFile(archives[0], chart("web", "6.6.6"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f2.Fetch(t.Context(), h.source("web", "1.x"), first.Revision); !errors.Is(err, git.ErrUnreachable) {
		t.Errorf("a damaged archive: %v", err)
	}
	if err := f2.Retain(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestIndexForms(t *testing.T) {
	one := chart("web", "1.0.0")
	digest := hexDigest(one)
	for name, index := range map[string]string{
		"comments":           "# by hand\napiVersion: v1 # yes\nentries: # all\n  # the one\n  web: # web\n  # its versions\n    - version: 1.0.0\n\n      # where\n      urls: [web.tgz]\ngenerated: now\n",
		"deep":               "entries:\n        web:\n            -   version: \"1.0.0\"\n                urls:\n                    -   'web.tgz'\n",
		"quoted":             "\"apiVersion\": v1\n'entries':\n  \"other\":\n  - version: 1.0.0\n    urls: [none]\n  'web':\n  - urls: [\"web.tgz\"]\n    version: '1.0.0'\n",
		"bare dashes within": "entries:\n  web:\n  - version: 1.0.0\n    urls:\n    -\n      web.tgz\n    name: web\n",
		"bare dashes":        "entries:\n  web:\n  -\n    version: 1.0.0\n    urls: [web.tgz]\n  -\n    version: 0.1.0\n    urls: [old.tgz]\n",
		"JSON":               `{"apiVersion":"v1","generated":"now","x":[1,{"entries":{}}],"entries":{"other":[{"version":"1.0.0"}],"web":[{"version":"1.0.0","urls":["web.tgz"],"digest":"` + digest + `"}]}}`,
		"pretty JSON":        "\n{\n  \"entries\": {\n    \"web\": [ {\n \"version\": \"1.0.0\", \"urls\": [\n \"web.tgz\" ] } ] } }\n",
		"flow":               "apiVersion: v1\nentries: {web: [{version: 1.0.0, urls: [web.tgz]}]}\n",
		"flow below":         "entries:\n  web: [{version: 1.0.0, urls: [web.tgz]}]\n",
		"flow items": "apiVersion: v1\nentries:\n  other:\n  - {version: 1.0.0, urls: [none]}\n  web:\n  - {apiVersion: v2, name: web, version: 1.0.0, urls: [web.tgz]}\n" +
			"  - {apiVersion: v2, name: web, version: 0.9.0, urls: [old.tgz]}\ngenerated: now\n",
		"JSON items": "entries:\n  web:\n    - {\"apiVersion\":\"v2\",\"description\":\"<a> - {b\",\"version\":\"0.9.0\",\"urls\":[\"old.tgz\"]}\n" +
			"    - {\"apiVersion\":\"v2\",\"version\":\"1.0.0\",\"urls\":[\"web.tgz\"],\"digest\":\"" + digest + "\"}\n",
		"flow items of several lines": "entries:\n  web:\n  - {apiVersion: v2,\n    name: web, # it\n\n      version: 1.0.0,\n    urls: [\n      web.tgz\n    ]}\n  - {version: 0.9.0,\n     urls: [old.tgz]}\n",
		"flow below dashes":           "entries:\n  web:\n  -\n    {name: web, version: 1.0.0, urls: [web.tgz]}\n  -\n    {version: 0.9.0, urls: [old.tgz]}\n",
		"items of both kinds":         "entries:\n  web:\n  - {version: 0.9.0, urls: [old.tgz]}\n  - name: web\n    version: 1.0.0\n    urls:\n    - web.tgz\n  - &last {version: 0.8.0, urls: [older.tgz]}\n",
		"flow items with long lines":  "entries:\n  web:\n  - {icon: 'data:" + strings.Repeat("a", 200_000) + "', version: 1.0.0, urls: [web.tgz]}\n  - {version: 0.9.0, urls: [old.tgz]}\n",
		"anchors":                     "entries:\n  base: &b\n  - version: 1.0.0\n    urls: [web.tgz]\n  web: *b\n",
		"absolute":                    "entries:\n  web:\n  - version: 1.0.0\n    urls: [URL/charts/web.tgz]\n",
		"from the root":               "entries:\n  web:\n  - version: 1.0.0\n    urls: [/charts/web.tgz]\n",
		"CRLF":                        "apiVersion: v1\r\nentries:\r\n  web:\r\n  - version: 1.0.0\r\n    urls:\r\n    - web.tgz\r\n",
		"no newline":                  "entries:\n  web:\n  - urls:\n    - web.tgz\n    version: 1.0.0",
		"sha256 written":              "entries:\n  web:\n  - urls:\n    - web.tgz\n    version: 1.0.0\n    digest: sha256:" + digest + "\n",
		"useless entries": "entries:\n  web:\n  - null\n  - version: 1.0.0\n  - urls: [x]\n  - version: 1.0.0\n    removed: true\n    urls: [gone.tgz]\n" +
			"  - version: 1.0.0\n    urls: [web.tgz]\n    description: \"a\n\n      b\"\n    x-version: 3\n    maintainers:\n    - version: 7.0.0\n      urls: [bad]\n",
		"long lines": "entries:\n  other:\n  - description: " + strings.Repeat("web: x ", 100_000) + "\n  web:\n  - icon: data:" + strings.Repeat("a", 200_000) + "\n    urls: [web.tgz]\n    version: 1.0.0\n    home: " + strings.Repeat("b", 100_000) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			h := newHelmRepo(t)
			h.index = strings.ReplaceAll(index, "URL", h.URL)
			h.files["/charts/web.tgz"] = one
			f, _ := newFetcher(t)
			snap := snapshot(t, f, h.source("web", "*"))
			if want := "1.0.0@sha256:" + digest; snap.Revision.String() != want {
				t.Errorf("%s, want %s", snap.Revision, want)
			}
			if _, err := fs.Stat(snap.FS, "templates/cm.yaml"); err != nil {
				t.Error(err)
			}
			if _, err := f.Resolve(t.Context(), h.source("none", "*")); err == nil || !strings.Contains(err.Error(), "no such chart: the repository has no chart none") {
				t.Error(err)
			}
		})
	}
}

// TestIndexItemsAreBounded: an item in braces is parsed as a whole, so it may not be large; what cannot be read is said.
func TestIndexItemsAreBounded(t *testing.T) {
	for item, want := range map[string]string{
		"{version: 1.0.0, urls: [web.tgz], keywords: [" + strings.Repeat("a,", 1<<20) + "]}": "takes more than 1 MiB",
		"{version: 1.0.0, urls: [web.tgz]":                                                   "cannot be used",
		"*elsewhere":                                                                         "cannot be used",
	} {
		h := newHelmRepo(t)
		h.index = "entries:\n  web:\n  - " + item + "\n"
		f, _ := newFetcher(t)
		if _, err := f.Resolve(t.Context(), h.source("web", "*")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %s", item, err, want)
		}
	}
}

// TestNear: what lacks is named, a chart or a version of it, and what there is instead, the likeliest first.
func TestNear(t *testing.T) {
	h := newHelmRepo(t)
	h.index = "apiVersion: v1\nentries:\n"
	for name, versions := range map[string][]string{
		"wordpress": {"1.0.0", "3.10.9", "3.9.0", "3.10.10", "2.0.0", "nightly", "3.11.0", "4.0.0"}, "wordpress-stack": {"1.0.0"}, "redis": {"1.0.0"},
	} {
		h.index += "  " + name + ":\n"
		for _, v := range versions {
			h.index += "  - {name: " + name + ", version: " + v + ", urls: [a.tgz]}\n"
		}
	}
	f, _ := newFetcher(t)
	for _, c := range []struct{ chart, version, want string }{
		{"wordpress", "3.10.1", "no such version: chart wordpress has no version '3.10.1'; there is: 3.10.10, 3.10.9, 3.11.0, 3.9.0, 4.0.0, 2.0.0, … " +
			"(hint: correct chart or targetRevision, or publish that version)"},
		{"word-press", "*", "no such chart: the repository has no chart word-press; there is: wordpress, wordpress-stack (hint: correct chart, or publish it there)"},
		{"mysql", "*", "no such chart: the repository has no chart mysql; there is: redis, wordpress, wordpress-stack (hint: correct chart, or publish it there)"},
	} {
		if _, err := f.Resolve(t.Context(), h.source(c.chart, c.version)); err == nil || !strings.HasSuffix(err.Error(), c.want) {
			t.Errorf("%s %s: %v\nwant %s", c.chart, c.version, err, c.want)
		}
	}
}
