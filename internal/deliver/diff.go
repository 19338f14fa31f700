package deliver

import (
	"context"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
}

// Diff compares objects of no app with what is in the cluster, as the server itself would merge them (a dry run of every
// apply). It changes nothing. An object that an app owns in the cluster is compared as that app's. [Engine.Preview] is for apps.
func (e *Engine) Diff(ctx context.Context, objects []delivery.Object) ([]Difference, error) {
	unknown, err := e.prepare(delivery.App{}, objects)
	if err != nil {
		return nil, err
	}
	holds, _ := marks(objects)
	toolkit, _, err := e.toolkit(ctx, delivery.App{}, objects)
	if err != nil {
		return nil, err
	}
	holds = append(holds, toolkit...)
	scaled, err := e.scaleTargets(ctx, objects)
	if err != nil {
		return nil, err
	}
	there, err := e.look(ctx, objects, nil)
	if err != nil {
		return nil, err
	}
	var out []Difference
	for _, obj := range objects {
		if slices.ContainsFunc(holds, func(h delivery.Hold) bool { return h.Ref == obj.Ref() }) {
			continue
		}
		d := Difference{Ref: obj.Ref(), Verb: delivery.Create}
		if unknown[obj.GroupVersionKind().GroupKind()] {
			_, d.After = shown(nil, obj.Unstructured)
			out = append(out, d)
			continue
		}
		current := there[obj.Ref()]
		if current != nil {
			if owner := e.OwnerOf(current.GetLabels()); owner != (delivery.ID{}) {
				e.Label(owner, obj)
			}
		}
		if scaled[obj.Ref()] != "" {
			obj = withReplicasOf(obj, current)
		}
		d, err := e.difference(ctx, e.Cluster.Self(), obj, current)
		if err != nil {
			return out, err
		}
		out = append(out, d)
	}
	return out, nil
}

// difference asks the server what one apply would make of an object; current is what is there, nil: nothing. left are the fields that
// others decide.
func (e *Engine) difference(
	ctx context.Context, user *kube.User, obj delivery.Object, current *unstructured.Unstructured, left ...delivery.Pointer,
) (Difference, error) {
	d := Difference{Ref: obj.Ref(), Verb: delivery.Create}
	merged, err := apply.Send(ctx, user, obj, true)
	missing := apierrors.IsNotFound(err) || isNoKind(err)
	if current == nil && missing { // its namespace, or its kind, is to be created with it
		merged, err = obj.Unstructured, nil
	}
	if err != nil {
		return d, fmt.Errorf("compare with the cluster: %w", err)
	}
	d.Before, d.After = shown(current, merged)
	if current == nil {
		return d, nil
	}
	if d.Takeover, _, err = plan.TakeOver(merged, kube.FieldManager, left...); err != nil {
		return d, err
	}
	d.Takeover.Fields = nil
	d.Verb = delivery.Update
	if d.Before == d.After {
		d.Verb = delivery.Unchanged
	}
	return d, nil
}

// scaleTargets finds what autoscalers scale, and their names: those in the cluster, and those among the objects.
func (e *Engine) scaleTargets(ctx context.Context, objects []delivery.Object) (map[delivery.Ref]string, error) {
	targets := map[delivery.Ref]string{}
	note := func(u *unstructured.Unstructured) {
		if ref, ok := live.ScaleTarget(u); ok {
			targets[ref] = delivery.RefOf(u).String()
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

// isNoKind tells that the cluster does not know an object's kind.
func isNoKind(err error) bool {
	var f *delivery.Fault
	return errors.As(err, &f) && f.Reason == "KindNotFound"
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
