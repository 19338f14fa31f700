package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/web"
)

// appsServer serves the API of apps: requests that come before the cluster is known are told so.
type appsServer struct {
	feed      *web.Feed
	sight     *web.Sight
	authorize web.Authorize
	leaving   chan struct{}
	leave     func() // ends what is followed
	kept      keeper // has the deliveries and the audit, and serves the stream of all changes; nil: nobody does
	handler   atomic.Pointer[http.Handler]
}

// newAppsServer makes one; authorize tells who sees which apps, and may do what to them.
func newAppsServer(authorize web.Authorize) *appsServer {
	s := &appsServer{feed: web.NewFeed(time.Now()), sight: web.NewSight(authorize), authorize: authorize, leaving: make(chan struct{})}
	s.leave = sync.OnceFunc(func() { close(s.leaving) })
	return s
}

// start begins to watch the cluster, until ctx ends.
func (s *appsServer) start(ctx context.Context, config *rest.Config, policy delivery.Policy, log *slog.Logger) error {
	cluster, err := kube.NewCluster(config)
	if err != nil {
		return err
	}
	api, err := newClusterAPI(cluster, policy, log)
	if err != nil {
		return err
	}
	if s.kept != nil {
		api.deliveries = func(ctx context.Context, id int64) (history.Delivery, error) {
			db, err := s.kept.db()
			if err != nil {
				return history.Delivery{}, err
			}
			return db.Delivery(ctx, id)
		}
		api.deliver, api.asks = s.deliver, s.kept.asks()
	}
	index := newAppIndex(s.feed)
	if err := watchApps(ctx, api.own, index, log); err != nil {
		return fmt.Errorf("watch apps: %w", err)
	}
	if s.kept != nil {
		go s.nameCommits(ctx, index, log)
	}
	h := web.NewApps(web.AppsOptions{
		Index: index, Feed: s.feed, Cluster: api, Sight: s.sight, Authorize: s.authorize, Document: apiDocument, Leaving: s.leaving, Record: s.record, Log: log,
	})
	s.handler.Store(&h)
	return nil
}

// What is asked about commits at once, how long news of them is gathered, and the pause while the history is not there.
const commitsAtOnce, commitsPause, commitsLater = 500, 100 * time.Millisecond, 2 * time.Second

// nameCommits tells an index what the commits of its apps say, until ctx ends. It asks only where there is a commit that it does not know, or
// something new to be known.
func (s *appsServer) nameCommits(ctx context.Context, index *web.Index, log *slog.Logger) {
	var learned, erased <-chan struct{} // of who keeps the history, which may come later
	var of *store.DB                    // of which erased is
	for {
		if q := s.kept.queue(); q != nil {
			learned = q.learned
		}
		if db, err := s.kept.db(); err == nil && db != of {
			of, erased = db, db.Erased()
		}
		select {
		case <-ctx.Done():
			return
		case <-index.Wanted():
		case <-learned:
		case <-erased:
			erased = of.Erased()
			if q := s.kept.queue(); q != nil {
				q.forgetCommits()
			}
			index.Forget()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(commitsPause):
		}
		q := s.kept.queue()
		db, err := s.kept.db()
		shas := index.Unknown(commitsAtOnce)
		if len(shas) == 0 {
			continue
		}
		if q == nil || err != nil { // nobody else tells that the history is open
			if !pause(ctx, commitsLater) {
				return
			}
			index.Ask()
			continue
		}
		found, err := q.commitsOf(ctx, db, shas)
		if err != nil {
			log.Debug("look for what commits say", "error", err)
		}
		texts := make(map[string]web.CommitText, len(found))
		for sha, c := range found {
			texts[sha] = web.CommitText{Author: c.Author, Title: c.Title}
		}
		index.Know(texts)
		if err != nil && !pause(ctx, commitsLater) {
			return
		}
		if err != nil || len(shas) == commitsAtOnce && len(texts) > 0 { // there may be more of them
			index.Ask()
		}
	}
}

// deliver keeps what was delivered past the controllers, where there is a history.
func (s *appsServer) deliver(d history.Delivery) {
	if q := s.kept.queue(); q != nil {
		q.Delivery(d)
	}
}

// record keeps what people have asked for, where there is an audit.
func (s *appsServer) record(e audit.Entry) {
	if s.kept != nil {
		s.kept.record(e)
	}
}

// mount puts the API on a mux, behind a guard that says who asks.
func (s *appsServer) mount(mux *http.ServeMux, guard func(http.Handler) http.Handler) {
	for _, path := range web.AppsPaths {
		mux.Handle(path, guard(s))
	}
}

// ServeHTTP implements [http.Handler].
func (s *appsServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == web.EventsPath && s.kept != nil {
		if _, err := s.kept.db(); err == nil {
			s.kept.ServeHTTP(w, r)
			return
		}
	}
	if h := s.handler.Load(); h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Retry-After", "1")
	w.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprintf(w, "{\"error\":%q}\n", errNoCluster.Error())
}
