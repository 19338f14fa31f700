package dialect

import (
	corev1 "k8s.io/api/core/v1"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
)

// The ConfigMaps in Argo CD's namespace that say which servers and signatures are trusted.
const (
	ArgoKnownHostsConfigMap   = "argocd-ssh-known-hosts-cm"
	ArgoCertificatesConfigMap = "argocd-tls-certs-cm"
	ArgoKeysConfigMap         = "argocd-gpg-keys-cm"
)

// Keys of those ConfigMaps, and of [ArgoConfigMap].
const (
	knownHostsKey  = "ssh_known_hosts"
	impersonateKey = "application.sync.impersonation.enabled"
)

// ArgoConfigMaps names the ConfigMaps with settings.
func ArgoConfigMaps() []string {
	return []string{ArgoConfigMap, ArgoKnownHostsConfigMap, ArgoCertificatesConfigMap, ArgoKeysConfigMap}
}

// ReadArgo gives what Argo CD's namespace says to all Applications, without a project: from the data of its [ArgoConfigMaps], by name,
// and from its Secrets with the label argocd.argoproj.io/secret-type, of which those of an unknown type say nothing.
func ReadArgo(namespace string, settings map[string]map[string]string, secrets []corev1.Secret) Argo {
	in := Argo{
		Namespace:  namespace,
		KnownHosts: settings[ArgoKnownHostsConfigMap][knownHostsKey], Certificates: settings[ArgoCertificatesConfigMap], Keys: settings[ArgoKeysConfigMap],
		Impersonate: settings[ArgoConfigMap][impersonateKey] == "true",
	}
	for i := range secrets {
		s := &secrets[i]
		switch kind := s.Labels[argocdv1.SecretTypeLabel]; kind {
		case ArgoRepositorySecret, ArgoRepositoryTemplateSecret:
			in.Repositories = append(in.Repositories, ReadArgoRepository(s.Name, kind == ArgoRepositoryTemplateSecret, s.Data))
		case ArgoClusterSecret:
			in.Clusters = append(in.Clusters, ReadArgoCluster(s.Name, s.Labels, s.Annotations, s.Data))
		}
	}
	return in
}
