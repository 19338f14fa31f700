package rollout

import (
	"cmp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/keelson/internal/kube/proxy"
)

// place is where an object is read; the zero place is none.
type place struct {
	resource        schema.GroupVersionResource
	namespace, name string
}

// all is the place of all objects of its kind and namespace.
func (p place) all() place { return place{p.resource, p.namespace, ""} }

// kindIn is a kind of objects in a namespace.
type kindIn struct {
	resource  schema.GroupResource
	namespace string
}

// key tells objects apart, whatever version of their kind is read.
type key struct {
	kindIn
	name string
}

// target is an object that is followed.
type target struct {
	resource        schema.GroupVersionResource
	kind            string // "Deployment"; empty: not known yet
	namespace, name string
	uid             types.UID // as it was answered to the job; empty: not known
	gone            bool      // the job deleted it

	app    *app // not nil: it is an app that reconciles commits of the job
	beside bool // it belongs to an app that waits for it: only what cannot get healthy by itself counts here
	of     *app // that it belongs to
}

func (t target) place() place { return place{t.resource, t.namespace, t.name} }

func (t target) kindIn() kindIn { return kindIn{t.resource.GroupResource(), t.namespace} }

func (t target) key() key { return key{t.kindIn(), t.name} }

// short is "deployment/shop".
func (t target) short() string {
	return lower(cmp.Or(t.kind, singular(t.resource.Resource))) + "/" + t.name
}

// label is "deployment/shop", with the namespace where that is not plain.
func (t target) label(several bool) string {
	if t.namespace == "" || !several && t.app == nil {
		return t.short()
	}
	return t.short() + " in " + t.namespace
}

// long is "deployment/shop in namespace web".
func (t target) long() string {
	if t.namespace == "" {
		return t.short()
	}
	return t.short() + " in namespace " + t.namespace
}

// runs tells whether the object is one that Pods are made from, or an app.
func (t target) runs() bool { return t.app != nil || workloads[t.resource.GroupResource()] }

// singular guesses the name of one object of a resource, until its kind is known.
func singular(resource string) string {
	switch {
	case strings.HasSuffix(resource, "ies"):
		return strings.TrimSuffix(resource, "ies") + "y"
	case strings.HasSuffix(resource, "sses"):
		return strings.TrimSuffix(resource, "es")
	default:
		return strings.TrimSuffix(resource, "s")
	}
}

var (
	podResource        = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	replicaSetResource = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"}
)

// workloads are what Pods are made from, and Pods.
var workloads = map[schema.GroupResource]bool{
	{Group: "apps", Resource: "deployments"}: true, {Group: "apps", Resource: "statefulsets"}: true, {Group: "apps", Resource: "daemonsets"}: true,
	{Group: "apps", Resource: "replicasets"}: true, {Resource: "replicationcontrollers"}: true, {Group: "batch", Resource: "jobs"}: true,
	{Group: "argoproj.io", Resource: "rollouts"}: true, {Resource: "pods"}: true,
}

// viaReplicaSets are those whose Pods belong to ReplicaSets.
var viaReplicaSets = map[schema.GroupResource]bool{
	{Group: "apps", Resource: "deployments"}: true, {Group: "argoproj.io", Resource: "rollouts"}: true,
}

// The kinds that do nothing: they have no health, and what they hold is nobody's business here.
var (
	idleGroups = []string{
		"events.k8s.io", "coordination.k8s.io", "discovery.k8s.io", "rbac.authorization.k8s.io", "admissionregistration.k8s.io",
		"authentication.k8s.io", "authorization.k8s.io", "flowcontrol.apiserver.k8s.io", "node.k8s.io", "scheduling.k8s.io", "storage.k8s.io",
	}
	idle = map[schema.GroupResource]bool{
		{Resource: "bindings"}: true, {Resource: "configmaps"}: true, {Resource: "endpoints"}: true, {Resource: "events"}: true,
		{Resource: "limitranges"}: true, {Resource: "namespaces"}: true, {Resource: "nodes"}: true, {Resource: "podtemplates"}: true,
		{Resource: "resourcequotas"}: true, {Resource: "secrets"}: true, {Resource: "serviceaccounts"}: true,
		{Group: "apps", Resource: "controllerrevisions"}: true, {Group: "networking.k8s.io", Resource: "networkpolicies"}: true,
		{Group: "networking.k8s.io", Resource: "ingressclasses"}: true,
	}
)

// followed tells whether objects of a resource have a health.
func followed(r schema.GroupResource) bool { return !idle[r] && !slices.Contains(idleGroups, r.Group) }

// touching are the subresources whose writes change what an object is to be.
var touching = []string{"", "scale", "resize", "ephemeralcontainers"}

// targetsOf gives what is followed of what a job wrote, in the order in which it was written last, and of what kinds it deleted a number of
// objects at once. What lies in a namespace that the job deleted afterwards is to go with it.
func targetsOf(written []proxy.Written) ([]target, map[kindIn]bool) {
	type last struct {
		at int
		target
	}
	objects, swept, namespaces := map[key]last{}, map[kindIn]bool{}, map[string]int{}
	for i, w := range written {
		resource := schema.GroupVersionResource{Group: w.Group, Version: w.Version, Resource: w.Resource}
		deleted := w.Verb == "delete" && w.Subresource == ""
		switch {
		case resource.GroupResource() == (schema.GroupResource{Resource: "namespaces"}) && deleted:
			namespaces[w.Name] = i
		case !followed(resource.GroupResource()) || !slices.Contains(touching, w.Subresource):
		case w.Verb == "deletecollection":
			swept[kindIn{resource.GroupResource(), w.Namespace}] = true
		case w.Name != "":
			t := target{resource: resource, kind: w.Kind, namespace: w.Namespace, name: w.Name, uid: w.UID, gone: deleted}
			if before, ok := objects[t.key()]; ok && t.kind == "" {
				t.kind = before.kind
			}
			objects[t.key()] = last{i, t}
		}
	}
	all := make([]last, 0, len(objects))
	for _, l := range objects {
		if at, ok := namespaces[l.namespace]; ok && l.namespace != "" && at > l.at {
			l.gone = true
		}
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b last) int { return cmp.Compare(a.at, b.at) })
	out := make([]target, len(all))
	for i, l := range all {
		out[i] = l.target
	}
	return out, swept
}
