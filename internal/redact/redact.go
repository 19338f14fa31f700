// Package redact takes out of texts and objects what must never be seen: the userinfo of URLs,
// credential-like query parameters, Authorization headers, known secret values and the data of
// Kubernetes Secrets.
//
//	redact.URL("https://bob:pw@git.example.com/a.git")  // https://git.example.com/a.git
//	redact.Text(stderr)                                 // the same for every URL inside a text
//	redact.New(token).Text(log)                         // and for values that are known to be secret
//	live, desired = redact.SecretPair(live, desired)    // a diff that shows which keys changed, never a value
//
// The package is pure. When in doubt it takes out too much rather than too little.
package redact

import (
	"cmp"
	"encoding/base64"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Mask stands where a value was.
const Mask = "**REDACTED**"

// minSecret is the shortest value that a [Redactor] looks for: shorter ones would riddle any text with masks
// and tell more than they hide.
const minSecret = 4

// queryCredential finds the value of a query parameter whose name says that it is a credential.
var queryCredential = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?i)([?&;](?:[a-z0-9_.-]*(?:token|secret|passw(?:or)?d|signature|credential|api[_-]?key|access[_-]?key|private[_-]?key)|pass|pwd|auth|authorization|jwt|key|sig)=)[^&;#\s'"<>]+`)
})

// authHeader finds the credentials of an HTTP Authorization header.
var authHeader = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?i)(authorization['"]?\s*[:=]\s*['"]?(?:(?:basic|bearer|token)\s+)?)[^\s'",]+`)
})

// accessToken finds access tokens of people (package identity), whatever stands around them.
var accessToken = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`kst_[A-Za-z0-9_-]{43,}`) })

// URL removes the userinfo from a URL and masks credential-like query parameters. A text that is no URL comes
// back as it is; a malformed URL loses everything up to its last "@".
func URL(s string) string { return redact(s, "") }

// Text does what [URL] does for every URL inside a text (a program's stderr, a log line) and masks the
// credentials of Authorization headers, and access tokens of people.
func Text(s string) string {
	s = redact(s, " \t\r\n\v\f")
	if strings.Contains(s, "uthorization") || strings.Contains(s, "UTHORIZATION") {
		s = authHeader().ReplaceAllString(s, "${1}"+Mask)
	}
	if strings.Contains(s, "kst_") {
		s = accessToken().ReplaceAllString(s, Mask)
	}
	return s
}

// redact cuts the userinfo after every "://". A URL reaches to the next of the characters in end, or to the end of s.
func redact(s, end string) string {
	var b strings.Builder
	for {
		head, rest, ok := strings.Cut(s, "://")
		b.WriteString(head)
		if !ok {
			break
		}
		b.WriteString("://")
		token := rest
		if i := strings.IndexAny(rest, end); i >= 0 {
			token = rest[:i]
		}
		s = rest[userinfoLen(token):]
	}
	return queryCredential().ReplaceAllString(b.String(), "${1}"+Mask)
}

// userinfoLen is the length of the userinfo, with its "@", at the start of what follows "://".
func userinfoLen(token string) int {
	authority := token
	if i := strings.IndexAny(token, "/?#"); i >= 0 {
		authority = token[:i]
	}
	if at := strings.LastIndex(authority, "@"); at >= 0 {
		return at + 1
	}
	// "user:pa/ss@host": an unescaped slash in the password. What looks like a port is none.
	if colon := strings.LastIndex(authority, ":"); colon >= 0 && strings.Trim(authority[colon+1:], "0123456789]") != "" {
		return strings.LastIndex(token, "@") + 1
	}
	return 0
}

// Redactor masks known secret values. The zero Redactor masks none but does what [Text] does.
type Redactor struct {
	forms    []string // of the values, the longest first
	replacer *strings.Replacer
}

// New makes a Redactor for the given secret values, each also in its base64 and URL-escaped forms. Values shorter
// than four bytes are not looked for.
func New(values ...string) *Redactor {
	var forms []string
	for _, v := range values {
		if len(v) < minSecret {
			continue
		}
		forms = append(forms, v, url.QueryEscape(v), url.PathEscape(v), url.UserPassword("", v).String()[1:],
			base64.StdEncoding.EncodeToString([]byte(v)), base64.RawURLEncoding.EncodeToString([]byte(v)))
	}
	return ofForms(forms)
}

// Join makes a Redactor for all values that others know: one after the other would mask a part of a value that only the next one knows whole. Nil ones
// know none.
func Join(all ...*Redactor) *Redactor {
	var forms []string
	for _, r := range all {
		if r != nil {
			forms = append(forms, r.forms...)
		}
	}
	return ofForms(forms)
}

func ofForms(forms []string) *Redactor {
	// The longest first: a value that begins with another one is masked whole.
	slices.SortFunc(forms, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) })
	forms = slices.Compact(forms)
	pairs := make([]string, 0, 2*len(forms))
	for _, f := range forms {
		pairs = append(pairs, f, Mask)
	}
	return &Redactor{forms: forms, replacer: strings.NewReplacer(pairs...)}
}

// Text masks the known values and everything that the function [Text] masks.
func (r *Redactor) Text(s string) string {
	if r != nil && r.replacer != nil {
		s = r.replacer.Replace(s)
	}
	return Text(s)
}
