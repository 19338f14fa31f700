package artifact

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// maxCoverageLine is how much of a line of the log is looked at, in bytes.
const maxCoverageLine = 64 << 10

var number = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\d+(\.\d+)?`) })

// Coverage finds a job's coverage in its log, as it is written: the first number in the last match in the last line that has
// one ([gl] lib/gitlab/ci/trace/stream.rb). It is an io.Writer.
type Coverage struct {
	pattern *regexp.Regexp
	line    []byte
	value   float64
	found   bool
}

// NewCoverage makes one for the keyword's text, a regexp with or without slashes.
func NewCoverage(text string) (*Coverage, error) {
	if len(text) >= 2 && text[0] == '/' && text[len(text)-1] == '/' {
		text = strings.ReplaceAll(text[1:len(text)-1], `\/`, `/`)
	}
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, fmt.Errorf("coverage: %w", err)
	}
	return &Coverage{pattern: re}, nil
}

// Write looks at more of the log. It never fails.
func (c *Coverage) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			c.keep(rest)
			break
		}
		if len(c.line) == 0 {
			c.look(rest[:min(end, maxCoverageLine)])
		} else {
			c.keep(rest[:end])
			c.look(c.line)
			c.line = c.line[:0]
		}
		rest = rest[end+1:]
	}
	return len(p), nil
}

func (c *Coverage) keep(p []byte) {
	c.line = append(c.line, p[:min(len(p), maxCoverageLine-len(c.line))]...)
}

func (c *Coverage) look(line []byte) {
	all := c.pattern.FindAllSubmatchIndex(line, -1)
	if len(all) == 0 {
		return
	}
	last := all[len(all)-1]
	begin, end := last[len(last)-2], last[len(last)-1] // the last group, or without groups the match
	if begin < 0 {
		return
	}
	v, err := strconv.ParseFloat(string(number().Find(line[begin:end])), 64)
	if err == nil {
		c.value, c.found = v, true
	}
}

// Value gives the coverage in percent, when the log has ended.
func (c *Coverage) Value() (float64, bool) {
	if len(c.line) > 0 {
		c.look(c.line)
		c.line = c.line[:0]
	}
	return c.value, c.found
}
