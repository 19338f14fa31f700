package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/live"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/render"
	"keelson.dev/keelson/internal/source"
)

// previewApplication makes the preview of an Application: of its objects, not of its hooks, which run again and again.
func previewApplication(ctx context.Context, engine *deliver.Engine, c client.Client, a *argocdv1.Application, policy delivery.Policy) (preview, error) {
	about, err := readArgo(ctx, c, a)
	if err != nil {
		return preview{}, err
	}
	of := dialect.Application(a, about)
	if why := of.Invalid(); why != "" {
		return preview{}, fmt.Errorf("app %s/%s: %s", a.Namespace, a.Name, why)
	}
	engine.Label, engine.OwnerOf, engine.Read = dialect.ArgoLabeler(about.Namespace), dialect.ArgoOwner, dialect.ArgoRead
	engine.Live = live.New(ctx, engine.Cluster, live.Options{Selector: dialect.ArgoNameLabel, OwnerOf: dialect.ArgoOwner, MarksOf: dialect.ArgoMarks})
	if to := of.Destination; to.Server != "" && to.Server != dialect.InCluster {
		remote, err := kube.RemoteFromArgo(to.Server, to.Config)
		if err != nil {
			return preview{}, fmt.Errorf("read Secret %s/%s: %w", about.Namespace, to.Secret, err)
		}
		if err := aimAt(ctx, engine, remote, "the address is in Secret "+about.Namespace+"/"+to.Secret); err != nil {
			return preview{}, err
		}
	} else if err := claimAll(ctx, c, engine.Claims); err != nil {
		return preview{}, err
	}
	snap, done, err := fetchOnce(func(f *source.Fetcher) (delivery.Snapshot, error) { return fetchParts(ctx, f, a, &of, about) })
	if err != nil {
		return preview{}, err
	}
	defer done()
	app := of.App
	app.Build.Strict = !policy.LenientSubstitution
	objects, err := render.Build(ctx, snap, app.Build, nil)
	if err != nil {
		return preview{}, err
	}
	p, err := engine.Preview(ctx, deliver.PreviewRequest{
		App: app, Objects: objects, Revision: snap.Revision, Applied: deployedCommit(a), Inventory: dialect.ArgoInventory(a), Now: time.Now(),
	})
	if err != nil {
		return preview{}, explainAPI(err)
	}
	out := preview{Preview: p, app: a.Namespace + "/" + a.Name, revision: snap.Revision, applied: deployedRevision(a)}
	switch {
	case a.Annotations[argocdv1.HoldAnnotation] != "":
		out.notes = append(out.notes, describeHold(dialect.ParseArgoHold(a.Annotations[argocdv1.HoldAnnotation])))
	case automatedOf(a) == nil:
		out.notes = append(out.notes, "the app is not synced by itself: keelson sync "+a.Name+" -n "+a.Namespace)
	}
	return out, nil
}

// deployedCommit is the commit that was deployed last, where the app has one source.
func deployedCommit(a *argocdv1.Application) delivery.Revision {
	if text := deployedRevision(a); isCommit(text) {
		return delivery.Revision{Commit: text}
	}
	return delivery.Revision{}
}

// argoProject finds an Application's project, nil if it is not declared, and the namespace of Argo CD: the usual one, else the app's
// own if its project is there.
func argoProject(ctx context.Context, c client.Reader, a *argocdv1.Application) (string, *argocdv1.AppProject, error) {
	name := cmp.Or(a.Spec.Project, dialect.DefaultProject)
	for _, namespace := range []string{dialect.ArgoNamespace, a.Namespace} {
		var project argocdv1.AppProject
		err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &project)
		if client.IgnoreNotFound(err) != nil {
			return "", nil, fmt.Errorf("read AppProject %s/%s: %w", namespace, name, err)
		}
		if err == nil {
			return namespace, &project, nil
		}
	}
	return dialect.ArgoNamespace, nil, nil
}

// readArgo reads what an Application's meaning depends on besides itself, from the namespace of Argo CD.
func readArgo(ctx context.Context, c client.Reader, a *argocdv1.Application) (dialect.Argo, error) {
	from, project, err := argoProject(ctx, c, a)
	if err != nil {
		return dialect.Argo{}, explainAPI(err)
	}
	var secrets corev1.SecretList
	if err := c.List(ctx, &secrets, client.InNamespace(from), client.HasLabels{argocdv1.SecretTypeLabel}); err != nil {
		return dialect.Argo{}, explainAPI(fmt.Errorf("read credentials: %w", err))
	}
	settings := map[string]map[string]string{}
	for _, name := range dialect.ArgoConfigMaps() {
		var m corev1.ConfigMap
		if err := client.IgnoreNotFound(c.Get(ctx, client.ObjectKey{Namespace: from, Name: name}, &m)); err != nil {
			return dialect.Argo{}, explainAPI(fmt.Errorf("read ConfigMap %s/%s: %w", from, name, err))
		}
		settings[name] = m.Data
	}
	about := dialect.ReadArgo(from, settings, secrets.Items)
	about.Project, about.Now = project, time.Now()
	return about, nil
}

// fetchParts gives what an Application is rendered from: the newest revision of its source, or of its sources together, with what
// their charts depend on. The build of the app learns the revisions.
func fetchParts(ctx context.Context, fetcher *source.Fetcher, a *argocdv1.Application, of *dialect.ArgoApp, about dialect.Argo) (snap delivery.Snapshot, err error) {
	fetched := make(map[delivery.ID]delivery.Snapshot, len(of.Sources))
	revisions := make([]delivery.Revision, len(of.Sources))
	for i, src := range of.Sources {
		if _, ok := fetched[src.ID]; !ok {
			rev, err := fetcher.Resolve(ctx, src)
			if err != nil {
				return snap, fmt.Errorf("source %w", delivery.Placed(redact.URL(src.URL), err))
			}
			if fetched[src.ID], err = fetcher.Fetch(ctx, src, rev); err != nil {
				return snap, fmt.Errorf("source %w", delivery.Placed(redact.URL(src.URL), err))
			}
		}
		snap = fetched[src.ID]
		revisions[i] = snap.Revision
	}
	if len(revisions) == 0 {
		return snap, errors.New("it has no source")
	}
	dialect.ArgoRevisionEnv(&of.App, revisions)
	if len(of.App.Mounts) > 0 {
		mounted := make([]source.Mounted, len(of.App.Mounts))
		for i, m := range of.App.Mounts {
			mounted[i] = source.Mounted{At: m.At, Snapshot: fetched[m.Source]}
		}
		if snap, err = source.Compose(mounted); err != nil {
			return snap, err
		}
		snap.Revision = revisions[0]
	}
	find := dialect.ArgoDependencies(a, about)
	for _, part := range of.App.Build.Parts {
		if part.Kustomize != nil || part.Directory != nil {
			continue
		}
		missing, err := source.Missing(snap, part.Root, part.Path)
		if err == nil && len(missing) > 0 {
			snap, err = fetcher.Dependencies(ctx, snap, part.Root, part.Path, find)
		}
		if err != nil {
			return snap, err
		}
	}
	return snap, nil
}
