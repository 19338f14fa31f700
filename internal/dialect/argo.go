package dialect

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/intstr"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
)

// Argo is what an Application's meaning depends on besides itself.
type Argo struct {
	Namespace    string               // of Argo CD's own objects: projects, credentials, clusters
	Project      *argocdv1.AppProject // that the Application names; nil: it does not exist
	Repositories []ArgoRepository
	Clusters     []ArgoCluster
	KnownHosts   string                  // ssh_known_hosts of [ArgoKnownHostsConfigMap]
	Certificates map[string]string       // of [ArgoCertificatesConfigMap]: host -> PEM
	Keys         map[string]string       // of [ArgoKeysConfigMap]: key id -> armored public key
	Impersonate  bool                    // application.sync.impersonation.enabled of [ArgoConfigMap]: who has no service account is refused
	Sync         *argocdv1.SyncOperation // not nil: read the Application as this operation overrides it (revisions, sources)
	Now          time.Time
}

// ArgoApp is an Application in our words.
type ArgoApp struct {
	App         delivery.App                    // of kind Application; its Generation is a hash of all that makes it, as its own grows with the status too
	Sources     []delivery.Source               // to follow, one for each of spec.source(s), none where the Application is invalid; their ids are of kind Repository, with the Application's namespace and a hash as name
	Destination ArgoCluster                     // the zero one: the cluster that the Application is in; App.KubeConfig is of kind Cluster for any other
	Nowhere     string                          // not empty: why it is not clear which cluster that is; Destination is not to be used
	Ungoverned  string                          // not empty: why its project's limits, or the account that it wants, are not known
	Conditions  []argocdv1.ApplicationCondition // what is wrong or unsupported; any of type InvalidSpecError keeps it from being delivered
	Orphans     *ArgoOrphans                    // not nil: the project wants to be warned of objects that nobody owns
}

// Invalid gives the first of the conditions that keep the Application from being delivered; empty: there is none.
func (a ArgoApp) Invalid() string {
	for _, c := range a.Conditions {
		if c.Type == argocdv1.ConditionInvalidSpecError {
			return c.Message
		}
	}
	return ""
}

const (
	// argoInterval is how often the remote of an Application is asked: Argo CD's timeout.reconciliation as documented.
	argoInterval = 3 * time.Minute
	// argoExchange bounds one exchange with a repository.
	argoExchange = 90 * time.Second
	// argoTimeout bounds one attempt, and the wait for the objects of a deleted Application to be gone.
	argoTimeout = 10 * time.Minute
	// argoHistory is the default of spec.revisionHistoryLimit.
	argoHistory = 10
	// DefaultProject is the project of an Application that names none.
	DefaultProject = "default"
	// RepositoryKind is that of the ids of an Application's sources.
	RepositoryKind = "Repository"
	// ClusterKind is that of delivery.App.KubeConfig for a cluster that a Secret of Argo CD describes; its name is the Secret's.
	ClusterKind = "Cluster"
	// SkipReconcileAnnotation with the value "true" suspends an Application.
	SkipReconcileAnnotation = "argocd.argoproj.io/skip-reconcile"
)

// argoReader reads one Application.
type argoReader struct {
	a       *argocdv1.Application
	in      Argo
	spec    argocdv1.ApplicationSpec // with the operation's overrides
	out     ArgoApp
	ignored []string // what has no effect
}

// Application reads an Application.
func Application(a *argocdv1.Application, in Argo) ArgoApp {
	r := &argoReader{a: a, in: in, spec: overridden(a, in.Sync)}
	r.out.App = delivery.App{
		ID:  delivery.ID{Kind: argocdv1.ApplicationKind, Namespace: a.Namespace, Name: a.Name},
		UID: string(a.UID), Environment: delivery.EnvironmentOf(a.Labels, r.spec.Destination.Namespace, a.Namespace), Namespace: r.spec.Destination.Namespace,
		Prune:    true, // what has left Git is in the plan; an operation carries it out if it is asked to
		Interval: argoInterval, Timeout: argoTimeout,
		Requested: a.Annotations[argocdv1.RefreshAnnotation],
		Suspend:   a.Annotations[SkipReconcileAnnotation] == "true",
	}
	r.deletion()
	r.annotations()
	r.policy()
	r.ignoreDifferences()
	destination, known := r.destination()
	if project := r.project(); project != nil {
		r.govern(project, destination, known)
	}
	r.sources()
	r.unsupported()
	if r.out.App.Denied = r.out.Invalid(); r.out.App.Denied != "" {
		r.out.Sources = nil // nothing is asked for what must not, or cannot, be delivered
	}
	r.out.App.Generation = argoGeneration(r.out.App)
	return r.out
}

// overridden gives an Application's spec with the sources that an operation wants. At which revisions it wants them is not in it:
// [argoReader.pinned].
func overridden(a *argocdv1.Application, sync *argocdv1.SyncOperation) argocdv1.ApplicationSpec {
	spec := *a.Spec.DeepCopy()
	if sync == nil {
		return spec
	}
	if sync.Source != nil {
		spec.Source, spec.Sources = sync.Source.DeepCopy(), nil
	}
	if len(sync.Sources) > 0 {
		spec.Sources = slices.Clone(sync.Sources)
	}
	return spec
}

// pinned gives the source number i as it is fetched: at the revision that the operation wants. What is rendered knows nothing of it
// (Argo CD: ARGOCD_APP_SOURCE_TARGET_REVISION is what the source says).
func (r *argoReader) pinned(i int, s *argocdv1.ApplicationSource) *argocdv1.ApplicationSource {
	revision := ""
	switch sync := r.in.Sync; {
	case sync == nil:
	case len(r.spec.Sources) == 0:
		revision = sync.Revision
	case i < len(sync.Revisions):
		revision = sync.Revisions[i]
	}
	if revision == "" {
		return s
	}
	at := *s
	at.TargetRevision = revision
	return &at
}

func (r *argoReader) condition(kind, format string, args ...any) {
	c := argocdv1.ApplicationCondition{Type: kind, Message: fmt.Sprintf(format, args...)}
	if !slices.Contains(r.out.Conditions, c) {
		r.out.Conditions = append(r.out.Conditions, c)
	}
}

func (r *argoReader) invalid(format string, args ...any) {
	r.condition(argocdv1.ConditionInvalidSpecError, format, args...)
}

// refuse says that a field is not supported, and that nothing is delivered therefore.
func (r *argoReader) refuse(field, hint string) {
	r.out.App.Refused = append(r.out.App.Refused, field)
	r.invalid("%s is not supported (hint: %s)", field, hint)
}

// deletion reads the finalizers: without one of Argo CD's, an Application's objects stay when it is deleted.
func (r *argoReader) deletion() {
	app := &r.out.App
	app.KeepOnDelete = true
	for _, f := range r.a.Finalizers {
		switch f {
		case argocdv1.ResourcesFinalizer, argocdv1.ForegroundFinalizer:
			app.KeepOnDelete, app.AwaitGone, app.Propagation = false, true, "foreground"
		case argocdv1.BackgroundFinalizer:
			app.KeepOnDelete, app.AwaitGone, app.Propagation = false, true, "background"
		}
	}
}

// annotations reads those of ours.
func (r *argoReader) annotations() {
	app, a := &r.out.App, r.a.Annotations
	var err error
	if app.Guard, err = guard(a); err != nil {
		r.invalid("%v", err)
	}
	for name := range strings.SplitSeq(a[argocdv1.DependsOnAnnotation], ",") {
		name = strings.TrimSpace(name)
		if name == "" {
			continue
		}
		namespace, rest, ok := strings.Cut(name, "/")
		if !ok {
			namespace, rest = r.a.Namespace, name
		}
		if namespace == "" || rest == "" || strings.Contains(rest, "/") {
			r.invalid("annotation %s: %q is not the name of an Application (hint: write name or namespace/name)", argocdv1.DependsOnAnnotation, name)
			continue
		}
		id := delivery.ID{Kind: argocdv1.ApplicationKind, Namespace: namespace, Name: rest}
		if !slices.Contains(app.DependsOn, id) {
			app.DependsOn = append(app.DependsOn, id)
		}
	}
}

// unsupported names what has no effect.
func (r *argoReader) unsupported() {
	r.ignored = append(slices.Clone(r.a.Unknown), r.ignored...)
	slices.Sort(r.ignored)
	r.ignored = slices.Compact(r.ignored)
	r.out.App.Ignored = r.ignored
	if len(r.ignored) > 0 {
		r.condition(argocdv1.ConditionUnsupportedFieldsWarning, "without effect: %s", strings.Join(r.ignored, ", "))
	}
}

// ignoreDifferences reads the fields that do not count.
func (r *argoReader) ignoreDifferences() {
	for i, d := range r.spec.IgnoreDifferences {
		rule := delivery.IgnoreRule{
			JQ: d.JQPathExpressions, Managers: d.ManagedFieldsManagers, Respect: r.out.App.Sync.Options.RespectIgnoreDifferences,
			Target: &delivery.Selector{
				Group: globExpression(d.Group), Kind: globExpression(d.Kind), Name: orAny(d.Name), Namespace: orAny(d.Namespace),
			},
		}
		for _, p := range d.JSONPointers {
			if _, ok := delivery.ParsePointer(p); !ok {
				r.ignored = append(r.ignored, fmt.Sprintf("spec.ignoreDifferences[%d].jsonPointers %q, which is no JSON pointer", i, p))
				continue
			}
			rule.Paths = append(rule.Paths, p)
		}
		r.out.App.Ignore = append(r.out.App.Ignore, rule)
	}
}

// globExpression gives the regular expression for what a glob matches; an empty glob matches what is empty.
func globExpression(glob string) string {
	if glob == "" {
		return "()"
	}
	return delivery.GlobExpression(glob, "")
}

// orAny is the same, but an empty glob matches everything.
func orAny(glob string) string {
	if glob == "" {
		return ""
	}
	return globExpression(glob)
}

// sources reads where the manifests come from and how they are rendered.
func (r *argoReader) sources() {
	switch {
	case r.spec.SourceHydrator != nil:
		r.refuse("spec.sourceHydrator", "render to a branch by other means, and point spec.source there")
	case len(r.spec.Sources) > 0:
		r.several()
	default:
		r.single()
	}
}

func (r *argoReader) single() {
	s := r.spec.Source
	if s == nil || s.RepoURL == "" || s.Path == "" && s.Chart == "" && !isOCI(s.RepoURL) {
		r.invalid("spec.source.repoURL and either spec.source.path or spec.source.chart are required")
		return
	}
	src, ok := r.source("spec.source", r.pinned(0, s))
	if !ok {
		return
	}
	r.out.Sources, r.out.App.Source = []delivery.Source{src}, src.ID
	part := r.part("spec.source", s)
	part.Root = "."
	r.out.App.Build.Parts = []delivery.Part{part}
}

func (r *argoReader) several() {
	refs := r.refs()
	for i := range r.spec.Sources {
		s, field, at := &r.spec.Sources[i], fmt.Sprintf("spec.sources[%d]", i), strconv.Itoa(i)
		if s.RepoURL == "" || s.Path == "" && s.Chart == "" && s.Ref == "" && !isOCI(s.RepoURL) {
			r.invalid("%s: repoURL and one of path, chart and ref are required", field)
			return
		}
		src, ok := r.source(field, r.pinned(i, s))
		if !ok {
			return
		}
		r.out.Sources = append(r.out.Sources, src)
		r.out.App.Mounts = append(r.out.App.Mounts, delivery.Mount{At: at, Source: src.ID})
		if s.Path == "" && s.Chart == "" && s.Ref != "" {
			continue // others read it
		}
		part := r.part(field, s)
		part.Root = at
		if len(refs) > 0 {
			part.Refs = maps.Clone(refs)
		}
		r.out.App.Build.Parts = append(r.out.App.Build.Parts, part)
	}
}

// refs gives what "$name" stands for: the folder where that source is mounted.
func (r *argoReader) refs() map[string]string {
	refs := map[string]string{}
	for i, s := range r.spec.Sources {
		if s.Ref == "" {
			continue
		}
		if s.Chart != "" {
			r.invalid("spec.sources[%d]: ref %q cannot be given to a chart", i, s.Ref)
		}
		name := "$" + s.Ref
		if _, twice := refs[name]; twice {
			r.invalid("spec.sources[%d]: ref %q is given twice", i, s.Ref)
		}
		refs[name] = strconv.Itoa(i)
	}
	return refs
}

// part reads how one source is rendered.
func (r *argoReader) part(field string, s *argocdv1.ApplicationSource) delivery.Part {
	p := delivery.Part{
		Path: cleanPath(s.Path), Name: s.Name, Release: r.a.Name, Namespace: r.spec.Destination.Namespace, Env: r.env(s),
	}
	if s.Chart != "" {
		p.Path = "."
	}
	if s.Plugin != nil {
		r.refuse(field+".plugin", "render with Helm, Kustomize, Jsonnet or plain manifests: plugins would run programs of their own")
	}
	var kinds []string
	if h := s.Helm; h != nil && !zero(h) {
		kinds = append(kinds, "helm")
		p.Helm = r.helm(field+".helm", h)
	}
	if k := s.Kustomize; k != nil && !zero(k) {
		kinds = append(kinds, "kustomize")
		p.Kustomize = r.kustomize(field+".kustomize", k)
	}
	if d := s.Directory; d != nil && !zero(d) {
		kinds = append(kinds, "directory")
		p.Directory = directory(d)
	}
	if len(kinds) > 1 {
		r.invalid("%s: only one of %s can be given", field, strings.Join(kinds, ", "))
	}
	return p
}

// zero tells whether nothing is set.
func zero(v any) bool {
	b, err := json.Marshal(v)
	return err == nil && string(b) == "{}"
}

// env is the build environment of a source (Argo CD: user-guide/build-environment), without what is known only of a commit:
// [ArgoRevisionEnv].
func (r *argoReader) env(s *argocdv1.ApplicationSource) map[string]string {
	return map[string]string{
		"ARGOCD_APP_NAME":                   r.a.Name,
		"ARGOCD_APP_NAMESPACE":              r.spec.Destination.Namespace,
		"ARGOCD_APP_PROJECT_NAME":           projectName(r.a),
		"ARGOCD_APP_SOURCE_PATH":            s.Path,
		"ARGOCD_APP_SOURCE_REPO_URL":        s.RepoURL,
		"ARGOCD_APP_SOURCE_TARGET_REVISION": s.TargetRevision,
	}
}

// revisionVariable is what variables of the build environment that tell a revision begin with.
const revisionVariable = "ARGOCD_APP_REVISION"

// ArgoRevisionEnv completes the build environment of those parts of an app that ask for their revision. revisions are those of its
// sources, in their order. Other parts stay as they are, so that a commit which does not concern them costs nothing.
func ArgoRevisionEnv(app *delivery.App, revisions []delivery.Revision) {
	changed := false
	for i := range app.Build.Parts {
		p := &app.Build.Parts[i]
		n := 0
		if len(app.Mounts) > 0 {
			n = slices.IndexFunc(app.Mounts, func(m delivery.Mount) bool { return m.At == p.Root })
		}
		b, err := json.Marshal([]any{p.Helm, p.Kustomize, p.Directory})
		if err != nil || !strings.Contains(string(b), revisionVariable) || n < 0 || n >= len(revisions) {
			continue
		}
		id := revisions[n].Commit
		if revisions[n].Archive() && revisions[n].Name != "" {
			id = revisions[n].Name
		}
		p.Env = maps.Clone(p.Env)
		p.Env[revisionVariable], p.Env[revisionVariable+"_SHORT"], p.Env[revisionVariable+"_SHORT_8"] = id, id[:min(7, len(id))], id[:min(8, len(id))]
		changed = true
	}
	if changed {
		app.Generation = argoGeneration(*app)
	}
}

func (r *argoReader) helm(field string, h *argocdv1.ApplicationSourceHelm) *delivery.Helm {
	if h.Version != "" && h.Version != "v3" {
		r.refuse(field+".version "+h.Version, "charts are rendered as Helm 3 and later do")
	}
	out := &delivery.Helm{
		ReleaseName: orElse(h.ReleaseName, r.a.Name), Namespace: orElse(h.Namespace, r.spec.Destination.Namespace),
		ValueFiles: h.ValueFiles, Values: h.Values, IgnoreMissingValueFiles: h.IgnoreMissingValueFiles,
		SkipCRDs: h.SkipCrds, SkipTests: h.SkipTests, SkipSchemaValidation: h.SkipSchemaValidation,
		KubeVersion: h.KubeVersion, APIVersions: h.APIVersions,
	}
	if h.ValuesObject != nil && len(h.ValuesObject.Raw) > 0 {
		out.Values = string(h.ValuesObject.Raw) // JSON is YAML; it wins over values
	}
	for _, p := range h.Parameters {
		out.Parameters = append(out.Parameters, delivery.Parameter{Name: p.Name, Value: p.Value, Text: p.ForceString})
	}
	for _, p := range h.FileParameters {
		out.FileParameters = append(out.FileParameters, delivery.Parameter{Name: p.Name, Value: p.Path})
	}
	return out
}

func (r *argoReader) kustomize(field string, k *argocdv1.ApplicationSourceKustomize) *delivery.Kustomize {
	if k.Version != "" {
		r.ignored = append(r.ignored, field+".version")
	}
	out := &delivery.Kustomize{
		NamePrefix: k.NamePrefix, NameSuffix: k.NameSuffix, Namespace: k.Namespace, Images: k.Images,
		CommonLabels: k.CommonLabels, CommonAnnotations: k.CommonAnnotations,
		ForceCommonLabels: k.ForceCommonLabels, ForceCommonAnnotations: k.ForceCommonAnnotations,
		CommonAnnotationsEnvsubst: k.CommonAnnotationsEnvsubst,
		LabelWithoutSelector:      k.LabelWithoutSelector, LabelIncludeTemplates: k.LabelIncludeTemplates,
		Components: k.Components, IgnoreMissingComponents: k.IgnoreMissingComponents,
		KubeVersion: k.KubeVersion, APIVersions: k.APIVersions,
	}
	for i, n := range k.Replicas {
		count := int64(n.Count.IntVal)
		if n.Count.Type == intstr.String {
			var err error
			if count, err = strconv.ParseInt(n.Count.StrVal, 10, 32); err != nil {
				r.invalid("%s.replicas[%d].count: %q is not a number", field, i, n.Count.StrVal)
			}
		}
		out.Replicas = append(out.Replicas, delivery.Replica{Name: n.Name, Count: count})
	}
	for _, p := range k.Patches {
		patch := delivery.FilePatch{Patch: delivery.Patch{Patch: p.Patch}, Path: p.Path, Options: p.Options}
		if t := p.Target; t != nil {
			patch.Target = &delivery.Selector{
				Group: t.Group, Version: t.Version, Kind: t.Kind, Namespace: t.Namespace, Name: t.Name,
				LabelSelector: t.LabelSelector, AnnotationSelector: t.AnnotationSelector,
			}
		}
		out.Patches = append(out.Patches, patch)
	}
	return out
}

func directory(d *argocdv1.ApplicationSourceDirectory) *delivery.Directory {
	out := &delivery.Directory{
		Recurse: d.Recurse, Include: d.Include, Exclude: d.Exclude, AnyExtension: d.DisableExtensionFilter,
		ExtVars: jsonnetVars(d.Jsonnet.ExtVars), TLAs: jsonnetVars(d.Jsonnet.TLAs),
	}
	for _, lib := range d.Jsonnet.Libs {
		out.Libs = append(out.Libs, cleanPath(lib))
	}
	return out
}

func jsonnetVars(vars []argocdv1.JsonnetVar) (out []delivery.JsonnetVar) {
	for _, v := range vars {
		out = append(out, delivery.JsonnetVar{Name: v.Name, Value: v.Value, Code: v.Code})
	}
	return out
}

// argoGeneration is a hash of all that decides what is delivered, and how. What changes with time or by a person's word is not in it.
func argoGeneration(app delivery.App) int64 {
	var policy delivery.SyncPolicy
	if app.Sync != nil {
		policy = *app.Sync
	}
	policy.Windows, policy.Held = delivery.Window{}, nil
	b, err := json.Marshal([]any{
		app.Source, app.Mounts, app.Build, app.Namespace, app.KubeConfig, app.ServiceAccount, app.ServiceAccountNamespace,
		app.Ignore, app.Limits, policy, app.DependsOn, app.KeepOnDelete, app.Propagation,
	})
	if err != nil { // cannot happen: these are texts, numbers and lists of them
		return 0
	}
	sum := sha256.Sum256(b)
	return int64(binary.BigEndian.Uint64(sum[:8]) >> 1)
}
