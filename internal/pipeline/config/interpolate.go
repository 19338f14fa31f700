package config

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"keelson.dev/keelson/internal/pipeline"
)

// The bounds of interpolation; GitLab's.
const (
	maxBlocks       = 10_000  // different blocks in a file
	maxBlockFunc    = 3       // functions in a block
	maxBlockSize    = 1024    // bytes of what a block asks for
	maxBlockNode    = 1 << 20 // bytes of a text with blocks, before and after
	maxBlockIndices = 5
)

var (
	blockPattern    = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\$\[\[\s*(\S.*?\S)\s*\]\]`) })
	truncatePattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^truncate\(\s*(\d+)\s*,\s*(\d+)\s*\)?$`) })
	splitPattern    = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^split\('([^']*)'\)$`) })
	indexPattern    = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(\w+)((?:\[\d+\])+)$`) })
)

func hasBlock(s string) bool { return strings.Contains(s, "$[[") }

// interpolator puts the values of inputs in place of the blocks of a file: $[[ inputs.name | function ]].
type interpolator struct {
	inputs    map[string]*Node
	component map[string]string // the values that spec:component asks for
	variables pipeline.Variables
	report    func(pipeline.Problem)

	blocks map[string]block // that were looked at
	full   bool             // there are too many of them
}

// block is what a block comes to.
type block struct {
	node    *Node
	keep    bool // it is left for later: matrix
	message string
	hint    string
}

// tree gives a tree with all blocks replaced. Lists of references are left alone, as GitLab does.
func (ip *interpolator) tree(n *Node) *Node {
	if !n.blocks || n.Kind == Reference {
		return n
	}
	switch n.Kind {
	case Map:
		b := newMap(&Node{Kind: Map, At: n.At, Via: n.Via}, len(n.Pairs))
		for _, p := range n.Pairs {
			if hasBlock(p.Key) {
				if key := ip.text(&Node{Kind: String, At: p.KeyAt, Text: p.Key, Plain: true}); key.IsScalar() {
					p.Key = key.Text
				} else {
					p.Key = inspect(key)
				}
			}
			p.Value = ip.tree(p.Value)
			b.set(p, true)
		}
		return b.node.measure()
	case List:
		made := &Node{Kind: List, At: n.At, Via: n.Via, Items: make([]*Node, len(n.Items))}
		for i, item := range n.Items {
			made.Items[i] = ip.tree(item)
		}
		return made.measure()
	default:
		return ip.text(n)
	}
}

// text replaces the blocks of a text. One that is the whole text gives its value as it is, with its type.
func (ip *interpolator) text(n *Node) *Node {
	matches := blockPattern().FindAllStringSubmatchIndex(n.Text, -1)
	if len(matches) == 0 || ip.full {
		return n
	}
	if len(n.Text) > maxBlockNode {
		ip.fail(n, 0, block{message: "config node too large", hint: fmt.Sprintf("a text with $[[ in it has at most %d bytes", maxBlockNode)})
		return n
	}
	var out strings.Builder
	last := 0
	for _, m := range matches {
		written := n.Text[m[0]:m[1]]
		b, known := ip.blocks[written]
		if !known {
			if len(ip.blocks) >= maxBlocks {
				ip.full = true
				ip.fail(n, m[0], block{message: "too many interpolation blocks", hint: fmt.Sprintf("a file has at most %d different ones", maxBlocks)})
				return n
			}
			b = ip.block(n.Text[m[2]:m[3]])
			ip.blocks[written] = b
		}
		if b.message != "" {
			ip.fail(n, m[0], b)
			b.keep = true
		}
		if !b.keep && m[0] == 0 && m[1] == len(n.Text) {
			name := strings.TrimSpace(strings.SplitN(n.Text[m[2]:m[3]], "|", 2)[0])
			return b.node.via(join(n.Via, []pipeline.Via{{How: "input", Name: strings.TrimPrefix(name, "inputs."), At: ip.at(n, m[0])}})...)
		}
		out.WriteString(n.Text[last:m[0]])
		if b.keep {
			out.WriteString(written)
		} else {
			out.WriteString(embedded(b.node))
		}
		last = m[1]
		if out.Len() > maxBlockNode {
			ip.fail(n, m[0], block{message: "config node too large", hint: fmt.Sprintf("a text with $[[ in it comes to at most %d bytes", maxBlockNode)})
			return n
		}
	}
	out.WriteString(n.Text[last:])
	made := *n
	made.Kind, made.Text, made.Plain, made.blocks = String, out.String(), false, false
	return &made
}

// at is the position of a block in a text, where that can be told.
func (ip *interpolator) at(n *Node, offset int) pipeline.Position {
	at := n.At
	if offset > 0 && at.Column > 0 && !strings.Contains(n.Text, "\n") && (n.Plain || !strings.ContainsAny(n.Raw, "\\'\"")) {
		at.Column += utf8.RuneCountInString(n.Text[:offset])
		if !n.Plain {
			at.Column++
		}
	}
	return at
}

func (ip *interpolator) fail(n *Node, offset int, b block) {
	ip.report(pipeline.Problem{Severity: pipeline.Error, Code: "interpolation", Message: b.message, Hint: b.hint, At: ip.at(n, offset), Via: n.Via})
}

// block finds the value of "inputs.name | function | function".
func (ip *interpolator) block(data string) block {
	access, rest, hasFunctions := strings.Cut(data, "|")
	access = strings.TrimSpace(access)
	if context, _, _ := strings.Cut(access, "."); context == "matrix" {
		return block{keep: true}
	}
	b := ip.access(access)
	if b.message != "" || !hasFunctions {
		return b
	}
	functions := strings.Split(rest, "|")
	if len(functions) > maxBlockFunc {
		return block{message: "too many functions in interpolation block", hint: fmt.Sprintf("a block has at most %d", maxBlockFunc)}
	}
	for _, f := range functions {
		if b = ip.function(strings.TrimSpace(f), b.node); b.message != "" {
			break
		}
	}
	return b
}

// access finds a value by its path: a context, a name, and for a list of maps indices and more names.
func (ip *interpolator) access(path string) block {
	segments := strings.SplitN(path, ".", 5)
	switch {
	case len(segments) < 2:
		return block{message: "invalid pattern used for interpolation. valid pattern is $[[ inputs.input ]]"}
	case len(path) > maxBlockSize:
		return block{message: "maximum interpolation expression size exceeded", hint: fmt.Sprintf("it has at most %d bytes", maxBlockSize)}
	}
	unknown := func(key, hint string) block {
		return block{message: fmt.Sprintf("unknown interpolation provided: `%s` in `%s`", key, path), hint: hint}
	}
	name, indices, fault := indexed(segments[1], path)
	if fault != "" {
		return block{message: fault}
	}
	var current *Node
	switch segments[0] {
	case "inputs":
		if current = ip.inputs[name]; current == nil {
			return unknown(name, pipeline.DidYouMean(name, names(ip.inputs)))
		}
	case "component":
		value, known := ip.component[name]
		if !known {
			return unknown(name, "list it in spec:component of a component; there are name, sha, version and reference")
		}
		current = &Node{Kind: String, Text: value, Raw: value, size: 1}
	default:
		return unknown(segments[0], "there are inputs, component and matrix")
	}
	for i := 1; ; i++ {
		for _, index := range indices {
			switch {
			case current.Kind != List:
				return block{message: fmt.Sprintf("cannot index into non-array value at [%d] in `%s`", index, path)}
			case index >= len(current.Items):
				return block{message: fmt.Sprintf("array index %d out of bounds (size: %d) in `%s`", index, len(current.Items), path)}
			}
			current = current.Items[index]
		}
		if i+1 >= len(segments) {
			return block{node: current}
		}
		if name, indices, fault = indexed(segments[i+1], path); fault != "" {
			return block{message: fault}
		}
		next := current.Get(name)
		if next == nil {
			return unknown(name, "")
		}
		current = next
	}
}

// indexed splits list[0][1] into its name and indices.
func indexed(segment, path string) (name string, indices []int, fault string) {
	if !strings.Contains(segment, "[") {
		return segment, nil, ""
	}
	m := indexPattern().FindStringSubmatch(segment)
	if m == nil {
		return "", nil, fmt.Sprintf("invalid array index syntax in `%s`", path)
	}
	for _, text := range strings.Split(strings.Trim(m[2], "[]"), "][") {
		i, err := strconv.Atoi(text)
		if err != nil {
			return "", nil, fmt.Sprintf("array index %s out of bounds in `%s`", text, path)
		}
		indices = append(indices, i)
	}
	if len(indices) > maxBlockIndices {
		return "", nil, fmt.Sprintf("too many array indices in `%s` (maximum depth: %d)", path, maxBlockIndices)
	}
	return m[1], indices, ""
}

var blockFunctions = []string{"expand_vars", "truncate", "posix_escape", "split"}

// function applies one of GitLab's functions, which take texts only.
func (ip *interpolator) function(call string, n *Node) block {
	name, _, _ := strings.Cut(call, "(")
	truncate, split := truncatePattern().FindStringSubmatch(call), splitPattern().FindStringSubmatch(call)
	if truncate == nil && split == nil && call != "expand_vars" && call != "posix_escape" {
		hint := pipeline.DidYouMean(name, blockFunctions)
		if name == "truncate" {
			hint = "write truncate(0,8): from the first character, eight of them"
		}
		return block{message: fmt.Sprintf("no function matching `%s`: check that the function name, arguments, and types are correct", call), hint: hint}
	}
	if n.Kind != String {
		return block{message: fmt.Sprintf("invalid input type: %s can only be used with string inputs", name)}
	}
	made := *n
	switch {
	case truncate != nil:
		made.Text = substring(n.Text, truncate[1], truncate[2])
	case split != nil:
		if split[1] == "" {
			return block{message: "invalid argument: separator cannot be empty"}
		}
		list := &Node{Kind: List, At: n.At, Via: n.Via}
		for _, part := range strings.Split(n.Text, split[1]) {
			if part = strings.TrimSpace(part); part != "" {
				list.Items = append(list.Items, &Node{Kind: String, At: n.At, Raw: part, Text: part, size: 1})
			}
		}
		return block{node: list.measure()}
	case call == "expand_vars":
		masked := ""
		made.Text = ip.variables.ExpandServer(n.Text)
		if made.Text != n.Text {
			masked = ip.masked(n.Text)
		}
		if masked != "" {
			return block{message: "variable expansion error: masked variables cannot be expanded", hint: "$" + masked + " is masked"}
		}
	default:
		made.Text = shellEscape(n.Text)
	}
	return block{node: &made}
}

// masked gives the first masked variable that a text refers to.
func (ip *interpolator) masked(text string) string {
	for _, v := range ip.variables {
		if counts, _ := ip.variables.Get(v.Name); !counts.Masked {
			continue
		}
		if alone := (pipeline.Variables{{Name: v.Name, Value: "\x00"}}); strings.Contains(alone.ExpandServer(text), "\x00") {
			return v.Name
		}
	}
	return ""
}

// substring gives as many characters as there are from an offset on.
func substring(s, offset, length string) string {
	from, err1 := strconv.Atoi(offset)
	count, err2 := strconv.Atoi(length)
	runes := []rune(s)
	if err1 != nil || from > len(runes) {
		return ""
	}
	if err2 != nil || count > len(runes)-from {
		count = len(runes) - from
	}
	return string(runes[from : from+count])
}

// shellEscape writes a text as one word of a POSIX shell, as Ruby's Shellwords does.
func shellEscape(s string) string {
	if s == "" {
		return "''"
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n':
			b.WriteString("'\n'")
			continue
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("_-.,:+/@", r):
		default:
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// embedded is a value within a text.
func embedded(n *Node) string {
	if n.IsScalar() {
		return n.Text
	}
	return inspect(n)
}

// inspect writes a list or a map as Ruby does when it becomes a text.
func inspect(n *Node) string {
	switch n.Kind {
	case Null:
		return "nil"
	case String:
		return strconv.Quote(n.Text)
	case List, Reference:
		items := make([]string, len(n.Items))
		for i, item := range n.Items {
			items[i] = inspect(item)
		}
		return "[" + strings.Join(items, ", ") + "]"
	case Map:
		pairs := make([]string, len(n.Pairs))
		for i, p := range n.Pairs {
			pairs[i] = ":" + p.Key + "=>" + inspect(p.Value)
		}
		return "{" + strings.Join(pairs, ", ") + "}"
	default:
		return n.Text
	}
}
