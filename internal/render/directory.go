package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/gobwas/glob"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	k8sjson "k8s.io/apimachinery/pkg/util/json"
	kubeyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"keelson.dev/keelson/internal/delivery"
)

// skipMarker in a file keeps it from being rendered (Argo CD: user-guide/directory).
const skipMarker = "+argocd:skip-file-rendering"

// maxGlob bounds a pattern, in bytes.
const maxGlob = 4 << 10

// directory renders a part as a folder of manifests.
func (t *tree) directory(p delivery.Part) ([]delivery.Object, error) {
	var asked delivery.Directory
	if p.Directory != nil {
		asked = *p.Directory
	}
	l := listing{tree: t, root: path.Clean(p.Path), asked: asked}
	var err error
	if l.include, err = compileGlob("include", asked.Include); err != nil {
		return nil, err
	}
	if l.exclude, err = compileGlob("exclude", asked.Exclude); err != nil {
		return nil, err
	}
	if err := l.folder("."); err != nil {
		return nil, err
	}
	var all []delivery.Object
	var size sizer
	for _, name := range l.found {
		more, err := t.manifests(name, p, asked, &size)
		if err != nil {
			return nil, err
		}
		if all = append(all, more...); len(all) > maxPlainObjects {
			return nil, fault(name, "split the app", "the folder makes more than %d objects", maxPlainObjects)
		}
	}
	return all, nil
}

func compileGlob(field, pattern string) (*glob.Pattern, error) {
	where := "spec.source.directory." + field
	if pattern == "" {
		return nil, nil
	}
	if len(pattern) > maxGlob {
		return nil, fault(where, "", "the pattern is longer than %d bytes", maxGlob)
	}
	g, err := glob.Compile(pattern)
	if err != nil {
		return nil, fault(where, "write it as '*.yaml' or '{a,b}/*'", "'%s' is not a glob: %w", pattern, err)
	}
	return g, nil
}

// listing finds the files of a folder that are manifests.
type listing struct {
	*tree
	root             string
	asked            delivery.Directory
	include, exclude *glob.Pattern
	found            []string
}

func (l *listing) folder(dir string) error {
	entries, err := l.readDir(path.Join(l.root, dir))
	if err != nil {
		return readFault(path.Join(l.root, dir), err)
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		switch {
		case e.IsDir() && l.asked.Recurse:
			if err := l.folder(name); err != nil {
				return err
			}
		case e.IsDir(), !l.asked.AnyExtension && !hasManifestExtension(name):
		default:
			if err := l.file(name); err != nil {
				return err
			}
		}
		if len(l.found) > maxPlainObjects {
			return fault(l.root, "split the app", "the folder has more than %d manifests", maxPlainObjects)
		}
	}
	return nil
}

func hasManifestExtension(name string) bool {
	switch path.Ext(name) {
	case ".yaml", ".yml", ".json", ".jsonnet":
		return true
	}
	return false
}

// file takes a file that is wanted; a link may lead nowhere, or to a folder, and is none then.
func (l *listing) file(name string) error {
	full := path.Join(l.root, name)
	mode, err := l.stat(full)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return readFault(full, err)
	case !mode.IsRegular(), l.exclude != nil && l.exclude.Match(name), l.include != nil && !l.include.Match(name):
		return nil
	}
	data, err := l.read(full)
	if err != nil {
		return readFault(full, err)
	}
	if !bytes.Contains(data, []byte(skipMarker)) {
		l.found = append(l.found, full)
	}
	return nil
}

// manifests are the objects of a file.
func (t *tree) manifests(name string, p delivery.Part, asked delivery.Directory, size *sizer) ([]delivery.Object, error) {
	if strings.HasSuffix(name, ".jsonnet") {
		return t.jsonnet(name, p, asked)
	}
	data, err := t.read(name)
	if err != nil {
		return nil, readFault(name, err)
	}
	data = bytes.TrimPrefix(data, []byte("\uFEFF"))
	if err := checkYAML(name, data, false); err != nil {
		return nil, err
	}
	isJSON := strings.HasSuffix(name, ".json")
	var found []map[string]any
	ok := false
	if !isJSON {
		found, ok = quickObjects(data, size)
	}
	if !ok {
		if isJSON {
			found, err = jsonObject(name, data)
		} else {
			found, err = yamlObjects(name, data)
		}
		if err != nil {
			return nil, err
		}
		for _, m := range found {
			if err := size.normalize(m); err != nil {
				return nil, fault(name, "", "%w", err)
			}
		}
	}
	all := make([]delivery.Object, len(found))
	for i, m := range found {
		all[i] = delivery.Object{Unstructured: &unstructured.Unstructured{Object: m}, Origin: name}
	}
	return all, nil
}

// jsonObject is the one object of a JSON file; one without a kind is something else.
func jsonObject(name string, data []byte) ([]map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	var raw json.RawMessage
	if err := dec.Decode(&raw); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		return nil, fault(jsonPlace(name, data, err), "", "malformed JSON")
	}
	if dec.More() {
		return nil, fault(name, "put them into a List, or into files of their own", "there are several objects, and a JSON file may have one")
	}
	var m map[string]any
	if err := k8sjson.Unmarshal(raw, &m); err != nil {
		return nil, fault(name, "", "it is not an object")
	}
	if m["kind"] == nil {
		return nil, nil
	}
	return []map[string]any{m}, nil
}

// jsonPlace is where JSON is malformed.
func jsonPlace(name string, data []byte, err error) string {
	var s *json.SyntaxError
	if errors.As(err, &s) && s.Offset <= int64(len(data)) {
		return line(name, 1+bytes.Count(data[:s.Offset], []byte("\n")))
	}
	return name
}

// yamlObjects are the objects of a YAML file. As in Argo CD, a file that does not look like a manifest may be anything: the
// values of a chart, say.
func yamlObjects(name string, data []byte) ([]map[string]any, error) {
	dec := kubeyaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	var all []map[string]any
	for {
		var raw json.RawMessage
		err := dec.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err == nil && (len(bytes.TrimSpace(raw)) == 0 || bytes.Equal(bytes.TrimSpace(raw), []byte("null"))) {
			continue
		}
		problem := ""
		var m map[string]any
		switch {
		case err != nil:
			problem = "it is not YAML"
		case k8sjson.Unmarshal(raw, &m) != nil:
			problem = "it is not an object"
		case m["kind"] == nil || m["kind"] == "":
			problem = "an object has no kind"
		}
		switch {
		case problem == "":
			all = append(all, m)
		case len(all) == 0 && !looksLikeManifest(data):
			return nil, nil
		default:
			if f := syntaxFault(name, data); f != nil && err != nil {
				return nil, f
			}
			return nil, fault(documentPlace(name, data, len(all)), "", "%s", problem)
		}
	}
}

func looksLikeManifest(data []byte) bool {
	for _, field := range []string{"apiVersion:", "kind:", "metadata:"} {
		if !bytes.Contains(data, []byte(field)) {
			return false
		}
	}
	return true
}

// documentPlace is where the object after the first n ones begins.
func documentPlace(name string, data []byte, n int) string {
	if all := headers(data); n < len(all) {
		return line(name, all[n].line)
	}
	return name
}

// jsonnet evaluates a file in a child.
func (t *tree) jsonnet(name string, p delivery.Part, asked delivery.Directory) ([]delivery.Object, error) {
	s := &snippet{File: name, Libs: []string{path.Clean(p.Path)}}
	for _, lib := range asked.Libs {
		dir := path.Join(".", strings.TrimPrefix(lib, "/"))
		if !fs.ValidPath(dir) {
			return nil, fault("spec.source.directory.jsonnet.libs", "use a path inside the repository", "'%s': %w", lib, delivery.ErrEscapes)
		}
		s.Libs = append(s.Libs, dir)
	}
	vars := func(all []delivery.JsonnetVar) []delivery.JsonnetVar {
		out := make([]delivery.JsonnetVar, len(all))
		for i, v := range all {
			v.Value = expand(v.Value, p.Env)
			out[i] = v
		}
		return out
	}
	s.ExtVars, s.TLAs = vars(asked.ExtVars), vars(asked.TLAs)
	done, err := runTask(t.ctx, newKustomizeFS(t), task{Jsonnet: s})
	if err != nil {
		var failed *childError
		if !errors.As(err, &failed) {
			return nil, err
		}
		for _, cause := range failed.causes {
			var f *delivery.Fault
			if errors.As(cause, &f) {
				return nil, f
			}
			if errors.Is(cause, delivery.ErrEscapes) {
				return nil, readFault(name, fmt.Errorf("import: %w", cause))
			}
		}
		where := failed.where
		if where == "" {
			where = name
		}
		return nil, fault(where, failed.hint, "%w", failed)
	}
	return madeObjects(done.Made, "."), nil
}

// quickObjects reads the objects of a file in which nothing can be read in two ways, in a third of the time. Where anything
// is unusual, the answer is "not here".
func quickObjects(data []byte, size *sizer) ([]map[string]any, bool) {
	nodes, ok := usualNodes(data)
	if !ok {
		return nil, false
	}
	all := make([]map[string]any, len(nodes))
	for i, n := range nodes {
		if !plainScalars(n) || child(n, "items") != nil || n.Decode(&all[i]) != nil || size.normalize(all[i]) != nil {
			return nil, false
		}
	}
	return all, true
}

// plainScalars tells whether YAML 1.1, by which Argo CD and kubectl read, has the same values in a node as YAML 1.2, by
// which the rest of a render does: there are no dates, no "yes" or "off", and no numbers like 0777, 1_000 or 1:30.
func plainScalars(n *yaml.Node) bool {
	if n.Kind == yaml.ScalarNode && n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0 {
		switch n.Tag {
		case "!!str":
			switch strings.ToLower(n.Value) {
			case "y", "n", "yes", "no", "on", "off":
				return false
			}
			if n.Value != "" && (n.Value[0] >= '0' && n.Value[0] <= '9' || strings.ContainsRune("+-.", rune(n.Value[0]))) {
				return len(strings.Trim(n.Value, "0123456789:_.+-")) > 0 && !strings.HasPrefix(n.Value, "0")
			}
		case "!!int":
			digits := strings.TrimPrefix(n.Value, "-")
			return len(digits) < 18 && strings.Trim(digits, "0123456789") == "" && (digits == "0" || !strings.HasPrefix(digits, "0"))
		case "!!bool", "!!null":
		default:
			return false
		}
	}
	for _, c := range n.Content {
		if !plainScalars(c) {
			return false
		}
	}
	return true
}
