package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/hook"
)

// hooksFunc answers as it is told to.
type hooksFunc func(path string, read func() (hook.Request, error)) hook.Answer

func (f hooksFunc) Receive(_ context.Context, path string, read func() (hook.Request, error)) hook.Answer {
	return f(path, read)
}

func TestHooks(t *testing.T) {
	digest := strings.Repeat("0123456789abcdef", 4)
	for name, test := range map[string]struct {
		method, path string
		body         io.Reader
		answer       hook.Answer
		want         int
		called, read bool
	}{
		"taken":               {path: "/hook/" + digest, want: 200, called: true, read: true},
		"a query":             {path: "/hook/" + digest + "?x=1", want: 200, called: true, read: true},
		"refused":             {path: "/hook/" + digest, answer: hook.Answer{Result: hook.Refused}, want: 400, called: true, read: true},
		"failed":              {path: "/hook/" + digest, answer: hook.Answer{Result: hook.Failed}, want: 500, called: true, read: true},
		"no such":             {path: "/hook/" + digest, answer: hook.Answer{Result: hook.Unknown}, want: 404, called: true},
		"not ready":           {path: "/hook/" + digest, answer: hook.Answer{Result: hook.NotReady}, want: 503, called: true},
		"too many":            {path: "/hook/" + digest, answer: hook.Answer{Result: hook.Busy, Wait: 2 * time.Second}, want: 429, called: true},
		"just right":          {path: "/hook/" + digest, body: strings.NewReader(strings.Repeat("a", hook.MaxBody)), want: 200, called: true, read: true},
		"too large":           {path: "/hook/" + digest, body: strings.NewReader(strings.Repeat("a", hook.MaxBody+1)), want: 413, called: true, read: true},
		"cut off":             {path: "/hook/" + digest, body: io.MultiReader(strings.NewReader("a"), broken{}), want: 400, called: true, read: true},
		"get":                 {method: "GET", path: "/hook/" + digest, want: 405},
		"put":                 {method: "PUT", path: "/hook/" + digest, want: 405},
		"get, something else": {method: "GET", path: "/hook/x", want: 405},
		"short":               {path: "/hook/" + digest[1:], want: 404},
		"long":                {path: "/hook/" + digest + "0", want: 404},
		"upper case":          {path: "/hook/" + strings.ToUpper(digest), want: 404},
		"below":               {path: "/hook/x/" + digest[2:], want: 404},
		"none":                {path: "/hook/", want: 404},
		"elsewhere":           {path: "/", want: 404},
	} {
		t.Run(name, func(t *testing.T) {
			called, read := false, false
			handler := NewHooks(hooksFunc(func(path string, get func() (hook.Request, error)) hook.Answer {
				called = true
				if path != "/hook/"+digest {
					t.Errorf("asked for %s", path)
				}
				if !test.read {
					return test.answer
				}
				read = true
				req, err := get()
				if err != nil {
					return hook.Answer{Result: hook.Unread}
				}
				if req.Header.Get("X-GitHub-Event") != "push" {
					t.Error("the headers are missing")
				}
				return test.answer
			}))
			method := test.method
			if method == "" {
				method = http.MethodPost
			}
			r := httptest.NewRequest(method, test.path, test.body)
			r.Host = "hooks.example.com"
			r.Header.Set("X-GitHub-Event", "push")
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			if w.Code != test.want || called != test.called || read != test.read {
				t.Errorf("%d (called %v, read %v), want %d (%v, %v)", w.Code, called, read, test.want, test.called, test.read)
			}
			if w.Body.Len() > 0 {
				t.Errorf("it says %q", w.Body)
			}
			if w.Code == 429 && w.Header().Get("Retry-After") != "2" {
				t.Errorf("Retry-After: %q", w.Header().Get("Retry-After"))
			}
			if w.Header().Get("X-Content-Type-Options") != "nosniff" {
				t.Error("the security headers are missing")
			}
		})
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the line is dead") }

// FuzzReceiverHandler: whatever path and body come in, the answer is one of those that are documented.
func FuzzReceiverHandler(f *testing.F) {
	f.Add("POST", "/hook/"+strings.Repeat("a", 64), "{}")
	f.Add("POST", "/hook/../etc/passwd", "")
	f.Add("GET", "//hook//%2e%2e", "x")
	f.Fuzz(func(t *testing.T, method, path, body string) {
		r, err := http.NewRequest(method, "http://localhost", strings.NewReader(body))
		if err != nil {
			return
		}
		r.URL.Path = path
		w := httptest.NewRecorder()
		NewHooks(hooksFunc(func(path string, read func() (hook.Request, error)) hook.Answer {
			if !isHookPath(path) {
				t.Errorf("asked for %q", path)
			}
			if _, err := read(); err != nil {
				return hook.Answer{Result: hook.Unread}
			}
			return hook.Answer{Result: hook.Result(len(body) % int(hook.Failed+1))}
		})).ServeHTTP(w, r)
		switch w.Code {
		case 200, 400, 404, 405, 413, 429, 500, 503:
		default:
			t.Error(fmt.Sprint("answered ", w.Code))
		}
	})
}
