package rules

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// The bounds of a pattern of paths. GitLab has none: there, {a,b} twenty times over is a million patterns.
const (
	maxGlob         = 16 << 10 // bytes
	maxAlternatives = 4096
	maxExpansion    = 4 << 20 // bytes that are made on the way to the alternatives
)

// Glob tells whether a pattern of changes and exists matches a path. It is Ruby's File.fnmatch with FNM_PATHNAME, FNM_DOTMATCH and
// FNM_EXTGLOB, and so not what a shell or doublestar makes of a pattern:
//
//	**/      any number of directories, none too, at the start of a part of the path; hidden ones too
//	*        anything but a slash, also ** that no slash follows: a/** is only what lies directly in a
//	?        one character but a slash
//	[a-c]    one of these characters, [^a-c] and [!a-c] none of them; never a slash
//	{a,b*}   either of these patterns, which may hold slashes and braces; one that is not closed matches nothing
//	\x       the character itself
//
// The whole path must match. A pattern that [ParseGlob] refuses matches nothing.
func Glob(pattern, path string) bool {
	g, err := ParseGlob(pattern)
	return err == nil && g.Match(path)
}

// PathGlob is a pattern of paths that is ready to be matched.
type PathGlob struct {
	alternatives []string // without braces
}

// ParseGlob reads a pattern as [Glob] does. An error says which bound it breaks.
func ParseGlob(pattern string) (*PathGlob, error) {
	switch {
	case len(pattern) > maxGlob:
		return nil, fmt.Errorf("a pattern of paths has at most %d bytes, this one has %d", maxGlob, len(pattern))
	case strings.Contains(pattern, "\x00"):
		return nil, errors.New("a pattern of paths has no zero bytes")
	}
	g := &PathGlob{}
	if left := maxExpansion; !g.expand(pattern, &left) {
		return nil, fmt.Errorf("the braces of a pattern of paths stand for at most %d alternatives (%d bytes while they are expanded)", maxAlternatives, maxExpansion)
	}
	return g, nil
}

// Match tells whether one of the alternatives matches.
func (g *PathGlob) Match(path string) bool {
	for _, pattern := range g.alternatives {
		if matchPath(pattern, path) {
			return true
		}
	}
	return false
}

// expand adds the patterns that the outermost braces stand for, from the left. A pattern whose braces are not closed stands for
// none. It is false where a bound is broken; left is how many bytes may still be made.
func (g *PathGlob) expand(pattern string, left *int) bool {
	open, end := outermost(pattern)
	switch {
	case open < 0:
		g.alternatives = append(g.alternatives, pattern)
		return len(g.alternatives) <= maxAlternatives
	case end < 0:
		return true
	}
	for at := open; at < end; {
		from := at + 1
		at = alternative(pattern, from, end)
		if *left -= len(pattern) - (end - open + 1) + at - from; *left < 0 {
			return false
		}
		if !g.expand(pattern[:open]+pattern[from:at]+pattern[end+1:], left) {
			return false
		}
	}
	return true
}

// outermost finds the first brace that opens and the one that closes it; -1: there is none.
func outermost(pattern string) (open, end int) {
	open, end = -1, -1
	depth := 0
	for i := 0; i < len(pattern); i++ {
		switch pattern[i] {
		case '\\':
			i++
		case '{':
			if depth == 0 {
				open = i
			}
			depth++
		case '}':
			if open < 0 {
				continue
			}
			if depth--; depth == 0 {
				return open, i
			}
		}
	}
	return open, end
}

// alternative finds where the alternative ends that starts at an offset: a comma or the closing brace.
func alternative(pattern string, from, end int) int {
	depth := 0
	for i := from; i < end; i++ {
		switch pattern[i] {
		case '\\':
			i++
		case '{':
			depth++
		case '}':
			depth--
		case ',':
			if depth == 0 {
				return i
			}
		}
	}
	return end
}

// matchPath matches a pattern without braces, part by part. Of several **/ only the last one is tried again: where an earlier one
// has found its parts, they are as good as any later ones. So it takes the square of the lengths at most.
func matchPath(pattern, path string) bool {
	p, s := 0, 0
	again, from := -1, 0 // the pattern behind the last **/, and where it was tried
	for {
		if strings.HasPrefix(pattern[p:], "**/") {
			for strings.HasPrefix(pattern[p:], "**/") {
				p += 3
			}
			again, from = p, s
		}
		if rest, ok := matchPart(pattern[p:], part(path[s:])); ok {
			p = len(pattern) - len(rest)
			s += len(part(path[s:]))
			if p == len(pattern) && s == len(path) {
				return true
			}
			if p < len(pattern) && s < len(path) { // both at a slash
				p, s = p+1, s+1
				continue
			}
		}
		if again < 0 {
			return false
		}
		from += len(part(path[from:]))
		if from == len(path) {
			return false
		}
		from++
		p, s = again, from
	}
}

// part is a path up to its first slash.
func part(path string) string {
	if at := strings.IndexByte(path, '/'); at >= 0 {
		return path[:at]
	}
	return path
}

// matchPart matches one part of a path and gives the pattern from the slash on that ends it, or nothing at its end. Of several *
// only the last one is tried again.
func matchPart(p, s string) (rest string, ok bool) {
	again, from := "", "" // the pattern behind the last *, and the text that was left when it was tried
	for starred := false; ; {
		if strings.HasPrefix(p, "*") {
			p = strings.TrimLeft(p, "*")
			if end := unescape(p); ends(end) {
				return end, true
			}
			again, from, starred = p, s, true
		}
		if s == "" {
			p = unescape(p)
			return p, ends(p)
		}
		if behind, ok := matchOne(p, s); ok {
			p, s = behind, next(s)
			continue
		}
		if !starred {
			return "", false
		}
		from = next(from) // the last * takes one more
		p, s = again, from
	}
}

// matchOne matches the first character of a text and gives the pattern behind it. A pattern that is at its end matches none.
func matchOne(p, s string) (rest string, ok bool) {
	switch {
	case strings.HasPrefix(p, "?"):
		return p[1:], true
	case strings.HasPrefix(p, "["):
		return bracket(p[1:], s)
	}
	p = unescape(p)
	if ends(p) {
		return "", false
	}
	_, width := utf8.DecodeRuneInString(p)
	return p[width:], p[:width] == s[:len(s)-len(next(s))]
}

// unescape leaves out a backslash at the start, which takes the meaning of what follows; a slash keeps its own.
func unescape(p string) string { return strings.TrimPrefix(p, `\`) }

// ends tells whether the pattern of a part ends here.
func ends(p string) bool { return p == "" || p[0] == '/' }

// next is a text without its first character.
func next(s string) string {
	_, width := utf8.DecodeRuneInString(s)
	return s[width:]
}

// bracket matches the first character of a text against a set, whose opening bracket is left out, and gives the pattern behind it.
// A set that is not closed matches nothing, [] matches nothing, and [^] anything.
func bracket(p, s string) (rest string, ok bool) {
	want, _ := utf8.DecodeRuneInString(s)
	not := strings.HasPrefix(p, "!") || strings.HasPrefix(p, "^")
	if not {
		p = p[1:]
	}
	in := false
	for !strings.HasPrefix(p, "]") {
		low, rest, ok := member(p)
		if !ok || rest == "" {
			return "", false
		}
		high := low
		if rest[0] == '-' && !strings.HasPrefix(rest[1:], "]") {
			if high, rest, ok = member(rest[1:]); !ok {
				return "", false
			}
		}
		// A range is either of its ends even where they are the wrong way round.
		in = in || want == low || want == high || low <= want && want <= high
		p = rest
	}
	return p[1:], in != not
}

// member is a character of a set.
func member(p string) (r rune, rest string, ok bool) {
	p = unescape(p)
	if p == "" {
		return 0, "", false
	}
	r, width := utf8.DecodeRuneInString(p)
	return r, p[width:], true
}
