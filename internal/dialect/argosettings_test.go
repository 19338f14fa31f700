package dialect_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

// TestReadArgo: what Argo CD's namespace has for all Applications.
func TestReadArgo(t *testing.T) {
	secret := func(name, kind string, data map[string]string) corev1.Secret {
		s := corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{argocdv1.SecretTypeLabel: kind}}, Data: map[string][]byte{}}
		for k, v := range data {
			s.Data[k] = []byte(v)
		}
		return s
	}
	got := dialect.ReadArgo("argocd", map[string]map[string]string{
		"argocd-cm":                 {"application.sync.impersonation.enabled": "true", "url": "https://argocd"},
		"argocd-ssh-known-hosts-cm": {"ssh_known_hosts": "git.example.com ssh-ed25519 AAAA"},
		"argocd-tls-certs-cm":       {"git.example.com": "a certificate"},
		"argocd-gpg-keys-cm":        {"4AEE18F83AFDEB23": "a key"},
		"argocd-rbac-cm":            {"policy.default": "role:admin"},
	}, []corev1.Secret{
		secret("web", "repository", map[string]string{"url": "https://git.example.com/web", "username": "u"}),
		secret("all", "repo-creds", map[string]string{"url": "https://git.example.com"}),
		secret("prod", "cluster", map[string]string{"name": "prod", "server": "https://prod/"}),
		secret("write", "repository-write", map[string]string{"url": "https://git.example.com/web"}),
	})
	want := dialect.Argo{
		Namespace: "argocd", Impersonate: true, KnownHosts: "git.example.com ssh-ed25519 AAAA",
		Certificates: map[string]string{"git.example.com": "a certificate"}, Keys: map[string]string{"4AEE18F83AFDEB23": "a key"},
		Repositories: []dialect.ArgoRepository{
			{Secret: "web", URL: "https://git.example.com/web", Type: "git", Credentials: delivery.Credentials{Username: "u"}},
			{Secret: "all", URL: "https://git.example.com", Type: "git", Template: true},
		},
		Clusters: []dialect.ArgoCluster{{Secret: "prod", Name: "prod", Server: "https://prod", Labels: map[string]string{}, Config: nil}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff(dialect.Argo{Namespace: "x"}, dialect.ReadArgo("x", nil, nil)); diff != "" {
		t.Errorf("of an empty namespace: -want +got:\n%s", diff)
	}
}
