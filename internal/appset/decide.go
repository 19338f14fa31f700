package appset

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
)

// Verb is what is to be done to an Application.
type Verb string

// The verbs.
const (
	Create Verb = "create"
	Update Verb = "update" // by Patch
	Delete Verb = "delete"
)

// Change is what is to be done to one Application.
type Change struct {
	Verb  Verb
	Name  string
	UID   types.UID      // of what is there, for Delete
	Patch map[string]any // a JSON merge patch; of Create the whole object. With Delete it comes before; nil: nothing does
}

// Plan is what is to be done to the Applications of a set.
type Plan struct {
	Changes []Change // by name, deletions last
	Blocked error    // *delivery.Fault: why what fell away is not deleted
	Refused []Invalid
}

// Annotations of a set that a person answers the guard with: as for other apps.
const (
	confirmAnnotation  = "keelson.dev/confirm"
	maxPruneAnnotation = "keelson.dev/max-prune-percent"
)

const (
	defaultMaxPrune = 50 // percent of the Applications of a set that may fall away unasked
	many            = 4  // Applications; of fewer any number may
)

// Query runs a jq program over a document; it is given, as such a program may take any time.
type Query func(program string, document any) (any, error)

// Decide says what is to be done so that the Applications of a set are as generated. live are all Applications of its namespace.
// Whether anything may be changed or deleted is up to spec.syncPolicy.applicationsSync; one that belongs to another set is left
// alone, one that belongs to nobody is taken over (Argo CD: the same).
func Decide(set *argocdv1.ApplicationSet, got Generated, live []argocdv1.Application, jq Query) (Plan, error) {
	policy, err := policyOf(set)
	if err != nil {
		return Plan{}, err
	}
	there := make(map[string]*argocdv1.Application, len(live))
	for i := range live {
		there[live[i].Name] = &live[i]
	}
	plan := Plan{Refused: slices.Clone(got.Invalid)}
	keep := map[string]bool{}
	for _, i := range got.Invalid {
		keep[i.Name] = true
	}
	for _, app := range got.Applications {
		keep[app.App.Name] = true
		is, ok := there[app.App.Name]
		var change *Change
		switch {
		case !ok:
			change, err = create(set, app)
		case !is.DeletionTimestamp.IsZero():
			continue // once it is gone it comes anew
		case owner(is) != "" && !Owns(set, is):
			plan.Refused = append(plan.Refused, Invalid{Name: is.Name, Err: fmt.Errorf(
				"application %s belongs to %s already (hint: give one of them another name)", is.Name, owner(is))})
			continue
		case !policy.update && Owns(set, is):
			continue
		default:
			change, err = update(set, app, is, jq)
		}
		if err != nil {
			return Plan{}, err
		}
		if change != nil {
			plan.Changes = append(plan.Changes, *change)
		}
	}
	if policy.delete {
		deletions(set, live, keep, &plan)
	}
	return plan, nil
}

type policy struct{ update, delete bool }

func policyOf(set *argocdv1.ApplicationSet) (policy, error) {
	name := ""
	if p := set.Spec.SyncPolicy; p != nil {
		name = p.ApplicationsSync
	}
	switch name {
	case "", "sync":
		return policy{update: true, delete: true}, nil
	case "create-only":
		return policy{}, nil
	case "create-update":
		return policy{update: true}, nil
	case "create-delete":
		return policy{delete: true}, nil
	}
	return policy{}, &delivery.Fault{
		Reason: ReasonValidation, Where: "spec.syncPolicy.applicationsSync", Retry: delivery.OnChange,
		Err: fmt.Errorf("there is no policy %q", name), Hint: "sync, create-only, create-update or create-delete",
	}
}

// Deletes tells whether Applications are deleted with the set, or when they fall away.
func Deletes(set *argocdv1.ApplicationSet) bool {
	p, err := policyOf(set)
	return err == nil && p.delete
}

// Owns tells whether an Application is a set's. Only the name counts, so that a set made anew has its Applications.
func Owns(set *argocdv1.ApplicationSet, app *argocdv1.Application) bool {
	ref := metav1.GetControllerOf(app)
	return ref != nil && app.Namespace == set.Namespace && ref.Kind == argocdv1.ApplicationSetKind && ref.Name == set.Name &&
		strings.HasPrefix(ref.APIVersion, argocdv1.GroupVersion.Group+"/")
}

func owner(app *argocdv1.Application) string {
	ref := metav1.GetControllerOf(app)
	if ref == nil {
		return ""
	}
	return ref.Kind + "/" + ref.Name
}

func ownerReference(set *argocdv1.ApplicationSet) map[string]any {
	return map[string]any{
		"apiVersion": argocdv1.GroupVersion.String(), "kind": argocdv1.ApplicationSetKind, "name": set.Name, "uid": string(set.UID),
		"controller": true, "blockOwnerDeletion": true,
	}
}

func create(set *argocdv1.ApplicationSet, app Application) (*Change, error) {
	tree := cloned(app.Object)
	spec, err := normalized(app.App.Spec)
	if err != nil {
		return nil, err
	}
	if len(app.App.Unknown) == 0 { // else what has no name here would get lost
		tree["spec"] = spec
	}
	if op := app.App.Operation; op != nil {
		if tree["operation"], err = treeOf(op); err != nil {
			return nil, err
		}
	}
	meta, _ := tree["metadata"].(map[string]any)
	meta["ownerReferences"] = []any{ownerReference(set)}
	return &Change{Verb: Create, Name: app.App.Name, Patch: tree}, nil
}

// Annotations that others write on Applications and that stay: Argo CD's, and those of ours that a template has not to say.
var (
	othersAnnotations  = []string{"notified.notifications.argoproj.io", argocdv1.RefreshAnnotation, "argocd.argoproj.io/hydrate"}
	templateAnnotation = []string{argocdv1.DependsOnAnnotation, maxPruneAnnotation, "keelson.dev/allow-empty"}
)

func stays(set *argocdv1.ApplicationSet, key string) bool {
	if p := set.Spec.PreservedFields; p != nil && slices.Contains(p.Annotations, key) {
		return true
	}
	return slices.Contains(othersAnnotations, key) || strings.HasPrefix(key, "keelson.dev/") && !slices.Contains(templateAnnotation, key)
}

// update gives what an Application lacks; nil: nothing. What is not generated is left: status, an operation, fields that
// ignoreApplicationDifferences names.
func update(set *argocdv1.ApplicationSet, app Application, is *argocdv1.Application, jq Query) (*Change, error) {
	before, after, err := compared(set, app, is, jq)
	if err != nil {
		return nil, err
	}
	patch := mergePatch(before, after)
	if !slices.Equal(app.App.Unknown, is.Unknown) { // what has no name here is known by name alone
		if spec, ok := patch["spec"].(map[string]any); ok {
			underlay(spec, app.Object["spec"].(map[string]any)) //nolint:forcetypeassert // generated ones have a spec
		} else {
			patch["spec"] = app.Object["spec"]
		}
	}
	if op := app.App.Operation; op != nil && !reflect.DeepEqual(op, is.Operation) {
		if patch["operation"], err = treeOf(op); err != nil {
			return nil, err
		}
	}
	if ref := metav1.GetControllerOf(is); ref == nil || ref.UID != set.UID {
		refs := []any{ownerReference(set)}
		for _, other := range is.OwnerReferences {
			if other.Controller != nil && *other.Controller {
				continue
			}
			tree, err := treeOf(other)
			if err != nil {
				return nil, err
			}
			refs = append(refs, tree)
		}
		metadataOf(patch)["ownerReferences"] = refs
	}
	if len(patch) == 0 {
		return nil, nil //nolint:nilnil // nothing to do
	}
	return &Change{Verb: Update, Name: is.Name, Patch: patch}, nil
}

func metadataOf(tree map[string]any) map[string]any {
	meta, _ := tree["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{}
		tree["metadata"] = meta
	}
	return meta
}

// compared gives an Application as it is and as it should be, as far as a set has to say, without what is ignored.
func compared(set *argocdv1.ApplicationSet, app Application, is *argocdv1.Application, jq Query) (before, after map[string]any, err error) {
	labels, annotations := maps.Clone(app.App.Labels), maps.Clone(app.App.Annotations)
	if labels == nil {
		labels = map[string]string{}
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	if p := set.Spec.PreservedFields; p != nil {
		for _, key := range p.Labels {
			if v, ok := is.Labels[key]; ok {
				labels[key] = v
			}
		}
	}
	for key, v := range is.Annotations {
		if stays(set, key) {
			annotations[key] = v
		}
	}
	finalizers := slices.Clone(app.App.Finalizers)
	for _, f := range is.Finalizers {
		if !slices.Contains(finalizers, f) && othersFinalizer(f) {
			finalizers = append(finalizers, f)
		}
	}
	if sameElements(finalizers, is.Finalizers) {
		finalizers = is.Finalizers
	}
	if before, err = shape(is.Spec, is.Labels, is.Annotations, is.Finalizers); err != nil {
		return nil, nil, err
	}
	if after, err = shape(app.App.Spec, labels, annotations, finalizers); err != nil {
		return nil, nil, err
	}
	for _, rule := range set.Spec.IgnoreApplicationDifferences {
		if rule.Name != "" && rule.Name != is.Name {
			continue
		}
		for _, side := range []*map[string]any{&before, &after} {
			if *side, err = without(*side, rule, jq); err != nil {
				return nil, nil, err
			}
		}
	}
	return before, after, nil
}

// othersFinalizer tells whether a finalizer is not the template's to take away.
func othersFinalizer(f string) bool {
	return strings.HasPrefix(f, "pre-delete-finalizer.argocd.argoproj.io") || strings.HasPrefix(f, argocdv1.PostDeleteFinalizer) ||
		strings.Contains(f, "keelson.dev")
}

func sameElements(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func shape(spec argocdv1.ApplicationSpec, labels, annotations map[string]string, finalizers []string) (map[string]any, error) {
	tree, err := normalized(spec)
	if err != nil {
		return nil, err
	}
	meta := map[string]any{}
	for key, m := range map[string]map[string]string{"labels": labels, "annotations": annotations} {
		if len(m) > 0 {
			meta[key], _ = asMap(m)
		}
	}
	if len(finalizers) > 0 {
		list := make([]any, len(finalizers))
		for i := range finalizers {
			list[i] = finalizers[i]
		}
		meta["finalizers"] = list
	}
	return map[string]any{"apiVersion": argocdv1.GroupVersion.String(), "kind": argocdv1.ApplicationKind, "metadata": meta, "spec": tree}, nil
}

// normalized gives a spec as a tree in which what says nothing is left out, as Argo CD's controllers leave it out.
func normalized(spec argocdv1.ApplicationSpec) (map[string]any, error) {
	if spec.Project == "" {
		spec.Project = defaultProject
	}
	tree, err := treeOf(spec)
	if err != nil {
		return nil, err
	}
	if empty(tree["syncPolicy"]) {
		delete(tree, "syncPolicy")
	}
	sources, _ := tree["sources"].([]any)
	for _, v := range append([]any{tree["source"]}, sources...) {
		source, ok := v.(map[string]any)
		if !ok {
			continue
		}
		for _, key := range []string{"kustomize", "helm", "directory"} {
			if empty(source[key]) {
				delete(source, key)
			}
		}
	}
	return tree, nil
}

func treeOf(v any) (map[string]any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var out map[string]any
	return out, json.Unmarshal(data, &out)
}

// without gives a tree without the fields that a rule names.
func without(tree map[string]any, rule argocdv1.ApplicationIgnoreDifference, jq Query) (map[string]any, error) {
	for _, pointer := range rule.JSONPointers {
		tokens := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
		for i := range tokens {
			tokens[i] = strings.ReplaceAll(strings.ReplaceAll(tokens[i], "~1", "/"), "~0", "~")
		}
		tree, _ = removed(tree, tokens).(map[string]any)
	}
	for _, path := range rule.JQPathExpressions {
		invalid := func(err error) error {
			return &delivery.Fault{
				Reason: ReasonValidation, Where: "spec.ignoreApplicationDifferences", Retry: delivery.OnChange,
				Err: fmt.Errorf("jq %q: %w", path, err),
			}
		}
		if jq == nil {
			return nil, invalid(fmt.Errorf("jq cannot be run here"))
		}
		out, err := jq("del("+path+")", tree)
		if err != nil {
			return nil, invalid(err)
		}
		left, ok := out.(map[string]any)
		if !ok {
			return nil, invalid(fmt.Errorf("it leaves no Application"))
		}
		tree = left
	}
	return tree, nil
}

// removed gives v without what tokens lead to.
func removed(v any, tokens []string) any {
	switch v := v.(type) {
	case map[string]any:
		if len(tokens) == 1 {
			delete(v, tokens[0])
		} else if inner, ok := v[tokens[0]]; ok {
			v[tokens[0]] = removed(inner, tokens[1:])
		}
		return v
	case []any:
		i, err := strconv.Atoi(tokens[0])
		if err != nil || i < 0 || i >= len(v) {
			return v
		}
		if len(tokens) == 1 {
			return slices.Delete(v, i, i+1)
		}
		v[i] = removed(v[i], tokens[1:])
	}
	return v
}

// mergePatch gives the JSON merge patch (RFC 7386) that makes before into after; empty: they are the same.
func mergePatch(before, after map[string]any) map[string]any {
	patch := map[string]any{}
	for key := range before {
		if _, ok := after[key]; !ok {
			patch[key] = nil
		}
	}
	for key, v := range after {
		was, ok := before[key]
		a, isMap := was.(map[string]any)
		b, both := v.(map[string]any)
		switch {
		case ok && isMap && both:
			if inner := mergePatch(a, b); len(inner) > 0 {
				patch[key] = inner
			}
		case !ok || !reflect.DeepEqual(was, v):
			patch[key] = v
		}
	}
	return patch
}

// deletions adds what fell away, unless the guard stops it.
func deletions(set *argocdv1.ApplicationSet, live []argocdv1.Application, keep map[string]bool, plan *Plan) {
	var gone []Change
	var names []string
	owned := 0
	for i := range live {
		app := &live[i]
		if !Owns(set, app) {
			continue
		}
		owned++
		if keep[app.Name] || !app.DeletionTimestamp.IsZero() {
			continue
		}
		names = append(names, app.Name)
		gone = append(gone, Change{Verb: Delete, Name: app.Name, UID: app.UID})
	}
	slices.SortFunc(gone, func(a, b Change) int { return strings.Compare(a.Name, b.Name) })
	if plan.Blocked = guard(set, names, owned); plan.Blocked == nil {
		plan.Changes = append(plan.Changes, gone...)
	}
}

// guard gives why so many of a set's Applications are not deleted without a person's word; nil: they are.
func guard(set *argocdv1.ApplicationSet, names []string, owned int) error {
	limit := defaultMaxPrune
	if text, ok := set.Annotations[maxPruneAnnotation]; ok {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > 100 {
			return &delivery.Fault{
				Reason: "InvalidAnnotation", Where: maxPruneAnnotation, Retry: delivery.OnEvent,
				Err: fmt.Errorf("%q is not a percentage", text), Hint: "write a whole number from 0 to 100",
			}
		}
		limit = n
	}
	if owned < many || len(names)*100 <= limit*owned {
		return nil
	}
	word := Confirmation(names)
	if set.Annotations[confirmAnnotation] == word {
		return nil
	}
	return &delivery.Fault{
		Reason: "ConfirmationRequired", Retry: delivery.OnEvent,
		Err:  fmt.Errorf("%d of %d Applications would be deleted, which is more than %d %%", len(names), owned, limit),
		Hint: fmt.Sprintf("if it is meant: kubectl annotate applicationset %s -n %s --overwrite %s=%s", set.Name, set.Namespace, confirmAnnotation, word),
	}
}

// Confirmation is the word that covers the deletion of just these Applications.
func Confirmation(names []string) string {
	sum := sha256.Sum256([]byte(strings.Join(slices.Sorted(slices.Values(names)), "\n")))
	return hex.EncodeToString(sum[:6])
}
