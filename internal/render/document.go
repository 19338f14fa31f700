package render

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"keelson.dev/keelson/internal/delivery"
)

// checkYAML bounds what a YAML file is expanded to, since kustomize copies an anchor's value to each of its
// aliases, and how deep it is nested, since kustomize takes quadratic time for that. nested tells that strings in
// it may be YAML that kustomize reads as well. Malformed YAML passes: not every file that is named has to be
// YAML, and kustomize will say.
func checkYAML(where string, data []byte, nested bool) error {
	if !mayAlias(data) && !mayNest(data) {
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		if dec.Decode(&doc) != nil {
			return nil
		}
		e := expansion{extents: map[*yaml.Node]extent{}}
		switch all := e.of(&doc); {
		case all.nodes > maxNodes:
			return fault(where, "write it out, without aliases of aliases", "its aliases expand to more than %d values", maxNodes)
		case all.depth > maxDepth:
			return fault(where, "", "it is nested deeper than %d levels", maxDepth)
		}
		if !nested {
			continue
		}
		for _, s := range e.texts {
			if err := checkYAML(where, []byte(s), false); err != nil {
				return err
			}
		}
	}
}

// checkYAMLAt is checkYAML for a place that takes time to tell.
func checkYAMLAt(where func() string, data []byte, nested bool) error {
	if !mayAlias(data) && !mayNest(data) {
		return nil
	}
	return checkYAML(where(), data, nested)
}

func mayAlias[T []byte | string](data T) bool {
	anchor, alias := false, false
	for i := range len(data) {
		anchor = anchor || data[i] == '&'
		alias = alias || data[i] == '*'
	}
	return anchor && alias
}

// mayNest tells, from brackets and indentation alone, whether a text could be nested too deep.
func mayNest(data []byte) bool {
	brackets, indent, atStart := 0, 0, true
	for _, c := range data {
		switch {
		case c == '\n':
			indent, atStart = 0, true
		case atStart && (c == ' ' || c == '-' || c == '?'):
			indent++
		case c == '[' || c == '{':
			brackets++
			atStart = false
		case c == ']' || c == '}':
			brackets = max(0, brackets-1)
			atStart = false
		default:
			atStart = false
		}
		if brackets > maxDepth/2 || indent > maxDepth/2 {
			return true
		}
	}
	return false
}

// expansion measures a document with all aliases expanded, without expanding them.
type expansion struct {
	extents map[*yaml.Node]extent
	texts   []string // scalars that may be YAML with aliases
}

type extent struct{ nodes, depth int64 }

func (e *expansion) of(n *yaml.Node) extent {
	if known, ok := e.extents[n]; ok {
		return known
	}
	e.extents[n] = extent{nodes: maxNodes + 1} // for an anchor that contains itself
	size := extent{nodes: 1}
	add := func(o extent) {
		size.nodes = min(size.nodes+o.nodes, maxNodes+1)
		size.depth = max(size.depth, o.depth+1)
	}
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		add(e.of(n.Alias))
	}
	if n.Kind == yaml.ScalarNode && mayAlias(n.Value) {
		e.texts = append(e.texts, n.Value)
	}
	for _, child := range n.Content {
		add(e.of(child))
	}
	e.extents[n] = size
	return size
}

var yamlLine = regexp.MustCompile(`line (\d+)`)

// syntaxFault is the fault of a malformed YAML file, nil where it can be read.
func syntaxFault(name string, data []byte) *delivery.Fault {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			var v any
			err = doc.Decode(&v) // finds duplicate keys
		}
		if err == nil {
			continue
		}
		message := strings.TrimPrefix(strings.ReplaceAll(err.Error(), "unmarshal errors:\n  ", ""), "yaml: ")
		where := name
		if m := yamlLine.FindStringSubmatchIndex(message); m != nil {
			where += ":" + message[m[2]:m[3]]
			message = strings.TrimLeft(message[m[1]:], ": ")
		}
		return fault(where, "", "malformed YAML: %s", message)
	}
}

// at is name with the line of the first scalar in data that is, or ends in "=", value.
func at(name string, data []byte, value string) string {
	var doc yaml.Node
	if yaml.Unmarshal(data, &doc) != nil {
		return name
	}
	if line := lineOf(&doc, value); line > 0 {
		return name + ":" + strconv.Itoa(line)
	}
	return name
}

func lineOf(n *yaml.Node, value string) int {
	if n.Kind == yaml.ScalarNode && (n.Value == value || strings.HasSuffix(n.Value, "="+value)) {
		return n.Line
	}
	for _, child := range n.Content {
		if line := lineOf(child, value); line > 0 {
			return line
		}
	}
	return 0
}

// header is what identifies an object in a file, and its line.
type header struct {
	apiVersion, kind, namespace, name string
	line                              int
}

func (h header) String() string {
	if h.namespace == "" {
		return h.kind + "/" + h.name
	}
	return h.kind + "/" + h.namespace + "/" + h.name
}

// headers are the objects of a file, with those inside Lists.
func headers(data []byte) []header {
	var all []header
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		if dec.Decode(&doc) != nil {
			return all
		}
		if len(doc.Content) == 1 {
			all = appendHeaders(all, doc.Content[0])
		}
	}
}

// countObjects is an upper bound of the objects in a file, and exact where that is many.
func countObjects(data []byte) int64 {
	const few = 200
	if n := bytes.Count(data, []byte("kind")); n <= few {
		return int64(n)
	}
	return int64(len(headers(data)))
}

func appendHeaders(all []header, n *yaml.Node) []header {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return all
	}
	h := header{line: n.Line, apiVersion: text(n, "apiVersion"), kind: text(n, "kind")}
	if items := child(n, "items"); items != nil && strings.HasSuffix(h.kind, "List") {
		for _, item := range items.Content {
			all = appendHeaders(all, item)
		}
		return all
	}
	if m := child(n, "metadata"); m != nil {
		h.namespace, h.name = text(m, "namespace"), text(m, "name")
	}
	return append(all, h)
}

func child(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func text(n *yaml.Node, key string) string {
	if c := child(n, key); c != nil && c.Kind == yaml.ScalarNode {
		return c.Value
	}
	return ""
}

// line is name:line.
func line(name string, n int) string { return fmt.Sprintf("%s:%d", name, n) }
