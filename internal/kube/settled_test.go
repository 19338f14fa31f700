package kube

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"testing"
	"time"
)

// TestSettled: what is said of a cluster that is out of reach is the same with each probe, so that it is said once.
func TestSettled(t *testing.T) {
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	certificate := func(from, until time.Time, now string) error {
		return &tls.CertificateVerificationError{Err: x509.CertificateInvalidError{
			Cert: &x509.Certificate{NotBefore: from, NotAfter: until}, Reason: x509.Expired, Detail: "current time " + now + " is after",
		}}
	}
	lookup := func(text string) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: text, Name: "far.example", Server: "10.0.0.10:53"}}
	}
	name := errors.New("x509: certificate is valid for a, not b")
	for want, err := range map[string]error{
		"the server's certificate has expired or is not valid yet: it is valid from 2026-01-01T12:00:00Z until 2026-01-02T12:00:00Z": certificate(noon.AddDate(0, 0, -1), noon, "2026-03-04T05:06:07Z"),
		"look up far.example: no such host":                  lookup("no such host"),
		"look up far.example: i/o timeout":                   lookup("read udp 127.0.0.1:45678->10.0.0.10:53: i/o timeout"),
		"look up far.example: connection refused":            lookup("read udp 127.0.0.1:45678->[fd00::10]:53: read: connection refused"),
		"tls: failed to verify certificate: " + name.Error(): &tls.CertificateVerificationError{Err: name},
		"dial 10.0.0.1:6443: connect: connection refused":    &net.OpError{Op: "dial", Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 6443}, Err: errors.New("connect: connection refused")},
	} {
		if got := settled(&url.Error{Op: "Get", URL: "https://far.example/version", Err: err}); got.Error() != want {
			t.Errorf("%v\n got %q\nwant %q", err, got, want)
		}
	}
}
