package deliver

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/redact"
)

// ReadVariables gives an app's substitution variables: those of the ConfigMaps and Secrets it names, later ones over earlier
// ones, and its inline variables over all. The redactor knows the values that come from Secrets: whatever is said about
// an object that they were put into has to pass it.
func ReadVariables(ctx context.Context, reader client.Reader, app delivery.App) (map[string]string, *redact.Redactor, error) {
	vars := map[string]string{}
	var secrets []string
	for _, ref := range app.VarsFrom {
		data, err := variablesFrom(ctx, reader, types.NamespacedName{Namespace: app.ID.Namespace, Name: ref.Name}, ref.Kind)
		if apierrors.IsNotFound(err) && ref.Optional {
			continue
		}
		if err != nil {
			return nil, nil, &delivery.Fault{
				Reason: "BuildFailed", Where: ref.Kind + "/" + app.ID.Namespace + "/" + ref.Name,
				Hint: "create it, or mark it optional in spec.postBuild.substituteFrom",
				Err:  fmt.Errorf("read substitution variables: %w", err),
			}
		}
		maps.Copy(vars, data)
		if ref.Kind == "Secret" {
			secrets = slices.AppendSeq(secrets, maps.Values(data))
		}
	}
	maps.Copy(vars, app.Vars)
	return vars, redact.New(secrets...), nil
}

func variablesFrom(ctx context.Context, reader client.Reader, key types.NamespacedName, kind string) (map[string]string, error) {
	if kind == "Secret" {
		var secret corev1.Secret
		if err := reader.Get(ctx, key, &secret); err != nil {
			return nil, err
		}
		out := map[string]string{}
		for name, value := range secret.Data {
			out[name] = string(value)
		}
		return out, nil
	}
	var cm corev1.ConfigMap
	if err := reader.Get(ctx, key, &cm); err != nil {
		return nil, err
	}
	return cm.Data, nil
}
