package store

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"keelson.dev/keelson/internal/audit"
)

// AuditExport says what is exported.
type AuditExport struct {
	From, To time.Time // From <= time < To; zero: no bound
	NoNames  bool      // leave out whose the ids are
}

// ExportAudit writes an export of the audit, as [audit.ReadExport] reads it. Records that come meanwhile are not in it.
func (db *DB) ExportAudit(ctx context.Context, w io.Writer, o AuditExport) error {
	const doing = "export the audit"
	head, err := db.AuditHead(ctx)
	if err != nil {
		return err
	}
	first, last, err := db.AuditSpan(ctx, o.From, o.To)
	if err != nil {
		return err
	}
	last = min(last, head.Seq)
	all, err := db.Checkpoints(ctx)
	if err != nil {
		return err
	}
	x := exporter{w: w, names: !o.NoNames, known: map[string]bool{}}
	header := audit.Header{First: max(first, 1), Partial: last < head.Seq}
	if first > 1 {
		before, err := db.AuditAt(ctx, first-1)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		header.Prev = before.Hash
	}
	for _, c := range all {
		if first > 1 && c.Checkpoint.Seq == first-1 && c.Kind == audit.Cut {
			header.Prev = c.Hash
		}
	}
	x.put(audit.Line{Header: &header})
	at := 0
	checkpoints := func(to int64) {
		for ; at < len(all) && all[at].Checkpoint.Seq <= to; at++ {
			if all[at].Checkpoint.Seq >= first-1 || audit.IsRotation(all[at].Kind) {
				x.put(audit.Line{Checkpoint: &all[at].Signed})
			}
		}
	}
	var end audit.End
	if first > 0 {
		checkpoints(first - 1)
		err = db.EachAudit(ctx, first, last, func(r AuditRecord) error {
			x.record(r)
			checkpoints(r.Seq)
			end = audit.End{Records: end.Records + 1, Last: r.Seq}
			return x.err
		})
	}
	for ; at < len(all); at++ { // who knows a key of later has to be led to those of what is exported
		if audit.IsRotation(all[at].Kind) {
			x.put(audit.Line{Checkpoint: &all[at].Signed})
		}
	}
	if err == nil {
		x.put(audit.Line{End: &end})
		err = x.err
	}
	return db.wrap(doing, err)
}

// exporter writes lines until one fails.
type exporter struct {
	w     io.Writer
	names bool
	known map[string]bool
	err   error
}

func (x *exporter) put(l audit.Line) {
	if x.err == nil {
		x.err = audit.WriteLine(x.w, l)
	}
}

// record writes a record, after whose its ids are.
func (x *exporter) record(r AuditRecord) {
	for id, name := range map[string]string{r.Actor: r.Who, r.Record.Address: r.Address, strings.TrimPrefix(r.Object, "person/"): r.About} {
		if x.names && name != "" && name != id && !x.known[id] {
			x.known[id] = true
			x.put(audit.Line{Name: &audit.Name{ID: id, Name: name}})
		}
	}
	x.put(audit.Line{Record: &r.Record, Hash: r.Hash})
}

// VerifyAudit looks whether the audit is as it was: its chain, and its checkpoints with more of elsewhere, as of the witness. The keys are those that
// checkpoints may be signed with, as for [audit.NewVerifier]. The error is that the database cannot be read at all; what of the audit cannot be
// read is a problem.
func (db *DB) VerifyAudit(ctx context.Context, accept []ed25519.PublicKey, more []audit.Found) (audit.Report, *audit.Problem, error) {
	all, err := db.Checkpoints(ctx)
	var p *audit.Problem
	switch {
	case errors.As(err, &p):
		return audit.Report{}, p, nil
	case err != nil:
		return audit.Report{}, nil, err
	}
	found, witnessed := more, int64(0)
	for _, c := range all {
		found = append(found, audit.Found{Signed: c.Signed, Where: "the database"})
		if c.Witnessed {
			witnessed = c.Checkpoint.Seq
		}
	}
	known, err := db.AuditKnown(ctx) // before the chain is read: others write
	if err != nil {
		known = 0 // the names are damaged; the chain is what counts
	}
	v := audit.NewVerifier(accept, found)
	err = db.eachAudit(ctx, 1, 0, false, func(r AuditRecord) error {
		if p := v.Record(r.Record, r.Hash); p != nil {
			return p
		}
		return nil
	})
	switch {
	case errors.As(err, &p):
		return audit.Report{}, p, nil
	case err != nil && (ctx.Err() != nil || errors.Is(err, ErrAway)):
		return audit.Report{}, nil, err
	case err != nil:
		return audit.Report{}, v.Unreadable(err), nil
	}
	v.Known(known, fmt.Sprintf("the database knows of record %d", known))
	report, p := v.End()
	if p == nil && witnessed > 0 && len(more) == 0 {
		report.Notes = append(report.Notes, fmt.Sprintf("the witness, which had checkpoints up to record %d, was not looked at", witnessed))
	}
	return report, p, nil
}
