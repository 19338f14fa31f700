package identity

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/store"
)

// openID is an OpenID provider as the standards have it: discovery, the authorization code flow with PKCE for a client with a secret, keys,
// and what is said about users. What it refuses it says as RFC 6749 has it. Its user logs in by asking.
type openID struct {
	*httptest.Server
	t   *testing.T
	key *rsa.PrivateKey

	redirect string // the only one that is registered

	mu    sync.Mutex
	codes map[string]url.Values // what was asked for, by the codes that were not used yet

	claims map[string]any                                           // of the ID token, besides those that every one has
	info   map[string]any                                           // of the user, by the other endpoint; nil: there is none
	change func(claims jwt.MapClaims)                               // spoils an ID token
	sign   func(claims jwt.MapClaims, key *rsa.PrivateKey) string   // signs it otherwise
	answer func(redirect *url.URL, asked, given url.Values)         // spoils the way back
	token  func(w http.ResponseWriter, form url.Values) (done bool) // answers for a code otherwise
}

const clientID, clientSecret = "keelson", "s3cret & more"

func newOpenID(t *testing.T) *openID {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := &openID{t: t, key: key, codes: map[string]url.Values{}, redirect: "https://keelson.test/login/callback"}
	mux := http.NewServeMux()
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		doc := map[string]any{
			"issuer": p.URL, "authorization_endpoint": p.URL + "/auth", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys",
			"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"RS256"},
			"code_challenge_methods_supported": []string{"S256"},
		}
		if p.info != nil {
			doc["userinfo_endpoint"] = p.URL + "/userinfo"
		}
		answer(w, http.StatusOK, doc)
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		b64 := base64.RawURLEncoding.EncodeToString
		answer(w, http.StatusOK, map[string]any{"keys": []any{map[string]any{
			"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "one", "n": b64(key.N.Bytes()), "e": b64(big.NewInt(int64(key.E)).Bytes()),
		}}})
	})
	mux.HandleFunc("GET /auth", p.authorize)
	mux.HandleFunc("POST /token", p.exchange)
	mux.HandleFunc("GET /userinfo", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer access" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		answer(w, http.StatusOK, p.info)
	})
	return p
}

func (p *openID) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("client_id") != clientID || q.Get("redirect_uri") != p.redirect {
		http.Error(w, "no such client", http.StatusBadRequest) // the browser is not sent back
		return
	}
	back, err := url.Parse(p.redirect)
	if err != nil {
		p.t.Error(err)
	}
	given := url.Values{"state": {q.Get("state")}, "iss": {p.URL}}
	if q.Get("response_type") != "code" || !strings.Contains(" "+q.Get("scope")+" ", " openid ") || q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != 43 || q.Get("nonce") == "" {
		given.Set("error", "invalid_request")
	} else {
		code := rand.Text()
		p.mu.Lock()
		p.codes[code] = q
		p.mu.Unlock()
		given.Set("code", code)
	}
	if p.answer != nil {
		p.answer(back, q, given)
	}
	back.RawQuery = given.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

func (p *openID) exchange(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		p.t.Error(err)
	}
	if p.token != nil && p.token(w, r.PostForm) {
		return
	}
	id, secret, basic := r.BasicAuth()
	id, err1 := url.QueryUnescape(id)
	secret, err2 := url.QueryUnescape(secret)
	if !basic { // both ways of RFC 6749, section 2.3.1
		id, secret, err1, err2 = r.PostForm.Get("client_id"), r.PostForm.Get("client_secret"), nil, nil
	}
	if err1 != nil || err2 != nil || id != clientID || secret != clientSecret {
		answer(w, http.StatusUnauthorized, map[string]string{"error": "invalid_client"})
		return
	}
	p.mu.Lock()
	asked, ok := p.codes[r.PostForm.Get("code")]
	delete(p.codes, r.PostForm.Get("code"))
	p.mu.Unlock()
	sum := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
	if !ok || r.PostForm.Get("grant_type") != "authorization_code" || r.PostForm.Get("redirect_uri") != p.redirect ||
		base64.RawURLEncoding.EncodeToString(sum[:]) != asked.Get("code_challenge") {
		answer(w, http.StatusBadRequest, map[string]string{"error": "invalid_grant", "error_description": "the code is not good"})
		return
	}
	now := time.Now()
	claims := jwt.MapClaims{"iss": p.URL, "sub": "42", "aud": clientID, "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(), "nonce": asked.Get("nonce")}
	maps.Copy(claims, p.claims)
	if p.change != nil {
		p.change(claims)
	}
	sign := p.sign
	if sign == nil {
		sign = func(claims jwt.MapClaims, key *rsa.PrivateKey) string {
			return signed(p.t, jwt.SigningMethodRS256, claims, key)
		}
	}
	answer(w, http.StatusOK, map[string]any{"access_token": "access", "token_type": "Bearer", "expires_in": 60, "id_token": sign(claims, p.key)})
}

func signed(t *testing.T, method jwt.SigningMethod, claims jwt.MapClaims, key any) string {
	token := jwt.NewWithClaims(method, claims)
	token.Header["kid"] = "one"
	text, err := token.SignedString(key)
	if err != nil {
		t.Error(err)
	}
	return text
}

// provider is what a server knows of it.
func (p *openID) provider() *Provider {
	return &Provider{Issuer: p.URL, ClientID: clientID, ClientSecret: clientSecret, URL: "https://keelson.test/"}
}

// browse goes through a login as a browser does, and gives the answer to its way back. spoil may change that way.
func (p *openID) browse(w *world, path string, spoil func(way *url.URL, cookie *string)) *http.Response {
	w.Helper()
	res := w.ask("GET", path, "")
	if res.StatusCode != http.StatusSeeOther {
		return res
	}
	cookie := ""
	for _, c := range res.Cookies() {
		if !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteLaxMode {
			w.Errorf("the cookie of a login is %s", c)
		}
		cookie = "Cookie: " + c.Name + "=" + c.Value
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	back, err := client.Get(res.Header.Get("Location"))
	if err != nil {
		w.Fatal(err)
	}
	defer back.Body.Close()
	way, err := url.Parse(back.Header.Get("Location"))
	if err != nil || way.Path == "" {
		w.Fatalf("the provider answers %s %v", back.Status, err)
	}
	if spoil != nil {
		spoil(way, &cookie)
	}
	return w.ask("GET", way.RequestURI(), "", cookie)
}

func oidcWorld(t *testing.T, p *openID, change ...func(*Provider)) *world {
	t.Helper()
	provider := p.provider()
	for _, c := range change {
		c(provider)
	}
	w := newWorld(t, func(o *Options) { o.OIDC, o.Secure = provider, true })
	w.clock.add(time.Since(w.clock.now())) // tokens have the real time
	return w
}

func TestOpenID(t *testing.T) {
	for _, c := range []struct {
		name         string
		claims, info map[string]any
		change       func(*Provider)
		want         string
	}{
		{"an address", map[string]any{"email": "ann@example.com", "email_verified": true, "groups": []string{"b", "a", "a"}}, nil, nil, "ann@example.com [a b]"},
		{"a group", map[string]any{"email": "ann@example.com", "groups": "a"}, nil, nil, "ann@example.com [a]"},
		{"strange groups", map[string]any{"email": "ann@example.com", "groups": []any{1, "system:masters", "keelson:admins", "a\nb", "", "ok"}}, nil, nil, "ann@example.com [ok]"},
		{"other claims", map[string]any{"preferred_username": "ann", "roles": []string{"dev"}}, nil,
			func(p *Provider) { p.UsernameClaim, p.GroupsClaim = "preferred_username", "roles" }, "ann [dev]"},
		{"prefixes", map[string]any{"email": "ann@example.com", "groups": []string{"keelson:admins"}}, nil,
			func(p *Provider) { p.UsernamePrefix, p.GroupsPrefix = "oidc:", "oidc:" }, "oidc:ann@example.com [oidc:keelson:admins]"},
		{"the subject", nil, nil, func(p *Provider) { p.UsernameClaim, p.UsernamePrefix = "sub", "id-" }, "id-42 []"},
		{"groups by the other endpoint", map[string]any{"email": "ann@example.com"}, map[string]any{"sub": "42", "groups": []string{"dev"}, "email": "x@example.com"}, nil, "ann@example.com [dev]"},
		{"all by the other endpoint", nil, map[string]any{"sub": "42", "groups": []string{"dev"}, "email": "ann@example.com", "email_verified": true}, nil, "ann@example.com [dev]"},
		{"in an allowed group", map[string]any{"email": "ann@example.com", "groups": []string{"staff"}}, nil, func(p *Provider) { p.Allowed = []string{"staff"} }, "ann@example.com [staff]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newOpenID(t)
			p.claims, p.info = c.claims, c.info
			w := oidcWorld(t, p, func(p *Provider) {
				if c.change != nil {
					c.change(p)
				}
			})
			res := p.browse(w, "/login/oidc?next=/apps", nil)
			if w.wants(303, "", res); res.Header.Get("Location") != "/apps" {
				t.Errorf("it goes on to %s", res.Header.Get("Location"))
			}
			w.wants(200, c.want, w.ask("GET", "/", "", cookieOf(t, res)))
			if len(w.events) != 1 || w.events[0].Way != "oidc" || w.events[0].Failure != "" {
				t.Errorf("told: %+v", w.events)
			}
		})
	}
}

func TestOpenIDRefused(t *testing.T) {
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	good := map[string]any{"email": "ann@example.com"}
	for _, c := range []struct {
		name  string
		setup func(*openID)
		spoil func(way *url.URL, cookie *string)
		set   func(*Provider)
		says  string
	}{
		{"another state", nil, func(way *url.URL, _ *string) { way.RawQuery = strings.Replace(way.RawQuery, "state=", "state=x", 1) }, nil, "not the login that this browser has begun"},
		{"no state", nil, func(way *url.URL, _ *string) { way.RawQuery = "code=" + way.Query().Get("code") }, nil, "not the login that this browser has begun"},
		{"another browser", nil, func(_ *url.URL, cookie *string) { *cookie = "A: b" }, nil, "this browser has not begun a login"},
		{"a broken cookie", nil, func(_ *url.URL, cookie *string) { *cookie = (*cookie)[:30] }, nil, "cannot be read"},
		{"a cookie of nothing", nil, func(_ *url.URL, cookie *string) { name, _, _ := strings.Cut(*cookie, "="); *cookie = name + "=e30" }, nil, "cannot be read"},
		{"a login that took too long", nil, func(_ *url.URL, cookie *string) {
			name, value, _ := strings.Cut(*cookie, "=")
			text, _ := base64.RawURLEncoding.DecodeString(value)
			var f flow
			_ = json.Unmarshal(text, &f)
			f.Expires = time.Now().Add(-time.Second).Unix()
			text, _ = json.Marshal(f)
			*cookie = name + "=" + base64.RawURLEncoding.EncodeToString(text)
		}, nil, "took too long"},
		{"another verifier", nil, func(_ *url.URL, cookie *string) {
			name, value, _ := strings.Cut(*cookie, "=")
			text, _ := base64.RawURLEncoding.DecodeString(value)
			var f flow
			_ = json.Unmarshal(text, &f)
			f.Verifier = newSecret()
			text, _ = json.Marshal(f)
			*cookie = name + "=" + base64.RawURLEncoding.EncodeToString(text)
		}, nil, "invalid_grant the code is not good"},
		{"a made up code", nil, func(way *url.URL, _ *string) { q := way.Query(); q.Set("code", "guess"); way.RawQuery = q.Encode() }, nil, "invalid_grant"},
		{"another provider answers", nil, func(way *url.URL, _ *string) {
			q := way.Query()
			q.Set("iss", "https://evil.test")
			way.RawQuery = q.Encode()
		}, nil, "another provider"},
		{"the person says no", func(p *openID) {
			p.answer = func(_ *url.URL, _, given url.Values) {
				given.Del("code")
				given.Set("error", "access_denied")
				given.Set("error_description", "<b>no</b>")
			}
		}, nil, nil, "access_denied &lt;b&gt;no&lt;/b&gt;"},
		{"a wrong secret", nil, nil, func(p *Provider) { p.ClientSecret = "wrong" }, "invalid_client"},
		{"a token of another login", func(p *openID) { p.change = func(c jwt.MapClaims) { c["nonce"] = "other" } }, nil, nil, "of another login"},
		{"a token without a nonce", func(p *openID) { p.change = func(c jwt.MapClaims) { delete(c, "nonce") } }, nil, nil, "of another login"},
		{"a token for another client", func(p *openID) { p.change = func(c jwt.MapClaims) { c["aud"] = "other" } }, nil, nil, "not valid"},
		{"a token of another issuer", func(p *openID) { p.change = func(c jwt.MapClaims) { c["iss"] = "https://evil.test" } }, nil, nil, "not valid"},
		{"a token that is over", func(p *openID) { p.change = func(c jwt.MapClaims) { c["exp"] = time.Now().Add(-time.Minute).Unix() } }, nil, nil, "not valid"},
		{"a token with another key", func(p *openID) {
			p.sign = func(c jwt.MapClaims, _ *rsa.PrivateKey) string { return signed(p.t, jwt.SigningMethodRS256, c, other) }
		}, nil, nil, "not valid"},
		{"a token without a signature", func(p *openID) {
			p.sign = func(c jwt.MapClaims, _ *rsa.PrivateKey) string {
				return signed(p.t, jwt.SigningMethodNone, c, jwt.UnsafeAllowNoneSignatureType)
			}
		}, nil, nil, "not valid"},
		{"a token signed with the public key", func(p *openID) {
			p.sign = func(c jwt.MapClaims, key *rsa.PrivateKey) string {
				return signed(p.t, jwt.SigningMethodHS256, c, key.N.Bytes())
			}
		}, nil, nil, "not valid"},
		{"no token", func(p *openID) {
			p.token = func(w http.ResponseWriter, _ url.Values) bool {
				answer(w, http.StatusOK, map[string]string{"access_token": "a", "token_type": "Bearer"})
				return true
			}
		}, nil, nil, "no ID token"},
		{"an answer that is no JSON", func(p *openID) {
			p.token = func(w http.ResponseWriter, _ url.Values) bool { fmt.Fprint(w, "<html>"); return true }
		}, nil, nil, "does not take the code"},
		{"an address that is not verified", func(p *openID) { p.claims = map[string]any{"email": "ann@example.com", "email_verified": false} }, nil, nil, "not verified the address"},
		{"no name", func(p *openID) { p.claims = nil }, nil, nil, "has not told email"},
		{"a name that is no text", func(p *openID) { p.claims = map[string]any{"email": 1} }, nil, nil, "has not told email"},
		{"the cluster's own name", func(p *openID) { p.claims = map[string]any{"preferred_username": "system:admin"} }, nil,
			func(p *Provider) { p.UsernameClaim = "preferred_username" }, "begins as Kubernetes&#39; own users do"},
		{"another user's groups", func(p *openID) { p.info = map[string]any{"sub": "43", "groups": []string{"admins"}} }, nil, nil, "tells about another user"},
		{"in no allowed group", func(p *openID) { p.claims = map[string]any{"email": "a@example.com", "groups": []string{"guests"}} }, nil,
			func(p *Provider) { p.Allowed = []string{"staff"} }, "in none of the groups"},
		{"a local user's name", func(p *openID) { p.claims = map[string]any{"email": "local@example.com"} }, nil, nil, "there is a local user"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newOpenID(t)
			p.claims = good
			if c.setup != nil {
				c.setup(p)
			}
			w := oidcWorld(t, p, func(p *Provider) {
				if c.set != nil {
					c.set(p)
				}
			})
			if err := w.db.AddUser(t.Context(), store.User{Name: "local@example.com"}); err != nil {
				t.Fatal(err)
			}
			res := p.browse(w, "/login/oidc", c.spoil)
			body := text(t, res)
			if res.StatusCode != http.StatusForbidden && res.StatusCode != http.StatusBadRequest || !strings.Contains(body, c.says) {
				t.Errorf("%s %s, want %q", res.Status, body, c.says)
			}
			for _, cookie := range res.Cookies() {
				if cookie.MaxAge >= 0 {
					t.Errorf("a cookie is set: %s", cookie)
				}
			}
			told := 1
			if res.StatusCode == http.StatusBadRequest { // it is no login that was begun here
				told = 0
			}
			if len(w.events) != told || told > 0 && w.events[0].Failure == "" {
				t.Errorf("told: %+v", w.events)
			}
		})
	}
}

// TestOpenIDWithoutStore: where it cannot be known whether a local user has the name, nobody gets it.
func TestOpenIDWithoutStore(t *testing.T) {
	for name, failing := range map[string]func(w *world){
		"none":   func(w *world) { w.Store = func() (*store.DB, error) { return nil, store.ErrCorrupt } },
		"closed": func(w *world) { w.db.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			p := newOpenID(t)
			p.claims = map[string]any{"email": "ann@example.com"}
			w := oidcWorld(t, p)
			failing(w)
			res := p.browse(w, "/login/oidc", nil)
			w.wants(503, "nobody can be looked up now", res)
			for _, cookie := range res.Cookies() {
				if cookie.MaxAge >= 0 {
					t.Errorf("a cookie is set: %s", cookie)
				}
			}
		})
	}
}

// TestOpenIDFlood: who is not known fills no audit with logins that were never begun here.
func TestOpenIDFlood(t *testing.T) {
	w := oidcWorld(t, newOpenID(t))
	for range 10 {
		w.wants(400, "has not begun a login", w.ask("GET", "/login/callback?code=x&state=y", ""))
	}
	if len(w.events) != 0 {
		t.Errorf("told: %+v", w.events)
	}
	made, err := json.Marshal(flow{State: "s", Nonce: "n", Verifier: "v", Next: "/", Expires: w.clock.now().Add(time.Minute).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	cookie := "Cookie: __Host-keelson-oidc=" + base64.RawURLEncoding.EncodeToString(made)
	for range freeOfAddress {
		w.wants(403, "access_denied", w.ask("GET", "/login/callback?error=access_denied&state=s", "", cookie))
	}
	w.wants(429, "too many logins", w.ask("GET", "/login/callback?error=access_denied&state=s", "", cookie))
	if len(w.events) != freeOfAddress {
		t.Errorf("told %d times", len(w.events))
	}
}

// TestOpenIDProviderIsAway: the server starts without it, and finds it later.
func TestOpenIDProviderIsAway(t *testing.T) {
	p := newOpenID(t)
	p.claims = map[string]any{"email": "ann@example.com"}
	down := true
	real := p.Config.Handler
	p.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		real.ServeHTTP(w, r)
	})
	w := oidcWorld(t, p)
	w.wants(502, "does not answer", w.ask("GET", "/login/oidc", ""))
	down = false
	w.OIDC.attempts = time.Time{} // it is not asked more than once a second
	w.wants(303, "", p.browse(w, "/login/oidc", nil))
	ways := map[string]any{}
	if err := json.Unmarshal([]byte(text(t, w.ask("GET", "/api/v1/me", ""))), &ways); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]any{"password": true, "oidc": "/login/oidc"}, ways["login"]); d != "" {
		t.Error(d)
	}
	w.wants(200, `href="/login/oidc?next=%2Fapps"`, w.ask("GET", "/login?next=/apps", ""))
}
