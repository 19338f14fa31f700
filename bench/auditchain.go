package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/audit/witness"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/store"
)

// What the audit is filled with: so many records, a signed checkpoint for each so many, which the witness has, too.
const (
	auditRecords = 100_000
	auditBatch   = 100 // also the distance of two checkpoints
	auditAppends = 100 // one at a time
	auditPeople  = 500
)

// measureAudit appends to the audit of an instance that is stopped, and verifies 100,000 records with their checkpoints and a witness. The floor of an
// append is a line that is written and is on the disk.
func (b *bench) measureAudit(ctx context.Context) error {
	in, err := b.stopped(ctx, "audit")
	if err != nil {
		return err
	}
	one, many, err := fillAudit(ctx, in.data)
	if err != nil {
		return err
	}
	floor, err := appendToFile(filepath.Join(b.dir, "audit-floor.txt"))
	if err != nil {
		return err
	}
	runs, err := b.runCommand(ctx, b.keelson, "audit", "verify", "--data", in.data)
	if err != nil {
		return err
	}
	var wall, resident []float64
	for _, u := range runs {
		wall, resident = append(wall, u.Wall.Seconds()), append(resident, float64(u.Resident)/1024)
	}
	search, err := b.runCommand(ctx, b.keelson, "audit", "search", "nothing-has-this", "--data", in.data)
	if err != nil {
		return err
	}
	var searched []float64
	for _, u := range search {
		searched = append(searched, milliseconds(u.Wall))
	}
	of := fmt.Sprintf(" of %d records with %d checkpoints, which a witness has, too", auditRecords, auditRecords/auditBatch)
	return errors.Join(
		b.add(Result{Name: "audit-append", Unit: "ms", Floor: "audit-append-floor", What: "one record, until it is on the disk"}, one),
		b.add(Result{Name: "audit-append-floor", Unit: "ms", What: "a line appended to a file, until it is on the disk"}, floor),
		b.add(Result{Name: "audit-appends", Unit: "records/s", What: fmt.Sprintf("records in batches of %d, each until it is on the disk", auditBatch)}, many),
		b.add(Result{Name: "audit-verify", Unit: "s", What: "keelson audit verify" + of + ", start to end"}, wall),
		b.add(Result{Name: "audit-verify-memory", Unit: "MiB", What: "its peak resident memory"}, resident),
		b.add(Result{Name: "audit-search", Unit: "ms", What: "keelson audit search of a word that none has, start to end" + of}, searched),
	)
}

// fillAudit appends records to the store of an instance that is stopped, signs checkpoints of them and gives these to the witness. It gives how long one record
// took, in milliseconds, and how many there were a second in each batch.
func fillAudit(ctx context.Context, data string) (one, many []float64, err error) {
	dir := filepath.Join(data, "ci")
	key, err := store.OpenKey(filepath.Join(dir, "store.key"))
	if err != nil {
		return nil, nil, err
	}
	signing, err := witness.OpenKey(filepath.Join(dir, "audit.key"))
	if err != nil {
		return nil, nil, err
	}
	db, err := store.Open(filepath.Join(dir, "store.db"), store.Options{Key: key})
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	repo, err := git.Open(filepath.Join(data, "git", filepath.FromSlash(witness.Repository)+".git"), git.Options{})
	if err != nil {
		return nil, nil, err
	}
	defer repo.Close()
	for i := range auditAppends {
		began := time.Now()
		if _, err := db.AppendAudit(ctx, auditEntry(i)); err != nil {
			return nil, nil, err
		}
		one = append(one, milliseconds(time.Since(began)))
	}
	for n := auditAppends; n < auditRecords; n += auditBatch {
		batch := make([]audit.Entry, auditBatch)
		for i := range batch {
			batch[i] = auditEntry(n + i)
		}
		began := time.Now()
		if _, err := db.AppendAudit(ctx, batch...); err != nil {
			return nil, nil, err
		}
		many = append(many, auditBatch/time.Since(began).Seconds())
		head, err := db.AuditHead(ctx)
		if err != nil {
			return nil, nil, err
		}
		signed, err := audit.Sign(signing, audit.Checkpoint{Seq: head.Seq, Hash: head.Hash, Time: time.Now().UTC().Truncate(time.Microsecond)})
		if err != nil {
			return nil, nil, err
		}
		if err := errors.Join(db.KeepCheckpoint(ctx, signed), witness.Push(ctx, repo, signed), db.Witnessed(ctx, signed)); err != nil {
			return nil, nil, err
		}
	}
	return one, many, nil
}

func auditEntry(n int) audit.Entry {
	person := fmt.Sprintf("person-%03d", n%auditPeople)
	return audit.Entry{
		Actor: person, Action: []string{"pipeline.play", "git.push", "app.sync", "login"}[n%4], Object: fmt.Sprintf("pipeline/%d/deploy", n), Project: fmt.Sprintf("group/web-%d", n%1000),
		Environment: []string{"dev", "staging", "production"}[n%3], Detail: fmt.Sprintf("refs/heads/main %040x", n), Address: "10.0.0." + fmt.Sprint(n%250),
	}
}

// appendToFile writes lines as long as a record's, and waits for the disk at each.
func appendToFile(name string) (took []float64, err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	line := strings.Repeat("x", 300) + "\n"
	for range auditAppends {
		began := time.Now()
		if _, err := f.WriteString(line); err != nil {
			return nil, err
		}
		if err := f.Sync(); err != nil {
			return nil, err
		}
		took = append(took, milliseconds(time.Since(began)))
	}
	return took, nil
}
