package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"keelson.dev/keelson/internal/controller"
	"keelson.dev/keelson/internal/hook"
	"keelson.dev/keelson/internal/web"
)

// lazyHooks is not ready until there are controllers.
type lazyHooks struct {
	controller atomic.Pointer[controller.Controller]
}

func (l *lazyHooks) set(c *controller.Controller) { l.controller.Store(c) }

// Receive implements web.Hooks.
func (l *lazyHooks) Receive(ctx context.Context, path string, read func() (hook.Request, error)) hook.Answer {
	if c := l.controller.Load(); c != nil {
		return c.Receive(ctx, path, read)
	}
	return hook.Answer{Result: hook.NotReady}
}

// serveWebhooks serves nothing but webhooks, so that the address can be shown to strangers. A failure goes to ended.
func serveWebhooks(ctx context.Context, address string, hooks web.Hooks, log *slog.Logger, ended chan<- error) error {
	address, err := localUnlessStated("--webhooks", address)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return hintf(fmt.Errorf("listen: %w", err), "--webhooks takes HOST:PORT")
	}
	server := &http.Server{
		Handler: web.NewHooks(hooks), MaxHeaderBytes: web.MaxHookHeader,
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: web.HookTimeout, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	context.AfterFunc(ctx, func() { server.Close() })
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			ended <- fmt.Errorf("serve webhooks: %w", err)
		}
	}()
	log.Info("listening for webhooks", "address", listener.Addr().String())
	return nil
}
