package redact

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// LogMask stands in a job's log where a value was; users of GitLab look for it.
const LogMask = "[MASKED]"

// Bounds of what a [Stream] looks for.
const (
	minLine    = 12       // a line of a secret of several lines is looked for by itself from this length on
	minEncoded = 6        // and so is the part of a base64 text that a secret alone determines
	maxForms   = 16 << 10 // bytes of a value that is looked for in all its forms; a longer one only literally and in base64
	pieceSize  = 1 << 10  // bytes: longer texts are looked for in pieces
	base64Line = 76       // characters of a line of the base64 program
	streamStep = 32 << 10 // bytes that are looked at in one go
)

// Stream writes what it is given to another writer without secrets: known values, also in their base64 and URL-encoded forms
// and split over any number of writes; what follows the prefix of a GitLab token; and the values of URL parameters that are
// credentials. Every byte that belongs to an occurrence of a value is hidden, also where two occurrences overlap.
//
// Its memory is bounded by the values, whatever is written, and its time by the number of bytes. It holds back what may turn
// out to be the beginning of a value, until the next bytes or Close decide.
type Stream struct {
	w      io.Writer
	values *automaton // nil: no values
	tokens *automaton
	skip   *[256]bool // bytes with which nothing begins

	value, token int32    // the states of the automata
	run          runKind  // what is being swallowed
	swallowed    int      // bytes of it so far
	buf          []byte   // bytes that are not written yet
	marks        []hidden // parts of buf that are not shown, in order
	open         hideKind // the kind of what was hidden just before buf
	out          []byte   // what is written in one go
	err          error    // of w
}

// hidden is a part of a stream's buffer. A start below 0: its mask has been written.
type hidden struct {
	start, end int
	kind       hideKind
}

// hideKind tells whether two hidden parts that touch are one.
type hideKind int8

const (
	hideNothing hideKind = iota
	hideWhole            // a value: two in a row are two
	hidePiece            // a piece of a longer value
	hideRun              // a token or a parameter
)

// runKind is what ends a text that is swallowed.
type runKind int8

const (
	runNone  runKind = iota
	runToken         // until a character that no token has
	runParam         // until the end of a URL's parameter
)

// tokenPrefixes begin GitLab's tokens; they are the ones that its runner knows.
var tokenPrefixes = []string{"glpat-", "gloas-", "gldt-", "glrt-", "glrtr-", "glcbt-", "glptt-", "glft-", "glimt-", "glagent-", "glsoat-",
	"glffct-", "_gitlab_session=", "gltok-"}

// urlParameters are those whose values are credentials, in lower case; they are the ones that GitLab's runner knows.
var urlParameters = []string{"private_token", "authenticity_token", "rss_token", "x-amz-signature", "x-amz-credential", "x-amz-security-token"}

// tokenAutomaton finds prefixes of tokens and names of parameters.
var tokenAutomaton = sync.OnceValue(func() *automaton {
	var a automaton
	for _, p := range tokenPrefixes {
		a.add([]byte(p), int8(runToken))
	}
	for _, p := range urlParameters {
		a.add([]byte("?"+p+"="), int8(runParam))
		a.add([]byte("&"+p+"="), int8(runParam))
	}
	a.fold()
	a.link()
	return &a
})

// NewStream makes a stream to w that hides these values. Values shorter than four bytes are not looked for. Of a value of
// several lines each longer line is looked for by itself too.
func NewStream(w io.Writer, values ...string) *Stream {
	s := &Stream{w: w, tokens: tokenAutomaton(), skip: new([256]bool)}
	var a automaton
	for _, p := range patterns(values) {
		a.add(p.text, int8(p.kind))
	}
	if len(a.nodes) > 0 {
		a.link()
		s.values = &a
	}
	for b := range s.skip {
		s.skip[b] = s.tokens.root[b] == 0 && (s.values == nil || s.values.root[b] == 0)
	}
	return s
}

// Fresh makes a stream to w that hides the same values and knows nothing of what this one was given.
func (s *Stream) Fresh(w io.Writer) *Stream {
	return &Stream{w: w, tokens: s.tokens, values: s.values, skip: s.skip}
}

// Text gives a text as the stream would write it.
func (s *Stream) Text(text string) string {
	var b strings.Builder
	fresh := s.Fresh(&b)
	_, _ = io.WriteString(fresh, text) // a Builder takes everything
	_ = fresh.Close()
	return b.String()
}

// Write takes the next bytes. Its error is the first one of the writer below, after which everything is dropped.
func (s *Stream) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && s.err == nil {
		step := p[:min(len(p), streamStep)]
		p = p[len(step):]
		from := len(s.buf)
		s.buf = append(s.buf, step...)
		s.scan(from)
		s.flush(len(s.buf) - s.held())
	}
	return n, s.err
}

// Close writes what was held back. It does not close the writer below. The stream may be used again.
func (s *Stream) Close() error {
	s.flush(len(s.buf))
	s.value, s.token, s.run, s.swallowed, s.open = 0, 0, runNone, 0, hideNothing
	return s.err
}

// maxBack bounds [Stream.Back]: what is swallowed may never end.
const maxBack = 4 << 10

// Back is how many of the last bytes a stream has to be given again that knows nothing of this one, to hide what this one would: a value
// or a token may have begun in them. Of a token of several KiB it gives up.
func (s *Stream) Back() int {
	back := max(len(s.buf), int(s.tokens.depth(s.token)))
	if s.run != runNone {
		back = max(back, s.swallowed)
	}
	if back > maxBack {
		return len(s.buf)
	}
	return back
}

// held is the number of the last bytes that may be the beginning of a value.
func (s *Stream) held() int {
	if s.values == nil {
		return 0
	}
	return int(s.values.depth(s.value))
}

// scan looks at buf from an offset on and marks what is hidden.
func (s *Stream) scan(i int) {
	buf := s.buf
	for ; i < len(buf); i++ {
		if s.value == 0 && s.token == 0 && s.run == runNone {
			for i < len(buf) && s.skip[buf[i]] {
				i++
			}
			if i == len(buf) {
				return
			}
		}
		b := buf[i]
		if s.run != runNone {
			if s.run.ends(b) {
				s.run = runNone
			} else {
				s.hide(i, i+1, hideRun)
				s.swallowed++
			}
		}
		if s.run == runNone {
			s.token = s.tokens.step(s.token, lower(b))
			if node := s.token; node != 0 && s.tokens.nodes[node].match > 0 {
				s.run, s.token, s.swallowed = runKind(s.tokens.nodes[node].kind), 0, int(s.tokens.nodes[node].match)
			}
		}
		if s.values == nil {
			continue
		}
		s.value = s.values.step(s.value, b)
		if node := &s.values.nodes[s.value]; node.match > 0 {
			s.hide(i+1-int(node.match), i+1, hideKind(node.kind))
		}
	}
}

// hide marks a part of buf. No part that is marked ends later. Parts that overlap become one; pieces and runs also do where they
// touch. Whether they do may not depend on what has been written already: a mark is written only once no later one can begin
// where it begins, or before.
func (s *Stream) hide(start, end int, kind hideKind) {
	first := start
	for len(s.marks) > 0 {
		last := s.marks[len(s.marks)-1]
		if last.end <= start {
			break
		}
		if start = min(start, last.start); last.end == end {
			kind = max(kind, last.kind)
		}
		s.marks = s.marks[:len(s.marks)-1]
	}
	if start == first && kind != hideWhole {
		if n := len(s.marks); n > 0 && s.marks[n-1].end == start && s.marks[n-1].kind == kind {
			start = s.marks[n-1].start
			s.marks = s.marks[:n-1]
		} else if start == 0 && s.open == kind {
			start = -1
		}
	}
	s.marks = append(s.marks, hidden{start, end, kind})
}

// flush writes the bytes before an offset, and the masks of what begins there.
func (s *Stream) flush(upto int) {
	s.out = s.out[:0]
	done, marked := 0, 0
	for _, m := range s.marks {
		if m.start >= upto {
			break
		}
		if m.start >= 0 {
			s.out = append(append(s.out, s.buf[done:m.start]...), LogMask...)
		}
		done, s.open = m.end, m.kind
		marked++
	}
	rest := s.buf[done:max(done, upto)]
	if done = max(done, upto); len(rest) > 0 {
		s.open = hideNothing
	}
	if len(s.out) > 0 {
		s.out = append(s.out, rest...)
		rest = s.out
	}
	if len(rest) > 0 && s.err == nil {
		_, s.err = s.w.Write(rest)
	}
	s.buf = s.buf[:copy(s.buf, s.buf[done:])]
	s.marks = s.marks[:copy(s.marks, s.marks[marked:])]
	for i := range s.marks {
		s.marks[i].start -= done
		s.marks[i].end -= done
	}
}

func lower(b byte) byte {
	if b >= 'A' && b <= 'Z' {
		return b - 'A' + 'a'
	}
	return b
}

// ends tells whether a byte does not belong to the token or parameter any more.
func (r runKind) ends(b byte) bool {
	if r == runParam {
		return b <= ' ' || b == 0x7f || strings.IndexByte(`?&"'<>`, b) >= 0
	}
	inside := b >= '0' && b <= '9' || b >= 'A' && b <= 'Z' || b >= 'a' && b <= 'z' || strings.IndexByte("-._=", b) >= 0
	return !inside
}

// pattern is a text that a stream looks for.
type pattern struct {
	text []byte
	kind hideKind
}

// patterns are the texts in which values show.
func patterns(values []string) []pattern {
	var ps []pattern
	add := func(text string, size int) {
		if len(text) <= size {
			ps = append(ps, pattern{[]byte(text), hideWhole})
			return
		}
		for len(text) > 0 {
			n := min(size, len(text))
			if len(text)-n < minEncoded { // a small rest belongs to the last piece
				n = len(text)
			}
			ps = append(ps, pattern{[]byte(text[:n]), hidePiece})
			text = text[n:]
		}
	}
	for _, v := range values {
		for _, text := range lines(v) {
			if len(text) < minSecret {
				continue
			}
			add(text, pieceSize)
			for _, form := range encoded(text) {
				add(form, base64Line)
			}
			if len(text) <= maxForms {
				for _, form := range escaped(text) {
					add(form, pieceSize)
				}
			}
		}
	}
	slices.SortFunc(ps, func(a, b pattern) int { return cmp.Or(bytes.Compare(a.text, b.text), cmp.Compare(a.kind, b.kind)) })
	return slices.CompactFunc(ps, func(a, b pattern) bool { return bytes.Equal(a.text, b.text) })
}

// lines are a value and, if it has several lines, its longer ones: a log may indent them or end them otherwise. The lines
// around a PEM block tell nothing.
func lines(v string) []string {
	texts := []string{v}
	if trimmed := strings.TrimRight(v, "\r\n"); trimmed != v {
		texts = append(texts, trimmed)
	}
	if !strings.ContainsAny(v, "\r\n") {
		return texts
	}
	for _, line := range strings.FieldsFunc(v, func(r rune) bool { return r == '\n' || r == '\r' }) {
		if line = strings.TrimSpace(line); len(line) >= minLine && !strings.HasPrefix(line, "-----") {
			texts = append(texts, line)
		}
	}
	return texts
}

// encoded are the base64 forms of a text in all three alignments: what it alone determines where other bytes stand around it,
// and the same up to an end with and without padding.
func encoded(text string) []string {
	var forms []string
	for shift := range 3 {
		padded := append(make([]byte, shift), text...)
		from, to := (8*shift+5)/6, 8*len(padded)/6
		for _, e := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
			whole := e.EncodeToString(padded)
			if to-from >= minEncoded {
				forms = append(forms, whole[from:to], whole[from:], strings.TrimRight(whole[from:], "="))
			}
		}
		if len(text) > maxForms {
			break
		}
	}
	return forms
}

// escaped are the forms of a text in URLs and in JSON.
func escaped(text string) []string {
	forms := []string{url.QueryEscape(text), url.PathEscape(text), url.UserPassword("", text).String()[1:]}
	for _, keep := range kept {
		forms = append(forms, percent(text, keep))
	}
	for _, f := range slices.Clone(forms) {
		forms = append(forms, lowerHex(f))
	}
	var b bytes.Buffer
	for _, html := range []bool{true, false} {
		b.Reset()
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(html)
		if e.Encode(text) == nil {
			quoted := strings.TrimSuffix(b.String(), "\n")
			forms = append(forms, quoted[1:len(quoted)-1])
		}
	}
	return slices.DeleteFunc(forms, func(f string) bool { return f == text })
}

// kept are the characters besides letters and digits that programs do not escape: those that RFC 3986 has unreserved, Python's
// quote, and JavaScript's encodeURIComponent and encodeURI.
var kept = []string{"-._~", "-._~/", "-._~!*'()", "-._~!*'();/?:@&=+$,#"}

// percent escapes every byte that is no letter, no digit, and not to be kept.
func percent(s, keep string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || strings.IndexByte(keep, c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
	}
	return b.String()
}

// lowerHex writes the escapes of a URL's text with small letters.
func lowerHex(s string) string {
	b := []byte(s)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:i+3], bytes.ToLower(b[i+1:i+3]))
			i += 2
		}
	}
	return string(b)
}
