package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/render"
)

type renderOptions struct {
	path        string
	showSecrets bool
}

func renderCommand(g *global) *cobra.Command {
	var opts renderOptions
	cmd := &cobra.Command{
		Use:   "render --path DIR",
		Short: "Print the objects that a folder wants",
		Long: `Render prints the objects that a folder of manifests wants, as Keelson would apply them: the folder's kustomization,
or else every manifest in it. What the folder refers to has to be in the same Git repository, or, outside of one, in the folder.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.path == "" {
				return withCode(exitUsage, hintf(fmt.Errorf("--path is missing"), "usage: %s", cmd.UseLine()))
			}
			return runRender(cmd.Context(), g, opts)
		},
	}
	cmd.Flags().StringVar(&opts.path, "path", "", "the `folder` to render")
	cmd.Flags().BoolVar(&opts.showSecrets, "show-secrets", false, "print the values of Secrets too")
	return cmd
}

func runRender(ctx context.Context, g *global, opts renderOptions) error {
	objects, err := renderFolder(ctx, opts.path)
	if err != nil {
		return err
	}
	list := make([]*unstructured.Unstructured, len(objects))
	for i, o := range objects {
		list[i] = o.Unstructured
		if !opts.showSecrets {
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

// renderFolder renders a folder on disk. It may refer to anything in the Git repository around it.
func renderFolder(ctx context.Context, dir string) ([]delivery.Object, error) {
	root, folder, err := placeOf(dir)
	if err != nil {
		return nil, err
	}
	snap := delivery.Snapshot{FS: os.DirFS(root)}
	objects, err := render.Build(ctx, snap, delivery.Build{Path: folder}, nil)
	if err != nil {
		return nil, fmt.Errorf("render %s: %w", dir, err)
	}
	return objects, nil
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
