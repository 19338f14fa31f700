package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"sync/atomic"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/telemetry"
	"keelson.dev/keelson/internal/web"
)

// lazyState is empty until there are controllers.
type lazyState struct {
	state atomic.Pointer[func() telemetry.State]
}

func (l *lazyState) set(state func() telemetry.State) { l.state.Store(&state) }

func (l *lazyState) get() telemetry.State {
	if state := l.state.Load(); state != nil {
		return (*state)()
	}
	return telemetry.State{}
}

// metricsHandler serves our numbers and those of controller-runtime: queues, API requests, the process and Go's runtime.
func metricsHandler(log *slog.Logger, state *lazyState) http.Handler {
	return telemetry.Handler(log, version, state.get, metrics.Registry)
}

// pprofHandler serves the profiles of the process below /debug/pprof/.
func pprofHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index) // and every profile that the runtime knows by name
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// startTracing makes spans if the environment asks for them. What is wrong with its wishes is said and delays nothing.
func startTracing(ctx context.Context, log *slog.Logger) (stop func()) {
	end, err := telemetry.StartTracing(ctx, telemetry.TracingOptions{Version: version, Redact: redact.Text, Logger: log})
	if err != nil {
		log.Warn("no spans are sent", "error", redact.Text(err.Error()))
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		if err := end(ctx); err != nil {
			log.Warn("the last spans are lost", "error", redact.Text(err.Error()))
		}
	}
}

// observers are the addresses on which keelson server tells about itself; empty: it does not.
type observers struct {
	metrics, pprof string
}

// serve listens on the addresses; one may be the same as the other. The servers are closed when ctx ends; a failure of one
// that serves goes to ended.
func (o observers) serve(ctx context.Context, log *slog.Logger, state *lazyState, ended chan<- error) error {
	muxes := map[string]*http.ServeMux{}
	for _, what := range []struct {
		flag, address, path string
		handler             http.Handler
	}{
		{"--metrics", o.metrics, "GET /metrics", metricsHandler(log, state)},
		{"--pprof", o.pprof, "/debug/pprof/", pprofHandler()},
	} {
		if what.address == "" {
			continue
		}
		address, err := localUnlessStated(what.flag, what.address)
		if err != nil {
			return err
		}
		mux, shared := muxes[address]
		if !shared {
			mux = http.NewServeMux()
			muxes[address] = mux
		}
		mux.Handle(what.path, what.handler)
		if shared {
			continue
		}
		if err := serveOn(ctx, what.flag, address, mux, log, ended); err != nil {
			return err
		}
	}
	return nil
}

// localUnlessStated completes an address: without a host it is this machine's own.
func localUnlessStated(flag, address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" {
		return "", usagef("%s %s: it takes HOST:PORT, as 127.0.0.1:8081", flag, address)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

func serveOn(ctx context.Context, flag, address string, handler http.Handler, log *slog.Logger, ended chan<- error) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return hintf(fmt.Errorf("listen: %w", err), "%s takes HOST:PORT", flag)
	}
	a, ok := listener.Addr().(*net.TCPAddr)
	local := ok && a.IP.IsLoopback()
	if local {
		handler = web.LocalOnly(handler)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	context.AfterFunc(ctx, func() { server.Close() })
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			ended <- fmt.Errorf("serve: %w", err)
		}
	}()
	log.Info("listening for "+flag, "address", listener.Addr().String())
	if !local {
		log.Warn("others on the network can read what "+flag+" serves", "address", listener.Addr().String())
	}
	return nil
}
