package apply

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"regexp"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
)

// saysImmutable is how admission webhooks, CEL rules and most validations word it.
var saysImmutable = regexp.MustCompile(`is\simmutable|immutable\sfield`)

// FitsAnew tells of an object that is there and was refused whether it would be taken if it was deleted and made anew: whether
// the refusal was about the change and not about the object. Flux takes every refusal as invalid for one about the change; a
// typing error would then cost the object, also beside a field that is immutable. So a dry run of the same object under another
// name tells.
func FitsAnew(ctx context.Context, user *kube.User, obj delivery.Object, refused error) bool {
	status := apierrors.APIStatus(nil)
	switch {
	case ctx.Err() != nil || !errors.As(refused, &status):
		return false
	case !apierrors.IsInvalid(refused) && !saysImmutable.MatchString(status.Status().Message):
		return false
	}
	copied := delivery.Object{Unstructured: obj.DeepCopy(), Origin: obj.Origin}
	sum := sha256.Sum256([]byte(obj.GetName()))
	copied.SetName("keelson-" + hex.EncodeToString(sum[:8]))
	dropAllocated(copied.Unstructured)
	_, err := Send(ctx, user, copied, true)
	return err == nil || onlyTheName(err)
}

// onlyTheName tells whether an object was refused for nothing but its name, which some kinds derive from the rest of it.
func onlyTheName(err error) bool {
	status := apierrors.APIStatus(nil)
	if !errors.As(err, &status) || status.Status().Details == nil || len(status.Status().Details.Causes) == 0 {
		return false
	}
	return !slices.ContainsFunc(status.Status().Details.Causes, func(c metav1.StatusCause) bool { return c.Field != "metadata.name" })
}

// dropAllocated removes what only one Service at a time can have.
func dropAllocated(u *unstructured.Unstructured) {
	if u.GetKind() != "Service" || u.GetAPIVersion() != "v1" {
		return
	}
	for _, field := range []string{"clusterIP", "clusterIPs", "healthCheckNodePort"} {
		if v, _, _ := unstructured.NestedString(u.Object, "spec", field); v != "None" { // a headless one stays so
			unstructured.RemoveNestedField(u.Object, "spec", field)
		}
	}
	ports, _, _ := unstructured.NestedSlice(u.Object, "spec", "ports")
	for _, p := range ports {
		if port, ok := p.(map[string]any); ok {
			delete(port, "nodePort")
		}
	}
	if len(ports) > 0 {
		_ = unstructured.SetNestedSlice(u.Object, ports, "spec", "ports")
	}
}
