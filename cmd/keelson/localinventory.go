package main

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

// localInventory is the ConfigMap in which a local app's inventory is kept. Every write names the version that was read before,
// so that of two deliveries at once the second to write stops.
type localInventory struct {
	client client.Client
	app    delivery.ID
	cm     *corev1.ConfigMap // as it is in the cluster; without a resource version: it is not there yet
}

// openLocalInventory reads what an app owns.
func openLocalInventory(ctx context.Context, c client.Client, app delivery.ID) (*localInventory, dialect.LocalInventory, error) {
	l := &localInventory{client: c, app: app, cm: &corev1.ConfigMap{}}
	key := client.ObjectKey{Namespace: app.Namespace, Name: dialect.LocalConfigMap(app.Name)}
	err := c.Get(ctx, key, l.cm)
	if apierrors.IsNotFound(err) {
		l.cm.Namespace, l.cm.Name = key.Namespace, key.Name
		return l, dialect.LocalInventory{Inventory: delivery.Inventory{}}, nil
	}
	if err != nil {
		return nil, dialect.LocalInventory{}, explainAPI(fmt.Errorf("read inventory: %w", err))
	}
	if l.cm.Labels[dialect.LocalInventoryLabel] != app.Name {
		return nil, dialect.LocalInventory{}, hintf(fmt.Errorf("ConfigMap/%s is no inventory of keelson's", key), "choose another --name")
	}
	known, err := dialect.ParseLocalInventory(l.cm.Data)
	if err != nil {
		return nil, dialect.LocalInventory{}, hintf(fmt.Errorf("read inventory: ConfigMap/%s: %w", key, err),
			"repair it; if it is deleted, what it lists is left as it is, and nothing of it is ever pruned")
	}
	return l, known, nil
}

// save writes the inventory, before and after anything is applied; an empty one that is settled is deleted.
func (l *localInventory) save(ctx context.Context, now dialect.LocalInventory) error {
	data, err := now.Data()
	if err != nil {
		return err
	}
	exists := l.cm.ResourceVersion != ""
	if now.State == dialect.LocalApplied && len(now.Inventory) == 0 {
		if exists {
			err = l.client.Delete(ctx, l.cm, client.Preconditions{ResourceVersion: &l.cm.ResourceVersion})
		}
		return l.explain(client.IgnoreNotFound(err))
	}
	l.cm.Labels = map[string]string{dialect.LocalInventoryLabel: l.app.Name}
	l.cm.Data = data
	if exists {
		return l.explain(l.client.Update(ctx, l.cm))
	}
	return l.explain(l.client.Create(ctx, l.cm))
}

func (l *localInventory) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return hintf(fmt.Errorf("write inventory: somebody else delivers %s at the same time", l.app.Name), "try again when that is done")
	case apierrors.IsNotFound(err):
		return hintf(fmt.Errorf("write inventory: there is no namespace %s", l.app.Namespace), "create it, or name another one with -n")
	case apierrors.IsRequestEntityTooLargeError(err) || apierrors.IsInvalid(err):
		return hintf(fmt.Errorf("write inventory: %w", err), "a ConfigMap holds 1 MiB, about ten thousand objects: make it several apps")
	}
	return explainAPI(fmt.Errorf("write inventory: %w", err))
}

// claimLocal takes in what other local apps own: everywhere, or in the app's namespace if no more may be read.
func claimLocal(ctx context.Context, c client.Client, app delivery.ID, claims *deliver.Claims) error {
	var list corev1.ConfigMapList
	err := c.List(ctx, &list, client.HasLabels{dialect.LocalInventoryLabel})
	if apierrors.IsForbidden(err) {
		err = c.List(ctx, &list, client.HasLabels{dialect.LocalInventoryLabel}, client.InNamespace(app.Namespace))
	}
	if err != nil {
		return explainAPI(fmt.Errorf("read inventories: %w", err))
	}
	for i := range list.Items {
		cm := &list.Items[i]
		known, err := dialect.ParseLocalInventory(cm.Data)
		if err != nil {
			return fmt.Errorf("read inventory: ConfigMap/%s/%s: %w", cm.Namespace, cm.Name, err)
		}
		owner := delivery.ID{Kind: dialect.LocalKind, Namespace: cm.Namespace, Name: cm.Labels[dialect.LocalInventoryLabel]}
		claims.Set(owner, known.Inventory)
	}
	return nil
}
