package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
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
an empty result, or a prune of more than half of an app. It sets the annotation ` + dialect.ConfirmAnnotation + `.
Where objects of an Application ask for a confirmation before they are deleted (Prune=confirm), that is what is confirmed, by the
annotation ` + argocdv1.DeletionApprovedAnnotation + `.`,
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
	app, err := findApp(ctx, c, g.namespace, opts.app)
	if err != nil {
		return err
	}
	if app.argo != nil && opts.revision == "" && asksToDelete(app.argo) {
		now := time.Now().UTC().Format(time.RFC3339)
		if err := annotate(ctx, c, app.argo, argocdv1.DeletionApprovedAnnotation, now); err != nil {
			return explainAPI(fmt.Errorf("confirm app %s: %w", app, err))
		}
		return g.print(map[string]string{"namespace": app.argo.Namespace, "name": app.argo.Name, "deletionApproved": now},
			printf("%s: what asks for a confirmation before it is deleted may be deleted", app))
	}
	if app.helm != nil {
		return withCode(exitUsage, fmt.Errorf("app %s is a HelmRelease: nothing of it is held back until somebody confirms it", app))
	}
	commit := opts.revision
	if commit == "" {
		commit = attemptedBy(app)
	}
	if r := delivery.ParseRevision(commit); r.Commit != "" {
		commit = r.Commit
	}
	switch {
	case commit == "":
		return hintf(errors.New("the app has not attempted any revision yet"), "name the commit with --revision")
	case !isCommit(commit):
		return usagef("--revision %s is no commit id: it takes seven to sixty-four hex digits", commit)
	}
	if err := annotate(ctx, c, app.object(), dialect.ConfirmAnnotation, commit); err != nil {
		return explainAPI(fmt.Errorf("confirm app %s: %w", app, err))
	}
	id := app.id()
	return g.print(map[string]string{"namespace": id.Namespace, "name": id.Name, "confirmed": commit},
		printf("%s: %s is confirmed", app, commit))
}

// asksToDelete tells whether objects of an Application wait for a person's word before they are deleted (Prune=confirm, Delete=confirm).
func asksToDelete(a *argocdv1.Application) bool {
	return slices.ContainsFunc(a.Status.Resources, func(r argocdv1.ResourceStatus) bool {
		return r.RequiresDeletionConfirmation && (r.RequiresPruning || a.DeletionTimestamp != nil)
	})
}

// attemptedBy is the revision that an app was last compared to.
func attemptedBy(app foundApp) string {
	if app.argo == nil {
		return app.flux.Status.LastAttemptedRevision
	}
	sync := app.argo.Status.Sync
	if len(sync.Revisions) > 0 {
		return sync.Revisions[0]
	}
	return sync.Revision
}

func isCommit(s string) bool {
	if len(s) < 7 || len(s) > 64 {
		return false
	}
	for _, r := range s {
		if (r < '0' || r > '9') && (r < 'a' || r > 'f') {
			return false
		}
	}
	return true
}
