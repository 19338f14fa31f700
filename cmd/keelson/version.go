package main

import (
	"runtime"

	"github.com/spf13/cobra"
)

// version is set when linking, from git describe.
var version = "devel"

func versionCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return g.print(map[string]string{"version": version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH},
				printf("keelson %s", version))
		},
	}
}
