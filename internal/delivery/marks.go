package delivery

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Marks are what an object itself asks for by labels or annotations, in Git or in the cluster (Flux: Kustomization API,
// "Controlling the apply behavior of resources"). A label counts as much as an annotation, and case does not matter.
type Marks uint16

// The marks.
const (
	MarkKeep         Marks = 1 << iota // …/prune: disabled: it survives pruning
	MarkLeave                          // …/reconcile: disabled, or …/ssa: Ignore: it is neither applied nor pruned
	MarkIfNotPresent                   // …/ssa: IfNotPresent: it is created where it is not there, and never changed after
	// MarkMerge is …/ssa: Merge: what kubectl wrote to fields that Git does not name is left alone. Without it (…/ssa: Override,
	// the default) an apply takes over what kubectl has written, so that it goes where Git does not have it.
	MarkMerge
	MarkForce // …/force: enabled: it is deleted and made anew where a change to it is one that the server never allows

	// Those below are Argo CD's (sync options of an object).

	MarkConfirm       // Prune=confirm: it is pruned only once a person has said so
	MarkPruneLast     // PruneLast=true: it is pruned after everything else
	MarkReplace       // Replace=true: it is replaced as a whole, not merged
	MarkKeepOnDelete  // Delete=false, or Helm's resource policy keep: it stays where the app is deleted
	MarkConfirmDelete // Delete=confirm: the app is deleted only once a person has said so
	MarkKindMayCome   // SkipDryRunOnMissingResource=true: that its kind is not known is no reason not to begin
	MarkExtraneous    // compare-options IgnoreExtraneous: that it is not in Git does not make the app differ from Git
	MarkNoHealth      // ignore-healthcheck: true: how it is doing does not count
	MarkHook          // it is run at a moment of an operation: that it is not in Git does not matter
)

// markGroup is the prefix of the marks' keys.
const markGroup = "kustomize.toolkit.fluxcd.io/"

// SSAMark is the key of the mark whose value is one of several policies.
const SSAMark = markGroup + "ssa"

var marks = []struct {
	mark       Marks
	key, value string
}{
	{MarkKeep, markGroup + "prune", "disabled"},
	{MarkLeave, markGroup + "reconcile", "disabled"},
	{MarkLeave, SSAMark, "Ignore"},
	{MarkIfNotPresent, SSAMark, "IfNotPresent"},
	{MarkMerge, SSAMark, "Merge"},
	{MarkForce, markGroup + "force", "enabled"},
}

// MarksOf reads an object's marks.
func MarksOf(u *unstructured.Unstructured) Marks {
	var all Marks
	for _, field := range []string{"labels", "annotations"} {
		values, _, _ := unstructured.NestedFieldNoCopy(u.Object, "metadata", field)
		m, _ := values.(map[string]any)
		if len(m) == 0 {
			continue
		}
		for _, k := range marks {
			if v, ok := m[k.key].(string); ok && strings.EqualFold(v, k.value) {
				all |= k.mark
			}
		}
	}
	return all
}

// Has tells whether any of the given marks is set.
func (m Marks) Has(any Marks) bool { return m&any != 0 }

// UnknownPolicy gives the value of the object's [SSAMark] if it is none of Flux's; empty: it is one, or there is none.
func (o Object) UnknownPolicy() string {
	for _, m := range []map[string]string{o.GetLabels(), o.GetAnnotations()} {
		v := m[SSAMark]
		known := v == "" || strings.EqualFold(v, "Override")
		for _, k := range marks {
			known = known || k.key == SSAMark && strings.EqualFold(v, k.value)
		}
		if !known {
			return v
		}
	}
	return ""
}
