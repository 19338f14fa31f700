package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	authv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/web"
)

// appsServer serves the API of apps: requests that come before the cluster is known are told so.
type appsServer struct {
	feed      *web.Feed
	sight     *web.Sight
	authorize web.Authorize // nil: the cluster is asked, by itself
	leaving   chan struct{}
	leave     func()         // ends what is followed
	pipelines *lazyPipelines // where they are played they serve the stream of all changes; nil: nowhere
	api       atomic.Pointer[clusterAPI]
	handler   atomic.Pointer[http.Handler]
}

func newAppsServer() *appsServer {
	s := &appsServer{feed: web.NewFeed(time.Now()), leaving: make(chan struct{})}
	s.leave = sync.OnceFunc(func() { close(s.leaving) })
	s.sight = web.NewSight(func(ctx context.Context, who web.Person, verb string, on web.Target) error {
		if s.authorize != nil {
			return s.authorize(ctx, who, verb, on)
		}
		api := s.api.Load()
		if api == nil {
			return errNoCluster
		}
		return api.authorize(ctx, who, verb, on)
	})
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
	s.api.Store(api)
	index := newAppIndex(s.feed)
	if err := watchApps(ctx, api.own, index, log); err != nil {
		return fmt.Errorf("watch apps: %w", err)
	}
	h := web.NewApps(web.AppsOptions{
		Index: index, Feed: s.feed, Cluster: api, Sight: s.sight, Document: apiDocument, Leaving: s.leaving, Record: s.record, Log: log,
	})
	s.handler.Store(&h)
	return nil
}

// apiDocument is the OpenAPI document of all of /api/v1.
var apiDocument = sync.OnceValues(func() ([]byte, error) { return web.OpenAPI(version, apiRoutes()) })

// apiRoutes are all routes below /api/v1.
func apiRoutes() []web.Route { return web.Routes() }

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

// tokenGuard lets those in who have a token: they are administrators, whose name they say themselves.
func tokenGuard(token string) func(http.Handler) http.Handler {
	want := sha256.Sum256([]byte(token))
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			have := sha256.Sum256([]byte(given))
			if ok && token != "" && subtle.ConstantTimeCompare(have[:], want[:]) == 1 {
				r = r.WithContext(web.WithPerson(r.Context(), web.Person{Name: "keelson:admin", Groups: []string{"system:masters"}}))
			}
			next.ServeHTTP(w, r)
		})
	}
}

// authorize implements [web.Authorize]: the cluster says what the person may.
func (a *clusterAPI) authorize(ctx context.Context, who web.Person, verb string, on web.Target) error {
	user, err := a.cluster.Person(who.Name, who.Groups)
	if err != nil {
		return err
	}
	config, by := user.REST()
	reviews, err := authclient.NewForConfigAndClient(config, by)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	res, err := reviews.SelfSubjectAccessReviews().Create(ctx, &authv1.SelfSubjectAccessReview{Spec: authv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authv1.ResourceAttributes{Verb: verb, Group: on.Group, Resource: on.Resource, Namespace: on.Namespace, Name: on.Name},
	}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("ask whether %s may %s %s: %w", who.Name, verb, on.Resource, err)
	}
	if !res.Status.Allowed {
		return fmt.Errorf("%w: %s may not %s %s.%s in namespace %q", web.ErrForbidden, who.Name, verb, on.Resource, on.Group, on.Namespace)
	}
	return nil
}
