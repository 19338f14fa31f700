package kube

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
)

// How long another cluster may take.
const (
	dialLimit    = 10 * time.Second
	requestLimit = 30 * time.Second // of anything but a watch, as Flux
	probeLimit   = 5 * time.Second
	// doubtLimit is how long a cluster that was reached may be out of reach before that is said: a server that restarts
	// is no news.
	doubtLimit = 5 * time.Second
	// probePause is that between probes while there is doubt; then it doubles up to maxProbePause.
	probePause, maxProbePause = time.Second, 30 * time.Second
	// maxAnswer bounds what is taken of an answer, in bytes: a list of everything that an app may own fits.
	maxAnswer = 256 << 20
)

// Connect connects to another cluster, until ctx ends. It does not wait: [Cluster.Reached] tells how it went, and changed is
// called whenever that changes; it must not block. Tokens of a service account are asked of home. Nothing goes on for longer than
// a bounded time; while the cluster is out of reach requests end at once, and those of [Patient] contexts wait.
func (r Remote) Connect(ctx context.Context, home *Cluster, changed func()) (*Cluster, error) {
	tls, err := rest.TLSConfigFor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{
		ServerName: r.ServerName, Insecure: r.Insecure, CAData: r.CA, CertData: r.Cert, KeyData: r.Key,
	}})
	if err != nil {
		return nil, fmt.Errorf("make client for %s: %w", r.Host, err)
	}
	transport := &http.Transport{
		TLSClientConfig: tls, TLSHandshakeTimeout: dialLimit, ResponseHeaderTimeout: requestLimit,
		DialContext:         (&net.Dialer{Timeout: dialLimit, KeepAlive: 30 * time.Second}).DialContext,
		MaxIdleConnsPerHost: writesAtOnce, IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: 1 << 20,
	}
	if r.Proxy != "" {
		u, err := url.Parse(r.Proxy)
		if err != nil {
			return nil, errors.New("the proxy's URL cannot be read")
		}
		transport.Proxy = http.ProxyURL(u)
	}
	var way http.RoundTripper = utilnet.SetTransportDefaults(transport)
	if r.Account.Name != "" {
		way = &tokens{next: way, home: home, account: r.Account}
	}
	g := &gate{next: bounds{way}, life: ctx, changed: changed, open: make(chan struct{})}
	config := &rest.Config{Host: r.Host, BearerToken: r.Token, Username: r.Username, Password: r.Password, Transport: g}
	c, err := NewCluster(config)
	if err != nil {
		return nil, err
	}
	c.gate, g.probe = g, func(ctx context.Context) error { return c.probe(ctx) }
	context.AfterFunc(ctx, transport.CloseIdleConnections)
	g.doubt(time.Now(), 0)
	return c, nil
}

// probe asks for what any server has and anybody may ask. What counts is that there is an answer.
func (c *Cluster) probe(ctx context.Context) error {
	req, err := http.NewRequestWithContext(context.WithValue(ctx, probing{}, true), http.MethodGet, c.config.Host+"/version", nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection is used again
	if resp.StatusCode >= http.StatusInternalServerError {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	return nil
}

// Reached tells whether the cluster can be reached: true; false and why not; or false alone: that is being found out. Our own
// cluster always counts as reached.
func (c *Cluster) Reached() (bool, error) {
	if c.gate == nil {
		return true, nil
	}
	return c.gate.state()
}

// ErrInDoubt ends a request while it is being found out whether its cluster can still be reached.
var ErrInDoubt = errors.New("it is being found out whether the cluster can be reached")

type (
	probing struct{}
	patient struct{}
)

// Patient gives a context whose requests wait for a cluster that is out of reach, for as long as the context lasts.
func Patient(ctx context.Context) context.Context { return context.WithValue(ctx, patient{}, true) }

// gate lets requests through to a cluster that can be reached. Who finds that it cannot sets off the probes that will tell when it
// can again; nobody else has to wait for that.
type gate struct {
	next    http.RoundTripper
	life    context.Context //nolint:containedctx // of the connection; the probes outlive the request that sets them off
	probe   func(context.Context) error
	changed func()

	suspects atomic.Bool // a probe beside the requests is under way

	mu     sync.Mutex
	up     bool
	probes bool
	since  time.Time     // up since then
	flaps  int           // how often in a row it was up for a short time only
	err    error         // why it is out of reach; nil: it is not, or that is being found out
	open   chan struct{} // closed while up
}

func (g *gate) state() (bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.up, g.err
}

// RoundTrip implements [http.RoundTripper].
func (g *gate) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if ctx.Value(probing{}) != nil {
		return g.next.RoundTrip(req)
	}
	if err := g.pass(ctx); err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	began := time.Now()
	slow := time.AfterFunc(probeLimit, g.suspect)
	resp, err := g.next.RoundTrip(req)
	slow.Stop()
	switch {
	case err == nil, errors.Is(err, errElsewhere), errors.Is(ctx.Err(), context.Canceled):
	case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded): // it may be this request alone: others have not to stop for it
		go g.suspect()
	default:
		g.doubt(began, doubtLimit)
	}
	return resp, err
}

// pass ends at once with why a request cannot go through, or waits until it can.
func (g *gate) pass(ctx context.Context) error {
	for {
		g.mu.Lock()
		up, err, open := g.up, g.err, g.open
		g.mu.Unlock()
		switch {
		case up:
			return nil
		case ctx.Value(patient{}) == nil && err != nil:
			return err
		case ctx.Value(patient{}) == nil:
			return ErrInDoubt
		}
		select {
		case <-open:
		case <-ctx.Done():
			return ctx.Err()
		case <-g.life.Done():
			return g.life.Err()
		}
	}
}

// suspect looks whether a cluster that takes long over a request still answers at all.
func (g *gate) suspect() {
	if up, _ := g.state(); !up || !g.suspects.CompareAndSwap(false, true) {
		return
	}
	defer g.suspects.Store(false)
	ctx, cancel := context.WithTimeout(g.life, probeLimit)
	defer cancel()
	if began := time.Now(); g.probe(ctx) != nil {
		g.doubt(began, doubtLimit)
	}
}

// doubt finds out whether the cluster can be reached, and says that it cannot after so long. What began before it was reached
// for the last time is no reason for doubt.
func (g *gate) doubt(began time.Time, after time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.probes || g.life.Err() != nil || began.Before(g.since) {
		return
	}
	g.probes = true
	now := time.Now()
	pause := time.Duration(0)
	if g.up {
		g.up, g.open = false, make(chan struct{})
		if g.flaps++; now.Sub(g.since) > 2*maxProbePause {
			g.flaps = 0
		}
		if g.flaps > 1 { // it answers a probe, and nothing else
			pause = min(probePause<<min(g.flaps-2, 10), maxProbePause)
		}
	}
	go g.restore(now.Add(after), pause)
}

// restore probes, after a pause, until the cluster is reached.
func (g *gate) restore(deadline time.Time, pause time.Duration) {
	for {
		select {
		case <-time.After(pause):
		case <-g.life.Done():
			return
		}
		ctx, cancel := context.WithTimeout(g.life, probeLimit)
		err := settled(g.probe(ctx))
		cancel()
		if g.life.Err() != nil {
			return
		}
		given := !time.Now().Before(deadline)
		if err == nil || given {
			g.found(err)
		}
		if err == nil {
			return
		}
		if pause = max(pause, probePause); given {
			pause = min(2*pause, maxProbePause)
		}
	}
}

// found takes in what a probe has found.
func (g *gate) found(err error) {
	g.mu.Lock()
	news := err == nil || g.err == nil || g.err.Error() != err.Error()
	g.err = err
	if err == nil {
		g.up, g.probes, g.since = true, false, time.Now()
		close(g.open)
	}
	g.mu.Unlock()
	if news {
		g.changed()
	}
}

// settled gives an error in words that are the same each time: without the URL, the port of our own end, and the time.
func settled(err error) error {
	var op *net.OpError
	var u *url.Error
	var name *net.DNSError
	var invalid x509.CertificateInvalidError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil:
		return fmt.Errorf("the server's certificate has expired or is not valid yet: it is valid from %s until %s",
			invalid.Cert.NotBefore.UTC().Format(time.RFC3339), invalid.Cert.NotAfter.UTC().Format(time.RFC3339))
	case errors.As(err, &name):
		why := name.Err
		if strings.Contains(why, "->") { // both ends of the connection to the name server
			why = why[strings.LastIndex(why, ": ")+len(": "):]
		}
		return fmt.Errorf("look up %s: %s", name.Name, why)
	case errors.As(err, &op) && op.Addr != nil:
		return fmt.Errorf("%s %s: %w", op.Op, op.Addr, op.Err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer within %s", probeLimit)
	case errors.As(err, &u):
		return u.Err
	}
	return err
}

// bounds gives an answer bounded time and size: but for watches, which go on, and whose events the client bounds.
type bounds struct{ next http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (b bounds) RoundTrip(req *http.Request) (*http.Response, error) {
	watch := req.URL.Query().Get("watch")
	if watch == "true" || watch == "1" {
		return b.answer(b.next.RoundTrip(req))
	}
	ctx, cancel := context.WithTimeout(req.Context(), requestLimit)
	resp, err := b.answer(b.next.RoundTrip(req.WithContext(ctx)))
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &boundedBody{Reader: io.LimitReader(resp.Body, maxAnswer+1), body: resp.Body, done: cancel}
	return resp, nil
}

var errElsewhere = errors.New("an API server does not send its clients elsewhere")

// answer refuses to be sent elsewhere: whoever is reached there would be given the credentials.
func (b bounds) answer(resp *http.Response, err error) (*http.Response, error) {
	if err != nil || resp.StatusCode < 300 || resp.StatusCode >= 400 || resp.Header.Get("Location") == "" {
		return resp, err
	}
	resp.Body.Close()
	return nil, fmt.Errorf("it answers %s: %w", resp.Status, errElsewhere)
}

// boundedBody is the body of an answer that must not be larger than maxAnswer.
type boundedBody struct {
	io.Reader
	body io.ReadCloser
	done func()
	read int64
}

// Read implements [io.Reader].
func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if b.read += int64(n); b.read > maxAnswer {
		return 0, fmt.Errorf("the answer is larger than %d MiB", maxAnswer>>20)
	}
	return n, err
}

// Close implements [io.Closer].
func (b *boundedBody) Close() error {
	b.done()
	return b.body.Close()
}

// WrappedRoundTripper lets client-go find the transport below.
func (g *gate) WrappedRoundTripper() http.RoundTripper  { return g.next }
func (b bounds) WrappedRoundTripper() http.RoundTripper { return b.next }
