package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/render"
	"keelson.dev/keelson/internal/source"
)

func engineCommands(g *global) []*cobra.Command { return []*cobra.Command{diffCommand(g)} }

func diffCommand(g *global) *cobra.Command {
	var path string
	var policy kube.Policy
	cmd := &cobra.Command{
		Use:   "diff APP | diff --path DIR",
		Short: "Show what delivering would change in the cluster",
		Long: `Diff renders an app at the newest commit of its source, or a folder on disk, and compares the objects with what is in the
cluster, as the API server itself would merge them. It changes nothing and needs no running controller. Values of Secrets are
masked. It ends with code 4 where something differs.`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			if (len(a) == 1) == (path != "") {
				return withCode(exitUsage, hintf(errors.New("name either an app or a folder"), "usage: %s", cmd.UseLine()))
			}
			if path != "" {
				return runDiffPath(cmd.Context(), g, path)
			}
			return runDiffApp(cmd.Context(), g, a[0], policy)
		},
	}
	cmd.Flags().StringVar(&path, "path", "", "compare this `folder` on disk instead of an app")
	addPolicyFlags(cmd, &policy)
	return cmd
}

// newEngine gives the engine as far as comparing needs it: without watches and without memory.
func newEngine(g *global) (*deliver.Engine, error) {
	config, err := g.restConfig()
	if err != nil {
		return nil, err
	}
	cluster, err := kube.NewCluster(config)
	if err != nil {
		return nil, err
	}
	return &deliver.Engine{Cluster: cluster, Label: dialect.FluxLabel, OwnerOf: dialect.FluxOwner}, nil
}

func runDiffPath(ctx context.Context, g *global, path string) error {
	objects, err := renderFolder(ctx, path)
	if err != nil {
		return err
	}
	engine, err := newEngine(g)
	if err != nil {
		return err
	}
	differences, err := engine.Diff(ctx, delivery.App{}, objects, nil)
	if err != nil {
		return explainAPI(err)
	}
	return printDifferences(g, differences)
}

func runDiffApp(ctx context.Context, g *global, arg string, policy kube.Policy) error {
	engine, err := newEngine(g)
	if err != nil {
		return err
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	k, err := findApp(ctx, c, g.namespace, arg)
	if err != nil {
		return err
	}
	app, err := dialect.Kustomization(k)
	if err != nil {
		return err
	}
	if len(app.Refused) > 0 {
		return fmt.Errorf("%s: not supported yet", strings.Join(app.Refused, ", "))
	}
	if app.KubeConfig != (delivery.KubeConfig{}) {
		if err := aimElsewhere(ctx, engine, c, app, policy); err != nil {
			return err
		}
	}
	objects, secrets, err := renderApp(ctx, c, k, app)
	if err != nil {
		return masked(secrets, err)
	}
	differences, err := engine.Diff(ctx, app, objects, dialect.KustomizationOwned(k))
	if err != nil {
		return masked(secrets, explainAPI(err))
	}
	for i := range differences {
		differences[i].Before, differences[i].After = secrets.Text(differences[i].Before), secrets.Text(differences[i].After)
	}
	return printDifferences(g, differences)
}

// aimElsewhere has an engine compare with the other cluster that an app is delivered to, once that answers.
func aimElsewhere(ctx context.Context, engine *deliver.Engine, c client.Client, app delivery.App, policy kube.Policy) error {
	remote, err := deliver.ReadRemote(ctx, c, app, policy)
	if err != nil {
		return explainAPI(err)
	}
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
			return hintf(fmt.Errorf("reach %s: %w", remote.Host, err), "the address is in %s of the app's namespace", app.KubeConfig)
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

// renderApp renders an app at the newest commit of its source, fetched into a directory of its own. The redactor, never nil,
// knows the values of Secrets that were substituted.
func renderApp(ctx context.Context, c client.Client, k *kustomizev1.Kustomization, app delivery.App) ([]delivery.Object, *redact.Redactor, error) {
	vars, secrets, err := deliver.ReadVariables(ctx, c, app)
	if err != nil {
		return nil, redact.New(), err
	}
	snap, closeSnapshot, err := fetchSource(ctx, c, k)
	if err != nil {
		return nil, secrets, err
	}
	defer closeSnapshot()
	app.Build.Substitute = app.VarsAlways || len(vars) > 0
	objects, err := render.Build(ctx, snap, app.Build, vars)
	return objects, secrets, err
}

// fetchSource gives the newest commit of an app's source. The caller closes it.
func fetchSource(ctx context.Context, c client.Client, k *kustomizev1.Kustomization) (snap delivery.Snapshot, done func(), err error) {
	repository, err := sourceOfApp(ctx, c, k)
	if err != nil {
		return snap, nil, err
	}
	src := dialect.GitRepository(repository)
	if len(src.Refused) > 0 {
		return snap, nil, fmt.Errorf("source %s: %s: not supported yet", src.ID, strings.Join(src.Refused, ", "))
	}
	if ref := repository.Spec.SecretRef; ref != nil {
		var secret corev1.Secret
		if err := c.Get(ctx, client.ObjectKey{Namespace: repository.Namespace, Name: ref.Name}, &secret); err != nil {
			return snap, nil, explainAPI(fmt.Errorf("read credentials of the source: %w", err))
		}
		if src.Credentials, err = dialect.Credentials(secret.Data); err != nil {
			return snap, nil, fmt.Errorf("read credentials of the source: %w", err)
		}
	}
	dir, err := os.MkdirTemp("", "keelson-diff-")
	if err != nil {
		return snap, nil, fmt.Errorf("make a directory for the source: %w", err)
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
	rev, err := fetcher.Resolve(ctx, src)
	if err == nil {
		snap, err = fetcher.Fetch(ctx, src, rev)
	}
	if err != nil {
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
		if d.Verb == delivery.Unchanged {
			continue
		}
		name := d.Ref.String()
		text := diff.Diff("cluster/"+name, []byte(d.Before), "git/"+name, []byte(d.After))
		list = append(list, difference{Object: name, Change: d.Verb, Diff: string(text)})
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

// errDiffers gives the exit code of a difference, which is no error to print.
var errDiffers = withCode(exitDiffers, errSilent)
