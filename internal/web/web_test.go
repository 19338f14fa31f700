package web_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/web"
)

// fixed answers with what it holds.
type fixed struct {
	apps    []web.App
	sources []web.Source
	err     error
}

func (f fixed) Apps(context.Context) ([]web.App, error)       { return f.apps, f.err }
func (f fixed) Sources(context.Context) ([]web.Source, error) { return f.sources, f.err }

func serve(t *testing.T, l web.Lister, host, path string) (*http.Response, string) {
	t.Helper()
	h := web.New(web.Options{Lister: l, Version: "v1", Loopback: true, Logger: slog.New(slog.DiscardHandler)})
	r := httptest.NewRequest(http.MethodGet, "http://"+host+path, nil)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	b, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Result(), string(b)
}

var two = fixed{
	apps: []web.App{
		{Status: web.Status{Kind: "Kustomization", Namespace: "flux-system", Name: "dev", State: web.Ready,
			Revision: "main@sha1:4c1b4c1b4c1b4c1b4c1b4c1b4c1b4c1b4c1b4c1b", Since: time.Now().Add(-3 * time.Hour)},
			Path: "overlays/dev", Objects: 8},
		{Status: web.Status{Kind: "Kustomization", Namespace: "flux-system", Name: "<b>evil</b>", State: web.Failing,
			Reason: "BuildFailed", Message: "overlays/x: no such folder", Warnings: []string{"spec.decryption: without effect"}}},
	},
	sources: []web.Source{{Status: web.Status{Name: "sample", State: web.Working}, URL: "http://127.0.0.1:7070/git/sample.git"}},
}

func TestHostNames(t *testing.T) {
	cases := map[string]int{
		"127.0.0.1:7070": 200, "localhost:7070": 200, "[::1]:7070": 200, "keelson.localhost": 200,
		"evil.example": 403, "127.0.0.1.evil.example:7070": 403, "10.0.0.1": 403,
	}
	for host, want := range cases {
		t.Run(host, func(t *testing.T) {
			if res, _ := serve(t, two, host, "/api/apps"); res.StatusCode != want {
				t.Errorf("status %d, want %d", res.StatusCode, want)
			}
		})
	}
}

func TestAPI(t *testing.T) {
	cases := map[string]struct {
		list web.Lister
		path string
		code int
		want string
	}{
		"no apps":        {fixed{}, "/api/apps", 200, `{"apps":[]}`},
		"no sources":     {fixed{}, "/api/sources", 200, `{"sources":[]}`},
		"silent cluster": {fixed{err: errors.New("refused")}, "/api/apps", 503, `{"error":"The cluster does not answer. This page tries again by itself."}`},
		"one source": {two, "/api/sources", 200,
			`{"sources":[{"kind":"","namespace":"","name":"sample","state":"Working","created":"0001-01-01T00:00:00Z","url":"http://127.0.0.1:7070/git/sample.git","ref":""}]}`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			res, body := serve(t, tc.list, "127.0.0.1", tc.path)
			if res.StatusCode != tc.code {
				t.Errorf("status %d, want %d", res.StatusCode, tc.code)
			}
			var got, want any
			if err := errors.Join(json.Unmarshal([]byte(body), &got), json.Unmarshal([]byte(tc.want), &want)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadOnly(t *testing.T) {
	h := web.New(web.Options{Lister: two, Logger: slog.New(slog.DiscardHandler)})
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, "/api/apps", nil))
		if w.Code != http.StatusMethodNotAllowed {
			t.Errorf("%s: status %d, want 405", method, w.Code)
		}
	}
}

// The numbers and the profiles are behind the same guard as the page, and there only where they were asked for.
func TestMetricsAndProfiles(t *testing.T) {
	here := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "here") })
	with := web.Options{Lister: two, Loopback: true, Logger: slog.New(slog.DiscardHandler), Metrics: here, Pprof: here}
	without := web.Options{Lister: two, Loopback: true, Logger: slog.New(slog.DiscardHandler)}
	cases := map[string]struct {
		opts      web.Options
		host      string
		wantCode  int
		wantPaths []string
	}{
		"asked for":      {with, "127.0.0.1:7070", http.StatusOK, []string{"/metrics", "/debug/pprof/", "/debug/pprof/heap"}},
		"not asked for":  {without, "127.0.0.1:7070", http.StatusNotFound, []string{"/metrics", "/debug/pprof/", "/debug/pprof/heap"}},
		"a foreign host": {with, "evil.example:7070", http.StatusForbidden, []string{"/metrics", "/debug/pprof/"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			for _, path := range tc.wantPaths {
				w := httptest.NewRecorder()
				web.New(tc.opts).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://"+tc.host+path, nil))
				if w.Code != tc.wantCode {
					t.Errorf("%s: status %d, want %d", path, w.Code, tc.wantCode)
				}
			}
		})
	}
}
