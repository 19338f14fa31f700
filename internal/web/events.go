package web

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
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
	askedAgain   = 2 * time.Second       // whether who follows a stream still may
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

// streams are those that are open of an API.
type streams struct {
	open    chan struct{}   // has a place for each
	leaving <-chan struct{} // closed when the server is about to end; nil: never
}

func newStreams(leaving <-chan struct{}) streams {
	return streams{open: make(chan struct{}, maxStreams), leaving: leaving}
}

// stream begins one; false: it was answered already.
func (s streams) stream(w http.ResponseWriter) (*stream, bool) {
	if !s.slot(w) {
		return nil, false
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // proxies pass every event on
	out := &stream{w: w, control: http.NewResponseController(w), done: func() { <-s.open }}
	out.printf("retry: %d\n\n", streamRetry)
	return out, true
}

// slot takes one of the streams that may be open; false: there is none left, which was answered.
func (s streams) slot(w http.ResponseWriter) bool {
	select {
	case s.open <- struct{}{}:
		return true
	default:
		w.Header().Set("Retry-After", "5")
		refuse(w, http.StatusServiceUnavailable, fmt.Errorf("%d streams are open already", cap(s.open)))
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

// write sends some text.
func (s *stream) write(text []byte) bool {
	if s.err == nil {
		_ = s.control.SetWriteDeadline(time.Now().Add(writeLimit)) // a writer that has none is a test's
		_, s.err = s.w.Write(text)
	}
	return s.flush()
}

// event writes one event; an empty name is none: only the place is told from which a lost connection is taken up.
func (s *stream) event(name string, id, data any) {
	if name == "" {
		s.printf("id: %v\n\n", id)
		return
	}
	text, err := json.Marshal(data)
	if s.err == nil {
		s.err = err
	}
	s.printf("id: %v\nevent: %s\ndata: %s\n\n", id, name, text)
}

// flush sends what was written, and gives up on who does not take it.
func (s *stream) flush() bool {
	if s.err == nil {
		_ = s.control.SetWriteDeadline(time.Now().Add(writeLimit))
		s.err = s.control.Flush()
	}
	return s.err == nil
}

// until gives a context that ends with the request, when the server leaves, or when who asks may not be sent more: they have logged out, were removed,
// or have lost the right. Those who know that remember their answers for seconds, so that many streams cost little.
func (s streams) until(r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	go func() {
		defer cancel()
		tick := time.NewTicker(askedAgain)
		defer tick.Stop()
		for {
			select {
			case <-s.leaving: // nil: never
				return
			case <-ctx.Done():
				return
			case <-tick.C:
				if over(ctx) != nil {
					return
				}
			}
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
	may               func(project int64) bool          // who is told may see it; nil: they may see all
	app               string                            // an id
	sees              func(kind, namespace string) bool // the apps that may be told of; nil: none
}

func (f watched) wants(t *news) bool {
	switch t.topic.kind {
	case EventApp:
		return f.sees != nil && f.project == 0 && f.pipeline == 0 && (f.app == "" || f.app == t.topic.id)
	case "delivery", "repair": // they are of no project, and a number and a status tell nobody what they are about
		return f.project == 0 && f.pipeline == 0 && f.app == ""
	case "pipeline", "job", "environment", "deployment":
		return f.app == "" && (f.project == 0 || t.project == f.project) && (f.pipeline == 0 || t.pipeline == f.pipeline)
	default:
		return false
	}
}

// shows tells whether who is told may see it; that may have to be asked.
func (f watched) shows(t *news) bool {
	switch {
	case t.topic.kind == EventApp:
		return f.sees(t.kind, t.namespace)
	case t.project != 0 && f.may != nil:
		return f.may(t.project)
	default:
		return true
	}
}

// watchedApp reads which app somebody wants to be told of; false: it has been answered that it is none.
func watchedApp(w http.ResponseWriter, r *http.Request) (f watched, ok bool) {
	if f.app = r.URL.Query().Get("app"); f.app != "" {
		if _, _, _, ok := cutID(f.app); !ok {
			refuse(w, http.StatusBadRequest, fmt.Errorf("app: %.100q is no id of an app: it is KIND/NAMESPACE/NAME", f.app))
			return f, false
		}
	}
	return f, true
}

// events tells changes as they come. Nothing is queued for anybody: each reader is at a place in what the feed remembers, and one that is so
// slow that its place is forgotten is told to read everything again.
func (s *pipelines) events(w http.ResponseWriter, r *http.Request) {
	f, ok := watchedApp(w, r)
	if !ok {
		return
	}
	if who := PersonOf(r.Context()); s.Sight != nil && who.Name != "" {
		f.sees = s.Sight.of(r.Context(), who, nil)
	}
	q := r.URL.Query()
	if text := q.Get("pipeline"); text != "" {
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
	s.streams.feed(w, r, s.Feed, f)
}

// feed tells the changes of a feed until who follows it leaves.
func (s streams) feed(w http.ResponseWriter, r *http.Request, feed *Feed, f watched) {
	at, ok := lastID(w, r)
	if !ok {
		return
	}
	feed.catchUp(r.Context())
	out, ok := s.stream(w)
	if !ok {
		return
	}
	defer out.done()
	ctx, cancel := s.until(r)
	defer cancel()
	if at < 0 {
		at = feed.Seq()
		out.event(EventReady, at, struct{}{})
	}
	var buf reading
	for out.flush() {
		at = out.changes(ctx, feed, f, at, &buf)
		if ctx.Err() != nil {
			return
		}
	}
}

// reading is memory that is used again and again.
type reading struct {
	found []news
	text  []byte
}

// changes waits for changes and writes them, and gives the place behind them.
func (s *stream) changes(ctx context.Context, feed *Feed, f watched, at int64, buf *reading) int64 {
	found, behind, more, err := feed.after(at, f.wants, buf.found[:0])
	buf.found = found
	switch {
	case err != nil:
		at = feed.Seq()
		s.event(EventReset, at, struct{}{})
		return at
	case more == nil:
		text := buf.text[:0]
		for i := range found {
			if t := &found[i]; f.shows(t) {
				text = append(text, t.frame...)
			}
		}
		if buf.text = text; len(text) > 0 && !s.write(text) {
			return behind
		}
		if behind == feed.Seq() { // what comes meanwhile is told together
			pause(ctx, calm)
		}
		return behind
	}
	beat := time.NewTimer(heartbeat)
	defer beat.Stop()
	select {
	case <-more:
	case <-ctx.Done():
	case <-beat.C: // what nobody wanted counts too
		s.event("", at, nil)
	}
	return at
}

// pause waits for a while, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
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

// ReadEvents reads a stream until it ends, and calls tell with each event; false ends it. It gives the last id of what has come whole.
func ReadEvents(r io.Reader, last string, tell func(name string, data []byte) bool) (string, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxEvent)
	var name string
	var data []byte
	id := last
	for lines.Scan() {
		line := lines.Text()
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			if last = id; data != nil && !tell(name, data) {
				return last, nil
			}
			name, data = "", nil
		case field == "id":
			id = value
		case field == "event":
			name = value
		case field == "data":
			data = append(data, value...)
		}
	}
	return last, lines.Err()
}
