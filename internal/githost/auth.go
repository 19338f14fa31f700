package githost

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net"
	"net/http"
	"strings"
)

// authorize says whether a request to a repository, or where that is empty to the host, may go on; the error is the refusal. person is whose
// token it has; empty: it is nobody's own. Of somebody who may not, it comes with the error.
func (h *Host) authorize(r *http.Request, repository string, write bool) (person string, err error) {
	if err := h.cross.Check(r); err != nil { // a browser that has been given a token sends it for every page
		return "", refusal{http.StatusForbidden, "this request comes from another site"}
	}
	given, ok := credentials(r)
	if ok && equal(given, h.opts.Token) {
		return "", nil
	}
	if h.private(repository) {
		return "", refusal{http.StatusUnauthorized, "only administrators read " + repository + ": it needs the token of the instance"}
	}
	if ok && h.opts.Person != nil && h.opts.Personal(given) {
		return h.byPerson(r, given, repository, write)
	}
	if ok && h.opts.Allow != nil && given != "" && repository != "" {
		if err := h.opts.Allow(given, repository, write); err != nil {
			return "", refusal{http.StatusUnauthorized, err.Error()}
		}
		return "", nil
	}
	if ok {
		// Wrong credentials are refused for reads too: silence would hide a mistake.
		return "", refusal{http.StatusUnauthorized, "the token is wrong"}
	}
	if !write && !h.guarded(r) && isLoopback(r.RemoteAddr) {
		return "", nil
	}
	return "", refusal{http.StatusUnauthorized, "a token is needed: use it as the password, with any user name"}
}

// byPerson is authorize for the token of a person.
func (h *Host) byPerson(r *http.Request, token, repository string, write bool) (string, error) {
	name, err := h.opts.Person(r.Context(), token, repository, write)
	switch {
	case err == nil:
		return name, nil
	case errors.Is(err, ErrUnknown):
		return "", refusal{http.StatusUnauthorized, "the token is wrong or over: keelson user token makes another one"}
	case errors.Is(err, ErrForbidden):
		return name, refusal{http.StatusForbidden, err.Error()}
	}
	return "", refusal{http.StatusServiceUnavailable, err.Error()}
}

// private tells whether only the token of the host opens a repository.
func (h *Host) private(repository string) bool {
	return repository != "" && h.opts.Private != nil && h.opts.Private(repository)
}

// credentials are the token that a request carries.
func credentials(r *http.Request) (string, bool) {
	if _, password, ok := r.BasicAuth(); ok {
		return password, true
	}
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token), true
	}
	return "", r.Header.Get("Authorization") != ""
}

// equal compares in constant time, whatever the lengths.
func equal(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// addressOf is where a request comes from, without the port.
func addressOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
