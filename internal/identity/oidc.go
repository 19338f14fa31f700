package identity

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"keelson.dev/keelson/internal/store"
)

// Where logins by the OpenID provider begin and end.
const oidcPath, callbackPath = "/login/oidc", "/login/callback"

// CallbackPath is what the OpenID provider has to be told, behind the URL of this server.
const CallbackPath = callbackPath

// flowLife is how long a person may take at the provider, and providerLimit how long the provider may take.
const flowLife, providerLimit = 10 * time.Minute, 10 * time.Second

// Provider is an OpenID provider (OpenID Connect, authorization code flow with PKCE). Set its fields before it is used.
type Provider struct {
	Issuer       string // its URL
	ClientID     string
	ClientSecret string   // empty: this is a public client
	URL          string   // of this server, as browsers reach it
	Scopes       []string // besides openid; nil: profile and email
	// UsernameClaim is the claim that is a person's name; empty: email. Of an address that the provider has not verified nobody gets in.
	UsernameClaim  string
	UsernamePrefix string
	GroupsClaim    string // a string or a list; empty: groups
	GroupsPrefix   string
	// Allowed are the groups of which a person has to be in one, without the prefix; empty: the provider's word is enough.
	Allowed []string
	Client  *http.Client // nil: the usual one, with a bound on its time

	mu       sync.Mutex
	found    *oidc.Provider
	attempts time.Time // when the provider was asked last for what it offers
}

// usual completes the fields that may be empty.
func (p *Provider) usual() {
	if p.UsernameClaim == "" {
		p.UsernameClaim = "email"
	}
	if p.GroupsClaim == "" {
		p.GroupsClaim = "groups"
	}
	if p.Scopes == nil {
		p.Scopes = []string{"profile", "email"}
	}
	if p.Client == nil {
		p.Client = &http.Client{Timeout: providerLimit}
	}
}

// discover asks the provider for what it offers, once; it may be down when this server starts.
func (p *Provider) discover(ctx context.Context) (*oidc.Provider, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.found != nil {
		return p.found, nil
	}
	p.usual()
	if since := time.Since(p.attempts); since < time.Second {
		return nil, errors.New("the provider was not reached a moment ago")
	}
	p.attempts = time.Now()
	// Keys are fetched with this context later, too, so it does not end.
	found, err := oidc.NewProvider(oidc.ClientContext(context.WithoutCancel(ctx), p.Client), p.Issuer)
	if err != nil {
		return nil, fmt.Errorf("ask the OpenID provider %s: %w", p.Issuer, err)
	}
	p.found = found
	return found, nil
}

// config is of a login; https says that its browser came by https, whatever the URL of this server says.
func (p *Provider) config(found *oidc.Provider, https bool) *oauth2.Config {
	base := strings.TrimSuffix(p.URL, "/")
	if rest, clear := strings.CutPrefix(base, "http://"); clear && https {
		base = "https://" + rest
	}
	return &oauth2.Config{
		ClientID: p.ClientID, ClientSecret: p.ClientSecret, Endpoint: found.Endpoint(), RedirectURL: base + callbackPath,
		Scopes: append([]string{oidc.ScopeOpenID}, slices.DeleteFunc(slices.Clone(p.Scopes), func(s string) bool { return s == oidc.ScopeOpenID })...),
	}
}

// flow is a login that is at the provider. The browser has it in a cookie, so any replica can end it.
type flow struct {
	State    string `json:"s"`
	Nonce    string `json:"n"`
	Verifier string `json:"v"` // of PKCE
	Next     string `json:"p"`
	Expires  int64  `json:"e"` // Unix
}

// oidcURL is where a login at the provider begins that goes on to a path; empty: there is no provider.
func (s *Service) oidcURL(next string) string {
	if s.OIDC == nil {
		return ""
	}
	return oidcPath + "?" + url.Values{"next": {localPath(next)}}.Encode()
}

func (s *Service) flowCookie(r *http.Request) string { return s.cookieName(r) + "-oidc" }

// oidcBegin sends a browser to the provider.
func (s *Service) oidcBegin(w http.ResponseWriter, r *http.Request) {
	next := localPath(r.URL.Query().Get("next"))
	found, err := s.OIDC.discover(r.Context())
	if err != nil {
		s.Log.Warn("begin a login", "error", err)
		s.page(w, http.StatusBadGateway, loginView{Next: next, OIDC: s.oidcURL(next), Problem: "The OpenID provider does not answer. Try again, or ask whoever runs this server."})
		return
	}
	f := flow{State: newSecret(), Nonce: newSecret(), Verifier: oauth2.GenerateVerifier(), Next: next, Expires: s.Now().Add(flowLife).Unix()}
	text, err := json.Marshal(f)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name: s.flowCookie(r), Value: base64.RawURLEncoding.EncodeToString(text), Path: "/", MaxAge: int(flowLife.Seconds()),
		HttpOnly: true, Secure: s.secure(r), SameSite: http.SameSiteLaxMode,
	})
	http.Redirect(w, r, s.OIDC.config(found, s.secure(r)).AuthCodeURL(f.State, oidc.Nonce(f.Nonce), oauth2.S256ChallengeOption(f.Verifier)), http.StatusSeeOther)
}

// oidcEnd takes a browser back from the provider.
func (s *Service) oidcEnd(w http.ResponseWriter, r *http.Request) {
	f, err := s.flowOf(r)
	http.SetCookie(w, &http.Cookie{Name: s.flowCookie(r), Path: "/", MaxAge: -1, HttpOnly: true, Secure: s.secure(r), SameSite: http.SameSiteLaxMode})
	v := loginView{Next: "/", OIDC: s.oidcURL("/")}
	if err != nil { // of nobody's login: whoever is not known could fill the audit
		s.Log.Debug("end a login by the OpenID provider", "error", err, "address", addressOf(r))
		v.Problem = err.Error()
		s.page(w, http.StatusBadRequest, v)
		return
	}
	v.Next, v.OIDC = localPath(f.Next), s.oidcURL(f.Next)
	from := "address " + addressOf(r)
	if err := s.tooMany(r, from); err != nil { // the cookie may be made up, too
		v.Problem = err.Error()
		s.page(w, statusOf(w, err), v)
		return
	}
	s.tries.fail(from, freeOfAddress)
	ctx, cancel := context.WithTimeout(oidc.ClientContext(r.Context(), s.OIDC.Client), 2*providerLimit)
	defer cancel()
	h, err := s.OIDC.redeem(ctx, f, r.URL.Query(), s.secure(r))
	if err == nil {
		err = s.noLocal(ctx, h.Person)
	}
	e := Event{Action: "login", Way: "oidc", Actor: h.Person}
	var value string
	var until time.Time
	if err == nil {
		value, until, err = s.begin(ctx, h, time.Time{})
	}
	s.tell(r, e, err)
	if err != nil {
		v.Problem = "The login by the OpenID provider failed: " + printable(err.Error())
		status := http.StatusForbidden
		if errors.As(err, new(refusedLogin)) {
			status = statusOf(w, err)
		}
		s.page(w, status, v)
		return
	}
	s.tries.undo(from)
	s.setCookie(w, r, value, until)
	http.Redirect(w, r, v.Next, http.StatusSeeOther)
}

// flowOf reads the login that a browser is in.
func (s *Service) flowOf(r *http.Request) (flow, error) {
	var f flow
	c, err := r.Cookie(s.flowCookie(r))
	if err != nil || len(c.Value) > maxSecret {
		return f, errors.New("this browser has not begun a login here, or too long ago: begin again")
	}
	text, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	switch {
	case err != nil || f.State == "" || f.Nonce == "" || f.Verifier == "":
		return f, errors.New("the cookie of this login cannot be read: begin again")
	case s.Now().Unix() >= f.Expires:
		return f, errors.New("this login took too long: begin again")
	case !equal(r.URL.Query().Get("state"), f.State):
		return f, errors.New("this is not the login that this browser has begun: begin again")
	}
	return f, nil
}

// redeem has the provider say who somebody is.
func (p *Provider) redeem(ctx context.Context, f flow, q url.Values, https bool) (store.Holder, error) {
	if code := q.Get("error"); code != "" {
		return store.Holder{}, fmt.Errorf("%s %s", code, q.Get("error_description"))
	}
	if iss := q.Get("iss"); iss != "" && iss != p.Issuer { // RFC 9207
		return store.Holder{}, errors.New("another provider has answered")
	}
	found, err := p.discover(ctx)
	if err != nil {
		return store.Holder{}, err
	}
	config := p.config(found, https)
	token, err := config.Exchange(ctx, q.Get("code"), oauth2.VerifierOption(f.Verifier))
	if err != nil {
		var refused *oauth2.RetrieveError
		if errors.As(err, &refused) && refused.ErrorCode != "" {
			return store.Holder{}, fmt.Errorf("the provider does not take the code: %s %s", refused.ErrorCode, refused.ErrorDescription)
		}
		return store.Holder{}, errors.New("the provider does not take the code")
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok {
		return store.Holder{}, errors.New("the provider has given no ID token")
	}
	id, err := found.Verifier(&oidc.Config{ClientID: p.ClientID}).Verify(ctx, raw)
	if err != nil {
		return store.Holder{}, fmt.Errorf("the ID token is not valid: %w", err)
	}
	if !equal(id.Nonce, f.Nonce) {
		return store.Holder{}, errors.New("the ID token is of another login")
	}
	claims := map[string]any{}
	if err := id.Claims(&claims); err != nil {
		return store.Holder{}, fmt.Errorf("the ID token's claims: %w", err)
	}
	if err := p.complete(ctx, found, token, id.Subject, claims); err != nil {
		return store.Holder{}, err
	}
	return p.holder(claims)
}

// complete takes claims that the ID token does not have from what the provider says of the user.
func (p *Provider) complete(ctx context.Context, found *oidc.Provider, token *oauth2.Token, subject string, claims map[string]any) error {
	lacks := func(name string) bool { return claims[name] == nil }
	if found.UserInfoEndpoint() == "" || !lacks(p.UsernameClaim) && !lacks(p.GroupsClaim) {
		return nil
	}
	info, err := found.UserInfo(ctx, oauth2.StaticTokenSource(token))
	if err != nil {
		return fmt.Errorf("ask the provider about the user: %w", err)
	}
	if info.Subject != subject {
		return errors.New("the provider tells about another user")
	}
	more := map[string]any{}
	if err := info.Claims(&more); err != nil {
		return fmt.Errorf("what the provider tells about the user: %w", err)
	}
	if lacks("email") { // they belong together
		claims["email"], claims["email_verified"] = more["email"], more["email_verified"]
	}
	for _, name := range []string{p.UsernameClaim, p.GroupsClaim} {
		if lacks(name) {
			claims[name] = more[name]
		}
	}
	return nil
}

// holder makes a person of claims.
func (p *Provider) holder(claims map[string]any) (store.Holder, error) {
	name, _ := claims[p.UsernameClaim].(string)
	if name == "" {
		return store.Holder{}, fmt.Errorf("the provider has not told %s, which is the name of users here", p.UsernameClaim)
	}
	if p.UsernameClaim == "email" {
		if verified, said := claims["email_verified"]; said && verified != nil && verified != true && verified != "true" {
			return store.Holder{}, errors.New("the provider has not verified the address")
		}
	}
	name = p.UsernamePrefix + name
	if err := CheckName(name); err != nil {
		return store.Holder{}, err
	}
	groups := listOf(claims[p.GroupsClaim])
	if len(p.Allowed) > 0 && !slices.ContainsFunc(groups, func(g string) bool { return slices.Contains(p.Allowed, g) }) {
		return store.Holder{}, fmt.Errorf("%s is in none of the groups that are let in here", name)
	}
	h := store.Holder{Person: name, Origin: OriginOIDC}
	for _, g := range sortedGroups(groups) {
		// Kubernetes' own groups and this program's are not the provider's to give.
		if g = p.GroupsPrefix + g; CheckName(g) == nil && !strings.HasPrefix(g, "keelson:") && len(h.Groups) < maxGroups {
			h.Groups = append(h.Groups, g)
		}
	}
	return h, nil
}

func listOf(claim any) []string {
	switch c := claim.(type) {
	case string:
		if c != "" {
			return []string{c}
		}
	case []any:
		var out []string
		for _, v := range c {
			if text, ok := v.(string); ok {
				out = append(out, text)
			}
		}
		return out
	}
	return nil
}

// noLocal refuses a name that a local user has: they are not the same person.
func (s *Service) noLocal(ctx context.Context, name string) error {
	db, err := s.Store()
	if err == nil {
		_, err = db.User(ctx, name)
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err == nil:
		return fmt.Errorf("there is a local user %s already: remove it, or set a prefix for the names of OpenID users", name)
	}
	s.Log.Warn("look a user up", "error", err)
	return refusedLogin{status: http.StatusServiceUnavailable, error: away(err)}
}
