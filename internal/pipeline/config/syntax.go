package config

import (
	"bytes"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"

	"keelson.dev/keelson/internal/pipeline"
)

// maxSyntaxErrors bounds what is told of a document that is not YAML.
const maxSyntaxErrors = 20

// syntaxErrors reports that a document is not YAML. The parser stops at the first fault, and an open quote or bracket swallows what
// follows; so each entry of the top level is looked at by itself, and each that has a fault is told.
func (c *converter) syntaxErrors(text []byte, whole error) {
	known := len(c.problems)
	lines := c.lines
	anchors, count := anchorsOf(text)
	for i, p := range entriesOf(text) {
		before := 0
		if i > 0 && count > 0 && bytes.IndexByte(p.text, '*') >= 0 { // it may refer to entries that it does not see by itself
			p.text, before = append(anchors[:len(anchors):len(anchors)], p.text...), count
		}
		_, err := load(p.text)
		if err == nil {
			continue
		}
		c.lines = lines + p.line - before
		c.syntax(p.text, err)
		if len(c.problems)-known >= maxSyntaxErrors {
			break
		}
	}
	c.lines = lines
	if len(c.problems) == known {
		c.syntax(text, whole)
	}
}

var anchorPattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`&[\w-]+`) })

// anchorsOf gives lines that define all that may be an anchor in a text, and their number.
func anchorsOf(text []byte) (lines []byte, count int) {
	seen := map[string]bool{}
	for _, name := range anchorPattern().FindAll(text, 1000) {
		if !seen[string(name)] {
			seen[string(name)] = true
			lines = append(append(append(lines, "x: "...), name...), '\n')
			count++
		}
	}
	return lines, count
}

// syntax reports that a document is not YAML: where, and what is often the cause.
func (c *converter) syntax(text []byte, err error) {
	at := pipeline.Position{File: c.file}
	message, opened := err.Error(), 0
	var load *yaml.LoadError
	if errors.As(err, &load) {
		message = load.Message
		if load.Mark.Line > 0 {
			at.Line, at.Column = load.Mark.Line, load.Mark.Column
		}
		opened = load.ContextMark.Line
		if opened > 0 && atEnd(text, at.Line, at.Column) { // what is not closed is where it was opened
			at.Line, at.Column = opened, load.ContextMark.Column
		}
		if load.ContextMsg != "" {
			message = load.ContextMsg + ": " + message
		}
	}
	if strings.Contains(message, errDepth.Error()) {
		at.Line += c.lines
		c.fail("yaml-too-deep", at, "", "The parsed YAML is too big: more than %d lists and maps are within each other", maxDepth)
		return
	}
	if name, ok := unknownAnchor(message); ok {
		at.Line += c.lines
		c.fail("yaml-alias", at, "an anchor is known below it in its own file only; use `!reference` or `extends` for another file",
			"Unknown alias: %s", name)
		return
	}
	hint := syntaxHint(message, text, at, opened+c.lines)
	if at.Line > 0 {
		at.Line += c.lines
	}
	c.fail("yaml-syntax", at, hint, "Invalid YAML: %s", message)
}

// atEnd tells whether nothing but space is from a position on.
func atEnd(text []byte, line, column int) bool {
	for n := 1; n < line; n++ {
		_, rest, ok := bytes.Cut(text, []byte("\n"))
		if !ok {
			return true
		}
		text = rest
	}
	first, rest, _ := bytes.Cut(text, []byte("\n"))
	return len(bytes.TrimSpace(rest)) == 0 && len(bytes.TrimSpace(first[min(len(first), max(column-1, 0)):])) == 0
}

func unknownAnchor(message string) (string, bool) {
	_, rest, ok := strings.Cut(message, "unknown anchor '")
	name, _, closed := strings.Cut(rest, "'")
	return name, ok && closed
}

// syntaxHint names what is likely wrong in the line of an error, or in the one above.
func syntaxHint(message string, text []byte, at pipeline.Position, opened int) string {
	lines := bytes.Split(text, []byte("\n"))
	line := func(number int) string {
		if number < 1 || number > len(lines) {
			return ""
		}
		return strings.TrimRight(string(lines[number-1]), "\r")
	}
	here := line(at.Line)
	indent := here[:len(here)-len(strings.TrimLeft(here, " \t"))]
	above := line(at.Line - 1)
	aboveIndent := above[:len(above)-len(strings.TrimLeft(above, " \t"))]
	switch {
	case strings.Contains(indent, "\t"), strings.Contains(aboveIndent, "\t"):
		return "the line is indented with a tab; YAML takes spaces only"
	case strings.Contains(message, "quoted scalar") && strings.Contains(message, "end of"):
		return "the quote opened in line " + strconv.Itoa(opened) + " is not closed"
	case strings.Contains(message, "cannot start any token"):
		return "quote a text that starts with @, ` or %"
	case strings.Contains(message, "mapping values are not allowed"):
		return "quote a text that has a colon and a space in it; or the line is indented too far"
	case strings.HasPrefix(strings.TrimSpace(here), "*") || afterColon(here, '*'):
		return "quote a text that starts with *"
	case strings.Contains(message, "did not find expected key"), strings.Contains(message, "block collection"), strings.Contains(message, "block mapping"):
		if strings.HasPrefix(strings.TrimSpace(here), `"`) || afterColon(here, '"') || afterColon(here, '\'') ||
			strings.Contains(here, `- "`) || strings.Contains(here, "- '") {
			return "a text that starts with a quote ends at the next one; quote the whole of it with the other kind of quotes"
		}
		return "the line is not indented like those before it"
	case strings.Contains(message, "could not find expected ':'"):
		return "a colon and a space are missing after the key, or the line is not indented far enough for the text above"
	case strings.Contains(message, "flow"):
		return "a bracket or a comma is missing in the list or map opened in line " + strconv.Itoa(opened)
	}
	return ""
}

// afterColon tells whether the value in a line starts with a character.
func afterColon(line string, c byte) bool {
	_, value, ok := strings.Cut(line, ": ")
	value = strings.TrimLeft(value, " ")
	return ok && value != "" && value[0] == c
}
