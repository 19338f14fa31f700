package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

type confirmOptions struct {
	app      string
	revision string // a commit id; empty: the revision that was attempted last
}

func confirmCommand(g *global) *cobra.Command {
	var opts confirmOptions
	cmd := &cobra.Command{
		Use:   "confirm APP",
		Short: "Confirm that an app may be emptied, or pruned by more than its limit",
		Long: `Confirm lets through, for one revision only, what Keelson holds back so that nothing is destroyed by accident:
an empty result, or a prune of more than half of an app. It sets the annotation ` + dialect.ConfirmAnnotation + `.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			opts.app = a[0]
			return runConfirm(cmd.Context(), g, opts)
		},
	}
	cmd.Flags().StringVar(&opts.revision, "revision", "", "the `commit` to confirm (default: the one that was attempted last)")
	return cmd
}

func runConfirm(ctx context.Context, g *global, opts confirmOptions) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	k, err := findApp(ctx, c, g.namespace, opts.app)
	if err != nil {
		return err
	}
	commit := opts.revision
	if r := delivery.ParseRevision(commit); r.Commit != "" {
		commit = r.Commit
	}
	if commit == "" {
		commit = delivery.ParseRevision(k.Status.LastAttemptedRevision).Commit
	}
	switch {
	case commit == "":
		return hintf(errors.New("the app has not attempted any revision yet"), "name the commit with --revision")
	case !isCommit(commit):
		return usagef("--revision %s is no commit id: it takes seven to forty hex digits", commit)
	}
	if err := annotate(ctx, c, k, dialect.ConfirmAnnotation, commit); err != nil {
		return explainAPI(fmt.Errorf("confirm app %s/%s: %w", k.Namespace, k.Name, err))
	}
	return g.print(map[string]string{"namespace": k.Namespace, "name": k.Name, "confirmed": commit},
		printf("%s/%s: %s is confirmed", k.Namespace, k.Name, commit))
}

func isCommit(s string) bool {
	if len(s) < 7 || len(s) > 40 {
		return false
	}
	for _, r := range s {
		if (r < '0' || r > '9') && (r < 'a' || r > 'f') {
			return false
		}
	}
	return true
}
