package identity

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/web"
)

// usersTarget is what RBAC calls the local users: no kind of the cluster, but a resource whose verbs (list, create, update, delete) can be granted.
var usersTarget = web.Target{Group: "keelson.dev", Resource: "users"}

// NewUser is what POST /api/v1/users takes.
type NewUser struct {
	Name     string   `json:"name"`
	Password string   `json:"password"` // empty: the user has tokens only
	Groups   []string `json:"groups"`
}

// NewToken is what POST …/tokens takes.
type NewToken struct {
	Name string `json:"name"`
	Days int    `json:"days"` // until it expires; 0: 30
}

// MadeToken is what POST …/tokens answers: the only time that the token is told.
type MadeToken struct {
	Token   string    `json:"token"`
	Name    string    `json:"name"`
	Person  string    `json:"person"`
	Expires time.Time `json:"expires"`
}

func (s *Service) usersIn(known func(string, http.HandlerFunc)) {
	known("GET /api/v1/users", s.listUsers)
	known("POST /api/v1/users", s.addUser)
	known("DELETE /api/v1/users/{user}", s.removeUser)
	known("POST /api/v1/users/{user}/password", s.setPassword)
	for _, base := range []string{"/api/v1/tokens", "/api/v1/users/{user}/tokens"} {
		known("GET "+base, s.listTokens)
		known("POST "+base, s.addToken)
		known("DELETE "+base+"/{token}", s.removeToken)
	}
}

// may asks whether who is in front may do a verb to a local user; where not, the request has been answered. Whoever may act for a user
// could do what the user may, so they need the right to impersonate the user's name and groups, as Kubernetes has it.
func (s *Service) may(w http.ResponseWriter, r *http.Request, verb, name string, groups []string) bool {
	who := web.PersonOf(r.Context())
	on := usersTarget
	on.Name = name
	err := s.authorize(r.Context(), who, verb, on)
	if err == nil && (verb == "create" || verb == "update") {
		err = s.authorize(r.Context(), who, "impersonate", web.Target{Resource: "users", Name: name})
	}
	for _, g := range groups {
		if err == nil {
			err = s.authorize(r.Context(), who, "impersonate", web.Target{Resource: "groups", Name: g})
		}
	}
	switch {
	case err == nil:
		return true
	case errors.Is(err, web.ErrForbidden):
		refuse(w, http.StatusForbidden, err)
	default:
		refuse(w, http.StatusServiceUnavailable, err)
	}
	return false
}

func (s *Service) authorize(ctx context.Context, who web.Person, verb string, on web.Target) error {
	if s.Authorize == nil {
		return fmt.Errorf("%w: nobody says who may manage users here", web.ErrForbidden)
	}
	return s.Authorize(ctx, who, verb, on)
}

// failed answers with an error of the store.
func (s *Service) failed(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, store.ErrNotFound):
		refuse(w, http.StatusNotFound, errors.New("there is no such user or token"))
	case errors.Is(err, store.ErrExists):
		refuse(w, http.StatusConflict, errors.New("there is one of that name already"))
	case errors.Is(err, store.ErrTooLarge):
		refuse(w, http.StatusUnprocessableEntity, err)
	default:
		if u, ok := errors.AsType[unavailable](err); ok {
			err = errors.New(u.says)
		}
		refuse(w, http.StatusServiceUnavailable, err)
	}
}

func (s *Service) listUsers(w http.ResponseWriter, r *http.Request) {
	if !s.may(w, r, "list", "", nil) {
		return
	}
	limit := 100
	if text := r.URL.Query().Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			refuse(w, http.StatusBadRequest, fmt.Errorf("limit: %.20q is no number from 1 on", text))
			return
		}
		limit = min(n, 1000)
	}
	db, err := s.Store()
	var users []store.User
	if err == nil {
		users, err = db.Users(r.Context(), r.URL.Query().Get("after"), limit)
	}
	if err != nil {
		s.failed(w, err)
		return
	}
	out := struct {
		Users []store.User `json:"users"`
		Next  string       `json:"next,omitempty"`
	}{Users: append([]store.User{}, users...)}
	if len(users) == limit {
		out.Next = users[limit-1].Name
	}
	answer(w, http.StatusOK, out)
}

func (s *Service) addUser(w http.ResponseWriter, r *http.Request) {
	var n NewUser
	if !decode(w, r, &n) {
		return
	}
	err := checkGroups(n.Groups)
	if !localName.MatchString(n.Name) {
		err = errors.New("name: up to 63 letters, digits and ._@-, a letter or digit first")
	}
	if err == nil && n.Password != "" {
		err = checkPassword(n.Password)
	}
	if err != nil {
		refuse(w, http.StatusUnprocessableEntity, err)
		return
	}
	if !s.may(w, r, "create", n.Name, n.Groups) {
		return
	}
	u := store.User{Name: n.Name, Groups: sortedGroups(n.Groups)}
	if n.Password != "" {
		if u.Password, err = s.hasher.hash(r.Context(), n.Password); err != nil {
			s.failed(w, err)
			return
		}
	}
	db, err := s.Store()
	if err == nil {
		err = db.AddUser(r.Context(), u)
	}
	if err == nil {
		u, err = db.User(r.Context(), u.Name)
	}
	s.tell(r, Event{Action: "user.add", Actor: web.PersonOf(r.Context()).Name, Object: n.Name}, err)
	if err != nil {
		s.failed(w, err)
		return
	}
	answer(w, http.StatusCreated, u)
}

// named finds the local user of a path; where there is none, the request has been answered.
func (s *Service) named(w http.ResponseWriter, r *http.Request) (*store.DB, store.User, bool) {
	db, err := s.Store()
	var u store.User
	if err == nil {
		u, err = db.User(r.Context(), r.PathValue("user"))
	}
	if err != nil {
		s.failed(w, err)
	}
	return db, u, err == nil
}

func (s *Service) removeUser(w http.ResponseWriter, r *http.Request) {
	if !s.may(w, r, "delete", r.PathValue("user"), nil) { // before it is told whether there is such a user
		return
	}
	db, u, ok := s.named(w, r)
	if !ok {
		return
	}
	err := db.RemoveUser(r.Context(), u.Name, OriginLocal)
	s.forget()
	s.tell(r, Event{Action: "user.remove", Actor: web.PersonOf(r.Context()).Name, Object: u.Name}, err)
	if err != nil {
		s.failed(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// setPassword gives a user another password: users their own, who know the current one, and others who may.
func (s *Service) setPassword(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Password string `json:"password"`
		Current  string `json:"current"`
	}
	if !decode(w, r, &in) {
		return
	}
	p, name := proofOf(r.Context()), r.PathValue("user")
	own := p.Origin == OriginLocal && p.Person == name
	if !own && !s.may(w, r, "update", name, nil) {
		return
	}
	db, u, ok := s.named(w, r)
	if !ok || !own && !s.may(w, r, "update", name, u.Groups) {
		return
	}
	if own {
		if !s.confirmed(w, r, u, in.Current) {
			return
		}
	}
	if err := checkPassword(in.Password); err != nil {
		refuse(w, http.StatusUnprocessableEntity, err)
		return
	}
	hash, err := s.hasher.hash(r.Context(), in.Password)
	if err == nil {
		err = db.SetPassword(r.Context(), name, OriginLocal, hash)
	}
	s.forget()
	s.tell(r, Event{Action: "user.password", Actor: p.Person, Object: name}, err)
	if err != nil {
		s.failed(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// confirmed asks for the current password of who changes their own; where it is wrong, the request has been answered.
func (s *Service) confirmed(w http.ResponseWriter, r *http.Request, u store.User, current string) bool {
	key := "user " + u.Name
	if wait := s.tries.wait(key); wait > 0 {
		err := refusedLogin{http.StatusTooManyRequests, wait, errors.New("the current password was wrong too often: try again later")}
		refuse(w, statusOf(w, err), err)
		return false
	}
	s.tries.fail(key, freeOfUser)
	right, err := s.hasher.same(r.Context(), u.Password, current)
	if err != nil || !right {
		refuse(w, http.StatusForbidden, errors.New("the current password is wrong"))
		return false
	}
	s.tries.forget(key)
	return true
}

// holder is whose tokens a request is about; where that may not be, it has been answered.
func (s *Service) holder(w http.ResponseWriter, r *http.Request, verb string) (*store.DB, store.Holder, bool) {
	p, name := proofOf(r.Context()), r.PathValue("user")
	if name == "" || p.Origin == OriginLocal && p.Person == name {
		db, err := s.Store()
		if err != nil {
			s.failed(w, err)
		}
		return db, p.Holder, err == nil
	}
	if !s.may(w, r, verb, name, nil) {
		return nil, store.Holder{}, false
	}
	db, u, ok := s.named(w, r)
	if !ok || !s.may(w, r, verb, name, u.Groups) {
		return nil, store.Holder{}, false
	}
	return db, store.Holder{Person: u.Name, Origin: OriginLocal}, true
}

func (s *Service) listTokens(w http.ResponseWriter, r *http.Request) {
	db, h, ok := s.holder(w, r, "list")
	if !ok {
		return
	}
	tokens, err := db.Tokens(r.Context(), h.Person, h.Origin)
	if err != nil {
		s.failed(w, err)
		return
	}
	answer(w, http.StatusOK, map[string]any{"tokens": append([]store.AccessToken{}, tokens...)})
}

func (s *Service) addToken(w http.ResponseWriter, r *http.Request) {
	var n NewToken
	if !decode(w, r, &n) {
		return
	}
	if n.Name == "" || len(n.Name) > 100 || printable(n.Name) != n.Name || strings.Contains(n.Name, "/") {
		refuse(w, http.StatusUnprocessableEntity, errors.New("name: a token has a name of 1 to 100 characters, without slashes"))
		return
	}
	db, h, ok := s.holder(w, r, "update")
	if !ok {
		return
	}
	if err := proofOf(r.Context()).renewable(h); err != nil {
		refuse(w, http.StatusForbidden, err)
		return
	}
	made, err := s.newToken(r.Context(), db, h, n)
	s.tell(r, Event{Action: "token.add", Actor: web.PersonOf(r.Context()).Name, Object: h.Person + "/" + n.Name}, err)
	var invalid badName
	switch {
	case errors.As(err, &invalid):
		refuse(w, http.StatusUnprocessableEntity, err)
	case err != nil:
		s.failed(w, err)
	default:
		answer(w, http.StatusCreated, made)
	}
}

// newToken makes a token of a holder.
func (s *Service) newToken(ctx context.Context, db *store.DB, h store.Holder, n NewToken) (MadeToken, error) {
	life, most := tokenLife, maxForeignLife
	if h.Origin == OriginLocal {
		most, h.Groups = maxTokenLife, nil // the groups are looked up
	}
	if n.Days != 0 {
		if n.Days < 0 || n.Days > int(most/(24*time.Hour)) {
			return MadeToken{}, badName{fmt.Errorf("days: a token of %s may last 1 to %d days", h.Person, int(most/(24*time.Hour)))}
		}
		life = time.Duration(n.Days) * 24 * time.Hour
	}
	made := MadeToken{Token: TokenPrefix + newSecret(), Name: n.Name, Person: h.Person, Expires: s.Now().Add(min(life, most)).Truncate(time.Second).UTC()}
	hash := hashOf(made.Token)
	err := db.AddToken(ctx, store.AccessToken{Holder: h, Hash: hash[:], Name: n.Name, Expires: made.Expires})
	return made, err
}

func (s *Service) removeToken(w http.ResponseWriter, r *http.Request) {
	db, h, ok := s.holder(w, r, "update")
	if !ok {
		return
	}
	name := r.PathValue("token")
	err := db.RemoveToken(r.Context(), h.Person, h.Origin, name)
	s.forget()
	s.tell(r, Event{Action: "token.remove", Actor: web.PersonOf(r.Context()).Name, Object: h.Person + "/" + name}, err)
	if err != nil {
		s.failed(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
