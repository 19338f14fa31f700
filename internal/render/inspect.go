package render

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/yaml"
	sigsyaml "sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
)

// inspection reads a kustomization tree ahead of the build: every folder and file that kustomize would load.
//
// kustomize itself clones what looks like a Git URL, downloads what looks like a web address, and cannot be
// stopped once it runs. So what must not happen is found here, and refused with the file and the line; as is
// what kustomize reports badly (a missing file, a cycle, an unknown field) and what would grow beyond bounds.
type inspection struct {
	*tree
	origins
	schema    bool                            // a kustomization sets the OpenAPI schema, which is global to the process
	manifests map[string]bool                 // files that hold objects, by resolved name
	parsed    map[string]*types.Kustomization // by folder
	done      map[visit]weight
	stack     []string // folders from the root to the one being read
}

// visit is one way to use a folder.
type visit struct {
	dir  string
	role role
}

type role int

const (
	asResources role = iota
	asComponent
	asConfig // generators, transformers and validators: objects that configure plugins
)

// weight is how much a folder costs to build, each part counted as often as it is used.
type weight struct {
	loads, bytes, objects int64
	work                  int64 // bytes of kustomizations and patches times the objects below them
}

func (w *weight) add(o weight) {
	w.loads += o.loads
	w.bytes += o.bytes
	w.objects += o.objects
	w.work += o.work
}

func (w weight) check(where string) error {
	const hint = "split the app, or do not use a base so many times"
	switch {
	case w.bytes > maxInputBytes:
		return fault(where, hint, "the build loads more than %d MiB", maxInputBytes>>20)
	case w.loads > maxLoads:
		return fault(where, hint, "the build loads more than %d folders", maxLoads)
	case w.objects > maxObjects:
		return fault(where, hint, "the build makes more than %d objects", maxObjects)
	case w.work > maxWork:
		return fault(where, hint, "the patches are too large for so many objects")
	}
	return nil
}

// use says what kustomize takes an entry of a kustomization for.
type use int

const (
	useResource use = iota // a file of objects, or a folder
	useComponent
	usePlugin  // a file of plugin configurations, a folder, or the configuration itself
	useFile    // any file
	useControl // a file that directs the build: a patch, replacements, configurations
	usePatch   // a patch file, or the patch itself
	useInline  // a patch
)

type entry struct {
	field, value string
	use          use
}

// entries are all references that a kustomization makes.
func entries(k *types.Kustomization) []entry {
	var es []entry
	add := func(u use, field string, values ...string) {
		for _, v := range values {
			if v != "" {
				es = append(es, entry{field, v, u})
			}
		}
	}
	add(useResource, "resources", k.Resources...)
	add(useResource, "bases", k.Bases...)
	add(useComponent, "components", k.Components...)
	add(usePlugin, "generators", k.Generators...)
	add(usePlugin, "transformers", k.Transformers...)
	add(usePlugin, "validators", k.Validators...)
	add(useControl, "configurations", k.Configurations...)
	add(useControl, "crds", k.Crds...)
	add(useFile, "openapi", k.OpenAPI["path"])
	generator := func(field string, s types.KvPairSources) {
		for _, f := range s.FileSources {
			if _, name, ok := strings.Cut(f, "="); ok {
				f = name
			}
			add(useFile, field, f)
		}
		add(useFile, field, s.EnvSources...)
		add(useFile, field, s.EnvSource)
	}
	for _, g := range k.ConfigMapGenerator {
		generator("configMapGenerator", g.KvPairSources)
	}
	for _, g := range k.SecretGenerator {
		generator("secretGenerator", g.KvPairSources)
	}
	for _, p := range k.PatchesStrategicMerge {
		add(usePatch, "patchesStrategicMerge", string(p))
	}
	for field, ps := range map[string][]types.Patch{"patches": k.Patches, "patchesJson6902": k.PatchesJson6902} {
		for _, p := range ps {
			add(useControl, field, p.Path)
			add(useInline, field, p.Patch)
		}
	}
	for _, r := range k.Replacements {
		add(useControl, "replacements", r.Path)
	}
	return es
}

func inspect(t *tree) *inspection {
	return &inspection{tree: t, manifests: map[string]bool{}, parsed: map[string]*types.Kustomization{}, done: map[visit]weight{}}
}

// folder reads the kustomization in dir and all that it refers to. from tells where dir was named.
func (in *inspection) folder(dir string, role role, from func() string) (weight, error) {
	if w, ok := in.done[visit{dir, role}]; ok {
		return w, nil
	}
	for i := len(in.stack) - 1; i >= 0; i-- {
		if s := in.stack[i]; s == dir || dir == "." || strings.HasPrefix(s, dir+"/") {
			return weight{}, fault(from(), "a base may not lead back to the folder that uses it",
				"cycle: %s", strings.Join(append(slices.Clone(in.stack[i:]), dir), " -> "))
		}
	}
	name, k, err := in.load(dir, from)
	if err != nil {
		return weight{}, err
	}
	if modernize(k) {
		if in.overlay[name], err = sigsyaml.Marshal(k); err != nil {
			return weight{}, fmt.Errorf("write %s: %w", name, err)
		}
	}
	if isComponent := k.Kind == types.ComponentKind; isComponent && role != asComponent {
		return weight{}, fault(from(), "list it under components", "'%s' is a component", dir)
	} else if !isComponent && role == asComponent {
		return weight{}, fault(from(), "list it under resources, or make it one by kind: Component", "'%s' is not a component", dir)
	}
	return in.kustomization(dir, name, k, role)
}

// kustomization looks at a kustomization that was read, in the file name of the folder dir.
func (in *inspection) kustomization(dir, name string, k *types.Kustomization, role role) (weight, error) {
	in.stack = append(in.stack, dir)
	in.parsed[dir] = k
	defer func() { in.stack = in.stack[:len(in.stack)-1] }()
	if err := in.refuse(name, k, role); err != nil {
		return weight{}, err
	}
	in.schema = in.schema || len(k.OpenAPI) > 0
	in.origins.kustomization(name, k)
	own := int64(len(in.source(name)))
	for _, p := range k.Patches {
		own += int64(len(p.Patch))
	}
	total := weight{loads: 1, bytes: own}
	for _, e := range entries(k) {
		w, directs, err := in.entry(dir, name, e, role)
		if err != nil {
			return weight{}, err
		}
		total.add(w)
		if directs {
			own += w.bytes
		}
	}
	total.objects += int64(len(k.ConfigMapGenerator) + len(k.SecretGenerator))
	total.work += own * total.objects
	if err := total.check(name); err != nil {
		return weight{}, err
	}
	in.done[visit{dir, role}] = total
	return total, nil
}

// load reads the kustomization in dir strictly, and prepares it for the build.
func (in *inspection) load(dir string, from func() string) (string, *types.Kustomization, error) {
	names := in.kustomizationFiles(dir)
	switch len(names) {
	case 0:
		return "", nil, fault(from(), "add a kustomization.yaml there, or name its files one by one",
			"folder '%s' has no kustomization file", dir)
	case 1:
	default:
		return "", nil, fault(dir, "keep one of them", "there are several kustomization files: %s", strings.Join(names, ", "))
	}
	name := names[0]
	data, err := in.read(name)
	if err != nil {
		return "", nil, readFault(name, err)
	}
	if err := checkYAML(name, data, true); err != nil {
		return "", nil, err
	}
	k, err := parseKustomization(name, data)
	if err != nil {
		return "", nil, err
	}
	return name, k, nil
}

// source is a file as it is in the repository, for lines in errors; empty for one that was generated.
func (in *inspection) source(name string) []byte {
	name, err := in.resolve(name)
	if err != nil {
		return nil
	}
	return in.files[name]
}

// modernize replaces deprecated fields where that changes nothing, because kustomize prints a warning about
// each to the process's standard error. It tells whether there were any.
func modernize(k *types.Kustomization) bool {
	changed := false
	if len(k.Bases) > 0 {
		k.Resources, k.Bases = append(k.Resources, k.Bases...), nil
		changed = true
	}
	if len(k.CommonLabels) > 0 && len(k.Configurations) == 0 {
		k.Labels = append(k.Labels, types.Label{Pairs: k.CommonLabels, IncludeSelectors: true})
		k.CommonLabels = nil
		changed = true
	}
	return changed
}

var (
	unknownField = regexp.MustCompile(`unknown field "([^"]*)"`)
	wrongType    = regexp.MustCompile(`cannot unmarshal (\w+) into Go (?:struct field [^.\s]*\.(\w+)\S*|value) of type (\S+)`)
)

// parseKustomization reads a kustomization file; unknown fields are errors, as in kustomize.
func parseKustomization(name string, data []byte) (*types.Kustomization, error) {
	var k types.Kustomization
	err := k.Unmarshal(data)
	if f := foreign(name, data, k.APIVersion, err); f != nil {
		return nil, f
	}
	if err == nil {
		return &k, nil
	}
	if f := syntaxFault(name, data); f != nil {
		return nil, f
	}
	if m := unknownField.FindStringSubmatch(err.Error()); m != nil {
		return nil, fault(at(name, data, m[1]), "check the spelling and the indentation", "unknown field %q", m[1])
	}
	if m := wrongType.FindStringSubmatch(err.Error()); m != nil {
		return nil, fault(at(name, data, m[2]), "", "malformed kustomization: %s: a value of type %s where %s is wanted", m[2], m[1], m[3])
	}
	return nil, fault(name, "", "malformed kustomization: %s", strings.TrimPrefix(err.Error(), "invalid Kustomization: "))
}

// foreign is the fault of a file that is named like a kustomization and is something else, such as Flux's
// Kustomization. err is why it could not be read.
func foreign(name string, data []byte, apiVersion string, err error) error {
	if err != nil {
		for _, h := range headers(data) {
			apiVersion = h.apiVersion
			break
		}
	}
	if apiVersion == "" || strings.HasPrefix(apiVersion, "kustomize.config.k8s.io/") {
		return nil
	}
	return fault(at(name, data, apiVersion), "give the file another name, if it is a manifest",
		"apiVersion %s is not kustomize's", apiVersion)
}

// refuse reports what a kustomization asks for and may not have.
func (in *inspection) refuse(name string, k *types.Kustomization, role role) error {
	for field, used := range map[string]bool{
		"helmCharts":                  len(k.HelmCharts) > 0,
		"helmChartInflationGenerator": len(k.HelmChartInflationGenerator) > 0,
		"helmGlobals":                 k.HelmGlobals != nil,
	} {
		if used {
			return fault(at(name, in.source(name), field), "use a HelmRelease, or commit the rendered chart",
				"%s is not supported: a build runs no programs", field)
		}
	}
	if role != asConfig {
		return nil
	}
	rest := *k
	rest.TypeMeta, rest.MetaData, rest.Resources, rest.Bases = types.TypeMeta{}, nil, nil, nil
	if !reflect.DeepEqual(rest, types.Kustomization{}) {
		return fault(name, "list files only", "a folder of generators, transformers or validators may only have resources")
	}
	return nil
}

// entry looks at one reference. directs tells that what it names directs the build.
func (in *inspection) entry(dir, name string, e entry, role role) (w weight, directs bool, err error) {
	target := path.Join(dir, e.value)
	where := func() string {
		if data := in.source(name); data != nil {
			return at(name, data, e.value)
		}
		return target // the kustomization is a generated one
	}
	if e.use == useInline {
		return weight{}, false, checkYAMLAt(where, []byte(e.value), true)
	}
	if err := refuseReference(e.field, e.value, dir, where); err != nil {
		return weight{}, false, err
	}
	mode, err := in.stat(target)
	switch {
	case err == nil && mode.IsDir():
		return in.entryFolder(target, e, role, where)
	case err == nil && e.use == useComponent:
		return weight{}, false, fault(where(), "name the folder", "component '%s' is a file", e.value)
	case err == nil:
		w, err := in.entryFile(target, e, role)
		return w, e.use == useControl || e.use == usePatch, err
	case e.use == usePatch && isInline(e.value):
		return weight{}, false, checkYAMLAt(where, []byte(e.value), true)
	case e.use == usePlugin && isInline(e.value):
		return weight{}, false, checkPlugins(where(), dir, []byte(e.value))
	case errors.Is(err, fs.ErrNotExist):
		return weight{}, false, fault(where(), "add it or remove the entry; what the source ignores is not seen",
			"%s: '%s' does not exist (%s)", e.field, e.value, target)
	default:
		return weight{}, false, readFault(where(), err)
	}
}

func (in *inspection) entryFolder(target string, e entry, r role, where func() string) (weight, bool, error) {
	switch e.use {
	case useComponent:
		r = asComponent
	case usePlugin:
		r = asConfig
	case useResource:
		if r == asComponent {
			r = asResources
		}
	default:
		return weight{}, false, fault(where(), "name a file", "%s: '%s' is a folder", e.field, e.value)
	}
	target, err := in.resolve(target)
	if err != nil {
		return weight{}, false, readFault(where(), err)
	}
	w, err := in.folder(target, r, where)
	return w, false, err
}

func (in *inspection) entryFile(target string, e entry, r role) (weight, error) {
	data, err := in.read(target)
	if err != nil {
		return weight{}, readFault(target, err)
	}
	w := weight{bytes: int64(len(data))}
	switch {
	case e.use == usePlugin, e.use == useResource && r == asConfig:
		return w, checkPlugins(target, path.Dir(target), data)
	case e.use == useResource:
		if err := checkYAML(target, data, false); err != nil {
			return w, err
		}
		if resolved, err := in.resolve(target); err == nil && !in.manifests[resolved] {
			in.manifests[resolved] = true
			in.origins.later(target, data)
		}
		w.objects = countObjects(data)
		return w, nil
	case e.use == useControl, e.use == usePatch:
		return w, checkYAML(target, data, true)
	}
	return w, nil
}

// refuseReference reports a reference that leaves the repository: to another one, to the network, or to the
// disk. It knows no more than the text, since kustomize tries some of these before it looks for a file.
func refuseReference(field, value, dir string, where func() string) error {
	switch {
	case isRemote(value):
		return fault(where(), "copy it into this repository, or make it a source of its own",
			"%s: '%s' is remote, and a build uses no network", field, redactUserinfo(value))
	case strings.HasPrefix(value, "/"):
		return fault(where(), "use a path relative to this file", "%s: absolute path '%s': %w", field, value, delivery.ErrEscapes)
	case leaves(dir, value):
		return fault(where(), "use a path inside the repository", "%s: '%s': %w", field, value, delivery.ErrEscapes)
	}
	return nil
}

func leaves(dir, value string) bool {
	p := path.Join(dir, value)
	return p == ".." || strings.HasPrefix(p, "../")
}

func isInline(value string) bool { return strings.ContainsAny(value, "\n{:") }

var userAtHost = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9-]*@[^\s]*[:/]`)

// isRemote tells whether kustomize could take a reference for a web address or a Git URL. It errs on the safe
// side: kustomize accepts "https://", "ssh://", "file://", "git::", "user@host:path", "user@host/path" and
// "github.com/org/repo", in any case.
func isRemote(value string) bool {
	v := strings.ToLower(value)
	for _, prefix := range []string{"http:", "https:", "ssh:", "git:", "file:", "github.com/", "github.com:"} {
		if strings.HasPrefix(v, prefix) {
			return true
		}
	}
	return userAtHost.MatchString(value)
}

var userinfo = regexp.MustCompile(`//[^/@\s]*@`)

func redactUserinfo(s string) string { return userinfo.ReplaceAllString(s, "//***@") }

// loaded are the fields by which a built-in plugin names files, wherever they are in its configuration.
var loaded = map[string]bool{
	"path": true, "paths": true, "files": true, "envs": true, "env": true, "file": true,
	"targetFilePath": true, "argsFromFile": true, "valuesFile": true, "additionalValuesFiles": true,
}

// checkPlugins makes sure that plugin configurations only ask for built-in plugins and for files of the repository.
func checkPlugins(where, dir string, data []byte) error {
	if err := checkYAML(where, data, true); err != nil {
		return err
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc any
		if err := dec.Decode(&doc); err != nil {
			return nil // the end; or malformed, which the build reports
		}
		if err := checkPlugin(where, dir, doc); err != nil {
			return err
		}
	}
}

func checkPlugin(where, dir string, doc any) error {
	m, ok := doc.(map[string]any)
	if !ok {
		return nil
	}
	kind, _ := m["kind"].(string)
	if items, ok := m["items"].([]any); ok && strings.HasSuffix(kind, "List") {
		for _, item := range items {
			if err := checkPlugin(where, dir, item); err != nil {
				return err
			}
		}
		return nil
	}
	if v, _ := m["apiVersion"].(string); v != "builtin" || kind == "HelmChartInflationGenerator" {
		return fault(where, "commit what it makes, or use a built-in generator or transformer",
			"plugin %s (%s) is not supported: a build runs no programs", kind, v)
	}
	return checkLoaded(where, dir, kind, m)
}

func checkLoaded(where, dir, kind string, v any) error {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if loaded[key] {
				for _, s := range stringsIn(value) {
					for _, ref := range append(strings.Split(s, "="), s) {
						if err := refuseReference(kind+" "+key, ref, dir, func() string { return where }); err != nil {
							return err
						}
					}
				}
			}
			if err := checkLoaded(where, dir, kind, value); err != nil {
				return err
			}
		}
	case []any:
		for _, value := range v {
			if err := checkLoaded(where, dir, kind, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// stringsIn are the strings that v is or lists.
func stringsIn(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var all []string
		for _, e := range v {
			if s, ok := e.(string); ok {
				all = append(all, s)
			}
		}
		return all
	}
	return nil
}

// readFault makes an error of reading a file one about the repository where it is one.
func readFault(where string, err error) error {
	var f *delivery.Fault
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, delivery.ErrEscapes):
		return fault(where, "links and paths have to stay inside the repository", "%w", err)
	case errors.Is(err, fs.ErrNotExist):
		return fault(where, "a link may point nowhere", "%w", err)
	case unusable(err):
		return fault(where, "", "%w", err)
	default:
		return fmt.Errorf("%s: %w", where, err)
	}
}
