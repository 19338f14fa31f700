package dialect

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/delivery"
)

func TestLocalInventory(t *testing.T) {
	want := LocalInventory{State: LocalApplying, Revision: "main@sha1:0123", Inventory: delivery.Inventory{
		{Group: "apps", Kind: "Deployment", Namespace: "dev", Name: "web"}:                "v1",
		{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "system:checker"}: "v1",
	}}
	data, err := want.Data()
	if err != nil {
		t.Fatal(err)
	}
	const text = `{"entries":[{"id":"_system__checker_rbac.authorization.k8s.io_ClusterRole","v":"v1"},{"id":"dev_web_apps_Deployment","v":"v1"}]}`
	if diff := cmp.Diff(map[string]string{"format": "1", "state": "Applying", "revision": "main@sha1:0123", "inventory": text}, data); diff != "" {
		t.Errorf("data (-want +got):\n%s", diff)
	}
	got, err := ParseLocalInventory(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read again (-want +got):\n%s", diff)
	}
	for name, tt := range map[string]struct{ key, value, say string }{
		"a later format":  {"format", "2", `format "2"`},
		"no format":       {"format", "", `format ""`},
		"no JSON":         {"inventory", "entries", "inventory"},
		"an unknown form": {"inventory", `{"entries":[{"id":"web"}]}`, `"web" is no id`},
	} {
		t.Run(name, func(t *testing.T) {
			bad := map[string]string{"format": "1", "inventory": `{"entries":[]}`}
			bad[tt.key] = tt.value
			if _, err := ParseLocalInventory(bad); err == nil || !strings.Contains(err.Error(), tt.say) {
				t.Errorf("error %v, want one that says %s", err, tt.say)
			}
		})
	}
}
