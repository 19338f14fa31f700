package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// kept is the log of a container, as Kubernetes gives it: by seconds, each line with its time. Connections end after some bytes.
type kept struct {
	Cluster
	lines   []string
	breaks  int // after so many bytes; -1: not
	running bool
}

func (k *kept) Log(_ context.Context, q LogQuery) (io.ReadCloser, error) {
	if !q.Times || !q.Follow {
		return nil, errors.New("only what is followed, with times")
	}
	var text strings.Builder
	for _, line := range k.lines {
		at, _, _ := strings.Cut(line, " ")
		if when, err := time.Parse(time.RFC3339Nano, at); err == nil && when.Before(q.Since.Truncate(time.Second)) {
			continue
		}
		text.WriteString(line)
	}
	all := []byte(text.String())
	if k.breaks < 0 {
		return io.NopCloser(bytes.NewReader(all)), nil
	}
	return io.NopCloser(io.MultiReader(bytes.NewReader(all[:min(k.breaks, len(all))]), iotest.ErrReader(io.ErrUnexpectedEOF))), nil
}

func (k *kept) LogEnded(context.Context, LogQuery) (bool, error) { return !k.running, nil }

// read reads a log's events behind a place, and gives the text, the place behind it, and whether the log has ended.
func (k *kept) read(t *testing.T, from string) (text, place string, ended bool) {
	t.Helper()
	r := httptest.NewRequestWithContext(WithPerson(t.Context(), Person{Name: "ada"}), http.MethodGet, "/api/v1/pods/dev/web/log?follow=1", nil)
	r.Header.Set("Accept", "text/event-stream")
	r.Header.Set("Last-Event-ID", from)
	w := httptest.NewRecorder()
	newApps(indexed(), k).ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	place, err := ReadEvents(w.Body, from, func(name string, data []byte) bool {
		var piece LogText
		if err := json.Unmarshal(data, &piece); err != nil {
			t.Error(err)
		}
		text += piece.Text
		ended = name == EventEnd
		return true
	})
	if err != nil {
		t.Error(err)
	}
	return text, place, ended
}

// TestPodLogResumes: wherever the connection to the cluster breaks, what follows has every line once.
func TestPodLogResumes(t *testing.T) {
	const day = "2026-03-01T12:00:"
	lines := []string{
		day + "01.000000001Z one\n",
		day + "01.500000000Z the same\n",
		day + "01.500000000Z the same\n",
		day + "01.500000000Z the same\n",
		day + "01.900000000Z \n",
		day + "02.000000000Z zwölf\n",
		day + "02.000000000Z 2026-03-01T12:00:09.000000000Z a time of its own\n",
		day + "59.000000000Z the last one",
	}
	const want = "one\nthe same\nthe same\nthe same\n\nzwölf\n2026-03-01T12:00:09.000000000Z a time of its own\nthe last one"
	all := strings.Join(lines, "")
	for at := range len(all) {
		k := &kept{lines: lines, breaks: at, running: true}
		first, place, ended := k.read(t, "")
		if ended {
			t.Fatalf("after %d bytes: it has ended", at)
		}
		k.breaks = -1
		then, place, ended := k.read(t, place)
		if ended {
			t.Errorf("after %d bytes and all: it has ended", at)
		}
		k.running = false
		last, _, ended := k.read(t, place)
		if first+then+last != want || last != "the last one" || !ended {
			t.Errorf("after %d bytes:\n%q and\n%q and\n%q, ended: %t", at, first, then, last, ended)
		}
	}
}

// TestPodLogPlaces: what no place is says so, and a line that is longer than is waited for comes in pieces.
func TestPodLogPlaces(t *testing.T) {
	for _, from := range []string{"1", "x-1", "1-x", "-1-1", "1-0", "1-1-1"} {
		r := httptest.NewRequestWithContext(WithPerson(t.Context(), Person{Name: "ada"}), http.MethodGet, "/api/v1/pods/dev/web/log?follow=1", nil)
		r.Header.Set("Accept", "text/event-stream")
		r.Header.Set("Last-Event-ID", from)
		w := httptest.NewRecorder()
		newApps(indexed(), &kept{}).ServeHTTP(w, r)
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "no place in a log") {
			t.Errorf("%s: %d %s", from, w.Code, w.Body)
		}
	}
	long := strings.Repeat("ö", maxLine)
	k := &kept{lines: []string{"2026-03-01T12:00:01.5Z " + long + "\n", "2026-03-01T12:00:01.5Z short\n", "no time\n"}, breaks: -1}
	text, place, ended := k.read(t, "")
	if text != long+"\nshort\nno time\n" || !ended {
		t.Errorf("%d bytes, ended: %t", len(text), ended)
	}
	if want := fmt.Sprint(time.Date(2026, 3, 1, 12, 0, 1, 5e8, time.UTC).UnixNano()) + "-2"; place != want {
		t.Errorf("it is at %s, want %s", place, want)
	}
}
