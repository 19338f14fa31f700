package dialect_test

import (
	"strings"
	"testing"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
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

// TestClusterOfAnotherProject: a project that permits only clusters of its own says of another one whose it is.
func TestClusterOfAnotherProject(t *testing.T) {
	for of, want := range map[string]string{
		"default": "",
		"":        "spec.permitOnlyProjectScopedClusters), and cluster 'prod' is not: its Secret prod has no project",
		"other":   "spec.permitOnlyProjectScopedClusters), and cluster 'prod' is not: project of its Secret prod is 'other'",
	} {
		p := dialect.DefaultArgoProject("argocd")
		p.Spec.PermitOnlyProjectScopedClusters = true
		a := readApplication(t, guestbook)
		a.Spec.Destination = argocdv1.ApplicationDestination{Name: "prod", Namespace: "dev"}
		got := dialect.Application(a, dialect.Argo{Namespace: "argocd", Project: p, Now: noon, Clusters: []dialect.ArgoCluster{
			{Secret: "prod", Name: "prod", Server: "https://prod", Project: of},
		}}).Invalid()
		if (got == "") != (want == "") || !strings.HasSuffix(got, want) {
			t.Errorf("of project %q: %q, want %q", of, got, want)
		}
	}
}

// TestClusterOfSomeNamespaces: what a cluster's Secret says of the namespaces there goes beside what the project says.
func TestClusterOfSomeNamespaces(t *testing.T) {
	role, in, out := delivery.Ref{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "x"},
		delivery.Ref{Kind: "ConfigMap", Namespace: "dev", Name: "x"}, delivery.Ref{Kind: "ConfigMap", Namespace: "kube-system", Name: "x"}
	for name, c := range map[string]struct {
		data          map[string]string
		role, in, out string // why each is denied
	}{
		"all":                            {nil, "", "", ""},
		"all, without cluster-wide":      {map[string]string{"clusterResources": "false"}, "", "", ""},
		"some":                           {map[string]string{"namespaces": "dev, test"}, "clusterResources", "", "'kube-system'"},
		"some, with cluster-wide":        {map[string]string{"namespaces": "dev", "clusterResources": "true"}, "", "", "'kube-system'"},
		"names are no patterns":          {map[string]string{"namespaces": "*"}, "clusterResources", "'dev'", "'kube-system'"},
		"where Applications are, so too": {map[string]string{"namespaces": "dev", "server": dialect.InCluster, "name": "here"}, "clusterResources", "", "'kube-system'"},
	} {
		t.Run(name, func(t *testing.T) {
			data := map[string][]byte{"server": []byte("https://prod"), "name": []byte("prod")}
			for k, v := range c.data {
				data[k] = []byte(v)
			}
			a := readApplication(t, guestbook)
			a.Spec.Destination = argocdv1.ApplicationDestination{Name: string(data["name"]), Namespace: "dev"}
			got := dialect.Application(a, dialect.Argo{Namespace: "argocd", Project: dialect.DefaultArgoProject("argocd"), Now: noon,
				Clusters: []dialect.ArgoCluster{dialect.ReadArgoCluster("prod", nil, nil, data)}})
			if why := got.Invalid(); why != "" {
				t.Fatal(why)
			}
			for _, o := range []struct {
				ref  delivery.Ref
				want string
			}{{role, c.role}, {in, c.in}, {out, c.out}} {
				why := got.App.Limits.Deny(o.ref, o.ref.Namespace != "")
				if (why == "") != (o.want == "") || !strings.Contains(why, o.want) || why != "" && !strings.Contains(why, "Secret prod") {
					t.Errorf("%s: %q, want %q of Secret prod", o.ref, why, o.want)
				}
			}
		})
	}
}

// TestOrphansAreWarnedOf: only a project that says so wants to be warned of what no app owns.
func TestOrphansAreWarnedOf(t *testing.T) {
	for monitor, want := range map[string]bool{"{}": false, "{warn: false}": false, "{warn: true}": true} {
		p := dialect.DefaultArgoProject("argocd")
		decode(t, monitor, &p.Spec.OrphanedResources)
		got := dialect.Application(readApplication(t, guestbook), dialect.Argo{Namespace: "argocd", Project: p, Now: noon})
		if got.Orphans == nil || got.Orphans.Warn != want {
			t.Errorf("%s: %+v, want warnings: %t", monitor, got.Orphans, want)
		}
	}
}
