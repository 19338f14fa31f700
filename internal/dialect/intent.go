package dialect

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"

	"keelson.dev/keelson/internal/delivery"
)

// IntentAnnotation on a Kustomization names the objects that are about to become its own, ahead of the status's inventory:
// it is written before they are, together with the finalizer. It counts for as long as the inventory and the applied revision
// are those that it was written beside: the status write that ends a delivery settles it.
const IntentAnnotation = "keelson.dev/intent"

// maxIntent bounds the annotation of a Kustomization, in bytes: all annotations of an object together may have 256 KiB.
const maxIntent = 64 << 10

// intent is the annotation's content.
type intent struct {
	Base    string            `json:"base"`    // identifies the status whose inventory it adds to
	Entries map[string]string `json:"entries"` // inventory id -> API version
}

// Intent gives the annotation's value for an inventory that is to be widened; false: it would be too large, and the
// inventory itself has to be written ahead.
func Intent(status *kustomizev1.KustomizationStatus, widened delivery.Inventory) (string, bool) {
	written := KustomizationInventory(status)
	in := intent{Base: statusHash(status), Entries: map[string]string{}}
	for ref, version := range widened.Minus(written) {
		in.Entries[ref.InventoryID()] = version
	}
	b, err := json.Marshal(in)
	return string(b), err == nil && len(b) <= maxIntent
}

// KustomizationOwned is what a Kustomization owns: its inventory, and what it was about to add to it when it was last heard of.
func KustomizationOwned(k *kustomizev1.Kustomization) delivery.Inventory {
	inv := KustomizationInventory(&k.Status)
	var in intent
	text := k.Annotations[IntentAnnotation]
	if text == "" || json.Unmarshal([]byte(text), &in) != nil || in.Base != statusHash(&k.Status) {
		return inv
	}
	for id, version := range in.Entries {
		if ref, ok := delivery.ParseInventoryID(id); ok {
			inv[ref] = version
		}
	}
	return inv
}

// statusHash identifies the inventory and the applied revision of a status.
func statusHash(status *kustomizev1.KustomizationStatus) string {
	h := sha256.New()
	h.Write([]byte(status.LastAppliedRevision + "\n"))
	inv := KustomizationInventory(status)
	for _, ref := range inv.Refs() {
		h.Write([]byte(ref.InventoryID() + " " + inv[ref] + "\n"))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
