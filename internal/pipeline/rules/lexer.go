package rules

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"
)

// maxTokens is GitLab's bound for an expression: it stops when it has read that many, so that there may be one less.
const maxTokens = 100

// SyntaxError says why a text is no expression.
type SyntaxError struct {
	Column  int    // in the text, in characters from 1
	Message string // "unknown lexeme"
	Hint    string // what to write instead; may be empty
}

func (e *SyntaxError) Error() string {
	s := fmt.Sprintf("invalid expression syntax: %s at column %d", e.Message, e.Column)
	if e.Hint != "" {
		s += ": " + e.Hint
	}
	return s
}

type kind int

const (
	tokenValue kind = iota
	tokenUnary
	tokenBinary
	tokenOpen
	tokenClose
)

// token is a lexeme where it stands. Value is set for values.
type token struct {
	kind  kind
	text  string
	at    int // offset in bytes
	value node
}

// precedence is Ruby's: the lower it is the tighter an operator binds.
func (t token) precedence() int {
	switch t.text {
	case "!":
		return 1
	case "==", "!=", "=~", "!~":
		return 10
	case "&&":
		return 11
	case "||":
		return 12
	case ")":
		return 900
	default: // "(": only its own parenthesis takes it away
		return 901
	}
}

// lexemes are what values look like, in the order in which they are tried; operators follow them. Go's leftmost-first matching
// ends a pattern where Ruby's backtracking ends it.
type lexemes struct {
	input, variable, text, pattern, boolean *regexp.Regexp
	ruby                                    *regexp.Regexp // a pattern's parts; as in Ruby one of several lines is enough
}

var lexeme = sync.OnceValue(func() *lexemes {
	return &lexemes{
		input:    regexp.MustCompile(`^\$\[\[\s*inputs\.([0-9A-Za-z_-]+)\s*\]\]`),
		variable: regexp.MustCompile(`^\$([0-9A-Za-z_]+)`),
		text:     regexp.MustCompile(`^(?:"(.*?)"|'(.*?)')`),
		pattern:  regexp.MustCompile(`^/(?:[^/]|\\/)+[^\\]/[ismU]*`),
		boolean:  regexp.MustCompile(`^(?:true|false)\b`),
		ruby:     regexp.MustCompile(`(?m)^/(.*)/([ismU]*)$`),
	}
})

// tokens cuts a text into lexemes.
func tokens(text string) ([]token, error) {
	var out []token
	for at := 0; ; {
		at += len(text[at:]) - len(strings.TrimLeft(text[at:], " \t\r\n\f\v"))
		if len(out) == maxTokens {
			return nil, syntaxError(text, out[maxTokens-1].at, "Too many tokens!", fmt.Sprintf("an expression has less than %d", maxTokens))
		}
		if at == len(text) {
			return out, nil
		}
		t, err := scan(text, at)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
		at += len(t.text)
	}
}

// scan reads the lexeme at an offset.
func scan(text string, at int) (token, error) {
	rest, l := text[at:], lexeme()
	value := func(length int, n node) (token, error) {
		return token{kind: tokenValue, text: rest[:length], at: at, value: n}, nil
	}
	switch rest[0] {
	case '(':
		return token{kind: tokenOpen, text: "(", at: at}, nil
	case ')':
		return token{kind: tokenClose, text: ")", at: at}, nil
	}
	if m := l.input.FindStringSubmatch(rest); m != nil {
		return value(len(m[0]), input(m[1]))
	}
	if m := l.variable.FindStringSubmatch(rest); m != nil {
		return value(len(m[0]), variable(m[1]))
	}
	if m := l.text.FindString(rest); m != "" {
		return value(len(m), literal{m[1 : len(m)-1]})
	}
	if m := l.pattern.FindString(rest); m != "" {
		p, err := compilePattern(m)
		if err != nil {
			return token{}, syntaxError(text, at, "Invalid regular expression!", reason(err))
		}
		return value(len(m), literal{p})
	}
	if strings.HasPrefix(rest, "null") {
		return value(len("null"), literal{nil})
	}
	if m := l.boolean.FindString(rest); m != "" {
		return value(len(m), literal{m == "true"})
	}
	for _, op := range []string{"==", "=~", "!=", "!~", "&&", "||"} {
		if strings.HasPrefix(rest, op) {
			return token{kind: tokenBinary, text: op, at: at}, nil
		}
	}
	if rest[0] == '!' {
		return token{kind: tokenUnary, text: "!", at: at}, nil
	}
	return token{}, syntaxError(text, at, "Unknown lexeme found!", hint(rest))
}

// hint guesses what was meant where no lexeme is.
func hint(rest string) string {
	word := rest[:len(rest)-len(strings.TrimLeft(rest, "-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"))]
	switch {
	case strings.HasPrefix(rest, "${"):
		name, _, _ := strings.Cut(rest[2:], "}")
		return fmt.Sprintf("braces are not known here, write $%s", name)
	case strings.HasPrefix(rest, "$[["):
		return "only $[[ inputs.NAME ]] is known here"
	case rest[0] == '$':
		return "the name of a variable is missing"
	case rest[0] == '"' || rest[0] == '\'':
		return fmt.Sprintf("the text has no closing %c on its line", rest[0])
	case strings.HasPrefix(rest, "//"):
		return "a pattern cannot be empty"
	case len(rest) >= 3 && rest[0] == '/' && rest[2] == '/':
		return fmt.Sprintf("a pattern needs two characters at least, write /(?:%c)/", rest[1])
	case rest[0] == '/':
		return "the pattern has no closing /"
	case rest[0] == '=':
		return "to compare write =="
	case rest[0] == '&':
		return "write &&"
	case rest[0] == '|':
		return "write ||"
	case rest[0] == '~':
		return "write =~ or !~"
	case word == "and" || word == "AND":
		return "write &&"
	case word == "or" || word == "OR":
		return "write ||"
	case word == "not" || word == "NOT":
		return "write !"
	case word != "":
		return fmt.Sprintf(`write a text in quotes: "%s"`, word)
	default:
		return ""
	}
}

// syntaxError is one at an offset of a text.
func syntaxError(text string, at int, message, hint string) *SyntaxError {
	return &SyntaxError{Column: utf8.RuneCountInString(text[:at]) + 1, Message: strings.TrimSuffix(message, "!"), Hint: hint}
}
