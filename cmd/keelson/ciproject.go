package main

import (
	keelsonv1 "keelson.dev/keelson/api/v1alpha1"
	"keelson.dev/keelson/internal/ci"
)

// settings are those of a project that need nothing but its spec.
func settings(p *ci.Project, spec keelsonv1.ProjectSpec) {
	p.KeepRedundant = spec.AutoCancel != nil && !*spec.AutoCancel
}
