package dialect_test

import (
	"strings"
	"testing"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/dialect"
)

// TestDestinationWithoutNamespace: an Application that names no namespace, as those with objects of the whole cluster do, goes only to
// clusters that its project allows.
func TestDestinationWithoutNamespace(t *testing.T) {
	for name, c := range map[string]struct{ destinations, server, want string }{
		"anywhere":          {`{server: "*", namespace: "*"}`, "https://prod", ""},
		"all but this":      {`{server: "*", namespace: "*"}, {server: "!https://prod", namespace: "*"}`, "https://prod", "spec.destinations denies '!*' in this cluster"},
		"all but another":   {`{server: "*", namespace: "*"}, {server: "!https://prod", namespace: "*"}`, "https://test", ""},
		"of one namespace":  {`{server: "*", namespace: "web"}`, "https://prod", "does not allow namespace ''"},
		"of no namespace":   {`{server: "*", namespace: ""}`, "https://prod", ""},
		"of another server": {`{server: "https://test", namespace: "*"}`, "https://prod", "does not allow namespace ''"},
	} {
		t.Run(name, func(t *testing.T) {
			p := dialect.DefaultArgoProject("argocd")
			decode(t, "["+c.destinations+"]", &p.Spec.Destinations)
			a := readApplication(t, guestbook)
			a.Spec.Destination = argocdv1.ApplicationDestination{Server: c.server}
			got := dialect.Application(a, dialect.Argo{Namespace: "argocd", Project: p, Now: noon, Clusters: []dialect.ArgoCluster{
				{Secret: "prod", Name: "prod", Server: "https://prod"}, {Secret: "test", Name: "test", Server: "https://test"},
			}}).Invalid()
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
