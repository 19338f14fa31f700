package appset

import (
	"encoding/json"
	"errors"
	"fmt"

	kjson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/yaml"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
)

// readTemplate reads a template: of its metadata what Argo CD takes, and its spec.
func readTemplate(raw []byte) (map[string]any, error) {
	out := map[string]any{}
	if len(raw) == 0 {
		return out, nil
	}
	var tree map[string]any
	if err := kjson.Unmarshal(raw, &tree); err != nil {
		return nil, fmt.Errorf("it is no mapping: %w", err)
	}
	if spec, ok := tree["spec"]; ok {
		if _, ok := spec.(map[string]any); !ok {
			return nil, errors.New("spec: it is no mapping")
		}
		out["spec"] = spec
	}
	if meta, ok := tree["metadata"]; ok {
		m, ok := meta.(map[string]any)
		if !ok {
			return nil, errors.New("metadata: it is no mapping")
		}
		kept := map[string]any{}
		for _, key := range []string{"name", "labels", "annotations", "finalizers"} {
			if v, ok := m[key]; ok && v != nil {
				kept[key] = v
			}
		}
		out["metadata"] = kept
	}
	return out, nil
}

// applications fills in the template for each set of parameters.
func (g *generation) applications(f found) ([]Application, error) {
	out := make([]Application, 0, len(f.params))
	for _, p := range f.params {
		app, err := g.application(f, p)
		if err != nil {
			return nil, err
		}
		out = append(out, app)
	}
	return out, nil
}

func (g *generation) application(f found, p params) (Application, error) {
	filled, err := g.render.tree(f.template, p)
	if err != nil {
		return Application{}, err
	}
	tree, _ := filled.(map[string]any)
	meta, _ := tree["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{}
		tree["metadata"] = meta
	}
	keeps := g.set.Spec.SyncPolicy != nil && g.set.Spec.SyncPolicy.PreserveResourcesOnDeletion
	if !keeps && empty(meta["finalizers"]) {
		meta["finalizers"] = []any{argocdv1.ResourcesFinalizer}
	}
	if patch := g.set.Spec.TemplatePatch; patch != nil {
		if tree, err = g.patched(tree, *patch, p); err != nil {
			return Application{}, err
		}
		if meta, _ = tree["metadata"].(map[string]any); meta == nil {
			return Application{}, errors.New("templatePatch leaves no metadata")
		}
	}
	meta["namespace"] = g.set.Namespace
	tree["apiVersion"], tree["kind"] = argocdv1.GroupVersion.String(), argocdv1.ApplicationKind
	if _, ok := tree["spec"].(map[string]any); !ok {
		tree["spec"] = map[string]any{}
	}
	data, err := json.Marshal(tree)
	if err != nil {
		return Application{}, err
	}
	if len(data) > maxApplication {
		return Application{}, fmt.Errorf("application %v: it has more than %d MiB", meta["name"], maxApplication>>20)
	}
	app := &argocdv1.Application{}
	if err := json.Unmarshal(data, app); err != nil {
		return Application{}, fmt.Errorf("application %v: it is no Application: %w", meta["name"], err)
	}
	return Application{App: app, Object: tree}, nil
}

// patched lays templatePatch over an Application, by a strategic merge; it does not change the project.
func (g *generation) patched(tree map[string]any, text string, p params) (map[string]any, error) {
	filled, err := g.render.text(text, p)
	if err != nil {
		return nil, fmt.Errorf("templatePatch: %w", err)
	}
	data, err := yaml.YAMLToJSON([]byte(filled))
	if err != nil {
		return nil, fmt.Errorf("templatePatch: filled in it is no YAML: %w", err)
	}
	var patch map[string]any
	if err := kjson.Unmarshal(data, &patch); err != nil {
		return nil, fmt.Errorf("templatePatch: filled in it is no mapping: %w", err)
	}
	if len(patch) == 0 {
		return tree, nil
	}
	for key := range patch { // the rest is not a template's
		if key != "metadata" && key != "spec" {
			delete(patch, key)
		}
	}
	had, project := projectIn(tree)
	out, err := strategicpatch.StrategicMergeMapPatch(tree, patch, argocdv1.Application{})
	if err != nil {
		return nil, fmt.Errorf("templatePatch: %w", err)
	}
	spec, _ := out["spec"].(map[string]any)
	switch {
	case spec == nil:
	case had:
		spec["project"] = project
	default:
		delete(spec, "project")
	}
	return out, nil
}

func projectIn(tree map[string]any) (bool, any) {
	spec, _ := tree["spec"].(map[string]any)
	v, ok := spec["project"]
	return ok, v
}
