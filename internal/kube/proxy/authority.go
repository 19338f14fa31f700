package proxy

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
	"slices"
	"sync"
	"time"
)

// How long certificates are good for. That of an authority is in the kubeconfig of every job, so it outlives them all.
const (
	authorityYears = 30
	leafLife       = 90 * 24 * time.Hour
)

// Authority makes the certificates of a proxy's server. It is kept in a file: what jobs have been told stays true when the process starts
// again. It is safe for concurrent use.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	now  func() time.Time

	mu    sync.Mutex
	hosts []string
	leaf  *tls.Certificate
}

// OpenAuthority reads an authority from a file that only this process's user can read, and makes it where there is none.
func OpenAuthority(file string, now func() time.Time) (*Authority, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		text, err = makeAuthority(file, now())
	}
	if err != nil {
		return nil, fmt.Errorf("the certificate authority of the jobs' way to the cluster: %w", err)
	}
	a := &Authority{now: now}
	pair, err := tls.X509KeyPair(text, text)
	if err == nil {
		a.cert = pair.Leaf
		key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
		if !ok || !a.cert.IsCA {
			err = errors.New("it holds no authority")
		}
		a.key = key
	}
	if err != nil {
		return nil, fmt.Errorf("the certificate authority of the jobs' way to the cluster: %s: %w; remove the file, and a new one is made", file, err)
	}
	return a, nil
}

// makeAuthority writes a new authority, in one step.
func makeAuthority(file string, now time.Time) ([]byte, error) {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "keelson jobs"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(authorityYears, 0, 0), // clocks differ
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	key, der, err := issue(template, nil, nil)
	if err != nil {
		return nil, err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})...)
	f, err := os.CreateTemp(filepath.Dir(file), ".authority-") // 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name()) // without effect once it was renamed
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	return text, os.Rename(f.Name(), file)
}

// issue makes a key and its certificate, signed by an authority; without one it is its own.
func issue(template, by *x509.Certificate, with *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return nil, nil, err
	}
	if by == nil {
		by, with = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, &key.PublicKey, with)
	return key, der, err
}

// PEM gives the authority's certificate, for [Access].
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// Name adds names and IP addresses by which clients reach the server.
func (a *Authority) Name(hosts ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, host := range hosts {
		if !slices.Contains(a.hosts, host) {
			a.hosts, a.leaf = append(a.hosts, host), nil
		}
	}
}

// TLS gives the settings of a server, which has a good certificate for as long as it runs.
func (a *Authority) TLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return a.certificate() }}
}

// certificate gives the server's, and makes a new one before the last one ends.
func (a *Authority) certificate() (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if a.leaf != nil && now.Before(a.leaf.Leaf.NotAfter.Add(-leafLife/3)) {
		return a.leaf, nil
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "keelson jobs proxy"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(leafLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	for _, host := range a.hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	key, der, err := issue(template, a.cert, a.key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate for the proxy: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make a certificate for the proxy: %w", err)
	}
	a.leaf = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	return a.leaf, nil
}
