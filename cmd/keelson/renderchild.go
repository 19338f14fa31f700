package main

import (
	"os"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/render"
)

// renderChildCommand is this program as the child of a render: it speaks to its parent only, and has no settings.
func renderChildCommand() *cobra.Command {
	return &cobra.Command{
		Use:               render.ChildCommand,
		Short:             "Run one build for another keelson process",
		Hidden:            true,
		Args:              args(cobra.NoArgs),
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		Run: func(*cobra.Command, []string) {
			os.Exit(render.ServeChild(os.Stdin, os.Stdout))
		},
	}
}
