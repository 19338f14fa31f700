package web

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"keelson.dev/keelson/internal/store"
)

// The events of a stream. Their data is JSON.
const (
	EventReady = "ready" // the stream begins: what is read from now on and changes afterwards is told
	EventReset = "reset" // changes are missing, as too many have come, or the server has been started anew: read everything again
	EventText  = "text"  // of a log: LogText
	EventEnd   = "end"   // of a log: its job is over, LogEnd
)

// LogText is a piece of a log. Bytes that are no UTF-8 are replaced.
type LogText struct {
	Text string `json:"text"`
}

// LogEnd is the end of a log.
type LogEnd struct {
	Status string `json:"status"` // of the job
}

const (
	heartbeat    = 15 * time.Second      // of a stream in which nothing happens
	writeLimit   = 30 * time.Second      // who does not read for so long is let go
	calm         = 50 * time.Millisecond // between two batches of changes, so that what changes often is told together
	maxStreams   = 2000                  // at a time
	streamRetry  = 1000                  // milliseconds until a browser tries again
	logPieceSize = 32 << 10              // bytes
	maxEvent     = 1 << 20               // bytes of one that is read
)

// stream is an open text/event-stream. Its first error stays.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	done    func()
	err     error
}

// stream begins one; false: it was answered already.
func (s *pipelines) stream(w http.ResponseWriter) (*stream, bool) {
	if !s.slot(w) {
		return nil, false
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // proxies pass every event on
	out := &stream{w: w, control: http.NewResponseController(w), done: func() { <-s.streams }}
	out.printf("retry: %d\n\n", streamRetry)
	return out, true
}

// slot takes one of the streams that may be open; false: there is none left, which was answered.
func (s *pipelines) slot(w http.ResponseWriter) bool {
	select {
	case s.streams <- struct{}{}:
		return true
	default:
		w.Header().Set("Retry-After", "5")
		refuse(w, http.StatusServiceUnavailable, fmt.Errorf("%d streams are open already", cap(s.streams)))
		return false
	}
}

// printf writes some text; flush sends it.
func (s *stream) printf(format string, a ...any) {
	if s.err == nil {
		_ = s.control.SetWriteDeadline(time.Now().Add(writeLimit)) // a writer that has none is a test's
		_, s.err = fmt.Fprintf(s.w, format, a...)
	}
}

// event writes one event; an empty name is none: only the place is told from which a lost connection is taken up.
func (s *stream) event(name string, id int64, data any) {
	if name == "" {
		s.printf("id: %d\n\n", id)
		return
	}
	text, err := json.Marshal(data)
	if s.err == nil {
		s.err = err
	}
	s.printf("id: %d\nevent: %s\ndata: %s\n\n", id, name, text)
}

// flush sends what was written, and gives up on who does not take it.
func (s *stream) flush() bool {
	if s.err == nil {
		_ = s.control.SetWriteDeadline(time.Now().Add(writeLimit))
		s.err = s.control.Flush()
	}
	return s.err == nil
}

// until gives a context that ends with the request, or when the server leaves.
func (s *pipelines) until(r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	if s.Leaving == nil {
		return ctx, cancel
	}
	go func() {
		select {
		case <-s.Leaving:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// lastID is the place from which a stream goes on; -1: from now on.
func lastID(w http.ResponseWriter, r *http.Request) (int64, bool) {
	text := r.Header.Get("Last-Event-ID")
	if text == "" {
		return -1, true
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		refuse(w, http.StatusBadRequest, fmt.Errorf("Last-Event-ID %.40q is no number that this server has given", text))
		return 0, false
	}
	return n, true
}

// watched says which changes somebody wants to be told.
type watched struct {
	project, pipeline int64
	may               func(project int64) bool // who is told may see it; nil: they may see all
}

func (f watched) wants(c store.Change) bool {
	switch c.Kind {
	case "delivery", "repair": // they are of no project, and a number and a status tell nobody what they are about
		return f.project == 0 && f.pipeline == 0
	case "pipeline", "job", "environment", "deployment":
		return (f.project == 0 || c.Project == f.project) && (f.pipeline == 0 || c.Pipeline == f.pipeline) && (f.may == nil || f.may(c.Project))
	default:
		return false
	}
}

// events tells changes as they come. Nothing is queued for anybody: each reader is at a place in what the store remembers, and one that is so
// slow that its place is forgotten is told to read everything again.
func (s *pipelines) events(w http.ResponseWriter, r *http.Request) {
	var f watched
	q := r.URL.Query()
	if text := q.Get("pipeline"); text != "" {
		var ok bool
		if f.pipeline, ok = number(w, "pipeline", text); !ok {
			return
		}
	}
	f.may = s.may.watches(r.Context())
	if path := q.Get("project"); path != "" {
		if !s.may.may(w, r, VerbGet, path) {
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), readLimit)
		p, err := s.Store.Project(ctx, path)
		cancel()
		if err != nil {
			fail(w, err)
			return
		}
		f.project = p.ID
	}
	at, ok := lastID(w, r)
	if !ok {
		return
	}
	out, ok := s.stream(w)
	if !ok {
		return
	}
	defer out.done()
	ctx, cancel := s.until(r)
	defer cancel()
	if at < 0 {
		at = s.Store.Seq()
		out.event(EventReady, at, struct{}{})
	}
	for out.flush() {
		at = s.changes(ctx, out, f, at)
		if ctx.Err() != nil {
			return
		}
	}
}

// changes waits for changes and writes them, and gives the place behind them.
func (s *pipelines) changes(ctx context.Context, out *stream, f watched, at int64) int64 {
	short, cancel := context.WithTimeout(ctx, heartbeat)
	defer cancel()
	all, err := s.Store.Changes(short, at)
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, store.ErrTooOld):
		at = s.Store.Seq()
		out.event(EventReset, at, struct{}{})
	case short.Err() != nil && len(all) == 0: // what nobody wanted counts too
		out.event("", at, nil)
	case err != nil:
		out.err = err
	default:
		at = all[len(all)-1].Seq
		told := newest(all, f)
		for _, c := range told {
			out.event(c.Kind, c.Seq, c)
		}
		if len(told) > 0 && !out.flush() {
			return at
		}
		select { // what comes meanwhile is told together
		case <-ctx.Done():
		case <-time.After(calm):
		}
	}
	return at
}

// newest keeps of several changes of one thing the last.
func newest(all []store.Change, f watched) []store.Change {
	type thing struct {
		kind string
		id   int64
	}
	last := make(map[thing]int64, len(all))
	for _, c := range all {
		last[thing{c.Kind, c.ID}] = c.Seq
	}
	var out []store.Change
	for _, c := range all {
		if f.wants(c) && last[thing{c.Kind, c.ID}] == c.Seq {
			out = append(out, c)
		}
	}
	return out
}

// wantsEvents tells whether a request is for a stream.
func wantsEvents(r *http.Request) bool {
	for accepted := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		if kind, _, _ := strings.Cut(accepted, ";"); strings.TrimSpace(kind) == "text/event-stream" {
			return true
		}
	}
	return false
}

// logEvents streams a job's log from an offset on until the job is over. An event's id is the offset behind it.
func (s *pipelines) logEvents(w http.ResponseWriter, r *http.Request, id, offset int64) {
	at, ok := lastID(w, r)
	if !ok {
		return
	}
	if at >= 0 {
		offset = at
	}
	out, ok := s.stream(w)
	if !ok {
		return
	}
	defer out.done()
	ctx, cancel := s.until(r)
	defer cancel()
	tail := s.Store.Follow(ctx, id, offset)
	defer func() { _ = tail.Close() }() // it was only read
	pieces := make(chan []byte)
	go func() {
		defer close(pieces)
		for {
			buf := make([]byte, logPieceSize)
			n, err := tail.Read(buf)
			if n > 0 {
				select {
				case pieces <- buf[:n]:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return // the end, or the stream's
			}
		}
	}()
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	var rest []byte
	for out.flush() {
		select {
		case <-tick.C:
			out.event("", offset, nil)
		case piece, more := <-pieces:
			if !more {
				if ctx.Err() == nil {
					s.logEnd(ctx, out, id, offset, rest)
				}
				return
			}
			var text []byte
			text, rest = wholeRunes(append(rest, piece...))
			if offset += int64(len(text)); len(text) > 0 {
				out.event(EventText, offset, LogText{string(text)})
			}
		}
	}
}

// logEnd ends the stream of a log whose job is over.
func (s *pipelines) logEnd(ctx context.Context, out *stream, id, offset int64, rest []byte) {
	if len(rest) > 0 {
		offset += int64(len(rest))
		out.event(EventText, offset, LogText{string(rest)})
	}
	j, err := s.Store.Job(ctx, id)
	if err == nil {
		out.event(EventEnd, offset, LogEnd{j.Status})
	}
	out.flush()
}

// wholeRunes splits off what may be the beginning of a character.
func wholeRunes(p []byte) (whole, rest []byte) {
	for n := 1; n < utf8.UTFMax && n <= len(p); n++ {
		if c := p[len(p)-n]; utf8.RuneStart(c) {
			if !utf8.FullRune(p[len(p)-n:]) {
				return p[:len(p)-n], append([]byte(nil), p[len(p)-n:]...)
			}
			break
		}
	}
	return p, nil
}

// ReadEvents reads a stream until it ends, and calls tell with each event; false ends it. It gives the last id.
func ReadEvents(r io.Reader, last string, tell func(name string, data []byte) bool) (string, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxEvent)
	var name string
	var data []byte
	for lines.Scan() {
		line := lines.Text()
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			if data != nil && !tell(name, data) {
				return last, nil
			}
			name, data = "", nil
		case field == "id":
			last = value
		case field == "event":
			name = value
		case field == "data":
			data = append(data, value...)
		}
	}
	return last, lines.Err()
}
