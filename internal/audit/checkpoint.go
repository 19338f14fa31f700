package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Kinds of checkpoints.
const (
	Plain    = ""        // so it was
	Cut      = "cut"     // what is before the next record was removed in good order
	Restored = "restore" // the database was put back to this record: what earlier checkpoints say of later ones does not count
	Retiring = "retire"  // the last one of its key; Other is the key that follows
	Taking   = "take"    // the first one of its key; Other is the key before it, which has signed a [Retiring] one of the same record
	Lost     = "lost"    // Other is the key before it, which is lost: nobody but this key says so
)

// IsRotation tells whether a kind is of the checkpoints by which one key follows another.
func IsRotation(kind string) bool { return kind == Retiring || kind == Taking || kind == Lost }

// Checkpoint says how the chain was at a record.
type Checkpoint struct {
	Seq   int64
	Hash  Hash
	Time  time.Time // when it was made, in microseconds
	Kind  string
	Other string // a public key, as [FormatKey] writes it; of the kinds of [IsRotation]
}

// Signed is a checkpoint with whose it is.
type Signed struct {
	Checkpoint
	Key       ed25519.PublicKey
	Signature []byte
}

// checkpointWire is a checkpoint in JSON: what is signed.
type checkpointWire struct {
	Version int    `json:"v"`
	Kind    string `json:"kind"`
	Seq     int64  `json:"seq"`
	Hash    string `json:"hash"`
	Time    string `json:"time"`
	Key     string `json:"key"`
	Other   string `json:"other,omitempty"`
}

// signedWire is a signed checkpoint in JSON.
type signedWire struct {
	Checkpoint checkpointWire `json:"checkpoint"`
	Signature  string         `json:"signature"`
}

// domain begins what is signed, so that a signature is good for nothing else.
const domain = "keelson audit checkpoint v1\n"

// Sign signs a checkpoint.
func Sign(key ed25519.PrivateKey, c Checkpoint) (Signed, error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return Signed{}, errors.New("it is no ed25519 key")
	}
	s := Signed{Checkpoint: c, Key: public}
	text, err := s.message()
	if err != nil {
		return Signed{}, err
	}
	s.Signature = ed25519.Sign(key, text)
	return s, nil
}

func (s Signed) wire() checkpointWire {
	return checkpointWire{version, s.Kind, s.Seq, s.Hash.String(), s.Time.UTC().Format(timeFormat), base64.StdEncoding.EncodeToString(s.Key), s.Other}
}

func (s Signed) message() ([]byte, error) {
	if err := checkNumbers(s.Checkpoint.Seq); err != nil {
		return nil, err
	}
	text, err := canonical(s.wire())
	return append([]byte(domain), text...), err
}

// Check tells whether the signature is that of the key that the checkpoint names.
func (s Signed) Check() error {
	text, err := s.message()
	if err != nil {
		return err
	}
	if len(s.Key) != ed25519.PublicKeySize || !ed25519.Verify(s.Key, text, s.Signature) {
		return errors.New("its signature is wrong")
	}
	return nil
}

// MarshalJSON implements [encoding/json.Marshaler]: canonical JSON.
func (s Signed) MarshalJSON() ([]byte, error) {
	return canonical(signedWire{s.wire(), base64.StdEncoding.EncodeToString(s.Signature)})
}

// maxCheckpoint bounds what is read of a checkpoint, in bytes.
const maxCheckpoint = 4 << 10

// ParseSigned reads a signed checkpoint. It does not look at the signature.
func ParseSigned(text []byte) (Signed, error) {
	if len(text) > maxCheckpoint {
		return Signed{}, fmt.Errorf("it is no checkpoint: it has %d bytes", len(text))
	}
	var w signedWire
	if err := decodeCanonical(text, &w); err != nil {
		return Signed{}, fmt.Errorf("it is no checkpoint: %w", err)
	}
	return w.signed()
}

func (w signedWire) signed() (Signed, error) {
	c := w.Checkpoint
	if c.Version != version {
		return Signed{}, fmt.Errorf("it is a checkpoint of version %d, and this program knows %d: use a newer one", c.Version, version)
	}
	hash, err := ParseHash(c.Hash)
	at, terr := parseTime(c.Time)
	key, kerr := decode64(c.Key)
	signature, serr := decode64(w.Signature)
	if len(key) != ed25519.PublicKeySize || len(signature) != ed25519.SignatureSize {
		err = errors.Join(err, errors.New("its key or its signature is missing"))
	}
	if IsRotation(c.Kind) {
		_, oerr := ParseKey(c.Other)
		err = errors.Join(err, oerr)
	} else if c.Other != "" {
		err = errors.Join(err, errors.New("it names another key"))
	}
	if err := errors.Join(err, terr, kerr, serr, checkNumbers(c.Seq)); err != nil {
		return Signed{}, fmt.Errorf("it is no checkpoint: %w", err)
	}
	return Signed{Checkpoint{c.Seq, hash, at, c.Kind, c.Other}, key, signature}, nil
}

func decode64(text string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(text)
	if err == nil && base64.StdEncoding.EncodeToString(b) != text {
		err = fmt.Errorf("%q is not base64 as it should be", clean(text, 100))
	}
	return b, err
}

// KeyID names a public key for people: the beginning of its SHA-256.
func KeyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// ParseKey reads a public key in base64, as [FormatKey] writes it.
func ParseKey(text string) (ed25519.PublicKey, error) {
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(b) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%q is no public key: it should have %d bytes in base64", clean(text, 100), ed25519.PublicKeySize)
	}
	return b, nil
}

// FormatKey writes a public key in base64.
func FormatKey(key ed25519.PublicKey) string { return base64.StdEncoding.EncodeToString(key) }

// Rotate signs the two checkpoints by which a key follows another one at a record: the old key names the new one, and the new one the old.
func Rotate(old, fresh ed25519.PrivateKey, c Checkpoint) (retiring, taking Signed, err error) {
	before, ok := old.Public().(ed25519.PublicKey)
	after, also := fresh.Public().(ed25519.PublicKey)
	if !ok || !also {
		return Signed{}, Signed{}, errors.New("it is no ed25519 key")
	}
	c.Kind, c.Other = Retiring, FormatKey(after)
	if retiring, err = Sign(old, c); err != nil {
		return Signed{}, Signed{}, err
	}
	c.Kind, c.Other, c.Time = Taking, FormatKey(before), c.Time.Add(time.Microsecond)
	taking, err = Sign(fresh, c)
	return retiring, taking, err
}

// Same tells whether two checkpoints are one and the same.
func (s Signed) Same(o Signed) bool {
	return s.Checkpoint.Seq == o.Checkpoint.Seq && s.Kind == o.Kind && s.Other == o.Other && s.Hash == o.Hash && s.Time.Equal(o.Time) && bytes.Equal(s.Key, o.Key) && bytes.Equal(s.Signature, o.Signature)
}
