// Package send makes the HTTP requests of notifications.
//
//	s := &send.Sender{}
//	result := s.Send(ctx, target, request)   // one attempt; result says whether another one makes sense
//
// An attempt has a bounded time and reads a bounded part of the answer. A redirect is followed only on the same host and with the
// method it had: neither tokens nor messages go to somebody whom the Provider does not name. Proxies and certificates are
// the target's, or else those of the process's environment. An error names the host and nothing else of an address, since the
// path of a webhook is the key to it; what a service answers is shown without the values of the target's Secrets.
//
// Who may write a Provider may have this process send a POST to any address it reaches: see docs/notifications.md.
package send

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"keelson.dev/keelson/internal/notify"
	"keelson.dev/keelson/internal/redact"
)

// Sender sends. The zero Sender is usable, by many at once.
type Sender struct {
	// Now is the clock; nil: the system's.
	Now func() time.Time
}

const (
	dialTimeout  = 10 * time.Second
	maxRedirects = 3
	maxHeader    = 64 << 10
)

// Send does one request. Its result's error holds no secret.
func (s *Sender) Send(ctx context.Context, t notify.Target, r notify.Request) notify.Result {
	res := s.try(ctx, t, r)
	if res.Err != nil {
		res.Err = errors.New(redact.New(t.Secret()...).Text(res.Err.Error()))
	}
	return res
}

func (s *Sender) try(ctx context.Context, t notify.Target, r notify.Request) notify.Result {
	u, err := url.Parse(r.URL)
	if err != nil || u.Host == "" {
		return notify.Result{Err: errors.New("the address is no URL")}
	}
	transport, err := transportOf(t)
	if err != nil {
		return notify.Result{Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, r.Method, r.URL, bytes.NewReader(r.Body))
	if err != nil {
		return notify.Result{Err: errors.New("the address or the headers make no request")}
	}
	req.Header.Set("User-Agent", notify.Controller)
	for k, v := range r.Headers {
		req.Header.Set(k, v)
	}
	client := &http.Client{Transport: transport, CheckRedirect: sameHost}
	resp, err := client.Do(req)
	if err != nil {
		return notify.Result{Err: fmt.Errorf("send to %s: %w", u.Host, reason(ctx, err, t.Timeout)), Retry: true}
	}
	defer resp.Body.Close()                                              // of what is not read nobody waits for the end
	body, err := io.ReadAll(io.LimitReader(resp.Body, notify.MaxAnswer)) // a status that came is an answer, whatever becomes of the rest
	if err != nil && resp.StatusCode < 300 {
		body = nil
	}
	now := time.Now()
	if s.Now != nil {
		now = s.Now()
	}
	res := r.Judge(resp.StatusCode, resp.Header.Get("Retry-After"), body, now)
	if res.Err != nil {
		res.Err = fmt.Errorf("send to %s: %w", u.Host, res.Err)
	}
	return res
}

// sameHost lets a redirect be followed that stays where it is and keeps the method; any other is the answer.
func sameHost(req *http.Request, via []*http.Request) error {
	first := via[0]
	if len(via) > maxRedirects || req.URL.Host != first.URL.Host || req.URL.Scheme != first.URL.Scheme || req.Method != first.Method {
		return http.ErrUseLastResponse
	}
	return nil
}

// reason gives why there is no answer, without the address.
func reason(ctx context.Context, err error, timeout time.Duration) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s", timeout)
	}
	var of *url.Error
	if errors.As(err, &of) {
		return of.Err
	}
	return err
}

func transportOf(t notify.Target) (*http.Transport, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(t.CA) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(t.CA) {
			return nil, errors.New("ca.crt holds no certificate in PEM")
		}
	}
	if len(t.Cert) > 0 {
		pair, err := tls.X509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, errors.New("tls.crt and tls.key are not a certificate and its key in PEM")
		}
		config.Certificates = []tls.Certificate{pair}
	}
	proxy := http.ProxyFromEnvironment
	if t.Proxy != "" {
		u, err := url.Parse(t.Proxy)
		if err != nil {
			return nil, errors.New("the proxy is no URL")
		}
		proxy = http.ProxyURL(u)
	}
	return &http.Transport{
		Proxy: proxy, TLSClientConfig: config, DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout: dialTimeout, MaxResponseHeaderBytes: maxHeader, ForceAttemptHTTP2: true,
		DisableKeepAlives: true, // one message now and then: no connection is kept for the next
	}, nil
}
