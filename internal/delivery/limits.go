package delivery

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Limits are what a project lets an app deliver (Argo CD: AppProject). The zero Limits allow nothing.
type Limits struct {
	Project string // for messages
	// Namespaces are globs of namespaces that objects may be in, in the app's cluster. "!" before one forbids what it matches, "!!"
	// what it does not match; what is forbidden is so whatever the others say.
	Namespaces                      []string
	ClusterAllow                    []KindRule
	ClusterDeny                     []KindRule
	AllowAll                        bool // of namespaced kinds: NamespacedAllow does not count
	NamespacedAllow, NamespacedDeny []KindRule
	Cluster                         *ClusterLimits // nil: the cluster as a whole
}

// ClusterLimits are what may be touched in a cluster that is not given as a whole, whatever a project allows (Argo CD: namespaces and
// clusterResources of a cluster's Secret).
type ClusterLimits struct {
	Secret      string   // that says so, for messages
	Namespaces  []string // names
	ClusterWide bool     // objects that are in no namespace, too
}

// deny tells why an object is none of those.
func (c *ClusterLimits) deny(ref Ref, namespaced bool) string {
	switch {
	case c == nil, namespaced && slices.Contains(c.Namespaces, ref.Namespace), !namespaced && c.ClusterWide:
		return ""
	case namespaced:
		return fmt.Sprintf("namespaces of the cluster's Secret %s does not have '%s'", c.Secret, ref.Namespace)
	}
	return fmt.Sprintf("the cluster's Secret %s limits it to namespaces, and does not have clusterResources: \"true\"", c.Secret)
}

// KindRule names kinds, and objects of them; each field is a glob, an empty Name any.
type KindRule struct {
	Group, Kind, Name string
}

// String names the rule, as it is written in a project: "group 'apps', kind '*'".
func (k KindRule) String() string {
	text := fmt.Sprintf("group '%s', kind '%s'", k.Group, k.Kind)
	if k.Name != "" {
		text += fmt.Sprintf(", name '%s'", k.Name)
	}
	return text
}

// Refusal is that of a project, or of the cluster's Secret.
type Refusal struct {
	Rule   string // that forbids an object: [Limits.Deny]
	Where  string // what has the rule: "project team"
	Remedy string // what would permit the object
}

// Refuse is [Limits.Deny] with where the rule is and what would change it; nil: the object may be delivered.
func (l *Limits) Refuse(ref Ref, namespaced bool) *Refusal {
	r := &Refusal{Rule: l.Deny(ref, namespaced)}
	switch {
	case r.Rule == "":
		return nil
	case l.Cluster.deny(ref, namespaced) == "":
		r.Where, r.Remedy = "project "+l.Project, "allow it in the project "+l.Project
	case namespaced:
		r.Where, r.Remedy = "its cluster", fmt.Sprintf("add '%s' to namespaces of the cluster's Secret %s", ref.Namespace, l.Cluster.Secret)
	default:
		r.Where, r.Remedy = "its cluster", fmt.Sprintf("set clusterResources: \"true\" in the cluster's Secret %s", l.Cluster.Secret)
	}
	return r
}

// Deny tells by which rule an object must not be delivered; empty: it may be.
func (l *Limits) Deny(ref Ref, namespaced bool) string {
	if l == nil {
		return ""
	}
	if why := l.Cluster.deny(ref, namespaced); why != "" {
		return why
	}
	if why := l.denyKind(ref, namespaced); why != "" || !namespaced {
		return why
	}
	return l.DenyNamespace(ref.Namespace)
}

// denyKind goes by the lists of kinds.
func (l *Limits) denyKind(ref Ref, namespaced bool) string {
	scope, field := "cluster-wide", "spec.clusterResource"
	allow, deny, all := l.ClusterAllow, l.ClusterDeny, false
	if namespaced {
		scope, field = "namespaced", "spec.namespaceResource"
		allow, deny, all = l.NamespacedAllow, l.NamespacedDeny, l.AllowAll
	}
	kind := ref.Kind
	if ref.Group != "" {
		kind = ref.Group + "/" + ref.Kind
	}
	for _, rule := range deny {
		if rule.matches(ref) {
			return fmt.Sprintf("project '%s' forbids %s objects of kind %s: %sBlacklist has %s", l.Project, scope, kind, field, rule)
		}
	}
	if all {
		return ""
	}
	for _, rule := range allow {
		if rule.matches(ref) {
			return ""
		}
	}
	return fmt.Sprintf("project '%s' does not allow %s objects of kind %s: no entry of %sWhitelist matches it", l.Project, scope, kind, field)
}

// DenyNamespace tells by which rule no object may be in a namespace; empty: they may.
func (l *Limits) DenyNamespace(namespace string) string {
	allowed := false
	for _, glob := range l.Namespaces {
		forbidden, not := strings.CutPrefix(glob, "!")
		if !not {
			allowed = allowed || MatchGlob(glob, namespace, "")
			continue
		}
		want := true
		if other, twice := strings.CutPrefix(forbidden, "!"); twice {
			forbidden, want = other, false
		}
		if MatchGlob(forbidden, namespace, "") == want {
			return fmt.Sprintf("project '%s' forbids namespace '%s': spec.destinations denies '%s' in this cluster", l.Project, namespace, glob)
		}
	}
	if allowed {
		return ""
	}
	return fmt.Sprintf("project '%s' does not allow namespace '%s': no entry of spec.destinations matches it in this cluster", l.Project, namespace)
}

// matches tells whether a rule is about an object. Its globs are those of [path.Match], as in Argo CD.
func (k KindRule) matches(ref Ref) bool {
	for _, f := range [][2]string{{k.Kind, ref.Kind}, {k.Group, ref.Group}} {
		if ok, err := path.Match(f[0], f[1]); !ok || err != nil {
			return false
		}
	}
	if k.Name == "" {
		return true
	}
	ok, err := path.Match(k.Name, ref.Name)
	return ok && err == nil
}
