package history

import (
	"maps"
	"slices"
	"strings"
)

// shortNames are kubectl's, of the kinds that people ask about by them.
var shortNames = map[string]string{
	"cm": "ConfigMap", "csr": "CertificateSigningRequest", "crd": "CustomResourceDefinition", "crds": "CustomResourceDefinition", "cj": "CronJob",
	"deploy": "Deployment", "ds": "DaemonSet", "ep": "Endpoints", "hpa": "HorizontalPodAutoscaler", "ing": "Ingress", "limits": "LimitRange",
	"netpol": "NetworkPolicy", "no": "Node", "ns": "Namespace", "pc": "PriorityClass", "pdb": "PodDisruptionBudget", "po": "Pod",
	"pv": "PersistentVolume", "pvc": "PersistentVolumeClaim", "quota": "ResourceQuota", "rc": "ReplicationController", "rs": "ReplicaSet",
	"sa": "ServiceAccount", "sc": "StorageClass", "sts": "StatefulSet", "svc": "Service", "vwc": "ValidatingWebhookConfiguration",
	"ks": "Kustomization", "kustomization": "Kustomization", "hr": "HelmRelease", "helmrelease": "HelmRelease", "gitrepo": "GitRepository",
	"ocirepo": "OCIRepository", "helmrepo": "HelmRepository", "hc": "HelmChart", "app": "Application", "apps": "Application",
	"appset": "ApplicationSet", "appsets": "ApplicationSet", "appproj": "AppProject", "cert": "Certificate", "issuer": "Issuer",
	"httproute": "HTTPRoute", "gtw": "Gateway", "sm": "ServiceMonitor", "endpoints": "Endpoints",
}

// Kinds gives what a person may mean by a kind, in lower case: a kind ("Deployment"), its plural ("deployments"), its short name ("deploy"),
// each also with a group ("deployments.apps").
func Kinds(said string) []string {
	said, _, _ = strings.Cut(strings.ToLower(strings.TrimSpace(said)), ".")
	if said == "" {
		return nil
	}
	if kind, ok := shortNames[said]; ok {
		return []string{strings.ToLower(kind)}
	}
	kinds := map[string]bool{said: true}
	for _, end := range []struct{ plural, singular string }{{"ies", "y"}, {"es", ""}, {"s", ""}} {
		if stem, ok := strings.CutSuffix(said, end.plural); ok && stem != "" {
			kinds[stem+end.singular] = true
		}
	}
	return slices.Sorted(maps.Keys(kinds))
}

// ParseObject reads KIND/NAME or KIND/NAMESPACE/NAME as people write it; false: it is something else.
func ParseObject(s string) (kind, namespace, name string, ok bool) {
	parts := strings.Split(s, "/")
	for _, part := range parts {
		if part == "" {
			return "", "", "", false
		}
	}
	switch len(parts) {
	case 2:
		return parts[0], "", parts[1], true
	case 3:
		return parts[0], parts[1], parts[2], true
	}
	return "", "", "", false
}
