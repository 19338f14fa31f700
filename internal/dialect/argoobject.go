package dialect

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
)

// Labels that mark an object as an Application's. Argo CD's own mark is the tracking annotation, which is set too; a watch needs labels.
const (
	ArgoNameLabel      = "keelson.dev/application"
	ArgoNamespaceLabel = "keelson.dev/application-namespace"
)

// maxLabel is the longest value of a label. The name of an Application may be longer: it is then spread over several labels, whose
// keys end in "-2", "-3" and so on, each part between two letters, as a value has to begin and to end with one.
const maxLabel, labelFence = 63, "x"

// nameLabels gives the labels for a name.
func nameLabels(name string) map[string]string {
	if len(name) <= maxLabel {
		return map[string]string{ArgoNameLabel: name}
	}
	labels := map[string]string{}
	for i := 1; name != ""; i++ {
		cut := min(len(name), maxLabel-2*len(labelFence))
		labels[nameLabel(i)], name = labelFence+name[:cut]+labelFence, name[cut:]
	}
	return labels
}

func nameLabel(i int) string {
	if i == 1 {
		return ArgoNameLabel
	}
	return ArgoNameLabel + "-" + strconv.Itoa(i)
}

// labelledName reads what [nameLabels] wrote.
func labelledName(labels map[string]string) string {
	if labels[nameLabel(2)] == "" {
		return labels[ArgoNameLabel]
	}
	var name strings.Builder
	for i := 1; labels[nameLabel(i)] != ""; i++ {
		name.WriteString(strings.TrimSuffix(strings.TrimPrefix(labels[nameLabel(i)], labelFence), labelFence))
	}
	return name.String()
}

// ArgoLabeler gives the function that marks an object as owned by an Application. namespace is Argo CD's own: the tracking ids of
// Applications in others tell theirs.
func ArgoLabeler(namespace string) func(app delivery.ID, obj delivery.Object) {
	return func(app delivery.ID, obj delivery.Object) {
		labels := obj.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, nameLabels(app.Name))
		labels[ArgoNamespaceLabel] = app.Namespace
		obj.SetLabels(labels)
		annotations := obj.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[argocdv1.TrackingIDAnnotation] = trackingID(app, namespace, obj.Ref())
		obj.SetAnnotations(annotations)
	}
}

// trackingID is Argo CD's mark of an object: "app:group/Kind:namespace/name", and "namespace_app:…" for an Application in another
// namespace than Argo CD's.
func trackingID(app delivery.ID, namespace string, ref delivery.Ref) string {
	name := app.Name
	if app.Namespace != namespace {
		name = app.Namespace + "_" + app.Name
	}
	return name + ":" + ref.Group + "/" + ref.Kind + ":" + ref.Namespace + "/" + ref.Name
}

// ArgoTracker gives the function that tells whether Argo CD has marked an object as an Application's.
func ArgoTracker(namespace string) func(app delivery.ID, u *unstructured.Unstructured) bool {
	return func(app delivery.ID, u *unstructured.Unstructured) bool {
		of, ref, ok := ArgoTracking(namespace, u.GetAnnotations()[argocdv1.TrackingIDAnnotation])
		return ok && of == app && ref == delivery.RefOf(u)
	}
}

// ArgoTracking reads the tracking id of an object: the Application that it is for, and the object that it was written to. An object
// that was copied with its annotations tells another one than itself, and is nobody's. false: there is none, or it is malformed.
func ArgoTracking(namespace, id string) (app delivery.ID, ref delivery.Ref, ok bool) {
	name, rest, ok := strings.Cut(id, ":")
	kind, object, ok2 := strings.Cut(rest, ":")
	group, kind, ok3 := strings.Cut(kind, "/")
	ns, object, ok4 := strings.Cut(object, "/")
	if !ok || !ok2 || !ok3 || !ok4 || name == "" || kind == "" || object == "" {
		return delivery.ID{}, delivery.Ref{}, false
	}
	app = delivery.ID{Kind: argocdv1.ApplicationKind, Namespace: namespace, Name: name}
	if in, of, found := strings.Cut(name, "_"); found {
		app.Namespace, app.Name = in, of
	}
	return app, delivery.Ref{Group: group, Kind: kind, Namespace: ns, Name: object}, true
}

// ArgoLabel marks an object as owned by an Application, where Argo CD's namespace is the usual one; see [ArgoLabeler].
func ArgoLabel(app delivery.ID, obj delivery.Object) { ArgoLabeler(ArgoNamespace)(app, obj) }

// ArgoNamespace is the usual namespace of Argo CD.
const ArgoNamespace = "argocd"

// ArgoOwner reads what [ArgoLabel] wrote; the zero ID: nobody's.
func ArgoOwner(labels map[string]string) delivery.ID {
	name, namespace := labelledName(labels), labels[ArgoNamespaceLabel]
	if name == "" || namespace == "" {
		return delivery.ID{}
	}
	return delivery.ID{Kind: argocdv1.ApplicationKind, Namespace: namespace, Name: name}
}

// ignoreHealth on an object: how it is doing does not count.
const ignoreHealth = "argocd.argoproj.io/ignore-healthcheck"

// entries gives the entries of an annotation with a comma-separated list.
func entries(annotations map[string]string, key string) (items []string) {
	for item := range strings.SplitSeq(annotations[key], ",") {
		if item = strings.TrimSpace(item); item != "" && !slices.Contains(items, item) {
			items = append(items, item)
		}
	}
	return items
}

// ArgoRead fills in what a rendered object says about its delivery: Asks, Wave and Hook.
func ArgoRead(obj *delivery.Object) {
	annotations := obj.GetAnnotations()
	obj.Asks = argoMarks(annotations)
	obj.Wave = wave(annotations)
	obj.Hook = hookOf(annotations)
}

// ArgoMarks reads what an object in the cluster asks for.
func ArgoMarks(u *unstructured.Unstructured) delivery.Marks { return argoMarks(u.GetAnnotations()) }

// objectOptions are the sync options that an object itself may have.
var objectOptions = map[string]delivery.Marks{
	"Prune=false":                      delivery.MarkKeep,
	"Prune=confirm":                    delivery.MarkConfirm,
	"PruneLast=true":                   delivery.MarkPruneLast,
	"Replace=true":                     delivery.MarkReplace,
	"Force=true":                       delivery.MarkForce,
	"Delete=false":                     delivery.MarkKeepOnDelete,
	"Delete=confirm":                   delivery.MarkConfirmDelete,
	"SkipDryRunOnMissingResource=true": delivery.MarkKindMayCome,
}

func argoMarks(annotations map[string]string) (all delivery.Marks) {
	if len(annotations) == 0 {
		return 0
	}
	for _, option := range entries(annotations, argocdv1.SyncOptionsAnnotation) {
		all |= objectOptions[option]
	}
	if slices.Contains(entries(annotations, argocdv1.CompareOptionsAnnotation), "IgnoreExtraneous") {
		all |= delivery.MarkExtraneous
	}
	if annotations[argocdv1.HelmResourcePolicyAnnotation] == "keep" {
		all |= delivery.MarkKeepOnDelete
	}
	if annotations[ignoreHealth] == "true" {
		all |= delivery.MarkNoHealth
	}
	if hookOf(annotations) != nil {
		all |= delivery.MarkHook
	}
	return all
}

// wave is the sync wave, or else the weight of a Helm hook.
func wave(annotations map[string]string) int {
	for _, key := range []string{argocdv1.SyncWaveAnnotation, argocdv1.HelmHookWeightAnnotation} {
		if n, err := strconv.Atoi(annotations[key]); err == nil {
			return n
		}
	}
	return 0
}

// argoMoments and helmMoments are when hooks run (Argo CD: user-guide/helm, "Helm Hooks"). Helm's other hooks have no meaning there:
// an object with none but those is not applied.
var (
	argoMoments = map[string]delivery.Moment{
		"PreSync": delivery.PreSync, "Sync": delivery.DuringSync, "PostSync": delivery.PostSync, "SyncFail": delivery.SyncFail,
		"PreDelete": delivery.PreDelete, "PostDelete": delivery.PostDelete, "Skip": delivery.SkipHook,
	}
	helmMoments = map[string]delivery.Moment{
		"pre-install": delivery.PreSync, "pre-upgrade": delivery.PreSync, "post-install": delivery.PostSync, "post-upgrade": delivery.PostSync,
		"pre-delete": delivery.PreDelete, "post-delete": delivery.PostDelete,
	}
	argoDeletions = map[string]delivery.HookDeletion{
		"BeforeHookCreation": delivery.BeforeHookCreation, "HookSucceeded": delivery.HookSucceeded, "HookFailed": delivery.HookFailed,
	}
	helmDeletions = map[string]delivery.HookDeletion{
		"before-hook-creation": delivery.BeforeHookCreation, "hook-succeeded": delivery.HookSucceeded, "hook-failed": delivery.HookFailed,
	}
)

// hookOf tells whether an object is a hook; nil: it is none. Argo CD's own annotation wins over Helm's.
func hookOf(annotations map[string]string) *delivery.Hook {
	_, ours := annotations[argocdv1.HookAnnotation]
	helm, theirs := annotations[argocdv1.HelmHookAnnotation]
	if !ours && (!theirs || strings.TrimSpace(helm) == "crd-install") { // Helm's word for a CustomResourceDefinition
		return nil
	}
	h := &delivery.Hook{Moments: known(annotations, argocdv1.HookAnnotation, argoMoments)}
	if len(h.Moments) == 0 {
		h.Moments = known(annotations, argocdv1.HelmHookAnnotation, helmMoments)
	}
	if len(h.Moments) > 1 {
		h.Moments = slices.DeleteFunc(h.Moments, func(m delivery.Moment) bool { return m == delivery.SkipHook })
	}
	if len(h.Moments) == 0 {
		h.Moments = []delivery.Moment{delivery.SkipHook}
	}
	h.Delete = known(annotations, argocdv1.HookDeletePolicyAnnotation, argoDeletions)
	for _, d := range known(annotations, argocdv1.HelmHookDeletePolicy, helmDeletions) {
		if !slices.Contains(h.Delete, d) {
			h.Delete = append(h.Delete, d)
		}
	}
	if len(h.Delete) == 0 {
		h.Delete = []delivery.HookDeletion{delivery.BeforeHookCreation}
	}
	return h
}

// known gives what those entries of an annotation's list mean that have a meaning, each once.
func known[T comparable](annotations map[string]string, key string, meanings map[string]T) (out []T) {
	for _, name := range entries(annotations, key) {
		if m, ok := meanings[name]; ok && !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out
}
