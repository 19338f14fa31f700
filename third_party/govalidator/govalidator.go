// Package govalidator stands in for the module of that name, of which Helm calls three functions, for helm lint. The module itself
// compiles a hundred regular expressions while a program starts, which would cost every command of keelson about 6 ms.
package govalidator

import (
	"net/mail"
	"net/url"
	"strings"
)

// IsEmail tells whether a text is an e-mail address and nothing else.
func IsEmail(s string) bool {
	a, err := mail.ParseAddress(s)
	return err == nil && a.Address == s && a.Name == ""
}

// IsURL tells whether a text is a URL, for people: its scheme may be missing, its host may not.
func IsURL(s string) bool {
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	return err == nil && u.Hostname() != "" && !strings.HasPrefix(u.Host, ".")
}

// IsRequestURL tells whether a text is an absolute URL.
func IsRequestURL(s string) bool {
	u, err := url.ParseRequestURI(s)
	return err == nil && u.Scheme != ""
}
