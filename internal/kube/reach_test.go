package kube_test

import (
	"context"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/kube"
)

// TestReached: what is said of a cluster from the first look to the last, and what becomes of requests meanwhile.
func TestReached(t *testing.T) {
	var busy atomic.Bool
	handler := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if busy.Load() {
			rw.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if r.URL.Path == "/version" {
			_, _ = rw.Write([]byte(`{"gitVersion":"v1.0.0"}`))
			return
		}
		http.Redirect(rw, r, "http://127.0.0.1:1/elsewhere", http.StatusFound)
	})
	server := httptest.NewTLSServer(handler)
	address := server.Listener.Addr().String()
	server.Listener.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	news := make(chan struct{}, 10)
	remote := kube.Remote{Host: "https://" + address, CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})}
	c, err := remote.Connect(ctx, nil, func() { news <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	tell := func() {
		t.Helper()
		select {
		case <-news:
		case <-time.After(20 * time.Second):
			t.Fatal("nothing is said")
		}
	}
	tell()
	if up, err := c.Reached(); up || err == nil || !strings.Contains(err.Error(), address) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("of a server that does not listen: %v, %v", up, err)
	}
	start := time.Now()
	if _, err := c.Ping(ctx); err == nil || time.Since(start) > time.Second {
		t.Errorf("a request while the cluster is away ends after %s with %v", time.Since(start), err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := c.Ping(kube.Patient(ctx))
		waited <- err
	}()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	again := httptest.NewUnstartedServer(handler)
	again.Listener.Close()
	again.Listener = l
	again.StartTLS()
	defer again.Close()
	tell()
	if up, err := c.Reached(); !up || err != nil {
		t.Errorf("of a server that listens again: %v, %v", up, err)
	}
	if err := <-waited; err != nil {
		t.Errorf("who waited gets %v", err)
	}
	if _, err := c.Mapper().RESTMapping(schema.GroupKind{Kind: "ConfigMap"}); err == nil || !strings.Contains(err.Error(), "send its clients elsewhere") {
		t.Errorf("of a server that redirects: %v", err)
	}
	if up, err := c.Reached(); !up || err != nil {
		t.Errorf("of a server that has just redirected: %v, %v", up, err)
	}
	busy.Store(true)
	again.CloseClientConnections()
	again.Listener.Close()
	if _, err := c.Ping(ctx); err == nil {
		t.Error("a server that has gone answers")
	}
	if up, err := c.Reached(); up || err != nil {
		t.Errorf("at once after a failure: %v, %v, want no verdict", up, err)
	}
	if _, err := c.Ping(ctx); !errors.Is(err, kube.ErrInDoubt) {
		t.Errorf("a request while there is doubt: %v", err)
	}
	tell()
	if up, err := c.Reached(); up || err == nil {
		t.Errorf("of a server that has gone: %v, %v", up, err)
	}
	cancel()
	if _, err := c.Ping(kube.Patient(t.Context())); err == nil {
		t.Error("a connection that was closed answers")
	}
}

// slowServer is a server that answers at once, but for /hang: there it waits until it is let go, and then hangs up.
// Each that waits is told to hanging.
func slowServer(t *testing.T) (server *httptest.Server, hanging <-chan struct{}, letGo func()) {
	t.Helper()
	held, entered := make(chan struct{}), make(chan struct{}, 10)
	letGo = sync.OnceFunc(func() { close(held) })
	server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hang":
			entered <- struct{}{}
			<-held
			panic(http.ErrAbortHandler)
		case "/fail":
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(letGo)
	return server, entered, letGo
}

// TestDoubtIsAboutTheCluster: what ends one request only is no news of the cluster, and closes it for nobody else.
func TestDoubtIsAboutTheCluster(t *testing.T) {
	server, hanging, letGo := slowServer(t)
	news := make(chan struct{}, 10)
	c, err := kube.Remote{Host: server.URL}.Connect(t.Context(), nil, func() { news <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	get := func(ctx context.Context, path string) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+path, nil) // one that is not repeated unasked
		if err != nil {
			return err
		}
		resp, err := c.HTTPClient().Do(req)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	<-news // it is reached
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := get(short, "/hang"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a request with a deadline ends with %v", err)
	}
	<-hanging // the one that gave up
	if up, err := c.Reached(); !up || err != nil {
		t.Errorf("after the deadline of one request: %v, %v, want it reached", up, err)
	}

	old := make(chan error, 1)
	go func() { old <- get(t.Context(), "/hang") }()
	<-hanging
	if err := get(t.Context(), "/fail"); err == nil {
		t.Fatal("who is hung up on gets an answer")
	}
	if up, err := c.Reached(); up || err != nil {
		t.Errorf("after a connection has broken: %v, %v, want no verdict", up, err)
	}
	<-news
	if up, err := c.Reached(); !up || err != nil {
		t.Errorf("of a server that answers the probe: %v, %v", up, err)
	}
	letGo()
	if err := <-old; err == nil {
		t.Fatal("who is hung up on gets an answer")
	}
	if up, err := c.Reached(); !up || err != nil {
		t.Errorf("after a request has failed that began before that: %v, %v, want it reached", up, err)
	}
}
