package executor

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/redact"
)

// The colours of the runner's own lines, as GitLab's log viewer knows them.
const (
	ansiClear  = "\x1b[0K"
	ansiReset  = "\x1b[0;m"
	ansiCyan   = "\x1b[36;1m"
	ansiGreen  = "\x1b[32;1m"
	ansiYellow = "\x1b[33;1m"
	ansiRed    = "\x1b[31;1m"
)

// Trace is a job's [Log] on its way to where it is kept and shown: secrets are taken out of it, it is cut at its limit, and it
// knows how the runner writes its own lines. It is safe for concurrent use.
type Trace struct {
	mu       sync.Mutex
	redactor *redact.Stream
	secrets  []string // what it hides
	limit    *limiter
	now      func() time.Time
	below    io.Writer
	mid      bool // the last byte was no line feed
}

// NewTrace makes the trace of a job that writes to w. Masked are the job's masked variables, with the base64 and URL-encoded
// forms of their values, and its Mask. Values that refer to what only the executor knows it adds with [Trace.Mask].
func NewTrace(w io.Writer, job Job) *Trace {
	limit := &limiter{w: w, limit: job.LogLimit, written: job.Logged}
	if job.LogLimit == 0 {
		limit.limit = DefaultLogLimit
	}
	secrets := job.MaskedValues()
	return &Trace{limit: limit, secrets: secrets, redactor: redact.NewStream(limit, secrets...), now: time.Now, below: w}
}

// OpenTrace gives the trace that log is, or a new one around it; done closes what it has opened.
func OpenTrace(log Log, job Job) (trace *Trace, done func()) {
	if t, ok := log.(*Trace); ok {
		return t, func() {}
	}
	t := NewTrace(log, job)
	return t, func() { _ = t.Close() }
}

// Mask hides more values from now on.
func (t *Trace) Mask(values ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	values = slices.DeleteFunc(slices.Clone(values), func(v string) bool { return slices.Contains(t.secrets, v) })
	if len(values) == 0 {
		return
	}
	if !t.limit.cut {
		_ = t.redactor.Close() // the limiter remembers
	}
	t.secrets = slices.Concat(t.secrets, values)
	t.redactor = redact.NewStream(t.limit, t.secrets...)
}

// Hurry tells the writer below that the job ends, if that is [Hasty]. Others may be writing, and waiting for it.
func (t *Trace) Hurry() {
	if h, ok := t.below.(Hasty); ok {
		h.Hurry()
	}
}

// Write takes output of the job. It never fails: a job does not end because its log is lost, for which Close gives the error.
func (t *Trace) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.write(p)
	return len(p), nil
}

func (t *Trace) write(p []byte) {
	t.mid = p[len(p)-1] != '\n'
	if t.limit.cut {
		return // the rest is not even looked at
	}
	_, _ = t.redactor.Write(p) // the limiter remembers
}

// Section starts a section with a title and gives what ends it. Sections may be nested. A name consists of letters, digits,
// "_", "." and "-"; other characters become "_".
func (t *Trace) Section(name, title string, collapsed bool) (end func()) {
	name = sectionName(name)
	option := ""
	if collapsed {
		option = "[collapsed=true]"
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.own(fmt.Sprintf("section_start:%d:%s%s\r%s%s%s%s\n", t.now().Unix(), name, option, ansiClear, ansiCyan, title, ansiReset))
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.own(fmt.Sprintf("section_end:%d:%s\r%s\n", t.now().Unix(), name, ansiClear))
	})
}

func sectionName(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '.' || r == '-' {
			return r
		}
		return '_'
	}, s)
}

// Printf writes a line of the runner's own.
func (t *Trace) Printf(format string, args ...any) { t.say("", "", format, args) }

// Noticef writes a line of the runner's own that stands out.
func (t *Trace) Noticef(format string, args ...any) { t.say(ansiGreen, "", format, args) }

// Warningf writes a warning of the runner's own.
func (t *Trace) Warningf(format string, args ...any) { t.say(ansiYellow, "WARNING: ", format, args) }

// Errorf writes an error of the runner's own.
func (t *Trace) Errorf(format string, args ...any) { t.say(ansiRed, "ERROR: ", format, args) }

func (t *Trace) say(colour, prefix, format string, args []any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	reset := ""
	if colour != "" {
		reset = ansiReset
	}
	t.own(colour + prefix + fmt.Sprintf(format, args...) + reset + "\n")
}

// own writes whole lines of the runner's own, which a job's endless output does not cut off.
func (t *Trace) own(line string) {
	if t.mid {
		line = "\n" + line
	}
	if !t.limit.cut {
		t.write([]byte(line))
		return
	}
	t.mid = false
	// What was held back when the log was cut is dropped with it.
	var b strings.Builder
	s := t.redactor.Fresh(&b)
	_, _ = io.WriteString(s, line)
	_ = s.Close()
	t.limit.past(b.String())
}

// Conclude writes the last line of a job's log.
func (t *Trace) Conclude(r Result) {
	switch {
	case r.Status == pipeline.StatusSuccess:
		t.Noticef("Job succeeded")
	case r.Status == pipeline.StatusCanceled:
		t.Warningf("Job canceled")
	case r.Reason == pipeline.RunnerSystemFailure:
		t.Errorf("Job failed (system failure): %s", r.Message)
	default:
		t.Errorf("Job failed: %s", r.Message)
	}
}

// Close writes what was held back and gives the first error of the writer below, which it does not close.
func (t *Trace) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.limit.cut {
		_ = t.redactor.Close()
	}
	return t.limit.err
}

// Back is how many of the last bytes that were written have to be written again to a trace that begins anew, so that no secret is cut in two.
func (t *Trace) Back() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.limit.cut {
		return 0
	}
	return t.redactor.Back()
}

// Redacted gives a text as the trace would write it.
func (t *Trace) Redacted(s string) string {
	return t.redactor.Text(s)
}

// limiter lets a number of bytes through and then says that it does not any more.
type limiter struct {
	w       io.Writer
	limit   int64 // negative: none
	written int64
	own     int64 // bytes of own lines past the limit
	cut     bool
	err     error
}

// maxOwn bounds the runner's own lines past the limit of a log: messages may quote what a job is made of.
const maxOwn = 64 << 10

func (l *limiter) Write(p []byte) (int, error) {
	n := len(p)
	if l.cut {
		return n, nil
	}
	if l.limit >= 0 && l.written+int64(len(p)) > l.limit {
		l.cut = true
		p = p[:max(0, l.limit-l.written)]
	}
	l.put(p)
	l.written += int64(len(p))
	if l.cut {
		l.put(fmt.Appendf(nil, "\n%sJob's log exceeded limit of %d bytes.\nJob execution will continue but no more output will be collected.%s\n",
			ansiYellow, l.limit, ansiReset))
	}
	return n, nil
}

func (l *limiter) past(s string) {
	if l.own += int64(len(s)); l.own <= maxOwn {
		l.put([]byte(s))
	}
}

func (l *limiter) put(p []byte) {
	if l.err == nil && len(p) > 0 {
		_, l.err = l.w.Write(p)
	}
}
