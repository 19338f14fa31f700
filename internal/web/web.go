// Package web serves the dashboard, and what it shows as JSON.
//
//	GET /…             the dashboard's pages, which are made in the browser from the API
//	GET /assets/…      what they load
//	GET /api/apps      {"apps":[…]}
//	GET /api/sources   {"sources":[…]}
//	GET /healthz       200 "ok" while the process serves
//	GET /metrics       the numbers for Prometheus, where there are any
//	GET /debug/pprof/  profiles of the process, where that was asked for
//
// The dashboard (package keelson.dev/keelson/web) needs nothing from elsewhere: no script, no font, no image; its Content-Security-Policy
// allows none. What comes through the Lister port is shown as it is, so the lister takes secrets out first.
package web

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// State is how an app or a source is doing.
type State string

// The states.
const (
	Ready     State = "Ready"
	Working   State = "Working" // on its way, or waiting for something that is watched
	Failing   State = "Failing"
	Suspended State = "Suspended"
	OutOfSync State = "OutOfSync" // it differs from Git, and stays so until somebody asks for a sync
	Unknown   State = "Unknown"   // nobody has looked at it yet
)

// Status is what apps and sources have in common.
type Status struct {
	Kind      string    `json:"kind"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	State     State     `json:"state"`
	Reason    string    `json:"reason,omitempty"`
	Message   string    `json:"message,omitempty"`
	Revision  string    `json:"revision,omitempty"` // "main@sha1:<hex>": applied, for an app; fetched, for a source
	Since     time.Time `json:"since,omitzero"`     // when the state was last another one
	Created   time.Time `json:"created"`
	Warnings  []string  `json:"warnings,omitempty"`
}

// Source is one source.
type Source struct {
	Status
	URL string `json:"url"` // without userinfo
	Ref string `json:"ref"` // "main", "v1.2.0", …
}

// Lister says what there is, sorted. Both methods answer with an error while there is no cluster yet.
type Lister interface {
	Apps(ctx context.Context) ([]App, error)
	Sources(ctx context.Context) ([]Source, error)
}

// Options of the dashboard.
type Options struct {
	Lister   Lister
	Assets   fs.FS // the built dashboard, whose files are each kept as FILE.gz; nil: there is none
	Version  string
	Loopback bool         // refuse requests for any host name but this machine's: no other web site's page can read this one
	Metrics  http.Handler // serves /metrics; nil: there is none
	Pprof    http.Handler // serves /debug/pprof/; nil: there is none
	// Authorize tells who may see what; nil: everybody may see everything.
	Authorize Authorize
	// Guard is in front of all but /healthz, and knows people; nil: nobody is.
	Guard  func(http.Handler) http.Handler
	Logger *slog.Logger
}

// listTimeout bounds what one page view may wait for the cluster.
const listTimeout = 5 * time.Second

type server struct{ Options }

// New makes the dashboard's handler.
func New(opts Options) http.Handler {
	s := &server{opts}
	mux := http.NewServeMux()
	mux.Handle("/", spa{opts.Assets})
	mux.HandleFunc("GET /api/apps", s.apps)
	mux.HandleFunc("GET /api/sources", s.sources)
	if opts.Metrics != nil {
		mux.Handle("GET /metrics", s.watching(opts.Metrics))
	}
	if opts.Pprof != nil {
		mux.Handle("/debug/pprof/", s.watching(opts.Pprof))
	}
	inside := http.Handler(mux)
	if opts.Guard != nil {
		inside = opts.Guard(inside)
	}
	outside := http.NewServeMux()
	outside.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	outside.Handle("/", inside)
	return s.guard(outside)
}

// watching is in front of what tells about the process itself.
func (s *server) watching(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.Authorize.allowed(w, r, VerbGet, Target{Group: KeelsonGroup, Resource: "metrics"}) {
			next.ServeHTTP(w, r)
		}
	})
}

// guard sets the headers that every answer has and turns away requests under a foreign host name.
func (s *server) guard(next http.Handler) http.Handler {
	if s.Loopback {
		next = LocalOnly(next)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// LocalOnly turns away requests under any host name but this machine's: no other web site's page can read what next serves.
func LocalOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isLoopback(r.Host) {
			http.Error(w, "this server answers to this machine's own names only: use 127.0.0.1", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func isLoopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

func (s *server) apps(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), listTimeout)
	defer cancel()
	list, err := s.seenApps(ctx)
	s.answer(w, "apps", append([]App{}, list...), err)
}

func (s *server) sources(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), listTimeout)
	defer cancel()
	list, err := s.seenSources(ctx)
	s.answer(w, "sources", append([]Source{}, list...), err)
}

// seenApps lists the apps that who is in front may see.
func (s *server) seenApps(ctx context.Context) ([]App, error) {
	all, err := s.Lister.Apps(ctx)
	if err != nil {
		return nil, err
	}
	return visible(ctx, s.Authorize, all, func(a App) Target { return TargetOf(a.Kind, a.Namespace, a.Name) })
}

// seenSources lists the sources that who is in front may see.
func (s *server) seenSources(ctx context.Context) ([]Source, error) {
	all, err := s.Lister.Sources(ctx)
	if err != nil {
		return nil, err
	}
	return visible(ctx, s.Authorize, all, func(a Source) Target { return TargetOf(a.Kind, a.Namespace, a.Name) })
}

func (s *server) answer(w http.ResponseWriter, name string, list any, err error) {
	w.Header().Set("Content-Type", "application/json")
	v := map[string]any{name: list}
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		v = map[string]any{"error": s.unavailable(err)}
	}
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

// unavailable logs why the cluster could not be asked; a visitor is told that it could not.
func (s *server) unavailable(errs ...error) string {
	for _, err := range errs {
		if err != nil {
			s.Logger.Warn("dashboard: ask the cluster", "error", err)
		}
	}
	return "The cluster does not answer. This page tries again by itself."
}
