package kube

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
)

// maxListed bounds the objects of a namespace that are listed.
const maxListed = 10_000

// InNamespace lists the metadata of everything in a namespace, but for what its kind does not let be listed, as Keelson itself. It
// costs a request for each kind. more tells that there is more than is given.
func (c *Cluster) InNamespace(ctx context.Context, namespace string) (objects []metav1.PartialObjectMetadata, more bool, err error) {
	ask, err := discovery.NewDiscoveryClientForConfigAndClient(c.config, c.http)
	if err != nil {
		return nil, false, fmt.Errorf("make discovery client: %w", err)
	}
	lists, err := ask.ServerPreferredNamespacedResourcesWithContext(ctx)
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return nil, false, fmt.Errorf("ask for the kinds of the cluster: %w", err)
	}
	client, err := metadata.NewForConfigAndClient(c.config, c.http)
	if err != nil {
		return nil, false, fmt.Errorf("make metadata client: %w", err)
	}
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue
		}
		for _, r := range list.APIResources {
			if !slices.Contains(r.Verbs, "list") || !slices.Contains(r.Verbs, "delete") { // what cannot be deleted is not anybody's
				continue
			}
			found, err := client.Resource(version.WithResource(r.Name)).Namespace(namespace).List(ctx, metav1.ListOptions{Limit: maxListed})
			if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || apierrors.IsMethodNotSupported(err) {
				continue
			}
			if err != nil {
				return nil, false, fmt.Errorf("list %s in %s: %w", r.Name, namespace, err)
			}
			for i := range found.Items {
				found.Items[i].SetGroupVersionKind(version.WithKind(r.Kind))
			}
			if objects = append(objects, found.Items...); found.Continue != "" || len(objects) > maxListed {
				return objects, true, nil
			}
		}
	}
	return objects, false, nil
}
