package audit

import (
	"cmp"
	"crypto/ed25519"
	"fmt"
	"slices"
	"time"
)

// Problem is what is wrong with a chain.
type Problem struct {
	Seq int64  `json:"seq"` // the first record that is not as it was; 0: it is not about one
	Why string `json:"why"`
}

// Error implements [error].
func (p *Problem) Error() string {
	if p.Seq == 0 {
		return p.Why
	}
	return fmt.Sprintf("record %d: %s", p.Seq, p.Why)
}

// Found is a checkpoint and where it was.
type Found struct {
	Signed
	Where string // for people: the database, the witness, the export
}

// Report is what was looked at.
type Report struct {
	Records     int64     `json:"records"`
	First       int64     `json:"first"`       // its number; 0: there are none
	Last        int64     `json:"last"`        //
	Checkpoints int       `json:"checkpoints"` // that the chain was held against
	Signed      int64     `json:"signed"`      // up to this record checkpoints prove it
	SignedAt    time.Time `json:"signedAt,omitzero"`
	Unsigned    int64     `json:"unsigned"`               // so many records come after the last checkpoint: the chain alone covers them
	Since       time.Time `json:"unsignedSince,omitzero"` // the time of the first of these
	Keys        []string  `json:"keys"`                   // ids of the keys of the checkpoints
	Notes       []string  `json:"notes,omitempty"`
}

// Verifier looks at a chain, record by record.
type Verifier struct {
	accept      []ed25519.PublicKey
	checkpoints []Found      // in the order of their records
	next        int          // the first of these that is not passed yet
	begin       *Hash        // before the first record, where somebody else says so
	links       []succession // from key to key
	prev        Hash
	good        int64 // the last record that a checkpoint has confirmed
	report      Report
	problem     *Problem
}

// NewVerifier begins. Checkpoints have to be signed with one of the accepted keys; none accepted: with that of the oldest checkpoint.
func NewVerifier(accept []ed25519.PublicKey, checkpoints []Found) *Verifier {
	v := &Verifier{accept: accept, checkpoints: slices.Clone(checkpoints)}
	slices.SortStableFunc(v.checkpoints, func(a, b Found) int {
		return cmp.Or(cmp.Compare(a.Checkpoint.Seq, b.Checkpoint.Seq), a.Time.Compare(b.Time))
	})
	v.checkpoints = slices.CompactFunc(v.checkpoints, func(a, b Found) bool { return a.Same(b.Signed) })
	v.checkKeys()
	if v.problem == nil {
		v.dropRestored()
		v.checkRetired()
	}
	return v
}

// Begin says what the hash before the first record is, where the chain does not begin at its begin: a part of it was exported. What
// follows is proven by the next checkpoint.
func (v *Verifier) Begin(h Hash) { v.begin = &h }

// Until leaves out what checkpoints say of records after one: the chain is looked at up to there only.
func (v *Verifier) Until(seq int64) {
	at := slices.IndexFunc(v.checkpoints, func(c Found) bool { return c.Checkpoint.Seq > seq })
	if at < 0 {
		return
	}
	last := v.checkpoints[len(v.checkpoints)-1].Checkpoint.Seq
	v.checkpoints = v.checkpoints[:at]
	v.note("only records up to %d were exported; there are checkpoints up to %d", seq, last)
}

// dropRestored leaves out what does not count any more since the database was put back.
func (v *Verifier) dropRestored() {
	for _, r := range slices.Clone(v.checkpoints) {
		if r.Kind != Restored {
			continue
		}
		lost := r.Checkpoint.Seq
		v.checkpoints = slices.DeleteFunc(v.checkpoints, func(c Found) bool {
			gone := c.Checkpoint.Seq > r.Checkpoint.Seq && c.Time.Before(r.Time)
			if gone {
				lost = max(lost, c.Checkpoint.Seq)
			}
			return gone
		})
		if lost > r.Checkpoint.Seq {
			v.note("the database was put back to record %d at %s: the records %d to %d of before are lost", r.Checkpoint.Seq, r.Time.Format(time.RFC3339), r.Checkpoint.Seq+1, lost)
		}
	}
}

// Record looks at the next record and the hash that is kept with it. After the first problem it looks at nothing more.
func (v *Verifier) Record(r Record, hash Hash) *Problem {
	if v.problem != nil {
		return v.problem
	}
	if v.report.Records == 0 {
		v.first(r)
	} else if r.Seq != v.report.Last+1 {
		v.order(r)
	}
	if v.problem != nil {
		return v.problem
	}
	want, err := Next(v.prev, r)
	switch {
	case err != nil:
		return v.fail(r.Seq, "it was changed: %v", err)
	case want != hash:
		return v.fail(r.Seq, "it, or what is before it, was changed: its hash is %.16s…, and what is there comes to %.16s…", hash, want)
	}
	if v.report.Records == 0 {
		v.report.First = r.Seq
	}
	v.report.Records++
	v.report.Last, v.prev = r.Seq, hash
	if v.report.Unsigned++; v.report.Unsigned == 1 {
		v.report.Since = r.Time
	}
	return v.at(r.Seq, hash)
}

// first settles what is before the first record.
func (v *Verifier) first(r Record) {
	if v.begin != nil {
		v.prev, v.good = *v.begin, r.Seq-1
		cut := false
		for v.next < len(v.checkpoints) && v.checkpoints[v.next].Checkpoint.Seq < r.Seq {
			if c := v.checkpoints[v.next]; c.Checkpoint.Seq == r.Seq-1 {
				if c.Hash != v.prev {
					v.fail(c.Checkpoint.Seq, "what was exported begins after another record than the one that the checkpoint in %s is of", c.Where)
				}
				cut = cut || c.Kind == Cut
			}
			v.next++
		}
		if cut {
			v.note("the records up to %d were removed in good order", r.Seq-1)
		} else {
			v.note("the records before %d are not looked at", r.Seq)
		}
		return
	}
	closed := false
	for ; v.next < len(v.checkpoints) && v.checkpoints[v.next].Checkpoint.Seq < r.Seq; v.next++ {
		if c := v.checkpoints[v.next]; c.Checkpoint.Seq == r.Seq-1 && c.Kind == Cut {
			closed, v.prev = true, c.Hash
			v.good = c.Checkpoint.Seq
		}
	}
	switch {
	case closed:
		v.note("the records up to %d were removed in good order", r.Seq-1)
	case r.Seq > 1:
		v.fail(1, "it is missing; the first one that is there is %d, and no signed checkpoint says that what is before it was removed in good order", r.Seq)
	case r.Seq < 1:
		v.fail(r.Seq, "records are numbered from 1 on")
	}
}

func (v *Verifier) order(r Record) {
	last := v.report.Last
	switch {
	case r.Seq > last+1:
		v.fail(last+1, "it is missing; after %d comes %d", last, r.Seq)
	default:
		v.fail(r.Seq, "it comes after record %d: twice, or out of order", last)
	}
}

// at holds the chain against the checkpoints of a record.
func (v *Verifier) at(seq int64, hash Hash) *Problem {
	for ; v.next < len(v.checkpoints) && v.checkpoints[v.next].Checkpoint.Seq <= seq; v.next++ {
		c := v.checkpoints[v.next]
		if c.Hash != hash {
			return v.fail(v.good+1, "it, or one up to %d, was changed and everything after it hashed again: the checkpoint of record %d in %s, of %s, says otherwise",
				seq, seq, c.Where, c.Time.Format(time.RFC3339))
		}
		v.report.Checkpoints++
		v.good = seq
		v.report.Signed, v.report.SignedAt = seq, c.Time
		v.report.Unsigned, v.report.Since = 0, time.Time{}
	}
	return nil
}

// Unreadable says that what comes next cannot be read.
func (v *Verifier) Unreadable(err error) *Problem {
	if v.problem != nil {
		return v.problem
	}
	if v.report.Records == 0 {
		return v.fail(0, "the first record cannot be read: %v", err)
	}
	return v.fail(v.report.Last+1, "it cannot be read: %v", err)
}

// End looks whether something is missing at the end.
func (v *Verifier) End() (Report, *Problem) {
	if v.problem != nil || v.next >= len(v.checkpoints) {
		return v.report, v.problem
	}
	last := v.checkpoints[len(v.checkpoints)-1]
	if v.report.Records == 0 {
		if v.begin == nil || last.Kind != Cut {
			v.fail(1, "it is missing: there are no records, and the checkpoint in %s, of %s, is of record %d", last.Where, last.Time.Format(time.RFC3339), last.Checkpoint.Seq)
		}
		return v.report, v.problem
	}
	v.cutOff(last.Checkpoint.Seq, fmt.Sprintf("the checkpoint in %s, of %s, is of record %d", last.Where, last.Time.Format(time.RFC3339), last.Checkpoint.Seq))
	return v.report, v.problem
}

// Known says that there is a record: what is kept beside the chain names it. It is for [Verifier.End], which finds an end that was cut off.
func (v *Verifier) Known(seq int64, how string) {
	if v.problem == nil && seq > v.report.Last && v.next >= len(v.checkpoints) { // else a checkpoint tells of it, which is signed
		v.cutOff(seq, how)
	}
}

// cutOff says that the end of the chain is missing.
func (v *Verifier) cutOff(last int64, how string) {
	if first := v.report.Last + 1; first < last {
		v.fail(first, "it is missing, and so are all up to %d: the chain ends at %d, and %s", last, v.report.Last, how)
		return
	}
	v.fail(last, "it is missing: the chain ends at %d, and %s", v.report.Last, how)
}

func (v *Verifier) note(format string, a ...any) {
	v.report.Notes = append(v.report.Notes, fmt.Sprintf(format, a...))
}

func (v *Verifier) fail(seq int64, format string, a ...any) *Problem {
	v.problem = &Problem{Seq: seq, Why: fmt.Sprintf(format, a...)}
	return v.problem
}

func keyIDs(keys []ed25519.PublicKey) (out []string) {
	for _, k := range keys {
		out = append(out, KeyID(k))
	}
	return out
}
