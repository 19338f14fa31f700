package audit

import (
	"crypto/ed25519"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

// rotate gives the two checkpoints by which a key follows another one at a record.
func rotate(t testing.TB, old, fresh ed25519.PrivateKey, l link) []Found {
	t.Helper()
	retiring, taking, err := Rotate(old, fresh, Checkpoint{Seq: l.record.Seq, Hash: l.hash, Time: l.record.Time.Add(2 * time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	return []Found{{retiring, "the database"}, {taking, "the database"}}
}

// signAs signs a checkpoint of a record at a time of its own.
func signAs(t testing.TB, k ed25519.PrivateKey, l link, c Checkpoint) Found {
	t.Helper()
	c.Seq, c.Hash = l.record.Seq, l.hash
	s, err := Sign(k, c)
	if err != nil {
		t.Fatal(err)
	}
	return Found{s, "the witness"}
}

// TestRotation: who knows one key follows it to the others, forwards and backwards, and a rotation that one of the two keys has not signed is none.
func TestRotation(t *testing.T) {
	l := chain(t, 12)
	public := func(n byte) ed25519.PublicKey { return key(n).Public().(ed25519.PublicKey) }
	plain := func(n int, k byte) Found {
		return signAs(t, key(k), l[n-1], Checkpoint{Time: l[n-1].record.Time.Add(time.Hour * time.Duration(n))})
	}
	at := func(n int) time.Time { return l[n-1].record.Time.Add(time.Hour * time.Duration(n)) }
	turn := func(n int, old, fresh byte) []Found {
		retiring, taking, err := Rotate(key(old), key(fresh), Checkpoint{Seq: l[n-1].record.Seq, Hash: l[n-1].hash, Time: at(n)})
		if err != nil {
			t.Fatal(err)
		}
		return []Found{{retiring, "the database"}, {taking, "the witness"}}
	}
	all := slices.Concat([]Found{plain(3, 1)}, turn(5, 1, 2), []Found{plain(6, 2)}, turn(8, 2, 3), []Found{plain(10, 3)})
	first, third := []ed25519.PublicKey{public(1)}, []ed25519.PublicKey{public(3)}
	lost := func(n int, k, before byte) Found {
		return signAs(t, key(k), l[n-1], Checkpoint{Time: at(n), Kind: Lost, Other: FormatKey(public(before))})
	}
	forged := turn(5, 1, 2)
	forged[0].Key = public(9) // somebody else's
	claimed := turn(5, 9, 2)
	claimed[0].Key = public(1) // the old key did not sign it
	changed := turn(5, 1, 2)
	changed[0].Other = FormatKey(public(9))
	backdated := signAs(t, key(1), l[10], Checkpoint{Time: at(4)})
	rewritten := chain(t, 12)
	rewritten[3].record.Detail = "something else"
	rehash(t, rewritten, 3)
	thief := func(n int) Found { return signAs(t, key(1), rewritten[n-1], Checkpoint{Time: at(n)}) }
	stolen, _, _ := Rotate(key(1), key(2), Checkpoint{Seq: 5, Hash: rewritten[4].hash, Time: at(5)})

	for _, c := range []struct {
		name   string
		accept []ed25519.PublicKey
		found  []Found
		links  []link
		want   string
	}{
		{"from the first key on", first, all, l, "ok 1-12 signed 10"},
		{"back from the last key", third, all, l, "ok 1-12 signed 10"},
		{"no key given", nil, all, l, "ok 1-12 signed 10"},
		{"at one record twice", first, slices.Concat(turn(5, 1, 2), []Found{plain(6, 2)}, turn(8, 2, 1), []Found{plain(10, 1)}), l,
			"record 8: the checkpoint of this record in the witness, of 2026-03-01T20:00:07Z, is signed with the key " + KeyID(public(1)) + ", which " + KeyID(public(2)) + " has followed at record 5"},

		{"the old key alone", first, append(turn(5, 1, 2)[:1], plain(6, 2)), l, "record 6: the checkpoint of this record in the witness, of 2026-03-01T18:00:05Z, is signed with another key"},
		{"the new key alone", first, append(turn(5, 1, 2)[1:], plain(6, 2)), l, "record 5: the checkpoint of this record in the witness"},
		{"the new key alone, which is known", []ed25519.PublicKey{public(2)}, append(turn(5, 1, 2)[1:], plain(3, 1)), l, "record 3: the checkpoint of this record in the witness"},
		{"a key that nobody knows names the known one", third, append(turn(5, 9, 3)[:1], plain(3, 9), plain(10, 3)), l, "record 3: the checkpoint"},
		{"two of another record", first, []Found{turn(5, 1, 2)[0], turn(6, 1, 2)[1]}, l, "record 6: the checkpoint"},
		{"as if another key had signed it", first, forged, l, "record 5: the checkpoint of this record in the database was changed: its signature is wrong"},
		{"as if the old key had signed it", first, claimed, l, "record 5: the checkpoint of this record in the database was changed: its signature is wrong"},
		{"it names another one", first, changed, l, "record 5: the checkpoint of this record in the database was changed: its signature is wrong"},

		{"the old key goes on", first, append(turn(5, 1, 2), plain(7, 1)), l, "record 7: the checkpoint of this record in the witness, of 2026-03-01T19:00:06Z, is signed with the key " + KeyID(public(1)) + ", which"},
		{"the old key goes on, at a time of before", first, append(turn(5, 1, 2), backdated), l, "record 11: the checkpoint of this record in the witness, of 2026-03-01T16:00:03Z, is signed with the key " + KeyID(public(1)) + ", which " + KeyID(public(2)) + " has followed at record 5 already"},
		{"who has the old key writes all of it again", third, slices.Concat([]Found{thief(3), {stolen, "the database"}}, turn(5, 1, 2)[1:], turn(8, 2, 3)), rewritten, "record "},

		{"lost, by the new key", []ed25519.PublicKey{public(2)}, []Found{plain(3, 1), plain(4, 2), lost(5, 2, 1), plain(6, 2)}, l, "ok 1-12 signed 6"},
		{"lost, by both keys", []ed25519.PublicKey{public(1), public(2)}, []Found{plain(3, 1), lost(5, 2, 1), plain(6, 2)}, l, "ok 1-12 signed 6"},
		{"lost, by the old key", first, []Found{plain(3, 1), lost(5, 2, 1)}, l, "record 5: the checkpoint of this record in the witness, of 2026-03-01T17:00:04Z, is signed with another key: " +
			KeyID(public(2)) + ", and not [" + KeyID(public(1)) + "]; it says itself that " + KeyID(public(1)) + " was lost, and nobody else does"},
		{"lost, and found by somebody", []ed25519.PublicKey{public(2)}, []Found{plain(3, 1), lost(5, 2, 1), plain(6, 1)}, l, "record 6: the checkpoint"},
	} {
		got, report := looked(c.accept, c.found, c.links)
		if !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: have %s\nwant %s", c.name, got, c.want)
		}
		if notes := strings.Join(report.Notes, "\n"); c.name == "from the first key on" && strings.Count(notes, "with the signatures of both") != 2 ||
			c.name == "lost, by the new key" && !strings.Contains(notes, "was lost at record 5: that "+KeyID(public(2))+" follows it is said by nobody but "+KeyID(public(2))) {
			t.Errorf("%s: %s", c.name, notes)
		}
	}
	if n := len(Trusted(first, all)); n != 3 {
		t.Errorf("%d keys", n)
	}
	// After the database was put back, the new key signs records with smaller numbers.
	restored := signAs(t, key(2), l[2], Checkpoint{Time: at(9), Kind: Restored})
	if got, _ := looked(first, append(turn(5, 1, 2), restored, signAs(t, key(2), l[3], Checkpoint{Time: at(10)})), l[:4]); got != "ok 1-4 signed 4" {
		t.Error(got)
	}
}

// TestRotationJSON: what has no other key is written as before, and what names one has to.
func TestRotationJSON(t *testing.T) {
	l := chain(t, 1)
	both := rotate(t, key(1), key(2), l[0])
	text, err := json.Marshal(both[0].Signed)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParseSigned(text); err != nil || !again.Same(both[0].Signed) || again.Check() != nil {
		t.Errorf("%s: %v", text, err)
	}
	plain, _ := json.Marshal(sign(t, key(1), l[0], Plain, "").Signed)
	if strings.Contains(string(plain), "other") {
		t.Errorf("%s", plain)
	}
	for _, bad := range []string{
		strings.Replace(string(text), `"kind":"retire"`, `"kind":""`, 1),
		strings.Replace(string(plain), `"kind":""`, `"kind":"take"`, 1),
		strings.Replace(string(text), `"other":"`, `"other":"A`, 1),
	} {
		if _, err := ParseSigned([]byte(bad)); err == nil {
			t.Errorf("%s is read", bad)
		}
	}
}

// TestUnsigned: what comes after the last checkpoint is counted, and since when.
func TestUnsigned(t *testing.T) {
	l := chain(t, 10)
	_, report := looked(nil, []Found{sign(t, key(1), l[6], Plain, "the witness")}, l)
	if report.Unsigned != 3 || !report.Since.Equal(l[7].record.Time) {
		t.Errorf("%+v", report)
	}
	if _, report = looked(nil, []Found{sign(t, key(1), l[9], Plain, "the witness")}, l); report.Unsigned != 0 || !report.Since.IsZero() {
		t.Errorf("%+v", report)
	}
	if _, report = looked(nil, nil, l); report.Unsigned != 10 || !report.Since.Equal(day) {
		t.Errorf("%+v", report)
	}
	v := NewVerifier(nil, nil)
	for _, x := range l {
		v.Record(x.record, x.hash)
	}
	v.Known(12, "the name of p_1 stands in record 12")
	if _, p := v.End(); p == nil || p.Error() != "record 11: it is missing, and so are all up to 12: the chain ends at 10, and the name of p_1 stands in record 12" {
		t.Error(p)
	}
}
