package health

import (
	"cmp"
	"path"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/delivery"
)

// The rules of Argo CD (operator-manual/health): who moves an Application here finds its objects doing as they did there. A script
// that is about a kind comes first, then what is built in for it. What differs:
//
//   - Kinds of others' that Argo CD ships no script for have no health there, so they are never waited for. Here kstatus' conditions
//     tell (Ready, Reconciling, Stalled; status.observedGeneration); an object without any is healthy. Of the scripts that Argo CD ships
//     those for the kinds of Kubernetes and of Argo itself are built in; the others too are left to these conditions, which most of
//     those kinds have, and to scripts of one's own.
//   - Kind Application has a rule, which there has to be configured ([application]).
//   - An object with argocd.argoproj.io/ignore-healthcheck has no health at all. There a sync still waits for it.
//   - A Job that goes on after it was suspended is in progress. There it is healthy at once.

// Eval asks a script about an object: [keelson.dev/keelson/internal/lua.Pool.Judge]. It may take as long as scripts may.
type Eval func(script delivery.HealthScript, u *unstructured.Unstructured) delivery.HealthVerdict

// argo are Argo CD's rules. The scripts are in the order in which they are asked.
type argo struct {
	scripts []delivery.HealthScript
	eval    Eval
	found   sync.Map // schema.GroupKind -> the *delivery.HealthScript that is about it; nil: none is
}

// NewArgo gives the rules of Argo CD, with scripts for the kinds that these are about. All Applications share them. Of several
// scripts that are about a kind the one that names it is asked, or else the one with the longest pattern.
func NewArgo(scripts []delivery.HealthScript, eval Eval) *Rules {
	scripts = slices.Clone(scripts)
	slices.SortFunc(scripts, func(a, b delivery.HealthScript) int {
		return cmp.Or(cmp.Compare(wild(a), wild(b)), cmp.Compare(len(b.Kinds), len(a.Kinds)), cmp.Compare(a.Kinds, b.Kinds))
	})
	return &Rules{argo: &argo{scripts: scripts, eval: eval}}
}

func wild(s delivery.HealthScript) int {
	if strings.ContainsAny(s.Kinds, `*?[\`) {
		return 1
	}
	return 0
}

// script is the one that is about a kind; nil: none is.
func (a *argo) script(gk schema.GroupKind) *delivery.HealthScript {
	if found, ok := a.found.Load(gk); ok {
		return found.(*delivery.HealthScript) //nolint:forcetypeassert // nothing else is stored
	}
	key := gk.Kind
	if gk.Group != "" {
		key = gk.Group + "/" + gk.Kind
	}
	var found *delivery.HealthScript
	for i := range a.scripts {
		if Matches(a.scripts[i].Kinds, key) {
			found = &a.scripts[i]
			break
		}
	}
	a.found.Store(gk, found)
	return found
}

// Matches tells whether a pattern is about a kind, "group/Kind" or "Kind" of the core group: * stands for any text, ? for one
// character, [a-z] for one of some.
func Matches(pattern, key string) bool {
	// For path.Match a star ends at a slash.
	slashless := strings.NewReplacer("/", "\x00")
	ok, err := path.Match(slashless.Replace(pattern), slashless.Replace(key))
	return ok && err == nil
}

// alike tells whether both judge a kind alike.
func (a *argo) alike(o *argo, gk schema.GroupKind) bool {
	x, y := a.script(gk), o.script(gk)
	if x == nil || y == nil {
		return x == y
	}
	return x.Lua == y.Lua && x.OpenLibs == y.OpenLibs
}

// quick tells how an object is doing where no script has to be asked; else the script.
func (a *argo) quick(u *unstructured.Unstructured) (delivery.Health, *delivery.HealthScript) {
	if uncounted(u) {
		return delivery.Health{}, nil
	}
	if script := a.script(u.GroupVersionKind().GroupKind()); script != nil {
		return delivery.Health{}, script
	}
	return builtIn(u), nil
}

// of asks the script that is about an object where there is one, and tells how the object is doing.
func (a *argo) of(u *unstructured.Unstructured) delivery.HealthVerdict {
	h, script := a.quick(u)
	if script == nil {
		return delivery.HealthVerdict{Health: h}
	}
	if a.eval == nil {
		return delivery.HealthVerdict{Health: delivery.Health{Status: delivery.UnknownHealth, Message: "scripts are not run here"}}
	}
	v := a.eval(*script, u)
	switch {
	case v.Again > 0:
	case goes(u) && v.Deletion != "":
		v.Health = delivery.Health{Status: cmp.Or(v.Health.Status, delivery.Progressing), Message: v.Deletion}
	case goes(u), v.Health.Status == "":
		v.Health = builtIn(u)
	}
	return v
}

// The annotations that the rules look at.
const (
	ignoreHealth        = "argocd.argoproj.io/ignore-healthcheck"
	ignoreRestartPolicy = "argocd.argoproj.io/ignore-restart-policy"
	hookFinalizer       = "argocd.argoproj.io/hook-finalizer"
)

// isHook tells whether an object is one that is run, Argo CD's or Helm's.
func isHook(u *unstructured.Unstructured) bool {
	return annotation(u, "argocd.argoproj.io/hook") != "" || annotation(u, "helm.sh/hook") != ""
}

func annotation(u *unstructured.Unstructured, key string) string {
	text, _, _ := unstructured.NestedString(u.Object, "metadata", "annotations", key)
	return text
}

// uncounted tells whether it does not matter how an object is doing. Of a hook it does: that is how it ends.
func uncounted(u *unstructured.Unstructured) bool {
	return annotation(u, ignoreHealth) == "true" && !isHook(u)
}

// goes tells whether an object is being deleted. One that only we still hold on to, as a hook is, is judged as ever.
func goes(u *unstructured.Unstructured) bool {
	return u.GetDeletionTimestamp() != nil && !slices.Contains(u.GetFinalizers(), hookFinalizer)
}

// builtIn tells how an object is doing without any script.
func builtIn(u *unstructured.Unstructured) delivery.Health {
	if goes(u) {
		text := "Pending deletion"
		if waits := u.GetFinalizers(); len(waits) > 0 {
			text += ", waiting for finalizers: " + strings.Join(waits, ", ")
		}
		return delivery.Health{Status: delivery.Progressing, Message: text}
	}
	gk := u.GroupVersionKind().GroupKind()
	judge, ok := kinds[gk]
	switch {
	case !ok && coreGroups[gk.Group]:
		return delivery.Health{}
	case !ok:
		return Of(u)
	}
	f := fields{object: u.Object, err: new(error)}
	h := judge(f)
	if *f.err != nil {
		return delivery.Health{Status: delivery.UnknownHealth, Message: (*f.err).Error()}
	}
	return h
}

// coreGroups are those of Kubernetes itself: a kind of theirs that no rule is about has no health.
var coreGroups = map[string]bool{
	"": true, "admissionregistration.k8s.io": true, "apiextensions.k8s.io": true, "apiregistration.k8s.io": true, "apps": true,
	"authentication.k8s.io": true, "authorization.k8s.io": true, "autoscaling": true, "batch": true, "certificates.k8s.io": true,
	"coordination.k8s.io": true, "discovery.k8s.io": true, "events.k8s.io": true, "extensions": true, "flowcontrol.apiserver.k8s.io": true,
	"networking.k8s.io": true, "node.k8s.io": true, "policy": true, "rbac.authorization.k8s.io": true, "resource.k8s.io": true,
	"scheduling.k8s.io": true, "storage.k8s.io": true, "storagemigration.k8s.io": true,
}

// Judged tells whether a kind has a health: of one that has none it does not matter that an object of it is missing.
func Judged(gk schema.GroupKind) bool {
	_, ok := kinds[gk]
	return ok || !coreGroups[gk.Group]
}

// HookPhase is how far a hook has come, by its health: what has none has done what it is for once it is there.
func HookPhase(h delivery.Health) delivery.OperationPhase {
	switch h.Status {
	case "", delivery.Healthy:
		return delivery.OperationSucceeded
	case delivery.Degraded, delivery.UnknownHealth:
		return delivery.OperationFailed
	default:
		return delivery.OperationRunning
	}
}

// Brief is a health as it is kept: without what is said of a healthy object, which changes with every breath of some, unless it is
// one that ends, where it is the result.
func Brief(u *unstructured.Unstructured, h delivery.Health) delivery.Health {
	if h.Status == delivery.Healthy && !ends[u.GroupVersionKind().GroupKind()] {
		h.Message = ""
	}
	return h
}

// ends are the kinds that do something once.
var ends = map[schema.GroupKind]bool{jobKind: true, {Kind: "Pod"}: true, {Group: "argoproj.io", Kind: "Workflow"}: true}

// Settled tells whether nothing has to be waited for: the object is healthy, or has no health.
func Settled(h delivery.Health) bool { return h.Status == "" || h.Status == delivery.Healthy }
