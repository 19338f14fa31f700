package store

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// What one value may have, in bytes.
const (
	nameMax  = 1 << 10  // a name, a ref, a status: beyond it is an error
	textMax  = 4 << 10  // what people read: cut
	blobMax  = 64 << 20 // a graph, an event, a state, a report
	entryMax = 1 << 20  // an entry of the journal, arguments, variables
	// pageMax is how many rows a list gives at once, and pageDefault where nobody says.
	pageMax     = 1000
	pageDefault = 100
)

// text makes a text fit for a column: it is valid UTF-8 without NUL, and not longer than is read.
func text(s string) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
	if len(s) <= textMax {
		return s
	}
	const more = "…"
	end := textMax - len(more)
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + more
}

// checkNames refuses what is no name: it would not be found again if it was changed. They come in pairs: what it is, the name.
func checkNames(pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		what, name := pairs[i], pairs[i+1]
		switch {
		case len(name) > nameMax:
			return fmt.Errorf("the %s has %d bytes, and there may be %d: %w", what, len(name), nameMax, ErrTooLarge)
		case !utf8.ValidString(name) || strings.Contains(name, "\x00"):
			return fmt.Errorf("the %s %q is not UTF-8: %w", what, name, ErrInvalid)
		}
	}
	return nil
}

func checkSize(what string, value []byte, most int) error {
	if len(value) > most {
		return fmt.Errorf("the %s has %d bytes, and there may be %d: %w", what, len(value), most, ErrTooLarge)
	}
	return nil
}

func page(limit int) int {
	if limit <= 0 {
		return pageDefault
	}
	return min(limit, pageMax)
}

// where is a condition that grows.
type where struct {
	sql  []string
	args []any
}

func (w *where) and(condition string, args ...any) {
	w.sql = append(w.sql, condition)
	w.args = append(w.args, args...)
}

func (w *where) String() string {
	if len(w.sql) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(w.sql, " AND ")
}

// projects asks for the rows of some projects; nil: of all. Numbers are repeated up to the next power of two, so that there are few queries.
func (w *where) projects(ids []int64) {
	if ids == nil {
		return
	}
	n := 1
	for n < len(ids) {
		n *= 2
	}
	args := make([]any, n)
	for i := range args {
		args[i] = int64(-1)
		if len(ids) > 0 {
			args[i] = ids[min(i, len(ids)-1)]
		}
	}
	w.and("project IN (?"+strings.Repeat(", ?", n-1)+")", args...)
}
