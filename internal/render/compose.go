package render

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"path"
	"reflect"
	"sort"
	"sync"

	"sigs.k8s.io/kustomize/api/builtins" //nolint:staticcheck // "will not be available in API v1", which is not in sight
	"sigs.k8s.io/kustomize/api/filters/nameref"
	"sigs.k8s.io/kustomize/api/filters/namespace"
	"sigs.k8s.io/kustomize/api/ifc"
	"sigs.k8s.io/kustomize/api/kv"
	"sigs.k8s.io/kustomize/api/provider"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/resid"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"
	"sigs.k8s.io/yaml"
)

// kustomize spends half of a build on writing its transformers' settings, with a hundred field paths, as YAML and reading
// them back, and on reading kustomization files that inspection has read. So the common fields of a kustomization are
// composed here: kustomize's own generators, transformers and filters, called in kustomize's order
// (api/internal/target/kusttarget.go). Whatever is not among these fields, and whatever fails, is left to kustomize itself,
// so that its rules and its errors are the ones that hold; tests keep the two the same.

// fieldSpecs are kustomize's default field paths, which it does not export; a test keeps them up to date.
//
//go:embed fieldspecs.yaml
var fieldSpecs []byte

// transformerConfig is kustomize's type of that name, as far as it is used here.
type transformerConfig struct {
	NamePrefix        types.FsSlice    `json:"namePrefix"`
	NameSuffix        types.FsSlice    `json:"nameSuffix"`
	Namespace         types.FsSlice    `json:"namespace"`
	CommonLabels      types.FsSlice    `json:"commonLabels"`
	Labels            types.FsSlice    `json:"labels"`
	TemplateLabels    types.FsSlice    `json:"templateLabels"`
	CommonAnnotations types.FsSlice    `json:"commonAnnotations"`
	Images            types.FsSlice    `json:"images"`
	Replicas          types.FsSlice    `json:"replicas"`
	NameReference     []nameReferences `json:"nameReference"`
}

// nameReferences are the fields that name objects of a kind.
type nameReferences struct {
	resid.Gvk `json:",inline"`
	Referrers types.FsSlice `json:"fieldSpecs"`
}

var defaults = sync.OnceValues(func() (*transformerConfig, error) {
	var c transformerConfig
	if err := yaml.Unmarshal(fieldSpecs, &c); err != nil {
		return nil, fmt.Errorf("read kustomize's field paths: %w", err)
	}
	for _, s := range []*types.FsSlice{&c.NamePrefix, &c.NameSuffix, &c.Namespace, &c.CommonLabels, &c.Labels, &c.TemplateLabels,
		&c.CommonAnnotations, &c.Images, &c.Replicas} {
		merged, err := types.FsSlice(nil).MergeAll(*s)
		if err != nil {
			return nil, fmt.Errorf("read kustomize's field paths: %w", err)
		}
		sort.Sort(merged)
		*s = merged
	}
	return &c, nil
})

// parts are what kustomize makes resources with; they have no state.
var parts = sync.OnceValue(func() *provider.DepProvider { return provider.NewDefaultDepProvider() })

// composed tells whether all that a kustomization asks for is done here.
func composed(k *types.Kustomization) bool {
	rest := *k
	if rest.TypeMeta = (types.TypeMeta{}); reflect.DeepEqual(rest, types.Kustomization{}) {
		return false // kustomize refuses what is empty
	}
	rest.MetaData = nil
	rest.Resources, rest.Components = nil, nil
	rest.Namespace, rest.NamePrefix, rest.NameSuffix = "", "", ""
	rest.Labels, rest.CommonLabels, rest.CommonAnnotations = nil, nil, nil
	rest.Patches, rest.PatchesStrategicMerge, rest.PatchesJson6902 = nil, nil, nil
	rest.Images, rest.Replicas = nil, nil
	rest.ConfigMapGenerator, rest.SecretGenerator, rest.GeneratorOptions = nil, nil, nil
	version := types.KustomizationVersion
	if k.Kind == types.ComponentKind {
		version = types.ComponentVersion
	}
	return reflect.DeepEqual(rest, types.Kustomization{}) && (k.APIVersion == "" || k.APIVersion == version) &&
		(k.Kind == "" || k.Kind == types.KustomizationKind || k.Kind == types.ComponentKind)
}

// composition is one build.
type composition struct {
	*inspection
	config  *transformerConfig
	factory *resmap.Factory
}

// compose builds the folder dir, if everything in it can be composed and nothing goes wrong.
func (in *inspection) compose(dir string) (result []product, ok bool) {
	defer func() {
		if recover() != nil {
			result, ok = nil, false
		}
	}()
	config, err := defaults()
	if err != nil {
		return nil, false
	}
	for _, k := range in.parsed {
		if !composed(k) {
			return nil, false
		}
	}
	c := composition{inspection: in, config: config, factory: resmap.NewFactory(parts().GetResourceFactory())}
	m, err := c.build(dir)
	if err != nil {
		return nil, false
	}
	return convert(m.Resources(), new(sizer)), true
}

// build is kustomize's Run.
func (c *composition) build(dir string) (resmap.ResMap, error) {
	m := resmap.New()
	if err := c.accumulate(m, dir); err != nil {
		return nil, err
	}
	hash := builtins.HashTransformerPlugin{}
	if err := hash.Config(c.helpers(dir), nil); err != nil {
		return nil, err
	}
	if err := hash.Transform(m); err != nil {
		return nil, err
	}
	if err := c.fixBackReferences(m); err != nil {
		return nil, err
	}
	if err := c.ignoreLocal(m); err != nil {
		return nil, err
	}
	m.RemoveBuildAnnotations()
	if err := m.RemoveOriginAnnotations(); err != nil {
		return nil, err
	}
	return m, m.RemoveTransformerAnnotations()
}

// accumulate adds what the kustomization in dir makes to m.
func (c *composition) accumulate(m resmap.ResMap, dir string) error {
	k := c.parsed[dir]
	if k == nil {
		return fmt.Errorf("'%s' was not inspected", dir)
	}
	for _, r := range k.Resources {
		if err := c.resource(m, dir, r); err != nil {
			return err
		}
	}
	if err := c.generate(m, dir, k); err != nil {
		return err
	}
	for _, name := range k.Components {
		name, err := c.resolve(path.Join(dir, name))
		if err != nil {
			return err
		}
		if err := c.accumulate(m, name); err != nil {
			return err
		}
	}
	all, err := c.transformers(dir, k)
	if err != nil {
		return err
	}
	for _, t := range all {
		if err := t.Transform(m); err != nil {
			return err
		}
		m.DropEmpties()
	}
	return nil
}

func (c *composition) resource(m resmap.ResMap, dir, name string) error {
	target := path.Join(dir, name)
	mode, err := c.stat(target)
	if err != nil {
		return err
	}
	if !mode.IsDir() {
		more, err := c.file(dir, name)
		if err != nil {
			return err
		}
		return m.AppendAll(more)
	}
	if target, err = c.resolve(target); err != nil {
		return err
	}
	base := resmap.New()
	if err := c.accumulate(base, target); err != nil {
		return err
	}
	return m.AppendAll(base)
}

// file reads a file of objects: mostly without kustomize's reader, which copies all of it to resolve aliases.
func (c *composition) file(dir, name string) (resmap.ResMap, error) {
	data, err := c.read(path.Join(dir, name))
	if err != nil {
		return nil, err
	}
	nodes, ok := usualNodes(data)
	if !ok {
		return c.factory.FromFile(c.loader(dir), name)
	}
	all := make([]*kyaml.RNode, len(nodes))
	for i, n := range nodes {
		all[i] = kyaml.NewRNode(n)
	}
	return c.factory.NewResMapFromRNodeSlice(all)
}

func (c *composition) generate(m resmap.ResMap, dir string, k *types.Kustomization) error {
	values := kv.NewLoader(c.loader(dir), parts().GetFieldValidator())
	for _, args := range k.ConfigMapGenerator {
		args.GeneratorArgs = generatorArgs(args.GeneratorArgs, k.GeneratorOptions)
		more, err := c.factory.FromConfigMapArgs(values, args)
		if err != nil {
			return err
		}
		if err := m.AbsorbAll(more); err != nil {
			return err
		}
	}
	for _, args := range k.SecretGenerator {
		args.GeneratorArgs = generatorArgs(args.GeneratorArgs, k.GeneratorOptions)
		more, err := c.factory.FromSecretArgs(values, args)
		if err != nil {
			return err
		}
		if err := m.AbsorbAll(more); err != nil {
			return err
		}
	}
	return nil
}

// generatorArgs completes the settings of a generator, as kustomize does when it loads and configures it.
func generatorArgs(g types.GeneratorArgs, options *types.GeneratorOptions) types.GeneratorArgs {
	if g.EnvSource != "" {
		g.EnvSources = append(g.EnvSources[:len(g.EnvSources):len(g.EnvSources)], g.EnvSource)
		g.EnvSource = ""
	}
	if g.Options != nil {
		own := *g.Options
		own.Labels, own.Annotations = cloned(own.Labels), cloned(own.Annotations)
		g.Options = &own
	}
	g.Options = types.MergeGlobalOptionsIntoLocal(g.Options, options)
	return g
}

func cloned(m map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	c := make(map[string]string, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}

// transformers are those of a kustomization, in kustomize's order.
func (c *composition) transformers(dir string, k *types.Kustomization) (all []resmap.Transformer, err error) {
	add := func(t resmap.Transformer) { all = append(all, t) }
	configured := func(p resmap.TransformerPlugin, config any) {
		text, failed := json.Marshal(config)
		if failed == nil {
			failed = p.Config(c.helpers(dir), text)
		}
		if add(p); err == nil {
			err = failed
		}
	}
	if len(k.PatchesStrategicMerge) > 0 {
		configured(builtins.NewPatchStrategicMergeTransformerPlugin(), map[string]any{"paths": k.PatchesStrategicMerge})
	}
	for _, p := range k.Patches {
		configured(builtins.NewPatchTransformerPlugin(), p)
	}
	if k.Namespace != "" {
		add(&builtins.NamespaceTransformerPlugin{ObjectMeta: types.ObjectMeta{Namespace: k.Namespace},
			FieldSpecs: c.config.Namespace, SetRoleBindingSubjects: namespace.DefaultSubjectsOnly})
	}
	if k.NamePrefix != "" {
		add(&builtins.PrefixTransformerPlugin{Prefix: k.NamePrefix, FieldSpecs: c.config.NamePrefix})
	}
	if k.NameSuffix != "" {
		add(&builtins.SuffixTransformerPlugin{Suffix: k.NameSuffix, FieldSpecs: c.config.NameSuffix})
	}
	for _, l := range k.Labels {
		fields, failed := c.labelFields(l)
		if failed != nil {
			return nil, failed
		}
		add(&builtins.LabelTransformerPlugin{Labels: l.Pairs, FieldSpecs: fields})
	}
	if len(k.CommonLabels) > 0 {
		add(&builtins.LabelTransformerPlugin{Labels: k.CommonLabels, FieldSpecs: c.config.CommonLabels})
	}
	if len(k.CommonAnnotations) > 0 {
		add(&builtins.AnnotationsTransformerPlugin{Annotations: k.CommonAnnotations, FieldSpecs: c.config.CommonAnnotations})
	}
	for _, p := range k.PatchesJson6902 {
		configured(builtins.NewPatchJson6902TransformerPlugin(), map[string]any{"target": p.Target, "path": p.Path, "jsonOp": p.Patch})
	}
	for _, r := range k.Replicas {
		add(&builtins.ReplicaCountTransformerPlugin{Replica: r, FieldSpecs: c.config.Replicas})
	}
	for _, i := range k.Images {
		add(&builtins.ImageTagTransformerPlugin{ImageTag: i, FieldSpecs: c.config.Images})
	}
	return all, err
}

// labelFields are where a label goes.
func (c *composition) labelFields(l types.Label) (types.FsSlice, error) {
	fields, err := types.FsSlice(l.FieldSpecs).MergeAll(c.config.Labels)
	if err != nil {
		return nil, err
	}
	if l.IncludeSelectors {
		return fields.MergeAll(c.config.CommonLabels)
	}
	if l.IncludeTemplates {
		if fields, err = fields.MergeAll(c.config.TemplateLabels); err != nil {
			return nil, err
		}
	}
	return fields.MergeOne(types.FieldSpec{Path: "metadata/labels", CreateIfNotPresent: true})
}

// fixBackReferences gives the fields that name an object its new name.
func (c *composition) fixBackReferences(m resmap.ResMap) error {
	all := m.Resources()
	ids := make([]resid.ResId, len(all))
	for i, r := range all {
		ids[i] = r.OrgId()
	}
	for i, r := range all {
		var candidates resmap.ResMap
		for _, target := range c.config.NameReference {
			for _, field := range target.Referrers {
				if !ids[i].IsSelected(&field.Gvk) {
					continue
				}
				if candidates == nil {
					var err error
					if candidates, err = m.SubsetThatCouldBeReferencedByResource(r); err != nil {
						return err
					}
				}
				f := nameref.Filter{NameFieldToUpdate: field, ReferralTarget: target.Gvk, Referrer: r, ReferralCandidates: candidates}
				if err := r.ApplyFilter(f); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// ignoreLocal drops what is marked as not meant for a cluster.
func (c *composition) ignoreLocal(m resmap.ResMap) error {
	kept, err := c.factory.RF().DropLocalNodes(m.ToRNodeSlice())
	if err != nil {
		return err
	}
	keep := map[resid.ResId]bool{}
	for _, id := range c.factory.FromResourceSlice(kept).AllIds() {
		keep[id] = true
	}
	for _, id := range m.AllIds() {
		if !keep[id] {
			if err := m.Remove(id); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *composition) helpers(dir string) *resmap.PluginHelpers {
	return resmap.NewPluginHelpers(c.loader(dir), parts().GetFieldValidator(), c.factory, types.DisabledPluginConfig())
}

func (c *composition) loader(dir string) ifc.Loader {
	return folderLoader{newKustomizeFS(c.tree), path.Join(mount, dir)}
}

// folderLoader reads files for a folder of the repository.
type folderLoader struct {
	fsys filesys.FileSystem
	root string
}

// Repo implements ifc.Loader.
func (folderLoader) Repo() string { return "" }

// Root implements ifc.Loader.
func (l folderLoader) Root() string { return l.root }

// New implements ifc.Loader. Folders are known from inspection.
func (l folderLoader) New(name string) (ifc.Loader, error) {
	return nil, fmt.Errorf("'%s' was not inspected", name)
}

// Load implements ifc.Loader.
func (l folderLoader) Load(name string) ([]byte, error) {
	return l.fsys.ReadFile(path.Join(l.root, name))
}

// Cleanup implements ifc.Loader.
func (folderLoader) Cleanup() error { return nil }
