package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func suspendCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "suspend APP", Short: "Leave an app as it is until it is resumed", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error { return runSuspend(cmd.Context(), g, a[0], true) },
	}
}

func resumeCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "resume APP", Short: "Reconcile a suspended app again", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error { return runSuspend(cmd.Context(), g, a[0], false) },
	}
}

func runSuspend(ctx context.Context, g *global, app string, suspend bool) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	k, err := findApp(ctx, c, g.namespace, app)
	if err != nil {
		return err
	}
	verb, result := "resume", "resumed"
	if suspend {
		verb, result = "suspend", "suspended"
	}
	if k.Spec.Suspend == suspend {
		return g.print(appOf(k).Status, printf("%s/%s is %s already", k.Namespace, k.Name, result))
	}
	before := k.DeepCopy()
	k.Spec.Suspend = suspend
	if err := c.Patch(ctx, k, client.MergeFrom(before)); err != nil {
		return explainAPI(fmt.Errorf("%s app %s/%s: %w", verb, k.Namespace, k.Name, err))
	}
	return g.print(appOf(k).Status, printf("%s/%s %s", k.Namespace, k.Name, result))
}
