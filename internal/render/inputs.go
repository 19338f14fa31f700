package render

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
)

// Inputs are what a render read, probed or listed of a snapshot: enough to tell whether another snapshot would render the
// same, without rendering it. They survive encoding as text, and take about 50 bytes a file. The zero Inputs are those of
// nothing known.
//
// Inputs that cannot be known file by file (the snapshot's file system has no object ids) are the snapshot as a whole, by
// its digest.
type Inputs struct {
	// The encoded form, which is also what is compared. A whole snapshot: byteWhole and its digest. Else byteTree, the
	// program's identity (8 bytes), the snapshot's rules (length and bytes), and the root as a node:
	//
	//	1 byte   what it is: absent, file, link, folder (and whether it was listed) or deep
	//	length and bytes of the name; the root's is empty
	//	20 bytes its object id, unless absent
	//	16 bytes hash of its visible entries' names and types, if it was listed
	//	length and bytes of its entries, if a folder: nodes in the order of their names
	//
	// A deep folder stands for all that is in it. Only names that lead to something asked for have nodes.
	encoded string
}

// Content identifies what was read, whichever build of the program read it; empty: it is not known.
func (in Inputs) Content() string {
	if in.encoded != "" && in.encoded[0] == byteTree {
		return in.encoded[1+len(program()):]
	}
	return in.encoded
}

const (
	byteWhole = 1
	byteTree  = 2

	nodeAbsent = 0
	nodeFile   = 1
	nodeLink   = 2
	nodeFolder = 3
	nodeListed = 4
	nodeDeep   = 5

	// maxInputs bounds the encoded form in bytes; deeper folders count as a whole in what would be longer.
	maxInputs      = 256 << 10
	maxInputsDepth = 64
)

// sum identifies a listing.
type sum [16]byte

func sumOfListing(entries []fs.DirEntry) sum {
	h := sha256.New()
	var line []byte
	for _, e := range entries {
		line = append(append(line[:0], e.Name()...), 0, kindOf(e.Type()))
		h.Write(line)
	}
	return sum(h.Sum(nil)[:len(sum{})])
}

// kindOf is what a render can tell of a mode.
func kindOf(mode fs.FileMode) byte {
	switch {
	case mode.IsDir():
		return nodeFolder
	case mode&fs.ModeSymlink != 0:
		return nodeLink
	}
	return nodeFile
}

// program identifies this build of the program: another one may render another way.
var program = sync.OnceValue(func() string {
	about := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		about = info.String()
	}
	h := sha256.Sum256([]byte(about))
	return string(h[:8])
})

// Track is [Build] that also tells what the result depends on in the snapshot. The inputs come with an error too, if it is
// a [*delivery.Fault] with delivery.OnChange: as long as they are the same, so is the error. They are not known where a file
// that says what the source ignores cannot be read.
func Track(ctx context.Context, snap delivery.Snapshot, b delivery.Build, vars map[string]string) ([]delivery.Object, Inputs, error) {
	t := newTree(ctx, snap.FS)
	objects, err := render(t, b, vars)
	if f := (*delivery.Fault)(nil); err != nil && (!errors.As(err, &f) || f.Retry != delivery.OnChange) {
		return nil, Inputs{}, err
	}
	return objects, t.inputs(snap), err
}

// inputs are what was asked of t until now.
func (t *tree) inputs(snap delivery.Snapshot) Inputs {
	switch {
	case t.ids == nil && snap.Digest == "":
		return Inputs{}
	case t.ids == nil:
		return Inputs{string(append([]byte{byteWhole}, snap.Digest...))}
	}
	if _, err := t.lstat("."); err != nil || t.untold {
		return Inputs{}
	}
	names := slices.SortedFunc(maps.Keys(t.seen), func(a, b string) int { return comparePaths(a, b) })
	names = slices.DeleteFunc(names, func(name string) bool { return name == "." })
	head := append([]byte{byteTree}, program()...)
	head = appendString(head, snap.Rules)
	for depth := maxInputsDepth; ; depth /= 2 {
		if all := t.appendNode(head, ".", names, depth); len(all) <= maxInputs || depth == 0 {
			return Inputs{string(all)}
		}
	}
}

// comparePaths orders paths so that all that is in a folder follows it at once.
func comparePaths(a, b string) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			switch {
			case a[i] == '/':
				return -1
			case b[i] == '/':
				return 1
			}
			return int(a[i]) - int(b[i])
		}
	}
	return len(a) - len(b)
}

// appendNode adds the node of name; below are the names in it, in order.
func (t *tree) appendNode(to []byte, name string, below []string, depth int) []byte {
	e, base, prefix := t.seen[name], path.Base(name), name+"/"
	if name == "." {
		base, prefix = "", ""
	}
	kind := byte(nodeAbsent)
	hash, listed := t.listed[name]
	if e.there {
		kind = kindOf(e.mode)
	}
	switch {
	case kind == nodeFolder && depth == 0:
		kind = nodeDeep
	case kind == nodeFolder && listed:
		kind = nodeListed
	}
	to = appendString(append(to, kind), base)
	if kind != nodeAbsent {
		to = append(to, e.id[:]...)
	}
	if kind == nodeListed {
		to = append(to, hash[:]...)
	}
	if kind != nodeFolder && kind != nodeListed {
		return to // what was asked for below a file is not there as long as it is a file
	}
	var entries []byte
	for len(below) > 0 {
		child, in := below[0], 1
		for in < len(below) && strings.HasPrefix(below[in], child+"/") {
			in++
		}
		if strings.HasPrefix(child, prefix) {
			entries = t.appendNode(entries, child, below[1:in], depth-1)
		}
		below = below[in:]
	}
	return append(binary.AppendUvarint(to, uint64(len(entries))), entries...)
}

func appendString[T []byte | string](to []byte, s T) []byte {
	return append(binary.AppendUvarint(to, uint64(len(s))), s...)
}

// Known tells whether the inputs are those of a render, and whether its snapshot could name them.
func (in Inputs) Known() bool { return in.encoded != "" }

// Same tells whether everything that was read, probed or listed is the same in snap. It costs a few look-ups where a
// folder as a whole is unchanged. An error means that snap could not be read.
func (in Inputs) Same(snap delivery.Snapshot) (bool, error) {
	if in.encoded == "" {
		return false, nil
	}
	rest := in.encoded[1:]
	if in.encoded[0] == byteWhole {
		return rest == snap.Digest, nil
	}
	ids, ok := snap.FS.(identified)
	if !ok || !strings.HasPrefix(rest, program()) {
		return false, nil
	}
	rules, rest, _ := cutString(rest[len(program()):])
	if rules != snap.Rules {
		return false, nil
	}
	find := ids.Identify
	if f, ok := snap.FS.(finder); ok {
		find = f.Find
	}
	c := comparison{ids: ids, find: find}
	_, same, err := c.node(rest, ".")
	return same, err
}

// comparison looks for a difference between inputs and a snapshot with the same rules.
type comparison struct {
	ids  identified
	find func(string) (git.ObjectID, fs.FileMode, error)
}

// node compares the first node of nodes, which is in the folder dir, and gives the nodes after it.
func (c *comparison) node(nodes, dir string) (rest string, same bool, err error) {
	n, rest, err := cutNode(nodes)
	if err != nil {
		return "", false, err
	}
	name := n.name
	switch {
	case name == "":
		name = "."
	case dir != ".":
		name = dir + "/" + name
	}
	id, mode, err := c.ids.Identify(name)
	there := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", false, fmt.Errorf("look for '%s': %w", name, err)
	}
	switch {
	case n.kind == nodeAbsent && there: // it may be left out
		_, _, err := c.find(name)
		if errors.Is(err, fs.ErrNotExist) {
			return rest, true, nil
		}
		return rest, false, err
	case n.kind == nodeAbsent:
		return rest, true, nil
	case !there || kindOf(mode) != n.is():
		return rest, false, nil
	case string(id[:]) == n.id:
		return rest, true, nil // and so are the rules, and so is all that is in it
	case n.kind != nodeFolder && n.kind != nodeListed:
		return rest, false, nil
	}
	same, err = c.folder(n, name)
	return rest, same, err
}

// folder compares what was asked for in a folder that has changed.
func (c *comparison) folder(n node, name string) (bool, error) {
	_, _, err := c.find(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // it was shown for what was in it
	}
	if err != nil {
		return false, fmt.Errorf("look for '%s': %w", name, err)
	}
	for entries := n.entries; entries != ""; {
		var same bool
		if entries, same, err = c.node(entries, name); err != nil || !same {
			return false, err
		}
	}
	if n.kind == nodeListed {
		entries, err := fs.ReadDir(c.ids, name)
		if err != nil {
			return false, fmt.Errorf("list '%s': %w", name, err)
		}
		hash := sumOfListing(entries)
		return string(hash[:]) == n.listing, nil
	}
	return true, nil
}

// node is one node, decoded.
type node struct {
	kind                       byte
	name, id, listing, entries string
}

// is tells what stood there.
func (n node) is() byte {
	if n.kind == nodeListed || n.kind == nodeDeep {
		return nodeFolder
	}
	return n.kind
}

var errInputs = errors.New("malformed inputs")

// cutNode reads the first node and gives what follows it.
func cutNode(s string) (n node, rest string, err error) {
	if s == "" || s[0] > nodeDeep {
		return n, "", errInputs
	}
	n.kind = s[0]
	name, s, ok := cutString(s[1:])
	n.name = name
	if n.kind != nodeAbsent && ok {
		n.id, s, ok = cutBytes(s, uint64(len(git.ObjectID{})))
	}
	if n.kind == nodeListed && ok {
		n.listing, s, ok = cutBytes(s, uint64(len(sum{})))
	}
	if (n.kind == nodeFolder || n.kind == nodeListed) && ok {
		n.entries, s, ok = cutString(s)
	}
	if !ok {
		return n, "", errInputs
	}
	return n, s, nil
}

func cutString(s string) (first, rest string, ok bool) {
	var size uint64
	for i := range min(len(s), 5) {
		size |= uint64(s[i]&0x7f) << (7 * i)
		if s[i] < 0x80 {
			return cutBytes(s[i+1:], size)
		}
	}
	return "", "", false
}

func cutBytes(s string, n uint64) (first, rest string, ok bool) {
	if n > uint64(len(s)) {
		return "", "", false
	}
	return s[:n], s[n:], true
}

// MarshalText implements [encoding.TextMarshaler].
func (in Inputs) MarshalText() ([]byte, error) {
	return base64.RawStdEncoding.AppendEncode(nil, []byte(in.encoded)), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler]. What MarshalText did not write is an error.
func (in *Inputs) UnmarshalText(text []byte) error {
	*in = Inputs{}
	if base64.RawStdEncoding.DecodedLen(len(text)) > maxInputs {
		return fmt.Errorf("read inputs: %w: longer than %d bytes", errInputs, maxInputs)
	}
	all, err := base64.RawStdEncoding.Strict().AppendDecode(nil, text)
	if err != nil {
		return fmt.Errorf("read inputs: %w: %w", errInputs, err)
	}
	if err := checkInputs(string(all)); err != nil {
		return fmt.Errorf("read inputs: %w", err)
	}
	in.encoded = string(all)
	return nil
}

func checkInputs(s string) error {
	switch {
	case s == "":
		return nil
	case len(s) > 1 && s[0] == byteWhole:
		return nil
	case s[0] != byteTree:
		return errInputs
	}
	_, rest, ok := cutBytes(s[1:], 8)
	if ok {
		_, rest, ok = cutString(rest)
	}
	if !ok {
		return errInputs
	}
	root, rest, err := cutNode(rest)
	if err != nil || rest != "" || root.name != "" || root.is() != nodeFolder {
		return errInputs
	}
	return checkNodes(root.entries, maxInputsDepth)
}

// checkNodes makes sure that the entries of a folder are well-formed, so that a comparison stays in the tree and ends.
func checkNodes(entries string, depth int) error {
	for entries != "" {
		n, rest, err := cutNode(entries)
		if err != nil || depth == 0 || n.name == "." || !fs.ValidPath(n.name) || strings.Contains(n.name, "/") {
			return errInputs
		}
		if err := checkNodes(n.entries, depth-1); err != nil {
			return err
		}
		entries = rest
	}
	return nil
}
