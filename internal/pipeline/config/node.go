// Package config reads the files of a pipeline: text becomes a tree ([Node]) with GitLab's scalar rules; includes, inputs,
// extends and !reference are resolved in it; its keywords become a [pipeline.Config]. Every value knows where it is written and
// how it came to where it counts, so that each problem points at a line. All problems are found at once.
//
// The package is pure: files come through [Files].
package config

import (
	"keelson.dev/keelson/internal/pipeline"
)

// Kind is what a [Node] is.
type Kind uint8

// The kinds of nodes.
const (
	Null Kind = iota
	String
	Bool
	Int
	Float
	List
	Map
	Reference // !reference [job, key, …], until it is resolved: a list of texts
)

// Node is a YAML value after GitLab's scalar rules (Ruby's Psych), with its position. Nodes are shared between places and never
// changed once they are made.
type Node struct {
	Kind   Kind
	Bool   bool
	Plain  bool  // a scalar without quotes
	refers bool  // there are references in it, or it is one
	blocks bool  // there are texts with $[[ in it, or it is one
	depth  uint8 // lists and maps within each other, itself too; 0: a scalar
	size   int   // nodes in it, itself and its keys too, where a shared one counts at each place
	At     pipeline.Position
	// Via tells how it came to where it stands now, the last step first; nil: it is written there. What is within a list or a
	// map came the same way, and before that as its own Via tells: see [Node.Within].
	Via   []pipeline.Via
	Raw   string // a scalar as it is written, without quotes
	Text  string // a scalar as GitLab turns it into a string: 012345 is "5349", yes is "true", null is ""
	Int   int64
	Float float64
	Items []*Node        // of a list or a reference
	Pairs []Pair         // of a map, in its order; a key is there once
	index map[string]int // into Pairs, of a map with many
}

// Pair is an entry of a map.
type Pair struct {
	Key   string
	KeyAt pipeline.Position
	Via   []pipeline.Via // how the entry came there; a map that was merged of several has no way of its own
	Value *Node
}

// Get gives the value of a key; nil: a map without it, or no map.
func (n *Node) Get(key string) *Node {
	if n == nil || n.Kind != Map {
		return nil
	}
	if i, ok := n.find(key); ok {
		return n.Pairs[i].Value
	}
	return nil
}

func (n *Node) find(key string) (int, bool) {
	if n.index != nil {
		i, ok := n.index[key]
		return i, ok
	}
	for i := range n.Pairs {
		if n.Pairs[i].Key == key {
			return i, true
		}
	}
	return 0, false
}

// Within gives the whole way of a value that is in something which came by the way outer: outer's steps are later, and come first.
func (n *Node) Within(outer []pipeline.Via) []pipeline.Via {
	if len(outer) == 0 {
		return n.Via
	}
	if len(n.Via) == 0 {
		return outer
	}
	return append(outer[:len(outer):len(outer)], n.Via...)
}

// IsNull tells whether it is nothing, or YAML's null.
func (n *Node) IsNull() bool { return n == nil || n.Kind == Null }

// IsScalar tells whether it has a Text.
func (n *Node) IsScalar() bool {
	return n != nil && n.Kind != List && n.Kind != Map && n.Kind != Reference
}

// Document is a merged configuration before its keywords are looked at.
type Document struct {
	Root  *Node // a map; includes, extends and references are resolved
	Files []pipeline.File
	Spec  []pipeline.InputSpec
	// Incomplete tells that an include could not be read: jobs and keywords that are missing may be in it.
	Incomplete bool
	lacking    map[string]bool // entries of the top level without some of what they extend
}

// Files gives the texts that a configuration is made of. A missing file is an error that wraps [io/fs.ErrNotExist].
type Files interface {
	// Read gives the files that an include names, a wildcard in a local path being several, in the order of their names.
	// Local paths are those of from: the file with the include (its zero value: the repository of the pipeline).
	Read(include pipeline.Include, from Source) ([]Source, error)
}

// What reads files need not give more than this for one include.
const (
	MaxIncludes  = maxIncludes
	MaxTotalSize = maxTotalSize // bytes of their texts
)

// Source is a file that was read, and where its own local includes are looked up.
type Source struct {
	Name    string // for positions
	Text    []byte
	Project string // of another repository, with its commit: the local includes in it are its own
	SHA     string
	// Component is set for a component, whose own spec:component values these are (name, sha, version, reference).
	Component map[string]string
}

// Options is what a configuration is read for.
type Options struct {
	Path   string // of the first file; ".gitlab-ci.yml"
	Text   []byte // of the first file
	Files  Files  // nil: every include is an error
	Inputs map[string]pipeline.Input
	// Variables are those that include paths and include:rules see: the predefined ones of the pipeline, and those of project,
	// group, instance and pipeline.
	Variables pipeline.Variables
	Context   *pipeline.Context // for changes and exists of include:rules; nil: they are not known
}
