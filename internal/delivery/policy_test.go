package delivery_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/delivery"
)

func TestGovern(t *testing.T) {
	app := func(change func(*delivery.App)) delivery.App {
		a := delivery.App{
			ID:     delivery.ID{Kind: "Kustomization", Namespace: "team", Name: "shop"},
			Source: delivery.ID{Kind: "GitRepository", Namespace: "flux-system", Name: "fleet"},
		}
		if change != nil {
			change(&a)
		}
		return a
	}
	strict := func(a *delivery.App) { a.Build.Strict = true }
	own := func(a *delivery.App) { a.Source.Namespace = "team" }
	tests := map[string]struct {
		policy delivery.Policy
		app    delivery.App
		want   func(*delivery.App)
	}{
		"as in Flux": {delivery.Policy{}, app(nil), strict},
		"lenient":    {delivery.Policy{LenientSubstitution: true}, app(nil), func(*delivery.App) {}},
		"a source elsewhere": {
			delivery.Policy{NoCrossNamespaceRefs: true}, app(nil), func(a *delivery.App) {
				strict(a)
				a.Denied = "can't access 'GitRepository/flux-system/fleet', cross-namespace references have been blocked"
			},
		},
		"a dependency elsewhere": {
			delivery.Policy{NoCrossNamespaceRefs: true},
			app(func(a *delivery.App) { own(a); a.DependsOn = []delivery.ID{{Namespace: "flux-system"}} }),
			func(a *delivery.App) { strict(a); own(a); a.DependsOn = []delivery.ID{{Namespace: "flux-system"}} },
		},
		"no account": {
			delivery.Policy{DefaultServiceAccount: "tenant"}, app(nil), func(a *delivery.App) { strict(a); a.ServiceAccount = "tenant" },
		},
		"an account of its own": {
			delivery.Policy{DefaultServiceAccount: "tenant"}, app(func(a *delivery.App) { a.ServiceAccount = "deployer" }),
			func(a *delivery.App) { strict(a); a.ServiceAccount = "deployer" },
		},
	}
	for name, tt := range tests {
		if diff := cmp.Diff(app(tt.want), tt.policy.Govern(tt.app)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
