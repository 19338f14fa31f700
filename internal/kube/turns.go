package kube

import (
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// writesAtOnce bounds the writes under way. A server on two cores is busy with half of them; more would only wait there.
	writesAtOnce = 32
	// turn is how long a write may keep its place: one that takes longer (an admission webhook that hangs) hands it on, so
	// that it delays nobody else. From then on the server's own flow control is the limit.
	turn = time.Second
)

// turns is a transport that lets a bounded number of writes be under way at once, of all users of a cluster together.
type turns struct {
	next   http.RoundTripper
	places chan struct{}
}

// RoundTrip implements [http.RoundTripper].
func (t *turns) RoundTrip(req *http.Request) (*http.Response, error) {
	// A lease that is renewed late is lost, and reads do not burden a server that serves them from memory.
	if req.Method == http.MethodGet || strings.Contains(req.URL.Path, "/leases") {
		return t.next.RoundTrip(req)
	}
	select {
	case t.places <- struct{}{}:
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	leave := sync.OnceFunc(func() { <-t.places })
	defer leave()
	defer time.AfterFunc(turn, leave).Stop()
	return t.next.RoundTrip(req)
}

// WrappedRoundTripper lets client-go find the transport below.
func (t *turns) WrappedRoundTripper() http.RoundTripper { return t.next }
