package proxy

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Jobs that were told of an authority trust the server of the next process, by whatever name it has then, and after years.
func TestAuthority(t *testing.T) {
	file := filepath.Join(t.TempDir(), "authority.pem")
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	first, err := OpenAuthority(file, clock)
	if err != nil {
		t.Fatal(err)
	}
	told := first.PEM()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(told) {
		t.Fatal("the authority is no certificate")
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	good := func(a *Authority, host string) error {
		c, err := a.TLS().GetCertificate(&tls.ClientHelloInfo{})
		if err != nil {
			return err
		}
		_, err = c.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, CurrentTime: now})
		return err
	}
	first.Name("127.0.0.1")
	if err := good(first, "127.0.0.1"); err != nil {
		t.Error(err)
	}
	if err := good(first, "10.213.0.2"); err == nil {
		t.Error("it is good for an address that nobody has named")
	}
	again, err := OpenAuthority(file, clock)
	if err != nil || !bytes.Equal(again.PEM(), told) {
		t.Fatalf("the next process has another authority: %v", err)
	}
	again.Name("127.0.0.1", "10.213.0.2", "keelson.example")
	for range 40 {
		for _, host := range []string{"127.0.0.1", "10.213.0.2", "keelson.example"} {
			if err := good(again, host); err != nil {
				t.Fatalf("%s at %s: %v", host, now, err)
			}
		}
		now = now.AddDate(0, 1, 3)
	}
	if err := os.WriteFile(file, told, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(file, clock); err == nil {
		t.Error("a file without a key is an authority")
	}
}
