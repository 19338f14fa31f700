package artifact

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of what is kept of JUnit reports; more is counted, not kept.
const (
	maxFailing  = 200     // failing cases that are kept
	maxText     = 4 << 10 // bytes of a message or an output
	maxXMLDepth = 100     // nested elements
)

// JUnit is the sum of JUnit reports.
type JUnit struct {
	Total   int     `json:"total"`
	Failed  int     `json:"failed"`
	Errored int     `json:"errored"`
	Skipped int     `json:"skipped"`
	Seconds float64 `json:"seconds"` // of all cases
	// Failing are the first cases that failed or errored.
	Failing []Case `json:"failing,omitempty"`
	// Errors tell of files that could not be read to their end.
	Errors []string `json:"errors,omitempty"`
}

// Case is a test case that did not succeed.
type Case struct {
	Suite   string  `json:"suite,omitempty"`
	Class   string  `json:"class,omitempty"`
	Name    string  `json:"name"`
	File    string  `json:"file,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
	Errored bool    `json:"errored,omitempty"` // it did not fail an expectation, it broke
	Message string  `json:"message,omitempty"` // the message attribute, else the first line of the output
	Output  string  `json:"output,omitempty"`
}

func (j *JUnit) add(o JUnit) {
	j.Total += o.Total
	j.Failed += o.Failed
	j.Errored += o.Errored
	j.Skipped += o.Skipped
	j.Seconds += o.Seconds
	j.Failing = append(j.Failing, o.Failing[:min(len(o.Failing), maxFailing-len(j.Failing))]...)
	j.Errors = append(j.Errors, o.Errors...)
}

// ParseJUnit reads a JUnit XML report of so many bytes at most. With an error comes what was read before. The file's own totals
// are not believed: cases are counted, as GitLab does. Entities that a file declares are not expanded.
func ParseJUnit(r io.Reader, limit int64) (JUnit, error) {
	in := &io.LimitedReader{R: r, N: limit + 1}
	d := xml.NewDecoder(in)
	d.CharsetReader = latin
	p := junitParser{}
	for {
		token, err := d.RawToken()
		if errors.Is(err, io.EOF) {
			err = nil
			switch {
			case in.N <= 0:
				err = fmt.Errorf("JUnit XML parsing failed: the file is larger than %s", sizeText(limit))
			case len(p.stack) > 0:
				err = fmt.Errorf("JUnit XML parsing failed: the file ends within <%s>", p.stack[len(p.stack)-1])
			case !p.suites:
				err = errors.New("JUnit XML parsing failed: there is no <testsuite> in it")
			}
			return p.sum, err
		}
		if err == nil {
			err = p.token(token)
		}
		if err != nil {
			line, _ := d.InputPos()
			if in.N <= 0 {
				err = fmt.Errorf("the file is larger than %s", sizeText(limit))
			}
			return p.sum, fmt.Errorf("JUnit XML parsing failed: line %d: %w", line, err)
		}
	}
}

// junitParser takes the tokens of a file one by one.
type junitParser struct {
	sum    JUnit
	stack  []string // the names of the open elements
	suite  []string // the names of the open suites
	suites bool     // there was one
	open   *Case    // the case that is open, nil: none
	status string   // of the open case: failure, error, skipped; empty: it succeeded
	output strings.Builder
}

func (p *junitParser) token(token xml.Token) error {
	switch t := token.(type) {
	case xml.StartElement:
		if len(p.stack) >= maxXMLDepth {
			return fmt.Errorf("elements are nested deeper than %d", maxXMLDepth)
		}
		p.stack = append(p.stack, t.Name.Local)
		p.start(t)
	case xml.EndElement:
		if len(p.stack) == 0 || p.stack[len(p.stack)-1] != t.Name.Local {
			return fmt.Errorf("</%s> closes what is not open", clip(t.Name.Local, 100))
		}
		p.stack = p.stack[:len(p.stack)-1]
		p.end(t.Name.Local)
	case xml.CharData:
		if p.open != nil && len(p.stack) > 0 && p.stack[len(p.stack)-1] == p.status && p.output.Len() < maxText {
			p.output.WriteString(clip(string(t), maxText-p.output.Len()))
		}
	}
	return nil
}

func (p *junitParser) start(t xml.StartElement) {
	attr := func(name string) string {
		for _, a := range t.Attr {
			if a.Name.Local == name {
				return clip(a.Value, maxText)
			}
		}
		return ""
	}
	switch t.Name.Local {
	case "testsuites":
		p.suites = true
	case "testsuite":
		p.suites = true
		p.suite = append(p.suite, attr("name"))
	case "testcase":
		if len(p.suite) == 0 && (len(p.stack) < 2 || p.stack[0] != "testsuites") || p.open != nil {
			return // GitLab takes cases of suites only
		}
		p.open, p.status = &Case{Class: attr("classname"), Name: attr("name"), File: attr("file"), Seconds: seconds(attr("time"))}, ""
		if len(p.suite) > 0 {
			p.open.Suite = p.suite[len(p.suite)-1]
		}
		p.output.Reset()
	case "failure", "error", "skipped":
		// A failure counts before an error, and that before skipped. Reruns of a flaky case have other names.
		if p.open == nil || p.stack[len(p.stack)-2] != "testcase" || weight(t.Name.Local) <= weight(p.status) {
			return
		}
		p.status, p.open.Message = t.Name.Local, attr("message")
		p.output.Reset()
	}
}

func weight(status string) int {
	switch status {
	case "failure":
		return 3
	case "error":
		return 2
	case "skipped":
		return 1
	}
	return 0
}

func (p *junitParser) end(name string) {
	switch {
	case name == "testsuite":
		p.suite = p.suite[:len(p.suite)-1]
	case name == "testcase" && p.open != nil && (len(p.stack) == 0 || p.stack[len(p.stack)-1] != "testcase"):
		c := p.open
		p.open = nil
		p.sum.Total++
		p.sum.Seconds += c.Seconds
		switch p.status {
		case "skipped":
			p.sum.Skipped++
			return
		case "failure":
			p.sum.Failed++
		case "error":
			p.sum.Errored++
			c.Errored = true
		default:
			return
		}
		if len(p.sum.Failing) < maxFailing {
			c.Output = strings.TrimSpace(p.output.String())
			if c.Message == "" {
				c.Message, _, _ = strings.Cut(c.Output, "\n")
			}
			p.sum.Failing = append(p.sum.Failing, *c)
		}
	}
}

// seconds reads a time attribute; some write thousands with commas.
func seconds(text string) float64 {
	v, err := strconv.ParseFloat(strings.ReplaceAll(strings.TrimSpace(text), ",", ""), 64)
	if err != nil || !(v >= 0 && v < 1e9) {
		return 0
	}
	return v
}

// clip shortens a text to so many bytes, at the end of a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// latin reads the other encoding that reports come in.
func latin(charset string, in io.Reader) (io.Reader, error) {
	switch strings.ToLower(charset) {
	case "utf-8", "us-ascii", "ascii":
		return in, nil
	case "iso-8859-1", "latin1", "windows-1252":
		return &latinReader{in: in}, nil
	}
	return nil, fmt.Errorf("encoding %q is not known", clip(charset, 50))
}

type latinReader struct {
	in   io.Reader
	rest []byte
	buf  [1024]byte
}

func (l *latinReader) Read(p []byte) (int, error) {
	if len(l.rest) == 0 {
		n, err := l.in.Read(l.buf[:])
		if n == 0 {
			return 0, err
		}
		l.rest = []byte(string(toRunes(l.buf[:n])))
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

func toRunes(b []byte) []rune {
	runes := make([]rune, len(b))
	for i, c := range b {
		runes[i] = rune(c)
	}
	return runes
}
