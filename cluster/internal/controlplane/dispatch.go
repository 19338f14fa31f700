package controlplane

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	kubeproxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
	kwokconfig "sigs.k8s.io/kwok/pkg/config"
	kwokcmd "sigs.k8s.io/kwok/pkg/kwok/cmd"
	kwoklog "sigs.k8s.io/kwok/pkg/log"
	"sigs.k8s.io/kwok/pkg/utils/signals"

	"keelson.dev/keelson/cluster/internal/realnode"
)

// ComponentVerb is the hidden first argument with which this binary starts
// itself as one of the components: `keelson-cluster component etcd --flag ...`.
const ComponentVerb = "component"

// Names of the components, also of their log files.
const (
	etcd              = "etcd"
	kubeAPIServer     = "kube-apiserver"
	controllerManager = "kube-controller-manager"
	kubeScheduler     = "kube-scheduler"
	kwok              = "kwok"
	node              = "node" // the real node; the others below are parts of it
	nodeProbe         = "node-probe"
	nodeKubelet       = "kubelet"
	nodeProxy         = "kube-proxy"
)

// RunComponent becomes the named component and returns its exit status.
func RunComponent(name string, args []string) int {
	// Some of them read os.Args behind the back of their flag sets.
	os.Args = append([]string{name}, args...)
	switch name {
	case etcd:
		etcdmain.Main(os.Args) // ends the process itself
		return 0
	case kubeAPIServer:
		return runCommand(apiserver.NewAPIServerCommand(), args)
	case controllerManager:
		return runCommand(controllermanager.NewControllerManagerCommand(), args)
	case kubeScheduler:
		return runCommand(scheduler.NewSchedulerCommand(), args)
	case nodeKubelet:
		return runCommand(kubelet.NewKubeletCommand(context.Background()), args)
	case nodeProxy:
		return runCommand(kubeproxy.NewProxyCommand(), args)
	case node:
		return realnode.Main(args, ComponentVerb)
	case nodeProbe:
		if err := realnode.Probe(args[0], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "node-probe:", err)
			return 1
		}
		return 0
	case kwok:
		DropGlobalFlags()
		if err := runKwok(args); err != nil {
			fmt.Fprintln(os.Stderr, "kwok:", err)
			return 1
		}
		return 0
	default:
		fmt.Fprintf(os.Stderr, "keelson-cluster: unknown component %q\n", name)
		return 2
	}
}

// DropGlobalFlags empties the global flag set. Kubernetes packages register a
// --version there, which cobra would add to every command of the process.
func DropGlobalFlags() {
	pflag.CommandLine = pflag.NewFlagSet("keelson-cluster", pflag.ContinueOnError)
}

func runCommand(command *cobra.Command, args []string) int {
	command.SetArgs(args)
	return cli.Run(command)
}

// runKwok does what KWOK's own main does: its configuration file is read from
// the flags before its command exists.
func runKwok(args []string) error {
	flags := pflag.NewFlagSet("global", pflag.ContinueOnError)
	flags.ParseErrorsAllowlist.UnknownFlags = true
	flags.Usage = func() {}
	ctx, _ := kwoklog.InitFlags(signals.SetupSignalContext(), flags)
	ctx, err := kwokconfig.InitFlags(ctx, flags)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	command := kwokcmd.NewCommand(ctx)
	command.PersistentFlags().AddFlagSet(flags)
	command.SetArgs(args)
	if err := command.ExecuteContext(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}
