package source_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/source"
)

// tarOf makes a compressed tar archive of entries as they are.
func tarOf(entries ...tar.Header) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, h := range entries {
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		w.WriteHeader(&h)
		w.Write(make([]byte, h.Size))
	}
	w.Close()
	z.Close()
	return b.Bytes()
}

// bomb unpacks to a file of the given size.
func bomb(name string, size int64) []byte { return tarOf(tar.Header{Name: name, Size: size}) }

func TestHostileArchives(t *testing.T) {
	chartYAML := tar.Header{Name: "web/Chart.yaml"}
	many := make([]tar.Header, 20_050)
	for i := range many {
		many[i] = tar.Header{Name: fmt.Sprintf("web/%d", i)}
	}
	for name, tt := range map[string]struct {
		archive []byte
		want    string
	}{
		"climbs":          {tarOf(chartYAML, tar.Header{Name: "../../etc/passwd"}), "leads out of it"},
		"climbs inside":   {tarOf(chartYAML, tar.Header{Name: "web/../../x"}), "leads out of it"},
		"climbs by \\":    {tarOf(chartYAML, tar.Header{Name: `web\..\..\x`}), "leads out of it"},
		"absolute":        {tarOf(chartYAML, tar.Header{Name: "/etc/passwd"}), "leads out of it"},
		"symbolic link":   {tarOf(chartYAML, tar.Header{Name: "web/l", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}), "is a link"},
		"hard link":       {tarOf(chartYAML, tar.Header{Name: "web/l", Typeflag: tar.TypeLink, Linkname: "web/Chart.yaml"}), "is a link"},
		"device":          {tarOf(chartYAML, tar.Header{Name: "web/d", Typeflag: tar.TypeChar}), "is not a file"},
		"outside":         {tarOf(chartYAML, tar.Header{Name: "stray"}), "is not in the chart's folder"},
		"file and folder": {tarOf(chartYAML, tar.Header{Name: "web/a"}, tar.Header{Name: "web/a/b"}), "something is there already"},
		"no chart":        {tarOf(tar.Header{Name: "web/values.yaml"}), "has no Chart.yaml"},
		"empty":           {tarOf(), "it is empty"},
		"no archive":      {[]byte("<html>not found</html>"), "cannot be used"},
		"cut off":         {chart("web", "1.0.0")[:100], "cannot be used"},
		"a large file":    {bomb("web/Chart.yaml", 51<<20), "larger than"},
		"large in all":    {tarOf(chartYAML, tar.Header{Name: "web/a", Size: 49 << 20}, tar.Header{Name: "web/b", Size: 49 << 20}, tar.Header{Name: "web/c", Size: 49 << 20}), "larger than"},
		"many files":      {tarOf(many...), "more than 20000 files"},
		"deep":            {tarOf(chartYAML, tar.Header{Name: strings.Repeat("d/", 400) + "x"}), "folders deep"},
		"too large":       {bytes.Repeat([]byte("x"), 65<<20), "larger than 64 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHelmRepo(t)
			h.files["/charts/web.tgz"] = tt.archive
			h.index = "entries:\n  web:\n  - version: 1.0.0\n    urls: [web.tgz]\n    digest: " + hexDigest(tt.archive) + "\n"
			f, dir := newFetcher(t)
			src := h.source("web", "*")
			rev, err := f.Resolve(t.Context(), src)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.Fetch(t.Context(), src, rev)
			var fault *delivery.Fault
			if !errors.As(err, &fault) || fault.Reason != source.ReasonChart || fault.Hint == "" || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %s", err, tt.want)
			}
			_ = dir
		})
	}
}

func TestHostileIndexes(t *testing.T) {
	endless := func(w http.ResponseWriter, line string) {
		io.WriteString(w, "apiVersion: v1\nentries:\n")
		chunk := []byte(strings.Repeat(line, 1000))
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	for name, tt := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		want   string
		is     error
	}{
		"endless":         {func(w http.ResponseWriter, _ *http.Request) { endless(w, "  web:\n  - version: 1.0.0\n") }, "larger than 50 MiB", nil},
		"an endless line": {func(w http.ResponseWriter, _ *http.Request) { endless(w, "  web: ") }, "larger than 50 MiB", nil},
		"endless, packed": {func(w http.ResponseWriter, _ *http.Request) { packed(w, 60<<20) }, "larger than 50 MiB", nil},
		"one huge chart":  {func(w http.ResponseWriter, _ *http.Request) { manyVersions(w, 400_000) }, "one of its charts takes more than 8 MiB", nil},
		"slow":            {func(w http.ResponseWriter, r *http.Request) { drip(w, r) }, "deadline exceeded", git.ErrUnreachable},
		"no index":        {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>\n<body>\n") }, "it has no entries", nil},
		"empty":           {func(http.ResponseWriter, *http.Request) {}, "it has no entries", nil},
		"not found":       {http.NotFound, "404", git.ErrRepoNotFound},
		"forbidden":       {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, "403", git.ErrAuth},
		"a bad request":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) }, "400", git.ErrRefused},
		"too long":        {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusRequestURITooLong) }, "414", git.ErrRefused},
		"too often":       {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) }, "429", git.ErrUnreachable},
		"broken":          {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, "502", git.ErrUnreachable},
		"a redirect loop": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path+"?x", http.StatusFound) }, "10 redirects", git.ErrUnreachable},
		"another protocol": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		}, "unsupported protocol", git.ErrUnreachable},
		"malformed":     {text("entries:\n  web:\n  - version: [1.0.0\n    urls: {\n"), "cannot be used", nil},
		"an alias bomb": {text("entries: {a: &a [1,2,3,4,5,6,7,8,9], b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a], c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b], d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c], e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d], f: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e], web: [*f,*f,*f,*f,*f,*f,*f,*f,*f]}\n"), "cannot be used", nil},
		"deep":          {text("entries: {web: " + strings.Repeat("[", 100_000) + "}\n"), "cannot be used", nil},
		"deep JSON":     {text(`{"entries":{"x":` + strings.Repeat("[", 100_000) + `}}`), "cannot be used", nil},
		"a bad address": {text("entries:\n  web:\n  - version: 1.0.0\n    urls: ['http://[bad']\n"), "the address of version 1.0.0 is malformed", nil},
		"a file":        {text("entries:\n  web:\n  - version: 1.0.0\n    urls: ['file:///etc/passwd']\n"), "neither https nor oci", nil},
		"no tag":        {text("entries:\n  web:\n  - version: 1.0.0\n    urls: ['oci://localhost:1/x']\n"), "has no tag", nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(tt.answer))
			t.Cleanup(s.CloseClientConnections)
			f, _ := newFetcher(t)
			src := (&helmRepo{Server: s}).source("web", "*")
			src.Timeout = 20 * time.Second
			if name == "slow" {
				src.Timeout = 300 * time.Millisecond
			}
			_, err := f.Resolve(t.Context(), src)
			var fault *delivery.Fault
			if !errors.As(err, &fault) || fault.Hint == "" || !strings.Contains(err.Error(), tt.want) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

func text(s string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, s) }
}

func packed(w http.ResponseWriter, size int) {
	w.Header().Set("Content-Encoding", "gzip")
	z := gzip.NewWriter(w)
	io.WriteString(z, "entries:\n")
	z.Write(bytes.Repeat([]byte("# nothing\n"), size/10))
	z.Close()
}

func drip(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		io.WriteString(w, "#\n")
		w.(http.Flusher).Flush()
		time.Sleep(10 * time.Millisecond)
	}
}

func manyVersions(w io.Writer, n int) {
	io.WriteString(w, "entries:\n  web:\n")
	for i := range n {
		fmt.Fprintf(w, "  - urls: [a]\n    version: 1.0.%d\n", i)
	}
}

// Credentials are for the repository's own host, with the same scheme and port, whatever it redirects to or names in its index.
func TestCredentialsStay(t *testing.T) {
	var leaked atomic.Value
	leaked.Store("")
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a := r.Header.Get("Authorization"); a != "" {
			leaked.Store(a)
		}
		w.Write(chart("web", "1.0.0"))
	}))
	t.Cleanup(other.Close)
	elsewhere := map[string]string{
		"another port": other.URL, "another name": strings.Replace(other.URL, "127.0.0.1", "localhost", 1),
	}
	for name, host := range elsewhere {
		for _, how := range []string{"named", "redirected", "named, and all may see them"} {
			t.Run(name+" "+how, func(t *testing.T) {
				leaked.Store("")
				h := newHelmRepo(t)
				h.user, h.password = "bob", "for-this-host-only"
				address := host + "/web.tgz"
				if how == "redirected" {
					address = "moved/web.tgz"
				}
				h.index = "entries:\n  web:\n  - version: 1.0.0\n    urls: ['" + address + "']\n"
				inner := h.Config.Handler
				h.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if strings.HasPrefix(r.URL.Path, "/charts/moved") {
						http.Redirect(w, r, host+"/web.tgz", http.StatusFound)
						return
					}
					inner.ServeHTTP(w, r)
				})
				f, _ := newFetcher(t)
				src := h.source("web", "*")
				src.Credentials = delivery.Credentials{Username: "bob", Password: "for-this-host-only", PassAll: strings.HasSuffix(how, "all may see them")}
				snap := snapshot(t, f, src)
				if got := content(t, snap, "values.yaml"); got != "a: 1\n" {
					t.Error(got)
				}
				if saw := leaked.Load() != ""; saw != src.Credentials.PassAll {
					t.Errorf("the other host has seen them: %v", saw)
				}
			})
		}
	}

	// What is wrong with them is said without them.
	h := newHelmRepo(t)
	h.user, h.password = "bob", "right"
	f, _ := newFetcher(t)
	src := h.source("web", "*")
	src.URL = strings.Replace(src.URL, "http://", "http://bob:wr0ng-secret@", 1) + "?sig=s3cret-signature"
	_, err := f.Resolve(t.Context(), src)
	if !errors.Is(err, git.ErrAuth) || strings.Contains(err.Error(), "wr0ng-secret") || strings.Contains(err.Error(), "s3cret-signature") || !strings.Contains(err.Error(), "argocd.argoproj.io/secret-type") {
		t.Errorf("%v", err)
	}
}

// A repository whose TLS certificate nobody has signed is used only where the user says so.
func TestChartsOverTLS(t *testing.T) {
	h := newHelmRepo(t)
	h.add("web", "1.0.0")
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	f, _ := newFetcher(t)
	src := (&helmRepo{Server: s}).source("web", "*")
	if _, err := f.Resolve(t.Context(), src); err == nil || !strings.Contains(err.Error(), "certificate") || !strings.Contains(err.Error(), "argocd-tls-certs-cm") {
		t.Errorf("an unknown authority: %v", err)
	}
	src.Credentials.Insecure = true
	snapshot(t, f, src)
}

// An index of 50 MB is read in bounded memory.
func TestLargeIndex(t *testing.T) {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nentries:\n")
	for c := 0; b.Len() < 49<<20; c++ {
		fmt.Fprintf(&b, "  chart-%d:\n", c)
		for v := range 150 {
			fmt.Fprintf(&b, "  - annotations:\n      category: Infrastructure\n      images: |\n        - name: x\n          image: docker.io/x/y:%d\n    apiVersion: v2\n    appVersion: 1.%d.0\n    created: \"2024-01-01T00:00:00Z\"\n", v, v)
			fmt.Fprintf(&b, "    dependencies:\n    - name: common\n      repository: oci://registry-1.docker.io/bitnamicharts\n      version: 2.x.x\n    description: %s\n", strings.Repeat("all that there is to say ", 12))
			fmt.Fprintf(&b, "    digest: %064d\n    home: https://example.com\n    keywords:\n    - a\n    - b\n    maintainers:\n    - name: m\n      url: https://example.com\n    name: chart-%d\n    urls:\n    - https://charts.example.com/chart-%d-1.%d.0.tgz\n    version: 1.%d.0\n", v, c, c, v, v)
		}
	}
	h := newHelmRepo(t)
	h.index = b.String()
	b.Reset()
	f, _ := newFetcher(t)
	var before, peak runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	rev, err := f.Resolve(t.Context(), h.source("chart-7", "1.x"))
	took := time.Since(began)
	runtime.ReadMemStats(&peak)
	if err != nil || rev.Name != "1.149.0" {
		t.Fatal(rev, err)
	}
	allocated := (peak.TotalAlloc - before.TotalAlloc) >> 20
	t.Logf("%d MiB in %v, %d MiB allocated", len(h.index)>>20, took, allocated)
	if allocated > 200 { // the server makes a copy of the index, and so does hashing it
		t.Errorf("%d MiB were allocated", allocated)
	}
	began = time.Now()
	if _, err := f.Resolve(t.Context(), h.source("chart-8", "1.x")); err != nil {
		t.Fatal(err)
	}
	if n := h.count("/charts/index.yaml"); n != 1 {
		t.Errorf("the index came %d times", n)
	}
	t.Logf("another chart: %v", time.Since(began))
}
