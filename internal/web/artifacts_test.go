package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/store"
)

// body reads an answer.
func body(t *testing.T, res *http.Response) string {
	t.Helper()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// leave saves what a job leaves: a page, a large file and a report.
func leave(t *testing.T, artifacts *artifact.Store, pipelineID, job int64, access string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"dist/page.html": "<script>alert(1)</script>", "dist/large": strings.Repeat("0123456789", 30_000), "e.env": "A=1\n"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("page.html", filepath.Join(dir, "dist/link")); err != nil {
		t.Fatal(err)
	}
	key := artifact.Key{Project: "group/app", Pipeline: strconv.FormatInt(pipelineID, 10), Job: fmt.Sprintf("job-%d", job)}
	what := &pipeline.Artifacts{Name: "out", Paths: []string{"dist"}, Reports: map[string][]string{"dotenv": {"e.env"}}, Access: access, ExpireIn: pipeline.Duration(time.Hour)}
	if _, err := artifacts.Save(t.Context(), key, what, artifact.Work{Dir: dir}, true); err != nil {
		t.Fatal(err)
	}
}

func newArtifacts(t *testing.T) *artifact.Store {
	t.Helper()
	artifacts, err := artifact.Open(t.TempDir(), artifact.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { artifacts.Close() })
	return artifacts
}

// TestArtifacts: what a job has left is listed, sent whole or in parts, never as something that a browser shows, and kept or erased.
func TestArtifacts(t *testing.T) {
	artifacts := newArtifacts(t)
	s := newServed(t, PipelinesOptions{Artifacts: artifacts})
	id, job := s.pipeline("group/app")
	setJob(t, s.db, id, job, "running")
	leave(t, artifacts, id, job, "")
	setJob(t, s.db, id, job, "success")
	at := fmt.Sprintf("/api/v1/jobs/%d/artifacts", job)

	var list JobArtifacts
	if err := json.Unmarshal([]byte(body(t, s.get(http.MethodGet, at))), &list); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range list.Files {
		names = append(names, fmt.Sprintf("%s %s %d%s", f.Mode, f.Path, f.Size, f.Link))
	}
	if have, want := strings.Join(names, ", "), "-rw-r--r-- dist/large 300000, lrwxrwxrwx dist/link 0page.html, -rw-r--r-- dist/page.html 25"; have != want {
		t.Errorf("have %s\nwant %s", have, want)
	}
	if len(list.Reports) != 1 || list.Reports[0].Kind != "dotenv" || list.Reports[0].Files[0].Path != "e.env" || list.Expires.IsZero() || list.Gone != "" {
		t.Errorf("%+v", list)
	}
	var few JobArtifacts
	if err := json.Unmarshal([]byte(body(t, s.get(http.MethodGet, at+"?limit=1"))), &few); err != nil || len(few.Files) != 1 || few.Count != 4 {
		t.Errorf("%+v %v", few, err)
	}

	// The archive is the same each time, whole, in parts, and asked about.
	whole := body(t, s.get(http.MethodGet, at+"/archive"))
	dir := t.TempDir()
	if err := artifact.Unzip(t.Context(), bytes.NewReader([]byte(whole)), int64(len(whole)), artifact.Work{Dir: dir}, artifact.Limits{}); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "dist/link")); err != nil || string(text) != "<script>alert(1)</script>" {
		t.Errorf("%s %v", text, err)
	}
	tag := s.get(http.MethodHead, at+"/archive").Header.Get("ETag")
	for _, c := range []struct {
		method, path string
		headers      []string
		status       int
		body         string
	}{
		{"GET", "/archive", []string{"Range: bytes=100-"}, 206, whole[100:]},
		{"GET", "/archive", []string{"Range: bytes=5-9", "If-Range: " + tag}, 206, whole[5:10]},
		{"GET", "/archive", []string{"Range: bytes=5-9", `If-Range: "other"`}, 200, whole},
		{"GET", "/archive", []string{"Range: bytes=0-1,3-4,6-7"}, 200, whole}, // as many readings as parts
		{"GET", "/archive", []string{"If-None-Match: " + tag}, 304, ""},
		{"GET", "/archive", []string{"Range: bytes=99999999-"}, 416, "invalid range: failed to overlap\n"},
		{"GET", "/file?path=dist/page.html", nil, 200, "<script>alert(1)</script>"},
		{"GET", "/file?path=dist/large", []string{"Range: bytes=299995-"}, 206, "56789"},
		{"GET", "/file?path=e.env&report=dotenv", nil, 200, "A=1\n"},
		{"HEAD", "/file?path=dist/page.html", nil, 200, ""},
	} {
		res := s.get(c.method, at+c.path, c.headers...)
		if have := body(t, res); res.StatusCode != c.status || have != c.body {
			t.Errorf("%s %s %q: %s, %d bytes, want %d with %d", c.method, c.path, c.headers, res.Status, len(have), c.status, len(c.body))
		}
		kind := res.Header.Get("Content-Type")
		if res.StatusCode < 300 && (!strings.HasPrefix(res.Header.Get("Content-Disposition"), "attachment") || kind != "application/zip" && kind != "application/octet-stream" ||
			res.Header.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(res.Header.Get("Content-Security-Policy"), "sandbox")) {
			t.Errorf("%s: a browser may show it: %v", c.path, res.Header)
		}
	}
	for path, want := range map[string]int{
		"/file?path=nosuch": 404, "/file?path=../../store.key": 404, "/file?path=/etc/passwd": 404, "/file": 404, "/file?path=dist": 404, "/file?path=dist/link": 404,
		"/file?path=e.env": 404, "/file?path=e.env&report=junit": 404,
	} {
		if res := s.get(http.MethodGet, at+path); res.StatusCode != want || !strings.Contains(body(t, res), "error") {
			t.Errorf("%s: %s, want %d", path, res.Status, want)
		}
	}

	// Kept, and erased.
	if res := s.get(http.MethodPost, at+"/keep"); res.StatusCode != http.StatusNoContent {
		t.Errorf("keep: %s", res.Status)
	}
	var all ArtifactList
	if err := json.Unmarshal([]byte(body(t, s.get(http.MethodGet, fmt.Sprintf("/api/v1/pipelines/%d/artifacts", id)))), &all); err != nil ||
		len(all.Artifacts) != 1 || all.Artifacts[0].Job != job || !all.Artifacts[0].Expires.IsZero() {
		t.Errorf("%+v %v", all, err)
	}
	if res := s.get(http.MethodDelete, at); res.StatusCode != http.StatusNoContent {
		t.Errorf("erase: %s", res.Status)
	}
	for _, path := range []string{"/archive", "/file?path=dist/large"} {
		if res := s.get(http.MethodGet, at+path); res.StatusCode != http.StatusGone || !strings.Contains(body(t, res), "erased") {
			t.Errorf("%s of what is erased: %s", path, res.Status)
		}
	}
	if res := s.get(http.MethodPost, at+"/keep"); res.StatusCode != http.StatusGone {
		t.Errorf("keep what is erased: %s", res.Status)
	}
}

// TestArtifactsOfAttempts: what an attempt has left is its own, and a later one's takes its place.
func TestArtifactsOfAttempts(t *testing.T) {
	artifacts := newArtifacts(t)
	s := newServed(t, PipelinesOptions{Artifacts: artifacts})
	id, job := s.pipeline("group/app")
	second, err := s.db.NextID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	saved, err := s.db.Saved(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("job-%d", job)
	if _, err := s.db.Advance(t.Context(), id, saved.End, store.Step{Jobs: []store.Job{
		{ID: job, Name: name, Stage: "test", Attempt: 1, Status: "failed", Started: now.Add(-2 * time.Hour), Finished: now.Add(-time.Hour)},
		{ID: second, Name: name, Stage: "test", Attempt: 2, Status: "running", Started: now.Add(-time.Minute)},
	}}); err != nil {
		t.Fatal(err)
	}
	leave(t, artifacts, id, job, "none")
	for n, want := range map[int64]string{job: "replaced by those of a later attempt", second: "for other jobs only"} {
		if text := body(t, s.get(http.MethodGet, fmt.Sprintf("/api/v1/jobs/%d/artifacts/archive", n))); !strings.Contains(text, want) {
			t.Errorf("job %d: %s, want %s", n, text, want)
		}
	}
	none, noneJob := s.pipeline("group/app")
	setJob(t, s.db, none, noneJob, "running")
	if res := s.get(http.MethodGet, fmt.Sprintf("/api/v1/jobs/%d/artifacts", noneJob)); res.StatusCode != http.StatusNotFound {
		t.Error(res.Status)
	}
}
