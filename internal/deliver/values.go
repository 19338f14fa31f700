package deliver

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/redact"
)

// ReadValues reads the ConfigMaps and Secrets that the values of an app's Helm release come from. data gives what is in one of them; false:
// there is none. The redactor, never nil, knows what comes from Secrets: whole values, and the texts and numbers in documents and in what a value
// with a path becomes.
func ReadValues(ctx context.Context, reader client.Reader, app delivery.App) (
	data func(delivery.ValuesRef) (map[string][]byte, bool), secrets *redact.Redactor, err error,
) {
	read := map[string]map[string][]byte{}
	var hidden []string
	for _, ref := range app.Release.ValuesFrom {
		have, ok := read[ref.String()]
		if !ok {
			have, err = valuesIn(ctx, reader, types.NamespacedName{Namespace: app.ID.Namespace, Name: ref.Name}, ref.Secret())
			if apierrors.IsNotFound(err) {
				continue
			}
			if err != nil {
				return nil, redact.New(), &delivery.Fault{
					Reason: "ValuesError", Where: ref.Kind + "/" + app.ID.Namespace + "/" + ref.Name, Err: fmt.Errorf("read values: %w", err),
				}
			}
			read[ref.String()] = have
		}
		if !ref.Secret() {
			continue
		}
		for key, value := range have {
			var root map[string]any
			switch {
			case key == ref.Key && ref.Path == "" && yaml.Unmarshal(value, &root) == nil: // as composing the values tells
				hidden = append(hidden, leaves(root, func(string) bool { return false })...) // the names of values are no secrets
				continue
			case key == ref.Key && ref.Path != "":
				root = map[string]any{}
				_ = dialect.SetValue(root, ref, string(value)) // composing the values tells of the error
				hidden = append(hidden, leaves(root, func(name string) bool { return !strings.Contains(ref.Path, name) })...)
			}
			hidden = append(hidden, string(value), strings.TrimSpace(string(value)))
		}
	}
	return func(ref delivery.ValuesRef) (map[string][]byte, bool) {
		have, ok := read[ref.String()]
		return have, ok
	}, redact.New(hidden...), nil
}

func valuesIn(ctx context.Context, reader client.Reader, key types.NamespacedName, secret bool) (map[string][]byte, error) {
	if secret {
		var s corev1.Secret
		err := reader.Get(ctx, key, &s)
		return s.Data, err
	}
	var cm corev1.ConfigMap
	if err := reader.Get(ctx, key, &cm); err != nil {
		return nil, err
	}
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	maps.Copy(data, cm.BinaryData)
	for name, text := range cm.Data {
		data[name] = []byte(text)
	}
	return data, nil
}

// TextsOf gives the texts and numbers in the values of a release, as templates print them.
func TextsOf(values map[string]any) []string {
	return leaves(values, func(string) bool { return false })
}

// leaves gives the texts and numbers in values, as templates print them, and the names that are secret.
func leaves(root map[string]any, secret func(name string) bool) (texts []string) {
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, inner := range v {
				if secret(name) {
					texts = append(texts, name)
				}
				walk(inner)
			}
		case []any:
			for _, inner := range v {
				walk(inner)
			}
		case string:
			texts = append(texts, v, strings.TrimSpace(v))
		case int64: // a number again where it has been in JSON
			texts = append(texts, strconv.FormatInt(v, 10))
			walk(float64(v))
		case float64:
			texts = append(texts, strconv.FormatFloat(v, 'f', -1, 64), fmt.Sprint(v))
		}
	}
	walk(root)
	return texts
}
