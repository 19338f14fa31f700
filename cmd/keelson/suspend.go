package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/web"
)

func suspendCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "suspend APP", Short: "Leave an app as it is until it is resumed",
		Long: `Suspend leaves an app as it is until it is resumed. A Kustomization is neither compared nor repaired meanwhile. An Application
gets a hold, the annotation ` + argocdv1.HoldAnnotation + `: it is compared, but not synced unless somebody asks for that.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error { return runSuspend(cmd.Context(), g, a[0], true) },
	}
}

func resumeCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "resume APP", Short: "Reconcile a suspended app again, or lift the hold that a rollback has left",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error { return runSuspend(cmd.Context(), g, a[0], false) },
	}
}

func runSuspend(ctx context.Context, g *global, arg string, suspend bool) error {
	verb, result := "resume", "resumed"
	if suspend {
		verb, result = "suspend", "suspended"
	}
	if g.byServer() {
		return askServer(ctx, g, arg, verb, web.AskApp{})
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	app, err := findApp(ctx, c, g.namespace, arg)
	if err != nil {
		return err
	}
	already, err := setSuspended(ctx, c, app, suspend, "", time.Now())
	if already {
		return g.print(app.shown().Status, printf("%s is %s already", app, result))
	}
	if err != nil {
		return explainAPI(fmt.Errorf("%s app %s: %w", verb, app, err))
	}
	return g.print(app.shown().Status, printf("%s %s", app, result))
}

// setSuspended suspends an app or resumes it, for somebody, by a request of some time; nobody said, for whoever the cluster takes us for. already: it was so, and nothing was
// written.
func setSuspended(ctx context.Context, c client.Client, app foundApp, suspend bool, by string, at time.Time) (already bool, err error) {
	switch {
	case app.argo != nil:
		if (app.argo.Annotations[argocdv1.HoldAnnotation] != "") == suspend {
			return true, nil
		}
		return false, holdApplication(ctx, c, app.argo, suspend, by)
	case app.helm != nil:
		if app.helm.Spec.Suspend == suspend && (suspend || !heldRelease(app.helm)) {
			return true, nil
		}
		return false, holdRelease(ctx, c, app.helm, suspend, by, at)
	}
	if app.flux.Spec.Suspend == suspend {
		return true, nil
	}
	before := app.flux.DeepCopy()
	app.flux.Spec.Suspend = suspend
	return false, c.Patch(ctx, app.flux, client.MergeFrom(before))
}

// holdApplication sets a hold as it stands, or takes it away.
func holdApplication(ctx context.Context, c client.Client, a *argocdv1.Application, hold bool, by string) error {
	if !hold {
		return annotate(ctx, c, a, argocdv1.HoldAnnotation, "")
	}
	if by == "" {
		by = callerOf(ctx, c)
	}
	text, err := encodeHold(dialect.ArgoHold{By: by, Reason: "suspended", At: time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	return annotate(ctx, c, a, argocdv1.HoldAnnotation, text)
}

func encodeHold(hold dialect.ArgoHold) (string, error) {
	b, err := json.Marshal(hold)
	if err != nil {
		return "", fmt.Errorf("encode hold: %w", err)
	}
	return string(b), nil
}
