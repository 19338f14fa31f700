package config

import (
	"math"

	"keelson.dev/keelson/internal/pipeline"
)

// manyPairs is how many entries of a map are searched one by one.
const manyPairs = 24

// merge puts over on top of under: maps merge, anything else takes the place of what is there, a null and a list too. Each entry of
// the result tells the way that it came by.
func merge(under, over *Node) *Node {
	if under == nil || under.Kind != Map || over.Kind != Map {
		return over
	}
	n := &Node{Kind: Map, At: over.At, Pairs: make([]Pair, 0, len(under.Pairs)+len(over.Pairs))}
	for i := range under.Pairs {
		n.Pairs = append(n.Pairs, under.Pairs[i].moved(under.Via))
	}
	n.grown()
	for i := range over.Pairs {
		p := over.Pairs[i].moved(over.Via)
		if at, found := n.find(p.Key); found {
			p.Value = merge(n.Pairs[at].Value, p.Value)
			n.Pairs[at] = p
			continue
		}
		n.Pairs = append(n.Pairs, p)
		n.grown()
	}
	return n.measure()
}

// grown keeps the index of a map that has got entries.
func (n *Node) grown() {
	switch last := len(n.Pairs) - 1; {
	case n.index != nil:
		n.index[n.Pairs[last].Key] = last
	case last >= manyPairs:
		n.index = make(map[string]int, max(cap(n.Pairs), 2*last))
		for i := range n.Pairs {
			n.index[n.Pairs[i].Key] = i
		}
	}
}

// via gives the same value, one step further on its way.
func (n *Node) via(steps ...pipeline.Via) *Node {
	if len(steps) == 0 {
		return n
	}
	moved := *n
	moved.Via = join(steps, n.Via)
	return &moved
}

// moved gives an entry of a map that came by a way.
func (p Pair) moved(way []pipeline.Via) Pair {
	if len(way) > 0 {
		p.Via = join(way, p.Via)
		p.Value = p.Value.via(way...)
	}
	return p
}

// join puts later steps before earlier ones.
func join(later, earlier []pipeline.Via) []pipeline.Via {
	if len(later) == 0 {
		return earlier
	}
	if len(earlier) == 0 {
		return later[:len(later):len(later)]
	}
	return append(later[:len(later):len(later)], earlier...)
}

// measure sums up what is in a list or a map.
func (n *Node) measure() *Node {
	n.size, n.depth = 1, 0
	for _, item := range n.Items {
		n.add(item)
	}
	for i := range n.Pairs {
		n.size++
		n.blocks = n.blocks || hasBlock(n.Pairs[i].Key)
		n.add(n.Pairs[i].Value)
	}
	n.depth = min(n.depth, math.MaxUint8-1) + 1
	n.refers = n.refers || n.Kind == Reference
	return n
}

func (n *Node) add(child *Node) {
	n.size += child.size
	n.depth = max(n.depth, child.depth)
	n.refers = n.refers || child.refers
	n.blocks = n.blocks || child.blocks
}

// mapBuilder fills a map.
type mapBuilder struct {
	node *Node
	own  []bool // of each pair: it is written there
}

func newMap(n *Node, pairs int) *mapBuilder {
	n.Pairs = make([]Pair, 0, pairs)
	return &mapBuilder{node: n, own: make([]bool, 0, pairs)}
}

// set adds an entry, or gives a key another value in the old place. It gives what it replaced, if that was its own.
func (b *mapBuilder) set(p Pair, own bool) (replaced Pair, wasOwn bool) {
	n := b.node
	if i, found := n.find(p.Key); found {
		replaced, wasOwn = n.Pairs[i], b.own[i]
		n.Pairs[i], b.own[i] = p, own
		return replaced, wasOwn
	}
	n.Pairs, b.own = append(n.Pairs, p), append(b.own, own)
	n.grown()
	return Pair{}, false
}
