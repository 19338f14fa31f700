package render

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	jsonnet "github.com/google/go-jsonnet"
	k8sjson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"keelson.dev/keelson/internal/delivery"
)

// snippet is a jsonnet file to evaluate. It runs in a child (see child.go), which asks for what it imports.
type snippet struct {
	File          string
	Libs          []string // folders; the last one is searched first, after the folder of the file that imports
	ExtVars, TLAs []delivery.JsonnetVar
}

// evaluate gives the object, or the list of objects, that the file is.
func (s *snippet) evaluate(fsys filesys.FileSystem) (made []product, err error) {
	vm := jsonnet.MakeVM()
	vm.MaxStack = 500
	vm.Importer(&importer{fsys: fsys, libs: s.Libs, seen: map[string]jsonnet.Contents{}})
	for _, v := range s.ExtVars {
		if v.Code {
			vm.ExtCode(v.Name, v.Value)
		} else {
			vm.ExtVar(v.Name, v.Value)
		}
	}
	for _, v := range s.TLAs {
		if v.Code {
			vm.TLACode(v.Name, v.Value)
		} else {
			vm.TLAVar(v.Name, v.Value)
		}
	}
	text, err := vm.EvaluateFile(s.File)
	if err != nil {
		return nil, jsonnetFault(s.File, err)
	}
	var all []map[string]any
	var size sizer
	if k8sjson.Unmarshal([]byte(text), &all) != nil {
		var one map[string]any
		if k8sjson.Unmarshal([]byte(text), &one) != nil {
			return nil, fault(s.File, "", "it is neither an object nor a list of objects")
		}
		all = []map[string]any{one}
	}
	for _, m := range all {
		if m == nil {
			continue
		}
		if err := size.normalize(m); err != nil {
			return nil, fault(s.File, "", "%w", err)
		}
		if made = append(made, product{Object: m, Origin: s.File}); len(made) > maxPlainObjects {
			return nil, fault(s.File, "split the app", "it makes more than %d objects", maxPlainObjects)
		}
	}
	return made, nil
}

// jsonnetPlace is where jsonnet says that something is wrong: "apps/a.jsonnet:3:5-9", "a.jsonnet:(3:5)-(4:1)".
var jsonnetPlace = regexp.MustCompile(`([^\s:()]+):\(?(\d+):\d+\)?\S*`)

// jsonnetFault is the fault of a file that cannot be evaluated: the message and the innermost place.
func jsonnetFault(file string, err error) error {
	message, trace, _ := strings.Cut(err.Error(), "\n")
	where := file
	if m := jsonnetPlace.FindStringSubmatch(message); m != nil { // of a file that cannot be parsed
		where = lineOfPlace(m)
		message = strings.TrimSpace(strings.Replace(message, m[0], "", 1))
	} else if m := jsonnetPlace.FindStringSubmatch(trace); m != nil {
		where = lineOfPlace(m)
	}
	message = strings.TrimPrefix(message, "RUNTIME ERROR: ")
	return fault(where, "", "%s", withoutValues(errors.New(message)))
}

func lineOfPlace(m []string) string { return m[1] + ":" + m[2] }

// importer finds imports in the repository.
type importer struct {
	fsys filesys.FileSystem
	libs []string
	seen map[string]jsonnet.Contents
}

// Import implements jsonnet.Importer.
func (i *importer) Import(from, name string) (jsonnet.Contents, string, error) {
	if path.IsAbs(name) {
		return jsonnet.Contents{}, "", fmt.Errorf("import of '%s': %w", name, delivery.ErrEscapes)
	}
	dirs := []string{path.Dir(from)}
	if from == "" {
		dirs = []string{"."}
	}
	for n := len(i.libs) - 1; n >= 0 && from != ""; n-- {
		dirs = append(dirs, i.libs[n])
	}
	for _, dir := range dirs {
		at := path.Join(dir, name)
		if c, ok := i.seen[at]; ok {
			return c, at, nil
		}
		if !fs.ValidPath(at) {
			return jsonnet.Contents{}, "", fmt.Errorf("import of '%s': %w", name, delivery.ErrEscapes)
		}
		data, err := i.fsys.ReadFile(path.Join(mount, at))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return jsonnet.Contents{}, "", err
		}
		c := jsonnet.MakeContentsRaw(data)
		i.seen[at] = c
		return c, at, nil
	}
	return jsonnet.Contents{}, "", fmt.Errorf("import of '%s': there is no such file beside it or in the libraries", name)
}
