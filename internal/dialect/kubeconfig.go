package dialect

import (
	"github.com/fluxcd/pkg/apis/meta"

	"keelson.dev/keelson/internal/delivery"
)

// kubeConfig reads Flux's reference to another cluster.
func kubeConfig(ref *meta.KubeConfigReference) delivery.KubeConfig {
	switch {
	case ref == nil:
		return delivery.KubeConfig{}
	case badKubeConfig(ref):
		return delivery.KubeConfig{Kind: "Unknown"} // not this cluster, in any case
	case ref.SecretRef != nil:
		return delivery.KubeConfig{Kind: "Secret", Name: ref.SecretRef.Name, Key: ref.SecretRef.Key}
	default:
		return delivery.KubeConfig{Kind: "ConfigMap", Name: ref.ConfigMapRef.Name}
	}
}

// badKubeConfig tells whether a reference is one that the schema of the kind does not let through, so that it is not clear which
// cluster is meant.
func badKubeConfig(ref *meta.KubeConfigReference) bool {
	return ref != nil && (ref.SecretRef == nil) == (ref.ConfigMapRef == nil)
}
