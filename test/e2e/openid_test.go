package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"html/template"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/coreos/go-oidc/v3/oidc/oidctest"
)

// openID is an OpenID provider with a page on which people say who they are: what it offers and its keys are of go-oidc's own test server, which
// leaves the authorization code flow (RFC 6749 with PKCE, RFC 7636) to its user.
type openID struct {
	*httptest.Server
	key      *rsa.PrivateKey
	client   string
	redirect string // the only one that the client has
	people   map[string]identified

	mu    sync.Mutex
	codes map[string]granted // that were not used yet
}

type identified struct {
	password string
	groups   []string
}

type granted struct {
	user  string
	asked url.Values
}

const keyID = "key"

func newOpenID(t *testing.T, client, redirect string, people map[string]identified) *openID {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := &openID{key: key, client: client, redirect: redirect, people: people, codes: map[string]granted{}}
	rest := &oidctest.Server{PublicKeys: []oidctest.PublicKey{{PublicKey: key.Public(), KeyID: keyID, Algorithm: oidc.RS256}}}
	mux := http.NewServeMux()
	mux.Handle("/", rest)
	mux.HandleFunc("/auth", p.authorize)
	mux.HandleFunc("POST /token", p.exchange)
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	rest.SetIssuer(p.URL)
	return p
}

var whoPage = template.Must(template.New("").Parse(`<!doctype html><html lang="en"><title>Who are you?</title><link rel="icon" href="data:,"><h1>Who are you?</h1>{{with .}}<p>{{.}}</p>{{end}}
<form method="post"><label>Name <input name="user"></label> <label>Password <input name="password" type="password"></label> <button>Continue</button></form>`))

// authorize asks people who they are, and sends those whom it knows back with a code.
func (p *openID) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("client_id") != p.client || q.Get("redirect_uri") != p.redirect || q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" || q.Get("nonce") == "" {
		http.Error(w, "not a login of "+p.client, http.StatusBadRequest)
		return
	}
	user := r.PostFormValue("user")
	who, known := p.people[user]
	if r.Method != http.MethodPost || !known || r.PostFormValue("password") != who.password {
		said := ""
		if r.Method == http.MethodPost {
			said = "Wrong name or password."
		}
		_ = whoPage.Execute(w, said) // the browser may be gone
		return
	}
	code := rand.Text()
	p.mu.Lock()
	p.codes[code] = granted{user, q}
	p.mu.Unlock()
	http.Redirect(w, r, p.redirect+"?"+url.Values{"code": {code}, "state": {q.Get("state")}, "iss": {p.URL}}.Encode(), http.StatusSeeOther)
}

// exchange gives an ID token for a code, once, to whoever has begun the login.
func (p *openID) exchange(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	g, ok := p.codes[r.PostFormValue("code")]
	delete(p.codes, r.PostFormValue("code"))
	p.mu.Unlock()
	sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	w.Header().Set("Content-Type", "application/json")
	if !ok || r.PostFormValue("redirect_uri") != p.redirect || base64.RawURLEncoding.EncodeToString(sum[:]) != g.asked.Get("code_challenge") {
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": "invalid_grant"})
		return
	}
	now := time.Now()
	claims, err := json.Marshal(map[string]any{
		"iss": p.URL, "sub": g.user, "aud": p.client, "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(), "nonce": g.asked.Get("nonce"),
		"email": g.user + "@example.com", "email_verified": true, "groups": p.people[g.user].groups,
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"access_token": rand.Text(), "token_type": "Bearer", "expires_in": 60, "id_token": oidctest.SignIDToken(p.key, keyID, oidc.RS256, string(claims)),
	})
}

// TestOpenIDInBrowser follows people who log in at a provider, in a real browser: web/tests/openid.mjs. What they see and do is what RBAC says of
// the name and the groups that the provider has told.
func TestOpenIDInBrowser(t *testing.T) {
	needsBrowser(t)
	kubeconfig := bareCluster(t)
	kubectl(t, kubeconfig, "apply", "--server-side", "-f", filepath.Join(root(), "config/crd"))
	kubectl(t, kubeconfig, "apply", "-f", filepath.Join(root(), "config/rbac/roles.yaml"))
	kubectl(t, kubeconfig, "create", "clusterrolebinding", "crew", "--clusterrole=keelson-viewer", "--group=oidc:crew")
	t.Cleanup(func() {
		kubectl(t, kubeconfig, "delete", "clusterrolebinding", "crew")
		kubectl(t, kubeconfig, "delete", "-f", filepath.Join(root(), "config/rbac/roles.yaml"))
	})
	apply(t, kubeconfig, `
{apiVersion: v1, kind: Namespace, metadata: {name: openid}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: tea, namespace: openid}
spec: {interval: 10m, path: ./, prune: true, sourceRef: {kind: GitRepository, name: tea}}
`)
	t.Cleanup(func() { kubectl(t, kubeconfig, "delete", "namespace", "openid", "--timeout=60s") })
	listen := "127.0.0.1:" + freePort(t)
	p := newOpenID(t, "keelson", "http://"+listen+"/login/callback", map[string]identified{
		"ann": {"of ann", []string{"crew"}},
		"bob": {"of bob", []string{"passengers"}},
	})
	s := startServer(t, kubeconfig, t.TempDir(), "--listen", listen, "--url", "http://"+listen, "--oidc-issuer-url", p.URL, "--oidc-client-id", "keelson",
		"--oidc-scopes", "profile,email,groups", "--oidc-username-prefix", "oidc:", "--oidc-groups-prefix", "oidc:", "--oidc-allowed-groups", "crew",
		"--ci", "127.0.0.1:0", "--ci-url", "http://127.0.0.1:7070", "--ci-access", "127.0.0.1:0", "--ci-helper-image", "registry.example/keelson:1")
	s.waitFor(t, "pipelines are played")
	tour(t, "openid.mjs", nil, "http://"+listen, p.URL)
	s.stop(t)
}
