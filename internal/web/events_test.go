package web

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keelson.dev/keelson/internal/store"
)

const testToken = "token-of-the-instance"

// served is the API on a real store.
type served struct {
	*testing.T
	db  *store.DB
	url string
}

func openDB(t *testing.T) *store.DB {
	t.Helper()
	db, err := store.Open(filepath.Join(t.TempDir(), "store.db"), store.Options{Key: make([]byte, store.KeySize)})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func newServed(t *testing.T, o PipelinesOptions) *served {
	t.Helper()
	s := &served{T: t, db: openDB(t)}
	o.Store = s.db
	hs := httptest.NewServer(asPerson(testToken, NewPipelines(o)))
	t.Cleanup(func() {
		hs.CloseClientConnections()
		hs.Close()
		s.db.Close()
	})
	s.url = hs.URL
	return s
}

// get asks for something, with headers as "Name: value".
func (s *served) get(method, path string, headers ...string) *http.Response {
	s.Helper()
	req, err := http.NewRequestWithContext(s.Context(), method, s.url+path, nil)
	if err != nil {
		s.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testToken)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { res.Body.Close() })
	return res
}

// pipeline makes one with a job, and gives their numbers.
func (s *served) pipeline(project string) (id, job int64) {
	s.Helper()
	return makePipeline(s.T, s.db, project)
}

func makePipeline(t *testing.T, db *store.DB, project string) (id, job int64) {
	t.Helper()
	p, err := db.EnsureProject(t.Context(), project)
	if err != nil {
		t.Fatal(err)
	}
	id, iid, err := db.Reserve(t.Context(), p.ID)
	if err != nil {
		t.Fatal(err)
	}
	row := store.Pipeline{ID: id, IID: iid, Project: p.ID, Source: "push", Ref: "main", SHA: strings.Repeat("a", 40), Status: "created"}
	if err := db.CreatePipeline(t.Context(), row, store.Inputs{Graph: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	if job, err = db.NextID(t.Context()); err != nil {
		t.Fatal(err)
	}
	setJob(t, db, id, job, "created")
	return id, job
}

// setJob gives a job of a pipeline another status; it is one step of its journal.
func setJob(t *testing.T, db *store.DB, id, job int64, status string) {
	t.Helper()
	saved, err := db.Saved(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	j := store.Job{ID: job, Name: fmt.Sprintf("job-%d", job), Stage: "test", Attempt: 1, Status: status, Started: time.Now().Add(-time.Minute)}
	if status == "success" {
		j.Finished = time.Now()
	}
	if _, err := db.Advance(t.Context(), id, saved.End, store.Step{Jobs: []store.Job{j}}); err != nil {
		t.Fatal(err)
	}
}

// told reads a stream until as many events have come as wanted, and gives the last id.
func told(t *testing.T, res *http.Response, want ...string) string {
	t.Helper()
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s %s", res.Status, res.Header.Get("Content-Type"))
	}
	var have []string
	last, err := ReadEvents(res.Body, "", func(name string, data []byte) bool {
		var c store.Change
		if err := json.Unmarshal(data, &c); err != nil {
			t.Errorf("%s: %v", data, err)
		}
		text := name
		if c.Kind != "" {
			text += fmt.Sprintf(" %d %s", c.ID, c.Status)
		}
		have = append(have, text)
		return len(have) < len(want)
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(have, want) {
		t.Errorf("have %q\nwant %q", have, want)
	}
	return last
}

// TestEvents: who follows a pipeline is told what changes in it, and goes on where a lost connection has ended.
func TestEvents(t *testing.T) {
	s := newServed(t, PipelinesOptions{})
	other, otherJob := s.pipeline("group/other")
	id, job := s.pipeline("group/app")
	of := fmt.Sprintf("/api/v1/events?pipeline=%d", id)
	stream := s.get(http.MethodGet, of)
	project := s.get(http.MethodGet, "/api/v1/events?project=group/app")
	for _, res := range []*http.Response{stream, project} {
		_ = told(t, res, EventReady) // the rest of the body is still to come
	}
	setJob(t, s.db, other, otherJob, "running")
	setJob(t, s.db, id, job, "running")
	last := told(t, stream, fmt.Sprintf("job %d running", job))
	told(t, project, fmt.Sprintf("job %d running", job))

	// While nobody reads a job changes often: how it came to what it is now is told to nobody.
	for _, status := range []string{"pending", "running", "success"} {
		setJob(t, s.db, id, job, status)
	}
	last = told(t, s.get(http.MethodGet, of, "Last-Event-ID: "+last), fmt.Sprintf("job %d success", job))

	// What is not remembered any more, or comes from another process, is told as such; and the stream goes on.
	for range 9 {
		many := make([]store.Job, 2000)
		for i := range many {
			n, err := s.db.NextID(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			many[i] = store.Job{ID: n, Name: fmt.Sprint(n), Stage: "test", Attempt: 1, Status: "created"}
		}
		saved, err := s.db.Saved(t.Context(), other)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.db.Advance(t.Context(), other, saved.End, store.Step{Jobs: many}); err != nil {
			t.Fatal(err)
		}
	}
	for _, from := range []string{last, "0", "9007199254740991"} {
		late := s.get(http.MethodGet, of, "Last-Event-ID: "+from)
		_ = told(t, late, EventReset)
		setJob(t, s.db, id, job, "failed")
		_ = told(t, late, fmt.Sprintf("job %d failed", job))
	}
}

func TestEventsRefused(t *testing.T) {
	s := newServed(t, PipelinesOptions{})
	for _, c := range []struct {
		path, header string
		want         int
	}{
		{"/api/v1/events", "Authorization: Bearer other", http.StatusUnauthorized},
		{"/api/v1/events?pipeline=x", "A: b", http.StatusBadRequest},
		{"/api/v1/events?project=nobody", "A: b", http.StatusNotFound},
		{"/api/v1/events", "Last-Event-ID: x", http.StatusBadRequest},
		{"/api/v1/events", "Last-Event-ID: -1", http.StatusBadRequest},
		{"/api/v1/jobs/1/log", "Accept: text/event-stream", http.StatusNotFound},
	} {
		if res := s.get(http.MethodGet, c.path, c.header); res.StatusCode != c.want {
			t.Errorf("%s with %s: %s, want %d", c.path, c.header, res.Status, c.want)
		}
	}
}

// TestEventsEnd: whoever follows something does not keep the server from its end.
func TestEventsEnd(t *testing.T) {
	leaving := make(chan struct{})
	s := newServed(t, PipelinesOptions{Leaving: leaving})
	_, job := s.pipeline("group/app")
	log, err := s.db.LogWriter(job)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	open := []*http.Response{
		s.get(http.MethodGet, "/api/v1/events"),
		s.get(http.MethodGet, fmt.Sprintf("/api/v1/jobs/%d/log", job), "Accept: text/event-stream"),
	}
	close(leaving)
	for _, res := range open {
		if _, err := ReadEvents(res.Body, "", func(string, []byte) bool { return true }); err != nil {
			t.Error(err)
		}
	}
}

// TestHeartbeat: a stream in which nothing happens says where it is, so that proxies keep it and what nobody wanted is not told again.
func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := openDB(t)
		defer db.Close()
		_, _ = makePipeline(t, db, "group/app")
		ctx, cancel := context.WithTimeout(t.Context(), 3*heartbeat+heartbeat/2)
		defer cancel()
		w := httptest.NewRecorder()
		req := httptest.NewRequest(http.MethodGet, "/api/v1/events", nil).WithContext(ctx)
		req.Header.Set("Authorization", "Bearer "+testToken)
		feed := NewFeed(time.Now())
		asPerson(testToken, NewPipelines(PipelinesOptions{Store: db, Feed: feed})).ServeHTTP(w, req)
		if n := strings.Count(w.Body.String(), fmt.Sprintf("\n\nid: %d", feed.Seq())); n != 4 { // one is ready's
			t.Errorf("%d: %s", n, w.Body)
		}
	})
}

// TestLogEvents: a log comes as it is written, whole characters at a time, from any place on, until its job is over.
func TestLogEvents(t *testing.T) {
	s := newServed(t, PipelinesOptions{})
	id, job := s.pipeline("group/app")
	log, err := s.db.LogWriter(job)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if _, err := log.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	read := func(res *http.Response, until string) (text, status, last string) {
		t.Helper()
		last, err := ReadEvents(res.Body, "", func(name string, data []byte) bool {
			switch name {
			case EventText:
				var piece LogText
				if err := json.Unmarshal(data, &piece); err != nil {
					t.Errorf("%s: %v", data, err)
				}
				text += piece.Text
			case EventEnd:
				var end LogEnd
				if err := json.Unmarshal(data, &end); err != nil {
					t.Errorf("%s: %v", data, err)
				}
				status = end.Status
			}
			return until == "" || !strings.Contains(text, until)
		})
		if err != nil {
			t.Fatal(err)
		}
		return text, status, last
	}
	path := fmt.Sprintf("/api/v1/jobs/%d/log", job)
	first := s.get(http.MethodGet, path, "Accept: text/html, text/event-stream;q=0.9")
	write("one\r\n\xe2\x82")
	text, _, last := read(first, "one\r\n")
	if text != "one\r\n" || last != "5" {
		t.Errorf("%q %s", text, last)
	}
	write("\xac two\n")
	second := s.get(http.MethodGet, path, "Accept: text/event-stream", "Last-Event-ID: "+last)
	if text, _, _ := read(second, "two"); text != "€ two\n" {
		t.Errorf("%q", text)
	}
	write(strings.Repeat("ä", 100_000) + "\xff end\xe2")
	setJob(t, s.db, id, job, "success")
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	text, status, _ := read(s.get(http.MethodGet, path+"?offset=5", "Accept: text/event-stream"), "")
	if want := "€ two\n" + strings.Repeat("ä", 100_000) + "\uFFFD end\uFFFD"; text != want || status != "success" {
		t.Errorf("%d bytes, want %d; %q", len(text), len(want), status)
	}
}

// TestReadEventsThatBreakOff: an event that has not come whole is asked for again.
func TestReadEventsThatBreakOff(t *testing.T) {
	const text = "retry: 1000\n\nid: 1\nevent: a\ndata: {}\n\nid: 2\n\nid: 3\nevent: b\ndata: {}\n\n"
	for at := range len(text) + 1 {
		var told []string
		last, err := ReadEvents(strings.NewReader(text[:at]), "0", func(name string, _ []byte) bool {
			told = append(told, name)
			return true
		})
		want := map[string]string{"": "0", "a": "1", "a b": "3"}[strings.Join(told, " ")]
		if err != nil || last != want && (want != "1" || last != "2") {
			t.Errorf("after %q: %q, %v, with the events %q", text[:at], last, err, told)
		}
	}
}
