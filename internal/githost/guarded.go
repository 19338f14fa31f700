package githost

import (
	"context"
	"net/http"
)

type guardedKey struct{}

// Guarded serves the same repositories to those who are not on this machine, though their connections seem to come from it: reads need a token,
// too.
func (h *Host) Guarded() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), guardedKey{}, true)))
	})
}

// guarded tells whether reads of a request need a token.
func (h *Host) guarded(r *http.Request) bool {
	return h.opts.GuardReads || r.Context().Value(guardedKey{}) != nil
}
