package proxy

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Grant is what a job may do in the cluster, and until when.
type Grant struct {
	Job         string // its id, for messages and the audit log
	Project     string // its path
	Environment string // empty: the job has none
	// Context tells the grants of one job apart.
	Context string
	// Account is the service account that the job acts as. With an empty one every request is refused, with the reason.
	Account Account
	// Why says why there is no account, and what to do; empty: that none is set.
	Why     string
	Expires time.Time
	// OnWrite is told of every write that the cluster has accepted, before the job sees its answer. Requests run at the same
	// time, and so do its calls; it must not block. Nil: nobody wants to know.
	OnWrite func(Written)
}

// Account is a service account.
type Account struct{ Namespace, Name string }

// user is the name by which the API server knows the account. It adds the account's groups by itself, and no others.
func (a Account) user() string { return "system:serviceaccount:" + a.Namespace + ":" + a.Name }

// check tells what keeps a grant from being one. What is in it goes into headers of requests that are sent with Keelson's rights.
func (g Grant) check() error {
	if g.Job == "" || strings.ContainsFunc(g.Job+g.Project, func(r rune) bool { return r < ' ' || r > '~' }) {
		return fmt.Errorf("job %q of project %q cannot be named in an audit log", g.Job, g.Project)
	}
	if g.Account == (Account{}) {
		return nil
	}
	wrong := append(validation.IsDNS1123Label(g.Account.Namespace), validation.IsDNS1123Subdomain(g.Account.Name)...)
	if len(wrong) > 0 {
		return fmt.Errorf("%s/%s is no service account: %s", g.Account.Namespace, g.Account.Name, wrong[0])
	}
	return nil
}

// Why a token is good no more: causes of the end of a grant's context.
var (
	errExpired = errors.New("the job's token has expired")
	errRevoked = errors.New("the job's token is no longer valid: the job has ended")
)

// grant is a Grant that was given.
type grant struct {
	Grant
	secret [sha256.Size]byte // the hash of it
	ctx    context.Context   // ended with the token; its cause says why
	end    context.CancelCauseFunc
	busy   atomic.Int64 // requests under way
}

// grants are those that were given. Nothing of them is kept elsewhere: they end with the process. With [Options.Key] the next process can
// give the same tokens again.
type grants struct {
	mu   sync.Mutex
	byID map[string]*grant
}

const (
	// tokenPrefix tells people and scanners what such a text is.
	tokenPrefix = "keelson-job-"
	// idLength and secretLength are lengths of a token's parts in bytes: the one by which its grant is found, which is no
	// secret, and the secret.
	idLength, secretLength = 9, 32
	// remembered is how long a token that has ended is known, so that a job that has outlived it is told what happened.
	remembered = time.Hour
)

// Grant gives a job a token. It is good until revoke is called or it expires; then whatever runs with it is cut off at once. With
// [Options.Key] the same job gets the same token for the same context every time; what was granted with it before is over.
func (p *Proxy) Grant(g Grant) (token string, revoke func(), err error) {
	if err := g.check(); err != nil {
		return "", nil, err
	}
	token = newToken(p.o.Key, g)
	id, secret, _ := splitToken(token)
	ctx, end := context.WithCancelCause(context.Background())
	ctx, done := context.WithDeadlineCause(ctx, g.Expires, errExpired)
	given := &grant{Grant: g, secret: sha256.Sum256([]byte(secret)), ctx: ctx, end: end}
	p.grants.mu.Lock()
	before := p.grants.byID[id]
	p.grants.byID[id] = given
	p.grants.mu.Unlock()
	if before != nil {
		before.end(errRevoked)
	}
	context.AfterFunc(ctx, func() {
		done()
		time.AfterFunc(remembered, func() { p.grants.forget(id, given) })
	})
	return token, func() { end(errRevoked) }, nil
}

// newToken makes a grant's token: a random one, or with a key the one that follows from it, the job and the context.
func newToken(key []byte, g Grant) string {
	raw := make([]byte, idLength+secretLength)
	if len(key) == 0 {
		_, _ = rand.Read(raw) // never fails
	} else {
		mac := hmac.New(sha512.New, key)
		for _, part := range []string{"keelson job token", g.Project, g.Job, g.Context} {
			_, _ = fmt.Fprintf(mac, "%d:%s", len(part), part) // a hash never fails
		}
		raw = mac.Sum(nil)[:idLength+secretLength]
	}
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(raw)
}

func (gs *grants) forget(id string, g *grant) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if gs.byID[id] == g {
		delete(gs.byID, id)
	}
}

// find gives the grant of a token; nil: there is none. Only the id decides where is looked, and the secret is compared in constant time.
func (gs *grants) find(token string) *grant {
	id, secret, ok := splitToken(token)
	if !ok {
		return nil
	}
	gs.mu.Lock()
	g := gs.byID[id]
	gs.mu.Unlock()
	given := sha256.Sum256([]byte(secret))
	if g == nil || subtle.ConstantTimeCompare(given[:], g.secret[:]) != 1 {
		return nil
	}
	return g
}

// splitToken takes a token apart. The id's length is one that base64 maps to whole characters.
func splitToken(token string) (id, secret string, ok bool) {
	rest, ok := strings.CutPrefix(token, tokenPrefix)
	n := base64.RawURLEncoding.EncodedLen(idLength)
	if !ok || len(rest) != base64.RawURLEncoding.EncodedLen(idLength+secretLength) {
		return "", "", false
	}
	return rest[:n], rest[n:], true
}
