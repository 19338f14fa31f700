package proxy

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/redact"
)

// refusal is why a request goes no further: an HTTP status, and a text for the person who reads the job's log.
type refusal struct {
	code    int
	message string
}

func badRequest(message string) *refusal { return &refusal{http.StatusBadRequest, message} }

func tooLarge(limit int64) *refusal {
	return &refusal{http.StatusRequestEntityTooLarge, fmt.Sprintf("the request has more than %d MiB", limit>>20)}
}

// reasons are those of the Kubernetes API: clients decide by them.
var reasons = map[int]metav1.StatusReason{
	http.StatusBadRequest:            metav1.StatusReasonBadRequest,
	http.StatusUnauthorized:          metav1.StatusReasonUnauthorized,
	http.StatusForbidden:             metav1.StatusReasonForbidden,
	http.StatusNotFound:              metav1.StatusReasonNotFound,
	http.StatusMethodNotAllowed:      metav1.StatusReasonMethodNotAllowed,
	http.StatusRequestEntityTooLarge: metav1.StatusReasonRequestEntityTooLarge,
	http.StatusTooManyRequests:       metav1.StatusReasonTooManyRequests,
	http.StatusServiceUnavailable:    metav1.StatusReasonServiceUnavailable,
}

// write answers as an API server would.
func (f *refusal) write(w http.ResponseWriter, r *http.Request) {
	if discovers(r) {
		f.writeText(w, r)
		return
	}
	reason, ok := reasons[f.code]
	if !ok {
		reason = metav1.StatusReasonUnknown
	}
	b, err := json.Marshal(metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusFailure, Reason: reason, Message: redact.Text(f.message), Code: int32(f.code),
	})
	if err != nil { // no such value can be
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-cache, private")
	h.Set("X-Content-Type-Options", "nosniff")
	switch f.code {
	case http.StatusUnauthorized:
		h.Set("Www-Authenticate", `Bearer realm="keelson"`)
	case http.StatusTooManyRequests:
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(f.code)
	_, _ = w.Write(b) // there is nobody left to tell
}

// discovers tells whether a request asks which kinds there are, as clients do first.
func discovers(r *http.Request) bool {
	if trick(r.URL) != "" {
		return false
	}
	root, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	depth := strings.Count(strings.TrimSuffix(rest, "/"), "/")
	return root == "openapi" || root == "api" && (rest == "" || depth == 0) || root == "apis" && (rest == "" || depth <= 1)
}

// writeText answers those who ask which kinds there are. Clients (client-go up to now) look for no Status there: of a text they show what it
// says, unless it comes with 401, for which they have words of their own.
func (f *refusal) writeText(w http.ResponseWriter, r *http.Request) {
	code := f.code
	if token, _ := bearer(r.Header); code == http.StatusUnauthorized && strings.HasPrefix(token, tokenPrefix) {
		code = http.StatusForbidden
	}
	h := w.Header()
	if code == http.StatusUnauthorized {
		h.Set("Www-Authenticate", `Bearer realm="keelson"`)
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-cache, private")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, redact.Text(f.message)) // there is nobody left to tell
}
