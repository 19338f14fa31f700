package main

import (
	"net/http"

	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/web"
)

// newMux puts the dashboard and, where there is one, the Git host under one address.
func newMux(dashboard web.Options, host *githost.Host) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("/", web.New(dashboard))
	if host != nil {
		mux.Handle(githost.Prefix, host)
		mux.Handle(githost.APIPath, host.API())
	}
	return mux
}
