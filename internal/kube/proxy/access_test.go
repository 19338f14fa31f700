package proxy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What a job's programs are told. The first context is current and has variables of its own.
func TestAccess(t *testing.T) {
	access := Access{Server: "https://keelson:8443", CA: []byte("-----PEM\n"), Contexts: []Context{
		{Name: "group/shop:production", Token: "keelson-job-t0ken", Namespace: "shop"}, {Name: "group/shop:infra", Token: "keelson-job-other"},
	}}
	vars, err := access.Variables()
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, v := range vars {
		fmt.Fprintf(&got, "%s file=%t masked=%t\n%s\n", v.Name, v.File, v.Masked, strings.TrimSuffix(v.Value, "\n"))
	}
	if diff := cmp.Diff(strings.TrimPrefix(`
KUBECONFIG file=true masked=false
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: LS0tLS1QRU0K
    server: https://keelson:8443
  name: keelson
contexts:
- context:
    cluster: keelson
    user: group/shop:infra
  name: group/shop:infra
- context:
    cluster: keelson
    namespace: shop
    user: group/shop:production
  name: group/shop:production
current-context: group/shop:production
kind: Config
users:
- name: group/shop:infra
  user:
    token: keelson-job-other
- name: group/shop:production
  user:
    token: keelson-job-t0ken
KUBE_URL file=false masked=false
https://keelson:8443
KUBE_TOKEN file=false masked=true
keelson-job-t0ken
KUBE_NAMESPACE file=false masked=false
shop
KUBE_CA_PEM file=false masked=false
-----PEM
KUBE_CA_PEM_FILE file=true masked=false
-----PEM
`, "\n"), got.String()); diff != "" {
		t.Errorf("variables (-want +got):\n%s", diff)
	}
}
