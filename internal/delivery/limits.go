package delivery

// Limits are what a project lets an app deliver (Argo CD: AppProject). The zero Limits allow nothing.
type Limits struct {
	Project                         string   // for messages
	Namespaces                      []string // globs of namespaces that objects may be in, "!" before one forbids; in the app's cluster
	ClusterAllow                    []KindRule
	ClusterDeny                     []KindRule
	AllowAll                        bool // of namespaced kinds: NamespacedAllow does not count
	NamespacedAllow, NamespacedDeny []KindRule
}

// KindRule names kinds, and objects of them; each field is a glob, an empty Name any.
type KindRule struct {
	Group, Kind, Name string
}

// Deny tells by which rule an object must not be delivered; empty: it may be.
func (l *Limits) Deny(ref Ref, namespaced bool) string { return "" }
