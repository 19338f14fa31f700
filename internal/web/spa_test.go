package web_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"keelson.dev/keelson/internal/web"
)

func packed(t *testing.T, text string) *fstest.MapFile {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return &fstest.MapFile{Data: b.Bytes()}
}

func TestDashboardFiles(t *testing.T) {
	files := fstest.MapFS{
		"index.html.gz":           packed(t, "<title>the index</title>"),
		"assets/index-1a2b.js.gz": packed(t, "the script"),
		"favicon.svg.gz":          packed(t, "<svg/>"),
	}
	const index, script = "<title>the index</title>", "the script"
	cases := map[string]struct {
		path, encoding, accept string
		empty                  bool // a program without the dashboard
		code                   int
		body                   string
		kind, caching          string
		packed                 bool
	}{
		"the first page":            {path: "/", code: 200, body: index, kind: "text/html; charset=utf-8", caching: "no-cache"},
		"a page's address":          {path: "/apps/Kustomization/flux-system/a.b", code: 200, body: index, kind: "text/html; charset=utf-8", caching: "no-cache"},
		"compressed":                {path: "/pipelines/7", encoding: "br, gzip;q=0.8", code: 200, body: index, kind: "text/html; charset=utf-8", caching: "no-cache", packed: true},
		"not compressed for a zero": {path: "/", encoding: "gzip;q=0", code: 200, body: index, kind: "text/html; charset=utf-8", caching: "no-cache"},
		"a script":                  {path: "/assets/index-1a2b.js", encoding: "gzip", code: 200, body: script, kind: "text/javascript; charset=utf-8", caching: "public, max-age=31536000, immutable", packed: true},
		"the icon":                  {path: "/favicon.svg", code: 200, body: "<svg/>", kind: "image/svg+xml", caching: "max-age=3600"},
		"a script of another build": {path: "/assets/index-0000.js", code: 404, body: `{"error":"there is nothing at /assets/index-0000.js"}`, kind: "application/json", caching: "no-store"},
		"no way out":                {path: "/assets/../../index.html", code: 307, body: "/index.html", kind: "text/html; charset=utf-8", caching: "no-store"},
		"an unknown call":           {path: "/api/nothing", code: 404, body: `{"error":"there is nothing at /api/nothing"}`, kind: "application/json", caching: "no-store"},
		"an unknown page":           {path: "/nothing", accept: "text/html,*/*", code: 404, body: index, kind: "text/html; charset=utf-8", caching: "no-cache"},
		"an unknown file":           {path: "/robots.txt", code: 404, body: "nothing at /robots.txt", kind: "application/json", caching: "no-store"},
		"built without":             {path: "/", empty: true, code: 200, body: "make build", kind: "text/html; charset=utf-8", caching: "no-store"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			opts := web.Options{Lister: two, Loopback: true, Logger: slog.New(slog.DiscardHandler), Assets: files}
			if tc.empty {
				opts.Assets = fstest.MapFS{"README": {}}
			}
			r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1/", nil)
			r.URL.Path = tc.path
			r.Header.Set("Accept-Encoding", tc.encoding)
			r.Header.Set("Accept", tc.accept)
			w := httptest.NewRecorder()
			web.New(opts).ServeHTTP(w, r)
			body, h := w.Body.String(), w.Header()
			if h.Get("Content-Encoding") == "gzip" {
				z, err := gzip.NewReader(w.Body)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(z)
				if err != nil {
					t.Fatal(err)
				}
				body = string(b)
			}
			if w.Code != tc.code || !strings.Contains(body, tc.body) || h.Get("Content-Type") != tc.kind || h.Get("Cache-Control") != tc.caching {
				t.Errorf("%d %q %q %q, want %d %q %q %q", w.Code, body, h.Get("Content-Type"), h.Get("Cache-Control"), tc.code, tc.body, tc.kind, tc.caching)
			}
			if got := h.Get("Content-Encoding") == "gzip"; got != tc.packed {
				t.Errorf("compressed: %t, want %t", got, tc.packed)
			}
			if csp := h.Get("Content-Security-Policy"); tc.code != http.StatusTemporaryRedirect && !strings.HasPrefix(csp, "default-src 'none'; script-src 'self'; style-src 'self';") || strings.Contains(csp, "unsafe") {
				t.Errorf("policy %q", csp)
			}
		})
	}
}
