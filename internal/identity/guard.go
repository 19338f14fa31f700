package identity

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"keelson.dev/keelson/internal/web"
)

// CSRFHeader is where a page says the csrf of /api/v1/me, with requests that change something.
const CSRFHeader = "X-CSRF-Token"

// LoginPath is where people log in.
const LoginPath = "/login"

type proofKey struct{}

// proofOf is what the person of a request is known by.
func proofOf(ctx context.Context) proof {
	p, _ := ctx.Value(proofKey{}).(proof)
	return p
}

// Guard lets requests of known persons through, with the person in the context. Others are answered: programs with 401, browsers that
// want to see a page with the way to the login. What a session asks to change has to come from a page of this very origin.
func (s *Service) Guard(next http.Handler) http.Handler { return s.guard(next, true) }

// GuardTokens is Guard for where no browser comes: cookies do not count.
func (s *Service) GuardTokens(next http.Handler) http.Handler { return s.guard(next, false) }

func (s *Service) guard(next http.Handler, cookies bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.harden(w, r)
		p, err := s.prove(r, cookies)
		if err != nil {
			s.turnAway(w, r, err, cookies)
			return
		}
		if p.cookie != "" {
			if err := s.checkOrigin(r, p); err != nil {
				refuse(w, http.StatusForbidden, err)
				return
			}
		}
		visit := web.WithVisitor(r.Context(), p.person(), func(ctx context.Context) error { return s.still(ctx, r, p, cookies) })
		next.ServeHTTP(w, r.WithContext(context.WithValue(visit, proofKey{}, p)))
	})
}

// quietKey is in the context of a look that is no use of a session or a token: what is only followed does not keep them alive.
type quietKey struct{}

// still tells whether a request would be let in now as it was, with an error that wraps [web.ErrGone] if not.
func (s *Service) still(ctx context.Context, r *http.Request, was proof, cookies bool) error {
	p, err := s.prove(r.WithContext(context.WithValue(ctx, quietKey{}, true)), cookies)
	switch {
	case errors.Is(err, errUnknown):
		return fmt.Errorf("%w: %w", web.ErrGone, err)
	case err != nil:
		return err
	case p.Person != was.Person || p.Origin != was.Origin || !slices.Equal(p.groups, was.groups):
		return fmt.Errorf("%w: the groups of %s are others now", web.ErrGone, was.Person)
	}
	return nil
}

// harden sets the headers that every answer has. A page that needs more sets its own policy.
func (s *Service) harden(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	h.Set("Cache-Control", "no-store")
	if s.secure(r) {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

// secure tells whether the browser of a request came over https.
func (s *Service) secure(r *http.Request) bool { return s.Secure || web.ByHTTPS(r.Context()) }

// cookieName is the name of the session's cookie: over https one that browsers take over https from this very host only.
func (s *Service) cookieName(r *http.Request) string {
	if s.secure(r) {
		return "__Host-" + s.Cookie
	}
	return s.Cookie
}

// prove finds out whose a request is.
func (s *Service) prove(r *http.Request, cookies bool) (proof, error) {
	if given := r.Header.Values("Authorization"); len(given) > 0 {
		scheme, value, _ := strings.Cut(given[0], " ")
		users := r.Header.Values(UserHeader)
		if !strings.EqualFold(scheme, "Bearer") || len(given) > 1 || len(users) > 1 {
			return proof{}, errUnknown
		}
		return s.token(r.Context(), strings.TrimSpace(value), r.Header.Get(UserHeader))
	}
	if !cookies {
		return proof{}, errUnknown
	}
	c, err := r.Cookie(s.cookieName(r))
	if err != nil {
		return proof{}, errUnknown
	}
	return s.session(r.Context(), c.Value)
}

// checkOrigin refuses what another site's page has a browser do. Browsers say where a request comes from; one that does not has to
// bring the session's csrf.
func (s *Service) checkOrigin(r *http.Request, p proof) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return nil
	}
	if err := s.cross.Check(r); err != nil {
		return errors.New("this request comes from another site")
	}
	if given := r.Header.Get(CSRFHeader); given != "" {
		if !equal(given, csrfOf(p.cookie)) {
			return errors.New(CSRFHeader + " is not that of this session: load the page again")
		}
		return nil
	}
	if r.Header.Get("Sec-Fetch-Site") == "" && r.Header.Get("Origin") == "" {
		return errors.New("this request does not say where it comes from: " + CSRFHeader + " is missing")
	}
	return nil
}

// csrfOf is what pages of a session prove themselves with.
func csrfOf(cookie string) string {
	sum := sha256.Sum256([]byte("csrf " + cookie))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// turnAway answers who is not known.
func (s *Service) turnAway(w http.ResponseWriter, r *http.Request, err error, cookies bool) {
	var status int
	switch {
	case errors.Is(err, errUnknown):
		status, err = http.StatusUnauthorized, errors.New("the token or the session is missing, wrong or over: keelson login")
	case isBadName(err):
		status = http.StatusBadRequest
	default:
		s.Log.Warn("find out who somebody is", "error", err)
		status, err = http.StatusServiceUnavailable, away(err)
		if cookies && wantsPage(r) { // here, and not at the login page: nobody would know whether they have to go there
			next := r.URL.RequestURI()
			s.page(w, status, loginView{Next: localPath(next), OIDC: s.oidcURL(next), Problem: err.Error()})
			return
		}
	}
	if status == http.StatusUnauthorized {
		if cookies && wantsPage(r) {
			http.Redirect(w, r, LoginPath+"?"+url.Values{"next": {r.URL.RequestURI()}}.Encode(), http.StatusSeeOther)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="keelson"`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct { // the client may be gone
		Error string `json:"error"`
		Login ways   `json:"login"`
	}{err.Error(), s.ways()})
}

// wantsPage tells whether a browser asks for a page that a person wants to see.
func wantsPage(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && strings.Contains(r.Header.Get("Accept"), "text/html") &&
		r.Header.Get("Authorization") == "" && !strings.HasPrefix(r.URL.Path, "/api/")
}

// ways says how people can log in.
type ways struct {
	Password bool   `json:"password"`
	OIDC     string `json:"oidc"` // where the login at the OpenID provider begins; empty: there is none
}

func (s *Service) ways() ways {
	w := ways{Password: true}
	if s.OIDC != nil {
		w.OIDC = oidcPath
	}
	return w
}

// localPath gives the path on this server that a login goes on to; whatever is elsewhere becomes the first page.
func localPath(text string) string {
	u, err := url.Parse(text)
	if err != nil || len(text) > 2000 || u.Scheme != "" || u.Host != "" || u.User != nil || !strings.HasPrefix(text, "/") ||
		strings.HasPrefix(text, "//") || strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == '\\' || c == 0x7f }) ||
		u.Path == LoginPath {
		return "/"
	}
	return text
}

func refuse(w http.ResponseWriter, status int, err error) {
	answer(w, status, map[string]string{"error": err.Error()})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}
