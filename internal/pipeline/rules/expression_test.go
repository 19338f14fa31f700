package rules

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/pipeline"
)

// vars makes variables of a list of names and values.
func vars(kv ...string) pipeline.Variables {
	var out pipeline.Variables
	for i := 0; i < len(kv); i += 2 {
		out = append(out, pipeline.Variable{Name: kv[i], Value: kv[i+1]})
	}
	return out
}

func TestEvaluate(t *testing.T) {
	given := vars(
		"NAME", "harbour light", "PATH", "docs/charts/index.md", "ABS", "/srv/docs", "EMPTY", "", "BLANK", " \n\t", "TRUE", "true", "FALSE", "false",
		"WORD", "mainsail", "PART", "sail", "PATTERN", "/^main/", "OTHER", "/^mizzen/i", "ONE", "/x/", "ALL", "//", "BROKEN", "/(/", "LINES", "x\n/^main/\ny", "_1", "one",
	)
	for _, c := range []struct {
		text string
		want any
	}{
		// values
		{`$NAME`, "harbour light"}, {`$EMPTY`, ""}, {`$NONE`, nil}, {`"a b"`, "a b"}, {`'a "b" c'`, `a "b" c`}, {`""`, ""}, {`null`, nil}, {`true`, true}, {`false`, false},
		{`$_1`, "one"}, {" \t\n$NAME\r\n", "harbour light"}, {`/ab/i`, "/ab/i"}, {`"no \n escape"`, `no \n escape`},
		// equality: null is not the empty text, and booleans are equal to their names
		{`$NAME == "harbour light"`, true}, {`"harbour light" == $NAME`, true}, {`$NAME != 'harbour light'`, false}, {`$NAME == "Harbour light"`, false},
		{`$NONE == null`, true}, {`null == $NONE`, true}, {`$EMPTY == null`, false}, {`$EMPTY != null`, true}, {`$EMPTY == ""`, true}, {`$NONE == ""`, false}, {`$NONE == $ALSO_NONE`, true},
		{`$TRUE == true`, true}, {`true == $TRUE`, true}, {`$TRUE != true`, false}, {`$FALSE == false`, true}, {`$NONE == false`, false}, {`$EMPTY == false`, false}, {`true == true`, true}, {`true == false`, false},
		{`($NAME == "x") == "false"`, true}, {`/ab/ == /ab/`, true}, {`/ab/ == /ab/i`, false}, {`/ab/ == "/ab/"`, false},
		// and, or: Ruby's truth, Ruby's values
		{`$EMPTY && "string"`, "string"}, {`"string" && $EMPTY`, ""}, {`$EMPTY && $EMPTY`, ""}, {`$NAME && $NONE`, nil}, {`$NONE && $NAME`, nil}, {`null && null`, nil}, {`false && $NAME`, false},
		{`$EMPTY || "string"`, ""}, {`$NONE || "string"`, "string"}, {`$NONE || $EMPTY`, ""}, {`false || null`, nil}, {`$NAME || $NONE`, "harbour light"},
		// not: what has nothing in it is not there
		{`!$EMPTY`, true}, {`!$NONE`, true}, {`!$BLANK`, true}, {`!$NAME`, false}, {`!!$NAME`, true}, {`!false`, true}, {`! true`, false}, {`!$FALSE`, false},
		{`!$NAME == "x"`, false}, {`!$NAME == false`, true}, {`!($NAME == "x")`, true}, {`"x" == !$NONE`, false}, {`true == !$NONE`, true}, {`true == !$NONE == !$NONE`, true},
		// precedence
		{`$NONE || $NAME && "z"`, "z"}, {`$NAME || $NONE && "z"`, "harbour light"}, {`($NAME || $NONE) && "z"`, "z"}, {`$NAME && null || $EMPTY == ""`, true},
		{`"a" == "a" == true`, true}, {`("a" || "b") == "a"`, true}, {`"a" == "b" || "a"`, "a"}, {`"a" == ("b" || "a")`, false}, {`((("a")))`, "a"}, {`!("a" && null) && "b"`, "b"},
		// patterns search, escape slashes, take flags
		{`$NAME =~ /light$/`, true}, {`$NAME =~ /^light/`, false}, {`$NAME =~ /LIGHT/`, false}, {`$NAME =~ /LIGHT/i`, true}, {`$NAME !~ /LIGHT/i`, false}, {`$PATH =~ /docs\/ch/`, true}, {`$ABS =~ /^\/srv\//`, true},
		{`$LINES =~ /^y/`, false}, {`$LINES =~ /^y/m`, true}, {`$LINES =~ /x.+y$/`, false}, {`$LINES =~ /x.+y$/s`, true}, {`$NAME =~ /H.*?T$/Ui`, true}, {`$EMPTY =~ /^$/`, true}, {`$NONE =~ /^$/`, true}, {`$NONE =~ /.+/`, false}, {`$NONE !~ /.+/`, true},
		{`$NAME =~ /light/ && $PATH =~ /docs/`, true}, {`$NAME =~ /nothing/ || $PATH =~ /md$/`, true}, {`"a/b" =~ /a/b/`, nil},
		{`"ab/" =~ /ab//`, true}, {`"a/" =~ /a\//`, true}, {`true =~ /^tr/`, true}, {`null =~ /ll/`, false}, {`/xy/ =~ /xy/`, false},
		// patterns in variables and texts
		{`$WORD =~ $PATTERN`, true}, {`$WORD =~ $OTHER`, false}, {`$WORD !~ $OTHER`, true}, {`$WORD =~ "/SAIL/i"`, true}, {`$WORD =~ $LINES`, true}, {`"axe" =~ $ONE`, true}, {`$NONE =~ $ALL`, true},
		// no pattern: the right side is searched for the left one
		{`$PART =~ $WORD`, true}, {`$WORD =~ $PART`, false}, {`$WORD =~ "mainsail"`, true}, {`$WORD !~ $PART`, true}, {`$EMPTY =~ "anything"`, true}, {`$NONE =~ "anything"`, true}, {`$WORD =~ ""`, false}, {`"" =~ ""`, true}, {`"(" =~ $BROKEN`, true}, {`$WORD =~ $BROKEN`, false},
		{`$WORD =~ $NONE`, false}, {`$WORD !~ $NONE`, true}, {`$WORD =~ null`, false}, {`$WORD =~ false`, false}, {`$WORD !~ false`, true},
		// what GitLab fails on
		{`$WORD =~ true`, nil}, {`$WORD !~ ($NONE || true)`, nil}, {`"x" || $WORD =~ true`, "x"}, {`$WORD && $WORD =~ true`, nil},
		// the shunting-yard takes operators where a reader would not
		{`$NAME "harbour light" ==`, true}, {`== $NAME "x"`, false}, {`("x" "x") ==`, true},
		// inputs are known only to spec:inputs
		{`$[[ inputs.size ]]`, nil}, {`$[[inputs.x-y]] == null`, true},
	} {
		t.Run(c.text, func(t *testing.T) {
			e, err := Parse(c.text)
			if err != nil {
				if c.want == nil && strings.Contains(c.text, "/a/b/") { // a second pattern is no operator
					return
				}
				t.Fatal(err)
			}
			if got, _ := e.Evaluate(given); got != c.want {
				t.Errorf("got %#v, want %#v", got, c.want)
			}
		})
	}
}

func TestTruth(t *testing.T) {
	given := vars("EMPTY", "", "BLANK", " \t\u00a0\n", "ZERO", "0", "FALSE", "false")
	for text, want := range map[string]bool{
		`$EMPTY`: false, `$NONE`: false, `$BLANK`: false, `$ZERO`: true, `$FALSE`: true, `false`: false, `true`: true, `null`: false, `"x"`: true, `/ab/`: true,
		`$EMPTY && "x"`: true, `"x" && $EMPTY`: false, `$EMPTY || "x"`: false, `$BLANK && "x"`: true,
	} {
		e, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		value, _ := e.Evaluate(given)
		if got := Truth(value); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{``, `Empty parse tree at column 1: there is no value`},
		{`  `, `Empty parse tree at column 1: there is no value`},
		{`()`, `Empty parse tree at column 1: there is no value`},
		{`${NAME} == "x"`, `Unknown lexeme found at column 1: braces are not known here, write $NAME`},
		{`$A = "x"`, `Unknown lexeme found at column 4: to compare write ==`},
		{`$A & $B`, `Unknown lexeme found at column 4: write &&`},
		{`$A | $B`, `Unknown lexeme found at column 4: write ||`},
		{`$A and $B`, `Unknown lexeme found at column 4: write &&`},
		{`$A == main`, `Unknown lexeme found at column 7: write a text in quotes: "main"`},
		{`$A == 12`, `Unknown lexeme found at column 7: write a text in quotes: "12"`},
		{`"é" == $`, `Unknown lexeme found at column 8: the name of a variable is missing`},
		{`$A == "x`, `Unknown lexeme found at column 7: the text has no closing " on its line`},
		{"$A == \"x\ny\"", `Unknown lexeme found at column 7: the text has no closing " on its line`},
		{`$A =~ /x/`, `Unknown lexeme found at column 7: a pattern needs two characters at least, write /(?:x)/`},
		{`$A =~ //`, `Unknown lexeme found at column 7: a pattern cannot be empty`},
		{`$A =~ /abc`, `Unknown lexeme found at column 7: the pattern has no closing /`},
		{`$A =~ /ab/x`, `Unknown lexeme found at column 11: write a text in quotes: "x"`},
		{`$A =~ /(ab/`, `Invalid regular expression at column 7: missing closing ): (ab`},
		{`$A =~ /^(?!main)/`, `Invalid regular expression at column 7: (?! is not in RE2's syntax`},
		{"$A =~ /a\nb/", `Invalid regular expression at column 7: a pattern stands between slashes on one line`},
		{`$[[ matrix.x ]]`, `Unknown lexeme found at column 1: only $[[ inputs.NAME ]] is known here`},
		{`$A "x"`, `Unreachable nodes in parse tree at column 4: an operator is missing before "x"`},
		{`$A == "x" $B`, `Unreachable nodes in parse tree at column 11: an operator is missing before $B`},
		{`$A == "x" && ($B) !$C`, `Unreachable nodes in parse tree at column 19: an operator is missing before !`},
		{`$A ==`, `Invalid operand at column 4: nothing stands behind ==`},
		{`== $A`, `Invalid operand at column 1: nothing stands before ==`},
		{`$A && || $B`, `Invalid operand at column 7: a value is missing between && and ||`},
		{`!`, `Invalid operand at column 1: nothing stands behind !`},
		{`$A == (`, `Unmatched parenthesis at column 7: nothing closes it`},
		{`(($A == "x")`, `Unmatched parenthesis at column 1: nothing closes it`},
		{`$A == "x")`, `Unmatched parenthesis at column 10: nothing opens it`},
		{`truex`, `Unknown lexeme found at column 1: write a text in quotes: "truex"`},
		{`nullx`, `Unknown lexeme found at column 5: write a text in quotes: "x"`},
		{strings.Repeat("!", 99) + `$A`, `Too many tokens at column 100: an expression has less than 100`},
	} {
		t.Run(c.text, func(t *testing.T) {
			e, err := Parse(c.text)
			if err == nil {
				t.Fatalf("it is an expression: %v", e)
			}
			var syntax *SyntaxError
			if want := "invalid expression syntax: " + c.want; err.Error() != want || !errors.As(err, &syntax) {
				t.Errorf("got  %s\nwant %s", err, want)
			}
		})
	}
	if _, err := Parse(strings.Repeat("!", 98) + "$A"); err != nil {
		t.Errorf("99 tokens are too many: %v", err)
	}
}

func TestUsedValues(t *testing.T) {
	at := pipeline.Position{File: ".gitlab-ci.yml", Line: 3, Column: 5}
	e, err := Parse(`$PLAIN == "a" || $SECRET == "b" || $NONE || $PLAIN || $HOLLOW`)
	if err != nil {
		t.Fatal(err)
	}
	_, got := e.Evaluate(pipeline.Variables{
		{Name: "PLAIN", Value: "weak"},
		{Name: "PLAIN", Value: "a", Origin: pipeline.OriginTop, At: at},
		{Name: "SECRET", Value: "hunter22", Masked: true, Origin: pipeline.OriginProject},
		{Name: "HOLLOW", Masked: true},
	})
	want := []pipeline.UsedValue{
		{Name: "PLAIN", Set: true, Value: "a", Origin: pipeline.OriginTop, At: at},
		{Name: "SECRET", Set: true, Value: "[MASKED]", Origin: pipeline.OriginProject},
		{Name: "NONE"},
		{Name: "HOLLOW", Set: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestInputs(t *testing.T) {
	inputs := map[string]any{"size": "large", "count": int64(3), "on": true, "list": []any{"a"}, "none": []any{}}
	for text, want := range map[string]bool{
		`$[[ inputs.size ]] == "large"`: true, `$[[inputs.size]] =~ /^l/`: true, `$[[ inputs.count ]] == "3"`: false, `$[[ inputs.count ]]`: true, `$[[ inputs.on ]] == true`: true,
		`$[[ inputs.on ]] == "true"`: true, `$[[ inputs.list ]]`: true, `$[[ inputs.none ]]`: false, `$[[ inputs.list ]] == $[[ inputs.list ]]`: true, `$[[ inputs.other ]] == null`: true,
	} {
		e, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if value, _ := e.EvaluateInputs(nil, inputs); Truth(value) != want {
			t.Errorf("%s is %v", text, value)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`$A == "x" && ($B =~ /ab\/c/i || !$C)`, `((`, `$[[ inputs.x ]]`, `'`, `//`, `/ab//`, `null null`, `true == !false`, `== a b`, `)!(`, `${A}`, "$A =~ /\xff./"} {
		f.Add(s, "x", "/x.*/")
	}
	f.Fuzz(func(t *testing.T, text, a, b string) {
		e, err := Parse(text)
		if err != nil {
			var syntax *SyntaxError
			if !errors.As(err, &syntax) || syntax.Column < 1 || syntax.Column > len(text)+1 {
				t.Errorf("%q: %#v", text, err)
			}
			return
		}
		value, used := e.Evaluate(vars("A", a, "B", b))
		switch value.(type) {
		case nil, string, bool:
		default:
			t.Errorf("%q is %T", text, value)
		}
		if len(used) != len(e.Variables()) {
			t.Errorf("%q uses %v", text, used)
		}
		// Not is the opposite of the truth of the whole.
		if n, err := Parse("!(" + text + ")"); err == nil {
			if opposite, _ := n.Evaluate(vars("A", a, "B", b)); value != nil && Truth(opposite) == Truth(value) {
				t.Errorf("%q is %v, and its opposite is %v", text, value, opposite)
			}
		}
	})
}

// FuzzEvaluate checks the operators against what Ruby does, told anew.
func FuzzEvaluate(f *testing.F) {
	f.Add("a", "b")
	f.Add("", "/x/")
	f.Add("true", "true")
	f.Fuzz(func(t *testing.T, a, b string) {
		given := vars("A", a, "B", b)
		for text, want := range map[string]any{
			`$A == $B`: a == b, `$A != $B`: a != b, `$A && $B`: b, `$A || $B`: a, `$A == null`: false, `null && $A`: nil, `null || $A`: a, `$A == true`: a == "true",
			`!$A`: strings.TrimSpace(a) == "",
		} {
			e, err := Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := e.Evaluate(given); got != want {
				t.Errorf("%s with %q, %q is %v", text, a, b, got)
			}
		}
		yes, _ := Parse(`$A =~ $B`)
		no, _ := Parse(`$A !~ $B`)
		y, _ := yes.Evaluate(given)
		n, _ := no.Evaluate(given)
		if fmt.Sprint(y == true) != fmt.Sprint(n == false) {
			t.Errorf("=~ is %v and !~ is %v", y, n)
		}
	})
}
