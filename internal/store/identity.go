package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// User is a local user.
type User struct {
	Name     string    `json:"name"`
	Password string    `json:"-"` // a hash; empty: there is none
	Groups   []string  `json:"groups"`
	Created  time.Time `json:"created"`
}

// Holder is whose a token or a session is.
type Holder struct {
	Person string `json:"person"`
	Origin string `json:"origin"` // by which way the person has come
	// Groups are those that the person had. Local users have theirs in their [User], and only there.
	Groups []string `json:"groups,omitempty"`
}

// AccessToken is a named token, without the token itself.
type AccessToken struct {
	Holder
	Hash    []byte    `json:"-"` // of the token
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Used    time.Time `json:"used,omitzero"` // the last time, roughly
}

// Session is what a browser has as a cookie, without the cookie itself.
type Session struct {
	Holder
	Hash    []byte    `json:"-"` // of the cookie's value
	Created time.Time `json:"created"`
	Seen    time.Time `json:"seen"` // the last time, roughly
	Expires time.Time `json:"expires"`
}

// maxTokens and maxSessions are how many a person may have; of sessions the one that was not used for longest makes room.
const maxTokens, maxSessions = 100, 100

// AddUser keeps a new local user, or gives [ErrExists].
func (db *DB) AddUser(ctx context.Context, u User) error {
	doing := "add user " + u.Name
	groups, err := encodeGroups(u.Groups)
	if err == nil {
		err = checkNames("name", u.Name, "password", u.Password)
	}
	if err != nil {
		return db.wrap(doing, err)
	}
	return db.wrap(doing, db.writePeople(ctx, true, func(tx *tx) error {
		return tx.exec(`INSERT INTO users (name, password, groups, created) VALUES (?, ?, ?, ?)`, u.Name, u.Password, groups, micros(db.now()))
	}))
}

const userColumns = `name, password, groups, created`

func (u *User) scan(scan func(...any) error) error {
	var created int64
	var groups string
	if err := scan(&u.Name, &u.Password, &groups, &created); err != nil {
		return err
	}
	u.Created = at(created)
	return json.Unmarshal([]byte(groups), &u.Groups)
}

// User gives a local user, or [ErrNotFound].
func (db *DB) User(ctx context.Context, name string) (User, error) {
	var u User
	err := db.read(ctx, func(tx *tx) error {
		return u.scan(tx.row(`SELECT `+userColumns+` FROM users WHERE name = ?`, name).Scan)
	})
	return u, db.wrap("user "+name, err)
}

// Users gives the local users in the order of their names, from behind a name on.
func (db *DB) Users(ctx context.Context, after string, limit int) ([]User, error) {
	var all []User
	err := db.read(ctx, func(tx *tx) error {
		return tx.each(func(scan func(...any) error) error {
			var u User
			err := u.scan(scan)
			all = append(all, u)
			return err
		}, `SELECT `+userColumns+` FROM users WHERE name > ? ORDER BY name LIMIT ?`, after, page(limit))
	})
	return all, db.wrap("list users", err)
}

// SetPassword gives a local user another password, and ends the sessions that the user has.
func (db *DB) SetPassword(ctx context.Context, name, origin, hash string) error {
	doing := "set the password of user " + name
	if err := checkNames("password", hash); err != nil {
		return db.wrap(doing, err)
	}
	return db.wrap(doing, db.writePeople(ctx, true, func(tx *tx) error {
		if err := tx.one(`UPDATE users SET password = ? WHERE name = ?`, hash, name); err != nil {
			return err
		}
		return tx.exec(`DELETE FROM sessions WHERE person = ? AND origin = ?`, name, origin)
	}))
}

// RemoveUser removes a local user, with all tokens and sessions of that origin, or gives [ErrNotFound].
func (db *DB) RemoveUser(ctx context.Context, name, origin string) error {
	return db.wrap("remove user "+name, db.writePeople(ctx, true, func(tx *tx) error {
		if err := tx.one(`DELETE FROM users WHERE name = ?`, name); err != nil {
			return err
		}
		if err := tx.exec(`DELETE FROM access_tokens WHERE person = ? AND origin = ?`, name, origin); err != nil {
			return err
		}
		return tx.exec(`DELETE FROM sessions WHERE person = ? AND origin = ?`, name, origin)
	}))
}

// AddToken keeps a new token. The error is [ErrExists] where the person has another one of that name that has not expired, and
// [ErrTooLarge] where there are too many.
func (db *DB) AddToken(ctx context.Context, t AccessToken) error {
	doing := fmt.Sprintf("add token %s of %s", t.Name, t.Person)
	groups, err := encodeGroups(t.Groups)
	if err == nil {
		err = checkNames("name", t.Name, "person", t.Person, "origin", t.Origin)
	}
	if err != nil {
		return db.wrap(doing, err)
	}
	return db.wrap(doing, db.writePeople(ctx, true, func(tx *tx) error {
		now := micros(db.now())
		if err := tx.exec(`DELETE FROM access_tokens WHERE expires <= ?`, now); err != nil {
			return err
		}
		var n int
		if err := tx.row(`SELECT count(*) FROM access_tokens WHERE person = ? AND origin = ?`, t.Person, t.Origin).Scan(&n); err != nil {
			return err
		}
		if n >= maxTokens {
			return fmt.Errorf("%s has %d tokens: remove one first: %w", t.Person, n, ErrTooLarge)
		}
		return tx.exec(`INSERT INTO access_tokens (hash, person, origin, groups, name, created, expires) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			t.Hash, t.Person, t.Origin, groups, t.Name, now, micros(t.Expires))
	}))
}

const tokenColumns = `hash, person, origin, groups, name, created, expires, used`

func (t *AccessToken) scan(scan func(...any) error) error {
	var created, expires, used int64
	var groups string
	if err := scan(&t.Hash, &t.Person, &t.Origin, &groups, &t.Name, &created, &expires, &used); err != nil {
		return err
	}
	t.Created, t.Expires, t.Used = at(created), at(expires), at(used)
	return json.Unmarshal([]byte(groups), &t.Groups)
}

// Token gives the token of a hash, also one that has expired, or [ErrNotFound].
func (db *DB) Token(ctx context.Context, hash []byte) (AccessToken, error) {
	var t AccessToken
	err := db.read(ctx, func(tx *tx) error {
		return t.scan(tx.row(`SELECT `+tokenColumns+` FROM access_tokens WHERE hash = ?`, hash).Scan)
	})
	return t, db.wrap("token", err)
}

// Tokens gives the tokens of a person in the order of their names.
func (db *DB) Tokens(ctx context.Context, person, origin string) ([]AccessToken, error) {
	var all []AccessToken
	err := db.read(ctx, func(tx *tx) error {
		return tx.each(func(scan func(...any) error) error {
			var t AccessToken
			err := t.scan(scan)
			all = append(all, t)
			return err
		}, `SELECT `+tokenColumns+` FROM access_tokens WHERE person = ? AND origin = ? ORDER BY name`, person, origin)
	})
	return all, db.wrap("list tokens of "+person, err)
}

// RemoveToken removes a token by its name, with the person's sessions of that origin, as some may have begun with it; or gives [ErrNotFound].
func (db *DB) RemoveToken(ctx context.Context, person, origin, name string) error {
	return db.wrap(fmt.Sprintf("remove token %s of %s", name, person), db.writePeople(ctx, true, func(tx *tx) error {
		if err := tx.one(`DELETE FROM access_tokens WHERE person = ? AND origin = ? AND name = ?`, person, origin, name); err != nil {
			return err
		}
		return tx.exec(`DELETE FROM sessions WHERE person = ? AND origin = ?`, person, origin)
	}))
}

// UsedToken notes that a token is used.
func (db *DB) UsedToken(ctx context.Context, hash []byte) error {
	return db.wrap("note the use of a token", db.writePeople(ctx, false, func(tx *tx) error {
		return tx.exec(`UPDATE access_tokens SET used = ? WHERE hash = ?`, micros(db.now()), hash)
	}))
}

// AddSession keeps a new session.
func (db *DB) AddSession(ctx context.Context, s Session) error {
	doing := "begin a session of " + s.Person
	groups, err := encodeGroups(s.Groups)
	if err == nil {
		err = checkNames("person", s.Person, "origin", s.Origin)
	}
	if err != nil {
		return db.wrap(doing, err)
	}
	return db.wrap(doing, db.writePeople(ctx, true, func(tx *tx) error {
		now := micros(db.now())
		if err := tx.exec(`DELETE FROM sessions WHERE expires <= ?`, now); err != nil {
			return err
		}
		err := tx.exec(`DELETE FROM sessions WHERE hash IN (SELECT hash FROM sessions WHERE person = ? AND origin = ? ORDER BY seen DESC LIMIT 1000000 OFFSET ?)`,
			s.Person, s.Origin, maxSessions-1)
		if err != nil {
			return err
		}
		return tx.exec(`INSERT INTO sessions (hash, person, origin, groups, created, seen, expires) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			s.Hash, s.Person, s.Origin, groups, now, now, micros(s.Expires))
	}))
}

// Session gives the session of a hash, also one that has expired, or [ErrNotFound].
func (db *DB) Session(ctx context.Context, hash []byte) (Session, error) {
	var s Session
	var groups string
	var created, seen, expires int64
	err := db.read(ctx, func(tx *tx) error {
		return tx.row(`SELECT hash, person, origin, groups, created, seen, expires FROM sessions WHERE hash = ?`, hash).
			Scan(&s.Hash, &s.Person, &s.Origin, &groups, &created, &seen, &expires)
	})
	if err == nil {
		s.Created, s.Seen, s.Expires = at(created), at(seen), at(expires)
		err = json.Unmarshal([]byte(groups), &s.Groups)
	}
	return s, db.wrap("session", err)
}

// SeenSession notes that a session is used.
func (db *DB) SeenSession(ctx context.Context, hash []byte) error {
	return db.wrap("note the use of a session", db.writePeople(ctx, false, func(tx *tx) error {
		return tx.exec(`UPDATE sessions SET seen = ? WHERE hash = ?`, micros(db.now()), hash)
	}))
}

// EndSession removes a session. It is no error where there is none.
func (db *DB) EndSession(ctx context.Context, hash []byte) error {
	return db.wrap("end a session", db.writePeople(ctx, true, func(tx *tx) error {
		return tx.exec(`DELETE FROM sessions WHERE hash = ?`, hash)
	}))
}

func encodeGroups(groups []string) (string, error) {
	b, err := json.Marshal(append([]string{}, groups...))
	if err == nil {
		err = checkSize("groups", b, blobSmall)
	}
	return string(b), err
}

// blobSmall bounds the groups of a person, in bytes.
const blobSmall = 64 << 10
