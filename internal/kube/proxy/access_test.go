package proxy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What a job's programs are told. With one agent its context is current, of several the job chooses one.
func TestAccess(t *testing.T) {
	access := Access{Server: "https://keelson:8443", CA: []byte("-----PEM\n"), Token: "keelson-job-t0ken", Namespace: "shop", Contexts: []string{"group/shop:production"}}
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
    namespace: shop
    user: job
  name: group/shop:production
current-context: group/shop:production
kind: Config
users:
- name: job
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
	for want, contexts := range map[string][]string{
		"name: keelson\ncurrent-context: keelson\n": nil,
		"name: a:staging\n- context:\n    cluster: keelson\n    namespace: shop\n    user: job\n  name: b:x\ncurrent-context: \"\"\nkind": {"b:x", "a:staging"},
	} {
		access.Contexts = contexts
		config, err := access.Kubeconfig()
		if err != nil || !strings.Contains(string(config), want) {
			t.Errorf("contexts %q: want %q in\n%s", contexts, want, config)
		}
	}
}
