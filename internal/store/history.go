package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/internal/history"
)

const (
	// changesKept is how many objects of a delivery are kept with their fields, changesBytes what these may have.
	changesKept, changesBytes = 1000, 256 << 10
	// changesShown is how many objects of each delivery a list shows.
	changesShown = 20
	// repairsJoin is how long after a repair the same one counts as the same.
	repairsJoin = time.Hour
)

const deliveryColumns = `id, app, environment, cluster, revision, sha, previous, title, author, email, authored, merge_request, approvers,
	caused_by, actor, status, message, began, applied, finished, health, healthy, objects,
	coalesce((SELECT min(p.id) FROM pipelines p WHERE p.sha = deliveries.sha AND p.parent = 0 AND deliveries.sha <> ''), 0)`

func scanDelivery(d *history.Delivery, scan func(...any) error) error {
	var app, approvers string
	var authored, began, applied, finished, healthy int64
	err := scan(&d.ID, &app, &d.Environment, &d.Cluster, &d.Revision, &d.SHA, &d.Previous, &d.Title, &d.Author, &d.Email, &authored, &d.MergeRequest, &approvers,
		&d.Trigger, &d.Actor, &d.Status, &d.Message, &began, &applied, &finished, &d.Health, &healthy, &d.Objects, &d.Pipeline)
	d.App, _ = history.ParseApp(app)
	d.Authored, d.Began, d.Applied, d.Finished, d.Healthy = at(authored), at(began), at(applied), at(finished), at(healthy)
	if err == nil && approvers != "" {
		err = json.Unmarshal([]byte(approvers), &d.Approvers)
	}
	return err
}

// KeepDeliveries keeps deliveries as they are now, all of them or none: those that are known by their keys anew, others for the first time.
// A delivery that is still running when another one of its app begins is superseded, unless it is to the same revision: then it goes
// on under the new key, as after a restart. So does the newest one of its app if it has failed, and the other one resumes it. Texts are cut, and objects left out, where there are too many.
func (db *DB) KeepDeliveries(ctx context.Context, all []history.Delivery) error {
	doing := fmt.Sprintf("keep %d deliveries", len(all))
	for _, d := range all {
		if err := errors.Join(checkNames("key", d.Key, "app", d.App.String(), "revision", d.Revision, "SHA", d.SHA, "SHA before", d.Previous, "status", d.Status)); err != nil {
			return db.wrap(doing, err)
		}
		if d.Key == "" || d.App.Name == "" || d.Status == "" {
			return db.wrap(doing, fmt.Errorf("a delivery needs a key, an app and a status: %w", ErrInvalid))
		}
	}
	return db.wrap(doing, db.write(ctx, false, func(tx *tx) error {
		for i := range all {
			if err := tx.putDelivery(&all[i], db.now()); err != nil {
				return fmt.Errorf("delivery of %s: %w", all[i].App, err)
			}
		}
		return nil
	}))
}

// knownDelivery finds the row of a delivery; 0: there is none.
func (t *tx) knownDelivery(d *history.Delivery, now time.Time) (id int64, err error) {
	var known []int64
	if err := t.numbers(&known, `SELECT id FROM deliveries WHERE recorded = ?`, d.Key); err != nil || len(known) > 0 {
		return append(known, 0)[0], err
	}
	var same, others []int64
	err = t.each(func(scan func(...any) error) error {
		var id int64
		var revision, trigger, actor, status string
		err := scan(&id, &revision, &trigger, &actor, &status)
		goesOn := revision == d.Revision && (d.Actor == "" || actor == text(d.Actor))
		if status == history.Running {
			goesOn = goesOn && (d.Resumes || d.Status == history.Running)
		} else { // the newest one, as it ended
			goesOn = goesOn && d.Resumes && d.Actor == "" && actor == "" && status == history.Failed && trigger == d.Trigger
		}
		switch {
		case goesOn:
			same = append(same, id)
		case status == history.Running:
			others = append(others, id)
		}
		return err
	}, `SELECT id, revision, caused_by, actor, status FROM deliveries
		WHERE app = ? AND (status = 'running' OR id = (SELECT max(id) FROM deliveries WHERE app = ?)) ORDER BY id DESC`, d.App.String(), d.App.String())
	if err != nil {
		return 0, err
	}
	for _, old := range append(others, same[min(1, len(same)):]...) {
		if err := t.exec(`UPDATE deliveries SET status = ?, finished = ? WHERE id = ?`, history.Superseded, micros(now), old); err != nil {
			return 0, err
		}
		t.changed(Change{Kind: "delivery", ID: old, Status: history.Superseded})
	}
	if len(same) > 0 {
		return same[0], t.exec(`UPDATE deliveries SET recorded = ? WHERE id = ?`, d.Key, same[0])
	}
	return 0, nil
}

// wasFound tells whether a delivery is only found to be what its row has.
func (t *tx) wasFound(d *history.Delivery, id int64) (bool, error) {
	if !d.Found || id == 0 {
		return false, nil
	}
	d.ID = id
	var over []int64
	err := t.numbers(&over, `SELECT id FROM deliveries WHERE id = ? AND status = 'succeeded'`, id)
	return len(over) > 0, err
}

func (t *tx) putDelivery(d *history.Delivery, now time.Time) error {
	approvers := ""
	if len(d.Approvers) > 0 {
		b, err := json.Marshal(d.Approvers[:min(len(d.Approvers), 100)])
		if err != nil {
			return err
		}
		approvers = string(b)
	}
	id, err := t.knownDelivery(d, now)
	if err != nil {
		return err
	}
	d.Objects = max(d.Objects, len(d.Changes))
	if over, err := t.wasFound(d, id); over || err != nil {
		return err
	}
	if id == 0 {
		if id, err = t.take("delivery", 1); err != nil {
			return err
		}
		err = t.exec(`INSERT INTO deliveries (id, recorded, app, environment, cluster, revision, sha, previous, title, author, email, authored, merge_request, approvers,
			caused_by, actor, status, message, began, applied, finished, health, healthy, objects)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			id, d.Key, d.App.String(), text(d.Environment), text(d.Cluster), d.Revision, d.SHA, d.Previous, text(d.Title), text(d.Author), text(d.Email), micros(d.Authored),
			text(d.MergeRequest), approvers, d.Trigger, text(d.Actor), d.Status, text(d.Message), micros(d.Began), micros(d.Applied), micros(d.Finished), d.Health, micros(d.Healthy), d.Objects)
		if err == nil {
			err = t.exec(`INSERT INTO delivery_texts (delivery, searched) VALUES (?, ?)`, id, searchedOf(text(d.Title), text(d.Author), d.App.String(), text(d.MergeRequest), d.SHA))
		}
	} else {
		err = t.exec(`UPDATE deliveries SET status = ?, message = ?, applied = ?, finished = ?, health = ?, healthy = ?, objects = CASE WHEN objects > ? THEN objects ELSE ? END,
			actor = CASE WHEN actor = '' THEN ? ELSE actor END WHERE id = ?`, // who it was may be known later than that it was
			d.Status, text(d.Message), micros(d.Applied), micros(d.Finished), d.Health, micros(d.Healthy), d.Objects, d.Objects, text(d.Actor), id)
	}
	if err != nil {
		return err
	}
	d.ID = id
	t.changed(Change{Kind: "delivery", ID: id, Status: d.Status})
	return t.putChanges(id, d.Changes)
}

// searchedOf is what is searched of a delivery, in lower case of all letters: SQLite's own lower knows those of ASCII.
func searchedOf(title, author, app, mergeRequest, sha string) string {
	return strings.ToLower(strings.Join([]string{title, author, app, mergeRequest, sha}, " "))
}

// textsBatch is how many rows of delivery_texts are made at a time.
const textsBatch = 256

// putTexts has what is searched of deliveries say what these say now.
func (t *tx) putTexts(deliveries []int64) error {
	for batch := range slices.Chunk(deliveries, textsBatch) {
		for len(batch) < textsBatch { // one statement, which stays prepared
			batch = append(batch[:len(batch):len(batch)], slices.Repeat(batch[:1], textsBatch-len(batch))...)
		}
		args := make([]any, len(batch))
		for i, id := range batch {
			args[i] = id
		}
		rows, _, err := t.texts(`id IN (`+strings.TrimSuffix(strings.Repeat("?, ", textsBatch), ", ")+`)`, args...)
		if err == nil {
			err = t.putMany(`INSERT INTO delivery_texts (delivery, searched)`, ` ON CONFLICT (delivery) DO UPDATE SET searched = excluded.searched`, rows)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// texts gives the rows of delivery_texts as they should be, and the last delivery.
func (t *tx) texts(condition string, args ...any) (rows [][]any, last int64, err error) {
	err = t.each(func(scan func(...any) error) error {
		var title, author, app, mergeRequest, sha string
		err := scan(&last, &title, &author, &app, &mergeRequest, &sha)
		rows = append(rows, []any{last, searchedOf(title, author, app, mergeRequest, sha)})
		return err
	}, `SELECT id, title, author, app, merge_request, sha FROM deliveries WHERE `+condition, args...)
	return rows, last, err
}

// searchDeliveries fills delivery_texts with what there is when it is made.
func searchDeliveries(t *tx) error {
	for last, n := int64(0), textsBatch; n == textsBatch; {
		rows, end, err := t.texts(`id > ? ORDER BY id LIMIT ?`, last, textsBatch)
		if err == nil {
			err = t.putMany(`INSERT INTO delivery_texts (delivery, searched)`, "", rows)
		}
		if err != nil {
			return err
		}
		last, n = end, len(rows)
	}
	return nil
}

// putChanges keeps what was done to objects. What is there already stays, and what was done to the same objects since is added to it.
func (t *tx) putChanges(delivery int64, changes []history.Change) error {
	if len(changes) == 0 {
		return nil
	}
	have := map[string]int64{}
	next := int64(0)
	size := 0
	err := t.each(func(scan func(...any) error) error {
		var number, bytes int64
		var o history.Object
		err := scan(&number, &o.Group, &o.Kind, &o.Namespace, &o.Name, &bytes)
		have[o.Group+" "+o.String()] = number
		next, size = number+1, size+int(bytes)
		return err
	}, `SELECT number, api_group, kind, namespace, name, length(fields) FROM delivery_objects WHERE delivery = ? ORDER BY number`, delivery)
	if err != nil {
		return err
	}
	for _, c := range changes {
		if number, known := have[c.Group+" "+c.Object.String()]; known {
			if size, err = t.mergeChange(delivery, number, c, size); err != nil {
				return err
			}
			continue
		}
		if next >= changesKept {
			continue
		}
		fields, err := fieldsJSON(c.Fields)
		if err != nil {
			return err
		}
		if size+len(fields) > changesBytes {
			fields, c.More = "", c.More+len(c.Fields)
		}
		size += len(fields)
		err = t.exec(`INSERT INTO delivery_objects (delivery, number, name, kind_key, namespace, api_group, kind, verb, fields, more) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			delivery, next, text(c.Name), strings.ToLower(text(c.Kind)), text(c.Namespace), text(c.Group), text(c.Kind), c.Verb, fields, c.More)
		if err != nil {
			return err
		}
		have[c.Group+" "+c.Object.String()] = next
		next++
	}
	return nil
}

// mergeChange adds what was done to an object since to what is kept of it. size is what the delivery's fields have, before and after.
func (t *tx) mergeChange(delivery, number int64, c history.Change, size int) (int, error) {
	var was history.Change
	var old string
	if err := t.row(`SELECT verb, fields, more FROM delivery_objects WHERE delivery = ? AND number = ?`, delivery, number).Scan(&was.Verb, &old, &was.More); err != nil {
		return size, err
	}
	if err := scanChange(&was, old); err != nil {
		return size, err
	}
	merged := was.Merge(c)
	fields, err := fieldsJSON(merged.Fields)
	if err != nil {
		return size, err
	}
	if len(fields) > len(old) && size-len(old)+len(fields) > changesBytes { // what is there stays
		fields, merged.More = old, merged.More+len(merged.Fields)-len(was.Fields)
	}
	return size - len(old) + len(fields), t.exec(`UPDATE delivery_objects SET verb = ?, fields = ?, more = ? WHERE delivery = ? AND number = ?`,
		merged.Verb, fields, merged.More, delivery, number)
}

func fieldsJSON(fields []history.Field) (string, error) {
	if len(fields) == 0 {
		return "", nil
	}
	b, err := json.Marshal(fields)
	return clean(string(b)), err
}

// clean takes out what a column cannot have, and leaves the length as it is.
func clean(s string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
}

func scanChange(c *history.Change, fields string) error {
	if fields == "" {
		return nil
	}
	return json.Unmarshal([]byte(fields), &c.Fields)
}

// DeliveryFilter says which deliveries a list has: those that meet all that is set.
type DeliveryFilter struct {
	App         string // "Kind/namespace/name"
	Environment string
	Author      string
	Status      string
	Trigger     string
	SHA         string   // its beginning counts too
	Kinds       []string // of an object that was changed, in lower case; with Name
	Namespace   string   // … with Name; empty: any
	Name        string   // …
	Query       string   // words, each of which is somewhere in the title, the author, the app, the merge request or the SHA
	From, To    time.Time
	Before      int64 // only deliveries with a smaller number: the last one of the page before; 0: from the newest on
	Limit       int   // 0: 100; at most 1000
}

// from gives the tables and the condition. A search alone goes through the texts, from the newest on; where an index leaves few deliveries, only theirs are
// looked at.
func (f DeliveryFilter) from() (tables string, w where) {
	tables = "deliveries"
	var texts where
	for _, word := range strings.Fields(f.Query) {
		texts.and(`searched LIKE ? ESCAPE '~'`, "%"+escapeLike(strings.ToLower(word))+"%")
	}
	few := f.App != "" || f.Author != "" || f.SHA != "" || f.Name != ""
	switch {
	case len(texts.sql) == 0:
	case few:
		w.and("EXISTS (SELECT 1 FROM delivery_texts WHERE delivery = id AND "+strings.Join(texts.sql, " AND ")+")", texts.args...)
	default:
		tables = "delivery_texts CROSS JOIN deliveries" // in this order, says CROSS to SQLite
		w = texts
		w.and("id = delivery")
	}
	for column, value := range map[string]string{"app": f.App, "author": f.Author, "status": f.Status, "caused_by": f.Trigger} {
		if value != "" {
			w.and(column+" = ?", value)
		}
	}
	if f.Environment != "" {
		w.and("environment <> '' AND environment = ?", f.Environment)
	}
	if f.SHA != "" {
		w.and("sha >= ? AND sha < ?", f.SHA, f.SHA+"~")
	}
	if f.Name != "" {
		cond, args := objectWhere(f.Kinds, f.Namespace, f.Name)
		w.and("id IN (SELECT delivery FROM delivery_objects WHERE "+cond+")", args...)
	}
	var span where
	if !f.From.IsZero() {
		span.and("began >= ?", micros(f.From))
	}
	if !f.To.IsZero() {
		span.and("began <= ?", micros(f.To))
	}
	switch {
	case len(span.sql) == 0:
	case few || tables != "deliveries":
		w.and(strings.Join(span.sql, " AND "), span.args...)
	default: // by their numbers, so that no more than those are sorted
		w.and("id IN (SELECT id FROM deliveries"+span.String()+")", span.args...)
	}
	if f.Before != 0 {
		w.and("id < ?", f.Before)
		if tables != "deliveries" {
			w.and("delivery < ?", f.Before)
		}
	}
	return tables, w
}

func escapeLike(s string) string {
	return strings.NewReplacer("~", "~~", "%", "~%", "_", "~_").Replace(s)
}

func objectWhere(kinds []string, namespace, name string) (string, []any) {
	var w where
	w.and("name = ?", name)
	if len(kinds) > 0 {
		marks := strings.TrimSuffix(strings.Repeat("?, ", len(kinds)), ", ")
		args := make([]any, len(kinds))
		for i, k := range kinds {
			args[i] = k
		}
		w.and("kind_key IN ("+marks+")", args...)
	}
	if namespace != "" {
		w.and("namespace = ?", namespace)
	}
	return strings.Join(w.sql, " AND "), w.args
}

// maxWords is how many words a query may have.
const maxWords = 10

// Deliveries lists deliveries, the newest first, each with the first of the objects that it has changed. A page shorter than the limit is the last one.
func (db *DB) Deliveries(ctx context.Context, f DeliveryFilter) ([]history.Delivery, error) {
	if len(strings.Fields(f.Query)) > maxWords {
		return nil, db.wrap("list deliveries", fmt.Errorf("the query has more than %d words: %w", maxWords, ErrTooLarge))
	}
	var all []history.Delivery
	tables, w := f.from()
	order := "id"
	if tables != "deliveries" {
		order = "delivery"
	}
	err := db.read(ctx, func(tx *tx) error {
		err := tx.each(func(scan func(...any) error) error {
			var d history.Delivery
			err := scanDelivery(&d, scan)
			all = append(all, d)
			return err
		}, `SELECT `+deliveryColumns+` FROM `+tables+w.String()+` ORDER BY `+order+` DESC LIMIT ?`, append(w.args, page(f.Limit))...)
		for i := range all {
			if err == nil {
				err = tx.changesOf(&all[i], changesShown)
			}
		}
		return err
	})
	return all, db.wrap("list deliveries", err)
}

// changesOf reads the first objects that a delivery has changed.
func (t *tx) changesOf(d *history.Delivery, limit int) error {
	return t.each(func(scan func(...any) error) error {
		var c history.Change
		var fields string
		if err := scan(&c.Group, &c.Kind, &c.Namespace, &c.Name, &c.Verb, &fields, &c.More); err != nil {
			return err
		}
		err := scanChange(&c, fields)
		d.Changes = append(d.Changes, c)
		return err
	}, `SELECT api_group, kind, namespace, name, verb, fields, more FROM delivery_objects WHERE delivery = ? ORDER BY number LIMIT ?`, d.ID, limit)
}

// Delivery gives one delivery with all the objects that are kept of it, or [ErrNotFound].
func (db *DB) Delivery(ctx context.Context, id int64) (history.Delivery, error) {
	var d history.Delivery
	err := db.read(ctx, func(tx *tx) error {
		if err := scanDelivery(&d, tx.row(`SELECT `+deliveryColumns+` FROM deliveries WHERE id = ?`, id).Scan); err != nil {
			return err
		}
		return tx.changesOf(&d, changesKept)
	})
	return d, db.wrap(fmt.Sprintf("delivery %d", id), err)
}

// Commits gives what is known of commits by their SHAs, from what was delivered of them and from their pipelines: title and author.
func (db *DB) Commits(ctx context.Context, shas []string) (map[string]history.Commit, error) {
	found := map[string]history.Commit{}
	if len(shas) == 0 {
		return found, nil
	}
	size := 1
	for size < len(shas) { // few different statements: each stays prepared
		size *= 2
	}
	shas = append(slices.Clone(shas), slices.Repeat(shas[:1], size-len(shas))...)
	marks := strings.TrimSuffix(strings.Repeat("?, ", size), ", ")
	args := make([]any, 0, 2*size)
	for _, sha := range slices.Concat(shas, shas) {
		args = append(args, sha)
	}
	err := db.read(ctx, func(tx *tx) error {
		return tx.each(func(scan func(...any) error) error {
			var c history.Commit
			err := scan(&c.SHA, &c.Title, &c.Author)
			found[c.SHA] = c
			return err
		}, `SELECT sha, title, author FROM pipelines WHERE id IN (SELECT max(id) FROM pipelines WHERE sha IN (`+marks+`) AND title <> '' GROUP BY sha)
			UNION ALL SELECT sha, title, author FROM deliveries WHERE id IN (SELECT max(id) FROM deliveries WHERE sha IN (`+marks+`) AND title <> '' GROUP BY sha)`, args...)
	})
	return found, db.wrap(fmt.Sprintf("look for %d commits", len(shas)), err)
}

// ObjectChange is what a delivery has done to an object.
type ObjectChange struct {
	Delivery int64
	App      history.App
	Change   history.Change
}

// KnownObject is an object of which something is known, and an app that has changed or repaired it.
type KnownObject struct {
	history.Object
	App history.App
}

// ObjectFilter names an object as people do.
type ObjectFilter struct {
	Kinds     []string  // in lower case
	Namespace string    // empty: any
	Name      string    //
	At        time.Time // what began by then; zero: until now
}

// ChangesOf calls tell with what deliveries have done to an object, the newest first, until that says that it is enough.
func (db *DB) ChangesOf(ctx context.Context, f ObjectFilter, tell func(ObjectChange) (more bool)) error {
	cond, args := objectWhere(f.Kinds, f.Namespace, f.Name)
	enough := errors.New("enough")
	err := db.read(ctx, func(tx *tx) error {
		query := `SELECT o.delivery, (SELECT d.app FROM deliveries d WHERE d.id = o.delivery), o.api_group, o.kind, o.namespace, o.name, o.verb, o.fields, o.more
			FROM delivery_objects o WHERE ` + cond
		if !f.At.IsZero() {
			query += ` AND EXISTS (SELECT 1 FROM deliveries d WHERE d.id = o.delivery AND d.began <= ?)`
			args = append(args, micros(f.At))
		}
		return tx.each(func(scan func(...any) error) error {
			var c ObjectChange
			var app, fields string
			if err := scan(&c.Delivery, &app, &c.Change.Group, &c.Change.Kind, &c.Change.Namespace, &c.Change.Name, &c.Change.Verb, &fields, &c.Change.More); err != nil {
				return err
			}
			if err := scanChange(&c.Change, fields); err != nil {
				return err
			}
			c.App, _ = history.ParseApp(app)
			if !tell(c) {
				return enough
			}
			return nil
		}, query+` ORDER BY o.delivery DESC`, args...)
	})
	if errors.Is(err, enough) {
		err = nil
	}
	return db.wrap("changes of "+f.Name, err)
}

// maxKnown bounds what [DB.ObjectsOf] gives.
const maxKnown = 1000

// ObjectsOf gives the objects that people may mean by a name, of which anything is known, each with every app that has to do with it.
func (db *DB) ObjectsOf(ctx context.Context, f ObjectFilter) ([]KnownObject, error) {
	cond, args := objectWhere(f.Kinds, f.Namespace, f.Name)
	var all []KnownObject
	err := db.read(ctx, func(tx *tx) error {
		return tx.each(func(scan func(...any) error) error {
			var o KnownObject
			var app string
			err := scan(&o.Group, &o.Kind, &o.Namespace, &o.Name, &app)
			o.App, _ = history.ParseApp(app)
			all = append(all, o)
			return err
		}, `SELECT o.api_group, o.kind, o.namespace, o.name, (SELECT d.app FROM deliveries d WHERE d.id = o.delivery) FROM delivery_objects o WHERE `+cond+
			` UNION SELECT api_group, kind, namespace, name, app FROM repairs WHERE `+cond+` ORDER BY 3, 2, 1, 5 LIMIT ?`, append(append(args, args...), maxKnown)...)
	})
	return all, db.wrap("objects of the name "+f.Name, err)
}

// HistoryBegins tells when the first delivery began of those that are kept; zero: there is none.
func (db *DB) HistoryBegins(ctx context.Context) (time.Time, error) {
	var began int64
	err := db.read(ctx, func(tx *tx) error {
		return tx.row(`SELECT coalesce(min(began), 0) FROM deliveries`).Scan(&began)
	})
	return at(began), db.wrap("when the history begins", err)
}

// KeepRepairs keeps drift that was undone, all of it or nothing. What is undone again and again within an hour is one repair that counts.
func (db *DB) KeepRepairs(ctx context.Context, all []history.Repair) error {
	doing := fmt.Sprintf("keep %d repairs", len(all))
	for _, r := range all {
		if err := checkNames("app", r.App.String(), "kind", r.Kind, "namespace", r.Namespace, "name", r.Name, "manager", r.Manager, "SHA", r.SHA); err != nil {
			return db.wrap(doing, err)
		}
	}
	return db.wrap(doing, db.write(ctx, false, func(tx *tx) error {
		for i := range all {
			if err := tx.putRepair(&all[i]); err != nil {
				return fmt.Errorf("repair of %s: %w", all[i].Object, err)
			}
		}
		return nil
	}))
}

func (t *tx) putRepair(r *history.Repair) error {
	fields, err := fieldsJSON(r.Fields)
	if err != nil {
		return err
	}
	kind := strings.ToLower(r.Kind)
	type row struct {
		id, repaired           int64
		app, manager, api, has string
	}
	var last []row
	err = t.each(func(scan func(...any) error) error {
		var l row
		err := scan(&l.id, &l.repaired, &l.app, &l.manager, &l.api, &l.has)
		last = append(last, l)
		return err
	}, `SELECT id, repaired, app, manager, api_group, fields FROM repairs WHERE name = ? AND kind_key = ? AND namespace = ? ORDER BY id DESC LIMIT 5`, r.Name, kind, r.Namespace)
	if err != nil {
		return err
	}
	for _, l := range last {
		if l.app == r.App.String() && l.manager == r.Manager && l.api == r.Group && samePaths(l.has, r.Fields) && r.Repaired.Sub(at(l.repaired)) < repairsJoin {
			t.changed(Change{Kind: "repair", ID: l.id})
			return t.exec(`UPDATE repairs SET repaired = ?, times = times + ?, fields = ?, reason = ? WHERE id = ?`,
				micros(r.Repaired), max(r.Times, 1), fields, text(r.Reason), l.id)
		}
	}
	if r.ID, err = t.take("repair", 1); err != nil {
		return err
	}
	t.changed(Change{Kind: "repair", ID: r.ID})
	return t.exec(`INSERT INTO repairs (id, app, sha, name, kind_key, namespace, api_group, kind, manager, reason, fields, more, found, repaired, times)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		r.ID, r.App.String(), r.SHA, r.Name, kind, r.Namespace, r.Group, r.Kind, r.Manager, text(r.Reason), fields, r.More, micros(r.Found), micros(r.Repaired), max(r.Times, 1))
}

// samePaths tells whether the same fields are meant, whatever their values are.
func samePaths(kept string, fields []history.Field) bool {
	var have []history.Field
	if kept != "" && json.Unmarshal([]byte(kept), &have) != nil {
		return false
	}
	return slices.EqualFunc(have, fields, func(a, b history.Field) bool { return a.Path == b.Path })
}

// RepairFilter says which repairs a list has: those that meet all that is set.
type RepairFilter struct {
	App       string
	Manager   string
	Kinds     []string // in lower case; with Name
	Namespace string   // … empty: any
	Name      string   // of the object
	From, To  time.Time
	Before    int64 // only repairs with a smaller number; 0: from the newest on
	Limit     int   // 0: 100; at most 1000
}

// Repairs lists drift that was undone, the newest first. A page shorter than the limit is the last one.
func (db *DB) Repairs(ctx context.Context, f RepairFilter) ([]history.Repair, error) {
	var w where
	if f.App != "" {
		w.and("app = ?", f.App)
	}
	if f.Manager != "" {
		w.and("manager = ?", f.Manager)
	}
	if f.Name != "" {
		cond, args := objectWhere(f.Kinds, f.Namespace, f.Name)
		w.and(cond, args...)
	}
	if !f.From.IsZero() {
		w.and("repaired >= ?", micros(f.From))
	}
	if !f.To.IsZero() {
		w.and("found <= ?", micros(f.To))
	}
	if f.Before != 0 {
		w.and("id < ?", f.Before)
	}
	var all []history.Repair
	err := db.read(ctx, func(tx *tx) error {
		return tx.each(func(scan func(...any) error) error {
			var r history.Repair
			var app, fields string
			var found, repaired int64
			err := scan(&r.ID, &app, &r.SHA, &r.Group, &r.Kind, &r.Namespace, &r.Name, &r.Manager, &r.Reason, &fields, &r.More, &found, &repaired, &r.Times)
			r.App, _ = history.ParseApp(app)
			r.Found, r.Repaired = at(found), at(repaired)
			r.Fields = []history.Field{}
			if err == nil && fields != "" {
				err = json.Unmarshal([]byte(fields), &r.Fields)
			}
			all = append(all, r)
			return err
		}, `SELECT id, app, sha, api_group, kind, namespace, name, manager, reason, fields, more, found, repaired, times FROM repairs`+w.String()+` ORDER BY id DESC LIMIT ?`,
			append(w.args, page(f.Limit))...)
	})
	return all, db.wrap("list repairs", err)
}

// Plays are the jobs that people have played or retried in the pipelines of a commit, the oldest first, at most 100.
func (db *DB) Plays(ctx context.Context, sha string) ([]history.Approval, error) {
	var all []history.Approval
	err := db.read(ctx, func(tx *tx) error {
		return tx.each(func(scan func(...any) error) error {
			var a history.Approval
			var name string
			var attempt, started, created int64
			err := scan(&a.Pipeline, &a.Job, &name, &attempt, &a.By, &started, &created)
			a.How, a.At = "played "+name, at(cmp.Or(started, created))
			if attempt > 1 {
				a.How = "retried " + name
			}
			all = append(all, a)
			return err
		}, `SELECT p.id, j.id, j.name, j.attempt, j.played_by, j.started, j.created FROM pipelines p JOIN jobs j ON j.pipeline = p.id
			WHERE p.sha = ? AND j.played_by <> '' ORDER BY j.id LIMIT 100`, sha)
	})
	return all, db.wrap("who has played jobs for "+sha, err)
}

// jobsLooked is how many of the last deployments by jobs are looked at.
const jobsLooked = 200

// WrittenBy gives the jobs that have written an object themselves, the newest first, as far as the last deployments tell.
func (db *DB) WrittenBy(ctx context.Context, f ObjectFilter) ([]history.JobWrite, error) {
	var out []history.JobWrite
	err := db.deployedWith(ctx, f.Name, func(j history.JobWrite, w wrote) {
		for _, o := range w.Objects {
			if o.Name == f.Name && (f.Namespace == "" || o.Namespace == f.Namespace) && slices.Contains(f.Kinds, strings.ToLower(o.Kind)) {
				j.Verb = o.Verb
				out = append(out, j)
				return
			}
		}
	})
	return out, db.wrap("jobs that wrote "+f.Name, err)
}

// PushedBy gives the job that has pushed a commit; nil: none of the last deployments has.
func (db *DB) PushedBy(ctx context.Context, sha string) (*history.JobWrite, error) {
	var found *history.JobWrite
	err := db.deployedWith(ctx, sha, func(j history.JobWrite, w wrote) {
		if found == nil && slices.ContainsFunc(w.Commits, func(c wroteCommit) bool { return c.SHA == sha }) {
			found = &j
		}
	})
	return found, db.wrap("the job that pushed "+sha, err)
}

// wrote is what a deployment says that it has written ([Report]).
type wrote struct {
	Objects []struct{ Verb, Kind, Namespace, Name string }
	Commits []wroteCommit
}

type wroteCommit struct{ SHA string }

// names are what a deployment is found by, each once.
func (w wrote) names() []string {
	var all []string
	for _, o := range w.Objects {
		all = append(all, o.Name)
	}
	for _, c := range w.Commits {
		all = append(all, c.SHA)
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(name string) bool { return checkNames("name", name) != nil || name == "" })
}

// namesOf are the rows of deployment_names of a deployment, as its report says. One that cannot be read has nothing to tell.
func namesOf(deployment int64, report []byte) (rows [][]any, readable bool) {
	var w wrote
	if err := json.Unmarshal(report, &w); err != nil {
		return nil, false
	}
	for _, name := range w.names() {
		rows = append(rows, []any{name, deployment})
	}
	return rows, true
}

const intoNames = `INSERT INTO deployment_names (name, deployment)`

// putNames keeps what a deployment is found by.
func (t *tx) putNames(deployment int64, report []byte) error {
	rows, readable := namesOf(deployment, report)
	if !readable {
		return nil
	}
	if err := t.exec(`DELETE FROM deployment_names WHERE deployment = ?`, deployment); err != nil {
		return err
	}
	return t.putMany(intoNames, "", rows)
}

// nameDeployments fills deployment_names with what there is when it is made.
func nameDeployments(t *tx) error {
	const batch = 100
	for last, n := int64(0), batch; n == batch; {
		n = 0
		var rows [][]any
		err := t.each(func(scan func(...any) error) error {
			var report string
			err := scan(&last, &report)
			names, _ := namesOf(last, []byte(report))
			n, rows = n+1, append(rows, names...)
			return err
		}, `SELECT id, wrote FROM deployments WHERE id > ? AND wrote <> '' ORDER BY id LIMIT ?`, last, batch)
		if err == nil {
			err = t.putMany(intoNames, "", rows)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// deployedWith calls tell with the newest deployments that say they have written what has this name or SHA.
func (db *DB) deployedWith(ctx context.Context, name string, tell func(history.JobWrite, wrote)) error {
	return db.read(ctx, func(tx *tx) error {
		return tx.each(func(scan func(...any) error) error {
			var j history.JobWrite
			var report string
			var created, started int64
			if err := scan(&j.Job, &j.Pipeline, &j.Environment, &j.SHA, &j.User, &j.Status, &created, &started, &report); err != nil {
				return err
			}
			j.At = at(cmp.Or(started, created))
			var w wrote
			if json.Unmarshal([]byte(report), &w) == nil { // one that cannot be read has nothing to tell
				tell(j, w)
			}
			return nil
		}, `SELECT d.job, d.pipeline, e.name, d.sha, d.deployed_by, d.status, d.created, d.started, d.wrote
			FROM deployment_names n JOIN deployments d ON d.id = n.deployment JOIN environments e ON e.id = d.environment
			WHERE n.name = ? ORDER BY n.deployment DESC LIMIT ?`, name, jobsLooked)
	})
}

// HistoryRetention says which deliveries and repairs go: those that neither of the two keeps. The last delivery of an app stays.
type HistoryRetention struct {
	Keep  int       // as many of the newest of each stay
	Since time.Time // what began at this time or later stays
}

// historyBatch is how many rows are deleted in one transaction.
const historyBatch = 200

// RetainHistory deletes what a retention does not keep, and tells how many rows that was.
func (db *DB) RetainHistory(ctx context.Context, r HistoryRetention) (gone int64, err error) {
	const doing = "delete old deliveries and repairs"
	if r.Keep <= 0 && r.Since.IsZero() {
		return 0, db.wrap(doing, errors.New("say what is kept: a number, a time, or both"))
	}
	for table, c := range map[string]struct{ time, but string }{
		"deliveries": {"began", ` AND status <> 'running' AND EXISTS (SELECT 1 FROM deliveries n WHERE n.app = deliveries.app AND n.id > deliveries.id)`},
		"repairs":    {"repaired", ""},
	} {
		w := where{}
		if !r.Since.IsZero() {
			w.and(c.time+" < ?", micros(r.Since))
		}
		if r.Keep > 0 {
			w.and("id < coalesce((SELECT id FROM "+table+" ORDER BY id DESC LIMIT 1 OFFSET ?), 0)", r.Keep-1)
		}
		for {
			var n int64
			err := db.write(ctx, false, func(tx *tx) (err error) {
				n, err = tx.count(`DELETE FROM `+table+` WHERE id IN (SELECT id FROM `+table+w.String()+c.but+` ORDER BY id LIMIT ?)`, append(slices.Clone(w.args), historyBatch)...)
				return err
			})
			if gone += n; err != nil {
				return gone, db.wrap(doing, err)
			}
			if n < historyBatch {
				break
			}
		}
	}
	return gone, nil
}
