package delivery

import (
	"maps"
	"slices"
	"strings"
)

// Inventory is the set of objects that an app owns, with the API version that each was applied in.
// It lives in the app's status in the cluster. The nil Inventory is empty and may be read.
type Inventory map[Ref]string

// Refs lists the inventory in its stable order.
func (inv Inventory) Refs() []Ref {
	return slices.SortedFunc(maps.Keys(inv), Ref.Compare)
}

// Union gives the entries of both; for an entry in both, the version of other.
func (inv Inventory) Union(other Inventory) Inventory {
	out := make(Inventory, len(inv)+len(other))
	maps.Copy(out, inv)
	maps.Copy(out, other)
	return out
}

// Minus gives the entries of inv that are not in other.
func (inv Inventory) Minus(other Inventory) Inventory {
	out := Inventory{}
	for ref, version := range inv {
		if _, ok := other[ref]; !ok {
			out[ref] = version
		}
	}
	return out
}

// Common gives the entries of inv that are in other too.
func (inv Inventory) Common(other Inventory) Inventory { return inv.Minus(inv.Minus(other)) }

// Covers tells whether every entry of other is in inv.
func (inv Inventory) Covers(other Inventory) bool {
	for ref := range other {
		if _, ok := inv[ref]; !ok {
			return false
		}
	}
	return true
}

// Equal tells whether both hold the same entries in the same versions.
func (inv Inventory) Equal(other Inventory) bool { return maps.Equal(inv, other) }

// InventoryID formats a ref as Flux's inventories do: "<namespace>_<name>_<group>_<kind>", where
// a colon in an RBAC name is written as two underscores (cli-utils object.ObjMetadata).
func (r Ref) InventoryID() string {
	name := r.Name
	if r.Group == "rbac.authorization.k8s.io" {
		name = strings.ReplaceAll(name, ":", "__")
	}
	return r.Namespace + "_" + name + "_" + r.Group + "_" + r.Kind
}

// ParseInventoryID reads what [Ref.InventoryID] wrote; false if it is malformed.
// Names of RBAC objects may hold "__" for a colon; no other name can hold an underscore.
func ParseInventoryID(id string) (Ref, bool) {
	namespace, rest, ok := strings.Cut(id, "_")
	if !ok {
		return Ref{}, false
	}
	i := strings.LastIndexByte(rest, '_')
	if i < 0 {
		return Ref{}, false
	}
	kind, rest := rest[i+1:], rest[:i]
	i = strings.LastIndexByte(rest, '_')
	if i <= 0 || kind == "" {
		return Ref{}, false
	}
	name, group := rest[:i], rest[i+1:]
	return Ref{Group: group, Kind: kind, Namespace: namespace, Name: strings.ReplaceAll(name, "__", ":")}, true
}
