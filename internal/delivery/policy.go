package delivery

import "fmt"

// Policy is what the operator of a controller has decided for all apps. The zero Policy is what Flux's kustomize-controller
// does unless told otherwise.
type Policy struct {
	// LenientSubstitution makes a variable empty that is neither given nor has a default value; otherwise it is an error
	// (Flux: the feature gate StrictPostBuildSubstitutions, on since 1.9).
	LenientSubstitution bool
	// NoCrossNamespaceRefs forbids sources of another namespace than the app's (Flux: --no-cross-namespace-refs).
	// A dependency may be anywhere, as in Flux: nothing of it is read but whether it is ready.
	NoCrossNamespaceRefs bool
	// DefaultServiceAccount is the account of an app that names none, in the app's namespace (Flux: --default-service-account).
	DefaultServiceAccount string
	// AdditiveReadyExpr has a dependency with a readyExpr be ready in the usual sense too; otherwise the expression alone decides
	// (Flux: the feature gate AdditiveCELDependencyCheck).
	AdditiveReadyExpr bool
	// InsecureKubeConfigTLS lets kubeconfigs that apps name turn off TLS or the check of certificates (Flux:
	// --insecure-kubeconfig-tls).
	InsecureKubeConfigTLS bool
}

// Govern gives an app as it is under the policy.
func (p Policy) Govern(app App) App {
	app.Build.Strict = !p.LenientSubstitution
	if app.ServiceAccount == "" {
		app.ServiceAccount = p.DefaultServiceAccount
	}
	if src := app.Source; p.NoCrossNamespaceRefs && src.Namespace != app.ID.Namespace {
		app.Denied = fmt.Sprintf("can't access '%s', cross-namespace references have been blocked", src)
	}
	return app
}
