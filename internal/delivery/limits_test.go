package delivery_test

import (
	"testing"

	"keelson.dev/keelson/internal/delivery"
)

func TestMatchGlob(t *testing.T) {
	for _, c := range []struct {
		glob, text, separators string
		want                   bool
	}{
		{"", "", "", true},
		{"", "a", "", false},
		{"*", "", "", true},
		{"*", "a/b", "", true},
		{"*", "a/b", "/", false},
		{"**", "a/b", "/", true},
		{"https://x/*", "https://x/a", "/", true},
		{"https://x/*", "https://x/a/b", "/", false},
		{"https://x/**", "https://x/a/b", "/", true},
		{"team-*", "team-a", "", true},
		{"team-*", "xteam-a", "", false},
		{"a?c", "abc", "", true},
		{"a?c", "a/c", "/", false},
		{"[a-c]x", "bx", "", true},
		{"[!a-c]x", "bx", "", false},
		{"[!a-c]x", "dx", "", true},
		{"{dev,prod}-*", "prod-1", "", true},
		{"{dev,prod}-*", "stage-1", "", false},
		{`a\*`, "a*", "", true},
		{`a\*`, "ab", "", false},
		{"a.c", "abc", "", false},
		{"a.c*", "abcd", "", false},
		{"(a|b)*", "a", "", false},
		{"ü*", "über", "", true},
		{"{a", "a", "", false},
		{"[a", "a", "", false},
		{"[]", "a", "", false},
		{"[z-a]", "a", "", false},
		{"a,b*", "a,bc", "", true},
	} {
		if got := delivery.MatchGlob(c.glob, c.text, c.separators); got != c.want {
			t.Errorf("MatchGlob(%q, %q, %q) = %v", c.glob, c.text, c.separators, got)
		}
	}
}

func FuzzMatchGlob(f *testing.F) {
	f.Add("a*{b,[c-d]}", "abd", "/")
	f.Fuzz(func(t *testing.T, glob, text, separators string) {
		delivery.MatchGlob(glob, text, separators)
		if !delivery.MatchGlob("**", text, separators) {
			t.Errorf("** does not match %q", text)
		}
	})
}

func TestLimits(t *testing.T) {
	project := delivery.Limits{
		Project:         "a",
		Namespaces:      []string{"web*", "!webmaster"},
		ClusterAllow:    []delivery.KindRule{{Kind: "Namespace", Name: "web*"}, {Group: "apiextensions.k8s.io", Kind: "*"}},
		ClusterDeny:     []delivery.KindRule{{Kind: "Namespace", Name: "web-old"}},
		NamespacedAllow: []delivery.KindRule{{Group: "*", Kind: "*"}},
		NamespacedDeny:  []delivery.KindRule{{Kind: "ResourceQuota"}},
	}
	anything := project
	anything.AllowAll, anything.NamespacedAllow = true, nil
	only := project
	only.Namespaces = []string{"*", "!!web"}
	for name, c := range map[string]struct {
		limits     *delivery.Limits
		ref        delivery.Ref
		namespaced bool
		want       string
	}{
		"none":      {nil, delivery.Ref{Kind: "Node"}, false, ""},
		"zero":      {&delivery.Limits{Project: "z"}, delivery.Ref{Kind: "Pod", Namespace: "x"}, true, "project 'z' does not allow namespaced objects of kind Pod: no entry of spec.namespaceResourceWhitelist matches it"},
		"allowed":   {&project, delivery.Ref{Group: "apps", Kind: "Deployment", Namespace: "web-1", Name: "x"}, true, ""},
		"namespace": {&project, delivery.Ref{Kind: "Pod", Namespace: "kube-system"}, true, "project 'a' does not allow namespace 'kube-system': no entry of spec.destinations matches it in this cluster"},
		"denied namespace": {&project, delivery.Ref{Kind: "Pod", Namespace: "webmaster"}, true,
			"project 'a' forbids namespace 'webmaster': spec.destinations denies '!webmaster' in this cluster"},
		"all but":        {&only, delivery.Ref{Kind: "Pod", Namespace: "dev"}, true, "project 'a' forbids namespace 'dev': spec.destinations denies '!!web' in this cluster"},
		"all but, in it": {&only, delivery.Ref{Kind: "Pod", Namespace: "web"}, true, ""},
		"denied kind": {&anything, delivery.Ref{Kind: "ResourceQuota", Namespace: "web"}, true,
			"project 'a' forbids namespaced objects of kind ResourceQuota: spec.namespaceResourceBlacklist has group '', kind 'ResourceQuota'"},
		"no list":            {&anything, delivery.Ref{Group: "apps", Kind: "Deployment", Namespace: "web"}, true, ""},
		"cluster-wide":       {&project, delivery.Ref{Kind: "Namespace", Name: "web-1"}, false, ""},
		"cluster-wide glob":  {&project, delivery.Ref{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition", Name: "x"}, false, ""},
		"cluster-wide name":  {&project, delivery.Ref{Kind: "Namespace", Name: "other"}, false, "project 'a' does not allow cluster-wide objects of kind Namespace: no entry of spec.clusterResourceWhitelist matches it"},
		"cluster-wide kind":  {&project, delivery.Ref{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "web"}, false, "project 'a' does not allow cluster-wide objects of kind rbac.authorization.k8s.io/ClusterRole: no entry of spec.clusterResourceWhitelist matches it"},
		"cluster-wide deny":  {&project, delivery.Ref{Kind: "Namespace", Name: "web-old"}, false, "project 'a' forbids cluster-wide objects of kind Namespace: spec.clusterResourceBlacklist has group '', kind 'Namespace', name 'web-old'"},
		"the group is meant": {&project, delivery.Ref{Group: "example.com", Kind: "Namespace", Name: "web-1"}, false, "project 'a' does not allow cluster-wide objects of kind example.com/Namespace: no entry of spec.clusterResourceWhitelist matches it"},
	} {
		if got := c.limits.Deny(c.ref, c.namespaced); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
