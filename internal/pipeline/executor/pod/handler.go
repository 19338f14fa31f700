package pod

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/pipeline/executor/pod/agent"
)

// Path is where the handler has to be mounted.
const Path = "/api/v1/runner/jobs/"

// stall is how long nothing may move on a connection over which files go.
const stall = time.Minute

// transferLimit bounds how long files may go over a connection, and pace how slowly: so many bytes a second, once stall is over.
const (
	transferLimit = 30 * time.Minute
	pace          = 64 << 10
	busyPace      = 1 << 20 // while other jobs wait: who is slower makes way, and comes again
)

// maxUploads is how many jobs send what they leave at a time, and maxUploadsEach how many of one project; others wait.
const maxUploads, maxUploadsEach = 8, 4

// slots are those of the jobs that send what they leave.
type slots struct {
	all     chan struct{}
	waiting atomic.Int32 // for one of all
	mu      sync.Mutex
	each    map[string]chan struct{} // by the project; there are not many
}

func newSlots() *slots {
	return &slots{all: make(chan struct{}, maxUploads), each: map[string]chan struct{}{}}
}

// take waits for a slot. Its error is that of ctx.
func (s *slots) take(ctx context.Context, project string) (done func(), err error) {
	s.mu.Lock()
	own := s.each[project]
	if own == nil {
		own = make(chan struct{}, maxUploadsEach)
		s.each[project] = own
	}
	s.mu.Unlock()
	select {
	case own <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	select {
	case s.all <- struct{}{}:
		return func() { <-s.all; <-own }, nil
	case <-ctx.Done():
		<-own
		return nil, ctx.Err()
	}
}

// maxAsking is how many requests of one job are answered at a time; its agent has three at most.
const maxAsking = 8

// maxMask bounds what an agent says that must not be shown, in bytes.
const maxMask = 512 << 10

// Handler serves the agents. It asks each for the token of its job.
func (x *Executor) Handler() http.Handler {
	mux := http.NewServeMux()
	for route, serve := range map[string]func(*job, http.ResponseWriter, *http.Request){
		"POST " + Path + "{id}/poll": (*job).servePoll,
		"POST " + Path + "{id}/log":  (*job).serveLog,
		"GET " + Path + "{id}/files": (*job).serveFiles,
		"PUT " + Path + "{id}/files": (*job).takeFiles,
	} {
		mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) {
			j := x.asked(w, r)
			if j == nil {
				return
			}
			defer j.asking.Add(-1)
			if j.asking.Add(1) > maxAsking {
				http.Error(w, "too many requests at once", http.StatusTooManyRequests)
				return
			}
			serve(j, w, r)
		})
	}
	return mux
}

// asked gives the job whose agent asks; nil: it has got its answer.
func (x *Executor) asked(w http.ResponseWriter, r *http.Request) *job {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if err != nil || !ok || subtle.ConstantTimeCompare([]byte(token), []byte(x.o.token(id))) != 1 {
		http.Error(w, "the token does not open this job", http.StatusUnauthorized)
		return nil
	}
	x.mu.Lock()
	j := x.jobs[id]
	x.mu.Unlock()
	if j == nil { // not yet, or not any more: the Pod is deleted then
		http.Error(w, "the job is not being played here", http.StatusServiceUnavailable)
		return nil
	}
	return j
}

// patient gives a request so much time to come in, and gives what lets it have all time again.
func patient(w http.ResponseWriter) (done func()) {
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Now().Add(stall)) // a connection that has none is not bounded
	return func() { _ = c.SetReadDeadline(time.Time{}) }
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // nobody is left to tell
}

// servePoll takes in how the agent is, and gives it its next order.
func (j *job) servePoll(w http.ResponseWriter, r *http.Request) {
	done := patient(w)
	var s agent.Status
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, agent.MaxPoll)).Decode(&s); err != nil {
		http.Error(w, "this is no status", http.StatusBadRequest)
		return
	}
	if s.Phase < agent.Hello || s.Phase > agent.End {
		http.Error(w, "there is no such phase", http.StatusBadRequest)
		return
	}
	done()
	if s.Server != j.x.name {
		answer(w, agent.Order{Server: j.x.name})
		return
	}
	if !j.heed(s) {
		http.Error(w, "the job is not being played here", http.StatusServiceUnavailable)
		return
	}
	wait := time.NewTimer(agent.PollWait)
	defer wait.Stop()
	for {
		j.mu.Lock()
		order, changed, shut := j.order, j.changed, j.closed
		j.mu.Unlock()
		switch {
		case shut:
			http.Error(w, "the job is not being played here", http.StatusServiceUnavailable)
			return
		case order.New(s) && !s.Running || order.Stop && s.Running && order.Phase == s.Phase || order.Phase == agent.End:
			order.Server = j.x.name
			answer(w, order)
			return
		}
		select {
		case <-changed:
		case <-wait.C:
			answer(w, agent.Order{Server: j.x.name})
			return
		case <-r.Context().Done():
			return
		}
	}
}

// heed takes in how the agent is; false: nobody wants to know.
func (j *job) heed(s agent.Status) bool {
	j.mu.Lock()
	first := !j.heard
	j.mu.Unlock()
	if first && j.Resume { // what an earlier process has given the job is not shown either
		size := 0
		for _, value := range s.Mask {
			size += len(value)
		}
		if size <= maxMask {
			j.trace.Mask(s.Mask...)
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return false
	}
	if !j.heard || s.Newer(j.status) {
		j.heard, j.status = true, s
		j.change()
	}
	return true
}

// chunks are buffers for parts of logs.
var chunks = sync.Pool{New: func() any { return new([agent.LogChunk + 1]byte) }}

// serveLog puts what the job has written into its log.
func (j *job) serveLog(w http.ResponseWriter, r *http.Request) {
	offset, err := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
	if err != nil || offset < 0 {
		http.Error(w, "the offset is no number", http.StatusBadRequest)
		return
	}
	defer patient(w)()
	buf := chunks.Get().(*[agent.LogChunk + 1]byte)
	defer chunks.Put(buf)
	n, err := io.ReadFull(r.Body, buf[:])
	if err == nil || !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		http.Error(w, "the log cannot be read, or it is too much at once", http.StatusBadRequest)
		return
	}
	chunk := buf[:n]
	j.logs.Lock()
	defer j.logs.Unlock()
	j.mu.Lock()
	ready := j.heard && !j.closed && !j.ended
	j.mu.Unlock()
	if !ready {
		http.Error(w, "the job is not being played here", http.StatusServiceUnavailable)
		return
	}
	if j.next < 0 {
		j.next = offset
	}
	if offset <= j.next { // what is here already is passed over
		chunk = chunk[min(j.next-offset, int64(len(chunk))):]
		_, _ = j.trace.Write(chunk) // never fails
		j.next += int64(len(chunk))
	}
	answer(w, agent.LogState{Received: j.next, Kept: max(0, j.next-int64(j.trace.Back()))})
}

// moving writes to a connection as long as it moves.
type moving struct {
	http.ResponseWriter
	c *http.ResponseController
}

func (m moving) Write(p []byte) (int, error) {
	_ = m.c.SetWriteDeadline(time.Now().Add(stall)) // a connection that has none is not bounded
	return m.ResponseWriter.Write(p)
}

// serveFiles sends the directory that was made ready.
func (j *job) serveFiles(w http.ResponseWriter, r *http.Request) {
	j.mu.Lock()
	ready := j.serving && !j.closed && j.order.Phase == agent.Fetch
	j.mu.Unlock()
	if !ready {
		http.Error(w, "the job's directory is not ready", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	c := http.NewResponseController(w)
	ctx, cancel := context.WithTimeout(r.Context(), transferLimit)
	defer cancel()
	defer context.AfterFunc(j.life, cancel)()
	if err := artifact.Pack(ctx, moving{w, c}, j.Dir, whole); err != nil {
		j.x.o.Log.Warn("send the directory of a job", "job", j.ID, "error", err)
		panic(http.ErrAbortHandler) // so that the agent does not take it for whole
	}
	_ = c.SetWriteDeadline(time.Time{})
}

// whole are the limits of what the server itself has put into a job's directory.
var whole = artifact.Limits{Bytes: 1 << 40, Files: 5_000_000}

// stalling reads a body as long as it moves, fast enough and not for too long, and remembers why it does not.
type stalling struct {
	io.Reader
	c     *http.ResponseController
	ctx   context.Context
	slots *slots
	begun time.Time
	size  int64
	err   error
}

// until is when the next bytes have to be there.
func (s *stalling) until(now time.Time) time.Time {
	until, rate := now.Add(stall), int64(pace)
	if s.slots.waiting.Load() > 0 {
		rate = busyPace
	}
	for _, t := range []time.Time{s.begun.Add(stall + time.Duration(s.size/rate)*time.Second), s.begun.Add(transferLimit)} {
		if t.Before(until) {
			until = t
		}
	}
	return until
}

var errSlow = errors.New("the files of the job come too slowly")

func (s *stalling) Read(p []byte) (int, error) {
	now := time.Now()
	until := s.until(now)
	_ = s.c.SetReadDeadline(until) // a connection that has none is not bounded
	err := s.ctx.Err()             // asked after that: who ends ctx ends the wait as well
	if err == nil && !now.Before(until) {
		err = errSlow
	}
	n := 0
	if err == nil {
		n, err = s.Reader.Read(p)
		s.size += int64(n)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// takeFiles takes what the job leaves.
func (j *job) takeFiles(w http.ResponseWriter, r *http.Request) {
	j.files.Lock()
	defer j.files.Unlock()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	j.mu.Lock()
	order := j.order
	ready := !j.dead && !j.closed && order.Phase == agent.Upload && j.heard && !j.doneWith(order)
	if ready {
		j.upload = cancel
	}
	j.mu.Unlock()
	if !ready {
		http.Error(w, "nothing of the job is wanted now", http.StatusServiceUnavailable)
		return
	}
	defer context.AfterFunc(j.life, cancel)()
	body := &stalling{Reader: r.Body, c: http.NewResponseController(w), ctx: ctx, slots: j.x.uploads}
	over := make(chan struct{})
	stay := context.AfterFunc(ctx, func() {
		defer close(over)
		_ = body.c.SetReadDeadline(time.Unix(1, 0)) // a read that waits has waited enough
	})
	free, err := j.x.uploads.take(ctx, j.Variables.Predefined("CI_PROJECT_PATH"))
	if err == nil {
		body.begun = time.Now()
		err = artifact.UnpackSelected(ctx, body, j.Dir, order.Selected, order.Tracked, j.x.o.Limits)
		free()
	}
	if !stay() {
		<-over
	}
	switch {
	case err == nil:
		_ = body.c.SetReadDeadline(time.Time{})
		w.WriteHeader(http.StatusNoContent)
	case body.err != nil || ctx.Err() != nil:
		panic(http.ErrAbortHandler) // the connection is of no use any more
	default:
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
	}
}
