// Package config holds what a cluster needs before Keelson can work in it.
//
// The custom resource definitions (crd/) are generated from the upstream API modules, and from api/, by "make generate"; never edit
// them by hand. rbac/ is for Keelson running inside a cluster; a Keelson outside uses the rights of its kubeconfig.
package config

import "embed"

// CRDs holds crd/*.yaml.
//
//go:embed crd/*.yaml
var CRDs embed.FS
