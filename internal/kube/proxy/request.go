package proxy

import (
	"fmt"
	"mime"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// asked is a request as far as it is decided about.
type asked struct {
	path    string // decoded, without tricks
	info    *request.RequestInfo
	upgrade string // the protocol that the client wants to switch to; empty: none
}

// methods are those of the Kubernetes API.
var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// roots are the first parts of the paths that a client of the Kubernetes API needs. What else a server has (metrics, logs, profiles)
// is no business of a job.
var roots = []string{"api", "apis", "version", "openapi", "healthz", "livez", "readyz"}

// maxURL bounds a request's path with its query, in bytes.
const maxURL = 16 << 10

var infos = request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}

// check decides whether a request is one for a Kubernetes API. A path is taken only if every server reads it in the same way.
func check(r *http.Request) (asked, *refusal) {
	if !slices.Contains(methods, r.Method) {
		return asked{}, &refusal{http.StatusMethodNotAllowed, fmt.Sprintf("the Kubernetes API has no method %q", r.Method)}
	}
	if r.URL.Scheme != "" || r.URL.Host != "" || r.URL.Opaque != "" || r.URL.User != nil {
		return asked{}, badRequest("the request names a server: this one leads to its own cluster only")
	}
	if len(r.RequestURI) > maxURL {
		return asked{}, &refusal{http.StatusRequestURITooLong, fmt.Sprintf("the request's URL has more than %d bytes", maxURL)}
	}
	if why := trick(r.URL); why != "" {
		return asked{}, badRequest("the request's path " + why)
	}
	if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
		return asked{}, badRequest("the request's query cannot be read")
	}
	root, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if !slices.Contains(roots, root) {
		return asked{}, &refusal{http.StatusNotFound, "this is a Kubernetes API: its paths are /" + strings.Join(roots, ", /")}
	}
	// The query does not decide about what is asked for below, and what is wrong in it is the server's to tell.
	info, err := infos.NewRequestInfo(&http.Request{Method: r.Method, URL: &url.URL{Path: r.URL.Path}})
	if err != nil {
		return asked{}, badRequest("the request's path names no resource")
	}
	a := asked{path: r.URL.Path, info: info}
	var wrong *refusal
	a.upgrade, wrong = upgrade(r.Header, info)
	return a, wrong
}

// trick tells what in a path different programs read differently; empty: nothing.
func trick(u *url.URL) string {
	if !strings.HasPrefix(u.Path, "/") {
		return "does not begin with a slash"
	}
	raw := strings.ToLower(u.EscapedPath())
	for _, code := range []string{"%2f", "%5c", "%25"} {
		if strings.Contains(raw, code) {
			return "has an encoded slash, backslash or percent sign"
		}
	}
	if strings.ContainsFunc(u.Path, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) {
		return "has a backslash or a control character"
	}
	parts := strings.Split(u.Path[1:], "/")
	for i, part := range parts {
		switch {
		case part == "." || part == "..":
			return "has a part . or .."
		case part == "" && i < len(parts)-1:
			return "has an empty part"
		}
	}
	return ""
}

// streams are the subresources that switch to another protocol.
var streams = []string{"exec", "attach", "portforward", "proxy"}

// upgrade gives the protocol that a client wants to switch to. After that nobody reads along, so only those are let through that the
// Kubernetes API has, where it has them: a watch may use a websocket, too.
func upgrade(h http.Header, info *request.RequestInfo) (string, *refusal) {
	if !slices.ContainsFunc(h["Connection"], func(v string) bool { return strings.Contains(strings.ToLower(v), "upgrade") }) {
		return "", nil
	}
	to := h.Get("Upgrade")
	known := strings.EqualFold(to, "websocket") || strings.EqualFold(to, "SPDY/3.1")
	watch := strings.EqualFold(to, "websocket") && slices.Contains([]string{"get", "list", "watch"}, info.Verb)
	where := info.IsResourceRequest && (slices.Contains(streams, info.Subresource) || watch)
	if len(h["Upgrade"]) > 1 || !known || !where {
		return "", badRequest(fmt.Sprintf("the request wants to switch to the protocol %.40q, which is not to be had there", to))
	}
	return to, nil
}

// bearer gives the token of a request. There is one place where it may be.
func bearer(h http.Header) (string, bool) {
	values := h["Authorization"]
	if len(values) != 1 {
		return "", false
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	return strings.TrimSpace(token), ok && strings.EqualFold(scheme, "bearer")
}

// foreign are the headers with which a client could say who it is, or where it comes from; those that end in * are prefixes.
var foreign = []string{"Authorization", "Impersonate-*", "X-Remote-*", "X-Forwarded-*", "Forwarded", "X-Real-Ip", "Via", "Proxy-*",
	"Cookie", "X-Original-*", "X-Rewrite-Url", "X-Http-Method*", "X-Method-Override"}

// tokenProtocol is the beginning of the websocket protocol in which browsers hide a token.
const tokenProtocol = "base64url.bearer.authorization.k8s.io."

// strip takes out of a request's headers what a client must not say.
func strip(h http.Header) {
	for name := range h {
		plain := textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-"))
		if slices.ContainsFunc(foreign, func(f string) bool {
			prefix, ok := strings.CutSuffix(f, "*")
			return plain == f || ok && strings.HasPrefix(plain, prefix)
		}) {
			delete(h, name)
		}
	}
	const name = "Sec-Websocket-Protocol"
	if protocols := h[name]; len(protocols) > 0 {
		all := strings.Split(strings.Join(protocols, ","), ",")
		all = slices.DeleteFunc(all, func(p string) bool { return strings.HasPrefix(strings.TrimSpace(p), tokenProtocol) })
		delete(h, name)
		if len(all) > 0 {
			h.Set(name, strings.Join(all, ","))
		}
	}
}

// wholeObjects takes out of an Accept header what turns the answer to a write into something else than the object: the answer tells
// what was written.
func wholeObjects(accept string) string {
	var kept []string
	for part := range strings.SplitSeq(accept, ",") {
		_, params, err := mime.ParseMediaType(part)
		if err == nil && params["as"] == "" {
			kept = append(kept, strings.TrimSpace(part))
		}
	}
	if len(kept) == 0 {
		return "application/json"
	}
	return strings.Join(kept, ",")
}
