package release

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/postrenderer"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/resid"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/kube"
)

// postRender changes what the templates gave: the app's own post-renderers in their order, then the common metadata, then the
// origin labels. It implements [postrenderer.PostRenderer].
type postRender struct{ app delivery.App }

var _ postrenderer.PostRenderer = postRender{}

// Run implements [postrenderer.PostRenderer].
func (p postRender) Run(in *bytes.Buffer) (*bytes.Buffer, error) {
	if in.Len() == 0 {
		return in, nil
	}
	for i, r := range p.app.Release.PostRenderers {
		out, err := kustomized(in.Bytes(), r)
		if err != nil {
			return nil, &delivery.Fault{
				Reason: ReasonBuild, Where: fmt.Sprintf("spec.postRenderers[%d]", i), Retry: delivery.OnChange, Err: err,
			}
		}
		in = bytes.NewBuffer(out)
	}
	objects, err := readManifest(in)
	if err != nil {
		return nil, err
	}
	origin := dialect.HelmLabels(p.app.ID)
	var out bytes.Buffer
	for i, o := range objects {
		labels := merged(o.GetLabels(), p.app.Common.Labels)
		o.SetLabels(merged(labels, origin))
		if len(p.app.Common.Annotations) > 0 {
			o.SetAnnotations(merged(o.GetAnnotations(), p.app.Common.Annotations))
		}
		text, err := yamlOf(o.Object)
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", o.Where(), err)
		}
		if i > 0 {
			out.WriteString("---\n")
		}
		out.Write(text)
	}
	return &out, nil
}

func merged(a, b map[string]string) map[string]string {
	out := make(map[string]string, len(a)+len(b))
	for k, v := range a {
		out[k] = v
	}
	for k, v := range b {
		out[k] = v
	}
	return out
}

// yamlOf writes an object with its keys in order.
func yamlOf(object any) ([]byte, error) {
	data, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	return yaml.JSONToYAML(data)
}

// kustomized builds a kustomization of manifests with patches and images over them.
func kustomized(manifests []byte, r delivery.PostRenderer) (out []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("kustomize panicked: %v", p)
		}
	}()
	k := types.Kustomization{
		TypeMeta:  types.TypeMeta{APIVersion: types.KustomizationVersion, Kind: types.KustomizationKind},
		Resources: []string{"all.yaml"},
	}
	for _, p := range r.Patches {
		k.Patches = append(k.Patches, types.Patch{Patch: p.Patch, Target: selector(p.Target)})
	}
	for _, i := range r.Images {
		k.Images = append(k.Images, types.Image{Name: i.Name, NewName: i.NewName, NewTag: i.NewTag, Digest: i.Digest})
	}
	text, err := yaml.Marshal(k)
	if err != nil {
		return nil, err
	}
	fsys := filesys.MakeFsInMemory()
	const dir = "/release"
	if err := fsys.WriteFile(path.Join(dir, "all.yaml"), manifests); err != nil {
		return nil, err
	}
	if err := fsys.WriteFile(path.Join(dir, "kustomization.yaml"), text); err != nil {
		return nil, err
	}
	built, err := krusty.MakeKustomizer(&krusty.Options{
		LoadRestrictions: types.LoadRestrictionsRootOnly, PluginConfig: types.DisabledPluginConfig(),
	}).Run(fsys, dir)
	if err != nil {
		return nil, err
	}
	return built.AsYaml()
}

func selector(s *delivery.Selector) *types.Selector {
	if s == nil {
		return nil
	}
	return &types.Selector{
		ResId:         resid.ResId{Gvk: resid.Gvk{Group: s.Group, Version: s.Version, Kind: s.Kind}, Namespace: s.Namespace, Name: s.Name},
		LabelSelector: s.LabelSelector, AnnotationSelector: s.AnnotationSelector,
	}
}

// renderStrategy tells Helm whether hooks are post-rendered.
func renderStrategy(h delivery.HookRendering) action.PostRenderStrategy {
	switch h {
	case delivery.HooksLeftOut:
		return action.PostRenderStrategyNoHooks
	case delivery.HooksSeparate:
		return action.PostRenderStrategySeparate
	default:
		return action.PostRenderStrategyCombined
	}
}

// maxLookups bounds how often a chart may ask the cluster while it is rendered.
const maxLookups = 1000

// lookup is the template function of that name. Unlike Helm's it knows without discovery where a kind is found; what it may see is what
// the release's user may.
func lookup(ctx context.Context, user *kube.User) func(apiVersion, kind, namespace, name string) (map[string]any, error) {
	asked := 0
	return func(apiVersion, kind, namespace, name string) (map[string]any, error) {
		if asked++; asked > maxLookups {
			return nil, fmt.Errorf("the templates call lookup more than %d times", maxLookups)
		}
		gv, err := schema.ParseGroupVersion(apiVersion)
		if err != nil {
			return nil, fmt.Errorf("lookup: %w", err)
		}
		mapping, err := user.Mapper.RESTMapping(schema.GroupKind{Group: gv.Group, Kind: kind}, gv.Version)
		if err != nil {
			return nil, fmt.Errorf("lookup %s %s: %w", apiVersion, kind, err)
		}
		var r dynamic.ResourceInterface = user.Dynamic.Resource(mapping.Resource)
		if namespace != "" && mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			r = user.Dynamic.Resource(mapping.Resource).Namespace(namespace)
		}
		if name == "" {
			list, err := r.List(ctx, metav1.ListOptions{})
			if apierrors.IsNotFound(err) {
				return map[string]any{}, nil
			}
			if err != nil {
				return nil, fmt.Errorf("lookup %s: %w", strings.ToLower(kind), err)
			}
			return list.UnstructuredContent(), nil
		}
		u, err := r.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return map[string]any{}, nil
		}
		if err != nil {
			return nil, fmt.Errorf("lookup %s %s: %w", strings.ToLower(kind), name, err)
		}
		return u.UnstructuredContent(), nil
	}
}
