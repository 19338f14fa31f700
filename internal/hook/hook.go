// Package hook decides about webhooks: whether a request is what it claims to be, whether it was here before, and whether
// what it asks for is done now or a little later. Its words are those of the senders (GitHub, GitLab, Harbor, …) and of
// Flux's Receiver, whose types it knows by name.
//
//	event, err := hook.Check(hook.Rule{Type: "github", Token: token, Events: events}, request) // is it genuine?
//	if !gate.Claim(key, now) { … }                                                             // or was it here before?
//	ok, err := filter.Accepts(resource, request)                                               // and is it about this one?
//
// The package is pure: time is an argument, and what a [Gate] remembers is bounded.
package hook

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // what senders sign with; as a MAC it holds
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"mime"
	"net/textproto"
	"slices"
	"strings"
	"time"
)

// Bounds of a request. Flux's receiver takes a body of the same size.
const (
	MaxBody   = 3 << 20 // bytes
	maxHeader = 1024    // bytes of a header that is looked at
)

// Request is what a sender has sent.
type Request struct {
	Header textproto.MIMEHeader
	Body   []byte
}

// Rule is what a request has to meet.
type Rule struct {
	Type   string   // Flux's name of the kind of sender: "github"
	Token  string   // the secret shared with the sender
	Events []string // the sender's names of the events that count; none: all
}

// Event is a request that was found genuine.
type Event struct {
	Name   string // what the sender calls it, shortened and printable; empty where the type has no events
	ID     string // the sender's id of this delivery; empty: it gives none
	Signed bool   // the sender has signed the body
}

// sender is how requests of one type are told from forged ones, and what they tell about themselves.
type sender struct {
	verify func(token string, req Request) error
	events []string // the headers that name the event, the first that is there counts
	ids    []string // the headers with the id of the delivery
	signed bool
	body   func([]byte) error // looks whether it is a body of this sender; nil: it does not matter
}

// senders are the types of Flux's Receiver that are served here.
var senders = map[string]sender{
	"generic":      {},
	"generic-hmac": {verify: signature("X-Signature"), signed: true},
	"github": { // and Gitea, Forgejo and Gogs, which sign and name events as GitHub does
		verify: all(webForm, signature("X-Hub-Signature-256", "X-Hub-Signature")), signed: true,
		events: []string{"X-GitHub-Event", "X-Gitea-Event", "X-Forgejo-Event"},
		ids:    []string{"X-GitHub-Delivery", "X-Gitea-Delivery", "X-Forgejo-Delivery"},
	},
	"gitlab": {verify: equal("X-Gitlab-Token"), events: []string{"X-Gitlab-Event"}, ids: []string{"X-Gitlab-Event-UUID"}},
	"bitbucket": {
		verify: all(webForm, signature("X-Hub-Signature-256", "X-Hub-Signature")), signed: true,
		events: []string{"X-Event-Key"}, ids: []string{"X-Request-Id", "X-Request-UUID"},
	},
	"harbor":    {verify: equal("Authorization")},
	"dockerhub": {body: decodes[dockerHub]("DockerHub")},
	"quay":      {body: decodes[quay]("Quay")},
	"acr":       {body: decodes[acr]("ACR")},
	"nexus": {
		verify: nexusSignature, signed: true, body: decodes[nexus]("Nexus"), ids: []string{"X-Nexus-Webhook-Delivery"},
	},
	"cdevents": {body: cdEvent, events: []string{"Ce-Type"}, ids: []string{"Ce-Id"}},
}

// Supported tells whether requests of a type of Receiver can be checked here.
func Supported(kind string) bool {
	_, ok := senders[kind]
	return ok
}

// Check tells what event a request is. An error says why it is refused; it holds nothing secret, and of the request only
// what is short and printable.
func Check(rule Rule, req Request) (Event, error) {
	s, ok := senders[rule.Type]
	if !ok {
		return Event{}, fmt.Errorf("receiver type %q is not supported", rule.Type)
	}
	if rule.Token == "" {
		return Event{}, errors.New("the token is empty, so anybody could have sent this")
	}
	if len(req.Body) > MaxBody {
		return Event{}, fmt.Errorf("the body is larger than %d bytes", MaxBody)
	}
	if s.verify != nil {
		if err := s.verify(rule.Token, req); err != nil {
			return Event{}, err
		}
	}
	if s.body != nil {
		if err := s.body(req.Body); err != nil {
			return Event{}, err
		}
	}
	name, err := first(req, s.events)
	if err != nil {
		return Event{}, err
	}
	id, err := first(req, s.ids)
	if err != nil {
		return Event{}, err
	}
	if len(s.events) > 0 && len(rule.Events) > 0 &&
		!slices.ContainsFunc(rule.Events, func(e string) bool { return strings.EqualFold(e, name) }) {
		return Event{}, fmt.Errorf("the event %q is not in spec.events", shown(name))
	}
	return Event{Name: shown(name), ID: id, Signed: s.signed}, nil
}

// header gives a header's value, if it is not too long to be one.
func (r Request) header(name string) (string, error) {
	v := r.Header.Get(name)
	if len(v) > maxHeader {
		return "", fmt.Errorf("the header %s is longer than %d bytes", name, maxHeader)
	}
	return v, nil
}

func first(req Request, names []string) (string, error) {
	for _, name := range names {
		if v, err := req.header(name); v != "" || err != nil {
			return v, err
		}
	}
	return "", nil
}

// shown makes what a stranger wrote fit for a log.
func shown(s string) string {
	const most = 64
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), most)]
}

func all(checks ...func(string, Request) error) func(string, Request) error {
	return func(token string, req Request) error {
		for _, check := range checks {
			if err := check(token, req); err != nil {
				return err
			}
		}
		return nil
	}
}

// webForm refuses a body that no forge sends.
func webForm(_ string, req Request) error {
	v, err := req.header("Content-Type")
	if err != nil {
		return err
	}
	switch t, _, err := mime.ParseMediaType(v); {
	case err == nil && (t == "application/json" || t == "application/x-www-form-urlencoded"):
		return nil
	default:
		return fmt.Errorf("the Content-Type %q is neither application/json nor application/x-www-form-urlencoded", shown(v))
	}
}

// equal demands that a header is the token.
func equal(name string) func(string, Request) error {
	return func(token string, req Request) error {
		v, err := req.header(name)
		if err != nil {
			return err
		}
		if !Same(v, token) {
			return fmt.Errorf("the header %s does not match the token", name)
		}
		return nil
	}
}

// Same compares two texts in a time that depends on neither of them, nor on their lengths.
func Same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

var hashes = map[string]func() hash.Hash{"sha1": sha1.New, "sha256": sha256.New, "sha512": sha512.New}

// signature demands that the first of some headers that is there is "<hash>=<hex>", the HMAC of the body.
func signature(names ...string) func(string, Request) error {
	return func(token string, req Request) error {
		v, err := first(req, names)
		if err != nil {
			return err
		}
		if v == "" {
			return fmt.Errorf("the signature is missing: there is no header %s", names[0])
		}
		name, digits, _ := strings.Cut(v, "=")
		made, ok := hashes[name]
		if !ok {
			return fmt.Errorf("the signature %q is not of the form sha256=<hex> (or sha1, sha512)", shown(name))
		}
		return sealed(made, token, digits, req.Body)
	}
}

func nexusSignature(token string, req Request) error {
	v, err := req.header("X-Nexus-Webhook-Signature")
	if err != nil {
		return err
	}
	if v == "" {
		return errors.New("the signature is missing: there is no header X-Nexus-Webhook-Signature")
	}
	return sealed(sha1.New, token, v, req.Body)
}

func sealed(made func() hash.Hash, token, digits string, body []byte) error {
	given, err := hex.DecodeString(digits)
	if err != nil {
		return errors.New("the signature is not in hexadecimal digits")
	}
	mac := hmac.New(made, []byte(token))
	mac.Write(body)
	if !hmac.Equal(given, mac.Sum(nil)) {
		return errors.New("the signature does not match the body and the token")
	}
	return nil
}

// What the bodies of registries hold, as far as Flux looks at it: a body that is not of this form is refused.
type (
	dockerHub struct {
		PushData struct {
			Tag string `json:"tag"`
		} `json:"push_data"`
		Repository struct {
			URL string `json:"repo_url"`
		} `json:"repository"`
	}
	quay struct {
		URL  string   `json:"docker_url"`
		Tags []string `json:"updated_tags"`
	}
	acr struct {
		Action string `json:"action"`
		Target struct {
			Repository string `json:"repository"`
			Tag        string `json:"tag"`
		} `json:"target"`
	}
	nexus struct {
		Action     string `json:"action"`
		Repository string `json:"repositoryName"`
	}
)

func decodes[T any](name string) func([]byte) error {
	return func(body []byte) error {
		var v T
		if json.Unmarshal(body, &v) != nil { // its error may quote the body
			return fmt.Errorf("the body is no %s payload", name)
		}
		return nil
	}
}

// cdEvent looks for what every CDEvent has (https://cdevents.dev, v0.4).
func cdEvent(body []byte) error {
	var v struct {
		Context struct {
			Version   string    `json:"version"`
			ID        string    `json:"id"`
			Source    string    `json:"source"`
			Type      string    `json:"type"`
			Timestamp time.Time `json:"timestamp"`
		} `json:"context"`
		Subject struct {
			ID string `json:"id"`
		} `json:"subject"`
	}
	c := &v.Context
	if json.Unmarshal(body, &v) != nil || c.Version == "" || c.ID == "" || c.Source == "" || c.Timestamp.IsZero() || v.Subject.ID == "" ||
		!strings.HasPrefix(c.Type, "dev.cdevents.") {
		return errors.New("the body is no CDEvent: it needs context.version, id, source, type (dev.cdevents.…), timestamp and subject.id")
	}
	return nil
}
