package main

import (
	"os"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/pipeline/executor/shell"
)

// sandboxChildCommand is this program as the child that makes the sandboxes of shell jobs: it speaks to its parent only, and has no
// settings.
func sandboxChildCommand() *cobra.Command {
	return &cobra.Command{
		Use:               shell.ChildCommand,
		Short:             "Make the sandboxes of another keelson process's jobs",
		Hidden:            true,
		Args:              args(cobra.NoArgs),
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		Run: func(*cobra.Command, []string) {
			os.Exit(shell.ServeChild())
		},
	}
}
