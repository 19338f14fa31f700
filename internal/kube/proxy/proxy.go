// Package proxy is the way of CI jobs to a cluster: an HTTP handler in front of its API server, for short-lived tokens.
//
//	p, err := proxy.New(config, proxy.Options{})
//	server := p.Server()                            // with bounds; the caller gives it a listener and a certificate
//	token, revoke, err := p.Grant(proxy.Grant{Job: "12", Account: proxy.Account{Namespace: "shop", Name: "deploy"}, …})
//	vars, err := proxy.Access{Server: url, CA: pem, Contexts: []proxy.Context{{Name: "group/shop:production", Token: token}}}.Variables()
//	…
//	revoke()                                        // when the job has ended
//
// # Who a job is
//
// A request comes with a token and goes on with Keelson's own rights, which it uses for one thing: to impersonate the service account
// of the grant. The API server adds that account's groups, and decides by its roles. Whatever a client says about who it is, or
// where it comes from, is taken out before.
//
// # What goes through
//
// All that a client of the Kubernetes API does: reads, writes, watches, logs that are followed, exec, attach and port-forward by
// websocket and SPDY. Nothing else: no other paths of the server, no path that two programs could read differently, no other
// protocols. A token that is revoked or expires cuts off what runs with it.
//
// # What is written
//
// The handler tells of every write that the cluster has accepted, so that one can follow what a job has deployed; see [Written].
//
// Errors are Status objects, as those of an API server, for the person who reads the job's log.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"
)

// Bounds of what clients may do.
const (
	maxBody   = 16 << 20 // bytes of a request; the API server takes 3 MiB of an object
	maxHeader = 64 << 10 // bytes of a request's headers
	maxAtOnce = 256      // requests of a token at a time, watches counted too

	headerLimit = 10 * time.Second // until all headers are there
	bodyLimit   = time.Minute      // until the body is there
	idleLimit   = 2 * time.Minute  // of a connection
)

// Options are how a [Proxy] works. The zero value is what a cluster needs in which Keelson may impersonate service accounts and
// nothing else.
type Options struct {
	// Audit has the audit log of the API server name the job: an extra field of the user, keelson.dev/job, with the project's path
	// and the job's id. Keelson itself needs a right for that, besides that to impersonate service accounts: the verb impersonate
	// on the resource userextras/keelson.dev/job of the group authentication.k8s.io.
	Audit bool
	// Key is a secret from which tokens follow, so that a job that outlives this process gets its token again from the next one. Empty: tokens
	// are random.
	Key []byte
}

// Proxy is an [http.Handler] that leads to a cluster's API server. It is safe for concurrent use.
type Proxy struct {
	o        Options
	target   *url.URL
	grants   grants
	plain    *httputil.ReverseProxy
	upgraded *httputil.ReverseProxy
}

// New makes a proxy for the API server of config, which holds Keelson's own rights.
func New(config *rest.Config, o Options) (*Proxy, error) {
	config = rest.CopyConfig(config)
	config.Impersonate = rest.ImpersonationConfig{}
	config.DisableCompression = true // what comes compressed goes on so
	target, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("find the API server %s: %w", config.Host, err)
	}
	p := &Proxy{o: o, target: target, grants: grants{byID: map[string]*grant{}}}
	if p.plain, err = p.through(config); err != nil {
		return nil, err
	}
	if config.Transport == nil { // one that is given has its own protocols
		config.NextProtos = []string{"http/1.1"} // the one that can be switched to another one
	}
	p.upgraded, err = p.through(config)
	return p, err
}

// through makes the handler that passes requests on.
func (p *Proxy) through(config *rest.Config) (*httputil.ReverseProxy, error) {
	rt, err := rest.TransportFor(config)
	if err != nil {
		return nil, fmt.Errorf("make client for %s: %w", config.Host, err)
	}
	return &httputil.ReverseProxy{
		Rewrite: p.rewrite, Transport: rt, FlushInterval: -1, BufferPool: buffers{}, ModifyResponse: returned, ErrorHandler: fail,
		ErrorLog: log.New(io.Discard, "", 0), // what goes wrong is told to the client
	}, nil
}

// Server is an HTTP server for the proxy, with bounds on what strangers may do before they have shown a token.
func (p *Proxy) Server() *http.Server {
	return &http.Server{
		Handler: p, DisableGeneralOptionsHandler: true, ReadHeaderTimeout: headerLimit, IdleTimeout: idleLimit, MaxHeaderBytes: maxHeader,
		ErrorLog: log.New(io.Discard, "", 0), // of connections that strangers break
	}
}

// passage is a request on its way through: what is known about it, in its context.
type passage struct {
	*grant
	asked
	body  *timelyBody // nil: the request has none
	write *Written    // nil: the request writes nothing
}

type passageKey struct{}

func passageOf(ctx context.Context) *passage {
	p, _ := ctx.Value(passageKey{}).(*passage)
	return p
}

// ServeHTTP implements [http.Handler].
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g, wrong := p.admit(r)
	if wrong != nil {
		wrong.write(w, r)
		return
	}
	if g.busy.Add(1) > maxAtOnce {
		g.busy.Add(-1)
		(&refusal{http.StatusTooManyRequests, fmt.Sprintf("the job has %d requests and watches under way: end some", maxAtOnce)}).write(w, r)
		return
	}
	defer g.busy.Add(-1)
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer context.AfterFunc(g.ctx, func() { cancel(context.Cause(g.ctx)) })()

	way := &passage{grant: g}
	if way.asked, wrong = check(r); wrong != nil {
		wrong.write(w, r)
		return
	}
	if r.ContentLength > maxBody {
		tooLarge(maxBody).write(w, r)
		return
	}
	if r.ContentLength != 0 {
		way.body = timely(w, http.MaxBytesReader(w, r.Body, maxBody))
		r.Body = way.body
	}
	if way.write, wrong = writeOf(r, way.info); wrong != nil {
		wrong.write(w, r)
		return
	}
	r = r.WithContext(context.WithValue(ctx, passageKey{}, way))
	if way.upgrade != "" {
		p.upgraded.ServeHTTP(w, r)
		return
	}
	p.plain.ServeHTTP(w, r)
}

// timely gives a body that has to come within its time. What comes after it may take longer: who waits for an answer is not late.
func timely(w http.ResponseWriter, body io.ReadCloser) *timelyBody {
	b := &timelyBody{ReadCloser: body, until: http.NewResponseController(w).SetReadDeadline}
	_ = b.until(time.Now().Add(bodyLimit)) // where the server can
	return b
}

type timelyBody struct {
	io.ReadCloser
	until func(time.Time) error
	over  atomic.Bool
}

// Read implements [io.Reader].
func (b *timelyBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF && !b.over.Swap(true) {
		_ = b.until(time.Time{})
	}
	return n, err
}

// cut ends whoever reads a body that has not come whole.
func (b *timelyBody) cut() {
	if !b.over.Swap(true) {
		_ = b.until(time.Now())
	}
}

// answered is the body of an answer. With its end nobody waits for the request's body any more: an API server may refuse a request before it
// has read that, a client (Go's) then sends no more of it, and the reverse proxy ends its answer only when the request's body has ended.
type answered struct {
	io.ReadCloser
	asked *timelyBody
}

// returned sees to an answer before the client has it.
func returned(resp *http.Response) error {
	way := passageOf(resp.Request.Context())
	if way != nil && way.body != nil && resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body = answered{resp.Body, way.body}
	}
	return tell(resp)
}

// Close implements [io.Closer].
func (a answered) Close() error {
	a.asked.cut()
	return a.ReadCloser.Close()
}

// admit gives the grant of a request's token.
func (p *Proxy) admit(r *http.Request) (*grant, *refusal) {
	token, ok := bearer(r.Header)
	if !ok {
		return nil, &refusal{http.StatusUnauthorized, "a job's token is needed: KUBECONFIG and KUBE_TOKEN have it, in a job that has an environment with access to a cluster"}
	}
	g := p.grants.find(token)
	if g == nil {
		return nil, &refusal{http.StatusUnauthorized, "this is no token of a job: use the job's own KUBECONFIG or KUBE_TOKEN, which another job or an earlier run cannot have"}
	}
	if why := context.Cause(g.ctx); why != nil {
		return nil, ended(g, why)
	}
	if g.Account == (Account{}) && g.Why != "" {
		return nil, &refusal{http.StatusForbidden, g.Why}
	}
	if g.Account == (Account{}) {
		where := "a job without an environment"
		if g.Environment != "" {
			where = "environment " + g.Environment
		}
		return nil, &refusal{http.StatusForbidden, fmt.Sprintf(
			"no service account is set for %s: name one in the Project; keelson ci rbac writes one with its rights", where)}
	}
	return g, nil
}

// ended tells that a token is good no more, and what to do.
func ended(g *grant, why error) *refusal {
	text := why.Error()
	switch {
	case errors.Is(why, errExpired):
		text += fmt.Sprintf(" at %s: start job %s again, or give it a longer timeout", g.Expires.UTC().Format(time.RFC3339), g.Job)
	case errors.Is(why, errRevoked):
		text += fmt.Sprintf(": only job %s itself can use it, while it runs", g.Job)
	}
	return &refusal{http.StatusUnauthorized, text}
}

// auditKey is the extra field of the user that names the job.
const auditKey = "keelson.dev/job"

// rewrite makes of a client's request one of Keelson's, which impersonates.
func (p *Proxy) rewrite(r *httputil.ProxyRequest) {
	way := passageOf(r.In.Context())
	out := r.Out
	strip(out.Header)
	out.Trailer = nil
	out.Host = ""
	out.URL.Scheme, out.URL.Host = p.target.Scheme, p.target.Host
	out.URL.Path, out.URL.RawPath = strings.TrimSuffix(p.target.Path, "/")+way.path, ""
	out.Header.Set(transport.ImpersonateUserHeader, way.Account.user())
	if p.o.Audit {
		name := strings.TrimPrefix(way.Project+"/"+way.Job, "/")
		out.Header[transport.ImpersonateUserExtraHeaderPrefix+url.PathEscape(auditKey)] = []string{name}
	}
	if way.write != nil {
		out.Header.Del("Accept-Encoding")
		out.Header.Set("Accept", wholeObjects(strings.Join(out.Header.Values("Accept"), ",")))
	}
}

// fail tells a client that its request did not get through.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	way := passageOf(r.Context())
	var large *http.MaxBytesError
	switch {
	case way != nil && slices.Contains([]error{errExpired, errRevoked}, context.Cause(r.Context())):
		ended(way.grant, context.Cause(r.Context())).write(w, r)
	case errors.As(err, &large):
		tooLarge(large.Limit).write(w, r)
	default:
		(&refusal{http.StatusServiceUnavailable, fmt.Sprintf(
			"Keelson cannot reach the cluster's API server: %v. When it is back, start the job again", err)}).write(w, r)
	}
}

// buffers are kept for copies of answers.
type buffers struct{}

var pool = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// Get implements [httputil.BufferPool].
func (buffers) Get() []byte { return *pool.Get().(*[]byte) }

// Put implements [httputil.BufferPool].
func (buffers) Put(b []byte) { pool.Put(&b) }
