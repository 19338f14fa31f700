package live

import (
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/delivery"
)

// Version tells in which version a ConfigMap or Secret is that an app's variables come from: its UID and resource version;
// empty: it does not exist. known is false until that is known; the app is notified then, and at every change.
func (l *Live) Version(_ delivery.ID, kind, namespace, name string) (version string, known bool, err error) {
	r, err := l.cluster.Self().Resource(schema.GroupVersionKind{Version: "v1", Kind: kind}, namespace)
	if err != nil {
		return "", false, err
	}
	u, err := r.Get(l.ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", true, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("read %s/%s/%s: %w", kind, namespace, name, err)
	}
	return string(u.GetUID()) + "/" + u.GetResourceVersion(), true, nil
}

// References says which objects an app's variables come from; the watches of others that nobody refers to any more end.
func (l *Live) References(delivery.ID, []delivery.VarsRef) {}

// Forget ends what was only there for an app that is gone.
func (l *Live) Forget(delivery.ID) {}
