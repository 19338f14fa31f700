package source_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/source"
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

// TestMirrorsOfTenants: so too for another tenant of the same namespace; the mirrors that sources name are retained.
func TestMirrorsOfTenants(t *testing.T) {
	w := newWorld(t, func(o *githost.Options) { o.GuardReads = true })
	w.commit("r", fstest.MapFS{"secret": file("s")})
	own := w.source("r")
	own.Tenant, own.Credentials = "a/s", delivery.Credentials{Username: "u", Password: token}
	rev := snapshot(t, w.remote, own)
	if err := w.remote.Retain(t.Context(), []delivery.Source{own}); err != nil {
		t.Fatal(err)
	}
	if dirs := source.MirrorDirs(w.dir, own.ID.Namespace, own.URL); len(dirs) != 1 {
		t.Errorf("mirrors of the URL: %v", dirs)
	}
	for tenant, allowed := range map[string]bool{"a/s": true, "a/": false, "b/s": false, "": false} {
		src := w.source("second")
		src.URL, src.Tenant = own.URL, tenant
		snap, err := w.remote.Fetch(t.Context(), src, rev.Revision)
		if (err == nil) != allowed {
			t.Errorf("tenant %q: %v (%v), want access: %t", tenant, snap.Revision, err, allowed)
		}
	}
}

// TestChartsOfTenants: what one tenant's credentials have brought is not given to another one, whatever the repository can be made to
// answer. It answers a question that is too long before it looks at credentials.
func TestChartsOfTenants(t *testing.T) {
	h, w := newHelmRepo(t), newWorld(t)
	h.add("web", "1.0.0")
	h.user, h.password = "u", "pw"
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if len(r.URL.RawQuery) > 8000 {
			rw.WriteHeader(http.StatusRequestURITooLong)
			return
		}
		h.ServeHTTP(rw, r)
	}))
	t.Cleanup(front.Close)
	f, _ := newFetcher(t)
	own := h.source("web", "1.0.0")
	own.URL, own.Tenant, own.Credentials = front.URL, "a/s", delivery.Credentials{Username: "u", Password: "pw"}
	own.URL += "/charts"
	first := snapshot(t, f, own)
	for tenant, allowed := range map[string]bool{"a/s": true, "a/": false, "b/s": false, "b/": false} {
		src := h.source("web", "1.0.0")
		src.URL, src.Tenant = own.URL+"?x="+strings.Repeat("x", 9000), tenant
		if _, err := f.Resolve(t.Context(), src); !errors.Is(err, git.ErrRefused) || errors.Is(err, git.ErrUnreachable) {
			t.Errorf("tenant %s: %v, want a refusal", tenant, err)
		}
		if last := f.Last(src); (last == first.Revision) != allowed {
			t.Errorf("tenant %s: the last revision is %s", tenant, last)
		}
		if snap, err := f.Fetch(t.Context(), src, first.Revision); (err == nil) != allowed {
			t.Errorf("tenant %s: %v, %v, want access: %t", tenant, snap.Revision, err, allowed)
		}
	}

	// A chart in Git that depends on it, in an exact version that needs not be asked for again.
	w.commit("r", fstest.MapFS{"x/Chart.yaml": chartFile("x", "1.0.0", "dependencies:\n- {name: web, version: 1.0.0, repository: "+own.URL+"}\n")})
	build := func(tenant string, c delivery.Credentials) error {
		src := w.source("r")
		src.Whole, src.Tenant = true, tenant
		_, err := w.remote.Dependencies(t.Context(), snapshot(t, w.remote, src), ".", "x", func(named string) (string, delivery.Credentials, error) { return named, c, nil })
		return err
	}
	if err := build("a/", own.Credentials); err != nil {
		t.Fatal(err)
	}
	for _, tenant := range []string{"a/", "b/", ""} {
		if err := build(tenant, delivery.Credentials{}); !errors.Is(err, git.ErrAuth) {
			t.Errorf("tenant %s, without credentials: %v", tenant, err)
		}
	}
}
