package main

import (
	"io"
	"sync"
	"time"

	"keelson.dev/keelson/internal/pipeline/run"
)

// Bytes that wait for a reader. Jobs wait with their output beyond maxUnread, but for the first bytes of each, so that one that says
// little does not wait for one that says much.
var (
	maxUnread = 16 << 20
	freeWords = 64 << 10
)

const (
	unreadPiece = 64 << 10               // bytes that are written in one go
	lastWords   = 500 * time.Millisecond // for a reader who reads, after an abort
)

// reader writes to somebody who may read slowly or not at all, for whom nobody waits who writes.
type reader struct {
	w     io.Writer
	abort <-chan struct{} // closed: nobody waits for the reader any more

	mu     sync.Mutex
	unread []byte
	size   int           // bytes that are not written, those that are being written included
	room   chan struct{} // closed when some have been
	closed bool
	more   chan struct{} // there is something to do
	done   chan struct{} // closed when all has been written
}

func newReader(w io.Writer, abort <-chan struct{}) *reader {
	r := &reader{w: w, abort: abort, room: make(chan struct{}), more: make(chan struct{}, 1), done: make(chan struct{})}
	go r.serve()
	return r
}

// Write never waits and never fails: nobody is left to tell.
func (r *reader) Write(p []byte) (int, error) {
	r.mu.Lock()
	r.unread = append(r.unread, p...)
	r.size += len(p)
	r.mu.Unlock()
	r.wake()
	return len(p), nil
}

func (r *reader) wake() {
	select {
	case r.more <- struct{}{}:
	default:
	}
}

func (r *reader) serve() {
	defer close(r.done)
	var buf []byte
	for range r.more {
		r.mu.Lock()
		buf, r.unread = r.unread, buf[:0]
		closed := r.closed
		r.mu.Unlock()
		for rest := buf; len(rest) > 0; {
			n := min(len(rest), unreadPiece)
			_, _ = r.w.Write(rest[:n])
			rest = rest[n:]
			r.mu.Lock()
			r.size -= n
			close(r.room)
			r.room = make(chan struct{})
			r.mu.Unlock()
		}
		if closed {
			return
		}
		if cap(buf) > 1<<20 {
			buf = nil
		}
	}
}

// wait waits until there is room; false: it was told to hurry, and there is none.
func (r *reader) wait(hurry <-chan struct{}) bool {
	for {
		r.mu.Lock()
		full, room := r.size >= maxUnread, r.room
		r.mu.Unlock()
		if !full {
			return true
		}
		select {
		case <-room:
		case <-hurry:
			return false
		case <-r.abort:
			return false
		}
	}
}

// close waits until all is read, after an abort for a moment only.
func (r *reader) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.wake()
	select {
	case <-r.done:
		return
	case <-r.abort:
	}
	select {
	case <-r.done:
	case <-time.After(lastWords):
	}
}

// pacedSink is a sink that writes to a reader: the logs of jobs wait for room, events do not.
type pacedSink struct {
	run.Sink
	reader *reader

	mu   sync.Mutex
	jobs map[int64]*paced // by the id of the attempt
}

// paced is how a job waits for room.
type paced struct {
	hurry    chan struct{} // closed: not at all
	hurrying bool
	dropped  bool
	said     int // bytes
}

func newPacedSink(s run.Sink, r *reader) *pacedSink {
	return &pacedSink{Sink: s, reader: r, jobs: map[int64]*paced{}}
}

// job gives what is known of an attempt; the caller holds the lock.
func (s *pacedSink) job(ref run.JobRef) *paced {
	p := s.jobs[ref.ID]
	if p == nil {
		p = &paced{hurry: make(chan struct{})}
		s.jobs[ref.ID] = p
	}
	return p
}

// Event implements run.Sink.
func (s *pacedSink) Event(e run.Event) {
	if e.Kind == run.KindJob && e.To.Completed() {
		s.mu.Lock()
		delete(s.jobs, e.ID)
		s.mu.Unlock()
	}
	s.Sink.Event(e)
}

// Hurry implements run.HastySink.
func (s *pacedSink) Hurry(ref run.JobRef) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.job(ref); !p.hurrying {
		p.hurrying = true
		close(p.hurry)
	}
}

// Log implements run.Sink.
func (s *pacedSink) Log(ref run.JobRef, b []byte) {
	s.mu.Lock()
	p := s.job(ref)
	s.mu.Unlock()
	p.said += len(b)
	switch {
	case p.said <= freeWords || s.reader.wait(p.hurry):
		p.dropped = false
		s.Sink.Log(ref, b)
	case !p.dropped: // said once, so that it takes no room
		p.dropped = true
		s.Sink.Log(ref, []byte("\nWARNING: output is missing here, nobody has read it in time\n"))
	}
}
