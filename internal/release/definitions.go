package release

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	helmkube "helm.sh/helm/v4/pkg/kube"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

// definedLimit is how long it is waited for definitions to be served (as Helm).
const definedLimit = time.Minute

// applyCRDs does with the definitions of the chart what the policy says, and gives the APIs that they define, as templates ask for them.
func (r *run) applyCRDs(policy delivery.CRDPolicy) ([]string, error) {
	files := r.chart.CRDObjects()
	if len(files) == 0 {
		return nil, nil
	}
	slices.SortStableFunc(files, func(a, b chartv2.CRD) int { return strings.Compare(a.Filename, b.Filename) })
	r.crds = delivery.Inventory{}
	var all helmkube.ResourceList
	for _, file := range files {
		list, err := r.client.Build(bytes.NewReader(file.File.Data), false)
		if err != nil {
			return nil, fmt.Errorf("read the definitions in %s: %w", file.Filename, err)
		}
		all = append(all, list...)
	}
	var apis []string
	for _, info := range all {
		r.crds[refOf(info)] = info.Mapping.GroupVersionKind.Version
		if u, ok := info.Object.(*unstructured.Unstructured); ok {
			apis = append(apis, defined(u)...)
		}
	}
	if policy == delivery.SkipCRDs {
		return nil, nil
	}
	var written helmkube.ResourceList
	for _, info := range all {
		u, ok := info.Object.(*unstructured.Unstructured)
		if !ok {
			continue
		}
		u.SetLabels(merged(u.GetLabels(), dialect.HelmLabels(r.app.ID)))
		resource := (&waiter{client: r.client}).resource(info)
		var answer *unstructured.Unstructured
		var err error
		if policy == delivery.ReplaceCRDs {
			answer, err = resource.Apply(r.ctx, u.GetName(), u, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
		} else {
			answer, err = resource.Create(r.ctx, u, metav1.CreateOptions{FieldManager: fieldManager})
			if apierrors.IsAlreadyExists(err) {
				continue
			}
		}
		if err != nil {
			return nil, &delivery.Fault{Reason: r.reason(), Where: "crds: " + refOf(info).String(), Err: err}
		}
		info.Object = answer
		written = append(written, info)
	}
	if len(written) == 0 {
		return apis, nil
	}
	if err := (&waiter{client: r.client, all: true}).Wait(written, definedLimit); err != nil {
		return nil, fmt.Errorf("wait for the definitions of the chart: %w", err)
	}
	if policy == delivery.ReplaceCRDs { // versions may have gone
		if err := r.engine.cluster.ForgetKinds(); err != nil {
			return nil, err
		}
	}
	return apis, r.offered(written)
}

// offered waits until the server offers what was defined: it says that a definition is established a moment before that, and nothing
// that could be watched tells of it.
func (r *run) offered(definitions helmkube.ResourceList) error {
	ctx, cancel := context.WithTimeout(r.ctx, definedLimit)
	defer cancel()
	for _, info := range definitions {
		u, ok := info.Object.(*unstructured.Unstructured)
		if !ok {
			continue
		}
		for _, api := range defined(u) {
			parts := strings.Split(api, "/")
			if len(parts) != 3 {
				continue
			}
			pause := time.Duration(0)
			for {
				_, err := r.user.Mapper.RESTMapping(schema.GroupKind{Group: parts[0], Kind: parts[2]}, parts[1])
				if err == nil {
					break
				}
				if !meta.IsNoMatchError(err) {
					return fmt.Errorf("find %s: %w", api, err)
				}
				if pause, err = rested(ctx, pause); err != nil {
					return fmt.Errorf("the server does not offer %s, though its definition is established: %w", api, err)
				}
			}
		}
	}
	return nil
}

// defined lists the APIs that a definition makes: "example.org/v1" and "example.org/v1/Thing".
func defined(u *unstructured.Unstructured) []string {
	group, _, _ := unstructured.NestedString(u.Object, "spec", "group")
	kind, _, _ := unstructured.NestedString(u.Object, "spec", "names", "kind")
	versions, _, _ := unstructured.NestedSlice(u.Object, "spec", "versions")
	var out []string
	for _, v := range versions {
		if m, ok := v.(map[string]any); ok && m["served"] == true {
			name, _ := m["name"].(string)
			out = append(out, group+"/"+name, group+"/"+name+"/"+kind)
		}
	}
	return out
}

// createNamespace makes the release's namespace, unless it is there.
func (r *run) createNamespace(name string) error {
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name, "labels": map[string]any{"name": name}}, // as Helm
	}}
	_, err := r.user.Dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).
		Create(r.ctx, u, metav1.CreateOptions{FieldManager: fieldManager})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return &delivery.Fault{Reason: r.reason(), Where: "Namespace/" + name, Err: fmt.Errorf("create the namespace: %w", err),
			Hint: "create it beforehand, or let the account that the release is made as create namespaces"}
	}
	return nil
}
