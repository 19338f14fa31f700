package run

import (
	"bytes"
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// Sink is told what happens. Events come from one goroutine, in their order. Logs come from any goroutine, each job's in its order:
// after the event that says that the job runs, and before the one that says how it ended. What takes long holds up the pipeline.
type Sink interface {
	Event(e Event)
	// Log takes redacted output of a job as it comes: parts of lines, colours, and GitLab's section markers. p is lent.
	Log(j JobRef, p []byte)
}

// HastySink is a sink whose Log may wait for somebody who reads. From Hurry on, when the job has to end, the logs of that attempt
// wait no more, as with [executor.Hasty].
type HastySink interface {
	Sink
	Hurry(j JobRef)
}

// JobRef names an attempt of a job.
type JobRef struct {
	Pipeline int64  `json:"pipeline"`
	Job      string `json:"job,omitempty"`
	ID       int64  `json:"id,omitempty"` // of this attempt
	Attempt  int    `json:"attempt,omitempty"`
}

// Kind is what an event is about.
type Kind string

// The kinds of events. The last three are made of logs, by [JSON].
const (
	KindPipeline Kind = "pipeline" // a pipeline has another status; its first event has From empty
	KindStage    Kind = "stage"
	KindJob      Kind = "job"
	KindLog      Kind = "log"           // a line of a job's log
	KindStart    Kind = "section_start" // a section of a job's log
	KindEnd      Kind = "section_end"
)

// Event is something that happened.
type Event struct {
	Kind Kind      `json:"kind"`
	At   time.Time `json:"at"`
	JobRef
	Parent  *JobRef         `json:"parent,omitempty"` // of a child pipeline's first event: the job that started it
	Stage   string          `json:"stage,omitempty"`
	From    pipeline.Status `json:"from,omitempty"`
	To      pipeline.Status `json:"to,omitempty"`
	Why     string          `json:"why,omitempty"`
	By      string          `json:"by,omitempty"`      // of a job: who has played or retried this attempt
	Result  *JobResult      `json:"result,omitempty"`  // of a job that has ended
	Text    string          `json:"text,omitempty"`    // a line of the log without its end, or a section's title
	Section string          `json:"section,omitempty"` // its name
}

// Discard is a sink that takes everything and does nothing.
var Discard Sink = discard{}

type discard struct{}

func (discard) Event(Event)        {}
func (discard) Log(JobRef, []byte) {}

// Tee tells everything to several sinks, in their order.
func Tee(sinks ...Sink) Sink { return tee(sinks) }

type tee []Sink

func (t tee) Event(e Event) {
	for _, s := range t {
		s.Event(e)
	}
}

func (t tee) Hurry(j JobRef) {
	for _, s := range t {
		if h, ok := s.(HastySink); ok {
			h.Hurry(j)
		}
	}
}

func (t tee) Log(j JobRef, p []byte) {
	for _, s := range t {
		s.Log(j, p)
	}
}

// maxLine is how long a line of a log may get before it is told in parts, in bytes.
const maxLine = 64 << 10

// JSON is a sink that writes every event as a line of JSON; logs become events a line. It is safe for concurrent use.
func JSON(w io.Writer) Sink { return &jsonSink{enc: json.NewEncoder(w), lines: map[int64]*Lines{}} }

type jsonSink struct {
	mu    sync.Mutex
	enc   *json.Encoder
	lines map[int64]*Lines // by the id of the attempt
}

func (s *jsonSink) Event(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lines[e.ID]; e.Kind == KindJob && l != nil && e.To.Completed() {
		l.Flush()
		delete(s.lines, e.ID)
	}
	s.write(e)
}

// write leaves errors to whose writer it is.
func (s *jsonSink) write(e Event) { _ = s.enc.Encode(e) }

func (s *jsonSink) Log(j JobRef, p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lines[j.ID]
	if l == nil {
		l = NewLines(func(kind Kind, at time.Time, section, text string) {
			s.write(Event{Kind: kind, At: at, JobRef: j, Section: section, Text: text})
		})
		s.lines[j.ID] = l
	}
	l.Write(p)
}

// Lines cuts a log into lines and sections. It is not safe for concurrent use.
type Lines struct {
	tell func(kind Kind, at time.Time, section, text string)
	rest []byte
}

// NewLines makes one that tells of each line (without its end), and of each section's start (with its title) and end.
func NewLines(tell func(kind Kind, at time.Time, section, text string)) *Lines {
	return &Lines{tell: tell}
}

// Write takes more of the log.
func (l *Lines) Write(p []byte) {
	for {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			break
		}
		if len(l.rest) == 0 {
			l.line(p[:end])
		} else {
			l.rest = append(l.rest, p[:end]...)
			l.line(l.rest)
			l.rest = l.rest[:0]
		}
		p = p[end+1:]
	}
	for len(l.rest)+len(p) > maxLine {
		n := maxLine - len(l.rest)
		l.rest = append(l.rest, p[:n]...)
		l.line(l.rest)
		l.rest, p = l.rest[:0], p[n:]
	}
	l.rest = append(l.rest, p...)
}

// Flush tells of a last line without an end.
func (l *Lines) Flush() {
	if len(l.rest) > 0 {
		l.line(l.rest)
		l.rest = nil
	}
}

// line takes the section markers out of a line: section_start:UNIX:NAME[options]\r\e[0K and the same with section_end.
func (l *Lines) line(line []byte) {
	text := strings.TrimSuffix(string(line), "\r")
	for {
		before, kind, rest, ok := cutMarker(text)
		if !ok {
			break
		}
		head, after, _ := strings.Cut(rest, "\r")
		after = strings.TrimPrefix(after, "\x1b[0K")
		stamp, name, _ := strings.Cut(head, ":")
		name, _, _ = strings.Cut(name, "[")
		seconds, err := strconv.ParseInt(stamp, 10, 64)
		if err != nil || name == "" {
			break
		}
		if before != "" {
			l.tell(KindLog, time.Now(), "", before)
		}
		title := ""
		if kind == KindStart { // the rest of the line is the section's title, up to another marker
			title = after
			if _, _, _, more := cutMarker(after); more {
				title = ""
			}
		}
		l.tell(kind, time.Unix(seconds, 0).UTC(), name, plainText(title))
		text = after
		if title != "" || after == "" {
			return
		}
	}
	l.tell(KindLog, time.Now(), "", strings.ToValidUTF8(text, "\uFFFD"))
}

func cutMarker(text string) (before string, kind Kind, rest string, ok bool) {
	start, end := strings.Index(text, "section_start:"), strings.Index(text, "section_end:")
	switch {
	case start >= 0 && (end < 0 || start < end):
		return text[:start], KindStart, text[start+len("section_start:"):], true
	case end >= 0:
		return text[:end], KindEnd, text[end+len("section_end:"):], true
	default:
		return "", "", "", false
	}
}

// plainText takes colours out of a title.
func plainText(s string) string {
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(s, "\x1b[")
		b.WriteString(before)
		if !ok {
			return strings.ToValidUTF8(b.String(), "\uFFFD")
		}
		s = strings.TrimLeft(after, "0123456789;")
		if s != "" {
			s = s[1:]
		}
	}
}
