package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/release"
	"keelson.dev/keelson/internal/source"
)

// runDiffRelease compares what an upgrade, or install, of a HelmRelease's release would make now with what is in the cluster.
func runDiffRelease(ctx context.Context, g *global, arg string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	found, err := findApp(ctx, c, g.namespace, arg)
	if err != nil {
		return err
	}
	if found.helm == nil {
		return withCode(exitUsage, hintf(fmt.Errorf("app %s is a %s", found, found.id().Kind), "keelson diff %s compares it", arg))
	}
	config, err := g.restConfig()
	if err != nil {
		return err
	}
	differences, err := diffRelease(ctx, config, c, found.helm)
	if err != nil {
		return err
	}
	return printDifferences(g, differences)
}

func diffRelease(ctx context.Context, config *rest.Config, c client.Client, hr *helmv2.HelmRelease) ([]deliver.Difference, error) {
	app, err := dialect.HelmRelease(hr)
	if err != nil {
		return nil, err
	}
	if len(app.Refused) > 0 {
		return nil, fmt.Errorf("%s: not supported yet", strings.Join(app.Refused, ", "))
	}
	app.ServiceAccount = "" // it is looked at as the caller
	data, secrets, err := deliver.ReadValues(ctx, c, app)
	if err != nil {
		return nil, explainAPI(err)
	}
	values, err := dialect.ReleaseValues(app.Release, data)
	if err != nil {
		return nil, err
	}
	rendered, err := renderRelease(ctx, config, c, app, values)
	if err != nil {
		return nil, masked(secrets, fmt.Errorf("render the release of %s/%s: %w", hr.Namespace, hr.Name, err))
	}
	cluster, err := kube.NewCluster(config)
	if err != nil {
		return nil, err
	}
	engine := comparing(ctx, cluster)
	all, err := engine.Diff(ctx, rendered.Will)
	if err != nil {
		return nil, masked(secrets, explainAPI(err))
	}
	gone, err := leaving(ctx, engine, rendered)
	if err != nil {
		return nil, explainAPI(err)
	}
	all = append(all, gone...)
	maskPreview(secrets, deliver.Preview{Differences: all})
	return all, nil
}

// leaving are the objects that an upgrade would delete.
func leaving(ctx context.Context, engine *deliver.Engine, r release.Rendered) ([]deliver.Difference, error) {
	var out []deliver.Difference
	for _, o := range r.Was {
		ref := o.Ref()
		if slices.ContainsFunc(r.Will, func(w delivery.Object) bool { return w.Ref() == ref }) {
			continue
		}
		have, err := engine.Cluster.Self().Read(ctx, ref, o.GroupVersionKind().Version)
		if err != nil {
			return nil, err
		}
		if have == nil || have.GetAnnotations()["helm.sh/resource-policy"] == "keep" {
			continue
		}
		have = redact.Secret(have)
		have.SetManagedFields(nil)
		unstructured.RemoveNestedField(have.Object, "status")
		text, err := yaml.Marshal(have.Object)
		if err != nil {
			return nil, fmt.Errorf("print %s: %w", ref, err)
		}
		out = append(out, deliver.Difference{Ref: ref, Verb: delivery.Delete, Before: string(text)})
	}
	return out, nil
}

// renderRelease renders a release with the newest version of its chart.
func renderRelease(ctx context.Context, config *rest.Config, c client.Client, app delivery.App, values map[string]any) (release.Rendered, error) {
	dir, err := os.MkdirTemp("", "keelson-sources-")
	if err != nil {
		return release.Rendered{}, fmt.Errorf("make a directory for the sources: %w", err)
	}
	defer os.RemoveAll(dir)
	fetcher, err := source.New(source.Options{Dir: dir})
	if err != nil {
		return release.Rendered{}, err
	}
	defer fetcher.Close()
	f := chartFinder{client: c, fetcher: fetcher}
	chart, err := f.chartOf(ctx, app)
	if err != nil {
		return release.Rendered{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	engine, err := releaseEngine(ctx, config, release.TargetOf(app).StorageNamespace)
	if err != nil {
		return release.Rendered{}, err
	}
	about, err := engine.Meta(chart)
	if err != nil {
		return release.Rendered{}, err
	}
	return engine.Render(ctx, release.Request{
		Want: release.Want{App: app, ChartName: about.Name, ChartVersion: about.Version}, Chart: chart, Values: values,
	})
}

// chartFinder brings the charts that HelmReleases name.
type chartFinder struct {
	client  client.Client
	fetcher *source.Fetcher
}

// chartOf gives the newest version of the chart that an app names.
func (f chartFinder) chartOf(ctx context.Context, app delivery.App) (release.Chart, error) {
	if t := app.Release.Chart; t != nil {
		generation, err := deliver.ChartGeneration(ctx, f.client, app.ID, *t, t.Wish())
		if err != nil {
			return release.Chart{}, explainAPI(err)
		}
		return f.ofTemplate(ctx, *t, generation)
	}
	key := client.ObjectKey{Namespace: app.Source.Namespace, Name: app.Source.Name}
	if app.Source.Kind == sourcev1.HelmChartKind {
		var obj sourcev1.HelmChart
		if err := f.client.Get(ctx, key, &obj); err != nil {
			return release.Chart{}, explainAPI(fmt.Errorf("read source %s: %w", app.Source, err))
		}
		return f.ofTemplate(ctx, dialect.HelmChart(&obj), obj.Generation)
	}
	var obj sourcev1.OCIRepository
	if err := f.client.Get(ctx, key, &obj); err != nil {
		return release.Chart{}, explainAPI(fmt.Errorf("read source %s: %w", app.Source, err))
	}
	snap, err := f.fetch(ctx, dialect.OCIRepository(&obj))
	if err != nil {
		return release.Chart{}, err
	}
	found, err := f.fetcher.Chart(snap, source.AnyFolder)
	if err != nil {
		return release.Chart{}, err
	}
	return described(found, nil, snap.Revision.Commit[:min(12, len(snap.Revision.Commit))])
}

// ofTemplate gives the chart that a template names: of a Helm repository, or in a folder of a Git repository with what it depends on.
func (f chartFinder) ofTemplate(ctx context.Context, t delivery.ChartTemplate, generation int64) (release.Chart, error) {
	if names := dialect.ChartRefused(t); len(names) > 0 {
		return release.Chart{}, fmt.Errorf("%s: not supported yet", strings.Join(names, ", "))
	}
	key := client.ObjectKey{Namespace: t.Source.Namespace, Name: t.Source.Name}
	var src delivery.Source
	folder, base := ".", ""
	if t.Source.Kind == sourcev1.HelmRepositoryKind {
		var repo sourcev1.HelmRepository
		if err := f.client.Get(ctx, key, &repo); err != nil {
			return release.Chart{}, explainAPI(fmt.Errorf("read source %s: %w", t.Source, err))
		}
		src = dialect.RepositoryChart(&repo, t, delivery.Revision{})
		src.IndexFixed = false // of a suspended repository, too: no controller's index is here
	} else {
		var repo sourcev1.GitRepository
		if err := f.client.Get(ctx, key, &repo); err != nil {
			return release.Chart{}, explainAPI(fmt.Errorf("read source %s: %w", t.Source, err))
		}
		src, folder, base = dialect.GitRepository(&repo), cmp.Or(t.Name, "."), "."
	}
	snap, err := f.fetch(ctx, src)
	if err != nil {
		return release.Chart{}, err
	}
	found, err := f.fetcher.Chart(snap, folder)
	if err != nil {
		return release.Chart{}, err
	}
	if found.Snapshot, err = f.complete(ctx, found, t.Source.Namespace); err != nil {
		return release.Chart{}, err
	}
	base = cmp.Or(base, found.Path)
	_, used, err := source.Values(snap, base, t.ValuesFiles, t.IgnoreMissingValues)
	if err != nil {
		return release.Chart{}, err
	}
	var metadata []string
	if t.EachRevision && t.Source.Kind == sourcev1.GitRepositoryKind {
		metadata = append(metadata, snap.Revision.Commit[:min(12, len(snap.Revision.Commit))])
	}
	if len(t.ValuesFiles) > 0 {
		metadata = append(metadata, strconv.FormatInt(generation, 10))
	}
	for i := range used {
		used[i] = path.Join(base, used[i])
	}
	return described(found, used, strings.Join(metadata, "."))
}

// described is a chart as a release is made from it; metadata is what its version is told with.
func described(found source.Chart, valuesFiles []string, metadata string) (release.Chart, error) {
	version, err := source.WithMetadata(found.Version, metadata)
	return release.Chart{
		Digest: found.Snapshot.Digest, Files: found.Snapshot.FS, Path: found.Path, Version: version, ValuesFiles: valuesFiles,
	}, err
}

// fetch gives the newest revision of a declared source.
func (f chartFinder) fetch(ctx context.Context, src delivery.Source) (delivery.Snapshot, error) {
	if len(src.Refused) > 0 {
		return delivery.Snapshot{}, fmt.Errorf("source %s: %s: not supported yet", src.ID, strings.Join(src.Refused, ", "))
	}
	if err := deliver.ReadSecrets(ctx, f.client, &src); err != nil {
		return delivery.Snapshot{}, fmt.Errorf("source %s: %w", src.ID, err)
	}
	return (&including{client: f.client, fetcher: f.fetcher}).fetch(ctx, src, 0)
}

// complete gives a chart's snapshot with the charts that it depends on. Those of other repositories are fetched without credentials, unless a
// HelmRepository of the namespace has the same address.
func (f chartFinder) complete(ctx context.Context, chart source.Chart, namespace string) (delivery.Snapshot, error) {
	missing, err := source.Missing(chart.Snapshot, ".", chart.Path)
	if err != nil || len(missing) == 0 {
		return chart.Snapshot, err
	}
	return f.fetcher.Dependencies(ctx, chart.Snapshot, ".", chart.Path, func(named string) (string, delivery.Credentials, error) {
		var list sourcev1.HelmRepositoryList
		if err := f.client.List(ctx, &list, client.InNamespace(namespace)); err != nil {
			return "", delivery.Credentials{}, fmt.Errorf("list HelmRepositories: %w", err)
		}
		for i := range list.Items {
			if strings.TrimRight(list.Items[i].Spec.URL, "/") != strings.TrimRight(named, "/") {
				continue
			}
			src := dialect.HelmRepository(&list.Items[i])
			src.Chart = named // whatever it is called: for the kind of Secret
			err := deliver.ReadSecrets(ctx, f.client, &src)
			return named, src.Credentials, err
		}
		return named, delivery.Credentials{}, nil
	})
}
