package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// findApp finds an app by "namespace/name", or by its name: in the namespace of -n, else wherever there is one only.
func findApp(ctx context.Context, c client.Client, namespace, arg string) (*kustomizev1.Kustomization, error) {
	name := arg
	if ns, n, ok := strings.Cut(arg, "/"); ok {
		if namespace != "" && namespace != ns {
			return nil, usagef("%s names another namespace than -n %s", arg, namespace)
		}
		namespace, name = ns, n
	}
	if name == "" {
		return nil, usagef("an app has a name")
	}
	var list kustomizev1.KustomizationList
	if err := c.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return nil, explainAPI(fmt.Errorf("look for app %s: %w", arg, err))
	}
	var found []*kustomizev1.Kustomization
	var where []string
	for i := range list.Items {
		if k := &list.Items[i]; k.Name == name {
			found = append(found, k)
			where = append(where, k.Namespace+"/"+k.Name)
		}
	}
	switch len(found) {
	case 0:
		return nil, hintf(fmt.Errorf("there is no app %s", arg), "keelson get apps lists them")
	case 1:
		return found[0], nil
	default:
		return nil, withCode(exitUsage, hintf(fmt.Errorf("there is more than one app %s", arg), "name one of %s", strings.Join(where, ", ")))
	}
}

// sourceOfApp reads the GitRepository that an app follows.
func sourceOfApp(ctx context.Context, c client.Client, k *kustomizev1.Kustomization) (*sourcev1.GitRepository, error) {
	ref := k.Spec.SourceRef
	if ref.Kind != sourcev1.GitRepositoryKind {
		return nil, fmt.Errorf("app %s/%s follows a %s: only a GitRepository can be asked", k.Namespace, k.Name, ref.Kind)
	}
	key := client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}
	if key.Namespace == "" {
		key.Namespace = k.Namespace
	}
	var src sourcev1.GitRepository
	if err := c.Get(ctx, key, &src); err != nil {
		return nil, explainAPI(fmt.Errorf("read source %s: %w", key, err))
	}
	return &src, nil
}

// annotate sets an annotation and nothing else.
func annotate(ctx context.Context, c client.Client, obj client.Object, key, value string) error {
	before, ok := obj.DeepCopyObject().(client.Object)
	if !ok {
		return errors.New("copy object: it is no API object")
	}
	a := obj.GetAnnotations()
	if a == nil {
		a = map[string]string{}
	}
	a[key] = value
	obj.SetAnnotations(a)
	return c.Patch(ctx, obj, client.MergeFrom(before))
}
