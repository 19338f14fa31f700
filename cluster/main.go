// Command keelson-cluster runs a real Kubernetes control plane with simulated
// nodes on this machine, for development and tests. See docs/cluster.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/cluster/internal/controlplane"
	"keelson.dev/keelson/cluster/internal/kubeversion"
)

// version is set by the linker: -X main.version=... It is this program's own;
// those of the components come from go.mod.
var version = "devel"

func main() {
	// The components have flags of their own, so this comes before any parsing.
	if len(os.Args) > 2 && os.Args[1] == controlplane.ComponentVerb {
		os.Exit(controlplane.RunComponent(os.Args[2], os.Args[3:]))
	}
	controlplane.DropGlobalFlags()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	// Whoever started us may go and close the other end of our output.
	signal.Ignore(syscall.SIGPIPE)
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "keelson-cluster:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "keelson-cluster",
		Short:         "A Kubernetes control plane with simulated nodes, in one program",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(runCommand(), versionCommand())
	return root
}

func runCommand() *cobra.Command {
	var (
		options controlplane.Options
		verbose bool
	)
	run := &cobra.Command{
		Use:   "run --data DIR",
		Short: "Run the cluster until SIGTERM or SIGINT",
		Long: `Run starts etcd, kube-apiserver, kube-controller-manager, kube-scheduler and
KWOK, writes DIR/kubeconfig, and prints one line of JSON when the cluster is ready:
{"ready":true,"kubeconfig":"...","server":"https://127.0.0.1:..."}
It stays in the foreground; the data stays in DIR for the next run.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if options.Data == "" {
				return errors.New("run: --data is missing: name the directory of the cluster")
			}
			if options.Nodes < 0 || options.Nodes > 5000 {
				return fmt.Errorf("run: --nodes %d: must be 0 to 5000", options.Nodes)
			}
			if options.Port < 0 || options.Port > 65535 {
				return fmt.Errorf("run: --port %d: must be 0 to 65535", options.Port)
			}
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			return controlplane.Run(cmd.Context(), options, cmd.OutOrStdout(), log)
		},
	}
	flags := run.Flags()
	flags.StringVar(&options.Data, "data", "", "directory of the cluster, made if need be")
	flags.IntVar(&options.Nodes, "nodes", 1, "number of simulated nodes")
	flags.IntVar(&options.Port, "port", 0, "port of the API server on 127.0.0.1 (0: that of the last run, or any free one)")
	flags.BoolVar(&options.UnsafeNoFsync, "unsafe-no-fsync", false, "do not wait for the disk: faster, but a power failure may lose the cluster")
	flags.StringVar(&options.AuditLog, "audit-log", "", "write the API server's audit log (level Metadata) to this file")
	flags.BoolVar(&verbose, "verbose", false, "log each step of start and stop")
	return run
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the versions of the program and its components",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintln(cmd.OutOrStdout(), "keelson-cluster", version)
			fmt.Fprintln(cmd.OutOrStdout(), "kubernetes", kubeversion.Kubernetes())
			fmt.Fprintln(cmd.OutOrStdout(), "etcd", kubeversion.Of("go.etcd.io/etcd/server/v3"))
			fmt.Fprintln(cmd.OutOrStdout(), "kwok", kubeversion.Of("sigs.k8s.io/kwok"))
		},
	}
}
