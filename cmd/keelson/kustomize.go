package main

import (
	"sigs.k8s.io/kustomize/kustomize/v5/commands"
)

// runKustomize is kustomize.
func runKustomize() int {
	if err := commands.NewDefaultCommand().Execute(); err != nil { // which has told it
		return exitFailure
	}
	return exitOK
}
