package store

import (
	"context"
	"encoding/json"
	"fmt"

	"keelson.dev/keelson/internal/history"
)

// partBytes bounds what is kept of what one commit of several has changed.
const partBytes = 64 << 10

// KeepParts keeps which commits came with the delivery of a key. One that is not known, or not any more, has none: that is no error.
func (db *DB) KeepParts(ctx context.Context, key string, parts []history.Part) error {
	const doing = "keep the commits of a delivery"
	for _, p := range parts {
		if err := checkNames("SHA", p.SHA); err != nil {
			return db.wrap(doing, err)
		}
	}
	return db.wrap(doing, db.write(ctx, false, func(tx *tx) error {
		var known []int64
		if err := tx.numbers(&known, `SELECT id FROM deliveries WHERE recorded = ?`, key); err != nil || len(known) == 0 {
			return err
		}
		if err := tx.exec(`DELETE FROM delivery_commits WHERE delivery = ?`, known[0]); err != nil {
			return err
		}
		for i, p := range parts[:min(len(parts), history.MaxParts)] {
			changed, err := json.Marshal(p.Changed)
			if err != nil {
				return err
			}
			if len(changed) > partBytes {
				changed = []byte("null")
			}
			approvers, err := json.Marshal(append([]string{}, p.Approvers...))
			if err != nil {
				return err
			}
			err = tx.exec(`INSERT INTO delivery_commits (id, delivery, sha, title, author, email, authored, merge_request, approvers, changed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
				known[0]*100+int64(i), known[0], p.SHA, text(p.Title), text(p.Author), text(p.Email), micros(p.Authored), text(p.MergeRequest), clean(string(approvers)), clean(string(changed)))
			if err != nil {
				return err
			}
		}
		tx.changed(Change{Kind: "delivery", ID: known[0]})
		return nil
	}))
}

// Parts gives the commits that came with a delivery, the oldest first; none: only its own, as far as is known.
func (db *DB) Parts(ctx context.Context, delivery int64) ([]history.Part, error) {
	var all []history.Part
	err := db.read(ctx, func(tx *tx) error {
		return tx.each(func(scan func(...any) error) error {
			var p history.Part
			var authored int64
			var approvers, changed string
			if err := scan(&p.SHA, &p.Title, &p.Author, &p.Email, &authored, &p.MergeRequest, &approvers, &changed); err != nil {
				return err
			}
			p.Authored = at(authored)
			if err := json.Unmarshal([]byte(approvers), &p.Approvers); err != nil {
				return err
			}
			if len(p.Approvers) == 0 {
				p.Approvers = nil
			}
			if err := json.Unmarshal([]byte(changed), &p.Changed); err != nil {
				return err
			}
			all = append(all, p)
			return nil
		}, `SELECT sha, title, author, email, authored, merge_request, approvers, changed FROM delivery_commits WHERE delivery = ? ORDER BY id`, delivery)
	})
	return all, db.wrap(fmt.Sprintf("the commits of delivery %d", delivery), err)
}
