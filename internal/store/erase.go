package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"keelson.dev/keelson/internal/audit"
)

// Forgotten is what was found of a person.
type Forgotten struct {
	ID   string           `json:"id"`   // that stands in the place of their names
	Rows map[string]int64 `json:"rows"` // by table: in so many rows they were replaced, or the rows removed
}

// personColumns are the columns that hold the name of a person, or their name and address as in a commit. What is in the audit, in lists, and what
// goes with the person is not among them.
var personColumns = map[string][]string{
	"pipelines":   {"author", "started_by"},
	"jobs":        {"played_by"},
	"commands":    {"asked_by"},
	"deployments": {"deployed_by"},
	"deliveries":  {"author", "email", "actor"},

	"delivery_commits": {"author", "email"},
}

// theirs are the columns by which rows are a person's own: these rows go.
var theirs = map[string]string{"users": "name", "access_tokens": "person", "sessions": "person"}

// maxAliases bounds how many names a person may have.
const maxAliases = 20

// ErasePerson forgets a person everywhere: by a name, by more names that they have, such as the one in their commits and its address, or by their
// id in the audit. An id stands in the place of their names, the same one in the audit and elsewhere; their account, tokens and sessions are removed. The
// error is [ErrNotFound] where nothing is known of them; where there are rows with another error, they are forgotten, and old bytes may still be in
// the files until it is asked for once more. Their records in the audit stay, and so do the names in backups that were made before.
func (db *DB) ErasePerson(ctx context.Context, person string, also ...string) (Forgotten, error) {
	doing := "erase " + person
	names := append([]string{person}, also...)
	if len(names) > maxAliases {
		return Forgotten{}, db.wrap(doing, fmt.Errorf("there are %d names: %w", len(names), ErrTooLarge))
	}
	for _, name := range names {
		if err := checkNames("name", name); err != nil || strings.TrimSpace(name) == "" {
			return Forgotten{}, db.wrap(doing, errors.Join(err, fmt.Errorf("%q is no name: %w", name, ErrInvalid)))
		}
	}
	for taken := 1; taken > 0; { // what others have left for the audit has names, too
		var err error
		if taken, err = db.TakeInbox(ctx); err != nil {
			return Forgotten{}, err
		}
	}
	var gone Forgotten
	err := db.write(ctx, true, func(tx *tx) (err error) {
		for taken := maxInbox; taken == maxInbox && err == nil; { // their name may be there, too
			taken, err = tx.takeInbox(db.now())
		}
		if err != nil {
			return err
		}
		gone, err = tx.erase(names)
		return err
	})
	if err != nil {
		gone = Forgotten{} // it is all as it was
	} else {
		doing = "erase a person" // whose name is in no record of this
	}
	if err == nil || errors.Is(err, ErrNotFound) { // then an erasure before it may have come no further than to the rows
		err = errors.Join(err, db.engine.forget(ctx, db.writer, erasedTables()))
	}
	return gone, db.wrap(doing, err)
}

// erasedTables are those that had names before an erasure.
func erasedTables() []string {
	return slices.Sorted(slices.Values(slices.Concat(keysOf(personColumns), keysOf(theirs), []string{"audit_names", "audit_inbox", "delivery_texts"})))
}

func keysOf[V any](m map[string]V) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}

func (t *tx) erase(names []string) (Forgotten, error) {
	gone := Forgotten{Rows: map[string]int64{}}
	count := func(table string, n int64) {
		if n > 0 {
			gone.Rows[table] += n
		}
	}
	var ids []string
	for _, name := range names {
		var id string
		err := t.row(`SELECT id FROM audit_names WHERE kind = ? AND (name = ? OR id = ?)`, auditPerson, name, name).Scan(&id)
		if err == nil {
			ids = append(ids, id)
		} else if !errors.Is(err, sql.ErrNoRows) {
			return gone, err
		}
	}
	if len(ids) > 0 {
		gone.ID = ids[0]
	} else {
		random := make([]byte, 16)
		rand.Read(random) // never fails
		gone.ID = audit.PersonID(random)
	}
	for _, id := range ids {
		var name string
		if err := t.row(`SELECT name FROM audit_names WHERE id = ?`, id).Scan(&name); err != nil {
			return gone, err
		}
		if !slices.Contains(names, name) { // it was named by its id
			names = append(names, name)
		}
		n, err := t.count(`DELETE FROM audit_names WHERE id = ? OR owner = ?`, id, id)
		if err != nil {
			return gone, err
		}
		count("audit", n)
	}
	for _, name := range names {
		if err := t.replace(name, gone.ID, count); err != nil {
			return gone, err
		}
	}
	if len(gone.Rows) == 0 {
		return gone, ErrNotFound
	}
	return gone, nil
}

// replace puts an id into the place of one name.
func (t *tx) replace(name, id string, count func(table string, n int64)) error {
	authored, err := t.authored(name)
	if err != nil {
		return err
	}
	for _, table := range []string{"deliveries", "delivery_commits"} {
		n, err := t.count(`UPDATE `+table+` SET email = '' WHERE email <> '' AND (`+isPerson("author")+`)`, isPersonArgs(name)...) // a commit has one author
		if err != nil {
			return err
		}
		count(table, n)
		n, err = t.count(`UPDATE `+table+` SET author = ?, email = '' WHERE lower(email) = ?`, id, strings.ToLower(name))
		if err != nil {
			return err
		}
		count(table, n)
	}
	for table, columns := range personColumns {
		for _, column := range columns {
			n, err := t.count(`UPDATE `+table+` SET `+column+` = ? WHERE `+isPerson(column), append([]any{id}, isPersonArgs(name)...)...)
			if err != nil {
				return err
			}
			count(table, n)
		}
	}
	for table, column := range theirs {
		n, err := t.count(`DELETE FROM `+table+` WHERE `+column+` = ?`, name)
		if err != nil {
			return err
		}
		count(table, n)
	}
	for _, table := range []string{"deliveries", "delivery_commits"} {
		if err := t.replaceApprover(table, name, id, count); err != nil {
			return err
		}
	}
	return t.putTexts(authored)
}

// authored gives the deliveries of commits of a person.
func (t *tx) authored(name string) (ids []int64, err error) {
	return ids, t.numbers(&ids, `SELECT id FROM deliveries WHERE lower(email) = ? OR `+isPerson("author"), append([]any{strings.ToLower(name)}, isPersonArgs(name)...)...)
}

// isPerson is the condition that a column names a person: as a name, or as a name and an address, one of which is given.
func isPerson(column string) string {
	return column + ` = ? OR substr(` + column + `, 1, ?) = ? OR lower(` + column + `) LIKE ? ESCAPE '~'` // LIKE alone makes no difference of Ann and ann in SQLite
}

func isPersonArgs(name string) []any {
	return []any{name, utf8.RuneCountInString(name) + len(" <"), name + " <", "%<" + escapeLike(strings.ToLower(name)) + ">"}
}

// replaceApprover is replace for the lists of those who have approved.
func (t *tx) replaceApprover(table, name, id string, count func(table string, n int64)) error {
	found := map[int64]string{}
	quoted, err := json.Marshal(name)
	if err != nil {
		return err
	}
	part := strings.Trim(string(quoted), `"`)
	err = t.each(func(scan func(...any) error) error {
		var delivery int64
		var text string
		var all []string
		if err := scan(&delivery, &text); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(text), &all); err != nil {
			return err
		}
		has := false
		for i, a := range all {
			if a == name || strings.HasPrefix(a, name+" <") || strings.HasSuffix(strings.ToLower(a), "<"+strings.ToLower(name)+">") {
				all[i], has = id, true
			}
		}
		if has {
			text, err := json.Marshal(all)
			found[delivery] = string(text)
			return err
		}
		return nil
	}, `SELECT id, approvers FROM `+table+` WHERE approvers <> '' AND lower(approvers) LIKE ? ESCAPE '~'`, "%"+escapeLike(strings.ToLower(part))+"%")
	for delivery, text := range found {
		if err == nil {
			err = t.exec(`UPDATE `+table+` SET approvers = ? WHERE id = ?`, text, delivery)
		}
	}
	count(table, int64(len(found)))
	return err
}
