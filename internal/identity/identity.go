// Package identity knows who somebody is: it is in front of the dashboard and of everything below /api/v1.
//
//	who := identity.New(identity.Options{Store: …, Token: …})
//	mux.Handle("/api/v1/", who.Guard(api))   // handlers find the person with web.PersonOf
//	who.Routes(mux)                          // logging in and out, users and tokens
//
// A person is known by one of these:
//
//   - a session, which a browser has as a cookie: begun with a password, with a login link that works once, by OpenID Connect, or with a token
//   - an access token (kst_…), as Authorization: Bearer
//   - the token of the instance, likewise: an administrator, whose name the header X-Keelson-User says
//
// Only hashes of passwords, tokens and cookies are kept. What a person may do is not known here: [Authorizer] asks the cluster.
// Where the database fails sessions are kept in memory, so that the dashboard goes on.
package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/web"
)

// Admins is the group of those who may do everything. A ClusterRoleBinding gives it its rights, as it would any group.
const Admins = "keelson:admins"

// TokenPrefix is how access tokens begin.
const TokenPrefix = "kst_"

// UserHeader is where whoever has the instance's token says who asks. It counts with that token only.
const UserHeader = "X-Keelson-User"

// By which way a person has come.
const (
	OriginLocal    = "local"    // a user of this instance
	OriginOIDC     = "oidc"     // a user of the OpenID provider
	OriginInstance = "instance" // somebody who has the instance's token, or a login link
)

// usualAdmin is the name of whoever has the instance's token and does not say who they are.
const usualAdmin = "admin"

// How long things last.
const (
	sessionIdle    = 24 * time.Hour
	sessionMost    = 7 * 24 * time.Hour
	linkLife       = 15 * time.Minute
	tokenLife      = 30 * 24 * time.Hour  // unless somebody says
	maxTokenLife   = 366 * 24 * time.Hour // of a local user
	maxForeignLife = 30 * 24 * time.Hour  // of somebody whose groups are known from their login only
	believed       = 5 * time.Second      // that a session or a token is what it was
	seenEvery      = time.Minute          // the use of a session or a token is noted
	storeLimit     = 5 * time.Second
)

// Bounds of what is kept in memory.
const maxRecent, maxKept, maxLinks = 10_000, 1000, 100

// Options of a [Service].
type Options struct {
	// Store gives the database; an error says why there is none.
	Store func() (*store.DB, error)
	// Token is the instance's: whoever has it is an administrator. Empty: there is none.
	Token string
	// Cookie is the name of the session's cookie; empty: keelson. Cookies do not know ports, so each server of a machine has a name of its own.
	Cookie string
	// Secure says that browsers reach this over https, which a proxy in front may serve. Else it is said of each request ([web.ByHTTPS]).
	Secure bool
	// OIDC is the OpenID provider; nil: there is none.
	OIDC *Provider
	// Authorize tells who may manage users.
	Authorize web.Authorize
	// Audit is told of logins; nil: nobody is. It must not block.
	Audit   func(Event)
	Version string
	Now     func() time.Time // nil: time.Now
	Log     *slog.Logger
}

// Event is a login, the end of a session, or a change of users and tokens.
type Event struct {
	Time    time.Time
	Actor   string // who it was, or said to be
	Action  string // login, logout, user.add, user.remove, user.password, token.add or token.remove
	Object  string // the user or token that was changed
	Way     string // of a login: password, token, link or oidc
	Address string // where the request came from
	Failure string // why it was refused; empty: it was not
}

// Service is who knows persons. It is safe for concurrent use.
type Service struct {
	Options
	hasher hasher
	cross  *http.CrossOriginProtection
	tries  limiter

	mu     sync.Mutex
	recent map[[32]byte]recent        // by the hash of what proves it
	kept   map[[32]byte]store.Session // that could not be stored
	links  map[[32]byte]link
	asked  map[string]*deviceAsk // by their codes
}

// recent is a proof that was looked up a moment ago.
type recent struct {
	proof proof
	until time.Time
	quiet bool // it was no use, so a use looks again
}

// proof is what somebody is known by.
type proof struct {
	store.Holder
	groups  []string // in effect
	expires time.Time
	cookie  string // the session's; empty: it is a token
	hash    [32]byte
	root    bool // it is the instance's own token
}

// tokenSession is how the cookies of sessions begin that were begun with an access token.
const tokenSession = "t."

// byToken tells whether it is an access token, or a session that was begun with one.
func (p proof) byToken() bool {
	if p.cookie != "" {
		return strings.HasPrefix(p.cookie, tokenSession)
	}
	return !p.root
}

// renewable says why no new token is made for a holder, if none is. Whose groups are known from their login only logs in again for one, or
// their tokens would renew themselves for ever.
func (p proof) renewable(h store.Holder) error {
	if h.Origin == OriginLocal || !p.byToken() {
		return nil
	}
	return fmt.Errorf("no token of %s is made with another token: log in again", h.Person)
}

func (p proof) person() web.Person { return web.Person{Name: p.Person, Groups: p.groups} }

// link is a login link that was not used yet.
type link struct {
	holder  store.Holder
	expires time.Time
}

// New makes a service.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Cookie == "" {
		o.Cookie = "keelson"
	}
	return &Service{
		Options: o, hasher: newHasher(), cross: http.NewCrossOriginProtection(), tries: limiter{now: o.Now},
		recent: map[[32]byte]recent{}, kept: map[[32]byte]store.Session{}, links: map[[32]byte]link{}, asked: map[string]*deviceAsk{},
	}
}

// errUnknown says that a proof proves nothing: it is wrong, over or removed.
var errUnknown = errors.New("not logged in, or no longer")

// newSecret makes 256 random bits, as text for URLs and headers.
func newSecret() string {
	b := make([]byte, 32)
	rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

func hashOf(secret string) [32]byte { return sha256.Sum256([]byte(secret)) }

// maxSecret bounds what is taken for a cookie or a token, in bytes.
const maxSecret = 4096

// session gives what a cookie proves.
func (s *Service) session(ctx context.Context, value string) (proof, error) {
	if value == "" || len(value) > maxSecret {
		return proof{}, errUnknown
	}
	hash := hashOf("session " + value)
	return s.remembered(ctx, hash, func(ctx context.Context) (proof, error) {
		s.mu.Lock()
		found, kept := s.kept[hash]
		s.mu.Unlock()
		if !kept {
			db, err := s.Store()
			if err != nil {
				return proof{}, err // it may be another server's
			}
			if found, err = db.Session(ctx, hash[:]); err != nil {
				return proof{}, missing(err)
			}
		}
		now := s.Now()
		if !now.Before(found.Expires) || now.Sub(found.Seen) > sessionIdle {
			return proof{}, errUnknown
		}
		if now.Sub(found.Seen) > seenEvery && !isQuiet(ctx) {
			s.seen(hash, kept)
		}
		return proof{Holder: found.Holder, expires: earlier(found.Expires, now.Add(sessionIdle)), cookie: value, hash: hash}, nil
	})
}

// seen notes that a session is used.
func (s *Service) seen(hash [32]byte, kept bool) {
	if kept {
		s.mu.Lock()
		defer s.mu.Unlock()
		if found, ok := s.kept[hash]; ok {
			found.Seen = s.Now()
			s.kept[hash] = found
		}
		return
	}
	s.note("session", func(ctx context.Context, db *store.DB) error { return db.SeenSession(ctx, hash[:]) })
}

// note writes beside a request, which does not wait for it. It is asked for once a minute and proof.
func (s *Service) note(what string, write func(context.Context, *store.DB) error) {
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), storeLimit)
		defer cancel()
		db, err := s.Store()
		if err == nil {
			err = write(ctx, db)
		}
		if err != nil && !errors.Is(err, store.ErrClosed) {
			s.Log.Debug("note the use of a "+what, "error", err)
		}
	}()
}

// token gives what a bearer token proves. user is what the request says of who asks.
func (s *Service) token(ctx context.Context, value, user string) (proof, error) {
	if value == "" || len(value) > maxSecret {
		return proof{}, errUnknown
	}
	if s.isInstance(value) {
		if user == "" {
			user = usualAdmin
		}
		if err := CheckName(user); err != nil {
			return proof{}, badName{fmt.Errorf("%s: %w", UserHeader, err)}
		}
		h := store.Holder{Person: user, Origin: OriginInstance, Groups: []string{Admins}}
		return proof{Holder: h, groups: h.Groups, root: true}, nil
	}
	if !strings.HasPrefix(value, TokenPrefix) {
		return proof{}, errUnknown
	}
	hash := hashOf(value)
	return s.remembered(ctx, hash, func(ctx context.Context) (proof, error) {
		db, err := s.Store()
		if err != nil {
			return proof{}, err
		}
		found, err := db.Token(ctx, hash[:])
		if err != nil {
			return proof{}, missing(err)
		}
		now := s.Now()
		if !now.Before(found.Expires) {
			return proof{}, errUnknown
		}
		if now.Sub(found.Used) > seenEvery && !isQuiet(ctx) {
			s.note("token", func(ctx context.Context, db *store.DB) error { return db.UsedToken(ctx, hash[:]) })
		}
		return proof{Holder: found.Holder, expires: found.Expires, hash: hash}, nil
	})
}

// unavailable is an error of Options.Store that may be told to anybody.
type unavailable struct {
	says string
	error
}

func (u unavailable) Unwrap() error { return u.error }

// Unavailable makes an error of Options.Store that tells everybody what to do; why is for the log.
func Unavailable(says string, why error) error { return unavailable{says, why} }

// away is what is answered where nobody can be looked up.
func away(err error) error {
	if u, ok := errors.AsType[unavailable](err); ok {
		return errors.New("nobody can be looked up now: " + u.says)
	}
	return errors.New("nobody can be looked up now; the server's log says why, and its token still logs in at " + LoginPath)
}

// ErrNoToken says that a token is nobody's: it is wrong, over or removed.
var ErrNoToken = errors.New("the token is wrong or over")

// IsToken tells whether a text looks like an access token.
func IsToken(text string) bool { return strings.HasPrefix(text, TokenPrefix) }

// ByToken tells whose an access token is, for doors that [Service.Guard] is not in front of. The instance's own token is no person's.
func (s *Service) ByToken(ctx context.Context, value string) (web.Person, error) {
	if !IsToken(value) {
		return web.Person{}, ErrNoToken
	}
	p, err := s.token(ctx, value, "")
	if errors.Is(err, errUnknown) {
		err = ErrNoToken
	}
	return p.person(), err
}

// remembered looks a proof up, or believes what was found a moment ago.
func (s *Service) remembered(ctx context.Context, hash [32]byte, look func(context.Context) (proof, error)) (proof, error) {
	now := s.Now()
	s.mu.Lock()
	r, ok := s.recent[hash]
	s.mu.Unlock()
	if ok && now.Before(r.until) && now.Before(r.proof.expires) && (!r.quiet || isQuiet(ctx)) {
		return r.proof, nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	p, err := look(ctx)
	if err == nil {
		p.groups, err = s.groupsOf(ctx, p.Holder)
	}
	if err != nil {
		return proof{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.recent) >= maxRecent {
		clear(s.recent)
	}
	s.recent[hash] = recent{p, now.Add(believed), isQuiet(ctx)}
	return p, nil
}

func isQuiet(ctx context.Context) bool { return ctx.Value(quietKey{}) != nil }

// groupsOf gives the groups that a holder has now.
func (s *Service) groupsOf(ctx context.Context, h store.Holder) ([]string, error) {
	if h.Origin != OriginLocal {
		return h.Groups, nil
	}
	db, err := s.Store()
	if err != nil {
		return nil, err
	}
	u, err := db.User(ctx, h.Person)
	return u.Groups, missing(err)
}

// forget has every proof looked up anew.
func (s *Service) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.recent)
}

// isInstance tells whether a token is the instance's, in a time that does not say how much of it is right.
func (s *Service) isInstance(value string) bool {
	return s.Token != "" && equal(value, s.Token)
}

// missing makes the store's word for what is not there this package's.
func missing(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return errUnknown
	}
	return err
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// begin begins a session, which is over at the latest at a time, when the token is with which it begins; zero: there is none. It gives the
// cookie's value.
func (s *Service) begin(ctx context.Context, h store.Holder, until time.Time) (string, time.Time, error) {
	now := s.Now()
	expires := now.Add(sessionMost)
	if !until.IsZero() {
		expires = earlier(expires, until)
	}
	if h.Origin == OriginLocal {
		h.Groups = nil // they are looked up
	}
	value := newSecret()
	if !until.IsZero() {
		value = tokenSession + value
	}
	hash := hashOf("session " + value)
	session := store.Session{Holder: h, Hash: hash[:], Created: now, Seen: now, Expires: expires}
	ctx, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	db, err := s.Store()
	if err == nil {
		err = db.AddSession(ctx, session)
	}
	if err == nil {
		return value, expires, nil
	}
	s.Log.Warn("a session cannot be stored: it ends with this process", "error", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	for h, old := range s.kept {
		if !now.Before(old.Expires) || now.Sub(old.Seen) > sessionIdle {
			delete(s.kept, h)
		}
	}
	if len(s.kept) >= maxKept {
		return "", time.Time{}, fmt.Errorf("there are too many sessions: %w", err)
	}
	s.kept[hash] = session
	return value, expires, nil
}

// end ends a session.
func (s *Service) end(ctx context.Context, hash [32]byte) error {
	s.mu.Lock()
	delete(s.recent, hash)
	_, kept := s.kept[hash]
	delete(s.kept, hash)
	s.mu.Unlock()
	if kept {
		return nil
	}
	db, err := s.Store()
	if err != nil {
		return err
	}
	return db.EndSession(ctx, hash[:])
}

// Link makes the secret of a login link: whoever brings it first within a quarter of an hour is that administrator.
func (s *Service) Link(name string) (string, time.Time, error) {
	if err := CheckName(name); err != nil {
		return "", time.Time{}, err
	}
	secret, now := newSecret(), s.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for h, l := range s.links {
		if !now.Before(l.expires) {
			delete(s.links, h)
		}
	}
	if len(s.links) >= maxLinks {
		return "", time.Time{}, fmt.Errorf("%d login links are open already; they last %s", maxLinks, linkLife)
	}
	l := link{store.Holder{Person: name, Origin: OriginInstance, Groups: []string{Admins}}, now.Add(linkLife)}
	s.links[hashOf("link "+secret)] = l
	return secret, l.expires, nil
}

// useLink gives whose a login link is, once.
func (s *Service) useLink(secret string) (store.Holder, error) {
	hash := hashOf("link " + secret)
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.links[hash]
	delete(s.links, hash)
	if !ok || !s.Now().Before(l.expires) {
		return store.Holder{}, errors.New("this login link was used already, or is too old; keelson up prints another one")
	}
	return l.holder, nil
}

// isOpen tells whether a login link can be used.
func (s *Service) isOpen(secret string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.links[hashOf("link "+secret)]
	return ok
}

// localName is what the name of a local user looks like.
var localName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$`)

// CheckName says what is wrong with the name of a person. Kubernetes' own users begin with "system:", so nobody else does.
func CheckName(name string) error {
	switch {
	case name == "" || len(name) > 253 || !utf8.ValidString(name):
		return errors.New("a name has 1 to 253 bytes of UTF-8")
	case strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsPrint(c) }) || strings.TrimSpace(name) != name:
		return fmt.Errorf("the name %q has characters that a name cannot have", name)
	case reserved(name):
		return fmt.Errorf("the name %q begins as Kubernetes' own users do", name)
	}
	return nil
}

// badName is an error of a name that a request brings.
type badName struct{ error }

func isBadName(err error) bool {
	var b badName
	return errors.As(err, &b)
}

// checkGroups says what is wrong with groups that somebody is given.
func checkGroups(groups []string) error {
	if len(groups) > maxGroups {
		return fmt.Errorf("%d groups, and there may be %d", len(groups), maxGroups)
	}
	for _, g := range groups {
		if err := CheckName(g); err != nil {
			return fmt.Errorf("group: %w", err)
		}
	}
	return nil
}

const maxGroups = 500

func reserved(name string) bool { return strings.HasPrefix(strings.ToLower(name), "system:") }

// tell tells of what was done or refused.
func (s *Service) tell(r *http.Request, e Event, err error) {
	e.Time, e.Address = s.Now(), addressOf(r)
	e.Actor = printable(e.Actor)
	level := slog.LevelInfo
	if err != nil {
		e.Failure, level = err.Error(), slog.LevelWarn
	}
	s.Log.Log(r.Context(), level, e.Action, "person", e.Actor, "object", e.Object, "way", e.Way, "address", e.Address, "failure", e.Failure)
	if s.Audit != nil {
		s.Audit(e)
	}
}

// printable makes what somebody has typed fit for a log.
func printable(name string) string {
	name = strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return '\uFFFD'
	}, strings.ToValidUTF8(name, "\uFFFD"))
	const most = 100
	if r := []rune(name); len(r) > most {
		name = string(r[:most]) + "…"
	}
	return name
}

func sortedGroups(groups []string) []string {
	out := slices.Clone(groups)
	slices.Sort(out)
	return slices.Compact(out)
}
