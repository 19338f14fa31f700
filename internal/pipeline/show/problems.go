package show

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"keelson.dev/keelson/internal/pipeline"
)

// Texts gives the text of a file by its name in positions; false: it is not to be shown.
type Texts func(name string) ([]byte, bool)

// maxLine is how much of a line is shown around a column.
const maxLine = 110

// Problems writes findings as "file:line:column: severity: message", each with the line that it is about, the way it came, and
// what to do.
func Problems(out io.Writer, problems pipeline.Problems, texts Texts, paint Paint) error {
	w := &writer{w: out}
	for i, p := range problems {
		if i > 0 {
			w.printf("\n")
		}
		w.problem(p, texts, paint)
	}
	return w.err
}

func (w *writer) problem(p pipeline.Problem, texts Texts, paint Paint) {
	at := ""
	if p.At != (pipeline.Position{}) {
		at = Plain(p.At.String()) + ": "
	}
	colour := yellow
	if p.Severity == pipeline.Error {
		colour = red
	}
	job := ""
	if p.Job != "" && !strings.Contains(p.Message, p.Job) {
		job = "job " + Plain(p.Job) + ": "
	}
	w.printf("%s%s: %s%s %s\n", paint.with(bold, at), paint.with(colour, string(p.Severity)), job, Plain(p.Message), paint.with(dim, "["+Plain(p.Code)+"]"))
	if texts != nil && p.At.Line > 0 {
		if text, ok := texts(p.At.File); ok {
			w.excerpt(text, p.At, paint)
		}
	}
	for _, way := range ways(p.Via) {
		w.printf("    %s\n", way)
	}
	if p.Hint != "" {
		w.printf("    hint: %s\n", Plain(p.Hint))
	}
}

// excerpt shows the line of a position with a mark below its column.
func (w *writer) excerpt(text []byte, at pipeline.Position, paint Paint) {
	line, ok := lineOf(text, at.Line)
	if !ok {
		return
	}
	shown, from, length := clip(line, at.Column)
	number := fmt.Sprintf("%5d", at.Line)
	w.printf("%s %s\n", paint.with(dim, number+" |"), shown)
	if at.Column > 0 && from >= 0 {
		w.printf("%s %s%s\n", paint.with(dim, strings.Repeat(" ", len(number))+" |"), strings.Repeat(" ", from), paint.with(red, strings.Repeat("^", length)))
	}
}

// lineOf gives a line by its number, from 1.
func lineOf(text []byte, number int) (string, bool) {
	for i := 1; len(text) > 0; i++ {
		line, rest, _ := bytes.Cut(text, []byte("\n"))
		if i == number {
			return strings.ToValidUTF8(strings.TrimSuffix(string(line), "\r"), "?"), true
		}
		text = rest
	}
	return "", false
}

// clip gives what is shown of a line, and where in it the word at a column begins and how long it is, in characters; from is
// negative where the column is not in the line. A tab is shown as one space.
func clip(line string, column int) (shown string, from, length int) {
	runes := []rune(Plain(line))
	from = column - 1
	if from > len(runes) {
		from = -1
	}
	end := from
	for end >= 0 && end < len(runes) && !strings.ContainsRune(" ,]}#", runes[end]) {
		end++
	}
	if from >= 0 && from < len(runes) && (runes[from] == '"' || runes[from] == '\'') {
		if i := strings.IndexRune(string(runes[from+1:]), runes[from]); i >= 0 { // a quoted text is marked to its end
			end = from + 2 + utf8.RuneCountInString(string(runes[from+1:])[:i])
		}
	}
	if end > from+1 && end < len(runes) && runes[end-1] == ':' || end == len(runes) && end > from+1 && runes[end-1] == ':' {
		end-- // of a key
	}
	length = max(1, end-from)
	start := 0
	if len(runes) > maxLine {
		start = max(0, min(from-maxLine/2, len(runes)-maxLine))
		runes = runes[start:min(len(runes), start+maxLine)]
	}
	if start > 0 {
		runes[0] = '…'
	}
	if from >= 0 {
		from -= start
		length = max(1, min(length, len(runes)-from))
	}
	return strings.TrimRight(string(runes), " "), from, length
}

// Summary counts problems: "2 errors, 1 warning"; empty: there are none.
func Summary(problems pipeline.Problems) string {
	errors, warnings := 0, 0
	for _, p := range problems {
		if p.Severity == pipeline.Error {
			errors++
		} else {
			warnings++
		}
	}
	var parts []string
	if errors > 0 {
		parts = append(parts, Count(errors, "error"))
	}
	if warnings > 0 {
		parts = append(parts, Count(warnings, "warning"))
	}
	return strings.Join(parts, ", ")
}
