package delivery

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Hash identifies content without telling it: 16 bytes of an HMAC-SHA-256 under the [Key] of a controller. The zero Hash
// stands for no content. Hashes of different keys cannot be compared.
type Hash [16]byte

// Key makes hashes. What is hashed may be secret and easy to guess, and hashes are kept on disk: without the key they
// tell nothing. The nil Key is for hashes that never leave the process.
type Key []byte

// Hash gives the hash of b.
func (k Key) Hash(b []byte) Hash {
	m := hmac.New(sha256.New, k)
	m.Write(b)
	return Hash(m.Sum(nil)[:len(Hash{})])
}

// String is the hash in hex; empty for the zero Hash.
func (h Hash) String() string {
	if h == (Hash{}) {
		return ""
	}
	return hex.EncodeToString(h[:])
}

// MarshalText implements [encoding.TextMarshaler].
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (h *Hash) UnmarshalText(text []byte) error {
	*h = Hash{}
	if len(text) == 0 {
		return nil
	}
	if len(text) != 2*len(h) {
		return fmt.Errorf("a hash has %d hex digits, not %d", 2*len(h), len(text))
	}
	if _, err := hex.Decode(h[:], text); err != nil {
		return fmt.Errorf("read hash: %w", err)
	}
	return nil
}
