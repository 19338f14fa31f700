package main

import (
	"fmt"
	"os"
	"strings"
	_ "unsafe" // for go:linkname

	_ "k8s.io/client-go/plugin/pkg/client/auth" // the log-in methods that kubeconfig files name
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

// kubectl translates its help texts while its packages are initialised, which costs every program that links it about
// 35 ms: it packs its message catalogue into a zip file and parses that. Upstream's hook (SetLoadTranslationsFunc)
// only helps a package whose import path sorts before k8s.io. Texts stay in English if the catalogue counts as loaded
// from the start. Should upstream rename the variable, this is without effect; TestStartIsCheap tells.
//
//go:linkname translationsLoaded k8s.io/kubectl/pkg/util/i18n.translationsLoaded
var translationsLoaded = true

// runKubectl is kubectl, with the instance's cluster unless the caller names another.
func runKubectl() int {
	useInstance()
	// As in kubectl's own main: the verbosity is needed before the flags are parsed. A bad one is reported by the parser.
	_, _ = logs.GlogSetter(kubectl.GetLogVerbosity(os.Args))
	util.BehaviorOnFatal(func(message string, code int) {
		if message = strings.TrimSuffix(message, "\n"); message != "" {
			fmt.Fprintln(os.Stderr, message)
		}
		tellNoCluster(message)
		os.Exit(code)
	})
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
	return exitOK
}

// useInstance has kubectl and helm find the instance's cluster, unless the environment names a kubeconfig.
func useInstance() {
	if os.Getenv("KUBECONFIG") != "" {
		return
	}
	g := &global{}
	if err := g.completeData(); err != nil {
		return
	}
	if inst, err := readInstance(g.data); err == nil && inst.Kubeconfig != "" {
		_ = os.Setenv("KUBECONFIG", inst.Kubeconfig) // fails for malformed names only
	}
}

// tellNoCluster says how a job comes to a cluster, where an error shows that it has none: kubectl and helm look at localhost:8080 then.
func tellNoCluster(message string) {
	if project := os.Getenv("CI_PROJECT_PATH"); project != "" && os.Getenv("KUBECONFIG") == "" && strings.Contains(message, "localhost:8080") {
		fmt.Fprintf(os.Stderr, "This job has no kubeconfig. So that jobs of %s reach the cluster, name a service account in spec.access of its Project "+
			"(keelson ci rbac writes one with its rights), or set KUBECONFIG to a file of your own.\n", project)
	}
}
