package identity

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"keelson.dev/keelson/internal/store"
)

// maxBody bounds a request of this package, in bytes.
const maxBody = 64 << 10

// Routes adds everything of this package to a mux.
//
//	GET    /login                        the page; ?token=SECRET of a login link begins a session
//	POST   /login                        its form
//	GET    /login/oidc, /login/callback  by the OpenID provider
//	GET    /login/device                 a person lets keelson login of some machine in
//	POST   /logout
//	GET    /api/v1/me                    [Me]
//	POST   /api/v1/session               {"user","password"} or {"token"}; the cookie and [Me]
//	DELETE /api/v1/session
//	POST   /api/v1/session/device        {"name"}: begins what keelson login waits for; with {"code","secret"} the token, or 202
//	POST   /api/v1/login-links           a login link, for whoever has the instance's token
//	GET    /api/v1/users?after=&limit=   the local users
//	POST   /api/v1/users                 {"name","password","groups"}
//	DELETE /api/v1/users/NAME
//	POST   /api/v1/users/NAME/password   {"password","current"}
//	GET    /api/v1/users/NAME/tokens
//	POST   /api/v1/users/NAME/tokens     {"name","days"}; the token is told this once
//	DELETE /api/v1/users/NAME/tokens/TOKEN
//	GET, POST, DELETE /api/v1/tokens     one's own
func (s *Service) Routes(mux *http.ServeMux) {
	open := func(pattern string, h http.HandlerFunc) { mux.Handle(pattern, s.open(h)) }
	known := func(pattern string, h http.HandlerFunc) { mux.Handle(pattern, s.Guard(bounded(h))) }
	open("GET "+LoginPath, s.loginPage)
	open("POST "+LoginPath, s.loginForm)
	open("POST /api/v1/session", s.loginAPI)
	open("POST /api/v1/session/device", s.device)
	known("GET "+devicePath, s.devicePage)
	known("POST "+devicePath, s.deviceForm)
	known("POST /logout", s.logout)
	known("DELETE /api/v1/session", s.logout)
	known("GET /api/v1/me", s.me)
	known("POST /api/v1/login-links", s.makeLink)
	s.usersIn(known)
	if s.OIDC != nil {
		open("GET "+oidcPath, s.oidcBegin)
		open("GET "+callbackPath, s.oidcEnd)
	}
}

// Paths are what [Service.Routes] serves, as patterns of a mux.
var Paths = []string{
	LoginPath, LoginPath + "/", "/logout", "/api/v1/me", "/api/v1/session", "/api/v1/session/", "/api/v1/login-links",
	"/api/v1/users", "/api/v1/users/", "/api/v1/tokens", "/api/v1/tokens/",
}

// open is in front of what people do who are not known yet: another site's page cannot have them log in as somebody else.
func (s *Service) open(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.harden(w, r)
		if err := s.cross.Check(r); err != nil {
			refuse(w, http.StatusForbidden, errors.New("this request comes from another site"))
			return
		}
		bounded(next).ServeHTTP(w, r)
	})
}

func bounded(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next(w, r)
	})
}

// decode reads a request; it has been answered where that fails.
func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("read the request: %w", err))
		return false
	}
	return true
}

// Me is what GET /api/v1/me answers.
type Me struct {
	Name    string   `json:"name"`
	Groups  []string `json:"groups"`
	Origin  string   `json:"origin"`         // [OriginLocal], [OriginOIDC] or [OriginInstance]
	CSRF    string   `json:"csrf,omitempty"` // for [CSRFHeader]; of a session
	Login   ways     `json:"login"`
	Version string   `json:"version"`
}

func (s *Service) me(w http.ResponseWriter, r *http.Request) {
	answer(w, http.StatusOK, s.meOf(proofOf(r.Context())))
}

func (s *Service) meOf(p proof) Me {
	m := Me{Name: p.Person, Groups: append([]string{}, p.groups...), Origin: p.Origin, Login: s.ways(), Version: s.Version}
	if p.cookie != "" {
		m.CSRF = csrfOf(p.cookie)
	}
	return m
}

// credentials are what somebody logs in with: user and password, or a token, or the secret of a login link.
type credentials struct {
	User     string `json:"user"`
	Password string `json:"password"`
	Token    string `json:"token"`
	link     string
}

func (c credentials) given() bool {
	return c.link != "" || c.Token != "" || c.User != "" && c.Password != ""
}

var errMissing = errors.New("user and password are needed, or a token")

// refusedLogin is a login that failed, as it is answered.
type refusedLogin struct {
	status int
	after  time.Duration // when to try again; 0: any time
	error
}

// errWrong is the one answer to whatever is wrong: it does not say whether there is such a user.
var errWrong = errors.New("the user or the password is wrong")

// login checks credentials and begins a session. Errors are [refusedLogin].
func (s *Service) login(r *http.Request, c credentials) (value string, h store.Holder, until time.Time, err error) {
	e := Event{Action: "login", Actor: c.User, Way: "password"}
	keys := []string{"address " + addressOf(r)}
	switch {
	case c.link != "":
		e.Way = "link"
	case c.Token != "":
		e.Way = "token"
	default:
		keys = append(keys, "user "+printable(c.User))
	}
	if err := s.tooMany(r, keys...); err != nil {
		return "", h, until, err
	}
	defer func() {
		if h.Person != "" {
			e.Actor = h.Person
		}
		s.tell(r, e, err)
	}()
	for i, key := range keys {
		s.tries.fail(key, []int{freeOfAddress, freeOfUser}[i])
	}
	ctx, cancel := context.WithTimeout(r.Context(), 2*storeLimit)
	defer cancel()
	if h, until, err = s.check(ctx, c); err != nil {
		return "", store.Holder{}, until, err
	}
	s.tries.undo(keys[0])
	if len(keys) > 1 {
		s.tries.forget(keys[1])
	}
	value, until, err = s.begin(ctx, h, until)
	if err != nil {
		return "", h, until, refusedLogin{http.StatusServiceUnavailable, 0, err}
	}
	return value, h, until, nil
}

// tooMany refuses a login that comes too soon after those that failed. Nobody is told of it: whoever is not known could fill the audit.
func (s *Service) tooMany(r *http.Request, keys ...string) error {
	wait := s.tries.wait(keys...)
	if wait <= 0 {
		return nil
	}
	s.Log.Debug("a login has to wait", "address", addressOf(r), "wait", wait)
	return refusedLogin{http.StatusTooManyRequests, wait, fmt.Errorf("too many logins have failed: try again in %s", wait.Round(time.Second))}
}

// check finds out whose credentials are, and until when a session by them may last.
func (s *Service) check(ctx context.Context, c credentials) (store.Holder, time.Time, error) {
	refused := func(status int, err error) (store.Holder, time.Time, error) {
		return store.Holder{}, time.Time{}, refusedLogin{status: status, error: err}
	}
	switch {
	case c.link != "":
		h, err := s.useLink(c.link)
		if err != nil {
			return refused(http.StatusUnauthorized, err)
		}
		return h, time.Time{}, nil
	case c.Token != "":
		p, err := s.token(ctx, c.Token, "")
		switch {
		case errors.Is(err, errUnknown):
			return refused(http.StatusUnauthorized, errors.New("the token is wrong or over"))
		case err != nil:
			s.Log.Warn("look a token up", "error", err)
			return refused(http.StatusServiceUnavailable, away(err))
		}
		return p.Holder, p.expires, nil
	}
	db, err := s.Store()
	var u store.User
	if err == nil {
		u, err = db.User(ctx, c.User)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		s.Log.Warn("look a user up", "error", err)
		return refused(http.StatusServiceUnavailable, away(err))
	}
	if len(c.Password) > maxPassword {
		return refused(http.StatusUnauthorized, errWrong)
	}
	right, err := s.hasher.same(ctx, u.Password, c.Password)
	switch {
	case err != nil:
		return refused(http.StatusServiceUnavailable, errors.New("too many people log in at once: try again"))
	case !right:
		return refused(http.StatusUnauthorized, errWrong)
	}
	return store.Holder{Person: u.Name, Origin: OriginLocal}, time.Time{}, nil
}

// setCookie gives a browser its session, and ends the one that it has had.
func (s *Service) setCookie(w http.ResponseWriter, r *http.Request, value string, until time.Time) {
	if old, err := r.Cookie(s.cookieName(r)); err == nil {
		if p, err := s.session(r.Context(), old.Value); err == nil {
			if err := s.end(r.Context(), p.hash); err != nil {
				s.Log.Warn("end a session", "error", err)
			}
		}
	}
	http.SetCookie(w, s.cookie(r, value, until))
}

// cookie makes the session's cookie; an empty value removes it.
func (s *Service) cookie(r *http.Request, value string, until time.Time) *http.Cookie {
	c := &http.Cookie{Name: s.cookieName(r), Value: value, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: s.secure(r)}
	if value == "" {
		c.MaxAge = -1
	} else {
		c.MaxAge = max(1, int(until.Sub(s.Now()).Seconds()))
	}
	return c
}

func (s *Service) loginAPI(w http.ResponseWriter, r *http.Request) {
	var c credentials
	if !decode(w, r, &c) {
		return
	}
	if !c.given() {
		refuse(w, http.StatusBadRequest, errMissing)
		return
	}
	value, _, until, err := s.login(r, c)
	if err != nil {
		refuse(w, statusOf(w, err), err)
		return
	}
	s.setCookie(w, r, value, until)
	p, err := s.session(r.Context(), value)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	answer(w, http.StatusOK, s.meOf(p))
}

// statusOf is the status of a login's error; it sets Retry-After where there is one.
func statusOf(w http.ResponseWriter, err error) int {
	var refused refusedLogin
	if !errors.As(err, &refused) {
		return http.StatusServiceUnavailable
	}
	if refused.after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(refused.after.Seconds()))))
	}
	return refused.status
}

func (s *Service) logout(w http.ResponseWriter, r *http.Request) {
	p := proofOf(r.Context())
	if p.cookie == "" {
		refuse(w, http.StatusBadRequest, errors.New("this request has no session to end: a token is removed instead"))
		return
	}
	err := s.end(r.Context(), p.hash)
	s.tell(r, Event{Action: "logout", Actor: p.Person}, err)
	http.SetCookie(w, s.cookie(r, "", time.Time{}))
	switch {
	case err != nil:
		refuse(w, http.StatusServiceUnavailable, errors.New("the session could not be ended; the server's log says why"))
	case r.Method == http.MethodPost:
		http.Redirect(w, r, LoginPath, http.StatusSeeOther)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// makeLink makes a login link for whoever has the instance's token.
func (s *Service) makeLink(w http.ResponseWriter, r *http.Request) {
	p := proofOf(r.Context())
	if !p.root {
		refuse(w, http.StatusForbidden, errors.New("login links are for whoever has the instance's token"))
		return
	}
	secret, expires, err := s.Link(p.Person)
	if err != nil {
		refuse(w, http.StatusTooManyRequests, err)
		return
	}
	answer(w, http.StatusOK, struct {
		Path    string    `json:"path"`
		Expires time.Time `json:"expires"`
	}{LoginPath + "?token=" + secret, expires})
}

//go:embed login.html
var loginText string

//go:embed login.css
var loginStyle string

var loginTemplate = template.Must(template.New("login").Parse(loginText))

// loginView is what the page shows.
type loginView struct {
	Style   template.CSS
	Next    string
	User    string
	Problem string
	OIDC    string // URL; empty: there is no provider
	Device  *deviceView
}

// page writes a page of this package.
func (s *Service) page(w http.ResponseWriter, status int, v loginView) {
	v.Style = template.CSS(loginStyle)
	var page bytes.Buffer
	if err := loginTemplate.Execute(&page, v); err != nil {
		s.Log.Error("make the login page", "error", err)
		http.Error(w, "the page could not be made; the log says why", http.StatusInternalServerError)
		return
	}
	sum := sha256.Sum256([]byte(loginStyle))
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+
		"'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = page.WriteTo(w) // the browser may be gone
}

func (s *Service) loginPage(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	v := loginView{Next: localPath(q.Get("next")), OIDC: s.oidcURL(q.Get("next"))}
	secret := q.Get("token")
	if secret == "" {
		s.page(w, http.StatusOK, v)
		return
	}
	if r.Method == http.MethodHead || r.Header.Get("Sec-Purpose") != "" || r.Header.Get("Purpose") != "" {
		w.WriteHeader(http.StatusNoContent) // nobody looks yet, and the link works once
		return
	}
	if c, err := r.Cookie(s.cookieName(r)); err == nil && !s.isOpen(secret) {
		if _, err := s.session(r.Context(), c.Value); err == nil { // the page of a link that has logged in is loaded again
			http.Redirect(w, r, v.Next, http.StatusSeeOther)
			return
		}
	}
	s.finish(w, r, credentials{link: secret}, v)
}

func (s *Service) loginForm(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("read the form: %w", err))
		return
	}
	c := credentials{User: r.PostForm.Get("user"), Password: r.PostForm.Get("password"), Token: strings.TrimSpace(r.PostForm.Get("token"))}
	s.finish(w, r, c, loginView{Next: localPath(r.PostForm.Get("next")), User: c.User, OIDC: s.oidcURL(r.PostForm.Get("next"))})
}

// finish logs somebody in who looks at the page, and goes on to what they wanted to see.
func (s *Service) finish(w http.ResponseWriter, r *http.Request, c credentials, v loginView) {
	if !c.given() {
		v.Problem = errMissing.Error()
		s.page(w, http.StatusBadRequest, v)
		return
	}
	value, _, until, err := s.login(r, c)
	if err != nil {
		v.Problem = err.Error()
		s.page(w, statusOf(w, err), v)
		return
	}
	s.setCookie(w, r, value, until)
	http.Redirect(w, r, v.Next, http.StatusSeeOther)
}
