package config

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"

	"keelson.dev/keelson/internal/pipeline"
)

// The bounds of a file.
const (
	maxFileSize = 2 << 20 // bytes; GitLab's max_yaml_size_bytes
	maxDepth    = 100     // lists and maps within each other; GitLab's max_yaml_depth
	maxNodes    = 500_000 // values of a configuration, where an alias counts as what it stands for
)

// parse turns a file into its documents, in their order; an empty document is left out. With an error among the problems the
// documents are what could be read all the same. name is for positions.
func parse(name string, text []byte) ([]*Node, pipeline.Problems) {
	c := &converter{file: name}
	if len(text) > maxFileSize {
		c.fail("yaml-too-large", pipeline.Position{File: name}, "",
			"The parsed YAML is too big: the file has %d bytes, the limit is %d", len(text), maxFileSize)
		return nil, c.problems
	}
	if !c.checkEncoding(text) {
		return nil, c.problems
	}
	text = bytes.TrimPrefix(text, []byte("\uFEFF"))
	var docs []*Node
	for _, part := range split(text) {
		c.lines = part.line
		if n := c.document(part.text); n != nil {
			docs = append(docs, n)
		}
	}
	return docs, c.problems
}

type part struct {
	line int // lines before it
	text []byte
}

// split cuts a file where GitLab does: before a line that starts with --- and a space or its end. What follows on such a line
// belongs to the document, even where YAML would want a new line.
func split(text []byte) []part {
	var parts []part
	start, startLine := 0, 0
	for at, line := 0, 0; at < len(text); line++ {
		end := bytes.IndexByte(text[at:], '\n')
		if end < 0 {
			end = len(text)
		} else {
			end += at + 1
		}
		if rest, ok := bytes.CutPrefix(text[at:end], []byte("---")); ok && (len(rest) == 0 || strings.IndexByte(" \t\r\n", rest[0]) >= 0) {
			if at > start {
				parts = append(parts, part{startLine, text[start:at]})
			}
			start, startLine = at, line
		}
		at = end
	}
	parts = append(parts, part{startLine, text[start:]})
	if hasOddBreaks(text) {
		for i := range parts[1:] {
			parts[i+1].line = parts[i].line + countBreaks(parts[i].text)
		}
	}
	for i, p := range parts {
		if rest, ok := bytes.CutPrefix(p.text, []byte("--- ")); ok {
			line, _, _ := bytes.Cut(rest, []byte("\n"))
			if line = bytes.TrimSpace(line); len(line) > 0 && strings.IndexByte("#!&|>{[\"'", line[0]) < 0 {
				parts[i].text = append(bytes.Repeat([]byte(" "), 4), rest...)
			}
		}
	}
	return parts
}

// oddBreaks end a line in YAML 1.1 too.
var oddBreaks = []string{"\r", "\u0085", "\u2028", "\u2029"}

// hasOddBreaks tells whether there are lines that do not end with a line feed.
func hasOddBreaks(text []byte) bool {
	return bytes.Count(text, []byte("\r")) > bytes.Count(text, []byte("\r\n")) ||
		slices.ContainsFunc(oddBreaks[1:], func(b string) bool { return bytes.Contains(text, []byte(b)) })
}

func countBreaks(text []byte) int {
	n := bytes.Count(text, []byte("\n")) - bytes.Count(text, []byte("\r\n"))
	for _, b := range oddBreaks {
		n += bytes.Count(text, []byte(b))
	}
	return n
}

// converter turns the documents of one file into nodes.
type converter struct {
	file     string
	lines    int // lines before the document
	problems pipeline.Problems

	slab     []Node
	keyed    Node                 // a key that is looked at
	anchored map[*yaml.Node]*Node // what aliases stand for; nil while it is being made
	size     int                  // of the documents so far
	overflow bool
}

func (c *converter) at(n *yaml.Node) pipeline.Position {
	return pipeline.Position{File: c.file, Line: n.Line + c.lines, Column: n.Column}
}

func (c *converter) report(severity pipeline.Severity, code string, at pipeline.Position, hint, message string, args ...any) {
	c.problems = append(c.problems, pipeline.Problem{
		Severity: severity, Code: code, Message: fmt.Sprintf(message, args...), Hint: hint, At: at})
}

func (c *converter) fail(code string, at pipeline.Position, hint, message string, args ...any) {
	c.report(pipeline.Error, code, at, hint, message, args...)
}

func (c *converter) warn(code string, at pipeline.Position, hint, message string, args ...any) {
	c.report(pipeline.Warning, code, at, hint, message, args...)
}

// checkEncoding refuses what is no text.
func (c *converter) checkEncoding(text []byte) bool {
	if bytes.HasPrefix(text, []byte{0xff, 0xfe}) || bytes.HasPrefix(text, []byte{0xfe, 0xff}) {
		c.fail("yaml-encoding", pipeline.Position{File: c.file, Line: 1, Column: 1}, "save the file as UTF-8", "the file is UTF-16, not UTF-8")
		return false
	}
	for i, line, start := 0, 1, 0; i < len(text); {
		if b := text[i]; b < utf8.RuneSelf && (b >= ' ' && b != 0x7f || b == '\t' || b == '\r') {
			i++
			continue
		} else if b == '\n' {
			i++
			line, start = line+1, i
			continue
		}
		at := pipeline.Position{File: c.file, Line: line, Column: utf8.RuneCount(text[start:i]) + 1}
		r, size := utf8.DecodeRune(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			c.fail("yaml-encoding", at, "save the file as UTF-8", "the byte 0x%02x is not valid UTF-8", text[i])
			return false
		case r < 0xa0 && r != 0x85 || r == 0xfffe || r == 0xffff || r == 0xfeff && i > 0:
			c.fail("yaml-encoding", at, "write it as an escape in double quotes, or remove it", "the character %U is not allowed", r)
			return false
		}
		i += size
	}
	return true
}

// document reads one document; nil: there is nothing in it.
func (c *converter) document(text []byte) *Node {
	if n, ok := c.inPieces(text, piecesSize); ok {
		return n
	}
	root, err := load(text)
	if err != nil {
		c.syntaxErrors(text, err)
		return nil
	}
	if root == nil {
		return nil
	}
	c.anchored = map[*yaml.Node]*Node{}
	n := c.node(root)
	if n.Kind == Null {
		return nil
	}
	return n
}

// load gives the nodes of the library; nil: there are none.
func load(text []byte) (*yaml.Node, error) {
	var root yaml.Node
	loader, err := yaml.NewLoader(bytes.NewReader(text), yaml.WithPlugin(loaderlimits.New(
		loaderlimits.DepthFunc(func(depth int, _ *loaderlimits.DepthContext) error {
			if depth > maxDepth {
				return errDepth
			}
			return nil
		}), loaderlimits.AliasNone())))
	if err == nil {
		err = loader.Load(&root)
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, err
	case root.Kind != yaml.DocumentNode:
		return &root, nil
	case len(root.Content) == 0:
		return nil, nil
	}
	return root.Content[0], nil
}

var errDepth = errors.New("too deep")

func (c *converter) make(n *yaml.Node) *Node {
	if len(c.slab) == 0 {
		c.slab = make([]Node, 128)
	}
	made := &c.slab[0]
	c.slab = c.slab[1:]
	made.At, made.size = c.at(n), 1
	return made
}

func (c *converter) node(n *yaml.Node) *Node {
	if n.Kind == yaml.AliasNode {
		return c.alias(n)
	}
	if n.Anchor != "" {
		c.anchored[n] = nil
	}
	made := c.make(n)
	switch n.Kind {
	case yaml.ScalarNode:
		c.scalar(made, n)
	case yaml.SequenceNode:
		c.list(made, n)
	default:
		c.mapping(made, n)
	}
	if n.Anchor != "" {
		c.anchored[n] = made
	}
	return made
}

// alias gives what an alias stands for, shared, with the alias in its way. It counts as often as it is used.
func (c *converter) alias(n *yaml.Node) *Node {
	target, known := c.anchored[n.Alias]
	if !known || target == nil {
		c.fail("yaml-alias", c.at(n), "", "the alias `*%s` is within what it stands for", n.Value)
		return c.make(n)
	}
	if c.size += target.size; c.size > maxNodes {
		if !c.overflow {
			c.overflow = true
			c.fail("yaml-too-large", c.at(n), "aliases are repeated within each other",
				"The parsed YAML is too big: with its aliases it has more than %d values", maxNodes)
		}
		return c.make(n)
	}
	return target.via(pipeline.Via{How: "alias", Name: n.Value, At: c.at(n)})
}

func (c *converter) scalar(made *Node, n *yaml.Node) {
	made.Raw = n.Value
	const quoted = yaml.SingleQuotedStyle | yaml.DoubleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle
	made.Plain = n.Style&quoted == 0
	if n.Style&yaml.TaggedStyle == 0 {
		if made.Plain {
			c.resolve(made, n)
		} else {
			made.Kind, made.Text = String, n.Value
		}
		made.blocks = hasBlock(made.Text)
		return
	}
	switch n.Tag {
	case "!!str", "!str":
		made.Kind, made.Text = String, n.Value
	case "!!binary", "!binary":
		decoded, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(n.Value), ""))
		if err != nil {
			c.fail("yaml-tag", c.at(n), "", "the text after `!!binary` is not valid base64")
		}
		made.Kind, made.Text = String, string(decoded)
	case "!!float", "!float":
		c.resolve(made, n)
		if made.Kind == Int {
			made.setFloat(made.Float)
		}
	case "!!int", "!!bool", "!!null", "!!merge":
		c.resolve(made, n)
	case "!reference":
		c.fail("invalid-reference", c.at(n), "write `!reference [job, keyword]`", "the value of `!reference` is not a list of names")
	default:
		c.tag(n)
		c.resolve(made, n)
	}
	made.blocks = hasBlock(made.Text)
}

func (c *converter) resolve(made *Node, n *yaml.Node) {
	if class := made.setScalar(n.Value); class != "" {
		c.fail("yaml-date", c.at(n), fmt.Sprintf("quote it: %q", n.Value), "Tried to load unspecified class: %s (to YAML `%s` is a date or a time)", class, n.Value)
	}
}

// tag names a tag that means nothing.
func (c *converter) tag(n *yaml.Node) {
	if strings.HasPrefix(n.Tag, "!ruby/") {
		c.fail("yaml-tag", c.at(n), "", "Tried to load unspecified class: the tag `%s` is not allowed", n.Tag)
		return
	}
	hint := "the only tag that GitLab knows is `!reference`"
	if strings.EqualFold(n.Tag, "!reference") || strings.EqualFold(n.Tag, "!ref") {
		hint = "did you mean `!reference`?"
	}
	c.warn("yaml-tag", c.at(n), hint, "the tag `%s` is unknown and ignored", n.Tag)
}

func (c *converter) list(made *Node, n *yaml.Node) {
	made.Kind = List
	if n.Style&yaml.TaggedStyle != 0 {
		switch n.Tag {
		case "!reference":
			made.Kind = Reference
		case "!!seq":
		default:
			c.tag(n)
		}
	}
	made.Items = make([]*Node, len(n.Content))
	for i, item := range n.Content {
		made.Items[i] = c.node(item)
	}
	made.measure()
	c.checkDepth(made)
	if made.Kind == Reference {
		c.reference(made)
	}
}

// checkDepth empties what aliases made too deep.
func (c *converter) checkDepth(n *Node) {
	if n.depth > maxDepth {
		c.fail("yaml-too-deep", n.At, "", "The parsed YAML is too big: more than %d lists and maps are within each other", maxDepth)
		*n = Node{At: n.At, size: 1}
	}
}

// reference checks that a reference is a list of texts.
func (c *converter) reference(made *Node) {
	for _, item := range made.Items {
		if item.IsScalar() && item.Kind != Null {
			continue
		}
		c.fail("invalid-reference", item.At, "write `!reference [job, keyword]`", "!reference needs a list of names")
		return
	}
	if len(made.Items) == 0 {
		c.fail("invalid-reference", made.At, "write `!reference [job, keyword]`", "!reference needs a list of names, and this one is empty")
	}
}
