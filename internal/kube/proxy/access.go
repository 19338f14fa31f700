package proxy

import (
	"cmp"
	"fmt"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Access is a job's way to a cluster, as its programs are told of it.
type Access struct {
	Server   string    // https://HOST:PORT of a proxy; with plain HTTP clients would not send the token
	CA       []byte    // the certificates that the server's is checked with, as PEM; none: those of the job's system
	Contexts []Context // what the job may be, each with a token of its own; the first one is current
}

// Context is one of a kubeconfig's.
type Context struct {
	Name      string // as those of GitLab's agents: group/project:agent
	Token     string
	Namespace string // where nothing else is said; empty: default
}

// Kubeconfig gives a kubeconfig file. Of several contexts a job chooses one with kubectl config use-context.
func (a Access) Kubeconfig() ([]byte, error) {
	config := clientcmdapi.NewConfig()
	config.Clusters["keelson"] = &clientcmdapi.Cluster{Server: a.Server, CertificateAuthorityData: a.CA}
	for i, c := range a.Contexts {
		if i == 0 {
			config.CurrentContext = c.Name
		}
		config.AuthInfos[c.Name] = &clientcmdapi.AuthInfo{Token: c.Token}
		config.Contexts[c.Name] = &clientcmdapi.Context{Cluster: "keelson", AuthInfo: c.Name, Namespace: c.Namespace}
	}
	b, err := clientcmd.Write(*config)
	if err != nil {
		return nil, fmt.Errorf("write a kubeconfig: %w", err)
	}
	return b, nil
}

// Variable is one of a job's CI/CD variables.
type Variable struct {
	Name, Value string
	File        bool // the job finds the path of a file with the value
	Masked      bool // logs never show it
}

// Variables gives the variables by which programs find the cluster, with the names of GitLab's integration with Kubernetes: KUBECONFIG, and
// for the first context KUBE_URL, KUBE_TOKEN, KUBE_NAMESPACE, KUBE_CA_PEM and KUBE_CA_PEM_FILE.
func (a Access) Variables() ([]Variable, error) {
	config, err := a.Kubeconfig()
	if err != nil {
		return nil, err
	}
	var first Context
	if len(a.Contexts) > 0 {
		first = a.Contexts[0]
	}
	vars := []Variable{
		{Name: "KUBECONFIG", Value: string(config), File: true},
		{Name: "KUBE_URL", Value: a.Server},
		{Name: "KUBE_TOKEN", Value: first.Token, Masked: true},
		{Name: "KUBE_NAMESPACE", Value: cmp.Or(first.Namespace, "default")},
	}
	if len(a.CA) > 0 {
		vars = append(vars, Variable{Name: "KUBE_CA_PEM", Value: string(a.CA)}, Variable{Name: "KUBE_CA_PEM_FILE", Value: string(a.CA), File: true})
	}
	return vars, nil
}
