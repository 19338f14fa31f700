package proxy

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Access is a job's way to a cluster, as its programs are told of it.
type Access struct {
	Server    string // https://HOST:PORT of a proxy; with plain HTTP clients would not send the token
	CA        []byte // the certificates that the server's is checked with, as PEM; none: those of the job's system
	Token     string
	Namespace string   // where nothing else is said; empty: default
	Contexts  []string // names in the kubeconfig, as those of GitLab's agents: group/project:agent; none: one called keelson
}

// defaultContext is the context's name where nobody gives one.
const defaultContext = "keelson"

// Kubeconfig gives a kubeconfig file. With one context that one is current; of several a job chooses (kubectl config use-context).
func (a Access) Kubeconfig() ([]byte, error) {
	names := a.Contexts
	if len(names) == 0 {
		names = []string{defaultContext}
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["keelson"] = &clientcmdapi.Cluster{Server: a.Server, CertificateAuthorityData: a.CA}
	config.AuthInfos["job"] = &clientcmdapi.AuthInfo{Token: a.Token}
	for _, name := range names {
		config.Contexts[name] = &clientcmdapi.Context{Cluster: "keelson", AuthInfo: "job", Namespace: a.Namespace}
	}
	if len(config.Contexts) == 1 {
		config.CurrentContext = names[0]
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

// Variables gives the variables by which programs find the cluster, with the names of GitLab's integration with Kubernetes:
// KUBECONFIG, KUBE_URL, KUBE_TOKEN, KUBE_NAMESPACE, KUBE_CA_PEM and KUBE_CA_PEM_FILE.
func (a Access) Variables() ([]Variable, error) {
	config, err := a.Kubeconfig()
	if err != nil {
		return nil, err
	}
	vars := []Variable{
		{Name: "KUBECONFIG", Value: string(config), File: true},
		{Name: "KUBE_URL", Value: a.Server},
		{Name: "KUBE_TOKEN", Value: a.Token, Masked: true},
		{Name: "KUBE_NAMESPACE", Value: cmp.Or(a.Namespace, "default")},
	}
	if len(a.CA) > 0 {
		vars = append(vars, Variable{Name: "KUBE_CA_PEM", Value: string(a.CA)}, Variable{Name: "KUBE_CA_PEM_FILE", Value: string(a.CA), File: true})
	}
	return vars, nil
}

// Certificate makes a key and a certificate of its own for a proxy's server, good for a year, and gives that certificate as PEM for
// [Access]. Hosts are its names and IP addresses.
func Certificate(hosts []string, now time.Time) (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("make a key for the proxy: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("make a certificate for the proxy: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "keelson jobs"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0), // clocks differ
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true, // some clients want a CA
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("make a certificate for the proxy: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, text, nil
}
