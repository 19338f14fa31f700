package delivery

import (
	"regexp"
	"strings"
)

// MatchGlob tells whether a glob matches all of a text: "*" is any text, "?" any character, "[a-z]" and "[!a-z]" sets, "{a,b}" any of
// several, and a backslash takes the meaning from what follows. Where there are separators, neither "*" nor "?" matches one of them;
// "**" matches all. These are the globs of Argo CD's projects. A glob that is malformed matches nothing.
func MatchGlob(glob, text, separators string) bool {
	if !strings.ContainsAny(glob, `*?[{\`) {
		return glob == text
	}
	if glob == "*" && separators == "" {
		return true
	}
	re, err := regexp.Compile("^(?:" + GlobExpression(glob, separators) + ")$")
	return err == nil && re.MatchString(text)
}

// GlobExpression gives the regular expression, unanchored, for what a glob matches; see [MatchGlob].
func GlobExpression(glob, separators string) string {
	one := `(?s:.)`
	if separators != "" {
		one = "[^" + regexp.QuoteMeta(separators) + "]"
	}
	var b strings.Builder
	depth := 0
	for i := 0; i < len(glob); i++ {
		switch c := glob[i]; {
		case c == '\\' && i+1 < len(glob):
			i++
			b.WriteString(regexp.QuoteMeta(glob[i : i+1]))
		case c == '*' && strings.HasPrefix(glob[i:], "**"):
			for i+1 < len(glob) && glob[i+1] == '*' {
				i++
			}
			b.WriteString(`(?s:.*)`)
		case c == '*':
			b.WriteString(one + "*")
		case c == '?':
			b.WriteString(one)
		case c == '[':
			set, rest, ok := globSet(glob[i:])
			if !ok {
				return `[^\x00-\x{10FFFF}]` // nothing
			}
			b.WriteString(set)
			i = len(glob) - len(rest) - 1
		case c == '{':
			depth++
			b.WriteString("(?:")
		case c == '}' && depth > 0:
			depth--
			b.WriteString(")")
		case c == ',' && depth > 0:
			b.WriteString("|")
		case c < 0x80:
			b.WriteString(regexp.QuoteMeta(glob[i : i+1]))
		default:
			b.WriteByte(c)
		}
	}
	if depth > 0 {
		return `[^\x00-\x{10FFFF}]`
	}
	return b.String()
}

// globSet gives the expression for the set that a glob begins with, and what comes after it.
func globSet(glob string) (set, rest string, ok bool) {
	end := strings.IndexByte(glob[1:], ']')
	if end < 1 {
		return "", "", false
	}
	inner, not := glob[1:1+end], ""
	if inner[0] == '!' || inner[0] == '^' {
		inner, not = inner[1:], "^"
	}
	if inner == "" {
		return "", "", false
	}
	escaped := strings.NewReplacer(`\`, `\\`, `[`, `\[`, `^`, `\^`, `&`, `\&`, `~`, `\~`).Replace(inner)
	return "[" + not + escaped + "]", glob[end+2:], true
}
