package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.yaml.in/yaml/v4"

	"keelson.dev/keelson/internal/pipeline"
)

// show writes a node on one line: texts quoted, other scalars with their kind, and ways in angle brackets where ways is set.
func show(n *Node, ways bool) string {
	var b strings.Builder
	var write func(n *Node)
	write = func(n *Node) {
		switch n.Kind {
		case Null:
			b.WriteString("null")
		case String:
			b.WriteString(strconv.Quote(n.Text))
		case Bool, Int, Float:
			fmt.Fprintf(&b, "%s(%s)", [...]string{Bool: "bool", Int: "int", Float: "float"}[n.Kind], n.Text)
		case List, Reference:
			if n.Kind == Reference {
				b.WriteString("!reference ")
			}
			b.WriteString("[")
			for i, item := range n.Items {
				if i > 0 {
					b.WriteString(", ")
				}
				write(item)
			}
			b.WriteString("]")
		case Map:
			b.WriteString("{")
			for i, p := range n.Pairs {
				if i > 0 {
					b.WriteString(", ")
				}
				b.WriteString(p.Key + ": ")
				write(p.Value)
			}
			b.WriteString("}")
		}
		if ways && len(n.Via) > 0 {
			b.WriteString(" <" + showVia(n.Via) + ">")
		}
	}
	write(n)
	return b.String()
}

func showVia(vias []pipeline.Via) string {
	var steps []string
	for _, v := range vias {
		steps = append(steps, strings.TrimSpace(v.How+" "+v.Name)+" "+v.At.String())
	}
	return strings.Join(steps, ", ")
}

// showProblems writes a problem a line.
func showProblems(ps pipeline.Problems) string {
	var b strings.Builder
	for _, p := range ps {
		fmt.Fprintf(&b, "%s: %s %s: %s", p.At, p.Severity, p.Code, p.Message)
		if len(p.Via) > 0 {
			b.WriteString(" <" + showVia(p.Via) + ">")
		}
		if p.Hint != "" {
			b.WriteString(" (" + p.Hint + ")")
		}
		b.WriteString("\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func TestScalars(t *testing.T) {
	for in, want := range map[string]string{
		// Words: Psych has no y and n, and takes any case.
		"yes": "bool(true)", "On": "bool(true)", "TRUE": "bool(true)", "tRuE": "bool(true)", "no": "bool(false)", "OFF": "bool(false)",
		"False": "bool(false)", "y": `"y"`, "n": `"n"`, "nope": `"nope"`, "null": "null", "NULL": "null", "Null": "null", "~": "null", "": "null",
		`"yes"`: `"yes"`, "'~'": `"~"`, "~x": `"~x"`, "|\n  yes": `"yes"`, "trueish": `"trueish"`,
		// Integers.
		"0": "int(0)", "-0": "int(0)", "+5": "int(5)", "12": "int(12)", "012345": "int(5349)", "08": `"08"`, "0o17": `"0o17"`, "0b101": "int(5)",
		"0x1F": "int(31)", "-0x10": "int(-16)", "1_000": "int(1000)", "1__0": `"1__0"`, "1,000": "int(1000)", "1_": `"1_"`, "0_7": "int(7)",
		"99999999999999999999": "int(99999999999999999999)", "1e3": `"1e3"`, "--1": `"--1"`, "+-1": `"+-1"`, "0x": `"0x"`, "0xg": `"0xg"`, "0b": `"0b"`,
		// Floats.
		"1.0": "float(1.0)", "1.": "float(1.0)", ".5": "float(0.5)", "-.5": "float(-0.5)", "1.50": "float(1.5)", "1_0.5": "float(10.5)",
		"1.5e+3": "float(1500.0)", "1.5e3": `"1.5e3"`, "1.0E-5": "float(1.0e-05)", "1.e+20": "float(1.0e+20)", "1.2.3": `"1.2.3"`, ".": `"."`,
		"-.": `"-."`, "1.5x": `"1.5x"`, "10000000000000000.0": "float(1.0e+16)", "1000000000000000.0": "float(1000000000000000.0)",
		"0.0001": "float(0.0001)", ".inf": "float(Infinity)", "+.INF": "float(Infinity)", "-.Inf": "float(-Infinity)", ".NaN": "float(NaN)",
		"-0.0": "float(-0.0)", "3.10": "float(3.1)", "-1.5e-7": "float(-1.5e-07)",
		// Sexagesimal: the first of two parts counts as hours too.
		"12:30:45": "int(45045)", "12:30": "int(45000)", "-1:30": "int(-1800)", "12:60": `"12:60"`, "12:5": "int(43500)", "1:2:3:4": `"1:2:3:4"`,
		"1_0:00": "int(36000)", "1:30.5": "float(5430.0)", "1:30.": "float(5400.0)", "a:1": `"a:1"`, "12:": "{12: null}", ":": "{: null}",
		// Symbols are texts.
		":foo": `"foo"`, `:"a b"`: `"a b"`, "::x": `":x"`,
		// Others that look like numbers.
		"1.2.3.4": `"1.2.3.4"`, "192.168.0.1:80": `"192.168.0.1:80"`, "1-2": `"1-2"`, "2024-1": `"2024-1"`, "-": "[null]", "- 1": "[int(1)]", "+": `"+"`,
		"2024-13-01": `"2024-13-01"`, "v1.0": `"v1.0"`, "12h": `"12h"`, "é": `"é"`, "5 minutes": `"5 minutes"`, "1 000": `"1 000"`,
		// Tags.
		"!!str 012": `"012"`, `!!int "012"`: "int(10)", `!!float 3`: "float(3.0)", `!!null x`: `"x"`, "!!binary aGVsbG8=": `"hello"`, "!!str": `""`,
	} {
		docs, problems := parse("f", []byte("a: "+strings.ReplaceAll(in, "- 1", "\n- 1")))
		switch in { // what is no scalar after "a: "
		case "12:", ":", "-":
			docs, problems = parse("f", []byte("a:\n  "+in))
		}
		if len(problems) > 0 {
			t.Errorf("%q: %s", in, showProblems(problems))
			continue
		}
		if got := show(docs[0].Get("a"), false); got != want {
			t.Errorf("%q is %s, not %s", in, got, want)
		}
	}
	for _, in := range []string{"2024-01-31", "2024-1-1", "2024-01-31 12:30:00", "2024-01-31T12:30:00Z", "2024-01-31t1:30:00.5 +02:00", "2024-01-31 12:30:00 -5"} {
		_, problems := parse("f", []byte("a: "+in))
		if len(problems) != 1 || problems[0].Code != "yaml-date" {
			t.Errorf("%q: %s", in, showProblems(problems))
		}
	}
}

func TestParse(t *testing.T) {
	for name, c := range map[string]struct{ in, want, problems string }{
		"keys are texts": {
			in:   "1: a\nyes: b\n~: c\n1.0: d\n:x: e\n012: f",
			want: `{1: "a", true: "b", : "c", 1.0: "d", x: "e", 10: "f"}`,
		},
		"an alias tells its way": {
			in:   "a: &x [1, {b: c}]\nd: *x\ne:\n  f: *x",
			want: `{a: [int(1), {b: "c"}], d: [int(1), {b: "c"}] <alias x f:2:4>, e: {f: [int(1), {b: "c"}] <alias x f:4:6>}}`,
		},
		"a merge": {
			in:   ".x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  b: 3",
			want: `{.x: {a: int(1), b: int(2)}, y: {a: int(1) <alias x f:3:7>, b: int(3)}}`,
		},
		"a merge takes the place of what is before it, as in Ruby": {
			in:       ".x: &x {a: 1, b: 2}\ny:\n  b: 3\n  <<: *x",
			want:     `{.x: {a: int(1), b: int(2)}, y: {b: int(2) <alias x f:4:7>, a: int(1) <alias x f:4:7>}}`,
			problems: "f:4:3: warning merge-overrides: `<<` takes the place of the key `b` at f:3:3, which is written before it (put the `<<` line first)",
		},
		"the first map of a merged list wins": {
			in:   ".x: &x {a: 1}\n.y: &y {a: 2, b: 2}\nz:\n  <<: [*x, *y, {c: 3}]",
			want: `{.x: {a: int(1)}, .y: {a: int(2), b: int(2)}, z: {c: int(3), a: int(1) <alias x f:4:8>, b: int(2) <alias y f:4:12>}}`,
		},
		"two merges": {
			in:   ".x: &x {a: 1}\n.y: &y {a: 2}\nz:\n  <<: *x\n  <<: *y",
			want: `{.x: {a: int(1)}, .y: {a: int(2)}, z: {a: int(2) <alias y f:5:7>}}`,
		},
		"a merge of no map": {
			in:       "x: &x [1]\nz:\n  <<: *x",
			want:     `{x: [int(1)], z: {}}`,
			problems: "f:3:3: error yaml-merge: `<<` takes a map or a list of maps (write `<<: *anchor` or `<<: [*one, *two]`)",
		},
		"a duplicate key": {
			in:       "a: 1\nb: 2\na: 3",
			want:     `{a: int(3), b: int(2)}`,
			problems: "f:3:1: warning duplicate-key: the key `a` is there twice: this one counts, the one at f:1:1 does not (remove one of them)",
		},
		"a reference":             {in: "a: !reference [.b, script]", want: `{a: !reference [".b", "script"]}`},
		"a reference to nothing":  {in: "a: !reference []", want: `{a: !reference []}`, problems: "f:1:4: error invalid-reference: !reference needs a list of names, and this one is empty (write `!reference [job, keyword]`)"},
		"a reference to a text":   {in: "a: !reference b", want: `{a: null}`, problems: "f:1:4: error invalid-reference: the value of `!reference` is not a list of names (write `!reference [job, keyword]`)"},
		"an unknown tag":          {in: "a: !vault [b]", want: `{a: ["b"]}`, problems: "f:1:4: warning yaml-tag: the tag `!vault` is unknown and ignored (the only tag that GitLab knows is `!reference`)"},
		"a tag of Ruby":           {in: "a: !ruby/object:Gem {}", want: `{a: {}}`, problems: "f:1:4: error yaml-tag: Tried to load unspecified class: the tag `!ruby/object:Gem` is not allowed"},
		"an unknown alias":        {in: "a: *b", problems: "f:1:4: error yaml-alias: Unknown alias: b (an anchor is known below it in its own file only; use `!reference` or `extends` for another file)"},
		"an alias within itself":  {in: "a: &a [*a]", want: `{a: [null]}`, problems: "f:1:8: error yaml-alias: the alias `*a` is within what it stands for"},
		"an anchor given twice":   {in: "a: &x 1\nb: *x\nc: &x 2\nd: *x", want: `{a: int(1), b: int(1) <alias x f:2:4>, c: int(2), d: int(2) <alias x f:4:4>}`},
		"documents":               {in: "---\na: 1\n--- # two\nb: 2\n---\n", want: `{a: int(1)}|{b: int(2)}`},
		"a document on the line":  {in: "--- a: 1\n--- b: 2\n", want: `{a: int(1)}|{b: int(2)}`},
		"three minuses in a text": {in: "a: |\n  x\n  --- y\n---b: 1", want: `{a: "x\n--- y\n", ---b: int(1)}`},
		"nothing":                 {in: "# nothing\n"},
		"no map":                  {in: "- a", want: `["a"]`},
		"a byte order mark":       {in: "\uFEFFa: b", want: `{a: "b"}`},
		"carriage returns":        {in: "a: 1\r\nb: |\r\n  x\r\n  y\r\n", want: `{a: int(1), b: "x\ny\n"}`},
		"other line breaks":       {in: "a: &x 1\r\u2028b: 2\n---\rc: *y", want: "{a: int(1), b: int(2)}", problems: "f:5:4: error yaml-alias: Unknown alias: y (an anchor is known below it in its own file only; use `!reference` or `extends` for another file)"},
		"a complex key":           {in: "? [a]\n: b", want: "{}", problems: "f:1:3: error yaml-key: a key has to be a text, not a list or a map"},
	} {
		t.Run(name, func(t *testing.T) {
			docs, problems := parse("f", []byte(c.in))
			var got []string
			for _, d := range docs {
				got = append(got, show(d, true))
			}
			if g := strings.Join(got, "|"); g != c.want {
				t.Errorf("%s\nis   %s\nwant %s", c.in, g, c.want)
			}
			if g := showProblems(problems); g != c.problems {
				t.Errorf("%s\nproblems %s\nwant     %s", c.in, g, c.problems)
			}
		})
	}
}

func TestSyntax(t *testing.T) {
	const (
		tab    = "the line is indented with a tab; YAML takes spaces only"
		indent = "the line is not indented like those before it"
		colon  = "quote a text that has a colon and a space in it; or the line is indented too far"
		quote  = "a text that starts with a quote ends at the next one; quote the whole of it with the other kind of quotes"
		key    = "while parsing a block mapping: did not find expected key"
		dash   = "while parsing a block collection: did not find expected '-' indicator"
		value  = "mapping values are not allowed in this context"
	)
	for _, c := range []struct{ in, at, want, hint string }{
		{"a:\n\t- b", "2:1", "while scanning for the next token: found character that cannot start any token", tab},
		{"a: b: c", "1:5", value, colon},
		{"a: @b", "1:4", "while scanning for the next token: found character that cannot start any token", "quote a text that starts with @, ` or %"},
		{"a: \"b\nc: d", "1:4", "while scanning a quoted scalar: found unexpected end of stream", "the quote opened in line 1 is not closed"},
		{"a: [b, c\nd: e", "1:4", "while parsing a flow sequence: did not find expected ',' or ']'", "a bracket or a comma is missing in the list or map opened in line 1"},
		{"a:\n  b: 1\n c: 2", "3:2", key, indent},
		{"a:\n  - b\n  c: d", "3:3", dash, indent},
		{"script:\n  - \"a\" && b", "2:9", dash, quote},
		{"a: 'b' c", "1:8", key, quote},
		{"script:\n  - echo \"a: b\" c: d", "2:18", value, colon},
		{"a: *", "1:4", "while scanning an alias: did not find expected alphabetic or numeric character", "quote a text that starts with *"},
		{"a\nb: c", "2:2", value, colon},
		{"---\nx: 1\n---\na: {b: c", "4:4", "while parsing a flow mapping: did not find expected ',' or '}'", "a bracket or a comma is missing in the list or map opened in line 4"},
	} {
		_, problems := parse("f", []byte(c.in))
		want := "f:" + c.at + ": error yaml-syntax: Invalid YAML: " + c.want + " (" + c.hint + ")"
		if got := showProblems(problems); got != want {
			t.Errorf("%q\ngot  %s\nwant %s", c.in, got, want)
		}
	}
	for _, c := range []struct{ in, want string }{
		{"a: é\xff", "f:1:5: error yaml-encoding: the byte 0xff is not valid UTF-8 (save the file as UTF-8)"},
		{"a: 1\nb: \x00", "f:2:4: error yaml-encoding: the character U+0000 is not allowed (write it as an escape in double quotes, or remove it)"},
		{"a: \x1b[0m", "f:1:4: error yaml-encoding: the character U+001B is not allowed (write it as an escape in double quotes, or remove it)"},
		{"\xff\xfea\x00", "f:1:1: error yaml-encoding: the file is UTF-16, not UTF-8 (save the file as UTF-8)"},
		{strings.Repeat("[", 200), "f:1:101: error yaml-too-deep: The parsed YAML is too big: more than 100 lists and maps are within each other"},
		{strings.Repeat("- ", 200), "f:1:201: error yaml-too-deep: The parsed YAML is too big: more than 100 lists and maps are within each other"},
		{"a: &a " + strings.Repeat("[", 60) + strings.Repeat("]", 60) + "\nb: " + strings.Repeat("[", 60) + "*a" + strings.Repeat("]", 60), "f:2:23: error yaml-too-deep: The parsed YAML is too big: more than 100 lists and maps are within each other"},
		{strings.Repeat("a: b\n", 500_000), "f: error yaml-too-large: The parsed YAML is too big: the file has 2500000 bytes, the limit is 2097152"},
	} {
		_, problems := parse("f", []byte(c.in))
		if got := showProblems(problems); got != c.want {
			t.Errorf("%.60q\ngot  %s\nwant %s", c.in, got, c.want)
		}
	}
}

// Nine levels of nine aliases stand for 9^9 values; they cost no more than what is written.
func TestAliasBomb(t *testing.T) {
	text := "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
	for i := 1; i < 9; i++ {
		text += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d,", i-1), 9))
	}
	_, problems := parse("f", []byte(text))
	if len(problems) != 1 || problems[0].Code != "yaml-too-large" || problems[0].At.Line != 6 {
		t.Errorf("problems: %s", showProblems(problems))
	}
	text = strings.ReplaceAll(text, "[", "{k: [")
	text = strings.ReplaceAll(text, "]", "]}")
	text = strings.ReplaceAll(text, "&a8", "&a8\n  <<")
	if _, problems = parse("f", []byte(text)); !problems.Failed() {
		t.Error("a bomb in maps is taken")
	}
}

// An open quote swallows no faults of other entries, and no more than twenty are told.
func TestSyntaxOfEntries(t *testing.T) {
	text := "a: {script: [x, 'y]}\n.b: &b\n  script: x\nc:\n  <<: *b\n  image: x: y\nd: {script: ok}\ne: *none\n"
	_, problems := parse("f", []byte(text))
	if got, want := showProblems(problems), `f:1:17: error yaml-syntax: Invalid YAML: while scanning a quoted scalar: found unexpected end of stream (the quote opened in line 1 is not closed)
f:6:11: error yaml-syntax: Invalid YAML: mapping values are not allowed in this context (quote a text that has a colon and a space in it; or the line is indented too far)
f:8:4: error yaml-alias: Unknown alias: none (an anchor is known below it in its own file only; use `+"`!reference` or `extends`"+` for another file)`; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	_, problems = parse("f", []byte(strings.Repeat("a: b: c\n", 50)))
	if len(problems) != maxSyntaxErrors {
		t.Errorf("%d problems", len(problems))
	}
}

// What is read in pieces is what is read as a whole.
func TestPieces(t *testing.T) {
	text := []byte("---\n" + string(large().Text) + "odd: !tag 2024-01-01\n")
	root, err := load(text)
	if err != nil {
		t.Fatal(err)
	}
	whole, pieces := &converter{file: "f", lines: 1}, &converter{file: "f", lines: 1}
	want := whole.node(root)
	got, ok := pieces.inPieces(text, piecesSize)
	if !ok {
		t.Fatal("not read in pieces")
	}
	if !reflect.DeepEqual(want, got) {
		t.Error("whole and pieces differ")
	}
	if showProblems(whole.problems) != showProblems(pieces.problems) || len(whole.problems) != 2 {
		t.Errorf("problems %s and %s", showProblems(whole.problems), showProblems(pieces.problems))
	}
	if _, ok := pieces.inPieces(append(text, "job-0003: {script: x}\n"...), piecesSize); ok {
		t.Error("a duplicate key is read in pieces")
	}
}

func FuzzPieces(f *testing.F) {
	for _, seed := range []string{"a: 1\nb: {c: d}\ne: |\n  f\n g\n", "a: [\nb: c\n]\nd: 'e\nf: g'\n", "a:\n- b\nc: d\n\n# x\ne: f", "a: &b c\nd: *b", "a\n: b\nc: d\n", "a: 1\n...\nb: 2", "a: b\na: c", "0:\r \n0:"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c := &converter{file: "f"}
		if !c.checkEncoding(text) || len(text) > 4096 {
			return
		}
		for _, p := range split(text) {
			pieces := &converter{file: "f"}
			got, ok := pieces.inPieces(p.text, 0)
			if !ok {
				continue
			}
			root, err := load(p.text)
			if err != nil {
				t.Fatalf("%q: %v, but its pieces are read as %s", p.text, err, show(got, false))
			}
			whole := &converter{file: "f", anchored: map[*yaml.Node]*Node{}}
			want := whole.node(root)
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(Node{}), cmpopts.EquateNaNs()); diff != "" || showProblems(whole.problems) != showProblems(pieces.problems) {
				t.Errorf("%q: whole and pieces differ: %s\n%s\n%s", p.text, diff, showProblems(whole.problems), showProblems(pieces.problems))
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"a: &x [1, {b: c}]\nd: *x", ".x: &x {a: 1}\ny:\n  <<: [*x, {b: 2}]\n  c: !reference [.x, a]", "---\nspec: {inputs: {}}\n---\na: 12:30:45",
		"a: !!binary x\nb: !!float 1_0.5e+3\n? [c]\n: 2024-01-31 10:00:00 +1", "a: |\n  b\n c: \"d", "\uFEFFa: 'b''c' # d\n...\ne", "&a [*a]",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		docs, problems := parse("f", text)
		for _, d := range docs {
			check(t, d, 0)
		}
		for _, p := range problems {
			if p.Message == "" || p.Code == "" || p.At.File != "f" {
				t.Errorf("a problem without its fields: %+v", p)
			}
		}
	})
}

// check holds what is true of every node: a position, a size that is the sum, keys that are there once and are found.
func check(t *testing.T, n *Node, depth int) {
	t.Helper()
	if depth > maxDepth {
		t.Fatalf("%v is too deep", n.At)
	}
	size := 1
	for _, item := range n.Items {
		check(t, item, depth+1)
		size += item.size
	}
	for i, p := range n.Pairs {
		check(t, p.Value, depth+1)
		size += 1 + p.Value.size
		if at, ok := n.find(p.Key); !ok || at != i {
			t.Errorf("key %q of %v is found at %d, not %d", p.Key, n.At, at, i)
		}
		if p.KeyAt.Line == 0 {
			t.Errorf("key %q has no position", p.Key)
		}
	}
	if n.size != size {
		t.Errorf("%v has the size %d, not %d", n.At, n.size, size)
	}
	if n.At.Line == 0 || n.At.Column == 0 {
		t.Errorf("%s has no position", show(n, false))
	}
}
