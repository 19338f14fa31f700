package store

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestUsers(t *testing.T) {
	db, ctx := newDB(t), t.Context()
	ann := User{Name: "ann", Password: "$hash", Groups: []string{"developers", "a\"quoted"}}
	ok(t, db.AddUser(ctx, ann))
	ok(t, db.AddUser(ctx, User{Name: "bob"}))
	refused(t, db.AddUser(ctx, ann), ErrExists, "add user ann")
	ann.Created = day
	diff(t, "ann", must(db.User(ctx, "ann"))(t), ann)
	diff(t, "all", must(db.Users(ctx, "", 0))(t), []User{ann, {Name: "bob", Created: day}})
	diff(t, "a page", must(db.Users(ctx, "ann", 1))(t), []User{{Name: "bob", Created: day}})
	for _, name := range []string{"", "carl", "' OR 1=1 --"} {
		_, err := db.User(ctx, name)
		refused(t, err, ErrNotFound, "user "+name)
		refused(t, db.RemoveUser(ctx, name, "local"), ErrNotFound, "remove user")
		refused(t, db.SetPassword(ctx, name, "local", "x"), ErrNotFound, "set the password")
	}

	ok(t, db.AddSession(ctx, Session{Holder: Holder{Person: "ann", Origin: "local"}, Hash: []byte{1}, Expires: day.Add(time.Hour)}))
	ok(t, db.AddSession(ctx, Session{Holder: Holder{Person: "ann", Origin: "oidc"}, Hash: []byte{2}, Expires: day.Add(time.Hour)}))
	ok(t, db.AddToken(ctx, AccessToken{Holder: Holder{Person: "ann", Origin: "local"}, Hash: []byte{3}, Name: "ci", Expires: day.Add(time.Hour)}))
	ok(t, db.SetPassword(ctx, "ann", "local", "other"))
	_, err := db.Session(ctx, []byte{1})
	refused(t, err, ErrNotFound, "session") // a new password ends sessions
	must(db.Token(ctx, []byte{3}))(t)
	ok(t, db.RemoveUser(ctx, "ann", "local"))
	_, err = db.Token(ctx, []byte{3})
	refused(t, err, ErrNotFound, "token")
	must(db.Session(ctx, []byte{2}))(t) // that one is another ann's
}

func TestTokens(t *testing.T) {
	db, ctx := newDB(t), t.Context()
	token := AccessToken{Holder: Holder{Person: "ann", Origin: "oidc", Groups: []string{"g"}}, Hash: []byte("hash"), Name: "ci", Expires: day.Add(time.Hour)}
	ok(t, db.AddToken(ctx, token))
	refused(t, db.AddToken(ctx, token), ErrExists, "add token ci of ann")
	ok(t, db.UsedToken(ctx, token.Hash))
	token.Created, token.Used = day, day
	diff(t, "token", must(db.Token(ctx, token.Hash))(t), token)
	diff(t, "tokens", must(db.Tokens(ctx, "ann", "oidc"))(t), []AccessToken{token})
	diff(t, "of another origin", must(db.Tokens(ctx, "ann", "local"))(t), []AccessToken(nil))
	refused(t, db.RemoveToken(ctx, "ann", "local", "ci"), ErrNotFound, "remove token ci of ann")
	ok(t, db.RemoveToken(ctx, "ann", "oidc", "ci"))

	// One that has expired makes room for another of its name.
	old := AccessToken{Holder: Holder{Person: "ann", Origin: "local"}, Hash: []byte("old"), Name: "n", Expires: day}
	ok(t, db.AddToken(ctx, old))
	old.Hash, old.Expires = []byte("new"), day.Add(time.Hour)
	ok(t, db.AddToken(ctx, old))
	for i := range maxTokens - 1 {
		old.Hash, old.Name = fmt.Appendf(nil, "h%d", i), fmt.Sprint(i)
		ok(t, db.AddToken(ctx, old))
	}
	old.Hash, old.Name = []byte("more"), "more"
	refused(t, db.AddToken(ctx, old), ErrTooLarge, "ann has 100 tokens")
}

func TestSessions(t *testing.T) {
	db, ctx := newDB(t), t.Context()
	s := Session{Holder: Holder{Person: "ann", Origin: "oidc", Groups: []string{"g"}}, Hash: []byte("first"), Expires: day.Add(time.Hour)}
	ok(t, db.AddSession(ctx, s))
	ok(t, db.SeenSession(ctx, s.Hash))
	got := must(db.Session(ctx, s.Hash))(t)
	s.Created, s.Seen = day, day
	diff(t, "session", got, s)
	for i := range maxSessions + 5 {
		s.Hash = fmt.Appendf(nil, "more%d", i)
		ok(t, db.AddSession(ctx, s))
	}
	var n int
	ok(t, db.reader.QueryRow(`SELECT count(*) FROM sessions`).Scan(&n))
	if n != maxSessions {
		t.Errorf("%d sessions are kept", n)
	}
	ok(t, db.EndSession(ctx, s.Hash))
	ok(t, db.EndSession(ctx, s.Hash))
	if _, err := db.Session(ctx, s.Hash); !errors.Is(err, ErrNotFound) {
		t.Errorf("an ended session: %v", err)
	}
}

// TestListsOfSomeProjects: a list has only what is of the projects that it is asked for.
func TestListsOfSomeProjects(t *testing.T) {
	db, ctx := newDB(t), t.Context()
	var ids []int64
	for i := range 3 {
		p := must(db.EnsureProject(ctx, fmt.Sprintf("group/p%d", i)))(t)
		ids = append(ids, p.ID)
		_, _, err := db.BeginDeployment(ctx, Environment{Project: p.ID, Name: "production", Slug: "production"}, Deployment{Pipeline: 1, Job: int64(10 + i), SHA: "sha", Ref: "main"})
		ok(t, err)
	}
	for _, c := range []struct {
		projects []int64
		want     int
	}{{nil, 3}, {[]int64{}, 0}, {ids[:1], 1}, {ids[:2], 2}, {ids, 3}, {[]int64{99}, 0}} {
		if all := must(db.Environments(ctx, EnvironmentFilter{Projects: c.projects}))(t); len(all) != c.want {
			t.Errorf("of %v: %d environments, want %d", c.projects, len(all), c.want)
		}
	}
}
