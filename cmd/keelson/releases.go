package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/release"
	"keelson.dev/keelson/internal/web"
)

// appOfHelm gives a HelmRelease as it is told to people and programs.
func appOfHelm(hr *helmv2.HelmRelease) web.App {
	s := &hr.Status
	app := web.App{Status: statusOf(helmv2.HelmReleaseKind, hr, hr.Spec.Suspend, s.ObservedGeneration, s.Conditions)}
	app.Revision = s.LastAttemptedRevision
	if latest := newestSnapshot(hr); latest != nil {
		app.Revision = latest.ChartVersion
	}
	if heldRelease(hr) {
		app.Revision = cmp.Or(release.HeldVersion(app.Message), app.Revision)
	}
	if s.Inventory != nil {
		app.Objects = len(s.Inventory.Entries)
	}
	kind, namespace, name := "", "", ""
	switch ref, chart := hr.Spec.ChartRef, hr.Spec.Chart; {
	case ref != nil:
		kind, namespace, name = ref.Kind, ref.Namespace, ref.Name
	case chart != nil:
		kind, namespace, name = chart.Spec.SourceRef.Kind, chart.Spec.SourceRef.Namespace, chart.Spec.SourceRef.Name
		app.Path = chart.Spec.Chart
	}
	app.Source = kind + "/" + cmp.Or(namespace, hr.Namespace) + "/" + name
	app.Wanted = s.LastAttemptedRevision
	return placed(app, hr, hr.Spec.TargetNamespace)
}

// newestSnapshot is what a HelmRelease's status remembers of the newest version of its release; nil: nothing.
func newestSnapshot(hr *helmv2.HelmRelease) *delivery.ReleaseSnapshot {
	record := dialect.HelmReleaseRecord(&hr.Status)
	return record.Latest()
}

func helmResult(obj client.Object, value string) (handled bool, status web.Status) {
	hr, ok := obj.(*helmv2.HelmRelease)
	if !ok {
		return false, web.Status{}
	}
	return hr.Status.LastHandledReconcileAt == value, appOfHelm(hr).Status
}

// reconcileRelease asks for a reconciliation of a HelmRelease and waits for what comes of it.
func reconcileRelease(ctx context.Context, c client.WithWatch, app foundApp, opts reconcileOptions) (web.Status, error) {
	if app.helm.Spec.Suspend {
		return web.Status{}, hintf(fmt.Errorf("app %s is suspended", app), "keelson resume %s", opts.app)
	}
	now := time.Now().Format(time.RFC3339Nano)
	if opts.withSource {
		sources, err := sourcesOfRelease(ctx, c, app.helm)
		if err != nil {
			return web.Status{}, err
		}
		for _, src := range sources {
			if _, err := requestAndWait(ctx, c, src, sourceListOf(src), request{fluxmeta.ReconcileRequestAnnotation, now, sourceResult}); err != nil {
				return web.Status{}, fmt.Errorf("reconcile source %s/%s: %w", src.GetNamespace(), src.GetName(), err)
			}
		}
	}
	status, err := requestAndWait(ctx, c, app.helm, &helmv2.HelmReleaseList{}, request{fluxmeta.ReconcileRequestAnnotation, now, helmResult})
	if err != nil {
		return status, fmt.Errorf("reconcile app %s: %w", app, err)
	}
	return status, nil
}

// sourcesOfRelease are the sources that the chart of a HelmRelease comes from, each to be asked before the next. Unlike flux it needs no HelmChart
// between a HelmRelease and its source.
func sourcesOfRelease(ctx context.Context, c client.Client, hr *helmv2.HelmRelease) ([]client.Object, error) {
	if ref := hr.Spec.ChartRef; ref != nil {
		sources, err := chartSource(ctx, c, ref.Kind, cmp.Or(ref.Namespace, hr.Namespace), ref.Name)
		if err != nil || ref.Kind != sourcev1.HelmChartKind {
			return sources, err
		}
		from := sources[0].(*sourcev1.HelmChart).Spec.SourceRef
		below, err := chartSource(ctx, c, from.Kind, sources[0].GetNamespace(), from.Name)
		return append(below, sources...), err
	}
	if hr.Spec.Chart == nil {
		return nil, fmt.Errorf("app %s/%s has neither spec.chart nor spec.chartRef", hr.Namespace, hr.Name)
	}
	ref := hr.Spec.Chart.Spec.SourceRef
	return chartSource(ctx, c, ref.Kind, cmp.Or(ref.Namespace, hr.Namespace), ref.Name)
}

// chartSource reads a source of charts that can be asked for what is new; none: there is nothing to ask.
func chartSource(ctx context.Context, c client.Client, kind, namespace, name string) ([]client.Object, error) {
	kinds := map[string]client.Object{
		sourcev1.HelmRepositoryKind: &sourcev1.HelmRepository{}, sourcev1.GitRepositoryKind: &sourcev1.GitRepository{},
		sourcev1.OCIRepositoryKind: &sourcev1.OCIRepository{}, sourcev1.HelmChartKind: &sourcev1.HelmChart{},
	}
	src := kinds[kind]
	if src == nil {
		return nil, fmt.Errorf("the chart comes from a %s, which cannot be asked", kind)
	}
	if err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, src); err != nil {
		return nil, explainAPI(fmt.Errorf("read source %s %s/%s: %w", kind, namespace, name, err))
	}
	if partsOf(src).suspended {
		return nil, fmt.Errorf("source %s %s/%s is suspended", kind, namespace, name)
	}
	if repo, ok := src.(*sourcev1.HelmRepository); ok && repo.Spec.Type == sourcev1.HelmRepositoryTypeOCI {
		return nil, nil // it has no index: the registry is asked when the HelmRelease is reconciled, or the HelmChart
	}
	return []client.Object{src}, nil
}

// heldRelease tells whether a release is left as a person has rolled it back.
func heldRelease(hr *helmv2.HelmRelease) bool {
	ready := meta.FindStatusCondition(hr.Status.Conditions, fluxmeta.ReadyCondition)
	return ready != nil && ready.Reason == release.ReasonHeld
}

// holdRelease suspends a HelmRelease, or resumes it. Where a person's rollback holds it, the release is asked to become what Git wants
// again, as "flux reconcile helmrelease --force" does.
func holdRelease(ctx context.Context, c client.Client, hr *helmv2.HelmRelease, suspend bool, by string, at time.Time) error {
	before := hr.DeepCopy()
	if held := heldRelease(hr); !suspend && held {
		now := at.Format(time.RFC3339Nano)
		if hr.Annotations == nil {
			hr.Annotations = map[string]string{}
		}
		hr.Annotations[fluxmeta.ReconcileRequestAnnotation], hr.Annotations[helmv2.ForceRequestAnnotation] = now, now
		if by != "" {
			hr.Annotations[dialect.RequestedByAnnotation] = now + " " + by
		}
	}
	hr.Spec.Suspend = suspend
	return c.Patch(ctx, hr, client.MergeFrom(before))
}

// undeclared is the state of a release that no HelmRelease declares.
const undeclared web.State = "Undeclared"

func releasesCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "releases", Aliases: []string{"release"}, Short: "List the Helm releases, declared or not",
		Long: `Releases lists the releases of Helm: those that a HelmRelease declares, and those that are in the cluster all the same, as helm install
makes them. What is told of a version is what Helm's storage, the Secrets of the cluster, says of the newest one.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runGetReleases(cmd.Context(), g) },
	}
}

// listedRelease is one line of keelson get releases.
type listedRelease struct {
	web.Status
	Release      string    `json:"release"`                // its name
	Storage      string    `json:"storageNamespace"`       // where Helm keeps it
	Chart        string    `json:"chart,omitempty"`        // its name
	ChartVersion string    `json:"chartVersion,omitempty"` // of the newest version
	AppVersion   string    `json:"appVersion,omitempty"`
	Version      int       `json:"version,omitempty"` // of the release: 1, 2, …; none: it was never released
	Deployed     string    `json:"status,omitempty"`  // Helm's: deployed, failed, …
	Updated      time.Time `json:"updated,omitzero"`  // when the newest version was made
}

func (r *listedRelease) take(s delivery.ReleaseSnapshot) {
	r.Chart, r.ChartVersion, r.AppVersion = s.ChartName, s.ChartVersion, s.AppVersion
	r.Version, r.Deployed, r.Updated = s.Version, s.Status, s.LastDeployed.UTC()
	r.Revision = s.ChartVersion
}

func (r listedRelease) cells(whole bool) []string {
	chart := strings.Trim(r.Chart+"-"+r.ChartVersion, "-")
	number := "-"
	if r.Version > 0 {
		number = strconv.Itoa(r.Version)
	}
	return []string{
		r.Namespace, r.Name, string(r.State), cmp.Or(chart, "-"), number, cmp.Or(r.Deployed, "-"), ageOf(r.Created), message(r.Status, whole),
		r.Storage + "/" + r.Release, cmp.Or(r.AppVersion, "-"), ageOf(r.Updated),
	}
}

func runGetReleases(ctx context.Context, g *global) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	releases, err := listReleases(ctx, g, c)
	if err != nil {
		return err
	}
	return g.print(map[string]any{"releases": releases}, func(w io.Writer) error {
		if len(releases) == 0 {
			return printf("no releases")(w)
		}
		t := newTable(w, g.output == "wide", "NAMESPACE", "NAME", "STATE", "CHART", "REVISION", "STATUS", "AGE", "MESSAGE", "|", "RELEASE", "APP VERSION", "UPDATED")
		for _, r := range releases {
			t.row(r.cells(t.wide)...)
		}
		return t.flush()
	})
}

// listReleases lists the releases that are declared, and those that Helm's storage has besides.
func listReleases(ctx context.Context, g *global, c client.Client) ([]listedRelease, error) {
	var declared helmv2.HelmReleaseList
	if err := c.List(ctx, &declared); err != nil && !isMissingKind(err) {
		return nil, explainAPI(fmt.Errorf("list HelmReleases: %w", err))
	}
	stored, err := readStorage(ctx, c, g.namespace)
	if apierrors.IsForbidden(err) {
		fmt.Fprintln(g.err, "warning: Secrets may not be listed: what is told is what HelmReleases say, and releases that nobody declares are not shown")
	} else if err != nil {
		return nil, explainAPI(err)
	}
	out := []listedRelease{}
	for i := range declared.Items {
		hr := &declared.Items[i]
		r := listedRelease{
			Status:  appOfHelm(hr).Status,
			Storage: cmp.Or(hr.Status.StorageNamespace, hr.GetStorageNamespace()), Release: hr.GetReleaseName(),
		}
		if app, err := dialect.HelmRelease(hr); err == nil {
			r.Release = app.Release.Name
		}
		latest := newestSnapshot(hr)
		if latest != nil {
			r.Release = latest.Name
			r.take(*latest)
		}
		at := place{r.Storage, r.Release}
		if newest, ok := stored[at]; ok && hr.Spec.KubeConfig == nil {
			delete(stored, at)
			if latest == nil || latest.Version != newest.Version || latest.Status != newest.Status {
				if err := r.read(ctx, c, newest); err != nil {
					return nil, err
				}
			}
		}
		if g.namespace == "" || g.namespace == hr.Namespace {
			out = append(out, r)
		}
	}
	for at, newest := range stored {
		if g.namespace != "" && g.namespace != at.namespace {
			continue
		}
		r := listedRelease{Status: web.Status{Kind: "Release", Namespace: at.namespace, Name: at.name, State: undeclared}, Storage: at.namespace, Release: at.name}
		if err := r.read(ctx, c, newest); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b listedRelease) int { return cmp.Or(byName(a.Status, b.Status), cmp.Compare(a.Kind, b.Kind)) })
	return out, nil
}

// place names a release in Helm's storage.
type place struct{ namespace, name string }

// storedVersion is the newest version of a release, as the metadata of its Secret tells it.
type storedVersion struct {
	release.Entry
	secret client.ObjectKey
}

// readStorage finds the newest version of each release in Helm's storage; empty namespace: in all. The releases themselves, which may be
// large, are not read. HelmReleases may keep theirs in other namespaces than their own, so all are looked through where that may be.
func readStorage(ctx context.Context, c client.Client, namespace string) (map[place]storedVersion, error) {
	list := func(opts ...client.ListOption) (*metav1.PartialObjectMetadataList, error) {
		secrets := &metav1.PartialObjectMetadataList{}
		secrets.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
		return secrets, c.List(ctx, secrets, append(opts, client.MatchingLabels(release.StorageLabels))...)
	}
	secrets, err := list()
	if apierrors.IsForbidden(err) && namespace != "" {
		secrets, err = list(client.InNamespace(namespace))
	}
	if err != nil {
		return nil, fmt.Errorf("list the Secrets of releases: %w", err)
	}
	newest := map[place]storedVersion{}
	for i := range secrets.Items {
		m := &secrets.Items[i]
		if e, ok := release.EntryOf(m); ok {
			at := place{m.Namespace, e.Name}
			if e.Version >= newest[at].Version {
				newest[at] = storedVersion{e, client.ObjectKeyFromObject(m)}
			}
		}
	}
	return newest, nil
}

// read takes in the newest version of a release.
func (r *listedRelease) read(ctx context.Context, c client.Client, newest storedVersion) error {
	r.Version, r.Deployed = newest.Version, newest.Status
	var secret corev1.Secret
	if err := c.Get(ctx, newest.secret, &secret); err != nil {
		if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
			return nil // what its labels tell is told
		}
		return explainAPI(fmt.Errorf("read release %s/%s: %w", r.Storage, r.Release, err))
	}
	stored, _, err := release.Stored(&secret)
	if err != nil {
		r.Message = cmp.Or(r.Message, err.Error())
		return nil
	}
	r.take(stored.ReleaseSnapshot)
	if r.State == undeclared {
		r.Created, r.Message = stored.FirstDeployed.UTC(), stored.Description
	}
	return nil
}
