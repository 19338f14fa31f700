package config

import (
	"bytes"
	"runtime"
	"sync"

	"go.yaml.in/yaml/v4"
)

// piecesSize is from how many bytes on a document is read in pieces, one for each processor. Reading YAML is what takes the time of
// a large configuration.
const piecesSize = 64 << 10

// inPieces reads a document of at least so many bytes in pieces of whole entries of the top level. It is not done, and nothing is reported, where that
// might not come to the same: with anchors, which other pieces do not know, with a key that several pieces have, and where a piece is
// no map by itself.
func (c *converter) inPieces(text []byte, atLeast int) (*Node, bool) {
	count := min(max(runtime.GOMAXPROCS(0), 2), 4)
	if len(text) < atLeast || hasAnchor(text) || hasOddBreaks(text) {
		return nil, false
	}
	pieces := pieces(entriesOf(text), count)
	if len(pieces) < 2 {
		return nil, false
	}
	converters, roots := make([]*converter, len(pieces)), make([]*Node, len(pieces))
	var group sync.WaitGroup
	for i, p := range pieces {
		group.Go(func() {
			root, err := load(p.text)
			if err != nil || root == nil || root.Kind != yaml.MappingNode || root.Column != 1 || root.Style&yaml.FlowStyle != 0 {
				return
			}
			converters[i] = &converter{file: c.file, lines: c.lines + p.line, anchored: map[*yaml.Node]*Node{}}
			roots[i] = converters[i].node(root)
		})
	}
	group.Wait()
	for _, n := range roots {
		if n == nil || n.Kind != Map {
			return nil, false
		}
	}
	all := newMap(&Node{Kind: Map, At: roots[0].At}, len(roots[0].Pairs)*len(roots))
	for _, n := range roots {
		for _, p := range n.Pairs {
			if _, own := all.set(p, true); own {
				return nil, false
			}
		}
	}
	for _, piece := range converters {
		c.problems = append(c.problems, piece.problems...)
	}
	return all.node.measure(), true
}

// entriesOf cuts a document before each line that begins an entry of the top level, as far as that can be told from the line. The
// first part has what is before the first entry too.
func entriesOf(text []byte) []part {
	if bytes.Contains(text, []byte("\n...")) {
		return []part{{0, text}}
	}
	var parts []part
	start, startLine, begun := 0, 0, false
	for at, line := 0, 0; at < len(text); line++ {
		end := bytes.IndexByte(text[at:], '\n')
		if end < 0 {
			end = len(text)
		} else {
			end += at + 1
		}
		if b := text[at]; (b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '.' || b == '_') && bytes.IndexByte(text[at:end], ':') > 0 {
			if begun {
				parts = append(parts, part{startLine, text[start:at]})
				start, startLine = at, line
			}
			begun = true
		}
		at = end
	}
	return append(parts, part{startLine, text[start:]})
}

// pieces joins neighbours so that there are as many pieces as wanted, of about one size.
func pieces(entries []part, count int) []part {
	total := 0
	for _, e := range entries {
		total += len(e.text)
	}
	var joined []part
	for i := 0; i < len(entries); {
		p := entries[i]
		want := total / count
		for i++; i < len(entries) && len(p.text) < want; i++ {
			p.text = p.text[:len(p.text)+len(entries[i].text)] // they lie one behind the other
		}
		joined = append(joined, p)
	}
	return joined
}

// hasAnchor tells whether there is what may be an anchor.
func hasAnchor(text []byte) bool {
	for at := 0; ; {
		i := bytes.IndexByte(text[at:], '&')
		if i < 0 {
			return false
		}
		at += i + 1
		before, after := byte(' '), byte(' ')
		if at > 1 {
			before = text[at-2]
		}
		if at < len(text) {
			after = text[at]
		}
		if (before <= ' ' || bytes.IndexByte([]byte("[{,:-?"), before) >= 0) && after > ' ' && after != '&' {
			return true
		}
	}
}
