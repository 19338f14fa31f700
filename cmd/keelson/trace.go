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
and to the commit that is applied, with its author where the repository is on this machine. The namespace is that of -n, else
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
	Notes   []string              `json:"notes,omitempty"`
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
		t.Source = &tracedSource{Name: status.Source, Revision: status.Revision}
		return app, nil
	}
	k := app.flux
	if k.Spec.SourceRef.Kind != sourcev1.GitRepositoryKind && k.Spec.SourceRef.Kind != sourcev1.OCIRepositoryKind {
		t.Source = &tracedSource{Name: status.Source}
		return app, nil
	}
	src, err := sourceOfApp(ctx, c, k)
	if err != nil {
		t.Notes = append(t.Notes, err.Error())
		return app, nil //nolint:nilerr // what is known is told all the same
	}
	s := sourceOf(src)
	t.Source = &tracedSource{Name: status.Source, URL: s.URL, Ref: s.Ref, Revision: s.Revision}
	if rev := delivery.ParseRevision(status.Revision); !rev.Archive() {
		t.commit(g, src.GetNamespace(), partsOf(src).url, rev.Commit)
	}
	return app, nil
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
			t.commit(g, a.Namespace, s.RepoURL, commit)
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
func (t *traced) commit(g *global, namespace, url, id string) {
	if id == "" {
		return
	}
	info, err := readCommit(g, namespace, url, id)
	if err != nil {
		t.Notes = append(t.Notes, "commit "+id+": "+err.Error())
		return
	}
	t.Commit = &tracedCommit{
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
	sources := t.Sources
	if t.Source != nil {
		sources = append(sources, *t.Source)
	}
	for _, s := range sources {
		line("Source", "%s  %s", s.Name, strings.TrimSpace(s.URL+" "+s.Ref))
	}
	if t.App != nil && t.App.Revision != "" {
		line("Revision", "%s", t.App.Revision)
	}
	if c := t.Commit; c != nil {
		line("Commit", "%s  %s", c.When.Format(time.RFC3339), c.Subject)
		line("Author", "%s <%s>", c.Author, c.Email)
	}
	for _, n := range t.Notes {
		line("Note", "%s", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
