package show

import (
	"fmt"
	"io"
	"strings"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// Summed is what a pipeline came to.
type Summed struct {
	Status  pipeline.Status
	Took    time.Duration
	Waiting []string // jobs for which it is not over
	Rows    []Row
}

// Row is what a job came to.
type Row struct {
	Stage, Job string
	Status     pipeline.Status
	Allowed    bool // its failure does not count
	Attempt    int
	Took       time.Duration
	Note       string
}

// Outcome writes what a pipeline came to: a line for each job, and one for all of them.
func Outcome(out io.Writer, s Summed, paint Paint) error {
	w := &writer{w: out}
	rows := [][]string{{"STAGE", "JOB", "STATUS", "TIME", ""}}
	for _, r := range s.Rows {
		status := string(r.Status)
		if r.Allowed {
			status += " (allowed)"
		}
		took := ""
		if r.Took > 0 {
			took = Duration(r.Took)
		}
		note := r.Note
		if r.Attempt > 1 {
			note = strings.TrimSuffix(fmt.Sprintf("attempt %d, %s", r.Attempt, note), ", ")
		}
		rows = append(rows, []string{Plain(r.Stage), Plain(r.Job), status, took, Plain(note)})
	}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, text := range row {
			widths[i] = max(widths[i], len([]rune(text)))
		}
	}
	for y, row := range rows {
		var line strings.Builder
		for x, text := range row {
			shown := text
			if y == 0 {
				shown = paint.with(bold, text)
			} else if x == 2 {
				shown = paint.with(statusColour(s.Rows[y-1].Status, s.Rows[y-1].Allowed), text)
			}
			line.WriteString(shown + strings.Repeat(" ", widths[x]-len([]rune(text))+3))
		}
		w.printf("%s\n", strings.TrimRight(line.String(), " "))
	}
	w.printf("pipeline %s in %s\n", paint.with(statusColour(s.Status, false), word(s.Status)), Duration(s.Took))
	for _, name := range s.Waiting {
		w.printf("it waits for %s: --manual %q plays it\n", Plain(name), name)
	}
	return w.err
}

func word(s pipeline.Status) string {
	switch s {
	case pipeline.StatusSuccess:
		return "succeeded"
	case pipeline.StatusManual:
		return "waits for a person"
	case pipeline.StatusSkipped:
		return "was skipped"
	case pipeline.StatusCanceled:
		return "was canceled"
	}
	return string(s)
}

func statusColour(s pipeline.Status, allowed bool) string {
	switch {
	case s == pipeline.StatusSuccess:
		return green
	case s == pipeline.StatusFailed && !allowed:
		return red
	case s == pipeline.StatusSkipped || s == pipeline.StatusCreated:
		return dim
	}
	return yellow
}

// Duration is a time as people read it: 5ms, 1.2s, 2m05s.
func Duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}
