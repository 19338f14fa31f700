package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/web"
)

const rootToken = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// world is a service on a real database, in front of a page that says who looks at it.
type world struct {
	*testing.T
	*Service
	clock  *clock
	db     *store.DB
	mux    *http.ServeMux
	events []Event
}

func newWorld(t *testing.T, change ...func(*Options)) *world {
	t.Helper()
	w := &world{T: t, clock: &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}, mux: http.NewServeMux()}
	var err error
	w.db, err = store.Open(filepath.Join(t.TempDir(), "store.db"), store.Options{Key: make([]byte, store.KeySize), Now: w.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.db.Close() })
	o := Options{
		Store: func() (*store.DB, error) { return w.db, nil }, Token: rootToken, Now: w.clock.now, Version: "v1",
		Audit: func(e Event) { w.events = append(w.events, e) },
		Authorize: func(_ context.Context, who web.Person, verb string, on web.Target) error { // administrators may do everything
			if slices.Contains(who.Groups, Admins) {
				return nil
			}
			return fmt.Errorf("%w: %s may not %s %s", web.ErrForbidden, who.Name, verb, describe(on))
		},
	}
	for _, c := range change {
		c(&o)
	}
	w.Service = New(o)
	w.Routes(w.mux)
	w.mux.Handle("/", w.Guard(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		p := web.PersonOf(r.Context())
		fmt.Fprintf(out, "%s %v", p.Name, p.Groups)
	})))
	return w
}

// ask sends a request; headers are "Name: value", and a body is a form where it is no JSON.
func (w *world) ask(method, path, body string, headers ...string) *http.Response {
	w.Helper()
	r := httptest.NewRequest(method, "http://keelson.test"+path, strings.NewReader(body))
	if body != "" && !strings.HasPrefix(body, "{") {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Remote" {
			r.RemoteAddr = value
			continue
		}
		r.Header.Add(name, value)
	}
	rec := httptest.NewRecorder()
	w.mux.ServeHTTP(rec, r)
	return rec.Result()
}

func text(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// wants fails unless a request is answered with a status, and with a text.
func (w *world) wants(status int, says string, res *http.Response) string {
	w.Helper()
	got := text(w.T, res)
	if res.StatusCode != status || !strings.Contains(got, says) {
		w.Fatalf("have %s %q, want %d with %q", res.Status, got, status, says)
	}
	return got
}

const asRoot = "Authorization: Bearer " + rootToken

// user makes a local user with the password "correct horse".
func (w *world) user(name string, groups ...string) {
	w.Helper()
	body, err := json.Marshal(NewUser{Name: name, Password: "correct horse", Groups: groups})
	if err != nil {
		w.Fatal(err)
	}
	w.wants(http.StatusCreated, name, w.ask("POST", "/api/v1/users", string(body), asRoot))
}

// in logs somebody in, and gives the cookie as a header.
func (w *world) in(name string) string {
	w.Helper()
	res := w.ask("POST", "/api/v1/session", fmt.Sprintf(`{"user":%q,"password":"correct horse"}`, name))
	w.wants(http.StatusOK, `"name":"`+name+`"`, res)
	return cookieOf(w.T, res)
}

func cookieOf(t *testing.T, res *http.Response) string {
	t.Helper()
	for _, c := range res.Cookies() {
		if strings.HasSuffix(c.Name, "keelson") && c.Value != "" {
			return "Cookie: " + c.Name + "=" + c.Value
		}
	}
	t.Fatalf("no cookie: %v", res.Header)
	return ""
}

func TestNothingIsOpen(t *testing.T) {
	w := newWorld(t)
	w.user("ann", "dev")
	cookie := w.in("ann")
	forged := "Cookie: keelson=" + newSecret()
	for _, c := range []struct {
		name, method, path string
		headers            []string
		status             int
		says               string
	}{
		{"nobody", "GET", "/api/apps", nil, 401, `"login":{"password":true,"oidc":""}`},
		{"nobody's browser", "GET", "/apps?q=a&b=c", []string{"Accept: text/html"}, 303, ""},
		{"a browser's script", "GET", "/api/v1/pipelines", []string{"Accept: text/html"}, 401, "keelson login"},
		{"a forged cookie", "GET", "/", []string{forged}, 401, ""},
		{"an empty cookie", "GET", "/", []string{"Cookie: keelson="}, 401, ""},
		{"a huge cookie", "GET", "/", []string{"Cookie: keelson=" + strings.Repeat("a", 10_000)}, 401, ""},
		{"a cookie that is cut", "GET", "/", []string{cookie[:len(cookie)-1]}, 401, ""},
		{"a cookie with more", "GET", "/", []string{cookie + "a"}, 401, ""},
		{"the cookie of another name", "GET", "/", []string{strings.Replace(cookie, "keelson=", "other=", 1)}, 401, ""},
		{"SQL", "GET", "/", []string{"Authorization: Bearer kst_' OR 1=1 --"}, 401, ""},
		{"a forged token", "GET", "/", []string{"Authorization: Bearer kst_" + newSecret()}, 401, ""},
		{"part of the token", "GET", "/", []string{asRoot[:len(asRoot)-1]}, 401, ""},
		{"an empty token", "GET", "/", []string{"Authorization: Bearer "}, 401, ""},
		{"no bearer", "GET", "/", []string{"Authorization: Basic " + rootToken}, 401, ""},
		{"two tokens", "GET", "/", []string{asRoot, asRoot}, 401, ""},
		{"a wrong token is not helped by a cookie", "GET", "/", []string{"Authorization: Bearer x", cookie}, 401, ""},
		{"a name alone", "GET", "/", []string{"X-Keelson-User: ann"}, 401, ""},
		{"a name does not count with a cookie", "GET", "/", []string{cookie, "X-Keelson-User: root"}, 200, "ann [dev]"},
		{"the instance's token", "GET", "/", []string{asRoot}, 200, "admin [keelson:admins]"},
		{"in small letters", "GET", "/", []string{strings.Replace(asRoot, "Bearer", "bearer", 1)}, 200, "admin"},
		{"with a name", "GET", "/", []string{asRoot, "X-Keelson-User: carl"}, 200, "carl [keelson:admins]"},
		{"as the cluster itself", "GET", "/", []string{asRoot, "X-Keelson-User: system:admin"}, 400, "Kubernetes' own"},
		{"in other letters", "GET", "/", []string{asRoot, "X-Keelson-User: System:masters"}, 400, "Kubernetes' own"},
		{"a name with a line's end", "GET", "/", []string{asRoot, "X-Keelson-User: a\r\nImpersonate-Group: system:masters"}, 400, "cannot have"},
		{"a name that is too long", "GET", "/", []string{asRoot, "X-Keelson-User: " + strings.Repeat("a", 300)}, 400, "1 to 253"},
		{"two names", "GET", "/", []string{asRoot, "X-Keelson-User: a", "X-Keelson-User: b"}, 401, ""},
		{"ann", "GET", "/", []string{cookie}, 200, "ann [dev]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			res := w.ask(c.method, c.path, "", c.headers...)
			body := text(t, res)
			if res.StatusCode != c.status || !strings.Contains(body, c.says) {
				t.Errorf("have %s %q, want %d with %q", res.Status, body, c.status, c.says)
			}
			for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"} {
				if got := res.Header.Get(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
		})
	}
	if to := w.ask("GET", "/apps?q=a&b=c", "", "Accept: text/html").Header.Get("Location"); to != "/login?next=%2Fapps%3Fq%3Da%26b%3Dc" {
		t.Errorf("the browser is sent to %s", to)
	}
	tokens := w.GuardTokens(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Cookie", strings.TrimPrefix(cookie, "Cookie: "))
	rec := httptest.NewRecorder()
	if tokens.ServeHTTP(rec, r); rec.Code != http.StatusUnauthorized {
		t.Errorf("a cookie counts where none should: %d", rec.Code)
	}
}

func TestCookie(t *testing.T) {
	for _, secure := range []bool{false, true} {
		w := newWorld(t, func(o *Options) { o.Secure = secure })
		w.user("ann")
		res := w.ask("POST", "/api/v1/session", `{"user":"ann","password":"correct horse"}`)
		c := res.Cookies()[0]
		if !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Secure != secure || c.Path != "/" || c.Domain != "" || c.MaxAge != int(sessionMost.Seconds()) ||
			strings.HasPrefix(c.Name, "__Host-") != secure {
			t.Errorf("the cookie is %s", c)
		}
		if hsts := res.Header.Get("Strict-Transport-Security"); (hsts != "") != secure {
			t.Errorf("HSTS is %q", hsts)
		}
	}
}

func TestCrossSite(t *testing.T) {
	w := newWorld(t)
	w.user("ann")
	cookie := w.in("ann")
	var me Me
	if err := json.Unmarshal([]byte(text(t, w.ask("GET", "/api/v1/me", "", cookie))), &me); err != nil || me.CSRF == "" {
		t.Fatalf("%+v %v", me, err)
	}
	for _, c := range []struct {
		name    string
		method  string
		headers []string
		status  int
	}{
		{"this very page", "POST", []string{"Sec-Fetch-Site: same-origin", "Origin: http://keelson.test"}, 200},
		{"a page of before Sec-Fetch", "POST", []string{"Origin: http://keelson.test"}, 200},
		{"another site", "POST", []string{"Sec-Fetch-Site: cross-site", "Origin: http://evil.test"}, 403},
		{"another site that is old", "POST", []string{"Origin: http://evil.test"}, 403},
		{"the same site, another name", "POST", []string{"Sec-Fetch-Site: same-site", "Origin: http://other.test"}, 403},
		{"another port of this machine", "POST", []string{"Origin: http://keelson.test:81"}, 403},
		{"a sandbox", "POST", []string{"Origin: null"}, 403},
		{"nothing is said", "POST", nil, 403},
		{"nothing is said, with the csrf", "POST", []string{CSRFHeader + ": " + me.CSRF}, 200},
		{"another site, with the csrf", "POST", []string{"Sec-Fetch-Site: cross-site", CSRFHeader + ": " + me.CSRF}, 403},
		{"a wrong csrf", "POST", []string{"Sec-Fetch-Site: same-origin", CSRFHeader + ": x"}, 403},
		{"another site deletes", "DELETE", []string{"Sec-Fetch-Site: cross-site"}, 403},
		{"another site links here", "GET", []string{"Sec-Fetch-Site: cross-site"}, 200},
	} {
		if res := w.ask(c.method, "/api/v1/x", "", append(c.headers, cookie)...); res.StatusCode != c.status {
			t.Errorf("%s: %s, want %d", c.name, res.Status, c.status)
		}
	}
	// A token is in no browser, so it needs no proof of where a request comes from.
	w.wants(200, "admin", w.ask("POST", "/api/v1/x", "", asRoot))
	// Another site cannot log its visitor in as somebody else.
	for _, path := range []string{"/login", "/api/v1/session"} {
		w.wants(403, "another site", w.ask("POST", path, `{"user":"ann","password":"correct horse"}`, "Sec-Fetch-Site: cross-site"))
	}
}

func TestLogin(t *testing.T) {
	w := newWorld(t)
	w.user("ann", "dev")
	for _, c := range []struct {
		body   string
		status int
		says   string
	}{
		{`{"user":"ann","password":"wrong horse"}`, 401, "the user or the password is wrong"},
		{`{"user":"nobody","password":"correct horse"}`, 401, "the user or the password is wrong"},
		{`{"user":"ann","password":"` + strings.Repeat("a", 2000) + `"}`, 401, "the user or the password is wrong"},
		{`{"user":"ann","password":""}`, 400, "are needed"},
		{`{"user":"ann"}`, 400, "are needed"},
		{`{"token":"kst_wrong"}`, 401, "the token is wrong"},
		{`{"link":"x"}`, 400, "unknown field"},
		{`{`, 400, "read the request"},
		{`{"user":"` + strings.Repeat("a", maxBody) + `"}`, 400, "too large"},
		{`{"token":"` + rootToken + `"}`, 200, `"name":"admin","groups":["keelson:admins"],"origin":"instance"`},
		{`{"user":"ann","password":"correct horse"}`, 200, `"name":"ann","groups":["dev"],"origin":"local"`},
	} {
		w.wants(c.status, c.says, w.ask("POST", "/api/v1/session", c.body))
	}

	// The page: a wrong password is told, a right one goes on to what was asked for, never to another site.
	w.wants(200, `name="next" value="/apps?a=b"`, w.ask("GET", "/login?next=/apps%3Fa%3Db", ""))
	w.wants(401, "the user or the password is wrong", w.ask("POST", "/login", "user=ann&password=wrong"))
	w.wants(401, `value="&lt;script&gt;"`, w.ask("POST", "/login", "user=<script>&password=wrong"))
	w.wants(400, "user and password are needed, or a token", w.ask("POST", "/login", "user=ann"))
	w.wants(303, "", w.ask("POST", "/login", url.Values{"token": {" " + rootToken + "\n"}}.Encode()))
	for next, want := range map[string]string{
		"/apps?a=b": "/apps?a=b", "": "/", "//evil.test": "/", "https://evil.test": "/", `/\evil.test`: "/", "/\tevil": "/", "javascript:alert(1)": "/", "/login": "/",
		"/a\r\nX: y": "/", "apps": "/", "/.//evil.test": "/evil.test", "/x/..//evil.test": "/evil.test", "/%2Fevil.test": "/%2Fevil.test", "///evil.test": "/", "/@evil.test": "/@evil.test",
	} {
		res := w.ask("POST", "/login", url.Values{"user": {"ann"}, "password": {"correct horse"}, "next": {next}}.Encode())
		if got := res.Header.Get("Location"); res.StatusCode != http.StatusSeeOther || got != want {
			t.Errorf("after %q: %s to %q, want %q", next, res.Status, got, want)
		}
	}
	csp := w.ask("GET", "/login", "").Header.Get("Content-Security-Policy")
	if !strings.Contains(csp, "default-src 'none'; style-src 'sha256-") || !strings.Contains(csp, "form-action 'self'") {
		t.Error(csp)
	}
}

// TestFixation: whatever cookie a browser brings, a login gives it another, and the old session is over.
func TestFixation(t *testing.T) {
	w := newWorld(t)
	w.user("ann")
	w.user("eve")
	eve := w.in("eve")
	for _, brought := range []string{eve, "Cookie: keelson=chosen"} {
		res := w.ask("POST", "/api/v1/session", `{"user":"ann","password":"correct horse"}`, brought)
		if got := cookieOf(t, res); got == brought {
			t.Errorf("ann has the cookie that was brought: %s", got)
		}
		if res := w.ask("GET", "/", "", brought); res.StatusCode != http.StatusUnauthorized {
			t.Errorf("the cookie that was brought is good for %s", text(t, res))
		}
	}
}

func TestLogout(t *testing.T) {
	w := newWorld(t)
	w.user("ann")
	one, two := w.in("ann"), w.in("ann")
	w.wants(200, "ann", w.ask("GET", "/", "", one))
	res := w.ask("DELETE", "/api/v1/session", "", one, "Sec-Fetch-Site: same-origin")
	w.wants(204, "", res)
	if c := res.Cookies()[0]; c.MaxAge != -1 || c.Value != "" {
		t.Errorf("the cookie is %s", c)
	}
	w.wants(401, "", w.ask("GET", "/", "", one))
	w.wants(200, "ann", w.ask("GET", "/", "", two))
	w.wants(303, "", w.ask("POST", "/logout", "", two, "Sec-Fetch-Site: same-origin"))
	w.wants(401, "", w.ask("GET", "/", "", two))
	w.wants(400, "no session", w.ask("DELETE", "/api/v1/session", "", asRoot))
}

// TestExpiry: a session that is not used ends, one that is used ends, too, and so does a token.
func TestExpiry(t *testing.T) {
	w := newWorld(t)
	w.user("ann")
	used, idle := w.in("ann"), w.in("ann")
	var made MadeToken
	body := w.wants(201, TokenPrefix, w.ask("POST", "/api/v1/tokens", `{"name":"ci","days":3}`, used, "Sec-Fetch-Site: same-origin"))
	if err := json.Unmarshal([]byte(body), &made); err != nil {
		t.Fatal(err)
	}
	token := "Authorization: Bearer " + made.Token
	for at := time.Duration(0); at < sessionMost+time.Hour; at += sessionIdle / 2 {
		status := func(cookie string) int { return w.ask("GET", "/", "", cookie).StatusCode }
		want := map[string]int{used: 200, idle: 401, token: 401}
		if at >= sessionMost {
			want[used] = 401
		}
		if at < 3*24*time.Hour {
			want[token] = 200
		}
		if at == 0 {
			want[idle] = 200
		}
		checks := []string{used, token}
		if at == 0 || at > sessionIdle {
			checks = append(checks, idle)
		}
		for _, c := range checks {
			if got := status(c); got != want[c] {
				t.Fatalf("after %s: %s: %d, want %d", at, c[:12], got, want[c])
			}
		}
		w.settled(used)
		w.clock.add(sessionIdle / 2)
	}
}

// settled waits until the use of a session is noted, which no request waits for.
func (w *world) settled(cookie string) {
	w.Helper()
	hash := hashOf("session " + strings.TrimPrefix(cookie, "Cookie: keelson="))
	for range 1000 {
		s, err := w.db.Session(w.Context(), hash[:])
		if err != nil || w.clock.now().Sub(s.Seen) < seenEvery || !w.clock.now().Before(s.Expires) {
			return
		}
		time.Sleep(time.Millisecond)
	}
	w.Fatal("the use of a session is not noted")
}

func TestBruteForce(t *testing.T) {
	w := newWorld(t)
	w.user("ann")
	try := func(user, password, from string) *http.Response {
		return w.ask("POST", "/api/v1/session", fmt.Sprintf(`{"user":%q,"password":%q}`, user, password), "Remote: "+from+":1000")
	}
	for range freeOfUser {
		w.wants(401, "wrong", try("ann", "guess", "192.0.2.1"))
	}
	// From anywhere, and also with the right password: who guesses does not learn it.
	res := try("ann", "correct horse", "192.0.2.2")
	if w.wants(429, "too many logins", res); res.Header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After is %s", res.Header.Get("Retry-After"))
	}
	told := len(w.events)
	w.wants(429, "too many logins", try("ann", "guess", "192.0.2.2"))
	if len(w.events) != told {
		t.Errorf("a login that has to wait is told: %+v", w.events[told:])
	}
	w.wants(401, "wrong", try("bob", "guess", "192.0.2.2")) // others are not held off
	w.clock.add(time.Second)
	w.wants(200, "ann", try("ann", "correct horse", "192.0.2.2"))
	for range freeOfUser {
		w.wants(401, "wrong", try("ann", "guess", "192.0.2.3"))
	}
	for range 20 {
		w.clock.add(longestWait) // a person is never locked out for longer
		w.wants(401, "wrong", try("ann", "guess", "192.0.2.3"))
	}
	w.clock.add(longestWait)
	w.wants(200, "ann", try("ann", "correct horse", "192.0.2.4"))

	// One address that tries many users.
	for i := range freeOfAddress {
		w.wants(401, "wrong", try(fmt.Sprint("user", i), "guess", "2001:db8::1"))
	}
	w.wants(429, "too many", try("other", "guess", "2001:db8::1"))
	w.wants(429, "too many", try("other", "guess", "2001:db8::2")) // the same customer's
	w.wants(401, "wrong", try("other", "guess", "2001:db8:0:1::1"))
	w.wants(429, "too many", w.ask("POST", "/api/v1/session", `{"token":"kst_x"}`, "Remote: [2001:db8::1]:1"))
	w.clock.add(forgotten + longestWait)
	w.wants(401, "wrong", try("other", "guess", "2001:db8::1"))

	for i := range 3 * maxCounted {
		w.tries.fail(fmt.Sprint("user x", i), freeOfUser)
	}
	if n := len(w.tries.of); n > maxCounted {
		t.Errorf("%d are counted", n)
	}
}

func TestLoginLink(t *testing.T) {
	w := newWorld(t)
	w.user("ann")
	make := func() string {
		t.Helper()
		var made struct{ Path string }
		body := w.wants(200, "/login?token=", w.ask("POST", "/api/v1/login-links", "", asRoot, "X-Keelson-User: carl"))
		if err := json.Unmarshal([]byte(body), &made); err != nil {
			t.Fatal(err)
		}
		return made.Path
	}
	link := make()
	w.wants(204, "", w.ask("GET", link, "", "Sec-Purpose: prefetch")) // nobody has looked
	w.wants(204, "", w.ask("HEAD", link, ""))
	res := w.ask("GET", link+"&next=/apps", "")
	if w.wants(303, "", res); res.Header.Get("Location") != "/apps" {
		t.Errorf("it leads to %s", res.Header.Get("Location"))
	}
	carl := cookieOf(t, res)
	w.wants(200, "carl [keelson:admins]", w.ask("GET", "/", "", carl))
	w.wants(401, "was used already", w.ask("GET", link, ""))
	w.wants(303, "", w.ask("GET", link, "", carl)) // the page is loaded again
	w.wants(401, "was used already", w.ask("GET", "/login?token=x", ""))
	late := make()
	w.clock.add(linkLife)
	w.wants(401, "too old", w.ask("GET", late, ""))
	for _, who := range []string{carl, w.in("ann")} { // only the token makes links
		w.wants(403, "instance's token", w.ask("POST", "/api/v1/login-links", "", who, "Sec-Fetch-Site: same-origin"))
	}
	for range maxLinks {
		_ = make()
	}
	w.wants(429, "are open already", w.ask("POST", "/api/v1/login-links", "", asRoot))
}

func TestUsers(t *testing.T) {
	w := newWorld(t)
	w.user("ann", "dev")
	w.user("root2", Admins)
	ann, origin := w.in("ann"), "Sec-Fetch-Site: same-origin"
	for _, c := range []struct {
		method, path, body string
		headers            []string
		status             int
		says               string
	}{
		{"GET", "/api/v1/users", "", []string{asRoot}, 200, `{"users":[{"name":"ann","groups":["dev"]`},
		{"GET", "/api/v1/users?limit=1", "", []string{asRoot}, 200, `"next":"ann"`},
		{"GET", "/api/v1/users?limit=0", "", []string{asRoot}, 400, "limit"},
		{"GET", "/api/v1/users", "", []string{ann}, 403, "ann may not list"},
		{"POST", "/api/v1/users", `{"name":"bob","password":"long enough"}`, []string{ann, origin}, 403, "ann may not create"},
		{"POST", "/api/v1/users", `{"name":"ann","password":"long enough"}`, []string{asRoot}, 409, "already"},
		{"POST", "/api/v1/users", `{"name":"bob","password":"short"}`, []string{asRoot}, 422, "fewer than 8"},
		{"POST", "/api/v1/users", `{"name":"system:admin","password":"long enough"}`, []string{asRoot}, 422, "letters, digits"},
		{"POST", "/api/v1/users", `{"name":"a b","password":"long enough"}`, []string{asRoot}, 422, "letters, digits"},
		{"POST", "/api/v1/users", `{"name":"bob","password":"long enough","groups":["system:masters"]}`, []string{asRoot}, 422, "Kubernetes' own"},
		{"POST", "/api/v1/users", `{"name":"bob","password":"long enough","groups":["a\nb"]}`, []string{asRoot}, 422, "cannot have"},
		{"DELETE", "/api/v1/users/nobody", "", []string{asRoot}, 404, "no such user"},
		{"DELETE", "/api/v1/users/ann", "", []string{ann, origin}, 403, "ann may not delete"},
		{"POST", "/api/v1/users/root2/password", `{"password":"long enough"}`, []string{ann, origin}, 403, "ann may not update"},
		{"POST", "/api/v1/users/root2/tokens", `{"name":"x"}`, []string{ann, origin}, 403, "ann may not update"},
		{"GET", "/api/v1/users/root2/tokens", "", []string{ann}, 403, "ann may not list"},
		{"POST", "/api/v1/users/ann/password", `{"password":"long enough"}`, []string{ann, origin}, 403, "the current password is wrong"},
		{"POST", "/api/v1/users/ann/password", `{"current":"correct horse","password":"short"}`, []string{ann, origin}, 422, "fewer than 8"},
		{"POST", "/api/v1/tokens", `{"name":"x","days":400}`, []string{ann, origin}, 422, "1 to 366"},
		{"POST", "/api/v1/tokens", `{"name":"x","days":-1}`, []string{ann, origin}, 422, "1 to 366"},
		{"POST", "/api/v1/tokens", `{"name":"x","days":31}`, []string{asRoot}, 422, "1 to 30"},
		{"POST", "/api/v1/tokens", `{"name":"a/b"}`, []string{ann, origin}, 422, "without slashes"},
		{"POST", "/api/v1/tokens", `{"name":""}`, []string{ann, origin}, 422, "1 to 100"},
		{"DELETE", "/api/v1/tokens/x", "", []string{ann, origin}, 404, "no such"},
		{"GET", "/api/v1/tokens", "", []string{ann}, 200, `{"tokens":[]}`},
	} {
		res := w.ask(c.method, c.path, c.body, c.headers...)
		if body := text(t, res); res.StatusCode != c.status || !strings.Contains(body, c.says) {
			t.Errorf("%s %s %s: %s %s, want %d with %q", c.method, c.path, c.body, res.Status, body, c.status, c.says)
		}
	}
	if out := text(t, w.ask("GET", "/api/v1/users", "", asRoot)); strings.Contains(out, "argon2") {
		t.Errorf("hashes are told: %s", out)
	}

	// A token is its user's, and over with it; a new password ends sessions.
	var made MadeToken
	if err := json.Unmarshal([]byte(w.wants(201, "kst_", w.ask("POST", "/api/v1/users/ann/tokens", `{"name":"ci"}`, asRoot))), &made); err != nil {
		t.Fatal(err)
	}
	token := "Authorization: Bearer " + made.Token
	w.wants(200, "ann [dev]", w.ask("GET", "/", "", token))
	w.wants(200, `"name":"ci"`, w.ask("GET", "/api/v1/tokens", "", ann))
	w.wants(204, "", w.ask("POST", "/api/v1/users/ann/password", `{"current":"correct horse","password":"another horse"}`, ann, origin))
	w.wants(401, "", w.ask("GET", "/", "", ann))
	w.wants(200, "ann", w.ask("GET", "/", "", token))
	w.wants(401, "", w.ask("POST", "/api/v1/session", `{"user":"ann","password":"correct horse"}`))
	session := cookieOf(t, w.ask("POST", "/api/v1/session", fmt.Sprintf(`{"token":%q}`, made.Token)))
	w.wants(200, "ann", w.ask("GET", "/", "", session))
	w.wants(204, "", w.ask("DELETE", "/api/v1/users/ann/tokens/ci", "", asRoot))
	w.wants(401, "", w.ask("GET", "/", "", token))
	w.wants(401, "", w.ask("GET", "/", "", session)) // it was begun with the token
	root2 := w.in("root2")
	w.wants(204, "", w.ask("DELETE", "/api/v1/users/root2", "", asRoot))
	w.wants(401, "", w.ask("GET", "/", "", root2))
}

// TestUsersAreImpersonated: whoever manages users becomes nobody whom they may not impersonate.
func TestUsersAreImpersonated(t *testing.T) {
	w := newWorld(t, func(o *Options) {
		root := o.Authorize
		o.Authorize = func(ctx context.Context, who web.Person, verb string, on web.Target) error {
			granted := on.Resource == "users" && on.Group == "keelson.dev" || verb == "impersonate" && on == web.Target{Resource: "users", Name: "bot"}
			if who.Name == "hank" && granted {
				return nil
			}
			return root(ctx, who, verb, on)
		}
	})
	w.user("hank")
	w.user("amy") // RBAC gives this name rights
	hank, origin := w.in("hank"), "Sec-Fetch-Site: same-origin"
	for _, c := range []struct {
		path, body string
	}{
		{"/api/v1/users", `{"name":"boss","password":"long enough"}`},
		{"/api/v1/users/amy/password", `{"password":"long enough"}`},
		{"/api/v1/users/amy/tokens", `{"name":"x"}`},
	} {
		w.wants(403, "hank may not impersonate", w.ask("POST", c.path, c.body, hank, origin))
	}
	w.wants(200, "amy", w.ask("GET", "/api/v1/users", "", hank))
	w.wants(200, "tokens", w.ask("GET", "/api/v1/users/amy/tokens", "", hank))
	w.wants(201, "bot", w.ask("POST", "/api/v1/users", `{"name":"bot","password":"long enough"}`, hank, origin))
	w.wants(201, "kst_", w.ask("POST", "/api/v1/users/bot/tokens", `{"name":"x"}`, hank, origin))
	w.wants(204, "", w.ask("DELETE", "/api/v1/users/amy", "", hank, origin))
}

func TestDevice(t *testing.T) {
	w := newWorld(t)
	w.user("ann", "dev")
	ann := w.in("ann")
	begin := func() (d DeviceLogin) {
		t.Helper()
		if err := json.Unmarshal([]byte(w.wants(200, "secret", w.ask("POST", "/api/v1/session/device", `{"name":"laptop"}`))), &d); err != nil {
			t.Fatal(err)
		}
		return d
	}
	poll := func(d DeviceLogin) *http.Response {
		return w.ask("POST", "/api/v1/session/device", fmt.Sprintf(`{"code":%q,"secret":%q}`, d.Code, d.Secret))
	}
	d := begin()
	w.wants(202, "waiting", poll(d))
	w.wants(410, "begin again", poll(DeviceLogin{Code: d.Code, Secret: "guess"}))
	w.wants(303, "", w.ask("GET", d.Path, "", "Accept: text/html"))
	page := w.wants(200, d.Code, w.ask("GET", d.Path, "", ann))
	if !strings.Contains(page, "<b>laptop</b>") || !strings.Contains(page, "<b>ann</b>") {
		t.Error(page)
	}
	csrf := regexp.MustCompile(`name="csrf" value="([^"]+)"`).FindStringSubmatch(page)[1]
	form := url.Values{"code": {d.Code}, "csrf": {csrf}}.Encode()
	w.wants(403, "another site", w.ask("POST", "/login/device", form, ann, "Sec-Fetch-Site: cross-site"))
	w.wants(403, "load the page again", w.ask("POST", "/login/device", url.Values{"code": {d.Code}, "csrf": {"x"}}.Encode(), ann, "Sec-Fetch-Site: same-origin"))
	w.wants(202, "waiting", poll(d))
	w.wants(200, "Go back to the terminal", w.ask("POST", "/login/device", form, ann, "Sec-Fetch-Site: same-origin"))
	var made MadeToken
	if err := json.Unmarshal([]byte(w.wants(200, "kst_", poll(d))), &made); err != nil {
		t.Fatal(err)
	}
	w.wants(200, "ann [dev]", w.ask("GET", "/", "", "Authorization: Bearer "+made.Token))
	w.wants(410, "begin again", poll(d)) // once
	late := begin()
	w.clock.add(deviceLife)
	w.wants(410, "begin again", poll(late))
	w.wants(404, "No terminal waits", w.ask("GET", late.Path, "", w.in("ann")))
	for range maxDevices {
		_ = begin()
	}
	w.wants(429, "wait already", w.ask("POST", "/api/v1/session/device", `{"name":"x"}`))
}

// TestTokensDoNotRenewThemselves: whose groups are known from their login only logs in for a new token.
func TestTokensDoNotRenewThemselves(t *testing.T) {
	w := newWorld(t)
	w.user("ann")
	const origin = "Sec-Fetch-Site: same-origin"
	make := func(headers ...string) string {
		t.Helper()
		var made MadeToken
		name := fmt.Sprintf(`{"name":%q}`, newSecret())
		if err := json.Unmarshal([]byte(w.wants(201, "kst_", w.ask("POST", "/api/v1/tokens", name, headers...))), &made); err != nil {
			t.Fatal(err)
		}
		return made.Token
	}
	begin := func(token string) string {
		t.Helper()
		return cookieOf(t, w.ask("POST", "/api/v1/session", fmt.Sprintf(`{"token":%q}`, token)))
	}
	lets := func(cookie string) *http.Response {
		t.Helper()
		d, err := w.beginDevice("laptop")
		if err != nil {
			t.Fatal(err)
		}
		_, value, _ := strings.Cut(cookie, "=")
		return w.ask("POST", "/login/device", url.Values{"code": {d.Code}, "csrf": {csrfOf(value)}}.Encode(), cookie, origin)
	}
	olga, _, err := w.begin(t.Context(), store.Holder{Person: "olga", Origin: OriginOIDC, Groups: []string{"dev"}}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	for name, login := range map[string][]string{
		"of the provider": {"Cookie: " + w.Cookie + "=" + olga, origin}, "with the instance's token": {asRoot}, "begun with the instance's token": {begin(rootToken), origin},
	} {
		t.Run(name, func(t *testing.T) {
			token := make(login...)
			w.wants(403, "log in again", w.ask("POST", "/api/v1/tokens", `{"name":"next"}`, "Authorization: Bearer "+token))
			session := begin(token)
			w.wants(403, "log in again", w.ask("POST", "/api/v1/tokens", `{"name":"next"}`, session, origin))
			w.wants(403, "log in again", lets(session))
			if strings.HasPrefix(login[0], "Cookie: ") {
				w.wants(200, "Go back to the terminal", lets(login[0]))
			}
		})
	}
	ann := make("Authorization: Bearer " + make(w.in("ann"), origin)) // who is removed has no tokens any more
	w.wants(200, "Go back to the terminal", lets(begin(ann)))
}

// TestDatabaseFails: the dashboard goes on for those who have the instance's token.
func TestDatabaseFails(t *testing.T) {
	for name, failing := range map[string]func(*Options){
		"none":   func(o *Options) { o.Store = func() (*store.DB, error) { return nil, store.ErrCorrupt } },
		"closed": func(o *Options) { db, _ := o.Store(); db.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, failing)
			w.wants(200, "admin", w.ask("GET", "/", "", asRoot))
			cookie := cookieOf(t, w.ask("POST", "/api/v1/session", `{"token":"`+rootToken+`"}`))
			w.wants(200, "admin", w.ask("GET", "/", "", cookie))
			w.clock.add(sessionIdle / 2)
			w.wants(200, "admin", w.ask("GET", "/", "", cookie))
			w.wants(503, "log says why", w.ask("POST", "/api/v1/session", `{"user":"ann","password":"correct horse"}`))
			w.wants(503, "log says why", w.ask("GET", "/", "", "Authorization: Bearer kst_"+newSecret()))
			w.wants(204, "", w.ask("DELETE", "/api/v1/session", "", cookie, "Sec-Fetch-Site: same-origin"))
			if res := w.ask("GET", "/", "", cookie); res.StatusCode == http.StatusOK {
				t.Error("the session goes on")
			}
		})
	}
}

func TestAudit(t *testing.T) {
	w := newWorld(t)
	w.user("ann")
	w.events = nil
	_ = w.ask("POST", "/api/v1/session", `{"user":"an\u001b[31mn\n","password":"guess"}`, "Remote: 192.0.2.9:5")
	cookie := w.in("ann")
	_ = w.ask("DELETE", "/api/v1/session", "", cookie, "Sec-Fetch-Site: same-origin")
	_ = w.ask("DELETE", "/api/v1/users/ann", "", asRoot, "X-Keelson-User: carl")
	at := w.clock.now()
	want := []Event{
		{Time: at, Actor: "an\uFFFD[31mn\uFFFD", Action: "login", Way: "password", Address: "192.0.2.9", Failure: "the user or the password is wrong"},
		{Time: at, Actor: "ann", Action: "login", Way: "password", Address: "192.0.2.1"},
		{Time: at, Actor: "ann", Action: "logout", Address: "192.0.2.1"},
		{Time: at, Actor: "carl", Action: "user.remove", Object: "ann", Address: "192.0.2.1"},
	}
	if d := cmp.Diff(want, w.events); d != "" {
		t.Error(d)
	}
}

func TestPasswords(t *testing.T) {
	h, ctx := newHasher(), t.Context()
	one, err := h.hash(ctx, "correct horse")
	if err != nil || !regexp.MustCompile(`^\$argon2id\$v=19\$m=19456,t=2,p=1\$[\w+/]{22}\$[\w+/]{43}$`).MatchString(one) {
		t.Fatalf("%s %v", one, err)
	}
	if two, _ := h.hash(ctx, "correct horse"); one == two {
		t.Error("two hashes are the same")
	}
	for _, c := range []struct {
		hash, password string
		want           bool
	}{
		{one, "correct horse", true},
		{one, "correct hors", false},
		{one, "", false},
		{"", "", false},
		{"", strings.Repeat("\x00", 32), false},
		{"correct horse", "correct horse", false},
		{strings.Replace(one, "m=19456", "m=4294967295", 1), "correct horse", false},
		{strings.Replace(one, "t=2", "t=4000000000", 1), "correct horse", false},
		{strings.Replace(one, "p=1", "p=0", 1), "correct horse", false},
		{strings.Replace(one, "argon2id", "argon2i", 1), "correct horse", false},
		{one[:len(one)-43], "correct horse", false},
	} {
		if got, err := h.same(ctx, c.hash, c.password); err != nil || got != c.want {
			t.Errorf("%q with %q: %v %v", c.hash, c.password, got, err)
		}
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	h <- struct{}{}
	h <- struct{}{}
	if _, err := h.same(over, one, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("whoever waits is not let go: %v", err)
	}
}
