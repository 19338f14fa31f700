package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/source"
)

func traceCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "trace KIND/NAME",
		Short: "Tell where an object in the cluster comes from: owner, app, source, commit",
		Long: `Trace follows an object up to what it was made from (a Pod to its Deployment), to the app that manages that, to the app's source
and to the commit that is applied, with its author where the repository is on this machine. An object of a Helm release is followed twice: to
where its chart comes from, and to the Kustomization and the commit by which the HelmRelease is declared. The namespace is that of -n, else
"default". An object that no app manages is said to be so, with who wrote it last.`,
		Example: "  keelson trace deployment/web -n dev\n  keelson trace pod/web-5d9c7b-x2x -n dev",
		Args:    args(cobra.ExactArgs(1)),
		RunE:    func(cmd *cobra.Command, a []string) error { return runTrace(cmd.Context(), g, a[0]) },
	}
}

// traced is where an object comes from, as JSON.
type traced struct {
	Object  string                `json:"object"`
	Health  delivery.HealthStatus `json:"health,omitempty"` // none: Argo CD's rules give its kind none
	Message string                `json:"message,omitempty"`
	Owners  []string              `json:"owners,omitempty"` // from the nearest up
	Managed bool                  `json:"managed"`
	Writers []string              `json:"writers,omitempty"` // field managers, of an object that no app manages
	App     *tracedApp            `json:"app,omitempty"`
	Source  *tracedSource         `json:"source,omitempty"`
	Sources []tracedSource        `json:"sources,omitempty"` // where there are several
	Commit  *tracedCommit         `json:"commit,omitempty"`
	Chart   *tracedChart          `json:"chart,omitempty"`  // of a Helm release
	Origin  *tracedOrigin         `json:"origin,omitempty"` // what an OCI artifact says that it was made from
	// Declaration is where the app itself comes from, of a HelmRelease that a Kustomization applies.
	Declaration *tracedDeclaration `json:"declaration,omitempty"`
	Notes       []string           `json:"notes,omitempty"`
}

type tracedApp struct {
	Name       string `json:"name"` // "Kustomization/flux-system/dev"
	State      string `json:"state"`
	Path       string `json:"path,omitempty"`
	Revision   string `json:"revision,omitempty"`
	DeclaredBy string `json:"declaredBy,omitempty"` // the app that manages this one
}

type tracedSource struct {
	Name     string `json:"name"`
	URL      string `json:"url"`
	Ref      string `json:"ref,omitempty"`
	Revision string `json:"revision,omitempty"`
}

type tracedChart struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Digest  string `json:"digest,omitempty"` // of the OCI artifact that it came as
}

// tracedOrigin is what the annotations of an OCI artifact tell.
type tracedOrigin struct {
	Source   string `json:"source,omitempty"`   // org.opencontainers.image.source
	Revision string `json:"revision,omitempty"` // org.opencontainers.image.revision
}

type tracedDeclaration struct {
	App      string        `json:"app"` // "Kustomization/flux-system/apps"
	Path     string        `json:"path,omitempty"`
	Revision string        `json:"revision,omitempty"` // as it was applied last
	Source   *tracedSource `json:"source,omitempty"`
	Commit   *tracedCommit `json:"commit,omitempty"`
}

type tracedCommit struct {
	ID      string    `json:"id"`
	Author  string    `json:"author"`
	Email   string    `json:"email"`
	When    time.Time `json:"when"`
	Subject string    `json:"subject"`
}

func runTrace(ctx context.Context, g *global, arg string) error {
	kind, name, ok := strings.Cut(arg, "/")
	if !ok || kind == "" || name == "" || strings.Contains(name, "/") {
		return withCode(exitUsage, hintf(fmt.Errorf("%q names no object", arg), "name it as KIND/NAME, as deployment/web"))
	}
	c, cluster, err := g.connect()
	if err != nil {
		return err
	}
	u, err := findObject(ctx, cluster, kind, cmp.Or(g.namespace, metav1.NamespaceDefault), name)
	if err != nil {
		return explainAPI(err)
	}
	t, err := traceObject(ctx, g, c, cluster, u)
	if err != nil {
		return explainAPI(err)
	}
	return g.print(t, t.write)
}

// findObject finds an object by what people call its kind: "deploy", "Deployment", "deployments.apps".
func findObject(ctx context.Context, cluster *kube.Cluster, kind, namespace, name string) (*unstructured.Unstructured, error) {
	d, err := discovery.NewDiscoveryClientForConfigAndClient(cluster.Config(), cluster.HTTPClient())
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", kind, err)
	}
	cached := memory.NewMemCacheClient(d)
	mapper := restmapper.NewShortcutExpander(restmapper.NewDeferredDiscoveryRESTMapper(cached), cached, nil)
	gvk, err := kindOf(mapper, kind)
	if err != nil {
		return nil, err
	}
	resource, err := cluster.Self().Resource(gvk, namespace)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", kind, err)
	}
	u, err := resource.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, hintf(fmt.Errorf("there is no %s %s in the namespace %s", gvk.Kind, name, namespace), "-n names another namespace")
	}
	if err != nil {
		return nil, fmt.Errorf("read %s/%s: %w", kind, name, err)
	}
	return u, nil
}

func kindOf(mapper meta.RESTMapper, kind string) (schema.GroupVersionKind, error) {
	resource, group := schema.ParseResourceArg(strings.ToLower(kind))
	if resource != nil {
		if gvk, err := mapper.KindFor(*resource); err == nil {
			return gvk, nil
		}
	}
	gvk, err := mapper.KindFor(group.WithVersion(""))
	if meta.IsNoMatchError(err) {
		return gvk, hintf(fmt.Errorf("the cluster has no kind %s", kind), "kubectl api-resources lists them")
	}
	if err != nil {
		return gvk, fmt.Errorf("look up %s: %w", kind, err)
	}
	return gvk, nil
}

// maxOwners bounds a chain of owners, which could go round in circles.
const maxOwners = 16

func traceObject(ctx context.Context, g *global, c client.Client, cluster *kube.Cluster, u *unstructured.Unstructured) (*traced, error) {
	t := &traced{Object: delivery.RefOf(u).String()}
	top := u
	for range maxOwners {
		if owner := appThatOwns(top); owner != (delivery.ID{}) {
			break
		}
		ref := ownerOf(top)
		if ref == nil {
			break
		}
		gv, err := schema.ParseGroupVersion(ref.APIVersion)
		if err != nil {
			return nil, fmt.Errorf("read owner of %s: %w", delivery.RefOf(top), err)
		}
		up := delivery.Ref{Group: gv.Group, Kind: ref.Kind, Namespace: top.GetNamespace(), Name: ref.Name}
		above, err := cluster.Self().Read(ctx, up, gv.Version)
		if err != nil {
			return nil, err
		}
		if above == nil || above.GetUID() != ref.UID {
			t.Notes = append(t.Notes, "its owner "+up.String()+" is gone")
			break
		}
		t.Owners = append(t.Owners, delivery.RefOf(above).String())
		top = above
	}
	app, err := t.follow(ctx, g, c, top)
	if err != nil {
		return nil, err
	}
	doing := newJudges(c)
	defer doing.close()
	rules, err := doing.of(ctx, app)
	if err != nil {
		return nil, err
	}
	h := judge(rules, u)
	t.Health, t.Message = h.Status, redact.Text(h.Message)
	return t, nil
}

// appThatOwns reads from its labels which app manages an object.
func appThatOwns(u *unstructured.Unstructured) delivery.ID {
	labels := u.GetLabels()
	return cmp.Or(dialect.FluxOwner(labels), dialect.ArgoOwner(labels), dialect.HelmOwner(labels), dialect.LocalOwner(labels))
}

// follow goes from an object to its app, source and commit. It gives the app where that is in the cluster.
func (t *traced) follow(ctx context.Context, g *global, c client.Client, u *unstructured.Unstructured) (foundApp, error) {
	id := appThatOwns(u)
	switch id.Kind {
	case "":
		for _, m := range u.GetManagedFields() {
			if m.Subresource == "" {
				t.Writers = append(t.Writers, m.Manager)
			}
		}
		return foundApp{}, nil
	case dialect.LocalKind:
		return foundApp{}, t.local(ctx, c, id, u)
	}
	app, err := readApp(ctx, c, refOfApp(id))
	if apierrors.IsNotFound(err) {
		t.Notes = append(t.Notes, "its labels name "+id.String()+", which does not exist (any more)")
		return foundApp{}, nil
	}
	if err != nil {
		return foundApp{}, fmt.Errorf("read %s: %w", id, err)
	}
	status := app.shown()
	t.Managed = true
	t.App = &tracedApp{Name: id.String(), State: string(status.State), Path: status.Path, Revision: status.Revision}
	labels := app.object().GetLabels()
	if above := cmp.Or(dialect.FluxOwner(labels), dialect.ArgoOwner(labels)); above != (delivery.ID{}) && above != id {
		t.App.DeclaredBy = above.String()
	}
	if _, ok := app.owned()[delivery.RefOf(u)]; app.elsewhere() {
		t.Managed = false
		t.Notes = append(t.Notes, "the app delivers to another cluster: this object only has its labels")
	} else if !ok {
		t.Notes = append(t.Notes, "the app's inventory does not list it: it was let go of, or copied with its labels")
	}
	if app.argo != nil {
		t.sourcesOf(g, app.argo)
		return app, nil
	}
	if app.helm != nil {
		t.release(ctx, g, c, app.helm)
		t.declaration(ctx, g, c, app.helm)
		return app, nil
	}
	t.Source, t.Commit = t.kustomization(ctx, g, c, app.flux)
	return app, nil
}

// kustomization tells where a Kustomization's manifests come from, as they were applied last. What cannot be read is noted.
func (t *traced) kustomization(ctx context.Context, g *global, c client.Client, k *kustomizev1.Kustomization) (*tracedSource, *tracedCommit) {
	status := appOf(k)
	if k.Spec.SourceRef.Kind != sourcev1.GitRepositoryKind && k.Spec.SourceRef.Kind != sourcev1.OCIRepositoryKind {
		return &tracedSource{Name: status.Source}, nil
	}
	src, err := sourceOfApp(ctx, c, k)
	if err != nil {
		t.Notes = append(t.Notes, err.Error())
		return nil, nil
	}
	s := sourceOf(src)
	from := &tracedSource{Name: status.Source, URL: s.URL, Ref: s.Ref, Revision: s.Revision}
	if rev := delivery.ParseRevision(status.Revision); !rev.Archive() {
		return from, t.commit(g, src.GetNamespace(), partsOf(src).url, rev.Commit)
	}
	return from, nil
}

// release tells where the chart of a HelmRelease comes from.
func (t *traced) release(ctx context.Context, g *global, c client.Client, hr *helmv2.HelmRelease) {
	status := appOfHelm(hr)
	t.Source = &tracedSource{Name: status.Source, Revision: status.Revision}
	version := status.Revision
	if last := newestSnapshot(hr); last != nil {
		t.Chart = &tracedChart{Name: last.ChartName, Version: last.ChartVersion, Digest: last.OCIDigest}
		version = last.ChartVersion
	}
	kind, key := chartSourceOf(hr)
	if kind == sourcev1.HelmChartKind {
		var chart sourcev1.HelmChart
		if err := c.Get(ctx, key, &chart); err != nil {
			t.Notes = append(t.Notes, explainAPI(fmt.Errorf("read HelmChart %s: %w", key, err)).Error())
			return
		}
		t.App.Path, kind, key = chart.Spec.Chart, chart.Spec.SourceRef.Kind, client.ObjectKey{Namespace: key.Namespace, Name: chart.Spec.SourceRef.Name}
		t.Source.Name += " of " + kind + "/" + key.String()
	}
	src := emptySource(kind)
	if src == nil {
		return
	}
	if err := c.Get(ctx, key, src); err != nil {
		t.Notes = append(t.Notes, explainAPI(fmt.Errorf("read %s %s: %w", kind, key, err)).Error())
		return
	}
	parts := partsOf(src)
	t.Source.URL, t.Source.Ref = redact.URL(parts.url), parts.ref
	if parts.artifact == nil || kind == sourcev1.HelmRepositoryKind { // whose artifact is its index
		return
	}
	t.Source.Revision = parts.artifact.Revision
	rev := delivery.ParseRevision(parts.artifact.Revision)
	if kind == sourcev1.OCIRepositoryKind {
		t.origin(g, src.GetNamespace(), parts.artifact.Metadata)
		return
	}
	id := rev.Commit
	if _, made, ok := strings.Cut(version, "+"); ok { // reconcileStrategy: Revision
		if made, _, _ = strings.Cut(made, "."); len(made) == shortCommit && !strings.HasPrefix(id, made) {
			t.Notes = append(t.Notes, "the release is of commit "+made+"; its source has moved on")
			return
		}
	}
	t.Commit = t.commit(g, src.GetNamespace(), parts.url, id)
}

// shortCommit is how many digits of a commit Flux writes into a chart's version.
const shortCommit = 12

// chartSourceOf is what a HelmRelease takes its chart from.
func chartSourceOf(hr *helmv2.HelmRelease) (kind string, key client.ObjectKey) {
	switch ref, chart := hr.Spec.ChartRef, hr.Spec.Chart; {
	case ref != nil:
		return ref.Kind, client.ObjectKey{Namespace: cmp.Or(ref.Namespace, hr.Namespace), Name: ref.Name}
	case chart != nil:
		from := chart.Spec.SourceRef
		return from.Kind, client.ObjectKey{Namespace: cmp.Or(from.Namespace, hr.Namespace), Name: from.Name}
	}
	return "", client.ObjectKey{}
}

// emptySource gives an object of a kind that charts come from; nil: none do.
func emptySource(kind string) client.Object {
	switch kind {
	case sourcev1.GitRepositoryKind:
		return &sourcev1.GitRepository{}
	case sourcev1.HelmRepositoryKind:
		return &sourcev1.HelmRepository{}
	case sourcev1.OCIRepositoryKind:
		return &sourcev1.OCIRepository{}
	}
	return nil
}

// origin tells what an OCI artifact says that it was made from, down to the commit where that is on this machine.
func (t *traced) origin(g *global, namespace string, metadata map[string]string) {
	o := tracedOrigin{
		Source: redact.URL(metadata["org.opencontainers.image.source"]), Revision: redact.Text(metadata["org.opencontainers.image.revision"]),
	}
	if o == (tracedOrigin{}) {
		return
	}
	t.Origin = &o
	if id := cmp.Or(delivery.ParseRevision(o.Revision).Commit, o.Revision); o.Source != "" && isCommit(id) {
		t.Commit = t.commit(g, namespace, metadata["org.opencontainers.image.source"], id)
	}
}

// declaration tells where a HelmRelease itself comes from that a Kustomization applies: by which commit it is as it is.
func (t *traced) declaration(ctx context.Context, g *global, c client.Client, hr *helmv2.HelmRelease) {
	id := dialect.FluxOwner(hr.Labels)
	if id.Kind != kustomizev1.KustomizationKind {
		return
	}
	var k kustomizev1.Kustomization
	if err := c.Get(ctx, client.ObjectKey{Namespace: id.Namespace, Name: id.Name}, &k); err != nil {
		t.Notes = append(t.Notes, explainAPI(fmt.Errorf("read %s, which its HelmRelease is of: %w", id, err)).Error())
		return
	}
	status := appOf(&k)
	t.Declaration = &tracedDeclaration{App: id.String(), Path: status.Path, Revision: status.Revision}
	t.Declaration.Source, t.Declaration.Commit = t.kustomization(ctx, g, c, &k)
}

// sourcesOf tells where an Application's manifests come from: those of its last deployment.
func (t *traced) sourcesOf(g *global, a *argocdv1.Application) {
	sources, revisions := sourcesOf(&a.Spec), []string{}
	if n := len(a.Status.History); n > 0 {
		last := a.Status.History[n-1]
		sources = sourcesOf(&argocdv1.ApplicationSpec{Source: last.Source, Sources: last.Sources})
		if revisions = last.Revisions; len(revisions) == 0 {
			revisions = []string{last.Revision}
		}
	}
	for i, s := range sources {
		from := tracedSource{Name: cmp.Or(s.Name, s.Ref, s.Chart, s.Path), URL: redact.URL(s.RepoURL), Ref: s.TargetRevision}
		if i < len(revisions) {
			from.Revision = revisions[i]
		}
		t.Sources = append(t.Sources, from)
		if commit := cmp.Or(delivery.ParseRevision(from.Revision).Commit, from.Revision); s.Chart == "" && t.Commit == nil && isCommit(commit) {
			t.Commit = t.commit(g, a.Namespace, s.RepoURL, commit)
		}
	}
	if len(t.Sources) == 1 {
		t.Source, t.Sources = &t.Sources[0], nil
	}
}

// refOfApp is the object that declares an app.
func refOfApp(id delivery.ID) delivery.Ref {
	group := kustomizev1.GroupVersion.Group
	switch id.Kind {
	case argocdv1.ApplicationKind:
		group = argocdv1.GroupVersion.Group
	case helmv2.HelmReleaseKind:
		group = helmv2.GroupVersion.Group
	}
	return delivery.Ref{Group: group, Kind: id.Kind, Namespace: id.Namespace, Name: id.Name}
}

// local tells about an object that keelson apply has applied.
func (t *traced) local(ctx context.Context, c client.Client, id delivery.ID, u *unstructured.Unstructured) error {
	_, known, err := openLocalInventory(ctx, c, id)
	if err != nil {
		return err
	}
	if _, ok := known.Inventory[delivery.RefOf(u)]; !ok {
		t.Notes = append(t.Notes, "its labels name "+id.String()+", whose inventory does not list it")
		return nil
	}
	t.Managed = true
	t.App = &tracedApp{Name: id.String(), State: known.State, Revision: known.Revision}
	t.Notes = append(t.Notes, "keelson apply has applied it: no controller looks after it")
	return nil
}

// commit reads a commit of a repository that is on this machine: one of the built-in host, or the controllers' mirror of another.
// nil: it is noted why there is none.
func (t *traced) commit(g *global, namespace, url, id string) *tracedCommit {
	if id == "" {
		return nil
	}
	info, err := readCommit(g, namespace, url, id)
	if err != nil {
		t.Notes = append(t.Notes, "commit "+id+": "+err.Error())
		return nil
	}
	return &tracedCommit{
		ID: id, Author: redact.Text(info.Author.Name), Email: info.Author.Email, When: info.Author.When.UTC(), Subject: redact.Text(info.Subject()),
	}
}

func readCommit(g *global, namespace, url, id string) (git.CommitInfo, error) {
	dirs := source.MirrorDirs(filepath.Join(g.data, serverDir, mirrorDir), namespace, url)
	if inst, err := readInstance(g.data); err == nil {
		if name, ok := cutBase(url, inst.git(false)); ok {
			dir, ok := hostedDir(filepath.Join(g.data, gitDir), name)
			if !ok {
				return git.CommitInfo{}, errors.New("its URL names no repository of the built-in host")
			}
			dirs = []string{dir}
		}
	}
	failed := errors.New("its repository is not on this machine")
	for _, dir := range dirs {
		repo, err := git.Open(dir, git.Options{})
		if err != nil {
			continue
		}
		info, err := repo.Info(id)
		repo.Close()
		if failed = err; err == nil {
			return info, nil
		}
	}
	return git.CommitInfo{}, failed
}

// hostedDir is the folder of a repository of the built-in host, by what follows the host's base in its URL. False: no
// repository there can have that name, which comes from the cluster and could lead anywhere.
func hostedDir(root, name string) (string, bool) {
	name = strings.TrimSuffix(strings.Trim(name, "/"), ".git")
	if githost.CheckName(name) != nil {
		return "", false
	}
	return filepath.Join(root, filepath.FromSlash(name)+".git"), true
}

// write prints what is known, from the object down to the commit.
func (t *traced) write(w io.Writer) error {
	var b strings.Builder
	line := func(name, format string, a ...any) {
		fmt.Fprintf(&b, "%-12s %s\n", name+":", fmt.Sprintf(format, a...))
	}
	line("Object", "%s  %s", t.Object, cmp.Or(string(t.Health), "no health"))
	if t.Message != "" {
		line("", "%s", t.Message)
	}
	for _, o := range t.Owners {
		line("Made from", "%s", o)
	}
	if a := t.App; a != nil {
		line("App", "%s  %s", a.Name, a.State)
		if a.DeclaredBy != "" {
			line("Declared by", "%s", a.DeclaredBy)
		}
		if a.Path != "" {
			line("Path", "%s", a.Path)
		}
	} else {
		line("App", "none: no app manages it")
		if len(t.Writers) > 0 {
			line("Written by", "%s", strings.Join(t.Writers, ", "))
		}
	}
	t.from(line)
	for _, n := range t.Notes {
		line("Note", "%s", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// from prints where the app's content comes from, and where the app itself does.
func (t *traced) from(line func(name, format string, a ...any)) {
	if c := t.Chart; c != nil {
		line("Chart", "%s", strings.TrimSpace(c.Name+" "+c.Version+"  "+c.Digest))
	}
	sources := t.Sources
	if t.Source != nil {
		sources = append(sources, *t.Source)
	}
	for _, s := range sources {
		line("Source", "%s  %s", s.Name, strings.TrimSpace(s.URL+" "+s.Ref))
	}
	switch {
	case t.Chart != nil && t.Source != nil && t.Source.Revision != "":
		line("Revision", "%s", t.Source.Revision)
	case t.App != nil && t.App.Revision != "":
		line("Revision", "%s", t.App.Revision)
	}
	if o := t.Origin; o != nil {
		line("Made of", "%s", strings.TrimSpace(o.Source+"  "+o.Revision))
	}
	author := func(c *tracedCommit) {
		if c != nil {
			line("Commit", "%s  %s", c.When.Format(time.RFC3339), c.Subject)
			line("Author", "%s <%s>", c.Author, c.Email)
		}
	}
	author(t.Commit)
	d := t.Declaration
	if d == nil {
		return
	}
	line("Declared in", "%s  %s", d.App, d.Path)
	if s := d.Source; s != nil {
		line("Source", "%s  %s", s.Name, strings.TrimSpace(s.URL+" "+s.Ref))
	}
	if d.Revision != "" {
		line("Revision", "%s", d.Revision)
	}
	author(d.Commit)
}
