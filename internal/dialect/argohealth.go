package dialect

import "keelson.dev/keelson/internal/delivery"

// ArgoConfigMap is the name of the ConfigMap with Argo CD's settings, in its namespace.
const ArgoConfigMap = "argocd-cm"

// ArgoHealthOverrides reads which scripts tell how objects are doing, from the data of [ArgoConfigMap]. What cannot be used is left
// out, and the problems say why.
func ArgoHealthOverrides(data map[string]string) (scripts []delivery.HealthScript, problems []string) {
	return nil, nil
}
