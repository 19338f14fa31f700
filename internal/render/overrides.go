package render

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"reflect"
	"slices"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
)

// overrides lays the files .argocd-source.yaml and .argocd-source-<app>.yaml of the part's folder over its options, as merge
// patches of the Application's source (Argo CD: user-guide/parameters). Image updaters write such files. What they say of
// where the source is does not count.
func (t *tree) overrides(p delivery.Part) (delivery.Part, error) {
	files := []string{".argocd-source.yaml"}
	if app := p.Env["ARGOCD_APP_NAME"]; app != "" {
		files = append(files, ".argocd-source-"+app+".yaml")
	}
	for _, name := range files {
		name = path.Join(path.Clean(p.Path), name)
		mode, err := t.stat(name)
		if err != nil && errors.Is(err, fs.ErrNotExist) || err == nil && mode.IsDir() || !fs.ValidPath(name) {
			continue
		}
		data, err := t.read(name)
		if err != nil {
			return p, readFault(name, err)
		}
		if err := checkYAML(name, data, false); err != nil {
			return p, err
		}
		if f := syntaxFault(name, data); f != nil {
			return p, f
		}
		if p, err = overridden(name, p, data); err != nil {
			return p, err
		}
	}
	return p, nil
}

// patch is an object of an override file: what it sets, by field.
type patch map[string]json.RawMessage

// set overrides what to points to, if the file says anything of the field: null clears it, and a list replaces the old one.
func (f patch) set(field string, to any) error {
	raw, ok := f[field]
	if !ok {
		return nil
	}
	v := reflect.ValueOf(to).Elem()
	if labels, ok := to.(*map[string]string); ok && string(raw) != "null" { // entries are added, or removed by null
		var entries map[string]*string
		if json.Unmarshal(raw, &entries) != nil {
			return fmt.Errorf("'%s' has a value of the wrong type", field)
		}
		merged := maps.Clone(*labels)
		if merged == nil {
			merged = map[string]string{}
		}
		for key, value := range entries {
			if delete(merged, key); value != nil {
				merged[key] = *value
			}
		}
		*labels = merged
		return nil
	}
	fresh := reflect.New(v.Type())
	if json.Unmarshal(raw, fresh.Interface()) != nil {
		return fmt.Errorf("'%s' has a value of the wrong type", field)
	}
	v.Set(fresh.Elem())
	return nil
}

func (f patch) setAll(fields map[string]any) error {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if err := f.set(name, fields[name]); err != nil {
			return err
		}
	}
	return nil
}

// overridden is p with one file over it.
func overridden(name string, p delivery.Part, data []byte) (delivery.Part, error) {
	var source map[string]patch
	var all patch
	if yaml.Unmarshal(data, &all) != nil {
		return p, fault(name, "write it as the source of an Application", "it is not an object")
	}
	for _, field := range []string{"helm", "kustomize", "directory", "plugin"} {
		if raw, ok := all[field]; ok {
			var fields patch
			if json.Unmarshal(raw, &fields) != nil {
				return p, fault(at(name, data, field), "write it as the source of an Application", "'%s' is not an object", field)
			}
			if source == nil {
				source = map[string]patch{}
			}
			source[field] = fields
		}
	}
	var err error
	if f := source["helm"]; f != nil {
		h := copied(p.Helm)
		if p.Helm == nil {
			h.ReleaseName = p.Release
		}
		p.Helm, err = h, f.helm(h)
	}
	if f := source["kustomize"]; f != nil && err == nil {
		k := copied(p.Kustomize)
		p.Kustomize, err = k, f.kustomize(k)
	}
	if f := source["directory"]; f != nil && err == nil {
		d := copied(p.Directory)
		p.Directory, err = d, f.directory(d)
	}
	switch {
	case err != nil:
		return p, fault(name, "write it as the source of an Application", "%w", err)
	case source["plugin"] != nil:
		return p, fault(at(name, data, "plugin"), "render with Helm, Kustomize, Jsonnet or plain manifests", "plugins are not supported")
	case p.Helm != nil && (p.Kustomize != nil || p.Directory != nil) || p.Kustomize != nil && p.Directory != nil:
		return p, fault(name, "use one of helm, kustomize and directory", "the file and the Application ask for different formats")
	}
	return p, nil
}

// copied is a copy of what options point to, or new ones.
func copied[T any](options *T) *T {
	out := new(T)
	if options != nil {
		*out = *options
	}
	return out
}

func (f patch) helm(h *delivery.Helm) error {
	if raw, ok := f["valuesObject"]; ok && string(raw) != "null" {
		old, err := yaml.YAMLToJSON([]byte(h.Values))
		if err != nil || h.Values == "" {
			old = []byte("{}")
		}
		merged, err := jsonpatch.MergePatch(old, raw)
		if err != nil {
			return errors.New("'valuesObject' has a value of the wrong type")
		}
		h.Values = string(merged)
	} else if err := f.set("values", &h.Values); err != nil {
		return err
	}
	var parameters []struct {
		Name, Value string
		ForceString bool
	}
	var contents []struct{ Name, Path string }
	if _, ok := f["parameters"]; ok {
		if err := f.set("parameters", &parameters); err != nil {
			return err
		}
		h.Parameters = nil
		for _, p := range parameters {
			h.Parameters = append(h.Parameters, delivery.Parameter{Name: p.Name, Value: p.Value, Text: p.ForceString})
		}
	}
	if _, ok := f["fileParameters"]; ok {
		if err := f.set("fileParameters", &contents); err != nil {
			return err
		}
		h.FileParameters = nil
		for _, p := range contents {
			h.FileParameters = append(h.FileParameters, delivery.Parameter{Name: p.Name, Value: p.Path})
		}
	}
	return f.setAll(map[string]any{
		"releaseName": &h.ReleaseName, "namespace": &h.Namespace, "valueFiles": &h.ValueFiles,
		"ignoreMissingValueFiles": &h.IgnoreMissingValueFiles, "skipCrds": &h.SkipCRDs, "skipTests": &h.SkipTests,
		"skipSchemaValidation": &h.SkipSchemaValidation, "kubeVersion": &h.KubeVersion, "apiVersions": &h.APIVersions,
	})
}

func (f patch) kustomize(k *delivery.Kustomize) error {
	var replicas []struct {
		Name  string
		Count intstr.IntOrString
	}
	if _, ok := f["replicas"]; ok {
		if err := f.set("replicas", &replicas); err != nil {
			return err
		}
		k.Replicas = nil
		for _, r := range replicas {
			k.Replicas = append(k.Replicas, delivery.Replica{Name: r.Name, Count: int64(r.Count.IntValue())})
		}
	}
	var patches []struct {
		Path, Patch string
		Target      *delivery.Selector
		Options     map[string]bool
	}
	if _, ok := f["patches"]; ok {
		if err := f.set("patches", &patches); err != nil {
			return err
		}
		k.Patches = nil
		for _, p := range patches {
			k.Patches = append(k.Patches, delivery.FilePatch{Patch: delivery.Patch{Patch: p.Patch, Target: p.Target}, Path: p.Path, Options: p.Options})
		}
	}
	return f.setAll(map[string]any{
		"namePrefix": &k.NamePrefix, "nameSuffix": &k.NameSuffix, "namespace": &k.Namespace, "images": &k.Images,
		"commonLabels": &k.CommonLabels, "commonAnnotations": &k.CommonAnnotations, "forceCommonLabels": &k.ForceCommonLabels,
		"forceCommonAnnotations": &k.ForceCommonAnnotations, "commonAnnotationsEnvsubst": &k.CommonAnnotationsEnvsubst,
		"labelWithoutSelector": &k.LabelWithoutSelector, "labelIncludeTemplates": &k.LabelIncludeTemplates,
		"components": &k.Components, "ignoreMissingComponents": &k.IgnoreMissingComponents,
		"kubeVersion": &k.KubeVersion, "apiVersions": &k.APIVersions,
	})
}

func (f patch) directory(d *delivery.Directory) error {
	var jsonnet patch
	if err := f.set("jsonnet", &jsonnet); err != nil {
		return err
	}
	if err := jsonnet.setAll(map[string]any{"extVars": &d.ExtVars, "tlas": &d.TLAs, "libs": &d.Libs}); err != nil {
		return err
	}
	return f.setAll(map[string]any{
		"recurse": &d.Recurse, "include": &d.Include, "exclude": &d.Exclude, "disableExtensionFilter": &d.AnyExtension,
	})
}
