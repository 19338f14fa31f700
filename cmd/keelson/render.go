package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/render"
)

type renderOptions struct {
	path        string
	ref         string // a commit of the repository around the folder or chart; empty: as on disk
	chart       chartOptions
	showSecrets bool
}

func renderCommand(g *global) *cobra.Command {
	var opts renderOptions
	cmd := &cobra.Command{
		Use:   "render --path DIR | render --chart CHART",
		Short: "Print the objects that a folder or a Helm chart wants",
		Long: `Render prints the objects that a folder of manifests wants, as Keelson would apply them: the folder's kustomization,
or else every manifest in it. What the folder refers to has to be in the same Git repository, or, outside of one, in the folder.

With --chart it renders a Helm chart as helm template does, without a cluster: a chart's folder or archive on disk, a chart in a
registry (oci://HOST/PATH/NAME), or with --repo one of a Helm repository. Values files are merged in their order, then what is set
by flags. Values of Secrets are masked without --show-secrets.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := opts.check(cmd.Flags()); err != nil {
				return withCode(exitUsage, hintf(err, "usage: %s", cmd.UseLine()))
			}
			return runRender(cmd.Context(), g, opts)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.path, "path", "", "the `folder` to render")
	f.StringVar(&opts.ref, "ref", "", "the folder, or the chart's folder, as it is in this `commit`, branch or tag of its Git repository (default: as on disk)")
	f.BoolVar(&opts.showSecrets, "show-secrets", false, "print the values of Secrets too")
	opts.chart.bind(f)
	return cmd
}

func (o renderOptions) check(given *pflag.FlagSet) error {
	switch {
	case o.path == "" && o.chart.chart == "":
		return errors.New("name a folder with --path, or a chart with --chart")
	case o.path != "" && o.chart.chart != "":
		return errors.New("--path and --chart exclude each other")
	case o.path != "":
		return onlyForCharts(given)
	}
	return o.chart.check(o.ref)
}

func runRender(ctx context.Context, g *global, opts renderOptions) error {
	var objects []delivery.Object
	var err error
	if opts.chart.chart != "" {
		objects, err = renderChart(ctx, g, opts.chart, opts.ref)
	} else {
		objects, err = renderFolder(ctx, opts.path, opts.ref)
	}
	if err != nil {
		return err
	}
	return printObjects(g, objects, opts.showSecrets)
}

// printObjects prints objects as YAML documents, or as a List in JSON.
func printObjects(g *global, objects []delivery.Object, showSecrets bool) error {
	list := make([]*unstructured.Unstructured, len(objects))
	for i, o := range objects {
		list[i] = o.Unstructured
		if !showSecrets {
			list[i] = redact.Secret(o.Unstructured)
		}
	}
	if g.output == "json" {
		return g.print(map[string]any{"apiVersion": "v1", "kind": "List", "items": list}, nil)
	}
	for i, u := range list {
		if i > 0 {
			if _, err := io.WriteString(g.out, "---\n"); err != nil {
				return err
			}
		}
		b, err := yaml.Marshal(u.Object)
		if err != nil {
			return fmt.Errorf("print %s: %w", delivery.RefOf(u), err)
		}
		if _, err := g.out.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// renderFolder renders a folder on disk, or as it is in a commit. It may refer to anything in the Git repository around it.
func renderFolder(ctx context.Context, dir, ref string) ([]delivery.Object, error) {
	root, folder, err := placeOf(dir)
	if err != nil {
		return nil, err
	}
	snap, done, err := snapshotOf(ctx, root, ref)
	if err != nil {
		return nil, err
	}
	defer done()
	objects, err := render.Build(ctx, snap, delivery.Build{Path: folder}, nil)
	if err != nil {
		return nil, fmt.Errorf("render %s: %w", dir, err)
	}
	return objects, nil
}

// snapshotOf is what is below a folder on disk, or in a commit of the repository that the folder is. The caller is done with it at the end.
func snapshotOf(ctx context.Context, root, ref string) (snap delivery.Snapshot, done func(), err error) {
	if ref == "" {
		return delivery.Snapshot{FS: os.DirFS(root)}, func() {}, nil
	}
	var a localApp
	if err := a.openCommit(ctx, root, ref); err != nil {
		return snap, nil, err
	}
	return a.snapshot, a.close, nil
}

// repositoryRoot is the folder above dir that holds ".git", or dir itself.
func repositoryRoot(dir string) string {
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, ".git")); err == nil {
			return at
		}
		if at == filepath.Dir(at) {
			return dir
		}
	}
}
