package show

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// Verdict writes why a job runs for an event, or not: every rule that was looked at, every condition of it, and the values.
func Verdict(out io.Writer, v pipeline.Verdict, paint Paint) error {
	w := &writer{w: out}
	word := paint.with(red, "does not run")
	if v.Runs {
		word = paint.with(green, runsHow(v))
	}
	w.printf("%s %s: %s\n", paint.with(bold, Plain(v.Job)), word, Plain(v.Reason))
	if v.At != (pipeline.Position{}) {
		w.printf("  defined at %s\n", Plain(v.At.String()))
	}
	if len(v.Names) > 1 || len(v.Names) == 1 && v.Names[0] != v.Job {
		w.printf("  as %s\n", Plain(strings.Join(v.Names, ", ")))
	}
	if !v.Runs && len(v.Instances) > 0 {
		w.printf("  this is about %s\n", Plain(strings.Join(v.Instances, ", ")))
	}
	for i, rule := range v.Rules {
		verdict := paint.with(red, "does not match")
		if rule.Matches {
			verdict = paint.with(green, "matches")
		}
		at := ""
		if rule.At != (pipeline.Position{}) {
			at = " at " + Plain(rule.At.String())
		}
		name := fmt.Sprintf("rule %d", i+1)
		if rule.Keyword != "" {
			name = rule.Keyword
		}
		w.printf("  %s%s %s\n", name, at, verdict)
		for _, way := range ways(rule.Via) {
			w.printf("    %s\n", paint.with(dim, way))
		}
		if len(rule.Clauses) == 0 {
			w.printf("    it has no conditions\n")
		}
		for _, c := range rule.Clauses {
			w.clause(c, paint)
		}
	}
	return w.err
}

// runsHow is how a job that runs does so.
func runsHow(v pipeline.Verdict) string {
	text := "runs"
	switch v.When {
	case pipeline.Manual:
		text = "waits for a person"
		if !v.AllowFailure.Allowed {
			text += ", and the pipeline with it"
		}
	case pipeline.Delayed:
		text = "runs after a delay"
	case pipeline.OnFailure:
		text = "runs if a job before it fails"
	case pipeline.Always:
		text = "runs whatever happens before it"
	}
	if v.AllowFailure.Allowed && v.When != pipeline.Manual {
		text += ", may fail"
	}
	return text
}

func (w *writer) clause(c pipeline.ClauseVerdict, paint Paint) {
	mark := paint.with(red, "no ")
	if c.Holds {
		mark = paint.with(green, "yes")
	}
	w.printf("    %s %s: %s\n", mark, Plain(c.Kind), Plain(c.Text))
	if c.Detail != "" {
		w.printf("        %s\n", Plain(c.Detail))
	}
	width := 0
	for _, u := range c.Values {
		width = max(width, len(u.Name))
	}
	for _, u := range c.Values {
		w.printf("        $%-*s %s\n", width, Plain(u.Name), Plain(value(u)))
	}
}

// value is what a variable holds, and where that was set.
func value(u pipeline.UsedValue) string {
	if !u.Set {
		return "is not set"
	}
	text := "= " + strconv.Quote(u.Value)
	var from []string
	if u.Origin != "" {
		from = append(from, u.Origin)
	}
	if u.At != (pipeline.Position{}) {
		from = append(from, u.At.String())
	}
	if len(from) > 0 {
		text += "  (" + strings.Join(from, ", ") + ")"
	}
	return text
}

// Values writes the variables that an expression looked at.
func Values(out io.Writer, used []pipeline.UsedValue) error {
	w := &writer{w: out}
	for _, u := range used {
		w.printf("$%s %s\n", Plain(u.Name), Plain(value(u)))
	}
	return w.err
}

// Event is a column of [Matrix]: an event, and what each job does for it.
type Event struct {
	Name string `json:"name"`
	// None says why there is no pipeline at all; empty: there is one.
	None string          `json:"none,omitempty"`
	Jobs map[string]Cell `json:"jobs"` // by the name in the file; a job that is not there does not run
}

// Cell is how a job runs for an event.
type Cell struct {
	When      pipeline.When `json:"when"`
	IfChanged bool          `json:"ifChanged,omitempty"` // which paths have changed decides whether it runs, or how
}

func (c Cell) String() string {
	text := "run"
	switch c.When {
	case pipeline.Manual, pipeline.Delayed, pipeline.Always:
		text = string(c.When)
	case pipeline.OnFailure:
		text = "on failure"
	case pipeline.Never, "":
		return "-"
	}
	if c.IfChanged {
		text += "*"
	}
	return text
}

// Matrix writes which job runs for which event.
func Matrix(out io.Writer, jobs []pipeline.JobSpec, events []Event, paint Paint) error {
	w := &writer{w: out}
	rows := [][]string{{"STAGE", "JOB"}}
	for _, e := range events {
		rows[0] = append(rows[0], strings.ToUpper(e.Name))
	}
	changed := false
	for _, job := range jobs {
		row := []string{Plain(job.Stage), Plain(job.Name)}
		for _, e := range events {
			cell := e.Jobs[job.Name]
			changed = changed || cell.IfChanged
			row = append(row, cell.String())
		}
		rows = append(rows, row)
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
			line.WriteString(cellColour(paint, x, y, text))
			line.WriteString(strings.Repeat(" ", widths[x]-len([]rune(text))+3))
		}
		w.printf("%s\n", strings.TrimRight(line.String(), " "))
	}
	if changed {
		w.printf("* depends on which paths have changed\n")
	}
	for _, e := range events {
		if e.None != "" {
			w.printf("%s: no pipeline, %s\n", e.Name, Plain(e.None))
		}
	}
	return w.err
}

func cellColour(paint Paint, x, y int, text string) string {
	switch {
	case y == 0:
		return paint.with(bold, text)
	case x < 2:
		return text
	case text == "-":
		return paint.with(dim, text)
	case strings.HasPrefix(text, "run") || strings.HasPrefix(text, "always"):
		return paint.with(green, text)
	}
	return paint.with(yellow, text)
}

// Variables writes the variables that count, sorted by name, with where each comes from. Masked ones stay so.
func Variables(out io.Writer, variables pipeline.Variables) error {
	w := &writer{w: out}
	vs := Final(variables)
	width := 0
	for _, v := range vs {
		width = max(width, min(40, len(v.Name)))
	}
	for _, v := range vs {
		from := v.Origin
		if v.At != (pipeline.Position{}) {
			from += ", " + v.At.String()
		}
		text := fmt.Sprintf("%-*s  %s", width, Plain(v.Name), strconv.Quote(v.Value))
		if v.File {
			text += " in a file"
		}
		w.printf("%s  (%s)\n", text, Plain(from))
	}
	return w.err
}

// Masked stands for a value that is never shown.
const Masked = "[MASKED]"

// Final picks of each name the variable that counts, sorted by name. Masked values are hidden, also within others.
func Final(variables pipeline.Variables) pipeline.Variables {
	last := map[string]pipeline.Variable{}
	for _, v := range withoutSecrets(variables, Secrets(variables)) {
		last[v.Name] = v
	}
	vs := make(pipeline.Variables, 0, len(last))
	for _, v := range last {
		vs = append(vs, v)
	}
	slices.SortFunc(vs, func(a, b pipeline.Variable) int { return strings.Compare(a.Name, b.Name) })
	return vs
}

// WithoutSecrets is a graph without the values that are never shown.
func WithoutSecrets(g *pipeline.Graph) *pipeline.Graph {
	var secrets []string
	for _, j := range g.Jobs {
		secrets = append(secrets, Secrets(j.Variables)...)
	}
	if len(secrets) == 0 {
		return g
	}
	out := Redacted(g, secrets)
	for i := range out.Jobs {
		hideMasked(out.Jobs[i].Variables)
	}
	return out
}

// withoutSecrets are variables without these values.
func withoutSecrets(variables pipeline.Variables, secrets []string) pipeline.Variables {
	if len(secrets) == 0 {
		return variables
	}
	out := Redacted(variables, secrets)
	hideMasked(out)
	return out
}

// hideMasked hides the values of masked variables whatever they are: also those that are too short to be looked for.
func hideMasked(variables pipeline.Variables) {
	for i := range variables {
		if variables[i].Masked {
			variables[i].Value = Masked
		}
	}
}
