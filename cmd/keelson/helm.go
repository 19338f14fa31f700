package main

import (
	"errors"
	"log/slog"
	"os"

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
	if err := cmd.Execute(); err != nil { // which has told it
		if coded, ok := errors.AsType[helm.CommandError](err); ok {
			return coded.ExitCode
		}
		return exitFailure
	}
	return exitOK
}
