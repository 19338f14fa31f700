package deliver

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/apply"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/live"
	"keelson.dev/keelson/internal/plan"
	"keelson.dev/keelson/internal/redact"
)

// Difference is what delivering one object would change, as YAML before and after with the values of Secrets masked.
// Before is empty for an object to be created, After for one to be deleted.
type Difference struct {
	Ref           delivery.Ref
	Verb          delivery.Verb
	Before, After string
	Takeover      plan.Takeover // what would become of the fields that other tools own of it; its Fields are not given
	Held          string        // why it would be left alone; empty: it would not
}

// Diff compares rendered objects with what is in the cluster, as the server itself would merge them (a dry run of every
// apply, as the app's service account), and adds what would be pruned. It changes nothing. An app with the zero ID has no
// labels and no inventory: its objects are compared as they are rendered.
func (e *Engine) Diff(ctx context.Context, app delivery.App, objects []delivery.Object, inv delivery.Inventory) ([]Difference, error) {
	user, err := e.Cluster.As(app.ID.Namespace, app.ServiceAccount)
	if err != nil {
		return nil, err
	}
	unknown, err := e.prepare(app, objects)
	if err != nil {
		return nil, err
	}
	holds, _ := marks(objects)
	toolkit, _, err := e.toolkit(ctx, objects)
	if err != nil {
		return nil, err
	}
	holds = append(holds, toolkit...)
	scaled, err := e.scaleTargets(ctx, objects)
	if err != nil {
		return nil, err
	}
	var out []Difference
	want := delivery.Inventory{}
	for _, obj := range objects {
		want[obj.Ref()] = obj.GroupVersionKind().Version
		if i := slices.IndexFunc(holds, func(h delivery.Hold) bool { return h.Ref == obj.Ref() }); i >= 0 {
			out = append(out, Difference{Ref: obj.Ref(), Verb: delivery.Delegated, Held: holds[i].Describe()})
			continue
		}
		d := Difference{Ref: obj.Ref(), Verb: delivery.Create}
		if unknown[obj.GroupVersionKind().GroupKind()] {
			_, d.After = shown(nil, obj.Unstructured)
			out = append(out, d)
			continue
		}
		d, err := e.difference(ctx, user, app, obj, scaled[obj.Ref()])
		if err != nil {
			return out, err
		}
		out = append(out, d)
	}
	if !app.Prune {
		return out, nil
	}
	gone := inv.Minus(want)
	for _, ref := range gone.Refs() {
		current, err := get(ctx, e.Cluster.Self(), ref, gone[ref])
		if err != nil {
			return out, err
		}
		if current == nil || e.OwnerOf(current.GetLabels()) != app.ID || delivery.MarksOf(current).Has(delivery.MarkKeep|delivery.MarkLeave) {
			continue
		}
		before, _ := shown(current, nil)
		out = append(out, Difference{Ref: ref, Verb: delivery.Delete, Before: before})
	}
	return out, nil
}

// difference asks the server what one apply would make of an object. An object that no app is named for is compared as
// the app's that owns it in the cluster.
func (e *Engine) difference(ctx context.Context, user *kube.User, app delivery.App, obj delivery.Object, scaled bool) (Difference, error) {
	d := Difference{Ref: obj.Ref(), Verb: delivery.Create}
	current, err := get(ctx, e.Cluster.Self(), obj.Ref(), obj.GroupVersionKind().Version) // reading is the caller's own business
	if err != nil {
		return d, err
	}
	if app.ID == (delivery.ID{}) && current != nil {
		if owner := e.OwnerOf(current.GetLabels()); owner != (delivery.ID{}) {
			e.Label(owner, obj)
		}
	}
	if current != nil && (delivery.MarksOf(current).Has(delivery.MarkLeave) || obj.Marks().Has(delivery.MarkIfNotPresent)) {
		d.Verb = delivery.Unchanged
		d.Before, d.After = shown(current, current)
		return d, nil
	}
	if scaled {
		obj = withReplicasOf(obj, current)
	}
	merged, err := apply.Send(ctx, user, obj, true)
	if current != nil && err != nil && e.replaces(ctx, user, app, obj, current, err) {
		d.Verb = delivery.Replace
		d.Before, d.After = shown(current, obj.Unstructured)
		return d, nil
	}
	if current == nil && apierrors.IsNotFound(err) { // its namespace is to be created with it
		merged, err = obj.Unstructured, nil
	}
	if err != nil {
		return d, fmt.Errorf("compare with the cluster: %w", err)
	}
	d.Before, d.After = shown(current, merged)
	if current == nil {
		return d, nil
	}
	if d.Takeover, _, err = plan.TakeOver(merged, kube.FieldManager); err != nil {
		return d, err
	}
	d.Takeover.Fields = nil
	d.Verb = delivery.Update
	if d.Before == d.After {
		d.Verb = delivery.Unchanged
	}
	return d, nil
}

// replaces tells whether an object that the server refuses to change would be deleted and made anew.
func (e *Engine) replaces(
	ctx context.Context, user *kube.User, app delivery.App, obj delivery.Object, current *unstructured.Unstructured, refused error,
) bool {
	return plan.Forced(app, obj, delivery.MarksOf(current)) && apply.FitsAnew(ctx, user, obj, refused)
}

// scaleTargets finds what autoscalers scale: those in the cluster, and those among the objects.
func (e *Engine) scaleTargets(ctx context.Context, objects []delivery.Object) (map[delivery.Ref]bool, error) {
	targets := map[delivery.Ref]bool{}
	note := func(u *unstructured.Unstructured) {
		if ref, ok := live.ScaleTarget(u); ok {
			targets[ref] = true
		}
	}
	for _, obj := range objects {
		if obj.GetKind() == live.AutoscalerKind.Kind {
			note(obj.Unstructured)
		}
	}
	resource, err := e.Cluster.Self().Resource(live.AutoscalerKind, "")
	if err != nil {
		return nil, fmt.Errorf("look up autoscalers: %w", err)
	}
	list, err := resource.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list autoscalers: %w", err)
	}
	for i := range list.Items {
		note(&list.Items[i])
	}
	return targets, nil
}

// withReplicasOf gives obj with the number of replicas that is there, since an autoscaler decides it.
func withReplicasOf(obj delivery.Object, current *unstructured.Unstructured) delivery.Object {
	obj.Unstructured = obj.DeepCopy()
	unstructured.RemoveNestedField(obj.Object, "spec", "replicas")
	if current == nil {
		return obj
	}
	if n, ok, _ := unstructured.NestedInt64(current.Object, "spec", "replicas"); ok {
		_ = unstructured.SetNestedField(obj.Object, n, "spec", "replicas")
	}
	return obj
}

func get(ctx context.Context, user *kube.User, ref delivery.Ref, version string) (*unstructured.Unstructured, error) {
	resource, err := user.ResourceOf(ref, version)
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	u, err := resource.Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", ref, err)
	}
	return u, nil
}

// shown gives both sides as YAML for people: without what only the server writes, with Secrets masked.
func shown(before, after *unstructured.Unstructured) (string, string) {
	before, after = tidy(before), tidy(after)
	switch {
	case before == nil && after != nil:
		after = redact.Secret(after)
	case after == nil && before != nil:
		before = redact.Secret(before)
	case before != nil:
		before, after = redact.SecretPair(before, after)
	}
	return toYAML(before), toYAML(after)
}

func tidy(u *unstructured.Unstructured) *unstructured.Unstructured {
	if u == nil {
		return nil
	}
	u = u.DeepCopy()
	dropServerFields(u)
	return u
}

func toYAML(u *unstructured.Unstructured) string {
	if u == nil {
		return ""
	}
	b, err := yaml.Marshal(u.Object)
	if err != nil {
		return "# cannot be shown: " + err.Error() + "\n"
	}
	return string(b)
}
