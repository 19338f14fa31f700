package identity

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"keelson.dev/keelson/internal/web"
)

// TestBehindProxy: what a proxy in front says of its client counts, and what others say does not.
func TestBehindProxy(t *testing.T) {
	const proxy, forger = "10.0.0.5:80", "203.0.113.9:80"
	w := newWorld(t)
	w.user("ann")
	proxies, err := web.ParseProxies([]string{"10.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	front := proxies.Front(w.mux)
	ask := func(from, client, proto, body string) *http.Response {
		r := httptest.NewRequest(http.MethodPost, "http://keelson.test/api/v1/session", strings.NewReader(body))
		r.RemoteAddr = from
		r.Header.Set("X-Forwarded-For", client)
		r.Header.Set("X-Forwarded-Proto", proto)
		rec := httptest.NewRecorder()
		front.ServeHTTP(rec, r)
		return rec.Result()
	}
	for _, c := range []struct {
		name, from, client, proto string
		secure                    bool
		address                   string // in the audit
	}{
		{"by https", proxy, "198.51.100.1", "https", true, "198.51.100.1"},
		{"by http", proxy, "198.51.100.1", "http", false, "198.51.100.1"},
		{"who forges", forger, "198.51.100.1", "https", false, "203.0.113.9"},
		{"a client who forges", proxy, "127.0.0.1, 198.51.100.2", "https", true, "198.51.100.2"},
	} {
		res := ask(c.from, c.client, c.proto, `{"user":"ann","password":"correct horse"}`)
		w.wants(http.StatusOK, "ann", res)
		cookie := res.Cookies()[0]
		if cookie.Secure != c.secure || strings.HasPrefix(cookie.Name, "__Host-") != c.secure || (res.Header.Get("Strict-Transport-Security") != "") != c.secure {
			t.Errorf("%s: the cookie is %s", c.name, cookie)
		}
		if e := w.events[len(w.events)-1]; e.Action != "login" || e.Address != c.address {
			t.Errorf("%s: the audit has %+v", c.name, e)
		}
	}

	// Each client has its own limit, and who forges has one however often the header changes.
	const wrong = `{"user":"","token":"kst_x"}`
	for i := range freeOfAddress {
		w.wants(http.StatusUnauthorized, "wrong", ask(proxy, "198.51.100.7", "https", wrong))
		w.wants(http.StatusUnauthorized, "wrong", ask(forger, "198.51.100."+string(rune('0'+i%10)), "https", wrong))
	}
	w.wants(http.StatusTooManyRequests, "too many", ask(proxy, "198.51.100.7", "https", wrong))
	w.wants(http.StatusTooManyRequests, "too many", ask(proxy, "192.0.2.99, 198.51.100.7", "https", wrong))
	w.wants(http.StatusTooManyRequests, "too many", ask(forger, "198.51.100.77", "https", wrong))
	w.wants(http.StatusUnauthorized, "wrong", ask(proxy, "198.51.100.8", "https", wrong))
}

// TestRedirectBehindProxy: the provider sends browsers back by https where they have come by it.
func TestRedirectBehindProxy(t *testing.T) {
	p := Provider{ClientID: "k", URL: "http://keelson.test", Issuer: newOpenID(t).URL}
	found, err := p.discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for https, want := range map[bool]string{false: "http://keelson.test/login/callback", true: "https://keelson.test/login/callback"} {
		u, err := url.Parse(p.config(found, https).AuthCodeURL("s"))
		if err != nil {
			t.Fatal(err)
		}
		if have := u.Query().Get("redirect_uri"); have != want {
			t.Errorf("%s, and not %s", have, want)
		}
	}
}
