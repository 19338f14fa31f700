package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"keelson.dev/keelson/internal/hook"
)

// HookPath is below which the webhooks of Receivers are, as in Flux: /hook/ and 64 hexadecimal digits.
const HookPath = "/hook/"

// MaxHookHeader bounds the headers of a server that serves webhooks alone.
const MaxHookHeader = 64 << 10

// HookTimeout is how long a sender may take to send a request.
const HookTimeout = 30 * time.Second

// Hooks answers a request to a webhook's path. It calls read for the request itself, at most once.
type Hooks interface {
	Receive(ctx context.Context, path string, read func() (hook.Request, error)) hook.Answer
}

// hookStatus is what a sender is told, as Flux does. Of a refusal it learns nothing more.
var hookStatus = map[hook.Result]int{
	hook.Done:     http.StatusOK,
	hook.Unknown:  http.StatusNotFound,
	hook.NotReady: http.StatusServiceUnavailable,
	hook.Refused:  http.StatusBadRequest,
	hook.Busy:     http.StatusTooManyRequests,
	hook.Failed:   http.StatusInternalServerError,
}

// NewHooks makes the handler of webhooks:
//
//	POST /hook/DIGEST   200 it was taken, 400 refused, 404 no such webhook, 413 too large, 429 too many, 500 failed, 503 not ready
//
// Unlike the dashboard it may be reached under any host name: whoever calls it has to know the digest and, as a rule, to
// sign what it sends.
func NewHooks(hooks Hooks) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		if r.Method != http.MethodPost {
			h.Set("Allow", http.MethodPost)
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		if !isHookPath(r.URL.Path) {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		var unread error
		answer := hooks.Receive(r.Context(), r.URL.Path, func() (req hook.Request, err error) {
			req, unread = readHook(w, r)
			return req, unread
		})
		w.WriteHeader(statusOf(h, answer, unread))
	})
}

func statusOf(h http.Header, answer hook.Answer, unread error) int {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(unread, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case answer.Result == hook.Unread:
		return http.StatusBadRequest
	case answer.Result == hook.Busy:
		h.Set("Retry-After", strconv.Itoa(max(1, int(answer.Wait/time.Second))))
	}
	return hookStatus[answer.Result]
}

// isHookPath tells whether there could be a webhook at a path.
func isHookPath(path string) bool {
	digest, ok := strings.CutPrefix(path, HookPath)
	if !ok || len(digest) != 64 {
		return false
	}
	return strings.Trim(digest, "0123456789abcdef") == ""
}

func readHook(w http.ResponseWriter, r *http.Request) (hook.Request, error) {
	// Not every connection knows deadlines (one of HTTP/2 has others); the server's own timeouts hold then.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(HookTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, hook.MaxBody))
	if err != nil {
		return hook.Request{}, fmt.Errorf("read the body: %w", err)
	}
	return hook.Request{Header: textproto.MIMEHeader(r.Header), Body: body}, nil
}
