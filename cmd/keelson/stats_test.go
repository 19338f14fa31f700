package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/telemetry"
)

// golden compares with a file, or writes it with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// The metrics of a real instance become a table and a document.
func TestStats(t *testing.T) {
	server := httptest.NewServer(http.FileServer(http.Dir("testdata/stats")))
	defer server.Close()
	families, err := scrape(t.Context(), server.URL+"/metrics.txt", "")
	if err != nil {
		t.Fatal(err)
	}
	started := families["process_start_time_seconds"].GetMetric()[0].GetGauge().GetValue()
	s := statsOf(families, time.Unix(int64(started)+7384, 0))
	for name, output := range map[string]string{"stats/text.golden": "", "stats/json.golden": "json"} {
		var out bytes.Buffer
		g := &global{streams: streams{out: &out}, output: output}
		if err := g.print(s, s.write); err != nil {
			t.Fatal(err)
		}
		golden(t, name, out.String())
	}
}

// A fresh instance has done nothing yet, and says so without dividing by it.
func TestStatsOfNothing(t *testing.T) {
	var state lazyState
	server := httptest.NewServer(metricsHandler(slog.New(slog.DiscardHandler), &state))
	defer server.Close()
	families, err := scrape(t.Context(), server.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := statsOf(families, time.Now()).write(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"no apps and no sources\n", "drift repaired   0, 0 put off\n", "watches          0 for 0 objects\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
}

// What is served is what stats reads: the state of the moment, from the handler to the table.
func TestStatsOfAServer(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var state lazyState
	address := freeAddress(t)
	log := slog.New(slog.DiscardHandler)
	if err := (observers{metrics: address, pprof: address}).serve(ctx, log, &state, make(chan error, 4)); err != nil {
		t.Fatal(err)
	}
	state.set(func() telemetry.State {
		return telemetry.State{Resources: []telemetry.Resource{{Kind: "Kustomization", Namespace: "ns", Name: "app", Ready: "False"}}}
	})
	var out, errs bytes.Buffer
	code := execute(ctx, []string{"stats", "--metrics", address, "--data", t.TempDir()}, streams{strings.NewReader(""), &out, &errs})
	if code != exitOK || !strings.Contains(out.String(), "Kustomization   1       0       0         1         0") {
		t.Errorf("code %d: %s%s", code, out.String(), errs.String())
	}
	for path, want := range map[string]int{"/debug/pprof/heap": http.StatusOK, "/metrics": http.StatusOK, "/": http.StatusNotFound} {
		if got := status(t, "http://"+address+path, ""); got != want {
			t.Errorf("%s: status %d, want %d", path, got, want)
		}
	}
	if got := status(t, "http://"+address+"/metrics", "evil.example"); got != http.StatusForbidden {
		t.Errorf("status %d under a foreign host name, want 403", got)
	}
}

// Profiles are where they were asked for, and nowhere else.
func TestProfilesApart(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	metrics, profiles := freeAddress(t), freeAddress(t)
	var state lazyState
	if err := (observers{metrics: metrics, pprof: profiles}).serve(ctx, slog.New(slog.DiscardHandler), &state, make(chan error, 4)); err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]int{
		"http://" + metrics + "/debug/pprof/": http.StatusNotFound, "http://" + profiles + "/metrics": http.StatusNotFound,
		"http://" + profiles + "/debug/pprof/": http.StatusOK, "http://" + metrics + "/metrics": http.StatusOK,
	} {
		if got := status(t, url, ""); got != want {
			t.Errorf("%s: status %d, want %d", url, got, want)
		}
	}
}

func status(t *testing.T, url, host string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode
}

// freeAddress gives a port that nobody listens on at the moment.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestLocalUnlessStated(t *testing.T) {
	cases := map[string]struct {
		address, want string
		code          int
	}{
		"a port":         {":6060", "127.0.0.1:6060", exitOK},
		"a host":         {"0.0.0.0:6060", "0.0.0.0:6060", exitOK},
		"version 6":      {"[::1]:6060", "[::1]:6060", exitOK},
		"no port":        {"127.0.0.1", "", exitUsage},
		"an empty port":  {"127.0.0.1:", "", exitUsage},
		"nothing at all": {"6060", "", exitUsage},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := localUnlessStated("--pprof", tc.address)
			if got != tc.want || exitCode(err) != tc.code {
				t.Errorf("%q, code %d (%v); want %q, code %d", got, exitCode(err), err, tc.want, tc.code)
			}
		})
	}
}

func TestScrapeOfSomethingElse(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/other":
			_, _ = io.WriteString(w, "other_metric 1\n")
		case "/page":
			_, _ = io.WriteString(w, "<html>{{</html>")
		default:
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	defer server.Close()
	for path, want := range map[string]string{"/other": "does not serve the metrics of keelson", "/page": "parsing error", "/none": "403 Forbidden"} {
		if _, err := scrape(t.Context(), server.URL+path, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}
