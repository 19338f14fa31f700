package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"keelson.dev/keelson/internal/delivery"
)

// tools are the field managers of programs that deliver what a repository or a person wants: what they own of an object
// that we deliver too is taken over. kubectl is known by its prefix.
var tools = []string{
	"kustomize-controller", "gotk-kustomize-controller", "helm-controller", "helm", "Helm",
	"argocd-controller", "argocd-application-controller",
	"before-first-apply", // whatever was there before the first server-side apply
}

// IsTool tells whether a field manager is another delivery tool, or kubectl in a person's hand. What "kubectl rollout restart"
// writes stays: it would restart everything once more. So does what flux-client-side-apply owns, which is Flux's own way to
// say so (Flux FAQ, "Why are kubectl edits rolled back by Flux?").
func IsTool(manager string) bool {
	if strings.HasPrefix(manager, "kubectl") {
		return manager != "kubectl-rollout"
	}
	return slices.Contains(tools, manager)
}

// notes are annotations and labels in which tools keep their own books. They are no wish of the repository's: they stay with
// their tool, which finds them again should it come back.
var notes = []string{
	"kubectl.kubernetes.io/last-applied-configuration", "meta.helm.sh/", "argocd.argoproj.io/",
	"app.kubernetes.io/managed-by", "app.kubernetes.io/instance", "helm.sh/chart",
}

func isNote(key string) bool {
	return slices.ContainsFunc(notes, func(n string) bool { return key == n || strings.HasSuffix(n, "/") && strings.HasPrefix(key, n) })
}

// Takeover is what has to be written so that the fields of other tools become ours.
type Takeover struct {
	Fields []metav1.ManagedFieldsEntry // the object's managedFields as they are to be
	From   []string                    // the tools' field managers
	// Again: we now own fields that we do not send, because a tool had them from a repository in which they no longer are.
	// The next apply removes them.
	Again bool
	Goes  []string // these fields, as ".data.b"
}

// TakeOver decides what becomes of the fields that tools own of an object which we, as manager, have just applied; false: nothing
// has to be done. Without it a field that we send and a tool owns as well would stay when it leaves Git.
//
// Of what a tool applied server-side everything becomes ours, as the tool itself would remove what left Git. A tool that updates
// owns the server's defaults too: of these only what we send becomes ours, and what its last-applied annotation names. Its
// other fields stay as they are and whose they are. So a takeover by itself changes nothing of the object.
//
// Fields that are left to others (left) do not become ours either, or the next apply would remove them: the tool lets go of them, and
// they stay as they are.
func TakeOver(u *unstructured.Unstructured, manager string, left ...delivery.Pointer) (Takeover, bool, error) {
	if !anyTool(u) {
		return Takeover{}, false, nil
	}
	entries := u.GetManagedFields()
	at := slices.IndexFunc(entries, func(e metav1.ManagedFieldsEntry) bool { return isApply(e, manager) })
	if at < 0 || delivery.MarksOf(u).Has(delivery.MarkMerge) {
		return Takeover{}, false, nil
	}
	ours, err := setOf(entries[at])
	if err != nil {
		return Takeover{}, false, err
	}
	sent, all := withParents(ours), ours
	var t Takeover
	kept := make([]metav1.ManagedFieldsEntry, 0, len(entries))
	for _, e := range entries {
		if !IsTool(e.Manager) || e.Manager == manager || e.Subresource != "" || e.FieldsV1 == nil {
			kept = append(kept, e)
			continue
		}
		theirs, err := setOf(e)
		if err != nil {
			return Takeover{}, false, err
		}
		take, goes := fieldpath.NewSet(), theirs // what comes to us, what they lose
		switch {
		case e.APIVersion != entries[at].APIVersion: // paths of two versions cannot be compared: it lets go of all, and nothing is removed
		case e.Operation == metav1.ManagedFieldsOperationApply:
			goes = filter(theirs, func(p fieldpath.Path) bool { return !noted(p) })
			take = goes
		default:
			take = wanted(u, theirs)
			goes = theirs.Intersection(sent).Union(take)
			if theirs.Intersection(ours).Empty() && take.Empty() { // it only has something beside ours
				goes = take
			}
		}
		rest := theirs.Difference(goes)
		if rest.Size() == theirs.Size() {
			kept = append(kept, e)
			continue
		}
		t.From = append(t.From, e.Manager)
		all = all.Union(filter(take, func(p fieldpath.Path) bool { return !isLeft(u.Object, p, left) }))
		if rest.Empty() {
			continue
		}
		if e.FieldsV1, err = fieldsOf(rest); err != nil {
			return Takeover{}, false, err
		}
		kept = append(kept, e)
	}
	if len(t.From) == 0 {
		return Takeover{}, false, nil
	}
	t.Again = !all.Equals(ours)
	all.Difference(sent).Leaves().Iterate(func(p fieldpath.Path) { t.Goes = append(t.Goes, p.String()) })
	at = slices.IndexFunc(kept, func(e metav1.ManagedFieldsEntry) bool { return isApply(e, manager) })
	if kept[at].FieldsV1, err = fieldsOf(all); err != nil {
		return Takeover{}, false, err
	}
	t.Fields = kept
	return t, true, nil
}

// anyTool tells whether a tool owns anything of an object: of most none does, which costs little to find out.
func anyTool(u *unstructured.Unstructured) bool {
	found, _, _ := unstructured.NestedFieldNoCopy(u.Object, "metadata", "managedFields")
	entries, _ := found.([]any)
	return slices.ContainsFunc(entries, func(e any) bool {
		entry, _ := e.(map[string]any)
		manager, _ := entry["manager"].(string)
		return entry["subresource"] == nil && IsTool(manager)
	})
}

// HandBack gives an object's managedFields with what we, as manager, own in the hands of another tool, as if that had applied
// it; false: we own nothing of it.
func HandBack(u *unstructured.Unstructured, manager, to string) ([]metav1.ManagedFieldsEntry, bool, error) {
	entries := u.GetManagedFields()
	at := slices.IndexFunc(entries, func(e metav1.ManagedFieldsEntry) bool { return isApply(e, manager) })
	if at < 0 {
		return nil, false, nil
	}
	all, err := setOf(entries[at])
	if err != nil {
		return nil, false, err
	}
	entry := entries[at]
	entry.Manager = to
	kept := make([]metav1.ManagedFieldsEntry, 0, len(entries))
	for _, e := range entries {
		switch {
		case isApply(e, manager):
		case isApply(e, to) && e.APIVersion == entry.APIVersion:
			theirs, err := setOf(e)
			if err != nil {
				return nil, false, err
			}
			all = all.Union(theirs)
		case isApply(e, to): // of another version: the tool's next apply says anew what it owns
		default:
			kept = append(kept, e)
		}
	}
	if entry.FieldsV1, err = fieldsOf(all); err != nil {
		return nil, false, err
	}
	return append(kept, entry), true, nil
}

func isApply(e metav1.ManagedFieldsEntry, manager string) bool {
	return e.Manager == manager && e.Operation == metav1.ManagedFieldsOperationApply && e.Subresource == "" && e.FieldsV1 != nil
}

func setOf(e metav1.ManagedFieldsEntry) (*fieldpath.Set, error) {
	set := fieldpath.NewSet()
	if err := set.FromJSON(bytes.NewReader(e.FieldsV1.GetRawBytes())); err != nil {
		return nil, fmt.Errorf("read the managedFields of %q: %w", e.Manager, err)
	}
	return set, nil
}

func fieldsOf(set *fieldpath.Set) (*metav1.FieldsV1, error) {
	b, err := set.ToJSON()
	if err != nil {
		return nil, fmt.Errorf("write managedFields: %w", err)
	}
	return metav1.NewFieldsV1(string(b)), nil
}

func filter(set *fieldpath.Set, keep func(fieldpath.Path) bool) *fieldpath.Set {
	out := fieldpath.NewSet()
	set.Iterate(func(p fieldpath.Path) {
		if keep(p) {
			out.Insert(p.Copy())
		}
	})
	return out
}

// withParents adds the maps and lists in which a set has something: who is left as their only owner would keep them, empty.
func withParents(set *fieldpath.Set) *fieldpath.Set {
	out := fieldpath.NewSet()
	set.Iterate(func(p fieldpath.Path) {
		for i := 1; i <= len(p); i++ {
			out.Insert(p[:i].Copy())
		}
	})
	return out
}

// isLeft tells whether a path is that of a field which is left to others, or leads below it.
func isLeft(object any, p fieldpath.Path, left []delivery.Pointer) bool {
	return slices.ContainsFunc(left, func(field delivery.Pointer) bool {
		if len(p) < len(field) {
			return false
		}
		value := object
		for i, name := range field {
			switch e := p[i]; {
			case e.FieldName != nil && *e.FieldName == name:
				m, _ := value.(map[string]any)
				value = m[name]
			case e.Key != nil:
				list, _ := value.([]any)
				at := slices.IndexFunc(list, func(item any) bool { return fits(item, *e.Key) })
				if at < 0 || strconv.Itoa(at) != name {
					return false
				}
				value = list[at]
			default:
				return false
			}
		}
		return true
	})
}

// noted tells whether a path is that of a tool's own annotation or label.
func noted(p fieldpath.Path) bool {
	if len(p) != 3 || p[0].FieldName == nil || *p[0].FieldName != "metadata" || p[1].FieldName == nil || p[2].FieldName == nil {
		return false
	}
	return (*p[1].FieldName == "annotations" || *p[1].FieldName == "labels") && isNote(*p[2].FieldName)
}

// wanted gives the fields of a set that the object's last-applied annotation names: what a repository, or a person, asked for.
func wanted(u *unstructured.Unstructured, theirs *fieldpath.Set) *fieldpath.Set {
	var last map[string]any
	if json.Unmarshal([]byte(u.GetAnnotations()[corev1.LastAppliedConfigAnnotation]), &last) != nil {
		return fieldpath.NewSet() // there is none, or nobody can tell what it says
	}
	return filter(theirs, func(p fieldpath.Path) bool { return !noted(p) && names(last, p) })
}

// names tells whether a document has something at a path. Key fields that an item leaves out are taken to be as the path has them:
// the server has given them their default.
func names(doc any, p fieldpath.Path) bool {
	for _, e := range p {
		switch {
		case e.FieldName != nil:
			m, _ := doc.(map[string]any)
			next, ok := m[*e.FieldName]
			if !ok {
				return false
			}
			doc = next
		case e.Key != nil:
			list, _ := doc.([]any)
			i := slices.IndexFunc(list, func(item any) bool { return fits(item, *e.Key) })
			if i < 0 {
				return false
			}
			doc = list[i]
		case e.Value != nil:
			list, _ := doc.([]any)
			i := slices.IndexFunc(list, func(item any) bool { return value.Equals(value.NewValueInterface(item), *e.Value) })
			if i < 0 {
				return false
			}
			doc = list[i]
		default:
			return false
		}
	}
	return true
}

func fits(item any, key value.FieldList) bool {
	m, ok := item.(map[string]any)
	if !ok {
		return false
	}
	for _, f := range key {
		if v, ok := m[f.Name]; ok && !value.Equals(value.NewValueInterface(v), f.Value) {
			return false
		}
	}
	return true
}

// Shares tells whether a tool still owns fields that we own too, or that have to become ours, from the fieldsV1 of both as
// they are in an object: [TakeOver] would do something. ours may be nil.
func Shares(ours, theirs map[string]any, operation string) bool {
	if operation == string(metav1.ManagedFieldsOperationApply) {
		return !onlyNotes(theirs)
	}
	return ours == nil || overlap(ours, theirs)
}

func onlyNotes(fields map[string]any) bool {
	for field, of := range fields {
		inner, _ := of.(map[string]any)
		if field != "f:metadata" || len(inner) == 0 {
			return false
		}
		for field, of := range inner {
			if field != "f:annotations" && field != "f:labels" {
				return false
			}
			keys, _ := of.(map[string]any)
			for key := range keys {
				if key != "." && !isNote(strings.TrimPrefix(key, "f:")) {
					return false
				}
			}
		}
	}
	return true
}

// overlap tells whether two sets have a field in common.
func overlap(a, b map[string]any) bool {
	for key, of := range b {
		other, ok := a[key]
		if !ok {
			continue
		}
		x, _ := other.(map[string]any)
		y, _ := of.(map[string]any)
		if len(x) == 0 && len(y) == 0 || overlap(x, y) {
			return true
		}
	}
	return false
}
