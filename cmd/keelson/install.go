package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/config"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/kube"
)

const crdTimeout = 30 * time.Second

// installCRDs brings the resource definitions into a cluster and waits until they are served. In a cluster that is
// not ours those that exist stay as they are: another program may need them so.
func installCRDs(ctx context.Context, c client.Client, ours bool) error {
	files, err := fs.Glob(config.CRDs, "crd/*.yaml")
	if err != nil {
		return fmt.Errorf("read resource definitions: %w", err)
	}
	for _, name := range files {
		b, err := config.CRDs.ReadFile(name)
		if err != nil {
			return fmt.Errorf("read resource definitions: %w", err)
		}
		crd := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(b, &crd.Object); err != nil {
			return fmt.Errorf("read resource definition %s: %w", name, err)
		}
		if ours {
			err = c.Apply(ctx, client.ApplyConfigurationFromUnstructured(crd), client.FieldOwner(kube.FieldManager), client.ForceOwnership)
		} else {
			err = createMissing(ctx, c, crd)
		}
		if err != nil {
			return fmt.Errorf("apply resource definition %s: %w", crd.GetName(), err)
		}
		if err := waitEstablished(ctx, c, crd.GetName()); err != nil {
			return err
		}
	}
	return nil
}

// makeArgoNamespace makes what Applications need of a cluster: Argo CD's namespace, and the project default in it, as an installation of
// Argo CD would. What is there stays.
func makeArgoNamespace(ctx context.Context, c client.Client, name string) error {
	name = cmp.Or(name, dialect.ArgoNamespace)
	ns := &unstructured.Unstructured{}
	ns.SetAPIVersion("v1")
	ns.SetKind("Namespace")
	ns.SetName(name)
	project := dialect.DefaultArgoProject(name)
	project.SetGroupVersionKind(argocdv1.GroupVersion.WithKind("AppProject"))
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(project)
	if err != nil {
		return fmt.Errorf("make AppProject %s: %w", project.Name, err)
	}
	for _, obj := range []*unstructured.Unstructured{ns, {Object: fields}} {
		if err := createMissing(ctx, c, obj); err != nil {
			return fmt.Errorf("make %s %s: %w", obj.GetKind(), obj.GetName(), err)
		}
	}
	return nil
}

// createMissing creates an object that is not there, and leaves one that is as it is.
func createMissing(ctx context.Context, c client.Client, obj *unstructured.Unstructured) error {
	have := &unstructured.Unstructured{}
	have.SetGroupVersionKind(obj.GroupVersionKind())
	err := c.Get(ctx, client.ObjectKeyFromObject(obj), have)
	if !apierrors.IsNotFound(err) {
		return err
	}
	if err := c.Create(ctx, obj); !apierrors.IsAlreadyExists(err) {
		return err
	}
	return nil
}

func waitEstablished(ctx context.Context, c client.Client, name string) error {
	ctx, cancel := context.WithTimeout(ctx, crdTimeout)
	defer cancel()
	err := poll(ctx, 50*time.Millisecond, func(ctx context.Context) (bool, error) {
		crd := &unstructured.Unstructured{}
		crd.SetGroupVersionKind(crdKind)
		if err := c.Get(ctx, client.ObjectKey{Name: name}, crd); err != nil {
			return false, err
		}
		conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
		for _, x := range conditions {
			if m, ok := x.(map[string]any); ok && m["type"] == "Established" && m["status"] == "True" {
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("wait for resource definition %s: %w", name, err)
	}
	return nil
}

// isMissingKind says whether the API server does not serve the kind at all.
func isMissingKind(err error) bool {
	var status apierrors.APIStatus
	return apierrors.IsNotFound(err) && errors.As(err, &status) && status.Status().Details != nil && status.Status().Details.Name == ""
}

// isUnreachable says whether no API server answered.
func isUnreachable(err error) bool {
	var u *url.Error
	return errors.As(err, &u)
}
