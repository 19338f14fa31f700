package kube

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// writesAtOnce bounds the writes under way. A server on two cores is busy with half of them; more would only wait there.
	writesAtOnce = 32
	// patience is how long a write may keep its place: one that takes longer (an admission webhook that hangs) hands it on,
	// so that it delays nobody else. From then on the server's own flow control is the limit.
	patience = time.Second
)

// Places lets a bounded number of things go on at once, and none of them hold up the others: who takes longer than the
// patience goes on, but no longer counts.
type Places struct {
	taken    chan struct{}
	patience time.Duration
}

// NewPlaces makes n places.
func NewPlaces(n int, patience time.Duration) *Places {
	return &Places{taken: make(chan struct{}, n), patience: patience}
}

// Enter waits for a place. The caller calls leave, once or more often, when it is done. The error is that of ctx.
func (p *Places) Enter(ctx context.Context) (leave func(), err error) {
	select {
	case p.taken <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return p.leaving(), nil
}

// TryEnter is [Places.Enter] where a place is free; false: none is. It never waits.
func (p *Places) TryEnter() (leave func(), ok bool) {
	select {
	case p.taken <- struct{}{}:
		return p.leaving(), true
	default:
		return nil, false
	}
}

// leaving gives the way out of a place that was just taken.
func (p *Places) leaving() func() {
	free := sync.OnceFunc(func() { <-p.taken })
	timer := time.AfterFunc(p.patience, free)
	return func() { timer.Stop(); free() }
}

// turns is a transport that lets a bounded number of writes be under way at once, of all users of a cluster together.
type turns struct {
	next   http.RoundTripper
	places *Places
}

// RoundTrip implements [http.RoundTripper].
func (t *turns) RoundTrip(req *http.Request) (*http.Response, error) {
	// A lease that is renewed late is lost, and reads do not burden a server that serves them from memory.
	if req.Method == http.MethodGet || strings.Contains(req.URL.Path, "/leases") {
		return t.next.RoundTrip(req)
	}
	leave, err := t.places.Enter(req.Context())
	if err != nil {
		return nil, err
	}
	defer leave()
	return t.next.RoundTrip(req)
}

// WrappedRoundTripper lets client-go find the transport below.
func (t *turns) WrappedRoundTripper() http.RoundTripper { return t.next }
