package main

import (
	"os"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/lua"
)

// luaChildCommand is this program as the child that runs health scripts: it speaks to its parent only, and has no settings.
func luaChildCommand() *cobra.Command {
	return &cobra.Command{
		Use:               lua.ChildCommand,
		Short:             "Run health scripts for another keelson process",
		Hidden:            true,
		Args:              args(cobra.NoArgs),
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		Run: func(*cobra.Command, []string) {
			os.Exit(lua.ServeChild(os.Stdin, os.Stdout))
		},
	}
}
