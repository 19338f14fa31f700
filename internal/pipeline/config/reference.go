package config

import (
	"fmt"
	"strconv"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// maxReferences is how many references may lead to each other in a chain.
const maxReferences = 100

// resolver puts what references refer to in their place.
type resolver struct {
	root     *Node
	report   func(pipeline.Problem)
	job      string             // entry of the top level that is resolved now
	resolved map[string]outcome // by path
	stack    []string           // paths that are being resolved
	size     int
	overflow bool
}

// outcome is what a path comes to; without a node it is nothing, for a reason that is empty where it has been told.
type outcome struct {
	node                *Node
	code, message, hint string
}

// resolve replaces all references in a tree. What cannot be resolved is left out of its list or map.
func resolve(root *Node, report func(pipeline.Problem)) *Node {
	if !root.refers {
		return root
	}
	r := &resolver{root: root, report: report, resolved: map[string]outcome{}, size: root.size}
	b := newMap(&Node{Kind: Map, At: root.At, Via: root.Via}, len(root.Pairs))
	for _, p := range root.Pairs {
		r.job = p.Key
		if p.Value = r.node(p.Value, root.Via); p.Value != nil {
			b.set(p, true)
		}
	}
	return b.node.measure()
}

// node resolves what is in a node, which came by a way; nil: it is a reference to nothing.
func (r *resolver) node(n *Node, way []pipeline.Via) *Node {
	if !n.refers {
		return n
	}
	way = n.Within(way)
	switch n.Kind {
	case Reference:
		return r.reference(n, way)
	case List:
		made := &Node{Kind: List, At: n.At, Via: n.Via, Items: make([]*Node, 0, len(n.Items))}
		for _, item := range n.Items {
			if item = r.node(item, way); item != nil {
				made.Items = append(made.Items, item)
			}
		}
		return made.measure()
	default:
		b := newMap(&Node{Kind: Map, At: n.At, Via: n.Via}, len(n.Pairs))
		for _, p := range n.Pairs {
			if p.Value = r.node(p.Value, way); p.Value != nil {
				b.set(p, true)
			}
		}
		return b.node.measure()
	}
}

func (r *resolver) reference(n *Node, way []pipeline.Via) *Node {
	names := make([]string, len(n.Items))
	for i, item := range n.Items {
		names[i] = item.Text
	}
	path := strings.Join(names, "\x00")
	known, ok := r.resolved[path]
	if !ok {
		known = r.path(path, names)
		if known.code != "reference-cycle" {
			r.resolved[path] = known
		}
	}
	target := known.node
	if target == nil {
		if known.message != "" {
			r.fail(n, way, known.code, known.hint, known.message)
		}
		return nil
	}
	if r.size += target.size; r.size > maxExpanded || target.depth > maxDepth {
		if !r.overflow {
			r.overflow = true
			r.fail(n, way, "yaml-too-large", "", fmt.Sprintf("The parsed YAML is too big: with its references it has more than %d values, or more than %d within each other",
				maxExpanded, maxDepth))
		}
		return nil
	}
	return target.via(join(n.Via, []pipeline.Via{{How: "reference", Name: strings.Join(names, ", "), At: n.At}})...)
}

// path gives what a reference refers to, with all references in it resolved.
func (r *resolver) path(path string, names []string) outcome {
	for _, open := range r.stack {
		if open == path {
			return outcome{code: "reference-cycle", message: written(names) + " is part of a circular chain"}
		}
	}
	if len(r.stack) >= maxReferences {
		return outcome{code: "reference-too-deep", message: fmt.Sprintf("%s: more than %d references lead to each other", written(names), maxReferences)}
	}
	r.stack = append(r.stack, path)
	defer func() { r.stack = r.stack[:len(r.stack)-1] }()
	found, hint := r.find(names)
	if found == nil {
		return outcome{code: "reference-not-found", message: written(names) + " could not be found", hint: hint}
	}
	target := r.node(found, nil)
	if target == nil { // it is a reference to nothing itself, which is told
		return outcome{}
	}
	if target.Kind == Null || target.Kind == Bool && !target.Bool {
		return outcome{code: "reference-not-found", message: written(names) + " could not be found", hint: hint}
	}
	return outcome{node: target}
}

// find looks a path up. Its result has come by the ways of all that it is in.
func (r *resolver) find(names []string) (found *Node, hint string) {
	at := r.root
	way := r.root.Via
	for i, name := range names {
		if at.Kind != Map {
			return nil, fmt.Sprintf("`%s` is no map", strings.Join(names[:i], "` → `"))
		}
		next := at.Get(name)
		if next == nil {
			where := "there is no `" + name + "` at the top level"
			if i > 0 {
				where = fmt.Sprintf("`%s` has no `%s`", strings.Join(names[:i], "` → `"), name)
			}
			if hint := pipeline.DidYouMean(name, keys(at)); hint != "" {
				where += "; " + hint
			}
			return nil, where
		}
		if i < len(names)-1 {
			way = join(way, next.Via)
		}
		at = next
	}
	return at.via(way...), "it is there, but it is empty or false"
}

func keys(n *Node) []string {
	all := make([]string, len(n.Pairs))
	for i, p := range n.Pairs {
		all[i] = p.Key
	}
	return all
}

// written is a reference as GitLab's messages have it.
func written(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = strconv.Quote(n)
	}
	return "!reference [" + strings.Join(quoted, ", ") + "]"
}

func (r *resolver) fail(n *Node, way []pipeline.Via, code, hint, message string) {
	r.report(pipeline.Problem{Severity: pipeline.Error, Code: code, Job: r.job, Message: message, Hint: hint, At: n.At, Via: way})
}
