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
	"keelson.dev/keelson/internal/web"
)

// appsServer serves the API of apps: requests that come before the cluster is known are told so.
type appsServer struct {
	feed      *web.Feed
	sight     *web.Sight
	authorize web.Authorize
	leaving   chan struct{}
	leave     func()         // ends what is followed
	pipelines *lazyPipelines // where they are played they serve the stream of all changes; nil: nowhere
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
	if s.pipelines != nil {
		api.deliveries = func(ctx context.Context, id int64) (history.Delivery, error) {
			db, err := s.pipelines.db()
			if err != nil {
				return history.Delivery{}, err
			}
			return db.Delivery(ctx, id)
		}
		api.deliver, api.asks = s.deliver, &s.pipelines.own
	}
	index := newAppIndex(s.feed)
	if err := watchApps(ctx, api.own, index, log); err != nil {
		return fmt.Errorf("watch apps: %w", err)
	}
	h := web.NewApps(web.AppsOptions{
		Index: index, Feed: s.feed, Cluster: api, Sight: s.sight, Authorize: s.authorize, Document: apiDocument, Leaving: s.leaving, Record: s.record, Log: log,
	})
	s.handler.Store(&h)
	return nil
}

// deliver keeps what was delivered past the controllers, where there is a history.
func (s *appsServer) deliver(d history.Delivery) {
	if p := s.pipelines.get(); p != nil {
		p.kept.Delivery(d)
	}
}

// record keeps what people have asked for, where there is an audit.
func (s *appsServer) record(e audit.Entry) {
	if s.pipelines == nil {
		return
	}
	if p := s.pipelines.get(); p != nil {
		p.auditor.Record(e)
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
	if r.URL.Path == web.EventsPath && s.pipelines != nil && s.pipelines.get() != nil {
		s.pipelines.ServeHTTP(w, r)
		return
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
