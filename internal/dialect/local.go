package dialect

import (
	"encoding/json"
	"fmt"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"

	"keelson.dev/keelson/internal/delivery"
)

// An app without a declaration in the cluster, as keelson apply delivers it, keeps its inventory in a ConfigMap:
//
//	metadata:
//	  name: keelson-NAME
//	  labels: {keelson.dev/inventory: NAME}
//	data:
//	  format: "1"
//	  state: Applying | Applied                 Applying: what is listed may be there, or not yet, or not any more
//	  revision: main@sha1:<hex>                 that is applied, or being applied; empty where it is not known
//	  inventory: {"entries":[{"id":"dev_web_apps_Deployment","v":"v1"}]}      as in a Kustomization's status
//
// Its objects carry the labels keelson.dev/name and keelson.dev/namespace.
const (
	LocalKind           = "App" // of the app's id
	LocalNameLabel      = "keelson.dev/name"
	LocalNamespaceLabel = "keelson.dev/namespace"
	LocalInventoryLabel = "keelson.dev/inventory"
	localPrefix         = "keelson-"
	localFormat         = "1"
)

// States of a local inventory.
const (
	LocalApplying = "Applying"
	LocalApplied  = "Applied"
)

// LocalInventory is what such a ConfigMap says.
type LocalInventory struct {
	State     string
	Revision  string
	Inventory delivery.Inventory
}

// LocalConfigMap names the ConfigMap of a local app.
func LocalConfigMap(app string) string { return localPrefix + app }

// Data gives the ConfigMap's data.
func (l LocalInventory) Data() (map[string]string, error) {
	var inv kustomizev1.ResourceInventory
	inv.Entries = []kustomizev1.ResourceRef{}
	for _, ref := range l.Inventory.Refs() {
		inv.Entries = append(inv.Entries, kustomizev1.ResourceRef{ID: ref.InventoryID(), Version: l.Inventory[ref]})
	}
	b, err := json.Marshal(inv)
	if err != nil {
		return nil, fmt.Errorf("encode inventory: %w", err)
	}
	return map[string]string{"format": localFormat, "state": l.State, "revision": l.Revision, "inventory": string(b)}, nil
}

// ParseLocalInventory reads a ConfigMap's data. Other than of a status, of which entries that nobody could have written are left
// out, an inventory that cannot be read whole is an error: it may have been edited by hand.
func ParseLocalInventory(data map[string]string) (LocalInventory, error) {
	if f := data["format"]; f != localFormat {
		return LocalInventory{}, fmt.Errorf("format %q is not known to this version of keelson", f)
	}
	var inv kustomizev1.ResourceInventory
	if err := json.Unmarshal([]byte(data["inventory"]), &inv); err != nil {
		return LocalInventory{}, fmt.Errorf("inventory: %w", err)
	}
	out := LocalInventory{State: data["state"], Revision: data["revision"], Inventory: delivery.Inventory{}}
	for _, e := range inv.Entries {
		ref, ok := delivery.ParseInventoryID(e.ID)
		if !ok {
			return LocalInventory{}, fmt.Errorf("inventory: %q is no id of an object", e.ID)
		}
		out.Inventory[ref] = e.Version
	}
	return out, nil
}

// LocalLabel marks an object as owned by a local app.
func LocalLabel(app delivery.ID, obj delivery.Object) {
	labels := obj.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[LocalNameLabel], labels[LocalNamespaceLabel] = app.Name, app.Namespace
	obj.SetLabels(labels)
}

// LocalOwner reads what [LocalLabel] wrote; the zero ID: nobody's.
func LocalOwner(labels map[string]string) delivery.ID {
	name, namespace := labels[LocalNameLabel], labels[LocalNamespaceLabel]
	if name == "" || namespace == "" {
		return delivery.ID{}
	}
	return delivery.ID{Kind: LocalKind, Namespace: namespace, Name: name}
}
