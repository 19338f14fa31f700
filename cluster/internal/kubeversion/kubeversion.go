// Package kubeversion makes the embedded Kubernetes components report the
// release they were built from.
//
// A Kubernetes release is stamped with linker flags (-ldflags -X), and without
// them every component calls itself "v0.0.0-master+$Format:%H$". Here the
// release is known to the Go toolchain already: it is the version of the module
// k8s.io/kubernetes in the build information of the binary. Importing this
// package copies it into the variables the linker flags would have set, so that
// plain `go build` and `go install` give a binary whose /version is right, and
// the version lives in go.mod only.
package kubeversion

import (
	"runtime/debug"
	"strings"
	_ "unsafe" // for go:linkname

	_ "k8s.io/client-go/pkg/version"
	"k8s.io/component-base/version"
)

// The variables are unexported in their packages and have no setter that
// accepts another release, hence go:linkname: the same variables that
// Kubernetes' own build sets with -X.
//
//go:linkname componentVersion k8s.io/component-base/version.gitVersion
var componentVersion string

//go:linkname componentMajor k8s.io/component-base/version.gitMajor
var componentMajor string

//go:linkname componentMinor k8s.io/component-base/version.gitMinor
var componentMinor string

//go:linkname componentCommit k8s.io/component-base/version.gitCommit
var componentCommit string

//go:linkname clientVersion k8s.io/client-go/pkg/version.gitVersion
var clientVersion string

//go:linkname clientCommit k8s.io/client-go/pkg/version.gitCommit
var clientCommit string

func init() {
	release := Of("k8s.io/kubernetes")
	parts := strings.SplitN(strings.TrimPrefix(release, "v"), ".", 3)
	if len(parts) != 3 {
		return // not built as a module: the placeholder stays
	}
	componentVersion, componentMajor, componentMinor, componentCommit = release, parts[0], parts[1], ""
	clientVersion, clientCommit = release, ""
	// Cannot fail: the value equals the default that was just set. It refreshes
	// the copy that package version took when it was initialised.
	_ = version.SetDynamicVersion(release)
}

// Of returns the version of a module this binary was built with, such as
// "v1.37.1", or "" where it is not known.
func Of(module string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, dep := range info.Deps {
		if dep.Path != module {
			continue
		}
		if dep.Replace != nil {
			return dep.Replace.Version
		}
		return dep.Version
	}
	return ""
}

// Kubernetes returns the release the embedded components report.
func Kubernetes() string { return version.Get().GitVersion }
