package identity

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/web"
)

// followed is a stream that somebody follows; its channel is closed when it ends.
func followed(t *testing.T, url, credentials string) <-chan struct{} {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	name, value, _ := strings.Cut(credentials, ": ")
	req.Header.Set(name, value)
	req.Header.Set("Accept", "text/event-stream")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		t.Fatal(res.Status)
	}
	in := bufio.NewReader(res.Body)
	if _, err := in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		defer res.Body.Close()
		for {
			if _, err := in.ReadString('\n'); err != nil {
				return
			}
		}
	}()
	return over
}

func TestStreamsEnd(t *testing.T) {
	const ends, goesOn = true, false
	cases := map[string]struct {
		by   string // a session, a token
		do   func(w *world, s *situation)
		want bool
	}{
		"a logout":          {"session", func(w *world, s *situation) { w.ask("DELETE", "/api/v1/session", "", s.credentials, sameSite) }, ends},
		"somebody else's":   {"session", func(w *world, _ *situation) { w.ask("DELETE", "/api/v1/session", "", w.in("ann"), sameSite) }, goesOn},
		"a session too old": {"session", func(w *world, _ *situation) { w.clock.add(sessionMost + time.Second) }, ends},
		"a session unused":  {"session", func(w *world, _ *situation) { w.clock.add(sessionIdle + time.Second) }, ends},
		"another password": {"session", func(w *world, _ *situation) {
			w.ask("POST", "/api/v1/users/ann/password", `{"password":"correct donkey"}`, asRoot)
		}, ends},
		"a user removed":     {"session", func(w *world, _ *situation) { w.ask("DELETE", "/api/v1/users/ann", "", asRoot) }, ends},
		"whose token it is":  {"token", func(w *world, _ *situation) { w.ask("DELETE", "/api/v1/users/ann", "", asRoot) }, ends},
		"a token removed":    {"token", func(w *world, _ *situation) { w.ask("DELETE", "/api/v1/users/ann/tokens/t", "", asRoot) }, ends},
		"a token too old":    {"token", func(w *world, _ *situation) { w.clock.add(tokenLife + time.Second) }, ends},
		"a right taken away": {"token", func(_ *world, s *situation) { s.revoked.Store(true) }, ends},
		"a database away": {"token", func(w *world, s *situation) {
			s.away.Store(true)
			w.clock.add(believed + time.Second) // so that it is asked
		}, goesOn},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &situation{}
			w := newWorld(t, func(o *Options) {
				inner := o.Store
				o.Store = func() (*store.DB, error) {
					if s.away.Load() {
						return nil, errors.New("the database is away")
					}
					return inner()
				}
			})
			url := s.serve(w)
			w.user("ann")
			if s.credentials = w.in("ann"); c.by == "token" {
				var made MadeToken
				fill(t, w.ask("POST", "/api/v1/users/ann/tokens", `{"name":"t"}`, asRoot), &made)
				s.credentials = "Authorization: Bearer " + made.Token
			}
			over := followed(t, url+"?project=shop", s.credentials)
			c.do(w, s)
			limit := 10 * time.Second
			if c.want == goesOn {
				limit = 5 * time.Second
			}
			select {
			case <-over:
				if c.want == goesOn {
					t.Error("it has ended")
				}
			case <-time.After(limit):
				if c.want == ends {
					t.Errorf("it goes on %s later", limit)
				}
			}
		})
	}
}

// situation is what tests of streams change.
type situation struct {
	credentials   string // as a header
	revoked, away atomic.Bool
}

// serve serves the stream of a project's changes, and gives its URL.
func (s *situation) serve(w *world) string {
	if _, err := w.db.EnsureProject(w.Context(), "shop"); err != nil {
		w.Fatal(err)
	}
	api := web.NewPipelines(web.PipelinesOptions{
		Store: w.db,
		Authorize: func(_ context.Context, who web.Person, verb string, on web.Target) error {
			if s.revoked.Load() {
				return fmt.Errorf("%w: %s may not %s %s", web.ErrForbidden, who.Name, verb, on.Resource)
			}
			return nil
		},
	})
	served := httptest.NewServer(w.Guard(api))
	w.Cleanup(func() {
		served.CloseClientConnections()
		served.Close()
	})
	return served.URL + web.EventsPath
}

// TestFollowingIsNoUse: who has left a page open logs in again after a day.
func TestFollowingIsNoUse(t *testing.T) {
	w := newWorld(t)
	w.user("ann")
	cookie := w.in("ann")
	_, value, _ := strings.Cut(strings.TrimPrefix(cookie, "Cookie: "), "=")
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Cookie", strings.TrimPrefix(cookie, "Cookie: "))
	was, err := w.session(t.Context(), value)
	if err != nil {
		t.Fatal(err)
	}
	for range 23 {
		w.clock.add(time.Hour)
		if err := w.still(t.Context(), r, was, true); err != nil {
			t.Fatal(err)
		}
	}
	w.clock.add(time.Hour + time.Minute)
	if err := w.still(t.Context(), r, was, true); !errors.Is(err, web.ErrGone) {
		t.Errorf("a day later: %v", err)
	}
}

const sameSite = "Sec-Fetch-Site: same-origin"

func fill(t *testing.T, res *http.Response, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text(t, res)), into); err != nil {
		t.Fatal(err)
	}
}
