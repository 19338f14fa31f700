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
	"sigs.k8s.io/kustomize/api/resmap"
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
	name, k, err := i.load(dir, dir)
	if err != nil {
		return nil, err
	}
	return i.build(dir, name, k, in.Build)
}

// YAML renders a folder of plain manifests: as kustomize would, from a kustomization that lists them.
type YAML struct{}

// Render implements Renderer.
func (YAML) Render(in Input) ([]delivery.Object, error) {
	dir, err := in.tree.resolve(in.Build.Path)
	if err != nil {
		return nil, readFault(in.Build.Path, err)
	}
	resources, err := in.tree.manifests(dir, ".")
	if err != nil {
		return nil, readFault(in.Build.Path, err)
	}
	if len(resources) == 0 && len(in.Build.Components) == 0 {
		return nil, nil
	}
	i := inspect(in.tree)
	return i.build(dir, path.Join(dir, konfig.DefaultKustomizationFileName()), &types.Kustomization{Resources: resources}, in.Build)
}

// manifests lists what a generated kustomization for root has as resources, in sub and below, in the order
// of their names.
func (t *tree) manifests(root, sub string) ([]string, error) {
	entries, err := t.readDir(path.Join(root, sub))
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		name := path.Join(sub, e.Name())
		switch ext := path.Ext(name); {
		case e.IsDir() && len(t.kustomizationFiles(path.Join(root, name))) > 0:
			found = append(found, name)
		case e.IsDir():
			below, err := t.manifests(root, name)
			if err != nil {
				return nil, err
			}
			found = append(found, below...)
		case ext == ".yaml" || ext == ".yml":
			found = append(found, name)
		}
		if len(found) > maxObjects {
			return nil, fault(root, "split the app", "the folder has more than %d manifests", maxObjects)
		}
	}
	return found, nil
}

// build adds what the build asks for to the kustomization k of the folder dir, checks the whole tree, and
// runs kustomize.
func (in *inspection) build(dir, name string, k *types.Kustomization, b delivery.Build) ([]delivery.Object, error) {
	if err := in.merge(dir, k, b); err != nil {
		return nil, err
	}
	modernize(k)
	if _, err := in.kustomization(dir, name, k, asResources); err != nil {
		return nil, err
	}
	asked := slices.Contains(k.BuildMetadata, types.OriginAnnotations)
	if !asked && !in.annotations {
		k.BuildMetadata = append(k.BuildMetadata, types.OriginAnnotations)
	}
	var err error
	if in.overlay[name], err = yaml.Marshal(k); err != nil {
		return nil, fmt.Errorf("write kustomization of '%s': %w", dir, err)
	}
	result, err := run(newKustomizeFS(in.tree), path.Join(mount, dir), in.schema)
	if ctxErr := in.ctx.Err(); ctxErr != nil {
		return nil, ctxErr
	}
	if err != nil {
		return nil, in.explain(dir, name, err)
	}
	all, err := objects(result, dir, asked)
	if err != nil {
		if f := in.malformed(); f != nil { // a key that is given twice, say
			return nil, f
		}
		return nil, err
	}
	return all, nil
}

// merge adds a build's wishes to the kustomization of the folder dir, as kustomize-controller does.
func (in *inspection) merge(dir string, k *types.Kustomization, b delivery.Build) error {
	if b.TargetNamespace != "" {
		k.Namespace = b.TargetNamespace
	}
	for _, p := range b.Patches {
		in.noteAnnotations([]byte(p.Patch))
		k.Patches = append(k.Patches, types.Patch{Patch: p.Patch, Target: selector(p.Target)})
	}
	for _, i := range b.Images {
		image := types.Image{Name: i.Name, NewName: i.NewName, NewTag: i.NewTag, Digest: i.Digest}
		at := slices.IndexFunc(k.Images, func(o types.Image) bool { return o.Name == i.Name })
		if at < 0 {
			k.Images = append(k.Images, image)
		} else {
			k.Images[at] = image
		}
	}
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

// schemaLock guards kustomize's OpenAPI schema: builds that only read it share the lock.
var (
	schemaLock sync.RWMutex
	schemaOnce sync.Once
)

func loadSchema() { schemaOnce.Do(func() { openapi.Schema() }) }

// run is a kustomize build. A build that sets a schema has the process's schema for itself and leaves the
// built-in one behind.
func run(fsys filesys.FileSystem, dir string, setsSchema bool) (result resmap.ResMap, err error) {
	loadSchema()
	if setsSchema {
		schemaLock.Lock()
		defer func() {
			openapi.ResetOpenAPI()
			openapi.Schema()
			schemaLock.Unlock()
		}()
	} else {
		schemaLock.RLock()
		defer schemaLock.RUnlock()
	}
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
