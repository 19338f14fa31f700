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
	"keelson.dev/keelson/internal/render"
	"keelson.dev/keelson/internal/source"
)

func engineCommands(g *global) []*cobra.Command { return []*cobra.Command{diffCommand(g)} }

func diffCommand(g *global) *cobra.Command {
	var path string
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
			return runDiffApp(cmd.Context(), g, a[0])
		},
	}
	cmd.Flags().StringVar(&path, "path", "", "compare this `folder` on disk instead of an app")
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
	return &deliver.Engine{Cluster: cluster, Label: dialect.FluxLabel}, nil
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

func runDiffApp(ctx context.Context, g *global, arg string) error {
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
	objects, err := renderApp(ctx, c, k, app)
	if err != nil {
		return err
	}
	differences, err := engine.Diff(ctx, app, objects, dialect.KustomizationInventory(&k.Status))
	if err != nil {
		return explainAPI(err)
	}
	return printDifferences(g, differences)
}

// renderApp renders an app at the newest commit of its source, fetched into a directory of its own.
func renderApp(ctx context.Context, c client.Client, k *kustomizev1.Kustomization, app delivery.App) ([]delivery.Object, error) {
	repository, err := sourceOfApp(ctx, c, k)
	if err != nil {
		return nil, err
	}
	src := dialect.GitRepository(repository)
	if ref := repository.Spec.SecretRef; ref != nil {
		var secret corev1.Secret
		if err := c.Get(ctx, client.ObjectKey{Namespace: repository.Namespace, Name: ref.Name}, &secret); err != nil {
			return nil, explainAPI(fmt.Errorf("read credentials of the source: %w", err))
		}
		if src.Credentials, err = dialect.Credentials(secret.Data); err != nil {
			return nil, fmt.Errorf("read credentials of the source: %w", err)
		}
	}
	dir, err := os.MkdirTemp("", "keelson-diff-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the source: %w", err)
	}
	defer os.RemoveAll(dir)
	fetcher, err := source.New(source.Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	defer fetcher.Close()
	rev, err := fetcher.Resolve(ctx, src)
	if err != nil {
		return nil, err
	}
	snap, err := fetcher.Fetch(ctx, src, rev)
	if err != nil {
		return nil, err
	}
	vars, err := deliver.Variables(ctx, c, app)
	if err != nil {
		return nil, err
	}
	app.Build.Substitute = app.VarsAlways || len(vars) > 0
	return render.Build(ctx, snap, app.Build, vars)
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
