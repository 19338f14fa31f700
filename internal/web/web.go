// Package web serves the dashboard: one read-only page, made on the server, and the same data as JSON.
//
//	GET /              the page; it loads itself again every few seconds
//	GET /api/apps      {"apps":[…]}
//	GET /api/sources   {"sources":[…]}
//	GET /healthz       200 "ok" while the process serves
//	GET /metrics       the numbers for Prometheus, where there are any
//	GET /debug/pprof/  profiles of the process, where that was asked for
//
// The page needs nothing from elsewhere: no script, no font, no image; its Content-Security-Policy allows none.
// What it shows comes through the Lister port and is shown as it is, so the lister takes secrets out first.
package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
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

//go:embed page.html
var pageText string

//go:embed page.css
var pageStyle string

type server struct {
	Options
	page *template.Template
	csp  string
}

// New makes the dashboard's handler.
func New(opts Options) http.Handler {
	sum := sha256.Sum256([]byte(pageStyle))
	s := &server{
		Options: opts,
		page:    template.Must(template.New("page").Funcs(template.FuncMap{"age": age, "short": short, "lower": lower}).Parse(pageText)),
		csp: "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
			"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.index)
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

// view is what the page shows.
type view struct {
	Style   template.CSS
	Version string
	Now     time.Time
	Err     string
	Counts  []count
	Apps    []App
	Sources []Source
}

type count struct {
	State State
	N     int
}

func (s *server) index(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), listTimeout)
	defer cancel()
	v := view{Style: template.CSS(pageStyle), Version: s.Version, Now: time.Now()}
	apps, err := s.seenApps(ctx)
	sources, err2 := []Source(nil), error(nil)
	if err == nil {
		sources, err2 = s.seenSources(ctx)
	}
	status := http.StatusOK
	if err != nil || err2 != nil {
		status = http.StatusServiceUnavailable
		v.Err = s.unavailable(err, err2)
	}
	v.Apps, v.Sources, v.Counts = apps, sources, counts(apps)
	var page bytes.Buffer
	if err := s.page.Execute(&page, v); err != nil {
		s.Logger.Error("make the dashboard's page", "error", err)
		http.Error(w, "the page could not be made; the log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Security-Policy", s.csp)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = page.WriteTo(w) // the browser may be gone
}

func counts(apps []App) []count {
	var list []count
	for _, state := range []State{Failing, OutOfSync, Working, Unknown, Suspended, Ready} {
		n := 0
		for _, a := range apps {
			if a.State == state {
				n++
			}
		}
		if n > 0 {
			list = append(list, count{state, n})
		}
	}
	return list
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

// age is a duration as kubectl writes it, in its one largest unit.
func age(now, t time.Time) string {
	d := now.Sub(t)
	switch {
	case t.IsZero():
		return ""
	case d < time.Second:
		return "now"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

// short cuts the commit in a revision to seven digits.
func short(revision string) string {
	name, id, ok := strings.Cut(revision, "sha1:")
	if ok && len(id) > 7 {
		id = id[:7]
	}
	return strings.TrimSuffix(name, "@") + sep(name) + id
}

func sep(name string) string {
	if name == "" {
		return ""
	}
	return " "
}

func lower(s State) string { return strings.ToLower(string(s)) }
