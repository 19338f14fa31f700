package audit

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"
)

var day = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// key is a test's key; each number gives another one.
func key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

type link struct {
	record Record
	hash   Hash
}

// chain makes n records.
func chain(t testing.TB, n int) []link {
	t.Helper()
	var out []link
	var prev Hash
	for i := range int64(n) {
		r := Record{
			Seq: i + 1, Time: day.Add(time.Duration(i) * time.Second), Actor: PersonID([]byte{1, 2, byte(i % 3)}), Action: "pipeline.play",
			Object: fmt.Sprintf("pipeline/%d", i), Project: "acme/shop", Environment: "production", Outcome: Asked, Detail: "jobs: build, dépl<oy>", Address: AddressID([]byte{byte(i)}),
		}
		hash, err := Next(prev, r)
		if err != nil {
			t.Fatal(err)
		}
		out, prev = append(out, link{r, hash}), hash
	}
	return out
}

// rehash hashes a chain again from a record on, as somebody would who has changed it.
func rehash(t testing.TB, links []link, from int) {
	t.Helper()
	for i := from; i < len(links); i++ {
		var prev Hash
		if i > 0 {
			prev = links[i-1].hash
		}
		var err error
		if links[i].hash, err = Next(prev, links[i].record); err != nil {
			t.Fatal(err)
		}
	}
}

func sign(t testing.TB, k ed25519.PrivateKey, l link, kind string, where string) Found {
	t.Helper()
	s, err := Sign(k, Checkpoint{Seq: l.record.Seq, Hash: l.hash, Time: l.record.Time.Add(time.Minute), Kind: kind})
	if err != nil {
		t.Fatal(err)
	}
	return Found{s, where}
}

// looked verifies a chain and says what came out in a line.
func looked(accept []ed25519.PublicKey, checkpoints []Found, links []link) (string, Report) {
	v := NewVerifier(accept, checkpoints)
	for _, l := range links {
		if p := v.Record(l.record, l.hash); p != nil {
			return p.Error(), Report{}
		}
	}
	r, p := v.End()
	if p != nil {
		return p.Error(), r
	}
	return fmt.Sprintf("ok %d-%d signed %d", r.First, r.Last, r.Signed), r
}

// TestCanonical has the examples of RFC 8785: sections 3.2.2 and 3.2.3, and appendix B.
func TestCanonical(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{
			"3.2.2", `{
  "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
  "literals": [null, true, false]
}`, `{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}`,
		},
		{
			"3.2.3", `{
  "\u20ac": "Euro Sign",
  "\r": "Carriage Return",
  "\ufb33": "Hebrew Letter Dalet With Dagesh",
  "1": "One",
  "\ud83d\ude00": "Emoji: Grinning Face",
  "\u0080": "Control",
  "\u00f6": "Latin Small Letter O With Diaeresis"
}`, "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u0080\":\"Control\",\"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\",\"😀\":\"Emoji: Grinning Face\",\"\ufb33\":\"Hebrew Letter Dalet With Dagesh\"}",
		},
		{"no HTML is escaped", `["<a href='x'>&</a>","\u2028"]`, "[\"<a href='x'>&</a>\",\"\u2028\"]"},
	} {
		got, err := canonical(json.RawMessage(c.in))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %v\nhave %s\nwant %s", c.name, err, got, c.want)
		}
	}
	for bits, want := range map[uint64]string{ // appendix B
		0x0000000000000000: "0", 0x8000000000000000: "0", 0x0000000000000001: "5e-324", 0x8000000000000001: "-5e-324",
		0x7fefffffffffffff: "1.7976931348623157e+308", 0xffefffffffffffff: "-1.7976931348623157e+308",
		0x4340000000000000: "9007199254740992", 0xc340000000000000: "-9007199254740992", 0x4430000000000000: "295147905179352830000",
		0x44b52d02c7e14af5: "9.999999999999997e+22", 0x44b52d02c7e14af6: "1e+23", 0x44b52d02c7e14af7: "1.0000000000000001e+23",
		0x444b1ae4d6e2ef4e: "999999999999999700000", 0x444b1ae4d6e2ef4f: "999999999999999900000", 0x444b1ae4d6e2ef50: "1e+21",
		0x3eb0c6f7a0b5ed8c: "9.999999999999997e-7", 0x3eb0c6f7a0b5ed8d: "0.000001",
		0x41b3de4355555553: "333333333.3333332", 0x41b3de4355555554: "333333333.33333325", 0x41b3de4355555555: "333333333.3333333",
		0x41b3de4355555556: "333333333.3333334", 0x41b3de4355555557: "333333333.33333343", 0xbecbf647612f3696: "-0.0000033333333333333333",
		0x43143ff3c1cb0959: "1424953923781206.2",
	} {
		text := strconv.FormatFloat(math.Float64frombits(bits), 'e', -1, 64)
		if got, err := canonical(json.RawMessage(text)); err != nil || string(got) != want {
			t.Errorf("%x: %s, want %s (%v)", bits, got, want, err)
		}
	}
}

// TestGoldenRecord holds what is hashed: chains that exist would break with another form.
func TestGoldenRecord(t *testing.T) {
	l := chain(t, 2)
	text, err := l[1].record.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"action":"pipeline.play","actor":"p_010201","address":"a_01","detail":"jobs: build, dépl<oy>","environment":"production",` +
		`"object":"pipeline/1","outcome":"asked","project":"acme/shop","seq":2,"time":"2026-03-01T12:00:01.000000Z","v":1}`
	if string(text) != want {
		t.Errorf("have %s\nwant %s", text, want)
	}
	const hash = "e968d184d6ed9eba42da6f1c7a84fac142034a86245f9566a4d2964e317d0589" // computed by another program
	if l[1].hash.String() != hash {
		t.Errorf("hash %s", l[1].hash)
	}
	again, err := ParseRecord(text)
	if err != nil || again != l[1].record {
		t.Errorf("%+v %v", again, err)
	}
	bad := l[1].record
	bad.Detail = "\xff"
	if _, err := bad.Canonical(); err == nil {
		t.Error("what is not UTF-8 has a hash")
	}
	for _, text := range []string{
		"", "{}", "null", "[]", want[:len(want)-1],
		strings.Replace(want, `"seq":2`, `"seq":2,"seq":3`, 1), strings.Replace(want, `"seq":2`, `"Seq":2`, 1), strings.Replace(want, `"v":1`, `"v":1,"x":1`, 1),
		strings.Replace(want, `"v":1`, `"v":2`, 1), strings.Replace(want, `00Z"`, `00+00:00"`, 1), strings.Replace(want, `.000000Z"`, `Z"`, 1), strings.Replace(want, `"seq":2`, `"seq":"2"`, 1),
		strings.Replace(want, `"seq":2`, `"seq":9007199254740993`, 1), strings.Replace(want, `"seq":2`, `"seq":9007199254740992`, 1), strings.Replace(want, `"seq":2`, `"seq":-2`, 1),
	} {
		if r, err := ParseRecord([]byte(text)); err == nil {
			t.Errorf("%s is taken for a record: %+v", text, r)
		}
	}
}

func TestUrgent(t *testing.T) {
	for action, want := range map[string]bool{
		"login": false, "logout": false, "git.push": false, "pipeline.create": false, "pipeline.play": true, "environment.rollback": true, "app.rollback": true, "app.confirm": true,
		"user.add": true, "token.remove": true, "audit.erase": true, "audit.export": false, "store.restore": true,
	} {
		if got := (Record{Action: action, Outcome: Done}).Urgent(); got != want {
			t.Errorf("%s: %v", action, got)
		}
	}
	if !(Record{Action: "login", Outcome: Refused}).Urgent() {
		t.Error("a login that was refused is not")
	}
}

func TestClean(t *testing.T) {
	long := strings.Repeat("é", 1000)
	for _, c := range []struct{ in, want Entry }{
		{Entry{}, Entry{Actor: Self, Outcome: Done}},
		{Entry{Actor: "ann", Action: "login", Outcome: Refused, Detail: "two\nlines\x00\u2028<b>"}, Entry{Actor: "ann", Action: "login", Outcome: Refused, Detail: "two lines  <b>"}},
		{Entry{Actor: "a\xffb", Detail: "from https://bob:hunter2@git.example.com/a.git"}, Entry{Actor: "a\uFFFDb", Outcome: Done, Detail: "from https://git.example.com/a.git"}},
		{Entry{Object: long, Detail: long}, Entry{Actor: Self, Outcome: Done, Object: strings.Repeat("é", 148) + "…", Detail: strings.Repeat("é", 498) + "…"}},
	} {
		if got := c.in.Clean(); got != c.want {
			t.Errorf("have %+v\nwant %+v", got, c.want)
		}
	}
}

// TestTampering changes every field of a record in the middle, with and without hashing everything again, and removes, swaps and adds.
func TestTampering(t *testing.T) {
	type change struct {
		name string
		do   func(*Record)
	}
	fields := []change{
		{"time", func(r *Record) { r.Time = r.Time.Add(time.Microsecond) }},
		{"actor", func(r *Record) { r.Actor = "p_0102ff" }},
		{"action", func(r *Record) { r.Action = "pipeline.cancel" }},
		{"object", func(r *Record) { r.Object += "0" }},
		{"project", func(r *Record) { r.Project = "" }},
		{"environment", func(r *Record) { r.Environment = "staging" }},
		{"outcome", func(r *Record) { r.Outcome = Refused }},
		{"detail", func(r *Record) { r.Detail += " " }},
		{"address", func(r *Record) { r.Address = "" }},
		{"not UTF-8", func(r *Record) { r.Detail = "\xff" }},
	}
	clean := func(t *testing.T) ([]link, []Found) {
		l := chain(t, 10)
		return l, []Found{sign(t, key(1), l[3], Plain, "the database"), sign(t, key(1), l[7], Plain, "the witness")}
	}
	accept := []ed25519.PublicKey{key(1).Public().(ed25519.PublicKey)}
	l, found := clean(t)
	if got, _ := looked(accept, found, l); got != "ok 1-10 signed 8" {
		t.Fatal(got)
	}
	for _, f := range fields {
		l, found := clean(t)
		f.do(&l[5].record)
		if got, _ := looked(accept, found, l); !strings.HasPrefix(got, "record 6: it") {
			t.Errorf("%s: %s", f.name, got)
		}
		if f.name == "not UTF-8" {
			continue
		}
		rehash(t, l, 5)
		if got, _ := looked(accept, found, l); !strings.HasPrefix(got, "record 5: it, or one up to 8, was changed and everything after it hashed again: the checkpoint of record 8 in the witness") {
			t.Errorf("%s, hashed again: %s", f.name, got)
		}
	}
	for _, c := range []struct {
		name string
		do   func([]link) []link
		want string
	}{
		{"a hash", func(l []link) []link { l[5].hash[3] ^= 1; return l }, "record 6: it, or what is before it, was changed"},
		{"one is gone", func(l []link) []link { return append(l[:5], l[6:]...) }, "record 6: it is missing; after 5 comes 7"},
		{"one is gone, and the others numbered and hashed again", func(l []link) []link {
			l = append(l[:5], l[6:]...)
			for i := range l {
				l[i].record.Seq = int64(i + 1)
			}
			rehash(t, l, 5)
			return l
		}, "record 5: it, or one up to 8"},
		{"the first is gone", func(l []link) []link { return l[1:] }, "record 1: it is missing; the first one that is there is 2"},
		{"two are swapped", func(l []link) []link { l[5], l[6] = l[6], l[5]; return l }, "record 6: it is missing; after 5 comes 7"},
		{"two have each other's number", func(l []link) []link {
			l[5], l[6] = l[6], l[5]
			l[5].record.Seq, l[6].record.Seq = 6, 7
			return l
		}, "record 6: it, or what is before it"},
		{"one is there twice", func(l []link) []link { return append(l[:6:6], l[5:]...) }, "record 6: it comes after record 6"},
		{"the end is cut off before the last checkpoint", func(l []link) []link { return l[:7] }, "record 8: it is missing: the chain ends at 7, and the checkpoint in the witness"}, // of the last one alone
		{"more of the end is cut off", func(l []link) []link { return l[:5] }, "record 6: it is missing, and so are all up to 8: the chain ends at 5, and the checkpoint in the witness"},
		{"everything is gone", func([]link) []link { return nil }, "record 1: it is missing: there are no records"},
		{"the end is cut off after the last checkpoint", func(l []link) []link { return l[:8] }, "ok 1-8 signed 8"}, // nothing proves what was there
		{"one is added", func(l []link) []link {
			extra := l[9]
			extra.record.Seq = 11
			return append(l, extra)
		}, "record 11: it, or what is before it, was changed"},
	} {
		l, found := clean(t)
		if got, _ := looked(accept, found, c.do(l)); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: have %s\nwant %s", c.name, got, c.want)
		}
	}
}

// TestCheckpoints is about what is wrong with these, and about what they allow.
func TestCheckpoints(t *testing.T) {
	l := chain(t, 10)
	first, second := key(1).Public().(ed25519.PublicKey), key(2).Public().(ed25519.PublicKey)
	at := func(n int, k byte, kind string) Found { return sign(t, key(k), l[n-1], kind, "the witness") }
	forged := at(8, 1, Plain)
	forged.Kind = Cut
	moved := at(8, 1, Plain)
	moved.Checkpoint.Seq = 7
	later := at(9, 1, Plain)
	restored := at(6, 1, Restored)
	restored.Time = later.Time.Add(time.Hour)
	restored.Signed, _ = Sign(key(1), restored.Checkpoint)
	early := at(6, 1, Restored)
	early.Time = later.Time.Add(-time.Hour)
	early.Signed, _ = Sign(key(1), early.Checkpoint)
	for _, c := range []struct {
		name   string
		accept []ed25519.PublicKey
		found  []Found
		links  []link
		want   string
	}{
		{"none", nil, nil, l, "ok 1-10 signed 0"},
		{"no records, none", nil, nil, nil, "ok 0-0 signed 0"},
		{"a key of nobody", nil, []Found{at(4, 1, Plain), at(8, 1, Plain)}, l, "ok 1-10 signed 8"},
		{"another key", []ed25519.PublicKey{first}, []Found{at(4, 1, Plain), at(8, 2, Plain)}, l, "record 8: the checkpoint of this record in the witness, of 2026-03-01T12:01:07Z, is signed with another key: " + KeyID(second)},
		{"another key than the first one's", nil, []Found{at(4, 1, Plain), at(8, 2, Plain)}, l, "record 8: the checkpoint"},
		{"two keys", []ed25519.PublicKey{first, second}, []Found{at(4, 1, Plain), at(8, 2, Plain)}, l, "ok 1-10 signed 8"},
		{"another kind than was signed", nil, []Found{forged}, l, "record 8: the checkpoint of this record in the witness was changed: its signature is wrong"},
		{"another record than was signed", nil, []Found{moved}, l, "record 7: the checkpoint of this record in the witness was changed"},
		{"one twice", nil, []Found{at(4, 1, Plain), at(4, 1, Plain)}, l, "ok 1-10 signed 4"},
		{"cut in good order", nil, []Found{at(4, 1, Plain), at(6, 1, Cut), at(8, 1, Plain)}, l[6:], "ok 7-10 signed 8"},
		{"cut, but nothing is removed", nil, []Found{at(6, 1, Cut)}, l, "ok 1-10 signed 6"},
		{"cut, and one more is removed", nil, []Found{at(6, 1, Cut)}, l[7:], "record 1: it is missing; the first one that is there is 8"},
		{"cut, and one was changed", nil, []Found{at(6, 1, Cut)}, append([]link{{l[7].record, l[6].hash}}, l[7:]...), "record 1: it is missing; the first one that is there is 8"},
		{"a plain one cuts nothing", nil, []Found{at(6, 1, Plain)}, l[6:], "record 1: it is missing; the first one that is there is 7"},
		{"put back", nil, []Found{at(4, 1, Plain), later, restored}, l[:6], "ok 1-6 signed 6"},
		{"put back before", nil, []Found{at(4, 1, Plain), later, early}, l[:6], "record 7: it is missing"},
	} {
		got, report := looked(c.accept, c.found, c.links)
		if !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: have %s\nwant %s", c.name, got, c.want)
		}
		if c.name == "put back" && (len(report.Notes) != 2 || !strings.Contains(report.Notes[1], "the records 7 to 9 of before are lost")) {
			t.Errorf("%q", report.Notes)
		}
	}
}

func TestSignedJSON(t *testing.T) {
	l := chain(t, 1)
	s := sign(t, key(1), l[0], Cut, "").Signed
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseSigned(text)
	if err != nil || !again.Same(s) || again.Check() != nil {
		t.Fatalf("%s: %+v %v", text, again, err)
	}
	for _, c := range []struct{ old, new string }{
		{`"kind":"cut"`, `"kind":"restore"`}, {`"seq":1`, `"seq":2`}, {`"time":"2026`, `"time":"2025`}, {`"hash":"`, `"hash":"0`}, {`"v":1`, `"v":2`}, {`"seq":1`, `"seq":1,"seq":1`},
		{`"signature":"`, `"signature":"AA`}, {`{`, `[`},
	} {
		changed := strings.Replace(string(text), c.old, c.new, 1)
		if got, err := ParseSigned([]byte(changed)); err == nil && got.Check() == nil {
			t.Errorf("%s is taken for a good one", changed)
		}
	}
	if _, err := ParseSigned(bytes.Repeat([]byte(" "), maxCheckpoint+1)); err == nil {
		t.Error("a huge one is read")
	}
	if k, err := ParseKey(FormatKey(s.Key)); err != nil || !k.Equal(s.Key) {
		t.Error(err)
	}
	if _, err := ParseKey(hex.EncodeToString(s.Key)); err == nil {
		t.Error("hex is taken for base64")
	}
}

// export writes links with checkpoints.
func export(t testing.TB, links []link, header Header, checkpoints ...Found) string {
	t.Helper()
	var b strings.Builder
	put := func(l Line) {
		if err := WriteLine(&b, l); err != nil {
			t.Fatal(err)
		}
	}
	put(Line{Header: &header})
	put(Line{Name: &Name{"p_010200", "Ann <ann@example.com>"}})
	var end End
	for _, l := range links {
		put(Line{Record: &l.record, Hash: l.hash})
		end = End{end.Records + 1, l.record.Seq}
	}
	for _, c := range checkpoints {
		put(Line{Checkpoint: &c.Signed})
	}
	put(Line{End: &end})
	return b.String()
}

func TestVerifyExport(t *testing.T) {
	l := chain(t, 6)
	four, six := sign(t, key(1), l[3], Plain, ""), sign(t, key(1), l[5], Plain, "the witness")
	whole := export(t, l, Header{First: 1}, four)
	part := export(t, l[2:5], Header{First: 3, Prev: l[1].hash, Partial: true}, four)
	line := func(n int) string { return strings.Split(whole, "\n")[n] + "\n" }
	for _, c := range []struct {
		name, text string
		more       []Found
		want       string
	}{
		{"whole", whole, nil, "ok 1-6 signed 4"},
		{"whole, with a witness", whole, []Found{six}, "ok 1-6 signed 6"},
		{"a part", part, nil, "ok 3-5 signed 4"},
		{"a part, with a witness that knows more", part, []Found{six}, "ok 3-5 signed 4"},
		{"a part that begins elsewhere", strings.Replace(part, l[1].hash.String(), l[0].hash.String(), 1), nil, "record 3: it, or what is before it, was changed"},
		{"the end is cut off", export(t, l[:5], Header{First: 1}, four), []Found{six}, "record 6: it is missing"},
		{"a record is changed", strings.Replace(whole, `"object":"pipeline/2"`, `"object":"pipeline/9"`, 1), nil, "record 3: it, or what"},
		{"a record is removed", strings.Replace(whole, line(4), "", 1), nil, "record 3: it is missing; after 2 comes 4"},
		{"a record is added", strings.Replace(whole, line(4), line(4)+line(4), 1), nil, "record 3: it comes after record 3"},
		{"a line is no JSON", strings.Replace(whole, line(4), "{\n", 1), nil, "record 3: it cannot be read: line 5: it is no line of an export"},
		{"a name twice", strings.Replace(whole, `"seq":3`, `"seq":3,"seq":3`, 1), nil, "record 3: it cannot be read: line 5"},
		{"another checkpoint", strings.Replace(whole, l[3].hash.String()+`","key"`, l[4].hash.String()+`","key"`, 1), nil, "record 4: the checkpoint of this record in the export was changed: its signature is wrong"},
		{"no end", strings.TrimSuffix(whole, line(9)), nil, "record 7: it cannot be read: line 10: the export has no end"},
		{"a wrong end", strings.Replace(whole, `"records":6`, `"records":7`, 1), nil, "record 7: it cannot be read: the export ends after 6 records at 6"},
		{"more after the end", whole + line(1), nil, "record 7: it cannot be read: line 11: it comes after the end"},
		{"no header", strings.Replace(whole, line(0), "", 1), nil, "the first record cannot be read: line 1: the header is the first line"},
		{"the header says another first", strings.Replace(whole, `"first":1`, `"first":2`, 1), nil, "the first record cannot be read: line 3: the first record is 1, and the header says 2"},
		{"empty", "", nil, "the first record cannot be read: line 1: the export has no end"},
		{"a long line", strings.Repeat("x", maxLine+1), nil, "the first record cannot be read: line 1: bufio.Scanner: token too long"},
	} {
		report, p, err := VerifyExport(func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(c.text)), nil }, nil, c.more)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprintf("ok %d-%d signed %d", report.First, report.Last, report.Signed)
		if p != nil {
			got = p.Error()
		}
		if !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: have %s\nwant %s", c.name, got, c.want)
		}
	}
	gone := errors.New("gone")
	if _, _, err := VerifyExport(func() (io.ReadCloser, error) { return nil, gone }, nil, nil); !errors.Is(err, gone) {
		t.Error(err)
	}
}

// FuzzParseLine: what is read as a line is written as one that is read as the same.
func FuzzParseLine(f *testing.F) {
	l := chain(f, 2)
	for _, line := range strings.Split(export(f, l, Header{First: 1, Partial: true}, sign(f, key(1), l[1], Cut, "")), "\n") {
		f.Add([]byte(line))
	}
	f.Add([]byte(`{"record":null}`))
	f.Add([]byte(`{"end":{"records":-1,"last":9223372036854775807}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		line, err := ParseLine(text)
		if err != nil {
			return
		}
		once, err := line.MarshalJSON()
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		again, err := ParseLine(once)
		if err != nil {
			t.Fatalf("%s becomes %s: %v", text, once, err)
		}
		if twice, err := again.MarshalJSON(); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%s becomes %s (%v)", once, twice, err)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	l := chain(b, 10_000)
	b.SetBytes(int64(len(l)))
	for b.Loop() {
		if got, _ := looked(nil, nil, l); got != "ok 1-10000 signed 0" {
			b.Fatal(got)
		}
	}
}
