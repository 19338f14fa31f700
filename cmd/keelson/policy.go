package main

import (
	"strconv"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"

	"keelson.dev/keelson/internal/delivery"
)

// policyFlags are the flags of what an operator decides for all apps.
type policyFlags struct {
	strict                bool
	noCrossNamespaceRefs  bool
	defaultServiceAccount string
	additiveReadyExpr     bool
	insecureKubeConfigTLS bool
}

func (p *policyFlags) bind(f *pflag.FlagSet) {
	p.bindStrict(f)
	p.bindInsecure(f)
	f.BoolVar(&p.noCrossNamespaceRefs, "no-cross-namespace-refs", false, "refuse apps whose source is in another namespace")
	f.StringVar(&p.defaultServiceAccount, "default-service-account", "",
		"the service account `name`, in the namespace of an app, of apps that name none (default: as Keelson itself)")
	f.BoolVar(&p.additiveReadyExpr, "additive-ready-expr", false, "a dependency with a readyExpr has to be ready in the usual sense too")
}

// bindInsecure binds the flag that decides which other clusters are talked to.
func (p *policyFlags) bindInsecure(f *pflag.FlagSet) {
	f.BoolVar(&p.insecureKubeConfigTLS, "insecure-kubeconfig-tls", false,
		"let kubeconfigs that apps name for other clusters turn off TLS or the check of certificates (for tests)")
}

// bindStrict binds the flag that decides what is rendered.
func (p *policyFlags) bindStrict(f *pflag.FlagSet) {
	f.BoolVar(&p.strict, "strict-substitution", true, "a variable that is neither given nor has a default value is an error; otherwise it is empty")
}

// policy checks the flags.
func (p *policyFlags) policy() (delivery.Policy, error) {
	if name := p.defaultServiceAccount; name != "" && len(validation.IsDNS1123Subdomain(name)) > 0 {
		return delivery.Policy{}, usagef("--default-service-account %q: it is no name of a service account", name)
	}
	return delivery.Policy{
		LenientSubstitution: !p.strict, NoCrossNamespaceRefs: p.noCrossNamespaceRefs, DefaultServiceAccount: p.defaultServiceAccount,
		AdditiveReadyExpr: p.additiveReadyExpr, InsecureKubeConfigTLS: p.insecureKubeConfigTLS,
	}, nil
}

// args gives the flags to another process of this program.
func (p *policyFlags) args() []string {
	a := []string{"--strict-substitution=" + strconv.FormatBool(p.strict), "--no-cross-namespace-refs=" + strconv.FormatBool(p.noCrossNamespaceRefs),
		"--additive-ready-expr=" + strconv.FormatBool(p.additiveReadyExpr),
		"--insecure-kubeconfig-tls=" + strconv.FormatBool(p.insecureKubeConfigTLS)}
	if p.defaultServiceAccount != "" {
		a = append(a, "--default-service-account", p.defaultServiceAccount)
	}
	return a
}
