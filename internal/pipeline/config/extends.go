package config

import (
	"fmt"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

const (
	// maxExtends is how many jobs may extend each other in a chain.
	maxExtends = 11
	// maxExpanded bounds the values of a configuration after extends and references, which repeat them.
	maxExpanded = 4_000_000
)

// extender gives each entry of the top level what it extends.
type extender struct {
	root     *Node
	report   func(pipeline.Problem)
	extended map[string]*extended
	stack    []string
	size     int
}

type extended struct {
	value  *Node // nil: it is being made
	height int   // the longest chain of extends that it begins
	lacks  bool  // some of what it extends could not be had
}

// extend resolves extends, in the order of the top level: the parents are merged from left to right, then the entry itself on top.
// Its second result are the entries that lack some of what they extend, which is reported.
func extend(root *Node, report func(pipeline.Problem)) (*Node, map[string]bool) {
	e := &extender{root: root, report: report, extended: make(map[string]*extended, len(root.Pairs)), size: root.size}
	var changed *Node
	var lacking map[string]bool
	for i := range root.Pairs {
		p := &root.Pairs[i]
		if p.Value.Kind != Map || p.Value.Get("extends") == nil {
			continue
		}
		own := e.entry(i)
		if own.lacks {
			if lacking == nil {
				lacking = map[string]bool{}
			}
			lacking[p.Key] = true
		}
		if changed == nil {
			copied := *root
			copied.Pairs = append([]Pair(nil), root.Pairs...)
			changed = &copied
		}
		changed.Pairs[i].Value = own.value
	}
	if changed == nil {
		return root, nil
	}
	return changed.measure(), lacking
}

func (e *extender) entry(i int) *extended {
	p := &e.root.Pairs[i]
	if known := e.extended[p.Key]; known != nil {
		return known
	}
	own := &extended{}
	e.extended[p.Key] = own
	extends := p.Value.Get("extends")
	if extends == nil {
		own.value = p.Value
		return own
	}
	e.stack = append(e.stack, p.Key)
	names := []*Node{extends}
	switch extends.Kind {
	case List:
		names = extends.Items
	case Null:
		names = nil
	}
	var merged *Node
	for _, name := range names {
		parent := e.parent(p, extends, name)
		own.lacks = own.lacks || parent == nil || parent.lacks
		if parent != nil && parent.value != nil {
			own.height = max(own.height, parent.height+1)
			from := parent.value.via(pipeline.Via{How: "extends", Name: name.Text, At: name.At})
			if merged == nil {
				merged = merge(&Node{Kind: Map}, from)
			} else {
				merged = merge(merged, from)
			}
		}
	}
	e.stack = e.stack[:len(e.stack)-1]
	if own.height == maxExtends+1 {
		e.fail(p, extends, "extends-too-deep", fmt.Sprintf("more than %d jobs extend each other", maxExtends), "nesting too deep in `extends`")
	}
	if merged == nil || own.height > maxExtends {
		own.value, own.lacks = p.Value, own.lacks || merged != nil
		return own
	}
	own.value = merge(merged, p.Value)
	if e.size += own.value.size - p.Value.size; e.size > maxExpanded {
		if e.size-own.value.size <= maxExpanded {
			e.fail(p, extends, "yaml-too-large", "", fmt.Sprintf("with what is extended there are more than %d values", maxExpanded))
		}
		own.value, own.lacks = p.Value, true
	}
	return own
}

// parent finds what an entry extends; nil: it cannot be extended, which is reported.
func (e *extender) parent(p *Pair, extends, name *Node) *extended {
	i, found := e.root.find(name.Text)
	switch {
	case !name.IsScalar():
		e.fail(p, name, "invalid-extends", "", "`extends` should be a text or a list of texts")
		return nil
	case !found:
		e.fail(p, name, "unknown-extends", e.suggest(name.Text), fmt.Sprintf("unknown keys in `extends` (%s)", name.Text))
		return nil
	case e.root.Pairs[i].Value.Kind != Map:
		e.fail(p, name, "invalid-extends", "only a job can be extended", fmt.Sprintf("invalid base hashes in `extends` (%s)", name.Text))
		return nil
	}
	for at, key := range e.stack {
		if key == name.Text {
			e.fail(p, name, "extends-cycle", strings.Join(append(e.stack[at:len(e.stack):len(e.stack)], key), " extends "), "circular dependency detected in `extends`")
			return nil
		}
	}
	return e.entry(i)
}

func (e *extender) fail(p *Pair, n *Node, code, hint, message string) {
	e.report(pipeline.Problem{
		Severity: pipeline.Error, Code: code, Job: p.Key, Message: p.Key + ": " + message, Hint: hint,
		At: n.At, Via: n.Within(p.Value.Within(e.root.Via)),
	})
}

// suggest names the entry that was likely meant.
func (e *extender) suggest(name string) string {
	names := make([]string, 0, len(e.root.Pairs))
	for _, p := range e.root.Pairs {
		if p.Value.Kind == Map {
			names = append(names, p.Key)
		}
	}
	return pipeline.DidYouMean(name, names)
}
