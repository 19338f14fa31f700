package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/live"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/render"
	"keelson.dev/keelson/internal/source"
)

func engineCommands(g *global) []*cobra.Command {
	return []*cobra.Command{diffCommand(g), planCommand(g), applyCommand(g), treeCommand(g), traceCommand(g)}
}

func diffCommand(g *global) *cobra.Command {
	var path string
	var flags policyFlags
	cmd := &cobra.Command{
		Use:   "diff APP | diff release NAME | diff --path DIR",
		Short: "Show what delivering would change in the cluster",
		Long: `Diff renders an app at the newest commit of its source, or a folder on disk, and compares the objects with what is in the
cluster, as the API server itself would merge them. It changes nothing and needs no running controller. Values of Secrets are
masked. It ends with code 4 where something differs.

Of a HelmRelease it renders what an upgrade would make now, of the newest version of its chart and the values as they are.`,
		Args: args(cobra.MaximumNArgs(2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			if len(a) == 2 && path == "" && (a[0] == "release" || a[0] == "helmrelease") {
				return runDiffRelease(cmd.Context(), g, a[1])
			}
			if (len(a) == 1) == (path != "") {
				return withCode(exitUsage, hintf(errors.New("name either an app or a folder"), "usage: %s", cmd.UseLine()))
			}
			if path != "" {
				return runDiffPath(cmd.Context(), g, path)
			}
			return runDiffApp(cmd.Context(), g, a[0], delivery.Policy{LenientSubstitution: !flags.strict, InsecureKubeConfigTLS: flags.insecureKubeConfigTLS})
		},
	}
	cmd.Flags().StringVar(&path, "path", "", "compare this `folder` on disk instead of an app")
	flags.bindStrict(cmd.Flags())
	flags.bindInsecure(cmd.Flags())
	return cmd
}

// newEngine gives the engine as far as comparing needs it: without watches and without memory.
func newEngine(ctx context.Context, g *global) (*deliver.Engine, error) {
	config, err := g.restConfig()
	if err != nil {
		return nil, err
	}
	cluster, err := kube.NewCluster(config)
	if err != nil {
		return nil, err
	}
	return comparing(ctx, cluster), nil
}

// comparing is newEngine on a cluster.
func comparing(ctx context.Context, cluster *kube.Cluster) *deliver.Engine {
	return &deliver.Engine{
		Cluster: cluster, Claims: deliver.NewClaims(), Label: dialect.FluxLabel, OwnerOf: dialect.FluxOwner,
		Live: live.New(ctx, cluster, live.Options{Selector: dialect.OwnerNameLabel, OwnerOf: dialect.FluxOwner}),
	}
}

func runDiffPath(ctx context.Context, g *global, path string) error {
	objects, err := renderFolder(ctx, path, "")
	if err != nil {
		return err
	}
	engine, err := newEngine(ctx, g)
	if err != nil {
		return err
	}
	differences, err := engine.Diff(ctx, objects)
	if err != nil {
		return explainAPI(err)
	}
	return printDifferences(g, differences)
}

func runDiffApp(ctx context.Context, g *global, arg string, policy delivery.Policy) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	if found, err := findApp(ctx, c, g.namespace, arg); err == nil && found.helm != nil {
		return runDiffRelease(ctx, g, arg)
	}
	p, err := previewApp(ctx, g, arg, policy)
	if err != nil {
		return err
	}
	return printDifferences(g, p.Differences)
}

// preview is what delivering an app would do now.
type preview struct {
	deliver.Preview
	app      string // "namespace/name"
	revision delivery.Revision
	applied  string   // the revision that is applied now, as far as known
	notes    []string // what else matters to people
}

// previewApp makes the preview of an app. No value of a Secret is in it.
func previewApp(ctx context.Context, g *global, arg string, policy delivery.Policy) (preview, error) {
	engine, err := newEngine(ctx, g)
	if err != nil {
		return preview{}, err
	}
	c, err := g.client()
	if err != nil {
		return preview{}, err
	}
	found, err := findApp(ctx, c, g.namespace, arg)
	if err != nil {
		return preview{}, err
	}
	return previewFound(ctx, engine, c, found, policy, "")
}

// previewFound makes the preview of an app that was read. commit, if it is not empty, takes the place of what the source of a Kustomization
// follows.
func previewFound(ctx context.Context, engine *deliver.Engine, c client.Client, found foundApp, policy delivery.Policy, commit string) (preview, error) {
	if found.argo != nil {
		return previewApplication(ctx, engine, c, found.argo, policy)
	}
	if found.helm != nil {
		return preview{}, withCode(exitUsage, hintf(fmt.Errorf("app %s is a HelmRelease: its objects are made by Helm", found),
			"keelson diff release %s tells what an upgrade would change", found.id().Name))
	}
	k := found.flux
	app, err := dialect.Kustomization(k)
	if err != nil {
		return preview{}, err
	}
	app = policy.Govern(app)
	if len(app.Refused) > 0 {
		return preview{}, fmt.Errorf("%s: not supported yet", strings.Join(app.Refused, ", "))
	}
	if app.KubeConfig != (delivery.KubeConfig{}) {
		if err := aimElsewhere(ctx, engine, c, app, kube.Policy{InsecureTLS: policy.InsecureKubeConfigTLS}); err != nil {
			return preview{}, err
		}
	} else if err := claimAll(ctx, c, engine.Claims); err != nil {
		return preview{}, err
	}
	objects, revision, secrets, err := renderApp(ctx, c, k, app, commit)
	if err != nil {
		return preview{}, masked(secrets, err)
	}
	p, err := engine.Preview(ctx, deliver.PreviewRequest{
		App: app, Objects: objects, Revision: revision, Applied: delivery.ParseRevision(k.Status.LastAppliedRevision),
		Inventory: dialect.KustomizationOwned(k), Now: time.Now(),
	})
	if err != nil {
		return preview{}, masked(secrets, explainAPI(err))
	}
	maskPreview(secrets, p)
	return preview{Preview: p, app: k.Namespace + "/" + k.Name, revision: revision, applied: k.Status.LastAppliedRevision, notes: notesOf(k)}, nil
}

// maskPreview takes the values that were substituted from Secrets out of a preview.
func maskPreview(secrets *redact.Redactor, p deliver.Preview) {
	for i := range p.Differences {
		d := &p.Differences[i]
		d.Before, d.After = secrets.Text(d.Before), secrets.Text(d.After)
	}
	for i, b := range p.Plan.Blocks {
		clean := *b.Fault
		clean.Err = errors.New(secrets.Text(b.Fault.Err.Error()))
		p.Plan.Blocks[i].Fault = &clean
	}
}

// claimAll takes in which app owns which object, from the inventories in the cluster.
func claimAll(ctx context.Context, c client.Client, claims *deliver.Claims) error {
	apps, err := allApps(ctx, c)
	if err != nil {
		return explainAPI(fmt.Errorf("read inventories: %w", err))
	}
	for _, app := range apps {
		if !app.elsewhere() { // else its objects are in another cluster
			claims.Set(app.id(), app.owned())
		}
	}
	return nil
}

// aimElsewhere has an engine compare with the other cluster that an app is delivered to, once that answers.
func aimElsewhere(ctx context.Context, engine *deliver.Engine, c client.Client, app delivery.App, policy kube.Policy) error {
	remote, err := deliver.ReadRemote(ctx, c, app, policy)
	if err != nil {
		return explainAPI(err)
	}
	return aimAt(ctx, engine, remote, fmt.Sprintf("the address is in %s of the app's namespace", app.KubeConfig))
}

// aimAt has an engine compare with another cluster, once that answers; hint says where its address is from.
func aimAt(ctx context.Context, engine *deliver.Engine, remote kube.Remote, hint string) error {
	news := make(chan struct{}, 1)
	cluster, err := remote.Connect(ctx, engine.Cluster, func() {
		select {
		case news <- struct{}{}:
		default: // it looks anyway
		}
	})
	if err != nil {
		return err
	}
	for {
		up, err := cluster.Reached()
		if err != nil {
			return hintf(fmt.Errorf("reach %s: %w", remote.Host, err), "%s", hint)
		}
		if up {
			engine.Cluster = cluster
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// masked gives an error whose text holds no value that was substituted from a Secret; its hints and exit code stay.
func masked(secrets *redact.Redactor, err error) error {
	text := err.Error()
	if clean := secrets.Text(text); clean != text {
		return &commandError{code: exitCode(err), hints: hintsOf(err), err: errors.New(clean)}
	}
	return err
}

// renderApp renders an app at the newest commit of its source, or at another one that is named, fetched into a directory of its own. The redactor, never nil,
// knows the values of Secrets that were substituted.
func renderApp(
	ctx context.Context, c client.Client, k *kustomizev1.Kustomization, app delivery.App, commit string,
) ([]delivery.Object, delivery.Revision, *redact.Redactor, error) {
	snap, closeSnapshot, err := fetchSource(ctx, c, k, commit)
	if err != nil {
		return nil, delivery.Revision{}, redact.New(), err
	}
	defer closeSnapshot()
	objects, secrets, err := renderSnapshot(ctx, c, snap, app)
	return objects, snap.Revision, secrets, err
}

// renderSnapshot renders an app with the variables that are in the cluster now.
func renderSnapshot(ctx context.Context, c client.Client, snap delivery.Snapshot, app delivery.App) ([]delivery.Object, *redact.Redactor, error) {
	vars, secrets, err := deliver.ReadVariables(ctx, c, app)
	if err != nil {
		return nil, redact.New(), err
	}
	app.Build.Substitute = app.VarsAlways || len(vars) > 0
	objects, err := render.Build(ctx, snap, app.Build, vars)
	return objects, secrets, err
}

// fetchSource gives the newest revision of an app's source, or another commit of it that is named. The caller closes it.
func fetchSource(ctx context.Context, c client.Client, k *kustomizev1.Kustomization, commit string) (snap delivery.Snapshot, done func(), err error) {
	repository, err := sourceOfApp(ctx, c, k)
	if err != nil {
		return snap, nil, err
	}
	if commit != "" {
		if repository, err = pinned(repository, commit); err != nil {
			return snap, nil, err
		}
	}
	src := declaredSource(repository)
	if len(src.Refused) > 0 {
		return snap, nil, fmt.Errorf("source %s: %s: not supported yet", src.ID, strings.Join(src.Refused, ", "))
	}
	if err := deliver.ReadSecrets(ctx, c, &src); err != nil {
		return snap, nil, fmt.Errorf("source %s: %w", src.ID, err)
	}
	return fetchOnce(func(f *source.Fetcher) (delivery.Snapshot, error) {
		return (&including{client: c, fetcher: f}).fetch(ctx, src, 0)
	})
}

// pinned gives a source that follows a commit, which is one of its branch if it names one.
func pinned(repository client.Object, commit string) (client.Object, error) {
	g, ok := repository.(*sourcev1.GitRepository)
	if !ok {
		return nil, fmt.Errorf("source %s/%s has no commits: only a GitRepository has", repository.GetNamespace(), repository.GetName())
	}
	g = g.DeepCopy()
	ref := &sourcev1.GitRepositoryRef{Commit: commit}
	if g.Spec.Reference != nil {
		ref.Branch = g.Spec.Reference.Branch
	}
	g.Spec.Reference = ref
	return g, nil
}

// fetchOnce fetches into a directory of its own, which goes when the caller is done with the snapshot.
func fetchOnce(fetch func(*source.Fetcher) (delivery.Snapshot, error)) (snap delivery.Snapshot, done func(), err error) {
	dir, err := os.MkdirTemp("", "keelson-sources-")
	if err != nil {
		return snap, nil, fmt.Errorf("make a directory for the sources: %w", err)
	}
	fetcher, err := source.New(source.Options{Dir: dir})
	if err != nil {
		os.RemoveAll(dir)
		return snap, nil, err
	}
	done = func() {
		_ = fetcher.Close() // it only read
		os.RemoveAll(dir)
	}
	if snap, err = fetch(fetcher); err != nil {
		done()
		return snap, nil, err
	}
	return snap, done, nil
}

// difference is one object's line of the JSON output.
type difference struct {
	Object string        `json:"object"`
	Change delivery.Verb `json:"change"`
	Diff   string        `json:"diff"`
}

// printDifferences prints a unified diff of every object that differs, and a last line that counts them.
func printDifferences(g *global, all []deliver.Difference) error {
	list := []difference{}
	for _, d := range all {
		if d.Verb == delivery.Unchanged || d.Verb == delivery.Delegated {
			continue
		}
		list = append(list, difference{Object: d.Ref.String(), Change: d.Verb, Diff: unified(d)})
	}
	err := g.print(list, func(w io.Writer) error {
		for _, d := range list {
			if _, err := io.WriteString(w, d.Diff); err != nil {
				return err
			}
		}
		_, err := fmt.Fprintf(w, "%d of %d objects differ\n", len(list), len(all))
		return err
	})
	if err != nil || len(list) == 0 {
		return err
	}
	return errDiffers
}

// unified is an object's difference as a unified diff.
func unified(d deliver.Difference) string {
	name := d.Ref.String()
	return string(diff.Diff("cluster/"+name, []byte(d.Before), "git/"+name, []byte(d.After)))
}

// errDiffers gives the exit code of a difference, which is no error to print.
var errDiffers = withCode(exitDiffers, errSilent)
