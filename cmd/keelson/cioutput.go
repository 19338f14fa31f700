package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/pipeline/run"
	"keelson.dev/keelson/internal/pipeline/show"
)

// playOutput shows how a pipeline is played: every line of a job with its name before it, as it comes.
type playOutput struct {
	mu      sync.Mutex
	w       io.Writer
	colours bool
	width   int                  // of names
	jobs    map[int64]*jobOutput // by the id of the attempt
	most    map[string]int       // how many attempts a job of the first pipeline has
	first   int64                // that pipeline
}

// jobOutput is what a job is saying.
type jobOutput struct {
	lines  *run.Lines
	prefix string
}

const maxPrefix = 28

// prefixColours are taken by jobs in turn: cyan, magenta, blue, green, yellow.
var prefixColours = []string{"36", "35", "34", "32", "33"}

func newPlayOutput(w io.Writer, g *pipeline.Graph, colours bool) *playOutput {
	p := &playOutput{w: w, colours: colours, jobs: map[int64]*jobOutput{}, most: map[string]int{}}
	for _, j := range g.Jobs {
		p.most[j.Name] = j.Retry.Max + 1
		p.width = max(p.width, min(maxPrefix, len([]rune(j.Name))))
	}
	return p
}

// Event implements run.Sink.
func (p *playOutput) Event(e run.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.first == 0 { // it is told of before its children
		p.first = e.Pipeline
	}
	if e.Kind != run.KindJob {
		return
	}
	if e.To == pipeline.StatusRunning && e.Attempt > 1 {
		text := fmt.Sprintf("attempt %d", e.Attempt)
		if most := p.most[e.Job]; e.Pipeline == p.first && e.Attempt <= most {
			text += fmt.Sprintf(" of %d", most)
		}
		p.line(p.prefix(e.JobRef), text)
	}
	if j := p.jobs[e.ID]; e.To.Completed() && j != nil { // its log has said how it ended
		j.lines.Flush()
		delete(p.jobs, e.ID)
		return
	}
	if e.Result != nil && e.To == pipeline.StatusFailed {
		p.line(p.prefix(e.JobRef), p.paint("31", "failed")+": "+show.Plain(e.Result.Message))
	}
}

// Log implements run.Sink.
func (p *playOutput) Log(ref run.JobRef, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	j := p.jobs[ref.ID]
	if j == nil {
		j = &jobOutput{prefix: p.prefix(ref)}
		j.lines = run.NewLines(func(kind run.Kind, _ time.Time, _, text string) {
			if kind == run.KindEnd || kind == run.KindStart && text == "" {
				return
			}
			if i := strings.LastIndexByte(strings.TrimRight(text, "\r"), '\r'); i >= 0 {
				text = text[i+1:] // what a progress bar came to
			}
			p.line(j.prefix, visible(text, p.colours))
		})
		p.jobs[ref.ID] = j
	}
	j.lines.Write(b)
}

// prefix names a job before its lines.
func (p *playOutput) prefix(ref run.JobRef) string {
	name := []rune(show.Plain(ref.Job))
	if len(name) > maxPrefix {
		name = append(name[:maxPrefix-1:maxPrefix-1], '…')
	}
	text := string(name) + strings.Repeat(" ", max(0, p.width-len(name)))
	hash := 0
	for _, r := range ref.Job {
		hash = (hash*31 + int(r)) % 1_000_003
	}
	return p.paint(prefixColours[hash%len(prefixColours)], text)
}

func (p *playOutput) paint(code, text string) string {
	if !p.colours {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// line writes one line; the writer keeps its errors.
func (p *playOutput) line(prefix, text string) {
	var b bytes.Buffer
	b.WriteString(prefix)
	b.WriteString(" | ")
	b.WriteString(text)
	if p.colours && strings.Contains(text, "\x1b[") {
		b.WriteString("\x1b[0m")
	}
	b.WriteByte('\n')
	_, _ = p.w.Write(b.Bytes())
}

// visible takes out of a line what would move the cursor or do worse; colours stay where they are wanted.
func visible(text string, colours bool) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 }) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		if rest, ok := strings.CutPrefix(text, "\x1b["); ok {
			end := strings.IndexFunc(rest, func(r rune) bool { return r >= '@' && r <= '~' })
			if end < 0 {
				break
			}
			if colours && rest[end] == 'm' && strings.Trim(rest[:end], "0123456789;") == "" {
				b.WriteString("\x1b[" + rest[:end+1])
			}
			text = rest[end+1:]
			continue
		}
		next := strings.Index(text[1:], "\x1b[") + 1
		if next == 0 {
			next = len(text)
		}
		b.WriteString(strings.Map(func(r rune) rune {
			if r == '\t' || !unicode.IsControl(r) {
				return r
			}
			return -1
		}, text[:next]))
		text = text[next:]
	}
	return b.String()
}

// printOutcome sums a pipeline up.
func printOutcome(w io.Writer, o run.Outcome, colours show.Paint) error {
	fmt.Fprintln(w)
	return show.Outcome(w, summaryOf(o), colours)
}

// summaryOf makes rows of what came of the jobs, those of child pipelines below the jobs that started them.
func summaryOf(o run.Outcome) show.Summed {
	out := show.Summed{Status: o.Status, Took: o.Finished.Sub(o.Started), Waiting: o.Waiting}
	var add func(jobs []run.JobResult, prefix string)
	add = func(jobs []run.JobResult, prefix string) {
		for _, j := range jobs {
			row := show.Row{Stage: j.Stage, Job: prefix + j.Name, Status: j.Status, Allowed: j.Allowed, Attempt: j.Attempt, Took: j.Duration}
			switch {
			case j.Message != "":
				row.Note = j.Message
			case j.Status == pipeline.StatusSkipped || j.Status == pipeline.StatusManual || j.Status == pipeline.StatusCanceled:
				row.Note = j.Why
			}
			if j.Tests != nil {
				row.Note = strings.TrimPrefix(row.Note+", "+testsOf(j.Tests), ", ")
			}
			if j.Coverage != nil {
				row.Note = strings.TrimPrefix(row.Note+fmt.Sprintf(", coverage %g %%", *j.Coverage), ", ")
			}
			out.Rows = append(out.Rows, row)
			if j.Child != nil {
				add(j.Child.Jobs, prefix+j.Name+" > ")
			}
		}
	}
	add(o.Jobs, "")
	return out
}

// testsOf sums up the tests of a job, with the names of the first ones that failed.
func testsOf(t *artifact.JUnit) string {
	bad := t.Failed + t.Errored
	if bad == 0 {
		return show.Count(t.Total, "test")
	}
	const most = 3
	var names []string
	for _, c := range t.Failing[:min(most, len(t.Failing))] {
		names = append(names, strings.TrimPrefix(c.Class+"."+c.Name, "."))
	}
	text := fmt.Sprintf("%d of %d tests failed", bad, t.Total)
	switch rest := bad - len(names); {
	case len(names) == 0:
	case rest > 0:
		text += fmt.Sprintf(": %s and %d more", strings.Join(names, ", "), rest)
	default:
		text += ": " + strings.Join(names, ", ")
	}
	return text
}
