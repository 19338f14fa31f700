package render

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
)

// A build of several parts is rendered as Argo CD's repo server renders an Application's sources, one after the other.
// Each part sees its own root of the snapshot, and the roots of the sources that it names by "$ref".

// The formats of a part, as Argo CD writes them into status.sourceTypes.
const (
	FormatHelm      = "Helm"
	FormatKustomize = "Kustomize"
	FormatDirectory = "Directory"
)

const (
	maxParts  = 100
	chartYAML = "Chart.yaml"
)

// Formats tells for each part of a build what it is rendered as. It looks for a few files in each part's folder.
func Formats(snap delivery.Snapshot, b delivery.Build) []string {
	t := newTree(context.Background(), snap.FS)
	all := make([]string, len(b.Parts))
	for i, p := range b.Parts {
		all[i] = t.at(p.Root).format(p)
	}
	return all
}

// format is what a part asks for or, where it does not say, what its folder has.
func (t *tree) format(p delivery.Part) string {
	switch {
	case p.Helm != nil:
		return FormatHelm
	case p.Kustomize != nil:
		return FormatKustomize
	case p.Directory != nil:
		return FormatDirectory
	// Argo CD goes by the last of these names in alphabetical order, so a folder that has both is a kustomization.
	case len(t.kustomizationFiles(p.Path)) > 0:
		return FormatKustomize
	}
	if mode, err := t.stat(path.Join(p.Path, chartYAML)); err == nil && !mode.IsDir() {
		return FormatHelm
	}
	return FormatDirectory
}

// parts renders the parts of a build. Of objects that come more than once the last one counts.
func (t *tree) parts(b delivery.Build) ([]delivery.Object, error) {
	if len(b.Parts) > maxParts {
		return nil, fault("spec.sources", "split the app", "there are more than %d sources", maxParts)
	}
	var all []delivery.Object
	for i, p := range b.Parts {
		more, err := t.part(p)
		if err != nil {
			return nil, ofPart(err, b.Parts, i)
		}
		if err := checkNamed(more); err != nil {
			return nil, ofPart(err, b.Parts, i)
		}
		if all = append(all, more...); len(all) > maxPlainObjects {
			return nil, ofPart(fault("", "split the app", "the app has more than %d objects", maxPlainObjects), b.Parts, i)
		}
	}
	return lastOnes(all, b.Parts), nil
}

// ofPart says which part an error is about, if there are several.
func ofPart(err error, parts []delivery.Part, i int) error {
	var f *delivery.Fault
	if len(parts) < 2 || !errors.As(err, &f) {
		return err
	}
	of := *f
	name := fmt.Sprintf("source %d", i+1)
	if parts[i].Name != "" {
		name += " (" + parts[i].Name + ")"
	}
	of.Err = fmt.Errorf("%s: %w", name, f.Err)
	return &of
}

// part renders one part.
func (t *tree) part(p delivery.Part) ([]delivery.Object, error) {
	sub := t.at(p.Root)
	defer t.absorb(sub, p.Root)
	if err := sub.checkPath(path.Clean(p.Path)); err != nil {
		return nil, err
	}
	over, err := sub.overrides(p)
	if err != nil {
		return nil, err
	}
	var found []delivery.Object
	switch sub.format(over) {
	case FormatHelm:
		found, err = t.chart(sub, over)
	case FormatKustomize:
		found, err = sub.kustomized(over)
	default:
		found, err = sub.directory(over)
	}
	if err != nil {
		return nil, err
	}
	return flatten(found), nil
}

// flatten puts the items of lists in the place of the lists. Argo CD takes whatever has items for one.
func flatten(objects []delivery.Object) []delivery.Object {
	if !slices.ContainsFunc(objects, func(o delivery.Object) bool { _, ok := o.Object["items"]; return ok }) {
		return objects
	}
	var all []delivery.Object
	for _, o := range objects {
		value, ok := o.Object["items"]
		items, isList := value.([]any)
		_, spec := o.Object["spec"]
		_, status := o.Object["status"]
		switch {
		case ok && value == nil && !spec && !status: // a list of nothing
		case !isList:
			all = append(all, o)
		}
		for _, item := range items {
			if m, ok := item.(map[string]any); ok {
				all = append(all, delivery.Object{Unstructured: &unstructured.Unstructured{Object: m}, Origin: o.Origin})
			}
		}
	}
	return all
}

// checkNamed makes sure that objects tell what they are. A hook may leave its name to be generated.
func checkNamed(objects []delivery.Object) error {
	for _, o := range objects {
		missing := ""
		switch {
		case o.GetAPIVersion() == "":
			missing = "apiVersion"
		case o.GetKind() == "":
			missing = "kind"
		case o.GetName() == "" && (o.GetGenerateName() == "" || !isHook(o)):
			missing = "metadata.name"
		}
		if missing != "" {
			return fault(o.Origin, "", "an object has no %s", missing)
		}
	}
	return nil
}

func isHook(o delivery.Object) bool {
	a := o.GetAnnotations()
	return a["argocd.argoproj.io/hook"] != "" || a["helm.sh/hook"] != ""
}

// lastOnes keeps the last of each object, in its place, and notes on it how often it came. An object that names no
// namespace is that of the app's destination.
func lastOnes(objects []delivery.Object, parts []delivery.Part) []delivery.Object {
	namespace := ""
	if len(parts) > 0 {
		namespace = parts[0].Namespace
	}
	id := func(o delivery.Object) delivery.Ref {
		ref := o.Ref()
		if ref.Namespace == "" {
			ref.Namespace = namespace
		}
		return ref
	}
	times := make(map[delivery.Ref]int, len(objects))
	for _, o := range objects {
		if o.GetName() != "" {
			times[id(o)]++
		}
	}
	if len(times) == len(objects) {
		return objects
	}
	left, kept := make(map[delivery.Ref]int, len(times)), objects[:0:0]
	for ref, n := range times {
		left[ref] = n
	}
	for _, o := range objects {
		if o.GetName() != "" {
			ref := id(o)
			if left[ref]--; left[ref] > 0 {
				continue
			}
			if times[ref] > 1 {
				o.Repeated = times[ref]
			}
		}
		kept = append(kept, o)
	}
	return kept
}

// expand replaces $NAME and ${NAME} in s; "$$" is a "$", and what is not known is nothing.
func expand(s string, env map[string]string) string {
	if !strings.Contains(s, "$") {
		return s
	}
	return os.Expand(s, func(name string) string {
		if name == "$" {
			return "$"
		}
		return env[name]
	})
}

// at is the tree as a part with that root sees it: nothing is above the root. What it learns is told to t by absorb.
func (t *tree) at(root string) *tree {
	if root == "" || path.Clean(root) == "." {
		return t
	}
	sub := newTree(t.ctx, below(t.fsys, path.Clean(root)))
	sub.size = t.size
	return sub
}

// absorb takes over what a part's tree has learned.
func (t *tree) absorb(sub *tree, root string) {
	if sub == t {
		return
	}
	root = path.Clean(root)
	for dir := root; dir != "."; dir = path.Dir(dir) {
		_, _ = t.lstat(dir) // for the inputs, where the folders above each name are looked up
	}
	for name, e := range sub.seen {
		if name != "." {
			t.seen[path.Join(root, name)] = e
		}
	}
	for name, hash := range sub.listed {
		t.listed[path.Join(root, name)] = hash
	}
	t.size = sub.size
	t.untold = t.untold || sub.untold
	if t.failed == nil {
		t.failed = sub.failed
	}
}

// below is a folder of a file system as one.
func below(fsys fs.FS, dir string) fs.FS {
	ids, ok := fsys.(identified)
	if !ok {
		sub, err := fs.Sub(fsys, dir)
		if err != nil {
			return emptyFS{} // the folder is not a path
		}
		if _, ok := fsys.(fs.ReadLinkFS); !ok {
			return plainFS{sub}
		}
		return sub
	}
	view := folderFS{ids, dir}
	if f, ok := fsys.(finder); ok {
		return foundFS{view, f}
	}
	return view
}

// emptyFS has nothing.
type emptyFS struct{}

func (emptyFS) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// plainFS hides that a file system could tell links.
type plainFS struct{ fsys fs.FS }

func (p plainFS) Open(name string) (fs.File, error) { return p.fsys.Open(name) }

// folderFS is a folder of a file system that knows ids.
type folderFS struct {
	identified
	dir string
}

func (f folderFS) Open(name string) (fs.File, error) {
	return f.identified.Open(path.Join(f.dir, name))
}

func (f folderFS) ReadDir(name string) ([]fs.DirEntry, error) {
	return fs.ReadDir(f.identified, path.Join(f.dir, name))
}

func (f folderFS) Stat(name string) (fs.FileInfo, error) {
	return fs.Stat(f.identified, path.Join(f.dir, name))
}

func (f folderFS) ReadLink(name string) (string, error) {
	return f.identified.ReadLink(path.Join(f.dir, name))
}

func (f folderFS) Lstat(name string) (fs.FileInfo, error) {
	return f.identified.Lstat(path.Join(f.dir, name))
}

func (f folderFS) Identify(name string) (git.ObjectID, fs.FileMode, error) {
	return f.identified.Identify(path.Join(f.dir, name))
}

func (f folderFS) ReadAtMost(name string, limit int64) ([]byte, error) {
	return f.identified.ReadAtMost(path.Join(f.dir, name), limit)
}

// foundFS is a folderFS of a file system that leaves out some of what there is.
type foundFS struct {
	folderFS
	finder finder
}

func (f foundFS) Find(name string) (git.ObjectID, fs.FileMode, error) {
	return f.finder.Find(path.Join(f.dir, name))
}
