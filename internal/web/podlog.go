package web

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
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
	log, err := s.Cluster.Log(ctx, q)
	if err != nil {
		s.unanswered(w, err)
		return
	}
	defer log.Close()
	if !wantsEvents(r) {
		s.followText(w, log)
		return
	}
	out, ok := s.stream(w)
	if !ok {
		return
	}
	defer out.done()
	pieces := readPieces(ctx, log)
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	var rest []byte
	var sent int64
	for out.flush() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			out.event("", sent, nil)
		case piece, more := <-pieces:
			if !more {
				if len(rest) > 0 {
					out.event(EventText, sent+int64(len(rest)), LogText{string(rest)})
				}
				out.event(EventEnd, sent, LogEnd{"ended"})
				out.flush()
				return
			}
			var text []byte
			text, rest = wholeRunes(append(rest, piece...))
			if sent += int64(len(text)); len(text) > 0 {
				out.event(EventText, sent, LogText{string(text)})
			}
		}
	}
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
