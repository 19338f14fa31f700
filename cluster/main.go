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
	"slices"
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
		check   bool
		kind    string
	)
	run := &cobra.Command{
		Use:   "run --data DIR",
		Short: "Run the cluster until SIGTERM or SIGINT",
		Long: `Run starts etcd, kube-apiserver, kube-controller-manager, kube-scheduler and
KWOK, writes DIR/kubeconfig, and prints one line of JSON when the cluster is ready:
{"ready":true,"kubeconfig":"...","server":"https://127.0.0.1:..."}
With --node real, the nodes are not simulated: containerd, kubelet and kube-proxy
run containers on this machine, in namespaces of their own.
It stays in the foreground; the data stays in DIR for the next run.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			options.RealNode = kind == "real"
			if options.RealNode && !cmd.Flags().Changed("nodes") {
				options.Nodes = 0
			}
			if kind != "real" && kind != "simulated" {
				return fmt.Errorf("run: --node %s: must be simulated or real", kind)
			}
			if check {
				if !options.RealNode {
					return errors.New("run: --check is for --node real")
				}
				return controlplane.CheckNode(cmd.Context(), options.Data, cmd.OutOrStdout())
			}
			if err := validate(options); err != nil {
				return fmt.Errorf("run: %w", err)
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
	flags.StringVar(&kind, "node", "simulated", "simulated, or real: a node that runs containers (root only)")
	flags.BoolVar(&check, "check", false, "with --node real: say what this machine has and lacks for it, and end")
	flags.IntSliceVar(&options.Publish, "publish", nil, "with --node real: ports on 127.0.0.1 that pods reach at the node's address")
	flags.IntSliceVar(&options.PlainHTTP, "registry", nil, "with --node real: the same, for registries that the node pulls from over plain HTTP")
	flags.StringVar(&options.RegistryLogin, "registry-login", "", "with --registry: the node pulls with the USER:PASSWORD in this file, whatever pods say")
	flags.BoolVar(&options.Outbound, "outbound", false, "with --node real: pods and image pulls reach what this machine reaches; turns on IPv4 forwarding")
	flags.BoolVar(&verbose, "verbose", false, "log each step of start and stop")
	return run
}

// validate checks what the flags say, before anything is touched.
func validate(options controlplane.Options) error {
	switch {
	case options.Data == "":
		return errors.New("--data is missing: name the directory of the cluster")
	case options.Nodes < 0 || options.Nodes > 5000:
		return fmt.Errorf("--nodes %d: must be 0 to 5000", options.Nodes)
	case options.RealNode && options.Nodes > 0:
		return errors.New("--nodes is the number of simulated nodes: with --node real there are none")
	case options.Port < 0 || options.Port > 65535:
		return fmt.Errorf("--port %d: must be 0 to 65535", options.Port)
	case !options.RealNode && (options.Outbound || len(options.Publish)+len(options.PlainHTTP) > 0):
		return errors.New("--publish, --registry and --outbound are for --node real: pods of simulated nodes reach nothing")
	case options.RegistryLogin != "" && len(options.PlainHTTP) == 0:
		return errors.New("--registry-login is for --registry: it names no registry by itself")
	}
	for _, port := range slices.Concat(options.Publish, options.PlainHTTP) {
		if port < 1 || port > 65535 {
			return fmt.Errorf("port %d to publish: must be 1 to 65535", port)
		}
	}
	return nil
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
