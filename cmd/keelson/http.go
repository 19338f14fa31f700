package main

import (
	"net/http"
	"time"

	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/web"
	assets "keelson.dev/keelson/web"
)

// idleTimeout is how long a connection stays open that nobody asks anything by.
const idleTimeout = 2 * time.Minute

// newMux puts the dashboard and, where there are any, the Git host and the webhooks under one address.
func newMux(dashboard web.Options, host *githost.Host, hooks web.Hooks) *http.ServeMux {
	mux := http.NewServeMux()
	dashboard.Assets = assets.Files()
	pages := web.New(dashboard)
	if host == nil {
		mux.Handle("/", pages)
	} else {
		git, api := http.Handler(host), host.API()
		if dashboard.Loopback {
			git, api = web.LocalOnly(git), web.LocalOnly(api)
		}
		mux.Handle(githost.Prefix, git)
		mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
			if githost.Plain(r) {
				git.ServeHTTP(w, r)
				return
			}
			pages.ServeHTTP(w, r)
		})
		mux.Handle(githost.APIPath, api)
	}
	if hooks != nil {
		mux.Handle(web.HookPath, web.NewHooks(hooks))
	}
	return mux
}
