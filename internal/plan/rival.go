package plan

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Overruled names the field manager that has lost fields of an object to manager between before and after: who had written what was
// repaired. Of several it is the one that wrote last; where nobody has lost any, as what was repaired had been taken away, it is whoever
// else wrote last, status writes aside. Empty: nobody is known to have.
func Overruled(before, after *unstructured.Unstructured, manager string) string {
	var lost, last *metav1.ManagedFieldsEntry
	newer := func(e, than *metav1.ManagedFieldsEntry) bool {
		return than == nil || than.Time == nil || e.Time != nil && !e.Time.Before(than.Time)
	}
	left := map[string]*fieldpath.Set{}
	for _, e := range after.GetManagedFields() {
		if set, err := setOfAny(e); err == nil {
			left[entryKey(e)] = set
		}
	}
	entries := before.GetManagedFields()
	for i := range entries {
		e := &entries[i]
		set, err := setOfAny(*e)
		if err != nil || e.Manager == manager || e.Subresource == "status" {
			continue
		}
		if newer(e, last) {
			last = e
		}
		has := left[entryKey(*e)]
		if has == nil {
			has = fieldpath.NewSet()
		}
		if !set.Leaves().Difference(has).Empty() && newer(e, lost) {
			lost = e
		}
	}
	switch {
	case lost != nil:
		return lost.Manager
	case last != nil:
		return last.Manager
	}
	return ""
}

func entryKey(e metav1.ManagedFieldsEntry) string {
	return e.Manager + " " + string(e.Operation) + " " + e.APIVersion + " " + e.Subresource
}

func setOfAny(e metav1.ManagedFieldsEntry) (*fieldpath.Set, error) {
	if e.FieldsV1 == nil {
		return fieldpath.NewSet(), nil
	}
	return setOf(e)
}
