// Package certs makes and keeps the certificates of one local cluster.
//
// Three authorities keep apart what Kubernetes keeps apart: "ca" signs the API
// server and its clients, "etcd-ca" signs etcd and its only client (so that a
// certificate obtained through the Kubernetes CSR API opens no door to etcd),
// "front-proxy-ca" signs the aggregator. All keys are ECDSA P-256, made on this
// machine, never leave the directory, and are readable by their owner only.
//
// [Ensure] is idempotent: what is there and still good stays, so that a restart
// keeps every kubeconfig valid. A certificate is made again when it is missing,
// does not belong to its key or its authority, lacks a name it must serve, or
// has less than a third of its life left.
package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Lifetimes. A third of the life of a leaf (a year) is the longest time that a
// cluster can run without a restart and still never meet an expired one.
const (
	authorityLife = 30 * 365 * 24 * time.Hour
	leafLife      = 3 * 365 * 24 * time.Hour
)

// Names of the certificates; Cert and Key turn them into file names.
const (
	CA                = "ca"
	EtcdCA            = "etcd-ca"
	FrontProxyCA      = "front-proxy-ca"
	APIServer         = "apiserver"
	Etcd              = "etcd"
	EtcdClient        = "apiserver-etcd-client"
	FrontProxyClient  = "front-proxy-client"
	Admin             = "admin"
	ControllerManager = "controller-manager"
	Scheduler         = "scheduler"
	Kwok              = "kwok"
	KubeletClient     = "apiserver-kubelet-client" // the API server's, to kubelets
	Kubelet           = "kubelet"                  // the real node's, to the API server
	KubeletServing    = "kubelet-serving"
	KubeProxy         = "kube-proxy"
	serviceAccount    = "service-account"
)

// KwokUser is the Kubernetes user that the certificate [Kwok] stands for.
const KwokUser = "keelson:kwok"

// KubeletClientUser is the user that the API server is to kubelets.
const KubeletClientUser = "keelson:kube-apiserver"

// Names are what certificates are good for.
type Names struct {
	APIServer []string // names and addresses the API server is reached by
	Node      string   // name of the real node; "": there is none
	NodeHosts []string // names and addresses its kubelet is reached by
}

// Set is the directory of one cluster's certificates.
type Set struct{ dir string }

// Cert returns the path of the PEM certificate of that name.
func (s Set) Cert(name string) string { return filepath.Join(s.dir, name+".crt") }

// Key returns the path of the PEM private key of that name.
func (s Set) Key(name string) string { return filepath.Join(s.dir, name+".key") }

// ServiceAccountKey returns the path of the key that signs and verifies
// service account tokens.
func (s Set) ServiceAccountKey() string { return s.Key(serviceAccount) }

// TLS returns a client configuration that presents the named certificate and
// trusts only the named authority.
func (s Set) TLS(name, authority string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(s.Cert(name), s.Key(name))
	if err != nil {
		return nil, fmt.Errorf("load client certificate: %w", err)
	}
	ca, err := os.ReadFile(s.Cert(authority))
	if err != nil {
		return nil, fmt.Errorf("load certificate authority: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}

// leaf describes one certificate: who it is and which names it serves.
type leaf struct {
	name, authority string
	subject         pkix.Name
	hosts           []string // serves these names; a pure client has none
}

func leaves(names Names) []leaf {
	client := func(name, authority, user string, groups ...string) leaf {
		return leaf{name: name, authority: authority, subject: pkix.Name{CommonName: user, Organization: groups}}
	}
	all := []leaf{
		{name: APIServer, authority: CA, subject: pkix.Name{CommonName: "kube-apiserver"}, hosts: names.APIServer},
		{name: Etcd, authority: EtcdCA, subject: pkix.Name{CommonName: "etcd"}, hosts: []string{"localhost", "127.0.0.1"}},
		client(EtcdClient, EtcdCA, "kube-apiserver"),
		client(FrontProxyClient, FrontProxyCA, "front-proxy-client"),
		client(Admin, CA, "kubernetes-admin", "system:masters"),
		client(ControllerManager, CA, "system:kube-controller-manager"),
		client(Scheduler, CA, "system:kube-scheduler"),
		client(Kwok, CA, KwokUser),
	}
	if names.Node == "" {
		return all
	}
	user := "system:node:" + names.Node
	return append(all,
		client(KubeletClient, CA, KubeletClientUser),
		client(Kubelet, CA, user, "system:nodes"),
		leaf{name: KubeletServing, authority: CA, subject: pkix.Name{CommonName: user, Organization: []string{"system:nodes"}}, hosts: names.NodeHosts},
		client(KubeProxy, CA, "system:kube-proxy"),
	)
}

// Ensure makes the certificates that dir lacks or that are no longer good at
// time now.
func Ensure(dir string, names Names, now time.Time) (Set, error) {
	set := Set{dir: dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return set, fmt.Errorf("make certificate directory: %w", err)
	}
	for _, name := range []string{CA, EtcdCA, FrontProxyCA} {
		if err := set.ensureAuthority(name, now); err != nil {
			return set, fmt.Errorf("certificate authority %s: %w", name, err)
		}
	}
	for _, l := range leaves(names) {
		if err := set.ensureLeaf(l, now); err != nil {
			return set, fmt.Errorf("certificate %s: %w", l.name, err)
		}
	}
	// The service account key outlives everything: replacing it would void the
	// tokens that are out.
	if _, err := os.Stat(set.ServiceAccountKey()); errors.Is(err, os.ErrNotExist) {
		if _, err := set.newKey(serviceAccount); err != nil {
			return set, fmt.Errorf("service account key: %w", err)
		}
	}
	return set, nil
}

func (s Set) ensureAuthority(name string, now time.Time) error {
	if cert, _, err := s.load(name); err == nil && cert.IsCA && fresh(cert, now) {
		return nil
	}
	key, err := s.newKey(name)
	if err != nil {
		return err
	}
	template, err := template(pkix.Name{CommonName: "keelson-cluster " + name}, now, authorityLife)
	if err != nil {
		return err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	return s.sign(name, template, template, key, key)
}

func (s Set) ensureLeaf(l leaf, now time.Time) error {
	authority, authorityKey, err := s.load(l.authority)
	if err != nil {
		return fmt.Errorf("load authority: %w", err)
	}
	if cert, _, err := s.load(l.name); err == nil && fresh(cert, now) && l.matches(cert, authority) {
		return nil
	}
	key, err := s.newKey(l.name)
	if err != nil {
		return err
	}
	template, err := template(l.subject, now, leafLife)
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(l.hosts) > 0 {
		// etcd's gateway calls itself with its serving certificate, so it is both.
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, host := range l.hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	return s.sign(l.name, template, authority, key, authorityKey)
}

// matches reports whether cert is what l describes, signed by authority.
func (l leaf) matches(cert, authority *x509.Certificate) bool {
	for _, host := range l.hosts {
		if cert.VerifyHostname(host) != nil {
			return false
		}
	}
	return cert.Subject.String() == l.subject.String() && cert.CheckSignatureFrom(authority) == nil
}

// fresh reports whether cert is valid and keeps a third of its life.
func fresh(cert *x509.Certificate, now time.Time) bool {
	left, life := cert.NotAfter.Sub(now), cert.NotAfter.Sub(cert.NotBefore)
	return !now.Before(cert.NotBefore) && left > life/3
}

func template(subject pkix.Name, now time.Time, life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("draw serial number: %w", err)
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    now.Add(-5 * time.Minute), // clocks that were set back a little
		NotAfter:     now.Add(life),
	}, nil
}

// load reads a certificate with its key and checks that they belong together.
func (s Set) load(name string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	pair, err := tls.LoadX509KeyPair(s.Cert(name), s.Key(name))
	if err != nil {
		return nil, nil, err
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("%s: not an ECDSA key", s.Key(name))
	}
	return pair.Leaf, key, nil
}

func (s Set) newKey(name string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return key, writePEM(s.Key(name), "EC PRIVATE KEY", der)
}

func (s Set) sign(name string, template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) error {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	return writePEM(s.Cert(name), "CERTIFICATE", der)
}

// writePEM replaces the file in one step. A crash between a key and its
// certificate leaves two that do not belong together, which load detects.
func writePEM(path, kind string, der []byte) error {
	temporary := path + ".tmp"
	if err := os.WriteFile(temporary, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(temporary, path)
}
