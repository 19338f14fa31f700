package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/redact"
)

// app is how an app reconciles a repository that the job has pushed to.
type app struct {
	repository string
	commits    []string // that have to be applied
	source     place    // the GitRepository; zero: the app names the repository itself
	chart      place    // the HelmChart between the source and a HelmRelease; zero: there is none, as Keelson needs none
	folder     string   // of a HelmRelease without a HelmChart: where its chart is in the repository
	index      int      // which of an Application's sources it is
	seen       string   // the revision that its source was at when it was found
	signature  string   // what of the app decides which of its objects are followed
}

// The kinds of apps and of what they are made from.
var (
	gitRepositories = sourcev1.GroupVersion.WithResource("gitrepositories")
	helmCharts      = sourcev1.GroupVersion.WithResource("helmcharts")
	kustomizations  = kustomizev1.GroupVersion.WithResource("kustomizations")
	helmReleases    = helmv2.GroupVersion.WithResource("helmreleases")
	applications    = argocdv1.GroupVersion.WithResource("applications")
)

// as reads an object as one of a Go type; false: it is not there, or cannot be read.
func as[T any](u *unstructured.Unstructured) (*T, bool) {
	if u == nil {
		return nil, false
	}
	out := new(T)
	return out, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, out) == nil
}

const (
	// troubleHold is how long an app has to say that it failed where it tries again by itself, and may succeed then.
	troubleHold = 20 * time.Second
	// sourceHold is the same for what an app is made from.
	sourceHold = time.Minute
)

// ofApp decides on an app that reconciles commits of the job.
func (s subject) ofApp() verdict {
	if s.live.GetDeletionTimestamp() != nil {
		return remarked("is being deleted: it is not waited for")
	}
	switch s.resource.GroupResource() {
	case kustomizations.GroupResource():
		return s.ofKustomization()
	case helmReleases.GroupResource():
		return s.ofHelmRelease()
	case applications.GroupResource():
		return s.ofApplication()
	}
	return verdict{phase: done}
}

// ofSource decides on an app that does not have the commit yet, by what it is made from.
func (s subject) ofSource() verdict {
	g, ok := as[sourcev1.GitRepository](s.source)
	switch {
	case !ok:
		return underWay("its GitRepository %s/%s is not there", s.app.source.namespace, s.app.source.name)
	case g.Spec.Suspend:
		return remarked("is not waited for: its GitRepository %s/%s is suspended", g.Namespace, g.Name)
	case g.Status.Artifact != nil && s.has(g.Status.Artifact.Revision):
		return underWay("waits for its turn to apply the commit")
	}
	if c := meta.FindStatusCondition(g.Status.Conditions, fluxmeta.ReadyCondition); c != nil && c.Status == metav1.ConditionFalse && current(c, g.Generation) {
		return verdict{
			phase: failed, reason: "Source", hold: sourceHold, text: fmt.Sprintf("its GitRepository %s/%s does not give the commit: %s", g.Namespace, g.Name, c.Message),
			advice: "correct the GitRepository; keelson get sources tells how it is doing",
		}
	}
	return underWay("waits for its GitRepository %s/%s to find the commit", g.Namespace, g.Name)
}

// current tells whether a condition is about an object as it is declared now.
func current(c *metav1.Condition, generation int64) bool {
	return c.ObservedGeneration == 0 || c.ObservedGeneration == generation
}

const flaw = "correct what the app says is wrong, and push again; keelson get apps tells how it is doing"

// patiently are the reasons of apps that wait for something else.
var patiently = []string{"DependencyNotReady", "ArtifactNotReady", "SourceNotReady", fluxmeta.ProgressingReason, fluxmeta.ProgressingWithRetryReason}

// at once are the reasons of apps that have waited already, or that only another commit helps.
var atOnce = []string{fluxmeta.HealthCheckFailedReason, "BuildFailed"}

// ofKustomization decides on a Kustomization.
func (s subject) ofKustomization() verdict {
	k, ok := as[kustomizev1.Kustomization](s.live)
	if !ok {
		return underWay("its status cannot be read")
	}
	if k.Spec.Suspend {
		return remarked("is suspended: it is not waited for")
	}
	ready := meta.FindStatusCondition(k.Status.Conditions, fluxmeta.ReadyCondition)
	tried := s.has(k.Status.LastAttemptedRevision)
	switch {
	case ready != nil && ready.Status == metav1.ConditionTrue && k.Status.ObservedGeneration == k.Generation && s.has(k.Status.LastAppliedRevision):
		return healthy()
	case ready != nil && ready.Status == metav1.ConditionFalse && tried && current(ready, k.Generation):
		return s.unready(ready, meta.IsStatusConditionTrue(k.Status.Conditions, fluxmeta.StalledCondition))
	case tried && ready != nil:
		return underWay("%s", ready.Message)
	}
	return s.ofSource()
}

// unready decides on an app that says why it is not ready with the commit.
func (s subject) unready(c *metav1.Condition, stalled bool) verdict {
	if slices.Contains(patiently, c.Reason) && !stalled {
		return underWay("%s", c.Message)
	}
	v := verdict{phase: failed, reason: c.Reason, hold: troubleHold, text: c.Reason + ": " + c.Message, advice: flaw}
	if stalled || slices.Contains(atOnce, c.Reason) {
		v.hold = 0
	}
	return v
}

// ofHelmRelease decides on a HelmRelease whose chart is in the repository.
func (s subject) ofHelmRelease() verdict {
	hr, ok := as[helmv2.HelmRelease](s.live)
	if !ok {
		return underWay("its status cannot be read")
	}
	if hr.Spec.Suspend {
		return remarked("is suspended: it is not waited for")
	}
	version, v := s.chartVersion(hr)
	if v != nil {
		return *v
	}
	ready := meta.FindStatusCondition(hr.Status.Conditions, fluxmeta.ReadyCondition)
	tried := version == "" || ofVersion(hr.Status.LastAttemptedRevision, version)
	switch {
	case ready == nil:
		return underWay("waits for its turn to release version %s", version)
	case ready.Status == metav1.ConditionTrue && version != "" && tried && hr.Status.ObservedGeneration == hr.Generation:
		return healthy()
	case ready.Status == metav1.ConditionFalse && tried && current(ready, hr.Generation):
		return s.unready(ready, meta.IsStatusConditionTrue(hr.Status.Conditions, fluxmeta.StalledCondition))
	case tried:
		return underWay("%s", ready.Message)
	}
	return underWay("waits for its turn to release version %s", version)
}

// ofVersion tells whether a release was tried with a version of a chart. More may have been added to it, as for values files.
func ofVersion(tried, version string) bool {
	rest, ok := strings.CutPrefix(tried, version)
	return ok && (rest == "" || rest[0] == '+' || rest[0] == '.' && strings.Contains(version, "+"))
}

// chartVersion gives the version of the chart that the commit makes; empty: it has no chart that can be read. Not nil: that is not known yet.
func (s subject) chartVersion(hr *helmv2.HelmRelease) (string, *verdict) {
	g, ok := as[sourcev1.GitRepository](s.source)
	if !ok || g.Status.Artifact == nil || !s.has(g.Status.Artifact.Revision) {
		v := s.ofSource()
		return "", &v
	}
	if s.app.chart == (place{}) {
		version := s.version(g.Status.Artifact.Revision)
		if spec := hr.Spec.Chart; version != "" && spec != nil && spec.Spec.ReconcileStrategy == sourcev1.ReconcileStrategyRevision {
			commit := delivery.ParseRevision(g.Status.Artifact.Revision).Commit
			version, _, _ = strings.Cut(version, "+")
			version += "+" + commit[:min(len(commit), chartCommit)]
		}
		return version, nil
	}
	chart, ok := as[sourcev1.HelmChart](s.chart)
	name := s.app.chart.namespace + "/" + s.app.chart.name
	switch {
	case !ok:
		v := underWay("its HelmChart %s is not there", name)
		return "", &v
	case s.has(chart.Status.ObservedSourceArtifactRevision) && chart.Status.Artifact != nil:
		return chart.Status.Artifact.Revision, nil
	case chart.Spec.Suspend:
		v := remarked("is not waited for: its HelmChart %s is suspended", name)
		return "", &v
	}
	v := underWay("waits for its HelmChart %s to be made of the commit", name)
	if c := meta.FindStatusCondition(chart.Status.Conditions, fluxmeta.ReadyCondition); c != nil && c.Status == metav1.ConditionFalse && current(c, chart.Generation) {
		v = verdict{
			phase: failed, reason: "Chart", hold: troubleHold, text: fmt.Sprintf("its HelmChart %s cannot be made of the commit: %s", name, c.Message),
			advice: "correct the chart, and push again",
		}
	}
	return "", &v
}

// chartCommit is how many digits of a commit are in the version of a chart that each revision makes.
const chartCommit = 12

// versionOf gives a function that reads the version of an app's chart in a revision of its repository; empty: there is none.
func (f *follower) versionOf(t target) func(revision string) string {
	return func(revision string) string {
		commit := delivery.ParseRevision(revision).Commit
		k := [3]string{t.app.repository, commit, t.app.folder}
		if known, ok := f.versions[k]; ok || commit == "" || f.File == nil {
			return known
		}
		ctx, cancel := context.WithTimeout(context.Background(), gitLimit)
		defer cancel()
		text, err := f.File(ctx, t.app.repository, commit, path.Join(t.app.folder, "Chart.yaml"))
		var chart struct {
			Version string `json:"version"`
		}
		if err != nil || yaml.Unmarshal(text, &chart) != nil {
			return ""
		}
		f.versions[k] = chart.Version
		return chart.Version
	}
}

// at gives the revision of one of an Application's sources.
func (a *app) at(revision string, revisions []string) string {
	if a.index < len(revisions) {
		return revisions[a.index]
	}
	return revision
}

// ofApplication decides on an Application.
func (s subject) ofApplication() verdict {
	a, ok := as[argocdv1.Application](s.live)
	if !ok {
		return underWay("its status cannot be read")
	}
	if a.Annotations[dialect.SkipReconcileAnnotation] == "true" {
		return remarked("is suspended (%s): it is not waited for", dialect.SkipReconcileAnnotation)
	}
	if i := slices.IndexFunc(a.Status.Conditions, func(c argocdv1.ApplicationCondition) bool { return strings.HasSuffix(c.Type, "Error") }); i >= 0 {
		c := a.Status.Conditions[i]
		return verdict{phase: failed, reason: c.Type, hold: troubleHold, text: c.Type + ": " + c.Message, advice: flaw}
	}
	op := a.Status.OperationState
	over := op != nil && (op.Phase == argocdv1.OperationFailed || op.Phase == argocdv1.OperationError)
	synced := op != nil && op.SyncResult != nil && s.has(s.app.at(op.SyncResult.Revision, op.SyncResult.Revisions))
	switch {
	case !s.has(s.app.at(a.Status.Sync.Revision, a.Status.Sync.Revisions)):
		return underWay("waits for its repository to be looked at")
	case over && synced && a.Operation == nil:
		return verdict{phase: failed, reason: op.Phase, hold: troubleHold, text: "its sync " + lower(op.Phase) + ": " + op.Message, advice: flaw}
	case a.Status.Sync.Status != argocdv1.Synced && !automated(a) && a.Operation == nil && (op == nil || op.Phase != argocdv1.OperationRunning):
		return remarked("is not synced: it does not sync by itself (keelson sync %s/%s does it), and is not waited for", a.Namespace, a.Name)
	case a.Status.Sync.Status != argocdv1.Synced:
		return underWay("is %s", cmp.Or(a.Status.Sync.Status, "not compared yet"))
	}
	switch h := argoRules.Of(s.live); h.Status {
	case delivery.Healthy:
		return healthy()
	case delivery.Suspended:
		return remarked("%s", strings.TrimSuffix("is suspended: "+h.Message, ": "))
	case delivery.Degraded:
		return verdict{phase: failed, reason: "Degraded", hold: troubleHold, text: cmp.Or(h.Message, "its health is Degraded"), advice: flaw}
	default:
		return underWay("%s", cmp.Or(h.Message, "its health is "+cmp.Or(string(h.Status), "not known yet")))
	}
}

// automated tells whether an Application syncs by itself, and nothing holds it.
func automated(a *argocdv1.Application) bool {
	p := a.Spec.SyncPolicy
	return p != nil && p.Automated != nil && (p.Automated.Enabled == nil || *p.Automated.Enabled) && a.Annotations[argocdv1.HoldAnnotation] == ""
}

// belongings says what of an app's objects is followed: none before it has begun to apply the commit, or where they are in another cluster.
// judges: the app itself waits for them to be healthy.
func (s subject) belongings() (objects delivery.Inventory, judges bool) {
	switch s.resource.GroupResource() {
	case kustomizations.GroupResource():
		k, ok := as[kustomizev1.Kustomization](s.live)
		if !ok || k.Spec.Suspend || k.Spec.KubeConfig != nil || !s.has(k.Status.LastAttemptedRevision) {
			return nil, false
		}
		judges := k.Spec.Wait || len(k.Spec.HealthChecks) > 0 || len(k.Spec.HealthCheckExprs) > 0
		return dialect.KustomizationOwned(k), judges || s.ofKustomization().phase != done
	case helmReleases.GroupResource():
		hr, ok := as[helmv2.HelmRelease](s.live)
		if !ok || hr.Spec.Suspend || hr.Spec.KubeConfig != nil {
			return nil, false
		}
		return dialect.HelmReleaseRecord(&hr.Status).Inventory, true
	case applications.GroupResource():
		a, ok := as[argocdv1.Application](s.live)
		if !ok || a.Spec.Destination.Name != "" && a.Spec.Destination.Name != "in-cluster" || a.Spec.Destination.Server != "" && a.Spec.Destination.Server != dialect.InCluster {
			return nil, false
		}
		return dialect.ArgoInventory(a), true
	}
	return nil, false
}

// signature identifies what [subject.belongings] gives.
func signature(objects delivery.Inventory, judges bool) string {
	var b strings.Builder
	fmt.Fprintln(&b, judges)
	for _, ref := range objects.Refs() {
		fmt.Fprintln(&b, ref.String())
	}
	return b.String()
}

// changed tells whether there is something else to follow than was planned: an app has begun to apply a commit, or owns something else.
func (f *follower) changed(w *world, targets []target) bool {
	return slices.ContainsFunc(targets, func(t target) bool {
		if t.app == nil {
			return false
		}
		s := subject{target: t, live: w.object(t.place()), source: w.object(t.app.source), chart: w.object(t.app.chart), has: f.has(t), version: f.versionOf(t)}
		return s.live != nil && (signature(s.belongings()) != t.app.signature || s.overtaken())
	})
}

// stands is the revision that an app's source is at.
func (s subject) stands() string {
	if s.app.source != (place{}) {
		if g, ok := as[sourcev1.GitRepository](s.source); ok && g.Status.Artifact != nil {
			return g.Status.Artifact.Revision
		}
		return ""
	}
	if a, ok := as[argocdv1.Application](s.live); ok {
		return s.app.at(a.Status.Sync.Revision, a.Status.Sync.Revisions)
	}
	return ""
}

// overtaken tells whether an app's source has moved on to something without the commit.
func (s subject) overtaken() bool {
	now := s.stands()
	return now != "" && now != s.app.seen && !s.has(now)
}

// has gives a function that tells whether a revision has all commits of the job that an app is to apply.
func (f *follower) has(t target) func(revision string) bool {
	return func(revision string) bool {
		commit := cmp.Or(delivery.ParseRevision(revision).Commit, revision)
		if t.app == nil || commit == "" {
			return false
		}
		return !slices.ContainsFunc(t.app.commits, func(want string) bool { return !f.isIn(t.app.repository, commit, want) })
	}
}

// gitLimit bounds one question about a repository.
const gitLimit = 30 * time.Second

// isIn tells whether a commit is another one, or comes after it.
func (f *follower) isIn(repository, commit, ancestor string) bool {
	if commit == ancestor {
		return true
	}
	k := [3]string{repository, commit, ancestor}
	if known, ok := f.contains[k]; ok {
		return known
	}
	ctx, cancel := context.WithTimeout(context.Background(), gitLimit)
	defer cancel()
	in, err := f.Contains(ctx, repository, commit, ancestor)
	if err == nil {
		f.contains[k] = in
	}
	return in && err == nil
}

// plan gives what is followed now: what the job wrote, the apps that reconcile what it pushed, and what belongs to these.
func (f *follower) plan(ctx context.Context) ([]target, error) {
	targets := slices.Clone(f.wrote)
	taken := map[key]bool{}
	for _, t := range targets {
		taken[t.key()] = true
	}
	apps, err := f.apps(ctx)
	if err != nil {
		return nil, err
	}
	for i := range apps {
		a := &apps[i]
		taken[a.key()] = true
		targets = slices.DeleteFunc(targets, func(t target) bool { return t.key() == a.key() })
	}
	for i := range apps {
		targets = append(targets, apps[i].target)
	}
	for i := range apps {
		objects, judges := apps[i].belongings()
		apps[i].app.signature = signature(objects, judges)
		for _, ref := range objects.Refs() {
			if len(targets) >= maxObjects {
				f.once("only %d objects are followed: %s has more", maxObjects, apps[i].long())
				break
			}
			r, namespaced, ok, err := resourceOf(f.Cluster, schema.GroupKind{Group: ref.Group, Kind: ref.Kind}, objects[ref])
			if err != nil {
				return nil, err
			}
			t := target{resource: r, kind: ref.Kind, name: ref.Name, beside: judges, of: apps[i].app}
			if namespaced {
				t.namespace = ref.Namespace
			}
			if !ok || !followed(r.GroupResource()) || taken[t.key()] || judges && !workloads[r.GroupResource()] {
				continue
			}
			taken[t.key()] = true
			targets = append(targets, t)
		}
	}
	return targets, nil
}

// apps finds the apps that reconcile what the job has pushed, as they are now.
func (f *follower) apps(ctx context.Context) ([]subject, error) {
	if len(f.work.Pushed) == 0 || f.Hosted == nil {
		return nil, nil
	}
	var found []subject
	git, err := f.list(ctx, gitRepositories)
	if err != nil {
		return nil, err
	}
	sources := map[place]app{}
	for i := range git {
		g, ok := as[sourcev1.GitRepository](&git[i])
		if !ok {
			continue
		}
		at := place{gitRepositories, g.Namespace, g.Name}
		if repository, commits := f.commitsOf(ctx, dialect.GitRepository(g)); len(commits) > 0 {
			a := app{repository: repository, commits: commits, source: at}
			if g.Status.Artifact != nil {
				a.seen = g.Status.Artifact.Revision
			}
			sources[at] = a
		}
	}
	for _, find := range []func(context.Context, map[place]app) ([]subject, error){f.kustomizations, f.helmReleases, f.applications} {
		some, err := find(ctx, sources)
		if err != nil {
			return nil, err
		}
		found = append(found, some...)
	}
	return found, f.sayCommits(found)
}

// sayCommits says once for each commit which apps reconcile it. The error says that one was deployed, and is gone before it was healthy.
func (f *follower) sayCommits(found []subject) error {
	for _, c := range f.work.Pushed {
		var names []string
		for _, s := range found {
			if s.app.repository == c.Repository && slices.Contains(s.app.commits, c.SHA) {
				names = append(names, s.long())
			}
		}
		what := fmt.Sprintf("commit %.7s of %s in %s", c.SHA, c.Repository, shortRef(c.Ref))
		before, said := f.reconciled[c]
		f.reconciled[c] = len(names)
		switch {
		case before > 0 && len(names) == 0:
			return fmt.Errorf("%s is %w: the branch does not have it any more, or no app reconciles it any more", what, ErrNotHealthy)
		case said:
			continue
		case len(names) == 0:
			f.log.Printf("%s: no app reconciles it, so there is nothing to wait for", what)
			continue
		}
		more := ""
		if n := len(names) - 20; n > 0 {
			names, more = names[:20], fmt.Sprintf(" and %d more", n)
		}
		f.log.Printf("%s is reconciled by %s%s", what, strings.Join(names, ", "), more)
	}
	return nil
}

func shortRef(ref string) string {
	return strings.TrimPrefix(strings.TrimPrefix(ref, "refs/heads/"), "refs/tags/")
}

// commitsOf gives the commits of the job that a source is at, or past. One that is at another ref has none, even where that has them too.
func (f *follower) commitsOf(ctx context.Context, src delivery.Source) (repository string, commits []string) {
	repository, ok := f.Hosted(src.URL)
	if !ok || src.Chart != "" || src.OCI || !slices.ContainsFunc(f.work.Pushed, func(c Commit) bool { return c.Repository == repository }) {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, gitLimit)
	defer cancel()
	now, err := f.Resolve(ctx, src)
	if err != nil || now.Name == "" {
		return "", nil
	}
	for _, c := range f.work.Pushed {
		if c.Repository == repository && shortRef(now.Name) == shortRef(c.Ref) && f.isIn(repository, now.Commit, c.SHA) {
			commits = append(commits, c.SHA)
		}
	}
	return repository, commits
}

// appOf makes the subject of an app that was found.
func (f *follower) appOf(r schema.GroupVersionResource, kind string, u *unstructured.Unstructured, a app) subject {
	t := target{resource: r, kind: kind, namespace: u.GetNamespace(), name: u.GetName(), app: &a}
	return subject{target: t, live: u, has: f.has(t), version: f.versionOf(t)}
}

func (f *follower) kustomizations(ctx context.Context, sources map[place]app) ([]subject, error) {
	all, err := f.list(ctx, kustomizations)
	var out []subject
	for i := range all {
		k, ok := as[kustomizev1.Kustomization](&all[i])
		if !ok || k.Spec.SourceRef.Kind != sourcev1.GitRepositoryKind {
			continue
		}
		at := place{gitRepositories, cmp.Or(k.Spec.SourceRef.Namespace, k.Namespace), k.Spec.SourceRef.Name}
		if a, ok := sources[at]; ok {
			out = append(out, f.appOf(kustomizations, kustomizev1.KustomizationKind, &all[i], a))
		}
	}
	return out, err
}

func (f *follower) helmReleases(ctx context.Context, sources map[place]app) ([]subject, error) {
	if len(sources) == 0 {
		return nil, nil
	}
	charts, err := f.list(ctx, helmCharts)
	if err != nil {
		return nil, err
	}
	of := map[place]app{}
	for i := range charts {
		c, ok := as[sourcev1.HelmChart](&charts[i])
		if !ok || c.Spec.SourceRef.Kind != sourcev1.GitRepositoryKind {
			continue
		}
		if a, ok := sources[place{gitRepositories, c.Namespace, c.Spec.SourceRef.Name}]; ok {
			a.chart = place{helmCharts, c.Namespace, c.Name}
			of[a.chart] = a
		}
	}
	all, err := f.list(ctx, helmReleases)
	var out []subject
	for i := range all {
		hr, ok := as[helmv2.HelmRelease](&all[i])
		if !ok {
			continue
		}
		var at place
		switch ref := hr.Spec.ChartRef; {
		case ref != nil && ref.Kind == sourcev1.HelmChartKind:
			at = place{helmCharts, cmp.Or(ref.Namespace, hr.Namespace), ref.Name}
		case ref == nil && hr.Spec.Chart != nil:
			namespace, name, _ := strings.Cut(hr.Status.HelmChart, "/")
			at = place{helmCharts, namespace, name}
		}
		a, ok := of[at]
		if spec := hr.Spec.Chart; !ok && hr.Spec.ChartRef == nil && spec != nil && spec.Spec.SourceRef.Kind == sourcev1.GitRepositoryKind {
			a, ok = sources[place{gitRepositories, cmp.Or(spec.Spec.SourceRef.Namespace, hr.Namespace), spec.Spec.SourceRef.Name}]
			a.folder = path.Clean("/" + spec.Spec.Chart)[1:]
		}
		if ok {
			out = append(out, f.appOf(helmReleases, helmv2.HelmReleaseKind, &all[i], a))
		}
	}
	return out, err
}

func (f *follower) applications(ctx context.Context, _ map[place]app) ([]subject, error) {
	all, err := f.list(ctx, applications)
	var out []subject
	for i := range all {
		a, ok := as[argocdv1.Application](&all[i])
		if !ok {
			continue
		}
		list := a.Spec.Sources
		if len(list) == 0 && a.Spec.Source != nil {
			list = []argocdv1.ApplicationSource{*a.Spec.Source}
		}
		for n, s := range list {
			src := delivery.Source{URL: s.RepoURL, Chart: s.Chart, Ref: delivery.GitRef{Any: cmp.Or(s.TargetRevision, "HEAD"), TagPrefix: s.TagPrefix}}
			if repository, commits := f.commitsOf(ctx, src); len(commits) > 0 {
				out = append(out, f.appOf(applications, argocdv1.ApplicationKind, &all[i], app{repository: repository, commits: commits, index: n}))
				last := &out[len(out)-1]
				last.app.seen = last.stands()
				break
			}
		}
	}
	return out, err
}

// list gives all objects of a kind; none where the cluster does not have it, or Keelson must not read it.
func (f *follower) list(ctx context.Context, r schema.GroupVersionResource) ([]unstructured.Unstructured, error) {
	o := metav1.ListOptions{Limit: page}
	var out []unstructured.Unstructured
	for {
		list, err := f.Cluster.Self().Dynamic.Resource(r).List(ctx, o)
		switch {
		case apierrors.IsNotFound(err):
			return nil, nil
		case apierrors.IsForbidden(err):
			f.once("%s are not followed: Keelson must not read them (%s)", r.Resource, redact.Text(err.Error()))
			return nil, nil
		case err != nil:
			return nil, errors.Join(fmt.Errorf("list %s", r.Resource), err)
		}
		out = append(out, list.Items...)
		if o.Continue = list.GetContinue(); o.Continue == "" {
			return out, nil
		}
	}
}
