package apply

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/plan"
)

// attempts bounds how often managedFields are written anew because somebody else wrote to the object in between.
const attempts = 5

// takeOver makes the fields that other delivery tools own of an object ours (see [plan.TakeOver]). have is the object as the
// server returned it for the apply of the change. It gives the object as it is then, and the tools; for most objects there are none and
// nothing is sent.
func takeOver(ctx context.Context, user *kube.User, c delivery.Change, have *unstructured.Unstructured) (*unstructured.Unstructured, []string, error) {
	obj, left := *c.Object, c.LeftToOthers()
	t, ok, err := plan.TakeOver(have, kube.FieldManager, left...)
	if err != nil || !ok {
		return have, nil, err
	}
	for attempt := 1; ; attempt++ {
		out, err := SetManagedFields(ctx, user, have, t.Fields)
		switch {
		case err == nil && t.Again:
			out, err = Send(ctx, user, obj, false)
			return out, t.From, err
		case err == nil:
			return out, t.From, nil
		case !apierrors.IsConflict(err) || attempt == attempts:
			return have, nil, Explain(fmt.Errorf("take over the fields of %s: %w", strings.Join(t.From, ", "), err), obj)
		}
		if have, err = reread(ctx, user, obj); err != nil {
			return nil, nil, err
		}
		if t, ok, err = plan.TakeOver(have, kube.FieldManager, left...); err != nil || !ok {
			return have, nil, err // somebody else has done it
		}
	}
}

func reread(ctx context.Context, user *kube.User, obj delivery.Object) (*unstructured.Unstructured, error) {
	resource, err := user.Resource(obj.GroupVersionKind(), obj.GetNamespace())
	if err != nil {
		return nil, Explain(err, obj)
	}
	have, err := resource.Get(ctx, obj.GetName(), metav1.GetOptions{})
	if err != nil {
		return nil, Explain(err, obj)
	}
	return have, nil
}

// SetManagedFields replaces the managedFields of an object as it was read, and nothing else of it. Where it has been written to
// since, the error is a conflict.
func SetManagedFields(ctx context.Context, user *kube.User, have *unstructured.Unstructured, fields []metav1.ManagedFieldsEntry) (*unstructured.Unstructured, error) {
	resource, err := user.Resource(have.GroupVersionKind(), have.GetNamespace())
	if err != nil {
		return have, err
	}
	body, err := json.Marshal([]map[string]any{
		{"op": "replace", "path": "/metadata/managedFields", "value": fields},
		{"op": "replace", "path": "/metadata/resourceVersion", "value": have.GetResourceVersion()},
	})
	if err != nil {
		return have, fmt.Errorf("encode managedFields: %w", err)
	}
	out, err := resource.Patch(ctx, have.GetName(), types.JSONPatchType, body, metav1.PatchOptions{FieldManager: kube.FieldManager})
	if err != nil {
		return have, err
	}
	return out, nil
}
