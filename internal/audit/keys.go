package audit

import (
	"cmp"
	"crypto/ed25519"
	"slices"
	"time"
)

// succession is how one key follows another one.
type succession struct {
	before, after ed25519.PublicKey
	seq           int64     // the record at which it does
	time          time.Time // when
	lost          bool      // the key before was lost, and has not agreed
}

// findLinks finds which keys follow which: where both have signed that, at one and the same record, or where one says that the one before it
// was lost. What only one of them says of the other counts for nothing.
func findLinks(checkpoints []Found) (links []succession) {
	for _, taking := range checkpoints {
		if taking.Kind != Taking && taking.Kind != Lost {
			continue
		}
		before, err := ParseKey(taking.Other)
		if err != nil || before.Equal(taking.Key) {
			continue
		}
		l := succession{before: before, after: taking.Key, seq: taking.Checkpoint.Seq, time: taking.Time, lost: taking.Kind == Lost}
		if taking.Kind == Taking && slices.ContainsFunc(checkpoints, func(c Found) bool {
			return c.Kind == Retiring && c.Key.Equal(before) && c.Other == FormatKey(taking.Key) && c.Checkpoint.Seq == taking.Checkpoint.Seq && c.Hash == taking.Hash && !c.Time.After(taking.Time)
		}) {
			links = append(links, l)
		}
		if taking.Kind == Lost {
			links = append(links, l)
		}
	}
	slices.SortStableFunc(links, func(a, b succession) int { return a.time.Compare(b.time) })
	return slices.CompactFunc(links, func(a, b succession) bool {
		return a.before.Equal(b.before) && a.after.Equal(b.after) && a.seq == b.seq && a.lost == b.lost
	})
}

// Trusted gives all keys that checkpoints may be signed with where some are accepted: those that follow them, with the signature of the one before,
// and those that they have followed.
func Trusted(accept []ed25519.PublicKey, checkpoints []Found) []ed25519.PublicKey {
	return trusted(accept, findLinks(checkpoints))
}

func trusted(accept []ed25519.PublicKey, links []succession) []ed25519.PublicKey {
	all := slices.Clone(accept)
	for known := -1; known < len(all); {
		known = len(all)
		for _, l := range links {
			before, after := hasKey(all, l.before), hasKey(all, l.after)
			if after && !before {
				all = append(all, l.before)
			}
			if before && !after && !l.lost { // who only says that a key was lost may be anybody
				all = append(all, l.after)
			}
		}
	}
	return all
}

func hasKey(keys []ed25519.PublicKey, key ed25519.PublicKey) bool {
	return slices.ContainsFunc(keys, func(k ed25519.PublicKey) bool { return k.Equal(key) })
}

// checkKeys looks whether each checkpoint is signed with a key that may, at its time.
func (v *Verifier) checkKeys() {
	oldest := slices.Clone(v.checkpoints)
	slices.SortStableFunc(oldest, func(a, b Found) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Checkpoint.Seq, b.Checkpoint.Seq))
	})
	for _, c := range oldest { // before anything that they say is believed
		if err := c.Check(); err != nil {
			v.fail(c.Checkpoint.Seq, "the checkpoint of this record in %s was changed: %v", c.Where, err)
			return
		}
	}
	if len(v.accept) == 0 && len(oldest) > 0 {
		v.accept = []ed25519.PublicKey{oldest[0].Key}
		v.note("no key was given: the checkpoints are held against the key %s of the first one", KeyID(oldest[0].Key))
	}
	v.links = findLinks(oldest)
	may := trusted(v.accept, v.links)
	for _, c := range oldest {
		if !v.mayHaveSigned(c, may) {
			return
		}
		if id := KeyID(c.Key); !slices.Contains(v.report.Keys, id) {
			v.report.Keys = append(v.report.Keys, id)
		}
	}
	for _, l := range v.links {
		switch {
		case !hasKey(may, l.after):
		case l.lost:
			v.note("the key %s was lost at record %d: that %s follows it is said by nobody but %[3]s itself", KeyID(l.before), l.seq, KeyID(l.after))
		default:
			v.note("the key %s was followed by %s at record %d, with the signatures of both", KeyID(l.before), KeyID(l.after), l.seq)
		}
	}
}

// mayHaveSigned looks at the key of one checkpoint.
func (v *Verifier) mayHaveSigned(c Found, may []ed25519.PublicKey) bool {
	if !hasKey(may, c.Key) {
		why := ""
		for _, l := range v.links {
			if l.after.Equal(c.Key) && l.lost && hasKey(may, l.before) {
				why = "; it says itself that " + KeyID(l.before) + " was lost, and nobody else does: if you know that this is so, name it with --key " + FormatKey(l.after)
			}
		}
		v.fail(c.Checkpoint.Seq, "the checkpoint of this record in %s, of %s, is signed with another key: %s, and not %s%s",
			c.Where, c.Time.Format(time.RFC3339), KeyID(c.Key), keyIDs(v.accept), why)
		return false
	}
	for _, l := range v.links {
		if l.before.Equal(c.Key) && c.Time.After(l.time) && hasKey(may, l.after) {
			v.fail(c.Checkpoint.Seq, "the checkpoint of this record in %s, of %s, is signed with the key %s, which %s has followed at record %d, at %s",
				c.Where, c.Time.Format(time.RFC3339), KeyID(c.Key), KeyID(l.after), l.seq, l.time.Format(time.RFC3339))
			return false
		}
	}
	return true
}

// checkRetired refuses what a key says of records after the one at which another key has followed it: who has an old key can write any time.
func (v *Verifier) checkRetired() {
	may := trusted(v.accept, v.links)
	for _, c := range v.checkpoints {
		for _, l := range v.links {
			if l.before.Equal(c.Key) && c.Checkpoint.Seq > l.seq && hasKey(may, l.after) {
				v.fail(c.Checkpoint.Seq, "the checkpoint of this record in %s, of %s, is signed with the key %s, which %s has followed at record %d already",
					c.Where, c.Time.Format(time.RFC3339), KeyID(c.Key), KeyID(l.after), l.seq)
				return
			}
		}
	}
}
