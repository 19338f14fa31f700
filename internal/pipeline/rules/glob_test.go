package rules

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// What matches and what does not was asked of Ruby 3.1 itself.
func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no string // paths, separated by spaces
	}{
		{"main.go", "main.go", "main.go.bak xmain.go cmd/main.go"},
		{"", "empty", "a /"},
		// one part of a path
		{"*", "a .gitlab-ci.yml empty", "a/b /"},
		{"*.go", "a.go .go", "a/b.go a.gox"},
		{"a*c*e", "ace abcde accee", "acex ae"},
		{"*?", "a ab", "empty a/"},
		{"a?c", "abc aéc a.c", "ac abbc a/c"},
		{"**.go", "a.go .b.go", "a/b.go"},
		{"a/**", "a/b a/.b a/", "a a/b/c"},
		{"a/*", "a/b a/.b a/", "a a/b/c"},
		{"*/", "a/ /", "a a/b"},
		// any number of directories
		{"**/*", "a a/b .a/.b/.c", ""},
		{"**/*.go", "a.go a/b.go .a/b/.go", "a.gox"},
		{"src/**/*.go", "src/a.go src/b/a.go src/.b/c/a.go", "a.go xsrc/a.go src.go"},
		{"**/test/**/*.rb", "test/a.rb x/test/a.rb x/y/test/z/a.rb", "test.rb testx/a.rb"},
		{"a/**/**/b", "a/b a/x/b a/x/y/b", "a/xb ab"},
		{"a/**/b/**/c", "a/b/c a/x/b/y/c a/b/b/c/c", "a/c a/b a/c/b"},
		{"**/a/**/b/c", "a/b/c x/a/a/b/x/b/c", "a/b/x/c"},
		{"a/**/", "a/ a/b/", "a a/b"},
		{"**/", "empty a/ /", "a"},
		{"x**/a", "xyz/a x/a", "x/y/a"},
		// characters
		{"[abc].md", "a.md c.md", "d.md ab.md"},
		{"[a-c][^0-9]", "ab c.", "a1 d. a"},
		{"[!a-c]", "d .", "a /"},
		{"[c-a]", "a c", "b"},
		{"[a-]", "a -", "b"},
		{"[]a]", "", "a ] a] ]a]"},
		{"[^]", "a ]", "empty /"},
		{"[a/b]", "a b", "/"},
		{"[a", "", "a [a"},
		{"a[", "", "a a["},
		{"[é-ï]", "é ì", "e"},
		{`[\]]`, "]", `\`},
		{`[a\-c]`, "a - c", "b"},
		{"[a-c", "", "a b"},
		{"[!", "", "a !"},
		// braces
		{"{a,b}.go", "a.go b.go", "c.go a,b.go {a,b}.go"},
		{"{a,b{c,d/*}}", "a bc bd/x", "b bd"},
		{"{a,b}{c,d}", "ac ad bc bd", "ab"},
		{"{docs/**/*,*.md}", "docs/x docs/x/y a.md", "x/a.md"},
		{"{,a}b", "b ab", "a"},
		{"{a}", "a", "{a}"},
		{"{}", "empty", "{}"},
		{"{a,b", "", "a b {a,b"},
		{"a}", "a}", "a"},
		{"{a,b}}", "a} b}", "a"},
		{"}{a}", "}a", "}{a}"},
		{`\{a,b\}`, "{a,b}", "a b"},
		{`{a\,b,c}`, "a,b c", "a b"},
		{`{a\}b,c}`, "a}b c", "a"},
		{"[{a,b}]", "a b", "{ ,"},
		{"{1..3}", "1..3", "1 2"},
		// escapes
		{`\*`, "*", `a \*`},
		{`a\?`, "a?", "ab"},
		{`\[a]`, "[a]", "a"},
		{`\a`, "a", `\a`},
		{`a\`, "a", `a\`},
		{`a\/b`, "a/b", ""},
		{`*\/b`, "a/b", "ab"},
		{`\\`, `\`, `\\`},
		// characters, not bytes
		{"??", "éé", "é"},
		{"*é", "é aé", "e"},
		{"\xc3", "\xc3", "é \xc3\xa9"},
		{"\xff?", "\xff\xfe \xffa", "\xff"},
	} {
		for _, list := range []struct {
			paths string
			want  bool
		}{{c.yes, true}, {c.no, false}} {
			for _, path := range strings.Fields(list.paths) {
				if path == "empty" {
					path = ""
				}
				if got := Glob(c.pattern, path); got != list.want {
					t.Errorf("%q on %q: %v", c.pattern, path, got)
				}
			}
		}
	}
}

func TestGlobIsBounded(t *testing.T) {
	start := time.Now()
	for name, c := range map[string]struct{ pattern, path string }{
		"many stars":            {strings.Repeat("*a", 2000) + "b", strings.Repeat("a", 4000)},
		"many directories":      {strings.Repeat("**/a/", 500) + "b", strings.Repeat("a/", 2000) + "c"},
		"stars and directories": {strings.Repeat("**/*a*/", 300) + "b", strings.Repeat("aa/", 1000) + "c"},
		"many braces":           {strings.Repeat("{a,b}", 40), strings.Repeat("a", 40)},
		"deep braces":           {strings.Repeat("{", 8000) + strings.Repeat("}", 8000), "a"},
		"deep alternatives":     {strings.Repeat("{a,", 4000) + strings.Repeat("}", 4000), "b"},
		"a long pattern":        {strings.Repeat("a", 1<<20), "a"},
		"a zero byte":           {"a\x00", "a"},
	} {
		if Glob(c.pattern, c.path) {
			t.Errorf("%s: it matches", name)
		}
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it takes %v", took)
	}
	for pattern, want := range map[string]string{
		strings.Repeat("{a,b}", 13): "at most 4096 alternatives", strings.Repeat("a", maxGlob+1): "at most 16384 bytes", "a\x00": "no zero bytes",
	} {
		if _, err := ParseGlob(pattern); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := ParseGlob(strings.Repeat("{a,b}", 12)); err != nil {
		t.Errorf("4096 alternatives are too many: %v", err)
	}
}

// naive matches a pattern without braces by trying everything, and without looking at how [Glob] does it.
func naive(p, s string, start bool) bool {
	if start && strings.HasPrefix(p, "**/") {
		if naive(p[3:], s, true) {
			return true
		}
		_, behind, ok := strings.Cut(s, "/")
		return ok && naive(p, behind, true)
	}
	if p == "" {
		return s == ""
	}
	switch p[0] {
	case '*':
		return naive(p[1:], s, false) || s != "" && s[0] != '/' && naive(p, s[1:], false)
	case '?':
		_, width := utf8.DecodeRuneInString(s)
		return s != "" && s[0] != '/' && naive(p[1:], s[width:], false)
	case '/':
		return s != "" && s[0] == '/' && naive(p[1:], s[1:], true)
	default:
		return s != "" && s[0] == p[0] && naive(p[1:], s[1:], false)
	}
}

// FuzzGlob holds the matcher against the naive one for patterns of stars, question marks, slashes and letters, and checks that
// others end.
func FuzzGlob(f *testing.F) {
	for _, c := range [][2]string{{"**/*.go", "a/b.go"}, {"a/**/b", "a/x/b"}, {"*a*b", "aab"}, {"{a,b}/[^c]", "a/d"}, {"**/**/a", "b/a"}, {"a**/?", "ab/c"}, {`\*`, "*"}, {"**/a/**/b", "a/a/b/b"}} {
		f.Add(c[0], c[1])
	}
	f.Fuzz(func(t *testing.T, pattern, path string) {
		got := Glob(pattern, path)
		if len(pattern) > 12 || len(path) > 12 || strings.ContainsAny(pattern, "[]{},\\\x00") || !utf8.ValidString(pattern) || !utf8.ValidString(path) || strings.Contains(path, "\x00") {
			return
		}
		if want := naive(pattern, path, true); got != want {
			t.Errorf("%q on %q: %v, want %v", pattern, path, got, want)
		}
	})
}
