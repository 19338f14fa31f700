package render

import (
	"bytes"
	"cmp"
	"errors"
	"io/fs"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"helm.sh/helm/v4/pkg/ignore"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
)

const (
	maxChartFiles = 20_000
	maxChartDepth = 40 // folders, so that a link to a folder above ends
)

// chart renders a part as a chart: it reads all that Helm would read, and has a child run the templates. sub is the part's
// tree in t.
func (t *tree) chart(sub *tree, p delivery.Part) ([]delivery.Object, error) {
	var asked delivery.Helm
	if p.Helm != nil {
		asked = *p.Helm
	}
	c := &chart{
		Name: asked.ReleaseName, Namespace: asked.Namespace, Kube: asked.KubeVersion, APIs: asked.APIVersions,
		SkipCRDs: asked.SkipCRDs, SkipTests: asked.SkipTests, SkipSchema: asked.SkipSchemaValidation,
	}
	c.Name = cmp.Or(c.Name, p.Release)
	c.Namespace = cmp.Or(c.Namespace, p.Namespace, "default")
	if c.Kube = cmp.Or(c.Kube, p.KubeVersion); len(c.APIs) == 0 {
		c.APIs = p.APIVersions
	}
	dir := path.Clean(p.Path)
	var err error
	if c.Files, err = sub.chartFiles(dir, dir); err != nil {
		return nil, err
	}
	v := valueFiles{tree: t, sub: sub, part: p}
	if c.Values, err = v.all(asked); err != nil {
		return nil, err
	}
	if asked.Values != "" {
		c.Values = append(c.Values, chartFile{"spec.source.helm.values", []byte(asked.Values)})
	}
	for _, param := range asked.Parameters {
		param.Value = expand(param.Value, p.Env)
		c.Parameters = append(c.Parameters, param)
	}
	for _, param := range asked.FileParameters {
		data, err := v.content(param)
		if err != nil {
			return nil, err
		}
		c.Contents = append(c.Contents, chartFile{param.Name, data})
	}
	done, err := runTask(t.ctx, nil, task{Chart: c})
	if err != nil {
		return nil, ofChart(err, dir)
	}
	return madeObjects(done.Made, dir), nil
}

// chartFiles reads the chart in a folder; messages call the folder as shown.
func (t *tree) chartFiles(dir, shown string) ([]chartFile, error) {
	if mode, err := t.stat(path.Join(dir, chartYAML)); err != nil || mode.IsDir() {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, readFault(shown, err)
		}
		return nil, fault(shown, "name the chart's folder as path", "there is no %s, so it is not a chart", chartYAML)
	}
	g := gathering{tree: t, root: dir, shown: shown}
	if err := g.rules(); err != nil {
		return nil, err
	}
	if err := g.folder(".", 0); err != nil {
		return nil, err
	}
	return g.files, nil
}

// ofChart gives a child's error with its place in the repository.
func ofChart(err error, dir string) error {
	var failed *childError
	if !errors.As(err, &failed) {
		return err
	}
	where := failed.where
	switch {
	case where == "":
		where = dir
	case strings.HasPrefix(where, "/"):
		where = where[1:]
	case !strings.HasPrefix(where, "spec.") && !strings.HasPrefix(where, "--"):
		where = path.Join(dir, where)
	}
	return fault(where, failed.hint, "%w", failed)
}

// madeObjects are a child's objects, with origins below dir.
func madeObjects(all []product, dir string) []delivery.Object {
	objects := make([]delivery.Object, len(all))
	for i, m := range all {
		objects[i] = delivery.Object{Unstructured: &unstructured.Unstructured{Object: m.Object}, Origin: path.Join(dir, m.Origin)}
	}
	return objects
}

// gathering reads the files of a chart's folder that are not ignored.
type gathering struct {
	*tree
	root   string
	shown  string // what messages call root
	ignore *ignore.Rules
	files  []chartFile
	bytes  int
}

// rules reads the chart's .helmignore.
func (g *gathering) rules() error {
	g.ignore = ignore.Empty()
	name := path.Join(g.root, ignore.HelmIgnore)
	data, err := g.read(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return readFault(path.Join(g.shown, ignore.HelmIgnore), err)
	default:
		if g.ignore, err = ignore.Parse(bytes.NewReader(data)); err != nil {
			return fault(path.Join(g.shown, ignore.HelmIgnore), "", "malformed rules: %w", err)
		}
	}
	g.ignore.AddDefaults()
	return nil
}

func (g *gathering) folder(dir string, depth int) error {
	if depth > maxChartDepth {
		return fault(path.Join(g.shown, dir), "links may not lead to a folder above", "the chart's folders are nested deeper than %d", maxChartDepth)
	}
	entries, err := g.readDir(path.Join(g.root, dir))
	if err != nil {
		return readFault(path.Join(g.shown, dir), err)
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		full, shown := path.Join(g.root, name), path.Join(g.shown, name)
		isDir := e.IsDir()
		if e.Type()&fs.ModeSymlink != 0 {
			mode, err := g.stat(full)
			if err != nil {
				return readFault(shown, err)
			}
			isDir = mode.IsDir()
		}
		if g.ignore.Ignore(name, entryInfo{e.Name(), isDir}) {
			continue
		}
		if isDir {
			if err := g.folder(name, depth+1); err != nil {
				return err
			}
			continue
		}
		data, err := g.read(full)
		if err != nil {
			return readFault(shown, err)
		}
		if err := checkChartYAML(shown, name, data); err != nil {
			return err
		}
		g.files = append(g.files, chartFile{name, data})
		if g.bytes += len(data); g.bytes > maxInputBytes {
			return fault(shown, "split the chart, or keep what is no part of it out by "+ignore.HelmIgnore, "the chart is larger than %d MiB", maxInputBytes>>20)
		}
		if len(g.files) > maxChartFiles {
			return fault(shown, "split the chart, or keep what is no part of it out by "+ignore.HelmIgnore, "the chart has more than %d files", maxChartFiles)
		}
	}
	return nil
}

// checkChartYAML finds what is malformed in the chart's own files, since Helm does not tell the line.
func checkChartYAML(full, name string, data []byte) error {
	if name != chartYAML && name != "values.yaml" && name != "Chart.lock" {
		return nil
	}
	if err := checkYAML(full, data, false); err != nil {
		return err
	}
	if f := syntaxFault(full, data); f != nil && !strings.Contains(f.Error(), "already defined") { // Helm takes the last of a key
		return f
	}
	return nil
}

// entryInfo is what rules want to know of a file.
type entryInfo struct {
	name string
	dir  bool
}

func (e entryInfo) Name() string       { return e.name }
func (e entryInfo) Size() int64        { return 0 }
func (e entryInfo) ModTime() time.Time { return time.Time{} }
func (e entryInfo) IsDir() bool        { return e.dir }
func (e entryInfo) Sys() any           { return nil }
func (e entryInfo) Mode() fs.FileMode {
	if e.dir {
		return fs.ModeDir
	}
	return 0
}

// valueFiles finds the files that a part's Helm options name: beside the chart, by "/…" in the source, by "$ref/…" in another.
type valueFiles struct {
	tree *tree // the whole snapshot
	sub  *tree // the part's source
	part delivery.Part
}

// namedFile is a file or a glob in one of the sources.
type namedFile struct {
	root, name string
}

func isGlob(name string) bool { return strings.ContainsAny(name, "*?[") }

// all reads the value files in their order. As in Argo CD, a file is read once, and one that a glob matches and that is named
// as well has the place where it is named.
func (v *valueFiles) all(asked delivery.Helm) ([]chartFile, error) {
	const where = "spec.source.helm.valueFiles"
	var found []chartFile
	seen, explicit := map[namedFile]bool{}, map[namedFile]bool{}
	for _, raw := range asked.ValueFiles {
		if n, err := v.resolve(where, raw); err == nil && !isGlob(n.name) {
			explicit[n] = true
		}
	}
	for _, raw := range asked.ValueFiles {
		n, err := v.resolve(where, raw)
		if err != nil {
			return nil, err
		}
		names := []namedFile{n}
		if isGlob(n.name) {
			if names, err = v.matches(n); err != nil {
				return nil, err
			}
			if len(names) == 0 && !asked.IgnoreMissingValueFiles {
				return nil, fault(where, "add one, or set ignoreMissingValueFiles", "no values file is like '%s'", raw)
			}
			names = slices.DeleteFunc(names, func(n namedFile) bool { return explicit[n] })
		}
		for _, n := range names {
			if seen[n] {
				continue
			}
			data, err := v.read(n)
			switch {
			case errors.Is(err, fs.ErrNotExist) && asked.IgnoreMissingValueFiles:
				continue
			case errors.Is(err, fs.ErrNotExist):
				return nil, fault(where, "add it, or set ignoreMissingValueFiles", "values file '%s' does not exist (%s)", raw, n.name)
			case err != nil:
				return nil, readFault(n.name, err)
			}
			seen[n] = true
			found = append(found, chartFile{n.name, data})
			if err := checkYAML(n.name, data, false); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// content is what a file parameter names.
func (v *valueFiles) content(p delivery.Parameter) ([]byte, error) {
	const where = "spec.source.helm.fileParameters"
	n, err := v.resolve(where, p.Value)
	if err != nil {
		return nil, err
	}
	data, err := v.read(n)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fault(where, "add it", "file '%s' of parameter '%s' does not exist (%s)", p.Value, p.Name, n.name)
	case err != nil:
		return nil, readFault(n.name, err)
	}
	return data, nil
}

// resolve tells which file is meant.
func (v *valueFiles) resolve(where, raw string) (namedFile, error) {
	const own = "commit the file, or make its repository a source with a ref"
	root, name := v.part.Root, raw
	if first, rest, _ := strings.Cut(raw, "/"); strings.HasPrefix(first, "$") {
		ref, ok := v.part.Refs[first]
		if !ok {
			ref, ok = v.part.Refs[strings.TrimPrefix(first, "$")]
		}
		if ok {
			root, name = ref, "/"+rest
		} else if _, known := v.part.Env[strings.Trim(first, "${}")]; !known {
			return namedFile{}, fault(where, "give the source that it is in a ref of that name", "'%s': there is no source with ref '%s'", raw, first[1:])
		}
	}
	name = expand(name, v.part.Env)
	if u, err := url.Parse(name); err == nil && u.Scheme != "" {
		return namedFile{}, fault(where, own, "'%s' is remote, and a render uses no network", redactUserinfo(withoutQuery(name)))
	}
	if rest, ok := strings.CutPrefix(name, "/"); ok {
		name = path.Join(".", rest)
		if leaves(".", rest) {
			name = ".."
		}
	} else {
		name = path.Join(path.Clean(v.part.Path), name)
	}
	if !fs.ValidPath(name) || name == "." {
		return namedFile{}, fault(where, "use a path inside the repository", "'%s': %w", raw, delivery.ErrEscapes)
	}
	return namedFile{path.Clean(root), name}, nil
}

func withoutQuery(address string) string {
	address, _, _ = strings.Cut(address, "?")
	return address
}

// in gives the tree of a root, and what is to be called with it afterwards.
func (v *valueFiles) in(root string) (*tree, func()) {
	if root == path.Clean(v.part.Root) {
		return v.sub, func() {}
	}
	sub := v.tree.at(root)
	sub.size = v.sub.size
	return sub, func() {
		v.sub.size = sub.size
		v.tree.absorb(sub, root)
	}
}

func (v *valueFiles) read(n namedFile) ([]byte, error) {
	t, done := v.in(n.root)
	defer done()
	return t.read(n.name)
}

// matches are the files that a glob names, in the order of their names.
func (v *valueFiles) matches(n namedFile) ([]namedFile, error) {
	if !doublestar.ValidatePattern(n.name) {
		return nil, fault("spec.source.helm.valueFiles", "", "'%s' is not a glob", n.name)
	}
	t, done := v.in(n.root)
	defer done()
	base, _ := doublestar.SplitPattern(n.name)
	depth := strings.Count(n.name, "/")
	if strings.Contains(n.name, "**") {
		depth = maxChartDepth
	}
	var found []namedFile
	var walk func(dir string, depth int) error
	walk = func(dir string, depth int) error {
		entries, err := t.readDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			name := path.Join(dir, e.Name())
			if e.IsDir() && depth > 0 {
				if err := walk(name, depth-1); err != nil {
					return err
				}
			}
			if ok, _ := doublestar.Match(n.name, name); ok && !e.IsDir() {
				found = append(found, namedFile{n.root, name})
			}
		}
		return nil
	}
	if err := walk(base, depth); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, readFault(base, err)
	}
	slices.SortFunc(found, func(a, b namedFile) int { return strings.Compare(a.name, b.name) })
	return found, nil
}
