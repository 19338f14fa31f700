package web

import (
	"context"
	"errors"
	"net/http"
)

// Target is what somebody wants to do something to, as Kubernetes' RBAC names it. An empty namespace stands for all of them, an empty
// name for all names.
type Target struct {
	Group, Resource, Namespace, Name string
}

// Authorize tells whether somebody may do a verb to a target; nil: yes. The error wraps [ErrForbidden] where the answer is no, and says
// what is missing; any other error means that nobody could tell.
type Authorize func(ctx context.Context, who Person, verb string, on Target) error

// ErrForbidden is wrapped by the error of an [Authorize] that says no.
var ErrForbidden = errors.New("forbidden")

// allowed asks whether who is in front may; where not, the request has been answered.
func (a Authorize) allowed(w http.ResponseWriter, r *http.Request, verb string, on Target) bool {
	if a == nil {
		return true
	}
	err := a(r.Context(), PersonOf(r.Context()), verb, on)
	switch {
	case err == nil:
		letInBy(r.Context(), a, verb, on)
		return true
	case errors.Is(err, ErrForbidden):
		refuse(w, http.StatusForbidden, err)
	default:
		refuse(w, http.StatusServiceUnavailable, err)
	}
	return false
}
