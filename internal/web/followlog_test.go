package web

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// impatient is who answers with a deadline, and stops reading after the first piece.
type impatient struct {
	*httptest.ResponseRecorder
	deadline, first time.Time // of writes
}

func (i *impatient) SetWriteDeadline(t time.Time) error {
	i.deadline = t
	return nil
}

func (i *impatient) Write(p []byte) (int, error) {
	i.first = i.deadline
	return 0, fmt.Errorf("nobody reads")
}

// TestFollowLogIsBounded: a log that is followed as text takes a place among the streams, gives it back, and lets go of who does not read.
func TestFollowLogIsBounded(t *testing.T) {
	db := openDB(t)
	defer db.Close()
	_, job := makePipeline(t, db, "group/app")
	log, err := db.LogWriter(job)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if _, err := io.WriteString(log, "hello\n"); err != nil {
		t.Fatal(err)
	}
	leaving := make(chan struct{})
	s := &pipelines{PipelinesOptions: PipelinesOptions{Store: db, Leaving: leaving}, streams: streams{open: make(chan struct{}, 1), leaving: leaving}}
	ask := func(w http.ResponseWriter) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/log?follow=1", nil)
		r.SetPathValue("id", fmt.Sprint(job))
		s.log(w, r)
	}
	s.open <- struct{}{}
	full := httptest.NewRecorder()
	ended := make(chan struct{})
	go func() { defer close(ended); ask(full) }()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		close(leaving)
		t.Fatal("too many logs are followed")
	}
	if full.Code != http.StatusServiceUnavailable || full.Header().Get("Retry-After") == "" {
		t.Errorf("one too many: %d %s", full.Code, full.Body)
	}
	<-s.open
	slow := &impatient{ResponseRecorder: httptest.NewRecorder()}
	ask(slow)
	if slow.first.IsZero() {
		t.Error("a write has no deadline")
	}
	close(leaving)
	last := httptest.NewRecorder()
	ask(last)
	if len(s.open) != 0 {
		t.Error("a place is not given back")
	}
}
