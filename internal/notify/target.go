package notify

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	notificationv1beta3 "github.com/fluxcd/notification-controller/api/v1beta3"
	"sigs.k8s.io/yaml"
)

// MaxTimeout bounds how long a Provider may have one request take.
const MaxTimeout = 2 * time.Minute

// Secrets are the data of the Secrets that a Provider names; nil: it names none.
type Secrets struct {
	Auth, Proxy, Cert map[string][]byte
}

// Target is a Provider with what its Secrets say.
type Target struct {
	Type    string
	Address string // of the service
	Channel string
	Proxy   string // a URL; may hold a user and a password
	Timeout time.Duration

	Username, Password, Token string
	Headers                   map[string]string

	CA, Cert, Key []byte // PEM; empty: the system's, none

	UID  string // the Provider's
	expr string
	spec *notificationv1beta3.Provider
}

// Unsupported names what in a Provider is not served; a Provider with any of it sends nothing.
func Unsupported(p *notificationv1beta3.Provider) (names []string) {
	if _, ok := formats[p.Spec.Type]; !ok {
		names = append(names, "spec.type "+p.Spec.Type)
	}
	if p.Spec.ServiceAccountName != "" {
		names = append(names, "spec.serviceAccountName")
	}
	return names
}

// Check tells what is wrong with a Provider, as far as that shows without its Secrets.
func Check(p *notificationv1beta3.Provider) error {
	if names := Unsupported(p); len(names) > 0 {
		return fmt.Errorf("%s: not supported; nothing is sent", strings.Join(names, ", "))
	}
	if p.Spec.CommitStatusExpr != "" {
		if !formats[p.Spec.Type].commit {
			return fmt.Errorf("spec.commitStatusExpr: type %s sets no commit status", p.Spec.Type)
		}
		if _, err := scope.CompileText(p.Spec.CommitStatusExpr); err != nil {
			return fmt.Errorf("spec.commitStatusExpr: %w", err)
		}
	}
	if p.Spec.SecretRef == nil && p.Spec.Address == "" && formats[p.Spec.Type].address == "" {
		return errors.New("neither spec.address nor a Secret (spec.secretRef) says where to send to")
	}
	return nil
}

// Resolve gives where a Provider sends to, and how. No error holds a value of a Secret.
func Resolve(p *notificationv1beta3.Provider, s Secrets) (Target, error) {
	if err := Check(p); err != nil {
		return Target{}, err
	}
	f := formats[p.Spec.Type]
	t := Target{
		Type: p.Spec.Type, Address: p.Spec.Address, Channel: p.Spec.Channel, Proxy: p.Spec.Proxy, Username: p.Spec.Username,
		Timeout: min(p.GetTimeout(), MaxTimeout), UID: string(p.UID), expr: p.Spec.CommitStatusExpr, spec: p,
	}
	if t.Timeout <= 0 {
		t.Timeout = MaxTimeout
	}
	for key, into := range map[string]*string{
		"address": &t.Address, "proxy": &t.Proxy, "username": &t.Username, "password": &t.Password, "token": &t.Token,
	} {
		if v, ok := s.Auth[key]; ok {
			*into = strings.TrimSpace(string(v))
		}
	}
	if t.Address == "" {
		t.Address = f.address
	}
	if h, ok := s.Auth["headers"]; ok {
		if yaml.Unmarshal(h, &t.Headers) != nil {
			return t, errors.New("the key headers of spec.secretRef is not a YAML map of strings")
		}
	}
	if err := t.headersValid(); err != nil {
		return t, err
	}
	if err := t.proxied(s.Proxy); err != nil {
		return t, err
	}
	if err := t.trusts(s, f.commit); err != nil {
		return t, err
	}
	return t, t.complete(f)
}

func (t *Target) headersValid() error {
	for _, k := range slices.Sorted(maps.Keys(t.Headers)) {
		v := t.Headers[k]
		if k == "" || strings.ContainsAny(k, " \t\r\n:") || strings.ContainsAny(v, "\r\n\x00") {
			return fmt.Errorf("the key headers of spec.secretRef: %q is no header", cut(k, 50))
		}
	}
	return nil
}

func (t *Target) proxied(secret map[string][]byte) error {
	if secret != nil {
		u, err := url.Parse(strings.TrimSpace(string(secret["address"])))
		if err != nil || u.Host == "" {
			return errors.New("spec.proxySecretRef: the key address is missing, or is no URL")
		}
		if user := string(secret["username"]); user != "" {
			u.User = url.UserPassword(user, string(secret["password"]))
		}
		t.Proxy = u.String()
	}
	if t.Proxy == "" {
		return nil
	}
	u, err := url.Parse(t.Proxy)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("the proxy is not an http or https URL")
	}
	return nil
}

// trusts takes certificates: of spec.certSecretRef, or where a commit's status is set, of spec.secretRef.
func (t *Target) trusts(s Secrets, commit bool) error {
	from, named := s.Cert, "spec.certSecretRef"
	if from == nil && commit && len(s.Auth["ca.crt"]) > 0 {
		from, named = s.Auth, "spec.secretRef"
	}
	if from == nil {
		return nil
	}
	either := func(key, old string) []byte {
		if v := from[key]; len(v) > 0 {
			return v
		}
		return from[old]
	}
	t.CA, t.Cert, t.Key = either("ca.crt", "caFile"), either("tls.crt", "certFile"), either("tls.key", "keyFile")
	switch {
	case (len(t.Cert) > 0) != (len(t.Key) > 0):
		return fmt.Errorf("%s: of tls.crt and tls.key only one is there", named)
	case len(t.CA) == 0 && len(t.Cert) == 0:
		return fmt.Errorf("%s: it has neither ca.crt nor tls.crt and tls.key", named)
	}
	return nil
}

// complete tells what is missing.
func (t *Target) complete(f format) error {
	u, err := url.Parse(t.Address)
	if f.commit || f.repository {
		if _, err := repositoryOf(t.Address); err != nil {
			return err
		}
	} else if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("the address is not an http or https URL (hint: spec.address, or the key address of spec.secretRef)")
	}
	if f.token && t.Token == "" {
		return fmt.Errorf("type %s needs the key token in the Secret of spec.secretRef", t.Type)
	}
	if f.channel && t.Channel == "" {
		return fmt.Errorf("type %s needs spec.channel", t.Type)
	}
	return nil
}

// Secret gives the values that must not be seen in any text.
func (t Target) Secret() []string {
	out := []string{t.Token, t.Password, t.Address}
	for _, v := range t.Headers {
		out = append(out, v)
	}
	if u, err := url.Parse(t.Proxy); err == nil && u.User != nil {
		pw, _ := u.User.Password()
		out = append(out, pw)
	}
	if u, err := url.Parse(t.Address); err == nil {
		out = append(out, u.Path, u.RawQuery) // of a webhook these are the key to it
		if u.User != nil {
			pw, _ := u.User.Password()
			out = append(out, pw)
		}
	}
	return slices.DeleteFunc(out, func(s string) bool { return len(s) < 4 })
}
