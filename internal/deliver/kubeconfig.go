package deliver

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
)

// ReadRemote reads how the other cluster is reached that an app is delivered to, from what its KubeConfig names. The error is a
// fault that names it.
func ReadRemote(ctx context.Context, reader client.Reader, app delivery.App, policy kube.Policy) (kube.Remote, error) {
	r, err := readRemote(ctx, reader, app, policy)
	if err != nil {
		return kube.Remote{}, KubeConfigFault(app, err)
	}
	return r, nil
}

func readRemote(ctx context.Context, reader client.Reader, app delivery.App, policy kube.Policy) (kube.Remote, error) {
	ref := app.KubeConfig
	key := types.NamespacedName{Namespace: app.ID.Namespace, Name: ref.Name}
	if ref.Kind == "Secret" {
		var secret corev1.Secret
		if err := reader.Get(ctx, key, &secret); err != nil {
			return kube.Remote{}, err
		}
		return kube.RemoteFromSecret(secret.Data, ref.Key, policy)
	}
	var cm corev1.ConfigMap
	if err := reader.Get(ctx, key, &cm); err != nil {
		return kube.Remote{}, err
	}
	return kube.RemoteFromConfigMap(app.ID.Namespace, cm.Data)
}

// KubeConfigFault says of an error that it lies in what an app's KubeConfig names. Where the API server did not say so, only a
// change of that helps.
func KubeConfigFault(app delivery.App, err error) error {
	where := app.KubeConfig.Kind + "/" + app.ID.Namespace + "/" + app.KubeConfig.Name
	if f := (*delivery.Fault)(nil); errors.As(err, &f) {
		named := *f
		named.Where = where
		return &named
	}
	f := &delivery.Fault{Reason: reconciliationFailed, Where: where, Retry: delivery.OnEvent, Err: fmt.Errorf("spec.kubeConfig: %w", err)}
	if apierrors.ReasonForError(err) != "" && !apierrors.IsNotFound(err) || errors.Is(err, context.DeadlineExceeded) {
		f.Retry = delivery.Backoff
	}
	return f
}
