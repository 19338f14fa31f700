package web

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Bounds of Pod logs.
const (
	tailUsual = 1000     // lines
	tailMost  = 100_000  // lines
	podLogMax = 16 << 20 // bytes of an answer that does not follow
)

// log sends the log of a Pod's container.
func (s *apps) log(w http.ResponseWriter, r *http.Request) {
	q, ok := logQuery(w, r)
	if !ok {
		return
	}
	if q.Follow || wantsEvents(r) {
		s.follow(w, r, q)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), clusterLimit)
	defer cancel()
	log, err := s.Cluster.Log(ctx, q)
	if err != nil {
		s.unanswered(w, err)
		return
	}
	defer log.Close()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.Copy(newPatient(w), io.LimitReader(log, podLogMax)) // the client may be gone
}

func logQuery(w http.ResponseWriter, r *http.Request) (LogQuery, bool) {
	out := LogQuery{Namespace: r.PathValue("namespace"), Name: r.PathValue("name"), Tail: tailUsual}
	q, err := query(r, "container", "tail", "previous", "follow")
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return out, false
	}
	out.Container, out.Previous, out.Follow = q.Get("container"), q.Get("previous") != "", q.Get("follow") != ""
	if !isName(out.Namespace) || !isName(out.Name) || out.Container != "" && !isName(out.Container) {
		refuse(w, http.StatusBadRequest, errors.New("a Pod has a namespace and a name, and its containers have names, of lower-case letters, digits, dots and hyphens"))
		return out, false
	}
	if text := q.Get("tail"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			refuse(w, http.StatusBadRequest, fmt.Errorf("tail: %.40q is no number of lines", text))
			return out, false
		}
		out.Tail = min(n, tailMost)
	}
	return out, true
}

// follow sends a log as it is written, as text or as events, until the container ends, the client leaves or does not read.
func (s *apps) follow(w http.ResponseWriter, r *http.Request, q LogQuery) {
	// The cluster has answered for the right, and would not ask again.
	letInBy(r.Context(), s.Authorize, VerbGet, Target{Resource: "pods/log", Namespace: q.Namespace, Name: q.Name})
	ctx, cancel := s.until(r)
	defer cancel()
	if !wantsEvents(r) {
		log, err := s.Cluster.Log(ctx, q)
		if err != nil {
			s.unanswered(w, err)
			return
		}
		defer log.Close()
		s.followText(w, log)
		return
	}
	from, err := placeOf(r.Header.Get("Last-Event-ID"))
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	q.Times, q.Since = true, from.at
	log, err := s.Cluster.Log(ctx, q)
	if err != nil {
		s.unanswered(w, err)
		return
	}
	defer log.Close()
	out, ok := s.stream(w)
	if !ok {
		return
	}
	defer out.done()
	lines := &timedLines{place: from, known: from}
	tellLines(ctx, out, log, lines)
	// Else the client asks for what follows. The beginning of a line on which the connection was lost comes again.
	if over, err := s.Cluster.LogEnded(ctx, q); err == nil && over {
		if rest := lines.end(); len(rest) > 0 {
			out.event(EventText, lines.place, LogText{string(rest)})
		}
		out.event(EventEnd, lines.place, LogEnd{"ended"})
		out.flush()
	}
}

// tellLines sends the lines of a log as events until it ends, or the client or this server has left. An event's id is the place behind it.
func tellLines(ctx context.Context, out *stream, log io.Reader, lines *timedLines) {
	pieces := readPieces(ctx, log)
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for out.flush() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			out.event("", lines.place, nil)
		case piece, more := <-pieces:
			if !more {
				return
			}
			if text := lines.take(piece); len(text) > 0 {
				out.event(EventText, lines.place, LogText{string(text)})
			}
		}
	}
}

// place is how far a Pod's log was read: to a line of a time, which is the n-th one of this very time. The zero value is its beginning.
type place struct {
	at time.Time
	n  int
}

// String is what an event's id says.
func (p place) String() string {
	if p.at.IsZero() {
		return ""
	}
	return fmt.Sprintf("%d-%d", p.at.UnixNano(), p.n)
}

// placeOf reads what String has written.
func placeOf(text string) (place, error) {
	if text == "" {
		return place{}, nil
	}
	at, n, ok := strings.Cut(text, "-")
	nanos, err1 := strconv.ParseInt(at, 10, 64)
	count, err2 := strconv.Atoi(n)
	if !ok || err1 != nil || err2 != nil || nanos <= 0 || count <= 0 {
		return place{}, fmt.Errorf("Last-Event-ID %.40q is no place in a log that this server has given", text)
	}
	return place{time.Unix(0, nanos).UTC(), count}, nil
}

// maxLine bounds the bytes of a line that is waited for. Of a longer one pieces are told: if the connection is lost in between, it is told again.
const maxLine = 256 << 10

// timedLines takes the lines of a log with their times, as Kubernetes writes them, and gives those that are not known yet, without the times.
// Kubernetes gives a log from a second on: what is known of this second comes again. What two streams of a container write within
// microseconds may be in the log in the other order than its times; if a connection is lost just there, such a line is missing or comes twice.
type timedLines struct {
	known place  // what was told before
	seen  place  // of the last line that was read
	place place  // of the last line that was told
	rest  []byte // of a line that is not whole
	begun bool   // the line in rest: its beginning is over
	drop  bool   // it is known
}

// take takes the next bytes and gives the text of lines that are whole now.
func (l *timedLines) take(piece []byte) (out []byte) {
	l.rest = append(l.rest, piece...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 {
			break
		}
		out = append(out, l.line(l.rest[:i+1], true)...)
		l.rest = l.rest[i+1:]
	}
	if len(l.rest) > maxLine {
		whole, rest := wholeRunes(l.rest)
		out = append(out, l.line(whole, false)...)
		l.rest = rest
	}
	return out
}

// end gives the last line of a log that is over, if that has no end.
func (l *timedLines) end() []byte {
	rest := l.rest
	l.rest = nil
	if len(rest) == 0 {
		return nil
	}
	return l.line(rest, true)
}

// line gives the text of a line, or of a piece of it, that is not known yet.
func (l *timedLines) line(text []byte, whole bool) []byte {
	if l.begun { // its time was read already
		if l.begun = !whole; whole && !l.drop {
			l.place = l.seen
		}
		if l.drop {
			return nil
		}
		return text
	}
	stamp, rest, _ := bytes.Cut(text, []byte(" "))
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	l.begun = !whole
	if l.drop = false; err != nil {
		return text // who keeps this log knows no times
	}
	now := place{at, 1}
	if at.Equal(l.seen.at) {
		now.n = l.seen.n + 1
	}
	l.seen = now
	if l.drop = at.Before(l.known.at) || at.Equal(l.known.at) && now.n <= l.known.n; l.drop {
		return nil
	}
	if whole {
		l.place = now
	}
	return rest
}

// followText sends a log as text.
func (s *apps) followText(w http.ResponseWriter, log io.Reader) {
	if !s.slot(w) {
		return
	}
	defer func() { <-s.open }()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	out := newPatient(w)
	if out.control.Flush() != nil { // the headers, before there is a line
		return
	}
	buf := make([]byte, logPieceSize)
	for {
		n, err := log.Read(buf)
		if n > 0 {
			if _, werr := out.Write(buf[:n]); werr != nil {
				return
			}
			_ = out.control.Flush() // the next write tells
		}
		if err != nil {
			return
		}
	}
}

// readPieces reads until the end, or until ctx ends.
func readPieces(ctx context.Context, log io.Reader) <-chan []byte {
	pieces := make(chan []byte)
	go func() {
		defer close(pieces)
		in := bufio.NewReaderSize(log, logPieceSize)
		for {
			buf := make([]byte, logPieceSize)
			n, err := in.Read(buf)
			if n > 0 {
				select {
				case pieces <- buf[:n]:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	return pieces
}
