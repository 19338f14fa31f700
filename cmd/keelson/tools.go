package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// deployTools are the programs that this one is under their names.
var deployTools = map[string]func() int{"kubectl": runKubectl, "helm": runHelm, "kustomize": runKustomize}

// linkTools makes links in a directory by which jobs find the tools: to the running program.
func linkTools(dir string) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program for the jobs' tools: %w", err)
	}
	for name := range deployTools {
		if err := os.Symlink(program, filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("make the jobs' tools: %w", err)
		}
	}
	return nil
}
