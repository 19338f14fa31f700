package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gowebpki/jcs"

	"keelson.dev/keelson/internal/redact"
)

// version is of the form of records and checkpoints. Another form gets another number, as hashes depend on it.
const version = 1

// What has become of what is recorded.
const (
	Asked   = "asked"   // it is kept and will be done; where it is refused after all, a record of its own says so
	Done    = "done"    //
	Refused = "refused" // the one who asked may not, or it cannot be done as things are
	Failed  = "failed"  // it was tried
)

// Self is the actor of what Keelson does by itself. No person has a name that begins so.
const Self = "system:keelson"

// Bounds of an [Entry], in bytes.
const (
	maxName   = 300
	maxDetail = 1000
)

// Entry is what is to be recorded.
type Entry struct {
	Actor       string // the name of whoever did it; empty: [Self]
	Action      string // what was done, as noun.verb: pipeline.play
	Object      string // to what, as kind/name: pipeline/12/deploy, repository/team/shop, Kustomization/shop/web
	Project     string // path; empty: none
	Environment string // empty: none
	Outcome     string // [Asked], [Done], [Refused] or [Failed]; empty: Done
	Detail      string // what else is worth knowing; no names of people, as they can be erased
	Address     string // of the request; empty: there was none
	About       string // the name of a person whom it is about; their id is put after Object
	Unproven    bool   // Actor is a name that somebody has given themselves: it is kept only where it is known already
}

// Clean gives the entry as it may be kept: bounded, in one line each, without credentials.
func (e Entry) Clean() Entry {
	for _, field := range []*string{&e.Actor, &e.Action, &e.Object, &e.Project, &e.Environment, &e.Outcome, &e.Address, &e.About} {
		*field = clean(*field, maxName)
	}
	e.Detail = clean(redact.Text(e.Detail), maxDetail)
	if e.Actor == "" {
		e.Actor = Self
	}
	if e.Outcome == "" {
		e.Outcome = Done
	}
	return e
}

// clean makes a text valid, of one line, and not longer than most.
func clean(text string, most int) string {
	text = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || c == '\u2028' || c == '\u2029' {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(text, "\uFFFD"))
	if len(text) <= most {
		return text
	}
	const more = "…"
	end := most - len(more)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + more
}

// Record is a link of the chain.
type Record struct {
	Seq         int64     // 1, 2, 3, …
	Time        time.Time // in microseconds; not before that of the record before it
	Actor       string    // id of a person ([PersonID]), or [Self]
	Action      string
	Object      string
	Project     string
	Environment string
	Outcome     string
	Detail      string
	Address     string // id of an address; empty: none
}

// Urgent tells whether a record should be signed at once, and not some time later: what was refused, what people approve, confirm or roll back, and
// what changes who may do what, or the audit itself.
func (r Record) Urgent() bool {
	if r.Outcome == Refused {
		return true
	}
	noun, verb, _ := strings.Cut(r.Action, ".")
	switch noun {
	case "user", "token", "role", "group", "member", "store":
		return true
	case "audit":
		return verb != "export"
	}
	switch verb {
	case "play", "approve", "unapprove", "reject", "confirm", "rollback", "merge", "promote":
		return true
	}
	return false
}

// wire is a record in JSON: always with all fields.
type wire struct {
	Version     int    `json:"v"`
	Seq         int64  `json:"seq"`
	Time        string `json:"time"`
	Actor       string `json:"actor"`
	Action      string `json:"action"`
	Object      string `json:"object"`
	Project     string `json:"project"`
	Environment string `json:"environment"`
	Outcome     string `json:"outcome"`
	Detail      string `json:"detail"`
	Address     string `json:"address"`
}

// timeFormat has microseconds, always all of them.
const timeFormat = "2006-01-02T15:04:05.000000Z"

// parseTime reads a time in exactly this format: [time.Parse] takes others too.
func parseTime(text string) (time.Time, error) {
	at, err := time.Parse(timeFormat, text)
	if err != nil || at.Format(timeFormat) != text {
		return at, fmt.Errorf("%q is no time as 2026-03-01T12:00:00.000000Z", clean(text, 100))
	}
	return at, nil
}

// Canonical is the record in canonical JSON: what is hashed. The error is about a text that is not UTF-8.
func (r Record) Canonical() ([]byte, error) {
	for _, text := range []string{r.Actor, r.Action, r.Object, r.Project, r.Environment, r.Outcome, r.Detail, r.Address} {
		if !utf8.ValidString(text) {
			return nil, fmt.Errorf("%q is not UTF-8", text)
		}
	}
	if err := checkNumbers(r.Seq); err != nil {
		return nil, err
	}
	return canonical(r.wire())
}

// checkNumbers refuses what JSON does not hold exactly: numbers there are IEEE 754 doubles (RFC 8785, section 3.2.2.3).
func checkNumbers(numbers ...int64) error {
	for _, n := range numbers {
		if n < 0 || n >= 1<<53 {
			return fmt.Errorf("the number %d is not from 0 to 2⁵³-1", n)
		}
	}
	return nil
}

func (r Record) wire() wire {
	return wire{
		version, r.Seq, r.Time.UTC().Format(timeFormat), r.Actor, r.Action, r.Object, r.Project, r.Environment, r.Outcome, r.Detail, r.Address,
	}
}

func canonical(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return jcs.Transform(text)
}

// decodeCanonical reads JSON into v, and refuses what comes to another canonical JSON than v does: other spellings of names, names that
// come twice, fields that are not known.
func decodeCanonical(text []byte, v any) error {
	if err := json.Unmarshal(text, v); err != nil {
		return err
	}
	want, err := canonical(v)
	if err != nil {
		return err
	}
	has, err := jcs.Transform(text)
	if err != nil {
		return err
	}
	if string(has) != string(want) {
		return errors.New("it has other fields than it should have")
	}
	return nil
}

// ParseRecord reads what [Record.Canonical] has written, also with other white space and order.
func ParseRecord(text []byte) (Record, error) {
	var w wire
	if err := decodeCanonical(text, &w); err != nil {
		return Record{}, fmt.Errorf("it is no record: %w", err)
	}
	return w.record()
}

func (w wire) record() (Record, error) {
	at, err := parseTime(w.Time)
	if err != nil {
		return Record{}, fmt.Errorf("it is no record: %w", err)
	}
	if w.Version != version {
		return Record{}, fmt.Errorf("it is a record of version %d, and this program knows %d: use a newer one", w.Version, version)
	}
	if err := checkNumbers(w.Seq); err != nil {
		return Record{}, fmt.Errorf("it is no record: %w", err)
	}
	return Record{w.Seq, at, w.Actor, w.Action, w.Object, w.Project, w.Environment, w.Outcome, w.Detail, w.Address}, nil
}

// Hash is SHA-256 over the hash before it and a record. The zero Hash is before the first record.
type Hash [sha256.Size]byte

// String is the hash in hex.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// ParseHash reads a hash in hex, or as its bytes.
func ParseHash(text string) (h Hash, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(h) || text != strings.ToLower(text) {
		return h, fmt.Errorf("%q is no hash of %d bytes in hex", clean(text, 100), len(h))
	}
	copy(h[:], b)
	return h, nil
}

// Next is the hash of a record that follows another one.
func Next(prev Hash, r Record) (Hash, error) {
	text, err := r.Canonical()
	if err != nil {
		return Hash{}, err
	}
	return sha256.Sum256(append(prev[:], text...)), nil
}

// PersonID and AddressID are the ids that stand for a person and for an address; random is at least 16 random bytes.
func PersonID(random []byte) string  { return "p_" + hex.EncodeToString(random) }
func AddressID(random []byte) string { return "a_" + hex.EncodeToString(random) } //nolint:revive // see PersonID
