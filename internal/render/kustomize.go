package render

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"sync"

	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/provider"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/openapi"
	"sigs.k8s.io/kustomize/kyaml/resid"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
)

// Kustomize renders a folder that has a kustomization file.
type Kustomize struct{}

// Render implements Renderer.
func (Kustomize) Render(in Input) ([]delivery.Object, error) {
	dir, err := in.tree.resolve(in.Build.Path)
	if err != nil {
		return nil, readFault(in.Build.Path, err)
	}
	i := inspect(in.tree)
	name, k, err := i.load(dir, func() string { return dir })
	if err != nil {
		return nil, err
	}
	return i.build(dir, name, k, ofBuild(in.Build))
}

// YAML renders a folder of plain manifests: as kustomize would, from a kustomization that lists them.
type YAML struct{}

// Render implements Renderer.
func (YAML) Render(in Input) ([]delivery.Object, error) {
	dir, err := in.tree.resolve(in.Build.Path)
	if err != nil {
		return nil, readFault(in.Build.Path, err)
	}
	names, folders, err := in.tree.listManifests(dir, ".")
	if err != nil {
		return nil, readFault(in.Build.Path, err)
	}
	i, b := inspect(in.tree), in.Build
	if folders || !isPlain(b) {
		return i.list(dir, names, b)
	}
	return i.plain(dir, names, b)
}

// list builds a kustomization that lists names.
func (in *inspection) list(dir string, names []string, b delivery.Build) ([]delivery.Object, error) {
	return in.build(dir, path.Join(dir, konfig.DefaultKustomizationFileName()), &types.Kustomization{Resources: names}, ofBuild(b))
}

// plain reads manifests that nothing is to be done to: directly, or else with kustomize, or else, where they are too many
// for that, with kustomize's reader.
func (in *inspection) plain(dir string, names []string, b delivery.Build) (all []delivery.Object, err error) {
	var objects int64
	for _, name := range names {
		name = path.Join(dir, name)
		w, err := in.entryFile(name, entry{"resources", name, useResource}, asResources)
		if err != nil {
			return nil, err
		}
		objects += w.objects
	}
	all, ok := in.direct(dir, names)
	switch {
	case !ok && objects <= maxObjects:
		return in.list(dir, names, b)
	case !ok:
		all, err = in.readMany(dir, names)
	}
	if err == nil && len(all) > maxPlainObjects {
		return nil, fault(dir, "split the app", "the folder makes more than %d objects", maxPlainObjects)
	}
	return all, err
}

// readMany reads manifests with kustomize's reader only: its build takes time that is quadratic in their number.
func (in *inspection) readMany(dir string, names []string) (all []delivery.Object, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fault(dir, "", "kustomize panicked: %v", r)
		}
	}()
	factory := provider.NewDefaultDepProvider().GetResourceFactory()
	var size sizer
	for _, name := range names {
		name = path.Join(dir, name)
		data, err := in.read(name)
		if err != nil {
			return nil, readFault(name, err)
		}
		resources, err := factory.SliceFromBytes(data)
		if err != nil {
			return nil, in.explain(dir, name, err)
		}
		resources = slices.DeleteFunc(resources, func(r *resource.Resource) bool {
			v, ok := r.GetAnnotations()[konfig.IgnoredByKustomizeAnnotation]
			return ok && v != "false"
		})
		more, err := objects(convert(resources, &size), dir, func(product) string { return name })
		if err != nil {
			return nil, in.orMalformed(err)
		}
		if all = append(all, more...); len(all) > maxPlainObjects {
			break
		}
	}
	return all, nil
}

// orMalformed replaces the error of an object that cannot be read back by what is wrong in its file.
func (in *inspection) orMalformed(err error) error {
	if err == nil {
		return nil
	}
	if f := in.malformed(); f != nil { // a key that is given twice, say
		return f
	}
	return err
}

// listManifests lists what a generated kustomization for root has as resources, in sub and below, in the order
// of their names, and tells whether there are folders among them.
func (t *tree) listManifests(root, sub string) (found []string, folders bool, err error) {
	entries, err := t.readDir(path.Join(root, sub))
	if err != nil {
		return nil, false, err
	}
	for _, e := range entries {
		name := path.Join(sub, e.Name())
		switch ext := path.Ext(name); {
		case e.IsDir() && len(t.kustomizationFiles(path.Join(root, name))) > 0:
			found, folders = append(found, name), true
		case e.IsDir():
			below, withFolders, err := t.listManifests(root, name)
			if err != nil {
				return nil, false, err
			}
			found, folders = append(found, below...), folders || withFolders
		case ext == ".yaml" || ext == ".yml":
			found = append(found, name)
		}
		if len(found) > maxPlainObjects {
			return nil, false, fault(root, "split the app", "the folder has more than %d manifests", maxPlainObjects)
		}
	}
	return found, folders, nil
}

// overlay is what is laid over a kustomization before it is built.
type overlay struct {
	plain bool // nothing
	merge func(in *inspection, dir string, k *types.Kustomization) error
}

func ofBuild(b delivery.Build) overlay {
	return overlay{isPlain(b), func(in *inspection, dir string, k *types.Kustomization) error { return in.merge(dir, k, b) }}
}

// build lays the overlay on the kustomization k of the folder dir, checks the whole tree, and runs kustomize.
func (in *inspection) build(dir, name string, k *types.Kustomization, over overlay) ([]delivery.Object, error) {
	if err := over.merge(in, dir, k); err != nil {
		return nil, err
	}
	if isEmpty(k) {
		return nil, nil
	}
	changed := modernize(k) || len(in.source(name)) == 0 || !over.plain
	if _, err := in.kustomization(dir, name, k, asResources); err != nil {
		return nil, err
	}
	if listsOnly(k) && in.areFiles(dir, k) {
		if all, ok := in.direct(dir, k.Resources); ok {
			return all, in.ctx.Err()
		}
	}
	if all, ok := in.composeObjects(dir); ok {
		return all, in.ctx.Err()
	}
	if changed {
		var err error
		if in.overlay[name], err = yaml.Marshal(k); err != nil {
			return nil, fmt.Errorf("write kustomization of '%s': %w", dir, err)
		}
	}
	result, err := in.run(path.Join(mount, dir))
	if ctxErr := in.ctx.Err(); ctxErr != nil {
		return nil, ctxErr
	}
	if err != nil {
		return nil, in.explain(dir, name, err)
	}
	all, err := objects(result, dir, in.origin)
	return all, in.orMalformed(err)
}

// composeObjects gives the objects of the folder dir, if they can be composed.
func (in *inspection) composeObjects(dir string) ([]delivery.Object, bool) {
	if in.schema {
		return nil, false
	}
	loadSchema()
	result, ok := in.compose(dir)
	if !ok {
		return nil, false
	}
	all, err := objects(result, dir, in.origin)
	return all, err == nil
}

func (in *inspection) origin(m product) string { return in.of(m.Kind, m.Namespace, m.Name) }

// isPlain tells whether a build adds nothing to a kustomization.
func isPlain(b delivery.Build) bool {
	return b.TargetNamespace+b.NamePrefix+b.NameSuffix == "" && len(b.Patches)+len(b.Images)+len(b.Components)+len(b.BuildMetadata) == 0
}

// isEmpty tells whether k asks for nothing; an empty list counts as an absent one, as it will once k is written out.
func isEmpty(k *types.Kustomization) bool {
	if len(k.Resources) > 0 {
		return false
	}
	var written types.Kustomization
	b, err := yaml.Marshal(k)
	return err == nil && yaml.Unmarshal(b, &written) == nil && written.CheckEmpty() != nil
}

// merge adds a build's wishes to the kustomization of the folder dir, as kustomize-controller does.
func (in *inspection) merge(dir string, k *types.Kustomization, b delivery.Build) error {
	if b.TargetNamespace != "" {
		k.Namespace = b.TargetNamespace
	}
	if b.NamePrefix != "" {
		k.NamePrefix = b.NamePrefix
	}
	if b.NameSuffix != "" {
		k.NameSuffix = b.NameSuffix
	}
	if len(b.BuildMetadata) > 0 {
		k.BuildMetadata = b.BuildMetadata
	}
	for _, p := range b.Patches {
		k.Patches = append(k.Patches, types.Patch{Patch: p.Patch, Target: selector(p.Target)})
	}
	mergeImages(k, b.Images)
	for _, c := range b.Components {
		if err := refuseReference("component", c, dir, func() string { return "spec.components" }); err != nil {
			return err
		}
		if _, err := in.stat(path.Join(dir, c)); err != nil {
			if b.IgnoreMissingComponents && errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if errors.Is(err, fs.ErrNotExist) {
				return fault("spec.components", "add it, or set ignoreMissingComponents", "component '%s' does not exist (%s)", c, path.Join(dir, c))
			}
			return readFault("spec.components", err)
		}
		k.Components = append(k.Components, c)
	}
	return nil
}

// mergeImages adds a build's images to those of the kustomization. Of one that is there as well only what the build gives is
// replaced, where tag and digest are one thing: either of the two selects the image's version.
func mergeImages(k *types.Kustomization, images []delivery.Image) {
	for _, i := range images {
		at := slices.IndexFunc(k.Images, func(o types.Image) bool { return o.Name == i.Name })
		if at < 0 {
			k.Images = append(k.Images, types.Image{Name: i.Name, NewName: i.NewName, NewTag: i.NewTag, Digest: i.Digest})
			continue
		}
		if i.NewName != "" {
			k.Images[at].NewName = i.NewName
		}
		if i.NewTag != "" || i.Digest != "" {
			k.Images[at].NewTag, k.Images[at].Digest = i.NewTag, i.Digest
		}
	}
}

func selector(s *delivery.Selector) *types.Selector {
	if s == nil {
		return nil
	}
	return &types.Selector{
		ResId: resid.ResId{
			Gvk:       resid.Gvk{Group: s.Group, Version: s.Version, Kind: s.Kind},
			Namespace: s.Namespace, Name: s.Name,
		},
		LabelSelector: s.LabelSelector, AnnotationSelector: s.AnnotationSelector,
	}
}

var schemaOnce sync.Once

func loadSchema() { schemaOnce.Do(func() { openapi.Schema() }) }

// run builds the folder dir; where the build sets the process's schema, in another process.
func (in *inspection) run(dir string) ([]product, error) {
	fsys := newKustomizeFS(in.tree)
	if in.schema {
		return runChild(in.ctx, fsys, dir)
	}
	loadSchema()
	result, err := kustomize(fsys, dir)
	if err != nil {
		return nil, err
	}
	return convert(result.Resources(), new(sizer)), nil
}

// kustomize is a kustomize build.
func kustomize(fsys filesys.FileSystem, dir string) (result resmap.ResMap, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("kustomize panicked: %v", r)
		}
	}()
	return krusty.MakeKustomizer(&krusty.Options{
		LoadRestrictions: types.LoadRestrictionsNone,
		PluginConfig:     types.DisabledPluginConfig(),
	}).Run(fsys, dir)
}
