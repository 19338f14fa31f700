package pod

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/executor/pod/agent"
)

// served is an executor with one job that has no Pod: its agent is the test.
type served struct {
	*testing.T
	x   *Executor
	j   *job
	log bytes.Buffer
}

func serve(t *testing.T, work executor.Job) *served {
	t.Helper()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	s := &served{T: t}
	s.x, err = New(Options{Client: client, URL: "http://127.0.0.1:1", Image: "a", DefaultImage: "b", Key: []byte("0123456789abcdef")})
	if err != nil {
		t.Fatal(err)
	}
	work.Dir = t.TempDir()
	s.j = newJob(s.x, work, executor.NewTrace(&s.log, work))
	if err := s.j.begin(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	s.x.add(s.j)
	return s
}

func (s *served) ask(method, path, token, body string) (int, string) {
	r := httptest.NewRequestWithContext(s.Context(), method, Path+path, strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	s.x.Handler().ServeHTTP(w, r)
	return w.Code, strings.TrimSpace(w.Body.String())
}

func (s *served) poll(status agent.Status) agent.Order {
	s.Helper()
	body, _ := json.Marshal(status)
	code, text := s.ask("POST", "5/poll", s.x.o.token(5), string(body))
	var o agent.Order
	if err := json.Unmarshal([]byte(text), &o); code != http.StatusOK || err != nil {
		s.Fatalf("poll: %d %s", code, text)
	}
	return o
}

// Only the agent of a job that runs is answered.
func TestWhoIsAnswered(t *testing.T) {
	s := serve(t, executor.Job{ID: 5})
	other := s.x.o
	other.Key = []byte("fedcba9876543210")
	tests := map[string]struct {
		method, path, token, body string
		code                      int
	}{
		"nobody":               {"POST", "5/poll", "", "{}", 401},
		"another job's":        {"POST", "5/poll", s.x.o.token(6), "{}", 401},
		"another instance's":   {"POST", "5/poll", other.token(5), "{}", 401},
		"no number":            {"POST", "x/poll", s.x.o.token(5), "{}", 401},
		"a job that is over":   {"POST", "6/poll", s.x.o.token(6), "{}", 503},
		"its own":              {"POST", "5/poll", s.x.o.token(5), "{}", 200},
		"no status":            {"POST", "5/poll", s.x.o.token(5), "[", 400},
		"no phase":             {"POST", "5/poll", s.x.o.token(5), `{"phase": 99}`, 400},
		"a log before a hello": {"POST", "5/log?offset=0", s.x.o.token(5), "x", 503},
		"no offset":            {"POST", "5/log?offset=-1", s.x.o.token(5), "x", 400},
		"files before time":    {"GET", "5/files", s.x.o.token(5), "", 503},
		"files unasked":        {"PUT", "5/files", s.x.o.token(5), "x", 503},
		"another method":       {"DELETE", "5/files", s.x.o.token(5), "", 405},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if code, text := s.ask(tt.method, tt.path, tt.token, tt.body); code != tt.code {
				t.Errorf("%d %s, want %d", code, text, tt.code)
			}
		})
	}
}

// The log goes on where Keelson says, and what may be the beginning of a secret is kept by the agent.
func TestLogOffsets(t *testing.T) {
	s := serve(t, executor.Job{ID: 5, Resume: true, LogLimit: 1000, Job: pipeline.Job{Variables: pipeline.Variables{{Name: "S", Value: "s3cret-value", Masked: true}}}})
	if o := s.poll(agent.Status{Mask: []string{"too-early"}}); o.Server != s.x.name || o.Phase != agent.Hello { // its name comes first
		t.Errorf("%+v", o)
	}
	s.j.heed(agent.Status{Server: s.x.name, Mask: []string{"older-secret"}, Phase: agent.Script, Running: true})
	send := func(offset, text, want string) {
		t.Helper()
		if code, got := s.ask("POST", "5/log?offset="+offset, s.x.o.token(5), text); code != 200 || got != want {
			t.Errorf("%d %s, want %s", code, got, want)
		}
	}
	send("100", "one s3cr", `{"received":108,"kept":104}`)
	send("104", "s3cret-value and older-secret\n", `{"received":134,"kept":134}`) // a part of it is there
	send("200", "a gap", `{"received":134,"kept":134}`)
	send("100", "again", `{"received":134,"kept":134}`)
	if code, _ := s.ask("POST", "5/log?offset=134", s.x.o.token(5), strings.Repeat("x", agent.LogChunk+1)); code != 400 {
		t.Errorf("too much at once: %d", code)
	}
	for at := 134; at < 3000; at += 100 {
		if code, text := s.ask("POST", "5/log?offset="+strconv.Itoa(at), s.x.o.token(5), strings.Repeat("y", 100)); code != 200 {
			t.Fatalf("%d %s", code, text)
		}
	}
	s.j.trace.Close()
	log := s.log.String()
	if !strings.HasPrefix(log, "one [MASKED] and [MASKED]\nyyy") || strings.Contains(log, "gap") || !strings.Contains(log, "exceeded limit of 1000 bytes") || len(log) > 1300 {
		t.Errorf("%d bytes: %q", len(log), log)
	}
}

// The result that an agent keeps for the next process is the one that it was given.
func TestNotes(t *testing.T) {
	s := serve(t, executor.Job{ID: 5, Resume: true})
	want := executor.Failed(pipeline.ScriptFailure, "it is not healthy")
	for note, ok := range map[string]bool{
		s.j.note(want): true, "": false, `{"Status":"success"}`: false, strings.Replace(s.j.note(want), "failed", "success", 1): false, "x" + s.j.note(want): false,
	} {
		s.j.status.Note = note
		if got := s.j.noted(); (got != nil) != ok || ok && *got != want {
			t.Errorf("%q: %+v", note, got)
		}
	}
}

// An older status that comes late changes nothing, and a job that was let go of is answered by the next process.
func TestLateStatus(t *testing.T) {
	s := serve(t, executor.Job{ID: 5})
	s.j.order = agent.Order{Phase: agent.AfterScript, Text: "next"}
	done := agent.Status{Server: s.x.name, Phase: agent.Script}
	if o := s.poll(done); o.Phase != agent.AfterScript || o.Text != "next" {
		t.Errorf("%+v", o)
	}
	late := done
	late.Running = true
	s.j.heed(late)
	if !s.j.status.Done(agent.Script) {
		t.Error("a late status has undone what was done")
	}
	s.j.closed = true
	body, _ := json.Marshal(done)
	if code, _ := s.ask("POST", "5/poll", s.x.o.token(5), string(body)); code != 503 {
		t.Errorf("%d", code)
	}
}

// A script that was stopped while nobody looked was stopped by a cancel, where the job is being canceled, else by its time limit.
func TestStoppedMeanwhile(t *testing.T) {
	for canceled, want := range map[bool]pipeline.Status{true: pipeline.StatusCanceled, false: pipeline.StatusFailed} {
		s := serve(t, executor.Job{ID: 5, Resume: true})
		s.j.ctx, s.j.stop = context.WithCancelCause(t.Context())
		s.j.heed(agent.Status{Phase: agent.Script, Exits: [7]agent.Exit{agent.Script: {Code: 143, Stopped: true}}})
		if canceled {
			s.j.stop(nil)
		}
		if r := s.j.execute(s.j.ctx, agent.Order{Phase: agent.Script}); r.Status != want {
			t.Errorf("canceled %v: %+v", canceled, r)
		}
	}
}
