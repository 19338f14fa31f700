package source_test

import (
	"testing"
	"testing/fstest"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/githost"
)

// TestMirrorsOfNamespaces: who knows the URL and the commit of another namespace's private repository does not get what that
// namespace has fetched, whatever answers the question for refs.
func TestMirrorsOfNamespaces(t *testing.T) {
	w := newWorld(t, func(o *githost.Options) { o.GuardReads = true })
	w.commit("r", fstest.MapFS{"secret": file("s")})
	own := w.source("r")
	own.Credentials = delivery.Credentials{Username: "u", Password: token}
	rev := snapshot(t, w.remote, own)
	for namespace, allowed := range map[string]bool{"default": true, "other": false} {
		src := w.source("second")
		src.ID.Namespace, src.URL = namespace, own.URL
		snap, err := w.remote.Fetch(t.Context(), src, rev.Revision)
		if (err == nil) != allowed {
			t.Errorf("namespace %s: %v (%v), want access: %t", namespace, snap.Revision, err, allowed)
		}
	}
}
