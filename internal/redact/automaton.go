package redact

// automaton is Aho and Corasick's: it finds all of many patterns in one pass, in time that grows with the text alone. Its
// memory grows with the patterns alone: a node per byte.
type automaton struct {
	root  [256]int32 // the node after one byte; 0: none begins so
	nodes []node     // the first one is the root; empty: there are no patterns
}

// node is a prefix of some pattern.
type node struct {
	fail  int32 // the longest proper suffix of it that is a prefix too
	child int32 // the first one that is a byte longer; 0: none
	next  int32 // the next one that differs in its last byte
	deep  int32 // its length
	match int32 // the length of the longest pattern that it ends with; 0: none
	char  byte  // its last byte
	kind  int8  // of that pattern
}

// add adds a pattern; the first kind of several for one text counts.
func (a *automaton) add(pattern []byte, kind int8) {
	if len(a.nodes) == 0 {
		a.nodes = append(make([]node, 0, 64), node{})
	}
	var at int32
	for _, b := range pattern {
		to := a.child(at, b)
		if to == 0 {
			to = int32(len(a.nodes))
			a.nodes = append(a.nodes, node{char: b, deep: a.nodes[at].deep + 1})
			if at == 0 {
				a.root[b] = to
			} else {
				a.nodes[to].next, a.nodes[at].child = a.nodes[at].child, to
			}
		}
		at = to
	}
	if n := &a.nodes[at]; at != 0 && n.match == 0 {
		n.match, n.kind = n.deep, kind
	}
}

// child is the node that is a byte longer; 0: there is none.
func (a *automaton) child(at int32, b byte) int32 {
	if at == 0 {
		return a.root[b]
	}
	c := a.nodes[at].child
	for c != 0 && a.nodes[c].char != b {
		c = a.nodes[c].next
	}
	return c
}

// link makes the automaton ready once all patterns are added.
func (a *automaton) link() {
	queue := make([]int32, 0, len(a.nodes))
	for b, first := range a.root {
		// With fold two bytes lead to one node, whose byte is the small letter.
		if first != 0 && a.nodes[first].char == byte(b) {
			queue = append(queue, first)
		}
	}
	for i := 0; i < len(queue); i++ {
		at := queue[i]
		for c := a.nodes[at].child; c != 0; c = a.nodes[c].next {
			n := &a.nodes[c]
			if n.fail = a.step(a.nodes[at].fail, n.char); n.match == 0 {
				n.match, n.kind = a.nodes[n.fail].match, a.nodes[n.fail].kind
			}
			queue = append(queue, c)
		}
	}
}

// fold makes the first byte match in both cases; [automaton.step] is given small letters then. It is called before link.
func (a *automaton) fold() {
	for b := byte('a'); b <= 'z'; b++ {
		a.root[b-'a'+'A'] = a.root[b]
	}
}

// step gives the node after another byte: the longest suffix of the text so far that is a prefix of some pattern.
func (a *automaton) step(at int32, b byte) int32 {
	for at != 0 {
		if c := a.child(at, b); c != 0 {
			return c
		}
		at = a.nodes[at].fail
	}
	return a.root[b]
}

func (a *automaton) depth(at int32) int32 { return a.nodes[at].deep }
