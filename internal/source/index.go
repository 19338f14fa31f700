package source

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// A repository's index can have tens of megabytes, of which an app needs a few lines. Parsed as a whole it would take
// gigabytes; so while it arrives it is only looked where the entry of each chart begins (it is written by programs, one key a
// line), and only the lines of a chart that somebody wants are parsed.
const (
	maxIndex = 50 << 20 // bytes
	// maxWholeIndex bounds an index that is parsed as a whole, for it is written in an unusual way.
	maxWholeIndex = 4 << 20
	// maxEntry bounds what is parsed of one chart: versions, addresses, digests.
	maxEntry = 8 << 20
	// maxFlow bounds one version of a chart that is written in braces, and so parsed whole.
	maxFlow = 1 << 20
	// maxIndexCharts bounds the number of charts.
	maxIndexCharts = 100_000
	// maxIndexLine is how much of a line is looked at.
	maxIndexLine = 64 << 10
)

// errIndex: an index cannot be used.
var errIndex = errors.New("the repository's index cannot be used")

// chartVersion is one version of a chart in an index.
type chartVersion struct {
	Version string   `json:"version" yaml:"version"`
	URLs    []string `json:"urls" yaml:"urls"`
	Digest  string   `json:"digest" yaml:"digest"`
	Removed bool     `json:"removed" yaml:"removed"`
}

// span is a part of a file, in bytes.
type span struct{ from, to int64 }

// sections are the places of the charts in an index.
type sections struct {
	charts map[string]span
	whole  bool // it has to be parsed as a whole
	size   int64
}

// findSections reads an index to its end, copies it, and finds where the charts are.
func findSections(in io.Reader, copied io.Writer) (sections, error) {
	w := sectionWalk{sections: sections{charts: map[string]span{}}}
	out := bufio.NewWriterSize(copied, maxIndexLine)
	r := bufio.NewReaderSize(io.TeeReader(io.LimitReader(in, maxIndex+1), out), maxIndexLine)
	for start := true; ; {
		line, err := r.ReadSlice('\n')
		if start && len(line) > 0 {
			w.line(line)
		}
		if w.size += int64(len(line)); w.size > maxIndex {
			return w.sections, fmt.Errorf("%w: it is larger than %d MiB", errIndex, maxIndex>>20)
		}
		if len(w.charts) > maxIndexCharts {
			return w.sections, fmt.Errorf("%w: it has more than %d charts", errIndex, maxIndexCharts)
		}
		start = err == nil
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return w.sections, err
		}
	}
	w.close()
	if err := out.Flush(); err != nil {
		return w.sections, fmt.Errorf("store index: %w", err)
	}
	if !w.entries && !w.whole {
		return w.sections, fmt.Errorf("%w: it has no entries; is it a Helm repository?", errIndex)
	}
	return w.sections, nil
}

// sectionWalk goes through an index line by line.
type sectionWalk struct {
	sections
	begun   bool   // something was read
	entries bool   // the key "entries" was read
	inside  bool   // … and its mapping has not ended
	indent  int    // of the keys in it; 0: not known yet
	chart   string // the one that is being read
	from    int64
}

func (w *sectionWalk) close() {
	if w.chart != "" {
		w.charts[w.chart] = span{w.from, w.size}
		w.chart = ""
	}
}

// line takes in the beginning of a line; size is where it begins.
func (w *sectionWalk) line(line []byte) {
	text := strings.TrimRight(string(line), "\r\n")
	body := strings.TrimLeft(text, " ")
	switch {
	case w.whole || body == "" || body[0] == '#':
		return
	case body[0] == '\t' || !w.begun && body[0] == '{':
		w.whole = true
		return
	}
	w.begun = true
	indent := len(text) - len(body)
	switch {
	case indent == 0 && w.inside && (body == "-" || strings.HasPrefix(body, "- ")):
		w.whole = true
	case indent == 0:
		w.close()
		w.inside = false
		if key, rest, ok := cutKey(body); ok && key == "entries" {
			w.entries, w.inside = true, rest == ""
			w.whole = rest != "" && rest != "{}"
		}
	case !w.inside:
	case w.indent == 0 || indent == w.indent && body != "-" && !strings.HasPrefix(body, "- "):
		w.close()
		w.indent = indent
		key, rest, ok := cutKey(body)
		if !ok || w.charts[key] != (span{}) || rest != "" && rest != "[]" {
			w.whole = true
			return
		}
		w.chart, w.from = key, w.size
	case indent < w.indent:
		w.whole = true
	}
}

// cutKey takes a line "key: rest" apart; the key may be quoted, and a comment is no rest.
func cutKey(line string) (key, rest string, ok bool) {
	if line[0] == '"' || line[0] == '\'' {
		end := strings.IndexByte(line[1:], line[0])
		if end < 0 || strings.Contains(line[:end+1], `\`) {
			return "", "", false
		}
		key, rest = line[1:end+1], line[end+2:]
		rest, ok = strings.CutPrefix(strings.TrimLeft(rest, " "), ":")
	} else if key, rest, ok = strings.Cut(line, ": "); !ok {
		key, ok = strings.CutSuffix(strings.TrimRight(line, " "), ":")
	}
	rest = strings.TrimSpace(rest)
	if strings.HasPrefix(rest, "#") {
		rest = ""
	}
	return strings.TrimSpace(key), rest, ok && key != ""
}

// wantedKeys are those that are parsed of a version.
var wantedKeys = map[string]bool{"version": true, "urls": true, "digest": true, "removed": true}

// parseSection gives the versions that the section of a chart holds, in its order.
func parseSection(section io.Reader) ([]chartVersion, error) {
	text, err := condense(section)
	if err != nil {
		return nil, err
	}
	var chart map[string][]*chartVersion
	if err := yaml.Unmarshal(text, &chart); err != nil {
		return nil, fmt.Errorf("%w: %w", errIndex, err)
	}
	var all []chartVersion
	for _, versions := range chart {
		all = append(all, usable(versions)...)
	}
	return all, nil
}

func usable(versions []*chartVersion) (all []chartVersion) {
	for _, v := range versions {
		if v != nil && v.Version != "" && len(v.URLs) > 0 && !v.Removed {
			all = append(all, *v)
		}
	}
	return all
}

// condense leaves out of a chart's section what nobody needs: its descriptions, maintainers, dependencies …
func condense(section io.Reader) ([]byte, error) {
	c := condenser{item: -1, keys: -1, take: true}
	r := bufio.NewReaderSize(section, maxIndexLine)
	for start := true; ; {
		line, err := r.ReadSlice('\n')
		end := errors.Is(err, io.EOF)
		if err != nil && !end && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
		if start && len(line) > 0 {
			var failed error
			if line, failed = c.begin(line); failed != nil {
				return nil, failed
			}
		}
		if failed := c.add(line); failed != nil {
			return nil, failed
		}
		if start = err == nil; end {
			failed := c.close()
			return c.out.Bytes(), failed
		}
	}
}

// condenser goes through the section of a chart line by line.
type condenser struct {
	out  bytes.Buffer
	item int  // the indentation of the dashes that versions begin with; below 0: none was read
	keys int  // that of a version's keys; below 0: not known yet
	take bool // what is being read is wanted
	// An item that is not written one key a line, as "- {version: 1.0.0, urls: [x]}", is parsed by itself.
	flow   bytes.Buffer
	inFlow bool
}

// begin takes in the beginning of a line and gives what is left of it to add.
func (c *condenser) begin(line []byte) ([]byte, error) {
	body := bytes.TrimLeft(line, " ")
	indent := len(line) - len(body)
	bare := bytes.TrimRight(body, "\r\n")
	alone := string(bare) == "-"
	dash := alone || bytes.HasPrefix(body, []byte("- "))
	switch {
	case dash && (c.item < 0 || indent == c.item): // a version
		if err := c.close(); err != nil {
			return nil, err
		}
		c.item, c.keys, c.take = indent, -1, true
		if alone {
			return line, nil // its first key is in the next line
		}
		c.out.WriteString(strings.Repeat(" ", indent) + "-\n")
		rest := bytes.TrimLeft(body[1:], " ")
		return c.first(rest, indent+len(body)-len(rest)), nil
	case c.inFlow:
		return line, nil
	case len(bare) == 0 || bare[0] == '#':
		return nil, nil
	case c.item < 0: // the chart's name
	case c.keys < 0:
		return c.first(body, indent), nil
	case indent == c.keys && !dash:
		c.take = isWanted(body)
	}
	return line, nil
}

// first takes in the line that a version begins with, without its indentation.
func (c *condenser) first(body []byte, indent int) []byte {
	c.keys, c.take = indent, isWanted(body)
	c.inFlow = len(body) > 0 && strings.IndexByte("{[&*!", body[0]) >= 0
	return append(bytes.Repeat([]byte{' '}, indent), body...)
}

// add takes in a line, or a part of a long one.
func (c *condenser) add(line []byte) error {
	switch {
	case c.inFlow:
		if c.flow.Write(line); c.flow.Len() > maxFlow {
			return fmt.Errorf("%w: one version of a chart takes more than %d MiB", errIndex, maxFlow>>20)
		}
	case c.take:
		if c.out.Write(line); c.out.Len() > maxEntry {
			return fmt.Errorf("%w: one of its charts takes more than %d MiB", errIndex, maxEntry>>20)
		}
	}
	return nil
}

// close ends a version.
func (c *condenser) close() error {
	if !c.inFlow {
		return nil
	}
	var v chartVersion
	if err := yaml.Unmarshal(c.flow.Bytes(), &v); err != nil {
		return fmt.Errorf("%w: %w", errIndex, err)
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%w: %w", errIndex, err)
	}
	c.inFlow, c.take = false, true
	c.flow.Reset()
	return c.add(slices.Concat(bytes.Repeat([]byte{' '}, c.keys), text, []byte("\n")))
}

func isWanted(body []byte) bool {
	body = bytes.TrimRight(body, "\r\n")
	if len(body) == 0 {
		return false
	}
	key, _, ok := cutKey(string(body[:min(len(body), 64)]))
	return ok && wantedKeys[key]
}

// parseWhole finds a chart in an index that is not written one key a line.
func parseWhole(in io.ReadSeeker, size int64, chart string) ([]chartVersion, error) {
	versions, err := parseJSON(in, chart)
	if err == nil {
		return versions, nil
	}
	if size > maxWholeIndex {
		return nil, fmt.Errorf("%w: it is written in an unusual way, and larger than the %d MiB up to which that is read", errIndex, maxWholeIndex>>20)
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(in, maxWholeIndex))
	if err != nil {
		return nil, err
	}
	var index struct {
		Entries map[string][]*chartVersion `yaml:"entries"`
	}
	if err := yaml.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("%w: %w", errIndex, err)
	}
	return usable(index.Entries[chart]), nil
}

// parseJSON finds a chart in an index in JSON, chart by chart.
func parseJSON(in io.Reader, chart string) (found []chartVersion, err error) {
	d := json.NewDecoder(in)
	if err := open(d); err != nil {
		return nil, err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		if key != "entries" {
			if err := d.Decode(&struct{}{}); err != nil && !errors.As(err, new(*json.UnmarshalTypeError)) {
				return nil, err
			}
			continue
		}
		if err := open(d); err != nil {
			return nil, err
		}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, err
			}
			if name != chart {
				if err := d.Decode(&[]struct{}{}); err != nil && !errors.As(err, new(*json.UnmarshalTypeError)) {
					return nil, err
				}
				continue
			}
			var versions []*chartVersion
			if err := d.Decode(&versions); err != nil {
				return nil, err
			}
			found = usable(versions)
		}
		if _, err := d.Token(); err != nil {
			return nil, err
		}
	}
	_, err = d.Token()
	return found, err
}

// open reads the beginning of an object.
func open(d *json.Decoder) error {
	if t, err := d.Token(); err != nil {
		return err
	} else if t != json.Delim('{') {
		return fmt.Errorf("%w: it is no object", errIndex)
	}
	return nil
}
