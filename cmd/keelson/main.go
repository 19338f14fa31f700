// Command keelson carries a Git commit to a healthy workload on Kubernetes and keeps it there.
//
// One file per subcommand: flags become an options struct, and a run function takes a context and that struct.
// cobra is seen at this rim only. Called under the name "kubectl", "helm" or "kustomize" (links in bin) the program is that one.
package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	podagent "keelson.dev/keelson/internal/pipeline/executor/pod/agent"
)

func main() {
	if run, ok := deployTools[strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe")]; ok {
		os.Exit(run())
	}
	if len(os.Args) > 1 && os.Args[1] == podagent.Command { // in the Pod of a job: it needs nothing of what the commands need
		os.Exit(podagent.Main(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), endSignals()...)
	code := execute(ctx, os.Args[1:], stdStreams())
	stop()
	os.Exit(code)
}

// endSignals are those that tell the program to end: an interrupt, a plain kill, and the end of the terminal, unless who started it
// had that ignored (nohup).
func endSignals() []os.Signal {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}
