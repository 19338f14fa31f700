package git

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"time"

	"golang.org/x/net/http/httpproxy"
)

// systemRoots are where the system's authorities may be, the first one that is there counts (as in crypto/x509).
var systemRoots = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
}

// maxRoots bounds the file of the system's authorities.
const maxRoots = 8 << 20

// secrets are the values that no text may hold.
func (a Auth) secrets() []string {
	s := []string{a.Password, a.BearerToken, a.Passphrase}
	if a.Username != "" || a.Password != "" {
		s = append(s, Auth{Username: a.Username, Password: a.Password}.header()[len("Basic "):])
	}
	if u, err := url.Parse(a.Proxy); err == nil && u.User != nil {
		if p, ok := u.User.Password(); ok {
			s = append(s, p, url.QueryEscape(p))
		}
	}
	return s
}

// tls gives the git program certificates, as files in memory.
func (a Auth) tls(c *command) error {
	if a.Proxy != "" {
		c.env = append(c.env, "NO_PROXY=", "no_proxy=") // who names a proxy means it for this remote
	}
	ca := a.CA
	if ca != "" {
		ca = string(system()) + "\n" + ca
	}
	for _, f := range []struct{ key, content string }{{"http.sslCAInfo", ca}, {"http.sslCert", a.ClientCert}, {"http.sslKey", a.ClientKey}} {
		if f.content == "" {
			continue
		}
		file, err := memoryFile([]byte(f.content))
		if err != nil {
			for _, open := range c.files {
				open.Close()
			}
			return fmt.Errorf("hand certificates to git: %w", err)
		}
		name := fmt.Sprintf("%s/%d", descriptors, 3+len(c.files))
		if f.key == "http.sslCAInfo" {
			c.env = append(c.env, "GIT_SSL_CAINFO="+name) // our own environment's may be there, and would win
		}
		c.config = append(c.config, [2]string{f.key, name})
		c.files = append(c.files, file)
	}
	return nil
}

// system is the file of the system's authorities; empty where there is none.
func system() []byte {
	files := systemRoots
	for _, name := range []string{"SSL_CERT_FILE", "GIT_SSL_CAINFO"} {
		if f := os.Getenv(name); f != "" {
			files = []string{f}
		}
	}
	for _, name := range files {
		if info, err := os.Stat(name); err == nil && info.Size() <= maxRoots {
			if b, err := os.ReadFile(name); err == nil {
				return b
			}
		}
	}
	return nil
}

// TLS is the configuration for a connection to the remote that is made by this process. What is wrong with a
// certificate wraps [ErrAuth].
func (a Auth) TLS() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: a.Insecure} //nolint:gosec // only where the user says so
	if a.CA != "" {
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM([]byte(a.CA)) {
			return nil, fmt.Errorf("%w: ca.crt holds no certificate in PEM form", ErrAuth)
		}
		c.RootCAs = roots
	}
	if a.ClientCert != "" || a.ClientKey != "" {
		pair, err := tls.X509KeyPair([]byte(a.ClientCert), []byte(a.ClientKey))
		if err != nil {
			return nil, fmt.Errorf("%w: tls.crt and tls.key: %w", ErrAuth, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// direct tells whether a host is reached without the proxy that is given.
func (a Auth) direct(u *url.URL) bool {
	if a.NoProxy == "" {
		return false
	}
	through, err := (&httpproxy.Config{HTTPProxy: a.Proxy, HTTPSProxy: a.Proxy, NoProxy: a.NoProxy}).ProxyFunc()(u)
	return err == nil && through == nil
}

// Client is an HTTP client that goes the remote's way: its authorities, client certificate and proxy. It adds no
// Authorization header.
func (a Auth) Client() (*http.Client, error) {
	config, err := a.TLS()
	if err != nil {
		return nil, err
	}
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, DisableKeepAlives: true, ForceAttemptHTTP2: true}
	if a.Proxy != "" {
		u, err := url.Parse(a.Proxy)
		if err != nil {
			return nil, errors.New("the proxy's address is not a valid URL")
		}
		t.Proxy = func(req *http.Request) (*url.URL, error) {
			if a.direct(req.URL) {
				return nil, nil
			}
			return u, nil
		}
	}
	return &http.Client{Timeout: 30 * time.Second, Transport: t}, nil
}
