// Package show writes what the pipeline packages come to for people and for other programs: problems as text and as SARIF,
// verdicts with every condition, graphs as text, DOT and SVG. It is pure: values in, bytes out.
//
// Names and texts come from files that anybody may have written. Nothing that a terminal would act on passes.
package show

import (
	"fmt"
	"io"
	"strings"
	"unicode"

	"keelson.dev/keelson/internal/pipeline"
)

// Paint colours text for a terminal, where it is one.
type Paint bool

// The colours, as a terminal wants them.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
	bold   = "1"
	dim    = "2"
)

func (p Paint) with(code, text string) string {
	if !p || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Plain makes text safe to print in one line: whatever is no visible character is shown as a space or as "?".
func Plain(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, text)
}

// writer remembers the first error, so that printing reads as what is printed.
type writer struct {
	w   io.Writer
	err error
}

func (w *writer) printf(format string, args ...any) {
	if w.err == nil {
		_, w.err = fmt.Fprintf(w.w, format, args...)
	}
}

// Count is "1 error", "2 errors".
func Count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// ways tells how a value came to where it counts, the nearest step first.
func ways(via []pipeline.Via) []string {
	var out []string
	for _, v := range via {
		text := "via " + v.How
		if v.Name != "" {
			text += " " + v.Name
		}
		if v.At != (pipeline.Position{}) {
			text += " at " + v.At.String()
		}
		out = append(out, Plain(text))
	}
	return out
}
