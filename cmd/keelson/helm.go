package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"
	helm "helm.sh/helm/v4/pkg/cmd"
	helmkube "helm.sh/helm/v4/pkg/kube"
)

// runHelm is helm, with the instance's cluster unless the caller names another. Plugins are programs of the user's other helm: they
// are commands here only if the caller says which folder they are in, or that they are wanted.
func runHelm() int {
	useInstance()
	_, folder := os.LookupEnv("HELM_PLUGINS")
	if _, said := os.LookupEnv("HELM_NO_PLUGINS"); !said && !folder {
		_ = os.Setenv("HELM_NO_PLUGINS", "1") // fails for malformed names only
	}
	helmkube.ManagedFieldsManager = "helm" // as in helm's own main: what it applies is helm's, however the program is called
	cmd, err := helm.NewRootCmd(os.Stdout, os.Args[1:], helm.SetupLogging)
	if err != nil {
		slog.Error("command failed", slog.Any("error", err))
		return exitFailure
	}
	cmd.SetFlagErrorFunc(explainFlag)
	if err := cmd.Execute(); err != nil { // which has told it
		tellNoCluster(err.Error())
		if coded, ok := errors.AsType[helm.CommandError](err); ok {
			return coded.ExitCode
		}
		return exitFailure
	}
	return exitOK
}

// formerFlags are those of Helm 2 and 3 that Helm 4 does not know, and what to write instead. (--atomic and --force it knows, and says what they are
// called now.)
var formerFlags = map[string]string{
	"tiller-namespace":          "there is no Tiller since Helm 3: leave it out",
	"tiller-connection-timeout": "there is no Tiller since Helm 3: leave it out",
	"tls":                       "there is no Tiller since Helm 3: leave it out",
	"purge":                     "since Helm 3 nothing is kept unless --keep-history is given: leave it out",
	"name":                      "since Helm 3 the name comes first: helm install NAME CHART",
	"recreate-pods":             "Helm restarts no Pods any more: run 'kubectl rollout restart'",
}

// explainFlag says of a flag of an older Helm what has become of it.
func explainFlag(_ *cobra.Command, err error) error {
	if _, name, ok := strings.Cut(err.Error(), "unknown flag: --"); ok {
		if hint := formerFlags[name]; hint != "" {
			return fmt.Errorf("%w (hint: %s)", err, hint)
		}
	}
	return err
}
